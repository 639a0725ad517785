"""Readers of what lies in a build context or a rootfs: schemas, values, locks, kustomizations, launch commands, archives of images."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from harness.build import expected_values, image_lock, kustomize, launch_commands, values_schema
from harness.build.declared_images import GatheredImages, RootfsFile
from harness.build.expected_values import ImageValues, TemplateFile
from harness.build.launch_commands import LaunchCommand
from harness.clusterfile import foreign
from harness.clusterfile import parse as clusterfile_parse
from harness.clusterfile.yaml_nodes import FaultReport, documents
from harness.errors import InputError
from harness.oci.archive import docker_archive
from harness.oci.model import digest_of
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.untrusted import Pattern
from tests.fuzz.target import DIGEST, Target, repaired, text_of, words_of
from tests.hostile import images


def rootfs_of(data: bytes, folder: Path) -> tuple[str, dict[str, RootfsFile]]:
    """A text and files behind it: a line ``=== PATH`` begins a file. Paths that leave the folder, or that are two things at once, are left
    out.
    """
    text, *parts = text_of(data).split("\n=== ")
    files: dict[str, RootfsFile] = {}
    for part in parts[:50]:
        name, _, content = part.partition("\n")
        path = Path(folder, name)
        if name in files or ".." in path.parts or name.startswith("/") or not name.isprintable() or len(name) > 100 or path == folder:
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        except OSError:
            continue
        path_in_rootfs = path.relative_to(folder).as_posix()
        files[path_in_rootfs] = RootfsFile(path_in_rootfs, path, path_in_rootfs)
    return text, files


def read_values_schema(data: bytes, _: Path) -> None:
    text = text_of(data)
    described = values_schema.read(text)
    for value in described.values():
        for given in (*value.examples, *([value.default] if value.default is not None else [])):
            if value.type.problem(given) is not None:
                raise AssertionError("a default or an example is refused by its own type")
        value.type.problem("a" * 1000)
    files = [TemplateFile("manifests/a.yaml", "".join(f"a: {{{{ {name} }}}}\n" for name in described), "a.yaml")]
    _check_values(expected_values.find(files, {}, (), (text, "schema")))


def read_values(data: bytes, _: Path) -> None:
    """Files of an image in which values are looked for."""
    text = text_of(data)
    files = [TemplateFile(path, text, path) for path in ("manifests/a.yaml", "etc/a.json", "etc/a.conf", "etc/a.tmpl")]
    _check_values(expected_values.find(files, {"A": "b"}))


def _check_values(found: ImageValues) -> None:
    if ImageValues.from_json(json.loads(json.dumps(found.to_json()))) != found:
        raise AssertionError("what was recorded is read as something else")
    for value in found.values:
        stand_in = found.stand_ins.get(value.name)
        if stand_in is not None and value.type.problem(stand_in) is not None:
            raise AssertionError("a stand-in is refused by the type of its value")
        if not str(value).isprintable():
            raise AssertionError("a value is shown with control characters")


def read_pattern(data: bytes, _: Path) -> None:
    """A pattern, and a text on the lines behind it."""
    pattern, _separator, text = text_of(data).partition("\n")
    Pattern(pattern).matches(text)


def read_image_lock(data: bytes, folder: Path) -> None:
    path = folder / image_lock.NAME
    path.write_bytes(data)
    locked = image_lock.read(path)
    image_lock.write(path, locked)
    if image_lock.read(path) != locked:
        raise AssertionError("what was written is read as something else")


def read_kustomization(data: bytes, folder: Path) -> None:
    _, files = rootfs_of(b"\n" + data, folder)
    gathered = GatheredImages()
    kustomize.read_kustomization(gathered, "app", files, {"A": "b"}, kubectl=None)
    for image in (*gathered.images, *gathered.possible):
        if str(Reference.parse(image.name)) != image.name:
            raise AssertionError("the name of an image is not canonical")
    if gathered.faults:
        raise InputError(gathered.faults)


def read_launch(data: bytes, folder: Path) -> None:
    text, files = rootfs_of(data, folder)
    launch = [LaunchCommand(line, "Kubefile:1") for line in text.split("\n\n")]
    reading = launch_commands.read_launch_commands(launch, files, {"A": "b"})
    named = [*reading.manifests, *reading.kustomizations, *(release.chart for release in reading.releases)]
    named += [path for release in reading.releases for option, path in release.values if option == "values"]
    if any(path.startswith(("/", "../")) for path in named):
        raise AssertionError("a path that is read is not in the rootfs")


def read_context_archive(data: bytes, folder: Path) -> None:
    path = folder / "images.tar"
    path.write_bytes(repaired(data))
    listed = docker_archive.listing(path)
    if listed is None:
        return
    store = Store(folder / "store")
    with store.shared_lease():
        for name in docker_archive.take_images(store, path, listed):
            Reference.parse(name)


def read_foreign_clusterfile(data: bytes, _: Path) -> None:
    text = text_of(data)
    other = foreign.tool_of(documents(text, FaultReport("Clusterfile")))
    if other is None:
        raise InputError([])
    try:
        clusterfile_parse.parse(text, "Clusterfile")
    except InputError as wrong:
        if len(wrong.faults) == 1 and other[0].name in wrong.faults[0].message:
            return
    raise AssertionError("the file of another tool is not one fault that names it")


# ---- seeds ------------------------------------------------------------------------------------------------------------

_SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["Port", "Phrase"],
    "properties": {
        "Port": {"type": "integer", "minimum": 1, "maximum": 65535, "description": "where it listens", "examples": [8080]},
        "Site": {"type": "string", "pattern": "^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$", "default": "example"},
        "Mode": {"enum": ["fast", "safe"], "default": "fast"},
        "Share": {"type": "number", "minimum": 0, "maximum": 1.5, "default": 0.5},
        "Debug": {"type": "boolean", "default": False},
        "Phrase": {"type": "string", "writeOnly": True, "examples": ["a b"]},
    },
}
_VALUES = (
    b"""kind: Service
metadata: {name: a, annotations: {b: {{ Note }}}}
spec:
  ports:
  - {port: {{ Port }}, nodePort: {{ NodePort }}}
  replicas: {{ Count }}
  image: {{ Image }}
""",
    b"{{ Site }} {{ .Site }} '{{ Realm }}' {{ A }} {{{ x }}} {{ if .Debug }}a{{ else }}{{ .Port | quote }}{{ end }}\n",
)
_KUSTOMIZATION = b"""=== app/kustomization.yaml
resources: [web.yaml, ../base]
images: [{name: nginx, newName: registry.example/nginx, newTag: "2"}, {name: redis, digest: %s}]
patches: [{path: patch.yaml}, {patch: "kind: Pod\\nspec: {containers: [{image: a:1}]}"}]
configMapGenerator: [{name: c, files: [a=web.yaml], envs: [e]}]
=== app/web.yaml
kind: Pod
spec: {containers: [{name: a, image: nginx:1}, {name: b, image: "redis"}]}
=== app/patch.yaml
kind: Pod
spec: {initContainers: [{image: busybox}]}
=== base/kustomization.yaml
bases: [../app]
patchesStrategicMerge: [x.yaml, "a:\\n  image: b"]
""" % DIGEST.encode()
_LAUNCH = b"""cd application/apps/web && helm upgrade --install web -f values.yaml --set a=1,b.c=$A -n shop . | kubectl apply -f -

export B=${A:-x}; B=$B.yaml; cat manifests/*.yaml < manifests/$B | envsubst | kubectl apply -R -f - -f manifests

if true; then sh -c 'kubectl apply -k app'; bash scripts/run.sh; kubectl set image deploy/a a=nginx:1; fi # don't
=== application/apps/web/Chart.yaml
name: web
=== application/apps/web/values.yaml
a: b
=== manifests/b.yaml
kind: Pod
=== app/kustomization.yaml
resources: []
=== scripts/run.sh
#!/bin/sh
cd "$(dirname "$0")"
kubectl create \\
  -f ../manifests
. scripts/run.sh
"""
_FOREIGN = (
    b"apiVersion: k0sctl.k0sproject.io/v1beta1\nkind: Cluster\nspec: {hosts: [{role: controller, ssh: {address: 10.0.0.1}}]}\n",
    b"apiVersion: kubekey.kubesphere.io/v1alpha2\nkind: Cluster\nspec: {hosts: [], roleGroups: {etcd: [a]}}\n",
    b"kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes: [{role: control-plane}]\n",
    b"apiVersion: apps.sealos.io/v1beta1\nkind: Cluster\nspec: {hosts: [{ips: ['10.0.0.1:22'], roles: [master]}]}\n",
    b"nodes: [{address: 10.0.0.1}]\nservices: {}\n---\ntls-san: [a]\n",
)


def _docker_archive() -> bytes:
    layer = images.layer({"a": "b"})
    config = {**images.PLATFORM, "rootfs": {"type": "layers", "diff_ids": [digest_of(layer), digest_of(layer)]}}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        images.add(tar, "a/layer.tar", layer)
        images.add(tar, "b/layer.tar", type=tarfile.SYMTYPE, linkname="../a/layer.tar")
        images.add(tar, "c.json", images.dumped(config))
        listed = [{"Config": "c.json", "RepoTags": ["web:1", "a.example/b:2"], "Layers": ["a/layer.tar", "b/layer.tar"]}]
        images.add(tar, "manifest.json", images.dumped(listed))
    return stream.getvalue()


def _oci_archive() -> bytes:
    layer = images.layer({"a": "b"})
    blobs: list[bytes] = [layer, images.dumped({**images.PLATFORM, "rootfs": {"type": "layers", "diff_ids": [digest_of(layer)]}})]

    def descriptor(media_type: str, data: bytes) -> dict[str, object]:
        return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}

    manifest = images.dumped({
        "schemaVersion": 2, "mediaType": images.MANIFEST, "config": descriptor(images.CONFIG, blobs[1]),
        "layers": [descriptor(images.LAYER, layer)],
    })  # fmt: skip
    name = {"annotations": {"org.opencontainers.image.ref.name": "web:1"}}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        images.add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        images.add(tar, "index.json", images.dumped({"schemaVersion": 2, "manifests": [{**descriptor(images.MANIFEST, manifest), **name}]}))
        for data in (*blobs, manifest):
            images.add(tar, f"blobs/sha256/{digest_of(data)[7:]}", data)
    return stream.getvalue()


ALL: tuple[Target, ...] = (
    Target(
        "schema",
        "harness/build/values_schema.py",
        read_values_schema,
        (json.dumps(_SCHEMA, indent=1).encode(),),
        words_of(
            '"type": "integer" "number" "pattern": "enum": "default": "examples": "minimum": "required": "writeOnly": NaN 1e999 [a-z]+'
        ),
    ),
    Target(
        "values",
        "harness/build/expected_values.py",
        read_values,
        _VALUES,
        words_of("{{ }} {{{ {{. PodCIDR HostIP port: nodePort: cpu: memory: replicas: clusterIP: | > - ' \" {{- -}} if end"),
    ),
    Target(
        "pattern",
        "harness/untrusted/pattern.py",
        read_pattern,
        (
            b"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$\nexample",
            b"(a+)+$\n" + b"a" * 60 + b"!",
            rb"(?:\d{1,3}\.){3}\d{1,3}|x\w*[^\s\]-]" + b"\n10.0.0.1",
        ),
        words_of(r"( ) (?: | * + ? {1,1000} {1000} [^ ] \d \W \u [a- ^ $ . (a*)* (a|a)*"),
        expected=(ValueError,),
    ),
    Target(
        "lock",
        "harness/build/image_lock.py",
        read_image_lock,
        (f"# head\ndocker.io/library/nginx:1 {DIGEST}\nb.example:5000/a {DIGEST}\n".encode(),),
        words_of(f"{DIGEST} sha256: @ : / # \u2028 \x0c \x85"),
    ),
    Target(
        "kustomize",
        "harness/build/kustomize.py",
        read_kustomization,
        (_KUSTOMIZATION,),
        words_of("resources: bases: components: images: newName: digest: patches: &a *a <<: --- https://a ../app . {} [] !!set === app/"),
    ),
    Target(
        "launch",
        "harness/build/launch_commands.py",
        read_launch,
        (_LAUNCH,),
        words_of(
            "$A ${A:-b} $( ` ' \" | && ; < > << \\ -f - -R cd .. / A=$A$A sh -c bash . helm kubectl kustomize build --set --values * ? ["
        ),
    ),
    Target(
        "docker-archive",
        "harness/oci/archive/docker_archive.py",
        read_context_archive,
        (_docker_archive(), _oci_archive()),
        words_of('ustar manifest.json index.json layer.tar ../ "RepoTags": "Layers": "Config": 00000000000 77777777777 path= linkpath='),
    ),
    Target(
        "foreign",
        "harness/clusterfile/foreign.py",
        read_foreign_clusterfile,
        _FOREIGN,
        words_of("apiVersion: kind: --- nodes: services: machine: cluster: version: all: tls-san: &a *a <<: {} [] k3d.io cattle.io"),
    ),
)

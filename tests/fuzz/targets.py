"""Everything that reads what others wrote, as functions of bytes. A target passes when it returns or raises an expected error.

Readers of a build context are in ``context_targets``.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import html as html_text
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from harness import cloudimage, kubefile, templates, untrusted
from harness.build import discover, image_lists
from harness.cloudimage import conformance, site_index
from harness.clusterfile import parse as clusterfile_parse
from harness.clusterfile import secrets, serialize, write
from harness.errors import InputError, SlipwayError, UsageError
from harness.kubefile import checks, ignore, launch_commands, version_range, words
from harness.lifecycle.checks.preflight import gather, probes
from harness.lifecycle.cluster import redaction, request
from harness.nodes import Node
from harness.oci.archive.load import load
from harness.oci.layer.extract import Extraction
from harness.oci.model import Descriptor
from harness.oci.reference import Reference
from harness.oci.registry import config
from harness.oci.statement import IN_TOTO, require_subject
from harness.oci.store import Store
from harness.process import ProcessResult
from harness.testkit.e2e import junit
from harness.trust import policy, results
from harness.website import readme
from tests.fuzz import context_targets
from tests.fuzz.target import DIGEST, Target, project_files, repaired, text_of, words_of
from tests.hostile import images
from tests.hostile.answers import facts

_FUZZED = "localhost/fuzz:latest"


# ---- texts of users and of images -------------------------------------------------------------------------------------


def read_kubefile(data: bytes, folder: Path) -> None:
    parsed = kubefile.parse(text_of(data), "Kubefile", build_args={"A": "b"})
    checks.context_faults(parsed.path, parsed.instructions, folder)
    launch_commands.with_releases(parsed.commands, {"charts/a/Chart.yaml"})
    _ = parsed.launch, parsed.command_arguments


def read_junit(data: bytes, _: Path) -> None:
    junit.read(data, what="report")


def read_ignore_file(data: bytes, folder: Path) -> None:
    (folder / ".dockerignore").write_bytes(data)
    rules = ignore.read(folder)
    for path in ("a", "a/b/c.key", "/".join("ab" * 50)):
        rules.excluding(path)


def read_words(data: bytes, _: Path) -> None:
    text = text_of(data)
    with contextlib.suppress(ValueError):
        words.json_list(text)
    try:
        for word in words.split(text):
            words.expand(word, {"A": "b"})
        words.substitute(text, {"A": "b"})
        version_range.check(text)
    except ValueError:
        pass  # what these functions say of a text that is none


def read_clusterfile(data: bytes, _: Path) -> None:
    with contextlib.suppress(SlipwayError):
        request.machines(clusterfile_parse.parse(text_of(data), "Clusterfile", stored=True), "password")
    found = clusterfile_parse.parse(text_of(data), "Clusterfile", env={})
    again = clusterfile_parse.parse(write.write(found), "Clusterfile")
    if clusterfile_parse.parse(write.write(again), "Clusterfile") != again:
        raise AssertionError("what was written is read as another")
    # What the cluster keeps must be readable to every later verb.
    clusterfile_parse.parse(write.redacted(found), "Clusterfile", stored=True)


def read_hooks(data: bytes, _: Path) -> None:
    clusterfile_parse.image_hooks({"plugins/a.yaml": data})


def read_template(data: bytes, _: Path) -> None:
    text = text_of(data)
    for path in ("etc/a.conf", "etc/a.tmpl", "etc/a.j2"):
        try:
            templates.render(text, {"A": "b", "Name": "a\\b'\"c", "N": "5", "Empty": ""}, path)
        except SlipwayError:
            continue


def read_documents(data: bytes, folder: Path) -> None:
    """YAML of a rootfs, in which images are looked for."""
    for name in ("manifests/a.yaml", "imageList", "imageListWithAuth.yaml", "charts/c/Chart.yaml"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    readers: tuple[Callable[[], object], ...] = (
        lambda: discover.declared(folder),
        lambda: image_lists.read_image_list_with_auth(folder / "imageListWithAuth.yaml"),
    )
    refused = 0
    for read in readers:
        try:
            read()
        except SlipwayError:
            refused += 1
    if refused == len(readers):
        raise InputError([])


def read_yaml(data: bytes, _: Path) -> None:
    found = untrusted.yaml_documents(data, what="input")
    if len(repr(found)) > 100 * (1 << 20):
        raise AssertionError("spells out to more than the limit")


def read_formats(data: bytes, _: Path) -> None:
    for read in (serialize.read_documents, serialize.read_toml):
        try:
            read(text_of(data))
        except (ValueError, SlipwayError):
            continue


def read_json(data: bytes, _: Path) -> None:
    untrusted.json_document(data, what="input")


def read_reference(data: bytes, _: Path) -> None:
    text = text_of(data)
    for parse in (Reference.parse, config.Site.parse):
        try:
            parse(text)
        except (ValueError, SlipwayError):
            continue


def read_policy(data: bytes, folder: Path) -> None:
    found = policy.parse(text_of(data), folder / "policy.yaml")
    found.rule(Reference.parse("docker.io/library/web"))


def read_statement(data: bytes, _: Path) -> None:
    """A statement as it is, and in an envelope, as far as people see it."""
    envelope = {"payloadType": IN_TOTO, "payload": base64.b64encode(data).decode(), "signatures": []}
    found = require_subject(json.dumps(envelope).encode(), DIGEST)
    results.faults(found.predicate)
    results.told(found.predicate)
    with contextlib.suppress(SlipwayError):
        results.joined([("a", found), ("b", found)])


def read_envelope(data: bytes, _: Path) -> None:
    require_subject(data, DIGEST)


def read_registries(data: bytes, folder: Path) -> None:
    path = folder / "registries.conf"
    path.write_bytes(data)
    found = config.load(path)
    found.endpoints(Reference.parse("docker.io/library/web"))


def read_redaction(data: bytes, _: Path) -> None:
    text = text_of(data)
    redaction.text(text)
    secrets.holds_secret(text)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return
    if isinstance(value, Mapping | list):
        redaction.resource(value)


def read_kubeconfig(data: bytes, _: Path) -> None:
    made = untrusted.kube_identity(data, what="input").kubeconfig(server="https://127.0.0.1:6443", cluster="default")
    if any(word in made for word in ("exec", "proxy-url", "insecure")):
        raise AssertionError("takes more than an identity")


# ---- machines ---------------------------------------------------------------------------------------------------------


class _Spoken:
    """A machine that has one answer."""

    name = address = "10.0.0.1"

    def __init__(self, text: str) -> None:
        self._text = text

    def run(self, command: str, **_: object) -> ProcessResult:
        return ProcessResult((), 0, self._text, "")


def read_facts(data: bytes, _: Path) -> None:
    told = gather.ask(cast("Node", _Spoken(text_of(data))))
    target = gather.Target("10.0.0.1", "control-plane", told)
    assert told.platform is not None
    told.link("10.0.0.1")
    gather.ours([target], "default")


def read_site_index(data: bytes, _: Path) -> None:
    index = site_index.SiteIndex.parse(data, "index.json")
    if site_index.SiteIndex.parse(index.data(), "index.json") != index:
        raise AssertionError("an index is read as something else than was written")


_ELEMENTS = {
    *("a", "blockquote", "br", "code", "em", "h3", "h4", "h5", "h6", "hr", "li", "ol", "p", "pre", "strong", "ul"),
}
"""What a README may become."""


def read_readme(data: bytes, _: Path) -> None:
    html = str(readme.render(text_of(data)))
    elements = set(re.findall(r"</?([^\s/>]+)", html))
    if elements - _ELEMENTS:
        raise AssertionError(f"a README becomes {elements - _ELEMENTS}")
    if any(not readme.is_web_link(html_text.unescape(address)) for address in re.findall(r'href="([^"]*)"', html)):
        raise AssertionError("a README links to something else than the web")


def read_trial(data: bytes, _: Path) -> None:
    text = text_of(data)
    probes.parse(text)
    probes.listening(text)


# ---- images -----------------------------------------------------------------------------------------------------------

_TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "link": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
    "pipe": tarfile.FIFOTYPE,
    "sparse": tarfile.GNUTYPE_SPARSE,
    "next": b"",
}


def layers_of(data: bytes) -> list[bytes]:
    """Layers written down: a line is ``TYPE MODE NAME TARGET``; ``next`` begins another layer."""
    layers: list[list[tuple[str, dict[str, Any]]]] = [[]]
    for line in text_of(data).split("\n")[:200]:
        kind, mode, name, target = (*line.split(" ", maxsplit=3), "", "", "", "")[:4]
        if kind == "next":
            layers.append([])
        elif kind in _TYPES:
            bits = int(mode, 8) & 0o7777 if mode.isascii() and mode.isdigit() and set(mode) <= set("01234567") and len(mode) < 9 else 0o755
            content = {"data": target.encode(errors="replace")} if kind == "file" else {"linkname": target}
            layers[-1].append((name, {"type": _TYPES[kind], "mode": bits, **content}))
    return [images.layer({}, entries) for entries in layers[:6]]


def _store(folder: Path) -> Store:
    return Store(folder / "store")


def lay_layers(data: bytes, folder: Path) -> None:
    store = _store(folder)
    tree = folder / "tree"
    tree.mkdir()
    extraction = Extraction(tree)
    for layer in layers_of(data):
        digest, size = store.put(layer)
        extraction.lay(store, Descriptor(images.LAYER, digest, size))
    extraction.finish()


def lay_tar(data: bytes, folder: Path) -> None:
    store = _store(folder)
    tree = folder / "tree"
    tree.mkdir()
    extraction = Extraction(tree)
    digest, size = store.put(repaired(data))
    extraction.lay(store, Descriptor(images.LAYER, digest, size))
    extraction.finish()
    if sum(path.lstat().st_blocks * 512 for path in tree.rglob("*")) > (64 << 20):
        raise AssertionError("an input of some kilobytes fills the disk")


def load_archive(data: bytes, folder: Path) -> None:
    store = _store(folder)
    load(store, io.BytesIO(repaired(data)), admit=functools.partial(policy.Gate().admit, store))
    for name in store.names():
        try:
            cloudimage.read(store, name)
        except SlipwayError:
            continue


def check_archive(data: bytes, folder: Path) -> None:
    os.environ["SLIPWAY_CACHE"] = str(folder / "cache")
    (folder / "image.tar").write_bytes(repaired(data))
    json.dumps(conformance.check(_store(folder), str(folder / "image.tar")).to_json())


def check_image(data: bytes, folder: Path) -> None:
    """As read_image(), of which no content is an error."""
    os.environ["SLIPWAY_CACHE"] = str(folder / "cache")
    store = _store(folder)
    _put_documents(data, store)
    report = conformance.check(store, _FUZZED)
    if not all(line.isprintable() for result in report.results for line in result.evidence):
        raise AssertionError("evidence steers a terminal")
    json.dumps(report.to_json())


def read_image(data: bytes, folder: Path) -> None:
    """Documents of a CloudImage, given as JSON by name; digests are made right. See ``_DOCUMENTS``."""
    store = _store(folder)
    _put_documents(data, store)
    image = cloudimage.read(store, _FUZZED)
    _ = image.size, image.platforms[0].info.to_json(), image.platforms[0].images.to_json()


def _put_documents(data: bytes, store: Store) -> None:
    """Name an image of these documents, see read_image()."""

    def put(value: Any) -> dict[str, Any]:
        content = value if isinstance(value, bytes) else json.dumps(value).encode(errors="surrogatepass")
        digest, size = store.put(content)
        return {"digest": digest, "size": size}

    # What only a parser of its own could put together goes in as it is.
    given: dict[str, Any] = {"index": data}
    if not re.search(rb"[\[{]{64}", re.sub(rb"\s", b"", data)):
        with contextlib.suppress(ValueError, RecursionError):
            parsed = json.loads(data)
            given = parsed if isinstance(parsed, dict) else given

    def filled(value: Any, made: Mapping[str, Mapping[str, Any]]) -> Any:
        """Descriptors whose digest is the name of a document are those of that document."""
        if isinstance(value, list):
            return [filled(each, made) for each in value]
        if not isinstance(value, dict):
            return value
        name = value.get("digest")
        known = dict(made.get(name, {})) if isinstance(name, str) else {}
        return {key: filled(each, made) for key, each in value.items()} | (
            known if "size" in value else {"digest": known["digest"]} if known else {}
        )

    made: dict[str, dict[str, Any]] = {"LAYER": dict(zip(("digest", "size"), store.put(images.layer(images.BASIC)), strict=True))}
    for name in ("CONFIG", "ROOTFS", "SET", "IMAGES", "index"):
        document = filled(given.get(name), made)
        if isinstance(document, dict) and isinstance(document.get("annotations"), dict):
            notes = document["annotations"]
            if not isinstance(notes.get("dev.slipway.cloudimage"), str | None):
                notes["dev.slipway.cloudimage"] = json.dumps(notes["dev.slipway.cloudimage"])
        made[name] = put(document)
    index = Descriptor(images.INDEX, made["index"]["digest"], made["index"]["size"])
    store.tag(_FUZZED, index)


def _descriptor(media_type: str, name: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": name, "size": 1, **more}


_DOCUMENTS: dict[str, Any] = {
    "CONFIG": {
        **images.PLATFORM,
        "created": "1970-01-01T00:00:00Z",
        "config": {"Labels": {"a": "b"}},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
        "history": [{"created_by": "COPY a .", "comment": "0"}],
    },
    "SET": {
        "schemaVersion": 1,
        "images": [
            {
                "name": "docker.io/library/a:1",
                "digest": "ROOTFS",
                "mediaType": images.MANIFEST,
                "size": 1,
                "foundBy": ["pulled"],
                "requestedBy": [],
            }
        ],
        "blobs": [{"digest": "ROOTFS", "mediaType": images.MANIFEST, "size": 1}],
    },
    "ROOTFS": {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": _descriptor(images.CONFIG, "CONFIG"),
        "layers": [_descriptor(images.LAYER, "LAYER")],
        "annotations": {"dev.slipway.cloudimage": images.info(env={"A": "b"}, launch=["kubectl apply -f a"], labels={"a": "b"})},
    },
    "IMAGES": {
        "schemaVersion": 2,
        "mediaType": images.MANIFEST,
        "config": _descriptor(images.IMAGESET_CONFIG, "SET"),
        "layers": [_descriptor("application/vnd.slipway.blob.v1", "ROOTFS")],
        "annotations": {"dev.slipway.kind": "imageset"},
    },
    "index": {
        "schemaVersion": 2,
        "mediaType": images.INDEX,
        "manifests": [
            _descriptor(images.MANIFEST, "ROOTFS", platform=images.PLATFORM),
            _descriptor(images.MANIFEST, "IMAGES", platform=images.PLATFORM, annotations={"dev.slipway.kind": "imageset"}),
        ],
        "annotations": {"dev.slipway.kind": "cloudimage"},
    },
}


# ---- seeds ------------------------------------------------------------------------------------------------------------


_STATEMENT = json.dumps(
    {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "web", "digest": {"sha256": "0" * 64}}],
        "predicateType": results.PREDICATE,
        "predicate": results.SuiteRun(DIGEST, "linux/amd64", "1", passed=["a"], topologies=[results.Topology(1, 1)]).predicate(),
    }
).encode()


def _archive_seed() -> bytes:
    layout = images.cloud_image([images.layer({"etc/slipway.yaml": images.FACTS})])
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        images.add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        images.add(tar, "index.json", images.dumped({"schemaVersion": 2, "manifests": layout.index}))
        for name, data in layout.blobs.items():
            images.add(tar, f"blobs/sha256/{name[7:]}", data)
    return stream.getvalue()


def _kubeconfig_seed() -> bytes:
    def pem(kind: str) -> str:
        return base64.b64encode(f"-----BEGIN {kind}-----\n{base64.b64encode(b'x' * 48).decode()}\n-----END {kind}-----\n".encode()).decode()

    return f"""apiVersion: v1
kind: Config
current-context: a@b
contexts: [{{name: a@b, context: {{cluster: b, user: a}}}}]
clusters: [{{name: b, cluster: {{certificate-authority-data: {pem("CERTIFICATE")}, server: "https://10.0.0.1:6443"}}}}]
users:
- name: a
  user: {{client-certificate-data: {pem("CERTIFICATE")}, client-key-data: {pem("RSA PRIVATE KEY")}, exec: {{command: sh}}}}
""".encode()


def _facts_seed() -> bytes:
    more = "containers k8s.io 3\nhosts 10.0.0.1 a\nowner 1388 12 nginx\nport 1388\nroute6 eth0 00 00 00\nlimit 5\n"
    return facts("node-1", "10.0.0.1", more).encode()


_LAYERS = (
    (
        b"dir 755 etc\nfile 644 etc/a hello\nlink 777 etc/b a\nhard 644 etc/c etc/a\nnext\n"
        b"file 644 etc/.wh.a\ndir 700 etc/d\nfile 644 etc/d/.wh..wh..opq\n"
    ),
    b"dir 777 x/etc\nnext\nfile 644 x\nlink 777 x ../..\nfile 644 x/y z\n",
    b"link 777 a b\nlink 777 b a\nfile 644 a/x y\ndir 000 c\nfile 644 c/d e\n",
)
_REGISTRIES = b"""unqualified-search-registries = ["docker.io"]
[[registry]]
prefix = "*.a.b"
location = "c:5000"
insecure = true
[[registry.mirror]]
location = "d"
"""
_CLUSTERFILE = b"""apiVersion: sealer.cloud/v2
kind: Cluster
metadata: {name: a}
spec:
  image: web:1
  env: [A=b]
  hosts:
  - {ips: [10.0.0.1], roles: [master]}
  - {ips: [10.0.0.2-10.0.0.4], roles: [node], labels: {a: b}, taints: ['a=b:NoSchedule']}
---
apiVersion: sealer.io/v1
kind: Config
metadata: {name: c}
spec: {path: etc/a, strategy: merge, data: 'a: b'}
---
apiVersion: sealer.io/v1
kind: Plugin
metadata: {name: p}
spec: {type: SHELL, action: PostInstall, on: master, data: ls}
"""
_LOGINS = b"""apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: a}
spec:
  image: web:1
  ssh: {user: a, pk: ~/id, jump: {host: b, pk: ~root/id}}
  hosts:
  - {ips: [10.0.0.1], roles: [control-plane], ssh: {pk: /a/id, passwdFile: ~/b}}
"""
_CLUSTERFILES = (*project_files("tests/cases/**/*lusterfile*"), _CLUSTERFILE, _LOGINS)

ALL: tuple[Target, ...] = (
    Target(
        "kubefile",
        "harness/kubefile/__init__.py",
        read_kubefile,
        project_files("kubefiles/*/Kubefile"),
        words_of(
            "FROM COPY RUN ARG ENV LABEL APP CNI CSI APPCMDS APPENV KUBEVERSION "
            "LAUNCH CMDS CMD MAINTAINER --from= <<EOF \\ # escape=` ${A} $A ${A:-b}"
        ),
    ),
    Target(
        "ignore-file",
        "harness/kubefile/ignore.py",
        read_ignore_file,
        (b"\xef\xbb\xbfsecret\r\n!secret/public\n# comment\n**/*.key\n", b"a/**/b\n*\n!keep\na[^b]?\n"),
        words_of("** * ? ! # / [ ] [^ \\ a**b ./ .. **/"),
    ),
    Target(
        "words",
        "harness/kubefile/words.py",
        read_words,
        (b"a 'b c' \"d $A\" ${A:-x} ${A:+y}", b'["a", "b"]', b">=1.20 <1.31 || ~1.2.x"),
        words_of("$ ${ } :- :+ \\ ' \" ` [ ] , || ^ ~ >= x *"),
    ),
    Target(
        "clusterfile",
        "harness/clusterfile/",
        read_clusterfile,
        _CLUSTERFILES,
        words_of(
            "kind: spec: hosts: ips: roles: [] {} &a *a <<: --- env: "
            "ssh: passwd: nodes: masters: ipList: registry: network: apps: on: ~ !!int | pk: passwdFile: jump: ~x ~x/y"
        ),
    ),
    Target(
        "hooks",
        "harness/clusterfile/hooks.py",
        read_hooks,
        (_CLUSTERFILE.rpartition(b"---\n")[2],),
        words_of("type: ETCD HOSTNAME LABEL TAINT SHELL action: PreInit | on: scope: data:"),
    ),
    Target(
        "template",
        "harness/templates/__init__.py",
        read_template,
        (
            b'a {{ .Name }} {{ A }} {{- if eq .A "b" }}x{{ else }}y{{ end -}}{{ .Name | quote | indent 2 }}',
            b"{% for a in range(3) %}{{ A|upper }}{% endfor %}{% if A %}x{% endif %}",
        ),
        words_of(
            "{{ }} {{- -}} {% %} {# #} {{/* */}} | quote indent b64enc b64dec default eq ne and or "
            "not if else end range( * ** // % 'x' 10**10 upper .A $. ( ) for in set ~"
        ),
    ),
    Target(
        "site-index",
        "harness/cloudimage/site_index.py",
        read_site_index,
        (
            b'{"kind": "dev.slipway.catalog", "schemaVersion": 1, "images": [{"name": "a", "versions": [{"name": "a:1", "digest": "'
            + DIGEST.encode()
            + b'", "platforms": ["linux/amd64"], "size": 5, "page": "images/a.html"}]}]}',
        ),
        words_of("kind schemaVersion images versions name digest page ../ / [] {} null 1e99 -1"),
    ),
    Target(
        "readme",
        "harness/website/readme.py",
        read_readme,
        (b"# a\n\n[b](https://c/d) <http://e> `f` **g**\n\n- h\n\n```i\nj\n```\n", *project_files("kubefiles/*/README.md")),
        words_of("<script> <img javascript: data: ]( ![ ![](http://x) <a &lt; &#60; ``` ~~~ > - 1. [x]: # \" ' \\"),
    ),
    Target(
        "documents",
        "harness/build/discover.py",
        read_documents,
        (b"kind: Pod\nspec: {containers: [{image: nginx:1}]}\n---\na: &a {image: b}\nc: {<<: *a}\n", b"nginx:1\n# x\nbusybox\n"),
        words_of("image: &a *a <<: --- [ ] { } !!binary !!set ? |"),
    ),
    Target(
        "yaml",
        "harness/untrusted/yaml_reader.py",
        read_yaml,
        (b"a: [1, 2.5, ~, 2001-01-01, 0x1f, 1:30, .inf]\nb: &x {c: d}\ne: *x\n--- !!set {a}\n",),
        words_of("&a *a <<: --- !!int !!float !!binary !!set !!omap !!pairs !!timestamp ? | > - : [ ] { }"),
    ),
    Target(
        "formats",
        "harness/clusterfile/serialize.py",
        read_formats,
        (b"a: b\n---\nc: [d]\n", b'[a]\nb = "c"\nd = [1, 2]\n[[e]]\nf = 1979-05-27\n'),
        words_of("[ ] = [[ ]] \"\"\" ''' inf nan &a *a <<:"),
    ),
    Target(
        "json",
        "harness/untrusted/json_reader.py",
        read_json,
        (b'{"a": [1, 2.5e3, null, true, "x\\ud800"], "layers": {}}',),
        words_of("{ } [ ] : , NaN Infinity 1e999 layers Layers \\u0000"),
    ),
    Target(
        "reference",
        "harness/oci/reference.py",
        read_reference,
        (b"docker.io/library/web:1.0", b"[::1]:5000/a/b@" + DIGEST.encode(), b"localhost:443/a"),
        words_of(": / @ sha256: . .. - _ [ ] %"),
    ),
    Target(
        "policy",
        "harness/trust/policy.py",
        read_policy,
        (
            b"default: none\nrules:\n- repository: docker.io/**\n  require: deny\n- repository: a.example/b\n  require: none\n",
            b"default: deny\nrules:\n- repository: docker.io/**\n  require: signed\n  keys: [a.pub, ~/b.pub]\n",
        ),
        words_of("default: rules: require: keys: ** * deny none [~x] ~x"),
    ),
    Target(
        "statement",
        "harness/oci/statement.py",
        read_statement,
        (_STATEMENT,),
        words_of("_type subject digest sha256 predicateType predicate result PASSED passedTests slipwayTestRun runs suite null [] {}"),
    ),
    Target(
        "envelope",
        "harness/oci/statement.py",
        read_envelope,
        (json.dumps({"payloadType": IN_TOTO, "payload": base64.b64encode(_STATEMENT).decode(), "signatures": [{"sig": "AA=="}]}).encode(),),
        words_of("payloadType payload signatures sig == null [] {}"),
    ),
    Target(
        "junit",
        "harness/testkit/e2e/junit.py",
        read_junit,
        (
            b'<testsuites><testsuite><testcase name="[It] a" status="failed" time="1"><failure/></testcase></testsuite></testsuites>',
            b'<?xml version="1.0"?><testsuite><testcase name="[It] b"><skipped message="skipped"/></testcase></testsuite>',
        ),
        words_of("<testcase </testcase> <failure <skipped <!DOCTYPE <!ENTITY &#x1b; status= time= name= message= CDATA"),
    ),
    Target(
        "registries",
        "harness/oci/registry/config.py",
        read_registries,
        (_REGISTRIES,),
        words_of('[[registry]] prefix location blocked mirror = "*." ""'),
    ),
    Target(
        "redaction",
        "harness/lifecycle/cluster/redaction.py",
        read_redaction,
        (
            b"password: x\n--token abc -u a:b Authorization: Bearer x a.a.a. DB_PASS=1 " + b"a" * 200,
            b'{"kind": "Secret", "data": {"a": "b"}, "env": [{"name": "PASSWORD", "value": "x"}]}',
        ),
        words_of('a. = : --password token "auth": PASS _KEY \\" - / +'),
    ),
    Target(
        "kubeconfig",
        "harness/untrusted/kubeconfig.py",
        read_kubeconfig,
        (_kubeconfig_seed(),),
        words_of("users: clusters: contexts: name: user: cluster: exec: ~ [] {} LS0t"),
    ),
    Target(
        "facts",
        "harness/lifecycle/checks/facts.py",
        read_facts,
        (_facts_seed(),),
        words_of("place link route route6 port owner containers limit resolv address hosts capabilities time begun os zz ² -1"),
    ),
    Target(
        "trial",
        "harness/lifecycle/checks/preflight/probes.py",
        read_trial,
        (b"listening 12 6443 2379 udp\nreach 10.0.0.1 6443 ok\npacket 10.0.0.1 yes\nsync 0.0012\n",),
        words_of("listening reach packet sync udp ² nan 1e999 -"),
    ),
    Target(
        "layers",
        "harness/oci/layer/extract.py",
        lay_layers,
        _LAYERS,
        words_of("file dir link hard pipe sparse next 777 000 .. ../.. / etc x .wh. .wh..wh..opq a/b/c"),
    ),
    Target(
        "tar",
        "harness/oci/layer/extract.py",
        lay_tar,
        (
            images.layer({"a": "b", "c/" + "d" * 120: "e"}, [images.link("f", "a")]),
            images.header(b"a", 5, b"0") + b"hello" + bytes(507 + 1024),
        ),
        words_of("ustar ././@LongLink 00000000000 77777777777 GNU.sparse.size=1 path= linkpath= size="),
    ),
    Target(
        "archive",
        "harness/oci/archive/__init__.py",
        load_archive,
        (_archive_seed(),),
        words_of('index.json manifests "size": "digest": annotations blobs/sha256/ ustar 1e999 NaN []'),
    ),
    Target(
        "image",
        "harness/cloudimage/__init__.py",
        read_image,
        (json.dumps(_DOCUMENTS).encode(),),
        words_of("manifests layers config annotations platform schemaVersion"),
    ),
    *context_targets.ALL,
    Target(
        "conformance-archive",
        "harness/cloudimage/conformance/sources.py",
        check_archive,
        (_archive_seed(),),
        words_of('index.json manifests "size": "digest": annotations blobs/sha256/ ustar 1e999 NaN []'),
        expected=(UsageError,),
    ),
    Target(
        "conformance",
        "harness/cloudimage/conformance/",
        check_image,
        (json.dumps(_DOCUMENTS).encode(),),
        words_of("manifests layers config annotations platform schemaVersion"),
        expected=(),
    ),
)
BY_NAME: Mapping[str, Target] = {target.name: target for target in ALL}

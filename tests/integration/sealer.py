"""Images as sealer 0.9 to 0.11 makes them: a rootfs with a registry's storage in it, and annotations that say what it is.

The storage can be taken from a real docker-registry (``pushed``) or be written down (``storage``); a test compares the two.
"""

from __future__ import annotations

import gzip
import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.oci.model import (
    DOCKER_CONFIG,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    canonical_json,
    digest_of,
)
from harness.oci.store import Store
from tests.integration.registry import Image, push, registry

Files = Mapping[str, bytes | str]
"""Path -> content; text is where a symbolic link points. Paths with ``.wh.`` are removals, as a layer writes them."""

STORAGE = "registry/docker/registry/v2"
BUILDAH = "1.27.1"

ROOTFS: Files = {
    "Metadata": b'{"version": "v1.22.15", "arch": "amd64", "kubeVersion": "v1.22.15"}\n',
    "bin/kubeadm": b"#!/bin/sh\n",
    "etc/kubeadm.yml.tmpl": b'kind: ClusterConfiguration\nimageRepository: {{or .RegistryURL "sea.hub:5000"}}\n',
    "scripts/docker.sh": b"#!/bin/bash\n. ./init-kube.sh\n",
    "scripts/init-kube.sh": b"#!/bin/bash\n",
    "lib/libx.so": "libx.so.1",
}


# The storage


def storage(images: Mapping[str, Image]) -> dict[str, bytes]:
    """What a registry has on disk of images by ``path:tag``, below ``registry/``."""
    files: dict[str, bytes] = {}
    for name, image in images.items():
        path, _, tag = name.rpartition(":")
        repository = f"{STORAGE}/repositories/{path}"
        for digest, data in (*image.blobs.items(), *((digest, data) for digest, (_, data) in image.manifests.items())):
            files[data_path(digest)] = data
        for digest in image.blobs:
            files[f"{repository}/_layers/{_slashed(digest)}/link"] = digest.encode()
        for digest in image.manifests:
            files[f"{repository}/_manifests/revisions/{_slashed(digest)}/link"] = digest.encode()
        files[tag_path(name)] = image.digest.encode()
        files[f"{repository}/_manifests/tags/{tag}/index/{_slashed(image.digest)}/link"] = image.digest.encode()
    return files


def pushed(folder: Path, images: Mapping[str, Image]) -> dict[str, bytes]:
    """The same of a real registry, to which they were pushed."""
    with registry(folder) as running:
        for name, image in images.items():
            path, _, tag = name.rpartition(":")
            push(running, path, tag, image)
    data = folder / "data"
    return {f"registry/{path.relative_to(data)}": path.read_bytes() for path in data.rglob("*") if path.is_file()}


def data_path(digest: str) -> str:
    """Where the storage has the bytes of a blob."""
    return f"{STORAGE}/blobs/sha256/{digest[7:9]}/{digest[7:]}/data"


def tag_path(name: str) -> str:
    """Where the storage has what a tag means."""
    path, _, tag = name.rpartition(":")
    return f"{STORAGE}/repositories/{path}/_manifests/tags/{tag}/current/link"


def _slashed(digest: str) -> str:
    return digest.replace(":", "/")


# The image


def extension(**changes: Any) -> dict[str, Any]:
    """The annotation ``sealer.image.extension`` of a cluster image; a key that is None is left out."""
    value: dict[str, Any] = {
        "buildClient": {"sealerVersion": "0.11.0", "buildahVersion": BUILDAH},
        "schemaVersion": "v1alpha1",
        "type": "kube-installer",
        "applications": [
            {"name": "web", "type": "kube", "files": ["web.yaml"], "version": "v1", "env": {"Port": "80"}},
            {"name": "setup", "type": "shell", "files": ["install.sh"], "version": "v1"},
        ],
        "labels": {},
        "env": {"Mode": "fast"},
        "launch": {"app_names": ["web"]},
        **changes,
    }
    return {key: part for key, part in value.items() if part is not None}


def listed(*names: str, app: str = "", platform: str = "linux/amd64") -> list[dict[str, Any]]:
    """The annotation ``sealer.image.container.images``."""
    there = Platform.parse(platform).to_json()
    return [{"image": name, **({"appName": app} if app else {}), "platform": there} for name in names]


def layer(files: Files, *, hardlinks: Mapping[str, str] | None = None, extra: Iterable[tarfile.TarInfo] = ()) -> bytes:
    """A layer as buildah commits it: gzipped, with folders, times and owners. ``hardlinks`` are path -> path, ``extra`` bare entries."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in sorted({above for path in files for above in _folders(path)}):
            tar.addfile(_entry(f"{folder}/", tarfile.DIRTYPE, 0o755))
        for path, content in files.items():
            if isinstance(content, str):
                link = _entry(path, tarfile.SYMTYPE, 0o777)
                link.linkname = content
                tar.addfile(link)
                continue
            entry = _entry(path, tarfile.REGTYPE, 0o755 if content.startswith(b"#!") else 0o644)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        for path, target in (hardlinks or {}).items():
            link = _entry(path, tarfile.LNKTYPE, 0o644)
            link.linkname = target
            tar.addfile(link)
        for entry in extra:
            tar.addfile(entry)
    return gzip.compress(raw.getvalue(), 1, mtime=1_700_000_000)


def _entry(name: str, kind: bytes, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    entry.mtime, entry.uid, entry.gid, entry.uname = 1_700_000_000, 1000, 1000, "builder"
    return entry


def _folders(path: str) -> Iterable[str]:
    while path := posixpath.dirname(path):
        yield path


def image(
    layers: Sequence[Files | bytes],
    *,
    says: Any = None,
    images: Any = None,
    labels: Mapping[str, str] | None = None,
    platform: str = "linux/amd64",
    docker: bool = False,
    annotations_in: str = "manifest",
    history: bool = True,
) -> Image:
    """An image of sealer. ``says`` and ``images`` are its annotations: JSON values, text that is taken as it is, or False for none.

    ``annotations_in``: ``manifest``, ``labels`` or ``config``, depending on how it travelled. ``docker``: in Docker's media types.
    """
    packed = [one if isinstance(one, bytes) else layer(one) for one in layers]
    annotations = {
        name: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for name, value in (
            ("sealer.image.extension", extension() if says is None else says),
            ("sealer.image.container.images", [] if images is None else images),
        )
        if value is not False
    }
    marks = {"io.buildah.version": BUILDAH, "io.sealer.version": "0.11.0", **(labels or {})}
    config: dict[str, Any] = {
        "created": "2023-07-12T10:00:00Z",
        **Platform.parse(platform).to_json(),
        "config": {"Labels": {**marks, **(annotations if annotations_in == "labels" else {})}, "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(gzip.decompress(data)) for data in packed]},
        "history": [
            {"created": "2023-07-12T10:00:00Z", "created_by": f"/bin/sh -c #(nop) COPY dir:{number} in . "} for number in range(len(packed))
        ],
    }
    config["history"].insert(1, {"created_by": "/bin/sh -c #(nop) LABEL a=b", "empty_layer": True})
    if not history:
        del config["history"]
    if annotations_in == "config":
        config["annotations"] = annotations
    types = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
    data = canonical_json(config)
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": types[0],
        "config": Descriptor(types[1], digest_of(data), len(data)).to_json(),
        "layers": [Descriptor(types[2], digest_of(one), len(one)).to_json() for one in packed],
    }
    if annotations_in == "manifest":
        manifest["annotations"] = {"org.opencontainers.image.base.digest": digest_of(b"base"), **annotations}
    text = canonical_json(manifest)
    return Image(digest_of(text), types[0], {digest_of(text): (types[0], text)}, {digest_of(one): one for one in (data, *packed)})


def put(store: Store, name: str, what: Image, *, without: Iterable[str] = ()) -> None:
    """Have an image in the store as a pull would leave it, but for some of its blobs."""
    left_out = set(without)
    for digest, data in (*what.blobs.items(), *((digest, data) for digest, (_, data) in what.manifests.items())):
        if digest not in left_out:
            store.put(data)
    store.tag(name, Descriptor(what.media_type, what.digest, len(what.data)))

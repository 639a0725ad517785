"""CloudImages and archives made by hand, without the product's careful writers: each byte is as a test wants it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = f"{LAYER}+gzip"
IMAGESET_CONFIG = "application/vnd.slipway.imageset.v1+json"
PLATFORM = {"os": "linux", "architecture": "amd64"}

FACTS = """pauseImage: registry.k8s.io/pause:3.10
kubernetes: v1.31.4
"""


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def dumped(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


class Layout:
    """Blobs and an index: what an OCI archive or a registry holds."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.types: dict[str, str] = {}
        self.index: list[dict[str, Any]] = []

    def put(self, media_type: str, value: Any, **more: Any) -> dict[str, Any]:
        """Add a blob (bytes, or what JSON can write); its descriptor."""
        data = dumped(value)
        self.blobs[digest(data)] = data
        self.types[digest(data)] = media_type
        return {"mediaType": media_type, "digest": digest(data), "size": len(data), **more}

    def name(self, name: str, descriptor: Mapping[str, Any]) -> None:
        """Give a blob a name in the index of the archive."""
        tag = name.rpartition(":")[2] if ":" in name.rpartition("/")[2] else "latest"
        self.index.append({**descriptor, "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": tag}})

    def archive(self, path: Path, *, index: Any = None) -> Path:
        """Write an OCI archive."""
        with tarfile.open(path, "w") as tar:
            add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            add(tar, "index.json", dumped({"schemaVersion": 2, "manifests": self.index} if index is None else index))
            for name, data in self.blobs.items():
                add(tar, f"blobs/sha256/{name[7:]}", data)
        return path


def add(tar: tarfile.TarFile, name: str, data: bytes = b"", **fields: Any) -> None:
    """An entry with any field that a header has: ``type``, ``linkname``, ``mode``."""
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    for field, value in fields.items():
        setattr(entry, field, value)
    tar.addfile(entry, io.BytesIO(data))


def layer(files: Mapping[str, bytes | str] | None = None, entries: Iterable[tuple[str, dict[str, Any]]] = ()) -> bytes:
    """A tar of plain files, then of entries with fields of their own."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in (files or {}).items():
            add(tar, name, content.encode() if isinstance(content, str) else content)
        for name, fields in entries:
            add(tar, name, **fields)
    return stream.getvalue()


def link(name: str, target: str) -> tuple[str, dict[str, Any]]:
    return name, {"type": tarfile.SYMTYPE, "linkname": target, "mode": 0o777}


def hard_link(name: str, target: str) -> tuple[str, dict[str, Any]]:
    return name, {"type": tarfile.LNKTYPE, "linkname": target}


def folder(name: str, mode: int = 0o755) -> tuple[str, dict[str, Any]]:
    return name, {"type": tarfile.DIRTYPE, "mode": mode}


# Layers that take more than they are


def header(name: bytes, size: int, kind: bytes) -> bytes:
    """The block of 512 bytes before an entry, its sum right."""
    block = bytearray(512)
    block[: len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    block[136:148] = b"00000000000\0"
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar  \0"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def zeros(size: int, before: bytes, after: bytes = b"") -> bytes:
    """``before``, so many zeros and ``after``, compressed: nothing of that size is ever held here."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as packed:
        packed.write(before)
        piece = bytes(1 << 20)
        for _ in range(size >> 20):
            packed.write(piece)
        packed.write(after)
    return stream.getvalue()


def long_name(size: int) -> bytes:
    """A layer with a GNU long name of so many bytes (whole MiB)."""
    return zeros(size, header(b"././@LongLink", size, b"L"), header(b"a", 0, b"0") + bytes(1024))


def pax(size: int) -> bytes:
    """A layer with a pax header of so many bytes (whole MiB)."""
    record = b"%d comment=" % size
    return zeros(size, header(b"PaxHeaders/a", size, b"x") + record, header(b"a", 0, b"0") + bytes(1024))


def sparse(size: int) -> bytes:
    """A layer of an old GNU sparse entry that stands for ``size`` bytes and holds none."""
    block = bytearray(header(b"large", 0, b"S"))
    block[386:398] = block[398:410] = b"%011o\0" % 0
    block[482] = 0
    block[483:495] = b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return gzip.compress(bytes(block) + bytes(1024))


def many(count: int) -> bytes:
    """A layer of so many empty files."""
    stream = io.BytesIO()
    with gzip.GzipFile(fileobj=stream, mode="wb", compresslevel=1, mtime=0) as packed:
        block = header(b"f/000000", 0, b"0")
        zeros_sum = int(block[148:154], 8) - 6 * ord("0")
        for number in range(count):
            digits = b"%06d" % number
            packed.write(b"f/%b%b%06o\0 %b" % (digits, block[8:148], zeros_sum + sum(digits), block[156:]))
        packed.write(bytes(1024))
    return stream.getvalue()


# CloudImages

BASIC: Mapping[str, bytes | str] = {
    "etc/slipway.yaml": FACTS,
    "bin/kubectl": "#!/bin/sh\n",
    "etc/addons/network.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: network}\n",
    "etc/kubeadm.yml": "",
    "Metadata": '{"version": "v1.31.4", "arch": "amd64"}',
}


def info(**fields: Any) -> dict[str, Any]:
    return {
        "schemaVersion": 1,
        "type": "kube",
        "kubernetes": "v1.31.4",
        "runtime": "kubeadm",
        "env": {},
        "launch": [],
        "apps": [],
        "labels": {},
        "base": None,
        "kubeVersion": None,
        "clusterApps": [],
        **fields,
    }


def cloud_image(
    layers: Iterable[bytes],
    *,
    name: str = "bad:latest",
    about: Any = None,
    images: Any = None,
    config: Mapping[str, Any] | None = None,
    rootfs: Mapping[str, Any] | None = None,
    annotations: Any = None,
    layout: Layout | None = None,
) -> Layout:
    """A CloudImage of layers that are given as they are (gzip where they begin like it). Fields that are given replace the good ones."""
    made = layout or Layout()
    described = []
    diff_ids = []
    for data in layers:
        packed = data.startswith(b"\x1f\x8b")
        described.append(made.put(LAYER_GZIP if packed else LAYER, data))
        diff_ids.append(_diff_id(data) if packed else digest(data))
    settings = {
        **PLATFORM,
        "created": "1970-01-01T00:00:00Z",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [],
        **(config or {}),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": made.put(CONFIG, settings),
        "layers": described,
        "annotations": {"dev.slipway.cloudimage": dumped(info() if about is None else about).decode(errors="surrogateescape")},
        **(rootfs or {}),
    }
    first = made.put(MANIFEST, manifest, platform=PLATFORM)
    set_config = made.put(IMAGESET_CONFIG, {"schemaVersion": 1, "images": [], "blobs": []} if images is None else images)
    contained = {"schemaVersion": 2, "mediaType": MANIFEST, "config": set_config, "layers": []}
    second = made.put(
        MANIFEST,
        {**contained, "annotations": {"dev.slipway.kind": "imageset"}},
        platform=PLATFORM,
        annotations={"dev.slipway.kind": "imageset"},
    )
    kind = {"dev.slipway.kind": "cloudimage"} if annotations is None else annotations
    index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": [first, second], "annotations": kind}
    made.name(name, made.put(INDEX, index))
    return made


def _diff_id(data: bytes) -> str:
    sums = hashlib.sha256()
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as stream:
        while piece := stream.read(1 << 20):
            sums.update(piece)
    return f"sha256:{sums.hexdigest()}"


# YAML and templates


def aliases(levels: int = 9) -> str:
    """YAML of some hundred bytes that spells out to 9 ** levels values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


def merges(levels: int = 60) -> str:
    """YAML whose merge keys double at each level."""
    lines = ["a0: &a0 {image: nginx}"]
    lines += [f"a{level}: &a{level} {{<<: [*a{level - 1}, *a{level - 1}], k{level}: 1}}" for level in range(1, levels)]
    return "\n".join(lines) + "\n"


def deep(levels: int = 5000) -> str:
    return "a: " + "[" * levels + "]" * levels + "\n"

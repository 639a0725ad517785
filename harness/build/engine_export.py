"""An image of the engine -> OCI image in the store, whose digest depends on its content alone."""

from __future__ import annotations

import hashlib
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

from harness import untrusted
from harness.errors import BuildError
from harness.host import docker, scratch
from harness.oci.layer import Layer
from harness.oci.layer.compression import PROGRAMS, ZstdWriter
from harness.oci.model import EPOCH, OCI_CONFIG, OCI_LAYER_ZSTD, OCI_MANIFEST, Descriptor, Platform, canonical_json
from harness.oci.store import Store


def export(identity: str, store: Store, platform: Platform) -> Descriptor:
    """Take an image out of the engine into the store as an OCI image for ``platform`` whose digest depends on its content alone.

    Docker writes the time of the build into files, layers and config; all of that is set to the epoch here.
    """
    client = docker.connect()
    with tempfile.TemporaryFile(dir=scratch.folder()) as archive:
        for chunk in client.images.get(identity).save(chunk_size=1 << 20):
            archive.write(chunk)
        archive.seek(0)
        return convert(archive, store, platform)


def convert(archive: IO[bytes], store: Store, platform: Platform) -> Descriptor:
    """A docker-archive (what ``docker save`` writes) with one image -> OCI manifest in ``store``. Keeps its layers apart."""
    with tarfile.open(fileobj=archive) as tar:
        members = {member.name: member for member in tar.getmembers()}

        def opened(name: str) -> IO[bytes]:
            member = members[name]
            if member.issym():  # older engines link a layer that several images share
                parts = (Path(name).parent / member.linkname).parts
                resolved: list[str] = []
                for part in parts:
                    resolved = resolved[:-1] if part == ".." else [*resolved, part]
                member = members["/".join(resolved)]
            stream = tar.extractfile(member)
            if stream is None:
                raise BuildError(f"the engine's archive holds no {name}")
            return stream

        entry = untrusted.json_document(opened("manifest.json").read(), what="the engine's archive")[0]
        config = untrusted.json_object(opened(entry["Config"]).read(), what="the engine's archive")
        layers = [_normalise(opened(name), store) for name in entry["Layers"]]
    return _manifest(store, config, [layer for layer in layers if layer is not None], platform)


def _normalise(source: IO[bytes], store: Store) -> Layer | None:
    """One layer of the engine as a zstd layer with its times set to the epoch; None when it changes nothing.

    Owners stay, unlike those of a rootfs: a container image's files may belong to the user that its process runs as.
    """
    digest = hashlib.sha256()
    seen = 0
    with store.writer() as blob, ZstdWriter(blob.write, PROGRAMS) as compressed:
        tee = _Tee(compressed, digest)
        # A stream, not a file: tarfile then pads with plain zeros and never seeks.
        with (
            tarfile.open(fileobj=source, mode="r|") as old,
            tarfile.open(fileobj=cast("IO[bytes]", tee), mode="w|", format=tarfile.PAX_FORMAT) as new,
        ):
            for member in old:
                member.mtime = 0
                member.uname = member.gname = ""
                member.pax_headers = {name: value for name, value in member.pax_headers.items() if name.startswith("SCHILY.xattr.")}
                new.addfile(member, old.extractfile(member) if member.isreg() else None)
                seen += 1
    return Layer(Descriptor(OCI_LAYER_ZSTD, blob.digest, blob.size), f"sha256:{digest.hexdigest()}") if seen else None


class _Tee:
    """A sink that hashes what passes through it."""

    def __init__(self, sink: ZstdWriter, digest: Any) -> None:
        self.sink = sink
        self.digest = digest

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.sink.write(data)
        return len(data)


def _manifest(store: Store, docker_config: Mapping[str, Any], layers: list[Layer], platform: Platform) -> Descriptor:
    kept = ("User", "ExposedPorts", "Env", "Entrypoint", "Cmd", "Volumes", "WorkingDir", "Labels", "StopSignal")
    settings = {key: value for key in kept if (value := (docker_config.get("config") or {}).get(key))}
    labels = {name: value for name, value in settings.pop("Labels", {}).items() if name != docker.LABEL_KEY}
    settings |= {"Labels": labels} if labels else {}
    config = canonical_json({
        # Not what the engine says: it takes every image that it builds for its own.
        **platform.to_json(), "created": EPOCH, "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
    })  # fmt: skip
    digest, size = store.put(config)
    manifest = canonical_json({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": digest, "size": size},
        "layers": [layer.descriptor.to_json() for layer in layers],
    })  # fmt: skip
    digest, size = store.put(manifest)
    return Descriptor(media_type=OCI_MANIFEST, digest=digest, size=size)

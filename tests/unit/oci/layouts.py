"""Images for tests of archives, small and made by hand, and archives that somebody has tampered with."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from harness.log.progress import Meter
from harness.oci.admission import Admitted
from harness.oci.archive import load as archive_load
from harness.oci.archive.load import Admit, Loaded
from harness.oci.attached import ENVELOPE, PAYLOAD
from harness.oci.model import (
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Descriptor,
    Platform,
    canonical_json,
    digest_of,
)
from harness.oci.store import Store


def put_manifest(store: Store, *layers: bytes) -> Descriptor:
    config = Descriptor(OCI_CONFIG, *store.put(b"{}"))
    content = [Descriptor(OCI_LAYER_GZIP, *store.put(layer)).to_json() for layer in layers]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": content}
    return Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest)))


def everything(name: str, digest: str, _arriving: Mapping[str, Descriptor]) -> Admitted:
    """Admits any image."""
    return Admitted(name, digest)


def load(store: Store, source: Path | BinaryIO, *, admit: Admit = everything, meter: Meter | None = None) -> Loaded:
    """Load an archive whose images nobody has to vouch for."""
    return archive_load.load(store, source, admit=admit, meter=meter)


def attach(store: Store, repository: str, about: Descriptor, suffix: str, *contents: bytes) -> str:
    """Attach signatures (``.sig``), attestations (``.att``) or referrers (no suffix) with these contents to an image; the name of them."""
    name = f"{repository}:{about.digest.replace(':', '-')}{suffix}"
    store.tag(name, put_attachment(store, suffix, *contents) if suffix else put_referrers(store, about, *contents))
    return name


def put_attachment(store: Store, suffix: str, *contents: bytes) -> Descriptor:
    config = Descriptor(OCI_CONFIG, *store.put(b"{}"))
    kind = {".sig": PAYLOAD, ".att": ENVELOPE}[suffix]
    layers = [Descriptor(kind, *store.put(content)).to_json() for content in contents]
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": layers}
    return Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest)))


def put_referrers(store: Store, about: Descriptor, *contents: bytes) -> Descriptor:
    entries = []
    for content in contents:
        plain = store.json(put_manifest(store, content).digest)
        manifest = {**plain, "artifactType": "application/x", "subject": about.to_json()}
        entry = Descriptor(OCI_MANIFEST, *store.put(canonical_json(manifest))).to_json()
        entries.append({**entry, "artifactType": "application/x"})
    return Descriptor(OCI_INDEX, *store.put(canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})))


def put_index(store: Store, *manifests: Descriptor) -> Descriptor:
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest.to_json() for manifest in manifests]}
    return Descriptor(OCI_INDEX, *store.put(canonical_json(index)))


def for_platform(manifest: Descriptor, platform: str) -> Descriptor:
    return Descriptor(manifest.media_type, manifest.digest, manifest.size, platform=Platform.parse(platform))


def contents(store: Store) -> set[str]:
    """The digests, without ``sha256:``, of all blobs."""
    return {path.name for path in (store.root / "blobs/sha256").iterdir()}


def times(store: Store) -> dict[str, int]:
    """When each blob was written: a blob that is written again is another file."""
    return {path.name: path.stat().st_ino for path in (store.root / "blobs/sha256").iterdir()}


def blob_name(data: bytes) -> str:
    return "blobs/sha256/" + digest_of(data)[7:]


def members(archive: Path | BinaryIO) -> dict[str, bytes]:
    """The files of an uncompressed archive, by name and in order."""
    with tarfile.open(archive) if isinstance(archive, Path) else tarfile.open(fileobj=archive) as tar:
        found = ((info.name, tar.extractfile(info)) for info in tar if info.isfile())
        return {name: content.read() for name, content in found if content}


def packed(files: Mapping[str, bytes] | Sequence[tuple[str, bytes]], *others: tarfile.TarInfo) -> io.BytesIO:
    """An archive of files, and of entries that have no content before them."""
    result = io.BytesIO()
    with tarfile.open(fileobj=result, mode="w") as tar:
        for info in others:
            tar.addfile(info)
        for name, data in files.items() if isinstance(files, Mapping) else files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    result.seek(0)
    return result


def member(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info

"""Images of the store as one file: a standard OCI archive (an image layout in a tar), for places that no network reaches."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import posixpath
import re
import secrets
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from harness.errors import StoreError
from harness.oci.model import INDEXES, MANIFESTS, REF_NAME, Descriptor, canonical_json
from harness.oci.reference import Reference
from harness.oci.store import CHUNK, Store

_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_LARGEST_INDEX = 16 << 20
_CONTAINERD_NAME = "io.containerd.image.name"
_GZIP = b"\x1f\x8b"


def save(store: Store, names: Sequence[str], destination: Path | BinaryIO) -> int:
    """Write images into one archive, each blob once and each verified on its way; its size in bytes.

    The file appears when it is whole; a stream is written as it goes. The same images give the same bytes. Raises StoreError
    when an image or one of its blobs is not here or damaged, or the destination cannot take it.
    """
    with store.using():
        images = dict(_named(store, name) for name in names)
        if not images:
            raise StoreError("nothing to save", hint="name one image or more")
        blobs = sorted(
            {blob.digest: blob for image in images.values() for blob in closure(store, image)}.values(), key=lambda blob: blob.digest
        )
        try:
            with _output(destination) as file:
                return _write(store, images, blobs, file)
        except OSError as problem:
            where = destination if isinstance(destination, Path) else "the output"
            raise StoreError(f"{where}: {problem.strerror or problem}", hint="nothing was saved") from problem


def load(store: Store, source: Path | BinaryIO) -> dict[str, Descriptor]:
    """Take all images of an archive, gzipped or not, into the store; their names and what they mean.

    No name is given before every blob is there and has the digest it says. Raises StoreError, and names nothing, when the
    file is damaged or not whole, has an image without a name, or holds links, devices or paths that leave it.
    """
    with store.using(), _input(source) as file:
        try:
            with tarfile.open(fileobj=file, mode="r|", bufsize=128 << 10) as tar:
                entries = _read(store, tar)
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error) as wrong:
            raise StoreError(f"not a readable OCI archive: {wrong}", hint="was it copied whole?") from wrong
        images = dict(_names_of(entry) for entry in entries)
        for image in images.values():
            closure(store, image)
        with store.lock():
            for name, image in images.items():
                store.tag(name, image)
    return images


def closure(store: Store, image: Descriptor) -> list[Descriptor]:
    """An image and all its blobs. Raises StoreError when one is not in the store in full length, or a manifest is damaged."""
    found = [image]
    if image.media_type in (*INDEXES, *MANIFESTS):
        manifest = store.json(image.digest)
        config = [manifest["config"]] if "config" in manifest else []
        try:
            below = [Descriptor.from_json(child) for child in (*manifest.get("manifests", ()), *config, *manifest.get("layers", ()))]
        except (ValueError, TypeError) as wrong:
            raise StoreError(f"manifest {image.digest} cannot be understood: {wrong}") from wrong
        found += [blob for child in below for blob in closure(store, child)]
    elif store.size(image.digest) != image.size:
        raise StoreError(f"blob {image.digest} has {store.size(image.digest)} bytes instead of {image.size}")
    return found


# Writing


def _named(store: Store, name: str) -> tuple[str, Descriptor]:
    image = store.resolve(name)
    known = store.names()
    with contextlib.suppress(ValueError):
        familiar = Reference.parse(name).familiar
        if familiar in known:
            return familiar, image
    having = [known_name for known_name, descriptor in known.items() if descriptor.digest == image.digest]
    if not having:
        raise StoreError(f"{name} has no name to be saved under", hint="give it one with `slipway tag`")
    return having[0], image


@contextlib.contextmanager
def _output(destination: Path | BinaryIO) -> Iterator[IO[bytes]]:
    if not isinstance(destination, Path):
        yield destination
        return
    if destination.exists() and not destination.is_file():
        # A pipe, or /dev/null: written to, not replaced.
        with destination.open("wb") as file:
            yield file
        return
    temporary = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            yield file
        temporary.replace(destination)
    finally:
        temporary.unlink(missing_ok=True)


def _write(store: Store, images: Mapping[str, Descriptor], blobs: Sequence[Descriptor], file: IO[bytes]) -> int:
    manifests = [
        Descriptor(image.media_type, image.digest, image.size, {REF_NAME: name}).to_json() for name, image in sorted(images.items())
    ]
    counted = _Counter(file)
    with tarfile.open(fileobj=cast("IO[bytes]", counted), mode="w|", format=tarfile.PAX_FORMAT, bufsize=CHUNK) as tar:
        # These first, so that whoever reads the stream knows early what it is.
        for name, value in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", {"schemaVersion": 2, "manifests": manifests})):
            data = canonical_json(value)
            tar.addfile(_member(name, len(data)), io.BytesIO(data))
        for folder in ("blobs", "blobs/sha256"):
            tar.addfile(_folder(folder))
        for blob in blobs:
            store.verify(blob.digest)
            with store.open(blob.digest) as content:
                tar.addfile(_member(f"blobs/sha256/{blob.digest.removeprefix('sha256:')}", blob.size), content)
    return counted.size


class _Counter:
    """Counts what goes through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return self._file.write(data)


def _member(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info


def _folder(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


# Reading


@contextlib.contextmanager
def _input(source: Path | BinaryIO) -> Iterator[IO[bytes]]:
    try:
        with contextlib.ExitStack() as stack:
            raw = stack.enter_context(source.open("rb")) if isinstance(source, Path) else source
            file = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast("Any", raw), CHUNK)
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if file.peek(2)[:2] == _GZIP else file
    except OSError as problem:
        raise StoreError(f"{source}: {problem.strerror or problem}") from problem


def _read(store: Store, tar: tarfile.TarFile) -> list[dict[str, Any]]:
    """Put every blob into the store; the entries of index.json."""
    index: list[dict[str, Any]] | None = None
    for member in tar:
        name = _safe(member)
        blob = _BLOB.fullmatch(name)
        content = tar.extractfile(member) if member.isfile() else None
        if content is None:
            continue
        if blob:
            store.put(cast("BinaryIO", content), expected=f"sha256:{blob[1]}")
        elif name == "index.json":
            index = _index(content.read(_LARGEST_INDEX))
    if index is None:
        raise StoreError("not an OCI archive: there is no index.json in it", hint="make it with `slipway save`")
    return index


def _safe(member: tarfile.TarInfo) -> str:
    """The path without ``./``. Nothing is unpacked by name, but a file with such entries is not one that we or skopeo made."""
    if not (member.isfile() or member.isdir()):
        raise StoreError(f"the archive is refused: its entry {member.name!r} is a link or a device")
    if member.name.startswith("/") or ".." in member.name.split("/"):
        raise StoreError(f"the archive is refused: its entry {member.name!r} leaves its folder")
    return posixpath.normpath(member.name)


def _index(data: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(data)["manifests"]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise TypeError("manifests is not a list")
    except (ValueError, KeyError, TypeError) as wrong:
        raise StoreError(f"not an OCI archive: its index.json cannot be understood: {wrong}") from wrong
    return entries


def _names_of(entry: dict[str, Any]) -> tuple[str, Descriptor]:
    try:
        image = Descriptor.from_json(entry)
        name = image.annotations.get(_CONTAINERD_NAME) or image.annotations.get(REF_NAME)
        if not name:
            raise StoreError(f"the archive does not say the name of {image.digest}", hint="save it with a name, as `slipway save` does")
        return Reference.parse(name).familiar, Descriptor(image.media_type, image.digest, image.size)
    except ValueError as wrong:
        raise StoreError(f"not an OCI archive: {wrong}") from wrong

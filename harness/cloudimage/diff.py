"""Differences between two CloudImages: run information, images, files, and the bytes to transfer.

Either may be in the store or in a registry. Of one in a registry only manifests and configs are fetched; its files can be
compared when their layers are in the store.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import difflib
import hashlib
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from harness import cloudimage, log, untrusted
from harness.cloudimage import CloudImage, EmbeddedImage, ImageSet, Info, PlatformImage
from harness.cloudimage.prune import LISTING
from harness.errors import StoreError
from harness.oci import graph
from harness.oci.layer.extract import OPAQUE, WHITEOUT, open_layer
from harness.oci.model import LARGEST_MANIFEST, Descriptor, Platform, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.store import CHUNK, Store

REGISTRY = "docker://"
"""In front of a name: the image in the registry is meant, whatever the store has under that name (the word of skopeo)."""

TEXT_LIMIT = 256 << 10
"""Bytes of a file whose text is compared line by line."""

_JOBS = 8
_MOST_LINKS = 40


# Both sides


@dataclasses.dataclass(frozen=True)
class Side:
    """A CloudImage to compare. ``where`` is ``store`` or the host of a registry."""

    name: str
    where: str
    image: CloudImage
    documents: cloudimage.Documents = dataclasses.field(repr=False)
    root: Descriptor

    def blobs(self, platforms: Sequence[Platform]) -> dict[str, int]:
        """Digest -> bytes of all it consists of, or of what is needed for some platforms; without those that were not pulled."""
        found: dict[str, int] = {}
        waiting = [self.root]
        while waiting:
            blob = waiting.pop()
            if blob.digest not in found:
                found[blob.digest] = blob.size
                if graph.is_manifest(blob):
                    children = graph.children(self.documents.json(blob.digest), blob, platforms)
                    waiting += (child for child in children if not (child.platform and self.is_absent(child.platform)))
        return found

    def is_absent(self, platform: Platform) -> bool:
        """Return True when it has a platform that was not pulled with it."""
        return any(platform.matches(absent) for absent in self.image.absent)

    def entries(self, platform: Platform) -> list[str]:
        """The digests of the manifests for a platform."""
        listed = graph.entries_of(self.documents.json(self.root.digest), self.root.digest)
        return [entry.digest for entry in listed if entry.platform and entry.platform.matches(platform)]

    def part(self, platform: Platform) -> PlatformImage | None:
        return next((part for part in self.image.platforms if part.platform.matches(platform)), None)


def find(store: Store, name: str, client: Callable[[], Client]) -> Side:
    """The CloudImage called ``name``: in the store, else at the registry that the name says. Raises StoreError.

    A name without a registry means the store alone, so that a typing error sends no request; ``docker://NAME`` means the registry alone.
    """
    if name.startswith(REGISTRY):
        return _remote(store, _reference(name.removeprefix(REGISTRY)), client())
    try:
        image = cloudimage.read(store, name)
    except StoreError:
        reference = _at_registry(name)
        if reference is None or reference.familiar in store.names():
            raise
        return _remote(store, reference, client())
    root = store.resolve(name)
    return Side(image.name or name, "store", image, store, root)


def _reference(name: str) -> Reference:
    try:
        return Reference.parse(name)
    except ValueError as wrong:
        raise StoreError(str(wrong)) from wrong


def _at_registry(name: str) -> Reference | None:
    """The reference, when its registry is written out."""
    first, slash, _ = name.partition("/")
    try:
        reference = Reference.parse(name)
    except ValueError:
        return None
    return reference if slash and first in (reference.domain, "index.docker.io") else None


class _Fetched:
    """Manifests and configs of an image in a registry. Those that the store has are taken from there."""

    def __init__(self, store: Store, client: Client, reference: Reference) -> None:
        self._store = store
        self._client = client
        self._reference = reference
        self._documents: dict[str, bytes] = {}

    def json(self, digest: str) -> dict[str, Any]:
        try:
            document = self._documents[digest]
        except KeyError as wrong:
            raise StoreError(f"{self._reference}: {digest} is not a manifest or config of it") from wrong
        return untrusted.json_object(document, what=f"{self._reference}: {digest}")

    def everything(self) -> Descriptor:
        """Fetch them all, many at once; the index that the reference means."""
        found = self._client.manifest(self._reference)
        root = Descriptor(found.media_type, found.digest, len(found.data))
        self._documents[root.digest] = found.data
        index = self.json(root.digest)
        # Fetch no more of an image that is not a CloudImage: its reader reports that.
        if cloudimage.is_cloudimage(index):
            manifests = [child for child in graph.children(index, root) if graph.is_manifest(child)]
            with ThreadPoolExecutor(_JOBS, thread_name_prefix="compare") as pool:
                self._keep(pool, manifests)
                self._keep(pool, [config for manifest in manifests for config in self._config(manifest)])
        return root

    def _keep(self, pool: ThreadPoolExecutor, wanted: Iterable[Descriptor]) -> None:
        unique = {blob.digest: blob for blob in wanted}
        try:
            self._documents.update(zip(unique, pool.map(self._fetch, unique.values()), strict=True))
        except BaseException:
            self._client.close()  # no thread waits for another attempt
            pool.shutdown(wait=False, cancel_futures=True)
            raise

    def _config(self, manifest: Descriptor) -> list[Descriptor]:
        value = self.json(manifest.digest)
        return graph.below_of(value, manifest.digest)[:1] if "config" in value else []

    def _fetch(self, blob: Descriptor) -> bytes:
        with contextlib.suppress(StoreError):
            return self._store.read(blob.digest)
        pinned = dataclasses.replace(self._reference, tag=None, digest=blob.digest)
        if graph.is_manifest(blob):
            return self._client.manifest(pinned).data
        if blob.size > LARGEST_MANIFEST:
            raise StoreError(f"{self._reference}: config {blob.digest} of {blob.size} bytes is larger than configs may be")
        stream = self._client.blob(self._reference, blob.digest, blob.size)
        try:
            data = b"".join(iter(lambda: stream.read(CHUNK), b""))
        finally:
            stream.close()
        if digest_of(data) != blob.digest:
            raise StoreError(f"{self._reference}: config {blob.digest} is damaged: its bytes have another digest")
        return data


def _remote(store: Store, reference: Reference, client: Client) -> Side:
    with log.step(f"look at {reference.familiar}"):
        documents = _Fetched(store, client, reference)
        root = documents.everything()
    return Side(reference.familiar, reference.domain, cloudimage.understand(documents, root, reference.familiar), documents, root)


# Differences


@dataclasses.dataclass(frozen=True)
class ImageChange:
    """One difference. ``old`` is None for what is new, ``new`` for what has gone; both are plain data."""

    kind: str
    """``kubernetes``, ``base``, ``env``, ``label``, ``launch``, ``app``, ``image``, ``step``, ``file``, ``layer`` ..."""
    name: str
    old: Any
    new: Any
    text: str | None = None
    """Of a small text file: its changed lines as a unified diff."""

    @property
    def what(self) -> str:
        return "added" if self.old is None else "removed" if self.new is None else "changed"

    def to_json(self) -> dict[str, Any]:
        plain = {"kind": self.kind, "name": self.name, "change": self.what, "old": self.old, "new": self.new}
        return plain if self.text is None else {**plain, "diff": self.text}


@dataclasses.dataclass(frozen=True)
class PlatformDifference:
    """The differences for one platform.

    ``only`` is ``old`` or ``new`` when the other is not made for it, or, with ``absent``, was pulled without it.
    """

    platform: str
    changes: tuple[ImageChange, ...] = ()
    only: str | None = None
    absent: bool = False
    files: bool = True
    """True when files were compared; False: only layers, which are not in the store."""


@dataclasses.dataclass(frozen=True)
class TransferSize:
    """Blobs of the new image that the old one lacks, and those that both have."""

    blobs: int
    bytes: int
    shared_blobs: int
    shared_bytes: int


@dataclasses.dataclass(frozen=True)
class Difference:
    old: Side
    new: Side
    platforms: tuple[PlatformDifference, ...]
    transfer: TransferSize
    equal: bool
    """True when both are identical, byte for byte, for the platforms that were compared."""

    def to_json(self) -> dict[str, Any]:
        return {
            "old": _side_json(self.old),
            "new": _side_json(self.new),
            "equal": self.equal,
            "platforms": [
                {
                    "platform": part.platform,
                    "only": part.only,
                    "absent": part.absent,
                    "filesCompared": part.files,
                    "changes": [change.to_json() for change in part.changes],
                }
                for part in self.platforms
            ],
            "transfer": {
                "send": {"blobs": self.transfer.blobs, "bytes": self.transfer.bytes},
                "shared": {"blobs": self.transfer.shared_blobs, "bytes": self.transfer.shared_bytes},
            },
        }


def _side_json(side: Side) -> dict[str, Any]:
    return {"name": side.name, "where": side.where, "digest": side.image.digest, "size": side.image.size}


def compare(store: Store, old: Side, new: Side, *, platform: Platform | None = None, content: bool = False) -> Difference:
    """Compare ``old`` with ``new``, for one platform or all; with ``content`` also the lines of small text files.

    Raises StoreError when neither is made for ``platform``, or a layer that is in the store cannot be read.
    """
    wanted = _platforms(old, new, platform)
    with store.shared_lease():
        parts = tuple(_compare_platform(store, old, new, one, content=content) for one in wanted)
    chosen = (platform,) if platform else ()
    there, here = old.blobs(chosen), new.blobs(chosen)
    missing = [size for digest, size in here.items() if digest not in there]
    shared = [size for digest, size in here.items() if digest in there]
    transfer = TransferSize(len(missing), sum(missing), len(shared), sum(shared))
    same = all(old.entries(one) == new.entries(one) for one in wanted)
    return Difference(old, new, parts, transfer, same if platform else old.image.digest == new.image.digest)


def _platforms(old: Side, new: Side, platform: Platform | None) -> list[Platform]:
    if platform is None:
        listed = [part.platform.normal() for side in (old, new) for part in side.image.platforms]
        return sorted(set(listed), key=str)
    if old.part(platform) is None and new.part(platform) is None:
        new.image.platform(platform)
    return [platform]


def _compare_platform(store: Store, old: Side, new: Side, platform: Platform, *, content: bool) -> PlatformDifference:
    before, after = old.part(platform), new.part(platform)
    if old.entries(platform) == new.entries(platform):
        return PlatformDifference(str(platform))
    if before is None or after is None:
        lacking, only = (old, "new") if before is None else (new, "old")
        return PlatformDifference(str(platform), only=only, absent=lacking.is_absent(platform), files=False)
    changes = [
        *_info(before.info, after.info),
        *_lines("step", [step.created_by for step in before.history], [step.created_by for step in after.history]),
        *_images(store, before.images, after.images),
    ]
    compared = _readable(store, before, after)
    changes += _files(store, before.layers, after.layers, content=content) if compared else _layers(before, after)
    return PlatformDifference(str(platform), tuple(changes), files=compared)


def _readable(store: Store, before: PlatformImage, after: PlatformImage) -> bool:
    same = [layer.digest for layer in before.layers] == [layer.digest for layer in after.layers]
    return same or all(store.has(layer.digest) for layer in (*before.layers, *after.layers))


# How it runs


def _info(before: Info, after: Info) -> Iterator[ImageChange]:
    facts = {
        "type": (before.type, after.type),
        "kubernetes": (before.kubernetes, after.kubernetes),
        "runtime": (before.runtime, after.runtime),
        "kubeVersion": (before.kube_version, after.kube_version),
        "base": (_plain(before.base), _plain(after.base)),
        "convertedFrom": (_plain(before.converted_from), _plain(after.converted_from)),
    }
    yield from (ImageChange(kind, kind, old, new) for kind, (old, new) in facts.items() if old != new)
    yield from _pairs("env", before.env, after.env)
    yield from _pairs("label", before.labels, after.labels)
    yield from _pairs("app", *({app.name: app.to_json() for app in info.apps} for info in (before, after)))
    yield from _lines("launch", before.launch, after.launch)
    yield from _lines("clusterApp", before.cluster_apps, after.cluster_apps)


def _plain(value: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(value) if value else None


def _pairs(kind: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[ImageChange]:
    for name in sorted({*before, *after}):
        old, new = before.get(name), after.get(name)
        if old != new:
            yield ImageChange(kind, name, old, new)


def _lines(kind: str, before: Sequence[str], after: Sequence[str]) -> Iterator[ImageChange]:
    """Commands whose order matters: what went, then what came, from top to bottom; the value is the place in the list, from 0."""
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for tag, old_start, old_end, new_start, new_end in matcher.get_opcodes():
        if tag != "equal":
            yield from (ImageChange(kind, before[index], index, None) for index in range(old_start, old_end))
            yield from (ImageChange(kind, after[index], None, index) for index in range(new_start, new_end))


# Embedded images


def _images(store: Store, before: ImageSet, after: ImageSet) -> Iterator[ImageChange]:
    """By name; a name that went and the only one of its repository that came are one image in another version."""
    old, new = ({image.name: image for image in images.images} for images in (before, after))
    gone, come = ([name for name in one if name not in other] for one, other in ((old, new), (new, old)))
    moved = dict(_moved(gone, come))
    sizes = {True: cloudimage.content_sizes(store, before), False: cloudimage.content_sizes(store, after)}

    def plain(image: EmbeddedImage, *, was: bool) -> dict[str, Any]:
        # What an image consists of is known when its manifest can be read.
        size = sizes[was][image.name] if store.has(image.digest) else None
        return {"name": image.name, "version": _version(image.name), "digest": image.digest, "size": size}

    for name in sorted({*old, *new}):
        if name in moved:
            yield ImageChange("image", _repository(name), plain(old[name], was=True), plain(new[moved[name]], was=False))
        elif name in old and name in new:
            if old[name].digest != new[name].digest:
                yield ImageChange("image", name, plain(old[name], was=True), plain(new[name], was=False))
        elif name in old:
            yield ImageChange("image", name, plain(old[name], was=True), None)
        elif name not in moved.values():
            yield ImageChange("image", name, None, plain(new[name], was=False))


def _moved(gone: Sequence[str], come: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name in gone:
        left = [other for other in gone if _repository(other) == _repository(name)]
        right = [other for other in come if _repository(other) == _repository(name)]
        if len(left) == len(right) == 1:
            yield name, right[0]


def _repository(name: str) -> str:
    try:
        return Reference.parse(name).repository
    except ValueError:
        return name


def _version(name: str) -> str | None:
    try:
        return Reference.parse(name).tag
    except ValueError:
        return None


# Files


@dataclasses.dataclass(frozen=True)
class RootfsEntry:
    """One thing in a merged rootfs. ``digest`` is that of a file's bytes in hex, ``target`` where a symlink points."""

    kind: str
    mode: int
    size: int = 0
    digest: str = ""
    target: str = ""
    layer: Descriptor | None = dataclasses.field(default=None, compare=False)
    """Layer that holds the bytes of a file, and the path in it."""
    inside: str = dataclasses.field(default="", compare=False)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"kind": self.kind, "mode": f"{self.mode:04o}"}
        if self.kind == "file":
            value |= {"size": self.size, "digest": f"sha256:{self.digest}"}
        return {**value, "target": self.target} if self.kind == "symlink" else value


Row = Sequence[Any]
"""One entry of a layer: path, kind (as in layer.Entry), mode, size, digest, target."""


def _layers(before: PlatformImage, after: PlatformImage) -> Iterator[ImageChange]:
    old, new = ({layer.digest: {"size": layer.size} for layer in part.layers} for part in (before, after))
    return _pairs("layer", old, new)


def _files(store: Store, before: Sequence[Descriptor], after: Sequence[Descriptor], *, content: bool) -> list[ImageChange]:
    if [layer.digest for layer in before] == [layer.digest for layer in after]:
        return []
    old, new = merged(store, before), merged(store, after)
    paths = [path for path in sorted({*old, *new}) if old.get(path) != new.get(path)]
    listed = set(paths)
    # A folder that was added or removed shows in its files.
    filled = {posixpath.dirname(path) for path in listed}
    paths = [path for path in paths if path not in filled or (path in old and path in new)]
    texts = _texts(store, [one[path] for path in paths for one in (old, new) if path in one]) if content else {}
    return [
        ImageChange("file", path, _as_json(old.get(path)), _as_json(new.get(path)), _unified(path, old.get(path), new.get(path), texts))
        for path in paths
    ]


def _as_json(file: RootfsEntry | None) -> dict[str, Any] | None:
    return file.to_json() if file else None


def listing(store: Store, layer: Descriptor) -> list[Row]:
    """Entries of a layer, in its order; cached after the first read."""
    key = layer.digest.removeprefix("sha256:")
    record = store.record(LISTING, key)
    if record is not None:
        return list(record["rows"])
    rows: list[Row] = []
    store.verify(layer.digest)
    with open_layer(store, layer) as tar:
        for entry in tar:
            path = "/".join(part for part in entry.name.split("/") if part not in ("", "."))
            folder, name = posixpath.split(path)
            if name == OPAQUE:
                rows.append((folder, "opaque", 0, 0, "", ""))
            elif name.startswith(WHITEOUT):
                rows.append((posixpath.join(folder, name.removeprefix(WHITEOUT)), "whiteout", 0, 0, "", ""))
            elif entry.kind == "folder" and path:
                rows.append((path, "dir", entry.mode, 0, "", ""))
            elif entry.kind == "symlink":
                rows.append((path, "symlink", 0o777, 0, "", entry.link))
            elif entry.kind == "hardlink":
                rows.append((path, "hardlink", entry.mode, 0, "", entry.link))
            elif entry.kind == "file":
                digest = hashlib.sha256()
                while chunk := tar.read(CHUNK):
                    digest.update(chunk)
                rows.append((path, "file", entry.mode, entry.size, digest.hexdigest(), ""))
    # Without it the next look takes longer; a full disk must not fail the command.
    with contextlib.suppress(StoreError):
        store.keep(LISTING, key, {"rows": rows})
    return rows


def merged(store: Store, layers: Sequence[Descriptor]) -> dict[str, RootfsEntry]:
    """The rootfs that layers make, laid over each other as layer.unpack() does: path -> entry."""
    tree = _Merged()
    for layer in layers:
        tree.lay(layer, listing(store, layer))
    return tree.files


class _Merged:
    def __init__(self) -> None:
        self.files: dict[str, RootfsEntry] = {}
        self._fresh: set[str] = set()
        """Paths that the current layer created, and the folders above them: its removals spare these."""

    def lay(self, layer: Descriptor, rows: Iterable[Row]) -> None:
        self._fresh = {""}
        for path, kind, mode, size, digest, target in rows:
            folder, name = posixpath.split(path)
            if kind == "opaque":
                self._remove(self._real(path), keep=True)
            elif kind == "whiteout":
                self._remove(posixpath.join(self._real(folder), name))
            else:
                place = posixpath.join(self._real(folder, make=True), name)
                if kind == "hardlink":
                    self._put(place, self._linked(target))
                else:
                    self._put(place, RootfsEntry(kind, mode, size, digest, target, layer, path))

    def _put(self, place: str, file: RootfsEntry) -> None:
        known = self.files.get(place)
        if known and known.kind == "dir" and file.kind != "dir":
            self._drop(place)
        self.files[place] = file
        self._mark(place)

    def _mark(self, place: str) -> None:
        while place not in self._fresh:
            self._fresh.add(place)
            place = posixpath.dirname(place)

    def _linked(self, target: str) -> RootfsEntry:
        folder, name = posixpath.split("/".join(part for part in target.split("/") if part not in ("", ".")))
        place = posixpath.join(self._real(folder), name)
        if place not in self.files:
            raise StoreError(f"a layer holds a hard link to {target!r}, which is not a file", hint="do not use this image")
        return self.files[place]

    def _real(self, path: str, *, make: bool = False) -> str:
        """Folder that ``path`` resolves to, through links; missing ones are created, as on disk."""
        real: list[str] = []
        waiting = collections.deque(path.split("/") if path else [])
        links = 0
        while waiting:
            part = waiting.popleft()
            if part in ("", "."):
                continue
            if part == "..":
                del real[-1:]
                continue
            place = "/".join([*real, part])
            known = self.files.get(place)
            if known and known.kind == "symlink" and links < _MOST_LINKS:
                links += 1
                waiting.extendleft(reversed(known.target.split("/")))
                continue
            if known is None and make:
                self._put(place, RootfsEntry("dir", 0o755))
            real.append(part)
        return "/".join(real)

    def _remove(self, place: str, *, keep: bool = False) -> None:
        """Remove what lower layers put there; what this layer put there stays."""
        below = [path for path in self.files if path.startswith(f"{place}/") or (not place) or (path == place and not keep)]
        for path in below:
            if path not in self._fresh:
                del self.files[path]

    def _drop(self, place: str) -> None:
        for path in [path for path in self.files if path.startswith(f"{place}/")]:
            del self.files[path]
            self._fresh.discard(path)


# What is in files


def _texts(store: Store, files: Iterable[RootfsEntry]) -> dict[str, str]:
    """Digest -> text of the small text files, each layer read once at most."""
    wanted: dict[str, tuple[Descriptor, dict[str, str]]] = {}
    for file in files:
        if file.kind == "file" and file.layer and file.size <= TEXT_LIMIT:
            wanted.setdefault(file.layer.digest, (file.layer, {}))[1][file.inside] = file.digest
    found: dict[str, str] = {}
    for layer, paths in wanted.values():
        with open_layer(store, layer) as tar:
            for entry in tar:
                path = "/".join(part for part in entry.name.split("/") if part not in ("", "."))
                if path in paths and entry.kind == "file":
                    data = tar.head(TEXT_LIMIT + 1)
                    # A layer may hold a path twice.
                    if hashlib.sha256(data).hexdigest() == paths[path] and b"\0" not in data:
                        with contextlib.suppress(UnicodeDecodeError):
                            found[paths[path]] = data.decode()
    return found


def _unified(path: str, old: RootfsEntry | None, new: RootfsEntry | None, texts: Mapping[str, str]) -> str | None:
    sides = [file for file in (old, new) if file is not None]
    if any(file.kind != "file" or file.digest not in texts for file in sides) or len({file.digest for file in sides}) < len(sides):
        return None
    before, after = (texts[file.digest].splitlines(keepends=True) if file else [] for file in (old, new))
    names = (f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null")
    lines = difflib.unified_diff(before, after, *names)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

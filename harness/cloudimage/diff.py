"""Differences between two CloudImages: run information, images, files, and the bytes to transfer.

Either may be in the store or in a registry. Of one in a registry only manifests and configs are fetched; its files can be
compared when their layers are in the store.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.cloudimage.diff_side import Side
from harness.cloudimage.listing import content_sizes
from harness.cloudimage.model import EmbeddedImage, ImageSet, Info, PlatformImage
from harness.cloudimage.rootfs import RootfsEntry, merged
from harness.oci.layer.extract import open_layer
from harness.oci.model import Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.store import Store

TEXT_LIMIT = 256 << 10
"""Bytes of a file whose text is compared line by line."""


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
        parts = tuple(_compare_platform(store, old, new, wanted_platform, content=content) for wanted_platform in wanted)
    chosen = (platform,) if platform else ()
    old_blobs, new_blobs = old.blobs(chosen), new.blobs(chosen)
    missing = [size for digest, size in new_blobs.items() if digest not in old_blobs]
    shared = [size for digest, size in new_blobs.items() if digest in old_blobs]
    transfer = TransferSize(len(missing), sum(missing), len(shared), sum(shared))
    same = all(old.entries(wanted_platform) == new.entries(wanted_platform) for wanted_platform in wanted)
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
        "proven": (before.proven and before.proven.to_json(), after.proven and after.proven.to_json()),
        "convertedFrom": (_plain(before.converted_from), _plain(after.converted_from)),
    }
    yield from (ImageChange(kind, kind, old, new) for kind, (old, new) in facts.items() if old != new)
    yield from _pairs("env", before.env, after.env)
    yield from _pairs("value", *({value.name: value.to_json() for value in info.values} for info in (before, after)))
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
    sizes = {True: content_sizes(store, before), False: content_sizes(store, after)}

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


def _texts(store: Store, files: Iterable[RootfsEntry]) -> dict[str, str]:
    """Digest -> text of the small text files, each layer read once at most."""
    wanted: dict[str, tuple[Descriptor, dict[str, str]]] = {}
    for file in files:
        if file.kind == "file" and file.layer and file.size <= TEXT_LIMIT:
            wanted.setdefault(file.layer.digest, (file.layer, {}))[1][file.inside] = file.digest
    texts: dict[str, str] = {}
    for layer, paths in wanted.values():
        with open_layer(store, layer) as tar:
            for entry in tar:
                path = "/".join(part for part in entry.name.split("/") if part not in ("", "."))
                if path in paths and entry.kind == "file":
                    data = tar.head(TEXT_LIMIT + 1)
                    # A layer may hold a path twice.
                    if hashlib.sha256(data).hexdigest() == paths[path] and b"\0" not in data:
                        with contextlib.suppress(UnicodeDecodeError):
                            texts[paths[path]] = data.decode()
    return texts


def _unified(path: str, old: RootfsEntry | None, new: RootfsEntry | None, texts: Mapping[str, str]) -> str | None:
    sides = [file for file in (old, new) if file is not None]
    if any(file.kind != "file" or file.digest not in texts for file in sides) or len({file.digest for file in sides}) < len(sides):
        return None
    before, after = (texts[file.digest].splitlines(keepends=True) if file else [] for file in (old, new))
    names = (f"a/{path}" if old else "/dev/null", f"b/{path}" if new else "/dev/null")
    lines = difflib.unified_diff(before, after, *names)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)

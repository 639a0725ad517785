"""One CloudImage out of several: the image of a cluster and applications, or applications alone.

Nothing is built. The layers of the sources lie over each other in their order, so a later file replaces an earlier one, as COPY does.
Launch commands follow each other, container images are united. A value or a container image that two sources have differently is
refused, since one of them would run with what it was not made for. The same sources give the same digest.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from harness import cloudimage
from harness.cloudimage import History, ImageApp, ImageSet, Info, PlatformImage, rootfs
from harness.errors import Fault, FaultCollector, StoreError, UsageError
from harness.kubefile import version_range
from harness.oci.model import Descriptor, Platform
from harness.oci.reference import familiar
from harness.oci.store import Store
from harness.transfer import multi_platform
from harness.transfer.multi_platform import Fetch

_FEW = 5
"""Files that a warning names."""
_V = TypeVar("_V")


@dataclasses.dataclass(frozen=True)
class MergedImage:
    """The outcome of a merge. ``warnings`` report files that a later source replaces, and platforms that are left out."""

    name: str
    digest: str
    platforms: tuple[str, ...]
    sources: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class MergeSource:
    """One of the images, with its part for each platform."""

    name: str
    digest: str
    parts: Mapping[Platform, PlatformImage]

    @property
    def origin(self) -> dict[str, str]:
        return {"reference": self.name, "digest": self.digest}


def merge(
    store: Store,
    name: str,
    sources: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    replace: bool = False,
    fetch: Fetch | None = None,
    fresh: bool = False,
) -> MergedImage:
    """Give ``name`` to an image that has everything of ``sources``: names or digests of the store, or of registries (``fetch``).

    ``env`` settles values that the sources have differently; with ``replace`` the later source counts, also for container images.
    Raises InputError with every conflict, or StoreError; then no name has changed.
    """
    target = multi_platform.target_name(name)
    if len(sources) < 2:
        raise UsageError("a merge needs two images or more", hint="slipway merge BASE APP -t NAME")
    with store.shared_lease():
        collector, merge_sources = FaultCollector(), list[MergeSource]()
        for source in sources:
            with collector.of(source):
                merge_sources.append(_source(store, source, fetch, fresh=fresh))
        collector.finish()
        platforms = _common(merge_sources)
        parts = [_combined(store, merge_sources, platform, env or {}, replace, collector) for platform in platforms]
        collector.finish()
        warnings = (*_left_out(merge_sources, platforms), *dict.fromkeys(text for _, texts in parts for text in texts))
        descriptor = cloudimage.write(store, [part for part, _ in parts])
        store.tag(str(target), descriptor)
    return MergedImage(target.familiar, descriptor.digest, tuple(map(str, platforms)), tuple(one.name for one in merge_sources), warnings)


def _source(store: Store, source: str, fetch: Fetch | None, *, fresh: bool) -> MergeSource:
    pieces = multi_platform.pieces(store, source, fetch, fresh=fresh)
    name, digest = familiar(source), pieces[0].index
    return MergeSource(name if name in store.names() else digest, digest, {piece.platform: piece.image for piece in pieces})


def _common(sources: Sequence[MergeSource]) -> list[Platform]:
    """Platforms of all sources. Raises StoreError when there are none."""
    common = [platform for platform in sources[0].parts if all(platform in source.parts for source in sources)]
    if not common:
        each = "; ".join(f"{source.name}: {', '.join(map(str, source.parts))}" for source in sources)
        raise StoreError(f"the images have no platform in common: {each}", hint="build them with the same --platform")
    return sorted(common, key=str)


def _left_out(sources: Sequence[MergeSource], platforms: Sequence[Platform]) -> list[str]:
    every = sorted({platform for source in sources for platform in source.parts} - set(platforms), key=str)
    lacking = {platform: [source.name for source in sources if platform not in source.parts] for platform in every}
    return [
        f"{platform} is left out: {', '.join(names)} {'is' if len(names) == 1 else 'are'} not made for it"
        for platform, names in lacking.items()
    ]


def _combined(
    store: Store,
    sources: Sequence[MergeSource],
    platform: Platform,
    env: Mapping[str, str],
    replace: bool,
    collector: FaultCollector,
) -> tuple[PlatformImage, tuple[str, ...]]:
    """The image for one platform, and warnings. Faults are added to ``collector``."""
    named = [(source.name, source.parts[platform]) for source in sources]
    parts = [part for _, part in named]
    for name, part in named:
        if part.info.converted_from:
            message = f"was made by {part.info.converted_from.get('tool', 'another tool')}: its rootfs is not that of slipway"
            collector.add(Fault(name, message, "build it again FROM a CloudImage"))
    kube = [(name, part.info) for name, part in named if part.info.type != "app"]
    for name, _ in kube[1:]:
        collector.add(Fault(name, f"brings Kubernetes, as {kube[0][0]} does", "one image of a cluster, and application images"))
    _check_versions(named, kube[0][1].kubernetes if kube else None, collector)
    wins = "--replace takes the later one"
    values = _united(
        ((name, part.info.env) for name, part in named), "ENV {}", f"-e NAME=VALUE settles it, {wins}", collector, replace, env
    )
    images = {name: {image.name: image.digest for image in part.images.images} for name, part in named}
    _united(images.items(), "the container image {}", wins, collector, replace)
    apps: dict[str, ImageApp] = _united(
        ((name, {app.name: app for app in part.info.apps}) for name, part in named),
        "the application {}",
        "build one under another name",
        collector,
    )
    info = Info(
        type="kube" if kube else "app",
        kubernetes=kube[0][1].kubernetes if kube else None,
        runtime=(kube[0][1] if kube else parts[0].info).runtime,
        env={**values, **env},
        launch=tuple(command for part in parts for command in part.info.launch),
        apps=tuple(apps.values()),
        labels={key: text for part in parts for key, text in part.info.labels.items()},
        kube_version=_range([part.info.kube_version for part in parts]),
        cluster_apps=tuple(dict.fromkeys(app for part in parts for app in part.info.cluster_apps)),
        merged_from=tuple(source.origin for source in sources),
        extra={key: value for part in parts for key, value in part.info.extra.items()},
    )
    image, warnings = _laid(store, named, info)
    return dataclasses.replace(image, platform=parts[0].platform), warnings


def _united(
    values: Iterable[tuple[str, Mapping[str, _V]]],
    what: str,
    hint: str,
    collector: FaultCollector,
    replace: bool = False,
    settled: Iterable[str] = (),
) -> dict[str, _V]:
    """All values by their keys; the later one counts. One that differs is a fault, unless that is wanted."""
    united: dict[str, _V] = {}
    owners: dict[str, str] = {}
    for source, mapping in values:
        for key, value in mapping.items():
            if key in united and united[key] != value and not replace and key not in settled:
                collector.add(Fault(source, f"{what.format(key)} differs from that of {owners[key]}", hint))
            united[key], owners[key] = value, source
    return united


def _check_versions(named: Sequence[tuple[str, PlatformImage]], kubernetes: str | None, collector: FaultCollector) -> None:
    for name, part in named:
        wanted = part.info.kube_version
        if wanted and kubernetes and not version_range.admits(kubernetes, wanted):
            collector.add(
                Fault(name, f"is made for Kubernetes {wanted}, and the merged image brings {kubernetes}", "another version of it")
            )


def _range(ranges: Iterable[str | None]) -> str | None:
    """A range that admits what all of them admit."""
    distinct = list(dict.fromkeys(text for text in ranges if text))
    joined = itertools.product(*(text.split("||") for text in distinct))
    return " || ".join(" ".join(part.strip() for part in parts) for parts in joined) if distinct else None


def _laid(store: Store, named: Sequence[tuple[str, PlatformImage]], info: Info) -> tuple[PlatformImage, tuple[str, ...]]:
    """The layers over each other. Layers that a source begins with, as another one does, are there once."""
    layers, diff_ids, history = list[Descriptor](), list[str](), list[History]()
    warnings: list[str] = []
    tree: dict[str, rootfs.RootfsEntry] = {}
    owners: dict[str, str] = {}
    for index, (name, part) in enumerate(named):
        shared = max((_shared(part, other) for _, other in named[:index]), default=0)
        layers += part.layers[shared:]
        diff_ids += part.diff_ids[shared:]
        history += [History(f"MERGE {name}", empty=True), *_history(part, shared)]
        replaced: dict[str, list[str]] = {}
        for path, entry in rootfs.merged(store, part.layers).items():
            existing = tree.get(path)
            if existing is not None and existing != entry and "dir" not in (existing.kind, entry.kind):
                replaced.setdefault(owners[path], []).append(path)
            tree[path], owners[path] = entry, name
        warnings += [f"{name} replaces {_listed(paths)} of {other}" for other, paths in replaced.items()]
    images = ImageSet()
    for _, part in named:
        images = images.union(part.images)
    platform = named[0][1].platform
    return PlatformImage(platform, tuple(layers), tuple(diff_ids), tuple(history), info, images.sorted()), tuple(warnings)


def _shared(part: PlatformImage, other: PlatformImage) -> int:
    """Number of layers that both begin with: they were built FROM one image."""
    pairs = zip(part.diff_ids, other.diff_ids, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _history(part: PlatformImage, shared: int) -> list[History]:
    """The history of the layers behind the first ``shared`` ones."""
    steps = list(part.history) or [History("layer") for _ in part.layers]
    count = 0
    while count < shared and steps:
        count += not steps.pop(0).empty
    return steps


def _listed(paths: Sequence[str]) -> str:
    more = f" and {len(paths) - _FEW} more" if len(paths) > _FEW else ""
    return f"{', '.join(sorted(paths)[:_FEW])}{more}"

"""Image of sealer -> CloudImage."""

from __future__ import annotations

import dataclasses

from harness import log
from harness.cloudimage import History, PlatformImage
from harness.errors import StoreError
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.sealer.annotations import EXTENSION
from harness.sealer.image import ImageProblem, SealerImage, SealerPart, read
from harness.sealer.layers import SplitLayers, split_layers
from harness.sealer.restore import check_registry, restore
from harness.sealer.run_info import run_info
from harness.trust import policy


@dataclasses.dataclass(frozen=True)
class Conversion:
    """Result of a conversion; nothing is tagged yet. ``problems`` are of all platforms, each once."""

    source: SealerImage
    platforms: tuple[PlatformImage, ...]
    problems: tuple[ImageProblem, ...]
    notes: tuple[str, ...]


def convert(store: Store, name_or_digest: str, *, registry: str | None = None, platform: Platform | None = None) -> Conversion:
    """Turn an image of sealer into the platforms of a CloudImage; only ``platform`` when it is given.

    The same image gives the same layers, wherever it is converted. Hold ``store.shared_lease()`` around this and what writes and tags it.
    Raises StoreError when policy does not admit it, or it cannot be converted at all: a layer is damaged, the extension is missing or
    not readable.
    """
    if registry is not None:
        check_registry(registry)
    source = read(store, name_or_digest)
    policy.admit(store, name_or_digest, source.digest)
    parts = [part for part in source.parts if platform is None or part.platform.matches(platform)]
    if not parts:
        available = ", ".join(str(part.platform) for part in source.parts) or "no platform at all"
        raise StoreError(f"{source.name} is in the local store only for {available}", hint="pull it for that platform")
    problems: list[ImageProblem] = []
    notes = [f"{absent} is in the index, but not in the store" for absent in source.absent if platform is None]
    images = []
    for part in parts:
        with log.step(f"convert {source.name} for {part.platform}") as shown:
            images.append(_convert(store, part, registry, problems, notes))
            shown.note = f"{len(images[-1].images.images)} images, {log.size(sum(blob.size for blob in images[-1].images.blobs))}"
    return Conversion(source, tuple(images), tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(notes)))


def _convert(store: Store, part: SealerPart, registry: str | None, problems: list[ImageProblem], notes: list[str]) -> PlatformImage:
    if part.extension is None:
        fault = next(problem for problem in part.problems if problem.name == EXTENSION)
        raise StoreError(
            f"{part.digest} cannot be converted: {fault}",
            hint="copy it again from where sealer pushed it; a copy in Docker's own format loses annotations",
        )
    apart = split_layers(store, part.layers)
    restored = restore(store, apart.tree, part.listed, part.platform, registry)
    info = run_info(part, part.extension, problems)
    problems += [*part.problems, *restored.problems]
    notes += restored.notes
    if not apart.tree.tags and not apart.tree.revisions:
        notes.append("it embeds no container images; `slipway build` FROM it finds those that it needs")
    layers = [layer for layer in apart.layers if layer is not None]
    return PlatformImage(
        part.platform, tuple(layer.descriptor for layer in layers), tuple(layer.diff_id for layer in layers),
        _history(part, apart), info, restored.images,
    )  # fmt: skip


def _history(part: SealerPart, apart: SplitLayers) -> tuple[History, ...]:
    """The image's own; a step whose layer held nothing but the storage makes none here."""
    steps = [History(str(entry.get("created_by") or ""), "", bool(entry.get("empty_layer"))) for entry in part.history]
    if sum(not step.empty for step in steps) != len(part.layers):
        steps = [History(f"layer {layer.digest}") for layer in part.layers]
    kept = iter(apart.layers)
    return tuple(step if step.empty else dataclasses.replace(step, empty=next(kept) is None) for step in steps)

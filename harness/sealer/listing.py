"""Images of sealer as people see them: in `slipway images` and `slipway inspect`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness import log
from harness.cloudimage.listing import Row
from harness.errors import StoreError
from harness.oci.store import Store
from harness.sealer.image import KIND, ImageProblem, SealerImage, SealerPart, is_sealer, read

if TYPE_CHECKING:
    from harness.sealer.layers import RegistryTree
    from harness.sealer.restore import RestoredImages


def rows(store: Store) -> tuple[Row, ...]:
    """Lines of ``slipway images`` for the images of sealer that have a name here."""
    lines = []
    for name, descriptor in store.names().items():
        if not is_sealer(store, descriptor):
            continue
        try:
            image = read(store, name)
        except StoreError as problem:
            lines.append(Row(name, descriptor.digest, problem=problem.message, kind=KIND))
            continue
        lines.append(
            Row(
                name, image.digest, tuple(str(part.platform) for part in image.parts), image.size,
                len({entry.image for part in image.parts for entry in part.listed}),
                next((part.kubernetes for part in image.parts if part.kubernetes), None), kind=KIND,
            )
        )  # fmt: skip
    return tuple(lines)


@dataclasses.dataclass(frozen=True)
class Inside:
    """Content of the image for one platform."""

    part: SealerPart
    restored: RestoredImages
    sizes: Mapping[str, int]
    """Bytes of each embedded image with all its layers, by name."""
    problems: tuple[ImageProblem, ...]


def look(store: Store, image: SealerImage) -> tuple[Inside, ...]:
    """Read the layers of every platform. Raises StoreError when one is missing or damaged."""
    # Not at the top: `slipway images` reads no layer, and these load the readers of layers and Kubefiles.
    from harness.sealer.layers import split_layers
    from harness.sealer.restore import restore
    from harness.sealer.run_info import run_info

    contents = []
    for part in image.parts:
        with log.step(f"look into {image.name} for {part.platform}"), store.shared_lease():
            tree = split_layers(store, part.layers, rootfs=False).tree
            restored = restore(store, tree, part.listed, part.platform)
            sizes = {embedded.name: _size(store, tree, embedded.digest) for embedded in restored.images.images}
        faults: list[ImageProblem] = []
        if part.extension:
            run_info(part, part.extension, faults)
        contents.append(Inside(part, restored, sizes, (*part.problems, *faults, *restored.problems)))
    return tuple(contents)


def _size(store: Store, tree: RegistryTree, digest: str) -> int:
    return sum(tree.blobs.get(below, 0) for below in store.reachable([digest]))


def describe(image: SealerImage, inside: Sequence[Inside]) -> dict[str, Any]:
    """The image as plain data, for ``slipway inspect --output json``."""
    return {
        "name": image.name,
        "digest": image.digest,
        "kind": KIND,
        "platforms": [
            {
                "platform": str(content.part.platform),
                "digest": content.part.digest,
                "extension": content.part.extension.to_json() if content.part.extension else None,
                "kubernetes": content.part.kubernetes,
                "labels": dict(content.part.labels),
                "rootfs": {"layers": [layer.to_json() for layer in content.part.layers]},
                "images": [embedded.to_json() for embedded in content.restored.images.images],
                "problems": [dataclasses.asdict(problem) for problem in content.problems],
                "notes": list(content.restored.notes),
            }
            for content in inside
        ],
        "absentPlatforms": list(image.absent),
        "size": image.size,
    }

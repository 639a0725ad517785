"""Conformance of an image to the CloudImage format: docs/format.md, clause by clause, for images of any tool.

``check`` reads index, manifests, configs and every blob, unpacks the rootfs below the folder of temporary files, and gives a result
for each clause. Whatever an image says, the worst result is a failed clause.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness import log
from harness.cloudimage.conformance import imageset, info, reproducible, rootfs, structure
from harness.cloudimage.conformance.clauses import Clause, ClauseOutcome, ClauseResult, evaluate
from harness.cloudimage.conformance.sources import ConformanceSubject, subject
from harness.oci.store import Store
from harness.untrusted import shown

__all__ = [
    "CLAUSES",
    "FORMAT_VERSION",
    "Clause",
    "ClauseOutcome",
    "ClauseResult",
    "ConformanceReport",
    "ConformanceSubject",
    "check",
    "examine",
    "subject",
]

FORMAT_VERSION = "1.0"
"""Version of docs/format.md."""

CLAUSES: Mapping[str, Clause] = {
    clause.id: clause
    for clause in (
        *structure.CLAUSES,
        *rootfs.CLAUSES,
        *info.CLAUSES,
        *imageset.CLAUSES,
        *imageset.OFFLINE,
        *info.OFFLINE,
        *reproducible.CLAUSES,
    )
}
"""Every clause by its id."""


@dataclasses.dataclass(frozen=True)
class ConformanceReport:
    """Results of all clauses for one image. ``digest`` is empty when the index of an archive is not readable."""

    name: str
    digest: str
    results: tuple[ClauseResult, ...]

    @property
    def conforms(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[ClauseResult, ...]:
        return tuple(result for result in self.results if result.outcome is ClauseOutcome.FAILED)

    def count(self, outcome: ClauseOutcome) -> int:
        return sum(result.outcome is outcome for result in self.results)

    def to_json(self) -> dict[str, Any]:
        return {
            "name": shown(self.name),
            "digest": self.digest,
            "formatVersion": FORMAT_VERSION,
            "conforms": self.conforms,
            "counts": {outcome.value: self.count(outcome) for outcome in ClauseOutcome},
            "clauses": [result.to_json() for result in self.results],
        }


def check(store: Store, image: str, name: str | None = None) -> ConformanceReport:
    """Check an image of the store, of an archive or of an OCI image layout against every clause; see sources.subject().

    Raises StoreError when the store has no such image or the disk has no room, UsageError when an image has to be chosen.
    """
    with subject(store, image, name) as candidate:
        return examine(candidate)


def examine(candidate: ConformanceSubject) -> ConformanceReport:
    """Check an image that is open. Raises StoreError when the disk has no room for its rootfs."""
    image = candidate.image
    with log.step(f"read {shown(candidate.name)}") as step:
        image.hash_all(pointer.descriptor.digest for pointer in image.pointers() if pointer.descriptor)
        step.note = f"{len(image.manifests)} manifests"
        image.unpack()
    return ConformanceReport(candidate.name, candidate.digest, tuple(evaluate(clause, image) for clause in CLAUSES.values()))

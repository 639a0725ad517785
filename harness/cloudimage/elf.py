"""For which processor the programs in a layer are, read from their ELF headers (System V ABI, "ELF Header"). Nothing of them runs."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from harness.oci.layer import Layer
from harness.oci.layer.extract import open_layer
from harness.oci.model import Platform
from harness.oci.store import Store

HEADER = 20
"""Bytes of a file that identify its processor."""

_MACHINES = {3: "386", 21: "ppc64le", 22: "s390x", 40: "arm", 62: "amd64", 183: "arm64", 243: "riscv64", 258: "loong64"}
_PROGRAM_TYPES = (2, 3)
"""ET_EXEC and ET_DYN: what a kernel or a loader starts. Object files and cores are data."""


def processor(header: bytes) -> str | None:
    """The architecture of a program or library in OCI words, given its first HEADER bytes; None when it is neither or unknown."""
    if len(header) < HEADER or header[:4] != b"\x7fELF":
        return None
    kind, machine = struct.unpack_from("<HH" if header[5] == 1 else ">HH", header, 16)
    return _MACHINES.get(machine) if kind in _PROGRAM_TYPES else None


def processors(store: Store, layer: Layer) -> dict[str, str]:
    """Path -> architecture of every program in a layer, remembered after the first look."""
    key = layer.diff_id.replace(":", "-")
    record = store.record("layer-programs", key)
    if record is None:
        record = {"programs": dict(_look(store, layer))}
        store.keep("layer-programs", key, record)
    programs: dict[str, str] = record["programs"]
    return programs


def misfits(store: Store, layers: Iterable[Layer], platform: Platform) -> tuple[str, ...]:
    """``bin/tool (amd64)`` for each program in ``layers`` that ``platform`` cannot run, sorted."""
    programs = {path: one for layer in layers for path, one in processors(store, layer).items()}
    return tuple(f"{path} ({one})" for path, one in sorted(programs.items()) if one != platform.architecture)


def _look(store: Store, layer: Layer) -> Iterator[tuple[str, str]]:
    with open_layer(store, layer.descriptor) as tar:
        for entry in tar:
            architecture = processor(tar.head(HEADER)) if entry.kind == "file" else None
            if architecture:
                yield entry.name.removeprefix("./"), architecture

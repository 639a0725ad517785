"""For which processor a program is, by its ELF header."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from harness.cloudimage import elf as cloudimage_elf
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import Platform
from harness.oci.store import Store


def elf(machine: int, kind: int = 2, order: str = "<") -> bytes:
    """The beginning of an ELF file: e_ident, e_type, e_machine, and some of what follows."""
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    return ident + struct.pack(f"{order}HH", kind, machine) + bytes(44)


@pytest.mark.parametrize(
    ("header", "architecture"),
    [
        (elf(62), "amd64"),
        (elf(183, kind=3), "arm64"),
        (elf(22, order=">"), "s390x"),
        (elf(183, kind=1), None),
        (elf(9999), None),
        (b"#!/bin/sh\nexec true and some more", None),
        (b"\x7fELF", None),
        (b"", None),
    ],
)
def test_processor_is_read_from_elf_header(header: bytes, architecture: str | None) -> None:
    assert cloudimage_elf.processor(header) == architecture


def test_misfits_lists_programs_for_other_platform(tmp_path: Path) -> None:
    store = Store(tmp_path)
    layer = write_layer(
        [
            LayerEntry("bin/theirs", "file", 0o755, elf(183)),
            LayerEntry("bin/ours", "file", 0o755, elf(62)),
            LayerEntry("bin/script", "file", 0o755, b"#!/bin/sh\n"),
            LayerEntry("bin/link", "symlink", target="ours"),
        ],
        store,
    )
    assert cloudimage_elf.misfits(store, [layer], Platform("linux", "arm64")) == ("bin/ours (amd64)",)
    store.path(layer.descriptor.digest).unlink()
    assert cloudimage_elf.misfits(store, [layer], Platform("linux", "amd64")) == ("bin/theirs (arm64)",)

"""One reader of foreign data as a function of bytes, and what its inputs are made of."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

from harness.errors import SlipwayError

Check = Callable[[bytes, Path], object]
"""Given an input and an empty folder of its own."""


@dataclasses.dataclass(frozen=True)
class Target:
    """A reader. ``area`` is who answers for it: a module of the product."""

    name: str
    area: str
    check: Check
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()
    expected: tuple[type[Exception], ...] = (SlipwayError,)


ROOT = Path(__file__).parents[2]
DIGEST = "sha256:" + "0" * 64


def text_of(data: bytes) -> str:
    return data.decode(errors="replace")


def words_of(text: str) -> tuple[bytes, ...]:
    return tuple(word.encode() for word in text.split())


def project_files(*patterns: str) -> tuple[bytes, ...]:
    """Real ones of the project, as seeds."""
    return tuple(path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path.is_file())


def repaired(data: bytes) -> bytes:
    """A tar whose headers have right sums: readers look at nothing else of a block with a wrong one."""
    made = bytearray(data)
    for begin in range(0, len(made) - 511, 512):
        if made[begin + 257 : begin + 262] == b"ustar":
            made[begin + 148 : begin + 156] = b" " * 8
            made[begin + 148 : begin + 156] = b"%06o\0 " % sum(made[begin : begin + 512])
    return bytes(made)


def emptied(folder: Path) -> None:
    """Make a folder, with nothing in it."""
    if folder.exists():
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o700)
        shutil.rmtree(folder)
    folder.mkdir()

"""Choice of specs: by a file of names, by an expression, or every conformance test; and those that cannot run, each with the reason."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

from harness import untrusted
from harness.errors import Fault, InputError, UsageError

CONFORMANCE = "[Conformance]"
"""The tag of the specs that every cluster must pass, whatever it is made of."""
MOST_BYTES = 120_000
"""Of an expression: it reaches the tests as one variable of a container's environment, which Linux limits to 128 KiB."""

_SPECIAL = re.compile(r"[\\.+*?()|\[\]{}^$]")


@dataclasses.dataclass(frozen=True)
class SpecChoice:
    """Specs to run: those that match ``focus``, an expression of Go. ``names`` are its specs when a file names them."""

    focus: str
    names: tuple[str, ...] = ()
    described: str = ""

    @classmethod
    def full(cls) -> SpecChoice:
        """Every conformance test."""
        return cls(quoted(CONFORMANCE), described="all conformance tests")

    @classmethod
    def of_file(cls, path: Path) -> SpecChoice:
        """The specs that a file names. Raises InputError with every fault of it."""
        names = names_in(path)
        return cls(exactly(names), names, f"the {len(names)} specs of {path.name}")

    @classmethod
    def matching(cls, focus: str) -> SpecChoice:
        """The specs that an expression of Go matches, conformance tests or not."""
        if not focus.strip() or focus != untrusted.shown(focus) or len(focus.encode()) > MOST_BYTES:
            raise UsageError("--focus: an expression of one line is needed", hint=r"--focus 'sig-network.*\[Conformance\]'")
        return cls(focus, described=f"specs that match {focus}")


@dataclasses.dataclass(frozen=True)
class Hindrance:
    """Specs that need an image which cannot be had here."""

    image: str
    reason: str
    specs: tuple[str, ...]


def quoted(text: str) -> str:
    """An expression of Go that matches ``text`` only."""
    return _SPECIAL.sub(r"\\\g<0>", text)


def exactly(names: Sequence[str]) -> str:
    """An expression of Go that matches these specs only. Their text stands behind that of the suite, so it cannot begin with ``^``."""
    return f"(?:^| )(?:{'|'.join(quoted(name) for name in names)})$" if names else ""


def names_in(path: Path) -> tuple[str, ...]:
    """Names of specs, one a line; blank lines and lines that begin with ``#`` do not count.

    Raises InputError with every fault, UsageError for a file that cannot be read.
    """
    text = _text(path, "--specs")
    names: dict[str, int] = {}
    faults: list[Fault] = []
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in names:
            faults.append(Fault(f"{path}:{number}", f"line {names[name]} names this spec as well"))
        if name != untrusted.shown(name):
            faults.append(Fault(f"{path}:{number}", "it has characters that no name of a spec has"))
        names.setdefault(name, number)
    if not names:
        faults.append(Fault(str(path), "it names no spec", "one name a line, as a report of the tests has it"))
    if len(exactly(tuple(names)).encode()) > MOST_BYTES:
        faults.append(Fault(str(path), f"{len(names)} specs are too many for one run", "run all with --full, or divide the file"))
    if faults:
        raise InputError(faults)
    return tuple(names)


def _text(path: Path, option: str) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as wrong:
        raise UsageError(f"{option} {path}: {getattr(wrong, 'strerror', None) or 'it is not text'}") from wrong


def hindrances(path: Path | None) -> tuple[Hindrance, ...]:
    """Entries of a file; none without one. Raises InputError with every fault, UsageError for a file that cannot be read."""
    if path is None:
        return ()
    text = _text(path, "--unavailable")
    document = untrusted.yaml_document(text, what=str(path), error=UsageError)
    faults: list[Fault] = []
    entries: list[Hindrance] = []
    for index, entry in enumerate(document if isinstance(document, list) else [document]):
        where = f"{path} [{index}]"
        if not isinstance(entry, dict) or set(entry) != {"image", "reason", "specs"}:
            faults.append(Fault(where, "an entry has image, reason and specs"))
            continue
        specs = entry["specs"]
        if not isinstance(specs, list) or not specs or not all(isinstance(one, str) and one for one in specs):
            faults.append(Fault(f"{where}.specs", "it is not a list of names"))
            continue
        entries.append(Hindrance(str(entry["image"]), " ".join(str(entry["reason"]).split()), tuple(specs)))
    if faults:
        raise InputError(faults)
    return tuple(entries)


def hindered(entries: Iterable[Hindrance], present: Collection[str]) -> dict[str, str]:
    """Name of each spec that cannot run, with the reason. ``present`` are the images that the cluster has."""
    return {name: f"{entry.image}: {entry.reason}" for entry in entries if entry.image not in present for name in entry.specs}

"""Results: text, tables and JSON on standard output, errors for programs; and values of options that many verbs read."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from harness import log, untrusted
from harness.errors import Fault, InputError, UsageError

if TYPE_CHECKING:
    from harness.oci.store import Store


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print for people. Whoever the text comes from (an image, a registry, a machine): it cannot steer the terminal."""
    print(untrusted.shown(str(text), lines=True), file=file, end=end, flush=flush)


def print_json(value: Any) -> None:
    """For programs; json.dumps escapes what is not ASCII."""
    print(json.dumps(value, indent=2))


def print_error(value: Mapping[str, Any]) -> None:
    """For programs: the last line of standard error. Results alone go to standard output, also those of a verb that fails."""
    say(json.dumps({"error": value}), file=sys.stderr)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Aligned columns without lines; never wrapped, so that other programs can cut them."""
    console = Console()
    if not console.is_terminal:
        _plain_table(columns, rows)
        return
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        drawn.add_column(column, no_wrap=True, overflow="ignore")
    for row in rows:
        # Text, for in plain strings rich looks for its own markup.
        drawn.add_row(*(Text(untrusted.shown(cell)) for cell in row))
    console.print(drawn)


def steps_table(described: Iterable[Mapping[str, Any]]) -> None:
    """The steps of a plan."""
    table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in described])


def _plain_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [list(columns), *([untrusted.shown(cell) for cell in row] for row in rows)]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def pairs(values: Sequence[str], option: str) -> dict[str, str]:
    """``K=V`` options as a mapping. Raises InputError for one without a name or a value."""
    faults = [
        Fault(f"{option} {value}", "not NAME=VALUE") for value in values if not value.partition("=")[1] or not value.partition("=")[0]
    ]
    if faults:
        raise InputError(faults)
    mapping = {name: value for name, _, value in (value.partition("=") for value in values)}
    from harness.clusterfile import secrets

    log.hide(*(value for name, value in mapping.items() if secrets.is_secret_name(name)))
    return mapping


def local_store() -> Store:
    """The local store. It is loaded only when a verb uses it."""
    from harness.oci.store import Store

    return Store.default()


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def one_of(value: str, choices: Iterable[str], option: str) -> str:
    if value not in choices:
        raise UsageError(f"{option} {value}: not known", hint=f"one of {', '.join(choices)}")
    return value


def plain(value: Any) -> Any:
    """A dataclass as JSON values: keys as ``inPlace``, paths as text. Keys of mappings are data and stay."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {camel(field.name): plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def camel(name: str) -> str:
    """``inPlace`` for ``in_place``."""
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)

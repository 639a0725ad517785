"""What the verbs share: the program and its groups of verbs, tables and JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from harness import log, untrusted
from harness.cli.program import Group, Program, QuickGroup
from harness.errors import Fault, InputError, UsageError

if TYPE_CHECKING:
    from harness.oci.store import Store

HELP = """Builds, tests, shares and runs cluster images: a whole distributed application, Kubernetes included, in one OCI artifact.

\b
  slipway build -t web kubefiles/web                     build a CloudImage
  slipway inspect web                                    what is in it
  slipway run web --masters 10.0.0.1 --nodes 10.0.0.2    make a cluster that runs it
"""

SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Images",
        ("build", "find-images", "outdated", "images", "inspect", "history", "diff", "tag", "rmi", "prune", "manifest", "merge", "convert"),
    ),
    ("Sharing", ("push", "pull", "login", "logout", "search", "save", "load")),
    ("Trust", ("keys", "sign", "verify", "sbom", "provenance")),
    (
        "Clusters",
        (
            "run",
            "apply",
            "apps",
            "join",
            "remove",
            "upgrade",
            "rollback",
            "status",
            "check",
            "delete",
            "exec",
            "debug",
            "logs",
            "kubeconfig",
            "certs",
            "backup",
            "restore",
            "generate",
        ),
    ),
    ("Machines", ("nodes", "engine", "version")),
)
"""How ``slipway --help`` lists the verbs."""


class Verbs(QuickGroup):
    """Lists the verbs by theme."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        known = {name: command for name in self.list_commands(ctx) if (command := self.get_command(ctx, name)) and not command.hidden}
        placed = {name for _, names in SECTIONS for name in names}
        rest = tuple(name for name in known if name not in placed)
        width = max(len(name) for name in known)
        for title, names in (*SECTIONS, ("More", rest)):
            rows = [(name.ljust(width), known[name].get_short_help_str(formatter.width - width - 6)) for name in names if name in known]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


app = Program(
    cls=Verbs,
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)
nodes_app = Program(cls=Group, help="Manage machines to run clusters on.", no_args_is_help=True)
engine_app = Program(cls=Group, help="The Docker engine of this machine.", no_args_is_help=True)
app.add_typer(nodes_app, name="nodes")
app.add_typer(engine_app, name="engine")


def say(text: object = "", *, file: TextIO | None = None, end: str = "\n", flush: bool = False) -> None:
    """Print for people. Whoever the text comes from (an image, a registry, a machine): it cannot steer the terminal."""
    print(untrusted.shown(str(text), lines=True), file=file, end=end, flush=flush)


def print_json(value: Any) -> None:
    """For programs; json.dumps escapes what is not ASCII."""
    print(json.dumps(value, indent=2))


def print_error(value: Mapping[str, Any]) -> None:
    """For programs: the last line of standard error. Results alone go to standard output, also those of a verb that fails."""
    say(json.dumps({"error": value}), file=sys.stderr)


def wants_json(output: str) -> bool:
    if output not in ("text", "json"):
        raise UsageError(f"--output {output}: not a format", hint="text or json")
    return output == "json"


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
    found = {name: value for name, _, value in (value.partition("=") for value in values)}
    from harness.clusterfile import secrets

    log.hide(*(value for name, value in found.items() if secrets.is_secret_name(name)))
    return found


def local_store() -> Store:
    """The local store. It is loaded only when a verb uses it."""
    from harness.oci.store import Store

    return Store.default()


def short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]


def one_of(value: str, known: Iterable[str], option: str) -> str:
    if value not in known:
        raise UsageError(f"{option} {value}: not known", hint=f"one of {', '.join(known)}")
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

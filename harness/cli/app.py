"""The command line ``slipway``: one small function a verb, in one file a theme. The only place that prints results or ends the process."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from harness import about, log, process
from harness.cli import (  # noqa: F401 -- they add their verbs, in this order
    apps,
    archive,
    build,
    check,
    clusterfile,
    clusters,
    convert,
    diff,
    images,
    machines,
    manifest,
    members,
    operate,
    registry,
    search,
    trust,
    upgrade,
)
from harness.cli.output import app, say
from harness.errors import InputError, SlipwayError
from harness.log import timings

_ALIKE = 4
"""Lines that give the same reason which are shown."""

# The base of what the parser raises, in click itself or in the copy of it that newer releases of typer carry.
_WrongUsage: type[Any] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    sys.exit(execute(list(sys.argv[1:] if arguments is None else arguments)))


def execute(arguments: list[str]) -> int:
    """Run a command line; the exit code. Everything that fails is said here, once, and never as a traceback."""
    code = _executed(arguments)
    try:
        timings.write()
    except OSError as error:
        return _explain(SlipwayError(f"{error.filename}: {error.strerror}")) if code == 0 else code
    return code


def _executed(arguments: list[str]) -> int:
    # A service manager's stop is as good a reason to clean up as Ctrl-C. Whoever starts us in the background has Ctrl-C ignored.
    signal.signal(signal.SIGTERM, _interrupted)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupted)
    try:
        found = app(arguments, standalone_mode=False, prog_name="slipway")
    except _WrongUsage as error:
        error.show()
        return 2
    except (KeyboardInterrupt, typer.Abort):
        found = 130
    except SlipwayError as error:
        return _explain(error)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _explain(SlipwayError(f"{error.filename or 'system'}: {error.strerror or error}"))
    except Exception as error:  # a user never sees a traceback; --verbose shows where it was
        if log.is_verbose():
            raise
        return _explain(
            SlipwayError(
                f"this should not have happened: {type(error).__name__}: {error}",
                hint="run it again with --verbose and report what it says",
            )
        )
    if found == 130:
        return _fail("interrupted; the same command can be run again", 130)
    return int(found or 0)


def _interrupted(*_: object) -> NoReturn:
    # A compile in a thread would be waited for before anything is cleaned up.
    process.end_all()
    raise KeyboardInterrupt


def _report(text: str) -> None:
    """Print part of an error, without secrets that are known."""
    say(log.hidden(text), file=sys.stderr)


def _fail(text: str, code: int) -> int:
    _report(f"slipway: {text}")
    return code


def _explain(error: SlipwayError) -> int:
    if isinstance(error, InputError):
        count = len(error.faults)
        for fault in error.faults:
            _report(str(fault))
        return _fail(f"{count} fault{'s' if count != 1 else ''} in the input; nothing has been changed", error.exit_code)
    _report(f"slipway: {error.message}")
    if error.details:
        _report(textwrap.indent(error.details.rstrip() if log.is_verbose() else _brief(error.details), "    "))
    if error.hint:
        _report(f"  hint: {error.hint}")
    return error.exit_code


def _brief(details: str) -> str:
    """Without most of many lines on end that give the same reason for one thing after the other, as tar does when a disk is full."""
    kept: list[str] = []
    for reason, group in itertools.groupby(details.rstrip().splitlines(), lambda line: line.rpartition(": ")[2]):
        lines = list(group)
        few = len(lines) <= _ALIKE or not reason.strip()
        kept += lines if few else [*lines[:_ALIKE], f"... {len(lines) - _ALIKE} more like it; --verbose shows them"]
    return "\n".join(kept)


@app.callback()
def _common(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show results and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every command and request.")] = False,
    timings_file: Annotated[
        Path | None,
        typer.Option("--timings", metavar="FILE", help="Write a timeline of the command for trace viewers.", show_default=False),
    ] = None,
) -> None:
    log.setup(quiet=quiet, verbose=verbose)
    if timings_file is not None:
        timings.record(timings_file)


@app.command()
def version() -> None:
    """Show the version."""
    say(f"slipway {about.version()}")

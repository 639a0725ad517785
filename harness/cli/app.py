"""The command line ``slipway``: one small function a verb. The only place that prints results or ends the process.

``main`` runs it. A verb is in the module of its name or theme.
"""

from __future__ import annotations

import contextvars
import dataclasses
import gc
import itertools
import os
import select
import signal
import sys
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

import typer

from harness import about, log, process
from harness.cli import (  # noqa: F401 -- they add their verbs, in this order
    apps,
    archive,
    backup,
    build,
    catalog,
    certs,
    check,
    clusterfile,
    conformance,
    convert,
    debug,
    delete,
    diff,
    e2e,
    exec,  # noqa: A004 -- the module of a verb
    find_images,
    images,
    kubeconfig,
    logs,
    machines,
    manifest,
    members,
    merge,
    new,
    registry,
    run,
    search,
    sites,
    status,
    trust,
    upgrade,
)
from harness.cli.options import Output
from harness.cli.output import print_error, say
from harness.cli.program import CommandEnded, Common, VersionWanted, program
from harness.cli.root import app
from harness.errors import InputError, SlipwayError, UsageError
from harness.log import timings

_ALIKE = 4
"""Lines that give the same reason which are shown."""

# The base of what the parser raises, in click itself or in the copy of it that newer releases of typer carry.
_WrongUsage: type[Any] = typer.BadParameter.__mro__[2]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and end the process with its exit code."""
    # What has been imported stays until the end: nothing in it is worth a search for garbage.
    gc.freeze()
    sys.exit(execute(list(sys.argv[1:] if arguments is None else arguments)))


def execute(arguments: list[str]) -> int:
    """Run a command line; the exit code. Everything that fails is said here, once, and never as a traceback."""
    _state.as_json = _asks_for_json(arguments)
    # What a command is given (its login) ends with it.
    code = contextvars.copy_context().run(_executed, arguments)
    try:
        say(end="", flush=True)
    except BrokenPipeError:
        _drop_results()
    try:
        timings.write()
    except OSError as error:
        return _explain(SlipwayError(f"{error.filename}: {error.strerror}")) if code == 0 else code
    return code


def _executed(arguments: list[str]) -> int:
    _catch_signals()
    try:
        code = app(arguments, standalone_mode=False, prog_name="slipway")
    except VersionWanted:
        say(f"slipway {about.version()}")
        return 0
    except CommandEnded as ended:
        return ended.code
    except _WrongUsage as error:
        return _wrong_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except SlipwayError as error:
        return _explain(error)
    except SystemExit as ended:
        if not isinstance(ended.__context__, BrokenPipeError):
            raise
        # The parser makes this of every broken pipe: of the reader of the results, or of a connection.
        return _drop_results() if _lost_reader() else _explain(_of_system(ended.__context__))
    except OSError as error:
        return _explain(_of_system(error))
    except Exception as error:  # a user never sees a traceback; --verbose shows where it was
        if log.is_verbose():
            raise
        return _explain(
            SlipwayError(
                f"this should not have happened: {type(error).__name__}: {error}",
                hint="run it again with --verbose and report what it says",
            )
        )
    if code == 130:
        return _explain(_InterruptedError("interrupted; the same command can be run again"))
    return int(code or 0)


def _catch_signals() -> None:
    """Clean up as after Ctrl-C when a service manager stops the command, or its terminal is closed."""
    signal.signal(signal.SIGTERM, _interrupted)
    for number in (signal.SIGINT, signal.SIGHUP):
        # A shell has a command in the background ignore Ctrl-C, and nohup the end of the terminal.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupted)


def _lost_reader() -> bool:
    """Return True when standard output is a pipe that nothing reads any more, as behind ``| head``."""
    ended = select.poll()
    ended.register(sys.stdout.fileno(), 0)
    return bool(ended.poll(0))


def _drop_results() -> int:
    """Discard results that wait to be written; the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _of_system(error: OSError) -> SlipwayError:
    hint = "SLIPWAY_HOME and SLIPWAY_CACHE name folders that slipway may write to" if isinstance(error, PermissionError) else None
    return SlipwayError(f"{error.filename or 'system'}: {error.strerror or error}", hint=hint)


def _interrupted(*_: object) -> NoReturn:
    # A compile in a thread would be waited for before anything is cleaned up.
    process.end_all()
    raise KeyboardInterrupt


def _report(text: str) -> None:
    """Print part of an error, without secrets that are known."""
    say(log.hidden(text), file=sys.stderr)


def _explain(error: SlipwayError) -> int:
    if _state.as_json:
        return _explain_as_json(error)
    if isinstance(error, InputError):
        for fault in error.faults:
            _report(str(fault))
        _report(f"slipway: {_count(error)}")
        return error.exit_code
    _report(f"slipway: {error.message}")
    if error.details:
        _report(textwrap.indent(error.details.rstrip() if log.is_verbose() else _brief(error.details), "    "))
    if error.hint:
        _report(f"  hint: {error.hint}")
    return error.exit_code


def _count(error: InputError) -> str:
    count = len(error.faults)
    return f"{count} fault{'s' if count != 1 else ''} in the input; nothing has been changed"


def _explain_as_json(error: SlipwayError) -> int:
    """One line for programs: ``message`` and ``exitCode``; ``hint``, ``details`` and ``faults`` where there are any."""
    faults = error.faults if isinstance(error, InputError) else ()
    value = {
        "message": _count(error) if isinstance(error, InputError) else error.message,
        "exitCode": error.exit_code,
        "hint": error.hint,
        "details": error.details,
        "faults": [{"where": fault.where, "message": fault.message, "hint": fault.hint} for fault in faults],
    }
    print_error({key: _without_secrets(item) for key, item in value.items() if item or key == "exitCode"})
    return error.exit_code


def _without_secrets(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_secrets(item) for item in value]
    if isinstance(value, dict):
        return {key: _without_secrets(item) for key, item in value.items() if item}
    return log.hidden(value) if isinstance(value, str) else value


class _InterruptedError(SlipwayError):
    exit_code = 130


@dataclasses.dataclass
class _State:
    as_json: bool = False


_state = _State()


def _asks_for_json(arguments: Sequence[str]) -> bool:
    """Return True when errors are wanted as JSON. It is called before the command line is parsed, since that may fail."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    pairs = itertools.pairwise([*own, ""])
    return any(word in ("-ojson", "--output=json") or (word in ("-o", "--output") and value == "json") for word, value in pairs)


_FROM_SEALER = {
    "alpha": "sealer's `alpha` verbs: slipway exec, debug, generate, upgrade, search, check",
    "cert": "slipway certs add-names NAME...",
    "commit": "slipway build makes images, from a Kubefile",
    "create": "slipway run IMAGE --control-plane IP",
    "gen": "slipway generate",
    "health-check": "slipway check",
    "mount": "slipway inspect IMAGE shows what is in an image",
    "run-app": "slipway run IMAGE --cluster NAME",
    "scale-down": "slipway remove NODE...",
    "scale-up": "slipway join --control-plane IP --workers IP",
    "--cluster-file": "-f Clusterfile",
    "--Clusterfile": "-f Clusterfile",
    "--imagefile": "-f Kubefile",
    "--kubefile": "-f Kubefile",
    "--provider": "`slipway nodes up --provider container|aws|aliyun` boots machines; a Clusterfile may have provider and count",
}
"""Words of sealer that slipway does not know."""


def _wrong_usage(error: Any) -> int:
    """Report an error of the parser; the exit code."""
    unknown = getattr(error, "option_name", "") or (error.message.partition("'")[2].partition("'")[0])
    hint = _FROM_SEALER.get(unknown) or _explain_missing(error)
    if _state.as_json:
        return _explain_as_json(UsageError(error.format_message(), hint=hint))
    error.show()
    if hint:
        _report(f"  hint: {hint}")
    return 2


def _explain_missing(error: Any) -> str | None:
    """Name a missing argument without the words that may precede it; return its help as a hint."""
    if not hasattr(error, "param_type") or error.param is None:
        return None
    if error.param.param_type_name == "argument" and error.param.metavar:
        error.param_hint = f"'{error.param.metavar.rpartition('] ')[2]}'"
    return error.param.help or None


def _brief(details: str) -> str:
    """Without most of many lines on end that give the same reason for one thing after the other, as tar does when a disk is full."""
    kept: list[str] = []
    for reason, group in itertools.groupby(details.rstrip().splitlines(), lambda line: line.rpartition(": ")[2]):
        lines = list(group)
        few = len(lines) <= _ALIKE or not reason.strip()
        kept += lines if few else [*lines[:_ALIKE], f"... {len(lines) - _ALIKE} more like it; --verbose shows them"]
    return "\n".join(kept)


@app.callback()
def _common(context: typer.Context, common: Common) -> None:
    program(context, common)


@app.command()
def version(*, output: Output) -> None:
    """Show the version."""
    if not output.printed({"version": about.version()}):
        say(f"slipway {about.version()}")

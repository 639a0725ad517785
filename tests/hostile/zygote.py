"""The command line, loaded once and forked for each command: most of the time of a small command goes into loading it.

Reads a request a line from standard input (JSON: argv, env, cwd, the files for the standard streams, fields of the patience with registries
that are not its own defaults, and a limit for commands on machines), and writes two lines for each: the process id of the command, then its
wait status and its largest resident size in kB.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import importlib
import json
import os
import pkgutil
import resource
import signal
import sys
from typing import Any

import harness
from harness import process
from harness.cli.app import execute
from harness.transfer import access

BACKSTOP = 1 << 30
"""Bytes of private memory after which the kernel refuses more: a bomb must not take the machine that tests."""
LARGEST_FILE = 256 << 20
CPU = 30
"""Seconds of processor time. A bomb takes hours; no command here takes more than a few."""


def load() -> None:
    """Import all that a verb imports when it begins."""
    for module in pkgutil.walk_packages(harness.__path__, "harness."):
        if not module.name.endswith(("__main__", "oci_runtime")):
            importlib.import_module(module.name)
    # At its end an interpreter looks through all that it holds. A child would do so over pages that it shares until then.
    gc.collect()
    gc.freeze()


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (BACKSTOP, BACKSTOP))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU, CPU + 10))
    resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def hasten(patience: float) -> None:
    """Give up every program that runs longer than this: a machine that hangs is given up in the same way, only sooner."""
    run = process.run

    @functools.wraps(run)
    def hastened(argv: Any, *, timeout: float | None = None, **options: Any) -> process.ProcessResult:
        return run(argv, timeout=patience if timeout is None else min(timeout, patience), **options)

    process.run = hastened


def become(request: dict[str, Any]) -> list[str]:
    """Turn a forked child into the process that was asked for; the arguments of the command line."""
    for number, (name, flags) in enumerate((("stdin", os.O_RDONLY), ("stdout", os.O_WRONLY), ("stderr", os.O_WRONLY))):
        opened = os.open(request[name], flags)
        os.dup2(opened, number)
        os.close(opened)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    limit()
    if request["command_limit"] is not None:
        hasten(request["command_limit"])
    access.RETRIES = dataclasses.replace(access.RETRIES, **request["patience"])
    return [str(word) for word in request["argv"]]


def serve() -> list[str] | None:
    """Fork a child for each request. Returns its arguments in a child, None at the end of the requests."""
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            return become(request)
        print(child, flush=True)
        _, status, usage = os.wait4(child, 0)
        print(status, usage.ru_maxrss, flush=True)
    return None


def main() -> int:
    load()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = serve()
    # A child ends as any interpreter does: what was registered for the end is done.
    return 0 if arguments is None else execute(arguments)


if __name__ == "__main__":
    sys.exit(main())

"""The one door to other programs: argv lists, captured output in the error, logged as a line that one can paste."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from harness import log
from harness.errors import CommandError

Item = TypeVar("Item")
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class ProcessResult:
    """Output of a program. ``stdout`` and ``stderr`` are text, undecodable bytes replaced."""

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    @property
    def ok(self) -> bool:
        return self.returncode == 0

    @property
    def output(self) -> str:
        """Both streams, standard output first, without the blank edges."""
        return "\n".join(part for part in (self.stdout.strip(), self.stderr.strip()) if part)


LONGEST_ARGUMENT = (128 << 10) - 1
"""Bytes of one argument of a program, for Linux (MAX_ARG_STRLEN)."""
HEED = 1.0
"""Seconds after which a wait looks whether Ctrl-C was pressed.

Python looks for signals before it begins to wait. One that arrives between both, or that another thread takes, does not end the wait.
"""
OUTPUT_LIMIT = 64 << 20
"""Bytes that one program may print, on both streams together, before it is ended."""

_GRACE = 10.0
"""Seconds that a program has to end after it was asked to."""
_TOGETHER = 96 << 20
"""Bytes that all programs which run at the same time may have printed into memory, before one that printed much is ended."""
_SHARE = 8 << 20
"""Bytes that one may print whatever others do: a machine that lies ends no command on an honest one."""

_PIECE = 1 << 16


class _Group(subprocess.Popen[bytes]):
    """A program that leads a process group of its own. It ends with all that it has started, at once: a shell does not ask its children."""

    def send_signal(self, sig: int) -> None:  # noqa: ARG002 -- what began is not to be half there
        # Also when the leader has ended: the others may hold its pipes.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)


class _Running:
    """Programs of ``stream``, and groups, that run now, in whatever thread: Ctrl-C reaches the main thread only, which would wait for all
    others.
    """

    def __init__(self) -> None:
        self._programs: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, program: subprocess.Popen[bytes]) -> Generator[None, None, None]:
        with self._lock:
            self._programs.add(program)
        try:
            yield
        finally:
            with self._lock:
                self._programs.discard(program)

    def end(self) -> None:
        with self._lock:
            programs = list(self._programs)
        for program in programs:
            program.terminate()
        if programs:
            force = threading.Timer(_GRACE, _kill, [programs])
            force.daemon = True
            force.start()


def _kill(programs: Sequence[subprocess.Popen[bytes]]) -> None:
    for program in programs:
        program.kill()  # nothing for one that has ended


_running = _Running()


def end_all() -> None:
    """End every program that ``stream`` runs, and every group; each of the calls then returns as if the program had failed."""
    _running.end()


def wait_for(futures: Sequence[concurrent.futures.Future[Any]]) -> None:
    """Wait until all have ended. Ctrl-C ends the wait, whenever it comes."""
    while concurrent.futures.wait(futures, timeout=HEED).not_done:
        pass


def results(futures: Sequence[concurrent.futures.Future[Value]]) -> tuple[Value, ...]:
    """Return the results in order. Raises the first failure without a wait for the others; Ctrl-C ends the wait as in ``wait_for``."""
    running = set(futures)
    while running:
        ended, running = concurrent.futures.wait(running, timeout=HEED, return_when=concurrent.futures.FIRST_EXCEPTION)
        for future in ended:
            future.result()
    return tuple(future.result() for future in futures)


def parallel(
    action: Callable[[Item], Value], items: Iterable[Item], most: int, stop: Callable[[], object] = lambda: None
) -> tuple[Value, ...]:
    """Return the results of ``action`` in the order of the items, ``most`` of which are worked on at a time.

    The first failure, or Ctrl-C, is raised when nothing runs any more: what waits is not begun, and ``stop`` ends what runs.
    """
    with concurrent.futures.ThreadPoolExecutor(most) as pool:
        try:
            # Also inside: the first may be under way for long while Ctrl-C arrives during the submission of the last.
            return results([pool.submit(action, item) for item in items])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            stop()
            raise


class _Kept:
    """Bytes that running programs have printed into memory."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        with self._lock:
            self.total += count


_kept = _Kept()


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    input: str | bytes | IO[bytes] | None = None,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    timeout: float | None = None,
    output: IO[bytes] | None = None,
    limit: int = OUTPUT_LIMIT,
    group: bool = False,
) -> ProcessResult:
    """Run a program to its end.

    ``input`` is text, bytes or an open file for its standard input (else empty); ``env`` is added to the environment of this
    process; ``timeout`` in seconds; standard output goes to the open file ``output`` when there is one, and is empty in the result.
    ``limit``: most bytes that it may print. ``group``: whatever ends it early, an interruption included, also ends what it has started.
    Raises CommandError when the program is missing, too slow or prints too much and, with ``check``, when it ends with anything but 0.
    """
    words = tuple(str(word) for word in argv)
    log.debug(shlex.join(words))
    data: bytes | None = None
    stdin: IO[bytes] | int = subprocess.PIPE
    if input is None or isinstance(input, str | bytes):
        data = input.encode() if isinstance(input, str) else input
        stdin = subprocess.PIPE if data else subprocess.DEVNULL
    else:
        stdin = input
    running = _start(words, stdin, env, cwd, group)
    try:
        with _running(running) if group else contextlib.nullcontext():
            stdout, stderr = _collect(running, data or b"", None if timeout is None else time.monotonic() + timeout, output, limit)
    except _LateError as late:
        raise CommandError(f"{shlex.join(words)}: not done after {timeout or 0:g} s") from late
    except _LargeError as large:
        raise CommandError(
            f"{shlex.join(words)}: ended, since it printed more than {(large.limit or limit) >> 20} MiB",
            hint="this is far more than it should print",
        ) from large
    result = ProcessResult(words, running.returncode, _text(stdout), _text(stderr))
    if check and not result.ok:
        raise CommandError(f"{shlex.join(words)}: exit code {result.returncode}", details=result.output)
    return result


def _start(
    words: Sequence[str], stdin: IO[bytes] | int, env: Mapping[str, str] | None, cwd: str | Path | None, group: bool = False
) -> subprocess.Popen[bytes]:
    """Start a program whose output is read by this process."""
    start = _Group if group else subprocess.Popen
    environment = {**os.environ, **env} if env else None
    try:
        return start(words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, cwd=cwd, start_new_session=group)
    except FileNotFoundError as missing:
        raise CommandError(f"{words[0]}: no such program", hint=f"install {words[0]} or put it on PATH") from missing


class _LateError(Exception):
    """The program has not ended in time."""


class _LargeError(Exception):
    """The program has printed more than it may; ``limit`` is the one that counts while others print too."""

    def __init__(self, limit: int = 0) -> None:
        super().__init__(limit)
        self.limit = limit


def _collect(
    running: subprocess.Popen[bytes], data: bytes, deadline: float | None, output: IO[bytes] | None, limit: int
) -> tuple[bytearray, bytearray]:
    """Feed a program and take what it prints, at most ``limit`` bytes, until it has ended. It is killed when that fails."""
    # One buffer each: a list of pieces of a byte would take forty times as much.
    stdout, stderr = bytearray(), bytearray()
    held = 0
    try:
        with contextlib.closing(_pieces(running, data, deadline)) as pieces:
            for name, piece in pieces:
                limit -= len(piece)
                if limit < 0:
                    raise _LargeError
                if name == "stdout" and output is not None:
                    output.write(piece)
                    continue
                held += len(piece)
                _kept.add(len(piece))
                if held > _SHARE and _kept.total > _TOGETHER:
                    raise _LargeError(_SHARE)
                (stderr if name == "stderr" else stdout).extend(piece)
        try:
            running.wait(None if deadline is None else max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired as late:
            raise _LateError from late
    except BaseException:
        # The traceback of the error refers to them for as long as the error is kept.
        stdout.clear()
        stderr.clear()
        # Not waited for its pipes: a child of it may hold them.
        running.kill()
        running.wait()
        raise
    finally:
        _kept.add(-held)
        for pipe in (running.stdin, running.stdout, running.stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
    if output is not None:
        output.flush()
    return stdout, stderr


def _text(output: bytearray) -> str:
    """Output as text; the bytes are given up."""
    text = output.decode(errors="replace")
    output.clear()
    return text


def _pieces(running: subprocess.Popen[bytes], data: bytes, deadline: float | None) -> Generator[tuple[str, bytes], None, None]:
    """Yield the output of a program by stream until both end, and write ``data`` to it meanwhile. Raises _LateError.

    It looks for Ctrl-C every ``HEED`` seconds.
    """
    remaining = memoryview(data)
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("stdout", running.stdout), ("stderr", running.stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, name)
        if running.stdin is not None:
            os.set_blocking(running.stdin.fileno(), False)
            selector.register(running.stdin, selectors.EVENT_WRITE, "stdin")
        while selector.get_map():
            wait = HEED if deadline is None else min(HEED, deadline - time.monotonic())
            if wait <= 0:
                raise _LateError
            for key, _ in selector.select(wait):
                if key.data != "stdin":
                    piece = os.read(key.fd, _PIECE)
                    if piece:
                        yield key.data, piece
                    else:
                        selector.unregister(key.fileobj)
                    continue
                try:
                    remaining = remaining[os.write(key.fd, remaining[:_PIECE]) :]
                except BlockingIOError:
                    continue
                except BrokenPipeError:
                    remaining = remaining[len(remaining) :]  # it does not want the rest; its exit code says why
                if not remaining:
                    selector.unregister(key.fileobj)
                    cast("IO[bytes]", key.fileobj).close()


def attach(argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None) -> int:
    """Run a program on the standard input, output and error of this process, so also on its terminal; return its exit code.

    Raises CommandError when there is no such program.
    """
    words = tuple(str(word) for word in argv)
    log.debug(shlex.join(words))
    try:
        running = subprocess.Popen(words, env={**os.environ, **env} if env else None)
    except FileNotFoundError as missing:
        raise CommandError(f"{words[0]}: no such program", hint=f"install {words[0]} or put it on PATH") from missing
    with running, _running(running):
        return running.wait()


Take = Callable[[str, str], None]
"""Is given each line, without its end, and where it was said: ``stdout`` or ``stderr``."""

_LONGEST_LINE = 64 << 10
"""Bytes after which a line that does not end is handed on in parts."""


def stream(
    argv: Sequence[str | Path],
    take: Take,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | Path | None = None,
    stop: threading.Event | None = None,
    group: bool = False,
) -> int:
    """Run a program and hand its output on line by line while it runs; its exit code. Standard input is empty.

    When ``stop`` is set the program is ended, with ``group`` also what it has started. Raises CommandError when there is no such program.
    """
    words = tuple(str(word) for word in argv)
    log.debug(shlex.join(words))
    running = _start(words, subprocess.DEVNULL, env, cwd, group)
    with running, _running(running):
        try:
            _hand_on(running, take, stop)
        except BaseException:
            _end(running)
            raise
    return running.returncode


def _end(running: subprocess.Popen[bytes]) -> None:
    """End a program, by force when it does not heed the request. What it still prints is not read: it must not wait for that."""
    running.terminate()
    for pipe in (running.stdout, running.stderr):
        if pipe is not None:
            pipe.close()
    try:
        running.wait(_GRACE)
    except subprocess.TimeoutExpired:
        log.debug(f"{running.args!r} does not end by itself")
    finally:
        running.kill()


def _hand_on(running: subprocess.Popen[bytes], take: Take, stop: threading.Event | None) -> None:
    partial = {"stdout": b"", "stderr": b""}
    with selectors.DefaultSelector() as selector:
        for name, pipe in (("stdout", running.stdout), ("stderr", running.stderr)):
            if pipe is not None:
                selector.register(pipe, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select(timeout=HEED if stop is None else 0.5):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                *whole, rest = (partial[key.data] + data).split(b"\n")
                if rest and (not data or len(rest) > _LONGEST_LINE):
                    whole, rest = [*whole, rest], b""
                partial[key.data] = rest
                for line in whole:
                    take(key.data, line.decode(errors="replace"))
            if stop is not None and stop.is_set():
                _end(running)
                return

"""One input, one target, under limits; and what is kept of those that fail."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Self

from tests.fuzz.target import Target, emptied

FOUND = Path(__file__).parent / "found"
"""Inputs that failed once: ``TARGET/HASH``. Each is tried again by the ring ``hostile``."""

CPU = 5.0
"""Seconds of processor time for one input of at most 64 kB."""
MEMORY = 512 << 20
"""Bytes of private memory of the process that tries inputs."""
_TRIES = 400
"""Attempts to make an input that failed smaller."""
_SHRINK = 10.0
"""Seconds of processor time after which no more attempts are made."""


class TooSlowError(BaseException):
    """Raised in the middle of a target that has used up its processor time. No handler for errors of the product catches it."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """What a target did that it may not. ``site`` is the innermost line of the product."""

    kind: str
    site: str
    message: str

    @property
    def key(self) -> tuple[str, str]:
        return self.kind, self.site


class Bench:
    """A folder for inputs to play in, beside a neighbour's that no input may touch. Use it as a context manager."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="slipway-fuzz-")))
        self.folder = root / "in/side"
        self.folder.parent.mkdir()
        self._outside = root / "neighbour"
        self._outside.mkdir(mode=0o750)
        (self._outside / "canary").write_text("canary")
        self._root = root
        self._before = self._snapshot()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _snapshot(self) -> tuple[object, ...]:
        above = [self._root, self._root / "in", self._outside, *sorted(self._outside.rglob("*"))]
        modes = tuple((str(path), path.lstat().st_mode, path.lstat().st_size) for path in above)
        # Sizes of folders differ among file systems: their names are what counts.
        return modes, sorted(os.listdir(self._root)), os.listdir(self._root / "in"), (self._outside / "canary").read_text()  # noqa: PTH208

    def attempt(self, target: Target, data: bytes) -> Finding | None:
        """Try one input. Returns what was wrong, or None."""
        emptied(self.folder)
        self._before = self._snapshot()
        try:
            with _processor_time(CPU):
                target.check(data, self.folder)
        except target.expected:
            pass
        except KeyboardInterrupt:
            raise
        except BaseException as wrong:
            return Finding(type(wrong).__name__, _site(wrong), str(wrong)[:200])
        try:
            changed = self._snapshot() != self._before
        except OSError:
            changed = True
        return Finding("outside", target.name, "a file or folder outside of its own was changed") if changed else None

    def smaller(self, target: Target, data: bytes, finding: Finding) -> bytes:
        """A smaller input with the same finding, as far as some hundred attempts lead."""
        tries, begun = _TRIES, time.process_time()
        piece = len(data) // 2
        while piece and tries > 0:
            begin = 0
            while begin < len(data) and tries > 0 and time.process_time() - begun < _SHRINK:
                shorter = data[:begin] + data[begin + piece :]
                tries -= 1
                other = self.attempt(target, shorter)
                if other is not None and other.key == finding.key:
                    data = shorter
                else:
                    begin += piece
            piece //= 2
        return data


def limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 << 20, 256 << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextlib.contextmanager
def _processor_time(seconds: float) -> Iterator[None]:
    def end(_: int, __: FrameType | None) -> None:
        raise TooSlowError(f"more than {seconds:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _site(wrong: BaseException) -> str:
    frames = traceback.extract_tb(wrong.__traceback__)
    ours = [frame for frame in frames if "/harness/" in frame.filename]
    frame = (ours or list(frames))[-1]
    # A slow place is never caught at the same line twice.
    line = frame.name if isinstance(wrong, TooSlowError | RecursionError | MemoryError) else str(frame.lineno)
    return f"{frame.filename.rpartition('/harness/')[2]}:{line}"


def keep(target: str, data: bytes, folder: Path = FOUND) -> Path:
    """Write an input that failed to where it will be tried again."""
    path = folder / target / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def replay(targets: dict[str, Target], folder: Path = FOUND, told: Callable[[str], object] = print) -> list[str]:
    """Try all inputs that are kept; the paths of those that fail."""
    failed: list[str] = []
    with Bench() as bench:
        for path in sorted(path for path in folder.glob("*/*") if path.is_file()):
            target = targets.get(path.parent.name)
            if target is None:
                failed.append(f"{path}: no such target")
                continue
            finding = bench.attempt(target, path.read_bytes())
            if finding is not None:
                failed.append(f"{path.parent.name}/{path.name}: {finding.kind} at {finding.site}: {finding.message}")
                told(failed[-1])
    return failed

"""Tries inputs on one target until its time is over. A process of its own: what it may use is limited, and it may die of an input.

Arguments: target, seconds, seed, folder. The folder gets ``current`` (the input at hand), ``count``, and a line of JSON in ``found`` for
each finding, whose input stands beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import LARGEST, Mutator

_SPARE = 120
"""Seconds of processor time that a target may take beyond its own: to load, and to make what was found smaller."""
_CORPUS = 2000


class Work:
    """A target, and what became of its inputs so far."""

    def __init__(self, target: Any, folder: Path, seconds: float) -> None:
        self.attempts = importlib.import_module("tests.fuzz.attempt")
        self.target = target
        self.folder = folder
        self.deadline = time.monotonic() + seconds
        self.count = 0
        self.most = int(os.environ.get("FUZZ_INPUTS", "0"))
        """Inputs after which it ends, 0 for no such limit."""
        self.known: set[tuple[str, str]] = set()
        self._current = os.open(folder / "current", os.O_RDWR | os.O_CREAT)
        self._counted = os.open(folder / "count", os.O_RDWR | os.O_CREAT)
        begun = os.pread(self._counted, 8, 0)
        self.count = int.from_bytes(begun, "big")
        if (folder / "found").exists():
            self.known = {tuple(json.loads(line)["key"]) for line in (folder / "found").read_text().splitlines()}

    def attempt(self, bench: Any, data: bytes) -> Any:
        """Try one input and write down what it does; the finding, if it is one."""
        os.ftruncate(self._current, 0)
        os.pwrite(self._current, data, 0)
        self.count += 1
        os.pwrite(self._counted, self.count.to_bytes(8, "big"), 0)
        finding = bench.attempt(self.target, data)
        if finding is not None and finding.key not in self.known:
            self.known.add(finding.key)
            small = bench.smaller(self.target, data, finding)
            name = hashlib.sha256(small).hexdigest()[:16]
            (self.folder / name).write_bytes(small)
            line = {"key": finding.key, "message": finding.message, "input": name}
            with (self.folder / "found").open("a") as file:
                file.write(f"{json.dumps(line)}\n")
        return finding

    @property
    def over(self) -> bool:
        return time.monotonic() >= self.deadline or 0 < self.most <= self.count


def plain(work: Work, bench: Any, seed: int) -> None:
    """Mutate seeds. An input that reaches a line which no other has reached is mutated further: poor man's coverage."""
    mutator = Mutator(seed, work.target.tokens)
    corpus = list(work.target.seeds)
    reached: set[int] = set()
    for data in work.target.seeds:
        work.attempt(bench, data)
    while not work.over:
        data = mutator.mutate(mutator.chance.choice(corpus), corpus)
        # Every tenth is watched: to trace lines takes longer than to run them.
        if mutator.chance.random() < 0.1:
            lines: set[int] = set()
            with _traced(lines):
                work.attempt(bench, data)
            if lines - reached and len(corpus) < _CORPUS:
                corpus.append(data)
            reached |= lines
        else:
            work.attempt(bench, data)


@contextlib.contextmanager
def _traced(lines: set[int]) -> Any:
    """Note the lines of the product that run."""

    def local(frame: Any, event: str, _: Any) -> Any:
        if event == "line":
            lines.add(hash((frame.f_code.co_filename, frame.f_lineno)))
        return local

    def begin(frame: Any, _: str, __: Any) -> Any:
        return local if "/harness/" in frame.f_code.co_filename else None

    sys.settrace(begin)
    try:
        yield
    finally:
        sys.settrace(None)


def guided(work: Work, bench: Any, seed: int, seconds: float) -> None:
    """Let libFuzzer choose, by the branches of the product that inputs take. It ends the process."""
    import atheris

    corpus = work.folder / "corpus"
    corpus.mkdir(exist_ok=True)
    for data in work.target.seeds:
        (corpus / hashlib.sha256(data).hexdigest()).write_bytes(data)
    mutator = Mutator(seed, work.target.tokens)
    seeds = list(work.target.seeds)

    def change(data: bytes, largest: int, _: int) -> bytes:
        made = mutator.mutate(data, seeds) if mutator.chance.random() < 0.7 else atheris.Mutate(data, largest)
        return bytes(made[:largest])

    options = [f"-max_total_time={max(1, round(seconds))}", f"-seed={seed % (1 << 31) or 1}", f"-max_len={LARGEST}", "-rss_limit_mb=0"]
    # Time is limited by the bench, of each input and as processor time; this is for what does not even get its signal.
    options += ["-timeout=120", "-verbosity=0", f"-artifact_prefix={work.folder}/"]
    atheris.Setup([sys.argv[0], *options, str(corpus)], lambda data: work.attempt(bench, data) and None, custom_mutator=change)
    atheris.Fuzz()


def main(name: str, seconds: float, seed: int, folder: Path, how: str) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (int(seconds) + _SPARE, int(seconds) + _SPARE + 5))
    if how == "guided":
        import atheris

        with atheris.instrument_imports(include=["harness"]):
            targets = importlib.import_module("tests.fuzz.targets")
    else:
        targets = importlib.import_module("tests.fuzz.targets")
    work = Work(targets.BY_NAME[name], folder, seconds)
    work.attempts.limit_memory()
    with work.attempts.Bench() as bench:
        if how == "guided":
            guided(work, bench, seed, seconds)
        else:
            plain(work, bench, seed)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]), sys.argv[5])

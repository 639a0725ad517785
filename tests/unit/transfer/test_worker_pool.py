"""Transfers at once: all are done, and one failure or an interrupt ends the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from harness.errors import StoreError
from harness.oci.registry.errors import RemoteError
from harness.transfer.worker_pool import WorkerPool
from tests.unit.oci.standin import Registry, client
from tests.waiting import HANG


class Line:
    """A stream that gives nothing until it is told to stop."""

    def __init__(self) -> None:
        self.read = threading.Event()
        self.stopped = threading.Event()

    def wait(self) -> None:
        self.read.set()
        assert self.stopped.wait(HANG)

    def abort(self) -> None:
        self.stopped.set()

    def close(self) -> None:
        pass


def test_each_interrupt_while_queueing_aborts_running_work() -> None:
    line = Line()

    def items() -> Iterator[int]:
        yield 1
        assert line.read.wait(HANG)
        raise KeyboardInterrupt

    with client(Registry()) as found:
        crew = WorkerPool(found)

        def work(_: int) -> None:
            with crew.abortable(line):
                line.wait()

        with pytest.raises(KeyboardInterrupt):
            crew.each(work, items())
    assert line.stopped.is_set()


def test_each_runs_every_item() -> None:
    with client(Registry()) as remote:
        done: list[int] = []
        WorkerPool(remote).each(done.append, range(100))
    assert sorted(done) == list(range(100))


def test_each_first_failure_is_raised_and_cancels_the_rest() -> None:
    line = Line()

    def work(item: int) -> None:
        if item:
            assert line.read.wait(HANG)
            raise StoreError("no space left")
        with workers.abortable(line):
            line.wait()

    with client(Registry()) as remote:
        workers = WorkerPool(remote)
        with pytest.raises(StoreError, match="no space left"):
            workers.each(work, [0, 1])
        assert line.stopped.is_set()
        with pytest.raises(RemoteError, match="cancelled"):
            workers.check()

"""Every error that a user can meet: what is wrong, why, and what to do next. Caught once, in ``cli``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class SlipwayError(Exception):
    """Base of all expected failures. ``message`` says what and why in one line, ``hint`` what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None, details: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details
        """Output of the program that failed, events, log lines: shown once, indented, below the message."""
        if details:
            # A traceback, as of a failing test, shows them as well.
            self.add_note(details)

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class HintedError(Exception):
    """A fault that is caught where its place in a file is known: ``message`` says why, ``hint`` what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(SlipwayError):
    """A wrong argument or a bad input file; nothing has been changed."""

    exit_code = 2


class BuildError(SlipwayError):
    """A build step, a launch command or a workload of the throw-away cluster failed."""

    exit_code = 3


class StoreError(SlipwayError):
    """The local store or a registry does not have, cannot give or cannot take something."""

    exit_code = 4


class NodeError(SlipwayError):
    """A node cannot be reached, or refuses access."""

    exit_code = 5


class CommandError(SlipwayError):
    """A command failed, here or on a node."""

    exit_code = 6


class LeaseLostError(SlipwayError):
    """Another command has taken over the cluster that this one was changing."""

    exit_code = 6


class CheckError(SlipwayError):
    """A check of a node or a cluster did not hold."""

    exit_code = 7


class EngineError(SlipwayError):
    """No usable Docker engine, or it refuses what is needed."""

    exit_code = 3


def summary(parts: Sequence[str]) -> tuple[str, str | None]:
    """The first of several things that are wrong with the number of the others, for a message; and all of them, for its details."""
    return (f"{parts[0]} and {len(parts) - 1} more", "\n".join(parts)) if len(parts) > 1 else (parts[0], None)


@dataclasses.dataclass(frozen=True, order=True)
class Fault:
    """One thing wrong in an input file. ``where`` is ``file:line`` or ``file .path[0].to``."""

    where: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}"
        return text if self.hint is None else f"{text}\n  hint: {self.hint}"


class InputError(UsageError):
    """All faults of the input at once, in the order in which they stand in it."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class FaultCollector:
    """Collects the errors of several parts of one input, so that all of them are reported at once."""

    def __init__(self) -> None:
        self._errors: list[SlipwayError] = []
        self._faults: list[Fault] = []

    @contextmanager
    def of(self, where: str) -> Iterator[None]:
        """Keep an error that the block raises; ``where`` is the part that it is about."""
        try:
            yield
        except InputError as error:
            faults = [dataclasses.replace(fault, where=f"{where}: {fault.where}") for fault in error.faults]
            self._errors.append(InputError(faults))
            self._faults += faults
        except SlipwayError as error:
            self._errors.append(error)
            self._faults.append(Fault(where, error.message.removeprefix(f"{where} "), error.hint))

    def add(self, fault: Fault) -> None:
        self._errors.append(InputError([fault]))
        self._faults.append(fault)

    def finish(self) -> None:
        """Raise what was collected: a single error as it is, with its exit code, several as one InputError."""
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise InputError(dict.fromkeys(self._faults))

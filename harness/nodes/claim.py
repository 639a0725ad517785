"""The claim of this process on a cluster, as machines check it before they run a command.

A command that is sent under a claim carries the claim's id. The first one records it on the machine, and the machine refuses later
commands of an older claim: a process that slept while its lease expired is stopped by every machine that the next holder has used, even
before it notices. The tokens order two claims: a number that the cluster's Lease increments for each holder.
"""

from __future__ import annotations

import contextlib
import secrets
import shlex
import threading
import time
from collections.abc import Iterator
from typing import Protocol

from harness.errors import LeaseLostError

FENCE = "/run/slipway-fence"
"""On a machine: the id of the claim that last changed something there, and its token if it has one. It ends with the machine's uptime."""
REFUSED = 76
"""Exit code of a command that the machine refused."""
MARK = "slipway: this machine is being changed under another claim"


class Guard(Protocol):
    """Check that a claim is still held; lease.py has the variants."""

    @property
    def lost(self) -> str:
        """The holder that has taken over; empty when none is known."""
        ...

    @property
    def sure(self) -> bool:
        """True when no other process can have taken over by now."""
        ...

    def verify(self) -> None:
        """Ask, unless it was asked just now."""
        ...


class ClusterClaim:
    """Held from ``holding`` until its block ends. Thread-safe."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(8)
        self.token: int | None = None
        """Greater than that of every claim before on the same cluster; None where that is not known."""
        self._guards: list[Guard] = []
        self._entered: set[str] = set()
        self._lost = ""
        self._lock = threading.Lock()

    def add(self, guard: Guard) -> None:
        with self._lock:
            self._guards.append(guard)

    def drop(self, guard: Guard) -> None:
        with self._lock:
            self._guards.remove(guard)

    def lose(self, why: str) -> None:
        with self._lock:
            self._lost = self._lost or why

    @property
    def lost(self) -> str:
        with self._lock:
            return self._lost or next((guard.lost for guard in self._guards if guard.lost), "")

    @property
    def sure(self) -> bool:
        with self._lock:
            return all(guard.sure for guard in self._guards)

    def verify(self) -> None:
        with self._lock:
            guards = [guard for guard in self._guards if not guard.sure]
        for guard in guards:
            guard.verify()

    def prefix(self, address: str) -> str:
        """Shell text before a command: it ends with REFUSED where the machine has heard of another claim that may be a later one."""
        mark = self.id if self.token is None else f"{self.id} {self.token}"
        put = f"{{ printf '%s\\n' '{mark}' > {FENCE}.$$ && mv -f {FENCE}.$$ {FENCE}; }} 2>/dev/null"
        with self._lock:
            entered = address in self._entered
        if not entered and self.sure:
            return f"{put}\n"
        # While the API is unreachable the holder is unknown, and the fence of an ended claim is still on the machine.
        refuse = f"{{ echo {shlex.quote(MARK)} >&2; exit {REFUSED}; }}"
        later = f'[ "${{n:-x}}" -lt {self.token} ] 2>/dev/null'
        other = refuse if self.token is None or entered else f"if {later}; then {put}; else {refuse}; fi"
        # A machine that has restarted has forgotten it.
        return f'f=; n=; {{ read -r f n < {FENCE}; }} 2>/dev/null; case $f in {self.id}) ;; "") {put} ;; *) {other} ;; esac\n'

    def entered(self, address: str) -> None:
        """A machine has heard of this claim."""
        with self._lock:
            self._entered.add(address)


PAUSE = 2.0
"""Seconds between two times that it is asked whether a claim still holds, where the first got no answer."""

sleep = time.sleep

_current: ClusterClaim | None = None
_changing = threading.Lock()


@contextlib.contextmanager
def holding() -> Iterator[ClusterClaim]:
    """The claim of this process: begun unless it has one already; the outermost block ends it."""
    global _current  # noqa: PLW0603 -- a process has one claim, however many verbs call each other
    with _changing:
        outer = _current
        claim = _current = outer or ClusterClaim()
    try:
        yield claim
    finally:
        if outer is None:
            with _changing:
                _current = None


def current() -> ClusterClaim | None:
    """Return the claim that the commands of this thread are sent under."""
    return None if getattr(_thread, "aside", False) else _current


_thread = threading.local()


@contextlib.contextmanager
def aside() -> Iterator[None]:
    """Send the commands of this thread without the claim: a machine of another cluster must not hear of it. They must change nothing."""
    _thread.aside = True
    try:
        yield
    finally:
        _thread.aside = False


def check(*, ask: bool = True) -> None:
    """Raises LeaseLostError when another command has taken over. With ``ask`` it finds out, if that may have happened meanwhile."""
    claim = _current
    if claim is None:
        return
    if ask and not claim.sure:
        claim.verify()
        if not claim.sure and not claim.lost:
            # The last check may be recent, and the API, which an earlier step restarted, may answer by now.
            sleep(PAUSE)
            claim.verify()
    if claim.lost:
        raise error(claim.lost)


def error(who: str) -> LeaseLostError:
    return LeaseLostError(
        f"{who} has taken over the cluster while this command was held up: it stops here",
        hint="wait for the other command to end, see slipway status, then run the same command again",
    )


def clock() -> float:
    """Seconds that also pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

"""One command at a time changes a cluster, wherever it was started. While there is an API, a Lease object in the cluster says who is at
it, and since when; on the masters a small file does, also before there is a cluster.

Both are renewed as client-go's leader election does it: the holder is compared, an object is only replaced in the version that was read,
and a holder that has lost it stops before the next step (harness.nodes.claim). While nobody answers a renewal the command goes on: no
other one can take over through an API that is away, and machines that another one has spoken to refuse this one's commands.
"""

from __future__ import annotations

import collections
import contextlib
import datetime
import getpass
import hashlib
import json
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from harness import log, untrusted
from harness.errors import CommandError, LeaseLostError, SlipwayError, UsageError
from harness.host import liveness
from harness.nodes import Node, claim, each
from harness.runtimes.kubeadm import KUBECTL

NAME = "slipway-lock"

CLAIM = "/run/slipway-at-work"
"""On a master: who is at work, and since when. Its own time is when that was last confirmed; it ends with the machine's uptime."""
_TAKEN = 75

# One reader and writer at a time; the folder itself is locked, so that nothing is left behind.
_LOCKED = "exec 9< /run; if command -v flock > /dev/null; then flock -w 10 9; fi"
_THERE = f"there=$(head -n 1 {CLAIM} 2>/dev/null)"
_WRITE = f'printf \'%s\\n%s\\n\' "$who" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" > {CLAIM}'
_TAKE = f"""{_LOCKED}
{_THERE}
if [ -n "$there" ] && [ "$there" != "$who" ] && [ "$there" != "$instead" ] \
  && [ $(($(date +%s) - $(stat -c %Y {CLAIM}))) -lt $seconds ]; then cat {CLAIM}; exit {_TAKEN}; fi
{_WRITE}"""
# A machine that has restarted has forgotten it, and a verb that this one has called may have given it back.
_RENEW = f"""{_LOCKED}
{_THERE}
case $there in "$who") touch {CLAIM} ;; "") {_WRITE} ;; *) cat {CLAIM}; exit {_TAKEN} ;; esac"""
_RELEASE = f"""{_LOCKED}
{_THERE}
[ "$there" = "$who" ] && rm -f {CLAIM}"""

_ASK = f"{KUBECTL} --request-timeout=20s --namespace kube-system"
_held: set[str] = set()
"""Clusters whose lease this process has, so that a verb may call another one."""
_noted_on: collections.Counter[str] = collections.Counter()
"""By address of a master, how many verbs of this process have noted there that they are at work."""
_counting = threading.Lock()


def seconds() -> int:
    """Until a lease that nobody renews counts no more: its holder was killed, or has lost its way to the cluster."""
    chosen = os.environ.get("SLIPWAY_LEASE_SECONDS", "")
    return int(chosen) if chosen.isascii() and chosen.isdigit() and 4 <= int(chosen) <= 3600 else 60


def holder() -> str:
    """This process: ``user@machine:process``, then a word that no process on any other machine has."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    # The id of a machine is not for others; a digest tells machines apart as well.
    machine = ""
    with contextlib.suppress(OSError):
        machine = hashlib.sha256(f"slipway {Path('/etc/machine-id').read_text().strip()}".encode()).hexdigest()[:12]
    return f"{user}@{socket.gethostname()}:{os.getpid()} {machine or '-'}.{liveness.process_label()}"


@contextlib.contextmanager
def held(master: Node, cluster: str) -> Iterator[None]:
    """Be the only one that changes the cluster; ``master`` is any of its masters. Raises UsageError when somebody else is at it."""
    if cluster in _held:
        yield
        return
    with _noted([master], cluster) as noted:
        lease = _Lease(master, cluster)
        lease.take()
        _held.add(cluster)
        try:
            with contextlib.ExitStack() as stack:
                holding = stack.enter_context(claim.holding())
                stack.enter_context(_numbered(holding, lease.transitions))
                for renew in (noted.renew, lease.renew):
                    stack.enter_context(_kept(holding, _Renewal(renew)))
                yield
        finally:
            _held.discard(cluster)
            _gently(lease.release)


@contextlib.contextmanager
def _numbered(holding: claim.ClusterClaim, token: int) -> Iterator[None]:
    """Give a claim its token while the block runs. Those of two clusters say nothing of each other: then it has none."""
    before, holding.token = holding.token, token if holding.token is None else None
    try:
        yield
    finally:
        holding.token = before


@contextlib.contextmanager
def claimed(masters: Sequence[Node], cluster: str) -> Iterator[None]:
    """Be the only one at work on these machines, which need not be a cluster yet. Raises UsageError when somebody else is."""
    with _noted(masters, cluster) as noted, claim.holding() as holding, _kept(holding, _Renewal(noted.renew)):
        yield


class _Notes:
    """The files on masters that say who is at work."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._who = f"who={shlex.quote(holder())}\nseconds={seconds()}"
        self.nodes: list[Node] = []

    def take(self, node: Node) -> None:
        instead = ""
        while True:
            asked = node.run(f"{self._who}\ninstead={shlex.quote(instead)}\n{_TAKE}", check=False, timeout=60)
            there, _, since = asked.stdout.strip().partition("\n")
            if asked.returncode == _TAKEN and there != instead and has_ended(there):
                instead = there
                continue
            if asked.returncode == _TAKEN:
                raise _busy(self._cluster, there, since)
            if not asked.ok:
                raise CommandError(f"{node.name}: it could not be noted who is at work: {CLAIM}", details=asked.output)
            self.nodes.append(node)
            with _counting:
                _noted_on[node.address] += 1
            return

    def renew(self) -> str:
        def renew(node: Node) -> str | None:
            with contextlib.suppress(SlipwayError):
                asked = node.run(f"{self._who}\n{_RENEW}", check=False, timeout=30)
                if asked.ok or asked.returncode == _TAKEN:
                    return asked.stdout.strip().partition("\n")[0]
            return None

        answers = [answer for answer in each(self.nodes, renew) if answer is not None]
        if not answers:
            raise CommandError(f"no master of {self._cluster} answers")
        return _named(next((answer for answer in answers if answer), ""))

    def release(self) -> None:
        for node in self.nodes:
            with _counting:
                _noted_on[node.address] -= 1
                again = _noted_on[node.address] > 0
            # A verb that another one has called gives nothing back that the other still needs.
            if again:
                continue
            _gently(lambda node=node: node.run(f"{self._who}\n{_RELEASE}", check=False, timeout=30))  # type: ignore[misc]


@contextlib.contextmanager
def _noted(masters: Sequence[Node], cluster: str) -> Iterator[_Notes]:
    notes = _Notes(cluster)
    try:
        # Always in the same order: of two who begin at once, one gets the first of them and with it all.
        for node in sorted(masters, key=lambda node: node.address):
            notes.take(node)
        yield notes
    finally:
        notes.release()


def _named(identity: object) -> str:
    """The part of an identity that is for people."""
    return untrusted.shown(str(identity or "").partition(" ")[0])[:200]


def _busy(cluster: str, who: object, since: object) -> UsageError:
    return UsageError(
        f"{_named(who)} is changing the cluster {cluster} since {_named(since) or 'some time'}",
        hint=f"wait for its end; one that was killed counts for {seconds()} s",
    )


_SURE = 0.75
"""The part of a lease in which its holder relies on it: clocks differ, and the lease was written a moment before that is known."""


class _Renewal:
    """Renews from time to time, and remembers what came of it. ``renew`` returns who has taken over, or nothing."""

    def __init__(self, renew: Callable[[], str]) -> None:
        self.lost = ""
        self._renew = renew
        self._until = claim.clock() + seconds() * _SURE
        self._next = 0.0
        self._lock = threading.Lock()

    @property
    def sure(self) -> bool:
        return not self.lost and claim.clock() < self._until

    def verify(self) -> None:
        with self._lock:
            began = claim.clock()
            if self.lost or began < self._next:
                return
            try:
                self.lost = self._renew()
                if not self.lost:
                    self._until = began + seconds() * _SURE
            except LeaseLostError:
                self.lost = "another command"
            except SlipwayError as error:
                log.debug(f"the lease could not be renewed: {error.message}")
            # Many steps may ask at once: where nobody answers they do not wait one after the other.
            self._next = claim.clock() + claim.PAUSE


@contextlib.contextmanager
def _kept(holding: claim.ClusterClaim, renewal: _Renewal) -> Iterator[None]:
    """Renew from time to time while the block runs."""
    ended = threading.Event()

    def keep() -> None:
        # As soon as somebody answers again, the claim is sure again: nothing of what comes then need depend on it.
        while not ended.wait(seconds() / 4 if renewal.sure else claim.PAUSE):
            renewal.verify()

    keeper = threading.Thread(target=keep, daemon=True)
    holding.add(renewal)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        # It may be asking a machine that is lost; whatever it still says counts for nothing once the claim is given back.
        keeper.join(timeout=3)
        holding.drop(renewal)
        if renewal.lost:
            holding.lose(renewal.lost)


def _gently(action: Callable[[], object]) -> None:
    """What need not succeed: a claim that nobody renews or gives back ends by itself."""
    try:
        action()
    except SlipwayError as error:
        log.debug(f"who is at work could not be noted: {error.message}")


class _Lease:
    """The Lease object of a cluster, as this process holds it. One thread at a time renews it."""

    def __init__(self, master: Node, cluster: str) -> None:
        self._master, self._cluster = master, cluster
        self._holder = holder()
        self._object: dict[str, Any] = {}
        self._released = False

    def take(self) -> None:
        taken = self._write("create", document(_clock(self._master)))
        if taken is None:
            there = self._read()
            now = _clock(self._master)
            if there is not None and not expired(there, now) and not abandoned(there):
                spec = there.get("spec") or {}
                raise _busy(self._cluster, spec.get("holderIdentity"), spec.get("acquireTime"))
            taken = self._write(*_instead(there, document(now)))
        if taken is None:
            raise UsageError(f"somebody else has just begun to change the cluster {self._cluster}", hint="wait for its end")

    def renew(self) -> str:
        """Who has it instead; raises SlipwayError when that cannot be asked."""
        for _ in range(3):
            now = _clock(self._master)
            if self._write("replace", _version_of(self._object, {**self._object["spec"], "renewTime": _stamp(now)})) is not None:
                return ""
            # It is another version, or not there: a backup of etcd may have been restored.
            there = self._read()
            if self._released:
                return ""
            spec = (there or {}).get("spec") or {}
            if there is not None and spec.get("holderIdentity") == self._holder:
                self._object = {"metadata": there["metadata"], "spec": spec}
            elif _transitions(spec) > _transitions(self._object["spec"]):
                return _named(spec.get("holderIdentity")) or "another command"
            elif self._write(*_instead(there, document(now))) is not None:
                # What is there is older than this one's: it is from a backup.
                return ""
        raise CommandError(f"the lease of the cluster {self._cluster} changes all the time")

    @property
    def transitions(self) -> int:
        """How often the lease has had another holder, this one included."""
        return _transitions(self._object["spec"])

    def release(self) -> None:
        """Name no holder any more, in the version that was written last: the lease of another holder stays.

        The object stays too. Deleted, it could not tell a holder who slept that there was another one meanwhile.
        """
        self._released = True
        spec = {key: self._object["spec"].get(key) for key in ("leaseDurationSeconds", "acquireTime", "leaseTransitions")}
        self._write("replace", _version_of(self._object, spec))

    def _read(self) -> dict[str, Any] | None:
        asked = self._master.run(f"{_ASK} get lease {NAME} --ignore-not-found --output=json", timeout=60)
        return untrusted.json_object(asked.stdout, what=self._what, error=CommandError) if asked.stdout.strip() else None

    def _write(self, verb: str, wanted: dict[str, Any]) -> dict[str, Any] | None:
        """The object as it is now; None when it is there already, is another version, or is not there. Raises CommandError otherwise."""
        asked = self._master.run(f"{_ASK} {verb} --output=json -f -", input=json.dumps(wanted), check=False, timeout=60)
        if not asked.ok:
            if any(reason in asked.stderr for reason in _OTHERWISE):
                return None
            raise CommandError(f"{self._master.name}: the lease of the cluster {self._cluster} could not be taken", details=asked.output)
        self._object = untrusted.json_object(asked.stdout, what=self._what, error=CommandError)
        for part in ("metadata", "spec"):
            if not isinstance(self._object.get(part), dict):
                raise CommandError(f"{self._what}: has no {part}")
        return self._object

    @property
    def _what(self) -> str:
        return f"{self._master.name}: the lease of the cluster {self._cluster}"


_OTHERWISE = ("(AlreadyExists)", "(Conflict)", "(NotFound)")
"""What kubectl says when an object is not as it was taken to be."""


def _instead(there: dict[str, Any] | None, wanted: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """How to write a Lease in place of one that was read: in the version that was read, so that one of several gets it."""
    if there is None:
        return "create", wanted
    transitions = _transitions(there.get("spec") or {}) + 1
    return "replace", _version_of(there, {**wanted["spec"], "leaseTransitions": transitions})


def _version_of(there: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """A Lease with another spec, in the version of one that was read."""
    version = str((there.get("metadata") or {}).get("resourceVersion") or "")
    return {**_EMPTY, "metadata": {**_EMPTY["metadata"], "resourceVersion": version}, "spec": spec}


def _transitions(spec: dict[str, Any]) -> int:
    """How often a Lease has had another holder."""
    count = spec.get("leaseTransitions")
    return count if type(count) is int else 0


_EMPTY: dict[str, Any] = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": NAME, "namespace": "kube-system"},
}


def document(now: datetime.datetime) -> dict[str, Any]:
    """The Lease; ``now`` is the clock of the master, so that clocks of those who ask do not count."""
    spec = {"holderIdentity": holder(), "leaseDurationSeconds": seconds(), "acquireTime": _stamp(now), "renewTime": _stamp(now)}
    return {**_EMPTY, "spec": {**spec, "leaseTransitions": 1}}


def expired(found: dict[str, Any], now: datetime.datetime) -> bool:
    """Whether a Lease counts no more. One without a time never counted."""
    spec = found.get("spec") or {}
    try:
        renewed = datetime.datetime.fromisoformat(str(spec["renewTime"]))
        return now - renewed > datetime.timedelta(seconds=int(spec.get("leaseDurationSeconds") or seconds()))
    except (KeyError, TypeError, ValueError, OverflowError):
        return True


def abandoned(found: dict[str, Any]) -> bool:
    """Whether its holder was a process of this machine that is no more: a command that was killed may be given again at once."""
    return has_ended(str((found.get("spec") or {}).get("holderIdentity") or ""))


def has_ended(identity: str) -> bool:
    """Whether it is certain that the process of an identity is no more; of another machine or container it never is."""
    return liveness.has_ended(identity.rpartition(" ")[2].partition(".")[2])


def _stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _clock(master: Node) -> datetime.datetime:
    try:
        return datetime.datetime.fromtimestamp(float(master.run("date +%s.%N").stdout), datetime.UTC)
    except (ValueError, OverflowError, OSError) as wrong:
        raise CommandError(f"{master.name}: its clock cannot be read") from wrong

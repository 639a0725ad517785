"""One command at a time changes a cluster, wherever it was started. A Lease object in the cluster names its holder and the time; a small
file on each control-plane node does the same, also before the cluster exists.

Both are renewed as in client-go's leader election: the holder is compared, an object is only replaced in the version that was read, and
a holder that has lost the lease stops before the next step (harness.nodes.claim). While no renewal is answered, the command continues: no
other command can take over through an API that is down, and nodes that another command has used refuse the commands of this one.
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
"""File on a control-plane node: the holder, and the time of its first claim. Its mtime is the last renewal; a reboot removes it."""
_TAKEN = 75

# One reader and writer at a time. The folder is locked, so that no lock file is left behind.
_LOCKED = "exec 9< /run; if command -v flock > /dev/null; then flock -w 10 9; fi"
_THERE = f"there=$(head -n 1 {CLAIM} 2>/dev/null)"
_WRITE = f'printf \'%s\\n%s\\n\' "$who" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" > {CLAIM}'
_TAKE = f"""{_LOCKED}
{_THERE}
if [ -n "$there" ] && [ "$there" != "$who" ] && [ "$there" != "$instead" ] \
  && [ $(($(date +%s) - $(stat -c %Y {CLAIM}))) -lt $seconds ]; then cat {CLAIM}; exit {_TAKEN}; fi
{_WRITE}"""
# Absent after a reboot, or when a verb that this one has called has released it.
_RENEW = f"""{_LOCKED}
{_THERE}
case $there in "$who") touch {CLAIM} ;; "") {_WRITE} ;; *) cat {CLAIM}; exit {_TAKEN} ;; esac"""
_RELEASE = f"""{_LOCKED}
{_THERE}
[ "$there" = "$who" ] && rm -f {CLAIM}"""

_ASK = f"{KUBECTL} --request-timeout=20s --namespace kube-system"
_held: set[str] = set()
"""Clusters whose lease this process holds, so that a verb may call another one."""
_noted_on: collections.Counter[str] = collections.Counter()
"""Claims of this process on each control-plane node, by address: one for each verb."""
_counting = threading.Lock()


def seconds() -> int:
    """Return the duration of a lease: without a renewal it expires, since its holder was killed or cannot reach the cluster."""
    chosen = os.environ.get("SLIPWAY_LEASE_SECONDS", "")
    return int(chosen) if chosen.isascii() and chosen.isdigit() and 4 <= int(chosen) <= 3600 else 60


def holder() -> str:
    """Return the identity of this process: ``user@machine:process``, then a word that no other process on any machine has."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    # The id of a machine is confidential; its digest tells machines apart as well.
    machine = ""
    with contextlib.suppress(OSError):
        machine = hashlib.sha256(f"slipway {Path('/etc/machine-id').read_text().strip()}".encode()).hexdigest()[:12]
    return f"{user}@{socket.gethostname()}:{os.getpid()} {machine or '-'}.{liveness.process_label()}"


@contextlib.contextmanager
def held(node: Node, cluster: str) -> Iterator[None]:
    """Hold the lease of a cluster, by way of any of its control-plane nodes. Raises UsageError when another command holds it."""
    if cluster in _held:
        yield
        return
    with _noted([node], cluster) as noted:
        lease = _Lease(node, cluster)
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
    """Give a claim its token while the block runs. A claim of two clusters has none: their tokens cannot be compared."""
    before, holding.token = holding.token, token if holding.token is None else None
    try:
        yield
    finally:
        holding.token = before


@contextlib.contextmanager
def claimed(control_plane: Sequence[Node], cluster: str) -> Iterator[None]:
    """Claim nodes, which need not be a cluster yet. Raises UsageError when another command has claimed one."""
    with _noted(control_plane, cluster) as noted, claim.holding() as holding, _kept(holding, _Renewal(noted.renew)):
        yield


class _Notes:
    """The claim files on control-plane nodes."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._who = f"who={shlex.quote(holder())}\nseconds={seconds()}"
        self.nodes: list[Node] = []

    def take(self, node: Node) -> None:
        instead = ""
        while True:
            result = node.run(f"{self._who}\ninstead={shlex.quote(instead)}\n{_TAKE}", check=False, timeout=60)
            identity, _, since = result.stdout.strip().partition("\n")
            if result.returncode == _TAKEN and identity != instead and has_ended(identity):
                instead = identity
                continue
            if result.returncode == _TAKEN:
                raise _busy(self._cluster, identity, since)
            if not result.ok:
                raise CommandError(f"{node.name}: it could not be noted who is at work: {CLAIM}", details=result.output)
            self.nodes.append(node)
            with _counting:
                _noted_on[node.address] += 1
            return

    def renew(self) -> str:
        def renew(node: Node) -> str | None:
            with contextlib.suppress(SlipwayError):
                result = node.run(f"{self._who}\n{_RENEW}", check=False, timeout=30)
                if result.ok or result.returncode == _TAKEN:
                    return result.stdout.strip().partition("\n")[0]
            return None

        answers = [answer for answer in each(self.nodes, renew) if answer is not None]
        if not answers:
            raise CommandError(f"no control-plane node of {self._cluster} answers")
        return _named(next((answer for answer in answers if answer), ""))

    def release(self) -> None:
        for node in self.nodes:
            with _counting:
                _noted_on[node.address] -= 1
                again = _noted_on[node.address] > 0
            # The verb that has called this one still needs it.
            if again:
                continue
            _gently(lambda node=node: node.run(f"{self._who}\n{_RELEASE}", check=False, timeout=30))  # type: ignore[misc]


@contextlib.contextmanager
def _noted(control_plane: Sequence[Node], cluster: str) -> Iterator[_Notes]:
    notes = _Notes(cluster)
    try:
        # Always in the same order: of two commands that begin at once, the one with the first node has all.
        for node in sorted(control_plane, key=lambda node: node.address):
            notes.take(node)
        yield notes
    finally:
        notes.release()


def _named(identity: object) -> str:
    """Return the part of an identity that people read."""
    return untrusted.shown(str(identity or "").partition(" ")[0])[:200]


def _busy(cluster: str, who: object, since: object) -> UsageError:
    return UsageError(
        f"{_named(who)} is changing the cluster {cluster} since {_named(since) or 'some time'}",
        hint=f"wait for its end; one that was killed counts for {seconds()} s",
    )


_SURE = 0.75
"""The part of its duration in which the holder relies on a lease: clocks differ, and the answer arrives after the write."""


class _Renewal:
    """Renews a lease or claim files at intervals. ``renew`` returns the holder that has taken over, or an empty text."""

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
            # Many steps may ask at once: without an answer they do not wait one after the other.
            self._next = claim.clock() + claim.PAUSE


@contextlib.contextmanager
def _kept(holding: claim.ClusterClaim, renewal: _Renewal) -> Iterator[None]:
    """Renew at intervals while the block runs."""
    ended = threading.Event()

    def keep() -> None:
        # The claim is sure again with the first answer, before the next step asks.
        while not ended.wait(seconds() / 4 if renewal.sure else claim.PAUSE):
            renewal.verify()

    keeper = threading.Thread(target=keep, daemon=True)
    holding.add(renewal)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        # It may be waiting for a node that is down; its answer does not matter once the claim is released.
        keeper.join(timeout=3)
        holding.drop(renewal)
        if renewal.lost:
            holding.lose(renewal.lost)


def _gently(action: Callable[[], object]) -> None:
    """Run an action that may fail: a claim that is neither renewed nor released expires by itself."""
    try:
        action()
    except SlipwayError as error:
        log.debug(f"who is at work could not be noted: {error.message}")


class _Lease:
    """The Lease object of a cluster, held by this process. One thread at a time renews it."""

    def __init__(self, node: Node, cluster: str) -> None:
        self._node, self._cluster = node, cluster
        self._holder = holder()
        self._object: dict[str, Any] = {}
        self._released = False

    def take(self) -> None:
        lease = self._write("create", document(_clock(self._node)))
        if lease is None:
            existing = self._read()
            now = _clock(self._node)
            if existing is not None and not expired(existing, now) and not abandoned(existing):
                spec = existing.get("spec") or {}
                raise _busy(self._cluster, spec.get("holderIdentity"), spec.get("acquireTime"))
            lease = self._write(*_instead(existing, document(now)))
        if lease is None:
            raise UsageError(f"another command has just begun to change the cluster {self._cluster}", hint="wait for its end")

    def renew(self) -> str:
        """Renew the lease; return its holder when another command has taken over. Raises SlipwayError when the API does not answer."""
        for _ in range(3):
            now = _clock(self._node)
            if self._write("replace", _version_of(self._object, {**self._object["spec"], "renewTime": _stamp(now)})) is not None:
                return ""
            # Another version, or absent: a backup of etcd may have been restored.
            existing = self._read()
            if self._released:
                return ""
            spec = (existing or {}).get("spec") or {}
            if existing is not None and spec.get("holderIdentity") == self._holder:
                self._object = {"metadata": existing["metadata"], "spec": spec}
            elif _transitions(spec) > _transitions(self._object["spec"]):
                return _named(spec.get("holderIdentity")) or "another command"
            elif self._write(*_instead(existing, document(now))) is not None:
                # The object is older than this lease: it is from a backup.
                return ""
        raise CommandError(f"the lease of the cluster {self._cluster} changes all the time")

    @property
    def transitions(self) -> int:
        """Number of holders of the lease so far, this one included."""
        return _transitions(self._object["spec"])

    def release(self) -> None:
        """Remove the holder from the version that was written last: the lease of another holder stays.

        The object stays too: a suspended holder finds in it that there was another one meanwhile.
        """
        self._released = True
        spec = {key: self._object["spec"].get(key) for key in ("leaseDurationSeconds", "acquireTime", "leaseTransitions")}
        self._write("replace", _version_of(self._object, spec))

    def _read(self) -> dict[str, Any] | None:
        result = self._node.run(f"{_ASK} get lease {NAME} --ignore-not-found --output=json", timeout=60)
        return untrusted.json_object(result.stdout, what=self._what, error=CommandError) if result.stdout.strip() else None

    def _write(self, verb: str, lease: dict[str, Any]) -> dict[str, Any] | None:
        """Write the object and return it; None when it exists already, has another version or is absent. Raises CommandError otherwise."""
        result = self._node.run(f"{_ASK} {verb} --output=json -f -", input=json.dumps(lease), check=False, timeout=60)
        if not result.ok:
            if any(reason in result.stderr for reason in _OTHERWISE):
                return None
            raise CommandError(f"{self._node.name}: the lease of the cluster {self._cluster} could not be taken", details=result.output)
        self._object = untrusted.json_object(result.stdout, what=self._what, error=CommandError)
        for part in ("metadata", "spec"):
            if not isinstance(self._object.get(part), dict):
                raise CommandError(f"{self._what}: has no {part}")
        return self._object

    @property
    def _what(self) -> str:
        return f"{self._node.name}: the lease of the cluster {self._cluster}"


_OTHERWISE = ("(AlreadyExists)", "(Conflict)", "(NotFound)")
"""Reasons in kubectl's output when an object is not in the expected state."""


def _instead(existing: dict[str, Any] | None, lease: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Return kubectl's verb and the Lease that replaces one that was read, in that version: of several writers one succeeds."""
    if existing is None:
        return "create", lease
    transitions = _transitions(existing.get("spec") or {}) + 1
    return "replace", _version_of(existing, {**lease["spec"], "leaseTransitions": transitions})


def _version_of(existing: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """Return a Lease with another spec, in the version of one that was read."""
    version = str((existing.get("metadata") or {}).get("resourceVersion") or "")
    return {**_EMPTY, "metadata": {**_EMPTY["metadata"], "resourceVersion": version}, "spec": spec}


def _transitions(spec: dict[str, Any]) -> int:
    """Return the number of holders that a Lease has had."""
    count = spec.get("leaseTransitions")
    return count if type(count) is int else 0


_EMPTY: dict[str, Any] = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": {"name": NAME, "namespace": "kube-system"},
}


def document(now: datetime.datetime) -> dict[str, Any]:
    """Return a Lease of this process; ``now`` is the clock of the control-plane node, so that clocks of clients do not matter."""
    spec = {"holderIdentity": holder(), "leaseDurationSeconds": seconds(), "acquireTime": _stamp(now), "renewTime": _stamp(now)}
    return {**_EMPTY, "spec": {**spec, "leaseTransitions": 1}}


def expired(lease: dict[str, Any], now: datetime.datetime) -> bool:
    """Return True for an expired Lease, and for one without a time."""
    spec = lease.get("spec") or {}
    try:
        renewed = datetime.datetime.fromisoformat(str(spec["renewTime"]))
        return now - renewed > datetime.timedelta(seconds=int(spec.get("leaseDurationSeconds") or seconds()))
    except (KeyError, TypeError, ValueError, OverflowError):
        return True


def abandoned(lease: dict[str, Any]) -> bool:
    """Return True when its holder was a process of this machine that has ended: a killed command may be repeated at once."""
    return has_ended(str((lease.get("spec") or {}).get("holderIdentity") or ""))


def has_ended(identity: str) -> bool:
    """Return True when the process of an identity has certainly ended; never for a process of another machine or container."""
    return liveness.has_ended(identity.rpartition(" ")[2].partition(".")[2])


def _stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _clock(node: Node) -> datetime.datetime:
    try:
        return datetime.datetime.fromtimestamp(float(node.run("date +%s.%N").stdout), datetime.UTC)
    except (ValueError, OverflowError, OSError) as wrong:
        raise CommandError(f"{node.name}: its clock cannot be read") from wrong

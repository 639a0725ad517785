"""One command at a time changes a cluster, wherever it was started. While there is an API, a Lease object in the cluster says who is at
it, and since when; on the masters a small file does, also before there is a cluster.
"""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import os
import shlex
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from harness import log
from harness.errors import CommandError, SlipwayError, UsageError
from harness.nodes import Node, each
from harness.runtimes.kubeadm import KUBECTL

NAME = "slipway-lock"
SECONDS = 60
"""Until a lease that nobody renews is no one's: its holder was killed, or has lost its way to the cluster."""
_RENEW = 15

CLAIM = "/run/slipway-at-work"
"""On a master: who is at work, and since when. Its own time is when that was last confirmed; it ends with the machine's uptime."""
_TAKEN = 75

# One reader and writer at a time; the folder itself is locked, so that nothing is left behind.
_TAKE = f"""exec 9< /run; if command -v flock > /dev/null; then flock -w 10 9; fi
there=$(head -n 1 {CLAIM} 2>/dev/null)
if [ -n "$there" ] && [ "$there" != "$who" ] && [ "$there" != "$instead" ] \
  && [ $(($(date +%s) - $(stat -c %Y {CLAIM}))) -lt {SECONDS} ]; then cat {CLAIM}; exit {_TAKEN}; fi
printf '%s\\n%s\\n' "$who" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" > {CLAIM}"""
_OURS = f'[ "$(head -n 1 {CLAIM} 2>/dev/null)" = "$who" ]'

_ASK = f"{KUBECTL} --request-timeout=20s --namespace kube-system"
_held: set[str] = set()
"""Names of holders that are this process, so that a verb may call another one."""


def holder() -> str:
    """Who we are: ``user@machine:process``."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


@contextlib.contextmanager
def held(master: Node, cluster: str) -> Iterator[None]:
    """Be the only one that changes the cluster; ``master`` is any of its masters. Raises UsageError when somebody else is at it."""
    if cluster in _held:
        yield
        return
    with claimed([master], cluster):
        _take(master, cluster)
        _held.add(cluster)
        try:
            with _kept(lambda: _renew(master)):
                yield
        finally:
            _held.discard(cluster)
            _gently(lambda: master.run(f"{_ASK} delete lease {NAME} --ignore-not-found --wait=false", check=False, timeout=30))


@contextlib.contextmanager
def claimed(masters: Sequence[Node], cluster: str) -> Iterator[None]:
    """Be the only one at work on these machines, which need not be a cluster yet. Raises UsageError when somebody else is."""
    who = f"who={shlex.quote(holder())}"
    # Always in the same order: of two who begin at once, one gets the first of them and with it all.
    ordered = sorted(masters, key=lambda node: node.address)
    mine: list[Node] = []
    try:
        for node in ordered:
            _claim(node, who, cluster)
            mine.append(node)
        with _kept(lambda: each(mine, lambda node: node.run(f"{who}; {_OURS} && touch {CLAIM}", check=False, timeout=30))):
            yield
    finally:
        for node in mine:
            _gently(lambda node=node: node.run(f"{who}; {_OURS} && rm -f {CLAIM}", check=False, timeout=30))  # type: ignore[misc]


def _claim(node: Node, who: str, cluster: str) -> None:
    instead = ""
    while True:
        asked = node.run(f"{who}; instead={shlex.quote(instead)}\n{_TAKE}", check=False, timeout=60)
        there, _, since = asked.stdout.strip().partition("\n")
        if asked.returncode == _TAKEN and there != instead and _is_gone(there):
            instead = there
            continue
        if asked.returncode == _TAKEN:
            raise _busy(cluster, there, since)
        if not asked.ok:
            raise CommandError(f"{node.name}: it could not be noted who is at work: {CLAIM}", details=asked.output)
        return


def _busy(cluster: str, who: object, since: object) -> UsageError:
    return UsageError(
        f"{who} is changing the cluster {cluster} since {since or 'some time'}",
        hint=f"wait for its end; one that was killed counts for {SECONDS} s",
    )


@contextlib.contextmanager
def _kept(renew: Callable[[], object]) -> Iterator[None]:
    """Renew from time to time while the block runs."""
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_RENEW):
            _gently(renew)

    keeper = threading.Thread(target=keep, daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        # It may be asking a machine that is lost; whatever it still says counts for nothing once the claim is given back.
        keeper.join(timeout=3)


def _gently(action: Callable[[], object]) -> None:
    """What need not succeed: a claim that nobody renews or gives back ends by itself."""
    try:
        action()
    except SlipwayError as error:
        log.debug(f"who is at work could not be noted: {error.message}")


def _take(master: Node, cluster: str) -> None:
    created = master.run(f"{_ASK} create -f -", input=json.dumps(document(_clock(master))), check=False, timeout=60)
    if created.ok:
        return
    if "AlreadyExists" not in created.stderr:
        raise CommandError(f"{master.name}: the lease of the cluster {cluster} could not be taken", details=created.output)
    there = json.loads(master.run(f"{_ASK} get lease {NAME} --output=json", timeout=60).stdout)
    now = _clock(master)
    if not expired(there, now) and not abandoned(there):
        raise _busy(cluster, there["spec"].get("holderIdentity"), there["spec"].get("acquireTime"))
    # With the version that was read: of several that find it expired one gets it.
    taken = document(now, str(there["metadata"]["resourceVersion"]))
    replaced = master.run(f"{_ASK} replace -f -", input=json.dumps(taken), check=False, timeout=60)
    if not replaced.ok:
        raise UsageError(f"somebody else has just begun to change the cluster {cluster}", hint="wait for its end")


def document(now: datetime.datetime, version: str | None = None) -> dict[str, Any]:
    """The Lease; ``now`` is the clock of the master, so that clocks of those who ask do not count."""
    metadata = {"name": NAME, "namespace": "kube-system", **({"resourceVersion": version} if version else {})}
    spec = {"holderIdentity": holder(), "leaseDurationSeconds": SECONDS, "acquireTime": _stamp(now), "renewTime": _stamp(now)}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}


def expired(found: dict[str, Any], now: datetime.datetime) -> bool:
    """Whether a Lease counts no more. One without a time never counted."""
    spec = found.get("spec") or {}
    renewed = spec.get("renewTime")
    if not renewed:
        return True
    return now - datetime.datetime.fromisoformat(renewed) > datetime.timedelta(seconds=spec.get("leaseDurationSeconds") or SECONDS)


def abandoned(found: dict[str, Any]) -> bool:
    """Whether its holder was a process of this machine that is no more: a command that was killed may be given again at once."""
    return _is_gone(str((found.get("spec") or {}).get("holderIdentity")))


def _is_gone(identity: str) -> bool:
    who, _, process = identity.rpartition(":")
    if who.rpartition("@")[2] != socket.gethostname() or not process.isdigit() or int(process) == os.getpid():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass
    return False


def _stamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _clock(master: Node) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(float(master.run("date +%s.%N").stdout), datetime.UTC)


def _renew(master: Node) -> None:
    patch = json.dumps({"spec": {"renewTime": _stamp(_clock(master))}})
    master.run(f"{_ASK} patch lease {NAME} --type merge --patch '{patch}'", check=False, timeout=30)

"""One command at a time changes a cluster, wherever it was started: a Lease object in the cluster says who is at it, and since when."""

from __future__ import annotations

import contextlib
import datetime
import getpass
import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

from harness import log
from harness.errors import CommandError, SlipwayError, UsageError
from harness.nodes import Node
from harness.runtimes.kubeadm import KUBECTL

NAME = "slipway-lock"
SECONDS = 60
"""Until a lease that nobody renews is no one's: its holder was killed, or has lost its way to the cluster."""
_RENEW = 15

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
    _take(master, cluster)
    _held.add(cluster)
    ended = threading.Event()
    keeper = threading.Thread(target=_keep, args=(master, ended), daemon=True)
    keeper.start()
    try:
        yield
    finally:
        ended.set()
        keeper.join()
        _held.discard(cluster)
        try:
            master.run(f"{_ASK} delete lease {NAME} --ignore-not-found --wait=false", check=False, timeout=30)
        except SlipwayError as error:
            log.debug(f"the lease could not be given back: {error.message}")


def _take(master: Node, cluster: str) -> None:
    created = master.run(f"{_ASK} create -f -", input=json.dumps(document(_clock(master))), check=False, timeout=60)
    if created.ok:
        return
    if "AlreadyExists" not in created.stderr:
        raise CommandError(f"{master.name}: the lease of the cluster {cluster} could not be taken", details=created.output)
    there = json.loads(master.run(f"{_ASK} get lease {NAME} --output=json", timeout=60).stdout)
    now = _clock(master)
    if not expired(there, now) and not abandoned(there):
        spec = there["spec"]
        raise UsageError(
            f"{spec.get('holderIdentity')} is changing the cluster {cluster} since {spec.get('acquireTime', 'some time')}",
            hint=f"wait for its end; one that was killed counts for {SECONDS} s",
        )
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
    who, _, process = str((found.get("spec") or {}).get("holderIdentity")).rpartition(":")
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


def _keep(master: Node, ended: threading.Event) -> None:
    while not ended.wait(_RENEW):
        try:
            patch = json.dumps({"spec": {"renewTime": _stamp(_clock(master))}})
            master.run(f"{_ASK} patch lease {NAME} --type merge --patch '{patch}'", check=False, timeout=30)
        except SlipwayError as error:
            log.debug(f"the lease could not be renewed: {error.message}")

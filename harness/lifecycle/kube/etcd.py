"""Members of etcd when control-plane nodes join and leave, without risk to its quorum; snapshots of its data."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import shlex
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, BinaryIO, cast

from harness import assets, log, untrusted
from harness.errors import CheckError, CommandError, NodeError, SlipwayError
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.ssh import SshNode
from harness.runtimes import ROOTFS
from harness.runtimes.configuration import peer_url
from harness.runtimes.pki import FOLDER

DATA = "/var/lib/etcd"
MANIFEST = "/etc/kubernetes/manifests/etcd.yaml"

_STEPS: Mapping[tuple[int, int], tuple[int, int, int]] = {(3, 6): (3, 5, 26)}
"""Minor versions that need a recent patch of the one before: the oldest that works. An older 3.5 may restore members that were removed, or
take promoted members for learners, as those of nodes that joined later are.
"""

_NOT_HERE = 75
_SNAPSHOT_FILE = f"{DATA}/slipway-snapshot.db"

_LARGEST_SNAPSHOT = 32 << 30
"""Bytes. etcd's own quota is 2 GiB, and 8 GiB is the most that its documentation suggests."""

_SNAPSHOT = assets.script("snapshot_etcd", file=_SNAPSHOT_FILE, pki=FOLDER, rootfs=ROOTFS)


@dataclasses.dataclass(frozen=True)
class EtcdMember:
    """A member as the others know it."""

    id: int
    name: str
    """Empty until it has been started for the first time."""
    peers: tuple[str, ...]
    clients: tuple[str, ...] = ()
    learner: bool = False
    """It has no vote yet."""


@dataclasses.dataclass(frozen=True)
class EtcdStatus:
    """The status that a member reports."""

    size: int
    """Bytes of its database."""
    leads: bool


class Etcd:
    """etcdctl, on the first control-plane node whose etcd runs."""

    def __init__(self, control_plane: Sequence[Node]) -> None:
        self.control_plane = tuple(control_plane)

    def members(self) -> tuple[EtcdMember, ...]:
        return _members(self._json("member list"))

    def of(self, address: str) -> EtcdMember | None:
        """The member on the machine with this address."""
        return next((member for member in self.members() if peer_url(address) in member.peers), None)

    def sick(self, members: Iterable[EtcdMember]) -> dict[int, str]:
        """Reasons, by id, why members with a vote do not answer."""
        voters = {url: member for member in members if not member.learner for url in member.clients[:1]}
        reasons = {member.id: "has never been started" for member in members if not member.learner and not member.clients}
        if voters:
            text = self._run(f"endpoint health -w json --endpoints={shlex.quote(','.join(voters))}", check=False)
            answers = {str(answer.get("endpoint")): answer for answer in _parsed(text)}
            for url, member in voters.items():
                answer = answers.get(url, {})
                if not answer.get("health"):
                    reasons[member.id] = " ".join(str(answer.get("error") or "does not answer").split())
        return reasons

    def status(self, members: Iterable[EtcdMember]) -> dict[int, EtcdStatus]:
        """The status of members that answer, by id."""
        urls = ",".join(url for member in members for url in member.clients[:1])
        by_id = {}
        for answer in _parsed(self._run(f"endpoint status -w json --endpoints={shlex.quote(urls)}", check=False)):
            status = _part(answer, "Status")
            member = _whole(_part(status, "header").get("member_id"))
            by_id[member] = EtcdStatus(_whole(status.get("dbSize")), bool(member) and status.get("leader") == member)
        return by_id

    def alarms(self) -> tuple[str, ...]:
        """Alarms that etcd has raised: ``NOSPACE``, ``CORRUPT``."""
        kinds = {"1": "NOSPACE", "2": "CORRUPT"}
        listed = self._json("alarm list").get("alarms")
        alarms = [str(entry.get("alarm")) for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
        return tuple(dict.fromkeys(kinds.get(alarm, alarm) for alarm in alarms))

    def add(self, name: str, address: str) -> EtcdMember:
        """Add a learner."""
        self._run(f"member add {shlex.quote(name)} --learner --peer-urls={peer_url(address)}")
        member = self.of(address)
        if member is None:
            raise CommandError(f"etcd does not list {name}, which has just been added")
        return member

    def promote(self, member: EtcdMember) -> None:
        """Give a learner its vote. Raises CommandError while it lags behind."""
        self._run(f"member promote {member.id:x}")

    def remove(self, member: EtcdMember) -> None:
        """Remove a member, unless it is removed already."""
        try:
            self._run(f"member remove {member.id:x}")
        except CommandError as error:
            if "Member not found" not in (error.details or ""):
                raise

    def hand_over(self, leaving: Iterable[EtcdMember]) -> None:
        """Move the leadership off a member before it leaves, which saves the time of an election."""
        gone = {member.id: member for member in leaving}
        rest = [member for member in self.members() if member.id not in gone and not member.learner and member.clients]
        try:
            status = _parsed(self._run("endpoint status -w json"))[0]["Status"]
            leader = gone.get(int(status["leader"]))
            if leader and leader.clients and rest:
                self._run(f"move-leader {rest[0].id:x} --endpoints={shlex.quote(leader.clients[0])}")
        except (SlipwayError, LookupError, ValueError, TypeError) as error:
            log.debug(f"etcd's leader stays: {error}")

    def _json(self, command: str) -> dict[str, Any]:
        # The last output of a container may be lost: an empty answer is requested again.
        output = self._run(f"{command} -w json") or self._run(f"{command} -w json")
        try:
            answer = json.loads(output)
        except (ValueError, RecursionError) as wrong:
            raise CommandError(f"etcdctl {command}: its answer cannot be read: {output[:100].strip() or 'nothing'}") from wrong
        if not isinstance(answer, dict):
            raise CommandError(f"etcdctl {command}: no object in the answer")
        return answer

    def _run(self, command: str, *, check: bool = True) -> str:
        """Run etcdctl on the first node where etcd runs; return its output."""
        endpoint = "" if "--endpoints" in command else "--endpoints=https://127.0.0.1:2379 "
        words = shlex.split(f"{endpoint}{command}")
        script = assets.script("etcdctl", *words, not_here=_NOT_HERE, pki=FOLDER, rootfs=ROOTFS)
        for node in self.control_plane:
            result = node.run(script, check=False, timeout=60)
            if result.returncode == _NOT_HERE:
                continue
            if check and not result.ok:
                reason = (result.output.strip().splitlines() or ["no reason"])[-1]
                raise CommandError(f"{node.name}: etcdctl {command.split(' --', maxsplit=1)[0]}: {reason}", details=result.output)
            return result.stdout
        raise CheckError(
            "etcd runs on no control-plane node that answers", hint="start a control-plane node again, or restore etcd from a backup"
        )


def _parsed(text: str) -> list[dict[str, Any]]:
    try:
        return [entry for entry in json.loads(text) if isinstance(entry, dict)]
    except (ValueError, TypeError, RecursionError):
        return []


def _part(answer: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """An object in an answer; empty where there is something else."""
    part = answer.get(key)
    return part if isinstance(part, dict) else {}


def _members(answer: Mapping[str, Any]) -> tuple[EtcdMember, ...]:
    try:
        return tuple(_member(entry) for entry in answer.get("members") or ())
    except (LookupError, ValueError, TypeError, AttributeError) as wrong:
        raise CommandError("etcdctl member list: its answer cannot be read") from wrong


def _whole(value: object) -> int:
    return value if type(value) is int and value >= 0 else 0


def _member(entry: Mapping[str, Any]) -> EtcdMember:
    return EtcdMember(
        int(entry["ID"]),
        str(entry.get("name") or ""),
        tuple(map(str, entry.get("peerURLs") or ())),
        tuple(map(str, entry.get("clientURLs") or ())),
        bool(entry.get("isLearner")),
    )


# ---- another version --------------------------------------------------------------------------------------------------


def version(image: str) -> tuple[int, int, int] | None:
    """The version in the name of an image: (3, 6, 8) of ``registry.k8s.io/etcd:3.6.8-0``; None without one."""
    match = re.search(r"/etcd:v?(\d{1,4})\.(\d{1,4})\.(\d{1,5})", image)
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def image_of(node: Node) -> str:
    """The image of etcd that a node runs; empty when it runs none."""
    match = re.search(r"image: [\"']?([^\s\"']*/etcd:[^\s\"']*)", node.run(f"cat {MANIFEST}", check=False).stdout)
    return match[1] if match else ""


def require_step(running: str, target: str) -> None:
    """Raises CheckError when etcd cannot be upgraded from one image to another: only by one minor version, and to some only from a recent
    patch. Images without a version in their names pass.
    """
    before, after = version(running), version(target)
    if before is None or after is None or after[:2] <= before[:2]:
        return
    old, new = ".".join(map(str, before)), ".".join(map(str, after))
    if after[:2] != (before[0], before[1] + 1):
        raise CheckError(
            f"from etcd {old} to {new} is more than one minor version; nothing has been changed",
            hint=f"an image with etcd {before[0]}.{before[1] + 1} comes first",
        )
    oldest = _STEPS.get(after[:2])
    if oldest is not None and before < oldest:
        raise CheckError(
            f"etcd {old} cannot become {new}: it must be {'.'.join(map(str, oldest))} or newer before; nothing has been changed",
            hint="first an image with such an etcd (etcdImageTag in its etc/slipway.yaml) and the minor version of Kubernetes that runs",
        )


# ---- joining ----------------------------------------------------------------------------------------------------------


def peers(members: Iterable[EtcdMember], own: EtcdMember, name: str) -> str:
    """All members for ``--initial-cluster`` of a new one: ``name=url,...``."""
    entries = [(name if member.id == own.id else member.name, url) for member in members for url in member.peers]
    return ",".join(f"{who}={url}" for who, url in entries)


def admit(
    etcd: Etcd,
    name: str,
    address: str,
    start: Callable[[str, bool], None],
    *,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Make a node a member. ``start(peers, empty)`` starts its etcd; with ``empty`` it has no data yet.

    It is a learner first and gets its vote when it has caught up: until then it cannot cost the quorum, and when that fails it is removed
    again. May be repeated. Raises CheckError when a member is not healthy, or the new one does not catch up in time.
    """
    members = etcd.members()
    member = next((each for each in members if peer_url(address) in each.peers), None)
    if member is not None and member.learner and not member.name:
        # Added by a command that was killed: the state of its data is not known.
        etcd.remove(member)
        member, members = None, etcd.members()
    empty = member is None
    if member is None:
        require_health(members, etcd.sick(members), f"{name} cannot join")
        member = _add(etcd, name, address, clock() + timeout, clock, sleep)
    try:
        start(peers(etcd.members(), member, name), empty)
        if member.learner:
            _promote(etcd, member, name, clock() + timeout, clock, sleep)
    except BaseException:
        if member.learner:
            _withdraw(etcd, member, address)
        raise


def _add(etcd: Etcd, name: str, address: str, deadline: float, clock: Callable[[], float], sleep: Callable[[float], None]) -> EtcdMember:
    """Add a learner; etcd refuses one for some seconds after the last member has joined."""
    while True:
        try:
            return etcd.add(name, address)
        except CommandError as error:
            if "unhealthy cluster" not in (error.details or "") or clock() > deadline:
                raise
            sleep(0.3)


def _promote(
    etcd: Etcd, member: EtcdMember, name: str, deadline: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> None:
    while True:
        try:
            etcd.promote(member)
        except CommandError as error:
            if "not a learner" in (error.details or ""):
                return
            if clock() > deadline:
                hint = "the log of its etcd is in /var/log/pods there; run the same command again"
                raise CheckError(f"etcd of {name} has not caught up with the others: {error.message}", hint=hint) from error
            sleep(0.3)
        else:
            return


def _withdraw(etcd: Etcd, member: EtcdMember, address: str) -> None:
    try:
        now = etcd.of(address)
        if now is not None and now.id == member.id and now.learner:
            etcd.remove(now)
    except SlipwayError as error:
        log.warning(f"etcd still lists the member at {address}, which has no vote: {error.message}")


def require_health(members: Sequence[EtcdMember], sick: Mapping[int, str], what: str) -> None:
    """Raises CheckError when a member does not answer."""
    if sick:
        names = {member.id: member.name or member.peers[0] for member in members}
        reasons = [f"{names[member]} {reason}" for member, reason in sick.items()]
        raise CheckError(
            f"{what}: etcd is not healthy: {'; '.join(reasons)}",
            hint="start that node again, or remove it first: slipway remove",
        )


# ---- leaving ----------------------------------------------------------------------------------------------------------


def order(members: Sequence[EtcdMember], sick: Iterable[int], leaving: Iterable[int]) -> tuple[EtcdMember, ...]:
    """The order in which members may leave: dead ones first.

    Raises CheckError when etcd would lose its quorum on the way, has lost it already, or would have no member left.
    """
    gone, dead = set(leaving), set(sick)
    voters = {member.id for member in members if not member.learner}
    ordered = sorted((member for member in members if member.id in gone), key=lambda member: (not member.learner, member.id not in dead))
    _require_quorum(
        len(voters),
        len(voters - dead),
        "has lost its quorum: nothing can be changed",
        "start control-plane nodes again, or restore etcd from a backup",
    )
    for member in ordered:
        if member.learner:
            continue
        voters.discard(member.id)
        alive = len(voters - dead)
        what = f"would lose its quorum without {member.name or member.peers[0]}"
        _require_quorum(len(voters), alive, what, "join a control-plane node first, or remove those that do not answer")
    return tuple(ordered)


def _require_quorum(voters: int, alive: int, what: str, hint: str) -> None:
    if alive == 0 or alive < voters // 2 + 1:
        raise CheckError(f"etcd {what}: {alive} of {voters} members would answer", hint=hint)


def take_snapshot(node: SshNode, into: BinaryIO) -> dict[str, Any]:
    """Write a snapshot of etcd to an open file. Return the status of etcdutl: ``hash``, ``revision``, ``totalKey``, ``totalSize``."""
    try:
        lines = node.run(_SNAPSHOT, timeout=1800).stdout.splitlines()
        try:
            checksum = lines[0].split()[0]
            status = untrusted.json_object(lines[-1], what=f"{node.name}: the account of the snapshot", error=CommandError)
        except IndexError as wrong:
            raise CommandError(f"{node.name}: etcd's tool gave no account of the snapshot", details="\n".join(lines)) from wrong
        node.fetch(f"cat {_SNAPSHOT_FILE}", into, limit=_LARGEST_SNAPSHOT, timeout=2 * LONG_TIMEOUT)
    finally:
        with contextlib.suppress(SlipwayError):
            node.run(f"rm -f {_SNAPSHOT_FILE} {_SNAPSHOT_FILE}.part")
    into.seek(0)
    if hashlib.file_digest(cast("Any", into), "sha256").hexdigest() != checksum:
        raise NodeError(f"{node.name}: the snapshot did not arrive whole", hint="run the same command again")
    if not status.get("totalKey"):
        raise CheckError(f"{node.name}: the snapshot of etcd holds nothing", hint="see etcdctl member list on the control-plane nodes")
    return dict(status)

"""The deliveries of one run: which rounds each node goes through, who serves it, and which nodes are left open."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import threading
from collections.abc import Callable, Collection, Iterable
from typing import BinaryIO, cast

from harness import log
from harness.errors import CommandError, SlipwayError
from harness.lifecycle.provision.distribution import scripts
from harness.lifecycle.provision.distribution.parcel import Delivery, Load, Parcel
from harness.lifecycle.provision.distribution.schedule import REFUSALS, PeerSchedule
from harness.lifecycle.provision.distribution.scripts import CLOSE, PORT, GatherState
from harness.nodes import Node, Writer, claim, each
from harness.nodes.files import STATE, CountingPipe, archive
from harness.process import ProcessResult

_SENDERS = 4
"""Nodes that are sent something over SSH at the same time."""
RENEW_SECONDS = 240

_DISK_FULL = "No space left on device"
_EVERY_PEER = tuple(f"any-{number}" for number in range(REFUSALS))
"""Refused by a node that can ask no peer."""


class Exchange:
    """Delivers parcels to ``nodes``, the most urgent first. Safe in threads."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = tuple(nodes)
        self._secret = secrets.token_bytes(32)
        self._shared: dict[str, tuple[Parcel, PeerSchedule]] = {}
        self._making: dict[str, threading.Lock] = {}
        self._open: dict[str, Node] = {}
        self._renewing: threading.Event | None = None
        self._claim: claim.ClusterClaim | None = None
        self._lock = threading.Lock()
        self._senders = threading.BoundedSemaphore(_SENDERS)
        self._failures = 0
        self._fetched = False

    def key(self, name: str) -> str:
        """The key of a parcel, for the nodes that are to have it."""
        return hmac.new(self._secret, name.encode(), "sha256").hexdigest()

    def bring(self, node: Node, name: str, make: Callable[[], Parcel], among: Collection[Node] | None = None) -> Delivery:
        """Deliver a parcel to a node. ``make`` is called once, for the first node; ``among`` may have it already (default: all nodes).

        Raises CommandError when files do not arrive over SSH either: the disk is full, say.
        """
        parcel, schedule = self._share(name, make, self._nodes if among is None else among)
        state = GatherState(without="names that can be listed")
        if parcel.listed:
            state = _run(node, scripts.begin(node, parcel), archive(parcel.manifest(self.key(name))))
        if state.without and parcel.whole is not None:
            log.debug(f"{name} is sent to {node.name} whole: it has no {state.without}")
            parcel.whole(node)
            return Delivery(parcel.size)
        parts, fetches, sent = state.parts, state.fetches, 0
        refused: set[str] = set()
        peers: list[str] = []
        while not state.whole:
            with schedule.reserved(node.address, refused if fetches and not self._unreachable else _EVERY_PEER) as peer:
                if peer is None:
                    with self._senders:
                        state, sent = _send(node, parcel, state, parts)
                else:
                    before = state
                    state = _run(node, scripts.fetch(node, parcel, peer), timeout=3600)
                    if len(state.lacking) < len(before.lacking):
                        peers.append(peer)
                    self._note_fetch(node, schedule, peer, before, state)
                    refused |= set() if state.whole else {peer}
                if state.serves:
                    # Before the waiting nodes are notified: they would conclude that no node has it.
                    schedule.add(node.address)
        self._note_state(node, schedule, state)
        return Delivery(sent, tuple(peers))

    def _note_fetch(self, node: Node, schedule: PeerSchedule, peer: str, before: GatherState, after: GatherState) -> None:
        """Remember the outcome of asking a peer."""
        if after.whole:
            self._fetched = True
            return
        schedule.failed(peer)
        what = "nothing" if len(after.lacking) == len(before.lacking) else f"{len(after.lacking)} files less, or not as they should be,"
        log.debug(f"{node.name} got {what} from {peer}")
        with self._lock:
            self._failures += 1
            if self._failures == REFUSALS + 1 and not self._fetched:
                log.warning(f"the machines do not reach each other on port {PORT}: everything is sent from here")

    @property
    def _unreachable(self) -> bool:
        """Nodes evidently do not reach each other."""
        return self._failures > REFUSALS and not self._fetched

    # ---- nodes that have a parcel already, and nodes left open

    def _share(self, name: str, make: Callable[[], Parcel], among: Collection[Node]) -> tuple[Parcel, PeerSchedule]:
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:
            if name not in self._shared:
                parcel, schedule = make(), PeerSchedule([node.address for node in self._nodes])
                each(among, lambda node: self._offer(node, name, schedule))
                self._shared[name] = parcel, schedule
            return self._shared[name]

    def _offer(self, node: Node, name: str, schedule: PeerSchedule) -> None:
        # A node that does not answer is reported by the step that needs it.
        with contextlib.suppress(SlipwayError):
            result = node.run(scripts.offer(node, name), input=f"{self.key(name)}\n", timeout=60)
            self._note_state(node, schedule, GatherState.parse(result.stdout))

    def _note_state(self, node: Node, schedule: PeerSchedule, state: GatherState) -> None:
        if state.opens:
            self._note_open(node)
        if state.serves:
            schedule.add(node.address)

    def _note_open(self, node: Node) -> None:
        with self._lock:
            self._open[node.address] = node
            self._claim = claim.current() or self._claim
            if self._renewing is None:
                self._renewing = threading.Event()
                threading.Thread(target=self._renew, args=(self._renewing,), daemon=True).start()

    def _renew(self, ended: threading.Event) -> None:
        """Keep open nodes open until ``ended``: without this process they close by themselves."""
        while not ended.wait(RENEW_SECONDS):
            with self._lock:
                nodes = tuple(self._open.values())
            _try_on_each(nodes, scripts.RENEW, timeout=30)

    def close(self) -> None:
        """End serving on every node. May be called again, and other parcels delivered afterwards."""
        with self._lock:
            nodes, self._open = tuple(self._open.values()), {}
            self._shared.clear()
            if self._renewing is not None:
                self._renewing.set()
                self._renewing = None
        # The command that has taken over serves on these nodes now; what this one left closes by itself.
        if self._claim is None or not self._claim.lost:
            _try_on_each(nodes, CLOSE, timeout=15)


def _try_on_each(nodes: Collection[Node], script: str, timeout: float) -> None:
    def run(node: Node) -> None:
        with contextlib.suppress(SlipwayError):
            node.run(script, check=False, timeout=timeout)

    each(nodes, run)


def _run(node: Node, script: str, input: bytes | None = None, timeout: float = 600) -> GatherState:
    result = node.run(script, input=input, timeout=timeout)
    _check_disk(node, result)
    return GatherState.parse(result.stdout)


def _send(node: Node, parcel: Parcel, state: GatherState, parts: Collection[str]) -> tuple[GatherState, int]:
    """Over SSH: all of it packed where that is less than what is lacking, then the remaining files. The new state, and bytes sent."""
    packed = parcel.packed(parts) if parcel.packed else None
    sent, errors = 0, ""
    if packed is not None and packed.size < parcel.load(state.lacking).size:
        state, sent, errors = _load(node, parcel, packed)
    if not state.whole:
        state, more, errors = _load(node, parcel, parcel.load(state.lacking))
        sent += more
    if not state.whole:
        raise CommandError(
            f"{node.name}: {len(state.lacking)} of {len(parcel.files)} files did not arrive as they should",
            hint="if the same command again says the same, a disk of the machine or of this one is at fault",
            details=errors.strip() or None,
        )
    return state, sent


def _load(node: Node, parcel: Parcel, load: Load) -> tuple[GatherState, int, str]:
    meter = _Meter(load.write)
    result = node.run(scripts.load(node, parcel, load.unpack), input=meter, timeout=3600)
    _check_disk(node, result)
    return GatherState.parse(result.stdout), meter.bytes, result.stderr


def _check_disk(node: Node, result: ProcessResult) -> None:
    """Raises CommandError when the disk of the node is full, which is not a failure of the sender."""
    if _DISK_FULL in result.stderr:
        raise CommandError(
            f"{node.name}: its disk is full",
            hint=f"see df -h {STATE} there, free some, and run the same command again",
            details="\n".join([line for line in result.stderr.splitlines() if _DISK_FULL in line][-3:]),
        )


class _Meter:
    """A writer that counts its bytes."""

    def __init__(self, write: Writer) -> None:
        self._write = write
        self.bytes = 0

    def __call__(self, stream: BinaryIO) -> None:
        counted = CountingPipe(stream)
        self._write(cast("BinaryIO", counted))
        self.bytes = counted.tell()

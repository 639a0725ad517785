"""The order in which nodes are served by their peers."""

from __future__ import annotations

import collections
import contextlib
import threading
from collections.abc import Collection, Iterator, Sequence

AT_ONCE = 2
"""Nodes that a peer serves at the same time: with more, each would wait longer until it can serve as well."""
REFUSALS = 2
"""Failures after which a node asks no other peer, and after which no node asks a peer."""


class PeerSchedule:
    """The nodes that have a parcel, and how many each serves. Nodes early in ``order`` are served first. Safe in threads."""

    def __init__(self, order: Sequence[str]) -> None:
        self._order = {address: rank for rank, address in enumerate(order)}
        self._serving: dict[str, int] = {}
        self._served: collections.Counter[str] = collections.Counter()
        self._failures: collections.Counter[str] = collections.Counter()
        self._waiting: dict[str, Collection[str]] = {}
        self._sending = 0
        self._changed = threading.Condition()

    def add(self, address: str) -> None:
        with self._changed:
            self._serving.setdefault(address, 0)
            self._changed.notify_all()

    @contextlib.contextmanager
    def reserved(self, address: str, refused: Collection[str]) -> Iterator[str | None]:
        """Wait for a peer that serves this node while the block runs. None: send it everything over SSH.

        ``refused`` are peers that it does not ask again.
        """
        peer = self._reserve(address, refused)
        try:
            yield peer
        finally:
            with self._changed:
                if peer is None:
                    self._sending -= 1
                else:
                    self._serving[peer] -= 1
                self._changed.notify_all()

    def failed(self, peer: str) -> None:
        """Count a failure of a peer."""
        with self._changed:
            self._failures[peer] += 1

    def _reserve(self, address: str, refused: Collection[str]) -> str | None:
        with self._changed:
            self._waiting[address] = refused
            try:
                while True:
                    peers = self._peers(address)
                    free = [peer for peer in peers if self._serving[peer] < AT_ONCE]
                    # While one node is sent everything the others wait: it will serve them.
                    if len(refused) >= REFUSALS or (not peers and not self._sending):
                        self._sending += 1
                        return None
                    if free and not self._is_preceded(address):
                        # Among equally busy peers the one that has served fewer nodes, to spread the load.
                        peer = min(free, key=lambda peer: (self._serving[peer], self._served[peer]))
                        self._serving[peer] += 1
                        self._served[peer] += 1
                        return peer
                    self._changed.wait()
            finally:
                del self._waiting[address]
                self._changed.notify_all()

    def _peers(self, address: str) -> list[str]:
        refused = self._waiting[address]
        return [peer for peer in self._serving if peer != address and peer not in refused and self._failures[peer] < REFUSALS]

    def _is_preceded(self, address: str) -> bool:
        """Return whether a node of higher rank is waiting and could be served now."""
        rank = self._order.get(address, len(self._order))
        earlier = [other for other in self._waiting if self._order.get(other, len(self._order)) < rank]
        return any(self._serving[peer] < AT_ONCE for other in earlier for peer in self._peers(other))

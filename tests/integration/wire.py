"""A wire that can be watched and cut: a TCP proxy before a registry that counts bytes, notes requests, breaks off, slows down."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator

from tests.waiting import HANG

_HEAD = re.compile(rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.1\r\n(.*?)\r\n\r\n", re.DOTALL)
_RANGE = re.compile(rb"(?im)^range: bytes=(\d+)-\r?$")
_METHODS = (b"GET ", b"HEAD ", b"POST ", b"PUT ", b"PATCH ", b"DELETE ")
_BLOCK = 256 << 10


@dataclasses.dataclass(frozen=True)
class Seen:
    """A request that went over the wire; ``start`` is where its Range begins."""

    method: str
    path: str
    start: int = 0

    @property
    def blob(self) -> str | None:
        """The digest of the blob that is asked for, if it is one."""
        found = re.search(r"/blobs/(sha256:[0-9a-f]{64})$", self.path)
        return found[1] if found else None


class Wire:
    """``up`` and ``down`` are bytes towards the registry and back, heads included; ``host`` is where clients connect to."""

    def __init__(self, target: str, *, delay: float = 0.0) -> None:
        self._target = (target.rpartition(":")[0], int(target.rpartition(":")[2]))
        self._delay = delay
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.up = 0
        self.down = 0
        self.requests: list[Seen] = []
        self.rate: float | None = None
        """Bytes a second in each direction, over all connections."""
        self._free: dict[str, float] = {}
        self.broken = 0
        self._breaks: list[tuple[str, int, bool]] = []
        self._holds: dict[str, int] = {}
        self._changed = threading.Condition()
        self._open: set[socket.socket] = set()
        self._dead: set[socket.socket] = set()
        self._accepted: set[object] = set()
        """The addresses of clients that have been let in."""
        self._busy = 0
        """Connections that have not ended."""

    def fetched(self) -> list[str]:
        """The blobs that were asked for with GET, in order."""
        return [seen.blob for seen in self.requests if seen.method == "GET" and seen.blob]

    def drain(self) -> None:
        """Wait until everything that ended clients had sent is noted and their connections are over.

        What a process had sent before it was killed is still in buffers, and would be taken for requests of the next one.
        """
        host, _, port = self.host.rpartition(":")
        with socket.create_connection((host, int(port))) as last:  # those before it have been let in when it is
            ours = last.getsockname()
            with self._changed:
                assert self._changed.wait_for(lambda: ours in self._accepted, HANG), "the wire lets nobody in"
        with self._changed:
            assert self._changed.wait_for(lambda: not self._busy, HANG), "a connection does not end"
            self._accepted.clear()

    def clear(self) -> None:
        """Forget what was seen and what was to be broken; of clients that have ended nothing is seen later."""
        self.drain()
        with self._changed:
            self.up = self.down = self.broken = 0
            self.requests.clear()
            self._breaks.clear()

    def hold(self, direction: str, after: int) -> None:
        """Let nothing more pass in a direction once ``after`` bytes have, until release()."""
        with self._changed:
            self._holds[direction] = after

    def release(self) -> None:
        with self._changed:
            self._holds.clear()
            self._changed.notify_all()

    def _held(self, direction: str) -> bool:
        return bool(getattr(self, direction) >= self._holds.get(direction, float("inf")))

    def cut(self, direction: str, after: int, *, hard: bool = True) -> None:
        """Break whichever connection carries byte number ``after`` of a direction (``up`` or ``down``): by RST, or as an orderly end."""
        with self._changed:
            self._breaks.append((direction, after, hard))

    def wait(self, direction: str, count: int, timeout: float = HANG) -> bool:
        """Until so many bytes have gone in a direction; False when they never did."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(getattr(self, direction) >= count), timeout)

    # The wire itself

    def serve(self) -> None:
        while True:
            try:
                client, address = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._accepted.add(address)
                self._busy += 1
                self._changed.notify_all()
            threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            left = tuple(self._open)
        for one in left:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _connect(self, client: socket.socket) -> None:
        try:
            self._carry(client)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _carry(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        for one in (client, server):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._changed:
            self._open |= {client, server}
        pumps = [
            threading.Thread(target=self._pump, args=(client, server, "up"), daemon=True),
            threading.Thread(target=self._pump, args=(server, client, "down"), daemon=True),
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        with self._changed:
            self._open -= {client, server}
            self._dead -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        head = b""
        late = _Late(sink, self._delay) if self._delay else None
        try:
            while data := source.recv(_BLOCK):
                if direction == "up":
                    head = self._note(head, data)
                passing, hard = self._count(direction, data)
                (late or sink).sendall(data[:passing])
                if hard is not None:
                    self._break(source, sink, hard)
                    break  # the kernel would still give us what it had received before
                self._brake(direction, len(data))
                with self._changed:
                    self._changed.wait_for(lambda: not self._held(direction))
            if source not in self._dead:
                (late or sink).shutdown(socket.SHUT_WR)
        except OSError:
            for one in (source, sink):
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        if late:
            late.join()

    def _brake(self, direction: str, count: int) -> None:
        if not self.rate:
            return
        with self._changed:
            now = time.monotonic()
            self._free[direction] = max(now, self._free.get(direction, now)) + count / self.rate
            wait = self._free[direction] - now
        time.sleep(wait)

    def _count(self, direction: str, data: bytes) -> tuple[int, bool | None]:
        """How many of these bytes pass, and whether the wire breaks behind them (True: hard)."""
        with self._changed:
            before: int = getattr(self, direction)
            due = sorted(one for one in self._breaks if one[0] == direction and before <= one[1] < before + len(data))
            passing = due[0][1] - before if due else len(data)
            setattr(self, direction, before + passing)
            self._changed.notify_all()
            if not due:
                return passing, None
            self._breaks.remove(due[0])
            self.broken += 1
            return passing, due[0][2]

    def _break(self, source: socket.socket, sink: socket.socket, hard: bool) -> None:
        with self._changed:
            self._dead |= {source, sink} if hard else set()
        for one in (source, sink):
            if hard:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            # Wakes both pumps; where the linger is set, the close that follows is an RST.
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RD if hard else socket.SHUT_RDWR)

    def _note(self, head: bytes, data: bytes) -> bytes:
        """Note a request whose head comes by; what there is of it so far. A client asks again only when it was answered."""
        if not head and not data.startswith(_METHODS):
            return b""
        head += data[:_BLOCK]
        if b"\r\n\r\n" not in head:
            return head
        found = _HEAD.match(head)
        if found:
            begun = _RANGE.search(found[3] + b"\r\n")
            self.requests.append(Seen(found[1].decode(), found[2].decode(), int(begun[1]) if begun else 0))
        return b""


class _Late:
    """A socket to which everything comes a while later, as over a long line; as much may be on its way as there is."""

    def __init__(self, sink: socket.socket, delay: float) -> None:
        self._sink = sink
        self._delay = delay
        self._way: queue.SimpleQueue[tuple[float, bytes | None]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._arrive, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait until all has arrived that was sent."""
        self._way.put((0.0, None))
        self._thread.join()

    def sendall(self, data: bytes) -> None:
        self._way.put((time.monotonic() + self._delay, data))

    def shutdown(self, how: int) -> None:
        self._way.put((time.monotonic() + self._delay, None))

    def _arrive(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = self._way.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if data is None:
                    self._sink.shutdown(socket.SHUT_WR)
                    return
                self._sink.sendall(data)


@contextlib.contextmanager
def wire(target: str, *, delay: float = 0.0) -> Iterator[Wire]:
    """A wire to ``target`` (``host:port``); ``delay``: seconds that every byte is on its way, each way."""
    running = Wire(target, delay=delay)
    thread = threading.Thread(target=running.serve, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        running.close()
        thread.join(5)

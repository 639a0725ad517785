"""An SSH server whose answers a test writes: machines of a cluster that lie. The product's own OpenSSH client talks to it.

A machine answers a command by the last rule whose text stands in it; without one the command ends with 0 and prints nothing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncssh

Session = asyncssh.SSHServerProcess[bytes]
Answer = Callable[[Session], Awaitable[int]]
"""Writes to the session's standard output and error; returns the exit code."""

_START_TIMEOUT = 60.0


def says(output: str | bytes = b"", *, errors: str | bytes = b"", code: int = 0) -> Answer:
    """A fixed answer."""

    async def answer(session: Session) -> int:
        session.stdout.write(_bytes(output))
        session.stderr.write(_bytes(errors))
        return code

    return answer


def endless(piece: bytes = b"y" * 65535 + b"\n") -> Answer:
    """Output until the client goes away."""

    async def answer(session: Session) -> int:
        while True:
            session.stdout.write(piece)
            await session.stdout.drain()

    return answer


def drip(piece: bytes = b".") -> Answer:
    """A byte now and then, for ever: the connection is alive, the command never ends."""

    async def answer(session: Session) -> int:
        while True:
            session.stdout.write(piece)
            await session.stdout.drain()
            await asyncio.sleep(1)

    return answer


async def hang(session: Session) -> int:
    """Never answer; ends with the connection."""
    await session.wait_closed()
    return 1


async def hangs_up(session: Session) -> int:
    """Break the connection instead of answering."""
    session.get_extra_info("connection").abort()
    return 1


def _bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


@dataclasses.dataclass(frozen=True)
class Heard:
    """A command that a machine was given, and its standard input."""

    command: str
    input: bytes


class Machine:
    """A machine at a loopback address. ``heard`` is what came, in order."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.heard: list[Heard] = []
        self._rules: list[tuple[str, Answer]] = []

    def on(self, part: str, answer: Answer) -> None:
        """Answer commands in which ``part`` stands; a later rule goes before an earlier one."""
        self._rules.insert(0, (part, answer))

    def received(self) -> bytes:
        """All that was sent to the machine: commands and their input."""
        return b"\n".join(part for heard in self.heard for part in (heard.command.encode(errors="replace"), heard.input))

    def was_told(self, part: str) -> bool:
        return any(part in heard.command for heard in self.heard)

    async def serve(self, session: Session) -> None:
        """Answer one command. Its input is read to the end first, as no answer depends on it."""
        command = session.command or ""
        pieces: list[bytes] = []
        answer = next((answer for part, answer in self._rules if part in command), says())
        entry = len(self.heard)
        self.heard.append(Heard(command, b""))
        with contextlib.suppress(asyncssh.Error, OSError):
            while piece := await session.stdin.read(1 << 16):
                pieces.append(piece)
            self.heard[entry] = Heard(command, b"".join(pieces))
            session.exit(await answer(session))


class Sshd:
    """Machines at addresses of the loopback network, all on one port, which let in who has ``key``."""

    def __init__(self, folder: Path, addresses: tuple[str, ...]) -> None:
        self.key = folder / "id_ed25519"
        self.port = 0
        self.machines = {address: Machine(address) for address in addresses}
        self._host_key = asyncssh.generate_private_key("ssh-ed25519")
        client = asyncssh.generate_private_key("ssh-ed25519")
        self.key.write_bytes(client.export_private_key())
        self.key.chmod(0o600)
        self._authorized = asyncssh.import_authorized_keys(client.export_public_key().decode())
        self._runner = asyncio.Runner()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def first(self) -> Machine:
        return next(iter(self.machines.values()))

    def _run(self) -> None:
        try:
            with self._runner:
                self._runner.run(self._serve())
        except BaseException as problem:  # told by start(), in the thread of the test
            self._problem = problem
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for machine in self.machines.values():
                acceptor = await asyncssh.listen(
                    machine.address,
                    self.port,
                    server_host_keys=[self._host_key],
                    authorized_client_keys=self._authorized,
                    process_factory=machine.serve,
                    encoding=None,
                    line_editor=False,
                    # A name look-up of the client would go out to the network.
                    public_key_auth=True,
                    password_auth=False,
                    kbdint_auth=False,
                    gss_host=None,
                )
                self.port = acceptor.get_port()
                stack.push_async_callback(acceptor.wait_closed)
                stack.callback(acceptor.close)
            self._ready.set()
            await self._stop.wait()

    def start(self) -> None:
        self._thread.start()
        if not self._ready.wait(_START_TIMEOUT) or self._problem:
            raise RuntimeError("the SSH server does not start") from self._problem

    def stop(self) -> None:
        if self._thread.is_alive():
            # The runner cancels what serves the connections, then closes its loop.
            self._runner.get_loop().call_soon_threadsafe(self._stop.set)
            self._thread.join(_START_TIMEOUT)


@contextlib.contextmanager
def sshd(folder: Path, *addresses: str) -> Iterator[Sshd]:
    """Run machines at these addresses (``127.0.0.1`` without any)."""
    running = Sshd(folder, addresses or ("127.0.0.1",))
    running.start()
    try:
        yield running
    finally:
        running.stop()


def spellings(secret: bytes) -> tuple[bytes, ...]:
    """A text as it may stand in what was sent: itself, and the part of its base64 that is the same wherever it begins."""
    found = [secret]
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + secret)
        # What depends on the neighbours is left out: at the start of a shifted text, and the last group.
        found.append(encoded[4 if shift else 0 : -4])
    return tuple(found)

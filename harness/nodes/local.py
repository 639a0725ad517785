"""Machines that need no SSH: this one, and containers of its engine, such as the nodes of a kind cluster."""

from __future__ import annotations

import os
import shlex
import tempfile
from typing import BinaryIO

from harness import process
from harness.errors import CommandError, NodeError
from harness.nodes import COMMAND_TIMEOUT, LONG_TIMEOUT, Input, Writer, brief
from harness.nodes.files import decoded, received
from harness.process import ProcessResult


class LocalNode:
    """Implements ``Node``. On this machine commands run as the current user; with ``container``, as root in the container of that name."""

    def __init__(self, address: str = "127.0.0.1", container: str | None = None) -> None:
        self.address = address
        self.name = container or "this machine"
        self._words = ["docker", "exec", "-i", container] if container else []

    def __repr__(self) -> str:
        return f"LocalNode({self.name})"

    def run(self, command: str, *, input: Input = None, check: bool = True, timeout: float = COMMAND_TIMEOUT) -> ProcessResult:
        # Programs that read from a file and not from a thread: what is written is on disk first.
        if callable(input):
            with tempfile.TemporaryFile() as spool:
                input(spool)
                spool.seek(0)
                return self.run(command, input=spool, check=check, timeout=timeout)
        outcome = process.run([*self._words, "sh", "-c", command], input=input, check=False, timeout=timeout)
        if self._words and "No such container" in outcome.stderr:
            raise NodeError(f"{self.name}: this machine's engine has no such container", hint="run slipway where the cluster's engine is")
        result = ProcessResult((self.name, command), outcome.returncode, outcome.stdout, outcome.stderr)
        if check and not result.ok:
            raise CommandError(f"{self.name}: {brief(command)}: exit code {result.returncode}", details=result.output)
        return result

    def put_tar(self, stream: BinaryIO | Writer, destination: str) -> None:
        place = shlex.quote(destination)
        self.run(f"mkdir -p {place} && exec tar -C {place} -xof -", input=stream, timeout=2 * LONG_TIMEOUT)

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        folder = shlex.quote(os.path.dirname(path) or "/")  # noqa: PTH120 -- a path of the node
        self.run(f"umask 077; mkdir -p {folder} && {{ {received(path, len(data), mode)}; }}", input=data, timeout=LONG_TIMEOUT)

    def get(self, path: str) -> bytes:
        return decoded(self, path, self.run(f"base64 < {shlex.quote(path)}").stdout)

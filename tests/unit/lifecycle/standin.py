"""A machine for tests of steps: it remembers what it is told, and answers what it was given."""

from __future__ import annotations

import io
import tarfile
import threading
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from harness.errors import CommandError
from harness.lifecycle.checks.facts import MachineFacts
from harness.lifecycle.provision import ipvs
from harness.lifecycle.steps.context import ClusterContext, ClusterFacts, ClusterSpec, ResolvedCluster
from harness.nodes import Machine
from harness.process import ProcessResult


class StandIn:
    """Implements ``Node``. ``answers`` maps a part of a command to its output, or to a function that makes the output."""

    def __init__(self, address: str = "10.0.0.1", name: str = "") -> None:
        self.address, self.name = address, name or address
        self.machine = Machine(address)
        self.commands: list[str] = []
        self.tars: list[tuple[str, dict[str, bytes]]] = []
        self.answers: dict[str, str | Callable[[], str]] = {}
        self.broken: set[str] = set()
        self.journal: list[str] = []
        self._lock = threading.Lock()

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        with self._lock:
            self.commands.append(command)
        if callable(input):
            self._take(command, input)
        if check and any(part in command for part in self.broken):
            raise CommandError(f"{self.name}: {command}: exit code 1", details="it is broken")
        if "/journal" in command:
            return ProcessResult((), 0, self._journal(command), "")
        answer = next((answer for part, answer in self.answers.items() if part in command), "")
        return ProcessResult((), 0, answer if isinstance(answer, str) else answer(), "")

    def _journal(self, command: str) -> str:
        if "echo" in command:
            self.journal.append(command.split("'")[1])
            return ""
        return "\n".join(self.journal)

    def _take(self, command: str, write: Callable[[BinaryIO], None]) -> None:
        stream = io.BytesIO()
        write(stream)
        with tarfile.open(fileobj=io.BytesIO(stream.getvalue())) as tar:
            files = {}
            for member in tar:
                content = tar.extractfile(member) if member.isreg() else None
                files[member.name] = content.read() if content else member.linkname.encode()
        self.tars.append((command, files))

    def put_tar(self, stream: Any, destination: str) -> None:
        self.run(f"tar {destination}", input=stream)

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        self.run(f"put {path} {mode:o}", input=data)

    def get(self, path: str) -> bytes:
        return b""


def known(
    spec: ClusterSpec, machines: Mapping[str, MachineFacts] | None = None, balancing: ipvs.Choice | None = None, **parts: object
) -> ClusterContext:
    """A context whose machines have told about themselves; ``parts`` of the resolved cluster are given instead of computed."""
    context = ClusterContext(spec)
    told = {node.address: MachineFacts(host=f"host-{node.address[-1]}", arch="amd64") for node in spec.nodes}
    context.resolve(ResolvedCluster(spec, ClusterFacts({**told, **(machines or {})}, balancing or ipvs.Choice())))
    vars(context.resolved).update(parts)
    return context

"""Nodes and clusters for the tests of this folder: stand-ins that keep what they are sent."""

from __future__ import annotations

import base64
import io
import re
import tarfile
from typing import Any

import yaml

from harness.nodes import Node
from harness.process import ProcessResult
from harness.runtimes import ClusterNetwork, Facts, Member, RuntimeCluster, profiles
from harness.runtimes.configuration import control_plane_config


def final_path(member: tarfile.TarInfo) -> str:
    """The path of a file that ``write_files`` sends, which arrives in a folder beside it."""
    return re.sub(r"/\.slipway-new-[0-9a-f]{8}/", "/", f"/{member.name}")


class Machine:
    """A node that keeps the files it is sent, and does no command."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address
        self.files: dict[str, tuple[bytes, int, str]] = {}
        self.commands: list[str] = []
        self.timeouts: list[float] = []
        self.answers: dict[str, ProcessResult] = {}

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        self.commands.append(command)
        self.timeouts.append(timeout)
        if isinstance(input, bytes):
            with tarfile.open(fileobj=io.BytesIO(input)) as tar:
                for member in tar:
                    content = tar.extractfile(member) if member.isreg() else None
                    self.files[final_path(member)] = (content.read() if content else b"", member.mode, member.linkname)
        if "base64 <" in command:
            lines = [f"{path} {base64.b64encode(data).decode()}" for path, (data, _, _) in self.files.items()]
            return ProcessResult((), 0, "\n".join([*lines, "end"]), "")
        found = next((answer for text, answer in self.answers.items() if text in command), None)
        return found or ProcessResult((), 0, "", "")

    def put_tar(self, stream: Any, destination: str) -> None: ...
    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        self.files[path] = (data, mode, "")

    def get(self, path: str) -> bytes:
        return self.files[path][0]


FACTS = Facts("v1.36.3", "registry.example.org", "registry.k8s.io/pause:3.10.2", "3.6.8-0")


def member(number: int, role: str = "control-plane", **facts: Any) -> Member:
    machine: Node = Machine(f"{role}-{number}", f"10.0.0.{number}")
    return Member(machine, f"{role}-{number}", f"10.0.0.{number}", role, **facts)


def cluster(control_plane: int = 1, workers: int = 0, *, facts: Facts = FACTS, **options: Any) -> RuntimeCluster:
    members = [*(member(number + 1) for number in range(control_plane)), *(member(number + 101, "worker") for number in range(workers))]
    return RuntimeCluster("lab", facts, ClusterNetwork("100.64.0.0/10", "10.96.0.0/22"), tuple(members), **options)


def machine(of: Member) -> Machine:
    assert isinstance(of.node, Machine)
    return of.node


CIS = profiles.of("cis", 36, ["kube-system"])


def hardened(control_plane: int = 1, workers: int = 0, **options: Any) -> RuntimeCluster:
    return cluster(control_plane, workers, profile=CIS, **options)


def config(of: RuntimeCluster, *, initial: bool = True, index: int = 0) -> dict[str, dict[str, Any]]:
    """kubeadm's configuration for a control-plane node: its documents by kind."""
    documents = yaml.safe_load_all(control_plane_config(of, of.members[index], initial=initial))
    return {document["kind"]: document for document in documents}


def arguments(values: list[dict[str, str]]) -> dict[str, str]:
    return {entry["name"]: entry["value"] for entry in values}

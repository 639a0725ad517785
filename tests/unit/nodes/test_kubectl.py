"""kubectl by way of a control-plane node, and of another one when that has no API."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import CommandError, NodeError
from harness.nodes.kubectl import NodeKubectl
from harness.process import ProcessResult


class ControlPlaneNode:
    """A control-plane node whose kubectl answers, or says why not."""

    def __init__(self, name: str, said: str | None = None) -> None:
        self.name = self.address = name
        self.said = said
        self.asked = 0

    def run(self, command: str, **_: Any) -> ProcessResult:
        self.asked += 1
        if self.said is not None:
            raise CommandError(f"{self.name}: exit code 1", details=self.said)
        return ProcessResult((), 0, f"{self.name}: {command.rpartition('kubectl ')[2]}", "")

    def put_tar(self, stream: Any, destination: str) -> None: ...
    def put(self, data: bytes, path: str, mode: int = 0o644) -> None: ...
    def get(self, path: str) -> bytes:
        return b""


@pytest.mark.parametrize(
    "said",
    [
        "The connection to the server apiserver.cluster.local:6443 was refused - did you specify the right host or port?",
        "Unable to connect to the server: EOF",
        "error: open /etc/kubernetes/admin.conf: no such file or directory",
    ],
)
def test_kubectl_first_node_without_api_falls_back_to_next_control_plane_node(said: str) -> None:
    assert NodeKubectl(ControlPlaneNode("one", said), (ControlPlaneNode("two"),)).run("get", "nodes") == "two: get nodes"


def test_kubectl_lost_first_node_falls_back_to_next_control_plane_node() -> None:
    class LostNode(ControlPlaneNode):
        def run(self, command: str, **_: Any) -> ProcessResult:
            raise NodeError(f"{self.name}: the connection was lost")

    assert NodeKubectl(LostNode("one"), (LostNode("two"), ControlPlaneNode("three"))).run("get", "nodes") == "three: get nodes"
    with pytest.raises(NodeError, match="two: the connection was lost"):
        NodeKubectl(LostNode("one"), (LostNode("two"),)).run("get", "nodes")


def test_kubectl_error_from_api_is_raised_without_asking_next_node() -> None:
    second = ControlPlaneNode("two")
    with pytest.raises(CommandError, match="one: exit code 1"):
        NodeKubectl(ControlPlaneNode("one", "Error from server (NotFound): nodes not found"), (second,)).run("get", "nodes")
    assert second.asked == 0


def test_kubectl_without_reachable_api_raises_error_of_last_node() -> None:
    with pytest.raises(CommandError, match="two: exit code 1"):
        NodeKubectl(
            ControlPlaneNode("one", "Unable to connect to the server"), (ControlPlaneNode("two", "Unable to connect to the server"),)
        ).run("version")

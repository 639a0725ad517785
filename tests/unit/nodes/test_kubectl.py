"""kubectl by way of a control-plane node, and of another one when that has no API."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import CommandError
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
def test_another_control_plane_node_is_asked_when_the_first_has_no_api(said: str) -> None:
    assert NodeKubectl(ControlPlaneNode("one", said), (ControlPlaneNode("two"),)).run("get", "nodes") == "two: get nodes"


def test_what_the_api_refuses_is_not_asked_of_another_one() -> None:
    second = ControlPlaneNode("two")
    with pytest.raises(CommandError, match="one: exit code 1"):
        NodeKubectl(ControlPlaneNode("one", "Error from server (NotFound): nodes not found"), (second,)).run("get", "nodes")
    assert second.asked == 0


def test_last_endpoint_says_why_when_none_answers() -> None:
    with pytest.raises(CommandError, match="two: exit code 1"):
        NodeKubectl(
            ControlPlaneNode("one", "Unable to connect to the server"), (ControlPlaneNode("two", "Unable to connect to the server"),)
        ).run("version")

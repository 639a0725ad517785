"""Which cluster an application goes to, and what is found out about it. Machines are stand-ins."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError, CommandError, NodeError
from harness.lifecycle.apps import target
from harness.lifecycle.apps.target import Where
from harness.nodes import Machine
from tests.unit.lifecycle.standin import StandIn


def looked_at(monkeypatch: pytest.MonkeyPatch, marks: dict[str, str], gone: tuple[str, ...] = ()) -> tuple[Where, str | None]:
    nodes = []
    for address, mark in marks.items():
        node = StandIn(address)
        node.answers = {"/cluster 2>": mark}
        nodes.append(node)

    class Connections:
        def reachable(self) -> Any:
            good = tuple(node for node in nodes if node.address not in gone)
            return good, {node: NodeError(f"{node.address}: no answer") for node in nodes if node not in good}

    @contextlib.contextmanager
    def connections(*_: Any) -> Iterator[Any]:
        yield Connections()

    monkeypatch.setattr(target, "_connections", connections)
    return target._answering(Where(control_plane=tuple(Machine(address) for address in marks)), None)


def test_answering_with_dead_control_plane_node_still_finds_cluster_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    where, owner = looked_at(monkeypatch, {"10.0.0.1": "", "10.0.0.2": "prod 0123"}, gone=("10.0.0.1",))
    assert ([machine.address for machine in where.control_plane], owner) == (["10.0.0.2", "10.0.0.1"], "prod")
    assert looked_at(monkeypatch, {"10.0.0.1": ""})[1] is None
    with pytest.raises(NodeError, match=r"10\.0\.0\.1: no answer"):
        looked_at(monkeypatch, {"10.0.0.1": ""}, gone=("10.0.0.1",))


def test_state_of_unnamed_cluster_is_named_by_lowest_address(tmp_path: Path) -> None:
    where = Where(control_plane=(Machine("10.0.0.2"), Machine("10.0.0.1")))
    assert target._state(where, tmp_path).name == "at-10-0-0-1"
    assert target._state(Where(control_plane=(Machine("fd00::1"),)), tmp_path).name == "at-fd00-1"


class Kube:
    """Answers by what is asked for."""

    where = "m1"

    def __init__(self, **answers: Any) -> None:
        self.answers = answers

    def run(self, *argv: str) -> str:
        found = self.answers.get(argv[1] if argv[0] == "get" else argv[0])
        if found is None:
            raise CommandError("kubectl: exit code 1", details="refused")
        return json.dumps(found)


def node(name: str, address: str, architecture: str = "amd64", **spec: str) -> dict[str, Any]:
    status = {
        "addresses": [{"type": "InternalIP", "address": address}],
        "nodeInfo": {"operatingSystem": "linux", "architecture": architecture},
    }
    return {"metadata": {"name": name}, "spec": spec, "status": status}


def test_nodes_returns_name_platform_and_provider_by_address() -> None:
    items = [node("a", "10.0.0.1", providerID="kind://docker/lab/a"), node("b", "10.0.0.2", "arm64")]
    kube: Any = Kube(nodes={"items": items})
    found = target._nodes(kube)
    assert {address: (name, str(platform)) for address, (name, platform, _) in found.items()} == {
        "10.0.0.1": ("a", "linux/amd64"),
        "10.0.0.2": ("b", "linux/arm64"),
    }
    assert found["10.0.0.1"][2].startswith("kind://")


def test_version_of_silent_api_is_refused_and_facts_without_networks_are_empty() -> None:
    kube: Any = Kube(version={"serverVersion": {"gitVersion": "v1.36.3+k3s1"}})
    assert target._version(kube) == "v1.36.3+k3s1"
    assert target._facts(kube) == {}
    silent: Any = Kube()
    with pytest.raises(CheckError, match="does not answer"):
        target._version(silent)
    text = "networking: {podSubnet: 10.1.0.0/16, serviceSubnet: 10.2.0.0/16}"
    known: Any = Kube(configmap={"data": {"ClusterConfiguration": text}})
    assert target._facts(known) == {"PodCIDR": "10.1.0.0/16", "SvcCIDR": "10.2.0.0/16"}

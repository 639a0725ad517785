"""Who belongs to a cluster: what it keeps about itself when machines come and go, and what its balancers are told."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from harness.errors import CheckError, CommandError, NodeError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import membership
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.cluster.record import ClusterRecord
from harness.nodes import Login, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections
from harness.process import ProcessResult
from tests.unit.lifecycle.standin import StandIn

CLUSTERFILE = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: lab}
spec:
  image: web:1
  ssh: {user: root, port: 22}
  env: {Greeting: hello, DbPassword: <redacted abc>}
  hosts:
  - {ips: [10.0.0.1, 10.0.0.2, 10.0.0.3], roles: [master]}
  - {ips: [10.0.0.4], roles: [node], labels: {disk: ssd}}
---
apiVersion: slipway.dev/v1
kind: Config
metadata: {name: page}
spec: {path: etc/page.yaml, data: "a: 1"}
"""


def config_map(text: str = CLUSTERFILE, **data: str) -> dict[str, Any]:
    return {"metadata": {"resourceVersion": "7"}, "data": {"image": "web:1", "digest": "sha256:1", "Clusterfile": text, **data}}


def record(text: str = CLUSTERFILE, **data: str) -> ClusterRecord:
    return ClusterRecord.of(json.dumps(config_map(text, **data)), "one")


def without(stored: ClusterRecord, *addresses: str) -> ClusterRecord:
    """A record as the next command reads it when nodes have left."""
    return stored.with_clusterfile(membership.without_members(stored.clusterfile, addresses))


def grown(stored: ClusterRecord, control_plane: tuple[str, ...] = (), workers: tuple[str, ...] = ()) -> ClusterRecord:
    """A record as the next command reads it when nodes have joined."""
    return stored.with_clusterfile(membership.with_members(stored.clusterfile, control_plane, workers))


def test_with_members_new_worker_is_separate_from_labelled_host() -> None:
    found = grown(record(), workers=("10.0.0.9",))
    assert found.workers == ("10.0.0.4", "10.0.0.9")
    cluster = found.clusterfile.cluster
    assert cluster is not None
    assert [dict(host.labels) for host in cluster.hosts if not host.is_control_plane] == [{"disk": "ssd"}, {}]


def test_with_members_names_come_and_go_with_their_machines() -> None:
    names = {"10.0.0.9": "w9", "10.0.0.99": "elsewhere"}
    stored = record()
    found = stored.with_clusterfile(membership.with_members(stored.clusterfile, (), ("10.0.0.9",), ssh_hosts=names))
    assert found.clusterfile.cluster is not None
    assert found.clusterfile.cluster.ssh_hosts == {"10.0.0.9": "w9"}
    gone = without(found, "10.0.0.9").clusterfile.cluster
    assert gone is not None
    assert gone.ssh_hosts == {}


def test_with_members_new_control_plane_node_joins_after_removal_of_another() -> None:
    found = grown(without(record(), "10.0.0.1"), control_plane=("10.0.0.8",))
    assert found.control_plane == ("10.0.0.2", "10.0.0.3", "10.0.0.8")


def test_with_and_without_members_keep_configs_and_env() -> None:
    found = without(grown(record(), workers=("10.0.0.9",)), "10.0.0.4")
    assert found.workers == ("10.0.0.9",)
    assert [config.path for config in found.clusterfile.configs] == ["etc/page.yaml"]
    cluster = found.clusterfile.cluster
    assert cluster is not None
    assert cluster.env == {"Greeting": "hello", "DbPassword": "<redacted abc>"}


def test_with_members_existing_members_change_nothing() -> None:
    assert membership.with_members(record().clusterfile, ["10.0.0.1"], ["10.0.0.4"]) == record().clusterfile


def test_without_members_removed_control_plane_node_leaves_other_two() -> None:
    assert without(record(), "10.0.0.1").control_plane == ("10.0.0.2", "10.0.0.3")


def test_update_removed_nodes_stay_in_left_until_clean() -> None:
    found = membership.update(kept(ControlPlaneNode()), gone=["10.0.0.4"], left=["10.0.0.4", "four"])
    assert not found.workers
    assert found.left == {"10.0.0.4", "four"}
    assert membership.update(kept(ControlPlaneNode(), left="10.0.0.4 four"), back=["10.0.0.5", "four"]).left == {"10.0.0.4"}


class ControlPlaneNode(StandIn):
    """Keeps the record; somebody else may write it in between."""

    def __init__(self, conflicts: int = 0, said: str = "Conflict: the object has been modified") -> None:
        super().__init__("10.0.0.1", "one")
        self.conflicts, self.said = conflicts, said

    def run(self, command: str, **options: Any) -> ProcessResult:
        if " patch configmap " in command and self.conflicts:
            self.conflicts -= 1
            raise CommandError("kubectl: exit code 1", details=self.said)
        return super().run(command, **options)


def kept(node: ControlPlaneNode, **data: str) -> ControlPlaneNode:
    node.answers = {"get configmap": json.dumps(config_map(**data))}
    return node


def test_update_write_conflict_is_retried() -> None:
    node = kept(ControlPlaneNode(conflicts=2))
    assert membership.update(node, workers=["10.0.0.9"]).workers == ("10.0.0.4", "10.0.0.9")
    assert sum("patch configmap" in command for command in node.commands) == 1


def test_update_failed_write_raises_command_error() -> None:
    with pytest.raises(CommandError):
        membership.update(kept(ControlPlaneNode(conflicts=1, said="the connection was refused")), workers=["10.0.0.9"])
    with pytest.raises(CommandError):
        membership.update(kept(ControlPlaneNode(conflicts=100)), workers=["10.0.0.9"])


def test_update_without_change_sends_no_patch() -> None:
    node = kept(ControlPlaneNode())
    membership.update(node, workers=["10.0.0.4"])
    assert not any("patch" in command for command in node.commands)


def gathered(tmp_path: Any, control_plane: int = 3, workers: int = 1, gone: tuple[str, ...] = (), **options: Any) -> Gathered:
    """A cluster of stand-ins."""
    nodes: Any = [StandIn(f"10.0.0.{number + 1}", f"host-{number + 1}") for number in range(control_plane + workers)]
    errors = {address: NodeError(f"{address}: no answer") for address in gone}
    state = ClusterState.of("lab", tmp_path)
    first = next(node for node in nodes if node.address not in gone)
    given: dict[str, Any] = {
        "state": state, "record": options.pop("record", record()), "ssh": SshConnections(state.folder, []), "first": first,
        "control_plane": tuple(nodes[:control_plane]), "workers": tuple(nodes[control_plane:]), "others": (), "errors": errors,
        "names": {node.address: node.name for node in nodes},
    }  # fmt: skip
    return Gathered(**{**given, **options})


def test_balancers_list_all_api_servers_and_only_image_holders_as_registries(tmp_path: Any) -> None:
    found = gathered(tmp_path, control_plane=4)
    control_plane = [(node.name, node.address) for node in found.control_plane]
    texts = membership.balancers(found, control_plane, frozenset({"10.0.0.1", "10.0.0.2", "10.0.0.3"}))
    assert set(texts) == {"10.0.0.4", "10.0.0.5"}
    for backend in ("backend api\n", "backend api-unsure\n"):
        assert texts["10.0.0.5"].partition(backend)[2].partition("\n\n")[0].count(":6443 check") == 4
    assert texts["10.0.0.5"].count(":5000 check") == 3
    assert "frontend api" not in texts["10.0.0.4"]


def test_holders_include_unreachable_control_plane_node(tmp_path: Any) -> None:
    found = gathered(tmp_path, control_plane=4, gone=("10.0.0.1",))
    for node in found.control_plane[2:]:
        node.run = lambda command, **_: ProcessResult((), 1, "", "")  # type: ignore[method-assign]
    assert membership.holders(found) == {"10.0.0.1", "10.0.0.2"}


def test_tell_balancer_reloads_only_after_config_change(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "install_files", lambda _, __: ())
    node = StandIn()
    assert not membership.tell_balancer(node, "x")
    assert not any("slipway-balancer" in command for command in node.commands)
    monkeypatch.setattr(membership, "install_files", lambda _, __: ("/var/lib/slipway/balancer.cfg",))
    assert membership.tell_balancer(node, "x")
    assert any("reload-or-restart slipway-balancer" in command for command in node.commands)


def test_answering_returns_first_node_with_responding_api() -> None:
    class Silent(StandIn):
        def run(self, command: str, **_: Any) -> ProcessResult:
            return ProcessResult((), 1, "", "refused")

    dead, alive = Silent("10.0.0.1", "one"), StandIn("10.0.0.2", "two")
    nodes: Any = [dead, alive]
    assert membership.answering(nodes, {}).address == alive.address
    with pytest.raises(CheckError, match="no API of the cluster answers") as caught:
        membership.answering(nodes[:1], {})
    assert caught.value.details == "one: refused"
    with pytest.raises(NodeError, match="no answer"):
        membership.answering([], {nodes[0]: NodeError("10.0.0.1: no answer")})


def test_with_password_sets_password_only_without_key() -> None:
    from pathlib import Path

    keyed = Machine("10.0.0.1", Login(key=Path("/keys/id")))
    assert membership._with_password(keyed, "letmein") == keyed
    assert membership._with_password(Machine("10.0.0.1"), "letmein").login.password == "letmein"


@pytest.mark.parametrize(
    ("config", "mode"),
    [({"mode": "nftables"}, "nftables"), ({"mode": ""}, "iptables"), ({}, "iptables"), (None, None)],
)
def test_proxy_mode_returns_mode_of_kube_proxy_config_map(config: dict[str, str] | None, mode: str | None) -> None:
    node = StandIn()
    if config is not None:
        node.answers = {"get configmap kube-proxy": json.dumps({"data": {"config.conf": yaml.safe_dump(config), "kubeconfig.conf": "x"}})}
    assert membership.proxy_mode(NodeKubectl(node)) == mode

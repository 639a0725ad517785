"""Deleting: each machine that answers is cleaned, none holds up the others, and nobody else's machine is touched."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import log
from harness.errors import CommandError, NodeError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle import delete
from harness.lifecycle.cluster import lease
from harness.lifecycle.plan import execute
from harness.lifecycle.provision import node_files
from harness.nodes import Machine, claim
from harness.nodes.ssh import SshConnections
from harness.process import ProcessResult
from harness.runtimes.pki import Authority
from tests.unit.lifecycle.cluster.test_known_authority import admin_conf
from tests.unit.lifecycle.standin import StandIn


class Connections:
    """Takes the place of the ssh connections: some machines answer."""

    def __init__(self, nodes: tuple[StandIn, ...], gone: frozenset[str] = frozenset()) -> None:
        self.nodes, self.gone = nodes, gone

    def reachable(self) -> Any:
        errors = {node: NodeError(f"{node.address}: no answer") for node in self.nodes if node.address in self.gone}
        return tuple(node for node in self.nodes if node not in errors), errors

    def close(self) -> None: ...


def member(address: str, mark: str = "lab 01") -> StandIn:
    """A machine of a cluster; once it has been cleaned it holds nothing of ours."""
    node = StandIn(address, f"host-{address[-1]}")
    cleaned = False

    def holds() -> str:
        return "" if cleaned or not mark else "rootfs\n"

    def restore() -> str:
        nonlocal cleaned
        cleaned = True
        return ""

    node.answers = {"/cluster 2>": mark, "reset-failed": restore, "ls -A /var/lib/slipway": holds}
    return node


@pytest.fixture
def with_nodes() -> Iterator[Callable[..., delete._Work]]:
    """Gives a deletion stand-ins for its machines."""
    made: list[delete._Work] = []

    def give(found: delete._Work, nodes: Sequence[StandIn], gone: frozenset[str] = frozenset()) -> delete._Work:
        stand_in: Any = Connections(tuple(nodes), gone)
        found.ssh = stand_in
        made.append(found)
        return found

    yield give
    # As the verb does at its end, however that comes about.
    for each in made:
        each.claim.close()


@pytest.fixture
def work(tmp_path: Path, with_nodes: Callable[..., delete._Work]) -> Callable[..., delete._Work]:
    def make(*nodes: StandIn, gone: frozenset[str] = frozenset()) -> delete._Work:
        ClusterState.of("lab", tmp_path).remember({"controlPlane": []})
        return with_nodes(delete.prepare("lab", [Machine(node.address) for node in nodes], home=tmp_path), nodes, gone)

    return make


def cleaned(node: StandIn) -> bool:
    return any("systemctl stop kubelet" in command for command in node.commands)


def test_delete_cleans_all_machines_and_forgets_cluster(work: Any) -> None:
    one, two = member("10.0.0.1"), member("10.0.0.2")
    found = work(one, two)
    execute(delete.plan(found))
    assert sorted(found.cleaned) == ["host-1", "host-2"]
    assert cleaned(one)
    assert cleaned(two)
    assert not found.found.state.exists


def test_clean_script_removes_network_rules_and_links_and_keeps_volume_data() -> None:
    for table in ("ip kube-proxy", "ip6 kube-proxy", "ip flannel-ipv4", "ip6 flannel-ipv6", "inet kube-network-policies"):
        assert f"'{table}'" in node_files.CLEAN
    assert "ROOTFS=/var/lib/slipway/rootfs\n" in node_files.CLEAN
    for link in ("flannel.1", "flannel-v6.1", "cni0"):
        assert link in node_files.CLEAN
    assert "/run/flannel" in node_files.CLEAN
    assert "local-path" not in node_files.CLEAN + node_files.RESTORE


def test_delete_unreachable_machine_is_skipped_and_cluster_stays_known(work: Any, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    one, two = member("10.0.0.1"), member("10.0.0.2")
    found = work(one, two, gone=frozenset({"10.0.0.1"}))
    execute(delete.plan(found))
    assert found.cleaned == ["host-2"]
    assert list(found.unreachable) == ["10.0.0.1"]
    assert "10.0.0.1: no answer; it is left as it is" in capsys.readouterr().err
    assert found.found.state.exists


def test_delete_without_reachable_machine_raises_node_error_and_keeps_state(work: Any) -> None:
    found = work(member("10.0.0.1"), gone=frozenset({"10.0.0.1"}))
    with pytest.raises(NodeError, match="no machine of the cluster can be reached"):
        execute(delete.plan(found))
    assert found.found.state.exists


def test_delete_machine_of_other_cluster_or_none_is_not_cleaned(work: Any) -> None:
    mine, other, clean = member("10.0.0.1"), member("10.0.0.2", "prod 99"), member("10.0.0.3", "")
    found = work(mine, other, clean)
    execute(delete.plan(found))
    assert sorted(found.untouched) == ["host-2", "host-3"]
    assert not cleaned(other)
    assert not cleaned(clean)


@functools.cache
def authority(name: str) -> Authority:
    return Authority.make(name)


def mark_of(of: Authority) -> str:
    return f"lab {hashlib.sha256(of.certificate).hexdigest()[:16]}"


@pytest.fixture
def remembered(tmp_path: Path, with_nodes: Callable[..., delete._Work]) -> Callable[..., delete._Work]:
    """The deletion of machines that are remembered, with a kubeconfig of the authority ``known``."""

    def make(known: Authority | None, *nodes: StandIn) -> delete._Work:
        state = ClusterState.of("lab", tmp_path)
        state.remember({"controlPlane": [{"address": node.address} for node in nodes]})
        if known is not None:
            state.write("kubeconfig", admin_conf(known).decode())
        return with_nodes(delete.prepare("lab", home=tmp_path), nodes)

    return make


def test_delete_machine_of_other_cluster_of_same_name_is_neither_claimed_nor_cleaned(
    remembered: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log.setup()
    mine, other = member("10.0.0.1", mark_of(authority("one"))), member("10.0.0.2", mark_of(authority("two")))
    other.answers["/pki/ca.crt"] = authority("two").certificate.decode()
    found = remembered(authority("one"), mine, other)
    execute(delete.plan(found))
    assert (found.cleaned, found.untouched) == (["host-1"], ["host-2"])
    assert not cleaned(other)
    assert not any(lease.CLAIM in command for command in other.commands)
    assert not found.found.state.exists
    assert "10.0.0.2 belongs to another cluster lab by now and is left as it is" in capsys.readouterr().err


def test_delete_only_machines_of_other_cluster_of_same_name_keeps_state(remembered: Any) -> None:
    found = remembered(authority("one"), member("10.0.0.1", mark_of(authority("two"))))
    execute(delete.plan(found))
    assert not found.cleaned
    assert found.found.state.exists


@pytest.mark.parametrize("mark", ["lab 0123456789abcdef", "lab"])
def test_delete_without_known_authority_compares_name_only(remembered: Any, mark: str) -> None:
    found = remembered(None, member("10.0.0.1", mark))
    execute(delete.plan(found))
    assert found.cleaned == ["host-1"]


def test_delete_machine_of_half_made_cluster_without_whole_mark_is_cleaned(remembered: Any) -> None:
    unmarked, half = StandIn("10.0.0.1", "host-1"), member("10.0.0.2", "lab")
    unmarked.answers = {**member("10.0.0.1").answers, "/cluster 2>": ""}
    found = remembered(authority("one"), unmarked, half)
    execute(delete.plan(found))
    assert sorted(found.cleaned) == ["host-1", "host-2"]


def test_delete_given_machine_is_compared_by_name_only(work: Any, tmp_path: Path) -> None:
    ClusterState.of("lab", tmp_path).write("kubeconfig", admin_conf(authority("one")).decode())
    found = work(member("10.0.0.1", mark_of(authority("two"))))
    execute(delete.plan(found))
    assert found.cleaned == ["host-1"]


@pytest.mark.parametrize(
    "file",
    ["Certificate:\n    Data: as openssl prints it\n{own}", "{own}{other}", "{other}{own}"],
)
def test_delete_machine_whose_file_has_the_authority_is_cleaned_in_spite_of_other_identity(remembered: Any, file: str) -> None:
    # One that was adopted has the digest of the whole file; after an exchange of the authority by hand, that of the earlier one.
    node = member("10.0.0.1", "lab 0123456789abcdef")
    node.answers["/pki/ca.crt"] = file.format(own=authority("one").certificate.decode(), other=authority("two").certificate.decode())
    found = remembered(authority("one"), node)
    execute(delete.plan(found))
    assert found.cleaned == ["host-1"]


class BusyNode(StandIn):
    """A control-plane node that another command has claimed."""

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        result = super().run(command, input=input, check=check, timeout=timeout)
        taken = "flock" in command and "instead=" in command
        return ProcessResult((), lease._TAKEN, "ops@elsewhere:7 -\n2026-01-01T00:00:00Z\n", "") if taken else result


def test_delete_cluster_that_another_command_changes_is_refused_and_nothing_is_cleaned(work: Any) -> None:
    busy, worker = BusyNode("10.0.0.1", "host-1"), member("10.0.0.2")
    busy.answers = member("10.0.0.1").answers
    found = work(busy, worker)
    with pytest.raises(UsageError, match="ops@elsewhere:7 is changing the cluster lab since 2026-01-01"):
        execute(delete.plan(found))
    assert not found.cleaned
    assert not cleaned(worker)
    assert found.found.state.exists


def test_delete_releases_its_claim_before_it_forgets_the_machines(work: Any) -> None:
    node = member("10.0.0.1")
    execute(delete.plan(work(node)))
    assert any(f"rm -f {lease.CLAIM}" in command for command in node.commands)
    assert claim.current() is None


def test_delete_machine_not_emptied_by_clean_raises_command_error(work: Any) -> None:
    stuck = StandIn("10.0.0.1", "host-1")
    stuck.answers = {"/cluster 2>": "lab 01", "ls -A /var/lib/slipway": "registry\n"}
    with pytest.raises(CommandError, match="host-1: /var/lib/slipway could not be emptied"):
        execute(delete.plan(work(stuck)))


def test_delete_plan_lists_steps_and_machines_without_connecting(tmp_path: Path) -> None:
    found = delete.prepare("lab", [Machine("10.0.0.1")], [Machine("10.0.0.2")], home=tmp_path)
    assert isinstance(found.ssh, SshConnections)
    plan = {step.id: step for step in delete.plan(found)}
    assert list(plan) == ["connect", "hooks", "clean", "forget"]
    assert [node.address for node in plan["clean"].nodes] == ["10.0.0.1", "10.0.0.2"]


def test_forget_known_cluster_returns_true_once(tmp_path: Path) -> None:
    ClusterState.of("lab", tmp_path).remember({"controlPlane": []})
    assert delete.forget("lab", home=tmp_path)
    assert not delete.forget("lab", home=tmp_path)

"""What becomes of the pods of a node that leaves, and what is said when some of them cannot."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

import pytest

from harness import log
from harness.errors import CheckError, CommandError, NodeError, SlipwayError
from harness.lifecycle.kube import drain
from harness.lifecycle.kube.readiness import Resource
from harness.process import LONGEST_ARGUMENT, ProcessResult
from tests.unit.lifecycle.standin import StandIn


def pod(name: str, owner: str | None = "ReplicaSet", **more: Any) -> dict[str, Any]:
    owners = [{"kind": owner, "name": "x", "controller": True}] if owner else []
    meta = {"name": name, "namespace": "web", "ownerReferences": owners, "labels": {"app": "web"}, **more.pop("metadata", {})}
    return {
        "kind": "Pod",
        "metadata": meta,
        "spec": {"volumes": more.pop("volumes", [])},
        "status": {"phase": more.pop("phase", "Running")},
    }


def names(pods: Sequence[Resource]) -> list[str]:
    return [one["metadata"]["name"] for one in pods]


def test_sort_pods_gives_evictable_unowned_and_local_data_pods() -> None:
    pods = [
        pod("web"),
        pod("proxy", "DaemonSet"),
        pod("etcd", "Node", metadata={"annotations": {"kubernetes.io/config.mirror": "x"}}),
        pod("alone", None),
        pod("done", None, phase="Succeeded"),
        pod("cache", volumes=[{"name": "a", "emptyDir": {}}]),
        pod("memory", volumes=[{"name": "a", "emptyDir": {"medium": "Memory"}}]),
    ]
    found = drain.sort(pods)
    assert names(found.evict) == ["web", "alone", "done", "cache", "memory"]
    assert names(found.alone) == ["alone"]
    assert names(found.local) == ["cache"]


class Api(drain.Api):
    """A cluster in which pods that are evicted end, unless somebody refuses."""

    def __init__(self, pods: list[dict[str, Any]], refused: dict[str, int] | None = None) -> None:
        super().__init__(StandIn())
        self.on_node, self.refused = pods, refused or {}
        self.said: list[str] = []
        self.stuck: set[str] = set()

    def node(self, name: str) -> Resource | None:
        return {"metadata": {"name": name}, "status": {"nodeInfo": {"kubeletVersion": "v1.36.3"}}}

    def pods(self, node: str) -> tuple[Resource, ...]:
        return tuple(self.on_node)

    def cordon(self, node: str) -> None:
        self.said.append(f"cordon {node}")

    def evict(self, pods: Sequence[Resource]) -> dict[str, str]:
        refused = {}
        for one in pods:
            name = one["metadata"]["name"]
            if self.refused.get(name, 0) > 0:
                self.refused[name] -= 1
                refused[f"web/{name}"] = "Cannot evict pod as it would violate the pod's disruption budget"
            elif name in self.stuck:
                one["metadata"]["deletionTimestamp"] = "now"
            else:
                self.on_node = [other for other in self.on_node if other is not one]
        return refused

    def delete_pods(self, node: str, pods: Sequence[Resource]) -> None:
        self.said.append(f"delete {' '.join(names(pods))}")
        self.on_node = [other for other in self.on_node if other not in pods]

    def budgets(self) -> tuple[Resource, ...]:
        return ({"metadata": {"name": "two-of-web", "namespace": "web"}, "spec": {"selector": {"matchLabels": {"app": "web"}}}},)


def drained(api: Api, **options: Any) -> int:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    return drain.drain(api, "one", clock=lambda: now, sleep=sleep, **options)


def test_drain_ends_when_only_daemonset_pods_are_left() -> None:
    api = Api([pod("web"), pod("proxy", "DaemonSet")])
    assert drained(api) == 1
    assert api.said == ["cordon one"]
    assert names(api.pods("one")) == ["proxy"]


def test_drain_refused_eviction_is_retried() -> None:
    assert drained(Api([pod("web")], {"web": 3})) == 1


def test_drain_timeout_names_blocking_pods_with_budget_and_keeps_cordon() -> None:
    api = Api([pod("web"), pod("slow")], {"web": 10000})
    api.stuck = {"slow"}
    with pytest.raises(CheckError, match="one still runs 2 pods after 30 s; it stays cordoned") as caught:
        drained(api, timeout=30)
    assert "web/web: Cannot evict pod" in str(caught.value.details)
    assert "(PodDisruptionBudget two-of-web)" in str(caught.value.details)
    assert "web/slow: was evicted and has not ended" in str(caught.value.details)
    assert "kubectl uncordon one" in str(caught.value.hint)


def test_drain_force_deletes_pods_with_refused_eviction() -> None:
    api = Api([pod("web"), pod("alone", None)], {"web": 10000})
    assert drained(api, timeout=30, force=True) == 2
    assert api.said == ["cordon one", "delete web"]


def test_drain_pod_without_controller_is_refused_before_cordon() -> None:
    api = Api([pod("web"), pod("alone", None)])
    with pytest.raises(CheckError, match="no controller would start again elsewhere: web/alone") as caught:
        drained(api)
    assert "--force" in str(caught.value.hint)
    assert api.said == []


def test_drain_pod_with_data_in_empty_dir_is_warned_about(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    drained(Api([pod("cache", volumes=[{"name": "a", "emptyDir": {}}])]))
    assert "web/cache has data in an emptyDir" in capsys.readouterr().err


class Machine(StandIn):
    """A machine that answers some times, and then as ``failure`` says."""

    def __init__(self, answers: int, failure: SlipwayError) -> None:
        super().__init__("10.0.0.7")
        self.left, self.failure = answers, failure

    def run(self, command: str, **_: Any) -> ProcessResult:
        self.commands.append(command)
        self.left -= 1
        if self.left < 0:
            raise self.failure
        return ProcessResult((), 0, "", "")


LOST = NodeError("10.0.0.7: the connection was lost", hint="check the machine and its network")


@pytest.mark.parametrize("force", [False, True])
def test_drain_lost_machine_raises_node_error_before_timeout(force: bool) -> None:
    api = Api([pod("slow"), pod("web")], {"web": 10000})
    api.stuck = {"slow"}
    machine = Machine(2, LOST)
    with pytest.raises(NodeError, match=r"one was lost while its pods were moved: 10\.0\.0\.7: the connection was lost") as caught:
        drained(api, machine=machine, timeout=10000, force=force)
    assert caught.value.exit_code == 5
    assert "2 of them were left" in str(caught.value.hint)
    assert "slipway remove" in str(caught.value.hint)
    assert machine.commands == ["true"] * 3
    # Nothing was deleted: it may come back with what it runs.
    assert api.said == ["cordon one"]


def test_drain_slow_machine_is_waited_for() -> None:
    machine = Machine(0, CommandError("one: true: no end after 60 s"))
    assert drained(Api([pod("web")], {"web": 20}), machine=machine, timeout=100) == 1
    assert len(machine.commands) == 4


def test_drain_quick_does_not_ping_machine() -> None:
    machine = Machine(0, LOST)
    assert drained(Api([pod("web")], {"web": 3}), machine=machine) == 1
    assert machine.commands == []


def test_let_go_deletes_all_pods_without_eviction() -> None:
    api = Api([pod("web"), pod("proxy", "DaemonSet")], {"web": 10000})
    assert drain.let_go(api, "one") == 1
    assert api.said == ["delete web proxy"]


class Refusing(StandIn):
    """A control-plane node whose API refuses evictions."""

    def __init__(self, said: str) -> None:
        super().__init__()
        self.said = said

    def run(self, command: str, **_: Any) -> ProcessResult:
        self.commands.append(command)
        return ProcessResult((), 0, self.said, "")


def test_api_evict_posts_eviction_and_returns_refused_pods() -> None:
    node = Refusing('1 Error from server (TooManyRequests): Cannot evict pod.\n0 Error from server (NotFound): pods "web" not found\n')
    assert drain.Api(node).evict([pod("web"), pod("db")]) == {"web/db": "Cannot evict pod"}
    assert "/api/v1/namespaces/web/pods/web/eviction" in node.commands[-1]
    assert '"policy/v1"' in node.commands[-1]


def test_api_evict_many_pods_fits_into_commands_that_linux_takes() -> None:
    node = StandIn()
    pods = [pod(f"{'long-name-' * 6}{number}") for number in range(500)]
    node.answers = {"/eviction": "0 Error from server (TooManyRequests): Cannot evict pod.\n"}
    assert len(drain.Api(node).evict(pods)) == len(node.commands) > 1
    # Quoted once more for ssh.
    assert all(len(shlex.quote(command)) < LONGEST_ARGUMENT for command in node.commands)
    assert sum(command.count("/eviction") for command in node.commands) == 500


def test_names_map_first_internal_address_to_node_name() -> None:
    node = {
        "kind": "Node",
        "metadata": {"name": "one"},
        "status": {"addresses": [{"type": "Hostname", "address": "one"}, {"type": "InternalIP", "address": "10.0.0.1"}]},
    }
    assert drain.names([node]) == {"10.0.0.1": "one"}
    # Machines are known by their first address; the other family's is there for pods.
    node["status"] = {"addresses": [{"type": "InternalIP", "address": address} for address in ("10.0.0.1", "fd00::1")]}
    assert drain.names([node]) == {"10.0.0.1": "one"}


# ---- pods that nothing else stands in for -----------------------------------------------------------------------------


def replica(name: str, node: str, *, ready: bool = True, owner: str = "web", going: bool = False) -> dict[str, Any]:
    found = pod(name)
    found["metadata"]["ownerReferences"][0]["uid"] = owner
    found["spec"]["nodeName"] = node
    found["status"]["conditions"] = [{"type": "Ready", "status": "True" if ready else "False"}]
    if going:
        found["metadata"]["deletionTimestamp"] = "now"
    return found


def stay(pods: list[dict[str, Any]], leaving: set[str], several: set[str] | None = None) -> list[str]:
    asked = [one for one in pods if one["spec"]["nodeName"] == "one" and "deletionTimestamp" not in one["metadata"]]
    return names(drain.last_ones(asked, pods, leaving, set() if several is None else several))


def test_last_ones_keeps_one_replica_when_all_its_nodes_are_drained() -> None:
    here = [replica("a", "one"), replica("b", "one")]
    assert stay(here, {"one"}) == ["a"]
    assert stay([*here, replica("c", "two")], {"one"}) == []
    # Another node that is drained at the same time is no help, and one pod that stays is enough for both.
    assert stay([*here, replica("0", "two")], {"one", "two"}) == []
    assert stay([replica("a", "one"), replica("b", "two")], {"one", "two"}) == ["a"]


def test_last_ones_releases_pod_when_other_replica_is_ready() -> None:
    several: set[str] = set()
    assert stay([replica("a", "one"), replica("b", "one")], {"one"}, several) == ["a"]
    # The other one has gone, and the next one is not there yet.
    assert stay([replica("a", "one")], {"one"}, several) == ["a"]
    assert stay([replica("a", "one"), replica("c", "two", ready=False)], {"one"}, several) == ["a"]
    assert stay([replica("a", "one"), replica("c", "two")], {"one"}, several) == []


def test_last_ones_releases_single_or_unready_pods_at_once() -> None:
    assert stay([replica("a", "one")], {"one"}) == []
    assert stay([replica("a", "one", ready=False), replica("b", "one", ready=False)], {"one"}) == []
    assert stay([replica("a", "one"), replica("b", "one", going=True)], {"one"}) == ["a"]

"""The wait for a cluster: what it waits for, and when it gives up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from harness.errors import CheckError, CommandError
from harness.lifecycle.kube import readiness, wait
from tests.unit.lifecycle.kube.resources import deployment, made, node, pod, replicas, static_pod


class Cluster:
    """A kubectl whose answers are given: one list of objects a poll (the last one stays), logs by argument."""

    def __init__(self, *answers: Sequence[Mapping[str, Any]] | Exception, logs: Callable[[Sequence[str]], str] = lambda _: "") -> None:
        self.answers = list(answers)
        self.logs = logs
        self.events: list[Mapping[str, Any]] = []
        self.now = 0.0

    def run(self, *argv: str) -> str:
        if argv[0] == "logs":
            return self.logs(argv)
        if argv[1] == "events":
            return json.dumps({"items": self.events})
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return json.dumps({"items": answer})

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def settle(self, **options: Any) -> list[Mapping[str, Any]]:
        return list(wait.settle(self, clock=lambda: self.now, sleep=self.sleep, **options))


GOOD = [deployment(updatedReplicas=2, availableReplicas=2)]
BAD = [deployment()]


def test_settle_waits_for_readiness_then_quiet_time() -> None:
    cluster = Cluster(BAD, BAD, GOOD)
    assert cluster.settle(quiet=3) == GOOD
    assert cluster.now == 5


def test_settle_late_object_restarts_quiet_time() -> None:
    more = [*GOOD, pod(ready=True)]
    cluster = Cluster(GOOD, GOOD, more)
    assert cluster.settle(quiet=3) == more
    assert cluster.now == 5


def test_settle_quiet_time_grows_with_time_to_readiness() -> None:
    more = [*GOOD, pod(ready=True)]
    cluster = Cluster(*[BAD] * 40, *[GOOD] * 6, more)
    assert cluster.settle(quiet=3) == GOOD
    cluster = Cluster(*[BAD] * 40, *[GOOD] * 6, more)
    assert cluster.settle(quiet=3, quiet_share=0.25) == more
    # The last change came after 46 s.
    assert cluster.now == 46 + 12


def test_settle_container_restart_restarts_quiet_time() -> None:
    cluster = Cluster([pod(ready=True)], [pod(ready=True)], [pod(ready=True, restartCount=1)])
    cluster.settle(quiet=2)
    assert cluster.now == 4


def in_system(one: dict[str, Any]) -> dict[str, Any]:
    one["metadata"]["namespace"] = "kube-system"
    return one


def test_nudge_annotates_pods_that_wait_for_kubelet_together() -> None:
    running: dict[str, Any] = {"state": {"running": {}}, "started": True}
    early = {"waiting": {"reason": "CreateContainerConfigError", "message": "services have not yet been read at least once"}}
    pods = [
        in_system(pod("early", state=early)),
        in_system(pod("unproven", **running)),
        in_system(pod("starting", state={"running": {}}, started=False)),
        in_system(pod("ready", ready=True, **running)),
        in_system(pod("pulling", state={"waiting": {"reason": "ContainerCreating"}})),
        in_system(static_pod(**running)),
    ]
    said: list[Sequence[str]] = []

    class Kubectl(Cluster):
        def run(self, *argv: str) -> str:
            if argv[0] == "annotate":
                said.append(argv)
                raise CommandError("pods unproven not found")  # it is gone meanwhile, and nothing is wrong
            return super().run(*argv)

    cluster = Kubectl(pods, [pod("early", ready=True)])
    cluster.settle(quiet=0, heal=lambda items: wait.nudge(cluster, items))
    assert [list(argv[:5]) for argv in said] == [["annotate", "pod", "early", "unproven", "--namespace=kube-system"]]


def test_settle_heal_is_called_less_often_once_nothing_changes() -> None:
    cluster = Cluster([pod(ready=False)])
    healed: list[float] = []
    with pytest.raises(CheckError):
        cluster.settle(timeout=60, heal=lambda _: healed.append(cluster.now))
    assert healed == [*range(16), *range(20, 61, 5)]


def test_settle_api_error_is_retried() -> None:
    cluster = Cluster(CommandError("connection refused"), GOOD)
    assert cluster.settle(quiet=1) == GOOD


def test_settle_api_without_answer_until_timeout_raises_check_error() -> None:
    with pytest.raises(CheckError, match="does not answer: connection refused"):
        Cluster(CommandError("connection refused")).settle(timeout=10)


def test_settle_timeout_names_all_problems() -> None:
    cluster = Cluster([deployment(), node("False", "no network")])
    with pytest.raises(CheckError, match="2 objects are not ready after 30 s") as caught:
        cluster.settle(timeout=30)
    assert "no network" in str(caught.value.details)
    assert "0 of 2" in str(caught.value.details)


def test_settle_final_failure_ends_wait_at_once() -> None:
    failed = made("Job", "migrate", status={"conditions": [{"type": "Failed", "status": "True", "message": "no"}]})
    cluster = Cluster([failed, *BAD])
    with pytest.raises(CheckError, match="will not become so"):
        cluster.settle(timeout=600)
    assert cluster.now == 0


def test_settle_only_crashing_containers_end_wait_early_with_logs() -> None:
    def logs(argv: Sequence[str]) -> str:
        if "--previous" not in argv:
            raise CommandError("container is waiting to start")
        return "cannot reach the database\n"

    cluster = Cluster([pod(state={"waiting": {"reason": "CrashLoopBackOff"}})], logs=logs)
    with pytest.raises(CheckError) as caught:
        cluster.settle(timeout=600, stuck=60)
    assert cluster.now == 60
    assert "log: cannot reach the database" in str(caught.value.details)


def test_settle_unavailable_previous_log_shows_current_log() -> None:
    def logs(argv: Sequence[str]) -> str:
        return "unable to retrieve container logs for containerd://5af3" if "--previous" in argv else "my last words\n"

    cluster = Cluster([pod(state={"terminated": {"exitCode": 3, "reason": "Error"}})], logs=logs)
    with pytest.raises(CheckError) as caught:
        cluster.settle(timeout=5)
    assert "log: my last words" in str(caught.value.details)
    assert "unable to retrieve" not in str(caught.value.details)


def test_settle_node_with_disk_pressure_ends_wait_early() -> None:
    cluster = Cluster([node("True", DiskPressure="True")])
    with pytest.raises(CheckError, match="DiskPressure"):
        cluster.settle(timeout=600, stuck=60)
    assert cluster.now == 60


def test_settle_container_being_created_is_not_stuck() -> None:
    slow = pod(phase="Pending", state={"waiting": {"reason": "ContainerCreating"}})
    cluster = Cluster(*[[slow]] * 200, GOOD)
    assert cluster.settle(timeout=600, stuck=60, quiet=1) == GOOD


def test_settle_waits_only_for_given_namespaces() -> None:
    other = made("Deployment", "broken", namespace="other", spec={"replicas": 1}, status={"observedGeneration": 1})
    assert Cluster([*GOOD, other]).settle(namespaces=["web"], quiet=0) == GOOD


def test_settle_ignores_previously_ailing_owner_under_new_pod_name() -> None:
    ill = readiness.ailing([*BAD, replicas(), pod()])
    crashing = [pod("nginx-7", restartCount=count, state={"waiting": {"reason": "CrashLoopBackOff"}}) for count in range(9)]
    states = [[*BAD, replicas(), one, pod("other", owned=False, ready=True)] for one in crashing]
    assert [item["metadata"]["name"] for item in Cluster(*states).settle(quiet=3, but=ill)] == ["other"]
    with pytest.raises(CheckError):
        Cluster(*states).settle(quiet=3)


def test_settle_waits_for_expected_nodes_by_name() -> None:
    cluster = Cluster([], [node("False")], [node()])
    assert cluster.settle(quiet=0, nodes=["one"])
    assert cluster.now == 2
    with pytest.raises(CheckError, match="Node two: has not registered"):
        Cluster([node()]).settle(nodes=["one", "two"], timeout=5)


def test_settle_running_static_pod_is_settled_before_probes_pass() -> None:
    assert Cluster([static_pod(state={"running": {}})]).settle(quiet=0)

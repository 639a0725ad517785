"""What counts as ready, and what is said about that which is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from harness.errors import CommandError
from harness.lifecycle.kube import readiness
from tests.unit.lifecycle.kube.resources import deployment, made, node, pod, replicas, static_pod


def only(problems: Sequence[readiness.Problem]) -> readiness.Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_not_ready_complete_objects_are_no_problems() -> None:
    complete = {"conditions": [{"type": "Complete", "status": "True"}]}
    items = [
        node(),
        deployment(updatedReplicas=2, availableReplicas=2),
        made("StatefulSet", "db", spec={"replicas": 1}, status={"observedGeneration": 1, "readyReplicas": 1}),
        made(
            "DaemonSet", "log", status={"observedGeneration": 1, "desiredNumberScheduled": 1, "updatedNumberScheduled": 1, "numberReady": 1}
        ),
        made("Job", "migrate", status=complete),
        pod(ready=True),
        pod("done", "Succeeded"),
        made("PersistentVolumeClaim", "data", status={"phase": "Bound"}),
    ]
    assert readiness.not_ready(items) == ()


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (node("False", "container runtime network not ready: cni plugin not initialized"), "cni plugin not initialized"),
        (node("True", DiskPressure="True"), "DiskPressure"),
        (made("Node", "new", namespace=None), "has not reported yet"),
        (deployment(updatedReplicas=1, availableReplicas=2), "1 of 2 of the newest version"),
        (deployment(updatedReplicas=2, availableReplicas=1), "1 of 2 available"),
        (made("Deployment", "nginx", generation=2, spec={}, status={"observedGeneration": 1}), "not observed"),
        (made("StatefulSet", "db", spec={"replicas": 3}, status={"observedGeneration": 1, "readyReplicas": 2}), "2 of 3 ready"),
        (
            made(
                "StatefulSet",
                "db",
                spec={"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 1}}},
                status={"observedGeneration": 1, "readyReplicas": 3, "updatedReplicas": 1},
            ),
            "1 of 2 of the newest version",
        ),
        (
            made(
                "DaemonSet",
                "log",
                status={"observedGeneration": 1, "desiredNumberScheduled": 3, "updatedNumberScheduled": 3, "numberReady": 1},
            ),
            "1 of 3 ready",
        ),
        (made("Job", "migrate", status={"failed": 1}), "0 of 1 done, 1 failed"),
        (made("ReplicaSet", "alone", spec={"replicas": 1}, status={"observedGeneration": 1}), "0 of 1 ready"),
    ],
)
def test_not_ready_incomplete_object_reports_shortfall(item: dict[str, Any], says: str) -> None:
    problem = only(readiness.not_ready([item]))
    assert says in problem.reason
    assert problem.object == readiness.title(item)


def test_not_ready_ignores_paused_deployment_and_cordoned_node() -> None:
    paused = made("Deployment", "nginx", spec={"replicas": 2, "paused": True})
    cordoned = node()
    cordoned["spec"]["unschedulable"] = True
    assert readiness.not_ready([paused, cordoned]) == ()


def test_not_ready_failed_job_is_final_with_reason() -> None:
    failed = {"conditions": [{"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}]}
    problem = only(readiness.not_ready([made("Job", "migrate", status=failed)]))
    assert problem.final
    assert "backoff limit" in problem.reason


def test_not_ready_ignores_running_job_of_cronjob() -> None:
    owner = {"ownerReferences": [{"kind": "CronJob", "name": "nightly", "controller": True}]}
    assert readiness.not_ready([made("Job", "nightly-1", metadata=owner)]) == ()


def test_not_ready_image_pull_failure_names_image_and_registry_message() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nginx:1.25": not found'}}
    problem = only(readiness.not_ready([pod(phase="Pending", state=waiting)]))
    assert problem.cause == "ImagePullBackOff"
    assert "nginx:1.25" in problem.reason
    assert "not found" in problem.reason
    assert not problem.final


def test_not_ready_invalid_image_name_is_final() -> None:
    waiting = {"waiting": {"reason": "InvalidImageName", "message": "couldn't parse image reference"}}
    assert only(readiness.not_ready([pod(phase="Pending", state=waiting)])).final


def test_not_ready_crashing_container_shows_exit_and_last_log_lines() -> None:
    crashing = pod(
        state={"waiting": {"reason": "CrashLoopBackOff"}},
        lastState={"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        restartCount=3,
    )
    problem = only(readiness.not_ready([crashing], logs={("Pod web/nginx-0", "main"): "\n".join(f"line {number}" for number in range(50))}))
    assert "exit code 137 (OOMKilled)" in problem.reason
    assert "started 4 times" in problem.reason
    assert problem.log[-1] == "line 49"
    assert len(problem.log) == 20


def test_not_ready_unschedulable_pod_shows_reason() -> None:
    lost = made(
        "Pod",
        "big",
        status={
            "phase": "Pending",
            "conditions": [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes: Insufficient memory."}
            ],
        },
    )
    problem = only(readiness.not_ready([lost]))
    assert problem.cause == "Unschedulable"
    assert "Insufficient memory" in problem.reason


def test_not_ready_probe_failure_from_own_event_is_in_reason() -> None:
    event = {
        "type": "Warning",
        "reason": "Unhealthy",
        "message": "Readiness probe failed: HTTP probe failed with statuscode: 503",
        "involvedObject": {"kind": "Pod", "namespace": "web", "name": "nginx-0"},
    }
    other = {**event, "message": "of another pod", "involvedObject": {"kind": "Pod", "namespace": "web", "name": "nginx-1"}}
    problem = only(readiness.not_ready([pod(state={"running": {}})], events=[event, other]))
    assert "statuscode: 503" in problem.reason
    assert "another pod" not in str(problem)


def test_not_ready_container_waiting_for_volume_shows_event() -> None:
    event = {
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'configmap "settings" not found',
        "involvedObject": {"kind": "Pod", "namespace": "web", "name": "nginx-0"},
    }
    problem = only(readiness.not_ready([pod(phase="Pending", state={"waiting": {"reason": "ContainerCreating"}})], events=[event]))
    assert problem.events == ('FailedMount: configmap "settings" not found',)


def test_not_ready_failed_init_container_is_named_and_successful_one_is_not() -> None:
    waiting = pod(phase="Pending", state={"waiting": {"reason": "PodInitializing"}})
    done = {"name": "first", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}
    waiting["status"]["initContainerStatuses"] = [done, {"name": "second", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}]
    problem = only(readiness.not_ready([waiting]))
    assert (problem.container, problem.cause) == ("second", "Error")
    assert problem.reason.startswith("container second ended with exit code 2")
    assert "first" not in problem.reason
    # With all of them done it is the container itself that counts.
    waiting["status"]["initContainerStatuses"] = [done, {**done, "name": "second"}]
    assert only(readiness.not_ready([waiting])).reason == "container main: PodInitializing"


@pytest.mark.parametrize(
    "leftover", [pod("old", "Failed"), made("Pod", "gone", metadata={"deletionTimestamp": "now"}, status={"phase": "Running"})]
)
def test_not_ready_ignores_replaced_and_terminating_pods(leftover: dict[str, Any]) -> None:
    assert readiness.not_ready([leftover]) == ()


def test_not_ready_failed_unowned_pod_is_final() -> None:
    problem = only(readiness.not_ready([pod("once", "Failed", owned=False, state={"terminated": {"exitCode": 3}})]))
    assert problem.final
    assert "exit code 3" in problem.reason


def claim(**spec: Any) -> dict[str, Any]:
    return made("PersistentVolumeClaim", "data", spec=spec, status={"phase": "Pending"})


def test_not_ready_late_binding_claim_is_problem_only_with_consumer() -> None:
    late = made("StorageClass", "local", namespace=None)
    late["volumeBindingMode"] = "WaitForFirstConsumer"
    assert readiness.not_ready([claim(storageClassName="local"), late]) == ()
    consumer = pod(ready=True)
    consumer["spec"]["volumes"] = [{"persistentVolumeClaim": {"claimName": "data"}}]
    assert "storage class local" in only(readiness.not_ready([claim(storageClassName="local"), late, consumer])).reason


def test_not_ready_claim_without_class_names_missing_default() -> None:
    assert "no storage class is the default" in only(readiness.not_ready([claim()])).reason


def test_not_ready_lists_causes_before_workloads() -> None:
    found = readiness.not_ready([deployment(), pod(state={"running": {}}), claim(), node("False")])
    assert [problem.object.split()[0] for problem in found] == ["Node", "PersistentVolumeClaim", "Pod", "Deployment"]


def test_ailing_names_top_level_owners() -> None:
    failed = made("Job", "nightly-1", status={"conditions": [{"type": "Failed", "status": "True", "message": "no"}]})
    failed["metadata"]["ownerReferences"] = [{"kind": "CronJob", "name": "nightly", "controller": True}]
    system = made("DaemonSet", "network", namespace="kube-system", status={"desiredNumberScheduled": 2})
    ill = [replicas(), pod(), failed, pod("alone", owned=False), pod("well", ready=True), node("False"), system]
    assert readiness.ailing(ill) == {"Deployment web/nginx", "CronJob web/nightly", "Pod web/alone"}
    assert readiness.ailing([deployment(updatedReplicas=2, availableReplicas=2), node()]) == frozenset()


def test_not_ready_running_static_pod_passes_when_probes_do_not_count() -> None:
    running = static_pod(state={"running": {}})
    assert readiness.not_ready([running])
    assert readiness.not_ready([running], static=False) == ()
    assert readiness.not_ready([static_pod(state={"waiting": {"reason": "CrashLoopBackOff"}})], static=False)


@pytest.mark.parametrize(
    "said",
    ["", "no", "[]", "5", '{"items": 5}', '{"items": [5]}', '{"items": [{"metadata": {"name": 5}}]}', "[" * 100000],
)
def test_get_answer_without_object_list_raises_command_error(said: str) -> None:
    class Saying:
        def run(self, *_: str) -> str:
            return said

    with pytest.raises(CommandError, match="the API of the cluster gave an answer that is not understood"):
        readiness.get(Saying(), "pods")

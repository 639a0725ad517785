"""What counts as ready, and what is said about that which is not."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest

from harness.errors import CheckError, CommandError
from harness.lifecycle.kube import readiness
from harness.process import ProcessResult


def made(kind: str, name: str, *, namespace: str | None = "web", generation: int = 1, **parts: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": f"{kind}-{name}", "generation": generation, **parts.pop("metadata", {})}
    if namespace:
        meta["namespace"] = namespace
    return {"kind": kind, "metadata": meta, "spec": parts.pop("spec", {}), "status": parts.pop("status", {})}


def node(ready: str = "True", message: str = "", **extra: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "message": message}]
    conditions += [{"type": kind, "status": status} for kind, status in extra.items()]
    return made("Node", "one", namespace=None, status={"conditions": conditions})


def deployment(**status: int) -> dict[str, Any]:
    return made("Deployment", "nginx", spec={"replicas": 2}, status={"observedGeneration": 1, **status})


def pod(name: str = "nginx-0", phase: str = "Running", *, ready: bool = False, owned: bool = True, **container: Any) -> dict[str, Any]:
    owner = [{"kind": "ReplicaSet", "name": "nginx", "uid": "ReplicaSet-nginx", "controller": True}] if owned else []
    status = {
        "phase": phase,
        "conditions": [{"type": "Ready", "status": "True" if ready else "False", "message": "containers with unready status: [main]"}],
        "containerStatuses": [{"name": "main", "image": "nginx:1.25", "ready": ready, "restartCount": 0, **container}],
    }
    return made("Pod", name, metadata={"ownerReferences": owner}, status=status)


def only(problems: Sequence[readiness.Problem]) -> readiness.Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_a_cluster_whose_objects_are_as_they_ask_has_no_problems() -> None:
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
        (made("Deployment", "nginx", generation=2, spec={}, status={"observedGeneration": 1}), "not looked at"),
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
def test_what_is_short_of_what_it_asks_for_says_by_how_much(item: dict[str, Any], says: str) -> None:
    problem = only(readiness.not_ready([item]))
    assert says in problem.reason
    assert problem.object == readiness.title(item)


def test_a_paused_deployment_and_a_cordoned_node_are_wishes_not_faults() -> None:
    paused = made("Deployment", "nginx", spec={"replicas": 2, "paused": True})
    cordoned = node()
    cordoned["spec"]["unschedulable"] = True
    assert readiness.not_ready([paused, cordoned]) == ()


def test_a_failed_job_is_final_and_gives_the_reason() -> None:
    failed = {"conditions": [{"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}]}
    problem = only(readiness.not_ready([made("Job", "migrate", status=failed)]))
    assert problem.final
    assert "backoff limit" in problem.reason


def test_a_running_job_of_a_cronjob_does_not_keep_a_cluster_from_being_ready() -> None:
    owner = {"ownerReferences": [{"kind": "CronJob", "name": "nightly", "controller": True}]}
    assert readiness.not_ready([made("Job", "nightly-1", metadata=owner)]) == ()


def test_an_image_that_cannot_be_pulled_names_image_and_registry_message() -> None:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "nginx:1.25": not found'}}
    problem = only(readiness.not_ready([pod(phase="Pending", state=waiting)]))
    assert problem.cause == "ImagePullBackOff"
    assert "nginx:1.25" in problem.reason
    assert "not found" in problem.reason
    assert not problem.final


def test_an_impossible_image_name_is_final() -> None:
    waiting = {"waiting": {"reason": "InvalidImageName", "message": "couldn't parse image reference"}}
    assert only(readiness.not_ready([pod(phase="Pending", state=waiting)])).final


def test_a_crashing_container_shows_how_it_ended_and_its_last_lines() -> None:
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


def test_a_pod_that_fits_nowhere_says_what_is_missing() -> None:
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


def test_a_failing_probe_known_only_from_events_joins_the_reason() -> None:
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


def test_a_container_that_waits_for_a_volume_shows_the_event() -> None:
    event = {
        "type": "Warning",
        "reason": "FailedMount",
        "message": 'configmap "settings" not found',
        "involvedObject": {"kind": "Pod", "namespace": "web", "name": "nginx-0"},
    }
    problem = only(readiness.not_ready([pod(phase="Pending", state={"waiting": {"reason": "ContainerCreating"}})], events=[event]))
    assert problem.events == ('FailedMount: configmap "settings" not found',)


def test_an_init_container_that_fails_is_named_and_one_that_is_done_is_not() -> None:
    waiting = pod(phase="Pending", state={"waiting": {"reason": "PodInitializing"}})
    waiting["status"]["initContainerStatuses"] = [
        {"name": "first", "state": {"terminated": {"exitCode": 0}}},
        {"name": "second", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}},
    ]
    problem = only(readiness.not_ready([waiting]))
    assert "second ended with exit code 2" in problem.reason


@pytest.mark.parametrize(
    "leftover", [pod("old", "Failed"), made("Pod", "gone", metadata={"deletionTimestamp": "now"}, status={"phase": "Running"})]
)
def test_a_pod_that_its_owner_replaced_or_that_is_leaving_is_no_problem(leftover: dict[str, Any]) -> None:
    assert readiness.not_ready([leftover]) == ()


def test_a_failed_pod_that_stands_alone_is_final() -> None:
    problem = only(readiness.not_ready([pod("once", "Failed", owned=False, state={"terminated": {"exitCode": 3}})]))
    assert problem.final
    assert "exit code 3" in problem.reason


def claim(**spec: Any) -> dict[str, Any]:
    return made("PersistentVolumeClaim", "data", spec=spec, status={"phase": "Pending"})


def test_a_claim_that_waits_for_its_first_consumer_is_a_problem_only_when_it_has_one() -> None:
    late = made("StorageClass", "local", namespace=None)
    late["volumeBindingMode"] = "WaitForFirstConsumer"
    assert readiness.not_ready([claim(storageClassName="local"), late]) == ()
    consumer = pod(ready=True)
    consumer["spec"]["volumes"] = [{"persistentVolumeClaim": {"claimName": "data"}}]
    assert "storage class local" in only(readiness.not_ready([claim(storageClassName="local"), late, consumer])).reason


def test_a_claim_without_a_class_says_that_none_is_the_default() -> None:
    assert "no storage class is the default" in only(readiness.not_ready([claim()])).reason


def test_causes_come_before_the_workloads_that_wait_for_them() -> None:
    found = readiness.not_ready([deployment(), pod(state={"running": {}}), claim(), node("False")])
    assert [problem.object.split()[0] for problem in found] == ["Node", "PersistentVolumeClaim", "Pod", "Deployment"]


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
        return list(readiness.settle(self, clock=lambda: self.now, sleep=self.sleep, **options))


GOOD = [deployment(updatedReplicas=2, availableReplicas=2)]
BAD = [deployment()]


def test_settling_waits_for_readiness_and_then_for_quiet() -> None:
    cluster = Cluster(BAD, BAD, GOOD)
    assert cluster.settle(quiet=3) == GOOD
    assert cluster.now == 5


def test_an_object_that_appears_late_starts_the_quiet_time_again() -> None:
    more = [*GOOD, pod(ready=True)]
    cluster = Cluster(GOOD, GOOD, more)
    assert cluster.settle(quiet=3) == more
    assert cluster.now == 5


def test_a_container_that_restarts_between_two_looks_starts_the_quiet_time_again() -> None:
    cluster = Cluster([pod(ready=True)], [pod(ready=True)], [pod(ready=True, restartCount=1)])
    cluster.settle(quiet=2)
    assert cluster.now == 4


def test_pods_that_a_kubelet_began_too_early_are_found_while_they_are_waited_for() -> None:
    early = pod(
        "early", state={"waiting": {"reason": "CreateContainerConfigError", "message": "services have not yet been read at least once"}}
    )
    early["metadata"]["namespace"] = "kube-system"
    seen: list[tuple[tuple[str, str], ...]] = []
    Cluster([early, pod("other")], [pod("early", ready=True)]).settle(
        quiet=0, heal=lambda items: seen.append(readiness.waiting_for_services(items))
    )
    assert seen == [(("kube-system", "early"),)]


def test_an_api_that_does_not_answer_yet_is_waited_for() -> None:
    cluster = Cluster(CommandError("connection refused"), GOOD)
    assert cluster.settle(quiet=1) == GOOD


def test_an_api_that_never_answers_is_an_error_that_says_so() -> None:
    with pytest.raises(CheckError, match="does not answer: connection refused"):
        Cluster(CommandError("connection refused")).settle(timeout=10)


def test_giving_up_names_every_problem() -> None:
    cluster = Cluster([deployment(), node("False", "no network")])
    with pytest.raises(CheckError, match="2 objects are not ready after 30 s") as caught:
        cluster.settle(timeout=30)
    assert "no network" in str(caught.value.details)
    assert "0 of 2" in str(caught.value.details)


def test_what_does_not_heal_ends_the_wait_at_once() -> None:
    failed = made("Job", "migrate", status={"conditions": [{"type": "Failed", "status": "True", "message": "no"}]})
    cluster = Cluster([failed, *BAD])
    with pytest.raises(CheckError, match="will not become so"):
        cluster.settle(timeout=600)
    assert cluster.now == 0


def test_nothing_but_crashing_containers_ends_the_wait_early_with_their_logs() -> None:
    def logs(argv: Sequence[str]) -> str:
        if "--previous" not in argv:
            raise CommandError("container is waiting to start")
        return "cannot reach the database\n"

    cluster = Cluster([pod(state={"waiting": {"reason": "CrashLoopBackOff"}})], logs=logs)
    with pytest.raises(CheckError) as caught:
        cluster.settle(timeout=600, stuck=60)
    assert cluster.now == 60
    assert "log: cannot reach the database" in str(caught.value.details)


def test_a_log_that_has_been_cleared_away_is_not_shown_in_place_of_the_one_that_is_there() -> None:
    def logs(argv: Sequence[str]) -> str:
        return "unable to retrieve container logs for containerd://5af3" if "--previous" in argv else "my last words\n"

    cluster = Cluster([pod(state={"terminated": {"exitCode": 3, "reason": "Error"}})], logs=logs)
    with pytest.raises(CheckError) as caught:
        cluster.settle(timeout=5)
    assert "log: my last words" in str(caught.value.details)
    assert "unable to retrieve" not in str(caught.value.details)


def test_a_node_whose_disk_is_full_is_not_waited_for_to_the_end() -> None:
    cluster = Cluster([node("True", DiskPressure="True")])
    with pytest.raises(CheckError, match="DiskPressure"):
        cluster.settle(timeout=600, stuck=60)
    assert cluster.now == 60


def test_a_workload_that_makes_progress_is_not_taken_for_stuck() -> None:
    slow = pod(phase="Pending", state={"waiting": {"reason": "ContainerCreating"}})
    cluster = Cluster(*[[slow]] * 200, GOOD)
    assert cluster.settle(timeout=600, stuck=60, quiet=1) == GOOD


def test_only_the_namespaces_asked_for_are_waited_for() -> None:
    other = made("Deployment", "broken", namespace="other", spec={"replicas": 1}, status={"observedGeneration": 1})
    assert Cluster([*GOOD, other]).settle(namespaces=["web"], quiet=0) == GOOD


def replicas(owner: str = "nginx") -> dict[str, Any]:
    return made("ReplicaSet", "nginx", metadata={"ownerReferences": [{"kind": "Deployment", "name": owner, "controller": True}]})


def test_what_ails_is_called_by_what_somebody_made() -> None:
    failed = made("Job", "nightly-1", status={"conditions": [{"type": "Failed", "status": "True", "message": "no"}]})
    failed["metadata"]["ownerReferences"] = [{"kind": "CronJob", "name": "nightly", "controller": True}]
    system = made("DaemonSet", "network", namespace="kube-system", status={"desiredNumberScheduled": 2})
    ill = [replicas(), pod(), failed, pod("alone", owned=False), pod("well", ready=True), node("False"), system]
    assert readiness.ailing(ill) == {"Deployment web/nginx", "CronJob web/nightly", "Pod web/alone"}
    assert readiness.ailing([*GOOD, node()]) == frozenset()


def test_what_ailed_before_is_not_waited_for_under_whatever_name_it_comes_back() -> None:
    ill = readiness.ailing([*BAD, replicas(), pod()])
    crashing = [pod("nginx-7", restartCount=count, state={"waiting": {"reason": "CrashLoopBackOff"}}) for count in range(9)]
    states = [[*BAD, replicas(), one, pod("other", owned=False, ready=True)] for one in crashing]
    assert [item["metadata"]["name"] for item in Cluster(*states).settle(quiet=3, but=ill)] == ["other"]
    with pytest.raises(CheckError):
        Cluster(*states).settle(quiet=3)


def static_pod(**container: Any) -> dict[str, Any]:
    found = pod("etcd-one", **container)
    found["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}
    return found


def test_a_static_pod_that_runs_is_settled_before_its_probes_have_passed() -> None:
    assert Cluster([static_pod(state={"running": {}})]).settle(quiet=0)
    assert readiness.not_ready([static_pod(state={"running": {}})])
    assert readiness.not_ready([static_pod(state={"waiting": {"reason": "CrashLoopBackOff"}})], static=False)


def test_nodes_that_are_expected_are_waited_for_by_name() -> None:
    cluster = Cluster([], [node("False")], [node()])
    assert cluster.settle(quiet=0, nodes=["one"])
    assert cluster.now == 2
    with pytest.raises(CheckError, match="Node two: has not registered"):
        Cluster([node()]).settle(nodes=["one", "two"], timeout=5)


# The answer of a dnsmasq to a question for kubernetes.default.svc.cluster.local: one A record, its name a pointer to the question.
NAME = "kubernetes.default.svc.cluster.local"


def answered(*, code: int = 0, addresses: Sequence[str] = ("10.96.0.1",)) -> bytes:
    question = readiness.dns_query(NAME)[2:]
    header = question[:2] + bytes([0x85, 0x80 | code, 0, 1, 0, len(addresses), 0, 0, 0, 0])
    records = b"".join(bytes.fromhex("c00c00010001000000050004") + bytes(int(part) for part in address.split(".")) for address in addresses)
    message = header + question[12:] + records
    return len(message).to_bytes(2, "big") + message


def test_an_answer_of_the_cluster_dns_gives_its_addresses() -> None:
    assert readiness.dns_addresses(answered(addresses=("10.96.0.1", "10.96.0.9"))) == ("10.96.0.1", "10.96.0.9")


def test_a_question_to_the_cluster_dns_is_as_rfc_1035_has_it() -> None:
    header, question = "517001000001000000000000", "0161026263" + "00" + "00010001"
    assert (
        readiness.dns_query("a.bc").hex() == readiness.dns_query("a.bc.").hex() == f"{len(header + question) // 2:04x}" + header + question
    )


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "no answer"),
        (answered()[:-3], "no whole answer"),
        (answered(code=3, addresses=()), "no such name"),
        (answered(code=2), "failed"),
        (answered(code=9), "error 9"),
        (answered().replace(b"\x51\x70", b"\x51\x71"), "another question"),
        (answered().replace(b"\xc0\x0c", b"\xc0\xff"), "not valid"),
    ],
)
def test_an_answer_that_is_none_says_why(answer: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        readiness.dns_addresses(answer)


class Shell:
    """A node that gives one answer to every command."""

    name = address = "one"

    def __init__(self, out: str = "", code: int = 0) -> None:
        self.result = ProcessResult((), code, out, "")

    def run(self, command: str, **_: Any) -> ProcessResult:
        return self.result

    def put_tar(self, *_: Any) -> None: ...
    def put(self, *_: Any) -> None: ...
    def get(self, path: str) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("shell", "says"),
    [
        (Shell(base64.b64encode(answered()).decode()), None),
        (Shell(base64.b64encode(answered(addresses=("10.9.9.9",))).decode()), "is 10.9.9.9"),
        (Shell(base64.b64encode(answered(code=3, addresses=())).decode()), "no such name"),
        (Shell("", 124), "no answer came"),
        (Shell("", 127), None),
    ],
)
def test_dns_is_asked_from_a_node(shell: Shell, says: str | None) -> None:
    problem = readiness.dns_problem(shell, "10.96.0.10", NAME, expected="10.96.0.1")
    assert problem is None if says is None else says in str(problem)


@pytest.mark.parametrize(
    "said",
    ["", "no", "[]", "5", '{"items": 5}', '{"items": [5]}', '{"items": [{"metadata": {"name": 5}}]}', "[" * 100000],
)
def test_an_answer_that_is_no_list_of_objects_is_told(said: str) -> None:
    class Saying:
        def run(self, *_: str) -> str:
            return said

    with pytest.raises(CommandError, match="the API of the cluster gave an answer that is not understood"):
        readiness.get(Saying(), "pods")

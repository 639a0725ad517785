"""The parts of the test kit that need no cluster: words for kubectl, reports, and what given machines may run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage, log
from harness.cloudimage import CloudImage, ExpectedValue, ImageSet, Info, PlatformImage, ValueType
from harness.clusterfile import secrets
from harness.errors import CheckError, CommandError, InputError, NodeError, UsageError
from harness.host import docker
from harness.lifecycle.kube import readiness, wait
from harness.nodes import Input, Login, Machine
from harness.oci.model import Platform
from harness.process import ProcessResult
from harness.testkit import cluster as testkit_cluster
from harness.trust import policy


class FakeNode:
    """Remembers what it was told to run, and answers with what it was given."""

    name = address = "10.0.0.1"

    def __init__(self, *answers: str, code: int = 0) -> None:
        self.answers = list(answers)
        self.code = code
        self.commands: list[str] = []
        self.inputs: list[Input] = []

    def run(self, command: str, *, input: Input = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        self.commands.append(command)
        self.inputs.append(input)
        return ProcessResult((command,), self.code, self.answers.pop(0) if self.answers else "", "")

    def put_tar(self, stream: Any, destination: str) -> None: ...
    def put(self, data: bytes, path: str, mode: int = 0o644) -> None: ...
    def get(self, path: str) -> bytes:
        return b""


def test_kubectl_arguments_are_quoted_for_shell() -> None:
    node = FakeNode("web\n")
    assert testkit_cluster.ClusterKubectl(node)("get", "pods", "-o", "jsonpath={.items[*]['metadata'].name}") == "web\n"
    (command,) = node.commands
    assert command.endswith("""kubectl get pods -o 'jsonpath={.items[*]['"'"'metadata'"'"'].name}'""")
    assert command.startswith("KUBECONFIG=/etc/kubernetes/admin.conf ")


def test_kubectl_input_is_passed_to_node() -> None:
    node = FakeNode()
    testkit_cluster.ClusterKubectl(node)("apply", "-f", "-", input="kind: Pod\n")
    assert node.inputs == ["kind: Pod\n"]


def test_kubectl_failure_raises_command_error_with_output() -> None:
    with pytest.raises(CommandError, match=r"kubectl get pods -n 'no such': exit code 1: Error from server"):
        testkit_cluster.ClusterKubectl(FakeNode("Error from server", code=1))("get", "pods", "-n", "no such")


def test_kubectl_json_requests_and_parses_json() -> None:
    node = FakeNode('{"items": [1]}')
    assert testkit_cluster.ClusterKubectl(node).json("get", "pods") == {"items": [1]}
    assert "--output=json" in node.commands[0]


def test_kubectl_wait_with_arguments_runs_kubectl_wait() -> None:
    node = FakeNode()
    testkit_cluster.ClusterKubectl(node).wait("deployment/web", "--for=condition=available", timeout=90)
    assert node.commands[0].endswith("kubectl wait --timeout=90s deployment/web --for=condition=available")


def test_kubectl_wait_without_arguments_waits_for_all_workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[object, float]] = []
    monkeypatch.setattr(wait, "settle", lambda kubectl, *, timeout: seen.append((kubectl, timeout)))
    kubectl = testkit_cluster.ClusterKubectl(FakeNode())
    kubectl.wait(timeout=7)
    assert seen == [(kubectl, 7)]


@dataclasses.dataclass
class Door:
    """What ``reach`` reads of an SshNode."""

    machine: Machine
    name: str
    config: Path = Path("/home/me/clusters/test-1/ssh_config")

    @property
    def ssh(self) -> Door:
        return self

    @property
    def address(self) -> str:
        return self.machine.address


def cluster(**changes: Any) -> testkit_cluster.Cluster:
    login = Login(key=Path("/keys/id one"))
    facts: dict[str, Any] = {
        "name": "test-1",
        "image": "web:latest",
        "digest": "sha256:0",
        "embedded": 3,
        "control_plane": ("m0",),
        "workers": ("n0", "n1"),
        "kubeconfig": Path("/home/me/clusters/test-1/kubeconfig"),
        "kubectl": testkit_cluster.ClusterKubectl(FakeNode()),
        "boot_seconds": 60.0,
        "machines": tuple(Door(Machine(f"10.0.0.{number}", login), f"name-{number}") for number in (1, 2, 3)),
        "group": "test-1",
        "request": testkit_cluster.ClusterRequest("web:latest", 1, 2),
    }
    return testkit_cluster.Cluster(**{**facts, **changes})


def test_reach_of_kept_cluster_lists_ssh_pytest_and_removal_commands() -> None:
    lines = cluster().reach()
    assert lines[1] == "ssh -F /home/me/clusters/test-1/ssh_config 10.0.0.2    # name-2"
    assert "export KUBECONFIG=/home/me/clusters/test-1/kubeconfig" in lines
    again = next(line for line in lines if line.startswith("pytest"))
    assert "--control-plane 10.0.0.1 --workers 10.0.0.2,10.0.0.3 --ssh-user root --ssh-key '/keys/id one'" in again
    assert lines[-1] == "slipway nodes down test-1"


def test_reach_on_given_machines_ends_with_cluster_deletion() -> None:
    assert cluster(group=None).reach()[-1] == "slipway delete test-1"


class Rebooting(FakeNode):
    """A machine of one's own: it answers with another boot id after it was told to reboot, and only at the second try."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.dropped = "name-1", False
        self.boots, self.tries = ["one", "two"], 0

    def disconnect(self) -> None:
        self.dropped = True

    def run(self, command: str, **options: Any) -> ProcessResult:
        super().run(command, **options)
        if command == "systemctl reboot":
            self.boots.pop(0)
            return ProcessResult((), 255, "", "")
        if self.dropped:
            self.tries += 1
            if self.tries == 1:
                raise NodeError("10.0.0.1: the connection was lost")
        said = f"{self.boots[0]}\n"
        return ProcessResult((), 0, f"2026-01-01T00:00:10Z\n{said}" if command.startswith("date") else said, "")


def running_since(*times: str) -> str:
    statuses = [{"name": "main", "state": {"running": {"startedAt": time}}} for time in times]
    return json.dumps({"items": [{"metadata": {"name": "web"}, "status": {"containerStatuses": statuses}}]})


def test_reboot_waits_for_newer_containers_and_ready_workloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    looks = [running_since("2026-01-01T00:00:09Z"), running_since("2026-01-01T00:00:11Z", "2026-01-01T00:00:10Z")]
    found = [(readiness.Problem("Pod web", "not ready"),), ()]
    monkeypatch.setattr(testkit_cluster.ClusterKubectl, "run", lambda *_, **__: looks.pop(0) if len(looks) > 1 else looks[0])
    monkeypatch.setattr(readiness, "problems", lambda _: found.pop(0))
    machine = Rebooting()
    here = cluster(group=None, control_plane=("m0",), workers=(), machines=(machine,))
    here.reboot(here.control_plane[0])
    assert (machine.boots, found) == (["two"], [])
    assert machine.commands.count("systemctl reboot") == 1


class Gone(Rebooting):
    """A machine that does not come back."""

    def run(self, command: str, **options: Any) -> ProcessResult:
        if self.dropped:
            raise NodeError("10.0.0.1: no answer")
        return super().run(command, **options)


class Refusing(Rebooting):
    """A machine that does not restart."""

    def __init__(self) -> None:
        super().__init__()
        self.boots = ["one", "one"]


class Clock:
    """Time that passes while it is slept only."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("machine", "since", "problems", "left"),
    [
        (Gone, "11", (), "10.0.0.1: no answer"),
        (Refusing, "11", (), "the machine has not restarted"),
        (Rebooting, "09", (), "web/main"),
        (Rebooting, "11", (readiness.Problem("Pod web", "unready"), readiness.Problem("Pod db", "down")), "Pod web: unready; Pod db: down"),
    ],
    ids=["gone", "not restarted", "old containers", "not ready"],
)
def test_reboot_not_over_in_time_raises_check_error_with_rest(
    monkeypatch: pytest.MonkeyPatch, machine: type[Rebooting], since: str, problems: tuple[readiness.Problem, ...], left: str
) -> None:
    clock = Clock()
    monkeypatch.setattr(testkit_cluster, "time", clock)
    monkeypatch.setattr(testkit_cluster.ClusterKubectl, "run", lambda *_, **__: running_since(f"2026-01-01T00:00:{since}Z"))
    monkeypatch.setattr(readiness, "problems", lambda _: problems)
    here = cluster(group=None, control_plane=("m0",), workers=(), machines=(machine(),))
    with pytest.raises(CheckError) as caught:
        here.reboot(here.control_plane[0], timeout=30)
    assert caught.value.message == f"name-1 was restarted, and is not ready after 30 s: {left}"
    assert clock.now > 30


def test_reboot_of_machine_outside_cluster_raises_usage_error() -> None:
    with pytest.raises(UsageError, match="not part of this cluster"):
        cluster().reboot(object())


def test_prove_offline_on_given_machines_raises_usage_error() -> None:
    with pytest.raises(UsageError, match="cannot be proven"):
        cluster(group=None).prove_offline()


def event(number: int, reason: str) -> dict[str, Any]:
    return {
        "metadata": {"creationTimestamp": f"2026-01-01T00:00:{number:02d}Z"},
        "lastTimestamp": f"2026-01-01T00:00:{number:02d}Z",
        "reason": reason,
        "message": "several\n words",
        "involvedObject": {"kind": "Pod", "namespace": "web", "name": "nginx-0"},
    }


def test_trouble_lists_problems_and_last_events_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "problems", lambda _: (readiness.Problem("Pod web/nginx-0", "image cannot be pulled"),))
    events = [event(number, f"Reason{number:02d}") for number in (30, *range(20))]
    text = cluster(kubectl=testkit_cluster.ClusterKubectl(FakeNode(json.dumps({"items": events})))).trouble()
    lines = text.splitlines()
    assert lines[0] == "Pod web/nginx-0: image cannot be pulled"
    assert lines[-1].endswith("Reason30 Pod web/nginx-0: several words")
    assert sum("Reason" in line for line in lines) == 15
    assert "Reason00" not in text


def test_trouble_of_ready_cluster_reports_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "problems", lambda _: ())
    assert cluster(kubectl=testkit_cluster.ClusterKubectl(FakeNode('{"items": []}'))).trouble().startswith("every workload is ready")


@pytest.mark.parametrize("error", [CommandError("connection refused"), CheckError("no")])
def test_trouble_of_unreachable_cluster_is_reported_without_raising(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(_: object) -> None:
        raise error

    monkeypatch.setattr(readiness, "problems", refuse)
    assert cluster().trouble().startswith("the cluster does not answer: ")


def test_existing_cluster_with_other_image_raises_usage_error() -> None:
    found = testkit_cluster._ExistingCluster("shop", "shop:1", "sha256:1111")
    with pytest.raises(UsageError, match="run shop:1") as caught:
        found.check(testkit_cluster.ClusterRequest("web:latest", 1, 1), "sha256:2222", {})
    assert caught.value.hint is not None
    assert "slipway delete shop" in caught.value.hint


def test_existing_cluster_with_same_image_is_accepted() -> None:
    testkit_cluster._ExistingCluster("shop", "web:latest", "sha256:1111").check(
        testkit_cluster.ClusterRequest("web:latest", 1, 1), "sha256:1111", {}
    )


# Values


VALUES = (
    ExpectedValue("Port", ("manifests/web.yaml:7",), required=True, type=ValueType("integer")),
    ExpectedValue("SitePhrase", required=True, secret=True),
    ExpectedValue("Colour", default="red"),
)


def image(values: tuple[ExpectedValue, ...]) -> CloudImage:
    return CloudImage("sha256:1", (PlatformImage(Platform.host(), (), (), (), Info(values=values), ImageSet()),))


def of_values(**given: str) -> testkit_cluster.ClusterRequest:
    return testkit_cluster.ClusterRequest("web:latest", 1, 1, tuple(sorted(given.items())))


def test_check_values_missing_and_invalid_values_are_all_named_at_once() -> None:
    with pytest.raises(InputError) as caught:
        testkit_cluster.check_values(of_values(Ports="80"), image(VALUES))
    missing, secret = caught.value.faults
    assert str(missing) == (
        "Port: has no value, and manifests/web.yaml:7 needs one (integer)\n"
        "  hint: pytest --value Port=VALUE, or @pytest.mark.values(Port=VALUE); Ports is given, which the image does not expect"
    )
    assert secret.where == "SitePhrase"
    with pytest.raises(InputError) as caught:
        testkit_cluster.check_values(of_values(Port="http"), image(VALUES))
    assert [(fault.where, fault.message.partition(",")[0]) for fault in caught.value.faults] == [
        ("Port", "'http' is not a whole number (integer)"),
        ("SitePhrase", "has no value"),
    ]


def test_check_values_accepts_valid_values_and_hides_secrets() -> None:
    testkit_cluster.check_values(of_values(Port="80", SitePhrase="open sesame"), image(VALUES))
    assert "open sesame" not in log.hidden("open sesame")


def test_boot_with_missing_value_raises_before_engine_is_connected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloudimage, "read", lambda *_: image(VALUES))
    monkeypatch.setattr(policy, "admit", lambda *_: None)
    monkeypatch.setattr(docker, "connect", lambda: pytest.fail("the engine was asked"))
    with pytest.raises(InputError, match="SitePhrase"), testkit_cluster.boot(of_values(Port="80")):
        pass


def test_cluster_request_repr_hides_values() -> None:
    assert "sesame" not in repr(of_values(SitePhrase="open sesame"))


def test_reach_pytest_command_repeats_values_except_secrets() -> None:
    lines = cluster(request=of_values(Port="80", DbPassword="open sesame")).reach()
    again = next(line for line in lines if line.startswith("pytest"))
    assert "--value Port=80" in again
    assert "sesame" not in again


def test_existing_cluster_with_other_values_raises_input_error() -> None:
    secret = secrets.fingerprint("open sesame", "env of Cluster.DbPassword")
    found = testkit_cluster._ExistingCluster("shop", "web:latest", "sha256:1", {"Port": "80", "DbPassword": secret})
    found.check(of_values(Port="80", DbPassword="open sesame", Colour="red"), "sha256:1", {"Colour": "red"})
    found.check(of_values(), "sha256:1", {"Colour": "red"})
    with pytest.raises(InputError) as caught:
        found.check(of_values(Port="81", DbPassword="other", Colour="blue"), "sha256:1", {"Colour": "red"})
    assert [fault.where for fault in caught.value.faults] == ["Colour", "DbPassword", "Port"]

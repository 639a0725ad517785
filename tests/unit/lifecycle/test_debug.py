"""Debug containers: which image, which node, with which rights, and what becomes of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CommandError, UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle import debug
from harness.lifecycle.cluster import kubeconfig
from harness.nodes.ssh import SshConnections, SshNode
from harness.process import ProcessResult

NODES = [
    {"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": address}]}}
    for name, address in (("control-plane-1", "10.0.0.1"), ("node-1", "10.0.0.2"))
]
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web-0", "namespace": "shop", "resourceVersion": "7"},
    "spec": {"nodeName": "node-1", "containers": [{"name": "nginx"}, {"name": "proxy"}]},
}
IMAGE = "docker.io/flannel/flannel:v0.28.10"
REFUSED = 'pods "web-0" is forbidden: violates PodSecurity "baseline:latest": non-default capabilities'


class ControlPlaneNode:
    """A control-plane node with a cluster of one pod: it starts containers at once, and remembers what it was asked."""

    name = "control-plane-1"

    def __init__(self) -> None:
        self.said: list[str] = []
        self.pod: dict[str, Any] = json.loads(json.dumps(POD))
        self.created: dict[str, Any] = {}
        self.waiting: dict[str, str] | None = None
        self.refusals = 0
        self.killed = False
        self.attached: list[tuple[str, bool]] = []

    def verbs(self) -> list[str]:
        return [text.partition("kubectl ")[2].split()[0] for text in self.said]

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        self.said.append(command)
        return ProcessResult((), 3 if "exit 3" in command else 0, self._answer(command, input), "")

    def _answer(self, command: str, input: Any) -> str:
        if "get nodes" in command:
            return json.dumps({"items": NODES})
        if "jsonpath" in command:
            return f"registry.k8s.io/kube-proxy:v1.36.3 {IMAGE} registry.k8s.io/kube-proxy:v1.36.3"
        if "create --filename" in command:
            self.created = json.loads(input)
        elif "replace --raw" in command:
            if self.refusals:
                self.refusals -= 1
                raise CommandError("control-plane-1: kubectl: exit code 1", details=REFUSED)
            self.pod["spec"] = json.loads(input)["spec"]
        elif "kill -9" in command:
            self.killed = True
            raise CommandError("control-plane-1: kubectl: exit code 137", details="command terminated with exit code 137")
        elif "get pod absent" in command:
            return ""
        elif "get pod web-0" in command:
            return self._shown(self.pod, "ephemeralContainerStatuses", self.pod["spec"].get("ephemeralContainers") or ())
        elif "get pod slipway-debug-" in command:
            return self._shown(self.created, "containerStatuses", self.created["spec"]["containers"])
        return "echoed\n" if "echo" in command else ""

    def _shown(self, pod: dict[str, Any], key: str, containers: Any) -> str:
        state = {"terminated": {}} if self.killed else {"waiting": self.waiting} if self.waiting else {"running": {}}
        return json.dumps({**pod, "status": {key: [{"name": one["name"], "state": state} for one in containers]}})

    def attach(self, command: str, *, terminal: bool) -> int:
        self.attached.append((command, terminal))
        return 5


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> ControlPlaneNode:
    one = ControlPlaneNode()

    @contextlib.contextmanager
    def opened(*_: Any) -> Iterator[ControlPlaneNode]:
        yield one

    monkeypatch.setattr(debug, "_opened", opened)
    return one


def test_debug_of_a_known_cluster_connects_to_no_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ClusterState.of("lab", tmp_path).remember({"controlPlane": [{"address": "10.0.0.1"}], "workers": [{"address": "10.0.0.2"}]})
    connected: list[str] = []
    monkeypatch.setattr(SshConnections, "prepare", lambda _: None)
    monkeypatch.setattr(SshNode, "connect", lambda node: connected.append(node.address))
    monkeypatch.setattr(SshNode, "disconnect", lambda _: None)
    monkeypatch.setattr(kubeconfig, "answering", lambda cluster: cluster.first)
    with debug._opened("lab", (), None, tmp_path) as machine:
        assert machine.address == "10.0.0.1"
    assert connected == ["10.0.0.1"]


# Images


@pytest.mark.parametrize(
    ("images", "chosen"),
    [
        (["registry.k8s.io/kube-proxy:v1.36.3", IMAGE], IMAGE),
        (["registry.k8s.io/kube-proxy:v1.36.3", "rancher/local-path-provisioner:v0.0.30"], "rancher/local-path-provisioner:v0.0.30"),
        (["registry.k8s.io/pause:3.10", "site.example:5000/k8s/kube-proxy@sha256:00"], "site.example:5000/k8s/kube-proxy@sha256:00"),
    ],
)
def test_the_image_is_the_best_that_the_cluster_runs(images: list[str], chosen: str) -> None:
    assert debug.shell_image(images) == chosen


def test_a_cluster_without_a_known_shell_asks_for_an_image() -> None:
    with pytest.raises(UsageError, match="--image"):
        debug.shell_image(["registry.k8s.io/pause:3.10", "docker.io/mine/not-kube-proxy:1", "docker.io/flannel/flannel-cni-plugin:1"])


def test_the_best_images_are_in_the_base_image() -> None:
    texts = "".join(path.read_text() for path in (Path(__file__).parents[3] / "images").glob("*/Dockerfile"))
    assert [path for path in debug.IMAGES if f"/{path}:${{VERSION}}" not in texts] == []


def test_an_image_without_a_valid_name_is_refused_before_the_cluster_is_asked() -> None:
    with pytest.raises(UsageError, match="--image Web: "), debug.on_node("node-1", image="Web"):
        pass


# Nodes


@pytest.mark.parametrize("word", ["node-1", "10.0.0.2"])
def test_a_node_is_found_by_name_and_by_address(word: str, node: ControlPlaneNode) -> None:
    with debug.on_node(word) as container:
        assert (container.node, container.image) == ("node-1", IMAGE)


def test_a_node_that_does_not_exist_is_named_with_its_like(node: ControlPlaneNode) -> None:
    with pytest.raises(UsageError, match="node-2: no such node") as caught, debug.on_node("node-2"):
        pass
    assert caught.value.hint == "did you mean node-1?"
    assert node.created == {}


def test_a_pod_on_a_node_has_all_of_the_node_and_no_scheduler_decides(node: ControlPlaneNode) -> None:
    with debug.on_node("node-1", image="tools:1"):
        pass
    spec = node.created["spec"]
    assert node.created["metadata"]["namespace"] == "kube-system"
    assert (spec["nodeName"], spec["hostPID"], spec["hostNetwork"], spec["tolerations"]) == ("node-1", True, True, [{"operator": "Exists"}])
    assert spec["activeDeadlineSeconds"] == debug.LONGEST
    (container,) = spec["containers"]
    assert (container["image"], container["securityContext"]) == ("tools:1", {"privileged": True})
    assert container["volumeMounts"] == [{"name": "host", "mountPath": "/host"}]
    assert spec["volumes"] == [{"name": "host", "hostPath": {"path": "/"}}]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_pod_is_removed_however_it_ends(error: type[BaseException], node: ControlPlaneNode) -> None:
    with pytest.raises(error), debug.on_node("node-1"):
        raise error
    pod = node.created["metadata"]["name"]
    assert f"delete pod {pod} --namespace=kube-system --ignore-not-found" in node.said[-1]


def test_an_interruption_while_the_pod_is_made_removes_it(node: ControlPlaneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(debug, "_await_start", interrupted)
    with pytest.raises(KeyboardInterrupt), debug.on_node("node-1"):
        pass
    assert "delete pod slipway-debug-" in node.said[-1]


def test_a_pod_that_cannot_be_removed_is_reported_and_hides_no_other_error(
    node: ControlPlaneNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def deleting(command: str, **given: Any) -> ProcessResult:
        if "delete pod slipway-debug-" in command:
            raise CommandError("the API is away")
        return ControlPlaneNode.run(node, command, **given)

    monkeypatch.setattr(node, "run", deleting)
    with pytest.raises(ValueError, match="mine"), debug.on_node("node-1"):
        raise ValueError("mine")
    said = " ".join(capsys.readouterr().err.split())
    assert "is left on node-1: the API is away; kubectl delete pod slipway-debug-" in said


def test_an_image_that_the_node_cannot_pull_is_an_error_at_once_and_the_pod_goes(node: ControlPlaneNode) -> None:
    node.waiting = {"reason": "ErrImagePull", "message": "not found"}
    said = "tools:1 does not start on node-1: ErrImagePull: not found"
    with pytest.raises(CommandError, match=said), debug.on_node("node-1", image="tools:1"):
        pass
    assert "delete pod slipway-debug-" in node.said[-1]


def test_a_container_that_does_not_start_in_time_is_an_error(node: ControlPlaneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.waiting = {"reason": "ContainerCreating"}
    now = iter(range(0, 10_000, 40))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(CommandError, match="no debug container has started on node-1 within 60 s"), debug.on_node("node-1"):
        pass


def test_a_node_that_rejects_the_pod_is_an_error(node: ControlPlaneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(*_: Any) -> str:
        return json.dumps({**node.created, "status": {"phase": "Failed", "reason": "OutOfpods", "message": "too many"}})

    monkeypatch.setattr(node, "_shown", shown)
    with pytest.raises(CommandError, match="OutOfpods: too many"), debug.on_node("node-1"):
        pass


# Commands


def test_a_command_is_shell_text_and_its_exit_code_is_passed_on(node: ControlPlaneNode) -> None:
    with debug.on_node("node-1") as container:
        assert debug.attach(container, "ls -l /host | wc -l", terminal=False) == 5
        debug.attach(container, None, terminal=True)
    (first, second) = node.attached
    assert first[0].endswith(f"exec --namespace=kube-system {container.pod} --container=debug --stdin -- sh -c 'ls -l /host | wc -l'")
    assert (second[0].endswith("--stdin --tty -- sh"), second[1]) == (True, True)


def test_output_is_kept_for_programs(node: ControlPlaneNode) -> None:
    with debug.on_node("node-1") as container:
        ran = debug.capture(container, "echo one; exit 3")
    assert (ran.command, ran.exit_code, ran.stdout, ran.node) == ("echo one; exit 3", 3, "echoed\n", "node-1")
    assert "--stdin" not in next(text for text in node.said if "exit 3" in text)


# Pods


def test_a_container_beside_a_pod_sees_the_processes_of_the_main_one(node: ControlPlaneNode) -> None:
    node.pod["spec"]["ephemeralContainers"] = [{"name": "before"}]
    with debug.beside_pod("web-0", "shop", None) as container:
        before, added = node.pod["spec"]["ephemeralContainers"]
        assert (before["name"], added["name"], added["targetContainerName"]) == ("before", container.name, "nginx")
        assert added["securityContext"] == {"capabilities": {"add": ["SYS_PTRACE"]}}
    (call,) = (text for text in node.said if "replace --raw" in text)
    assert "/api/v1/namespaces/shop/pods/web-0/ephemeralcontainers" in call


def test_the_container_is_stopped_and_what_stays_is_said(node: ControlPlaneNode, capsys: pytest.CaptureFixture[str]) -> None:
    with debug.beside_pod("web-0", "shop", "proxy") as container:
        assert container.target == "proxy"
    assert any(f"--container={container.name} -- sh -c 'read -r pid < /dev/shm/{container.name}" in text for text in node.said)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{container.name} is stopped; Kubernetes lists it in shop/web-0 until that pod is deleted" in said


def test_rights_that_pod_security_refuses_are_left_out(node: ControlPlaneNode) -> None:
    for refusals, context in ((1, {}), (2, {"runAsNonRoot": True, "runAsUser": 65534})):
        node.refusals, node.pod, node.killed = refusals, json.loads(json.dumps(POD)), False
        with debug.beside_pod("web-0", "shop", None):
            (added,) = node.pod["spec"]["ephemeralContainers"]
            assert {key: added["securityContext"].get(key) for key in context} == context


def test_a_pod_that_takes_no_container_at_all_says_why(node: ControlPlaneNode) -> None:
    node.refusals = 3
    with pytest.raises(CommandError) as caught, debug.beside_pod("web-0", "shop", None):
        pass
    assert caught.value.details == REFUSED
    assert not any("kill -9" in text for text in node.said)


def test_beside_a_pod_that_runs_no_root_none_is_started() -> None:
    pod: dict[str, Any] = {"spec": {"securityContext": {"runAsNonRoot": True, "runAsUser": 1000}}}
    assert [context["runAsUser"] for context in debug.security_contexts(pod, {})] == [1000]
    assert [context["runAsUser"] for context in debug.security_contexts(pod, {"securityContext": {"runAsUser": 7}})] == [7]


@pytest.mark.parametrize(
    ("pod", "target", "said"),
    [
        ("absent", None, "shop/absent: no such pod"),
        ("-x", None, "is not a name in Kubernetes"),
        ("web-0", "--all", "is not a name in Kubernetes"),
        ("web-0", "redis", "web-0 has no container redis"),
    ],
)
def test_what_does_not_exist_is_reported_and_nothing_is_changed(pod: str, target: str | None, said: str, node: ControlPlaneNode) -> None:
    with pytest.raises(UsageError, match=said), debug.beside_pod(pod, "shop", target):
        pass
    assert set(node.verbs()) <= {"get"}


def test_a_pod_without_a_node_is_refused(node: ControlPlaneNode) -> None:
    del node.pod["spec"]["nodeName"]
    with pytest.raises(UsageError, match="runs on no node yet"), debug.beside_pod("web-0", "shop", None):
        pass


def test_the_annotation_names_the_main_container() -> None:
    pod = json.loads(json.dumps(POD))
    pod["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "proxy"}
    assert debug.find_target(pod, None)["name"] == "proxy"

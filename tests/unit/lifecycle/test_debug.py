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


def test_debug_known_cluster_connects_to_control_plane_node_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_shell_image_selects_preferred_image_of_cluster(images: list[str], chosen: str) -> None:
    assert debug.shell_image(images) == chosen


def test_shell_image_without_known_image_raises_usage_error() -> None:
    with pytest.raises(UsageError, match="--image"):
        debug.shell_image(["registry.k8s.io/pause:3.10", "docker.io/mine/not-kube-proxy:1", "docker.io/flannel/flannel-cni-plugin:1"])


def test_debug_images_are_all_in_base_image_dockerfiles() -> None:
    texts = "".join(path.read_text() for path in (Path(__file__).parents[3] / "images").glob("*/Dockerfile"))
    assert [path for path in debug.IMAGES if f"/{path}:${{VERSION}}" not in texts] == []


def test_on_node_invalid_image_name_is_refused_before_cluster_is_contacted() -> None:
    with pytest.raises(UsageError, match="--image Web: "), debug.on_node("node-1", image="Web"):
        pass


# Nodes


@pytest.mark.parametrize("word", ["node-1", "10.0.0.2"])
def test_on_node_finds_node_by_name_and_address(word: str, node: ControlPlaneNode) -> None:
    with debug.on_node(word) as container:
        assert (container.node, container.image) == ("node-1", IMAGE)


def test_on_node_unknown_node_is_refused_with_similar_name_as_hint(node: ControlPlaneNode) -> None:
    with pytest.raises(UsageError, match="node-2: no such node") as caught, debug.on_node("node-2"):
        pass
    assert caught.value.hint == "did you mean node-1?"
    assert node.created == {}


def test_on_node_pod_is_privileged_in_host_namespaces_and_bound_to_node(node: ControlPlaneNode) -> None:
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
def test_on_node_pod_is_deleted_after_interrupt_or_error(error: type[BaseException], node: ControlPlaneNode) -> None:
    with pytest.raises(error), debug.on_node("node-1"):
        raise error
    pod = node.created["metadata"]["name"]
    assert f"delete pod {pod} --namespace=kube-system --ignore-not-found" in node.said[-1]


def test_on_node_interrupt_during_start_deletes_pod(node: ControlPlaneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(debug, "_await_start", interrupted)
    with pytest.raises(KeyboardInterrupt), debug.on_node("node-1"):
        pass
    assert "delete pod slipway-debug-" in node.said[-1]


def test_on_node_failed_pod_deletion_is_reported_and_original_error_is_raised(
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


def test_on_node_image_pull_failure_raises_command_error_and_deletes_pod(node: ControlPlaneNode) -> None:
    node.waiting = {"reason": "ErrImagePull", "message": "not found"}
    said = "tools:1 does not start on node-1: ErrImagePull: not found"
    with pytest.raises(CommandError, match=said), debug.on_node("node-1", image="tools:1"):
        pass
    assert "delete pod slipway-debug-" in node.said[-1]


def test_on_node_container_not_started_in_time_raises_command_error(node: ControlPlaneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    node.waiting = {"reason": "ContainerCreating"}
    now = iter(range(0, 10_000, 40))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(CommandError, match="no debug container has started on node-1 within 60 s"), debug.on_node("node-1"):
        pass


def test_on_node_pod_rejected_by_node_raises_command_error(node: ControlPlaneNode, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(*_: Any) -> str:
        return json.dumps({**node.created, "status": {"phase": "Failed", "reason": "OutOfpods", "message": "too many"}})

    monkeypatch.setattr(node, "_shown", shown)
    with pytest.raises(CommandError, match="OutOfpods: too many"), debug.on_node("node-1"):
        pass


# Commands


def test_attach_command_runs_in_shell_and_returns_exit_code(node: ControlPlaneNode) -> None:
    with debug.on_node("node-1") as container:
        assert debug.attach(container, "ls -l /host | wc -l", terminal=False) == 5
        debug.attach(container, None, terminal=True)
    (first, second) = node.attached
    assert first[0].endswith(f"exec --namespace=kube-system {container.pod} --container=debug --stdin -- sh -c 'ls -l /host | wc -l'")
    assert (second[0].endswith("--stdin --tty -- sh"), second[1]) == (True, True)


def test_capture_returns_output_and_exit_code_without_stdin(node: ControlPlaneNode) -> None:
    with debug.on_node("node-1") as container:
        ran = debug.capture(container, "echo one; exit 3")
    assert (ran.command, ran.exit_code, ran.stdout, ran.node) == ("echo one; exit 3", 3, "echoed\n", "node-1")
    assert "--stdin" not in next(text for text in node.said if "exit 3" in text)


# Pods


def test_beside_pod_adds_ephemeral_container_that_targets_main_container(node: ControlPlaneNode) -> None:
    node.pod["spec"]["ephemeralContainers"] = [{"name": "before"}]
    with debug.beside_pod("web-0", "shop", None) as container:
        before, added = node.pod["spec"]["ephemeralContainers"]
        assert (before["name"], added["name"], added["targetContainerName"]) == ("before", container.name, "nginx")
        assert added["securityContext"] == {"capabilities": {"add": ["SYS_PTRACE"]}}
    (call,) = (text for text in node.said if "replace --raw" in text)
    assert "/api/v1/namespaces/shop/pods/web-0/ephemeralcontainers" in call


def test_beside_pod_container_is_stopped_and_remaining_entry_is_reported(
    node: ControlPlaneNode, capsys: pytest.CaptureFixture[str]
) -> None:
    with debug.beside_pod("web-0", "shop", "proxy") as container:
        assert container.target == "proxy"
    assert any(f"--container={container.name} -- sh -c 'read -r pid < /dev/shm/{container.name}" in text for text in node.said)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{container.name} is stopped; Kubernetes lists it in shop/web-0 until that pod is deleted" in said


@pytest.mark.parametrize(
    ("refusals", "context"),
    [
        (0, {"capabilities": {"add": ["SYS_PTRACE"]}}),
        (1, {}),
        (
            2,
            {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
        ),
    ],
)
def test_beside_pod_rights_refused_by_pod_security_are_dropped(node: ControlPlaneNode, refusals: int, context: dict[str, Any]) -> None:
    node.refusals = refusals
    with debug.beside_pod("web-0", "shop", None):
        (added,) = node.pod["spec"]["ephemeralContainers"]
    assert added["securityContext"] == context
    assert node.verbs().count("replace") == refusals + 1


def test_beside_pod_refused_with_all_rights_raises_command_error_with_reason(node: ControlPlaneNode) -> None:
    node.refusals = 3
    with pytest.raises(CommandError) as caught, debug.beside_pod("web-0", "shop", None):
        pass
    assert caught.value.details == REFUSED
    assert not any("kill -9" in text for text in node.said)


def test_security_contexts_of_non_root_pod_run_as_non_root_user_only() -> None:
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
def test_beside_pod_unknown_pod_or_container_is_refused_and_changes_nothing(
    pod: str, target: str | None, said: str, node: ControlPlaneNode
) -> None:
    with pytest.raises(UsageError, match=said), debug.beside_pod(pod, "shop", target):
        pass
    assert set(node.verbs()) <= {"get"}


def test_beside_pod_unscheduled_pod_is_refused(node: ControlPlaneNode) -> None:
    del node.pod["spec"]["nodeName"]
    with pytest.raises(UsageError, match="runs on no node yet"), debug.beside_pod("web-0", "shop", None):
        pass


def test_find_target_default_container_annotation_selects_container() -> None:
    pod = json.loads(json.dumps(POD))
    pod["metadata"]["annotations"] = {"kubectl.kubernetes.io/default-container": "proxy"}
    assert debug.find_target(pod, None)["name"] == "proxy"

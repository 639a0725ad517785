"""``slipway debug``: a shell or a command in a pod on a node, or in an ephemeral container beside the containers of a pod.

Without ``--image`` it is an image with a shell that the cluster runs anyway: nothing is pulled from elsewhere. Everything goes through
kubectl on a control-plane node: the node that is debugged need not be reached over SSH.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import json
import re
import secrets
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import log
from harness.errors import CommandError, SlipwayError, UsageError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, kubeconfig
from harness.lifecycle.kube import objects
from harness.lifecycle.kube.readiness import Resource
from harness.nodes import LONG_TIMEOUT, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from harness.oci.reference import Reference

NAMESPACE = "kube-system"
"""Of pods on nodes. Pod Security admits privileged pods there, also in a hardened cluster."""
LABEL = "slipway.dev/debug"
HOST = "/host"
"""Mount point of the root of the node in a debug pod."""
LONGEST = 24 * 3600
"""Seconds after which the kubelet ends a pod on a node: for one whose command was killed and could not remove it."""
_START = 60
"""Seconds that a container may take to start."""

IMAGES = ("flannel/flannel", "rancher/local-path-provisioner", "kube-proxy")
"""Images of the base CloudImage with a shell, the best first. The first two hold busybox, whether upstream's or built here, and its shell
has all of busybox's tools. kube-proxy is in every cluster; upstream's holds a shell, nft and iptables, and little else.
"""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_FAILED = {
    *("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"),
    *("CreateContainerConfigError", "CreateContainerError", "RunContainerError"),
}
"""Reasons why a container waits that do not pass soon."""
_NOBODY = 65534
# The shell's own `read` waits on an input that is never written: an image need not have `sleep`.
_WAIT = "read -r _"


@dataclasses.dataclass(frozen=True)
class DebugContainer:
    """A container that runs and waits for commands."""

    machine: SshNode
    """A control-plane node whose API answers."""
    node: str
    namespace: str
    pod: str
    name: str
    image: str
    target: str | None = None
    """The container of the pod whose processes it sees; None on a node."""

    @property
    def kubectl(self) -> NodeKubectl:
        return NodeKubectl(self.machine)

    @property
    def words(self) -> tuple[str, ...]:
        """Arguments of ``kubectl exec`` for it."""
        return ("exec", f"--namespace={self.namespace}", self.pod, f"--container={self.name}")


@dataclasses.dataclass(frozen=True)
class DebugOutput:
    """A command's output and exit code, and the container that it ran in."""

    node: str
    namespace: str
    pod: str
    container: str
    image: str
    command: str
    exit_code: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def on_node(
    name: str,
    cluster: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    *,
    image: str | None = None,
    home: Path | None = None,
) -> Iterator[DebugContainer]:
    """A privileged pod on a node, found by name or address, with the node's namespaces and files. The pod is removed at the end.

    Raises UsageError for a node that does not exist, CommandError when the pod does not start.
    """
    with _opened(cluster, control_plane, image, home) as machine:
        kubectl = NodeKubectl(machine)
        node = find_node(objects.objects(kubectl.run("get", "nodes", "--output=json"), where=kubectl.where), name)
        pod = f"slipway-debug-{secrets.token_hex(4)}"
        container = DebugContainer(machine, node, NAMESPACE, pod, "debug", image or _cluster_image(kubectl))
        try:
            with log.step(f"start a debug pod on {node}") as step:
                step.note = container.image
                ended = (f"--selector={LABEL}", "--field-selector=status.phase=Failed", "--wait=false")
                kubectl.run("delete", "pods", f"--namespace={NAMESPACE}", *ended)
                kubectl.run("create", "--filename=-", input=json.dumps(manifest(container)))
                _await_start(container)
            yield container
        finally:
            _remove(container)


@contextlib.contextmanager
def beside_pod(
    pod: str,
    namespace: str,
    target: str | None,
    cluster: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    *,
    image: str | None = None,
    home: Path | None = None,
) -> Iterator[DebugContainer]:
    """An ephemeral container in a pod, which sees the processes of the container ``target``, by default the pod's main one.

    It is stopped at the end; Kubernetes keeps its entry until the pod is deleted. Raises UsageError for a pod or a container that does not
    exist, CommandError when the container does not start or is refused.
    """
    for word in (pod, namespace, *([target] if target else [])):
        if not _NAME.fullmatch(word):
            raise UsageError(f"{word!r} is not a name in Kubernetes")
    with _opened(cluster, control_plane, image, home) as machine:
        kubectl = NodeKubectl(machine)
        text = kubectl.run("get", "pod", pod, f"--namespace={namespace}", "--ignore-not-found", "--output=json")
        if not text.strip():
            raise UsageError(f"{namespace}/{pod}: no such pod", hint=f"kubectl get pods --namespace {namespace}")
        resource = objects.an_object(text, where=kubectl.where)
        aim = find_target(resource, target)
        if not resource["spec"].get("nodeName"):
            raise UsageError(f"{namespace}/{pod} runs on no node yet", hint=f"kubectl describe pod {pod} --namespace {namespace}")
        name = f"slipway-debug-{secrets.token_hex(4)}"
        container = DebugContainer(
            machine, resource["spec"]["nodeName"], namespace, pod, name, image or _cluster_image(kubectl), aim["name"]
        )
        try:
            with log.step(f"start a debug container beside {aim['name']} of {namespace}/{pod}") as step:
                step.note = container.image
                _add(container, resource, aim)
                _await_start(container)
            yield container
        finally:
            _stop(container)


def attach(container: DebugContainer, command: str | None, *, terminal: bool) -> int:
    """Run shell text, or a shell, on the standard input and output of this process; return the exit code."""
    return container.machine.attach(exec_line(container, command, "--stdin", *(["--tty"] if terminal else [])), terminal=terminal)


def capture(container: DebugContainer, command: str) -> DebugOutput:
    """Run shell text without input and keep its output."""
    ran = container.machine.run(exec_line(container, command), check=False, timeout=LONG_TIMEOUT)
    where = (container.node, container.namespace, container.pod, container.name, container.image)
    return DebugOutput(*where, command, ran.returncode, ran.stdout, ran.stderr)


def exec_line(container: DebugContainer, command: str | None, *options: str) -> str:
    """Shell text for the control-plane node. The image's shell runs the command: that of busybox has tools that are not on its PATH."""
    return f"{container.kubectl.words} {shlex.join([*container.words, *options, '--', 'sh', *(['-c', command] if command else [])])}"


@contextlib.contextmanager
def _opened(cluster: str, control_plane: Sequence[Machine], image: str | None, home: Path | None) -> Iterator[SshNode]:
    """A control-plane node whose API answers. Raises UsageError for an image that has no valid name."""
    if image is not None:
        try:
            Reference.parse(image)
        except ValueError as wrong:
            raise UsageError(f"--image {image}: {wrong}") from wrong
    with access.opened(access.known(cluster, control_plane, home=home), workers=False) as opened:
        yield kubeconfig.answering(opened)


def find_node(nodes: Sequence[Resource], word: str) -> str:
    """The name of the node that has this name or address. Raises UsageError when none has."""
    names = [str(node["metadata"]["name"]) for node in nodes]
    for name, node in zip(names, nodes, strict=True):
        if word == name or word in objects.internal_addresses(node):
            return name
    near = difflib.get_close_matches(word, names, n=1)
    raise UsageError(f"{word}: no such node", hint=f"did you mean {near[0]}?" if near else f"the cluster has {', '.join(names[:8])}")


def find_target(pod: Resource, word: str | None) -> Mapping[str, Any]:
    """The container of a pod that has this name; without one its main container. Raises UsageError when none has."""
    containers: Sequence[Mapping[str, Any]] = pod["spec"]["containers"]
    annotations = pod["metadata"].get("annotations") or {}
    wanted = word or annotations.get("kubectl.kubernetes.io/default-container") or containers[0]["name"]
    container = next((one for one in containers if one["name"] == wanted), None)
    if container is None:
        listed = ", ".join(one["name"] for one in containers)
        raise UsageError(f"{pod['metadata']['name']} has no container {wanted}", hint=f"it has {listed}")
    return container


def _cluster_image(kubectl: NodeKubectl) -> str:
    images = "{.items[*].spec.containers[*].image}"
    return shell_image(kubectl.run("get", "pods", "--all-namespaces", f"--output=jsonpath={images}").split())


def shell_image(images: Iterable[str]) -> str:
    """Of images that a cluster runs, the best one with a shell (``IMAGES``). Raises UsageError when none is known to have one."""
    running = sorted(set(images))
    for path in IMAGES:
        for image in running:
            if re.fullmatch(rf"(.*/)?{path}([:@].*)?", image):
                return image
    raise UsageError(
        "no image of this cluster is known to hold a shell", hint="name one that its registry holds, with a shell in it: --image IMAGE"
    )


def manifest(container: DebugContainer) -> dict[str, Any]:
    """The pod on a node. It is bound to the node without the scheduler, so also to one that is cordoned or tainted."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": container.pod, "namespace": container.namespace, "labels": {LABEL: "node"}},
        "spec": {
            "nodeName": container.node,
            "hostPID": True,
            "hostNetwork": True,
            "hostIPC": True,
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LONGEST,
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [
                {
                    "name": container.name,
                    "image": container.image,
                    "command": ["sh", "-c", _WAIT],
                    "stdin": True,
                    "securityContext": {"privileged": True},
                    "volumeMounts": [{"name": "host", "mountPath": HOST}],
                }
            ],
            "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
        },
    }


def security_contexts(pod: Resource, target: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rights of an ephemeral container, the most first: to look into processes of other users, the usual ones, and those that every level
    of Pod Security admits.
    """
    of_pod, of_target = ((owner.get("securityContext") or {}) for owner in (pod["spec"], target))
    user = of_target.get("runAsUser", of_pod.get("runAsUser")) or _NOBODY
    least = {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    # Where the pod runs no root, the kubelet starts none beside it.
    return [least] if of_pod.get("runAsNonRoot") else [{"capabilities": {"add": ["SYS_PTRACE"]}}, {}, least]


def _add(container: DebugContainer, pod: Resource, target: Mapping[str, Any]) -> None:
    """Add the ephemeral container with the most rights that Pod Security admits."""
    place = f"/api/v1/namespaces/{container.namespace}/pods/{container.pod}/ephemeralcontainers"
    contexts = security_contexts(pod, target)
    for context in contexts:
        added = {
            "name": container.name,
            "image": container.image,
            # The other containers' processes may be numbered along: the one to end is noted. Kubernetes makes $ of $$ in a command.
            "command": ["sh", "-c", f"echo $$$$ > {_noted(container)}; {_WAIT}"],
            "stdin": True,
            "targetContainerName": container.target,
            "securityContext": context,
        }
        spec = {**pod["spec"], "ephemeralContainers": [*(pod["spec"].get("ephemeralContainers") or ()), added]}
        # Without the version that was read, a change of the pod's state meanwhile is no conflict.
        metadata = {key: value for key, value in pod["metadata"].items() if key != "resourceVersion"}
        try:
            container.kubectl.run("replace", "--raw", place, "--filename=-", input=json.dumps({**pod, "metadata": metadata, "spec": spec}))
            return
        except CommandError as error:
            if "PodSecurity" not in (error.details or "") or context is contexts[-1]:
                raise
            log.debug(f"Pod Security refuses {json.dumps(context)}")


def _noted(container: DebugContainer) -> str:
    """The file with the number of the process that waits: every user may write there, in every container."""
    return f"/dev/shm/{container.name}"


def _state(container: DebugContainer) -> Mapping[str, Any]:
    """``{"waiting": ...}``, ``{"running": ...}``, ``{"terminated": {"reason", "message"}}``, or empty."""
    text = container.kubectl.run("get", "pod", container.pod, f"--namespace={container.namespace}", "--output=json")
    status = objects.an_object(text, where=container.kubectl.where).get("status") or {}
    if status.get("phase") == "Failed":
        return {"terminated": status}
    statuses = (*(status.get("containerStatuses") or ()), *(status.get("ephemeralContainerStatuses") or ()))
    return next((one.get("state") or {} for one in statuses if one["name"] == container.name), {})


def _await_start(container: DebugContainer) -> None:
    """Raises CommandError when the container ends, cannot start, or does not start in time."""
    deadline = time.monotonic() + _START
    while "running" not in (state := _state(container)):
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        if ended or waiting.get("reason") in _FAILED:
            why = ": ".join(str(part) for key in ("reason", "message") if (part := (ended or waiting).get(key)))
            raise CommandError(
                f"{container.image} does not start on {container.node}: {why}",
                hint="--image takes an image with a shell; in a closed network the registry of the cluster must hold it",
            )
        if time.monotonic() > deadline:
            raise CommandError(
                f"no debug container has started on {container.node} within {_START} s",
                hint=f"its kubelet may be down; this needs SSH only: slipway exec --on {container.node} -- systemctl status kubelet",
            )
        time.sleep(0.5)


def _remove(container: DebugContainer) -> None:
    """Delete the pod. A failure is reported, so that it hides no other error."""
    words = ("delete", "pod", container.pod, f"--namespace={container.namespace}")
    try:
        container.kubectl.run(*words, "--ignore-not-found", "--timeout=30s")
    except SlipwayError as error:
        log.warning(
            f"the pod {container.pod} is left on {container.node}: {error.message}; kubectl {shlex.join(words)} removes it, and it ends by "
            f"itself after {LONGEST // 3600} hours"
        )


def _stop(container: DebugContainer) -> None:
    """End the ephemeral container's process. A failure is reported, so that it hides no other error."""
    noted = _noted(container)
    try:
        state = _state(container)
        if not state:
            return  # it was refused, and is not in the pod
        # The command may be ended together with the process that it ends.
        with contextlib.suppress(CommandError):
            if "running" in state:
                container.kubectl.run(*container.words, "--", "sh", "-c", f"read -r pid < {noted}; rm -f {noted}; kill -9 $pid")
        deadline = time.monotonic() + _START
        while "running" in _state(container):
            if time.monotonic() > deadline:
                raise CommandError(f"it has not ended within {_START} s")
            time.sleep(0.5)
    except SlipwayError as error:
        log.warning(f"the container {container.name} may still run in {container.namespace}/{container.pod}: {error.message}")
        return
    log.info(
        f"the container {container.name} is stopped; Kubernetes lists it in {container.namespace}/{container.pod} until that pod is deleted"
    )

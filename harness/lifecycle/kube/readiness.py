"""Readiness of the objects of a running cluster, with the reasons for what is not ready.

Pure functions over the output of ``kubectl get -o json``; only a ``KubectlRunner`` runs anything. ``slipway check``, the waits of
``slipway run``, the throw-away cluster of a build and the test kit use them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from harness.errors import CommandError, SlipwayError
from harness.lifecycle.kube import objects

Resource = Mapping[str, Any]

KINDS = (
    "nodes,namespaces,persistentvolumeclaims,storageclasses.storage.k8s.io,pods,replicationcontrollers,replicasets.apps,"
    "deployments.apps,statefulsets.apps,daemonsets.apps,jobs.batch"
)
"""Kinds for ``kubectl get``: all that have a readiness, and those that it depends on."""

_IMAGE_REASONS = frozenset({"ImagePullBackOff", "ErrImagePull", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_PRESSURES = ("MemoryPressure", "DiskPressure", "PIDPressure")
_CONTAINER_REASONS = frozenset({"CrashLoopBackOff", "CreateContainerConfigError", "CreateContainerError", "RunContainerError"})
STUCK = _IMAGE_REASONS | _CONTAINER_REASONS | {"Unschedulable", *_PRESSURES}
"""Causes that seldom go away by waiting."""
_LOG_LINES = 20
_EVENTS = 5


class KubectlRunner(Protocol):
    """kubectl on a node over SSH, in a container, or on this machine."""

    def run(self, *argv: str) -> str:
        """Run ``kubectl ARGV`` and return its standard output. Raises CommandError when it fails, NodeError when it cannot be run."""
        ...


@dataclasses.dataclass(frozen=True)
class Problem:
    """One object that is not ready: ``object`` is ``Pod web/nginx-0``, ``reason`` one line.

    ``cause`` is Kubernetes' own word for it (``ImagePullBackOff``), or slipway's. A ``final`` problem does not go away by waiting.
    """

    object: str
    reason: str
    cause: str = ""
    final: bool = False
    events: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    container: str | None = None
    """The container with a log about it, when one has been started."""

    def __str__(self) -> str:
        lines = [f"{self.object}: {self.reason}"]
        lines += [f"  event: {event}" for event in self.events]
        lines += [f"  log: {line}" for line in self.log]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        return {
            "object": self.object,
            "cause": self.cause,
            "reason": self.reason,
            "final": self.final,
            "events": list(self.events),
            "log": list(self.log),
        }


# ---- reading ----------------------------------------------------------------------------------------------------------


def get(kubectl: KubectlRunner, kinds: str = KINDS) -> tuple[Resource, ...]:
    """All objects of ``kinds`` in every namespace, as kubectl prints them. Raises CommandError for any other answer."""
    answer = kubectl.run("get", kinds, "--all-namespaces", "--output=json")
    return tuple(objects.objects(answer, where=getattr(kubectl, "where", "the cluster"), error=CommandError))


def of_kind(items: Iterable[Resource], *kinds: str) -> tuple[Resource, ...]:
    return tuple(item for item in items if item.get("kind") in kinds)


def title(item: Resource) -> str:
    """``Deployment web/nginx``; ``Node worker-1`` for what has no namespace."""
    meta = item["metadata"]
    place = f"{meta['namespace']}/" if meta.get("namespace") else ""
    return f"{item['kind']} {place}{meta['name']}"


def controller(item: Resource) -> Resource | None:
    """The owner that manages the object, or None for one that stands alone."""
    return next((owner for owner in item["metadata"].get("ownerReferences") or () if owner.get("controller")), None)


def by_uid(items: Iterable[Resource]) -> dict[str, Resource]:
    return {item["metadata"]["uid"]: item for item in items}


def maker(item: Resource, known: Mapping[str, Resource]) -> str:
    """The title of the object that a user created and this one comes from: Deployment of a pod, CronJob of a job. ``known``: ``by_uid``."""
    passed = set()
    while (owner := controller(item)) is not None and owner.get("uid") in known:
        if owner["uid"] in passed:
            # Objects that own each other were not created by a user.
            return title(item)
        passed.add(owner["uid"])
        item = known[owner["uid"]]
    if owner is None:
        return title(item)
    # An owner is in the namespace of what it owns.
    return title({"kind": owner["kind"], "metadata": {"name": owner["name"], "namespace": item["metadata"].get("namespace")}})


def ailing(items: Iterable[Resource]) -> frozenset[str]:
    """The titles of workloads that are not ready, for ``wait.settle``: of the objects that users created, which outlive their pods.

    Nodes and objects in kube-system are left out: they are the cluster itself.
    """
    workloads = [item for item in items if item.get("kind") != "Node" and item["metadata"].get("namespace") != "kube-system"]
    unready, uids = {problem.object for problem in not_ready(workloads)}, by_uid(workloads)
    return frozenset(maker(item, uids) for item in workloads if title(item) in unready)


def _condition(item: Resource, kind: str) -> Resource:
    conditions = item.get("status", {}).get("conditions") or ()
    return next((condition for condition in conditions if condition["type"] == kind), {})


def _message(condition: Resource, otherwise: str) -> str:
    """The message of a condition in one line."""
    text = condition.get("message") or condition.get("reason") or otherwise
    return " ".join(str(text).split())


# ---- readiness by kind ------------------------------------------------------------------------------------------------


def node_problem(node: Resource) -> Problem | None:
    """A node is fine when it is Ready and under no pressure; being cordoned is not a problem."""
    ready = _condition(node, "Ready")
    if ready.get("status") != "True":
        return Problem(title(node), f"not ready: {_message(ready, 'its kubelet has not reported yet')}", "NodeNotReady")
    for pressure in (*_PRESSURES, "NetworkUnavailable"):
        condition = _condition(node, pressure)
        if condition.get("status") == "True":
            return Problem(title(node), f"{pressure}: {_message(condition, 'reported by its kubelet')}", pressure)
    return None


def _observed(item: Resource) -> bool:
    """Return whether the controller has observed the newest version of the object; before that its counts mean nothing."""
    return int(item.get("status", {}).get("observedGeneration") or 0) >= int(item["metadata"].get("generation") or 0)


def _counted(item: Resource, ready: int, expected: int, what: str = "ready") -> Problem | None:
    if ready >= expected:
        return None
    return Problem(title(item), f"{ready} of {expected} {what}", "NotEnoughReady")


def deployment_problem(item: Resource) -> Problem | None:
    if item["spec"].get("paused"):
        return None
    if not _observed(item):
        return Problem(title(item), "not observed by its controller yet", "NotSeen")
    expected, status = int(item["spec"].get("replicas", 1)), item.get("status", {})
    problem = _counted(item, int(status.get("updatedReplicas") or 0), expected, "of the newest version") or _counted(
        item, int(status.get("availableReplicas") or 0), expected, "available"
    )
    failure = _condition(item, "ReplicaFailure")
    if problem and failure.get("status") == "True":
        return dataclasses.replace(problem, reason=f"{problem.reason}: {_message(failure, '')}", cause=str(failure.get("reason", "")))
    return problem


def statefulset_problem(item: Resource) -> Problem | None:
    if not _observed(item):
        return Problem(title(item), "not observed by its controller yet", "NotSeen")
    expected, status = int(item["spec"].get("replicas", 1)), item.get("status", {})
    strategy = item["spec"].get("updateStrategy") or {}
    problem = _counted(item, int(status.get("readyReplicas") or 0), expected)
    if problem or strategy.get("type") == "OnDelete":
        return problem
    # Pods below the partition keep the old version on purpose.
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    if partition == 0 and status.get("updateRevision") == status.get("currentRevision"):
        return None
    return _counted(item, int(status.get("updatedReplicas") or 0), max(0, expected - partition), "of the newest version")


def daemonset_problem(item: Resource) -> Problem | None:
    if not _observed(item):
        return Problem(title(item), "not observed by its controller yet", "NotSeen")
    status = item.get("status", {})
    expected = int(status.get("desiredNumberScheduled") or 0)
    if (item["spec"].get("updateStrategy") or {}).get("type") != "OnDelete":
        behind = _counted(item, int(status.get("updatedNumberScheduled") or 0), expected, "of the newest version")
        if behind:
            return behind
    return _counted(item, int(status.get("numberReady") or 0), expected)


def replicas_problem(item: Resource) -> Problem | None:
    """A ReplicaSet or ReplicationController that nothing manages."""
    if not _observed(item):
        return Problem(title(item), "not observed by its controller yet", "NotSeen")
    return _counted(item, int(item.get("status", {}).get("readyReplicas") or 0), int(item["spec"].get("replicas", 1)))


def job_problem(item: Resource) -> Problem | None:
    """A job must have completed. One of a CronJob may run at any time; only its failure counts."""
    failed = _condition(item, "Failed")
    if failed.get("status") == "True":
        return Problem(title(item), f"failed: {_message(failed, 'its pods failed')}", "JobFailed", final=True)
    if _condition(item, "Complete").get("status") == "True" or item["spec"].get("suspend"):
        return None
    owner = controller(item)
    if owner is not None and owner.get("kind") == "CronJob":
        return None
    status = item.get("status", {})
    succeeded, expected = int(status.get("succeeded") or 0), item["spec"].get("completions") or 1
    return Problem(title(item), f"not complete: {succeeded} of {expected} done, {int(status.get('failed') or 0)} failed", "JobRunning")


def claim_problem(item: Resource, *, used: bool, binds_late: bool) -> Problem | None:
    """A claim must be bound, unless its class waits for a first consumer and no pod consumes it."""
    phase = item.get("status", {}).get("phase")
    if phase == "Bound" or (binds_late and not used):
        return None
    name = item["spec"].get("storageClassName")
    if name is None:
        why = "no volume fits it and no storage class is the default"
    elif name == "":
        why = "it requests a volume without a storage class, and none fits"
    else:
        why = f"storage class {name} has not provisioned a volume"
    return Problem(title(item), f"{str(phase or 'not bound').lower()}: {why}", "ClaimPending")


# ---- pods -------------------------------------------------------------------------------------------------------------


def pod_problem(pod: Resource) -> Problem | None:
    """The reason why a pod is not ready, from its own status; None when it is, has succeeded, or is being deleted."""
    status = pod.get("status", {})
    phase = status.get("phase")
    if pod["metadata"].get("deletionTimestamp") or phase == "Succeeded":
        return None
    if phase == "Failed":
        return _failed(pod)
    if phase == "Running" and _condition(pod, "Ready").get("status") == "True":
        return None
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return Problem(
            title(pod), f"cannot be placed: {_message(scheduled, 'no node fits')}", str(scheduled.get("reason") or "Unschedulable")
        )
    for group in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(group) or ():
            problem = _container_problem(pod, container, starts_once=group.startswith("init"))
            if problem is not None:
                return problem
    unready = _condition(pod, "Ready")
    return Problem(title(pod), _message(unready, "not started yet"), "NotReady")


def _failed(pod: Resource) -> Problem | None:
    """A failed pod is replaced by its owner; one without an owner stays failed."""
    if controller(pod) is not None:
        return None
    status = pod.get("status", {})
    for container in status.get("containerStatuses") or ():
        problem = _container_problem(pod, container, starts_once=False)
        if problem is not None:
            return dataclasses.replace(problem, final=True)
    return Problem(title(pod), f"failed: {_message(status, 'no reason given')}", "PodFailed", final=True)


def _container_problem(pod: Resource, container: Resource, *, starts_once: bool) -> Problem | None:
    name, state = container["name"], container.get("state") or {}
    before = (container.get("lastState") or {}).get("terminated") or {}
    if "waiting" in state:
        return _waiting(pod, container, state["waiting"], before)
    if "terminated" in state:
        ended = state["terminated"]
        if ended.get("exitCode") == 0 and starts_once:
            return None
        return Problem(title(pod), f"container {name} {_ending(ended)}", str(ended.get("reason") or "Error"), container=name)
    if starts_once:
        return Problem(title(pod), f"init container {name} is still running", "Initializing", container=name)
    if not container.get("ready"):
        again = f"; started again {container['restartCount']} times, last time it {_ending(before)}" if before else ""
        return Problem(title(pod), f"container {name} runs but is not ready{again}", "Unready", container=name)
    return None


def _waiting(pod: Resource, container: Resource, waiting: Resource, before: Resource) -> Problem:
    name, cause = container["name"], str(waiting.get("reason") or "Waiting")
    message = " ".join(str(waiting.get("message") or "").split())
    if cause in _IMAGE_REASONS:
        text = f"container {name}: image {container.get('image')} cannot be pulled ({cause}): {message or 'no reason given'}"
        return Problem(title(pod), text, cause, final=cause in {"InvalidImageName", "ErrImageNeverPull"})
    if cause == "CrashLoopBackOff":
        ended = f", last time it {_ending(before)}" if before else ""
        text = f"container {name} keeps failing (CrashLoopBackOff): started {int(container.get('restartCount') or 0) + 1} times{ended}"
        return Problem(title(pod), text, cause, container=name)
    return Problem(title(pod), f"container {name}: {cause}{f': {message}' if message else ''}", cause)


def _ending(ended: Resource) -> str:
    """``ended with exit code 1 (OOMKilled)``."""
    reason = ended.get("reason")
    why = f" ({reason})" if reason not in (None, "Error", "Completed") else ""
    how = f"was killed by signal {ended['signal']}" if ended.get("signal") else f"ended with exit code {ended.get('exitCode')}"
    return how + why


# ---- a whole cluster --------------------------------------------------------------------------------------------------

_RULES: Mapping[str, Callable[[Resource], Problem | None]] = {
    "Node": node_problem,
    "Deployment": deployment_problem,
    "StatefulSet": statefulset_problem,
    "DaemonSet": daemonset_problem,
    "ReplicaSet": replicas_problem,
    "ReplicationController": replicas_problem,
    "Job": job_problem,
    "Pod": pod_problem,
}


def not_ready(
    items: Iterable[Resource],
    *,
    events: Iterable[Resource] = (),
    logs: Mapping[tuple[str, str], str] | None = None,
    static: bool = True,
) -> tuple[Problem, ...]:
    """The objects of ``items`` that are not ready, with the reasons. Empty: the cluster is as its objects specify.

    ``events`` (Event objects) and ``logs`` (text by ``("Pod namespace/name", container)``) only add to the reasons.
    Without ``static``, a static pod counts as ready when it runs: its probes pass only a minute after it works.
    Nodes and pods, which have the causes, come before the workloads that wait for them.
    """
    resources = tuple(items)
    problems: list[Problem] = []
    for item in resources:
        rule = _RULES.get(item.get("kind", ""))
        if rule is None or (item["kind"] == "ReplicaSet" and controller(item) is not None):
            continue
        if item["metadata"].get("deletionTimestamp"):
            continue
        problem = rule(item)
        if problem is not None and not (not static and _is_static(item) and problem.cause in {"Unready", "NotReady"}):
            problems.append(problem)
    problems += _claims(resources)
    order = {"Node": 0, "PersistentVolumeClaim": 1, "Pod": 2}
    problems.sort(key=lambda problem: (order.get(problem.object.split(" ", maxsplit=1)[0], 3), problem.object))
    return tuple(_explained(problem, tuple(events), logs or {}) for problem in problems)


def _is_static(item: Resource) -> bool:
    """A pod that a kubelet runs from a file: etcd, the API server."""
    return "kubernetes.io/config.mirror" in (item["metadata"].get("annotations") or {})


def _claims(items: Sequence[Resource]) -> list[Problem]:
    used = {
        (pod["metadata"].get("namespace"), volume["persistentVolumeClaim"]["claimName"])
        for pod in of_kind(items, "Pod")
        for volume in pod["spec"].get("volumes") or ()
        if "persistentVolumeClaim" in volume
    }
    late = {item["metadata"]["name"] for item in of_kind(items, "StorageClass") if item.get("volumeBindingMode") == "WaitForFirstConsumer"}
    problems = (
        claim_problem(
            claim,
            used=(claim["metadata"].get("namespace"), claim["metadata"]["name"]) in used,
            binds_late=claim["spec"].get("storageClassName") in late,
        )
        for claim in of_kind(items, "PersistentVolumeClaim")
    )
    return [problem for problem in problems if problem is not None]


def _explained(problem: Problem, events: Sequence[Resource], logs: Mapping[tuple[str, str], str]) -> Problem:
    """Add events and log to a problem; a failing probe, which only events report, joins the reason."""
    about = [event for event in events if _regards(event) == problem.object and event.get("type") != "Normal"]
    about.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    texts = tuple(dict.fromkeys(f"{event.get('reason')}: {' '.join(str(event.get('message')).split())}" for event in about))[-_EVENTS:]
    log = logs.get((problem.object, problem.container or ""), "")
    reason = problem.reason
    if problem.cause == "Unready":
        probe = next((text for text in reversed(texts) if text.startswith("Unhealthy: ")), None)
        if probe is not None:
            reason, texts = f"{reason}: {probe.removeprefix('Unhealthy: ')}", tuple(text for text in texts if text != probe)
    return dataclasses.replace(problem, reason=reason, events=texts, log=tuple(log.rstrip("\n").splitlines()[-_LOG_LINES:]) if log else ())


def _regards(event: Resource) -> str:
    about = event.get("involvedObject") or event.get("regarding") or {}
    place = f"{about['namespace']}/" if about.get("namespace") and about.get("kind") != "Node" else ""
    return f"{about.get('kind')} {place}{about.get('name')}"


def event_lines(events: Iterable[Resource]) -> list[str]:
    """Events as lines, the oldest first."""

    def when(event: Resource) -> str:
        return str(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp") or "")

    def line(event: Resource) -> str:
        about = event.get("involvedObject") or {}
        place = "/".join(str(about[key]) for key in ("namespace", "name") if about.get(key))
        return f"{when(event)} {event.get('reason')} {about.get('kind')} {place}: {' '.join(str(event.get('message')).split())}"

    return [line(event) for event in sorted(events, key=when)]


# ---- queries ----------------------------------------------------------------------------------------------------------


def problems(kubectl: KubectlRunner) -> tuple[Problem, ...]:
    """The objects that are not ready now, with events and the ends of the logs."""
    return explain(kubectl, get(kubectl))


def explain(kubectl: KubectlRunner, items: Sequence[Resource], *, static: bool = True) -> tuple[Problem, ...]:
    """``not_ready`` of ``items``, with their events and logs. A log that cannot be read is left out."""
    unready = not_ready(items, static=static)
    if not unready:
        return ()
    try:
        events = get(kubectl, "events")
    except SlipwayError:
        events = ()
    logs = {(problem.object, problem.container): text for problem in unready if problem.container and (text := _log(kubectl, problem))}
    return not_ready(items, events=events, logs=logs, static=static)


def _log(kubectl: KubectlRunner, problem: Problem) -> str:
    namespace, _, name = problem.object.removeprefix("Pod ").partition("/")
    words = ("logs", f"--namespace={namespace}", name, f"--container={problem.container}", f"--tail={_LOG_LINES}")
    # The log of the run that failed has the cause; that of the current one may be empty.
    for argv in ((*words, "--previous"), words):
        try:
            text = kubectl.run(*argv)
        except SlipwayError:
            continue
        # For a container that was removed the kubelet prints this in place of a log.
        if text.strip() and not text.startswith("unable to retrieve container logs"):
            return text
    return ""


def within(items: Iterable[Resource], namespaces: Iterable[str]) -> tuple[Resource, ...]:
    """Objects in some namespaces, with those that have none; all objects when no namespace is given."""
    chosen = frozenset(namespaces)
    if not chosen:
        return tuple(items)
    return tuple(item for item in items if item["metadata"].get("namespace") in chosen or not item["metadata"].get("namespace"))


def waiting_for_kubelet(items: Iterable[Resource]) -> dict[str, list[str]]:
    """Names of pods, by namespace, at which a kubelet will look again only after seconds.

    It does so at pods that it began before it had read the Services, and at containers whose readiness probe failed at first: that comes
    again after its period, ten seconds unless the pod has another. Static pods are not among them: they cannot be changed.
    """
    pods: dict[str, list[str]] = {}
    for pod in of_kind(items, "Pod"):
        status = pod.get("status") or {}
        containers = [one for group in ("initContainerStatuses", "containerStatuses") for one in status.get(group) or ()]
        if not _is_static(pod) and any(_waits_for_services(one) or _waits_for_probe(one) for one in containers):
            pods.setdefault(pod["metadata"]["namespace"], []).append(pod["metadata"]["name"])
    return pods


def _waits_for_services(container: Mapping[str, Any]) -> bool:
    return "services have not yet been read" in ((container.get("state") or {}).get("waiting") or {}).get("message", "")


def _waits_for_probe(container: Mapping[str, Any]) -> bool:
    return "running" in (container.get("state") or {}) and container.get("started") is True and container.get("ready") is False

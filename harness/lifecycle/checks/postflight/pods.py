"""Probes from nodes and from short-lived pods.

A pod on each node runs the cluster's own pause image only: the node itself probes, from inside the pod's network namespace.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import json
import secrets
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import log
from harness.errors import CheckError, CommandError, SlipwayError
from harness.lifecycle.checks.postflight.core import Health, NodeAnswer, PodAnswer
from harness.lifecycle.checks.preflight import probes
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.kube import dns, objects, readiness
from harness.lifecycle.kube.readiness import Resource
from harness.nodes import Node, each
from harness.runtimes import DNS_DOMAIN, ClusterNetwork
from harness.runtimes.kubeadm import KUBECTL

LABEL = "slipway.dev/check"
_SYSTEM = "kube-system"
_ABANDONED = 180
"""Age in seconds at which pods of another check count as left behind."""
_START = 45
"""Seconds that pods may take to start."""
_CLOSED = 9
"""A port on which no pod listens: a refusal shows that the pod was reached."""
_PAUSE = r"""awk -F '["\047]' '/^ *sandbox *=/ { print $2; exit }' /etc/containerd/config.toml 2>/dev/null"""
_NAME = f"kubernetes.default.svc.{DNS_DOMAIN}"


@dataclasses.dataclass(frozen=True)
class _Pod:
    """A running pod of this check; its address, or one of each family."""

    node: str
    uid: str
    addresses: tuple[str, ...]


def probed(cluster: Access, health: Health) -> Health:
    """Add the results of probes from nodes and, where they start, from pods. Every pod is removed afterwards."""
    by_name = {name: address for address, name in health.names.items()}
    ready = [node["metadata"]["name"] for node in readiness.of_kind(health.items, "Node") if not _is_down(node)]
    nodes = {node.address: node for node in (*cluster.control_plane, *cluster.workers)}
    places = [name for name in ready if by_name.get(name) in nodes]
    network = health.network
    if network is None or not places:
        return health
    with _created(cluster, places, health) as (pods, trouble, port):
        node_names = {address: pod.node for pod in pods for address in pod.addresses}

        def probe(name: str) -> tuple[NodeAnswer | None, PodAnswer | None]:
            address = by_name[name]
            own = next((pod for pod in pods if pod.node == name), None)
            script = _script(network, own, pods, _ring(address, [by_name[place] for place in places]), port)
            try:
                output = nodes[address].run(script, check=False, timeout=120).stdout
            except SlipwayError as error:
                log.debug(f"{address}: {error.message}")
                return None, None
            answer = of_node(output, health.answers.get(address, NodeAnswer()), network)
            return answer, of_pod(output, node_names, network) if own is not None else None

        results = dict(zip(places, each(places, probe), strict=True))
    answers = {by_name[name]: answer for name, (answer, _) in results.items() if answer is not None}
    of_pods = {name: answer for name, (_, answer) in results.items() if answer is not None}
    of_pods |= {name: PodAnswer(trouble=reason) for name, reason in trouble.items() if name not in of_pods}
    in_order = {name: of_pods[name] for name in places if name in of_pods}
    return dataclasses.replace(health, answers={**health.answers, **answers}, pods=in_order)


def _is_down(node: Resource) -> bool:
    problem = readiness.node_problem(node)
    return problem is not None and problem.cause == "NodeNotReady"


def _ring(address: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """The node itself and the next one, so that each is probed by itself and by another."""
    return tuple(dict.fromkeys((address, addresses[(addresses.index(address) + 1) % len(addresses)])))


def _script(network: ClusterNetwork, own: _Pod | None, pods: Sequence[_Pod], machines: Sequence[str], port: int | None) -> str:
    """The probes of a node, as itself and from inside its pod; output lines of the latter begin with ``pod``."""
    question = base64.b64encode(dns.query(_NAME)).decode()
    ask_dns = f"echo \"dns $(echo {question} | timeout 10 bash -c {shlex.quote(dns.ASK % network.dns)} 2>/dev/null | tr -d '\\n')\""
    both = f"{probes.REACH}{ask_dns} &\nreach {network.api} 443 &\n"
    # kube-proxy needs a moment for a new Service.
    ports = [
        f"{{ while :; do said=$(reach {machine} {port}); case $said in *' ok') break ;; esac; "
        '[ "$(date +%s)" -lt "$end" ] || break; sleep 0.5; done; echo "$said"; } &\n'
        for machine in (machines if port else ())
    ]
    text = f"end=$(($(date +%s) + 8))\n{both}{''.join(ports)}wait\n"
    if own is None:
        return text
    others = "".join(f"reach {address} {_CLOSED} &\n" for pod in pods if pod.node != own.node for address in pod.addresses)
    inside = f"{both}{others}wait\n"
    return f"""{text}
for file in $(grep -lE '{own.uid}|{own.uid.replace("-", "_")}' /proc/[0-9]*/cgroup 2>/dev/null); do
  pid=${{file#/proc/}}; pid=${{pid%/cgroup}}
  nsenter -t $pid -n sh <<'END' | sed 's/^/pod /'
{inside}END
  break
done
"""


def of_node(text: str, answer: NodeAnswer, network: ClusterNetwork) -> NodeAnswer:
    """Add the results of a node's own probes to its answer."""
    lines = [line for line in text.splitlines() if not line.startswith("pod ")]
    reached = probes.parse("\n".join(lines)).reached
    ports = {address: how for (address, port), how in reached.items() if address != network.api and port != _CLOSED}
    return dataclasses.replace(answer, service=reached.get((network.api, 443)), dns=_dns(lines, network), node_ports=ports)


def of_pod(text: str, pods: Mapping[str, str], network: ClusterNetwork) -> PodAnswer:
    """The results from inside a pod. ``pods`` are the names of nodes by the addresses of their pods."""
    lines = [line.removeprefix("pod ") for line in text.splitlines() if line.startswith("pod ")]
    reached = probes.parse("\n".join(lines)).reached
    if not lines:
        return PodAnswer(trouble="its network could not be entered (nsenter)")
    # A refusal comes from the pod itself. Of a pod's two addresses the one that is not reached counts.
    others: dict[str, str] = {}
    for (address, port), how in reached.items():
        if port == _CLOSED and others.get(pods[address], "ok") == "ok":
            others[pods[address]] = "ok" if how == "refused" else how
    return PodAnswer(others, _dns(lines, network), reached.get((network.api, 443)))


def _dns(lines: Sequence[str], network: ClusterNetwork) -> str | None:
    answer = next((line.removeprefix("dns").strip() for line in lines if line.startswith("dns")), None)
    if answer is None:
        return None
    return dns.problem_of(answer, network.dns, _NAME, network.api) or "ok"


@contextlib.contextmanager
def _created(cluster: Access, places: Sequence[str], health: Health) -> Iterator[tuple[list[_Pod], dict[str, str], int | None]]:
    """Pods, one a node; why some did not start, by node; and the port of a Service that leads to DNS. All are removed in the end."""
    mark, node = secrets.token_hex(4), cluster.first
    try:
        try:
            created = _create(cluster, node, places, health, mark)
        except SlipwayError as error:
            log.debug(f"pods of the check: {error}")
            created = [], dict.fromkeys(places, error.message), None
        yield created
    finally:
        with contextlib.suppress(SlipwayError):
            node.run(f"{KUBECTL} --namespace kube-system delete pods,services -l {LABEL}={mark} --now --wait=false > /dev/null", timeout=60)


def _create(cluster: Access, node: Node, places: Sequence[str], health: Health, mark: str) -> tuple[list[_Pod], dict[str, str], int | None]:
    _sweep(cluster, node)
    configured = node.run(_PAUSE, check=False)
    image = (configured.stdout.split() or [*_pauses(health.items), ""])[0]
    if not image:
        raise CheckError("no pause image is known")
    items = [_pod(mark, place, image, number) for number, place in enumerate(places)]
    items += _service(cluster, mark)
    node.run(
        f"{KUBECTL} apply --validate=false -f - > /dev/null",
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": items}),
        timeout=60,
    )
    pods, trouble = _started(cluster, mark, places)
    return pods, trouble, _port(cluster, mark)


def _pauses(items: Sequence[Resource]) -> Iterator[str]:
    """The pause images on nodes."""
    for node in readiness.of_kind(items, "Node"):
        for image in node["status"].get("images") or ():
            yield from (name for name in image.get("names") or () if "/pause:" in name)


def _labels(mark: str) -> dict[str, str]:
    return {LABEL: mark}


def _pod(mark: str, place: str, image: str, number: int) -> dict[str, Any]:
    """An idle pod on one node, whatever its taints."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"slipway-check-{mark}-{number}", "namespace": _SYSTEM, "labels": _labels(mark)},
        "spec": {
            "nodeName": place,
            # A node under pressure admits no others.
            "priorityClassName": "system-node-critical",
            "containers": [{"name": "pause", "image": image, "imagePullPolicy": "IfNotPresent"}],
            "tolerations": [{"operator": "Exists"}],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            # For a check that is killed before it removes it.
            "activeDeadlineSeconds": _ABANDONED,
        },
    }


def _service(cluster: Access, mark: str) -> list[dict[str, Any]]:
    """A NodePort Service for the pods of DNS, which listen already; empty where they do not run."""
    try:
        text = cluster.kubectl.run("get", "service", "kube-dns", f"--namespace={_SYSTEM}", "--output=json")
        dns = objects.an_object(text, where=cluster.kubectl.where)
    except CommandError:
        return []
    target = next((port.get("targetPort", 53) for port in dns["spec"]["ports"] if port.get("protocol", "TCP") == "TCP"), None)
    if target is None or not dns["spec"].get("selector"):
        return []
    # Another check reports that DNS is down; NodePorts stay unknown then.
    text = cluster.kubectl.run("get", "endpoints", "kube-dns", f"--namespace={_SYSTEM}", "--output=json")
    ends = objects.an_object(text, where=cluster.kubectl.where)
    if not any(subset.get("addresses") for subset in ends.get("subsets") or ()):
        return []
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"slipway-check-{mark}", "namespace": _SYSTEM, "labels": _labels(mark)},
            "spec": {"type": "NodePort", "selector": dns["spec"]["selector"], "ports": [{"port": 53, "targetPort": target}]},
        }
    ]


def _port(cluster: Access, mark: str) -> int | None:
    text = cluster.kubectl.run("get", "services", f"--namespace={_SYSTEM}", f"-l{LABEL}={mark}", "--output=json")
    ports = [port for service in objects.objects(text, where=cluster.kubectl.where) for port in service["spec"].get("ports") or ()]
    return int(ports[0]["nodePort"]) if ports else None


def _started(cluster: Access, mark: str, places: Sequence[str]) -> tuple[list[_Pod], dict[str, str]]:
    """The pods once all run, or those that do in time; why the others do not, by node."""
    deadline = time.monotonic() + _START
    while True:
        text = cluster.kubectl.run("get", "pods", f"--namespace={_SYSTEM}", f"-l{LABEL}={mark}", "--output=json")
        items = objects.objects(text, where=cluster.kubectl.where)
        running = [item for item in items if item["status"].get("phase") == "Running" and item["status"].get("podIP")]
        if len(running) == len(places) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    started = {item["spec"]["nodeName"] for item in running}
    problems = {item["spec"]["nodeName"]: readiness.pod_problem(item) for item in items if item["spec"]["nodeName"] not in started}
    missing = [place for place in places if place not in started]
    trouble = {place: problem.reason if (problem := problems.get(place)) else "its pod was not created" for place in missing}
    return [_Pod(item["spec"]["nodeName"], item["metadata"]["uid"], _addresses(item["status"])) for item in running], trouble


def _addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(entry["ip"] for entry in status.get("podIPs") or ()) or (status["podIP"],)


def _sweep(cluster: Access, node: Node) -> None:
    """Remove what a killed check has left."""
    text = cluster.kubectl.run("get", "pods,services", f"--namespace={_SYSTEM}", f"-l{LABEL}", "--output=json")
    listed = objects.objects(text, where=cluster.kubectl.where)
    old = [item for item in listed if _age(str(item["metadata"]["creationTimestamp"])) > _ABANDONED]
    if old:
        words = shlex.join(f"{item['kind'].lower()}/{item['metadata']['name']}" for item in old)
        node.run(f"{KUBECTL} --namespace={_SYSTEM} delete {words} --ignore-not-found --wait=false > /dev/null", timeout=60)


def _age(created: str) -> float:
    """Seconds since a timestamp of the API; 0 where it is not valid."""
    try:
        return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0

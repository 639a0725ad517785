"""``slipway check --post``: whether a cluster works. All of its parts are asked, and ways are tried, also from short-lived pods.

A pod on each node runs nothing but the cluster's own pause image: what is tried is tried by the machine, from inside the pod's network.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import json
import secrets
import shlex
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import assets, cloudimage, log, untrusted
from harness.errors import CheckError, CommandError, SlipwayError
from harness.host import cluster_cache
from harness.lifecycle.checks import findings
from harness.lifecycle.checks.findings import Report
from harness.lifecycle.checks.postflight import cis, cis_facts, rules
from harness.lifecycle.checks.postflight.rules import CHECKS, Answer, EtcdMember, Health, PodAnswer, Unit
from harness.lifecycle.checks.preflight import gather as preflight
from harness.lifecycle.checks.preflight import probes
from harness.lifecycle.cluster import access, certificates, record
from harness.lifecycle.cluster import change as moves
from harness.lifecycle.cluster.access import Access
from harness.lifecycle.kube import etcd, objects, readiness
from harness.lifecycle.kube.drain import names
from harness.lifecycle.kube.readiness import Resource
from harness.lifecycle.provision import node_files, registry
from harness.nodes import Machine, Node, each
from harness.nodes.files import STATE
from harness.oci.store import Store
from harness.runtimes import API_PORT, DNS_DOMAIN, REGISTRY_PORT, ROOTFS, ClusterNetwork
from harness.runtimes.kubeadm import KUBECTL

__all__ = ["CHECKS", "against_cis", "post"]

LABEL = "slipway.dev/check"
_ABANDONED = 180
"""Seconds after which pods of another check are taken for left behind."""
_START = 45
"""Seconds that pods may take to start."""
_NOBODY = 9
"""A port on which a pod of ours has nobody: that it refuses shows that it was reached."""
_PAUSE = r"""awk -F '["\047]' '/^ *sandbox *=/ { print $2; exit }' /etc/containerd/config.toml 2>/dev/null"""
_NAME = f"kubernetes.default.svc.{DNS_DOMAIN}"


def post(
    name: str = cluster_cache.DEFAULT_NAME,
    masters: Sequence[Machine] = (),
    nodes: Sequence[Machine] = (),
    *,
    skip: Collection[str] = (),
    store: Store | None = None,
    home: Path | None = None,
) -> Report:
    """Look whether a cluster works. Raises UsageError when it is not known, NodeError when no machine of it answers."""
    started = time.monotonic()
    skipped = findings.check_ids(skip, CHECKS)
    with access.opened(access.known(name, masters, nodes, home=home)) as cluster:
        found = gather(cluster, store or Store.default())
    told = findings.skip(rules.judge(found), skipped)
    return Report(name, told, CHECKS, found.names, time.monotonic() - started)


def against_cis(
    name: str = cluster_cache.DEFAULT_NAME,
    masters: Sequence[Machine] = (),
    nodes: Sequence[Machine] = (),
    *,
    skip: Collection[str] = (),
    home: Path | None = None,
) -> Report:
    """Look how a cluster, whatever made it, stands to the CIS benchmark. Nothing is changed. Raises as ``post`` does."""
    started = time.monotonic()
    skipped = findings.check_ids(skip, cis.CHECKS)
    with access.opened(access.known(name, masters, nodes, home=home)) as cluster:
        found = cis_facts.gather(cluster)
    told = findings.skip(cis.judge(found), skipped)
    return Report(name, told, cis.CHECKS, found.names, time.monotonic() - started)


def gather(cluster: Access, store: Store) -> Health:
    """All that can be found out about a cluster; what cannot is left out."""
    cluster.first  # noqa: B018 -- raises when no master answers
    with log.step("ask the API"):
        asked = found = _of_api(cluster)
    reached = (*cluster.masters, *cluster.nodes)
    images = _images(cluster, store, found)
    with log.step("ask the machines"):
        asking: list[Callable[[], dict[str, Any]]] = [
            lambda: {"machines": _those(reached, preflight.ask)},
            lambda: {"certificates": _those(reached, certificates.certificates_of)},
            lambda: _etcd(cluster.masters),
            lambda: {"answers": _answers(reached, asked, images)},
        ]
        parts = each(asking, lambda ask: ask())
    for part in parts:
        found = dataclasses.replace(found, **part)
    if found.silent is None:
        with log.step("try the ways of pods and Services"):
            found = _tried(cluster, found)
    return found


# ---- the API ----------------------------------------------------------------------------------------------------------


def _of_api(cluster: Access) -> Health:
    roles = {machine.address: "master" for machine in cluster.known.masters}
    roles |= {machine.address: "node" for machine in cluster.known.nodes}
    found = Health(
        cluster.known.state.name,
        roles,
        names={node.address: node.name for node in (*cluster.masters, *cluster.nodes)},
        unreachable={address: error.message for address, error in cluster.unreachable.items()},
    )
    try:
        # What a check that was killed has left says nothing about the cluster.
        kinds = f"{readiness.KINDS},networkpolicies.networking.k8s.io"
        items = tuple(item for item in readiness.get(cluster.kubectl, kinds) if LABEL not in (item["metadata"].get("labels") or {}))
        problems = readiness.explain(cluster.kubectl, items, static=False)
        version = objects.version(cluster.kubectl.run("get", "--raw", "/version"), where=cluster.kubectl.where)
        change = moves.unfinished(cluster.kubectl)
    except SlipwayError as error:
        return dataclasses.replace(found, silent=error.message)
    recorded = own = True
    try:
        own = record.read(cluster.kubectl).registry == record.OWN
    except SlipwayError:
        recorded = False
    return dataclasses.replace(
        found,
        names={**found.names, **names(readiness.of_kind(items, "Node"))},
        items=items,
        problems=problems,
        version=version,
        record=recorded,
        change=change,
        own_registry=own,
        network=_network(cluster),
    )


def _network(cluster: Access) -> ClusterNetwork | None:
    """The addresses of Services as kubeadm noted them; None when it did not."""
    try:
        text = cluster.kubectl.run("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=json")
        where = cluster.kubectl.where
        networking = objects.configuration(objects.config_map(text, where=where), where)["networking"]
        return ClusterNetwork(
            str(networking.get("podSubnet", "100.64.0.0/10")).split(",")[0], str(networking["serviceSubnet"]).split(",")[0]
        )
    except (SlipwayError, LookupError, ValueError, TypeError, AttributeError):
        return None


@dataclasses.dataclass(frozen=True)
class _Images:
    """What the registries of a cluster should have."""

    names: tuple[str, ...]
    layout: registry.Layout | None = None
    """Every blob of it, where the image is in the store here."""


def _images(cluster: Access, store: Store, found: Health) -> _Images:
    used = {
        str(container["image"])
        for pod in readiness.of_kind(found.items, "Pod")
        for container in (*pod["spec"]["containers"], *(pod["spec"].get("initContainers") or ()))
    }
    try:
        digest = record.read(cluster.kubectl).digest
        image = cloudimage.read(store, digest)
        wanted = image.platforms[0].images
        return _Images(
            tuple(sorted(one.name for one in wanted.images)), registry.layout(store, wanted) if len(image.platforms) == 1 else None
        )
    except SlipwayError:
        # Only those that carry a registry's name can be asked for.
        return _Images(tuple(sorted(name for name in used if "/" in name)))


# ---- the machines -----------------------------------------------------------------------------------------------------


def _those(nodes: Sequence[Node], ask: Callable[[Any], Any]) -> dict[str, Any]:
    """What nodes say, by address; without those that fail."""
    found: dict[str, Any] = {}

    def one(node: Node) -> None:
        try:
            found[node.address] = ask(node)
        except SlipwayError as error:
            log.debug(f"{node.address}: {error.message}")

    each(nodes, one)
    return {node.address: found[node.address] for node in nodes if node.address in found}


def _etcd(masters: Sequence[Node]) -> dict[str, Any]:
    asked = etcd.Etcd(masters)
    try:
        members = asked.members()
        sick = asked.sick(members)
        status = asked.status(members)
        listed = tuple(
            EtcdMember(
                member.name or str(member.id),
                sick.get(member.id),
                status[member.id].size if member.id in status else None,
                member.id in status and status[member.id].leads,
                member.learner,
            )
            for member in members
        )
        return {"etcd": listed, "alarms": asked.alarms()}
    except (SlipwayError, ValueError, LookupError) as error:
        return {"etcd_trouble": error.message if isinstance(error, SlipwayError) else repr(error)}


def _answers(nodes: Sequence[Node], found: Health, images: _Images) -> dict[str, Any]:
    script = assets.script(
        "health",
        api_port=API_PORT,
        images=" ".join(images.names),
        registry_port=REGISTRY_PORT,
        rootfs=ROOTFS,
        state=STATE,
        unsure=node_files.UNSURE,
    )

    def one(node: Node) -> Answer:
        answer = parse(node.run(script, check=False, timeout=300).stdout)
        if answer.holds and images.layout is not None and found.own_registry:
            has = registry.held(node)
            lost = tuple(path for path, blob in images.layout.blobs.items() if has.get(path) != blob.size)
            answer = dataclasses.replace(answer, lost=lost)
        return answer

    return _those(nodes, one)


def parse(text: str) -> Answer:
    """What a machine printed about its part; what is not understood is left out."""
    lines = [line.partition(" ") for line in text.splitlines()]
    by_key: dict[str, list[str]] = {}
    for key, _, value in lines:
        by_key.setdefault(key, []).append(value)
    up = (untrusted.decimal(by_key["up"][0]) if by_key.get("up") else None) or 0.0
    images = [value.split(" ", maxsplit=1) for value in by_key.get("image", ())]
    servers = [value.split() for value in by_key.get("server", ())]
    syncs = [tuple(map(untrusted.decimal, words)) for value in by_key.get("sync", ()) if len(words := value.split()) == 2]
    return Answer(
        units=dict(_units(by_key.get("unit", ()), up)),
        holds="holds" in by_key,
        public="public" in by_key,
        api=by_key["api"][0] if by_key.get("api") else None,
        images={words[0]: words[1] for words in images if len(words) == 2 and words[1]},
        servers={(words[0], words[1]): " ".join(words[2:]) for words in servers if len(words) > 2},
        syncs={seconds: int(count) for seconds, count in syncs if seconds is not None and count is not None},
    )


def _units(lines: Sequence[str], up: float) -> Iterator[tuple[str, Unit]]:
    """The services that a machine has, from blocks of ``Name=value`` with an empty line between them."""
    block: dict[str, str] = {}
    for line in (*lines, ""):
        name, _, value = line.partition("=")
        if line:
            block[name] = value
            continue
        if block.get("Id") and block.get("LoadState") == "loaded":
            since = (untrusted.number(block.get("ActiveEnterTimestampMonotonic")) or 0) / 1e6
            active = block.get("ActiveState", "unknown")
            state = active if active == "active" else f"{active} ({block.get('SubState', '')})"
            yield (
                block["Id"].removesuffix(".service"),
                Unit(state, untrusted.number(block.get("NRestarts")) or 0, up - since if since else None),
            )
        block = {}


# ---- pods -------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Pod:
    """A pod of ours that has an address, or one of each family."""

    node: str
    uid: str
    addresses: tuple[str, ...]


def _tried(cluster: Access, found: Health) -> Health:
    """With what was tried from nodes and, where they start, from pods. Nothing of it is left in the cluster."""
    by_name = {name: address for address, name in found.names.items()}
    ready = [node["metadata"]["name"] for node in readiness.of_kind(found.items, "Node") if not _is_down(node)]
    nodes = {node.address: node for node in (*cluster.masters, *cluster.nodes)}
    places = [name for name in ready if by_name.get(name) in nodes]
    network = found.network
    if network is None or not places:
        return found
    with _made(cluster, places, found) as (pods, trouble, port):
        answers, of_pods = dict(found.answers), {name: PodAnswer(trouble=said) for name, said in trouble.items()}
        lock = threading.Lock()

        def one(name: str) -> None:
            address = by_name[name]
            own = next((pod for pod in pods if pod.node == name), None)
            script = _script(network, own, pods, _ring(address, [by_name[place] for place in places]), port)
            try:
                said = nodes[address].run(script, check=False, timeout=120).stdout
            except SlipwayError as error:
                log.debug(f"{address}: {error.message}")
                return
            with lock:
                answers[address] = of_node(said, answers.get(address, Answer()), network)
                if own is not None:
                    of_pods[name] = of_pod(said, {address: pod.node for pod in pods for address in pod.addresses}, network)

        each(places, one)
        return dataclasses.replace(found, answers=answers, pods={name: of_pods[name] for name in places if name in of_pods})


def _is_down(node: Resource) -> bool:
    problem = readiness.node_problem(node)
    return problem is not None and problem.cause == "NodeNotReady"


def _ring(address: str, addresses: Sequence[str]) -> tuple[str, ...]:
    """The machine itself and the next one: all together every machine is asked, by itself and by another."""
    return tuple(dict.fromkeys((address, addresses[(addresses.index(address) + 1) % len(addresses)])))


def _script(network: ClusterNetwork, own: _Pod | None, pods: Sequence[_Pod], machines: Sequence[str], port: int | None) -> str:
    """What a machine tries, as itself and from inside its pod. Lines of the second begin with ``pod``."""
    question = base64.b64encode(readiness.dns_query(_NAME)).decode()
    dns = f"echo \"dns $(echo {question} | timeout 10 bash -c {shlex.quote(readiness.ASK_DNS % network.dns)} 2>/dev/null | tr -d '\\n')\""
    both = f"{probes.REACH}{dns} &\nreach {network.api} 443 &\n"
    # Proxies of Services need a moment for one that is new.
    ports = [
        f"{{ while :; do said=$(reach {one} {port}); case $said in *' ok') break ;; esac; "
        '[ "$(date +%s)" -lt "$end" ] || break; sleep 0.5; done; echo "$said"; } &\n'
        for one in (machines if port else ())
    ]
    text = f"end=$(($(date +%s) + 8))\n{both}{''.join(ports)}wait\n"
    if own is None:
        return text
    others = "".join(f"reach {address} {_NOBODY} &\n" for pod in pods if pod.node != own.node for address in pod.addresses)
    within = f"{both}{others}wait\n"
    return f"""{text}
for file in $(grep -lE '{own.uid}|{own.uid.replace("-", "_")}' /proc/[0-9]*/cgroup 2>/dev/null); do
  pid=${{file#/proc/}}; pid=${{pid%/cgroup}}
  nsenter -t $pid -n sh <<'END' | sed 's/^/pod /'
{within}END
  break
done
"""


def of_node(text: str, answer: Answer, network: ClusterNetwork) -> Answer:
    """A machine's answer with what it tried as itself."""
    lines = [line for line in text.splitlines() if not line.startswith("pod ")]
    reached = probes.parse("\n".join(lines)).reached
    ports = {address: how for (address, port), how in reached.items() if address != network.api and port != _NOBODY}
    return dataclasses.replace(answer, service=reached.get((network.api, 443)), dns=_dns(lines, network), node_ports=ports)


def of_pod(text: str, pods: Mapping[str, str], network: ClusterNetwork) -> PodAnswer:
    """What was tried from inside a pod. ``pods`` are the names of nodes by the addresses of their pods."""
    lines = [line.removeprefix("pod ") for line in text.splitlines() if line.startswith("pod ")]
    reached = probes.parse("\n".join(lines)).reached
    if not lines:
        return PodAnswer(trouble="its network could not be entered (nsenter)")
    # Nobody listens there: a refusal comes from the pod itself. Of a pod's two addresses that counts which is not reached.
    others: dict[str, str] = {}
    for (address, port), how in reached.items():
        if port == _NOBODY and others.get(pods[address], "ok") == "ok":
            others[pods[address]] = "ok" if how == "refused" else how
    return PodAnswer(others, _dns(lines, network), reached.get((network.api, 443)))


def _dns(lines: Sequence[str], network: ClusterNetwork) -> str | None:
    answer = next((line.removeprefix("dns").strip() for line in lines if line.startswith("dns")), None)
    if answer is None:
        return None
    return readiness.dns_judged(answer, network.dns, _NAME, network.api) or "ok"


@contextlib.contextmanager
def _made(cluster: Access, places: Sequence[str], found: Health) -> Iterator[tuple[list[_Pod], dict[str, str], int | None]]:
    """Pods of ours, one a node, and the port of a Service that leads to DNS; why some did not start, by node. All go in the end."""
    mark, node = secrets.token_hex(4), cluster.first
    try:
        try:
            made = _make(cluster, node, places, found, mark)
        except SlipwayError as error:
            log.debug(f"pods to try with: {error}")
            made = [], dict.fromkeys(places, error.message), None
        yield made
    finally:
        with contextlib.suppress(SlipwayError):
            node.run(f"{KUBECTL} --namespace kube-system delete pods,services -l {LABEL}={mark} --now --wait=false > /dev/null", timeout=60)


def _make(cluster: Access, node: Node, places: Sequence[str], found: Health, mark: str) -> tuple[list[_Pod], dict[str, str], int | None]:
    _sweep(cluster, node)
    configured = node.run(_PAUSE, check=False)
    image = (configured.stdout.split() or [*_pauses(found.items), ""])[0]
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
    """The pause images that nodes have."""
    for node in readiness.of_kind(items, "Node"):
        for image in node["status"].get("images") or ():
            yield from (name for name in image.get("names") or () if "/pause:" in name)


def _labels(mark: str) -> dict[str, str]:
    return {LABEL: mark}


def _pod(mark: str, place: str, image: str, number: int) -> dict[str, Any]:
    """A pod that does nothing, on one node whatever its taints."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"slipway-check-{mark}-{number}", "namespace": rules.SYSTEM, "labels": _labels(mark)},
        "spec": {
            "nodeName": place,
            # A node that is short of something takes no others.
            "priorityClassName": "system-node-critical",
            "containers": [{"name": "pause", "image": image, "imagePullPolicy": "IfNotPresent"}],
            "tolerations": [{"operator": "Exists"}],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 0,
            # Should nobody be left to remove it.
            "activeDeadlineSeconds": _ABANDONED,
        },
    }


def _service(cluster: Access, mark: str) -> list[dict[str, Any]]:
    """A Service with a port on every node that leads to the pods of DNS: they listen already. None where there are none."""
    try:
        text = cluster.kubectl.run("get", "service", "kube-dns", f"--namespace={rules.SYSTEM}", "--output=json")
        dns = objects.an_object(text, where=cluster.kubectl.where)
    except CommandError:
        return []
    target = next((port.get("targetPort", 53) for port in dns["spec"]["ports"] if port.get("protocol", "TCP") == "TCP"), None)
    if target is None or not dns["spec"].get("selector"):
        return []
    # That DNS is down is told otherwise; nothing is known of ports then.
    text = cluster.kubectl.run("get", "endpoints", "kube-dns", f"--namespace={rules.SYSTEM}", "--output=json")
    ends = objects.an_object(text, where=cluster.kubectl.where)
    if not any(subset.get("addresses") for subset in ends.get("subsets") or ()):
        return []
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": f"slipway-check-{mark}", "namespace": rules.SYSTEM, "labels": _labels(mark)},
            "spec": {"type": "NodePort", "selector": dns["spec"]["selector"], "ports": [{"port": 53, "targetPort": target}]},
        }
    ]


def _port(cluster: Access, mark: str) -> int | None:
    text = cluster.kubectl.run("get", "services", f"--namespace={rules.SYSTEM}", f"-l{LABEL}={mark}", "--output=json")
    ports = [port for each in objects.objects(text, where=cluster.kubectl.where) for port in each["spec"].get("ports") or ()]
    return int(ports[0]["nodePort"]) if ports else None


def _started(cluster: Access, mark: str, places: Sequence[str]) -> tuple[list[_Pod], dict[str, str]]:
    """The pods once all run, or as many as do in time; why the others do not, by node."""
    deadline = time.monotonic() + _START
    while True:
        text = cluster.kubectl.run("get", "pods", f"--namespace={rules.SYSTEM}", f"-l{LABEL}={mark}", "--output=json")
        items = objects.objects(text, where=cluster.kubectl.where)
        running = [item for item in items if item["status"].get("phase") == "Running" and item["status"].get("podIP")]
        if len(running) == len(places) or time.monotonic() > deadline:
            break
        time.sleep(0.3)
    good = {item["spec"]["nodeName"] for item in running}
    bad = {item["spec"]["nodeName"]: readiness.pod_problem(item) for item in items if item["spec"]["nodeName"] not in good}
    trouble = {place: str(bad[place].reason if bad.get(place) else "its pod was not made") for place in places if place not in good}  # type: ignore[union-attr]
    return [_Pod(item["spec"]["nodeName"], item["metadata"]["uid"], _addresses(item["status"])) for item in running], trouble


def _addresses(status: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(entry["ip"] for entry in status.get("podIPs") or ()) or (status["podIP"],)


def _sweep(cluster: Access, node: Node) -> None:
    """Remove what a check that was killed has left."""
    text = cluster.kubectl.run("get", "pods,services", f"--namespace={rules.SYSTEM}", f"-l{LABEL}", "--output=json")
    listed = objects.objects(text, where=cluster.kubectl.where)
    old = [item for item in listed if _age(str(item["metadata"]["creationTimestamp"])) > _ABANDONED]
    if old:
        words = shlex.join(f"{item['kind'].lower()}/{item['metadata']['name']}" for item in old)
        node.run(f"{KUBECTL} --namespace={rules.SYSTEM} delete {words} --ignore-not-found --wait=false > /dev/null", timeout=60)


def _age(created: str) -> float:
    """Seconds since a time as the API writes it; none where it is no time."""
    try:
        return (datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0

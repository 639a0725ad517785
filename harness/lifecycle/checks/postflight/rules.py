"""What a cluster must be to count as one that works: judgements over what was gathered. Nothing is asked and nothing is done here."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness import untrusted
from harness.cloudimage import enforcers
from harness.cloudimage.enforcers import Enforcer
from harness.lifecycle.checks import preflight
from harness.lifecycle.checks.facts import MachineFacts
from harness.lifecycle.checks.findings import Check, Finding, Seen, failed, ok, unknown, warning
from harness.lifecycle.checks.preflight import SLOW_SYNC, Target, Wanted
from harness.lifecycle.cluster.certificates import WARN_DAYS, Certificate
from harness.lifecycle.cluster.change import Move
from harness.lifecycle.kube import readiness
from harness.lifecycle.kube.readiness import Problem, Resource
from harness.runtimes import SYSTEM as SYSTEM_NAMESPACES
from harness.runtimes import ClusterNetwork

FULL = 0.85
"""The part of a disk from which on kubelets soon send pods away."""
QUOTA = 2 << 30
"""Bytes that etcd's database may have unless it is told otherwise."""
SYSTEM = "kube-system"
_RESTARTS = 5


@dataclasses.dataclass(frozen=True)
class Unit:
    """A service of a machine."""

    active: str
    restarts: int = 0
    since: float | None = None
    """Seconds that it has been as it is."""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a machine says about its part in the cluster."""

    units: Mapping[str, Unit] = dataclasses.field(default_factory=dict)
    holds: bool = False
    """It has images for the others."""
    public: bool = False
    """Its registry requires no login."""
    api: str | None = None
    """What the API server said by the way that the machine's kubelet takes: ``ok``, or why not."""
    images: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What its registry, or the one that it is led to, said about images: ``ok``, or why not."""
    lost: tuple[str, ...] = ()
    """Blobs of the image that its registry should have and has not, by path."""
    servers: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)
    """How its balancer finds the masters, by what is balanced and name: ``UP``."""
    dns: str | None = None
    """``ok``, or why the cluster's DNS did not answer it."""
    service: str | None = None
    """How a connection to the Service of the API ended."""
    node_ports: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """How connections to a NodePort ended, by address."""
    syncs: Mapping[float, int] = dataclasses.field(default_factory=dict)
    """How many of etcd's writes took at most so many seconds, since it was started."""


@dataclasses.dataclass(frozen=True)
class EtcdMember:
    """A member of etcd as the others see it."""

    name: str
    sick: str | None = None
    size: int | None = None
    leads: bool = False
    learner: bool = False


@dataclasses.dataclass(frozen=True)
class PodAnswer:
    """What was tried from a short-lived pod."""

    pods: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """How packets to pods on other nodes ended, by the name of the node: ``ok``, ``silent``."""
    dns: str | None = None
    service: str | None = None
    trouble: str | None = None
    """Why nothing could be tried."""


@dataclasses.dataclass(frozen=True)
class Health:
    """All that was gathered. What is None could not be found out."""

    name: str
    roles: Mapping[str, str]
    """``master`` or ``node``, by address, of all machines."""
    names: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What the cluster calls its nodes, by address."""
    unreachable: Mapping[str, str] = dataclasses.field(default_factory=dict)
    silent: str | None = None
    """Why the API does not answer."""
    version: str | None = None
    record: bool = True
    change: Move | None = None
    """An upgrade or a rollback that has not come to its end."""
    network: ClusterNetwork | None = None
    own_registry: bool = True
    items: Sequence[Resource] = ()
    problems: Sequence[Problem] = ()
    machines: Mapping[str, MachineFacts] = dataclasses.field(default_factory=dict)
    answers: Mapping[str, Answer] = dataclasses.field(default_factory=dict)
    etcd: Sequence[EtcdMember] | None = None
    etcd_trouble: str = ""
    """Why etcd could not be asked."""
    alarms: Sequence[str] = ()
    certificates: Mapping[str, Sequence[Certificate]] = dataclasses.field(default_factory=dict)
    pods: Mapping[str, PodAnswer] | None = None

    @property
    def reached(self) -> tuple[str, ...]:
        return tuple(address for address in self.roles if address not in self.unreachable)

    def of_roles(self, role: str) -> tuple[str, ...]:
        return tuple(address for address in self.reached if self.roles[address] == role)


Judge = Callable[[Health], Iterable[tuple[str, Seen]]]
"""What was seen, each with its place: an address, a node, the cluster."""

CHECKS: dict[str, Check] = {}
"""By id, in the order in which they are told."""
_JUDGES: dict[str, Judge] = {}


def _check(name: str, title: str, why: str) -> Callable[[Judge], Judge]:
    def add(judge: Judge) -> Judge:
        CHECKS[name] = Check(name, title, why)
        _JUDGES[name] = judge
        return judge

    return add


def judge(health: Health) -> tuple[Finding, ...]:
    """Everything about the cluster, good and bad."""
    return tuple(Finding.of(name, where, seen) for name, one in _JUDGES.items() for where, seen in one(health))


# ---- machines and nodes -----------------------------------------------------------------------------------------------


@_check("access", "way in", "slipway gets into every machine of the cluster")
def _access(health: Health) -> Iterable[tuple[str, Seen]]:
    for address in health.roles:
        reason = health.unreachable.get(address)
        if reason is None:
            yield address, ok("answers")
        else:
            yield address, failed(reason.removeprefix(f"{address}: "), f"bring it back, or: slipway remove {health.name} {address}")


@_check("api", "API", "the API server answers")
def _api(health: Health) -> Iterable[tuple[str, Seen]]:
    if health.silent is not None:
        yield health.name, failed(f"the API does not answer: {health.silent}", "slipway logs; with most masters gone, restore a backup")
    else:
        yield health.name, ok(health.version or "answers")


@_check("record", "record", "the cluster knows what it was made of: apply, join and upgrade read it")
def _record(health: Health) -> Iterable[tuple[str, Seen]]:
    if health.silent is not None:
        yield health.name, unknown("the API does not answer")
    elif health.record:
        yield health.name, ok("is there")
    else:
        yield health.name, warning("has no record of slipway", "finish it with slipway run, or: slipway generate --from-cluster --adopt")


@_check("change", "upgrade", "no upgrade or rollback was left half-way")
def _change(health: Health) -> Iterable[tuple[str, Seen]]:
    if health.silent is not None:
        yield health.name, unknown("the API does not answer")
    elif health.change is None:
        yield health.name, ok("none is under way")
    else:
        change = health.change
        remedy = f"unless somebody is at it, end it: slipway upgrade {health.name} {change.after.image}, or slipway rollback {health.name}"
        yield (
            health.name,
            warning(f"the {change.kind} from {change.before} to {change.after} of {change.since} has not come to its end", remedy),
        )


@_check("nodes", "nodes", "every node is Ready, and every machine is a node")
def _nodes(health: Health) -> Iterable[tuple[str, Seen]]:
    found = readiness.of_kind(health.items, "Node")
    for node in found:
        name = node["metadata"]["name"]
        problem = readiness.node_problem(node)
        if problem is not None and problem.cause == "NodeNotReady":
            yield (
                name,
                failed(problem.reason, f"journalctl -u kubelet on it; slipway exec {health.name} --on {name} -- systemctl status kubelet"),
            )
        elif node["spec"].get("unschedulable"):
            yield name, warning("takes no pods (cordoned)", f"kubectl uncordon {name}")
        else:
            yield name, ok("Ready")
    if health.silent is None:
        known = {entry["address"] for node in found for entry in node["status"].get("addresses") or ()}
        for address in health.roles:
            if address not in known:
                yield address, failed("is no node of the cluster", "slipway run or join again brings it in; slipway remove takes it out")


@_check("pressure", "pressure", "no node is short of memory, disk or processes, for which it sends pods away")
def _pressure(health: Health) -> Iterable[tuple[str, Seen]]:
    for node in readiness.of_kind(health.items, "Node"):
        problem = readiness.node_problem(node)
        if problem is not None and problem.cause != "NodeNotReady":
            yield node["metadata"]["name"], failed(problem.reason, "free some, or move what uses it; pods are sent away until then")
        else:
            yield node["metadata"]["name"], ok("none")


@_check("versions", "versions", "kubelets are no newer than the API server, and at most three minor versions older")
def _versions(health: Health) -> Iterable[tuple[str, Seen]]:
    api = _numbers(health.version)
    for node in readiness.of_kind(health.items, "Node"):
        text = node["status"].get("nodeInfo", {}).get("kubeletVersion", "")
        kubelet, name = _numbers(text), node["metadata"]["name"]
        if not api or not kubelet:
            yield name, unknown(text or "not known")
        elif kubelet[:2] > api[:2]:
            yield name, failed(f"its kubelet {text} is newer than the API server {health.version}", "upgrade the masters: slipway upgrade")
        elif (api[0], api[1] - 3) > kubelet[:2]:
            yield name, failed(f"its kubelet {text} is too old for the API server {health.version}", "slipway upgrade ends what was begun")
        elif kubelet != api:
            yield name, warning(f"its kubelet is {text}, the API server {health.version}", "slipway upgrade ends what was begun")
        else:
            yield name, ok(text)


def _numbers(text: str | None) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]{1,9}", text or "")[:3])


@_check("services", "services", "kubelet, containerd, registry and balancer run on their machines, and keep running")
def _services(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, answer in health.answers.items():
        down = {name: unit for name, unit in answer.units.items() if unit.active != "active"}
        again = {name: unit.restarts for name, unit in answer.units.items() if unit.restarts >= _RESTARTS and (unit.since or 0) < 3600}
        if down:
            texts = ", ".join(f"{name} is {unit.active}" for name, unit in down.items())
            yield address, failed(texts, f"journalctl -u {next(iter(down))}; systemctl restart {next(iter(down))}")
        elif again:
            texts = ", ".join(f"{name} {count} times" for name, count in again.items())
            yield address, warning(f"started again and again: {texts}", f"journalctl -u {next(iter(again))} says why")
        elif not answer.units:
            yield address, unknown("does not say what runs")
        else:
            yield address, ok(", ".join(answer.units))


@_check("disk-space", "disk space", "no disk of a machine is nearly full")
def _disk_space(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, machine in health.machines.items():
        places = [place for place in machine.places.values() if place.total]
        if not places:
            yield address, unknown("does not say how much is free")
            continue
        worst = min(places, key=lambda place: place.free / place.total)
        text = f"{worst.free / worst.total:.0%} of {worst.mount} free"
        # A large disk has room for long when little of it is free, but kubelets count in parts.
        yield address, warning(text, "free some, before kubelets send pods away") if worst.free / worst.total < 1 - FULL else ok(text)


@_check("clock", "clocks", "the clocks of all machines agree")
def _clock(health: Health) -> Iterable[tuple[str, Seen]]:
    targets = [Target(address, health.roles[address], machine) for address, machine in health.machines.items()]
    network = health.network or ClusterNetwork("100.64.0.0/10", "10.96.0.0/22")
    # Certificates are made already: only each other's time matters.
    wanted = Wanted(health.name, (), 0, network, frozenset(health.roles))
    return tuple(preflight.clock(targets, wanted).items())


# ---- what runs in it --------------------------------------------------------------------------------------------------


@_check("system-pods", "system pods", "what the cluster itself is made of runs: API, DNS, network, proxies")
def _system_pods(health: Health) -> Iterable[tuple[str, Seen]]:
    return _workloads(health, system=True)


@_check("workloads", "workloads", "everything that was launched is ready")
def _applications(health: Health) -> Iterable[tuple[str, Seen]]:
    return _workloads(health, system=False)


def _workloads(health: Health, *, system: bool) -> Iterable[tuple[str, Seen]]:
    if health.silent is not None:
        return [(health.name, unknown("the API does not answer"))]
    here = [
        problem
        for problem in health.problems
        if not problem.object.startswith("Node ") and any(f" {namespace}/" in problem.object for namespace in SYSTEM_NAMESPACES) == system
    ]
    pods = [pod for pod in readiness.of_kind(health.items, "Pod") if (pod["metadata"].get("namespace") in SYSTEM_NAMESPACES) == system]
    if not here:
        return [(health.name, ok(f"{len(pods)} pods"))]
    return [(problem.object, failed(problem.reason, _why(problem))) for problem in here]


def _why(problem: Problem) -> str:
    known = problem.reason.rpartition(": ")[2]
    said = [text for text in (*problem.events[-1:], *problem.log[-1:]) if known not in text]
    kind, _, rest = problem.object.partition(" ")
    namespace, _, name = rest.partition("/")
    where = f"kubectl --namespace {namespace} describe {kind.lower()} {name}" if name else f"kubectl describe {kind.lower()} {namespace}"
    return f"{said[0]}; {where}" if said else where


def in_use(items: Iterable[Resource]) -> tuple[Enforcer, ...]:
    """What enforces NetworkPolicies, of programs that are known to, by the images of DaemonSets."""
    agents = readiness.of_kind(items, "DaemonSet")
    used = {str(one.get("image", "")) for agent in agents for one in agent["spec"]["template"]["spec"].get("containers") or ()}
    return enforcers.among(used)


@_check("network-policies", "network policies", "a NetworkPolicy that nothing enforces protects nothing")
def _policies(health: Health) -> Iterable[tuple[str, Seen]]:
    if health.silent is not None:
        return [(health.name, unknown("the API does not answer"))]
    policies = sorted(readiness.title(one).removeprefix("NetworkPolicy ") for one in readiness.of_kind(health.items, "NetworkPolicy"))
    found = in_use(health.items)
    if not policies:
        return [(health.name, ok(f"there are none; {'they would be enforced' if found else 'nothing would enforce them'}"))]
    more = f" and {len(policies) - 1} more" if len(policies) > 1 else ""
    remedy = "take a pod network that enforces them (CNI), or a base image built with POLICY=kube-network-policies"
    if not found:
        return [(health.name, warning(f"nothing enforces {policies[0]}{more}: every pod reaches every pod", remedy))]
    idle = {address: why for address, machine in health.machines.items() if (why := enforcers.unserved(found, machine.has))}
    if idle:
        return [(address, failed(f"nothing enforces {policies[0]}{more} there: {why}", "another kernel")) for address, why in idle.items()]
    return [(health.name, ok(f"{len(policies)}, {enforcers.told(found)}"))]


# ---- etcd and certificates --------------------------------------------------------------------------------------------


@_check("etcd-members", "etcd's members", "every member of etcd is well, and one lost does not cost the quorum")
def _etcd_members(health: Health) -> Iterable[tuple[str, Seen]]:
    if health.etcd is None:
        return [(health.name, unknown(_unasked(health)))]
    found = []
    voters = [member for member in health.etcd if not member.learner]
    alive = [member for member in voters if member.sick is None]
    for member in health.etcd:
        if member.sick is not None:
            spare = len(alive) - (len(voters) // 2 + 1)
            text = f"{member.sick}; {'one more lost and' if spare <= 0 else f'{spare + 1} more lost and'} nothing can be changed"
            found.append((member.name or "etcd", failed(text, f"bring the machine back, or: slipway remove {health.name} {member.name}")))
        elif member.learner:
            found.append((member.name, warning("only follows, and has no vote", "the join that began it, again, ends it")))
        else:
            found.append((member.name, ok("leads" if member.leads else "well")))
    if len(voters) > 1 and len(voters) % 2 == 0:
        text = f"{len(voters)} members survive no more losses than {len(voters) - 1} would"
        found.append((health.name, warning(text, "join another master, or remove one")))
    return found


def _unasked(health: Health) -> str:
    return f"etcd could not be asked: {health.etcd_trouble}" if health.etcd_trouble else "etcd could not be asked"


@_check("etcd-size", "etcd's database", "the database is far from its limit, beyond which nothing can be written")
def _etcd_size(health: Health) -> Iterable[tuple[str, Seen]]:
    quota = _quota(health.items)
    for member in health.etcd or ():
        if member.size is None:
            yield member.name, unknown("does not say")
            continue
        text = f"{member.size / 1e6:.0f} MB of {quota / 1e6:.0f}"
        remedy = "see what fills it (events?), then: etcdctl defrag on one member after the other"
        part = member.size / quota
        yield member.name, failed(text, remedy) if part > 0.9 else warning(text, remedy) if part > 0.5 else ok(text)


def _quota(items: Iterable[Resource]) -> int:
    for pod in readiness.of_kind(items, "Pod"):
        if pod["metadata"]["name"].startswith("etcd-"):
            for word in pod["spec"]["containers"][0].get("command") or ():
                name, _, value = str(word).partition("=")
                if name == "--quota-backend-bytes" and (quota := untrusted.number(value)):
                    return quota
    return QUOTA


@_check("etcd-alarms", "etcd's alarms", "etcd has raised no alarm: with one it takes no writes")
def _etcd_alarms(health: Health) -> Iterable[tuple[str, Seen]]:
    if health.etcd is None:
        yield health.name, unknown(_unasked(health))
    elif health.alarms:
        remedy = "make room: etcdctl compact, defrag on each member, then etcdctl alarm disarm"
        yield health.name, failed(f"etcd raised {', '.join(health.alarms)}", remedy)
    else:
        yield health.name, ok("none")


@_check("etcd-disk", "etcd's disk", "99 of 100 of etcd's writes are on the disk within 10 ms (as etcd has counted)")
def _etcd_disk(health: Health) -> Iterable[tuple[str, Seen]]:
    for address in health.of_roles("master"):
        answer = health.answers.get(address)
        most = percentile(answer.syncs, 0.99) if answer else None
        if most is None:
            yield address, unknown("does not say")
            continue
        text = f"99 of 100 writes within {most * 1000:.0f} ms"
        yield address, warning(text, "give /var/lib/etcd an SSD of its own") if most > SLOW_SYNC * 1.7 else ok(text)


def percentile(counts: Mapping[float, int], part: float) -> float | None:
    """The least bound that so large a part of all was within; ``counts`` are cumulative, as Prometheus has them. None without any."""
    total = max(counts.values(), default=0)
    return next((bound for bound, count in sorted(counts.items()) if count >= part * total), None) if total else None


@_check("certificates", "certificates", f"no certificate ends within {WARN_DAYS} days")
def _certificates(health: Health) -> Iterable[tuple[str, Seen]]:
    now = datetime.datetime.now(datetime.UTC)
    for address, found in health.certificates.items():
        by_state: dict[str, list[Certificate]] = collections.defaultdict(list)
        for certificate in found:
            by_state[certificate.state(now)].append(certificate)
        if by_state["expired"]:
            yield address, failed(f"{_paths(by_state['expired'])} expired", f"slipway certs renew {health.name}")
        elif by_state["soon"]:
            left = min(certificate.days(now) for certificate in by_state["soon"])
            yield (
                address,
                warning(
                    f"{_paths(by_state['soon'])} end{'s' * (len(by_state['soon']) == 1)} in {left} days",
                    f"slipway certs renew {health.name}",
                ),
            )
        elif found:
            yield address, ok(f"{min(certificate.days(now) for certificate in found)} days left")
        else:
            yield address, unknown("none were found")


def _paths(found: Sequence[Certificate]) -> str:
    first = found[0].path.rpartition("/")[2]
    return first if len(found) == 1 else f"{first} and {len(found) - 1} more"


# ---- ways -------------------------------------------------------------------------------------------------------------


@_check("api-way", "way to the API", "every machine reaches an API server by its own way: itself, or its balancer")
def _api_way(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, answer in health.answers.items():
        if answer.api is None:
            yield address, unknown("could not be tried")
        elif answer.api == "ok":
            yield address, ok("answers")
        else:
            remedy = "systemctl status slipway-balancer on it" if health.roles[address] == "node" else "kubectl logs of its kube-apiserver"
            yield address, failed(f"the API does not answer it: {answer.api}", remedy)


@_check("balancer", "balancers", "the balancer of every worker finds every master alive")
def _balancer(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, answer in health.answers.items():
        if not answer.servers:
            if "slipway-balancer" in answer.units:
                yield address, unknown("its balancer could not be asked (socat, perl or python3)")
            continue
        down = sorted(f"{name} ({what})" for (what, name), state in answer.servers.items() if not state.startswith(("UP", "no check")))
        left = {what for (what, _), state in answer.servers.items() if state.startswith(("UP", "no check"))}
        gone = sorted({what for what, _ in answer.servers} - left)
        if gone:
            yield address, failed(f"its balancer finds nobody for {', '.join(gone)}", "see the masters' API servers and registries")
        elif down:
            yield address, warning(f"its balancer does not find {', '.join(down)}", "see that master, and the ways to it")
        else:
            yield address, ok(f"{len(answer.servers)} ways")


_BRINGS_LOGIN = "slipway upgrade, or the slipway run that made the cluster, given again, brings the login"


@_check("registry", "registry", "every holder of images answers, requires a login, and has every image whole")
def _registry(health: Health) -> Iterable[tuple[str, Seen]]:
    if not health.own_registry:
        yield health.name, ok("the site's")
        return
    holders = [address for address, answer in health.answers.items() if answer.holds]
    if not holders:
        yield health.name, failed("no machine that answers has the images", "slipway run again starts the registries")
    for address in holders:
        answer = health.answers[address]
        wrong = {name: said for name, said in answer.images.items() if said != "ok"}
        if wrong:
            name, said = next(iter(wrong.items()))
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            yield (
                address,
                failed(f"does not give {name}{more}: {said}", "systemctl status slipway-registry on it; slipway run again fills it"),
            )
        elif answer.lost:
            yield address, failed(f"lacks {len(answer.lost)} blobs of the image, or has them cut short", "slipway run again fills it")
        elif answer.public:
            yield address, warning("gives images to every client that reaches it: it requires no login", _BRINGS_LOGIN)
        elif answer.images:
            yield address, ok(f"{len(answer.images)} images")
        else:
            yield address, unknown("could not be asked (ctr)")


@_check("registry-way", "way to the images", "every machine gets an image by its own way")
def _registry_way(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, answer in health.answers.items():
        if answer.holds and health.own_registry:
            continue
        wrong = [said for said in answer.images.values() if said != "ok"]
        if wrong:
            yield (
                address,
                failed(f"gets no images: {wrong[0]}", "systemctl status slipway-balancer on it, and the registries of the masters"),
            )
        elif answer.images:
            yield address, ok("answers")
        else:
            yield address, unknown("could not be tried (ctr)")


_ENDED = {"refused": "is refused", "silent": "does not answer", "unroutable": "has no route", "unknown": "cannot be tried"}


def _told(how: str | None, what: str, remedy: str) -> Seen:
    """A connection as it ended."""
    if how in (None, "unknown"):
        return unknown(f"{what} could not be tried")
    return ok("answers") if how == "ok" else failed(f"{what} {_ENDED.get(how or '', how)}", remedy)


_PROXY = "see kube-proxy there: kubectl --namespace kube-system logs -l k8s-app=kube-proxy"


@_check("node-services", "Services from nodes", "every machine reaches the Service of the API")
def _node_services(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, answer in health.answers.items():
        yield address, _told(answer.service, "the Service of the API", _PROXY)


@_check("node-port-way", "NodePorts", "a NodePort answers on every machine, whichever has the pod")
def _node_ports(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, answer in health.answers.items():
        bad = {to: how for to, how in answer.node_ports.items() if how not in ("ok", "unknown")}
        if bad:
            to, how = next(iter(bad.items()))
            yield address, failed(f"a NodePort on {', '.join(bad)} {_ENDED.get(how, how)}", f"{_PROXY}; see firewalls on the way to {to}")
        elif answer.node_ports and "unknown" not in answer.node_ports.values():
            yield address, ok("answers")
        else:
            yield address, unknown("could not be tried")


@_check("node-dns", "DNS from nodes", "the cluster's DNS answers every machine")
def _node_dns(health: Health) -> Iterable[tuple[str, Seen]]:
    for address, answer in health.answers.items():
        yield address, _dns(answer.dns)


def _dns(said: str | None) -> Seen:
    if said is None:
        return unknown("could not be tried")
    remedy = "see the pods of DNS: kubectl --namespace kube-system get pods -l k8s-app=kube-dns"
    return ok("answers") if said == "ok" else failed(f"DNS: {said}", remedy)


def _of_pods(health: Health, one: Callable[[PodAnswer], Seen]) -> Iterable[tuple[str, Seen]]:
    if health.pods is None:
        yield health.name, unknown("no pods could be made to try it")
        return
    for name, answer in health.pods.items():
        yield name, unknown(f"a pod there could not be used: {answer.trouble}") if answer.trouble else one(answer)


@_check("pod-start", "starting pods", "a pod starts on every node")
def _pod_start(health: Health) -> Iterable[tuple[str, Seen]]:
    def one(answer: PodAnswer) -> Seen:
        return ok("starts") if answer.trouble is None else failed(answer.trouble, "journalctl -u kubelet -u containerd on it")

    if health.pods is None:
        yield health.name, unknown("no pods could be made to try it")
        return
    for name, answer in health.pods.items():
        yield name, one(answer)


@_check("pod-network", "pods between nodes", "pods reach pods on all other nodes")
def _pod_network(health: Health) -> Iterable[tuple[str, Seen]]:
    def one(answer: PodAnswer) -> Seen:
        bad = sorted(name for name, how in answer.pods.items() if how not in ("ok", "unknown"))
        if bad:
            return failed(
                f"pods there do not reach those on {', '.join(bad)}", "see the pod network's pods, and UDP 8472 between the machines"
            )
        if not answer.pods:
            return ok("there is no other node") if len(health.pods or ()) == 1 else unknown("could not be tried (bash)")
        return (
            ok(f"{len(answer.pods)} other{'s' if len(answer.pods) > 1 else ''}")
            if "unknown" not in answer.pods.values()
            else unknown("could not be tried (bash)")
        )

    return _of_pods(health, one)


@_check("pod-services", "Services from pods", "pods on every node reach the Service of the API")
def _pod_services(health: Health) -> Iterable[tuple[str, Seen]]:
    return _of_pods(health, lambda answer: _told(answer.service, "the Service of the API", _PROXY))


@_check("pod-dns", "DNS from pods", "the cluster's DNS answers pods on every node")
def _pod_dns(health: Health) -> Iterable[tuple[str, Seen]]:
    return _of_pods(health, lambda answer: _dns(answer.dns))

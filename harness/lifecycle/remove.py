"""``slipway remove``: nodes leave a cluster that goes on, whether their machines are still there or not."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness import assets, log
from harness.clusterfile import Phase
from harness.errors import CheckError, CommandError, Fault, InputError, SlipwayError, UsageError
from harness.host.cluster_cache import DEFAULT_NAME
from harness.lifecycle import delete
from harness.lifecycle.cluster import membership, owner
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.kube import drain, etcd
from harness.lifecycle.plan import Journal, Plan, Step, digest, execute
from harness.lifecycle.steps.uninstall_hooks import Parting
from harness.nodes import Login, Machine, Node, each
from harness.nodes.files import STATE
from harness.nodes.ssh import SshNode
from harness.runtimes import API_PORT
from harness.runtimes.configuration import peer_url


@dataclasses.dataclass(frozen=True)
class Removed:
    """The outcome of a removal."""

    name: str
    removed: tuple[str, ...]
    """Names of the nodes."""
    cleaned: tuple[str, ...]
    """The removed nodes whose machines are as they were before."""
    unreachable: Mapping[str, str]
    """Why the others could not be cleaned, by address."""
    seconds: float


@dataclasses.dataclass
class RemoveWork:
    """State that the steps of a removal share."""

    found: Gathered
    going: tuple[SshNode, ...]
    force: bool
    timeout: float
    strays: frozenset[str] = frozenset()
    """Addresses of machines that the cluster does not list as control-plane nodes but that etcd knows: they came half-way."""
    cleaned: list[str] = dataclasses.field(default_factory=list)
    parting: Parting = dataclasses.field(default_factory=Parting)
    """The hooks for the end of machines."""

    @property
    def leaving_control_plane(self) -> tuple[SshNode, ...]:
        """The control-plane nodes that are removed."""
        return tuple(node for node in self.going if node in self.found.control_plane or node.address in self.strays)

    @property
    def staying(self) -> tuple[SshNode, ...]:
        """The control-plane nodes that stay."""
        return tuple(node for node in self.found.control_plane if node not in self.going)

    @property
    def first(self) -> SshNode:
        """A control-plane node that stays and answers."""
        return self.found.first

    @property
    def alive(self) -> tuple[SshNode, ...]:
        return self.found.alive(self.going)

    def name(self, node: Node) -> str:
        return self.found.name(node)


def remove(
    name: str = DEFAULT_NAME,
    addresses: Sequence[str] = (),
    *,
    force: bool = False,
    via: Sequence[Machine] = (),
    login: Login | None = None,
    drain_timeout: float = drain.TIMEOUT,
    home: Path | None = None,
) -> Removed:
    """Take nodes, named by their addresses or names, out of a cluster, and clean their machines. May be repeated after a kill or a failure.

    A node that does not answer is taken out without its help. With ``force`` nothing that still runs on a node holds it up. ``login`` is
    the way into machines that the cluster does not list (any more). Raises UsageError for what is no member, or has joined another cluster
    since; CheckError when pods cannot go or etcd would lose its quorum.
    """
    started = time.monotonic()
    with prepared(name, addresses, force=force, via=via, login=login, drain_timeout=drain_timeout, home=home) as work:
        names = tuple(work.name(node) for node in work.going)
        with membership.changing(work.found):
            execute(plan(work))
        errors = {node.address: work.found.errors[node.address].message for node in work.going if node not in work.alive}
        return Removed(name, names, tuple(sorted(work.cleaned)), errors, time.monotonic() - started)


@contextmanager
def prepared(
    name: str,
    nodes: Sequence[str],
    *,
    force: bool = False,
    via: Sequence[Machine] = (),
    login: Login | None = None,
    drain_timeout: float = drain.TIMEOUT,
    home: Path | None = None,
) -> Iterator[RemoveWork]:
    """Find the nodes and make sure that the cluster can do without them; nothing is touched."""
    if not nodes:
        raise UsageError("no node is named", hint="slipway remove NAME 192.168.0.7")
    named = [Machine(text, login) for text in nodes if login is not None and "." in text and _is_address(text)]
    with contextlib.ExitStack() as stack:
        with log.step("read what the cluster keeps about itself"):
            cluster = stack.enter_context(membership.gathered(name, _unknown(named, name, home), via=via, home=home))
        going = _going(cluster, nodes)
        cluster = _led_by_one_that_stays(cluster, going)
        work = RemoveWork(cluster, going, force, drain_timeout, _strays(cluster, going))
        _check(work)
        control_plane = (cluster.first, *(node for node in cluster.alive(cluster.control_plane) if node is not cluster.first))
        work.parting = Parting.of(cluster.record.clusterfile, control_plane, (*cluster.members, *_unlisted(cluster, going)), going)
        yield work


def _unlisted(cluster: Gathered, going: Sequence[SshNode]) -> tuple[SshNode, ...]:
    return tuple(node for node in going if node not in cluster.members)


def _is_address(text: str) -> bool:
    import ipaddress

    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _unknown(named: Sequence[Machine], name: str, home: Path | None) -> list[Machine]:
    """Of the machines on the command line those into which nothing else leads."""
    from harness.host.cluster_cache import ClusterState

    facts = ClusterState.of(name, home).read()
    addresses = {str(entry["address"]) for kind in ("controlPlane", "workers") for entry in facts.get(kind) or ()}
    return [machine for machine in named if machine.address not in addresses]


def _going(cluster: Gathered, texts: Sequence[str]) -> tuple[SshNode, ...]:
    by_word = {node.address: node for node in (*cluster.members, *(node for node in cluster.others if _holds_ours(cluster, node)))}
    by_word |= {node.machine.target: node for node in cluster.members}
    by_word |= {cluster.name(node): node for node in cluster.members}
    # What this machine still remembers though the cluster does not list it: a removal that was not finished.
    others = {node.address for node in cluster.others}
    unlisted = [node for node in cluster.ssh.nodes if node.address not in {*by_word, *others}]
    by_word = {word: node for node in unlisted for word in (node.address, node.machine.target)} | by_word
    asked = [node for node in cluster.alive(unlisted) if node in map(by_word.get, texts)]
    # It may have joined another one since, from another computer.
    elsewhere = owner.foreign(asked, cluster.first, cluster.state.name) if asked else {}
    faults, going = [], []
    for text in dict.fromkeys(texts):
        node = by_word.get(text)
        if node is not None and node in asked and node.address in elsewhere:
            other = elsewhere[node.address]
            hint = f"slipway remove {other} {node.address} --via IP, with a control-plane node of that one, takes it out there"
            faults.append(Fault(text, f"is no node of {cluster.state.name}: it belongs to another cluster {other} by now", hint))
        elif node is None:
            listing = ", ".join(f"{cluster.name(member)} {member.address}" for member in cluster.members)
            faults.append(Fault(text, f"is no node of {cluster.state.name}", f"its nodes: {listing}"))
        elif node not in going:
            going.append(node)
    if faults:
        raise InputError(faults)
    return tuple(going)


def _holds_ours(cluster: Gathered, node: SshNode) -> bool:
    """Return True when a machine that the cluster does not list has something of it: a join was not finished, or it came back."""
    left = node.address in cluster.record.left
    if node.address in cluster.errors:
        return left
    return (left or owner.of(node) != ()) and not owner.foreign([node], cluster.first, cluster.state.name)


def _strays(cluster: Gathered, going: Sequence[SshNode]) -> frozenset[str]:
    unlisted = [node for node in going if node not in cluster.members]
    if not unlisted:
        return frozenset()
    members = etcd.Etcd([node for node in cluster.alive(cluster.control_plane) if node not in going]).members()
    urls = {url for member in members for url in member.peers}
    return frozenset(node.address for node in unlisted if peer_url(node.address) in urls)


def _led_by_one_that_stays(cluster: Gathered, going: Sequence[SshNode]) -> Gathered:
    if cluster.first not in going:
        return cluster
    rest = [node for node in cluster.alive(cluster.control_plane) if node not in going]
    if not rest:
        return cluster
    return dataclasses.replace(cluster, first=membership.answering(rest, {}))


def _check(work: RemoveWork) -> None:
    """Raises CheckError when the cluster could not go on."""
    cluster = work.found
    if not work.staying:
        raise CheckError(
            f"{', '.join(work.name(node) for node in work.leaving_control_plane)}: no control-plane node would be left",
            hint=f"slipway join {cluster.state.name} --control-plane IP adds one first; "
            f"slipway delete {cluster.state.name} deletes all of it",
        )
    if work.first in work.going:
        raise CheckError(
            "none of the control-plane nodes that would stay answers",
            hint="bring one of them back first: " + ", ".join(node.address for node in work.staying),
        )
    if work.leaving_control_plane:
        _check_control_plane(work)
    gone = {node.address for node in work.going}
    if cluster.workers and not [node for node in cluster.workers if node.address not in gone] and not _takes_pods(work):
        log.warning("no worker is left: nothing of the applications can run until another one joins")


def _check_control_plane(work: RemoveWork) -> None:
    cluster = work.found
    holding = membership.holders(cluster) if cluster.record.registry == "own" else frozenset()
    if holding and not any(node.address in holding for node in cluster.alive(work.staying)):
        raise CheckError(
            f"{', '.join(work.name(node) for node in work.leaving_control_plane)}: no other node that answers holds the container images",
            hint=f"slipway join {cluster.state.name} --control-plane IP brings a control-plane node that does",
        )
    _etcd_order(work)
    rest = len(work.staying)
    if rest % 2 == 0:
        log.warning(f"{rest} control-plane nodes survive no more losses than {rest - 1} would: join another one")


def _etcd(work: RemoveWork) -> etcd.Etcd:
    return etcd.Etcd(work.found.alive(work.staying))


def _etcd_order(work: RemoveWork) -> tuple[etcd.EtcdMember, ...]:
    """The members that leave etcd, in their order. Raises CheckError when it would lose its quorum."""
    client = _etcd(work)
    members = client.members()
    urls = {peer_url(node.address) for node in work.leaving_control_plane}
    leaving = [member.id for member in members if urls & set(member.peers)]
    return etcd.order(members, client.sick(members), leaving) if leaving else ()


def _takes_pods(work: RemoveWork) -> bool:
    """Return True when a control-plane node that stays accepts any pod."""
    api = drain.Api(work.first)
    nodes = [api.node(work.name(node)) for node in work.found.alive(work.staying)]
    return any(
        node is not None and not any(taint["effect"] == "NoSchedule" for taint in node["spec"].get("taints") or ()) for node in nodes
    )


# ---- the recipe -------------------------------------------------------------------------------------------------------


def plan(work: RemoveWork) -> list[Step]:
    """List the steps: first what can still be taken back, then what makes the others do without the node, and the machine last."""
    recipe = Plan()
    recipe.add(_drain(work))
    if any(work.parting.chosen(Phase.PRE_CLEAN_HOST, node) for node in work.alive):
        recipe.add(_part(work))
    if work.leaving_control_plane:
        recipe.add(_tell_balancers(work), _stop_control_plane(work), _leave_etcd(work))
    recipe.add(_delete_nodes(work))
    if work.alive:
        recipe.add(_clean(work))
    recipe.add(_record(work))
    return recipe.steps


def _drain(work: RemoveWork) -> Step:
    api = drain.Api(work.first)

    def action(node: Node) -> str:
        name = work.name(node)
        if node not in work.alive:
            hooks = {hook.name: None for phase in _PARTING for hook in work.parting.chosen(phase, node)}
            without = f"; hooks are not run there: {', '.join(hooks)}" if hooks else ""
            log.warning(f"{work.found.errors[node.address].message}: pods of {name} are started elsewhere at once{without}")
            return f"{name}: {drain.let_go(api, name)} pods let go"
        return f"{name}: {drain.drain(api, name, force=work.force, machine=node, timeout=work.timeout)} pods evicted"

    return Step("drain", "drain the nodes", action, work.going)


_PARTING = (Phase.PRE_CLEAN_HOST, Phase.POST_CLEAN_HOST)


def _part(work: RemoveWork) -> Step:
    """The hooks for the end of a machine, while it still is a node and has all that it had but pods."""

    def action(node: Node) -> str:
        hooks, journal = work.parting.chosen(Phase.PRE_CLEAN_HOST, node), Journal()
        inputs = digest([(hook.name, hook.data) for hook in hooks])
        # One that has been cleaned already is to stay clean: not even what was done is noted there.
        if not hooks or not owner.of(node) or journal.has(node, "parting", inputs):
            return ""
        work.parting.run(Phase.PRE_CLEAN_HOST, node)
        journal.add(node, "parting", inputs)
        return ", ".join(hook.name for hook in hooks)

    return Step("hooks", "run the hooks of machines that go", action, work.alive, after=("drain",))


def _tell_balancers(work: RemoveWork) -> Step:
    """Lead every balancer away from the control-plane nodes that leave, before anything else."""

    def action() -> str:
        cluster = work.found
        control_plane = [(cluster.name(node), node.address) for node in work.staying]
        holding = frozenset(membership.holders(cluster) - {node.address for node in work.leaving_control_plane})
        texts = membership.balancers(cluster, control_plane, holding)
        others = [node for node in cluster.alive(cluster.members) if node.address in texts and node not in work.going]
        told = each(others, lambda node: membership.tell_balancer(node, texts[node.address]))
        silent = [work.name(node) for node in cluster.members if node.address in texts and node not in others and node not in work.going]
        if silent:
            log.warning(
                f"{', '.join(silent)} does not answer: its balancer still knows the control-plane nodes that leave, and does without them"
            )
        return f"{sum(told)} told"

    return Step("tell-balancers", "tell the balancers", action, after_all=("drain", "hooks"))


def _stop_control_plane(work: RemoveWork) -> Step:
    """In good order: an API server that ends by itself takes its address out of the service ``kubernetes``, and serves a little longer."""

    def action(node: Node) -> None:
        if node in work.alive:
            node.run(assets.script("stop_control_plane", port=f"{API_PORT:04X}"), timeout=90)

    return Step(
        "stop-control-plane", "stop the control-plane nodes that leave", action, work.leaving_control_plane, after_all=("tell-balancers",)
    )


def _leave_etcd(work: RemoveWork) -> Step:
    def action() -> str:
        client = _etcd(work)
        # Asked anew: somebody may have died since.
        leaving = _etcd_order(work)
        client.hand_over(leaving)
        for member in leaving:
            _remove_member(client, member)
        return f"{len(leaving)} members"

    return Step("leave-etcd", "remove the control-plane nodes from etcd", action, after_all=("stop-control-plane",))


def _remove_member(client: etcd.Etcd, member: etcd.EtcdMember) -> None:
    """etcd refuses, and means it, while a new leader is being found or a member has just come."""
    deadline = time.monotonic() + 30
    while True:
        try:
            client.remove(member)
        except CommandError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)
        else:
            return


def _delete_nodes(work: RemoveWork) -> Step:
    api = drain.Api(work.first)

    def action(node: Node) -> None:
        drain.forget(api, work.name(node))

    return Step("delete-nodes", "delete the nodes", action, work.going, after=("drain",), after_all=("hooks", "leave-etcd"))


def _clean(work: RemoveWork) -> Step:
    def action(node: Node) -> str:
        content = node.run(f"[ -e {STATE} ] && ls -A {STATE} | head -n 1 || true").stdout.strip()
        if not content:
            return f"{node.name} is clean"
        delete.clean(node)
        work.parting.run(Phase.POST_CLEAN_HOST, node)
        work.cleaned.append(node.name)
        return ""

    return Step("clean", "clean the machines", action, work.alive, after=("delete-nodes",))


def _record(work: RemoveWork) -> Step:
    def action() -> None:
        gone = [node.address for node in work.going]
        uncleaned = [word for node in work.going if node not in work.alive for word in (node.address, work.name(node))]
        back = [word for node in work.alive for word in (node.address, work.name(node), node.name)]
        record = membership.update(work.first, gone=gone, left=uncleaned, back=back)
        membership.remember(work.found, record, kubeconfig_from=work.first)
        with contextlib.suppress(SlipwayError):
            each(work.alive, lambda node: node.disconnect())

    return Step("record", "record the members", action, after_all=("clean",) if work.alive else ("delete-nodes",))

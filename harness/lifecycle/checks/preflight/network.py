"""Preflight checks of names, clocks, addresses and connections between machines."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.lifecycle.checks.facts import TIME_SERVICES, MachineFacts
from harness.lifecycle.checks.findings import Result, Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.preflight.core import VXLAN_PORT, Target, Wanted, check, check_together, occupied, words
from harness.lifecycle.provision.node_files import FORWARDING6
from harness.runtimes import API_NAME, DNS_DOMAIN, IpNetwork

SKEW = 2.0
"""Difference of two clocks in seconds above which etcd complains and logs mislead; it is measured to some tenths."""
BEHIND, AHEAD = 25 * 60, 86400
"""Seconds against the local clock: certificates are valid from half an hour ago."""
_MOST_SEARCHES = 29
"""Search domains that a pod takes over: of its 32 domains three are the cluster's own."""
_HOST_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


@check_together("hostname", "host names", "nodes are known by their host names, which must be valid and unique", needed=True)
def _hostname(targets: Sequence[Target], _: Wanted) -> Mapping[str, Verdict]:
    verdicts = {target.address: ok(target.machine.host) for target in targets}
    remedy = "give each its own: hostnamectl set-hostname NAME"
    for name, addresses in _shared(targets, lambda machine: machine.host):
        verdicts |= dict.fromkeys(addresses, failed(f"has the same host name {name}", remedy))
    for target in targets:
        name = target.machine.host
        if not _HOST_NAME.fullmatch(name) or name in ("localhost", "localhost.localdomain") or len(name) > 63:
            text = f"{name!r} cannot be the name of a node"
            verdicts[target.address] = failed(text, "use letters, digits and hyphens: hostnamectl set-hostname NAME")
    return verdicts


def _shared(targets: Sequence[Target], of: Callable[[MachineFacts], str]) -> Iterable[tuple[str, list[str]]]:
    """Values that several machines share, with their addresses."""
    owners: dict[str, list[str]] = {}
    for target in targets:
        owners.setdefault(of(target.machine), []).append(target.address)
    return ((value, addresses) for value, addresses in owners.items() if value and len(addresses) > 1)


@check_together("machine-id", "machine ids", "copies of a machine share one identity: addresses and interfaces collide")
def _machine_id(targets: Sequence[Target], _: Wanted) -> Mapping[str, Verdict]:
    verdicts = {target.address: ok(target.machine.machine_id[:8] or "none") for target in targets}
    for _id, addresses in _shared(targets, lambda machine: machine.machine_id):
        remedy = "rm /etc/machine-id; systemd-machine-id-setup; then restart it"
        verdicts |= dict.fromkeys(addresses, warning("has the same /etc/machine-id as another", remedy))
    for _id, addresses in _shared(targets, lambda machine: "" if machine.contained else machine.uuid):
        remedy = "give the virtual machine an identity of its own"
        verdicts |= dict.fromkeys(addresses, warning("has the same product_uuid as another", remedy))
    return verdicts


@check_together("mac", "hardware addresses", "each machine has its own hardware address")
def _mac(targets: Sequence[Target], _: Wanted) -> Mapping[str, Verdict]:
    macs = {target.address: link.mac for target in targets if (link := target.machine.link(target.address))}
    owners: dict[str, list[str]] = {}
    for address, mac in macs.items():
        owners.setdefault(mac, []).append(address)
    verdicts = {target.address: ok(macs[target.address]) if target.address in macs else unknown("not known") for target in targets}
    for mac, addresses in owners.items():
        if mac and mac != "00:00:00:00:00:00" and len(addresses) > 1:
            verdicts |= dict.fromkeys(
                addresses, failed(f"has the same hardware address {mac} as another", "give the virtual machine its own")
            )
    return verdicts


@check_together("clock", "clocks", "clocks agree: certificates have a start time, and etcd compares times")
def clock(targets: Sequence[Target], wanted: Wanted) -> Mapping[str, Verdict]:
    remedy = "run chrony or another time service on all"
    verdicts: dict[str, Verdict] = {}
    clocks = sorted(targets, key=lambda target: target.machine.ahead)
    middle = clocks[len(clocks) // 2].machine.ahead if clocks else 0
    for target in targets:
        ahead = target.machine.ahead
        apart = ahead - middle
        if (ahead < -BEHIND or ahead > AHEAD) and target.address not in wanted.ours:
            text = f"its clock is {_time(ahead)} of this machine's: certificates made here would not be valid"
            verdicts[target.address] = failed(text, "set it: date -s, then run a time service")
        elif abs(apart) > SKEW:
            verdicts[target.address] = warning(f"its clock is {_time(apart)} of the others'", remedy)
        elif abs(ahead) > SKEW and len(targets) == 1:
            verdicts[target.address] = warning(f"its clock is {_time(ahead)} of this machine's", remedy)
        else:
            verdicts[target.address] = ok(f"{ahead:+.1f} s")
    if len(targets) == 2 and not any(verdict.result is Result.FAILED for verdict in verdicts.values()):
        # Of two clocks either may be right.
        first, last = clocks
        if last.machine.ahead - first.machine.ahead > SKEW:
            apart = last.machine.ahead - first.machine.ahead
            verdicts[first.address] = ok(f"{first.machine.ahead:+.1f} s")
            verdicts[last.address] = warning(f"its clock is {apart:.0f} s ahead of that of {first.address}", remedy)
    return verdicts


def _time(seconds: float) -> str:
    size = abs(seconds)
    text = f"{size:.0f} s" if size < 120 else f"{size / 60:.0f} min" if size < 7200 else f"{size / 3600:.0f} h"
    return f"{text} {'ahead' if seconds > 0 else 'behind'}"


@check("time-service", "time service", "a service keeps the clock right")
def _time_service(target: Target, _: Wanted) -> Verdict:
    machine = target.machine
    running = sorted(machine.services & set(TIME_SERVICES))
    if running:
        return ok(running[0])
    if machine.contained:
        return ok("the clock is that of the machine it runs on")
    if not machine.systemd:
        return unknown("cannot be determined without systemd")
    return warning("no time service runs", "install chrony, or: timedatectl set-ntp true")


# ---- the network ------------------------------------------------------------------------------------------------------


@check("address", "address", "the machine has the address that other nodes will use")
def _address(target: Target, _: Wanted) -> Verdict:
    try:
        ipaddress.ip_address(target.address)
    except ValueError:
        return failed(f"{target.address} is a name", "give its address: nodes are identified by addresses")
    if not target.machine.addresses:
        return unknown("does not report its addresses")
    if target.address not in target.machine.addresses:
        text = f"has {words(target.machine.addresses[:3])}, and not {target.address}"
        return failed(
            f"{text}: etcd and the API server cannot listen there", "give the address that is on the machine; reach it by a jump host"
        )
    return ok(target.machine.on.get(target.address, "exists"))


@check("ipv6", "IPv6", "for dual stack a machine has addresses of both families, and forwards packets of both")
def _ipv6(target: Target, wanted: Wanted) -> Verdict:
    if _version(target.address) == 6:
        text = f"is known by its IPv6 address {target.address}: IPv6-only clusters are not supported"
        return failed(text, "give its IPv4 address; for dual stack the IPv6 address is found beside it")
    if not wanted.network.dual:
        return ok("the networks are IPv4")
    machine, single = target.machine, "or use IPv4 only: one network each in PodCIDR and SvcCIDR"
    link = machine.on.get(target.address, "its interface")
    address = machine.address6(target.address)
    faults: list[tuple[str, str]] = []
    if address is None:
        faults.append((f"has no permanent IPv6 address on {link}", f"give it one, unique local (fd00::/8) or global, {single}"))
    if f"/proc/sys/{FORWARDING6}" in machine.readonly:
        faults.append(("cannot switch IPv6 forwarding on", f"boot without ipv6.disable=1; a container must be privileged; {single}"))
    if machine.without6:
        faults.append(("switches IPv6 off for new interfaces, those of pods among them", "sysctl net.ipv6.conf.default.disable_ipv6=0"))
    if machine.features and not machine.nftables and machine.nat6 != "yes":
        reason = (machine.nat6 or "no ip6tables").removeprefix("no ")
        faults.append((f"can translate no IPv6 addresses for Services ({reason})", f"kernel 5.13 or newer with nf_tables, {single}"))
    if faults:
        return failed(words((text for text, _ in faults), "; "), words((remedy for _, remedy in faults), "; "))
    if machine.unforward6:
        text = f"{words(machine.unforward6)} switches net.ipv6.conf.all.forwarding off"
        return warning(text, "remove the line: after a restart pods would have no IPv6")
    if address in machine.advertised:
        text = f"has {address} from router advertisements, which the kernel ignores once it forwards"
        return warning(text, f"sysctl net.ipv6.conf.{link}.accept_ra=2, for good in /etc/sysctl.d; or an address of its own")
    return ok(address or "")


def _version(address: str) -> int:
    try:
        return ipaddress.ip_address(address).version
    except ValueError:
        return 0


@check("networks", "networks", "the networks of pods and Services are not in use elsewhere")
def _networks(target: Target, wanted: Wanted) -> Verdict:
    named = (("PodCIDR", wanted.network.pod_networks), ("SvcCIDR", wanted.network.service_networks))
    verdicts = [
        verdict for name, networks in named for network in networks if (verdict := _overlap(target, wanted, name, network)) is not None
    ]
    if not verdicts:
        return ok(f"{wanted.network.pods}, {wanted.network.services}")
    return min(verdicts, key=lambda verdict: verdict.result is not Result.FAILED)


def _overlap(target: Target, wanted: Wanted, name: str, network: IpNetwork) -> Verdict | None:
    machine, text = target.machine, str(network)
    remedy = f"choose another: -e {name}=..."
    if _inside(target.address, network):
        return failed(f"lies in {name} {text}", remedy)
    if target.address in wanted.ours or occupied(target):
        # Routes to these networks belong to the cluster on the machine.
        return None
    inside = [address for address in machine.addresses if _inside(address, network)]
    if inside:
        return failed(f"has {inside[0]}, in {name} {text}", remedy)
    for route in machine.routes:
        other = ipaddress.ip_network(route.network, strict=False)
        if route.is_default or other.version != network.version or not other.overlaps(network):
            continue
        where = f"{route.network} {f'by {route.gateway}' if route.gateway else f'on {route.link}'}"
        if route.gateway and other.prefixlen < network.prefixlen:
            # The cluster's routes are narrower, and win; other hosts in these networks are out of reach.
            return warning(f"routes {where}, with {name} {text} in it", f"if other hosts have these addresses, {remedy}")
        return failed(f"routes {where}, in {name} {text}", remedy)
    servers = [server for server in machine.nameservers if _inside(server, network)]
    return failed(f"asks the name server {servers[0]}, in {name} {text}", remedy) if servers else None


def _inside(address: str, network: IpNetwork) -> bool:
    try:
        return ipaddress.ip_address(address) in network
    except ValueError:
        return False


@check("default-route", "default route", "the kernel sends packets to Services only with a route for their addresses")
def _default_route(target: Target, wanted: Wanted) -> Verdict:
    routes = target.machine.routes
    if not routes:
        return unknown("does not report its routes")
    via: list[str] = []
    for services in wanted.network.service_networks:
        fits = [route for route in routes if _covers(ipaddress.ip_network(route.network), services)]
        if not fits:
            link = target.machine.on.get(target.address, "DEVICE")
            command = "ip route" if services.version == 4 else "ip -6 route"
            remedy = f"{command} add {services} dev {link}, for good in the network's configuration; or a default route"
            family = " of IPv6" if wanted.network.dual and services.version == 6 else ""
            return warning(f"no route leads to the addresses{family} of Services: the machine itself cannot use them", remedy)
        via.append(fits[0].gateway or fits[0].link)
    return ok(f"by {words(dict.fromkeys(via))}")


def _covers(other: IpNetwork, network: IpNetwork) -> bool:
    return other.version == network.version and other.supernet_of(network)  # type: ignore[arg-type]  # of the same version


@check_together("mtu", "packet size", "large packets get through, also in tunnels of the pod network")
def _mtu(targets: Sequence[Target], _: Wanted) -> Mapping[str, Verdict]:
    sizes = {target.address: link.mtu for target in targets if (link := target.machine.link(target.address)) and link.mtu}
    verdicts = {target.address: ok(str(sizes[target.address])) if target.address in sizes else unknown("not known") for target in targets}
    largest = max(sizes.values(), default=0)
    for address, size in sizes.items():
        if size < 1330:
            verdicts[address] = warning(f"packets have {size} bytes at most: too few for tunnels of the pod network", "set the MTU to 1500")
        elif size < largest:
            verdicts[address] = warning(f"packets have {size} bytes at most, those of others {largest}", "set the same MTU on all machines")
    return verdicts


_OUTCOMES = {"refused": "refused by a firewall", "silent": "no answer", "unroutable": "no route"}


@check_together(
    "reach",
    "connections between machines",
    "machines reach each other on the ports of the API, etcd, registry and kubelets",
)
def _reach(targets: Sequence[Target], wanted: Wanted) -> Mapping[str, Verdict]:
    listened = {target.address: target.probe.listened for target in targets if target.probe}
    failures: dict[str, dict[tuple[str, int], list[str]]] = {}
    tried: set[str] = set()
    for target in targets:
        for (address, port), how in (target.probe.reached if target.probe else {}).items():
            tried.add(address)
            # Without a listener a refusal comes from the machine itself, and shows that it is reached.
            if how in _OUTCOMES and not (how == "refused" and port not in listened.get(address, frozenset())):
                failures.setdefault(address, {}).setdefault((how, port), []).append(target.address)
    verdicts = {
        target.address: ok("is reached")
        if target.address in tried
        else ok("there is no other machine")
        if len(targets) == 1
        else unknown("could not be tried (bash)")
        for target in targets
    }
    if wanted.ours >= {target.address for target in targets}:
        verdicts = {target.address: ok("the cluster runs already") for target in targets}
    for address, failed_ways in failures.items():
        texts = []
        for how, reason in _OUTCOMES.items():
            ports = sorted({port for (kind, port) in failed_ways if kind == how})
            if ports:
                sources = dict.fromkeys(source for (kind, _), names in failed_ways.items() if kind == how for source in names)
                texts.append(f"TCP {words(ports)} from {words(sources)} ({reason})")
        verdicts[address] = failed(f"is not reached on {words(texts, '; ')}", "allow it in the firewalls of both, and between them")
    return verdicts


@check_together("pod-packets", "packets of pods", f"UDP {VXLAN_PORT}, the tunnel of the pod network, passes between machines")
def _pod_packets(targets: Sequence[Target], wanted: Wanted) -> Mapping[str, Verdict]:
    if not wanted.vxlan:
        return {target.address: ok("another pod network is used") for target in targets}
    beside = {other: target.address for target in targets if (other := target.machine.address6(target.address))}
    tried: set[str] = set()
    lost: dict[str, dict[str, list[str]]] = {}
    for target in targets:
        for address, returned in (target.probe.packets if target.probe else {}).items():
            where, family = (beside[address], " by IPv6") if address in beside else (address, "")
            tried.add(where)
            if not returned:
                lost.setdefault(where, {}).setdefault(family, []).append(target.address)
    verdicts = {target.address: ok("came back" if target.address in tried else "there is no other machine") for target in targets}
    for address, sources in lost.items():
        from_whom = words((f"from {words(names)}{family}" for family, names in sources.items()), " and ")
        text = f"UDP {VXLAN_PORT} {from_whom} does not come back: pods would not reach each other"
        verdicts[address] = warning(text, "allow it in the firewalls of both, and between them")
    return verdicts


@check("hosts-file", "/etc/hosts", f"/etc/hosts has no other address for {API_NAME}, localhost or the machine's own name")
def _hosts_file(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    api = [address for address, name in machine.hosts if name == API_NAME]
    if api and target.address not in wanted.ours:
        return failed(f"/etc/hosts has {api[0]} for {API_NAME}", "remove the line: the first one counts")
    local = [address for address, name in machine.hosts if name == "localhost"]
    wrong = [address for address in local if not _loopback(address)]
    if wrong:
        return failed(f"/etc/hosts has {wrong[0]} for localhost", "write: 127.0.0.1 localhost")
    if machine.hosts and not local:
        return warning("/etc/hosts has no localhost", "write: 127.0.0.1 localhost")
    own = [address for address, name in machine.hosts if name == machine.host and not _loopback(address)]
    if own and machine.addresses and not set(own) & set(machine.addresses):
        return warning(f"/etc/hosts has {own[0]} for {machine.host}, which the machine has not", f"write: {target.address} {machine.host}")
    return ok("fine")


def _loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


@check("resolver", "name servers", "the machine's name servers do not forward to the cluster's DNS")
def _resolver(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    loops = [server for server in machine.nameservers if _loopback(server) or server == wanted.network.dns]
    if loops:
        text = f"/etc/resolv.conf names {loops[0]}: the cluster's DNS, which forwards unknown names, would ask itself"
        return warning(text, "name the upstream servers there")
    if len(machine.nameservers) > 3:
        return warning(f"/etc/resolv.conf names {len(machine.nameservers)} servers", "only three are used, by pods as well")
    return ok(words(machine.nameservers) or "none")


@check("search-domains", "search domains", "pods take over the machine's search domains, up to a limit")
def _search_domains(target: Target, _: Wanted) -> Verdict:
    searches = [domain.rstrip(".").lower() for domain in target.machine.searches]
    if DNS_DOMAIN in searches or any(domain.endswith(f".{DNS_DOMAIN}") for domain in searches):
        return warning(f"searches in {DNS_DOMAIN}, the cluster's own domain", "remove it from /etc/resolv.conf")
    if len(searches) > _MOST_SEARCHES or len(" ".join(searches)) + 60 > 2048:
        text = f"pods get the first {_MOST_SEARCHES} only: shorten search in /etc/resolv.conf"
        return warning(f"has {len(searches)} search domains", text)
    return ok(words(searches) or "none")


@check("proxy", "proxies", "no proxy of the machine gets requests for the cluster itself")
def _proxy(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    if not machine.proxies:
        return ok("none")
    direct = [word.strip().lstrip(".*") for word in machine.direct.split(",")]
    if "" in direct and machine.direct.strip() == "*":
        return ok("for nothing")
    if DNS_DOMAIN in direct or API_NAME in direct:
        return ok("not for the cluster")
    remedy = (
        f"NO_PROXY=.{DNS_DOMAIN},{wanted.network.services},{wanted.network.pods},{target.address} beside it (systemctl set-environment)"
    )
    return warning(f"services get {words(machine.proxies)}: kubelets would use it for the API server", remedy)

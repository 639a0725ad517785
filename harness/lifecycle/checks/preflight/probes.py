"""Probes between machines: connections to the ports of a cluster, packets of the pod network, and the speed of etcd's disk.

On each machine a listener runs for some seconds on the ports of Kubernetes, in Perl or Python: a minimal Debian has the former, a minimal
Red Hat the latter. The connections are made by bash. Nothing stays behind.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from harness import assets, log, untrusted
from harness.errors import SlipwayError
from harness.lifecycle.checks.facts import LISTENER
from harness.lifecycle.checks.preflight import VXLAN_PORT, ProbeResult, Target, Wanted, ports_of, ways
from harness.nodes import Node, each

_SECONDS = 60
"""After these a listener ends by itself, also when slipway was killed."""

# A connection is reset, not closed: a closed one would block the port for a minute.
_PERL = """use Socket qw(SOL_SOCKET SO_LINGER); use IO::Socket::IP; use IO::Select; use POSIX ();
my (undef, $host, $udp, @ports) = @ARGV;
my $all = IO::Select->new; my @up; my $echo;
for my $port (@ports) {
  my $socket = IO::Socket::IP->new(LocalHost => $host, LocalService => $port, Type => SOCK_STREAM, Listen => 128, ReuseAddr => 1) or next;
  $all->add($socket); push @up, $port;
}
if ($udp && ($echo = IO::Socket::IP->new(LocalHost => $host, LocalService => $udp, Type => SOCK_DGRAM))) {
  $all->add($echo); push @up, "udp";
}
defined(my $pid = fork) or exit 1;
if ($pid) { print "listening $pid @up\\n"; exit 0; }
POSIX::setsid();
open STDIN, "<", "/dev/null"; open STDOUT, ">", "/dev/null"; open STDERR, ">", "/dev/null";
alarm SECONDS;
while (my @ready = $all->can_read) {
  for my $socket (@ready) {
    if ($echo && $socket == $echo) { my $from = recv($echo, my $data, 512, 0); send($echo, $data, 0, $from) if defined $from; }
    elsif (my $other = $socket->accept) { setsockopt($other, SOL_SOCKET, SO_LINGER, pack("ii", 1, 0)); close $other; }
  }
}"""

_PYTHON = """import os, select, signal, socket, struct, sys
host, udp, *ports = sys.argv[2:]
def bound(port, kind):
    family, _, _, _, place = socket.getaddrinfo(host, port, type=kind)[0]
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(place)
    return made
up, sockets, echo = [], [], None
for port in ports:
    try:
        made = bound(port, socket.SOCK_STREAM)
        made.listen(128)
        sockets.append(made)
        up.append(port)
    except OSError:
        pass
if udp != "0":
    try:
        echo = bound(udp, socket.SOCK_DGRAM)
        sockets.append(echo)
        up.append("udp")
    except OSError:
        pass
pid = os.fork()
if pid:
    print("listening", pid, *up)
    sys.exit(0)
os.setsid()
null = os.open("/dev/null", os.O_RDWR)
for number in range(3):
    os.dup2(null, number)
signal.alarm(SECONDS)
while True:
    for made in select.select(sockets, [], [])[0]:
        if made is echo:
            data, other = echo.recvfrom(512)
            echo.sendto(data, other)
        else:
            other = made.accept()[0]
            other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            other.close()"""


def listen(*words: str) -> str:
    """Shell text that starts a listener; ``words``: an address, a UDP port or 0, and TCP ports."""
    programs = {"perl": _PERL, "python": _PYTHON}
    return assets.script("listen", LISTENER, *words, **{name: text.replace("SECONDS", str(_SECONDS)) for name, text in programs.items()})


REACH = assets.script("reach")
"""Shell functions: ``reach ADDRESS PORT`` and ``packet ADDRESS PORT`` print the outcome."""

_REACH = """if command -v bash > /dev/null && command -v timeout > /dev/null; then
WAYS
wait
fi
"""

_SYNC = assets.script("sync_speed")


@dataclasses.dataclass(frozen=True)
class Listener:
    """A listener on a machine."""

    pid: int
    ports: frozenset[int]
    udp: bool
    beside: Listener | None = None
    """The one on its IPv6 address, for the pod network alone."""


def probed(nodes: Mapping[str, Node], targets: Sequence[Target], wanted: Wanted, members: Sequence[Target] = ()) -> tuple[Target, ...]:
    """Add the results of the probes to the targets, and to the members that took part. ``nodes`` are by address.

    A probe that cannot run stays unknown. Raises NodeError for a machine that is lost meanwhile.
    """
    new = [target for target in targets if target.address not in wanted.ours]
    if not new:
        return (*members, *targets)
    sources = [*new, *(member for member in members if member.is_control_plane)] if len(new) + len(members) > 1 else new
    every_machine = (*members, *targets)
    with _listening(nodes, new if len(every_machine) > 1 else [], wanted) as listeners:

        def probe(source: Target) -> Target:
            others = every_machine if source in new else new
            script = REACH + _REACH.replace("WAYS", "\n".join(_ways(source, others, wanted, listeners)))
            if source.is_control_plane and source in new:
                script += _SYNC
            text = nodes[source.address].run(script, check=False, timeout=120).stdout
            listener = listeners.get(source.address)
            result = dataclasses.replace(parse(text), listened=listener.ports if listener else frozenset())
            return dataclasses.replace(source, probe=result)

        results = {target.address: target for target in each(sources, probe)}
    return tuple(results.get(target.address, target) for target in every_machine)


def _ways(source: Target, others: Sequence[Target], wanted: Wanted, listeners: Mapping[str, Listener]) -> Iterator[str]:
    """Shell text that makes all connections at the same time."""
    for address, port in ways(source, others, wanted):
        yield f"reach {address} {port} &"
    if wanted.vxlan:
        for other in others:
            # All to all would be too many; a firewall between two networks also lies between them and the control plane.
            if other.address != source.address and (other.is_control_plane or source.is_control_plane):
                listener = listeners.get(other.address)
                if listener and listener.udp:
                    yield f"packet {other.address} {VXLAN_PORT} &"
                if listener and listener.beside and listener.beside.udp:
                    yield f"packet {other.machine.address6(other.address)} {VXLAN_PORT} &"


@contextlib.contextmanager
def _listening(nodes: Mapping[str, Node], targets: Sequence[Target], wanted: Wanted) -> Iterator[dict[str, Listener]]:
    """Run listeners on the machines that can, while the block runs; yield them by address."""
    listeners: dict[str, Listener] = {}

    def begin(target: Target) -> None:
        ports = sorted(set(ports_of(target, wanted)) - target.machine.ports)
        listener = start(target, target.address, VXLAN_PORT if wanted.vxlan else 0, *ports)
        if listener:
            listeners[target.address] = listener
            beside = target.machine.address6(target.address)
            if wanted.vxlan and wanted.network.dual and beside:
                listeners[target.address] = dataclasses.replace(listener, beside=start(target, beside, VXLAN_PORT))

    def start(target: Target, *words: str | int) -> Listener | None:
        return listening(nodes[target.address].run(listen(*map(str, words)), check=False, timeout=60).stdout)

    def end(target: Target) -> None:
        listener = listeners[target.address]
        pids = f"{listener.pid} {listener.beside.pid if listener.beside else ''}".strip()
        try:
            nodes[target.address].run(f"kill {pids} 2>/dev/null || true", timeout=30)
        except SlipwayError as error:
            log.debug(f"{target.address}: its listener ends by itself: {error.message}")

    try:
        each(targets, begin)
        yield listeners
    finally:
        each([target for target in targets if target.address in listeners], end)


def listening(text: str) -> Listener | None:
    """Read the output of a listener; None when the machine has no program for it."""
    for line in text.splitlines():
        word, *rest = line.split() or [""]
        # It is killed by this number: 0 and 1 would hit other processes.
        pid = untrusted.number(rest[0], maximum=1 << 22) if rest else None
        if word == "listening" and pid is not None and pid > 1:
            ports = (untrusted.number(port, maximum=65535) for port in rest[1:])
            return Listener(pid, frozenset(port for port in ports if port is not None), "udp" in rest)
    return None


def parse(text: str) -> ProbeResult:
    """Read the output of the probes; lines that are not understood are left out."""
    reached: dict[tuple[str, int], str] = {}
    packets: dict[str, bool] = {}
    syncs: list[float] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["reach"] and len(words) == 4 and (port := untrusted.number(words[2], maximum=65535)) is not None:
            reached[words[1], port] = words[3]
        elif words[:1] == ["packet"] and len(words) == 3:
            packets[words[1]] = words[2] == "yes"
        elif words[:1] == ["sync"] and len(words) == 2:
            seconds = untrusted.decimal(words[1])
            if seconds is not None:
                syncs.append(seconds)
    return ProbeResult(reached, frozenset(), tuple(syncs), packets)

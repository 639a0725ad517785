"""Names of machines: host names and entries of ssh_config, resolved to the addresses by which Kubernetes knows the machines."""

from __future__ import annotations

import ipaddress
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness import untrusted
from harness.errors import Fault, InputError, NodeError
from harness.nodes import Login, Machine, each, ssh_config, together
from harness.nodes.ssh import SshConnections, SshNode

_ELSEWHERE = "192.0.2.1"
"""An address for documentation: the way there is the default route."""


def resolve(logins: Mapping[str, Login], recorded: Mapping[str, str], pinned: Path | None) -> dict[str, str]:
    """The address of each name. ``recorded``: addresses of names that are known already; ``pinned``: host keys, by address.

    ssh says which host a name stands for. Its address comes from the resolver of this machine, and from the machine itself where a jump
    host is on the way: this machine may not be able to resolve it, and is not the one that connects to it.

    Raises InputError with all names that have no address, several, or another one than is recorded; NodeError when a machine that must be
    asked cannot be.
    """
    machines = [Machine(recorded.get(name, name), login, name) for name, login in logins.items()]
    with tempfile.TemporaryDirectory(prefix="slipway-names-") as folder, SshConnections(Path(folder), machines, pinned) as ssh:
        ssh.prepare()
        answers = dict(zip(logins, each(ssh.nodes, _answer), strict=True))
    faults = [answer for answer in answers.values() if isinstance(answer, Fault)]
    addresses = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    faults += moved(addresses, recorded)
    faults += _shared(addresses)
    if faults:
        raise InputError(faults)
    failures = [answer for answer in answers.values() if isinstance(answer, NodeError)]
    if failures:
        raise together(failures)
    return addresses


def _answer(node: SshNode) -> str | Fault | NodeError:
    if node.machine.is_own:
        return _own_address(node.machine.target)
    settings = ssh_config.effective(node.ssh.own, node.machine.target)
    host = settings["hostname"]
    if not _is_address(host) and any(settings.get(key, "none") != "none" for key in ("proxyjump", "proxycommand")):
        try:
            node.connect()
            return node.reported_address()
        except NodeError as error:
            return error
    return _looked_up(node.machine.target, host)


def _looked_up(name: str, host: str) -> str | Fault:
    """The address that this machine knows for a host; IPv6 addresses beside an IPv4 one are the same machine's."""
    shown = name if host == name.lower() else f"{name} ({host})"
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as wrong:
        reason = wrong.strerror if isinstance(wrong, OSError) else "it cannot be a host name"
        return Fault(shown, f"has no address here: {reason}", "check the name and ~/.ssh/config, or give the address")
    candidates = sorted(each for each in found if ":" not in each) or sorted(found)
    if len(candidates) > 1:
        return Fault(shown, f"has several addresses: {', '.join(candidates)}", "give the one that other nodes reach, or a name for it")
    address = ipaddress.ip_address(candidates[0])
    if not untrusted.is_reachable(address):
        return Fault(shown, f"resolves to {address}, by which no other node reaches it", "give its address in the network of the cluster")
    return str(address)


def _own_address(name: str) -> str | Fault:
    """The address by which this machine reaches others; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((_ELSEWHERE, 9))
        except OSError as wrong:
            hint = f"in a Clusterfile, sshHosts: {{10.0.0.1: {name}}} says which of its addresses the node has"
            return Fault(name, f"has no route to other networks, so its address is not known: {wrong.strerror}", hint)
        return str(probe.getsockname()[0])


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def moved(addresses: Mapping[str, str], recorded: Mapping[str, str]) -> list[Fault]:
    """A fault for each name whose address is not the recorded one."""
    return [
        Fault(
            name,
            f"is {address} now, and was {recorded[name]} when it became a node",
            f"correct the name, or remove {recorded[name]} from the cluster first; a node keeps its address",
        )
        for name, address in addresses.items()
        if recorded.get(name, address) != address
    ]


def _shared(addresses: Mapping[str, str]) -> list[Fault]:
    owners: dict[str, list[str]] = {}
    for name, address in addresses.items():
        owners.setdefault(address, []).append(name)
    return [Fault(", ".join(names), f"are one machine: {address}", "name it once") for address, names in owners.items() if len(names) > 1]

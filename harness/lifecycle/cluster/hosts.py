"""Machines that are given by name: a Clusterfile, options and lists of machines with the addresses in place of the names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.clusterfile import ClusterDocument, Clusterfile, SshSettings, validators
from harness.errors import Fault, InputError
from harness.host.cluster_cache import DEFAULT_NAME, ClusterState
from harness.lifecycle.cluster import request
from harness.nodes import Login, Machine, names


def resolved(
    written: Clusterfile | None, flags: ClusterDocument, password: str | None, *, home: Path | None = None
) -> tuple[Clusterfile | None, ClusterDocument]:
    """A Clusterfile and the flags beside it, with addresses in place of names; ``ssh_hosts`` keeps the names.

    Raises InputError and NodeError as ``names.resolve`` does, and InputError for logins as ``request.machines`` does.
    """
    own = written.cluster if written and written.cluster else request.NO_FLAGS
    settings: dict[str, SshSettings] = {}
    for document in (flags, own):
        for host in document.hosts:
            for name in filter(validators.is_name, host.ips):
                settings.setdefault(name, flags.ssh.over(host.ssh.over(own.ssh)))
    if not settings:
        return written, flags
    faults: list[Fault] = []
    path = written.path if written else ""
    logins = {name: request.login_of(ssh, password, path, faults) for name, ssh in settings.items()}
    if faults:
        raise InputError(dict.fromkeys(faults))
    addresses = _addresses(logins, flags.name or own.name or DEFAULT_NAME, home)
    faults = [*_listed_twice(own, addresses), *_listed_twice(flags, addresses)]
    if faults:
        raise InputError(faults)
    if written and written.cluster:
        written = dataclasses.replace(written, cluster=_with(written.cluster, addresses))
    return written, _with(flags, addresses)


def groups(given: Iterable[Sequence[Machine]], cluster: str | None, *, home: Path | None = None) -> list[tuple[Machine, ...]]:
    """Groups of machines, some of which have a name in place of an address, with the addresses of all.

    ``cluster``: the cluster whose record of names and host keys they must not contradict.
    """
    lists = [tuple(group) for group in given]
    logins = {machine.address: machine.login for group in lists for machine in group if validators.is_name(machine.address)}
    if not logins:
        return lists
    addresses = _addresses(logins, cluster, home)
    return [
        tuple(
            dataclasses.replace(machine, address=addresses[machine.address], host=machine.address)
            if machine.address in addresses
            else machine
            for machine in group
        )
        for group in lists
    ]


def remembered(state: ClusterState) -> dict[str, str]:
    """The names of machines that this machine knows of a cluster, by address."""
    facts = state.read()
    entries = [entry for kind in ("controlPlane", "workers") for entry in facts.get(kind) or ()]
    return {str(entry["address"]): str(entry["host"]) for entry in entries if entry.get("host")}


def require_recorded(given: ClusterDocument, recorded: ClusterDocument | None) -> None:
    """Raises InputError with all names whose address is not the one in the record of the cluster."""
    known = {name: address for address, name in recorded.ssh_hosts.items()} if recorded else {}
    faults = names.moved({name: address for address, name in given.ssh_hosts.items()}, known)
    if faults:
        raise InputError(faults)


def _addresses(logins: Mapping[str, Login], cluster: str | None, home: Path | None) -> dict[str, str]:
    if cluster is None:
        return names.resolve(logins, {}, None)
    state = ClusterState.of(cluster, home)
    return names.resolve(logins, {name: address for address, name in remembered(state).items()}, state.known_hosts)


def _with(document: ClusterDocument, addresses: Mapping[str, str]) -> ClusterDocument:
    """A document with the addresses of its machines."""
    given = [text for host in document.hosts for text in host.ips if text in addresses]
    return dataclasses.replace(
        document,
        hosts=tuple(dataclasses.replace(host, ips=tuple(addresses.get(text, text) for text in host.ips)) for host in document.hosts),
        ssh_hosts={**document.ssh_hosts, **{addresses[name]: name for name in given}},
    )


def _listed_twice(document: ClusterDocument, addresses: Mapping[str, str]) -> list[Fault]:
    listed = {text for host in document.hosts for text in host.ips}
    return [
        Fault(name, f"is {address}, which is given too", "name a machine once")
        for name, address in addresses.items()
        if name in listed and address in listed
    ]

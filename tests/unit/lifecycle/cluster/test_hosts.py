"""Clusterfiles, options and lists of machines that name machines. No name is looked up here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.clusterfile import ClusterDocument, Clusterfile, Host, SshSettings
from harness.clusterfile.parse import parse
from harness.errors import InputError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import access, hosts, request
from harness.nodes import Login, Machine, names
from harness.nodes.ssh import SshConnections

TEXT = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: lab}
spec:
  image: web:1
  ssh: {user: ops}
  hosts:
  - {ips: [cp1], roles: [control-plane], ssh: {port: 2222}}
  - {ips: [10.0.0.11, w2], roles: [worker], labels: {disk: ssd}}
"""


class Resolver:
    """Stands for ``names.resolve``."""

    def __init__(self) -> None:
        self.addresses = {"cp1": "10.0.0.1", "w2": "10.0.0.12", "w3": "10.0.0.13"}
        self.logins: Mapping[str, Login] = {}
        self.recorded: Mapping[str, str] = {}
        self.pinned: Path | None = None

    def __call__(self, logins: Mapping[str, Login], recorded: Mapping[str, str], pinned: Path | None) -> dict[str, str]:
        self.logins, self.recorded, self.pinned = logins, recorded, pinned
        return {name: self.addresses[name] for name in logins}


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    stand_in = Resolver()
    monkeypatch.setattr(names, "resolve", stand_in)
    return stand_in


def flags(*workers: str, **ssh: Any) -> ClusterDocument:
    settings = SshSettings(**ssh)
    return ClusterDocument("", "", (Host(workers, ("worker",), settings),) if workers else (), ssh=settings)


def document(clusterfile: Clusterfile | None) -> ClusterDocument:
    assert clusterfile is not None
    assert clusterfile.cluster is not None
    return clusterfile.cluster


def test_resolved_clusterfile_has_addresses_and_keeps_names(tmp_path: Path, resolver: Resolver) -> None:
    written, given = hosts.resolved(parse(TEXT, "Clusterfile"), flags(), "hunter2", home=tmp_path)
    found = document(written)
    assert (found.control_plane, found.workers) == (("10.0.0.1",), ("10.0.0.11", "10.0.0.12"))
    assert found.ssh_hosts == {"10.0.0.1": "cp1", "10.0.0.12": "w2"}
    assert given == flags()
    assert resolver.logins["cp1"] == Login("ops", 2222, password="hunter2")
    assert resolver.pinned == tmp_path / "clusters/lab/known_hosts"
    control_plane, workers = request.machines(request.effective(written, given))
    assert [machine.target for machine in (*control_plane, *workers)] == ["cp1", "10.0.0.11", "w2"]


def test_resolved_options_by_name_keep_labels_of_the_same_machine_in_the_file(tmp_path: Path, resolver: Resolver) -> None:
    resolver.addresses["other"] = "10.0.0.11"
    both = hosts.resolved(parse(TEXT, "Clusterfile"), flags("other", "w3", user="root", key="/keys/id"), None, home=tmp_path)
    found = document(request.effective(*both))
    assert found.workers == ("10.0.0.11", "10.0.0.13")
    labelled = found.host("10.0.0.11")
    assert labelled is not None
    assert labelled.labels == {"disk": "ssd"}
    # What the command line says of the login wins for names of the file, too.
    assert resolver.logins["cp1"] == Login("root", 2222, Path("/keys/id"))


def test_resolved_without_names_asks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "resolve", lambda *_: pytest.fail("there is no name"))
    written = parse(TEXT.replace("cp1", "10.0.0.1").replace("w2", "10.0.0.12"), "Clusterfile")
    assert hosts.resolved(written, flags("10.0.0.13"), None, home=tmp_path) == (written, flags("10.0.0.13"))
    machine = Machine("10.0.0.1")
    assert hosts.groups([[machine], []], "lab", home=tmp_path) == [(machine,), ()]


def test_resolved_machine_named_twice_is_a_fault(tmp_path: Path, resolver: Resolver) -> None:
    resolver.addresses["w2"] = "10.0.0.11"
    with pytest.raises(InputError) as caught:
        hosts.resolved(parse(TEXT, "Clusterfile"), flags(), None, home=tmp_path)
    assert [str(fault) for fault in caught.value.faults] == ["w2: is 10.0.0.11, which is given too\n  hint: name a machine once"]


def test_groups_machines_get_addresses_and_the_cluster_its_recorded_names(tmp_path: Path, resolver: Resolver) -> None:
    login = Login("ops")
    state = ClusterState.of("lab", tmp_path)
    access.remember(state, SshConnections(tmp_path, [Machine("10.0.0.1", login, "cp1"), Machine("10.0.0.2")]).nodes, [])
    assert hosts.remembered(state) == {"10.0.0.1": "cp1"}
    given = [[Machine("cp1", login), Machine("10.0.0.2", login)], [Machine("w3", login)]]
    assert hosts.groups(given, "lab", home=tmp_path) == [
        (Machine("10.0.0.1", login, "cp1"), Machine("10.0.0.2", login)),
        (Machine("10.0.0.13", login, "w3"),),
    ]
    assert resolver.recorded == {"cp1": "10.0.0.1"}
    # A cluster without a name on this machine remembers none.
    hosts.groups(given, None, home=tmp_path)
    assert (resolver.recorded, resolver.pinned) == ({}, None)


def test_require_recorded_name_with_another_address_is_refused() -> None:
    recorded = ClusterDocument("lab", "", ssh_hosts={"10.0.0.1": "cp1", "10.0.0.2": "cp2"})
    hosts.require_recorded(ClusterDocument("lab", "", ssh_hosts={"10.0.0.1": "cp1", "10.0.0.3": "new"}), recorded)
    hosts.require_recorded(ClusterDocument("lab", "", ssh_hosts={"10.0.0.9": "cp1"}), None)
    with pytest.raises(InputError) as caught:
        hosts.require_recorded(ClusterDocument("lab", "", ssh_hosts={"10.0.0.9": "cp1", "10.0.0.8": "cp2"}), recorded)
    assert [fault.where for fault in caught.value.faults] == ["cp1", "cp2"]

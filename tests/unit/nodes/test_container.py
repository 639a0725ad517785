"""The provider of container machines: what it asks the engine for, and that nothing stays when it fails. The engine is a stand-in."""

from __future__ import annotations

import io
import ipaddress
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EngineError, UsageError
from harness.host import docker
from harness.nodes import container
from harness.nodes.container import LABEL, ROLE, ContainerProvider


class Machine:
    def __init__(self, engine: Engine, options: dict[str, Any]) -> None:
        self.engine, self.options = engine, options
        self.labels = options["labels"]
        self.status = "created"
        self.files = b""
        networks = {options["network"]: {"IPAddress": f"172.30.0.{len(engine.machines) + 2}"}}
        self.attrs = {"Config": {"Hostname": options["hostname"]}, "NetworkSettings": {"Networks": networks}, "State": {"Error": "no luck"}}

    def put_archive(self, path: str, data: bytes) -> None:
        self.files = data

    def start(self) -> None:
        self.status = "exited" if self.engine.broken else "running"
        if self.engine.interrupted:
            raise KeyboardInterrupt

    def reload(self) -> None: ...

    def exec_run(self, argv: list[str], **_: Any) -> tuple[int, Any]:
        self.engine.commands.append(argv)
        return (0, (b"", b"")) if argv[0] in ("ip", "sh") else (0, b"degraded\n" if self.status == "running" else b"")

    def logs(self, **_: Any) -> bytes:
        return b"Failed to mount cgroup"

    def remove(self, **options: Any) -> None:
        assert options == {"force": True, "v": True}
        self.engine.machines.remove(self)


class Engine:
    """As much of an engine's client as the provider uses."""

    def __init__(self, *, broken: bool = False, interrupted: bool = False, ipv4_only: bool = False) -> None:
        self.broken, self.interrupted, self.ipv4_only = broken, interrupted, ipv4_only
        self.machines: list[Machine] = []
        self.made: list[Any] = []
        self.commands: list[list[str]] = []
        self.containers = self.networks = self.api = self

    def create(self, what: str, command: None = None, **options: Any) -> Any:
        if "driver" in options:
            if self.ipv4_only and options.get("enable_ipv6"):
                raise docker.APIError("500 Server Error", explanation="could not add the IPv6 gateway: permission denied")
            network = Network(self, what, options)
            self.made.append(network)
            return network
        machine = Machine(self, {"image": what, **options})
        self.machines.append(machine)
        return machine

    def create_endpoint_config(self, *, ipv4_address: str) -> dict[str, Any]:
        return {"IPAMConfig": {"IPv4Address": ipv4_address}}

    def get(self, name: str) -> Any:
        return next(network for network in self.made if network.name == name)

    def list(self, *, all: bool = False, ignore_removed: bool = False, filters: dict[str, str]) -> Any:
        name = filters["label"].partition("=")[2]
        found = self.machines if all else self.made
        return [one for one in found if not name or one.labels[LABEL] == name]


class Network:
    def __init__(self, engine: Engine, name: str, options: dict[str, Any]) -> None:
        self.engine, self.name, self.options, self.labels = engine, name, options, options["labels"]
        config = [{"Gateway": "fd00::1"}] if options.get("enable_ipv6") else []
        self.attrs = {"IPAM": {"Config": [*config, {"Gateway": "172.30.0.1"}]}, "EnableIPv6": bool(config)}

    def reload(self) -> None: ...

    def remove(self) -> None:
        self.engine.made.remove(self)


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container, "_answers", lambda address: True)


def provider(engine: Engine, home: Path) -> ContainerProvider:
    return ContainerProvider(engine, home)  # type: ignore[arg-type]


@pytest.mark.usefixtures("answers")
def test_up_names_machines_by_role_and_number_and_installs_group_key(tmp_path: Path) -> None:
    engine = Engine()
    group = provider(engine, tmp_path).up("lab", 1, 2, image="node")
    assert sorted(made.name for made in group.members) == ["lab-control-plane-1", "lab-worker-1", "lab-worker-2"]
    assert [made.role for made in group.members] == ["control-plane", "worker", "worker"]
    assert (len(group.control_plane), len(group.workers)) == (1, 2)
    key = group.login.key
    assert key is not None
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    with tarfile.open(fileobj=io.BytesIO(engine.machines[0].files)) as files:
        line = files.extractfile("root/.ssh/authorized_keys")
        assert line is not None
        assert line.read().startswith(b"ssh-ed25519 ")
        assert files.getmember("root/.ssh").mode == 0o700


@pytest.mark.usefixtures("answers")
def test_list_legacy_role_labels_are_read_as_current_roles(tmp_path: Path) -> None:
    engine = Engine()
    made = provider(engine, tmp_path)
    made.up("lab", 1, 1, image="node")
    for machine in engine.machines:
        machine.labels[ROLE] = {"control-plane": "master", "worker": "node"}[machine.labels[ROLE]]
    (group,) = made.list()
    assert [member.role for member in group.members] == ["control-plane", "worker"]
    assert (len(group.control_plane), len(group.workers)) == (1, 1)


@pytest.mark.usefixtures("answers")
def test_up_creates_internal_network_default_route_and_data_mounts(tmp_path: Path) -> None:
    engine = Engine()
    provider(engine, tmp_path).up("lab", 1, 0, image="node")
    assert engine.made[0].options["internal"] is True
    options = engine.machines[0].options
    assert options["privileged"]
    assert options["cgroupns"] == "private"
    assert {mount["Target"] for mount in options["mounts"]} >= {"/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd"}
    assert ["ip", "route", "replace", "default", "via", "172.30.0.1"] in engine.commands


@pytest.mark.usefixtures("answers")
def test_up_assigns_distinct_ipv6_subnets_and_removes_ipv6_default_route(tmp_path: Path) -> None:
    made = Engine()
    nodes = provider(made, tmp_path)
    nodes.up("one", 1, 0, image="node")
    nodes.up("two", 1, 0, image="node")
    subnets = [ipaddress.IPv6Network(network.options["ipam"]["Config"][0]["Subnet"]) for network in made.made]
    assert all(subnet.prefixlen == 64 and subnet.subnet_of(ipaddress.IPv6Network("fd00::/8")) for subnet in subnets)
    assert subnets[0] != subnets[1]
    # Or pods, and the interfaces of their network, would have none.
    assert made.machines[0].options["sysctls"] == {"net.ipv6.conf.all.disable_ipv6": "0"}
    (script,) = {argv[-1] for argv in made.commands if argv[0] == "sh"}
    assert "ip -6 route del default" in script
    assert "via" not in script


@pytest.mark.usefixtures("answers")
def test_up_engine_without_ipv6_falls_back_to_ipv4_only(tmp_path: Path) -> None:
    made = Engine(ipv4_only=True)
    provider(made, tmp_path).up("lab", 1, 0, image="node")
    assert "ipam" not in made.made[0].options
    assert made.machines[0].options["sysctls"] == {}
    assert ["ip", "route", "replace", "default", "via", "172.30.0.1"] in made.commands
    assert not [argv for argv in made.commands if argv[0] == "sh"]


@pytest.mark.usefixtures("answers")
@pytest.mark.parametrize("ipv4_only", [False, True])
def test_up_with_subnet_assigns_addresses_in_machine_order(tmp_path: Path, ipv4_only: bool) -> None:
    made = Engine(ipv4_only=ipv4_only)
    provider(made, tmp_path).up("lab", 3, 2, image="node", subnet="192.168.0.0/24")
    configs = [entry for entry in made.made[0].options["ipam"]["Config"] if ":" not in entry["Subnet"]]
    assert configs == [{"Subnet": "192.168.0.0/24", "Gateway": "192.168.0.1"}]
    given = {
        machine.options["hostname"]: machine.options["networking_config"]["slipway-lab"]["IPAMConfig"]["IPv4Address"]
        for machine in made.machines
    }
    names = ["lab-control-plane-1", "lab-control-plane-2", "lab-control-plane-3", "lab-worker-1", "lab-worker-2"]
    assert given == {name: f"192.168.0.{number}" for number, name in enumerate(names, 2)}


@pytest.mark.usefixtures("answers")
def test_up_without_subnet_leaves_addresses_to_engine(tmp_path: Path) -> None:
    made = Engine()
    provider(made, tmp_path).up("lab", 1, 0, image="node")
    assert made.machines[0].options["networking_config"] is None


@pytest.mark.parametrize("subnet", ["192.168.0.1/24", "192.168.0.0/24x", "fd00::/64", "192.168.0.0/29", "192.168.0.0/32"])
def test_up_invalid_or_too_small_subnet_is_refused_before_creation(tmp_path: Path, subnet: str) -> None:
    made = Engine()
    with pytest.raises(UsageError, match=f"--subnet {subnet}") as refused:
        provider(made, tmp_path).up("lab", 3, 3, image="node", subnet=subnet)
    assert refused.value.hint
    assert (made.made, made.machines) == ([], [])


@pytest.mark.usefixtures("answers")
def test_down_removes_machines_network_and_keys_of_named_group_only(tmp_path: Path) -> None:
    engine = Engine()
    nodes = provider(engine, tmp_path)
    nodes.up("one", 1, 0, image="node")
    nodes.up("two", 1, 0, image="node")
    assert nodes.down("one")
    assert [machine.labels[LABEL] for machine in engine.machines] == ["two"]
    assert [network.name for network in engine.made] == ["slipway-two"]
    assert [path.name for path in (tmp_path / "nodes").iterdir()] == ["two"]
    assert not nodes.down("one")
    assert [group.name for group in nodes.list()] == ["two"]


@pytest.mark.usefixtures("answers")
def test_down_removes_pinned_host_keys_of_group_addresses_only(tmp_path: Path) -> None:
    engine = Engine()
    nodes = provider(engine, tmp_path)
    nodes.up("lab", 1, 0, image="node")
    pins = tmp_path / "clusters/c/known_hosts"
    pins.parent.mkdir(parents=True)
    pins.write_text("172.30.0.2 ssh-ed25519 AAAA\n172.30.0.22 ssh-ed25519 BBBB\n[172.30.0.2]:2222 ssh-ed25519 CCCC\n")
    nodes.down("lab")
    assert pins.read_text() == "172.30.0.22 ssh-ed25519 BBBB\n"


def test_up_machine_that_fails_to_boot_reports_log_and_removes_group(tmp_path: Path) -> None:
    engine = Engine(broken=True)
    with pytest.raises(EngineError, match="lab-control-plane-1 did not boot") as caught:
        provider(engine, tmp_path).up("lab", 1, 0, image="node")
    assert "Failed to mount cgroup" in str(caught.value.details)
    assert (engine.machines, engine.made) == ([], [])
    assert not (tmp_path / "nodes/lab").exists()


def test_up_interrupted_start_removes_machines_and_network(tmp_path: Path) -> None:
    engine = Engine(interrupted=True)
    with pytest.raises(KeyboardInterrupt):
        provider(engine, tmp_path).up("lab", 2, 0, image="node")
    assert (engine.machines, engine.made) == ([], [])


class KilledError(BaseException):
    """Stands for SIGKILL: nothing is cleaned up."""


@pytest.mark.usefixtures("answers")
def test_grow_after_kill_boots_machines_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine()
    nodes = provider(engine, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(Machine, "start", lambda *_: (_ for _ in ()).throw(KilledError))
        patched.setattr(nodes, "down", lambda _: None)
        with pytest.raises(KilledError):
            nodes.up("lab", 1, 1, image="node")
    (group,) = nodes.list()
    assert [member.booted for member in group.members] == [False, False]
    group = nodes.grow("lab", 1, 1, image="node")
    assert [member.booted for member in group.members] == [True, True]
    assert [machine.status for machine in engine.machines] == ["running", "running"]
    assert nodes.list() == (group,)
    engine.broken = True
    with pytest.raises(EngineError):
        nodes.grow("lab", 1, 2, image="node")
    assert nodes.list() == (group,)


@pytest.mark.usefixtures("answers")
def test_grow_number_of_vanished_machine_is_not_used_again(tmp_path: Path) -> None:
    engine = Engine()
    nodes = provider(engine, tmp_path)
    nodes.up("lab", 1, 2, image="node")
    engine.machines = [machine for machine in engine.machines if machine.options["hostname"] != "lab-worker-2"]
    group = nodes.grow("lab", 1, 2, image="node")
    assert [member.name for member in group.members] == ["lab-control-plane-1", "lab-worker-1", "lab-worker-3"]


@pytest.mark.usefixtures("answers")
def test_list_group_of_earlier_slipway_has_booted(tmp_path: Path) -> None:
    engine = Engine()
    nodes = provider(engine, tmp_path)
    nodes.up("lab", 1, 2, image="node")
    (tmp_path / "nodes/lab/numbers.json").unlink()
    (group,) = nodes.list()
    assert all(member.booted for member in group.members)
    assert group.numbers == {"control-plane": 1, "worker": 2}


@pytest.mark.usefixtures("answers")
def test_up_group_name_in_use_is_refused_and_keeps_machines(tmp_path: Path) -> None:
    engine = Engine()
    nodes = provider(engine, tmp_path)
    nodes.up("lab", 1, 0, image="node")
    with pytest.raises(UsageError, match="exist already"):
        nodes.up("lab", 1, 0, image="node")
    assert len(engine.machines) == 1


@pytest.mark.parametrize(("name", "control_plane"), [("Lab", 1), ("a b", 1), ("", 1), ("-a", 1), ("lab", 0)])
def test_up_invalid_name_or_zero_control_plane_is_refused_before_creation(tmp_path: Path, name: str, control_plane: int) -> None:
    engine = Engine()
    with pytest.raises(UsageError):
        provider(engine, tmp_path).up(name, control_plane, 0, image="node")
    assert engine.made == []


@pytest.mark.usefixtures("answers")
def test_up_stores_role_as_container_label_that_list_reads(tmp_path: Path) -> None:
    engine = Engine()
    provider(engine, tmp_path).up("lab", 1, 1, image="node")
    assert sorted(machine.labels[ROLE] for machine in engine.machines) == ["control-plane", "worker"]
    # Another process, with no memory of its own, reads it from there.
    (group,) = provider(engine, tmp_path).list()
    assert {member.name: member.role for member in group.members} == {"lab-control-plane-1": "control-plane", "lab-worker-1": "worker"}

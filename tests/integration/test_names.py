"""Machines that are given by name: entries of a real ssh_config, a real sshd on another port, another one as jump host."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.errors import InputError, NodeError, UsageError
from harness.nodes import Login, Machine, NodeGroup, names
from harness.nodes.ssh import SshConnections, SshNode
from tests.integration.test_nodes import client, group, image, node
from tests.waiting import HANG

__all__ = ["client", "group", "image", "node"]

PORT = 2222
INNER = "inner.slipway.invalid"
"""A name that the jump host alone can resolve."""


@pytest.fixture
def other_port(node: SshNode) -> Iterator[int]:
    """A second sshd on the first machine, and a user beside root."""
    node.run(
        "id ops 2>/dev/null || useradd -m -s /bin/bash ops; mkdir -p ~ops/.ssh; cp /root/.ssh/authorized_keys ~ops/.ssh/;"
        "chown -R ops ~ops; echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops"
    )
    node.run(f"/usr/sbin/sshd -p {PORT} -o PidFile=/run/sshd-other.pid")
    try:
        yield PORT
    finally:
        node.run("kill $(cat /run/sshd-other.pid)")


@pytest.fixture
def config(group: NodeGroup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's ssh_config: `Near` is the first machine on another port, `far` the other one, behind the first."""
    near, far = group.control_plane[0], group.workers[0]
    path = tmp_path / "my ssh" / "config"
    path.parent.mkdir()
    path.write_text(
        # As for a shell with a tunnel, whose end here is taken.
        f"Host Near\n  HostName {near.address}\n  Port {PORT}\n  User ops\n  RemoteCommand tmux attach\n  RequestTTY force\n"
        f"  LocalForward {PORT} localhost:22\n  ExitOnForwardFailure yes\n  ControlPath none\n  StrictHostKeyChecking no\n"
        f"Host hop\n  HostName {near.address}\n"
        f"Host far\n  HostName {INNER}\n  ProxyJump hop\n"
        f"Host far-address\n  HostName {far.address}\n  ProxyJump hop\n"
        f"Host *\n  User root\n  IdentityFile {group.login.key}\n"
    )
    monkeypatch.setenv("SLIPWAY_SSH_CONFIG", str(path))
    # A login through another one takes as long as the machine is busy.
    monkeypatch.setattr("harness.nodes.ssh_config.CONNECT_TIMEOUT", int(HANG))
    monkeypatch.setattr("harness.nodes.ssh._LOGIN_TIMEOUT", HANG)
    return path


@pytest.fixture
def inner(node: SshNode, group: NodeGroup) -> Iterator[None]:
    """The jump host knows the name of the machine behind it. A file that containers have as a mount is written in place."""
    node.run(f"cp /etc/hosts /run/hosts; echo {group.workers[0].address} {INNER} >> /etc/hosts")
    yield
    node.run("cat /run/hosts > /etc/hosts")


def resolve(*wanted: str, recorded: dict[str, str] | None = None, pinned: Path = Path("/nowhere")) -> dict[str, str]:
    return names.resolve({name: Login() for name in wanted}, recorded or {}, pinned)


@pytest.mark.usefixtures("config")
def test_entry_of_ssh_config_gives_user_port_and_key(
    group: NodeGroup, other_port: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    taken = socket.create_server(("127.0.0.1", PORT))
    request.addfinalizer(taken.close)
    address = group.control_plane[0].address
    assert resolve("Near", "far-address") == {"Near": address, "far-address": group.workers[0].address}
    with SshConnections(tmp_path / "c", [Machine(address, host="Near")]) as ssh:
        (found,) = ssh.connect()
        assert (found.login.user, found.login.port) == ("ops", other_port)
        assert found.run("id -u; echo $SUDO_USER").stdout.split() == ["0", "ops"]
        found.put(b"by name", "/run/by-name")
        assert found.get("/run/by-name") == b"by name"
        lines: list[str] = []
        assert found.stream("echo streamed", lambda _, line: lines.append(line)) == 0
        assert lines == ["streamed"]
        # Pinned under the address: it is the same machine by whatever name.
        assert ssh.known_hosts.read_text().split()[0] == address
        ssh.hasten()
        assert found.stream("true", lambda *_: None) == 0


@pytest.mark.usefixtures("config", "other_port")
def test_name_that_leads_to_another_machine_is_refused_by_its_host_key(group: NodeGroup, config: Path, tmp_path: Path) -> None:
    address = group.control_plane[0].address
    with SshConnections(tmp_path / "c", [Machine(address, host="Near")]) as ssh:
        ssh.connect()
    config.write_text(f"Host Near\n  HostName {group.workers[0].address}\n  Port 22\n" + config.read_text())
    with pytest.raises(NodeError, match=rf"Near \({address}\): its host key is not the pinned one"):
        SshConnections(tmp_path / "c", [Machine(address, host="Near")]).connect()
    with pytest.raises(InputError, match=f"Near: is {group.workers[0].address} now, and was {address} when it became a node"):
        resolve("Near", recorded={"Near": address})


@pytest.mark.usefixtures("config", "inner")
def test_name_behind_jump_host_is_asked_of_the_machine_and_used(group: NodeGroup, tmp_path: Path) -> None:
    far = group.workers[0].address
    assert resolve("far") == {"far": far}
    with SshConnections(tmp_path / "c", [Machine(far, host="far")]) as ssh:
        (found,) = ssh.connect()
        assert found.run("echo $SSH_CONNECTION").stdout.split()[0] == group.control_plane[0].address
        assert resolve("far", recorded={"far": far}, pinned=ssh.known_hosts) == {"far": far}
        pins = ssh.known_hosts.read_text()
    # The machine that is recorded must be the one that answers.
    changed = tmp_path / "changed"
    changed.write_text("".join(f"{line}\n" for line in _with_other_key(pins, far)))
    with pytest.raises(NodeError, match="its host key is not the pinned one"):
        resolve("far", recorded={"far": far}, pinned=changed)


def _with_other_key(pins: str, address: str) -> Iterator[str]:
    for line in pins.splitlines():
        host, kind, _ = line.split()
        yield f"{host} {kind} AAAAC3NzaC1lZDI1NTE5AAAAI{'B' * 43}" if host == address else line


@pytest.mark.usefixtures("config")
def test_name_behind_jump_host_that_nobody_knows_is_reported_with_all_others(group: NodeGroup) -> None:
    assert group.workers
    with pytest.raises(NodeError, match="far: "):
        resolve("far")
    with pytest.raises(InputError) as caught:
        resolve("nosuch.slipway.invalid", "neither.slipway.invalid", "far", "Near")
    assert [fault.where for fault in caught.value.faults] == ["nosuch.slipway.invalid", "neither.slipway.invalid"]


@pytest.mark.usefixtures("config", "inner")
@pytest.mark.parametrize("lie", ["a b ../../etc/passwd 22", "a b 127.0.0.1 22", "a b c d e f", "$(printf '1 2 \\033[2J 3')"])
def test_machine_that_lies_about_its_address_is_refused(group: NodeGroup, tmp_path: Path, lie: str) -> None:
    with SshConnections(tmp_path / "c", group.workers) as ssh:
        (machine,) = ssh.connect()
        machine.run("cp /root/.bashrc /run/bashrc 2>/dev/null || : > /run/bashrc")
        machine.put(f'SSH_CONNECTION="{lie}"\n'.encode(), "/root/.bashrc")
        try:
            with pytest.raises(NodeError, match=r"far: address: .* is not an address that other machines can reach") as caught:
                resolve("far")
            assert "\x1b" not in str(caught.value)
        finally:
            machine.run("cat /run/bashrc > /root/.bashrc")


def test_ssh_config_with_a_mistake_is_reported(config: Path) -> None:
    config.write_text(config.read_text() + "Hostnam far\n")
    with pytest.raises(UsageError, match="ssh does not accept its configuration") as caught:
        resolve("far", "Near")
    assert f"{config}: line" in caught.value.message

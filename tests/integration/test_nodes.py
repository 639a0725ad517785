"""Machines in containers and the way into them over a real sshd: what works, and how what does not is told."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import os
import socket
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from harness import process
from harness.build import container_images
from harness.errors import CommandError, LeaseLostError, NodeError, UsageError
from harness.host import docker
from harness.nodes import JumpHost, Login, Machine, NodeGroup, claim
from harness.nodes.container import IMAGE, LABEL, ContainerProvider
from harness.nodes.files import NodeFile, install_files, read_files, restore_files, write_files
from harness.nodes.ssh import SshConnections, SshNode
from tests.waiting import HANG, until

NAME, DOWN, INTERRUPTED = (f"test-{what}-{os.getpid()}" for what in ("nodes", "down", "stop"))


@pytest.fixture(scope="session")
def client() -> docker.Client:
    return docker.connect()


@pytest.fixture(scope="session")
def image(client: docker.Client) -> str:
    """What the engine calls the node image."""
    return container_images.package_image(client, IMAGE)


@pytest.fixture(scope="module")
def group(client: docker.Client, image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeGroup]:
    provider = ContainerProvider(client, tmp_path_factory.mktemp("home"))
    try:
        yield provider.up(NAME, 1, 1, image=image)
    finally:
        provider.down(NAME)


@pytest.fixture
def node(group: NodeGroup, tmp_path: Path) -> Iterator[SshNode]:
    """The first machine, as root."""
    with SshConnections(tmp_path / "cluster", group.control_plane) as ssh:
        yield ssh.connect()[0]


@pytest.fixture
def into(group: NodeGroup, tmp_path: Path) -> Callable[..., SshConnections]:
    """Other ways into the first machine: ``into(user="ops")``."""

    def make(name: str = "other", **changes: object) -> SshConnections:
        login = dataclasses.replace(group.login, **changes)  # type: ignore[arg-type]
        return SshConnections(tmp_path / name, [Machine(group.control_plane[0].address, login)])

    return make


# ---- machines ---------------------------------------------------------------------------------------------------------


def test_provider_up_boots_machines_under_their_names(group: NodeGroup, tmp_path: Path) -> None:
    with SshConnections(tmp_path / "c", (*group.control_plane, *group.workers)) as ssh:
        nodes = ssh.connect()
        assert [node.name for node in nodes] == [f"{NAME}-control-plane-1", f"{NAME}-worker-1"]
        for node in nodes:
            assert node.run("systemctl is-system-running", check=False).stdout.strip() in {"running", "degraded"}
            assert node.run("id -u").stdout.strip() == "0"


def test_provider_machines_reach_each_other_but_no_outside_address(group: NodeGroup, node: SshNode) -> None:
    other = group.workers[0].address
    assert node.run(f"timeout 5 bash -c 'exec 3<>/dev/tcp/{other}/22 && head -c 4 <&3'").stdout == "SSH-"
    # An address set aside for documentation: whoever answered, it would be through a way out.
    assert not node.run("timeout 3 bash -c 'exec 3<>/dev/tcp/192.0.2.1/80'", check=False).ok


def test_claim_superseded_on_machine_refuses_commands(node: SshNode) -> None:
    node.run(f"rm -f {claim.FENCE} /run/written")
    with claim.holding() as first:
        assert node.run(f"cat {claim.FENCE}").stdout.strip() == first.id
        # Another command has spoken to the machine meanwhile.
        node.run(f"echo another > {claim.FENCE}")
        with pytest.raises(LeaseLostError, match="another command has taken over"):
            node.run("touch /run/written")
        # From now on it is not even asked.
        with pytest.raises(LeaseLostError):
            node.run("touch /run/written")
    with claim.holding() as second:
        assert node.run("true").ok
        assert second.id != first.id
        node.run(f"echo another > {claim.FENCE}")
        with pytest.raises(LeaseLostError):
            node.stream("touch /run/written", lambda *_: None)
    assert node.run("ls /run/written", check=False).returncode == 2
    # Without a claim nothing is asked: what only reads goes on beside a change.
    assert node.run("true").ok


class Unsure:
    """The API is away: whether somebody else has taken over cannot be known."""

    lost, sure = "", False

    def verify(self) -> None: ...


@pytest.mark.parametrize(("there", "taken"), [("another 6", True), ("another 7", False), ("another 8", False), ("another", False)])
def test_claim_that_cannot_be_verified_replaces_older_token_only(node: SshNode, there: str, taken: bool) -> None:
    node.run(f"echo {there} > {claim.FENCE}")
    with claim.holding() as held:
        held.token = 7
        held.add(Unsure())
        if taken:
            assert node.run(f"cat {claim.FENCE}").stdout.strip() == f"{held.id} 7"
        else:
            with pytest.raises(LeaseLostError):
                node.run("true")
    node.run(f"rm -f {claim.FENCE}")


def test_claim_missing_on_restarted_machine_is_written_again(node: SshNode) -> None:
    with claim.holding() as held:
        node.run("true")
        node.run(f"rm -f {claim.FENCE}")
        assert node.run(f"cat {claim.FENCE}").stdout.strip() == held.id


def test_provider_data_folders_are_not_on_overlayfs(node: SshNode) -> None:
    for place_of_data in ("/var/lib/containerd", "/var/lib/etcd", "/var/lib/kubelet"):
        assert node.run(f"stat -f -c %T {place_of_data}").stdout.strip() != "overlayfs"


def test_provider_interrupted_up_leaves_no_machine_network_or_folder(client: docker.Client, image: str, tmp_path: Path) -> None:
    provider = ContainerProvider(client, tmp_path)

    class Impatient(ContainerProvider):
        def _boot(self, *arguments: object) -> None:
            super()._boot(*arguments)  # type: ignore[arg-type]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Impatient(client, tmp_path).up(INTERRUPTED, 1, 1, image=image)
    assert INTERRUPTED not in [found.name for found in provider.list()]
    assert client.networks.list(filters={"label": f"{LABEL}={INTERRUPTED}"}) == []
    assert not (tmp_path / f"nodes/{INTERRUPTED}").exists()


def test_provider_down_removes_machines_volumes_network_and_key(client: docker.Client, image: str, tmp_path: Path) -> None:
    provider = ContainerProvider(client, tmp_path)
    made = provider.up(DOWN, 1, 0, image=image)
    container = client.containers.list(filters={"label": f"{LABEL}={DOWN}"})[0]
    volumes = [mount["Name"] for mount in container.attrs["Mounts"] if mount["Type"] == "volume"]
    assert volumes
    assert len(client.networks.list(filters={"label": f"{LABEL}={DOWN}"})) == 1
    with pytest.raises(UsageError, match="exist already"):
        provider.up(DOWN, 1, 0, image=image)
    assert provider.down(DOWN)
    assert client.containers.list(all=True, filters={"label": f"{LABEL}={DOWN}"}) == []
    assert client.networks.list(filters={"label": f"{LABEL}={DOWN}"}) == []
    assert not provider.down(DOWN)
    left = {volume.name for volume in client.volumes.list()}
    assert not left & set(volumes)
    key = made.login.key
    assert key is not None
    assert not key.exists()


def test_provider_down_in_several_commands_at_once_succeeds_in_all(client: docker.Client, image: str, tmp_path: Path) -> None:
    ContainerProvider(client, tmp_path).up(DOWN, 1, 1, image=image)
    together = threading.Barrier(4)

    def down(_: int) -> bool:
        provider = ContainerProvider(docker.connect(), tmp_path)
        together.wait(HANG)
        return provider.down(DOWN)

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert any(pool.map(down, range(4)))
    assert client.containers.list(all=True, filters={"label": f"{LABEL}={DOWN}"}) == []
    assert client.networks.list(filters={"label": f"{LABEL}={DOWN}"}) == []


def test_provider_list_leaves_out_machine_removed_meanwhile(
    group: NodeGroup, client: docker.Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = client.api.containers
    # The engine's list is of a moment ago: one of it is gone when it is asked about.
    monkeypatch.setattr(client.api, "containers", lambda *words, **options: [*answered(*words, **options), {"Id": "0" * 64}])
    (listed,) = (found for found in ContainerProvider(client, tmp_path).list() if found.name == NAME)
    assert [member.name for member in listed.members] == [member.name for member in group.members]


# ---- ways in ----------------------------------------------------------------------------------------------------------


def test_node_run_returns_output_and_exit_code(node: SshNode) -> None:
    done = node.run("echo out; echo err >&2; exit 3", check=False)
    assert (done.stdout, done.stderr.strip(), done.returncode) == ("out\n", "err", 3)
    with pytest.raises(CommandError, match=f"{NAME}-control-plane-1: .*exit code 3") as caught:
        node.run("echo err >&2; exit 3")
    assert "err" in str(caught.value.details)


def test_node_run_passes_quotes_and_newlines_unchanged(node: SshNode) -> None:
    text = """it's "quoted" $HOME `id`\nsecond line \\ end"""
    assert node.run(f"cat <<'END'\n{text}\nEND").stdout == f"{text}\n"
    assert node.run("cat", input=text).stdout == text


def test_node_run_over_timeout_raises_command_error(node: SshNode) -> None:
    with pytest.raises(CommandError, match="not done after"):
        node.run(f"sleep {HANG}", timeout=0.5)


def test_node_run_reuses_one_ssh_login(node: SshNode) -> None:
    logins = "journalctl --unit ssh --output cat | grep -c '^Accepted '"
    before = node.run(logins).stdout
    for _ in range(10):
        node.run("true")
    assert int(before) > 0
    assert node.run(logins).stdout == before


def test_node_run_large_input_stream_arrives_whole(node: SshNode) -> None:
    size = 200

    def write(stream: BinaryIO) -> None:
        stream.writelines(bytes([number % 251]) * (1 << 20) for number in range(size))

    expected = hashlib.sha256()
    for number in range(size):
        expected.update(bytes([number % 251]) * (1 << 20))
    assert node.run("sha256sum", input=write).stdout.split()[0] == expected.hexdigest()


def test_node_put_and_get_keep_content_and_mode(node: SshNode) -> None:
    data = bytes(range(256)) * 1000
    node.put(data, "/var/tmp/a folder/file", 0o640)
    assert node.get("/var/tmp/a folder/file") == data
    assert node.run("stat -c '%a %U' '/var/tmp/a folder/file'").stdout.strip() == "640 root"
    with pytest.raises(CommandError):
        node.get("/var/tmp/nosuch")


def test_node_put_tar_unpacks_files_owned_by_root(node: SshNode, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        entry = tar.gettarinfo(str(tmp_path / "a"), "deep/a")
        entry.uid, entry.uname = 12345, "nobody-here"
        with (tmp_path / "a").open("rb") as content:
            tar.addfile(entry, content)
    with (tmp_path / "t.tar").open("rb") as stream:
        node.put_tar(stream, "/var/tmp/unpacked")
    assert node.run("cat /var/tmp/unpacked/deep/a; stat -c %u /var/tmp/unpacked/deep/a").stdout == "content0\n"


def test_node_put_tar_broken_stream_raises_error(node: SshNode) -> None:
    def broken(stream: BinaryIO) -> None:
        stream.write(b"x" * 100)
        raise OSError("the disk is gone")

    with pytest.raises((OSError, CommandError)):
        node.put_tar(broken, "/var/tmp/broken")


def test_connect_user_with_sudo_acts_as_root(node: SshNode, into: Callable[..., SshConnections]) -> None:
    node.run(
        "id ops 2>/dev/null || useradd -m -s /bin/bash ops; mkdir -p ~ops/.ssh; cp /root/.ssh/authorized_keys ~ops/.ssh/;"
        "chown -R ops ~ops; echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops"
    )
    with into(user="ops") as ssh:
        ops = ssh.connect()[0]
        assert ops.run("id -u").stdout.strip() == "0"
        ops.put(b"root's", "/root/by-ops", 0o600)
        assert ops.run("cat", input=b"piped").stdout == "piped"
    assert node.get("/root/by-ops") == b"root's"


def test_connect_user_without_sudo_is_refused_with_sudoers_hint(node: SshNode, into: Callable[..., SshConnections]) -> None:
    node.run("id lowly 2>/dev/null || useradd -m -s /bin/bash lowly; mkdir -p ~lowly/.ssh; cp /root/.ssh/authorized_keys ~lowly/.ssh/")
    node.run("chown -R lowly ~lowly")
    with pytest.raises(NodeError, match="lowly may not become root") as caught:
        into(user="lowly").connect()
    assert "sudoers" in str(caught.value.hint)


def test_connect_password_is_accepted_and_wrong_one_is_refused(node: SshNode, into: Callable[..., SshConnections]) -> None:
    # A restart ends when sshd listens again; a reload before that.
    node.run(
        "id pass 2>/dev/null || useradd -m -s /bin/bash pass; chpasswd; echo 'pass ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/pass;"
        "echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/10-password.conf; systemctl restart ssh",
        input="pass:let me in",
    )
    with into(user="pass", key=None, password="let me in") as ssh:
        assert ssh.connect()[0].run("id -u").stdout.strip() == "0"
    with pytest.raises(NodeError, match="does not accept pass with the password"):
        into("wrong", user="pass", key=None, password="not this").connect()


def fresh_key(node: SshNode, path: Path, passphrase: str) -> Path:
    """A key that the machine takes."""
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path])
    node.run("cat >> /root/.ssh/authorized_keys", input=path.with_name(f"{path.name}.pub").read_text())
    return path


def test_connect_encrypted_key_needs_its_passphrase(node: SshNode, into: Callable[..., SshConnections], tmp_path: Path) -> None:
    key = fresh_key(node, tmp_path / "locked", "open sesame")
    with into(key=key, passphrase="open sesame") as ssh:
        assert ssh.connect()[0].run("echo in").stdout.strip() == "in"
    for number, wrong in enumerate((None, "open barley")):
        with pytest.raises(NodeError, match="does not accept root with the key"):
            into(f"wrong-{number}", key=key, passphrase=wrong).connect()


def test_connect_key_held_by_agent_only_is_accepted(
    node: SshNode, into: Callable[..., SshConnections], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = fresh_key(node, tmp_path / "held", "")
    socket_of_agent = tmp_path / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket_of_agent], stdout=subprocess.DEVNULL) as agent:
        try:
            monkeypatch.setenv("SSH_AUTH_SOCK", str(socket_of_agent))
            until(socket_of_agent.exists, "the agent")
            process.run(["ssh-add", "-q", key])
            key.unlink()
            with into(key=None) as ssh:
                assert ssh.connect()[0].run("echo in").stdout.strip() == "in"
        finally:
            agent.terminate()


def test_connect_through_jump_host_transfers_files(group: NodeGroup, tmp_path: Path) -> None:
    over, behind = group.control_plane[0], group.workers[0]
    jump = JumpHost(over.address, "root", 22, group.login.key)
    with SshConnections(tmp_path / "c", [Machine(behind.address, dataclasses.replace(group.login, jump=jump))]) as ssh:
        node = ssh.connect()[0]
        assert node.run("echo $SSH_CONNECTION").stdout.split()[0] == over.address
        data = os.urandom(1 << 20)
        node.put(data, "/root/over")
        assert node.get("/root/over") == data
    nowhere = dataclasses.replace(jump, port=2222)
    with pytest.raises(NodeError, match=behind.address):
        SshConnections(tmp_path / "d", [Machine(behind.address, dataclasses.replace(group.login, jump=nowhere))]).connect()


# ---- what goes wrong --------------------------------------------------------------------------------------------------


def test_connect_unknown_key_is_refused_with_hint(into: Callable[..., SshConnections], tmp_path: Path) -> None:
    other = tmp_path / "other-key"
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other])
    with pytest.raises(NodeError, match="does not accept root with the key") as caught:
        into(key=other).connect()
    assert "authorized_keys" in str(caught.value.hint)
    assert caught.value.exit_code == 5


def test_connect_closed_port_is_reported(into: Callable[..., SshConnections]) -> None:
    with pytest.raises(NodeError, match="nothing listens on port 2222"):
        into(port=2222).connect()


def test_connect_absent_machine_and_unknown_host_name_are_both_reported(group: NodeGroup, tmp_path: Path) -> None:
    absent = group.control_plane[0].address.rsplit(".", maxsplit=1)[0] + ".250"
    with pytest.raises(NodeError) as caught:
        SshConnections(tmp_path / "c", [Machine(absent, group.login), Machine("nosuch.invalid", group.login)]).connect()
    assert f"{absent}: no " in caught.value.message
    assert "nosuch.invalid: no such host name" in caught.value.message


def test_connect_silent_machine_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.nodes.ssh_config.CONNECT_TIMEOUT", 1)
    monkeypatch.setattr("harness.nodes.ssh._LOGIN_TIMEOUT", HANG)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        machine = Machine("127.0.0.1", Login(port=silent.getsockname()[1]))
        with pytest.raises(NodeError, match=r"127\.0\.0\.1: ") as given_up:
            SshConnections(tmp_path / "c", [machine]).connect()
    # By ssh itself, and not for want of an end to the login.
    assert given_up.value.__cause__ is None


def test_reachable_with_one_bad_machine_returns_good_ones_and_errors(group: NodeGroup, tmp_path: Path) -> None:
    bad = Machine(group.workers[0].address, dataclasses.replace(group.login, port=2222))
    with SshConnections(tmp_path / "c", [*group.control_plane, bad]) as ssh:
        good, errors = ssh.reachable()
        assert [node.address for node in good] == [group.control_plane[0].address]
        assert ["nothing listens" in error.message for error in errors.values()] == [True]
        assert good[0].run("true").ok


def test_connect_changed_host_key_is_refused_until_forgotten(node: SshNode, into: Callable[..., SshConnections]) -> None:
    first = into()
    with first:
        first.connect()
    pinned = first.known_hosts.read_text()
    kind, key = pinned.split()[1:3]
    first.known_hosts.write_text(pinned.replace(key, "AAAAC3NzaC1lZDI1NTE5AAAAI" + "B" * 43))
    with pytest.raises(NodeError, match="its host key is not the pinned one") as caught:
        first.connect()
    forget = str(caught.value.hint).split("its old key: ")[1].split(";")[0]
    assert kind == "ssh-ed25519"
    process.run(forget.split())
    with first:
        first.connect()
    assert first.known_hosts.read_text() == pinned


def test_connect_pinned_keys_of_other_file_are_compared_and_not_written(node: SshNode, tmp_path: Path) -> None:
    pins = tmp_path / "pinned"
    with SshConnections(tmp_path / "first", [node.machine], pins) as first:
        first.connect()
        key = first.known_hosts.read_text()
    pins.write_text(key)
    with SshConnections(tmp_path / "second", [node.machine], pins) as second:
        second.connect()
        assert not second.known_hosts.exists()
    pins.write_text(key.replace(key.split()[2], "AAAAC3NzaC1lZDI1NTE5AAAAI" + "B" * 43))
    with SshConnections(tmp_path / "third", [node.machine], pins) as third:
        with pytest.raises(NodeError, match="its host key is not the pinned one") as caught:
            third.connect()
        assert f"-f {pins};" in str(caught.value.hint)
        assert not third.known_hosts.exists()


def test_node_run_after_restart_of_sshd_reconnects(node: SshNode) -> None:
    node.run("systemctl restart ssh")
    node.disconnect()
    assert node.run("echo again").stdout == "again\n"


# ---- files that can be taken back -------------------------------------------------------------------------------------


def test_restore_files_removes_installed_files_and_restores_former_ones(node: SshNode) -> None:
    node.run("mkdir -p /etc/mine; echo old > /etc/mine/config; chmod 600 /etc/mine/config; ln -s config /etc/mine/link; rm -rf /etc/fresh")
    before = node.run("cd /etc/mine; stat -c '%n %a %F' *; cat config; readlink link").stdout
    files = {
        "/etc/mine/config": NodeFile(b"new", 0o644),
        "/etc/mine/link": NodeFile(b"a file now"),
        "/etc/fresh/deep/file": NodeFile(b"fresh"),
        "/etc/mine/program": NodeFile(link="/bin/true"),
    }
    assert set(install_files(node, files)) == set(files)
    assert install_files(node, files) == ()
    assert install_files(node, {**files, "/etc/mine/config": NodeFile(b"newer", 0o644)}) == ("/etc/mine/config",)
    assert read_files(node, ["/etc/mine/config", "/etc/fresh/deep/file", "/etc/nosuch"]) == {
        "/etc/mine/config": b"newer",
        "/etc/fresh/deep/file": b"fresh",
    }
    restore_files(node)
    assert node.run("cd /etc/mine; stat -c '%n %a %F' *; cat config; readlink link").stdout == before
    assert not node.run("[ -e /etc/fresh ]", check=False).ok
    restore_files(node)


def test_install_files_from_concurrent_steps_are_all_installed_and_restored(node: SshNode) -> None:
    groups = [{f"/etc/both/{number}-{index}": NodeFile(b"x") for index in range(20)} for number in range(4)]
    threads = [threading.Thread(target=install_files, args=(node, files)) for files in groups]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert node.run("ls /etc/both | wc -l").stdout.strip() == "80"
    restore_files(node)
    assert not node.run("[ -e /etc/both ]", check=False).ok


def test_write_files_same_files_from_several_threads_arrive_whole(node: SshNode) -> None:
    """As by a controller that was killed, whose command still runs, and the next one."""
    names = [f"/etc/again/{index}" for index in range(20)]
    errors: list[Exception] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(5):
                write_files(node, {name: NodeFile(content) for name in names})
                install_files(node, {name: NodeFile(content) for name in names})
                node.put(content, "/etc/again/one")
        except Exception as failed:
            errors.append(failed)

    threads = [threading.Thread(target=write, args=(bytes([letter]) * 100_000,)) for letter in b"abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert {len(set(content)) for content in read_files(node, names).values()} == {1}
    assert sorted(node.run("ls -A /etc/again").stdout.split()) == sorted([*(str(index) for index in range(20)), "one"])
    restore_files(node)


def test_write_files_secret_gets_mode_600(node: SshNode) -> None:
    write_files(node, {"/etc/secret/key": NodeFile(b"secret", 0o600)})
    assert node.run("stat -c %a /etc/secret/key").stdout.strip() == "600"

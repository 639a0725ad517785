"""What a machine gives to others on its port, and to whom: machines in containers with a small parcel, and requests made by hand."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.build import container_images
from harness.host import docker
from harness.lifecycle.provision import distribution, rootfs
from harness.lifecycle.provision.distribution import CLOSE, FOLDER, PORT, RUNNING, Exchange, Parcel
from harness.lifecycle.provision.distribution.scripts import RENEW
from harness.nodes.container import IMAGE, ContainerProvider
from harness.nodes.ssh import SshConnections, SshNode
from tests.waiting import until

NAME = f"test-share-out-{os.getpid()}"
SECRET = "the-content-of-shadow"
FILES = {"bin/tool": (b"program " * 20000, 0o755), "etc/plain": (b"plain\n", 0o644), "etc/keys/private": (b"private\n" * 20000, 0o600)}


class World:
    """Two machines, of which the first has a parcel and serves it."""

    def __init__(self, nodes: tuple[SshNode, ...], folder: Path) -> None:
        self.first, self.second = nodes
        for path, (data, mode) in FILES.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
            (folder / path).chmod(mode)
        self.sources = folder
        self.exchange = Exchange(nodes)

    def parcel(self, name: str) -> Parcel:
        files = distribution.contents({path: self.sources / path for path in FILES})
        return Parcel(
            name=name,
            files=files,
            place=f"{FOLDER}/{name}",
            finish=f"{rootfs.COMPLETE}rm -rf $work/tree",
            beside={
                "skeleton.tar": bytes(10240),
                "modes": "".join(f"{mode:o} ./{path}\n" for path, (_, mode) in FILES.items()).encode(),
                "paths": distribution.listing([*FILES, "bin", "etc", "etc/keys"]),
            },
        )

    def bring(self, node: SshNode, name: str = "rootfs-small") -> distribution.Delivery:
        return self.exchange.bring(node, name, lambda: self.parcel(name))

    def ask(self, name: str, *paths: str, key: str | None = None, address: str | None = None) -> bytes:
        """The answer to a request for paths of a parcel, made with its key unless another one is given."""
        return self.ask_with(f"{self.exchange.key(name) if key is None else key}\n".encode(), name, *paths, address=address)

    def ask_with(self, key: bytes, name: str, *paths: str, address: str | None = None) -> bytes:
        """The same with a code over these bytes in place of the file that holds the key."""
        with socket.create_connection((address or self.first.address, PORT), timeout=120) as connection:
            stream = connection.makefile("rwb")
            nonce = stream.readline()
            listed = "".join(f"{path}\n" for path in paths).encode()
            code = hashlib.blake2b(b"%b%b%b\n%b" % (key, nonce, name.encode(), listed)).hexdigest()
            answer = b""
            # What the machine leaves unread makes the end a reset.
            with contextlib.suppress(ConnectionError):
                stream.write(b"%b\n%b\n%d\n%b" % (code.encode(), name.encode(), len(listed), listed))
                stream.flush()
                while data := connection.recv(1 << 16):
                    answer += data
            return answer


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    client = docker.connect()
    node_image = container_images.package_image(client, IMAGE)
    home = tmp_path_factory.mktemp("home")
    provider = ContainerProvider(client, home)
    try:
        group = provider.up(NAME, 2, 0, image=node_image)
        with SshConnections(home / "tests", group.control_plane) as ssh:
            first, second = ssh.connect()
            made = World((first, second), tmp_path_factory.mktemp("sources"))
            made.bring(first)
            yield made
    finally:
        provider.down(NAME)


def test_share_request_with_key_returns_parcel_files(world: World) -> None:
    for path, (data, _) in FILES.items():
        assert data[:512] in world.ask("rootfs-small", f"./{path}")


def test_share_second_machine_gets_whole_parcel_from_peer(world: World) -> None:
    brought = world.bring(world.second)
    assert (brought.sent, brought.peers) == (0, (world.first.address,))
    for path, (data, _) in FILES.items():
        told = world.second.run(f"sha256sum < {FOLDER}/rootfs-small/{path}").stdout.split()[0]
        assert told == hashlib.sha256(data).hexdigest(), path


@pytest.mark.parametrize("name", ["", "unknown", "rootfs-other", "../rootfs-small", ".", "/", "rootfs-small/../rootfs-small", "*", "$HOME"])
def test_share_unknown_parcel_name_is_refused(world: World, name: str) -> None:
    for path in ("./etc/shadow", "./etc/kubernetes/pki/ca.key", "./bin/tool", "./bin", "."):
        assert world.ask(name, path) == b""
        assert world.ask(name, path, key=world.exchange.key("rootfs-small")) == b""


@pytest.mark.parametrize(
    "path",
    [
        "/etc/shadow",
        "./../rootfs-small/bin/tool",
        "./bin/../bin/tool",
        "./..",
        ".",
        "./bin",
        "bin/tool",
        "--to-command=id",
        "-C/",
        "./bin/*",
        "",
    ],
)
def test_share_unlisted_path_refuses_whole_request(world: World, path: str) -> None:
    assert world.ask("rootfs-small", path) == b""
    assert world.ask("rootfs-small", "./bin/tool", path) == b""


def test_share_file_added_to_folder_is_not_served(world: World) -> None:
    world.first.run(f"echo {SECRET} > {FOLDER}/rootfs-small/added; ln -sfn /etc {FOLDER}/rootfs-small/link")
    assert world.ask("rootfs-small", "./added") == b""
    assert world.ask("rootfs-small", "./link/shadow") == b""
    # A listed file that became a link is given as that link, not as what it leads to.
    world.first.run(f"cd {FOLDER}/rootfs-small/etc && mv plain kept && ln -s /etc/shadow plain")
    try:
        assert b"root:" not in world.ask("rootfs-small", "./etc/plain")
    finally:
        world.first.run(f"cd {FOLDER}/rootfs-small/etc && mv kept plain")


def test_share_missing_or_wrong_key_is_refused(world: World) -> None:
    for key in ("", "guessed", world.exchange.key("images-other"), world.exchange.key("")):
        assert world.ask("rootfs-small", "./bin/tool", key=key) == b""


@pytest.mark.parametrize("change", ["rm {}", ": > {}"], ids=["missing", "empty"])
def test_share_code_without_key_bytes_is_refused(world: World, change: str) -> None:
    """Where the file of a key is missing or empty, every machine could compute the code."""
    assert world.ask_with(b"", "rootfs-small", "./bin/tool") == b""
    key, kept = f"{RUNNING}/offers/rootfs-small/key", f"{RUNNING}/kept-key"
    world.first.run(f"cp -p {key} {kept}; {change.format(key)}")
    try:
        for name in ("rootfs-small", "unknown", ""):
            assert world.ask_with(b"", name, "./bin/tool") == b"", name
    finally:
        world.first.run(f"mv {kept} {key}")
    assert world.ask("rootfs-small", "./bin/tool")


def test_share_replayed_request_is_refused(world: World) -> None:
    def say(text: bytes | None) -> tuple[bytes, bytes]:
        """The request that was sent, and the answer; a fresh request without ``text``."""
        with socket.create_connection((world.first.address, PORT), timeout=120) as connection:
            stream = connection.makefile("rwb")
            nonce = stream.readline()
            listed = b"./etc/plain\n"
            key = world.exchange.key("rootfs-small").encode()
            code = hashlib.blake2b(b"%b\n%brootfs-small\n%b" % (key, nonce, listed)).hexdigest().encode()
            request = text or b"%b\nrootfs-small\n%d\n%b" % (code, len(listed), listed)
            assert key not in request
            with contextlib.suppress(ConnectionError):
                stream.write(request)
                stream.flush()
                return request, stream.read()
        return request, b""

    request, answer = say(None)
    assert FILES["etc/plain"][0] in answer
    assert say(request)[1] == b""


def test_share_listens_on_cluster_address_only(world: World) -> None:
    listening = world.first.run("systemctl show -p Listen slipway-share.socket").stdout
    assert listening.strip() == f"Listen={world.first.address}:{PORT} (Stream)"
    assert not world.first.run(f"timeout 60 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{PORT}'", check=False).ok


def test_share_server_sees_no_host_files_and_cannot_write(world: World) -> None:
    world.first.run(f"cp {RUNNING}/serve {RUNNING}/kept")
    reads = "cat /var/lib/slipway/share/*.have /etc/shadow /proc/1/environ; grep Cap /proc/self/status"
    script = f"id -u; ls -A / /etc /parcels /var; {reads}; touch /x /parcels/rootfs-small/x && echo written"
    # The same file: the unit binds it.
    world.first.run(f"cat > {RUNNING}/serve", input=script)
    try:
        with socket.create_connection((world.first.address, PORT), timeout=120) as connection:
            words = connection.makefile("rb").read().decode().split()
    finally:
        world.first.run(f"cat {RUNNING}/kept > {RUNNING}/serve")
    assert int(words[0]) > 0
    assert not {"shadow", "passwd", "home", "slipway", "CapEff:", "written"} & set(words), words
    assert "rootfs-small" in words


def test_share_end_timer_without_renewal_closes_share(world: World) -> None:
    timer = world.first.run("systemctl show -p ActiveState -p TimersMonotonic slipway-share-end.timer").stdout
    assert "ActiveState=active" in timer
    assert f"OnActiveUSec={distribution.OPEN_SECONDS // 60}min" in timer
    assert b"program" in world.ask("rootfs-small", "./bin/tool")
    # The same timer with less time to wait.
    unit = "/run/systemd/system/slipway-share-end.timer"
    shorter = f"sed -i s/OnActiveSec={distribution.OPEN_SECONDS}/OnActiveSec=1/ {unit}"
    world.first.run(f"{shorter} && grep -q OnActiveSec=1$ {unit} && systemctl daemon-reload && {RENEW}")
    left = f"systemctl list-units --all --no-legend 'slipway-share*'; ls -d {RUNNING} /run/systemd/system/slipway-*"
    until(lambda: world.first.run(left, check=False).stdout == "", lambda: world.first.run(left, check=False).stdout)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((world.first.address, PORT), timeout=60)


def test_share_on_systemd_without_sandbox_does_not_serve(world: World) -> None:
    world.exchange.close()
    node = world.second
    # As an older version does, which passes over what it does not know.
    node.run("mkdir -p /run/systemd/system/slipway-share@.service.d")
    node.put(b"[Service]\nRootDirectory=\nDynamicUser=no\nBindReadOnlyPaths=\n", "/run/systemd/system/slipway-share@.service.d/zz.conf")
    world.first.run(f"rm -rf {FOLDER}")
    exchange = Exchange([node, world.first])
    try:
        for machine in (node, world.first):
            brought = exchange.bring(machine, "rootfs-small", lambda: world.parcel("rootfs-small"))
        assert brought.peers == ()
        assert brought.sent
        with socket.create_connection((node.address, PORT), timeout=120) as connection:
            assert connection.makefile("rb").read() == b""
    finally:
        exchange.close()
        node.run(CLOSE)

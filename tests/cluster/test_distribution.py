"""What goes from this machine to those of a cluster, what they have from each other, and what becomes of it when one of them does ill."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness import cloudimage, process
from harness.cloudimage import PlatformImage
from harness.lifecycle.provision import rootfs
from harness.lifecycle.provision.distribution import FOLDER, PORT, RUNNING, Delivery, Exchange, scripts
from harness.nodes import each
from harness.nodes.ssh import SshNode
from harness.oci.store import Store
from harness.runtimes import ROOTFS
from tests.cluster.lab import Lab
from tests.conftest import Slipway

pytestmark = pytest.mark.long

CHECK_BLOBS = """cd /var/lib/slipway/registry/docker/registry/v2/blobs/sha256 &&
for blob in */*; do [ "$(sha256sum < "$blob/data")" = "${blob#*/}  -" ] || { echo "$blob"; exit 1; }; done; ls -d */* | wc -l"""
TREE = f"""export LC_ALL=C; cd {ROOTFS} && find bin lib -type f | sort | xargs sha256sum | sha256sum
find bin lib | sort | xargs stat -c '%a %N' | sha256sum"""
# Written in place: the unit binds the file.
STOPS = f"""text=$(sed 's/ -T -$/ -T - | {{ head -c 30000000; sleep 300; }}/' {RUNNING}/serve)
printf '%s\\n' "$text" > {RUNNING}/serve && grep 'sleep 300' {RUNNING}/serve"""


class Cluster:
    """Three control-plane nodes and a worker, and what their making cost."""

    def __init__(self, slipway: Slipway, image: str) -> None:
        self.lab = Lab(slipway, "test-distribution", 3, 1)
        network = json.loads(process.run(["docker", "network", "inspect", f"slipway-{self.lab.name}"]).stdout)[0]
        # A bridge counts what this machine sends, and not what its ports send to each other.
        self._counter = Path("/sys/class/net", f"br-{network['Id'][:12]}", "statistics/tx_bytes")
        before = self.wire()
        self.summary = json.loads(self.lab.run(image, "--output", "json").stdout)
        self.on_the_wire = self.wire() - before
        self.store = Store.default()
        self.image: PlatformImage = cloudimage.read(self.store, image).platforms[0]
        self.size = cloudimage.read(self.store, image).size
        self.share = f"{FOLDER}/{rootfs.parcel_name(self.image)}"

    def wire(self) -> int:
        """Bytes that this machine has sent to the machines."""
        return int(self._counter.read_text())

    def bring(self, among: Sequence[SshNode]) -> Delivery:
        """The rootfs anew to the last of some machines, which has nothing of it any more."""
        among[-1].run(f"rm -rf {FOLDER}")
        exchange = Exchange(among)
        try:
            return self._bring(exchange, among[-1])
        finally:
            exchange.close()

    def _bring(self, exchange: Exchange, node: SshNode) -> Delivery:
        name = rootfs.parcel_name(self.image)
        return exchange.bring(node, name, lambda: rootfs.parcel(self.store, self.image))

    def tree(self, node: SshNode) -> str:
        return node.run(TREE).stdout


@pytest.fixture(scope="module")
def cluster(slipway: Slipway, kubernetes: str) -> Iterator[Cluster]:
    made = Cluster(slipway, kubernetes)
    try:
        yield made
    finally:
        made.lab.down()


def test_run_sends_each_byte_to_cluster_about_once(cluster: Cluster) -> None:
    assert cluster.size <= cluster.summary["sent"] <= 1.3 * cluster.size
    assert cluster.on_the_wire <= 1.3 * cluster.size


def test_run_gives_all_machines_same_rootfs_and_intact_blobs(cluster: Cluster) -> None:
    assert len({cluster.tree(machine) for machine in cluster.lab.machines}) == 1
    blobs = str(len(cluster.image.images.blobs))
    assert each(cluster.lab.machines[:3], lambda machine: machine.run(CHECK_BLOBS, timeout=60).stdout.strip()) == [blobs] * 3


def test_share_is_closed_after_run(cluster: Cluster) -> None:
    for machine in cluster.lab.machines:
        assert "slipway-share" not in machine.run("systemctl list-units --all --no-legend 'slipway-*'; ls /run/systemd/system").stdout
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((machine.address, PORT), timeout=5)


def test_share_serves_only_parcel_files_and_only_with_key(cluster: Cluster) -> None:
    node, name = cluster.lab.first, rootfs.parcel_name(cluster.image)
    exchange = Exchange([node])

    def asked(name: str, path: str, key: str) -> bytes:
        with socket.create_connection((node.address, PORT), timeout=60) as connection:
            stream = connection.makefile("rwb")
            nonce, listed = stream.readline(), f"{path}\n".encode()
            code = hashlib.blake2b(b"%b\n%b%b\n%b" % (key.encode(), nonce, name.encode(), listed)).hexdigest()
            found = b""
            # What is left unread makes the end a reset.
            with contextlib.suppress(ConnectionError):
                stream.write(b"%b\n%b\n%d\n%b" % (code.encode(), name.encode(), len(listed), listed))
                stream.flush()
                while data := connection.recv(1 << 16):
                    found += data
            return found

    try:
        cluster._bring(exchange, node)
        key = exchange.key(name)
        assert b"ELF" in asked(name, "./bin/cni/loopback", key)
        for other in ("guessed", "", exchange.key("images-0")):
            assert asked(name, "./bin/cni/loopback", other) == b""
        for unknown in ("", "unknown", "../rootfs", f"{name}x", "images-0"):
            for path in ("./bin/cni/loopback", "./etc/kubernetes/pki/ca.key", "./etc/shadow"):
                assert asked(unknown, path, key) == b""
                assert asked(unknown, path, exchange.key(unknown)) == b""
        for path in ("/etc/shadow", "/etc/kubernetes/pki/ca.key", "./../password", "./bin/../../x", "./..", "--to-command=id", "./bin", ""):
            assert asked(name, path, key) == b""
        assert not node.run(f"timeout 60 bash -c 'exec 3<>/dev/tcp/127.0.0.1/{PORT}'", check=False).ok
    finally:
        exchange.close()


def test_share_changed_byte_at_peer_is_refused_and_file_is_resent(cluster: Cluster) -> None:
    first, worker = cluster.lab.first, cluster.lab.worker
    before = cluster.tree(worker)
    # A file of its own: the one that is handed on is the one that runs.
    first.run(f"cd {cluster.share}/bin && cp kubectl k && printf x | dd of=k bs=1 seek=5000 conv=notrunc 2>&1 && mv k kubectl")
    brought = cluster.bring([first, worker])
    assert cluster.tree(worker) == before
    kubectl = (rootfs.tree(cluster.store, cluster.image) / "bin/kubectl").stat().st_size
    assert brought.peers == (first.address,)
    assert kubectl <= brought.sent <= kubectl + 20_000
    # Others that have it right come first.
    second = cluster.lab.machines[1]
    assert cluster.bring([second, worker]).sent == 0
    assert cluster.tree(worker) == before


def test_share_machine_cut_from_peers_receives_rootfs_from_slipway(cluster: Cluster) -> None:
    worker = cluster.lab.worker
    before = cluster.tree(worker)
    worker.run(f"iptables -I OUTPUT -p tcp --dport {PORT} -j DROP")
    try:
        brought = cluster.bring(cluster.lab.machines)
    finally:
        worker.run(f"iptables -D OUTPUT -p tcp --dport {PORT} -j DROP")
    assert brought.peers == ()
    assert brought.sent < cluster.size / 2
    assert cluster.tree(worker) == before


def test_share_stalled_peer_is_given_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scripts, "STALLED", 2)
    second, worker = cluster.lab.machines[1], cluster.lab.worker
    before = cluster.tree(worker)
    exchange = Exchange([second, worker])
    try:
        cluster._bring(exchange, worker)
        second.run(STOPS)
        worker.run(f"rm -rf {FOLDER}/rootfs-*")
        brought = cluster._bring(exchange, worker)
    finally:
        exchange.close()
    assert brought.sent
    assert cluster.tree(worker) == before

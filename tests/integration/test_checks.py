"""What is wrong with machines, made real on them: it is told before anything is changed, all of it at once, with what to do about it."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cloudimage, process
from harness.build import container_images
from harness.cloudimage import Info, PlatformImage
from harness.host import apt, docker
from harness.lifecycle.checks.facts import SCRIPT, parse
from harness.lifecycle.checks.findings import addresses
from harness.lifecycle.checks.preflight import CHECKS, probes
from harness.nodes import NodeGroup
from harness.nodes.container import IMAGE, LABEL, ContainerProvider
from harness.nodes.ssh import SshConnections, SshNode
from harness.oci.layer import scan, write_layer
from harness.oci.model import Platform
from harness.oci.store import Store
from tests.conftest import Slipway
from tests.waiting import HANG

NAME = f"test-checks-{os.getpid()}"
NOBODY = "127.0.0.77"
"""An address where no sshd listens."""


@dataclasses.dataclass(frozen=True)
class Site:
    """Four machines and a home with an image for them."""

    slipway: Slipway
    client: docker.Client
    group: NodeGroup
    home: Path
    nodes: tuple[SshNode, ...]

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def words(self, *more: str) -> list[str]:
        control_plane, workers = (
            ",".join(machine.address for machine in group) for group in (self.group.control_plane, self.group.workers)
        )
        return ["--control-plane", control_plane, "--workers", workers, "--key", str(self.group.login.key), *more]

    def call(self, *words: str, **env: str) -> process.ProcessResult:
        return self.slipway(*words, check=False, env={"SLIPWAY_HOME": str(self.home), **env}, timeout=HANG)

    def found(self, *more: str) -> dict[tuple[str, str], dict[str, Any]]:
        """What each check says about each machine."""
        said = self.call("check", "--pre", "--image", "small", *self.words(*more), "--output", "json")
        checks = json.loads(said.stdout)["checks"]
        return {(check["id"], one["where"]): one for check in checks for one in check["findings"]}

    def marks(self) -> set[str]:
        """All files that lie where a run puts something, by machine, name and time; folders by their names."""
        places = "/etc /opt /usr/local /root /var/lib /var/lib/slipway /var/lib/etcd /var/lib/kubelet /var/lib/containerd"
        script = f"find {places} -xdev \\( -type d -printf '%p\\n' -o -printf '%p %T@ %C@\\n' \\) 2>/dev/null"
        return {f"{node.address} {line}" for node in self.nodes for line in node.run(script).stdout.splitlines()}


@pytest.fixture(scope="module")
def site(slipway: Slipway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    client = docker.connect()
    node_image = container_images.package_image(client, IMAGE)
    home = tmp_path_factory.mktemp("home")
    provider = ContainerProvider(client, home)
    try:
        group = provider.up(NAME, 1, 3, image=node_image)
        _small_image(Store(home / "store"), tmp_path_factory.mktemp("root"))
        with SshConnections(home / "tests", (*group.control_plane, *group.workers)) as ssh:
            yield Site(slipway, client, group, home, ssh.connect())
    finally:
        provider.down(NAME)


def _small_image(store: Store, root: Path) -> None:
    """A CloudImage that could never run: nothing of it may get that far."""
    (root / "etc/addons").mkdir(parents=True)
    (root / "etc/addons/network.yaml").write_text("kind: DaemonSet\nmetadata: {name: kube-flannel-ds}\n")
    (root / "etc/slipway.yaml").write_text("kubernetes: v1.36.3\n")
    layer = write_layer(scan(root), store)
    image = PlatformImage(Platform.parse("linux/amd64"), (layer.descriptor,), (layer.diff_id,), info=Info(kubernetes="v1.36.3"))
    store.tag("small", cloudimage.write(store, [image]))


# ---- machines that are fit --------------------------------------------------------------------------------------------


def test_check_pre_fresh_machines_pass_all_checks_and_stay_unchanged(site: Site) -> None:
    before = site.marks()
    # A check that was killed leaves what listened; that is nobody else.
    assert probes.listening(site.nodes[0].run(probes.listen(site.addresses[0], "0", "6443")).stdout)
    found = site.found()
    assert {check for check, _ in found} == CHECKS.keys() - {"member"}
    bad = {key: one["seen"] for key, one in found.items() if one["result"] in ("failed", "unknown")}
    assert bad == {}
    assert re.search(r"\d ms for a synchronous write", found["etcd-disk", site.addresses[0]]["seen"])
    assert all(found["reach", address]["seen"] == "is reached" for address in site.addresses)
    assert site.marks() ^ before == set()
    left = site.nodes[0].run("grep ':192B 00' /proc/net/tcp; ls -A /var/lib/etcd; pgrep perl", check=False).stdout
    assert left == ""


def test_facts_script_with_busybox_alone_collects_facts(tmp_path: Path) -> None:
    apt.ensure("busybox", "busybox-static")
    process.run(["busybox", "--install", "-s", tmp_path])
    said = process.run([tmp_path / "sh"], input=SCRIPT, env={"PATH": str(tmp_path)}).stdout
    facts = parse(said, 0, 0)
    assert facts.cpus >= 1
    assert facts.memory > 1 << 20
    assert facts.places["/var/lib"].free > 0
    assert facts.kernel
    assert facts.controllers


# ---- and such that are not --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken(site: Site) -> Site:
    """Machines with everything wrong that can be made wrong in a container."""
    node, one, two, three = site.nodes
    node.run(
        # A port that is taken, a small disk that refuses programs, a name that leads elsewhere, an address in the middle of the pods'.
        'perl -MIO::Socket::INET -e \'fork and exit; open STDOUT, ">/dev/null"; open STDERR, ">&STDOUT"; close STDIN;'
        " $s = IO::Socket::INET->new(LocalPort => 6443, Listen => 1); sleep 300';"
        "mount -t tmpfs -o noexec tmpfs /var/lib/slipway; mount -t tmpfs -o size=64m tmpfs /var/lib/etcd;"
        "echo '10.9.8.7 apiserver.cluster.local' >> /etc/hosts;"
        "ip route add 100.70.0.0/16 dev eth0"
    )
    one.run(
        # What others have left, no inodes, a disk that forgets, packets that are dropped.
        "mkdir -p /etc/kubernetes /etc/cni/net.d; echo x > /etc/kubernetes/admin.conf; echo '{}' > /etc/cni/net.d/05-other.conflist;"
        "mount -t tmpfs -o nr_inodes=200 tmpfs /var/lib/containerd;"
        "iptables -A INPUT -p tcp --dport 22 -j ACCEPT; iptables -A INPUT -m state --state ESTABLISHED -j ACCEPT; iptables -P INPUT DROP"
    )
    two.run(
        # The control-plane node's name and identity, long packets that others cannot have, forwarding that ends with the next start.
        "hostname $(cat); echo 'net.ipv4.ip_forward = 0' > /etc/sysctl.d/99-hardened.conf; ip link set eth0 mtu 1400",
        input=node.name,
    )
    two.put(node.get("/etc/machine-id"), "/etc/machine-id")
    # What is on the machine is not what it was told to be: a proxy, search domains, and less memory than it takes.
    three.run("systemctl set-environment HTTPS_PROXY=http://ops:hunter2@10.1.1.1:3128; cat > /etc/resolv.conf",
              input="nameserver 127.0.0.1\nsearch a.example b.example c.example d.example cluster.local\n")  # fmt: skip
    (container,) = site.client.containers.list(filters={"label": f"{LABEL}={NAME}", "name": three.name})
    container.update(mem_limit=700 << 20, memswap_limit=700 << 20)
    return site


EXPECTED = (
    ("ports", 0, "failed", r"port 6443 is in use by perl \(\d+\), the API server needs it"),
    ("disk-space", 0, "failed", r"has 64 MiB free in /var/lib/etcd, 256 MiB are needed"),
    ("filesystem", 0, "warning", r"/var/lib/etcd is in memory \(tmpfs\)"),
    ("mount-options", 0, "failed", "/var/lib/slipway is mounted noexec"),
    ("hosts-file", 0, "failed", r"has 10\.9\.8\.7 for apiserver\.cluster\.local"),
    ("networks", 0, "failed", r"routes 100\.70\.0\.0/16 on eth0, in PodCIDR"),
    ("leftovers", 1, "failed", "/etc/kubernetes/admin.conf of another Kubernetes"),
    ("cni", 1, "failed", r"05-other\.conflist would be the network of pods"),
    ("inodes", 1, "failed", r"\d+ inodes free on /var/lib/containerd"),
    ("firewall", 1, "warning", r"drops by default \(INPUT\)"),
    ("reach", 1, "failed", r"TCP 10250 from .* \(no answer\)"),
    ("pod-packets", 1, "warning", r"UDP 8472 .* does not come back"),
    ("hostname", 0, "failed", "the same host name"),
    ("hostname", 2, "failed", "the same host name"),
    ("machine-id", 2, "warning", "the same /etc/machine-id"),
    ("sysctl", 2, "warning", r"99-hardened\.conf switches net\.ipv4\.ip_forward off"),
    ("mtu", 2, "warning", r"1400 bytes at most, those of others 1500"),
    ("memory", 3, "failed", "has 700 MiB of memory: too small"),
    ("proxy", 3, "warning", "https_proxy"),
    ("resolver", 3, "warning", r"names 127\.0\.0\.1"),
    ("search-domains", 3, "warning", "cluster.local, the cluster's own domain"),
)


def test_check_pre_broken_machines_reports_each_fault_with_remedy(broken: Site) -> None:
    found = broken.found()
    for check, number, result, seen in EXPECTED:
        one = found[check, broken.addresses[number]]
        assert (one["result"], bool(re.search(seen, one["seen"]))) == (result, True), (check, one)
        assert one["remedy"], check
    expected = {(check, broken.addresses[number]) for check, number, _, _ in EXPECTED}
    more = {key: one["seen"] for key, one in found.items() if one["result"] == "failed" and key not in expected}
    assert more == {}
    # What is fine on the others is not drawn into it.
    for check in ("memory", "leftovers", "mount-options"):
        assert sum(found[check, address]["result"] == "ok" for address in broken.addresses) == 3


def test_run_broken_machines_reports_all_faults_with_hints_and_changes_nothing(broken: Site) -> None:
    before = broken.marks()
    said = broken.call("run", "small", *broken.words("--cluster", NAME))
    assert said.returncode == 7, said.stderr
    failed = [(check, seen) for check, _, result, seen in EXPECTED if result == "failed"]
    for check, seen in failed:
        assert re.search(rf"{seen}.* \[{check}\]\n +hint: ", said.stderr), (check, said.stderr)
    assert f"{len({check for check, _ in failed})} things must be put right first; nothing has been changed" in said.stderr
    # One line for the two machines that share a name.
    assert said.stderr.count("has the same host name") == 1
    assert "hunter2" not in said.stderr + said.stdout
    assert broken.marks() ^ before == set()


def test_check_pre_skipped_faults_do_not_fail_and_equal_findings_are_merged(broken: Site) -> None:
    ids = ",".join({check for check, _, result, _ in EXPECTED if result == "failed" and not CHECKS[check].needed})
    said = broken.call("check", "--pre", "--all", *broken.words("--skip-check", ids))
    assert said.returncode == 7
    assert re.search(r"^skipped +ports +\S+: port 6443", said.stdout, re.MULTILINE)
    assert re.findall(r"^failed +(\S+)", said.stdout, re.MULTILINE) == ["hostname"]
    assert f"{addresses(broken.addresses)}: Debian GNU/Linux 12" in said.stdout


# ---- ways in ----------------------------------------------------------------------------------------------------------


def test_login_faults_of_several_machines_are_reported_at_once_and_change_nothing(site: Site) -> None:
    first, sad, changed, fine = site.nodes
    sad.run("useradd -m lowly; mkdir -p ~lowly/.ssh; cp /root/.ssh/authorized_keys ~lowly/.ssh/; chown -R lowly ~lowly")
    first.run(
        "useradd -m pass; chpasswd; echo 'PasswordAuthentication yes' > /etc/ssh/sshd_config.d/10-password.conf; systemctl restart ssh",
        input="pass:right",
    )
    key = str(site.group.login.key)
    hosts = [
        {"ips": [first.address], "roles": ["control-plane"], "ssh": {"user": "pass", "passwdEnv": "WRONG"}},
        {"ips": [sad.address], "roles": ["node"], "ssh": {"user": "lowly", "pk": key}},
        {"ips": [changed.address, fine.address, NOBODY], "roles": ["node"], "ssh": {"pk": key}},
    ]
    file = site.home / "Clusterfile"
    document = {"apiVersion": "slipway.dev/v1", "kind": "Cluster", "metadata": {"name": NAME}, "spec": {"image": "small", "hosts": hosts}}
    file.write_text(yaml.safe_dump(document))
    pinned = site.home / "clusters" / NAME / "known_hosts"
    pinned.parent.mkdir(parents=True, exist_ok=True)
    other = process.run(["ssh-keygen", "-y", "-f", key]).stdout.split()
    pinned.write_text(f"{changed.address} {other[0]} {other[1]}\n")
    before = site.marks()
    reasons = {
        first.address: "it does not accept pass with the password",
        sad.address: "lowly may not become root without a password",
        changed.address: "its host key is not the pinned one",
        NOBODY: "nothing listens on port 22",
    }
    for verb in (["run"], ["check", "--pre"]):
        said = site.call(*verb, "--file", str(file), WRONG="not right")
        assert said.returncode == 5, (verb, said.stderr)
        for address, reason in reasons.items():
            assert f"{address}: {reason}" in said.stderr + said.stdout, (verb, said.stderr)
        assert "not right" not in said.stderr + said.stdout
    found = json.loads(site.call("check", "--pre", "--file", str(file), "--output", "json", WRONG="not right").stdout)
    results = {check["id"]: {one["where"]: one["result"] for one in check["findings"]} for check in found["checks"]}
    assert results["access"] == {first.address: "failed", changed.address: "failed", NOBODY: "failed", fine.address: "ok"}
    assert results["sudo"] == {sad.address: "failed", fine.address: "ok"}
    # The one that lets us in was looked at all the same.
    assert fine.address in results["memory"]
    assert site.marks() ^ before == set()

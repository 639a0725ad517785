"""Machines for the tests of this ring and the clusters that are made of them; and what may happen to both."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import urllib3

from harness import process
from harness.errors import CommandError
from harness.host import liveness
from harness.host.cluster_cache import ClusterState
from harness.nodes import Login, Machine, each
from harness.nodes.container import ContainerProvider
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshConnections, SshNode
from harness.oci.model import INDEXES, MANIFESTS
from tests import waiting
from tests.conftest import Slipway
from tests.integration.test_build import heed_ctrl_c
from tests.waiting import HANG

RUN = ("run", "--image-pull-policy=Always", "--restart=Never")
MEMBERS = """kubectl() { /var/lib/slipway/rootfs/bin/kubectl --kubeconfig /etc/kubernetes/admin.conf --namespace kube-system "$@"; }
cd /etc/kubernetes/pki/etcd
kubectl exec etcd-$(uname -n) -- etcdctl --endpoints https://127.0.0.1:2379 --cacert $PWD/ca.crt --cert $PWD/peer.crt \
  --key $PWD/peer.key member list"""

HOSTS = "/etc/containerd/certs.d/*/hosts.toml"

CRICTL = "/var/lib/slipway/rootfs/bin/crictl --runtime-endpoint unix:///run/containerd/containerd.sock"

# What a machine needs to be a node of anybody's cluster, from a worker: programs, containerd, and where the images are.
PREPARED = (
    "var/lib/slipway/rootfs usr/local/bin/kubeadm usr/local/bin/kubelet usr/local/bin/kubectl opt/cni/bin etc/cni etc/containerd "
    "etc/systemd/system/containerd.service etc/systemd/system/kubelet.service etc/systemd/system/kubelet.service.d "
    "etc/sysctl.d/90-slipway.conf"
)

KINDS = "namespaces,configmaps,secrets,services,deployments,daemonsets,serviceaccounts,roles,clusterroles"

NAMESPACE = hashlib.sha256(liveness.process_label().rsplit(".", 2)[0].encode()).hexdigest()[:6]
"""In which the numbers of processes count: part of the names of machines, which others that share the engine see."""


class Lab:
    """A group of machines, and the cluster that is made of them. ``spares`` are kept out of it at first."""

    def __init__(self, slipway: Slipway, name: str, control_plane: int, workers: int, spares: int = 0, subnet: str | None = None) -> None:
        # Two runs of these tests on one machine do not meet.
        self.slipway, self.name = slipway, f"{name}-{os.getpid()}-{NAMESPACE}"
        words = ("-m", str(control_plane), "-n", str(workers + spares), "--output", "json", *(("--subnet", subnet) if subnet else ()))
        group = json.loads(slipway("nodes", "up", "--name", self.name, *words).stdout)
        self.key = Path(group["key"])
        self.control_plane: list[str] = [made["address"] for made in group["nodes"] if made["role"] == "control-plane"]
        others: list[str] = [made["address"] for made in group["nodes"] if made["role"] == "worker"]
        self.workers, self.spares = others[:workers], others[workers:]
        everybody = [*self.control_plane, *others]
        self.ssh = SshConnections(
            ClusterState.of(f"{self.name}-tests").folder, [Machine(address, Login(key=self.key)) for address in everybody]
        )
        self.ssh.connect()
        self._machines: dict[str, SshNode] = dict(zip(everybody, self.ssh.nodes, strict=True))
        # Names of their own may be given to machines later; containers keep theirs.
        self._containers: dict[str, str] = {made["address"]: f"slipway-{made['name']}" for made in group["nodes"]}

    @property
    def addresses(self) -> list[str]:
        return [*self.control_plane, *self.workers]

    @property
    def machines(self) -> Sequence[SshNode]:
        return [self._machines[address] for address in self.addresses]

    @property
    def first(self) -> SshNode:
        return self._machines[self.control_plane[0]]

    @property
    def worker(self) -> SshNode:
        return self._machines[self.workers[0]]

    def at(self, address: str) -> SshNode:
        return self._machines[address]

    def host(self, address: str) -> str:
        """The name that the machine was made with."""
        return self._containers[address].removeprefix("slipway-")

    def words(self, image: str, *more: str, name: str | None = None) -> list[str]:
        workers = ["--workers", ",".join(self.workers)] if self.workers else []
        return [
            "run",
            image,
            "--control-plane",
            ",".join(self.control_plane),
            *workers,
            "--key",
            str(self.key),
            "--cluster",
            name or self.name,
            *more,
        ]

    def run(self, image: str, *more: str, check: bool = True, name: str | None = None) -> process.ProcessResult:
        return self.slipway(*self.words(image, *more, name=name), check=check, timeout=2 * HANG)

    def join_words(self, address: str, *more: str, role: str = "workers") -> list[str]:
        return ["join", self.name, f"--{role}", address, "--key", str(self.key), *more]

    def kubectl(self, *argv: str) -> str:
        return NodeKubectl(self.first).run(*argv)

    def json(self, *argv: str) -> Any:
        return json.loads(self.kubectl(*argv, "--output=json"))

    def status(self) -> dict[str, Any]:
        return dict(json.loads(self.slipway("status", self.name, "--output", "json").stdout))

    def nodes(self) -> dict[str, bool]:
        """The names of the nodes, and whether they are ready."""
        return {node["name"]: node["ready"] for node in self.status()["nodes"]}

    def objects(self) -> set[str]:
        """Every object that stays as it is while nobody changes the cluster, with the mark of its making."""
        items = self.json("get", KINDS, "--all-namespaces")["items"]
        return {f"{one['kind']} {one['metadata'].get('namespace')}/{one['metadata']['name']} {one['metadata']['uid']}" for one in items}

    def journals(self, *addresses: str) -> dict[str, list[str]]:
        """What has been finished on these machines, or all members: lines ``step hash``, and a boot where the disk could not be synced."""
        machines = [self.at(address) for address in addresses] or self.machines
        texts = each(machines, lambda machine: machine.run("cat /var/lib/slipway/journal 2>/dev/null || true").stdout)
        return {machine.address: text.splitlines() for machine, text in zip(machines, texts, strict=True)}

    def registry(self, path: str = "", address: str | None = None, **headers: str) -> int:
        """The status with which the registry of a node, or of the first one, answers this machine, which is no member of the cluster, for
        a path below ``/v2/``.
        """
        authority = self.first.get("/etc/kubernetes/pki/ca.crt").decode()
        with urllib3.PoolManager(ca_cert_data=authority) as http:
            # A manifest is given to those only that say that they can read it.
            headers = {"Accept": ", ".join((*MANIFESTS, *INDEXES)), **headers}
            return http.request("GET", f"https://{address or self.control_plane[0]}:5000/v2/{path}", headers=headers).status

    def login(self, machine: SshNode) -> str:
        """What a machine sends along wherever it looks for images; root alone reads it."""
        assert set(machine.run(f"stat -c %a {HOSTS}").stdout.split()) == {"600"}
        (login,) = machine.run(f"sed -n 's/^Authorization = \"\\(.*\\)\"$/\\1/p' {HOSTS} | sort -u").stdout.splitlines()
        return login

    def take_login(self) -> None:
        """Make of the cluster what an earlier slipway would have: its registries give images to every client."""
        for machine in self.machines:
            machine.run(f"sed -i '/header\\]$/d; /^Authorization = /d' {HOSTS}; chmod 644 {HOSTS}")
            machine.run("sed -i '/^set-up-machines /d; /^start-registry /d' /var/lib/slipway/journal")
        for machine in self.machines[: len(self.control_plane)]:
            machine.run("cd /var/lib/slipway; rm registry.htpasswd; sed -i '/^auth:/,$d' registry.yaml; systemctl restart slipway-registry")
        until(lambda: {self._answers(address) for address in self.control_plane} == {200})

    def _answers(self, address: str) -> int:
        """As ``registry``; 0 for one that is only just starting."""
        try:
            return self.registry("", address)
        except urllib3.exceptions.HTTPError:
            return 0

    def down(self) -> None:
        self.ssh.close()
        self.slipway("nodes", "down", self.name)
        for name in (self.name, f"{self.name}-tests"):
            ClusterState.of(name).forget()

    def equip(self, address: str, way: str) -> SshNode:
        """Give a machine, which slipway does not know, what kubeadm expects; it finds images and API at the control-plane node ``way``."""
        plain = self.at(address)
        source, target = self._containers[self.workers[0]], self._containers[address]
        process.run(["sh", "-c", f"docker exec {source} tar -C / -cf - {PREPARED} | docker exec -i {target} tar -C / -xf -"])
        plain.put(self.first.get("/etc/kubernetes/pki/ca.crt"), "/etc/containerd/ca.crt")
        plain.run(f"sed -i 's|127.0.0.1:5000|{way}:5000|; s|/etc/kubernetes/pki/ca.crt|/etc/containerd/ca.crt|' {HOSTS}")
        plain.run(f"echo '{way} apiserver.cluster.local' >> /etc/hosts; sysctl -q -e -p /etc/sysctl.d/90-slipway.conf")
        plain.run("systemctl daemon-reload; systemctl restart containerd; systemctl enable kubelet")
        return plain

    def kubeadm_join(self, address: str, *more: str) -> None:
        """Have an equipped machine join by kubeadm alone, and wait until its node is Ready."""
        command = self.first.run("kubeadm token create --print-join-command 2>/dev/null").stdout.strip()
        assert command.startswith("kubeadm join apiserver.cluster.local:6443 --token ")
        # Its preflight wants a kernel whose configuration it can read: a container has none.
        self.at(address).run(" ".join((command, "--skip-phases=preflight", *more)), timeout=HANG)
        until(lambda: self.nodes().get(self.host(address)))

    # What may happen to a machine.

    def kill(self, address: str) -> None:
        """The machine is gone, and nobody says so."""
        process.run(["docker", "kill", self._containers[address]])

    def reboot(self, address: str) -> None:
        """The machine, which may have been killed, starts again with all that is on its disks."""
        container = self._containers[address]
        ContainerProvider().restart(self.host(address))
        found = json.loads(process.run(["docker", "inspect", container]).stdout)[0]["NetworkSettings"]["Networks"]
        assert found[f"slipway-{self.name}"]["IPAddress"] == address, "it has another address now"

    def cut(self, address: str) -> None:
        """The machine goes on, and nothing from it or to it arrives."""
        self._inside(address, "iptables -I INPUT -i eth0 -j DROP; iptables -I OUTPUT -o eth0 -j DROP")

    def mend(self, address: str) -> None:
        self._inside(address, "iptables -D INPUT -i eth0 -j DROP; iptables -D OUTPUT -o eth0 -j DROP")

    def _inside(self, address: str, script: str) -> None:
        """By way of the container: also when the network is no way."""
        process.run(["docker", "exec", self._containers[address], "sh", "-c", script])


# ---- the command line while it runs -----------------------------------------------------------------------------------


@contextmanager
def begun(words: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """The command line, running; what it says comes from ``stderr``. It is killed if it has not ended by itself."""
    argv = [sys.executable, "-m", "harness.cli", *words]
    environment = {**os.environ, **(env or {})}
    with subprocess.Popen(
        argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment, preexec_fn=heed_ctrl_c
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def lines(running: subprocess.Popen[str]) -> Iterator[str]:
    assert running.stderr is not None
    return iter(running.stderr)


def reached(running: subprocess.Popen[str], line: str) -> str:
    """Wait until it says ``line``; what it had said. Fails when it ends without."""
    said = ""
    for text in lines(running):
        said += text
        if line in text:
            return said
    raise AssertionError(f"it never said {line!r}:\n{said}")


def ended(running: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for its end; the exit code and what it still said."""
    _, said = running.communicate(timeout=HANG)
    return running.returncode, said


def kill_at(words: Sequence[str], line: str) -> str:
    """Start the command line and kill it without warning as soon as it says ``line``; what it had said."""
    with begun(words) as running:
        said = reached(running, line)
        running.kill()
    return said


@dataclasses.dataclass(frozen=True)
class Killed:
    """A command that was killed at each of its steps."""

    titles: tuple[str, ...]
    """The steps at whose beginning it was, in order."""
    said: str
    """What the last one said, which came to its end."""


def kill_at_every_step(words: Sequence[str]) -> Killed:
    """Start the command line again and again, and kill it without warning when it begins a step that none before it had begun."""
    titles: list[str] = []
    while True:
        with begun(words) as running:
            said = ""
            for text in lines(running):
                said += text
                title = text.removeprefix("- ").removesuffix(" ...\n")
                if text.startswith("- ") and title not in titles:
                    titles.append(title)
                    running.kill()
                    break
            else:
                assert running.wait() == 0, said
                return Killed(tuple(titles), said)


def repeated(journal: Sequence[str]) -> list[str]:
    """The steps that were finished more than once, whatever they were given."""
    steps = [line.split()[0] for line in journal]
    return sorted({step for step in steps if steps.count(step) > 1})


# ---- what is seen -----------------------------------------------------------------------------------------------------


def until(condition: Callable[[], Any]) -> Any:
    """The first true value of a condition; a command that fails is not one yet. Fails when it hangs."""
    failed: object = None

    def holds() -> Any:
        nonlocal failed
        try:
            return condition()
        except CommandError as error:
            failed = error.details
            return None

    return waiting.until(holds, lambda: failed, pause=0.3)


def kubeadm_upgrades(machine: SshNode) -> None:
    """Have kubeadm write the files of a node for the version that its cluster has."""
    # On cgroup v1, kubeadm asks for that since 1.37, besides failCgroupV1: false.
    old_cgroup = machine.run("stat -fc %T /sys/fs/cgroup").stdout.strip() != "cgroup2fs"
    skipped = " --ignore-preflight-errors=SystemVerification" if old_cgroup else ""
    said = machine.run(f"kubeadm upgrade node --certificate-renewal=false{skipped}", timeout=HANG).output
    assert "kubelet configuration for this node was successfully upgraded" in said


def kubeadm_resets(machine: SshNode) -> None:
    """Have kubeadm undo what makes a machine a node, and see that it has."""
    machine.run("kubeadm reset --force", timeout=HANG)
    assert machine.run("ls /etc/kubernetes/kubelet.conf", check=False).returncode == 2
    assert machine.run(f"{CRICTL} pods --quiet").stdout == ""
    machine.run("systemctl disable --now kubelet")


def succeeded(node: SshNode, pod: str) -> bool:
    return bool(json.loads(NodeKubectl(node).run("get", "pod", pod, "--output=json"))["status"]["phase"] == "Succeeded")


def runs_on(control_plane_node: SshNode, node: str, pod: str, image: str, *command: str) -> None:
    """Start a pod on a node by name, its image pulled anew, and wait until it has succeeded."""
    spec = {"nodeName": node, "tolerations": [{"operator": "Exists"}], "terminationGracePeriodSeconds": 0}
    kubectl = NodeKubectl(control_plane_node)
    kubectl.run(*RUN, pod, f"--image={image}", f"--overrides={json.dumps({'spec': spec})}", "--command", "--", *command)
    until(lambda: succeeded(control_plane_node, pod))
    kubectl.run("delete", "pod", pod, "--wait=false")


# Everything on a machine that a cluster could change: files with their contents, services, interfaces, rules, settings. The mounts below
# /run/credentials are systemd's, for as long as one of its own units runs: some run by the clock.
FOUND = """cd /
find /etc /usr/local /opt /root /usr/libexec /var/lib /var/log /usr/lib/cni -xdev \\( -path /etc/resolv.conf -o -path /var/lib/systemd \
  -o -path /var/log/journal -o -path /root/.ssh \\) -prune -o -print | sort | while read -r path; do
  if [ -L "$path" ]; then echo "$path -> $(readlink "$path")"
  elif [ -f "$path" ]; then echo "$path $(stat -c %a "$path") $(cksum < "$path")"
  else echo "$path $(stat -c %a "$path")"; fi
done
systemctl list-unit-files --no-legend 'containerd*' 'kubelet*' 'slipway*'
systemctl is-active containerd kubelet
systemctl --failed --no-legend
ls /sys/class/net; ip route
ip -o address | sed 's/^[0-9]*: //; s/ \\(scope\\|brd\\) .*//' | sort
{ iptables-save; ip6tables-save; } | grep -E -e '-A|KUBE|CNI' | sed 's/\\[[0-9:]*\\]//'
nft list tables | grep -vE ' (filter|nat|mangle|raw|security)$'
ls -d /run/flannel 2>/dev/null
cut -d' ' -f2 /proc/mounts | grep -v '^/run/credentials/' | sort
sysctl net.ipv4.ip_forward net.ipv6.conf.all.forwarding fs.inotify.max_user_instances
ps -eo args --no-headers | grep -E 'kube|etcd|haproxy|registry|pause|shim|flannel|coredns|local-path|metrics-server' | grep -v grep
"""


def found(machine: SshNode) -> str:
    return machine.run(FOUND, check=False).stdout


# Asks again and again what a user of the cluster would, through the machine's own balancer and through its services. Not whether a server
# is ready: one that ends says no, and answers everything else.
_CLIENT = """while :; do
  api=$(curl -sk -m 60 -o /dev/null -w '%{http_code}' https://apiserver.cluster.local:6443/version)
  web=$(curl -s -m 60 -o /dev/null -w '%{http_code}' http://ADDRESS:PORT/)
  echo "$(date +%s.%N) $api $web"
  sleep 0.1
done > /run/client.log 2>&1
"""


@dataclasses.dataclass(frozen=True)
class Answer:
    """When, by the clock of the machine, and whether the API and the application answered."""

    when: float
    api: bool
    app: bool


class Client:
    """Counts, on a machine, the requests that fail."""

    def __init__(self, machine: SshNode, port: int) -> None:
        self.machine = machine
        machine.put(_CLIENT.replace("ADDRESS", machine.address).replace("PORT", str(port)).encode(), "/run/client.sh")
        machine.run("systemctl stop client 2> /dev/null; systemd-run --unit=client sh /run/client.sh 2>&1")

    def stop(self) -> None:
        self.machine.run("systemctl stop client; rm -f /run/client.sh")

    def answers(self, since: float = 0, before: float = float("inf")) -> list[Answer]:
        words = (line.split() for line in self.machine.run("cat /run/client.log").stdout.splitlines())
        found = [Answer(float(line[0]), line[1] == "200", line[2] == "200") for line in words if len(line) == 3]
        return [answer for answer in found if since <= answer.when < before]

"""A cluster with addresses of both families, on machines without a way out: what it is refused for, what answers in it, what it leaves."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Iterator
from typing import Any

import pytest

from harness.host import docker
from harness.nodes.ssh import SshNode
from harness.runtimes import ClusterNetwork
from harness.testkit.isolation import Offline
from tests.cluster.conftest import alone
from tests.cluster.lab import Lab, found, until
from tests.conftest import Slipway

pytestmark = pytest.mark.long

KUBEFILE = """FROM kubernetes
ENV PodCIDR=10.244.0.0/16,fd00:10:244::/56 SvcCIDR=10.96.0.0/22,fd00:10:96::/112
COPY manifests manifests
CMDS ["kubectl apply -f manifests/both.yaml"]
"""
# A page that no single packet holds: those of IPv6 have less room in the packets of the pod network than those of IPv4.
MANIFEST = f"""apiVersion: v1
kind: ConfigMap
metadata: {{name: both}}
data: {{page: "{"p" * 100_000}", networks: "{{{{ PodCIDRv4 }}}} {{{{ PodCIDRv6 }}}} {{{{ SvcCIDRv4 }}}} {{{{ SvcCIDRv6 }}}}"}}
---
apiVersion: v1
kind: Service
metadata: {{name: both}}
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  selector: {{app: both}}
  ports: [{{port: 80}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: both}}
spec:
  selector: {{matchLabels: {{app: both}}}}
  template:
    metadata: {{labels: {{app: both}}}}
    spec:
      tolerations: [{{operator: Exists}}]
      volumes: [{{name: pages, configMap: {{name: both}}}}]
      containers:
      - name: nginx
        image: slipway.dev/nginx:1.22
        readinessProbe: {{httpGet: {{path: /page, port: 80}}, periodSeconds: 2}}
        volumeMounts: [{{name: pages, mountPath: /usr/share/nginx/html}}]
"""
# A network of pods from which nodes get others than those of the usual size.
PODS, SERVICES = "100.64.0.0/10,fd00:10:64::/64", "10.96.0.0/22,fd00:10:97::/112"
NETWORKS = ("-e", f"PodCIDR={PODS}", "-e", f"SvcCIDR={SERVICES}")
ADDRESSES = "ip -o -6 addr show dev eth0 scope global | awk '{ print $4 }'"
LEFT = "ip -6 route | grep -v ^fe80; sysctl net.ipv6.conf.all.disable_ipv6 net.ipv6.conf.default.disable_ipv6"


@pytest.fixture(scope="module")
def image(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its launch needs a throw-away cluster of both families, too."""
    assert kubernetes
    context = tmp_path_factory.mktemp("both")
    (context / "Kubefile").write_text(KUBEFILE)
    (context / "manifests").mkdir()
    (context / "manifests/both.yaml").write_text(MANIFEST)
    with alone():
        slipway("build", "-t", "both", context)
    return "both:latest"


@pytest.fixture(scope="module")
def bare(slipway: Slipway) -> Iterator[Lab]:
    """A control-plane node and a worker that have become nothing yet, and a machine to spare."""
    lab = Lab(slipway, "test-dual", 1, 1, spares=1)
    try:
        yield lab
    finally:
        lab.down()


def everything(machine: SshNode) -> str:
    return found(machine) + machine.run(LEFT, check=False).stdout


@pytest.fixture(scope="module")
def untouched(bare: Lab) -> dict[str, str]:
    return {address: everything(bare.at(address)) for address in (*bare.addresses, *bare.spares)}


@pytest.fixture(scope="module")
def lab(bare: Lab, untouched: dict[str, str], image: str) -> Lab:
    assert untouched
    bare.run(image, *NETWORKS)
    return bare


def test_run_machine_without_ipv6_address_is_reported_and_changes_nothing(bare: Lab, untouched: dict[str, str], image: str) -> None:
    address = bare.worker.run(ADDRESSES).stdout.strip()
    bare.worker.run(f"ip -6 addr del {address} dev eth0")
    try:
        said = bare.run(image, *NETWORKS, check=False)
    finally:
        bare.worker.run(f"ip -6 addr add {address} dev eth0 nodad")
    assert said.returncode == 7, said.stderr
    assert f"{bare.worker.address}: has no permanent IPv6 address on eth0" in said.stderr
    assert f"{bare.first.address}: has no IPv6" not in said.stderr
    assert all(everything(machine) == untouched[machine.address] for machine in bare.machines)


@pytest.mark.parametrize("order", ["fd00:10:64::/48", "fd00:10:64::/48,100.64.0.0/10"])
def test_run_ipv6_only_or_ipv6_first_networks_are_refused_with_allowed_form(
    bare: Lab, untouched: dict[str, str], image: str, order: str
) -> None:
    services = ",".join(reversed(SERVICES.split(","))) if "," in order else SERVICES.split(",")[1]
    said = bare.run(image, "-e", f"PodCIDR={order}", "-e", f"SvcCIDR={services}", check=False)
    assert said.returncode == 2
    assert "an IPv4 network, or one of each family, IPv4 first" in said.stderr
    assert len([line for line in said.stderr.splitlines() if "PodCIDR" in line]) == 1
    assert all(everything(machine) == untouched[machine.address] for machine in bare.machines)


def test_run_dual_stack_gives_nodes_and_pods_addresses_of_both_families(lab: Lab) -> None:
    nodes = lab.json("get", "nodes")["items"]
    for node in nodes:
        internal = [one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"]
        machine = lab.at(internal[0])
        assert internal[1:] == [machine.run(ADDRESSES).stdout.split("/")[0]]
        own = [ipaddress.ip_network(network) for network in node["spec"]["podCIDRs"]]
        assert [network.prefixlen for network in own] == [24, 80]
        assert all(network[0] in wide for wide, network in zip(ClusterNetwork(PODS, SERVICES).pod_networks, own, strict=True))
    for pod in pods(lab):
        assert [":" in address["ip"] for address in pod["status"]["podIPs"]] == [False, True]
    networking = lab.json("get", "configmap", "kubeadm-config", "--namespace=kube-system")["data"]["ClusterConfiguration"]
    assert f"podSubnet: {PODS}" in networking
    assert f"serviceSubnet: {SERVICES}" in networking
    assert lab.json("get", "configmap", "both")["data"]["networks"] == " ".join([*PODS.split(","), *SERVICES.split(",")])


def pods(lab: Lab) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = lab.json("get", "pods", "--selector=app=both")["items"]
    assert len(items) == len(lab.addresses)
    return items


def url(address: str, port: int = 80) -> str:
    return f"http://{f'[{address}]' if ':' in address else address}:{port}/page"


def got(lab: Lab, pod: str, address: str) -> int:
    """Bytes of the page that a pod gets from an address."""
    # Not with -T: busybox, which is static, ends in a fault then.
    return len(lab.kubectl("exec", pod, "--", "wget", "-qO-", url(address)).strip())


def fetched(machine: SshNode, address: str, port: int = 80) -> int:
    """The same of a machine."""
    return len(machine.run(f"curl -sf --max-time 60 {url(address, port)}").stdout.strip())


def test_service_answers_on_both_addresses_from_pods_and_machines(lab: Lab) -> None:
    service = lab.json("get", "service", "both")["spec"]
    assert service["ipFamilies"] == ["IPv4", "IPv6"]
    port = service["ports"][0]["nodePort"]
    addresses = [one for node in lab.json("get", "nodes")["items"] for one in node["status"]["addresses"]]
    internal = [one["address"] for one in addresses if one["type"] == "InternalIP"]
    # Which of the two pods answers is chosen anew for each connection.
    for address in service["clusterIPs"] * 4:
        assert [fetched(machine, address) for machine in lab.machines] == [100_000, 100_000]
        assert [got(lab, pod["metadata"]["name"], address) for pod in pods(lab)] == [100_000, 100_000]
    for machine in lab.machines:
        assert [fetched(machine, address, port) for address in internal] == [100_000] * 4


def test_pod_network_connects_pods_of_different_nodes_by_both_families(lab: Lab) -> None:
    one, other = pods(lab)
    assert one["spec"]["nodeName"] != other["spec"]["nodeName"]
    for source, target in ((one, other), (other, one)):
        addresses = [entry["ip"] for entry in target["status"]["podIPs"]]
        assert [got(lab, source["metadata"]["name"], address) for address in addresses] == [100_000, 100_000]


def test_service_networks_have_drop_rules_of_both_families(lab: Lab) -> None:
    for machine in lab.machines:
        for family, network in zip(("ip", "ip6"), SERVICES.split(","), strict=True):
            said = machine.run(f"/var/lib/slipway/rootfs/bin/nft list table {family} slipway-services").stdout
            assert said.count(f"{family} daddr {network} drop") == 2


def test_join_machine_gets_addresses_of_both_families_and_serves(lab: Lab, slipway: Slipway) -> None:
    address = lab.spares[0]
    slipway(*lab.join_words(address))
    lab.workers.append(address)
    until(lambda: len(pods := lab.json("get", "pods", "--selector=app=both")["items"]) == 3 and all(is_ready(pod) for pod in pods))
    newcomer = next(pod for pod in pods(lab) if pod["status"]["hostIP"] == address)
    assert len(newcomer["status"]["podIPs"]) == len(newcomer["status"]["hostIPs"]) == 2
    for machine in lab.machines:
        assert [fetched(machine, entry["ip"]) for entry in newcomer["status"]["podIPs"]] == [100_000, 100_000]


def is_ready(pod: dict[str, Any]) -> bool:
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in pod["status"]["conditions"])


def test_status_and_check_report_healthy_dual_stack_cluster(lab: Lab, slipway: Slipway) -> None:
    status = lab.status()
    assert sorted(node["address"] for node in status["nodes"]) == sorted(lab.addresses)
    assert all(node["ready"] for node in status["nodes"])
    report = json.loads(until(lambda: slipway("check", lab.name, "--output", "json")).stdout)
    results = {check["id"]: check["result"] for check in report["checks"]}
    assert {results[check] for check in ("nodes", "pod-start", "pod-network", "pod-services", "node-port-way")} == {"ok"}


def test_machines_cannot_reach_outside_by_either_family(lab: Lab) -> None:
    Offline(docker.connect(), lab.name, lab.machines).prove()


def test_delete_leaves_dual_stack_machines_as_before(lab: Lab, untouched: dict[str, str], slipway: Slipway) -> None:
    slipway("delete", lab.name, "--yes")
    assert {machine.address: everything(machine) for machine in lab.machines} == untouched

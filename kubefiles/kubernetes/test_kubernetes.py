"""The base image: a cluster of two nodes on which pods reach pods, names are answered, and every image comes from the cluster itself."""

from __future__ import annotations

import itertools
import json
import time

import pytest

pytestmark = pytest.mark.topology(masters=1, nodes=1)


@pytest.fixture
def namespace(kubectl):
    """Of its own, for what a test makes; gone afterwards."""
    name = f"test-{time.time_ns():x}"
    kubectl("create", "namespace", name)
    yield name
    kubectl("delete", "namespace", name, "--wait=false")


def until(holds, what):
    """Wait for a condition. The limit is only for what hangs, on however busy a machine."""
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline, f"it hangs: {what}"
        time.sleep(0.2)


def test_every_node_is_ready(cluster, kubectl):
    nodes = kubectl.json("get", "nodes")["items"]
    ready = {one["metadata"]["name"]: [c["status"] for c in one["status"]["conditions"] if c["type"] == "Ready"] for one in nodes}
    assert len(ready) == len(cluster.masters) + len(cluster.nodes)
    assert all(status == ["True"] for status in ready.values()), ready


def test_services_of_the_node(node):
    assert node.service("containerd").is_running
    assert node.service("kubelet").is_running


def test_an_ordinary_kubeadm_cluster(nodes):
    said = nodes[0].check_output("KUBECONFIG=/etc/kubernetes/admin.conf kubeadm certs check-expiration 2>&1")
    assert "apiserver-kubelet-client" in said
    assert "MISSING" not in said


def test_the_cluster_remembers_what_it_was_made_from(kubectl, cluster):
    stored = kubectl("get", "configmap", "slipway-clusterfile", "--namespace", "kube-system", "--output", "json")
    assert cluster.digest in stored
    assert "PRIVATE KEY" not in stored


def test_images_are_pulled_from_the_cluster_under_their_own_names(kubectl):
    pods = kubectl.json("get", "pods", "--all-namespaces")["items"]
    images = {container["image"] for pod in pods for container in pod["spec"]["containers"]}
    assert {"slipway.dev/kube-proxy:v1.20.2", "slipway.dev/network:1", "slipway.dev/dns:1"} <= images
    assert all(image.startswith("slipway.dev/") for image in images), images


def test_the_service_of_the_api_answers_on_every_node(node, kubectl):
    resolver = kubectl("get", "service", "kube-dns", "--namespace", "kube-system", "--output", "jsonpath={.spec.clusterIP}")
    answer = node.check_output(f"curl -sk --max-time 60 -o /dev/null -w '%{{http_code}}' https://{_first(resolver)}:443/version")
    assert answer == "200"


def _first(resolver: str) -> str:
    """The address of the API's Service, given that of DNS: the first of the same range."""
    return resolver.rsplit(".", 1)[0] + ".1"


def test_every_name_server_knows_a_new_service_while_others_change_all_the_time(kubectl, namespace):
    pods = kubectl.json("get", "pods", "--namespace", "kube-system", "--selector", "k8s-app=kube-dns")["items"]
    unaware = [pod["metadata"]["name"] for pod in pods]
    assert len(unaware) == 2
    kubectl("create", "service", "clusterip", "restless", "--tcp=80", "--namespace", namespace)
    kubectl("create", "service", "clusterip", "new", "--tcp=80", "--namespace", namespace)
    address = kubectl("get", "service", "new", "--namespace", namespace, "--output", "jsonpath={.spec.clusterIP}")
    question = f"busybox nslookup new.{namespace}.svc.cluster.local 127.0.0.1 || true"
    changes = itertools.count()

    def all_know():
        kubectl("annotate", "service", "restless", f"change={next(changes)}", "--overwrite", "--namespace", namespace)
        unaware[:] = [
            pod for pod in unaware if address not in kubectl("exec", pod, "--namespace", "kube-system", "--", "sh", "-c", question)
        ]
        return not unaware

    until(all_know, f"{address} is the answer of {unaware}")


def _network_of_a_dns_pod(nodes):
    """A machine with such a pod, and the name of the pod's network there: it outlives dnsmasq, which may begin again."""
    found = []

    def known():
        said = ((host, host.run("ip netns identify $(pgrep -o dnsmasq)").stdout.strip()) for host in nodes)
        found[:] = [(host, name) for host, name in said if name]
        return found

    until(known, "a machine has a DNS pod")
    return found[0]


@pytest.mark.parametrize("place", ["the machine", "a pod"])
def test_a_connection_begun_before_its_service_is_only_late(nodes, kubectl, namespace, place):
    host, enter = nodes[0], ""
    if place == "a pod":
        host, network = _network_of_a_dns_pod(nodes)
        enter = f"nsenter --net=/run/netns/{network} "
    # An address that nobody else is given meanwhile is not to be had; one that was free a moment ago is.
    kubectl("create", "service", "clusterip", "late", "--tcp=443", "--namespace", namespace)
    address = kubectl("get", "service", "late", "--namespace", namespace, "--output", "jsonpath={.spec.clusterIP}")
    until(lambda: host.run(f"iptables-save | grep -F {address}").rc == 0, "kube-proxy has heard of the address")
    kubectl("delete", "service", "late", "--namespace", namespace)
    api = kubectl.json("get", "endpoints", "kubernetes")["subsets"][0]
    until(lambda: host.run(f"iptables-save | grep -F {address}").rc != 0, "kube-proxy has forgotten the address")
    unit = f"asks-{namespace}"
    client = f"{enter}curl -sk --max-time 300 --output /dev/null https://{address}/version"
    host.check_output(f"systemd-run --unit={unit} --remain-after-exit sh -c '{client}' 2>&1")
    until(lambda: address in host.check_output(f"{enter}ss -Htn state syn-sent"), "it has asked")
    port = api["ports"][0]["port"]
    # As a slice, and first: a Service that is known sooner than its endpoints refuses connections.
    slices = "discovery.k8s.io/v1"
    made = [
        {
            "apiVersion": slices if slices in kubectl("api-versions").split() else f"{slices}beta1",
            "kind": "EndpointSlice",
            "metadata": {"name": "late", "labels": {"kubernetes.io/service-name": "late"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [one["ip"]]} for one in api["addresses"]],
            "ports": [{"name": "", "port": port}],
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "late"},
         "spec": {"clusterIP": address, "ports": [{"port": 443, "targetPort": port}]}},
    ]  # fmt: skip
    for resource in made:
        kubectl("apply", "--namespace", namespace, "--filename", "-", input=json.dumps(resource))
    until(lambda: "SubState=running" not in host.check_output(f"systemctl show {unit} --property SubState"), "it has ended")
    ended = host.check_output(f"systemctl show {unit} --property Result,ExecMainStatus")
    host.run(f"systemctl stop {unit}; systemctl reset-failed {unit}")
    assert "Result=success" in ended


@pytest.mark.usefixtures("offline")
def test_nothing_leaves_the_nodes(kubectl):
    # The fixture tries to get out before, and reads the counters after this.
    kubectl("get", "--raw", "/healthz")


def test_the_journal_of_a_node_has_no_failed_unit(node):
    failed = json.loads(node.check_output("systemctl --failed --output=json --no-pager") or "[]")
    assert [unit["unit"] for unit in failed] == []

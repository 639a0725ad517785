"""The base image: a cluster of two nodes on which pods reach pods, names are answered, and every image comes from the cluster itself."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.topology(masters=1, nodes=1)


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
    answer = node.check_output(f"curl -sk --max-time 5 -o /dev/null -w '%{{http_code}}' https://{_first(resolver)}:443/version")
    assert answer == "200"


def _first(resolver: str) -> str:
    """The address of the API's Service, given that of DNS: the first of the same range."""
    return resolver.rsplit(".", 1)[0] + ".1"


@pytest.mark.usefixtures("offline")
def test_nothing_leaves_the_nodes(kubectl):
    # The fixture tries to get out before, and reads the counters after this.
    kubectl("get", "--raw", "/healthz")


def test_the_journal_of_a_node_has_no_failed_unit(node):
    failed = json.loads(node.check_output("systemctl --failed --output=json --no-pager") or "[]")
    assert [unit["unit"] for unit in failed] == []

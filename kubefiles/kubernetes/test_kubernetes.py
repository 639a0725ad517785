"""The base image: a cluster of two nodes on which pods reach pods, names are answered, and every image comes from the cluster itself."""

from __future__ import annotations

import itertools
import json
import time

import pytest

pytestmark = pytest.mark.topology(control_plane=1, workers=1)

NFT, KUBECTL = "/var/lib/slipway/rootfs/bin/nft", "/var/lib/slipway/rootfs/bin/kubectl"
CRICTL = "/var/lib/slipway/rootfs/bin/crictl --runtime-endpoint unix:///run/containerd/containerd.sock"
SHELL = "docker.io/rancher/local-path-provisioner:v0.0.30"
"""Of the images of the base, one with a shell."""


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


def test_nodes_are_all_ready(cluster, kubectl):
    nodes = kubectl.json("get", "nodes")["items"]
    ready = {one["metadata"]["name"]: [c["status"] for c in one["status"]["conditions"] if c["type"] == "Ready"] for one in nodes}
    assert len(ready) == len(cluster.control_plane) + len(cluster.workers)
    assert all(status == ["True"] for status in ready.values()), ready


def test_node_services_containerd_and_kubelet_are_running(node):
    assert node.service("containerd").is_running
    assert node.service("kubelet").is_running


def test_kubeadm_check_expiration_reports_no_missing_certificate(nodes):
    said = nodes[0].check_output("KUBECONFIG=/etc/kubernetes/admin.conf kubeadm certs check-expiration 2>&1")
    assert "apiserver-kubelet-client" in said
    assert "MISSING" not in said


def test_cluster_record_has_image_digest_and_no_private_key(kubectl, cluster):
    stored = kubectl("get", "configmap", "slipway-clusterfile", "--namespace", "kube-system", "--output", "json")
    assert cluster.digest in stored
    assert "PRIVATE KEY" not in stored


def test_addons_are_recorded_and_labelled(kubectl):
    noted = kubectl.json("get", "configmap", "slipway-addons", "--namespace", "kube-system")["data"]["objects"].splitlines()
    assert "+ apps/v1 DaemonSet kube-flannel kube-flannel-ds" in noted
    labelled = kubectl.json("get", "daemonsets,deployments", "--all-namespaces", "--selector", "slipway.dev/addon")["items"]
    assert {one["metadata"]["name"] for one in labelled} == {"kube-flannel-ds", "local-path-provisioner", "metrics-server"}


def test_pod_images_are_embedded_and_pulled_from_cluster_registry(kubectl, cluster, node):
    pods = kubectl.json("get", "pods", "--all-namespaces")["items"]
    images = {container["image"] for pod in pods for container in pod["spec"]["containers"]}
    platforms = json.loads(cluster.run("inspect", cluster.image, "--output", "json").stdout)["platforms"]
    assert {
        f"registry.k8s.io/kube-proxy:{platforms[0]['info']['kubernetes']}",
        "registry.k8s.io/metrics-server/metrics-server:v0.9.0",
        "docker.io/flannel/flannel:v0.28.10",
        "docker.io/rancher/local-path-provisioner:v0.0.30",
    } <= images
    # Of the version that kubeadm of this Kubernetes names.
    assert [image for image in images if image.startswith("registry.k8s.io/coredns/coredns:v1.")]
    assert images <= {image["name"] for platform in platforms for image in platform["images"]}
    for domain in ("registry.k8s.io", "docker.io"):
        assert ":5000/v2" in node.check_output(f"cat /etc/containerd/certs.d/{domain}/hosts.toml")
    # A node has no way to the registry of this name.
    assert "Image is up to date for sha256:" in node.check_output(f"{CRICTL} pull {SHELL}")


def test_api_service_answers_on_each_node(node, kubectl):
    resolver = kubectl("get", "service", "kube-dns", "--namespace", "kube-system", "--output", "jsonpath={.spec.clusterIP}")
    answer = node.check_output(f"curl -sk --max-time 60 -o /dev/null -w '%{{http_code}}' https://{_first(resolver)}:443/version")
    assert answer == "200"


def _first(resolver: str) -> str:
    """The address of the API's Service, given that of DNS: the first of the same range."""
    return resolver.rsplit(".", 1)[0] + ".1"


def _answer(host, server: str, name: str) -> str:
    """What a machine hears from one name server; nothing when it does not know the name."""
    file = "/run/resolv.$$"
    # Only this process takes it for the machine's resolver.
    resolver = f"echo nameserver {server} > {file} && mount --bind {file} /etc/resolv.conf && rm {file}"
    return host.run(f"unshare --mount sh -c '{resolver} && getent ahostsv4 {name}'").stdout


def test_name_servers_run_on_two_nodes(kubectl):
    pods = kubectl.json("get", "pods", "--namespace", "kube-system", "--selector", "k8s-app=kube-dns")["items"]
    # One that was moved may be at its end still.
    places = [pod["spec"].get("nodeName") for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    assert (len(places), len(set(places))) == (2, 2), places


def test_name_servers_resolve_new_service_while_others_change(nodes, kubectl, namespace):
    pods = kubectl.json("get", "pods", "--namespace", "kube-system", "--selector", "k8s-app=kube-dns")["items"]
    unaware = [pod["status"]["podIP"] for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    assert len(unaware) == 2
    kubectl("create", "service", "clusterip", "restless", "--tcp=80", "--namespace", namespace)
    kubectl("create", "service", "clusterip", "new", "--tcp=80", "--namespace", namespace)
    address = kubectl("get", "service", "new", "--namespace", namespace, "--output", "jsonpath={.spec.clusterIP}")
    name = f"new.{namespace}.svc.cluster.local"
    changes = itertools.count()

    def all_know():
        kubectl("annotate", "service", "restless", f"change={next(changes)}", "--overwrite", "--namespace", namespace)
        unaware[:] = [server for server in unaware if address not in _answer(nodes[0], server, name).split()]
        return not unaware

    until(all_know, f"{address} is the answer of {unaware}")


def _network_of_a_dns_pod(nodes):
    """A machine with such a pod, and the name of the pod's network there: it outlives the name server, which may be started again."""
    found = []

    def known():
        said = ((host, host.run("ip netns identify $(pgrep -o coredns)").stdout.strip()) for host in nodes)
        found[:] = [(host, name) for host, name in said if name]
        return found

    until(known, "a machine has a DNS pod")
    return found[0]


@pytest.mark.parametrize("place", ["the machine", "a pod"])
def test_service_created_after_connection_attempt_completes_connection(nodes, kubectl, namespace, place):
    host, enter = nodes[0], ""
    if place == "a pod":
        host, network = _network_of_a_dns_pod(nodes)
        enter = f"nsenter --net=/run/netns/{network} "
    # An address that nobody else is given meanwhile is not to be had; one that was free a moment ago is.
    kubectl("create", "service", "clusterip", "late", "--tcp=443", "--namespace", namespace)
    address = kubectl("get", "service", "late", "--namespace", namespace, "--output", "jsonpath={.spec.clusterIP}")
    known = f"{NFT} list ruleset | grep -qwF {address}"
    until(lambda: host.run(known).rc == 0, "kube-proxy has heard of the address")
    kubectl("delete", "service", "late", "--namespace", namespace)
    api = kubectl.json("get", "endpointslice", "kubernetes")
    until(lambda: host.run(known).rc != 0, "kube-proxy has forgotten the address")
    unit = f"asks-{namespace}"
    client = f"{enter}curl -sk --max-time 300 --output /dev/null https://{address}/version"
    host.check_output(f"systemd-run --unit={unit} --remain-after-exit sh -c '{client}' 2>&1")
    until(lambda: address in host.check_output(f"{enter}ss -Htn state syn-sent"), "it has asked")
    port = api["ports"][0]["port"]
    # As a slice, and first: a Service that is known sooner than its endpoints refuses connections.
    made = [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "late", "labels": {"kubernetes.io/service-name": "late"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": endpoint["addresses"]} for endpoint in api["endpoints"]],
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


def _pod(name: str, command: str, claim: str) -> str:
    """A pod that runs a shell command once, with a claim at /data."""
    container = {"name": "main", "image": SHELL, "command": ["sh", "-c", command], "volumeMounts": [{"name": "data", "mountPath": "/data"}]}
    spec = {
        "restartPolicy": "Never",
        "containers": [container],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}],
    }
    return json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})


def test_claim_is_bound_and_keeps_data_for_next_pod(kubectl, namespace):
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "kept"}, "spec": spec}
    here = ("--namespace", namespace)
    kubectl("apply", *here, "--filename", "-", input=json.dumps(claim))
    for pod, command in (("first", "echo written > /data/file"), ("second", "cat /data/file")):
        kubectl("apply", *here, "--filename", "-", input=_pod(pod, command, "kept"))
        kubectl.wait(*here, "--for=jsonpath={.status.phase}=Succeeded", f"pod/{pod}")
        said = kubectl("logs", *here, pod)
        kubectl("delete", *here, "pod", pod)
    assert said == "written\n"
    bound = kubectl.json("get", *here, "persistentvolumeclaim", "kept")
    assert (bound["status"]["phase"], bound["spec"]["storageClassName"]) == ("Bound", "local-path")
    kubectl("delete", *here, "persistentvolumeclaim", "kept")
    kubectl.wait("--for=delete", f"persistentvolume/{bound['spec']['volumeName']}")


def test_metrics_server_reports_usage_of_all_nodes(nodes):
    lines = []

    def known():
        # Until there are figures of every node kubectl fails, or shows those that there are.
        done = nodes[0].run(f"KUBECONFIG=/etc/kubernetes/admin.conf {KUBECTL} top nodes --no-headers")
        lines[:] = [line.split() for line in done.stdout.splitlines() if done.rc == 0]
        return len(lines) == len(nodes) and all("%" in line[2] for line in lines)

    until(known, f"figures of every node: {lines}")


def test_autoscaler_scales_busy_deployment_to_three_replicas(kubectl, namespace):
    container = {
        "name": "main", "image": SHELL, "command": ["sh", "-c", "while :; do :; done"],
        # Busy for its own request, and no burden for the machine.
        "resources": {"requests": {"cpu": "10m"}, "limits": {"cpu": "40m"}},
    }  # fmt: skip
    labels = {"app": "busy"}
    busy = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "busy"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]}},
        },
    }  # fmt: skip
    here = ("--namespace", namespace)
    kubectl("apply", *here, "--filename", "-", input=json.dumps(busy))
    kubectl("autoscale", *here, "deployment", "busy", "--min=1", "--max=3", "--cpu=50%")
    until(lambda: kubectl.json("get", *here, "deployment", "busy")["status"].get("readyReplicas") == 3, "it is scaled to three")
    status = kubectl.json("get", *here, "horizontalpodautoscaler", "busy")["status"]
    assert status["currentMetrics"][0]["resource"]["current"]["averageUtilization"] > 50


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    # The fixture tries to get out before, and reads the counters after this.
    kubectl("get", "--raw", "/healthz")


def test_node_has_no_failed_systemd_unit(node):
    failed = json.loads(node.check_output("systemctl --failed --output=json --no-pager") or "[]")
    assert [unit["unit"] for unit in failed] == []

"""Prometheus, its rules and its alerts on nodes without a way to the internet."""

from __future__ import annotations

import json
import time
import urllib.parse

import pytest

from harness.errors import CommandError

pytestmark = [pytest.mark.topology(control_plane=1, workers=1), pytest.mark.values(ScrapeInterval="5s")]

HERE = ("--namespace", "monitoring")
SHELL = "docker.io/rancher/local-path-provisioner:v0.0.30"
"""Of the images of the base, one with a shell and a small web server."""
FIGURES = "quay.io/prometheus/node-exporter:v1.12.1"
"""It shows figures of a file as well, and so is any application."""
TARGETS = {"apiserver": 1, "kubelet": 2, "cadvisor": 2, "node-exporter": 2, "kube-dns": 2, "prometheus": 1, "alertmanager": 1}
OWN_RULES = "prometheus-own-rules"
NAMES = """
node_filesystem_avail_bytes node_filesystem_files_free node_memory_MemAvailable_bytes node_timex_sync_status apiserver_request_total
container_start_time_seconds coredns_dns_responses_total prometheus_config_last_reload_successful
prometheus_rule_evaluation_failures_total prometheus_notifications_errors_total prometheus_tsdb_head_samples_appended_total
prometheus_tsdb_compactions_failed_total alertmanager_config_last_reload_successful alertmanager_notifications_failed_total
"""
"""The metrics in rules of the image."""

# A web server that writes down what it is sent.
RECEIVER = r"""
mkdir -p /tmp/www/cgi-bin
printf '#!/bin/sh\ncat >> /tmp/alerts\necho >> /tmp/alerts\nprintf "Status: 200 OK\\r\\n\\r\\n"\n' > /tmp/www/cgi-bin/alert
chmod 755 /tmp/www/cgi-bin/alert
exec busybox httpd -f -p 8080 -h /tmp/www
"""


def until(holds, what):
    """Wait for a condition, and return its value. The limit is only for what hangs, on however busy a machine."""
    deadline = time.monotonic() + 600
    while not (value := holds()):
        assert time.monotonic() < deadline, f"it hangs: {what}"
        time.sleep(0.5)
    return value


@pytest.fixture
def ask(kubectl):
    """Asks the HTTP interface of a Service: ``ask("prometheus:9090", "/api/v1/query", query="up")`` gives its answer."""

    def answer(service, path, **parameters):
        query = f"?{urllib.parse.urlencode(parameters)}" if parameters else ""
        return json.loads(kubectl("get", "--raw", f"/api/v1/namespaces/monitoring/services/{service}/proxy{path}{query}"))

    return answer


@pytest.fixture
def metrics(ask):
    """The series that a query finds, each with its labels and its value; none while Prometheus starts."""

    def find(query):
        try:
            found = ask("prometheus:9090", "/api/v1/query", query=query)["data"]["result"]
        except CommandError:
            return []
        return [(series["metric"], float(series["value"][1])) for series in found]

    return find


@pytest.fixture
def application(kubectl):
    """A namespace of its own, for what an application brings; gone afterwards."""
    name = f"test-{time.time_ns():x}"
    kubectl("create", "namespace", name)

    def apply(*objects):
        for resource in objects:
            kubectl("apply", "--namespace", name, "--filename", "-", input=json.dumps(resource))

    apply.namespace = name
    yield apply
    kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture
def own_rules(kubectl):
    """Gives Prometheus rules of the cluster's owner, which end with the test."""

    def give(*rules):
        groups = {"groups": [{"name": "own", "interval": "5s", "rules": list(rules)}]}
        kubectl("apply", *HERE, "--filename", "-", input=json.dumps(_config_map(OWN_RULES, {"own.yaml": json.dumps(groups)})))

    yield give
    kubectl("delete", "configmap", OWN_RULES, *HERE, "--ignore-not-found")


def _config_map(name, data):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def _shop(orders):
    """A pod with a figure, and the annotations by which it is found."""
    metadata = {
        "name": "shop", "labels": {"app.kubernetes.io/name": "shop"},
        "annotations": {"prometheus.io/scrape": "true", "prometheus.io/port": "9200", "prometheus.io/path": "/figures"},
    }  # fmt: skip
    args = ["--collector.disable-defaults", "--collector.textfile", "--collector.textfile.directory=/figures"]
    container = {
        "name": "shop", "image": FIGURES, "args": [*args, "--web.listen-address=:9200", "--web.telemetry-path=/figures"],
        "volumeMounts": [{"name": "figures", "mountPath": "/figures"}],
    }  # fmt: skip
    spec = {"containers": [container], "volumes": [{"name": "figures", "configMap": {"name": "figures"}}]}
    return _config_map("figures", {"shop.prom": f"shop_orders {orders}\n"}), {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": spec,
    }


def _receiver():
    """A pod that takes alerts, and its Service."""
    container = {"name": "main", "image": SHELL, "command": ["sh", "-c", RECEIVER]}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "receiver", "labels": {"app": "receiver"}},
        "spec": {"containers": [container]},
    }
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "receiver"}}
    return pod, service | {"spec": {"selector": {"app": "receiver"}, "ports": [{"port": 8080}]}}


def test_every_target_is_up(metrics):
    def counted():
        return {labels["job"]: int(value) for labels, value in metrics("sum by (job) (up)")}

    until(lambda: counted() == TARGETS, "all targets answer")
    assert metrics("up == 0") == []


def test_figures_of_each_machine_have_its_name(metrics, kubectl):
    nodes = {node["metadata"]["name"] for node in kubectl.json("get", "nodes")["items"]}
    for query in ("node_memory_MemTotal_bytes", "kubelet_node_name", 'container_memory_usage_bytes{id="/"}'):
        until(lambda query=query: {labels["node"] for labels, _ in metrics(query)} == nodes, f"{query} of all machines")


def test_metric_of_annotated_pod_is_found_by_query(application, metrics):
    application(*_shop(42))
    query = f'shop_orders{{namespace="{application.namespace}"}}'
    ((labels, value),) = until(lambda: metrics(query), "the figure of the pod is stored")
    assert (labels["job"], labels["pod"], value) == ("shop", "shop", 42)


def test_rule_fires_and_alert_arrives_at_receiver(application, kubectl, ask, own_rules):
    application(*_shop(43), *_receiver())
    kubectl.wait("--namespace", application.namespace, "--for=condition=Ready", "pod/receiver")
    address = f"http://receiver.{application.namespace}:8080/cgi-bin/alert"
    receivers = [{"name": "operators", "webhook_configs": [{"url": address}]}]
    config = {"route": {"receiver": "operators", "group_by": ["alertname", "namespace"], "group_wait": "1s"}, "receivers": receivers}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "alertmanager"},
        "stringData": {"alertmanager.yml": json.dumps(config)},
    }
    kubectl("apply", *HERE, "--filename", "-", input=json.dumps(secret))
    kubectl("rollout", "restart", *HERE, "statefulset/alertmanager")
    kubectl("rollout", "status", *HERE, "statefulset/alertmanager", "--timeout=600s")
    summary = "{{ $value }} orders wait in {{ $labels.namespace }}"
    own_rules({"alert": "OrdersWait", "expr": "shop_orders > 40", "labels": {"severity": "warning"}, "annotations": {"summary": summary}})

    def received():
        lines = kubectl("exec", "receiver", "--namespace", application.namespace, "--", "sh", "-c", "cat /tmp/alerts 2>/dev/null || true")
        alerts = [alert for line in lines.splitlines() if line for alert in json.loads(line)["alerts"]]
        return [alert for alert in alerts if alert["labels"].get("namespace") == application.namespace]

    alert = until(received, "the receiver has the alert")[0]
    assert (alert["status"], alert["labels"]["alertname"], alert["labels"]["severity"]) == ("firing", "OrdersWait", "warning")
    assert alert["annotations"]["summary"] == f"43 orders wait in {application.namespace}"
    firing = {
        alert["labels"]["alertname"] for alert in ask("prometheus:9090", "/api/v1/alerts")["data"]["alerts"] if alert["state"] == "firing"
    }
    assert {"OrdersWait", "Watchdog"} <= firing


def test_rules_that_are_not_valid_are_reported_and_leave_others_in_force(metrics, ask, own_rules):
    own_rules({"record": "broken", "expr": "sum(("})
    until(lambda: metrics("prometheus_config_last_reload_successful == 0"), "the fault is shown")
    groups = ask("prometheus:9090", "/api/v1/rules")["data"]["groups"]
    assert {"machines", "kubernetes", "prometheus"} <= {group["name"] for group in groups}
    own_rules({"record": "whole", "expr": "vector(1)"})
    until(lambda: metrics("whole"), "the rule is evaluated")
    until(lambda: not metrics("prometheus_config_last_reload_successful == 0"), "the fault is gone")


def test_no_rule_of_the_image_fails_or_names_a_metric_in_vain(ask, metrics):
    groups = ask("prometheus:9090", "/api/v1/rules")["data"]["groups"]
    assert {"machines", "kubernetes", "prometheus"} <= {group["name"] for group in groups}
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"] == []
    for name in NAMES.split():
        until(lambda name=name: metrics(name), f"{name} has figures")


def test_requests_can_neither_delete_series_nor_stop_prometheus(ask):
    flags = ask("prometheus:9090", "/api/v1/status/flags")["data"]
    assert (flags["web.enable-admin-api"], flags["web.enable-lifecycle"]) == ("false", "false")


@pytest.mark.parametrize("account", ["prometheus", "default"])
def test_service_account_may_not_read_secrets(kubectl, account):
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:monitoring:{account}",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:monitoring", "system:authenticated"],
            "resourceAttributes": {"verb": "list", "resource": "secrets"},
        },
    }  # fmt: skip
    answer = json.loads(kubectl("create", "--filename", "-", "--output=json", input=json.dumps(review)))
    assert not answer["status"]["allowed"]


def test_containers_have_limits_and_no_privileges(kubectl):
    for pod in kubectl.json("get", "pods", *HERE)["items"]:
        for container in pod["spec"]["containers"]:
            name, context = f"{pod['metadata']['name']}/{container['name']}", container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
        assert pod["spec"]["securityContext"]["runAsNonRoot"], pod["metadata"]["name"]


def _oldest(metrics):
    """Time of the first figure of the API server: what is lost first when the store begins with nothing."""
    ((_, first),) = until(lambda: metrics('min(min_over_time(timestamp(up{job="apiserver"})[1d:10s]))'), "Prometheus answers")
    return first


def _uid(kubectl, pod):
    return kubectl("get", "pod", pod, *HERE, "--ignore-not-found", "--output=jsonpath={.metadata.uid}")


def _claims(kubectl):
    return {claim["metadata"]["name"]: claim["status"]["phase"] for claim in kubectl.json("get", "persistentvolumeclaims", *HERE)["items"]}


def test_figures_and_silences_survive_replacement_of_pods(kubectl, ask, metrics):
    silence = ("silence", "add", "--author=test", "--comment=of the test", "--duration=2h", "alertname=OrdersWait")
    number = kubectl("exec", *HERE, "alertmanager-0", "--", "amtool", "--alertmanager.url=http://localhost:9093", *silence).strip()
    before, pods = _oldest(metrics), ("prometheus-0", "alertmanager-0")
    old = {pod: _uid(kubectl, pod) for pod in pods}
    kubectl("delete", "pod", *pods, *HERE)
    for pod in pods:
        until(lambda pod=pod: _uid(kubectl, pod) not in ("", old[pod]), f"{pod} is replaced")
        kubectl.wait(*HERE, "--for=condition=Ready", f"pod/{pod}")
    assert _oldest(metrics) == before
    assert number in {silence["id"] for silence in ask("alertmanager:9093", "/api/v2/silences") if silence["status"]["state"] == "active"}
    assert _claims(kubectl) == {"data-prometheus-0": "Bound", "data-alertmanager-0": "Bound"}


def test_figures_survive_power_loss_of_their_machine(cluster, kubectl, metrics):
    before = _oldest(metrics)
    host = _host(cluster, kubectl)
    cluster.reboot(host)
    assert _oldest(metrics) == before
    until(lambda: metrics("up == 1"), "targets answer")
    assert _claims(kubectl) == {"data-prometheus-0": "Bound", "data-alertmanager-0": "Bound"}


def _host(cluster, kubectl):
    where = kubectl.json("get", "pod", "prometheus-0", *HERE)["spec"]["nodeName"]
    (host,) = [host for host, machine in zip(cluster.hosts, cluster.machines, strict=True) if machine.name == where]
    return host


def test_copy_of_stopped_prometheus_is_a_backup(cluster, kubectl, metrics):
    """The way of the README."""
    before, host = _oldest(metrics), _host(cluster, kubectl)
    volume = kubectl("get", "pvc", "data-prometheus-0", *HERE, "--output=jsonpath={.spec.volumeName}")
    folder = kubectl("get", "pv", volume, "--output=jsonpath={.spec.hostPath.path}{.spec.local.path}")
    assert folder.startswith("/opt/local-path-provisioner/")
    _stop(kubectl)
    host.check_output(f"tar -C {folder} -czf /root/prometheus.tar.gz .")
    host.check_output(f"find {folder} -mindepth 1 -delete")
    _start(kubectl)
    assert _oldest(metrics) > before
    _stop(kubectl)
    host.check_output(f"find {folder} -mindepth 1 -delete && tar -C {folder} -xzf /root/prometheus.tar.gz")
    _start(kubectl)
    assert _oldest(metrics) == before


def _stop(kubectl):
    kubectl("scale", "statefulset/prometheus", *HERE, "--replicas=0")
    kubectl("wait", "--for=delete", "pod/prometheus-0", *HERE, "--timeout=600s")


def _start(kubectl):
    kubectl("scale", "statefulset/prometheus", *HERE, "--replicas=1")
    kubectl("rollout", "status", "statefulset/prometheus", *HERE, "--timeout=600s")


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

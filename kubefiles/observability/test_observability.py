"""Metrics, logs and alerts on nodes without a way to the internet, through the port that users have."""

from __future__ import annotations

import json
import shlex
import time

import pytest

PASSWORD = "known-to-this-test"  # noqa: S105 -- of a cluster that lives as long as the test
pytestmark = [pytest.mark.topology(control_plane=1, workers=1), pytest.mark.values(Password=PASSWORD, ScrapeInterval="5s")]

HERE = ("--namespace", "observability")
SHELL = "docker.io/rancher/local-path-provisioner:v0.0.30"
"""Of the images of the base, one with a shell."""
FIGURES = "quay.io/prometheus/node-exporter:v1.12.1"
"""It shows figures of a file as well, and so is any application."""
TARGETS = {
    "apiserver": 1, "kubelet": 2, "cadvisor": 2, "node-exporter": 2, "kube-dns": 2, "configmap-files": 2, "victoria-metrics": 1,
    "victoria-logs": 1, "vmagent": 1, "vlagent": 2, "vmalert": 1, "alertmanager": 1, "vmauth": 1,
}  # fmt: skip


def until(holds, what):
    """Wait for a condition, and return its value. The limit is only for what hangs, on however busy a machine."""
    deadline = time.monotonic() + 600
    while not (value := holds()):
        assert time.monotonic() < deadline, f"it hangs: {what}"
        time.sleep(0.5)
    return value


def _curl(host, *words, user=f"admin:{PASSWORD}", body=None):
    login = ["--user", user] if user else []
    argv = ["curl", "-sS", "--fail-with-body", "--max-time", "60", *login, *words]
    pipe = f"printf %s {shlex.quote(body)} | " if body else ""
    done = host.run(f"{pipe}{shlex.join(argv)}")
    assert done.rc == 0, f"{shlex.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def door(cluster):
    """Asks the port for users: ``door("/api/v1/query", query="up")`` gives the text of the answer."""
    host = cluster.control_plane[0]

    def ask(path, **parameters):
        words = [word for name, value in parameters.items() for word in ("--data-urlencode", f"{name}={value}")]
        return _curl(host, "--get", *words, f"http://{cluster.workers[0].backend.hostname}:30900{path}")

    return ask


@pytest.fixture
def metrics(door):
    """The series that a query finds, each with its labels and its value."""

    def ask(query):
        found = json.loads(door("/api/v1/query", query=query))["data"]["result"]
        return [(series["metric"], float(series["value"][1])) for series in found]

    return ask


@pytest.fixture
def logs(door):
    """The log entries that a query of LogsQL finds."""

    def ask(query):
        return [json.loads(line) for line in door("/select/logsql/query", query=query).splitlines()]

    return ask


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


def _config_map(name, data, **labels):
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": labels}, "data": data}


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
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    return _config_map("figures", {"shop.prom": f"shop_orders {orders}\n"}), pod


def test_every_target_is_up(metrics):
    def counted():
        return {labels["job"]: int(value) for labels, value in metrics("sum by (job) (up)")}

    until(lambda: counted() == TARGETS, "all targets answer")
    assert metrics("up == 0") == []


def test_metric_of_annotated_pod_is_found_by_query(application, metrics):
    application(*_shop(42))
    query = f'shop_orders{{namespace="{application.namespace}"}}'
    ((labels, value),) = until(lambda: metrics(query), "the figure of the pod is stored")
    assert (labels["job"], labels["pod"], value) == ("shop", "shop", 42)


def test_log_line_of_pod_is_found_by_query(application, kubectl, logs):
    container = {"name": "main", "image": SHELL, "command": ["sh", "-c", "echo order 4711 is accepted"]}
    spec = {"restartPolicy": "Never", "containers": [container]}
    application({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "orders"}, "spec": spec})
    query = f'"order 4711" kubernetes.pod_namespace:={application.namespace}'
    (entry,) = until(lambda: logs(query), "the line of the pod is stored")
    where = kubectl.json("get", "pod", "orders", "--namespace", application.namespace)["spec"]["nodeName"]
    assert (entry["_msg"], entry["kubernetes.pod_name"], entry["kubernetes.pod_node_name"]) == ("order 4711 is accepted", "orders", where)


@pytest.mark.parametrize("place", ["vlagent in the cluster", "the door"])
def test_document_of_elasticsearch_bulk_request_is_found_by_query(cluster, kubectl, logs, place):
    word = f"parcel{time.time_ns():x}"
    host, path = cluster.workers[0], "/insert/elasticsearch/_bulk?_stream_fields=shop&_msg_field=message"
    if place == "the door":
        address, user = f"http://{host.backend.hostname}:30900{path}", f"admin:{PASSWORD}"
    else:
        service = kubectl("get", "service", "vlagent", *HERE, "--output=jsonpath={.spec.clusterIP}")
        address, user = f"http://{service}:9429{path}", None
    lines = [{"create": {"_index": "shop"}}, {"message": f"{word} has left", "shop": "north", "weight": 7}]
    body = "".join(json.dumps(line) + "\n" for line in lines)
    answer = json.loads(_curl(host, "--header", "Content-Type: application/x-ndjson", "--data-binary", "@-", address, user=user, body=body))
    assert (answer["errors"], answer["items"][0]["create"]["status"]) == (False, 201)
    (entry,) = until(lambda: logs(word), "the document is stored")
    assert (entry["_msg"], entry["_stream"], entry["weight"]) == (f"{word} has left", '{shop="north"}', "7")


def test_rule_of_application_fires_and_alert_reaches_receiver(application, door, logs):
    rule = {
        "alert": "OrdersWait", "expr": "shop_orders > 40", "labels": {"severity": "warning"},
        "annotations": {"summary": "{{ $value }} orders wait in {{ $labels.namespace }}"},
    }  # fmt: skip
    rules = {"groups": [{"name": "shop", "interval": "5s", "rules": [rule]}]}
    application(*_shop(43), _config_map("rules", {"shop.yaml": json.dumps(rules)}, **{"slipway.dev/observability": "rules"}))

    def alerts():
        listed = json.loads(door("/api/v2/alerts"))
        return [alert for alert in listed if alert["labels"].get("namespace") == application.namespace]

    (alert,) = until(alerts, "Alertmanager has the alert")
    assert (alert["labels"]["alertname"], alert["labels"]["severity"]) == ("OrdersWait", "warning")
    told = f"43 orders wait in {application.namespace}"
    assert alert["annotations"]["summary"] == told
    # The receiver of the image is the log itself.
    entry = until(lambda: logs(f'"{told}" receiver:=logs status:=firing'), "the receiver has the alert")[0]
    assert entry["_msg"] == told


def test_invalid_rules_are_named_and_leave_others_in_force(application, door, metrics):
    label = {"slipway.dev/observability": "rules"}
    good = {"groups": [{"name": "good", "rules": [{"record": "one", "expr": "vector(1)"}]}]}
    bad = {"groups": [{"name": "bad", "rules": [{"record": "two", "expr": "sum(("}]}]}
    application(_config_map("a", {"bad.yaml": json.dumps(bad)}, **label), _config_map("b", {"good.yaml": json.dumps(good)}, **label))
    query = f'configmap_files_refused{{namespace="{application.namespace}"}}'
    ((labels, _),) = until(lambda: metrics(query), "the fault is shown")
    assert (labels["kind"], labels["configmap"], labels["key"]) == ("rules", "a", "bad.yaml")

    def groups():
        return {group["name"] for group in json.loads(door("/vmalert/api/v1/rules"))["data"]["groups"]}

    until(lambda: "good" in groups(), "the valid file is loaded")
    assert "bad" not in groups()
    assert {"machines", "kubernetes", "observability"} <= groups()


def test_dashboards_of_image_and_of_application_are_listed(application, door):
    def titles():
        return {dashboard["title"] for dashboard in json.loads(door("/vmui/custom-dashboards"))["dashboardsSettings"]}

    assert {"Cluster", "Machines", "Workloads", "Kubernetes", "Observability"} <= titles()
    dashboard = {"title": "Shop", "rows": [{"panels": [{"title": "Orders", "expr": ["shop_orders"]}]}]}
    files = {"shop.json": json.dumps(dashboard), "wrong.json": '{"title": 7}'}
    application(_config_map("dashboards", files, **{"slipway.dev/observability": "dashboards"}))
    until(lambda: "Shop" in titles(), "the dashboard of the application is listed")


def test_every_expression_of_dashboards_and_rules_is_valid(door):
    dashboards = json.loads(door("/vmui/custom-dashboards"))["dashboardsSettings"]
    expressions = [
        expression.replace("$__interval", "1m")
        for dashboard in dashboards
        for row in dashboard["rows"]
        for panel in row["panels"]
        for expression in panel["expr"]
    ]
    assert len(expressions) > 30
    for expression in expressions:
        assert json.loads(door("/api/v1/query", query=expression))["status"] == "success", expression
    groups = json.loads(door("/vmalert/api/v1/rules"))["data"]["groups"]
    assert [rule["name"] for group in groups for rule in group["rules"] if rule["health"] == "err"] == []


def test_pages_ask_for_password(node):
    for path in ("/", "/vmui/", "/select/vmui/", "/api/v1/query?query=up", "/insert/jsonline", "/api/v2/alerts"):
        answer = node.check_output(f"curl -s --max-time 60 -o /dev/null -w '%{{http_code}}' http://{node.backend.hostname}:30900{path}")
        assert answer == "401", path


def test_pages_are_served_with_password(door):
    for path, title in (("/", "VictoriaMetrics"), ("/vmui/", "<title>"), ("/select/vmui/", "<title>"), ("/vmalert/", "vmalert")):
        assert title in door(path), path


def test_deletion_of_series_is_not_reachable(cluster, door):
    path = "/api/v1/admin/tsdb/delete_series"
    code = ("--output", "/dev/null", "--write-out", "%{http_code}")
    host = cluster.workers[0]
    answer = host.run(f"curl -s {shlex.join(code)} -u admin:{PASSWORD} 'http://{host.backend.hostname}:30900{path}?match[]=up'")
    assert answer.stdout == "400"
    assert "success" in door("/api/v1/query", query="up")


@pytest.mark.parametrize("account", ["victoria-metrics", "vmalert", "vmagent", "vlagent", "default"])
def test_service_account_may_not_read_secrets(kubectl, account):
    review = {
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:observability:{account}",
            "groups": ["system:serviceaccounts", "system:serviceaccounts:observability", "system:authenticated"],
            "resourceAttributes": {"verb": "list", "resource": "secrets"},
        },
    }  # fmt: skip
    answer = json.loads(kubectl("create", "--filename", "-", "--output=json", input=json.dumps(review)))
    assert not answer["status"]["allowed"]


def test_containers_have_limits_and_no_privileges(kubectl):
    for pod in kubectl.json("get", "pods", *HERE)["items"]:
        spec = pod["spec"]
        for container in [*spec["containers"], *spec.get("initContainers", [])]:
            name, context = f"{pod['metadata']['name']}/{container['name']}", container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
        root = spec["securityContext"].get("runAsUser") == 0
        assert root == pod["metadata"]["name"].startswith("vlagent"), pod["metadata"]["name"]


def _oldest(door, logs):
    """Times of the first figure of the API server and of the first log entry: what is lost first when a store begins anew."""
    answer = json.loads(door("/api/v1/query", query='tfirst_over_time(up{job="apiserver"}[1d])'))["data"]["result"]
    first = logs("* | stats min(_time) as first")
    return float(answer[0]["value"][1]), first[0]["first"]


def test_data_survives_replacement_of_pods(kubectl, door, logs):
    before = _oldest(door, logs)
    pods = ("victoria-metrics-0", "victoria-logs-0", "alertmanager-0")
    old = {pod: kubectl.json("get", "pod", pod, *HERE)["metadata"]["uid"] for pod in pods}
    kubectl("delete", "pod", *pods, *HERE)
    for pod in pods:
        kubectl.wait(*HERE, "--for=condition=Ready", f"pod/{pod}")
        assert kubectl.json("get", "pod", pod, *HERE)["metadata"]["uid"] != old[pod]
    until(lambda: _reached(door), "the stores answer again")
    assert _oldest(door, logs) == before


def _reached(door):
    """Both stores answer through the door, which looks for them again after seconds."""
    try:
        return door("/api/v1/query", query="up") and door("/select/logsql/query", query="*", limit="1")
    except AssertionError:
        return False


def test_log_is_stored_once_when_its_collector_is_replaced(application, kubectl, logs):
    def write(pod, line):
        container = {"name": "main", "image": SHELL, "command": ["sh", "-c", f"echo {line}"]}
        spec = {"restartPolicy": "Never", "containers": [container]}
        application({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod}, "spec": spec})

    query = f'"invoice" kubernetes.pod_namespace:={application.namespace}'
    write("first", "invoice 1 is paid")
    until(lambda: logs(query), "the line is stored")
    kubectl("rollout", "restart", "daemonset/vlagent", *HERE)
    kubectl("rollout", "status", "daemonset/vlagent", *HERE, "--timeout=600s")
    # The pod of the first line still exists, and so does its log.
    write("second", "invoice 2 is paid")
    until(lambda: len(logs(query)) > 1, "the line after the replacement is stored")
    assert sorted(entry["_msg"] for entry in logs(query)) == ["invoice 1 is paid", "invoice 2 is paid"]


def test_data_survives_power_loss_of_its_machine(cluster, kubectl, door, logs):
    before = _oldest(door, logs)
    where = kubectl.json("get", "pod", "victoria-metrics-0", *HERE)["spec"]["nodeName"]
    (host,) = [host for host, machine in zip(cluster.hosts, cluster.machines, strict=True) if machine.name == where]
    cluster.reboot(host)
    until(lambda: _reached(door), "the stores answer again")
    assert _oldest(door, logs) == before
    claims = kubectl.json("get", "persistentvolumeclaims", *HERE)["items"]
    assert {claim["metadata"]["name"]: claim["status"]["phase"] for claim in claims} == {
        "data-victoria-metrics-0": "Bound", "data-victoria-logs-0": "Bound", "data-alertmanager-0": "Bound",
    }  # fmt: skip


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

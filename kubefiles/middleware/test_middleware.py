"""ZooKeeper and Tomcat: a visitor is known after a Tomcat pod was replaced, and one ZooKeeper that is killed costs no request."""

from __future__ import annotations

import json
import threading

import pytest

pytestmark = [pytest.mark.topology(control_plane=1, workers=3), pytest.mark.values(MiddlewareSpread="DoNotSchedule")]

PORT = 30082
SERVERS = ("zookeeper-0", "zookeeper-1", "zookeeper-2")


@pytest.fixture
def middleware(kubectl):
    """kubectl in the namespace of the image."""

    def ask(*words, **more):
        return kubectl("--namespace=middleware", *words, **more)

    return ask


@pytest.fixture
def visit(nodes):
    """One visit by a visitor with a jar of cookies: the answer, parsed."""

    def ask(jar, node=None):
        node = node or nodes[0]
        address = node.backend.hostname
        return json.loads(node.check_output(f"curl --silent --fail --max-time 60 -b {jar} -c {jar} http://{address}:{PORT}/"))

    return ask


def words(middleware, server, letters):
    """The answer to a four-letter word. The image has no program for it but the shell's tools."""
    return middleware("exec", server, "--container=zookeeper", "--", "sh", "-c", f"echo {letters} | nc 127.0.0.1 2181")


def ready(middleware, pod):
    middleware("wait", "--for=create", "--timeout=300s", f"pod/{pod}")
    middleware("wait", "--for=condition=Ready", "--timeout=300s", f"pod/{pod}")


def test_three_servers_have_one_leader(middleware):
    modes = sorted(line for server in SERVERS for line in words(middleware, server, "srvr").splitlines() if line.startswith("Mode:"))
    assert modes == ["Mode: follower", "Mode: follower", "Mode: leader"]


def test_each_server_answers_its_probes(middleware):
    for server in SERVERS:
        assert words(middleware, server, "ruok") == "imok"
        said = middleware("exec", server, "--container=zookeeper", "--", "wget", "-qO-", "http://127.0.0.1:8080/commands/ruok")
        assert json.loads(said) == {"command": "ruok", "error": None}


def test_servers_run_on_three_machines(middleware):
    pods = json.loads(middleware("get", "pods", "--selector=app.kubernetes.io/name=zookeeper", "--output=json"))["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 3


def test_service_answers_on_each_node(node, visit):
    assert visit("/tmp/each", node)["visits"] == 1


def test_visitor_is_known_after_tomcat_pods_were_replaced(middleware, visit):
    first = visit("/tmp/replaced")
    pods = set(middleware("get", "pods", "--selector=app.kubernetes.io/name=visits", "--output=name").split())
    middleware("rollout", "restart", "deployment/visits")
    middleware("rollout", "status", "deployment/visits", "--timeout=600s")
    middleware("wait", "--for=delete", "--timeout=300s", *pods)
    second = visit("/tmp/replaced")
    assert (first["visits"], second["visits"]) == (1, 2)
    assert f"pod/{second['pod']}" not in pods


def test_requests_go_on_when_the_leader_is_killed(middleware, visit):
    (leader,) = [server for server in SERVERS if "Mode: leader" in words(middleware, server, "srvr")]
    before = visit("/tmp/killed")
    answers, stop = [], threading.Event()

    def visits():
        while not stop.is_set():
            answers.append(visit("/tmp/killed"))

    visitor = threading.Thread(target=visits)
    visitor.start()
    try:
        middleware("delete", "pod", leader, "--grace-period=1")
        ready(middleware, leader)
    finally:
        stop.set()
        visitor.join()
    # Each request was answered and counted once.
    assert [answer["visits"] for answer in answers] == list(range(before["visits"] + 1, before["visits"] + len(answers) + 1))
    assert answers


def test_counts_survive_power_loss_of_a_machine(cluster, middleware, visit):
    before = visit("/tmp/power")
    pod = json.loads(middleware("get", "pod", "zookeeper-1", "--output=json"))
    (host,) = [host for host, machine in zip(cluster.hosts, cluster.machines, strict=True) if machine.name == pod["spec"]["nodeName"]]
    cluster.reboot(host)
    after = visit("/tmp/power")
    assert after["visits"] == before["visits"] + 1
    assert after["total"] > before["total"]


def test_server_without_quorum_is_not_ready(middleware, visit):
    before = visit("/tmp/quorum")
    middleware("scale", "statefulset/zookeeper", "--replicas=1")
    middleware("wait", "--for=delete", "--timeout=300s", "pod/zookeeper-1", "pod/zookeeper-2")
    middleware("wait", "--for=condition=Ready=false", "--timeout=300s", "pod/zookeeper-0")
    middleware("wait", "--for=condition=Available=false", "--timeout=300s", "deployment/visits")
    middleware("scale", "statefulset/zookeeper", "--replicas=3")
    for server in SERVERS:
        ready(middleware, server)
    middleware("wait", "--for=condition=Available", "--timeout=300s", "deployment/visits")
    assert visit("/tmp/quorum")["visits"] == before["visits"] + 1


def test_containers_run_without_root_on_a_read_only_file_system(middleware):
    for target in (*(f"pod/{server}" for server in SERVERS), "deployment/visits"):
        assert middleware("exec", target, "--", "id", "-u").split()[-1] == "1000"
        assert "ead-only" in middleware("exec", target, "--", "sh", "-c", "touch /here 2>&1 || true")


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

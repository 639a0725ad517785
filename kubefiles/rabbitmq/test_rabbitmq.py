"""RabbitMQ on three machines: no confirmed message is lost when nodes are killed, machines lose power or everything stops."""

from __future__ import annotations

import contextlib
import json
import random
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.topology(control_plane=1, workers=3), pytest.mark.values(RabbitSpread="DoNotSchedule")]

IMAGE = "docker.io/library/rabbitmq:4.0"
NODES = ("rabbitmq-0", "rabbitmq-1", "rabbitmq-2")
PUBLISHER = Path(__file__).with_name("publisher.escript")
SEED = 4
KILLS = 10
SPECIAL = """p"q\\'$(id) `id` é€ #%{}[]&|<>;:!?*~^ {{ .Name }} encrypted:="""


@pytest.fixture
def rabbit(kubectl):
    """kubectl in the namespace of RabbitMQ; ``rabbit.ctl("list_users")`` is rabbitmqctl on the first node, its answer parsed."""

    class Rabbit:
        def __call__(self, *words, **more):
            return kubectl("--namespace=rabbitmq", *words, **more)

        def ctl(self, *words, node=NODES[0]):
            return json.loads(self("exec", node, "--container=rabbitmq", "--", "rabbitmqctl", "--quiet", "--formatter=json", *words))

        def ready(self, node):
            self("wait", "--for=create", "--timeout=300s", f"pod/{node}")
            self("wait", "--for=condition=Ready", "--timeout=600s", f"pod/{node}")

    return Rabbit()


@pytest.fixture
def publishing(cluster, rabbit):
    """A context in which a pod publishes. It gives a function that waits until more is confirmed; ``publishing.result`` has the counts."""

    class Publishing:
        result: dict[str, object] | None = None

        @contextlib.contextmanager
        def __call__(self):
            rabbit("delete", "pod/publisher", "configmap/publisher", "--ignore-not-found", "--wait")
            rabbit("create", "configmap", "publisher", "--from-file=publisher.escript=/dev/stdin", input=PUBLISHER.read_text())
            rabbit("apply", "-f", "-", input=json.dumps(publisher_pod(cluster.machines[0].name)))
            rabbit("wait", "--for=condition=Ready", "--timeout=300s", "pod/publisher")
            yield self.progress
            rabbit("exec", "publisher", "--", "touch", "/tmp/stop")
            rabbit("wait", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=600s", "pod/publisher")
            (line,) = [line for line in rabbit("logs", "publisher").splitlines() if line.startswith("{")]
            self.result = json.loads(line)

        def confirmed(self):
            return int(rabbit("exec", "publisher", "--", "sh", "-c", "cat /tmp/confirmed 2> /dev/null || echo 0").strip() or 0)

        def progress(self, more=100):
            """Wait until the cluster has confirmed so many messages more: it serves."""
            wanted, deadline = self.confirmed() + more, time.monotonic() + 600
            while (confirmed := self.confirmed()) < wanted:
                assert time.monotonic() < deadline, f"{confirmed} messages are confirmed, and no more"
                time.sleep(0.5)

    return Publishing()


def publisher_pod(machine):
    """On a machine without a node of RabbitMQ, so that none takes it down."""
    libraries = "$(dirname $(dirname $(readlink -f $(command -v rabbitmqctl))))/plugins"
    locked = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "publisher",
        "image": IMAGE,
        "command": ["sh", "-c", f"ERL_LIBS={libraries} exec escript /publisher/publisher.escript /tmp /secret rabbitmq"],
        "securityContext": locked,
        "volumeMounts": [
            {"name": "publisher", "mountPath": "/publisher"},
            {"name": "secret", "mountPath": "/secret"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    spec = {
        "nodeName": machine,
        "restartPolicy": "Never",
        "tolerations": [{"operator": "Exists"}],
        "securityContext": {"runAsNonRoot": True, "runAsUser": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [
            {"name": "publisher", "configMap": {"name": "publisher"}},
            {"name": "secret", "secret": {"secretName": "rabbitmq"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "publisher", "labels": {"app.kubernetes.io/name": "publisher"}},
        "spec": spec,
    }


def secret(kubectl, key):
    """As the README shows it."""
    return kubectl("get", "secret", "rabbitmq", "-n", "rabbitmq", "-o", f"go-template={{{{.data.{key} | base64decode}}}}")


def test_three_nodes_form_one_cluster_at_first_boot(rabbit):
    for node in NODES:
        assert sorted(rabbit.ctl("cluster_status", node=node)["running_nodes"]) == [f"rabbit@{name}.rabbitmq-nodes" for name in NODES]


def test_nodes_run_on_three_machines(rabbit):
    pods = json.loads(rabbit("get", "pods", "--selector=app.kubernetes.io/name=rabbitmq", "--output=json"))["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 3


def test_no_confirmed_message_is_lost_when_nodes_are_killed(rabbit, publishing):
    order = random.Random(SEED)  # noqa: S311 - the same order each time
    with publishing() as progress:
        progress()
        for node in (order.choice(NODES) for _ in range(KILLS)):
            # Each process of the container at once, without a chance to write anything; then another pod in its place.
            rabbit("exec", node, "--container=rabbitmq", "--", "sh", "-c", "kill -9 -1")
            rabbit("delete", "pod", node, "--grace-period=1")
            progress()
            rabbit.ready(node)
    assert publishing.result["lost"] == []
    assert publishing.result["confirmed"] >= KILLS * 100


def test_queue_has_a_member_on_each_node_and_all_are_online(rabbit):
    (queue,) = [queue for queue in rabbit.ctl("list_queues", "name", "type", "members", "online") if queue["name"] == "orders"]
    assert (queue["type"], len(queue["members"]), len(queue["online"])) == ("quorum", 3, 3)


def test_no_confirmed_message_is_lost_when_a_machine_loses_power(cluster, rabbit, publishing):
    with publishing() as progress:
        progress()
        cluster.reboot(cluster.workers[1])
        progress()
    assert publishing.result["lost"] == []
    assert len(rabbit.ctl("cluster_status")["running_nodes"]) == 3


def test_no_confirmed_message_is_lost_over_a_full_stop(rabbit, publishing):
    with publishing() as progress:
        progress()
        rabbit("scale", "statefulset/rabbitmq", "--replicas=0")
        rabbit("wait", "--for=delete", "--timeout=600s", *(f"pod/{node}" for node in NODES))
        rabbit("scale", "statefulset/rabbitmq", "--replicas=3")
        for node in NODES:
            rabbit.ready(node)
        progress()
    assert publishing.result["lost"] == []


def test_generated_secrets_are_in_no_argument_and_no_log(cluster, kubectl):
    secrets = [secret(kubectl, key) for key in ("password", "cookie")]
    assert all(len(text) == 32 for text in secrets)
    for machine in cluster.machines:
        seen = machine.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '; cat /var/log/pods/*/*/*.log; journalctl --no-pager").stdout
        assert not any(text in seen for text in secrets)


def test_new_password_counts_after_the_nodes_were_restarted(nodes, kubectl, rabbit, publishing):
    # The launch command of a run with another RabbitPassword.
    values = "RabbitUser=admin RabbitPassword='another one'"
    nodes[0].check_output(
        f"cd /var/lib/slipway/rootfs && KUBECONFIG=/etc/kubernetes/admin.conf PATH=$PWD/bin:$PATH {values} sh scripts/rabbitmq-secret.sh"
    )
    rabbit("rollout", "status", "statefulset/rabbitmq", "--timeout=900s")
    assert secret(kubectl, "password") == "another one"
    with publishing() as progress:
        progress()
    assert publishing.result["lost"] == []


def test_containers_run_without_root_on_a_read_only_file_system(rabbit):
    for node in NODES:
        assert rabbit("exec", node, "--container=rabbitmq", "--", "id", "-u").strip() == "999"
        said = rabbit("exec", node, "--container=rabbitmq", "--", "sh", "-c", "touch /here 2>&1 || true")
        assert "ead-only" in said


@pytest.mark.topology(control_plane=1, workers=0)
@pytest.mark.values(RabbitPassword=SPECIAL, RabbitUser="shop", RabbitMemory="512Mi", RabbitSpread="ScheduleAnyway")
def test_given_password_with_special_characters_works(kubectl, rabbit, publishing):
    assert secret(kubectl, "password") == SPECIAL
    with publishing() as progress:
        progress()
    assert publishing.result["lost"] == []
    assert [user["user"] for user in rabbit.ctl("list_users")] == ["shop"]


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

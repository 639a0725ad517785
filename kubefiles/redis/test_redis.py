"""Redis on a claim: what it was told is there after its pod was replaced and after its machine lost power."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.topology(control_plane=1, workers=1)


@pytest.fixture
def redis(kubectl):
    """Asks Redis: ``redis("get", "key")`` gives its answer."""

    def ask(*words):
        return kubectl("exec", "redis-0", "--", "redis-cli", *words).strip()

    return ask


def test_redis_claim_is_bound_with_requested_size(kubectl):
    claim = kubectl.json("get", "persistentvolumeclaim", "data-redis-0")
    assert (claim["status"]["phase"], claim["spec"]["resources"]["requests"]["storage"]) == ("Bound", "1Gi")


def test_redis_data_survives_replacement_of_its_pod(kubectl, redis):
    assert redis("set", "pod", "first") == "OK"
    before = kubectl.json("get", "pod", "redis-0")["metadata"]["uid"]
    kubectl("delete", "pod", "redis-0")
    kubectl.wait("--for=condition=Ready", "pod/redis-0")
    assert kubectl.json("get", "pod", "redis-0")["metadata"]["uid"] != before
    assert redis("get", "pod") == "first"


def test_redis_data_survives_power_loss_of_its_machine(cluster, kubectl, redis):
    assert redis("set", "power", "lost") == "OK"
    where = kubectl.json("get", "pod", "redis-0")["spec"]["nodeName"]
    (host,) = [host for host, machine in zip(cluster.hosts, cluster.machines, strict=True) if machine.name == where]
    cluster.reboot(host)
    assert redis("get", "power") == "lost"


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

"""web on nodes without a way to the internet: the page, the cache, and names between pods of different nodes."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.topology(control_plane=1, workers=1)


def test_web_page_answers_on_each_node(node):
    assert "Hello from a CloudImage" in node.check_output(f"curl -s --max-time 60 http://{node.backend.hostname}:30080/")


def test_redis_answers_through_its_service(kubectl):
    # nginx's image has no Redis client; the Redis pod asks its own Service by name.
    assert kubectl("exec", "deploy/redis", "--", "redis-cli", "-h", "redis", "ping").strip() == "PONG"


def test_pods_resolve_service_name_and_reach_pods_of_other_nodes(kubectl):
    pods = kubectl.json("get", "pods", "--selector", "app=web")["items"]
    for pod in pods:
        page = kubectl("exec", pod["metadata"]["name"], "--", "wget", "-qO-", "http://web.default.svc.cluster.local/")
        assert "Hello" in page
        for other in pods:
            address = other["status"]["podIP"]
            assert "Hello" in kubectl("exec", pod["metadata"]["name"], "--", "wget", "-qO-", f"http://{address}/")


def test_pod_images_keep_original_names(kubectl):
    images = {c["image"] for pod in kubectl.json("get", "pods")["items"] for c in pod["spec"]["containers"]}
    assert images == {"slipway.dev/nginx:1.22", "slipway.dev/redis:7.0"}


def test_pod_with_pull_policy_always_starts(kubectl):
    # Attaching waits for the container, and so for the pull that this policy asks for.
    command = ("redis-server", "--version")
    said = kubectl(
        "run", "again", "--image=slipway.dev/redis:7.0", "--image-pull-policy=Always", "--restart=Never", "--rm", "-i", "--", *command
    )
    assert "Redis server" in said


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

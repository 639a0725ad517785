"""The operator on a node without a way to the internet: what it deploys was found only by running it, and runs here."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = pytest.mark.topology(control_plane=1, workers=0)

RUNTIME_IMAGE = "slipway.dev/redis:7.0"


def test_operator_makes_available_deployment_with_expected_image(kubectl):
    kubectl.wait("--namespace=caches", "--for=condition=Available", "deployment/session-cache")
    image = kubectl(
        "get", "deployment", "session-cache", "--namespace=caches", "--output=jsonpath={.spec.template.spec.containers[0].image}"
    )
    assert image == RUNTIME_IMAGE


def test_image_of_operator_workload_is_found_by_pull_only(cluster):
    described = json.loads(cluster.run("inspect", cluster.image, "--output", "json").stdout)
    found = {one["name"]: one["foundBy"] for one in described["platforms"][0]["images"]}
    assert found[RUNTIME_IMAGE] == ["pulled"]


def test_operator_second_cache_becomes_available(kubectl):
    kubectl("create", "configmap", "second", "--namespace=caches", "--from-literal=replicas=2")
    kubectl("label", "configmap", "second", "--namespace=caches", "cache=wanted")
    deadline = time.monotonic() + 600
    while "second" not in kubectl("get", "deployments", "--namespace=caches", "--output=name"):
        assert time.monotonic() < deadline, "the operator makes no deployment"
        time.sleep(0.5)
    kubectl.wait("--namespace=caches", "--for=condition=Available", "deployment/second")


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

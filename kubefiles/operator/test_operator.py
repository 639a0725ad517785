"""The operator on a node without a way to the internet: what it deploys was found only by running it, and runs here."""

from __future__ import annotations

import json
import time

import pytest

pytestmark = pytest.mark.topology(control_plane=1, workers=0)

RUNTIME_IMAGE = "slipway.dev/redis:7.0"


def test_what_the_operator_creates_runs(kubectl):
    kubectl.wait("--namespace=caches", "--for=condition=Available", "deployment/session-cache")
    image = kubectl(
        "get", "deployment", "session-cache", "--namespace=caches", "--output=jsonpath={.spec.template.spec.containers[0].image}"
    )
    assert image == RUNTIME_IMAGE


def test_the_image_was_pulled_and_is_declared_nowhere(cluster):
    described = json.loads(cluster.run("inspect", cluster.image, "--output", "json").stdout)
    found = {one["name"]: one["foundBy"] for one in described["platforms"][0]["images"]}
    assert found[RUNTIME_IMAGE] == ["pulled"]


def test_another_cache_can_be_asked_for(kubectl):
    kubectl("create", "configmap", "second", "--namespace=caches", "--from-literal=replicas=2")
    kubectl("label", "configmap", "second", "--namespace=caches", "cache=wanted")
    deadline = time.monotonic() + 600
    while "second" not in kubectl("get", "deployments", "--namespace=caches", "--output=name"):
        assert time.monotonic() < deadline, "the operator makes no deployment"
        time.sleep(0.5)
    kubectl.wait("--namespace=caches", "--for=condition=Available", "deployment/second")


@pytest.mark.usefixtures("offline")
def test_nothing_leaves_the_nodes(kubectl):
    kubectl("get", "pods", "--all-namespaces")

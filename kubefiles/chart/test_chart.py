"""The chart on a node without a way to the internet: installed by the helm that the image carries."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.topology(control_plane=1, workers=0)

ROOTFS = "/var/lib/slipway/rootfs"


def test_helm_release_is_deployed(nodes):
    releases = nodes[0].check_output(f"KUBECONFIG=/etc/kubernetes/admin.conf {ROOTFS}/bin/helm list --output json")
    assert '"name":"web"' in releases
    assert '"status":"deployed"' in releases


def test_chart_page_shows_values_of_image(node):
    assert "Hello from a chart in a CloudImage" in node.check_output(f"curl -s --max-time 60 http://{node.backend.hostname}:30081/")


def test_redis_answers_through_its_service(kubectl):
    assert kubectl("exec", "deploy/web-redis", "--", "redis-cli", "-h", "web-redis", "ping").strip() == "PONG"


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")

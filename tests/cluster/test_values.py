"""Values that are known only when an image runs: built without, asked for, given, and changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.host.cluster_cache import ClusterState
from tests.cluster.lab import Lab, found
from tests.conftest import HERE, Slipway
from tests.integration.test_build import context

IMAGE = "mydashboard:latest"
KUBEFILE = """\
FROM kubernetes
COPY dashboard.yaml foreign.yaml manifests/
CMD kubectl create namespace kubernetes-dashboard --dry-run=client --output=yaml | kubectl apply -f -
CMD kubectl apply -f manifests/dashboard.yaml -f manifests/foreign.yaml
"""
FOREIGN = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: alertmanager}
data:
  alert.yml: |
    title: '{{ .Status | toUpper }}'
    footer: {{ .ExternalURL }}
    replicas: {{ Replicas }}
"""
TEXT = "title: '{{ .Status | toUpper }}'\nfooter: {{ .ExternalURL }}\nreplicas: {{ Replicas }}\n"
CLUSTERFILE = """\
apiVersion: slipway.dev/v1
kind: Cluster
metadata: {{name: {name}}}
spec:
  image: {image}
  env: {{DashBoardPort: {port}}}
  ssh: {{pk: {key}}}
  hosts: [{{ips: [{node}], roles: [control-plane]}}]
"""


@pytest.fixture(scope="module")
def dashboard(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The dashboard's manifest as its author wrote it, beside a manifest of another program. No ENV has the port."""
    assert kubernetes
    folder = tmp_path_factory.mktemp("dashboard")
    (folder / "Kubefile").write_text(KUBEFILE)
    (folder / "foreign.yaml").write_text(FOREIGN)
    shutil.copy(HERE / "cases/dashboard-port/dashboard.yaml", folder)
    said = slipway("build", "-t", IMAGE, folder, "--no-cache")
    assert "DashBoardPort: 18080 stands in for it (manifests/dashboard.yaml:11)" in said.stderr
    return IMAGE


@pytest.fixture(scope="module")
def lab(slipway: Slipway, dashboard: str) -> Iterator[Lab]:
    assert dashboard
    lab = Lab(slipway, "test-values", 1, 0)
    try:
        yield lab
    finally:
        lab.down()


def port(lab: Lab) -> object:
    service = lab.json("get", "service", "kubernetes-dashboard", "--namespace=kubernetes-dashboard")
    return service["spec"]["ports"][0]["targetPort"]


def test_inspect_shows_required_value_of_image(slipway: Slipway, dashboard: str) -> None:
    assert "value       DashBoardPort  required; manifests/dashboard.yaml:11" in slipway("inspect", dashboard).stdout
    (platform,) = json.loads(slipway("inspect", dashboard, "--output", "json").stdout)["platforms"]
    assert [(value["name"], value["required"]) for value in platform["info"]["values"]] == [("DashBoardPort", True)]


@pytest.mark.parametrize("more", [(), ("--plan",)])
def test_run_without_required_value_is_refused_and_changes_nothing(lab: Lab, dashboard: str, more: tuple[str, ...]) -> None:
    before = found(lab.first)
    said = lab.run(dashboard, *more, check=False)
    assert said.returncode == 2
    assert "DashBoardPort: has no value, and manifests/dashboard.yaml:11 needs one" in said.stderr
    assert "-e DashBoardPort=VALUE, or env: {DashBoardPort: VALUE} in the Clusterfile" in said.stderr
    assert found(lab.first) == before


def test_run_with_value_renders_it_and_keeps_foreign_placeholders(lab: Lab, dashboard: str) -> None:
    lab.run(dashboard, "-e", "DashBoardPort=8443")
    assert port(lab) == 8443
    assert lab.json("get", "configmap", "alertmanager")["data"]["alert.yml"] == TEXT
    assert lab.first.run("cat /var/lib/slipway/rootfs/manifests/foreign.yaml").stdout == FOREIGN


def test_apply_uses_value_of_clusterfile(lab: Lab, dashboard: str, slipway: Slipway, tmp_path: Path) -> None:
    assert ClusterState.of(lab.name).read()
    path = tmp_path / "Clusterfile"
    path.write_text(CLUSTERFILE.format(name=lab.name, image=dashboard, port=6443, key=lab.key, node=lab.control_plane[0]))
    slipway("apply", "-f", path)
    assert port(lab) == 6443


@pytest.mark.long
def test_build_failing_stand_in_names_value_and_given_value_builds(slipway: Slipway, kubernetes: str, tmp_path: Path) -> None:
    assert kubernetes
    service = "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {type: {{ ServiceType }}, ports: [{port: {{ WebPort }}}]}\n"
    folder = context(
        tmp_path / "web", "FROM kubernetes\nCOPY web.yaml manifests/\nCMD kubectl apply -f manifests/web.yaml\n", web_yaml=service
    )
    words = ("build", "-t", "stood-in", "--discover", "pulled", folder)
    said = slipway(*words, check=False)
    assert said.returncode == 3
    assert "slipway build -e ServiceType=VALUE" in said.stderr
    slipway(*words, "-e", "ServiceType=ClusterIP")
    (platform,) = json.loads(slipway("inspect", "stood-in", "--output", "json").stdout)["platforms"]
    assert {value["name"]: value["default"] for value in platform["info"]["values"]} == {"ServiceType": None, "WebPort": None}

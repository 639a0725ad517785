"""Configuration of a black box: a Clusterfile with documents Config, and charts that are installed without a name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.as_written import texts
from tests.as_written.conftest import ALIYUN, World
from tests.cluster.lab import Lab, until
from tests.conftest import Slipway

IMAGE = f"{ALIYUN}/sealer-app/my-SAAS-all-inone:latest"
VALUES = ("etc/mysql-config.yaml", "etc/redis-config.yaml")
CHANGED = ("etc/mysql-valus.yaml", "etc/redis-valus.yaml")
"""Files that the Clusterfile writes, which are not those of the Kubefile: so they were published."""


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    files = {
        "Kubefile": texts.kubefile("configuration", "COPY etc etc", "COPY charts charts"),
        "Clusterfile": texts.text("configuration/Clusterfile"),
        "charts/mysql/Chart.yaml": texts.CHART,
        "charts/mysql/values.yaml": texts.CHART_VALUES,
        "charts/mysql/templates/workload.yaml": texts.CHART_WORKLOAD,
        VALUES[0]: "user: of-mysql\n",
        VALUES[1]: "user: of-redis\n",
    }
    return texts.write(tmp_path_factory.mktemp("configuration"), files)


@pytest.fixture(scope="module")
def built(world: World, context: Path) -> str:
    """What the build said. The image is then in the registry of its name alone, from where a run fetches it."""
    said = world.type(f"sealer build -t {IMAGE} .", context).stderr
    world("push", IMAGE, f"{world.registry.host}/{IMAGE.lower()}", "--plain-http")
    world("rmi", IMAGE)
    return said


@pytest.fixture(scope="module")
def lab(slipway: Slipway, built: str) -> Iterator[Lab]:
    assert built
    lab = Lab(slipway, "test-config", 1, 0)
    try:
        yield lab
    finally:
        lab.down()


@pytest.fixture(scope="module")
def made(world: World, lab: Lab, context: Path) -> str:
    """What the run of the Clusterfile said. Its author leaves the machines to the provider: here they are given."""
    return world.type(f"sealer run -f Clusterfile --control-plane {lab.control_plane[0]} --key {lab.key}", context).stderr


def releases(lab: Lab) -> dict[str, int]:
    """The releases of helm, and their latest revisions."""
    secrets = lab.json("get", "secrets", "--selector=owner=helm")["items"]
    found: dict[str, int] = {}
    for labels in (one["metadata"]["labels"] for one in secrets):
        found[labels["name"]] = max(int(labels["version"]), found.get(labels["name"], 0))
    return found


def user(lab: Lab, release: str) -> str:
    return lab.kubectl("exec", f"deployment/{release}", "--", "redis-cli", "config", "get", "dbfilename").splitlines()[-1]


def test_build_unnamed_second_chart_gets_numbered_release(built: str) -> None:
    assert "names of images have no capitals" in built
    assert "kuberentes:v1.19.9 brings Kubernetes v1.36" in built
    assert "mysql-2" in built


def test_run_fetches_image_and_reports_new_files(world: World, lab: Lab, made: str) -> None:
    assert "my-saas-all-inone:latest is taken" in made
    for path, near in zip(CHANGED, VALUES, strict=True):
        assert path in made
        assert near in made
    assert world.registry.requests("GET", "sealer-app/my-saas-all-inone/manifests/latest$")
    for number, name in enumerate(("mysql", "redis")):
        text = lab.first.run(f"cat /var/lib/slipway/rootfs/{CHANGED[number]}").stdout
        assert text == f"{name}-user: root\n{name}-passwd: xxx\n"
        # A file that the document does not name stays.
        assert lab.first.run(f"cat /var/lib/slipway/rootfs/{VALUES[number]}").stdout == f"user: of-{name}\n"


@pytest.mark.usefixtures("made")
def test_run_each_chart_uses_values_of_its_command(lab: Lab) -> None:
    assert releases(lab) == {"mysql": 1, "mysql-2": 1}
    assert (user(lab, "mysql"), user(lab, "mysql-2")) == ("of-mysql", "of-redis")


@pytest.mark.usefixtures("made")
def test_apply_values_file_of_command_upgrades_its_release(world: World, lab: Lab, context: Path) -> None:
    """The same Clusterfile with the name of the file in the Kubefile, as its author meant it, and without machines."""
    file = context / "Clusterfile.meant"
    meant = texts.text("configuration/Clusterfile").replace("mysql-valus", "mysql-config").replace("mysql-user: root", "user: root")
    file.write_text(meant)
    world("apply", "-f", file)
    assert releases(lab)["mysql"] == 2
    until(lambda: user(lab, "mysql") == "root")
    status = json.loads(world("status", "my-cluster", "--output", "json").stdout)
    assert status["healthy"], status
    assert [node["name"] for node in status["nodes"]] == [lab.host(lab.control_plane[0])]

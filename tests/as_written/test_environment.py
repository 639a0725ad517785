"""A value that is known only when the image runs: given on the command line, then in a Clusterfile, which names no machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.as_written import texts
from tests.as_written.conftest import World
from tests.cluster.lab import Lab
from tests.conftest import Slipway


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    manifest = texts.BEFORE_SERVICE + texts.text("environment/dashobard.yaml") + texts.AFTER_SERVICE
    files = {
        "Kubefile": texts.kubefile("environment"),
        "Clusterfile": texts.text("environment/Clusterfile"),
        "dashobard.yaml": manifest,
    }
    return texts.write(tmp_path_factory.mktemp("environment"), files)


@pytest.fixture(scope="module")
def built(world: World, context: Path) -> str:
    """What the build said. The command line and the Clusterfile spell the name of the image in two ways."""
    said = world.type("sealer build -t mydashboard:latest .", context).stderr
    world.type("sealer tag mydashboard:latest mydashobard:latest", context)
    return said


@pytest.fixture(scope="module")
def lab(slipway: Slipway, built: str, context: Path) -> Iterator[Lab]:
    assert built
    lab = Lab(slipway, "test-value", 1, 0)
    try:
        # `pk: xxx` is the author's place for the path of a key.
        shutil.copy(lab.key, context / "xxx")
        yield lab
    finally:
        lab.down()


def port(lab: Lab) -> object:
    service = lab.json("get", "service", "kubernetes-dashboard", "--namespace=kubernetes-dashboard")
    return service["spec"]["ports"][0]["targetPort"]


def test_build_missing_value_boots_with_stand_in(built: str) -> None:
    line = 1 + (texts.BEFORE_SERVICE + texts.text("environment/dashobard.yaml")).partition("{{")[0].count("\n")
    assert f"DashBoardPort: 18080 stands in for it (manifests/dashobard.yaml:{line})" in built
    assert "Kubefile:1: kubernetes:1.16.9 brings Kubernetes v1.36" in built


def test_run_without_machines_is_refused_with_control_plane_hint(world: World, built: str, context: Path) -> None:
    assert built
    said = world.type(texts.command("environment", "sealer run"), context, check=False)
    assert said.returncode == 2
    assert "no control-plane node is given" in said.stderr
    assert "--control-plane" in said.stderr


def test_run_env_option_is_rendered(world: World, lab: Lab, context: Path) -> None:
    line = texts.command("environment", "sealer run")
    world.type(f"{line} --control-plane {lab.control_plane[0]} --key xxx --cluster my-cluster", context)
    assert port(lab) == 8443


def test_apply_clusterfile_without_machines_changes_value_in_running_cluster(world: World, lab: Lab, context: Path) -> None:
    said = world.type("sealer apply -f Clusterfile", context)
    assert "~ .spec.env.DashBoardPort: 8443 -> 6443" in said.stdout
    assert ".spec.hosts" not in said.stdout
    assert ".spec.image" not in said.stdout
    assert port(lab) == 6443
    assert "nothing to do" in world.type("sealer apply -f Clusterfile", context).stdout

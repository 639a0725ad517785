"""``FROM`` of the texts: `build` pulls it by itself, under the name and tag that it has there; or says in one error why it cannot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.as_written import texts
from tests.as_written.conftest import ALIYUN, HUB, World
from tests.integration.registry import mirrored_by

NAME = "kubernetes:1.16.9"
OLD = f"{ALIYUN}/sealer-io/cloudrootfs:v1.16.9-alpha.7"
READ = ("--discover", "declared")
"""These tests are about the base image alone: nothing is run."""


@pytest.fixture
def context(tmp_path: Path) -> Path:
    manifest = texts.BEFORE_SERVICE + texts.text("environment/dashobard.yaml") + texts.AFTER_SERVICE
    return texts.write(tmp_path / "context", {"Kubefile": texts.kubefile("environment"), "dashobard.yaml": manifest})


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of the test's own, which has no image."""
    return {"SLIPWAY_HOME": str(tmp_path / "home")}


def asked(world: World, tag: str = "1.16.9") -> int:
    """How often the registry was asked for the base image."""
    return sum(len(world.registry.requests(method, rf"/kubernetes/manifests/{tag}$")) for method in ("GET", "HEAD"))


def test_build_pull_option_decides_fetch_of_base_image(world: World, context: Path, env: dict[str, str]) -> None:
    before = asked(world)
    refused = world("build", "-t", "mydashboard", "--pull", "never", *READ, context, check=False, env=env)
    assert refused.returncode == 3
    assert f"Kubefile:1: the base image {NAME} is not in the local store" in refused.stderr
    assert asked(world) == before
    said = world("build", "-t", "mydashboard", *READ, context, env=env)
    # It serves the base of today under a tag of the past, and that is no secret.
    assert f"Kubefile:1: {NAME} brings Kubernetes v1.36" in said.stderr
    first = asked(world)
    assert first > before
    world("build", "-t", "mydashboard", "--pull", "missing", *READ, context, env=env)
    assert asked(world) == first
    world("build", "-t", "mydashboard", "--pull", "always", *READ, context, env=env)
    assert asked(world) > first


def test_build_base_image_is_fetched_only_after_policy_admits_it(world: World, context: Path, env: dict[str, str], tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("default: deny\n")
    strict = {**env, "SLIPWAY_POLICY": str(policy)}
    blobs = len(world.registry.requests("GET", "/blobs/"))
    refused = world("build", "-t", "mydashboard", *READ, context, check=False, env=strict)
    assert refused.returncode == 3
    assert f"{context}/Kubefile:1: the base image" in refused.stderr
    assert "refused by policy" in refused.stderr
    # Signed by whom the policy trusts, it is taken.
    keys = {**env, "SLIPWAY_KEY_PASSWORD": "of the test"}
    made = json.loads(world("keys", "create", "-f", tmp_path / "release", "-o", "json", env=keys).stdout)
    rule = f"{{repository: {HUB}/library/kubernetes, require: signed, keys: [{made['public']}], identity: any}}"
    policy.write_text(f"default: deny\nrules: [{rule}]\n")
    refused = world("build", "-t", "mydashboard", *READ, context, check=False, env=strict)
    assert refused.returncode == 3
    assert "is not signed" in refused.stderr
    assert len(world.registry.requests("GET", "/blobs/")) == blobs
    world("sign", f"{world.registry.host}/{HUB}/library/{NAME}", "--plain-http", "--key", made["private"], env=keys)
    world("build", "-t", "mydashboard", *READ, context, env=strict)


def test_build_base_image_is_pulled_from_mirror_of_its_host(
    world: World, context: Path, env: dict[str, str], tmp_path: Path
) -> None:  # fmt: skip
    (context / "Kubefile").write_text(texts.text("environment/Kubefile").replace(NAME, OLD))
    said = world("build", "-t", "mydashboard", *READ, context, env=env)
    assert f"Kubefile:1: {OLD} brings Kubernetes v1.36" in said.stderr
    # The store has it under the name that FROM says, and not under that of the mirror.
    names = [image["name"] for image in json.loads(world("images", "--output", "json", env=env).stdout)]
    assert OLD in names
    assert not [name for name in names if world.registry.host in name]
    # A mirror that has nothing of it is one error.
    empty = tmp_path / "empty.conf"
    empty.write_text(
        mirrored_by(world.registry, "docker.io").replace("docker.io", "nothing.invalid")
        + f'[[registry]]\nlocation = "{HUB}"\nblocked = true\n'
    )
    (context / "Kubefile").write_text(texts.text("environment/Kubefile"))
    refused = world("build", "-t", "other", *READ, context, check=False, env={**env, "SLIPWAY_REGISTRIES_CONF": str(empty)})
    assert refused.returncode in {3, 4}
    assert "is blocked by" in refused.stderr


def test_build_runtime_of_other_project_is_refused_with_supported_runtimes(world: World, env: dict[str, str], tmp_path: Path) -> None:
    text = texts.text("runtime/Kubefile").replace("FROM kubernetes:", "FROM k3s:")
    folder = texts.write(tmp_path / "k3s", {"Kubefile": text})
    before = len(world.site.asked)
    said = world.type("sealer build -t istio:latest .", folder, check=False, env=env)
    assert said.returncode == 3
    first, hint = said.stderr.splitlines()[-2:]
    assert first == "slipway: Kubefile:1: the base image k3s:v1.18.3 is not in the local store, and slipway does not run k3s"
    assert hint.strip() == "hint: runtimes: kubeadm; base images: none is in the local store: slipway build kubefiles/kubernetes makes one"
    assert "Traceback" not in said.output
    assert len(world.site.asked) == before

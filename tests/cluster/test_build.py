"""`slipway build` with its throw-away cluster: what goes wrong is told, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.host import paths
from harness.oci.store import Store
from tests.cluster.conftest import PROJECT, leftovers
from tests.cluster.workload import pods_of
from tests.conftest import Slipway
from tests.integration.test_build import context, heed_ctrl_c
from tests.waiting import HANG, until

pytestmark = pytest.mark.usefixtures("kubernetes", "clean")

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  {pods}
    spec:
      containers:
      - name: main
        image: {image}
        command: [sh, -c, "{command}"]
"""
SHELL = "slipway.dev/nginx:1.22"


def deployment(name: str, command: str, image: str = SHELL) -> str:
    return DEPLOYMENT.format(name=name, pods=pods_of(name), command=command, image=image)


def no_tag(name: str) -> bool:
    return f"{name}:latest" not in Store.default().names()


@pytest.mark.long
def test_build_pods_never_ready_are_explained_and_concurrent_build_is_not_disturbed(tmp_path: Path, slipway: Slipway) -> None:
    """The pods of one build never become ready; another one that runs at the same time finds its own image, and nothing else."""
    bad = context(
        tmp_path / "bad", "FROM kubernetes\nCOPY manifests manifests\nCMDS [\"kubectl apply -f manifests/a.yaml -f manifests/b.yaml\"]\n",
        manifests__a_yaml=deployment("crashes", "echo my last words; exit 3"),
        manifests__b_yaml=deployment("unpullable", "sleep 1000", "127.0.0.1:1/not/there:1"),
    )  # fmt: skip
    good = context(
        tmp_path / "good", "FROM kubernetes\nCOPY manifests manifests\nCMDS [\"kubectl apply -f manifests/a.yaml\"]\n",
        manifests__a_yaml=deployment("good", "sleep 100000", "slipway.dev/redis:7.0"),
    )  # fmt: skip
    # Long after the launch, on however busy a machine, the pods have failed.
    words = {
        "bad": ("build", "-t", "never-ready", "--discover", "pulled", "--timeout", "90", bad),
        "good": ("build", "--no-cache", "-t", "good-build", "-o", "json", "--discover", "pulled", good),
    }
    with ThreadPoolExecutor(2) as pool:
        running = {name: pool.submit(slipway, *argv, check=False) for name, argv in words.items()}
        said = {name: future.result() for name, future in running.items()}
    assert said["bad"].returncode == 3, said["bad"].output
    for words_of_it in ("Deployment default/crashes", "my last words", "registry: 127.0.0.1:1/not/there:1: "):
        assert words_of_it in said["bad"].stderr
    assert "default/good" not in said["bad"].stderr
    assert no_tag("never-ready")
    assert said["good"].returncode == 0, said["good"].output
    found = json.loads(said["good"].stdout)["platforms"][0]["images"]
    assert [one["name"] for one in found if "Deployment default/good" in one["requestedBy"]] == ["slipway.dev/redis:7.0"]
    assert not [one["name"] for one in found if "not/there" in one["name"]]


@pytest.mark.parametrize("moment", ["boot", "launch"])
def test_build_ctrl_c_at_boot_or_launch_leaves_nothing_behind(moment: str, tmp_path: Path) -> None:
    made = context(tmp_path, "FROM kubernetes\nCMD touch /tmp/launched; sleep 86400\n")
    before = leftovers()
    building = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "build", "--no-cache", "-t", "interrupted", str(made)],
        stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    try:
        until(lambda: reached(moment, before) or building.poll() is not None, f"it never came to {moment}", pause=0.2)
        assert building.poll() is None
    finally:
        os.killpg(building.pid, signal.SIGINT)
        _, errors = building.communicate(timeout=HANG)
    assert building.returncode == 130, errors
    assert "interrupted" in errors
    assert leftovers() == before
    assert not (paths.cache() / "tmp" / str(building.pid)).exists()
    assert no_tag("interrupted")


def reached(moment: str, before: set[str]) -> bool:
    return "control-plane" in str(leftovers() - before) if moment == "boot" else launched(before)


def launched(before: set[str]) -> bool:
    """Whether the launch command of the new cluster is running."""
    for name in (one.removeprefix("container ") for one in leftovers() - before if one.endswith("control-plane")):
        if subprocess.run(["docker", "exec", name, "test", "-e", "/tmp/launched"], capture_output=True, check=False).returncode == 0:
            return True
    return False


def test_build_removes_leftovers_of_killed_build_and_shows_output_of_failing_launch(tmp_path: Path, slipway: Slipway) -> None:
    made = context(tmp_path, "FROM kubernetes\nCMD touch /tmp/launched; sleep 86400\n")
    before = leftovers()
    building = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "build", "--no-cache", "-t", "killed", str(made)],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until(lambda: "control-plane" in str(leftovers() - before) or building.poll() is not None, "it boots no cluster", pause=0.2)
    os.killpg(building.pid, signal.SIGKILL)
    building.wait()
    assert leftovers() > before
    broken = context(tmp_path / "broken", "FROM kubernetes\nCMD kubectl get nodes\nCMD echo the reason >&2; exit 9\n")
    said = slipway("build", "--no-cache", "-t", "broken-launch", broken, check=False)
    assert leftovers() <= before
    assert said.returncode == 3, said.output
    assert "the launch command failed with exit code 9: echo the reason >&2; exit 9" in said.stderr
    assert "    the reason" in said.stderr
    assert no_tag("broken-launch")


def test_build_in_container_sandbox_finds_image_named_at_run_time(slipway: Slipway) -> None:
    built = slipway(
        "build", "--no-cache", "-t", "operator-on-container", "--sandbox", "container", "-o", "json", PROJECT / "kubefiles/operator"
    )
    found = json.loads(built.stdout)
    assert found["undeclared"] == ["slipway.dev/redis:7.0"]
    images = {one["name"]: one for one in found["platforms"][0]["images"]}
    assert images["slipway.dev/redis:7.0"]["foundBy"] == ["pulled"]
    assert images["slipway.dev/redis:7.0"]["requestedBy"] == ["Deployment caches/session-cache"]

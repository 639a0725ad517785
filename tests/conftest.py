"""What all rings share: markers by folder, a home of their own, and the real command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import pytest

from harness import process
from harness.host import paths

HERE = Path(__file__).parent
_BASE = (HERE.parent / "kubefiles/kubernetes/Kubefile").read_text().splitlines()
KUBERNETES = next(line.removeprefix("ARG VERSION=") for line in _BASE if line.startswith("ARG VERSION="))
"""The version of the base image, as ``v1.37.2``: what every ring runs on."""
RINGS = ("unit", "integration", "hostile", "cluster", "as_written", "vm")


def pytest_configure(config: pytest.Config) -> None:
    # Stays from run to run, as what is in it is found by its content; the user's images and clusters are not touched.
    os.environ["SLIPWAY_HOME"] = str(paths.cache() / "tests")
    # Hypothesis would keep its tables beside the tests.
    os.environ.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", str(paths.cache() / "hypothesis"))
    os.environ["SLIPWAY_POLICY"] = str(HERE / "policy.yaml")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        folders = item.path.relative_to(HERE).parts if item.path.is_relative_to(HERE) else ()
        if folders and folders[0] in RINGS:
            item.add_marker(folders[0])


class Slipway(Protocol):
    """Runs the command line and gives what it said. With ``check`` raises CommandError when it ends with anything but 0."""

    def __call__(
        self,
        *words: str | Path,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float | None = None,
    ) -> process.ProcessResult: ...


@pytest.fixture(scope="session")
def slipway() -> Slipway:
    """The real command line, as a process of its own: ``slipway("inspect", "web")``."""

    def run(
        *words: str | Path,
        check: bool = True,
        input: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float | None = None,
    ) -> process.ProcessResult:
        argv = [sys.executable, "-m", "harness.cli", *words]
        return process.run(argv, check=check, input=input, env=env, cwd=cwd, timeout=timeout)

    return run

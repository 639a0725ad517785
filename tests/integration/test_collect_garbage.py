"""Garbage collection of the application registry: its script, with a real registry behind a kubectl that runs commands here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import process

SCRIPT = Path(__file__).parents[2] / "kubefiles/registry/scripts/collect-garbage.sh"
KUBECTL = """#!/bin/sh
echo "$*" >> "$STUB/calls"
[ "$1" = exec ] || exit 0
docker-registry garbage-collect "$STUB/config.yml" || { status=$?; echo "command terminated with exit code $status" >&2; exit $status; }
"""
CONFIG = "version: 0.1\nstorage: {filesystem: {rootdirectory: ROOT}}\nhttp: {addr: ':0'}\n"


def collect(folder: Path, config: str = CONFIG) -> process.ProcessResult:
    (folder / "kubectl").write_text(KUBECTL)
    (folder / "kubectl").chmod(0o755)
    (folder / "config.yml").write_text(config.replace("ROOT", str(folder / "data")))
    return process.run(["sh", SCRIPT], env={"PATH": f"{folder}:{os.environ['PATH']}", "STUB": str(folder)}, check=False)


@pytest.mark.parametrize("folders", [(), ("repositories",), ("repositories", "blobs")])
def test_collection_of_empty_storage_succeeds_and_lets_pushes_in_again(tmp_path: Path, folders: tuple[str, ...]) -> None:
    (tmp_path / "data").mkdir()
    for name in folders:
        (tmp_path / "data/docker/registry/v2" / name).mkdir(parents=True)
    result = collect(tmp_path)
    assert result.ok, result.output
    assert (result.stdout == "nothing is stored\n") == (len(folders) < 2)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-2].endswith("REGISTRY_STORAGE_MAINTENANCE_READONLY- --namespace registry")


def test_collection_that_fails_is_reported_with_its_exit_code(tmp_path: Path) -> None:
    result = collect(tmp_path, CONFIG.replace("filesystem", "unknown"))
    assert result.returncode == 1
    assert "unknown" in result.stdout

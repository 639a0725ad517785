"""A new repository passes the linters that this project's own files pass."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness import process
from tests.conftest import Slipway

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(slipway: Slipway, tmp_path: Path) -> Path:
    target = tmp_path / "shop"
    slipway("new", "shop", "--to", target, "--source", f"git+https://git.example/team/slipway@{COMMIT}")
    return target


@pytest.mark.parametrize(
    "words",
    [
        ("ruff", "check", "--isolated", "--select", "E,F,I,W", "."),
        ("ruff", "format", "--isolated", "--line-length", "140", "--check", "."),
        ("codespell", "--skip", "*.lock", "."),
        ("check-jsonschema", "--builtin-schema", "vendor.github-workflows", ".github/workflows/images.yml"),
        ("zizmor", "--offline", "--no-progress", "."),
        ("shellcheck", "--severity=warning", "nox"),
    ],
    ids=lambda words: words[0],
)
def test_new_repository_passes_linter(folder: Path, words: tuple[str, ...]) -> None:
    program = Path(sys.executable).parent / words[0]
    process.run([program, *words[1:]], cwd=folder)


def test_new_repository_kubefile_is_read_without_faults(slipway: Slipway, folder: Path) -> None:
    checked = slipway("build", "--check", folder / "kubefiles/shop")
    assert "slipway.dev/shop:1" in checked.stdout
    assert "warning" not in checked.stderr

"""The distribution's name is the one of pyproject.toml, and never the name of another project."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from harness import about

PROJECT = Path(__file__).parents[2]


def test_distribution_name_is_that_of_pyproject() -> None:
    assert tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["name"] == about.DISTRIBUTION


def test_distribution_name_does_not_belong_to_another_project() -> None:
    assert about.DISTRIBUTION != "slipway"


def test_version_installed_is_that_of_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", {about.DISTRIBUTION: "1.2.3"}.__getitem__)
    assert about.version() == "1.2.3"


def test_version_not_installed_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert about.version() == "unknown"

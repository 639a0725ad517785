"""Sessions that a noxfile gets by one call."""

from __future__ import annotations

import json
import os
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, cast

import nox
import pytest
from nox import registry

from harness import sessions
from harness.sessions.repository import Repository
from tests.unit.sessions.sessions import GREEN, JUNIT, Session

NAMES = ["build-image", "test-image", "publish", "sbom", "site", "catalog"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), ["--to", "build/catalog", "--readmes", "kubefiles"]),
        (("web", "--to=x"), ["web", "--to=x", "--readmes", "kubefiles"]),
        (("--site", "x", "--readmes", "y"), ["--to", "x", "--readmes", "y"]),
    ],
)
def test_site_words_default_to_build_catalog_and_kubefiles(words: tuple[str, ...], expected: list[str]) -> None:
    assert sessions.site_words(Repository.at(Path("/srv/images")), words) == expected


def test_site_words_name_reports_of_repository_that_has_some(root: Path) -> None:
    assert sessions.site_words(Repository.at(root), ["web"])[-2:] == ["--reports", "reports"]
    assert sessions.site_words(Repository.at(root), ["--reports=x"])[0] == "--reports=x"
    assert "--reports" not in sessions.site_words(Repository.at(root), ["--reports=x"])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one image, built from one that comes with slipway."""
    folder = tmp_path / "kubefiles/shop"
    folder.mkdir(parents=True)
    (folder / "Kubefile").write_text("FROM kubernetes\n")
    (folder / "README.md").write_text("# shop\n\nA shop.\n")
    (folder / "test_shop.py").touch()
    (tmp_path / "reports").mkdir()
    return tmp_path


class Runner(Session):
    """Stands in for nox's session: every command succeeds, and the store has no image."""

    def __init__(self, root: Path, *words: str, report: str = GREEN) -> None:
        super().__init__(root / "reports", 0 if report == GREEN else 1, report)
        self.posargs = words
        self.notified: list[tuple[str, list[str]]] = []

    def run(self, *words: str, **_: Any) -> str:  # type: ignore[override]
        if words[0] == "slipway":
            self.commands.append(words)
        else:
            super().run(*words)
        return ""

    def notify(self, name: str, words: list[str]) -> None:
        self.notified.append((name, words))


def test_define_makes_sessions_that_use_environment_of_nox(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", OrderedDict())
    monkeypatch.setattr(nox.options, "default_venv_backend", "virtualenv")
    monkeypatch.setenv("PATH", "/usr/bin")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    sessions.define(root)
    assert list(registry.get()) == NAMES
    assert [name for name, function in registry.get().items() if function.default] == ["build-image", "test-image"]
    assert nox.options.default_venv_backend == "none"
    assert os.environ["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"
    assert "PYTHONDONTWRITEBYTECODE" not in os.environ
    session = Runner(root, "shop")
    cast("Any", registry.get()["sbom"]).func(session)
    assert session.commands[-1] == ("slipway", "sbom", "shop:latest", "--to", "reports/shop.cdx.json")


def test_define_with_installer_leaves_environments_to_noxfile(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_REGISTRY", OrderedDict())
    monkeypatch.setattr(nox.options, "default_venv_backend", "virtualenv")
    monkeypatch.setenv("PATH", "/usr/bin")
    installed: list[object] = []
    sessions.define(root, installed.append)
    assert (nox.options.default_venv_backend, os.environ["PATH"]) == ("virtualenv", "/usr/bin")
    session = Runner(root)
    cast("Any", registry.get()["site"]).func(session)
    assert installed == [session]


def test_build_image_without_names_builds_bases_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Runner(root, "-e", "Port=80")
    sessions.build_image(cast("nox.Session", session), Repository.at(root))
    built = [words for words in session.commands if words[1] == "build"]
    assert [words[4] for words in built] == ["kubernetes:latest", "shop:latest"]
    assert [words[-2:] for words in built] == [("--output", "json"), ("--env", "Port=80")]
    assert "next: ./nox -s test-image -- shop" in capsys.readouterr().out


def test_test_image_failed_tests_end_session_with_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository.at(root)
    sessions.test_image(cast("nox.Session", Runner(root)), repository)
    assert f"next: {Path(sys.executable).parent}/slipway nodes up --workers 1 " in capsys.readouterr().out
    with pytest.raises(AssertionError, match="tests failed: shop"):
        sessions.test_image(cast("nox.Session", Runner(root, report=JUNIT)), repository)


def test_show_catalog_lists_base_of_slipway_and_images(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository = Repository.at(root)
    sessions.show_catalog(cast("nox.Session", Runner(root)), repository)
    assert capsys.readouterr().out.splitlines()[-1] == "shop        from kubernetes: A shop."
    sessions.show_catalog(cast("nox.Session", Runner(root, "--json")), repository)
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["kubernetes", "shop"]
    session = Runner(root, "--site", "x")
    sessions.show_catalog(cast("nox.Session", session), repository)
    assert session.notified == [("site", ["--to", "x", "--readmes", "kubefiles", "--reports", "reports"])]

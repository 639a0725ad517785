"""Reports of a repository, and pytest in it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, cast

import nox
import nox.command
import pytest

from harness import catalog
from harness.sessions.reports import PytestError
from harness.sessions.repository import MEASURED, Repository
from tests.unit.sessions.sessions import GREEN, JUNIT, Session, write_report


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """With an image of its own, built from one that comes with slipway."""
    folder = tmp_path / "kubefiles/shop"
    folder.mkdir(parents=True)
    (folder / "Kubefile").write_text("FROM kubernetes\n")
    (folder / "test_shop.py").touch()
    (tmp_path / "reports").mkdir()
    return Repository.at(tmp_path)


def test_pytest_failed_tests_return_false(repository: Repository) -> None:
    assert repository.pytest(cast("nox.Session", Session(repository.reports, 0, GREEN)), "unit", "tests/unit")
    assert not repository.pytest(cast("nox.Session", Session(repository.reports, 1, JUNIT)), "unit", "tests/unit")


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (-9, "killed by SIGKILL"),
        (1, "it crashed"),
        (2, "could not be collected"),
        (3, "internal error"),
        (4, "usage"),
        (5, "no tests"),
        (134, "it crashed"),
    ],
)
def test_pytest_aborted_run_raises_error_with_reason(code: int, reason: str, repository: Repository) -> None:
    write_report(repository.reports, "unit")  # of an earlier run
    with pytest.raises(PytestError, match=reason):
        repository.pytest(cast("nox.Session", Session(repository.reports, code)), "unit", "tests/unit")


def test_pytest_measured_session_of_slipway_itself_runs_under_coverage(repository: Repository) -> None:
    session = Session(repository.reports, 0, GREEN)
    session.env[MEASURED] = "coverage"
    assert dataclasses.replace(repository, installer=lambda _: None).pytest(cast("nox.Session", session), "unit", "tests/unit")
    assert session.commands[0][:6] == ("python", "-m", "coverage", "run", "-m", "pytest")
    # An environment without coverage.
    assert repository.pytest(cast("nox.Session", session), "unit", "tests/unit")
    assert session.commands[1][:3] == ("python", "-m", "pytest")


class Builder(Session):
    """Stands in for nox's session while images are built; `slipway inspect` prints ``image``."""

    def __init__(self, repository: Repository, image: dict[str, Any] | None = None) -> None:
        super().__init__(repository.reports, 0, GREEN)
        self.image = image

    def run(self, *words: str, **options: Any) -> Any:
        super().run(*words)
        if words[:2] == ("slipway", "build"):
            options["stdout"].write(json.dumps({"digest": "sha256:1", "booted": True}))
        return json.dumps(self.image) if words[1] == "inspect" and self.image else ""


def picked(repository: Repository, *names: str) -> tuple[catalog.CatalogEntry, ...]:
    return repository.pick(cast("nox.Session", Builder(repository)), catalog.order, names)


def test_pick_base_of_slipway_is_ordered_before_image_of_repository(repository: Repository) -> None:
    base, shop = picked(repository)
    assert (base.name, base.bundled, shop.name, shop.bundled) == ("kubernetes", True, "shop", False)
    assert (base.folder / "Kubefile").is_file()


def test_pick_unknown_name_ends_session(repository: Repository) -> None:
    with pytest.raises(AssertionError, match="no kubefile is called shpo"):
        picked(repository, "shpo")


def test_build_folder_of_repository_is_named_by_its_relative_path(repository: Repository) -> None:
    base, shop = picked(repository)
    session = Builder(repository)
    repository.build(cast("nox.Session", session), [base, shop], "--env", "A=1")
    options = ("--output", "json", "--env", "A=1")
    assert session.commands == [
        ("slipway", "build", str(base.folder), "--tag", "kubernetes:latest", *options),
        ("slipway", "build", "kubefiles/shop", "--tag", "shop:latest", *options),
    ]
    assert json.loads(repository.facts_of(shop).read_text())["booted"]


def test_about_tested_image_shows_origin_content_and_outcome(repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", "/srv/store")
    _, shop = picked(repository)
    image = {
        "digest": "sha256:1",
        "size": 2_000_000,
        "platforms": [{"images": [{"foundBy": ["pulled"]}, {"foundBy": ["pulled", "declared"]}]}],
    }
    session = cast("nox.Session", Builder(repository, image))
    repository.build(session, [shop])
    write_report(repository.reports, "shop", GREEN)
    assert repository.about(session, [shop], tested=True) == [
        "",
        "shop:latest  built, 2 MB, 2 container images (2 pulled, 1 declared)",
        "  sha256:1 in /srv/store",
        "  tests: 2 passed, 0 failed, 1 skipped in 1.0 s; report: reports/shop.html",
    ]
    assert repository.about(cast("nox.Session", Builder(repository)), [shop]) == ["", "shop:latest  is not in the store"]

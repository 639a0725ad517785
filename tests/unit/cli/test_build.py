"""The command line of a build, and the options that it makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import build
from harness.build.options import BuildOptions
from harness.cli import app


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[BuildOptions]:
    """The options of each build, which is not done here."""
    options: list[BuildOptions] = []

    def building(given: BuildOptions, _: object) -> None:
        options.append(given)
        raise KeyboardInterrupt

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setattr(build, "build", building)
    return options


def test_build_allow_login_gives_every_pattern_in_order(asked: list[BuildOptions], tmp_path: Path) -> None:
    app.execute(["build", str(tmp_path), "--allow-login", "r.test/team/*", "--allow-login", "s.test/whole"])
    app.execute(["build", str(tmp_path)])
    assert [options.allow_login for options in asked] == [("r.test/team/*", "s.test/whole"), ()]


def test_build_on_none_and_discover_declared_reach_options(asked: list[BuildOptions], tmp_path: Path) -> None:
    app.execute(["build", str(tmp_path), "--on", "none"])
    app.execute(["build", str(tmp_path), "--discover", "declared"])
    app.execute(["build", str(tmp_path)])
    assert [(options.on, options.discover) for options in asked] == [
        ("none", ("declared", "pulled")),
        ("auto", ("declared",)),
        ("auto", ("declared", "pulled")),
    ]


def test_build_lock_reaches_options_and_is_refused_without_file_or_build(
    asked: list[BuildOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app.execute(["build", str(tmp_path), "--lock"])
    app.execute(["build", str(tmp_path)])
    assert [options.lock for options in asked] == [True, False]
    capsys.readouterr()
    for words, reason in ((["--check"], "--check builds nothing"), (["-f", "-"], "a Kubefile from standard input has no folder")):
        assert app.execute(["build", str(tmp_path), "--lock", *words]) == 2
        assert f"slipway: --lock: {reason}" in capsys.readouterr().err

"""The command lines of applications."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from harness.cli.app import execute
from harness.oci.store import Store
from tests.unit.lifecycle.apps.test_records import build
from tests.unit.lifecycle.test_run import build as build_cluster


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLIPWAY_POLICY", str(Path(__file__).parents[2] / "policy.yaml"))
    store = Store.default()
    build(store)
    build_cluster(store, "web")
    return store


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "shop", "--workers", "10.0.0.2"], "it makes no nodes"),
        (["run", "shop", "--control-plane", "10.0.0.1", "--kubeconfig", __file__], "name two clusters"),
        (
            ["run", "shop", "--kubeconfig", __file__, "--registry", "r.corp/x", "--no-images"],
            "--no-images and --registry exclude each other",
        ),
        (["run", "shop", "--kubeconfig", __file__, "--registry", "r.corp", "--ca", "/nosuch"], "no such file"),
        (["run", "shop", "--apps", "web", "--cmds", "true"], "both given"),
        (["run", "shop", "--as", "No!"], "is not a valid application name"),
        (["run", "shop"], "nothing is known of a cluster default"),
        (["run", "shop", "--name", "prod"], "nothing is known of a cluster prod"),
        (["run", "web", "--as", "it", "--control-plane", "10.0.0.1"], "--as is for application images"),
        (["apps", "--name", "prod"], "nothing is known of a cluster prod"),
        (["apps", "remove", "shop", "--masters", "10.0.0.1", "--kubeconfig", __file__], "name two clusters"),
        (["apps", "remove", "shop", "--kubeconfig", "/nosuch"], "no such file"),
    ],
)
def test_run_and_apps_contradictory_options_are_refused_and_change_nothing(
    words: list[str], said: str, contents: Callable[[], dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    assert execute(words) == 2
    assert said in capsys.readouterr().err
    assert contents() == before


@pytest.mark.parametrize(("words", "option"), [(["run", "shop"], "--control-plane"), (["apps"], "--via")])
def test_run_and_apps_unknown_cluster_hint_names_option_of_verb(words: list[str], option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(words) == 2
    error = "slipway: nothing is known of a cluster default\n  hint: name one of its control-plane nodes with "
    assert capsys.readouterr().err == f"{error}{option}\n"


def test_apps_help_lists_remove_and_run_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["apps", "--help"]) == 0
    said = capsys.readouterr().out
    assert "slipway run shop --cluster prod" in said
    assert "remove" in said

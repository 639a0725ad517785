"""Several Clusterfiles on one command line. The commands for each are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.cli.app import execute
from harness.errors import CommandError
from tests.unit.lifecycle.test_sites import CLUSTERFILE

APPLIED = {"name": "a", "changes": [], "steps": [], "removed": {}, "done": True, "seconds": 1.0, "made": None}
CHANGE = {"text": "+ worker 10.0.0.2"}
STATUS = {"kubernetes": "v1.36.3", "image": "web", "digest": "sha256:1", "nodes": [{"roles": ["control-plane"]}]}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("North", "south"):
        Path(f"{name}.yaml").write_text(CLUSTERFILE.format(name=name.lower(), address="10.0.0.1"))


Started = list[tuple[str, ...]]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[tuple[str, ...]], Any]], Started]:
    """Stand-ins for the commands of the sites: what ``answer`` returns for their words is printed, an exception is their failure."""

    def answering(answer: Callable[[tuple[str, ...]], Any]) -> Started:
        started: Started = []

        def stream(argv: Sequence[str], take: process.Take, **options: Any) -> int:
            words = tuple(argv[3:])
            started.append((*words, *(options["env"] or {})))
            value = answer(words)
            if isinstance(value, CommandError):
                take("stderr", json.dumps({"error": {"message": value.message, "exitCode": value.exit_code}}))
                return value.exit_code
            take("stdout", json.dumps(value))
            return 0

        monkeypatch.setattr(process, "stream", stream)
        return started

    return answering


def test_apply_two_clusterfiles_prints_table_and_ends_with_code_of_failure(
    commands: Callable[..., Started], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_SSH_PASSWORD", "hunter2")
    failure = CommandError("10.0.0.1: no space left")
    started = commands(lambda words: failure if "North.yaml" in words else {**APPLIED, "changes": [CHANGE]})
    assert execute(["apply", "-f", "North.yaml", "south.yaml", "--yes", "--user", "admin"]) == failure.exit_code
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in printed] == [
        ["CLUSTERFILE", "CLUSTER", "OUTCOME"], ["North.yaml", "north", "failed"], ["south.yaml", "south", "1"],
    ]  # fmt: skip
    assert "10.0.0.1: no space left" in printed[1]
    assert {words[:3] for words in started} == {("apply", "--file", "North.yaml"), ("apply", "--file", "south.yaml")}
    # The password is in the environment, never among the arguments.
    assert all({"--yes", "admin", "SLIPWAY_SSH_PASSWORD"} <= set(words) and "hunter2" not in words for words in started)


def test_apply_two_clusterfiles_with_options_of_one_cluster_are_refused_at_once(
    commands: Callable[..., Started], capsys: pytest.CaptureFixture[str]
) -> None:
    started = commands(lambda _: APPLIED)
    words = ["apply", "-f", "North.yaml", "south.yaml", "web", "-e", "A=1", "--workers", "10.0.0.9", "--cluster", "x"]
    assert execute(words) == 2
    said = capsys.readouterr().err
    for option in ("web", "--env", "--workers", "--cluster"):
        assert f"{option}: is for one cluster, and there are 2 Clusterfiles" in said
    assert started == []


def test_apply_faulty_clusterfile_among_several_starts_nothing(
    commands: Callable[..., Started], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("bad.yaml").write_text("kind: [")
    started = commands(lambda _: APPLIED)
    assert execute(["apply", "-f", "North.yaml", "bad.yaml"]) == 2
    assert "bad.yaml" in capsys.readouterr().err
    assert started == []


def answers(north: Any, south: Any, workers: int) -> Callable[[tuple[str, ...]], Any]:
    def answer(words: tuple[str, ...]) -> Any:
        if words[0] == "apply":
            return north if "North.yaml" in words else south
        if words[0] == "apps":
            return []
        extra = workers if "south" in words else 0
        return {**STATUS, "nodes": [*STATUS["nodes"], *({"roles": ["worker"]},) * extra]}

    return answer


def test_drift_shows_changes_of_each_and_differences_between_clusters(
    commands: Callable[..., Started], capsys: pytest.CaptureFixture[str]
) -> None:
    commands(answers({**APPLIED, "changes": [CHANGE], "done": False}, APPLIED, 1))
    assert execute(["drift", "North.yaml", "south.yaml"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "north: differs from North.yaml",
        "  + worker 10.0.0.2",
        "south: is what south.yaml says",
        "",
        "DIFFERENT  north  south",
        "workers    0      1",
    ]
    assert execute(["drift", "North.yaml", "south.yaml", "--exit-code"]) == 1


def test_drift_equal_clusters_end_with_zero(commands: Callable[..., Started], capsys: pytest.CaptureFixture[str]) -> None:
    commands(answers(APPLIED, APPLIED, 0))
    assert execute(["drift", "North.yaml", "south.yaml", "--exit-code", "-o", "json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["between"], printed["failed"], len(printed["clusters"])) == ({}, [], 2)


def test_drift_cluster_that_does_not_exist_is_not_asked_for_its_status(
    commands: Callable[..., Started], capsys: pytest.CaptureFixture[str]
) -> None:
    started = commands(answers({**APPLIED, "steps": [{"id": "connect"}], "done": False}, APPLIED, 0))
    assert execute(["drift", "North.yaml", "south.yaml"]) == 0
    assert "north: does not exist yet" in capsys.readouterr().out
    assert [words[1] for words in started if words[0] == "status"] == ["south"]


def test_drift_unreachable_cluster_is_named_and_others_are_shown(
    commands: Callable[..., Started], capsys: pytest.CaptureFixture[str]
) -> None:
    failure = CommandError("10.0.0.1: unreachable")
    commands(answers(failure, APPLIED, 0))
    assert execute(["drift", "North.yaml", "south.yaml"]) == failure.exit_code
    said = capsys.readouterr()
    assert "south: is what south.yaml says" in said.out
    assert "10.0.0.1: unreachable" in said.err

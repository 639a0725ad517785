"""Debug containers on the command line. No cluster is asked."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.cli import app, completion
from harness.lifecycle import debug


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """What the verbs ask for. Commands end with 130, as a shell does that was left after Ctrl-C."""
    seen: list[Any] = []

    @contextlib.contextmanager
    def start(*words: Any, **options: Any) -> Iterator[str]:
        seen.append((*words, options))
        yield "container"

    def attach(container: Any, command: str | None, *, terminal: bool) -> int:
        seen.append((command, terminal))
        return 130

    def capture(container: Any, command: str) -> debug.DebugOutput:
        return debug.DebugOutput("node-1", "kube-system", "slipway-debug-1", "debug", "tools:1", command, 3, "out", "")

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.setattr(app, "_state", app._State())
    for name, stand_in in (("on_node", start), ("beside_pod", start), ("attach", attach), ("capture", capture)):
        monkeypatch.setattr(debug, name, stand_in)
    return seen


def test_debug_node_command_ending_with_130_exits_130_without_interrupted_message(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(["debug", "node", "node-1", "-c", "shop", "--image", "tools:1", "--", "ls", "a b"]) == 130
    assert asked == [("node-1", "shop", (), {"image": "tools:1"}), ("ls 'a b'", False)]
    assert "interrupted" not in capsys.readouterr().err


def test_debug_pod_without_command_attaches_shell(asked: list[Any]) -> None:
    app.execute(["debug", "pod", "web-0", "-n", "shop", "--container", "nginx"])
    assert asked == [("web-0", "shop", "nginx", "default", (), {"image": None}), (None, False)]


def test_debug_node_output_json_has_stdout_and_exit_code(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["debug", "node", "node-1", "-o", "json", "--", "exit 3"]) == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["command"], found["exitCode"], found["stdout"]) == ("exit 3", 3, "out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["debug", "node"], "NODE"),
        (["debug", "pod", "--", "ls"], "POD"),
        (["debug", "node", "node-1", "ls"], "unexpected extra argument"),
        (["debug", "node", "node-1", "--", " "], "no command is given"),
        (["debug", "node", "node-1", "-o", "yaml"], "not a format"),
    ],
)
def test_debug_invalid_command_line_starts_no_container(
    asked: list[Any], capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert app.execute(words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert asked == []


def test_debug_pod_output_json_without_command_is_refused(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["debug", "pod", "web-0", "-o", "json"]) == 2
    assert "needs a command" in json.loads(capsys.readouterr().err)["error"]["message"]
    assert asked == []


def test_completion_offers_nodes_of_known_clusters(asked: list[Any], tmp_path: Path) -> None:
    folder = tmp_path / "clusters/shop"
    folder.mkdir(parents=True)
    facts = {"controlPlane": [{"address": "10.0.0.1", "name": "control-plane-1"}], "workers": [{"address": "10.0.0.2"}]}
    (folder / "cluster.json").write_text(json.dumps(facts))
    assert completion.nodes("") == ["control-plane-1", "10.0.0.2"]
    assert completion.nodes("c") == ["control-plane-1"]

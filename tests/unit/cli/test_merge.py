"""``slipway merge``: the command line of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import app
from harness.cloudimage import Info
from harness.oci.store import Store
from tests.unit.cloudimage.examples import file, put


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    store = Store.default()
    put(store, "base", [file("a", "1")], info=Info(kubernetes="v1.36.3", env={"Port": "80"}))
    put(store, "shop:1", [file("a", "2")], info=Info(type="app", env={"Port": "90"}))
    return store


def test_merge_prints_new_image_and_sources(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["merge", "base", "shop:1", "-t", "stack:1", "-e", "Port=8080"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"stack:1  {store.resolve('stack:1').digest}", "  base:latest, shop:1; linux/amd64"]
    assert "shop:1 replaces a of base:latest" in err
    assert app.execute(["inspect", "stack:1"]) == 0
    assert "merged      base:latest" in capsys.readouterr().out
    assert app.execute(["merge", "base", "shop:1", "--tag", "stack:2", "--replace", "--output", "json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert (made["name"], made["sources"], made["platforms"]) == ("stack:2", ["base:latest", "shop:1"], ["linux/amd64"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("base", "shop:1"), "--tag"),
        (("base", "shop:1", "-t", "stack"), "shop:1: ENV Port differs from that of base:latest"),
        (("base", "-t", "stack"), "a merge needs two images or more"),
        (("base", "shop:1", "-t", "stack", "-e", "a b=c"), "not a name for a variable"),
    ],
)
def test_merge_invalid_command_line_is_refused(words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["merge", *words]) == 2
    assert says in capsys.readouterr().err

"""`slipway new`: what it prints, and the words that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import app

SOURCE = "git+https://git.example/team/slipway@v1"


def test_new_prints_files_and_next_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert app.execute(["new", "shop", "--source", SOURCE]) == 0
    printed = capsys.readouterr()
    assert "next: cd shop && ./nox -s build-image test-image -- shop" in printed.out
    assert printed.err == ""
    assert (tmp_path / "shop/noxfile.py").is_file()


def test_new_json_lists_files_and_origin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["new", "shop", "--to", str(tmp_path / "a"), "--source", str(Path(__file__).parents[3]), "-o", "json"]
    assert app.execute(words) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert (answer["folder"], answer["workflows"]) == (str(tmp_path / "a"), "")
    assert {"nox", "noxfile.py", "requirements.txt"} <= set(answer["files"])
    assert "names a folder of this machine" in printed.err
    assert "images.yml is not written" in printed.err


def test_new_update_without_change_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["new", "shop", "--to", str(tmp_path), "--source", SOURCE]) == 0
    assert app.execute(["new", "--update", str(tmp_path), "--source", SOURCE]) == 0
    printed = capsys.readouterr()
    assert printed.out.endswith("(nothing has changed)\n")
    assert "images.yml is not written" not in printed.err


@pytest.mark.parametrize(
    "words", [[], ["shop", "--update", "."], ["--update", ".", "--to", "x"], ["Shop"], ["shop", "--source", "slipway"]]
)
def test_new_wrong_words_are_refused(words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = [] if "--source" in words else ["--source", SOURCE]
    assert app.execute(["new", *words, *source]) == 2
    assert list(tmp_path.iterdir()) == []

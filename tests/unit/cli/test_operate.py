"""The verbs for clusters that run: how their command lines are read."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["exec", "mine", "--", "-x", "--help"], "nothing is known of a cluster mine"),
        (["exec", "--", "true"], "nothing is known of a cluster default"),
        (["exec", "mine"], "no command is given"),
        (["exec", "mine", "--"], "no command is given"),
        (["exec", "mine", "--jobs", "0", "--", "true"], "greater than or equal to 1"),
        (["exec", "mine", "true", "--", "true"], "unexpected extra argument"),
        (["certs"], "nothing is known of a cluster default"),
        (["certs", "mine"], "nothing is known of a cluster mine"),
        (["certs", "list", "renew"], "nothing is known of a cluster renew"),
        (["certs", "-o", "json"], "nothing is known of a cluster default"),
        (["certs", "renew", "mine"], "nothing is known of a cluster mine"),
        (["certs", "renew", "mine", "--days", "0"], "--days"),
        (["certs", "add-names", "a b", "--cluster", "mine"], "neither a DNS name nor an address"),
        (["certs", "add-names"], "NAME"),
        (["certs", "rotate-secrets", "mine"], "nothing is known of a cluster mine"),
        (["check", "mine"], "nothing is known of a cluster mine"),
        (["check", "--post"], "nothing is known of a cluster default"),
        (["check", "--post", "cis"], "nothing is known of a cluster default"),
        (["check", "--post", "cis", "mine"], "nothing is known of a cluster mine"),
        (["check", "mine", "--post", "cis"], "nothing is known of a cluster mine"),
        (["check", "cis"], "nothing is known of a cluster cis"),
        (["check", "--post", "cis", "cis"], "nothing is known of a cluster cis"),
        (["check", "--post", "cis", "mine", "yours"], "one cluster at a time"),
        (["check", "--post", "cis", "--skip", "1.1.99"], "no such check"),
        (["kubeconfig", "mine", "--merge"], "nothing is known of a cluster mine"),
        (["logs", "mine", "--since", "soon"], "no length of time"),
        (["backup", "mine"], "--to"),
        (["backup", "mine", "--to", "b.tar", "--password-env", "NOT_SET_HERE"], "NOT_SET_HERE: it is not set"),
        (["restore", "--from", "absent.tar"], "absent.tar: no such file"),
        (["restore", "--yes"], "--from"),
    ],
)
def test_what_is_wrong_is_reported_before_anything_is_done(
    home: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert app.execute(words) == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not (home / "clusters").exists()


def test_the_items_of_the_benchmark_are_listed_with_their_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["check", "--list", "--post", "cis"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["cis", "1.2.16"] for line in lines)
    assert app.execute(["check", "--list"]) == 0
    assert "1.2.16" not in capsys.readouterr().out


def test_the_group_still_has_a_help_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["certs", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("list", "renew", "add-names"))

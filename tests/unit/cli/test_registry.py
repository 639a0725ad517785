"""The command lines of registries."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import registry
from harness.cli.app import execute
from harness.errors import StoreError
from harness.transfer import access


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions to the user and to a registry that is away, in order."""
    asked: list[str] = []

    def away(host: str, *_: object) -> None:
        asked.append(host)
        raise StoreError(f"{host} does not answer")

    def answer(what: str, *_: object, **__: object) -> str:
        asked.append(what)
        return "x"

    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.delenv("SLIPWAY_REGISTRY_PASSWORD", raising=False)
    monkeypatch.setattr(access, "require_answer", away)
    monkeypatch.setattr(access, "sign_in", away)
    monkeypatch.setattr(registry, "_ask", answer)
    return asked


@pytest.mark.parametrize("words", [["login", "reg.test"], ["login", "reg.test", "-u", "me"]])
def test_login_unreachable_registry_fails_before_asking_user(words: list[str], asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert execute(words) == StoreError.exit_code
    assert asked == ["reg.test"]


def test_login_with_password_in_environment_asks_registry_once(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_REGISTRY_PASSWORD", "secret")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    assert execute(["login", "reg.test", "-u", "me"]) == StoreError.exit_code
    assert asked == ["reg.test"]

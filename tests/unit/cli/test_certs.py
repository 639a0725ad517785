"""The certificates of a cluster: command lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from harness.cli import app


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["certs"], "nothing is known of a cluster default"),
        (["certs", "mine"], "nothing is known of a cluster mine"),
        (["certs", "list", "renew"], "nothing is known of a cluster renew"),
        (["certs", "-o", "json"], "nothing is known of a cluster default"),
        (["certs", "renew", "mine"], "nothing is known of a cluster mine"),
        (["certs", "renew", "mine", "--days", "0"], "--days"),
        (["certs", "add-names", "a b", "--cluster", "mine"], "neither a DNS name nor an address"),
        (["certs", "add-names"], "NAME"),
        (["certs", "rotate-secrets", "mine"], "nothing is known of a cluster mine"),
    ],
)
def test_certs_invalid_command_line_is_refused_before_any_change(
    refused: Callable[[Sequence[str], str], None], words: list[str], message: str
) -> None:
    refused(words, message)


def test_certs_help_lists_its_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["certs", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(verb in shown for verb in ("list", "renew", "add-names"))

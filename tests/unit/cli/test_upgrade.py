"""The command lines of going to another image, and back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.cli import upgrade
from harness.cli.app import execute
from harness.errors import UsageError

pytestmark = pytest.mark.usefixtures("prod")


def test_name_and_image_cluster_may_precede_image_and_two_clusters_are_refused() -> None:
    assert upgrade._name_and_image(["web:2"], None) == ("default", "web:2")
    assert upgrade._name_and_image(["prod", "web:2"], None) == ("prod", "web:2")
    assert upgrade._name_and_image(["web:2"], "prod") == ("prod", "web:2")
    assert upgrade._name_and_image(["prod", "web:2"], "prod") == ("prod", "web:2")
    with pytest.raises(UsageError, match="prod shop: a cluster and an image are enough"):
        upgrade._name_and_image(["prod", "web:2"], "shop")
    with pytest.raises(UsageError, match="prod web: a cluster and an image are enough"):
        upgrade._name_and_image(["prod", "web", "2"], None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rollback", "lab"], "nothing is known of a cluster lab"),
        (["rollback", "--batch", "0"], "greater than or equal to 1"),
        (["upgrade", "web:2", "--batch", "0"], "greater than or equal to 1"),
        (["upgrade", "web:2", "-e", "novalue"], "not NAME=VALUE"),
        (["upgrade", "web:2", "-f", "nosuch"], "nosuch"),
        (["upgrade", "web:2", "--via", "10.0.0.300"], "10.0.0.300"),
        (["upgrade", "web:2", "--output", "xml"], "--output xml"),
        (["upgrade"], "Missing argument 'IMAGE'.\n  hint: The image; the name of the cluster may precede it."),
    ],
)
def test_upgrade_and_rollback_invalid_command_line_is_refused_and_changes_nothing(
    words: list[str], said: str, contents: Callable[[], dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents()
    assert execute(words) == 2
    assert said in capsys.readouterr().err
    assert contents() == before


def test_upgrade_missing_image_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["upgrade", "prod", "nosuch:2", "--yes"]) != 0
    assert "nosuch" in capsys.readouterr().err

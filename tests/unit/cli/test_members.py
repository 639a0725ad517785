"""The command lines of joining and leaving."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import members
from harness.cli.app import execute
from harness.host.cluster_cache import ClusterState

pytestmark = pytest.mark.usefixtures("prod")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["prod", "10.0.0.4"], ("prod", ["10.0.0.4"])),
        (["prod", "10.0.0.4,10.0.0.5", "worker-3"], ("prod", ["10.0.0.4", "10.0.0.5", "worker-3"])),
        (["10.0.0.4"], ("default", ["10.0.0.4"])),
        (["worker-3", "worker-4"], ("default", ["worker-3", "worker-4"])),
        (["prod"], ("default", ["prod"])),
    ],
)
def test_name_and_nodes_known_cluster_may_precede_nodes(words: list[str], expected: tuple[str, list[str]]) -> None:
    assert members._name_and_nodes(words, None) == expected


def test_name_and_nodes_cluster_option_leaves_all_words_to_nodes() -> None:
    assert members._name_and_nodes(["lab", "10.0.0.4"], "prod") == ("prod", ["lab", "10.0.0.4"])


def test_name_and_nodes_with_via_accepts_unknown_cluster() -> None:
    assert members._name_and_nodes(["lab", "10.0.0.4"], None, named=True) == ("lab", ["10.0.0.4"])
    assert members._name_and_nodes(["10.0.0.4", "worker-3"], None, named=True) == ("default", ["10.0.0.4", "worker-3"])


def test_join_and_remove_unknown_cluster_hint_names_known_clusters_and_via(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("shop", "prod"):
        ClusterState.of(name, home).remember({"controlPlane": [{"address": "10.0.0.1"}]})
    for words, name in ((["join", "lab", "--workers", "10.0.0.4"], "lab"), (["remove", "10.0.0.4", "--yes"], "default")):
        assert execute(words) == 2
        assert capsys.readouterr().err.endswith(
            f"slipway: nothing is known of a cluster {name}\n"
            "  hint: known here: prod, shop; name one of its control-plane nodes with --via\n"
        )


def test_join_invalid_or_missing_addresses_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(["join", "prod", "--workers", "10.0.0.300,10.0.0.4,x/y"]) == 2
    said = capsys.readouterr().err
    assert "10.0.0.300" in said
    assert "--workers x/y" in said
    assert execute(["join", "prod"]) == 2
    assert "no machine is given" in capsys.readouterr().err

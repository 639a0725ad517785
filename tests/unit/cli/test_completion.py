"""Words that the shell offers."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import app, completion
from harness.clusterfile import PROFILES
from harness.oci.model import OCI_INDEX, Descriptor, canonical_json
from harness.oci.store import Store


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    return tmp_path


def test_images_of_the_store_are_offered() -> None:
    store = Store.default()
    for name in ("web:1", "web:2", "shop:1"):
        store.tag(name, Descriptor(OCI_INDEX, *store.put(canonical_json({"name": name}))))
    assert completion.images("we") == ["web:1", "web:2"]
    assert completion.applications("shop") == ["shop"]
    assert completion.clusters_and_images("sh") == ["shop:1"]


def test_known_clusters_are_offered(home: Path) -> None:
    for name in ("prod", "test"):
        (home / "clusters" / name).mkdir(parents=True)
        (home / "clusters" / name / "cluster.json").write_text("{}")
    assert completion.clusters("") == ["prod", "test"]
    assert completion.clusters("p") == ["prod"]


def test_checks_are_offered_behind_a_comma() -> None:
    assert "swap" in completion.checks("sw")
    assert "swap,memory" in completion.checks("swap,mem")


def test_values_are_offered() -> None:
    assert completion.values("text", "json")("j") == ["json"]


def test_a_store_that_cannot_be_read_offers_nothing(home: Path) -> None:
    (home / "store").write_text("not a folder")
    assert completion.images("") == []


def test_profiles_are_offered_and_named_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.profiles("") == list(PROFILES)
    assert app.execute(["run", "--help"]) == 0
    assert f"Harden the cluster: {', '.join(PROFILES)}." in " ".join(capsys.readouterr().out.split())

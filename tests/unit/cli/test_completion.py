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


def test_completion_offers_images_and_applications_of_store() -> None:
    store = Store.default()
    for name in ("web:1", "web:2", "shop:1"):
        store.tag(name, Descriptor(OCI_INDEX, *store.put(canonical_json({"name": name}))))
    assert completion.images("we") == ["web:1", "web:2"]
    assert completion.applications("shop") == ["shop"]
    assert completion.clusters_and_images("sh") == ["shop:1"]


def test_completion_offers_known_clusters(home: Path) -> None:
    for name in ("prod", "test"):
        (home / "clusters" / name).mkdir(parents=True)
        (home / "clusters" / name / "cluster.json").write_text("{}")
    assert completion.clusters("") == ["prod", "test"]
    assert completion.clusters("p") == ["prod"]


def test_completion_offers_checks_after_comma() -> None:
    assert "swap" in completion.checks("sw")
    assert "swap,memory" in completion.checks("swap,mem")


def test_completion_offers_values_by_prefix() -> None:
    assert completion.values("text", "json")("j") == ["json"]


def test_completion_unreadable_store_offers_no_images(home: Path) -> None:
    (home / "store").write_text("not a folder")
    assert completion.images("") == []


def test_completion_offers_profiles_and_run_help_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert completion.profiles("") == list(PROFILES)
    assert app.execute(["run", "--help"]) == 0
    assert f"Harden the cluster: {', '.join(PROFILES)}." in " ".join(capsys.readouterr().out.split())

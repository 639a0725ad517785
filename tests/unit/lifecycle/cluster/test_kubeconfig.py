"""Kubeconfigs of several clusters in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import InputError, UsageError
from harness.lifecycle.cluster.kubeconfig import default_path, merge, named, text, write
from harness.untrusted import KubeIdentity

ADMIN = KubeIdentity(b"CA", b"CERT", b"KEY")


def config(name: str, server: str = "10.0.0.1") -> dict[str, Any]:
    return named(ADMIN, name, server)


def test_named_uses_cluster_name_for_all_entries() -> None:
    found = config("lab", "fd00::1")
    assert found["clusters"][0]["cluster"]["server"] == "https://[fd00::1]:6443"
    assert found["clusters"][0]["cluster"]["certificate-authority-data"] == "Q0E="
    assert found["contexts"] == [{"name": "lab", "context": {"cluster": "lab", "user": "lab-admin"}}]
    assert (found["current-context"], found["users"][0]["name"]) == ("lab", "lab-admin")


def test_merge_two_clusters_keeps_both_and_replaces_same_name(tmp_path: Path) -> None:
    file = tmp_path / "deep/config"
    merge(config("one"), file)
    merge(config("two"), file)
    merge(config("one", "10.0.0.9"), file)
    found = yaml.safe_load(file.read_text())
    assert {entry["name"]: entry["cluster"]["server"] for entry in found["clusters"]} == {
        "two": "https://10.0.0.1:6443",
        "one": "https://10.0.0.9:6443",
    }
    assert len(found["users"]) == len(found["contexts"]) == 2
    assert found["current-context"] == "one"
    assert file.stat().st_mode & 0o077 == 0


def test_merge_keeps_foreign_entries_and_preferences(tmp_path: Path) -> None:
    file = tmp_path / "config"
    theirs = {"name": "prod", "cluster": {"server": "https://x"}}
    file.write_text(yaml.safe_dump({"clusters": [theirs], "users": None, "preferences": {"colors": True}}))
    merge(config("lab"), file)
    found = yaml.safe_load(file.read_text())
    assert found["clusters"][0] == theirs
    assert found["preferences"] == {"colors": True}


@pytest.mark.parametrize("content", ["clusters: [", "- a list", "clusters: text", "\x00"])
def test_merge_invalid_kubeconfig_is_refused_and_left_unchanged(tmp_path: Path, content: str) -> None:
    file = tmp_path / "config"
    file.write_text(content)
    with pytest.raises(InputError):
        merge(config("lab"), file)
    assert file.read_text() == content


def test_merge_foreign_cluster_of_same_name_is_refused_and_left_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(text({"clusters": [{"name": "default", "cluster": {"server": "https://x"}}]}))
    before = file.read_text()
    with pytest.raises(UsageError, match="slipway did not put there"):
        merge(config("default"), file)
    assert file.read_text() == before


def test_write_to_symlink_updates_its_target(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(config("lab"), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert "lab-admin" in (tmp_path / "real").read_text()


def test_default_path_takes_first_entry_of_kubeconfig_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", "/a/b:/c/d")
    assert default_path() == Path("/a/b")
    monkeypatch.delenv("KUBECONFIG")
    assert default_path() == Path.home() / ".kube/config"


def test_write_and_merge_path_of_unknown_user_raises_usage_error() -> None:
    for put in (write, merge):
        with pytest.raises(UsageError, match="no user nosuchuser"):
            put(config("lab"), Path("~nosuchuser/config"))

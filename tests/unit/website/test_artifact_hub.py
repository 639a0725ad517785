"""Metadata for Artifact Hub."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from harness.cloudimage import Info
from harness.oci.store import Store
from harness.website import artifact_hub
from tests.unit.cloudimage.examples import file, put
from tests.unit.website.examples import rendered


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("1", "1.0.0"),
        ("v1.36", "1.36.0"),
        ("1.2.3", "1.2.3"),
        ("01.2.3-rc.01", "1.2.3-rc.1"),
        ("1.2-beta", "1.2.0-beta"),
        ("latest", ""),
        ("1.2.3.4", ""),
        ("1_2", ""),
        ("", ""),
    ],
)
def test_semantic_tag_is_converted_or_empty(tag: str, version: str) -> None:
    assert artifact_hub.semantic(tag) == version


def test_package_name_is_plain_and_unique() -> None:
    names = ["web", "web-1", "reg.example/web", "reg-example/web", "a" * 200 + ".b"]
    found = [artifact_hub.package_name(name) for name in names]
    assert found[:2] == ["web", "web-1"]
    assert len(set(found)) == len(names)
    assert all(len(name) < 100 and set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in found)


def test_package_file_has_fields_required_by_artifact_hub(store: Store, tmp_path: Path) -> None:
    prefix = "org.opencontainers.image."
    labels = {f"{prefix}licenses": "Apache-2.0", f"{prefix}url": "https://example.com", f"{prefix}created": "2026-01-31T10:00:00+01:00"}
    info = Info(kubernetes="v1.36.3", labels=labels)
    image = put(store, "web:v1.2", [file("a")], info=info, embedded={"x.io/i:1": b"i"})
    store.tag("web:1.2.0", store.resolve("web:v1.2"))
    store.tag("web:latest", store.resolve("web:v1.2"))
    made = rendered(store, tmp_path)
    (path,) = made.glob("artifacthub/*/*/*")
    assert path == made / "artifacthub/web/1.2.0/artifacthub-pkg.yml"
    value = yaml.safe_load(path.read_text())
    assert {"version", "name", "displayName", "createdAt", "description"} <= set(value)
    assert (value["version"], value["name"], value["digest"], value["license"]) == ("1.2.0", "web", image.digest, "Apache-2.0")
    assert (value["createdAt"], value["homeURL"], value["appVersion"]) == ("2026-01-31T09:00:00Z", "https://example.com", "v1.36.3")
    assert value["containersImages"] == [{"image": "x.io/i:1"}]
    assert isinstance(yaml.safe_load((made / "artifacthub/artifacthub-repo.yml").read_text()), dict)


def test_package_file_hostile_labels_are_escaped_or_dropped(store: Store, tmp_path: Path) -> None:
    prefix = "org.opencontainers.image."
    evil = '"\n\x1b: - !!python/object:os.system {'
    labels = {f"{prefix}licenses": evil, f"{prefix}url": "javascript:x", f"{prefix}created": evil, f"{prefix}description": evil}
    put(store, "web:1", [file("a")], info=Info(labels=labels, runtime=evil))
    (path,) = rendered(store, tmp_path).glob("artifacthub/*/*/*")
    value = yaml.safe_load(path.read_text())
    assert value["createdAt"] == "1970-01-01T00:00:00Z"
    assert not {"license", "homeURL"} & set(value)
    assert "\x1b" not in value["description"] + value["annotations"]["dev.slipway.runtime"]

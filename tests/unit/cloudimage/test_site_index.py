"""The index of a catalogue site: written, read, and read when others wrote it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from harness.cloudimage import search, site_index
from harness.cloudimage.site_index import IndexedImage, IndexedVersion, SiteIndex
from harness.errors import StoreError, UsageError
from harness.oci.model import digest_of
from harness.oci.registry.config import Registries

VERSION = IndexedVersion(
    "reg.test/shop/web:2", digest_of(b"web"), ("linux/amd64",), "v1.36.3", "kube", 5, 3, "verified", "images/web-2-abc.html"
)
INDEX = SiteIndex(
    "Ours", (IndexedImage("reg.test/shop/web", (VERSION, dataclasses.replace(VERSION, name="reg.test/shop/web:1")), "A\nsite"),)
)


def test_index_is_read_as_it_was_written() -> None:
    assert SiteIndex.parse(INDEX.data(), "x") == INDEX
    assert SiteIndex.parse(INDEX.data(), "x").data() == INDEX.data()


def changed(**fields: Any) -> bytes:
    value = json.loads(INDEX.data())
    value["images"][0]["versions"][0] |= fields
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"kind": "dev.slipway.catalog"}',
        b'{"kind": "dev.slipway.catalog", "schemaVersion": 1, "images": 5}',
        b'{"kind": "dev.slipway.catalog", "schemaVersion": 1, "images": [5]}',
        b'{"kind": "dev.slipway.catalog", "schemaVersion": 2, "images": []}',
        b'{"kind": "dev.slipway.catalog", "schemaVersion": "1", "images": []}',
        b'{"kind": "dev.slipway.catalog", "schemaVersion": 1, "images": [{"name": "web", "versions": []}]}',
        changed(name="a b"),
        changed(name=f"web@{VERSION.digest}"),
        changed(digest="sha256:1"),
        changed(size=-1),
        changed(size="5"),
        changed(page="../../etc/passwd"),
        changed(page="/etc/passwd"),
        changed(platforms="linux/amd64"),
        changed(kubernetes=5),
    ],
)
def test_site_index_of_invalid_data_raises_store_error(data: bytes) -> None:
    with pytest.raises(StoreError):
        SiteIndex.parse(data, "there")


def test_load_site_index_reads_file_or_folder(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_bytes(INDEX.data())
    assert site_index.load(str(tmp_path), Registries()) == site_index.load(str(tmp_path / "index.json"), Registries()) == INDEX
    for place in (tmp_path / "none", tmp_path / "none/index.json"):
        with pytest.raises(UsageError, match="no such file"):
            site_index.load(str(place), Registries())


def test_search_matches_names_and_descriptions() -> None:
    for term, count in (("WEB", 1), ("site", 1), ("", 1), ("redis", 0)):
        assert len(list(search.indexed(INDEX, "here", term))) == count
    (hit,) = search.indexed(INDEX, "here", "web")
    assert (hit.name, hit.where, hit.description, hit.tags, hit.digest) == ("reg.test/shop/web:2", "here", "A site", 2, VERSION.digest)

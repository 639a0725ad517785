"""Images of sealer are recognised."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import StoreError
from harness.oci.model import OCI_INDEX, canonical_json, digest_of
from harness.oci.store import Store
from harness.sealer import image as sealer_image
from harness.sealer import listing
from tests.integration import sealer
from tests.integration.registry import Image
from tests.unit.sealer.examples import NGINX, converted, simple, written


def test_is_sealer_plain_or_converted_image_is_false(store: Store) -> None:
    sealer.put(store, "plain", NGINX)
    written(store, converted(store, simple()), "ours")
    for name in ("plain", "ours"):
        assert not sealer_image.is_sealer(store, store.resolve(name))
        with pytest.raises(StoreError, match="is not an image of sealer"):
            sealer_image.read(store, name)
    assert [row.name for row in listing.rows(store)] == ["sealerio/app:v1"]


def test_is_sealer_malformed_manifest_is_false(store: Store) -> None:
    manifests: list[dict[str, Any]] = [{"config": 7}, {"config": {"digest": "x"}}, {"manifests": 7}, {"manifests": [{}]}]
    for number, manifest in enumerate(manifests):
        data = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, **manifest})
        sealer.put(store, f"odd:{number}", Image(digest_of(data), OCI_INDEX, {digest_of(data): (OCI_INDEX, data)}, {}))
        assert not sealer_image.is_sealer(store, store.resolve(f"odd:{number}"))

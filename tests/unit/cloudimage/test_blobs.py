"""Blobs of a CloudImage in the store."""

from __future__ import annotations

import pytest

from harness.cloudimage.blobs import check_blobs
from harness.errors import StoreError
from harness.oci.model import OCI_LAYER_GZIP, Descriptor, digest_of
from harness.oci.store import Store


def test_check_blobs_lists_missing_and_truncated_blobs(store: Store) -> None:
    whole = Descriptor(OCI_LAYER_GZIP, *store.put(b"whole"))
    missing = Descriptor(OCI_LAYER_GZIP, digest_of(b"missing"), 7)
    longer = Descriptor(OCI_LAYER_GZIP, *store.put(b"cut"))
    longer = Descriptor(longer.media_type, longer.digest, longer.size + 1)
    check_blobs(store, [whole])
    with pytest.raises(StoreError, match="and 1 more: missing or cut short") as caught:
        check_blobs(store, [whole, missing, longer])
    assert caught.value.details == f"{missing.digest}\n{longer.digest}"

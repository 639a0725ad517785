"""Images from elsewhere get a name only with an admission."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.admission import Admitted
from harness.oci.store import Store
from tests.unit.oci.layouts import attach, put_manifest


def test_take_in_names_admitted_images_and_their_attachments(tmp_path: Path) -> None:
    store = Store(tmp_path)
    image = put_manifest(store, b"layer")
    signature = attach(store, "web", image, ".sig", b"signature")
    attached = {signature: store.untag(signature)}
    store.take_in({"web:1": image}, [Admitted("web:1", image.digest)], attached)
    assert set(store.names()) == {"web:1", signature}


def test_take_in_without_an_admission_of_that_digest_names_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    admitted, other = put_manifest(store, b"one"), put_manifest(store, b"two")
    with pytest.raises(StoreError, match="b:1 cannot be taken in: policy was not asked about it"):
        store.take_in({"a:1": admitted, "b:1": other}, [Admitted("b:1", admitted.digest)], {})
    assert store.names() == {}

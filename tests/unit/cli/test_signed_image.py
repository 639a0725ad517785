"""The image that a verb of trust is about, and the password of a key."""

from __future__ import annotations

import pytest

from harness.cli import signed_image
from harness.errors import StoreError
from harness.oci.store import Store
from tests.unit.cloudimage.examples import AMD64, platform_image, write


def test_stored_image_is_found_by_name_and_by_digest_with_its_manifests(store: Store) -> None:
    image = write(store, platform_image(store, AMD64), name="web")
    entries = [entry["digest"] for entry in store.json(image.digest)["manifests"]]
    for name in ("web", image.digest):
        with signed_image.stored(store, name) as found:
            assert (found.reference.familiar, found.image.digest, found.client) == ("web:latest", image.digest, None)
            assert [entry.digest for entry in found.manifests()] == entries


def test_stored_image_without_name_is_refused(store: Store) -> None:
    image = write(store, platform_image(store, AMD64), name="web")
    store.untag("web")
    with pytest.raises(StoreError, match="has no name here"):
        signed_image.stored(store, image.digest)


def test_given_password_of_slipway_variable_overrides_cosign_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in signed_image.PASSWORDS:
        monkeypatch.delenv(name, raising=False)
    assert signed_image.given_password() is None
    monkeypatch.setenv("COSIGN_PASSWORD", "cosign's")
    assert signed_image.given_password() == "cosign's"
    monkeypatch.setenv("SLIPWAY_KEY_PASSWORD", "")
    assert signed_image.given_password() == ""

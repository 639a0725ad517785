"""Repositories that are known to have the blobs of an image."""

from __future__ import annotations

from harness.oci.garbage import collect
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.transfer import locations
from tests.unit.oci.standin import HOST
from tests.unit.transfer.images import TARGET, blobs_of, make


def test_known_names_other_repositories_of_the_same_registry(store: Store) -> None:
    image = make(store)
    locations.remember(store, TARGET, image.digest)
    beside = Reference.parse(f"{HOST}/team/other:1")
    known = locations.known(store, beside)
    assert blobs_of(store, image) <= set(known)
    assert set(known.values()) == {("team/web",)}
    assert locations.known(store, TARGET) == {}
    assert locations.known(store, Reference.parse("elsewhere.test/team/other:1")) == {}


def test_remember_keeps_the_newest_places_once(store: Store) -> None:
    image = make(store)
    for number in (*range(100), 99, 98):
        locations.remember(store, Reference.parse(f"{HOST}/team/app-{number}:1"), image.digest)
    known = locations.known(store, TARGET)
    assert set(known.values()) == {("team/app-98",)}
    (record,) = (store.root / "cache/place").iterdir()
    assert record.read_text().count("team/app-99") == 1
    assert 'team/app-10"' not in record.read_text()


def test_remember_does_not_keep_the_blobs(store: Store) -> None:
    image = make(store)
    locations.remember(store, TARGET, image.digest)
    store.untag("web:1")
    collect(store)
    assert not store.has(image.digest)

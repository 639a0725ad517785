"""What the annotations of sealer's images say, and all that may be wrong in them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import StoreError
from harness.oci.store import Store
from harness.sealer import convert, listing
from harness.sealer import image as sealer_image
from harness.sealer.annotations import CONTAINER_IMAGES, EXTENSION
from tests.integration import sealer
from tests.unit.sealer.examples import converted, names, problems, simple


@pytest.mark.parametrize(
    ("says", "message"),
    [
        ("{not json", "is not usable JSON"),
        ('"text"', "is not a JSON object"),
        ("[]", "is not a JSON object"),
        (sealer.extension(type="app-image"), "has the type 'app-image'"),
        (sealer.extension(type=None), "has the type None"),
        (sealer.extension(env={"A": 1}), "something in env that is not text"),
        (sealer.extension(launch=["x"]), "launch that is not an object"),
        (sealer.extension(applications=[{"type": "kube"}]), "an application without a name"),
        (sealer.extension(applications={"a": 1}), "applications that are not a list"),
        (False, "does not exist"),
    ],
)
def test_convert_invalid_extension_is_refused_and_look_still_lists_images(store: Store, says: Any, message: str) -> None:
    sealer.put(store, "app", simple(says=says))
    with pytest.raises(StoreError, match=message) as caught:
        convert.convert(store, "app")
    assert "loses annotations" in (caught.value.hint or "")
    (inside,) = listing.look(store, sealer_image.read(store, "app"))
    assert len(inside.restored.images.images) == 3
    assert [problem.kind for problem in inside.problems] == ["annotation"]


@pytest.mark.parametrize("images", ["[not json", '{"image": "x"}', '[{"name": "x"}]', '["nginx"]', "7", '[{"image": 7}]'])
def test_convert_invalid_image_list_names_no_images(store: Store, images: str) -> None:
    found = converted(store, simple(images=images))
    assert names(found) == []
    assert problems(found) == [
        ("annotation", CONTAINER_IMAGES),
        ("unnamed", "acme/app:v2"),
        ("unnamed", "library/nginx:1.25"),
        ("unnamed", "pause:3.5"),
    ]


def test_convert_unknown_extension_schema_is_reported(store: Store) -> None:
    assert problems(converted(store, simple(says=sealer.extension(schemaVersion="v2")))) == [("annotation", EXTENSION)]


def test_convert_image_without_embedded_images_is_noted(store: Store) -> None:
    found = converted(store, sealer.image([sealer.ROOTFS], images=False))
    assert (names(found), problems(found)) == ([], [])
    assert "embeds no container images" in found.notes[0]

"""Names of CloudImages, and what goes with the last one."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harness import cloudimage
from harness.cli import app as cli_app
from harness.cloudimage import prune, tags
from harness.errors import StoreError
from harness.oci.store import Store
from tests.unit.cloudimage.examples import (
    AMD64,
    ARM64,
    attach,
    file,
    put,
    write,
)


def test_rmi_of_last_name_removes_attachments_of_image(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    tags.tag(store, "web", "alias")
    other = put(store, "other", [file("b")])
    names = [attach(store, image), attach(store, image, "", "elsewhere/web"), attach(store, image, ".att")]
    foreign = attach(store, other)
    on_signature = attach(store, dataclasses.replace(image, digest=store.resolve(names[0]).digest))
    assert cli_app.execute(["rmi", "web"]) == 0
    assert set(names) <= set(store.names())
    capsys.readouterr()
    assert cli_app.execute(["rmi", "alias", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["names"][0] == "alias:latest"
    assert set(said["names"][1:]) == {*names, on_signature}
    assert set(store.names()) == {"other:latest", foreign}
    assert said["bytes"] > 0


def test_remove_keeps_attachment_of_manifest_shared_with_other_image(store: Store) -> None:
    """A signature of the manifest for one platform, which two indexes list."""
    one = put(store, "one", [file("a")], platforms=(AMD64,))
    put(store, "both", [file("a")], platforms=(AMD64, ARM64))
    shared = json.loads(store.read(one.digest))["manifests"][0]["digest"]
    name = attach(store, dataclasses.replace(one, digest=shared))
    tags.remove(store, ["one"])
    assert name in store.names()
    assert tags.remove(store, ["both"])[0] == ("both:latest", name)


def test_remove_of_signature_name_keeps_image(store: Store) -> None:
    image = put(store, "web", [file("a")])
    name = attach(store, image)
    assert tags.remove(store, [name])[0] == (name,)
    assert list(store.names()) == ["web:latest"]


def test_rmi_with_one_unknown_name_removes_nothing(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    name = attach(store, image)
    assert cli_app.execute(["rmi", "web", "wbe"]) == 4
    assert "wbe" in capsys.readouterr().err
    assert list(store.names()) == ["web:latest", name]
    assert cli_app.execute(["rmi", image.digest[7:20]]) == 0
    assert store.names() == {}


def test_rmi_with_store_in_use_leaves_attachments_to_prune(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A pull names the signatures before the image: taken away in between they would be lost."""
    image = put(store, "web", [file("a")])
    name = attach(store, image)
    with store.shared_lease():
        assert cli_app.execute(["rmi", "web"]) == 0
    assert "the store is in use" in capsys.readouterr().out
    assert list(store.names()) == [name]
    assert store.has(image.digest)
    assert prune.prune(store).names == (name,)
    assert not store.has(image.digest)


def test_tag_adds_name_and_unknown_image_raises_store_error(store: Store) -> None:
    image = write(store)
    assert tags.tag(store, "web", "ghcr.io/x/web:2").digest == image.digest
    assert set(store.names()) == {"web:latest", "ghcr.io/x/web:2"}
    with pytest.raises(StoreError, match="no such image"):
        tags.tag(store, "wab", "x")


def test_remove_of_last_name_frees_blobs_of_image(store: Store) -> None:
    write(store)
    tags.tag(store, "web", "alias")
    removed, freed = tags.remove(store, ["web"])
    assert (removed, freed) == (("web:latest",), (0, 0, False))
    size = cloudimage.read(store, "alias").size
    removed, freed = tags.remove(store, ["alias"])
    assert freed.bytes == size
    assert not list((store.root / "blobs/sha256").iterdir())


def test_remove_takes_all_names_or_none(store: Store) -> None:
    image = write(store)
    with pytest.raises(StoreError, match="no such image"):
        tags.remove(store, ["web", "nothing"])
    tags.tag(store, "web", "alias")
    with pytest.raises(StoreError, match="several names: alias:latest, web:latest"):
        tags.remove(store, [image.digest])
    assert set(store.names()) == {"web:latest", "alias:latest"}
    tags.remove(store, ["alias", "alias:latest"])
    assert tags.remove(store, [image.digest[7:19]])[0] == ("web:latest",)
    with pytest.raises(StoreError):
        tags.remove(store, [image.digest])

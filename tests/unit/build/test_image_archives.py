"""Images as files of the build context."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from harness import kubefile
from harness.build import dry_run, image_set
from harness.build.image_archives import ArchivedImages, find_archives
from harness.cloudimage import ImageSet
from harness.errors import BuildError, InputError
from harness.oci import garbage
from harness.oci.archive import docker_archive
from harness.oci.archive.save import save
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.registry.sources import Source
from harness.oci.store import Store
from harness.trust import signature
from harness.trust.keys import PrivateKey
from harness.trust.signature import RefusedError
from tests.unit.build.rootfs_files import write
from tests.unit.oci.archive.test_docker_archive import LAYERS, NAME, archive, docker

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


def context_of(tmp_path: Path) -> Path:
    context = write(
        tmp_path / "context",
        {"Kubefile": "FROM scratch\nCOPY web.tar images\nCOPY plain.tar images\n", "images/api/Dockerfile": "", "images/api/x.tar": "x"},
    )
    docker(context / "web.tar", *LAYERS)
    docker(context / "images/db.tar", *LAYERS, names=("db:1",))
    docker(context / "other.tar", *LAYERS, names=("other:1",))
    archive(context / "plain.tar", [("notes.txt", b"no images")])
    return context


def test_find_archives_lists_archives_of_images_folder_and_copy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context = context_of(tmp_path)
    parsed = kubefile.parse((context / "Kubefile").read_text(), str(context / "Kubefile"), context=context)
    archives = find_archives(context, dry_run.rootfs_files(parsed, context))
    assert [image.name for archive in archives for image in archive.images] == ["docker.io/library/db:1", NAME]
    assert [Path(archive.shown).name for archive in archives] == ["db.tar", "web.tar"]
    warned = capsys.readouterr().err
    assert "plain.tar" in warned
    assert "it is copied as a file" in warned
    assert "x.tar" not in warned
    images = {image["name"]: image["foundBy"] for image in dry_run.plan(parsed, context)["images"]}
    assert images == {"docker.io/library/db:1": ["listed"], NAME: ["listed"]}


def test_archived_images_serve_manifest_and_blobs_of_archive(tmp_path: Path) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    with store.shared_lease():
        source = ArchivedImages(store, find_archives(context, ()), AMD64)
        assert source.manifest(Reference.parse("none:1"), ()) is None
        manifest = source.manifest(Reference.parse("db:1"), ())
        assert manifest is not None
        layer = store.json(manifest.digest)["layers"][0]["digest"]
        stream = source.blob(Reference.parse("db:1"), layer, None)
        assert stream is not None
        assert stream.read(1 << 20) == LAYERS[0]
        stream.close()
        assert source.admit(Reference.parse(f"db@{manifest.digest}"))
        assert not source.admit(Reference.parse(f"other@{manifest.digest}"))
    assert store.names() == {}


def test_archived_images_of_other_platform_are_left_to_registry(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    with store.shared_lease():
        assert ArchivedImages(store, find_archives(context, ()), ARM64).manifest(Reference.parse("db:1"), ()) is None
    assert "is not for linux/arm64, so its registry is asked" in capsys.readouterr().err


def test_find_archives_damaged_archives_raises_input_error_naming_each(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    (context / "images/db.tar").write_bytes((context / "images/db.tar").read_bytes()[:700])
    (context / "plain.tar").write_text("no tar")
    parsed = kubefile.parse((context / "Kubefile").read_text(), str(context / "Kubefile"), context=context)
    with pytest.raises(InputError) as refused:
        find_archives(context, dry_run.rootfs_files(parsed, context))
    assert [fault.where.removeprefix(f"{context}/") for fault in refused.value.faults] == ["images/db.tar", "plain.tar"]
    assert all("is not a readable OCI archive" in fault.message for fault in refused.value.faults)
    with pytest.raises(InputError, match=r"images/db\.tar: is not a readable OCI archive"):
        dry_run.plan(parsed, context)


def test_collect_damaged_archive_is_refused_and_its_registry_not_asked(tmp_path: Path) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    path = context / "images/db.tar"
    path.write_bytes(path.read_bytes().replace(b"first layer", b"worst layer"))
    with pytest.raises(BuildError, match=r"docker\.io/library/db:1 .*images/db\.tar: .* is damaged: a layer"):
        embedded(store, context)


def test_archived_images_damaged_archive_raises_build_error_with_path(tmp_path: Path) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    archives = find_archives(context, ())
    path = context / "images/db.tar"
    path.write_bytes(path.read_bytes().replace(b"first layer", b"worst layer"))
    source = ArchivedImages(store, archives, AMD64)
    for _ in range(2):
        with store.shared_lease(), pytest.raises(BuildError, match=r"images/db\.tar: .* is damaged: a layer"):
            source.manifest(Reference.parse("db:1"), ())


# Policy


class Elsewhere:
    """A source that must not be asked."""

    def manifest(self, reference: Reference, _accept: Sequence[str]) -> Manifest | None:
        raise AssertionError(f"{reference} was asked for")

    def blob(self, reference: Reference, digest: str, _size: int | None) -> None:
        raise AssertionError(f"{reference}: {digest} was asked for")

    def admit(self, pinned: Reference) -> bool:
        raise AssertionError(f"{pinned} was asked about")


def embedded(store: Store, context: Path) -> ImageSet:
    """The images of all archives of a context, as a build embeds them."""
    archives = find_archives(context, ())
    listed = [image for archive in archives for image in archive.images]
    sources: list[Source] = [ArchivedImages(store, archives, AMD64), Elsewhere()]
    with store.shared_lease():
        return image_set.collect((), listed=listed, store=store, sources=sources, platform=AMD64)


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the policy of this test may be written."""
    monkeypatch.setenv("SLIPWAY_POLICY", str(tmp_path / "policy.yaml"))
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    return tmp_path / "policy.yaml"


@pytest.mark.parametrize("text", ["default: deny\n", "default: none\nrules: [{repository: docker.io/library/db, require: deny}]\n"])
def test_collect_denied_image_of_archive_is_refused_and_nothing_is_kept(text: str, tmp_path: Path, rules: Path) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    rules.write_text(text)
    with pytest.raises(BuildError, match=r"docker\.io/library/db:1 .*images/db\.tar: db:1 is refused by policy"):
        embedded(store, context)
    assert store.names() == {}
    garbage.collect(store)
    assert list(store.blobs.iterdir()) == []


def test_collect_allowed_image_of_archive_is_embedded(tmp_path: Path, rules: Path) -> None:
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    rules.write_text("default: deny\nrules: [{repository: docker.io/library/db, require: none}]\n")
    assert [image.name for image in embedded(store, context).images] == ["docker.io/library/db:1"]


def test_admit_refused_image_by_digest_is_left_to_other_sources(tmp_path: Path, rules: Path) -> None:
    """Another repository of the archive, with the same image, does not vouch for it."""
    context, store = context_of(tmp_path), Store(tmp_path / "store")
    docker(context / "images/db.tar", *LAYERS, names=("db:1", "good:1"))
    rules.write_text("default: none\nrules: [{repository: docker.io/library/db, require: deny}]\n")
    with store.shared_lease():
        source = ArchivedImages(store, find_archives(context, ()), AMD64)
        manifest = source.manifest(Reference.parse("db:1"), ())
        assert manifest is not None
        assert not source.admit(Reference.parse(f"db@{manifest.digest}"))
        assert source.admit(Reference.parse(f"good@{manifest.digest}"))
        assert source.admit(Reference.parse(f"good:1@{manifest.digest}"))
        with pytest.raises(RefusedError, match=r"images/db\.tar: db:1 is refused by policy"):
            source.admit(Reference.parse(f"db:1@{manifest.digest}"))
        layer = store.json(manifest.digest)["layers"][0]["digest"]
        assert source.blob(Reference.parse("db:1"), layer, None) is None


def test_collect_signed_image_is_embedded_with_signature_in_archive_only(tmp_path: Path, rules: Path) -> None:
    context, store, origin = tmp_path / "context", Store(tmp_path / "store"), Store(tmp_path / "origin")
    (context / "images").mkdir(parents=True)
    docker(tmp_path / "db.tar", *LAYERS, names=("db:1",))
    listed = docker_archive.listing(tmp_path / "db.tar")
    assert listed is not None
    with origin.shared_lease():
        ((_, root),) = docker_archive.take_images(origin, tmp_path / "db.tar", listed).items()
        origin.tag("db:1", root)
    key = PrivateKey("release", ec.generate_private_key(ec.SECP256R1()))
    rules.with_name("release.pub").write_bytes(key.public.pem)
    rules.write_text("default: {require: signed, keys: [release.pub]}\n")
    save(origin, ["db:1"], context / "images/db.tar")
    with pytest.raises(BuildError, match=r"images/db\.tar: refused by policy: db:1: sha256:.* is not signed"):
        embedded(store, context)
    signature.sign(LocalReferrers(origin, Reference.parse("db:1")), root.digest, key)
    (context / "images/db.tar").unlink()
    save(origin, ["db:1"], context / "images/db.tar")
    assert [image.name for image in embedded(store, context).images] == ["docker.io/library/db:1"]
    assert store.names() == {}

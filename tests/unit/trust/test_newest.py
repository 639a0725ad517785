"""A tag does not go back to an image that was signed earlier."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from harness.build import container_images
from harness.cli import app
from harness.errors import StoreError
from harness.oci.archive.save import save
from harness.oci.model import OCI_CONFIG, OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher
from harness.oci.registry.guarded import GuardedSource, Permits
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.referrers import SIGNATURES, LocalReferrers, tag_of
from harness.oci.store import Store
from harness.transfer.pull import pull
from harness.trust import policy, signature
from harness.trust.keys import PrivateKey
from harness.trust.newest import FILE, Newest, Offer
from harness.trust.signature import RefusedError

TAG = "registry.example.com/web:latest"
OLD, NEW = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"


@pytest.fixture
def newest(tmp_path: Path) -> Newest:
    return Newest(tmp_path / "home")


def test_advance_accepts_newer_image_and_refuses_older_one(newest: Newest) -> None:
    newest.advance(Offer(TAG, OLD, 1000))
    newest.advance(Offer(TAG, NEW, 1000))
    newest.advance(Offer(TAG, OLD, 2000))
    newest.advance(Offer(TAG, NEW, 3000))
    with pytest.raises(RefusedError, match=rf"{TAG} is refused: it goes back. {OLD} was signed at 1970-01-01 00:33:20 UTC;") as refused:
        newest.advance(Offer(TAG, OLD, 2000))
    assert f"{NEW}, was signed at 1970-01-01 00:50:00 UTC" in refused.value.message
    assert "--allow-older" in str(refused.value.hint)
    # Nothing is said of another tag, and of the same image.
    newest.advance(Offer("registry.example.com/web:1", OLD, 2000))
    newest.advance(Offer(TAG, NEW, 1000))
    newest.advance(Offer(TAG, NEW, None))
    with pytest.raises(RefusedError):
        newest.advance(Offer(TAG, OLD, 2999))


def test_advance_image_without_signing_time_after_timed_one_is_refused(newest: Newest) -> None:
    newest.advance(Offer(TAG, OLD, None))
    newest.advance(Offer(TAG, NEW, None))
    newest.advance(Offer(TAG, NEW, 1000))
    with pytest.raises(RefusedError, match="does not say when it was signed"):
        newest.advance(Offer(TAG, OLD, None))


@pytest.mark.parametrize("signed_at", [2000, None])
def test_advance_with_allow_older_warns_and_remembers_older_image(
    newest: Newest, signed_at: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    newest.advance(Offer(TAG, NEW, 3000))
    newest.advance(Offer(TAG, OLD, signed_at), allow_older=True)
    assert f"--allow-older: {TAG} GOES BACK: {OLD}" in capsys.readouterr().err
    newest.advance(Offer(TAG, OLD, signed_at))
    newest.advance(Offer(TAG, NEW, 3000), allow_older=True)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 5}', '{"a": {"digest": "x"}}', '{"a": {"digest": "x", "signedAt": "soon"}}'])
def test_advance_with_unreadable_record_is_refused_and_keeps_file(newest: Newest, text: str) -> None:
    newest.advance(Offer(TAG, NEW, 3000))
    (newest.folder / FILE).write_text(text)
    with pytest.raises(StoreError, match="which says what was admitted under which tag, cannot be read") as failed:
        newest.advance(Offer(TAG, NEW, 3000))
    assert "remove it" in str(failed.value.hint)
    assert (newest.folder / FILE).read_text() == text


# The ways in

NAME = Reference.parse("registry.example.com/shop/web:1")


class Registry:
    """A client of a registry that serves one image under every tag, signed or not, and its signature."""

    def __init__(self, store: Store, key: PrivateKey, label: str, at: int) -> None:
        self.config = canonical_json({"architecture": "amd64", "os": "linux", "config": {"Labels": {"x": label}}})
        config = {"mediaType": OCI_CONFIG, "digest": digest_of(self.config), "size": len(self.config)}
        value = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": []}
        data = canonical_json(value)
        self.image = Manifest(data, OCI_MANIFEST, digest_of(data), "registry.example.com")
        store.put(data)
        self.signed = signature.sign(LocalReferrers(store, NAME), self.image.digest, key, at=at)
        self.store = store

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def manifest(self, reference: Reference, _accept: object = ()) -> Manifest:
        if reference.tag == tag_of(self.image.digest, SIGNATURES):
            return Manifest(self.store.read(self.signed.digest), OCI_MANIFEST, self.signed.digest, "registry.example.com")
        if reference.digest not in (None, self.image.digest) or (reference.tag or "").startswith("sha256-"):
            raise RemoteError(f"{reference}: unknown", status=404)
        return self.image

    def blob(self, _reference: Reference, digest: str, size: int | None = None, **_: Any) -> Any:
        data = self.config if digest == digest_of(self.config) else self.store.read(digest)
        return Body(data)

    def referrers(self, _reference: Reference) -> tuple[Descriptor, ...]:
        return ()


class Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, size: int = -1) -> bytes:
        given, self.data = (self.data, b"") if size < 0 else (self.data[:size], self.data[size:])
        return given

    def close(self) -> None: ...


@pytest.fixture
def registries(store: Store, key: PrivateKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Registry, Registry]:
    """One that serves the image of today, and the same one when it goes back to that of yesterday; a policy wants signatures."""
    (tmp_path / "release.pub").write_bytes(key.public.pem)
    (tmp_path / "policy.yaml").write_text("default: {require: signed, keys: [release.pub]}\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(tmp_path / "policy.yaml"))
    publisher = Store(tmp_path / "publisher")
    return Registry(publisher, key, "today", 2000), Registry(publisher, key, "yesterday", 1000)


def through_a_fetcher(store: Store, client: Any, *, allow_older: bool = False, name: Reference = NAME) -> object:
    return Fetcher([GuardedSource(client, client, Permits(["*"]), policy.gate(allow_older=allow_older).admit_remote)], store).manifest(name)


def under_a_dockerfile(_store: Store, client: Any, *, allow_older: bool = False, name: Reference = NAME) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container_images, "Client", lambda *_: client)
        return container_images._admit_base(name, allow_older=allow_older)


def by_pull(store: Store, client: Any, *, allow_older: bool = False, name: Reference = NAME) -> object:
    gate = policy.gate(allow_older=allow_older)
    return pull(store, name, client, admit=gate.admit_remote)


WAYS: dict[str, Callable[..., object]] = {"capture": through_a_fetcher, "FROM": under_a_dockerfile, "pull": by_pull}


@pytest.mark.parametrize("way", WAYS)
def test_admit_remote_older_image_under_tag_is_refused_unless_allowed(
    way: str, store: Store, registries: tuple[Registry, Registry]
) -> None:
    today, yesterday = registries
    WAYS[way](store, today)
    with pytest.raises(RefusedError, match=rf"{NAME} is refused: it goes back. {yesterday.image.digest} was signed"):
        WAYS[way](store, yesterday)
    # What is wanted by its digest is wanted as it is.
    WAYS[way](store, yesterday, name=Reference(NAME.domain, NAME.path, NAME.tag, yesterday.image.digest))
    with pytest.raises(RefusedError):
        WAYS[way](store, yesterday)
    WAYS[way](store, yesterday, allow_older=True)
    WAYS[way](store, yesterday)


def test_fetcher_older_image_admitted_by_digest_is_refused_under_tag(store: Store, registries: tuple[Registry, Registry]) -> None:
    today, yesterday = registries
    through_a_fetcher(store, today)
    client: Any = yesterday
    fetcher = Fetcher([GuardedSource(client, client, Permits(["*"]), policy.gate().admit_remote)], store)
    fetcher.manifest(Reference(NAME.domain, NAME.path, None, yesterday.image.digest))
    with pytest.raises(RefusedError, match="it goes back"):
        fetcher.manifest(NAME)


def test_load_older_image_is_refused_unless_allowed(
    store: Store, registries: tuple[Registry, Registry], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    today, yesterday = registries
    by_pull(store, yesterday)
    save(store, [str(NAME)], tmp_path / "old.tar")
    by_pull(store, today)
    before = store.names()
    assert app.execute(["load", "-f", str(tmp_path / "old.tar")]) == 4
    assert f"{NAME} is refused: it goes back" in capsys.readouterr().err
    assert store.names() == before
    assert app.execute(["load", "-f", str(tmp_path / "old.tar"), "--allow-older"]) == 0
    assert "GOES BACK" in capsys.readouterr().err
    assert store.resolve(str(NAME)).digest == yesterday.image.digest


def test_admit_stored_older_image_is_accepted_after_tag_moved(store: Store, registries: tuple[Registry, Registry]) -> None:
    """A cluster that runs the image before: its nodes join, and it may roll back."""
    today, yesterday = registries
    by_pull(store, yesterday)
    by_pull(store, today)
    assert policy.admit(store, str(NAME), yesterday.image.digest).signatures
    assert policy.admit(store, yesterday.image.digest, yesterday.image.digest).digest == yesterday.image.digest


def test_pull_without_required_signature_writes_no_record(store: Store, registries: tuple[Registry, Registry], tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("default: none\n")
    for registry in registries:
        by_pull(store, registry)
    assert not (tmp_path / "home" / FILE).exists()


def test_pull_older_image_under_other_spelling_of_repository_is_refused(
    store: Store, registries: tuple[Registry, Registry], tmp_path: Path
) -> None:
    today, yesterday = registries
    (tmp_path / "policy.yaml").write_text("default: {require: signed, keys: [release.pub], identity: any}\n")
    by_pull(store, today)
    with pytest.raises(RefusedError, match="it goes back"):
        by_pull(store, yesterday, name=Reference.parse("Registry.example.com:443/shop/web:1"))
    assert list(json.loads((tmp_path / "home" / FILE).read_text())) == [str(NAME)]

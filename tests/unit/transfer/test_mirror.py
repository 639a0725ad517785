"""Images within a CloudImage, put into the registry of a site: under which names, and what containerd is told."""

from __future__ import annotations

import base64
import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import pytest

from harness.cloudimage import Blob, CloudImage, EmbeddedImage, ImageSet, Info, PlatformImage
from harness.errors import InputError
from harness.lifecycle.provision.registry import OfSite
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.config import Site
from harness.oci.registry.credentials import Credential
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.upload import Sent
from harness.oci.store import Store
from harness.transfer import mirror


@pytest.mark.parametrize(
    ("text", "image", "place"),
    [
        ("harbor.test/slipway", "nginx:1.25", "harbor.test/slipway/docker.io/library/nginx:1.25"),
        ("harbor.test", "quay.io/a/b/c:1", "harbor.test/quay.io/a/b/c:1"),
        ("10.0.0.1:5000/x/y/", "registry.local:5000/z:2", "10.0.0.1:5000/x/y/registry.local-5000/z:2"),
        ("localhost/p", "nginx@sha256:" + "a" * 64, "localhost/p/docker.io/library/nginx@sha256:" + "a" * 64),
    ],
)
def test_site_place_keeps_image_name_below_site_path(text: str, image: str, place: str) -> None:
    assert str(Site.parse(text).place(Reference.parse(image))) == place


@pytest.mark.parametrize("text", ["harbor", "https://harbor.test/x", "harbor.test/UPPER", "", "harbor.test/a//b"])
def test_site_parse_invalid_registry_raises_input_error(text: str) -> None:
    with pytest.raises(InputError):
        Site.parse(text)


def test_site_files_configure_containerd_hosts_ca_and_login() -> None:
    site = OfSite(Site.parse("harbor.test/slipway"), ca=b"PEM", credential=Credential("bob", 'pa"ss'))
    files = site.files(["docker.io", "registry.local:5000"])
    docker = tomllib.loads(files["/etc/containerd/certs.d/docker.io/hosts.toml"].data.decode())
    assert docker["server"] == "https://harbor.test/v2/slipway/docker.io"
    assert docker["host"]["https://harbor.test/v2/slipway/docker.io"]["override_path"] is True
    ported = tomllib.loads(files["/etc/containerd/certs.d/registry.local:5000/hosts.toml"].data.decode())
    assert ported["server"] == "https://harbor.test/v2/slipway/registry.local-5000"
    assert files[docker["ca"]].data == b"PEM"
    login = "Basic " + base64.b64encode(b'bob:pa"ss').decode()
    assert docker["header"] == docker["host"]["https://harbor.test/v2/slipway/docker.io"]["header"] == {"Authorization": login}
    assert {path: file.mode for path, file in files.items() if file.mode != 0o600} == {docker["ca"]: 0o644}


def test_site_files_without_login_or_ca_omit_both() -> None:
    site = OfSite(Site.parse("10.0.0.1:5000"), plain=True)
    text = site.files(["docker.io"])["/etc/containerd/certs.d/docker.io/hosts.toml"].data.decode()
    assert tomllib.loads(text)["server"] == "http://10.0.0.1:5000/v2/docker.io"
    assert "ca =" not in text
    assert "header" not in text


# ---- what is sent -----------------------------------------------------------------------------------------------------


class Registry:
    """Stands in for the client of a registry that takes no index whose manifests it lacks."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], str] = {}
        self.manifests: dict[str, bytes] = {}

    def close(self) -> None: ...

    def put_blob(
        self,
        reference: Reference,
        blob: Descriptor,
        source: Callable[[], BinaryIO],
        *,
        mounts: Sequence[str] = (),
        progress: Callable[[int], None],
    ) -> Sent:
        if (reference.path, blob.digest) in self.blobs:
            return Sent("present")
        for mount in mounts:
            if (mount, blob.digest) in self.blobs:
                self.blobs[reference.path, blob.digest] = "mounted"
                return Sent("mounted")
        self.blobs[reference.path, blob.digest] = "uploaded"
        with source() as file:
            progress(len(file.read()))
        return Sent("uploaded", blob.size)

    def put_manifest(self, reference: Reference, data: bytes, media_type: str) -> str:
        if media_type == OCI_INDEX:
            for entry in json.loads(data)["manifests"]:
                if f"{reference.path}@{entry['digest']}" not in self.manifests:
                    raise RemoteError("manifest unknown", status=404)
        digest = digest_of(data)
        self.manifests[f"{reference.path}@{digest}"] = data
        if reference.tag:
            self.manifests[f"{reference.path}:{reference.tag}"] = data
        return digest

    def head(self, reference: Reference) -> Descriptor | None:
        data = self.manifests.get(f"{reference.path}:{reference.tag}")
        return None if data is None else Descriptor(OCI_MANIFEST, "sha256:" + "0" * 64, len(data))


def put(store: Store, data: bytes, media_type: str) -> Blob:
    digest, size = store.put(data)
    return Blob(digest, media_type, size)


def container_image(store: Store, layer: bytes, *, index: bool = False) -> tuple[Blob, tuple[Blob, ...]]:
    """A container image; with ``index`` one of an index whose other platform is not here."""
    config, content = put(store, canonical_json({"of": layer.decode()}), OCI_CONFIG), put(store, layer, OCI_LAYER_GZIP)
    manifest = put(
        store,
        canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config.to_json(), "layers": [content.to_json()]}),
        OCI_MANIFEST,
    )
    if not index:
        return manifest, (manifest, config, content)
    other = Descriptor(OCI_MANIFEST, "sha256:" + "f" * 64, 7)
    top = put(
        store,
        canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [manifest.to_json(), other.to_json()]}),
        OCI_INDEX,
    )
    return top, (top, manifest, config, content)


def image_of(store: Store, **images: tuple[Blob, tuple[Blob, ...]]) -> CloudImage:
    embedded = tuple(
        EmbeddedImage(name.replace("_", "/") + ":1", top.digest, top.media_type, top.size) for name, (top, _) in images.items()
    )
    blobs = tuple(blob for _, parts in images.values() for blob in parts)
    part = PlatformImage(Platform.parse("linux/amd64"), (), (), (), Info(), ImageSet(embedded, blobs).sorted())
    return CloudImage("sha256:" + "1" * 64, (part,))


def test_expand_layer_shared_by_two_images_is_uploaded_once_and_mounted(tmp_path: Path) -> None:
    store, registry = Store(tmp_path), Registry()
    shared = container_image(store, b"shared")
    done = mirror.expand(store, image_of(store, a=shared, b=shared), Site("r.test", "p"), registry)  # type: ignore[arg-type]
    assert sorted(registry.blobs.values()) == ["mounted", "mounted", "uploaded", "uploaded"]
    assert done.images == ("r.test/p/docker.io/library/a:1", "r.test/p/docker.io/library/b:1")
    assert done.partly == ()
    assert registry.manifests["p/docker.io/library/a:1"] == store.read(shared[0].digest)


def test_expand_index_with_one_stored_platform_tags_its_manifest_and_reports_it(tmp_path: Path) -> None:
    store, registry = Store(tmp_path), Registry()
    top, parts = container_image(store, b"layer", index=True)
    done = mirror.expand(store, image_of(store, a=(top, parts)), Site("r.test"), registry)  # type: ignore[arg-type]
    assert done.partly == ("a:1",)
    assert registry.manifests["docker.io/library/a:1"] == store.read(parts[1].digest)


def test_missing_lists_images_absent_from_site(tmp_path: Path) -> None:
    store, registry = Store(tmp_path), Registry()
    both = image_of(store, a=container_image(store, b"one"), quay_io=container_image(store, b"two"))
    mirror.expand(store, image_of(store, a=container_image(store, b"one")), Site("r.test"), registry)  # type: ignore[arg-type]
    assert mirror.missing(both, Site("r.test"), registry) == ("quay/io:1",)  # type: ignore[arg-type]

"""Who loads an archive may refuse an image in it: it is asked before anything has a name, with the signatures that came along."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError
from harness.oci.admission import Admitted
from harness.oci.archive.save import save
from harness.oci.garbage import collect
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, REF_NAME, Descriptor, canonical_json, digest_of
from harness.oci.store import Store
from tests.unit.oci.layouts import attach, blob_name, contents, load, packed, put_attachment, put_index, put_manifest, put_referrers


def test_load_one_refused_image_names_none_of_archive(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    good, bad = put_manifest(here, b"good"), put_manifest(here, b"bad")
    for name, image in (("good:1", good), ("bad:1", bad)):
        here.tag(name, image)
    signed = attach(here, "good", good, ".sig", b"signature")
    save(here, ["good:1", "bad:1"], tmp_path / "both.tar")
    asked: list[str] = []

    def admit(name: str, digest: str, arriving: Mapping[str, Descriptor]) -> Admitted:
        asked.append(name)
        assert there.has(arriving[signed].digest)
        if digest == bad.digest:
            raise StoreError(f"{name} is refused")
        return Admitted(name, digest)

    with pytest.raises(StoreError, match=r"bad:1 is refused"):
        load(there, tmp_path / "both.tar", admit=admit)
    assert there.names() == {}
    collect(there)
    assert contents(there) == set()
    assert set(asked) <= {"good:1", "bad:1"}
    assert "bad:1" in asked
    load(there, tmp_path / "both.tar")
    assert set(there.names()) == {"good:1", "bad:1", signed}


SUBJECT = digest_of(b"an image")
TAG = f"web:{SUBJECT.replace(':', '-')}"


def test_load_forged_signature_manifest_is_refused_and_stored_names_stay(tmp_path: Path) -> None:
    """An empty list of manifests in an image of signatures made those of this store disappear."""
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    image = put_manifest(here, b"image")
    put_manifest(there, b"image")
    there.tag("web:1", image)
    signed = attach(there, "web", image, ".sig", b"ours")
    ours = there.names()
    forged = {**here.json(put_attachment(here, ".sig", b"theirs").digest), "manifests": []}
    here.tag("web:1", image)
    here.tag(signed, Descriptor(OCI_MANIFEST, *here.put(canonical_json(forged))))
    with pytest.raises(StoreError, match="is not what its name says"):
        load(there, saved(here, tmp_path))
    assert there.names() == ours


def saved(store: Store, tmp_path: Path) -> Path:
    save(store, ["web:1"], tmp_path / "web.tar")
    return tmp_path / "web.tar"


def test_load_image_under_signature_tag_is_refused(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    image = put_manifest(here, b"image")
    here.tag("web:1", image)
    here.tag(f"web:{image.digest.replace(':', '-')}.sig", put_manifest(here, b"a layer of an image"))
    with pytest.raises(StoreError, match=r"the archive is refused: .* it holds 'application/vnd.oci.image.layer"):
        load(there, saved(here, tmp_path))
    assert there.names() == {}


def test_load_tag_with_unknown_attachment_suffix_is_subject_to_admission(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    image = put_manifest(here, b"image")
    here.tag("web:1", image)
    odd = f"web:{image.digest.replace(':', '-')}.anything"
    here.tag(odd, put_manifest(here, b"not asked about until now"))
    asked: list[str] = []

    def admit(name: str, digest: str, _: Mapping[str, Descriptor]) -> Admitted:
        asked.append(name)
        return Admitted(name, digest)

    load(there, saved(here, tmp_path), admit=admit)
    assert sorted(asked) == ["web:1", odd]


@pytest.mark.parametrize(
    ("suffix", "document"),
    [
        (".sig", {"layers": 5}),
        (".sig", {"layers": [7]}),
        (".sig", {"layers": [{"digest": SUBJECT}]}),
        (".sig", {"layers": []}),
        (".sig", {}),
        (".att", {"layers": "text"}),
        (".att", {"manifests": [{}]}),
        ("", {"manifests": 5}),
        ("", {"manifests": [[]]}),
        ("", {"manifests": {"a": 1}}),
    ],
)
def test_load_malformed_attachment_raises_store_error_and_keeps_names(suffix: str, document: dict[str, Any], tmp_path: Path) -> None:
    there = Store(tmp_path / "there")
    kind = OCI_MANIFEST if suffix else OCI_INDEX
    data = canonical_json({"schemaVersion": 2, "mediaType": kind, **document})
    there.tag(f"{TAG}{suffix}", put_attachment(there, suffix, b"ours") if suffix else put_index(there))
    before = there.names()
    entry = Descriptor(kind, digest_of(data), len(data), {REF_NAME: f"{TAG}{suffix}"})
    index = canonical_json({"schemaVersion": 2, "manifests": [entry.to_json()]})
    with pytest.raises(StoreError):
        load(there, packed({"index.json": index, blob_name(data): data}))
    assert there.names() == before


def test_load_referrers_of_another_image_are_refused(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    image, another = put_manifest(here, b"image"), put_manifest(here, b"another")
    here.tag("web:1", image)
    here.tag(f"web:{image.digest.replace(':', '-')}", put_referrers(here, another, b"statement"))
    with pytest.raises(StoreError, match="does not refer to that image"):
        load(there, saved(here, tmp_path))
    assert there.names() == {}


def test_load_attestations_of_another_image_are_refused(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    image, another = put_manifest(here, b"image"), put_manifest(here, b"another")
    here.tag("web:1", image)
    subject = [{"name": "web", "digest": {"sha256": another.digest.removeprefix("sha256:")}}]
    statement = {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": "p"}
    payload = base64.b64encode(canonical_json(statement)).decode()
    envelope = canonical_json({"payloadType": "application/vnd.in-toto+json", "payload": payload, "signatures": []})
    here.tag(f"web:{image.digest.replace(':', '-')}.att", put_attachment(here, ".att", envelope))
    with pytest.raises(StoreError, match=f"is about {another.digest}, not about {image.digest}"):
        load(there, saved(here, tmp_path))
    assert there.names() == {}

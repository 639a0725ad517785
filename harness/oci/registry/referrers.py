"""Signatures, SBOMs and provenance of an image: stored in its repository, under tags made from its digest.

``sha256-<hex>.sig`` and ``.att`` are cosign's signatures and attestations: one image manifest each, a layer for each of them.
``sha256-<hex>`` is an index of referrers: the fallback of the OCI distribution specification 1.1 (Referrers Tag Schema), which
the local store uses as a registry without the referrers API does. A ReferrerStore is the same thing in the store and in a registry.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from harness import untrusted
from harness.errors import StoreError
from harness.oci import attached
from harness.oci.model import OCI_CONFIG, OCI_INDEX, OCI_MANIFEST, Descriptor, canonical_json, digest_of, texts
from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.errors import not_found_allowed
from harness.oci.registry.manifest import MANIFEST_LIMIT
from harness.oci.store import CHUNK, Store

SIGNATURES = ".sig"
ATTESTATIONS = ".att"
REFERRERS = ""

EMPTY = "application/vnd.oci.empty.v1+json"
LARGEST = 256 << 20
"""Largest attachment, in bytes, that is held in memory: an SBOM of a very large image has some tens of millions."""


def tag_of(digest: str, suffix: str) -> str:
    """``sha256-<hex>.sig`` for ``sha256:<hex>``."""
    return digest.replace(":", "-") + suffix


class ReferrerStore(Protocol):
    """The attachments of one repository. What is read is verified; StoreError says what is missing or damaged."""

    @property
    def repository(self) -> str: ...
    def find(self, tag: str) -> tuple[bytes, ...]:
        """The manifests or indexes under ``tag``; empty when the tag does not exist."""
        ...

    def read(self, blob: Descriptor) -> bytes: ...
    def manifest(self, entry: Descriptor) -> bytes: ...
    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        """Referrers of an image, each once."""
        ...

    def keep(self, data: bytes, media_type: str) -> Descriptor: ...
    def name(self, tag: str, data: bytes, media_type: str) -> Descriptor:
        """Put a manifest or index under ``tag``."""
        ...

    def refer(self, data: bytes) -> Descriptor:
        """Put a manifest that has a ``subject``, so that it is found by the subject."""
        ...

    def changing(self) -> contextlib.AbstractContextManager[None]:
        """Lock around reading and replacing a tag: no other process of this machine changes it meanwhile."""
        ...


@dataclasses.dataclass(frozen=True)
class LocalReferrers:
    """In the store. An attachment is found whichever repository it stands in: the digest is what it belongs to."""

    store: Store
    reference: Reference
    arriving: Mapping[str, Descriptor] = dataclasses.field(default_factory=dict, hash=False)
    """Attachments that are in the store and get their names later."""

    @property
    def repository(self) -> str:
        return self.reference.repository

    def find(self, tag: str) -> tuple[bytes, ...]:
        names = {**self.store.names(), **self.arriving}
        return tuple(self.store.read(digest) for digest in dict.fromkeys(names[name].digest for name in self._names(tag, names)))

    def read(self, blob: Descriptor) -> bytes:
        return _fitting(self.store.read(blob.digest), blob)

    def manifest(self, entry: Descriptor) -> bytes:
        return self.read(entry)

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        entries = [Descriptor.from_json(entry) for index in self.find(tag_of(digest, REFERRERS)) for entry in _entries(index)]
        return tuple({entry.digest: entry for entry in entries}.values())

    def keep(self, data: bytes, media_type: str) -> Descriptor:
        return Descriptor(media_type, *self.store.put(data))

    def name(self, tag: str, data: bytes, media_type: str) -> Descriptor:
        descriptor = self.keep(data, media_type)
        # The same under every repository, so that a push copies the same from each.
        for name in (f"{self.repository}:{tag}", *self._names(tag, self.store.names())):
            self.store.tag(name, descriptor)
        return descriptor

    def refer(self, data: bytes) -> Descriptor:
        manifest = self.keep(data, OCI_MANIFEST)
        value = _document(data)
        try:
            subject, artifact_type, annotations = (
                Descriptor.from_json(value["subject"]),
                value["artifactType"],
                texts(value.get("annotations")),
            )
        except (ValueError, KeyError) as wrong:
            raise StoreError(f"referrer {manifest.digest} cannot be understood: {wrong}") from wrong
        tag = tag_of(subject.digest, REFERRERS)
        entry = {**manifest.to_json(), "artifactType": str(artifact_type), "annotations": annotations}
        with self.changing():
            self.name(tag, referrers_index(self.find(tag), entry), OCI_INDEX)
        return manifest

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        with self.store.shared_lease(), self.store.lock():
            yield

    def _names(self, tag: str, names: Iterable[str]) -> list[str]:
        """Return the ``names`` with this tag, that of this repository first."""
        references = [Reference.parse(name) for name in names if tag in name]
        return [one.familiar for one in sorted(references, key=lambda one: one.repository != self.repository) if one.tag == tag]


@dataclasses.dataclass(frozen=True)
class RemoteReferrers:
    """In a registry."""

    client: Client
    reference: Reference

    @property
    def repository(self) -> str:
        return self.reference.repository

    def find(self, tag: str) -> tuple[bytes, ...]:
        with not_found_allowed():
            return (self.client.manifest(self._at(tag)).data,)
        return ()

    def read(self, blob: Descriptor) -> bytes:
        if blob.size > LARGEST:
            raise StoreError(f"{self.repository}: {blob.digest} has {blob.size} bytes; more than {LARGEST} are refused")
        data = b"".join(stream(self.client, self.reference, blob))
        if digest_of(data) != blob.digest:
            raise StoreError(f"{self.repository}: blob {blob.digest} is damaged: its bytes have another digest")
        return _fitting(data, blob)

    def manifest(self, entry: Descriptor) -> bytes:
        return _fitting(self.client.manifest(self._at(None, entry.digest)).data, entry)

    def referrers(self, digest: str) -> tuple[Descriptor, ...]:
        return self.client.referrers(self._at(None, digest))

    def keep(self, data: bytes, media_type: str) -> Descriptor:
        blob = Descriptor(media_type, digest_of(data), len(data))
        self.client.put_blob(self.reference, blob, lambda: io.BytesIO(data))
        return blob

    def name(self, tag: str, data: bytes, media_type: str) -> Descriptor:
        return Descriptor(media_type, self.client.put_manifest(self._at(tag), data, media_type), len(data))

    def refer(self, data: bytes) -> Descriptor:
        return Descriptor(OCI_MANIFEST, self.client.put_referrer(self._at(None, digest_of(data)), data, OCI_MANIFEST), len(data))

    def changing(self) -> contextlib.AbstractContextManager[None]:
        # A registry has no lock to take.
        return contextlib.nullcontext()

    def _at(self, tag: str | None, digest: str | None = None) -> Reference:
        return Reference(self.reference.domain, self.reference.path, tag, digest)


def stream(client: Client, reference: Reference, blob: Descriptor) -> Iterator[bytes]:
    """The bytes of a blob in a registry, a chunk at a time; not verified."""
    body = client.blob(reference, blob.digest, blob.size)
    try:
        while chunk := body.read(CHUNK):
            yield chunk
    finally:
        body.close()


def sha256_of(chunks: Iterable[bytes]) -> str:
    """The digest of what comes, chunk by chunk."""
    hashed = hashlib.sha256()
    for chunk in chunks:
        hashed.update(chunk)
    return f"sha256:{hashed.hexdigest()}"


def _fitting(data: bytes, blob: Descriptor) -> bytes:
    if len(data) != blob.size:
        raise StoreError(f"blob {blob.digest} has {len(data)} bytes, and its manifest says {blob.size}")
    return data


# cosign's images: one layer a signature or attestation


def layers_of(manifest: bytes) -> tuple[Descriptor, ...]:
    """The layers of an attachment, in order. Raises StoreError when it is not an image manifest."""
    try:
        return tuple(Descriptor.from_json(layer) for layer in _document(manifest)["layers"])
    except (ValueError, KeyError, TypeError) as wrong:
        raise StoreError(f"attachment {digest_of(manifest)} cannot be understood: {wrong}") from wrong


def _document(data: bytes) -> dict[str, Any]:
    return untrusted.json_object(data, what=f"attachment {digest_of(data)}", limit=MANIFEST_LIMIT)


def merge(manifests: Iterable[bytes]) -> tuple[Descriptor, ...]:
    """The layers of several attachments of one image, each once: signatures that were made in two places are all kept."""
    layers: dict[str, Descriptor] = {}
    for manifest in manifests:
        for layer in layers_of(manifest):
            layers.setdefault(canonical_json(layer.to_json()).decode(), layer)
    return tuple(layers.values())


def put_layers(attachments: ReferrerStore, tag: str, layers: Iterable[Descriptor]) -> Descriptor:
    """Name an image manifest of these layers, with the config that cosign gives it."""
    layers = tuple(layers)
    config = attached.config_of([layer.digest for layer in layers])
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": attachments.keep(canonical_json(config), OCI_CONFIG).to_json(),
        "layers": [layer.to_json() for layer in layers],
    }
    data = canonical_json(manifest)
    if len(data) > MANIFEST_LIMIT:
        raise StoreError(
            f"{attachments.repository}:{tag} would be larger than registries take", hint="remove signatures that are not needed"
        )
    return attachments.name(tag, data, OCI_MANIFEST)


# Referrers


def referrers_index(existing: Iterable[bytes], entry: Mapping[str, Any]) -> bytes:
    """An index of referrers with ``entry`` in it, in place of the one of the same kind, made earlier."""
    entries = {str(one.get("digest")): one for index in existing for one in _entries(index)}
    kept = [one for one in entries.values() if _kind(one) != _kind(entry)]
    return canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [*kept, dict(entry)]})


def _entries(index: bytes) -> list[dict[str, Any]]:
    try:
        entries = list(_document(index)["manifests"])
        for one in entries:
            Descriptor.from_json(one)
    except (ValueError, KeyError, TypeError) as wrong:
        raise StoreError(f"the index of referrers {digest_of(index)} cannot be understood: {wrong}") from wrong
    return entries


def _kind(entry: Mapping[str, Any]) -> tuple[object, object]:
    return entry.get("artifactType"), (entry.get("annotations") or {}).get(PREDICATE)


PREDICATE = "in-toto.io/predicate-type"
"""The annotation that says which kind of statement a referrer holds, as BuildKit writes it."""


def referrer(
    attachments: ReferrerStore, subject: Descriptor, artifact_type: str, data: bytes, annotations: Mapping[str, str]
) -> Descriptor:
    """Attach a file to an image as a referrer (OCI image specification 1.1, guidelines for artifacts)."""
    layer = attachments.keep(data, artifact_type)
    value = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "artifactType": artifact_type,
        "config": {**attachments.keep(b"{}", EMPTY).to_json(), "data": "e30="},
        "layers": [layer.to_json()],
        "subject": Descriptor(subject.media_type, subject.digest, subject.size).to_json(),
        "annotations": dict(annotations),
    }
    return attachments.refer(canonical_json(value))

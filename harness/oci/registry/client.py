"""Conversations with registries by the OCI distribution specification (v1.1): reading, listing, writing.

One request that reads (a manifest, a blob) goes to the endpoints of its reference in order, mirrors first, for a bounded number of
rounds: an endpoint that refuses drops out, one that is busy or unreachable is asked again in the next round. Every response is verified
before it is returned. Writes go to the registry that the name says.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import Self, TypeVar

import urllib3

from harness import log, untrusted
from harness.errors import StoreError
from harness.oci.model import OCI_INDEX, Descriptor, canonical_json, digest_of, texts
from harness.oci.reference import Reference, is_digest
from harness.oci.registry import errors
from harness.oci.registry.blob_stream import Begin, BlobStream
from harness.oci.registry.config import Endpoint, Registries
from harness.oci.registry.errors import RemoteError, RetryPolicy, TroubleError, drain, excerpt, read_small, translate_errors
from harness.oci.registry.manifest import ACCEPT, MANIFEST_LIMIT, Manifest, check_digest, check_manifest
from harness.oci.registry.session import CredentialSource, HttpRequest, Session
from harness.oci.registry.upload import Progress, Sent, Source, upload

_MOST_PAGES = 1000

_T = TypeVar("_T")
_Read = Callable[[urllib3.BaseHTTPResponse], _T]
_Consume = Callable[[Endpoint, urllib3.BaseHTTPResponse], _T]


class Client:
    """Reads from all registries and writes to them. Safe for many threads; connections and tokens are kept until close()."""

    def __init__(self, registries: Registries, credentials: CredentialSource, *, retry: RetryPolicy | None = None) -> None:
        self.registries = registries
        self.retry = retry or RetryPolicy()
        self.session = Session(registries, credentials, self.retry)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel waiting requests and drop idle connections."""
        self.session.close()

    def require_answer(self, host: str) -> None:
        """Raises RemoteError when a registry gives no HTTP answer; a refusal is one."""
        reference = Reference(host, "", None, None)
        endpoint = self._primary_endpoint(reference)
        try:
            self.send_with_retry(host, endpoint, HttpRequest("GET", ""), drain)
        except TroubleError as trouble:
            if trouble.transport:
                raise errors.combine(reference, (endpoint,), {endpoint: trouble}) from trouble

    def sign_in(self, host: str) -> None:
        """Authenticate at a registry. Raises RemoteError when it refuses the credentials; warns when it does not request any."""
        reference = Reference(host, "", None, None)
        endpoint = self._primary_endpoint(reference)
        self._retried(reference, endpoint, HttpRequest("GET", ""), drain)
        if not self.session.signed_in(endpoint):
            log.warning(f"{host} does not require authentication; the password was not verified")

    # Reading

    def manifest(self, reference: Reference, accept: Sequence[str] = ACCEPT) -> Manifest:
        """The manifest or index that the reference names, of a type in ``accept``; by digest when it has one.

        Raises RemoteError with the reason of every endpoint.
        """
        headers = {"Accept": ", ".join(accept)}

        def read(endpoint: Endpoint, response: urllib3.BaseHTTPResponse) -> Manifest:
            data = read_small(response, MANIFEST_LIMIT, "manifest")
            try:
                media_type = check_manifest(data, response.headers.get("Content-Type", ""))
                check_digest(data, reference.digest, response.headers.get("Docker-Content-Digest"))
            except ValueError as wrong:
                raise TroubleError(str(wrong), code="MANIFEST_INVALID") from wrong
            return Manifest(data, media_type, digest_of(data), endpoint.host)

        return self._first_success(reference, lambda target: HttpRequest("GET", _manifest_path(target), headers), read)

    def blob(self, reference: Reference, digest: str, size: int | None = None, *, start: int = 0) -> BlobStream:
        """The body of a blob of that image from byte ``start`` on, opened; ``size`` in bytes of the whole blob where a manifest states it.

        Only the size is verified: a caller that reads to the end compares the digest. Raises RemoteError.
        """

        def request(headers: Mapping[str, str], begin: Begin) -> urllib3.BaseHTTPResponse:
            return self._first_success(reference, lambda target: HttpRequest("GET", f"{target.path}/blobs/{digest}", headers), begin)

        return BlobStream(request, self.retry, reference, digest, size, start)

    def head(self, reference: Reference) -> Descriptor | None:
        """Descriptor of a reference at its registry, without fetching it; None when it does not exist. Raises RemoteError."""

        def read(_: Endpoint, response: urllib3.BaseHTTPResponse) -> Descriptor:
            headers = response.headers
            response.release_conn()
            digest, length = headers.get("Docker-Content-Digest", reference.digest or ""), headers.get("Content-Length", "")
            if not is_digest(digest):
                manifest = self.manifest(reference)
                return Descriptor(manifest.media_type, manifest.digest, len(manifest.data))
            media_type = headers.get("Content-Type", "").partition(";")[0].strip()
            return Descriptor(media_type, digest, int(length) if length.isdigit() else 0)

        accept = {"Accept": ", ".join(ACCEPT)}
        with errors.not_found_allowed():
            return self._first_success(reference, lambda target: HttpRequest("HEAD", _manifest_path(target), accept), read)
        return None

    def tags(self, reference: Reference) -> tuple[str, ...]:
        """The tags of a repository, in the registry's order; empty when the repository does not exist. Raises RemoteError."""
        endpoint = self._primary_endpoint(reference)
        with errors.not_found_allowed():
            return self._pages(reference, endpoint, f"{endpoint.repository}/tags/list?n=1000", "tags")
        return ()

    def referrers(self, reference: Reference, artifact_type: str | None = None) -> tuple[Descriptor, ...]:
        """Referrers of the image with the reference's digest: by the referrers API, or the fallback tag where it is lacking.

        Raises RemoteError.
        """
        endpoint = self._primary_endpoint(reference)
        request = HttpRequest("GET", f"{endpoint.repository}/referrers/{reference.digest}", {"Accept": OCI_INDEX}, good=(200, 404, 405))
        try:
            data, status = self._retried(
                reference, endpoint, request, lambda answer: (read_small(answer, MANIFEST_LIMIT, "list of referrers"), answer.status)
            )
        except RemoteError as refused:
            # Registries that do not know the API answer many things; only that they are not well is believed.
            if refused.status == 429 or (refused.status >= 500 and refused.status != 501):
                raise
            data, status = b"", 404
        index = _index(data) if status == 200 else None
        if index is None:
            index = self._fallback(reference, str(reference.digest))
        return tuple(entry for entry in index if artifact_type in (None, entry.artifact_type))

    def _fallback(self, reference: Reference, digest: str) -> tuple[Descriptor, ...]:
        with errors.not_found_allowed():
            return _index(self.manifest(_tagged(reference, digest)).data) or ()
        return ()

    def put_referrer(self, reference: Reference, data: bytes, media_type: str) -> str:
        """Write a manifest that has a ``subject``, so that it is found by the subject. Returns its digest. Raises RemoteError."""
        value = untrusted.json_object(data, what="manifest", limit=MANIFEST_LIMIT)
        digest = digest_of(data)
        try:
            subject_of, annotations = Descriptor.from_json(value["subject"]), texts(value.get("annotations"))
        except (ValueError, KeyError) as wrong:
            raise StoreError(f"referrer {digest} cannot be understood: {wrong}") from wrong
        endpoint = self._primary_endpoint(reference)
        target = dataclasses.replace(endpoint.reference, tag=None, digest=digest)
        request = HttpRequest(
            "PUT", _manifest_path(target), {"Content-Type": media_type}, lambda: data, len(data), _push(target), (200, 201, 202)
        )

        def read(response: urllib3.BaseHTTPResponse) -> bool:
            drain(response)
            return "OCI-Subject" in response.headers

        if self._retried(reference, endpoint, request, read):
            return digest
        # By the specification the client keeps the list where the registry does not.
        subject = subject_of.digest
        entries = self._fallback(reference, subject)
        if all(entry.digest != digest for entry in entries):
            mine = Descriptor(media_type, digest, len(data), annotations, artifact_type=str(value.get("artifactType") or ""))
            index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry.to_json() for entry in (*entries, mine)]}
            self.put_manifest(_tagged(dataclasses.replace(reference, digest=None), subject), canonical_json(index), OCI_INDEX)
        return digest

    def catalog(self, host: str) -> tuple[str, ...]:
        """The repositories of a registry that shows them. Raises RemoteError; most public registries refuse."""
        reference = Reference(host, "_catalog", None, None)
        return self._pages(reference, self._primary_endpoint(reference), "_catalog?n=1000", "repositories", "registry:catalog:*")

    def _pages(self, reference: Reference, endpoint: Endpoint, path: str, key: str, scope: str = "") -> tuple[str, ...]:
        """All of a list that comes in pages (header Link)."""
        names: list[str] = []
        for _ in range(_MOST_PAGES):
            request = HttpRequest("GET", path, scope=scope)
            data, link = self._retried(
                reference, endpoint, request, lambda answer: (read_small(answer, MANIFEST_LIMIT, "list"), _next(answer))
            )
            try:
                listed = untrusted.json_object(data, what="answer", limit=MANIFEST_LIMIT)[key] or []
                if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
                    raise TypeError("not a list of names")
            except (StoreError, KeyError, TypeError) as wrong:
                raise RemoteError(f"{endpoint.host}: answers no list of {key}: {excerpt(data)}") from wrong
            names += [untrusted.shown(name) for name in listed]
            if link is None:
                break
            path = link
        return tuple(names)

    # Writing. Never to a mirror: to the registry that the name says.

    def put_manifest(self, reference: Reference, data: bytes, media_type: str) -> str:
        """Write a manifest under the tag of the reference, or under its digest only; its digest. Raises RemoteError."""
        digest = digest_of(data)
        endpoint = self._primary_endpoint(reference)
        target = endpoint.reference
        place = target if target.tag else dataclasses.replace(target, digest=digest)
        headers = {"Content-Type": media_type}
        # The digest is of these very bytes. Registries of the 2.x line say that it is invalid when another push writes a child of this
        # index at the same moment: they read the link to the child while it is empty.
        transient = ("DIGEST_INVALID",)
        path = _manifest_path(place, tag=True)
        request = HttpRequest("PUT", path, headers, lambda: data, len(data), _push(target), (200, 201, 202), transient)

        def read(response: urllib3.BaseHTTPResponse) -> str:
            stored_digest = response.headers.get("Docker-Content-Digest", digest)
            drain(response)
            if stored_digest != digest:
                raise TroubleError(f"stored the manifest {digest} as {stored_digest}", code="DIGEST_INVALID")
            return digest

        return self._retried(reference, endpoint, request, read)

    def put_blob(
        self,
        reference: Reference,
        blob: Descriptor,
        source: Source,
        *,
        mounts: Sequence[str] = (),
        progress: Progress = lambda _: None,
    ) -> Sent:
        """Have a blob in the repository: there already, mounted from one of the repositories ``mounts``, or sent.

        A broken upload resumes at the byte that the registry has reached, if it can tell. Raises RemoteError.
        """
        return upload(self, self._primary_endpoint(reference), blob, source, mounts, progress)

    def _primary_endpoint(self, reference: Reference) -> Endpoint:
        return self._endpoints(reference)[-1]

    def send_with_retry(self, what: str, endpoint: Endpoint, request: HttpRequest, read: _Read[_T]) -> _T:
        """Send to one endpoint until it answers, refuses, or no attempt is left. Return the result of ``read``. Raises TroubleError."""
        for attempt in range(self.retry.attempts):
            try:
                return self._consume(endpoint, request, lambda _, response: read(response))
            except TroubleError as trouble:
                log.debug(f"{endpoint.host}: {what}: {trouble.reason}")
                if trouble.wait is None or attempt + 1 == self.retry.attempts:
                    raise
                if self.session.closed.wait(self.retry.pause(attempt, trouble.wait)):
                    raise
        raise AssertionError("at least one attempt is made")

    def _retried(self, reference: Reference, endpoint: Endpoint, request: HttpRequest, read: _Read[_T]) -> _T:
        try:
            return self.send_with_retry(str(reference), endpoint, request, read)
        except TroubleError as trouble:
            raise errors.combine(reference, (endpoint,), {endpoint: trouble}) from trouble

    # Rounds

    def _first_success(self, reference: Reference, request: Callable[[Reference], HttpRequest], consume: _Consume[_T]) -> _T:
        """Return the result of ``consume`` for the first successful response."""
        endpoints = self._endpoints(reference)
        pending = list(endpoints)
        troubles: dict[Endpoint, TroubleError] = {}
        timeouts = dict.fromkeys(endpoints, 0)
        for attempt in range(self.retry.attempts):
            waits: list[float] = []
            for endpoint in tuple(pending):
                try:
                    return self._consume(endpoint, request(endpoint.reference), consume)
                except TroubleError as trouble:
                    log.debug(f"{endpoint.host}: {reference}: {trouble.reason}")
                    troubles[endpoint] = trouble
                    timeouts[endpoint] += trouble.status == 504
                    if trouble.wait is None or timeouts[endpoint] >= self.retry.timeouts:
                        pending.remove(endpoint)
                    else:
                        waits.append(self.retry.pause(attempt, trouble.wait))
            if not pending or attempt + 1 == self.retry.attempts:
                break
            if self.session.closed.wait(min(waits)):
                break
        raise errors.combine(reference, endpoints, troubles)

    def _endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        try:
            return self.registries.endpoints(reference)
        except RemoteError:
            raise
        except StoreError as blocked:
            raise RemoteError(blocked.message, status=403, code="DENIED", hint=blocked.hint) from blocked

    def _consume(self, endpoint: Endpoint, request: HttpRequest, consume: _Consume[_T]) -> _T:
        with translate_errors(self.retry):
            response = self.session.send(endpoint, request)
            try:
                return consume(endpoint, response)
            except BaseException:
                response.close()
                raise


def _tagged(reference: Reference, digest: str) -> Reference:
    """The referrers tag of an image: ``sha256-<hex>``."""
    return dataclasses.replace(reference, tag=digest.replace(":", "-"), digest=None)


def _index(data: bytes) -> tuple[Descriptor, ...] | None:
    """Entries of an index; None when it is not an index."""
    try:
        listed = untrusted.json_object(data, what="index", limit=MANIFEST_LIMIT)["manifests"]
        return tuple(Descriptor.from_json(entry) for entry in listed or ())
    except (StoreError, ValueError, KeyError, TypeError):
        return None


def _manifest_path(reference: Reference, *, tag: bool = False) -> str:
    """``tag``: the tag is what is meant, though the digest may be known."""
    named = reference.tag if tag and reference.tag else reference.digest or reference.tag
    return f"{reference.path}/manifests/{named}"


def _push(reference: Reference) -> str:
    return f"repository:{reference.path}:pull,push"


def _next(response: urllib3.BaseHTTPResponse) -> str | None:
    """The path of the next page, from /v2/ on. Whatever host the header names, the registry itself is asked for it."""
    match = re.match(r"<([^>]*)>", response.headers.get("Link", ""))
    if match is None:
        return None
    parts = urllib.parse.urlsplit(match[1])
    if not parts.path.startswith("/v2/"):
        raise TroubleError(f"gives a next page that is not one of its API: {untrusted.shown(match[1])[:200]}")
    return f"{parts.path}?{parts.query}"

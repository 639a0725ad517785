"""Reading from registries: the pull half of the OCI distribution specification (v1.1), over urllib3.

One question (a manifest, a blob) goes to the endpoints of its reference in order, mirrors first, for a bounded number of rounds:
who says a clear no drops out, who is busy or unreachable is asked again in the next round. Whatever comes back is checked before
anybody sees it. Sign-in follows the token specification of Docker registries, with the user's own Docker credentials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import functools
import ipaddress
import json
import re
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InsecureRequestWarning,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import ProxyError as UnreachableProxyError

from harness import log
from harness.credentials import Credential
from harness.errors import StoreError
from harness.oci.model import DOCKER_INDEX, DOCKER_MANIFEST, INDEXES, MANIFESTS, OCI_INDEX, OCI_MANIFEST, Descriptor, digest_of
from harness.oci.reference import Reference, is_digest
from harness.registries import Endpoint, Registries

ACCEPT = (OCI_INDEX, DOCKER_INDEX, OCI_MANIFEST, DOCKER_MANIFEST)
"""What we ask for when nobody says more."""

MANIFEST_LIMIT = 4 << 20
"""Bytes. The size that the distribution specification lets a registry refuse; nothing honest is larger."""

_MOST_REDIRECTS = 5
_ERROR_LIMIT = 64 << 10
_TOKEN_LIMIT = 1 << 20
_TOKEN_LIFE = 60.0
"""Seconds that a token lives when its server does not say, by the token specification."""
_PROGRESS = 1 << 20
"""Bytes after which a transfer that broke again counts as a new one: it gets on, if slowly."""

_CAUTIOUS = 64 << 10
"""Bytes that are read at a time over a connection that has broken before."""

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long we bear with a registry. Times in seconds."""

    connect: float = 10.0
    read: float = 30.0
    """Longest silence, before the answer or between two of its bytes."""
    attempts: int = 4
    """Rounds over the endpoints; also how often a body may break with no progress between."""
    timeouts: int = 2
    """How often one endpoint may keep us waiting in vain."""
    backoff: float = 0.5
    """Wait before the second round; doubled for each one after."""
    longest_wait: float = 20.0
    """A registry that says Retry-After is obeyed up to this; when it wants more we give up at once and say so."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A manifest or index, byte for byte as it was served, and who served it."""

    data: bytes
    media_type: str
    digest: str
    source: str = ""

    @property
    def is_index(self) -> bool:
        return self.media_type in INDEXES


class RemoteError(StoreError):
    """A registry does not have, cannot give, or gives something wrong.

    ``status`` and ``code`` are what a registry would answer (HTTP status and error code of the distribution specification).
    """

    def __init__(self, message: str, *, status: int = 502, code: str = "UNKNOWN", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


class Login(Protocol):
    """Where credentials come from; harness.credentials.Credentials is one."""

    def find(self, domain: str) -> Credential | None: ...


class _TroubleError(Exception):
    """One endpoint failed. ``wait``: it may be asked again after so many seconds (None: never; 0: whenever the next round is).

    ``transport``: it never came to an HTTP answer, so the other scheme may be the right one.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int = 502,
        code: str = "UNKNOWN",
        wait: float | None = None,
        transport: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.code = code
        self.wait = wait
        self.transport = transport
        self.hint = hint


@dataclasses.dataclass(frozen=True)
class Challenge:
    """One way to sign in that a registry offers in WWW-Authenticate; ``scheme`` in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class _Authorization:
    header: str
    until: float


class Client:
    """Reads from all registries. Safe for many threads; connections and tokens are kept until close()."""

    def __init__(self, registries: Registries, credentials: Login, *, patience: Patience | None = None) -> None:
        self.registries = registries
        self.credentials = credentials
        self.patience = patience or Patience()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._pools: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._base: dict[str, str] = {}
        self._authorizations: dict[tuple[str, str], _Authorization] = {}
        self._signing: dict[tuple[str, str], threading.Lock] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop waiting for anybody and drop idle connections."""
        self._closed.set()
        with self._lock:
            pools = list(self._pools.values())
        for pool in pools:
            pool.clear()

    def manifest(self, reference: Reference, accept: Sequence[str] = ACCEPT) -> Manifest:
        """The manifest or index that the reference names, of a type in ``accept``; by digest when it has one.

        Raises RemoteError with the reason of every endpoint.
        """
        headers = {"Accept": ", ".join(accept)}

        def read(endpoint: Endpoint, response: urllib3.BaseHTTPResponse) -> Manifest:
            data = _read_small(response, MANIFEST_LIMIT, "manifest")
            try:
                media_type = check_manifest(data, response.headers.get("Content-Type", ""))
                _check_digest(data, reference.digest, response.headers.get("Docker-Content-Digest"))
            except ValueError as wrong:
                raise _TroubleError(str(wrong), code="MANIFEST_INVALID") from wrong
            return Manifest(data, media_type, digest_of(data), endpoint.host)

        return self._first(reference, lambda there: f"manifests/{there.digest or there.tag}", headers, read)

    def blob(self, reference: Reference, digest: str, size: int | None = None) -> BlobStream:
        """The body of a blob of that image, opened; ``size`` in bytes where a manifest tells it.

        Nothing is verified here but the size: who reads to the end compares the digest. Raises RemoteError.
        """
        return BlobStream(self, reference, digest, size)

    def _first(
        self,
        reference: Reference,
        path: Callable[[Reference], str],
        headers: Mapping[str, str],
        consume: Callable[[Endpoint, urllib3.BaseHTTPResponse], _T],
    ) -> _T:
        """What ``consume`` makes of the first good answer."""
        endpoints = self._endpoints(reference)
        pending = list(endpoints)
        troubles: dict[Endpoint, _TroubleError] = {}
        timeouts = dict.fromkeys(endpoints, 0)
        for attempt in range(self.patience.attempts):
            waits: list[float] = []
            for endpoint in tuple(pending):
                try:
                    return self._consume(endpoint, path(endpoint.reference), headers, consume)
                except _TroubleError as trouble:
                    log.debug(f"{endpoint.host}: {reference}: {trouble.reason}")
                    troubles[endpoint] = trouble
                    timeouts[endpoint] += trouble.status == 504
                    if trouble.wait is None or timeouts[endpoint] >= self.patience.timeouts:
                        pending.remove(endpoint)
                    else:
                        waits.append(max(trouble.wait, self.patience.backoff * 2**attempt))
            if not pending or attempt + 1 == self.patience.attempts:
                break
            if self._closed.wait(min(waits)):
                break
        raise _summary(reference, endpoints, troubles)

    def _endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        try:
            return self.registries.endpoints(reference)
        except RemoteError:
            raise
        except StoreError as blocked:
            raise RemoteError(blocked.message, status=403, code="DENIED", hint=blocked.hint) from blocked

    def _consume(
        self,
        endpoint: Endpoint,
        path: str,
        headers: Mapping[str, str],
        consume: Callable[[Endpoint, urllib3.BaseHTTPResponse], _T],
    ) -> _T:
        with _told(self.patience):
            response = self._ask(endpoint, path, headers)
            try:
                return consume(endpoint, response)
            except BaseException:
                response.close()
                raise

    def _ask(self, endpoint: Endpoint, path: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """A good answer (200, 206) of one endpoint, over the first scheme that works there."""
        known = self._base.get(endpoint.host)
        bases = (known,) if known in endpoint.base_urls else endpoint.base_urls
        for last, base in ((base is bases[-1], base) for base in bases):
            try:
                with _told(self.patience):
                    response = self._authorized(base, endpoint, path, headers)
            except _TroubleError as trouble:
                if last or not trouble.transport:
                    raise
                continue
            if response.status != 400:  # which is how a TLS port answers plain HTTP
                self._base[endpoint.host] = base
            if response.status in (200, 206):
                return response
            raise _refusal(response, endpoint, self.patience)
        raise AssertionError("an endpoint has at least one base URL")

    def _authorized(self, base: str, endpoint: Endpoint, path: str, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """Ask with what opened this repository before; sign in when the registry says so."""
        url = f"{base}/v2/{endpoint.repository}/{path}"
        used = self._authorization(base, endpoint)
        response, final = self._follow(url, headers, used, endpoint)
        if response.status != 401 or _origin(final) != _origin(url):
            return response
        challenges = parse_challenges(response.headers.get("WWW-Authenticate", ""))
        refused = _refusal(response, endpoint, self.patience)
        header = self._sign_in(base, endpoint, challenges, used)
        if header is None:
            raise refused
        response, _ = self._follow(url, headers, header, endpoint)
        return response

    def _authorization(self, base: str, endpoint: Endpoint) -> str | None:
        known = self._authorizations.get((base, endpoint.repository))
        return known.header if known and known.until > time.monotonic() else None

    def _sign_in(self, base: str, endpoint: Endpoint, challenges: Sequence[Challenge], used: str | None) -> str | None:
        """A new Authorization header for the repository, once for all threads; None when we have nothing (else) to show."""
        key = (base, endpoint.repository)
        with self._lock:
            signing = self._signing.setdefault(key, threading.Lock())
        with signing:
            current = self._authorization(base, endpoint)
            if current is not None and current != used:
                return current  # another thread has just signed in
            credential = self.credentials.find(endpoint.domain)
            found = self._authorize(base, endpoint, challenges, credential)
            if found is None or found.header == used:
                return None
            self._authorizations[key] = found
            return found.header

    def _authorize(
        self, base: str, endpoint: Endpoint, challenges: Sequence[Challenge], credential: Credential | None
    ) -> _Authorization | None:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                if credential and credential.registry_token:
                    return _Authorization(f"Bearer {credential.registry_token}", float("inf"))
                return self._token(base, endpoint, challenge, credential)
            if challenge.scheme == "basic" and credential and credential.basic:
                return _Authorization(credential.basic, float("inf"))
        return None

    def _token(self, base: str, endpoint: Endpoint, challenge: Challenge, credential: Credential | None) -> _Authorization:
        """An access token from the realm, by the Docker token specification (GET) or its OAuth 2 form for identity tokens (POST)."""
        realm = urllib.parse.urljoin(base, challenge.parameters["realm"])
        host = urllib.parse.urlsplit(realm).netloc
        if base.startswith("https:") and not realm.startswith("https:") and not endpoint.insecure:
            raise _TroubleError(f"wants a token from {host} over plain HTTP", status=401, code="UNAUTHORIZED")
        asked = {"scope": challenge.parameters.get("scope") or f"repository:{endpoint.repository}:pull"}
        if challenge.parameters.get("service"):
            asked["service"] = challenge.parameters["service"]
        headers: dict[str, str] = {}
        body: str | None = None
        if credential and credential.identity_token:
            asked |= {"grant_type": "refresh_token", "refresh_token": credential.identity_token, "client_id": "slipway"}
            body = urllib.parse.urlencode(asked)
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            realm += ("&" if "?" in realm else "?") + urllib.parse.urlencode(asked)
            if credential and credential.basic:
                headers["Authorization"] = credential.basic
        response = self._send("POST" if body else "GET", realm, headers, endpoint.insecure, body)
        try:
            if response.status != 200:
                refusal = _refusal(response, endpoint, self.patience)
                raise _TroubleError(
                    f"its token server {host}: {refusal.reason}",
                    status=refusal.status,
                    code=refusal.code,
                    wait=refusal.wait,
                    hint=refusal.hint,
                )
            return _read_token(_read_small(response, _TOKEN_LIMIT, "token"), host)
        finally:
            response.close()

    def _follow(
        self, url: str, headers: Mapping[str, str], authorization: str | None, endpoint: Endpoint
    ) -> tuple[urllib3.BaseHTTPResponse, str]:
        """Ask, and follow redirects; the password stays with the host that it is for. The last answer and its URL."""
        for _ in range(_MOST_REDIRECTS + 1):
            shown = {**headers, "Authorization": authorization} if authorization else headers
            response = self._send("GET", url, shown, endpoint.insecure)
            if response.status not in (301, 302, 303, 307, 308):
                return response, url
            target = urllib.parse.urljoin(url, response.headers.get("Location", ""))
            with contextlib.suppress(HTTPError, OSError):
                response.read(_ERROR_LIMIT, decode_content=False)  # an answer read to its end leaves a connection to use again
            response.close()
            host = urllib.parse.urlsplit(target).netloc
            if not target.startswith(("http://", "https://")) or not host or target == url:
                raise _TroubleError(f"redirects to nowhere ({response.status} without a usable Location)")
            if url.startswith("https:") and target.startswith("http:") and not endpoint.insecure:
                raise _TroubleError(f"redirects to plain HTTP at {host}", hint="insecure = true in registries.conf would allow it")
            if _origin(target) != _origin(url):
                authorization = None
            url = target
        raise _TroubleError(f"redirects more than {_MOST_REDIRECTS} times")

    def _send(self, method: str, url: str, headers: Mapping[str, str], insecure: bool, body: str | None = None) -> urllib3.BaseHTTPResponse:
        parts = urllib.parse.urlsplit(url)
        if self._closed.is_set():
            raise _TroubleError("we were told to stop", status=503)
        response = self._pool(parts, insecure).request(
            method,
            url,
            body=body,
            # Compression on the way would change the bytes whose digest we check.
            headers={"User-Agent": "slipway", "Accept-Encoding": "identity", **headers},
            preload_content=False,
            decode_content=False,
            redirect=False,
            retries=False,
            timeout=urllib3.Timeout(connect=self.patience.connect, read=self.patience.read),
        )
        # The query of a redirect may hold a signature: it opens the blob to whoever reads the log.
        log.debug(f"{method} {parts.scheme}://{parts.netloc}{parts.path}: {response.status}")
        return response

    def _pool(self, parts: urllib.parse.SplitResult, insecure: bool) -> urllib3.PoolManager:
        key = (parts.netloc, insecure)
        with self._lock:
            pool = self._pools.get(key)
            if pool is None:
                pool = self._pools[key] = self._new_pool(parts, insecure)
            return pool

    def _new_pool(self, parts: urllib.parse.SplitResult, insecure: bool) -> urllib3.PoolManager:
        context = self._tls(parts.netloc, insecure) if parts.scheme == "https" or insecure else None
        proxy = _proxy(parts)
        if proxy is None:
            return urllib3.PoolManager(maxsize=16, ssl_context=context)
        address = urllib.parse.urlsplit(proxy)
        user = f"{urllib.parse.unquote(address.username)}:{urllib.parse.unquote(address.password or '')}" if address.username else None
        bare = address._replace(netloc=address.netloc.rpartition("@")[2]).geturl()
        return urllib3.ProxyManager(bare, proxy_headers=urllib3.make_headers(proxy_basic_auth=user), maxsize=16, ssl_context=context)

    def _tls(self, host: str, insecure: bool) -> ssl.SSLContext:
        context = ssl.create_default_context()
        certificates = self.registries.certificates(host)
        try:
            for authority in certificates.authorities:
                context.load_verify_locations(cafile=authority)
            for certificate, key in certificates.clients:
                context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as broken:
            files = [*certificates.authorities, *(path for pair in certificates.clients for path in pair)]
            names = ", ".join(str(path) for path in files)
            raise _TroubleError(f"its certificates here cannot be used: {broken}", hint=f"look at {names}") from broken
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            urllib3.disable_warnings(InsecureRequestWarning)  # the file asks for it
        return context


class BlobStream:
    """The bytes of one blob, in order. A connection that breaks is taken up again where it broke, unseen by the reader."""

    def __init__(self, client: Client, reference: Reference, digest: str, size: int | None) -> None:
        self.size = size
        """Bytes in all; None when neither manifest nor registry tells."""
        self.source = ""
        self._client = client
        self._reference = reference
        self._digest = digest
        self._offset = 0
        self._broken = 0
        self._broke_at = 0
        self._aborted = False
        self._response = self._open()

    def read(self, amount: int) -> bytes:
        """Up to ``amount`` bytes; none at the end. Raises RemoteError when the blob cannot be had to its end."""
        while True:
            try:
                # A read that fails loses what it had got until then: on a bad line only little may be lost, else we never get on.
                data = self._response.read(min(amount, _CAUTIOUS) if self._broken else amount, decode_content=False)
                if not data and self.size is not None and self._offset < self.size:
                    raise _TroubleError(f"ends {self.size - self._offset} bytes early")
            except (HTTPError, OSError, _TroubleError) as lost:
                self._resume(lost)
                continue
            self._offset += len(data)
            if self.size is not None and self._offset > self.size:
                raise self._error(f"is longer than the {self.size} bytes it should have")
            return data

    def close(self) -> None:
        if not self._at_end():
            self._response.close()
        self._response.release_conn()

    def abort(self) -> None:
        """From another thread: make a read() that waits fail now."""
        self._aborted = True
        with contextlib.suppress(ValueError, RuntimeError, OSError, AttributeError):
            self._response.shutdown()

    def _at_end(self) -> bool:
        return self.size is not None and self._offset == self.size

    def _open(self) -> urllib3.BaseHTTPResponse:
        headers = {"Range": f"bytes={self._offset}-"} if self._offset else {}
        return self._client._first(self._reference, lambda _: f"blobs/{self._digest}", headers, self._begin)

    def _begin(self, endpoint: Endpoint, response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        start, total = body_range(response.status, response.headers)
        if self.size is not None and total is not None and total != self.size:
            raise _TroubleError(f"blob {self._digest} has {total} bytes there, not {self.size}", code="BLOB_UNKNOWN")
        if start > self._offset:
            raise _TroubleError(f"blob {self._digest}: asked from byte {self._offset}, got from {start}", code="BLOB_UNKNOWN")
        self.size = self.size if self.size is not None else total
        self.source = endpoint.host
        # Without ranges there it begins anew: what we have already is read past. The digest of the whole tells whether it fits.
        skip = self._offset - start
        while skip:
            data = response.read(min(skip, _PROGRESS), decode_content=False)
            if not data:
                raise _TroubleError(f"blob {self._digest} ends early", wait=0)
            skip -= len(data)
        return response

    def _resume(self, lost: Exception) -> None:
        self._response.close()
        reason = _reason(lost, self._client.patience)
        if self._aborted:
            raise self._error("was stopped") from lost
        log.debug(f"{self.source}: {self._digest} broke at {self._offset} bytes: {reason.reason}")
        self._broken = 1 if self._offset - self._broke_at >= _PROGRESS else self._broken + 1
        self._broke_at = self._offset
        if self._broken >= self._client.patience.attempts:
            raise self._error(f"broke {self._broken} times at about byte {self._offset}: {reason.reason}", reason.status) from lost
        self._response = self._open()

    def _error(self, reason: str, status: int = 502) -> RemoteError:
        return RemoteError(f"{self._reference}: {self.source}: blob {self._digest} {reason}", status=status, code="BLOB_UNKNOWN")


def check_manifest(data: bytes, content_type: str) -> str:
    """The media type of a manifest or index. Raises ValueError when ``data`` is neither."""
    try:
        value = json.loads(data)
    except ValueError as wrong:
        raise ValueError(f"answers something that is no JSON as manifest: {_excerpt(data)}") from wrong
    if not isinstance(value, dict):
        raise ValueError("answers a manifest that is no JSON object")
    if value.get("schemaVersion") == 1:
        raise ValueError("has it only as schema 1, the image format of before 2017, which no runtime of today reads")
    shaped = _media_type_by_shape(value)
    named = content_type.partition(";")[0].strip().lower()
    written = value.get("mediaType")
    known = (*INDEXES, *MANIFESTS)
    media_type = next((found for found in (named, written, shaped) if found in known), None)
    if shaped is None or media_type is None or (media_type in INDEXES) != (shaped in INDEXES):
        raise ValueError("answers JSON that is neither manifest nor index")
    return media_type


def _media_type_by_shape(value: Mapping[str, Any]) -> str | None:
    if value.get("schemaVersion") != 2:
        return None
    if _descriptors(value.get("manifests")):
        return OCI_INDEX
    return OCI_MANIFEST if _descriptors(value.get("layers")) and _descriptors([value.get("config")]) else None


def _descriptors(value: object) -> bool:
    """Whether ``value`` is a list of what can be fetched and compared."""
    if not isinstance(value, list):
        return False
    try:
        return all(is_digest(Descriptor.from_json({"mediaType": "", **item}).digest) for item in value)
    except (TypeError, ValueError):
        return False


def _check_digest(data: bytes, asked: str | None, said: str | None) -> None:
    found = digest_of(data)
    if asked is not None and asked != found:
        raise ValueError(f"answers a manifest with digest {found} instead of {asked}")
    if said is not None and said.startswith("sha256:") and said != found:
        raise ValueError(f"answers a manifest with digest {found} and calls it {said}")


def body_range(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """Where the body of a blob begins, and how long the whole blob is, if it is told."""
    length = headers.get("Content-Length")
    if status != 206:
        return 0, int(length) if length is not None and length.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if not found:
        raise _TroubleError("answers a range without saying which")
    return int(found[1]), int(found[2]) if found[2] != "*" else None


_PART = re.compile(
    r'[\s,]*(?:(?P<key>[A-Za-z0-9_-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))|(?P<scheme>[A-Za-z][A-Za-z0-9_-]*))'
)


def parse_challenges(text: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header, several schemes in one allowed (RFC 9110, 11.6.1)."""
    found: list[tuple[str, dict[str, str]]] = []
    position = 0
    while part := _PART.match(text, position):
        position = part.end()
        if part["scheme"]:
            found.append((part["scheme"].lower(), {}))
        elif found:
            value = part["plain"] if part["quoted"] is None else re.sub(r"\\(.)", r"\1", part["quoted"])
            found[-1][1][part["key"].lower()] = value
    return [Challenge(scheme, parameters) for scheme, parameters in found]


def error_reason(status: int, phrase: str | None, data: bytes) -> tuple[str, str]:
    """Reason and code of an error answer: the registry's own words where it has any, else the HTTP ones."""
    try:
        first = json.loads(data)["errors"][0]
        code, message = str(first.get("code") or ""), str(first.get("message") or "")
        detail = first.get("detail")
        message += f" ({detail})" if isinstance(detail, str) and detail and detail not in message else ""
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        code, message = "", _excerpt(data) if data.strip() and not data.lstrip().startswith(b"<") else ""
    words = " ".join(word for word in (code, message) if word) or phrase or ""
    return f"{status} {words}".strip(), code


def retry_after(value: str | None, now: datetime.datetime) -> float:
    """Seconds to wait by a Retry-After header (a number or a date); 0 when it says nothing."""
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    return max(0.0, (when - now).total_seconds()) if when.tzinfo else 0.0


def _refusal(response: urllib3.BaseHTTPResponse, endpoint: Endpoint, patience: Patience) -> _TroubleError:
    """What a bad answer says; whether to come back."""
    data = b""
    with contextlib.suppress(HTTPError, OSError):
        data = response.read(_ERROR_LIMIT, decode_content=False)
    response.close()
    reason, code = error_reason(response.status, response.reason, data)
    status = response.status if response.status >= 400 else 502
    wait: float | None = None
    hint = None
    if status == 429 or status >= 500:
        wait = retry_after(response.headers.get("Retry-After"), datetime.datetime.now(datetime.UTC))
        if wait > patience.longest_wait:
            reason += f" (come back in {wait:.0f} s)"
            wait = None
    if status in (401, 403):
        hint = f"it does not exist there, or needs `slipway login {endpoint.domain}`"
    return _TroubleError(reason, status=status, code=code or _CODES.get(status, "UNKNOWN"), wait=wait, hint=hint)


_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}


@contextlib.contextmanager
def _told(patience: Patience) -> Iterator[None]:
    """Turn what urllib3 and the sockets raise into a _TroubleError."""
    try:
        yield
    except (HTTPError, OSError, ValueError) as problem:
        raise _reason(problem, patience) from problem


def _reason(problem: Exception, patience: Patience) -> _TroubleError:
    while isinstance(problem, MaxRetryError) and problem.reason is not None:
        problem = problem.reason
    trouble = functools.partial(_TroubleError, wait=0, transport=True)
    match problem:
        case _TroubleError():
            found = problem
        case UnreachableProxyError():
            reason = f"the proxy of this machine does not let us through: {problem.original_error}"
            found = trouble(reason, wait=None, hint="look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
        case NameResolutionError():
            found = trouble("its name cannot be resolved")
        case NewConnectionError():  # which some versions of urllib3 derive from ConnectTimeoutError
            cause = problem.__cause__
            why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(problem).rpartition(": ")[2]
            found = trouble(f"no connection: {why}")
        case ConnectTimeoutError():
            found = trouble(f"no connection within {patience.connect:g} s", status=504)
        case ReadTimeoutError():
            found = trouble(f"silent for {patience.read:g} s", status=504)
        case SSLError() | ssl.SSLError():
            why = getattr(problem.args[0], "verify_message", "") if problem.args else ""
            hint = "its authority belongs into certs.d/HOST/ca.crt below ~/.config/containers; plain HTTP needs insecure = true"
            found = trouble(f"no trusted TLS: {why or problem}", wait=None, hint=hint)
        case HTTPError() | OSError():
            found = trouble(f"the connection broke: {problem}")
        case _:
            found = _TroubleError(f"cannot be asked: {problem}")
    return found


def _summary(reference: Reference, endpoints: Sequence[Endpoint], troubles: Mapping[Endpoint, _TroubleError]) -> RemoteError:
    """One error of all: the last endpoint is the image's own registry, so its answer gives the status."""
    asked = [(endpoint, troubles[endpoint]) for endpoint in endpoints if endpoint in troubles]
    if not asked:
        return RemoteError(f"{reference}: we were told to stop", status=503)
    last = asked[-1][1]
    reasons = "; ".join(f"{'mirror ' if endpoint.mirror else ''}{endpoint.host}: {trouble.reason}" for endpoint, trouble in asked)
    return RemoteError(f"{reference}: {reasons}", status=last.status, code=last.code, hint=last.hint)


def _read_small(response: urllib3.BaseHTTPResponse, limit: int, what: str) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > limit:
        raise _TroubleError(f"answers a {what} of {length} bytes; more than {limit} are refused")
    parts: list[bytes] = []
    size = 0
    while data := response.read(limit + 1 - size, decode_content=False):
        parts.append(data)
        size += len(data)
        if size > limit:
            raise _TroubleError(f"answers a {what} of more than {limit} bytes")
    response.release_conn()
    return b"".join(parts)


def _read_token(data: bytes, host: str) -> _Authorization:
    try:
        answer = json.loads(data)
        token = answer.get("token") or answer.get("access_token")
        life = float(answer.get("expires_in") or _TOKEN_LIFE)
    except (ValueError, AttributeError, TypeError):
        token, life = None, 0.0
    if not isinstance(token, str) or not token.isprintable():
        raise _TroubleError(f"its token server {host} gives no token", status=401, code="UNAUTHORIZED")
    # A tenth less: it must still be good when it arrives.
    return _Authorization(f"Bearer {token}", time.monotonic() + 0.9 * life)


def _proxy(parts: urllib.parse.SplitResult) -> str | None:
    """The proxy that HTTP_PROXY, HTTPS_PROXY and NO_PROXY ask for; never for this machine itself."""
    host = parts.hostname or ""
    if host == "localhost" or _is_loopback(host) or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme) or None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc


def _excerpt(data: bytes) -> str:
    text = " ".join(data[:200].decode(errors="replace").split())
    return "".join(character for character in text if character.isprintable())[:120]

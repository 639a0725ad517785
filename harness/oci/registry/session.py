"""One request to one registry: the scheme that works there, sign-in, redirects. Raises TroubleError, which says whether to come back.

Sign-in follows the token specification of Docker registries, with the user's own Docker credentials.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Protocol, TypeVar

import urllib3
from urllib3.exceptions import HTTPError

from harness import log, untrusted
from harness.errors import StoreError
from harness.oci.registry import transport
from harness.oci.registry.config import Endpoint, Registries
from harness.oci.registry.credentials import Credential
from harness.oci.registry.errors import RetryPolicy, TroubleError, read_small, refusal, translate_errors
from harness.oci.registry.transport import Transport

_T = TypeVar("_T")

Body = Callable[[], "bytes | IO[bytes]"]
"""Opens the body of a request from its beginning: it may have to be sent again after signing in."""
_Final = tuple[urllib3.BaseHTTPResponse, str]
"""The last answer, and its URL after redirects."""

_MOST_REDIRECTS = 5
_ERROR_LIMIT = 64 << 10
_TOKEN_LIMIT = 1 << 20
_TOKEN_LIFE = 60.0
"""Seconds that a token lives when its server does not say, by the token specification."""


class CredentialSource(Protocol):
    """Source of credentials; harness.oci.registry.credentials.CredentialStore is one."""

    def find(self, domain: str, repository: str = "") -> Credential | None: ...


@dataclasses.dataclass(frozen=True)
class Challenge:
    """One way to sign in that a registry offers in WWW-Authenticate; ``scheme`` in lower case."""

    scheme: str
    parameters: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class HttpRequest:
    """One HTTP request. ``url``: a path below ``/v2/`` of the registry, one from its root (with a slash), or a whole URL of it (the place
    of an upload).
    """

    method: str
    url: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    body: Body | None = None
    size: int = 0
    """Bytes of the body."""
    scope: str = ""
    """Scope of the token where the registry does not state one: ``repository:team/web:pull,push``."""
    good: tuple[int, ...] = (200, 206)
    transient: tuple[str, ...] = ()
    """Error codes of a refusal after which the same request may succeed."""


@dataclasses.dataclass(frozen=True)
class _Authorization:
    header: str
    until: float


class Session:
    """Safe for many threads; connections and tokens are kept until close()."""

    def __init__(self, registries: Registries, credentials: CredentialSource, retry: RetryPolicy) -> None:
        self.registries = registries
        self.credentials = credentials
        self.retry = retry
        self.closed = threading.Event()
        self._lock = threading.Lock()
        self._transports: dict[tuple[str, bool], Transport] = {}
        self._base: dict[str, str] = {}
        self._authorizations: dict[tuple[str, str], _Authorization] = {}
        self._challenges: dict[tuple[str, str], tuple[Challenge, ...]] = {}
        self._scopes: dict[tuple[str, str], tuple[str, ...]] = {}
        self._signing: dict[tuple[str, str], threading.Lock] = {}

    def close(self) -> None:
        """Cancel waiting requests and drop idle connections."""
        self.closed.set()
        with self._lock:
            transports = list(self._transports.values())
        for one in transports:
            one.close()

    def base(self, endpoint: Endpoint) -> str:
        """``scheme://host`` under which the endpoint has answered."""
        return self._base.get(endpoint.host) or endpoint.base_urls[0]

    def signed_in(self, endpoint: Endpoint) -> bool:
        """Return True when the endpoint has requested credentials and accepted them."""
        return (self.base(endpoint), endpoint.repository) in self._authorizations

    def send(self, endpoint: Endpoint, request: HttpRequest) -> urllib3.BaseHTTPResponse:
        """A good answer of one endpoint, over the first scheme that works there."""
        working_base = self._base.get(endpoint.host)
        bases = (working_base,) if working_base in endpoint.base_urls else endpoint.base_urls
        for last, base in ((base is bases[-1], base) for base in bases):
            try:
                with translate_errors(self.retry):
                    response = self._authorized(base, endpoint, request)
            except TroubleError as trouble:
                if trouble.absent and working_base is None:
                    trouble.wait = None
                if last or not trouble.transport:
                    raise
                continue
            if response.status != 400:  # which is how a TLS port answers plain HTTP
                self._base[endpoint.host] = base
            if response.status in request.good:
                return response
            refused = refusal(response, endpoint, self.retry)
            if refused.code in request.transient:
                refused.wait = refused.wait or 0.0
            raise refused
        raise AssertionError("an endpoint has at least one base URL")

    def _authorized(self, base: str, endpoint: Endpoint, request: HttpRequest) -> urllib3.BaseHTTPResponse:
        """Ask with what opened this repository before; sign in when the registry says so."""
        if request.url.startswith("/"):
            url = base + request.url
        else:
            url = request.url if request.url.startswith(("http://", "https://")) else f"{base}/v2/{request.url}"
        # What opens the registry is not shown to whom it sends an upload.
        ours = _origin(url) == _origin(base)
        used = self._current(base, endpoint, request.scope) if ours else None
        response, final = self._follow(url, request, used, endpoint)
        if response.status != 401 or _origin(final) != _origin(base):
            return response
        challenges = tuple(parse_challenges(response.headers.get("WWW-Authenticate", "")))
        self._challenges[base, endpoint.repository] = challenges
        refused = refusal(response, endpoint, self.retry)
        header = self._sign_in(base, endpoint, challenges, used, request.scope)
        if header is None:
            raise refused
        response, _ = self._follow(url, request, header, endpoint)
        return response

    def _current(self, base: str, endpoint: Endpoint, scope: str) -> str | None:
        """Authorization for this repository. An expired token is replaced before it is refused: a refused upload is sent twice."""
        authorization = self._authorization(base, endpoint)
        challenges = self._challenges.get((base, endpoint.repository))
        return authorization or (self._sign_in(base, endpoint, challenges, None, scope) if challenges else None)

    def _authorization(self, base: str, endpoint: Endpoint) -> str | None:
        authorization = self._authorizations.get((base, endpoint.repository))
        return authorization.header if authorization and authorization.until > time.monotonic() else None

    def _sign_in(self, base: str, endpoint: Endpoint, challenges: Sequence[Challenge], used: str | None, scope: str) -> str | None:
        """A new Authorization header for the repository, once for all threads; None when there is no (other) credential."""
        key = (base, endpoint.repository)
        with self._lock:
            signing = self._signing.setdefault(key, threading.Lock())
        with signing:
            current = self._authorization(base, endpoint)
            if current is not None and current != used:
                return current  # another thread has just signed in
            credential = self.credentials.find(endpoint.domain, endpoint.repository)
            authorization = self._authorize(base, endpoint, challenges, credential, scope)
            if authorization is None or authorization.header == used:
                return None
            self._authorizations[key] = authorization
            return authorization.header

    def _authorize(
        self, base: str, endpoint: Endpoint, challenges: Sequence[Challenge], credential: Credential | None, scope: str
    ) -> _Authorization | None:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                if credential and credential.registry_token:
                    return _Authorization(f"Bearer {credential.registry_token}", float("inf"))
                return self._token(base, endpoint, challenge, credential, scope)
            if challenge.scheme == "basic" and credential and credential.basic:
                return _Authorization(credential.basic, float("inf"))
        return None

    def _wanted(self, base: str, endpoint: Endpoint, challenge: Challenge, scope: str) -> tuple[str, ...]:
        """The scopes of the next token: what is asked now and what was asked before, or threads would take it from each other."""
        key = (base, endpoint.repository)
        asked = (
            challenge.parameters.get("scope") or scope or (f"repository:{endpoint.repository}:pull" if endpoint.repository else "")
        ).split()
        self._scopes[key] = tuple(dict.fromkeys((*self._scopes.get(key, ()), *asked)))
        return self._scopes[key]

    def _token(self, base: str, endpoint: Endpoint, challenge: Challenge, credential: Credential | None, scope: str) -> _Authorization:
        """An access token from the realm, by the Docker token specification (GET) or its OAuth 2 form for identity tokens (POST)."""
        realm = urllib.parse.urljoin(base, challenge.parameters["realm"])
        host = untrusted.shown(urllib.parse.urlsplit(realm).netloc)
        if base.startswith("https:") and not realm.startswith("https:") and not endpoint.insecure:
            raise TroubleError(f"wants a token from {host} over plain HTTP", status=401, code="UNAUTHORIZED")
        scopes = self._wanted(base, endpoint, challenge, scope)
        service = [("service", challenge.parameters["service"])] if challenge.parameters.get("service") else []
        headers: dict[str, str] = {}
        body: str | None = None
        if credential and credential.identity_token:
            grant = [("grant_type", "refresh_token"), ("refresh_token", credential.identity_token), ("client_id", "slipway")]
            body = urllib.parse.urlencode([("scope", " ".join(scopes)), *service, *grant])
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            asked = urllib.parse.urlencode([*(("scope", one) for one in scopes), *service])
            realm += ("&" if "?" in realm else "?") + asked
            if credential and credential.basic:
                headers["Authorization"] = credential.basic
        response = self._send_once("POST" if body else "GET", realm, headers, endpoint.insecure, body.encode() if body else None)
        try:
            if response.status != 200:
                refused = refusal(response, endpoint, self.retry)
                raise TroubleError(
                    f"its token server {host}: {refused.reason}",
                    status=refused.status,
                    code=refused.code,
                    wait=refused.wait,
                    hint=refused.hint,
                )
            return _read_token(read_small(response, _TOKEN_LIMIT, "token"), host)
        finally:
            response.close()

    def _follow(self, url: str, request: HttpRequest, authorization: str | None, endpoint: Endpoint) -> _Final:
        """Ask, and follow redirects; the password stays with the host that it is for. The last answer and its URL."""
        headers = dict(request.headers)
        if request.body is not None:
            headers["Content-Length"] = str(request.size)
        elif request.method in ("POST", "PUT", "PATCH"):
            headers["Content-Length"] = "0"
        for _ in range(_MOST_REDIRECTS + 1):
            shown = {**headers, "Authorization": authorization} if authorization else headers
            response = self._send_once(request.method, url, shown, endpoint.insecure, request.body() if request.body else None)
            if response.status not in (301, 302, 303, 307, 308):
                return response, url
            target = urllib.parse.urljoin(url, response.headers.get("Location", ""))
            with contextlib.suppress(HTTPError, OSError):
                response.read(_ERROR_LIMIT, decode_content=False)  # an answer read to its end leaves a connection to use again
            response.close()
            host = untrusted.shown(urllib.parse.urlsplit(target).netloc)
            if not target.startswith(("http://", "https://")) or not host or target == url:
                raise TroubleError(f"redirects to nowhere ({response.status} without a usable Location)")
            if url.startswith("https:") and target.startswith("http:") and not endpoint.insecure:
                raise TroubleError(f"redirects to plain HTTP at {host}", hint="insecure = true in registries.conf would allow it")
            if _origin(target) != _origin(url):
                authorization = None
            url = target
        raise TroubleError(f"redirects more than {_MOST_REDIRECTS} times")

    def _send_once(
        self, method: str, url: str, headers: Mapping[str, str], insecure: bool, body: bytes | IO[bytes] | None
    ) -> urllib3.BaseHTTPResponse:
        parts = urllib.parse.urlsplit(url)
        try:
            if self.closed.is_set():
                raise TroubleError("cancelled", status=503)
            response = self._transport(f"{parts.scheme}://{parts.netloc}", insecure).send(method, url, headers, body)
        finally:
            if body is not None and not isinstance(body, bytes):
                body.close()
        # The query of a redirect may hold a signature: a reader of the log could fetch the blob with it.
        log.debug(f"{method} {parts.scheme}://{parts.netloc}{parts.path}: {response.status}")
        return response

    def _transport(self, base: str, insecure: bool) -> Transport:
        key = (base, insecure)
        with self._lock:
            pooled = self._transports.get(key)
            if pooled is None:
                pooled = Transport(transport.pool(base, self.registries, insecure=insecure), self.retry)
                self._transports[key] = pooled
            return pooled


_PART = re.compile(
    r'[\s,]*(?:(?P<key>[A-Za-z0-9_-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))|(?P<scheme>[A-Za-z][A-Za-z0-9_-]*))'
)


class RetryingClient(Protocol):
    """A client of registries that repeats a request until it is answered; harness.oci.registry.client.Client is one."""

    @property
    def session(self) -> Session: ...

    @property
    def retry(self) -> RetryPolicy: ...

    def send_with_retry(self, what: str, endpoint: Endpoint, request: HttpRequest, read: Callable[[urllib3.BaseHTTPResponse], _T]) -> _T:
        """Return the result of ``read`` for the first successful response. Raises TroubleError."""


def parse_challenges(text: str) -> list[Challenge]:
    """The challenges of a WWW-Authenticate header, several schemes in one allowed (RFC 9110, 11.6.1)."""
    schemes: list[tuple[str, dict[str, str]]] = []
    position = 0
    while part := _PART.match(text, position):
        position = part.end()
        if part["scheme"]:
            schemes.append((part["scheme"].lower(), {}))
        elif schemes:
            value = part["plain"] if part["quoted"] is None else re.sub(r"\\(.)", r"\1", part["quoted"])
            schemes[-1][1][part["key"].lower()] = value
    return [Challenge(scheme, parameters) for scheme, parameters in schemes]


def _read_token(data: bytes, host: str) -> _Authorization:
    try:
        answer = untrusted.json_object(data, what="token", limit=_TOKEN_LIMIT)
        token = answer.get("token") or answer.get("access_token")
        life = float(answer.get("expires_in") or _TOKEN_LIFE)
    except (StoreError, ValueError, TypeError):
        token, life = None, 0.0
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise TroubleError(f"its token server {host} gives no token", status=401, code="UNAUTHORIZED")
    # A tenth less: it must still be good when it arrives.
    return _Authorization(f"Bearer {token}", time.monotonic() + 0.9 * life)


def _origin(url: str) -> tuple[str, str]:
    parts = urllib.parse.urlsplit(url)
    return parts.scheme, parts.netloc

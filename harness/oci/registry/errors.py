"""Errors of registries and of the network, and whether a retry makes sense."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import email.utils
import functools
import random
import re
import socket
import ssl
from collections.abc import Iterator, Mapping, Sequence

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.exceptions import ProxyError as UnreachableProxyError

from harness import untrusted
from harness.errors import StoreError
from harness.oci.reference import Reference
from harness.oci.registry.config import Endpoint

_ERROR_LIMIT = 64 << 10


@dataclasses.dataclass(frozen=True)
class RetryPolicy:
    """Timeouts and retries for one registry. Times in seconds."""

    connect: float = 10.0
    read: float = 30.0
    """Longest silence, before the answer or between two of its bytes."""
    least_rate: float = 100.0
    """Lowest rate of a response, in bytes a second; a slower registry is given up even if it is never silent for long."""
    rate_window: float = 60.0
    """Of waiting, over which that is counted; what happens to the bytes in between does not count."""
    attempts: int = 4
    """Rounds over the endpoints; also how often a body may break with no progress between."""
    timeouts: int = 2
    """Timeouts of one endpoint before it is given up."""
    backoff: float = 0.5
    """Wait before the second round; doubled for each one after."""
    jitter: float = 0.25
    """Up to this part of a wait comes on top of it, by chance: who was turned away together must not come back together."""
    longest_wait: float = 20.0
    """A registry that says Retry-After is obeyed up to this; a longer wait is an error at once."""

    def pause(self, attempt: int, asked: float) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 0), when ``asked`` are asked for at least."""
        wait = max(asked, self.backoff * 2.0**attempt)
        return wait * (1 + self.jitter * random.random())  # noqa: S311 -- chance, not secrecy


class RemoteError(StoreError):
    """A registry does not have, cannot give, or gives something wrong.

    ``status`` and ``code`` are what a registry would answer (HTTP status and error code of the distribution specification).
    """

    def __init__(self, message: str, *, status: int = 502, code: str = "UNKNOWN", hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code


@contextlib.contextmanager
def not_found_allowed() -> Iterator[None]:
    """Continue after the block when a registry answers that it does not have something (404)."""
    try:
        yield
    except RemoteError as absent:
        if absent.status != 404:
            raise


class TroubleError(Exception):
    """One endpoint failed. ``wait``: it may be asked again after so many seconds (None: never; 0: whenever the next round is).

    ``transport``: it never came to an HTTP answer, so the other scheme may be the right one. ``absent``: nothing listens there, or the
    name does not exist; a registry that has not answered before is not asked again.
    """

    def __init__(
        self,
        reason: str,
        *,
        status: int = 502,
        code: str = "UNKNOWN",
        wait: float | None = None,
        transport: bool = False,
        absent: bool = False,
        hint: str | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status
        self.code = code
        self.wait = wait
        self.transport = transport
        self.absent = absent
        self.hint = hint


def error_reason(status: int, phrase: str | None, data: bytes) -> tuple[str, str]:
    """Reason and code of an error answer: the registry's own words where it has any, else the HTTP ones."""
    try:
        first = untrusted.json_object(data, what="answer", limit=_ERROR_LIMIT)["errors"][0]
        code, message = untrusted.shown(str(first.get("code") or "")), str(first.get("message") or "")
        detail = first.get("detail")
        message += f" ({detail})" if isinstance(detail, str) and detail and detail not in message else ""
    except (StoreError, KeyError, IndexError, TypeError, AttributeError):
        code, message = "", excerpt(data) if data.strip() and not data.lstrip().startswith(b"<") else ""
    words = untrusted.shown(" ".join(word for word in (code, message) if word) or phrase or "")
    return f"{status} {words}".strip(), code


def retry_after(value: str | None, now: datetime.datetime) -> float:
    """Seconds to wait by a Retry-After header (a number or a date); 0 when it says nothing."""
    if not value:
        return 0.0
    if re.fullmatch(r"\s*[0-9]+\s*", value):
        return float(value)
    try:
        when = email.utils.parsedate_to_datetime(value)
    except (ValueError, TypeError, OverflowError, IndexError):
        return 0.0
    return max(0.0, (when - now).total_seconds()) if when.tzinfo else 0.0


def refusal(response: urllib3.BaseHTTPResponse, endpoint: Endpoint, retry: RetryPolicy) -> TroubleError:
    """Turn an error response into a TroubleError, with the wait before a retry."""
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
        if wait > retry.longest_wait:
            reason += f" (come back in {wait:.0f} s)"
            wait = None
    if status in (401, 403):
        hint = f"it does not exist, or needs `slipway login {endpoint.domain}`"
    return TroubleError(reason, status=status, code=code or _CODES.get(status, "UNKNOWN"), wait=wait, hint=hint)


_CODES = {401: "UNAUTHORIZED", 403: "DENIED", 404: "MANIFEST_UNKNOWN", 429: "TOOMANYREQUESTS"}


@contextlib.contextmanager
def translate_errors(retry: RetryPolicy) -> Iterator[None]:
    """Turn what urllib3 and the sockets raise into a TroubleError."""
    try:
        yield
    except (HTTPError, OSError, ValueError) as problem:
        raise classify(problem, retry) from problem


def classify(problem: Exception, retry: RetryPolicy) -> TroubleError:
    while isinstance(problem, MaxRetryError) and problem.reason is not None:
        problem = problem.reason
    trouble = functools.partial(TroubleError, wait=0, transport=True)
    match problem:
        case TroubleError():
            error = problem
        case UnreachableProxyError():
            reason = f"the proxy of this machine refuses the connection: {problem.original_error}"
            error = trouble(reason, wait=None, hint="look at HTTPS_PROXY, HTTP_PROXY and NO_PROXY")
        case NameResolutionError():
            code = problem.__cause__.errno if isinstance(problem.__cause__, socket.gaierror) else None
            hint = "look at the spelling of the registry's name, and at the name servers of this machine"
            # A name server that fails for a moment says EAI_AGAIN.
            error = trouble("its name cannot be resolved", absent=code == socket.EAI_NONAME, hint=hint)
        case NewConnectionError():  # which some versions of urllib3 derive from ConnectTimeoutError
            cause = problem.__cause__
            why = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(problem).rpartition(": ")[2]
            refused = isinstance(cause, ConnectionRefusedError)
            hint = "look whether the registry runs, and listens on that port"
            error = trouble(f"no connection: {why}", absent=refused, hint=hint if refused else None)
        case ConnectTimeoutError():
            error = trouble(f"no connection within {retry.connect:g} s", status=504)
        case ReadTimeoutError():
            error = trouble(f"silent for {retry.read:g} s", status=504)
        case SSLError() | ssl.SSLError():
            error = _no_tls(problem)
        case HTTPError() | OSError():
            error = trouble(f"the connection broke: {untrusted.shown(str(problem))}")
        case _:
            error = TroubleError(f"cannot be asked: {untrusted.shown(str(problem))}")
    return error


def _no_tls(problem: SSLError | ssl.SSLError) -> TroubleError:
    cause = problem.args[0] if isinstance(problem, SSLError) and problem.args else problem
    unverified = getattr(cause, "verify_message", "")
    why = unverified or getattr(cause, "reason", "") or str(problem)
    if unverified:
        hint = "--ca trusts its authority, as certs.d/HOST/ca.crt below ~/.config/containers does"
    elif "ALERT" in why and "CERTIFICATE" in why:
        hint = "pass a client certificate with --cert and --cert-key, or as HOST.cert and HOST.key in certs.d/HOST"
    else:
        hint = "if it speaks plain HTTP, --plain-http says so, as insecure = true in registries.conf does"
    return TroubleError(f"no trusted TLS: {why}", transport=True, hint=hint)


def combine(reference: Reference, endpoints: Sequence[Endpoint], troubles: Mapping[Endpoint, TroubleError]) -> RemoteError:
    """One error of all: the last endpoint is the image's own registry, so its answer gives the status."""
    asked = [(endpoint, troubles[endpoint]) for endpoint in endpoints if endpoint in troubles]
    if not asked:
        return RemoteError(f"{reference}: cancelled", status=503)
    last = asked[-1][1]
    reasons = "; ".join(f"{'mirror ' if endpoint.mirror else ''}{endpoint.host}: {trouble.reason}" for endpoint, trouble in asked)
    return RemoteError(f"{reference}: {reasons}", status=last.status, code=last.code, hint=last.hint)


def drain(response: urllib3.BaseHTTPResponse) -> None:
    """Read an answer that says no more to its end, which leaves a connection to use again."""
    with contextlib.suppress(HTTPError, OSError):
        response.read(_ERROR_LIMIT, decode_content=False)
    response.release_conn()


def read_small(response: urllib3.BaseHTTPResponse, limit: int, what: str) -> bytes:
    length = response.headers.get("Content-Length", "")
    if length.isdigit() and int(length) > limit:
        raise TroubleError(f"answers a {what} of {length} bytes; more than {limit} are refused")
    parts: list[bytes] = []
    size = 0
    while data := response.read(limit + 1 - size, decode_content=False):
        parts.append(data)
        size += len(data)
        if size > limit:
            raise TroubleError(f"answers a {what} of more than {limit} bytes")
    response.release_conn()
    return b"".join(parts)


def excerpt(data: bytes) -> str:
    return untrusted.shown(" ".join(data[:200].decode(errors="replace").split())[:120])

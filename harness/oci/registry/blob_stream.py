"""The body of one blob, read from its registry. A connection that breaks is resumed where it broke."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping

import urllib3
from urllib3.exceptions import HTTPError

from harness import log
from harness.oci.reference import Reference
from harness.oci.registry import errors
from harness.oci.registry.config import Endpoint
from harness.oci.registry.errors import RemoteError, RetryPolicy, TroubleError

_PROGRESS = 1 << 20
"""Bytes after which a transfer that broke again counts as a new one: it gets on, if slowly."""

_CAUTIOUS = 64 << 10
"""Bytes that are read at a time over a connection that has broken before."""

Begin = Callable[[Endpoint, urllib3.BaseHTTPResponse], urllib3.BaseHTTPResponse]
Request = Callable[[Mapping[str, str], Begin], urllib3.BaseHTTPResponse]
"""Requests the blob, with headers, from its endpoints in turn, and returns what the function makes of the first good response."""


class BlobStream:
    """The bytes of one blob, in order. A connection that breaks is resumed where it broke, unseen by the reader."""

    def __init__(self, request: Request, retry: RetryPolicy, reference: Reference, digest: str, size: int | None, start: int = 0) -> None:
        self.size = size
        """Size of the blob; None when neither manifest nor registry states it."""
        self.source = ""
        self._request = request
        self._retry = retry
        self._reference = reference
        self._digest = digest
        self._offset = start
        self._broken = 0
        self._broke_at = start
        self._aborted = False
        self._response = self._open()

    def read(self, amount: int) -> bytes:
        """Up to ``amount`` bytes; none at the end. Raises RemoteError when the blob cannot be had to its end."""
        while True:
            try:
                # A failed read loses what it had received: on a bad connection read little at a time, or there is no progress.
                data = self._response.read(min(amount, _CAUTIOUS) if self._broken else amount, decode_content=False)
                if not data and self.size is not None and self._offset < self.size:
                    raise TroubleError(f"ends {self.size - self._offset} bytes early")
            except (HTTPError, OSError, TroubleError) as lost:
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
        return self._request(headers, self._begin)

    def _begin(self, endpoint: Endpoint, response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
        start, total = body_range(response.status, response.headers)
        if self.size is not None and total is not None and total != self.size:
            raise TroubleError(f"blob {self._digest} has {total} bytes there, not {self.size}", code="BLOB_UNKNOWN")
        if start > self._offset:
            raise TroubleError(f"blob {self._digest}: asked from byte {self._offset}, got from {start}", code="BLOB_UNKNOWN")
        self.size = self.size if self.size is not None else total
        self.source = endpoint.host
        # Without ranges the response restarts: skip what was received before. The digest of the whole is compared in the end.
        skip = self._offset - start
        while skip:
            data = response.read(min(skip, _PROGRESS), decode_content=False)
            if not data:
                raise TroubleError(f"blob {self._digest} ends early", wait=0)
            skip -= len(data)
        return response

    def _resume(self, lost: Exception) -> None:
        self._response.close()
        reason = errors.classify(lost, self._retry)
        if self._aborted:
            raise self._error("was stopped") from lost
        log.debug(f"{self.source}: {self._digest} broke at {self._offset} bytes: {reason.reason}")
        self._broken = 1 if self._offset - self._broke_at >= _PROGRESS else self._broken + 1
        self._broke_at = self._offset
        if self._broken >= self._retry.attempts:
            raise self._error(f"broke {self._broken} times at about byte {self._offset}: {reason.reason}", reason.status) from lost
        self._response = self._open()

    def _error(self, reason: str, status: int = 502) -> RemoteError:
        return RemoteError(f"{self._reference}: {self.source}: blob {self._digest} {reason}", status=status, code="BLOB_UNKNOWN")


def body_range(status: int, headers: Mapping[str, str]) -> tuple[int, int | None]:
    """Offset at which the body of a blob begins, and the size of the whole blob if the response states it."""
    length = headers.get("Content-Length")
    if status != 206:
        return 0, int(length) if length is not None and length.isdigit() else None
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
    if not match:
        raise TroubleError("answers a range without saying which")
    return int(match[1]), int(match[2]) if match[2] != "*" else None

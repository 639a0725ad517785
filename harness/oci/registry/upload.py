"""One blob into one repository of a registry, by the distribution specification: look, mount, or send and go on where it broke."""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from typing import IO, BinaryIO, cast

import urllib3

from harness import log
from harness.oci.model import Descriptor
from harness.oci.registry.config import Endpoint
from harness.oci.registry.errors import RemoteError, TroubleError, combine, drain
from harness.oci.registry.session import HttpRequest, RetryingClient

Source = Callable[[], BinaryIO]
"""Opens the blob at its beginning; may be called again."""

Progress = Callable[[int], None]
"""Told how many more bytes have gone out; fewer than none when bytes have to go out again."""

SMALL = 4 << 20
"""Bytes up to which a blob goes out in one request; when that breaks it goes out again."""


_FORGOTTEN = (404, 416)
"""Statuses of an upload that the registry does not know, or whose offset it reported wrongly: the upload restarts."""


@dataclasses.dataclass(frozen=True)
class Sent:
    """Result of an upload: ``present``, ``mounted`` or ``uploaded``, and the bytes that were sent."""

    how: str
    bytes: int = 0


def upload(client: RetryingClient, endpoint: Endpoint, blob: Descriptor, source: Source, mounts: Sequence[str], progress: Progress) -> Sent:
    """See Client.put_blob. Raises RemoteError."""
    work = _Upload(client, endpoint, blob, source, progress)
    try:
        if work.present():
            return Sent("present")
        place = None
        for repository in mounts:
            place = work.begin(repository)
            if place is None:
                return Sent("mounted")
            break  # a refused mount begins an upload; asking more repositories would leave upload after upload behind
        return Sent("uploaded", work.send(place))
    except TroubleError as trouble:
        raise combine(dataclasses.replace(endpoint.reference, tag=None, digest=blob.digest), (endpoint,), {endpoint: trouble}) from trouble


@dataclasses.dataclass
class _Upload:
    client: RetryingClient
    endpoint: Endpoint
    blob: Descriptor
    source: Source
    progress: Progress
    sent: int = 0
    """Bytes that went out, those that were lost included."""
    shown: int = 0
    """Bytes of the blob that count as sent."""

    def now(self, count: int) -> None:
        """So many bytes of the blob count as sent; more than before, or fewer when some have to go out again."""
        self.progress(count - self.shown)
        self.shown = count

    def _ask(self, request: HttpRequest) -> urllib3.BaseHTTPResponse:
        """Asked until it is answered; the answer's body is of no interest."""

        def read(response: urllib3.BaseHTTPResponse) -> urllib3.BaseHTTPResponse:
            drain(response)
            return response

        return self.client.send_with_retry(self.blob.digest, self.endpoint, request, read)

    @property
    def _scope(self) -> str:
        return f"repository:{self.endpoint.repository}:pull,push"

    def present(self) -> bool:
        answer = self._ask(HttpRequest("HEAD", f"{self.endpoint.repository}/blobs/{self.blob.digest}", scope=self._scope, good=(200, 404)))
        length = answer.headers.get("Content-Length", "")
        # One with another length is not the blob; sending it again lets the registry find out.
        return answer.status == 200 and (not length.isdigit() or int(length) == self.blob.size)

    def begin(self, mount: str | None = None) -> str | None:
        """URL to send the blob to; None when it has been mounted from the repository ``mount``."""
        path = f"{self.endpoint.repository}/blobs/uploads/"
        scope = self._scope
        if mount:
            path += "?" + urllib.parse.urlencode({"mount": self.blob.digest, "from": mount})
            scope += f" repository:{mount}:pull"
        try:
            answer = self._ask(HttpRequest("POST", path, scope=scope, good=(201, 202)))
        except TroubleError as refused:
            # The registry may refuse to read that other repository: send the blob instead.
            if mount is None or refused.wait is not None:
                raise
            return self.begin()
        if answer.status == 201:
            return None
        return self._place(answer)

    def _place(self, answer: urllib3.BaseHTTPResponse, before: str | None = None) -> str:
        """The address of the upload, from the header Location."""
        place = answer.headers.get("Location", "") or before
        if not place:
            raise TroubleError("begins an upload without saying where")
        if "://" in place:
            return place
        # Relative to the registry: its scheme is known once a request was answered.
        return urllib.parse.urljoin(f"{self.client.session.base(self.endpoint)}/v2/", place)

    def send(self, place: str | None) -> int:
        """Send all of it, however often the connection breaks within the retry policy; bytes that went out."""
        retry = self.client.retry
        broken = 0
        best = 0
        for location in self._places(place):
            try:
                if self.blob.size <= SMALL:
                    self._put(location, 0)
                else:
                    self._stream(location)
            except _BrokeError as lost:
                self.now(0)
                # As long as it gets on, a bad line may break as often as it likes.
                broken = 1 if lost.reached > best else broken + 1
                best = max(best, lost.reached)
                wait = 0.0 if lost.trouble.status in _FORGOTTEN else lost.trouble.wait
                if wait is None or broken >= retry.attempts:
                    raise lost.trouble from lost
                log.debug(f"{self.endpoint.host}: {self.blob.digest}: {lost.trouble.reason}; once more")
                if self.client.session.closed.wait(retry.pause(broken - 1, wait)):
                    raise lost.trouble from lost
                # Only the answer may have been lost.
                if self.present():
                    self.now(self.blob.size)
                    return self.sent
            else:
                return self.sent
        raise AssertionError("there is always one more place")

    def _places(self, place: str | None) -> Iterator[str]:
        while True:
            location = place or self.begin()
            if location is None:
                raise AssertionError("nothing was to be mounted")
            yield location
            place = None

    def _stream(self, place: str) -> None:
        """One upload: its body in one request, gone on with where the registry has got to, then closed by its digest."""
        offset = 0
        failures = 0
        while offset < self.blob.size:
            out = _Body(self, offset)
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{offset}-{self.blob.size - 1}"}
            try:
                answer = self._once(HttpRequest("PATCH", place, headers, out.open, self.blob.size - offset, self._scope, (202, 204)))
                place = self._place(answer, place)
                offset = self.blob.size
            except TroubleError as trouble:
                reached, place = self._reached(place, trouble, offset)
                self.now(reached)
                failures = 1 if reached > offset else failures + 1
                if failures >= self.client.retry.attempts:
                    raise _BrokeError(trouble, reached) from trouble
                offset = reached
        self._put(place, self.blob.size)

    def _reached(self, place: str, trouble: TroubleError, offset: int) -> tuple[int, str]:
        """Bytes of the upload that the registry has, and the URL to resume at. Raises _BrokeError when it does not report them."""
        if trouble.wait is None:
            raise _BrokeError(trouble, offset) from trouble
        self.client.session.closed.wait(self.client.retry.pause(0, trouble.wait))
        try:
            answer = self._once(HttpRequest("GET", place, scope=self._scope, good=(204, 202, 200)))
        except TroubleError as unknown:
            raise _BrokeError(trouble, offset) from unknown
        match = re.fullmatch(r"(?:bytes=)?0-(\d+)", answer.headers.get("Range", ""))
        # The last byte, which is 0 also when there is none: then the offset to resume at is not known.
        last = int(match[1]) if match else 0
        if not last:
            raise _BrokeError(trouble, offset) from trouble
        return last + 1, self._place(answer, place)

    def _put(self, place: str, offset: int) -> None:
        """Close the upload, with the bytes that have not been sent yet."""
        out = _Body(self, offset)
        url = f"{place}{'&' if '?' in place else '?'}{urllib.parse.urlencode({'digest': self.blob.digest})}"
        rest = self.blob.size - offset
        headers = {"Content-Type": "application/octet-stream"}
        try:
            self._once(HttpRequest("PUT", url, headers, out.open if rest else None, rest, self._scope, (201, 204)))
        except TroubleError as trouble:
            raise _BrokeError(trouble, offset) from trouble

    def _once(self, request: HttpRequest) -> urllib3.BaseHTTPResponse:
        answer = self.client.session.send(self.endpoint, request)
        drain(answer)
        return answer


class _BrokeError(Exception):
    """An upload came to nothing after the registry had ``reached`` so many bytes."""

    def __init__(self, trouble: TroubleError, reached: int) -> None:
        super().__init__(trouble.reason)
        self.trouble = trouble
        self.reached = reached


class _Body:
    """The rest of the blob from ``offset`` on, as the body of a request; what is taken from it counts as sent."""

    def __init__(self, work: _Upload, offset: int) -> None:
        self._work = work
        self._offset = offset
        self._file: BinaryIO | None = None

    def open(self) -> IO[bytes]:
        self._work.now(self._offset)  # it may have been sent once before, and refused before it was taken
        self._file = self._work.source()
        self._file.seek(self._offset)
        return cast("IO[bytes]", self)

    def __len__(self) -> int:
        return self._work.blob.size - self._offset

    def __iter__(self) -> Iterator[bytes]:
        while data := self.read(1 << 20):
            yield data

    def read(self, amount: int = -1) -> bytes:
        if self._file is None:
            raise RemoteError("the body of the request is not open")
        if self._work.client.session.closed.is_set():
            raise TroubleError("cancelled", status=503)  # else gigabytes would go out after Ctrl-C
        data = self._file.read(amount)
        self._work.sent += len(data)
        self._work.now(self._work.shown + len(data))
        return data

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

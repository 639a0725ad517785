"""A registry in memory that stands where the connections would be: what it is asked, and what goes wrong, is for tests to say."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

import urllib3

from harness.oci.model import digest_of
from harness.oci.registry.client import Client
from harness.oci.registry.config import Registries
from harness.oci.registry.errors import RetryPolicy

HOST = "reg.test:5000"
Spoilt = Callable[["Asked"], urllib3.BaseHTTPResponse]


@dataclasses.dataclass
class Asked:
    """A request. ``body`` is what was taken of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    stream: bytes | IO[bytes] | None
    body: bytes = b""

    def take(self, count: int = -1) -> bytes:
        stream = io.BytesIO(self.stream) if isinstance(self.stream, bytes) else self.stream
        self.body = stream.read(count) if stream is not None else b""
        return self.body

    @property
    def line(self) -> str:
        return f"{self.method} {self.path.partition('?')[0]}"


def answer(status: int, body: bytes = b"", **headers: str) -> urllib3.BaseHTTPResponse:
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return urllib3.HTTPResponse(io.BytesIO(body), {"Content-Length": str(len(body)), **named}, status, preload_content=False)


class Registry:
    """By the distribution specification, as far as slipway uses it. ``relative``: it says paths in Location, without its own address."""

    def __init__(self) -> None:
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[str, bytes]] = {}
        self.uploads: dict[str, bytes] = {}
        self.asked: list[Asked] = []
        self.relative = False
        self.has_referrers = False
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._spoilt: list[tuple[str, str, Spoilt]] = []

    @property
    def lines(self) -> list[str]:
        return [asked.line for asked in self.asked]

    def count(self, method: str, pattern: str = "") -> int:
        return sum(asked.method == method and bool(re.search(pattern, asked.path)) for asked in self.asked)

    def spoil(self, method: str, pattern: str, *how: Spoilt) -> None:
        """The next requests that match get these, one each."""
        self._spoilt += [(method, pattern, one) for one in how]

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | IO[bytes] | None = None) -> urllib3.BaseHTTPResponse:
        parts = urllib.parse.urlsplit(url)
        asked = Asked(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, dict(headers), body)
        self.asked.append(asked)
        with self._lock:
            due = next((due for due in self._spoilt if due[0] == method and re.search(due[1], asked.path)), None)
            if due:
                self._spoilt.remove(due)
        return due[2](asked) if due else self.well(asked)

    def close(self) -> None: ...

    def well(self, asked: Asked) -> urllib3.BaseHTTPResponse:
        """The answer of a registry that works."""
        path = asked.path.removeprefix("/v2/").partition("?")[0]
        repository, kind, name = re.fullmatch(r"(.*?)/(manifests|blobs/uploads|blobs|referrers)/(.*)", path).groups()  # type: ignore[union-attr]
        handler: Callable[[Asked, str, str], urllib3.BaseHTTPResponse]
        handler = {"manifests": self._manifest, "blobs": self._blob, "blobs/uploads": self._upload, "referrers": self._referrers}[kind]
        return handler(asked, repository, name)

    def _manifest(self, asked: Asked, repository: str, name: str) -> urllib3.BaseHTTPResponse:
        if asked.method == "PUT":
            data = asked.take()
            for key in (name, digest_of(data)):
                self.manifests[repository, key] = (asked.headers["Content-Type"], data)
            said = {"docker_content_digest": digest_of(data)}
            if self.has_referrers and b'"subject"' in data:
                said["oci_subject"] = "yes"
            return answer(201, b"", **said)
        found = self.manifests.get((repository, name))
        if found is None:
            return answer(404, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no"}]}')
        return answer(200, found[1], content_type=found[0], docker_content_digest=digest_of(found[1]))

    def _blob(self, asked: Asked, repository: str, digest: str) -> urllib3.BaseHTTPResponse:
        found = self.blobs.get((repository, digest))
        if found is None:
            return answer(404)
        begun = int(re.sub(r"\D", "", asked.headers.get("Range", "0")))
        if begun:
            return answer(206, found[begun:], content_range=f"bytes {begun}-{len(found) - 1}/{len(found)}")
        return answer(200, found)

    def _upload(self, asked: Asked, repository: str, name: str) -> urllib3.BaseHTTPResponse:
        query = dict(urllib.parse.parse_qsl(asked.path.partition("?")[2]))
        if asked.method == "POST":
            data = self.blobs.get((query.get("from", ""), query.get("mount", "")))
            if data is not None:
                self.blobs[repository, query["mount"]] = data
                return answer(201)
            name = f"upload{next(self._numbers)}"
            self.uploads[name] = b""
        if name not in self.uploads:
            return answer(404, b'{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN","message":"never heard of it"}]}')
        self.uploads[name] += asked.take()
        if asked.method == "PUT":
            data = self.uploads.pop(name)
            if digest_of(data) != query["digest"]:
                return answer(400, b'{"errors":[{"code":"DIGEST_INVALID","message":"other bytes"}]}')
            self.blobs[repository, query["digest"]] = data
            return answer(201)
        place = f"/v2/{repository}/blobs/uploads/{name}"
        got = len(self.uploads[name])
        status = 204 if asked.method == "GET" else 202
        return answer(status, location=place if self.relative else f"http://{HOST}{place}", range=f"0-{max(got - 1, 0)}")

    def _referrers(self, asked: Asked, repository: str, digest: str) -> urllib3.BaseHTTPResponse:
        return answer(404, b"404 page not found")

    # What may go wrong

    def breaks(self, after: int) -> Spoilt:
        """So many bytes of a body arrive in an upload, then the connection ends."""

        def spoilt(asked: Asked) -> urllib3.BaseHTTPResponse:
            name = asked.path.partition("?")[0].rpartition("/")[2]
            if name in self.uploads and asked.method == "PATCH":
                self.uploads[name] += asked.take(after)
            else:
                asked.take(after)
            raise ConnectionResetError("reset by peer")

        return spoilt

    def answer_lost(self, asked: Asked) -> urllib3.BaseHTTPResponse:
        """It does what it is asked, and nobody hears of it."""
        self.well(asked)
        raise ConnectionResetError("reset by peer")

    def forgets(self, asked: Asked) -> urllib3.BaseHTTPResponse:
        self.uploads.clear()
        return self.well(asked)


class Waits:
    """Stands for the event on which the client waits; time passes at once."""

    def __init__(self) -> None:
        self.waited: list[float] = []
        self._set = False

    def wait(self, seconds: float | None = None) -> bool:
        self.waited.append(seconds or 0.0)
        return self._set

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True


class Nobody:
    def find(self, domain: str, repository: str = "") -> None:
        return None


@contextlib.contextmanager
def client(of: Registry, *, attempts: int = 4) -> Iterator[Client]:
    """A client whose every connection leads to the stand-in, and which never really waits (``client.session.closed.waited``)."""
    with Client(Registries(plain=True), Nobody(), retry=RetryPolicy(attempts=attempts, jitter=0.0)) as found:
        session: Any = found.session
        session._transport = lambda base, insecure: of
        session.closed = Waits()
        yield found


def waited(client: Client) -> Sequence[float]:
    session: Any = client.session
    return tuple(session.closed.waited)

"""A registry that lies: it serves a layout that was made by hand, and answers as a test wants where it shall not be honest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tests.hostile.images import Layout, digest, dumped
from tests.integration.faulty import Answer, Faulty, Handler, body, faulty

REPOSITORY = "library/bad"


class Lying:
    """``reference`` is what to pull; the paths are those of the distribution specification."""

    def __init__(self, server: Faulty, layout: Layout) -> None:
        self.server = server
        self.layout = layout
        root = layout.index[0]
        self.reference = f"{server.host}/{REPOSITORY}:latest"
        self.tag = f"/v2/{REPOSITORY}/manifests/latest"
        server.on("/v2/", body(b"{}", "application/json"))
        for name, data in layout.blobs.items():
            self.manifest(name, data, layout.types[name])
            server.on(f"/v2/{REPOSITORY}/blobs/{name}", body(data, "application/octet-stream"))
        self.manifest("latest", layout.blobs[root["digest"]], root["mediaType"])

    def manifest(self, name: str, data: bytes, media_type: str) -> None:
        """A manifest by tag or digest; it is what its digest says."""
        self.server.on(f"/v2/{REPOSITORY}/manifests/{name}", body(data, media_type, docker_content_digest=digest(data)))

    def root(self, value: object, media_type: str = "application/vnd.oci.image.index.v1+json") -> None:
        """Serve another document under the tag."""
        data = dumped(value)
        self.manifest("latest", data, media_type)
        self.manifest(digest(data), data, media_type)

    def blob(self, name: str, answer: Answer) -> None:
        self.server.on(f"/v2/{REPOSITORY}/blobs/{name}", answer)

    def sent(self) -> bytes:
        """All that clients said: paths and headers."""
        return "\n".join(
            f"{request.method} {request.path} {' '.join(f'{name}: {value}' for name, value in request.headers.items())}"
            for request in self.server.requests
        ).encode(errors="replace")


@contextlib.contextmanager
def lying(layout: Layout) -> Iterator[Lying]:
    with faulty() as server:
        yield Lying(server, layout)


def slow(handler: Handler) -> None:
    """One byte now and then of a body that is said to be long, though not longer than a manifest may be."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(1 << 20))
    handler.end_headers()
    with contextlib.suppress(OSError):
        while not handler.faulty.ended.wait(1):
            handler.wfile.write(b"{")
    handler.close_connection = True


def raw(head: bytes) -> Answer:
    """A response whose head is these bytes, whatever HTTP says."""

    def answer(handler: Handler) -> None:
        handler.wfile.write(head)
        handler.close_connection = True

    return answer

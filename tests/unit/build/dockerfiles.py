"""Dockerfiles of images/ for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

from harness.build.container_images import Builder
from harness.oci.store import Store

PROXY = """\
FROM debian:bookworm-slim AS linked
ARG VERSION=v1.36.3
RUN make

# image: example.org/proxy:${VERSION}
FROM scratch AS proxy
COPY --from=linked /out /

# image: example.org/pause:3.2
FROM scratch AS pause
"""


def write(root: Path, name: str, text: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text(text)
    return folder


def builder(tmp_path: Path) -> Builder:
    return Builder(Store(tmp_path / "store"), (tmp_path / "images",))

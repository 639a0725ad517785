"""Images for sites, and what tests ask of a page."""

from __future__ import annotations

import dataclasses
import html.parser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.cloudimage import CloudImage, ExpectedValue, Info, ValueType
from harness.cloudimage.search import DESCRIPTION
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.trust.signature import Demand
from harness.website import site
from harness.website.site import SiteRequest
from tests.unit.cloudimage.examples import AMD64, ARM64, file, put

INFO = Info(
    kubernetes="v1.36.3",
    env={"Mode": "fast", "DB_PASSWORD": "hunter22"},
    launch=("kubectl apply -f manifests/",),
    labels={DESCRIPTION: "nginx and Redis behind Services"},
    values=(
        ExpectedValue("Port", ("manifests/web.yaml:7",), None, True, False, "where the site listens", ValueType("integer", minimum=1)),
        ExpectedValue("Token", (), None, False, True),
    ),
)


def two_versions(store: Store) -> tuple[CloudImage, CloudImage]:
    """``web:1.9`` and ``web:1.10``, which is ``web:latest`` too; and an application for clusters that run."""
    images = []
    for version, redis in (("1.9", "7.0"), ("1.10", "7.2")):
        layers = [[file("bin/kubelet", b"kubelet")], [file("manifests/web.yaml", f"version: {version}\n")]]
        embedded = {"docker.io/library/nginx:1.25": b"nginx", f"docker.io/library/redis:{redis}": f"redis {redis}".encode()}
        history = ("COPY bin bin", "COPY manifests manifests", "ARG TOKEN=hunter33")
        info = dataclasses.replace(INFO, labels={**INFO.labels, "version": version})
        name = f"web:{version}"
        images.append(put(store, name, *layers, info=info, embedded=embedded, history=history, platforms=(AMD64, ARM64)))
    store.tag("web:latest", store.resolve("web:1.10"))
    put(store, "registry.example.com/shop/queue:2", [file("a")], info=Info(type="app", kube_version=">=1.31"))
    return images[0], images[1]


def no_demands(_: Reference) -> Sequence[Demand]:
    return ()


def rendered(store: Store, tmp_path: Path, name: str = "site", **request: Any) -> Path:
    """The folder of a site of the store."""
    demands = request.pop("demands", no_demands)
    site.make(store, SiteRequest(tmp_path / name, **request), demands)
    return tmp_path / name


def page(folder: Path, beginning: str) -> str:
    (path,) = folder.glob(f"images/{beginning}-????????????.html")
    return path.read_text()


class Page(html.parser.HTMLParser):
    """Elements of a page with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._inside:
            while self._inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._inside):
            self.parts.append(data)

    @property
    def text(self) -> str:
        """All that is to be read, blanks joined."""
        return " ".join("".join(self.parts).split())

    def links(self) -> list[str]:
        return [attributes["href"] or "" for tag, attributes in self.elements if tag == "a"]

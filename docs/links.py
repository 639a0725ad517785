"""``python -m docs.links FOLDER``: check the links of built pages.

Each must lead to a file and an id that exist, and nothing may be loaded from elsewhere.
"""

from __future__ import annotations

import sys
import urllib.parse
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

_LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "object": "data"}
"""Elements that make a browser fetch something, and the attribute that says what."""


class Page(HTMLParser):
    """The ids and the links of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []
        """Element and address."""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if values.get("id"):
            self.ids.add(str(values["id"]))
        address = values.get(_LOADED.get(tag, "href"))
        if address:
            self.links.append((tag, address))


def faults(folder: Path) -> Iterator[str]:
    """What is wrong with the links of all pages below a folder."""
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in sorted(folder.rglob("*.html"))}
    for path, page in pages.items():
        for tag, address in page.links:
            parts = urllib.parse.urlsplit(address)
            where = f"{path.relative_to(folder)}: {address}"
            if parts.scheme or parts.netloc:
                if tag in _LOADED and not (tag == "link" and parts.scheme == "data"):
                    yield f"{where}: is loaded from elsewhere"
                continue
            target = (path.parent / urllib.parse.unquote(parts.path)).resolve() if parts.path else path.resolve()
            if not target.is_relative_to(folder.resolve()) or not target.is_file():
                yield f"{where}: there is no such file"
            elif parts.fragment and target in {known.resolve() for known in pages}:
                known = next(page for name, page in pages.items() if name.resolve() == target)
                if urllib.parse.unquote(parts.fragment) not in known.ids:
                    yield f"{where}: there is no such anchor"


def main(arguments: list[str]) -> int:
    """Print what is wrong and return the exit code."""
    folder = Path(arguments[0])
    wrong = list(faults(folder))
    print(*wrong, f"{len(list(folder.rglob('*.html')))} pages, {len(wrong)} broken links", sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

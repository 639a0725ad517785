"""Reports about runs of tests, in a folder of the user: the site holds those whose digest a statement about one of its images names."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path

from harness import log
from harness.errors import StoreError
from harness.untrusted import UntrustedTree
from harness.website.evidence import LARGEST, AttachedDocument, is_plain_text

_PAGE = ".html"
_TEXTS = (".log", ".xml", ".txt", ".json", ".md")
"""Ends of names of logs and of reports for programs. The site has them as plain text: a browser runs what is in some sorts of XML."""


@dataclasses.dataclass(frozen=True)
class FoundReport:
    """A report and the end of its file in the site: ``html`` or ``txt``."""

    ending: str
    data: bytes


def find(folder: Path | None, documents: Iterable[AttachedDocument]) -> dict[str, FoundReport]:
    """The pages and logs in a folder that documents name, by digest. A file of another digest is not one of them."""
    named = [report for document in documents for report in document.reports]
    wanted = {digest for _, digest in named}
    if folder is None or not wanted:
        return {}
    names = {name.rpartition("/")[2] for name, _ in named}
    tree, found = UntrustedTree(folder), dict[str, FoundReport]()
    for path in tree.files():
        # Logs are many, and large: beside the pages of the folder itself only files are read that have the name of a report.
        is_named = path.rpartition("/")[2] in names and path.endswith((_PAGE, *_TEXTS))
        if not is_named and ("/" in path or not path.endswith(_PAGE)):
            continue
        try:
            data = tree.read_bytes(path, limit=LARGEST)
        except (OSError, StoreError) as wrong:
            log.warning(f"the report {path} is left out: {wrong}")
            continue
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest not in wanted:
            continue
        if path.endswith(_PAGE):
            found[digest] = FoundReport("html", data)
        elif is_plain_text(data):
            found.setdefault(digest, FoundReport("txt", data))
        else:
            log.warning(f"the report {path} is left out: it is not text")
    return dict(sorted(found.items()))

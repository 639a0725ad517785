"""Pages about runs of tests, in a folder of the user: the site holds those whose digest a statement about one of its images names."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from harness import log
from harness.errors import StoreError
from harness.untrusted import FILE_LIMIT, UntrustedTree
from harness.website.evidence import AttachedDocument

_ENDING = ".html"


def find(folder: Path | None, documents: Iterable[AttachedDocument]) -> dict[str, bytes]:
    """The pages in a folder that documents name, by digest. A page of another digest is not one of them."""
    wanted = {digest for document in documents for _, digest in document.reports}
    if folder is None or not wanted:
        return {}
    tree, found = UntrustedTree(folder), {}
    for name in tree.list():
        if not name.endswith(_ENDING):
            continue
        try:
            data = tree.read_bytes(name, limit=FILE_LIMIT)
        except (OSError, StoreError) as wrong:
            log.warning(f"the report {name} is left out: {wrong}")
            continue
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if digest in wanted:
            found[digest] = data
    return dict(sorted(found.items()))

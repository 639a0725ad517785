"""Files of a rootfs for the tests of this folder."""

from __future__ import annotations

import textwrap
from pathlib import Path

NGINX = "docker.io/library/nginx:1"
DIGEST = "sha256:" + "a" * 64


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text).removeprefix("\n") if text.startswith("\n ") else text)
    return root

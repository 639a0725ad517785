"""Files that come with the package: programs and scripts for nodes, Go modules to compile; in a wheel also images/ and kubefiles/."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def bundled(name: str) -> Path | None:
    """The folder ``images`` or ``kubefiles`` that came with the package: that of a checkout, or what the wheel carries."""
    return next((path for path in (FOLDER.parents[1] / name, FOLDER / name) if path.is_dir()), None)

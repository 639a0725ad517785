"""Changing bytes of a store behind its back."""

from __future__ import annotations

from harness.oci.store import Store


def flip(store: Store, digest: str, position: int = -1) -> None:
    """Change one bit of a blob; its length and its name stay."""
    path = store.path(digest)
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)

"""Proof that policy lets an image in. The store asks for it before an image from elsewhere gets a name."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Admitted:
    """An image that policy admits under ``name``. Only harness.trust.policy makes one.

    ``signatures`` are those that let it in (harness.trust.signature.Signed); none where none is needed.
    """

    name: str
    digest: str
    signatures: tuple[Any, ...] = ()

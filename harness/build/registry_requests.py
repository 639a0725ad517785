"""Requests of a client to a registry: the image they are for, the media types and bytes they want."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

from harness.oci.model import INDEXES, MANIFESTS
from harness.oci.reference import Reference
from harness.oci.registry.manifest import ACCEPT

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def reference_of(name: str, target: str, namespace: str) -> Reference:
    """Reference that a request is for: ``/v2/<name>/.../<target>?ns=<namespace>``, or the registry as first part of ``name``.

    Raises ValueError.
    """
    digest = target if _DIGEST.fullmatch(target) else None
    if ":" in target and digest is None:
        raise ValueError(f"{target!r} is neither a tag nor a sha256 digest")
    domain = Reference.parse(f"{namespace}/x").domain if namespace else ""
    if namespace and domain != namespace and namespace not in ("index.docker.io", "registry-1.docker.io"):
        raise ValueError(f"ns={namespace!r} is not a registry")
    if namespace == "registry-1.docker.io":
        domain = "docker.io"
    # Some clients are configured to send both.
    path = f"{domain}/{name.removeprefix(f'{domain}/')}" if domain else name
    return Reference.parse(f"{path}@{digest}" if digest else f"{path}:{target}")


def accepted(headers: Iterable[str]) -> tuple[str, ...]:
    """Media types of Accept headers, in order; slipway's own list when the client names no manifest type."""
    types = [part.partition(";")[0].strip().lower() for header in headers for part in header.split(",")]
    media_types = tuple(dict.fromkeys(name for name in types if name))
    return media_types if any(name in (*INDEXES, *MANIFESTS) for name in media_types) else ACCEPT


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end (exclusive) of a range; the whole without a range or for one that may be ignored; None: not satisfiable."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if not match or not (match[1] or match[2]):
        return 0, size
    if not match[1]:
        last = int(match[2])
        return (max(0, size - last), size) if last and size else None
    start = int(match[1])
    end = min(int(match[2]) + 1, size) if match[2] else size
    if match[2] and int(match[2]) < start:
        return 0, size
    return (start, end) if start < size else None


def status_phrase(status: int, message: str) -> str:
    """A reason that is valid in a status line: one short line of ASCII."""
    plain = " ".join(message.encode("ascii", "replace").decode().split())
    text = "".join(character for character in plain if character.isprintable())
    return f"{HTTPStatus(status).phrase} ({text[:300]})" if status in set(HTTPStatus) else text[:300]

"""Names and paths that come from outside."""

from __future__ import annotations

import ipaddress
import re

from harness.errors import SlipwayError, StoreError
from harness.untrusted.display import message, shown

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
"""One path component: DNS names, names of nodes, pods, profiles."""
_PATH_LIMIT = 4096


def name(text: object, *, what: str, error: type[SlipwayError] = StoreError) -> str:
    """Return ``text`` when it can be one component of a path: letters, digits, ``._-``, at most 253, and no ``..``."""
    if not isinstance(text, str) or not NAME.fullmatch(text) or ".." in text:
        raise error(message(what, f"{shown(str(text))[:80]!r} is not a name"))
    return text


def address(text: object, *, what: str, error: type[SlipwayError] = StoreError) -> str:
    """Return ``text`` in its usual spelling when it is an address at which other machines can reach one."""
    try:
        parsed = ipaddress.ip_address(text) if isinstance(text, str) else None
    except ValueError:
        parsed = None
    if parsed is None or not is_reachable(parsed):
        raise error(message(what, f"{shown(str(text))[:80]!r} is not an address that other machines can reach"))
    return str(parsed)


def is_reachable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """False for an address by which no other machine can reach one."""
    return not (address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local)


def relative_path(text: object, *, what: str, error: type[SlipwayError] = StoreError) -> str:
    """Return ``text`` as a plain relative path: no leading slash, no ``..``, no NUL, ``.`` and empty parts removed, not empty."""
    if not isinstance(text, str) or text.startswith("/") or "\0" in text or len(text) > _PATH_LIMIT:
        raise error(message(what, f"{shown(str(text))[:120]!r} is not a relative path"))
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise error(message(what, f"{shown(text)[:120]!r} is not a path inside the folder"))
    return "/".join(parts)

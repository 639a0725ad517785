"""Networks of RUN steps and names that they resolve, and hints for steps that fail."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from harness.errors import Fault, InputError
from harness.oci.model import Platform

BRIDGE, HOST = "bridge", "host"
NETWORKS = (BRIDGE, HOST)
"""Docker's own network for containers, or this machine's, which only the user can ask for."""

HOST_GATEWAY = "host-gateway"
"""Docker's word for the address under which containers reach the machine of the engine."""

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*")


def added_hosts(texts: Iterable[str], option: str = "--add-host") -> tuple[str, ...]:
    """Entries ``NAME:ADDRESS`` for ``/etc/hosts`` of steps, as the engine takes them; ``NAME=ADDRESS`` and ``NAME:[ADDRESS]`` are read too.

    An address is of IPv4, of IPv6 or HOST_GATEWAY; a name may stand in several entries. Raises InputError with every fault.
    """
    faults: list[Fault] = []
    entries: list[str] = []
    for text in texts:
        name, separator, address = _halves(text)
        if not separator:
            faults.append(Fault(f"{option} {text}", "is not NAME:ADDRESS", "write it as files.example.com:10.0.0.1"))
            continue
        if not _HOST_NAME.fullmatch(name):
            faults.append(Fault(f"{option} {text}", f"{name!r} is not the name of a host", "letters, digits, hyphens and dots"))
        whole = _address(address)
        if whole is None:
            faults.append(Fault(f"{option} {text}", f"{address!r} is not an address", f"an IP address, or {HOST_GATEWAY} for this machine"))
            continue
        entries.append(f"{name}:{whole}")
    if faults:
        raise InputError(faults)
    return tuple(dict.fromkeys(entries))


def _halves(text: str) -> tuple[str, str, str]:
    """Name, separator and address; the separator that comes first counts, since an address of IPv6 has colons."""
    separator = re.search("[:=]", text)
    return (text[: separator.start()], separator[0], text[separator.end() :]) if separator else (text, "", "")


def _address(text: str) -> str | None:
    """An address in its usual spelling; None when it is not valid for one host."""
    if text == HOST_GATEWAY:
        return text
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        parsed = ipaddress.ip_address(bare)
    except ValueError:
        return None
    # /etc/hosts knows no zones, and nothing answers at the others.
    if parsed.is_unspecified or parsed.is_multicast or "%" in bare:
        return None
    return str(parsed)


def is_foreign_program(text: str) -> bool:
    """Return True when a program's output says that it could not start because it is for another processor."""
    return "exec format error" in text.lower()


def emulation_hint(platform: Platform) -> str:
    return (
        f"programs for {platform} do not run on this machine: let the step use this machine's, "
        "or have the kernel emulate (packages qemu-user-static and binfmt-support)"
    )


_NOT_REACHED = re.compile(r"127\.0\.0\.1|localhost|connection refused|could not connect|could not resolve|name resolution", re.IGNORECASE)


def network_hint(output: str, network: str) -> str | None:
    """Hint for a step without network access; None when its output shows no such failure."""
    if network == HOST or not _NOT_REACHED.search(output):
        return None
    return (
        "steps run on a network of their own; what this machine alone reaches, as a mirror on 127.0.0.1, takes --network host; "
        "a name that no name server knows takes --add-host NAME:ADDRESS"
    )

"""Networks of RUN steps, and hints for steps that fail."""

from __future__ import annotations

import re

from harness.oci.model import Platform

BRIDGE, HOST = "bridge", "host"
NETWORKS = (BRIDGE, HOST)
"""Docker's own network for containers, or this machine's, which only the user can ask for."""


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
    return "steps run on a network of their own; what this machine alone reaches, as a mirror on 127.0.0.1, takes --network host"

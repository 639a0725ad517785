"""Ids and addresses in what a cloud answers, checked: they go into configurations and messages."""

from __future__ import annotations

import ipaddress
import re

from harness.nodes.cloud import CloudError
from harness.untrusted import shown


def machine_id(identity: object, pattern: re.Pattern[str], service: str, endpoint: str) -> str:
    """The id of a machine. Raises CloudError, with the variable ``endpoint`` as its hint, for one that does not match ``pattern``."""
    text = str(identity)
    if not pattern.fullmatch(text):
        raise CloudError(f"{service} answered with a machine {shown(text)[:80]!r}", hint=f"see what {endpoint} names")
    return text


def address(text: object, service: str, endpoint: str) -> str:
    """An IP address. Raises CloudError, with the variable ``endpoint`` as its hint, for what is none."""
    try:
        return str(ipaddress.ip_address(str(text)))
    except ValueError as wrong:
        raise CloudError(f"{service} answered with the address {shown(str(text))[:80]!r}", hint=f"see what {endpoint} names") from wrong

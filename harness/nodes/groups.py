"""Groups of machines, as all providers name them and give them a key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from harness import untrusted
from harness.clusterfile import CONTROL_PLANE, WORKER
from harness.errors import StoreError, UsageError
from harness.host import durable
from harness.nodes import GroupMember

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
KEY = "id_ed25519"
"""Private key in the folder of a group."""
NUMBERS = "numbers.json"
"""In the folder of a group: the highest number of each role that a machine has booted with."""


def check_name(name: str) -> None:
    """Raises UsageError for a name that a group cannot have: it is also that of a folder."""
    if not NAME.fullmatch(name):
        raise UsageError(f"{name!r} is not a name for a group of nodes", hint="use lower-case letters, digits and hyphens, at most 32")


def check(name: str, control_plane: int, workers: int) -> None:
    """Raises UsageError for a name that a group cannot have, and for no machines at all."""
    check_name(name)
    if control_plane < 0 or workers < 0 or control_plane + workers == 0:
        raise UsageError("no nodes were requested", hint="give --control-plane or --workers")


def exists_already(name: str, provider: str) -> UsageError:
    """Error for the name of a group that exists."""
    return UsageError(f"nodes named {name} exist already", hint=f"slipway nodes down {name} --provider {provider}, or choose another name")


def missing(
    group: str, members: Sequence[GroupMember], control_plane: int, workers: int, used: Mapping[str, int] | None = None
) -> list[tuple[str, str]]:
    """Names and roles of the machines that a group lacks to have that many. Numbers of machines that are gone are not used again:
    ``used`` are the highest ones, and a cluster may still list a machine that has ended.
    """
    lacking: list[tuple[str, str]] = []
    highest = numbers(members, used)
    for role, wanted in ((CONTROL_PLANE, control_plane), (WORKER, workers)):
        present = [member for member in members if member.role == role]
        last = highest.get(role, 0)
        lacking += [(f"{group}-{role}-{last + place}", role) for place in range(1, wanted - len(present) + 1)]
    return lacking


def number(name: str) -> int:
    """Number at the end of a machine's name; 0 for a name without one."""
    digits = name.rpartition("-")[2]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def numbers(members: Iterable[GroupMember], used: Mapping[str, int] | None = None) -> dict[str, int]:
    """Highest number of each role, of members and of machines before them."""
    highest = dict(used or {})
    for member in members:
        # One without usable tags has the name that its provider gave it.
        if f"-{member.role}-" in member.name:
            highest[member.role] = max(highest.get(member.role, 0), number(member.name))
    return highest


def kept_numbers(folder: Path) -> dict[str, int] | None:
    """Numbers in the folder of a group. None when there are none that can be read, as of a group that an earlier slipway made."""
    try:
        kept = untrusted.json_object((folder / NUMBERS).read_bytes(), what=NUMBERS, error=UsageError)
        return {role: int(value) for role, value in kept.items()}
    except (OSError, UsageError, ValueError, TypeError):
        return None


def keep_numbers(folder: Path, highest: Mapping[str, int]) -> None:
    """Write the numbers into the folder of a group."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    durable.write(folder / NUMBERS, json.dumps(dict(highest)) + "\n")


def in_order(members: Iterable[GroupMember]) -> tuple[GroupMember, ...]:
    """Control-plane nodes first, each role by number."""
    return tuple(sorted(members, key=lambda member: (member.role != CONTROL_PLANE, len(member.name), member.name)))


def public_key(folder: Path) -> bytes:
    """Line for authorized_keys of the group's own key, which is made on first use. Raises StoreError for a file that is not a key."""
    private = folder / KEY
    if private.exists():
        try:
            key = serialization.load_ssh_private_key(private.read_bytes(), password=None)
        except (ValueError, UnsupportedAlgorithm) as wrong:
            raise StoreError(f"{private} is not a private key", hint=f"if no machine is left that knows it: rm {private}") from wrong
    else:
        key = ed25519.Ed25519PrivateKey.generate()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        durable.write(private, key.private_bytes(Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()))
    return key.public_key().public_bytes(Encoding.OpenSSH, serialization.PublicFormat.OpenSSH) + b" slipway\n"

"""Words of Amazon EC2 for machines, as far as they can be judged without asking."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.nodes.cloud import MachineSpec
from harness.untrusted import shown

_SIZE = re.compile(r"[a-z][a-z0-9-]{0,30}\.[a-z0-9-]{1,30}")
_ID = "{}-[0-9a-f]{{8,17}}"


def faults(spec: MachineSpec) -> Iterator[tuple[str, str, str]]:
    """Each field of a spec that is missing or not valid, with the reason and a hint."""
    words = [
        ("size", spec.size, _SIZE, "a type of instance, as t3.large; or SLIPWAY_NODE_SIZE"),
        ("image", spec.image, re.compile(_ID.format("ami")), "the id of an image, as ami-0123456789abcdef0; or SLIPWAY_NODE_IMAGE"),
    ]
    words += (
        [("subnet", spec.subnet, re.compile(_ID.format("subnet")), "the id of a subnet, as subnet-0123456789abcdef0")]
        if spec.subnet
        else []
    )
    words += [
        ("security_groups", group, re.compile(_ID.format("sg")), "the id of a security group, as sg-0123456789abcdef0")
        for group in spec.security_groups
    ]
    for field, word, pattern, hint in words:
        if not word:
            yield field, "is missing", hint
        elif not pattern.fullmatch(word):
            yield field, f"{shown(word)[:80]!r} is not valid", hint

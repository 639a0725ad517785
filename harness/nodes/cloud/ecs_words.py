"""Words of Aliyun ECS for machines, as far as they can be judged without asking."""

from __future__ import annotations

import re
from collections.abc import Iterator

from harness.nodes.cloud import MachineSpec
from harness.untrusted import shown

_SIZE = re.compile(r"ecs(?:\.[a-z0-9-]{1,30}){2,3}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,127}")
_ID = "{}-[0-9a-z]{{8,32}}"


def faults(spec: MachineSpec) -> Iterator[tuple[str, str, str]]:
    """Each field of a spec that is missing or not valid, with the reason and a hint. ECS has no default network for requests."""
    words = [
        ("size", spec.size, _SIZE, "a type of instance, as ecs.g7.large; or SLIPWAY_NODE_SIZE"),
        ("image", spec.image, _IMAGE, "the id of an image, as m-bp1g7004ksh0oeuc0001; or SLIPWAY_NODE_IMAGE"),
        ("subnet", spec.subnet, re.compile(_ID.format("vsw")), "the id of a vSwitch, as vsw-bp1s5fnvk4gn2tws0001; or SLIPWAY_NODE_SUBNET"),
    ]
    hint = "the id of a security group, as sg-bp15ed6xe1yxeycg0001; or SLIPWAY_NODE_SECURITY_GROUPS"
    words += [("security_groups", group, re.compile(_ID.format("sg")), hint) for group in spec.security_groups or ("",)]
    for field, word, pattern, hint in words:
        if not word:
            yield field, "is missing", hint
        elif not pattern.fullmatch(word):
            yield field, f"{shown(word)[:80]!r} is not valid", hint

"""The record that a cluster keeps of itself, in a ConfigMap: the Clusterfile, the image, and the machines with the way into them."""

from __future__ import annotations

import dataclasses

from harness.nodes.ssh import SshNode

CONFIG_MAP = "slipway-clusterfile"


def access_entry(node: SshNode) -> dict[str, object]:
    """How this machine remembers a node, and the way into it."""
    login = node.machine.login
    jump = login.jump
    return {
        "address": node.address,
        "name": node.name,
        "user": login.user,
        "port": login.port,
        "key": str(login.key) if login.key else None,
        **({"jump": {**dataclasses.asdict(jump), "key": str(jump.key) if jump.key else None}} if jump else {}),
    }

"""Programs that enforce NetworkPolicies: how their images are called, what each asks of a kernel, and what it leaves there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping


@dataclasses.dataclass(frozen=True)
class Feature:
    """Something that a kernel may be without. ``symbol`` is a function of it, ``option`` its name in the kernel's configuration."""

    name: str
    """Of its module."""
    symbol: str
    option: str


NFT_QUEUE = Feature("nft_queue", "nft_queue_eval", "CONFIG_NFT_QUEUE")
IP_SET = Feature("ip_set", "ip_set_create", "CONFIG_IP_SET")
FEATURES = (NFT_QUEUE, IP_SET)


@dataclasses.dataclass(frozen=True)
class Enforcer:
    """``name`` is a word in the names of its images."""

    name: str
    needs: Feature | None = None
    tables: tuple[str, ...] = ()
    """nftables tables that remain after its removal; their rules queue packets for a program that does not run any more."""


ENFORCERS = (
    Enforcer("kube-network-policies", NFT_QUEUE, ("inet kube-network-policies",)),
    Enforcer("kube-router", IP_SET),
    *map(Enforcer, ("calico", "cilium", "antrea", "canal", "weave", "kube-ovn", "ovn-kubernetes")),
)


def among(images: Iterable[str]) -> tuple[Enforcer, ...]:
    """Enforcers with an image, by the images' names; in the order of ENFORCERS."""
    names = [re.sub(r"(@|:[^/]*$).*", "", image) for image in images]
    return tuple(one for one in ENFORCERS if any(re.search(rf"(?<![a-z0-9]){one.name}(?![a-z0-9])", name) for name in names))


def told(enforcers: Iterable[Enforcer]) -> str:
    """Describe whether NetworkPolicies are enforced."""
    names = ", ".join(one.name for one in enforcers)
    return f"enforced by {names}" if names else "stored, not enforced"


def unserved(enforcers: Iterable[Enforcer], has: Mapping[str, bool]) -> str | None:
    """Why a kernel cannot do what one of them asks of it; None when nothing is known against it. ``has``: features by name."""
    for one in enforcers:
        if one.needs is not None and has.get(one.needs.name) is False:
            return f"{one.name} enforces nothing there: the kernel has no {one.needs.name} ({one.needs.option})"
    return None

"""The shell text of the rounds, the units of serving, and what the scripts print."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Self

from harness import assets
from harness.lifecycle.provision.distribution.parcel import Parcel
from harness.lifecycle.provision.distribution.schedule import AT_ONCE
from harness.nodes import Node
from harness.nodes.files import STATE

PORT = 5001
"""Port on which nodes serve each other while a cluster is made or grows."""
FOLDER = f"{STATE}/share"
"""Parcels that a node can serve. For each, ``NAME.have`` has its folder and the parts it came in; ``NAME.list`` the sorted paths of its
files."""
RUNNING = "/run/slipway-share"
"""Files of serving: the script, the root folder in which it runs, and ``offers/NAME`` with the key and the list of each parcel."""
INCOMING = f"{STATE}/incoming"

OPEN_SECONDS = 900
"""Time after which a node stops serving, unless it is renewed."""
STALLED = 20
"""Seconds without a byte after which a node gives a peer up: it may only be busy."""
_CONNECTED = 5
"""Seconds for a connection: the kernel makes it, however busy a machine is."""
_REQUEST_SECONDS = 60
"""For a request to arrive, so that an idle connection does not hold a slot."""

_SERVE = assets.script("share_serve", limit=_REQUEST_SECONDS)

# Options that systemd cannot grant must end the unit, not be passed over: RootDirectory, the binds and DynamicUser do so. Versions that
# do not know the binds find no shell in the root folder.
_SERVICE = f"""[Unit]
Description=slipway: another machine of the cluster fetches what is here
CollectMode=inactive-or-failed

[Service]
ExecStart=-/bin/sh /serve
StandardInput=socket
StandardOutput=socket
StandardError=null
RuntimeMaxSec=1800
RootDirectory={RUNNING}/root
MountAPIVFS=no
BindReadOnlyPaths=/usr -/bin -/sbin -/lib -/lib32 -/lib64 -/libx32 -/etc/ld.so.cache -/etc/alternatives {RUNNING}/serve:/serve
DynamicUser=yes
CapabilityBoundingSet=
NoNewPrivileges=yes
PrivateDevices=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
LimitCORE=0
"""

_END_SERVICE = f"""[Unit]
Description=slipway: end what other machines may fetch here
CollectMode=inactive-or-failed

[Service]
Type=oneshot
ExecStart=/bin/sh {RUNNING}/end
"""

END_TIMER = f"""[Unit]
Description=slipway: end what other machines may fetch here, unless told to go on

[Timer]
OnActiveSec={OPEN_SECONDS}
AccuracySec=1s
"""

PLACES = {"folder": FOLDER, "running": RUNNING, "unit": "/run/systemd/system/slipway-share"}
"""Arguments of the scripts that start or end serving."""
CLOSE = assets.script("share_close", **PLACES)
"""Shell text that ends serving; harmless where nothing serves."""
RENEW = "systemctl restart slipway-share-end.timer"

_TOOLS = ("b2sum", "gzip", "xargs", "sed", "cut", "comm", "find", "du", "od")
_PATHS = hashlib.blake2b().digest_size * 2 + 3
"""The column at which the path begins in a list that b2sum reads."""


def begin(node: Node, parcel: Parcel) -> str:
    """The first round. Standard input: a tar of ``parcel.manifest``."""
    tools = " ".join(_TOOLS)
    return _round(
        node, parcel, assets.script("share_begin", earlier=parcel.earlier, folder=FOLDER, paths=_PATHS, tools=tools, work=_work(parcel))
    )


def fetch(node: Node, parcel: Parcel, peer: str) -> str:
    """A round in which the node asks a peer, by address."""
    return _round(
        node,
        parcel,
        assets.script("share_fetch", connected=_CONNECTED, name=parcel.name, peer=peer, port=PORT, stalled=STALLED, work=_work(parcel)),
    )


def load(node: Node, parcel: Parcel, unpack: str) -> str:
    """A round in which ``unpack`` takes files from standard input."""
    return _round(node, parcel, f"cd $work/tree || exit 1\n{unpack}\n")


def offer(node: Node, name: str) -> str:
    """Serve a parcel that the node has from earlier, if any. Standard input: its key."""
    return f"[ -e {FOLDER}/{name}.have ] || exit 0\nexport LC_ALL=C\n{_share(node, name)}if offer; then serve; fi\n"


def _round(node: Node, parcel: Parcel, body: str) -> str:
    # Variables for the shell text of the parcel.
    values = f"work={_work(parcel)}\nplace={parcel.place}\n"
    own = f"begin() {{\n{parcel.begin}\n}}\nfinish() {{\n{parcel.finish}\n}}\n"
    functions = _share(node, parcel.name) + assets.script("lacking", paths=_PATHS)
    end = assets.script("share_end", folder=FOLDER, name=parcel.name, paths=_PATHS, work=_work(parcel))
    return f"export LC_ALL=C\numask 022\n{values}{functions}{own}{body}{end}"


def _work(parcel: Parcel) -> str:
    return f"{INCOMING}/{parcel.name}"


def _share(node: Node, name: str) -> str:
    """Shell functions that serve a parcel."""
    return assets.script(
        "share",
        **PLACES,
        address=node.address,
        close=CLOSE.rstrip("\n"),
        end_service=_END_SERVICE.rstrip("\n"),
        end_timer=END_TIMER.rstrip("\n"),
        most=8 * AT_ONCE,
        most_of_one=2 * AT_ONCE,
        name=name,
        port=PORT,
        serve=_SERVE.rstrip("\n"),
        service=_SERVICE.rstrip("\n"),
    )


@dataclasses.dataclass(frozen=True)
class GatherState:
    """State of a node after a round."""

    lacking: tuple[str, ...] = ()
    without: str = ""
    """A program that it would need."""
    fetches: bool = False
    whole: bool = False
    opens: bool = False
    """It may be listening from now on."""
    serves: bool = False
    """It answers."""
    parts: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, output: str) -> Self:
        lines = output.splitlines()
        words = [line.split(" ", maxsplit=1) for line in lines]
        return cls(
            lacking=tuple(line.removeprefix("./") for line in lines if line.startswith("./")),
            without=next((word[1] for word in words if word[0] == "without" and len(word) == 2), ""),
            fetches="fetches" in lines,
            whole="whole" in lines,
            opens="opens" in lines,
            serves="serves" in lines,
            parts=frozenset(word[1] for word in words if word[0] == "part" and len(word) == 2),
        )

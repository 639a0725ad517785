"""Peer distribution: large trees of files are sent to one node, and the nodes then copy them from each other.

**Parcel.** The unit of transfer is a set of files with a name (``Parcel``). Every node that is to have it gathers it in
``/var/lib/slipway/incoming/NAME/tree``, and is told over SSH the BLAKE2b digest of each file (``sums``), the parcel's key (``key``), and
where the finished parcel belongs (``have``). A file counts only when it has its digest: no peer, and no machine on the way, can alter one.

**Gathering.** Each round is one script over SSH, and each prints the state of the node in lines: ``./PATH`` for every file that is
lacking, ``whole``, ``part DIGEST`` for layers that it has, ``fetches`` when it can ask peers, ``without TOOL`` when it cannot take part,
``opens`` when it may listen, ``serves`` when it answers.

1. *begin*: files of earlier parcels are linked into the tree.
2. *fetch*: the lacking files are requested from one peer. A peer serves ``AT_ONCE`` nodes; while the first copy is under way, the other
   nodes wait for it (``schedule``).
3. *load*: with no peer left, or after ``REFUSALS`` peers that failed, the lacking files are sent over SSH, packed where that is smaller.
4. *end*: once nothing is lacking, the parcel is put into place and offered to others.

A node without the programs for this is sent the whole parcel over SSH. After repeated failures without a success no node tries peers.

**Request.** A serving node listens on its cluster address, port ``PORT`` (a systemd socket), and answers one request a connection::

    server: NONCE "\\n"                                          64 hexadecimal digits
    client: CODE "\\n" NAME "\\n" LENGTH "\\n" PATHS             PATHS: LENGTH bytes, a path a line
    server: a tar of the files; nothing when any part is wrong

CODE is the BLAKE2b digest of key, NONCE, NAME and PATHS, each followed by a newline, key first. Every parcel has a key of its own for one
``Exchange``; it crosses SSH only, never the socket.

**Limits.** A request is served by a transient user without capabilities, in a root folder that holds programs, keys and parcels; only
paths of the parcel's list leave it. The socket closes when the exchange ends, or ``OPEN_SECONDS`` after the last renewal by the process
that opened it. The content is not encrypted, which would cost more than everything else: it is what the image holds, and nothing more.
"""

from harness.lifecycle.provision.distribution.exchange import Exchange
from harness.lifecycle.provision.distribution.parcel import Content, Delivery, Load, Parcel, contents, known_contents, listing, plain
from harness.lifecycle.provision.distribution.scripts import CLOSE, FOLDER, OPEN_SECONDS, PLACES, PORT, RUNNING

__all__ = [
    "CLOSE", "FOLDER", "OPEN_SECONDS", "PLACES", "PORT", "RUNNING",
    "Content", "Delivery", "Exchange", "Load", "Parcel", "contents", "known_contents", "listing", "plain",
]  # fmt: skip

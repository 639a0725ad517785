"""Large trees of files on their way to many machines: each is sent from here once, then the machines hand it on to each other.

A machine that has a parcel serves it on a socket of systemd's with nothing but its shell and tar; one that lacks it asks one that has.
What arrives is believed only when each file has the digest that the machine was told over SSH: nobody on the way, and no machine that
serves, can alter anything. What no other machine can give, whatever the reason, comes from here.

A request is answered when it carries a keyed digest (BLAKE2b, key first) of a nonce of the server, the parcel's name and the paths. Each
parcel has a key of its own for one exchange, told over SSH to the machines that are to have that parcel; it never crosses the line.
A request is served in a root folder that holds the programs, the keys and the parcels, by a user without any rights, and only paths of
the parcel's own list leave it. The socket listens on the address of the machine in the cluster, and closes when the exchange ends, or
minutes after this process was last heard of. The content is not enciphered, which would cost more than all the rest: nothing travels
this way but what the image holds.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import hmac
import os
import secrets
import shlex
import tarfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self, cast

from harness import assets, log
from harness.errors import CommandError, SlipwayError
from harness.nodes import Node, Writer, claim, each
from harness.nodes.files import STATE, Counted, File, archive, tar_stream
from harness.oci.store import Store
from harness.process import Result

PORT = 5001
"""On which machines serve each other while a cluster is made or grows."""
FOLDER = f"{STATE}/share"
"""What a machine can hand on. For each parcel ``NAME.have`` says in which folder it lies, and the parts it came in; ``NAME.list`` has the
paths of its files, sorted."""
RUNNING = "/run/slipway-share"
"""What serving needs: the script, the root folder in which it runs, and ``offers/NAME`` with the key and the list of each parcel."""
INCOMING = f"{STATE}/incoming"

AT_ONCE = 2
"""Machines that one serves at the same time: with more, each would wait longer until it can serve as well."""
_FROM_HERE = 4
"""Machines that are sent something from here at the same time."""
_REFUSALS = 2
"""Failures after which a machine asks no other one any more, and after which nobody asks a machine any more."""
_CONNECTED = 5
"""Seconds for a connection: the kernel makes it, however busy a machine is."""
STALLED = 20
"""Seconds without a byte after which a machine gives another one up: it may only be busy."""

OPEN_SECONDS = 900
"""Until a machine that nobody tells to go on stops serving."""
_RENEW_SECONDS = 240
_REQUEST_SECONDS = 60
"""For a request to arrive, so that a connection without one holds no place."""

# Each line of a request ends it unless it is right. The reader of the paths is given their length: it must not wait for more.
_SERVE = f"""export LC_ALL=C
# Where the options of the unit did not take effect nothing may leave.
[ "$(id -u)" != 0 ] && [ ! -e /etc/passwd ] || exit 1
{{ sleep {_REQUEST_SECONDS}; kill -9 $$; }} > /dev/null 2>&1 < /dev/null &
limit=$!
nonce=$(od -An -v -tx1 -N 32 /dev/urandom | tr -d ' \\n')
[ ${{#nonce}} = 64 ] || exit 1
echo "$nonce"
IFS= read -r code && IFS= read -r name && IFS= read -r length || exit 1
case $name in '' | *[!a-z0-9-]*) exit 1 ;; esac
case $length in '' | *[!0-9]* | ????????*) exit 1 ;; esac
offer=/offers/$name
[ -s "$offer/key" ] && [ -s "$offer/list" ] && [ -d "/parcels/$name" ] || exit 1
paths=$(head -c "$length")
wanted=$({{ cat "$offer/key"; printf '%s\\n' "$nonce" "$name" "$paths"; }} | b2sum) && [ ${{#wanted}} -ge 128 ] || exit 1
[ "$code" = "${{wanted%% *}}" ] || exit 1
unknown=$(printf '%s\\n' "$paths" | sort | comm -23 - "$offer/list" | sed 's/^/x/') && [ -z "$unknown" ] || exit 1
kill $limit
cd "/parcels/$name" || exit 1
printf '%s\\n' "$paths" | exec tar -b 512 --no-recursion -cf - -T -
"""

_SOCKET = f"""[Unit]
Description=slipway: what other machines of the cluster may fetch here

[Socket]
ListenStream=$listen
FreeBind=yes
Accept=yes
MaxConnections={8 * AT_ONCE}
MaxConnectionsPerSource={2 * AT_ONCE}
"""

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

_END_TIMER = f"""[Unit]
Description=slipway: end what other machines may fetch here, unless told to go on

[Timer]
OnActiveSec={OPEN_SECONDS}
AccuracySec=1s
"""

_UNIT = "/run/systemd/system/slipway-share"

PLACES = {"folder": FOLDER, "running": RUNNING, "unit": _UNIT}
"""The arguments of scripts that have to do with serving."""
CLOSE = assets.script("share_close", **PLACES)
"""Shell text that ends the serving; harmless where nothing serves."""

_RENEW = "systemctl restart slipway-share-end.timer"

# In /run, so that it does not outlive a reboot. Older versions of systemd find a new unit only after they have been told to look, and its
# folder only if it was there then: the socket, which starts it all, comes last.
_OPEN = f"""put() {{ (umask "$1"; cat > "$2.$$" && mv "$2.$$" "$2"); }}
offer() {{
  place=$(head -n 1 {FOLDER}/$name.have) && [ -n "$place" ] && [ -d "$place" ] && [ -s {FOLDER}/$name.list ] || return 1
  mkdir -p {RUNNING} && chmod 700 {RUNNING} && mkdir -p {RUNNING}/root {RUNNING}/offers/$name {_UNIT}@.service.d || return 1
  put 022 {RUNNING}/offers/$name/key && put 022 {RUNNING}/offers/$name/list < {FOLDER}/$name.list || return 1
  put 022 {_UNIT}@.service.d/$name.conf <<END
[Service]
BindReadOnlyPaths=-{RUNNING}/offers/$name:/offers/$name -$place:/parcels/$name
END
}}
serve() {{
  echo opens
  put 022 {RUNNING}/serve <<'END'
{_SERVE}END
  put 022 {RUNNING}/end <<'END'
{CLOSE}END
  put 022 {_UNIT}@.service <<'END'
{_SERVICE}END
  put 022 {_UNIT}-end.service <<'END'
{_END_SERVICE}END
  put 022 {_UNIT}-end.timer <<'END'
{_END_TIMER}END
  case $address in *:*) listen="[$address]:{PORT}" ;; *) listen=$address:{PORT} ;; esac
  before=$(cat {_UNIT}.socket 2>/dev/null)
  put 022 {_UNIT}.socket <<END
{_SOCKET}END
  [ "$before" = "$(cat {_UNIT}.socket)" ] || systemctl stop slipway-share.socket > /dev/null 2>&1
  start() {{ {_RENEW} && systemctl start slipway-share.socket; }}
  {{ start || {{ systemctl daemon-reload; start; }}; }} > /dev/null 2>&1 || return 0
  # A socket accepts whatever becomes of the service behind it: only one that answers serves.
  if command -v bash > /dev/null 2>&1; then
    answer=$(timeout 20 bash -c 'exec 3<> "/dev/tcp/$1/{PORT}" && read -r nonce <&3 && echo "$nonce"' bash "$address" 2>/dev/null)
    [ ${{#answer}} = 64 ] || return 0
  fi
  echo serves
}}
"""

_TOOLS = ("b2sum", "gzip", "xargs", "sed", "cut", "comm", "find", "du", "od")
_PATHS = hashlib.blake2b().digest_size * 2 + 3
"""The column at which the path begins in a list that b2sum reads."""

# What is no plain file, or not the one that the list names, goes: it must not be taken for it.
_LACKING = f"""lacking() {{
  cut -c {_PATHS}- ../sums | tr '\\n' '\\0' | xargs -0 sh -c 'for path; do
    if [ -L "$path" ] || {{ [ -e "$path" ] && [ ! -f "$path" ]; }}; then rm -rf "$path"; fi
  done' sh
  : > ../lacking
  [ -s ../sums ] || return 0
  b2sum -c ../sums > ../checked 2> /dev/null
  code=$?
  sed -n 's/: FAILED\\( open or read\\)\\{{0,1\\}}$//p' ../checked > ../lacking
  # It may also have been killed.
  if [ $code != 0 ] && [ ! -s ../lacking ]; then echo 'b2sum did not read the files' >&2; exit 1; fi
  tr '\\n' '\\0' < ../lacking | xargs -0 rm -f --
}}
"""

# What the machine may have since earlier is linked, and believed no more than anything else.
_BEGIN = f"""mkdir -p $work/tree && tar -C $work -xopf - && cd $work/tree || exit 1
for tool in {" ".join(_TOOLS)}; do command -v $tool > /dev/null 2>&1 || {{ echo "without $tool"; exit 0; }}; done
begin
for old in $earlier; do
  [ -d "$old" ] || continue
  cut -c {_PATHS}- ../sums | while IFS= read -r path; do
    if [ -f "$old/$path" ] && [ ! -e "$path" ]; then mkdir -p "${{path%/*}}"; ln "$old/$path" "$path"; fi
  done
done
sed -n '2,$s/^/part /p' {FOLDER}/*.have 2>/dev/null
if command -v bash > /dev/null 2>&1; then echo fetches; fi
"""

# tar takes only names of the list, whatever is served. A machine that dies says nothing: it is given up when nothing arrives any more.
_FETCH = f"""cd $work/tree || exit 1
rm -f ../connected
bash -c 'exec 3<> "/dev/tcp/$1/$2" || exit 1
  : > ../connected
  IFS= read -r nonce <&3 || exit 1
  code=$({{ cat ../key; printf "%s\\n" "$nonce" "$3"; cat ../lacking; }} | b2sum)
  {{ printf "%s\\n" "${{code%% *}}" "$3" "$(($(wc -c < ../lacking)))"; cat ../lacking; }} >&3 || exit 1
  exec tar -b 512 -xof - -T ../lacking <&3 3>&-' bash "$peer" {PORT} "$name" &
fetching=$!
( sleep {_CONNECTED}
  [ -e ../connected ] || kill -9 $fetching
  before=$(du -sk .)
  while sleep $stalled; do now=$(du -sk .); [ "$now" != "$before" ] || kill -9 $fetching; before=$now; done
) > /dev/null 2>&1 < /dev/null &
watching=$!
wait $fetching
kill $watching
"""

# Only with all that it should hold a parcel is put into its place, and only then offered to others.
_END = f"""lacking
if [ -s ../lacking ]; then cat ../lacking; exit 0; fi
( set -e
finish
)
code=$?
[ $code = 0 ] || exit $code
mkdir -p {FOLDER} && chmod 700 {FOLDER}
cut -c {_PATHS}- $work/sums | sort | put 022 {FOLDER}/$name.list && put 022 {FOLDER}/$name.have < $work/have || exit 1
offer < $work/key
offered=$?
cd / && rm -rf $work
echo whole
if [ $offered = 0 ]; then serve; fi
"""


@dataclasses.dataclass(frozen=True)
class Content:
    """A file: where it lies here, its size in bytes, and its BLAKE2b digest in hexadecimal digits."""

    source: Path
    size: int
    digest: str


@dataclasses.dataclass(frozen=True)
class Load:
    """Files in a form in which they leave this machine: about how many bytes, what writes them, and what unpacks standard input."""

    size: int
    write: Writer
    unpack: str = "tar -xof -"


@dataclasses.dataclass(frozen=True)
class Parcel:
    """Files that several machines are to have. Each gathers them in a folder, from wherever, until all of them are right."""

    name: str
    """Of lower-case letters, digits and hyphens; another one for other contents."""
    files: Mapping[str, Content]
    """By path, relative and ``plain``."""
    place: str
    """The folder on a machine out of which it hands the files on."""
    finish: str
    """Shell text, run in the folder with all of the files, ``$work/tree``: puts them into their place, and ``place`` is what is served."""
    begin: str = ":"
    """Shell text that makes that folder ready."""
    beside: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    """Small files for ``begin`` and ``finish``, in ``$work``."""
    earlier: str = ""
    """Folders on a machine, as a shell pattern, that may have some of the files since earlier."""
    parts: tuple[str, ...] = ()
    """What it is made of, lowest first."""
    packed: Callable[[Collection[str]], Load | None] | None = None
    """All files in fewer bytes than they have, without those of the lowest parts that a machine has; None where that cannot be."""
    whole: Callable[[Node], None] | None = None
    """Gives it to a machine that lacks the programs to take part."""
    listed: bool = True
    """Whether all names in it are ``plain``: else every machine is given it whole."""

    @property
    def size(self) -> int:
        return sum(content.size for content in self.files.values())


@dataclasses.dataclass(frozen=True)
class Brought:
    """How a machine got a parcel: bytes that went there from here, and who else gave it something."""

    sent: int = 0
    peers: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """For behind the title of a step, with those of other machines."""
        return f"{log.size(self.sent)} from here" if self.sent else "copied between machines" if self.peers else ""


def plain(path: str) -> bool:
    """Whether a path can stand on a line of a list as it is."""
    return "\n" not in path and "\\" not in path and path.isprintable()


def contents(files: Mapping[str, Path], expected: Mapping[str, str] | None = None) -> dict[str, Content]:
    """Read files that are to be sent. ``expected`` has SHA-256 digests, in hexadecimal digits, of some of them.

    Raises ValueError with the path of one that is other than expected, OSError for one that cannot be read.
    """

    def read(path: str) -> Content:
        digest, known, size = hashlib.blake2b(), hashlib.sha256(), 0
        wanted = (expected or {}).get(path)
        with files[path].open("rb") as file:
            while data := file.read(1 << 20):
                size += len(data)
                digest.update(data)
                if wanted:
                    known.update(data)
        if wanted and known.hexdigest() != wanted:
            raise ValueError(path)
        return Content(files[path], size, digest.hexdigest())

    with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
        return dict(zip(files, pool.map(read, files), strict=True))


def known_contents(store: Store, name: str, files: Mapping[str, Path], expected: Mapping[str, str] | None = None) -> dict[str, Content]:
    """``contents``, read once for a parcel of this name: later they are what they were then, or do not arrive."""
    sizes = {path: source.stat().st_size for path, source in files.items()}
    kept = (store.record(_KEPT, name) or {}).get("files", {})
    if {path: entry[0] for path, entry in kept.items()} == sizes:
        return {path: Content(files[path], size, digest) for path, (size, digest) in kept.items()}
    found = contents(files, expected)
    store.keep(_KEPT, name, {"files": {path: [content.size, content.digest] for path, content in found.items()}})
    return found


_KEPT = "parcel"


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a machine said about the parcel that it gathers."""

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
    def of(cls, said: str) -> Self:
        lines = said.splitlines()
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


class _Sources:
    """Who has a parcel, and how many each serves. Those that come first in ``order`` are served first. Safe in threads."""

    def __init__(self, parcel: Parcel, order: Sequence[str]) -> None:
        self.parcel = parcel
        self._order = {address: place for place, address in enumerate(order)}
        self._serving: dict[str, int] = {}
        self._served: collections.Counter[str] = collections.Counter()
        self._failures: collections.Counter[str] = collections.Counter()
        self._waiting: dict[str, Collection[str]] = {}
        self._sending = 0
        self._changed = threading.Condition()

    def add(self, address: str) -> None:
        with self._changed:
            self._serving.setdefault(address, 0)
            self._changed.notify_all()

    @contextlib.contextmanager
    def taken(self, address: str, refused: Collection[str]) -> Iterator[str | None]:
        """Waits for another machine that serves this one while the block runs; None: it is to be sent everything from here.

        ``refused`` are those that it asks no more.
        """
        peer = self._take(address, refused)
        try:
            yield peer
        finally:
            with self._changed:
                if peer is None:
                    self._sending -= 1
                else:
                    self._serving[peer] -= 1
                self._changed.notify_all()

    def failed(self, peer: str) -> None:
        """Count it against a machine that it did not give all that it should have."""
        with self._changed:
            self._failures[peer] += 1

    def _take(self, address: str, refused: Collection[str]) -> str | None:
        with self._changed:
            self._waiting[address] = refused
            try:
                while True:
                    able = self._able(address)
                    free = [peer for peer in able if self._serving[peer] < AT_ONCE]
                    # While one is sent everything the others wait: it will serve them.
                    if len(refused) >= _REFUSALS or (not able and not self._sending):
                        self._sending += 1
                        return None
                    if free and not self._before(address):
                        # Of those that are equally busy one that has served less: the load goes round.
                        peer = min(free, key=lambda one: (self._serving[one], self._served[one]))
                        self._serving[peer] += 1
                        self._served[peer] += 1
                        return peer
                    self._changed.wait()
            finally:
                del self._waiting[address]
                self._changed.notify_all()

    def _able(self, address: str) -> list[str]:
        refused = self._waiting[address]
        return [peer for peer in self._serving if peer != address and peer not in refused and self._failures[peer] < _REFUSALS]

    def _before(self, address: str) -> bool:
        """Whether somebody who comes first could be served now."""
        rank = self._order.get(address, len(self._order))
        others = [other for other in self._waiting if self._order.get(other, len(self._order)) < rank]
        return any(self._serving[peer] < AT_ONCE for other in others for peer in self._able(other))


class Exchange:
    """Brings parcels to ``machines``, the most urgent first. Safe in threads."""

    def __init__(self, machines: Iterable[Node]) -> None:
        self._machines = tuple(machines)
        self._secret = secrets.token_bytes(32)
        self._sources: dict[str, _Sources] = {}
        self._making: dict[str, threading.Lock] = {}
        self._open: dict[str, Node] = {}
        self._renewing: threading.Event | None = None
        self._claim: claim.Claim | None = None
        self._lock = threading.Lock()
        self._from_here = threading.BoundedSemaphore(_FROM_HERE)
        self._failures = 0
        self._fetched = False

    def key(self, name: str) -> str:
        """The key of a parcel, for those who are to have it."""
        return hmac.new(self._secret, name.encode(), "sha256").hexdigest()

    def bring(self, node: Node, name: str, make: Callable[[], Parcel], among: Collection[Node] | None = None) -> Brought:
        """Bring a machine a parcel. ``make`` is called once, by the first who needs it; ``among`` may have it already, if not just anybody.

        Raises CommandError when not even from here everything arrives as it should: the disk is full, say.
        """
        sources = self._known(name, make, self._machines if among is None else among)
        parcel = sources.parcel
        answer = _Answer(without="names that can be listed")
        if parcel.listed:
            answer = self._told(node, parcel, _BEGIN, archive(_list(parcel, self.key(name))))
        if answer.without and parcel.whole is not None:
            log.debug(f"{name} is sent to {node.name} whole: it has no {answer.without}")
            parcel.whole(node)
            return Brought(parcel.size)
        parts, fetches, sent = answer.parts, answer.fetches, 0
        refused: set[str] = set()
        peers: list[str] = []
        while not answer.whole:
            with sources.taken(node.address, refused if fetches and not self._alone else _EVERYBODY) as peer:
                if peer is None:
                    with self._from_here:
                        answer, sent = self._send(node, parcel, answer, parts)
                else:
                    before = answer
                    answer = self._told(node, parcel, f"peer={shlex.quote(peer)}\nstalled={STALLED}\n{_FETCH}", timeout=3600)
                    if len(answer.lacking) < len(before.lacking):
                        peers.append(peer)
                    self._judge(node, sources, peer, before, answer)
                    refused |= set() if answer.whole else {peer}
                if answer.serves:
                    # Before those who wait hear of it: they would take it that nobody has it.
                    sources.add(node.address)
        if answer.opens:
            self._note_open(node)
        if answer.serves:
            sources.add(node.address)
        return Brought(sent, tuple(peers))

    def _send(self, node: Node, parcel: Parcel, answer: _Answer, parts: Collection[str]) -> tuple[_Answer, int]:
        """From here: all of it packed, where that is less than what is lacking; then what is lacking still, as it is."""
        packed = parcel.packed(parts) if parcel.packed else None
        sent, said = 0, ""
        if packed is not None and packed.size < _files(parcel, answer.lacking).size:
            answer, sent, said = self._load(node, parcel, packed)
        if not answer.whole:
            answer, more, said = self._load(node, parcel, _files(parcel, answer.lacking))
            sent += more
        if not answer.whole:
            raise CommandError(
                f"{node.name}: {len(answer.lacking)} of {len(parcel.files)} files did not arrive as they should",
                hint="if the same command again says the same, a disk of the machine or of this one is at fault",
                details=said.strip() or None,
            )
        return answer, sent

    def _load(self, node: Node, parcel: Parcel, load: Load) -> tuple[_Answer, int, str]:
        meter = _Meter(load.write)
        result = node.run(_script(node, parcel, f"cd $work/tree || exit 1\n{load.unpack}\n"), input=meter, timeout=3600)
        _check_disk(node, result)
        return _Answer.of(result.stdout), meter.bytes, result.stderr

    def _judge(self, node: Node, sources: _Sources, peer: str, before: _Answer, after: _Answer) -> None:
        """Remember what came of asking another machine."""
        if after.whole:
            self._fetched = True
            return
        sources.failed(peer)
        what = "nothing" if len(after.lacking) == len(before.lacking) else f"{len(after.lacking)} files less, or not as they should be,"
        log.debug(f"{node.name} got {what} from {peer}")
        with self._lock:
            self._failures += 1
            if self._failures == _REFUSALS + 1 and not self._fetched:
                log.warning(f"the machines do not reach each other on port {PORT}: everything is sent from here")

    @property
    def _alone(self) -> bool:
        """Whether it has become plain that machines do not reach each other."""
        return self._failures > _REFUSALS and not self._fetched

    def _told(self, node: Node, parcel: Parcel, script: str, input: bytes | None = None, timeout: float = 600) -> _Answer:
        result = node.run(_script(node, parcel, script), input=input, timeout=timeout)
        _check_disk(node, result)
        return _Answer.of(result.stdout)

    # ---- who has it already, and who is left open

    def _known(self, name: str, make: Callable[[], Parcel], among: Collection[Node]) -> _Sources:
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:
            if name not in self._sources:
                sources = _Sources(make(), [node.address for node in self._machines])
                each(among, lambda node: self._ask(node, name, sources))
                self._sources[name] = sources
            return self._sources[name]

    def _ask(self, node: Node, name: str, sources: _Sources) -> None:
        setting = f"name={name}\naddress={shlex.quote(node.address)}\nexport LC_ALL=C\n"
        script = f"[ -e {FOLDER}/{name}.have ] || exit 0\n{setting}{_OPEN}if offer; then serve; fi\n"
        # One that does not answer is told of by whoever needs it.
        with contextlib.suppress(SlipwayError):
            answer = _Answer.of(node.run(script, input=f"{self.key(name)}\n", timeout=60).stdout)
            if answer.opens:
                self._note_open(node)
            if answer.serves:
                sources.add(node.address)

    def _note_open(self, node: Node) -> None:
        with self._lock:
            self._open[node.address] = node
            self._claim = claim.current() or self._claim
            if self._renewing is None:
                self._renewing = threading.Event()
                threading.Thread(target=self._renew, args=(self._renewing,), daemon=True).start()

    def _renew(self, ended: threading.Event) -> None:
        """Keep open what is open until ``ended``: without this process it closes by itself."""

        def renew(node: Node) -> None:
            with contextlib.suppress(SlipwayError):
                node.run(_RENEW, check=False, timeout=30)

        while not ended.wait(_RENEW_SECONDS):
            with self._lock:
                nodes = tuple(self._open.values())
            each(nodes, renew)

    def close(self) -> None:
        """Nobody serves any more. May be called again, and other parcels brought afterwards."""
        with self._lock:
            nodes, self._open = tuple(self._open.values()), {}
            self._sources.clear()
            if self._renewing is not None:
                self._renewing.set()
                self._renewing = None

        if self._claim is not None and self._claim.lost:
            # The command that has taken over serves there now; what this one left closes by itself.
            return

        def end(node: Node) -> None:
            with contextlib.suppress(SlipwayError):
                node.run(CLOSE, check=False, timeout=15)

        each(nodes, end)


def _check_disk(node: Node, result: Result) -> None:
    """Raises CommandError when the machine cannot take what it gets: that is not the fault of whoever gives it."""
    if _FULL in result.stderr:
        raise CommandError(
            f"{node.name}: its disk is full",
            hint=f"see df -h {STATE} there, free some, and run the same command again",
            details="\n".join([line for line in result.stderr.splitlines() if _FULL in line][-3:]),
        )


_FULL = "No space left on device"

_EVERYBODY = tuple(f"anybody-{number}" for number in range(_REFUSALS))
"""Refused by a machine that can ask no other one."""


class _Meter:
    """A writer that knows how much it has written."""

    def __init__(self, write: Writer) -> None:
        self._write = write
        self.bytes = 0

    def __call__(self, stream: BinaryIO) -> None:
        counted = Counted(stream)
        self._write(cast("BinaryIO", counted))
        self.bytes = counted.tell()


def _script(node: Node, parcel: Parcel, body: str) -> str:
    values = f"address={shlex.quote(node.address)}\nwork={INCOMING}/{parcel.name}\nplace={parcel.place}\nearlier='{parcel.earlier}'\n"
    own = f"begin() {{\n{parcel.begin}\n}}\nfinish() {{\n{parcel.finish}\n}}\n"
    return f"name={parcel.name}\nexport LC_ALL=C\numask 022\n{values}{_OPEN}{_LACKING}{own}{body}{_END}"


def _list(parcel: Parcel, key: str) -> dict[str, File]:
    """What a machine is told of a parcel: what it should hold, and what is needed to get it and to hand it on."""
    sums = "".join(f"{content.digest}  ./{path}\n" for path, content in sorted(parcel.files.items()))
    have = "".join(f"{line}\n" for line in (parcel.place, *parcel.parts))
    return {
        "/sums": File.text(sums),
        "/have": File.text(have),
        "/key": File.text(f"{key}\n", 0o600),
        **{f"/{name}": File(data) for name, data in parcel.beside.items()},
    }


def _files(parcel: Parcel, paths: Sequence[str]) -> Load:
    """Some files of a parcel as they are."""

    def write(stream: BinaryIO) -> None:
        with tar_stream(stream) as tar:
            for path in paths:
                content = parcel.files[path]
                entry = tarfile.TarInfo(path)
                entry.size, entry.mode = content.size, 0o644
                with content.source.open("rb") as file:
                    tar.addfile(entry, file)

    return Load(sum(parcel.files[path].size for path in paths), write)


def listing(paths: Iterable[str]) -> bytes:
    """Paths as ``find .`` prints them, sorted as ``LC_ALL=C sort`` does."""
    return b"".join(sorted(os.fsencode(f"./{path}\n") for path in paths))

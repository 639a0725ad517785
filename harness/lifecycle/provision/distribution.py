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
import tarfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Self, cast

from harness import assets, log
from harness.errors import CommandError, SlipwayError
from harness.nodes import Node, Writer, claim, each
from harness.nodes.files import STATE, CountingPipe, NodeFile, archive, tar_stream
from harness.oci.store import Store
from harness.process import ProcessResult

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

_TOOLS = ("b2sum", "gzip", "xargs", "sed", "cut", "comm", "find", "du", "od")
_PATHS = hashlib.blake2b().digest_size * 2 + 3
"""The column at which the path begins in a list that b2sum reads."""


def _share(node: Node, name: str) -> str:
    """Shell functions that hand a parcel on from a machine."""
    return assets.script(
        "share",
        **PLACES,
        address=node.address,
        close=CLOSE.rstrip("\n"),
        end_service=_END_SERVICE.rstrip("\n"),
        end_timer=_END_TIMER.rstrip("\n"),
        most=8 * AT_ONCE,
        most_of_one=2 * AT_ONCE,
        name=name,
        port=PORT,
        serve=_SERVE.rstrip("\n"),
        service=_SERVICE.rstrip("\n"),
    )


def _begin(parcel: Parcel) -> str:
    work = _work(parcel)
    return assets.script("share_begin", earlier=parcel.earlier, folder=FOLDER, paths=_PATHS, tools=" ".join(_TOOLS), work=work)


def _fetch(parcel: Parcel, peer: str) -> str:
    return assets.script("share_fetch", connected=_CONNECTED, name=parcel.name, peer=peer, port=PORT, stalled=STALLED, work=_work(parcel))


def _work(parcel: Parcel) -> str:
    return f"{INCOMING}/{parcel.name}"


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
        self._claim: claim.ClusterClaim | None = None
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
            answer = self._told(node, parcel, _begin(parcel), archive(_list(parcel, self.key(name))))
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
                    answer = self._told(node, parcel, _fetch(parcel, peer), timeout=3600)
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
        script = f"[ -e {FOLDER}/{name}.have ] || exit 0\nexport LC_ALL=C\n{_share(node, name)}if offer; then serve; fi\n"
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


def _check_disk(node: Node, result: ProcessResult) -> None:
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
        counted = CountingPipe(stream)
        self._write(cast("BinaryIO", counted))
        self.bytes = counted.tell()


def _script(node: Node, parcel: Parcel, body: str) -> str:
    # For what the parcel brings along.
    values = f"work={_work(parcel)}\nplace={parcel.place}\n"
    own = f"begin() {{\n{parcel.begin}\n}}\nfinish() {{\n{parcel.finish}\n}}\n"
    functions = _share(node, parcel.name) + assets.script("lacking", paths=_PATHS)
    end = assets.script("share_end", folder=FOLDER, name=parcel.name, paths=_PATHS, work=_work(parcel))
    return f"export LC_ALL=C\numask 022\n{values}{functions}{own}{body}{end}"


def _list(parcel: Parcel, key: str) -> dict[str, NodeFile]:
    """What a machine is told of a parcel: what it should hold, and what is needed to get it and to hand it on."""
    sums = "".join(f"{content.digest}  ./{path}\n" for path, content in sorted(parcel.files.items()))
    have = "".join(f"{line}\n" for line in (parcel.place, *parcel.parts))
    return {
        "/sums": NodeFile.text(sums),
        "/have": NodeFile.text(have),
        "/key": NodeFile.text(f"{key}\n", 0o600),
        **{f"/{name}": NodeFile(data) for name, data in parcel.beside.items()},
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

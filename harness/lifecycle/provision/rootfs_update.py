"""Update of a node's rootfs: the next one is built beside the current one and replaces it in one move; the former one is kept.

Every node lists its files with their checksums. Files that it has are linked, the others are sent or copied from another node.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import os
import shlex
import stat
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from harness import assets, untrusted
from harness.cloudimage import PlatformImage
from harness.errors import CommandError
from harness.lifecycle.provision import rootfs
from harness.lifecycle.provision.distribution import Parcel
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import STATE, NodeFile, archive
from harness.oci.store import Store
from harness.runtimes import ROOTFS

NEXT = f"{ROOTFS}.next"
FORMER = f"{ROOTFS}.former"
_RENDERED = f"{STATE}/rendered"
_CURRENT = f"{STATE}/staged.current"
_STAGED = f"{STATE}/staged.next"
_PARTS = f"{STATE}/staged.parts"
_PENDING = f"{STATE}/staged.pending"

# Links are listed with their targets. A name with a line break never matches, and is sent.
_TELL = """cd {folder} 2>/dev/null || {{ echo end; exit 0; }}
find . -type f -exec stat -c 'mode %a %n' {{}} +
find . -type f -exec sha256sum {{}} + | sed 's/^/file /'
find . -type l -exec sh -c 'for path; do printf "link %s\\t%s\\n" "$path" "$(readlink "$path")"; done' sh {{}} +
echo end"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file by checksum and mode, or a link."""

    digest: str = ""
    mode: int = 0
    link: str | None = None
    size: int = dataclasses.field(default=0, compare=False)


Contents = Mapping[str, Entry]
"""Paths relative to a rootfs."""


@dataclasses.dataclass(frozen=True)
class Delta:
    """Difference between a node's files and the next rootfs."""

    missing: tuple[str, ...]
    """Files that neither of its trees has."""
    changed: frozenset[str]
    """Paths of the current rootfs that will change."""
    bytes: int
    """Size of the missing files."""


@functools.lru_cache(maxsize=8)
def contents(tree: Path) -> Contents:
    """The content of an unpacked rootfs, which does not change."""
    entries: dict[str, Entry] = {}
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                entries[path.relative_to(tree).as_posix()] = Entry(link=str(path.readlink()))
            elif path.is_file():
                with path.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                state = path.stat()
                entries[path.relative_to(tree).as_posix()] = Entry(digest, stat.S_IMODE(state.st_mode), size=state.st_size)
    return entries


def wanted(tree: Path, rendered: Mapping[str, NodeFile]) -> Contents:
    """The next content of a node: the tree with the rendered files over it."""
    files = {path: Entry(hashlib.sha256(file.data).hexdigest(), file.mode, file.link, len(file.data)) for path, file in rendered.items()}
    return {**contents(tree), **files}


def ask(node: Node, folder: str = ROOTFS) -> Contents:
    """List a folder of a node; empty when it does not exist. Raises CommandError when the answer is incomplete."""
    lines = node.run(_TELL.format(folder=folder), timeout=LONG_TIMEOUT).stdout.splitlines()
    if lines[-1:] != ["end"]:
        raise CommandError(f"{node.name}: what is in {folder} could not be read")
    return parse(lines[:-1])


def parse(lines: Iterable[str]) -> Contents:
    """Read a node's list of a folder."""
    modes: dict[str, int] = {}
    digests: dict[str, str] = {}
    links: dict[str, Entry] = {}
    for line in lines:
        kind, _, rest = line.partition(" ")
        if kind == "mode":
            mode, _, path = rest.partition(" ")
            modes[_plain(path)] = untrusted.number(mode, base=8, maximum=0o7777) or 0
        elif kind == "file":
            digest, _, path = rest.partition("  ")
            digests[_plain(path)] = digest
        elif kind == "link":
            path, _, target = rest.partition("\t")
            links[_plain(path)] = Entry(link=target)
    return links | {path: Entry(digest, modes.get(path, 0)) for path, digest in digests.items()}


def _plain(path: str) -> str:
    return path.removeprefix("./")


def compare(target: Contents, running: Contents, former: Contents) -> Delta:
    """The difference between ``target`` and a node that may have files of it in either of its trees."""
    changed = frozenset(path for path in {*target, *running} if target.get(path) != running.get(path))
    missing = tuple(sorted(path for path, entry in target.items() if entry not in (running.get(path), former.get(path))))
    return Delta(missing, changed, sum(target[path].size for path in missing))


_FINISH = rootfs.COMPLETE + assets.script("complete_next", next=NEXT, small=rootfs.SMALL, staged=_STAGED)

_RECEIVE = f"""set -e
rm -rf {NEXT} {_STAGED}
mkdir -p {NEXT}
tar -C {NEXT} -xopf -"""


def parcel(store: Store, image: PlatformImage, *, back: bool) -> Parcel:
    """The next tree as a parcel. ``back``: nodes had it before."""
    current = rootfs.parcel(store, image)
    earlier = (FORMER, current.earlier, ROOTFS) if back else (current.earlier, ROOTFS, FORMER)
    tree = rootfs.tree(store, image)
    return dataclasses.replace(current, finish=_FINISH, earlier=" ".join(earlier), whole=lambda node: rootfs.send(node, tree, _RECEIVE))


def stage(node: Node, delta: Delta, bring: Callable[[], str], rendered: Mapping[str, NodeFile], name: str, parts: Iterable[str]) -> str:
    """Build the next rootfs on a node, under a ``name`` for ``switch``; ``parts`` must be restarted because of it.

    ``bring`` delivers a ``parcel`` and returns a note about it, which is returned; it is not called when the node has every file.
    """
    node.run(f"mkdir -p {STATE}; cat > {_PARTS}", input="".join(f"{part}\n" for part in sorted(parts)))
    note = ""
    if delta.changed:
        note = bring()
        node.run(f"tar -C {NEXT} -xopf -", input=archive({f"/{path}": file for path, file in rendered.items()}), timeout=LONG_TIMEOUT)
    node.run(f"cat > {_RENDERED}.next", input="".join(f"{path}\n" for path in sorted(rendered)))
    node.run(f"echo {shlex.quote(name)} > {_STAGED if delta.changed else _CURRENT}")
    return note


def switch(node: Node, name: str) -> None:
    """Put the next rootfs into place; programs of the former one keep running. May be repeated."""
    script = assets.script(
        "switch_rootfs", current=_CURRENT, former=FORMER, name=name, next=NEXT, rendered=_RENDERED, rootfs=ROOTFS, staged=_STAGED
    )
    node.run(script, timeout=LONG_TIMEOUT)


def begin(node: Node) -> frozenset[str]:
    """Begin the change of a node. Return the parts to restart until ``done``, with those of an earlier change that was not finished."""
    # Each command that fails, as on a full disk, ends it: a part that is forgotten would run from the former rootfs for ever.
    gather = f"cat {_PENDING} {_PARTS} 2>/dev/null | sort -u > {_PENDING}.new; mv {_PENDING}.new {_PENDING}; rm -f {_PARTS}"
    script = f"set -e; {gather}; cat {_PENDING}"
    return frozenset(node.run(script).stdout.split())


def note(node: Node, part: str) -> None:
    """Add a part to the change of a node."""
    node.run(f"echo {shlex.quote(part)} >> {_PENDING}")


def done(node: Node) -> None:
    """Finish the change of a node."""
    node.run(f"rm -f {_PENDING}")

"""The next rootfs of a node, made beside the one that runs, and put into its place in one move; the former one stays there.

Every node says what it has, file by file with its checksum. What it has is taken from there, the rest from here or from another node.
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

# Links come with what they lead to. A name with a line break in it is never the same, and sent.
_TELL = """cd {folder} 2>/dev/null || {{ echo end; exit 0; }}
find . -type f -exec stat -c 'mode %a %n' {{}} +
find . -type f -exec sha256sum {{}} + | sed 's/^/file /'
find . -type l -exec sh -c 'for path; do printf "link %s\\t%s\\n" "$path" "$(readlink "$path")"; done' sh {{}} +
echo end"""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What stands at a path: a file by checksum and mode, or a link."""

    digest: str = ""
    mode: int = 0
    link: str | None = None
    size: int = dataclasses.field(default=0, compare=False)


Contents = Mapping[str, Entry]
"""Paths relative to a rootfs."""


@dataclasses.dataclass(frozen=True)
class Delta:
    """From what a node has to what it is to have."""

    missing: tuple[str, ...]
    """Files that are in neither of its trees."""
    changed: frozenset[str]
    """Paths of the rootfs that runs which will be others."""
    bytes: int
    """Of what is missing."""


@functools.lru_cache(maxsize=8)
def contents(tree: Path) -> Contents:
    """What is in an unpacked rootfs, which nobody changes."""
    found: dict[str, Entry] = {}
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files):
            path = Path(folder, name)
            if path.is_symlink():
                found[path.relative_to(tree).as_posix()] = Entry(link=str(path.readlink()))
            elif path.is_file():
                with path.open("rb") as content:
                    digest = hashlib.file_digest(content, "sha256").hexdigest()
                state = path.stat()
                found[path.relative_to(tree).as_posix()] = Entry(digest, stat.S_IMODE(state.st_mode), size=state.st_size)
    return found


def wanted(tree: Path, rendered: Mapping[str, NodeFile]) -> Contents:
    """What a node is to have: the tree with the rendered files over it."""
    files = {path: Entry(hashlib.sha256(file.data).hexdigest(), file.mode, file.link, len(file.data)) for path, file in rendered.items()}
    return {**contents(tree), **files}


def ask(node: Node, folder: str = ROOTFS) -> Contents:
    """What a node has in a folder; empty when there is none. Raises CommandError when the answer is not whole."""
    lines = node.run(_TELL.format(folder=folder), timeout=LONG_TIMEOUT).stdout.splitlines()
    if lines[-1:] != ["end"]:
        raise CommandError(f"{node.name}: what is in {folder} could not be read")
    return parse(lines[:-1])


def parse(lines: Iterable[str]) -> Contents:
    """What a node told of a folder."""
    modes: dict[str, int] = {}
    digests: dict[str, str] = {}
    found: dict[str, Entry] = {}
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
            found[_plain(path)] = Entry(link=target)
    return found | {path: Entry(digest, modes.get(path, 0)) for path, digest in digests.items()}


def _plain(path: str) -> str:
    return path.removeprefix("./")


def compare(target: Contents, running: Contents, former: Contents) -> Delta:
    """What is to be done so that a node has ``target``, which may have some of it in either of its trees."""
    changed = frozenset(path for path in {*target, *running} if target.get(path) != running.get(path))
    missing = tuple(sorted(path for path, entry in target.items() if entry not in (running.get(path), former.get(path))))
    return Delta(missing, changed, sum(target[path].size for path in missing))


_FINISH = rootfs.COMPLETE + assets.script("complete_next", next=NEXT, small=rootfs.SMALL, staged=_STAGED)

_RECEIVE = f"""set -e
rm -rf {NEXT} {_STAGED}
mkdir -p {NEXT}
tar -C {NEXT} -xopf -"""


def parcel(store: Store, image: PlatformImage, *, back: bool) -> Parcel:
    """The next tree as nodes gather it, from what they have and from each other. ``back``: it is the one that they had before."""
    made = rootfs.parcel(store, image)
    earlier = (FORMER, made.earlier, ROOTFS) if back else (made.earlier, ROOTFS, FORMER)
    tree = rootfs.tree(store, image)
    return dataclasses.replace(made, finish=_FINISH, earlier=" ".join(earlier), whole=lambda node: rootfs.send(node, tree, _RECEIVE))


def stage(node: Node, delta: Delta, bring: Callable[[], str], rendered: Mapping[str, NodeFile], name: str, parts: Iterable[str]) -> str:
    """Make the next rootfs on a node; ``name`` is how ``switch`` calls it, ``parts`` are what is to be started anew because of it.

    ``bring`` has a ``parcel`` brought and tells how, which is returned; it is not called when the node has all of it.
    """
    node.run(f"mkdir -p {STATE}; cat > {_PARTS}", input="".join(f"{part}\n" for part in sorted(parts)))
    said = ""
    if delta.changed:
        said = bring()
        node.run(f"tar -C {NEXT} -xopf -", input=archive({f"/{path}": file for path, file in rendered.items()}), timeout=LONG_TIMEOUT)
    node.run(f"cat > {_RENDERED}.next", input="".join(f"{path}\n" for path in sorted(rendered)))
    node.run(f"echo {shlex.quote(name)} > {_STAGED if delta.changed else _CURRENT}")
    return said


def switch(node: Node, name: str) -> None:
    """Put the next rootfs into its place; what ran from the former one goes on. May be repeated."""
    script = assets.script(
        "switch_rootfs", current=_CURRENT, former=FORMER, name=name, next=NEXT, rendered=_RENDERED, rootfs=ROOTFS, staged=_STAGED
    )
    node.run(script, timeout=LONG_TIMEOUT)


def begin(node: Node) -> frozenset[str]:
    """What is to be started anew on a node from now on until it is done, also for a change that was begun earlier and not finished."""
    script = f"cat {_PENDING} {_PARTS} 2>/dev/null | sort -u > {_PENDING}.new; mv {_PENDING}.new {_PENDING}; rm -f {_PARTS}; cat {_PENDING}"
    return frozenset(node.run(script).stdout.split())


def note(node: Node, part: str) -> None:
    """Remember something more about the change of a node until it is done."""
    node.run(f"echo {shlex.quote(part)} >> {_PENDING}")


def done(node: Node) -> None:
    """All of a node is what it is to be."""
    node.run(f"rm -f {_PENDING}")

"""The rootfs on its way to the nodes: the merged tree, from here or from other nodes, then the few files that are rendered for each."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import posixpath
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from harness import log, untrusted
from harness.cloudimage import PlatformImage, unpacked
from harness.errors import StoreError
from harness.lifecycle.provision import distribution
from harness.lifecycle.provision.distribution import Load, Parcel
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import STATE, NodeFile, archive, tar_stream
from harness.oci.layer.extract import OPAQUE, WHITEOUT, open_layer
from harness.oci.model import GZIP_LAYERS, Descriptor
from harness.oci.store import Store
from harness.runtimes import ROOTFS
from harness.templates.tree import render_tree

_SMALL_FILE = 1 << 20

Edit = Callable[[Path], Sequence[str]]
"""Changes files of an unpacked rootfs before it is rendered; returns the paths that it changed, relative to it."""

_HEAVY = ("bin", "lib")
"""Programs: never rendered, too large to be copied for nothing."""

# The old tree stays whole until the new one is; programs that run from it keep running.
_RECEIVE = f"""set -e
rm -rf {ROOTFS}.new
mkdir -p {ROOTFS}.new
tar -C {ROOTFS}.new -xopf -
rm -rf {ROOTFS}.old
if [ -d {ROOTFS} ]; then mv {ROOTFS} {ROOTFS}.old; fi
mv {ROOTFS}.new {ROOTFS}
rm -rf {ROOTFS}.old
"""


def identity(image: PlatformImage) -> str:
    """What the merged tree depends on."""
    return unpacked.identity(image.layers)


def tree(store: Store, image: PlatformImage) -> Path:
    """The merged rootfs, unpacked once into the cache; nobody removes it while this process lives. Not to be changed."""
    return unpacked.unpacked_rootfs(store, image.layers)


def read_file(store: Store, image: PlatformImage, path: str) -> bytes | None:
    """One small file out of the layers without unpacking them: the uppermost one counts. Raises StoreError when it is not small."""
    folders = [str(folder) for folder in PurePosixPath(path).parents if folder.name]
    removals = {posixpath.join(posixpath.dirname(one), WHITEOUT + posixpath.basename(one)) for one in (path, *folders)}
    removals |= {posixpath.join(folder, OPAQUE) for folder in ("", *folders)}
    for layer in reversed(image.layers):
        hidden = False
        with open_layer(store, layer) as tar:
            for entry in tar:
                name = entry.name.removeprefix("./")
                if name == path and entry.kind == "file":
                    if entry.size > _SMALL_FILE:
                        raise StoreError(f"{path} of the image has {entry.size} bytes; at most {_SMALL_FILE} are read")
                    return tar.head(entry.size)
                # Of the layers below: what else is in this one stays.
                hidden = hidden or name in removals
        if hidden:
            return None
    return None


def beneath(tree: Path) -> untrusted.UntrustedTree:
    """The one reader of files in an unpacked rootfs: a link in it that leads out is refused with StoreError."""
    return untrusted.UntrustedTree(tree, what="the rootfs of the image")


def folder_files(tree: Path, folder: str) -> dict[str, bytes]:
    """The regular files right in a folder of an unpacked rootfs, by their path. Raises StoreError for links that lead out of it."""
    reader = beneath(tree)
    paths = [f"{folder}/{name}" for name in reader.list(folder)]
    return {path: reader.read_bytes(path) for path in paths if reader.is_file(path)}


def rendered(
    tree: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]] | None = None, edit: Edit | None = None
) -> dict[str, NodeFile]:
    """The files that differ from ``tree`` once it has been edited and rendered, by their path relative to it.

    Raises InputError with every name that is not defined.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-render-") as scratch:
        copy = Path(scratch, "rootfs")
        shutil.copytree(tree, copy, symlinks=True, ignore=lambda folder, _: _HEAVY if Path(folder) == tree else ())
        changed = set(edit(copy)) if edit else set()
        changed |= set(render_tree(copy, env, app_env))
        return {path: NodeFile((copy / path).read_bytes(), owner_only((copy / path).stat().st_mode)) for path in sorted(changed)}


def owner_only(mode: int) -> int:
    """The mode of a rendered file whose template has ``mode``: only root reads it, for the values in it may be secrets."""
    return stat.S_IMODE(mode) & 0o700


def send(node: Node, tree: Path, script: str = _RECEIVE) -> None:
    """Put the whole tree onto a node, in place of what it has: for one that cannot gather it. ``script`` takes it as a tar."""
    node.run(script, input=lambda stream: _write(stream, _walk(tree)), timeout=2 * LONG_TIMEOUT)


SMALL = 128
"""Blocks of 512 bytes. Programs are handed on as the very files that run; smaller files may be written to, by whatever is launched."""

# Folders and links come from here, files from anywhere: of what layers have besides nothing stays.
COMPLETE = f"""find . -mindepth 1 | sort | comm -23 - $work/paths | sort -r | tr '\\n' '\\0' | xargs -0 rm -rf --
tar -xopf $work/skeleton.tar
cut -d' ' -f1 $work/modes | sort -u | while read -r mode; do
  sed -n "s/^$mode //p" $work/modes | tr '\\n' '\\0' | xargs -0 chmod "$mode"
done
mkdir -p {distribution.FOLDER}
rm -rf $place.new
cp -al . $place.new
find . -type f '(' -size -{SMALL} -o ! -perm -004 ')' > $work/small
if [ -s $work/small ]; then tar -cf - -T $work/small 2> /dev/null | tar -C $place.new -xpf -; fi
# Read by a user without any rights. Files that are shared with the tree may be read by everybody; the others are copies.
find $place.new '(' -type d ! -perm -005 -o -type f ! -perm -004 ')' -exec chmod a+rX {{}} +
rm -rf $place
mv $place.new $place
for old in {distribution.FOLDER}/rootfs-*; do [ "$old" = $place ] || rm -rf "$old"; done
"""
"""Shell text that makes a whole tree of the files that a node has gathered, and puts a copy where others may fetch it."""

_FINISH = f"""{COMPLETE}rm -rf {ROOTFS}.old
if [ -d {ROOTFS} ]; then mv {ROOTFS} {ROOTFS}.old; fi
mv $work/tree {ROOTFS}
rm -rf {ROOTFS}.old"""


def parcel_name(image: PlatformImage) -> str:
    return f"rootfs-{identity(image)[:16]}"


def parcel(store: Store, image: PlatformImage) -> Parcel:
    """The tree as nodes gather it; its files are read."""
    root = tree(store, image)
    entries = dict(_walk(root))
    files = {name: path for name, path in entries.items() if path.is_file() and not path.is_symlink()}
    skeleton = io.BytesIO()
    _write(skeleton, ((name, path) for name, path in entries.items() if name not in files))
    modes = (f"{stat.S_IMODE(path.stat().st_mode):o} ./{name}\n" for name, path in files.items())
    return Parcel(
        name=parcel_name(image),
        files=distribution.known_contents(store, parcel_name(image), files),
        listed=all(map(distribution.plain, entries)),
        place=f"{distribution.FOLDER}/{parcel_name(image)}",
        begin="tar -xopf $work/skeleton.tar",
        finish=_FINISH,
        beside={
            "skeleton.tar": skeleton.getvalue(),
            # A file name need not be UTF-8.
            "modes": os.fsencode("".join(modes)),
            "paths": distribution.listing(entries),
        },
        earlier=f"{distribution.FOLDER}/rootfs-*",
        parts=tuple(layer.digest for layer in image.layers),
        packed=functools.partial(_packed, store, image.layers),
        whole=lambda node: send(node, root),
    )


def _packed(store: Store, layers: Sequence[Descriptor], there: Collection[str]) -> Load | None:
    """The layers as they are in the store, from the first that is not there. Nodes have nothing to unpack others than gzip's with."""
    known = next((number for number, layer in enumerate(layers) if layer.digest not in there), len(layers))
    lacking = layers[known:]
    if not lacking or any(layer.media_type not in GZIP_LAYERS for layer in lacking):
        return None

    def write(stream: BinaryIO) -> None:
        for layer in lacking:
            with store.open(layer.digest) as blob:
                shutil.copyfileobj(blob, stream, 1 << 20)

    # Joined, they are unpacked as one: tar is told to read on behind the end of each.
    return Load(sum(layer.size for layer in lacking), write, "gzip -dc | tar -xiof - --exclude='.wh.*'")


def send_rendered(node: Node, files: Mapping[str, NodeFile], tree: Path) -> None:
    """Put rendered files over the tree of a node. What was rendered the last time and is not any more is as the image has it again."""
    listed = rendered_before(node)
    back = {path: _original(tree, path) for path in listed if path not in files}
    gone = "".join(f"rm -f {shlex.quote(f'{ROOTFS}/{path}')}; " for path, file in back.items() if file is None)
    sent = {f"/{path}": file for path, file in {**back, **files}.items() if file is not None}
    if sent:
        node.run(f"{gone}tar -C {ROOTFS} -xopf -", input=archive(sent), timeout=LONG_TIMEOUT)
    elif gone:
        node.run(gone)
    if files or listed:
        node.run(f"cat > {RENDERED}", input="".join(f"{path}\n" for path in sorted(files)))


def rendered_before(node: Node) -> list[str]:
    """The paths, relative to the rootfs, that a node says were rendered for it. Anything else that it says is left out."""
    listed = node.run(f"cat {RENDERED} 2>/dev/null || true").stdout.splitlines()
    return [path for path in dict.fromkeys(listed) if _is_plain(path)]


def _is_plain(path: str) -> bool:
    try:
        return untrusted.relative_path(path, what="") == path
    except StoreError:
        log.warning(f"{untrusted.shown(path)[:120]!r} is no path of a rendered file: it is left out")
        return False


def _original(tree: Path, path: str) -> NodeFile | None:
    """As the image has it; None when it does not. The path is a machine's: it is taken only if the tree lists it, no link followed."""
    above, _, name = path.rpartition("/")
    place = tree / path
    try:
        inside = untrusted.UntrustedTree(tree)
        if any((tree / part).is_symlink() for part in _folders(above)) or name not in inside.list(above):
            return None
        if place.is_symlink():
            return NodeFile(link=str(place.readlink()))
        return NodeFile(inside.read_bytes(path), stat.S_IMODE(inside.stat(path).st_mode)) if inside.is_file(path) else None
    except (StoreError, OSError) as wrong:
        log.debug(f"{untrusted.shown(path)}: {wrong}")
        return None


def _folders(path: str) -> list[str]:
    """``a``, ``a/b``, ``a/b/c`` of ``a/b/c``."""
    parts = [part for part in path.split("/") if part]
    return ["/".join(parts[: number + 1]) for number in range(len(parts))]


def fingerprint(files: Mapping[str, NodeFile]) -> str:
    """Tells whether rendered files are others than the last time."""
    return hashlib.sha256(archive({f"/{path}": file for path, file in files.items()})).hexdigest()[:16]


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Everything in a tree by its path relative to it, a folder before what is in it."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _write(stream: BinaryIO, entries: Iterable[tuple[str, Path]]) -> None:
    """A tar of entries of a tree: links as links, everything root's."""
    with tar_stream(stream) as tar:
        for name, path in entries:
            entry = tar.gettarinfo(str(path), arcname=name)
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            if entry.isreg():
                with path.open("rb") as content:
                    tar.addfile(entry, content)
            else:
                tar.addfile(entry)


MARK = f"{STATE}/cluster"
"""Names the cluster that a machine belongs to."""

RENDERED = f"{STATE}/rendered"
"""Lists the files of a node's rootfs that are not as the image has them."""

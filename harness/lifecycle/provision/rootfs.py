"""The rootfs of nodes: the merged tree, sent or copied between nodes, then the few files that are rendered for each node."""

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
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from harness import assets, log, untrusted
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
"""Changes files of an unpacked rootfs before it is rendered; returns the changed paths, relative to it."""

_HEAVY = ("bin", "lib")
"""Folders of programs: never rendered, and too large to copy."""

_RECEIVE = assets.script("receive_tree", folder=ROOTFS, umask="022")


def identity(image: PlatformImage) -> str:
    """Digest of everything that the merged tree depends on."""
    return unpacked.identity(image.layers)


def tree(store: Store, image: PlatformImage) -> Path:
    """The merged rootfs, unpacked once into the cache, where it stays while this process lives. Not to be changed."""
    return unpacked.unpacked_rootfs(store, image.layers)


def read_file(store: Store, image: PlatformImage, path: str) -> bytes | None:
    """Read a small file from the uppermost layer that has it, without unpacking. Raises StoreError when it is large."""
    folders = [str(folder) for folder in PurePosixPath(path).parents if folder.name]
    removals = {posixpath.join(posixpath.dirname(each), WHITEOUT + posixpath.basename(each)) for each in (path, *folders)}
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
                # In layers below only.
                hidden = hidden or name in removals
        if hidden:
            return None
    return None


def beneath(tree: Path) -> untrusted.UntrustedTree:
    """The reader of files in an unpacked rootfs. It raises StoreError for a link that leads out of the tree."""
    return untrusted.UntrustedTree(tree, what="the rootfs of the image")


def folder_files(tree: Path, folder: str) -> dict[str, bytes]:
    """The regular files directly in a folder of an unpacked rootfs, by path. Raises StoreError for links that lead out of it."""
    reader = beneath(tree)
    paths = [f"{folder}/{name}" for name in reader.list(folder)]
    return {path: reader.read_bytes(path) for path in paths if reader.is_file(path)}


def rendered(
    tree: Path,
    env: Mapping[str, str],
    app_env: Mapping[str, Mapping[str, str]] | None = None,
    edit: Edit | None = None,
    declared: Container[str] = (),
) -> dict[str, NodeFile]:
    """The files that differ from ``tree`` once it has been edited and rendered, by their path relative to it.

    ``declared`` are names that the image or the Clusterfile has, for this node or not.

    Raises InputError with every undefined name.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-render-") as scratch:
        copy = Path(scratch, "rootfs")
        shutil.copytree(tree, copy, symlinks=True, ignore=lambda folder, _: _HEAVY if Path(folder) == tree else ())
        changed = set(edit(copy)) if edit else set()
        changed |= set(render_tree(copy, env, app_env, declared))
        return {path: NodeFile((copy / path).read_bytes(), owner_only((copy / path).stat().st_mode)) for path in sorted(changed)}


def owner_only(mode: int) -> int:
    """The mode of a rendered file whose template has ``mode``: only root can read it, since values in it may be secrets."""
    return stat.S_IMODE(mode) & 0o700


def send(node: Node, tree: Path, script: str = _RECEIVE) -> None:
    """Send the whole tree to a node that cannot gather it, in place of its rootfs. ``script`` reads it as a tar."""
    node.run(script, input=lambda stream: _write(stream, _walk(tree)), timeout=2 * LONG_TIMEOUT)


SMALL = 128
"""Blocks of 512 bytes. Larger files are served as the very files that run; launched programs may write to smaller ones."""

COMPLETE = assets.script("complete_tree", folder=distribution.FOLDER, small=SMALL)
"""Shell text that makes a whole tree of the files that a node has gathered, and puts a copy where others may fetch it."""

_FINISH = f"""{COMPLETE}rm -rf {ROOTFS}.old
if [ -d {ROOTFS} ]; then mv {ROOTFS} {ROOTFS}.old; fi
mv $work/tree {ROOTFS}
rm -rf {ROOTFS}.old"""


def parcel_name(image: PlatformImage) -> str:
    return f"rootfs-{identity(image)[:16]}"


def parcel(store: Store, image: PlatformImage) -> Parcel:
    """The tree as a parcel; its files are digested."""
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


def _packed(store: Store, layers: Sequence[Descriptor], present: Collection[str]) -> Load | None:
    """The layers as they are in the store, from the first that a node lacks. Nodes can unpack gzip only."""
    first = next((number for number, layer in enumerate(layers) if layer.digest not in present), len(layers))
    lacking = layers[first:]
    if not lacking or any(layer.media_type not in GZIP_LAYERS for layer in lacking):
        return None

    def write(stream: BinaryIO) -> None:
        for layer in lacking:
            with store.open(layer.digest) as blob:
                shutil.copyfileobj(blob, stream, 1 << 20)

    # They are sent joined: tar -i reads on behind the end of each.
    return Load(sum(layer.size for layer in lacking), write, "gzip -dc | tar -xiof - --exclude='.wh.*'")


def send_rendered(node: Node, files: Mapping[str, NodeFile], tree: Path) -> None:
    """Put rendered files over the tree of a node. Files that are not rendered any more are restored from the image."""
    listed = rendered_before(node)
    originals = {path: _original(tree, path) for path in listed if path not in files}
    removal = "".join(f"rm -f {shlex.quote(f'{ROOTFS}/{path}')}; " for path, file in originals.items() if file is None)
    sent = {f"/{path}": file for path, file in {**originals, **files}.items() if file is not None}
    if sent:
        node.run(f"{removal}tar -C {ROOTFS} -xopf -", input=archive(sent), timeout=LONG_TIMEOUT)
    elif removal:
        node.run(removal)
    if files or listed:
        node.run(f"cat > {RENDERED}", input="".join(f"{path}\n" for path in sorted(files)))


def rendered_before(node: Node) -> list[str]:
    """The paths, relative to the rootfs, that a node lists as rendered for it. Anything else in its answer is left out."""
    listed = node.run(f"cat {RENDERED} 2>/dev/null || true").stdout.splitlines()
    return [path for path in dict.fromkeys(listed) if _is_plain(path)]


def _is_plain(path: str) -> bool:
    try:
        return untrusted.relative_path(path, what="") == path
    except StoreError:
        log.warning(f"{untrusted.shown(path)[:120]!r} is not the path of a rendered file: it is left out")
        return False


def _original(tree: Path, path: str) -> NodeFile | None:
    """The file of the image; None when it has none. A node gave the path: it counts only if the tree has it, without following links."""
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
    """Digest of rendered files."""
    return hashlib.sha256(archive({f"/{path}": file for path, file in files.items()})).hexdigest()[:16]


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Everything in a tree by its path relative to it, a folder before its content."""
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            yield path.relative_to(root).as_posix(), path


def _write(stream: BinaryIO, entries: Iterable[tuple[str, Path]]) -> None:
    """Write a tar of entries of a tree: links as links, everything owned by root."""
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
"""File with the cluster that a machine belongs to."""

RENDERED = f"{STATE}/rendered"
"""List of the rendered files in a node's rootfs."""

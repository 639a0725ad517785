"""The rootfs on its way to the nodes: layers merged once here, sent as one tar, then the few files that are rendered for each node."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import stat
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from harness import render, trees
from harness.cloudimage import PlatformImage
from harness.nodes import Node
from harness.nodes.placing import STATE, File, archive, tar_stream
from harness.oci.extract import open_layer
from harness.oci.store import Store
from harness.runtimes import ROOTFS

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
    return trees.identity(image.layers)


def tree(store: Store, image: PlatformImage) -> Path:
    """The merged rootfs, unpacked once into the cache; nobody removes it while this process lives. Not to be changed."""
    return trees.unpacked(store, image.layers)


def read_file(store: Store, image: PlatformImage, path: str) -> bytes | None:
    """One small file out of the layers without unpacking them: the uppermost one counts."""
    for layer in reversed(image.layers):
        with open_layer(store, layer) as tar:
            for member in tar:
                if member.name.removeprefix("./") == path and member.isreg():
                    content = tar.extractfile(member)
                    return content.read() if content else None
    return None


def rendered(
    tree: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]] | None = None, edit: Edit | None = None
) -> dict[str, File]:
    """The files that differ from ``tree`` once it has been edited and rendered, by their path relative to it.

    Raises InputError with every name that is not defined.
    """
    with tempfile.TemporaryDirectory(prefix="slipway-render-") as scratch:
        copy = Path(scratch, "rootfs")
        shutil.copytree(tree, copy, symlinks=True, ignore=lambda folder, _: _HEAVY if Path(folder) == tree else ())
        changed = set(edit(copy)) if edit else set()
        changed |= set(render.render_tree(copy, env, app_env))
        return {path: File((copy / path).read_bytes(), stat.S_IMODE((copy / path).stat().st_mode)) for path in sorted(changed)}


def send(node: Node, tree: Path) -> None:
    """Put the whole tree onto a node, in place of what it has."""
    node.run(_RECEIVE, input=lambda stream: _write(stream, tree), timeout=3600)


def send_rendered(node: Node, files: Mapping[str, File], tree: Path) -> None:
    """Put rendered files over the tree of a node. What was rendered the last time and is not any more is as the image has it again."""
    listed = node.run(f"cat {RENDERED} 2>/dev/null || true").stdout.splitlines()
    back = {path: _original(tree / path) for path in listed if path not in files}
    gone = "".join(f"rm -f {shlex.quote(f'{ROOTFS}/{path}')}; " for path, file in back.items() if file is None)
    sent = {f"/{path}": file for path, file in {**back, **files}.items() if file is not None}
    if sent:
        node.run(f"{gone}tar -C {ROOTFS} -xopf -", input=archive(sent))
    elif gone:
        node.run(gone)
    if files or listed:
        node.run(f"cat > {RENDERED}", input="".join(f"{path}\n" for path in sorted(files)))


def _original(path: Path) -> File | None:
    if path.is_symlink():
        return File(link=str(path.readlink()))
    return File(path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) if path.is_file() else None


def fingerprint(files: Mapping[str, File]) -> str:
    """Tells whether rendered files are others than the last time."""
    return hashlib.sha256(archive({f"/{path}": file for path, file in files.items()})).hexdigest()[:16]


def _write(stream: BinaryIO, root: Path) -> None:
    """A tar of a tree: links as links, everything root's."""
    with tar_stream(stream) as tar:
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted([*folders, *files]):
                path = Path(folder, name)
                entry = tar.gettarinfo(str(path), arcname=path.relative_to(root).as_posix())
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

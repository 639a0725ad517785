"""Installation of files on a machine such that it can be undone: replaced files are saved and restored."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import posixpath
import secrets
import shlex
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO, cast

from harness import assets
from harness.errors import CommandError, NodeError
from harness.nodes import LONG_TIMEOUT, Node

STATE = "/var/lib/slipway"
"""Everything that slipway keeps on a machine is in this folder, or is listed in it."""


@dataclasses.dataclass(frozen=True)
class NodeFile:
    """Desired content of a path: bytes with a mode, or a symbolic link."""

    data: bytes = b""
    mode: int = 0o644
    link: str | None = None

    @classmethod
    def text(cls, text: str, mode: int = 0o644) -> NodeFile:
        return cls(text.encode(), mode)


_STAGED = ".slipway-new-"
"""Begins the name of a folder beside files in which new ones arrive."""

Files = Mapping[str, NodeFile]
"""Absolute paths on a machine and their desired content."""


def archive(files: Files) -> bytes:
    """A tar of the files, their paths relative to the root. For small files: it is made in memory."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path, file in sorted(files.items()):
            # normpath keeps two leading slashes, which POSIX allows to mean something else.
            if not posixpath.isabs(path) or path.startswith("//") or path == "/" or posixpath.normpath(path) != path:
                raise ValueError(f"{path!r} is not a plain absolute path")
            entry = tarfile.TarInfo(path.removeprefix("/"))
            entry.mode = file.mode
            if file.link is not None:
                entry.type, entry.linkname = tarfile.SYMTYPE, file.link
                tar.addfile(entry)
            else:
                entry.size = len(file.data)
                tar.addfile(entry, io.BytesIO(file.data))
    return stream.getvalue()


def add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o600) -> None:
    """Add a small file to a tar that is being written: no time, no owner."""
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size = mode, len(data)
    tar.addfile(entry, io.BytesIO(data))


class CountingPipe:
    """A pipe that counts the bytes written to it: the position that a tar archive asks for."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0

    def write(self, data: bytes) -> int:
        self._stream.write(data)
        self._position += len(data)
        return len(data)

    def writelines(self, pieces: Iterable[bytes]) -> None:
        for piece in pieces:
            self.write(piece)

    def tell(self) -> int:
        return self._position


@contextlib.contextmanager
def tar_stream(stream: BinaryIO) -> Iterator[tarfile.TarFile]:
    """A tar archive being written into a pipe, its members copied in large pieces."""
    with tarfile.TarFile(fileobj=cast("BinaryIO", CountingPipe(stream)), mode="w", format=tarfile.GNU_FORMAT, copybufsize=1 << 20) as tar:
        yield tar


def install_files(node: Node, files: Files) -> tuple[str, ...]:
    """Install files on a node; return the paths that changed. Replaced files are saved for ``restore_files``. May be repeated."""
    return tuple(node.run(assets.script("place", state=STATE), input=archive(files), timeout=LONG_TIMEOUT).stdout.splitlines())


def restore_files(node: Node) -> None:
    """Remove every file that was installed on the node, and the folders made for them; restore the saved files."""
    node.run(assets.script("unplace", state=STATE), timeout=LONG_TIMEOUT)


def write_files(node: Node, files: Files) -> None:
    """Write files without saving replaced ones. Modes are as given.

    A file changes at once: a program that reads it meanwhile, as an API server its certificates, finds the former or the new one.
    """
    # The commands of a controller that was killed may still run on the machine: each call has folders of its own.
    staged_name = f"{_STAGED}{secrets.token_hex(4)}"
    names: dict[str, list[str]] = {}
    for path in sorted(files):
        names.setdefault(posixpath.dirname(path), []).append(posixpath.basename(path))
    staged = {folder: posixpath.join(folder, staged_name) for folder in names}
    lines = [f"umask 022; set -e; trap {shlex.quote(f'rm -rf {shlex.join(staged.values())}')} EXIT; tar -C / -xopf -"]
    for folder, own in names.items():
        moved = " ".join(shlex.quote(f"./{name}") for name in own)
        lines.append(f"cd {shlex.quote(staged[folder])}; mv -f {moved} ..; cd /")
    beside = {posixpath.join(staged[posixpath.dirname(path)], posixpath.basename(path)): file for path, file in files.items()}
    node.run("\n".join(lines), input=archive(beside), timeout=LONG_TIMEOUT)


def read_files(node: Node, paths: Sequence[str]) -> dict[str, bytes]:
    """Read those of ``paths`` that exist on the node. Raises CommandError when the answer is truncated."""
    words = " ".join(shlex.quote(path) for path in paths)
    script = f'set -e; for path in {words}; do if [ -f "$path" ]; then echo "$path $(base64 < "$path" | tr -d "\\n")"; fi; done; echo end'
    lines = node.run(script, timeout=LONG_TIMEOUT).stdout.splitlines()
    if lines[-1:] != ["end"]:
        raise CommandError(f"{node.name}: files could not be read")
    contents = {path: decoded(node, path, text) for path, _, text in (line.rpartition(" ") for line in lines[:-1])}
    # A hostile machine may send files that were not requested: they are dropped.
    return {path: contents[path] for path in paths if path in contents}


def beside(path: str) -> str:
    """The name of a new file beside a path, as a word of the shell that writes it.

    The shell's process id is in the name: the command of a controller that was killed may still run.
    """
    return f"{shlex.quote(f'{path}.new')}.$$"


def received(path: str, size: int, mode: int = 0o600) -> str:
    """Shell text that puts a file of ``size`` bytes, its standard input, in place in one move. With fewer bytes nothing is replaced.

    On the machine a connection that is lost looks like the end of the file.
    """
    part = beside(path)
    cut = f'[ "$(wc -c < {part})" -eq {size} ] || {{ rm -f {part}; echo "the file did not arrive whole" >&2; exit 1; }}'
    return f"set -e; umask 077; cat > {part}; {cut}; chmod {mode:o} {part}; mv -f {part} {shlex.quote(path)}"


def decoded(node: Node, path: str, text: str) -> bytes:
    """Decode the base64 of a file that a node printed. Raises NodeError when it is not valid."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as wrong:
        raise NodeError(f"{node.name}: {path} did not arrive whole: it is not valid base64", hint="run the same command again") from wrong

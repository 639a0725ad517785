"""Folders whose content comes from outside."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from harness.errors import SlipwayError, StoreError
from harness.untrusted.display import message, shown
from harness.untrusted.names import relative_path

FILE_LIMIT = 16 << 20
"""Bytes of a file that is read whole."""
_MOST_LINKS = 40


class UntrustedTree:
    """A folder whose content comes from outside. Every path is opened beneath it, component by component.

    Links that stay inside are followed, others are refused; only regular files are read. Use it as a context manager, or for single
    calls: each opens the folder again. Raises ``error`` for refused paths, FileNotFoundError for missing ones.
    """

    def __init__(self, root: Path, *, what: str = "", error: type[SlipwayError] = StoreError) -> None:
        self.root = root
        self.what = what or str(root)
        self.error = error

    def open(self, path: str) -> BinaryIO:
        """A regular file for reading."""
        with self._parent(path) as (folder, last):
            if last is None:
                raise IsADirectoryError(errno.EISDIR, "is a folder", path)
            # O_NONBLOCK: opening a FIFO must not wait for its writer.
            fd = os.open(last, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._refused(path, "is not a regular file")
        return os.fdopen(fd, "rb")

    def read_bytes(self, path: str, *, limit: int = FILE_LIMIT) -> bytes:
        """The content of a regular file of at most ``limit`` bytes."""
        with self.open(path) as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise self._refused(path, f"is larger than {limit} bytes")
        return data

    def read_text(self, path: str, *, limit: int = FILE_LIMIT) -> str:
        """As read_bytes, decoded from UTF-8."""
        try:
            return self.read_bytes(path, limit=limit).decode()
        except UnicodeDecodeError as wrong:
            raise self._refused(path, "is not UTF-8 text") from wrong

    def stat(self, path: str = "") -> os.stat_result:
        """Of what ``path`` means after links that stay inside; of the root itself without ``path``."""
        with self._parent(path) as (folder, last):
            return os.fstat(folder) if last is None else os.stat(last, dir_fd=folder, follow_symlinks=False)

    def is_file(self, path: str) -> bool:
        """False for what is missing as well; raises ``error`` for a link that leads out."""
        try:
            return stat.S_ISREG(self.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def is_dir(self, path: str = "") -> bool:
        """False for what is missing as well; raises ``error`` for a link that leads out."""
        try:
            return stat.S_ISDIR(self.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def list(self, path: str = "") -> list[str]:
        """The names in a folder, sorted; none when it is missing."""
        try:
            with self._parent(path) as (folder, last):
                if last is None:
                    return sorted(os.listdir(folder))  # noqa: PTH208 - of a descriptor
                fd = os.open(last, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                try:
                    return sorted(os.listdir(fd))  # noqa: PTH208 - of a descriptor
                finally:
                    os.close(fd)
        except (FileNotFoundError, NotADirectoryError):
            return []

    def files(self, path: str = "") -> Iterator[str]:
        """Paths of the regular files below ``path``, sorted, links neither followed nor given."""
        for entry in self.list(path):
            below = f"{path}/{entry}" if path else entry
            with self._parent(below, follow_last=False) as (folder, last):
                mode = os.stat(cast("str", last), dir_fd=folder, follow_symlinks=False).st_mode
            if stat.S_ISREG(mode):
                yield below
            elif stat.S_ISDIR(mode):
                yield from self.files(below)

    def create(self, path: str, *, mode: int = 0o600) -> BinaryIO:
        """A new file for writing, with the folders above it (0700). Raises FileExistsError when anything stands there."""
        clean = relative_path(path, what=self.what, error=self.error)
        *above, last = clean.split("/")
        with self._root() as root:
            folder = root
            opened: list[int] = []
            try:
                for part in above:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o700, dir_fd=folder)
                    try:
                        folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
                    except OSError as wrong:
                        if wrong.errno in (errno.ELOOP, errno.ENOTDIR):
                            raise self._refused(path, "leads through something that is not a folder") from wrong
                        raise
                    opened.append(folder)
                fd = os.open(last, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)
            finally:
                for each in opened:
                    os.close(each)
        os.fchmod(fd, mode)
        return os.fdopen(fd, "wb")

    def _refused(self, path: str, why: str) -> SlipwayError:
        return self.error(message(self.what, f"{shown(path)!r} {why}"))

    @contextlib.contextmanager
    def _root(self) -> Iterator[int]:
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextlib.contextmanager
    def _parent(self, path: str, *, follow_last: bool = True) -> Iterator[tuple[int, str | None]]:
        """A descriptor of the folder that holds ``path`` and the last name in it, links resolved; None for the root itself."""
        if path.startswith("/") or "\0" in path:
            raise self._refused(path, "is not a relative path")
        waiting = collections.deque(part for part in path.split("/") if part not in ("", "."))
        links = 0
        with self._root() as root:
            stack = [root]
            try:
                last: str | None = None
                while waiting:
                    part = waiting.popleft()
                    if part == "..":
                        if len(stack) == 1:
                            raise self._refused(path, "leads out of the folder")
                        os.close(stack.pop())
                        continue
                    state = os.stat(part, dir_fd=stack[-1], follow_symlinks=False)
                    if stat.S_ISLNK(state.st_mode) and (waiting or follow_last):
                        target = os.readlink(part, dir_fd=stack[-1])
                        links += 1
                        if target.startswith("/") or links > _MOST_LINKS:
                            raise self._refused(path, "is a link that leads out of the folder")
                        waiting.extendleft(reversed([step for step in target.split("/") if step not in ("", ".")]))
                    elif waiting:
                        stack.append(os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stack[-1]))
                    else:
                        last = part
                yield stack[-1], last
            finally:
                for fd in stack[1:]:
                    os.close(fd)

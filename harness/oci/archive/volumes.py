"""A stream as one file or cut into volumes: ``FILE.001 FILE.002 ...``, whose plain concatenation is the stream, beside ``FILE.sums``.

The sums are lines as ``sha256sum`` writes them, below a comment with the sizes, so any machine can check a volume without slipway.
Nothing has its name before all of it is on the disk; a writer that is killed leaves one hidden ``.FILE.partial`` a file, which the
next writer of the same file takes over.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import hashlib
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from harness import log
from harness.errors import StoreError, UsageError
from harness.host import durable

_CHUNK = 1 << 20
_SYNC_EVERY = 64 << 20
"""Bytes that may wait for the disk. A slow stick shows its real speed at once, and the end does not wait for gigabytes."""
_MOST_VOLUMES = 999
_VOLUME = re.compile(r"(?P<base>.+)\.(?P<number>\d{3})")
_SUM = re.compile(r"(?P<digest>[0-9a-f]{64}) [ *](?P<name>.+)\.(?P<number>\d{3})")
_SIZES = re.compile(r"# .*volume-size=(?P<volume>\d+) size=(?P<total>\d+)\b.*")


class DamagedError(StoreError):
    """The archive is incomplete or damaged."""


def volume(base: Path, number: int) -> Path:
    return base.with_name(f"{base.name}.{number:03d}")


def sums(base: Path) -> Path:
    return base.with_name(f"{base.name}.sums")


# Writing


def require_few(base: Path, size: int, limit: int) -> None:
    """Raises UsageError when ``size`` bytes need more volumes of ``limit`` bytes than there are numbers for."""
    if size > _MOST_VOLUMES * limit:
        raise UsageError(f"{base} would have more than {_MOST_VOLUMES} volumes of {log.size(limit)}", hint="choose a larger --volume-size")


class _Partial:
    """One file being written beside its place. Raises OSError as the disk does, StoreError when another process writes it."""

    def __init__(self, final: Path, syncer: concurrent.futures.Executor) -> None:
        self.final = final
        self.path = final.with_name(f".{final.name}.partial")
        self.size = 0
        self._syncer = syncer
        self._syncing: concurrent.futures.Future[None] | None = None
        self._unsynced = 0
        self._placed = False
        self._descriptor = self._open()

    def _open(self) -> int:
        while True:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The previous holder of the lock may have moved the file into place meanwhile.
                if os.fstat(descriptor).st_ino == self.path.stat().st_ino:
                    os.ftruncate(descriptor, 0)
                    return descriptor
            except BlockingIOError as busy:
                os.close(descriptor)
                raise StoreError(f"{self.final} is being written by another process", hint="wait for it, or write another file") from busy
            except FileNotFoundError:
                pass
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)

    def write(self, data: bytes | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        self.size += len(data)
        self._unsynced += len(data)
        if self._unsynced >= _SYNC_EVERY:
            self._wait()
            self._syncing, self._unsynced = self._syncer.submit(os.fdatasync, self._descriptor), 0

    def _wait(self) -> None:
        syncing, self._syncing = self._syncing, None
        if syncing:
            syncing.result()

    def finish(self) -> None:
        """Have it all on the disk."""
        self._wait()
        os.fsync(self._descriptor)

    def place(self) -> None:
        """Give it its name."""
        self.path.replace(self.final)
        durable.sync_folder(self.final.parent)
        self._placed = True
        self.close()

    def discard(self) -> None:
        """Remove it, unless it has its name."""
        with contextlib.suppress(OSError):
            self._wait()
        if not self._placed:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Let go of the file, and of its lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class FileWriter:
    """Writes one file that appears when the ``with`` block ends well. ``files`` are what it made, ``size`` their bytes."""

    def __init__(self, final: Path) -> None:
        self.files: tuple[Path, ...] = (final,)
        self.size = 0
        self._syncer = concurrent.futures.ThreadPoolExecutor(1)
        try:
            self._partial = _Partial(final, self._syncer)
        except BaseException:
            self._syncer.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> int:
        self._partial.write(data)
        self.size += len(data)
        return len(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None:
                self._partial.finish()
                self._partial.place()
                _sync_folder(self._partial.final.parent)
        finally:
            self._partial.discard()
            self._syncer.shutdown()


class StreamWriter:
    """Writes to what is open already: a pipe, standard output, a device. ``close``: and closes it."""

    def __init__(self, file: BinaryIO, *, close: bool = False) -> None:
        self.files: tuple[Path, ...] = ()
        self.size = 0
        self._file = file
        self._close = close

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> int:
        self._file.write(data)
        self.size += len(data)
        return len(data)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None:
                self._file.flush()
        finally:
            if self._close:
                self._file.close()


class VolumeWriter:
    """Writes ``base.001``, ``base.002`` ... of ``limit`` bytes each (the last has what is left) and then ``base.sums``.

    They appear together when the ``with`` block ends well; until then old volumes of the same name stay as they are.
    """

    def __init__(self, base: Path, limit: int) -> None:
        self.files: tuple[Path, ...] = ()
        self.size = 0
        self._base = base
        self._limit = limit
        self._digests: list[str] = []
        self._hash = hashlib.sha256()
        self._partials: list[_Partial] = []
        self._syncer = concurrent.futures.ThreadPoolExecutor(1)
        # Its lock is that of all volumes: so many files cannot stay open.
        self._lock = _Partial(base, self._syncer)

    def __enter__(self) -> Self:
        return self

    def write(self, data: bytes) -> int:
        rest = memoryview(data)
        while rest:
            if not self._partials or self._partials[-1].size == self._limit:
                self._begin()
            now = self._partials[-1]
            part = rest[: self._limit - now.size]
            now.write(part)
            self._hash.update(part)
            rest = rest[len(part) :]
        self.size += len(data)
        return len(data)

    def _begin(self) -> None:
        if self._partials:
            self._end()
        number = len(self._partials) + 1
        require_few(self._base, number * self._limit, self._limit)
        self._partials.append(_Partial(volume(self._base, number), self._syncer))
        self._hash = hashlib.sha256()

    def _end(self) -> None:
        self._partials[-1].finish()
        self._partials[-1].close()
        self._digests.append(self._hash.hexdigest())

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        try:
            if kind is None:
                if self._partials:
                    self._end()
                self._place()
        finally:
            for partial in (*self._partials, self._lock):
                partial.discard()
            self._syncer.shutdown()

    def _place(self) -> None:
        old = 0
        with contextlib.suppress(DamagedError):
            listed = _Sums.read(self._base)
            old = len(listed.digests) if listed else 0
        # First, so that nothing says that a mixture of old and new volumes is whole.
        sums(self._base).unlink(missing_ok=True)
        for number in range(len(self._partials) + 1, old + 1):
            volume(self._base, number).unlink(missing_ok=True)
        for partial in self._partials:
            partial.place()
        self.files = tuple(partial.final for partial in self._partials)
        with FileWriter(sums(self._base)) as file:
            file.write(_Sums(tuple(self._digests), self._limit, self.size).text(self._base.name).encode())


def _sync_folder(folder: Path) -> None:
    # Not every file system of a stick can do this; the file itself is on the disk already.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# Sums


@dataclasses.dataclass(frozen=True)
class _Sums:
    """Content of ``FILE.sums``: digests (hex) by number, size of a volume and in total."""

    digests: tuple[str, ...]
    volume_size: int
    size: int

    def text(self, name: str) -> str:
        comment = f"# slipway {len(self.digests)} volumes, volume-size={self.volume_size} size={self.size}"
        lines = [f"{digest}  {name}.{number:03d}" for number, digest in enumerate(self.digests, 1)]
        return "\n".join([comment, *lines, ""])

    @classmethod
    def read(cls, base: Path) -> _Sums | None:
        """None when there are none. Raises StoreError when they cannot be understood."""
        try:
            lines = sums(base).read_text(encoding="ascii").splitlines()
        except FileNotFoundError:
            return None
        except ValueError:
            lines = []
        sizes = _SIZES.fullmatch(lines[0]) if lines else None
        matches = [_SUM.fullmatch(line) for line in lines[1:]]
        if not sizes or not matches or [int(one["number"]) if one else 0 for one in matches] != list(range(1, len(matches) + 1)):
            raise DamagedError(f"{sums(base)} is damaged", hint="copy it again; without it the volumes can be loaded too")
        return cls(tuple(one["digest"] for one in matches if one), int(sizes["volume"]), int(sizes["total"]))

    def size_of(self, number: int) -> int:
        return self.volume_size if number < len(self.digests) else self.size - self.volume_size * (len(self.digests) - 1)


# Reading


def find(path: Path) -> tuple[Path, ...]:
    """The files that ``path`` means, in order: itself, or all volumes of which it is the first or the name without the number.

    Raises DamagedError that names what is missing or cut, UsageError when there is no such file or it is not the first.
    """
    if path.is_dir():
        raise UsageError(f"{path} is a folder, not an archive", hint=f"if it is an OCI layout: tar -C {path} -cf {path.name}.tar .")
    matched = _VOLUME.fullmatch(path.name)
    base, number = (path.with_name(matched["base"]), int(matched["number"])) if matched else (path, 0)
    if matched and (sums(base).exists() or len(_numbers(base)) > 1):
        if number != 1:
            raise UsageError(f"{path} is volume {number} of {base.name}", hint=f"give the first one, {volume(base, 1)}, or {base}")
        return _volumes(base)
    if path.exists():
        return (path,)
    if sums(path).exists() or _numbers(path):
        return _volumes(path)
    raise UsageError(f"{path}: no such file", hint=f"there is no {volume(path, 1).name} either" if path.parent.is_dir() else None)


def _numbers(base: Path) -> list[int]:
    matches = (_VOLUME.fullmatch(path.name) for path in base.parent.glob(f"{_literal(base.name)}.[0-9][0-9][0-9]"))
    return sorted(int(one["number"]) for one in matches if one)


def _literal(name: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", name)


def _volumes(base: Path) -> tuple[Path, ...]:
    numbers, listed = _numbers(base), _Sums.read(base)
    wanted = range(1, (len(listed.digests) if listed else max(numbers, default=1)) + 1)
    missing = [volume(base, number).name for number in wanted if number not in numbers]
    if missing:
        of = f" of {len(wanted)} volumes" if listed else ""
        raise DamagedError(f"missing{of}: {', '.join(missing)}", hint=f"copy {'it' if len(missing) == 1 else 'them'} to {base.parent}")
    if listed:
        for number in wanted:
            _check_size(volume(base, number), listed.size_of(number))
    return tuple(volume(base, number) for number in wanted)


def _check_size(path: Path, expected: int) -> None:
    size = path.stat().st_size
    if size != expected:
        raise DamagedError(
            f"{path} {'is cut' if size < expected else 'is not of this archive'}: it has {size} bytes instead of {expected}",
            hint="copy it again",
        )


class VolumeReader(io.RawIOBase):
    """All of some files, one behind the other; each is compared with the sums, where there are some, when it has been read."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = tuple(files)
        self.now = self.files[0]
        """The file that is being read."""
        self.size = sum(path.stat().st_size for path in files)
        matched = _VOLUME.fullmatch(self.now.name)
        self._base = self.now.with_name(matched["base"]) if matched else self.now
        self._sums = _Sums.read(self._base) if matched else None
        self._number = 0
        self._place = 0
        self._file: BinaryIO | None = None
        self._hash = hashlib.sha256()
        self._good: set[int] = set()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # typeshed's Buffer cannot be named before 3.12
        while True:
            if self._file is None and not self._open_next():
                return 0
            assert self._file
            count = self._file.readinto(buffer)  # type: ignore[attr-defined]  # of a FileIO, which BinaryIO does not say
            if count:
                self._place += int(count)
                if self._sums:
                    self._hash.update(memoryview(buffer)[:count])
                return int(count)
            self._end()

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Skipped bytes are not compared with the sums."""
        place = min(offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self.size}[whence], self.size)
        if self._file:
            self._file.close()
        self._sums, self._file, self._number, remaining = None, None, 0, place
        while self._number < len(self.files) and remaining >= (size := self.files[self._number].stat().st_size):
            self._number += 1
            remaining -= size
        if self._open_next() and self._file:
            self._file.seek(remaining)
        self._place = place
        return place

    def tell(self) -> int:
        return self._place

    def _open_next(self) -> bool:
        if self._number == len(self.files):
            return False
        self.now = self.files[self._number]
        self._number += 1
        self._file = self.now.open("rb", buffering=0)
        self._hash = hashlib.sha256()
        return True

    def _end(self) -> None:
        assert self._file
        self._file.close()
        self._file = None
        if self._sums:
            self._compare(self._number, self._hash.hexdigest())

    def _compare(self, number: int, digest: str) -> None:
        assert self._sums
        path = self.files[number - 1]
        if digest == self._sums.digests[number - 1]:
            self._good.add(number)
        elif digest in self._sums.digests:
            other = self.files[self._sums.digests.index(digest)].name
            raise DamagedError(f"the volumes are mixed up: {path.name} holds what {other} should", hint="give each its own name again")
        else:
            raise DamagedError(f"{path} is damaged, or not of this archive", hint="copy it again")

    def close(self) -> None:
        if self._file:
            self._file.close()
        super().close()

    def blame(self) -> None:
        """After something wrong was read: say which volume it is in. Raises DamagedError, or nothing when all are right."""
        for number, path in enumerate(self.files, 1):
            if self._sums and number not in self._good:
                with path.open("rb") as file:
                    self._compare(number, hashlib.file_digest(file, "sha256").hexdigest())


@contextlib.contextmanager
def reading(files: Sequence[Path]) -> Iterator[VolumeReader]:
    """Open files for reading as one; of something wrong in them say in which volume it is."""
    with contextlib.closing(VolumeReader(files)) as reader:
        try:
            yield reader
        except DamagedError as error:
            reader.blame()
            if len(reader.files) > 1:
                raise DamagedError(f"{error.message} (read up to {reader.now.name})", hint=error.hint, details=error.details) from error
            raise

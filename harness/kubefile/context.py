"""The build context: which of its files COPY, ADD and APP take, and where in the rootfs they land. Docker's rules, in one place."""

from __future__ import annotations

import dataclasses
import difflib
import posixpath
import re
import stat
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from harness.errors import HintedError
from harness.oci.layer import tarball

ROOTFS_FOLDERS = frozenset(
    "application application/apps bin charts cri etc images lib manifests plugins registry scripts statics".split()  # noqa: SIM905
)
"""The folders of a rootfs. They count as present even in an image from scratch, so ``COPY imageList manifests`` never makes a file of
that name, and a folder of the context that is called like one keeps its name when it is copied into the root (``COPY etc .``)."""

IMAGE_LIST_WITH_AUTH = "imageListWithAuth.yaml"
"""Read from the context's root; holds registry passwords, so it never goes into a layer."""

_GIT = re.compile(r"(git|ssh)://|git@|https?://[^#]*\.git(#.*)?$")


class ContextError(HintedError):
    """A source that cannot be taken from the context: ``message`` says why, ``hint`` what to do."""


@dataclasses.dataclass(frozen=True)
class PlacedFile:
    """One entry to be written. ``source`` is a file, folder or symbolic link of the context, ``path`` is relative to the rootfs."""

    source: Path
    path: str
    archive: bool = False
    """ADD of a tar, plain or compressed: its members go into the folder ``path``."""


def known_folder(path: str) -> bool:
    """Return True for a folder that every rootfs has from the start."""
    return path in ROOTFS_FOLDERS


def is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def is_git(source: str) -> bool:
    return _GIT.match(source) is not None


def url_name(url: str) -> str:
    """The name of the file that a URL gives. Raises ContextError when its path has none."""
    name = posixpath.basename(urllib.parse.unquote(urllib.parse.urlsplit(url).path))
    if not name or name in (".", ".."):
        raise ContextError(f"{url}: no file name at the end of the URL", "name the destination file, without a / at its end")
    return name


def has_wildcard(source: str) -> bool:
    return any(char in source for char in "*?[")


def destination_of(path: str, name: str, is_folder: Callable[[str], bool] = known_folder) -> str:
    """Destination of a single file called ``name``. ``path`` is relative to the rootfs; '' or a / at its end make it a folder."""
    folder = path.rstrip("/")
    return posixpath.join(folder, name) if path == "" or path.endswith("/") or is_folder(folder) else folder


def place(
    context: Path,
    sources: Iterable[str],
    destination: str,
    *,
    is_folder: Callable[[str], bool] = known_folder,
    extract: bool = False,
    image: bool = False,
) -> tuple[PlacedFile, ...]:
    """Entries that a COPY writes, parents before children, each folder's entries sorted. URLs among ``sources`` are skipped.

    ``destination`` is relative to the rootfs, '' being its root; ``is_folder`` returns True for existing folders, and ``extract``
    marks tars as ADD does. ``image`` says that ``context`` is the unpacked root of a container image (``--from``): a link in it that
    begins with / leads into it, and links below a folder are taken as they are. A folder gives its content, not itself.

    Raises ContextError for a source that does not exist, is outside the context (``..``, symbolic links), or is one of several for a
    destination that is not a folder.
    """
    matches = [match for source in sources if image or not is_url(source) for match in _find(context, source, image=image)]
    folder = destination == "" or destination.endswith("/") or is_folder(destination)
    if len(matches) > 1 and not folder:
        message = f"{len(matches)} sources for the destination {destination}, which is not a folder"
        raise ContextError(message, f"end it with a slash: {destination}/")
    placed: dict[str, PlacedFile] = {}
    for named, real in matches:
        target = destination.rstrip("/")
        if real.is_dir():
            # `COPY etc .` would scatter one of the rootfs's own folders over its root; Kubefiles that say so mean the folder.
            if target == "" and named.name in ROOTFS_FOLDERS and named != context and not image:
                target = named.name
            entries = _folder(context, real, target, image=image)
        elif extract and _is_archive(real):
            entries = iter([PlacedFile(real, target, archive=True)])
        else:
            _check_kind(context, real)
            entries = iter([PlacedFile(real, destination_of(destination, named.name, is_folder))])
        placed |= {entry.path: entry for entry in entries}
    return tuple(placed.values())


def _folder(context: Path, folder: Path, target: str, *, image: bool) -> Iterator[PlacedFile]:
    if target:
        yield PlacedFile(folder, target)
    for path in sorted(folder.iterdir()):
        if path == context.resolve() / IMAGE_LIST_WITH_AUTH:
            continue
        if path.is_dir() and not path.is_symlink():
            yield from _folder(context, path, posixpath.join(target, path.name), image=image)
        else:
            if not (image and path.is_symlink()):
                _check_kind(context, path)
            yield PlacedFile(path, posixpath.join(target, path.name))


def _check_kind(context: Path, path: Path) -> None:
    shown = _shown(context, path)
    if path.is_symlink():
        goal = path.readlink()
        if not _inside(context, _real(path.parent / goal)):
            raise ContextError(f"{shown} is a symbolic link to {goal}, outside the build context", "make it in the image: RUN ln -s ...")
    elif not stat.S_ISREG(path.stat().st_mode):
        raise ContextError(f"{shown} is neither a file, a folder nor a symbolic link")
    elif path == context.resolve() / IMAGE_LIST_WITH_AUTH:
        raise ContextError(f"{shown} holds passwords, which must not be in an image", "leave it in the context: it is read from there")


def _is_archive(path: Path) -> bool:
    # An empty file is a tar without entries to some; to Docker it is a file.
    return path.stat().st_size > 0 and tarball.is_tarball(path)


def find(context: Path, source: str) -> list[Path]:
    """Paths of the build context that a source matches, sorted; symbolic links are followed.

    Raises ContextError when none matches, or when one is outside the context.
    """
    return [named for named, _ in _find(context, source, image=False)]


def _find(context: Path, source: str, *, image: bool) -> list[tuple[Path, Path]]:
    """Each path that a source names, and the real one behind its links."""
    clean = posixpath.normpath(source.lstrip("/") or ".")
    if clean == ".." or clean.startswith("../"):
        raise ContextError(f"{source} is outside the build context", "copy it into the context first")
    paths = []
    for named in _expand(context, clean.split("/")) if has_wildcard(clean) else [context / clean]:
        real = _resolve(context, named) if image else _real(named)
        if not _inside(context, real):
            raise ContextError(f"{source} is a symbolic link out of the build context, to {real}", "copy the file into the context")
        if real.exists():
            paths.append((named, real))
    if not paths:
        why = "nothing matches" if has_wildcard(clean) else "no such file or folder"
        raise ContextError(f"{source}: {why} in {'the image' if image else context}", _nearest(context, clean))
    return paths


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except RuntimeError as wrong:  # what Python 3.11 and 3.12 say of a circle
        raise ContextError(f"{path.name}: the symbolic links go round in a circle") from wrong


def _resolve(root: Path, path: Path) -> Path:
    """The real path behind links, as a process sees it whose root folder is ``root``."""
    real = root.resolve()
    waiting = list(reversed(path.relative_to(root).parts))
    for _ in range(1000):
        if not waiting:
            return real
        part = waiting.pop()
        if part == "..":
            real = real if real == root.resolve() else real.parent
        elif (real / part).is_symlink():
            goal = (real / part).readlink()
            waiting += reversed([word for word in goal.parts if word != "/"])
            real = root.resolve() if goal.is_absolute() else real
        else:
            real /= part
    raise ContextError(f"{path.relative_to(root)}: the symbolic links go round in a circle")


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _inside(context: Path, real: Path) -> bool:
    return real.is_relative_to(context.resolve())


def _shown(context: Path, path: Path) -> str:
    return str(path.relative_to(context.resolve())) if path.is_relative_to(context.resolve()) else path.name


def _expand(folder: Path, segments: Sequence[str]) -> list[Path]:
    head, rest = segments[0], segments[1:]
    if has_wildcard(head):
        pattern = _pattern(head)
        names = [name for name in _names(folder) if pattern.fullmatch(name)]
    else:
        names = [head] if (folder / head).exists() else []
    if not rest:
        return [folder / name for name in names]
    return [path for name in names for path in _expand(folder / name, rest)]


def _pattern(segment: str) -> re.Pattern[str]:
    """Go's filepath.Match, which Docker uses: ``[^a]`` negates and a leading dot is nothing special, unlike in fnmatch."""
    parts, pattern, position = [], "", 0
    while position < len(segment):
        char = segment[position]
        close = segment.find("]", position + 2) if char == "[" else -1
        if close > 0:
            inner = segment[position + 1 : close].replace("[", r"\[").replace("&&", r"&\&")
            pattern += f"[{inner}]"
            position = close
        elif char == "\\" and position + 1 < len(segment):
            position += 1
            pattern += re.escape(segment[position])
        elif char == "*":
            parts.append(pattern)
            pattern = ""
        else:
            pattern += "." if char == "?" else re.escape(char)
        position += 1
    # Text between two stars is matched once, at its first place: trying every place would take exponential time.
    expression = pattern if not parts else parts[0] + "".join(f"(?>.*?{part})" for part in parts[1:] if part) + ".*" + pattern
    try:
        return re.compile(expression, re.DOTALL)
    except re.error as wrong:
        raise ContextError(f"{segment} is not a pattern: {wrong}") from wrong


def _nearest(context: Path, clean: str) -> str | None:
    """A hint: the entry whose name is most like the missing one, in the deepest folder of the path that exists."""
    folder = context
    for segment in clean.split("/"):
        if (folder / segment).is_dir():
            folder /= segment
            continue
        names = difflib.get_close_matches(segment, _names(folder), n=1)
        return f"did you mean {(folder / names[0]).relative_to(context)}?" if names else None
    return None

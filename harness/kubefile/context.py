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
from harness.kubefile import ignore, wildcards
from harness.oci.layer import tarball

ROOTFS_FOLDERS = frozenset(
    "application application/apps bin charts cri etc images lib manifests plugins registry scripts statics".split()  # noqa: SIM905
)
"""The folders of a rootfs. They count as present even in an image from scratch, so ``COPY imageList manifests`` never makes a file of
that name, and a folder of the context that is called like one keeps its name when it is copied into the root (``COPY etc .``)."""

IMAGE_LIST_WITH_AUTH = "imageListWithAuth.yaml"
"""Read from the context's root; holds registry passwords, so it never goes into a layer."""

LONGEST_NAME, LONGEST_PATH = 255, 4095
"""Bytes of a file name, and characters of a path, that Linux takes."""

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
    parents: bool = False,
    exclude: Sequence[str] = (),
) -> tuple[PlacedFile, ...]:
    """Entries that a COPY writes, parents before children, each folder's entries sorted. URLs among ``sources`` are skipped.

    ``destination`` is relative to the rootfs, '' being its root; ``is_folder`` returns True for existing folders, and ``extract``
    marks tars as ADD does. ``image`` says that ``context`` is the unpacked root of a container image (``--from``): a link in it that
    begins with / leads into it, and links below a folder are taken as they are. A folder gives its content, not itself.

    What the context's ignore file excludes does not exist for an instruction. ``exclude`` are patterns of ``COPY --exclude``: of paths
    within a source, or from the context's root. With ``parents`` a source keeps its folders, those behind a ``/./`` in it.

    Raises ContextError for a source that does not exist, is outside the context (``..``, symbolic links), or is one of several for a
    destination that is not a folder; and InputError for an ignore file that is not valid.
    """
    rules = ignore.IgnoreRules() if image else ignore.read(context)
    excluded = ignore.parse(exclude, "--exclude")
    placed: dict[str, PlacedFile] = {}
    if parents:
        for source in sources:
            if image or not is_url(source):
                for match in _find(context, source, image=image, rules=rules):
                    folder = posixpath.join(destination, _parents(context, source, match[0]), "")
                    placed |= _placed(context, [match], folder, is_folder, rules, excluded, extract=extract, image=image, whole=True)
        return tuple(placed.values())
    matches = [match for source in sources if image or not is_url(source) for match in _find(context, source, image=image, rules=rules)]
    if len(matches) > 1 and not (destination == "" or destination.endswith("/") or is_folder(destination)):
        message = f"{len(matches)} sources for the destination {destination}, which is not a folder"
        raise ContextError(message, f"end it with a slash: {destination}/")
    return tuple(_placed(context, matches, destination, is_folder, rules, excluded, extract=extract, image=image).values())


def _placed(
    context: Path,
    matches: Iterable[tuple[Path, Path]],
    destination: str,
    is_folder: Callable[[str], bool],
    rules: ignore.IgnoreRules,
    excluded: ignore.IgnoreRules,
    *,
    extract: bool,
    image: bool,
    whole: bool = False,
) -> dict[str, PlacedFile]:
    """Entries of the sources by path. ``whole``: a folder of that name is made, instead of its content being taken."""
    root = context.resolve()
    placed: dict[str, PlacedFile] = {}
    for named, real in matches:

        def taken(path: Path, source: Path = real) -> bool:
            below = path.relative_to(source).as_posix() if path != source else path.name
            return not any(excluded.excluding(name) for name in {below, path.relative_to(root).as_posix()})

        target = posixpath.join(destination, named.name) if whole and real.is_dir() else destination.rstrip("/")
        if real.is_dir():
            # `COPY etc .` would scatter one of the rootfs's own folders over its root; Kubefiles that say so mean the folder.
            if target == "" and named.name in ROOTFS_FOLDERS and named != context and not image:
                target = named.name
            entries: Iterable[PlacedFile] = _folder(context, real, target, image=image, rules=rules, taken=taken)
        elif not taken(real):
            continue
        elif extract and _is_archive(real):
            entries = [PlacedFile(real, target, archive=True)]
        else:
            _check_kind(context, real)
            entries = [PlacedFile(real, destination_of(destination, named.name, is_folder))]
        placed |= {entry.path: entry for entry in entries}
    return placed


def _parents(context: Path, source: str, named: Path) -> str:
    """Folders of a source that ``COPY --parents`` keeps: all, or those behind a ``/./``."""
    path = posixpath.dirname(named.relative_to(context).as_posix())
    pivot, mark, _ = source.lstrip("/").removeprefix("./").partition("/./")
    # Wildcards before the mark stand for as many folders as they have segments.
    return "/".join(path.split("/")[len(pivot.split("/")) :]) if mark else path


def _folder(
    context: Path, folder: Path, target: str, *, image: bool, rules: ignore.IgnoreRules, taken: Callable[[Path], bool]
) -> Iterator[PlacedFile]:
    """A folder and what is in it. One that is excluded is made only for the sake of what an exception takes back."""
    if target and not _ignored(context, folder, rules):
        yield PlacedFile(folder, target)
    for path in sorted(folder.iterdir()):
        ignored = _ignored(context, path, rules)
        if path == context.resolve() / IMAGE_LIST_WITH_AUTH or not taken(path):
            continue
        if path.is_dir() and not path.is_symlink():
            if not ignored or rules.takes_back:
                yield from _folder(context, path, posixpath.join(target, path.name), image=image, rules=rules, taken=taken)
        elif not ignored:
            if not (image and path.is_symlink()):
                _check_kind(context, path)
            yield PlacedFile(path, posixpath.join(target, path.name))


def _ignored(context: Path, path: Path, rules: ignore.IgnoreRules) -> ignore.IgnoreRule | None:
    """The line of the ignore file that excludes a path, under its own name or under the one that its links lead to."""
    if not rules.rules:
        return None
    for root in (context, context.resolve()):
        if path.is_relative_to(root) and path != root:
            rule = rules.excluding(path.relative_to(root).as_posix())
            if rule is not None:
                return rule
    return None


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
    return [named for named, _ in _find(context, source, image=False, rules=ignore.read(context))]


def _find(context: Path, source: str, *, image: bool, rules: ignore.IgnoreRules) -> list[tuple[Path, Path]]:
    """Each path that a source names, and the real one behind its links."""
    check_name(source)
    clean = posixpath.normpath(source.lstrip("/") or ".")
    if clean == ".." or clean.startswith("../"):
        raise ContextError(f"{source} is outside the build context", "copy it into the context first")
    paths = []
    hidden: ignore.IgnoreRule | None = None
    for named in _expand(context, clean.split("/")) if wildcards.present(clean) else [context / clean]:
        real = _resolve(context, named) if image else _real(named)
        if not _inside(context, real):
            raise ContextError(f"{source} is a symbolic link out of the build context, to {real}", "copy the file into the context")
        rule = _ignored(context, named, rules) or _ignored(context, real, rules)
        # A folder that is excluded exists all the same when something in it is taken back.
        if rule is not None and not (rules.takes_back and real.is_dir() and _any_left(context, real, rules)):
            hidden = rule if real.exists() else hidden
        elif real.exists():
            paths.append((named, real))
    if not paths and hidden is not None:
        raise ContextError(f"{source} is excluded by {hidden.where}", f"take it back there: !{clean}")
    if not paths:
        why = "nothing matches" if wildcards.present(clean) else "no such file or folder"
        raise ContextError(f"{source}: {why} in {'the image' if image else context}", _nearest(context, clean))
    return paths


def _any_left(context: Path, folder: Path, rules: ignore.IgnoreRules) -> bool:
    return any(_ignored(context, path, rules) is None for path in folder.rglob("*"))


def check_name(path: str) -> None:
    """Raises ContextError for a path that no file system takes."""
    if "\0" in path:
        raise ContextError("a NUL character in a path", "remove it; an editor may hide it")
    if len(path) > LONGEST_PATH or any(len(name.encode()) > LONGEST_NAME for name in path.split("/")):
        raise ContextError(f"{path[:60]}...: the name is too long", f"a file name has at most {LONGEST_NAME} bytes")


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
    if wildcards.present(head):
        pattern = _pattern(head)
        names = [name for name in _names(folder) if pattern.fullmatch(name)]
    else:
        names = [head] if (folder / head).exists() else []
    if not rest:
        return [folder / name for name in names]
    return [path for name in names for path in _expand(folder / name, rest)]


def _pattern(segment: str) -> re.Pattern[str]:
    try:
        return wildcards.pattern(segment)
    except ValueError as wrong:
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

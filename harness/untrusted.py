"""Readers for whatever a machine, an image, a registry or an archive says.

Nothing that comes from outside may become a path, a program or a terminal sequence on this machine, and nothing of it may take more
memory or time than its size allows. Every function raises ``error`` (StoreError unless the caller names another) with a message that
begins with ``what``, the origin of the input.
"""

from __future__ import annotations

import base64
import collections
import contextlib
import dataclasses
import errno
import io
import json
import math
import os
import re
import stat
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, cast

import yaml

from harness.errors import NodeError, SlipwayError, StoreError

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
"""One path component: DNS names, names of nodes, pods, profiles."""

JSON_LIMIT = 32 << 20
"""Bytes. OCI manifests end at 4 MiB; an image set of some thousand images stays below this."""
JSON_DEPTH = 64
YAML_LIMIT = 16 << 20
"""Bytes."""
YAML_DEPTH = 100
YAML_NODES = 200_000
"""Values of a YAML text, each alias counted as often as it is used."""
FILE_LIMIT = 16 << 20
"""Bytes of a file that is read whole."""
_LARGEST_INT = (1 << 63) - 1
_MOST_LINKS = 40
_PATH_LIMIT = 4096

_STRUCTURAL = {
    *("annotations", "artifacttype", "config", "data", "diff_ids", "digest", "layers", "manifests", "mediatype"),
    *("os", "architecture", "platform", "rootfs", "schemaversion", "size", "subject", "urls", "variant"),
}
"""Keys that decide what an OCI document means. Go's reader takes ``Layers`` for ``layers``, Python's does not."""

_LONG_NUMBER = re.compile(r"[-:,\[ \t\r\n][0-9]{19}")
"""A number of JSON that may not fit into 64 bits, by what stands before it; digests of hexadecimal digits are passed over quickly."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029\ufeff")


def _message(what: str, problem: str) -> str:
    return f"{what}: {problem}" if what else problem


# Names and paths


def name(text: object, *, what: str, error: type[SlipwayError] = StoreError) -> str:
    """Return ``text`` when it can be one component of a path: letters, digits, ``._-``, at most 253, and no ``..``."""
    if not isinstance(text, str) or not NAME.fullmatch(text) or ".." in text:
        raise error(_message(what, f"{shown(str(text))[:80]!r} is not a name"))
    return text


def relative_path(text: object, *, what: str, error: type[SlipwayError] = StoreError) -> str:
    """Return ``text`` as a plain relative path: no leading slash, no ``..``, no NUL, ``.`` and empty parts removed, not empty."""
    if not isinstance(text, str) or text.startswith("/") or "\0" in text or len(text) > _PATH_LIMIT:
        raise error(_message(what, f"{shown(str(text))[:120]!r} is not a relative path"))
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or any(len(part.encode(errors="surrogateescape")) > 255 for part in parts):
        raise error(_message(what, f"{shown(text)[:120]!r} is not a path inside the folder"))
    return "/".join(parts)


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
        return self.error(_message(self.what, f"{shown(path)!r} {why}"))

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
                    found = os.stat(part, dir_fd=stack[-1], follow_symlinks=False)
                    if stat.S_ISLNK(found.st_mode) and (waiting or follow_last):
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


# Documents


class _JsonReader:
    """Callbacks of the standard library's parser that refuse what it would let pass."""

    def __init__(self, what: str, error: type[SlipwayError], structural: bool = True) -> None:
        self._what, self._error, self._structural = what, error, structural
        self._shapes: set[tuple[str, ...]] = set()
        """Keys that were looked at: a thousand descriptors have the same."""

    def fail(self, problem: str) -> SlipwayError:
        return self._error(_message(self._what, f"is not usable JSON: {problem}"))

    def pairs(self, items: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(items)
        if len(value) != len(items):
            twice = next(key for key, count in collections.Counter(key for key, _ in items).items() if count > 1)
            raise self.fail(f"the key {shown(twice)[:80]!r} stands twice")
        shape = tuple(value)
        if self._structural and shape not in self._shapes:
            folded = collections.Counter(key.lower() for key in shape)
            for key, count in folded.items():
                if count > 1 and key in _STRUCTURAL:
                    raise self.fail(f"keys differ in case only: {key!r}")
            self._shapes.add(shape)
        return value

    def constant(self, text: str) -> Any:
        raise self.fail(f"{text} is not a number")

    def number(self, text: str) -> float:
        value = float(text)
        if not math.isfinite(value):
            raise self.fail(f"{text[:40]} is too large")
        return value

    def whole(self, text: str) -> int:
        if len(text) > 20 or not -_LARGEST_INT - 1 <= (value := int(text)) <= _LARGEST_INT:
            raise self.fail(f"{text[:40]} is too large")
        return value


def json_document(
    data: bytes | str,
    *,
    what: str,
    limit: int = JSON_LIMIT,
    depth: int = JSON_DEPTH,
    error: type[SlipwayError] = StoreError,
    structural: bool = True,
) -> Any:
    """Parse JSON: at most ``limit`` bytes and ``depth`` levels, no key twice, no NaN or infinity, whole numbers within 64 bits.

    ``structural``: of an OCI document, whose keys may not differ in case only; those of a ConfigMap may.
    """
    reader = _JsonReader(what, error, structural)
    if len(data) > limit:
        raise reader.fail(f"it is larger than {limit} bytes")
    try:
        text = data.decode() if isinstance(data, bytes) else data
        # A hook for each number costs more than one look for a long one.
        long = text[:1].isdigit() or _LONG_NUMBER.search(text)
        value = json.loads(
            text,
            object_pairs_hook=reader.pairs,
            parse_constant=reader.constant,
            parse_float=reader.number,
            parse_int=reader.whole if long else None,
        )
    except RecursionError as wrong:
        raise reader.fail(f"it is nested more than {depth} levels deep") from wrong
    except ValueError as wrong:
        raise reader.fail(shown(str(wrong))) from wrong
    if text.count("[") + text.count("{") > depth and _deeper_than(value, depth):
        raise reader.fail(f"it is nested more than {depth} levels deep")
    return value


def json_object(
    data: bytes | str, *, what: str, limit: int = JSON_LIMIT, depth: int = JSON_DEPTH, error: type[SlipwayError] = StoreError
) -> dict[str, Any]:
    """As json_document, of a document that is an object."""
    value = json_document(data, what=what, limit=limit, depth=depth, error=error)
    if not isinstance(value, dict):
        raise error(_message(what, "is not a JSON object"))
    return value


def _deeper_than(value: Any, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [child for each in level if isinstance(each, dict | list) for child in (each.values() if isinstance(each, dict) else each)]
        if not level:
            return False
    return any(isinstance(each, dict | list) for each in level)


def integer(value: object, *, what: str, minimum: int = 0, maximum: int = _LARGEST_INT, error: type[SlipwayError] = StoreError) -> int:
    """Return ``value`` when it is a whole number in the range; booleans, floats and text are not."""
    if type(value) is not int or not minimum <= value <= maximum:
        raise error(_message(what, f"{shown(str(value))[:80]!r} is not a number from {minimum} to {maximum}"))
    return value


def number(text: object, *, base: int = 10, maximum: int = _LARGEST_INT) -> int | None:
    """The whole number that a text spells in ASCII digits of ``base``; None for everything else, also for one above ``maximum``.

    ``str.isdigit`` and ``int`` disagree about digits such as a superscript two, and ``int`` takes signs, blanks and underscores.
    """
    if not isinstance(text, str) or not re.fullmatch(r"[0-9A-Fa-f]{1,64}", text):
        return None
    try:
        value = int(text, base)
    except ValueError:
        return None
    return value if value <= maximum else None


def decimal(text: object) -> float | None:
    """The finite number, not below 0, that a text spells, as ``12.5`` or ``2.5e-05``; None for everything else."""
    if not isinstance(text, str) or not re.fullmatch(r"[0-9]{1,32}(?:\.[0-9]{0,32})?(?:e[+-]?[0-9]{1,2})?", text):
        return None
    return float(text)


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe types, but dates stay text, as for Kubernetes."""


_YamlLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _YamlCount:
    """Counts the values that the events of a YAML text spell out to, and their levels."""

    def __init__(self, depth: int) -> None:
        self.count = 0
        self._depth = depth
        self._sizes: dict[str, tuple[int, int] | None] = {}
        """Values and levels below each anchor; None while the anchored collection is open."""
        self._open: list[tuple[str | None, int]] = []
        self._heights = [0]
        """Levels below each open collection as far as it was read, the text itself first."""

    def add(self, event: yaml.Event) -> str | None:
        """Return what is wrong with an event, or None."""
        height = 0
        if isinstance(event, yaml.AliasEvent):
            size = self._sizes.get(str(event.anchor), (0, 0))
            if size is None:
                return "it holds itself, by an alias"
            self.count += size[0]
            height = size[1]
            self._heights[-1] = max(self._heights[-1], height)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open.append((event.anchor, self.count))
            self._heights.append(0)
            self._begin(event.anchor, None)
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = self._open.pop()
            levels = self._heights.pop() + 1
            self._heights[-1] = max(self._heights[-1], levels)
            if anchor is not None:
                self._sizes[anchor] = (self.count - before, levels)
        elif isinstance(event, yaml.ScalarEvent):
            self._begin(event.anchor, (1, 0))
        elif isinstance(event, yaml.DocumentStartEvent):
            self._sizes.clear()
        if len(self._open) + height > self._depth:
            return f"it is nested more than {self._depth} levels deep"
        return None

    def _begin(self, anchor: str | None, size: tuple[int, int] | None) -> None:
        self.count += 1
        if anchor is not None:
            self._sizes[anchor] = size


def _yaml_excess(text: str | bytes, limit: int, depth: int, nodes: int) -> tuple[int, str] | None:
    if len(text) > limit:
        return 1, f"it is larger than {limit} bytes"
    counted = _YamlCount(depth)
    for event in yaml.parse(text, Loader=_YamlLoader):
        problem = counted.add(event)
        if problem is None and counted.count > nodes:
            problem = f"it holds more than {nodes} values, aliases included"
        if problem is not None:
            return (event.start_mark.line + 1 if event.start_mark else 1), problem
    return None


def yaml_excess(text: str | bytes, *, limit: int = YAML_LIMIT, depth: int = YAML_DEPTH, nodes: int = YAML_NODES) -> tuple[int, str] | None:
    """Line and description of the first thing for which a YAML text must not be loaded: see yaml_check.

    None also for what is not YAML: its loader can say that with more context.
    """
    try:
        return _yaml_excess(text, limit, depth, nodes)
    except (yaml.YAMLError, UnicodeError, ValueError):
        return None


def yaml_check(
    text: str | bytes,
    *,
    what: str,
    limit: int = YAML_LIMIT,
    depth: int = YAML_DEPTH,
    nodes: int = YAML_NODES,
    error: type[SlipwayError] = StoreError,
) -> None:
    """Raise ``error`` when a YAML text is too large, too deep, holds itself, or spells out to more than ``nodes`` values.

    Only events are read, in constant memory: afterwards any loader may take the text. What is not YAML is an error as well.
    """

    def fail(problem: str) -> SlipwayError:
        return error(_message(what, f"is not usable YAML: {problem}"))

    try:
        excess = _yaml_excess(text, limit, depth, nodes)
    except yaml.YAMLError as wrong:
        raise fail(_yaml_problem(wrong)) from wrong
    except (UnicodeError, ValueError) as wrong:
        raise fail(shown(str(wrong))) from wrong
    if excess is not None:
        line, problem = excess
        raise fail(problem if len(text) > limit else f"line {line}: {problem}")


def yaml_document(
    text: str | bytes,
    *,
    what: str,
    limit: int = YAML_LIMIT,
    depth: int = YAML_DEPTH,
    nodes: int = YAML_NODES,
    error: type[SlipwayError] = StoreError,
) -> Any:
    """As yaml_documents, of a text of one document; None when it is empty."""
    documents = yaml_documents(text, what=what, limit=limit, depth=depth, nodes=nodes, error=error)
    if len(documents) > 1:
        raise error(_message(what, "holds more than one document"))
    return documents[0] if documents else None


def yaml_documents(
    text: str | bytes,
    *,
    what: str,
    limit: int = YAML_LIMIT,
    depth: int = YAML_DEPTH,
    nodes: int = YAML_NODES,
    error: type[SlipwayError] = StoreError,
) -> list[Any]:
    """All documents of a YAML text as dict, list, str, int, float, bool, bytes and None, after yaml_check."""
    yaml_check(text, what=what, limit=limit, depth=depth, nodes=nodes, error=error)
    try:
        return list(yaml.load_all(text, Loader=_YamlLoader))
    except yaml.YAMLError as wrong:
        raise error(_message(what, f"is not usable YAML: {_yaml_problem(wrong)}")) from wrong
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as wrong:
        raise error(_message(what, f"is not usable YAML: {shown(str(wrong))}")) from wrong


def _yaml_problem(wrong: yaml.YAMLError) -> str:
    if isinstance(wrong, yaml.MarkedYAMLError) and wrong.problem_mark is not None:
        return f"line {wrong.problem_mark.line + 1}: {shown(wrong.problem or 'is not understood')}"
    return shown(" ".join(str(wrong).split()))


# The terminal


def shown(text: str, *, lines: bool = False) -> str:
    """``text`` for a terminal or a log: control characters, bidirectional marks and lone surrogates are escaped.

    Line feeds and tabs stay with ``lines``.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _harmless(character) or (lines and character in "\n\t") else _escaped(character) for character in text)


def _harmless(character: str) -> bool:
    return character not in _BIDI and unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    code = ord(character)
    if character in "\n\r\t":
        return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}[character]
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


# Streams


class Ceiling(io.RawIOBase):
    """A stream that raises ``error`` once more than ``limit`` bytes were read from it."""

    def __init__(self, stream: IO[bytes], limit: int, *, what: str, error: type[SlipwayError] = StoreError) -> None:
        self._stream, self._left, self._limit, self._what, self._error = stream, limit, limit, what, error

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        # One byte more than allowed distinguishes the end of the stream from an excess.
        data = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise self._error(_message(self._what, f"is larger than {self._limit} bytes"))
        return data

    def readinto(self, buffer: Any, /) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None


# Access to a cluster


@dataclasses.dataclass(frozen=True)
class KubeIdentity:
    """Parts of a machine's kubeconfig that are used: three PEM texts. Commands, proxies, other users and files are dropped."""

    authority: bytes
    certificate: bytes
    key: bytes = dataclasses.field(repr=False)

    def kubeconfig(self, *, server: str, cluster: str, user: str = "kubernetes-admin") -> str:
        """YAML of a kubeconfig with this identity and nothing else. ``server`` is a URL that the caller vouches for."""

        def encoded(data: bytes) -> str:
            return base64.b64encode(data).decode()

        context = f"{user}@{cluster}"
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": cluster, "cluster": {"certificate-authority-data": encoded(self.authority), "server": server}}],
                "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
                "current-context": context,
                "preferences": {},
                "users": [
                    {"name": user, "user": {"client-certificate-data": encoded(self.certificate), "client-key-data": encoded(self.key)}}
                ],
            },
            sort_keys=False,
        )


def kube_identity(text: str | bytes, *, what: str, error: type[SlipwayError] = NodeError) -> KubeIdentity:
    """The identity of the current context of a kubeconfig (the first of each kind without one), verified to be PEM."""
    documents = yaml_documents(text, what=what, limit=1 << 20, error=error)
    document = documents[0] if len(documents) == 1 and isinstance(documents[0], dict) else {}
    contexts = _entries(document, "contexts", "context")
    current = document.get("current-context")
    context = contexts.get(current) if isinstance(current, str) else next(iter(contexts.values()), {})
    cluster = _chosen(_entries(document, "clusters", "cluster"), (context or {}).get("cluster"))
    user = _chosen(_entries(document, "users", "user"), (context or {}).get("user"))

    def pem(holder: dict[str, Any], field: str, *kinds: bytes) -> bytes:
        try:
            data = base64.b64decode(str(holder[field]), validate=True)
        except (KeyError, ValueError) as wrong:
            raise error(_message(what, f"its {field} is missing or is not base64")) from wrong
        # Only what stands between the marks of the kinds that are asked for is kept.
        blocks = _PEM.findall(data)
        if not blocks or any(kind not in kinds for kind, _ in blocks) or len(data) > 1 << 16:
            raise error(_message(what, f"its {field} is not PEM"))
        return b"".join(b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (kind, body.strip(), kind) for kind, body in blocks)

    return KubeIdentity(
        pem(cluster, "certificate-authority-data", b"CERTIFICATE"),
        pem(user, "client-certificate-data", b"CERTIFICATE"),
        pem(user, "client-key-data", b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"PRIVATE KEY"),
    )


_PEM = re.compile(rb"-----BEGIN ([A-Z ]{1,40})-----\r?\n([A-Za-z0-9+/=\r\n]{1,65536})-----END \1-----")


def _entries(document: dict[str, Any], key: str, inner: str) -> dict[str, dict[str, Any]]:
    entries = document.get(key)
    return {
        str(entry.get("name")): entry[inner]
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get(inner), dict)
    }


def _chosen(entries: dict[str, dict[str, Any]], wanted: object) -> dict[str, Any]:
    return entries.get(wanted, {}) if isinstance(wanted, str) else next(iter(entries.values()), {})

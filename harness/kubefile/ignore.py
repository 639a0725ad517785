"""Ignore files of the build context: which of its files no instruction may take. Docker's rules for ``.dockerignore``.

Each line is a pattern of paths from the context's root; ``*`` and ``?`` do not match a slash, ``**`` matches any number of folders, and
``!`` takes back what an earlier line excluded. The last line that matches a path, or a folder above it, decides.
See https://docs.docker.com/build/concepts/context/#dockerignore-files.
"""

from __future__ import annotations

import dataclasses
import posixpath
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from harness.errors import Fault, InputError
from harness.kubefile import wildcards

FILES = (".slipwayignore", ".dockerignore")
"""Names of ignore files in the context's root. The first that exists counts, and no other."""


Matcher = Callable[[str], bool]
"""Returns True for a path, relative to the context, that a pattern matches as a whole."""


@dataclasses.dataclass(frozen=True)
class IgnoreRule:
    """One line of an ignore file. ``where`` is its place, ``.dockerignore:3``."""

    where: str
    matches: Matcher
    takes_back: bool = False


@dataclasses.dataclass(frozen=True)
class IgnoreRules:
    """The lines of an ignore file, in order."""

    rules: tuple[IgnoreRule, ...] = ()

    def excluding(self, path: str) -> IgnoreRule | None:
        """The rule that excludes a path, relative to the context; None when it may be taken."""
        names = path.split("/")
        paths = ["/".join(names[: count + 1]) for count in range(len(names))]
        decided: IgnoreRule | None = None
        for rule in self.rules:
            # A rule that would change nothing is not tried.
            if rule.takes_back == (decided is not None) and any(rule.matches(each) for each in paths):
                decided = None if rule.takes_back else rule
        return decided

    @property
    def takes_back(self) -> bool:
        """Return True when something below an excluded folder may be taken all the same."""
        return any(rule.takes_back for rule in self.rules)


def read(context: Path) -> IgnoreRules:
    """The rules of the context's ignore file; none without one. Raises InputError with every fault of the file."""
    for name in FILES:
        path = context / name
        if not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as wrong:
            raise InputError([Fault(str(path), f"cannot be read: {wrong}")]) from wrong
        return parse(text.splitlines(), str(path))
    return IgnoreRules()


def parse(lines: Iterable[str], name: str) -> IgnoreRules:
    """Read patterns, one a line; ``name`` is the file's in faults. Raises InputError with every fault."""
    rules: list[IgnoreRule] = []
    faults: list[Fault] = []
    for number, line in enumerate(lines, start=1):
        where = f"{name}:{number}"
        pattern = line.strip()
        if line.startswith("#") or not pattern:
            continue
        takes_back = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip()
        if not pattern:
            faults.append(Fault(where, "! stands alone", "!PATTERN takes back what an earlier line excludes"))
            continue
        try:
            rules.append(IgnoreRule(where, _matcher(_clean(pattern)), takes_back))
        except ValueError as wrong:
            faults.append(Fault(where, f"{pattern} is not a pattern: {wrong}"))
    if faults:
        raise InputError(faults)
    return IgnoreRules(tuple(rules))


def _clean(pattern: str) -> str:
    # normpath keeps two slashes at the beginning, as POSIX has it.
    clean = posixpath.normpath(re.sub("/+", "/", pattern))
    return clean.removeprefix("/") if len(clean) > 1 else clean


def _matcher(pattern: str) -> Matcher:
    """A function for whole paths. Raises ValueError for a pattern that is not valid."""
    _check(pattern)
    segments = pattern.split("/")
    if all("**" not in segment or not segment.strip("*") for segment in segments):
        return _by_segments([None if segment.startswith("**") else wildcards.pattern(segment) for segment in segments])
    if pattern.startswith("**") and not set("*?[\\") & set(pattern[2:]):
        # Docker compares the end of the path here, whatever the folders.
        return lambda path: path.endswith(pattern[2:])
    # Stars within a name are rare. Docker reads them as an expression of this form, whose time grows with each of them.
    if pattern.count("**") > _MOST_WITHIN_NAMES:
        raise ValueError(f"more than {_MOST_WITHIN_NAMES} ** of which one is within a name")
    try:
        expression = re.compile("".join(_translated(token) for token in _TOKEN.finditer(pattern)), re.DOTALL)
    except re.error as wrong:
        raise ValueError(str(wrong)) from wrong
    return lambda path: expression.fullmatch(path) is not None


_MOST_WITHIN_NAMES = 3
_TOKEN = re.compile(r"(?P<rest>(?:\*\*/?)+\Z)|(?P<folders>(?:\*\*/?)+)|\*|\?|\[.[^\]/]*\]|\\.|.", re.DOTALL)


def _translated(token: re.Match[str]) -> str:
    if token["rest"]:
        return ".*"
    if token["folders"]:
        return "(?:.*/)?"
    text = token[0]
    if text in ("*", "?"):
        return "[^/]*" if text == "*" else "[^/]"
    if text.startswith("[") and len(text) > 1:
        inner = text[1:-1].replace("[", r"\[").replace("&&", r"&\&")
        return f"(?!/)[{inner}]"
    return re.escape(text[-1])


def _check(pattern: str) -> None:
    if "\0" in pattern:
        raise ValueError("it holds a NUL character")
    tokens = [token[0] for token in _TOKEN.finditer(pattern)]
    if "\\" in tokens:
        raise ValueError("nothing follows the \\ at its end")
    if "[" in tokens:
        raise ValueError("a [ is not closed")


def _by_segments(wanted: list[re.Pattern[str] | None]) -> Matcher:
    """Match folder by folder; None stands for ``**``, any number of them. Takes at most the product of both lengths."""

    def matches(path: str) -> bool:
        names = path.split("/")
        place = index = 0
        # Place in both to resume from when what follows the last ** does not match there.
        resume: tuple[int, int] | None = None
        while index < len(names):
            segment = wanted[place] if place < len(wanted) else _END
            if segment is None:
                if place == len(wanted) - 1:
                    return True
                resume = (place + 1, index + 1)
                place += 1
            elif isinstance(segment, re.Pattern) and segment.fullmatch(names[index]):
                place, index = place + 1, index + 1
            elif resume is not None:
                place, index = resume
                resume = (place, index + 1)
            else:
                return False
        # A ** at the end stands for what is in a folder, not for the folder.
        return place == len(wanted)

    return matches


_END = object()

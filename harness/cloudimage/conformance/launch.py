"""Files that launch commands give kubectl and helm, as far as the text of a command shows them without being run."""

from __future__ import annotations

import dataclasses
import itertools
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence

from harness.process import LONGEST_ARGUMENT

_BREAKS = ";&|()\n"
_REMOTE = re.compile(r"(?:https?|oci|git|ssh)://", re.IGNORECASE)
_UNKNOWN = frozenset("$`*?[]{}~\\")
"""Characters of a word that a shell may replace."""
_APPLYING = ("apply", "create", "replace")
_CHART_VERBS = ("install", "upgrade")
_FILE_OPTIONS = {
    "kubectl": ("-f", "-k", "--filename", "--kustomize"),
    "helm": ("-f", "--values", "--repo"),
}
_NAMELESS = ("-g", "--generate-name")
_HARMLESS = ("kubectl", "cd", "export", "echo", "sleep", "true", "set")
"""Programs that put no file into the rootfs; behind any other one, a file that is named may have been made by it."""


@dataclasses.dataclass(frozen=True)
class LaunchFile:
    """A file or chart that a launch command names. ``path`` is None for one that is not known to be of the rootfs."""

    command: str
    word: str
    path: str | None = None

    @property
    def is_remote(self) -> bool:
        return _REMOTE.match(self.word) is not None


def named_files(commands: Iterable[str]) -> Iterator[LaunchFile]:
    """Files of launch commands in the order in which they run; each command begins in the root of the rootfs."""
    reader = _Reader()
    for command in commands:
        yield from reader.read(command)


class _Reader:
    def __init__(self) -> None:
        self._certain = True
        """No command so far can have made a file."""
        self._folder: str | None = ""
        """Current folder; None when it is not known."""

    def read(self, command: str) -> Iterator[LaunchFile]:
        self._folder = ""
        for words in _simple_commands(command):
            yield from self._simple(command, words)

    def _simple(self, command: str, words: Sequence[str]) -> Iterator[LaunchFile]:
        words = self._without_redirections(words)
        if not words:
            return
        program, rest = posixpath.basename(words[0]), words[1:]
        if program == "cd":
            self._change_folder(rest)
        named = [*_of_kubectl(rest)] if program == "kubectl" else [*_of_helm(rest)] if program == "helm" else []
        for word in named:
            yield LaunchFile(command, word, self._path(word))
        if program not in _HARMLESS and not (program == "helm" and rest[:1] and rest[0] in _CHART_VERBS):
            self._certain = False

    def _without_redirections(self, words: Sequence[str]) -> list[str]:
        kept: list[str] = []
        waiting = list(reversed(words))
        while waiting:
            word = waiting.pop()
            if not word or not set(word) <= set("<>&"):
                kept.append(word)
                continue
            target = waiting.pop() if waiting else ""
            if ">" in word and "&" not in word and not target.startswith("/dev/"):
                self._certain = False
        return kept

    def _change_folder(self, words: Sequence[str]) -> None:
        target = words[0] if words else "/"
        if self._folder is None or target.startswith("/") or _UNKNOWN & set(target):
            self._folder = None
        else:
            self._folder = posixpath.join(self._folder, target)

    def _path(self, word: str) -> str | None:
        if not self._certain or self._folder is None or word.startswith("/") or _UNKNOWN & set(word) or _REMOTE.match(word):
            return None
        path = posixpath.normpath(posixpath.join(self._folder, word))
        return None if path.startswith("..") else path


def _of_kubectl(words: Sequence[str]) -> Iterator[str]:
    if any(verb in words[:1] for verb in _APPLYING):
        for text in _option_values(words, "kubectl"):
            yield from (word for word in text.split(",") if word and word != "-")


def _of_helm(words: Sequence[str]) -> Iterator[str]:
    if not words or words[0] not in _CHART_VERBS:
        return
    for text in _option_values(words, "helm"):
        yield from (word for word in text.split(",") if word)
    # A chart stands behind the name of its release. A word with a scheme elsewhere may be the value of any option.
    for before, word in itertools.pairwise(words):
        if _REMOTE.match(word) and (not before.startswith("-") or before in _NAMELESS):
            yield word


def _option_values(words: Sequence[str], program: str) -> Iterator[str]:
    for place, word in enumerate(words):
        for option in _FILE_OPTIONS[program]:
            if word == option:
                yield from words[place + 1 : place + 2]
            elif word.startswith(f"{option}="):
                yield word.removeprefix(f"{option}=")
            elif len(option) == 2 and word.startswith(option) and not word.startswith("--"):
                yield word.removeprefix(option)


def _simple_commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a list or a pipe. Nothing of a command whose quotes are broken, or that is too long to be run."""
    if len(text) > LONGEST_ARGUMENT:
        return
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=_BREAKS + "<>")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    try:
        words = list(lexer)
    except ValueError:
        return
    command: list[str] = []
    for word in words:
        if word and set(word) <= set(_BREAKS):
            yield command
            command = []
        else:
            command.append(word)
    yield command

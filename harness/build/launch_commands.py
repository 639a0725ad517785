"""Launch commands, read without running them: the charts, manifests and kustomizations that helm and kubectl are given, and how.

Only simple commands are understood: words, ``cd``, variables with known values, pipes and lists. Scripts of the image are read line by
line. What cannot be known is reported, never guessed.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from harness.build.declared_images import STAND_IN, RootfsFile
from harness.build.yaml_documents import is_yaml, read_text
from harness.errors import Fault
from harness.kubefile import Kubefile
from harness.kubefile.instructions import AppCmds, AppInstruction, LaunchCommands
from harness.process import LONGEST_ARGUMENT
from harness.templates.job import output_name

_VARIABLE = re.compile(r"\$(?:\{(?P<braced>[A-Za-z_]\w*)(?::?-(?P<default>[^}]{0,1000}))?\}|(?P<plain>[A-Za-z_]\w*))")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_BREAKS = ";&|()\n"
_KEYWORDS = frozenset("if then else elif fi for do done while until case esac { } ! time exec sudo command env nohup".split())  # noqa: SIM905
_SHELLS = ("sh", "bash", "ash", "dash", "source", ".")
_DEEPEST = 4
"""Scripts that call scripts."""
_LARGEST_SCRIPT = 1 << 20
_MOST_COMMANDS = 10_000
"""Simple commands that are read of all launch commands, scripts included: scripts that call each other multiply."""
_LONGEST_SHOWN = 200
_LONGEST_VALUE = 64 << 10
"""Characters that the variables of a word become: ``A=$A$A`` doubles a value with each command."""
_REMOTE = re.compile(r"(?:https?|oci|git|ssh)://|git@")


def _words_of(text: str) -> frozenset[str]:
    """Names of options, with their dashes."""
    return frozenset(f"--{name}" for name in text.split())


_HELM_VALUES = ("values", "set", "set-string", "set-file", "set-json", "set-literal")
_HELM_SHORT = {"-f": "--values", "-n": "--namespace", "-a": "--api-versions", "-o": "--output", "-s": "--show-only", "-l": "--labels"}
_HELM_WITH_VALUE = _words_of("""
    values set set-string set-file set-json set-literal namespace version repo timeout username password kube-context kubeconfig
    kube-version api-versions post-renderer post-renderer-args description ca-file cert-file key-file keyring history-max output show-only
    output-dir labels name kube-apiserver kube-as-user kube-as-group kube-ca-file kube-token kube-tls-server-name burst-limit qps
    name-template registry-config repository-cache repository-config
""")
_KUBECTL_SHORT = {
    "-f": "--filename",
    "-k": "--kustomize",
    "-n": "--namespace",
    "-l": "--selector",
    "-o": "--output",
    "-s": "--server",
    "-c": "--container",
}
_KUBECTL_WITH_VALUE = _words_of("""
    filename kustomize namespace selector output server container image context kubeconfig cluster user token timeout field-manager template
    prune-allowlist request-timeout as as-group certificate-authority client-key client-certificate port labels env overrides restart
    replicas schedule target load-restrictor
""")
_APPLYING = ("apply", "create", "replace")


@dataclasses.dataclass(frozen=True)
class LaunchCommand:
    """A shell command that starts the image, and the place that gives it: ``Kubefile:7``."""

    text: str
    where: str


@dataclasses.dataclass(frozen=True)
class ChartRelease:
    """One ``helm install``, ``upgrade`` or ``template``. Paths are relative to the rootfs."""

    chart: str
    where: str
    release: str = ""
    namespace: str = ""
    values: tuple[tuple[str, str], ...] = ()
    """Options that give values, in order: ``("values", "etc/prod.yaml")``, ``("set", "a=1")``, ``("set-file", "key=etc/x")``."""


@dataclasses.dataclass
class LaunchReading:
    """Files that launch commands name. A path is in ``manifests`` with the place of the command that names it."""

    releases: list[ChartRelease] = dataclasses.field(default_factory=list)
    manifests: dict[str, str] = dataclasses.field(default_factory=dict)
    kustomizations: dict[str, str] = dataclasses.field(default_factory=dict)
    images: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    """Images of ``kubectl run``, ``create`` and ``set image``, as they are written."""
    warnings: list[Fault] = dataclasses.field(default_factory=list)


def launch_commands(kubefile: Kubefile, commands: Iterable[str]) -> tuple[LaunchCommand, ...]:
    """Commands, each once, with the line of the Kubefile that gives it; one of the base image has the name of the Kubefile."""
    lines: dict[str, str] = {}
    for instruction in kubefile.instructions:
        if isinstance(instruction, LaunchCommands):
            lines |= dict.fromkeys(instruction.commands, kubefile.where(instruction))

    def where(command: str) -> str:
        own = lines.get(command)
        app = own or next((kubefile.where(item) for item in kubefile.of(AppCmds) if command.endswith(f" && {item.command}")), None)
        return app or next((kubefile.where(item) for item in kubefile.of(AppInstruction) if item.folder in command), kubefile.path)

    return tuple(LaunchCommand(command, where(command)) for command in dict.fromkeys(commands))


def read_launch_commands(commands: Sequence[LaunchCommand], files: Mapping[str, RootfsFile], env: Mapping[str, str]) -> LaunchReading:
    """Read launch commands against the files of the rootfs, by path. ``env`` has the known values of variables."""
    reading = LaunchReading()
    known_files = _KnownFiles(files)
    remaining = _MOST_COMMANDS
    for command in commands:
        reader = _ShellReader(reading, known_files, dict(env), remaining)
        reader.read(command.text, command.where)
        remaining = reader.left
    if remaining < 0:
        message = f"the launch commands have more than {_MOST_COMMANDS} commands with their scripts; the rest was not read"
        reading.warnings.append(Fault(commands[-1].where, message, "list the images in manifests/imageList"))
    return reading


class _KnownFiles:
    """The files of a rootfs under the names that they have when a launch command runs: templates are rendered by then."""

    def __init__(self, files: Mapping[str, RootfsFile]) -> None:
        self.files = {output_name(path): file for path, file in files.items()}
        self.folders = {parent for path in self.files for parent in _parents(path)}
        self._sorted = sorted(self.files)

    def matching(self, path: str) -> list[str]:
        """Files and folders that a path or a pattern of the shell names."""
        if not any(char in path for char in "*?["):
            return [path] if path in self.files or path in self.folders else []
        depth = path.count("/")
        return sorted(name for name in {*self.files, *self.folders} if name.count("/") == depth and fnmatch.fnmatchcase(name, path))

    def below(self, folder: str, *, recursive: bool) -> list[str]:
        prefix = f"{folder}/" if folder != "." else ""
        return [path for path in self._sorted if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :])]


def _parents(path: str) -> Iterator[str]:
    while path := posixpath.dirname(path):
        yield path
    yield "."


@dataclasses.dataclass
class _Flags:
    words: list[str] = dataclasses.field(default_factory=list)
    options: list[tuple[str, str]] = dataclasses.field(default_factory=list)

    def last(self, name: str) -> str:
        return next((value for option, value in reversed(self.options) if option == name), "")

    def all(self, name: str) -> list[str]:
        return [value for option, value in self.options if option == name]


def _flags(words: Sequence[str], short: Mapping[str, str], with_value: frozenset[str]) -> _Flags:
    """The words of a command apart: those that are no options, and the options without their dashes."""
    flags = _Flags()
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        if not word.startswith("-") or word == "-":
            flags.words.append(word)
            continue
        name, equals, value = word.partition("=")
        if not word.startswith("--"):
            name, value = word[:2], word[2:].removeprefix("=")
            equals = "=" if value else ""
        name = short.get(name, name)
        if not equals and name in with_value:
            value = waiting.pop() if waiting else ""
        flags.options.append((name.lstrip("-"), value))
    return flags


class _ShellReader:
    """Reads commands one after the other, as one shell would run them."""

    def __init__(self, reading: LaunchReading, known: _KnownFiles, variables: dict[str, str], left: int) -> None:
        self.reading = reading
        self.known = known
        self.variables = variables
        self.folder = ""
        self.where = ""
        self.depth = 0
        self.left = left
        """Commands that may still be read; below zero when one was left out."""

    def read(self, text: str, where: str) -> None:
        self.where = where
        if len(text) > LONGEST_ARGUMENT:
            # The lexer needs minutes for a word of megabytes.
            self._warn(f"a line of {len(text)} characters was not read", "list the images in manifests/imageList")
            return
        input_files: list[str] = []
        for separator, words in _simple_commands(text):
            self.left -= 1
            if self.left < 0:
                return
            if separator != "|":
                input_files = []
            input_files = self._command(words, input_files)

    def _command(self, words: list[str], input_files: list[str]) -> list[str]:
        """Read one simple command; returns the files that it passes on through a pipe."""
        words, redirected = _redirections(words)
        input_files = [*input_files, *redirected]
        while words and (words[0] in _KEYWORDS or _ASSIGNMENT.fullmatch(words[0])):
            assignment = _ASSIGNMENT.fullmatch(words.pop(0))
            if assignment:
                self.variables[assignment[1]] = self._expanded(assignment[2])
        if not words:
            return []
        program, rest = posixpath.basename(words[0]), [self._expanded(word) for word in words[1:]]
        if program == "cd":
            self._change_folder(rest)
        elif program == "export":
            self.variables.update((match[1], match[2]) for word in rest if (match := _ASSIGNMENT.fullmatch(word)))
        elif program in ("cat", "envsubst"):
            return [*input_files, *(word for word in rest if not word.startswith("-") and program == "cat")]
        elif program in ("helm", "helm3"):
            self._helm(_flags(rest, _HELM_SHORT, _HELM_WITH_VALUE))
        elif program in ("kubectl", "kubectl.sh"):
            self._kubectl(_flags(rest, _KUBECTL_SHORT, _KUBECTL_WITH_VALUE), input_files)
        elif program == "kustomize":
            self._kustomize(rest)
        elif program in _SHELLS or program.endswith(".sh"):
            self._shell([self._expanded(words[0]), *rest])
        return []

    def _expanded(self, word: str) -> str:
        """The word with the variables that have values; others become what an undefined variable of a template becomes, and so does a word
        that grows too long.
        """
        room = _LONGEST_VALUE

        def value(match: re.Match[str]) -> str:
            nonlocal room
            name = match["braced"] or match["plain"]
            text = self.variables.get(name, match["default"] if match["default"] is not None else f"{STAND_IN}{name}")
            room -= len(text)
            return text if room >= 0 else ""

        expanded = _VARIABLE.sub(value, word)
        return expanded if room >= 0 else f"{STAND_IN}long"

    def _change_folder(self, words: Sequence[str]) -> None:
        if words and "dirname" not in words[0]:
            self.folder = posixpath.normpath(posixpath.join(self.folder, words[0]))

    def _path(self, word: str) -> str | None:
        """A path of the rootfs; None for one that is not in it, or that cannot be known."""
        path = posixpath.normpath(posixpath.join(self.folder, word))
        outside = path.startswith(("/", "../")) or path == ".."
        return None if outside or STAND_IN in path or "$" in path or "`" in path else path

    def _matching(self, word: str, kind: str) -> list[str]:
        """Files and folders that a word names. A warning when none is known."""
        if _REMOTE.match(word):
            message = f"the {kind} {word} is fetched when the image is launched, so its images are not read"
            self._warn(message, "ADD it to the image, and name the file")
            return []
        path = self._path(word)
        names = self.known.matching(path) if path is not None else []
        if not names:
            shown = word.replace(STAND_IN, "$")[:_LONGEST_SHOWN]
            self._warn(f"the {kind} {shown} was not read: it is not among the known files", "list the images in manifests/imageList")
        return names

    def _warn(self, message: str, hint: str) -> None:
        self.reading.warnings.append(Fault(self.where, message, hint))

    # Programs

    def _helm(self, flags: _Flags) -> None:
        verb, *names = flags.words or [""]
        if verb not in ("install", "upgrade", "template"):
            return
        if not names:
            return
        release, chart = (names[0], names[1]) if len(names) > 1 else (flags.last("name"), names[0])
        if flags.last("repo") and not _REMOTE.match(chart):
            chart = f"{flags.last('repo').rstrip('/')}/{chart}"
        for path in self._matching(chart, "chart"):
            values = [pair for option, text in flags.options if option in _HELM_VALUES for pair in self._values(option, text)]
            self.reading.releases.append(ChartRelease(path, self.where, release, flags.last("namespace"), tuple(values)))

    def _values(self, option: str, text: str) -> Iterator[tuple[str, str]]:
        if option == "values":
            for word in text.split(","):
                yield from (("values", path) for path in self._matching(word, "values file"))
        elif option == "set-file":
            key, _, word = text.partition("=")
            yield from (("set-file", f"{key}={path}") for path in self._matching(word, "file")[:1])
        elif "$" in text or "`" in text:
            name = text.partition("=")[0]
            self._warn(f"--{option} {name}: its value is known only when the image is launched", "list the images in manifests/imageList")
        else:
            yield option, text

    def _kubectl(self, flags: _Flags, input_files: Sequence[str]) -> None:
        verb, *names = flags.words or [""]
        if verb == "kustomize":
            self._kustomize(["build", *names])
        for image in flags.all("image"):
            self.reading.images.append((image, self.where))
        if verb == "set" and names[:1] == ["image"]:
            self.reading.images += [(word.partition("=")[2], self.where) for word in names if "=" in word]
        if verb not in _APPLYING:
            return
        for word in (part for text in flags.all("kustomize") for part in text.split(",")):
            self._kustomization(word)
        for word in (part for text in flags.all("filename") for part in text.split(",") if part):
            for named in input_files if word == "-" else [word]:
                self._manifests(self._expanded(named), recursive=any(name in ("R", "recursive") for name, _ in flags.options))

    def _manifests(self, word: str, *, recursive: bool) -> None:
        for name in self._matching(word, "manifest"):
            paths = [name]
            if name in self.known.folders:
                # kubectl reads no other endings of a folder.
                paths = [path for path in self.known.below(name, recursive=recursive) if is_yaml(path)]
            for path in paths:
                self.reading.manifests.setdefault(self.known.files[path].path, self.where)

    def _kustomize(self, words: Sequence[str]) -> None:
        if words[:1] == ["build"]:
            self._kustomization(next((word for word in words[1:] if not word.startswith("-")), "."))

    def _kustomization(self, word: str) -> None:
        for name in self._matching(word, "kustomization"):
            self.reading.kustomizations.setdefault(name, self.where)

    def _shell(self, words: list[str]) -> None:
        """``sh -c TEXT``, or a script of the image."""
        program = posixpath.basename(words[0])
        rest = words[1:] if program in _SHELLS else words
        if rest[:1] and rest[0].startswith("-"):
            if rest[0].endswith("c") and len(rest) > 1 and self.depth < _DEEPEST:
                self.depth += 1
                self.read(rest[1], self.where)
                self.depth -= 1
                return
            rest = [word for word in rest if not word.startswith("-")]
        path = self._path(rest[0]) if rest else None
        file = self.known.files.get(path) if path is not None else None
        if file is None or path is None or self.depth >= _DEEPEST:
            return
        before, folder = self.where, self.folder
        self.depth += 1
        for line, text in _script_lines(file):
            if self.left < 0:
                break
            if "dirname" in text and text.lstrip().startswith("cd "):
                self.folder = posixpath.dirname(path)
                continue
            self.read(text, f"{file.shown}:{line}")
        self.depth -= 1
        self.where, self.folder = before, folder


def _script_lines(file: RootfsFile) -> Iterator[tuple[int, str]]:
    """The commands of a script with the numbers of their first lines; lines that end with a backslash go on."""
    try:
        text = read_text(file.source)
    except (OSError, UnicodeDecodeError):
        return
    if len(text) > _LARGEST_SCRIPT:
        return
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if line.endswith("\\"):
            parts.append(line[:-1])
            continue
        if not line.lstrip().startswith("#") or parts:
            yield number - len(parts), "".join([*parts, line])
        parts = []


def _simple_commands(text: str) -> Iterator[tuple[str, list[str]]]:
    """The simple commands of a list or pipe, each with what separates it from the one before. Broken quotes end the list."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=_BREAKS + "<>")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t\r", True, ""
    words: list[str] = []
    separator, comment = "", False
    try:
        for word in lexer:
            comment = (comment or word.startswith("#")) and "\n" not in word
            if comment:
                continue
            if word and all(char in _BREAKS for char in word):
                if words:
                    yield separator, words
                separator, words = word.strip("\n") or "\n", []
            else:
                words.append(word)
    except ValueError:
        # An apostrophe in a comment opens no text.
        words = words if comment else []
    if words:
        yield separator, words


def _redirections(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words without redirections, and the files that the standard input is read from."""
    kept: list[str] = []
    read: list[str] = []
    waiting = list(reversed(words))
    while waiting:
        word = waiting.pop()
        if word and all(char in "<>" for char in word):
            target = waiting.pop() if waiting else ""
            if word == "<":
                read.append(target)
            if kept and kept[-1] in ("1", "2"):
                kept.pop()
        else:
            kept.append(word)
    return kept, read

"""Kubefile text -> Kubefile: every instruction as a frozen value, variables expanded, every fault at once with its line.

The language is the Dockerfile's (https://docs.docker.com/reference/dockerfile/) with sealer's additions: APP, APPCMDS, APPENV, CNI, CSI,
KUBEVERSION, LAUNCH, CMDS, and its older CMD and ARG forms.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from harness.errors import Fault, InputError
from harness.host import site_network
from harness.kubefile import context as build_context
from harness.kubefile import version_range, words

KNOWN = "ADD APP APPCMDS APPENV ARG CMD CMDS CNI COPY CSI ENV FROM KUBEVERSION LABEL LAUNCH MAINTAINER RUN".split()  # noqa: SIM905

LABEL_KUBE_VERSION = "app.alpha.sealer.io/supported-kube-version"
LABEL_CNI = "cluster.alpha.sealer.io/kube-cni-"
LABEL_CSI = "cluster.alpha.sealer.io/kube-csi-"

_ONLY_DOCKER = {
    "WORKDIR": "RUN starts in the rootfs; write RUN cd folder && ...",
    "ENTRYPOINT": "an image is started with LAUNCH, CMDS or CMD",
    "EXPOSE": "what listens is said in the manifests",
    "VOLUME": "what is kept is said in the manifests",
    "USER": "everything in a rootfs belongs to root",
    "HEALTHCHECK": "say it as probes in the manifests",
    "STOPSIGNAL": "leave it out",
    "SHELL": "RUN uses /bin/sh; write RUN bash -c '...'",
    "ONBUILD": "leave it out",
}
_MOST_EXPANDED = 16 << 20
"""Characters of all words of a Kubefile after expansion."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENVIRONMENT = re.compile(r"[^\s=\0]+")
_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_CHMOD = re.compile(r"[0-7]{3,4}")
_HEREDOC = re.compile(r"\d*<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_DIRECTIVE = re.compile(r"#\s*([A-Za-z]+)\s*=\s*(\S+)\s*")
_COMMA = re.compile(r",(?=\s|$)")
_CHOICES = re.compile(r"#\s*one of:\s*(.+)", re.IGNORECASE)
"""A comment on the line before an ARG: the values that it may have."""
_SHELL_TOKEN = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\\'",]+|.""", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction. ``line`` counts from 1; ``text`` is the instruction on one line, with variables expanded."""

    line: int
    text: str

    @property
    def name(self) -> str:
        """The word it begins with, in capitals."""
        return type(self).__name__.removesuffix("Instruction").upper()


@dataclasses.dataclass(frozen=True)
class From(Instruction):
    image: str
    """``scratch`` for nothing."""
    platform: str | None = None
    alias: str | None = None


@dataclasses.dataclass(frozen=True)
class Copy(Instruction):
    sources: tuple[str, ...]
    """Paths relative to the context, http(s) URLs, or with ``from_image`` paths in that image."""
    destination: str
    """Relative to the rootfs: '' its root, ``a/`` a folder, ``a`` a file, unless ``a`` is a folder already."""
    from_image: str | None = None
    add: bool = False
    """ADD: local tars are unpacked."""
    chown: str | None = None
    chmod: int | None = None
    checksum: str | None = None
    """ADD of one URL: the digest that its file must have."""

    @property
    def name(self) -> str:
        return "ADD" if self.add else "COPY"

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(source for source in self.sources if not self.from_image and build_context.is_url(source))


@dataclasses.dataclass(frozen=True)
class Run(Instruction):
    command: str | tuple[str, ...]
    """A script for ``/bin/sh -c``, or the words of a program (JSON form). Not expanded: the shell does that."""
    environment: Mapping[str, str]
    """ARG, ENV and the platform's names as they stand at this line."""


@dataclasses.dataclass(frozen=True)
class Arg(Instruction):
    values: Mapping[str, str | None]
    """The effective values; None when there is neither a default nor a ``--build-arg``."""


@dataclasses.dataclass(frozen=True)
class Env(Instruction):
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Label(Instruction):
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Maintainer(Instruction):
    person: str


@dataclasses.dataclass(frozen=True)
class AppInstruction(Instruction):
    app: str
    sources: tuple[str, ...]
    """Paths relative to the context, and http(s) URLs."""

    @property
    def folder(self) -> str:
        """Destination of its files, relative to the rootfs, with a / at the end."""
        return f"application/apps/{self.app}/"

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(source for source in self.sources if build_context.is_url(source))


class Cni(AppInstruction):
    """An application that provides the cluster's pod network."""


class Csi(AppInstruction):
    """An application that provides the cluster's storage."""


@dataclasses.dataclass(frozen=True)
class AppCmds(Instruction):
    app: str
    command: str
    """One shell command, run in the application's folder."""


@dataclasses.dataclass(frozen=True)
class AppEnv(Instruction):
    app: str
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class KubeVersion(Instruction):
    range: str


@dataclasses.dataclass(frozen=True)
class Launch(Instruction):
    apps: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cmds(Instruction):
    commands: tuple[str, ...]
    """Shell commands, run in the rootfs."""


@dataclasses.dataclass(frozen=True)
class Cmd(Instruction):
    commands: tuple[str, ...]
    """Shell commands, run in the rootfs; several CMD accumulate."""


AnyInstruction = TypeVar("AnyInstruction", bound=Instruction)


@dataclasses.dataclass(frozen=True)
class Deferred:
    """An application that an instruction names and this Kubefile does not define: the base image must have it."""

    app: str
    instruction: str
    where: str


@dataclasses.dataclass(frozen=True)
class Kubefile:
    """A Kubefile without faults of its own; ``check_context`` checks the files that it takes from the context."""

    path: str
    platform: str
    """Platform of the image, ``linux/amd64``."""
    base: From
    instructions: tuple[Instruction, ...]
    """All instructions in order, with FROM and those before it."""
    environment: Mapping[str, str]
    """Values of all ENV: the defaults of the running cluster."""
    labels: Mapping[str, str]
    kube_version: str | None
    """The range of KUBEVERSION, or of the label that sealer uses for it."""
    deferred: tuple[Deferred, ...]
    warnings: tuple[Fault, ...]

    def of(self, kind: type[AnyInstruction]) -> tuple[AnyInstruction, ...]:
        """The instructions of a kind; CNI and CSI are kinds of APP."""
        return tuple(instruction for instruction in self.instructions if isinstance(instruction, kind))

    def where(self, instruction: Instruction) -> str:
        return f"{self.path}:{instruction.line}"

    @property
    def launch(self) -> tuple[str, ...]:
        """The applications that LAUNCH names, in order."""
        return tuple(app for instruction in self.of(Launch) for app in instruction.apps)

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands of CMD and CMDS, in order."""
        return tuple(command for item in self.instructions if isinstance(item, Cmd | Cmds) for command in item.commands)


def parse(
    text: str,
    path: str,
    *,
    build_args: Mapping[str, str] | None = None,
    platform: str = "linux/amd64",
    context: Path | None = None,
) -> Kubefile:
    """Read a Kubefile. ``path`` is its name in faults; ``platform`` gives ``${ARCH}``, ``${TARGETARCH}`` and the like their values.

    With ``context``, files that the build context lacks are faults too. Raises InputError with every fault, by line.
    """
    reader = _KubefileReader(path, dict(build_args or {}), platform)
    for line in _lines(text, reader):
        reader.read(line)
    if context is not None:
        reader.faults += _context_faults(path, reader.instructions, context)
    return reader.finish()


def check_context(kubefile: Kubefile, context: Path) -> list[Fault]:
    """Faults of sources of COPY, ADD and APP that the context does not have or must not give, in the order of the lines."""
    return _context_faults(kubefile.path, kubefile.instructions, context)


def _context_faults(path: str, instructions: Iterable[Instruction], context: Path) -> list[Fault]:
    if not context.is_dir():
        return [Fault(str(context), "the build context is not a folder")]
    return [
        Fault(f"{path}:{instruction.line}", wrong.message, wrong.hint)
        for instruction in instructions
        for wrong in _missing(instruction, context)
    ]


def _missing(instruction: Instruction, context: Path) -> list[build_context.ContextError]:
    """Faults of each source alone or, without such, of all of them together with their destination."""
    extract = instruction.name == "ADD"
    sources = local_sources(instruction)
    alone = [wrong for source in sources if (wrong := _try_place(context, [source], "", extract=extract))]
    together = _try_place(context, sources, instruction.destination) if isinstance(instruction, Copy) and not alone else None
    return [together] if together else alone


def _try_place(context: Path, sources: Sequence[str], destination: str, *, extract: bool = False) -> build_context.ContextError | None:
    try:
        build_context.place(context, sources, destination, extract=extract)
    except build_context.ContextError as wrong:
        return wrong
    return None


def local_sources(instruction: Instruction) -> tuple[str, ...]:
    """The sources of an instruction that are in the build context."""
    if isinstance(instruction, AppInstruction) or (isinstance(instruction, Copy) and not instruction.from_image):
        return tuple(source for source in instruction.sources if not build_context.is_url(source))
    return ()


@dataclasses.dataclass(frozen=True)
class _InstructionLine:
    """One instruction of the text: ``word`` in capitals, ``rest`` with continuation lines joined, then the body of a here-document."""

    number: int
    word: str
    rest: str
    body: str | None = None
    choices: tuple[str, ...] = ()
    """Allowed values, from the comment on the line before it."""


class _InstructionError(Exception):
    """A fault of the instruction being read."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def _lines(text: str, reader: _KubefileReader) -> Iterator[_InstructionLine]:
    """The instructions of the text. Directives go to the reader, since they change how it reads the following lines."""
    rows = ((number, row.removesuffix("\r")) for number, row in enumerate(text.removeprefix("\ufeff").split("\n"), start=1))
    directives = True
    choices: tuple[str, ...] = ()
    for number, row in rows:
        directives = directives and reader.directive(number, row.strip())
        if not row.strip() or row.lstrip().startswith("#"):
            listed = _CHOICES.fullmatch(row.strip())
            choices = tuple(listed[1].split()) if listed else ()
            continue
        line = _joined(row.lstrip(), rows, reader.escape)
        if not line:
            continue
        word, rest = _first_word(line)
        heredoc = _heredoc(rest) if word.upper() in ("RUN", "COPY", "ADD") else None
        body = _body(rows, heredoc) if heredoc else None
        if heredoc and body is None:
            reader.fault(number, f"the here-document is not closed: no line {heredoc[3]}")
        yield _InstructionLine(number, word.upper(), rest, body, choices)
        choices = ()


def _first_word(text: str) -> tuple[str, str]:
    first, *rest = text.split(maxsplit=1)
    return first, rest[0].rstrip() if rest else ""


def _joined(row: str, rows: Iterator[tuple[int, str]], escape: str) -> str:
    """The row with its continuation lines. An escape that is escaped itself continues nothing."""
    continued = re.compile(rf"(?<!{re.escape(escape)}){re.escape(escape)}[ \t]*$")
    line = ""
    while continued.search(row):
        line += continued.sub("", row)
        row = next((text for _, text in rows if text.strip() and not text.lstrip().startswith("#")), "")
    return (line + row).rstrip()


def _heredoc(rest: str) -> re.Match[str] | None:
    return next((match for word in rest.split() if (match := _HEREDOC.fullmatch(word))), None)


def _body(rows: Iterator[tuple[int, str]], heredoc: re.Match[str]) -> str | None:
    body = ""
    for _, row in rows:
        if (row.lstrip("\t") if heredoc[1] else row) == heredoc[3]:
            return body
        body += row + "\n"
    return None


class _KubefileReader:
    """Reads instructions one by one and keeps their definitions."""

    def __init__(self, path: str, build_args: dict[str, str], platform: str) -> None:
        if not _PLATFORM.fullmatch(platform):
            raise InputError([Fault(path, f"{platform!r} is not a platform", "write os/architecture, as in linux/amd64")])
        self.path = path
        self.platform = platform
        self.build_args = build_args
        self.builtin = _platform_variables(platform)
        self.escape = "\\"
        self.seen_directives: set[str] = set()
        self.instructions: list[Instruction] = []
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self.global_args: dict[str, str] = {}
        self.args: dict[str, str] = {}
        self.declared: set[str] = set()
        self.environment: dict[str, str] = {}
        self.labels: dict[str, str] = {}
        self.base: From | None = None
        self.misplaced: Fault | None = None
        self.line = 0
        self.expanded = 0
        """Characters of all words so far, after expansion."""

    def directive(self, number: int, row: str) -> bool:
        """Take a directive (``# escape=``; others have no effect). False at the first line that is not a directive."""
        match = _DIRECTIVE.fullmatch(row)
        if match is None or match[1].lower() not in ("escape", "syntax", "check"):
            return False
        if match[1].lower() in self.seen_directives:
            self.fault(number, f"the directive {match[1]} is given twice")
        self.seen_directives.add(match[1].lower())
        if match[1].lower() == "escape":
            if match[2] in ("\\", "`"):
                self.escape = match[2]
            else:
                self.fault(number, f"{match[2]!r} cannot be the escape character", "only \\ and ` can")
        return True

    def fault(self, line: int, message: str, hint: str | None = None) -> None:
        self.faults.append(Fault(f"{self.path}:{line}", message, hint))

    def warn(self, message: str, hint: str | None = None) -> None:
        self.warnings.append(Fault(f"{self.path}:{self.line}", message, hint))

    def read(self, line: _InstructionLine) -> None:
        self.line = line.number
        method = _METHODS.get(line.word)
        if method is None:
            self.fault(line.number, *_unknown(line.word))
            return
        self._check_place(line)
        try:
            if not line.rest:
                raise _InstructionError(f"{line.word} says nothing", _USAGE[line.word])
            self.instructions.append(method(self, line))
        except _InstructionError as wrong:
            self.fault(line.number, wrong.message, wrong.hint)
        except build_context.ContextError as wrong:
            self.fault(line.number, wrong.message, wrong.hint)
        except ValueError as wrong:
            self.fault(line.number, str(wrong))
        if line.word == "FROM" and self.base is None:
            # A faulty FROM is still one: what follows it must not be called misplaced.
            self.base = From(line.number, "", "")

    def _check_place(self, line: _InstructionLine) -> None:
        if self.base is None and line.word not in ("FROM", "ARG") and self.misplaced is None:
            self.misplaced = Fault(f"{self.path}:{line.number}", f"{line.word} is before FROM", "only ARG may")
        if self.base is not None and line.word == "FROM":
            self.fault(line.number, "a second FROM", "an image has one base; take files of others with COPY --from=IMAGE")

    # Words and variables

    @property
    def values(self) -> Mapping[str, str]:
        return {**self.builtin, **self.args, **self.environment}

    def expand(self, word: str) -> str:
        expansion = words.expand(word, self.values, self.escape)
        self.expanded += len(expansion.text)
        if self.expanded > _MOST_EXPANDED:
            raise _InstructionError(
                f"its variables stand for more than {_MOST_EXPANDED} characters in all", "values that hold others twice double"
            )
        for name in expansion.undefined:
            if name not in self.declared:
                near = difflib.get_close_matches(name, self.values, n=1)
                hint = f"did you mean ${near[0]}?" if near else f"declare it: ARG {name}"
                self.warn(f"${name} is not defined and expands to nothing", hint)
        return expansion.text

    def operands(self, text: str) -> list[str]:
        """The words of a line in JSON or plain form, expanded."""
        return [self.expand(word) for word in words.json_list(text) or words.split(text, self.escape)]

    def pairs(self, text: str) -> dict[str, str]:
        """``a=1 b="2 3"``, or the older ``a 1`` for one."""
        parts = words.split(text, self.escape)
        if "=" not in parts[0]:
            value = text.strip().removeprefix(parts[0]).strip()
            if not value:
                raise _InstructionError(f"{parts[0]} has no value", f"{parts[0]}=VALUE")
            return {self.expand(parts[0]): self.expand(value)}
        pairs = {}
        for word in parts:
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise _InstructionError(f"{word} is not NAME=VALUE", "quote a value that has blanks in it")
            pairs[self.expand(name)] = value
        return {name: self.expand(value) for name, value in pairs.items()}

    def shell(self, command: str) -> str:
        """A launch command: ARG are known only now, so they are written into it; the environment is the shell's, at launch."""
        values = {name: value for name, value in {**self.builtin, **self.args}.items() if name not in self.environment}
        return words.substitute(command, values)

    def flags(self, text: str, known: Sequence[str]) -> tuple[dict[str, str], str]:
        """The ``--name=value`` at the beginning, and what follows them."""
        values: dict[str, str] = {}
        while text.startswith("--"):
            word, text = _first_word(text)
            name, equals, value = word[2:].partition("=")
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise _InstructionError(
                    f"unknown flag --{name}", f"did you mean --{near[0]}?" if near else f"known: {', '.join(known) or 'none'}"
                )
            if not equals and name != "link":
                raise _InstructionError(f"--{name} needs a value", f"--{name}=VALUE")
            values[name] = self.expand(value)
        return values, text

    # Instructions, in the order in which a Kubefile has them

    def read_arg(self, line: _InstructionLine) -> Instruction:
        values: dict[str, str | None] = {}
        for word in _arguments(line.rest, self.escape):
            name, equals, default = word.partition("=")
            name = name.strip()
            if not _VARIABLE.fullmatch(name):
                raise _InstructionError(f"{name or word} is not a name for an ARG", "letters, digits and _; ARG NAME or ARG NAME=VALUE")
            values[name] = self._argument(name, default.strip() if equals else None)
        for name, value in values.items():
            self.declared.add(name)
            if value is not None:
                self.args[name] = value
        for name, value in values.items():
            if line.choices and value is not None and value not in line.choices:
                # Otherwise its consequences would be reported as further faults.
                self.args[name] = line.choices[0]
                raise _InstructionError(f"{name}={value}: not an allowed value", f"one of {', '.join(line.choices)}")
        # As written: a --build-arg may be a token, and the text is shown and kept.
        return Arg(line.number, f"ARG {line.rest}", values)

    def _argument(self, name: str, default: str | None) -> str | None:
        if name in self.build_args:
            return self.build_args[name]
        if name in self.builtin:
            return self.builtin[name]
        return self.global_args.get(name) if default is None else self.expand(default)

    def read_from(self, line: _InstructionLine) -> Instruction:
        flags, rest = self.flags(line.rest, ("platform",))
        operands = self.operands(rest)
        named = len(operands) == 3 and operands[1].lower() == "as"
        if not operands or (len(operands) != 1 and not named):
            raise _InstructionError(f"FROM {rest}: one image is wanted", _USAGE["FROM"])
        if not operands[0]:
            raise _InstructionError(
                f"FROM {rest}: the image's name is empty", "give the variable a value: ARG NAME=VALUE before FROM, or --build-arg"
            )
        platform = flags.get("platform")
        if platform is not None and not _PLATFORM.fullmatch(platform):
            raise _InstructionError(f"{platform!r} is not a platform", "write os/architecture, as in linux/amd64")
        text = " ".join(["FROM", *([f"--platform={platform}"] if platform else []), *operands])
        instruction = From(line.number, text, operands[0], platform, operands[2] if named else None)
        if self.base is None:
            self.base = instruction
            # As in a Dockerfile: an ARG before FROM is for FROM, and for an ARG of the same name after it.
            self.global_args, self.args, self.declared = self.args, {}, set()
        return instruction

    def read_copy(self, line: _InstructionLine) -> Instruction:
        if line.body is not None or _heredoc(line.rest):
            raise _InstructionError(f"{line.word} cannot read a here-document", "put the text into a file of the build context")
        flags, rest = self.flags(line.rest, ("from", "chown", "chmod", "checksum", "link"))
        *sources, destination = self.operands(rest) if rest else [""]
        if not sources:
            raise _InstructionError(f"{line.word} {rest}: a source and a destination are wanted", _USAGE[line.word])
        if not all(sources):
            raise _InstructionError(f"{line.word} {rest}: a source is empty", "give its variable a value: ARG NAME=VALUE, or --build-arg")
        image = flags.get("from")
        self._check_sources(line, sources, image)
        target = _destination(destination)
        if len(sources) > 1 and not _is_folder(target):
            message = f"several sources for the destination {destination}, which is not a folder"
            raise _InstructionError(message, f"end it with a slash: {destination}/")
        for source in sources if image is None and _is_folder(target) else ():
            if build_context.is_url(source):
                build_context.url_name(source)
        if flags.get("chmod") is not None and not _CHMOD.fullmatch(flags["chmod"]):
            raise _InstructionError(f"--chmod={flags['chmod']}: octal digits are wanted", "--chmod=755")
        _check_checksum(flags.get("checksum"), sources)
        return Copy(
            line.number,
            " ".join([line.word, *(f"--{name}={value}" for name, value in flags.items() if value), *sources, target or "."]),
            tuple(sources),
            target,
            from_image=image,
            add=line.word == "ADD",
            chown=flags.get("chown"),
            chmod=int(flags["chmod"], 8) if "chmod" in flags else None,
            checksum=flags.get("checksum"),
        )

    def _check_sources(self, line: _InstructionLine, sources: Iterable[str], image: str | None) -> None:
        if image is not None:
            if line.word == "ADD":
                raise _InstructionError("ADD cannot take files of an image", "COPY --from=IMAGE does")
            if not image:
                raise _InstructionError("--from names no image", "COPY --from=IMAGE source... destination")
            if image.isdigit() or (self.base is not None and image == self.base.alias):
                raise _InstructionError(f"--from={image} names a build stage; a Kubefile has none", "name a container image")
            return
        for source in sources:
            if build_context.is_git(source):
                raise _InstructionError(
                    f"{source}: git sources are not supported", "clone it into the build context, or ADD the URL of an archive"
                )

    def read_run(self, line: _InstructionLine) -> Instruction:
        if line.rest.startswith("--"):
            flag = line.rest.partition("=")[0].partition(" ")[0]
            raise _InstructionError(f"RUN {flag} is not supported", "RUN takes a command only; secrets and mounts are BuildKit's")
        proxies = {name: value for name, value in self.build_args.items() if name in site_network.PROXIES}
        environment = {**proxies, **self.builtin, **self.args, **self.environment}
        if line.body is not None:
            return Run(line.number, f"RUN {line.rest}", _script(line.rest, line.body), environment)
        listed = words.json_list(line.rest)
        if listed is not None and not listed:
            raise _InstructionError("RUN [] runs nothing", _USAGE["RUN"])
        return Run(line.number, f"RUN {line.rest}", tuple(listed) if listed else line.rest, environment)

    def read_env(self, line: _InstructionLine) -> Instruction:
        values = self.pairs(line.rest)
        for name in values:
            if not _ENVIRONMENT.fullmatch(name):
                raise _InstructionError(f"{name!r} is not a name for an ENV", "no blanks and no = in it")
        self.environment.update(values)
        return Env(line.number, f"ENV {' '.join(f'{name}={value}' for name, value in values.items())}", values)

    def read_label(self, line: _InstructionLine) -> Instruction:
        values = self.pairs(line.rest)
        self.labels.update(values)
        if LABEL_KUBE_VERSION in values:
            version_range.check(values[LABEL_KUBE_VERSION])
        return Label(line.number, f"LABEL {' '.join(f'{name}={value}' for name, value in values.items())}", values)

    def read_maintainer(self, line: _InstructionLine) -> Instruction:
        return Maintainer(line.number, f"MAINTAINER {line.rest}", line.rest)

    def read_app(self, line: _InstructionLine) -> Instruction:
        app, *sources = self.operands(line.rest)
        _check_app(app)
        if not sources:
            raise _InstructionError(f"{line.word} {app}: no source", _USAGE[line.word])
        app_sources = [_app_source(source) for source in sources]
        if line.word != "APP":
            self.labels[(LABEL_CNI if line.word == "CNI" else LABEL_CSI) + app] = "true"
        if any(earlier.app == app for earlier in self.instructions if isinstance(earlier, AppInstruction)):
            self.warn(f"{line.word} {app}: defined before; the files go into the same folder, and this definition is launched")
        return _APP_KINDS[line.word](line.number, " ".join([line.word, app, *sources]), app, tuple(app_sources))

    def read_appcmds(self, line: _InstructionLine) -> Instruction:
        app, rest = _app_and_rest(line)
        listed = words.json_list(rest)
        if not listed:
            raise _InstructionError(f"APPCMDS {app}: a JSON list with a command is wanted", _USAGE["APPCMDS"])
        if len(listed) > 1 and all(" " in word.strip() for word in listed):
            self.warn(f"APPCMDS {app}: the elements are the words of one command", f'write one element: ["{" && ".join(listed)}"]')
        return AppCmds(line.number, f"APPCMDS {app} {json.dumps(listed)}", app, self.shell(" ".join(listed)))

    def read_appenv(self, line: _InstructionLine) -> Instruction:
        app, rest = _app_and_rest(line)
        if not rest:
            raise _InstructionError(f"APPENV {app}: no NAME=VALUE", _USAGE["APPENV"])
        listed = words.json_list(rest)
        values = self.pairs(" ".join(listed) if listed else rest)
        return AppEnv(line.number, f"APPENV {app} {' '.join(f'{name}={value}' for name, value in values.items())}", app, values)

    def read_kubeversion(self, line: _InstructionLine) -> Instruction:
        text = self.expand(line.rest)
        version_range.check(text)
        return KubeVersion(line.number, f"KUBEVERSION {text}", text)

    def read_launch(self, line: _InstructionLine) -> Instruction:
        apps = self.operands(line.rest)
        if not apps:
            raise _InstructionError("LAUNCH names no application", _USAGE["LAUNCH"])
        for app in apps:
            _check_app(app)
        return Launch(line.number, " ".join(["LAUNCH", *apps]), tuple(apps))

    def read_cmds(self, line: _InstructionLine) -> Instruction:
        listed = words.json_list(line.rest)
        if not listed:
            raise _InstructionError("CMDS wants a JSON list of commands", _USAGE["CMDS"])
        return Cmds(line.number, f"CMDS {json.dumps(listed)}", tuple(self.shell(command) for command in listed))

    def read_cmd(self, line: _InstructionLine) -> Instruction:
        listed = words.json_list(line.rest)
        if listed is not None and not listed:
            raise _InstructionError("CMD [] runs nothing", _USAGE["CMD"])
        commands = listed or _commands(line.rest)
        return Cmd(line.number, f"CMD {line.rest}", tuple(self.shell(command) for command in commands))

    # The Kubefile as a whole

    def finish(self) -> Kubefile:
        if self.base is not None and self.misplaced is not None:
            self.faults.append(self.misplaced)
        if self.base is None:
            hint = "begin with FROM kubernetes:v1.36.3, or FROM scratch for an application image"
            self.faults.insert(0, Fault(f"{self.path}:1", "FROM is missing", hint))
        self._check_launch()
        deferred = self._deferred()
        unused = [name for name in self.build_args if name not in site_network.PROXIES and not self._declares(name)]
        self.warnings += [Fault(self.path, f"--build-arg {name}: no ARG {name} is there", f"declare it: ARG {name}") for name in unused]
        if self.faults or self.base is None:
            raise InputError(sorted(self.faults, key=_line_of))
        ranges = [item.range for item in self.instructions if isinstance(item, KubeVersion)]
        return Kubefile(
            path=self.path,
            platform=self.platform,
            base=self.base,
            instructions=tuple(self.instructions),
            environment=self.environment,
            labels=self.labels,
            kube_version=ranges[-1] if ranges else self.labels.get(LABEL_KUBE_VERSION),
            deferred=deferred,
            warnings=tuple(self.warnings),
        )

    def _declares(self, name: str) -> bool:
        return any(isinstance(item, Arg) and name in item.values for item in self.instructions)

    def _check_launch(self) -> None:
        for kind in (Launch, Cmds):
            duplicates = [item for item in self.instructions if isinstance(item, kind)]
            for item in duplicates[1:]:
                self.fault(item.line, f"{item.name} is given twice; the first is in line {duplicates[0].line}", "join them into one")
            if duplicates and len(duplicates) == 1 and duplicates[0] is not self.instructions[-1]:
                self.fault(duplicates[0].line, f"{duplicates[0].name} must be the last instruction", "move it to the end")
        launch = next((item for item in self.instructions if isinstance(item, Launch)), None)
        if launch:
            for other in self.instructions:
                if isinstance(other, Cmd | Cmds):
                    message = f"{other.name} and LAUNCH (line {launch.line}) exclude each other"
                    self.fault(other.line, message, "define an APP for the command, or drop LAUNCH")

    def _deferred(self) -> tuple[Deferred, ...]:
        """The names of applications that are not defined here: a fault without a base image, else for the builder to look up."""
        defined = {item.app for item in self.instructions if isinstance(item, AppInstruction)}
        deferred = [
            Deferred(app, item.name, f"{self.path}:{item.line}")
            for item in self.instructions
            if isinstance(item, Launch | AppCmds | AppEnv)
            for app in (item.apps if isinstance(item, Launch) else (item.app,))
            if app not in defined
        ]
        if self.base is None or self.base.image != "scratch":
            return tuple(deferred)
        for missing in deferred:
            near = difflib.get_close_matches(missing.app, defined, n=1)
            hint = f"did you mean {near[0]}?" if near else f"define it: APP {missing.app} local://..."
            self.faults.append(Fault(missing.where, f"{missing.instruction}: application {missing.app} does not exist", hint))
        return ()


_METHODS: dict[str, Callable[[_KubefileReader, _InstructionLine], Instruction]] = {
    "ADD": _KubefileReader.read_copy,
    "APP": _KubefileReader.read_app,
    "APPCMDS": _KubefileReader.read_appcmds,
    "APPENV": _KubefileReader.read_appenv,
    "ARG": _KubefileReader.read_arg,
    "CMD": _KubefileReader.read_cmd,
    "CMDS": _KubefileReader.read_cmds,
    "CNI": _KubefileReader.read_app,
    "COPY": _KubefileReader.read_copy,
    "CSI": _KubefileReader.read_app,
    "ENV": _KubefileReader.read_env,
    "FROM": _KubefileReader.read_from,
    "KUBEVERSION": _KubefileReader.read_kubeversion,
    "LABEL": _KubefileReader.read_label,
    "LAUNCH": _KubefileReader.read_launch,
    "MAINTAINER": _KubefileReader.read_maintainer,
    "RUN": _KubefileReader.read_run,
}
_APP_KINDS: dict[str, type[AppInstruction]] = {"APP": AppInstruction, "CNI": Cni, "CSI": Csi}
_USAGE = {
    "ADD": "ADD source... destination",
    "APP": "APP name local://path...",
    "APPCMDS": 'APPCMDS name ["kubectl apply -f app.yaml"]',
    "APPENV": "APPENV name KEY=VALUE...",
    "ARG": "ARG NAME or ARG NAME=VALUE",
    "CMD": "CMD kubectl apply -f manifests/app.yaml",
    "CMDS": 'CMDS ["kubectl apply -f manifests/app.yaml"]',
    "CNI": "CNI name local://path...",
    "COPY": "COPY source... destination",
    "CSI": "CSI name local://path...",
    "ENV": "ENV NAME=VALUE...",
    "FROM": "FROM image, or FROM --platform=os/arch image",
    "KUBEVERSION": "KUBEVERSION >=1.34 <1.38",
    "LABEL": "LABEL name=value...",
    "LAUNCH": 'LAUNCH app... or LAUNCH ["app"]',
    "MAINTAINER": "MAINTAINER name",
    "RUN": "RUN command",
}


def _platform_variables(platform: str) -> dict[str, str]:
    system, architecture, variant = (*platform.split("/"), "")[:3]
    return {
        "ARCH": architecture,
        "TARGETARCH": architecture,
        "TARGETOS": system,
        "TARGETPLATFORM": platform,
        "TARGETVARIANT": variant,
    }


def _unknown(word: str) -> tuple[str, str | None]:
    if word in _ONLY_DOCKER:
        return f"{word} is a Dockerfile's instruction, not a Kubefile's", _ONLY_DOCKER[word]
    near = difflib.get_close_matches(word, KNOWN, n=1)
    return f"unknown instruction {word}", f"did you mean {near[0]}?" if near else f"known: {' '.join(KNOWN)}"


def _arguments(text: str, escape: str) -> list[str]:
    """The parts of an ARG: ``A=1 B=2``, or sealer's older ``A=1,B=2``. A comma inside a value (``A=1,2``) separates nothing."""
    parts: list[str] = []
    for word in words.split(text, escape):
        pieces = re.split(r",(?=[A-Za-z_][A-Za-z0-9_]*=)|,$", word)
        plain = word.count("=") == len([piece for piece in pieces if piece]) and not set("'\"") & set(word)
        parts += [piece for piece in pieces if piece] if plain else [word]
    return parts


def _commands(text: str) -> list[str]:
    """The commands of a plain CMD, which a comma separates: one with blanks behind it, or one that the same program follows.

    ``helm install x --set a=1,b=2`` and ``kubectl get pods,nodes`` are one command each, and nothing is split inside quotes.
    """
    program = text.split(maxsplit=1)[0]
    commands = [""]
    for token in _SHELL_TOKEN.finditer(text):
        if token[0] == "," and (_COMMA.match(text, token.start()) or text.startswith(f"{program} ", token.end())):
            commands.append("")
        else:
            commands[-1] += token[0]
    return [command.strip() for command in commands if command.strip()]


def _check_checksum(checksum: str | None, sources: Sequence[str]) -> None:
    if checksum is None:
        return
    if not _CHECKSUM.fullmatch(checksum):
        raise _InstructionError(f"--checksum={checksum} is not a SHA-256 digest", "--checksum=sha256: and 64 digits 0-9, a-f")
    if len(sources) != 1 or not build_context.is_url(sources[0]):
        raise _InstructionError("--checksum goes with exactly one URL", "one ADD for each file")


def _destination(text: str) -> str:
    clean = posixpath.normpath(text.lstrip("/") or ".")
    if clean == ".." or clean.startswith("../"):
        raise _InstructionError(f"the destination {text} is outside the rootfs", "it is always relative to the rootfs")
    return "" if clean == "." else clean + "/" if text.endswith(("/", "/.")) else clean


def _script(command: str, body: str) -> str:
    """A RUN with a here-document. The document alone is the script; else the shell reads it, as everywhere."""
    heredoc = _heredoc(command)
    if heredoc is None or heredoc[0] != command:
        return f"{command}\n{body}{heredoc[3] if heredoc else ''}\n"
    return re.sub(r"^\t+", "", body, flags=re.MULTILINE) if heredoc[1] else body


def _is_folder(destination: str) -> bool:
    return destination == "" or destination.endswith("/") or build_context.known_folder(destination)


def _check_app(name: str) -> None:
    if not _APP.fullmatch(name):
        raise _InstructionError(f"{name!r} is not a name for an application", "letters, digits, '.', '_' and '-'; it becomes a folder")


def _app_and_rest(line: _InstructionLine) -> tuple[str, str]:
    app, _, rest = line.rest.partition(" ")
    _check_app(app)
    return app, rest.strip()


def _app_source(source: str) -> str:
    if source.startswith("local://") and source != "local://":
        return source.removeprefix("local://")
    if build_context.is_url(source):
        build_context.url_name(source)
        return source
    path = source.partition("://")[2] if "://" in source else source
    raise _InstructionError(
        f"{source}: where an application's files are must be said", f"local://{path or 'path'}, http://... or https://..."
    )


def _line_of(fault: Fault) -> int:
    line = fault.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0

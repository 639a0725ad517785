"""Reads the instructions of a Kubefile one by one into frozen values, and keeps every fault with its line."""

from __future__ import annotations

import difflib
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.errors import Fault, InputError
from harness.kubefile import context as kubefile_context
from harness.kubefile import ignore, launch_commands, version_range, words
from harness.kubefile.instructions import (
    LABEL_CNI,
    LABEL_CSI,
    LABEL_KUBE_VERSION,
    USAGE,
    AppCmds,
    AppEnv,
    AppInstruction,
    Arg,
    Cmd,
    Cmds,
    Cni,
    Copy,
    Csi,
    Env,
    Exercise,
    From,
    Instruction,
    InstructionError,
    KubeVersion,
    Label,
    Launch,
    Maintainer,
    Run,
)
from harness.kubefile.lines import InstructionLine, first_word, heredocs, script
from harness.kubefile.variables import Variables
from harness.oci.reference import lowered

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
_ENVIRONMENT = re.compile(r"[^\s=\0]+")
_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SWITCHES = ("link", "parents")
"""Flags of COPY and ADD that need no value."""
_ROOT = re.compile(r"(root|0)(:(root|0))?")
_PLATFORM = re.compile(r"[a-z0-9]+/[a-z0-9_]+(/[a-z0-9]+)?")
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")
_CHMOD = re.compile(r"[0-7]{3,4}")
_COMMA = re.compile(r",(?=\s|$)")
_SHELL_TOKEN = re.compile(r"""\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\\'",]+|.""", re.DOTALL)


class KubefileReader:
    """The instructions of a Kubefile so far, its labels, faults and warnings."""

    def __init__(self, path: str, build_args: Mapping[str, str], platform: str, escape: str) -> None:
        if not _PLATFORM.fullmatch(platform):
            raise InputError([Fault(path, f"{platform!r} is not a platform", "write os/architecture, as in linux/amd64")])
        self.path = path
        self.platform = platform
        self.escape = escape
        self.variables = Variables(build_args, platform, escape, self.warn)
        self.instructions: list[Instruction] = []
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self.labels: dict[str, str] = {}
        self.base: From | None = None
        self.misplaced: Fault | None = None
        """The first instruction before FROM that must not be there; a fault only when there is a FROM."""
        self._line = 0

    def warn(self, message: str, hint: str | None = None) -> None:
        self.warnings.append(Fault(f"{self.path}:{self._line}", message, hint))

    def read(self, line: InstructionLine) -> None:
        self._line = line.number
        method = _METHODS.get(line.word)
        if method is None:
            self._fault(*_unknown(line.word))
            return
        self._check_place(line)
        try:
            if not line.rest:
                raise InstructionError(f"{line.word} says nothing", USAGE[line.word])
            self.instructions.append(method(self, line))
        except (InstructionError, kubefile_context.ContextError) as wrong:
            self._fault(wrong.message, wrong.hint)
        except ValueError as wrong:
            self._fault(str(wrong))
        if line.word == "FROM" and self.base is None:
            # A faulty FROM is still one: what follows it must not be called misplaced.
            self.base = From(line.number, "", "")

    def _fault(self, message: str, hint: str | None = None) -> None:
        self.faults.append(Fault(f"{self.path}:{self._line}", message, hint))

    def _check_place(self, line: InstructionLine) -> None:
        if self.base is None and line.word not in ("FROM", "ARG") and self.misplaced is None:
            self.misplaced = Fault(f"{self.path}:{line.number}", f"{line.word} is before FROM", "only ARG may")
        if self.base is not None and line.word == "FROM":
            self._fault("a second FROM", "an image has one base; take files of others with COPY --from=IMAGE")

    def read_arg(self, line: InstructionLine) -> Instruction:
        # As written: a --build-arg may be a token, and the text is shown and kept.
        return Arg(line.number, f"ARG {line.rest}", self.variables.declare(line.rest, line.choices))

    def _flags(self, text: str, supported: Sequence[str]) -> tuple[dict[str, str], str]:
        """The ``--name=value`` at the beginning, and what follows them."""
        values: dict[str, str] = {}
        while text.startswith("--"):
            word, text = first_word(text)
            name, equals, value = word[2:].partition("=")
            if name not in supported:
                near = difflib.get_close_matches(name, supported, n=1)
                raise InstructionError(
                    f"unknown flag --{name}", f"did you mean --{near[0]}?" if near else f"known: {', '.join(supported) or 'none'}"
                )
            if not equals and name not in _SWITCHES:
                raise InstructionError(f"--{name} needs a value", f"--{name}=VALUE")
            value = self.variables.expand(value)
            if name in _SWITCHES and value.lower() not in ("", "true", "false"):
                raise InstructionError(f"--{name}={value}: true or false is wanted", f"--{name}")
            if name == "parents" and not equals:
                value = "true"
            # There may be several --exclude; what separates them is in no name of a Kubefile.
            values[name] = f"{values[name]}\n{value}" if name == "exclude" and name in values else value
        return values, text

    def read_from(self, line: InstructionLine) -> Instruction:
        flags, rest = self._flags(line.rest, ("platform",))
        operands = self.variables.operands(rest)
        named = len(operands) == 3 and operands[1].lower() == "as"
        if not operands or (len(operands) != 1 and not named):
            raise InstructionError(f"FROM {rest}: one image is wanted", USAGE["FROM"])
        if not operands[0]:
            raise InstructionError(
                f"FROM {rest}: the image's name is empty", "give the variable a value: ARG NAME=VALUE before FROM, or --build-arg"
            )
        image = lowered(operands[0])
        if image != operands[0]:
            self.warn(f"FROM {operands[0]}: names of images have no capitals; {image} is taken")
            operands[0] = image
        platform = flags.get("platform")
        if platform is not None and not _PLATFORM.fullmatch(platform):
            raise InstructionError(f"{platform!r} is not a platform", "write os/architecture, as in linux/amd64")
        if platform not in (None, self.platform):
            self.warn(f"FROM --platform={platform}: the base is taken for {self.platform}, which the nodes run", "leave --platform out")
        text = " ".join(["FROM", *([f"--platform={platform}"] if platform else []), *operands])
        instruction = From(line.number, text, operands[0], platform, operands[2] if named else None)
        if self.base is None:
            self.base = instruction
            self.variables.begin_image()
        return instruction

    def read_copy(self, line: InstructionLine) -> Instruction:
        flags, rest = self._flags(line.rest, ("from", "chown", "chmod", "checksum", "link", "parents", "exclude"))
        if line.documents:
            openings = {opening[0] for opening in heredocs(rest)}
            rest = " ".join(word for word in rest.split() if word not in openings)
        *sources, destination = self.variables.operands(rest) if rest else [""]
        if not sources and not line.documents:
            raise InstructionError(f"{line.word} {rest}: a source and a destination are wanted", USAGE[line.word])
        if not all(sources):
            raise InstructionError(f"{line.word} {rest}: a source is empty", "give its variable a value: ARG NAME=VALUE, or --build-arg")
        image = flags.get("from")
        self._check_sources(line, sources, image)
        target = _destination(destination)
        parents = flags.get("parents", "false").lower() != "false"
        if parents and not _is_folder(target):
            target += "/"
        if len(sources) + len(line.documents) > 1 and not _is_folder(target):
            message = f"several sources for the destination {destination}, which is not a folder"
            raise InstructionError(message, f"end it with a slash: {destination}/")
        for source in sources if image is None and _is_folder(target) else ():
            if kubefile_context.is_url(source):
                kubefile_context.url_name(source)
        if flags.get("chmod") is not None and not _CHMOD.fullmatch(flags["chmod"]):
            raise InstructionError(f"--chmod={flags['chmod']}: octal digits are wanted", "--chmod=755")
        if not _ROOT.fullmatch(flags.get("chown") or "root"):
            # A build unpacks, and a RUN leaves, every file under the user who builds; nodes unpack layers without their owners.
            raise InstructionError(
                f"--chown={flags['chown']}: another owner than root does not reach a node: everything in a rootfs belongs to root",
                "leave it out; a hook of the image (plugins/) at pre-init-host can run chown on each node",
            )
        _check_checksum(flags.get("checksum"), sources)
        documents = {
            document.name: document.text if document.quoted else self.variables.expand_document(document.text)
            for document in line.documents
        }
        if image is not None and documents:
            raise InstructionError("--from and a here-document exclude each other", "write two COPY")
        exclude = tuple(flags["exclude"].split("\n")) if "exclude" in flags else ()
        _check_exclude(exclude)
        return Copy(
            line.number,
            " ".join([line.word, *_flag_words(flags), *(f"<<{name}" for name in documents), *sources, target or "."]),
            tuple(sources),
            target,
            from_image=image,
            add=line.word == "ADD",
            chown=flags.get("chown"),
            chmod=int(flags["chmod"], 8) if "chmod" in flags else None,
            checksum=flags.get("checksum"),
            parents=parents,
            exclude=exclude,
            documents=documents,
        )

    def _check_sources(self, line: InstructionLine, sources: Iterable[str], image: str | None) -> None:
        for source in sources:
            if not kubefile_context.is_url(source):
                kubefile_context.check_name(source)
        if image is not None:
            if line.word == "ADD":
                raise InstructionError("ADD cannot take files of an image", "COPY --from=IMAGE does")
            if not image:
                raise InstructionError("--from names no image", "COPY --from=IMAGE source... destination")
            if image.isdigit() or (self.base is not None and image == self.base.alias):
                raise InstructionError(f"--from={image} names a build stage; a Kubefile has none", "name a container image")
            return
        for source in sources:
            if kubefile_context.is_git(source):
                raise InstructionError(
                    f"{source}: git sources are not supported", "clone it into the build context, or ADD the URL of an archive"
                )

    def read_run(self, line: InstructionLine) -> Instruction:
        if line.rest.startswith("--"):
            flag = line.rest.partition("=")[0].partition(" ")[0]
            raise InstructionError(f"RUN {flag} is not supported", "RUN takes a command only; secrets and mounts are BuildKit's")
        environment = self.variables.of_run()
        if line.documents:
            return Run(line.number, f"RUN {line.rest}", script(line.rest, line.documents), environment)
        listed = words.json_list(line.rest)
        if listed is not None and not listed:
            raise InstructionError("RUN [] runs nothing", USAGE["RUN"])
        return Run(line.number, f"RUN {line.rest}", tuple(listed) if listed else line.rest, environment)

    def read_env(self, line: InstructionLine) -> Instruction:
        values = self.variables.pairs(line.rest)
        for name in values:
            if not _ENVIRONMENT.fullmatch(name):
                raise InstructionError(f"{name!r} is not a name for an ENV", "no blanks and no = in it")
        self.variables.environment.update(values)
        return Env(line.number, f"ENV {_assignments(values)}", values)

    def read_label(self, line: InstructionLine) -> Instruction:
        values = self.variables.pairs(line.rest)
        self.labels.update(values)
        if LABEL_KUBE_VERSION in values:
            version_range.check(values[LABEL_KUBE_VERSION])
        return Label(line.number, f"LABEL {_assignments(values)}", values)

    def read_maintainer(self, line: InstructionLine) -> Instruction:
        return Maintainer(line.number, f"MAINTAINER {line.rest}", line.rest)

    def read_app(self, line: InstructionLine) -> Instruction:
        app, *sources = self.variables.operands(line.rest)
        _check_app(app)
        if not sources:
            raise InstructionError(f"{line.word} {app}: no source", USAGE[line.word])
        app_sources = [_app_source(source) for source in sources]
        if line.word != "APP":
            self.labels[(LABEL_CNI if line.word == "CNI" else LABEL_CSI) + app] = "true"
        if any(earlier.app == app for earlier in self.instructions if isinstance(earlier, AppInstruction)):
            self.warn(f"{line.word} {app}: defined before; the files go into the same folder, and this definition is launched")
        return _APP_KINDS[line.word](line.number, " ".join([line.word, app, *sources]), app, tuple(app_sources))

    def read_appcmds(self, line: InstructionLine) -> Instruction:
        app, rest = _app_and_rest(line)
        listed = words.json_list(rest)
        if not listed:
            raise InstructionError(f"APPCMDS {app}: a JSON list with a command is wanted", USAGE["APPCMDS"])
        if len(listed) > 1 and all(" " in word.strip() for word in listed):
            self.warn(f"APPCMDS {app}: the elements are the words of one command", f'write one element: ["{" && ".join(listed)}"]')
        return AppCmds(line.number, f"APPCMDS {app} {json.dumps(listed)}", app, self.variables.launch_command(" ".join(listed)))

    def read_appenv(self, line: InstructionLine) -> Instruction:
        app, rest = _app_and_rest(line)
        if not rest:
            raise InstructionError(f"APPENV {app}: no NAME=VALUE", USAGE["APPENV"])
        listed = words.json_list(rest)
        values = self.variables.pairs(" ".join(listed) if listed else rest)
        return AppEnv(line.number, f"APPENV {app} {_assignments(values)}", app, values)

    def read_kubeversion(self, line: InstructionLine) -> Instruction:
        text = self.variables.expand(line.rest)
        version_range.check(text)
        return KubeVersion(line.number, f"KUBEVERSION {text}", text)

    def read_launch(self, line: InstructionLine) -> Instruction:
        apps = self.variables.operands(line.rest)
        if not apps:
            raise InstructionError("LAUNCH names no application", USAGE["LAUNCH"])
        for app in apps:
            _check_app(app)
        return Launch(line.number, " ".join(["LAUNCH", *apps]), tuple(apps))

    def read_cmds(self, line: InstructionLine) -> Instruction:
        listed = words.json_list(line.rest)
        if not listed:
            raise InstructionError("CMDS wants a JSON list of commands", USAGE["CMDS"])
        return Cmds(line.number, f"CMDS {json.dumps(listed)}", *self.variables.launch_commands(self._listed(line, listed)))

    def read_cmd(self, line: InstructionLine) -> Instruction:
        listed = words.json_list(line.rest)
        if listed is not None and not listed:
            raise InstructionError("CMD [] runs nothing", USAGE["CMD"])
        commands = self._listed(line, listed) if listed else self._commands(line.rest)
        return Cmd(line.number, f"CMD {line.rest}", *self.variables.launch_commands(commands))

    def _commands(self, text: str) -> list[str]:
        plain = launch_commands.unquoted(text, self.escape)
        return [plain] if plain != text else _commands(text)

    def _listed(self, line: InstructionLine, listed: list[str]) -> list[str]:
        """The commands of a JSON list: its elements, or one command that it spells word by word as in a Dockerfile."""
        if not all(command.strip() for command in listed):
            raise InstructionError(f"{line.word}: an element is empty", USAGE[line.word])
        one = launch_commands.one_command(listed)
        if one is not None:
            self.warn(f"{line.word}: the elements are the words of one command", f"write one element: {json.dumps([one])}")
        elif launch_commands.maybe_one_command(listed):
            self.warn(f"{line.word}: each element is a command of its own", f"if they are words of one: {json.dumps([' '.join(listed)])}")
        return [one] if one is not None else listed

    def read_exercise(self, line: InstructionLine) -> Instruction:
        listed = words.json_list(line.rest)
        if listed is not None and not listed:
            raise InstructionError("EXERCISE [] runs nothing", USAGE["EXERCISE"])
        commands = listed or [line.rest]
        return Exercise(line.number, f"EXERCISE {line.rest}", tuple(self.variables.launch_command(command) for command in commands))


_METHODS: dict[str, Callable[[KubefileReader, InstructionLine], Instruction]] = {
    "ADD": KubefileReader.read_copy,
    "APP": KubefileReader.read_app,
    "APPCMDS": KubefileReader.read_appcmds,
    "APPENV": KubefileReader.read_appenv,
    "ARG": KubefileReader.read_arg,
    "CMD": KubefileReader.read_cmd,
    "CMDS": KubefileReader.read_cmds,
    "CNI": KubefileReader.read_app,
    "COPY": KubefileReader.read_copy,
    "CSI": KubefileReader.read_app,
    "ENV": KubefileReader.read_env,
    "EXERCISE": KubefileReader.read_exercise,
    "FROM": KubefileReader.read_from,
    "KUBEVERSION": KubefileReader.read_kubeversion,
    "LABEL": KubefileReader.read_label,
    "LAUNCH": KubefileReader.read_launch,
    "MAINTAINER": KubefileReader.read_maintainer,
    "RUN": KubefileReader.read_run,
}
_APP_KINDS: dict[str, type[AppInstruction]] = {"APP": AppInstruction, "CNI": Cni, "CSI": Csi}


def _unknown(word: str) -> tuple[str, str | None]:
    if word in _ONLY_DOCKER:
        return f"{word} is a Dockerfile's instruction, not a Kubefile's", _ONLY_DOCKER[word]
    near = difflib.get_close_matches(word, USAGE, n=1)
    return f"unknown instruction {word}", f"did you mean {near[0]}?" if near else f"known: {' '.join(USAGE)}"


def _commands(text: str) -> list[str]:
    """The commands of a plain CMD, which a comma separates: one with blanks behind it, or one that the same program follows.

    ``helm install x --set a=1,b=2`` and ``kubectl get pods,nodes`` are one command each, and nothing is split inside quotes.
    """
    again = f"{text.split(maxsplit=1)[0]} "
    commands, begin = [], 0
    for token in _SHELL_TOKEN.finditer(text):
        if token[0] == "," and (_COMMA.match(text, token.start()) or text.startswith(again, token.end())):
            commands.append(text[begin : token.start()])
            begin = token.end()
    commands.append(text[begin:])
    return [command.strip() for command in commands if command.strip()]


def _check_checksum(checksum: str | None, sources: Sequence[str]) -> None:
    if checksum is None:
        return
    if not _CHECKSUM.fullmatch(checksum):
        raise InstructionError(f"--checksum={checksum} is not a SHA-256 digest", "--checksum=sha256: and 64 digits 0-9, a-f")
    if len(sources) != 1 or not kubefile_context.is_url(sources[0]):
        raise InstructionError("--checksum goes with exactly one URL", "one ADD for each file")


def _flag_words(flags: Mapping[str, str]) -> list[str]:
    return [f"--{name}={value}" for name, values in flags.items() for value in values.split("\n") if value]


def _check_exclude(patterns: Sequence[str]) -> None:
    try:
        ignore.parse(patterns, "--exclude")
    except InputError as wrong:
        raise InstructionError(f"--exclude: {wrong.faults[0].message}", wrong.faults[0].hint) from wrong


def _destination(text: str) -> str:
    kubefile_context.check_name(text)
    clean = posixpath.normpath(text.lstrip("/") or ".")
    if clean == ".." or clean.startswith("../"):
        raise InstructionError(f"the destination {text} is outside the rootfs", "it is always relative to the rootfs")
    return "" if clean == "." else clean + "/" if text.endswith(("/", "/.")) else clean


def _is_folder(destination: str) -> bool:
    return destination == "" or destination.endswith("/") or kubefile_context.known_folder(destination)


def _assignments(values: Mapping[str, str]) -> str:
    return " ".join(f"{name}={value}" for name, value in values.items())


def _check_app(name: str) -> None:
    if not _APP.fullmatch(name) or len(name) > kubefile_context.LONGEST_NAME:
        raise InstructionError(f"{name[:80]!r} is not a name for an application", "letters, digits, '.', '_' and '-'; it becomes a folder")


def _app_and_rest(line: InstructionLine) -> tuple[str, str]:
    app, _, rest = line.rest.partition(" ")
    _check_app(app)
    return app, rest.strip()


def _app_source(source: str) -> str:
    if source.startswith("local://") and source != "local://":
        return source.removeprefix("local://")
    if kubefile_context.is_url(source):
        kubefile_context.url_name(source)
        return source
    path = source.partition("://")[2] if "://" in source else source
    raise InstructionError(
        f"{source}: where an application's files are must be said", f"local://{path or 'path'}, http://... or https://..."
    )

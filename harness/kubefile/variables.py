"""The variables of a Kubefile: ARG, ENV and the platform's names, as they stand at the instruction being read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence

from harness.host import site_network
from harness.kubefile import words
from harness.kubefile.instructions import InstructionError
from harness.kubefile.launch_commands import with_references
from harness.oci.model import Platform
from harness.process import LONGEST_ARGUMENT

_MOST_EXPANDED = 16 << 20
"""Characters of all words of a Kubefile after expansion."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Variables:
    """Definitions so far. ``warn`` is called with a message and a hint for each undefined name that is used."""

    def __init__(self, build_args: Mapping[str, str], platform: str, escape: str, warn: Callable[[str, str | None], None]) -> None:
        self.environment: dict[str, str] = {}
        """Values of all ENV. They win over an ARG of the same name, as in a Dockerfile."""
        self._build_args = build_args
        self._builtin = _platform_variables(platform)
        self._escape = escape
        self._warn = warn
        self._global_args: dict[str, str] = {}
        self._args: dict[str, str] = {}
        self._declared: set[str] = set()
        self._expanded = 0
        """Characters of all words so far, after expansion."""

    @property
    def _named(self) -> frozenset[str]:
        return frozenset((*self._declared, *self.environment))

    @property
    def _values(self) -> dict[str, str]:
        return {**self._builtin, **self._args, **self.environment}

    def of_run(self) -> dict[str, str]:
        """The environment of a RUN: all values, and proxies of ``--build-arg``."""
        proxies = {name: value for name, value in self._build_args.items() if name in site_network.PROXIES}
        # As in a Dockerfile, where they need an ARG: a step that does not ask is the same step on every machine.
        return proxies | {name: value for name, value in self._values.items() if not name.startswith("BUILD") or name in self._named}

    def expand(self, word: str) -> str:
        """The word with its variables replaced and its quotes removed. Raises InstructionError when all words together are too long."""
        return self._counted(words.expand(word, self._values, self._escape))

    def expand_document(self, text: str) -> str:
        """A here-document with its variables replaced. Raises InstructionError as ``expand``."""
        return self._counted(words.expand_document(text, self._values, self._escape))

    def _counted(self, expansion: words.Expansion) -> str:
        self._expanded += len(expansion.text)
        if self._expanded > _MOST_EXPANDED:
            raise InstructionError(
                f"its variables stand for more than {_MOST_EXPANDED} characters in all", "values that hold others twice double"
            )
        for name in expansion.undefined:
            if name not in self._declared:
                near = difflib.get_close_matches(name, self._values, n=1)
                self._warn(
                    f"${name} is not defined and expands to nothing", f"did you mean ${near[0]}?" if near else f"declare it: ARG {name}"
                )
        return expansion.text

    def operands(self, text: str) -> list[str]:
        """The words of a line in JSON or plain form, expanded."""
        return [self.expand(word) for word in words.json_list(text) or words.split(text, self._escape)]

    def pairs(self, text: str) -> dict[str, str]:
        """``a=1 b="2 3"``, or the older ``a 1`` for one."""
        parts = words.split(text, self._escape)
        if "=" not in parts[0]:
            value = text.strip().removeprefix(parts[0]).strip()
            if not value:
                raise InstructionError(f"{parts[0]} has no value", f"{parts[0]}=VALUE")
            return {self.expand(parts[0]): self.expand(value)}
        pairs = {}
        for word in parts:
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise InstructionError(f"{word} is not NAME=VALUE", "quote a value that has blanks in it")
            pairs[self.expand(name)] = value
        return {name: self.expand(value) for name, value in pairs.items()}

    def launch_command(self, command: str) -> str:
        """A launch command: ARG are known only now, so they are written into it; the environment is the shell's, at launch."""
        return self.launch_commands([command])[0][0]

    def launch_commands(self, commands: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
        """Launch commands with the values of ARG, the same without them, and the values of those that they name.

        Raises InstructionError for one that no machine could run.
        """
        written = []
        for command in commands:
            _check_length(command)
            text, unknown = with_references(command, self._values)
            for name in unknown:
                self._warn(
                    f"$({name}) is taken for the value {name}, which no ENV here has", f"ENV {name}=VALUE; $( {name} ) runs a program"
                )
            written.append(text)
        values = {name: value for name, value in {**self._builtin, **self._args}.items() if name not in self.environment}
        own = {**dict.fromkeys(self._declared, ""), **self._args}
        candidates = own.keys() - self.environment.keys()
        names = {name for text in written for name in words.referenced(text, candidates)}
        named = {name: value for name, value in own.items() if name in names}
        others = {name: value for name, value in values.items() if name not in named}
        substituted = tuple(words.substitute(text, values) for text in written)
        for command in substituted:
            _check_length(command)
        return substituted, tuple(words.substitute(text, others) for text in written), named

    def declare(self, text: str, choices: tuple[str, ...]) -> dict[str, str | None]:
        """Define the names of an ARG, and return their effective values. Raises InstructionError for a value that is not in ``choices``."""
        values: dict[str, str | None] = {}
        for word in _arguments(text, self._escape):
            name, equals, default = word.partition("=")
            name = name.strip()
            if not _VARIABLE.fullmatch(name):
                raise InstructionError(f"{name or word} is not a name for an ARG", "letters, digits and _; ARG NAME or ARG NAME=VALUE")
            values[name] = self._argument(name, default.strip() if equals else None)
        self._declared.update(values)
        self._args.update((name, value) for name, value in values.items() if value is not None)
        for name, value in values.items():
            if choices and value is not None and value not in choices:
                # Otherwise its consequences would be reported as further faults.
                self._args[name] = choices[0]
                raise InstructionError(f"{name}={value}: not an allowed value", f"one of {', '.join(choices)}")
        return values

    def begin_image(self) -> None:
        """FROM. As in a Dockerfile: an ARG before it is for FROM, and for an ARG of the same name after it."""
        self._global_args, self._args, self._declared = self._args, {}, set()

    def _argument(self, name: str, default: str | None) -> str | None:
        if name in self._build_args:
            return self._build_args[name]
        if name in self._builtin:
            return self._builtin[name]
        return self._global_args.get(name) if default is None else self.expand(default)


def _check_length(command: str) -> None:
    if len(command.encode()) > LONGEST_ARGUMENT:
        raise InstructionError(
            f"a launch command of {len(command)} characters: {command[:60]}...",
            f"Linux takes at most {LONGEST_ARGUMENT} bytes as one argument; COPY a script and run that",
        )


def _platform_variables(platform: str) -> dict[str, str]:
    system, architecture, variant = (*platform.split("/"), "")[:3]
    build = Platform.host()
    return {
        "ARCH": architecture,
        "BUILDARCH": build.architecture,
        "BUILDOS": build.os,
        "BUILDPLATFORM": str(build),
        "BUILDVARIANT": build.variant or "",
        "TARGETARCH": architecture,
        "TARGETOS": system,
        "TARGETPLATFORM": platform,
        "TARGETVARIANT": variant,
    }


def _arguments(text: str, escape: str) -> list[str]:
    """The parts of an ARG: ``A=1 B=2``, or sealer's older ``A=1,B=2``. A comma inside a value (``A=1,2``) separates nothing."""
    parts: list[str] = []
    for word in words.split(text, escape):
        pieces = [piece for piece in re.split(r",(?=[A-Za-z_][A-Za-z0-9_]*=)|,$", word) if piece]
        plain = word.count("=") == len(pieces) and not set("'\"") & set(word)
        parts += pieces if plain else [word]
    return parts

"""Values that the files of an image expect, and what stands in for them while the image is built.

``harness.templates.plain`` has the rule for what is slipway's in a file; here the files of an image are read by it.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness import untrusted
from harness.build import values_schema
from harness.build.declared_images import STAND_IN
from harness.build.stand_ins import StandInPlace, narrowest, place_of, stand_in
from harness.build.values_schema import DescribedValue
from harness.cloudimage import ExpectedValue, ImageApp, ValueType
from harness.clusterfile import secrets, validators
from harness.clusterfile.schema import RESERVED
from harness.errors import Fault, InputError
from harness.templates import render_all
from harness.templates.job import GO, JINJA, Job, StandIn
from harness.templates.plain import Placeholder, may_be_meant, placeholders
from harness.templates.tree import SCHEMA, env_of

FORMAT = 2
"""Part of every key of a cached result: raise it when other values would be found."""

_CLUSTER = RESERVED | {"PodCIDR", "SvcCIDR"}
"""Names that every cluster gives by itself."""
_CLUSTER_STAND_INS = {"PodCIDR": "192.0.2.0/24", "SvcCIDR": "198.51.100.0/24", "HostIP": "192.0.2.1", "HostIPFamily": "4"}
_LONGEST_LINE = 10_000
"""Characters of a line of a template in which names are looked for."""
_MOST_PLACES = 100
"""Places that an image records of one value."""
_MOST_LEFT = 5
"""Names in one warning."""


@dataclasses.dataclass(frozen=True)
class TemplateFile:
    """A file that is rendered."""

    path: str
    """In the rootfs."""
    text: str
    shown: str
    """Name in faults and warnings."""

    @property
    def plain(self) -> bool:
        return not self.path.endswith((GO, JINJA))


@dataclasses.dataclass(frozen=True)
class ImageValues:
    """The values of an image."""

    values: tuple[ExpectedValue, ...] = ()
    defaults: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Defaults of the schema that no ENV has."""
    stand_ins: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """For each required value what can take its place in a throw-away cluster; nothing for one that only the user can give."""
    cluster: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Stand-ins for names that a cluster gives by itself."""
    warnings: tuple[Fault, ...] = ()

    def missing(self, env: Mapping[str, str], *, booting: bool) -> list[Fault]:
        """Faults of the values that a build was given, and of those that nothing can stand in for when a cluster boots."""
        faults = []
        for value in self.values:
            text = env.get(value.name)
            problem = value.type.problem(text) if text is not None else None
            if problem is not None:
                quoted = "the value that is given" if value.secret else repr(text)
                faults.append(Fault(f"-e {value.name}", f"{quoted} {problem}", f"-e {value.name}=VALUE"))
            elif booting and value.required and text is None and value.name not in self.stand_ins:
                message = f"{value.name} has no value, and nothing can stand in for it while the image is built"
                default = "" if value.secret else f"ENV {value.name}=... in the Kubefile, "
                hint = f"slipway build -e {value.name}=VALUE, {default}or examples in {SCHEMA}"
                faults.append(Fault(value.where[0] if value.where else SCHEMA, message, hint))
        return faults

    def environment(self, env: Mapping[str, str]) -> dict[str, str]:
        """Values of the throw-away cluster on top of ENV. Without a cluster, files are rendered with them to find their faults."""
        unknown = {value.name: f"{STAND_IN}{value.name}" for value in self.values if value.required}
        return {**self.cluster, **unknown, **self.stand_ins, **env}

    def used(self, env: Mapping[str, str]) -> dict[str, str]:
        """The stand-ins that are used, by name."""
        return {name: text for name, text in self.stand_ins.items() if name not in env}

    def to_json(self) -> dict[str, Any]:
        return {
            "values": [value.to_json() for value in self.values],
            "defaults": dict(self.defaults),
            "standIns": dict(self.stand_ins),
            "cluster": dict(self.cluster),
            "warnings": [[fault.where, fault.message, fault.hint] for fault in self.warnings],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImageValues:
        return cls(
            tuple(ExpectedValue.from_json(item) for item in value["values"]),
            value["defaults"],
            value["standIns"],
            value["cluster"],
            tuple(Fault(*fault) for fault in value["warnings"]),
        )


def find(
    files: Sequence[TemplateFile],
    env: Mapping[str, str],
    apps: Iterable[ImageApp] = (),
    schema: tuple[str, str] | None = None,
    inherited: Iterable[ExpectedValue] = (),
) -> ImageValues:
    """The values that files expect.

    ``env`` is what ENV says, ``schema`` the text of ``etc/values.schema.json`` and its name in faults, ``inherited`` the values of the base
    image, whose types hold where the schema has none. Raises InputError with every fault of the schema and of defaults that it refuses.
    """
    described = values_schema.read(*schema) if schema else {}
    defaults = {name: value.default for name, value in described.items() if value.default is not None and name not in env}
    finder = _Finder({**defaults, **env}, {app.name: app.env for app in apps}, described, {value.name: value for value in inherited})
    finder.look(files)
    values = tuple(finder.value(name) for name in sorted(finder.names))
    shown = schema[1] if schema else SCHEMA
    finder.warnings += [
        Fault(f"{shown}:{value.line}", f"the default of {name} is not used: ENV here or in the base image says something else")
        for name, value in described.items()
        if value.default is not None and env.get(name, value.default) != value.default
    ]
    faults = [*finder.faults, *_faults(values, env, described, shown)]
    if faults:
        raise InputError(faults)
    stand_ins = {}
    for number, value in enumerate(value for value in values if value.required):
        entry = described.get(value.name)
        text = stand_in(value, finder.place(value.name), number, entry.examples if entry else ())
        if text is not None:
            stand_ins[value.name] = text
    cluster = {name: _CLUSTER_STAND_INS.get(name, "") for name in sorted(finder.cluster)}
    return ImageValues(values, defaults, stand_ins, cluster, tuple(finder.warnings))


def _faults(
    values: Iterable[ExpectedValue], env: Mapping[str, str], described: Mapping[str, DescribedValue], shown: str
) -> Iterator[Fault]:
    for value in values:
        name, entry = value.name, described.get(value.name)
        if name not in env:
            continue
        if entry is not None and entry.secret:
            hint = "leave ENV out: the value is given when the image runs"
            yield Fault(f"{shown}:{entry.line}", f"{name} is writeOnly, and ENV {name} writes it into the image in clear", hint)
        elif (problem := value.type.problem(env[name])) is not None:
            where = f"{shown}:{entry.line}" if entry else shown
            yield Fault(
                where, f"ENV {name}={untrusted.shown(env[name])[:80]} {problem}", f"change ENV {name}, or what the schema says of it"
            )


class _Finder:
    def __init__(
        self,
        env: Mapping[str, str],
        app_env: Mapping[str, Mapping[str, str]],
        described: Mapping[str, DescribedValue],
        inherited: Mapping[str, ExpectedValue],
    ) -> None:
        self.env = env
        self.app_env = app_env
        self.described = described
        self.inherited = inherited
        self.names: set[str] = set(described)
        self.cluster: set[str] = set()
        self.faults: list[Fault] = []
        self.warnings: list[Fault] = []
        self._needed: set[str] = set()
        """Names without a value that a file cannot be rendered without."""
        self._places: dict[str, list[StandInPlace]] = {}
        self._where: dict[str, list[str]] = {}

    def look(self, files: Sequence[TemplateFile]) -> None:
        plain = [(file, placeholders(file.text, file.path, self._env(file))) for file in files if file.plain]
        for file, file_placeholders in plain:
            for placeholder in file_placeholders:
                if placeholder.expected:
                    self._need(placeholder.name, file)
        self._look_into_templates([file for file in files if not file.plain])
        # A name that one file expects is slipway's in all others.
        for file, file_placeholders in plain:
            self._note(file, file_placeholders)

    def place(self, name: str) -> StandInPlace:
        return narrowest(self._places.get(name, ()))

    def value(self, name: str) -> ExpectedValue:
        entry, base = self.described.get(name), self.inherited.get(name)
        default = self.env.get(name, next((env[name] for env in self.app_env.values() if name in env), None))
        secret = (entry.secret if entry else bool(base and base.secret)) or secrets.is_secret_name(name)
        return ExpectedValue(
            name=name,
            where=tuple(self._where.get(name, ())[:_MOST_PLACES]),
            default=None if secret else default,
            required=name in self._needed or (entry is not None and entry.required and default is None),
            secret=secret,
            description=entry.description if entry else base.description if base else "",
            type=entry.type if entry else base.type if base and base.type != ValueType() else self.place(name).type,
        )

    def _env(self, file: TemplateFile) -> Mapping[str, str]:
        return env_of(file.path, self.env, self.app_env)

    def _need(self, name: str, file: TemplateFile) -> None:
        if name in self._env(file):
            return
        if name in _CLUSTER:
            self.cluster.add(name)
        else:
            self.names.add(name)
            self._needed.add(name)

    def _look_into_templates(self, files: Sequence[TemplateFile]) -> None:
        """Templates in Go's language and Jinja are slipway's as a whole: every name that their output lacks is expected."""
        missing = [StandIn(before=STAND_IN) for _ in files]
        jobs = [Job(file.text, self._env(file), file.path, each) for file, each in zip(files, missing, strict=True)]
        for file, each, rendered in zip(files, missing, render_all(jobs), strict=True):
            names = dict.fromkeys(self._given(each.names, file))
            for name in names:
                self._need(name, file)
            for name in (*names, *(other for other in (*self.described, *self._env(file)) if other not in names)):
                lines = _lines(file.text, name)
                if lines and name not in _CLUSTER:
                    self.names.add(name)
                    self._at(name, file, lines)
            # A template that is not understood is a fault when the image is rendered.
            if isinstance(rendered, str):
                self._places_in(rendered, file.path.removesuffix(GO).removesuffix(JINJA), names)

    def _given(self, names: Iterable[str], file: TemplateFile) -> Iterator[str]:
        """The names that can be given. The languages of templates know others, with letters that no environment has: each is a fault."""
        for name in names:
            if re.fullmatch(validators.ENV_NAME, name):
                yield name
            else:
                line = next(iter(_lines(file.text, name)), 1)
                message = f"{untrusted.shown(name)[:80]} is not a name for a variable, so no value can be given"
                self.faults.append(Fault(f"{file.shown}:{line}", message, "use letters, digits and _"))

    def _places_in(self, rendered: str, path: str, names: Container[str]) -> None:
        """The places of stand-ins in a rendered template: they are put into braces again, for their places to be read as all others."""
        pattern = re.compile(re.escape(STAND_IN) + r"([A-Za-z_][A-Za-z0-9_]*)")
        text = pattern.sub(lambda match: f"{{{{ {match[1]} }}}}" if match[1] in names else match[0], rendered)
        for placeholder in placeholders(text, path):
            if placeholder.name in names:
                self._places.setdefault(placeholder.name, []).append(place_of(placeholder))

    def _note(self, file: TemplateFile, file_placeholders: Sequence[Placeholder]) -> None:
        env = self._env(file)
        undeclared: dict[str, Placeholder] = {}
        for placeholder in file_placeholders:
            name = placeholder.name
            if name in _CLUSTER:
                continue
            if name in env or name in self.names:
                self.names.add(name)
                self._at(name, file, [file.text.count("\n", 0, placeholder.start) + 1])
                if name not in env:
                    self._needed.add(name)
                    self._places.setdefault(name, []).append(place_of(placeholder))
            else:
                undeclared.setdefault(name, placeholder)
        self._warn(file, undeclared, {*env, *self.names})

    def _warn(self, file: TemplateFile, undeclared: Mapping[str, Placeholder], declared: Iterable[str]) -> None:
        """Warn of text that stays although it may be meant: a name close to a declared one, a capital outside of YAML, a whole value with a
        dot.
        """
        names = [*declared]
        for name, placeholder in list(undeclared.items())[:_MOST_LEFT]:
            where = f"{file.shown}:{file.text.count(chr(10), 0, placeholder.start) + 1}"
            written = file.text[placeholder.start : placeholder.end]
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
            if near:
                self.warnings.append(Fault(where, f"{written} is left as text, since nothing declares {name}", f"did you mean {near[0]}?"))
            elif may_be_meant(placeholder, file.path):
                hint = f"if it is a value of the image, declare it: ENV {name}=..., or in {SCHEMA}"
                self.warnings.append(Fault(where, f"{written} is left as text, since nothing declares {name}", hint))
            elif placeholder.whole and placeholder.dot and file.path.startswith("manifests/"):
                hint = f"if it is a value of the image, write {{{{ {name} }}}}, or declare it: ENV {name}=..."
                self.warnings.append(Fault(where, f"{written} is left as text, since nothing declares {name}", hint))

    def _at(self, name: str, file: TemplateFile, lines: Iterable[int]) -> None:
        places = self._where.setdefault(name, [])
        places += [place for line in lines if (place := f"{file.path}:{line}") not in places]


def _lines(text: str, name: str) -> list[int]:
    """The lines of a template that use a name in braces."""
    word = re.compile(rf"\{{[{{%][^{{}}\n]*?(?<![\w\"'`]){re.escape(name)}(?![\w\"'`])[^{{}}\n]*[%}}]\}}")
    lines = enumerate(text.split("\n"), 1)
    return [number for number, line in lines if name in line and len(line) <= _LONGEST_LINE and word.search(line)]

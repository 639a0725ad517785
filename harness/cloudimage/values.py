"""Values that an image expects when it runs: what they are, and whether the values that are given will do."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any

from harness import untrusted
from harness.clusterfile import is_redacted, validators
from harness.errors import Fault
from harness.untrusted import Pattern

STRING, INTEGER, NUMBER, BOOLEAN = "string", "integer", "number", "boolean"
TYPES = (STRING, INTEGER, NUMBER, BOOLEAN)
_ARTICLES = {INTEGER: "a whole number", NUMBER: "a number", BOOLEAN: "true or false"}
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?[0-9]{1,18}(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?")
_SHOWN = 60
_LONGEST = 500
"""Characters of a description that are shown."""
_PLACES = 3
"""Places that are listed of one value."""
_HINT = "-e {name}=VALUE, or env: {{{name}: VALUE}} in the Clusterfile"


@dataclasses.dataclass(frozen=True)
class ValueType:
    """The type of a value, with its limits."""

    type: str = STRING
    """One of TYPES."""
    pattern: str = ""
    """A regular expression (``harness.untrusted.Pattern``) that matches somewhere in the value."""
    enum: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None

    def problem(self, value: str) -> str | None:
        """Return why a value is refused, without the value itself; None for one that will do."""
        if self.enum and value not in self.enum:
            return f"is not one of {', '.join(self.enum)}"
        if self.type == BOOLEAN and value not in ("true", "false"):
            return "is not true or false"
        if self.type in (INTEGER, NUMBER) and (problem := self._number_problem(value)) is not None:
            return problem
        try:
            return f"does not match {self.pattern}" if self.pattern and not Pattern(self.pattern).matches(value) else None
        except ValueError as wrong:
            return str(wrong)

    def _number_problem(self, value: str) -> str | None:
        form = _INTEGER if self.type == INTEGER else _NUMBER
        if not form.fullmatch(value) or not math.isfinite(float(value)):
            return f"is not {_ARTICLES[self.type]}"
        number = int(value) if self.type == INTEGER else float(value)
        below, above = self.minimum is not None and number < self.minimum, self.maximum is not None and number > self.maximum
        return f"is not {self._range()}" if below or above else None

    def _range(self) -> str:
        if self.minimum is not None and self.maximum is not None:
            return f"from {self.minimum} to {self.maximum}"
        return f"at least {self.minimum}" if self.minimum is not None else f"at most {self.maximum}"

    def __str__(self) -> str:
        parts = [] if self.enum else [self.type]
        if self.enum:
            parts.append(f"one of {', '.join(self.enum)}")
        if self.minimum is not None or self.maximum is not None:
            parts.append(self._range())
        if self.pattern:
            parts.append(f"matches {self.pattern}")
        return ", ".join(parts)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {"type": self.type, "pattern": self.pattern, "enum": list(self.enum)}
        value |= {"minimum": self.minimum, "maximum": self.maximum}
        return {key: item for key, item in value.items() if item not in ("", [], None)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ValueType:
        """Raises KeyError, TypeError or ValueError when it is not the JSON of one."""
        kind = value["type"]
        if kind not in TYPES:
            raise ValueError("a value has a type that is not known")
        pattern = _text(value.get("pattern"))
        Pattern(pattern)
        bounds = [None if value.get(key) is None else _number(value[key]) for key in ("minimum", "maximum")]
        return cls(kind, pattern, _texts(value.get("enum")), *bounds)


@dataclasses.dataclass(frozen=True)
class ExpectedValue:
    """A value of the environment that files of the image use, or that its author has described."""

    name: str
    where: tuple[str, ...] = ()
    """Places in the rootfs that use it: ``manifests/app.yaml:12``."""
    default: str | None = None
    """The value of ENV. None for a secret, also when ENV has it."""
    required: bool = False
    """It must be given: nothing in the image has it."""
    secret: bool = False
    """It is never shown, and not recorded in the clear."""
    description: str = ""
    type: ValueType = dataclasses.field(default_factory=ValueType)

    @property
    def places(self) -> str:
        more = len(self.where) - _PLACES
        return ", ".join(self.where[:_PLACES]) + (f" and {more} more" if more > 0 else "")

    @property
    def summary(self) -> str:
        """``required, integer, from 1 to 65535; manifests/web.yaml:7: where the site listens``, for a terminal."""
        state = "required" if self.required else f"default {self.default}" if self.default is not None else "optional"
        kind = str(self.type)
        facts = ", ".join([state, *(["secret"] if self.secret else []), *([kind] if kind != STRING else [])])
        text = "; ".join(part for part in (facts, self.places) if part)
        return untrusted.shown(text + (f": {self.description}" if self.description else ""))

    def __str__(self) -> str:
        return f"{self.name}  {self.summary}"

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "where": list(self.where),
            "default": self.default,
            "required": self.required,
            "secret": self.secret,
            "description": self.description,
            **self.type.to_json(),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ExpectedValue:
        """Raises KeyError, TypeError or ValueError when it is not the JSON of one."""
        name = _text(value["name"])
        if not re.fullmatch(validators.ENV_NAME, name):
            raise ValueError("the name of a value is not one for a variable")
        return cls(
            name=name,
            where=tuple(untrusted.shown(place) for place in _texts(value.get("where"))),
            default=None if value.get("default") is None else _text(value["default"]),
            required=value.get("required") is True,
            secret=value.get("secret") is True,
            description=untrusted.shown(_text(value.get("description")))[:_LONGEST],
            type=ValueType.from_json(value),
        )


def _text(value: object) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError("a text of a value is not text")
    return value or ""


def _texts(value: object) -> tuple[str, ...]:
    if value is not None and not isinstance(value, list):
        raise TypeError("a list of a value is not a list")
    return tuple(_text(item) for item in value or ())


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError("a bound of a value is not a number")
    return value


def faults(
    values: Iterable[ExpectedValue],
    environments: Sequence[Mapping[str, str]],
    *,
    app_env: Mapping[str, Mapping[str, str]] | None = None,
    replaced: Callable[[str], bool] = lambda _: False,
    unknown: Container[str] = (),
    hint: str = _HINT,
) -> list[Fault]:
    """Faults of values that are missing or wrong, all names at once.

    ``environments`` are those of the nodes, without the defaults of the image; a value must be in each of them. ``app_env`` is what
    applications get besides, by their names. ``replaced`` says of the path of a file that a
    Config document writes it whole. ``unknown`` are texts in place of values that were not kept: they are not judged. ``hint`` says how a
    value is given; ``{name}`` in it is the name.
    """
    all_faults: list[Fault] = []
    values = tuple(values)
    names = {value.name for value in values}
    for value in values:
        own = _environments_of(value, environments, app_env or {})
        texts = dict.fromkeys(env[value.name] for env in own if value.name in env)
        for text in texts:
            problem = None if is_redacted(text) or text in unknown else value.type.problem(text)
            if problem is not None:
                message = f"{_quoted(value, text)} {problem}{_described(value)}"
                all_faults.append(Fault(value.name, untrusted.shown(message), hint.format(name=value.name)))
        if value.required and any(value.name not in env for env in own) and not _is_obsolete(value, replaced):
            message = f"has no value, and {value.places if value.where else 'the image'} needs one"
            near = _near(value.name, own, names)
            slip = f"; {near} is given, which the image does not expect" if near else ""
            all_faults.append(Fault(value.name, untrusted.shown(f"{message}{_described(value)}"), f"{hint.format(name=value.name)}{slip}"))
    return all_faults


def _near(name: str, environments: Iterable[Mapping[str, str]], expected: Container[str]) -> str:
    """A name that is given, that the image does not expect, and that may be this one with a slip."""
    unexpected = {other.lower(): other for env in environments for other in env if other not in expected}
    near = difflib.get_close_matches(name.lower(), unexpected, n=1, cutoff=0.8)
    return unexpected[near[0]] if near else ""


def _environments_of(
    value: ExpectedValue, environments: Sequence[Mapping[str, str]], app_env: Mapping[str, Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """The environments that the files which use a value are rendered with."""
    apps = [place.split("/")[2] if place.startswith("application/apps/") and place.count("/") > 2 else "" for place in value.where] or [""]
    return [{**env, **app_env.get(app, {})} for app in dict.fromkeys(apps) for env in environments or [{}]]


def _is_obsolete(value: ExpectedValue, replaced: Callable[[str], bool]) -> bool:
    return bool(value.where) and all(replaced(place.rpartition(":")[0]) for place in value.where)


def _quoted(value: ExpectedValue, text: str) -> str:
    if value.secret:
        return "the value that is given"
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _described(value: ExpectedValue) -> str:
    kind = str(value.type)
    parts = [part for part in (value.description, kind if kind != STRING else "") if part]
    return f" ({'; '.join(parts)})" if parts else ""

"""YAML that comes from outside."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from harness.errors import SlipwayError, StoreError
from harness.untrusted.display import message, shown


@dataclasses.dataclass(frozen=True)
class YamlLimits:
    """Most that a YAML text may hold."""

    size: int = 16 << 20
    """Bytes."""
    depth: int = 100
    """Levels of collections."""
    nodes: int = 200_000
    """Values, each alias counted as often as it is used."""


YAML_LIMITS = YamlLimits()


class _YamlLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe types, but dates stay text, as for Kubernetes."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - PyYAML reads it from the class
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


def _yaml_excess(text: str | bytes, limits: YamlLimits) -> tuple[int, str] | None:
    if len(text) > limits.size:
        return 1, f"it is larger than {limits.size} bytes"
    counted = _YamlCount(limits.depth)
    for event in yaml.parse(text, Loader=_YamlLoader):
        problem = counted.add(event)
        if problem is None and counted.count > limits.nodes:
            problem = f"it holds more than {limits.nodes} values, aliases included"
        if problem is not None:
            return (event.start_mark.line + 1 if event.start_mark else 1), problem
    return None


def yaml_excess(text: str | bytes, limits: YamlLimits = YAML_LIMITS) -> tuple[int, str] | None:
    """Line and description of the first thing for which a YAML text must not be loaded: see yaml_check.

    None also for what is not YAML: its loader can say that with more context.
    """
    try:
        return _yaml_excess(text, limits)
    except (yaml.YAMLError, UnicodeError, ValueError):
        return None


def yaml_check(text: str | bytes, *, what: str, limits: YamlLimits = YAML_LIMITS, error: type[SlipwayError] = StoreError) -> None:
    """Raise ``error`` when a YAML text is too large, too deep, holds itself, or spells out to too many values.

    Only events are read, in constant memory: afterwards any loader may take the text. What is not YAML is an error as well.
    """

    def fail(problem: str) -> SlipwayError:
        return error(message(what, f"is not usable YAML: {problem}"))

    try:
        excess = _yaml_excess(text, limits)
    except yaml.YAMLError as wrong:
        raise fail(_yaml_problem(wrong)) from wrong
    except (UnicodeError, ValueError) as wrong:
        raise fail(shown(str(wrong))) from wrong
    if excess is not None:
        line, problem = excess
        raise fail(problem if len(text) > limits.size else f"line {line}: {problem}")


def yaml_document(text: str | bytes, *, what: str, error: type[SlipwayError] = StoreError) -> Any:
    """As yaml_documents, of a text of one document; None when it is empty."""
    documents = yaml_documents(text, what=what, error=error)
    if len(documents) > 1:
        raise error(message(what, "holds more than one document"))
    return documents[0] if documents else None


def yaml_documents(text: str | bytes, *, what: str, limits: YamlLimits = YAML_LIMITS, error: type[SlipwayError] = StoreError) -> list[Any]:
    """All documents of a YAML text as dict, list, str, int, float, bool, bytes and None, after yaml_check."""
    yaml_check(text, what=what, limits=limits, error=error)
    try:
        return list(yaml.load_all(text, Loader=_YamlLoader))
    except yaml.YAMLError as wrong:
        raise error(message(what, f"is not usable YAML: {_yaml_problem(wrong)}")) from wrong
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as wrong:
        raise error(message(what, f"is not usable YAML: {shown(str(wrong))}")) from wrong


def _yaml_problem(wrong: yaml.YAMLError) -> str:
    if isinstance(wrong, yaml.MarkedYAMLError) and wrong.problem_mark is not None:
        return f"line {wrong.problem_mark.line + 1}: {shown(wrong.problem or 'is not understood')}"
    return shown(" ".join(str(wrong).split()))


class YamlScalar(NamedTuple):
    """A scalar of a YAML text by its place. ``keys`` are those of the mappings around it, the innermost last, as far as they are text."""

    start: int
    end: int
    plain: bool
    """Neither in quotes nor in a block."""
    entry: bool
    """A key, a value or an item; not a document of its own, and not text that stands where YAML has no place for it."""
    keys: tuple[str, ...]


def yaml_scalars(text: str, *, limits: YamlLimits = YAML_LIMITS) -> Iterator[YamlScalar]:
    """The scalars of a text as YAML's scanner sees them, up to the first thing that is not YAML. Positions count characters."""
    mark = text.startswith("\ufeff")
    if len(text) > limits.size:
        return
    try:
        yield from _scalars(text[mark:], int(mark), limits.depth)
    except (yaml.YAMLError, UnicodeError, ValueError):
        return


def _scalars(text: str, offset: int, depth: int) -> Iterator[YamlScalar]:
    open_keys: list[str] = []
    before: yaml.Token | None = None
    for token in yaml.scan(text, Loader=_YamlLoader):
        if isinstance(token, _STARTS):
            open_keys.append("")
            if len(open_keys) > depth:
                return
        elif isinstance(token, _ENDS):
            del open_keys[-1:]
        elif isinstance(token, yaml.DocumentStartToken | yaml.DocumentEndToken):
            open_keys.clear()
        elif isinstance(token, yaml.ScalarToken):
            is_key = isinstance(before, yaml.KeyToken)
            keys = tuple(key for key in (open_keys[:-1] if is_key else open_keys) if key)
            place = (token.start_mark.index + offset, token.end_mark.index + offset)
            yield YamlScalar(*place, bool(token.plain), isinstance(before, _LEADS), keys)
            if is_key and open_keys:
                open_keys[-1] = token.value
        if not isinstance(token, yaml.TagToken | yaml.AnchorToken):
            before = token


_STARTS = (
    yaml.BlockMappingStartToken,
    yaml.BlockSequenceStartToken,
    yaml.FlowMappingStartToken,
    yaml.FlowSequenceStartToken,
)
_LEADS = (yaml.KeyToken, yaml.ValueToken, yaml.BlockEntryToken, yaml.FlowEntryToken, yaml.FlowSequenceStartToken)
_ENDS = (yaml.BlockEndToken, yaml.FlowMappingEndToken, yaml.FlowSequenceEndToken)

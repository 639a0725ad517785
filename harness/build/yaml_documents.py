"""YAML of a rootfs as nodes: only nodes know their lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from harness import untrusted
from harness.templates.job import GO

_Loader: type[yaml.CSafeLoader | yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(untrusted.YAML_LIMITS.size + 1)
    if len(data) > untrusted.YAML_LIMITS.size:
        raise OSError(f"it is larger than {untrusted.YAML_LIMITS.size} bytes")
    text = data.decode("utf-8-sig")
    # JSON may be indented with tabs, YAML may not; a JSON string cannot contain a tab.
    return text.replace("\t", " ") if path.name.removesuffix(GO).endswith(".json") else text


def documents_of(text: str) -> Iterator[yaml.Node]:
    """The documents of a text as nodes. Raises yaml.YAMLError, also for a few lines that spell out to more than memory holds."""
    excess = untrusted.yaml_excess(text)
    if excess is not None:
        line, problem = excess
        raise yaml.composer.ComposerError(None, None, problem, yaml.Mark("", 0, line - 1, 0, None, 0))
    return (node for node in yaml.compose_all(text, Loader=_Loader) if node is not None)


def place_of(shown: str, wrong: Exception) -> str:
    mark = getattr(wrong, "problem_mark", None)
    return shown if mark is None else f"{shown}:{mark.line + 1}"


def reason_of(wrong: Exception) -> str:
    if not isinstance(wrong, yaml.YAMLError):
        return f"cannot be read: {wrong}"
    problem = getattr(wrong, "problem", None) or getattr(wrong, "reason", None) or str(wrong)
    return f"not YAML: {problem}"


def line_of(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def pairs_of(node: yaml.Node | None) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    """Keys and values of a mapping, those of ``<<`` included. What documents_of gives holds no circles."""
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        if key.tag == "tag:yaml.org,2002:merge":
            for merged in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                yield from pairs_of(merged)
        else:
            yield key, value


def value_of(node: yaml.Node | None, name: str) -> yaml.Node | None:
    return next((value for key, value in pairs_of(node) if isinstance(key, yaml.ScalarNode) and key.value == name), None)


def text_of(node: yaml.Node | None) -> str | None:
    """The text of a scalar; None for everything else, null included."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) and node.tag != "tag:yaml.org,2002:null" else None


def items_of(node: yaml.Node | None) -> Sequence[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else ()

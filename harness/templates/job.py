"""A file to render, and the name of the file that it becomes."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Mapping

GO, JINJA = ".tmpl", ".j2"


@dataclasses.dataclass
class StandIn:
    """Placeholder for a name that the environment does not have: the name between two texts. ``names`` collects them."""

    before: str = ""
    after: str = ""
    names: list[str] = dataclasses.field(default_factory=list)

    def __call__(self, name: str) -> str:
        self.names.append(name)
        return f"{self.before}{name}{self.after}"


@dataclasses.dataclass(frozen=True)
class Job:
    """A file to render: see render()."""

    text: str
    env: Mapping[str, str]
    path: str
    missing: StandIn | None = None
    declared: Container[str] = ()
    """Names that are slipway's although ``env`` may lack them."""


def output_name(path: str) -> str:
    """Name of a file after rendering: without ``.tmpl`` and ``.j2``."""
    return path.removesuffix(GO).removesuffix(JINJA)

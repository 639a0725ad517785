"""Names of tests and machines in words that a reader without the source understands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class CaseName:
    """The parts of a test's id: ``kubefiles/web/test_web.py::TestPage::test_page_answers[worker-1]``."""

    group: str
    """``kubefiles/web/test_web.py, Page``."""
    name: str
    """``Page answers``."""
    place: str
    """``worker-1``."""


def case_name(node_id: str) -> CaseName:
    """The parts of a test's id, in words."""
    head, bracket, place = node_id.partition("[")
    path, *names = head.split("::")
    *classes, name = names or [path]
    words = re.sub(r"[_\s]+", " ", re.sub(r"^test_+", "", name)).strip() or name
    group = ", ".join([path, *(re.sub(r"^Test(?=[A-Z_])", "", each) for each in classes)])
    return CaseName(group, words[:1].upper() + words[1:], place.removesuffix("]") if bracket else "")


_ROLE = re.compile(r"-((?:control-plane|worker)-\d+)$")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Names of machines that the test kit made without the name of their group: ``worker-1``. Other names stay."""
    matches = {name: match[1] for name in names if (match := _ROLE.search(name))}
    distinct = len(matches) == len(set(names)) == len(set(matches.values()))
    return matches if distinct else {name: name for name in names}

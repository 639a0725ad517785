"""Versions, and ranges of Kubernetes versions, as KUBEVERSION and a chart's ``kubeVersion`` write them: ``>=1.31 <1.36 || ~1.37``.

The language is that of the semver library which helm and sealer use: blanks and commas join, ``||`` separates alternatives,
``1.34 - 1.36`` is inclusive, ``^ ~ x *`` as everywhere, and a part that is left out stands for any number.

The ``node-semver`` package cannot read it: npm's language has no ``!=``, ``=>`` and ``=<``, and ``>=1.40-0``, by which a chart admits
pre-releases of every later version, admits only those of 1.40.0 there.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable

_LONGEST = 500
"""Letters of a version, or of a range of them."""
_IDENTIFIERS = r"[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*"
_VERSION = re.compile(rf"v?(\d+)(?:\.(\d+))?(?:\.(\d+))?(?:-({_IDENTIFIERS}))?(?:\+{_IDENTIFIERS})?")
_OPERAND = rf"v?(?:\d+|[xX*])(?:\.(?:\d+|[xX*])){{0,2}}(?:-{_IDENTIFIERS})?(?:\+{_IDENTIFIERS})?"
_CONSTRAINT = re.compile(rf"\s*(=>|=<|>=|<=|!=|[=<>^~]|)\s*({_OPERAND})\s*(?:,|(?=\s|$|[=<>!^~]))\s*")
_HYPHEN = re.compile(rf"({_OPERAND})\s+-\s+({_OPERAND})")


@dataclasses.dataclass(frozen=True, order=True)
class _Version:
    numbers: tuple[int, int, int]
    released: bool
    """False for a pre-release, which sorts before its release."""
    labels: tuple[tuple[bool, int, str], ...]
    """The identifiers of a pre-release: numbers before words, numbers by value."""


@dataclasses.dataclass(frozen=True)
class _Constraint:
    sign: str
    given: int
    """Number of parts of major, minor, patch that are numbers."""
    version: _Version

    def allows(self, version: _Version) -> bool:
        # 1.36.4-rc.1 is not what ">=1.31" asks for; only a range that itself names a pre-release means them.
        if not version.released and self.version.released:
            return False
        if self.given == 0:
            return self.sign not in ("!=", "<", ">")
        return _SIGNS[self.sign](self, version)

    def _upper(self, position: int) -> tuple[int, int, int]:
        """The first version behind all that share the first ``position`` numbers."""
        numbers = list(self.version.numbers[:position])
        numbers[-1] += 1
        return (*numbers, *[0] * (3 - position))  # type: ignore[return-value]

    def _equal(self, version: _Version) -> bool:
        if self.given == 3:
            return version == self.version
        return version.numbers[: self.given] == self.version.numbers[: self.given]

    def _below(self, version: _Version, position: int) -> bool:
        return self.version <= version and version.numbers < self._upper(position)

    def _caret(self, version: _Version) -> bool:
        leading = next((index for index, number in enumerate(self.version.numbers[: self.given]) if number), self.given - 1)
        return self._below(version, leading + 1)

    def _tilde(self, version: _Version) -> bool:
        return self._below(version, min(self.given, 2))

    def _greater(self, version: _Version) -> bool:
        return version > self.version if self.given == 3 else version.numbers >= self._upper(self.given)

    def _at_most(self, version: _Version) -> bool:
        return version <= self.version if self.given == 3 else version.numbers < self._upper(self.given)


_SIGNS: dict[str, Callable[[_Constraint, _Version], bool]] = {
    "": _Constraint._equal,
    "=": _Constraint._equal,
    "!=": lambda constraint, version: not constraint._equal(version),
    ">": _Constraint._greater,
    ">=": lambda constraint, version: operator.ge(version, constraint.version),
    "=>": lambda constraint, version: operator.ge(version, constraint.version),
    "<": lambda constraint, version: operator.lt(version, constraint.version),
    "<=": _Constraint._at_most,
    "=<": _Constraint._at_most,
    "^": _Constraint._caret,
    "~": _Constraint._tilde,
}


def check(text: str) -> None:
    """Raises ValueError with the reason when ``text`` is not a range of versions."""
    _alternatives(text)


def satisfies(version: str, text: str) -> bool:
    """Return True when a version (``v1.36.3``) is in a range (``>=1.31 <1.37``). Raises ValueError when either is not valid."""
    parsed = _version(version)
    return any(all(constraint.allows(parsed) for constraint in joined) for joined in _alternatives(text))


def lowest(text: str) -> str | None:
    """Return the lowest version that a range admits, as ``v1.25.0``; None when it has no lower bound. Raises ValueError."""
    bounds = [_lower_bound(joined) for joined in _alternatives(text)]
    lower_bounds = [bound for bound in bounds if bound is not None]
    return f"v{'.'.join(map(str, min(lower_bounds)))}" if lower_bounds and len(lower_bounds) == len(bounds) else None


def _lower_bound(joined: list[_Constraint]) -> tuple[int, int, int] | None:
    written = [constraint for constraint in joined if constraint.given]
    starts = [constraint.version.numbers for constraint in written if constraint.sign not in ("!=", "<", "<=", "=<", ">")]
    starts += [constraint._upper(constraint.given) for constraint in written if constraint.sign == ">"]
    return max(starts, default=None)


def admits(version: str, text: str) -> bool:
    """Return True when a cluster of this version satisfies the range ``text``. Raises ValueError when either is not valid.

    Suffixes of distributions (``v1.36.3-gke.7``) do not make a pre-release.
    """
    return satisfies(re.sub(r"-(?!alpha|beta|rc).*", "", version), text)


def older(version: str, other: str) -> bool:
    """Return True when a version is lower than another; a pre-release is lower than its release. Raises ValueError for invalid ones."""
    return _version(version) < _version(other)


def _version(text: str) -> _Version:
    match = _VERSION.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not a version")
    labels = tuple((not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in (match[4] or "").split(".") if part)
    return _Version((int(match[1]), int(match[2] or 0), int(match[3] or 0)), not labels, labels)


def _alternatives(text: str) -> list[list[_Constraint]]:
    if not text.strip():
        raise ValueError("an empty range of versions")
    if len(text) > _LONGEST:
        raise ValueError(f"{text[:_LONGEST]!r}... is not a range of versions: it is longer than {_LONGEST} letters")
    return [_joined(part, text) for part in text.split("||")]


def _joined(part: str, whole: str) -> list[_Constraint]:
    part = _HYPHEN.sub(r">=\1 <=\2", part.strip())
    constraints: list[_Constraint] = []
    position = 0
    while position < len(part):
        match = _CONSTRAINT.match(part, position)
        if match is None:
            raise ValueError(f"{whole!r} is not a range of versions: {part[position:]!r} is not understood")
        constraints.append(_constraint(match[1], match[2]))
        position = match.end()
    if not constraints or part.endswith(","):
        raise ValueError(f"{whole!r} is not a range of versions: a part of it is empty")
    return constraints


def _constraint(sign: str, operand: str) -> _Constraint:
    numbers, dash, labels = operand.removeprefix("v").partition("-")
    written = []
    for part in numbers.partition("+")[0].split("."):
        if not part.isdigit():
            break
        written.append(part)
    version = _version(".".join([*written, *["0"] * (3 - len(written))]) + dash + labels)
    return _Constraint(sign, len(written), version)

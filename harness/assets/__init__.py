"""Files that come with the package: programs and scripts for nodes, Go modules to compile; in a wheel also images/ and kubefiles/."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path

FOLDER = Path(__file__).parent
NODE = FOLDER / "node"
"""Shell for nodes (POSIX sh). The header of each script names its arguments, a line each: ``#   NAME  what it is``."""

_ARGUMENT = re.compile(r'#   ([A-Z][A-Z0-9_]*|"\$@") ')
_INCLUDE = re.compile(r"^\. \./([a-z0-9_]+)\.sh\n", re.MULTILINE)
"""Another script whose functions this one uses. It is sent in place of the line."""


def bundled(name: str) -> Path | None:
    """The folder ``images`` or ``kubefiles`` that came with the package: that of a checkout, or what the wheel carries."""
    return next((path for path in (FOLDER.parents[1] / name, FOLDER / name) if path.is_dir()), None)


def script(name: str, /, *words: str, **arguments: str | int) -> str:
    """Shell text of ``node/NAME.sh`` for a node, with its arguments in front: variables by name (upper case there), and ``"$@"``.

    Every value is quoted: none is read as shell. The first line is a comment with the file's name. Raises ValueError for arguments
    other than those that the header names.
    """
    text, wanted = _read(name)
    values = {key.upper(): shlex.quote(str(value)) for key, value in arguments.items()}
    if words or '"$@"' in wanted:
        values['"$@"'] = shlex.join(words)
    if unfit := values.keys() ^ wanted:
        raise ValueError(f"node/{name}.sh: arguments do not fit: {', '.join(sorted(unfit))}")
    lines = [f"# {name}.sh", *(f"set -- {value}" if key == '"$@"' else f"{key}={value}" for key, value in values.items())]
    return "".join(f"{line}\n" for line in lines) + text


@functools.cache
def _read(name: str) -> tuple[str, frozenset[str]]:
    """The text of a script without its header, other scripts included, and the names of its arguments."""
    lines = (NODE / f"{name}.sh").read_text().splitlines(keepends=True)
    end = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    wanted = {match[1] for line in lines[:end] if (match := _ARGUMENT.match(line))}
    text = "".join(lines[end:]).lstrip("\n")
    for other in _INCLUDE.findall(text):
        wanted |= _read(other)[1]
    return _INCLUDE.sub(lambda match: _read(match[1])[0], text), frozenset(wanted)

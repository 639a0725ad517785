"""Text templates of a rootfs: ``{{ Name }}`` and ``{{ .Name }}`` become what the environment says.

Which language a file is in follows from where it is and how it is called:

- any file under ``manifests/`` and ``etc/``: only those two forms; every other text stays, byte for byte;
- ``*.tmpl``: Go's, as far as values without structure need it: pipelines, ``if``/``else``, ``eq ne and or not default quote b64enc ...``;
- ``*.j2``: Jinja.

Charts are helm's to render: a folder with a ``Chart.yaml`` is left alone.

Templates may come from strangers. Each renders to at most 1 MiB and ten times its size, in time and memory in proportion to that: the
first two languages because there is nothing in them that grows, Jinja in a process of its own with limits (``jinja``).
"""

from __future__ import annotations

import dataclasses
import json
import os
import posixpath
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness import log, process
from harness.errors import Fault, InputError
from harness.host import durable
from harness.templates import jinja

GO, JINJA = ".tmpl", ".j2"

# `{{{ Name }}` is another engine's; `{a: {{ Name }}}` is ours and then a brace of YAML.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{[ \t]*(\.?)([A-Za-z_][A-Za-z0-9_-]*)[ \t]*\}\}")
_COMMENT = re.compile(r"\{\{(?P<left>-(?=\s))?\s*/\*")
_COMMENT_END = re.compile(r"\*/\s*(?P<right>(?<=\s)-)?\}\}")
_ACTION = re.compile(r"\{\{(?P<left>-(?=\s))?")
_ACTION_TEXT = re.compile(r"""(?:"(?:\\.|[^"\\])*+"|`[^`]*+`|[^{}"`]|\{(?!\{)|\}(?!\}))*+""", re.DOTALL)
_TOKEN = re.compile(r"\s*(?:(\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(-?\d+)|(\$?\.[A-Za-z_]\w*)|([A-Za-z_]\w*)|([()|]))")
_LARGEST = 16 << 20
"""Bytes of a file that is rendered; what is larger is data."""
_LARGEST_TREE = 64 << 20
"""Characters that the templates of a tree may render to together."""
_WORK = 16
"""Characters that functions may go through, for each that a template may render to."""
_SCAN = 64
"""Characters that are looked at for the ends of actions, for each of a template."""
_WIDEST = 1000
_DEEPEST = 50
"""Parentheses in parentheses."""
_MOST_FAULTS = 100
_LARGEST_LINE = 64 << 10
_SHORT = 120
_JINJA_BATCH = 16 << 20
"""Characters that the templates of one process may render to."""


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


def render(text: str, env: Mapping[str, str], path: str, *, missing: StandIn | None = None) -> str:
    """Render the text of one file. ``path`` says by its ending which language it is in, and names the file in faults.

    Raises InputError naming ``path`` and line for every name that is not defined, unless ``missing`` gives a stand-in, and for a template
    that is not understood or renders to more than it may. In plain files a lower-case ``{{ name }}`` that is not defined stays: such text
    is more often for Grafana or Prometheus.
    """
    (rendered,) = render_all([Job(text, env, path, missing)])
    if not isinstance(rendered, str):
        raise InputError(rendered)
    return rendered


def render_all(jobs: Sequence[Job]) -> list[str | tuple[Fault, ...]]:
    """Render files as render() does, those in Jinja together in one process; for each its text, or what is wrong with it."""
    outcomes: dict[int, str | tuple[Fault, ...]] = {}
    for index, job in enumerate(jobs):
        faults: list[Fault] = []
        if job.path.endswith(JINJA):
            continue
        if job.path.endswith(GO):
            text = _Go(job.text, job.env, job.path, job.missing, faults).render()
        else:
            text = _plain(job.text, job.env, job.path, job.missing, faults)
        outcomes[index] = tuple(faults) if faults else text
    foreign = [index for index in range(len(jobs)) if index not in outcomes]
    outcomes |= zip(foreign, _jinja([jobs[index] for index in foreign]), strict=True)
    return [outcomes[index] for index in range(len(jobs))]


def output_name(path: str) -> str:
    """Name of a file after rendering: without ``.tmpl`` and ``.j2``."""
    return path.removesuffix(GO).removesuffix(JINJA)


def is_template(path: str) -> bool:
    """Return True when the file at this path of a rootfs is rendered (charts apart)."""
    return path.endswith((GO, JINJA)) or path.startswith(("manifests/", "etc/"))


def render_tree(root: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]] | None = None) -> list[str]:
    """Render the templates of an unpacked rootfs in place; the output of ``a.yaml.tmpl`` is ``a.yaml`` beside it, with the same mode.

    ``app_env`` is what an application's files (by its name) get on top of ``env``. Returns the paths that were written, relative to
    ``root``, sorted. Nothing is written when there is a fault: raises InputError with all of them.
    """
    faults: list[Fault] = []
    written: dict[str, tuple[str, str]] = {}
    jobs: list[Job] = []
    for path in _templates(root):
        try:
            text = _text(root / path)
        except ValueError as wrong:
            faults.append(Fault(path, str(wrong)))
            continue
        if text is not None:
            jobs.append(Job(text, env_of(path, env, app_env or {}), path))
    room = _LARGEST_TREE
    for job, rendered in zip(jobs, render_all(jobs), strict=True):
        if not isinstance(rendered, str):
            faults += rendered
        elif output_name(job.path) != job.path or rendered != job.text:
            room -= len(rendered)
            written[output_name(job.path)] = (job.path, rendered)
    if room < 0:
        faults.append(Fault("templates", f"they render to more than {_LARGEST_TREE} characters together"))
    if faults:
        raise InputError(faults)
    for target, (path, found) in written.items():
        _write(root / target, found, (root / path).stat().st_mode & 0o7777)
    return sorted(written)


def env_of(path: str, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The environment of the file at this path of a rootfs: that of its application comes before the global one."""
    parts = path.split("/")
    return {**env, **app_env.get(parts[2], {})} if parts[:2] == ["application", "apps"] and len(parts) > 3 else env


def _templates(root: Path) -> list[str]:
    """The files to render, relative to the root. A template comes after the file that it overwrites. Links are not followed."""
    found = []
    for folder, folders, files in os.walk(root):
        here = Path(folder).relative_to(root).as_posix()
        if here == "charts" or (here != "." and "Chart.yaml" in files):
            folders.clear()
            continue
        found += [path for name in files if is_template(path := posixpath.normpath(f"{here}/{name}")) and not (root / path).is_symlink()]
    return sorted(found)


def _text(path: Path) -> str | None:
    """The text of a file that may hold a placeholder, or None: binary, large, or without ``{{``. Templates are read in any case.

    Raises ValueError for a template that is too large.
    """
    named = output_name(path.name) != path.name
    if path.stat().st_size > _LARGEST:
        if named:
            raise ValueError(f"a template of more than {_LARGEST} bytes is not rendered")
        return None
    data = path.read_bytes()
    if b"{{" not in data and not named and b"{%" not in data:
        return None
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a file in one move: what has the old one linked or open keeps it."""
    with durable.replacing(path, mode=mode, sync=False) as file:
        file.write(text.encode())


def _undefined(path: str, line: int, name: str) -> Fault:
    hint = f"-e {name}=VALUE, env in the Clusterfile, or ENV {name}=VALUE in the Kubefile"
    return Fault(f"{path}:{line}", f"{name} is not defined", hint)


class _Lines:
    """Line numbers of positions that only grow."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self._line = 1

    def at(self, position: int) -> int:
        self._line += self._text.count("\n", self._position, position)
        self._position = position
        return self._line


class _Output:
    """Text that may grow to a limit. Raises _TooMuchError."""

    def __init__(self, template: str) -> None:
        self.limit = jinja.limit(template)
        self._room = self.limit
        self._parts: list[str] = []

    def add(self, text: str) -> None:
        self._room -= len(text)
        if self._room < 0:
            raise _TooMuchError(f"it renders to more than {self.limit} characters")
        self._parts.append(text)

    def __str__(self) -> str:
        return "".join(self._parts)


class _TooMuchError(Exception):
    """A template takes more than its size allows."""


def _plain(text: str, env: Mapping[str, str], path: str, missing: StandIn | None, faults: list[Fault]) -> str:
    kept: dict[str, int] = {}
    output, lines, end = _Output(text), _Lines(text), 0
    try:
        for match in _PLACEHOLDER.finditer(text):
            dot, name = match.groups()
            output.add(text[end : match.start()])
            end = match.end()
            if name in env:
                output.add(env[name])
            elif not dot and name[0].islower():
                if name not in kept:
                    kept[name] = lines.at(match.start())
                output.add(match[0])
            elif missing is not None:
                output.add(missing(name))
            else:
                faults.append(_undefined(path, lines.at(match.start()), name))
                if len(faults) >= _MOST_FAULTS:
                    return ""
        output.add(text[end:])
    except _TooMuchError as wrong:
        faults.append(Fault(f"{path}:{lines.at(end)}", str(wrong)))
        return ""
    if kept and missing is None:
        names = ", ".join(f"{{{{ {name} }}}}" for name in list(kept)[:_MOST_FAULTS])
        log.warning(f"{path}:{min(kept.values())}: left as text, since nothing defines it: {names}")
    return str(output)


# Go templates: a reader of their own, small because there are only strings. Translated into Jinja, text that only Jinja marks would change.


@dataclasses.dataclass(frozen=True)
class _Undefined:
    name: str


_Value = str | bool | _Undefined


class _GoError(Exception):
    """An action that is not understood."""


@dataclasses.dataclass
class _Branch:
    """An ``if`` that is open: whether the text here is wanted, and whether an earlier branch was."""

    outer: bool
    active: bool
    taken: bool
    line: int


def _truth(value: _Value) -> bool:
    """As in Go: a text is true when there is any, ``"false"`` too."""
    return not isinstance(value, _Undefined) and bool(value)


def _shown(value: str | bool) -> str:
    return value if isinstance(value, str) else str(value).lower()


def _decode(value: str) -> str:
    try:
        return jinja.decode(value)
    except ValueError as wrong:
        raise _GoError(str(wrong)) from wrong


def _indent(width: str, text: str) -> str:
    if int(width) > _WIDEST or (text.count("\n") + 1) * int(width) > jinja.limit(text):
        raise _GoError(f"indent {width[:20]} is too wide")
    return "\n".join(" " * int(width) + row for row in text.split("\n"))


# What takes an undefined name as empty, as Go does with a missing key.
_LENIENT: dict[str, Callable[..., _Value]] = {
    "and": lambda *values: next((value for value in values if not _truth(value)), values[-1]),
    "default": lambda default, value: value if _truth(value) else default,
    "eq": lambda first, *others: first in others,
    "ne": lambda first, other: first != other,
    "not": lambda value: not _truth(value),
    "or": lambda *values: next((value for value in values if _truth(value)), values[-1]),
}
_STRICT: dict[str, Callable[..., str]] = {
    "b64dec": _decode,
    "b64enc": jinja.encode,
    "indent": _indent,
    "lower": str.lower,
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "quote": jinja.quote,
    "squote": lambda value: f"'{value}'",
    "trim": str.strip,
    "upper": str.upper,
}


class _Action(NamedTuple):
    """``{{ body }}`` between two positions, None being the body of a comment. ``left`` and ``right``: the blanks beside it go."""

    start: int
    end: int
    body: str | None
    left: bool
    right: bool


def _actions(text: str) -> Iterator[_Action]:
    """The actions of a Go template, in order; braces that begin none are text. Raises _TooMuchError."""
    scan = _SCAN * len(text) + _LARGEST_LINE
    ended: re.Match[str] | None = None
    commented = True
    position = 0
    while (begin := _ACTION.search(text, position)) is not None:
        start, position = begin.start(), begin.start() + 1
        comment = _COMMENT.match(text, start) if commented else None
        if comment is not None:
            if ended is None or ended.start() < comment.end():
                ended = _COMMENT_END.search(text, comment.end())
            # Without an end there is none for the comments that follow either.
            commented = ended is not None
            if ended is not None:
                position = ended.end()
                yield _Action(start, position, None, bool(comment["left"]), bool(ended["right"]))
                continue
        body = _ACTION_TEXT.match(text, begin.end())
        assert body is not None, "it matches nothing too"
        # A quote that is not closed was looked for up to the end.
        end = body.end()
        scan -= end - start + (len(text) - end if text[end : end + 1] in ('"', "`") else 0)
        if scan < 0:
            raise _TooMuchError("it has too many braces and quotes that are not closed")
        if text.startswith("}}", end):
            position = end + 2
            inner = body[0]
            right = inner.endswith("-") and inner[-2:-1].isspace()
            yield _Action(start, position, inner[:-1] if right else inner, begin["left"] is not None, right)


class _Go:
    def __init__(self, text: str, env: Mapping[str, str], path: str, missing: StandIn | None, faults: list[Fault]) -> None:
        self.text = text
        self.env = env
        self.path = path
        self.missing = missing
        self.faults = faults
        self.branches: list[_Branch] = []
        self._lines = _Lines(text)
        self._output_text = _Output(text)
        self._work = _WORK * self._output_text.limit

    def render(self) -> str:
        position, trim, line = 0, False, 1
        output = self._output_text
        try:
            for action in _actions(self.text):
                between = self.text[position : action.start]
                between = between.lstrip() if trim else between
                output.add(self._wanted(between.rstrip() if action.left else between))
                if action.body is not None:
                    line = self._lines.at(action.start)
                    output.add(self._act(action.body.strip(), line))
                position, trim = action.end, action.right
                if len(self.faults) >= _MOST_FAULTS:
                    return ""
            rest = self.text[position:]
            output.add(self._wanted(rest.lstrip() if trim else rest))
        except _TooMuchError as wrong:
            self.faults.append(Fault(f"{self.path}:{line}", str(wrong)))
        for branch in self.branches[: _MOST_FAULTS - len(self.faults)]:
            self.faults.append(Fault(f"{self.path}:{branch.line}", "this if has no end", "{{ end }}"))
        return str(output)

    def _wanted(self, text: str) -> str:
        return "" if self.branches and not self.branches[-1].active else text

    def _act(self, body: str, line: int) -> str:
        word, _, rest = body.partition(" ")
        try:
            if word in ("if", "else", "end"):
                self._branch(word, rest.strip(), line)
                return ""
            if word in ("range", "with", "define", "template", "block", "include"):
                raise _GoError(f"{word} is not supported: an environment has no lists")
            return self._output(body, line) if self._wanted("x") else ""
        except _GoError as wrong:
            hint = f"Jinja can do more: call the file {output_name(self.path)}{JINJA}"
            self.faults.append(Fault(f"{self.path}:{line}", f"{{{{ {_shortened(body)} }}}}: {_shortened(str(wrong))}", hint))
            return ""

    def _branch(self, word: str, rest: str, line: int) -> None:
        if word == "if":
            outer = not self.branches or self.branches[-1].active
            active = outer and _truth(self._evaluate(rest))
            self.branches.append(_Branch(outer, active, active, line))
            return
        if not self.branches:
            raise _GoError("there is no if before it")
        branch = self.branches[-1]
        if word == "end":
            self.branches.pop()
            return
        condition = rest.removeprefix("if").strip()
        branch.active = branch.outer and not branch.taken and (not rest or _truth(self._evaluate(condition)))
        branch.taken = branch.taken or branch.active

    def _output(self, body: str, line: int) -> str:
        value = self._evaluate(body)
        if not isinstance(value, _Undefined):
            return _shown(value)
        if self.missing is not None:
            return self.missing(value.name)
        self.faults.append(_undefined(self.path, line, value.name))
        return ""

    def _evaluate(self, text: str) -> _Value:
        tokens = list(_tokens(text))
        value, position = self._pipeline(tokens, 0, 0)
        if position < len(tokens):
            raise _GoError(f"{tokens[position]!r} is not expected")
        return value

    def _pipeline(self, tokens: Sequence[str], position: int, depth: int) -> tuple[_Value, int]:
        if depth > _DEEPEST:
            raise _GoError("its parentheses are nested too deeply")
        value, position = self._call(tokens, position, [], depth)
        while position < len(tokens) and tokens[position] == "|":
            value, position = self._call(tokens, position + 1, [value], depth)
        return value, position

    def _call(self, tokens: Sequence[str], position: int, piped: list[_Value], depth: int) -> tuple[_Value, int]:
        function = tokens[position] if position < len(tokens) else ""
        if function not in _LENIENT and function not in _STRICT:
            if piped:
                raise _GoError(f"{function!r} is not a function; known: {', '.join(sorted([*_LENIENT, *_STRICT]))}")
            return self._operand(tokens, position, depth)
        arguments: list[_Value] = []
        position += 1
        while position < len(tokens) and tokens[position] not in ("|", ")"):
            value, position = self._operand(tokens, position, depth)
            arguments.append(value)
        return self._apply(function, [*arguments, *piped]), position

    def _apply(self, function: str, arguments: list[_Value]) -> _Value:
        size = sum(len(value) for value in arguments if isinstance(value, str))
        self._work -= size + 1
        if size > self._output_text.limit or self._work < 0:
            raise _TooMuchError("its values are larger than its output may be")
        try:
            if function in _LENIENT:
                return _LENIENT[function](*arguments)
            undefined = next((value for value in arguments if isinstance(value, _Undefined)), None)
            return undefined or _STRICT[function](*(_shown(value) for value in arguments if not isinstance(value, _Undefined)))
        except (TypeError, IndexError, ValueError) as wrong:
            raise _GoError(f"{function} does not take these {len(arguments)} arguments") from wrong

    def _operand(self, tokens: Sequence[str], position: int, depth: int) -> tuple[_Value, int]:
        word = tokens[position] if position < len(tokens) else ""
        if word == "(":
            value, position = self._pipeline(tokens, position + 1, depth + 1)
            if position >= len(tokens) or tokens[position] != ")":
                raise _GoError("a ) is missing")
            return value, position + 1
        if word[:1] in ('"', "`"):
            return _literal(word), position + 1
        if word.lstrip("-").isdigit():
            return word, position + 1
        if word in ("true", "false"):
            return word == "true", position + 1
        name = word.lstrip("$.")
        if not re.fullmatch(r"[A-Za-z_]\w*", name):
            raise _GoError(f"{word!r} is not expected" if word else "something is missing at its end")
        return self.env.get(name, _Undefined(name)), position + 1


def _tokens(text: str) -> Iterator[str]:
    position = 0
    text = text.rstrip()
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _GoError(f"{text[position:].strip()!r} is not understood")
        yield match[0].strip()
        position = match.end()


def _literal(token: str) -> str:
    if token.startswith("`"):
        return token[1:-1]
    escapes = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda match: escapes.get(match[1], match[1]), token[1:-1])


def _shortened(text: str) -> str:
    return text if len(text) <= _SHORT else f"{text[:_SHORT]}..."


# Jinja: there are loops and values that grow, so its templates are evaluated apart


def _jinja(jobs: Sequence[Job]) -> Iterator[str | tuple[Fault, ...]]:
    requests = [
        {"text": job.text, "env": dict(job.env), "stand_in": job.missing and (job.missing.before, job.missing.after)} for job in jobs
    ]
    for job, outcome in zip(jobs, evaluate_apart(requests), strict=True):
        if "faults" in outcome:
            yield tuple(
                Fault(f"{job.path}:{line}", message) if name is None else _undefined(job.path, line, name)
                for line, message, name in outcome["faults"]
            )
            continue
        if job.missing is not None:
            job.missing.names += outcome["missing"]
        yield outcome["text"]


def evaluate_apart(requests: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The outcomes of ``jinja.evaluate``, from a process that takes one request after the other and may die over one."""
    outcomes: list[dict[str, Any]] = []
    while len(outcomes) < len(requests):
        batch: list[str] = []
        size = 0
        for request in requests[len(outcomes) :]:
            size += jinja.limit(request["text"])
            if batch and size > _JINJA_BATCH:
                break
            batch.append(json.dumps(request))
        argv = [sys.executable, "-I", jinja.__file__, str(jinja.SECONDS)]
        answer = process.run(argv, check=False, input="\n".join(batch), timeout=len(batch) * 10 * jinja.SECONDS + 600)
        whole = [line for line in answer.stdout.splitlines(keepends=True) if line.endswith("\n")]
        outcomes += map(json.loads, whole)
        if len(whole) < len(batch):
            message = "it takes more time or memory than a template may"
            if answer.returncode >= 0:
                message = f"it cannot be rendered: {_shortened((answer.stderr.strip().splitlines() or ['no reason'])[-1])}"
            outcomes.append({"faults": [[1, message, None]]})
    return outcomes

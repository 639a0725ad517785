"""Text templates of a rootfs: ``{{ Name }}`` and ``{{ .Name }}`` become what the environment says.

Which language a file is in follows from where it is and how it is called:

- any file under ``manifests/`` and ``etc/``: only those two forms; every other text stays, byte for byte;
- ``*.tmpl``: Go's, as far as values without structure need it: pipelines, ``if``/``else``, ``eq ne and or not default quote b64enc ...``;
- ``*.j2``: Jinja.

Charts are helm's to render: a folder with a ``Chart.yaml`` is left alone.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import dataclasses
import os
import posixpath
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from harness import log
from harness.errors import Fault, InputError

GO, JINJA = ".tmpl", ".j2"

# `{{{ Name }}` is another engine's; `{a: {{ Name }}}` is ours and then a brace of YAML.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{[ \t]*(\.?)([A-Za-z_][A-Za-z0-9_-]*)[ \t]*\}\}")
_ACTION = re.compile(
    r"""\{\{(?P<left>-(?=\s))?
        (?:\s*/\*.*?\*/\s* | (?P<body>(?:"(?:\\.|[^"\\])*" | `[^`]*` | [^{}"`] | \{(?!\{) | \}(?!\}))*?))
        (?P<right>(?<=\s)-)?\}\}""",
    re.DOTALL | re.VERBOSE,
)
_TOKEN = re.compile(r"\s*(?:(\"(?:\\.|[^\"\\])*\"|`[^`]*`)|(-?\d+)|(\$?\.[A-Za-z_]\w*)|([A-Za-z_]\w*)|([()|]))")
_JINJA_DOT = re.compile(r"(\{\{-?\s*)\.(?=[A-Za-z_])")

Missing = Callable[[str], str]
"""What stands for a name that the environment does not have."""


def render(text: str, env: Mapping[str, str], path: str, *, missing: Missing | None = None) -> str:
    """Render the text of one file. ``path`` says by its ending which language it is in, and names the file in faults.

    Raises InputError naming ``path`` and line for every name that is not defined, unless ``missing`` gives a stand-in, and for a template
    that is not understood. In plain files a lower-case ``{{ name }}`` that is not defined stays: such text is Grafana's or Prometheus's
    more often than ours.
    """
    faults: list[Fault] = []
    if path.endswith(GO):
        found = _Go(text, env, path, missing, faults).render()
    elif path.endswith(JINJA):
        found = _jinja(text, env, path, missing, faults)
    else:
        found = _plain(text, env, path, missing, faults)
    if faults:
        raise InputError(faults)
    return found


def output_name(path: str) -> str:
    """What a file is called after rendering: without ``.tmpl`` and ``.j2``."""
    return path.removesuffix(GO).removesuffix(JINJA)


def is_template(path: str) -> bool:
    """Whether the file at this path of a rootfs is rendered at all (charts apart)."""
    return path.endswith((GO, JINJA)) or path.startswith(("manifests/", "etc/"))


def render_tree(root: Path, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]] | None = None) -> list[str]:
    """Render the templates of an unpacked rootfs in place; the output of ``a.yaml.tmpl`` is ``a.yaml`` beside it, with the same mode.

    ``app_env`` is what an application's files (by its name) get on top of ``env``. Returns the paths that were written, relative to
    ``root``, sorted. Nothing is written when there is a fault: raises InputError with all of them.
    """
    faults: list[Fault] = []
    written: dict[str, tuple[str, str]] = {}
    for path in _templates(root):
        text = _text(root / path)
        if text is None:
            continue
        try:
            found = render(text, env_of(path, env, app_env or {}), path)
        except InputError as wrong:
            faults += wrong.faults
            continue
        if output_name(path) != path or found != text:
            written[output_name(path)] = (path, found)
    if faults:
        raise InputError(faults)
    for target, (path, found) in written.items():
        _write(root / target, found, (root / path).stat().st_mode & 0o7777)
    return sorted(written)


def env_of(path: str, env: Mapping[str, str], app_env: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
    """The environment of the file at this path of a rootfs: an application's own comes before everybody's."""
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
    """The text of a file that may hold a placeholder, or None: binary, or without ``{{``. Templates are read in any case."""
    data = path.read_bytes()
    if b"{{" not in data and output_name(path.name) == path.name and b"{%" not in data:
        return None
    try:
        return None if b"\0" in data else data.decode()
    except UnicodeDecodeError:
        return None


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a file in one move: what has the old one linked or open keeps it."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(text.encode())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(name).unlink()
        raise


def _undefined(path: str, line: int, name: str) -> Fault:
    hint = f"-e {name}=VALUE, env in the Clusterfile, or ENV {name}=VALUE in the Kubefile"
    return Fault(f"{path}:{line}", f"{name} is not defined", hint)


def _plain(text: str, env: Mapping[str, str], path: str, missing: Missing | None, faults: list[Fault]) -> str:
    kept: dict[str, int] = {}

    def value(match: re.Match[str]) -> str:
        dot, name = match.groups()
        if name in env:
            return env[name]
        line = text.count("\n", 0, match.start()) + 1
        if not dot and name[0].islower():
            kept.setdefault(name, line)
            return match[0]
        if missing is not None:
            return missing(name)
        faults.append(_undefined(path, line, name))
        return match[0]

    found = _PLACEHOLDER.sub(value, text)
    if kept and missing is None:
        names = ", ".join(f"{{{{ {name} }}}}" for name in kept)
        log.warning(f"{path}:{min(kept.values())}: left as text, since nothing defines it: {names}")
    return found


# Go templates: a reader of their own, small because there are only strings. Translated into Jinja, text that only Jinja marks would change.


@dataclasses.dataclass(frozen=True)
class _Undefined:
    name: str


_Value = str | bool | _Undefined


class _GoError(Exception):
    """What is not understood in an action."""


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
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as wrong:
        raise _GoError(f"b64dec: {value!r} is not base64 of text") from wrong


def _indent(width: str, text: str) -> str:
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
    "b64enc": lambda value: base64.b64encode(value.encode()).decode(),
    "indent": _indent,
    "lower": str.lower,
    "nindent": lambda width, text: "\n" + _indent(width, text),
    "quote": lambda value: '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"',
    "squote": lambda value: f"'{value}'",
    "trim": str.strip,
    "upper": str.upper,
}


class _Go:
    def __init__(self, text: str, env: Mapping[str, str], path: str, missing: Missing | None, faults: list[Fault]) -> None:
        self.text = text
        self.env = env
        self.path = path
        self.missing = missing
        self.faults = faults
        self.branches: list[_Branch] = []

    def render(self) -> str:
        found, position, trim = "", 0, False
        for action in _ACTION.finditer(self.text):
            between = self.text[position : action.start()]
            between = between.lstrip() if trim else between
            found += self._wanted(between.rstrip() if action["left"] else between)
            if action["body"] is not None:
                found += self._act(action["body"].strip(), self._line(action.start()))
            position, trim = action.end(), bool(action["right"])
        rest = self.text[position:]
        found += self._wanted(rest.lstrip() if trim else rest)
        for branch in self.branches:
            self.faults.append(Fault(f"{self.path}:{branch.line}", "this if has no end", "{{ end }}"))
        return found

    def _line(self, position: int) -> int:
        return self.text.count("\n", 0, position) + 1

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
            self.faults.append(Fault(f"{self.path}:{line}", f"{{{{ {body} }}}}: {wrong}", hint))
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
        value, position = self._pipeline(tokens, 0)
        if position < len(tokens):
            raise _GoError(f"{tokens[position]!r} is not expected")
        return value

    def _pipeline(self, tokens: Sequence[str], position: int) -> tuple[_Value, int]:
        value, position = self._call(tokens, position, [])
        while position < len(tokens) and tokens[position] == "|":
            value, position = self._call(tokens, position + 1, [value])
        return value, position

    def _call(self, tokens: Sequence[str], position: int, piped: list[_Value]) -> tuple[_Value, int]:
        function = tokens[position] if position < len(tokens) else ""
        if function not in _LENIENT and function not in _STRICT:
            if piped:
                raise _GoError(f"{function!r} is not a function; known: {', '.join(sorted([*_LENIENT, *_STRICT]))}")
            return self._operand(tokens, position)
        arguments: list[_Value] = []
        position += 1
        while position < len(tokens) and tokens[position] not in ("|", ")"):
            value, position = self._operand(tokens, position)
            arguments.append(value)
        return self._apply(function, [*arguments, *piped]), position

    def _apply(self, function: str, arguments: list[_Value]) -> _Value:
        try:
            if function in _LENIENT:
                return _LENIENT[function](*arguments)
            undefined = next((value for value in arguments if isinstance(value, _Undefined)), None)
            return undefined or _STRICT[function](*(_shown(value) for value in arguments if not isinstance(value, _Undefined)))
        except (TypeError, IndexError, ValueError) as wrong:
            raise _GoError(f"{function} does not take these {len(arguments)} arguments") from wrong

    def _operand(self, tokens: Sequence[str], position: int) -> tuple[_Value, int]:
        word = tokens[position] if position < len(tokens) else ""
        if word == "(":
            value, position = self._pipeline(tokens, position + 1)
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


def _jinja(text: str, env: Mapping[str, str], path: str, missing: Missing | None, faults: list[Fault]) -> str:
    import jinja2
    import jinja2.sandbox

    class StandIn(jinja2.Undefined):
        def __str__(self) -> str:
            return missing(self._undefined_name or "") if missing else ""

    environment = jinja2.sandbox.SandboxedEnvironment(
        undefined=StandIn if missing else jinja2.StrictUndefined,
        keep_trailing_newline=True,
        newline_sequence="\r\n" if "\r\n" in text else "\n",
        autoescape=False,
    )
    encode, decode = _STRICT["b64enc"], _STRICT["b64dec"]
    environment.filters |= {"b64encode": encode, "b64enc": encode, "b64decode": decode, "b64dec": decode, "quote": _STRICT["quote"]}
    try:
        return environment.from_string(_JINJA_DOT.sub(r"\1", text)).render(dict(env))
    except jinja2.TemplateSyntaxError as wrong:
        faults.append(Fault(f"{path}:{wrong.lineno}", wrong.message or "not a Jinja template"))
    except jinja2.UndefinedError as wrong:
        match = re.match(r"'(\w+)' is undefined", wrong.message or "")
        line = _jinja_line(wrong)
        faults.append(_undefined(path, line, match[1]) if match else Fault(f"{path}:{line}", wrong.message or "undefined"))
    except (jinja2.TemplateError, _GoError, TypeError, ValueError) as wrong:
        faults.append(Fault(f"{path}:{_jinja_line(wrong)}", str(wrong)))
    return ""


def _jinja_line(wrong: BaseException) -> int:
    """The template's line in a traceback, which Jinja rewrites so that its frames are the template's."""
    line, trace = 1, wrong.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line

"""Jinja templates of strangers, evaluated within limits.

As a program it is the process that a template may bring down: each line of standard input is a request, each line of standard output
its outcome. It imports nothing of this package, so that it starts quickly.

request  {"text", "env", "stand_in": [before, after] or null}
outcome  {"text", "missing": names that a stand-in took the place of} or {"faults": [[line, message, undefined name or null]]}
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jinja2
import jinja2.sandbox
from jinja2.runtime import Context

SECONDS = 10
"""Processor time for a template."""
MEMORY = 256 << 20
"""Address space of the process, in bytes; an ordinary template leaves it at a fifth of that."""

_DOT = re.compile(r"(\{\{-?\s*)\.(?=[A-Za-z_])")
_LARGEST = 4 << 20
"""Characters or items of a value."""
_LARGEST_NUMBER = 4096
"""Bits."""
_WIDEST = 10_000
"""Columns that a value may be padded to."""
_MOST_STEPS = 1_000_000
"""Numbers that all ranges of a template give together."""
_WIDE = re.compile(r"\d{5}|\*")
_MESSAGE = 300


def limit(text: str) -> int:
    """Characters that a template may render to: enough for any file of a rootfs, and in proportion to large ones."""
    return (1 << 20) + 10 * len(text)


def encode(value: str) -> str:
    """Base64 of a text."""
    return base64.b64encode(value.encode()).decode()


def decode(value: str) -> str:
    """The text that is encoded in base64. Raises ValueError."""
    try:
        return base64.b64decode(value, validate=True).decode()
    except (binascii.Error, UnicodeError) as wrong:
        raise ValueError(f"b64dec: {value[:_MESSAGE]!r} is not base64 of text") from wrong


def quote(value: object) -> str:
    """A text in double quotes."""
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def evaluate(text: str, env: Mapping[str, str], stand_in: tuple[str, str] | None) -> dict[str, Any]:
    """Render a template; returns the outcome, never raises for what a template does.

    Values, padding, ranges and the output are bounded here; time and memory are by the limits of the process.
    """
    missing: list[str] = []
    environment = _environment(text, stand_in, missing)
    try:
        rendered: list[str] = []
        room = limit(text)
        for part in environment.from_string(_DOT.sub(r"\1", text)).generate(dict(env)):
            room -= len(part)
            if room < 0:
                return _fault(1, f"it renders to more than {limit(text)} characters")
            rendered.append(part)
        whole = "".join(rendered)
        whole.encode()
        return {"text": whole, "missing": missing}
    # Expressions of a template raise whatever Python's operators and built-in types do.
    except Exception as wrong:
        return _fault(*_reason(wrong))


def _reason(wrong: Exception) -> tuple[int, str, str | None]:
    """Line, message, and the name that is not defined."""
    line = wrong.lineno if isinstance(wrong, jinja2.TemplateSyntaxError) else _line(wrong)
    name = None
    message = str(wrong) or type(wrong).__name__
    if isinstance(wrong, jinja2.TemplateError):
        message = wrong.message or message
    if isinstance(wrong, jinja2.UndefinedError):
        match = re.match(r"'(\w+)' is undefined", message)
        name = match[1] if match else None
    elif isinstance(wrong, MemoryError):
        message = "it takes more memory than a template may"
    elif isinstance(wrong, RecursionError):
        message = "it is nested too deeply"
    return line, message, name


def _fault(line: int, message: str, name: str | None = None) -> dict[str, Any]:
    return {"faults": [[line, message[:_MESSAGE], name]]}


class _Environment(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Jinja's own sandbox, with limits for what grows."""

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        size = 0
        if operator == "%" and isinstance(left, str):
            _check_format(left)
        elif operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            size = len(left) + len(right)
        elif operator == "*":
            size = _product(left, right)
        elif operator == "**":
            size = _power(left, right)
        if size > _LARGEST:
            raise OverflowError(f"{operator} makes a value that is too large")
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, function: Any, *args: Any, **kwargs: Any) -> Any:
        method = getattr(function, "__wrapped__", function)  # Jinja wraps the ``format`` of a text
        if isinstance(getattr(method, "__self__", None), str):
            _check_numbers(*args, *kwargs.values())
            if getattr(method, "__name__", "") in ("format", "format_map"):
                _check_format(method.__self__)
        return super().call(context, function, *args, **kwargs)


def _product(left: Any, right: Any) -> int:
    """The size of a product, as far as it has one; numbers count as too large beyond _LARGEST_NUMBER bits."""
    for one, other in ((left, right), (right, left)):
        if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
            return len(one) * other
    if isinstance(left, int) and isinstance(right, int) and left.bit_length() + right.bit_length() > _LARGEST_NUMBER:
        return _LARGEST + 1
    return 0


def _power(left: Any, right: Any) -> int:
    bits = left.bit_length() if isinstance(left, int) else 0
    return _LARGEST + 1 if isinstance(right, int | float) and math.isfinite(right) and bits * right > _LARGEST_NUMBER else 0


def _check_format(text: str) -> None:
    if _WIDE.search(text):
        raise OverflowError("a format pads to more columns than it may")


def _check_numbers(*values: object) -> None:
    if any(isinstance(value, int | float) and abs(value) > _WIDEST for value in values):
        raise OverflowError(f"numbers up to {_WIDEST} are taken here")


def _bounded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that takes numbers up to _WIDEST only."""

    def bounded(value: Any, *args: Any, **kwargs: Any) -> Any:
        _check_numbers(*args, *kwargs.values())
        return function(value, *args, **kwargs)

    return bounded


def _format(value: Any, *args: Any, **kwargs: Any) -> str:
    _check_format(str(value))
    return str(jinja2.filters.do_format(value, *args, **kwargs))


def _environment(text: str, stand_in: tuple[str, str] | None, missing: list[str]) -> _Environment:
    class _NamedUndefined(jinja2.Undefined):
        def __str__(self) -> str:
            name = str(self._undefined_name or "")
            missing.append(name)
            return name.join(stand_in or ("", ""))

    environment = _Environment(
        undefined=_NamedUndefined if stand_in else jinja2.StrictUndefined,
        keep_trailing_newline=True,
        newline_sequence="\r\n" if "\r\n" in text else "\n",
        autoescape=False,
        cache_size=0,
    )
    steps = _MOST_STEPS

    def numbers(*args: int) -> range:
        nonlocal steps
        result = range(*args)
        steps -= len(result)
        if steps < 0:
            raise OverflowError(f"the ranges of a template give more than {_MOST_STEPS} numbers")
        return result

    environment.globals["range"] = numbers
    environment.globals.pop("lipsum", None)
    environment.filters |= {"b64encode": encode, "b64enc": encode, "b64decode": decode, "b64dec": decode, "quote": quote, "format": _format}
    for name in ("center", "indent"):
        environment.filters[name] = _bounded(environment.filters[name])
    return environment


def _line(wrong: BaseException) -> int:
    """The template's line in a traceback, which Jinja rewrites so that its frames are the template's."""
    line, trace = 1, wrong.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<template>":
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


def main(seconds: int) -> None:
    """Answer the requests of standard input. The kernel ends the process over one that takes more than ``seconds``."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    for request in sys.stdin:
        used = resource.getrusage(resource.RUSAGE_SELF)
        end = math.ceil(used.ru_utime + used.ru_stime) + seconds
        resource.setrlimit(resource.RLIMIT_CPU, (end if most == resource.RLIM_INFINITY else min(end, most), most))
        sys.stdout.write(json.dumps(evaluate(**json.loads(request))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]))

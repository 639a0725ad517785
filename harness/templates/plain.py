"""Files with ``{{ Name }}`` and ``{{ .Name }}``, in which every other text stays."""

from __future__ import annotations

import re
from collections.abc import Mapping

from harness import log
from harness.errors import Fault
from harness.templates.job import StandIn
from harness.templates.output import MOST_FAULTS, LimitedOutput, LineNumbers, TooMuchError, undefined

# `{{{ Name }}` is another engine's; `{a: {{ Name }}}` is ours and then a brace of YAML.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{[ \t]*(\.?)([A-Za-z_][A-Za-z0-9_-]*)[ \t]*\}\}")


def render_plain(text: str, env: Mapping[str, str], path: str, missing: StandIn | None, faults: list[Fault]) -> str:
    kept: dict[str, int] = {}
    output, lines, end = LimitedOutput(text), LineNumbers(text), 0
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
                faults.append(undefined(path, lines.at(match.start()), name))
                if len(faults) >= MOST_FAULTS:
                    return ""
        output.add(text[end:])
    except TooMuchError as wrong:
        faults.append(Fault(f"{path}:{lines.at(end)}", str(wrong)))
        return ""
    if kept and missing is None:
        names = ", ".join(f"{{{{ {name} }}}}" for name in list(kept)[:MOST_FAULTS])
        log.warning(f"{path}:{min(kept.values())}: left as text, since nothing defines it: {names}")
    return str(output)

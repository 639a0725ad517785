"""Files with ``{{ Name }}`` and ``{{ .Name }}``, in which every other text stays.

Such files hold templates of others as well: Alertmanager's, Grafana's, Argo's, Istio's. This is the rule that keeps them apart:

1. A name that is declared is slipway's, in both forms and anywhere in the file. ENV, the Clusterfile (also for one host only), ``-e`` and
   the image's own list (``etc/values.schema.json`` and what 2 finds) declare names.
2. In a YAML or JSON file, ``{{ Name }}`` without a dot that is a whole scalar, neither in quotes nor in a block, is an expected value:
   such a text means nothing to Kubernetes, so only a value can be meant.
3. All else stays byte for byte.

Files whose names end with ``.tmpl`` and ``.j2`` are slipway's as a whole: see ``go`` and ``jinja``.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterator
from typing import NamedTuple

from harness import untrusted
from harness.errors import Fault
from harness.templates.job import Job
from harness.templates.output import MOST_FAULTS, LimitedOutput, LineNumbers, TooMuchError, undefined

# `{{{ Name }}` is another engine's; `{a: {{ Name }}}` is ours and then a brace of YAML.
_PLACEHOLDER = re.compile(r"(?<!\{)\{\{[ \t]*(\.?)([A-Za-z_][A-Za-z0-9_-]*)[ \t]*\}\}")
YAML_ENDINGS = (".yaml", ".yml", ".json")
_KEYWORDS = frozenset({"break", "continue", "else", "end", "endfor", "endif"})
"""Actions of other template languages that look like a name."""
_FILLER = "\ue000"
"""A letter that no file has: placeholders are replaced by it before YAML's scanner reads the file, which keeps all positions."""


class Placeholder(NamedTuple):
    start: int
    end: int
    name: str
    dot: bool
    whole: bool = False
    """It is a scalar of its own, neither in quotes nor in a block."""
    keys: tuple[str, ...] = ()
    """The keys around the scalar that it stands in, the innermost last; none where the file is not YAML."""

    @property
    def expected(self) -> bool:
        """It is slipway's although nothing declares it."""
        return self.whole and not self.dot and self.name not in _KEYWORDS


def may_be_meant(placeholder: Placeholder, path: str) -> bool:
    """Return whether a placeholder that stays as text, since nothing declares it, may be slipway's: a capital outside of YAML."""
    return not placeholder.dot and placeholder.name[0].isupper() and not path.lower().endswith(YAML_ENDINGS)


def placeholders(text: str, path: str, declared: Container[str] = ()) -> list[Placeholder]:
    """The placeholders of a file, in order. Their places are read only when one of them is not declared."""
    all_placeholders = [Placeholder(*match.span(), match[2], bool(match[1])) for match in _PLACEHOLDER.finditer(text)]
    if path.lower().endswith(YAML_ENDINGS) and any(placeholder.name not in declared for placeholder in all_placeholders):
        return list(_placed(all_placeholders, text, path))
    return all_placeholders


def _placed(all_placeholders: list[Placeholder], text: str, path: str) -> Iterator[Placeholder]:
    """The placeholders with their places in YAML, up to the first thing that is not YAML; the others as they are."""
    # JSON may be indented with tabs, YAML may not.
    plain = text.replace("\t", " ") if path.lower().endswith(".json") else text
    scalars = untrusted.yaml_scalars(_PLACEHOLDER.sub(lambda match: _FILLER * len(match[0]), plain))
    scalar = next(scalars, None)
    for placeholder in all_placeholders:
        while scalar is not None and scalar.end < placeholder.end:
            scalar = next(scalars, None)
        if scalar is None or placeholder.start < scalar.start:
            yield placeholder
            continue
        whole = scalar.plain and scalar.entry and (scalar.start, scalar.end) == (placeholder.start, placeholder.end)
        yield placeholder._replace(whole=whole, keys=scalar.keys)


def render_plain(job: Job, faults: list[Fault]) -> str:
    text, path = job.text, job.path
    output, lines, end = LimitedOutput(text), LineNumbers(text), 0
    try:
        for placeholder in placeholders(text, path, job.env):
            name = placeholder.name
            output.add(text[end : placeholder.start])
            end = placeholder.end
            if name in job.env:
                output.add(job.env[name])
            elif not placeholder.expected and name not in job.declared:
                output.add(text[placeholder.start : end])
            elif job.missing is not None:
                output.add(job.missing(name))
            else:
                faults.append(undefined(path, lines.at(placeholder.start), name))
                if len(faults) >= MOST_FAULTS:
                    return ""
        output.add(text[end:])
    except TooMuchError as wrong:
        faults.append(Fault(f"{path}:{lines.at(end)}", str(wrong)))
        return ""
    return str(output)

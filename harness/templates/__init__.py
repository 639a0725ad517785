"""Text templates of a rootfs: ``{{ Name }}`` and ``{{ .Name }}`` become what the environment says.

Which language a file is in follows from where it is and how it is called:

- any file under ``manifests/`` and ``etc/``: only those two forms, of names that ``plain`` says are slipway's; every other text stays, byte
  for byte;
- ``*.tmpl``: Go's, as far as values without structure need it: pipelines, ``if``/``else``, ``eq ne and or not default quote b64enc ...``;
- ``*.j2``: Jinja.

Charts are helm's to render: a folder with a ``Chart.yaml`` is left alone.

Templates may come from strangers. Each renders to at most 1 MiB and ten times its size, in time and memory in proportion to that: the
first two languages because there is nothing in them that grows, Jinja in a process of its own with limits (``jinja``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.errors import Fault, InputError
from harness.templates.go import GoTemplate
from harness.templates.jinja_process import render_jinja
from harness.templates.job import GO, JINJA, Job, StandIn
from harness.templates.plain import render_plain


def render(text: str, env: Mapping[str, str], path: str, *, missing: StandIn | None = None) -> str:
    """Render the text of one file. ``path`` says by its ending which language it is in, and names the file in faults.

    Raises InputError naming ``path`` and line for every name that is not defined, unless ``missing`` gives a stand-in, and for a template
    that is not understood or renders to more than it may. Which undefined names of a plain file stay as text says ``plain``.
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
        go = GoTemplate(job.text, job.env, job.path, job.missing, faults) if job.path.endswith(GO) else None
        text = render_plain(job, faults) if go is None else go.render()
        outcomes[index] = tuple(faults) if faults else text
    foreign = [index for index in range(len(jobs)) if index not in outcomes]
    outcomes |= zip(foreign, render_jinja([jobs[index] for index in foreign]), strict=True)
    return [outcomes[index] for index in range(len(jobs))]

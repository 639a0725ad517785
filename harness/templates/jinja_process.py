"""Jinja templates: there are loops and values that grow, so they are evaluated in a process of their own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness import process
from harness.errors import Fault
from harness.templates import jinja
from harness.templates.job import Job
from harness.templates.output import shortened, undefined

_JINJA_BATCH = 16 << 20
"""Characters that the templates of one process may render to."""


# Jinja: there are loops and values that grow, so its templates are evaluated apart


def render_jinja(jobs: Sequence[Job]) -> Iterator[str | tuple[Fault, ...]]:
    requests = [
        {"text": job.text, "env": dict(job.env), "stand_in": job.missing and (job.missing.before, job.missing.after)} for job in jobs
    ]
    for job, outcome in zip(jobs, evaluate_apart(requests), strict=True):
        if "faults" in outcome:
            yield tuple(
                Fault(f"{job.path}:{line}", message) if name is None else undefined(job.path, line, name)
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
                message = f"it cannot be rendered: {shortened((answer.stderr.strip().splitlines() or ['no reason'])[-1])}"
            outcomes.append({"faults": [[1, message, None]]})
    return outcomes

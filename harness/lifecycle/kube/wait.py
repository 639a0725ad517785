"""The wait until everything in a cluster is ready and stays so."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

from harness import log
from harness.errors import CheckError, CommandError, SlipwayError
from harness.lifecycle.kube import readiness
from harness.lifecycle.kube.readiness import KubectlRunner, Problem, Resource

_HEALED = 15
"""Seconds without a change after which ``heal`` is called less often: most kubelets have looked by themselves."""
_HEAL_SELDOM = 5
"""Seconds between two calls of ``heal`` then, for what starts slowly."""


def settle(
    kubectl: KubectlRunner,
    *,
    timeout: float = 600,
    quiet: float = 3,
    quiet_share: float = 0,
    stuck: float = 120,
    namespaces: Iterable[str] = (),
    nodes: Iterable[str] = (),
    interval: float = 1,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
    progress: Callable[[str], None] = lambda _: None,
    heal: Callable[[Sequence[Resource]], None] = lambda _: None,
    but: Collection[str] = (),
) -> tuple[Resource, ...]:
    """Wait until every workload is ready and nothing has appeared, changed or restarted for ``quiet`` seconds; return the objects then.

    With ``quiet_share`` also for that share of the time that passed until the last change: where a cluster is slow, so is what makes
    more workloads in it.

    All times are seconds. Raises CheckError with every problem, its events and logs: after ``timeout``; at once for what waiting does
    not heal (a failed Job, an impossible image name); or when for ``stuck`` seconds all that is missing is images that cannot be
    pulled, containers that keep failing, nodes short of space or pods that fit nowhere. An API that does not answer yet is waited for
    like any workload, and so are ``nodes`` that have not registered. Static pods need only run. ``namespaces`` limits the wait.
    ``heal`` is given the objects while something is missing, less often once nothing changes. ``but`` are titles as
    ``readiness.ailing`` gives them, of workloads that need not become ready.
    """
    names, expected = tuple(namespaces), frozenset(nodes)
    started = clock()
    quiet_since = moved = changed = healed = started
    before: frozenset[tuple[Any, ...]] | None = None
    restless = True
    while True:
        trouble: SlipwayError | None = None
        items: tuple[Resource, ...] = ()
        try:
            items = _without(readiness.within(readiness.get(kubectl), names), but)
        except SlipwayError as error:
            trouble = error
        now = clock()
        if trouble is None:
            problems = (*_missing_nodes(items, expected), *readiness.not_ready(items, static=False))
        else:
            problems = (Problem("the cluster", f"does not answer: {trouble.message}", "Silent"),)
        signature = _signature(items)
        if problems or signature != before or restless:
            quiet_since = now
        restless = bool(problems)
        if signature != before:
            changed = now
        if not (problems and all(problem.cause in readiness.STUCK for problem in problems)):
            moved = now
        before = signature
        if not problems and now - quiet_since >= max(quiet, quiet_share * (quiet_since - started)):
            return items
        progress(_summary(problems))
        if problems and items and (now - changed <= _HEALED or now - healed >= _HEAL_SELDOM):
            heal(items)
            healed = now
        late, final = now - started >= timeout, any(problem.final for problem in problems)
        if late or final or now - moved >= stuck:
            if trouble is None:
                problems = (*_missing_nodes(items, expected), *readiness.explain(kubectl, items, static=False))
            raise _unsettled(problems, late=late, final=final, waited=now - started)
        sleep(interval)


def nudge(kubectl: KubectlRunner, items: Iterable[Resource]) -> None:
    """Have kubelets look at once at pods that they would look at after seconds: they do when something about a pod changes."""
    for namespace, names in readiness.waiting_for_kubelet(items).items():
        try:
            kubectl.run("annotate", "pod", *names, f"--namespace={namespace}", "--overwrite", f"slipway.dev/woken={time.time():.0f}")
        except CommandError as error:
            log.debug(f"{', '.join(names)} not woken: {error.message}")


def _without(items: Sequence[Resource], but: Collection[str]) -> tuple[Resource, ...]:
    by_uid = readiness.by_uid(items) if but else {}
    return tuple(item for item in items if not but or readiness.maker(item, by_uid) not in but)


def _signature(items: Iterable[Resource]) -> frozenset[tuple[Any, ...]]:
    """Objects, their versions, restarts and states of containers: what must stop changing."""
    marks: set[tuple[Any, ...]] = set()
    for item in items:
        meta, status = item["metadata"], item.get("status", {})
        restarts = tuple(container.get("restartCount") for container in status.get("containerStatuses") or ())
        marks.add((item.get("kind"), meta.get("uid"), meta.get("generation"), status.get("phase"), restarts))
    return frozenset(marks)


def _missing_nodes(items: Iterable[Resource], expected: frozenset[str]) -> tuple[Problem, ...]:
    names = {node["metadata"]["name"] for node in readiness.of_kind(items, "Node")}
    return tuple(
        Problem(f"Node {name}", "has not registered: its kubelet cannot reach the API", "NodeMissing") for name in sorted(expected - names)
    )


def _summary(problems: Sequence[Problem]) -> str:
    if not problems:
        return "all ready"
    more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"waiting for {problems[0].object}{more}"


def _unsettled(problems: Sequence[Problem], *, late: bool, final: bool, waited: float) -> CheckError:
    if not problems:
        return CheckError(
            f"the cluster keeps changing: not quiet after {waited:.0f} s", hint="something restarts or is replaced again and again"
        )
    count = f"{len(problems)} object{'s are' if len(problems) > 1 else ' is'} not ready"
    why = "and will not become so" if final else f"after {waited:.0f} s" if late else f"and nothing has moved for a while ({waited:.0f} s)"
    first = problems[0]
    return CheckError(f"{count} {why}: {first.object}: {first.reason}", details="\n".join(str(problem) for problem in problems))

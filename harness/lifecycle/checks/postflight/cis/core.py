"""The registry of the items, and the verdicts that several modules of items share."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence

from harness.lifecycle.checks.findings import Check, Finding, Verdict, failed, ok, unknown
from harness.lifecycle.checks.postflight.cis.facts import FileState, MachineState, Secured
from harness.runtimes.profiles import CIPHERS

Rule = Callable[[Secured], Iterable[tuple[str, Verdict]]]
"""Verdicts, each with its place: the address of a node, or the cluster."""
Bad = Callable[[str, str], Verdict]
"""``failed`` or ``warning``."""

CHECKS: dict[str, Check] = {"access": Check("access", "way in", "slipway can log in to every node of the cluster")}
"""By number in the benchmark, in its order."""
RULES: dict[str, Rule] = {}

API, CONTROLLERS, SCHEDULER, ETCD = "kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"
_STRONG = frozenset(
    {f"TLS_ECDHE_{key}_WITH_CHACHA20_POLY1305{more}" for key in ("ECDSA", "RSA") for more in ("", "_SHA256")}
    | {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", *CIPHERS}
)


def evaluate(facts: Secured) -> tuple[Finding, ...]:
    """All findings about the cluster, good and bad."""
    findings = []
    for address in facts.roles:
        reason = facts.unreachable.get(address)
        verdict = ok("answers") if reason is None else failed(reason.removeprefix(f"{address}: "), "it could not be asked")
        findings.append(Finding.of("access", address, verdict))
    return (*findings, *(Finding.of(number, where, verdict) for number, rule in RULES.items() for where, verdict in rule(facts)))


def item(number: str, title: str, why: str, rule: Rule) -> None:
    """Register an item of the benchmark."""
    CHECKS[number] = Check(number, title, why)
    RULES[number] = rule


def _matching(state: MachineState, patterns: Sequence[str]) -> dict[str, FileState]:
    # A pattern means one folder: its * does not descend.
    return {
        path: file
        for path, file in state.files.items()
        if any(fnmatch.fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)
    }


def file_items(
    mode_item: str, owner_item: str, what: str, patterns: Sequence[str], most: int, *, nodes: bool = False, bad: Bad = failed
) -> None:
    """Register the two items of one kind of file: its mode, and its owner. ``nodes``: of every node, not of the control plane only."""

    def of(facts: Secured, judge: Callable[[dict[str, FileState]], Verdict]) -> Iterable[tuple[str, Verdict]]:
        for address in facts.machines if nodes else facts.control_plane:
            matching = _matching(facts.machines[address], patterns)
            yield address, judge(matching) if matching else unknown(f"has no {patterns[0]}")

    def modes(matching: dict[str, FileState]) -> Verdict:
        wide = {path: file for path, file in matching.items() if file.mode & ~most}
        if not wide:
            return ok(f"{max(file.mode for file in matching.values()):o}")
        return bad(_listed(wide, lambda file: f"{file.mode:o}"), f"chmod {most:o} {' '.join(wide)}")

    def owners(matching: dict[str, FileState]) -> Verdict:
        others = {path: file for path, file in matching.items() if file.owner != "root:root"}
        if not others:
            return ok("root:root")
        return bad(_listed(others, lambda file: file.owner), f"chown root:root {' '.join(others)}")

    if mode_item:
        item(mode_item, f"{what}: mode", f"{what}: {most:o} or less", lambda facts: of(facts, modes))
    if owner_item:
        item(owner_item, f"{what}: owner", f"{what}: root:root", lambda facts: of(facts, owners))


def _listed(files: Mapping[str, FileState], tell: Callable[[FileState], str]) -> str:
    path, file = next(iter(files.items()))
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{path} is {tell(file)}{more}"


def short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def strong(ciphers: str | None) -> bool:
    """Return whether a list of cipher suites is given, and all of them are strong."""
    return bool(ciphers) and set((ciphers or "").split(",")) <= _STRONG

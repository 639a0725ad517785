"""Preflight checks of machines: questions, warnings and skipped checks."""

from __future__ import annotations

import pytest

from harness.errors import NodeError, UsageError
from harness.lifecycle.checks.findings import Result, skip
from harness.lifecycle.checks.preflight import CHECKS, ProbeResult, Target, evaluate, gather
from tests.unit.lifecycle.checks.machines import (
    ODD,
    SAID,
    WANTED_HERE,
    target,
)
from tests.unit.lifecycle.standin import StandIn


def odd_answers() -> list[str]:
    """What a machine says, with each line's value, and each of its words, replaced by odd ones; and cut at odd places."""
    lines = SAID.splitlines()
    found = []
    for index, line in enumerate(lines):
        key, *words = line.split(" ")
        for odd in ODD:
            variants = [f"{key} {odd}", f"{key}{odd}", *(" ".join([key, *words[:at], odd, *words[at + 1 :]]) for at in range(len(words)))]
            found += ["\n".join([*lines[:index], other, *lines[index + 1 :]]) for other in variants]
        found.append("\n".join(lines[:index]))
    return found


def test_gather_unreadable_facts_raise_node_error_with_address() -> None:
    with pytest.raises(NodeError, match=r"10\.0\.0\.1: its facts cannot be read"):
        gather.gather([StandIn()])


def test_require_warnings_only_are_shown_merged_and_do_not_stop(capsys: pytest.CaptureFixture[str]) -> None:
    found = evaluate([target(cpus=1), target("10.0.0.2", cpus=1)], WANTED_HERE)
    assert gather.require(found) == f"{len(CHECKS) - 1} checks on 2 machines"
    said = capsys.readouterr().err
    assert said.count("one processor") == 1
    assert "10.0.0.1, 10.0.0.2: has one processor (two make a cluster usable) [cpu]" in said


def test_skipped_check_stops_no_run_and_is_shown() -> None:
    found = evaluate([target(memory=1)], WANTED_HERE)
    gather.require(found, gather.skipping(["swap, memory"]))
    skipped = [one for one in skip(found, ["memory", "cpu"]) if one.result is Result.SKIPPED]
    assert [one.message for one in skipped] == ["has 0 MiB of memory: too small"]
    with pytest.raises(UsageError, match="--skip-check memry: no such check") as caught:
        gather.skipping(["memry"])
    assert caught.value.hint == "did you mean memory?"
    with pytest.raises(UsageError, match="cannot be skipped"):
        gather.skipping(["cluster"])


def test_ask_odd_machine_output_is_parsed_or_raises_node_error() -> None:
    understood = 0
    for text in odd_answers():
        node = StandIn("10.0.0.1")
        node.answers = {"uname -n": text}
        try:
            facts = gather.ask(node)
        except NodeError:
            continue
        understood += 1
        evaluate([Target("10.0.0.1", "control-plane", facts, ProbeResult(syncs=(0.001,) * 20))], WANTED_HERE)
    assert understood > 1000

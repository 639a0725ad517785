"""Hints for steps that fail."""

from __future__ import annotations

from harness.build import run_steps


def test_a_step_that_fails_by_itself_has_no_hint_about_networks() -> None:
    assert run_steps.network_hint("make: *** [all] Error 2", run_steps.BRIDGE) is None


def test_network_hint_of_a_step_that_reaches_nothing_names_the_option() -> None:
    refused = "curl: (7) Failed to connect to 127.0.0.1 port 80"
    assert "--network host" in str(run_steps.network_hint(refused, run_steps.BRIDGE))
    assert run_steps.network_hint(refused, run_steps.HOST) is None


def test_program_for_another_processor_is_recognized() -> None:
    assert run_steps.is_foreign_program("exec /bin/sh: Exec format error")
    assert not run_steps.is_foreign_program("exec /bin/sh: no such file")

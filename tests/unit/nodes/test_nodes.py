"""Work on many nodes at once: everything is tried, everything that failed is told."""

from __future__ import annotations

import threading

import pytest

from harness.errors import CommandError, NodeError
from harness.nodes import each
from tests.waiting import HANG


def test_each_returns_values_in_item_order_not_completion_order() -> None:
    second_done = threading.Event()

    def action(item: int) -> int:
        if item == 1:
            assert second_done.wait(HANG)
        else:
            second_done.set()
        return item * 10

    assert each([1, 2], action) == [10, 20]
    assert each([], action) == []


def test_each_single_failure_is_raised_unchanged() -> None:
    failure = CommandError("one: failed", hint="look")

    def action(item: int) -> None:
        if item == 2:
            raise failure

    with pytest.raises(CommandError) as caught:
        each([1, 2, 3], action)
    assert caught.value is failure


def test_each_several_failures_raise_one_error_with_all_messages() -> None:
    tried: list[str] = []

    def action(item: str) -> None:
        tried.append(item)
        raise CommandError(f"{item}: failed", hint="look there", details=f"said {item}")

    with pytest.raises(CommandError) as caught:
        each(["a", "b"], action)
    assert sorted(tried) == ["a", "b"]
    assert caught.value.message == "a: failed\nb: failed"
    assert caught.value.hint == "look there"
    assert "said a" in str(caught.value.details)


def test_each_mixed_failures_with_unreachable_node_raises_node_error() -> None:
    def action(item: int) -> None:
        raise NodeError("gone") if item else CommandError("failed")

    with pytest.raises(NodeError) as caught:
        each([0, 1], action)
    assert caught.value.exit_code == 5


def test_each_unexpected_exception_is_raised_over_expected_failures() -> None:
    def action(item: int) -> None:
        raise KeyError("bug") if item else CommandError("failed")

    with pytest.raises(KeyError):
        each([0, 1], action)

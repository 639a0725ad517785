"""The record of the last upgrade or rollback of a cluster."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from harness.errors import NodeError
from harness.lifecycle.cluster import change
from harness.lifecycle.cluster.change import DONE, UPGRADE, Move, Version
from harness.nodes.kubectl import NodeKubectl
from tests.unit.lifecycle.standin import StandIn

MOVE = Move.new(UPGRADE, Version("web:1", "sha256:1", "v1.36.3"), Version("web:2", "sha256:2", "v1.37.0"))


def stored(move: Any) -> NodeKubectl:
    node = StandIn()
    node.answers = {"get configmap": json.dumps({"metadata": {}, "data": {"move": json.dumps(move)}})}
    return NodeKubectl(node)


def test_read_returns_the_change_that_was_stored() -> None:
    assert change.read(stored(dataclasses.asdict(MOVE))) == MOVE


def test_read_without_a_record_is_none() -> None:
    assert change.read(NodeKubectl(StandIn())) is None


@pytest.mark.parametrize("move", [{"id": "1"}, {**dataclasses.asdict(MOVE), "more": 1}, {**dataclasses.asdict(MOVE), "before": None}])
def test_read_of_a_record_of_another_version_is_refused(move: Any) -> None:
    with pytest.raises(NodeError, match="is not understood") as caught:
        change.read(stored(move))
    assert caught.value.hint == "was it made by another version?"


@pytest.mark.parametrize(("state", "expected"), [(MOVE.state, True), (DONE, False)])
def test_unfinished_returns_change_only_while_it_runs(state: str, expected: bool) -> None:
    assert (change.unfinished(stored(dataclasses.asdict(dataclasses.replace(MOVE, state=state)))) is not None) is expected

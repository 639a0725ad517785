"""Probes between machines, and their listeners."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from harness.errors import NodeError
from harness.lifecycle.checks.preflight import ProbeResult, probes
from tests.unit.lifecycle.checks.machines import (
    DUAL,
    ODD,
    WANTED_HERE,
    both,
    other_of_both,
    target,
)
from tests.unit.lifecycle.standin import StandIn


def test_parse_and_listening_ignore_invalid_lines_of_probe_output() -> None:
    found = probes.parse("reach 10.0.0.2 6443 ok\nreach 10.0.0.2 x ok\npacket 10.0.0.2 no\nsync 0.0004\nsync much\nbash: no\n")
    assert found == ProbeResult({("10.0.0.2", 6443): "ok"}, frozenset(), (0.0004,), {"10.0.0.2": False})
    listener = probes.listening("perl: warning\nlistening 812 6443 2379 udp\n")
    assert (listener.pid, listener.ports, listener.udp) == (812, {6443, 2379}, True)  # type: ignore[union-attr]
    assert probes.listening("") is None


def test_probed_listeners_are_stopped_after_success_and_lost_connection() -> None:
    first, second = StandIn("10.0.0.1"), StandIn("10.0.0.2")
    for node in (first, second):
        node.answers = {"IO::Socket": "listening 812 6443 10250 udp\n", "reach()": "reach 10.0.0.2 10250 ok\n"}
    nodes: Any = {node.address: node for node in (first, second)}
    found = probes.probed(nodes, [target(probe=ProbeResult()), target("10.0.0.2", "worker", ProbeResult())], WANTED_HERE)
    assert found[0].probe == ProbeResult({("10.0.0.2", 10250): "ok"}, frozenset({6443, 10250}))
    assert "kill 812" in first.commands[-1]
    assert "reach 10.0.0.2 10250 &" in first.commands[1]
    assert "packet 10.0.0.2 8472 &" in first.commands[1]
    # Only control-plane nodes have etcd; what a worker needs nobody for is not tried from it.
    assert "dsync" in first.commands[1]
    assert "dsync" not in second.commands[1]

    def lost() -> str:
        raise NodeError("10.0.0.2: the connection was lost")

    second.answers["reach()"] = lost
    first.commands.clear()
    with pytest.raises(NodeError):
        probes.probed(nodes, [target(), target("10.0.0.2", "worker")], WANTED_HERE)
    assert "kill 812" in first.commands[-1]


def test_probed_existing_cluster_runs_no_command() -> None:
    node = StandIn()
    probes.probed({node.address: node}, [target()], dataclasses.replace(WANTED_HERE, ours=frozenset({"10.0.0.1"})))
    assert node.commands == []


def test_probed_dual_stack_pod_packets_are_tried_by_both_families() -> None:
    nodes = {address: StandIn(address) for address in ("10.0.0.1", "10.0.0.2")}
    for address, node in nodes.items():
        node.answers = {f"slipway-listens fd00:1::{address[-1]} 8472": "listening 813 udp\n", "IO::Socket": "listening 812 6443 udp\n"}
    probes.probed(nodes, [both(), other_of_both()], DUAL)
    commands = nodes["10.0.0.1"].commands
    assert [command for command in commands if "packet 10.0.0.2 8472 &" in command and "packet fd00:1::2 8472 &" in command]
    assert commands[-1].startswith("kill 812 813 ")


def test_parse_and_listening_odd_words_are_ignored() -> None:
    for odd in ODD:
        for line in (
            f"listening {odd}",
            f"listening 812 {odd}",
            f"reach 10.0.0.1 {odd} ok",
            f"reach {odd} 1 ok",
            f"sync {odd}",
            f"packet {odd}",
            odd,
        ):
            probes.parse(line)
            probes.listening(line)
    assert probes.listening("listening 8²") is None
    assert probes.listening("listening 1 22") is None
    assert probes.listening("listening 812 22 8² 70000 udp") == probes.Listener(812, frozenset({22}), True)
    assert probes.parse("reach 10.0.0.1 8² ok\nsync nan\nsync -1\nsync 0.5").syncs == (0.5,)

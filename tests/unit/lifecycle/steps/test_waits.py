"""What is waited for, and what is not."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from harness.errors import CheckError, NodeError
from harness.lifecycle.kube import spreading, wait
from harness.lifecycle.steps import waits
from harness.oci.store import Store
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import build, changed, prepared, store

__all__ = ["store"]  # a fixture


def test_record_unready_workloads_keeps_first_record_until_change_ends(store: Store) -> None:
    build(store)
    node = StandIn()
    context = changed(prepared(store), control_plane=(node,))

    def there(recorded: str, *ill: str) -> list[str]:
        metas = [{"name": name, "namespace": "web", "uid": name} for name in ill]
        items = [{"kind": "Deployment", "metadata": meta, "spec": {"replicas": 1}} for meta in metas]
        answer = json.dumps({"data": {"ailing": recorded}})
        node.answers, node.commands = {"get configmap": answer, "get nodes,": json.dumps({"items": items})}, []
        waits.record_unready_workloads(context)
        return [command for command in node.commands if " patch " in command]

    patched = there("", "nginx")
    assert context.unready_before == ["Deployment web/nginx"]
    assert '["Deployment web/nginx"]' in patched[0].replace("\\", "")
    # The change that was cut off broke another one: that is not old.
    assert there('["Deployment web/nginx"]', "nginx", "redis") == []
    assert context.unready_before == ["Deployment web/nginx"]
    assert there("[]", "redis") == []
    assert context.unready_before == []


def test_watching_lost_machine_raises_node_error(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    node = StandIn()
    watch = waits.watching([node])
    watch("")
    assert node.commands == []
    clock[0] += 60

    def lost(*_: Any, **__: Any) -> None:
        raise NodeError("10.0.0.1: the connection was lost")

    monkeypatch.setattr(node, "run", lost)
    with pytest.raises(NodeError):
        watch("")


def test_wait_for_nodes_that_ends_while_nothing_answers_any_more_reports_why(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)

    def ends(*_: Any, **__: Any) -> None:
        raise CheckError("not ready after 600 s: host-1", details="Node host-1: not ready")

    def lost(*_: Any, **__: Any) -> None:
        raise NodeError("10.0.0.1: the connection was lost")

    node = StandIn()
    context = changed(prepared(store), control_plane=(node,))
    monkeypatch.setattr(wait, "settle", ends)
    monkeypatch.setattr(node, "run", lost)
    with pytest.raises(CheckError, match="not ready after 600 s: host-1") as caught:
        waits.wait_for_nodes(context, "wait-for-api").action()
    assert caught.value.details == "Node host-1: not ready\nlog of host-1:\n10.0.0.1: the connection was lost"


@pytest.mark.parametrize(
    ("crowded", "own_dns", "asked"),
    [("while it waits", False, 1), ("at the end", False, 2), ("never", False, 2), ("at the end", True, 0)],
)
def test_wait_for_nodes_moves_name_server_once_and_waits_for_it(
    store: Store, monkeypatch: pytest.MonkeyPatch, crowded: str, own_dns: bool, asked: int
) -> None:
    build(store)
    context = changed(prepared(store), control_plane=(StandIn(),))
    # Before anything reads it.
    context.resolved.__dict__["cluster"] = dataclasses.replace(context.resolved.cluster, own_dns=own_dns)
    settled: list[str] = []
    seen: list[object] = []

    def settle(*_: Any, heal: Any, **__: Any) -> tuple[str, ...]:
        settled.append("settled")
        heal(("while it waits",))
        return ("at the end",)

    def spread(_: object, items: tuple[str, ...]) -> bool:
        seen.append(items)
        return crowded in items

    monkeypatch.setattr(wait, "settle", settle)
    monkeypatch.setattr(wait, "nudge", lambda *_: None)
    monkeypatch.setattr(spreading, "spread", spread)
    monkeypatch.setattr(waits, "wait_for_dns", lambda _: None)
    waits.wait_for_nodes(context, "wait-for-api").action()
    assert len(settled) == (2 if crowded == "at the end" and not own_dns else 1)
    assert len(seen) == asked

"""The update of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError, CommandError
from harness.lifecycle import rollout
from harness.lifecycle.kube import drain, etcd, readiness
from harness.lifecycle.provision import registry, rootfs_update
from harness.lifecycle.rollout import RolloutWork, node_update
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.process import ProcessResult
from harness.runtimes import static_pods
from tests.unit.lifecycle.test_run import store
from tests.unit.lifecycle.test_upgrade import work

__all__ = ["store"]  # a fixture


def test_with_registry_outdated_settings_add_and_note_registry_restart(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work(store, tmp_path, 1, 1)
    vars(made.resolved)["login"] = Credential("slipway", "0" * 64)
    node, worker = made.spec.nodes
    there = {path: file.data for path, file in registry.settings(made.resolved.login).items()}
    monkeypatch.setattr(rollout, "read_files", lambda *_: dict(there))
    noted: list[tuple[Any, str]] = []
    monkeypatch.setattr(rootfs_update, "note", lambda *words: noted.append(words))
    assert node_update._with_registry(made, node, frozenset()) == frozenset()
    # As an earlier slipway has left it. It is noted: the registry must be started also when this is killed in between.
    there = {path: file.data for path, file in registry.settings(None).items()}
    assert node_update._with_registry(made, node, frozenset({"kubelet"})) == {"kubelet", "registry"}
    assert node_update._with_registry(made, worker, frozenset()) == frozenset()
    assert noted == [(node, "registry")]


@pytest.mark.parametrize("control_plane", [1, 3])
def test_taken_back_puts_back_former_control_plane_or_hints_at_backup(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control_plane: int
) -> None:
    made = work(store, tmp_path, control_plane)
    node = made.spec.control_plane[0]
    calls: list[tuple[object, bool]] = []
    monkeypatch.setattr(static_pods, "put_back", lambda node, *, others: calls.append((node, others)))
    error = node_update._taken_back(made, node, CheckError("kube-apiserver does not run", details="its log"))
    # Where others serve the running API server ends gracefully.
    assert calls == [(node, control_plane > 1)]
    assert error.message == "host-1: the control plane of {} did not come up, the one before it serves again: {}".format(
        made.move.after, "kube-apiserver does not run"
    )
    assert rollout.BACKUP not in str(error.hint)
    assert error.details == "its log"

    def worse(_: object, **__: object) -> None:
        raise CommandError("etcd does not start")

    monkeypatch.setattr(static_pods, "put_back", worse)
    error = node_update._taken_back(made, node, CheckError("kube-apiserver does not run", details="its log"))
    assert error.message.endswith("did not come up, nor the one before it: kube-apiserver does not run; etcd does not start")
    assert rollout.BACKUP in str(error.hint)
    assert error.details == "its log"


def test_wait_ready_of_a_node_that_fails_shows_the_logs_of_balancer_and_kubelet(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work(store, tmp_path, 1, 1)
    (node,) = made.spec.workers
    monkeypatch.setattr(type(node), "run", lambda _, command, **__: ProcessResult((), 1, command.partition("journalctl")[2], ""))
    with pytest.raises(CheckError, match="is not Ready after") as caught:
        node_update._wait_ready(made, node, "2026-01-01T00:00:00Z")
    assert "-u slipway-balancer" in str(caught.value.details)
    assert "-u kubelet" in str(caught.value.details)


class Happened:
    """What is done on a control-plane node, in order, without any of it."""

    def __init__(self, made: RolloutWork, monkeypatch: pytest.MonkeyPatch, runs: str = "registry.k8s.io/etcd:3.6.1") -> None:
        self.order: list[str] = []
        self.fails: set[str] = set()
        vars(made.resolved)["runtime"] = self
        for name in ("leave", "come_back", "halt", "put_back", "wait"):
            monkeypatch.setattr(static_pods, name, self._noting(name))
        monkeypatch.setattr(static_pods, "replace", self._replace)
        for name in ("_await_leaders", "_require_version", "_wait_ready"):
            monkeypatch.setattr(node_update, name, self._noting(name))
        monkeypatch.setattr(node_update, "_peers", lambda _: "")
        for node in made.spec.control_plane:
            node.answers = {f"cat {etcd.MANIFEST}": f"    image: {runs}\n"}  # type: ignore[attr-defined]

    def _noting(self, name: str) -> Any:
        def note(*_: Any, **__: Any) -> None:
            self.order.append(name)
            if name in self.fails:
                raise CheckError("no")

        return note

    def _replace(self, _: Any, parts: tuple[str, ...], write: Any, *, serves: bool = True, **__: Any) -> None:
        self.order.append(f"{' '.join(parts)}{'' if serves else ' alone'}")
        write()
        if parts[0] in self.fails:
            raise CheckError("no")

    def store_image(self, _: Any) -> str:
        return "registry.k8s.io/etcd:3.7.0"

    def __getattr__(self, name: str) -> Any:
        return (lambda *_: self.order.append(name)) if name == "start_kubelet" else (lambda *_: None)


def test_control_plane_update_takes_api_server_away_before_etcd(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = work(store, tmp_path)
    happened = Happened(made, monkeypatch)
    node_update._control_plane(made, made.spec.control_plane[0])
    controllers = "kube-controller-manager kube-scheduler"
    assert happened.order == [
        "leave", "etcd alone", "kube-apiserver", controllers, "come_back", "_await_leaders", "_require_version",
    ]  # fmt: skip
    happened.order.clear()
    happened.fails = {"kube-apiserver"}
    with pytest.raises(CheckError, match="the one before it serves again"):
        node_update._control_plane(made, made.spec.control_plane[0])
    assert happened.order == ["leave", "etcd alone", "kube-apiserver", "put_back"]


def test_control_plane_update_of_single_node_never_takes_api_server_away(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work(store, tmp_path, 1, 1, versions={"10.0.0.1": "v1.36.3"})
    happened = Happened(made, monkeypatch)
    node_update._control_plane(made, made.spec.control_plane[0])
    assert "leave" not in happened.order
    assert happened.order[0] == "etcd"


def test_start_kubelet_of_other_version_halts_static_pods_first(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = work(store, tmp_path, versions={"10.0.0.1": "v1.36.3", "10.0.0.2": "v1.36.4", "10.0.0.4": "v1.36.3"})
    happened = Happened(made, monkeypatch)
    node_update._start_kubelet(made, made.spec.control_plane[0])
    assert happened.order == ["halt", "start_kubelet", "come_back", "wait", "_wait_ready", "_await_leaders"]
    for node in (made.spec.control_plane[1], made.spec.workers[0]):
        happened.order.clear()
        node_update._start_kubelet(made, node)
        assert happened.order == ["start_kubelet", "_wait_ready"]


def test_await_leaders_script_waits_for_both_and_releases_only_leases_of_its_node(store: Store, tmp_path: Path) -> None:
    made = work(store, tmp_path)
    node: Any = made.spec.control_plane[1]
    node_update._await_leaders(made, node)
    (script,) = node.commands
    # Only what this very control-plane node held is released.
    assert "\nNODE=host-2\n" in script
    assert 'in "$NODE"_*)' in script
    assert script.count('{"spec":{"holderIdentity":""}}') == script.count(" patch lease ") == 1
    loop = script.partition("for name in kube-controller-manager kube-scheduler; do\n")[2]
    assert loop.index("patch lease $name") < loop.index('while at=$(lease $name renewTime) && [ -n "$at" ] && [ "$at" \\< "$since" ]')
    assert 'echo "no $name is at work"; exit 1' in loop


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("no kube-scheduler is at work\n", "host-2: no kube-scheduler is at work a minute after its start"),
        ("", "host-2: no controller manager or scheduler leads a minute after its start"),
    ],
)
def test_await_leaders_without_active_leader_raises_check_error(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, message: str
) -> None:
    made = work(store, tmp_path)
    node: Any = made.spec.control_plane[1]
    monkeypatch.setattr(node, "run", lambda *_, **__: ProcessResult((), 1, output, ""))
    with pytest.raises(CheckError) as caught:
        node_update._await_leaders(made, node)
    assert caught.value.message == message


def test_empty_node_that_the_cluster_does_not_list_any_more_is_not_drained(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = work(store, tmp_path, 1, 1)
    other = {"kind": "Node", "metadata": {"name": "host-1", "uid": "1"}, "spec": {}}
    monkeypatch.setattr(readiness, "get", lambda *_: (other,))
    monkeypatch.setattr(drain, "drain", lambda *_, **__: pytest.fail("drained"))
    assert node_update._empty(made, made.spec.workers[0], made.spec.workers, frozenset({"kubelet"})) is None

"""The state of a cluster as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness.cli import app, status
from harness.errors import NodeError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import access
from harness.nodes import Login


def test_status_unknown_cluster_is_refused(refused: Callable[[Sequence[str], str], None]) -> None:
    refused(["status", "mine"], "nothing is known of a cluster mine")


def test_status_remembered_machines_get_password_of_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No password is remembered: of a cluster with nothing else, each command is given it."""
    ClusterState.of("lab", home).remember({"controlPlane": [{"address": "10.0.0.1", "name": "a", "user": "ops", "port": 22, "key": None}]})
    logins: list[Login] = []

    def known(name: str, *_: object) -> dict[str, object]:
        logins.extend(machine.login for machine in access.known(name).control_plane)
        raise NodeError("10.0.0.1: no answer")

    monkeypatch.setattr("harness.lifecycle.status.status", known)
    monkeypatch.setenv("SLIPWAY_SSH_PASSWORD", "secret")
    assert app.execute(["status", "lab"]) == 5
    assert app.execute(["status", "lab", "--user", "root"]) == 5
    assert logins == [Login("ops", 22, password="secret"), Login("root", 22, password="secret")]
    assert access.known("lab").control_plane[0].login == Login("ops", 22)


def test_show_status_lists_unready_objects_and_unreachable_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    node = {"name": "a", "address": "10.0.0.1", "roles": ["control-plane"], "ready": False, "version": "v1.36.3", "runtime": ""}
    status._show_status(
        {
            "name": "lab", "healthy": False, "kubernetes": "v1.36.3", "image": "web:1", "digest": "sha256:" + "1" * 64, "change": None,
            "registry": [{"active": True}, {"active": False}], "workloads": {"deployment": {"ready": 1, "total": 2}}, "nodes": [node],
            "notReady": [{"object": "Pod web/a", "reason": "ImagePullBackOff", "events": ["no such image"], "log": []}],
            "balancers": [{"address": "10.0.0.2", "active": False, "kind": "ipvs"}],
            "unreachable": [{"address": "10.0.0.3", "reason": "no route"}],
        }
    )  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "lab  not healthy, Kubernetes v1.36.3",
        "image  web:1  111111111111",
        "ready  1 of 2 deployments; 1 of 2 registries, 0 of 1 balancers (ipvs)",
    ]
    assert ["a", "10.0.0.1", "control-plane", "no", "v1.36.3", "-"] in [line.split() for line in lines]
    assert [line for line in ("Pod web/a: ImagePullBackOff", "    no such image", "10.0.0.3: no route") if line not in lines] == []
    assert any(line.startswith("10.0.0.2: ") for line in lines)

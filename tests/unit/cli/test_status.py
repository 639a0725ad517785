"""The state of a cluster as text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from harness.cli import status


def test_status_of_an_unknown_cluster_is_refused(refused: Callable[[Sequence[str], str], None]) -> None:
    refused(["status", "mine"], "nothing is known of a cluster mine")


def test_status_names_what_is_not_ready_and_what_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
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

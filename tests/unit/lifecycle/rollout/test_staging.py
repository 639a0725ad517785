"""What a rollout makes ready, and which parts of a node will be restarted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.lifecycle.provision import rootfs_update
from harness.lifecycle.rollout import RolloutWork, staging
from harness.lifecycle.steps import preparation
from harness.nodes.files import NodeFile
from harness.oci.store import Store
from tests.unit.lifecycle.test_run import store
from tests.unit.lifecycle.test_upgrade import work

__all__ = ["store"]  # a fixture


def parts(made: RolloutWork, node: Any, *changed: str, monkeypatch: pytest.MonkeyPatch, placed: tuple[str, ...] = ()) -> set[str]:
    monkeypatch.setattr(staging, "changed_files", lambda *_: frozenset(placed))
    monkeypatch.setattr(preparation, "machine_files", lambda *_: {"/x": NodeFile()})
    monkeypatch.setattr(made.journal, "holds", lambda *_: True)
    return set(staging._parts(made, node, rootfs_update.Delta((), frozenset(changed), 0)))


def test_parts_contains_only_components_of_changed_files(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = work(store, tmp_path, 1, 1)
    control_plane_node, worker = made.spec.nodes

    def found(node: Any, *changed: str, **more: Any) -> set[str]:
        return parts(made, node, *changed, monkeypatch=monkeypatch, **more)

    vars(made.resolved)["runtime"] = None
    assert found(worker, "manifests/web.yaml", "etc/addons/dns.yaml") == set()
    assert found(worker, "bin/kubelet", "bin/kubectl") == {"kubelet"}
    assert found(worker, "bin/containerd-shim-runc-v2") == {"containerd"}
    assert found(worker, "lib/libc.so") == {"containerd", "balancer"}
    assert found(control_plane_node, "lib/libc.so") == {"containerd", "registry"}
    assert found(control_plane_node, "bin/registry") == {"registry"}
    assert found(control_plane_node, placed=("/etc/systemd/system/slipway-registry.service",)) == {"registry"}
    assert found(worker, placed=("/etc/systemd/system/kubelet.service.d/10-kubeadm.conf",)) == {"kubelet"}
    assert found(worker, placed=("/etc/containerd/certs.d/a.example/hosts.toml",)) == set()

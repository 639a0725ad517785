"""How launch commands run."""

from __future__ import annotations

from typing import Any

import pytest

from harness.errors import CommandError
from harness.lifecycle import run
from harness.lifecycle.steps import launch
from harness.oci.store import Store
from harness.runtimes.kubeadm import Kubeadm
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import FACTS, KEYS, build, prepared, store

__all__ = ["store"]  # a fixture


def test_run_in_rootfs_passes_environment_in_script_not_in_commands() -> None:
    node = StandIn()
    sent: list[bytes] = []
    node.put = lambda data, path, mode=0o644: sent.append(data)  # type: ignore[method-assign]
    launch.run_in_rootfs(node, "kubectl apply -f x", {"Password": "it's $(hunter2)", "not a name": "x"})
    script = sent[0].decode()
    assert "export Password='it'\"'\"'s $(hunter2)'\n" in script
    assert "not a name" not in script
    assert "KUBECONFIG=/etc/kubernetes/admin.conf PATH=/var/lib/slipway/rootfs/bin:$PATH" in script
    assert not any("hunter2" in command for command in node.commands)
    assert any(command.startswith("rm -f /var/lib/slipway/launch-") for command in node.commands)


def test_run_in_rootfs_failure_shows_output_and_removes_script() -> None:
    node = StandIn()
    node.broken = {"bash"}
    with pytest.raises(CommandError, match="launch command failed: helm install x") as caught:
        launch.run_in_rootfs(node, "helm install x", {})
    assert caught.value.details == "it is broken"
    assert any(command.startswith("rm -f") for command in node.commands)


def test_launch_inputs_depend_on_image_command_and_environment(store: Store) -> None:
    build(store, launch=("one",))
    build(store, "other", files={"etc/slipway.yaml": FACTS, "etc/other": "of another image"}, launch=("one",))

    def inputs(**changes: Any) -> str:
        context = prepared(store, **changes)
        assert isinstance(context.resolved.runtime, Kubeadm)
        context.resolved.runtime._pki = KEYS
        step = next(step for step in run.plan(context) if step.id == "launch-1")
        assert step.inputs is not None
        return step.inputs(context.spec.first)

    assert inputs() == inputs()
    assert inputs(image="other") == inputs(image="other")
    found = [inputs(), inputs(image="other"), inputs(env={"Port": "1"}), inputs(env={"Port": "2"}), inputs(commands=("two",))]
    assert len(set(found)) == len(found)

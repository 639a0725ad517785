"""Launch commands of applications on the first node."""

from __future__ import annotations

from harness.lifecycle.apps import launch
from harness.lifecycle.apps.target import AppTarget
from harness.nodes.kubectl import NodeKubectl
from tests.unit.lifecycle.standin import StandIn


def test_launch_run_secret_env_goes_into_root_only_script_and_no_command() -> None:
    node = StandIn()
    target = AppTarget("lab", NodeKubectl(node), node, (node,), "none", "/var/lib/slipway/apps", "v1.36.0", {}, None)  # type: ignore[arg-type]
    sent: list[tuple[str, int]] = []
    node.put = lambda data, path, mode=0o644: sent.append((data.decode(), mode))  # type: ignore[method-assign]
    launch.run(target, node, "web", "kubectl apply -f x", {"Password": "it's $(hunter2)", "not a name": "x"}, "launch command")
    ((script, mode),) = sent
    assert "export Password='it'\"'\"'s $(hunter2)'\n" in script
    assert "not a name" not in script
    assert mode == 0o600
    assert not any("hunter2" in command for command in node.commands)
    assert any(command.startswith("rm -f /var/lib/slipway/apps/web/launch-") for command in node.commands)

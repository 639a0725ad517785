"""The CNI plugin flannel-bridge, before a plugin `bridge` that notes what it is given."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from harness import process

PLUGIN = Path(__file__).parents[2] / "images/runtime/flannel-bridge"
ENV = "FLANNEL_NETWORK=100.64.0.0/10\nFLANNEL_SUBNET=100.64.1.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
BRIDGE = """#!/bin/sh
cat > "$SEEN"
echo '{"cniVersion": "1.0.0", "ips": []}'
"""


class Node:
    """A folder with the plugin `bridge` and the file of flannel."""

    def __init__(self, folder: Path) -> None:
        self.seen, self.subnets = folder / "seen", folder / "subnet.env"
        self.plugins = folder / "cni"
        self.plugins.mkdir()
        (self.plugins / "bridge").write_text(BRIDGE)
        (self.plugins / "bridge").chmod(0o755)

    def __call__(
        self, command: str, given: dict[str, Any] | None = None, *, wait: int = 0, path: str | None = None
    ) -> process.ProcessResult:
        environment = {
            "CNI_COMMAND": command, "CNI_PATH": path or f"/nowhere:{self.plugins}", "SEEN": str(self.seen),
            "FLANNEL_SUBNET_FILE": str(self.subnets), "FLANNEL_WAIT": str(wait),
        }  # fmt: skip
        configuration = {"cniVersion": "1.0.0", "name": "cbr0", "type": "flannel-bridge", **(given or {})}
        return process.run(["sh", PLUGIN], input=json.dumps(configuration, separators=(",", ":")), env=environment, check=False)

    def given(self) -> dict[str, Any]:
        """What the plugin `bridge` was given."""
        return dict(json.loads(self.seen.read_text()))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_flannel_bridge_add_passes_flannel_settings_to_bridge(node: Node) -> None:
    node.subnets.write_text(ENV)
    done = node("ADD")
    assert (done.returncode, json.loads(done.stdout)["ips"]) == (0, [])
    assert node.given() == {
        "cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "bridge": "cni0", "mtu": 1450,
        "isDefaultGateway": True, "ipMasq": False, "hairpinMode": True,
        "ipam": {"type": "host-local", "ranges": [[{"subnet": "100.64.1.0/24"}]], "routes": [{"dst": "100.64.0.0/10"}]},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gateway", "network"),
    [
        ("10.244.3.129/25", "10.244.3.128/25"),
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("192.168.7.65/26", "192.168.7.64/26"),
        ("2001:cafe:42:1::1/64", "2001:cafe:42:1::0/64"),
        ("fd00::a01/120", "fd00::a00/120"),
        ("fd00:1:2:3:4:5:6:1/112", "fd00:1:2:3:4:5:6:0/112"),
    ],
)
def test_flannel_bridge_gateway_address_becomes_network_address(node: Node, gateway: str, network: str) -> None:
    node.subnets.write_text(f"FLANNEL_{'IPV6_' if ':' in gateway else ''}SUBNET={gateway}\n")
    assert node("ADD").ok
    assert node.given()["ipam"]["ranges"] == [[{"subnet": network}]]


def test_flannel_bridge_dual_stack_gives_range_and_route_of_each_family(node: Node) -> None:
    node.subnets.write_text(f"{ENV}FLANNEL_IPV6_NETWORK=2001:cafe:42::/56\nFLANNEL_IPV6_SUBNET=2001:cafe:42:1::1/64")
    assert node("ADD").ok
    ipam = node.given()["ipam"]
    assert ipam["ranges"] == [[{"subnet": "100.64.1.0/24"}], [{"subnet": "2001:cafe:42:1::0/64"}]]
    assert ipam["routes"] == [{"dst": "100.64.0.0/10"}, {"dst": "2001:cafe:42::/56"}]


def test_flannel_bridge_several_cluster_networks_become_several_routes(node: Node) -> None:
    node.subnets.write_text(ENV.replace("100.64.0.0/10", "10.42.0.0/16,10.43.0.0/16"))
    assert node("ADD").ok
    assert node.given()["ipam"]["routes"] == [{"dst": "10.42.0.0/16"}, {"dst": "10.43.0.0/16"}]


def test_flannel_bridge_runtime_fields_are_passed_to_bridge(node: Node) -> None:
    node.subnets.write_text(ENV)
    more = {"prevResult": {"ips": [{"address": "100.64.1.7/24"}]}, "runtimeConfig": {"ips": ["100.64.1.9/24"]}, "cniVersion": "1.1.0"}
    assert node("CHECK", more).ok
    assert {key: node.given()[key] for key in more} == more


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC"])
def test_flannel_bridge_del_check_gc_without_subnet_file_still_call_bridge(node: Node, command: str) -> None:
    assert node(command).ok
    given = node.given()
    assert (given["type"], given["ipam"]["type"], len(given["ipam"]["ranges"])) == ("bridge", "host-local", 1)
    assert "mtu" not in given


@pytest.mark.parametrize("text", [None, "", "FLANNEL_MTU=1450\n", "FLANNEL_SUBNET=\n", "FLANNEL_SUBNET=none\n"])
def test_flannel_bridge_without_subnet_returns_cni_errors_11_and_50(node: Node, text: str | None) -> None:
    if text is not None:
        node.subnets.write_text(text)
    added, asked = node("ADD"), node("STATUS")
    assert (added.returncode, asked.returncode) == (1, 1)
    for said, code in ((json.loads(added.stdout), 11), (json.loads(asked.stdout), 50)):
        assert (said["cniVersion"], said["code"]) == ("1.0.0", code)
        assert str(node.subnets) in said["msg"]
    assert not node.seen.exists()


def test_flannel_bridge_add_waits_until_subnet_file_appears(node: Node) -> None:
    def write() -> None:
        node.subnets.with_suffix(".new").write_text(ENV)
        node.subnets.with_suffix(".new").rename(node.subnets)

    timer = threading.Timer(1, write)
    timer.start()
    try:
        assert node("ADD", wait=600).ok
    finally:
        timer.join()
    assert node.given()["mtu"] == 1450
    assert node("STATUS").ok


@pytest.mark.parametrize("value", ["$(touch {})", "`touch {}`", "1;touch {}", '"; touch {}; "', "a[$(touch {})]", "x#g;e touch {}"])
def test_flannel_bridge_shell_code_in_subnet_file_is_never_executed(node: Node, tmp_path: Path, value: str) -> None:
    wrong = value.format(tmp_path / "run")
    for key in ("FLANNEL_MTU", "FLANNEL_NETWORK", "FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET", "PATH"):
        node.subnets.write_text(f"{ENV}{key}={wrong}\n")
        assert node("ADD").ok
        assert node.given()["ipam"]["ranges"] == [[{"subnet": "100.64.1.0/24"}]]
    node.subnets.write_text(f"FLANNEL_SUBNET={wrong}\n{wrong}\n")
    assert json.loads(node("ADD").stdout)["code"] == 11
    assert not (tmp_path / "run").exists()


def test_flannel_bridge_version_lists_supported_cni_versions(node: Node) -> None:
    said = json.loads(node("VERSION").stdout)
    assert {"0.4.0", "1.0.0", "1.1.0"} <= set(said["supportedVersions"])
    assert not node.seen.exists()


def test_flannel_bridge_unsupported_request_returns_cni_error(node: Node) -> None:
    node.subnets.write_text(ENV)
    failed = [node("ADD", path="/nowhere"), node("ADD", {"type": "macvlan"}), node("PLUG")]
    assert [(done.returncode, json.loads(done.stdout)["code"]) for done in failed] == [(1, 4), (1, 7), (1, 4)]
    assert not node.seen.exists()

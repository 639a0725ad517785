"""What a machine is told to be: who asks whom, and with what configuration."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import pytest

from harness.lifecycle.provision import node_files
from harness.runtimes import ClusterNetwork, Facts, Member, RuntimeCluster, profiles
from tests.unit.lifecycle.standin import StandIn


def member(number: int, role: str = "control-plane", **facts: Any) -> Member:
    return Member(StandIn(f"10.0.0.{number}"), f"{role}-{number}", f"10.0.0.{number}", role, **facts)


def cluster(*members: Member) -> RuntimeCluster:
    return RuntimeCluster(
        "lab", Facts("v1.36.3", pause_image="registry.k8s.io/pause:3.10.2"), ClusterNetwork("100.64.0.0/10", "10.96.0.0/22"), members
    )


CONTROL_PLANE = tuple(member(number, registry=True) for number in (1, 2, 3))
WORKER = member(9, "worker")


def sections(text: str) -> dict[str, list[str]]:
    """The parts of a configuration of haproxy by their first lines, each with its other lines that are not comments."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith(" "):
            found[line] = lines = []
        elif line.strip() and not line.strip().startswith("#"):
            lines.append(line.strip())
    return found


def servers(lines: list[str]) -> list[str]:
    return [line.split()[2] for line in lines if line.startswith("server ") and " check" in line]


def test_apply_requires_forwarding_only_for_ip_families_of_cluster() -> None:
    single = cluster(*CONTROL_PLANE)
    dual = dataclasses.replace(single, network=ClusterNetwork.parse("100.64.0.0/10,fd00:10:64::/48", "10.96.0.0/22,fd00:10:96::/112"))
    assert "ipv4.ip_forward cannot" in node_files.apply(single)
    assert "ipv6" not in node_files.apply(single)
    assert "net.ipv6.conf.all.forwarding cannot be set to 1" in node_files.apply(dual)


def test_balancer_config_of_worker_checks_all_api_servers_and_all_image_holders() -> None:
    fourth, away = member(4), dataclasses.replace(CONTROL_PLANE[1], away=True)
    found = sections(node_files.balancer_config(cluster(CONTROL_PLANE[0], away, CONTROL_PLANE[2], fourth, WORKER), WORKER))
    assert set(found) == {"global", "defaults", "frontend api", "backend api", "backend api-unsure", "listen registry"}
    # One that is away now is left out by its check, until it is back. The fourth has no images.
    numbers = {"backend api": (1, 2, 3, 4), "backend api-unsure": (1, 2, 3, 4), "listen registry": (1, 2, 3)}
    for part, port, check in (
        ("backend api", 6443, "check check-ssl verify none"),
        ("backend api-unsure", 6443, "check check-ssl verify none"),
        ("listen registry", 5000, "check"),
    ):
        assert [line for line in found[part] if line.startswith("server ")] == [
            f"server control-plane-{number} 10.0.0.{number}:{port} {check}" for number in numbers[part]
        ]
    assert found["frontend api"][0] == "bind 127.0.0.1:6443"
    assert found["listen registry"][0] == "bind 127.0.0.1:5000"


def test_balancer_config_health_checks_exclude_ending_and_unready_api_servers() -> None:
    found = sections(node_files.balancer_config(cluster(*CONTROL_PLANE, WORKER), WORKER))
    leaving = 'http-check expect error-status L7OKC ! string "[-]shutdown failed"'
    expected = [line for line in found["backend api"] if line.startswith("http-check expect")]
    assert expected == [leaving, "http-check expect status 200,401"]
    # Where nobody may ask without a name.
    assert "http-check expect status 200,401,403" in found["backend api-unsure"]
    assert found["frontend api"][1:] == [
        "use_backend api-unsure if { nbsrv(api) eq 0 } { nbsrv(api-unsure) gt 0 }",
        "default_backend api",
    ]
    # Nobody else would take what the only one does not get.
    assert leaving not in sections(node_files.balancer_config(cluster(CONTROL_PLANE[0], WORKER), WORKER))["backend api"]


def test_hosts_lines_of_control_plane_node_with_images_name_itself() -> None:
    assert not node_files.needs_balancer(CONTROL_PLANE[0])
    assert node_files.hosts_lines(CONTROL_PLANE[0]) == ("10.0.0.1 apiserver.cluster.local # slipway",)
    assert node_files.hosts_lines(WORKER) == ("127.0.0.1 apiserver.cluster.local # slipway",)


def test_containerd_service_restores_hosts_lines_before_start() -> None:
    service = node_files.CONTAINERD_SERVICE.splitlines()
    before = service.index("ExecStartPre=-/bin/sh /var/lib/slipway/hosts.sh")
    assert before < next(index for index, line in enumerate(service) if line.startswith("ExecStart="))
    assert "/var/lib/slipway/hosts.sh" in node_files.files(cluster(*CONTROL_PLANE, WORKER), WORKER)
    node = StandIn()
    node_files.set_hosts(node, node_files.hosts_lines(WORKER))
    assert "cat > /var/lib/slipway/hosts" in node.commands[0]


def test_balancer_config_of_control_plane_node_without_images_has_registry_only() -> None:
    fourth = member(4)
    assert node_files.needs_balancer(fourth)
    assert set(sections(node_files.balancer_config(cluster(*CONTROL_PLANE, fourth), fourth))) == {"global", "defaults", "listen registry"}


def test_balancer_config_ipv6_server_is_bracketed() -> None:
    six = Member(StandIn("fd00::1"), "m", "fd00::1", "control-plane", registry=True)
    assert "server m [fd00::1]:6443" in node_files.balancer_config(cluster(six, WORKER), WORKER)


@pytest.mark.parametrize(
    ("facts", "systemd", "restrict"), [({}, False, False), ({"systemd_cgroups": True, "restrict_oom": True}, True, True)]
)
def test_containerd_config_follows_facts_of_node(facts: dict[str, Any], systemd: bool, restrict: bool) -> None:
    found = tomllib.loads(node_files.containerd_config("registry.k8s.io/pause:3.10.2", member(1, **facts)))
    images, runtime = (found["plugins"][f"io.containerd.cri.v1.{name}"] for name in ("images", "runtime"))
    assert found["version"] == 3
    assert images["pinned_images"] == {"sandbox": "registry.k8s.io/pause:3.10.2"}
    assert images["registry"]["config_path"] == "/etc/containerd/certs.d"
    # Unpacked layers are thrown away only by this way of pulling.
    assert (images["discard_unpacked_layers"], images["use_local_image_pull"]) == (True, True)
    assert runtime["restrict_oom_score_adj"] is restrict
    assert runtime["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"] is systemd
    assert runtime["cni"] == {"bin_dirs": ["/opt/cni/bin"], "conf_dir": "/etc/cni/net.d"}


def test_containerd_config_without_pause_image_pins_no_image() -> None:
    assert "pinned_images" not in node_files.containerd_config(None, member(1))


def test_files_with_pod_network_contain_its_cni_conflist() -> None:
    text = '{"name": "cbr0"}'
    files = node_files.files(cluster(*CONTROL_PLANE), CONTROL_PLANE[0], networks={"10-flannel.conflist": text})
    assert files["/etc/cni/net.d/10-flannel.conflist"].data == text.encode()
    assert not any(path.startswith("/etc/cni/") for path in node_files.files(cluster(*CONTROL_PLANE), CONTROL_PLANE[0]))


def test_files_contain_balancer_unit_only_if_node_needs_it() -> None:
    whole = cluster(*CONTROL_PLANE, WORKER)
    unit = "/etc/systemd/system/slipway-balancer.service"
    assert unit in node_files.files(whole, WORKER)
    assert unit not in node_files.files(whole, CONTROL_PLANE[0])


def test_files_link_cni_plugins_into_opt_cni_bin() -> None:
    names = ("bridge", "flannel-bridge", "portmap")
    files = node_files.files(cluster(*CONTROL_PLANE), CONTROL_PLANE[0], plugins=names)
    for name in names:
        assert files[f"/opt/cni/bin/{name}"].link == f"/var/lib/slipway/rootfs/bin/cni/{name}"


def test_files_with_cis_profile_set_sysctls_and_note_state_saves_former_values() -> None:
    plain = cluster(*CONTROL_PLANE)
    hardened = dataclasses.replace(plain, profile=profiles.of("cis", 36))
    settings, conflist = "/etc/sysctl.d/90-slipway.conf", "/etc/cni/net.d/10-flannel.conflist"
    found = node_files.files(hardened, CONTROL_PLANE[0], networks={"10-flannel.conflist": "{}"})
    assert b"vm.overcommit_memory = 1\n" in found[settings].data
    assert b"kernel.panic = 10\n" in found[settings].data
    assert found[conflist].mode == 0o600
    before = node_files.files(plain, CONTROL_PLANE[0], networks={"10-flannel.conflist": "{}"})
    assert b"kernel.panic" not in before[settings].data
    assert before[conflist].mode == 0o644
    assert "kernel.panic cannot be set to 10" in node_files.apply(hardened)
    assert "kernel.panic" not in node_files.apply(plain)
    # Noted before the first change, so that delete brings it back.
    assert "kernel.keys.root_maxbytes" in node_files.note_state(hardened.profile.sysctls)
    assert "kernel.panic" not in node_files.note_state({})


def test_note_state_ends_with_root_only_mode_of_state_folder() -> None:
    # The last change of the mode counts, however the folder came to be.
    assert node_files.note_state({}).rstrip().endswith("chmod 700 $STATE")

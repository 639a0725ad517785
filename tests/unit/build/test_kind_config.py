"""The configuration of kind: its cluster is set up as one that `slipway run` makes."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.build import kind_config
from harness.build.sandbox_plan import SandboxApplication, SandboxPlan, facts
from harness.errors import BuildError, InputError
from harness.lifecycle.provision import node_files
from harness.runtimes import Facts


@pytest.mark.parametrize("path", ["etc/slipway.yaml", "etc/addons/network.yaml", "bin/kubectl"])
@pytest.mark.parametrize("absolute", [True, False])
def test_rootfs_link_to_file_outside_raises_build_error(tmp_path: Path, path: str, absolute: bool) -> None:
    secret = tmp_path / "secret"
    secret.write_text("kubernetes: v1.36.3\n")
    rootfs, work = tmp_path / "rootfs", tmp_path / "work"
    for name in ("bin/kubeadm", "bin/kubelet", "bin/kubectl", "etc/slipway.yaml", "etc/addons/network.yaml"):
        (rootfs / name).parent.mkdir(parents=True, exist_ok=True)
        (rootfs / name).write_text("kubernetes: v1.36.3\n")
    work.mkdir()
    (rootfs / path).unlink()
    (rootfs / path).symlink_to(str(secret) if absolute else "../" * (path.count("/") + 1) + "secret")
    env = {"PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/22"}
    plan = SandboxPlan(rootfs, Facts("v1.36.3"), env, image=None, own_network=False)  # type: ignore[arg-type]
    read = (lambda: facts(rootfs)) if path == "etc/slipway.yaml" else (lambda: kind_config.write_files(plan, "node", "", work))
    with pytest.raises(BuildError, match="leads out of the folder"):
        read()


KIND_ENV = {"PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/22"}
CONFLIST = '{"name": "cbr0"}'
FLANNEL = {"etc/addons/network.yaml": "kind: DaemonSet", "etc/cni/10-flannel.conflist": CONFLIST}


def kind_document(
    tmp_path: Path,
    *,
    own_network: bool = False,
    kernel: str = "6.1.0",
    pause: str | None = None,
    env: Mapping[str, str] = KIND_ENV,
    files: Mapping[str, str] = FLANNEL,
    version: str = "v1.36.3",
    workers: int = 0,
    application: SandboxApplication | None = None,
) -> dict[str, Any]:
    rootfs, work = tmp_path / "rootfs", tmp_path / "work"
    for name, text in {**files, **dict.fromkeys(("bin/kubeadm", "bin/kubelet", "bin/kubectl"), "")}.items():
        (rootfs / name).parent.mkdir(parents=True, exist_ok=True)
        (rootfs / name).write_text(text)
    work.mkdir(parents=True)
    image: Any = None
    plan = SandboxPlan(
        rootfs, Facts(version, pause_image=pause), env, image, own_network=own_network, workers=workers, application=application
    )
    found: dict[str, Any] = yaml.safe_load(kind_config.write_files(plan, "node", "", work, kernel).read_text())
    return found


def test_kind_config_mounts_cni_configuration_of_image(tmp_path: Path) -> None:
    found = kind_document(tmp_path)
    (mount,) = (one for one in found["nodes"][0]["extraMounts"] if one["containerPath"] == "/etc/cni/net.d/10-flannel.conflist")
    assert Path(mount["hostPath"]).read_text() == CONFLIST
    assert (mount["readOnly"], found["networking"]["disableDefaultCNI"]) == (True, False)


@pytest.mark.parametrize(("pods", "prefix"), [("fd00:10:64::/48", None), ("fd00:10:64::/64", "80")])
def test_kind_config_of_dual_stack_image_has_both_ip_families(tmp_path: Path, pods: str, prefix: str | None) -> None:
    assert "ipFamily" not in kind_document(tmp_path / "one")["networking"]
    env = {"PodCIDR": f"100.64.0.0/10,{pods}", "SvcCIDR": "10.96.0.0/22,fd00:10:96::/112"}
    found = kind_document(tmp_path / "both", env=env)
    assert found["networking"]["ipFamily"] == "dual"
    assert (found["networking"]["podSubnet"], found["networking"]["serviceSubnet"]) == tuple(env.values())
    cluster = yaml.safe_load(found["kubeadmConfigPatches"][1])
    manager = cluster.get("controllerManager")
    assert manager == (prefix and {"extraArgs": [{"name": "node-cidr-mask-size-ipv6", "value": prefix}]})


def test_kind_config_with_own_network_disables_default_cni(tmp_path: Path) -> None:
    found = kind_document(tmp_path, own_network=True)
    assert not any(one["containerPath"].startswith("/etc/cni/") for one in found["nodes"][0]["extraMounts"])
    assert found["networking"]["disableDefaultCNI"] is True


def configured(document: dict[str, Any]) -> dict[str, Any]:
    """The configurations of pod networks that a kind node has from the beginning, by name."""
    folder = "/etc/cni/net.d/"
    mounts = document["nodes"][0]["extraMounts"]
    return {
        one["containerPath"].removeprefix(folder): json.loads(Path(one["hostPath"]).read_text())
        for one in mounts
        if one["containerPath"].startswith(folder)
    }


def test_kind_config_of_image_without_network_mounts_bridge_network(tmp_path: Path) -> None:
    found = kind_document(tmp_path, files={})
    assert found["networking"]["disableDefaultCNI"] is True
    ((name, network),) = configured(found).items()
    bridge, portmap = network["plugins"]
    assert (name.endswith(".conflist"), bridge["type"], portmap["type"]) == (True, "bridge", "portmap")
    assert bridge["ipam"] == {"type": "host-local", "ranges": [[{"subnet": "100.64.0.0/24"}]]}


def test_kind_config_bridge_network_has_ip_families_of_image(tmp_path: Path) -> None:
    env = {"PodCIDR": "100.64.0.0/26,fd00:10:64::/48", "SvcCIDR": "10.96.0.0/22,fd00:10:96::/112"}
    (network,) = configured(kind_document(tmp_path, files={}, env=env)).values()
    assert network["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "100.64.0.0/26"}], [{"subnet": "fd00:10:64::/64"}]]


@pytest.mark.parametrize("files", [{"etc/addons/network.yaml": "kind: DaemonSet"}, {"etc/cni/10-mine.conf": CONFLIST}])
def test_kind_config_of_image_with_own_network_mounts_no_bridge(tmp_path: Path, files: Mapping[str, str]) -> None:
    found = kind_document(tmp_path, files=files)
    assert set(configured(found)) == {Path(path).name for path in files if path.startswith("etc/cni/")}
    assert found["networking"]["disableDefaultCNI"] is ("etc/addons/network.yaml" not in files)


@pytest.mark.parametrize(("kernel", "mode"), [("6.18.44-fc", "nftables"), ("5.13.0", "nftables"), ("5.10.0-30-amd64", "iptables")])
def test_kind_config_kube_proxy_mode_follows_kernel_version(tmp_path: Path, kernel: str, mode: str) -> None:
    assert kind_document(tmp_path, kernel=kernel)["networking"]["kubeProxyMode"] == mode


def patches(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The patches of kubeadm's documents, by kind."""
    return {patch["kind"]: patch for patch in map(yaml.safe_load, document["kubeadmConfigPatches"])}


def containerd(document: dict[str, Any]) -> dict[str, Any]:
    (patch,) = document["containerdConfigPatches"]
    found = tomllib.loads(patch)
    assert found["version"] == 3
    plugins: dict[str, Any] = found["plugins"]
    return plugins


def test_kind_config_sets_pause_image_and_permits_cgroup_v1(tmp_path: Path) -> None:
    found = kind_document(tmp_path, pause="registry.k8s.io/pause:3.10.2")
    images = {**node_files.PULLS, "pinned_images": {"sandbox": "registry.k8s.io/pause:3.10.2"}}
    assert containerd(found) == {"io.containerd.cri.v1.images": images}
    kubelet = patches(found)["KubeletConfiguration"]
    assert (kubelet["failCgroupV1"], kubelet["cgroupDriver"], kubelet["serializeImagePulls"]) == (False, "cgroupfs", False)
    # kind applies this, and nothing is new by it: the StorageClass is the image's own.
    assert yaml.safe_load((tmp_path / "work/manifests/default-storage.yaml").read_text())["metadata"]["name"] == "kube-system"


def test_kind_config_without_pause_image_keeps_containerd_default(tmp_path: Path) -> None:
    assert containerd(kind_document(tmp_path)) == {"io.containerd.cri.v1.images": dict(node_files.PULLS)}


def test_kind_config_takes_containerd_settings_except_machine_specific(tmp_path: Path) -> None:
    text = """version = 3
root = "/data/containerd"
[plugins."io.containerd.cri.v1.images"]
max_concurrent_downloads = 2
snapshotter = "native"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "/elsewhere"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.kata]
runtime_type = "io.containerd.kata.v2"
"""
    found = kind_document(tmp_path, files={**FLANNEL, "etc/containerd/config.toml": text})
    assert containerd(found) == {
        "io.containerd.cri.v1.images": {**node_files.PULLS, "max_concurrent_downloads": 2},
        "io.containerd.cri.v1.runtime": {"containerd": {"runtimes": {"kata": {"runtime_type": "io.containerd.kata.v2"}}}},
    }
    with pytest.raises(InputError, match=r"etc/containerd/config\.toml: is not TOML"):
        kind_document(tmp_path / "bad", files={**FLANNEL, "etc/containerd/config.toml": "= 1"})


KUBEADM = """apiVersion: kubeadm.k8s.io/v1beta3
kind: ClusterConfiguration
kubernetesVersion: v1.20.0
networking: {dnsDomain: other.local}
apiServer: {extraArgs: {feature-gates: A=true}}
scheduler:
  extraArgs: {config: /etc/kubernetes/scheduler.yaml}
  extraVolumes: [{name: config, hostPath: /etc/kubernetes/scheduler.yaml, mountPath: /etc/kubernetes/scheduler.yaml}]
---
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: systemd
maxPods: 200
---
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
---
apiVersion: kubeadm.k8s.io/v1beta3
kind: InitConfiguration
nodeRegistration: {criSocket: /run/other.sock}
"""


@pytest.mark.parametrize(
    ("version", "arguments"), [("v1.36.3", [{"name": "feature-gates", "value": "A=true"}]), ("v1.35.1", {"feature-gates": "A=true"})]
)
def test_kind_config_takes_kubeadm_documents_except_machine_specific(tmp_path: Path, version: str, arguments: Any) -> None:
    found = patches(kind_document(tmp_path, files={**FLANNEL, "etc/kubeadm.yml": KUBEADM}, version=version))
    assert set(found) == {"ClusterConfiguration", "KubeletConfiguration", "KubeProxyConfiguration"}
    assert not any("apiVersion" in patch for patch in found.values())
    # The file that the scheduler asks for is in no rootfs: it would not start.
    assert found["ClusterConfiguration"] == {"kind": "ClusterConfiguration", "apiServer": {"extraArgs": arguments}, "scheduler": {}}
    assert (found["KubeletConfiguration"]["cgroupDriver"], found["KubeletConfiguration"]["maxPods"]) == ("cgroupfs", 200)
    assert found["KubeProxyConfiguration"]["mode"] == "iptables"


@pytest.mark.parametrize(("version", "disabled"), [("v1.36.3", {"disabled": True}), ("v1.35.1", None)])
def test_kind_config_of_image_with_dns_addon_disables_coredns_from_v1_36(tmp_path: Path, version: str, disabled: Any) -> None:
    own = {**FLANNEL, "etc/addons/dns.yaml": "kind: Deployment"}
    assert patches(kind_document(tmp_path / "own", files=own, version=version))["ClusterConfiguration"].get("dns") == disabled
    assert "dns" not in patches(kind_document(tmp_path / "other", version=version))["ClusterConfiguration"]


def test_kind_config_workers_equal_first_node_except_application_mount(tmp_path: Path) -> None:
    application = SandboxApplication("shop", tmp_path / "app", {})
    first, *others = kind_document(tmp_path, workers=2, application=application)["nodes"]
    assert [node["role"] for node in (first, *others)] == ["control-plane", "worker", "worker"]
    own = {"hostPath": str(tmp_path / "app"), "containerPath": "/var/lib/slipway/apps/shop/rootfs"}
    assert [mount for mount in first["extraMounts"] if mount != own] == others[0]["extraMounts"] == others[1]["extraMounts"]
    assert own in first["extraMounts"]


def test_kind_config_workers_without_pod_network_raise_build_error(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="--workers 1: the image brings no pod network"):
        kind_document(tmp_path, workers=1, files={})


def test_kind_config_program_link_inside_rootfs_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl-1.36").write_text("")
    (tmp_path / "bin/kubectl").symlink_to("kubectl-1.36")
    assert kind_config.program(tmp_path, "kubectl") == (tmp_path / "bin/kubectl-1.36").resolve()
    with pytest.raises(BuildError, match="no program bin/kubelet"):
        kind_config.program(tmp_path, "kubelet")

"""What is read of a rootfs before it boots, and who asked for an image."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.build import sandbox
from harness.build.sandbox import environment, facts, requesters
from harness.cloudimage import PlatformImage
from harness.errors import BuildError, InputError
from harness.host import docker
from harness.lifecycle.provision import rootfs
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.runtimes import Facts


class Answers:
    """A kubectl that prints what it was given."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def run(self, *_argv: str) -> str:
        return json.dumps({"items": self.items})


def item(kind: str, name: str, uid: str, owner: tuple[str, str, str] | None = None, image: str = "") -> dict[str, Any]:
    owners = [{"kind": owner[0], "name": owner[1], "uid": owner[2], "controller": True}] if owner else []
    meta = {"name": name, "namespace": "default", "uid": uid, "ownerReferences": owners}
    return {"kind": kind, "metadata": meta, "spec": {"containers": [{"image": image}]} if kind == "Pod" else {}}


def test_an_image_is_asked_for_by_the_workload_and_not_by_a_pod_of_it() -> None:
    items = [
        item("ReplicaSet", "web-5d4", "rs", ("Deployment", "web", "d")),
        item("Pod", "web-5d4-abc", "p1", ("ReplicaSet", "web-5d4", "rs"), "nginx:1.22"),
        item("Pod", "web-5d4-def", "p2", ("ReplicaSet", "web-5d4", "rs"), "nginx:1.22"),
        item("Pod", "etcd-node-1", "p3", ("Node", "node-1", "n"), "registry.k8s.io/etcd:3.6.8-0"),
        item("Pod", "alone", "p4", None, "redis"),
    ]
    assert requesters(Answers(items)) == {  # type: ignore[arg-type]
        "docker.io/library/nginx:1.22": ("Deployment default/web",),
        "docker.io/library/redis:latest": ("Pod default/alone",),
        "registry.k8s.io/etcd:3.6.8-0": ("Pod default/etcd",),
    }


def test_the_facts_of_a_rootfs(tmp_path: Path) -> None:
    assert facts(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/slipway.yaml").write_text("kubernetes: v1.36.3\nsvcCIDR: 10.32.0.0/16\n")
    found = facts(tmp_path)
    assert found is not None
    assert found.minor == 36
    assert found.image_repository is None
    assert environment(found, {"Greeting": "hi"}) == {
        "PodCIDRv4": "100.64.0.0/10", "PodCIDRv6": "", "SvcCIDRv4": "10.32.0.0/16", "SvcCIDRv6": "",
        "PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.32.0.0/16", "KubeSvcIP": "10.32.0.1", "DNSSvcIP": "10.32.0.10", "Greeting": "hi",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["- a", "kubernetes", "{", "podCIDR: 10.0.0.0/8"])
def test_unreadable_facts_are_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/slipway.yaml").write_text(text)
    with pytest.raises(InputError, match=r"etc/slipway\.yaml"):
        facts(tmp_path)


@pytest.mark.parametrize("path", ["etc/slipway.yaml", "etc/addons/network.yaml", "bin/kubectl"])
@pytest.mark.parametrize("absolute", [True, False])
def test_links_of_a_rootfs_are_not_followed_to_files_of_this_machine(tmp_path: Path, path: str, absolute: bool) -> None:
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
    plan = sandbox.SandboxPlan(rootfs, Facts("v1.36.3"), env, image=None, own_network=False)  # type: ignore[arg-type]
    read = (lambda: sandbox.facts(rootfs)) if path == "etc/slipway.yaml" else (lambda: sandbox._kind_files(plan, "node", "", work))
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
) -> dict[str, Any]:
    rootfs, work = tmp_path / "rootfs", tmp_path / "work"
    for name, text in {**files, **dict.fromkeys(("bin/kubeadm", "bin/kubelet", "bin/kubectl"), "")}.items():
        (rootfs / name).parent.mkdir(parents=True, exist_ok=True)
        (rootfs / name).write_text(text)
    work.mkdir(parents=True)
    facts = Facts("v1.36.3", pause_image=pause)
    plan = sandbox.SandboxPlan(rootfs, facts, env, image=None, own_network=own_network)  # type: ignore[arg-type]
    found: dict[str, Any] = yaml.safe_load(sandbox._kind_files(plan, "node", "", work, kernel).read_text())
    return found


def test_a_kind_cluster_finds_the_network_of_the_image_at_its_first_look(tmp_path: Path) -> None:
    found = kind_document(tmp_path)
    (mount,) = (one for one in found["nodes"][0]["extraMounts"] if one["containerPath"] == "/etc/cni/net.d/10-flannel.conflist")
    assert Path(mount["hostPath"]).read_text() == CONFLIST
    assert (mount["readOnly"], found["networking"]["disableDefaultCNI"]) == (True, False)


@pytest.mark.parametrize(("pods", "prefix"), [("fd00:10:64::/48", None), ("fd00:10:64::/64", "80")])
def test_a_kind_cluster_has_the_families_of_the_image(tmp_path: Path, pods: str, prefix: str | None) -> None:
    assert "ipFamily" not in kind_document(tmp_path / "one")["networking"]
    env = {"PodCIDR": f"100.64.0.0/10,{pods}", "SvcCIDR": "10.96.0.0/22,fd00:10:96::/112"}
    found = kind_document(tmp_path / "both", env=env)
    assert found["networking"]["ipFamily"] == "dual"
    assert (found["networking"]["podSubnet"], found["networking"]["serviceSubnet"]) == tuple(env.values())
    cluster = yaml.safe_load(found["nodes"][0]["kubeadmConfigPatches"][1])
    manager = cluster.get("controllerManager")
    assert manager == (prefix and {"extraArgs": [{"name": "node-cidr-mask-size-ipv6", "value": prefix}]})


class Networks:
    """An engine that makes networks, or refuses those with IPv6."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.networks, self.refuses = self, refuses
        self.asked: list[dict[str, Any]] = []
        self.attrs = {"IPAM": {"Config": [{"Subnet": "fd00::/64", "Gateway": "fd00::1"}, {"Gateway": "172.18.0.1"}]}}

    def create(self, name: str, **options: Any) -> Networks:
        self.asked = [options]
        if self.refuses and options.get("enable_ipv6"):
            raise docker.APIError("", explanation="IPv6 is disabled")
        return self

    def reload(self) -> None: ...
    def remove(self) -> None: ...


def test_a_network_for_both_families_is_made_only_for_those_who_ask_for_it() -> None:
    made = Networks()
    for dual in (False, True):
        with sandbox._network(made, "n", dual=dual, keep=True) as gateway:  # type: ignore[arg-type]
            assert gateway == "172.18.0.1"
        assert made.asked[0].get("enable_ipv6", False) is dual
    with pytest.raises(BuildError, match="IPv6 is disabled"), sandbox._network(Networks(refuses=True), "n", dual=True, keep=True):  # type: ignore[arg-type]
        pass


def test_a_kind_cluster_whose_application_is_the_network_gets_no_other(tmp_path: Path) -> None:
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


def test_an_image_without_a_network_boots_on_one_that_ends_at_its_only_node(tmp_path: Path) -> None:
    found = kind_document(tmp_path, files={})
    assert found["networking"]["disableDefaultCNI"] is True
    ((name, network),) = configured(found).items()
    bridge, portmap = network["plugins"]
    assert (name.endswith(".conflist"), bridge["type"], portmap["type"]) == (True, "bridge", "portmap")
    assert bridge["ipam"] == {"type": "host-local", "ranges": [[{"subnet": "100.64.0.0/24"}]]}


def test_that_network_has_the_families_of_the_image(tmp_path: Path) -> None:
    env = {"PodCIDR": "100.64.0.0/26,fd00:10:64::/48", "SvcCIDR": "10.96.0.0/22,fd00:10:96::/112"}
    (network,) = configured(kind_document(tmp_path, files={}, env=env)).values()
    assert network["plugins"][0]["ipam"]["ranges"] == [[{"subnet": "100.64.0.0/26"}], [{"subnet": "fd00:10:64::/64"}]]


@pytest.mark.parametrize("files", [{"etc/addons/network.yaml": "kind: DaemonSet"}, {"etc/cni/10-mine.conf": CONFLIST}])
def test_an_image_that_brings_a_network_in_its_own_way_boots_on_that(tmp_path: Path, files: Mapping[str, str]) -> None:
    found = kind_document(tmp_path, files=files)
    assert set(configured(found)) == {Path(path).name for path in files if path.startswith("etc/cni/")}
    assert found["networking"]["disableDefaultCNI"] is ("etc/addons/network.yaml" not in files)


@pytest.mark.parametrize(("files", "added"), [({}, ["etc/cni/99-slipway-build.conflist"]), (FLANNEL, [])])
def test_a_container_node_of_an_image_without_a_network_gets_one_by_a_layer_of_its_own(
    tmp_path: Path, files: Mapping[str, str], added: list[str]
) -> None:
    for name, text in files.items():
        (tmp_path / "rootfs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rootfs" / name).write_text(text)
    (tmp_path / "rootfs").mkdir(exist_ok=True)
    store, image = Store(tmp_path / "store"), PlatformImage(Platform("linux", "amd64"), (), ())
    found = sandbox._with_network(sandbox.SandboxPlan(tmp_path / "rootfs", Facts("v1.36.3"), KIND_ENV, image, own_network=False), store)
    assert len(found.layers) == len(found.diff_ids) == len(added)
    assert [path for path in added if rootfs.read_file(store, found, path) is None] == []


@pytest.mark.parametrize(("kernel", "mode"), [("6.18.44-fc", "nftables"), ("5.13.0", "nftables"), ("5.10.0-30-amd64", "iptables")])
def test_kube_proxy_of_a_kind_cluster_does_what_its_kernel_can(tmp_path: Path, kernel: str, mode: str) -> None:
    assert kind_document(tmp_path, kernel=kernel)["networking"]["kubeProxyMode"] == mode


def test_a_kind_cluster_stands_on_the_pause_image_of_the_image_and_on_old_cgroups(tmp_path: Path) -> None:
    found = kind_document(tmp_path, pause="registry.k8s.io/pause:3.10.2")
    (patch,) = found["containerdConfigPatches"]
    images = {"pinned_images": {"sandbox": "registry.k8s.io/pause:3.10.2"}}
    assert tomllib.loads(patch) == {"version": 3, "plugins": {"io.containerd.cri.v1.images": images}}
    kubelet = yaml.safe_load(found["nodes"][0]["kubeadmConfigPatches"][0])
    assert (kubelet["kind"], kubelet["failCgroupV1"]) == ("KubeletConfiguration", False)
    # kind applies this, and nothing is new by it: the StorageClass is the image's own.
    assert yaml.safe_load((tmp_path / "work/manifests/default-storage.yaml").read_text())["metadata"]["name"] == "kube-system"


def test_a_kind_cluster_of_an_image_that_names_no_pause_image_has_containerds(tmp_path: Path) -> None:
    assert "containerdConfigPatches" not in kind_document(tmp_path)


def test_programs_behind_a_link_inside_are_mounted_themselves(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/kubectl-1.36").write_text("")
    (tmp_path / "bin/kubectl").symlink_to("kubectl-1.36")
    assert sandbox._program(tmp_path, "kubectl") == (tmp_path / "bin/kubectl-1.36").resolve()
    with pytest.raises(BuildError, match="no program bin/kubelet"):
        sandbox._program(tmp_path, "kubelet")

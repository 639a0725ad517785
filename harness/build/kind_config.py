"""Configuration of kind, so that its cluster has the settings of one that ``slipway run`` makes from the same rootfs.

What kind decides itself stays: the names and addresses of its nodes, their cgroups, and the way in which it calls kubeadm.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.build.sandbox_plan import SandboxPlan, beneath
from harness.clusterfile import serialize
from harness.clusterfile.config import deep_merge
from harness.clusterfile.kubeadm import VERSION, merge_kubeadm, without
from harness.errors import BuildError
from harness.lifecycle.checks.facts import release
from harness.lifecycle.provision import node_files
from harness.lifecycle.steps.context import (
    ADDONS,
    CONTAINERD_CONFIG,
    DNS_ADDON,
    KUBEADM_CONFIG,
    NETWORK_MANIFEST,
    containerd_overrides,
    kubeadm_documents,
)
from harness.runtimes import DEFAULT_PREFIX6, NFTABLES_KERNEL, ROOTFS
from harness.runtimes.configuration import DECIDED, kubelet_settings

PATCHED = ("ClusterConfiguration", "KubeletConfiguration", "KubeProxyConfiguration")
"""Kinds of documents that are the cluster's. InitConfiguration and JoinConfiguration describe a machine."""
LISTED_ARGUMENTS = 36
"""Minor version of Kubernetes from which kind writes v1beta4, where arguments are a list; before, they are a mapping."""

_OF_MACHINE: Mapping[str, tuple[str, ...]] = {
    "KubeletConfiguration": ("cgroupDriver", "cgroupRoot", "failCgroupV1", "resolvConf", "kubeReservedCgroup", "systemReservedCgroup"),
}
_COMPONENTS = ("apiServer", "controllerManager", "scheduler")
_CRI = "io.containerd.cri.v1"
_CONTAINERD_OF_MACHINE = (
    ("root",),
    ("state",),
    ("grpc",),
    ("plugins", f"{_CRI}.images", "snapshotter"),
    # Where images come from is the capture proxy's.
    ("plugins", f"{_CRI}.images", "registry"),
    ("plugins", f"{_CRI}.runtime", "restrict_oom_score_adj"),
    ("plugins", f"{_CRI}.runtime", "containerd", "runtimes", "runc", "options", "SystemdCgroup"),
)
_NOTHING = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-system"}}
"""An object that every cluster has."""


def write_files(plan: SandboxPlan, node_image: str, hosts_toml: str, work: Path, kernel: str = "") -> Path:
    """Write the files that kind reads, here and, mounted, in its nodes; return the path of its configuration.

    ``kernel`` is the release of the engine's. Raises BuildError and InputError for what the rootfs cannot give.
    """
    (work / "certs.d/_default").mkdir(parents=True)
    (work / "certs.d/_default/hosts.toml").write_text(hosts_toml)
    (work / "version").write_text(plan.facts.kubernetes + "\n")
    (work / "manifests").mkdir()
    tree, builtin = beneath(plan.rootfs), plan.addon_network
    (work / "manifests/default-cni.yaml").write_text(tree.read_text(NETWORK_MANIFEST) if builtin else "")
    # kind makes a StorageClass of its own where it is given nothing to apply; the image brings one.
    (work / "manifests/default-storage.yaml").write_text(yaml.safe_dump(_NOTHING))
    mounts: dict[str, Path] = {
        "/etc/containerd/certs.d": work / "certs.d", "/kind/version": work / "version", "/kind/manifests": work / "manifests",
        **{f"/usr/bin/{name}": program(plan.rootfs, name) for name in ("kubeadm", "kubelet", "kubectl")},
    }  # fmt: skip
    (work / "cni").mkdir()
    for name, text in plan.cni_configs.items():
        (work / "cni" / name).write_text(text)
        mounts[f"/etc/cni/net.d/{name}"] = work / "cni" / name
    every = [{"hostPath": str(path), "containerPath": inside, "readOnly": True} for inside, path in mounts.items()]
    every.append({"hostPath": str(plan.rootfs), "containerPath": ROOTFS})
    first = [{"hostPath": str(plan.application.tree), "containerPath": plan.application.folder}] if plan.application else []
    document = {
        "kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4",
        "networking": {
            **({"ipFamily": "dual"} if plan.network.dual else {}),
            "podSubnet": plan.env["PodCIDR"], "serviceSubnet": plan.env["SvcCIDR"], "disableDefaultCNI": not builtin,
            "kubeProxyMode": "nftables" if release(kernel)[:2] >= NFTABLES_KERNEL else "iptables",
        },
        "kubeadmConfigPatches": [yaml.safe_dump(patch) for patch in kubeadm_patches(plan)],
        "containerdConfigPatches": [serialize.write_toml(containerd_patch(plan))],
        "nodes": [
            {"role": "control-plane", "image": node_image, "extraMounts": [*every, *first]},
            *({"role": "worker", "image": node_image, "extraMounts": every} for _ in range(plan.workers)),
        ],
    }  # fmt: skip
    path = work / "kind.yaml"
    # Without anchors: the nodes share their mounts.
    path.write_text(json.dumps(document, indent=2))
    return path


def program(rootfs: Path, name: str) -> Path:
    """The real path of a program of the rootfs: Docker follows the links of what it mounts, wherever they lead."""
    if not beneath(rootfs).is_file(f"bin/{name}"):
        raise BuildError(f"the rootfs has no program bin/{name}", hint="build the image FROM one with Kubernetes")
    return (rootfs / "bin" / name).resolve()


def containerd_patch(plan: SandboxPlan) -> dict[str, Any]:
    """Settings of containerd that ``slipway run`` would write, except for those that depend on the machine."""
    images: dict[str, Any] = dict(node_files.PULLS)
    if plan.facts.pause_image:
        images["pinned_images"] = {"sandbox": plan.facts.pause_image}
    text = _text(plan, CONTAINERD_CONFIG)
    of_image: Mapping[str, Any] = functools.reduce(without, _CONTAINERD_OF_MACHINE, dict(containerd_overrides(text)))
    return {**deep_merge({"plugins": {f"{_CRI}.images": images}}, of_image), "version": 3}


def kubeadm_patches(plan: SandboxPlan) -> list[dict[str, Any]]:
    """Patches of kind's documents for kubeadm: slipway's settings, with those of the image merged over them.

    Patches have no version: kind applies them to whichever it writes. It appends arguments to its own.
    """
    cluster: dict[str, Any] = {"apiVersion": VERSION, "kind": "ClusterConfiguration"}
    if plan.facts.image_repository:
        cluster["imageRepository"] = plan.facts.image_repository
    prefix = plan.network.node_prefix6
    if prefix not in (None, DEFAULT_PREFIX6):
        cluster["controllerManager"] = {"extraArgs": [{"name": "node-cidr-mask-size-ipv6", "value": str(prefix)}]}
    if plan.facts.etcd_image_tag:
        cluster["etcd"] = {"local": {"imageTag": plan.facts.etcd_image_tag}}
    if beneath(plan.rootfs).is_file(f"{ADDONS}/{DNS_ADDON}") and plan.facts.minor >= LISTED_ARGUMENTS:
        # Otherwise CoreDNS would be started, and its image be one of those that were pulled.
        cluster["dns"] = {"disabled": True}
    kubelet = kubelet_settings(small=True, systemd_cgroups=False)
    of_image = [_of_cluster(document) for path in KUBEADM_CONFIG for document in kubeadm_documents(_text(plan, path), path)]
    merged = merge_kubeadm([kubelet, cluster], [document for document in of_image if document.get("kind") in PATCHED], ())
    listed = plan.facts.minor >= LISTED_ARGUMENTS
    return [without(document if listed else _mapped(document), ("apiVersion",)) for document in merged]


def _text(plan: SandboxPlan, path: str) -> str:
    tree = beneath(plan.rootfs)
    return tree.read_text(path) if tree.is_file(path) else ""


def _of_cluster(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document of the image without what slipway decides, what its machines decide, and arguments about files that no rootfs has."""
    kind = str(document.get("kind"))
    paths: Iterable[tuple[str, ...]] = (*DECIDED.get(kind, ()), *((key,) for key in _OF_MACHINE.get(kind, ())))
    kept = functools.reduce(without, paths, dict(document))
    for name in _COMPONENTS:
        component = kept.get(name)
        volumes = component.get("extraVolumes") if isinstance(component, Mapping) else None
        if isinstance(component, Mapping) and isinstance(volumes, Sequence) and not all(map(_is_of_rootfs, volumes)):
            # A hook puts them on real machines; without them the component would not start.
            kept[name] = {key: value for key, value in component.items() if key not in ("extraArgs", "extraVolumes")}
    return kept


def _is_of_rootfs(volume: object) -> bool:
    return isinstance(volume, Mapping) and str(volume.get("hostPath")).startswith(f"{ROOTFS}/")


def _mapped(value: Any) -> Any:
    """A copy in which arguments are by name; of one that is given several times, the last."""
    if isinstance(value, list):
        return [_mapped(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    return {
        key: {str(entry["name"]): str(entry.get("value", "")) for entry in item}
        if key == "extraArgs" and isinstance(item, list)
        else _mapped(item)
        for key, item in value.items()
    }

"""Items 1.1: files of the control plane."""

from __future__ import annotations

from collections.abc import Iterable

from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight.cis.core import API, CONTROLLERS, ETCD, SCHEDULER, file_items, item
from harness.lifecycle.checks.postflight.cis.facts import Secured
from harness.runtimes.pki import FOLDER
from harness.runtimes.static_pods import MANIFESTS

file_items("1.1.1", "1.1.2", "API server's manifest", (f"{MANIFESTS}/{API}.yaml",), 0o600)
file_items("1.1.3", "1.1.4", "controller manager's manifest", (f"{MANIFESTS}/{CONTROLLERS}.yaml",), 0o600)
file_items("1.1.5", "1.1.6", "scheduler's manifest", (f"{MANIFESTS}/{SCHEDULER}.yaml",), 0o600)
file_items("1.1.7", "1.1.8", "etcd's manifest", (f"{MANIFESTS}/{ETCD}.yaml",), 0o600)
file_items("1.1.9", "1.1.10", "pod network's configuration", ("/etc/cni/net.d/*",), 0o600, bad=warning)


def _etcd_mode(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    for address in facts.control_plane:
        file = facts.machines[address].files.get("/var/lib/etcd")
        if file is None:
            yield address, unknown("has no /var/lib/etcd")
        else:
            yield address, failed(f"/var/lib/etcd is {file.mode:o}", "chmod 700 /var/lib/etcd") if file.mode & ~0o700 else ok("700")


def _etcd_owner(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    for address in facts.control_plane:
        file = facts.machines[address].files.get("/var/lib/etcd")
        if file is None:
            yield address, unknown("has no /var/lib/etcd")
        elif file.owner == "etcd:etcd":
            yield address, ok(file.owner)
        else:
            # Another owner would not protect the folder from etcd, which runs as root in kubeadm's manifest.
            text = f"/var/lib/etcd belongs to {file.owner}, as whom kubeadm has etcd run"
            yield address, warning(text, "none as long as etcd runs as root: no other user can read it")


item("1.1.11", "etcd's data: mode", "etcd's data: 700 or less", _etcd_mode)
item("1.1.12", "etcd's data: owner", "etcd's data: etcd:etcd", _etcd_owner)
file_items("1.1.13", "1.1.14", "administrators' kubeconfigs", ("/etc/kubernetes/*admin.conf",), 0o600)
file_items("1.1.15", "1.1.16", "scheduler's kubeconfig", ("/etc/kubernetes/scheduler.conf",), 0o600)
file_items("1.1.17", "1.1.18", "controller manager's kubeconfig", ("/etc/kubernetes/controller-manager.conf",), 0o600)
file_items("", "1.1.19", "keys and certificates", (FOLDER, f"{FOLDER}/*", f"{FOLDER}/etcd/*"), 0o777)
file_items("1.1.20", "", "certificates", (f"{FOLDER}/*.crt", f"{FOLDER}/etcd/*.crt"), 0o644, bad=warning)
file_items("1.1.21", "", "keys", (f"{FOLDER}/*.key", f"{FOLDER}/etcd/*.key"), 0o600, bad=warning)

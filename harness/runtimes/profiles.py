"""Profiles: how a cluster is hardened, as one set of documents for kubeadm and the kubelet, with the files that these name.

``cis`` follows the CIS Kubernetes Benchmark 1.12. What image and user say in documents of their own lies over it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from harness.clusterfile.kubeadm import VERSION, Document, merge_kubeadm
from harness.nodes.files import NodeFile
from harness.runtimes import Profile, documents
from harness.runtimes.pki import ENCRYPTION, FOLDER

FILES = "/etc/kubernetes/slipway"
"""Folder on control-plane nodes: files of the API server beyond kubeadm's own. Each set has a folder named after its content: another set
restarts the API server, and the previous one is still there for a rollback."""
AUDIT = "/var/log/slipway"
"""Folder of the audit log on control-plane nodes."""

SYSCTLS: Mapping[str, str] = {
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
    "kernel.keys.root_maxkeys": "1000000",
    "kernel.keys.root_maxbytes": "25000000",
}
"""Sysctls that a kubelet sets itself, and with protectKernelDefaults expects to be set."""

CIPHERS = tuple(f"TLS_ECDHE_{key}_WITH_AES_{cipher}" for cipher in ("128_GCM_SHA256", "256_GCM_SHA384") for key in ("ECDSA", "RSA"))
"""For TLS 1.2; those of 1.3 cannot be chosen."""

HEALTH = ("/livez", "/readyz", "/healthz")
"""Paths for anonymous requests: kubelets and balancers probe the API server."""
_ANONYMOUS = 32
"""The minor version of Kubernetes from which on anonymous requests can be let through to some paths only."""
_STABLE = 34
"""From which on that is said in a stable form."""

# Before each start: where others share the kernel (containers), they may have set it otherwise.
_SETTINGS = """[Service]
ExecStartPre=-/bin/sh -c 'PATH=$PATH:/usr/sbin:/sbin; sysctl -e -q -p /etc/sysctl.d/90-slipway.conf'
"""

_KINDS = ("ClusterConfiguration", "KubeletConfiguration")
_SERVER = "ClusterConfiguration .apiServer.extraArgs."
_COMPONENTS = ("system:apiserver", "system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy")
_READ = ("get", "list", "watch")


def of(name: str | None, minor: int, exempt: Collection[str] = (), given: Iterable[Document] = ()) -> Profile:
    """The profile of a name (one of ``PROFILES``; None: none) for a minor version of Kubernetes.

    Pods of the namespaces ``exempt`` may do what they want. ``given`` are documents that lie over the profile's: beside some of their
    arguments the API server takes no file that says who may ask.
    """
    if name is None:
        return Profile()
    texts = {"audit-policy": documents(_audit_policy()), "admission": documents(_admission(exempt))}
    if minor >= _ANONYMOUS and not _opens(given):
        texts["authentication"] = documents(_authentication(minor))
    folder = f"{FILES}/{name}-{hashlib.sha256(repr(sorted(texts.items())).encode()).hexdigest()[:8]}"
    paths = {what: f"{folder}/{what}.yaml" for what in texts}
    return Profile(
        name=name,
        documents=(_cluster_configuration(paths), _kubelet_configuration()),
        files={paths[what]: NodeFile.text(text, 0o600) for what, text in texts.items()},
        # A disk that is mounted for etcd has the mode that its owner gave it; kubeadm chooses one for a new folder only.
        folders=(AUDIT, "/var/lib/etcd"),
        units={"/etc/systemd/system/kubelet.service.d/20-slipway-profile.conf": NodeFile.text(_SETTINGS, 0o600)},
        sysctls=SYSCTLS,
        mode=0o600,
        encrypts=True,
        serving=True,
    )


def sysctls(name: str | None) -> Mapping[str, str]:
    """``Profile.sysctls``, for when no more than the name of a profile is known."""
    return {} if name is None else SYSCTLS


def lacking(name: str | None, minor: int) -> list[str]:
    """Parts of a profile that a minor version of Kubernetes does not support."""
    if name is None or minor >= _ANONYMOUS:
        return []
    return [f"profile {name}: Kubernetes 1.{minor} cannot keep requests without a name to some paths; 1.{_ANONYMOUS} and newer can"]


def overruled(profile: Profile, overrides: Iterable[Document]) -> list[str]:
    """Paths at which documents of image and user override the profile, as ``ClusterConfiguration .apiServer.extraArgs.profiling``."""
    overrides = tuple(overrides)
    ours, theirs = (_leaves(documents) for documents in (profile.documents, overrides))
    overridden = [path for path, value in ours.items() if path in theirs and theirs[path] != value]
    opening = [f"{_SERVER}{name}" for name in _opens(overrides)]
    return [*overridden, *(opening if profile.name else [])]


def _leaves(all_documents: Iterable[Document]) -> dict[str, Any]:
    """Values in documents of the profiles' kinds, by path; the last one counts."""
    merged = merge_kubeadm([document for document in all_documents if document.get("kind") in _KINDS], (), ())
    return {
        path: value
        for document in merged
        for key, each in document.items()
        if key not in ("apiVersion", "kind")
        for path, value in _below(each, f"{document['kind']} .{key}")
    }


def _below(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Leaf values with their paths; items of a list of named things by name."""
    if isinstance(value, list) and value and all(isinstance(item, Mapping) and "name" in item for item in value):
        value = {str(item["name"]): item.get("value", {key: each for key, each in item.items() if key != "name"}) for item in value}
    if not isinstance(value, Mapping):
        yield path, value
        return
    for key, item in value.items():
        yield from _below(item, f"{path}.{key}")


def _opens(overrides: Iterable[Document]) -> list[str]:
    """Arguments of the API server that leave no room for a file that says who may ask."""
    names = [path.removeprefix(_SERVER) for path in _leaves(overrides) if path.startswith(_SERVER)]
    return [name for name in names if name == "anonymous-auth" or name.startswith("oidc-")]


# ---- documents --------------------------------------------------------------------------------------------------------


def _arguments(values: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _cluster_configuration(paths: Mapping[str, str]) -> dict[str, Any]:
    secure = {"profiling": "false", "tls-min-version": "VersionTLS12", "tls-cipher-suites": ",".join(CIPHERS)}
    server = {
        **secure,
        "admission-control-config-file": paths["admission"],
        "audit-log-maxage": "30",
        "audit-log-maxbackup": "10",
        "audit-log-maxsize": "100",
        "audit-log-path": f"{AUDIT}/audit.log",
        "audit-policy-file": paths["audit-policy"],
        "enable-admission-plugins": "NodeRestriction,EventRateLimit,DenyServiceExternalIPs",
        "encryption-provider-config": f"{FOLDER}/{ENCRYPTION}",
        "kubelet-certificate-authority": f"{FOLDER}/ca.crt",
        "service-account-extend-token-expiration": "false",
        **({"authentication-config": paths["authentication"]} if "authentication" in paths else {}),
    }
    volumes = [
        {"name": "slipway-profile", "hostPath": FILES, "mountPath": FILES, "readOnly": True, "pathType": "DirectoryOrCreate"},
        {"name": "slipway-audit", "hostPath": AUDIT, "mountPath": AUDIT, "readOnly": False, "pathType": "DirectoryOrCreate"},
    ]
    return {
        "apiVersion": VERSION,
        "kind": "ClusterConfiguration",
        "apiServer": {"extraArgs": _arguments(server), "extraVolumes": volumes},
        "controllerManager": {"extraArgs": _arguments({**secure, "terminated-pod-gc-threshold": "1000"})},
        "scheduler": {"extraArgs": _arguments(secure)},
    }


def _kubelet_configuration() -> dict[str, Any]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "podPidsLimit": 4096,
        "protectKernelDefaults": True,
        "seccompDefault": True,
        "tlsCipherSuites": list(CIPHERS),
        "tlsMinVersion": "VersionTLS12",
    }


# ---- files ------------------------------------------------------------------------------------------------------------


def _audit_policy() -> dict[str, Any]:
    """Audit policy: changes, and reads of Secrets and in pods. No bodies except those of RBAC rules, which hold no secrets."""
    events = [{"group": "", "resources": ["events"]}, {"group": "events.k8s.io", "resources": ["events"]}]
    private = [
        {"group": "", "resources": ["secrets", "configmaps", "serviceaccounts/token"]},
        {"group": "authentication.k8s.io", "resources": ["tokenreviews"]},
    ]
    rights = [{"group": "rbac.authorization.k8s.io"}, {"group": "admissionregistration.k8s.io"}]
    changes = ["create", "update", "patch", "delete", "deletecollection"]
    return {
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [
            {"level": "None", "nonResourceURLs": [*(f"{path}*" for path in HEALTH), "/version", "/openapi/*"]},
            {"level": "None", "resources": [*events, {"group": "coordination.k8s.io", "resources": ["leases"]}]},
            {"level": "Metadata", "resources": private},
            # What the cluster's own parts read would be nearly all of the log.
            {"level": "None", "users": list(_COMPONENTS), "verbs": list(_READ)},
            {"level": "None", "userGroups": ["system:nodes", "system:serviceaccounts:kube-system"], "verbs": list(_READ)},
            {"level": "Request", "resources": rights, "verbs": changes},
            {"level": "Metadata"},
        ],
    }


def _admission(exempt: Collection[str]) -> dict[str, Any]:
    security = {
        "apiVersion": "pod-security.admission.config.k8s.io/v1",
        "kind": "PodSecurityConfiguration",
        "defaults": {
            "enforce": "baseline",
            "enforce-version": "latest",
            "audit": "restricted",
            "audit-version": "latest",
            "warn": "restricted",
            "warn-version": "latest",
        },
        "exemptions": {"usernames": [], "runtimeClasses": [], "namespaces": sorted(exempt)},
    }
    limits = {
        "apiVersion": "eventratelimit.admission.k8s.io/v1alpha1",
        "kind": "Configuration",
        "limits": [{"type": "Server", "qps": 5000, "burst": 20000}],
    }
    plugins = [{"name": "PodSecurity", "configuration": security}, {"name": "EventRateLimit", "configuration": limits}]
    return {"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": plugins}


def _authentication(minor: int) -> dict[str, Any]:
    return {
        "apiVersion": f"apiserver.config.k8s.io/{'v1' if minor >= _STABLE else 'v1beta1'}",
        "kind": "AuthenticationConfiguration",
        "anonymous": {"enabled": True, "conditions": [{"path": path} for path in HEALTH]},
    }

"""What a profile asks of kubeadm and kubelets, and how it gives way to what image and user say."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from harness.clusterfile import PROFILES
from harness.clusterfile.kubeadm import merge_kubeadm
from harness.runtimes import Profile, profiles
from harness.runtimes.profiles import CIPHERS, HEALTH, lacking, of, overruled

CIS = of("cis", 36, ["kube-system", "kube-flannel"])


def arguments(profile: Profile, part: str = "apiServer") -> dict[str, str]:
    configuration = next(one for one in profile.documents if one["kind"] == "ClusterConfiguration")
    return {entry["name"]: entry["value"] for entry in configuration[part]["extraArgs"]}


def document(profile: Profile, argument: str) -> dict[str, Any]:
    """The file that an argument of the API server names."""
    return dict(yaml.safe_load(profile.files[arguments(profile)[argument]].data))


def given(**server: str) -> dict[str, Any]:
    extra = [{"name": name.replace("_", "-"), "value": value} for name, value in server.items()]
    return {"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "apiServer": {"extraArgs": extra}}


def test_profile_without_name_is_empty() -> None:
    assert of(None, 36) == Profile()
    assert profiles.sysctls(None) == {}
    assert overruled(of(None, 36), [given(profiling="true", anonymous_auth="false")]) == []


def test_profile_of_each_known_name_exists() -> None:
    assert [of(name, 36).name for name in PROFILES] == list(PROFILES)


def test_cis_profile_documents_are_current_and_named_files_are_mounted() -> None:
    assert merge_kubeadm(CIS.documents, (), ()) == [dict(one) for one in CIS.documents]
    named = {value for value in arguments(CIS).values() if value.startswith(profiles.FILES)}
    assert named == set(CIS.files)
    assert {file.mode for file in (*CIS.files.values(), *CIS.units.values())} == {0o600}
    server = next(one for one in CIS.documents if one["kind"] == "ClusterConfiguration")["apiServer"]
    mounted = {volume["mountPath"]: volume["readOnly"] for volume in server["extraVolumes"]}
    assert mounted == {profiles.FILES: True, profiles.AUDIT: False}
    assert all(volume["hostPath"] == volume["mountPath"] for volume in server["extraVolumes"])
    # kubeadm mounts this one.
    assert arguments(CIS)["encryption-provider-config"] == "/etc/kubernetes/pki/secrets-encryption.yaml"
    assert CIS.encrypts


def test_cis_profile_disables_profiling_and_requires_strong_ciphers() -> None:
    for part in ("apiServer", "controllerManager", "scheduler"):
        found = arguments(CIS, part)
        assert found["profiling"] == "false"
        assert found["tls-min-version"] == "VersionTLS12"
        assert found["tls-cipher-suites"].split(",") == list(CIPHERS)
    assert all("_ECDHE_" in name and "_GCM_" in name for name in CIPHERS)
    assert arguments(CIS, "controllerManager")["terminated-pod-gc-threshold"] == "1000"


def test_cis_audit_policy_logs_secrets_as_metadata_only() -> None:
    rules = document(CIS, "audit-policy-file")["rules"]
    secrets = next(rule for rule in rules if any("secrets" in group.get("resources", ()) for group in rule.get("resources", ())))
    assert secrets == {
        "level": "Metadata",
        "resources": [
            {"group": "", "resources": ["secrets", "configmaps", "serviceaccounts/token"]},
            {"group": "authentication.k8s.io", "resources": ["tokenreviews"]},
        ],
    }
    # Whatever comes before it is not about Secrets, and nobody's reading is left out there.
    assert not any("users" in rule or "userGroups" in rule for rule in rules[: rules.index(secrets)])
    assert {rule["level"] for rule in rules} == {"None", "Metadata", "Request"}
    bodies = [group["group"] for rule in rules if rule["level"] == "Request" for group in rule["resources"]]
    assert bodies == ["rbac.authorization.k8s.io", "admissionregistration.k8s.io"]
    assert rules[-1] == {"level": "Metadata"}
    # Rotated.
    assert {"audit-log-maxage", "audit-log-maxbackup", "audit-log-maxsize"} <= set(arguments(CIS))


def test_cis_pod_security_enforces_baseline_except_in_system_namespaces() -> None:
    plugins = {plugin["name"]: plugin["configuration"] for plugin in document(CIS, "admission-control-config-file")["plugins"]}
    security = plugins["PodSecurity"]
    assert {mode: security["defaults"][mode] for mode in ("enforce", "audit", "warn")} == {
        "enforce": "baseline",
        "audit": "restricted",
        "warn": "restricted",
    }
    assert security["exemptions"]["namespaces"] == ["kube-flannel", "kube-system"]
    assert plugins["EventRateLimit"]["limits"]
    assert set(arguments(CIS)["enable-admission-plugins"].split(",")) >= {"NodeRestriction", "EventRateLimit"}


@pytest.mark.parametrize(("minor", "version"), [(31, None), (32, "v1beta1"), (33, "v1beta1"), (34, "v1"), (36, "v1")])
def test_cis_anonymous_requests_are_limited_to_probes_where_supported(minor: int, version: str | None) -> None:
    profile = of("cis", minor)
    assert ("authentication-config" in arguments(profile)) is (version is not None)
    assert bool(lacking("cis", minor)) is (version is None)
    if version is not None:
        found = document(profile, "authentication-config")
        assert found["apiVersion"] == f"apiserver.config.k8s.io/{version}"
        assert found["anonymous"] == {"enabled": True, "conditions": [{"path": path} for path in HEALTH]}
    # It would refuse to start with both.
    assert "anonymous-auth" not in arguments(profile)


def test_cis_profile_file_paths_depend_on_content() -> None:
    assert of("cis", 36, ["kube-flannel", "kube-system"]) == CIS
    other = of("cis", 36, ["kube-system"])
    assert not set(other.files) & set(CIS.files)
    assert set(of("cis", 33).files).isdisjoint(CIS.files)


def test_cis_kubelet_protects_kernel_defaults_and_sysctls_are_set() -> None:
    kubelet = next(one for one in CIS.documents if one["kind"] == "KubeletConfiguration")
    assert kubelet["protectKernelDefaults"] is True
    assert kubelet["seccompDefault"] is True
    assert CIS.sysctls == profiles.sysctls("cis")
    assert CIS.sysctls["vm.overcommit_memory"] == "1"
    # What the cluster keeps goes to nodes that have no such files.
    assert "tlsCertFile" not in kubelet


def test_overruled_names_contradicting_fields_only() -> None:
    kubelet = {"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "podPidsLimit": 100, "seccompDefault": True}
    said = overruled(CIS, [given(profiling="true", v="4", audit_log_maxage="30"), kubelet])
    assert said == ["ClusterConfiguration .apiServer.extraArgs.profiling", "KubeletConfiguration .podPidsLimit"]
    volume = {"name": "slipway-audit", "hostPath": "/elsewhere", "mountPath": "/elsewhere"}
    mine = {"apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "ClusterConfiguration", "apiServer": {"extraVolumes": [volume]}}
    assert overruled(CIS, [mine])[0] == "ClusterConfiguration .apiServer.extraVolumes.slipway-audit.hostPath"


def test_overruled_unrelated_documents_change_nothing() -> None:
    others: list[dict[str, Any]] = [
        {},
        {"kind": "KubeProxyConfiguration", "mode": "ipvs"},
        {"kind": "ClusterConfiguration", "apiServer": None},
    ]
    assert overruled(CIS, others) == []
    assert of("cis", 36, ["kube-system", "kube-flannel"], others) == CIS


@pytest.mark.parametrize("argument", ["anonymous_auth", "oidc_issuer_url"])
def test_cis_profile_omits_authentication_config_beside_excluding_argument(argument: str) -> None:
    documents = [given(**{argument: "x"})]
    profile = of("cis", 36, (), documents)
    assert "authentication-config" not in arguments(profile)
    assert not any("authentication" in path for path in profile.files)
    assert overruled(profile, documents) == [f"ClusterConfiguration .apiServer.extraArgs.{argument.replace('_', '-')}"]

"""A cluster against the CIS benchmark: what is read from machines, and how it is judged."""

from __future__ import annotations

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import CommandError, UsageError
from harness.lifecycle.checks import postflight
from harness.lifecycle.checks.findings import Finding, Result
from harness.lifecycle.checks.postflight.cis import CHECKS, control_plane, core, evaluate, facts, files, nodes, policies
from harness.lifecycle.checks.postflight.cis.facts import FileState, MachineState, Secured, StaticPod, static_pod
from harness.lifecycle.cluster import certificates
from harness.lifecycle.cluster.certificates import Certificate
from harness.nodes.kubectl import NodeKubectl
from harness.process import ProcessResult as Ran
from harness.runtimes import ClusterNetwork, Facts, Member, RuntimeCluster, profiles
from harness.runtimes.configuration import SERVING_CRT, control_plane_config
from tests.unit.lifecycle.standin import StandIn

ROOT = "root:root"
KUBEADM = {
    "kube-apiserver": "authorization-mode=Node,RBAC client-ca-file=/p/ca.crt enable-admission-plugins=NodeRestriction etcd-certfile=/p/c"
    " etcd-cafile=/p/etcd/ca.crt kubelet-client-certificate=/p/k service-account-key-file=/p/sa.pub tls-cert-file=/p/apiserver.crt",
    "kube-controller-manager": "bind-address=127.0.0.1 root-ca-file=/p/ca.crt service-account-private-key-file=/p/sa.key"
    " use-service-account-credentials=true",
    "kube-scheduler": "bind-address=127.0.0.1",
    "etcd": "cert-file=/p/e client-cert-auth=true peer-cert-file=/p/e peer-client-cert-auth=true trusted-ca-file=/p/etcd/ca.crt",
}
"""What kubeadm gives by itself, of what the benchmark is about."""
CIS = profiles.of("cis", 36, ["kube-system"])
KUBELET: dict[str, Any] = {
    "authentication": {"anonymous": {"enabled": False}, "x509": {"clientCAFile": "/etc/kubernetes/pki/ca.crt"}},
    "authorization": {"mode": "Webhook"},
    "makeIPTablesUtilChains": True,
    "rotateCertificates": True,
    "streamingConnectionIdleTimeout": "4h0m0s",
    "eventRecordQPS": 50,
    "podPidsLimit": -1,
}
REMAINS = {"1.1.12", "1.2.11", "5.3.1"}
"""By design: etcd is root's in kubeadm's manifest, images are anybody's in the cluster, and this pod network enforces no policies."""


def arguments(words: str) -> dict[str, tuple[str, ...]]:
    return facts.arguments([f"--{word}" for word in words.split()])


def given(profile: str) -> dict[str, dict[str, tuple[str, ...]]]:
    """The arguments that kubeadm makes of slipway's own documents, by part."""
    node = Member(StandIn(), "one", "10.0.0.1", "control-plane")
    cluster = RuntimeCluster(
        "lab",
        Facts("v1.36.3"),
        ClusterNetwork("100.64.0.0/10", "10.96.0.0/22"),
        (node,),
        profile=CIS if profile else profiles.of(None, 36),
    )
    documents = yaml.safe_load_all(control_plane_config(cluster, node, initial=True))
    found = next(document for document in documents if document["kind"] == "ClusterConfiguration")
    sections = {"kube-apiserver": "apiServer", "kube-controller-manager": "controllerManager", "kube-scheduler": "scheduler"}
    extra = {part: found.get(section, {}).get("extraArgs", []) for part, section in sections.items()}
    more = {part: {entry["name"]: (entry["value"],) for entry in entries} for part, entries in extra.items()}
    return {part: {**arguments(words), **more.get(part, {})} for part, words in KUBEADM.items()}


def certificate(issuer: str, path: str, subject: str = "x") -> Certificate:
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=300.5)
    return Certificate("one", "10.0.0.1", path, subject, issuer, False, ends)


def machine_files(control_plane: bool, private: int) -> dict[str, FileState]:
    own = ["/etc/kubernetes/kubelet.conf"]
    if control_plane:
        own += [f"/etc/kubernetes/manifests/{name}.yaml" for name in KUBEADM]
        own += [f"/etc/kubernetes/{name}.conf" for name in ("admin", "super-admin", "scheduler", "controller-manager")]
        own += [f"/etc/kubernetes/pki/{name}.key" for name in ("ca", "sa", "etcd/ca")]
    found = {path: FileState(0o600, ROOT) for path in own}
    found |= {path: FileState(private, ROOT) for path in ("/etc/cni/net.d/10-flannel.conflist", "/var/lib/kubelet/config.yaml",
              "/etc/systemd/system/kubelet.service", "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf")}  # fmt: skip
    found |= {"/etc/kubernetes/pki": FileState(0o755, ROOT), "/etc/kubernetes/pki/ca.crt": FileState(0o644, ROOT)}
    return found | ({"/var/lib/etcd": FileState(0o700, ROOT), "/etc/kubernetes/pki/etcd": FileState(0o755, ROOT)} if control_plane else {})


def cluster(profile: str = "") -> Secured:
    """A control-plane node and a worker as slipway makes them."""
    kubelet = dict(KUBELET)
    authority = certificate("kubernetes", "/etc/kubernetes/pki/ca.crt", "kubernetes")
    state = MachineState(kubelet=kubelet, options={"config": "/x"}, certificates=(authority, certificate("one-ca@1", SERVING_CRT)))
    node = dataclasses.replace(state, parts={name: StaticPod(those, {}) for name, those in given(profile).items()})
    if profile:
        kubelet |= next(one for one in CIS.documents if one["kind"] == "KubeletConfiguration")
        kubelet["tlsCertFile"] = SERVING_CRT
        read = {path.rpartition("/")[2]: yaml.safe_load(file.data) for path, file in CIS.files.items()}
        listed = (authority, certificate("kubernetes", SERVING_CRT))
        state = dataclasses.replace(state, certificates=listed)
        node = dataclasses.replace(
            node,
            certificates=listed,
            provider="secretbox",
            audit=read["audit-policy.yaml"],
            anonymous=read["authentication.yaml"]["anonymous"],
        )
    private = 0o600 if profile else 0o644
    bindings = [{"kind": "ClusterRoleBinding", "metadata": {"name": name}, "roleRef": {"name": "cluster-admin"}}
                for name in ("cluster-admin", "kubeadm:cluster-admins")]  # fmt: skip
    return Secured(
        "lab",
        {"10.0.0.1": "control-plane", "10.0.0.2": "worker"},
        names={"10.0.0.1": "one", "10.0.0.2": "two"},
        machines={
            "10.0.0.1": dataclasses.replace(node, files=machine_files(True, private)),
            "10.0.0.2": dataclasses.replace(state, files=machine_files(False, private)),
        },
        items=tuple(bindings),
        proxy={"metricsBindAddress": ""},
        privileged='pods "x" is forbidden: violates PodSecurity "baseline:latest": privileged' if profile else "",
    )


def changed(role: str, profile: str = "cis", /, **changes: Any) -> Secured:
    """The cluster with something else about its control-plane node or its worker."""
    found = cluster(profile)
    address = "10.0.0.1" if role == "control-plane" else "10.0.0.2"
    return dataclasses.replace(found, machines={**found.machines, address: dataclasses.replace(found.machines[address], **changes)})


def flags(part: str, words: str, profile: str = "cis") -> Secured:
    """The cluster with other arguments of a part of its control-plane node; ``-name`` takes one away."""
    parts = dict(cluster(profile).machines["10.0.0.1"].parts)
    kept = {name: value for name, value in parts[part].arguments.items() if f"-{name}" not in words.split()}
    more = arguments(" ".join(word for word in words.split() if not word.startswith("-")))
    return changed("control-plane", profile, parts={**parts, part: StaticPod({**kept, **more}, {})})


def worse(found: Secured, *results: Result) -> dict[str, Finding]:
    return {one.check: one for one in evaluate(found) if one.result in (results or (Result.FAILED, Result.WARNING, Result.UNKNOWN))}


def test_evaluate_judges_all_items_in_numeric_order() -> None:
    found = evaluate(cluster("cis"))
    assert list(dict.fromkeys(one.check for one in found)) == list(CHECKS)
    modules = dict.fromkeys(rule.__module__ for rule in core.RULES.values())
    assert {module.__name__ for module in (files, control_plane, nodes, policies)} <= {*modules, core.__name__}
    numbers = [tuple(map(int, number.split("."))) for number in CHECKS if number != "access"]
    assert numbers == sorted(numbers)
    assert len(numbers) > 90


def test_evaluate_with_profile_leaves_only_warnings_by_design() -> None:
    found = worse(cluster("cis"))
    assert set(found) == REMAINS, {number: str(one) for number, one in found.items()}
    assert {one.result for one in found.values()} == {Result.WARNING}
    assert all(one.remedy for one in found.values())


def test_evaluate_without_profile_reports_kubeadm_defaults_with_remedies() -> None:
    found = worse(cluster())
    assert set(worse(cluster(), Result.FAILED)) == {
        "1.2.5", "1.2.15", "1.2.16", "1.2.17", "1.2.18", "1.2.19", "1.2.30", "1.3.2", "1.4.1", "4.1.1", "4.1.9",
    }  # fmt: skip
    assert set(worse(cluster(), Result.WARNING)) - REMAINS == {
        "1.1.9", "1.2.1", "1.2.3", "1.2.9", "1.2.27", "1.2.28", "1.2.29", "1.3.1", "3.2.1", "3.2.2",
        "4.2.9", "4.2.12", "4.2.13", "4.2.14", "5.2.1",
    }  # fmt: skip
    assert all(one.remedy for one in found.values())
    assert found["1.2.15"].message == "--profiling is not given"
    assert found["1.2.15"].remedy.startswith("ClusterConfiguration .apiServer.extraArgs.profiling: false; in ")
    assert found["4.1.9"].remedy == "chmod 600 /var/lib/kubelet/config.yaml"
    assert found["4.2.9"].message == "its serving certificate is signed by one-ca@1"
    assert found["5.2.1"].message == "a privileged pod may run in the namespace default"


def file(path: str, mode: int = 0o600, owner: str = ROOT) -> Secured:
    role = "control-plane" if "kubelet" not in path else "worker"
    state = cluster("cis").machines["10.0.0.1" if role == "control-plane" else "10.0.0.2"]
    return changed(role, files={**state.files, path: FileState(mode, owner)})


def kubelet(**changes: Any) -> Secured:
    return changed("worker", kubelet={**(cluster("cis").machines["10.0.0.2"].kubelet or {}), **changes})


SECRETS_LATE = {"rules": [{"level": "Request"}, {"level": "Metadata", "resources": [{"group": "", "resources": ["secrets"]}]}]}


@pytest.mark.parametrize(
    ("number", "found", "said"),
    [
        ("1.1.1", file("/etc/kubernetes/manifests/kube-apiserver.yaml", 0o644), "kube-apiserver.yaml is 644"),
        ("1.1.8", file("/etc/kubernetes/manifests/etcd.yaml", owner="ops:ops"), "etcd.yaml is ops:ops"),
        ("1.1.11", file("/var/lib/etcd", 0o755), "/var/lib/etcd is 755"),
        ("1.1.13", file("/etc/kubernetes/super-admin.conf", 0o640), "super-admin.conf is 640"),
        ("1.1.19", file("/etc/kubernetes/pki/secrets-encryption.yaml", owner="nobody:root"), "secrets-encryption.yaml is nobody:root"),
        ("1.1.20", file("/etc/kubernetes/pki/etcd/ca.crt", 0o666), "ca.crt is 666"),
        ("1.1.21", file("/etc/kubernetes/pki/etcd/ca.key", 0o644), "ca.key is 644"),
        ("1.2.1", changed("control-plane", anonymous=None), "anonymous requests reach the authorizer"),
        ("1.2.2", flags("kube-apiserver", "token-auth-file=/x"), "--token-auth-file=/x"),
        ("1.2.6", flags("kube-apiserver", "authorization-mode=Node,RBAC,AlwaysAllow"), "AlwaysAllow"),
        ("1.2.7", flags("kube-apiserver", "authorization-mode=RBAC"), "--authorization-mode=RBAC"),
        ("1.2.8", flags("kube-apiserver", "-authorization-mode"), "--authorization-mode is not given"),
        ("1.2.12", flags("kube-apiserver", "disable-admission-plugins=A,ServiceAccount"), "A,ServiceAccount"),
        ("1.2.14", flags("kube-apiserver", "enable-admission-plugins=EventRateLimit"), "EventRateLimit"),
        ("1.2.17", flags("kube-apiserver", "audit-log-maxage=29"), "--audit-log-maxage=29"),
        ("1.2.18", flags("kube-apiserver", "audit-log-maxbackup=many"), "--audit-log-maxbackup=many"),
        ("1.2.21", flags("kube-apiserver", "service-account-lookup=false"), "false"),
        ("1.2.28", changed("control-plane", provider="aesgcm"), "the first provider is aesgcm"),
        ("1.2.29", flags("kube-apiserver", "tls-cipher-suites=TLS_RSA_WITH_AES_128_CBC_SHA"), "TLS_RSA_WITH_AES_128_CBC_SHA"),
        ("1.3.3", flags("kube-controller-manager", "use-service-account-credentials=false"), "false"),
        ("1.3.6", flags("kube-controller-manager", "feature-gates=A=true,RotateKubeletServerCertificate=false"), "feature-gates"),
        ("1.4.2", flags("kube-scheduler", "bind-address=0.0.0.0"), "0.0.0.0"),
        ("2.2", flags("etcd", "client-cert-auth=false"), "--client-cert-auth=false"),
        ("2.3", flags("etcd", "auto-tls=true"), "--auto-tls=true"),
        ("2.7", flags("etcd", "trusted-ca-file=/p/ca.crt"), "etcd trusts /p/ca.crt"),
        ("3.2.2", changed("control-plane", audit=SECRETS_LATE), "requests for secrets are logged with their content (Request)"),
        ("3.2.2", changed("control-plane", audit={"rules": []}), "requests for secrets are not logged"),
        (
            "3.2.2",
            changed("control-plane", audit={"rules": [{"level": "Metadata"}, {"level": "None"}]}),
            "that match no rule are not logged",
        ),
        ("4.1.1", file("/usr/lib/systemd/system/kubelet.service", 0o644), "/usr/lib/systemd/system/kubelet.service is 644"),
        ("4.1.5", file("/etc/kubernetes/kubelet.conf", 0o644), "kubelet.conf is 644"),
        ("4.2.1", kubelet(authentication={"anonymous": {"enabled": True}}), "authentication.anonymous.enabled: true"),
        ("4.2.2", kubelet(authorization={"mode": "AlwaysAllow"}), "authorization.mode: AlwaysAllow"),
        ("4.2.4", kubelet(readOnlyPort=10255), "readOnlyPort: 10255"),
        ("4.2.5", kubelet(streamingConnectionIdleTimeout="0s"), "streamingConnectionIdleTimeout: 0s"),
        ("4.2.6", kubelet(makeIPTablesUtilChains=False), "makeIPTablesUtilChains: false"),
        ("4.2.7", changed("worker", options={"hostname-override": "other"}), "--hostname-override=other"),
        ("4.2.10", kubelet(rotateCertificates=False), "rotateCertificates: false"),
        ("4.2.12", kubelet(tlsCipherSuites=["TLS_RSA_WITH_RC4_128_SHA"]), "TLS_RSA_WITH_RC4_128_SHA"),
        ("4.3.1", dataclasses.replace(cluster("cis"), proxy={"metricsBindAddress": "0.0.0.0:10249"}), "0.0.0.0:10249"),
    ],
)  # fmt: skip
def test_evaluate_single_deviation_is_reported_under_its_number(number: str, found: Secured, said: str) -> None:
    told = worse(found, Result.FAILED, Result.WARNING)
    assert number in set(told) - REMAINS
    assert said in told[number].message
    assert told[number].remedy


def test_evaluate_other_cluster_admins_and_policy_enforcer_are_named() -> None:
    found = cluster("cis")
    more = {"kind": "ClusterRoleBinding", "metadata": {"name": "ops"}, "roleRef": {"name": "cluster-admin"}}
    agent = {"kind": "DaemonSet", "metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{"image": "x/calico-node:1"}]}}}}
    told = {one.check: one for one in evaluate(dataclasses.replace(found, items=(*found.items, more, agent)))}
    assert told["5.1.1"].message == "ops may do everything"
    assert (told["5.3.1"].result, told["5.3.1"].message) == (Result.OK, "enforced by calico")


def test_evaluate_foreign_cluster_without_facts_is_unknown() -> None:
    bare = Secured("lab", {"10.0.0.1": "control-plane", "10.0.0.2": "worker"}, unreachable={"10.0.0.2": "10.0.0.2: no answer"},
                   machines={"10.0.0.1": MachineState()}, silent="no answer")  # fmt: skip
    found = evaluate(bare)
    results = {one.check: one.result for one in found}
    assert results.pop("access") is Result.FAILED
    # There is no file of kube-proxy's.
    assert {results.pop("4.1.3"), results.pop("4.1.4")} == {Result.OK}
    assert set(results.values()) == {Result.UNKNOWN}
    assert set(results) | {"access", "4.1.3", "4.1.4"} == set(CHECKS)


# ---- reading ----------------------------------------------------------------------------------------------------------

MANIFEST = """apiVersion: v1
kind: Pod
spec:
  containers:
  - command: [kube-apiserver, --profiling=false, --service-account-issuer=a, --service-account-issuer=b, --flag]
    args: ["--audit-policy-file=/etc/policies/audit.yaml"]
    volumeMounts:
    - {name: policies, mountPath: /etc/policies}
    - {name: certs, mountPath: /etc/kubernetes/pki}
    - {name: token, mountPath: /var/run/token}
  volumes:
  - {name: policies, hostPath: {path: /srv/policies/}}
  - {name: certs, hostPath: {path: /etc/kubernetes/pki}}
  - {name: token, emptyDir: {}}
"""


def test_static_pod_manifest_gives_arguments_and_paths_on_machine() -> None:
    found = static_pod(MANIFEST.encode(), "x")
    assert found is not None
    assert found.arguments["service-account-issuer"] == ("a", "b")
    assert found.arguments["flag"] == ("true",)
    assert found.on_machine("/etc/policies/audit.yaml") == "/srv/policies/audit.yaml"
    assert found.on_machine("/etc/policies-of-others") == "/etc/policies-of-others"
    assert found.on_machine("/var/run/token/x") == "/var/run/token/x"


@pytest.mark.parametrize("text", ["", "[]", "{", "spec: {}", "spec: {containers: []}", "spec: {containers: [5]}", "a: &a [*a]", "spec: 5"])
def test_static_pod_invalid_manifest_is_none(text: str) -> None:
    assert static_pod(text.encode(), "x") is None


def test_parse_reads_files_and_options_and_ignores_invalid_lines() -> None:
    lines = ["file 600 root:root /etc/a b", "file 7x root:root /b", "file 644 ops:ops", "odd"]
    words = ["kubelet /usr/local/bin/kubelet", "kubelet --config=/x", "kubelet --v=2"]
    files, options = facts.parse("\n".join([*lines, *words]))
    assert files == {"/etc/a b": FileState(0o600, ROOT)}
    assert options == {"config": "/x", "v": "2"}


def test_state_encryption_config_is_not_read_and_option_like_path_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    node = StandIn("10.0.0.1", "one")
    node.answers = {"stat -L": "file 600 root:root /etc/kubernetes/admin.conf\n", "sed -n 's/^ *": "secretbox\n"}
    asked: list[str] = []

    def read_all(_: object, paths: list[str]) -> dict[str, bytes]:
        asked.extend(paths)
        manifest = MANIFEST.replace(
            "--flag", "--flag, --encryption-provider-config=/etc/kubernetes/pki/enc.yaml, '--authentication-config=-x'"
        )
        return {path: manifest.encode() for path in paths if path.endswith("kube-apiserver.yaml")}

    monkeypatch.setattr(facts, "read_files", read_all)
    monkeypatch.setattr(certificates, "certificates_of", lambda _: ())
    state = facts._state(node, NodeKubectl(node), Secured("lab", {"10.0.0.1": "control-plane"}, silent="x"))
    assert state.provider == "secretbox"
    assert "/srv/policies/audit.yaml" in asked
    assert not any("enc.yaml" in path or path.startswith("-") for path in asked)
    (command,) = [one for one in node.commands if "enc.yaml" in one]
    assert command.startswith("sed -n")


def test_kubectl_of_slipway_absent_falls_back_to_kubectl_of_machine() -> None:
    node = StandIn()
    assert facts._kubectl(NodeKubectl(node)) == NodeKubectl(node)

    def absent(command: str, **_: Any) -> Ran:
        return Ran((), 1, "", "")

    node.run = absent  # type: ignore[method-assign]
    assert facts._kubectl(NodeKubectl(node)).words == "HOME=/tmp KUBECONFIG=/etc/kubernetes/admin.conf kubectl"


def test_kubelet_configuration_is_read_from_api_else_from_file(monkeypatch: pytest.MonkeyPatch) -> None:
    node = StandIn("10.0.0.1", "one")
    node.answers = {"/proxy/configz": json.dumps({"kubeletconfig": {"podPidsLimit": 5}})}
    found = Secured("lab", {"10.0.0.1": "control-plane"}, names={"10.0.0.1": "one"})
    assert facts._kubelet(node, NodeKubectl(node), found) == {"podPidsLimit": 5}
    monkeypatch.setattr(facts, "read_files", lambda _, paths: dict.fromkeys(paths, b"podPidsLimit: 6\n"))
    node.broken = {"/proxy/configz"}
    assert facts._kubelet(node, NodeKubectl(node), found) == {"podPidsLimit": 6}


@pytest.mark.parametrize(
    ("details", "told"),
    [
        ('pods "x" is forbidden: violates PodSecurity "baseline:latest": privileged', 'pods "x" is forbidden: violates PodSecurity'),
        ('admission webhook "p.example.com" denied the request: no', "denied the request"),
        ('pods "x" is forbidden: exceeded quota: pods=10', None),
        ("Unable to connect to the server", None),
    ],
)
def test_privileged_pod_admission_is_tried_by_server_dry_run(details: str, told: str | None) -> None:
    node = StandIn()

    def refuse(command: str, **_: Any) -> None:
        node.commands.append(command)
        raise CommandError("x", details=details)

    node.run = refuse  # type: ignore[assignment, method-assign]
    said = facts._privileged(NodeKubectl(node))
    assert (told is None and said is None) or (told is not None and told in (said or ""))
    assert "--dry-run=server" in node.commands[0]
    assert facts._privileged(NodeKubectl(StandIn())) == ""


def test_against_cis_unknown_item_or_cluster_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--skip 9\.9\.9: no such check"):
        postflight.against_cis("lab", skip=["9.9.9"], home=tmp_path)
    with pytest.raises(UsageError, match="nothing is known of a cluster lab"):
        postflight.against_cis("lab", skip=["1.1.12,5.3.1"], home=tmp_path)

"""Clusterfiles written from values, read back; and without their secrets."""

from __future__ import annotations

import pytest

from harness.clusterfile import Clusterfile, ExternalRegistry, Host, JumpSettings, Password, SshSettings, Taint
from harness.clusterfile.config import apply_configs
from harness.clusterfile.parse import parse
from harness.clusterfile.write import generate, redacted, write
from harness.errors import InputError

from .reading import CASES, CLUSTERFILES, document, read, spec_text


def test_generate_writes_expected_clusterfile_text() -> None:
    text = generate(
        image="registry.example.com/shop:1.0",
        control_plane=["192.168.0.2", "192.168.0.3", "192.168.0.4"],
        workers=["192.168.0.5"],
        name="shop",
        env={"Port": "8443", "Debug": "yes"},
        user="admin",
        key="~/.ssh/id_ed25519",
        port=2222,
        registry=ExternalRegistry("harbor.example.com", path="shop", username="robot", password=Password(variable="HARBOR_PASSWORD")),
    )
    assert (
        text
        == """\
# Passwords are not written here. passwdFile: FILE or passwdEnv: NAME below ssh says where one is (passwordFile and
# passwordEnv below a registry); or give it when asked: slipway run --passwd -
apiVersion: slipway.dev/v1
kind: Cluster
metadata:
  name: shop
spec:
  image: registry.example.com/shop:1.0
  env:
    Port: '8443'
    Debug: 'yes'
  ssh:
    user: admin
    port: 2222
    pk: ~/.ssh/id_ed25519
  hosts:
    - ips:
        - 192.168.0.2
        - 192.168.0.3
        - 192.168.0.4
      roles:
        - control-plane
    - ips:
        - 192.168.0.5
      roles:
        - worker
  registry:
    externalRegistry:
      domain: harbor.example.com
      path: shop
      username: robot
      passwordEnv: HARBOR_PASSWORD
"""
    )


def test_generate_values_are_read_back_by_parse() -> None:
    ssh = SshSettings(user="me", key="k", port=22, jump=JumpSettings("h", "u", 2222))
    special = Host(
        ("10.0.0.9",),
        ("worker", "gpu"),
        SshSettings(port=2200),
        {"A": "b"},
        {"gpu": "true"},
        (Taint("gpu", "", "NoSchedule"), Taint("x", remove=True)),
    )
    text = generate(
        image="shop",
        control_plane=["10.0.0.1"],
        hosts=[special],
        env={"Empty": "", "Multi": "a\nb\n", "Quote": "it's: {x}"},
        user="me",
        key="k",
        port=22,
        jump=ssh.jump,
        commands=["kubectl apply -f a.yaml"],
        pod_cidr="100.64.0.0/10",
        svc_cidr="10.96.0.0/22",
        cert_sans=["api.example.com"],
        load_balancing="haproxy",
        kubeadm=[{"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration", "maxPods": 250}],
    )
    found = parse(text, "Clusterfile")
    cluster = found.cluster
    assert cluster is not None
    assert cluster.ssh == ssh
    assert cluster.hosts[0] == Host(("10.0.0.1",), ("control-plane",), ssh)
    assert cluster.hosts[1].ssh == SshSettings("me", 2200, "k", jump=ssh.jump)
    assert (cluster.hosts[1].taints, dict(cluster.hosts[1].labels)) == (special.taints, {"gpu": "true"})
    assert dict(cluster.env) == {"Empty": "", "Multi": "a\nb\n", "Quote": "it's: {x}"}
    assert (cluster.pod_cidr, cluster.svc_cidr, cluster.cert_sans) == ("100.64.0.0/10", "10.96.0.0/22", ("api.example.com",))
    assert (cluster.commands, cluster.load_balancing) == (("kubectl apply -f a.yaml",), "haproxy")
    assert found.kubeadm[0]["maxPods"] == 250
    assert parse(write(found), "Clusterfile") == found


EVERYTHING = "---\n".join(
    [
        spec_text(
            """
            env: [A=1, "B=x: y"]
            cmd: [a, "b: c"]
            cmd_args: [V=1]
            appNames: ['']
            provider: BAREMETAL
            ssh: {user: me, pk: k, passwdEnv: P, jump: "u@[fd00::1]:22"}
            hosts:
            - {ips: [10.0.0.1], roles: [master], ssh: {user: other, passwdFile: f, jump: {host: x, pk: y}}}
            - {ips: [10.0.0.2-10.0.0.4], roles: [gpu], env: [a=b], labels: {a: "1"}, taints: ["a=b:NoSchedule", "c-", "d:NoExecute-"]}
            network: {podCIDR: 10.1.0.0/16, svcCIDR: 10.2.0.0/16}
            certSANS: ["*.x"]
            containerRuntime: {type: containerd}
            hostAliases: [{ip: 1.1.1.1, hostnames: [a, b]}]
            registry: {localRegistry: {port: 5001, ha: false, insecure: true, cert: {subjectAltName: {ips: [1.1.1.1]}}},
                       externalRegistry: {domain: d, plainHttp: true}}
            dataRoot: /data/x
            loadBalancing: haproxy
            certificates: {validity: 36h}
            """
        ),
        document("Config", "path: a.yaml\ndata: |\n  a: 1\n\n    # b\n", name="c1"),
        document(
            "Config", "path: b.yaml\nstrategy: merge\nprocess: value|toBase64\nappName: x\ndata: {a: {b: ['1', 1, yes, ~]}}", name="c2"
        ),
        document("Plugin", "action: PreInstall|PostClean\ndata: a", name="h1"),
        document("Plugin", "action: post-install\ndata: 'a '", name="h2"),
        document("Hook", "phases: [PostInstall]\non: [gpu, 'a=b,c=', 10.0.0.1]\ndata: a", name="h3"),
        document("Plugin", "action: PostInstall\ntype: ETCD\non: /x", name="h4"),
        document("Plugin", "action: PreGuest\ntype: TAINT\ndata: 10.0.0.1 a-", name="h5"),
        document(
            "Application",
            "launchApps: [b]\nconfigs:\n"
            "- {name: a, env: [x=y], files: [{path: p.yaml, strategy: merge, data: {a: b}}], launch: {cmds: [z]}}",
        ),
        "apiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\napiServer: {certSANs: [x], extraArgs: {a: '1'}}\n",
    ]
)


def test_write_all_fields_round_trip() -> None:
    found = read(EVERYTHING)
    assert parse(write(found), "x") == found
    assert write(parse(write(found), "x")) == write(found)
    assert parse(redacted(found), "x") == found


@pytest.mark.parametrize("name", CLUSTERFILES[:4])
def test_write_cases_round_trip_without_passwords(name: str) -> None:
    found = parse((CASES / name).read_text(), name)
    again = parse(write(found), name)
    assert (again.configs, again.hooks, again.kubeadm) == (found.configs, found.hooks, found.kubeadm)
    if found.cluster is not None and again.cluster is not None:
        assert (again.cluster.image, again.cluster.env, again.cluster.pod_cidr) == (
            found.cluster.image, found.cluster.env, found.cluster.pod_cidr,
        )  # fmt: skip
        assert [host.count for host in again.cluster.hosts] == [host.count for host in found.cluster.hosts]
    assert "Sealer123" not in write(found)


SECRETS = "---\n".join(
    [
        spec_text(
            """
            env: {MysqlPassword: geheim1, Port: 80, API_TOKEN: geheim2}
            cmd: [helm install x --set mysql.password=geheim3, kubectl get pods]
            ssh: {passwd: geheim4, pkPasswd: geheim5, jump: {host: h, passwd: geheim6}}
            hosts: [{ips: [10.0.0.1], roles: [master], env: [secret_key=geheim7], ssh: {passwd: geheim8}}]
            registry: {externalRegistry: {domain: d, username: u, password: geheim9}}
            """
        ),
        document("Config", "path: a.yaml\ndata: |\n  mysql-passwd: geheim10\n", name="c1"),
        document("Config", "path: a.yaml\nprocess: toSecret\ndata: {a: geheim11}", name="c2"),
        document("Config", "path: b.yaml\ndata: {port: 5, passwordFile: '', tokens: [], password: $PASSWORD}", name="c3"),
        document("Hook", "phases: [pre-init-host]\ndata: |\n  export ROOT_PWD='geheim12'\n", name="h1"),
        document("Hook", 'phases: [pre-init-host]\ndata: |\n  test -n "$PASSWORD" && echo ok\n', name="h2"),
        document("Application", "configs: [{name: a, env: [Token=geheim13], files: [{path: p.yaml, data: {apiKey: geheim14}}]}]"),
        (
            "apiVersion: kubeadm.k8s.io/v1beta3\nkind: InitConfiguration\n"
            "certificateKey: geheim15\nbootstrapTokens: [{token: geheim16}]\nskipPhases: [x]\n"
        ),
    ]
)


def test_redacted_omits_secrets_and_keeps_other_values() -> None:
    found = read(SECRETS)
    kept = redacted(found)
    assert "geheim" not in kept
    assert "geheim" not in repr(found)
    again = parse(kept, "kept")
    assert again.cluster is not None
    assert again.cluster.env["Port"] == "80"
    assert again.cluster.commands is not None
    assert again.cluster.commands[1] == "kubectl get pods"
    assert [config.redacted for config in again.configs] == [True, True, False]
    assert [hook.redacted for hook in again.hooks] == [True, False]
    assert again.kubeadm == ({"apiVersion": "kubeadm.k8s.io/v1beta3", "kind": "InitConfiguration", "skipPhases": ["x"]},)
    assert again.cluster.external_registry == ExternalRegistry("d", username="u")


def test_apply_configs_redacted_data_is_refused() -> None:
    kept = parse(redacted(read(SECRETS)), "kept")
    with pytest.raises(InputError) as caught:
        apply_configs(kept.configs, {})
    assert [fault.where.split(" ")[-1] for fault in caught.value.faults] == ["c1", "c2"]


def test_redacted_is_deterministic_and_idempotent() -> None:
    found = read(SECRETS)
    kept = redacted(found)
    assert redacted(found) == kept
    assert redacted(parse(kept, "kept")) == kept


def test_write_omits_machine_passwords_and_explains_in_comment() -> None:
    found = read(spec_text("ssh: {passwd: geheim}\nhosts: [{ips: [10.0.0.1], roles: [master], ssh: {passwd: geheim2}}]"))
    text = write(found)
    assert "geheim" not in text
    assert text.startswith("# Passwords are not written here.")
    assert not write(read(spec_text("cmd: [a]"))).startswith("#")


def test_write_clusterfile_without_cluster_round_trips() -> None:
    found = Clusterfile("x", configs=read(document("Config", "path: a\ndata: b")).configs)
    assert parse(write(found), "x") == found

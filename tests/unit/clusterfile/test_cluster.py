"""Documents Cluster: keys, values, and the rules between them."""

from __future__ import annotations

import datetime

import pytest

from harness.clusterfile import ExternalRegistry, HostAlias, JumpSettings, LocalRegistry, Password, SshSettings, Taint, write
from harness.clusterfile.parse import parse

from .reading import cluster, faults, hints, read, spec_text

CONTROL_PLANE = "{ips: [10.0.0.1], roles: [master]}"


def test_cluster_with_all_fields_is_parsed() -> None:
    found = cluster(
        """
        env: [A=1, "B=x=y", C=]
        cmd: [kubectl apply -f a.yaml]
        cmd_args: [Version=1]
        appNames: [b, a]
        provider: BAREMETAL
        ssh: {user: me, pk: ~/.ssh/id, pkPasswd: s1, port: "2222", passwdEnv: PASS, jump: "hop@bastion.example.com:22"}
        hosts:
        - ips: [10.0.0.1-10.0.0.3]
          roles: [master]
        - ips: 10.0.1.1, 10.0.1.4-10.0.1.5
          roles: [worker, ingress]
          ssh: {port: 22, passwdFile: /run/pass}
          env: {etcd-dir: /data}
          labels: {ssd: true, example.com/disk: "1.20"}
          taints: ["a=b:NoSchedule", "c:NoExecute", "d=:PreferNoSchedule", "e-", "f:NoExecute-"]
        network: {podCIDR: 100.64.0.0/10, svcCIDR: 10.96.0.0/22}
        certSANS: [api.example.com, 10.9.9.9, "*.example.com", 10.9.9.9]
        containerRuntime: {type: containerd}
        hostAliases: [{ip: 1.2.3.4, hostnames: [foo.local, Bar]}]
        registry:
          localRegistry: {domain: sea.hub, port: 5000, username: u, password: p, ha: false, insecure: true,
                          cert: {subjectAltName: {dnsNames: [a.b], ips: [10.0.0.9]}}}
          externalRegistry: {domain: harbor.x, port: "443", path: /shop/, username: v, passwordEnv: HARBOR, ca: ca.pem}
        dataRoot: /data/slipway/
        loadBalancing: ipvs
        certificates: {validity: 10y}
        profile: cis
        """
    )
    jump = JumpSettings("bastion.example.com", "hop", 22)
    ssh = SshSettings("me", 2222, "~/.ssh/id", "s1", Password(variable="PASS"), jump)
    assert found.ssh == ssh
    assert dict(found.env) == {"A": "1", "B": "x=y", "C": ""}
    assert (found.commands, dict(found.command_args), found.app_names) == (("kubectl apply -f a.yaml",), {"Version": "1"}, ("b", "a"))
    assert found.control_plane == ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert found.workers == ("10.0.1.1", "10.0.1.4", "10.0.1.5")
    assert found.hosts[0].ssh == ssh
    worker = found.host("10.0.1.4")
    assert worker is not None
    assert worker.roles == ("worker", "ingress")
    assert worker.ssh == SshSettings("me", 22, "~/.ssh/id", "s1", Password(file="/run/pass"), jump)
    assert (dict(worker.env), dict(worker.labels)) == ({"etcd-dir": "/data"}, {"ssd": "true", "example.com/disk": "1.20"})
    assert worker.taints == (
        Taint("a", "b", "NoSchedule"),
        Taint("c", "", "NoExecute"),
        Taint("d", "", "PreferNoSchedule"),
        Taint("e", remove=True),
        Taint("f", "", "NoExecute", remove=True),
    )
    assert (found.pod_cidr, found.svc_cidr) == ("100.64.0.0/10", "10.96.0.0/22")
    assert found.cert_sans == ("api.example.com", "10.9.9.9", "*.example.com")
    assert found.host_aliases == (HostAlias("1.2.3.4", ("foo.local", "bar")),)
    assert found.local_registry == LocalRegistry("sea.hub", 5000, "u", Password("p"), False, True, ("a.b",), ("10.0.0.9",))
    assert found.external_registry == ExternalRegistry("harbor.x", 443, "shop", "v", Password(variable="HARBOR"), False, "ca.pem")
    assert found.external_registry.host == "harbor.x:443"
    assert (found.data_root, found.load_balancing, found.container_runtime) == ("/data/slipway", "ipvs", "containerd")
    assert found.certificate_validity == datetime.timedelta(days=3650)
    assert found.profile == "cis"


def test_cluster_repr_omits_secrets() -> None:
    found = cluster(
        """
        env: {Password: geheim}
        ssh: {passwd: geheim, pkPasswd: geheim, jump: {host: h, passwd: geheim, pkPasswd: geheim}}
        registry: {localRegistry: {username: u, password: geheim}, externalRegistry: {domain: d, username: u, password: geheim}}
        """
    )
    assert found.ssh.password.text == "geheim"
    assert "geheim" not in repr(found)


def test_cluster_env_scalars_keep_written_text() -> None:
    found = cluster("env: {A: 1.20, B: 0755, C: yes, D: null, E: '', F: 1e3}")
    assert dict(found.env) == {"A": "1.20", "B": "0755", "C": "yes", "D": "", "E": "", "F": "1e3"}


def test_cluster_env_duplicate_semicolon_and_reserved_values_are_warned_about() -> None:
    found = read(spec_text("env: [A=1, A=2, B=x;y, HostIP=1.1.1.1]"))
    assert found.cluster is not None
    assert dict(found.cluster.env) == {"A": "2", "B": "x;y"}
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        ("Clusterfile:6 .spec.env[1]", "A is given twice: the last value counts"),
        ("Clusterfile:6 .spec.env[2]", "B stays the text 'x;y'"),
        ("Clusterfile:6 .spec.env[3]", "HostIP describes the cluster itself; the value that is given is not used"),
    ]


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ("imge: x", ".spec.imge", "imge is not known here"),
        ("env: text", ".spec.env", "must be a list of NAME=VALUE or a mapping, not text"),
        ("env: [a]", ".spec.env[0]", "'a' has no value"),
        ("env: {a b: 1}", '.spec.env["a b"]', "'a b' is not a name for an environment value"),
        ("env: {a: [1]}", ".spec.env.a", "must be text, not a list"),
        ("cmd: kubectl", ".spec.cmd", "must be a list, not text"),
        ("cmd: [a, ~]", ".spec.cmd[1]", "is empty"),
        ("cmd: [5]", ".spec.cmd[0]", "must be text, not 5"),
        ("provider: AliCloud", ".spec.provider", "AliCloud is not known here"),
        ("provider: BAREMETALL", ".spec.provider", "BAREMETALL is not known here"),
        (
            "ssh: {encrypted: true}",
            ".spec.ssh.encrypted",
            "passwords encrypted by sealer are not read: the key is built into sealer and public",
        ),
        ("ssh: {port: 0}", ".spec.ssh.port", "0 is not a number from 1 to 65535"),
        ("ssh: {port: x}", ".spec.ssh.port", "x is not a number from 1 to 65535"),
        ("ssh: {passwd: a, passwdEnv: B}", ".spec.ssh.passwdEnv", "passwd is given too"),
        ("ssh: {passwdEnv: a-b}", ".spec.ssh.passwdEnv", "a-b is not allowed here"),
        ("ssh: {jump: 'a b'}", ".spec.ssh.jump", "a b is not a machine to jump over"),
        ("ssh: {jump: 'u@h:99999'}", ".spec.ssh.jump", "99999 is not a port"),
        ("ssh: {jump: [a]}", ".spec.ssh.jump", "must be text or a mapping, not a list"),
        ("ssh: {jump: {user: a}}", ".spec.ssh.jump.host", "is missing"),
        ("hosts: {}", ".spec.hosts", "must be a list, not a mapping"),
        ("hosts: [{ips: [10.0.0.300], roles: [master]}]", ".spec.hosts[0].ips[0]", "10.0.0.300 is not an address"),
        ("hosts: [{ips: [node/1], roles: [master]}]", ".spec.hosts[0].ips[0]", "node/1 is not an address"),
        ("hosts: [{ips: [10.0.0.1-node], roles: [master]}]", ".spec.hosts[0].ips[0]", "node is not an address"),
        ("hosts: [{ips: [-node], roles: [master]}]", ".spec.hosts[0].ips[0]", " is not an address"),
        ("sshHosts: {node: cp1}", ".spec.sshHosts.node", "node is not an address"),
        ("sshHosts: {10.0.0.1: 10.0.0.2}", '.spec.sshHosts["10.0.0.1"]', "10.0.0.2 is not a host name"),
        ("sshHosts: {10.0.0.1: 'a b'}", '.spec.sshHosts["10.0.0.1"]', "a b is not a host name"),
        ("sshHosts: {10.0.0.1: a, 10.0.0.2: a}", ".spec.sshHosts", "a is the name of two machines"),
        ("hosts: [{ips: [10.0.0.1], roles: [master]}]\nsshHosts: {10.0.0.2: a}", ".spec.sshHosts", "10.0.0.2 is not among the hosts"),
        ("hosts: [{ips: [0.0.0.0], roles: [master]}]", ".spec.hosts[0].ips[0]", "0.0.0.0 is not an address of a machine"),
        ("hosts: [{ips: [10.0.0.1-5], roles: [master]}]", ".spec.hosts[0].ips[0]", "10.0.0.1-5 is not a range"),
        ("hosts: [{ips: [10.0.0.9-10.0.0.1], roles: [master]}]", ".spec.hosts[0].ips[0]", "10.0.0.9-10.0.0.1 ends before it begins"),
        ("hosts: [{ips: [10.0.0.0-10.1.0.0], roles: [master]}]", ".spec.hosts[0].ips[0]", "10.0.0.0-10.1.0.0 are 65537 addresses"),
        (
            "hosts: [{ips: [10.0.0.1-fd00::1], roles: [master]}]",
            ".spec.hosts[0].ips[0]",
            "10.0.0.1-fd00::1 begins and ends in different families",
        ),
        (
            "hosts: [{ips: ['10.0.0.1,'], roles: [master]}]",
            ".spec.hosts[0].ips[0]",
            "10.0.0.1,: there is nothing between two commas, or at an end",
        ),
        ("hosts: [{ips: [10.0.0.1], roles: [mster]}]", ".spec.hosts[0].roles[0]", "mster is not a role"),
        (
            "hosts: [{ips: [10.0.0.1], roles: [master, node]}]",
            ".spec.hosts[0].roles[1]",
            "a machine is a control-plane node or a worker, not both",
        ),
        ("hosts: [{ips: [10.0.0.1]}]", ".spec.hosts[0].roles", "is missing"),
        ("hosts: [{roles: [master]}]", ".spec.hosts[0].ips", "is missing"),
        ("hosts: [{ips: [10.0.0.1], roles: [node]}]", ".spec.hosts", "there is no control-plane node"),
        ("hosts: [{ips: [10.0.0.1-10.0.0.2], roles: [master]}]", ".spec.hosts", "2 control-plane nodes"),
        ("hosts: [{count: 3, roles: [master]}]", ".spec.hosts[0].count", "3 machines are requested, and no provider makes them"),
        ("masters: {count: 3}", ".spec.masters.count", "3 machines are requested, and no provider makes them"),
        ("masters: {ipList: [10.0.0.1], count: 3}", ".spec.masters.count", "3 machines, and 1 addresses are given"),
        ("nodes: {ipList: [10.0.0.1]}", ".spec.nodes", "there is no control-plane node"),
        (f"hosts: [{CONTROL_PLANE}]\nmasters: {{ipList: [10.0.0.2]}}", ".spec.masters", "hosts is given too"),
        (
            f"hosts: [{CONTROL_PLANE}, {{ips: [10.0.0.1], roles: [node]}}]",
            ".spec.hosts[1].ips[0]",
            "10.0.0.1 is listed twice; the first is .spec.hosts[0].ips[0] in line 6",
        ),
        (
            f"hosts: [{CONTROL_PLANE}, {{ips: ['fd00::1'], roles: [node]}}]",
            ".spec.hosts[1].ips[0]",
            "fd00::1 is IPv6, and 10.0.0.1 is IPv4",
        ),
        ("hosts: [{ips: [10.0.0.1], roles: [master], labels: {-a: b}}]", '.spec.hosts[0].labels["-a"]', "-a is not a key"),
        (
            "hosts: [{ips: [10.0.0.1], roles: [master], labels: {A_b/c: b}}]",
            '.spec.hosts[0].labels["A_b/c"]',
            "A_b/c is not a key: 'A_b' is not a DNS name",
        ),
        ("hosts: [{ips: [10.0.0.1], roles: [master], labels: {a: b c}}]", ".spec.hosts[0].labels.a", "b c is not a value of a label"),
        ("hosts: [{ips: [10.0.0.1], roles: [master], taints: ['a=b']}]", ".spec.hosts[0].taints[0]", "a=b has no effect"),
        ("hosts: [{ips: [10.0.0.1], roles: [master], taints: ['a=b:NoSched']}]", ".spec.hosts[0].taints[0]", "NoSched is not an effect"),
        ("network: {podCIDR: 10.0.0.1/8}", ".spec.network.podCIDR", "10.0.0.1/8 is not a network: 10.0.0.1/8 has host bits set"),
        ("network: {podCIDR: 10.0.0.0/8, svcCIDR: 10.96.0.0/12}", ".spec.network.podCIDR", "10.0.0.0/8 and 10.96.0.0/12 overlap"),
        ("network: {podCIDR: 'fd00::/64'}", ".spec.network.podCIDR", "fd00::/64 is IPv6 alone"),
        ("network: {svcCIDR: 'fd00::/112,10.0.0.0/16'}", ".spec.network.svcCIDR", "fd00::/112,10.0.0.0/16 begins with IPv6"),
        (
            "network: {podCIDR: 'fd00::/64', svcCIDR: 'fd01::/112'}",
            ".spec.network.podCIDR",
            "fd00::/64 is IPv6 alone and fd01::/112 is IPv6 alone",
        ),
        (
            "network: {podCIDR: 10.0.0.0/16}\nenv: [PodCIDR=10.1.0.0/16]",
            ".spec.network.podCIDR",
            "10.0.0.0/16 is not what env says: PodCIDR=10.1.0.0/16",
        ),
        ("network: {withoutCNI: true}", ".spec.network.withoutCNI", "a cluster without a pod network never gets ready"),
        ("env: [SvcCIDR=x]", ".spec.env", "SvcCIDR: x is not a network: 'x' does not appear to be an IPv4 or IPv6 network"),
        ("env: [IPv6DualStack=maybe]", ".spec.env", "IPv6DualStack=maybe"),
        ("certSANS: [a_b]", ".spec.certSANS[0]", "a_b is not a host name"),
        (
            "containerRuntime: {type: docker}",
            ".spec.containerRuntime.type",
            "docker is not a container runtime here: Kubernetes has dropped it, and it pulls through no mirror of other registries",
        ),
        ("hostAliases: [{ip: 1.2.3.4}]", ".spec.hostAliases[0].hostnames", "is missing"),
        ("hostAliases: [{ip: x, hostnames: [a]}]", ".spec.hostAliases[0].ip", "x is not an address"),
        ("registry: {local: {}}", ".spec.registry.local", "local is not known here"),
        ("registry: {externalRegistry: {domain: 'h.x:5000'}}", ".spec.registry.externalRegistry.domain", "h.x:5000 holds a port"),
        ("registry: {externalRegistry: {port: 1}}", ".spec.registry.externalRegistry.domain", "is missing"),
        ("registry: {externalRegistry: {domain: d, password: p}}", ".spec.registry.externalRegistry.password", "a password without a user"),
        (
            "registry: {externalRegistry: {domain: d, plainHttp: true, ca: x}}",
            ".spec.registry.externalRegistry.ca",
            "a certificate means nothing over plain HTTP",
        ),
        ("registry: {externalRegistry: {domain: d, path: A}}", ".spec.registry.externalRegistry.path", "A is not a path within a registry"),
        ("registry: {localRegistry: {ha: 'true'}}", ".spec.registry.localRegistry.ha", "must be true or false, not text"),
        ("dataRoot: data", ".spec.dataRoot", "data is not a folder of its own"),
        ("dataRoot: /", ".spec.dataRoot", "/ is not a folder of its own"),
        ("loadBalancing: nginx", ".spec.loadBalancing", "nginx is not known here"),
        ("profile: stig", ".spec.profile", "stig is not known here"),
        ("certificates: {validity: 5x}", ".spec.certificates.validity", "5x is not a duration"),
        ("certificates: {validity: 5m}", ".spec.certificates.validity", "5m is too short"),
        ("certificates: {validity: 999y}", ".spec.certificates.validity", "999y is longer than a hundred years"),
    ],
)
def test_cluster_invalid_field_reports_path_and_message(spec: str, path: str, message: str) -> None:
    ((where, found),) = faults(spec_text(spec))
    assert where.split(" ")[1:] == path.split(" ")
    assert found == message


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("ssh: {pk: ~nosuchuser/id}", ".spec.ssh.pk"),
        ("ssh: {passwdFile: ~nosuchuser/secret}", ".spec.ssh.passwdFile"),
        ("ssh: {jump: {host: h, pk: ~nosuchuser/id}}", ".spec.ssh.jump.pk"),
        ("hosts: [{ips: [10.0.0.1], roles: [master], ssh: {pk: ~nosuchuser}}]", ".spec.hosts[0].ssh.pk"),
        (
            "registry: {externalRegistry: {domain: d, username: u, passwordFile: ~nosuchuser/p}}",
            ".spec.registry.externalRegistry.passwordFile",
        ),
        ("registry: {externalRegistry: {domain: d, ca: ~nosuchuser/ca.crt}}", ".spec.registry.externalRegistry.ca"),
    ],
)
def test_cluster_path_of_unknown_user_is_reported_with_other_faults(spec: str, path: str) -> None:
    text = spec_text(f"certSANS: [a_b]\n{spec}")
    unknown = "this machine has no user nosuchuser, or the user has no home folder"
    (other, fault) = faults(text)
    assert other == ("6 .spec.certSANS[0]", "a_b is not a host name")
    assert fault[0] == f"7 {path}"
    assert fault[1].endswith(unknown)
    # A cluster may have been given its Clusterfile on a machine that has the user.
    stored = parse(spec_text(spec), "Clusterfile", stored=True).cluster
    assert "~nosuchuser" in repr(stored)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("imge: x", "did you mean image?"),
        ("certSANs: [a]", "did you mean certSANS?"),
        ("hosts: [{ips: [10.0.0.1], role: [control-plane]}]", "did you mean roles?"),
        ("hosts: [{ips: [10.0.0.1], roles: [control-plan]}]", "did you mean control-plane?"),
        ("hosts: [{ips: [10.0.0.1], roles: [masters]}]", "did you mean control-plane?"),
        ("hosts: [{ips: [10.0.0.1], roles: [nodes]}]", "did you mean worker?"),
        ("ssh: {password: x}", "passwd, passwdFile or passwdEnv"),
        ("masters: {ips: [10.0.0.1]}", "did you mean ipList?"),
        ("provider: CONTAINR", "did you mean CONTAINER?"),
        ("network: {podCidr: x}", "did you mean podCIDR?"),
        ("hosts: [{ips: [10.0.0.1-5], roles: [master]}]", "write its last address in full: 10.0.0.1-10.0.0.5"),
        ("containerRuntime: {type: containerdd}", "did you mean containerd?"),
        ("zzz: 1", "known: image, env"),
    ],
)
def test_cluster_unknown_word_hint_names_nearest(spec: str, hint: str) -> None:
    (found,) = hints(spec_text(spec))
    assert hint in (found or "")


def test_cluster_many_faults_are_reported_in_line_order() -> None:
    text = spec_text("env: [bad]\nhosts:\n- ips: [10.0.0.1, x/y]\n  roles: [master]\n  lables: {}\nssh: {port: 0}\ncmd: a\n")
    assert [where for where, _ in faults(text)] == [
        "6 .spec.env[0]",
        "8 .spec.hosts[0].ips[1]",
        "10 .spec.hosts[0].lables",
        "11 .spec.ssh.port",
        "12 .spec.cmd",
    ]


def test_cluster_names_of_machines_stand_among_addresses() -> None:
    found = cluster(
        "hosts:\n- {ips: [node-1.example.com, 10.0.0.2-10.0.0.3], roles: [master]}\n- {ips: 'Gpu_1, 1-node', roles: [node]}\n"
        "sshHosts: {10.0.0.2: cp2}"
    )
    assert found.control_plane == ("node-1.example.com", "10.0.0.2", "10.0.0.3")
    assert found.workers == ("Gpu_1", "1-node")
    assert found.ssh_hosts == {"10.0.0.2": "cp2"}
    assert faults(spec_text("hosts: [{ips: [cp1, w1, cp1], roles: [master]}]"))[0][1].startswith("cp1 is listed twice")
    # A name has no family.
    assert faults(spec_text("hosts: [{ips: [cp1, 10.0.0.1, 'fd00::1'], roles: [master]}]"))[0][1] == "fd00::1 is IPv6, and 10.0.0.1 is IPv4"


def test_cluster_this_machine_is_written_for_the_user_and_not_into_the_record() -> None:
    text = spec_text("hosts: [{ips: [10.0.0.1-10.0.0.3], roles: [master]}]\nsshHosts: {10.0.0.1: localhost, 10.0.0.2: cp2}")
    given = read(text)
    assert given.cluster is not None
    assert given.cluster.ssh_hosts == {"10.0.0.1": "localhost", "10.0.0.2": "cp2"}
    assert "localhost" in write.write(given)
    assert "localhost" not in write.redacted(given)
    # A record that says so all the same: the machine that reads it is another one.
    stored = parse(text, "the stored Clusterfile", stored=True).cluster
    assert stored is not None
    assert stored.ssh_hosts == {"10.0.0.2": "cp2"}


def test_cluster_required_fields_missing_or_invalid_are_reported() -> None:
    assert faults("apiVersion: slipway.dev/v1\nkind: Cluster\n") == [("1 .metadata", "is missing"), ("1 .spec", "is missing")]
    assert faults("apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata:\nspec: {}\n") == [
        ("3 .metadata", "is missing"),
        ("4 .spec.image", "is missing"),
    ]
    assert faults("apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {name: A b}\nspec: {image: 'A//b'}\n") == [
        ("3 .metadata.name", "A b is not allowed here"),
        ("4 .spec.image", "'A//b' is not an image name: two slashes with nothing between, or one at an end"),
    ]


def test_cluster_null_and_empty_text_count_as_absent() -> None:
    found = cluster("ssh: {user: ~, passwd: '', pk: ~}\nprovider: ''\nnetwork:\nhosts:\ncmd: ~\nregistry:\n  localRegistry:\n")
    assert (found.ssh, found.provider, found.hosts, found.commands) == (SshSettings(), None, (), None)


def test_cluster_container_counts_are_summed_and_two_control_planes_are_refused() -> None:
    found = cluster(
        "provider: CONTAINER\nhosts: [{count: 3, roles: [master]}, {count: '2', roles: [node]}, {count: 1, roles: [node, gpu]}]"
    )
    assert (found.counted("control-plane"), found.counted("worker"), found.control_plane) == (3, 3, ())
    assert faults(spec_text("provider: CONTAINER\nmasters: {count: 2}")) == [("7 .spec.masters", "2 control-plane nodes")]


def test_cluster_dual_stack_networks_are_read() -> None:
    for env in ("{}", "[IPv6DualStack=true]"):
        found = cluster(f"env: {env}\nnetwork: {{podCIDR: '100.64.0.0/10, fd00:64::/64', svcCIDR: '10.96.0.0/22,fd00:96::/112'}}")
        assert (found.pod_cidr, found.svc_cidr) == ("100.64.0.0/10,fd00:64::/64", "10.96.0.0/22,fd00:96::/112")


def test_cluster_stored_with_mixed_address_families_is_read() -> None:
    text = spec_text(f"hosts: [{CONTROL_PLANE}, {{ips: ['fd00::1'], roles: [node]}}]\nnetwork: {{podCIDR: 'fd00:64::/64,100.64.0.0/10'}}")
    found = parse(text, "Clusterfile", stored=True).cluster
    assert found is not None
    assert (found.workers, found.pod_cidr) == (("fd00::1",), "fd00:64::/64,100.64.0.0/10")


def test_cluster_places_list_control_plane_first_with_roles_and_labels() -> None:
    found = cluster("hosts: [{ips: [10.0.0.2], roles: [gpu], labels: {a: b}}, {ips: [10.0.0.1], roles: [master]}]")
    assert [(place.address, place.roles, dict(place.labels)) for place in found.places] == [
        ("10.0.0.1", ("control-plane",), {}),
        ("10.0.0.2", ("worker", "gpu"), {"a": "b"}),
    ]


def test_cluster_app_names_blank_entry_differs_from_unset() -> None:
    assert cluster("appNames: ['']").app_names == ()
    assert cluster("appNames: []").app_names is None
    assert cluster("cmd: [a]").app_names is None


@pytest.mark.parametrize(
    ("text", "days"), [("8760h", 365), ("10y", 3650), ("90d", 90), ("8760h0m0s", 365), ("1y30d", 395), ("36h30m", 36.5 / 24)]
)
def test_cluster_certificate_validity_duration_text_is_converted(text: str, days: float) -> None:
    assert cluster(f"certificates: {{validity: {text}}}").certificate_validity == datetime.timedelta(days=days)


def test_cluster_pod_cidr_differing_from_kubeadm_is_refused() -> None:
    text = spec_text("network: {podCIDR: 10.1.0.0/16}") + (
        "---\napiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\nnetworking: {podSubnet: 10.2.0.0/16}\n"
    )
    assert faults(text) == [("8 .networking.podSubnet", "10.2.0.0/16 is not what the Cluster says: 10.1.0.0/16")]


def test_cluster_count_zero_with_addresses_is_warned_about() -> None:
    text = spec_text("masters: {count: '0', ipList: [10.0.0.1]}\nnodes: {count: '0'}", version="sealer.aliyun.com/v1alpha1")
    found = read(text)
    assert found.cluster is not None
    assert [(host.ips, host.count) for host in found.cluster.hosts] == [(("10.0.0.1",), None)]
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        ("Clusterfile:6 .spec.masters.count", "0 machines, and 1 addresses are given: the addresses count")
    ]
    assert faults(spec_text("masters: {count: '2', ipList: [10.0.0.1]}"))[0][1] == "2 machines, and 1 addresses are given"

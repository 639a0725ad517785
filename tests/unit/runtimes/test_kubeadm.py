"""Files and commands that start a cluster, and that an interrupted start resumes. Nodes are stand-ins."""

from __future__ import annotations

import base64
import dataclasses

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from harness.errors import CheckError, StoreError
from harness.process import ProcessResult
from harness.runtimes import ClusterNetwork, Facts, RuntimeCluster, profiles
from harness.runtimes.configuration import SERVING_CRT, SERVING_KEY, control_plane_config, worker_kubelet
from harness.runtimes.kubeadm import CLIENT_PEM, CONFIG, INSTANCE, Kubeadm
from harness.runtimes.kubeconfig import ADMIN, SUPER_ADMIN
from harness.runtimes.pki import ENCRYPTION, FILES, FOLDER, Pki, alternative_names, general_name
from tests.unit.runtimes.machines import CIS, FACTS, Machine, arguments, cluster, config, hardened, machine, member


def test_start_kubelet_writes_instance_config_on_worker() -> None:
    of = cluster(1, 1)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    kubeadm.start_kubelet(of.workers[0])
    data, mode, _ = machine(of.workers[0]).files[INSTANCE]
    assert (data, mode) == (b'containerRuntimeEndpoint: "unix:///run/containerd/containerd.sock"\n', 0o644)


@pytest.mark.parametrize(("version", "asks"), [("v1.31.0", True), ("v1.33.9", True), ("v1.34.0", False), ("v1.36.3", False)])
def test_registered_cri_socket_annotation_is_set_before_kubernetes_1_34_only(version: str, asks: bool) -> None:
    of = cluster(1, facts=Facts(version))
    Kubeadm(of).registered()
    assert any("kubeadm.alpha.kubernetes.io/cri-socket=unix:///" in command for command in machine(of.control_plane[0]).commands) is asks


def test_prepare_puts_new_keys_on_first_control_plane_node_only() -> None:
    of = cluster(3)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    assert machine(of.control_plane[0]).files[f"{FOLDER}/ca.key"][1] == 0o600
    assert f"{FOLDER}/ca.crt" not in machine(of.control_plane[1]).files


def test_prepare_after_killed_run_reuses_its_keys() -> None:
    of = cluster(3)
    before = Pki.make()
    machine(of.control_plane[2]).files = {f"{FOLDER}/{name}": (before.files[name], 0o600, "") for name in FILES}
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    assert kubeadm.pki.identity == before.identity
    assert machine(of.control_plane[0]).files[f"{FOLDER}/ca.crt"][0] == before.files["ca.crt"]


ENCRYPTED = f"{FOLDER}/{ENCRYPTION}"


def prepared(of: RuntimeCluster) -> Kubeadm:
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    return kubeadm


def test_prepare_secrets_key_is_same_on_all_control_plane_nodes_and_hidden() -> None:
    of = hardened(3, 1)
    kubeadm = prepared(of)
    for each in of.members:
        kubeadm.start_kubelet(each)
    keys = {machine(node).files[ENCRYPTED][:2] for node in of.control_plane}
    assert len(keys) == 1
    ((key, mode),) = keys
    assert mode == 0o600
    assert b"secretbox" in key
    assert ENCRYPTED not in machine(of.workers[0]).files
    assert prepared(of).pki.files[ENCRYPTION] == key
    # Not where lists of processes, logs or other machines see it.
    secret = yaml.safe_load(key)["resources"][0]["providers"][0]["secretbox"]["keys"][0]["secret"]
    said = "".join(command for each in of.members for command in machine(each).commands)
    assert secret not in said
    assert secret not in control_plane_config(of, of.control_plane[0], initial=False)
    assert secret not in repr(kubeadm.pki)


def test_prepare_after_killed_run_adds_missing_secrets_key() -> None:
    of = hardened(3)
    before = Pki.make()
    machine(of.control_plane[0]).files = {path: (file.data, file.mode, "") for path, file in before.placed.items()}
    kubeadm = prepared(of)
    assert kubeadm.pki.identity == before.identity
    assert ENCRYPTED in machine(of.control_plane[0]).files


def test_prepare_existing_secrets_key_is_used_and_different_keys_are_refused() -> None:
    of = hardened(3)
    plain = Pki.make()
    encrypting = plain.encrypting()
    for node, pki in zip(of.control_plane, (plain, encrypting, plain), strict=True):
        machine(node).files = {path: (file.data, file.mode, "") for path, file in pki.placed.items()}
    assert prepared(of).pki.files == encrypting.files
    for node in of.control_plane[1:]:
        machine(node).files = {path: (file.data, file.mode, "") for path, file in plain.encrypting().placed.items()}
    with pytest.raises(StoreError, match="control-plane-1 and control-plane-2 and control-plane-3 have different keys for Secrets"):
        prepared(of)


def test_prepare_cluster_begun_with_profile_is_refused_without_profile() -> None:
    of = hardened()
    prepared(of)
    with pytest.raises(StoreError, match="was begun with a profile") as wrong:
        prepared(dataclasses.replace(of, profile=profiles.of(None, 36)))
    assert "--profile cis" in str(wrong.value.hint)


def test_start_kubelet_hardened_serving_certificate_is_of_cluster_ca_with_own_names() -> None:
    of = hardened(1, 1)
    kubeadm = prepared(of)
    for each in of.members:
        kubeadm.start_kubelet(each)
        data, mode, _ = machine(each).files[SERVING_CRT]
        assert (mode, machine(each).files[SERVING_KEY][1]) == (0o644, 0o600)
        certificate = x509.load_pem_x509_certificate(data)
        assert kubeadm.pki.authority.signed(data)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {str(name.value) for name in names} == {each.name, each.address}
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [x509.oid.ExtendedKeyUsageOID.SERVER_AUTH]
    assert worker_kubelet(of, of.workers[0])["tlsCertFile"] == SERVING_CRT
    assert config(of)["KubeletConfiguration"]["tlsPrivateKeyFile"] == SERVING_KEY
    # A node that somebody joins by hand has none.
    assert "tlsCertFile" not in config(of, initial=False)["KubeletConfiguration"]
    plain = cluster(1, 1)
    prepared(plain).start_kubelet(plain.workers[0])
    assert SERVING_CRT not in machine(plain.workers[0]).files


def test_hardened_kubelet_units_and_config_are_readable_by_root_only() -> None:
    of = hardened(1, 1)
    kubeadm = prepared(of)
    node, worker = of.members
    units = kubeadm.units
    assert {file.mode for file in units.values() if file.link is None} == {0o600}
    assert any(b"sysctl" in file.data for file in units.values())
    kubeadm.start_kubelet(worker)
    assert machine(worker).files["/var/lib/kubelet/config.yaml"][1] == 0o600
    kubeadm.start_kubelet(node)
    assert "chmod 600 /var/lib/kubelet/config.yaml" in machine(node).commands[-1]
    assert f"chmod 700 {profiles.AUDIT}" in machine(node).commands[-1]
    assert {file.mode for file in Kubeadm(cluster()).units.values() if file.link is None} == {0o644}


def test_start_kubelet_and_configure_write_profile_files_on_control_plane_only() -> None:
    of = hardened(1, 1)
    kubeadm = prepared(of)
    kubeadm.start_kubelet(of.control_plane[0])
    assert set(CIS.files) <= set(machine(of.control_plane[0]).files)
    kubeadm.start_kubelet(of.workers[0])
    assert not set(CIS.files) & set(machine(of.workers[0]).files)
    # So in an upgrade.
    machine(of.control_plane[0]).files.clear()
    kubeadm.configure(of.control_plane[0])
    assert set(CIS.files) <= set(machine(of.control_plane[0]).files)


def test_prepare_control_plane_keys_of_different_clusters_are_refused() -> None:
    of = cluster(3)
    for index in (0, 1):
        pki = Pki.make()
        machine(of.control_plane[index]).files = {f"{FOLDER}/{name}": (pki.files[name], 0o600, "") for name in FILES}
    with pytest.raises(StoreError, match="control-plane-1 and control-plane-2 have the keys of different clusters"):
        Kubeadm(of).prepare()


def test_start_kubelet_worker_gets_client_certificate_without_cluster_keys() -> None:
    of = cluster(1, 1)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    kubeadm.start_kubelet(of.workers[0])
    files = machine(of.workers[0]).files
    assert [path for path in files if path.startswith(FOLDER)] == [f"{FOLDER}/ca.crt"]
    # As TLS bootstrap leaves it: a dated file and a link to it, which the kubelet replaces when it rotates.
    dated = files[CLIENT_PEM][2]
    assert dated.startswith("/var/lib/kubelet/pki/kubelet-client-2")
    assert files[dated][1] == 0o600
    assert b"BEGIN CERTIFICATE" in files[dated][0]
    assert b"PRIVATE KEY" in files[dated][0]
    access = yaml.safe_load(files["/etc/kubernetes/kubelet.conf"][0])
    assert access["users"][0]["user"] == {"client-certificate": CLIENT_PEM, "client-key": CLIENT_PEM}
    assert access["clusters"][0]["cluster"]["server"] == "https://apiserver.cluster.local:6443"
    assert any("systemctl restart kubelet" in command for command in machine(of.workers[0]).commands)


def test_start_control_plane_runs_kubeadm_phases_with_config_of_node() -> None:
    of = cluster(3, 1)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    second = of.control_plane[1]
    kubeadm.start_kubelet(second)
    kubeadm.certify(second)
    kubeadm.start_control_plane(second)
    said = "\n".join(machine(second).commands)
    for phase in ("kubelet-start", "certs all", "etcd local", "control-plane apiserver"):
        assert f"init phase {phase} --config {CONFIG}" in said
    assert "advertiseAddress: 10.0.0.2" in machine(second).files[CONFIG][0].decode()
    assert machine(second).files[CONFIG][1] == 0o600


def test_certify_admin_kubeconfigs_have_groups_of_kubeadm() -> None:
    of = cluster()
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    kubeadm.certify(of.control_plane[0])

    def subject(pem: bytes) -> tuple[str, list[str]]:
        found = x509.load_pem_x509_certificate(pem).subject
        ((name,), groups) = (
            [str(part.value) for part in found.get_attributes_for_oid(oid)] for oid in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME)
        )
        return name, groups

    def user(path: str) -> tuple[str, list[str]]:
        found = yaml.safe_load(machine(of.control_plane[0]).get(path))
        return subject(base64.b64decode(found["users"][0]["user"]["client-certificate-data"]))

    assert user(ADMIN) == ("kubernetes-admin", ["kubeadm:cluster-admins"])
    assert user(SUPER_ADMIN) == ("kubernetes-super-admin", ["system:masters"])
    client = machine(of.control_plane[0]).get(f"{FOLDER}/apiserver-kubelet-client.crt")
    assert subject(client) == ("kube-apiserver-kubelet-client", ["kubeadm:cluster-admins"])
    # The kubeconfigs are ours: kubeadm would make an RSA key for each.
    assert not any("phase kubeconfig" in command for command in machine(of.control_plane[0]).commands)


def test_wait_api_binds_admin_group_after_readyz_with_super_admin() -> None:
    of = cluster(3)
    Kubeadm(of).wait_api(of.control_plane[1], 5)
    (script,) = machine(of.control_plane[1]).commands
    # Whom no rule need name asks whether it is ready: others learn nothing before there are rules.
    settings = script.split("\nkubectl()")[0].splitlines()
    assert {f"ADMIN={ADMIN}", f"SUPER_ADMIN={SUPER_ADMIN}", "GROUP=kubeadm:cluster-admins", "PORT=192B", "TIMEOUT=5"} <= set(settings)
    first_use = script.index("get --raw /readyz")
    assert script.index("[ ! -f $SUPER_ADMIN ] || ADMIN=$SUPER_ADMIN") < first_use < script.index("create clusterrolebinding $GROUP")
    assert "--clusterrole=cluster-admin --group=$GROUP" in script
    assert "already exists" in script


def test_hasten_restarts_kubelet_whose_node_has_no_list_of_drivers_yet() -> None:
    of = cluster(1)
    Kubeadm(of).hasten(of.control_plane[0])
    (script,) = machine(of.control_plane[0]).commands
    assert f"NAME={of.control_plane[0].name}" in script.splitlines()
    # As the kubelet itself: a worker has no other way in. Without an answer nothing is restarted.
    assert "KUBECONFIG=/etc/kubernetes/kubelet.conf" in script
    assert script.index("|| exit 0") < script.index('[ -n "$drivers" ] || systemctl restart kubelet')


def test_finish_cluster_phases_run_once_on_first_control_plane_node_only() -> None:
    of = cluster(3)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    before = [len(machine(node).commands) for node in of.control_plane]
    kubeadm.finish({"dns.yaml": "kind: Deployment"})
    once = ("upload-config all", "bootstrap-token", "addon kube-proxy", "addons/dns.yaml")
    first, *others = (machine(node).commands[count:] for node, count in zip(of.control_plane, before, strict=True))
    for phase in once:
        assert " ".join(first).count(phase) == 1
    # Another control-plane node may be far behind: a first run was cut off before it had its rootfs.
    assert others == [[], []]
    for node in of.control_plane:
        kubeadm.welcome(node)
        assert "mark-control-plane" in machine(node).commands[-1]


def test_update_uploads_config_and_addons_from_first_control_plane_node_only() -> None:
    of = cluster(3)
    kubeadm = Kubeadm(of)
    kubeadm.update({"network.yaml": "kind: DaemonSet"})
    first, *others = (" ".join(machine(node).commands) for node in of.control_plane)
    for phase in ("upload-config all", "addon kube-proxy", "addons/network.yaml", "maxUnavailable"):
        assert first.count(phase) == 1
    assert "mark-control-plane" not in first
    assert "--server-side" not in first
    assert others == ["", ""]


def test_configure_running_control_plane_node_writes_config_without_phases() -> None:
    of = dataclasses.replace(cluster(1, facts=Facts("v1.36.4", etcd_image_tag="3.6.8-0")), added_names=("api.example.com",))
    kubeadm = Kubeadm(of)
    kubeadm.configure(of.control_plane[0])
    written = machine(of.control_plane[0]).files
    assert b"kubernetesVersion: v1.36.4" in written["/var/lib/slipway/kubeadm.yaml"][0]
    # Names that the API server was given meanwhile are still its own.
    assert b"api.example.com" in written["/var/lib/slipway/kubeadm.yaml.upload"][0]
    assert not any("phase" in command for command in machine(of.control_plane[0]).commands)
    kubeadm.start_controllers(of.control_plane[0])
    assert "phase control-plane scheduler" in machine(of.control_plane[0]).commands[-1]


def test_apply_addons_waits_for_ready_node_with_limit() -> None:
    of = cluster(1)
    kubeadm = Kubeadm(of)
    kubeadm.apply({"dns.yaml": "kind: Deployment"}, timeout=5)
    node = machine(of.control_plane[0])
    waiting = next(index for index, command in enumerate(node.commands) if "get nodes" in command)
    applying = next(index for index, command in enumerate(node.commands) if "apply" in command)
    assert waiting < applying
    assert "not-ready" in node.commands[waiting]
    # The script ends by itself before its command is cut off, and without an error: the manifests are applied in any case.
    assert node.commands[waiting].startswith("end=$(($(date +%s) + 5))\n")
    assert '[ "$(date +%s)" -lt "$end" ] || break' in node.commands[waiting].splitlines()[2]
    assert 5 < node.timeouts[waiting] <= 60
    assert node.files["/var/lib/slipway/addons/dns.yaml"][0] == b"kind: Deployment"


@pytest.mark.parametrize(("labels", "named"), [("{slipway.dev/addon: dns}", False), ("{app: dns}", True), ("[]", True), ("{", True)])
def test_apply_addon_is_labelled_unless_manifest_has_label(labels: str, *, named: bool) -> None:
    of = cluster(1)
    manifest = f"apiVersion: v1\nkind: Service\nmetadata: {{name: dns, labels: {labels}}}\n"
    Kubeadm(of).apply({"my dns.yaml": manifest}, timeout=5)
    (command,) = (one for one in machine(of.control_plane[0]).commands if " apply " in one)
    label = "label --overwrite -f /var/lib/slipway/addons/'my dns.yaml' slipway.dev/addon=my-dns"
    assert (label in command) is named


def test_finish_without_own_dns_of_image_installs_all_kubeadm_addons() -> None:
    of = cluster(1, own_dns=False)
    kubeadm = Kubeadm(of)
    kubeadm.prepare()
    kubeadm.finish({})
    assert any("addon all" in command for command in machine(of.control_plane[0]).commands)


def test_wait_api_not_ready_raises_with_pod_logs() -> None:
    of = cluster(1)
    kubeadm = Kubeadm(of)
    machine(of.control_plane[0]).answers = {
        "/readyz": ProcessResult((), 1, "The connection to the server was refused", ""),
        "/var/log/pods": ProcessResult((), 0, "etcd:\nbind: address already in use", ""),
    }
    with pytest.raises(CheckError, match="the API of control-plane-1 does not answer after 5 s: The connection") as caught:
        kubeadm.wait_api(of.control_plane[0], 5)
    assert "address already in use" in str(caught.value.details)


def test_join_store_etcd_initial_cluster_is_existing_with_given_members() -> None:
    found = cluster(3)
    runtime = Kubeadm(found)
    runtime.join_store(found.control_plane[2], "control-plane-2=https://10.0.0.2:2380,control-plane-3=https://10.0.0.3:2380")
    node = machine(found.control_plane[2])
    written = {document["kind"]: document for document in yaml.safe_load_all(node.files[CONFIG][0])}
    given = arguments(written["ClusterConfiguration"]["etcd"]["local"]["extraArgs"])
    assert given["initial-cluster"] == "control-plane-2=https://10.0.0.2:2380,control-plane-3=https://10.0.0.3:2380"
    assert given["initial-cluster-state"] == "existing"
    assert "init phase etcd local" in node.commands[-1]
    runtime.join_control_plane(found.control_plane[2])
    assert "init phase control-plane apiserver" in node.commands[-1]
    assert "etcd" not in node.commands[-1].replace(CONFIG, "")


def test_prepare_unreachable_control_plane_node_is_skipped() -> None:
    control_plane = (dataclasses.replace(member(1), away=True), member(2), member(3))
    found = RuntimeCluster("lab", FACTS, ClusterNetwork("100.64.0.0/10", "10.96.0.0/22"), control_plane)
    runtime = Kubeadm(found)
    runtime.prepare()
    assert runtime.first is control_plane[1]
    assert machine(control_plane[0]).commands == []
    assert f"{FOLDER}/ca.key" in machine(control_plane[1]).files


def test_welcome_marks_control_plane_node_and_uploads_config_with_its_address() -> None:
    found = cluster(2)
    kubeadm = Kubeadm(found)
    kubeadm.configure(found.control_plane[1])
    node = machine(found.control_plane[1])
    node.commands.clear()
    kubeadm.welcome(found.control_plane[1])
    (command,) = node.commands
    assert f"init phase mark-control-plane --config {CONFIG}.upload" in command
    assert f"init phase upload-config kubeadm --config {CONFIG}.upload" in command
    # kubeadm adds the endpoint of this node to the addresses that the cluster keeps.
    documents = {each["kind"]: each for each in yaml.safe_load_all(node.files[f"{CONFIG}.upload"][0])}
    assert documents["InitConfiguration"]["localAPIEndpoint"]["advertiseAddress"] == "10.0.0.2"
    kubeadm.welcome(found.control_plane[0])
    (command,) = machine(found.control_plane[0]).commands
    assert "upload-config" not in command


def test_certify_sans_of_documents_are_in_certificates() -> None:
    documents = (
        {
            "apiVersion": "kubeadm.k8s.io/v1beta2",
            "kind": "ClusterConfiguration",
            "apiServer": {"certSANs": ["a.example.com", "10.9.9.9"]},
            "etcd": {"local": {"serverCertSANs": ["etcd.example.com"]}},
        },
    )
    runtime = Kubeadm(cluster(documents=documents))
    runtime.prepare()
    node = runtime.first
    runtime.certify(node)
    assert isinstance(node.node, Machine)
    for name, hosts in (("apiserver", ["a.example.com", "10.9.9.9", "10.0.0.1"]), ("etcd/server", ["etcd.example.com", "10.0.0.1"])):
        certificate = x509.load_pem_x509_certificate(node.node.files[f"{FOLDER}/{name}.crt"][0])
        assert {general_name(host) for host in hosts} <= set(alternative_names(certificate))

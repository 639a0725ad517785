"""Every Clusterfile of tests/cases means what it means in sealer, or is refused with the reason."""

from __future__ import annotations

import pytest

from harness.clusterfile import Clusterfile, Phase, Selector
from harness.clusterfile import hooks as clusterfile_hooks
from harness.clusterfile.config import apply_configs
from harness.clusterfile.environment import environment
from harness.clusterfile.parse import parse
from harness.errors import InputError

from .reading import CASES, CLUSTERFILES


def case(name: str) -> Clusterfile:
    return parse((CASES / name).read_text(), name)


def refusals(name: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        case(name)
    return [f"{fault.where.removeprefix(f'{name}:')}: {fault.message}" for fault in caught.value.faults]


def test_cases_list_names_all_clusterfiles_on_disk() -> None:
    found = {str(path.relative_to(CASES)) for path in CASES.rglob("*") if path.is_file() and "Clusterfile" in path.name}
    found |= {str(path.relative_to(CASES)) for path in (CASES / "sealer/apply/fixtures").iterdir()}
    assert found == set(CLUSTERFILES)


def test_case_dashboard_port_is_read_and_flag_overrides_clusterfile_env() -> None:
    found = case("dashboard-port/Clusterfile")
    assert found.cluster is not None
    assert (found.cluster.name, found.cluster.image, found.cluster.hosts) == ("my-cluster", "mydashboard:latest", ())
    assert (found.cluster.ssh.key, bool(found.cluster.ssh.password)) == ("xxx", False)
    assert environment({"DashBoardPort": "443"}, found, {}) == {"DashBoardPort": "6443"}
    assert environment({}, found, {"DashBoardPort": "8443"}) == {"DashBoardPort": "8443"}


def test_case_config_overwrite_replaces_whole_files() -> None:
    found = case("config-overwrite/Clusterfile")
    assert found.cluster is not None
    assert found.cluster.image == "registry.cn-qingdao.aliyuncs.com/sealer-app/my-saas-all-in-one:latest"
    written = apply_configs(found.configs, {"etc/mysql-values.yaml": b"mysql-user: nobody\nother: 1\n"})
    assert written == {
        "etc/mysql-values.yaml": b"mysql-user: root\nmysql-passwd: xxx\n",
        "etc/redis-values.yaml": b"redis-user: root\nredis-passwd: xxx\n",
    }


def test_case_as_written_env_and_configs_are_applied_and_image_name_is_lowered() -> None:
    """An image with capitals, files under names that an author has mistyped, and no machines."""
    environments, configs = case("as-written/environment/Clusterfile"), case("as-written/configuration/Clusterfile")
    assert environments.cluster is not None
    assert (environments.cluster.image, environments.cluster.hosts) == ("mydashobard:latest", ())
    assert environment({}, environments, {}) == {"DashBoardPort": "6443"}
    assert configs.cluster is not None
    assert configs.cluster.image == "registry.cn-qingdao.aliyuncs.com/sealer-app/my-saas-all-inone:latest"
    assert [warning.message.partition(": ")[2] for warning in configs.warnings if "my-SAAS-all-inone" in warning.message] == [
        f"names of images have no capitals; {configs.cluster.image} is taken"
    ]
    assert apply_configs(configs.configs, {"etc/mysql-valus.yaml": b"mysql-user: nobody\n"}) == {
        "etc/mysql-valus.yaml": b"mysql-user: root\nmysql-passwd: xxx\n",
        "etc/redis-valus.yaml": b"redis-user: root\nredis-passwd: xxx\n",
    }


def test_case_container_provider_counts_nodes_and_warns_of_machine_sizes() -> None:
    found = case("sealer/apply/fixtures/cluster_file_for_test.yaml")
    cluster = found.cluster
    assert cluster is not None
    assert (cluster.name, cluster.provider) == ("my-test-cluster", "CONTAINER")
    assert cluster.image == "docker.io/sealerio/kubernetes:v1-22-15-sealerio-2"
    assert (cluster.counted("control-plane"), cluster.counted("worker")) == (1, 1)
    assert (cluster.pod_cidr, cluster.svc_cidr) == ("100.64.0.0/10", "10.96.0.0/22")
    assert cluster.cert_sans == ("aliyun-inc.com", "10.0.0.2")
    assert (cluster.ssh.user, cluster.ssh.password.text) == ("root", "Sealer123")
    assert environment({}, found, {}) == {
        "PodCIDR": "100.64.0.0/10",
        "SvcCIDR": "10.96.0.0/22",
        "CertSANs": "aliyun-inc.com,10.0.0.2",
    }
    # Sizes of machines that were to be bought mean nothing for containers; that is said once.
    assert [warning.where for warning in found.warnings] == [f"{found.path}:27 .spec.masters.cpu"]


def test_case_without_cluster_configs_and_plugins_are_read() -> None:
    found = case("sealer/apply/fixtures/config_plugin_for_test.yaml")
    assert found.cluster is None
    assert apply_configs(found.configs, {}) == {"etc/mysql.yaml": b"test\n", "etc/redis.yaml": b"test\n"}
    assert [(hook.name.removeprefix("clusterfile_"), [phase.name for phase in hook.phases]) for hook in found.hooks] == [
        ("originally", ["ORIGINALLY"]),
        ("prejoin", ["PRE_JOIN"]),
        ("PostInstall_PostJoin", ["POST_JOIN", "POST_LAUNCH"]),
        ("postjoin", ["POST_JOIN"]),
        ("preclean", ["PRE_CLEAN_HOST"]),
        ("postclean", ["POST_CLEAN_HOST"]),
        ("postinstall", ["POST_LAUNCH"]),
    ]
    assert [hook.on for hook in found.hooks if hook.on] == [(Selector(labels=(("sealer-test", "true"),)),)]
    assert found.hooks[2].data == 'hostname && echo "PostInstall|PostJoin from Clusterfile on sealer-test=true" `date`\n'
    assert [hook.name for hook in clusterfile_hooks.at(found.hooks, Phase.POST_JOIN)] == [
        "clusterfile_PostInstall_PostJoin",
        "clusterfile_postjoin",
    ]


def test_case_cloud_provider_and_second_cluster_reports_all_faults() -> None:
    assert refusals("sealer/utils/test/file/Clusterfile") == [
        "17 .kind: KubeadmConfig was proposed for sealer, which never reads it",
        "46 .spec.image: is missing",
        "53 .spec.hosts[0].role: role is not known here",
        "59 .spec.hosts[1].role: role is not known here",
        "149 .nodeRegistration.criSocket: /var/run/dockershim.sock is docker's, which is not a container runtime here",
        "152: a second Cluster; the first is in line 42",
    ]


def test_case_without_refused_documents_remaining_documents_are_read() -> None:
    name = "sealer/utils/test/file/Clusterfile"
    parts = (CASES / name).read_text().split("\n---\n")
    good = [part for part in parts if "kind: KubeadmConfig" not in part and "ALI_CLOUD" not in part and "dockershim" not in part]
    found = parse("\n---\n".join(good), name)
    assert [document["kind"] for document in found.kubeadm] == ["KubeletConfiguration", "ClusterConfiguration"]
    assert found.kubeadm[0]["evictionHard"]["nodefs.available"] == "10%"
    assert found.kubeadm[0]["podPidsLimit"] == -1
    assert found.kubeadm[1]["apiServer"] == {"certSANs": ["default.raw.config"]}
    by_name = {hook.name: hook for hook in found.hooks}
    assert clusterfile_hooks.labels(by_name["LABEL"]) == {"172.17.102.186": {"ssd": "true"}}
    assert clusterfile_hooks.host_names(by_name["HOSTNAME"]) == {"172.17.102.186": "master-0"}
    assert by_name["HOSTNAME"].phases == (Phase.PRE_INIT,)
    assert environment({}, found, {}) == {"PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/22"}


def test_case_slash_comments_are_refused() -> None:
    assert refusals("sealer/utils/test/file/v1Clusterfile") == ["1: // begins no comment in YAML"]


def test_case_yaml_comments_and_cloud_provider_is_read_with_warnings() -> None:
    text = (CASES / "sealer/utils/test/file/v1Clusterfile").read_text().replace("//", "#")
    found = parse(text, "v1Clusterfile")
    cluster = found.cluster
    assert cluster is not None
    assert cluster.control_plane == ("172.16.0.194", "172.16.0.196", "172.16.0.195")
    assert cluster.workers == ("172.16.0.198", "172.16.0.199", "172.16.0.197")
    assert cluster.hosts[0].count is None
    assert [warning.message.split(":")[0] for warning in found.warnings] == [
        "cpu, memory and disks of machines are not used; spec.cloud has the size of those that a cloud makes",
        "network.cniName",
        "network.interface",
    ]


def test_case_repr_omits_passwords() -> None:
    for name in CLUSTERFILES[:4]:
        shown = repr(case(name))
        assert "Sealer123" not in shown
        assert "passwd: xxx" not in shown

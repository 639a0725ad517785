"""What ``run`` will do, what it refuses, and what it writes down. No machine is asked anything."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from harness import cloudimage, log
from harness.cloudimage import EmbeddedImage, ImageApp, ImageSet, Info, PlatformImage
from harness.clusterfile import is_redacted
from harness.errors import CommandError, InputError, NodeError, SlipwayError, StoreError, UsageError
from harness.lifecycle import plan as planning
from harness.lifecycle import run, steps
from harness.lifecycle.checks.preflight.gather import MachineFacts
from harness.lifecycle.provision import ipvs, registry
from harness.nodes import Login, Machine
from harness.oci.layer import scan, write_layer
from harness.oci.model import Platform
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.runtimes.kubeadm import Kubeadm
from harness.runtimes.pki import Pki
from tests.unit.lifecycle.standin import StandIn

KEYS = Pki({"ca.crt": b"of one cluster"})
LOGIN = Credential("slipway", "0123456789abcdef" * 4)
FACTS = "kubernetes: v1.36.3\nimageRepository: registry.example.org\n"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    return Store(tmp_path / "store")


def build(store: Store, name: str = "web", files: Mapping[str, str] | None = None, *, network: bool = True, **info: Any) -> None:
    """A small CloudImage in the store."""
    root = store.root.parent / f"root-{name}"
    usual = {"etc/slipway.yaml": FACTS, "etc/addons/dns.yaml": "kind: Service"}
    cni = {"etc/cni/10-own.conflist": "{}"} if network else {}
    for path, text in {**cni, **(usual if files is None else files)}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    layer = write_layer(scan(root), store)
    image = PlatformImage(Platform.parse("linux/amd64"), (layer.descriptor,), (layer.diff_id,), info=Info(kubernetes="v1.36.3", **info))
    store.tag(name, cloudimage.write(store, [image]))


def machines(*addresses: str, **login: Any) -> tuple[Machine, ...]:
    return tuple(Machine(address, Login(**login)) for address in addresses)


def options(masters: int = 1, nodes: int = 0, /, **changes: Any) -> run.Options:
    given = {
        "image": "web",
        "masters": machines(*(f"10.0.0.{number + 1}" for number in range(masters))),
        "nodes": machines(*(f"10.0.0.{number + 101}" for number in range(nodes))),
    }
    return run.Options(**{**given, **changes})


def prepared(store: Store, masters: int = 1, nodes: int = 0, /, **changes: Any) -> steps.Setup:
    """A setup whose machines have told about themselves."""
    setup = run.prepare(options(masters, nodes, **changes), store)
    setup.machines = {node.address: MachineFacts(host=f"host-{node.address[-1]}", arch="amd64") for node in setup.nodes}
    setup.login = LOGIN
    return setup


def ids(setup: steps.Setup) -> list[str]:
    return [step.id for step in run.plan(setup)]


@pytest.mark.parametrize("master", [True, False])
def test_images_are_fetched_in_the_order_in_which_a_node_needs_them(master: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = {"metrics.yaml": "      image: r/metrics:1\n", steps.NETWORK_ADDON: "    - image: 'x'\n      image: r/network:1\n"}
    monkeypatch.setattr(steps, "addons", lambda _: shown)
    names = [
        "r/app:1",
        "r/coredns/coredns:v1",
        "r/etcd:3",
        "r/metrics:1",
        "r/kube-apiserver:v1",
        "r/kube-proxy:v1",
        "r/network:1",
        "r/pause:3",
    ]
    setup: Any = SimpleNamespace(
        images=SimpleNamespace(images=[SimpleNamespace(name=name) for name in names]),
        facts=SimpleNamespace(pause_image="r/pause:3"),
        member=lambda _: SimpleNamespace(is_master=master),
    )
    control = ["r/etcd:3", "r/kube-apiserver:v1"] if master else []
    assert steps.essential(setup, StandIn()) == [
        "r/pause:3",
        *control,
        "r/network:1",
        "r/kube-proxy:v1",
        "r/coredns/coredns:v1",
        "r/metrics:1",
    ]


def test_a_plan_is_made_and_described_without_touching_anything(store: Store) -> None:
    build(store, launch=("kubectl apply -f manifests",))
    described = planning.describe(run.plan(run.prepare(options(3, 2), store)))
    by_id = {step["id"]: step for step in described}
    assert by_id["send-rootfs"]["nodes"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.101", "10.0.0.102"]
    assert by_id["send-images"]["nodes"] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert by_id["launch-1"]["title"] == "launch: kubectl apply -f manifests"
    assert by_id["launch-1"]["nodes"] == ["10.0.0.1"]


def test_every_step_waits_only_for_steps_before_it(store: Store) -> None:
    build(store, launch=("a", "b"))
    for masters, nodes in ((1, 0), (1, 1), (3, 0), (5, 3)):
        planning.check(run.plan(run.prepare(options(masters, nodes), store)))


def test_nothing_is_changed_before_the_machines_were_checked(store: Store) -> None:
    build(store)
    plan = run.plan(run.prepare(options(1, 1), store))
    assert [step.id for step in plan[:2]] == ["connect", "check-machines"]
    waiting = {step.id: set(step.needs) for step in plan}

    def leads_to(name: str) -> bool:
        return name == "check-machines" or any(leads_to(before) for before in waiting[name])

    assert all(leads_to(step.id) for step in plan if step.nodes)


def test_masters_do_not_wait_for_each_other(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(options(3, 1), store))}
    for name in ("start-kubelets", "certify-masters", "start-masters", "wait-for-api"):
        assert plan[name].after_all == (), name


def test_images_travel_while_the_rootfs_does(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(options(), store))}
    assert plan["send-images"].needs == ("check-machines",)
    assert "send-images" not in plan["send-rootfs"].needs


def test_images_go_to_three_masters_at_most_and_the_rest_ask_them(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(options(5, 1), store))}
    assert len(plan["send-images"].nodes) == 3
    assert [node.address for node in plan["start-balancers"].nodes] == ["10.0.0.4", "10.0.0.5", "10.0.0.101"]


def test_a_master_that_is_behind_the_others_is_told_of_only_when_its_own_api_answers(store: Store) -> None:
    build(store)
    plan = {step.id: step for step in run.plan(run.prepare(options(3, 1), store))}
    assert [node.address for node in plan["finish-cluster"].nodes] == ["10.0.0.1"]
    welcome = plan["welcome-masters"]
    assert (len(welcome.nodes), welcome.after, welcome.after_all) == (3, ("wait-for-api",), ("finish-cluster",))
    # No addon is placed before the masters have their marks.
    assert plan["start-addons"].after_all == ("welcome-masters",)


def test_without_workers_nothing_is_balanced(store: Store) -> None:
    build(store)
    assert "start-balancers" not in ids(run.prepare(options(), store))


def test_launch_commands_come_one_after_the_other_when_the_nodes_are_ready(store: Store) -> None:
    build(store, launch=("one", "two"))
    plan = {step.id: step for step in run.plan(run.prepare(options(), store))}
    assert plan["launch-1"].needs == ("wait-for-nodes",)
    assert plan["launch-2"].needs == ("launch-1",)
    assert plan["wait-for-workloads"].needs == ("launch-2",)


def test_commands_given_take_the_place_of_the_images(store: Store) -> None:
    build(store, launch=("one", "two"))
    titles = [step.title for step in run.plan(run.prepare(options(commands=("mine",)), store)) if step.id.startswith("launch")]
    assert titles == ["launch: mine"]
    assert not any(name.startswith("launch") for name in ids(run.prepare(options(commands=()), store)))


def test_a_network_of_the_image_starts_before_the_nodes_are_waited_for(store: Store) -> None:
    calico = ImageApp(
        "calico", "kube", commands=("kubectl apply -f calico.yaml",), labels={"cluster.alpha.sealer.io/kube-cni-calico": "true"}
    )
    build(store, apps=(calico,), cluster_apps=("calico",))
    order = ids(run.prepare(options(), store))
    assert order.index("finish-cluster") < order.index("cluster-app-1") < order.index("wait-for-nodes")
    assert prepared(store).cluster.own_network


NAMED = 'apiVersion: v1\nkind: Service\nmetadata: {name: "dns-{{ DNSSvcIP }}", namespace: kube-system}\n'


def test_the_network_comes_first_and_other_addons_when_a_node_is_ready(store: Store) -> None:
    build(
        store,
        files={"etc/slipway.yaml": FACTS, "etc/addons/network.yaml": "cidr: {{ PodCIDR }}", "etc/addons/dns.yaml": NAMED},
    )
    setup = prepared(store)
    applied: list[dict[str, str]] = []
    setup.runtime.finish = applied.append  # type: ignore[method-assign, assignment]
    setup.runtime.apply = lambda manifests, timeout: applied.append(dict(manifests))  # type: ignore[method-assign]
    plan = {step.id: step for step in run.plan(setup)}
    plan["finish-cluster"].action(setup.first)
    plan["start-addons"].action(setup.first)
    record = applied[1].pop("slipway-addons.json")
    assert applied == [{"network.yaml": "cidr: 100.64.0.0/10"}, {"dns.yaml": NAMED.replace("{{ DNSSvcIP }}", "10.96.0.10")}]
    assert json.loads(record)["data"] == {"objects": "+ v1 Service kube-system dns-10.96.0.10\n"}
    order = list(plan)
    assert order.index("finish-cluster") < order.index("start-addons") < order.index("wait-for-nodes")


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"masters": ()}, UsageError, "no master"),
        ({"masters": machines("10.0.0.1", "10.0.0.2")}, UsageError, "odd number"),
        ({"nodes": machines("10.0.0.1")}, UsageError, r"10\.0\.0\.1 given twice"),
        ({"env": {"a b": "c"}}, InputError, "not a name for a variable"),
        ({"name": "Lab 1"}, UsageError, "not a name for a cluster"),
        ({"image": "webb"}, StoreError, "no such image"),
    ],
)
def test_what_cannot_work_is_refused_at_once(store: Store, changes: dict[str, Any], error: type[SlipwayError], says: str) -> None:
    build(store)
    with pytest.raises(error, match=says):
        run.prepare(options(**changes), store)


def test_an_application_image_is_not_run_as_a_cluster(store: Store) -> None:
    build(store, type="app")
    with pytest.raises(StoreError, match="brings no Kubernetes"):
        run.prepare(options(), store)


def test_an_image_without_kubernetes_is_told_how_to_get_one(store: Store) -> None:
    build(store, files={"etc/a": "a"})
    with pytest.raises(StoreError, match=r"no etc/slipway\.yaml"):
        _ = prepared(store).facts


def test_the_environment_is_the_images_then_ours_then_the_hosts_and_facts_cannot_be_set(store: Store) -> None:
    build(store, env={"Port": "80", "Size": "1", "Disk": "a"})
    setup = prepared(store, env={"Port": "8443", "HostIP": "6.6.6.6"}, host_env={"10.0.0.1": {"Disk": "b"}})
    found = setup.environment(setup.first)
    assert (found["Port"], found["Size"], found["Disk"]) == ("8443", "1", "b")
    assert found["HostIP"] == "10.0.0.1"
    assert (found["DNSSvcIP"], found["KubeSvcIP"]) == ("10.96.0.10", "10.96.0.1")


def test_networks_of_the_environment_win_over_those_of_the_image(store: Store) -> None:
    build(store)
    setup = prepared(store, env={"PodCIDR": "10.244.0.0/16", "SvcCIDR": "10.97.0.0/16", "CertSANs": "a.example.com, 10.9.9.9"})
    assert (setup.cluster.network.pods, setup.cluster.network.dns) == ("10.244.0.0/16", "10.97.0.10")
    assert setup.cluster.cert_sans == ("a.example.com", "10.9.9.9")


def test_networks_of_both_families_give_members_addresses_of_both(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    networks = {"PodCIDR": "10.244.0.0/16,fd00:10:244::/56", "SvcCIDR": "10.97.0.0/16,fd00:10:97::/112"}
    setup = prepared(store, 1, 1, env=networks)
    for address in ("10.0.0.1", "10.0.0.101"):
        on = {address: "eth0", f"fd00::{address[-1]}": "eth0"}
        setup.machines[address] = dataclasses.replace(setup.machines[address], addresses=tuple(on), on=on)
    assert [member.node_ip for member in setup.cluster.members] == ["10.0.0.1,fd00::1", "10.0.0.101,fd00::1"]
    found = setup.environment(setup.first)
    assert (found["PodCIDRv4"], found["PodCIDRv6"], found["SvcCIDRv6"]) == ("10.244.0.0/16", "fd00:10:244::/56", "fd00:10:97::/112")
    # One that has another address is told so.
    moved = prepared(store, 1, 1, env=networks)
    assert moved.cluster.members[0].node_ip == "10.0.0.1"
    monkeypatch.setattr(Kubeadm, "identity", "0123")
    assert steps.kubernetes_inputs(moved, moved.first) != steps.kubernetes_inputs(setup, setup.first)


def test_who_asks_for_both_families_must_give_networks_of_both(store: Store) -> None:
    build(store)
    with pytest.raises(InputError, match=r"IPv6DualStack: both families are asked for, and PodCIDR 100\.64\.0\.0/10"):
        _ = prepared(store, env={"IPv6DualStack": "true"}).network
    networks = {"PodCIDR": "10.244.0.0/16,fd00:10:244::/56", "SvcCIDR": "10.97.0.0/16,fd00:10:97::/112"}
    assert prepared(store, env={"IPv6DualStack": "true", **networks}).network.dual


def test_members_take_their_names_from_their_machines(store: Store) -> None:
    build(store)
    setup = prepared(store, 1, 1)
    setup.machines["10.0.0.101"] = MachineFacts(host="worker", arch="amd64", cgroup=2, resolved=True)
    worker = setup.cluster.workers[0]
    assert (worker.name, worker.systemd_cgroups, worker.nftables) == ("worker", True, False)
    assert worker.resolv_conf == "/run/systemd/resolve/resolv.conf"


def test_the_network_of_the_image_is_configured_before_a_kubelet_looks_unless_an_application_is_the_network(store: Store) -> None:
    files = {"etc/slipway.yaml": FACTS, "etc/cni/10-flannel.conflist": '{"name": "cbr0"}'}
    build(store, files=files)
    setup = prepared(store)
    found = steps.machine_files(setup, setup.first)
    assert found["/etc/cni/net.d/10-flannel.conflist"].data == b'{"name": "cbr0"}'
    app = ImageApp("calico", "shell", labels={"app.alpha.sealer.io/cni": "calico"})
    build(store, "own", files, apps=(app,), cluster_apps=("calico",))
    other = prepared(store, image="own")
    assert other.cluster.own_network
    assert not any(path.startswith("/etc/cni/") for path in steps.machine_files(other, other.first))


NETWORKS: dict[str, Mapping[str, str]] = {
    "an addon": {steps.NETWORK_MANIFEST: "kind: DaemonSet"},
    "a configuration": {"etc/cni/10-own.conflist": "{}"},
    "hooks": {"plugins/network.yaml": "kind: Plugin"},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_pod_network_may_come_with_an_image_in_several_ways(store: Store, network: str) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **NETWORKS[network]}, network=False)
    assert run.prepare(options(), store)


@pytest.mark.parametrize("files", [{}, {"etc/cni/README": "none"}, {"etc/addons/storage.yaml": "kind: Deployment"}])
def test_an_image_without_a_pod_network_is_refused_at_once(store: Store, files: Mapping[str, str]) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **files}, network=False)
    with pytest.raises(StoreError, match="web brings no pod network: its nodes would never be Ready") as caught:
        run.prepare(options(), store)
    assert "etc/addons/network.yaml or CNI" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("files", "vxlan"),
    [
        ({steps.NETWORK_MANIFEST: "image: docker.io/flannel/flannel:v0.28.10"}, True),
        ({steps.NETWORK_MANIFEST: "image: docker.io/cloudnativelabs/kube-router:v2.1.0"}, False),
        ({}, False),
    ],
)
def test_machines_are_asked_for_vxlan_where_the_network_is_the_bases(store: Store, files: Mapping[str, str], *, vxlan: bool) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **files})
    assert steps.wanted_of_machines(prepared(store), []).vxlan is vxlan


def test_machines_are_asked_for_what_the_image_enforces_policies_by(store: Store) -> None:
    build(store)
    setup = prepared(store)
    assert steps.wanted_of_machines(setup, []).enforcers == ()
    (part,) = setup.image.platforms
    embedded = EmbeddedImage("registry.k8s.io/networking/kube-network-policies:v0.8.0", "sha256:1", "m", 1)
    setup.image = dataclasses.replace(setup.image, platforms=(dataclasses.replace(part, images=ImageSet((embedded,))),))
    assert [one.name for one in steps.wanted_of_machines(setup, []).enforcers] == ["kube-network-policies"]


def test_plugins_and_configurations_of_the_image_are_where_a_kubelet_looks_for_them(store: Store) -> None:
    files = {"bin/cni/bridge": "", "bin/cni/mine": "", "bin/cni/.part": "", "etc/cni/10-mine.conf": "{}", "etc/cni/notes.txt": ""}
    build(store, files={"etc/slipway.yaml": FACTS, **files}, network=False)
    setup = prepared(store)
    found = steps.machine_files(setup, setup.first)
    assert sorted(path for path in found if path.startswith(("/opt/cni/", "/etc/cni/"))) == [
        "/etc/cni/net.d/10-mine.conf",
        "/opt/cni/bin/bridge",
        "/opt/cni/bin/mine",
    ]
    assert found["/opt/cni/bin/mine"].link == "/var/lib/slipway/rootfs/bin/cni/mine"


@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        ('version = 3\n[plugins."io.containerd.cri.v1.images"]\nmax_concurrent_downloads = 3\n', True),
        ('[plugins."io.containerd.cri.v1.images"]\nmax_concurrent_downloads = 3\n', True),
        ('version = 4\n[plugins."io.containerd.cri.v1.images"]\nmax_concurrent_downloads = 3\n', True),
        ('version = 2\n[plugins."io.containerd.grpc.v1.cri"]\nmax_concurrent_downloads = 3\n', False),
        ('[plugins."io.containerd.grpc.v1.cri".registry]\nconfig_path = "/x"\n', False),
        ("not toml", False),
    ],
)
def test_what_an_image_says_of_containerd_is_joined_with_ours_where_it_has_the_same_tables(store: Store, text: str, accepted: bool) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, "etc/containerd/config.toml": text})
    setup = prepared(store)
    if accepted:
        images = tomllib.loads(setup.containerd_config(setup.member(setup.first)))["plugins"]["io.containerd.cri.v1.images"]
        assert (images["max_concurrent_downloads"], images["discard_unpacked_layers"]) == (3, True)
    else:
        with pytest.raises(InputError, match=r"etc/containerd/config\.toml"):
            setup.containerd_config(setup.member(setup.first))


def test_what_is_not_as_it_was_in_documents_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    old = "apiVersion: kubeadm.k8s.io/v1beta2\nkind: ClusterConfiguration\nuseHyperKubeImage: true\n"
    proxy = "---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"
    build(store, files={"etc/slipway.yaml": FACTS, "etc/kubeadm.yml": old + proxy})
    setup = prepared(store)
    steps.warn_of_documents(setup)
    said = capsys.readouterr().err
    assert "ClusterConfiguration .useHyperKubeImage: kubeadm has no such field any more" in said
    assert "ipvs is deprecated since Kubernetes 1.35" in said
    assert "useHyperKubeImage" not in str(setup.cluster.documents)


def test_kube_proxys_mode_is_what_the_machines_of_a_new_cluster_can_do(store: Store) -> None:
    build(store)
    setup = prepared(store, 1, 1)
    able = {"kernel": "6.1.0", "features": frozenset({"nf_tables"})}
    setup.machines = {address: dataclasses.replace(facts, **able) for address, facts in setup.machines.items()}  # type: ignore[arg-type]
    assert setup.cluster.chosen_proxy_mode == "nftables"
    wanted = steps.wanted_of_machines(setup, [])
    assert wanted.proxy_mode is None


def test_the_stored_clusterfile_says_what_was_run_and_no_secret(store: Store) -> None:
    build(store)
    setup = prepared(
        store,
        1,
        2,
        env={"Port": "8443", "MysqlPassword": "hunter2", "ApiToken": "abc"},
        masters=machines("10.0.0.1", user="ops", port=2222, password="letmein"),
        nodes=machines("10.0.0.2", "10.0.0.3", user="ops", port=2222, password="letmein"),
    )
    text = steps.clusterfile(setup)
    document = yaml.safe_load(text)
    assert (document["apiVersion"], document["kind"], document["metadata"]["name"]) == ("slipway.dev/v1", "Cluster", "default")
    assert document["spec"]["hosts"] == [{"ips": ["10.0.0.1"], "roles": ["master"]}, {"ips": ["10.0.0.2", "10.0.0.3"], "roles": ["node"]}]
    assert document["spec"]["ssh"] == {"user": "ops", "port": 2222}
    assert document["spec"]["env"]["Port"] == "8443"
    assert all(is_redacted(document["spec"]["env"][name]) for name in ("ApiToken", "MysqlPassword"))
    for secret in ("hunter2", "abc", "letmein"):
        assert secret not in text


def test_what_this_machine_remembers_holds_no_password(store: Store) -> None:
    build(store)
    setup = prepared(store, masters=machines("10.0.0.1", password="letmein"))
    setup.runtime.kubeconfig = lambda server: b"kind: Config\n"  # type: ignore[method-assign]
    steps.keep_access(setup)
    assert setup.state.read()["masters"][0]["address"] == "10.0.0.1"
    assert "letmein" not in "".join(path.read_text() for path in setup.state.folder.iterdir())
    assert setup.state.kubeconfig.stat().st_mode & 0o077 == 0


def test_a_launch_command_sees_its_environment_and_no_list_of_processes_does() -> None:
    node = StandIn()
    sent: list[bytes] = []
    node.put = lambda data, path, mode=0o644: sent.append(data)  # type: ignore[method-assign]
    steps.run_in_rootfs(node, "kubectl apply -f x", {"Password": "it's $(hunter2)", "not a name": "x"})
    script = sent[0].decode()
    assert "export Password='it'\"'\"'s $(hunter2)'\n" in script
    assert "not a name" not in script
    assert "KUBECONFIG=/etc/kubernetes/admin.conf PATH=/var/lib/slipway/rootfs/bin:$PATH" in script
    assert not any("hunter2" in command for command in node.commands)
    assert any(command.startswith("rm -f /var/lib/slipway/launch-") for command in node.commands)


def test_a_launch_command_that_fails_is_shown_with_its_output_and_its_script_is_removed() -> None:
    node = StandIn()
    node.broken = {"bash"}
    with pytest.raises(CommandError, match="launch command failed: helm install x") as caught:
        steps.run_in_rootfs(node, "helm install x", {})
    assert caught.value.details == "it is broken"
    assert any(command.startswith("rm -f") for command in node.commands)


def test_a_command_that_was_launched_is_known_by_image_command_and_environment(store: Store) -> None:
    build(store, launch=("one",))

    def inputs(**changes: Any) -> str:
        setup = prepared(store, **changes)
        assert isinstance(setup.runtime, Kubeadm)
        setup.runtime._pki = KEYS
        step = next(step for step in run.plan(setup) if step.id == "launch-1")
        assert step.inputs is not None
        return step.inputs(setup.first)

    assert inputs() == inputs()
    assert inputs() != inputs(env={"Port": "1"})
    assert inputs() != inputs(commands=("two",))


class Recorded(StandIn):
    """A first master whose cluster keeps a record of its machines."""

    def __init__(self, text: str) -> None:
        super().__init__("10.0.0.1")
        self.answers = {"get configmap": json.dumps({"data": {"Clusterfile": text}}), "get nodes,": '{"items": []}'}


def begin(store: Store, *hosts: str, made_with: str | None = None, asked: str | None = None) -> None:
    setup = with_profile(prepared(store, 1, 1), asked)
    spec: dict[str, Any] = {"image": "web"}
    spec["hosts"] = [{"ips": list(hosts[:1]), "roles": ["master"]}, {"ips": list(hosts[1:]), "roles": ["node"]}]
    spec |= {"profile": made_with} if made_with else {}
    text = yaml.safe_dump({"apiVersion": "slipway.dev/v1", "kind": "Cluster", "metadata": {"name": "default"}, "spec": spec})
    setup.masters = (Recorded(text),)  # type: ignore[assignment]
    with contextlib.ExitStack() as stack:
        run._begin(setup, stack)


def test_a_cluster_that_is_there_is_not_run_on_other_machines(store: Store) -> None:
    build(store)
    begin(store, "10.0.0.1", "10.0.0.101")
    with pytest.raises(UsageError, match=r"10\.0\.0\.101 is not in it; 10\.0\.0\.102 is, and is not named") as refused:
        begin(store, "10.0.0.1", "10.0.0.102")
    assert "slipway join" in (refused.value.hint or "")


@pytest.mark.parametrize(("made_with", "asked", "hint"), [("cis", None, "--profile cis"), (None, "cis", "leave --profile out")])
def test_a_cluster_that_is_there_keeps_the_profile_that_it_was_made_with(
    store: Store, made_with: str | None, asked: str | None, hint: str
) -> None:
    build(store)
    begin(store, "10.0.0.1", "10.0.0.101", made_with="cis", asked="cis")
    with pytest.raises(UsageError, match="is there, and was made with") as refused:
        begin(store, "10.0.0.1", "10.0.0.101", made_with=made_with, asked=asked)
    assert hint in (refused.value.hint or "")


NETWORK = """apiVersion: v1
kind: Namespace
metadata: {name: kube-flannel}
---
apiVersion: v1
kind: List
items:
- {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, namespace: other}}
"""
DNS = """apiVersion: v1
kind: Service
metadata: {name: b, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: c}
---
"""
ADDONS = {"etc/addons/network.yaml": NETWORK, "etc/addons/dns.yaml": DNS}


def with_profile(setup: steps.Setup, name: str | None) -> steps.Setup:
    assert setup.clusterfile.cluster is not None
    setup.clusterfile = dataclasses.replace(setup.clusterfile, cluster=dataclasses.replace(setup.clusterfile.cluster, profile=name))
    return setup


def test_a_profile_is_recorded_and_asked_of_machines_and_holds_for_no_addon_of_the_image(store: Store) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **ADDONS})
    setup = with_profile(prepared(store), "cis")
    assert yaml.safe_load(steps.clusterfile(setup))["spec"]["profile"] == "cis"
    assert steps.wanted_of_machines(setup, []).sysctls == setup.cluster.profile.sysctls != {}
    admission = next(file.data for path, file in setup.cluster.profile.files.items() if path.endswith("/admission.yaml"))
    security = yaml.safe_load(admission)["plugins"][0]["configuration"]
    assert security["exemptions"]["namespaces"] == ["kube-flannel", "kube-system", "other"]
    assert not prepared(store).cluster.profile.name


def test_another_profile_or_other_addons_are_another_configuration_and_no_profile_is_the_one_of_before(store: Store) -> None:
    build(store, "bare")
    build(store, "more", files={"etc/slipway.yaml": FACTS, **ADDONS})

    def inputs(image: str, profile: str | None) -> str:
        setup = with_profile(prepared(store, image=image), profile)
        assert isinstance(setup.runtime, Kubeadm)
        setup.runtime._pki = KEYS
        return steps.kubernetes_inputs(setup, setup.first)

    assert inputs("bare", "cis") != inputs("bare", None)
    assert inputs("bare", "cis") != inputs("more", "cis")
    assert inputs("bare", None) == inputs("more", None)


def test_what_the_user_says_otherwise_than_the_profile_counts_and_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    build(
        store,
        files={
            "etc/slipway.yaml": FACTS,
            "etc/kubeadm.yml": "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\npodPidsLimit: 7\n",
        },
    )
    setup = with_profile(prepared(store), "cis")
    steps.warn_of_documents(setup)
    assert "KubeletConfiguration .podPidsLimit: what the document says counts, not the profile cis" in capsys.readouterr().err
    steps.warn_of_documents(prepared(store))
    assert "podPidsLimit" not in capsys.readouterr().err


def test_an_older_kubernetes_that_cannot_do_all_of_a_profile_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    build(store, files={"etc/slipway.yaml": "kubernetes: v1.31.4\n"})
    steps.warn_of_documents(with_profile(prepared(store), "cis"))
    assert "Kubernetes 1.31 cannot keep requests without a name to some paths" in capsys.readouterr().err


def test_what_ails_before_a_change_is_kept_until_one_has_come_to_its_end(store: Store) -> None:
    build(store)
    setup = prepared(store)
    master = StandIn()
    setup.masters = (master,)  # type: ignore[assignment]

    def there(recorded: str, *ill: str) -> list[str]:
        metas = [{"name": name, "namespace": "web", "uid": name} for name in ill]
        items = [{"kind": "Deployment", "metadata": meta, "spec": {"replicas": 1}} for meta in metas]
        record = json.dumps({"data": {"ailing": recorded}})
        master.answers, master.commands = {"get configmap": record, "get nodes,": json.dumps({"items": items})}, []
        steps.see_what_ails(setup)
        return [command for command in master.commands if " patch " in command]

    patched = there("", "nginx")
    assert setup.ailing == ["Deployment web/nginx"]
    assert '["Deployment web/nginx"]' in patched[0].replace("\\", "")
    # The change that was cut off broke another one: that is not old.
    assert there('["Deployment web/nginx"]', "nginx", "redis") == []
    assert setup.ailing == ["Deployment web/nginx"]
    assert there("[]", "redis") == []
    assert setup.ailing == []


def test_waiting_ends_when_a_machine_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    node = StandIn()
    watch = steps.watching([node])
    watch("")
    assert node.commands == []
    clock[0] += 60

    def lost(*_: Any, **__: Any) -> None:
        raise NodeError("10.0.0.1: the connection was lost")

    monkeypatch.setattr(node, "run", lost)
    with pytest.raises(NodeError):
        watch("")


def led(store: Store, asked: str = "auto", lacks: str | None = None, **files: str) -> steps.Setup:
    """A setup whose machines have been checked, and have kernels that can lead to the masters."""
    build(store, files={"etc/slipway.yaml": FACTS, "bin/ipvsadm": "", "bin/openssl": "", **files})
    setup = prepared(store, 3, 1)
    assert setup.clusterfile.cluster
    cluster = dataclasses.replace(setup.clusterfile.cluster, load_balancing=asked)
    setup.clusterfile = dataclasses.replace(setup.clusterfile, cluster=cluster)
    answers = {node.address: ipvs.IpvsSupport(lacks) for node in setup.nodes}
    setup.balancing = ipvs.choose(steps.balancing_wish(setup), answers)
    return setup


def test_where_kernels_lead_to_the_masters_everything_goes_that_way(store: Store) -> None:
    setup = led(store)
    worker, master = setup.workers[0], setup.masters[0]
    assert setup.hosts_lines(worker) == ("10.103.97.2 apiserver.cluster.local # slipway",)
    files = steps.machine_files(setup, worker)
    assert b"https://10.103.97.2:5000" in files["/etc/containerd/certs.d/_default/hosts.toml"].data
    assert files[ipvs.CONFIG].data.startswith(b"virtual 10.103.97.2\nsource 10.0.0.101\n")
    assert ipvs.CONFIG not in steps.machine_files(setup, master)
    asked: list[tuple[str, ...]] = []
    setup.runtime.serving = lambda hosts, name: asked.append(hosts) or (b"", b"")  # type: ignore[func-returns-value, method-assign]
    started: Any = StandIn()
    steps.start_registry(setup).action(started)
    assert asked == [("127.0.0.1", "10.103.97.2", "10.0.0.1", "10.0.0.2", "10.0.0.3")]


def test_the_cluster_is_made_the_same_way_as_ever_where_haproxy_leads(store: Store) -> None:
    setup = led(store, lacks="its kernel has no ip_vs")
    assert setup.hosts_lines(setup.workers[0]) == ("127.0.0.1 apiserver.cluster.local # slipway",)
    assert setup.cluster.virtual_ip is None
    assert "/var/lib/slipway/balancer.cfg" in steps.machine_files(setup, setup.workers[0])


# ---- the login of the registry ----------------------------------------------------------------------------------------


def login_of(store: Store, *, requires_login: bool = True) -> steps.Setup:
    """A setup of two machines whose keys are known."""
    build(store)
    setup = prepared(store, 1, 1)
    setup.requires_login = requires_login
    setup.login = LOGIN if requires_login else None
    assert isinstance(setup.runtime, Kubeadm)
    setup.runtime._pki = KEYS
    return setup


def test_no_registry_asks_for_the_login_before_every_machine_has_it(store: Store) -> None:
    build(store)
    step = steps.start_registry(run.prepare(options(3, 2), store))
    assert "set-up-machines" in step.after_all
    setup = login_of(store)
    for node in setup.nodes:
        files = steps.machine_files(setup, node)
        assert LOGIN.basic.encode() in files["/etc/containerd/certs.d/_default/hosts.toml"].data
        # That comes with the start of the registry.
        assert not {"/var/lib/slipway/registry.yaml", registry.HTPASSWD} & set(files)


def test_the_login_is_derived_from_the_keys_of_the_cluster(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    setup = run.prepare(options(), store)
    runtime: Any = SimpleNamespace(secret=lambda purpose: {registry.PURPOSE: "5" * 64}[purpose])
    setup.machines = {node.address: MachineFacts(host="host", arch="amd64") for node in setup.nodes}
    monkeypatch.setattr(log, "_hidden", {})
    setup.runtime = runtime
    assert setup.login == Credential("slipway", "5" * 64)
    assert log.hidden(setup.login.basic) == "***"
    other = dataclasses.replace(setup, requires_login=False)
    assert other.login is None


def test_a_cluster_gets_the_login_when_its_run_is_repeated(store: Store) -> None:
    setup, before = login_of(store), login_of(store, requires_login=False)
    for make, node in ((steps.set_up_machines, setup.workers[0]), (steps.start_registry, setup.first)):
        steps_of = [make(setup), make(before)]
        new, old = (step.inputs(node) for step in steps_of if step.inputs)
        assert new != old


def test_the_journal_tells_nothing_of_the_login(store: Store) -> None:
    setup = login_of(store)
    for make in (steps.set_up_machines, steps.start_registry):
        step = make(setup)
        assert step.inputs is not None
        kept = step.inputs(setup.first)
        # 64 bits of a hash of 256 random ones.
        assert len(bytes.fromhex(kept)) == 8
    # Of the registry's step not even that depends on the password.
    registry_step = steps.start_registry(setup)
    assert registry_step.inputs is not None
    with_this = registry_step.inputs(setup.first)
    setup.login = Credential("slipway", "f" * 64)
    assert registry_step.inputs(setup.first) == with_this


def test_an_image_of_before_has_no_programs_for_rules_of_the_kernel(store: Store) -> None:
    build(store)
    wish = steps.balancing_wish(prepared(store, 1, 1))
    assert wish.balanced == ("10.0.0.101",)
    assert not wish.brings()


def test_machines_that_do_not_answer_take_no_part_in_handing_on_and_it_ends_with_the_connections(store: Store) -> None:
    build(store)
    setup = prepared(store, 3, 1)
    setup.away = {"10.0.0.2": "host-2"}
    assert [node.address for node in setup.exchange._nodes] == ["10.0.0.1", "10.0.0.3", "10.0.0.101"]
    assert setup.ssh.at_end == [setup.exchange.close]

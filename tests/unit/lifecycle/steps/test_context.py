"""A cluster as it follows from what is wanted and from its machines; files of the image that a run reads on this machine."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import log
from harness.clusterfile.parse import parse_hooks
from harness.errors import InputError, StoreError
from harness.lifecycle import run
from harness.lifecycle.checks.preflight.gather import MachineFacts
from harness.lifecycle.cluster import request
from harness.lifecycle.provision import registry
from harness.lifecycle.steps import bootstrap, preparation
from harness.lifecycle.steps.context import ClusterFacts, ResolvedCluster
from harness.nodes.files import Files
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.runtimes.kubeadm import Kubeadm
from tests.unit.lifecycle.standin import StandIn, known
from tests.unit.lifecycle.test_run import FACTS, asked, build, changed, prepared, store

__all__ = ["store"]  # a fixture


class Unpacked(ResolvedCluster):
    """A cluster whose first control-plane node gets one rootfs, nothing rendered."""

    def __init__(self, tree: Path) -> None:
        spec: Any = SimpleNamespace(first=StandIn())
        super().__init__(spec, ClusterFacts({}))
        vars(self)["root"] = tree

    def tree(self, node: object) -> Path:
        return Path(vars(self)["root"])

    def render(self, node: object) -> Files:
        return {}


def content(tree: Path, path: str) -> str | None:
    return Unpacked(tree).content(StandIn(), path)


def addons(tree: Path) -> dict[str, str]:
    return Unpacked(tree).addons


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "rootfs/etc/addons").mkdir(parents=True)
    (tmp_path / "rootfs/etc/addons/dns.yaml").write_text("kind: Service")
    (tmp_path / "rootfs/etc/addons/.hidden.yaml").write_text("kind: None")
    return tmp_path / "rootfs"


def test_addons_and_content_read_image_files_and_skip_hidden_ones(tree: Path) -> None:
    (tree / "etc/addons/link.yaml").symlink_to("../addons/dns.yaml")
    assert addons(tree) == {"dns.yaml": "kind: Service", "link.yaml": "kind: Service"}
    assert content(tree, "etc/addons/dns.yaml") == "kind: Service"
    assert content(tree, "etc/none") is None
    assert content(tree, "etc/addons") is None


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../secret"])
def test_content_behind_link_out_of_rootfs_is_refused(tree: Path, target: str) -> None:
    for path in ("etc/kubeadm.yml", "etc/addons/a.yaml"):
        (tree / path).symlink_to(target if target.startswith("/") else target[3:] if path.count("/") == 1 else target)
    with pytest.raises(StoreError, match="leads out of the folder"):
        content(tree, "etc/kubeadm.yml")
    with pytest.raises(StoreError, match="leads out of the folder"):
        addons(tree)


def test_addons_folder_linked_out_of_rootfs_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "etc/addons").rename(tmp_path / "addons")
    (tree / "etc/addons").symlink_to(tmp_path / "addons")
    with pytest.raises(StoreError, match="leads out of the folder"):
        addons(tree)


@pytest.mark.parametrize("name", ["absolute", "circle"])
def test_config_write_replaces_link_without_following_it(tree: Path, tmp_path: Path, name: str) -> None:
    (tree / "etc" / name).symlink_to(tmp_path / "secret" if name == "absolute" else name)
    assert request._content(tree, f"etc/{name}") is None
    request._write(tree, f"etc/{name}", b"new")
    assert (tree / "etc" / name).read_bytes() == b"new"
    assert (tmp_path / "secret").read_text() == "secret"


def test_config_write_below_link_out_of_rootfs_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match="leads out of the rootfs"):
        request._write(tree, "out/secret", b"new")
    assert (tmp_path / "secret").read_text() == "secret"


def test_kubernetes_of_image_without_slipway_yaml_raises_store_error_with_hint(store: Store) -> None:
    build(store, files={"etc/a": "a"})
    with pytest.raises(StoreError, match=r"^web:latest brings no Kubernetes: it has no etc/slipway\.yaml") as caught:
        _ = prepared(store).resolved.kubernetes
    assert caught.value.hint == "build it FROM a base image with Kubernetes; an application image runs on a cluster that is there"


def test_environment_prefers_host_over_cluster_over_image_and_keeps_facts(store: Store) -> None:
    build(store, env={"Port": "80", "Size": "1", "Disk": "a"})
    context = prepared(store, env={"Port": "8443", "HostIP": "6.6.6.6"}, host_env={"10.0.0.1": {"Disk": "b"}})
    found = context.resolved.environment(context.spec.first)
    assert (found["Port"], found["Size"], found["Disk"]) == ("8443", "1", "b")
    assert found["HostIP"] == "10.0.0.1"
    assert (found["DNSSvcIP"], found["KubeSvcIP"]) == ("10.96.0.10", "10.96.0.1")


TEMPLATES = {
    "application/apps/shop/a.yaml.tmpl": "a: {{ .Phrase }}",
    "etc/addons/dns.yaml": "kind: Service",
    "etc/addons/secret.yaml": "a: {{ Phrase }}",
    "etc/app.conf": "a={{ Phrase }}",
    "manifests/a.yaml": "a: {{ Phrase }}",
    "manifests/b.yaml": "a: {{ Phrase }}",
    "plugins/notes.txt": "cat manifests/b.yaml",
    "etc/slipway.yaml": FACTS,
}
RENDERED = {path.removesuffix(".tmpl") for path, text in TEMPLATES.items() if "Phrase" in text}
HOOK = """apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: read}
spec:
  phases: [pre-init-host]
  data: cat manifests/a.yaml
"""


def rendered_on(resolved: ResolvedCluster) -> tuple[set[str], set[str]]:
    """Rendered files of the first control-plane node, and of the first worker."""
    on_control_plane, on_worker = (set(resolved.files(node)) for node in (resolved.spec.first, resolved.spec.workers[0]))
    return on_control_plane, on_worker


def test_files_of_worker_leave_out_what_is_launched(store: Store) -> None:
    build(store, files=TEMPLATES)
    context = prepared(store, 3, 1, env={"Phrase": "hunter2"})
    assert rendered_on(context.resolved) == (RENDERED, {"etc/app.conf"})
    assert set(context.resolved.files(context.spec.control_plane[2])) == RENDERED


@pytest.mark.parametrize("kept_by", ["image", "Clusterfile"])
def test_files_of_worker_include_launched_file_that_hook_reads(store: Store, kept_by: str) -> None:
    build(store, files=TEMPLATES | ({"plugins/read.yaml": HOOK} if kept_by == "image" else {}))
    context = prepared(store, 1, 1, env={"Phrase": "hunter2"})
    if kept_by == "Clusterfile":
        hooks = parse_hooks(HOOK, "Clusterfile")
        context = changed(context, clusterfile=dataclasses.replace(context.spec.clusterfile, hooks=hooks))
    assert rendered_on(context.resolved) == (RENDERED, {"etc/app.conf", "manifests/a.yaml"})


def test_cluster_networks_and_cert_sans_of_environment_override_those_of_image(store: Store) -> None:
    facts = f"{FACTS}podCIDR: 10.1.0.0/16\nsvcCIDR: 10.2.0.0/16\n"
    of_image = {"PodCIDR": "10.3.0.0/16", "SvcCIDR": "10.4.0.0/16", "CertSANs": "image.example.com"}
    of_cluster = {"PodCIDR": "10.244.0.0/16", "SvcCIDR": "10.97.0.0/16", "CertSANs": "a.example.com, 10.9.9.9"}
    build(store, "web", files={"etc/slipway.yaml": facts})
    build(store, "more", files={"etc/slipway.yaml": facts}, env=of_image)
    for image, env, pods, dns, names in (
        ("web", {}, "10.1.0.0/16", "10.2.0.10", ()),
        ("more", {}, "10.3.0.0/16", "10.4.0.10", ("image.example.com",)),
        ("web", of_cluster, "10.244.0.0/16", "10.97.0.10", ("a.example.com", "10.9.9.9")),
        ("more", of_cluster, "10.244.0.0/16", "10.97.0.10", ("a.example.com", "10.9.9.9")),
        ("more", {"PodCIDR": "10.244.0.0/16"}, "10.244.0.0/16", "10.4.0.10", ("image.example.com",)),
    ):
        found = prepared(store, image=image, env=env).resolved.cluster
        assert (found.network.pods, found.network.dns, found.cert_sans) == (pods, dns, names)


def test_members_with_dual_stack_networks_have_addresses_of_both_families(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    networks = {"PodCIDR": "10.244.0.0/16,fd00:10:244::/56", "SvcCIDR": "10.97.0.0/16,fd00:10:97::/112"}
    both: dict[str, MachineFacts] = {}
    for address in ("10.0.0.1", "10.0.0.101"):
        on = {address: "eth0", f"fd00::{address[-1]}": "eth0"}
        both[address] = MachineFacts(host="host-1", arch="amd64", addresses=tuple(on), on=on)
    context = known(run.prepare(asked(1, 1, env=networks), store).spec, both)
    assert [member.node_ip for member in context.resolved.cluster.members] == ["10.0.0.1,fd00::1", "10.0.0.101,fd00::1"]
    found = context.resolved.environment(context.spec.first)
    assert (found["PodCIDRv4"], found["PodCIDRv6"], found["SvcCIDRv6"]) == ("10.244.0.0/16", "fd00:10:244::/56", "fd00:10:97::/112")
    # One that has another address is told so.
    moved = prepared(store, 1, 1, env=networks)
    assert moved.resolved.cluster.members[0].node_ip == "10.0.0.1"
    monkeypatch.setattr(Kubeadm, "identity", "0123")
    assert bootstrap.kubernetes_inputs(moved.resolved, moved.spec.first) != bootstrap.kubernetes_inputs(
        context.resolved, context.spec.first
    )


def test_dual_stack_without_networks_of_both_families_is_refused(store: Store) -> None:
    build(store)
    with pytest.raises(InputError, match=r"IPv6DualStack: both families are asked for, and PodCIDR 100\.64\.0\.0/10"):
        _ = prepared(store, env={"IPv6DualStack": "true"}).resolved.network
    networks = {"PodCIDR": "10.244.0.0/16,fd00:10:244::/56", "SvcCIDR": "10.97.0.0/16,fd00:10:97::/112"}
    assert prepared(store, env={"IPv6DualStack": "true", **networks}).resolved.network.dual


def test_members_take_names_and_settings_from_machine_facts(store: Store) -> None:
    build(store)
    machine = MachineFacts(host="worker", arch="amd64", cgroup=2, resolved=True)
    context = known(run.prepare(asked(1, 1), store).spec, {"10.0.0.101": machine})
    worker = context.resolved.cluster.workers[0]
    assert (worker.name, worker.systemd_cgroups, worker.nftables) == ("worker", True, False)
    assert worker.resolv_conf == "/run/systemd/resolve/resolv.conf"


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
def test_containerd_config_of_image_is_merged_or_refused_by_version(store: Store, text: str, accepted: bool) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, "etc/containerd/config.toml": text})
    if accepted:
        context = prepared(store)
        config = context.resolved.containerd_config(context.resolved.member(context.spec.first))
        images = tomllib.loads(config)["plugins"]["io.containerd.cri.v1.images"]
        assert (images["max_concurrent_downloads"], images["discard_unpacked_layers"]) == (3, True)
    else:
        with pytest.raises(InputError, match=r"etc/containerd/config\.toml"):
            prepared(store)


def test_proxy_mode_of_new_cluster_is_nftables_on_capable_machines(store: Store) -> None:
    build(store)
    able = MachineFacts(host="host", arch="amd64", kernel="6.1.0", features=frozenset({"nf_tables"}))
    context = known(run.prepare(asked(1, 1), store).spec, dict.fromkeys(("10.0.0.1", "10.0.0.101"), able))
    assert context.resolved.cluster.chosen_proxy_mode == "nftables"
    wanted = preparation.wanted_of_machines(context.resolved, [])
    assert wanted.proxy_mode is None


def test_login_is_derived_from_cluster_keys_and_hidden_in_logs(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    spec = run.prepare(asked(), store).spec
    runtime: Any = SimpleNamespace(secret=lambda purpose: {registry.PURPOSE: "5" * 64}[purpose])
    monkeypatch.setattr(log, "_hidden", {})
    login = known(spec, runtime=runtime).resolved.login
    assert login == Credential("slipway", "5" * 64)
    assert log.hidden(login.basic) == "***"
    assert known(dataclasses.replace(spec, requires_login=False), runtime=runtime).resolved.login is None


def test_exchange_excludes_unreachable_machines_and_closes_with_connections(store: Store) -> None:
    build(store)
    context = changed(prepared(store, 3, 1), unreachable={"10.0.0.2": "host-2"})
    assert [node.address for node in context.exchange._nodes] == ["10.0.0.1", "10.0.0.3", "10.0.0.101"]
    assert context.spec.ssh.at_end[-1] == context.exchange.close


def test_context_read_unresolved_or_resolved_twice_raises_runtime_error(store: Store) -> None:
    build(store)
    context = run.prepare(asked(), store)
    with pytest.raises(RuntimeError, match="have not been checked"):
        _ = context.resolved
    checked = prepared(store)
    with pytest.raises(RuntimeError, match="have been checked already"):
        checked.resolve(checked.resolved)
    assert checked.whole().resolved is checked.resolved

"""Registries, balancers and the login that they require."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from harness.lifecycle import run
from harness.lifecycle.provision import ipvs, registry
from harness.lifecycle.provision.registry import OfSite
from harness.lifecycle.steps import preparation, registries
from harness.lifecycle.steps.context import NETWORK_ADDON, ClusterContext
from harness.oci.registry.config import Site
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.runtimes.kubeadm import Kubeadm
from tests.unit.lifecycle.standin import StandIn, known
from tests.unit.lifecycle.test_run import FACTS, KEYS, LOGIN, asked, build, changed, prepared, store

__all__ = ["store"]  # a fixture


@pytest.mark.parametrize("control_plane", [True, False])
def test_images_needed_to_be_ready_are_in_start_order(control_plane: bool) -> None:
    shown = {"metrics.yaml": "      image: r/metrics:1\n", NETWORK_ADDON: "    - image: 'x'\n      image: r/network:1\n"}
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
    resolved: Any = SimpleNamespace(
        images=SimpleNamespace(images=[SimpleNamespace(name=name) for name in names]),
        kubernetes=SimpleNamespace(pause_image="r/pause:3"),
        addons=shown,
        member=lambda _: SimpleNamespace(is_control_plane=control_plane),
    )
    control = ["r/etcd:3", "r/kube-apiserver:v1"] if control_plane else []
    assert registries.images_needed_to_be_ready(resolved, StandIn()) == [
        "r/pause:3",
        *control,
        "r/network:1",
        "r/kube-proxy:v1",
        "r/coredns/coredns:v1",
        "r/metrics:1",
    ]


def led(store: Store, balancing: str = "auto", lacks: str | None = None, **files: str) -> ClusterContext:
    """A context whose machines have been checked, and have kernels that can lead to the control-plane nodes."""
    build(store, files={"etc/slipway.yaml": FACTS, "bin/ipvsadm": "", "bin/openssl": "", **files})
    context = prepared(store, 3, 1)
    assert context.spec.clusterfile.cluster
    cluster = dataclasses.replace(context.spec.clusterfile.cluster, load_balancing=balancing)
    context = changed(context, clusterfile=dataclasses.replace(context.spec.clusterfile, cluster=cluster))
    answers = {node.address: ipvs.IpvsSupport(lacks) for node in context.spec.nodes}
    return known(context.spec, balancing=ipvs.choose(registries.balancing_wish(context.resolved), answers), login=LOGIN)


def test_ipvs_virtual_ip_is_used_by_hosts_images_and_registry_certificate(store: Store) -> None:
    context = led(store)
    worker, node = context.spec.workers[0], context.spec.control_plane[0]
    assert context.resolved.hosts_lines(worker) == ("10.103.97.2 apiserver.cluster.local # slipway",)
    files = preparation.machine_files(context.resolved, worker)
    assert b"https://10.103.97.2:5000" in files["/etc/containerd/certs.d/_default/hosts.toml"].data
    assert files[ipvs.CONFIG].data.startswith(b"virtual 10.103.97.2\nsource 10.0.0.101\n")
    assert ipvs.CONFIG not in preparation.machine_files(context.resolved, node)
    asked: list[tuple[str, ...]] = []
    context.resolved.runtime.serving = lambda hosts, name: asked.append(hosts) or (b"", b"")  # type: ignore[func-returns-value, method-assign]
    started: Any = StandIn()
    registries.start_registry(context).action(started)
    assert asked == [("127.0.0.1", "10.103.97.2", "10.0.0.1", "10.0.0.2", "10.0.0.3")]


def test_haproxy_without_ipvs_support_uses_loopback_address(store: Store) -> None:
    context = led(store, lacks="its kernel has no ip_vs")
    assert context.resolved.hosts_lines(context.spec.workers[0]) == ("127.0.0.1 apiserver.cluster.local # slipway",)
    assert context.resolved.cluster.virtual_ip is None
    assert "/var/lib/slipway/balancer.cfg" in preparation.machine_files(context.resolved, context.spec.workers[0])


def login_of(store: Store, *, requires_login: bool = True) -> ClusterContext:
    """A context of two machines whose keys are known."""
    build(store)
    spec = dataclasses.replace(run.prepare(asked(1, 1), store).spec, requires_login=requires_login)
    context = known(spec, login=LOGIN if requires_login else None)
    assert isinstance(context.resolved.runtime, Kubeadm)
    context.resolved.runtime._pki = KEYS
    return context


def test_start_registry_waits_for_login_on_all_machines(store: Store) -> None:
    build(store)
    step = registries.start_registry(run.prepare(asked(3, 2), store))
    assert "set-up-machines" in step.after_all
    context = login_of(store)
    for node in context.spec.nodes:
        files = preparation.machine_files(context.resolved, node)
        assert LOGIN.basic.encode() in files["/etc/containerd/certs.d/_default/hosts.toml"].data
        # That comes with the start of the registry.
        assert not {"/var/lib/slipway/registry.yaml", registry.HTPASSWD} & set(files)


def test_login_changes_inputs_of_machine_and_registry_steps(store: Store) -> None:
    context, before = login_of(store), login_of(store, requires_login=False)
    for make, node in ((preparation.set_up_machines, context.spec.workers[0]), (registries.start_registry, context.spec.first)):
        steps_of = [make(context), make(before)]
        new, old = (step.inputs(node) for step in steps_of if step.inputs)
        assert new != old


def test_step_inputs_do_not_reveal_login(store: Store) -> None:
    context = login_of(store)
    for make in (preparation.set_up_machines, registries.start_registry):
        step = make(context)
        assert step.inputs is not None
        kept = step.inputs(context.spec.first)
        # 64 bits of a hash of 256 random ones.
        assert len(bytes.fromhex(kept)) == 8
    # Of the registry's step not even that depends on the password.
    registry_step = registries.start_registry(context)
    assert registry_step.inputs is not None
    with_this = registry_step.inputs(context.spec.first)
    vars(context.resolved)["login"] = Credential("slipway", "f" * 64)
    assert registry_step.inputs(context.spec.first) == with_this


def test_balancing_wish_of_image_without_ipvs_programs_brings_none(store: Store) -> None:
    build(store)
    wish = registries.balancing_wish(prepared(store, 1, 1).resolved)
    assert wish.balanced == ("10.0.0.101",)
    assert not wish.brings()


def test_registry_files_of_site_are_copied_with_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    site = OfSite(Site.parse("hub.example.org"), ca=b"PEM", credential=Credential("u", "p"))
    there = {path: file.data for path, file in site.files(["docker.io"]).items()}
    monkeypatch.setattr(registries, "read_files", lambda *_: dict(there))
    # Who may read them is the same, too: they hold a password.
    assert registries.AsThere.of(StandIn()).files(()) == site.files(["docker.io"])


def test_registry_files_from_member_are_limited_to_hosts_toml() -> None:
    node, good = StandIn(), "/etc/containerd/certs.d/_default/hosts.toml"
    node.answers = {"ls /etc": f"/root/.ssh/authorized_keys\n{good}\n", "base64": f"/root/.ssh/authorized_keys eA==\n{good} eA==\nend\n"}
    assert set(registries.AsThere.of(node).files(())) == {good}

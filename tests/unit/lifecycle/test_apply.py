"""What `apply` makes of differences: what it does, what it hands on, what it refuses; and who may change a cluster at a time."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ExpectedValue
from harness.clusterfile import ClusterDocument, Clusterfile, secrets
from harness.clusterfile.diff import ClusterfileChange, difference
from harness.clusterfile.parse import parse
from harness.clusterfile.write import redacted
from harness.errors import InputError, UsageError
from harness.lifecycle import apply, join, remove, run, upgrade
from harness.lifecycle.apply import ApplyWork, There
from harness.lifecycle.apps import install, multi_image, uninstall
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.tracking import TrackedObject
from harness.lifecycle.cluster import lease, membership
from harness.lifecycle.cluster.request import effective
from harness.lifecycle.plan import check
from harness.nodes import Login, Machine
from harness.oci.store import Store
from harness.process import ProcessResult
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import build, prepared, store

__all__ = ["store"]  # a fixture

CLUSTER = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: default}
spec:
  image: web:latest
  env: {Port: "80", Password: hunter2}
  hosts:
    - {ips: [10.0.0.1], roles: [master]}
    - {ips: [10.0.0.101], roles: [node]}
"""
CONFIG = "---\napiVersion: slipway.dev/v1\nkind: Config\nmetadata: {name: values}\nspec: {path: etc/values.yaml, data: 'a: %s'}\n"


def changes(old: str, new: str) -> tuple[ClusterfileChange, ...]:
    stored = parse(redacted(effective(parse(old, "old"))), "stored")
    return difference(stored, effective(parse(new, "Clusterfile")))


def work(old: str, new: str) -> ApplyWork:
    return apply.sort(changes(old, new), effective(parse(new, "Clusterfile")))


def test_difference_same_clusterfile_is_empty_and_changed_secret_shows_no_value() -> None:
    assert changes(CLUSTER, CLUSTER) == ()
    assert [str(change) for change in changes(CLUSTER, CLUSTER.replace("hunter2", "hunter3"))] == ["~ .spec.env.Password"]


@pytest.mark.parametrize(
    "new",
    [
        CLUSTER.replace('"80"', '"81"'),
        CLUSTER + CONFIG % 1,
        CLUSTER.replace("roles: [node]", "roles: [node, storage], labels: {a: b}, taints: ['k:NoSchedule'], env: {A: b}"),
        CLUSTER.replace("  env:", "  hostAliases: [{ip: 10.9.9.9, hostnames: [hub]}]\n  env:"),
        CLUSTER.replace("  env:", "  cmd: [echo]\n  env:"),
        CLUSTER.replace("  env:", "  loadBalancing: haproxy\n  env:"),
    ],
)
def test_sort_rendered_labelled_or_launched_change_is_applied_in_place(new: str) -> None:
    assert work(CLUSTER, new) == ApplyWork(here=True)


@pytest.mark.parametrize(
    ("new", "where"),
    [
        (CLUSTER.replace("  env:", "  network: {podCIDR: 10.1.0.0/16}\n  env:"), ".spec.network.podCIDR"),
        (CLUSTER.replace('Port: "80"', 'Port: "80", PodCIDR: 10.1.0.0/16'), ".spec.env.PodCIDR"),
        (CLUSTER.replace("  env:", "  certSANS: [a.example.com]\n  env:"), ".spec.certSANS"),
        (CLUSTER.replace("  env:", "  registry: {externalRegistry: {domain: harbor.site}}\n  env:"), ".spec.registry.externalRegistry"),
        (
            CLUSTER + "---\napiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nmaxPods: 7\n",
            "KubeletConfiguration.maxPods",
        ),
        (CLUSTER + (CONFIG % 1).replace("etc/values.yaml", "etc/kubeadm.yml"), "Config values"),
        (CLUSTER.replace("  env:", "  loadBalancing: ipvs\n  env:"), ".spec.loadBalancing"),
        (CLUSTER.replace("  env:", "  profile: cis\n  env:"), ".spec.profile"),
    ],
)
def test_sort_change_impossible_for_running_cluster_is_refused_with_field(new: str, where: str) -> None:
    with pytest.raises(InputError) as caught:
        work(CLUSTER, new)
    assert where in [fault.where for fault in caught.value.faults]
    assert all(fault.hint for fault in caught.value.faults)


def test_sort_machine_moved_between_worker_and_control_plane_is_refused() -> None:
    two = CLUSTER.replace("[10.0.0.1]", "[10.0.0.1, 10.0.0.2, 10.0.0.3]")
    new = CLUSTER.replace("[10.0.0.101]", "[10.0.0.102]").replace("[10.0.0.1]", "[10.0.0.1, 10.0.0.101, 10.0.0.2]")
    with pytest.raises(InputError, match="changes sides"):
        work(two, new)


def test_sort_added_removed_machines_and_new_image_are_listed_in_work() -> None:
    new = CLUSTER.replace("[10.0.0.101]", "[10.0.0.102]").replace("[10.0.0.1]", "[10.0.0.1, 10.0.0.2, 10.0.0.3]")
    found = work(CLUSTER, new)
    assert (found.control_plane, found.workers, found.leaving) == (("10.0.0.2", "10.0.0.3"), ("10.0.0.102",), ("10.0.0.101",))
    assert work(CLUSTER, CLUSTER.replace("web:latest", "web:2")).image == "web:2"


def test_carry_out_new_image_passes_clusterfile_and_env_to_upgrade(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    asked: list[tuple[Any, ...]] = []
    monkeypatch.setattr(upgrade, "upgrade", lambda *words, **_: asked.append(words))
    context = prepared(store, 1, 1)
    wanted = effective(parse(CLUSTER, "Clusterfile"), ClusterDocument("", "", env={"Port": "81"}))
    there: Any = There(context.spec.first, wanted, "sha256:1")
    apply._carry_out(ApplyWork(image="web:2"), wanted, run.RunOptions(), there, context, [])
    ((name, image, options),) = asked
    assert (name, image, [machine.address for machine in options.via]) == ("default", "web:2", ["10.0.0.1"])
    assert options.clusterfile.cluster.env == {"Port": "81", "Password": "hunter2"}


@pytest.mark.parametrize("silent", [(), ("10.0.0.3",)])
def test_carry_out_silent_control_plane_node_leaves_before_others_join(
    store: Store, monkeypatch: pytest.MonkeyPatch, silent: tuple[str, ...]
) -> None:
    """The others leave once the new ones are there."""
    build(store)
    calls: list[tuple[str, ...]] = []
    control_plane = tuple(SimpleNamespace(address=f"10.0.0.{number}") for number in (1, 2, 3))
    found = SimpleNamespace(control_plane=control_plane, errors=dict.fromkeys((*silent, "10.0.0.2", "10.0.0.101")))
    monkeypatch.setattr(membership, "gathered", lambda *_, **__: contextlib.nullcontext(found))
    monkeypatch.setattr(join, "join", lambda *_: calls.append(("join",)))
    monkeypatch.setattr(remove, "remove", lambda *_, addresses, **__: calls.append(tuple(addresses)))
    context = prepared(store, 1, 1)
    wanted = effective(parse(CLUSTER.replace("[10.0.0.1]", "[10.0.0.1, 10.0.0.2, 10.0.0.4]"), "Clusterfile"))
    there: Any = There(context.spec.first, wanted, "sha256:1")
    task = ApplyWork(control_plane=("10.0.0.4",), leaving=("10.0.0.3", "10.0.0.101"))
    apply._carry_out(task, wanted, run.RunOptions(), there, context, [])
    rest = tuple(address for address in task.leaving if address not in silent)
    assert calls == [*([silent] if silent else []), ("join",), rest]


def test_compare_image_reports_changed_digest_and_ignores_name_spelling(store: Store) -> None:
    build(store)
    known = store.names()["web:latest"].digest
    stored = parse(redacted(effective(parse(CLUSTER, "old"))), "stored")
    new = effective(parse(CLUSTER.replace("web:latest", "web"), "Clusterfile"))
    node: Any = StandIn()
    assert apply.compare(There(node, stored, known), new, store) == ()
    (change,) = apply.compare(There(node, stored, "sha256:" + "0" * 64), new, store)
    assert (change.subject, change.action) == ("image", "changed")
    # Nobody needs the image when there is nothing to do.
    elsewhere = Store(store.root.parent / "other")
    assert apply.compare(There(node, stored, known), new, elsewhere) == ()


def test_compare_other_name_of_running_image_is_change_only_with_other_digest(store: Store) -> None:
    build(store)
    known = store.names()["web:latest"]
    store.tag("shop:2", known)
    stored = parse(redacted(effective(parse(CLUSTER, "old"))), "stored")
    new = effective(parse(CLUSTER.replace("web:latest", "shop:2"), "Clusterfile"))
    node: Any = StandIn()
    assert apply.compare(There(node, stored, known.digest), new, store) == ()
    (change,) = apply.compare(There(node, stored, "sha256:" + "0" * 64), new, store)
    assert (change.subject, change.after) == ("image", "shop:2")


def test_with_machines_clusterfile_without_hosts_takes_hosts_of_cluster() -> None:
    old = CLUSTER.replace("[10.0.0.1], roles: [master]", "[10.0.0.1], roles: [master], labels: {zone: a}, ssh: {passwd: opensesame}")
    stored = parse(redacted(effective(parse(old, "old"))), "stored")
    text = CLUSTER.partition("  hosts:")[0].replace('"80"', '"81"') + "  ssh: {user: ops, pk: ./id}\n"
    wanted = apply.with_machines(effective(parse(text, "Clusterfile")), stored, {"10.0.0.1": "localhost"})
    assert wanted.cluster is not None
    assert wanted.cluster.ssh_hosts == {"10.0.0.1": "localhost"}
    assert [str(change) for change in difference(stored, wanted)] == ["~ .spec.env.Port: 80 -> 81"]
    assert wanted.cluster is not None
    (control_plane_node, node) = wanted.cluster.hosts
    assert (control_plane_node.ips, control_plane_node.roles, control_plane_node.labels) == (
        ("10.0.0.1",),
        ("control-plane",),
        {"zone": "a"},
    )
    # The mark of a password that the cluster did not keep is no password.
    assert [(host.ssh.user, host.ssh.key, host.ssh.password.text) for host in (control_plane_node, node)] == [("ops", "./id", None)] * 2
    # One that names machines means them.
    named = effective(parse(CLUSTER, "Clusterfile"))
    assert apply.with_machines(named, stored, {}) is named


def test_apply_changed_file_changes_inputs_of_launch_commands_that_may_read_it(store: Store) -> None:
    commands = ("helm install a charts/a -f etc/a.yaml", "kubectl apply -f manifests/b.yaml", "bash run.sh")
    build(store, launch=commands, files={"etc/slipway.yaml": "kubernetes: v1.36.3\n", "etc/a.yaml": "x: 1", "manifests/b.yaml": "y: 1"})

    def launched(text: str) -> dict[str, str]:
        context = prepared(store, clusterfile=effective(parse(CLUSTER + text, "Clusterfile")))
        context.resolved.runtime._pki = type("Keys", (), {"identity": "one"})()
        recipe = apply.here(context)
        check(recipe)
        return {step.id: step.inputs(context.spec.first) for step in recipe if step.id.startswith("launch") and step.inputs}

    text = CONFIG.replace("etc/values.yaml", "etc/a.yaml")
    one, two = launched(text % 1), launched(text % 2)
    assert [name for name in one if one[name] != two[name]] == ["launch-1", "launch-3"]


def test_apply_plan_has_no_service_or_rootfs_steps_and_ends_with_record(store: Store) -> None:
    build(store, launch=("one",))
    ids = [step.id for step in apply.here(prepared(store, 1, 1))]
    assert not {"start-containerd", "start-kubelets", "start-control-plane", "send-rootfs", "start-registry"} & set(ids)
    assert ids[-1] == "record"


# ---- one at a time ----------------------------------------------------------------------------------------------------


class Api(StandIn):
    """A control-plane node whose API has one Lease or none."""

    def __init__(self) -> None:
        super().__init__()
        self.lease: dict[str, Any] | None = None
        self.now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        self.version = 0

    @property
    def holder(self) -> str | None:
        return self.lease["spec"].get("holderIdentity") if self.lease else None

    def _keep(self, new: dict[str, Any]) -> ProcessResult:
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self.lease = new
        return ProcessResult((), 0, json.dumps(new), "")

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        self.commands.append(command)
        if command.startswith("date"):
            return ProcessResult((), 0, f"{self.now.timestamp()}\n", "")
        if " get lease" in command:
            return ProcessResult((), 0, json.dumps(self.lease) if self.lease else "", "")
        problem = ""
        if " create " in command:
            if self.lease is None:
                return self._keep(json.loads(input))
            problem = "Error from server (AlreadyExists): leases exists"
        elif " replace " in command:
            new = json.loads(input)
            if self.lease is not None and new["metadata"]["resourceVersion"] == self.lease["metadata"]["resourceVersion"]:
                return self._keep(new)
            problem = f"Error from server ({'Conflict' if self.lease else 'NotFound'}): leases"
        return ProcessResult((), 1 if problem else 0, "", problem)


def somebody(api: Api, ago: float) -> None:
    stamp = (api.now - datetime.timedelta(seconds=ago)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    count = api.lease["spec"]["leaseTransitions"] + 1 if api.lease else 1
    times = {"acquireTime": stamp, "renewTime": stamp, "leaseTransitions": count}
    spec = {"holderIdentity": "ops@elsewhere:7", "leaseDurationSeconds": 60, **times}
    api._keep({"metadata": {"resourceVersion": ""}, "spec": spec})


def test_lease_held_again_by_same_process_is_kept_until_outer_release() -> None:
    api = Api()
    with lease.held(api, "lab"):
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == lease.holder()
        with lease.held(api, "lab"):
            pass
        assert api.lease is not None
    assert api.holder is None


def test_lease_held_by_other_command_is_refused_with_holder_and_unchanged() -> None:
    api = Api()
    somebody(api, ago=20)
    with pytest.raises(UsageError, match=r"ops@elsewhere:7 is changing the cluster lab since 2025-12-31T23:59:40"), lease.held(api, "lab"):
        pytest.fail("it was let in")
    assert api.lease is not None
    assert not any(" delete " in command or " replace " in command for command in api.commands)


def test_lease_expired_is_taken_over_and_released() -> None:
    api = Api()
    somebody(api, ago=61)
    with lease.held(api, "lab"):
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == lease.holder()
    assert api.holder is None


# ---- applications with images of their own ----------------------------------------------------------------------------

APPLICATION = (
    "---\napiVersion: slipway.dev/v1\nkind: Application\nmetadata: {{name: {0}}}\nspec: {{image: {0}:1, env: {{A: {1}, Token: t}}}}\n"
)


def documents(text: str) -> Any:
    return effective(parse(CLUSTER + text, "Clusterfile")).apps


def installed(text: str, **changes: Any) -> Installed:
    """As the cluster keeps the one application of a text."""
    (one,) = documents(text)
    kept = Installed(one.name, one.image, "sha256:1", "installed", clusterfile=Clusterfile("", apps=(one,)), by_file=True)
    return Installed.of(dataclasses.replace(kept, **changes).config_map())


def test_compare_apps_reports_added_changed_removed_and_refuses_manual_application(store: Store) -> None:
    shop, more = APPLICATION.format("shop", "b"), APPLICATION.format("more", "b")
    there = (installed(shop), installed(more))

    def found(text: str, there: tuple[Installed, ...] = there) -> tuple[list[str], ApplyWork]:
        changes = apply.compare_apps(there, documents(text), store)
        return [str(change) for change in changes], apply.with_apps(ApplyWork(), there, documents(text), changes)

    assert found(shop + more) == ([], ApplyWork())
    said, done = found(shop)
    assert (said, done.apps, done.apps_gone) == (["- Application more: more:1"], (), ("more",))
    said, done = found(shop + APPLICATION.format("more", "c"))
    assert (said, [one.name for one in done.apps]) == (["~ Application more.spec.env.A: b -> c"], ["more"])
    said, done = found(shop + more, ())
    assert [one.name for one in done.apps] == ["shop", "more"]
    assert said == ["+ Application shop: shop:1", "+ Application more: more:1"]
    # One that was not finished is, and one that was put there by hand stays and keeps its name to itself.
    said, done = found(shop, (installed(shop, state="installing"),))
    assert said == ["~ Application shop: installing -> installed"]
    assert found("", (installed(shop, by_file=False),)) == ([], ApplyWork())
    with pytest.raises(InputError, match="did not come with a Clusterfile"):
        found(shop, (installed(shop, by_file=False),))


def test_sort_new_application_is_work_for_applications_only() -> None:
    found = work(CLUSTER, CLUSTER + APPLICATION.format("shop", "b"))
    assert (found.here, found.apps_noted, found.only_apps) == (False, True, True)


class OneCluster:
    """Stands in for what `apply` finds and does; ``said`` is what it did."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stored: Clusterfile, digest: str, apps: tuple[Installed, ...] = ()) -> None:
        self.said: list[str] = []
        node: Any = StandIn()
        node.machine = Machine("10.0.0.1", Login())
        node.answers = {"get configmap": json.dumps({"metadata": {"resourceVersion": "7"}, "data": {}})}
        monkeypatch.setattr(apply, "SshConnections", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(apply, "find", lambda *_: There(node, stored, digest, "7", apps))
        monkeypatch.setattr(lease, "held", lambda *_: contextlib.nullcontext())
        monkeypatch.setattr(uninstall, "remove", lambda name, *_, **__: self.said.append(f"remove {name}"))
        monkeypatch.setattr(install, "install", lambda request, *_, **__: self.said.append(f"install {request.document.name}"))
        monkeypatch.setattr(multi_image, "judge", lambda apps, *_: self.said.append(f"judge {[app.name for app in apps]}"))
        monkeypatch.setattr(apply, "seen_from", lambda *_: None)
        monkeypatch.setattr(membership, "set_apps", lambda _, apps: self.said.append(f"note {[app.name for app in apps]}"))


class Asked(StandIn):
    """A machine whose question about the cluster fails with an error, or is answered."""

    def __init__(self, address: str, error: str = "", answer: str = "") -> None:
        super().__init__(address)
        self.error, self.answer = error, answer

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        return ProcessResult((), 1 if self.error else 0, self.answer, self.error)


@pytest.mark.parametrize("error", ["sh: kubectl: not found", 'configmaps "slipway-clusterfile" not found (NotFound)', "no answer"])
def test_find_record_on_second_control_plane_node_is_found(tmp_path: Path, error: str) -> None:
    record = json.dumps({"metadata": {"resourceVersion": "7"}, "data": {"Clusterfile": CLUSTER, "digest": "sha256:1"}})
    second: Any = Asked("10.0.0.2", answer=f'{record}\n{apply._APPS}\n{{"items": []}}')
    ssh: Any = SimpleNamespace(reachable=lambda: ((Asked("10.0.0.1", error), second), {}), folder=tmp_path)
    current = apply.find(ssh, "lab")
    assert current is not None
    assert (current.control_plane_node, current.digest, current.version) == (second, "sha256:1", "7")


def test_require_unchanged_record_of_other_version_raises_usage_error() -> None:
    node = StandIn()
    node.answers = {"get configmap": json.dumps({"metadata": {"resourceVersion": "8"}, "data": {}})}
    membership.require_unchanged(node, "8", "lab")
    with pytest.raises(UsageError, match="another command has changed the cluster lab meanwhile"):
        membership.require_unchanged(node, "7", "lab")


def of_list(*images: str) -> str:
    return CLUSTER.replace("image: web:latest", f"image: [{', '.join(images)}]")


def test_apply_image_dropped_from_list_is_uninstalled_after_confirmation(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    for name in ("shop:1", "more:1"):
        build(store, name, type="app")
    wanted = multi_image.settled(effective(parse(of_list("web:latest", "shop:1", "more:1"), "Clusterfile")), store)
    digests = {name: store.resolve(name).digest for name in ("web:latest", "shop:1", "more:1")}
    objects = (TrackedObject("v1", "ConfigMap", "default", "a"), TrackedObject("v1", "ConfigMap", "default", "b", ours=False))
    apps = tuple(
        Installed(app.name, app.image or "", digests[app.image or ""], "installed", Clusterfile("", apps=(app,)), objects, by_file=True)
        for app in wanted.apps
    )
    stored = parse(redacted(wanted), "stored")
    cluster = OneCluster(monkeypatch, stored, digests["web:latest"], apps)
    asked: list[Any] = []

    def applied(text: str, **options: Any) -> apply.Applied:
        return apply.apply(effective(parse(text, "Clusterfile")), store, confirm=asked.append, **options)

    assert applied(of_list("web:latest", "shop:1", "more:1")).changes == ()
    planned = applied(of_list("web:latest", "more:1"), plan=True)
    assert [step["title"] for step in planned.steps] == ["remove the application shop"]
    assert planned.removed == {"shop": ("ConfigMap default/a",)}
    assert (asked, cluster.said) == ([], [])
    done = applied(of_list("web:latest", "more:1"))
    assert (done.done, asked) == (True, [{"shop": ("ConfigMap default/a",)}])
    assert cluster.said == ["remove shop", "note ['more']"]

    def refuse(_: object) -> None:
        raise UsageError("no")

    cluster.said.clear()
    with pytest.raises(UsageError, match=r"^no"):
        apply.apply(effective(parse(CLUSTER, "Clusterfile")), store, confirm=refuse)
    assert cluster.said == []


def test_apply_plan_hides_secret_values_and_reads_no_image_without_change(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store, values=(ExpectedValue("Phrase", secret=True),))
    build(store, "shop:1", type="app", values=(ExpectedValue("Word", secret=True),))
    app = "---\napiVersion: slipway.dev/v1\nkind: Application\nmetadata: {name: shop}\nspec: {image: 'shop:1', env: {A: b}}\n"
    old = effective(parse(CLUSTER + app, "Clusterfile"))
    installed = Installed("shop", "shop:1", store.resolve("shop:1").digest, "installed", Clusterfile("", apps=old.apps), by_file=True)
    OneCluster(monkeypatch, parse(redacted(old), "stored"), store.resolve("web").digest, (installed,))
    monkeypatch.setattr(secrets, "declare", lambda names: None)
    with monkeypatch.context() as patched:
        patched.setattr(cloudimage, "read", lambda *_: pytest.fail("an image was read"))
        assert apply.apply(old, store, plan=True).changes == ()
    new = (CLUSTER + app).replace("A: b", "A: c, Word: open")
    planned = apply.apply(effective(parse(new, "Clusterfile")), store, plan=True)
    shown = [str(change) for change in planned.changes]
    assert shown == ["~ Application shop.spec.env.A: b -> c", "+ Application shop.spec.env.Word"]
    assert apply.secret_values(old, store) == {"Phrase", "Word"}


def test_apply_applications_of_image_list_are_judged_together_before_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    build(store)
    for name in ("shop:1", "more:1"):
        build(store, name, type="app")
    stored = parse(redacted(effective(parse(CLUSTER, "Clusterfile"))), "stored")
    cluster = OneCluster(monkeypatch, stored, store.resolve("web").digest)
    fetched: list[str] = []
    text = of_list("more:1", "web:latest", "shop:1")
    apply.apply(effective(parse(text, "Clusterfile")), store, fetch=lambda: fetched.append("all"))
    assert cluster.said == ["judge ['more', 'shop']", "install more", "install shop", "note ['more', 'shop']"]
    assert fetched

"""Hooks as steps: which, when, where, in which order, once. Machines are stand-ins."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from harness.clusterfile import Phase, Taint
from harness.clusterfile.parse import parse, parse_hooks
from harness.errors import InputError, StoreError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle import run
from harness.lifecycle.apps import installation
from harness.lifecycle.cluster.request import effective
from harness.lifecycle.kube import etcd
from harness.lifecycle.plan import check
from harness.lifecycle.steps import hooks, labels
from harness.lifecycle.steps.context import ClusterContext
from harness.lifecycle.steps.uninstall_hooks import Parting
from harness.nodes.files import STATE
from harness.oci.store import Store
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import FACTS, build, changed, prepared, store

__all__ = ["store"]  # a fixture

FILES = {"etc/slipway.yaml": FACTS, "etc/addons/dns.yaml": "kind: Service"}
CLUSTER = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: default}
spec:
  image: web
  hosts:
    - {ips: [10.0.0.1], roles: [master]}
    - {ips: [10.0.0.101, 10.0.0.102], roles: [node, storage], labels: {disk: ssd}, taints: ["k=v:NoSchedule", "old:NoExecute-"]}
"""


def hook(name: str, phases: str, data: str = "echo x", **keys: str) -> str:
    more = "".join(f"  {key}: {value}\n" for key, value in keys.items())
    text = f"  data: |\n    {data}\n" if data else ""
    return f"---\napiVersion: slipway.dev/v1\nkind: Hook\nmetadata: {{name: {name}}}\nspec:\n  phases: [{phases}]\n{more}{text}"


def context(store: Store, text: str = "", files: dict[str, str] | None = None) -> ClusterContext:
    build(store, files={**FILES, **(files or {})}, launch=("one",))
    return prepared(store, 1, 2, clusterfile=effective(parse(CLUSTER + text, "Clusterfile")))


def plan(found: ClusterContext) -> list[str]:
    recipe = run.plan(found)
    check(recipe)
    return [step.id for step in recipe]


def test_hooks_of_each_phase_run_at_their_place_in_plan(store: Store) -> None:
    text = "".join(
        hook(name, name, **({"on": "all"} if name in ("pre-install", "post-install") else {}))
        for name in ("originally", "pre-install", "pre-init-host", "post-init-host", "post-install", "pre-launch", "post-launch")
    )
    order = plan(context(store, text))
    moments = [
        "check-machines",
        "hook-originally-1-originally",
        "send-rootfs",
        "send-rendered",
        "hook-pre-install-1-pre-install",
        "hook-pre-init-host-1-pre-init-host",
        "set-up-machines",
        "wait-for-nodes",
        "label-nodes",
        "hook-post-init-host-1-post-init-host",
        "hook-post-install-1-post-install",
        "hook-pre-launch-1-pre-launch",
        "launch-1",
        "hook-post-launch-1-post-launch",
        "wait-for-workloads",
        "record",
    ]
    assert [name for name in order if name in moments] == moments


def test_hooks_are_awaited_by_steps_after_their_phase(store: Store) -> None:
    recipe = {step.id: step for step in run.plan(context(store, hook("a", "originally") + hook("b", "pre-init-host")))}
    assert "hook-originally-1-a" in recipe["send-images"].after_all
    assert "hook-originally-1-a" in recipe["unpack-rootfs"].after_all
    assert recipe["hook-pre-init-host-1-b"].after_all == ("send-rootfs", "send-rendered")
    assert "hook-pre-init-host-1-b" in recipe["set-up-machines"].after_all


def test_plan_without_hooks_starts_with_unchanged_cluster_steps(store: Store) -> None:
    found = context(store)
    ids = plan(found)
    assert not any(name.startswith("hook") for name in ids)
    assert ids[: len(run.cluster_steps(found).steps)] == [step.id for step in run.cluster_steps(found).steps]


def test_hooks_of_image_and_clusterfile_run_once_in_name_order(store: Store) -> None:
    image = {"plugins/a.yaml": hook("b", "pre-launch", "echo image"), "plugins/readme.txt": "no hook"}
    same = hook("b", "pre-launch", "echo image")
    order = plan(context(store, hook("a", "pre-launch") + same + hook("c", "pre-launch"), image))
    assert [name for name in order if name.startswith("hook")] == [f"hook-pre-launch-{index}-{name}" for index, name in enumerate("abc", 1)]


def test_hook_runs_on_nodes_of_role_address_or_label(store: Store) -> None:
    text = "".join(
        hook(f"h{index}", "pre-launch", on=f"['{on}']")
        for index, on in enumerate(("control-plane", "worker", "storage", "10.0.0.102", "disk=ssd", "all"))
    )
    recipe = {step.id: step for step in run.plan(context(store, text))}
    where = [[node.address[-3:] for node in step.nodes] for name, step in recipe.items() if name.startswith("hook")]
    # Labels are those of nodes, so they are looked at when there are nodes.
    assert where == [["0.1"], ["101", "102"], ["101", "102"], ["102"], ["0.1", "101", "102"], ["0.1", "101", "102"]]


def test_hook_inputs_depend_on_script(store: Store) -> None:
    def inputs(data: str) -> str:
        step = next(step for step in run.plan(context(store, hook("a", "pre-launch", data))) if step.id.startswith("hook"))
        assert step.inputs is not None
        return step.inputs(step.nodes[0])

    assert inputs("echo 1") == inputs("echo 1") != inputs("echo 2")


def test_shell_hook_starts_in_existing_rootfs_and_hides_environment(store: Store) -> None:
    (found,) = parse_hooks(hook("a", "originally, pre-launch", 'echo "$Word"'), "plugins/a.yaml")
    for phase, there, place in (
        (Phase.ORIGINALLY, True, "/"),
        (Phase.PRE_LAUNCH, True, f"{STATE}/rootfs"),
        (Phase.POST_CLEAN_HOST, False, "/"),
    ):
        node = Rootless(there)
        hooks.shell(node, found, phase, {"Word": "hunter2"})
        script = node.sent[0].decode()
        assert script.startswith(f"cd {place} || exit 1\n")
        assert "export Word=hunter2\n" in script
        assert 'echo "$Word"' in script
        assert not any("hunter2" in command for command in node.commands)
        (put,) = (command for command in node.commands if command.startswith("put "))
        assert put.startswith("put /run/slipway-launch-") == (place == "/")
        assert put.endswith(" 600")


class Rootless(StandIn):
    """Says whether it has a rootfs, and keeps what it is given."""

    def __init__(self, there: bool) -> None:
        super().__init__()
        self.there = there
        self.sent: list[bytes] = []

    def run(self, command: str, **keys: Any) -> Any:
        result = super().run(command, **{**keys, "input": None})
        return type(result)((), 0 if self.there else 1, "", "") if command.startswith("test -d") else result

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        self.sent.append(data)
        super().put(data, path, mode)


def test_host_names_are_set_before_rootfs_is_unpacked(store: Store) -> None:
    text = hook("names", "pre-init", "10.0.0.101 worker-a", type="HOSTNAME")
    found = context(store, text)
    recipe = run.plan(found)
    order = [step.id for step in recipe]
    assert order.index("check-machines") < order.index("set-host-names") < order.index("unpack-rootfs")
    step = next(step for step in recipe if step.id == "set-host-names")
    assert [node.address for node in step.nodes] == ["10.0.0.101"]
    assert hooks.host_names(hooks.of(found.spec), hooks.NAMING) == {"10.0.0.101": "worker-a"}
    node = StandIn("10.0.0.101")
    step.action(node)
    assert "hostname worker-a" in node.commands[0]
    assert "before/hostname" in node.commands[0]


def test_hook_with_redacted_script_is_refused(store: Store) -> None:
    with pytest.raises(InputError, match="was not kept"):
        plan(context(store, hook("a", "pre-launch", "<redacted abcd>")))


def test_hook_of_image_with_invalid_phase_is_reported_with_file(store: Store) -> None:
    with pytest.raises(InputError, match=r"plugins/a\.yaml"):
        plan(context(store, files={"plugins/a.yaml": hook("a", "pre-lunch")}))


# ---- labels and taints ------------------------------------------------------------------------------------------------


def test_taint_legacy_control_plane_key_is_translated() -> None:
    taken = labels.taint("one", Taint("node-role.kubernetes.io/master", effect="NoSchedule", remove=True))
    assert "node-role.kubernetes.io/control-plane:NoSchedule-" in taken
    put = labels.taint("one", Taint("node-role.kubernetes.io/master", effect="NoSchedule"))
    assert "node-role.kubernetes.io/control-plane=:NoSchedule" in put
    assert "example.com/master=:NoSchedule" in labels.taint("one", Taint("example.com/master", effect="NoSchedule"))


def test_labels_step_sets_labels_roles_and_taints_of_clusterfile_and_removes_no_others(store: Store) -> None:
    found = context(store)
    (step,) = labels.step(found, "wait-for-nodes")
    node = StandIn()
    step.action(node)
    (script,) = node.commands
    assert script.splitlines()[0] == "set -e"
    # Only a taint that the Clusterfile removes goes; a node of which it says nothing is left as it is.
    changes = re.findall(r"/kubectl (.*?)(?: 2>&1\) .*)?$", script, flags=re.MULTILINE)
    assert changes == [
        change
        for name in ("host-1", "host-2")
        for change in (
            f"label node {name} --overwrite node-role.kubernetes.io/storage= disk=ssd",
            f"taint node {name} --overwrite k=v:NoSchedule",
            f"taint node {name} --overwrite old:NoExecute-",
        )
    ]
    assert script.count("kubectl") == len(changes)
    # The node may not have it.
    assert script.count("--overwrite old:NoExecute- 2>&1) || case $said in *'not found'*) ;; *) echo \"$said\" >&2; exit 1 ;; esac") == 2


def test_labels_step_removes_labels_and_taints_dropped_from_clusterfile(store: Store) -> None:
    found = context(store)
    plain = CLUSTER.replace(", storage", "").replace(", labels: {disk: ssd}", "").replace('"k=v:NoSchedule", ', "")
    wanted = effective(parse(plain, "Clusterfile"))
    (step,) = labels.step(changed(found, clusterfile=wanted, previous=found.spec.clusterfile), "wait-for-nodes")
    node = StandIn()
    step.action(node)
    assert "label node host-1 --overwrite node-role.kubernetes.io/storage- disk-" in node.commands[0]
    assert "k:NoSchedule-" in node.commands[0]


def test_labels_step_without_labels_is_absent(store: Store) -> None:
    build(store)
    assert labels.step(prepared(store, 1, 1), "wait-for-nodes") == []


# ---- the end ----------------------------------------------------------------------------------------------------------


def kept(*texts: str) -> StandIn:
    import json

    node = StandIn("10.0.0.1", "host-1")
    node.answers = {"get configmap": json.dumps({"data": {"Clusterfile": CLUSTER + "".join(texts)}})}
    return node


def test_parting_hooks_run_in_their_phase_on_their_machines() -> None:
    node, worker = kept(hook("bye", "pre-clean-host"), hook("gone", "post-clean-host", on="worker")), StandIn("10.0.0.101")
    found = Parting.read([node], [node, worker])
    assert [one.name for one in found.hooks] == ["bye", "gone"]
    found.run(Phase.PRE_CLEAN_HOST, node)
    assert any("launch-" in command for command in node.commands)
    assert not any("launch-" in command for command in worker.commands)
    before = len(node.commands)
    found.run(Phase.POST_CLEAN_HOST, node)
    assert len(node.commands) == before
    found.run(Phase.POST_CLEAN_HOST, worker)
    assert any("launch-" in command for command in worker.commands)


def test_parting_read_without_answer_has_no_hooks() -> None:
    silent = StandIn()
    assert Parting.read([silent], [silent]).hooks == ()
    assert Parting.read([], []).hooks == ()


def test_of_image_without_hooks_is_empty(tmp_path: Path) -> None:
    assert hooks.of_image(tmp_path) == ()


# ---- files on this machine --------------------------------------------------------------------------------------------


def snapshot_hook(output: str = "", phases: str = "post-launch") -> str:
    return hook("save", phases, "", type="ETCD", **({"on": f"['{output}']"} if output else {}))


PLACES = ["/root/.ssh/authorized_keys", "~/.ssh/authorized_keys", "../../x", "a/b", ".bashrc", ".."]


@pytest.mark.parametrize("output", PLACES)
def test_hook_of_image_with_local_path_is_refused(store: Store, output: str) -> None:
    with pytest.raises(InputError, match=r"(?s)plugins/a\.yaml:\d.*hook save names .* -f"):
        plan(context(store, files={"plugins/a.yaml": snapshot_hook(output)}))


@pytest.mark.parametrize("output", PLACES)
def test_hook_of_stored_clusterfile_with_local_path_is_refused(store: Store, output: str) -> None:
    build(store, files=FILES, launch=("one",))
    kept = parse(CLUSTER + snapshot_hook(output), "the stored Clusterfile", stored=True)
    with pytest.raises(InputError, match=r"the stored Clusterfile:.*hook save names"):
        plan(prepared(store, 1, 2, clusterfile=effective(kept)))


def test_hook_of_image_with_local_path_is_refused_despite_equal_user_hook(store: Store) -> None:
    with pytest.raises(InputError, match="hook save names"):
        plan(context(store, snapshot_hook("/x/y"), {"plugins/a.yaml": snapshot_hook("/x/y")}))


def etcd_step(found: ClusterContext) -> str:
    step = next(step for step in run.plan(found) if step.id.startswith("hook-post-launch"))
    return str(step.action(step.nodes[0]))


@pytest.fixture
def snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "take_snapshot", lambda _, into: into.write(b"etcd"))


@pytest.mark.usefixtures("snapshot")
@pytest.mark.parametrize("output", ["", "first.db"])
def test_etcd_hook_of_image_writes_below_cluster_folder_without_overwriting(store: Store, tmp_path: Path, output: str) -> None:
    found = changed(context(store, files={"plugins/a.yaml": snapshot_hook(output)}), state=ClusterState.of("default", tmp_path / "home"))
    folder = tmp_path / "home/clusters/default/snapshots"
    folder.mkdir(parents=True)
    name = output or "default-etcd.db"
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{folder}/{name}.1: " in etcd_step(found)
    assert f"{folder}/{name}.2: " in etcd_step(found)
    assert (folder / f"{name}.1").read_bytes() == b"etcd"
    assert (folder / f"{name}.1").stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.usefixtures("snapshot")
def test_etcd_hook_of_clusterfile_writes_to_given_path(store: Store, tmp_path: Path) -> None:
    found = changed(context(store, snapshot_hook(str(tmp_path / "deep/etcd.db"))), state=ClusterState.of("default", tmp_path / "home"))
    etcd_step(found)
    assert (tmp_path / "deep/etcd.db").read_bytes() == b"etcd"


@pytest.mark.parametrize("link", ["plugins/a.yaml", "plugins"])
@pytest.mark.parametrize("absolute", [True, False])
def test_hook_behind_link_out_of_rootfs_is_refused(tmp_path: Path, link: str, absolute: bool) -> None:
    tree, secret = tmp_path / "rootfs", tmp_path / "secret"
    secret.write_text("secret")
    (tree / link).parent.mkdir(parents=True)
    (tree / link).symlink_to(secret if absolute else "../" * (link.count("/") + 1) + "secret")
    for read in (hooks.of_image, installation.hooks_of):
        with pytest.raises(StoreError, match="leads out of the folder"):
            read(tree)

"""What a node is brought of its next rootfs: what it has already is never sent."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from harness import cloudimage
from harness.errors import CommandError
from harness.lifecycle.provision import rootfs, rootfs_update
from harness.lifecycle.provision.rootfs_update import Entry
from harness.nodes.files import NodeFile
from harness.oci.store import Store
from harness.runtimes import ROOTFS
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import build, store

__all__ = ["store"]  # a fixture


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    for path, text in {"bin/kubelet": "new kubelet", "bin/runc": "runc", "manifests/web.yaml": "{{ Greeting }}", "etc/a b": "x"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o755 if path.startswith("bin") else 0o644)
    (root / "bin/link").symlink_to("runc")
    (root / "charts").mkdir()
    return root


RUNNING = f"""mode 755 ./bin/kubelet
mode 755 ./bin/runc
mode 600 ./manifests/web.yaml
mode 644 ./etc/a b
mode 644 ./old.txt
file {digest("old kubelet")}  ./bin/kubelet
file {digest("runc")}  ./bin/runc
file {digest("hello")}  ./manifests/web.yaml
file {digest("x")}  ./etc/a b
file {digest("gone")}  ./old.txt
link ./bin/link\trunc
end
"""


def test_ask_returns_files_modes_and_links() -> None:
    node = StandIn()
    node.answers = {f"cd {ROOTFS}": RUNNING}
    found = rootfs_update.ask(node)
    assert found["bin/link"] == Entry(link="runc")
    assert found["etc/a b"] == Entry(digest("x"), 0o644)
    assert found["manifests/web.yaml"].mode == 0o600


def test_ask_truncated_answer_raises_command_error() -> None:
    node = StandIn()
    node.answers = {f"cd {ROOTFS}": RUNNING.removesuffix("end\n")}
    with pytest.raises(CommandError, match="could not be read"):
        rootfs_update.ask(node)


def test_compare_reports_only_differing_files(tree: Path) -> None:
    target = rootfs_update.wanted(tree, {"manifests/web.yaml": NodeFile.text("hello", 0o600)})
    delta = rootfs_update.compare(target, rootfs_update.parse(RUNNING.splitlines()), {})
    assert delta.missing == ("bin/kubelet",)
    assert delta.changed == {"bin/kubelet", "old.txt"}
    assert delta.bytes == len("new kubelet")


def test_compare_changed_rendered_value_changes_only_its_file(tree: Path) -> None:
    target = rootfs_update.wanted(tree, {"manifests/web.yaml": NodeFile.text("goodbye", 0o600)})
    running = {**target, "manifests/web.yaml": Entry(digest("hello"), 0o600)}
    assert rootfs_update.compare(target, running, {}).changed == {"manifests/web.yaml"}


def test_compare_with_former_tree_on_node_misses_no_file(tree: Path) -> None:
    target = rootfs_update.wanted(tree, {})
    running = {**target, "bin/kubelet": Entry(digest("a newer kubelet"), 0o755)}
    delta = rootfs_update.compare(target, running, target)
    assert (delta.missing, delta.bytes) == ((), 0)
    assert delta.changed == {"bin/kubelet"}


def test_compare_with_empty_node_misses_all_files(tree: Path) -> None:
    target = rootfs_update.wanted(tree, {})
    assert set(rootfs_update.compare(target, {}, {}).missing) == set(target)


def staged(delta: rootfs_update.Delta) -> tuple[StandIn, list[str]]:
    node, brought = StandIn(), []

    def bring() -> str:
        brought.append(node.commands[-1])
        return "60 MB from here"

    rootfs_update.stage(node, delta, bring, {"manifests/web.yaml": NodeFile.text("hello", 0o600)}, "abc", ["kubelet"])
    return node, brought


def test_stage_on_complete_node_transfers_nothing(tree: Path) -> None:
    target = rootfs_update.wanted(tree, {})
    node, brought = staged(rootfs_update.compare(target, target, {}))
    assert brought == []
    assert node.commands[-1] == f"echo abc > {rootfs_update._CURRENT}"


def test_stage_writes_beside_running_rootfs_and_marks_it_last(tree: Path) -> None:
    node, brought = staged(rootfs_update.compare(rootfs_update.wanted(tree, {}), {"old.txt": Entry("1", 0o644)}, {}))
    assert len(brought) == 1
    assert f"tar -C {rootfs_update.NEXT} -xopf -" in node.commands
    assert node.commands[-1] == f"echo abc > {rootfs_update._STAGED}"
    # The rootfs that runs is only read.
    assert not any(f"tar -C {ROOTFS} " in said for said in node.commands)


def test_parcel_targets_next_tree_and_orders_sources_by_direction(store: Store) -> None:
    build(store)
    (image,) = cloudimage.read(store, "web").platforms
    there, back = (rootfs_update.parcel(store, image, back=way) for way in (False, True))
    assert there.name == back.name == rootfs.parcel_name(image)
    assert there.earlier.split()[-1] == back.earlier.split()[0] == rootfs_update.FORMER
    assert f"NEXT={rootfs_update.NEXT}\n" in there.finish
    assert there.finish.endswith('mv "$work/tree" "$NEXT"\n')
    assert f" {ROOTFS}\n" not in there.finish
    node = StandIn()
    assert there.whole is not None
    there.whole(node)
    ((command, files),) = node.tars
    assert f"tar -C {rootfs_update.NEXT} " in command
    assert "etc/slipway.yaml" in files

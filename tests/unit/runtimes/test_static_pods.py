"""Manifests of a control-plane node's parts, marked so that the kubelet starts them anew."""

from __future__ import annotations

import base64
import re
import shlex
from typing import Any

import pytest
import yaml

from harness.errors import CheckError, NodeError
from harness.process import ProcessResult
from harness.runtimes.static_pods import (
    ANNOTATION,
    KEPT,
    MANIFESTS,
    PARTS,
    come_back,
    halt,
    leave,
    marked,
    put_back,
    replace,
    restart,
    resume,
    start,
    stop,
)
from tests.unit.lifecycle.standin import StandIn

MANIFEST = """apiVersion: v1
kind: Pod
metadata:
  annotations:
    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.1:2379
  creationTimestamp: null
  name: etcd
spec:
  containers:
  - command: [etcd, --data-dir=/var/lib/etcd]
status: {}
"""


def mark(text: str, reason: str) -> str | None:
    return marked(text.encode(), f"one: {MANIFESTS}/etcd.yaml", reason)


@pytest.mark.parametrize("text", ["", "[]", "kind: Pod\n", "metadata: [x]\n", "metadata: {annotations: [x]}\n", "a: [\n"])
def test_mark_damaged_manifest_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(NodeError, match=f"^one: {MANIFESTS}/etcd.yaml"):
        mark(text, "x")


def test_mark_adds_annotation_only() -> None:
    found = yaml.safe_load(mark(MANIFEST, "2026-01-01") or "")
    before = yaml.safe_load(MANIFEST)
    assert found["metadata"]["annotations"].pop(ANNOTATION) == "2026-01-01"
    assert found == before


def test_mark_same_value_twice_returns_none() -> None:
    once = mark(MANIFEST, "x") or ""
    assert mark(once, "x") is None
    assert yaml.safe_load(mark(once, "y") or "")["metadata"]["annotations"][ANNOTATION] == "y"
    assert mark(
        MANIFEST.replace("annotations:\n    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.1:2379", "labels: {}"), "x"
    )


def test_restart_writes_manifest_elsewhere_and_renames_into_kubelet_folder() -> None:
    node = StandIn("10.0.0.1", "one")
    data = base64.b64encode(MANIFEST.encode()).decode()
    node.answers = {"base64 <": f"{MANIFESTS}/etcd.yaml {data}\nend\n", "running etcd || true": "abc\n"}
    restart(node, reason="x")
    written = [command for command in node.commands if command.startswith("put ")]
    assert len(written) == 1
    assert MANIFESTS not in written[0]
    assert any(command.startswith("mv -f ") and command.endswith(f" {MANIFESTS}/etcd.yaml") for command in node.commands)
    # Until another container than the one before runs.
    assert waited(node.commands[-1]) == {"etcd": "abc", "ready": ""}


def test_start_after_stop_starts_kubelet() -> None:
    node = StandIn("10.0.0.1", "one")
    stop(node)
    start(node)
    assert node.commands[0].startswith("# stop_parts.sh\n")
    assert node.commands[-1] == "systemctl start kubelet"


# ---- other manifests --------------------------------------------------------------------------------------------------


def control_plane_node(text: str) -> StandIn:
    """A control-plane node with one manifest; ``text`` is what it is, and what ``others`` writes takes its place."""
    node = StandIn("10.0.0.1", "one")
    place = {"text": text}

    def manifest() -> str:
        return f"{MANIFESTS}/kube-apiserver.yaml {base64.b64encode(place['text'].encode()).decode()}\nend\n"

    node.answers = {"base64 <": manifest, "running kube-apiserver || true": "abc\n"}
    node.place = place  # type: ignore[attr-defined]
    return node


def test_replace_changed_manifest_waits_for_new_container() -> None:
    node = control_plane_node(MANIFEST)

    def write() -> None:
        node.place["text"] = MANIFEST.replace("etcd,", "apiserver,")  # type: ignore[attr-defined]

    assert replace(node, ("kube-apiserver",), write) == ("kube-apiserver",)
    assert waited(node.commands[-1]) == {"kube-apiserver": "abc", "ready": ""}


def test_replace_etcd_without_api_waits_for_etcd_and_not_for_api() -> None:
    node = StandIn("10.0.0.1", "one")
    files = {"etcd": "old"}

    def manifest() -> str:
        return f"{MANIFESTS}/etcd.yaml {base64.b64encode(files['etcd'].encode()).decode()}\nend\n"

    node.answers = {"base64 <": manifest, "running etcd || true": "abc\n"}
    assert replace(node, ("etcd",), lambda: files.update(etcd="new"), serves=False) == ("etcd",)
    assert waited(node.commands[-1]) == {"etcd": "abc"}


def test_replace_unchanged_manifest_waits_for_api_only() -> None:
    node = control_plane_node(MANIFEST)
    assert replace(node, ("kube-apiserver",), lambda: None) == ()
    assert waited(node.commands[-1]) == {"ready": ""}


# ---- while other control-plane nodes serve ----------------------------------------------------------------------------


class Refusing(StandIn):
    """A control-plane node on which commands fail that have a part in them."""

    fails = ""

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        done = super().run(command, input=input, check=check, timeout=timeout)
        return ProcessResult((), 1, f"it fails: {self.fails}", "") if self.fails and self.fails in command else done


def waited(command: str) -> dict[str, str]:
    """What a wait is for: parts with their former containers, and ``ready`` for the API."""
    given = dict(line.split("=", maxsplit=1) for line in command.splitlines() if re.match(r"[A-Z]+=", line))
    words = next((shlex.split(line)[2:] for line in command.splitlines() if line.startswith("set --")), [])
    assert command.startswith("# wait_parts.sh\n")
    return {**dict(zip(words[::2], words[1::2], strict=True)), **({"ready": ""} if given["SERVES"] == "yes" else {})}


def steps(node: StandIn) -> list[str]:
    """What happened on a control-plane node, in order."""
    marks = {
        "# leave.sh": "leave",
        "# stop_parts.sh": "stop",
        "# arm_return.sh": "arm",
        "# come_back.sh": "come back",
        "# put_back.sh": "put back",
        "# wait_parts.sh": "wait",
        "systemctl start kubelet": "start",
        "mv -f": "write",
    }
    found = []
    for command in node.commands:
        name = next((name for mark, name in marks.items() if mark in command), "")
        if name == "wait":
            name = " ".join([name, *sorted(waited(command))])
        found += [f"{name} {command.rpartition('/')[2].removesuffix('.yaml')}" if name == "write" else name] if name else []
    return found


def test_restart_beside_other_control_plane_nodes_runs_steps_in_order() -> None:
    node = StandIn("10.0.0.1", "one")
    data = base64.b64encode(MANIFEST.encode()).decode()
    node.answers = {"base64 <": "".join(f"{MANIFESTS}/{part}.yaml {data}\n" for part in PARTS) + "end\n"}
    restart(node, reason="x", others=True)
    assert steps(node) == [
        "come back",
        "leave",
        "write etcd",
        "wait etcd",
        "write kube-apiserver",
        "wait kube-apiserver ready",
        "write kube-controller-manager",
        "write kube-scheduler",
        "come back",
        "wait etcd kube-apiserver kube-controller-manager kube-scheduler ready",
    ]


def test_restart_api_server_waits_for_parts_that_left_too() -> None:
    node = StandIn("10.0.0.1", "one")
    data = base64.b64encode(MANIFEST.encode()).decode()
    there = iter([("kube-apiserver",), ("kube-controller-manager", "kube-scheduler")])
    node.answers = {"base64 <": lambda: "".join(f"{MANIFESTS}/{part}.yaml {data}\n" for part in next(there)) + "end\n"}
    restart(node, ("kube-apiserver",), reason="x", others=True)
    assert steps(node)[-2:] == ["come back", "wait kube-apiserver kube-controller-manager kube-scheduler ready"]


def test_restart_same_reason_twice_removes_no_member() -> None:
    node = StandIn("10.0.0.1", "one")
    data = base64.b64encode((mark(MANIFEST, "x") or "").encode()).decode()
    node.answers = {"base64 <": f"{MANIFESTS}/kube-apiserver.yaml {data}\nend\n"}
    restart(node, ("kube-apiserver",), reason="x", others=True)
    assert steps(node) == ["come back", "wait ready"]


def test_leave_part_that_does_not_end_raises_and_comes_back() -> None:
    node = Refusing("10.0.0.1", "one")
    node.fails = "# leave.sh"
    with pytest.raises(CheckError, match="one: it fails"):
        leave(node)
    assert steps(node) == ["leave", "come back"]


def test_halt_arms_return_timer_and_leaves_only_beside_other_nodes() -> None:
    node = StandIn("10.0.0.1", "one")
    halt(node, others=True)
    assert steps(node) == ["leave", "arm", "stop", "arm"]
    assert "\nAFTER=60\n" in node.commands[-1]
    come_back(node)
    assert "systemctl stop slipway-return.timer" in node.commands[-1]
    alone = StandIn("10.0.0.1", "one")
    halt(alone, others=False)
    assert steps(alone) == ["arm", "stop", "arm"]


def test_resume_brings_back_interrupted_control_plane_nodes_only() -> None:
    whole, cut, broken = Refusing("10.0.0.1"), Refusing("10.0.0.2"), Refusing("10.0.0.3")
    whole.fails, broken.fails = f"[ -d {KEPT} ]", "# wait_parts.sh"
    assert resume(whole)
    assert steps(whole) == []
    assert resume(cut)
    assert steps(cut) == ["come back", "start", "wait etcd kube-apiserver kube-controller-manager kube-scheduler ready"]
    # It may be what the change is to mend.
    assert not resume(broken)


def test_put_back_serving_node_leaves_first_and_new_containers_are_awaited() -> None:
    node = Refusing("10.0.0.1", "one")
    node.answers = {"# put_back.sh": "etcd\nkube-apiserver\n", "running etcd || true": "new\n"}
    put_back(node, others=True)
    assert steps(node)[0] == "leave"
    assert waited(node.commands[-1])["etcd"] == "new"
    node.fails = "# leave.sh"
    node.commands.clear()
    put_back(node, others=True)
    assert waited(node.commands[-1])["etcd"] == "new"


def test_put_back_waits_for_changed_manifests_only() -> None:
    node = StandIn("10.0.0.1", "one")
    node.answers = {"# put_back.sh": "kube-apiserver\nother\n", "running kube-apiserver || true": "new\n"}
    put_back(node)
    assert waited(node.commands[-1]) == {"kube-apiserver": "new", "ready": ""}

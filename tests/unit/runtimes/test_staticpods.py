"""Manifests of a master's parts, marked so that the kubelet starts them anew."""

from __future__ import annotations

import base64

import pytest
import yaml

from harness.errors import CheckError
from harness.runtimes.staticpods import ANNOTATION, MANIFESTS, put_back, replace, restart, start, stop
from harness.runtimes.staticpods import marked as mark
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


def test_a_mark_changes_nothing_else() -> None:
    found = yaml.safe_load(mark(MANIFEST, "2026-01-01") or "")
    before = yaml.safe_load(MANIFEST)
    assert found["metadata"]["annotations"].pop(ANNOTATION) == "2026-01-01"
    assert found == before


def test_the_same_mark_twice_changes_nothing() -> None:
    once = mark(MANIFEST, "x") or ""
    assert mark(once, "x") is None
    assert yaml.safe_load(mark(once, "y") or "")["metadata"]["annotations"][ANNOTATION] == "y"
    assert mark(
        MANIFEST.replace("annotations:\n    kubeadm.kubernetes.io/etcd.advertise-client-urls: https://10.0.0.1:2379", "labels: {}"), "x"
    )


def test_no_file_that_is_not_whole_is_ever_in_the_kubelets_folder() -> None:
    node = StandIn("10.0.0.1", "one")
    data = base64.b64encode(MANIFEST.encode()).decode()
    node.answers = {"base64 <": f"{MANIFESTS}/etcd.yaml {data}\nend\n", "running etcd || true": "abc\n"}
    restart(node, reason="x")
    written = [command for command in node.commands if command.startswith("put ")]
    assert len(written) == 1
    assert MANIFESTS not in written[0]
    assert any(command.startswith("mv -f ") and command.endswith(f" {MANIFESTS}/etcd.yaml") for command in node.commands)
    # Until another container than the one before runs.
    assert "fresh etcd abc " in node.commands[-1]
    assert "kube-apiserver" not in node.commands[-1]


def test_stopped_parts_come_back_with_the_kubelet() -> None:
    node = StandIn("10.0.0.1", "one")
    stop(node)
    start(node)
    assert "systemctl stop kubelet" in node.commands[0]
    assert node.commands[-1] == "systemctl start kubelet"


# ---- other manifests --------------------------------------------------------------------------------------------------


def master(text: str) -> StandIn:
    """A master with one manifest; ``text`` is what it is, and what ``others`` writes takes its place."""
    node = StandIn("10.0.0.1", "one")
    place = {"text": text}

    def manifest() -> str:
        return f"{MANIFESTS}/kube-apiserver.yaml {base64.b64encode(place['text'].encode()).decode()}\nend\n"

    node.answers = {"base64 <": manifest, "running kube-apiserver || true": "abc\n"}
    node.place = place  # type: ignore[attr-defined]
    return node


def test_what_has_another_manifest_is_waited_for_while_nobody_is_sent_there() -> None:
    node = master(MANIFEST)

    def write() -> None:
        assert any("--dport 6443" in command and "-I INPUT" in command for command in node.commands)
        node.place["text"] = MANIFEST.replace("etcd,", "apiserver,")  # type: ignore[attr-defined]

    assert replace(node, ("kube-apiserver",), write, others=True) == ("kube-apiserver",)
    waited = next(command for command in node.commands if "fresh kube-apiserver" in command)
    assert "fresh kube-apiserver abc " in waited
    assert "-D INPUT" in node.commands[-1]
    assert "-I INPUT" not in node.commands[-1]


def test_the_same_manifest_again_waits_for_nothing_but_the_api() -> None:
    node = master(MANIFEST)
    assert replace(node, ("kube-apiserver",), lambda: None) == ()
    assert "fresh kube-apiserver" not in node.commands[-1]
    assert "/readyz" in node.commands[-1]
    assert not any("-I INPUT" in command for command in node.commands)


def test_the_way_to_the_api_is_opened_also_when_it_does_not_come_up() -> None:
    node = master(MANIFEST)

    def fails() -> None:
        raise CheckError("no")

    with pytest.raises(CheckError):
        replace(node, ("kube-apiserver",), fails, others=True)
    assert "-D INPUT" in node.commands[-1]


def test_kept_manifests_come_back_and_only_those_that_differ_are_waited_for() -> None:
    node = StandIn("10.0.0.1", "one")
    node.answers = {"cmp -s": "kube-apiserver\nother\n", "running kube-apiserver || true": "new\n"}
    put_back(node)
    assert "fresh kube-apiserver new " in node.commands[-1]
    assert "fresh etcd" not in node.commands[-1]

"""Manifests of a master's parts, marked so that the kubelet starts them anew."""

from __future__ import annotations

import base64

import yaml

from harness.runtimes.staticpods import ANNOTATION, MANIFESTS, restart, start, stop
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

"""What is read of a rootfs before it boots, and who asked for an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from harness.sandbox import environment, facts, requesters


class Answers:
    """A kubectl that prints what it was given."""

    def __init__(self, items: list[dict[str, Any]]) -> None:
        self.items = items

    def run(self, *_argv: str) -> str:
        return json.dumps({"items": self.items})


def item(kind: str, name: str, uid: str, owner: tuple[str, str, str] | None = None, image: str = "") -> dict[str, Any]:
    owners = [{"kind": owner[0], "name": owner[1], "uid": owner[2], "controller": True}] if owner else []
    meta = {"name": name, "namespace": "default", "uid": uid, "ownerReferences": owners}
    return {"kind": kind, "metadata": meta, "spec": {"containers": [{"image": image}]} if kind == "Pod" else {}}


def test_an_image_is_asked_for_by_the_workload_and_not_by_a_pod_of_it() -> None:
    items = [
        item("ReplicaSet", "web-5d4", "rs", ("Deployment", "web", "d")),
        item("Pod", "web-5d4-abc", "p1", ("ReplicaSet", "web-5d4", "rs"), "nginx:1.22"),
        item("Pod", "web-5d4-def", "p2", ("ReplicaSet", "web-5d4", "rs"), "nginx:1.22"),
        item("Pod", "etcd-node-1", "p3", ("Node", "node-1", "n"), "k8s.gcr.io/etcd:3"),
        item("Pod", "alone", "p4", None, "redis"),
    ]
    assert requesters(Answers(items)) == {  # type: ignore[arg-type]
        "docker.io/library/nginx:1.22": ("Deployment default/web",),
        "docker.io/library/redis:latest": ("Pod default/alone",),
        "k8s.gcr.io/etcd:3": ("Pod default/etcd",),
    }


def test_the_facts_of_a_rootfs(tmp_path: Path) -> None:
    assert facts(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/slipway.yaml").write_text("kubernetes: v1.20.2\nsvcCIDR: 10.32.0.0/16\n")
    found = facts(tmp_path)
    assert found is not None
    assert found.minor == 20
    assert found.image_repository is None
    assert environment(found, {"Greeting": "hi"}) == {
        "PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.32.0.0/16", "KubeSvcIP": "10.32.0.1", "DNSSvcIP": "10.32.0.10", "Greeting": "hi",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["- a", "kubernetes", "{", "podCIDR: 10.0.0.0/8"])
def test_unreadable_facts_are_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/slipway.yaml").write_text(text)
    with pytest.raises(InputError, match=r"etc/slipway\.yaml"):
        facts(tmp_path)

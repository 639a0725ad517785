"""Throw-away clusters: who asked for an image, where commands run, and the network of one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.build import sandbox
from harness.build.sandbox import requesters
from harness.build.sandbox_plan import SandboxApplication, SandboxPlan
from harness.cloudimage import PlatformImage
from harness.errors import BuildError
from harness.host import docker
from harness.lifecycle.provision import rootfs
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.runtimes import Facts
from tests.unit.build.test_kind_config import FLANNEL, KIND_ENV


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


def test_requesters_name_workload_in_place_of_its_pods() -> None:
    items = [
        item("ReplicaSet", "web-5d4", "rs", ("Deployment", "web", "d")),
        item("Pod", "web-5d4-abc", "p1", ("ReplicaSet", "web-5d4", "rs"), "nginx:1.22"),
        item("Pod", "web-5d4-def", "p2", ("ReplicaSet", "web-5d4", "rs"), "nginx:1.22"),
        item("Pod", "etcd-node-1", "p3", ("Node", "node-1", "n"), "registry.k8s.io/etcd:3.6.8-0"),
        item("Pod", "alone", "p4", None, "redis"),
    ]
    assert requesters(Answers(items)) == {  # type: ignore[arg-type]
        "docker.io/library/nginx:1.22": ("Deployment default/web",),
        "docker.io/library/redis:latest": ("Pod default/alone",),
        "registry.k8s.io/etcd:3.6.8-0": ("Pod default/etcd",),
    }


class Networks:
    """An engine that makes networks, or refuses those with IPv6."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.networks, self.refuses = self, refuses
        self.asked: list[dict[str, Any]] = []
        self.attrs = {"IPAM": {"Config": [{"Subnet": "fd00::/64", "Gateway": "fd00::1"}, {"Gateway": "172.18.0.1"}]}}

    def create(self, name: str, **options: Any) -> Networks:
        self.asked = [options]
        if self.refuses and options.get("enable_ipv6"):
            raise docker.APIError("", explanation="IPv6 is disabled")
        return self

    def reload(self) -> None: ...
    def remove(self) -> None: ...


def test_sandbox_network_is_dual_stack_only_on_request() -> None:
    made = Networks()
    for dual in (False, True):
        with sandbox._network(made, "n", dual=dual, keep=True) as gateway:  # type: ignore[arg-type]
            assert gateway == "172.18.0.1"
        assert made.asked[0].get("enable_ipv6", False) is dual
    with pytest.raises(BuildError, match="IPv6 is disabled"), sandbox._network(Networks(refuses=True), "n", dual=True, keep=True):  # type: ignore[arg-type]
        pass


@pytest.mark.parametrize(("files", "added"), [({}, ["etc/cni/99-slipway-build.conflist"]), (FLANNEL, [])])
def test_with_network_adds_cni_layer_only_to_image_without_network(tmp_path: Path, files: Mapping[str, str], added: list[str]) -> None:
    for name, text in files.items():
        (tmp_path / "rootfs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rootfs" / name).write_text(text)
    (tmp_path / "rootfs").mkdir(exist_ok=True)
    store, image = Store(tmp_path / "store"), PlatformImage(Platform("linux", "amd64"), (), ())
    found = sandbox._with_network(SandboxPlan(tmp_path / "rootfs", Facts("v1.36.3"), KIND_ENV, image, own_network=False), store)
    assert len(found.layers) == len(found.diff_ids) == len(added)
    assert [path for path in added if rootfs.read_file(store, found, path) is None] == []


class Node:
    """A node's container that remembers what ran in it, and fails with output when it is asked to."""

    def __init__(self, code: int = 0, output: bytes = b"") -> None:
        self.ran: list[tuple[list[str], dict[str, str]]] = []
        self.answer = code, output

    def exec_run(self, argv: list[str], *, environment: dict[str, str] | None = None, demux: bool = False) -> tuple[int, Any]:
        self.ran.append((argv, environment or {}))
        code, output = self.answer
        return code, (output, b"") if demux else output


def box_of(node: Node) -> sandbox.Sandbox:
    proxy: Any = None
    return sandbox.Sandbox(node, proxy, {"Greeting": "hi"}, "172.18.0.2")


def test_sandbox_launch_runs_in_rootfs_with_its_programs_and_values() -> None:
    node = Node()
    box_of(node).launch("kubectl apply -f a.yaml")
    ((argv, environment),) = node.ran
    lines = argv[2].splitlines()
    assert lines[:2] == ["cd /var/lib/slipway/rootfs || exit 1", "export PATH=/var/lib/slipway/rootfs/bin:$PATH"]
    assert lines[-1] == "kubectl apply -f a.yaml"
    assert environment == {"Greeting": "hi", "HostIP": "172.18.0.2", "KUBECONFIG": "/etc/kubernetes/admin.conf"}


def test_sandbox_application_launch_runs_in_own_rootfs_with_own_programs_first() -> None:
    node = Node()
    box_of(node).of_application(SandboxApplication("shop", Path("/tmp/x"), {"Port": "80"})).launch("helm install a")
    ((argv, environment),) = node.ran
    folder = "/var/lib/slipway/apps/shop/rootfs"
    assert argv[2].splitlines()[:2] == [f"cd {folder} || exit 1", f"export PATH={folder}/bin:/var/lib/slipway/rootfs/bin:$PATH"]
    assert environment == {"Port": "80", "HostIP": "172.18.0.2", "KUBECONFIG": "/etc/kubernetes/admin.conf"}


def test_sandbox_failing_exercise_raises_build_error_with_title_and_output() -> None:
    with pytest.raises(BuildError, match=r"^the exercise failed with exit code 3: exercise\.sh") as caught:
        box_of(Node(3, b"first\nthe reason")).launch("set -e\nfalse", what="exercise", title="exercise.sh")
    assert caught.value.details == "first\nthe reason"


def test_addons_are_labelled_and_all_but_network_are_applied(tmp_path: Path) -> None:
    manifest = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"
    for name in ("network.yaml", "storage.yaml", ".hidden.yaml", "notes.txt"):
        (tmp_path / "etc/addons").mkdir(parents=True, exist_ok=True)
        (tmp_path / "etc/addons" / name).write_text(manifest)
    node, image = Node(), PlatformImage(Platform("linux", "amd64"), (), ())
    sandbox._addons(box_of(node), SandboxPlan(tmp_path, Facts("v1.36.3"), KIND_ENV, image, own_network=False))
    ran = [[word for word in argv[3:] if word != "--overwrite"] for argv, _ in node.ran]
    folder = "/var/lib/slipway/rootfs/etc/addons"
    assert ran == [
        ["label", "-f", f"{folder}/network.yaml", "slipway.dev/addon=network"],
        ["apply", "-f", f"{folder}/storage.yaml"],
        ["label", "-f", f"{folder}/storage.yaml", "slipway.dev/addon=storage"],
    ]


class Leftover:
    """A container of kind as the engine lists it."""

    def __init__(self, cluster: str) -> None:
        self.labels = {"io.x-k8s.kind.cluster": cluster}
        self.removed = False

    def remove(self, **_: Any) -> None:
        self.removed = True


class Engine:
    """Has containers of kind, and networks of these names; ``begun`` is what another build makes after the first question."""

    def __init__(self, containers: list[Leftover], networks: list[str], begun: str = "") -> None:
        self.containers, self.networks = self, self
        self._containers = containers
        self._networks = networks
        self._begun = begun
        self.asked: list[str] = []

    def list(self, *, all: bool | None = None, ignore_removed: bool = True, filters: Mapping[str, str] | None = None) -> list[Any]:
        assert ignore_removed
        self.asked.append("networks" if all is None else "containers")
        if all is None:
            answer: list[Any] = [type("Network", (), {"name": name, "attrs": {"Labels": {}}}) for name in self._networks]
        else:
            answer = [*self._containers] if (filters or {}).get("label") == "io.x-k8s.kind.cluster" else []
        if self._begun:
            self._containers.append(Leftover(self._begun))
            self._networks.append(self._begun)
            self._begun = ""
        return answer


def test_sweep_removes_containers_of_builds_whose_network_is_gone_and_no_others() -> None:
    orphan, building, foreign = Leftover("slipway-7-b4a106"), Leftover("slipway-8-b4a106"), Leftover("mine")
    engine = Engine([orphan, building, foreign], ["slipway-8-b4a106", "kind"])
    sandbox.sweep(engine)  # type: ignore[arg-type]
    assert [one.removed for one in (orphan, building, foreign)] == [True, False, False]
    assert engine.asked.count("networks") == 1


def test_sweep_keeps_container_of_build_that_begins_meanwhile() -> None:
    containers: list[Leftover] = []
    sandbox.sweep(Engine(containers, ["kind"], begun="slipway-9-b4a106"))  # type: ignore[arg-type]
    assert [one.removed for one in containers] == [False]

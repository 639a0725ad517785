"""The run of an image on a throw-away cluster."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import log
from harness.build import cluster_run
from harness.build.cluster_base import ClusterBase
from harness.build.cluster_run import ClusterRun, RootfsRun
from harness.build.exercise import ExerciseStep
from harness.build.options import BuildOptions
from harness.build.pull_record import PulledImage
from harness.build.sandbox_plan import SandboxApplication, SandboxPlan
from harness.cloudimage import EmbeddedImage, ImageApp, ImageSet, Info, PlatformImage
from harness.errors import BuildError, CheckError, InputError
from harness.kubefile import instructions
from harness.lifecycle.kube import wait
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_MANIFEST, Platform
from harness.oci.store import Store
from harness.runtimes import Facts

AMD64 = Platform("linux", "amd64")
DIGEST = f"sha256:{'0' * 64}"


class FakeCluster:
    """A throw-away cluster in which a command ``pod NAME IMAGE`` makes a pod, ``pull IMAGE`` one that goes again; all is remembered."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.pods: list[tuple[str, str]] = []
        self.proxy = SimpleNamespace(pulled=[], served_bytes=0, failures={"docker.io/library/x:1": "no such image"})
        self.place = "cluster"

    def of_application(self, application: SandboxApplication) -> FakeCluster:
        box = FakeCluster()
        box.__dict__.update({**self.__dict__, "place": application.name})
        return box

    def run(self, *argv: str) -> str:
        if argv[0] == "wait":
            self.done.append("wait")
        return json.dumps({"items": [_pod(name, image) for name, image in self.pods]})

    def launch(self, command: str, *, what: str = "launch command", title: str = "") -> None:
        self.done.append(f"{self.place}: {command}")
        if command == "fail":
            raise BuildError(f"the {what} failed with exit code 1: {title}")
        word, *rest = command.split()
        if word in ("pod", "pull"):
            self.proxy.pulled.append(PulledImage(f"docker.io/library/{rest[-1]}", DIGEST, OCI_MANIFEST, "hub"))
        if word == "pod":
            self.pods.append((rest[0], rest[1]))


def _pod(name: str, image: str) -> dict[str, Any]:
    return {"kind": "Pod", "metadata": {"name": name, "namespace": "default", "uid": name}, "spec": {"containers": [{"image": image}]}}


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(wait, "settle", lambda *_, **__: made.done.append("settle"))
    return made


def run_of(box: FakeCluster, *exercise: str, plans: list[SandboxPlan] | None = None, **options: Any) -> ClusterRun:
    @contextlib.contextmanager
    def boot(plan: SandboxPlan) -> Iterator[Any]:
        if plans is not None:
            plans.append(plan)
        yield box

    return ClusterRun(BuildOptions(Path(), "x", **options), boot, [ExerciseStep(command, command) for command in exercise])


def rootfs(info: Info) -> RootfsRun:
    return RootfsRun(Path("/rootfs"), Facts("v1.36.3"), {}, PlatformImage(AMD64, (), (), (), info))


def base_of(info: Info, *embedded: str) -> ClusterBase:
    images = tuple(EmbeddedImage(f"docker.io/library/{name}", DIGEST, OCI_MANIFEST, 1) for name in embedded)
    return ClusterBase("kubernetes:latest", DIGEST, PlatformImage(AMD64, (), (), (), info, ImageSet(images)))


def on(box: FakeCluster, base: ClusterBase, commands: Sequence[str], *exercise: str) -> cluster_run.RunRecord:
    application = SandboxApplication("shop", Path("/app"), {})
    return run_of(box, *exercise).of_application(base, rootfs(base.image.info), application, commands)


def names(record: cluster_run.RunRecord) -> list[str]:
    return [image.reference.removeprefix("docker.io/library/") for image in record.pulled]


def test_cluster_run_cni_application_is_launched_before_node_wait(box: FakeCluster) -> None:
    plans: list[SandboxPlan] = []
    app = ImageApp("calico", "kube", commands=("apply calico",), labels={f"{instructions.LABEL_CNI}calico": "true"})
    info = Info(apps=(app,), cluster_apps=("calico",), launch=("apply calico", "apply web"))
    run_of(box, plans=plans, workers=2).of_cluster(rootfs(info))
    assert (plans[0].own_network, plans[0].workers) == (True, 2)
    assert box.done == ["cluster: apply calico", "wait", "cluster: apply web", "settle"]


def test_cluster_run_exercise_runs_after_settling_and_owns_its_pulls(box: FakeCluster) -> None:
    record = run_of(box, "pod claim busy:1", "pull helper:1").of_cluster(rootfs(Info(launch=("pod web nginx:1",))))
    assert box.done == ["wait", "cluster: pod web nginx:1", "settle", "cluster: pod claim busy:1", "cluster: pull helper:1", "settle"]
    assert names(record) == ["nginx:1", "busy:1", "helper:1"]
    assert record.owners == {
        "docker.io/library/nginx:1": ("Pod default/web",),
        "docker.io/library/busy:1": ("Pod default/claim", "exercise"),
        "docker.io/library/helper:1": ("exercise",),
    }


def test_cluster_run_workloads_removed_by_exercise_stay_owners(box: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = FakeCluster.launch

    def removing(self: FakeCluster, command: str, **more: str) -> None:
        if command == "clear":
            self.pods.clear()
        launch(self, command, **more)

    monkeypatch.setattr(FakeCluster, "launch", removing)
    record = run_of(box, "clear").of_cluster(rootfs(Info(launch=("pod web nginx:1",))))
    assert record.owners == {"docker.io/library/nginx:1": ("Pod default/web",)}


def test_cluster_run_failing_exercise_raises_build_error(box: FakeCluster) -> None:
    with pytest.raises(BuildError, match="the exercise failed with exit code 1: fail"):
        run_of(box, "fail").of_cluster(rootfs(Info()))


def test_cluster_run_application_is_launched_after_base_and_keeps_own_images(box: FakeCluster) -> None:
    base = base_of(Info(launch=("pod dns coredns:1", "pull late:1")), "coredns:1", "unused:1")
    record = on(box, base, ["pod operator tools:1", "pull unused:1", "pull late:1"], "pod cache redis:1")
    assert box.done == [
        "wait", "cluster: pod dns coredns:1", "cluster: pull late:1", "settle",
        "shop: pod operator tools:1", "shop: pull unused:1", "shop: pull late:1", "settle",
        "shop: pod cache redis:1", "settle",
    ]  # fmt: skip
    assert names(record) == ["tools:1", "redis:1"]
    assert record.owners["docker.io/library/redis:1"] == ("Pod default/cache", "exercise")
    # What is declared and was pulled, if only by the base, was proven too.
    assert "docker.io/library/unused:1" in record.every


def test_cluster_run_base_image_used_by_application_is_kept_with_its_owners(box: FakeCluster) -> None:
    record = on(box, base_of(Info(launch=("pod proxy nginx:1",)), "nginx:1"), ["pod web nginx:1"])
    assert set(names(record)) == {"nginx:1"}
    assert record.owners == {"docker.io/library/nginx:1": ("Pod default/web",)}


def test_cluster_run_unready_workloads_raise_build_error_with_failed_pulls(box: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise CheckError("1 object is not ready", details="Pod default/web: waiting")

    monkeypatch.setattr(wait, "settle", fail)
    with pytest.raises(BuildError, match="do not become ready: 1 object is not ready") as caught:
        run_of(box).of_cluster(rootfs(Info()))
    assert caught.value.details == "Pod default/web: waiting\nregistry: docker.io/library/x:1: no such image"


HOOK = """apiVersion: slipway.dev/v1
kind: Hook
metadata: {{name: {name}}}
spec:
  phases: [{phase}]
  data: {name}
"""


def test_application_commands_put_hooks_around_launch(tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    for name, phase in (("first", "pre-launch"), ("last", "post-launch"), ("never", "pre-uninstall")):
        (tmp_path / f"plugins/{name}.yaml").write_text(HOOK.format(name=name, phase=phase))
    assert cluster_run.application_commands(tmp_path, Info(launch=("launch",))) == ("first", "launch", "last")
    (tmp_path / "plugins/bad.yaml").write_text(HOOK.format(name="bad", phase="pre-init"))
    with pytest.raises(InputError, match="hook bad"):
        cluster_run.application_commands(tmp_path, Info())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("cache")
def test_unpacked_base_is_rendered_with_own_values_and_removed_afterwards(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    files = {"etc/slipway.yaml": "kubernetes: v1.36.3\nsvcCIDR: 10.32.0.0/16\n", "manifests/a.yaml": "a: {{ Greeting }} {{ DNSSvcIP }}\n"}
    made = write_layer([LayerEntry(path, "file", 0o644, text.encode()) for path, text in files.items()], store)
    image = PlatformImage(AMD64, (made.descriptor,), (made.diff_id,), (), Info(kubernetes="v1.36.3", env={"Greeting": "hi"}))
    with cluster_run.unpacked_base(store, ClusterBase("kubernetes:latest", DIGEST, image)) as unpacked:
        assert (unpacked.tree / "manifests/a.yaml").read_text() == "a: hi 10.32.0.10\n"
        assert (unpacked.facts.kubernetes, unpacked.env["SvcCIDR"]) == ("v1.36.3", "10.32.0.0/16")
    assert not unpacked.tree.exists()


@pytest.mark.usefixtures("cache")
def test_unpacked_base_without_kubernetes_raises_build_error(tmp_path: Path) -> None:
    image = PlatformImage(AMD64, (), (), (), Info(kubernetes="v1.36.3"))
    base = ClusterBase("kubernetes:latest", DIGEST, image)
    with pytest.raises(BuildError, match="--on kubernetes:latest: "), cluster_run.unpacked_base(Store(tmp_path / "store"), base):
        log.info("never")

"""The run on a throw-away cluster that finds container images."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import kubefile
from harness.build import image_discovery, sandbox_plan
from harness.build.cluster_base import ClusterBase
from harness.build.cluster_run import RunRecord
from harness.build.declared_images import DeclaredImage
from harness.build.expected_values import ImageValues
from harness.build.options import BuildOptions
from harness.build.pull_record import PulledImage
from harness.build.sandbox_plan import SandboxApplication, SandboxPlan
from harness.cloudimage import BuiltHere, EmbeddedImage, ImageSet, Info, PlatformImage, ProvingRun
from harness.errors import InputError
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_MANIFEST, Platform
from harness.oci.reference import Reference
from harness.oci.registry.sources import LayoutSource
from harness.oci.store import Store
from harness.runtimes import Facts
from tests.unit.cloudimage.examples import container_image

DIGEST = f"sha256:{'0' * 64}"


def base_of(*embedded: EmbeddedImage, digest: str = DIGEST, name: str = "kubernetes:latest") -> ClusterBase:
    info = Info(kubernetes="v1.36.3")
    return ClusterBase(name, digest, PlatformImage(Platform.host(), (), (), (), info, ImageSet(embedded)))


def discovery_of(
    folder: Path, text: str = "", *, base: ClusterBase | None = None, files: Sequence[str] = (), foreign: bool = False, **options: Any
) -> image_discovery.ImageDiscovery:
    """Discovery for an application image without files of its own."""
    (folder / "Kubefile").write_text(f"FROM scratch\n{text}")
    part: Any = SimpleNamespace(
        parsed=kubefile.parse(f"FROM scratch\n{text}", "K"),
        platform=Platform.host(),
        foreign=foreign,
        base=None,
        info=Info(type="app", launch=("apply",)),
        sources=(),
        own=SimpleNamespace(marked=lambda image: image, used={}, absent=set(), holds=lambda _: True, builder=None),
        permits=SimpleNamespace(declare=list),
        archives=(),
        locked={},
        values=ImageValues(),
        work=SimpleNamespace(files=lambda: dict.fromkeys(files, ()), store=Store(folder / "store"), tree=lambda: folder / "rootfs"),
    )
    return image_discovery.ImageDiscovery(BuildOptions(folder, "shop", **options), part, base=base)


def test_discovery_runs_only_with_kubernetes_on_native_platform(tmp_path: Path) -> None:
    assert discovery_of(tmp_path, base=base_of()).runs
    assert not discovery_of(tmp_path).runs
    assert not discovery_of(tmp_path, base=base_of(), foreign=True).runs
    assert not discovery_of(tmp_path, base=base_of(), discover=("declared",)).runs
    assert discovery_of(tmp_path, files=["etc/slipway.yaml"]).runs


def test_discovery_key_changes_only_with_inputs_of_run(tmp_path: Path) -> None:
    other = f"sha256:{'1' * 64}"
    keys = [
        discovery_of(tmp_path).key(),
        discovery_of(tmp_path, base=base_of()).key(),
        discovery_of(tmp_path, base=base_of(digest=other)).key(),
        discovery_of(tmp_path, base=base_of(), workers=1).key(),
        discovery_of(tmp_path, "EXERCISE a\n", base=base_of()).key(),
        discovery_of(tmp_path, "EXERCISE b\n", base=base_of()).key(),
    ]
    (tmp_path / "exercise.sh").write_text("true\n")
    keys.append(discovery_of(tmp_path, base=base_of()).key())
    assert len(set(keys)) == len(keys)
    assert discovery_of(tmp_path, "EXERCISE a\n", workers=2).key() == keys[0]
    (tmp_path / "exercise.sh").unlink()
    assert discovery_of(tmp_path, base=base_of(name="kubernetes:v1")).key() == keys[1]


def test_discovery_proven_records_base_exercise_and_workers_of_run(tmp_path: Path) -> None:
    on = {"reference": "kubernetes:latest", "digest": DIGEST}
    assert discovery_of(tmp_path, base=base_of()).proven == ProvingRun(on)
    found = discovery_of(tmp_path, "EXERCISE a\n", files=["etc/slipway.yaml"], workers=1).proven
    assert found is not None
    assert (found.on, found.workers, str(found.exercise)[:7]) == (None, 1, "sha256:")
    assert discovery_of(tmp_path, files=["etc/slipway.yaml"]).proven is None
    assert discovery_of(tmp_path, "EXERCISE a\n").proven is None


def test_discovery_base_image_of_same_digest_keeps_built_mark(tmp_path: Path) -> None:
    built = EmbeddedImage("registry.k8s.io/pause:3", DIGEST, OCI_MANIFEST, 1, built=BuiltHere(("a@v1",), "images/pause"))
    plain = dataclasses.replace(built, built=None)
    discovery = discovery_of(tmp_path, base=base_of(built))
    assert discovery._marked(plain) == built
    another = dataclasses.replace(plain, digest=f"sha256:{'1' * 64}")
    assert discovery._marked(another) == another


def test_discovery_base_images_are_served_from_store_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    images = container_image(store, "docker.io/library/nginx:1", b"layer")
    source = discovery_of(tmp_path, base=base_of(*images.images)).sources[0]
    manifest = source.manifest(Reference.parse("nginx:1"), ())
    assert manifest is not None
    assert manifest.digest == images.images[0].digest


def test_discovery_build_ahead_skips_images_embedded_in_base(tmp_path: Path) -> None:
    """They are in the store with the base, also where it was pulled and nothing was built on this machine."""
    discovery = discovery_of(tmp_path, base=base_of(EmbeddedImage("docker.io/library/nginx:1", DIGEST, OCI_MANIFEST, 1)))
    own_base = base_of(EmbeddedImage("registry.k8s.io/pause:3", DIGEST, OCI_MANIFEST, 1)).image
    built: list[str] = []
    own: Any = discovery.part.own
    own.builder = SimpleNamespace(builds=lambda *_: True)
    own.choice, own.make = None, lambda reference: built.append(reference.familiar)
    part: Any = discovery.part
    part.base = own_base
    names = (
        "docker.io/library/nginx:1",
        "docker.io/library/nginx:2",
        "registry.k8s.io/pause:3",
        "registry.k8s.io/pause:4",
        "docker.io/library/nginx:2",
    )
    discovery._build_ahead([DeclaredImage(name, "manifests/a.yaml:1", "declared") for name in names])
    assert built == ["nginx:2", "registry.k8s.io/pause:4"]


def test_discovery_application_run_uses_own_commands_values_and_exercise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "rootfs/manifests").mkdir(parents=True)
    (tmp_path / "rootfs/manifests/a.yaml").write_text("a: {{ DNSSvcIP }}\n")
    store = Store(tmp_path / "store")
    own = container_image(store, "docker.io/library/redis:7", b"redis")
    facts = write_layer([LayerEntry("etc/slipway.yaml", "file", 0o644, b"kubernetes: v1.36.3\n")], store)
    base = base_of(*container_image(store, "docker.io/library/nginx:1", b"nginx").images)
    base = dataclasses.replace(base, image=dataclasses.replace(base.image, layers=(facts.descriptor,), diff_ids=(facts.diff_id,)))
    done: list[str] = []
    plans: list[Any] = []

    class Box:
        proxy = SimpleNamespace(pulled=[], served_bytes=0, failures={})

        def of_application(self, application: SandboxApplication) -> Box:
            done.append(f"{application.name} {application.env['DNSSvcIP']}")
            return self

        def run(self, *_argv: str) -> str:
            return json.dumps({"items": []})

        def launch(self, command: str, **_more: str) -> None:
            done.append(command)
            (image,) = own.images
            self.proxy.pulled = [PulledImage(image.name, image.digest, image.media_type, "hub")]

    @contextlib.contextmanager
    def make(plan: SandboxPlan, *_: Any) -> Iterator[Box]:
        plans.append(plan)
        done.append((plan.application.tree / "manifests/a.yaml").read_text() if plan.application else "nothing")
        yield Box()

    monkeypatch.setitem(image_discovery.CLUSTERS, "kind", make)
    discovery = discovery_of(tmp_path, "EXERCISE kubectl get pods\n", base=base, settle=0)
    discovery.part.sources = (LayoutSource(store, {image.name: image.digest for image in own.images}),)  # type: ignore[misc]
    found = discovery.images()
    assert done == ["a: 10.96.0.10\n", "shop 10.96.0.10", "apply", "kubectl get pods"]
    assert plans[0].image == base.image
    assert [(image.name, image.found_by, image.requested_by) for image in found.images.images] == [
        ("docker.io/library/redis:7", ("pulled",), ())
    ]
    assert (found.booted, found.undeclared, found.unpulled) == (True, ("docker.io/library/redis:7",), ())
    again = discovery_of(tmp_path, "EXERCISE kubectl get pods\n", base=base, settle=0).images()
    assert (again.booted, again.images, again.proven) == (False, found.images, found.proven)


@pytest.mark.parametrize(
    ("info", "files", "on", "message"),
    [
        (Info(type="app"), [], "auto", "there is nothing to launch"),
        (Info(type="app"), [], "none", "there is nothing to launch"),
        (Info(type="app", launch=("a",)), [], "none", "NOTHING IS PROVEN"),
        (Info(type="app"), ["plugins/a.yaml"], "auto", "NOTHING IS PROVEN: no base image"),
        (Info(kubernetes="v1.20.0"), [], "auto", "the image has no Kubernetes to run on"),
    ],
)
def test_discovery_without_run_reports_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], info: Info, files: list[str], on: str, message: str
) -> None:
    discovery = discovery_of(tmp_path, files=files, on=on)
    discovery.part.info = info  # type: ignore[misc]
    assert image_discovery._base(discovery.options, discovery.part) is None
    assert message in capsys.readouterr().err


def test_discovery_declared_only_prints_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    discovery = discovery_of(tmp_path, discover=("declared",))
    assert image_discovery._base(discovery.options, discovery.part) is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("tag", "name"), [("registry.example.com/team/shop_x:1", "shop-x"), ("a" * 100, "application")])
def test_application_name_is_derived_from_image_reference(tag: str, name: str) -> None:
    assert image_discovery._application_name(tag) == name


def possible_discovery(tmp_path: Path, mode: str) -> Any:
    (tmp_path / "manifests").mkdir(exist_ok=True)
    (tmp_path / "manifests/a.yaml").write_text(
        "spec:\n  containers:\n  - image: a:1\n    args: [--side-image, side:2, --other-image, other:3]\n"
    )
    return image_discovery.ImageDiscovery(
        BuildOptions(tmp_path, "shop", discover=("pulled", "declared"), possible=mode),
        SimpleNamespace(  # type: ignore[arg-type]
            work=SimpleNamespace(tree=lambda: tmp_path, files=lambda: ["manifests/a.yaml"], store=None),
            info=Info(), parsed=kubefile.parse("FROM scratch\n", "Kubefile"), permits=SimpleNamespace(declare=list), foreign=False,
            base=None, sources=(), platform=None, archives=(), locked={}, values=ImageValues(),
            own=SimpleNamespace(marked=lambda image: image),
        ),
    )  # fmt: skip


def pulling(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let the run pull these images."""
    pulled = tuple(PulledImage(name, "", "", "") for name in names)
    monkeypatch.setattr(sandbox_plan, "facts", lambda _: Facts("v1.36.3"))
    monkeypatch.setattr(sandbox_plan, "environment", lambda *_: {})
    monkeypatch.setattr(image_discovery.ImageDiscovery, "runs", property(lambda _: True))
    monkeypatch.setattr(image_discovery.ImageDiscovery, "_image", lambda _: None)
    monkeypatch.setattr(image_discovery.ImageDiscovery, "_boot", lambda *_: RunRecord(pulled, {}, frozenset()))
    monkeypatch.setattr(image_discovery.ImageDiscovery, "_build_ahead", lambda *_: None)


@pytest.mark.parametrize(("mode", "declared"), [("take", ["a", "other", "side"]), ("report", ["a"])])
def test_discovery_possible_images_are_taken_or_reported_unless_pulled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], mode: str, declared: list[str]
) -> None:
    discovery = possible_discovery(tmp_path, mode)
    collected: list[str] = []

    def collect(_: object, images: Any, **__: object) -> ImageSet:
        collected.extend(sorted(image.name.rpartition("/")[2].partition(":")[0] for image in images))
        return ImageSet()

    monkeypatch.setattr(image_discovery, "collect", collect)
    pulling(monkeypatch, "docker.io/library/side:2")
    discovery._run()
    assert collected == declared
    warned = capsys.readouterr().err
    assert "side:2 may be" not in warned
    assert ("other:3 may be an image" in warned) is (mode == "report")


@pytest.mark.parametrize(
    ("pulled", "refused"),
    [
        (None, ["docker.io/library/side:2", "docker.io/library/other:3"]),
        (["docker.io/library/side:2"], ["docker.io/library/other:3"]),
        (["docker.io/library/other:3", "docker.io/library/side:2"], []),
    ],
    ids=["no run", "one pulled", "all pulled"],
)
def test_discovery_refuse_mode_refuses_possible_images_that_run_does_not_pull(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pulled: list[str] | None, refused: list[str]
) -> None:
    discovery = possible_discovery(tmp_path, "refuse")
    monkeypatch.setattr(image_discovery, "collect", lambda *_, **__: ImageSet())
    if pulled is None:
        monkeypatch.setattr(sandbox_plan, "facts", lambda _: None)
        monkeypatch.setattr(image_discovery.ImageDiscovery, "runs", property(lambda _: False))
    else:
        pulling(monkeypatch, *pulled)
    if not refused:
        assert discovery._run().images == ImageSet()
        return
    with pytest.raises(InputError) as caught:
        discovery._run()
    assert [(fault.where, fault.message.partition(" ")[0]) for fault in caught.value.faults] == [
        ("manifests/a.yaml:4", name) for name in refused
    ]


def test_discovery_warns_of_images_found_only_by_run_that_lock_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_discovery, "collect", lambda *_, **__: ImageSet())
    pulling(monkeypatch, "r.test/locked:1", "r.test/run-only:1", f"r.test/x@{DIGEST}")
    discovery = possible_discovery(tmp_path, "report")
    discovery.part = SimpleNamespace(**{**vars(discovery.part), "locked": {"r.test/locked:1": DIGEST}})
    discovery.part.own.used = {}
    discovery._run()
    shown = " ".join(capsys.readouterr().err.split())
    assert "r.test/run-only:1 is not in images.lock: `slipway build --lock` adds it" in shown
    assert shown.count("is not in images.lock") == 2  # that one, and a:1, which a manifest names
    discovery.options = dataclasses.replace(discovery.options, lock=True)
    discovery._run()
    assert "images.lock" not in capsys.readouterr().err

"""One image out of several: layers, launch, values and container images together, conflicts all at once, the same digest again."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import ImageApp, Info
from harness.errors import InputError, StoreError, UsageError
from harness.kubefile import version_range
from harness.oci.layer import unpack
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.transfer import merge
from harness.trust import provenance
from tests.unit.cloudimage.examples import AMD64, ARM64, file, put

BASE = Info(kubernetes="v1.36.3", env={"Mode": "fast"}, launch=("kubectl apply -f base.yaml",), labels={"team": "base"})
APP = Info(type="app", env={"Port": "80"}, launch=("kubectl apply -f shop.yaml",), kube_version=">=1.30", labels={"team": "shop"})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    put(
        store,
        "base",
        [file("etc/slipway.yaml", "kubernetes: v1.36.3")],
        info=BASE,
        embedded={"example.com/pause:1": b"p"},
        history=("FROM scratch",),
    )
    put(store, "shop:1", [file("shop.yaml", "a")], info=APP, embedded={"example.com/shop:1": b"s"}, history=("COPY . .",))
    return store


def app(store: Store, name: str, content: str = "x", **changes: Any) -> None:
    platforms = changes.pop("platforms", (AMD64,))
    embedded = changes.pop("embedded", None)
    path = changes.pop("path", f"{name.partition(':')[0]}.yaml")
    info = dataclasses.replace(Info(type="app"), **changes)
    put(store, name, [file(path, content)], info=info, embedded=embedded, platforms=platforms)


def test_merge_combines_layers_launch_env_and_images_in_source_order(store: Store) -> None:
    made = merge.merge(store, "stack:1", ["base", "shop:1"])
    image = cloudimage.read(store, "stack:1")
    (part,) = image.platforms
    base, shop = (cloudimage.read(store, name).platforms[0] for name in ("base", "shop:1"))
    assert (made.name, made.digest, made.sources) == ("stack:1", image.digest, ("base:latest", "shop:1"))
    assert part.layers == (*base.layers, *shop.layers)
    assert part.info.launch == ("kubectl apply -f base.yaml", "kubectl apply -f shop.yaml")
    assert (part.info.type, part.info.kubernetes, part.info.kube_version) == ("kube", "v1.36.3", ">=1.30")
    assert part.info.env == {"Mode": "fast", "Port": "80"}
    assert part.info.labels == {"team": "shop"}
    assert [one.name for one in part.images.images] == ["example.com/pause:1", "example.com/shop:1"]
    assert made.warnings == ()
    cloudimage.verify(store, image)


def test_merge_digest_depends_on_sources_and_their_order(store: Store) -> None:
    first = merge.merge(store, "stack:1", ["base", "shop:1"])
    assert merge.merge(store, "other", ["base:latest", "shop:1"]).digest == first.digest
    assert merge.merge(store, "other", ["shop:1", "base"]).digest != first.digest


def test_merge_of_applications_only_gives_application_image(store: Store) -> None:
    app(store, "more:1", kube_version="<1.40")
    merge.merge(store, "both", ["shop:1", "more:1"])
    info = cloudimage.read(store, "both").platforms[0].info
    assert (info.type, info.kubernetes, info.kube_version) == ("app", None, ">=1.30 <1.40")


def test_merge_range_with_alternatives_admits_intersection() -> None:
    text = merge._range(["1.30.x || 1.31.x", ">=1.31", None]) or ""
    assert version_range.satisfies("v1.31.4", text)
    assert not version_range.satisfies("v1.30.4", text)
    assert merge._range([None]) is None


def test_merge_reports_all_conflicts_with_both_images(store: Store) -> None:
    web = ImageApp("web", "kube", commands=("true",))
    app(store, "one:1", env={"Port": "80"}, embedded={"example.com/db:1": b"1"}, apps=(web,))
    app(
        store,
        "two:1",
        env={"Port": "90"},
        embedded={"example.com/db:1": b"2"},
        apps=(dataclasses.replace(web, kind="shell"),),
        kube_version="<1.30",
    )
    put(store, "cluster:2", [file("a", "b")], info=dataclasses.replace(BASE, env={}))
    with pytest.raises(InputError) as refused:
        merge.merge(store, "stack", ["base", "one:1", "two:1", "cluster:2"])
    assert {(fault.where, fault.message) for fault in refused.value.faults} == {
        ("cluster:2", "brings Kubernetes, as base:latest does"),
        ("two:1", "is made for Kubernetes <1.30, and the merged image brings v1.36.3"),
        ("two:1", "ENV Port differs from that of one:1"),
        ("two:1", "the container image example.com/db:1 differs from that of one:1"),
        ("two:1", "the application web differs from that of one:1"),
    }
    assert "stack:latest" not in store.names()


def test_merge_differing_value_is_settled_by_env_or_replace(store: Store) -> None:
    app(store, "one:1", env={"Port": "80"})
    app(store, "two:1", env={"Port": "90"})
    merge.merge(store, "stack", ["one:1", "two:1"], env={"Port": "8080", "More": "x"})
    assert cloudimage.read(store, "stack").platforms[0].info.env == {"Port": "8080", "More": "x"}
    merge.merge(store, "stack", ["one:1", "two:1"], replace=True)
    assert cloudimage.read(store, "stack").platforms[0].info.env == {"Port": "90"}


def test_merge_differing_file_of_later_image_replaces_earlier_and_gives_warning(store: Store, tmp_path: Path) -> None:
    app(store, "one:1", "1", path="manifests/app.yaml")
    app(store, "two:1", "2", path="manifests/app.yaml")
    app(store, "three:1", "2", path="manifests/app.yaml")
    assert merge.merge(store, "stack", ["one:1", "two:1", "three:1"]).warnings == ("two:1 replaces manifests/app.yaml of one:1",)
    unpack(store, cloudimage.read(store, "stack").platforms[0].layers, tmp_path / "tree")
    assert (tmp_path / "tree/manifests/app.yaml").read_text() == "2"


def test_merge_common_first_layers_are_kept_once(store: Store) -> None:
    common = [file("common", "c")]
    put(store, "one:1", common, [file("one", "1")], info=Info(type="app"), history=("FROM scratch", "COPY one"))
    put(store, "two:1", common, [file("two", "2")], info=Info(type="app"), history=("FROM scratch", "COPY two"))
    merge.merge(store, "stack", ["one:1", "two:1"])
    part = cloudimage.read(store, "stack").platforms[0]
    assert len(part.layers) == 3
    assert [step.created_by for step in part.history] == ["MERGE one:1", "FROM scratch", "COPY one", "MERGE two:1", "COPY two"]


def test_merge_keeps_platforms_common_to_all_sources(store: Store) -> None:
    app(store, "one:1", platforms=(AMD64, ARM64))
    app(store, "two:1", platforms=(AMD64,))
    app(store, "arm:1", platforms=(ARM64,))
    made = merge.merge(store, "stack", ["one:1", "two:1"])
    assert (made.platforms, made.warnings) == (("linux/amd64",), ("linux/arm64 is left out: two:1 is not made for it",))
    with pytest.raises(StoreError, match=r"no platform in common: two:1: linux/amd64; arm:1: linux/arm64"):
        merge.merge(store, "stack", ["two:1", "arm:1"])


def test_merge_provenance_and_record_name_sources_with_digests(store: Store) -> None:
    merge.merge(store, "stack", ["base", "shop:1"])
    image = cloudimage.read(store, "stack")
    digests = {name: store.resolve(name).digest for name in ("base:latest", "shop:1")}
    assert [dict(source) for source in image.platforms[0].info.merged_from] == [
        {"reference": name, "digest": digest} for name, digest in digests.items()
    ]
    definition = provenance.make(image, Reference.parse("stack"))["predicate"]["buildDefinition"]
    assert definition["buildType"] == provenance.MERGE_TYPE
    assert definition["externalParameters"]["sources"] == ["base:latest", "shop:1"]
    merged = {one["digest"]["sha256"] for one in definition["resolvedDependencies"] if one["name"] == "merged CloudImage"}
    assert merged == {digest.removeprefix("sha256:") for digest in digests.values()}


@pytest.mark.parametrize(
    ("sources", "error", "says"),
    [
        (["base"], UsageError, "two images or more"),
        (["nosuch", "shop:9"], InputError, "nosuch"),
        (["base", "sealed"], InputError, "was made by sealer"),
    ],
)
def test_merge_single_unknown_or_sealer_source_is_refused(store: Store, sources: list[str], error: type[Exception], says: str) -> None:
    app(store, "sealed", converted_from={"tool": "sealer", "version": "1", "digest": "x"})
    with pytest.raises(error, match=says):
        merge.merge(store, "stack", sources)

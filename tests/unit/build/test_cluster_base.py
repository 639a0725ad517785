"""The image that an application image runs on while it is built."""

from __future__ import annotations

import pytest

from harness import cloudimage
from harness.build import cluster_base
from harness.cloudimage import CloudImage, ImageSet, Info, PlatformImage, search
from harness.errors import InputError, StoreError
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.trust import policy

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")
BASE = {"reference": "docker.io/library/kubernetes:latest", "digest": f"sha256:{'a' * 64}"}


def put(store: Store, name: str, info: Info, *platforms: Platform) -> CloudImage:
    parts = [PlatformImage(platform, (), (), (), info, ImageSet()) for platform in platforms or (AMD64,)]
    store.tag(name, cloudimage.write(store, parts))
    return cloudimage.read(store, name)


def kube(version: str, **more: object) -> Info:
    return Info(kubernetes=version, **more)  # type: ignore[arg-type]


def chosen(store: Store, on: str = cluster_base.AUTO, kube_version: str | None = None) -> cluster_base.ClusterBase | None:
    return cluster_base.choose(store, on, AMD64, kube_version, "K")


def test_choose_auto_takes_newest_fitting_base_image_and_reports_it(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", kube("v1.34.9"))
    put(store, "kubernetes-of-us", kube("v1.36.3", env={"A": "1"}))
    put(store, "kubernetes", kube("v1.36.3"))
    put(store, "rc", kube("v1.36.3-rc.1"))
    put(store, "other-machine", kube("v1.38.0"), ARM64)
    put(store, "web", kube("v1.39.0", base=BASE))
    put(store, "converted", kube("v1.39.0", converted_from={"tool": "sealer", "version": "1", "digest": BASE["digest"]}))
    put(store, "app", Info(type="app"))
    base = chosen(store)
    assert base is not None
    assert (base.reference, base.kubernetes) == ("kubernetes:latest", "v1.36.3")
    line = " ".join(capsys.readouterr().err.split())
    assert "runs on kubernetes:latest (Kubernetes v1.36.3): the newest base image in the local store for linux/amd64; --on IMAGE" in line
    older = chosen(store, kube_version=">=1.30 <1.36")
    assert older is not None
    assert older.reference == "old:latest"
    assert "for linux/amd64 and KUBEVERSION >=1.30 <1.36;" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("kube_version", [None, ">=1.40"])
def test_choose_auto_without_fitting_base_image_warns_of_missing_proof(
    store: Store, capsys: pytest.CaptureFixture[str], kube_version: str | None
) -> None:
    if kube_version:
        put(store, "kubernetes", kube("v1.36.3"))
    assert chosen(store, kube_version=kube_version) is None
    line = " ".join(capsys.readouterr().err.split())
    assert "K: NOTHING IS PROVEN: no base image in the local store is for linux/amd64" in line
    assert (f"KUBEVERSION {kube_version}" in line) is bool(kube_version)
    assert "`slipway build --on REGISTRY/kubernetes:VERSION` or `slipway pull REGISTRY/kubernetes:VERSION` takes one" in line
    version = "--build-arg VERSION=v1.40 " if kube_version else ""
    assert f"`slipway build {version}-t kubernetes {search.bundled()}/kubernetes` makes one; --on none reads files only" in line


def test_choose_auto_without_base_for_range_without_lower_bound_names_registry_only(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert chosen(store, kube_version="<1.30") is None
    line = " ".join(capsys.readouterr().err.split())
    assert "takes one from a registry; --on none reads files only" in line


def test_choose_on_none_warns_of_missing_proof(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "kubernetes", kube("v1.36.3"))
    assert chosen(store, cluster_base.NONE) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert "--on none: NOTHING IS PROVEN" in line


def test_choose_named_derived_image_has_digest_independent_of_other_platforms(store: Store) -> None:
    digests = []
    for platforms in ((AMD64,), (AMD64, ARM64)):
        put(store, "web", kube("v1.36.3", base=BASE), *platforms)
        base = chosen(store, "web")
        assert base is not None
        digests.append(base.digest)
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("info", "message"),
    [
        (Info(type="app"), "--on it: it is an application image"),
        (kube("v1.36.3", converted_from={"tool": "sealer", "version": "1", "digest": BASE["digest"]}), "--on it: it was made by sealer"),
        (kube("v1.36.3"), "--on it: KUBEVERSION <1.36 does not admit its Kubernetes v1.36.3"),
    ],
)
def test_choose_named_unusable_image_raises_input_error_with_hint(store: Store, info: Info, message: str) -> None:
    put(store, "it", info)
    with pytest.raises(InputError, match=message) as caught:
        chosen(store, "it", "<1.36")
    assert caught.value.faults[0].hint


def test_choose_named_other_runtime_raises_store_error_with_base_images(store: Store) -> None:
    put(store, "kubernetes", kube("v1.36.3"))
    with pytest.raises(StoreError, match=r"--on r\.test/k3s:1: .*, and slipway does not run k3s") as caught:
        chosen(store, "r.test/k3s:1")
    assert caught.value.hint == "runtimes: kubeadm; base images: kubernetes:latest"


def test_choose_named_image_missing_or_for_other_platform_raises_store_error(store: Store) -> None:
    with pytest.raises(StoreError, match="--on nothere: "):
        chosen(store, "nothere")
    put(store, "abroad", kube("v1.36.3"), ARM64)
    with pytest.raises(StoreError, match="is not made for linux/amd64"):
        chosen(store, "abroad")


@pytest.mark.parametrize("on", [cluster_base.AUTO, "kubernetes"])
def test_choose_base_image_refused_by_policy_raises_store_error(store: Store, monkeypatch: pytest.MonkeyPatch, on: str) -> None:
    image = put(store, "kubernetes", kube("v1.36.3"))
    asked: list[tuple[str, str]] = []

    def refuse(_store: Store, name: str, digest: str) -> None:
        asked.append((name.removesuffix(":latest"), digest))
        raise StoreError("it is not signed")

    monkeypatch.setattr(policy, "admit", refuse)
    with pytest.raises(StoreError, match="it is not signed"):
        chosen(store, on)
    assert asked == [("kubernetes", image.digest)]


def test_refuse_named_base_for_image_with_kubernetes_raises_input_error(store: Store) -> None:
    cluster_base.refuse(cluster_base.AUTO, "K")
    cluster_base.refuse(cluster_base.NONE, "K")
    with pytest.raises(InputError, match="K makes an image with Kubernetes"):
        cluster_base.refuse("kubernetes", "K")

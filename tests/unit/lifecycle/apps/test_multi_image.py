"""Several images in one request: which is that of the cluster, what all of them are refused for at once, and in which order they come."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest

from harness.clusterfile import Clusterfile
from harness.clusterfile.parse import parse
from harness.errors import CheckError, Fault, FaultCollector, InputError, StoreError
from harness.lifecycle.apps import install, installation, multi_image, records
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import Where
from harness.oci.store import Store
from tests.unit.lifecycle.apps.test_records import Kube, target
from tests.unit.lifecycle.apps.test_records import build as build_app
from tests.unit.lifecycle.test_run import build, store

__all__ = ["store"]  # a fixture

TEXT = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: default}
spec:
  image: [shop:1, web, more:1]
  env: {Port: "80", PodCIDR: 10.1.0.0/16}
  hosts: [{ips: [10.0.0.1], roles: [master]}]
"""
DOCUMENT = "---\napiVersion: slipway.dev/v1\nkind: Application\nmetadata: {name: %s}\nspec: {image: %s, env: {Port: '90'}}\n"


def app(store: Store, name: str, **info: Any) -> str:
    return build_app(store, name, env={"DbPassword": "none", "Greeting": "hello"}, **info)


def test_sort_image_with_kubernetes_becomes_cluster_image_at_any_position(store: Store) -> None:
    build(store)
    for name in ("shop:1", "more:1"):
        app(store, name)
    assert multi_image.sort(["shop:1", "web", "more:1"], store) == multi_image.Sorted("web", ("shop:1", "more:1"))
    assert multi_image.sort(["more:1", "shop:1"], store) == multi_image.Sorted(None, ("more:1", "shop:1"))


def test_settled_image_list_becomes_application_documents(store: Store) -> None:
    build(store)
    for name in ("shop:1", "more:1", "last:1"):
        app(store, name)
    found = multi_image.settled(parse(TEXT + DOCUMENT % ("last", "last:1") + DOCUMENT % ("other", "more:1"), "Clusterfile"), store)
    assert found.cluster is not None
    assert (found.cluster.image, found.cluster.images) == ("web", ())
    # Values of the list count for its images, but not the networks; a document that names one of them has its settings.
    assert [(each.name, each.image, each.env) for each in found.apps] == [
        ("shop", "shop:1", {"Port": "80"}),
        ("other", "more:1", {"Port": "90"}),
        ("last", "last:1", {"Port": "90"}),
    ]
    assert multi_image.settled(found, store) is found


def test_sort_unsuitable_images_reports_all_faults_at_once(store: Store) -> None:
    build(store)
    build(store, "web2")
    for name in ("shop:1", "team/shop:2"):
        app(store, name)
    with pytest.raises(InputError) as refused:
        multi_image.sort(["web", "web2", "nosuch:1", "shop:1", "team/shop:2", "web:latest"], store)
    found = {(fault.where, fault.message) for fault in refused.value.faults}
    assert ("web2", "brings Kubernetes, as web does") in found
    assert ("team/shop:2", "would be called shop, as shop:1 is") in found
    assert ("web:latest", "is given twice") in found
    assert "nosuch:1" in [fault.where for fault in refused.value.faults]
    assert len(found) == 4


def test_settled_cluster_without_kubernetes_image_is_refused(store: Store) -> None:
    for name in ("shop:1", "more:1"):
        app(store, name)
    with pytest.raises(InputError, match=r"shop:1, more:1: no image of these brings Kubernetes"):
        multi_image.settled(parse(TEXT.replace("web, ", ""), "Clusterfile"), store)
    assert multi_image.settled(Clusterfile(""), store) == Clusterfile("")


def test_fault_collector_single_error_is_kept_and_several_are_merged() -> None:
    def collected(*errors: Exception) -> FaultCollector:
        collector = FaultCollector()
        for number, error in enumerate(errors):
            with collector.of(f"image:{number}"):
                raise error
        return collector

    collected().finish()
    with pytest.raises(CheckError, match=r"^too old"):
        collected(CheckError("too old")).finish()
    with pytest.raises(InputError) as refused:
        collected(CheckError("image:0 is too old", hint="newer"), InputError([Fault("a", "b")]), StoreError("c")).finish()
    assert refused.value.faults == (Fault("image:0", "is too old", "newer"), Fault("image:1: a", "b"), Fault("image:2", "c"))
    with pytest.raises(ZeroDivisionError):
        collected(ZeroDivisionError())


# ---- applications alone ----------------------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happens in the cluster that is opened."""
    said: list[str] = []

    @contextlib.contextmanager
    def exclusive() -> Iterator[None]:
        said.append("begin")
        yield
        said.append("end")

    @contextlib.contextmanager
    def open_it(*_: object, **__: object) -> Iterator[Any]:
        said.append("open")
        yield dataclasses.replace(target(Kube()), exclusive=exclusive)

    monkeypatch.setattr(multi_image, "opened", open_it)
    return said


def asked(*images: str) -> list[Request]:
    return [Request.of(image, env={"DbPassword": "x"}) for image in images]


def test_described_several_apps_chains_their_plans(store: Store, opened: list[str]) -> None:
    app(store, "shop:1")
    app(store, "more:1")
    with multi_image.prepared(asked("shop:1", "more:1"), Where("lab"), store) as works:
        steps = multi_image.described(works)
    by_id = {step["id"]: step for step in steps}
    assert by_id["shop/send-images"]["after"] == ["shop/begin"]
    assert by_id["more/begin"]["after"] == ["shop/record"]
    assert len(by_id) == len(steps)
    assert opened == ["open"]
    with multi_image.prepared(asked("shop:1"), Where("lab"), store) as works:
        assert multi_image.described(works)[0]["id"] == "begin"


def test_prepared_unadmitted_apps_are_all_reported_before_any_change(store: Store, opened: list[str]) -> None:
    app(store, "old:1", kube_version="<1.30")
    app(store, "future:1", kube_version=">=1.40")
    with pytest.raises(InputError) as refused, multi_image.prepared(asked("old:1", "future:1"), Where("lab"), store):
        pytest.fail("it is admitted")
    assert [fault.where for fault in refused.value.faults] == ["old:1", "future:1"]
    assert opened == ["open"]


def test_put_several_apps_locks_once_and_failure_names_apps_not_begun(
    store: Store, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("one:1", "two:1", "three:1")
    for name in names:
        app(store, name)

    def carry_out(work: installation.AppInstall, started: float) -> Any:
        assert started
        with work.target.exclusive():
            opened.append(work.name)
        if work.name == "two" and "fail" in opened:
            raise CheckError("two is not ready")
        return work.name

    monkeypatch.setattr(install, "carry_out", carry_out)
    assert list(map(str, multi_image.put(asked(*names), Where("lab"), store))) == ["one", "two", "three"]
    assert opened == ["open", "begin", "one", "two", "three", "end"]
    opened[:] = ["fail"]
    with pytest.raises(CheckError) as failed:
        multi_image.put(asked(*names), Where("lab"), store)
    assert failed.value.hint == "not begun: three; the same command again"
    assert records.name_of("three:1") not in opened

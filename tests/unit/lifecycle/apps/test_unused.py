"""What leaves the registries of a cluster, and what stays: images of the cluster, of the one before it, of applications, of workloads."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness import cloudimage
from harness.lifecycle.apps import install, installation, records, uninstall, unused
from harness.lifecycle.apps import target as apps_target
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.provision import registry
from harness.oci.store import Store
from tests.unit.lifecycle.apps.test_records import Kube, build, target
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import store

__all__ = ["store"]  # a fixture

ROOT = "docker/registry/v2/repositories"


class Holder(StandIn):
    """A node with a registry: it keeps the list of what is to stay."""

    def __init__(self, links: str = "") -> None:
        super().__init__("10.0.0.1")
        self.stay: list[str] = []
        self.asked: list[str] = []
        self.links = links

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> Any:
        if "wanted.list" in command:
            self.stay = str(input).splitlines()
        if "find docker/registry/v2/repositories/" in command:
            self.asked.append(command)
            self.answers = {"find docker": self.links}
        return super().run(command, input=input, check=check, timeout=timeout)


class Cluster(Kube):
    """With the images of workloads, and the last change."""

    def __init__(self, images: str = "", move: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.images, self.move = images, move

    def run(self, *argv: str, input: str | None = None, timeout: float = 0) -> str:
        if "--output=jsonpath={..image}" in argv:
            return self.images
        if argv[:3] == ("get", "configmap", "slipway-upgrade"):
            return json.dumps({"data": {"move": json.dumps(self.move)}}) if self.move else ""
        return super().run(*argv, input=input, timeout=timeout)


def removed_from(kube: Any, store: Store, digest: str, holder: Holder) -> str:
    """Remove what is not used; the note."""
    where = target(kube)
    found: Any = type(where)(**{**vars(where), "image": digest, "holders": (holder,)})
    return unused.remove(found, store)


def repositories(holder: Holder) -> set[str]:
    return {path.removeprefix(f"{ROOT}/").split("/_")[0] for path in holder.stay if path.startswith(ROOT)}


def move(before: str, after: str, state: str = "done") -> dict[str, Any]:
    versions = [{"image": name, "digest": digest, "kubernetes": "v1.36.3"} for name, digest in (("old", before), ("new", after))]
    return {"id": "1", "kind": "upgrade", "before": versions[0], "after": versions[1], "state": state, "since": ""}


def test_unused_remove_keeps_images_of_current_and_former_cluster_and_applications(store: Store) -> None:
    former, now, shop = (build(store, name, images=(f"example.com/{name}:1",)) for name in ("former", "now", "shop"))
    build(store, "gone", images=("example.com/gone:1",))
    kube, holder = Cluster(move=move(former, now)), Holder()
    records.begin(kube, Installed("shop", "shop:latest", shop))  # type: ignore[arg-type]
    assert removed_from(kube, store, now, holder) == "0 files of older images removed"
    assert repositories(holder) == {"example.com/former", "example.com/now", "example.com/shop"}
    assert any(path.endswith("/data") for path in holder.stay)


def test_unused_remove_keeps_whole_repository_of_workload_image(store: Store) -> None:
    now = build(store, "now", images=("example.com/now:1",))
    digest = "a" * 64
    links = f"{ROOT}/example.com/gone/_layers/sha256/{digest}/link\n{ROOT}/example.com/gone/_manifests/tags/1/current/link\n; rm -rf /\n"
    holder = Holder(links)
    kube = Cluster(f"example.com/now:1 example.com/gone:1 docker.io/library/x@sha256:{digest} sha256:{digest[:12]} ::")
    removed_from(kube, store, now, holder)
    assert registry.blob_path(f"sha256:{digest}") in holder.stay
    assert f"{ROOT}/example.com/gone/_manifests/tags/1/current/link" in holder.stay
    assert not any("rm -rf" in path for path in holder.stay)
    assert f"{ROOT}/docker.io/library/x" in holder.asked[0]
    assert f"{ROOT}/example.com/now " not in holder.asked[0]


@pytest.mark.parametrize("why", ["unknown", "unfinished", "application"])
def test_unused_remove_with_unknown_usage_changes_nothing(store: Store, why: str) -> None:
    now = build(store, "now", images=("example.com/now:1",))
    kube, holder = Cluster(move=move(now, now, "running") if why == "unfinished" else None), Holder()
    if why == "application":
        records.begin(kube, Installed("shop", "shop:latest", "sha256:" + "0" * 64))  # type: ignore[arg-type]
    note = removed_from(kube, store, "sha256:" + "0" * 64 if why == "unknown" else now, holder)
    assert note.startswith("kept: ")
    assert holder.commands == []


def test_plan_of_app_replacement_and_removal_ends_with_remove_images(store: Store) -> None:
    now = build(store, "now", images=("example.com/now:1",))
    build(store)
    kube = Cluster()
    where: Any = target(kube)
    where = type(where)(**{**vars(where), "image": now})
    request = Request.of("shop", env={"DbPassword": "x"})

    def last(image: str = "shop") -> str:
        asked = Request.of(image, "shop", env={"DbPassword": "x"})
        return install.plan(installation.make(where, asked, installation.read(asked, store), store))[-1].id

    assert last() == "record"
    work = installation.make(where, request, installation.read(request, store), store)
    digest = cloudimage.read(store, "shop").digest
    records.begin(kube, Installed("shop", "shop:latest", digest, records.INSTALLED, clusterfile=work.record.clusterfile))  # type: ignore[arg-type]
    assert last() == "record"
    build(store, "newer", images=("example.com/b:1",))
    assert last("newer") == "remove-images"
    assert uninstall.plan(uninstall.make(where, "shop", store))[-1].id == "remove-images"
    imported: Any = type(where)(**{**vars(where), "way": apps_target.IMPORT})
    assert unused.step(imported, store, "forget") == []

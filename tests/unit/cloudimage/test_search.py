"""Where CloudImages are found: the catalogue, the store, and registries as a stand-in for their client sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cloudimage import Info, search
from harness.cloudimage.search import RegistryNamespace
from harness.errors import UsageError
from harness.oci.model import canonical_json
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.unit.cloudimage.examples import AMD64, ARM64, file, put
from tests.unit.cloudimage.registries import HOST, Registry, container, registry


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    return Store.default()


# The catalogue


def test_catalogue_bundled_is_searched_by_name_and_description() -> None:
    hits = {hit.name: hit for hit in search.catalogue(search.bundled(), "")}
    assert {"kubernetes", "web", "chart"} <= set(hits)
    assert [hit.name for hit in search.catalogue(search.bundled(), "KUBERNETE") if hit.name == "kubernetes"] == ["kubernetes"]
    assert [hit.name for hit in search.catalogue(search.bundled(), "redis behind")] == ["web"]
    assert hits["web"].description == "nginx and Redis behind Services"
    assert (Path(hits["web"].folder or "") / "Kubefile").is_file()


def test_catalogue_kubernetes_version_comes_from_lowest_base(tmp_path: Path) -> None:
    for name, text in {
        "base": "FROM scratch\nARG VERSION=v1.29.3\nLABEL cluster.alpha.sealer.io/cluster-runtime-version=${VERSION}\n",
        "app": "FROM base\n",
        "top": "FROM app\n",
        "broken": "FROM base\nNONSENSE x\n",
        "foreign": "FROM reg.test/other:1\n",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "Kubefile").write_text(text)
    found = {hit.name: hit.kubernetes for hit in search.catalogue(tmp_path, "")}
    assert found == {"base": "v1.29.3", "app": "v1.29.3", "top": "v1.29.3", "broken": "v1.29.3", "foreign": None}


def test_catalogue_missing_yields_no_hits() -> None:
    assert list(search.catalogue(None, "")) == []


# The store


def test_stored_images_are_searched_by_name_and_label(store: Store) -> None:
    described = Info(kubernetes="v1.30.0", labels={search.DESCRIPTION: "A message\nbroker"})
    image = put(store, "mq", [file("a")], info=described, platforms=(AMD64, ARM64))
    put(store, "web", [file("b")])
    (hit,) = search.stored(store, "BROKER")
    assert (hit.name, hit.where, hit.description, hit.kubernetes) == ("mq:latest", "store", "A message broker", "v1.30.0")
    assert (hit.platforms, hit.size, hit.digest) == (("linux/amd64", "linux/arm64"), image.size, image.digest)
    assert [hit.name for hit in search.stored(store, "")] == ["mq:latest", "web:latest"]
    store.path(image.platforms[0].layers[0].digest).unlink()
    (broken,) = search.stored(store, "mq")
    assert "missing" in broken.description


# Registries


def test_search_registry_reads_only_matching_repositories(store: Store, tmp_path: Path) -> None:
    far = Store(tmp_path / "far")
    info = Info(kubernetes="v1.30.0", labels={search.DESCRIPTION: "A message broker"})
    image = put(far, "mq", [file("a")], info=info, embedded={"x.io/i:1": b"i" * 1000}, platforms=(AMD64, ARM64))
    client = registry(far, acme__mq=image.digest, acme__web=image.digest, other__mq=image.digest, acme__mqtt=container(far))
    found = search.search("MQ", store, [RegistryNamespace(HOST, "acme")], client)
    (hit,) = [hit for hit in found.hits if hit.where == HOST]
    assert hit == search.SearchResult(
        f"{HOST}/acme/mq:latest", HOST, "A message broker", ("linux/amd64", "linux/arm64"), "v1.30.0", image.size, image.digest, tags=1
    )
    assert sorted(client.asked) == sorted(
        ["catalog", "tags acme/mq", "tags acme/mqtt", "manifest acme/mq:latest", "manifest acme/mqtt:latest", *["manifest acme/mq:"] * 4]
    )
    assert (found.silent, found.more) == ((), 0)


def test_search_repository_is_shown_by_latest_or_highest_tag(store: Store) -> None:
    one, two = put(store, "one", [file("a")]), put(store, "two", [file("b")])
    names = {
        "a": {"1.10": two.digest, "1.9": one.digest, one.digest.replace(":", "-") + ".sig": one.digest},
        "b": {"latest": one.digest, "2.0": two.digest},
        "empty": {},
        "signatures": {one.digest.replace(":", "-"): one.digest},
    }
    client: Any = Registry(store, names)
    found = [hit for hit in search.search("", store, [RegistryNamespace(HOST)], client).hits if hit.where == HOST]
    assert [(hit.name, hit.digest, hit.tags) for hit in found] == [(f"{HOST}/a:1.10", two.digest, 2), (f"{HOST}/b:latest", one.digest, 2)]


def test_search_registry_reads_repositories_up_to_limit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "MOST", 2)
    image = put(store, "web", [file("a")])
    client = registry(store, **{f"web{number}": image.digest for number in range(5)})
    found = search.search("web", store, [RegistryNamespace(HOST)], client)
    assert (len([hit for hit in found.hits if hit.where == HOST]), found.more) == (2, 3)
    assert len([question for question in client.asked if question.startswith("tags")]) == 2


def test_search_registry_without_catalog_is_reported_and_exact_name_is_found(store: Store) -> None:
    image = put(store, "x", [file("a")])
    client: Any = Registry(store, {"acme/web": {"latest": image.digest}}, lists=False)
    found = search.search("web", store, [RegistryNamespace(HOST, "acme")], client)
    assert [hit.name for hit in found.hits if hit.where == HOST] == [f"{HOST}/acme/web:latest"]
    (silent,) = found.silent
    assert (silent.name, silent.found) == (HOST, True)
    assert "does not list its repositories" in silent.reason
    for term in ("", "we", "not a name", "web:1"):
        nothing = search.search(term, store, [RegistryNamespace(HOST, "acme")], client)
        assert [hit for hit in nothing.hits if hit.where == HOST] == []
        assert [one.found for one in nothing.silent] == [False]


def test_search_failing_registry_is_asked_once(store: Store) -> None:
    client: Any = Registry(store, {}, lists=False)
    client.status = 502
    found = search.search("web", store, [RegistryNamespace(HOST)], client)
    assert [silent.found for silent in found.silent] == [False]
    assert client.asked == ["catalog"]


def test_search_docker_hub_is_not_asked_for_catalog(store: Store) -> None:
    image = put(store, "x", [file("a")])
    client: Any = Registry(store, {"library/web": {"latest": image.digest}})
    found = search.search("web", store, [RegistryNamespace("docker.io")], client)
    assert [hit.name for hit in found.hits if hit.where == "docker.io"] == ["web:latest"]
    assert "catalog" not in client.asked
    assert "Docker Hub shows no list" in found.silent[0].reason


def test_search_refused_or_invalid_repository_is_reported_beside_hits(store: Store) -> None:
    image = put(store, "x", [file("a")])
    index = json.loads(store.read(image.digest))
    index["manifests"] = [{"no": "descriptor"}]
    strange = store.put(canonical_json(index))[0]
    client = registry(store, good=image.digest, secret=image.digest, strange=strange)
    client.refuses = {"secret"}
    found = search.search("", store, [RegistryNamespace(HOST)], client)
    assert [hit.name for hit in found.hits if hit.where == HOST] == [f"{HOST}/good:latest"]
    reasons = {silent.name: silent.reason for silent in found.silent}
    assert set(reasons) == {f"{HOST}/secret", f"{HOST}/strange"}
    assert "403 DENIED" in reasons[f"{HOST}/secret"]
    assert "cannot be understood" in reasons[f"{HOST}/strange"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("localhost:5000", RegistryNamespace("localhost:5000")),
        ("reg.test/acme", RegistryNamespace("reg.test", "acme")),
        ("reg.test/acme/deep/", RegistryNamespace("reg.test", "acme/deep")),
        ("docker.io", RegistryNamespace("docker.io")),
        ("index.docker.io/acme", RegistryNamespace("docker.io", "acme")),
    ],
)
def test_registry_namespace_parses_host_and_optional_namespace(text: str, place: RegistryNamespace) -> None:
    assert RegistryNamespace.parse(text) == place


@pytest.mark.parametrize("text", ["", "web", "acme/web", "http://reg.test", "reg.test/UPPER", "reg.test/a//b"])
def test_registry_namespace_of_invalid_text_raises_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--registry"):
        RegistryNamespace.parse(text)


def test_tags_are_sorted_by_version_without_attachments(store: Store) -> None:
    tags = ["v1.10.0", "v1.9.0", "latest", "v1.9.0-1", "sha256-" + "a" * 64, "sha256-" + "a" * 64 + ".sig", "2"]
    client: Any = Registry(store, {"acme/web": dict.fromkeys(tags, "x")})
    assert search.tags(Reference.parse(f"{HOST}/acme/web"), client) == ("latest", "v1.9.0", "v1.9.0-1", "v1.10.0", "2")

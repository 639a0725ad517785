"""``slipway search``: words in, exit code and text out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness import log
from harness.cloudimage import Info, search
from harness.oci.store import Store
from tests.unit.cloudimage.examples import file, put
from tests.unit.cloudimage.registries import HOST, Registry
from tests.unit.cloudimage.test_site_index import INDEX
from tests.unit.sealer.examples import said

pytestmark = pytest.mark.usefixtures("home")


class Connections:
    """What stands for `connect` of the command line: without a registry a test fails that asks for one."""

    def __init__(self) -> None:
        self.registry: Any = None
        self.open = 0

    @contextmanager
    def connect(self, *_: object, **options: object) -> Iterator[Any]:
        if self.registry is None:
            pytest.fail("a registry is asked")
        # A user waits for a few words.
        assert options == {"briefly": True}
        self.open += 1
        try:
            yield self.registry
        finally:
            self.open -= 1


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[Connections]:
    made = Connections()
    monkeypatch.setattr("harness.cli.search.connect", made.connect)
    yield made
    assert made.open == 0


def names(out: str) -> list[tuple[str, str]]:
    """Name and place of every hit."""
    return [(hit["name"], hit["where"]) for hit in json.loads(out)["hits"]]


# Here


def test_search_without_registry_lists_catalogue_and_store(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")], info=Info(kubernetes="v1.36.3", labels={search.DESCRIPTION: "A\tsite"}))
    out, err = said(capsys, "search", "web")
    rows = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in out.splitlines()]
    assert rows[0] == ["NAME", "WHERE", "TAGS", "PLATFORM", "KUBERNETES", "SIZE", "DESCRIPTION"]
    assert ["web", "catalogue", "-"] in [row[:3] for row in rows]
    assert ["web:latest", "store", "-", "linux/amd64", "v1.36.3", log.size(image.size), "A site"] in rows
    assert err == ""


def test_search_output_json_has_hits_with_all_fields(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "web", [file("a")])
    found = json.loads(said(capsys, "search", "web:latest", "-o", "json")[0])
    assert (set(found), found["silent"], found["more"]) == ({"hits", "silent", "more"}, [], 0)
    (hit,) = found["hits"]
    assert hit == {
        "name": "web:latest",
        "where": "store",
        "description": "",
        "platforms": ["linux/amd64"],
        "kubernetes": None,
        "size": image.size,
        "digest": image.digest,
        "tags": None,
        "folder": None,
    }


def test_search_without_hits_says_so_and_exits_0(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "search", "nothing like it") == ("nothing was found\n", "")
    assert json.loads(said(capsys, "search", "nothing like it", "-o", "json")[0]) == {"hits": [], "silent": [], "more": 0}


def test_search_without_term_lists_everything(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "odd-one", [file("a")])
    found = names(said(capsys, "search", "-o", "json")[0])
    assert {("odd-one:latest", "store"), ("web", "catalogue"), ("kubernetes", "catalogue")} <= set(found)


def test_search_output_escapes_control_characters(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "web", [file("a")], info=Info(labels={search.DESCRIPTION: "a\x1b[2Jb"}))
    out = said(capsys, "search", "web:latest")[0]
    assert "a [2Jb" in out
    assert "\x1b" not in out


# Registries


def test_search_registry_option_lists_its_repositories_beside_the_rest(
    store: Store, connections: Connections, capsys: pytest.CaptureFixture[str]
) -> None:
    image = put(store, "web", [file("a")])
    connections.registry = Registry(store, {"team/web": {"latest": image.digest, "1": image.digest}, "else/web": {"1": image.digest}})
    found = names(said(capsys, "search", "web", "--registry", f"{HOST}/team", "-o", "json")[0])
    assert [name for name, where in found if where == HOST] == [f"{HOST}/team/web:latest"]
    assert {("web", "catalogue"), ("web:latest", "store")} <= set(found)
    line = next(line for line in said(capsys, "search", "web", "--registry", f"{HOST}/team")[0].splitlines() if line.startswith(HOST))
    assert line.split()[:4] == [f"{HOST}/team/web:latest", HOST, "2", "linux/amd64"]


def test_search_registry_without_catalog_exits_4_after_printing_hits(
    store: Store, connections: Connections, capsys: pytest.CaptureFixture[str]
) -> None:
    image = put(store, "web", [file("a")])
    connections.registry = Registry(store, {"web": {"latest": image.digest}}, lists=False)
    out, err = said(capsys, "search", "we", "--registry", HOST, "-o", "json", code=4)
    found = json.loads(out)
    assert "web:latest" in [hit["name"] for hit in found["hits"]]
    assert (found["silent"][0]["name"], found["silent"][0]["found"]) == (HOST, False)
    assert "does not list its repositories" in err
    assert "search --tags" in err
    out, err = said(capsys, "search", "web", "--registry", HOST)
    assert f"{HOST}/web:latest" in out
    assert "only the repository of exactly this name was looked for" in err


def test_search_more_repositories_than_are_read_are_counted(
    store: Store, connections: Connections, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search, "MOST", 2)
    image = put(store, "web", [file("a")])
    connections.registry = Registry(store, {f"web{number}": {"1": image.digest} for number in range(5)})
    out = said(capsys, "search", "web", "--registry", HOST)[0]
    assert out.splitlines()[-1] == "3 more repositories match: say more of the name, or --registry HOST/NAMESPACE"


def test_search_tags_option_lists_tags_of_repository(store: Store, connections: Connections, capsys: pytest.CaptureFixture[str]) -> None:
    connections.registry = Registry(store, {"web": {"2": "x", "1": "x"}, "empty": {}})
    assert said(capsys, "search", "--tags", f"{HOST}/web")[0] == "1\n2\n"
    found = json.loads(said(capsys, "search", "--tags", f"{HOST}/web", "-o", "json")[0])
    assert found == {"repository": f"{HOST}/web", "tags": ["1", "2"]}
    for name in ("nothing", "empty"):
        out, err = said(capsys, "search", "--tags", f"{HOST}/{name}", code=4)
        assert (out, f"{HOST}/{name}: no such repository in the registry, or it has no tags" in err) == ("", True)


# Sites


def test_search_index_option_searches_site(store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(INDEX.data())
    assert names(said(capsys, "search", "shop/web", "--index", str(path), "-o", "json")[0]) == [("reg.test/shop/web:2", str(path))]
    path.write_text("<html>")
    assert "not usable JSON" in said(capsys, "search", "--index", str(path), code=4)[1]


# Bad input


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tags", "x", "--registry", HOST], "--tags takes no --registry and no --index"),
        (["--tags", "x", "--index", "site"], "--tags takes no --registry and no --index"),
        (["--tags"], "--tags needs a repository"),
        (["--tags", "UPPER/x y"], "TERM UPPER/x y: "),
        (["web", "--registry", "web"], "--registry web: not a registry"),
        (["web", "--registry", HOST, "--registry", "reg.test/UPPER"], "--registry reg.test/UPPER: "),
        (["--index", "no-such-site"], "no-such-site"),
        (["web", "--registry", HOST, "-o", "xml"], "--output xml"),
    ],
)
def test_search_invalid_arguments_exit_2_and_ask_no_registry(
    words: list[str], message: str, store: Store, contents: Callable[[], dict[str, bytes]], capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "web", [file("a")])
    before = contents()
    out, err = said(capsys, "search", *words, code=2)
    assert (out, message in err) == ("", True), err
    assert contents() == before

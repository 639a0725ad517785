"""The catalogue in a real browser, from the disk and from a web server; of a real registry; and its index, searched over the network."""

from __future__ import annotations

import functools
import http.server
import json
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import cloudimage
from harness.cloudimage import Info
from harness.cloudimage.search import DESCRIPTION
from harness.oci.store import Store
from harness.trust import keys
from harness.trust.results import SuiteRun
from tests.conftest import Slipway
from tests.integration.browser import Browser
from tests.integration.registry import Registry, registry, serving
from tests.unit.cloudimage.examples import file, put
from tests.unit.website.examples import Page, page, two_versions
from tests.waiting import HANG

SIZES = ((1280, 900), (390, 844))
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">" + "averylongword" * 30


class Site:
    def __init__(self, folder: Path, slipway: Slipway) -> None:
        self.folder = folder / "site"
        self.store = Store(folder / "home/store")
        self.env = {"SLIPWAY_HOME": str(folder / "home"), "SLIPWAY_CACHE": str(folder / "cache"), "SLIPWAY_KEY_PASSWORD": ""}
        self._slipway = slipway

    def run(self, *words: str | Path, check: bool = True) -> Any:
        return self._slipway(*words, check=check, env=self.env, timeout=HANG)

    def pages(self) -> list[Path]:
        return [self.folder / "index.html", *sorted(self.folder.glob("images/*.html"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, slipway: Slipway) -> Site:
    """A site of the store: an image in two versions, signed and with documents, an application, and one by a hostile author."""
    folder = tmp_path_factory.mktemp("catalog")
    made = Site(folder, slipway)
    two_versions(made.store)
    info = Info(type="app", labels={DESCRIPTION: EVIL, EVIL: EVIL}, launch=(EVIL,), env={"A" * 200: EVIL})
    put(made.store, "evil:1", [file("a")], info=info, history=(EVIL,))
    private, public = keys.create(folder / "release", "")
    for verb in ("sbom", "provenance"):
        made.run(verb, "web:1.10", "--attach", "--key", private)
    failed = SuiteRun(
        cloudimage.read(made.store, "web:1.10").digest, "linux/amd64", "1.2.3",
        passed=["a"], failed=[EVIL], skipped=["b"], suite=EVIL, facts={"reasons": {EVIL: EVIL}},
    )  # fmt: skip
    (folder / "failed.json").write_text(json.dumps(failed.predicate()))
    made.run("attest", "web:1.10", "--type", "test-result", "--predicate", folder / "failed.json", "--key", private)
    made.run("sign", "web:1.10", "--key", private)
    (folder / "readmes/evil").mkdir(parents=True)
    (folder / "readmes/evil/README.md").write_text(f"# evil\n\n{EVIL}\n\n| not | a table |\n\n```\n{'code ' * 200}\n```\n")
    made.run("catalog", "--to", made.folder, "--key", public, "--readmes", folder / "readmes")
    return made


def test_catalog_pages_load_from_disk_without_errors_at_each_width(site: Site, chromium: Browser) -> None:
    for path in site.pages():
        for width, height in SIZES:
            chromium.resize(width, height)
            chromium.open(path.as_uri())
            chromium.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            assert chromium.evaluate("document.documentElement.scrollWidth") <= width, f"{path.name} at {width}"
            assert "owned" not in chromium.evaluate("document.title")
    assert chromium.messages == []


def test_catalog_pages_have_no_axe_violations_at_each_width_and_colour_scheme(site: Site, chromium: Browser) -> None:
    for path in site.pages():
        for width, height in SIZES:
            for dark in (False, True):
                chromium.resize(width, height, dark=dark)
                chromium.open(path.as_uri())
                chromium.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
                assert chromium.violations() == [], (path.name, width, dark)
    chromium.resize(*SIZES[0])
    chromium.messages.clear()


def test_catalog_links_and_anchors_lead_to_existing_targets(site: Site, chromium: Browser) -> None:
    seen = set()
    for path in site.pages():
        chromium.open(path.as_uri())
        for link in chromium.evaluate("Array.from(document.links, link => link.href)"):
            parts = urllib.parse.urlsplit(link)
            assert parts.scheme == "file", link
            target = Path(urllib.parse.unquote(parts.path))
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment:
                assert target == path
                assert chromium.evaluate(f"document.getElementById({json.dumps(parts.fragment)}) !== null"), link
            seen.add(target.relative_to(site.folder).parts[0])
    assert seen == {"index.html", "index.json", "images", "documents"}


def shown(chromium: Browser) -> list[str]:
    cards = "Array.from(document.querySelectorAll('.card')).filter(card => card.offsetParent !== null)"
    return list(chromium.evaluate(f"{cards}.map(card => card.querySelector('h2').textContent.trim())"))


def test_catalog_search_box_filters_image_list(site: Site, chromium: Browser) -> None:
    chromium.resize(*SIZES[0])
    chromium.open((site.folder / "index.html").as_uri())
    assert shown(chromium) == ["evil", "registry.example.com/shop/queue", "web"]
    for words, names in (("REDIS nginx", ["web"]), ("queue", ["registry.example.com/shop/queue"]), ("nothing", []), ("", None)):
        chromium.type("#search", words) if words else chromium.evaluate(
            "(field => { field.value = ''; field.dispatchEvent(new Event('input')); })(document.getElementById('search'))"
        )
        assert shown(chromium) == (names if names is not None else ["evil", "registry.example.com/shop/queue", "web"])
    chromium.type("#search", "web")
    assert chromium.evaluate("document.querySelector('[role=status]').textContent") == "1 of 3 images"


@pytest.mark.parametrize(
    ("granted", "label", "place"), [(True, "Copied", "navigator.clipboard.readText()"), (False, "Selected", "getSelection().toString()")]
)
def test_catalog_copy_button_copies_command_or_selects_it_without_clipboard(
    granted: bool, label: str, place: str, site: Site, chromium: Browser
) -> None:
    (path,) = site.folder.glob("images/web-1-10-*.html")
    chromium.clipboard(granted=granted)
    chromium.open(path.as_uri())
    # The label changes once the browser has answered.
    changed = """new Promise(done => {
      const button = document.querySelector('[data-copy]');
      new MutationObserver(() => done(button.textContent)).observe(button, {childList: true});
      button.click();
    })"""
    assert chromium.evaluate(changed) == label
    command = chromium.evaluate("document.querySelector('[data-copy]').parentElement.querySelector('code').textContent")
    assert command.startswith("slipway ")
    assert chromium.evaluate(place).strip() == command.strip()


def test_catalog_without_script_shows_all_images_and_hides_search(site: Site, chromium: Browser) -> None:
    chromium.script(enabled=False)
    try:
        chromium.open((site.folder / "index.html").as_uri())
        assert shown(chromium) == ["evil", "registry.example.com/shop/queue", "web"]
        assert chromium.evaluate("document.querySelector('[data-search]').offsetParent === null")
    finally:
        chromium.script(enabled=True)


def test_catalog_content_security_policy_blocks_injected_script(site: Site, chromium: Browser, tmp_path: Path) -> None:
    text = (site.folder / "index.html").read_text()
    (tmp_path / "index.html").write_text(text.replace("</main>", "<script>document.title = 'owned'</script></main>"))
    chromium.open((tmp_path / "index.html").as_uri())
    assert "owned" not in chromium.evaluate("document.title")
    assert any("Content Security Policy" in message for message in chromium.messages)
    chromium.messages.clear()


def test_catalog_on_web_server_works_and_search_reads_its_index(site: Site, chromium: Browser) -> None:
    handler = functools.partial(_Quiet, directory=str(site.folder))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
        address = f"http://127.0.0.1:{port}"
        chromium.open(f"{address}/")
        assert len(shown(chromium)) == 3
        assert chromium.messages == []
        for place in (address, f"{address}/index.json", str(site.folder)):
            found = json.loads(site.run("search", "queue", "--index", place, "-o", "json").stdout)["hits"]
            assert [(hit["name"], hit["where"]) for hit in found if hit["where"] == place] == [("registry.example.com/shop/queue:2", place)]
        missing = site.run("search", "queue", "--index", f"{address}/none", check=False)
    assert (missing.returncode, "404" in missing.stderr) == (4, True)
    gone = site.run("search", "queue", "--index", address, check=False)
    assert (gone.returncode, "Traceback" in gone.stderr) == (4, False)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None: ...


def test_catalog_same_images_give_identical_files_in_other_process(site: Site) -> None:
    before = {path.relative_to(site.folder): path.read_bytes() for path in site.folder.rglob("*") if path.is_file()}
    folder = site.folder.parent
    site.run("catalog", "--to", site.folder, "--key", folder / "release.pub", "--readmes", folder / "readmes")
    assert {path.relative_to(site.folder): path.read_bytes() for path in site.folder.rglob("*") if path.is_file()} == before


@pytest.fixture
def pushed(site: Site, tmp_path: Path) -> Iterator[Registry]:
    """A registry with the images of the store that has web, with what is attached to them."""
    with registry(tmp_path / "registry") as running:
        for name in ("web:1.9", "web:1.10"):
            site.run("push", "--plain-http", name, f"{running.host}/shop/{name}")
        yield running


def test_catalog_of_registry_shows_attachments_without_fetching_layers(site: Site, pushed: Registry, tmp_path: Path) -> None:
    target = tmp_path / "site"
    words = ("catalog", "--to", target, "--plain-http", "--registry", f"{pushed.host}/shop", "--key", site.folder.parent / "release.pub")
    before = len(pushed.requests("GET", "blobs"))
    assert json.loads(site.run(*words, "-o", "json").stdout)["versions"] == 2
    beginning = pushed.host.replace(".", "-").replace(":", "-")
    text = page(target, f"{beginning}-shop-web-1-10")
    assert "signature verified" in text
    assert "--key PUBLISHER.pub --remote" in text
    assert text.count(">SBOM (JSON)</a>") == 1
    assert "Provenance (SLSA)" in text
    assert "redis:7.2" in Page(text).text
    part = cloudimage.read(site.store, "web:1.10").platforms[0]
    layers = {layer.digest for layer in part.layers} | {blob.digest for blob in part.images.blobs}
    asked = pushed.requests("GET", "blobs")[before:]
    assert not [path for path in asked if any(digest in path for digest in layers)]


def test_catalog_of_registry_compares_files_by_bills_of_materials(slipway: Slipway, tmp_path: Path) -> None:
    author, reader = Site(tmp_path / "author", slipway), Site(tmp_path / "reader", slipway)
    private, public = keys.create(tmp_path / "release", "")
    put(author.store, "web:1", [file("a", "1"), file("gone", "x"), file("same", "x")])
    put(author.store, "web:2", [file("a", "2"), file("new", "y"), file("same", "x")])
    put(author.store, "web:3", [file("a", "3")])
    with registry(tmp_path / "registry") as running:
        for name in ("web:1", "web:2", "web:3"):
            # As `publish` does: the last one without its bill.
            if name != "web:3":
                author.run("sbom", name, "--attach", "--key", private)
            author.run("push", "--plain-http", name, f"{running.host}/shop/{name}")
        words = ("catalog", "--to", reader.folder, "--plain-http", "--registry", f"{running.host}/shop")
        reader.run(*words, "--key", public)
        asked = running.requests("GET", "blobs")
        layers = {layer.digest for name in ("web:1", "web:2") for layer in cloudimage.read(author.store, name).platforms[0].layers}
        assert not [path for path in asked if any(digest in path for digest in layers)]
        beginning = running.host.replace(".", "-").replace(":", "-")
        text = Page(page(reader.folder, f"{beginning}-shop-web-2")).text
        assert "Files are compared as the attached bills of materials list them." in text
        for row in ("changed file a", "removed file gone", "added file new"):
            assert row in text
        assert "file same" not in text
        assert "Files were not compared, only layers." in Page(page(reader.folder, f"{beginning}-shop-web-3")).text


def test_catalog_of_stopped_registry_fails_and_keeps_former_site(site: Site, tmp_path: Path) -> None:
    with registry(tmp_path / "registry") as running:
        site.run("push", "--plain-http", "web:1.9", f"{running.host}/shop/web:1.9")
        words = ("catalog", "--to", tmp_path / "site", "--plain-http", "--registry", f"{running.host}/shop")
        site.run(*words)
    before = (tmp_path / "site/index.html").read_bytes()
    failed = site.run(*words, check=False)
    assert (failed.returncode, (tmp_path / "site/index.html").read_bytes()) == (4, before)
    assert [path.name for path in tmp_path.iterdir()].count("site") == 1
    assert not list(tmp_path.glob(".site*"))

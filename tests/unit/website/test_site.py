"""Whole sites: the same bytes each time, nothing of a stranger as HTML, links that lead to files."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest

from harness.cloudimage import BuiltHere, EmbeddedImage, ExpectedValue, History, ImageApp, ImageSet, Info, ProvingRun, ValueType
from harness.cloudimage.search import DESCRIPTION
from harness.cloudimage.site_index import SiteIndex
from harness.errors import StoreError, UsageError
from harness.oci.model import digest_of
from harness.oci.store import Store
from harness.website import folder, site
from harness.website.site import SiteRequest
from tests.unit.cloudimage.examples import file, platform_image, put, write
from tests.unit.website.examples import INFO, Page, no_demands, page, rendered, two_versions

EVIL = "</title></style><script>alert(1)</script><img src=x onerror=alert(1)>\" onload='alert(1)' \u202e\x1b[31m{{ 7*7 }}<!--"


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_site_of_same_images_has_same_bytes(store: Store, tmp_path: Path) -> None:
    two_versions(store)
    first, second = (content(rendered(store, tmp_path, name)) for name in ("one", "two"))
    assert first == second
    assert {"index.html", "index.json", "artifacthub/artifacthub-repo.yml"} <= set(first)


def test_site_relative_links_and_anchors_resolve(store: Store, tmp_path: Path) -> None:
    two_versions(store)
    made = rendered(store, tmp_path)
    seen = 0
    for path in made.rglob("*.html"):
        parsed = Page(path.read_text())
        ids = [attributes["id"] for _, attributes in parsed.elements if "id" in attributes]
        assert len(ids) == len(set(ids)), path
        for link in parsed.links():
            seen += 1
            assert link[1:] in ids if link.startswith("#") else (path.parent / link).is_file(), f"{path}: {link}"
    assert seen > 40


def test_site_front_page_lists_all_images_without_script(store: Store, tmp_path: Path) -> None:
    two_versions(store)
    front = Page((rendered(store, tmp_path, title="Our images") / "index.html").read_text())
    assert "2 cluster images in 4 versions" in front.text
    assert "web nginx and Redis behind Services latest Kubernetes v1.36.3 linux/amd64 linux/arm64" in front.text
    cards = [attributes for _, attributes in front.elements if "data-text" in attributes]
    assert ["redis:7.2" in str(card["data-text"]) for card in cards] == [False, True]
    assert not any("hidden" in card for card in cards)


def test_page_shows_values_changes_and_images_without_secrets(store: Store, tmp_path: Path) -> None:
    old, new = two_versions(store)
    text = Page(page(rendered(store, tmp_path), "web-1-10")).text
    embedded = new.platforms[0].images.images[1]
    for words in (
        "slipway run web:1.10 --control-plane 10.0.0.1 --workers 10.0.0.2,10.0.0.3 -e Port=VALUE",
        "Port required integer, at least 1 where the site listens used in manifests/web.yaml:7",
        "Token not shown secret",
        "Changes since 1.9",
        f"changed image docker.io/library/redis 7.0 {old.platforms[0].images.images[1].digest[7:19]} 7.2 {embedded.digest[7:19]}",
        "changed label version 1.9 1.10",
        f"{embedded.name}{embedded.digest}",
        new.digest,
        "COPY manifests manifests",
        "not signed",
    ):
        assert words in text
    assert "hunter22" not in text
    assert "hunter33" not in text


def test_site_files_omit_secrets_of_env_and_history(store: Store, tmp_path: Path) -> None:
    changed = dataclasses.replace(INFO, env={"DB_PASSWORD": "hunter44", "A": "1"})
    put(store, "web:1", [file("a")], info=INFO, history=("COPY a a", "ARG TOKEN=hunter33"))
    put(store, "web:2", [file("a")], info=changed, history=("COPY a a", "ARG TOKEN=hunter55"))
    data = b"".join(content(rendered(store, tmp_path)).values())
    assert re.findall(rb"hunter\d\d", data) == []
    assert b"(secret)" in data


def test_site_hostile_texts_are_never_html(store: Store, tmp_path: Path) -> None:
    digest = digest_of(b"x")
    info = Info(
        type="app",
        kubernetes=EVIL,
        runtime=EVIL,
        env={EVIL: EVIL},
        launch=(EVIL,),
        apps=(ImageApp(EVIL, EVIL),),
        labels={DESCRIPTION: EVIL, EVIL: EVIL, "org.opencontainers.image.url": "javascript:alert(1)"},
        base={"reference": EVIL, "digest": EVIL},
        kube_version=EVIL,
        converted_from={"tool": EVIL, "version": EVIL, "digest": digest},
        proven=ProvingRun({"reference": "web", "digest": digest}),
        values=(ExpectedValue("Port", (EVIL,), EVIL, False, False, EVIL, ValueType(enum=(EVIL,))),),
        merged_from=({"reference": EVIL, "digest": EVIL},),
    )
    part = platform_image(store)
    images = tuple(
        dataclasses.replace(one, found_by=(EVIL,), requested_by=(EVIL,) * 9, built=BuiltHere((EVIL,), EVIL)) for one in part.images.images
    )
    part = dataclasses.replace(
        part, info=info, images=dataclasses.replace(part.images, images=images), history=(History(EVIL), History(EVIL))
    )
    write(store, part, name="evil:2")
    put(store, "evil:1", [file("a")], [file(EVIL.replace("/", ""))], info=Info(labels={EVIL: "x"}))
    readmes = tmp_path / "readmes/evil"
    readmes.mkdir(parents=True)
    (readmes / "README.md").write_text(f"# {EVIL}\n\n{EVIL}\n\n[a](javascript:alert(1)) ![b](http://x/y)\n\n```{EVIL}\n{EVIL}\n```\n")
    made = rendered(store, tmp_path, title=EVIL, readmes=readmes.parent)
    for path in made.rglob("*.html"):
        text = path.read_text()
        parsed = Page(text)
        tags = [tag for tag, _ in parsed.elements]
        assert (tags.count("script"), tags.count("style"), tags.count("img")) == (1, 1, 0), path
        names = {name for _, attributes in parsed.elements for name in attributes}
        assert not {name for name in names if name.startswith("on")} | names & {"style", "srcdoc", "formaction"}
        assert all(link.startswith(("#", "../", "index", "images/", "evil-")) for link in parsed.links() if link != "http://x/y")
        assert "<!--" not in text
        assert "49" not in re.findall(r"\{\{.*?\}\}|\b49\b", parsed.text)
        assert not set("\u202e\x1b") & set(text)
    assert {path.name for path in made.rglob("*") if not re.fullmatch(r"[a-z0-9._-]+", path.name)} == set()


def test_site_index_json_lists_images_and_newest_version(store: Store, tmp_path: Path) -> None:
    _, new = two_versions(store)
    made = rendered(store, tmp_path, title="Ours")
    index = SiteIndex.parse((made / "index.json").read_bytes(), "index.json")
    assert [image.name for image in index.images] == ["registry.example.com/shop/queue", "web"]
    newest = index.images[1].versions[0]
    assert (index.title, newest.name, newest.digest, newest.size, newest.images) == ("Ours", "web:latest", new.digest, new.size, 2)
    assert (made / newest.page).is_file()


def test_site_damaged_image_is_left_out_with_reason(store: Store, tmp_path: Path) -> None:
    two_versions(store)
    broken = put(store, "broken:1", [file("b", b"of this image only")])
    store.path(broken.platforms[0].layers[0].digest).unlink()
    written = site.make(store, SiteRequest(tmp_path / "site"), no_demands)
    assert [(one.name, "missing" in one.reason) for one in written.left_out] == [("broken:1", True)]
    assert (written.images, written.versions) == (2, 4)
    assert "broken:1" in Page((tmp_path / "site/index.html").read_text()).text


def test_site_names_and_version_limit_select_pages_and_unknown_names_are_refused(store: Store, tmp_path: Path) -> None:
    two_versions(store)
    made = rendered(store, tmp_path, names=("web",), versions=2)
    assert sorted(path.name[:-18] for path in made.glob("images/*")) == ["web-1-10", "web-latest"]
    assert "1 older versions are not shown" in page(made, "web-latest")
    with pytest.raises(UsageError, match=r"wbe: no CloudImage.*; other: no"):
        rendered(store, tmp_path, names=("wbe", "web", "other"))


def test_site_of_empty_store_has_front_page(store: Store, tmp_path: Path) -> None:
    assert "No image has been published yet" in (rendered(store, tmp_path) / "index.html").read_text()


def test_site_full_disk_keeps_former_site(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    two_versions(store)
    made = rendered(store, tmp_path)
    before = content(made)
    put(store, "more:1", [file("m")])
    written: list[str] = []
    write_file = folder.write

    def refuse(place: Path, path: str, data: bytes) -> None:
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_file(place, path, data)

    monkeypatch.setattr(folder, "write", refuse)
    with pytest.raises(StoreError, match=r"site cannot be written: No space left"):
        rendered(store, tmp_path)
    assert content(made) == before
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("home", "site")] == []


def test_site_readme_is_shown_and_becomes_description_of_image(store: Store, tmp_path: Path) -> None:
    put(store, "registry.example.com/shop/queue:2", [file("a")])
    readme = tmp_path / "kubefiles/queue/README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("# queue\n\nA *broker*\nof messages.\n")
    made = rendered(store, tmp_path, readmes=tmp_path / "kubefiles")
    assert "<em>broker</em>" in page(made, "registry-example-com-shop-queue-2")
    assert json.loads((made / "index.json").read_text())["images"][0]["description"] == "A broker of messages."
    readme.write_bytes(b"\xff\xfe")
    assert "README" not in page(rendered(store, tmp_path, readmes=tmp_path / "kubefiles"), "registry-example-com-shop-queue-2")
    with pytest.raises(UsageError, match="no such folder"):
        rendered(store, tmp_path, readmes=tmp_path / "nothing")


def test_page_of_600_container_images_counts_unlisted_rest(store: Store, tmp_path: Path) -> None:
    part = platform_image(store)
    one = part.images.images[0]
    many = tuple(EmbeddedImage(f"x.io/i{number}:1", one.digest, one.media_type, one.size) for number in range(600))
    write(store, dataclasses.replace(part, images=ImageSet(many, part.images.blobs)), name="many:1")
    text = Page(page(rendered(store, tmp_path), "many-1")).text
    assert "600 container images" in text
    assert "and 100 more: slipway inspect shows all" in text

"""What pages show, piece by piece."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from harness.cloudimage import Info
from harness.oci.model import digest_of
from harness.oci.store import Store
from harness.website import pages
from tests.unit.cloudimage.examples import AMD64, ARM64, file, put
from tests.unit.website.examples import Page, page, rendered, two_versions


def test_page_policy_allows_inline_style_and_script_by_hash_only(store: Store, tmp_path: Path) -> None:
    two_versions(store)
    for path in rendered(store, tmp_path).rglob("*.html"):
        text = path.read_text()
        (policy,) = (str(one["content"]) for tag, one in Page(text).elements if one.get("http-equiv") == "Content-Security-Policy")
        for element in ("style", "script"):
            (inside,) = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            assert f"{element}-src 'sha256-{digest}';" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


def test_script_and_style_contain_no_closing_tag() -> None:
    for name in ("style.css", "site.js"):
        assert "</" not in (pages.TEMPLATES / name).read_text()


def test_page_paths_differ_ignoring_case(store: Store, tmp_path: Path) -> None:
    for tag in ("V1", "v1"):
        put(store, f"web:{tag}", [file("a", tag)])
    names = [path.name.lower() for path in rendered(store, tmp_path).glob("images/*")]
    assert len(set(names)) == 2


def test_page_of_application_shows_run_command_with_cluster(store: Store, tmp_path: Path) -> None:
    two_versions(store)
    text = Page(page(rendered(store, tmp_path), "registry-example-com-shop-queue-2")).text
    assert "slipway run registry.example.com/shop/queue:2 --cluster NAME" in text
    assert "for Kubernetes >=1.31" in text


def test_page_links_base_image_of_site(store: Store, tmp_path: Path) -> None:
    base = put(store, "kubernetes:1", [file("a")], info=Info(kubernetes="v1.36.3"))
    put(store, "web:1", [file("b")], info=Info(base={"reference": "kubernetes:1", "digest": base.digest}))
    put(store, "other:1", [file("c")], info=Info(base={"reference": "gone:1", "digest": digest_of(b"gone")}))
    made = rendered(store, tmp_path)
    linked = [link for link in Page(page(made, "web-1")).links() if link.startswith("kubernetes-1-")]
    assert len(linked) == 1
    assert "Built ongone:1" in Page(page(made, "other-1")).text


def test_page_change_of_all_platforms_is_one_row_and_of_one_names_platform(store: Store, tmp_path: Path) -> None:
    put(store, "web:1", [file("a", "1")], platforms=(AMD64, ARM64))
    put(store, "web:2", [file("a", "2")], platforms=(AMD64, ARM64))
    put(store, "web:3", [file("a", "3")], platforms=(AMD64,))
    made = rendered(store, tmp_path)
    assert Page(page(made, "web-2")).text.count("changed file") == 1
    text = Page(page(made, "web-3")).text
    assert "removed platform linux/arm64" in text
    assert "changed file a" in text


def test_page_long_label_is_cut(store: Store, tmp_path: Path) -> None:
    put(store, "web:1", [file("a")], info=Info(labels={"long": "x" * 5000}))
    text = Page(page(rendered(store, tmp_path), "web-1")).text
    assert "x... (3000 characters more)" in text

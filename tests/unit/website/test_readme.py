"""READMEs of strangers."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.website import readme


def test_render_markdown_becomes_html_with_lowered_headings() -> None:
    html = readme.render("# web\n\nA `b` *c*.\n\n- one\n- two\n\n```sh\nslipway run web\n```\n")
    assert "<h3>web</h3>" in html
    assert "<code>b</code> <em>c</em>" in html
    assert "<pre><code>slipway run web\n</code></pre>" in html


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a <img src=x onerror=alert(1)> b",
        "<div onclick=x>\n\ntext\n\n</div>",
        "[a](javascript:alert(1))",
        "[a](data:text/html,x)",
        "[a](//host/x)",
        "[a](../../x)",
        "[a][b]\n\n[b]: vbscript:x",
        "<javascript:alert(1)>",
        "[a](<java\nscript:x>)",
        "&lt;script&gt; &#60;script&#62;",
    ],
)
def test_render_hostile_markup_yields_no_html_picture_or_link(text: str) -> None:
    html = readme.render(text)
    assert not any(part in html for part in ("<script", "<img", "<div", "<a "))


def test_render_picture_becomes_link() -> None:
    html = readme.render("![a](http://x/y.png)")
    assert ("<img" in html, 'href="http://x/y.png"' in html) == (False, True)


def test_render_web_links_have_nofollow_noopener_noreferrer() -> None:
    html = readme.render("[a](https://example.com/?a=1&b='x') <http://example.com>")
    assert html.count('rel="nofollow noopener noreferrer"') == 2
    assert '<a href="https://example.com/?a=1&amp;b=\'x\'" rel="nofollow noopener noreferrer">a</a>' in html


def test_render_bidi_control_character_is_escaped() -> None:
    assert "\\u202e" in readme.render("a \u202e b")


def test_render_deep_nesting_output_is_bounded() -> None:
    assert len(readme.render("> " * 2000 + "a")) < 10_000_000
    assert len(readme.render("[" * 5000 + "]" * 5000)) < 10_000_000


def test_read_readme_outside_folder_or_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kubefiles/web").mkdir(parents=True)
    (tmp_path / "secret").write_text("secret")
    assert readme.read(tmp_path / "kubefiles", "web") == ""
    (tmp_path / "kubefiles/web/README.md").symlink_to("../../secret")
    with pytest.raises(StoreError):
        readme.read(tmp_path / "kubefiles", "web")
    (tmp_path / "kubefiles/web/README.md").unlink()
    (tmp_path / "kubefiles/web/README.md").write_text("x" * (readme.LIMIT + 1))
    with pytest.raises(StoreError, match="larger"):
        readme.read(tmp_path / "kubefiles", "web")
    assert readme.read(tmp_path / "kubefiles", "none") == ""


@pytest.mark.parametrize("address", ["", "ftp://x/y", "http://", "https:///x", "http://[x", "javascript:http://x", " http://x\n"])
def test_is_web_link_other_addresses_is_false(address: str) -> None:
    assert not readme.is_web_link(address)

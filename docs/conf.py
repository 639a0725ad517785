"""Configuration of Sphinx. ``nox -s docs`` builds the site with warnings as errors; nothing is fetched."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from docs import generated
from harness import about

project = "slipway"
author = "the slipway authors"
copyright = "the slipway authors; Apache License 2.0"  # noqa: A001 - Sphinx names it
release = about.version()

extensions = ["myst_parser"]
source_suffix = {".md": "markdown"}
root_doc = "index"
language = "en"

# Output of programs has no language.
highlight_language = "none"
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
suppress_warnings: list[str] = []

html_theme = "furo"
html_title = "slipway"
html_static_path = ["_static"]
html_css_files = ["slipway.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_theme_options = {
    "navigation_with_keys": True,
    "light_css_variables": {"color-brand-primary": "#0b5c7a", "color-brand-content": "#0b5c7a"},
    "dark_css_variables": {"color-brand-primary": "#6cc7e6", "color-brand-content": "#6cc7e6"},
}

man_pages = [("reference/cli", "slipway", "builds, tests, shares and runs cluster images", [author], 1)]


def make_chinese(app: Any, page: str, _template: str, context: dict[str, Any], _doctree: Any) -> None:
    """Give a page below ``zh/`` its language, and a sidebar that lists the Chinese pages."""

    def sidebar(**options: Any) -> str:
        toctrees = app.env.get_doctree("zh/index").findall(lambda node: node.tagname == "toctree")
        lists = (app.env.resolve_toctree(page, app.builder, toctree, **options) for toctree in toctrees)
        return "".join(app.builder.render_partial(entries)["fragment"] for entries in lists)

    if page.startswith("zh/"):
        context.update(language="zh-CN", master_doc="zh/index", toctree=sidebar)


def setup(app: Any) -> None:
    """Replace the marks ``<!-- generated: NAME -->`` of a page by what the program says, and give Chinese pages their frame."""
    app.connect("source-read", lambda _app, _name, source: source.__setitem__(0, generated.fill(source[0])))
    app.connect("html-page-context", make_chinese, priority=100)  # before the theme's, which reads what this one sets

"""The documents: every command line in them is one that the program takes, and what they list is what there is.

That the site builds, and that its links lead somewhere, is the business of the session ``docs``.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from nox import registry

import noxfile
from docs import generated, links
from harness import cloudimage, errors
from harness.cli.root import app
from harness.clusterfile import Phase
from harness.kubefile.instructions import USAGE
from harness.oci import model
from harness.oci.archive import index
from tests.unit import sources

PROJECT = Path(__file__).parents[2]
PAGES = {
    str(path.relative_to(PROJECT)): path.read_text()
    for path in sorted([*(PROJECT / "docs").rglob("*.md"), *PROJECT.glob("*.md"), *(PROJECT / "kubefiles").glob("*/README.md")])
}
SITE = {name: text for name, text in PAGES.items() if name.startswith("docs/")}
fill = functools.cache(generated.fill)
WORD = re.compile(r"[A-Z][A-Z-]*")
"""A placeholder, as NAME or IMAGE."""


# Command lines


def code(text: str) -> Iterator[tuple[str, bool]]:
    """Lines of fenced blocks, and what stands in backquotes in the text; whether it is a whole command."""
    parts = re.split(r"^```[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    for number, part in enumerate(parts):
        if number % 2:
            yield from ((line, True) for line in part.replace("\\\n", " ").splitlines())
        else:
            yield from ((words.replace("\n", " "), False) for words in re.findall(r"`([^`]+)`", part))


def commands(program: str) -> Iterator[tuple[str, list[str], bool]]:
    """The command lines of a program in all pages: page, its words, whether it is whole."""
    for page, text in PAGES.items():
        for line, whole in code(text):
            bare = line.strip().removeprefix("$ ")
            if bare.startswith(f"{program} ") and not bare.startswith(f"{program}: "):
                words = shlex.split(re.split(r"\s[|>]\s|\s< ", bare)[0], comments=True)
                yield page, words[1:], whole


@functools.cache
def root() -> Any:
    return typer.main.get_command(app)


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words name, and the words that are left. Raises LookupError for one that does not exist."""
    command, rest = root(), list(words)
    while hasattr(command, "commands") and rest and rest[0] not in ("-h", "--help"):
        child = command.commands.get(rest[0])
        if child is None and "list" not in command.commands:
            raise LookupError(rest[0])
        # `slipway certs shop` is `slipway certs list shop`.
        command, rest = (child, rest[1:]) if child else (command.commands["list"], rest)
    return command, rest


def options(command: Any) -> set[str]:
    """Options of a verb and of the program, with the spellings of other tools; no old ones."""
    aliases = {spelling for spelling, (_, is_old) in getattr(command, "renamed", {}).items() if not is_old}
    own = {name for parameter in (*command.params, *root().params) for name in (*parameter.opts, *parameter.secondary_opts)}
    return own | aliases | {"-h", "--help"}


def fault(words: list[str], *, whole: bool) -> str:
    """What is wrong with a command line of slipway; nothing when the program takes it."""
    if words and (words[0].startswith("-") or WORD.fullmatch(words[0])):  # options of the program, or a placeholder for a verb
        words = next((words[place:] for place, word in enumerate(words) if word in root().commands), [])
    if not words:
        return ""
    try:
        command, rest = resolve(words)
    except LookupError as missing:
        return f"there is no command {missing}"
    given = rest[: rest.index("--")] if "--" in rest else rest
    unknown = [word for word in given if re.match(r"--?[a-z]", word) and word.partition("=")[0] not in options(command)]
    if unknown:
        return f"has no option {unknown[0]}"
    if whole and "..." not in rest:
        try:
            command.make_context("slipway", list(rest))
        except Exception as wrong:
            return str(wrong) or type(wrong).__name__
    return ""


def test_docs_command_lines_are_accepted_by_program() -> None:
    found = list(commands("slipway"))
    assert len(found) > 150
    assert [f"{page}: slipway {shlex.join(words)}: {wrong}" for page, words, whole in found if (wrong := fault(words, whole=whole))] == []


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("build -t web kubefiles/web", ""),
        ("--verbose build web", ""),
        ("certs shop", ""),
        ("exec shop -- uptime --pretty", ""),
        ("bild web", "no command bild"),
        ("build --tagg web kubefiles/web", "no option --tagg"),
        ("build --timeout soon web", "valid number"),
        ("tag web", "NAMES"),
    ],
)
def test_docs_invalid_command_line_is_reported(line: str, wrong: str) -> None:
    assert wrong.lower() in fault(shlex.split(line), whole=True).lower()
    assert bool(wrong) == bool(fault(shlex.split(line), whole=True))


def sessions() -> dict[str, Any]:
    return dict(registry.get())


def test_docs_named_sessions_and_rings_exist() -> None:
    named = list(commands("./nox"))
    assert len(named) > 20
    for page, words, _ in named:
        if words[0] != "-s":
            continue
        given = words[1 : words.index("--")] if "--" in words else words[1:]
        assert set(given) <= set(sessions()), f"{page}: ./nox {shlex.join(words)}"
        if given == ["tests"] and "--" in words:
            rings = {word for word in words[words.index("--") + 1 :] if not WORD.fullmatch(word)} - {"--coverage"}
            assert rings <= set(noxfile.RINGS), f"{page}: ./nox {shlex.join(words)}"


# Lists


def cells(page: str, column: int = 0) -> set[str]:
    """What stands in backquotes in a column of the tables of a page."""
    rows = [re.split(r"(?<!\\)\|", line) for line in PAGES[page].splitlines() if line.startswith("| ")]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row[column + 1])}


def test_sessions_page_lists_all_sessions_and_rings() -> None:
    listed = cells("docs/reference/sessions.md")
    assert {word.split()[2] for word in listed if word.startswith("./nox -s")} == set(sessions())
    assert {word for word in listed if not word.startswith("./nox")} == set(noxfile.RINGS)


def test_build_page_lists_existing_options_of_build() -> None:
    listed = {word.split()[0] for word in cells("docs/guides/build.md") if word.startswith("--")}
    assert len(listed) > 4
    assert listed <= options(root().commands["build"])


def test_exit_codes_page_lists_all_codes() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SlipwayError)]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGES["docs/reference/exit-codes.md"], re.MULTILINE)}
    assert listed == {0, 130, *(kind.exit_code for kind in kinds)}


def test_configuration_page_lists_all_environment_variables() -> None:
    source = "".join(path.read_text() for path in sorted((PROJECT / "harness").rglob("*.py")))
    read = set(re.findall(r"environ(?:\.get\(|\[)\"((?:SLIPWAY|DOCKER|SSL|KUBE)\w+)\"", source))
    handed_on = {"SLIPWAY_KEY_PASSWORD"}  # read through a list of names
    listed = {word for word in cells("docs/reference/configuration.md") if word.isupper()}
    assert read | handed_on <= listed
    assert {word for word in listed if word.startswith("SLIPWAY_")} == {word for word in read | handed_on if word.startswith("SLIPWAY_")}


def test_kubefile_page_lists_all_instructions() -> None:
    listed = {word.split()[0] for word in cells("docs/reference/kubefile.md") if word.split()[0].isupper()}
    assert set(USAGE) <= listed


def test_format_page_lists_all_fields_annotations_and_media_types() -> None:
    built = cloudimage.BuiltHere(("a",), "images/a")
    run = cloudimage.ProvingRun({"reference": "a", "digest": "b"}, "c", 1)
    expected = cloudimage.ExpectedValue("A", type=cloudimage.ValueType("number", "a", ("1",), 1, 2))
    values = (
        cloudimage.Info(converted_from={"tool": "sealer"}, proven=run, values=(expected,)).to_json(),
        run.to_json(),
        expected.to_json(),
        cloudimage.ImageApp("a", "kube").to_json(),
        cloudimage.EmbeddedImage("a", "b", "c", 1, built=built).to_json(),
        built.to_json(),
        cloudimage.Blob("a", "b", 1).to_json(),
        cloudimage.ImageSet().to_json(),
    )
    words = {cloudimage.KIND, cloudimage.INFO, cloudimage.IMAGESET_CONFIG, cloudimage.BLOB, index.SINCE, index.PLATFORMS}
    words |= {model.OCI_INDEX, model.OCI_MANIFEST, model.OCI_CONFIG, model.OCI_LAYER_GZIP, model.OCI_LAYER_ZSTD, model.EPOCH}
    words |= {key for value in values for key in value}
    assert [word for word in sorted(words) if f"`{word}`" not in PAGES["docs/format.md"]] == []


def test_generated_pages_list_all_commands_and_hook_phases() -> None:
    text = fill(PAGES["docs/reference/cli.md"])
    assert {name for name, _ in generated.commands()} == set(re.findall(r"^## (slipway.*)$", text, re.MULTILINE))
    clusterfile = fill(PAGES["docs/reference/clusterfile.md"])
    assert [phase.value for phase in Phase if f"`{phase.value}`" not in clusterfile] == []
    assert "<!-- generated" not in text + clusterfile


def test_docs_named_project_paths_exist() -> None:
    roots = ("harness/", "tests/", "docs/", "images/", "kubefiles/", ".github/")
    for page, text in SITE.items():
        for word, whole in code(text):
            foreign = page.endswith("guides/from-sealos.md") or re.search(r"\b[A-Z]{4,}\b", word)  # a placeholder
            if not whole and not foreign and re.fullmatch(r"[\w./-]+", word) and word.startswith(roots):
                assert (PROJECT / word).exists(), f"{page}: {word}"


def named_tests(text: str) -> list[tuple[str, str]]:
    """Every ``path::name`` in backquotes: path of a file of tests, name."""
    return [(path, name) for path, separator, name in (word.partition("::") for word in re.findall(r"`([^`]+)`", text)) if separator]


def missing_tests(text: str) -> list[str]:
    """The tests that a text names and that no function of their file is called after."""
    missing = []
    for path, name in named_tests(text):
        exists = re.fullmatch(r"tests/[\w/]+/test_\w+\.py", path) and (PROJECT / path).is_file()
        functions = {node.name for node in sources.tree(PROJECT / path).body if isinstance(node, ast.FunctionDef)} if exists else set()
        if not name.startswith("test_") or name not in functions:
            missing.append(f"{path}::{name}")
    return missing


def test_threats_page_names_existing_tests() -> None:
    page = PAGES["docs/contributing/threats.md"]
    assert len(set(named_tests(page))) >= 60
    assert missing_tests(page) == []
    defended, separator, _ = page.partition("\n## Not defended\n")
    rows = [line for line in defended.splitlines() if line.startswith("| ") and line != "| threat | what slipway does | test |"]
    assert separator
    assert [row for row in rows if not named_tests(row)] == []


@pytest.mark.parametrize(
    "named",
    [
        "tests/unit/test_docs.py::test_absent",
        "tests/unit/test_docs.py::named_tests",
        "tests/unit/test_docs.py::test_threats_page_names_existing_tests[a]",
        "tests/unit/test_absent.py::test_threats_page_names_existing_tests",
        "unit/test_docs.py::test_threats_page_names_existing_tests",
    ],
)
def test_threats_page_missing_test_is_reported(named: str) -> None:
    assert missing_tests(f"| a | b | `tests/unit/test_docs.py::test_threats_page_names_existing_tests`, `{named}` |") == [named]


def test_readme_is_short_and_shows_two_nox_commands() -> None:
    text = PAGES["README.md"]
    assert len(text.splitlines()) <= 150
    assert re.findall(r"^```\n(\./nox .*)\n```", text, re.MULTILINE) == ["./nox -s build-image test-image -- web", "./nox -s tests"]


def test_docs_never_install_package_of_other_project() -> None:
    for page, text in PAGES.items():
        assert not re.search(r"pip3? install (?:-\S+ )*slipway(?![-/\w])", text), page


# Translations


CHINESE = {page: page.replace("docs/zh/", "docs/") for page in SITE if page.startswith("docs/zh/")}
"""Every Chinese page, and the English page that it translates."""


def kept(text: str) -> tuple[list[str], set[str], list[str]]:
    """What a translation keeps: lines of code without their comments, words in backquotes, levels of headings."""
    bare = re.sub(r"^```\{.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)  # directives hold prose
    parts = list(code(bare))
    lines = [re.sub(r"\s+# .*", "", line) for line, whole in parts if whole]
    levels = re.findall(r"^#+(?= )", re.sub(r"^```.*?^```$", "", bare, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return lines, {words for words, whole in parts if not whole}, levels


def linked(page: str) -> set[str]:
    """The files that a page links to, by their paths in the project."""
    return {os.path.normpath(Path(page).parent / address) for address in re.findall(r"\]\(([^)#\s]+)", PAGES[page])}


def test_translation_covers_quick_start_concepts_and_guides() -> None:
    guides = {page for page in SITE if page.startswith("docs/guides/")}
    assert set(CHINESE.values()) == {"docs/index.md", "docs/quick-start.md", "docs/concepts.md", *guides}


@pytest.mark.parametrize("page", CHINESE)
def test_translation_matches_current_english_page(page: str) -> None:
    source = CHINESE[page]
    mark = f"<!-- translates: {hashlib.sha256(PAGES[source].encode()).hexdigest()[:12]} -->"
    assert mark in PAGES[page], f"{source} changed: translate the change, then write {mark} into {page}"
    assert kept(PAGES[page]) == kept(PAGES[source])


@pytest.mark.parametrize("page", CHINESE)
def test_translation_and_english_page_link_to_each_other_only(page: str) -> None:
    assert linked(page) & set(CHINESE.values()) == {CHINESE[page]}
    assert linked(CHINESE[page]) & set(CHINESE) == {page}


# Links of files that are read without being built


def slug(heading: str) -> str:
    """The anchor that GitHub and MyST give a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(text: str) -> set[str]:
    bare = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", bare, re.MULTILINE)} | set(
        re.findall(r"^\(([\w-]+)\)=$", bare, re.MULTILINE)
    )


def test_docs_relative_links_and_anchors_resolve() -> None:
    wrong = []
    for page, text in PAGES.items():
        bare = re.sub(r"^```.*?^```", "", fill(text), flags=re.MULTILINE | re.DOTALL)
        for address in re.findall(r"\]\(([^)\s]+)\)", bare):
            path, _, fragment = address.partition("#")
            if "://" in path:
                continue
            target = (PROJECT / page).parent / path if path else PROJECT / page
            if not target.exists() or (fragment and target.suffix == ".md" and fragment not in anchors(fill(target.read_text()))):
                wrong.append(f"{page}: {address}")
    assert wrong == []


def test_link_faults_of_built_site_are_reported(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="b.html#here"></a><a href="#top"></a><a href="https://example.com"></a>')
    (tmp_path / "b.html").write_text('<a href="c.html"></a><a href="a.html#gone"></a><script src="https://example.com/x.js"></script>')
    assert [line.partition(": ")[2] for line in links.faults(tmp_path)] == [
        "b.html#here: there is no such anchor",
        "c.html: there is no such file",
        "a.html#gone: there is no such anchor",
        "https://example.com/x.js: is loaded from elsewhere",
    ]


def test_generated_clusterfile_page_shows_types_as_words() -> None:
    shown = "\n".join(generated.clusterfile())
    assert "`spec.hosts[].ips`\n: *text or list of text.* Addresses" in shown
    assert "`spec.image`\n: *text or list of text, required.*" in shown
    assert "or .*" not in shown

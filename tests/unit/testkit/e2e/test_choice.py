"""Which specs run, and which cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.build import image_context
from harness.build.definitions import Definition, definitions
from harness.errors import InputError, UsageError
from harness.host.gotools import numbers
from harness.oci.reference import Reference
from harness.testkit.e2e import choice, suite
from harness.testkit.e2e.choice import CONFORMANCE, Hindrance, SpecChoice

PROJECT = Path(__file__).parents[4]
FOLDERS = sorted(path.parent for path in (PROJECT / "kubefiles/conformance").glob("*/imageList"))
SUITES = image_context.versions(PROJECT / "images/conformance")
DNS, NAMES = "[sig-network] DNS should (really) work [Conformance]", "[sig-node] Pods a.b+c? {x} | ^y$ [Conformance]"


def specs(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "specs.txt"
    path.write_text(text)
    return path


def matches(focus: str, name: str) -> bool:
    """As ginkgo looks: anywhere in the text of the suite and the spec. These expressions mean the same in Go and in Python."""
    return re.search(focus, f"Kubernetes e2e suite {name}") is not None


def test_choice_of_file_matches_its_specs_only(tmp_path: Path) -> None:
    chosen = SpecChoice.of_file(specs(tmp_path, f"# why\n\n{DNS}\n  {NAMES}\n"))
    assert chosen.names == (DNS, NAMES)
    assert all(matches(chosen.focus, name) for name in (DNS, NAMES))
    assert not any(matches(chosen.focus, name) for name in (f"{DNS} [Slow]", DNS.replace("(really)", "really"), "other", f"x{DNS}"))
    assert chosen.described == "the 2 specs of specs.txt"


def test_choice_full_matches_conformance_tag_only() -> None:
    assert matches(SpecChoice.full().focus, DNS)
    assert not matches(SpecChoice.full().focus, "[sig-node] Pods [NodeConformance]")


def test_choice_of_file_reports_every_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        SpecChoice.of_file(specs(tmp_path, f"{DNS}\n{DNS}\na\u202eb\n"))
    assert [fault.where.rpartition("/")[2] for fault in caught.value.faults] == ["specs.txt:2", "specs.txt:3"]
    assert "line 1 names this spec as well" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"), [("# nothing\n", "names no spec"), ("\n".join(f"{i:0100d}" for i in range(1500)), "too many")]
)
def test_choice_of_empty_or_huge_file_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        SpecChoice.of_file(specs(tmp_path, text))


def test_choice_of_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        SpecChoice.of_file(tmp_path / "none")


@pytest.mark.parametrize("focus", ["", " ", "a\nb", "a\x1b[1m", "a" * 200_000])
def test_choice_odd_focus_is_refused(focus: str) -> None:
    with pytest.raises(UsageError, match="--focus"):
        SpecChoice.matching(focus)


def test_hindered_specs_are_those_of_absent_images() -> None:
    entries = (Hindrance("a:1", "not here", ("x", "y")), Hindrance("b:1", "too large", ("z",)))
    assert choice.hindered(entries, {"b:1"}) == {"x": "a:1: not here", "y": "a:1: not here"}
    assert choice.hindered(entries, {"a:1", "b:1"}) == {}


@pytest.mark.parametrize(
    "text", ["a: b", "- a", "- {image: a, reason: b}", "- {image: a, reason: b, specs: []}", "- {image: a, reason: b, specs: [1]}"]
)
def test_hindrances_odd_file_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError):
        choice.hindrances(specs(tmp_path, text))


def test_hindrances_without_file_are_none_and_missing_one_is_refused(tmp_path: Path) -> None:
    assert choice.hindrances(None) == ()
    with pytest.raises(UsageError, match="No such file"):
        choice.hindrances(tmp_path / "none")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_lists_of_project_name_ten_smoke_specs_and_absent_images(folder: Path) -> None:
    smoke = choice.names_in(folder / "smoke.txt")
    assert len(smoke) == 10
    entries = choice.hindrances(folder / "unavailable.yaml")
    listed = (folder / "imageList").read_text().split()
    assert [entry.image for entry in entries if entry.image in listed] == []
    hindered = choice.hindered(entries, listed)
    assert not set(hindered) & set(smoke)
    assert all(CONFORMANCE in name for name in (*smoke, *hindered))


def compiled_from(known: tuple[Definition, ...], name: str) -> tuple[str, ...] | None:
    """Go modules that an image of the project is compiled from; None when images/ does not build it."""
    reference = Reference.parse(name)
    matched = ((one, arguments) for one in known if (arguments := one.match(reference)) is not None)
    contexts = [context for one, arguments in matched if (context := one.context(arguments)) is not None]
    return contexts[0].modules if contexts else None


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_lists_of_project_name_images_that_are_built_from_that_version(folder: Path) -> None:
    """The registry of the tests may be out of reach, and agnhost of a version knows what the tests of that version ask of it."""
    known = definitions(PROJECT / "images")
    (version,) = [one for one in SUITES if one.startswith(f"v{folder.name}.")]
    listed = (folder / "imageList").read_text().split()
    built = {name: compiled_from(known, name) for name in (*listed, f"{suite.RUNNER_IMAGE}:{version}")}
    assert [name for name, modules in built.items() if modules is None] == []
    assert built[f"{suite.RUNNER_IMAGE}:{version}"] == (f"k8s.io/kubernetes@{version}",)
    assert (f"k8s.io/kubernetes@{version}",) in [modules for name, modules in built.items() if "/agnhost:" in name]


def test_lists_of_project_default_is_newest_version_with_lists() -> None:
    minors = sorted((folder.name for folder in FOLDERS), key=numbers)
    lines = (PROJECT / "kubefiles/conformance/Kubefile").read_text().splitlines()
    assert [line for line in lines if "ARG" in line or "one of" in line] == [
        f"ARG VERSION={SUITES[-1]}", f"# one of: {' '.join(minors)}", f"ARG MINOR={minors[-1]}",
    ]  # fmt: skip
    assert SUITES[-1].startswith(f"v{minors[-1]}.")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_broad_list_of_project_has_smoke_specs_and_every_group_without_slow_ones(folder: Path) -> None:
    broad = choice.names_in(folder / "broad.txt")
    assert len(broad) >= 100
    assert set(choice.names_in(folder / "smoke.txt")) <= set(broad)
    assert {name.partition("]")[0].removeprefix("[sig-") for name in broad} == {
        *("api-machinery", "apps", "architecture", "auth", "cli", "instrumentation", "network", "node", "scheduling", "storage"),
    }
    assert not [name for name in broad if "[Slow]" in name or CONFORMANCE not in name]
    assert not set(broad) & set(choice.hindered(choice.hindrances(folder / "unavailable.yaml"), ()))

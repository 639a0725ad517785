from __future__ import annotations

from pathlib import Path

import pytest

from harness import catalog
from harness.errors import UsageError


def made(root: Path, **kubefiles: str) -> Path:
    """A folder kubefiles/ with these, by name."""
    for name, text in kubefiles.items():
        folder = root / "kubefiles" / name.replace("_", "-")
        folder.mkdir(parents=True)
        (folder / "Kubefile").write_text(text)
    return root / "kubefiles"


def names(entries: tuple[catalog.CatalogEntry, ...]) -> list[str]:
    return [entry.name for entry in entries]


def test_order_base_images_precede_dependent_image(tmp_path: Path) -> None:
    entries = catalog.find(made(tmp_path, app="FROM middle\n", base="FROM scratch\n", middle="FROM base:latest\n", other="FROM scratch\n"))
    assert names(catalog.order(entries, ["app"])) == ["base", "middle", "app"]


def test_order_and_select_without_names_return_all_entries(tmp_path: Path) -> None:
    entries = catalog.find(made(tmp_path, a="FROM z\n", b="FROM z\n", z="FROM scratch\n"))
    assert names(catalog.order(entries)) == ["z", "a", "b"]
    assert names(catalog.select(entries, [])) == ["a", "b", "z"]


def test_select_repeated_name_is_selected_once(tmp_path: Path) -> None:
    entries = catalog.find(made(tmp_path, app="FROM base\n", base="FROM scratch\n"))
    assert names(catalog.select(entries, ["app", "app"])) == ["app"]


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("FROM base", "base"),
        ("# syntax\n\nfrom --platform=linux/arm64 base:latest\n", "base"),
        ("FROM docker.io/library/base:latest", "base"),
        ("ARG BASE=base\nFROM ${BASE}", "base"),
        ("ARG BASE\nFROM ${BASE:-base}", "base"),
        ("ARG BASE=base\nFROM $BASE:latest", "base"),
        ("FROM base:v1.36.3", None),
        ("FROM registry.example/base", None),
        ("FROM scratch", None),
        ("COPY . .", None),
    ],
)
def test_find_base_with_local_name_is_needed_and_other_base_is_not(tmp_path: Path, text: str, needs: str | None) -> None:
    assert catalog.find(made(tmp_path, app=text, base="FROM scratch"))["app"].needs == needs


def test_order_unknown_names_are_all_reported_with_nearest(tmp_path: Path) -> None:
    entries = catalog.find(made(tmp_path, web="FROM scratch", mysql_cluster="FROM scratch"))
    with pytest.raises(UsageError) as caught:
        catalog.order(entries, ["wbe", "mysql-clutser", "web", "zzz"])
    assert "wbe" in caught.value.message
    assert "zzz" in caught.value.message
    assert "did you mean web, mysql-cluster?" in str(caught.value)


def test_order_kubefiles_built_from_each_other_are_refused(tmp_path: Path) -> None:
    entries = catalog.find(made(tmp_path, a="FROM b", b="FROM c", c="FROM a"))
    with pytest.raises(UsageError, match=r"built from each other: a -> b -> c -> a"):
        catalog.order(entries)


def test_order_image_built_from_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a -> a"):
        catalog.order(catalog.find(made(tmp_path, a="FROM a")))


def test_entry_has_summary_tests_and_reference(tmp_path: Path) -> None:
    root = made(tmp_path, web="FROM scratch")
    (root / "web" / "README.md").write_text("# web\n\nnginx and Redis\nbehind Services.\n\nMore.\n")
    (root / "web" / "test_web.py").write_text("")
    (root / "web" / "helper.py").write_text("")
    entry = catalog.find(root)["web"]
    assert entry.summary == "nginx and Redis behind Services."
    assert [path.name for path in entry.tests] == ["test_web.py"]
    assert entry.reference == "web:latest"
    assert entry.to_json()["from"] == "scratch"


def test_find_folder_without_kubefile_is_skipped(tmp_path: Path) -> None:
    root = made(tmp_path, web="FROM scratch")
    (root / "notes").mkdir()
    assert list(catalog.find(root)) == ["web"]


def test_find_project_without_kubefiles_is_refused_with_expected_path(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"kubefiles/<name>/Kubefile"):
        catalog.find(tmp_path / "kubefiles")


def test_order_of_project_kubefiles_puts_bases_first() -> None:
    entries = catalog.find(Path(__file__).parents[2] / "kubefiles")
    order = names(catalog.order(entries))
    assert set(order) == set(entries)
    assert all(order.index(entry.needs) < order.index(entry.name) for entry in entries.values() if entry.needs)

"""A new repository of images: its files, the origin of slipway in it, and what is refused."""

from __future__ import annotations

import json
import os
import re
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from harness import catalog
from harness.build import new_repository
from harness.build.new_repository import Origin
from harness.errors import InputError, StoreError, UsageError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GIT = f"git+https://git.example/team/slipway.git@{COMMIT}"
ORIGIN = Origin(GIT, f"team/slipway@{COMMIT}")
PROJECT = Path(__file__).parents[3]


def test_create_writes_repository_that_catalogue_reads(tmp_path: Path) -> None:
    made = new_repository.create(tmp_path / "deep/web-shop", "web-shop", ORIGIN)
    folder = tmp_path / "deep/web-shop"
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(made.files)
    assert os.listdir(folder.parent) == ["web-shop"]  # noqa: PTH208
    entry = catalog.find(folder / "kubefiles", bases=PROJECT / "kubefiles")["web-shop"]
    assert (entry.needs, entry.summary[:20]) == ("kubernetes", "A page on every node")
    assert [path.name for path in entry.tests] == ["test_web_shop.py"]
    texts = {name: (folder / name).read_text() for name in made.files}
    assert not [name for name, text in texts.items() if re.search(r"@(?:NAME|MODULE|SOURCE|WORKFLOWS|REF)@", name + text)]
    assert f"slipway-cluster @ {GIT}\n" in texts["requirements.txt"]
    assert texts["nox"] == (PROJECT / "nox").read_text()
    assert texts["nox.lock"] == (PROJECT / "sessions.lock").read_text()
    assert "On GitHub, `.github/workflows/images.yml` tests every change" in texts["README.md"]
    assert os.access(folder / "nox", os.X_OK)
    assert not os.access(folder / "noxfile.py", os.X_OK)


def test_create_sample_image_is_one_text(tmp_path: Path) -> None:
    """Its Kubefile, manifest, Dockerfile and tests agree on the names and ports."""
    folder = new_repository.create(tmp_path / "shop", "shop", ORIGIN).folder
    kubefile, manifest = (folder / "kubefiles/shop/Kubefile").read_text(), (folder / "kubefiles/shop/manifests/shop.yaml").read_text()
    assert "manifests/shop.yaml" in kubefile
    assert {"Port", "Greeting"} == set(re.findall(r"\{\{ (\w+) \}\}", manifest)) == set(re.findall(r"(\w+)=", kubefile))
    documents = list(yaml.safe_load_all(manifest.replace("{{ Port }}", "30080").replace("{{ Greeting }}", "Hello")))
    (container,) = documents[-1]["spec"]["template"]["spec"]["containers"]
    assert f"# image: {container['image']}\n" in (folder / "images/shop/Dockerfile").read_text()
    # Its tests hold for every value of the port.
    assert "30080" not in (folder / "kubefiles/shop/test_shop.py").read_text()


def test_create_workflow_calls_those_of_slipway_by_commit(tmp_path: Path) -> None:
    folder = new_repository.create(tmp_path / "shop", "shop", ORIGIN).folder
    jobs = yaml.safe_load((folder / new_repository.WORKFLOW).read_text())["jobs"]
    assert {job["uses"] for job in jobs.values()} == {f"team/slipway/.github/workflows/{name}.yml@{COMMIT}" for name in ("image", "site")}
    for job in jobs.values():
        called = yaml.safe_load((PROJECT / ".github/workflows" / Path(job["uses"].partition("@")[0]).name).read_text())
        wanted = called[True]["workflow_call"]
        assert set(job.get("with", {})) <= set(wanted["inputs"])
        assert set(job.get("secrets", {})) <= set(wanted["secrets"])
        # A called workflow may do no more than its caller grants.
        granted: dict[str, str] = job["permissions"]
        asked = {name: level for one in called["jobs"].values() for name, level in one["permissions"].items()}
        assert granted == asked


def test_create_without_workflows_writes_no_workflow(tmp_path: Path) -> None:
    made = new_repository.create(tmp_path, "shop", Origin("file:///srv/slipway"))
    assert new_repository.WORKFLOW not in made.files
    assert not (tmp_path / ".github").exists()
    assert "GitHub" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("name", ["", "Shop", "1shop", "shop_", "shop-", "a" * 41, "sh.op", "shop\n", "../shop", "@SOURCE@"])
def test_create_name_that_no_service_can_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError):
        new_repository.create(tmp_path / "x", name, ORIGIN)
    assert list(tmp_path.iterdir()) == []


def test_create_folder_with_files_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    for folder in (tmp_path, tmp_path / "notes", link):
        with pytest.raises(UsageError, match="exists and is not an empty folder"):
            new_repository.create(folder, "shop", ORIGIN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "notes"]


def test_create_disk_that_refuses_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match="No space left on device"):
        new_repository.create(tmp_path / "shop", "shop", ORIGIN)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "workflows"),
    [
        (GIT, f"team/slipway@{COMMIT}"),
        ("git+https://git.example/slipway@v1", ""),
        ("git+https://git.example/a/b/slipway@v1", ""),
        ("git+ssh://git@git.example/team/slipway.git@v1", "team/slipway@v1"),
    ],
)
def test_origin_of_git_address_names_workflows_of_owner_and_repository(source: str, workflows: str) -> None:
    assert new_repository.origin(source, None) == Origin(source, workflows)
    assert new_repository.origin(source, "other/place@v2").workflows == "other/place@v2"


@pytest.mark.parametrize(
    "source",
    [
        "slipway",
        "git+https://git.example/team/slipway",
        "git+https://user:sesame@git.example/team/slipway@v1",
        "git+https://git.example/team/slipway@v1 --index-url https://other.example",
        "git+https://git.example/team/slipway@v1\nother",
        "git+http://git.example/team/slipway@v1",
        "git+file:///srv/git/slipway@v1",
        "git+https://git.example/team/slipway@-x",
        "https://git.example/team/slipway",
        "/nowhere",
    ],
)
def test_origin_source_that_is_not_an_address_is_refused_without_its_password(source: str) -> None:
    with pytest.raises(InputError) as refused:
        new_repository.origin(source, None)
    assert "sesame" not in str(refused.value)


@pytest.mark.parametrize("workflows", ["slipway", "team/slipway", "team/slipway@", "a/b/c@v1", "team/slipway@v1 x", "team/slipway@v1\nx"])
def test_origin_workflows_that_are_not_a_repository_are_refused(workflows: str) -> None:
    with pytest.raises(InputError):
        new_repository.origin(GIT, workflows)


def test_origin_of_checkout_is_its_address() -> None:
    found = new_repository.origin(str(PROJECT), None)
    assert (found, found.is_local) == (Origin(PROJECT.resolve().as_uri()), True)


def noted(monkeypatch: pytest.MonkeyPatch, text: str | None) -> None:
    """Let pip have left this note about the installation of slipway."""
    monkeypatch.setattr(metadata, "distribution", lambda _: SimpleNamespace(read_text=lambda _: text))


@pytest.mark.parametrize(
    ("note", "source"),
    [
        ({"url": "https://git.example/team/slipway.git", "vcs_info": {"vcs": "git", "commit_id": COMMIT}}, GIT),
        ({"url": "file:///srv/slipway", "dir_info": {"editable": True}}, "file:///srv/slipway"),
    ],
)
def test_origin_by_default_is_what_pip_noted(monkeypatch: pytest.MonkeyPatch, note: object, source: str) -> None:
    noted(monkeypatch, json.dumps(note))
    assert new_repository.origin(None, None).source == source


@pytest.mark.parametrize(
    "note",
    [
        None,
        "{",
        "[]",
        '{"url": "https://files.example/slipway.whl"}',
        '{"url": 1, "vcs_info": {}}',
        '{"url": "https://user:sesame@git.example/a/b", "vcs_info": {"vcs": "git", "commit_id": "v1"}}',
    ],
)
def test_origin_of_other_installation_has_to_be_named(monkeypatch: pytest.MonkeyPatch, note: str | None) -> None:
    noted(monkeypatch, note)
    with pytest.raises(UsageError, match="not known where this slipway was installed from"):
        new_repository.origin(None, None)


def test_update_renews_slipway_and_keeps_files_of_author(tmp_path: Path) -> None:
    folder = new_repository.create(tmp_path / "shop", "shop", ORIGIN).folder
    workflow = folder / new_repository.WORKFLOW
    workflow.write_text(workflow.read_text().replace(f"@{COMMIT}", f"@{COMMIT} # v1").replace("branches: [main]", "branches: [trunk]"))
    (folder / "nox.lock").write_text("old\n")
    (folder / "README.md").write_text("mine\n")
    newer = new_repository.origin("git+https://git.example/team/slipway@v2", None)
    assert new_repository.update(folder, newer).files == (new_repository.WORKFLOW, "nox.lock", "requirements.txt")
    assert workflow.read_text().count("team/slipway/.github/workflows/image.yml@v2\n") == 1
    assert workflow.read_text().count("team/slipway/.github/workflows/site.yml@v2\n") == 1
    assert "branches: [trunk]" in workflow.read_text()
    assert (folder / "README.md").read_text() == "mine\n"
    assert new_repository.update(folder, newer).files == ()


def test_update_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    folder = new_repository.create(tmp_path / "shop", "shop", ORIGIN).folder
    (tmp_path / "outside").write_text("kept")
    for name in ("nox", "nox.lock"):
        (folder / name).unlink()
        (folder / name).symlink_to(tmp_path / "outside")
    assert new_repository.update(folder, ORIGIN).files == ("nox", "nox.lock")
    assert (tmp_path / "outside").read_text() == "kept"
    assert (folder / "nox").stat().st_mode & 0o777 == 0o755
    assert not (folder / "nox").is_symlink()


def test_update_other_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("flask\n")
    with pytest.raises(UsageError, match="is not a repository of images"):
        new_repository.update(tmp_path, ORIGIN)
    assert [path.name for path in tmp_path.iterdir()] == ["requirements.txt"]

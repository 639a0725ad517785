"""The files of a release: the bill of materials, and the signatures of slipway's own distribution."""

from __future__ import annotations

import base64
import json
import tomllib
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from harness.errors import UsageError
from harness.trust import keys, release_files

PROJECT = Path(__file__).parents[3]
LOCK = """a==1.0 \\
    --hash=sha256:00
    # via slipway-cluster (pyproject.toml)
b-c==2.0 ; sys_platform == 'win32' \\
    --hash=sha256:00 \\
    --hash=sha256:01
    # via
    #   a
    #   pytest
tool==3 \\
    --hash=sha256:00
    # via slipway-cluster (pyproject.toml:tests)
pytest==9+local \\
    --hash=sha256:00
    # via
    #   slipway-cluster (pyproject.toml)
    #   a
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A wheel and an sdist."""
    with zipfile.ZipFile(tmp_path / "slipway_cluster-1.2-py3-none-any.whl", "w") as wheel:
        text = "Metadata-Version: 2.4\nName: slipway-cluster\nVersion: 1.2\nRequires-Dist: a>=1\nRequires-Dist: PyTest>=8\n\nReadme\n"
        wheel.writestr("slipway_cluster-1.2.dist-info/METADATA", text)
    (tmp_path / "slipway_cluster-1.2.tar.gz").write_bytes(b"sources")
    return tmp_path


@pytest.fixture
def lock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lock") / "requirements.lock"
    path.write_text(LOCK)
    return path


def test_main_writes_bill_of_runtime_dependencies_without_tools(folder: Path, lock: Path) -> None:
    release_files.main([str(folder), str(lock)])
    text = (folder / "slipway-cluster-1.2.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    found = json.loads(text)
    assert [(one["name"], one["version"], one["scope"]) for one in found["components"]] == [
        ("a", "1.0", "required"), ("b-c", "2.0", "optional"), ("pytest", "9+local", "required"),
    ]  # fmt: skip
    assert found["dependencies"][0] == {"ref": "pkg:pypi/slipway-cluster@1.2", "dependsOn": ["pkg:pypi/a@1.0", "pkg:pypi/pytest@9%2Blocal"]}
    assert {"ref": "pkg:pypi/a@1.0", "dependsOn": ["pkg:pypi/b-c@2.0", "pkg:pypi/pytest@9%2Blocal"]} in found["dependencies"]
    assert not list(folder.glob("*.sig"))


def test_main_signs_every_file_and_changed_data_does_not_verify(folder: Path, lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys.create(lock.with_name("release"), "secret")
    monkeypatch.setenv(release_files.PASSWORD, "secret")
    for _ in range(2):
        release_files.main([str(folder), str(lock), str(private)])
    files = sorted(file.name for file in folder.iterdir())
    assert [name for name in files if name.endswith(".sig")] == [f"{name}.sig" for name in files if not name.endswith(".sig")]
    data, signature = ((folder / f"slipway_cluster-1.2.tar.gz{end}").read_bytes() for end in ("", ".sig"))
    assert keys.read_public(public).holds(base64.b64decode(signature), data)
    assert not keys.read_public(public).holds(base64.b64decode(signature), data + b"x")


def test_bill_of_project_lock_contains_requirements_and_no_tools() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    requires = [release_files.normal(line.partition(">")[0]) for line in project["dependencies"]]
    found = release_files.bill(project["name"], project["version"], requires, (PROJECT / "requirements.lock").read_text())
    names = {one["name"] for one in found["components"]}
    assert {*requires, "cffi", "pycparser", "pluggy"} <= names
    assert not names & {"ruff", "mypy", "nox", "hypothesis", "hatchling"}


def test_bill_missing_requirement_or_wheel_raises_usage_error(folder: Path, lock: Path) -> None:
    with pytest.raises(UsageError, match="the lock lacks absent"):
        release_files.bill("x", "1", ["absent"], LOCK)
    for wheel in folder.glob("*.whl"):
        wheel.unlink()
    with pytest.raises(UsageError, match="holds 0 wheels"):
        release_files.main([str(folder), str(lock)])

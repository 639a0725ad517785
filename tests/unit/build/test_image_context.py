"""What the engine is sent for one stage: stages that it stands on, files, and the Go programs that it copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import image_context
from harness.build.container_images import Builder
from harness.build.definitions import definitions
from harness.errors import BuildError
from harness.host import gotools, paths
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store

DOCKERFILE = """\
ARG VERSION=v1.36.3

FROM debian AS listed
COPY go/here/tool /bin/

FROM debian AS proxy
RUN make

# image: example.org/tool:${VERSION}
FROM scratch AS tool
COPY go/tool go/other \\
  /bin/
COPY --from=listed /list /list

# image: example.org/proxy:${VERSION}
FROM scratch AS proxied
COPY --from=proxy /out /
COPY file /
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "images" / "tool"
    made.mkdir(parents=True)
    (made / "Dockerfile").write_text(DOCKERFILE)
    (made / "file").write_text("of the folder")
    for minor, version in (("1.36", "v1.36.3"), ("1.37", "v1.37.2")):
        below = made / minor
        below.mkdir()
        (below / "go.mod").write_text(f"module slipway.dev/tool\n\ngo 1.26.0\n\nrequire example.test/tool {version}\n")
        (below / "go.sum").write_text(f"example.test/tool {version} h1:A=\n")
        (below / "tools.go").write_text('import _ "example.test/tool/cmd/tool"\nimport _ "example.test/tool/cmd/other"\n')
    return made


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, str]]:
    """What was compiled: folder, program, processor. Each is a file that says so."""
    calls: list[tuple[str, str, str]] = []

    def act(folder: Path, program: str, *, architecture: str, pinned: bool) -> Path:
        assert pinned
        calls.append((folder.name, program, architecture))
        path = tmp_path / "programs" / f"{program}-{architecture}"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{program} for {architecture}")
        return path

    monkeypatch.setattr(gotools, "compiled", act)
    monkeypatch.setattr(paths, "architecture", lambda: "amd64")
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    return calls


def test_image_context_holds_only_stages_and_files_of_target(folder: Path) -> None:
    context = image_context.plan(folder, "proxied", "v1.36.3")
    assert context is not None
    assert not context.uses_go
    assert context.dockerfile.startswith("ARG VERSION=v1.36.3\n")
    assert [line for line in context.dockerfile.splitlines() if line.startswith("FROM")] == [
        "FROM debian AS proxy", "FROM scratch AS proxied",
    ]  # fmt: skip
    assert context.files() == [folder / "Dockerfile", folder / "file"]


def test_image_context_compiles_programs_for_target_and_step_tools_for_host(folder: Path, compiled: list[tuple[str, str, str]]) -> None:
    context = image_context.plan(folder, "tool", "v1.37.2")
    assert context is not None
    assert context.modules == ("example.test/tool@v1.37.2",)
    with context.written("arm64") as root:
        assert (root / "go/tool").read_text() == "tool for arm64"
        assert (root / "go/other").read_text() == "other for arm64"
        assert (root / "go/here/tool").read_text() == "tool for amd64"
        assert (root / "file").read_text() == "of the folder"
        assert not (root / "1.36").exists()
    assert not root.exists()
    assert {name for name, _, _ in compiled} == {"1.37"}


def test_builder_find_version_without_module_folder_is_none(folder: Path, tmp_path: Path) -> None:
    make = Builder(Store(tmp_path / "store"), (tmp_path / "images",))
    assert make.find(Reference.parse("example.org/tool:v1.36.3")) is not None
    assert make.find(Reference.parse("example.org/tool:v1.35.0")) is None
    assert image_context.versions(folder) == ("v1.36.3", "v1.37.2")


def test_key_changes_only_with_inputs_of_own_stages(folder: Path, tmp_path: Path) -> None:
    make = Builder(Store(tmp_path / "store"), (tmp_path / "images",), Platform("linux", "amd64"))
    names = ("example.org/tool:v1.36.3", "example.org/tool:v1.37.2", "example.org/proxy:v1.36.3")

    def keys() -> list[str | None]:
        return [make.key(Reference.parse(name)) for name in names]

    first = keys()
    (folder / "1.37/go.sum").write_text("another")
    second = keys()
    assert [old == new for old, new in zip(first, second, strict=True)] == [True, False, True]
    (folder / "Dockerfile").write_text(DOCKERFILE.replace("RUN make", "RUN make all"))
    assert [old == new for old, new in zip(second, keys(), strict=True)] == [True, True, False]


def test_context_of_unknown_go_program_raises_build_error(folder: Path) -> None:
    (folder / "Dockerfile").write_text("# image: example.org/x:1\nFROM scratch\nCOPY go/none /\n")
    (definition,) = definitions(folder.parent)
    with pytest.raises(BuildError, match=r"copies go/none, and no tools.go"):
        definition.context({})

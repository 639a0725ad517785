"""images/<name>/Dockerfile: which names a folder serves, and when an image counts as another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.images import Builder, definitions
from harness.oci.reference import Reference
from harness.oci.store import Store

PROXY = """\
FROM debian:bookworm-slim AS linked
ARG VERSION=v1.20.2
RUN make

# image: example.org/proxy:${VERSION}
FROM scratch AS proxy
COPY --from=linked /out /

# image: example.org/pause:3.2
FROM scratch AS pause
"""


def write(root: Path, name: str, text: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "Dockerfile").write_text(text)
    return folder


def builder(tmp_path: Path) -> Builder:
    return Builder(Store(tmp_path / "store"), (tmp_path / "images",))


def test_each_marked_stage_is_an_image(tmp_path: Path) -> None:
    write(tmp_path, "proxy", PROXY)
    found = definitions(tmp_path)
    assert [(one.name, one.target) for one in found] == [("example.org/proxy:v1.20.2", "proxy"), ("example.org/pause:3.2", "pause")]
    assert found[0].bases == ("debian:bookworm-slim",)


def test_a_build_argument_in_the_name_serves_every_version(tmp_path: Path) -> None:
    write(tmp_path / "images", "proxy", PROXY)
    found = builder(tmp_path).find(Reference.parse("example.org/proxy:v1.20.3"))
    assert found is not None
    assert found[1] == {"VERSION": "v1.20.3"}
    assert builder(tmp_path).find(Reference.parse("example.org/proxy/other:v1")) is None


def test_one_name_in_two_folders_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, "a", "# image: example.org/x:1\nFROM scratch\n")
    write(tmp_path, "b", "# image: example.org/x:1\nFROM scratch\n")
    with pytest.raises(InputError, match=r"example\.org/x:1 is defined twice"):
        definitions(tmp_path)


def test_the_key_changes_with_files_arguments_and_the_images_below(tmp_path: Path) -> None:
    base = write(tmp_path / "images", "base", "# image: example.org/base:1\nFROM scratch\nCOPY data /\n")
    (base / "data").write_text("one")
    write(tmp_path / "images", "top", "ARG VERSION=1\n# image: example.org/top:${VERSION}\nFROM example.org/base:1\n")
    make = builder(tmp_path)
    top = Reference.parse("example.org/top:1")
    first = make.key(top)
    assert first == make.key(top)
    assert make.key(Reference.parse("example.org/top:2")) != first
    (base / "data").write_text("two")
    assert make.key(top) != first


def test_what_no_folder_defines_has_no_key(tmp_path: Path) -> None:
    assert builder(tmp_path).key(Reference.parse("example.org/none:1")) is None

"""Definitions of container images: the names that a folder of images/ serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import image_context
from harness.build.definitions import BaseImage, bundled, definitions
from harness.errors import InputError
from harness.oci.reference import Reference
from tests.unit.build.dockerfiles import PROXY, builder, write


def test_definitions_list_each_marked_stage_as_image(tmp_path: Path) -> None:
    write(tmp_path, "proxy", PROXY)
    found = definitions(tmp_path)
    assert [(one.name, one.target) for one in found] == [("example.org/proxy:v1.36.3", "proxy"), ("example.org/pause:3.2", "pause")]
    assert found[0].bases == (BaseImage("debian:bookworm-slim"),)


@pytest.mark.parametrize(
    "text",
    [
        "FROM debian AS files\nARG VERSION\n# image: example.org/x:${VERSION}\nFROM scratch\nARG VERSION=1.2\n",
        "ARG VERSION=1.2\nFROM debian AS files\nARG VERSION\n# image: example.org/x:${VERSION}\nFROM scratch\n",
        '# image: example.org/x:${VERSION}\nFROM scratch\nARG VERSION="1.2"\nARG OTHER\n',
    ],
)
def test_definitions_name_has_default_of_argument_wherever_it_stands(tmp_path: Path, text: str) -> None:
    write(tmp_path, "x", text)
    (found,) = definitions(tmp_path)
    assert found.name == "example.org/x:1.2"


def test_find_name_with_build_argument_matches_any_version(tmp_path: Path) -> None:
    write(tmp_path / "images", "proxy", PROXY)
    found = builder(tmp_path).find(Reference.parse("example.org/proxy:v1.36.4"))
    assert found is not None
    assert found[1] == {"VERSION": "v1.36.4"}
    assert builder(tmp_path).find(Reference.parse("example.org/proxy/other:v1")) is None


def test_definitions_same_name_in_two_folders_raises_input_error(tmp_path: Path) -> None:
    write(tmp_path, "a", "# image: example.org/x:1\nFROM scratch\n")
    write(tmp_path, "b", "# image: example.org/x:1\nFROM scratch\n")
    with pytest.raises(InputError, match=r"example\.org/x:1 is defined twice"):
        definitions(tmp_path)


NEEDS_ITS_OWN_PROCESSOR = {"slipway.dev/builder:12", "slipway.dev/compiler:1", "slipway.dev/node:13"}
"""They run on this machine only: nothing embeds them."""


def test_bundled_dockerfiles_run_steps_only_on_build_platform() -> None:
    for root in bundled():
        for path in sorted(root.glob("*/Dockerfile")):
            if NEEDS_ITS_OWN_PROCESSOR & {one.name for one in definitions(root) if one.folder == path.parent}:
                continue
            runs_here: dict[str, bool] = {}
            stage = ""
            for line in path.read_text().splitlines():
                if found := image_context.FROM.match(line):
                    stage = found["stage"] or "last"
                    runs_here[stage] = bool(found["here"]) or runs_here.get(found["base"], False)
                assert not line.startswith("RUN ") or runs_here[stage], f"{path}: stage {stage} runs programs of the target"

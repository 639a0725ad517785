"""YAML of a rootfs, read as nodes."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.yaml_documents import documents_of, line_of, pairs_of, read_text, text_of, value_of
from harness.errors import InputError
from tests.unit.build.rootfs_files import declared, write


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["m0: &m0 {a: x}", *(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 64))]),
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]),
        "[" * 500,
        "a: &a {b: *a}",
    ],
    ids=["merge keys", "aliases", "depth", "circle"],
)
def test_a_manifest_that_spells_out_to_more_than_memory_holds_is_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"manifests/a\.yaml:\d+: not YAML: it (holds|is nested)"):
        declared(write(tmp_path, {"manifests/a.yaml": text}))


def test_values_have_their_lines_and_merged_keys_count() -> None:
    (document,) = documents_of("base: &b\n  image: x\nweb:\n  <<: *b\n  name: ~\n")
    web = value_of(document, "web")
    assert [text_of(key) for key, _ in pairs_of(web)] == ["image", "name"]
    image = value_of(web, "image")
    assert image is not None
    assert (text_of(image), line_of(image)) == ("x", 2)
    assert text_of(value_of(web, "name")) is None


def test_read_text_of_json_may_be_indented_with_tabs(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff{\n\t"image": "x"}')
    (document,) = documents_of(read_text(path))
    assert text_of(value_of(document, "image")) == "x"

"""images.lock: digests of tags."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.build import image_lock
from harness.errors import InputError, StoreError
from harness.oci.reference import Reference
from harness.oci.registry.errors import RemoteError
from tests.unit.build.rootfs_files import DIGEST, NGINX

OTHER = "sha256:" + "b" * 64


def test_lock_is_read_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / image_lock.NAME
    assert image_lock.beside(tmp_path / "Kubefile") == {}
    image_lock.write(path, {NGINX: DIGEST, "a.io/x:1": OTHER})
    assert image_lock.beside(tmp_path / "Kubefile") == {NGINX: DIGEST, "a.io/x:1": OTHER}
    assert path.read_text().splitlines()[1:] == [f"a.io/x:1 {OTHER}", f"{NGINX} {DIGEST}"]


def test_lock_short_names_are_expanded(tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    path.write_text(f"# ours\n\n nginx:1   {DIGEST}\n")
    assert image_lock.read(path) == {NGINX: DIGEST}


def test_lock_faulty_lines_are_all_reported_with_hints(tmp_path: Path) -> None:
    path = tmp_path / "images.lock"
    path.write_text(f"nginx:1\nnginx:1 sha256:1\nBad:1 {DIGEST}\na@{DIGEST} {DIGEST}\nb:1 {DIGEST}\nb:1 {OTHER}\nb:1 {DIGEST} x\n")
    with pytest.raises(InputError) as caught:
        image_lock.read(path)
    assert [fault.where.rpartition(":")[2] for fault in caught.value.faults] == ["1", "2", "3", "4", "6", "7"]
    assert all(fault.hint for fault in caught.value.faults)


def test_lock_not_utf8_raises_input_error(tmp_path: Path) -> None:
    (tmp_path / "images.lock").write_bytes(b"\xff")
    with pytest.raises(InputError, match="cannot be read"):
        image_lock.read(tmp_path / "images.lock")


def answers(reference: Reference) -> str:
    if reference.path == "gone":
        raise RemoteError("no such tag", status=404)
    if reference.path == "away":
        raise StoreError("no answer")
    return DIGEST


def test_compare_distinguishes_moved_gone_and_unknown_tags() -> None:
    locked = {"a.io/same:1": DIGEST, "a.io/moved:1": OTHER, "a.io/gone:1": OTHER, "a.io/away:1": OTHER}
    tags, errors = image_lock.compare(locked, answers)
    assert {tag.name.partition("/")[2]: (tag.status, tag.now) for tag in tags} == {
        "same:1": ("same", DIGEST),
        "moved:1": ("moved", DIGEST),
        "gone:1": ("gone", ""),
        "away:1": ("unknown", ""),
    }
    assert list(errors) == ["a.io/away:1"]


def test_resolve_tags_skips_names_with_digest() -> None:
    assert image_lock.resolve_tags([f"a.io/x@{DIGEST}", "a.io/y:1", "a.io/y:1"], answers) == ({"a.io/y:1": DIGEST}, {})


def test_pinned_tags_request_locked_digest_in_place_of_tag() -> None:
    asked: list[str] = []
    inner: Any = SimpleNamespace(
        manifest=lambda reference, _: asked.append(str(reference)),
        blob=lambda *_: None,
        admit=lambda pinned: bool(pinned.digest),
    )
    source = image_lock.PinnedTags(inner, {NGINX: DIGEST})
    for name in ("nginx:1", "nginx:2", f"nginx@{OTHER}"):
        source.manifest(Reference.parse(name), ())
    assert asked == [f"{NGINX}@{DIGEST}", "docker.io/library/nginx:2", f"docker.io/library/nginx@{OTHER}"]
    assert source.admit(Reference.parse(f"nginx@{DIGEST}"))
    assert source.blob(Reference.parse("nginx:1"), DIGEST, None) is None


def test_complete_keeps_other_lines_and_skips_digests_and_names_of_several_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "images.lock"
    image_lock.write(path, {NGINX: OTHER, "a.io/other:1": OTHER})
    embedded = [(NGINX, DIGEST), (NGINX, DIGEST), (f"a.io/x@{DIGEST}", DIGEST), ("a.io/two:1", DIGEST), ("a.io/two:1", OTHER)]
    locked = image_lock.complete(tmp_path / "Kubefile", embedded)
    assert list(locked.items()) == [("a.io/other:1", OTHER), (NGINX, DIGEST)]
    assert image_lock.read(path) == locked
    assert [path.name for path in tmp_path.iterdir()] == ["images.lock"]
    assert "a.io/two:1 is not in images.lock: it means another image for each platform" in " ".join(capsys.readouterr().err.split())


def test_complete_without_file_writes_it(tmp_path: Path) -> None:
    image_lock.complete(tmp_path / "Kubefile", [(NGINX, DIGEST)])
    assert image_lock.read(tmp_path / "images.lock") == {NGINX: DIGEST}

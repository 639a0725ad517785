"""Layers as a merged tree, and what of it could change the outcome of a discovery."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import engine, images, kubefile
from harness.errors import BuildError
from harness.oci.layer import Entry, write_layer
from harness.oci.store import Store
from harness.rootfs import Workshop, entry_of, essence, index, meaning, merged, with_folders
from harness.sources import Fetcher

MANIFEST = b"""\
kind: Service
spec:
  ports:
  - nodePort: {{ WebPort }}
"""


def test_a_comment_does_not_change_what_a_manifest_means() -> None:
    assert meaning(MANIFEST) == meaning(b"# a new comment\n" + MANIFEST.replace(b"spec:", b"spec:   # ports"))


def test_a_value_or_another_variable_does() -> None:
    assert meaning(MANIFEST) != meaning(MANIFEST.replace(b"Service", b"ConfigMap"))
    assert meaning(MANIFEST) != meaning(MANIFEST.replace(b"WebPort", b"OtherPort"))


def test_a_hash_inside_a_block_of_text_is_content() -> None:
    script = b"data:\n  run.sh: |\n    # first\n    true\n"
    assert meaning(script) != meaning(script.replace(b"# first", b"# second"))


def test_what_is_not_yaml_means_its_bytes() -> None:
    template = b"{{ if .Values.on }}\nkind: A\n{{ end }}\n"
    assert meaning(template) == meaning(template)
    assert meaning(template) != meaning(template + b"# x\n")


def facts(kind: str, digest: str = "d") -> list[str]:
    return [kind, "755", digest, digest]


def test_merging_applies_removals() -> None:
    lower = {"a": facts("dir"), "a/x": facts("file"), "a/y": facts("file"), "b": facts("dir"), "b/z": facts("file")}
    upper = {"a/.wh.x": facts("file"), "b": facts("dir"), "b/.wh..wh..opq": facts("file"), "b/new": facts("file")}
    assert sorted(merged([lower, upper])) == ["a", "a/y", "b", "b/new"]


def test_a_file_in_place_of_a_folder_takes_its_content_away() -> None:
    assert sorted(merged([{"a": facts("dir"), "a/x": facts("file")}, {"a": facts("file")}])) == ["a"]


def test_documentation_is_not_part_of_the_essence() -> None:
    files = {"README.md": facts("file"), "manifests/app.yaml": facts("file"), "charts/x/README": facts("file"), "LICENSE": facts("file")}
    assert [entry[0] for entry in essence(files)] == ["manifests/app.yaml"]


def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    plain, program = tmp_path / "plain", tmp_path / "program"
    plain.write_text("x")
    program.write_text("x")
    plain.chmod(0o664)
    program.chmod(0o775)
    assert entry_of(plain, "plain", None).mode == 0o644
    assert entry_of(program, "program", None).mode == 0o755
    assert entry_of(plain, "plain", 0o600).mode == 0o600


def test_a_layer_says_what_mode_the_folders_above_its_files_have() -> None:
    entries = list(with_folders([Entry("a/b/c", "file", 0o644, b"x"), Entry("a", "dir", 0o700)]))
    assert {entry.path: entry.mode for entry in entries} == {"a": 0o700, "a/b": 0o755, "a/b/c": 0o644}


def test_the_index_of_a_layer_is_remembered(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = write_layer([Entry("etc", "dir"), Entry("etc/a.yaml", "file", 0o644, b"a: 1 # x\n"), Entry("l", "symlink", target="etc")], store)
    found = index(store, made)
    assert found["etc/a.yaml"][0] == "file"
    assert found["etc/a.yaml"][2] != found["etc/a.yaml"][3]
    assert found["l"][2] == "etc"
    store.path(made.descriptor.digest).unlink()
    assert index(store, made) == found


@pytest.mark.parametrize("network", images.NETWORKS)
def test_run_gets_no_more_than_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    given: dict[str, Any] = {}

    def run_container(_: Any, image: str, command: list[str], **options: Any) -> tuple[int, str]:
        given.update(options)
        return 7, "curl: could not resolve host"

    monkeypatch.setattr(engine, "connect", lambda **_: None)
    monkeypatch.setattr(engine, "run_container", run_container)
    monkeypatch.setattr(images.Builder, "engine_image", lambda *_: "builder")
    monkeypatch.setattr(images.Builder, "key", lambda *_: "key")
    store = Store(tmp_path / "store")
    builder = images.Builder(store, (), network=network)
    parsed = kubefile.parse("FROM scratch\nRUN curl http://x/\n", "K")
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    with (
        Workshop(store, builder, Fetcher([], store), tmp_path, base=[], parent="") as work,
        pytest.raises(BuildError, match="RUN failed with exit code 7") as failed,
    ):
        work.perform(parsed, parsed.instructions[-1])
    assert given["network_mode"] == network
    assert given["cap_drop"] == ["NET_RAW"]
    assert given["security_opt"] == ["no-new-privileges"]
    assert not given.get("privileged")
    assert ("--network host" in str(failed.value.hint)) is (network == images.BRIDGE)

"""Checks of a Kubefile as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kubefile
from harness.errors import InputError
from harness.kubefile.checks import context_faults
from harness.kubefile.instructions import Copy
from tests.unit.kubefile.reading import faults as faults_of
from tests.unit.kubefile.reading import parse


def test_launch_repeated_or_beside_cmds_is_refused() -> None:
    text = "FROM scratch\nAPP a local://a\nLAUNCH a\nLAUNCH a"
    assert faults_of(text) == ["4: LAUNCH is given twice; the first is in line 3"]
    assert faults_of('FROM scratch\nAPP a local://a\nCMDS ["ls"]\nLAUNCH a') == [
        "3: CMDS must be the last instruction",
        "3: CMDS and LAUNCH (line 4) exclude each other",
    ]


@pytest.mark.parametrize("launch", ["LAUNCH a", 'CMDS ["ls"]'])
def test_exercise_after_launch_is_accepted_and_env_is_refused(launch: str) -> None:
    assert parse(f"FROM scratch\nAPP a local://a\n{launch}\nEXERCISE b\nEXERCISE c").exercise == ("b", "c")
    name = launch.split(maxsplit=1)[0]
    assert faults_of(f"FROM scratch\nAPP a local://a\n{launch}\nEXERCISE b\nENV A=1") == [f"3: {name} must be the last instruction"]


def test_parse_defers_application_names_of_base() -> None:
    found = parse('FROM base:1\nAPPENV db A=1\nAPPCMDS db ["x"]\nLAUNCH db')
    assert [(item.app, item.instruction) for item in found.deferred] == [("db", "APPENV"), ("db", "APPCMDS"), ("db", "LAUNCH")]


def test_parse_reports_missing_context_files_with_other_faults(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("")
    text = "FROM base\nCOYP x y\nCOPY ap.yaml manifests/\nAPP web local://none\nCOPY *.txt file\n"
    text += "COPY --from=img none x\nADD https://x.io/y z\n"
    with pytest.raises(InputError) as caught:
        kubefile.parse(text, "K", context=tmp_path)
    assert [(fault.where, fault.message, fault.hint) for fault in caught.value.faults] == [
        ("K:2", "unknown instruction COYP", "did you mean COPY?"),
        ("K:3", f"ap.yaml: no such file or folder in {tmp_path}", "did you mean app.yaml?"),
        ("K:4", f"none: no such file or folder in {tmp_path}", None),
        ("K:5", "2 sources for the destination file, which is not a folder", "end it with a slash: file/"),
    ]


def test_context_faults_list_missing_sources_and_missing_context(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    found = kubefile.parse("FROM base\nCOPY a b c/\nAPP web local://a local://d\n", "K")
    assert [(fault.where, fault.message) for fault in context_faults(found.path, found.instructions, tmp_path)] == [
        ("K:2", f"b: no such file or folder in {tmp_path}"),
        ("K:3", f"d: no such file or folder in {tmp_path}"),
    ]
    assert [fault.message for fault in context_faults(found.path, found.instructions, tmp_path / "none")] == [
        "the build context is not a folder"
    ]


def test_copy_absent_registry_folder_is_skipped_with_warning(tmp_path: Path) -> None:
    (tmp_path / "charts").mkdir()
    text = "FROM scratch\nCOPY registry registry\nCOPY ./registry/ charts ./\n"
    found = kubefile.parse(text, "K", context=tmp_path)
    assert [item.sources for item in found.of(Copy)] == [("charts",)]
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        ("K:2", "COPY registry: skipped, for the build context has no such folder"),
        ("K:3", "COPY registry: skipped, for the build context has no such folder"),
    ]
    (tmp_path / "registry").mkdir()
    found = kubefile.parse(text, "K", context=tmp_path)
    assert ([item.sources for item in found.of(Copy)], found.warnings) == ([("registry",), ("./registry/", "charts")], ())


def test_copy_folder_made_by_sealos_script_is_refused_with_hint(tmp_path: Path) -> None:
    (tmp_path / "init.sh").write_text("")
    with pytest.raises(InputError) as caught:
        kubefile.parse("FROM scratch\nCOPY opt opt", "K", context=tmp_path)
    assert caught.value.faults[0].hint == "init.sh of the context may make it: catalogues of sealos run it before they build"


def test_parse_reports_ignore_file_faults_once(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("ok\n!\na[b\n")
    with pytest.raises(InputError) as caught:
        kubefile.parse("FROM scratch\nCOPY a x\nCOPY b y", "K", context=tmp_path)
    assert [fault.where for fault in caught.value.faults] == [f"{tmp_path}/.dockerignore:2", f"{tmp_path}/.dockerignore:3"]

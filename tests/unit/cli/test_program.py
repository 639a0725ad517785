"""What every verb takes: common options behind it, old spellings, groups of options, help in words for users."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from harness import about, log
from harness.cli import app, program
from harness.cli.program import Old, Verb, help_record
from harness.cli.root import app as program_
from tests.unit.test_docs import root


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield
    log.setup()


def verbs(command: Any = None, name: str = "slipway") -> Iterator[tuple[str, Any]]:
    command = command or root()
    if not hasattr(command, "commands"):
        yield name, command
    for word, child in getattr(command, "commands", {}).items():
        yield from verbs(child, f"{name} {word}")


@pytest.mark.parametrize("words", [["-v", "images"], ["images", "-v"], ["images", "--verbose"]])
def test_verbose_option_before_or_after_verb_is_accepted(words: list[str]) -> None:
    assert app.execute(words) == 0
    assert log.is_verbose()


@pytest.mark.parametrize("words", [["--version"], ["images", "--version"], ["build", "--version"], ["certs", "list", "--version"]])
def test_version_option_before_or_after_verb_prints_version(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(words) == 0
    assert capsys.readouterr().out == f"slipway {about.version()}\n"


@pytest.mark.parametrize("words", [["certs", "-q", "list", "mine"], ["certs", "-q", "mine"], ["certs", "mine", "-q"]])
def test_quiet_option_between_group_and_verb_hides_progress(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute([word for word in words if word != "-q"]) == 2
    assert not isinstance(log._state.display, log.Null)
    loud = capsys.readouterr()
    assert app.execute(words) == 2
    assert isinstance(log._state.display, log.Null)
    # Results and errors stay.
    assert "nothing is known of a cluster mine" in loud.err
    assert capsys.readouterr() == loud


@pytest.mark.parametrize(
    ("words", "old", "new", "message"),
    [
        (["apps", "--name", "prod"], "--name", "--cluster", "a cluster prod"),
        (["apps", "--name=prod"], "--name", "--cluster", "a cluster prod"),
        (["build", "x", "--cluster", "vagrant"], "--cluster", "--sandbox", "--sandbox vagrant"),
        (["backup", "mine", "-f", "b"], "-f", "--to", "a cluster mine"),
        (["backup", "mine", "-fb"], "-f", "--to", "a cluster mine"),
        (["restore", "--file", "absent", "--yes"], "--file", "--from", "absent: no such file"),
        (["load", "-f", "absent"], "-f", "--from", "absent: no such file"),
        (["status", "mine", "--masters", "10.0.0.300"], "--masters", "--via", "--via 10.0.0.300"),
        (["kubeconfig", "mine", "-m", "10.0.0.300"], "-m", "--via", "--via 10.0.0.300"),
        (["check", "--pre", "--control-plane", "10.0.0.1", "--skip", "memry"], "--skip", "--skip-check", "memry: no such check"),
        (["remove", "10.0.0.9", "--timeout", "5"], "--timeout", "--drain-timeout", "a cluster default"),
    ],
)
def test_option_old_spelling_works_and_warning_names_new_spelling(
    words: list[str], old: str, new: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(words) == 2
    error = capsys.readouterr().err
    assert f"{old} is an old spelling, which the next release will not know: write {new}" in error
    assert message in error


def test_present_options_before_double_dash_are_replaced_and_old_ones_noted() -> None:
    verb = type("Renaming", (Verb,), {"renamed": {"--name": ("--cluster", True), "-n": ("--workers", False)}})("x")
    old: list[tuple[str, str]] = []
    assert list(verb._present(["--name", "a", "-n1", "--", "--name", "b"], old)) == ["--cluster", "a", "--workers=1", "--", "--name", "b"]
    assert old == [("--name", "--cluster")]


def test_verbs_old_spellings_do_not_shadow_present_options() -> None:
    for name, verb in verbs():
        present = {word for one in verb.params for word in one.opts}
        assert present & set(verb.renamed) == set(), name
        assert {new for new, _ in verb.renamed.values()} <= present, name


@pytest.mark.parametrize("word", ["--masters", "--master", "-m"])
def test_run_control_plane_alias_works_without_old_spelling_warning(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["run", "x", word, "10.0.0.300"]) == 2
    error = capsys.readouterr().err
    assert "--control-plane 10.0.0.300" in error
    assert "old spelling" not in error


def test_status_control_plane_alias_of_via_works_without_old_spelling_warning(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["status", "mine", "--control-plane", "10.0.0.300"]) == 2
    error = capsys.readouterr().err
    assert "--via 10.0.0.300" in error
    assert "old spelling" not in error


def test_old_option_accepts_several_spellings() -> None:
    assert Old("--a", "-a").spellings == ("--a", "-a")


def test_file_option_help_names_kubefile_or_clusterfile() -> None:
    helps = {name: one.help for name, verb in verbs() for one in verb.params if "-f" in one.opts}
    assert {"slipway build", "slipway run", "slipway apply", "slipway upgrade"} <= set(helps)
    for name, text in helps.items():
        assert ("Kubefile" if name == "slipway build" else "Clusterfile") in text, name


def test_cluster_option_has_same_name_in_all_verbs() -> None:
    named = {name for name, verb in verbs() if any("--cluster" in one.opts for one in verb.params)}
    assert {"slipway run", "slipway apply", "slipway status", "slipway upgrade", "slipway certs add-names", "slipway apps list"} <= named
    assert {name for name, verb in verbs() if any("--name" in one.opts for one in verb.params)} == {"slipway nodes up"}


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["status", "a", "--cluster", "b"], "two clusters"),
        (["status", "--cluster", "a"], "cluster a"),
        (["exec", "-c", "a", "--", "x"], "cluster a"),
    ],
)
def test_cluster_as_argument_or_option_is_accepted_and_both_are_refused(
    words: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(words) == 2
    assert code in capsys.readouterr().err


def test_help_metavars_are_plain_and_default_is_shown_once() -> None:
    for name, verb in verbs():
        context = verb.make_context(name, [], resilient_parsing=True)
        for parameter in verb.params:
            record = help_record(parameter, context)
            if record is not None:
                assert not re.search(r"[<{]", record[0]), f"{name}: {record[0]}"
                assert record[1].count("default:") <= 1, f"{name}: {record[1]}"
        assert "{" not in " ".join(verb.collect_usage_pieces(context)), name


def test_help_short_texts_are_not_cut_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    groups = [["--help"], *([name, "--help"] for name, command in root().commands.items() if hasattr(command, "commands"))]
    for words in groups:
        assert app.execute(words) == 0
        assert "..." not in capsys.readouterr().out.replace("[ARGS]...", ""), words


@pytest.mark.parametrize(
    "words",
    [
        ["status", "--port", "70000"],
        ["status", "--port", "0"],
        ["run", "x", "--port", "70000"],
        ["run", "x", "--timeout", "-5"],
        ["run", "x", "--timeout", "inf"],
        ["run", "x", "--timeout", "nan"],
        ["run", "x", "--timeout", "1e300"],
        ["build", ".", "--settle", "-1"],
        ["build", ".", "--timeout", "0"],
        ["exec", "--jobs", "0", "--", "x"],
        ["upgrade", "x", "--batch", "0"],
        ["upgrade", "x", "--drain-timeout", "-1"],
        ["build", ".", "--platform", "linux/vax"],
        ["build", ".", "--platform", "windows/amd64"],
        ["pull", "ghcr.io/x/y", "--platform", "linux/vax"],
        ["tag", "x", "A//b"],
        ["inspect", ""],
        ["inspect", "A//b"],
        ["sign", "@sha256:abc", "--key", "x"],
        ["images", "-o", "yaml"],
    ],
)
def test_option_or_argument_invalid_value_exits_2(words: list[str]) -> None:
    assert app.execute(words) == 2


@pytest.mark.parametrize("name", ["a" * 64, "sha256:" + "a" * 64, "abcdef1", "web", "ghcr.io/x/web:1"])
def test_inspect_missing_digest_or_name_exits_4(name: str) -> None:
    assert app.execute(["inspect", name]) == 4


def test_output_json_error_is_one_json_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["status", "mine", "-o", "json"]) == 2
    taken = capsys.readouterr()
    assert taken.out == ""
    error = json.loads(taken.err.splitlines()[-1])["error"]
    assert error["message"] == "nothing is known of a cluster mine"
    assert error["exitCode"] == 2
    assert "--via" in error["hint"]


def test_output_json_error_lists_all_faults(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["run", "x", "--control-plane", "10.0.0.300,3", "--output=json"]) == 2
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert [fault["where"] for fault in error["faults"]] == ["--control-plane 10.0.0.300", "--control-plane 3"]
    assert "slipway nodes up" in error["faults"][1]["hint"]


def test_output_json_usage_error_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["images", "--nosuch", "-o", "json"]) == 2
    error = json.loads(capsys.readouterr().err.splitlines()[-1])["error"]
    assert error == {"message": "No such option: --nosuch", "exitCode": 2}


def test_exec_json_option_of_remote_command_keeps_text_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["exec", "mine", "--", "kubectl", "-o", "json"]) == 2
    assert capsys.readouterr().err.startswith("slipway: ")


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["scale-up"], "slipway join"),
        (["run", "x", "--provider", "aliyun"], "slipway nodes up"),
        (["run", "x", "-m", "3"], "slipway nodes up"),
        (["alpha"], "slipway exec"),
    ],
)
def test_execute_sealer_command_line_is_refused_with_hint(words: list[str], hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(words) == 2
    assert hint in capsys.readouterr().err


def test_program_is_typer_app_and_all_verbs_are_verb_instances() -> None:
    assert isinstance(program_, typer.Typer)
    assert all(isinstance(verb, Verb) for _, verb in verbs())


@pytest.mark.parametrize(
    ("is_text", "required", "multiple", "value", "expected"),
    [
        (True, True, False, "a", "a"),
        (True, False, False, None, None),
        (False, False, True, None, ()),
        (False, False, False, "7", "converted"),
        (False, False, True, ("a",), "converted"),
        (True, True, False, None, "converted"),
    ],
)
def test_value_text_or_absent_is_not_converted(is_text: bool, required: bool, multiple: bool, value: object, expected: object) -> None:
    parameter = SimpleNamespace(required=required, multiple=multiple, nargs=1, callback=None)
    assert program._value(parameter, lambda _, __: "converted", is_text, None, value) == expected


def test_value_text_is_passed_to_callback() -> None:
    parameter = SimpleNamespace(required=False, multiple=False, nargs=1, callback=lambda _, __, value: f"<{value}>")
    assert program._value(parameter, lambda _, __: "converted", True, None, "a") == "<a>"


def test_images_and_inspect_skip_typer_value_conversion(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("typer would import pydantic")

    monkeypatch.setattr("typer.core.build_runtime_param", refuse, raising=False)
    assert app.execute(["images"]) == 0
    assert app.execute(["inspect", "absent", "--output", "json"]) == 4

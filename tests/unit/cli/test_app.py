"""The command line: words in, exit code and text out. What the verbs do is tested where they do it."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from harness.cli import app, options, output, providers
from harness.cli.output import pairs
from harness.cloudimage import ExpectedValue, Info, ValueType
from harness.errors import CommandError, Fault, InputError, UsageError
from harness.oci.store import Store
from tests.unit.cloudimage.examples import put


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("10.0.0.2", ["10.0.0.2"]),
        ("10.0.0.2,10.0.0.9", ["10.0.0.2", "10.0.0.9"]),
        ("10.0.0.254-10.0.1.1", ["10.0.0.254", "10.0.0.255", "10.0.1.0", "10.0.1.1"]),
        ("fd00::1", ["fd00::1"]),
    ],
)
def test_to_machines_address_lists_and_ranges_are_expanded(text: str, addresses: list[str]) -> None:
    found = options.to_machines([text], options.Ssh().login(), "--control-plane")
    assert [machine.address for machine in found] == addresses


def test_explain_many_similar_lines_shows_first_four(capsys: pytest.CaptureFixture[str]) -> None:
    full = [f"tar: ./file-{number}: Cannot write: No space left on device" for number in range(50)]
    app._explain(CommandError("control-plane-1: exit code 2", details="\n".join(["it began", *full, "tar: Exiting with failure status"])))
    said = capsys.readouterr().err.splitlines()
    assert said[2:] == [
        *(f"    {line}" for line in full[:4]),
        "    ... 46 more like it; --verbose shows them",
        "    tar: Exiting with failure status",
    ]


def test_command_error_traceback_includes_program_output() -> None:
    """A test of an image's author that fails says why."""
    error = CommandError("control-plane-1: exit code 1", details="wget: bad address")
    assert "wget: bad address" in "".join(traceback.format_exception(error))


def test_to_machines_invalid_addresses_are_all_reported() -> None:
    with pytest.raises(InputError) as caught:
        options.to_machines(["10.0.0.300", "10.0.0.9-10.0.0.1,10.0.0.2"], options.Ssh().login(), "--workers")
    assert [fault.where for fault in caught.value.faults] == ["--workers 10.0.0.300", "--workers 10.0.0.9-10.0.0.1"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("host/example.com", "not an address", "write it as 192.168.0.2"),
        ("10.0.0.300", "not an address", "write it as 192.168.0.2"),
        ("10.0.0.1-5", "not a range", "10.0.0.1-10.0.0.5"),
        ("10.0.0.1-10.0.9.1", "2305 addresses", "a range may have 1024"),
        ("3", "not an address", "slipway nodes up"),
    ],
)
def test_addresses_invalid_text_reports_option_and_hint(text: str, message: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        options.addresses([text], "--control-plane")
    (fault,) = caught.value.faults
    assert fault.where == f"--control-plane {text}"
    assert message in fault.message
    assert hint in (fault.hint or "")


def test_confirmed_without_terminal_ends_prompt_line_and_raises(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(UsageError, match="there is no terminal"):
        options.confirmed("Go on?")
    assert capsys.readouterr().out == "Go on? [y/N]: \n"


def test_delete_forget_unknown_cluster_exits_0_and_names_cluster(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["delete", "absent", "--forget"]) == 0
    assert capsys.readouterr().out == "nothing to forget: no cluster absent is known on this machine\n"


def test_nodes_down_unknown_group_exits_0_and_names_group(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(providers, "of", lambda _: SimpleNamespace(down=lambda _: False))
    assert app.execute(["nodes", "down", "absent"]) == 0
    assert capsys.readouterr().out == "nothing to remove: there is no group absent; slipway nodes list shows the groups\n"


def test_run_env_without_name_or_value_is_refused(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["run", "x", "--control-plane", "10.0.0.1", "-e", "novalue", "-e", "=x"]) == 2
    said = capsys.readouterr().err
    assert "--env novalue: not NAME=VALUE" in said
    assert "2 faults in the input; nothing has been changed" in said


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["nosuchverb"], 2, "No such command"),
        (["build", "/nonexistent"], 2, "no such file or folder"),
        (["build", ".", "--cluster", "vagrant"], 2, "--sandbox vagrant"),
        (["build", ".", "--discover", "guessed"], 2, "--discover guessed"),
        (["build", ".", "--on", "kubernetes", "--discover", "declared"], 2, "--discover declared runs nothing"),
        (["build", ".", "--workers", "10"], 2, "--workers"),
        (["build", ".", "-e", "Port"], 2, "--env Port: not NAME=VALUE"),
        (["build", ".", "--platform", "linux/"], 2, "--platform linux/"),
        (["build", ".", "--platform", "linux/amd64,nothing/at/all/of"], 2, "--platform nothing/at/all/of"),
        (["images", "--output", "yaml"], 2, "--output yaml"),
        (["inspect", "nothere"], 4, "nothere: no such image"),
        (["rmi", "nothere"], 4, "nothere"),
        (["run", "nothere", "--control-plane", "10.0.0.1"], 4, "nothere: no such image"),
        (["run", "x"], 2, "no control-plane node is given"),
        (["status", "nothere"], 2, "nothing is known of a cluster nothere"),
        (["check", "--pre"], 2, "no machine is named"),
        (["check", "--pre", "--post"], 2, "two things"),
        (["check", "--pre", "--control-plane", "10.0.0.1", "--skip-check", "memry"], 2, "memry: no such check"),
        (["check", "--pre", "--control-plane", "10.0.0.1", "--skip-check", "cluster"], 2, "cluster: this cannot be skipped"),
        (["run", "nothere", "--control-plane", "10.0.0.1", "--skip-check", "memry"], 2, "--skip-check memry: no such check"),
    ],
)
def test_execute_invalid_command_line_exits_with_code_and_message(
    words: list[str], code: int, message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(words) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "words",
    [
        *(("apps", "list", "--name"), ("apps", "remove", "web", "--yes", "--name")),
        *(("check",), ("check", "--post", "cis"), ("delete", "--yes")),
        *(("join", "--workers", "10.0.0.4", "--cluster"), ("kubeconfig",), ("logs",), ("remove", "10.0.0.4", "--yes", "--cluster")),
        *(("rollback",), ("rollback", "--plan"), ("status",)),
        *(("upgrade", "web:2", "--cluster"), ("upgrade", "web:2", "--plan", "--cluster")),
    ],
    ids=" ".join,
)
def test_execute_unknown_cluster_changes_nothing_on_this_machine(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "none"))
    assert app.execute([*words, "nothere"]) == 2
    assert "nothing is known of a cluster nothere" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_images_output_json_prints_empty_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["images", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard output is a pipe whose reader has ended. What the parser puts before the streams is taken away."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as output_, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", output_)
        patched.setattr(sys, "stderr", sys.stderr)
        yield


@pytest.mark.parametrize("count", [1, 10_000])
def test_images_closed_stdout_pipe_exits_0(count: int, home: Path, unread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.cloudimage.listing.images", lambda _: print("x" * count) or [])
    assert app.execute(["images", "-o", "json"]) == 0


def test_images_failure_behind_closed_stdout_pipe_keeps_exit_code(home: Path, unread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_: object) -> None:
        print("before")
        raise CommandError("x")

    monkeypatch.setattr("harness.cloudimage.listing.images", failing)
    assert app.execute(["images"]) == CommandError.exit_code


def test_images_broken_connection_exits_1(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def broken(_: object) -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("harness.cloudimage.listing.images", broken)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    assert app.execute(["images"]) == 1
    assert "slipway: system: Broken pipe" in capfd.readouterr().err


def test_images_unexpected_exception_exits_1_without_traceback(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("harness.cloudimage.listing.images", broken)
    assert app.execute(["images"]) == 1
    assert capsys.readouterr().err == (
        "slipway: this should not have happened: KeyError: 'x'\n  hint: run it again with --verbose and report what it says\n"
    )
    with pytest.raises(KeyError):
        app.execute(["images", "--verbose"])


def test_images_home_of_unknown_user_exits_2_with_hint(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", "~nosuchuser/x")
    assert app.execute(["images"]) == 2
    printed = capsys.readouterr().err
    assert "~nosuchuser/x: this machine has no user nosuchuser" in printed
    assert "write the whole path" in printed


def test_apply_clusterfile_with_paths_of_unknown_user_exits_2_with_lines(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ssh = "{pk: ~nosuchuser/id, passwdFile: ~nosuchuser/secret, jump: {host: h, pk: ~nosuchuser/jump}}"
    text = f"apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {{name: shop}}\nspec:\n  image: shop:1\n  colour: red\n  ssh: {ssh}\n"
    (tmp_path / "Clusterfile").write_text(text)
    assert app.execute(["apply", "-f", str(tmp_path / "Clusterfile")]) == 2
    printed = capsys.readouterr().err
    for place in ("6 .spec.colour", "7 .spec.ssh.pk", "7 .spec.ssh.passwdFile", "7 .spec.ssh.jump.pk"):
        assert f"Clusterfile:{place}: " in printed


def test_ssh_login_password_option_is_warned_about_and_hidden(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options.Ssh(passwd="correct-horse").login()
    assert "every user of this machine can read the password" in capsys.readouterr().err
    app._explain(CommandError("correct-horse"))
    assert "correct-horse" not in capsys.readouterr().err


def test_explain_hides_known_secrets(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SLIPWAY_SSH_PASSWORD", "correct-horse")
    assert options.Ssh().password() == "correct-horse"
    pairs(["DB_PASSWORD=battery-staple", "MODE=fast-mode"], "--env")
    app._explain(CommandError("x correct-horse", details="battery-staple\nfast-mode", hint="not correct-horse"))
    said = capsys.readouterr().err
    assert "fast-mode" in said
    assert "correct-horse" not in said
    assert "battery-staple" not in said


def test_run_sealer_command_lines_are_accepted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = (Path(__file__).parents[2] / "cases/run-by-flags/commands.txt").read_text().splitlines()
    for line in (line for line in lines if line.startswith("run ")):
        words = line.split()
        assert app.execute([*words, *([] if "--master" in words else ["--control-plane", "10.0.0.1"])]) == 4, line
        assert "no such image" in capsys.readouterr().err


def test_help_lists_all_verbs_in_sections(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["--help"]) == 0
    shown = capsys.readouterr().out
    assert "More:" not in shown
    assert [title for title in ("Images:", "Sharing:", "Trust:", "Clusters:", "Machines:") if title not in shown] == []


HOSTILE = "web\x1b]0;owned\x07\x1b[2J\r\u202enot"
SHOWN = "web\\x1b]0;owned\\x07\\x1b[2J\\r\\u202enot"


def test_explain_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    app._explain(CommandError(f"{HOSTILE}: exit code 1", details=f"{HOSTILE}\nsecond\x9b2J", hint=HOSTILE))
    app._explain(InputError([Fault(HOSTILE, HOSTILE, HOSTILE)]))
    said = capsys.readouterr().err
    assert not set("\x1b\x07\r\u202e") & set(said)
    before, after = SHOWN.split("\\r")
    # Of the output of a program a carriage return ends the line.
    assert said.splitlines()[:5] == [
        f"slipway: {SHOWN}: exit code 1",
        f"    {before}",
        f"    {after}",
        "    second\\x9b2J",
        f"  hint: {SHOWN}",
    ]


def test_table_escapes_control_characters_and_markup(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    output.table(("NAME", "[red]X"), [(HOSTILE, "a\nb"), ("[bold]x[/bold]", "c")])
    plain = capsys.readouterr().out
    monkeypatch.setattr(output, "Console", functools.partial(Console, force_terminal=True, color_system=None, width=200))
    output.table(("NAME", "X"), [(HOSTILE, "a\nb"), ("[bold]x[/bold]", "c")])
    drawn = capsys.readouterr().out
    for said in (plain, drawn):
        assert not set("\x07\r\u202e") & set(said)
        assert f"{SHOWN}  a\\nb" in said
        assert "[bold]x[/bold]" in said
    assert "\x1b" not in plain


def test_print_json_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": HOSTILE})
    said = capsys.readouterr().out
    assert json.loads(said) == {"name": HOSTILE}
    assert said.isascii()
    assert "\x1b" not in said


def test_inspect_expected_value_is_shown_as_text_and_json(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kind = ValueType("integer", minimum=1, maximum=65535)
    port = ExpectedValue("Port", ("manifests/a.yaml:7",), required=True, description="where the site listens", type=kind)
    put(Store.default(), "web:1", info=Info(type="app", values=(port,)))
    assert app.execute(["inspect", "web:1"]) == 0
    line = "value       Port  required, integer, from 1 to 65535; manifests/a.yaml:7: where the site listens"
    assert line in capsys.readouterr().out.splitlines()
    assert app.execute(["inspect", "web:1", "--output", "json"]) == 0
    (platform,) = json.loads(capsys.readouterr().out)["platforms"]
    assert platform["info"]["values"] == [
        {
            "name": "Port",
            "where": ["manifests/a.yaml:7"],
            "default": None,
            "required": True,
            "secret": False,
            "description": "where the site listens",
            "type": "integer",
            "minimum": 1,
            "maximum": 65535,
        }
    ]


def test_inspect_value_with_default_is_shown_once_and_secret_is_hidden(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = (ExpectedValue("Port", default="80"), ExpectedValue("Phrase", secret=True), ExpectedValue("Odd", default="1"))
    put(Store.default(), "web:1", info=Info(type="app", env={"Port": "80", "Phrase": "sesame", "Odd": "2", "Other": "x"}, values=values))
    assert app.execute(["inspect", "web:1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("env ", "value "))]
    assert lines == [
        "env         Odd=2",
        "env         Other=x",
        "value       Port  default 80",
        "value       Phrase  optional, secret",
        "value       Odd  default 1",
    ]


def test_build_check_lists_required_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Kubefile").write_text("FROM scratch\nCOPY a.yaml manifests/\n")
    (tmp_path / "a.yaml").write_text("targetPort: {{ Port }}\n")
    assert app.execute(["build", "--check", str(tmp_path)]) == 0
    assert "value     Port  required; manifests/a.yaml:1" in capsys.readouterr().out.splitlines()

"""Connections to machines and commands on them. No ssh runs here."""

from __future__ import annotations

import io
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, BinaryIO

import pytest

from harness import process
from harness.errors import CommandError, NodeError
from harness.nodes import Login, Machine, Writer
from harness.nodes import ssh as nodes_ssh
from harness.nodes.ssh import OwnMachine, SshConnections
from harness.process import ProcessResult

Answer = Callable[[list[str], dict[str, Any]], tuple[int, str, str]]


class Programs:
    """Takes the place of the door to programs: what was run, and an answer for each."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], dict[str, Any]]] = []
        self.read: list[bytes] = []
        self.answer: Answer = lambda argv, options: (0, "", "")

    def run(self, argv: Any, *, input: str | bytes | IO[bytes] | None = None, **options: Any) -> ProcessResult:
        words = [str(word) for word in argv]
        self.calls.append((words, options))
        if input is not None:
            self.read.append(input.encode() if isinstance(input, str) else input if isinstance(input, bytes) else input.read())
        code, out, err = self.answer(words, options)
        if words[0] == "sh" and err:
            Path(words[-1]).write_text(err)
        return ProcessResult(tuple(words), code, out, err)

    @property
    def last(self) -> str:
        return " ".join(self.calls[-1][0])


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    stand_in = Programs()
    monkeypatch.setattr(process, "run", stand_in.run)
    return stand_in


def machines(*addresses: str, **login: Any) -> tuple[Machine, ...]:
    return tuple(Machine(address, Login(**login)) for address in addresses)


def test_own_machine_is_not_in_ssh_config_and_runs_commands_without_ssh(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    ssh = SshConnections(tmp_path / "c", [Machine("10.0.0.1", host="localhost"), Machine("10.0.0.2")])
    ssh.prepare()
    assert "localhost" not in ssh.config.read_text()
    own, other = ssh.nodes
    assert isinstance(own, OwnMachine)
    assert not isinstance(other, OwnMachine)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(nodes_ssh, "_has_address", lambda _: True)
    programs.calls.clear()
    own.run("true")
    assert [argv[0] for argv, _ in programs.calls] == ["env"]
    assert programs.calls[0][1]["group"]
    # Its network may be set up anew while it is a node.
    monkeypatch.setattr(nodes_ssh, "_has_address", lambda _: False)
    own.run("true")


@pytest.mark.parametrize(
    ("user", "has_address", "message"),
    [(1000, True, "only root can use this machine as a node"), (0, False, "this machine does not have the address")],
)
@pytest.mark.parametrize(
    "action",
    [
        lambda node: node.connect(),
        lambda node: node.run("true", check=False),
        lambda node: node.stream("true", lambda *_: None),
        lambda node: node.attach("true", terminal=False),
        lambda node: node.fetch("true", io.BytesIO(), limit=1),
        lambda node: node.put(b"x", "/etc/x"),
        lambda node: node.put_tar(io.BytesIO(), "/x"),
        lambda node: node.get("/etc/x"),
    ],
    ids=["connect", "run", "stream", "attach", "fetch", "put", "put_tar", "get"],
)
def test_own_machine_of_other_user_or_machine_runs_nothing(
    tmp_path: Path,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
    action: Callable[[OwnMachine], object],
    user: int,
    has_address: bool,
    message: str,
) -> None:
    (own,) = SshConnections(tmp_path / "c", [Machine("10.0.0.1", host="localhost")]).nodes
    assert isinstance(own, OwnMachine)
    for door in ("stream", "attach"):
        monkeypatch.setattr(process, door, lambda *_, **__: pytest.fail("something was run"))
    monkeypatch.setattr("os.geteuid", lambda: user)
    monkeypatch.setattr(nodes_ssh, "_has_address", lambda _: has_address)
    programs.calls.clear()
    with pytest.raises(NodeError, match=rf"localhost \(10\.0\.0\.1\): {message}"):
        action(own)
    assert not programs.calls


def test_prepare_folder_of_lasting_connections_names_its_cluster(tmp_path: Path, programs: Programs) -> None:
    ssh = SshConnections(tmp_path / "c", [Machine("10.0.0.1")])
    ssh.prepare()
    (path,) = {line.split()[1] for line in ssh.config.read_text().splitlines() if line.split()[:1] == ["ControlPath"]}
    assert (Path(path).parent / "cluster").readlink() == tmp_path / "c"


def test_ssh_password_and_passphrase_are_passed_by_environment_only(tmp_path: Path, programs: Programs) -> None:
    ssh = SshConnections(tmp_path / "c", machines("10.0.0.1", user="ops", password="hunter2", passphrase="opensesame"))
    ssh.prepare()
    ssh.nodes[0].run("true")
    written = "".join(path.read_text() for path in (tmp_path / "c").iterdir())
    argv, options = programs.calls[-1]
    for secret in ("hunter2", "opensesame"):
        assert secret not in written
        assert secret not in " ".join(argv)
        assert secret not in repr(ssh.machines)
        assert secret in options["env"].values()
    assert options["env"]["SSH_ASKPASS_REQUIRE"] == "force"
    assert stat.S_IMODE((tmp_path / "c/askpass").stat().st_mode) == 0o700


def test_ssh_without_secrets_asks_no_user(tmp_path: Path, programs: Programs) -> None:
    ssh = SshConnections(tmp_path / "c", machines("10.0.0.1"))
    ssh.prepare()
    ssh.nodes[0].run("true")
    assert not programs.calls[-1][1]["env"]
    assert not (tmp_path / "c/askpass").exists()


def test_run_as_root_executes_directly_and_other_user_through_sudo(tmp_path: Path, programs: Programs) -> None:
    root = SshConnections(tmp_path / "a", machines("10.0.0.1")).nodes[0]
    root.run("echo 'a b'")
    assert programs.calls[-1][0][-1] == """sh -c 'echo '"'"'a b'"'"''"""
    other = SshConnections(tmp_path / "b", machines("10.0.0.1", user="ops")).nodes[0]
    other.run("true")
    assert programs.calls[-1][0][-1] == "sudo -n -- sh -c true"


def test_run_failing_command_raises_error_with_node_command_and_output(tmp_path: Path, programs: Programs) -> None:
    node = SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0]
    programs.answer = lambda argv, options: (3, "some output", "the reason")
    with pytest.raises(CommandError, match=r"10\.0\.0\.1: systemctl start x: exit code 3") as caught:
        node.run("systemctl start x")
    assert "the reason" in str(caught.value.details)
    assert node.run("systemctl start x", check=False).returncode == 3


def test_run_sudo_that_requires_password_raises_node_error(tmp_path: Path, programs: Programs) -> None:
    node = SshConnections(tmp_path / "c", machines("10.0.0.1", user="ops")).nodes[0]
    programs.answer = lambda argv, options: (1, "", "sudo: a password is required\n")
    with pytest.raises(NodeError, match="ops may not become root") as caught:
        node.run("true", check=False)
    assert "NOPASSWD" in str(caught.value.hint)


def test_run_password_message_of_other_program_returns_exit_code(tmp_path: Path, programs: Programs) -> None:
    node = SshConnections(tmp_path / "c", machines("10.0.0.1", user="ops")).nodes[0]
    programs.answer = lambda argv, options: (1, "", "mysql: a password is required\n")
    assert node.run("mysql", check=False).returncode == 1


def test_run_exit_code_255_over_live_connection_raises_command_error(tmp_path: Path, programs: Programs) -> None:
    node = SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0]
    programs.answer = lambda argv, options: (0, "", "Master running") if "check" in argv else (255, "", "its own words")
    with pytest.raises(CommandError, match="exit code 255") as caught:
        node.run("exit 255")
    assert caught.value.details == "its own words"


def connecting(failing: dict[str, str]) -> Answer:
    def answer(argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        address = next((address for address in ("10.0.0.1", "10.0.0.2", "10.0.0.3") if address in " ".join(argv)), "")
        if argv[0] == "sh" and address in failing:
            return 255, "", failing[address]
        return (0, f"Host-{address[-1]}\n", "") if argv[0] == "sh" else (0, "", "")

    return answer


def test_connect_names_nodes_by_lowercase_host_name(tmp_path: Path, programs: Programs) -> None:
    programs.answer = connecting({})
    nodes = SshConnections(tmp_path / "c", machines("10.0.0.1", "10.0.0.2")).connect()
    assert [node.name for node in nodes] == ["host-1", "host-2"]


def test_connect_reports_failures_of_all_machines_at_once(tmp_path: Path, programs: Programs) -> None:
    programs.answer = connecting({"10.0.0.1": "Connection refused", "10.0.0.3": "Permission denied (publickey)"})
    with pytest.raises(NodeError) as caught:
        SshConnections(tmp_path / "c", machines("10.0.0.1", "10.0.0.2", "10.0.0.3")).connect()
    assert "10.0.0.1: nothing listens" in caught.value.message
    assert "10.0.0.3: it does not accept" in caught.value.message
    assert "10.0.0.2" not in caught.value.message


def test_reachable_separates_connected_nodes_from_failed_ones(tmp_path: Path, programs: Programs) -> None:
    programs.answer = connecting({"10.0.0.2": "Connection refused"})
    good, errors = SshConnections(tmp_path / "c", machines("10.0.0.1", "10.0.0.2")).reachable()
    assert [node.address for node in good] == ["10.0.0.1"]
    assert [node.address for node in errors] == ["10.0.0.2"]


def test_connect_login_timeout_raises_node_error(tmp_path: Path, programs: Programs) -> None:
    def hang(argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        raise CommandError("sh: not done after 60 s")

    programs.answer = hang
    with pytest.raises(NodeError, match="no answer"):
        SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0].connect()


def test_connect_new_host_key_is_reported_once(tmp_path: Path, programs: Programs, capsys: pytest.CaptureFixture[str]) -> None:
    ssh = SshConnections(tmp_path / "c", machines("10.0.0.1"))

    def answer(argv: list[str], options: dict[str, Any]) -> tuple[int, str, str]:
        if argv[0] == "ssh-keygen":
            return 0, "256 SHA256:abc 10.0.0.1 (ED25519)\n", ""
        (tmp_path / "c/known_hosts").write_text("10.0.0.1 ssh-ed25519 AAAA\n")
        return 0, "one\n", ""

    programs.answer = answer
    ssh.connect()
    assert "10.0.0.1: host key SHA256:abc (ED25519) is pinned" in capsys.readouterr().err
    ssh.connect()
    assert "pinned" not in capsys.readouterr().err


def many(pieces: int) -> Writer:
    def write(stream: BinaryIO) -> None:
        stream.writelines(b"x" * 100_000 for _ in range(pieces))

    return write


def test_put_tar_writer_feeds_command_and_its_failure_is_raised(tmp_path: Path, programs: Programs) -> None:
    node = SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0]
    node.put_tar(many(10), "/data")
    assert programs.read == [b"x" * 1_000_000]

    def broken(stream: Any) -> None:
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        node.put_tar(broken, "/data")


def test_sent_counts_bytes_of_commands_and_their_input(tmp_path: Path, programs: Programs) -> None:
    ssh = SshConnections(tmp_path / "c", machines("10.0.0.1", "10.0.0.2"))
    for node in ssh.nodes:
        node.put_tar(many(10), "/data")
    ssh.nodes[0].run("cat", input=b"x" * 500)
    assert 2_000_500 < ssh.sent < 2_002_000


def test_close_twice_runs_at_end_actions_once_before_connections_end(tmp_path: Path, programs: Programs) -> None:
    ssh = SshConnections(tmp_path / "c", machines("10.0.0.1"))
    done: list[str] = []
    ssh.at_end.append(lambda: done.append("now"))

    def answer(argv: list[str], _: dict[str, Any]) -> tuple[int, str, str]:
        done.append(argv[argv.index("-O") + 1])
        return 0, "", ""

    programs.answer = answer
    ssh.close()
    assert done == ["now", "exit"]
    ssh.close()
    assert done == ["now", "exit", "exit"]


def test_put_tar_command_that_stops_reading_ends_writer_and_raises(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reads_little(argv: Any, *, input: Any = None, **_: Any) -> ProcessResult:
        input.read(10)
        return ProcessResult(("ssh",), 2, "", "no space left")

    monkeypatch.setattr(process, "run", reads_little)
    node = SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0]
    with pytest.raises(CommandError) as caught:
        node.put_tar(many(1000), "/data")
    assert "no space left" in str(caught.value.details)


def test_put_path_with_shell_characters_is_quoted(tmp_path: Path, programs: Programs) -> None:
    node = SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0]
    node.put(b"data", "/etc/a b;rm -rf x", 0o600)
    # Quoted twice: for the command, and for the shell that is given the command.
    assert "'\"'\"'/etc/a b;rm -rf x'\"'\"'" in programs.last
    assert programs.read == [b"data"]


def test_connections_of_two_clusters_use_distinct_short_socket_paths(tmp_path: Path, programs: Programs) -> None:
    one, two = SshConnections(tmp_path / "one", machines("10.0.0.1")), SshConnections(tmp_path / "two", machines("10.0.0.1"))
    assert one.sockets != two.sockets
    # The path of a socket may have 104 characters on some systems; ssh adds a hash and a suffix to it.
    assert len(str(one.sockets)) + 1 + 40 + 17 < 104


@pytest.mark.parametrize("said", ["../../x", "a/b", "", "-rf", "a\x1b[2J", "a\nb", "x" * 300, "a b"])
def test_connect_invalid_host_name_falls_back_to_address(tmp_path: Path, programs: Programs, said: str) -> None:
    programs.answer = lambda argv, _: (0, f"{said}\n" if argv[0] == "sh" else "", "")
    (node,) = SshConnections(tmp_path / "c", machines("10.0.0.1")).connect()
    assert node.name == "10.0.0.1"


def test_node_commands_without_timeout_use_default_timeout(tmp_path: Path, programs: Programs) -> None:
    node = SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0]
    for action in (
        lambda: node.run("true"),
        lambda: node.put(b"x", "/etc/x"),
        lambda: node.put_tar(io.BytesIO(b""), "/x"),
        lambda: node.get("/etc/x"),
        lambda: node.fetch("cat /x", io.BytesIO(), limit=1),
    ):
        programs.calls.clear()
        action()
        assert programs.calls
        for argv, options in programs.calls:
            assert 0 < options["timeout"] <= 7200, argv
    assert programs.calls[-1][1]["limit"] == 1, "what is fetched into a file has a ceiling"


@pytest.mark.parametrize(
    ("reason", "hint", "shown"),
    [
        ("not done after 600 s", None, "see what holds it up there"),
        ("ended, since it printed more than 64 MiB", "this is far more than it should print", "far more than it should print"),
    ],
)
def test_run_and_fetch_time_or_output_limit_error_names_node_and_command(
    tmp_path: Path, programs: Programs, reason: str, hint: str | None, shown: str
) -> None:
    def answer(argv: list[str], _: dict[str, Any]) -> tuple[int, str, str]:
        raise CommandError(f"{' '.join(argv)}: {reason}", hint=hint)

    programs.answer = answer
    node = SshConnections(tmp_path / "c", machines("10.0.0.1")).nodes[0]
    for action in (lambda: node.run("cat /x"), lambda: node.fetch("cat /x", io.BytesIO(), limit=1)):
        with pytest.raises(CommandError) as failed:
            action()
        assert failed.value.message == f"10.0.0.1: cat /x: {reason}"
        assert shown in str(failed.value.hint)


def test_run_lost_connection_is_reported_although_control_command_hangs(tmp_path: Path, programs: Programs) -> None:
    def answer(argv: list[str], _: dict[str, Any]) -> tuple[int, str, str]:
        if "-O" in argv:
            raise CommandError("ssh -O: not done after 10 s")
        return 255 if "false" in argv[-1] else 0, "", ""

    programs.answer = answer
    with SshConnections(tmp_path / "c", machines("10.0.0.1")) as ssh:
        ssh.nodes[0].run("true")
        with pytest.raises(NodeError, match="the connection was lost"):
            ssh.nodes[0].run("false")

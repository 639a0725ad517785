"""Commands on machines whose output is handed on as it comes. No ssh runs here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import CommandError, NodeError
from harness.nodes import Login, Machine
from harness.nodes.ssh import _OWN, SshConnections, SshNode
from harness.process import ProcessResult

Said = Sequence[tuple[str, str]]


class Door:
    """Takes the place of the door to programs."""

    def __init__(self) -> None:
        self.code = 0
        self.said: Said = ()
        self.kex = "curve25519-sha256\n"
        self.argv: list[str] = []
        self.env: Any = None

    def stream(self, argv: Any, take: process.Take, *, env: Any = None, stop: Any = None, group: bool = False) -> int:
        assert not group
        self.argv, self.env = [str(word) for word in argv], env
        for stream, line in self.said:
            take(stream, line)
        return self.code

    def attach(self, argv: Any, *, env: Any = None) -> int:
        self.argv, self.env = [str(word) for word in argv], env
        return self.code

    def run(self, argv: Any, *, output: Any = None, **_: Any) -> ProcessResult:
        if output is not None:
            output.write(b"\x00bytes")
        return ProcessResult(
            tuple(str(word) for word in argv), self.code, self.kex if "-Q" in argv else "", "".join(line for _, line in self.said)
        )


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    stand_in = Door()
    monkeypatch.setattr(process, "stream", stand_in.stream)
    monkeypatch.setattr(process, "attach", stand_in.attach)
    monkeypatch.setattr(process, "run", stand_in.run)
    return stand_in


def node(tmp_path: Path, **login: Any) -> SshNode:
    ssh = SshConnections(tmp_path / "c", [Machine("10.0.0.1", Login(**login))])
    ssh.prepare()
    return ssh.nodes[0]


def streamed(one: SshNode, command: str = "true") -> tuple[int, list[tuple[str, str]]]:
    found: list[tuple[str, str]] = []
    code = one.stream(command, lambda stream, line: found.append((stream, line)))
    return code, found


def test_stream_hands_on_lines_and_exit_code_without_control_connection(tmp_path: Path, door: Door) -> None:
    door.code, door.said = 3, (("stdout", "a"), ("stderr", "b"))
    assert streamed(node(tmp_path)) == (3, [("stdout", "a"), ("stderr", "b")])
    assert "ControlMaster=no" in door.argv
    assert door.argv[-1].startswith("sh -c ")


def test_stream_lost_connection_raises_node_error(tmp_path: Path, door: Door) -> None:
    door.code, door.said = 255, (("stderr", "ssh: connect to host 10.0.0.1 port 22: Connection refused"),)
    with pytest.raises(NodeError, match="nothing listens on port 22"):
        streamed(node(tmp_path))


def test_stream_exit_code_255_of_command_is_returned_without_mark(tmp_path: Path, door: Door) -> None:
    door.code, door.said = 255, (("stderr", "worse"), ("stderr", _OWN))
    assert streamed(node(tmp_path)) == (255, [("stderr", "worse")])


@pytest.mark.parametrize("terminal", [True, False])
def test_attach_uses_shared_connection_and_returns_exit_code(tmp_path: Path, door: Door, terminal: bool) -> None:
    door.code = 3
    assert node(tmp_path, password="hunter2").attach("ls", terminal=terminal) == 3
    assert (("-tt" in door.argv), door.argv[-3:]) == (terminal, ["--", "10.0.0.1", "sh -c ls"])
    assert "ControlMaster=no" not in door.argv
    assert door.env["SLIPWAY_SSH_PASSWORD"] == "hunter2"


def test_attach_exit_code_255_raises_node_error_only_without_shared_connection(
    tmp_path: Path, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    door.code = 255
    with pytest.raises(NodeError, match="the connection was lost"):
        node(tmp_path).attach("exit 255", terminal=False)
    monkeypatch.setattr(SshNode, "_is_shared", lambda _: True)
    assert node(tmp_path).attach("exit 255", terminal=False) == 255


def test_stream_password_is_passed_by_environment_not_arguments(tmp_path: Path, door: Door) -> None:
    streamed(node(tmp_path, password="hunter2"))
    assert door.env["SLIPWAY_SSH_PASSWORD"] == "hunter2"
    assert "hunter2" not in " ".join(door.argv)


def test_hasten_prefers_curve25519_key_exchange_after_user_configuration(tmp_path: Path, door: Door) -> None:
    one = node(tmp_path)
    streamed(one)
    before = door.argv[door.argv.index("-F") + 1]
    one.ssh.hasten()
    streamed(one)
    config = Path(door.argv[door.argv.index("-F") + 1])
    assert str(config) != before
    assert config.read_text().startswith(Path(before).read_text())
    assert config.read_text().endswith("  Include ~/.ssh/config\n\nHost *\n  KexAlgorithms ^curve25519-sha256\n")
    # Everything else, keys among it, travels as before.
    assert "KexAlgorithms" not in Path(before).read_text()


def test_hasten_with_mlkem_key_exchange_keeps_configuration(tmp_path: Path, door: Door) -> None:
    door.kex = "mlkem768x25519-sha256\ncurve25519-sha256\n"
    one = node(tmp_path)
    one.ssh.hasten()
    assert one.ssh.for_many == one.ssh.own


def test_fetch_writes_bytes_to_file_and_raises_on_failure(tmp_path: Path, door: Door) -> None:
    one = node(tmp_path)
    with (tmp_path / "out").open("wb") as file:
        one.fetch("cat /data", file, limit=100)
    assert (tmp_path / "out").read_bytes() == b"\x00bytes"
    door.code, door.said = 1, (("stderr", "no such file"),)
    with pytest.raises(CommandError, match="exit code 1"), (tmp_path / "out").open("wb") as file:
        one.fetch("cat /data", file, limit=100)

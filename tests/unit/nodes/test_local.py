"""This machine and containers of its engine as nodes. No program runs here."""

from __future__ import annotations

import base64
import io
from typing import Any, BinaryIO

import pytest

from harness import process
from harness.errors import CommandError, NodeError
from harness.nodes.files import received
from harness.nodes.local import LocalNode
from harness.process import ProcessResult


class Shell:
    """Takes the place of the door to programs."""

    def __init__(self) -> None:
        self.code, self.stdout, self.stderr = 0, "", ""
        self.argv: list[str] = []
        self.read: bytes | None = None
        self.timeout = 0.0

    def run(self, argv: Any, *, input: Any = None, check: bool = True, timeout: float) -> ProcessResult:
        self.argv, self.timeout = list(argv), timeout
        self.read = input if isinstance(input, bytes) or input is None else input.read()
        return ProcessResult(tuple(argv), self.code, self.stdout, self.stderr)


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> Shell:
    shell = Shell()
    monkeypatch.setattr(process, "run", shell.run)
    return shell


def test_run_uses_the_shell_of_this_machine_or_of_the_container(shell: Shell) -> None:
    shell.stdout = "out"
    result = LocalNode().run("echo 'a b'", timeout=7)
    assert (shell.argv, shell.timeout) == (["sh", "-c", "echo 'a b'"], 7)
    assert (result.argv, result.stdout) == (("this machine", "echo 'a b'"), "out")
    node = LocalNode("10.0.0.1", "lab-control-plane")
    node.run("true")
    assert shell.argv == ["docker", "exec", "-i", "lab-control-plane", "sh", "-c", "true"]
    assert (node.name, node.address) == ("lab-control-plane", "10.0.0.1")


def test_run_failing_command_raises_unless_it_is_not_checked(shell: Shell) -> None:
    shell.code, shell.stderr = 3, "the reason"
    with pytest.raises(CommandError, match="this machine: systemctl start x: exit code 3") as caught:
        LocalNode().run("systemctl  start\n x")
    assert "the reason" in str(caught.value.details)
    assert LocalNode().run("systemctl start x", check=False).returncode == 3


def test_run_in_a_missing_container_raises_node_error(shell: Shell) -> None:
    shell.code, shell.stderr = 1, "Error response from daemon: No such container: gone"
    with pytest.raises(NodeError, match="gone: this machine's engine has no such container"):
        LocalNode(container="gone").run("true", check=False)
    # The words of a command on this machine are its own.
    assert LocalNode().run("docker ps", check=False).returncode == 1


def test_put_tar_takes_a_stream_and_a_writer(shell: Shell) -> None:
    def write(stream: BinaryIO) -> None:
        stream.write(b"tar")

    for source in (io.BytesIO(b"tar"), write):
        LocalNode().put_tar(source, "/a b")
        assert shell.argv[-1] == "mkdir -p '/a b' && exec tar -C '/a b' -xof -"
        assert shell.read == b"tar"


def test_put_replaces_the_file_in_one_move(shell: Shell) -> None:
    LocalNode().put(b"data", "/etc/a b", 0o600)
    assert shell.argv[-1] == f"umask 077; mkdir -p /etc && {{ {received('/etc/a b', 4, 0o600)}; }}"
    assert shell.read == b"data"


def test_get_returns_bytes_and_refuses_what_is_not_base64(shell: Shell) -> None:
    shell.stdout = base64.b64encode(bytes(range(256))).decode()
    assert LocalNode().get("/etc/x") == bytes(range(256))
    shell.stdout = "not base64!"
    with pytest.raises(NodeError, match="/etc/x did not arrive whole"):
        LocalNode().get("/etc/x")

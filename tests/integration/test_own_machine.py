"""This machine as a node: the commands of a node without sshd. Only below the folder of a test is anything changed."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from harness import process
from harness.errors import CommandError, NodeError
from harness.nodes import Login, Machine, claim, names
from harness.nodes.ssh import OwnMachine, SshConnections
from tests.waiting import until


@pytest.fixture
def own(tmp_path: Path) -> OwnMachine:
    address = names.resolve({"localhost": Login()}, {}, tmp_path / "known_hosts")["localhost"]
    ssh = SshConnections(tmp_path / "c", [Machine(address, Login(password="hunter2"), "localhost")])
    (node,) = ssh.connect()
    assert isinstance(node, OwnMachine)
    return node


def alive(file: Path) -> bool:
    """True while the process lives whose id is in a file."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{file.read_text().strip()}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_commands_run_as_root_without_settings_of_the_user(own: OwnMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert own.name == os.uname().nodename.lower()
    monkeypatch.setenv("KUBECONFIG", "/somewhere")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    seen = own.run("id -u; pwd; umask; env").stdout
    assert seen.split()[:3] == ["0", "/root", "0022"]
    assert "KUBECONFIG" not in seen
    assert "LC_ALL" not in seen
    assert "hunter2" not in seen


def test_files_and_streams_arrive(own: OwnMachine, tmp_path: Path) -> None:
    data = os.urandom(1 << 20)
    own.put(data, str(tmp_path / "deep/file"), 0o600)
    assert own.get(str(tmp_path / "deep/file")) == data

    assert own.run("wc -c", input=b"written").stdout.strip() == "7"
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))

    def write(stream: BinaryIO) -> None:
        stream.write(archive.getvalue())

    assert own.run("tar -tf -", input=write).stdout == "empty\n"
    own.put_tar(write, str(tmp_path / "unpacked"))
    assert (tmp_path / "unpacked/empty").read_bytes() == b""
    with (tmp_path / "fetched").open("wb") as into:
        own.fetch("printf fetched", into, limit=100)
    assert (tmp_path / "fetched").read_text() == "fetched"


def test_failures_are_those_of_a_node(own: OwnMachine) -> None:
    with pytest.raises(CommandError, match="exit code 3"):
        own.run("exit 3")
    # The code by which ssh means a lost connection is an ordinary one here.
    assert own.run("exit 255", check=False).returncode == 255
    lines: list[tuple[str, str]] = []
    assert own.stream("echo out; echo err >&2; exit 255", lambda *line: lines.append(line)) == 255
    assert sorted(lines) == [("stderr", "err"), ("stdout", "out")]
    with pytest.raises(CommandError, match="printed more than"):
        own.run("head -c 100000000 /dev/zero")


def test_command_that_takes_too_long_ends_with_all_that_it_has_started(own: OwnMachine, tmp_path: Path) -> None:
    child = tmp_path / "child"
    with pytest.raises(CommandError, match="not done after 1 s"):
        # The leader ends at once, the other one holds its output.
        own.run(f"(trap '' TERM; sh -c 'echo $$ > {child}; exec sleep 1000') &", timeout=1)
    until(lambda: not alive(child), "its end")


@pytest.mark.parametrize("verb", ["run", "stream"])
def test_interruption_ends_commands_with_all_that_they_have_started(own: OwnMachine, tmp_path: Path, verb: str) -> None:
    child = tmp_path / "child"
    command = f"trap '' TERM; sh -c 'echo $$ > {child}; exec sleep 1000' & wait"
    codes: list[int] = []

    def work() -> None:
        codes.append(own.run(command, check=False).returncode if verb == "run" else own.stream(command, lambda *_: None))

    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: child.exists() and child.read_text() and alive(child), "the command")
    process.end_all()
    thread.join()
    assert codes[0] != 0
    until(lambda: not alive(child), "its end")


def test_claims_hold_here_too(own: OwnMachine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "FENCE", str(tmp_path / "fence"))
    with claim.holding() as held:
        own.run("true")
        assert (tmp_path / "fence").read_text().strip() == held.id


def test_address_of_another_machine_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"localhost \(192\.0\.2\.7\): this machine does not have the address"):
        SshConnections(tmp_path / "c", [Machine("192.0.2.7", host="localhost")]).connect()

"""Files for a machine, as the archive that carries them."""

from __future__ import annotations

import io
import re
import tarfile

import pytest

from harness.errors import NodeError
from harness.nodes.files import NodeFile, archive, read_files, tar_stream, write_files
from tests.unit.lifecycle.standin import StandIn
from tests.unit.runtimes.machines import Machine


def test_archive_keeps_modes_and_links_and_sets_root_as_owner() -> None:
    data = archive(
        {"/etc/x/key": NodeFile(b"secret", 0o600), "/usr/local/bin/kubectl": NodeFile(link="/opt/kubectl"), "/etc/a": NodeFile.text("ä")}
    )
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        key, link = tar.getmember("etc/x/key"), tar.getmember("usr/local/bin/kubectl")
        assert (key.mode, key.uid, key.gid, key.size) == (0o600, 0, 0, 6)
        assert (link.issym(), link.linkname) == (True, "/opt/kubectl")
        text = tar.extractfile("etc/a")
        assert text is not None
        assert text.read() == "ä".encode()


@pytest.mark.parametrize("path", ["etc/x", "/etc/../x", "/etc//x", "/etc/x/", "//etc/x", "///etc/x", "/", "//", "/..", ""])
def test_archive_path_not_plain_and_absolute_raises_value_error(path: str) -> None:
    with pytest.raises(ValueError, match="not a plain absolute path"):
        archive({path: NodeFile(b"")})


def test_tar_stream_into_unseekable_pipe_writes_readable_tar() -> None:
    class Pipe(io.RawIOBase):
        """Takes bytes, and cannot be asked where it is."""

        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:  # type: ignore[override]
            self.data += bytes(data)
            return len(data)

    pipe = Pipe()
    with tar_stream(pipe) as tar:  # type: ignore[arg-type]
        for number in range(3):
            entry = tarfile.TarInfo(f"file-{number}")
            entry.size = 1000
            tar.addfile(entry, io.BytesIO(b"x" * 1000))
    with tarfile.open(fileobj=io.BytesIO(pipe.data)) as found:
        assert found.getnames() == ["file-0", "file-1", "file-2"]


def test_read_files_returns_requested_paths_only_and_refuses_damaged_content() -> None:
    node = StandIn("10.0.0.1")
    node.answers = {"base64": "/etc/a YQ==\n/root/x eA==\n../y eA==\nend\n"}
    assert read_files(node, ["/etc/a", "/etc/b"]) == {"/etc/a": b"a"}
    for odd in ("/etc/a %%\nend\n", "/etc/a YQ\nend\n"):
        node.answers = {"base64": odd}
        with pytest.raises(NodeError, match="/etc/a did not arrive whole"):
            read_files(node, ["/etc/a"])


def test_write_files_changes_each_file_at_once() -> None:
    node = Machine("control-plane-1", "10.0.0.1")
    write_files(node, {"/etc/a/x": NodeFile(b"1"), "/etc/a/it's": NodeFile(b"2", 0o600), "/etc/b": NodeFile(link="a")})
    assert node.files == {"/etc/a/x": (b"1", 0o644, ""), "/etc/a/it's": (b"2", 0o600, ""), "/etc/b": (b"", 0o644, "a")}
    assert re.sub(r"-[0-9a-f]{8}\b", "-ID", node.commands[0]).splitlines() == [
        "umask 022; set -e; trap 'rm -rf /etc/a/.slipway-new-ID /etc/.slipway-new-ID' EXIT; tar -C / -xopf -",
        """cd /etc/a/.slipway-new-ID; mv -f './it'"'"'s' ./x ..; cd /""",
        "cd /etc/.slipway-new-ID; mv -f ./b ..; cd /",
    ]


def test_write_files_twice_uses_distinct_temporary_paths() -> None:
    """The commands of a controller that was killed may still run on a machine when the next one writes the same files."""
    node = Machine("control-plane-1", "10.0.0.1")
    for _ in range(2):
        write_files(node, {"/etc/a/x": NodeFile(b"1")})
    first, second = node.commands
    assert first != second

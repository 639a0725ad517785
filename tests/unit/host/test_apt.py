"""Packages of the machine's own apt. No program runs here."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import CommandError
from harness.host import apt
from harness.process import ProcessResult


class Machine:
    """A machine with some programs, whose apt brings the others."""

    def __init__(self, *programs: str) -> None:
        self.programs = set(programs)
        self.brings: set[str] = set()
        self.calls: list[tuple[list[str], dict[str, Any]]] = []

    def which(self, program: str) -> str | None:
        return f"/usr/bin/{program}" if program in self.programs else None

    def run(self, argv: list[str], **options: Any) -> ProcessResult:
        self.calls.append((argv, options))
        if "install" in argv:
            self.programs |= self.brings
        return ProcessResult(tuple(argv), 0, "", "")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    machine = Machine("tar")
    (tmp_path / "apt-get").touch()
    monkeypatch.setattr(apt, "APT", tmp_path / "apt-get")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", machine.which)
    monkeypatch.setattr(process, "run", machine.run)
    return machine


def test_available_needs_root_and_apt(machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert apt.available()
    (tmp_path / "apt-get").unlink()
    assert not apt.available()
    (tmp_path / "apt-get").touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not apt.available()


def test_install_refreshes_index_and_is_noninteractive(machine: Machine) -> None:
    apt.install("skopeo", "openssh-client")
    (update, update_options), (install, install_options) = machine.calls
    assert update[-1] == "update"
    assert update_options["check"] is False
    assert install[-5:] == ["install", "-y", "--no-install-recommends", "skopeo", "openssh-client"]
    assert "check" not in install_options
    assert {options["env"]["DEBIAN_FRONTEND"] for options in (update_options, install_options)} == {"noninteractive"}


def test_ensure_program_that_exists_installs_nothing(machine: Machine) -> None:
    assert apt.ensure("tar", "tar") == "/usr/bin/tar"
    assert machine.calls == []


def test_ensure_missing_program_is_installed(machine: Machine) -> None:
    machine.brings = {"ssh"}
    assert apt.ensure("ssh", "openssh-client") == "/usr/bin/ssh"
    assert machine.calls[-1][0][-1] == "openssh-client"


def test_ensure_program_that_cannot_be_installed_raises(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CommandError, match="ssh is needed and not installed") as missing:
        apt.ensure("ssh", "openssh-client")
    assert missing.value.hint == "install the package openssh-client"
    machine.calls.clear()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CommandError, match="ssh is needed and not installed"):
        apt.ensure("ssh", "openssh-client")
    assert machine.calls == []

"""A minimal Debian from the package archive."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import process
from harness.build import debian
from harness.build.debian import make_debian
from harness.errors import BuildError, CommandError, EngineError
from harness.host import apt
from harness.oci.model import Platform

SETTINGS = 'APT::Architecture "amd64";\nAcquire::Retries "3";\nAcquire::http::Proxy "http://user@proxy";\n'
HOST, OTHER = Platform.host(), Platform("linux", "riscv64")


class Machine:
    """Answers the programs that ``make_debian`` runs; ``fails`` is the word of the one that fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fails: str = "") -> None:
        self.fails = fails
        self.settings = ""
        self.words: list[str] = []
        self.imported: dict[str, Any] = {}
        self.api = SimpleNamespace(import_image=lambda **options: self.imported.update(options))
        monkeypatch.setattr(process, "run", self.run)
        monkeypatch.setattr(apt, "ensure", lambda *_: Path("/usr/bin/mmdebstrap"))
        monkeypatch.setattr(debian, "_apt_sources", lambda _suite: [])

    def run(self, words: list[str | Path], **_: object) -> SimpleNamespace:
        first = Path(words[0]).name
        if first == self.fails:
            raise CommandError("failed", details="output")
        if first == "mmdebstrap":
            self.words = [str(word) for word in words]
            work = Path(self.words[-2]).parent
            self.settings = Path(work, "50host").read_text()
        archives = "http://security.test/debian-security Debian\nhttp://deb.test/debian Debian\n"
        return SimpleNamespace(stdout=SETTINGS if first == "apt-config" else archives)


def make(machine: Machine, platform: Platform = HOST) -> None:
    client: Any = machine
    make_debian(client, "debian:bookworm-slim", "bookworm", platform)


def test_make_debian_imports_tree_from_package_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)
    monkeypatch.setattr(debian, "_archive", lambda: "http://deb.test/debian")
    make(machine)
    assert machine.words[0] == "/usr/bin/mmdebstrap"
    assert machine.words[-1].startswith("deb http://deb.test/debian bookworm main")
    assert machine.settings == 'Acquire::Retries "3";\n'
    assert (machine.imported["repository"], machine.imported["tag"]) == ("debian", "bookworm-slim")


def test_make_debian_for_another_processor_hints_at_emulation(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BuildError, match="no Debian bookworm for linux/riscv64") as caught:
        make(Machine(monkeypatch, fails="mmdebstrap"), OTHER)
    assert "qemu-user-static" in str(caught.value.hint)
    with pytest.raises(CommandError):
        make(Machine(monkeypatch, fails="mmdebstrap"))


def test_make_debian_without_mmdebstrap_raises_engine_error(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch)

    def fail(*_: object) -> None:
        raise CommandError("no package", hint="apt-get install")

    monkeypatch.setattr(apt, "ensure", fail)
    with pytest.raises(EngineError, match="making it needs mmdebstrap"):
        make(machine)

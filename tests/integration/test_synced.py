"""How a step is noted once the disks have what it did, by the shell of this machine. ``sync`` and ``stat`` are stand-ins."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from harness.lifecycle.plan import Journal
from harness.nodes.files import STATE
from harness.nodes.local import LocalNode

DEVICES = {"/": 1, "/etc": 1, "/usr": 1, "/var": 1, "/var/lib": 2, STATE: 2, "/var/lib/kubelet": 2, "/var/lib/etcd": 21, "/opt": 3}
"""Device of each folder that the machine has."""
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
STAT = """#!/bin/sh
while read -r place device; do
  if [ "$1 $2 $3" = "-c %d $place" ]; then echo "$device"; exit; fi
done < "$STUB/devices"
exit 1
"""
SYNC = """#!/bin/sh
if [ -s "$STUB/journal" ]; then echo "the step was noted before" >> "$STUB/happened"; fi
echo "sync $*" >> "$STUB/happened"
while read -r words; do
  if [ "$*" = "$words" ]; then echo "sync: error" >&2; exit 1; fi
done < "$STUB/refused"
"""


class Disks:
    """The programs of a machine in ``folder``, and what happened there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = LocalNode()
        (folder / "devices").write_text("".join(f"{place} {device}\n" for place, device in DEVICES.items()))
        self.refuse()
        for name in ("sh", "cat", "mkdir"):
            program = shutil.which(name)
            assert program is not None
            (folder / name).symlink_to(program)
        self.program("stat", STAT)
        self.program("sync", SYNC)

    def program(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def refuse(self, *words: str) -> None:
        """Let ``sync`` fail with these words."""
        (self.folder / "refused").write_text("".join(f"{each}\n" for each in words))

    def note(self) -> list[str]:
        """Note a step as finished; returns the calls of ``sync``."""
        Journal(str(self.folder / "journal")).add(self.node, "a", "1")
        happened = self.folder / "happened"
        return happened.read_text().splitlines() if happened.exists() else []

    @property
    def journal(self) -> str:
        return (self.folder / "journal").read_text()

    def holds(self) -> bool:
        return Journal(str(self.folder / "journal")).has(self.node, "a", "1")


@pytest.fixture
def disks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disks:
    machine = Disks(tmp_path)
    monkeypatch.setenv("STUB", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    return machine


def test_synced_writes_each_file_system_once_before_step_is_noted(disks: Disks) -> None:
    assert disks.note() == ["sync -f /", "sync -f /opt", "sync -f /var/lib", "sync -f /var/lib/etcd"]
    assert disks.journal == "a 1\n"
    assert disks.holds()


def test_synced_without_option_for_file_systems_writes_everything_once(disks: Disks) -> None:
    disks.refuse("-f /", "-f /proc")
    assert disks.note() == ["sync -f /", "sync -f /proc", "sync "]
    assert disks.journal == "a 1\n"


def test_synced_without_stat_writes_everything_once(disks: Disks) -> None:
    (disks.folder / "stat").unlink()
    assert disks.note() == ["sync "]
    assert disks.journal == "a 1\n"


@pytest.mark.parametrize("place", ["/", "/var/lib", "/var/lib/etcd"])
def test_synced_disk_that_refuses_notes_step_for_this_boot_only(disks: Disks, place: str) -> None:
    disks.refuse(f"-f {place}")
    disks.note()
    assert disks.journal == f"a 1 {BOOT}\n"
    assert disks.holds()
    (disks.folder / "journal").write_text(disks.journal.replace(BOOT, "earlier"))
    assert not disks.holds()


def test_synced_without_program_notes_step_for_this_boot_only(disks: Disks) -> None:
    (disks.folder / "sync").unlink()
    assert disks.note() == []
    assert disks.journal == f"a 1 {BOOT}\n"

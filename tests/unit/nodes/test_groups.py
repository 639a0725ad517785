"""Names and numbers of the machines of a group, and its key."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.nodes import GroupMember, groups


def test_missing_machines_continue_numbers_of_each_role() -> None:
    members = [GroupMember(f"lab-worker-{number}", "", "worker") for number in (1, 11)]
    assert groups.missing("lab", members, 1, 4) == [
        ("lab-control-plane-1", "control-plane"),
        ("lab-worker-12", "worker"),
        ("lab-worker-13", "worker"),
    ]
    assert groups.missing("lab", members, 0, 1) == []
    assert groups.missing("lab", members, 0, 3, {"worker": 12}) == [("lab-worker-13", "worker")]
    assert groups.number("i-abc") == 0


def test_numbers_are_highest_of_each_role_and_kept_in_folder(tmp_path: Path) -> None:
    members = [GroupMember("lab-worker-3", "", "worker"), GroupMember("i-00000012", "", "worker")]
    assert groups.numbers(members) == {"worker": 3}
    assert groups.numbers(members, {"worker": 7, "control-plane": 1}) == {"worker": 7, "control-plane": 1}
    assert groups.kept_numbers(tmp_path / "lab") is None
    groups.keep_numbers(tmp_path / "lab", {"worker": 3})
    assert groups.kept_numbers(tmp_path / "lab") == {"worker": 3}
    (tmp_path / "lab" / groups.NUMBERS).write_text("{")
    assert groups.kept_numbers(tmp_path / "lab") is None


def test_in_order_sorts_control_plane_first_and_by_number() -> None:
    members = [GroupMember(f"lab-{role}-{number}", "", role) for role in ("worker", "control-plane") for number in (10, 2)]
    assert [member.name for member in groups.in_order(members)] == [
        "lab-control-plane-2",
        "lab-control-plane-10",
        "lab-worker-2",
        "lab-worker-10",
    ]


def test_public_key_is_made_once_and_damaged_key_is_reported(tmp_path: Path) -> None:
    first = groups.public_key(tmp_path / "lab")
    assert first.startswith(b"ssh-ed25519 ")
    assert groups.public_key(tmp_path / "lab") == first
    private = tmp_path / "lab" / groups.KEY
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    private.write_text("")
    with pytest.raises(StoreError, match="is not a private key"):
        groups.public_key(tmp_path / "lab")

"""Machines on the command line: how groups are shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import machines
from harness.cli.options import Output
from harness.nodes import GroupMember, Login, NodeGroup

MEMBERS = (GroupMember("lab-control-plane-1", "10.0.0.1", "control-plane"), GroupMember("lab-worker-1", "10.0.0.2", "worker"))


def test_group_is_shown_with_command_and_login_of_its_provider(capsys: pytest.CaptureFixture[str]) -> None:
    machines._show_group(NodeGroup("lab", "aws", MEMBERS, Login("slipway", key=Path("/keys/lab"))), Output())
    shown = capsys.readouterr().out
    assert "slipway run IMAGE --control-plane 10.0.0.1 --workers 10.0.0.2 --user slipway --key /keys/lab\n" in shown


def test_group_of_other_home_has_no_key() -> None:
    assert machines._group_json(NodeGroup("lab.00000000", "aws", MEMBERS, Login("slipway")))["key"] is None

"""Error output of ssh as a message with a hint."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.nodes import Login, Machine
from harness.nodes.ssh_errors import explain


@pytest.mark.parametrize(
    ("said", "why", "next_step"),
    [
        ("ssh: connect to host 10.0.0.1 port 2222: Connection refused", "nothing listens on port 2222", "start sshd"),
        ("ops@10.0.0.1: Permission denied (publickey).", "does not accept ops with the key", "another key"),
        ("ssh: connect to host 10.0.0.1 port 22: Connection timed out", "no answer within", "firewalls"),
        ("ssh: Could not resolve hostname nosuch: Name or service not known", "no such host name", "check the name"),
        (
            "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @\nHost key verification failed.",
            "not the pinned one",
            "ssh-keygen -R 10.0.0.1",
        ),
        ("ssh: connect to host 10.0.0.1 port 22: No route to host", "no route", "machine is up"),
        ("mux_client_request_session: read from master failed: Broken pipe", "connection was lost", "run the same command again"),
        ("Timeout, server 10.0.0.1 not responding.", "connection was lost", "check the machine and its network"),
        ("", "connection was lost", "check the machine and its network"),
        ("something new", "something new", "try it by hand: ssh -p 2222 ops@10.0.0.1"),
    ],
)
def test_explain_names_reason_and_next_step_in_one_line(tmp_path: Path, said: str, why: str, next_step: str) -> None:
    error = explain(Machine("10.0.0.1", Login(user="ops", port=2222, key=tmp_path / "id")), said, tmp_path / "known_hosts")
    assert error.message.startswith("10.0.0.1: ")
    assert "\n" not in error.message
    assert why in error.message
    assert next_step in str(error.hint)


def test_explain_refused_password_login_hides_password(tmp_path: Path) -> None:
    error = explain(Machine("10.0.0.1", Login(password="hunter2")), "Permission denied (password).", tmp_path)
    assert "the password" in error.message
    assert "hunter2" not in str(error)

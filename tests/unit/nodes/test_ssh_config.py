"""The ssh_config of a cluster, and what it cannot hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import CommandError, UsageError
from harness.nodes import JumpHost, Login, Machine
from harness.nodes.ssh_config import check, config_text, effective, secrets
from harness.process import ProcessResult


def machines(*addresses: str, **login: Any) -> tuple[Machine, ...]:
    return tuple(Machine(address, Login(**login)) for address in addresses)


def test_config_text_lists_every_machine_and_pins_host_keys(tmp_path: Path) -> None:
    text = config_text(machines("10.0.0.1", "10.0.0.2", user="ops", port=2222), [tmp_path / "known_hosts"], tmp_path / "s")
    assert "Host 10.0.0.1\n  HostName 10.0.0.1\n  User ops\n  Port 2222\n" in text
    assert "Host 10.0.0.2\n" in text
    for line in ("StrictHostKeyChecking accept-new", f"UserKnownHostsFile {tmp_path}/known_hosts", "BatchMode yes", "ControlMaster auto"):
        assert f"  {line}\n" in text


def test_config_text_several_known_hosts_are_all_compared_and_quoted(tmp_path: Path) -> None:
    text = config_text(machines("10.0.0.1"), [tmp_path / "new", tmp_path / "a cluster/known_hosts"], tmp_path / "s")
    assert f'  UserKnownHostsFile {tmp_path}/new "{tmp_path}/a cluster/known_hosts"\n' in text


def test_config_text_forwards_no_agent_and_precedes_user_settings(tmp_path: Path) -> None:
    jump = JumpHost("bastion.example.com")
    text = config_text([Machine("10.0.0.1", Login(jump=jump, password="hunter2"))], [tmp_path / "known_hosts"], tmp_path / "s")
    _, everywhere = text.split("\nHost *\n")
    # ssh takes the first value that it reads.
    for line in ("ForwardAgent no", "ForwardX11 no", "RemoteCommand none", "ClearAllForwardings yes", "VerifyHostKeyDNS no"):
        assert everywhere.index(f"  {line}\n") < everywhere.index("  Include ~/.ssh/config\n")
    assert text.count("ForwardAgent") == text.count("Include") == 1


def test_config_text_name_leaves_the_way_to_the_user_and_pins_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_SSH_CONFIG", str(tmp_path / "my ssh/config"))
    machines = [Machine("10.0.0.1", host="cp1"), Machine("10.0.0.2", Login("ops", 2222), "w1"), Machine("10.0.0.3")]
    text = config_text(machines, [tmp_path / "known_hosts"], tmp_path / "s")
    entries = {part.splitlines()[0]: part.splitlines()[1:] for part in text.split("\n\n")}
    assert entries["Host cp1"] == ["  HostKeyAlias 10.0.0.1"]
    assert entries["Host w1"] == ["  HostKeyAlias 10.0.0.2", "  User ops", "  Port 2222"]
    assert entries["Host 10.0.0.3"] == ["  HostName 10.0.0.3", "  User root", "  Port 22"]
    assert entries["Host *"][-1] == f'  Include "{tmp_path}/my ssh/config"'
    # Behind the user's own settings, which win.
    assert text.endswith("\n\nHost cp1 w1\n  User root\n")


def test_effective_settings_are_those_that_ssh_prints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def run(argv: list[Any], **_: Any) -> ProcessResult:
        asked.append([str(word) for word in argv])
        return ProcessResult((), 0, "user ops\nhostname cp1.example.com\nsendenv LANG LC_*\nport 2222\n", "")

    monkeypatch.setattr(process, "run", run)
    settings = effective(tmp_path / "config", "cp1")
    assert (settings["user"], settings["hostname"], settings["port"], settings["sendenv"]) == (
        "ops",
        "cp1.example.com",
        "2222",
        "LANG LC_*",
    )
    assert asked == [["ssh", "-G", "-F", str(tmp_path / "config"), "--", "cp1"]]


def test_effective_configuration_that_ssh_refuses_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(*_: Any, **__: Any) -> ProcessResult:
        raise CommandError("ssh -G: exit code 255", details="/root/.ssh/config: line 3: Bad configuration option: hostnam\nterminating")

    monkeypatch.setattr(process, "run", run)
    with pytest.raises(
        UsageError, match=r"cp1: ssh does not accept its configuration: /root/\.ssh/config: line 3: Bad configuration option"
    ):
        effective(tmp_path / "config", "cp1")


def test_config_text_given_key_is_sole_identity_and_path_is_quoted(tmp_path: Path) -> None:
    text = config_text(machines("10.0.0.1", key=tmp_path / "my keys" / "id"), [tmp_path / "k"], tmp_path / "s")
    assert f'  IdentityFile "{tmp_path}/my keys/id"\n  IdentitiesOnly yes\n' in text
    assert "IdentitiesOnly" not in config_text(machines("10.0.0.1"), [tmp_path / "k"], tmp_path / "s")


def test_config_text_shared_jump_host_has_one_entry_and_proxy_jump_lines(tmp_path: Path) -> None:
    jump = JumpHost("bastion.example.com", "ops", 2200, tmp_path / "jump")
    machines = [Machine("10.0.0.1", Login(jump=jump)), Machine("10.0.0.2", Login(jump=jump)), Machine("10.0.0.3")]
    text = config_text(machines, [tmp_path / "known_hosts"], tmp_path)
    entries = {part.splitlines()[0]: part for part in text.split("\n\n")}
    assert entries["Host slipway-jump-1"].splitlines()[1:4] == ["  HostName bastion.example.com", "  User ops", "  Port 2200"]
    assert "  ProxyJump slipway-jump-1" in entries["Host 10.0.0.1"]
    assert "  ProxyJump slipway-jump-1" in entries["Host 10.0.0.2"]
    assert "ProxyJump" not in entries["Host 10.0.0.3"]
    assert text.count("HostName bastion") == 1


@pytest.mark.parametrize(
    "bad",
    [
        Machine("10.0.0.1 -oProxyCommand=x"),
        Machine("-oProxyCommand=x"),
        Machine("10.0.0.1", Login(user="a b")),
    ],
)
def test_check_address_that_ssh_takes_for_an_option_raises(bad: Machine) -> None:
    with pytest.raises(UsageError, match="neither an address nor a user"):
        check(bad)


@pytest.mark.parametrize("jump", [JumpHost("a b"), JumpHost("-oProxyCommand=x"), JumpHost("bastion", user="a b")])
def test_check_jump_host_that_ssh_takes_for_an_option_raises(jump: JumpHost) -> None:
    with pytest.raises(UsageError, match="neither a machine nor a user"):
        check(Machine("10.0.0.1", Login(jump=jump)))


def test_check_missing_key_raises(tmp_path: Path) -> None:
    for login in (Login(key=tmp_path / "nokey"), Login(jump=JumpHost("10.0.0.9", key=tmp_path / "nokey"))):
        with pytest.raises(UsageError, match="no such private key"):
            check(Machine("10.0.0.1", login))


def test_check_key_of_unknown_user_raises() -> None:
    key = Path("~nosuchuser/id")
    for login in (Login(key=key), Login(jump=JumpHost("10.0.0.9", key=key))):
        with pytest.raises(UsageError, match="no user nosuchuser"):
            check(Machine("10.0.0.1", login))


@pytest.mark.parametrize("name", ["key\nProxyCommand touch x", 'key" x', "key\x1b[2J"])
def test_check_key_whose_path_would_add_a_setting_raises(tmp_path: Path, name: str) -> None:
    key = tmp_path / name
    key.write_text("key")
    for login in (Login(key=key), Login(jump=JumpHost("10.0.0.9", key=key))):
        with pytest.raises(UsageError, match="cannot stand in ssh_config"):
            check(Machine("10.0.0.1", login))


def test_check_ordinary_machine_passes(tmp_path: Path) -> None:
    key = tmp_path / "my key"
    key.write_text("key")
    check(Machine("fd00::1", Login(user="ops", key=key, jump=JumpHost("bastion.example.com", key=key))))


def test_secrets_of_a_login_without_any_are_empty() -> None:
    assert secrets(Login()) == {}
    both = Login(password="hunter2", passphrase="opensesame")
    assert secrets(both) == {"SLIPWAY_SSH_PASSWORD": "hunter2", "SLIPWAY_SSH_PASSPHRASE": "opensesame"}

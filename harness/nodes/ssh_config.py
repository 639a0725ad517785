"""The ssh_config of a cluster's machines, and the program that gives ssh its passwords."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness import process, untrusted
from harness.errors import CommandError, UsageError
from harness.host import paths
from harness.nodes import Login, Machine

CONNECT_TIMEOUT = 10
"""Seconds for a TCP connection; ssh gives up after it."""

USER, PORT = "root", 22
"""Of machines that are given by address, and the user also of names for which ssh_config has none."""

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*")


ASKPASS = """#!/bin/sh
# Run by ssh; the answer comes from its environment.
case $1 in
  *assphrase*) printf '%s\\n' "$SLIPWAY_SSH_PASSPHRASE" ;;
  *) printf '%s\\n' "$SLIPWAY_SSH_PASSWORD" ;;
esac
"""


def check(machine: Machine) -> None:
    """Raises UsageError for a value that ssh_config cannot hold, and for a private key that does not exist."""
    login, jump = machine.login, machine.login.jump
    for word in (machine.address, machine.target, login.user or USER):
        if not _WORD.fullmatch(word):
            raise UsageError(f"{word!r} is neither an address nor a user", hint="addresses are separated by commas")
    for word in (jump.host, jump.user or USER) if jump else ():
        if not _WORD.fullmatch(word):
            raise UsageError(f"{word!r} is neither a machine nor a user", hint="jump: USER@HOST")
    for key in (login.key, jump.key if jump else None):
        if key is not None and not _plain(str(key)):
            # A Clusterfile that a cluster keeps may name it: a line break would begin another setting of ssh_config.
            raise UsageError(f"{untrusted.shown(str(key))!r} cannot stand in ssh_config", hint="give the key file a plain name")
        if key is not None and not paths.expanded(key).is_file():
            raise UsageError(f"{key}: no such private key", hint="give the file of a private key with --key")


def config_text(machines: Sequence[Machine], known_hosts: Sequence[Path], sockets: Path) -> str:
    """The ssh_config of a cluster: an entry for each machine under its address or name, then what holds for all.

    For a name, the user's ssh_config counts where nothing else is given; its host key is that of the address all the same.
    ssh writes new host keys to the first of ``known_hosts`` and compares with all of them.
    """
    lines = ["# Made by slipway for one cluster; remade by every command on it."]
    # Under names of slipway's own: the same machine may also be a node, with another login.
    jumps = {jump: f"slipway-jump-{index}" for index, jump in enumerate(dict.fromkeys(m.login.jump for m in machines if m.login.jump), 1)}
    for jump, name in jumps.items():
        lines += ["", f"Host {name}", f"  HostName {jump.host}"]
        lines += [f"  User {jump.user}"] if jump.user else []
        lines += [f"  Port {jump.port}"] if jump.port else []
        lines += [f"  IdentityFile {_quoted(paths.expanded(jump.key).absolute())}", "  IdentitiesOnly yes"] if jump.key else []
    remote = [machine for machine in machines if not machine.is_own]
    for machine in remote:
        login = machine.login
        lines += ["", f"Host {machine.target}"]
        lines.append(f"  HostKeyAlias {machine.address}" if machine.host else f"  HostName {machine.address}")
        user, port = (login.user, login.port) if machine.host else (login.user or USER, login.port or PORT)
        lines += [f"  User {user}"] if user else []
        lines += [f"  Port {port}"] if port else []
        if login.jump is not None:
            lines.append(f"  ProxyJump {jumps[login.jump]}")
        if login.key is not None:
            lines += [f"  IdentityFile {_quoted(paths.expanded(login.key).absolute())}", "  IdentitiesOnly yes"]
        if secrets(login):
            lines += ["  BatchMode no", "  NumberOfPasswordPrompts 1", "  PreferredAuthentications publickey,password,keyboard-interactive"]
    lines += [
        "",
        "Host *",
        "  BatchMode yes",
        "  StrictHostKeyChecking accept-new",
        f"  UserKnownHostsFile {' '.join(map(_quoted, known_hosts))}",
        "  GlobalKnownHostsFile none",
        "  HashKnownHosts no",
        "  UpdateHostKeys no",
        "  VerifyHostKeyDNS no",
        "  ControlMaster auto",
        "  ControlPersist 120",
        f"  ControlPath {_quoted(sockets)}/%C",
        f"  ConnectTimeout {CONNECT_TIMEOUT}",
        # A machine that is gone is noticed after 20 s: without these, a silent peer is never noticed.
        "  ServerAliveInterval 5",
        "  ServerAliveCountMax 4",
        "  RequestTTY no",
        "  ForwardAgent no",
        "  ForwardX11 no",
        # An entry that the user has for a shell or a tunnel serves for commands as well.
        "  RemoteCommand none",
        "  ClearAllForwardings yes",
        "  LogLevel ERROR",
        # Names and jump hosts may be in the user's own file; slipway's settings come first and win.
        f"  Include {_quoted(own) if (own := paths.ssh_config()) else '~/.ssh/config'}",
    ]
    names = [machine.target for machine in remote if machine.host]
    lines += ["", f"Host {' '.join(names)}", f"  User {USER}"] if names else []
    return "\n".join(lines) + "\n"


def effective(config: Path, target: str) -> Mapping[str, str]:
    """The settings of ssh for a target, by their names in lower case. Raises UsageError when ssh cannot read its configuration."""
    try:
        listed = process.run(["ssh", "-G", "-F", config, "--", target], timeout=2 * CONNECT_TIMEOUT).stdout
    except CommandError as wrong:
        reason = ((wrong.details or wrong.message).splitlines() or [""])[0]
        message = f"{target}: ssh does not accept its configuration: {untrusted.shown(reason)}"
        raise UsageError(message, hint=f"correct it; to see it: ssh -G {shlex.quote(target)}") from wrong
    pairs = (line.partition(" ") for line in listed.splitlines())
    return {key: value for key, _, value in pairs}


def secrets(login: Login) -> dict[str, str]:
    """Environment variables with which ``ASKPASS`` answers; empty when there is nothing to answer."""
    secrets_by_variable = {"SLIPWAY_SSH_PASSWORD": login.password, "SLIPWAY_SSH_PASSPHRASE": login.passphrase}
    return {name: value for name, value in secrets_by_variable.items() if value is not None}


def _plain(path: str) -> bool:
    return path.isprintable() and '"' not in path


def _quoted(path: Path) -> str:
    text = str(path).replace("%", "%%")
    return f'"{text}"' if " " in text else text

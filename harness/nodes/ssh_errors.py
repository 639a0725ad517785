"""Error output of ssh, translated: the machine, the reason, and what to do next."""

from __future__ import annotations

from pathlib import Path

from harness.errors import NodeError
from harness.nodes import Machine, ssh_config

_REASONS: tuple[tuple[str, str, str], ...] = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key is not the pinned one", "changed"),
    ("Host key verification failed", "its host key is not the pinned one", "changed"),
    ("UNPROTECTED PRIVATE KEY FILE", "the private key may be read by others", "chmod 600 the key file"),
    ("Permission denied", "it does not accept {user} with {means}", "login"),
    ("Too many authentication failures", "it does not accept {user} with {means}", "login"),
    ("Connection refused", "nothing listens on port {port}", "start sshd there, or give its port with --port"),
    ("Could not resolve hostname", "no such host name", "check the name, or give the address"),
    ("No route to host", "no route leads to it", "check the address and that the machine is up"),
    ("Network is unreachable", "no route leads to it", "check the address and this machine's network"),
    ("timed out", "no answer within {timeout} s", "check the address, that the machine is up, and firewalls on the way"),
    ("Connection closed by", "it closed the connection", "look at the log of its sshd"),
    ("Connection reset by", "it closed the connection", "look at the log of its sshd"),
    ("Broken pipe", "the connection was lost", "lost"),
    ("closed by remote host", "the connection was lost", "lost"),
    ("not responding", "the connection was lost", "lost"),
    ("read from master failed", "the connection was lost", "lost"),
)
"""Text of ssh, its meaning, and a hint or the key of one: the first match counts."""


def explain(machine: Machine, output: str, known_hosts: Path) -> NodeError:
    """Translate ssh's error output into one line: what, why, what next. The login of the machine is the one that ssh used."""
    login = machine.login
    means = f"the key {login.key}" if login.key else "the keys of this machine"
    if login.password is not None:
        means = "the password" if login.key is None else f"{means} or the password"
    hints = {
        "changed": f"if the machine was reinstalled, forget its old key: ssh-keygen -R {machine.address} -f {known_hosts}; "
        "if not, another machine may be listening in",
        "lost": "check the machine and its network, then run the same command again",
        "login": "give the right password (--passwd - asks for it), or a key with --key"
        if login.password is not None
        else "give another key with --key or another --user, or add the public key to its authorized_keys",
    }
    for text, why, hint in _REASONS:
        if text in output:
            reason = why.format(user=login.user, means=means, port=login.port, timeout=ssh_config.CONNECT_TIMEOUT)
            return NodeError(f"{machine}: {reason}", hint=hints.get(hint, hint))
    if not output.strip():
        # Nothing is said about a shared connection that ends.
        return NodeError(f"{machine}: the connection was lost", hint=hints["lost"])
    last = output.strip().splitlines()[-1]
    return NodeError(f"{machine}: {last}", hint=f"try it by hand: ssh -p {login.port} {login.user}@{machine.target}")

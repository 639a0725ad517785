"""Nodes over OpenSSH: one generated configuration and one pinned set of host keys a cluster, one shared connection a node."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import shlex
import socket
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Self

from harness import log, process, untrusted
from harness.errors import CommandError, NodeError, StoreError
from harness.host import apt, durable
from harness.log import timings
from harness.nodes import (
    COMMAND_TIMEOUT,
    LONG_TIMEOUT,
    Input,
    Login,
    Machine,
    Writer,
    brief,
    claim,
    control_sockets,
    each,
    ssh_config,
    standard_input,
)
from harness.nodes.files import decoded, received
from harness.nodes.ssh_errors import explain
from harness.process import ProcessResult

_LOGIN_TIMEOUT = 60
"""Seconds for all of a login; a machine that takes longer is taken for dead."""

_LOST = 255
"""The exit code that ssh keeps for its own failures."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OWN = "slipway: this was the command's own exit code"


class SshConnections:
    """The way into the machines of one cluster. Files go to ``folder``: ssh_config (testinfra and people may use it), known_hosts.

    ``pinned``: a file of host keys that must not change; it is read only.
    """

    def __init__(self, folder: Path, machines: Sequence[Machine], pinned: Path | None = None) -> None:
        self.folder = folder
        self.machines = tuple(machines)
        self.config = folder / "ssh_config"
        """For people and testinfra."""
        self.known_hosts = folder / "known_hosts"
        self.pinned = pinned or self.known_hosts
        """Host keys of machines that were known before."""
        self._held = control_sockets.held()
        self.sockets = self._held.path
        """Control sockets of this object alone: a parallel command on the same cluster closes its own connections only."""
        self.own = self.sockets / "config"
        """Configuration for this process: a parallel command may know other machines."""
        self.for_many = self.own
        """Configuration for ``stream``."""
        self.sent = 0
        """Bytes of commands and of their standard input, of all machines together."""
        self.at_end: list[Callable[[], object]] = []
        """Called before the connections are ended, once each."""
        self._counting = threading.Lock()
        atexit.register(self._held.remove)
        self.nodes = tuple(OwnMachine(self, machine) if machine.is_own else SshNode(self, machine) for machine in self.machines)

    def prepare(self) -> None:
        """Write the configuration. Raises UsageError for a value that ssh_config cannot hold, CommandError when ssh is not installed."""
        if not all(machine.is_own for machine in self.machines):
            apt.ensure("ssh", "openssh-client")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for machine in self.machines:
            ssh_config.check(machine)
        lasting = control_sockets.lasting(hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:8], self.folder)
        known_hosts = tuple(dict.fromkeys((self.known_hosts, self.pinned)))
        for path, sockets in ((self.config, lasting), (self.own, self.sockets)):
            durable.write(path, ssh_config.config_text(self.machines, known_hosts, sockets), mode=0o600)
        if any(ssh_config.secrets(machine.login) for machine in self.machines):
            durable.write(self._askpass, ssh_config.ASKPASS, mode=0o700)

    def hasten(self) -> None:
        """Let ``stream`` log in to hundreds of machines at little cost of processor; call it after ``prepare``.

        The key exchange that older versions prefer costs some 80 ms at each end, eight times all the rest of a login. Where there is
        none that is both quick and safe from quantum computers, the classical one is taken: for commands and their output, never for
        keys, which travel otherwise. The user's own configuration has precedence.
        """
        if "mlkem768x25519-sha256" not in process.run(["ssh", "-Q", "kex"], check=False, timeout=_LOGIN_TIMEOUT).stdout.split():
            self.for_many = self.sockets / "config-many"
            durable.write(self.for_many, f"{self.own.read_text()}\nHost *\n  KexAlgorithms ^curve25519-sha256\n", mode=0o600)

    @property
    def _askpass(self) -> Path:
        return self.folder / "askpass"

    def environment(self, login: Login) -> dict[str, str]:
        """Environment that gives ssh the secrets without showing them in the process list."""
        secrets = ssh_config.secrets(login)
        return {"SSH_ASKPASS": str(self._askpass), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": ":0", **secrets} if secrets else {}

    def connect(self) -> tuple[SshNode, ...]:
        """Open all connections in parallel. Raises NodeError that names every machine that could not be reached."""
        self.prepare()
        before = self._pins()
        each(self.nodes, lambda node: node.connect())
        for address, fingerprint in self._pins().items():
            if address not in before:
                log.info(f"{address}: host key {fingerprint} is pinned from now on")
        return self.nodes

    def reachable(self, among: Sequence[SshNode] | None = None) -> tuple[tuple[SshNode, ...], dict[SshNode, NodeError]]:
        """Like ``connect``, for a caller that can do without some: the nodes that answer, and the errors of the others.

        ``among``: the nodes to connect to, by default all.
        """
        nodes = self.nodes if among is None else among
        self.prepare()
        errors: dict[SshNode, NodeError] = {}

        def attempt(node: SshNode) -> None:
            try:
                node.connect()
            except NodeError as error:
                errors[node] = error

        each(nodes, attempt)
        return tuple(node for node in nodes if node not in errors), errors

    def count(self, sent: int) -> None:
        with self._counting:
            self.sent += sent

    def close(self) -> None:
        """End the shared connections; new ones open by themselves."""
        while self.at_end:
            self.at_end.pop()()
        each(self.nodes, lambda node: node.disconnect())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _pins(self) -> dict[str, str]:
        if not self.known_hosts.exists():
            return {}
        listed = process.run(["ssh-keygen", "-l", "-f", self.known_hosts], check=False, timeout=_LOGIN_TIMEOUT).stdout
        words = (line.split() for line in listed.splitlines())
        return {entry[2].strip("[]").removesuffix("]:22"): f"{entry[1]} {entry[-1]}" for entry in words if len(entry) >= 4}


class SshNode:
    """One machine. Commands run as root: at once, or through ``sudo -n`` for any other user."""

    group = False
    """The processes of a command have this process as their parent, and end with it."""

    def __init__(self, ssh: SshConnections, machine: Machine) -> None:
        self.ssh = ssh
        self.machine = machine
        self.name = machine.target

    @property
    def address(self) -> str:
        return self.machine.address

    @functools.cached_property
    def login(self) -> Login:
        """The login with the user and the port that ssh uses. Needs ``prepare``."""
        login = self.machine.login
        if not self.machine.host:
            return dataclasses.replace(login, user=login.user or ssh_config.USER, port=login.port or ssh_config.PORT)
        settings = ssh_config.effective(self.ssh.own, self.machine.target)
        return dataclasses.replace(login, user=settings["user"], port=int(settings["port"]))

    def __repr__(self) -> str:
        return f"SshNode({self.name} {self.address})"

    @property
    def environment(self) -> dict[str, str]:
        return self.ssh.environment(self.machine.login)

    def connect(self) -> None:
        """Open the shared connection and learn the host name."""
        words = shlex.join(self._argv("uname -n", self.ssh.own))
        with tempfile.NamedTemporaryFile() as output:
            # The connection stays open behind this command. Older versions keep its standard error open too, so that must be no pipe.
            argv = ["sh", "-c", f'exec {words} 2>"$0"', output.name]
            try:
                result = process.run(argv, check=False, env=self.environment, timeout=_LOGIN_TIMEOUT)
            except CommandError as error:
                raise self._explained("timed out") from error
            errors = Path(output.name).read_text(errors="replace")
        self._check_transport(result.returncode, errors)
        if not result.ok:
            raise NodeError(f"{self.machine}: the shell does not work: {errors.strip()}", hint="the login shell must be a POSIX shell")
        self.name = self._host_name(result.stdout.strip().lower())

    def _host_name(self, text: str) -> str:
        """Host name of the machine, if it is valid: it is used in file names, messages and configurations."""
        try:
            return untrusted.name(text, what=str(self.machine))
        except StoreError as wrong:
            if text:
                log.warning(f"{wrong.message}: the machine goes by its {'name' if self.machine.host else 'address'}")
            return self.machine.target

    def reported_address(self) -> str:
        """The address at which the machine has accepted the connection, as it reports it itself. Needs ``connect``.

        Raises NodeError when that is not an address by which other machines reach it.
        """
        # As the user of the login: sudo drops the variable.
        argv = ["ssh", "-F", str(self.ssh.own), "--", self.machine.target, 'echo "$SSH_CONNECTION"']
        try:
            asked = process.run(argv, check=False, env=self.environment, timeout=_LOGIN_TIMEOUT, limit=1 << 20)
        except CommandError as error:
            raise NodeError(f"{self.machine}: address: {error.message.rpartition(': ')[2]}", hint="give its address") from error
        self._check_transport(asked.returncode, asked.stderr)
        *_, words = [[], *map(str.split, asked.stdout.splitlines())]
        return untrusted.address(words[2] if len(words) == 4 else "", what=f"{self.machine}: address", error=NodeError)

    def disconnect(self) -> None:
        """End the shared connection, if there is one. Never fails: nothing may hide why a command ends."""
        with contextlib.suppress(CommandError):
            process.run(["ssh", "-F", self.ssh.own, "-O", "exit", "--", self.machine.target], check=False, timeout=10)

    def run(self, command: str, *, input: Input = None, check: bool = True, timeout: float = COMMAND_TIMEOUT) -> ProcessResult:
        argv = self._argv(self._claimed(command), self.ssh.own)
        self.ssh.count(len(argv[-1]))
        with standard_input.opened(input, self.ssh.count) as stream:
            try:
                with timings.span(command, self.name, clean=log.hidden):
                    result = process.run(argv, check=False, input=stream, env=self.environment, timeout=timeout, group=self.group)
            except CommandError as error:
                raise self._unfinished(command, error) from error
        self._check(result)
        result = ProcessResult((self.name, command), result.returncode, result.stdout, result.stderr)
        if check and not result.ok:
            full = f"a disk of {self.name} is full: see df -h there, free some, and run the same command again"
            hint = full if "No space left on device" in result.output else None
            raise CommandError(f"{self.name}: {brief(command)}: exit code {result.returncode}", hint=hint, details=result.output)
        return result

    def stream(self, command: str, take: process.Take, *, stop: threading.Event | None = None) -> int:
        """Run shell text as root, pass its output on line by line, return its exit code. Needs no ``connect``, keeps no connection.

        Without a time limit, as ``attach``: the user sees its output and can stop it (``stop``).

        Raises NodeError when the node cannot be reached, refuses the login, or is lost meanwhile.
        """
        # One process a node, which ends with the command: a connection kept for later would hold memory for each of hundreds.
        argv = self._argv(_own_code(self._claimed(command)), self.ssh.for_many, "-o", "ControlMaster=no")
        errors: list[str] = []

        def line(name: str, text: str) -> None:
            if name == "stderr":
                errors[:] = [*errors[-7:], text]
            if text != _OWN:
                take(name, text)

        code = process.stream(argv, line, env=self.environment, stop=stop, group=self.group)
        if errors[-1:] == [_OWN]:
            return _LOST
        self._check_transport(code, "\n".join(errors))
        self._check_claim(code, "\n".join(errors))
        return code

    def attach(self, command: str, *, terminal: bool) -> int:
        """Run shell text as root on this process's standard input and output, with a terminal if it has one; return its exit code."""
        argv = self._argv(self._claimed(command), self.ssh.own, *(["-tt"] if terminal else []))
        code = process.attach(argv, env=self.environment)
        self._check(ProcessResult((self.name, command), code, "", ""))
        return code

    def _unfinished(self, command: str, error: CommandError) -> CommandError:
        """Error for a command that timed out, with the node's name instead of ssh's command line."""
        reason = error.message.rpartition(": ")[2]
        return CommandError(
            f"{self.name}: {brief(command)}: {reason}",
            hint=error.hint or "see what holds it up there (load, disks, processes in state D), then run the same command again",
        )

    def fetch(self, command: str, into: BinaryIO, *, limit: int, timeout: float = LONG_TIMEOUT) -> None:
        """Run shell text as root and write what it prints, at most ``limit`` bytes, into an open file. Raises like ``run``."""
        argv = self._argv(self._claimed(command), self.ssh.own)
        try:
            result = process.run(argv, check=False, env=self.environment, output=into, limit=limit, timeout=timeout, group=self.group)
        except CommandError as error:
            raise self._unfinished(command, error) from error
        self._check(result)
        if not result.ok:
            raise CommandError(f"{self.name}: {brief(command)}: exit code {result.returncode}", details=result.output)

    def put_tar(self, stream: BinaryIO | Writer, destination: str) -> None:
        place = shlex.quote(destination)
        self.run(f"mkdir -p {place} && exec tar -C {place} -xof -", input=stream, timeout=2 * LONG_TIMEOUT)

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        folder = shlex.quote(os.path.dirname(path) or "/")  # noqa: PTH120 - a path of the node
        self.run(f"umask 077; mkdir -p -m 755 {folder} && {{ {received(path, len(data), mode)}; }}", input=data, timeout=LONG_TIMEOUT)

    def get(self, path: str) -> bytes:
        # The door to programs hands out text; a file may be anything.
        return decoded(self, path, self.run(f"base64 < {shlex.quote(path)}").stdout)

    def _argv(self, command: str, config: Path, *options: str) -> list[str]:
        """ssh, to run shell text as root."""
        shell = f"sh -c {shlex.quote(command)}"
        words = shell if self.login.user == "root" else f"sudo -n -- {shell}"
        return ["ssh", "-F", str(config), *options, "--", self.machine.target, words]

    def _claimed(self, command: str) -> str:
        """A command that the machine refuses once another claim has reached it. Raises LeaseLostError when this one is known to be lost."""
        claim.check(ask=False)
        held = claim.current()
        return f"{held.prefix(self.address)}{command}" if held else command

    def _check_claim(self, code: int, output: str) -> None:
        held = claim.current()
        if held is not None and code == claim.REFUSED and claim.MARK in output:
            held.lose("another command")
            raise claim.error("another command")
        if held is not None:
            held.entered(self.address)

    def _check(self, result: ProcessResult) -> None:
        # While the shared connection is open, ssh's exit code for a failure came from the command.
        if result.returncode != _LOST or not self._is_shared():
            self._check_transport(result.returncode, result.stderr)
        self._check_claim(result.returncode, result.stderr)

    def _is_shared(self) -> bool:
        try:
            return process.run(
                ["ssh", "-F", self.ssh.own, "-O", "check", "--", self.machine.target], check=False, timeout=_LOGIN_TIMEOUT
            ).ok
        except CommandError:
            return False

    def _explained(self, output: str) -> NodeError:
        return explain(dataclasses.replace(self.machine, login=self.login), output, self.ssh.pinned)

    def _check_transport(self, code: int, output: str) -> None:
        if code == _LOST:
            raise self._explained(output)
        if (
            code != 0
            and self.login.user != "root"
            and re.search(r"^sudo: .*password|is not in the sudoers|sudo: not found", output, re.MULTILINE)
        ):
            user = self.login.user
            raise NodeError(
                f"{self.machine}: {user} may not become root without a password",
                hint=f"allow it: {user} ALL=(ALL) NOPASSWD: ALL in /etc/sudoers.d",
            )


class OwnMachine(SshNode):
    """The machine that runs slipway, as a node: no sshd, no login, the same commands. For root only."""

    group = True
    _is_checked = False

    @property
    def login(self) -> Login:
        return Login("root", ssh_config.PORT)

    @property
    def environment(self) -> dict[str, str]:
        return {}

    def connect(self) -> None:
        """Learn the host name. Raises NodeError when this process may not change the machine, or the node is another machine."""
        self._require_own()
        self.name = self._host_name(process.run(["uname", "-n"], timeout=_LOGIN_TIMEOUT).stdout.strip().lower())

    def _require_own(self) -> None:
        """Raise NodeError unless this process is root's, on the machine that is meant: a cache may be shared with other machines."""
        if os.geteuid() != 0:
            raise NodeError(f"{self.machine}: only root can use this machine as a node", hint="run slipway as root, or give the address")
        if not _has_address(self.address):
            raise NodeError(
                f"{self.machine}: this machine does not have the address", hint="run slipway on the node, or give the node by its address"
            )
        self._is_checked = True

    def disconnect(self) -> None:
        """There is no connection."""

    def _argv(self, command: str, config: Path, *options: str) -> list[str]:  # noqa: ARG002 -- of SshNode
        # Every command passes here, also without ``connect``. It is checked once: a command may reconfigure the machine's network.
        if not self._is_checked:
            self._require_own()
        # As sshd starts commands: in the home folder, with nothing of the user's settings.
        clean = ("env", "-i", "HOME=/root", "USER=root", "LOGNAME=root", f"PATH={_PATH}")
        return [*clean, "sh", "-c", f"umask 022; cd; {command}"]

    def _is_shared(self) -> bool:
        return True

    def _check_transport(self, code: int, output: str) -> None:
        """Nothing lies between."""


def _has_address(address: str) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _own_code(command: str) -> str:
    """A command that ends with the code that ssh keeps for itself says so: it must not look like a lost connection."""
    return f"( {command}\n); code=$?; if [ $code = {_LOST} ]; then echo {shlex.quote(_OWN)} >&2; fi; exit $code"

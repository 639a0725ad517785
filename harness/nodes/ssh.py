"""Nodes over OpenSSH: one generated configuration and one pinned set of host keys a cluster, one shared connection a node."""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import os
import re
import shlex
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Self, cast

from harness import log, process, untrusted
from harness.errors import CommandError, NodeError, StoreError, UsageError
from harness.host import apt, durable, liveness
from harness.log import timings
from harness.nodes import COMMAND_TIMEOUT, LONG_TIMEOUT, Input, Login, Machine, Writer, claim, each
from harness.nodes.files import CountingPipe, decoded
from harness.process import ProcessResult

CONNECT_TIMEOUT = 10
"""Seconds for a TCP connection; ssh gives up after it."""

_LOGIN_TIMEOUT = 60
"""Seconds for all of a login; a machine that takes longer is taken for dead."""

_LOST = 255
"""The exit code that ssh keeps for its own failures."""

_OWN = "slipway: this was the command's own exit code"

_WORD = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%-]*")

# What ssh says, what it means, and what to do next: the first match counts.
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


def explain(machine: Machine, output: str, known_hosts: Path) -> NodeError:
    """Translate ssh's error output into one line: what, why, what next."""
    login = machine.login
    means = f"the key {login.key}" if login.key else "the keys of this machine"
    if login.password is not None:
        means = "the password" if login.key is None else f"{means} or the password"
    hints = {
        "changed": f"if the machine was installed anew, forget its old key: ssh-keygen -R {machine.address} -f {known_hosts}; "
        "if not, somebody may be listening in",
        "lost": "check the machine and its network, then run the same command again",
        "login": "give the right password (--passwd - asks for it), or a key with --key"
        if login.password is not None
        else "give another key with --key or another --user, or add the public key to its authorized_keys",
    }
    for text, why, hint in _REASONS:
        if text in output:
            reason = why.format(user=login.user, means=means, port=login.port, timeout=CONNECT_TIMEOUT)
            return NodeError(f"{machine.address}: {reason}", hint=hints.get(hint, hint))
    if not output.strip():
        # Nothing is said about a shared connection that ends.
        return NodeError(f"{machine.address}: the connection was lost", hint=hints["lost"])
    last = output.strip().splitlines()[-1:]
    return NodeError(f"{machine.address}: {last[0]}", hint=f"try it by hand: ssh -p {login.port} {login.user}@{machine.address}")


class SshConnections:
    """The way into the machines of one cluster. Files go to ``folder``: ssh_config (testinfra and people may use it), known_hosts."""

    def __init__(self, folder: Path, machines: Sequence[Machine]) -> None:
        self.folder = folder
        self.machines = tuple(machines)
        self.config = folder / "ssh_config"
        """For people and testinfra."""
        self.known_hosts = folder / "known_hosts"
        self._held = _place()
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
        self.nodes = tuple(SshNode(self, machine) for machine in self.machines)

    def prepare(self) -> None:
        """Write the configuration. Raises UsageError for a value that ssh_config cannot hold, CommandError when ssh is not installed."""
        apt.ensure("ssh", "openssh-client")
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for machine in self.machines:
            for word in (machine.address, machine.login.user):
                if not _WORD.fullmatch(word):
                    raise UsageError(f"{word!r} is neither an address nor a user", hint="addresses are separated by commas")
            jump = machine.login.jump
            for word in (jump.host, jump.user or "root") if jump else ():
                if not _WORD.fullmatch(word):
                    raise UsageError(f"{word!r} is neither a machine nor a user", hint="jump: USER@HOST")
            for key in (machine.login.key, jump.key if jump else None):
                if key is not None and not _plain(str(key)):
                    # A Clusterfile that a cluster keeps may name it: a line break would begin another setting of ssh_config.
                    raise UsageError(f"{untrusted.shown(str(key))!r} cannot stand in ssh_config", hint="give the key file a plain name")
                if key is not None and not key.expanduser().is_file():
                    raise UsageError(f"{key}: no such private key", hint="give the file of a private key with --key")
        _write(
            self.config,
            config_text(self.machines, self.known_hosts, _folder(hashlib.sha256(str(self.folder.absolute()).encode()).hexdigest()[:8])),
        )
        _write(self.own, config_text(self.machines, self.known_hosts, self.sockets))
        if any(_secrets(machine.login) for machine in self.machines):
            _write(self._askpass, _ASKPASS, mode=0o700)

    def hasten(self) -> None:
        """Let ``stream`` log in to hundreds of machines at little cost of processor; call it after ``prepare``.

        The key exchange that older versions prefer costs some 80 ms at each end, eight times all the rest of a login. Where there is
        none that is both quick and safe from quantum computers, the classical one is taken: for commands and their output, never for
        keys, which travel otherwise. What the user's own configuration says about it counts.
        """
        if "mlkem768x25519-sha256" not in process.run(["ssh", "-Q", "kex"], check=False, timeout=_LOGIN_TIMEOUT).stdout.split():
            self.for_many = self.sockets / "config-many"
            _write(self.for_many, f"{self.own.read_text()}  KexAlgorithms ^curve25519-sha256\n")

    @property
    def _askpass(self) -> Path:
        return self.folder / "askpass"

    def environment(self, login: Login) -> dict[str, str]:
        """Environment that gives ssh the secrets without showing them in the process list."""
        secrets = _secrets(login)
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

    def reachable(self) -> tuple[tuple[SshNode, ...], dict[SshNode, NodeError]]:
        """Like ``connect``, for those who can do without some: the nodes that answer, and why the others do not."""
        self.prepare()
        errors: dict[SshNode, NodeError] = {}

        def attempt(node: SshNode) -> None:
            try:
                node.connect()
            except NodeError as error:
                errors[node] = error

        each(self.nodes, attempt)
        return tuple(node for node in self.nodes if node not in errors), errors

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

    def __init__(self, ssh: SshConnections, machine: Machine) -> None:
        self.ssh = ssh
        self.machine = machine
        self.name = machine.address

    @property
    def address(self) -> str:
        return self.machine.address

    def __repr__(self) -> str:
        return f"SshNode({self.name} {self.address})"

    def connect(self) -> None:
        """Open the shared connection and learn the host name."""
        words = shlex.join(["ssh", "-F", str(self.ssh.own), "--", self.address, self._remote("uname -n")])
        with tempfile.NamedTemporaryFile() as output:
            # The connection stays open behind this command. Older versions keep its standard error open too, so that must be no pipe.
            argv = ["sh", "-c", f'exec {words} 2>"$0"', output.name]
            try:
                result = process.run(argv, check=False, env=self.ssh.environment(self.machine.login), timeout=_LOGIN_TIMEOUT)
            except CommandError as error:
                raise explain(self.machine, "timed out", self.ssh.known_hosts) from error
            errors = Path(output.name).read_text(errors="replace")
        self._check_transport(result.returncode, errors)
        if not result.ok:
            raise NodeError(f"{self.address}: the shell does not work: {errors.strip()}", hint="the login shell must be a POSIX shell")
        self.name = self._host_name(result.stdout.strip().lower())

    def _host_name(self, text: str) -> str:
        """Host name of the machine, if it is valid: it is used in file names, messages and configurations."""
        try:
            return untrusted.name(text, what=self.address)
        except StoreError as wrong:
            if text:
                log.warning(f"{wrong.message}: the machine goes by its address")
            return self.address

    def disconnect(self) -> None:
        """End the shared connection, if there is one. Never fails: nothing may hide why a command ends."""
        with contextlib.suppress(CommandError):
            process.run(["ssh", "-F", self.ssh.own, "-O", "exit", "--", self.address], check=False, timeout=10)

    def run(self, command: str, *, input: Input = None, check: bool = True, timeout: float = COMMAND_TIMEOUT) -> ProcessResult:
        argv = ["ssh", "-F", str(self.ssh.own), "--", self.address, self._remote(self._claimed(command))]
        environment = self.ssh.environment(self.machine.login)
        self.ssh.count(len(argv[-1]))
        with _standard_input(input, self.ssh.count) as stream:
            try:
                with timings.span(command, self.name, clean=log.hidden):
                    result = process.run(argv, check=False, input=stream, env=environment, timeout=timeout)
            except CommandError as error:
                raise self._unfinished(command, error) from error
        self._check_shared(result.returncode, result.stderr)
        self._check_claim(result.returncode, result.stderr)
        result = ProcessResult((self.name, command), result.returncode, result.stdout, result.stderr)
        if check and not result.ok:
            full = f"a disk of {self.name} is full: see df -h there, free some, and run the same command again"
            hint = full if "No space left on device" in result.output else None
            raise CommandError(f"{self.name}: {_brief(command)}: exit code {result.returncode}", hint=hint, details=result.output)
        return result

    def stream(self, command: str, take: process.Take, *, stop: threading.Event | None = None) -> int:
        """Run shell text as root, pass its output on line by line, return its exit code. Needs no ``connect``, keeps no connection.

        The only command on nodes without a time limit: it is the user's own, who sees its output and can stop it (``stop``).

        Raises NodeError when the node cannot be reached, refuses the login, or is lost meanwhile.
        """
        # One process a node, which ends with the command: a connection kept for later would hold memory for each of hundreds.
        argv = [
            "ssh",
            "-F",
            str(self.ssh.for_many),
            "-o",
            "ControlMaster=no",
            "--",
            self.address,
            self._remote(_own_code(self._claimed(command))),
        ]
        errors: list[str] = []

        def line(name: str, text: str) -> None:
            if name == "stderr":
                errors[:] = [*errors[-7:], text]
            if text != _OWN:
                take(name, text)

        code = process.stream(argv, line, env=self.ssh.environment(self.machine.login), stop=stop)
        if errors[-1:] == [_OWN]:
            return _LOST
        self._check_transport(code, "\n".join(errors))
        self._check_claim(code, "\n".join(errors))
        return code

    def _unfinished(self, command: str, error: CommandError) -> CommandError:
        """Error for a command that timed out, with the node's name instead of ssh's command line."""
        reason = error.message.rpartition(": ")[2]
        return CommandError(
            f"{self.name}: {_brief(command)}: {reason}",
            hint=error.hint or "see what holds it up there (load, disks, processes in state D), then run the same command again",
        )

    def fetch(self, command: str, into: BinaryIO, *, limit: int, timeout: float = LONG_TIMEOUT) -> None:
        """Run shell text as root and write what it prints, at most ``limit`` bytes, into an open file. Raises like ``run``."""
        argv = ["ssh", "-F", str(self.ssh.own), "--", self.address, self._remote(self._claimed(command))]
        environment = self.ssh.environment(self.machine.login)
        try:
            result = process.run(argv, check=False, env=environment, output=into, limit=limit, timeout=timeout)
        except CommandError as error:
            raise self._unfinished(command, error) from error
        self._check_shared(result.returncode, result.stderr)
        self._check_claim(result.returncode, result.stderr)
        if not result.ok:
            raise CommandError(f"{self.name}: {_brief(command)}: exit code {result.returncode}", details=result.output)

    def put_tar(self, stream: BinaryIO | Writer, destination: str) -> None:
        place = shlex.quote(destination)
        self.run(f"mkdir -p {place} && exec tar -C {place} -xof -", input=stream, timeout=2 * LONG_TIMEOUT)

    def put(self, data: bytes, path: str, mode: int = 0o644) -> None:
        part = shlex.quote(f"{path}.new")
        folder = shlex.quote(os.path.dirname(path) or "/")  # noqa: PTH120 - a path of the node
        self.run(
            f"set -e; umask 077; mkdir -p -m 755 {folder}; cat > {part}; chmod {mode:o} {part}; mv -f {part} {shlex.quote(path)}",
            input=data,
            timeout=LONG_TIMEOUT,
        )

    def get(self, path: str) -> bytes:
        # The door to programs hands out text; a file may be anything.
        return decoded(self, path, self.run(f"base64 < {shlex.quote(path)}").stdout)

    def _remote(self, command: str) -> str:
        shell = f"sh -c {shlex.quote(command)}"
        return shell if self.machine.login.user == "root" else f"sudo -n -- {shell}"

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

    def _check_shared(self, code: int, output: str) -> None:
        """While the shared connection is open, ssh's exit code for a failure came from the command."""
        if code != _LOST or not self._is_shared():
            self._check_transport(code, output)

    def _is_shared(self) -> bool:
        try:
            return process.run(["ssh", "-F", self.ssh.own, "-O", "check", "--", self.address], check=False, timeout=_LOGIN_TIMEOUT).ok
        except CommandError:
            return False

    def _check_transport(self, code: int, output: str) -> None:
        if code == _LOST:
            raise explain(self.machine, output, self.ssh.known_hosts)
        if (
            code != 0
            and self.machine.login.user != "root"
            and re.search(r"^sudo: .*password|is not in the sudoers|sudo: not found", output, re.MULTILINE)
        ):
            user = self.machine.login.user
            raise NodeError(
                f"{self.address}: {user} may not become root without a password",
                hint=f"allow it: {user} ALL=(ALL) NOPASSWD: ALL in /etc/sudoers.d",
            )


_ASKPASS = """#!/bin/sh
# Run by ssh; the answer comes from its environment.
case $1 in
  *assphrase*) printf '%s\\n' "$SLIPWAY_SSH_PASSPHRASE" ;;
  *) printf '%s\\n' "$SLIPWAY_SSH_PASSWORD" ;;
esac
"""


def _secrets(login: Login) -> dict[str, str]:
    secrets_by_variable = {"SLIPWAY_SSH_PASSWORD": login.password, "SLIPWAY_SSH_PASSPHRASE": login.passphrase}
    return {name: value for name, value in secrets_by_variable.items() if value is not None}


def config_text(machines: Sequence[Machine], known_hosts: Path, sockets: Path) -> str:
    """The ssh_config of a cluster: an entry for each machine under its address, then what holds for all."""
    lines = ["# Made by slipway for one cluster; remade by every command on it."]
    # Under names of slipway's own: the same machine may also be a node, with another login.
    jumps = {jump: f"slipway-jump-{index}" for index, jump in enumerate(dict.fromkeys(m.login.jump for m in machines if m.login.jump), 1)}
    for jump, name in jumps.items():
        lines += ["", f"Host {name}", f"  HostName {jump.host}"]
        lines += [f"  User {jump.user}"] if jump.user else []
        lines += [f"  Port {jump.port}"] if jump.port else []
        lines += [f"  IdentityFile {_quoted(jump.key.expanduser().absolute())}", "  IdentitiesOnly yes"] if jump.key else []
    for machine in machines:
        login = machine.login
        lines += ["", f"Host {machine.address}", f"  HostName {machine.address}", f"  User {login.user}", f"  Port {login.port}"]
        if login.jump is not None:
            lines.append(f"  ProxyJump {jumps[login.jump]}")
        if login.key is not None:
            lines += [f"  IdentityFile {_quoted(login.key.expanduser().absolute())}", "  IdentitiesOnly yes"]
        if _secrets(login):
            lines += ["  BatchMode no", "  NumberOfPasswordPrompts 1", "  PreferredAuthentications publickey,password,keyboard-interactive"]
    lines += [
        "",
        "Host *",
        "  BatchMode yes",
        "  StrictHostKeyChecking accept-new",
        f"  UserKnownHostsFile {_quoted(known_hosts)}",
        "  GlobalKnownHostsFile none",
        "  HashKnownHosts no",
        "  UpdateHostKeys no",
        "  ControlMaster auto",
        "  ControlPersist 120",
        f"  ControlPath {_quoted(sockets)}/%C",
        f"  ConnectTimeout {CONNECT_TIMEOUT}",
        # A machine that is gone is noticed after 20 s: without these, a silent peer is never noticed.
        "  ServerAliveInterval 5",
        "  ServerAliveCountMax 4",
        "  RequestTTY no",
        "  ForwardAgent no",
        "  LogLevel ERROR",
        # Jump hosts may be in the user's own file; slipway's settings come first and win.
        "  Include ~/.ssh/config",
    ]
    return "\n".join(lines) + "\n"


def _plain(path: str) -> bool:
    return path.isprintable() and '"' not in path


def _quoted(path: Path) -> str:
    text = str(path).replace("%", "%%")
    return f'"{text}"' if " " in text else text


def _root() -> Path:
    """The folder of the folders for shared connections: a short path, since a socket's may have 104 characters only."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    short = runtime and len(runtime) < 20 and Path(runtime).is_dir()
    return _checked(Path(runtime) / "slipway" if runtime and short else Path(f"/tmp/slipway-{os.getuid()}"))


def _folder(name: str) -> Path:
    """One that outlives this process."""
    return _checked(_root() / name)


def _checked(path: Path) -> Path:
    """Raises UsageError when another user owns the place, or may write there."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise UsageError(f"{path} is not a folder that only this user can change", hint="remove it")
    return path


def _place() -> liveness.HeldFolder:
    """A folder of this process for shared connections. Those of commands that were killed go."""
    root = _root()
    for other in root.glob("*-*"):
        liveness.remove_abandoned(other, lambda other=other: _end_connections(other))  # type: ignore[misc]
    return liveness.HeldFolder(root)


def _end_connections(folder: Path) -> None:
    """Close the persistent connections; each would stay open for two minutes."""
    for socket in folder.glob("*"):
        if socket.is_socket():
            with contextlib.suppress(CommandError):
                process.run(["ssh", "-F", "none", "-o", f"ControlPath={socket}", "-O", "exit", "--", "nobody"], check=False, timeout=10)


@contextlib.contextmanager
def _standard_input(source: Input, count: Callable[[int], None]) -> Iterator[str | bytes | BinaryIO | None]:
    """Input for process.run: a writer gets one end of a pipe in a thread, the program the other. The bytes are counted."""
    if not callable(source):
        if isinstance(source, str | bytes):
            count(len(source))
        elif source is not None:
            with contextlib.suppress(OSError):
                count(os.fstat(source.fileno()).st_size - source.tell())
        yield source
        return
    reading, writing = os.pipe()
    failure: list[BaseException] = []

    def write() -> None:
        try:
            with os.fdopen(writing, "wb", buffering=1 << 20) as stream:
                counted = CountingPipe(stream)
                try:
                    source(cast("BinaryIO", counted))
                finally:
                    count(counted.tell())
        except BrokenPipeError:
            pass  # the program ended before it had read everything: its exit code says why
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=write, daemon=True)
    with os.fdopen(reading, "rb", buffering=0) as stream:
        thread.start()
        try:
            yield stream
        finally:
            # Closing this end stops a writer whose reader has ended.
            stream.close()
            thread.join()
    if failure:
        raise failure[0]


def _own_code(command: str) -> str:
    """A command that ends with the code that ssh keeps for itself says so: it must not look like a lost connection."""
    return f"( {command}\n); code=$?; if [ $code = {_LOST} ]; then echo {shlex.quote(_OWN)} >&2; fi; exit $code"


def _brief(command: str) -> str:
    """A command in one short line for a message."""
    text = " ".join(command.split())
    return text if len(text) <= 100 else f"{text[:97]}..."


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    """In one move: another command may be reading the file."""
    durable.write(path, text, mode=mode)

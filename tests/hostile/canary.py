"""A user's home with canaries in it, and the command line run in it under limits. Nothing that lies may touch or learn a canary."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import tty
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from tests.hostile.sshd import Sshd, spellings

SECRET = b"canary-7f3a9c51e2d84b60-the-bird-must-not-sing"
"""Stands in every file that no machine, image or registry may read."""

CODES = {
    0: "ok",
    2: "usage or bad input file",
    3: "build",
    4: "registry or store",
    5: "node unreachable",
    6: "a command failed on a node",
    7: "a check failed",
}
"""The documented exit codes; 130 is for who interrupts, and nothing here does."""

PATIENCE: Mapping[str, float] = {"backoff": 0.01, "longest_wait": 1.0}
"""As often as a command asks a registry again by default, but without the waits between."""

MEMORY = 300 << 20
"""Bytes of resident memory that a command may take, whatever it is given."""
_HANG = 300
"""Seconds after which a command counts as one that never ends."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

_CANARIES = (
    ".ssh/id_rsa",
    ".ssh/authorized_keys",
    ".aws/credentials",
    ".kube/config",
    ".bashrc",
    ".docker/config.json",
    "work/notes.txt",
)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended. ``memory`` is its largest resident size in bytes."""

    words: tuple[str, ...]
    code: int
    stdout: str
    stderr: str
    memory: int

    @property
    def output(self) -> str:
        return self.stdout + self.stderr


class Home:
    """Folders of a user, all temporary: ``home`` with canaries, ``state`` for $SLIPWAY_HOME, and what other variables name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root / "home"
        self.state = root / "state"
        self.cache = root / "cache"
        self.temporary = root / "tmp"
        self.work = root / "work"
        """Where commands run and tests put their input; files may appear in it, none may change."""
        for folder in (self.home, self.state, self.cache, self.temporary, self.work, root / "run"):
            folder.mkdir()
        for name in _CANARIES:
            path = self.home / name
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.write_bytes(b"{}" if name.endswith(".json") else SECRET + b"\n")
            path.chmod(0o600)
        (self.home / ".kube/config").write_text(f"apiVersion: v1\nkind: Config\nclusters: []\n# {SECRET.decode()}\n")
        other = self.state / "clusters/other"
        other.mkdir(parents=True)
        (other / "kubeconfig").write_bytes(SECRET)
        self._before = self.canaries()

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "PYTHONPATH") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "SLIPWAY_HOME": str(self.state),
            "SLIPWAY_CACHE": str(self.cache),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_DATA_HOME": str(self.home / ".local/share"),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "XDG_RUNTIME_DIR": str(self.root / "run"),
            "TMPDIR": str(self.temporary),
            "DOCKER_HOST": f"unix://{self.root}/no-engine",
            "PYTHONUTF8": "1",
            "NO_COLOR": "1",
            **extra,
        }

    def slipway(
        self,
        *words: str | Path,
        env: Mapping[str, str] | None = None,
        input: bytes = b"",
        patience: Mapping[str, float] | None = None,
        command_limit: float | None = None,
        on_terminal: bool = False,
    ) -> Outcome:
        """Run the command line and hold it to what is true of every command, whatever it is given; see ``judge``.

        ``patience`` replaces fields of the patience with registries.
        ``command_limit``: seconds after which it gives up a command on a machine, where its own limits are longer.
        ``on_terminal``: its output goes to a terminal; both streams are in ``stdout`` then.
        """
        files = {name: self.root / f".{name}" for name in ("stdin", "stdout", "stderr")}
        for name, path in files.items():
            path.write_bytes(input if name == "stdin" else b"")
        request = {
            **{name: str(path) for name, path in files.items()},
            "argv": [str(word) for word in words],
            "env": self.environment(env or {}),
            "cwd": str(self.work),
            "patience": {**PATIENCE, **(patience or {})},
            "command_limit": command_limit,
        }
        with _terminal() if on_terminal else contextlib.nullcontext() as terminal:
            if terminal is not None:
                request |= {"stdout": terminal.path, "stderr": terminal.path}
            hung, status, size = _forked(request)
        if terminal is not None:
            files["stdout"].write_bytes(bytes(terminal.shown))
        stdout, stderr = (files[name].read_bytes().decode(errors="surrogateescape") for name in ("stdout", "stderr"))
        for path in files.values():
            path.unlink()
        outcome = Outcome(tuple(map(str, words)), os.waitstatus_to_exitcode(status), stdout, stderr, size)
        assert not hung, f"does not end: {outcome}"
        self.judge(outcome)
        return outcome

    def judge(self, outcome: Outcome) -> None:
        """A documented exit code, no crash, no sequence for a terminal, little memory, and no canary touched or shown."""
        shown = f"{' '.join(outcome.words)[:300]}\nexit code {outcome.code}\n{outcome.output[-3000:]!r}"
        changed = self.changed()
        assert not changed, f"{changed}: {shown}"
        assert not tells(outcome.output.encode(errors="surrogateescape")), f"a canary is shown: {shown}"
        assert outcome.code != -signal.SIGXCPU, f"takes processor time without end: {shown}"
        assert "Traceback (most recent call last)" not in outcome.output, shown
        assert "should not have happened" not in outcome.output, shown
        # A clause that fails is what this verb reports; of any other, 1 would be an error without a code of its own.
        assert outcome.code in CODES or (outcome.code == 1 and outcome.words[0] == "conformance"), shown
        assert not strange(outcome.output), f"{strange(outcome.output)} for the terminal: {shown}"
        assert outcome.memory < MEMORY, f"{outcome.memory >> 20} MiB of memory: {shown}"

    def canaries(self) -> dict[str, tuple[int, str]]:
        """Mode and content of everything that is not this command's to change: all of the home, and a cluster of another name."""
        found: dict[str, tuple[int, str]] = {}
        for top in (self.home, self.state / "clusters/other"):
            for path in sorted([top, *top.rglob("*")]):
                about = path.lstat()
                content = ""
                if stat.S_ISLNK(about.st_mode):
                    content = str(path.readlink())
                elif stat.S_ISREG(about.st_mode):
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path.relative_to(self.root))] = (about.st_mode, content)
        found["."] = (self.root.lstat().st_mode, " ".join(sorted(path.name for path in self.root.iterdir())))
        return found

    def changed(self) -> list[str]:
        now = self.canaries()
        return sorted(name for name in {*now, *self._before} if now.get(name) != self._before.get(name))

    def accept(self, *names: str) -> None:
        """What a command was asked to change, by its path below the root, is no canary any more."""
        now = self.canaries()
        for name in names:
            self._before.pop(name, None)
            if name in now:
                self._before[name] = now[name]

    def size(self) -> int:
        """Bytes on the disk below all folders."""
        return sum(path.lstat().st_blocks * 512 for path in self.root.rglob("*"))


class _Terminal:
    """A terminal that shows what is written to ``path`` as it is."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.shown = bytearray()


@contextlib.contextmanager
def _terminal() -> Iterator[_Terminal]:
    screen, end = os.openpty()
    tty.setraw(end)
    terminal = _Terminal(os.ttyname(end))

    def watch() -> None:
        # EIO says that nobody has the other end any more.
        with contextlib.suppress(OSError):
            while piece := os.read(screen, 1 << 16):
                terminal.shown.extend(piece)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield terminal
    finally:
        os.close(end)
        watcher.join()
        os.close(screen)


@functools.cache
def _zygote() -> subprocess.Popen[str]:
    """One for each process that tests; it ends when its standard input does."""
    environment = {**os.environ, "PYTHONUTF8": "1", "NO_COLOR": "1"}
    argv = [sys.executable, "-m", "tests.hostile.zygote"]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _forked(request: Mapping[str, object]) -> tuple[bool, int, int]:
    """Run a command; whether it had to be ended, its wait status and its largest resident size in bytes."""
    zygote = _zygote()
    assert zygote.stdin is not None
    assert zygote.stdout is not None
    zygote.stdin.write(f"{json.dumps(request)}\n")
    zygote.stdin.flush()
    child = int(zygote.stdout.readline())
    hung = threading.Event()

    def end() -> None:
        hung.set()
        os.kill(child, signal.SIGKILL)

    timer = threading.Timer(_HANG, end)
    timer.start()
    try:
        status, size = map(int, zygote.stdout.readline().split())
    finally:
        timer.cancel()
    return hung.is_set(), status, size << 10


def strange(text: str) -> list[str]:
    """Characters that a terminal or a reader of a log takes for more than text."""
    found = {
        character
        for character in text
        if character in _BIDI or (unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") and character not in "\n\t")
    }
    return sorted(f"U+{ord(character):04X}" for character in found)


def tells(data: bytes) -> bool:
    """Whether a canary stands in what was sent or shown."""
    return any(spelling in data for spelling in spellings(SECRET))


def told(server: Sshd) -> list[str]:
    """The addresses of machines that learned a canary."""
    return [address for address, machine in server.machines.items() if tells(machine.received())]


def leading(target: Path, depth: int = 12) -> str:
    """A relative path that leads to an absolute one from wherever it is not looked at."""
    return "../" * depth + str(target).lstrip("/")


def lines(texts: Iterable[str]) -> str:
    return "".join(f"{text}\n" for text in texts)

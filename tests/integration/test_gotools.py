"""Compiling Go programs for real: a program of our own, from a module proxy that is a folder. No network."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness import process
from harness.errors import CommandError
from harness.host import gotools, paths, scratch
from tests.integration.disk import small

NAME, VERSION = "example.test/hello", "v1.0.0"
MODULE = f"module {NAME}\n\ngo 1.21\n"
MAIN = """\
package main

import "fmt"

var version = "none"

func main() { fmt.Println("hello", version) }
"""


def checksum(files: dict[str, str]) -> str:
    """The h1 checksum of a module, as go.sum has it."""
    lines = "".join(f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in sorted(files.items()))
    return f"h1:{base64.b64encode(hashlib.sha256(lines.encode()).digest()).decode()}"


CHECKS = {
    "checks/checks.go": "package checks\n",
    "checks/checks_test.go": 'package checks\n\nimport "testing"\n\nfunc TestAnswer(t *testing.T) { t.Log("forty-two") }\n',
}
"""A package whose tests are a program."""


class Site:
    """A module proxy in a folder, a cache of our own, and the folder that locks the one module."""

    def __init__(self, root: Path) -> None:
        self.proxy = root / f"proxy/{NAME}/@v"
        self.proxy.mkdir(parents=True)
        self.recipe = root / "hello"
        self.recipe.mkdir()
        (self.recipe / "go.mod").write_text(f"module example.test/tools\n\ngo 1.21\n\nrequire {NAME} {VERSION}\n")
        (self.recipe / "tools.go").write_text(f'//go:build tools\n\npackage tools\n\nimport _ "{NAME}"\n')
        self.lock({"main.go": MAIN, **CHECKS})

    def lock(self, files: Mapping[str, str]) -> None:
        """Serve a module of these files, and lock it."""
        self.serve(files)
        prefix = f"{NAME}@{VERSION}"
        sums = {
            VERSION: checksum({f"{prefix}/{name}": text for name, text in {"go.mod": MODULE, **files}.items()}),
            f"{VERSION}/go.mod": checksum({"go.mod": MODULE}),
        }
        (self.recipe / "go.sum").write_text("".join(f"{NAME} {version} {value}\n" for version, value in sums.items()))

    def serve(self, files: Mapping[str, str]) -> None:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as packed:
            for name, text in {"go.mod": MODULE, **files}.items():
                packed.writestr(f"{NAME}@{VERSION}/{name}", text)
        (self.proxy / f"{VERSION}.zip").write_bytes(archive.getvalue())
        (self.proxy / f"{VERSION}.mod").write_text(MODULE)
        (self.proxy / f"{VERSION}.info").write_text(json.dumps({"Version": VERSION}))


@pytest.fixture
def disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """The folder of the cache; with a parameter a file system of its own, of so many MiB."""
    if not hasattr(request, "param"):
        yield tmp_path / "cache"
        return
    with small(tmp_path / "cache", request.param) as place:
        yield place


@pytest.fixture
def site(disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    locked = gotools.pinned_toolchain("tests").program.parents[2]
    # The compiler and what it has compiled of its own library may be those of every day.
    monkeypatch.setenv("SLIPWAY_CACHE", str(disk))
    (disk / "go").mkdir(parents=True)
    (disk / "go" / locked.name).symlink_to(locked)
    (locked.parent / "build").mkdir(exist_ok=True)
    (disk / "go/build").symlink_to(locked.parent / "build")
    monkeypatch.setenv("GOPROXY", f"file://{tmp_path}/proxy")
    monkeypatch.setenv("GOSUMDB", "off")
    return Site(tmp_path)


def test_compiled_locked_program_runs_and_ignores_go_environment(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"GOFLAGS": "-mod=mod -tags=none", "GOARCH": "riscv64", "CGO_ENABLED": "1", "GOWORK": "/nowhere"}.items():
        monkeypatch.setenv(name, value)
    made = gotools.compiled(site.recipe, pinned=True, stamps={"main.version": "stamped"})
    assert process.run([made]).stdout == "hello stamped\n"
    assert not list(made.parent.glob("*.part"))


def test_compiled_tests_of_package_are_a_program(site: Site) -> None:
    (site.recipe / "tools.go").write_text(
        f'//go:build tools\n\npackage tools\n\n//slipway:test e2e.test {NAME}/checks\n\nimport _ "{NAME}/checks"\nimport _ "{NAME}"\n'
    )
    made = gotools.compiled(site.recipe, pinned=True)
    assert made.name == "e2e.test"
    assert "forty-two" in process.run([made, "-test.v"]).stdout
    assert process.run([made.with_name("hello")]).stdout == "hello none\n"


def test_compiled_for_other_architecture_yields_its_binary(site: Site) -> None:
    there = {"amd64": "arm64", "arm64": "amd64"}[paths.architecture()]
    header = gotools.compiled(site.recipe, architecture=there, pinned=True).read_bytes()[:20]
    assert (header[:4], header[18]) == (b"\x7fELF", {"amd64": 0x3E, "arm64": 0xB7}[there])


def test_compiled_from_other_folder_gives_same_bytes(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = gotools.compiled(site.recipe, architecture="amd64", pinned=True)
    elsewhere = tmp_path / "elsewhere/hello"
    site.recipe.rename(elsewhere.parent.parent / "moved")
    elsewhere.parent.mkdir()
    (tmp_path / "moved").rename(elsewhere)
    before = first.read_bytes()
    shutil.rmtree(first.parent)
    assert gotools.compiled(elsewhere, architecture="amd64", pinned=True).read_bytes() == before


def test_compiled_changed_module_is_refused(site: Site) -> None:
    site.serve({"main.go": MAIN.replace("hello", "forged"), **CHECKS})
    with pytest.raises(CommandError, match=r"hello v1\.0\.0 cannot be compiled: a module was downloaded that is not the one go.sum locks"):
        gotools.compiled(site.recipe, pinned=True)


def test_compiled_unavailable_module_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOPROXY", "off")
    with pytest.raises(CommandError, match=r"hello v1\.0\.0 cannot be compiled: a module cannot be downloaded"):
        gotools.compiled(site.recipe, pinned=True)


def start(site: Site) -> subprocess.Popen[str]:
    code = f"from harness.host import gotools; from pathlib import Path; print(gotools.compiled(Path({str(site.recipe)!r}), pinned=True))"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def test_compiled_by_three_processes_at_once_compiles_once(site: Site) -> None:
    running = [start(site) for _ in range(3)]
    said = [one.communicate(timeout=900) for one in running]
    assert len({out for out, _ in said}) == 1, said
    assert sum(err.count("+ compile hello") for _, err in said) == 1, said


def test_compiled_after_killed_compilation_succeeds(site: Site) -> None:
    first = start(site)
    assert first.stderr is not None
    assert "compile hello" in first.stderr.readline()
    first.send_signal(signal.SIGKILL)
    first.communicate(timeout=60)
    out, err = start(site).communicate(timeout=900)
    assert process.run([out.strip()]).stdout == "hello none\n", err


def left() -> list[str]:
    """Programs in the cache, whole or not."""
    return [path.name for path in (paths.cache() / "programs").iterdir() if path.suffix != ".lock"]


REPORTED = """
import signal
import sys
from pathlib import Path
from harness import process
from harness.host import gotools

stream = process.stream

def reported(argv, take, **options):
    def both(name, line):
        print(line, flush=True)
        take(name, line)
    return stream(argv, both, **options)

process.stream = reported
# A shell may have started these tests in the background, where signals from the keyboard are ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
gotools.compiled(Path(sys.argv[1]), pinned=True)
"""
"""A compile that prints what the compiler prints: the packages, each when its compile begins."""


def test_compiled_after_interrupt_keeps_packages_that_were_compiled(site: Site) -> None:
    # A package that no earlier run has left in the cache of the compiler, and a program that takes seconds.
    library = f'package library\n\nfunc Answer() string {{ return "{uuid.uuid4()}" }}\n'
    slow = "".join(
        f"func f{one}(a, b map[string]int) (c int) {{ for k, v := range a {{ c += v*{one} + b[k]; b[k+k] = c }}; return c + len(b) }}\n"
        for one in range(4000)
    )
    calls = "".join(f"f{one}(a, a)\n" for one in range(4000))
    main = f'package main\n\nimport "{NAME}/library"\n\nfunc main() {{ a := map[string]int{{}}\n{calls}println(library.Answer()) }}\n{slow}'
    site.lock({"main.go": main, "library/library.go": library})
    argv = [sys.executable, "-c", REPORTED, str(site.recipe)]
    first = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert first.stdout is not None
    begun = []
    for line in first.stdout:
        begun.append(line.strip())
        if begun[-1] == NAME:
            break
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode != 0
    assert f"{NAME}/library" in begun
    assert left() == []
    second = process.run(argv, timeout=900).stdout.split()
    assert NAME in second
    assert f"{NAME}/library" not in second


@pytest.mark.parametrize("disk", [1], indirect=True)
def test_compiled_on_full_disk_is_reported_in_one_line_and_leaves_nothing(site: Site, disk: Path) -> None:
    # The folder of this process for what is temporary lies on that disk, too.
    with scratch.cleaned(), pytest.raises(CommandError) as caught:
        gotools.compiled(site.recipe, pinned=True)
    assert caught.value.message == "hello v1.0.0 cannot be compiled: the disk is full"
    # The compiler had begun: its linker writes the program.
    assert "# example.test/hello\n" in str(caught.value.details)
    assert caught.value.hint == "free some 3 GB there, or set SLIPWAY_CACHE to a folder on a larger disk"
    assert left() == []
    process.run(["mount", "-o", "remount,size=64m", disk])
    with scratch.cleaned():
        assert process.run([gotools.compiled(site.recipe, pinned=True)]).stdout == "hello none\n"

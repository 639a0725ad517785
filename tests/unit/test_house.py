"""The walls of the house: who may import whom, and who may touch what. Read from the source; nothing is imported for it."""

from __future__ import annotations

import ast
import functools
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.unit import sources

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "harness"
TESTS = ROOT / "tests/unit"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("testkit.e2e",),
    ("sessions", "testkit"),
    ("build",),
    ("lifecycle",),  # the verbs
    ("lifecycle.rollout",),
    ("lifecycle.apps",),
    ("lifecycle.steps",),
    ("lifecycle.checks.postflight",),
    ("lifecycle.checks.postflight.cis",),
    ("lifecycle.checks.preflight",),
    ("lifecycle.checks",),
    ("lifecycle.cluster",),
    ("lifecycle.provision", "lifecycle.kube"),
    ("lifecycle.provision.distribution",),
    ("lifecycle.plan",),
    ("runtimes",),
    ("report",),
    ("website",),
    ("nodes.cloud",),
    ("nodes", "transfer", "sealer"),
    ("trust",),
    ("trust.sbom",),
    ("cloudimage.conformance",),
    ("cloudimage",),
    ("clusterfile", "kubefile"),
    ("oci.archive", "oci.registry"),
    ("oci.layer",),
    ("oci",),
    ("templates",),
    ("host", "catalog"),
    ("assets",),
    ("process",),
    ("log",),
    ("untrusted",),
    ("about", "errors"),
)
"""From the roof down, every package and every module of the root: a module imports from its own package or from below. What only a type
checker reads counts too.
"""

LARGEST = 500
"""Lines of a module."""

SHELL_LINES = 6
"""Of a script in a string: longer ones stand in assets/node, where shellcheck reads them."""

DOCKER = {"harness.host.docker"}
SUBPROCESS = {
    "harness.process",
    "harness.host.docker",  # starts the engine and leaves it running, which the door does not do
}
TESTINFRA = {"harness.testkit.cluster"}
ZSTANDARD = {"harness.oci.layer.compression"}
NACL = {"harness.trust.keys"}
BCRYPT = {"harness.lifecycle.provision.registry"}
BOTO = {"harness.nodes.cloud.aws"}
ALIYUN = {"harness.nodes.cloud.aliyun"}
ALIYUN_PARTS = {*ALIYUN, "harness.nodes.cloud.aliyun_errors"}


TAR_READERS = {
    "harness.build.engine_export",  # what the engine of this machine answers
}
"""Who may read with the standard library's tarfile. All else comes from elsewhere and goes through oci.layer.tar_reader."""
YAML_LOADERS = {
    "harness.untrusted.yaml_reader",
    "harness.clusterfile.yaml_nodes",  # nodes with lines, after untrusted.yaml_excess
    "harness.build.yaml_documents",  # the same
    "harness.trust.policy",  # the same
    "harness.lifecycle.cluster.kubeconfig",  # the user's own, into which that of a cluster is merged
}
"""Who may load YAML past untrusted.yaml_documents."""
_TAR_READING = {"is_tarfile", "extractfile", "extractall", "getmembers", "getnames"}
_YAML_LOADING = {"load", "load_all", "safe_load", "safe_load_all", "full_load", "full_load_all", "compose", "compose_all", "parse", "scan"}

RENAMES = {
    "harness.host.durable": "the function that all others call",
    "harness.host.gotools": "whole folders",
    "harness.cloudimage.unpacked": "whole folders",
    "harness.oci.store": "blobs, which are written in many calls and resumed, and take the name of their digest",
    "harness.website.folder": "whole folders",
    "harness.build.new_repository": "whole folders",
    "harness.oci.archive.volumes": "volumes, which are locked while they are written, and are renamed together",
}
"""Who may rename by itself, and what. All else is written by harness.host.durable."""


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES: Mapping[str, Path] = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def imports(name: str, *, top_level: bool = False, types: bool = False) -> tuple[str, ...]:
    """See _imports; read once."""
    return tuple(_imports(name, SOURCES[name], top_level=top_level, types=types))


def _imports(name: str, path: Path, *, top_level: bool = False, types: bool = False) -> Iterator[str]:
    """The full names of what a module imports, also inside functions; with ``types`` also what only a type checker reads."""
    tree = sources.tree(path)
    skipped = {id(node) for guard in ast.walk(tree) if not types and is_type_checking(guard) for node in ast.walk(guard)}
    nodes = tree.body if top_level else ast.walk(tree)
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = name.split(".")[: None if path.name == "__init__.py" else -1]
            base = ".".join([*package[: len(package) - node.level + 1], node.module or ""]).rstrip(".") if node.level else node.module or ""
            yield from (f"{base}.{alias.name}" for alias in node.names)


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def own(name: str, *, top_level: bool = False) -> set[str]:
    """The modules of ours that a module imports."""
    return within(imports(name, top_level=top_level, types=not top_level)) - {name}


def within(wanted: Iterable[str]) -> set[str]:
    """The modules of ours among full names of modules and of what is in them."""
    modules = (name if name in SOURCES else name.rpartition(".")[0] for name in wanted)
    return {module for module in modules if module in SOURCES}


def room(name: str) -> str:
    """The entry of LAYERS that a module belongs to: it, or the innermost package around it; empty when there is none."""
    parts = name.split(".")[1:]
    entries = {entry for names in LAYERS for entry in names}
    return next((entry for count in range(len(parts), 0, -1) if (entry := ".".join(parts[:count])) in entries), "")


def layer(name: str) -> int:
    return next((index for index, names in enumerate(LAYERS) if room(name) in names), len(LAYERS))


def uses(name: str, library: str) -> bool:
    return any(wanted.split(".")[0] == library for wanted in imports(name))


def test_imports_point_to_lower_layers_only() -> None:
    wrong = [
        f"{name} imports {other}, which does not stand below it"
        for name in SOURCES
        for other in own(name)
        if room(name) != room(other) and layer(other) <= layer(name)
    ]
    assert wrong == []


def test_layers_name_all_packages_and_root_modules_once() -> None:
    packages = {name.partition(".")[2] for name, path in SOURCES.items() if path.name == "__init__.py"} - {""}
    top = {name.partition(".")[2] for name in SOURCES if name.count(".") == 1}
    named = [entry for names in LAYERS for entry in names]
    assert len(named) == len(set(named))
    assert {*packages, *top} - set(named) == set()
    assert {f"harness.{entry}" for entry in named} - set(SOURCES) == set()


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_modules_stay_within_line_limit() -> None:
    assert {name: count for name, path in SOURCES.items() if (count := lines(path)) > LARGEST} == {}, "split it"


def test_public_class_names_are_unique() -> None:
    names = Counter(
        node.name
        for path in SOURCES.values()
        for node in sources.nodes(path)
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, count in names.items() if count > 1] == [], "name it for what it is, unlike all other classes"


_SHELL = re.compile(
    r"""^\s*(?:if|for|while|until|case|set\ -|done|fi|then|do|esac|test|trap|exec|cd)\b
    |^\s*\[[ ]
    |^\s*(?:printf|echo|rm|mkdir|mv|cat|chmod|export|systemctl)\b
    |;\ *(?:then|do|fi|done)\b|\|\|\ |&&\ |\ \$\(|>&2|"\$""",
    re.VERBOSE,
)


def literals(path: Path) -> Iterator[str]:
    """The strings of a module that are no docstrings, those in braces left out."""
    nodes = sources.nodes(path)
    inner = {id(value) for node in nodes if isinstance(node, ast.JoinedStr) for value in node.values}
    inner |= {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        parts = node.values if isinstance(node, ast.JoinedStr) else [node]
        if id(node) not in inner:
            yield "".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))


def test_shell_scripts_in_strings_stay_within_line_limit() -> None:
    scripts = (
        (name, lines)
        for name, path in SOURCES.items()
        for text in literals(path)
        if len(lines := [line for line in text.splitlines() if line.strip()]) > SHELL_LINES
    )
    long = [name for name, lines in scripts if 3 * sum(1 for line in lines if _SHELL.search(line)) >= len(lines)]
    assert long == [], "a script for nodes stands in harness/assets/node (assets.script)"


def mirror(name: str) -> Path:
    """The test file of a module's name."""
    parts = SOURCES[name].relative_to(PACKAGE).with_suffix("").parts
    folder, stem = Path(*parts[:-1]), parts[-1] if parts[-1] != "__init__" else parts[-2]
    return TESTS / folder / f"test_{stem}.py"


def untested() -> set[str]:
    """Modules without a test of their name, and that no test in the folder of their package's tests imports."""
    imported = {path: within(_imports("tests.unit", path)) for path in TESTS.rglob("test_*.py")}
    modules = [name for name, path in SOURCES.items() if path.read_text() and path.name != "__main__.py"]
    return {
        name
        for name in modules
        if not mirror(name).exists() and not any(name in found for path, found in imported.items() if path.parent == mirror(name).parent)
    }


def test_modules_have_mirrored_tests() -> None:
    assert untested() == set(), "add tests/unit/PACKAGE/test_MODULE.py"


def test_unit_test_folders_mirror_packages() -> None:
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert [folder for folder in sorted(folders) if not (PACKAGE / folder / "__init__.py").exists()] == []


def test_aliases_of_modules_are_named_after_package_and_module() -> None:
    """One way to keep a module apart from a function of its name: ``from harness.lifecycle import run as lifecycle_run``."""
    wrong = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {alias.name} as {alias.asname}"
        for path in (*SOURCES.values(), *sorted((ROOT / "tests").rglob("*.py")))
        for node in ast.walk(sources.tree(path))
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
        if alias.asname and f"{node.module}.{alias.name}" in SOURCES and alias.asname != f"{node.module.rpartition('.')[2]}_{alias.name}"
    ]
    assert wrong == []


def test_import_statements_in_test_strings_resolve() -> None:
    """mypy does not read the programs that tests hand to an interpreter."""
    wrong: list[str] = []
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for module, names in re.findall(r"\bfrom (harness[\w.]*) import (\w+(?:, \w+)*)", path.read_text()):
            for name in names.split(", "):
                whole = SOURCES.get(f"{module}.{name}")
                exists = whole.read_text() if whole else module in SOURCES and re.search(rf"\b{name}\b", SOURCES[module].read_text())
                if not exists:
                    wrong.append(f"{path.relative_to(ROOT)}: from {module} import {name}")
    assert wrong == []


def test_imports_have_no_cycles() -> None:
    graph = {name: own(name) for name in SOURCES}
    done: set[str] = set()

    def follow(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, f"a circle: {' -> '.join([*way[way.index(name) :], name])}"
        if name not in done:
            for other in sorted(graph[name]):
                follow(other, (*way, name))
            done.add(name)

    for name in graph:
        follow(name, ())


def test_root_package_is_empty_and_never_imported() -> None:
    assert (PACKAGE / "__init__.py").read_text() == ""
    assert [name for name in SOURCES if "harness" in own(name)] == []


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("docker", DOCKER),
        ("subprocess", SUBPROCESS),
        ("testinfra", TESTINFRA),
        ("requests", set()),  # urllib3, beneath it, does one request where one is asked for
        ("nacl", NACL),
        ("bcrypt", BCRYPT),
        ("boto3", BOTO),
        ("botocore", BOTO),
        ("alibabacloud_ecs20140526", ALIYUN),
        ("alibabacloud_credentials", ALIYUN_PARTS),
        ("alibabacloud_tea_openapi", ALIYUN_PARTS),
        ("darabonba", ALIYUN_PARTS),
        ("zstandard", ZSTANDARD),
    ],
)
def test_library_is_imported_by_allowed_modules_only(library: str, allowed: set[str]) -> None:
    assert {name for name in SOURCES if uses(name, library)} == allowed


def calls(name: str) -> Iterator[tuple[str, str, ast.Call]]:
    """Calls of an attribute: what it is of, as far as that is a plain name, its name, and the call."""
    for node in sources.nodes(SOURCES[name]):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node.func.value.id if isinstance(node.func.value, ast.Name) else "", node.func.attr, node


def reads_tar(module: str, function: str, call: ast.Call) -> bool:
    if module != "tarfile" or function not in ("open", "TarFile"):
        return function in _TAR_READING
    modes = [*(keyword.value for keyword in call.keywords if keyword.arg == "mode"), *call.args[1:2]]
    return not any(isinstance(mode, ast.Constant) and str(mode.value).startswith(("w", "x")) for mode in modes)


def test_tarfile_reading_is_limited_to_allowed_modules() -> None:
    assert {name for name in SOURCES if any(reads_tar(*found) for found in calls(name))} == TAR_READERS


def test_yaml_loading_is_limited_to_allowed_modules() -> None:
    loaders = {name for name in SOURCES if any(module == "yaml" and function in _YAML_LOADING for module, function, _ in calls(name))}
    assert loaders | {"harness.clusterfile.yaml_nodes"} == YAML_LOADERS
    assert [name for name in SOURCES if name not in YAML_LOADERS and "SafeLoader" in SOURCES[name].read_text()] == []


def renames(module: str, function: str, call: ast.Call) -> bool:
    if module in ("os", "shutil"):
        return function in ("rename", "renames", "replace", "move")
    # A text is replaced by two arguments, a dataclass by names.
    return function == "rename" or (function == "replace" and len(call.args) == 1 and module not in ("copy", "dataclasses"))


def test_file_renaming_is_limited_to_allowed_modules() -> None:
    assert {name for name in SOURCES if any(renames(*found) for found in calls(name))} == set(RENAMES)


def test_home_folders_are_looked_up_in_paths_module_only() -> None:
    """pathlib raises RuntimeError for a user that does not exist."""
    found = {
        name
        for name in SOURCES
        for module, function, _ in calls(name)
        if function == "expanduser" or (module, function) == ("Path", "home")
    }
    assert found == {"harness.host.paths"}


def test_jinja_module_imports_no_module_of_package() -> None:
    assert own("harness.templates.jinja") == set()


def test_library_exceptions_name_existing_modules() -> None:
    assert {*DOCKER, *SUBPROCESS, *TESTINFRA, *ZSTANDARD, *NACL, *BCRYPT, *BOTO} <= set(SOURCES)


def test_noxfile_dependencies_import_standard_library_and_nox_only() -> None:
    seen: set[str] = set()
    todo = ["harness.catalog", "harness.clusterfile.secrets", "harness.host.paths", "harness.sessions"]
    while todo:
        name = todo.pop()
        seen.add(name)
        foreign = {wanted.split(".")[0] for wanted in imports(name, top_level=True)} - set(sys.stdlib_module_names) - {"harness", "nox"}
        assert foreign == set(), f"{name} imports {foreign}"
        todo += own(name, top_level=True) - seen


def test_pytest_plugin_top_level_imports_are_pytest_only() -> None:
    foreign = {wanted.split(".")[0] for wanted in imports("harness.testkit.plugin", top_level=True)} - set(sys.stdlib_module_names)
    assert foreign == {"pytest"}


def test_module_names_are_not_vague() -> None:
    vague = {"utils", "util", "common", "base", "manager", "helpers", "misc"}
    assert [name for name in SOURCES if vague & set(name.split("."))] == []


LIMITED = ("run", "fetch")
"""Methods of nodes that run something there."""


def methods_that_run_on_nodes() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every ``run(command, *, ..., timeout)`` and ``fetch`` of the package: its module and the function."""
    for name, path in SOURCES.items():
        for kind in (node for node in sources.nodes(path) if isinstance(node, ast.ClassDef)):
            for node in kind.body:
                if isinstance(node, ast.FunctionDef) and node.name in LIMITED and [each.arg for each in node.args.args[1:2]] == ["command"]:
                    yield f"{name}.{kind.name}.{node.name}", node


def test_node_methods_that_run_commands_have_default_timeout() -> None:
    """The default is a number, and mypy lets nobody give None: whatever calls them has a limit."""
    seen = dict(methods_that_run_on_nodes())
    assert {"harness.nodes.Node.run", "harness.nodes.ssh.SshNode.run", "harness.nodes.local.LocalNode.run"} <= set(seen)
    for name, function in seen.items():
        keywords = dict(zip((each.arg for each in function.args.kwonlyargs), function.args.kw_defaults, strict=True))
        timeout = next((each for each in function.args.kwonlyargs if each.arg == "timeout"), None)
        assert timeout is not None, f"{name} has no timeout"
        assert ast.unparse(timeout.annotation or ast.Constant(None)) == "float", f"{name} may be given no limit"
        assert isinstance(keywords["timeout"], ast.Name), f"{name} has no limit by default"


def test_ssh_process_calls_have_timeout() -> None:
    for name, least in (("harness.nodes.ssh", 5), ("harness.nodes.local", 1), ("harness.nodes.control_sockets", 1)):
        nodes = sources.nodes(SOURCES[name])
        calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "process.run"]
        assert len(calls) >= least, name
        for call in calls:
            limits = [keyword.value for keyword in call.keywords if keyword.arg == "timeout"]
            assert limits, f"{name}:{call.lineno}: process.run without a timeout"
            assert ast.unparse(limits[0]) != "None", f"{name}:{call.lineno}: process.run without a timeout"


def test_cli_modules_import_heavy_modules_lazily() -> None:
    """`slipway --help` does not wait for stores, Clusterfiles and clusters to be imported."""
    light = {"about", "errors", "log", "log.timings", "process", "untrusted"}
    heavy = [
        f"{name} imports {other} at its top"
        for name in SOURCES
        if name.startswith("harness.cli.")
        for other in own(name, top_level=True)
        if not other.startswith("harness.cli") and other.removeprefix("harness.") not in light
    ]
    assert heavy == []


def loaded(*names: str) -> set[str]:
    """The modules and libraries that importing some modules loads."""
    seen: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        if name in SOURCES and name not in seen:
            todo += [*own(name, top_level=True), name.rpartition(".")[0]]
            seen |= {wanted.split(".")[0] for wanted in imports(name, top_level=True)}
        seen.add(name)
    return seen


def test_images_verb_loads_no_layer_kubefile_or_registry_modules() -> None:
    """`slipway images` and `slipway inspect` read small documents of the store."""
    modules = loaded("harness.cloudimage.enforcers", "harness.cloudimage.listing", "harness.sealer.image", "harness.sealer.listing")
    heavy = ("harness.kubefile", "harness.oci.layer", "harness.oci.registry", "harness.templates", "harness.host.docker", "harness.trust")
    assert {name for name in modules if name.startswith(heavy)} == set()
    assert modules & {"cryptography", "docker", "jinja2", "nacl", "tarfile", "urllib3", "zstandard"} == set()


@pytest.mark.parametrize(
    "entered",
    [
        # `slipway pull` with nothing new asks a registry for one manifest; keys are read where a policy names one.
        ("harness.cli.registry", "harness.transfer.access", "harness.transfer.pull", "harness.trust.policy"),
        # `slipway inspect` lists attachments, and verifies no signature.
        ("harness.cloudimage.listing", "harness.sealer.image", "harness.trust.attached_documents"),
    ],
    ids=["pull", "inspect"],
)
def test_verb_that_reads_manifests_loads_no_cryptography_layer_or_kubefile_modules(entered: tuple[str, ...]) -> None:
    modules = loaded(*entered)
    assert "harness.oci.registry.referrers" in modules
    heavy = ("harness.kubefile", "harness.oci.layer", "harness.templates", "harness.host.docker", "harness.trust.keys", "harness.nodes")
    assert {name for name in modules if name.startswith(heavy)} == set()
    assert modules & {"bcrypt", "cryptography", "docker", "jinja2", "nacl", "tarfile", "zstandard"} == set()


def test_printing_is_limited_to_escaping_functions() -> None:
    """Names, annotations and errors come from images, registries and machines: ``say`` and ``table`` escape control characters."""
    allowed = {
        "harness.cli.output": 3,  # the doors themselves: say, JSON, plain tables
        "harness.cli.exec": 1,  # exec into a pipe: as the machine printed it
        "harness.sessions.reports": 1,  # a door for sessions, where only the standard library is
        "harness.templates.jinja": 1,  # a child's answer to its parent, which no person reads
    }
    for name, path in SOURCES.items():
        calls = [node for node in sources.nodes(path) if isinstance(node, ast.Call)]
        printing = [call.lineno for call in calls if ast.unparse(call.func) in ("print", "typer.echo", "typer.secho", "sys.stdout.write")]
        assert len(printing) == allowed.get(name, 0), f"{name}: lines {printing}: use say() of harness.cli.output"

"""The test kit of image authors: fixtures that boot a cluster from a CloudImage and hand out its nodes.

    def test_the_page_answers(kubectl, nodes):
        kubectl.wait()
        assert "200 OK" in nodes[-1].check_output("curl -si http://localhost:30080/")

``pytest kubefiles/web --image web:latest``. Every pytest run loads it once slipway is installed, so it only has hooks; heavy
modules are imported by the first test that requests one of its fixtures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from testinfra.host import Host

    from harness.cloudimage.conformance import ConformanceReport
    from harness.testkit.cluster import Cluster, ClusterKubectl, ClusterRequest, GivenMachines
    from harness.testkit.isolation import Offline
    from harness.testkit.recorder import Boot
    from harness.testkit.reporter import PageReporter

TAG = "latest"
_OURS = ("cluster", "node")
_FORMER_WORDS = {"masters": "control_plane", "nodes": "workers"}
"""Arguments of the marker topology in tests for an earlier slipway."""
_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
"""The name of a value, as ``harness.clusterfile.validators.ENV_NAME``, whose module is not loaded for it."""


@dataclasses.dataclass(frozen=True)
class KitOptions:
    """Options of the command line. Addresses are those of existing machines."""

    image: str | None
    keep: bool
    control_plane: tuple[str, ...]
    workers: tuple[str, ...]
    user: str
    key: Path | None
    values: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    """Values for the image under test, by name. Some are secrets."""


@dataclasses.dataclass
class Kit:
    """Clusters of one pytest run."""

    options: KitOptions
    cluster: Cluster | None = None
    """The one that runs now."""
    images: list[str] = dataclasses.field(default_factory=list)
    booted: list[str] = dataclasses.field(default_factory=list)
    """A line for each cluster, for the reports."""
    boots: list[Boot] = dataclasses.field(default_factory=list)
    """The same for the record of the run."""
    kept: list[str] = dataclasses.field(default_factory=list)
    """Commands to access the clusters that were kept running."""
    reporter: PageReporter | None = None
    """Of a run that leaves a page."""


_kit = pytest.StashKey[Kit]()


# ---- options and markers ----------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("slipway", "slipway: clusters from CloudImages")
    group.addoption(
        "--image",
        dest="slipway_image",
        metavar="NAME",
        help="the CloudImage under test, if not FOLDER:latest of its Kubefile; for the format suite, also an archive",
    )
    group.addoption(
        "--value", dest="slipway_values", metavar="NAME=VALUE", action="append", default=[], help="a value for the image; may be repeated"
    )
    group.addoption("--keep", dest="slipway_keep", action="store_true", help="leave clusters running, and say how to reach and remove them")
    group.addoption(
        "--test-result",
        dest="slipway_result",
        metavar="FILE",
        help="write the results as a statement about the image that ran; slipway attest attaches it",
    )
    group.addoption(
        "--test-report",
        dest="slipway_report",
        metavar="FILE",
        help="write a page about the run: tests with the commands that they ran, machines, boot, logs, images",
    )
    group.addoption(
        "--control-plane",
        "--masters",
        dest="slipway_control_plane",
        metavar="ADDRESSES",
        help="test on these machines instead of making some",
    )
    group.addoption("--workers", "--nodes", dest="slipway_workers", metavar="ADDRESSES", help="more of them, as workers")
    group.addoption("--ssh-user", dest="slipway_user", metavar="NAME", help="root, or one who may sudo without a password")
    group.addoption("--ssh-key", dest="slipway_key", metavar="FILE", help="the private key for them")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "topology(control_plane=1, workers=1): the machines that a test, or a module of tests, runs on")
    config.addinivalue_line("markers", "values(NAME=VALUE): values for the image, as `slipway run -e` gives them; --value wins")
    options = read_options(config)
    if not options.control_plane and (options.workers or config.getoption("slipway_user") or options.key):
        raise pytest.UsageError("--workers, --ssh-user and --ssh-key go with --control-plane")
    config.stash[_kit] = Kit(options)
    if page := config.getoption("slipway_report"):
        from harness.testkit.reporter import PageReporter

        config.stash[_kit].reporter = PageReporter(None if hasattr(config, "workerinput") else Path(page))
        config.pluginmanager.register(config.stash[_kit].reporter, "slipway-reporter")
    if (record := config.getoption("slipway_result")) and not hasattr(config, "workerinput"):
        if config.getoption("numprocesses", None):
            raise pytest.UsageError("--test-result records the tests of one process: leave out -n")
        from harness.testkit.recorder import RunRecorder

        config.pluginmanager.register(RunRecorder(Path(record), config.stash[_kit].boots), "slipway-recorder")


def read_options(config: pytest.Config) -> KitOptions:
    def addresses(name: str) -> tuple[str, ...]:
        return tuple(word.strip() for word in (config.getoption(name) or "").split(",") if word.strip())

    pairs: list[str] = config.getoption("slipway_values")
    wrong = [f"--value {pair.partition('=')[0]}: not NAME=VALUE" for pair in pairs if not re.match(rf"{_NAME}=", pair)]
    if wrong:
        raise pytest.UsageError("\n".join(wrong))
    key = config.getoption("slipway_key")
    return KitOptions(
        image=config.getoption("slipway_image"),
        keep=config.getoption("slipway_keep"),
        control_plane=addresses("slipway_control_plane"),
        workers=addresses("slipway_workers"),
        user=config.getoption("slipway_user") or "root",
        key=Path(key) if key else None,
        values={name: value for name, _, value in (pair.partition("=") for pair in pairs)},
    )


# ---- which cluster a test runs on --------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" not in metafunc.fixturenames or not _is_ours(metafunc, "cluster"):
        return
    from harness.testkit.cluster import ClusterRequest

    item, options = metafunc.definition, metafunc.config.stash[_kit].options
    needed = _topology_of(item)
    image = options.image or _image_of(item.path)
    marks = []
    control_plane, workers = needed or (1, 1)
    if options.control_plane:
        # Given machines are one cluster, whatever a test would do with less.
        control_plane, workers = len(options.control_plane), len(options.workers)
        if needed is not None and (needed[0] > control_plane or needed[1] > workers):
            reason = f"needs {needed[0]} control-plane nodes and {needed[1]} workers, {control_plane} and {workers} are given"
            marks.append(pytest.mark.skip(reason=reason))
    # Not shown in the names of tests: it is the same for all of a module, nearly always.
    request = ClusterRequest(image, control_plane, workers, tuple(sorted({**_values_of(item), **options.values}.items())))
    parameter = pytest.param(request, marks=marks, id=pytest.HIDDEN_PARAM)
    metafunc.parametrize("cluster", [parameter], indirect=True, scope="session")
    if "node" in metafunc.fixturenames and _is_ours(metafunc, "node"):
        ids = [f"control-plane-{index}" for index in range(control_plane)] + [f"worker-{index}" for index in range(workers)]
        metafunc.parametrize("node", range(len(ids)), ids=ids, indirect=True)


def _is_ours(metafunc: pytest.Metafunc, name: str) -> bool:
    """Return True when fixture ``name`` of a test is this plugin's: other plugins and conftests have fixtures of these names too."""
    for definition in reversed(metafunc._arg2fixturedefs.get(name, ())):
        if definition.func.__module__ == __name__:
            return True
        if name not in definition.argnames:
            return False
    return False


def _topology_of(item: pytest.Item) -> tuple[int, int] | None:
    """Control-plane nodes and workers that the nearest marker asks for; None without one."""
    marker = item.get_closest_marker("topology")
    if marker is None:
        return None
    try:
        return _topology(*marker.args, **{_FORMER_WORDS.get(name, name): value for name, value in marker.kwargs.items()})
    except (TypeError, ValueError) as error:
        raise pytest.Collector.CollectError(f"{item.nodeid}: topology: {error}") from error


def _topology(control_plane: int = 1, workers: int = 1) -> tuple[int, int]:
    if not isinstance(control_plane, int) or not isinstance(workers, int) or control_plane < 1 or workers < 0:
        raise ValueError(
            f"control_plane={control_plane!r}, workers={workers!r}: at least one control-plane node is needed, and both are whole numbers"
        )
    return control_plane, workers


def _values_of(item: pytest.Item) -> dict[str, str]:
    """Values that markers give to the image. The nearest marker wins for each name."""
    values: dict[str, str] = {}
    for marker in reversed(list(item.iter_markers("values"))):
        wrong = ["values are given by name: values(Port=30080)"] if marker.args else []
        for name, value in marker.kwargs.items():
            if not re.fullmatch(_NAME, name):
                wrong.append(f"{name!r} is not a name for a variable")
            if not isinstance(value, str | int | float):
                wrong.append(f"{name} is not text, a number, True or False")
        if wrong:
            raise pytest.Collector.CollectError(f"{item.nodeid}: values: {'; '.join(wrong)}")
        values |= {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in marker.kwargs.items()}
    return values


def _image_of(path: Path) -> str:
    """The image that a test file is about: called like the folder, at or above it, that holds a Kubefile."""
    folder = next((folder for folder in path.parents if (folder / "Kubefile").is_file()), None)
    if folder is None:
        raise pytest.Collector.CollectError(f"{path}: which image is to be tested? Give --image, or put the file beside a Kubefile")
    return f"{folder.name}:{TAG}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a cluster run one after the other: it is removed when another one begins."""
    places = [index for index, item in enumerate(items) if _cluster_of(item) is not None]
    requests = dict.fromkeys(_cluster_of(items[index]) for index in places)
    if len(requests) > 1:
        order = list(requests)
        chosen = sorted((items[index] for index in places), key=lambda item: order.index(_cluster_of(item)))
        for index, item in zip(places, chosen, strict=True):
            items[index] = item


def _cluster_of(item: pytest.Item) -> ClusterRequest | None:
    """Request of a test item of this plugin; None for all others, whatever fixtures they have."""
    callspec = getattr(item, "callspec", None)
    value: Any = callspec.params.get("cluster") if callspec is not None else None
    cluster_request: ClusterRequest | None = value if type(value).__module__ == "harness.testkit.cluster" else None
    return cluster_request


# ---- fixtures ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that runs the image under test; shared by all tests of one topology, removed when another one begins."""
    cluster_request: ClusterRequest | None = getattr(request, "param", None)
    if cluster_request is None:
        raise pytest.UsageError("`cluster` is to be an argument of the test, or of a fixture that is one: its topology is read there")
    from harness.errors import SlipwayError
    from harness.testkit import cluster as testkit_cluster

    kit = request.config.stash[_kit]
    options = kit.options
    given_machines = (
        testkit_cluster.GivenMachines.of(options.control_plane, options.workers, options.user, options.key)
        if options.control_plane
        else None
    )
    with contextlib.ExitStack() as stack:
        boot = testkit_cluster.boot if kit.reporter is None else kit.reporter.boot
        with _shown(request.config, cluster_request, given_machines):
            try:
                booted = stack.enter_context(boot(cluster_request, given_machines, keep=kit.options.keep))
            except SlipwayError as error:
                raise _failure(f"{cluster_request.image} does not run: {error}", error.details) from None
        _note(kit, booted)
        kit.cluster = booted
        try:
            yield booted
        finally:
            kit.cluster = None


@pytest.fixture(scope="session")
def image_to_check(request: pytest.FixtureRequest) -> str:
    """The image that the format suite checks: what ``--image`` names. Override it to check what your own tool has just written."""
    image = request.config.stash[_kit].options.image
    if image is None:
        raise pytest.UsageError("which image is to be checked? Give --image, or override the fixture image_to_check")
    return image


@pytest.fixture(scope="module")
def conformance_report(image_to_check: str) -> ConformanceReport:
    """Results of all clauses of the format for ``image_to_check``; see harness.testkit.conformance."""
    from harness.cloudimage import conformance
    from harness.errors import SlipwayError
    from harness.oci.store import Store

    try:
        return conformance.check(Store.default(), str(image_to_check))
    except SlipwayError as error:
        raise _failure(f"{image_to_check} cannot be checked: {error}", error.details) from None


@pytest.fixture
def kubectl(cluster: Cluster) -> ClusterKubectl:
    """kubectl("get", "pods") -> what it prints; kubectl.json(...) -> dict; kubectl.wait(...) until all is ready, or what the words say."""
    return cluster.kubectl


@pytest.fixture
def nodes(cluster: Cluster) -> tuple[Host, ...]:
    """Every machine of the cluster as a testinfra host, control-plane nodes first."""
    return cluster.hosts


@pytest.fixture
def node(request: pytest.FixtureRequest, cluster: Cluster) -> Host:
    """Each machine as a testinfra host: a test with this fixture runs once per machine, as control-plane-0, worker-0, ..."""
    return cluster.hosts[request.param]


@pytest.fixture
def offline(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Offline]:
    """Proof that nothing gets out of the nodes: before the test by trying, after it by the counters; see harness.testkit.isolation.

    ``offline.dropped`` counts what workloads have tried to send out since the nodes exist.
    """
    from harness.errors import SlipwayError, UsageError

    kit = request.config.stash[_kit]
    try:
        proof = cluster.prove_offline()
    except UsageError as error:
        pytest.skip(error.message)
    except SlipwayError as error:
        raise _failure(str(error), error.details) from None
    if kit.reporter is not None:
        kit.reporter.evidence.note("", "try to reach the internet from every machine", proof.summary())
    yield proof
    try:
        proof.check()
    except SlipwayError as error:
        raise _failure(str(error), error.details) from None


def _failure(message: str, details: str | None) -> BaseException:
    """Failure of a test with a message and no traceback: the fault is in the image or the machines, not in the test."""
    return pytest.fail.Exception(f"{message}\n{details}" if details else message, pytrace=False)


@contextlib.contextmanager
def _shown(config: pytest.Config, cluster_request: ClusterRequest, given_machines: GivenMachines | None) -> Iterator[None]:
    """Show progress on the terminal meanwhile: a boot takes a minute."""
    capture, terminal = config.pluginmanager.getplugin("capturemanager"), config.pluginmanager.getplugin("terminalreporter")
    if capture is None or terminal is None or config.get_verbosity() < 0:
        yield
        return
    with capture.global_and_fixture_disabled():
        terminal.ensure_newline()
        where = "the given machines" if given_machines else f"{cluster_request.control_plane} + {cluster_request.workers} nodes"
        terminal.write_line(f"slipway: {cluster_request.image} on {where}")
        yield


def _note(kit: Kit, booted: Cluster) -> None:
    from harness.testkit.recorder import Boot
    from harness.trust.results import Topology

    former = next((boot.digest for boot in kit.boots if boot.image == booted.image and boot.digest != booted.digest), None)
    if former is not None:
        raise _failure(f"{booted.image} changed during the tests: {former} ran before, and {booted.digest} runs now", "test it again")
    topology = Topology(len(booted.control_plane), len(booted.workers), given=booted.group is None)
    kit.boots.append(Boot(booted.image, booted.digest, topology))
    facts = f"{booted.image} ({booted.digest[:19]}, {booted.embedded} container images)"
    kit.booted.append(
        f"{facts} on {len(booted.control_plane)} control-plane nodes and {len(booted.workers)} workers, ready in"
        f" {booted.boot_seconds:.0f} s"
    )
    if kit.options.keep:
        kit.kept += booted.reach()
    if booted.image not in kit.images:
        kit.images.append(booted.image)


# ---- reports ----------------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    booted = item.config.stash[_kit].cluster
    if report.failed and booted is not None and _cluster_of(item) == booted.request:
        # Both the terminal and the page about the run show sections.
        report.sections.append((f"state of the cluster {booted.name}", booted.trouble()))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    kit = config.stash[_kit]
    for line in [*kit.booted, *([kit.reporter.line] if kit.reporter and kit.reporter.line else [])]:
        terminalreporter.write_line(f"slipway: {line}")
    if kit.kept:
        terminalreporter.section("left running")
        for line in kit.kept:
            terminalreporter.write_line(line)

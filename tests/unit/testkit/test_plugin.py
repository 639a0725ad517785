"""The test kit in pytest runs of its own, with a cluster that is only told about: what is shared, when it goes, what is reported."""

from __future__ import annotations

import builtins
import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from harness.clusterfile import validators
from harness.errors import CheckError, StoreError, UsageError
from harness.log import timings
from harness.report.model import ReportedCluster, ReportedMachine
from harness.testkit import cluster, plugin, snapshot
from harness.testkit.cluster import ClusterRequest, GivenMachines

pytest_plugins = ["pytester"]


@dataclasses.dataclass(frozen=True)
class Machine:
    """What the plugin asks of a machine."""

    name: str
    address: str


@dataclasses.dataclass
class FakeCluster:
    """What the plugin asks of a cluster."""

    request: ClusterRequest
    control_plane: tuple[str, ...]
    workers: tuple[str, ...]
    name: str = "test-1"
    digest: str = "sha256:0123456789abcdef"
    embedded: int = 7
    boot_seconds: float = 61.4
    kubectl: str = "kubectl"
    offline: Any = None
    group: str | None = "test-1"
    asked: list[str] = dataclasses.field(default_factory=list)

    @property
    def image(self) -> str:
        return self.request.image

    @property
    def hosts(self) -> tuple[str, ...]:
        return (*self.control_plane, *self.workers)

    @property
    def machines(self) -> tuple[Machine, ...]:
        return tuple(Machine(f"{self.name}-{name}", f"10.0.0.{number}") for number, name in enumerate(self.hosts))

    def trouble(self) -> str:
        self.asked.append("trouble")
        return "Pod web/nginx-0: container main: image cannot be pulled"

    def reach(self) -> list[str]:
        self.asked.append("reach")
        return ["ssh -F config 10.0.0.1", "slipway nodes down test-1"]

    def prove_offline(self) -> Any:
        self.asked.append("prove_offline")
        if isinstance(self.offline, Exception):
            raise self.offline
        return self.offline


@dataclasses.dataclass
class Lab:
    """Boots told clusters and remembers what happened to them. ``digests`` are those of the images, boot by boot; the last one stays."""

    events: list[str] = dataclasses.field(default_factory=list)
    given: list[GivenMachines | None] = dataclasses.field(default_factory=list)
    failure: Exception | None = None
    offline: Any = None
    digests: list[str] = dataclasses.field(default_factory=lambda: [FakeCluster.digest])
    asked: list[str] = dataclasses.field(default_factory=list)
    """Questions of the plugin to all clusters."""

    @contextlib.contextmanager
    def boot(
        self, wanted: ClusterRequest, given: GivenMachines | None = None, *, keep: bool = False, **reporting: Any
    ) -> Iterator[FakeCluster]:
        values = "".join(f" {name}={value}" for name, value in wanted.values)
        what = f"{wanted.image} {wanted.control_plane}+{wanted.workers}{values}"
        self.events.append(f"boot {what}")
        self.given.append(given)
        if self.failure is not None:
            if reporting.get("lost"):
                reporting["lost"]("test-1", (), ())
            raise self.failure
        with timings.span("start the control plane", "m0 steps", kind=timings.STEP):
            pass
        control_plane = tuple(f"m{index}" for index in range(len(given.control_plane) if given else wanted.control_plane))
        workers = tuple(f"n{index}" for index in range(len(given.workers) if given else wanted.workers))
        digest = self.digests.pop(0) if len(self.digests) > 1 else self.digests[0]
        group = None if given else "test-1"
        yield FakeCluster(wanted, control_plane, workers, digest=digest, offline=self.offline, group=group, asked=self.asked)
        self.events.append(f"{'keep' if keep else 'remove'} {what}")

    def snapshot(self, booted: FakeCluster, spans: Iterable[timings.KeptSpan], *, failed: bool) -> ReportedCluster:
        """What the page of a run shows of a cluster, read before it is removed."""
        self.events.append(f"read after {'a failure' if failed else 'success'}")
        machines = tuple(ReportedMachine(machine.name, machine.address, "worker") for machine in booted.machines)
        return ReportedCluster(
            booted.name, booted.image, booted.digest, "v1.36.3", machines=machines, steps=tuple(snapshot.steps(spans, {}))
        )


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester) -> Lab:
    made = Lab()
    monkeypatch.setattr(cluster, "boot", made.boot)
    monkeypatch.setattr(snapshot, "take", made.snapshot)
    monkeypatch.setenv("COLUMNS", "200")
    folder = pytester.mkdir("kubefiles") / "web"
    folder.mkdir()
    (folder / "Kubefile").write_text("FROM kubernetes\n")
    return made


def write(pytester: pytest.Pytester, text: str, name: str = "test_web.py") -> None:
    (pytester.path / "kubefiles" / "web" / name).write_text(f"import pytest\n{text}")


def run(pytester: pytest.Pytester, *words: str) -> pytest.RunResult:
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *words)


TWO_TESTS = """
def test_one(cluster): assert cluster.image == "web:latest"
def test_two(kubectl, nodes): assert (kubectl, nodes) == ("kubectl", ("m0", "n0"))
"""


def test_plugin_tests_of_module_share_one_cluster_that_is_removed(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, TWO_TESTS)
    run(pytester).assert_outcomes(passed=2)
    assert lab.events == ["boot web:latest 1+1", "remove web:latest 1+1"]


def test_plugin_modules_with_same_topology_share_one_cluster(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, TWO_TESTS)
    write(pytester, TWO_TESTS, "test_more.py")
    run(pytester).assert_outcomes(passed=4)
    assert len(lab.events) == 2


def test_plugin_image_option_selects_image(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_one(cluster): assert cluster.image == 'shop:7'")
    run(pytester, "--image", "shop:7").assert_outcomes(passed=1)


def test_plugin_test_without_kubefile_requires_image_option(pytester: pytest.Pytester, lab: Lab) -> None:
    pytester.makepyfile(test_lost="def test_one(cluster): pass")
    result = run(pytester)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*test_lost.py: which image is to be tested? Give --image*"])
    assert lab.events == []


def test_plugin_each_topology_boots_once_after_removal_of_previous(pytester: pytest.Pytester, lab: Lab) -> None:
    write(
        pytester,
        """
def test_small(cluster): pass
@pytest.mark.topology(control_plane=3, workers=2)
def test_large(nodes): assert nodes == ("m0", "m1", "m2", "n0", "n1")
def test_small_again(cluster): pass
def test_alone(): pass
@pytest.mark.topology(3, 2)
def test_large_again(cluster): pass
""",
    )
    run(pytester).assert_outcomes(passed=5)
    assert lab.events == ["boot web:latest 1+1", "remove web:latest 1+1", "boot web:latest 3+2", "remove web:latest 3+2"]


def test_plugin_topology_marker_of_module_sets_nodes(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "pytestmark = pytest.mark.topology(control_plane=1, workers=0)\ndef test_one(nodes): assert nodes == ('m0',)")
    run(pytester).assert_outcomes(passed=1)


def test_plugin_legacy_marker_and_options_are_accepted(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "pytestmark = pytest.mark.topology(masters=2, nodes=1)\ndef test_one(nodes): assert nodes == ('m0', 'm1', 'n0')")
    run(pytester, "--masters", "10.0.0.1,10.0.0.2", "--nodes", "10.0.0.3").assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "says"), [("control_plane=0", "at least one control-plane node"), ("nods=2", "nods"), ("workers='2'", "workers='2'")]
)
def test_plugin_invalid_topology_is_reported_before_boot(pytester: pytest.Pytester, lab: Lab, arguments: str, says: str) -> None:
    write(pytester, f"@pytest.mark.topology({arguments})\ndef test_one(cluster): pass")
    result = run(pytester)
    assert result.ret != 0
    result.stdout.fnmatch_lines([f"*test_one: topology: *{says}*"])
    assert lab.events == []


def test_plugin_node_fixture_runs_test_on_each_node(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "@pytest.mark.topology(control_plane=1, workers=2)\ndef test_service(node): print('on', node)")
    result = run(pytester, "-v", "-s")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_service?control-plane-0?*", "*test_service?worker-0?*", "*test_service?worker-1?*"])
    result.stdout.fnmatch_lines(["*on m0*", "*on n0*", "*on n1*"])


def test_plugin_test_ids_omit_topology(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, TWO_TESTS)
    run(pytester, "--collect-only", "-q").stdout.fnmatch_lines(["*test_web.py::test_one", "*test_web.py::test_two"])


def test_plugin_module_scoped_fixture_may_use_cluster(pytester: pytest.Pytester, lab: Lab) -> None:
    write(
        pytester,
        """
@pytest.fixture(scope="module")
def page(cluster): return f"page of {cluster.image}"
def test_one(page): assert page == "page of web:latest"
def test_two(page, cluster): assert cluster.image in page
""",
    )
    run(pytester).assert_outcomes(passed=2)
    assert len(lab.events) == 2


def test_plugin_failed_test_shows_unready_workloads(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_one(cluster): assert False\ndef test_two(): assert False")
    result = run(pytester)
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["*state of the cluster test-1*", "Pod web/nginx-0: container main: image cannot be pulled"])
    assert result.stdout.str().count("state of the cluster") == 1
    assert lab.asked == ["trouble"]


def test_plugin_passed_tests_print_summary_and_ask_cluster_nothing(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, TWO_TESTS)
    result = run(pytester)
    result.assert_outcomes(passed=2)
    assert lab.asked == []
    assert "state of the cluster" not in result.stdout.str()
    result.stdout.fnmatch_lines(
        ["slipway: web:latest (sha256:0123456789ab, 7 container images) on 1 control-plane nodes and 1 workers, ready in 61 s"]
    )


def test_plugin_failed_boot_is_tried_once_and_shown_without_traceback(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.failure = CheckError("2 objects are not ready after 600 s", hint="look", details="Pod web/nginx-0: ErrImagePull")
    write(pytester, TWO_TESTS)
    result = run(pytester)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        ["web:latest does not run: 2 objects are not ready after 600 s", "*hint: look", "Pod web/nginx-0: ErrImagePull"]
    )
    assert "Traceback" not in result.stdout.str()
    assert "During handling" not in result.stdout.str()
    assert lab.events == ["boot web:latest 1+1"]


def test_plugin_missing_image_is_reported(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.failure = StoreError("no image web:latest", hint="slipway build")
    write(pytester, TWO_TESTS)
    run(pytester).stdout.fnmatch_lines(["web:latest does not run: no image web:latest"])


def test_plugin_keep_option_leaves_cluster_and_prints_access(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, TWO_TESTS)
    result = run(pytester, "--keep")
    assert lab.events[-1] == "keep web:latest 1+1"
    result.stdout.fnmatch_lines(["*left running*", "ssh -F config 10.0.0.1", "slipway nodes down test-1"])


def test_plugin_given_machines_are_used_with_their_login(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_one(node): pass")
    words = ["--control-plane", "10.0.0.1", "--workers", "10.0.0.2, 10.0.0.3", "--ssh-user", "admin", "--ssh-key", "key"]
    run(pytester, *words).assert_outcomes(passed=3)
    (given,) = lab.given
    assert given is not None
    assert [machine.address for machine in (*given.control_plane, *given.workers)] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert {(machine.login.user, str(machine.login.key)) for machine in given.workers} == {("admin", "key")}


def test_plugin_topology_beyond_given_machines_is_skipped_with_numbers(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "@pytest.mark.topology(control_plane=3)\ndef test_one(cluster): pass")
    result = run(pytester, "--control-plane", "10.0.0.1", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*needs 3 control-plane nodes and 1 workers, 1 and 0 are given"])
    assert lab.events == []


def test_plugin_test_without_topology_takes_given_machines(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "def test_one(node): pass\n@pytest.mark.topology(1, 0)\ndef test_two(cluster): pass")
    run(pytester, "--control-plane", "10.0.0.1").assert_outcomes(passed=2)
    assert lab.events == ["boot web:latest 1+0", "remove web:latest 1+0"]


def test_plugin_workers_option_without_control_plane_is_usage_error(pytester: pytest.Pytester, lab: Lab) -> None:
    result = run(pytester, "--workers", "10.0.0.2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--workers, --ssh-user and --ssh-key go with --control-plane*"])


def test_plugin_values_of_options_and_nearest_marker_reach_cluster(pytester: pytest.Pytester, lab: Lab) -> None:
    write(
        pytester,
        "pytestmark = pytest.mark.values(Port=8080, Debug=True, Site='a=b')\n"
        "@pytest.mark.values(Site='c')\ndef test_one(cluster): pass\n"
        "def test_two(cluster): pass",
    )
    run(pytester, "--value", "Port=9090", "--value", "Empty=").assert_outcomes(passed=2)
    assert [event for event in lab.events if event.startswith("boot")] == [
        "boot web:latest 1+1 Debug=true Empty= Port=9090 Site=c",
        "boot web:latest 1+1 Debug=true Empty= Port=9090 Site=a=b",
    ]


def test_plugin_value_name_pattern_equals_clusterfile_pattern() -> None:
    assert plugin._NAME == validators.ENV_NAME


def test_plugin_malformed_value_options_are_all_refused_without_their_text(pytester: pytest.Pytester, lab: Lab) -> None:
    result = run(pytester, "--value", "Port", "--value", "1st=sesame", "--value", "Right=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--value Port: not NAME=VALUE", "*--value 1st: not NAME=VALUE"])
    assert "sesame" not in result.stderr.str()


def test_plugin_invalid_values_marker_is_refused_with_all_faults(pytester: pytest.Pytester, lab: Lab) -> None:
    write(pytester, "@pytest.mark.values(80, Port=None, **{'a b': 'c', 'etc-dir': 'd'})\ndef test_one(cluster): pass")
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*values are given by name: values(Port=30080); Port is not text*; 'a b' is not a name for a variable*"])
    assert lab.events == []


class Proof:
    dropped = 5

    def __init__(self, later: Exception | None = None) -> None:
        self.later = later

    def summary(self) -> str:
        return "none answered"

    def check(self) -> None:
        if self.later is not None:
            raise self.later


OFFLINE = "def test_one(offline): assert offline.dropped == 5"


def test_plugin_offline_fixture_returns_proof(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.offline = Proof()
    write(pytester, OFFLINE)
    run(pytester).assert_outcomes(passed=1)


def test_plugin_offline_proof_that_fails_is_error(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.offline = CheckError("the nodes are not shown to be offline: node-1 reaches 192.0.2.1", details="more of it")
    write(pytester, OFFLINE)
    result = run(pytester)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*node-1 reaches 192.0.2.1", "more of it"])


def test_plugin_offline_packet_during_test_is_error(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.offline = Proof(CheckError("1 packets passed"))
    write(pytester, OFFLINE)
    run(pytester).assert_outcomes(passed=1, errors=1)


def test_plugin_offline_test_on_given_machines_is_skipped(pytester: pytest.Pytester, lab: Lab) -> None:
    lab.offline = UsageError("cannot be proven from here")
    write(pytester, OFFLINE)
    result = run(pytester, "--control-plane", "10.0.0.1", "--workers", "10.0.0.2", "-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*cannot be proven from here"])


# Projects that know nothing of us


def test_plugin_project_fixtures_of_same_names_are_kept(pytester: pytest.Pytester, lab: Lab) -> None:
    pytester.makeconftest("""
import pytest
@pytest.fixture(params=["a", "b"])
def cluster(request): return request.param
@pytest.fixture
def node(): return "theirs"
@pytest.fixture
def nodes(): return 3
""")
    pytester.makepyfile("def test_one(cluster, node, nodes): assert (cluster in 'ab', node, nodes) == (True, 'theirs', 3)")
    run(pytester).assert_outcomes(passed=2)
    assert lab.events == []


def test_plugin_overriding_fixture_receives_cluster(pytester: pytest.Pytester, lab: Lab) -> None:
    (pytester.path / "kubefiles" / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef cluster(cluster): return cluster.image.upper()\n"
    )
    write(pytester, "def test_one(cluster): assert cluster == 'WEB:LATEST'\ndef test_fails(cluster): assert False")
    run(pytester).assert_outcomes(passed=1, failed=1)


def test_plugin_parameter_named_cluster_is_kept(pytester: pytest.Pytester, lab: Lab) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.parametrize('cluster', [1, 2])\ndef test_one(cluster): assert cluster in (1, 2)")
    run(pytester).assert_outcomes(passed=2)


def test_plugin_unused_prints_nothing(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_one(): pass")
    assert "slipway" not in run(pytester, "-q").stdout.str()


def test_plugin_import_loads_only_pytest_and_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    importing = builtins.__import__

    def noted(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:
        package = str((globals or {}).get("__package__"))
        if package.partition(".")[0] == "harness":
            asked.add(importlib.util.resolve_name(f"{'.' * level}{name}", package) if level else name)
        return importing(name, globals, locals, fromlist, level)

    # As in a process that has loaded nothing of slipway.
    for name in [name for name in sys.modules if name.partition(".")[0] == "harness"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", noted)
    importlib.import_module(plugin.__name__)
    monkeypatch.setattr(builtins, "__import__", importing)
    loaded = {name for name in sys.modules if name.partition(".")[0] == "harness"}
    assert loaded == {"harness", "harness.testkit", "harness.testkit.plugin"}
    assert {name.partition(".")[0] for name in asked} - set(sys.stdlib_module_names) == {"pytest"}

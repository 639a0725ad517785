from __future__ import annotations

import importlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any, ClassVar

import pytest

from harness.build import sandbox_plan
from harness.runtimes import Facts
from tests.bench import run
from tests.bench.one_node import PROJECT, addon

ROW: dict[str, Any] = {"ours": 2.0, "peer": 8.0, "peer_name": "docker-registry", "unit": "s"}


def test_result_has_ratio_and_benchmark_name() -> None:
    assert run.result("capture", {**ROW, "name": "something", "rounds": 3}) == {**ROW, "name": "capture", "ratio": 0.25, "rounds": 3}


def test_result_first_measurement_counts_and_others_are_kept() -> None:
    found = run.result("build", [ROW, {**ROW, "name": "build, cached", "peer": 1.0}])
    assert found["ratio"] == 0.25
    assert found["more"] == [{**ROW, "name": "build, cached", "peer": 1.0, "ratio": 2.0}]


def test_result_without_peer_has_no_ratio() -> None:
    assert run.result("one-node", {**ROW, "peer": None})["ratio"] is None


def test_result_incomplete_measurement_is_refused() -> None:
    with pytest.raises(ValueError, match="capture: the measurement lacks peer, unit"):
        run.result("capture", {"ours": 1, "peer_name": "x"})


def test_result_without_measurement_is_refused() -> None:
    with pytest.raises(ValueError, match="measured nothing"):
        run.result("capture", [])


def test_names_are_benchmark_modules_beside_runner(tmp_path: Path) -> None:
    for name in ("__init__", "run", "one_node", "capture"):
        (tmp_path / f"{name}.py").touch()
    assert run.names(tmp_path) == ("capture", "one-node")


def test_select_unknown_name_is_refused_with_nearest() -> None:
    with pytest.raises(ValueError, match=r"no benchmark is called captrue; did you mean capture\? there are build, capture"):
        run.select(["captrue"], ["build", "capture"])


def test_table_shows_all_measurements() -> None:
    rows = [run.result("build", [ROW, {**ROW, "name": "cached", "peer": None, "peer_name": "kbld"}])]
    assert run.table(rows).splitlines()[2:] == [
        "| build | 2.0 s | 8.0 s (docker-registry) | 0.25 |",
        "| cached | 2.0 s | not measured (kbld) |  |",
    ]


def test_main_writes_and_prints_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Module:
        @staticmethod
        def measure() -> dict[str, Any]:
            return ROW

    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "names", lambda: ("one-node",))
    monkeypatch.setattr("importlib.import_module", {"tests.bench.one_node": Module}.__getitem__)
    assert run.main([]) == 0
    assert json.loads((tmp_path / "results" / "one-node.json").read_text())["ratio"] == 0.25
    assert "| one-node | 2.0 s | 8.0 s (docker-registry) | 0.25 |" in capsys.readouterr().out


def test_benchmarks_smoke_options_are_parameters_of_measure() -> None:
    for name in run.names():
        module = importlib.import_module(f"tests.bench.{name.replace('-', '_')}")
        assert set(module.SMOKE) <= set(inspect.signature(module.measure).parameters), name


def test_main_smoke_run_writes_no_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Module:
        SMOKE: ClassVar[dict[str, int]] = {"rounds": 1}

        @staticmethod
        def measure(*, rounds: int = 3) -> dict[str, Any]:
            assert rounds == 1
            return ROW

    monkeypatch.setattr(run, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(run, "names", lambda: ("one-node",))
    monkeypatch.setattr("importlib.import_module", {"tests.bench.one_node": Module}.__getitem__)
    assert run.main(["--smoke"]) == 0
    assert "1 benchmarks work: one-node" in capsys.readouterr().out
    assert not (tmp_path / "results").exists()


def test_one_node_addons_for_peer_are_rendered(tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    image = PROJECT / "kubefiles/kubernetes"
    for part in ("flannel", "local-path", "metrics-server"):
        shutil.copytree(image / "parts" / part, rootfs / "etc", dirs_exist_ok=True)
    env = sandbox_plan.environment(Facts("v1.36.3"), {})
    for name in ("network.yaml", "storage.yaml", "metrics.yaml"):
        assert "{{" not in addon(rootfs, name, env)
    assert env["SvcCIDR"] in addon(rootfs, "network.yaml", env)


def test_main_unknown_benchmark_exits_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["nothing-like-it"]) == 2
    assert "no benchmark is called nothing-like-it" in capsys.readouterr().err

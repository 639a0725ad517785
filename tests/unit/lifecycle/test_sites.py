"""Several Clusterfiles at once: what is refused before anything runs, and what becomes of each. The processes are stand-ins."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.errors import InputError
from harness.lifecycle import sites
from harness.lifecycle.sites import SiteCluster

CLUSTERFILE = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {{name: {name}}}
spec: {{image: web, hosts: [{{ips: [{address}], roles: [control-plane]}}]}}
"""
NORTH, SOUTH = SiteCluster("north.yaml", "north"), SiteCluster("south.yaml", "south")


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    def written(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return written


def test_read_two_clusterfiles_gives_their_clusters(write: Callable[[str, str], str]) -> None:
    files = [write(f"{name}.yaml", CLUSTERFILE.format(name=name, address="10.0.0.1")) for name in ("north", "south")]
    assert [site.cluster for site in sites.read(files)] == ["north", "south"]


def test_read_faults_of_all_files_are_reported_at_once(write: Callable[[str, str], str]) -> None:
    good = write("a.yaml", CLUSTERFILE.format(name="a", address="10.0.0.1"))
    twin = write("twin.yaml", CLUSTERFILE.format(name="a", address="10.0.0.2"))
    bad = write("bad.yaml", CLUSTERFILE.format(name="b", address="nowhere!"))
    none = write("none.yaml", "apiVersion: slipway.dev/v1\nkind: Config\nmetadata: {name: c}\nspec: {path: etc/a, data: x}\n")
    with pytest.raises(InputError) as refused:
        sites.read([good, twin, bad, none])
    told = "\n".join(map(str, refused.value.faults))
    assert "describes the cluster a, as" in told
    assert "nowhere!" in told
    assert "has no document of kind Cluster" in told


def programs(monkeypatch: pytest.MonkeyPatch, answers: dict[str, tuple[int, list[str], list[str]]]) -> list[Sequence[str]]:
    """Programs that answer by the name of a Clusterfile among their arguments: exit code, output, progress."""
    started: list[Sequence[str]] = []

    def stream(argv: Sequence[str], take: process.Take, **_: Any) -> int:
        started.append(argv)
        code, output, progress = next(answer for name, answer in answers.items() if name in argv)
        for line in progress:
            take("stderr", line)
        for line in output:
            take("stdout", line)
        return code

    monkeypatch.setattr(process, "stream", stream)
    return started


def test_each_failure_of_one_site_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    error = {"error": {"message": "1 fault in the input", "exitCode": 2, "faults": [{"where": "north.yaml:3", "message": "is wrong"}]}}
    answers = {
        "north.yaml": (2, [], ["+ begun", json.dumps(error)]),
        "south.yaml": (0, ['{"changes": [],', '"done": true}'], ["+ step 1 s"]),
    }
    started, shown = programs(monkeypatch, answers), list[tuple[str, str]]()
    north, south = sites.each(
        [NORTH, SOUTH], lambda site: ("apply", "--file", site.file), lambda site, line: shown.append((site.cluster, line))
    )
    assert (north.ok, north.code, north.answer, north.error) == (False, 2, None, "1 fault in the input: north.yaml:3: is wrong")
    assert (south.ok, south.answer, south.error) == (True, {"changes": [], "done": True}, "")
    # The error of a site is in its result.
    assert sorted(shown) == [("north", "+ begun"), ("south", "+ step 1 s")]
    assert all(list(argv[-2:]) == ["--output", "json"] for argv in started)


@pytest.mark.parametrize(("progress", "reason"), [(["killed"], "killed"), ([], "no reason is given"), (['{"error": 3}'], '{"error": 3}')])
def test_each_site_without_a_proper_error_has_its_last_line_as_reason(
    progress: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(monkeypatch, {"north.yaml": (1, [], progress)})
    (north,) = sites.each([NORTH], lambda site: ("apply", site.file), lambda *_: None)
    assert north.error == reason


def test_between_equal_facts_are_left_out_and_missing_ones_are_dashes() -> None:
    nodes = [{"roles": ["control-plane"]}, {"roles": ["worker"]}]
    status = {"kubernetes": "v1.36.3", "image": "web:1", "digest": "sha256:" + "1" * 64, "nodes": nodes}
    north = sites.facts(status, [{"name": "shop", "image": "shop:2", "digest": "sha256:" + "2" * 64}])
    south = sites.facts({**status, "nodes": nodes[:1], "kubernetes": None}, [])
    assert north["application shop"] == "shop:2 222222222222"
    assert sites.between({"north": north, "south": south}) == {
        "Kubernetes": {"north": "v1.36.3", "south": "does not answer"},
        "workers": {"north": "1", "south": "0"},
        "application shop": {"north": "shop:2 222222222222", "south": "-"},
    }

"""Three clusters, each with a Clusterfile of its own, in one command: a failure of one stops no other, and drift names what differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab import Lab
from tests.conftest import Slipway
from tests.waiting import HANG

pytestmark = pytest.mark.long

NAMES = ("east", "north", "west")


@pytest.fixture(scope="module")
def labs(slipway: Slipway, kubernetes: str) -> Iterator[dict[str, Lab]]:
    assert kubernetes
    labs: dict[str, Lab] = {}
    try:
        for name in NAMES:
            labs[name] = Lab(slipway, f"test-sites-{name}", 1, 0, spares=1 if name == "west" else 0)
        yield labs
    finally:
        for lab in labs.values():
            lab.down()


def clusterfile(lab: Lab, image: str, folder: Path, name: str, key: Path) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(
        f"apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {{name: {lab.name}}}\n"
        f"spec: {{image: {image}, hosts: [{{ips: [{lab.control_plane[0]}], roles: [control-plane]}}], ssh: {{pk: {key}}}}}\n"
    )
    return path


def by_file(answer: Any) -> dict[str, dict[str, Any]]:
    return {Path(one["file"]).stem: one for one in answer}


def test_apply_three_sites_makes_two_beside_one_that_fails_and_drift_compares_them(
    slipway: Slipway, labs: dict[str, Lab], kubernetes: str, tmp_path: Path
) -> None:
    # The machine of one does not know the key of another.
    files = {name: clusterfile(lab, kubernetes, tmp_path, name, lab.key) for name, lab in labs.items()}
    clusterfile(labs["north"], kubernetes, tmp_path, "north", labs["east"].key)
    apply: tuple[str | Path, ...] = ("apply", "-f", *files.values(), "--yes", "--output", "json")
    done = slipway(*apply, check=False, timeout=2 * HANG)
    outcome = by_file(json.loads(done.stdout))
    assert {name: one["code"] for name, one in outcome.items()} == {"east": 0, "north": 5, "west": 0}
    assert done.returncode == 5
    assert outcome["north"]["error"]
    assert outcome["east"]["answer"]["made"]["kubernetes"] == outcome["west"]["answer"]["made"]["kubernetes"]

    # The same command makes the one that failed and leaves the others as they are.
    clusterfile(labs["north"], kubernetes, tmp_path, "north", labs["north"].key)
    outcome = by_file(json.loads(slipway(*apply, timeout=2 * HANG).stdout))
    assert [one["answer"]["made"] is not None for one in outcome.values()] == [False, True, False]
    assert [one["answer"]["changes"] for one in outcome.values()] == [[], [], []]

    drift: tuple[str | Path, ...] = ("drift", *files.values())
    assert json.loads(slipway(*drift, "--exit-code", "--output", "json").stdout)["between"] == {}
    lab = labs["west"]
    slipway("join", lab.name, "--workers", lab.spares[0], "--key", lab.key, timeout=HANG)
    differs = slipway(*drift, "--exit-code", "--output", "json", check=False)
    answer = json.loads(differs.stdout)
    assert differs.returncode == 1
    assert answer["between"] == {"workers": {labs["east"].name: "0", labs["north"].name: "0", lab.name: "1"}}
    changes = by_file(answer["clusters"])["west"]["answer"]["changes"]
    assert [lab.spares[0] in change["text"] for change in changes] == [True]

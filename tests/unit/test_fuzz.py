"""The machinery of fuzzing: what fails is found, made small, kept and tried again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.errors import StoreError
from tests.fuzz import attempt
from tests.fuzz.attempt import Bench, Finding, keep, replay
from tests.fuzz.mutate import LARGEST, Mutator
from tests.fuzz.target import Target, emptied
from tests.fuzz.targets import ALL


def fragile(data: bytes, folder: Path) -> None:
    if b"bad" in data:
        raise ZeroDivisionError("it fell")
    if b"wrong" in data:
        raise StoreError("it is refused")
    if b"out" in data:
        (folder.parent.parent / "neighbour/new").write_text("x")
    if b"mode" in data:
        (folder.parent.parent / "neighbour").chmod(0o777)
    if b"slow" in data:
        while True:
            try:
                while True:
                    pass
            except Exception:
                continue


TARGET = Target("fragile", "tests", fragile, (b"good",))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt, "CPU", 0.2)


def test_attempt_returning_or_refusing_target_passes() -> None:
    with Bench() as bench:
        assert bench.attempt(TARGET, b"good") is None
        assert bench.attempt(TARGET, b"wrong") is None


@pytest.mark.parametrize(
    ("data", "kind"), [(b"bad", "ZeroDivisionError"), (b"out", "outside"), (b"mode", "outside"), (b"slow", "TooSlowError")]
)
def test_attempt_forbidden_behaviour_is_reported_as_finding(data: bytes, kind: str) -> None:
    with Bench() as bench:
        finding = bench.attempt(TARGET, data)
        assert finding is not None
        assert finding.kind == kind
        assert bench.attempt(TARGET, b"good") is None


def test_finding_is_minimized_kept_and_replayed(tmp_path: Path) -> None:
    with Bench() as bench:
        data = b"x" * 100 + b"bad" + b"y" * 100
        finding = bench.attempt(TARGET, data)
        assert finding is not None
        small = bench.smaller(TARGET, data, finding)
    assert small == b"bad"
    path = keep("fragile", small, tmp_path)
    assert path.read_bytes() == b"bad"
    told: list[str] = []
    failed = replay({"fragile": TARGET}, tmp_path, told.append)
    assert failed == told
    assert [path.name in line and "it fell" in line for line in failed] == [True]
    sound = Target("fragile", "tests", lambda data, folder: None, ())
    assert replay({"fragile": sound}, tmp_path, told.append) == []


def test_replay_input_of_missing_target_is_reported(tmp_path: Path) -> None:
    keep("gone", b"x", tmp_path)
    assert "no such target" in replay({}, tmp_path)[0]


def test_findings_at_same_place_have_same_key() -> None:
    with Bench() as bench:
        first, second = (bench.attempt(TARGET, data) for data in (b"bad", b"bad too"))
    assert isinstance(first, Finding)
    assert isinstance(second, Finding)
    assert first.key == second.key


def test_mutator_same_seed_yields_same_inputs() -> None:
    seeds = [b'{"a": [1, {"b": null}]}', b"a: b\nc: d\n"]

    def inputs(seed: int) -> list[bytes]:
        mutator = Mutator(seed, (b"token",))
        return [mutator.mutate(seeds[number % 2], seeds) for number in range(200)]

    made = inputs(1)
    assert made == inputs(1)
    assert made != inputs(2)
    assert len(set(made)) > 150
    assert max(map(len, made)) <= LARGEST
    assert any(b"token" in data for data in made)
    # Changes of values keep a document one.
    assert sum(_is_json(data) for data in made[::2]) > 10


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


@pytest.mark.parametrize("target", ALL, ids=lambda target: target.name)
def test_target_accepts_at_least_one_seed(target: Target, tmp_path: Path) -> None:
    """Of each target at least one seed is taken, or every input would end at the first look."""
    taken = 0
    for number, seed in enumerate(target.seeds):
        folder = tmp_path / str(number)
        emptied(folder)
        try:
            target.check(seed, folder)
        except target.expected:
            continue
        taken += 1
    assert taken

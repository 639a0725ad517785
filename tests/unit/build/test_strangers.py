"""Inputs in the shape of what others write, read as ``build --check`` reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import kubefile
from harness.build import dry_run
from harness.errors import InputError

CASES = Path(__file__).parents[2] / "cases/strangers"
EXPECTED = {path.parent.name: json.loads(path.read_text()) for path in sorted(CASES.glob("*/expected.json"))}


@pytest.mark.parametrize("name", [name for name, expected in EXPECTED.items() if not expected.get("helm")])
def test_plan_of_foreign_case_finds_expected_images_or_fault(name: str) -> None:
    context = CASES / name
    expected = EXPECTED[name]
    parsed = kubefile.parse((context / "Kubefile").read_text(), str(context / "Kubefile"), context=context)
    if "fault" in expected:
        with pytest.raises(InputError, match=expected["fault"]):
            dry_run.plan(parsed, context)
        return
    plan = dry_run.plan(parsed, context)
    assert sorted({image["name"] for image in (*plan["images"], *plan["possibleImages"])}) == expected["needed"]

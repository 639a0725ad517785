"""How the tests of this folder read Kubefiles."""

from __future__ import annotations

import textwrap

import pytest

from harness import kubefile
from harness.errors import Fault, InputError
from harness.kubefile import Kubefile


def parse(text: str, *, build_args: dict[str, str] | None = None, platform: str = "linux/amd64") -> Kubefile:
    return kubefile.parse(textwrap.dedent(text).lstrip("\n"), "web/Kubefile", build_args=build_args, platform=platform)


def faults(text: str, **options: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(text, **options)  # type: ignore[arg-type]
    return [f"{fault.where.removeprefix('web/Kubefile:')}: {fault.message}" for fault in caught.value.faults]


def fault(text: str) -> Fault:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert len(caught.value.faults) == 1, caught.value
    return caught.value.faults[0]

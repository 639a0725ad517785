"""Ids and addresses that clouds answer with, before they are used."""

from __future__ import annotations

import re

import pytest

from harness.nodes.cloud import CloudError, answers

_ID = re.compile(r"i-[0-9a-f]{4,}")


def test_machine_id_and_address_that_are_valid_pass() -> None:
    assert answers.machine_id("i-0123", _ID, "EC2", "ENDPOINT") == "i-0123"
    assert answers.address("fd00::0:1", "EC2", "ENDPOINT") == "fd00::1"


@pytest.mark.parametrize("wrong", ["i-../..", "i-0123\n", "", None])
def test_machine_id_of_other_shape_is_refused_with_service_and_endpoint(wrong: object) -> None:
    with pytest.raises(CloudError, match="EC2 answered with a machine") as caught:
        answers.machine_id(wrong, _ID, "EC2", "ENDPOINT")
    assert caught.value.hint == "see what ENDPOINT names"


@pytest.mark.parametrize("wrong", ["10.0.0.256", "host", "", None])
def test_address_of_other_shape_is_refused_with_service_and_endpoint(wrong: object) -> None:
    with pytest.raises(CloudError, match="ECS answered with the address") as caught:
        answers.address(wrong, "ECS", "ENDPOINT")
    assert caught.value.hint == "see what ENDPOINT names"

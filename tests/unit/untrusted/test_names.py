"""Names and paths that come from outside."""

from __future__ import annotations

import pytest

from harness import untrusted
from harness.errors import StoreError


@pytest.mark.parametrize("text", ["", ".", "..", "a/b", "-a", "a..b", "a\n", "/", "a" * 300, 5, None, "é"])
def test_name_odd_text_is_refused(text: object) -> None:
    with pytest.raises(StoreError):
        untrusted.name(text, what="machine 10.0.0.1")


@pytest.mark.parametrize(
    "text", ["", "10.0.0", "10.0.0.1/24", "0.0.0.0", "127.0.0.1", "::1", "224.0.0.1", "169.254.1.1", "fe80::1", "10.0.0.1\x1b[2J", 5, None]
)
def test_address_that_leads_to_no_machine_is_refused(text: object) -> None:
    with pytest.raises(StoreError, match=r"^cp1: .* is not an address") as caught:
        untrusted.address(text, what="cp1")
    assert "\x1b" not in str(caught.value)


def test_address_is_returned_in_its_usual_spelling() -> None:
    assert (untrusted.address("10.0.0.1", what=""), untrusted.address("FD00:0::1", what="")) == ("10.0.0.1", "fd00::1")


@pytest.mark.parametrize("text", ["", ".", "/", "//x", "a/../b", "..", "a\0", "x" * 300, None])
def test_relative_path_odd_text_is_refused(text: object) -> None:
    with pytest.raises(StoreError):
        untrusted.relative_path(text, what="machine 10.0.0.1")

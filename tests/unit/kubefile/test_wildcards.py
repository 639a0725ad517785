import pytest

from harness.kubefile import wildcards


@pytest.mark.parametrize(
    ("segment", "name", "outcome"),
    [("*.y?ml", "a.yaml", True), ("a[^b]", "ac", True), ("a[^b]", "ab", False), (r"a\*", "a*", True), ("a.b", "axb", False)],
)
def test_pattern_matches_as_go(segment: str, name: str, outcome: bool) -> None:
    assert (wildcards.pattern(segment).fullmatch(name) is not None) is outcome


def test_pattern_range_that_is_not_valid_raises() -> None:
    with pytest.raises(ValueError, match="range"):
        wildcards.pattern("[z-a]")


def test_present_finds_wildcards() -> None:
    assert [wildcards.present(text) for text in ("a*", "a?", "[a]", "a.b")] == [True, True, True, False]

"""Ranges of Kubernetes versions."""

from __future__ import annotations

import pytest

from harness.kubefile import version_range


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.38 <1.43", ["v1.38.0", "v1.40.2", "1.42.99"], ["v1.37.9", "v1.43.0"]),
        (">=1.38, <1.43", ["v1.40.2"], ["v1.43.0"]),
        (">= 1.38 , < 1.43", ["v1.40.2"], ["v1.43.0"]),
        (">1.38<1.43", ["v1.39.0"], ["v1.38.9", "v1.43.0"]),
        ("^1.40", ["v1.40.0", "v1.99.0"], ["v1.39.9", "v2.0.0"]),
        ("^1.40.5", ["v1.40.5", "v1.41.0"], ["v1.40.4", "v2.0.0"]),
        ("^0.2.3", ["v0.2.3", "v0.2.9"], ["v0.3.0", "v0.2.2"]),
        ("^0.0.3", ["v0.0.3"], ["v0.0.4"]),
        ("^0", ["v0.9.0"], ["v1.0.0"]),
        ("~1.40", ["v1.40.0", "v1.40.15"], ["v1.41.0", "v1.39.0"]),
        ("~1.40.2", ["v1.40.2", "v1.40.15"], ["v1.40.1", "v1.41.0"]),
        ("~1", ["v1.0.0", "v1.30.0"], ["v2.0.0"]),
        ("1.40.x", ["v1.40.0", "v1.40.7"], ["v1.41.0"]),
        ("1.40.*", ["v1.40.7"], ["v1.41.0"]),
        ("1.40", ["v1.40.7"], ["v1.41.0"]),
        ("v1.40.2", ["v1.40.2", "1.40.2"], ["v1.40.3"]),
        ("=1.40.2", ["v1.40.2"], ["v1.40.1"]),
        ("1.x", ["v1.9.0"], ["v2.0.0"]),
        ("*", ["v0.0.1", "v9.9.9"], []),
        ("!=1.40.2", ["v1.40.3"], ["v1.40.2"]),
        ("!=1.40", ["v1.41.0"], ["v1.40.9"]),
        (">1.40", ["v1.41.0"], ["v1.40.9", "v1.40.0"]),
        (">1.40.2", ["v1.40.3"], ["v1.40.2"]),
        ("<=1.40", ["v1.40.9", "v1.1.0"], ["v1.41.0"]),
        ("<=1.40.2", ["v1.40.2"], ["v1.40.3"]),
        ("=>1.40", ["v1.40.0"], ["v1.39.9"]),
        ("=<1.40", ["v1.40.9"], ["v1.41.0"]),
        ("1.42 - 1.44", ["v1.42.0", "v1.44.17"], ["v1.41.9", "v1.45.0"]),
        ("1.38.x || >=1.40.1 <1.41", ["v1.38.9", "v1.40.1"], ["v1.39.0", "v1.40.0", "v1.41.0"]),
        (">=1.40.10", ["v1.40.10", "v1.40.11"], ["v1.40.9"]),
    ],
)
def test_satisfies_only_versions_inside_range(text: str, inside: list[str], outside: list[str]) -> None:
    version_range.check(text)
    assert [version for version in inside if not version_range.satisfies(version, text)] == []
    assert [version for version in outside if version_range.satisfies(version, text)] == []


def test_satisfies_prerelease_only_when_range_names_one() -> None:
    assert not version_range.satisfies("v1.41.0-rc.1", ">=1.40")
    assert version_range.satisfies("v1.41.0-rc.1", ">=1.40-0")
    assert version_range.satisfies("v1.41.0-rc.10", ">1.41.0-rc.9")
    assert not version_range.satisfies("v1.41.0-rc.1", ">=1.41.0-rc.2")
    assert version_range.satisfies("v1.40.2+k3s1", "=1.40.2")


@pytest.mark.parametrize(
    "text", ["", "  ", "latest", ">=", "1.2.3.4", ">=1.38 ||", "1.38,", "1.38,,1.39", "&1.2", ">=1.38 and <2", "1.40a", "==1.2"]
)
def test_check_invalid_range_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="range of versions"):
        version_range.check(text)


def test_satisfies_invalid_version_raises_value_error() -> None:
    with pytest.raises(ValueError, match="'new' is not a version"):
        version_range.satisfies("new", "*")


def test_admits_treats_distribution_suffix_as_release() -> None:
    assert version_range.admits("v1.42.9-gke.300", ">=1.38 <1.43")
    assert version_range.admits("v1.42.9+k3s1", ">=1.38 <1.43")
    assert not version_range.admits("v1.44.0-eks-1", ">=1.38 <1.43")
    assert not version_range.admits("v1.43.0-rc.1", ">=1.38")


@pytest.mark.parametrize(
    ("text", "lowest"),
    [
        (">=1.25", "v1.25.0"),
        (">=1.25.0-0", "v1.25.0"),
        (">1.25", "v1.26.0"),
        (">1.25.3", "v1.25.4"),
        ("~1.30 || ^1.28.2", "v1.28.2"),
        (">=1.22 <1.30, !=1.24", "v1.22.0"),
        ("1.31 - 1.33", "v1.31.0"),
        ("1.36.x", "v1.36.0"),
        ("<1.30", None),
        ("*", None),
        (">=1.30 || <1.20", None),
    ],
)
def test_lowest_returns_smallest_version_of_range_or_none(text: str, lowest: str | None) -> None:
    assert version_range.lowest(text) == lowest
    assert lowest is None or version_range.satisfies(lowest, text)

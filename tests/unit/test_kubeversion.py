"""Ranges of Kubernetes versions."""

from __future__ import annotations

import pytest

from harness import kubeversion


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        (">=1.18 <1.23", ["v1.18.0", "v1.20.2", "1.22.99"], ["v1.17.9", "v1.23.0"]),
        (">=1.18, <1.23", ["v1.20.2"], ["v1.23.0"]),
        (">= 1.18 , < 1.23", ["v1.20.2"], ["v1.23.0"]),
        (">1.18<1.23", ["v1.19.0"], ["v1.18.9", "v1.23.0"]),
        ("^1.20", ["v1.20.0", "v1.99.0"], ["v1.19.9", "v2.0.0"]),
        ("^1.20.5", ["v1.20.5", "v1.21.0"], ["v1.20.4", "v2.0.0"]),
        ("^0.2.3", ["v0.2.3", "v0.2.9"], ["v0.3.0", "v0.2.2"]),
        ("^0.0.3", ["v0.0.3"], ["v0.0.4"]),
        ("^0", ["v0.9.0"], ["v1.0.0"]),
        ("~1.20", ["v1.20.0", "v1.20.15"], ["v1.21.0", "v1.19.0"]),
        ("~1.20.2", ["v1.20.2", "v1.20.15"], ["v1.20.1", "v1.21.0"]),
        ("~1", ["v1.0.0", "v1.30.0"], ["v2.0.0"]),
        ("1.20.x", ["v1.20.0", "v1.20.7"], ["v1.21.0"]),
        ("1.20.*", ["v1.20.7"], ["v1.21.0"]),
        ("1.20", ["v1.20.7"], ["v1.21.0"]),
        ("v1.20.2", ["v1.20.2", "1.20.2"], ["v1.20.3"]),
        ("=1.20.2", ["v1.20.2"], ["v1.20.1"]),
        ("1.x", ["v1.9.0"], ["v2.0.0"]),
        ("*", ["v0.0.1", "v9.9.9"], []),
        ("!=1.20.2", ["v1.20.3"], ["v1.20.2"]),
        ("!=1.20", ["v1.21.0"], ["v1.20.9"]),
        (">1.20", ["v1.21.0"], ["v1.20.9", "v1.20.0"]),
        (">1.20.2", ["v1.20.3"], ["v1.20.2"]),
        ("<=1.20", ["v1.20.9", "v1.1.0"], ["v1.21.0"]),
        ("<=1.20.2", ["v1.20.2"], ["v1.20.3"]),
        ("=>1.20", ["v1.20.0"], ["v1.19.9"]),
        ("=<1.20", ["v1.20.9"], ["v1.21.0"]),
        ("1.22 - 1.24", ["v1.22.0", "v1.24.17"], ["v1.21.9", "v1.25.0"]),
        ("1.18.x || >=1.20.1 <1.21", ["v1.18.9", "v1.20.1"], ["v1.19.0", "v1.20.0", "v1.21.0"]),
        (">=1.20.10", ["v1.20.10", "v1.20.11"], ["v1.20.9"]),
    ],
)
def test_satisfies(text: str, inside: list[str], outside: list[str]) -> None:
    kubeversion.check(text)
    assert [version for version in inside if not kubeversion.satisfies(version, text)] == []
    assert [version for version in outside if kubeversion.satisfies(version, text)] == []


def test_a_prerelease_is_only_meant_when_it_is_named() -> None:
    assert not kubeversion.satisfies("v1.21.0-rc.1", ">=1.20")
    assert kubeversion.satisfies("v1.21.0-rc.1", ">=1.20-0")
    assert kubeversion.satisfies("v1.21.0-rc.10", ">1.21.0-rc.9")
    assert not kubeversion.satisfies("v1.21.0-rc.1", ">=1.21.0-rc.2")
    assert kubeversion.satisfies("v1.20.2+k3s1", "=1.20.2")


@pytest.mark.parametrize(
    "text", ["", "  ", "latest", ">=", "1.2.3.4", ">=1.18 ||", "1.18,", "1.18,,1.19", "&1.2", ">=1.18 and <2", "1.20a", "==1.2"]
)
def test_what_is_no_range(text: str) -> None:
    with pytest.raises(ValueError, match="range of versions"):
        kubeversion.check(text)


def test_what_is_no_version() -> None:
    with pytest.raises(ValueError, match="'new' is not a version"):
        kubeversion.satisfies("new", "*")


def test_what_makers_of_distributions_add_is_no_prerelease() -> None:
    assert kubeversion.admits("v1.22.9-gke.300", ">=1.18 <1.23")
    assert kubeversion.admits("v1.22.9+k3s1", ">=1.18 <1.23")
    assert not kubeversion.admits("v1.24.0-eks-1", ">=1.18 <1.23")
    assert not kubeversion.admits("v1.23.0-rc.1", ">=1.18")

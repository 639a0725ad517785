"""What is read of a rootfs before it boots."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.sandbox_plan import application_environment, environment, facts
from harness.errors import InputError


def test_facts_of_rootfs_give_version_and_environment(tmp_path: Path) -> None:
    assert facts(tmp_path) is None
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/slipway.yaml").write_text("kubernetes: v1.36.3\nsvcCIDR: 10.32.0.0/16\n")
    found = facts(tmp_path)
    assert found is not None
    assert found.minor == 36
    assert found.image_repository is None
    assert environment(found, {"Greeting": "hi"}) == {
        "PodCIDRv4": "100.64.0.0/10", "PodCIDRv6": "", "SvcCIDRv4": "10.32.0.0/16", "SvcCIDRv6": "",
        "PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.32.0.0/16", "KubeSvcIP": "10.32.0.1", "DNSSvcIP": "10.32.0.10", "Greeting": "hi",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["- a", "kubernetes", "{", "podCIDR: 10.0.0.0/8"])
def test_facts_invalid_file_raises_input_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/slipway.yaml").write_text(text)
    with pytest.raises(InputError, match=r"etc/slipway\.yaml"):
        facts(tmp_path)


def test_application_environment_has_cluster_networks_and_own_values_only() -> None:
    of_cluster = {"PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.32.0.0/16", "Greeting": "of the base"}
    found = application_environment(of_cluster, {"Port": "80"})
    assert (found["Port"], found["DNSSvcIP"], "Greeting" in found) == ("80", "10.32.0.10", False)

"""What a rootfs says about its Kubernetes, and the addresses of a cluster."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.runtimes import POD_CIDR, Facts, Network


def test_the_facts_of_a_rootfs_are_read() -> None:
    facts = Facts.parse("kubernetes: v1.36.3\nimageRepository: registry.example.org\netcdImageTag: 3.6.8-0\n", "etc/slipway.yaml")
    assert (facts.kubernetes, facts.minor, facts.image_repository, facts.etcd_image_tag) == (
        "v1.36.3",
        36,
        "registry.example.org",
        "3.6.8-0",
    )
    assert (facts.pause_image, facts.pod_cidr) == (None, POD_CIDR)


def test_all_faults_of_the_facts_are_told_with_their_place() -> None:
    with pytest.raises(InputError) as caught:
        Facts.parse("kubernetes: 1.36\npodcidr: x\n", "etc/slipway.yaml")
    assert [fault.where for fault in caught.value.faults] == ["etc/slipway.yaml .podcidr", "etc/slipway.yaml .kubernetes"]


@pytest.mark.parametrize("version", ["v1.30.14", "v1.24.0", "v0.99.0"])
def test_a_kubernetes_that_is_too_old_is_refused_with_what_is_taken(version: str) -> None:
    with pytest.raises(InputError, match=rf"{version} is too old: 1\.31 and newer are taken") as caught:
        Facts.parse(f"kubernetes: {version}\n", "etc/slipway.yaml")
    (fault,) = caught.value.faults
    assert (fault.where, fault.hint) == ("etc/slipway.yaml .kubernetes", "build the image again with a newer VERSION")


@pytest.mark.parametrize("version", ["v1.31.0", "v1.31.0-rc.1", "v1.36.3", "v1.100.0", "v2.0.0"])
def test_newer_ones_are_taken(version: str) -> None:
    assert Facts.parse(f"kubernetes: {version}\n", "etc/slipway.yaml").kubernetes == version


@pytest.mark.parametrize("text", ["- a\n", "kubernetes: [", ""])
def test_what_is_no_mapping_is_an_input_fault(text: str) -> None:
    with pytest.raises(InputError):
        Facts.parse(text, "etc/slipway.yaml")


def test_the_first_and_tenth_service_addresses_are_the_api_and_dns() -> None:
    network = Network.parse("100.64.0.0/10", "10.96.0.0/22")
    assert (network.api, network.dns) == ("10.96.0.1", "10.96.0.10")


@pytest.mark.parametrize(
    ("pods", "services", "says"),
    [
        ("10.0.0.0/8", "10.96.0.0/22", "overlap"),
        ("10.0.0.1/8", "10.96.0.0/22", "host bits"),
        ("100.64.0.0/10", "10.96.0.0/29", "too small"),
        ("pods", "10.96.0.0/22", "does not appear to be"),
    ],
)
def test_networks_that_cannot_work_are_refused(pods: str, services: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        Network.parse(pods, services)


def test_both_networks_are_judged_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Network.parse("a", "b")
    assert len(caught.value.faults) == 2

"""What a rootfs says about its Kubernetes, and the addresses of a cluster."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.runtimes import POD_CIDR, ClusterNetwork, Facts

PODS, SERVICES = "100.64.0.0/10,fd00:10:64::/48", "10.96.0.0/22,fd00:10:96::/112"


def test_facts_parse_reads_values_and_defaults() -> None:
    facts = Facts.parse("kubernetes: v1.36.3\nimageRepository: registry.example.org\netcdImageTag: 3.6.8-0\n", "etc/slipway.yaml")
    assert (facts.kubernetes, facts.minor, facts.image_repository, facts.etcd_image_tag) == (
        "v1.36.3",
        36,
        "registry.example.org",
        "3.6.8-0",
    )
    assert (facts.pause_image, facts.pod_cidr) == (None, POD_CIDR)


def test_facts_parse_reports_all_faults_with_path() -> None:
    with pytest.raises(InputError) as caught:
        Facts.parse("kubernetes: 1.36\npodcidr: x\n", "etc/slipway.yaml")
    assert [fault.where for fault in caught.value.faults] == ["etc/slipway.yaml .podcidr", "etc/slipway.yaml .kubernetes"]


@pytest.mark.parametrize("version", ["v1.30.14", "v1.24.0", "v0.99.0"])
def test_facts_parse_old_kubernetes_is_refused_with_oldest_supported(version: str) -> None:
    with pytest.raises(InputError, match=rf"{version} is too old: 1\.31 and newer are taken") as caught:
        Facts.parse(f"kubernetes: {version}\n", "etc/slipway.yaml")
    (fault,) = caught.value.faults
    assert (fault.where, fault.hint) == ("etc/slipway.yaml .kubernetes", "build the image again with a newer VERSION")


@pytest.mark.parametrize("version", ["v1.31.0", "v1.31.0-rc.1", "v1.36.3", "v1.100.0", "v2.0.0"])
def test_facts_parse_supported_kubernetes_is_accepted(version: str) -> None:
    assert Facts.parse(f"kubernetes: {version}\n", "etc/slipway.yaml").kubernetes == version


@pytest.mark.parametrize("text", ["- a\n", "kubernetes: [", ""])
def test_facts_parse_text_without_mapping_raises_input_error(text: str) -> None:
    with pytest.raises(InputError):
        Facts.parse(text, "etc/slipway.yaml")


def test_cluster_network_api_and_dns_are_first_and_tenth_service_address() -> None:
    network = ClusterNetwork.parse("100.64.0.0/10", "10.96.0.0/22")
    assert (network.api, network.dns, network.dual, network.node_prefix6) == ("10.96.0.1", "10.96.0.10", False, None)
    both = ClusterNetwork.parse(PODS, SERVICES)
    assert (both.api, both.dns, both.dual) == ("10.96.0.1", "10.96.0.10", True)


@pytest.mark.parametrize(
    ("pods", "services", "says"),
    [
        ("10.0.0.0/8", "10.96.0.0/22", "overlap"),
        ("10.0.0.1/8", "10.96.0.0/22", "host bits"),
        ("100.64.0.0/10", "10.96.0.0/29", "too small"),
        ("100.64.0.0/10", "10.0.0.0/11", "too large"),
        ("100.64.0.0/29", "10.96.0.0/22", "too small"),
        ("pods", "10.96.0.0/22", "does not appear to be"),
        ("100.64.0.0/10,fd00:10::/117", SERVICES, "fd00:10::/117 is too small"),
        (PODS, "10.96.0.0/22,fd00:10:96::/124", "fd00:10:96::/124 is too small"),
        (PODS, "10.96.0.0/22,fd00:10:96::/64", "fd00:10:96::/64 is too large"),
        (PODS, "10.96.0.0/22,fd00:10:64:1::/112", "fd00:10:64::/48 and SvcCIDR fd00:10:64:1::/112 overlap"),
        ("10.96.0.0/16,fd00:10:64::/48", SERVICES, "10.96.0.0/16 and SvcCIDR 10.96.0.0/22 overlap"),
        (PODS, "10.96.0.0/22", "10.96.0.0/22 is of one family, and PodCIDR 100.64.0.0/10,fd00:10:64::/48 of both"),
        ("100.64.0.0/10,10.244.0.0/16", "10.96.0.0/22", "at most one network of each family"),
        ("100.64.0.0/10,fd00::/48,fd00:1::/48", "10.96.0.0/22", "at most one network of each family"),
    ],
)
def test_cluster_network_invalid_networks_are_refused(pods: str, services: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ClusterNetwork.parse(pods, services)


def test_cluster_network_faults_of_both_networks_are_reported() -> None:
    with pytest.raises(InputError) as caught:
        ClusterNetwork.parse("a", "b")
    assert len(caught.value.faults) == 2


def test_cluster_network_faults_of_both_families_are_reported() -> None:
    with pytest.raises(InputError) as caught:
        ClusterNetwork.parse("10.0.0.0/8,fd00::/16", "10.96.0.0/30,fd00:10:96::/64")
    assert [fault.message for fault in caught.value.faults] == [
        "10.96.0.0/30 is too small",
        "fd00:10:96::/64 is too large",
        "10.0.0.0/8 and SvcCIDR 10.96.0.0/30 overlap",
        "fd00::/16 and SvcCIDR fd00:10:96::/64 overlap",
    ]


@pytest.mark.parametrize(
    ("pods", "services", "message"),
    [
        ("fd00:10:64::/48", "fd00:10:96::/112", "fd00:10:64::/48 is IPv6 alone and SvcCIDR fd00:10:96::/112 is IPv6 alone"),
        ("fd00:10:64::/48,100.64.0.0/10", SERVICES, "fd00:10:64::/48,100.64.0.0/10 begins with IPv6"),
        ("100.64.0.0/10", "fd00:10:96::/112", "fd00:10:96::/112 is IPv6 alone"),
    ],
)
def test_cluster_network_ipv6_alone_or_first_is_one_fault_with_hint(pods: str, services: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        ClusterNetwork.parse(pods, services)
    (fault,) = caught.value.faults
    assert fault.message == f"{message}: no cluster is made of that"
    assert fault.hint == "an IPv4 network, or one of each family, IPv4 first: 10.96.0.0/22,fd00:10:96::/112"


def test_cluster_network_variables_are_normalized_and_split_by_family() -> None:
    network = ClusterNetwork.parse("100.64.0.0/10, FD00:10:64:0::/48", SERVICES)
    assert network.variables == {
        "PodCIDR": PODS,
        "PodCIDRv4": "100.64.0.0/10",
        "PodCIDRv6": "fd00:10:64::/48",
        "SvcCIDR": SERVICES,
        "SvcCIDRv4": "10.96.0.0/22",
        "SvcCIDRv6": "fd00:10:96::/112",
        "KubeSvcIP": "10.96.0.1",
        "DNSSvcIP": "10.96.0.10",
    }
    assert ClusterNetwork("100.64.0.0/10", "10.96.0.0/22").variables["PodCIDRv6"] == ""
    # Of a cluster that others have made.
    assert ClusterNetwork("fd00::/48,10.0.0.0/16", "fd00:1::/112,10.1.0.0/16").variables["KubeSvcIP"] == "fd00:1::1"


@pytest.mark.parametrize(("wide", "prefix"), [(32, 48), (47, 63), (48, 64), (56, 64), (60, 64), (62, 78), (64, 80), (104, 120), (116, 120)])
def test_cluster_network_node_prefix6_fits_kubeadm_limit(wide: int, prefix: int) -> None:
    network = ClusterNetwork.parse(f"100.64.0.0/10,fd00::/{wide}", "10.96.0.0/22,fd80::/112")
    assert network.node_prefix6 == prefix
    assert prefix - wide <= 16

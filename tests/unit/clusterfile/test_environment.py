"""Whose value counts."""

from __future__ import annotations

import pytest

from harness.clusterfile.environment import environment
from harness.errors import InputError

from .reading import document, read, spec_text

FILE = spec_text(
    """
    env: {A: cluster, B: cluster, C: cluster, Mine: yes}
    hosts: [{ips: [10.0.0.1], roles: [master], env: [A=host]}]
    network: {podCIDR: 10.1.0.0/16}
    certSANS: [a.example.com]
    """
)


def test_environment_precedence_is_image_clusterfile_flags_host() -> None:
    found = read(FILE)
    assert found.cluster is not None
    image = {"A": "image", "B": "image", "C": "image", "D": "image", "PodCIDR": "10.9.0.0/16"}
    common = {"B": "given", "C": "cluster", "D": "image", "Mine": "yes", "PodCIDR": "10.1.0.0/16", "CertSANs": "a.example.com"}
    assert environment(image, found, {"A": "given", "B": "given"}) == {**common, "A": "given"}
    assert environment(image, found, {"A": "given", "B": "given"}, found.cluster.host("10.0.0.1")) == {**common, "A": "host"}


def test_environment_without_clusterfile_merges_image_and_flags() -> None:
    assert environment({"A": "image"}, None, {"B": "given"}) == {"A": "image", "B": "given"}


def test_environment_cert_sans_are_joined_without_duplicates() -> None:
    found = read(spec_text("certSANS: [a, b]\nenv: ['CertSANs=b, c']"))
    assert environment({}, found, {})["CertSANs"] == "a,b,c"
    assert environment({}, found, {"CertSANs": "d"})["CertSANs"] == "a,b,d"


def test_environment_kubeadm_networks_are_used_as_fallback() -> None:
    kubeadm = "---\napiVersion: kubeadm.k8s.io/v1beta3\nkind: ClusterConfiguration\n"
    kubeadm += "networking: {podSubnet: 10.2.0.0/16, serviceSubnet: 10.3.0.0/16}\n"
    assert environment({}, read(spec_text("cmd: [a]") + kubeadm), {}) == {"PodCIDR": "10.2.0.0/16", "SvcCIDR": "10.3.0.0/16"}
    assert environment({}, read(spec_text("cmd: [a]") + kubeadm), {"SvcCIDR": "x"})["SvcCIDR"] == "x"


def test_environment_reserved_names_are_dropped_and_warned_about() -> None:
    found = read(spec_text("env: [RegistryURL=x, A=1]\nhosts: [{ips: [10.0.0.1], roles: [master], env: [HostIP=1]}]"))
    assert found.cluster is not None
    assert environment({"KubeSvcIP": "x"}, found, {"DNSSvcIP": "y"}, found.cluster.hosts[0]) == {"A": "1"}
    assert [warning.where for warning in found.warnings] == ["Clusterfile:6 .spec.env[0]", "Clusterfile:7 .spec.hosts[0].env[0]"]


def test_environment_of_application_adds_its_image_and_config_env() -> None:
    text = spec_text("env: {A: cluster, B: cluster}") + "---\n" + document("Application", "configs: [{name: shop, env: [A=app, E=app]}]")
    found = read(text)
    image, app = {"A": "image", "D": "image"}, {"B": "image app", "D": "image app"}
    assert environment(image, found, {"E": "given"}, app="shop", app_env=app) == {
        "A": "app",
        "B": "cluster",
        "D": "image app",
        "E": "given",
    }
    assert environment(image, found, {}, app="other", app_env=app) == {"A": "cluster", "B": "cluster", "D": "image app"}


def test_environment_redacted_value_is_refused_until_given() -> None:
    found = read(spec_text("env: {Password: '<redacted abc>', A: 1}"))
    with pytest.raises(InputError) as caught:
        environment({}, found, {})
    assert str(caught.value.faults[0]) == "Clusterfile .spec.env.Password: was not kept, since it is a secret\n  hint: -e Password=VALUE"
    assert environment({}, found, {"Password": "x"}) == {"Password": "x", "A": "1"}

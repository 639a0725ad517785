"""Machines that a provider makes, in a Clusterfile."""

from __future__ import annotations

import pytest

from harness.clusterfile import CloudSettings, Clusterfile
from harness.clusterfile.machines import MAKERS
from harness.clusterfile.parse import parse
from harness.clusterfile.write import redacted
from harness.errors import InputError

HOSTS = "hosts: [{count: 3, roles: [master]}, {count: 2, roles: [node]}]"
CLOUD = "cloud: {size: t3.large, image: ami-12345678, subnet: subnet-1, securityGroups: sg-1, public: true}"


def read(spec: str) -> Clusterfile:
    lines = "\n".join(f"  {line}" for line in spec.splitlines())
    return parse(f"apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {{name: lab}}\nspec:\n  image: web\n{lines}\n", "Clusterfile")


def test_cloud_settings_are_read_and_written() -> None:
    found = read(f"provider: AWS\n{CLOUD}\n{HOSTS}")
    assert found.cluster is not None
    assert found.cluster.cloud == CloudSettings("t3.large", "ami-12345678", "subnet-1", ("sg-1",), public=True)
    assert (found.cluster.counted("control-plane"), found.cluster.counted("worker")) == (3, 2)
    again = parse(redacted(found), "stored").cluster
    assert again is not None
    assert again.cloud == found.cluster.cloud


@pytest.mark.parametrize("provider", MAKERS)
def test_count_is_read_for_each_provider_that_makes_machines(provider: str) -> None:
    assert read(f"provider: {provider}\n{HOSTS}").cluster is not None


@pytest.mark.parametrize(
    ("spec", "faults"),
    [
        (f"provider: CONTAINER\n{HOSTS}\n{CLOUD}", [(".spec.cloud", "is for machines of a cloud")]),
        ("cloud: {size: t3.large}\nhosts: [{ips: [10.0.0.1], roles: [master]}]", [(".spec.cloud", "is for machines of a cloud")]),
        (
            f"provider: AWS\n{HOSTS}\ncloud: {{size: 'a b', weight: x, public: 1}}",
            [
                (".spec.cloud.size", "a b is not allowed here"),
                (".spec.cloud.weight", "weight is not known here"),
                (".spec.cloud.public", "must be"),
            ],
        ),
        (f"provider: BAREMETAL\n{HOSTS}", [(".spec.hosts[0].count", "no provider makes them"), (".spec.hosts[1].count", "no provider")]),
    ],
)
def test_invalid_machines_are_all_reported(spec: str, faults: list[tuple[str, str]]) -> None:
    with pytest.raises(InputError) as caught:
        read(spec)
    assert len(caught.value.faults) == len(faults)
    for fault, (place, message) in zip(caught.value.faults, faults, strict=True):
        assert fault.where.endswith(place)
        assert message in fault.message

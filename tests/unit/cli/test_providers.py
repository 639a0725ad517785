"""Providers on the command line: options that do not fit, words of a cloud, the environment."""

from __future__ import annotations

import pytest

from harness.cli import app, providers
from harness.cli.providers import CloudOptions
from harness.clusterfile.parse import parse
from harness.errors import InputError, UsageError
from harness.nodes.cloud import MachineSpec, ec2_words, ecs_words

CLUSTER = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: lab}
spec:
  image: web
  provider: AWS
  hosts: [{count: 1, roles: [master]}]
"""


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SIZE", "IMAGE", "SUBNET", "SECURITY_GROUPS"):
        monkeypatch.delenv(f"SLIPWAY_NODE_{name}", raising=False)


def test_cloud_options_with_containers_are_all_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["nodes", "up", "--size", "t3.large", "--security-group", "sg-1", "--public"]) == 2
    errors = capsys.readouterr().err
    for option in ("--size", "--security-group", "--public"):
        assert f"{option}: is for machines of a cloud" in errors


def test_cloud_without_size_and_image_names_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["nodes", "up", "--provider", "aws", "--subnet", "192.168.0.0/24"]) == 2
    errors = capsys.readouterr().err
    assert "--size: is missing" in errors
    assert "--image: is missing" in errors
    assert "--subnet: '192.168.0.0/24' is not valid" in errors


def test_unknown_provider_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["nodes", "list", "--provider", "gcp"]) == 2
    assert "one of container, aws, aliyun" in capsys.readouterr().err
    assert app.execute(["nodes", "restart", "a", "--provider", "aws"]) == 2


def test_spec_options_win_over_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_NODE_SIZE", "m7g.large")
    monkeypatch.setenv("SLIPWAY_NODE_IMAGE", "ami-00000000")
    monkeypatch.setenv("SLIPWAY_NODE_SUBNET", "subnet-00000000")
    monkeypatch.setenv("SLIPWAY_NODE_SECURITY_GROUPS", "sg-00000000, sg-11111111")
    spec = CloudOptions(image="ami-12345678").spec("aws", None)
    assert spec == MachineSpec("m7g.large", "ami-12345678", "subnet-00000000", ("sg-00000000", "sg-11111111"))
    given = CloudOptions(size="t3.large", security_groups=["sg-12345678"], public=True).spec("aws", "subnet-12345678")
    assert given == MachineSpec("t3.large", "ami-00000000", "subnet-12345678", ("sg-12345678",), public=True)


def test_source_of_clusterfile_without_size_names_its_keys() -> None:
    with pytest.raises(InputError) as caught:
        providers.source(parse(CLUSTER, "Clusterfile"))
    assert [fault.where for fault in caught.value.faults] == ["Clusterfile .spec.cloud.size", "Clusterfile .spec.cloud.image"]


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (MachineSpec("t3", "ami-12345678"), "size"),
        (MachineSpec("t3.large\x1b[31m", "ami-12345678"), "size"),
        (MachineSpec("t3.large", "debian"), "image"),
        (MachineSpec("t3.large", "ami-12345678", "vpc-12345678"), "subnet"),
        (MachineSpec("t3.large", "ami-12345678", None, ("sg-12345678", "default")), "security_groups"),
    ],
)
def test_words_that_are_not_of_ec2_are_refused(spec: MachineSpec, field: str) -> None:
    ((found, message, hint),) = ec2_words.faults(spec)
    assert (found, message.isprintable(), bool(hint)) == (field, True, True)


def test_source_of_ali_cloud_without_cloud_names_keys_that_ecs_requires() -> None:
    with pytest.raises(InputError) as caught:
        providers.source(parse(CLUSTER.replace("AWS", "ALI_CLOUD"), "Clusterfile"))
    assert [fault.where.rpartition(".")[2] for fault in caught.value.faults] == ["size", "image", "subnet", "securityGroups"]


@pytest.mark.parametrize("image", ["m-bp1g7004ksh0oeuc0001", "debian_12_6_x64_20G_alibase_20240711.vhd"])
def test_words_of_ecs_are_accepted(image: str) -> None:
    assert list(ecs_words.faults(MachineSpec("ecs.g7.large", image, "vsw-bp1s5fnvk4gn2tws0001", ("sg-bp15ed6xe1yxeycg0001",)))) == []


@pytest.mark.parametrize(
    ("spec", "fields"),
    [
        (MachineSpec("t3.large", "ami 1", "subnet-12345678", ("default",)), ["size", "image", "subnet", "security_groups"]),
        (MachineSpec("ecs.g7.large", "debian", None, ()), ["subnet", "security_groups"]),
        (MachineSpec("ecs.g7.large\x1b[31m", "debian", "vsw-12345678", ("sg-12345678", "default")), ["size", "security_groups"]),
    ],
)
def test_words_that_are_not_of_ecs_are_refused(spec: MachineSpec, fields: list[str]) -> None:
    found = list(ecs_words.faults(spec))
    assert [field for field, _, _ in found] == fields
    assert all(message.isprintable() and hint for _, message, hint in found)


def test_provider_aliyun_without_library_is_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "alibabacloud_ecs20140526", None)
    with pytest.raises(UsageError, match="needs alibabacloud_ecs20140526") as missing:
        providers.of("aliyun")
    assert "extra aliyun" in str(missing.value.hint)


def test_provider_aws_without_library_is_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "boto3", None)
    with pytest.raises(UsageError, match="needs boto3") as missing:
        providers.of("aws")
    assert "extra aws" in str(missing.value.hint)

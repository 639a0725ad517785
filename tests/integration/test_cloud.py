"""Machines of a cloud: few requests, and nothing is left whatever fails. EC2 is simulated by moto; boto3, ssh and the machines are real."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from harness.build import container_images
from harness.errors import UsageError
from harness.host import docker
from harness.nodes import Machine, NodeGroup
from harness.nodes.cloud import CloudError, CloudRefusalError, MachineOrder, MachineSpec, boot, tags
from harness.nodes.cloud.aws import Ec2
from harness.nodes.cloud.provider import CloudProvider
from harness.nodes.container import IMAGE as NODE_IMAGE
from harness.nodes.container import ContainerProvider
from harness.nodes.ssh import SshConnections
from tests.integration import cloud_child, dying, ec2
from tests.integration.cloud_child import processes
from tests.integration.ec2 import (
    EMPTY,
    EXPIRED,
    IMAGE,
    KILL_AFTER,
    KILL_BEFORE,
    LOST,
    SIZE,
    THROTTLED,
    UNREADABLE,
    Ec2Simulation,
    SharedNode,
)

SPEC = MachineSpec(SIZE, IMAGE)
SEED = 16


@pytest.fixture(scope="module")
def node_image() -> str:
    return container_images.package_image(docker.connect(), NODE_IMAGE)


@pytest.fixture(scope="module")
def containers(tmp_path_factory: pytest.TempPathFactory) -> ContainerProvider:
    return ContainerProvider(docker.connect(), tmp_path_factory.mktemp("containers"))


@pytest.fixture(scope="module")
def running(
    containers: ContainerProvider, node_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Ec2Simulation, dict[str, str]]]:
    name = f"test-cloud-{os.getpid()}"
    try:
        with ec2.simulated(SharedNode(containers, node_image, name, tmp_path_factory.mktemp("shared"))) as started:
            yield started
    finally:
        containers.down(name)


@pytest.fixture
def environment(running: tuple[Ec2Simulation, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in running[1].items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    return running[1]


@pytest.fixture
def cloud(running: tuple[Ec2Simulation, dict[str, str]], environment: dict[str, str]) -> Iterator[Ec2Simulation]:
    """A cloud without machines."""
    simulation = running[0]
    simulation.calls.clear()
    simulation.next.clear()
    simulation.always, simulation.quota = None, 1000
    yield simulation
    left = simulation.alive()
    for identity in left:
        simulation.vanish(identity)
    assert not left


@pytest.fixture
def nodes(environment: dict[str, str], tmp_path: Path) -> CloudProvider:
    return CloudProvider(Ec2(), SPEC, tmp_path / "home")


def order(count: int = 3) -> MachineOrder:
    machines = [(f"lab-worker-{number}", "worker") for number in range(1, count + 1)]
    return MachineOrder(SPEC, count, os.urandom(8).hex(), tags.of("lab", "0" * 16, machines), boot.user_data(b"ssh-ed25519 AAAA slipway"))


def naive(count: int) -> None:
    """A client that asks for one machine after the other."""
    client = boto3.client("ec2")
    for _ in range(count):
        (instance,) = client.run_instances(ImageId=IMAGE, InstanceType=SIZE, MinCount=1, MaxCount=1)["Instances"]
        client.describe_instances(InstanceIds=[instance["InstanceId"]])
        client.terminate_instances(InstanceIds=[instance["InstanceId"]])


# ---- requests ----


def test_six_machines_take_at_most_five_requests(cloud: Ec2Simulation, nodes: CloudProvider) -> None:
    group = nodes.up("lab", 3, 3, image=IMAGE)
    assert [listed.members for listed in nodes.list()] == [group.members]
    assert nodes.down("lab")
    calls, cloud.calls = cloud.calls, []
    assert calls == ["RunInstances", "DescribeInstances", "DescribeInstances", "TerminateInstances"]
    assert [member.name for member in group.members][::3] == ["lab-control-plane-1", "lab-worker-1"]
    naive(6)
    assert len(cloud.calls) == 18


def test_instances_are_container_nodes_with_names_and_group_key(
    containers: ContainerProvider, node_image: str, environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"test-ec2-{os.getpid()}"
    machines = ec2.ContainerNodes(containers, node_image, name, tmp_path / "ssh")
    try:
        with ec2.simulated(machines) as (simulation, variables):
            monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", variables["AWS_ENDPOINT_URL_EC2"])
            nodes = CloudProvider(Ec2(), SPEC, tmp_path / "home")
            group = nodes.grow("lab", 1, 0, image=IMAGE)
            group = nodes.grow("lab", 1, 1, image=IMAGE)
            assert host_names(group, tmp_path / "c") == ["lab-control-plane-1", "lab-worker-1"]
            nodes.shrink("lab", ["lab-worker-1"])
            assert [member.name for listed in nodes.list() for member in listed.members] == ["lab-control-plane-1"]
            assert len(machines_of(containers, name)) == 1
            nodes.down("lab")
            assert simulation.alive() == set()
            assert machines_of(containers, name) == []
    finally:
        containers.down(name)


def host_names(group: NodeGroup, folder: Path) -> list[str]:
    with SshConnections(folder, [Machine(member.address, group.login) for member in group.members]) as ssh:
        return [node.run("hostname").stdout.strip() for node in ssh.connect()]


def machines_of(containers: ContainerProvider, name: str) -> list[str]:
    return [member.name for group in containers.list() if group.name == name for member in group.members]


# ---- what a cloud does to requests ----


@pytest.mark.parametrize(
    "faults", [[THROTTLED, THROTTLED], [LOST], [UNREADABLE], [LOST, THROTTLED, UNREADABLE]], ids=["throttled", "lost", "unreadable", "all"]
)
def test_create_repeats_order_and_makes_its_machines_once(
    cloud: Ec2Simulation, environment: dict[str, str], faults: list[ec2.Answer | str | None]
) -> None:
    client, attempts = Ec2(), len(faults) + 1
    cloud.next = {"RunInstances": list(faults), "TerminateInstances": list(faults)}
    machines = client.create(order())
    assert {machine.id for machine in machines} == cloud.alive()
    assert [machine.place for machine in machines] == [0, 1, 2]
    client.destroy([machine.id for machine in machines])
    assert cloud.calls == ["RunInstances"] * attempts + ["TerminateInstances"] * attempts


def test_up_answer_of_other_shape_fails_and_leaves_nothing(cloud: Ec2Simulation, nodes: CloudProvider) -> None:
    cloud.next = {"RunInstances": [EMPTY]}
    with pytest.raises(CloudError, match="made 0 of 2 machines"):
        nodes.up("lab", 1, 1, image=IMAGE)
    assert not (nodes.home / "nodes/aws.lab").exists()


def test_up_quota_reached_half_way_keeps_first_group_only(cloud: Ec2Simulation, nodes: CloudProvider) -> None:
    cloud.quota = 3
    nodes.up("first", 1, 1, image=IMAGE)
    with pytest.raises(CloudRefusalError, match="InstanceLimitExceeded") as refused:
        nodes.up("second", 1, 1, image=IMAGE)
    assert "quota" in str(refused.value.hint)
    assert [group.name for group in nodes.list()] == ["first"]
    nodes.down("first")


def test_down_machine_that_vanishes_between_list_and_delete_removes_others(cloud: Ec2Simulation, environment: dict[str, str]) -> None:
    client = Ec2()
    first, *others = client.create(order())
    cloud.vanish(first.id)
    client.destroy([first.id, *(machine.id for machine in others)])
    assert cloud.alive() == set()
    client.destroy([first.id])


@pytest.mark.long  # the unit tests of the provider have it, too
def test_two_groups_of_one_name_are_removed_by_their_own_homes(
    cloud: Ec2Simulation, nodes: CloudProvider, environment: dict[str, str], tmp_path: Path
) -> None:
    other = CloudProvider(Ec2(), SPEC, tmp_path / "other")
    group = nodes.up("lab", 1, 0, image=IMAGE)
    other.up("lab", 1, 0, image=IMAGE)
    other.down("lab")
    assert nodes.list() == (group,)
    nodes.down("lab")


def test_up_machine_that_never_boots_is_reported_and_removed(
    cloud: Ec2Simulation, nodes: CloudProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "BOOT_TIMEOUT", 0.1)
    monkeypatch.setattr("tests.integration.ec2.initialize", lambda *_: None)
    with pytest.raises(CloudError, match="1 of 1 machines did not boot") as silent:
        nodes.up("lab", 1, 0, image=IMAGE)
    assert "lab-control-plane-1" in str(silent.value.details)
    assert not (nodes.home / "nodes/aws.lab").exists()


def test_credentials_that_expire_in_the_middle_leave_machines_listed_and_second_run_finishes(
    cloud: Ec2Simulation, nodes: CloudProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expire(*_: object) -> None:
        cloud.always = EXPIRED
        nodes.cloud.list(tags.GROUP)

    with monkeypatch.context() as patched:
        patched.setattr(boot, "wait", expire)
        with pytest.raises(CloudError, match="ExpiredToken") as expired:
            nodes.up("lab", 1, 1, image=IMAGE)
    assert "sign in" in str(expired.value.hint)
    cloud.always = None
    before = cloud.alive()
    assert [member.name for group in nodes.list() for member in group.members] == ["lab-control-plane-1", "lab-worker-1"]
    assert len(nodes.up("lab", 1, 1, image=IMAGE).members) == 2
    assert cloud.alive() == before
    assert nodes.down("lab")


def test_no_credentials_or_region_is_a_clear_error(cloud: Ec2Simulation, nodes: CloudProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(CloudRefusalError, match="no credentials for AWS"):
        CloudProvider(Ec2(), SPEC, nodes.home).up("lab", 1, 0, image=IMAGE)
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(UsageError, match="no region is chosen"):
        Ec2()
    assert cloud.calls == []


# ---- kills ----


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_seeded_moments_leaves_nothing_after_down(
    cloud: Ec2Simulation, environment: dict[str, str], nodes: CloudProvider, tmp_path: Path, times: int
) -> None:
    """Moments are counted in what the command does to files of its group, and in what reaches the cloud: load does not change them."""
    tally = tmp_path / "tally"

    def killed(name: str, moment: int) -> bool:
        child = processes.Process(target=cloud_child.up, args=(environment, nodes.home, name, SPEC, moment, tally))
        child.start()
        cloud.client = child.pid or 0
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL)
        return child.exitcode != 0

    assert not killed("whole", 0)
    assert nodes.down("whole")
    moments: list[int | str] = [KILL_BEFORE, KILL_AFTER]
    moments += random.Random(SEED).sample(range(1, dying.counted(tally) + 1), times - len(moments))
    kills = 0
    for index, moment in enumerate(moments):
        name = f"killed-{index}"
        cloud.next = {"RunInstances": [moment]} if isinstance(moment, str) else {}
        kills += killed(name, moment if isinstance(moment, int) else -1)
        if index % 4 == 1:
            # It is finished, or it was complete.
            with contextlib.suppress(UsageError):
                nodes.up(name, 1, 1, image=IMAGE)
            assert len(cloud.alive()) == 2, moment
        nodes.down(name)
        assert cloud.alive() == set(), moment
        assert list((nodes.home / "nodes").iterdir()) == [], moment
    # A busy machine lets the first run ask more often than a later one.
    assert kills > times // 2


def test_nodes_up_command_prints_machines_and_keeps_no_credentials(
    cloud: Ec2Simulation, environment: dict[str, str], nodes: CloudProvider
) -> None:
    words = ["nodes", "up", "--provider", "aws", "--size", SIZE, "--image", IMAGE, "--name", "lab", "--output", "json"]
    variables = {**os.environ, "SLIPWAY_HOME": str(nodes.home)}
    ended = subprocess.run([sys.executable, "-m", "harness", *words], env=variables, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [member["name"] for member in json.loads(ended.stdout)["nodes"]] == ["lab-control-plane-1"]
    written = [path.read_text() for path in (nodes.home / "nodes/aws.lab").iterdir() if path.is_file()]
    assert not [text for text in (*written, ended.stdout, ended.stderr) if environment["AWS_SECRET_ACCESS_KEY"] in text]
    assert nodes.down("lab")


def test_provider_without_boto3_says_what_to_install(environment: dict[str, str], tmp_path: Path) -> None:
    program = "import sys; sys.modules['boto3'] = None; from harness.cli import app; sys.exit(app.execute(sys.argv[1:]))"
    argv = [sys.executable, "-c", program, "nodes", "list", "--provider", "aws"]
    ended = subprocess.run(argv, env={**os.environ, "SLIPWAY_HOME": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "the provider aws needs boto3" in ended.stderr
    assert "extra aws" in ended.stderr

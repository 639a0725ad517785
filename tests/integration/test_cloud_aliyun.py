"""Machines of Aliyun ECS: Aliyun's own SDK on a wire server of the project's own. No machine stands behind an instance.

Only the wait over SSH is left out; tests/integration/test_cloud.py has it, with real machines.
"""

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
from typing import Any

import pytest

from harness.errors import UsageError
from harness.nodes.cloud import CloudError, CloudRefusalError, MachineOrder, MachineSpec, boot, tags
from harness.nodes.cloud.aliyun import AliyunEcs
from harness.nodes.cloud.provider import CloudProvider
from tests.integration import dying, ecs, ecs_child
from tests.integration.ec2 import EMPTY, KILL_AFTER, KILL_BEFORE, LOST, UNREADABLE
from tests.integration.ecs import (
    ASKED_TO_WAIT,
    EXPIRED,
    FAILED,
    FORBIDDEN,
    GROUP,
    IMAGE,
    INITIALIZING,
    SIZE,
    THROTTLED,
    UNDER_WAY,
    VSWITCH,
    EcsAnswer,
    EcsSimulation,
)

SPEC = MachineSpec(SIZE, IMAGE, VSWITCH, (GROUP,))
SEED = 16


@pytest.fixture(scope="module")
def running() -> Iterator[tuple[EcsSimulation, dict[str, str]]]:
    with ecs.simulated() as started:
        yield started


@pytest.fixture
def environment(running: tuple[EcsSimulation, dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name in ecs.FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in running[1].items():
        monkeypatch.setenv(name, value)
    ecs.reload_environment()
    return running[1]


@pytest.fixture
def cloud(running: tuple[EcsSimulation, dict[str, str]], environment: dict[str, str]) -> Iterator[EcsSimulation]:
    """A cloud without machines."""
    simulation = running[0]
    simulation.calls.clear()
    simulation.requests.clear()
    simulation.next.clear()
    simulation.always, simulation.quota, simulation.page, simulation.addresses = None, 1000, 100, True
    yield simulation
    left = set(simulation.instances)
    simulation.instances.clear()
    assert not left


@pytest.fixture(autouse=True)
def waited(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No wait lasts; their seconds."""
    seconds: list[float] = []
    monkeypatch.setattr("harness.nodes.cloud.aliyun.time.sleep", seconds.append)
    return seconds


@pytest.fixture
def nodes(environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CloudProvider:
    monkeypatch.setattr(boot, "wait", lambda *_: None)
    return CloudProvider(AliyunEcs(), SPEC, tmp_path / "home")


def order(count: int = 3) -> MachineOrder:
    machines = [(f"lab-worker-{number}", "worker") for number in range(1, count + 1)]
    return MachineOrder(SPEC, count, os.urandom(8).hex(), tags.of("lab", "0" * 16, machines), boot.user_data(b"ssh-ed25519 AAAA slipway"))


# ---- requests ----


def test_six_machines_take_at_most_five_requests(cloud: EcsSimulation, nodes: CloudProvider) -> None:
    group = nodes.up("lab", 3, 3, image=IMAGE)
    assert [listed.members for listed in nodes.list()] == [group.members]
    assert nodes.down("lab")
    assert cloud.calls == ["RunInstances", "DescribeInstances", "DescribeInstances", "DescribeInstances", "DeleteInstances"]
    assert [member.name for member in group.members][::3] == ["lab-control-plane-1", "lab-worker-1"]
    assert len({member.address for member in group.members}) == 6


def test_up_machines_without_addresses_are_asked_for_again(cloud: EcsSimulation, nodes: CloudProvider, waited: list[float]) -> None:
    cloud.addresses = False

    def assigned(seconds: float) -> None:
        cloud.addresses = True

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("harness.nodes.cloud.boot.time.sleep", assigned)
        assert all(member.address for member in nodes.up("lab", 1, 1, image=IMAGE).members)
    assert cloud.calls == ["RunInstances", "DescribeInstances", "DescribeInstances"]
    nodes.down("lab")


def test_grow_and_shrink_keep_names_of_machines(cloud: EcsSimulation, nodes: CloudProvider) -> None:
    nodes.grow("lab", 1, 0, image=IMAGE)
    group = nodes.grow("lab", 1, 2, image=IMAGE)
    nodes.shrink("lab", ["lab-worker-1"])
    assert [member.name for listed in nodes.list() for member in listed.members] == ["lab-control-plane-1", "lab-worker-2"]
    assert set(nodes.list()[0].members) < set(group.members)
    nodes.down("lab")


def test_list_reads_all_pages(cloud: EcsSimulation, environment: dict[str, str]) -> None:
    client = AliyunEcs()
    machines = client.create(order(5))
    cloud.page = 2
    assert {machine.id for machine in client.list(tags.GROUP, "lab")} == {machine.id for machine in machines}
    assert client.list(tags.GROUP, "other") == ()
    assert cloud.calls[-4:] == ["DescribeInstances"] * 4
    client.destroy([machine.id for machine in machines])


def test_public_machines_go_by_public_addresses(cloud: EcsSimulation, environment: dict[str, str], nodes: CloudProvider) -> None:
    nodes.spec = MachineSpec(SIZE, IMAGE, VSWITCH, (GROUP,), public=True)
    (member,) = nodes.up("lab", 1, 0, image=IMAGE).members
    assert member.address.startswith("192.0.2.")
    nodes.down("lab")


def test_order_has_tags_and_user_data_and_no_password(cloud: EcsSimulation, environment: dict[str, str]) -> None:
    client, wanted = AliyunEcs(), order(2)
    client.destroy([machine.id for machine in client.create(wanted)])
    request = cloud.requests[0]
    assert (request["Amount"], request["MinAmount"], request["ClientToken"]) == ("2", "2", wanted.token)
    assert dict(ecs.tags(request)) == dict(wanted.tags)
    assert not {"Password", "PasswordInherit", "KeyPairName"} & set(request)


# ---- what a cloud does to requests ----


@pytest.mark.parametrize(
    "faults",
    [[THROTTLED] * 7, [LOST], [UNREADABLE], [FAILED, UNDER_WAY], [LOST, THROTTLED, UNREADABLE, UNDER_WAY]],
    ids=["throttled", "lost", "unreadable", "failed", "all"],
)
def test_create_repeats_order_and_makes_its_machines_once(
    cloud: EcsSimulation, environment: dict[str, str], faults: list[EcsAnswer | str | None]
) -> None:
    client, attempts = AliyunEcs(), len(faults) + 1
    cloud.next = {"RunInstances": list(faults), "DeleteInstances": list(faults)}
    machines = client.create(order())
    assert {machine.id for machine in machines} == set(cloud.instances)
    assert sorted(machine.place for machine in machines) == [0, 1, 2]
    client.destroy([machine.id for machine in machines])
    assert cloud.calls == ["RunInstances"] * attempts + ["DescribeInstances"] + ["DeleteInstances"] * attempts
    assert len({request["ClientToken"] for request in cloud.requests[:attempts]}) == 1


def test_throttled_request_waits_at_random_and_as_long_as_asked(
    cloud: EcsSimulation, environment: dict[str, str], waited: list[float]
) -> None:
    cloud.next = {"DescribeInstances": [THROTTLED, THROTTLED, EcsAnswer.error(429, "Throttling.Api", x_acs_retry_after="5000")]}
    AliyunEcs().list(tags.GROUP)
    first, second, third = waited
    assert 0 <= first <= 1
    assert 0 <= second <= 2
    assert 5 <= third <= 9


def test_throttled_for_ever_gives_up_with_one_line(cloud: EcsSimulation, nodes: CloudProvider) -> None:
    cloud.always = ASKED_TO_WAIT
    with pytest.raises(CloudRefusalError) as refused:
        nodes.list()
    assert refused.value.message == "ECS refuses (Throttling.Api): simulated"
    assert len(cloud.calls) == 8
    cloud.always = None


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (EXPIRED, "sign in again"),
        (FORBIDDEN, "RAM must allow ecs:RunInstances"),
        (EcsAnswer.error(403, "QuotaExceed.ElasticQuota"), "quota"),
        (EcsAnswer.error(403, "OperationDenied.NoStock"), "another --size"),
        (EcsAnswer.error(404, "InvalidVSwitchId.NotFound"), "--subnet"),
        (EcsAnswer.error(404, "InvalidSecurityGroupId.NotFound"), "--security-group"),
        (EcsAnswer.error(400, "InvalidAccountStatus.NotEnoughBalance"), "balance"),
    ],
)
def test_up_refused_order_is_one_line_with_hint_and_leaves_nothing(
    cloud: EcsSimulation, nodes: CloudProvider, answer: EcsAnswer, hint: str
) -> None:
    cloud.next = {"RunInstances": [answer]}
    with pytest.raises(CloudRefusalError) as refused:
        nodes.up("lab", 1, 1, image=IMAGE)
    assert refused.value.message == f"ECS refuses ({answer.body['Code']}): {answer.body['Message']}"
    assert hint in str(refused.value.hint)
    assert cloud.calls.count("RunInstances") == 1
    assert not (nodes.home / "nodes/aliyun.lab").exists()


@pytest.mark.parametrize(
    ("spec", "hint"),
    [(MachineSpec(SIZE, "debian", VSWITCH, (GROUP,)), "--image"), (MachineSpec("ecs.g9.large", IMAGE, VSWITCH, (GROUP,)), "--size")],
)
def test_up_unknown_image_or_size_names_option(cloud: EcsSimulation, nodes: CloudProvider, spec: MachineSpec, hint: str) -> None:
    nodes.spec = spec
    with pytest.raises(CloudRefusalError) as refused:
        nodes.up("lab", 1, 0, image=spec.image)
    assert hint in str(refused.value.hint)


def test_lack_of_permission_for_question_after_order_keeps_it_uncertain(cloud: EcsSimulation, nodes: CloudProvider) -> None:
    cloud.next = {"DescribeInstances": [FORBIDDEN]}
    with pytest.raises(CloudError) as unknown:
        nodes.up("lab", 1, 1, image=IMAGE)
    assert type(unknown.value) is CloudError
    assert not (nodes.home / "nodes/aliyun.lab").exists()


def test_up_lost_answer_then_refusal_keeps_order_in_record(cloud: EcsSimulation, nodes: CloudProvider) -> None:
    cloud.next = {"RunInstances": [LOST, EXPIRED, EXPIRED], "DescribeInstances": [EXPIRED]}
    with pytest.raises(CloudError, match="Expired") as unknown:
        nodes.up("lab", 1, 1, image=IMAGE)
    assert type(unknown.value) is CloudError
    before = set(cloud.instances)
    assert len(before) == 2
    assert len(nodes.up("lab", 1, 1, image=IMAGE).members) == 2
    assert set(cloud.instances) == before
    nodes.down("lab")


def test_up_answer_of_other_shape_fails_and_leaves_nothing(cloud: EcsSimulation, nodes: CloudProvider) -> None:
    cloud.next = {"RunInstances": [EMPTY]}
    with pytest.raises(CloudError, match="made 0 of 2 machines"):
        nodes.up("lab", 1, 1, image=IMAGE)
    assert not (nodes.home / "nodes/aliyun.lab").exists()


def test_up_quota_reached_half_way_keeps_first_group_only(cloud: EcsSimulation, nodes: CloudProvider) -> None:
    cloud.quota = 3
    nodes.up("first", 1, 1, image=IMAGE)
    with pytest.raises(CloudRefusalError, match="QuotaExceed"):
        nodes.up("second", 1, 1, image=IMAGE)
    assert [group.name for group in nodes.list()] == ["first"]
    nodes.down("first")


def test_down_machine_that_vanishes_between_list_and_delete_removes_others(cloud: EcsSimulation, environment: dict[str, str]) -> None:
    client = AliyunEcs()
    ids = [machine.id for machine in client.create(order(5))]
    del cloud.instances[ids[1]]
    client.destroy(ids)
    assert cloud.instances == {}
    client.destroy(ids[:1])


def test_down_machines_that_initialize_are_waited_for(
    cloud: EcsSimulation, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = AliyunEcs()
    ids = [machine.id for machine in client.create(order(2))]
    cloud.next = {"DeleteInstances": [INITIALIZING] * 12}
    client.destroy(ids)
    assert cloud.instances == {}
    ids = [machine.id for machine in client.create(order(1))]
    monkeypatch.setattr("harness.nodes.cloud.aliyun._PATIENCE", 0)
    cloud.next = {"DeleteInstances": [INITIALIZING] * 8}
    with pytest.raises(CloudError, match="Initializing"):
        client.destroy(ids)
    client.destroy(ids)


def test_two_groups_of_one_name_are_removed_by_their_own_homes(
    cloud: EcsSimulation, nodes: CloudProvider, environment: dict[str, str], tmp_path: Path
) -> None:
    other = CloudProvider(AliyunEcs(), SPEC, tmp_path / "other")
    group = nodes.up("lab", 1, 0, image=IMAGE)
    other.up("lab", 1, 0, image=IMAGE)
    other.down("lab")
    assert nodes.list() == (group,)
    nodes.down("lab")


def test_credentials_that_expire_in_the_middle_leave_machines_listed_and_second_run_finishes(
    cloud: EcsSimulation, nodes: CloudProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expire(*_: object) -> None:
        cloud.always = EXPIRED
        nodes.cloud.list(tags.GROUP)

    with monkeypatch.context() as patched:
        patched.setattr(boot, "wait", expire)
        with pytest.raises(CloudError, match="InvalidSecurityToken"):
            nodes.up("lab", 1, 1, image=IMAGE)
    cloud.always = None
    before = set(cloud.instances)
    assert [member.name for group in nodes.list() for member in group.members] == ["lab-control-plane-1", "lab-worker-1"]
    assert len(nodes.up("lab", 1, 1, image=IMAGE).members) == 2
    assert set(cloud.instances) == before
    assert nodes.down("lab")


@pytest.mark.parametrize(
    ("variable", "value", "hint"),
    [("ALIBABA_CLOUD_ACCESS_KEY_SECRET", "wrong", "sign in"), ("ALIBABA_CLOUD_ACCESS_KEY_ID", "wrong", "sign in")],
)
def test_wrong_signature_or_key_is_a_clear_error(
    cloud: EcsSimulation, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str, hint: str
) -> None:
    monkeypatch.setenv(variable, value)
    ecs.reload_environment()
    with pytest.raises(CloudRefusalError) as refused:
        AliyunEcs().list(tags.GROUP)
    assert hint in str(refused.value.hint)


def test_no_credentials_or_region_is_a_clear_error(cloud: EcsSimulation, nodes: CloudProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALIBABA_CLOUD_ACCESS_KEY_ID")
    ecs.reload_environment()
    with pytest.raises(CloudRefusalError, match="no credentials for Aliyun"):
        CloudProvider(AliyunEcs(), SPEC, nodes.home).up("lab", 1, 0, image=IMAGE)
    monkeypatch.delenv("ALIBABA_CLOUD_REGION_ID")
    with pytest.raises(UsageError, match="no region is chosen"):
        AliyunEcs()
    assert cloud.calls == []


def test_service_that_does_not_answer_is_a_clear_error(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALIBABA_CLOUD_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CloudError) as silent:
        AliyunEcs().create(order())
    assert silent.value.message.startswith("ECS does not answer: ")
    assert "UserData" not in silent.value.message


# ---- kills ----


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_seeded_moments_leaves_nothing_after_down(
    cloud: EcsSimulation, environment: dict[str, str], nodes: CloudProvider, tmp_path: Path, times: int
) -> None:
    """Moments are counted in what the command does to files of its group, and in what reaches the cloud: load does not change them."""
    tally = tmp_path / "tally"

    def killed(name: str, moment: int) -> bool:
        child = ecs_child.processes.Process(target=ecs_child.up, args=(environment, nodes.home, name, SPEC, moment, tally))
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
            assert len(cloud.instances) == 2, moment
        nodes.down(name)
        assert cloud.instances == {}, moment
        assert list((nodes.home / "nodes").iterdir()) == [], moment
    assert kills > times // 2


# ---- the command ----


def run(environment: dict[str, str], home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    program = """
import sys
from harness.cli import app
from harness.nodes.cloud import boot
boot.wait = lambda *_: None
sys.exit(app.execute(sys.argv[1:]))
"""
    variables = {**os.environ, **environment, "SLIPWAY_HOME": str(home)}
    return subprocess.run([sys.executable, "-c", program, *words], env=variables, capture_output=True, text=True, check=False)


def test_nodes_up_command_prints_machines_and_keeps_no_credentials(
    cloud: EcsSimulation, environment: dict[str, str], tmp_path: Path
) -> None:
    words = ["--size", SIZE, "--image", IMAGE, "--subnet", VSWITCH, "--security-group", GROUP, "--name", "lab"]
    made = run(environment, tmp_path, "nodes", "up", "--provider", "aliyun", *words, "--output", "json")
    assert made.returncode == 0, made.stderr
    answer: dict[str, Any] = json.loads(made.stdout)
    assert (answer["provider"], [member["name"] for member in answer["nodes"]]) == ("aliyun", ["lab-control-plane-1"])
    written = [path.read_text() for path in (tmp_path / "nodes/aliyun.lab").iterdir() if path.is_file()]
    assert not [text for text in (*written, made.stdout, made.stderr) if ecs.SECRET in text]
    assert CloudProvider(AliyunEcs(), None, tmp_path).down("lab")
    refused = run({**environment, "ALIBABA_CLOUD_ACCESS_KEY_ID": "wrong"}, tmp_path, "nodes", "list", "--provider", "aliyun")
    assert refused.returncode == 5
    assert "InvalidAccessKeyId.NotFound" in refused.stderr


def test_count_in_clusterfile_with_ali_cloud_makes_machines(cloud: EcsSimulation, nodes: CloudProvider, tmp_path: Path) -> None:
    from harness.cli import providers
    from harness.clusterfile.parse import parse

    text = f"""apiVersion: sealer.io/v2
kind: Cluster
metadata: {{name: lab}}
spec:
  image: web
  provider: ALI_CLOUD
  cloud: {{size: {SIZE}, image: {IMAGE}, subnet: {VSWITCH}, securityGroups: {GROUP}}}
  hosts: [{{count: 3, roles: [master]}}, {{count: 2, roles: [node]}}]
"""
    found = parse(text, "Clusterfile")
    source = providers.source(found)
    assert found.cluster is not None
    counts = (found.cluster.counted("control-plane") or 0, found.cluster.counted("worker") or 0)
    assert isinstance(source.provider, CloudProvider)
    source.provider.home = tmp_path / "home"
    group = source.provider.grow("lab", *counts, image=source.image())
    assert (group.provider, len(group.members)) == ("aliyun", 5)
    source.provider.down("lab")

"""Groups of a cloud's machines: requests, records, and that what failed leaves nothing. The cloud is a stand-in."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.errors import UsageError
from harness.nodes.cloud import CloudError, CloudMachine, CloudRefusalError, MachineOrder, MachineSpec, boot, record, tags
from harness.nodes.cloud.provider import CloudProvider
from tests.unit.nodes.cloud.simulated import SPEC, SimulatedCloud

IMAGE = SPEC.image


class Boots:
    """Stands for the wait over SSH."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.failure: BaseException | None = None

    def wait(self, names: Mapping[str, str], *_: Any) -> None:
        self.names = list(names.values())
        if self.failure:
            raise self.failure


@pytest.fixture
def boots(monkeypatch: pytest.MonkeyPatch) -> Boots:
    stand_in = Boots()
    monkeypatch.setattr(boot, "wait", stand_in.wait)
    return stand_in


def provider(cloud: SimulatedCloud, home: Path, spec: MachineSpec = SPEC) -> CloudProvider:
    return CloudProvider(cloud, spec, home)


@pytest.mark.usefixtures("boots")
def test_up_six_machines_and_down_take_three_requests(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    group = provider(cloud, tmp_path).up("lab", 3, 3, image=IMAGE)
    assert [member.name for member in group.members] == [
        *(f"lab-control-plane-{number}" for number in (1, 2, 3)),
        *(f"lab-worker-{number}" for number in (1, 2, 3)),
    ]
    assert {member.role for member in group.members} == {"control-plane", "worker"}
    assert group.login.user == "slipway"
    assert group.login.key is not None
    assert stat.S_IMODE(group.login.key.stat().st_mode) == 0o600
    assert provider(cloud, tmp_path).down("lab")
    assert cloud.requests == ["create", "list", "destroy"]
    assert cloud.machines == {}
    assert list((tmp_path / "nodes").iterdir()) == []


@pytest.mark.usefixtures("boots")
def test_record_and_user_data_hold_public_key_only(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    group = provider(cloud, tmp_path).up("lab", 1, 0, image=IMAGE)
    assert group.login.key is not None
    private = group.login.key.read_text()
    user_data = boot.user_data(b"ssh-ed25519 AAAA slipway\n")
    assert "      - ssh-ed25519 AAAA slipway\n" in user_data
    for path in (tmp_path / "nodes/aws.lab").iterdir():
        assert path == group.login.key or private.splitlines()[1] not in path.read_text()


@pytest.mark.usefixtures("boots")
def test_list_in_other_process_reads_names_and_roles_from_tags(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    made = provider(cloud, tmp_path).up("lab", 1, 2, image=IMAGE)
    assert provider(cloud, tmp_path).list() == (made,)


@pytest.mark.usefixtures("boots")
def test_two_homes_with_one_group_name_keep_own_machines(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    mine, other = provider(cloud, tmp_path / "a"), provider(cloud, tmp_path / "b")
    mine.up("lab", 1, 0, image=IMAGE)
    other.up("lab", 1, 1, image=IMAGE)
    assert mine.down("lab")
    assert len(cloud.machines) == 2
    (foreign,) = mine.list()
    assert foreign.name.startswith("lab.")
    assert foreign.login.key is None
    assert not mine.down("lab")
    assert not mine.down("lab.ffffffff0")
    assert mine.down(foreign.name)
    assert cloud.machines == {}


@pytest.mark.usefixtures("boots")
def test_up_existing_group_is_refused_and_stays(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    provider(cloud, tmp_path).up("lab", 1, 0, image=IMAGE)
    with pytest.raises(UsageError, match="exist already"):
        provider(cloud, tmp_path).up("lab", 1, 0, image=IMAGE)
    assert len(cloud.machines) == 1


@pytest.mark.usefixtures("boots")
def test_up_after_machines_vanished_makes_new_ones(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    provider(cloud, tmp_path).up("lab", 1, 0, image=IMAGE)
    cloud.machines.clear()
    assert len(provider(cloud, tmp_path).up("lab", 1, 0, image=IMAGE).members) == 1


@pytest.mark.parametrize(("name", "count"), [("Lab", 1), ("../x", 1), ("*", 1), ("lab", 0)])
def test_up_invalid_name_or_no_machines_is_refused_without_request(tmp_path: Path, name: str, count: int) -> None:
    cloud = SimulatedCloud()
    with pytest.raises(UsageError):
        provider(cloud, tmp_path).up(name, count, 0, image=IMAGE)
    assert cloud.requests == []


@pytest.mark.parametrize("name", ["../x", "*", "*.a", ""])
def test_down_invalid_name_is_refused_without_request(tmp_path: Path, name: str) -> None:
    cloud = SimulatedCloud()
    with pytest.raises(UsageError):
        provider(cloud, tmp_path).down(name)
    assert cloud.requests == []


def test_up_refused_order_leaves_nothing(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    cloud.failures = [CloudRefusalError("quota")]
    with pytest.raises(CloudRefusalError, match="quota"):
        provider(cloud, tmp_path).up("lab", 1, 0, image=IMAGE)
    assert (cloud.machines, list((tmp_path / "nodes").iterdir())) == ({}, [])


def test_up_quota_reached_half_way_removes_machines(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    cloud.most = 2
    with pytest.raises(CloudError, match="made 2 of 3"):
        provider(cloud, tmp_path).up("lab", 3, 0, image=IMAGE)
    assert (cloud.machines, list((tmp_path / "nodes").iterdir())) == ({}, [])


def test_up_lost_answer_removes_machines_by_token(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    cloud.lost = [CloudError("no answer")]
    with pytest.raises(CloudError, match="no answer"):
        provider(cloud, tmp_path).up("lab", 3, 0, image=IMAGE)
    assert len(cloud.orders) == 1
    assert cloud.machines == {}


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), CloudError("it did not boot")])
def test_up_interrupted_or_failed_boot_removes_machines(tmp_path: Path, boots: Boots, failure: BaseException) -> None:
    cloud = SimulatedCloud()
    boots.failure = failure
    with pytest.raises(type(failure)):
        provider(cloud, tmp_path).up("lab", 1, 2, image=IMAGE)
    assert (cloud.machines, list((tmp_path / "nodes").iterdir())) == ({}, [])


def test_up_credentials_expired_while_booting_are_finished_by_second_call(
    tmp_path: Path, boots: Boots, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud = SimulatedCloud()
    expired = CloudRefusalError("EC2 refuses (ExpiredToken)")
    boots.failure = expired
    cloud.failures = [None, expired, expired]
    with pytest.raises(CloudRefusalError):
        provider(cloud, tmp_path).up("lab", 1, 2, image=IMAGE)
    assert "slipway nodes down lab --provider aws" in " ".join(capsys.readouterr().err.split())
    (listed,) = provider(cloud, tmp_path).list()
    assert [member.name for member in listed.members] == ["lab-control-plane-1", "lab-worker-1", "lab-worker-2"]
    boots.failure = None
    booted = tuple(dataclasses.replace(member, booted=True) for member in listed.members)
    assert provider(cloud, tmp_path).up("lab", 1, 2, image=IMAGE).members == booted
    assert len(cloud.machines) == 3
    assert boots.names == [member.name for member in listed.members]


@pytest.mark.usefixtures("boots")
def test_up_killed_before_answer_repeats_order_and_makes_no_second_machines(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    cloud.failures, cloud.lost = [None, CloudError("gone"), CloudError("gone")], [CloudError("killed")]
    with pytest.raises(CloudError):
        nodes.up("lab", 1, 1, image=IMAGE)
    assert len(cloud.machines) == 2
    other = MachineSpec("m7.large", IMAGE)
    with pytest.raises(UsageError, match="ordered other machines"):
        provider(cloud, tmp_path, other).up("lab", 1, 1, image=IMAGE)
    assert len(nodes.up("lab", 1, 1, image=IMAGE).members) == 2
    assert len(cloud.machines) == 2


def test_order_of_long_ago_is_not_repeated(tmp_path: Path, boots: Boots) -> None:
    """Its token may not be known any more: it would make machines again."""
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    order = MachineOrder(SPEC, 1, "token", tags.of("lab", "0" * 16, [("lab-worker-1", "worker")]), "")
    old = dataclasses.replace(record.GroupRecord("0" * 16, "here").ordering(order), ordered=1.0)
    old.write(tmp_path / "nodes/aws.lab")
    cloud.create(order)
    cloud.orders.clear()
    assert len(nodes.up("lab", 0, 1, image=IMAGE).members) == 1
    assert boots.names == ["lab-worker-1"]
    old.write(tmp_path / "nodes/aws.lab")
    nodes.down("lab")
    assert cloud.machines == {}


@pytest.mark.usefixtures("boots")
def test_down_of_machines_that_are_not_listed_yet_removes_them(tmp_path: Path, boots: Boots, monkeypatch: pytest.MonkeyPatch) -> None:
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    boots.failure = KeyboardInterrupt()
    monkeypatch.setattr(cloud, "list", lambda *_: ())
    with pytest.raises(KeyboardInterrupt):
        nodes.up("lab", 1, 1, image=IMAGE)
    assert cloud.machines == {}


@pytest.mark.parametrize("arrived", [True, False])
def test_down_after_order_without_answer_removes_its_machines(tmp_path: Path, arrived: bool) -> None:
    """Also when the cloud carries it out only afterwards."""
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    order = MachineOrder(SPEC, 2, "token", tags.of("lab", "0" * 16, [("lab-worker-1", "worker"), ("lab-worker-2", "worker")]), "")
    record.GroupRecord("0" * 16, "here").ordering(order).write(tmp_path / "nodes/aws.lab")
    if arrived:
        cloud.create(order)
    assert nodes.down("lab")
    assert cloud.machines == {}
    cloud.create(order)
    assert cloud.machines == {}


@pytest.mark.usefixtures("boots")
def test_grow_failure_keeps_booted_machines(tmp_path: Path, boots: Boots) -> None:
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    nodes.up("lab", 1, 1, image=IMAGE)
    boots.failure = CloudError("it did not boot")
    with pytest.raises(CloudError):
        nodes.grow("lab", 1, 3, image=IMAGE)
    assert boots.names == ["lab-worker-2", "lab-worker-3"]
    (group,) = nodes.list()
    assert [member.name for member in group.members] == ["lab-control-plane-1", "lab-worker-1"]
    # As after a kill in the middle of it. What a command finds it leaves, booted or not: the machines may be nodes by now.
    boots.failure = KeyboardInterrupt()
    cloud.failures = [None, None, CloudError("gone"), CloudError("gone")]
    with pytest.raises(KeyboardInterrupt):
        nodes.grow("lab", 1, 2, image=IMAGE)
    boots.failure = CloudError("it did not boot")
    cloud.failures = []
    with pytest.raises(CloudError):
        nodes.grow("lab", 1, 3, image=IMAGE)
    assert boots.names == ["lab-worker-2", "lab-worker-3"]
    (group,) = nodes.list()
    assert [member.name for member in group.members] == ["lab-control-plane-1", "lab-worker-1", "lab-worker-2"]
    assert [member.booted for member in group.members] == [True, True, False]
    boots.failure = None
    assert all(member.booted for member in nodes.grow("lab", 1, 2, image=IMAGE).members)
    assert boots.names == ["lab-worker-2"]


class KilledError(BaseException):
    """Stands for SIGKILL: nothing is cleaned up."""


@pytest.fixture
def killed(tmp_path: Path, boots: Boots, monkeypatch: pytest.MonkeyPatch) -> SimulatedCloud:
    """A cloud with the machines of a command that was killed while they booted: one control-plane node, one worker."""
    cloud = SimulatedCloud()
    boots.failure = KilledError()
    with monkeypatch.context() as patched:
        patched.setattr(CloudProvider, "_take_back", lambda *_: None)
        with pytest.raises(KilledError):
            provider(cloud, tmp_path).up("lab", 1, 1, image=IMAGE)
    boots.failure = None
    return cloud


def test_grow_failure_after_kill_keeps_machines_and_key(
    tmp_path: Path, boots: Boots, killed: SimulatedCloud, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = provider(killed, tmp_path)
    killed.failures = [None, None, CloudRefusalError("quota")]
    with pytest.raises(CloudRefusalError):
        nodes.grow("lab", 1, 2, image=IMAGE)
    boots.failure = CloudError("it did not boot")
    with pytest.raises(CloudError):
        nodes.grow("lab", 1, 2, image=IMAGE)
    assert boots.names == ["lab-control-plane-1", "lab-worker-1", "lab-worker-2"]
    assert len(killed.machines) == 2
    assert (tmp_path / "nodes/aws.lab/id_ed25519").exists()
    assert "the same command again waits for them" in " ".join(capsys.readouterr().err.split())
    (group,) = nodes.list()
    assert [member.booted for member in group.members] == [False, False]
    assert nodes.down("lab")
    assert (killed.machines, list((tmp_path / "nodes").iterdir())) == ({}, [])


def test_up_after_kill_waits_for_machines_and_grow_for_new_ones_only(tmp_path: Path, boots: Boots, killed: SimulatedCloud) -> None:
    nodes = provider(killed, tmp_path)
    assert len(nodes.up("lab", 1, 1, image=IMAGE).members) == 2
    assert boots.names == ["lab-control-plane-1", "lab-worker-1"]
    nodes.grow("lab", 1, 2, image=IMAGE)
    assert boots.names == ["lab-worker-2"]


def test_up_no_capacity_takes_another_size_next(tmp_path: Path, boots: Boots) -> None:
    """Also when the command was killed while the order was repeated."""
    cloud = SimulatedCloud()
    order = MachineOrder(SPEC, 1, "token", tags.of("lab", "0" * 16, [("lab-worker-1", "worker")]), "")
    record.GroupRecord("0" * 16, "here").ordering(order).write(tmp_path / "nodes/aws.lab")
    cloud.failures = [None, CloudRefusalError("no capacity")]
    with pytest.raises(CloudRefusalError):
        provider(cloud, tmp_path).up("lab", 0, 1, image=IMAGE)
    provider(cloud, tmp_path, MachineSpec("m7.large", IMAGE)).up("lab", 0, 1, image=IMAGE)
    assert boots.names == ["lab-worker-1"]


@pytest.mark.usefixtures("boots")
def test_down_removes_listed_machines_when_order_fails_and_raises(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    nodes.up("lab", 1, 1, image=IMAGE)
    cloud.failures = [None, *[CloudError("no answer")] * 2]
    with pytest.raises(CloudError):
        nodes.grow("lab", 1, 2, image=IMAGE)
    assert len(cloud.machines) == 2
    cloud.failures = [CloudError("no answer")]
    with pytest.raises(CloudError, match="no answer"):
        nodes.down("lab")
    assert cloud.machines == {}
    # The order may still be carried out.
    assert nodes.down("lab")
    assert (cloud.machines, list((tmp_path / "nodes").iterdir())) == ({}, [])


@pytest.mark.usefixtures("boots")
def test_grow_number_of_vanished_machine_is_not_used_again(tmp_path: Path, boots: Boots) -> None:
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    nodes.up("lab", 0, 2, image=IMAGE)
    cloud.machines.pop("i-00000002")
    (group,) = nodes.list()
    assert group.numbers == {"worker": 2}
    assert [member.name for member in nodes.grow("lab", 0, 2, image=IMAGE).members] == ["lab-worker-1", "lab-worker-3"]
    # Also when none is left, and an attempt fails.
    cloud.machines.clear()
    boots.failure = CloudError("it did not boot")
    with pytest.raises(CloudError):
        nodes.grow("lab", 0, 1, image=IMAGE)
    boots.failure = None
    assert [member.name for member in nodes.grow("lab", 0, 1, image=IMAGE).members] == ["lab-worker-4"]


@pytest.mark.usefixtures("boots")
def test_grow_and_shrink_change_members_by_number(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    nodes = provider(cloud, tmp_path)
    assert [member.name for member in nodes.grow("lab", 1, 1, image=IMAGE).members] == ["lab-control-plane-1", "lab-worker-1"]
    assert [member.name for member in nodes.grow("lab", 1, 3, image=IMAGE).members][1:] == ["lab-worker-1", "lab-worker-2", "lab-worker-3"]
    nodes.shrink("lab", ["lab-worker-1", "lab-worker-2", "other"])
    assert [member.name for member in nodes.grow("lab", 1, 2, image=IMAGE).members][1:] == ["lab-worker-3", "lab-worker-4"]


@pytest.mark.usefixtures("boots")
def test_down_from_other_region_is_refused(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    provider(cloud, tmp_path).up("lab", 1, 0, image=IMAGE)
    with pytest.raises(UsageError, match="are in here, and the region is there"):
        provider(SimulatedCloud("there"), tmp_path).down("lab")
    assert (tmp_path / "nodes/aws.lab/id_ed25519").exists()


def test_damaged_record_is_reported_and_hides_no_machines(tmp_path: Path) -> None:
    cloud = SimulatedCloud()
    cloud.create(MachineOrder(SPEC, 1, "token", tags.of("lab", "0" * 16, [("lab-worker-1", "worker")]), ""))
    folder = tmp_path / "nodes/aws.lab"
    folder.mkdir(parents=True)
    for text in ("{", "[]", "{}", '{"id": 1, "pending": {"spec": {}}}'):
        (folder / record.FILE).write_text(text)
        with pytest.raises(UsageError, match="cannot be read"):
            provider(cloud, tmp_path).down("lab")
    assert [group.name for group in provider(cloud, tmp_path).list()] == ["lab.00000000"]


def test_record_written_is_read_back(tmp_path: Path) -> None:
    spec = MachineSpec("t3.large", IMAGE, "subnet-1", ("sg-1", "sg-2"), public=True)
    kept = (
        record.GroupRecord.new("here", {"worker": 2})
        .with_booted(["i-1"], {"worker": 3})
        .ordering(MachineOrder(spec, 2, "token", {"a": "b"}, "data"))
    )
    kept.write(tmp_path)
    assert record.GroupRecord.read(tmp_path) == kept
    assert json.loads((tmp_path / record.FILE).read_text())["pending"]["spec"]["size"] == "t3.large"
    with record.locked(tmp_path), pytest.raises(UsageError, match="another command"), record.locked(tmp_path):
        pass


@pytest.mark.parametrize(
    "foreign",
    [
        {},
        {tags.GROUP: "../x", tags.ID: "0" * 16, tags.MEMBERS: "worker:1-1"},
        {tags.GROUP: "lab", tags.ID: "0" * 16, tags.MEMBERS: "worker:1-99999999"},
        {tags.GROUP: "lab", tags.ID: "0" * 16, tags.MEMBERS: "\x1b[31m"},
    ],
)
def test_member_of_invalid_tags_goes_by_machine_id(foreign: dict[str, str]) -> None:
    assert tags.member(CloudMachine("i-1", "10.0.0.1", foreign, 0)).name == "i-1"
    assert tags.member(CloudMachine("i-1", "10.0.0.1", {tags.GROUP: "lab", tags.MEMBERS: "worker:1-1"}, 7)).name == "i-1"


def test_addresses_are_waited_for_and_ended_machine_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    without, given = CloudMachine("i-1", "", {}, 0), CloudMachine("i-1", "10.0.0.1", {}, 0)
    answers = [(), (without,), (given,)]
    assert boot.addresses((without,), lambda: answers.pop(0)) == (given,)
    ended = CloudMachine("i-1", "", {}, 0, alive=False, state="terminated Server.InternalError")
    with pytest.raises(CloudError, match="ended machines") as caught:
        boot.addresses((without,), lambda: (ended,))
    assert "Server.InternalError" in str(caught.value.details)
    monkeypatch.setattr(boot, "BOOT_TIMEOUT", -1)
    with pytest.raises(CloudError, match="no address: i-1"):
        boot.addresses((without,), lambda: (without,))

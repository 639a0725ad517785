"""One at a time works on machines, also before they are a cluster."""

from __future__ import annotations

import copy
import shlex
from typing import Any

import pytest

from harness.errors import CommandError, LeaseLostError, NodeError, UsageError
from harness.lifecycle.cluster import lease
from harness.lifecycle.plan import Journal, Step, execute
from harness.nodes import claim
from harness.process import ProcessResult
from tests.unit.clock import Clock
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_apply import Api, somebody


class ControlPlaneNode(StandIn):
    """Keeps who is at work, as the script on a machine does."""

    def __init__(self, address: str, there: str = "") -> None:
        super().__init__(address)
        self.there = there

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        super().run(command, input=input, check=check, timeout=timeout)
        said = dict(word.split("=", maxsplit=1) for word in shlex.split(command, comments=True) if word.startswith(("who=", "instead=")))
        if "rm -f" in command:
            self.there = "" if self.there == said["who"] else self.there
        elif "touch" in command:
            if self.there not in ("", said["who"]):
                return ProcessResult((), lease._TAKEN, f"{self.there}\n2026-01-01T00:00:00Z\n", "")
            self.there = said["who"]
        elif "flock" in command:
            if self.there not in ("", said["who"], said["instead"]):
                return ProcessResult((), lease._TAKEN, f"{self.there}\n2026-01-01T00:00:00Z\n", "")
            self.there = said["who"]
        return ProcessResult((), 0, "", "")


def test_claimed_notes_holder_on_each_node_and_removes_it() -> None:
    control_plane = [ControlPlaneNode("10.0.0.2"), ControlPlaneNode("10.0.0.1")]
    with lease.claimed(control_plane, "lab"):
        assert [node.there for node in control_plane] == [lease.holder()] * 2
    assert [node.there for node in control_plane] == ["", ""]


def test_claimed_node_of_another_command_is_refused_and_releases_others() -> None:
    control_plane = [ControlPlaneNode("10.0.0.1"), ControlPlaneNode("10.0.0.2", there="ops@elsewhere:7"), ControlPlaneNode("10.0.0.3")]
    with (
        pytest.raises(UsageError, match="ops@elsewhere:7 is changing the cluster lab since 2026-01-01"),
        lease.claimed(control_plane, "lab"),
    ):
        pytest.fail("it was let in")
    assert [node.there for node in control_plane] == ["", "ops@elsewhere:7", ""]
    assert control_plane[2].commands == []


def identity(**changes: str) -> str:
    """That of this process, with other parts."""
    name, _, word = lease.holder().partition(" ")
    parts = dict(zip(("machine", "boot", "namespace", "process", "start"), word.split("."), strict=True)) | changes
    return f"{name} {'.'.join(parts.values())}"


def test_claimed_by_killed_process_of_same_machine_is_taken_over() -> None:
    # The process id was given to another process since: its start says so.
    node = ControlPlaneNode("10.0.0.1", there=identity(start="1"))
    with lease.claimed([node], "lab"):
        assert node.there == lease.holder()


@pytest.mark.parametrize("changes", [{"boot": "0123456789abcdef" * 2}, {"namespace": "7"}])
def test_claimed_by_process_of_other_boot_or_namespace_is_refused(changes: dict[str, str]) -> None:
    node = ControlPlaneNode("10.0.0.1", there=identity(start="1", process="4194304", **changes))
    with pytest.raises(UsageError, match="is changing the cluster lab"), lease.claimed([node], "lab"):
        pytest.fail("it was let in")


def test_has_ended_old_or_own_identity_is_false() -> None:
    assert not lease.has_ended("root@host:4194304")
    assert not lease.has_ended("")
    assert not lease.has_ended(lease.holder())


def test_claimed_refusal_strips_control_characters_of_holder() -> None:
    node = ControlPlaneNode("10.0.0.1", there="ops\x1b[2J@elsewhere:7 word")
    with pytest.raises(UsageError) as caught, lease.claimed([node], "lab"):
        pytest.fail("it was let in")
    assert "\x1b" not in str(caught.value)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(claim, "clock", made)
    monkeypatch.setattr(claim, "sleep", made.sleep)
    return made


def other(api: Api) -> None:
    """Another command has taken over."""
    somebody(api, ago=0)


def test_held_lease_lost_during_step_stops_plan_and_keeps_other_holder(clock: Clock) -> None:
    api = Api()
    done: list[str] = []

    def sleep() -> None:
        clock.now += lease.seconds() + 1
        other(api)

    steps = [Step("one", "one", sleep), Step("two", "two", lambda: done.append("two"), after=("one",))]
    with pytest.raises(LeaseLostError, match="ops@elsewhere:7 has taken over"), lease.held(api, "lab"):
        execute(steps)
    assert done == []
    assert api.lease is not None
    assert api.lease["spec"]["holderIdentity"] == "ops@elsewhere:7"


def test_journal_add_after_lost_lease_is_refused_and_notes_nothing(clock: Clock) -> None:
    api, node = Api(), StandIn("10.0.0.9")
    with lease.held(api, "lab"):
        clock.now += lease.seconds() + 1
        other(api)
        with pytest.raises(LeaseLostError):
            Journal().add(node, "one", "hash")
    assert node.journal == []


def test_claim_check_after_sleep_renews_unchanged_lease(clock: Clock) -> None:
    api = Api()
    with lease.held(api, "lab"):
        before = api.lease
        clock.now += lease.seconds() + 1
        claim.check()
        assert api.lease is not None
        assert api.lease != before
    assert api.lease is not None
    assert "holderIdentity" not in api.lease["spec"]


def test_claim_check_with_silent_api_continues_unsure(clock: Clock) -> None:
    api = Api()
    with lease.held(api, "lab"):
        run = api.run

        def down(command: str, **more: Any) -> ProcessResult:
            if "kubectl" in command:
                return ProcessResult((), 1, "", "The connection to the server was refused")
            return run(command, **more)

        api.run = down  # type: ignore[method-assign]
        clock.now += 10 * lease.seconds()
        claim.check()
        held = claim.current()
        assert held is not None
        # It relies on what machines have heard: it does not put its own mark over another one's.
        assert not held.sure
        assert "exit 76" in held.prefix("10.0.0.3")
        api.run = run  # type: ignore[method-assign]


def test_claim_check_after_brief_api_failure_is_sure_again(clock: Clock) -> None:
    api = Api()
    with lease.held(api, "lab"):
        run = api.run
        refused: list[str] = []

        def late(command: str, **more: Any) -> ProcessResult:
            if "kubectl" in command and not refused:
                refused.append(command)
                return ProcessResult((), 1, "", "The connection to the server was refused")
            return run(command, **more)

        api.run = late  # type: ignore[method-assign]
        clock.now += lease.seconds()
        claim.check()
        held = claim.current()
        assert held is not None
        assert (held.sure, len(refused)) == (True, 1)


def test_claim_check_missing_lease_is_created_again(clock: Clock) -> None:
    api = Api()
    with lease.held(api, "lab"):
        api.lease = None
        clock.now += lease.seconds()
        claim.check()
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == lease.holder()


def test_claim_check_lease_released_by_another_command_raises_lease_lost(clock: Clock) -> None:
    api = Api()
    with lease.held(api, "lab"):
        clock.now += lease.seconds() + 1
        other(api)
        assert api.lease is not None
        api._keep({**api.lease, "spec": {"leaseTransitions": api.lease["spec"]["leaseTransitions"]}})
        with pytest.raises(LeaseLostError, match="another command has taken over"):
            claim.check()
        version = api.lease["metadata"]["resourceVersion"]
    assert api.lease["metadata"]["resourceVersion"] == version


def test_claim_check_older_lease_after_restore_is_taken_again(clock: Clock) -> None:
    api = Api()
    somebody(api, ago=5000)
    old = copy.deepcopy(api.lease)
    with lease.held(api, "lab"):
        assert old is not None
        api._keep(old)
        clock.now += lease.seconds()
        claim.check()
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == lease.holder()


def test_claim_check_node_note_of_another_command_raises_lease_lost(clock: Clock) -> None:
    control_plane = [ControlPlaneNode("10.0.0.1"), ControlPlaneNode("10.0.0.2")]
    with lease.claimed(control_plane, "lab"):
        control_plane[1].there = "ops@elsewhere:7 word"
        clock.now += lease.seconds()
        with pytest.raises(LeaseLostError, match="ops@elsewhere:7 has taken over"):
            claim.check()
    assert [node.there for node in control_plane] == ["", "ops@elsewhere:7 word"]


def test_claimed_nested_call_keeps_claim_of_outer_call() -> None:
    node = ControlPlaneNode("10.0.0.1")
    with lease.claimed([node], "lab"):
        with lease.claimed([node], "lab"):
            pass
        assert node.there == lease.holder()
    assert node.there == ""


def test_claim_check_restarted_node_notes_holder_again(clock: Clock) -> None:
    node = ControlPlaneNode("10.0.0.1")
    with lease.claimed([node], "lab"):
        node.there = ""
        clock.now += lease.seconds()
        claim.check()
        assert node.there == lease.holder()


def test_claim_prefix_records_claim_first_and_requires_it_later() -> None:
    with lease.claimed([ControlPlaneNode("10.0.0.1")], "lab"):
        held = claim.current()
        assert held is not None
        first = held.prefix("10.0.0.2")
        assert held.id in first
        assert "exit" not in first
        held.entered("10.0.0.2")
        assert f"exit {claim.REFUSED}" in held.prefix("10.0.0.2")
    assert claim.current() is None
    claim.check()


def test_claim_token_increases_with_each_lease_holder(clock: Clock) -> None:
    api = Api()
    tokens = []
    for _ in range(2):
        with lease.held(api, "lab"):
            held = claim.current()
            assert held is not None
            assert held.token is not None
            tokens.append(held.token)
            # A machine that heard of an earlier claim, which has ended, takes this one also while the API is away.
            clock.now += lease.seconds()
            assert f"-lt {held.token}" in held.prefix("10.0.0.9")
            # Of two clusters the numbers say nothing of each other.
            with lease.held(Api(), "other"):
                assert "-lt" not in held.prefix("10.0.0.9")
            assert held.token == tokens[-1]
    assert tokens[1] == tokens[0] + 1


@pytest.mark.parametrize(("text", "expected"), [("", 60), ("8", 8), ("0", 60), ("x", 60), ("-5", 60), ("99999", 60)])
def test_lease_seconds_reads_variable_and_ignores_invalid_values(text: str, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_LEASE_SECONDS", text)
    assert lease.seconds() == expected


def test_claimed_node_that_cannot_store_holder_is_reported() -> None:
    class Broken(StandIn):
        def run(self, command: str, **_: Any) -> ProcessResult:
            return ProcessResult((), 1, "", "Read-only file system")

    with pytest.raises(CommandError, match="it could not be noted who is at work"), lease.claimed([Broken()], "lab"):
        pytest.fail("it was let in")


def test_claimed_node_lost_at_release_keeps_original_error() -> None:
    class Lost(ControlPlaneNode):
        def run(self, command: str, **more: Any) -> ProcessResult:
            if "rm -f" in command:
                raise NodeError("10.0.0.1: the connection was lost")
            return super().run(command, **more)

    with pytest.raises(ValueError, match="what happened"), lease.claimed([Lost("10.0.0.1")], "lab"):
        raise ValueError("what happened")

"""The claim on a cluster: how long it holds, and the shell text by which machines refuse an older one."""

from __future__ import annotations

import dataclasses

import pytest

from harness.errors import LeaseLostError
from harness.nodes import claim
from harness.nodes.claim import ClusterClaim


@dataclasses.dataclass
class Lease:
    """A guard: ``answers`` are what it learns, one at each question."""

    answers: list[str] = dataclasses.field(default_factory=list)
    lost: str = ""
    sure: bool = False
    asked: int = 0

    def verify(self) -> None:
        self.asked += 1
        answer = self.answers.pop(0)
        self.sure, self.lost = answer == "held", "" if answer in ("held", "silent") else answer


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(claim, "sleep", taken.append)
    return taken


def test_holding_nested_blocks_share_one_claim() -> None:
    assert claim.current() is None
    with claim.holding() as outer:
        with claim.holding() as inner:
            assert inner is outer
        assert claim.current() is outer
    assert claim.current() is None
    with claim.holding() as later:
        assert later.id != outer.id


def test_check_without_a_claim_passes() -> None:
    claim.check()


def test_check_asks_only_when_the_claim_is_not_sure(pauses: list[float]) -> None:
    with claim.holding() as held:
        lease = Lease(["held"])
        held.add(lease)
        claim.check(ask=False)
        assert lease.asked == 0
        claim.check()
        claim.check()
        assert lease.asked == 1
        held.drop(lease)
        assert held.sure
    assert pauses == []


def test_check_asks_twice_when_the_first_answer_is_missing(pauses: list[float]) -> None:
    with claim.holding() as held:
        lease = Lease(["silent", "held"])
        held.add(lease)
        claim.check()
        assert (lease.asked, pauses) == (2, [claim.PAUSE])


def test_check_another_holder_raises_with_its_name() -> None:
    with claim.holding() as held:
        held.add(Lease(["bob@other"]))
        with pytest.raises(LeaseLostError, match="bob@other has taken over the cluster"):
            claim.check()
    with claim.holding() as held:
        held.lose("another command")
        held.lose("a third one")
        with pytest.raises(LeaseLostError, match="another command has taken over"):
            claim.check(ask=False)


def test_prefix_first_command_on_a_machine_records_the_claim() -> None:
    held = ClusterClaim()
    text = held.prefix("10.0.0.1")
    assert f"printf '%s\\n' '{held.id}' > {claim.FENCE}.$$" in text
    assert claim.MARK not in text
    held.token = 7
    assert f"'{held.id} 7'" in held.prefix("10.0.0.1")


def test_prefix_later_command_is_refused_under_another_claim() -> None:
    held = ClusterClaim()
    held.token = 7
    held.entered("10.0.0.1")
    text = held.prefix("10.0.0.1")
    assert f"*) {{ echo '{claim.MARK}' >&2; exit {claim.REFUSED}; }} ;;" in text
    assert "-lt" not in text
    assert claim.MARK not in held.prefix("10.0.0.2")


def test_prefix_while_not_sure_replaces_a_lower_token_only() -> None:
    held = ClusterClaim()
    held.add(Lease())
    assert "-lt" not in held.prefix("10.0.0.1")
    assert f"exit {claim.REFUSED}" in held.prefix("10.0.0.1")
    held.token = 7
    assert '[ "${n:-x}" -lt 7 ]' in held.prefix("10.0.0.1")
    assert f"exit {claim.REFUSED}" in held.prefix("10.0.0.1")

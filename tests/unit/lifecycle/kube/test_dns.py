"""Questions to the cluster's DNS, and its answers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest

from harness.lifecycle.kube import dns
from harness.process import ProcessResult

# A name server's answer to a question for kubernetes.default.svc.cluster.local: one A record, its name a pointer to the question.
NAME = "kubernetes.default.svc.cluster.local"


def answered(*, code: int = 0, addresses: Sequence[str] = ("10.96.0.1",)) -> bytes:
    question = dns.query(NAME)[2:]
    header = question[:2] + bytes([0x85, 0x80 | code, 0, 1, 0, len(addresses), 0, 0, 0, 0])
    records = b"".join(bytes.fromhex("c00c00010001000000050004") + bytes(int(part) for part in address.split(".")) for address in addresses)
    message = header + question[12:] + records
    return len(message).to_bytes(2, "big") + message


def test_addresses_of_dns_answer_are_returned_in_order() -> None:
    assert dns.addresses(answered(addresses=("10.96.0.1", "10.96.0.9"))) == ("10.96.0.1", "10.96.0.9")


def test_query_is_encoded_as_in_rfc_1035() -> None:
    header, question = "517001000001000000000000", "0161026263" + "00" + "00010001"
    assert dns.query("a.bc").hex() == dns.query("a.bc.").hex() == f"{len(header + question) // 2:04x}" + header + question


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "no answer"),
        (answered()[:-3], "no whole answer"),
        (answered(code=3, addresses=()), "no such name"),
        (answered(code=2), "failed"),
        (answered(code=9), "error 9"),
        (answered().replace(b"\x51\x70", b"\x51\x71"), "another question"),
        (answered().replace(b"\xc0\x0c", b"\xc0\xff"), "not valid"),
    ],
)
def test_addresses_of_invalid_answer_raise_value_error_with_reason(answer: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        dns.addresses(answer)


class Shell:
    """A node that gives one answer to every command."""

    name = address = "one"

    def __init__(self, out: str = "", code: int = 0) -> None:
        self.result = ProcessResult((), code, out, "")

    def run(self, command: str, **_: Any) -> ProcessResult:
        return self.result

    def put_tar(self, *_: Any) -> None: ...
    def put(self, *_: Any) -> None: ...
    def get(self, path: str) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("shell", "says"),
    [
        (Shell(base64.b64encode(answered()).decode()), None),
        (Shell(base64.b64encode(answered(addresses=("10.9.9.9",))).decode()), "is 10.9.9.9"),
        (Shell(base64.b64encode(answered(code=3, addresses=())).decode()), "no such name"),
        (Shell("", 124), "no answer came"),
        (Shell("", 127), None),
    ],
)
def test_problem_reports_wrong_failed_or_missing_dns_answer(shell: Shell, says: str | None) -> None:
    problem = dns.problem(shell, "10.96.0.10", NAME, expected="10.96.0.1")
    assert problem is None if says is None else says in str(problem)

"""Questions to the cluster's DNS, asked from a node over TCP: bash sends them, so a node needs no resolver of its own."""

from __future__ import annotations

import base64
import shlex
import time

from harness.nodes import Node

ASK = """exec 3<>/dev/tcp/%s/53 && base64 -d >&3 && dd bs=4096 count=1 <&3 2>/dev/null | base64"""
"""For bash: ``ASK % server`` reads a question, framed and in base64, and writes the answer in the same way."""

_ID = 0x5170
_NO_PROGRAM = 127


def problem(node: Node, server: str, name: str, *, expected: str | None = None, seconds: float = 0) -> str | None:
    """Why ``server`` does not answer a question for ``name`` asked from ``node``; None when it does (with ``expected``, if given).

    Asks again for ``seconds``. The node needs bash; without it nothing can be asked, and None is returned.
    """
    deadline = time.monotonic() + seconds
    question = base64.b64encode(query(name)).decode()
    while True:
        answer = node.run(f"timeout 5 bash -c {shlex.quote(ASK % server)}", input=question, check=False, timeout=20)
        if answer.returncode == _NO_PROGRAM:
            return None
        reason = problem_of(answer.stdout, server, name, expected)
        if reason is None or time.monotonic() >= deadline:
            return reason
        time.sleep(0.3)


def problem_of(text: str, server: str, name: str, expected: str | None) -> str | None:
    """The fault of an answer, in base64, to a question for ``name``; None when it is right."""
    try:
        resolved = addresses(base64.b64decode(text))
    except ValueError as wrong:
        return f"{server} for {name}: {wrong}"
    if not resolved or (expected is not None and expected not in resolved):
        return f"{server} says that {name} is {', '.join(resolved) or 'nowhere'}"
    return None


def query(name: str) -> bytes:
    """A DNS question for the IPv4 address of ``name``, framed for TCP."""
    import dns.message

    return dns.message.make_query(name, "A", id=_ID).to_wire(prepend_length=True)


def addresses(answer: bytes) -> tuple[str, ...]:
    """The IPv4 addresses in an answer to ``query``, framed in the same way.

    Raises ValueError with the reason when the answer is cut, is an error, or belongs to another question.
    """
    import dns.exception
    import dns.message
    import dns.rcode
    import dns.rdatatype

    size = int.from_bytes(answer[:2], "big")
    if len(answer) < 2 + size or not size:
        raise ValueError("no whole answer came" if answer else "no answer came")
    try:
        message = dns.message.from_wire(answer[2 : 2 + size])
    except dns.exception.DNSException as broken:
        raise ValueError(f"the answer is not valid: {broken}") from broken
    if message.id != _ID:
        raise ValueError("the answer belongs to another question")
    code = message.rcode()
    if code:
        reasons = {dns.rcode.SERVFAIL: "the server failed", dns.rcode.NXDOMAIN: "no such name", dns.rcode.REFUSED: "refused"}
        raise ValueError(reasons.get(code, f"error {code}"))
    return tuple(str(record) for records in message.answer if records.rdtype == dns.rdatatype.A for record in records)

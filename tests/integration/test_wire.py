"""The wire that other tests look at: what it shows of clients that were killed."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tests.integration.registry import registry
from tests.integration.wire import Wire, wire

REQUEST = b"GET /v2/team/web/blobs/sha256:" + b"0" * 64 + b" HTTP/1.1\r\nHost: registry\r\n\r\n"


def test_wire_requests_of_ended_client_are_not_counted_after_clear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note = Wire._note

    def late(self: Wire, head: bytes, data: bytes) -> bytes:
        time.sleep(0.3)  # as on a machine on which others have the processor
        return note(self, head, data)

    monkeypatch.setattr(Wire, "_note", late)
    with registry(tmp_path) as running, wire(running.host) as line:
        host, port = line.host.split(":")
        for _ in range(2):
            with socket.create_connection((host, int(port))) as client:
                client.sendall(REQUEST)
            line.drain()
            assert len(line.fetched()) == 1
            line.clear()
            assert line.fetched() == []
            with socket.create_connection((host, int(port))) as client:
                client.sendall(REQUEST)
            line.clear()
            assert line.fetched() == []
            line.drain()
            assert line.fetched() == []

"""One blob on its way into a registry: looked for, mounted, sent, gone on with, begun anew."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import pytest
import urllib3

from harness.oci.model import OCI_LAYER_GZIP, Descriptor, digest_of
from harness.oci.reference import Reference
from harness.oci.registry import upload
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError, RetryPolicy
from harness.oci.registry.upload import Sent
from tests.unit.oci.standin import HOST, Asked, Registry, answer, waited

TARGET = Reference.parse(f"{HOST}/team/web:1")
DATA = random.Random("upload").randbytes(10_000)
BLOB = Descriptor(OCI_LAYER_GZIP, digest_of(DATA), len(DATA))
HERE = ("team/web", BLOB.digest)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blob is one of the large, which can be gone on with."""
    monkeypatch.setattr(upload, "SMALL", 1000)


class Shown:
    """What a meter would show."""

    def __init__(self) -> None:
        self.now = 0
        self.least = 0
        self.most = 0

    def __call__(self, count: int) -> None:
        self.now += count
        self.least = min(self.least, self.now)
        self.most = max(self.most, self.now)


def put(remote: Client, mounts: Sequence[str] = ()) -> Sent:
    """Sends the blob, and looks that what was shown of it comes to its size: no more, no less, never below nothing."""
    shown = Shown()
    sent = remote.put_blob(TARGET, BLOB, lambda: io.BytesIO(DATA), mounts=mounts, progress=shown)
    assert shown.now == (BLOB.size if sent.how == "uploaded" else 0)
    assert shown.least == 0
    assert shown.most <= BLOB.size
    return sent


def test_what_is_there_is_not_sent(registry: Registry, remote: Client) -> None:
    registry.blobs[HERE] = DATA
    assert put(remote) == Sent("present")
    assert registry.lines == [f"HEAD /v2/team/web/blobs/{BLOB.digest}"]


def test_one_of_another_length_is_not_the_blob(registry: Registry, remote: Client) -> None:
    registry.blobs[HERE] = DATA[:-1]
    assert put(remote).how == "uploaded"
    assert registry.blobs[HERE] == DATA


def test_a_small_blob_takes_three_questions(registry: Registry, remote: Client) -> None:
    assert put(remote) == Sent("uploaded", BLOB.size)
    assert [asked.method for asked in registry.asked] == ["HEAD", "POST", "PUT"]
    assert registry.blobs[HERE] == DATA


@pytest.mark.usefixtures("large")
def test_a_large_one_takes_four(registry: Registry, remote: Client) -> None:
    assert put(remote) == Sent("uploaded", BLOB.size)
    assert [asked.method for asked in registry.asked] == ["HEAD", "POST", "PATCH", "PUT"]
    assert registry.asked[2].headers["Content-Range"] == f"0-{BLOB.size - 1}"
    assert registry.blobs[HERE] == DATA


@pytest.mark.parametrize("size", [1000, 100_000])
def test_place_may_be_given_without_its_host(registry: Registry, remote: Client, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "SMALL", size)
    registry.relative = True
    put(remote)
    assert registry.blobs[HERE] == DATA


def test_an_upload_without_a_place_is_an_error(registry: Registry, remote: Client) -> None:
    registry.spoil("POST", "uploads", lambda _: answer(202))
    with pytest.raises(RemoteError, match="begins an upload without saying where"):
        put(remote)


def test_a_mount_sends_nothing(registry: Registry, remote: Client) -> None:
    registry.blobs["team/base", BLOB.digest] = DATA
    assert put(remote, ["team/base"]) == Sent("mounted")
    assert registry.blobs[HERE] == DATA
    assert not registry.uploads


def test_a_mount_that_is_refused_has_begun_an_upload_which_is_used(registry: Registry, remote: Client) -> None:
    assert put(remote, ["team/other"]).how == "uploaded"
    assert registry.count("POST") == 1
    assert not registry.uploads
    assert registry.blobs[HERE] == DATA


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_repository_that_may_not_be_read_does_not_stop_a_push(registry: Registry, remote: Client, status: int) -> None:
    registry.spoil("POST", "mount=", lambda _: answer(status))
    assert put(remote, ["secret/base"]).how == "uploaded"
    assert [asked.path for asked in registry.asked if asked.method == "POST"][-1] == "/v2/team/web/blobs/uploads/"


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("after", [2, 5_000, 9_999])
def test_a_large_blob_goes_on_where_the_registry_has_got_to(registry: Registry, remote: Client, after: int) -> None:
    registry.spoil("PATCH", "uploads", registry.breaks(after))
    sent = put(remote)
    assert registry.blobs[HERE] == DATA
    again = registry.asked[-2]
    assert (again.method, again.headers["Content-Range"], len(again.body)) == ("PATCH", f"{after}-{BLOB.size - 1}", BLOB.size - after)
    assert sent.bytes == BLOB.size
    assert registry.count("POST") == 1


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("after", [0, 1])
def test_a_range_that_says_both_one_byte_and_none_is_not_gone_on_with(registry: Registry, remote: Client, after: int) -> None:
    registry.spoil("PATCH", "uploads", registry.breaks(after))
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 2


@pytest.mark.usefixtures("large")
def test_a_line_that_breaks_often_but_gets_on_is_borne_with(registry: Registry, remote: Client) -> None:
    registry.spoil("PATCH", "uploads", *[registry.breaks(700)] * 12)
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 1


@pytest.mark.usefixtures("large")
def test_a_line_that_does_not_get_on_ends_it(registry: Registry, remote: Client) -> None:
    registry.spoil("PATCH", "uploads", *[registry.breaks(0)] * 100)
    with pytest.raises(RemoteError, match="the connection broke: reset by peer"):
        put(remote)
    assert registry.count("PATCH") <= 16


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_an_upload_that_the_registry_forgot_is_begun_anew(registry: Registry, remote: Client, method: str) -> None:
    registry.spoil(method, "uploads/", registry.forgets)
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 2


@pytest.mark.usefixtures("large")
def test_an_upload_that_broke_and_was_forgotten_is_begun_anew(registry: Registry, remote: Client) -> None:
    registry.spoil("PATCH", "uploads/", registry.breaks(5_000))
    registry.spoil("GET", "uploads/", registry.forgets)
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 2


def test_a_registry_that_forgets_every_upload_ends_it(registry: Registry, remote: Client) -> None:
    registry.spoil("PUT", "uploads/", *[registry.forgets] * 100)
    with pytest.raises(RemoteError, match="404 BLOB_UPLOAD_UNKNOWN never heard of it"):
        put(remote)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_a_lost_answer_sends_nothing_again(registry: Registry, remote: Client, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "SMALL", size)
    registry.spoil("PUT", "uploads/", registry.answer_lost)
    assert put(remote) == Sent("uploaded", BLOB.size)
    assert registry.count("POST") == 1


def test_bytes_that_the_registry_finds_wrong_are_not_sent_again(registry: Registry, remote: Client) -> None:
    with pytest.raises(RemoteError, match="400 DIGEST_INVALID other bytes"):
        remote.put_blob(TARGET, BLOB, lambda: io.BytesIO(bytes(BLOB.size)))
    assert registry.count("PUT") == 1


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_client_waits_as_long_as_retry_after_says(registry: Registry, remote: Client, method: str) -> None:
    registry.spoil(method, "blobs", lambda _: answer(429, retry_after="7"))
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert max(waited(remote)) == 7


def test_wait_longer_than_the_time_left_ends_at_once(registry: Registry, remote: Client) -> None:
    registry.spoil("POST", "blobs", lambda _: answer(503, retry_after="3600"))
    with pytest.raises(RemoteError, match="come back in 3600 s"):
        put(remote)
    assert registry.count("POST") == 1
    assert list(waited(remote)) == []


def test_waits_grow_and_are_spread_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = RetryPolicy(backoff=0.5, jitter=0.25)
    for chance, factor in ((0.0, 1.0), (1.0, 1.25)):
        monkeypatch.setattr(random, "random", lambda chance=chance: chance)
        assert [patience.pause(attempt, 0) / factor for attempt in range(4)] == [0.5, 1.0, 2.0, 4.0]
        assert patience.pause(0, 30) == 30 * factor
        assert patience.pause(9, 30) == 256 * factor


def test_sender_that_is_stopped_sends_no_more(registry: Registry, remote: Client) -> None:
    taken: list[int] = []

    def stop(asked: Asked) -> urllib3.BaseHTTPResponse:
        taken.append(len(asked.take(4000)))
        remote.close()
        taken.append(len(asked.take(4000)))
        raise AssertionError("more was to be had")

    registry.spoil("PUT", "uploads/", stop)
    with pytest.raises(RemoteError, match="cancelled"):
        remote.put_blob(TARGET, BLOB, lambda: io.BytesIO(DATA))
    assert taken == [4000]


def test_a_blob_is_closed_when_the_push_is_cancelled_before_it_is_sent(remote: Client) -> None:
    opened: list[io.BytesIO] = []

    def source() -> io.BytesIO:
        opened.append(io.BytesIO(DATA))
        remote.session.closed.set()
        return opened[-1]

    with pytest.raises(RemoteError, match="cancelled"):
        remote.put_blob(TARGET, BLOB, source, mounts=(), progress=Shown())
    assert opened
    assert all(file.closed for file in opened)

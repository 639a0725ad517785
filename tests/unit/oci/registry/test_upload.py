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


def test_put_blob_already_present_is_not_sent(registry: Registry, remote: Client) -> None:
    registry.blobs[HERE] = DATA
    assert put(remote) == Sent("present")
    assert registry.lines == [f"HEAD /v2/team/web/blobs/{BLOB.digest}"]


def test_put_blob_present_with_other_length_is_uploaded(registry: Registry, remote: Client) -> None:
    registry.blobs[HERE] = DATA[:-1]
    assert put(remote).how == "uploaded"
    assert registry.blobs[HERE] == DATA


def test_put_blob_small_blob_takes_three_requests(registry: Registry, remote: Client) -> None:
    assert put(remote) == Sent("uploaded", BLOB.size)
    assert [asked.method for asked in registry.asked] == ["HEAD", "POST", "PUT"]
    assert registry.blobs[HERE] == DATA


@pytest.mark.usefixtures("large")
def test_put_blob_large_blob_takes_four_requests(registry: Registry, remote: Client) -> None:
    assert put(remote) == Sent("uploaded", BLOB.size)
    assert [asked.method for asked in registry.asked] == ["HEAD", "POST", "PATCH", "PUT"]
    assert registry.asked[2].headers["Content-Range"] == f"0-{BLOB.size - 1}"
    assert registry.blobs[HERE] == DATA


@pytest.mark.parametrize("size", [1000, 100_000])
def test_put_blob_relative_upload_location_is_followed(
    registry: Registry, remote: Client, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SMALL", size)
    registry.relative = True
    put(remote)
    assert registry.blobs[HERE] == DATA


def test_put_blob_upload_without_location_raises_remote_error(registry: Registry, remote: Client) -> None:
    registry.spoil("POST", "uploads", lambda _: answer(202))
    with pytest.raises(RemoteError, match="begins an upload without saying where"):
        put(remote)


def test_put_blob_mountable_blob_is_mounted_without_upload(registry: Registry, remote: Client) -> None:
    registry.blobs["team/base", BLOB.digest] = DATA
    assert put(remote, ["team/base"]) == Sent("mounted")
    assert registry.blobs[HERE] == DATA
    assert not registry.uploads


def test_put_blob_refused_mount_continues_begun_upload(registry: Registry, remote: Client) -> None:
    assert put(remote, ["team/other"]).how == "uploaded"
    assert registry.count("POST") == 1
    assert not registry.uploads
    assert registry.blobs[HERE] == DATA


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_put_blob_unreadable_mount_source_falls_back_to_upload(registry: Registry, remote: Client, status: int) -> None:
    registry.spoil("POST", "mount=", lambda _: answer(status))
    assert put(remote, ["secret/base"]).how == "uploaded"
    assert [asked.path for asked in registry.asked if asked.method == "POST"][-1] == "/v2/team/web/blobs/uploads/"


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("after", [2, 5_000, 9_999])
def test_put_blob_broken_upload_resumes_at_offset_of_registry(registry: Registry, remote: Client, after: int) -> None:
    registry.spoil("PATCH", "uploads", registry.breaks(after))
    sent = put(remote)
    assert registry.blobs[HERE] == DATA
    again = registry.asked[-2]
    assert (again.method, again.headers["Content-Range"], len(again.body)) == ("PATCH", f"{after}-{BLOB.size - 1}", BLOB.size - after)
    assert sent.bytes == BLOB.size
    assert registry.count("POST") == 1


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("after", [0, 1])
def test_put_blob_ambiguous_range_restarts_upload(registry: Registry, remote: Client, after: int) -> None:
    registry.spoil("PATCH", "uploads", registry.breaks(after))
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 2


@pytest.mark.usefixtures("large")
def test_put_blob_frequent_breaks_with_progress_complete_one_upload(registry: Registry, remote: Client) -> None:
    registry.spoil("PATCH", "uploads", *[registry.breaks(700)] * 12)
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 1


@pytest.mark.usefixtures("large")
def test_put_blob_breaks_without_progress_raise_remote_error(registry: Registry, remote: Client) -> None:
    registry.spoil("PATCH", "uploads", *[registry.breaks(0)] * 100)
    with pytest.raises(RemoteError, match="the connection broke: reset by peer"):
        put(remote)
    assert registry.count("PATCH") <= 16


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
def test_put_blob_upload_forgotten_by_registry_is_restarted(registry: Registry, remote: Client, method: str) -> None:
    registry.spoil(method, "uploads/", registry.forgets)
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 2


@pytest.mark.usefixtures("large")
def test_put_blob_broken_and_forgotten_upload_is_restarted(registry: Registry, remote: Client) -> None:
    registry.spoil("PATCH", "uploads/", registry.breaks(5_000))
    registry.spoil("GET", "uploads/", registry.forgets)
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert registry.count("POST") == 2


def test_put_blob_every_upload_forgotten_raises_remote_error(registry: Registry, remote: Client) -> None:
    registry.spoil("PUT", "uploads/", *[registry.forgets] * 100)
    with pytest.raises(RemoteError, match="404 BLOB_UPLOAD_UNKNOWN never heard of it"):
        put(remote)


@pytest.mark.parametrize("size", [1000, 100_000])
def test_put_blob_lost_final_response_sends_blob_once(
    registry: Registry, remote: Client, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload, "SMALL", size)
    registry.spoil("PUT", "uploads/", registry.answer_lost)
    assert put(remote) == Sent("uploaded", BLOB.size)
    assert registry.count("POST") == 1


def test_put_blob_digest_rejected_by_registry_is_not_retried(registry: Registry, remote: Client) -> None:
    with pytest.raises(RemoteError, match="400 DIGEST_INVALID other bytes"):
        remote.put_blob(TARGET, BLOB, lambda: io.BytesIO(bytes(BLOB.size)))
    assert registry.count("PUT") == 1


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT"])
def test_put_blob_waits_as_long_as_retry_after(registry: Registry, remote: Client, method: str) -> None:
    registry.spoil(method, "blobs", lambda _: answer(429, retry_after="7"))
    put(remote)
    assert registry.blobs[HERE] == DATA
    assert max(waited(remote)) == 7


def test_put_blob_retry_after_beyond_time_left_raises_at_once(registry: Registry, remote: Client) -> None:
    registry.spoil("POST", "blobs", lambda _: answer(503, retry_after="3600"))
    with pytest.raises(RemoteError, match="come back in 3600 s"):
        put(remote)
    assert registry.count("POST") == 1
    assert list(waited(remote)) == []


def test_retry_policy_pause_grows_exponentially_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    patience = RetryPolicy(backoff=0.5, jitter=0.25)
    for chance, factor in ((0.0, 1.0), (1.0, 1.25)):
        monkeypatch.setattr(random, "random", lambda chance=chance: chance)
        assert [patience.pause(attempt, 0) / factor for attempt in range(4)] == [0.5, 1.0, 2.0, 4.0]
        assert patience.pause(0, 30) == 30 * factor
        assert patience.pause(9, 30) == 256 * factor


def test_put_blob_closed_client_stops_sending(registry: Registry, remote: Client) -> None:
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


def test_put_blob_cancelled_before_sending_closes_source(remote: Client) -> None:
    opened: list[io.BytesIO] = []

    def source() -> io.BytesIO:
        opened.append(io.BytesIO(DATA))
        remote.session.closed.set()
        return opened[-1]

    with pytest.raises(RemoteError, match="cancelled"):
        remote.put_blob(TARGET, BLOB, source, mounts=(), progress=Shown())
    assert opened
    assert all(file.closed for file in opened)

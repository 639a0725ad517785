"""Streams under a password: what was sealed comes back, here and in age, and nothing that was touched does."""

from __future__ import annotations

import io
import os

import pyrage
import pytest

from harness.errors import UsageError
from harness.lifecycle.cluster import backup_crypto
from harness.lifecycle.cluster.backup_crypto import Opening, Sealing, is_sealed


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    # The real cost is half a second for every attempt; small pieces try the borders between them.
    monkeypatch.setattr(backup_crypto, "_COST", 4)
    monkeypatch.setattr(backup_crypto, "PIECE", 100)


def seal(data: bytes, password: str = "word", step: int = 7) -> bytes:
    target = io.BytesIO()
    sealing = Sealing(target, password)
    for start in range(0, len(data), step):
        sealing.write(data[start : start + step])
    sealing.close()
    return target.getvalue()


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 1000])
@pytest.mark.parametrize("step", [1, 100, 5000])
def test_opening_returns_sealed_data_for_any_size_and_step(size: int, step: int) -> None:
    data = os.urandom(size)
    found = seal(data, step=step)
    assert is_sealed(found)
    assert Opening(io.BytesIO(found), "word").read() == data
    opening = Opening(io.BytesIO(found), "word")
    assert b"".join(iter(lambda: opening.read(33), b"")) == data


def test_sealing_same_data_twice_gives_different_output() -> None:
    assert seal(b"x" * 500) != seal(b"x" * 500)
    assert b"xxxxxxxx" not in seal(b"x" * 500)


def test_opening_wrong_password_is_refused() -> None:
    with pytest.raises(UsageError, match="password is wrong"):
        Opening(io.BytesIO(seal(b"data")), "other").read()


def test_opening_any_changed_byte_is_refused() -> None:
    found = seal(os.urandom(250))
    for place in range(len(found)):
        changed = bytearray(found)
        changed[place] ^= 1
        with pytest.raises(UsageError):
            Opening(io.BytesIO(bytes(changed)), "word").read()


def test_opening_any_truncated_file_is_refused() -> None:
    found = seal(os.urandom(250))
    for length in range(len(found)):
        with pytest.raises(UsageError):
            Opening(io.BytesIO(found[:length]), "word").read()


def test_opening_reordered_missing_or_repeated_pieces_is_refused() -> None:
    found = seal(bytes(400))
    head, piece = found.index(b"\n---") + len("\n--- ") + 43 + len("\n") + 16, 116
    first, second, third = (found[head + piece * number : head + piece * (number + 1)] for number in range(3))
    rest = found[head + piece * 3 :]
    for order in ((second, first, third, rest), (first, third, rest), (first, second, third, rest, rest), (first, second)):
        with pytest.raises(UsageError):
            Opening(io.BytesIO(found[:head] + b"".join(order)), "word").read()


def test_opening_file_of_other_format_is_refused() -> None:
    with pytest.raises(UsageError, match="no sealed file"):
        Opening(io.BytesIO(b"something else that is long enough to be one"), "word")


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_sealing_output_is_decrypted_by_age(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backup_crypto, "PIECE", 64 << 10)
    data = os.urandom(size)
    assert pyrage.passphrase.decrypt(seal(data, step=10_000), "word") == data


AGE_HEAD = b"""age-encryption.org/v1
-> scrypt rF0/NwblUHHTpgQgRpe5CQ 10
gUjEymFKMVXQEKdMMHL24oYexjE3TIC0O0zGSqJ2aUY
--- IOXiQYStkoT1mvZW2tFOqZdhRVvj58egABx/sWfZQbc
"""
"""Of the test vector ``scrypt`` of age's test kit (C2SP/CCTV)."""


def test_opening_age_test_vector_accepts_only_its_password() -> None:
    Opening(io.BytesIO(AGE_HEAD), "password")
    with pytest.raises(UsageError, match="password is wrong"):
        Opening(io.BytesIO(AGE_HEAD), "passwort")


@pytest.mark.parametrize("cost", [21, 64, 99])
def test_opening_header_with_excessive_scrypt_cost_is_refused(cost: int) -> None:
    with pytest.raises(UsageError, match="too much memory"):
        Opening(io.BytesIO(AGE_HEAD.replace(b" 10\n", b" %d\n" % cost)), "password")


def test_opening_age_file_for_public_key_is_refused() -> None:
    to_a_key = pyrage.encrypt(b"data", [pyrage.x25519.Identity.generate().to_public()])
    assert is_sealed(to_a_key)
    with pytest.raises(UsageError, match="not sealed with a password"):
        Opening(io.BytesIO(to_a_key), "word")

"""A stream of bytes under a password, as an age file (age-encryption.org/v1): ``age -d`` opens what is sealed here.

Made of the primitives of ``cryptography``. ``pyrage`` takes passwords only for data that is in memory as a whole, and a snapshot of etcd
may have gigabytes; it also measures the speed of the machine to choose the cost of a guess, so a slower machine may refuse the file
(https://github.com/str4d/rage/issues/642). The tests let it read what is written here.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from harness.errors import UsageError

MAGIC = b"age-encryption.org/v1\n"
BEFORE_AGE = b"slipway sealed 1\n"
"""The first line of a backup that was sealed in slipway's own format, which nothing reads any more."""
PIECE = 64 << 10
_TAG = 16
_COST = 18
"""Of scrypt, as a power of two, the one of age: 256 MB and about a second for each attempt to guess."""
_MOST_COST = 20
"""1 GB: the cost is read before the password is proved, and a hostile file could ask for all of the memory."""
_HEAD = re.compile(rb"-> scrypt ([A-Za-z0-9+/]{22}) ([1-9]\d?)\n([A-Za-z0-9+/]{43})\n--- ([A-Za-z0-9+/]{43})\n")
_HEAD_LINES, _LINE = 3, 128


def is_sealed(start: bytes) -> bool:
    return start.startswith(MAGIC)


def _encoded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    return base64.b64decode(text + b"=" * (-len(text) % 4))


def _wrapping(password: str, salt: bytes, cost: int) -> ChaCha20Poly1305:
    """The cipher of the file key, which is used once and therefore needs no nonce."""
    scrypt = Scrypt(salt=b"age-encryption.org/v1/scrypt" + salt, length=32, n=2**cost, r=8, p=1)
    return ChaCha20Poly1305(scrypt.derive(password.encode()))


def _derived(file_key: bytes, info: bytes, salt: bytes = b"") -> bytes:
    return HKDF(SHA256(), 32, salt, info).derive(file_key)


def _proof(file_key: bytes, head: bytes) -> bytes:
    return _encoded(hmac.digest(_derived(file_key, b"header"), head, "sha256"))


def _nonce(number: int, *, last: bool) -> bytes:
    return number.to_bytes(11, "big") + bytes([last])


class Sealing:
    """Seals what is written and writes it on; whole only after ``close``, which leaves the target open."""

    def __init__(self, target: BinaryIO, password: str) -> None:
        file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
        wrapped = _wrapping(password, salt, _COST).encrypt(bytes(12), file_key, None)
        head = MAGIC + b"-> scrypt %s %d\n%s\n---" % (_encoded(salt), _COST, _encoded(wrapped))
        target.write(head + b" " + _proof(file_key, head) + b"\n" + nonce)
        self._target = target
        self._cipher = ChaCha20Poly1305(_derived(file_key, b"payload", nonce))
        self._waiting = bytearray()
        self._number = 0

    def write(self, data: bytes) -> int:
        self._waiting += data
        # One piece is held back always: only at the end it is known which is the last.
        while len(self._waiting) > PIECE:
            self._piece(bytes(self._waiting[:PIECE]), last=False)
            del self._waiting[:PIECE]
        return len(data)

    def close(self) -> None:
        self._piece(bytes(self._waiting), last=True)
        self._waiting.clear()

    def _piece(self, data: bytes, *, last: bool) -> None:
        self._target.write(self._cipher.encrypt(_nonce(self._number, last=last), data, None))
        self._number += 1


class Opening:
    """Reads what was sealed. Every piece is proved before a byte of it is handed out; raises UsageError for what does not prove."""

    def __init__(self, source: BinaryIO, password: str) -> None:
        self._source = source
        file_key = _file_key(source, password)
        self._cipher = ChaCha20Poly1305(_derived(file_key, b"payload", source.read(16)))
        self._next = source.read(PIECE + _TAG)
        self._number = 0
        self._open = bytearray()
        self._ended = False

    def read(self, count: int = -1) -> bytes:
        while not self._ended and (count < 0 or len(self._open) < count):
            self._piece()
        size = len(self._open) if count < 0 else count
        data = bytes(self._open[:size])
        del self._open[:size]
        return data

    def _piece(self) -> None:
        sealed, self._next = self._next, self._source.read(PIECE + _TAG)
        last = not self._next
        try:
            self._open += self._cipher.decrypt(_nonce(self._number, last=last), sealed, None)
        except InvalidTag:
            raise _damaged("the file is damaged or not whole") from None
        self._number += 1
        self._ended = last


def _file_key(source: BinaryIO, password: str) -> bytes:
    """The key in the head of an age file that has one password. Leaves the source behind the head."""
    if source.read(len(MAGIC)) != MAGIC:
        raise UsageError("this is no sealed file")
    head = b"".join(source.readline(_LINE) for _ in range(_HEAD_LINES))
    match = _HEAD.fullmatch(head)
    if match is None:
        raise UsageError("the file is not sealed with a password, or is damaged", hint="take the file that slipway backup wrote")
    salt, cost, wrapped, proof = match.groups()
    if int(cost) > _MOST_COST:
        raise UsageError(
            f"opening the file takes too much memory: its scrypt work factor is {int(cost)}, and at most {_MOST_COST} is accepted",
            hint="decrypt it with age -d, and encrypt it again with age -p",
        )
    try:
        file_key = _wrapping(password, _decoded(salt), int(cost)).decrypt(bytes(12), _decoded(wrapped), None)
    except InvalidTag:
        raise _damaged("the password is wrong, or the file is damaged") from None
    if not hmac.compare_digest(_proof(file_key, MAGIC + head[: head.rindex(b" ")]), proof):
        raise _damaged("the file is damaged or not whole")
    return file_key


def _damaged(reason: str) -> UsageError:
    return UsageError(reason, hint="give the password with --password-env; if it is the right one, take another backup")

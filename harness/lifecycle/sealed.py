"""A stream of bytes under a password: AES-256 in GCM, in pieces, with a key that scrypt makes.

The file: a line that says what it is, a salt of 16 bytes, 8 bytes of nonce prefix, then pieces of ``PIECE`` bytes, each followed by its
16 bytes of proof. The nonce of a piece is the prefix, its number in 3 bytes, and 1 for the last piece, else 0, so that no piece can be left
out, moved or cut off at the end unseen; what stands in front is part of every proof.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from harness.errors import UsageError

MAGIC = b"slipway sealed 1\n"
PIECE = 1 << 20
_TAG = 16
_HEAD = len(MAGIC) + 16 + 8
# 128 MB and some tenths of a second for each attempt to guess.
_COST, _BLOCK, _LANES = 2**17, 8, 1


def is_sealed(start: bytes) -> bool:
    return start.startswith(MAGIC)


def _cipher(password: str, head: bytes) -> AESGCM:
    salt = head[len(MAGIC) : len(MAGIC) + 16]
    return AESGCM(Scrypt(salt=salt, length=32, n=_COST, r=_BLOCK, p=_LANES).derive(password.encode()))


def _nonce(head: bytes, number: int, *, last: bool) -> bytes:
    return head[-8:] + number.to_bytes(3, "big") + bytes([last])


class Sealing:
    """Seals what is written and writes it on; whole only after ``close``, which leaves the target open."""

    def __init__(self, target: BinaryIO, password: str) -> None:
        self._target = target
        self._head = MAGIC + os.urandom(16) + os.urandom(8)
        self._cipher = _cipher(password, self._head)
        self._waiting = bytearray()
        self._number = 0
        target.write(self._head)

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
        self._target.write(self._cipher.encrypt(_nonce(self._head, self._number, last=last), data, self._head))
        self._number += 1


class Opening:
    """Reads what was sealed. Every piece is proved before a byte of it is handed out; raises UsageError for what does not prove."""

    def __init__(self, source: BinaryIO, password: str) -> None:
        self._source = source
        self._head = source.read(_HEAD)
        if len(self._head) < _HEAD or not is_sealed(self._head):
            raise UsageError("this is no sealed file")
        self._cipher = _cipher(password, self._head)
        self._next = source.read(PIECE + _TAG)
        self._number = 0
        self._open = bytearray()
        self._ended = False

    def read(self, count: int = -1) -> bytes:
        while not self._ended and (count < 0 or len(self._open) < count):
            self._piece()
        size = len(self._open) if count < 0 else count
        found = bytes(self._open[:size])
        del self._open[:size]
        return found

    def _piece(self) -> None:
        sealed, self._next = self._next, self._source.read(PIECE + _TAG)
        last = not self._next
        try:
            self._open += self._cipher.decrypt(_nonce(self._head, self._number, last=last), sealed, self._head)
        except InvalidTag:
            reason = "the password is wrong, or the file is damaged" if self._number == 0 else "the file is damaged or not whole"
            raise UsageError(reason, hint="give the password with --password-env; if it is the right one, take another backup") from None
        self._number += 1
        self._ended = last

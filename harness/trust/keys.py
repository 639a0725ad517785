"""Signing keys in cosign's own formats, so that either program reads the other's.

A public key is PEM (SubjectPublicKeyInfo). A private key is PEM around JSON, as cosign writes it: PKCS #8 in a NaCl secretbox under a
key that scrypt makes of the password. The password comes from the environment or a prompt and is never written anywhere.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import hashlib
import os
import re
import secrets
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nacl.exceptions
import nacl.secret
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from harness import untrusted
from harness.errors import StoreError, UsageError
from harness.host import durable
from harness.oci.model import canonical_json

ENCRYPTED = "ENCRYPTED SIGSTORE PRIVATE KEY"
ENCRYPTED_OLD = "ENCRYPTED COSIGN PRIVATE KEY"
"""PEM type of cosign before version 2; the content is the same."""

_PEM = re.compile(rb"-----BEGIN ([A-Z ]{1,80})-----\s(.*?)-----END \1-----", re.DOTALL)
_SCRYPT = {"N": 1 << 16, "r": 8, "p": 1}
_LARGEST_N = 1 << 20
"""Above this a key file would exhaust the memory: scrypt takes 128 * N * r bytes."""
_LARGEST_FILE = 64 << 10

Password = Callable[[str], str]
"""Gives the password of the key that is shown as the argument; called only when the key needs one."""


@dataclasses.dataclass(frozen=True)
class PublicKey:
    """Tells signatures of one key. ``name`` is what people call it: its file, or where in a policy it stands."""

    name: str
    pem: bytes

    @property
    def fingerprint(self) -> str:
        """``sha256:...`` of the key's DER: the same however the file is called or written."""
        der = _read_public(self.pem).public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        return "sha256:" + hashlib.sha256(der).hexdigest()

    def holds(self, signature: bytes, data: bytes) -> bool:
        """Return True when this key made ``signature`` (ASN.1 for ECDSA, PKCS #1 v1.5 for RSA; SHA-256) over ``data``."""
        key = _read_public(self.pem)
        try:
            match key:
                case ec.EllipticCurvePublicKey():
                    key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
                case rsa.RSAPublicKey():
                    key.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
                case ed25519.Ed25519PublicKey():
                    key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


@dataclasses.dataclass(frozen=True, repr=False)
class PrivateKey:
    """Signs. Has no repr, so that no traceback or log shows it."""

    name: str
    key: ec.EllipticCurvePrivateKey

    @property
    def public(self) -> PublicKey:
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return PublicKey(self.name, self.key.public_key().public_bytes(encoding, form))

    def sign(self, data: bytes) -> bytes:
        """An ECDSA signature with SHA-256, in ASN.1."""
        return self.key.sign(data, ec.ECDSA(hashes.SHA256()))


def create(prefix: Path, password: str, *, force: bool = False) -> tuple[Path, Path]:
    """Make a key pair: ``PREFIX.key`` (mode 0600, encrypted) and ``PREFIX.pub``; their paths.

    Raises UsageError when one of them exists and not ``force``, or the folder cannot take them.
    """
    private, public = prefix.with_name(prefix.name + ".key"), prefix.with_name(prefix.name + ".pub")
    for path in (private, public):
        if not force and os.path.lexists(path):
            raise UsageError(
                f"{path} already exists", hint="choose another name with --to; --force replaces the pair, and what it signed stays"
            )
    pair = PrivateKey(str(private), ec.generate_private_key(ec.SECP256R1()))
    _place(private, encrypt(pair, password), 0o600, force=force)
    try:
        _place(public, pair.public.pem, 0o644, force=force)
    except UsageError:
        # A private key without its public half would block the next attempt.
        private.unlink(missing_ok=True)
        raise
    return private, public


def _place(path: Path, data: bytes, mode: int, *, force: bool) -> None:
    """Write a file atomically; it never exists with other bytes or a wider mode than ``mode``."""
    try:
        with durable.replacing(path, mode=mode, overwrite=force) as file:
            file.write(data)
    except FileExistsError as error:
        raise UsageError(f"{path} already exists", hint="choose another name with --to") from error
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror or problem}") from problem


def encrypt(key: PrivateKey, password: str) -> bytes:
    """The private key as cosign keeps it (``cosign.key``)."""
    der = key.key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    salt, nonce = secrets.token_bytes(32), secrets.token_bytes(nacl.secret.SecretBox.NONCE_SIZE)
    sealed = nacl.secret.SecretBox(_stretch(password, salt, _SCRYPT)).encrypt(der, nonce).ciphertext
    value = {
        "kdf": {"name": "scrypt", "params": _SCRYPT, "salt": _encode(salt)},
        "cipher": {"name": "nacl/secretbox", "nonce": _encode(nonce)},
        "ciphertext": _encode(sealed),
    }
    lines = "\n".join(textwrap.wrap(_encode(canonical_json(value)), 64))
    return f"-----BEGIN {ENCRYPTED}-----\n{lines}\n-----END {ENCRYPTED}-----\n".encode()


def read_private(path: Path, password: Password) -> PrivateKey:
    """A private key made by slipway or cosign, or a plain EC key (PKCS #8 or SEC 1).

    Raises UsageError when it is not a private key, or the password is wrong.
    """
    data = _read(path)
    match = _PEM.search(data)
    if match is None:
        raise UsageError(f"{path} is not a private key: it has no PEM block", hint="`slipway keys create` makes a key pair")
    label = match[1].decode()
    if label in (ENCRYPTED, ENCRYPTED_OLD):
        return PrivateKey(str(path), _private(_open_box(str(path), match[2].strip(), password), str(path)))
    if "PUBLIC" in label:
        raise UsageError(f"{path} is a public key; signing needs the private one", hint=f"--key {path.with_suffix('.key')}")
    if label == "ENCRYPTED PRIVATE KEY":
        return PrivateKey(str(path), _plain(match[0], str(path), password(str(path))))
    return PrivateKey(str(path), _plain(match[0], str(path), None))


def _plain(pem: bytes, name: str, password: str | None) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(pem, password.encode() if password is not None else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:
        what = "the password is wrong, or the file is damaged" if password is not None else "it cannot be read"
        raise UsageError(f"{name} is not a usable private key: {what}") from wrong
    return _elliptic(key, name)


def _private(der: bytes, name: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_der_private_key(der, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:
        raise UsageError(f"{name} was decrypted, but does not hold a private key") from wrong
    return _elliptic(key, name)


def _elliptic(key: object, name: str) -> ec.EllipticCurvePrivateKey:
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise UsageError(f"{name} is not an EC key; only those sign here", hint="`slipway keys create` makes one")
    return key


def _open_box(name: str, body: bytes, password: Password) -> bytes:
    """The PKCS #8 in a key file of cosign's."""
    try:
        value = untrusted.json_object(base64.b64decode(b"".join(body.split()), validate=True), what=name)
        parameters = {key: int(value["kdf"]["params"][key]) for key in ("N", "r", "p")}
        salt, nonce, sealed = (_decode(value["kdf"]["salt"]), _decode(value["cipher"]["nonce"]), _decode(value["ciphertext"]))
        supported = (value["kdf"]["name"], value["cipher"]["name"]) == ("scrypt", "nacl/secretbox")
    except (StoreError, ValueError, KeyError, TypeError) as wrong:
        raise UsageError(f"{name} is damaged: it is not a key file of cosign or slipway") from wrong
    if not supported or not _is_bearable(parameters) or len(nonce) != nacl.secret.SecretBox.NONCE_SIZE:
        raise UsageError(f"{name} is encrypted in a way that is not known here", hint="only scrypt with nacl/secretbox is")
    try:
        return nacl.secret.SecretBox(_stretch(password(name), salt, parameters)).decrypt(sealed, nonce)
    except nacl.exceptions.CryptoError as wrong:
        raise UsageError(f"{name} does not open: the password is wrong, or the file is damaged") from wrong


def _is_bearable(parameters: Mapping[str, int]) -> bool:
    cost, block, parallel = parameters["N"], parameters["r"], parameters["p"]
    return 1 < cost <= _LARGEST_N and cost & (cost - 1) == 0 and 1 <= block <= 16 and 1 <= parallel <= 16


def _stretch(password: str, salt: bytes, parameters: Mapping[str, int]) -> bytes:
    cost, block, parallel = parameters["N"], parameters["r"], parameters["p"]
    memory = 128 * block * (cost + parallel + 2)
    return hashlib.scrypt(password.encode(), salt=salt, n=cost, r=block, p=parallel, maxmem=memory + (1 << 20), dklen=32)


def read_public(path: Path) -> PublicKey:
    """A public key file. Raises UsageError for anything else; a private key is refused, because private keys must not be passed around."""
    return public_key(_read(path), str(path))


def public_key(pem: bytes, name: str) -> PublicKey:
    """A public key in PEM. Raises UsageError when it is not one."""
    if b"PRIVATE KEY" in pem:
        raise UsageError(f"{name} is a private key; to verify takes the public one", hint="it is the file that ends in .pub")
    _read_public(pem, name)
    return PublicKey(name, pem)


def _read_public(pem: bytes, name: str = "key") -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as wrong:
        raise UsageError(f"{name} is not a public key in PEM", hint="`slipway keys create` makes a pair; the .pub file is it") from wrong
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        raise UsageError(f"{name} is a key of a kind that does not sign images", hint="EC, RSA and Ed25519 do")
    return key


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror or problem}") from problem
    except ValueError as wrong:
        raise UsageError(f"{str(path)!r} is not a path: {wrong}") from wrong
    if len(data) > _LARGEST_FILE:
        raise UsageError(f"{path} is not a key: it is too large")
    return data


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as wrong:
        raise ValueError(str(wrong)) from wrong

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from harness.errors import UsageError
from harness.trust import keys
from harness.trust.keys import PrivateKey

PASSWORD = "correct horse"


def password(_: str) -> str:
    return PASSWORD


def refuse(name: str) -> str:
    raise AssertionError(f"nobody needs a password for {name}")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return keys.create(tmp_path_factory.mktemp("keys") / "release", PASSWORD)


def body(path: Path) -> dict[str, dict[str, object]]:
    text = path.read_text()
    found: dict[str, dict[str, object]] = json.loads(base64.b64decode("".join(text.splitlines()[1:-1])))
    return found


def with_body(path: Path, value: object) -> None:
    text = base64.b64encode(json.dumps(value).encode()).decode()
    path.write_text(f"-----BEGIN {keys.ENCRYPTED}-----\n{text}\n-----END {keys.ENCRYPTED}-----\n")


def test_create_writes_key_pair_in_cosign_format(pair: tuple[Path, Path]) -> None:
    private, public = pair
    assert (private.name, public.name) == ("release.key", "release.pub")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text().startswith("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n")
    value = body(private)
    assert set(value) == {"kdf", "cipher", "ciphertext"}
    assert value["kdf"]["name"] == "scrypt"
    assert value["kdf"]["params"] == {"N": 65536, "r": 8, "p": 1}
    assert value["cipher"]["name"] == "nacl/secretbox"
    assert public.read_text().startswith("-----BEGIN PUBLIC KEY-----\n")


def test_holds_accepts_signature_of_pair_and_refuses_changed_ones(pair: tuple[Path, Path]) -> None:
    private, public = keys.read_private(pair[0], password), keys.read_public(pair[1])
    signature = private.sign(b"data")
    assert public.holds(signature, b"data")
    assert not public.holds(signature, b"Data")
    assert not public.holds(signature[:-1] + bytes([signature[-1] ^ 1]), b"data")
    assert not public.holds(b"", b"data")
    assert private.public.fingerprint == public.fingerprint


def test_create_hides_password_in_files_and_key_in_repr(pair: tuple[Path, Path]) -> None:
    assert all(PASSWORD.encode() not in path.read_bytes() for path in pair)
    key = keys.read_private(pair[0], password)
    assert "PRIVATE" not in repr(key)
    assert len(repr(key)) < 100


def test_create_over_existing_file_is_refused_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "a.pub").write_text("mine")
    with pytest.raises(UsageError, match=r"a\.pub already exists") as caught:
        keys.create(tmp_path / "a", "")
    assert "--force" in (caught.value.hint or "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pub"]
    private, public = keys.create(tmp_path / "a", "", force=True)
    assert keys.read_private(private, lambda _: "").public.fingerprint == keys.read_public(public).fingerprint
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.key", "a.pub"]


def test_create_in_missing_folder_raises_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory"):
        keys.create(tmp_path / "missing/a", "")


def test_read_private_wrong_password_is_refused(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match=r"release\.key does not open: the password is wrong"):
        keys.read_private(pair[0], lambda _: "wrong")


def test_read_private_older_cosign_label_is_read(pair: tuple[Path, Path], tmp_path: Path) -> None:
    old = tmp_path / "old.key"
    old.write_text(pair[0].read_text().replace("SIGSTORE", "COSIGN"))
    assert keys.read_private(old, password).public.fingerprint == keys.read_public(pair[1]).fingerprint


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_read_private_unencrypted_key_needs_no_password(form: serialization.PrivateFormat, tmp_path: Path, key: PrivateKey) -> None:
    path = tmp_path / "plain.pem"
    path.write_bytes(key.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    assert keys.read_private(path, refuse).public.fingerprint == key.public.fingerprint


def test_read_private_encrypted_pkcs8_is_read_with_right_password_only(tmp_path: Path, key: PrivateKey) -> None:
    path = tmp_path / "pkcs8.pem"
    encrypted = serialization.BestAvailableEncryption(PASSWORD.encode())
    path.write_bytes(key.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encrypted))
    assert keys.read_private(path, password).public.fingerprint == key.public.fingerprint
    with pytest.raises(UsageError, match="password is wrong"):
        keys.read_private(path, lambda _: "wrong")


def test_read_private_rsa_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rsa.pem"
    found = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(found.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    with pytest.raises(UsageError, match="not an EC key"):
        keys.read_private(path, refuse)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hello", "it has no PEM block"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\n!!\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "is damaged"),
        ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\ne30=\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n", "is damaged"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a usable private key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "is a public key"),
        ("x" * 100_000, "too large"),
    ],
)
def test_read_private_file_without_usable_private_key_is_refused(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "x.key"
    path.write_text(text)
    with pytest.raises(UsageError, match=message):
        keys.read_private(path, password)


def test_read_private_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.key: No such file"):
        keys.read_private(tmp_path / "none.key", refuse)


@pytest.mark.parametrize("cost", [1 << 30, 0, 65535, -8])
def test_read_private_unknown_scrypt_cost_is_refused_before_password_prompt(cost: int, pair: tuple[Path, Path], tmp_path: Path) -> None:
    value = body(pair[0])
    value["kdf"]["params"] = {"N": cost, "r": 8, "p": 1}
    path = tmp_path / "hungry.key"
    with_body(path, value)
    with pytest.raises(UsageError, match="not known here"):
        keys.read_private(path, refuse)


def test_read_private_changed_ciphertext_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    value = body(pair[0])
    sealed = bytearray(base64.b64decode(str(value["ciphertext"])))
    sealed[40] ^= 1
    path = tmp_path / "changed.key"
    with_body(path, {**value, "ciphertext": base64.b64encode(sealed).decode()})
    with pytest.raises(UsageError, match="or the file is damaged"):
        keys.read_private(path, password)


def test_read_public_private_key_is_refused_with_hint(pair: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="is a private key") as caught:
        keys.read_public(pair[0])
    assert ".pub" in (caught.value.hint or "")


def test_read_public_malformed_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pub"
    path.write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    with pytest.raises(UsageError, match=r"x\.pub is not a public key in PEM"):
        keys.read_public(path)


def test_holds_accepts_rsa_ed25519_and_p384_signatures() -> None:
    """RSA and Ed25519, as vendors have them."""
    form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    one = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = keys.public_key(one.public_key().public_bytes(*form), "rsa")
    assert public.holds(one.sign(b"data", padding.PKCS1v15(), hashes.SHA256()), b"data")
    assert not public.holds(b"no", b"data")
    two = ed25519.Ed25519PrivateKey.generate()
    public = keys.public_key(two.public_key().public_bytes(*form), "ed25519")
    assert public.holds(two.sign(b"data"), b"data")
    three = ec.generate_private_key(ec.SECP384R1())
    public = keys.public_key(three.public_key().public_bytes(*form), "p384")
    assert public.holds(three.sign(b"data", ec.ECDSA(hashes.SHA256())), b"data")

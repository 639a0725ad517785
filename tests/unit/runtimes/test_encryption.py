"""The file by which the API server encrypts Secrets."""

from __future__ import annotations

import pytest
import yaml

from harness.errors import StoreError
from harness.runtimes.encryption import SecretsKey, configuration, keys


def test_encryption_configuration_first_key_encrypts_and_all_keys_decrypt() -> None:
    old, new = SecretsKey.make(), SecretsKey.make(2)
    document = yaml.safe_load(configuration([new, old]))
    assert (document["apiVersion"], document["kind"]) == ("apiserver.config.k8s.io/v1", "EncryptionConfiguration")
    (entry,) = document["resources"]
    assert entry["resources"] == ["secrets"]
    assert [list(provider) for provider in entry["providers"]] == [["secretbox"], ["identity"]]
    assert [key["name"] for key in entry["providers"][0]["secretbox"]["keys"]] == ["slipway-2", "slipway-1"]
    assert keys(configuration([new, old]), "a") == (new, old)


def test_secrets_key_is_random_32_bytes_and_hidden_in_repr() -> None:
    one, other = SecretsKey.make(), SecretsKey.make()
    assert len(one.secret) == 32
    assert one.secret != other.secret
    assert str(one.secret) not in repr(one)


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("", ""),
        ("[]", ""),
        ("{c2hvcnQ", "c2hvcnQ"),
        ("{secret: c2hvcnQ=, secret: [", "c2hvcnQ"),
        ("resources: c2hvcnQ=", "c2hvcnQ"),
        ("resources: [{providers: [{aesgcm: {keys: [{name: slipway-1, secret: c2hvcnQ=}]}}]}]", "c2hvcnQ"),
        ("resources: [{providers: [{secretbox: {keys: [{name: slipway-1, secret: c2hvcnQ=}]}}]}]", "c2hvcnQ"),
        ("resources: [{providers: [{secretbox: {keys: [{name: slipway-1, secret: '%%c2h'}]}}]}]", "%%c2h"),
        (f"resources: [{{providers: [{{secretbox: {{keys: [{{name: other, secret: {'A' * 43}=}}]}}}}]}}]", "A" * 43),
    ],
)
def test_keys_invalid_file_is_refused_without_its_content(text: str, secret: str) -> None:
    with pytest.raises(StoreError, match="control-plane-1: the file") as wrong:
        keys(text.encode(), "control-plane-1: the file")
    error = wrong.value
    assert not secret or secret not in f"{error.message} {error.details} {error.hint}"

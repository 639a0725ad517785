"""What counts as a secret, and the marks in its place."""

from __future__ import annotations

import pytest

from harness.clusterfile import is_redacted
from harness.clusterfile.secrecy import holds_secret, is_secret_name, mark, same


@pytest.mark.parametrize(
    "name", ["PASSWORD", "mysqlPasswd", "DB_PWD", "apiToken", "AWS_SECRET_ACCESS_KEY", "api-key", "privateKey", "credentials"]
)
def test_names_of_secrets(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", ["Port", "PodCIDR", "passwordFile", "secretName", "tokenTTL", "Monkey", "CertSANs"])
def test_other_names(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    "text",
    [
        "mysql-passwd: xxx\n",
        "a:\n  password: 'x'\n",
        '{"apiKey": "x"}',
        "token = x",
        "export DB_PASSWORD=hunter2",
        "helm install --set a.password=x",
        "mysql --password hunter2",
        "apiVersion: v1\nkind: Secret\ndata: {a: eA==}\n",
        "-----BEGIN RSA PRIVATE KEY-----\n",
        "passwords:\n  - a\n",
        "data:\n  app.properties: |\n    user=a\n    db.password=b\n",
        "a: [\npassword: x\n",
        "spec:\n  - name: a\n    token: 5\n",
    ],
)
def test_texts_that_hold_a_secret(text: str) -> None:
    assert holds_secret(text)


@pytest.mark.parametrize(
    "text",
    [
        "port: 5\n",
        "password:\n",
        "password: ''\n",
        'password: ""\n',
        "password: $PASSWORD\n",
        "echo $TOKEN",
        "imagePullSecrets:\n  - name: a\n",
        "password: '{{ Password }}'\n",
        "secretName: a\n",
        "tokens: []\n",
    ],
)
def test_texts_that_hold_none(text: str) -> None:
    assert not holds_secret(text)


def test_marks() -> None:
    assert is_redacted(mark("geheim", "a"))
    assert "geheim" not in mark("geheim", "a")
    assert mark("geheim", "a") == mark("geheim", "a") != mark("geheim", "b")
    assert same("geheim", mark("geheim", "a"), "a")
    assert same(mark("geheim", "a"), "geheim", "a")
    assert not same("other", mark("geheim", "a"), "a")
    assert same("x", "x", "")
    assert not same("x", "y", "")

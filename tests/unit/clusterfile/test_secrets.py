"""What counts as a secret, and the marks in its place."""

from __future__ import annotations

import pytest

from harness import log
from harness.clusterfile import is_redacted
from harness.clusterfile.diff import difference
from harness.clusterfile.parse import parse
from harness.clusterfile.secrets import declare, fingerprint, holds_secret, is_secret_name, same_secret
from harness.clusterfile.write import redacted


@pytest.mark.parametrize(
    "name",
    [
        *("PASSWORD", "mysqlPasswd", "DB_PWD", "apiToken", "AWS_SECRET_ACCESS_KEY", "api-key", "privateKey", "credentials"),
        *("DB_PASS", "redisPass", "requirepass", "PASSPHRASE", "masterauth", "auth", "REDIS_AUTH", ".dockerconfigjson", "ENCRYPTION_KEY"),
        *("sshKey", "client-key-data", "certificateKey", "Authorization", "X_PASS", "dbpass"),
    ],
)
def test_is_secret_name_secret_words_is_true(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    [
        *("Port", "PodCIDR", "passwordFile", "secretName", "tokenTTL", "Monkey", "CertSANs", "topologyKey", "PUBLIC_KEY", "primaryKey"),
        *("bypass", "proxy_pass", "authMode", "authorization-mode", "PASSWORD_FILE", "key", "compass", "tls-private-key-file"),
        *("TOKEN_URL", "author", "keyboard", "passive"),
    ],
)
def test_is_secret_name_other_words_is_false(name: str) -> None:
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
        "env:\n  - name: DB_PASS\n    value: hunter2\n",
        "args: ['--requirepass', 'hunter2']\n",
        "args:\n  - --password\n  - hunter2\n",
        "url: postgres://app:hunter2@db/app\n",
        "a: b\ndsn: redis://:hunter2@cache:6379\n",
        "redis-server --requirepass hunter2",
        "mysql -phunter2 shop",
        "sshpass -p hunter2 ssh a",
        "redis-cli -a hunter2 ping",
        "curl -u admin:hunter2 https://x/",
        "curl -H 'Authorization: Token hunter2' https://x/",
        '{"auths": {"r.example.com": {"auth": "dTpodW50ZXIy"}}}',
        "data:\n  .dockerconfigjson: eyJhdXRocyI6e319\n",
        "users:\n  - user:\n      client-key-data: LS0tLS1CRUdJTg==\n",
        "export GIT=ghp_0123456789abcdefghijABCDEFGHIJ012345",
        "a: 1\nnote: 'AKIAABCDEFGHIJKLMNOP'\n",
    ],
)
def test_holds_secret_text_with_secret_is_true(text: str) -> None:
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
        "topologyKey: kubernetes.io/hostname\n",
        "auth: ldap\n",
        "sslKey: /etc/ssl/private/x.pem\n",
        "proxy_pass: http://backend:8080\n",
        "docker run -u 1000:1000 -p 80:80 web",
        "ssh -p 22 host && mkdir -p a/b",
        "curl https://user@example.com/a:b",
        "kube-apiserver --authorization-mode=Node,RBAC --enable-bootstrap-token-auth=true",
        "env:\n  - name: DB_PASSWORD\n    valueFrom: {secretKeyRef: {name: db, key: password}}\n",
        "imagePullSecrets: [{name: regcred}]\n",
        "kind: SecretProviderClass\n",
        "password: ${DB_PASSWORD}\n",
        "image: registry.example.com/token-service:1.0\n",
    ],
)
def test_holds_secret_text_without_secret_is_false(text: str) -> None:
    assert not holds_secret(text)


def test_fingerprint_hides_secret_and_matches_same_secret_only() -> None:
    assert is_redacted(fingerprint("geheim", "a"))
    assert "geheim" not in fingerprint("geheim", "a")
    assert fingerprint("geheim", "a") == fingerprint("geheim", "a") != fingerprint("geheim", "b")
    assert same_secret("geheim", fingerprint("geheim", "a"), "a")
    assert same_secret(fingerprint("geheim", "a"), "geheim", "a")
    assert not same_secret("other", fingerprint("geheim", "a"), "a")
    assert same_secret("x", "x", "")
    assert not same_secret("x", "y", "")


def test_holds_secret_known_value_in_plain_text_is_true() -> None:
    assert not holds_secret("app --start correct-horse")
    assert holds_secret("app --start correct-horse", {"correct-horse"})


def test_redacted_record_omits_secrets_in_all_fields() -> None:
    text = """\
apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: c}
spec:
  image: shop:1.0
  env: [DB_PASS=correct-horse, DSN=postgres://app:hunter2x@db/app, "Greeting=hello, correct-horse", Mode=fast]
  cmd: [app --start correct-horse, kubectl apply -f a.yaml]
  ssh: {user: root, passwd: battery-staple}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: h}
spec: {phases: [post-install], on: master0, data: "echo battery-staple > /tmp/x"}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: i}
spec: {phases: [post-install], on: master0, data: "echo fine"}
"""
    kept = redacted(parse(text, "F"))
    for secret in ("correct-horse", "hunter2x", "battery-staple"):
        assert secret not in kept
    for rest in ("Mode: fast", "kubectl apply -f a.yaml", "echo fine", "user: root"):
        assert rest in kept
    assert difference(parse(kept, "F", stored=True), parse(text, "F")) == ()


def test_parse_secrets_of_clusterfile_are_hidden_in_log() -> None:
    parse(
        "apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {name: c}\nspec:\n  image: shop:1.0\n"
        "  env: [DB_PASS=correct-horse, Mode=fast]\n  ssh: {passwd: battery-staple}\n",
        "F",
    )
    assert log.hidden("correct-horse, battery-staple, fast") == "***, ***, fast"


def test_redacted_declared_name_masks_value() -> None:
    text = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: c}
spec: {image: web, env: {SitePhrase: open, Mode: open}, hosts: [{ips: [10.0.0.1], roles: [master]}]}
"""
    assert "SitePhrase: open" in redacted(parse(text, "x"))
    declare(["SitePhrase"])
    kept = redacted(parse(text, "x"))
    assert "SitePhrase: open" not in kept
    assert "Mode: open" in kept
    assert not difference(parse(kept, "kept"), parse(text, "x"))

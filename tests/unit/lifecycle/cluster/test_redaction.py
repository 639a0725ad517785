"""What never leaves in a bundle."""

from __future__ import annotations

import pytest

from harness import log
from harness.lifecycle.cluster.redaction import resource, text

SECRET = "Hunter2-of-mine"


@pytest.mark.parametrize(
    "line",
    [
        f"password={SECRET}",
        f'"dbPassword": "{SECRET}"',
        f"MYSQL_ROOT_PASSWORD={SECRET} other=1",
        f"token: {SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"authorization=Basic {SECRET}",
        f'[host."https://127.0.0.1:5000".header]\nAuthorization = "Basic {SECRET}"',
        f"GET https://user:{SECRET}@registry.example.com/v2/",
        f"etcd --root-password {SECRET} --x",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\nmore\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET} cut off",
        f"api_key={SECRET}&x=1",
        f"DB_PASS={SECRET}",
        f"PASSPHRASE={SECRET}",
        f"requirepass: {SECRET}",
        f"redis-server --requirepass {SECRET}",
        f"mysql -h db -p{SECRET} shop",
        f"sshpass -p {SECRET} ssh x",
        f"curl -s -u admin:{SECRET} http://x",
        f"Authorization: Token {SECRET}",
        f'Authorization: Digest username="u", response="{SECRET}"'.replace("username=", "token="),
        f'"auth": "{SECRET}"',
        f"client-key-data: {SECRET}",
        f"ENCRYPTION_KEY={SECRET}",
        f"password: |\n  {SECRET}\n  more\nother: 1",
        f"- password: >-\n    {SECRET}\n  x: 1",
        f"passwords:\n  - {SECRET}\n  - b",
        f'args: ["--password", "{SECRET}", "-v"]',
        f"args:\n- --password\n- {SECRET}\n- -v",
        f"- name: DB_PASS\n  value: {SECRET}",
        f'{{"name":"DB_PASS","value":"{SECRET}"}}',
        f'password="one two {SECRET}" next=1',
        f"password='one \"two\" {SECRET}'",
        f"password: correct horse {SECRET}",
        f'"password": "a\\"{SECRET}"',
        f'msg="{{\\"password\\":\\"a {SECRET}\\",\\"user\\":\\"x\\"}}"',
        f"password=a\\ {SECRET}",
        f"password=a,b;{SECRET}",
        f"postgres://app:p@{SECRET}@db/app",
        f"{SECRET}\n-----END RSA PRIVATE KEY-----".replace("-of-mine", "").replace(SECRET, "Hunter2+of+mine"),
        "glpat-Hunter2-of-mine-0123456789",
    ],
)
def test_text_secret_in_any_notation_is_removed(line: str) -> None:
    # A key whose beginning was cut off is known at the beginning of a text only.
    front = "" if line.endswith("END RSA PRIVATE KEY-----") and "BEGIN" not in line else "before\n"
    found = text(f"{front}{line}\nafter")
    assert "Hunter2" not in found
    assert found.startswith(front)
    assert found.endswith("after") or "cut off" in line


def test_text_words_around_secret_are_kept() -> None:
    assert text('password="a b" user=x') == 'password="***" user=x'
    assert text("password: |\n  a\n\n  b\nuser: x") == "password: |\n***user: x"
    assert text('{"password":"a\\"b","user":"x"}') == '{"password":"***","user":"x"}'
    assert text(r'"{\"password\":\"a\",\"user\":\"x\"}"') == r'"{\"password\":\"***\",\"user\":\"x\"}"'
    assert text("postgres://app:p@db/x?a=b") == "postgres://app:***@db/x?a=b"
    assert text("--password hunter2 --verbose") == "--password *** --verbose"


def test_text_and_resource_replace_hidden_value_in_any_encoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_hidden", {})
    log.hide("correct horse/7", "abc", None)
    assert text("it said correct horse/7, abc") == "it said ***, abc"
    assert text("x=correct%20horse%2F7 y=Y29ycmVjdCBob3JzZS83") == "x=*** y=***"
    assert resource({"spec": {"note": ["the correct horse/7"]}}) == {"spec": {"note": ["the ***"]}}


def test_log_hidden_value_is_replaced_at_all_levels(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(log, "_hidden", {})
    log.hide("correct-horse")
    log.setup(verbose=True)
    try:
        log.info("a correct-horse")
        log.warning("b correct-horse")
        log.debug("c correct-horse")
        with log.step("d correct-horse"):
            pass
    finally:
        log.setup(quiet=True)
    shown = capsys.readouterr().err
    assert "correct-horse" not in shown
    assert all(f"{letter} ***" in shown for letter in "abcd")


def test_text_bootstrap_and_jwt_tokens_are_removed_without_key() -> None:
    assert text("kubeadm join --x abcdef.0123456789abcdef") == "kubeadm join --x ***"
    assert "eyJhbGci" not in text("it said eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJrdWJlIn0.c2lnbmF0dXJl!")


@pytest.mark.parametrize(
    "line",
    [
        "Started container kube-proxy 0123456789ab",
        "pulling image sha256:0123456789abcdef0123456789abcdef",
        "--token-auth-file=/etc/kubernetes/tokens.csv",
        "https://10.0.0.1:6443/api?timeout=10s",
        "secretName web-tls is mounted",
        "topologyKey: kubernetes.io/hostname",
        "docker run -u 1000:1000 web",
        "ssh -p 22 host; mkdir -p a",
        "kube-apiserver --authorization-mode=Node,RBAC --enable-bootstrap-token-auth=true",
        "password: ${PASSWORD}",
        'MountVolume.SetUp failed for volume "x" : secret "web-tls" not found',
    ],
)
def test_text_line_without_secret_is_unchanged(line: str) -> None:
    assert text(line) == line


def test_resource_pod_loses_secret_values_and_keeps_names() -> None:
    pod = {
        "kind": "Pod",
        "metadata": {
            "name": "db",
            "managedFields": [{"x": 1}],
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": SECRET, "note": "fine"},
        },
        "spec": {
            "containers": [
                {
                    "env": [
                        {"name": "DB_PASSWORD", "value": SECRET},
                        {"name": "MODE", "value": "fast"},
                        {"name": "API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "api"}}},
                    ],
                    "args": [f"--password={SECRET}", "--verbose", "--requirepass", SECRET],
                }
            ],
            "volumes": [{"secret": {"secretName": "web-tls"}}],
        },
    }
    found = resource(pod)
    assert SECRET not in str(found)
    container = found["spec"]["containers"][0]
    assert [entry["name"] for entry in container["env"]] == ["DB_PASSWORD", "MODE", "API_TOKEN"]
    assert (container["env"][1]["value"], container["args"][1]) == ("fast", "--verbose")
    assert found["spec"]["volumes"] == [{"secret": {"secretName": "web-tls"}}]
    assert found["metadata"] == {"name": "db", "annotations": {"note": "fine"}}


def test_resource_secret_keeps_only_name_and_namespace() -> None:
    found = resource(
        {"items": [{"kind": "Secret", "metadata": {"name": "s", "namespace": "n", "annotations": {"a": SECRET}}, "data": {"a": SECRET}}]}
    )
    assert found == {"items": [{"kind": "Secret", "metadata": {"name": "s", "namespace": "n"}}]}

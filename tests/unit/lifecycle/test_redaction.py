"""What never leaves in a bundle."""

from __future__ import annotations

import pytest

from harness.lifecycle.redaction import resource, text

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
        f"GET https://user:{SECRET}@registry.example.com/v2/",
        f"etcd --root-password {SECRET} --x",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\nmore\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{SECRET} cut off",
        f"api_key={SECRET}&x=1",
    ],
)
def test_what_looks_like_a_secret_goes(line: str) -> None:
    assert SECRET not in text(f"before\n{line}\nafter")
    assert text(f"before\n{line}").startswith("before\n")


def test_tokens_go_wherever_they_stand() -> None:
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
    ],
)
def test_what_is_none_stays(line: str) -> None:
    assert text(line) == line


def test_objects_lose_values_and_keep_names() -> None:
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
                    "args": [f"--password={SECRET}", "--verbose"],
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


def test_a_secret_keeps_its_name_only() -> None:
    found = resource(
        {"items": [{"kind": "Secret", "metadata": {"name": "s", "namespace": "n", "annotations": {"a": SECRET}}, "data": {"a": SECRET}}]}
    )
    assert found == {"items": [{"kind": "Secret", "metadata": {"name": "s", "namespace": "n"}}]}

"""The identity in the kubeconfig of a machine, and nothing else of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import yaml

from harness.errors import NodeError
from harness.untrusted import kube_identity

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----\n"
KEY = b"-----BEGIN EC PRIVATE KEY-----\nREVG\n-----END EC PRIVATE KEY-----\n"


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def config(**changes: Any) -> dict[str, Any]:
    user = {"client-certificate-data": encoded(CERTIFICATE), "client-key-data": encoded(KEY), "exec": {"command": "/bin/sh"}}
    return {
        "clusters": [{"name": "c", "cluster": {"certificate-authority-data": encoded(CERTIFICATE), "server": "https://other"}}],
        "contexts": [{"name": "a", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "a",
        "users": [{"name": "u", "user": user | changes}],
    }


def test_kube_identity_keeps_three_pem_texts_only() -> None:
    identity = kube_identity(yaml.safe_dump(config()), what="node")
    assert (identity.authority, identity.certificate, identity.key) == (CERTIFICATE, CERTIFICATE, KEY)
    written = yaml.safe_load(identity.kubeconfig(server="https://10.0.0.1:6443", cluster="lab"))
    assert written["clusters"][0]["cluster"]["server"] == "https://10.0.0.1:6443"
    assert set(written["users"][0]["user"]) == {"client-certificate-data", "client-key-data"}
    assert "REVG" not in repr(identity)


def test_kube_identity_drops_text_around_pem_block() -> None:
    data = b"\x1b[2J" + KEY + b"#!/bin/sh\n"
    assert kube_identity(yaml.safe_dump(config(**{"client-key-data": encoded(data)})), what="node").key == KEY


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"client-key-data": "%"}, "its client-key-data is missing or is not base64"),
        ({"client-key-data": encoded(b"no marks")}, "its client-key-data is not PEM"),
        ({"client-key-data": encoded(CERTIFICATE)}, "its client-key-data is not PEM"),
        ({"client-certificate-data": None}, "its client-certificate-data is not PEM"),
    ],
)
def test_kube_identity_invalid_pem_data_is_refused(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(NodeError, match=f"node: ({problem})"):
        kube_identity(yaml.safe_dump(config(**changes)), what="node")


@pytest.mark.parametrize("text", ["", "[]", "a: 1\n---\nb: 2\n", "clusters: text"])
def test_kube_identity_other_document_is_refused(text: str) -> None:
    with pytest.raises(NodeError, match="node: "):
        kube_identity(text, what="node")

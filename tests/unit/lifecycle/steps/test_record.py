"""What the cluster and this machine keep."""

from __future__ import annotations

import yaml

from harness.clusterfile import is_redacted
from harness.clusterfile.write import redacted
from harness.lifecycle.steps import record
from harness.oci.store import Store
from tests.unit.lifecycle.test_run import build, machines, prepared, store

__all__ = ["store"]  # a fixture


def test_stored_clusterfile_describes_run_and_redacts_secrets(store: Store) -> None:
    build(store)
    context = prepared(
        store,
        1,
        2,
        env={"Port": "8443", "MysqlPassword": "hunter2", "ApiToken": "abc"},
        control_plane=machines("10.0.0.1", user="ops", port=2222, password="letmein"),
        workers=machines("10.0.0.2", "10.0.0.3", user="ops", port=2222, password="letmein"),
    )
    text = redacted(context.spec.clusterfile)
    document = yaml.safe_load(text)
    assert (document["apiVersion"], document["kind"], document["metadata"]["name"]) == ("slipway.dev/v1", "Cluster", "default")
    assert document["spec"]["hosts"] == [
        {"ips": ["10.0.0.1"], "roles": ["control-plane"]},
        {"ips": ["10.0.0.2", "10.0.0.3"], "roles": ["worker"]},
    ]
    assert document["spec"]["ssh"] == {"user": "ops", "port": 2222}
    assert document["spec"]["env"]["Port"] == "8443"
    assert all(is_redacted(document["spec"]["env"][name]) for name in ("ApiToken", "MysqlPassword"))
    for secret in ("hunter2", "abc", "letmein"):
        assert secret not in text


def test_keep_access_stores_no_password_and_private_kubeconfig(store: Store) -> None:
    build(store)
    context = prepared(store, control_plane=machines("10.0.0.1", password="letmein"))
    context.resolved.runtime.kubeconfig = lambda server: b"kind: Config\n"  # type: ignore[method-assign]
    record.keep_access(context)
    assert context.spec.state.read()["controlPlane"][0]["address"] == "10.0.0.1"
    assert "letmein" not in "".join(path.read_text() for path in context.spec.state.folder.iterdir())
    assert context.spec.state.kubeconfig.stat().st_mode & 0o077 == 0

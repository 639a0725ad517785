"""Files that joining machines get, with values that the cluster has not kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError, InputError
from harness.lifecycle.join import JoinWork
from harness.lifecycle.provision import rootfs
from harness.lifecycle.steps import joining
from harness.lifecycle.steps.joining import JoiningCluster
from harness.nodes.files import NodeFile
from harness.oci.store import Store
from tests.unit.lifecycle.test_join import plan, work
from tests.unit.lifecycle.test_run import store

__all__ = ["store"]  # a fixture


FILES = {
    "etc/slipway.yaml": "kubernetes: v1.36.3\nimageRepository: slipway.dev\n",
    "manifests/page.yaml": "kind: ConfigMap\ntext: {{ Greeting }} from {{ HostIP }}\n",
    "manifests/db.yaml": "kind: Secret\npassword: {{ DbPassword }}\n",
}


def rendered(made: JoinWork) -> Any:
    plan(made)["unpack-rootfs"].action()
    return made.resolved.files(made.fresh[0])


def test_joining_files_are_rendered_with_recorded_values_and_kept_secrets(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = {"manifests/db.yaml": NodeFile(b"password: hunter2"), "etc/addons/dns.yaml": NodeFile(b"kind: Service")}
    monkeypatch.setattr(JoiningCluster, "files_of_first", there)
    files = rendered(work(store, tmp_path, control_plane=("10.0.0.9",), files=FILES))
    assert files["manifests/page.yaml"].data == b"kind: ConfigMap\ntext: hello from 10.0.0.9\n"
    # A secret is not in the record; what was made of it is taken from a control-plane node.
    assert files["manifests/db.yaml"].data == b"password: hunter2"


def test_joining_given_secret_is_rendered(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JoiningCluster, "files_of_first", {})
    files = rendered(work(store, tmp_path, control_plane=("10.0.0.9",), files=FILES, env={"DbPassword": "hunter3"}))
    assert files["manifests/db.yaml"].data == b"kind: Secret\npassword: hunter3\n"


def test_joining_secret_without_value_raises_check_error(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JoiningCluster, "files_of_first", {})
    with pytest.raises(CheckError, match=r"manifests/db\.yaml: made with values that the cluster did not keep") as caught:
        rendered(work(store, tmp_path, control_plane=("10.0.0.9",), files=FILES))
    assert "-e NAME=VALUE" in str(caught.value.hint)


def test_joining_worker_gets_launched_manifest_only_for_hook_that_reads_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(JoiningCluster, "files_of_first", {})
    # Nor is a worker's join held up by a secret that it has no use for.
    files = {**FILES, "etc/agent.yaml": "a: {{ Greeting }}\n"}
    assert set(rendered(work(store, tmp_path, workers=("10.0.0.9",), files=files))) == {"etc/agent.yaml", "etc/page.yaml"}
    hook = "kind: Plugin\nmetadata: {name: a}\nspec: {action: pre-init-host, data: 'cp manifests/page.yaml /tmp'}\n"
    reading = {**FILES, "plugins/a.yaml": f"apiVersion: sealer.aliyun.com/v1alpha1\n{hook}"}
    found = set(rendered(work(store, tmp_path, workers=("10.0.0.9",), files=reading)))
    assert {path for path in found if path.startswith("manifests/")} == {"manifests/page.yaml"}


def test_joining_undefined_template_name_raises_input_error(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JoiningCluster, "files_of_first", {})
    with pytest.raises(InputError):
        rendered(work(store, tmp_path, workers=("10.0.0.9",), files={**FILES, "manifests/x.yaml": "a: {{ Nowhere }}"}))


def test_joining_files_of_control_plane_node_keep_mode_of_image(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = work(store, tmp_path, workers=("10.0.0.9",), files=FILES)
    (made.resolved.tree(made.spec.first) / "manifests/db.yaml").chmod(0o600)
    monkeypatch.setattr(rootfs, "rendered_before", lambda _: ["manifests/db.yaml", "manifests/gone.yaml"])
    monkeypatch.setattr(joining, "read_files", lambda _, paths: {path: b"x" for path in paths if "db" in path})
    assert made.resolved.files(made.spec.first) == {"manifests/db.yaml": NodeFile(b"x", 0o600)}

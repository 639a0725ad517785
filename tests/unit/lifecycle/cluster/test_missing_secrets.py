"""What a cluster did not keep, and when it must be given again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.clusterfile import Clusterfile
from harness.clusterfile.parse import parse
from harness.lifecycle.cluster.missing_secrets import kept, mentioned

TEXT = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {name: lab}
spec:
  image: web:1
  env: {Greeting: hello, DbPassword: <redacted abc>}
  hosts:
  - {ips: [10.0.0.1], roles: [master], env: {NodeToken: <redacted def>}}
"""
CONFIG = """---
apiVersion: slipway.dev/v1
kind: Config
metadata: {name: page}
spec: {path: etc/page.yaml, data: %s}
"""
HOOK = """---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: tell}
spec: {phases: [%s], type: SHELL, on: [master], data: "<redacted xyz>"}
"""


def recorded(more: str = "") -> Clusterfile:
    return parse(TEXT + more, "the stored Clusterfile", stored=True)


def cluster_env(found: Clusterfile) -> dict[str, str]:
    assert found.cluster is not None
    return dict(found.cluster.env)


def test_kept_lost_values_stay_marked_in_whole_and_are_absent_in_usable() -> None:
    found = kept(recorded(), {})
    assert found.lost == {"DbPassword", "NodeToken"}
    assert cluster_env(found.whole)["DbPassword"] == "<redacted abc>"
    assert cluster_env(found.usable) == {"Greeting": "hello"}
    assert found.usable.cluster is not None
    assert found.usable.cluster.hosts[0].env == {}
    assert found.faults == ()


def test_kept_given_values_are_restored_at_their_places() -> None:
    found = kept(recorded(), {"DbPassword": "hunter2", "NodeToken": "t", "New": "1"})
    assert found.lost == frozenset()
    assert cluster_env(found.usable) == {"Greeting": "hello", "DbPassword": "hunter2", "NodeToken": "t", "New": "1"}
    assert found.usable.cluster is not None
    assert found.usable.cluster.hosts[0].env == {"NodeToken": "t"}


def test_kept_redacted_config_requires_clusterfile() -> None:
    (fault,) = kept(recorded(CONFIG % '"<redacted xyz>"'), {}).faults
    assert (fault.where, fault.hint) == ("Config page", "give the Clusterfile: -f")
    assert kept(recorded(CONFIG % '"a: 1"'), {}).faults == ()


@pytest.mark.parametrize(("phase", "wanted"), [("pre-init", False), ("upgrade-host", True), ("PreUpgrade", True), ("post-launch", True)])
def test_kept_redacted_hook_is_fault_only_for_phases_to_run(phase: str, wanted: bool) -> None:
    found = kept(recorded(HOOK % phase), {})
    assert bool(found.faults) is wanted
    assert found.usable.hooks == ()


def test_mentioned_lost_secret_is_fault_only_if_image_or_command_uses_it(tmp_path: Path) -> None:
    for path, text in {"manifests/db.yaml": "password: {{ DbPassword }}", "bin/tool": "NodeToken", "scripts/x.sh": "$MyDbPassword"}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    found = mentioned({"DbPassword", "NodeToken"}, tmp_path, recorded(), ["echo hello"])
    assert [(fault.where, "manifests/db.yaml" in fault.message) for fault in found] == [("-e DbPassword", True)]
    assert "-e DbPassword=VALUE" in str(found[0].hint)
    (tmp_path / "manifests/db.yaml").write_text("password: none")
    assert mentioned({"DbPassword", "NodeToken"}, tmp_path, recorded(), []) == ()
    assert [fault.where for fault in mentioned({"NodeToken"}, tmp_path, recorded(), ["join --token $NodeToken"])] == ["-e NodeToken"]
    assert mentioned(set(), tmp_path, recorded(), ["$NodeToken"]) == ()

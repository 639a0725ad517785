"""More names for the API servers: in the configuration of kubeadm, and in their certificates."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from harness.errors import InputError
from harness.lifecycle.cluster.sans import check_names, configure_names, with_names
from tests.unit.lifecycle.standin import StandIn


def test_check_names_returns_normalized_names_or_reports_all_faults() -> None:
    assert check_names(["API.example.com", "api.example.com", "10.0.0.1", "fd00::1", "*.apps.lab", "localhost"]) == (
        "api.example.com", "10.0.0.1", "fd00::1", "*.apps.lab", "localhost",
    )  # fmt: skip
    with pytest.raises(InputError) as wrong:
        check_names(["ok", "a b", "10.0.0.300", "-x", "https://x", "fd00::zz", "a..b", "$(id)", "x" * 64])
    assert len(wrong.value.faults) == 8


def test_with_names_merges_sans_into_kubeadm_configuration() -> None:
    text = "kind: InitConfiguration\n---\nkind: ClusterConfiguration\napiServer:\n  certSANs: [a, b]\nclusterName: lab\n---\nkind: X\n"
    found = list(yaml.safe_load_all(with_names(text, ["b", "c"])))
    assert [one["kind"] for one in found] == ["InitConfiguration", "ClusterConfiguration", "X"]
    assert found[1] == {"kind": "ClusterConfiguration", "apiServer": {"certSANs": ["a", "b", "c"]}, "clusterName": "lab"}
    assert yaml.safe_load(with_names("kind: ClusterConfiguration\n", ["c"]))["apiServer"] == {"certSANs": ["c"]}
    assert with_names(with_names(text, ["c"]), ["c"]) == with_names(text, ["c"])


def test_configure_names_replaces_config_map_without_force() -> None:
    node = StandIn("10.0.0.1", "one")
    config: dict[str, Any] = {"metadata": {"resourceVersion": "5"}, "data": {"ClusterConfiguration": "kind: ClusterConfiguration\n"}}
    node.answers = {"get configmap kubeadm-config": json.dumps(config)}
    configure_names(node, ("api.example.com",))
    assert node.commands[-1].endswith("replace -f -")

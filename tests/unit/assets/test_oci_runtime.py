"""The runtime of engines that we start: what is taken out of a container's request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.assets import oci_runtime
from harness.host import docker

ALL = "CapBnd:\t000001ffffffffff"
WITHOUT_RESOURCE = "Name:\tx\nCapBnd:\t000001fffeffffff\n"


def test_missing_capabilities_are_read_from_bounding_set() -> None:
    assert oci_runtime.missing(ALL) == set()
    assert oci_runtime.missing(WITHOUT_RESOURCE) == {"CAP_SYS_RESOURCE"}


def test_rewrite_bundle_removes_missing_capabilities_from_all_sets(tmp_path: Path) -> None:
    bundle = tmp_path / "config.json"
    wanted = ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
    bundle.write_text(json.dumps({"process": {"args": ["sh"], "capabilities": {"bounding": wanted, "effective": wanted}}}))
    oci_runtime.rewrite_bundle(bundle, {"CAP_SYS_RESOURCE"})
    process = json.loads(bundle.read_text())["process"]
    assert process == {"args": ["sh"], "capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"]}}


@pytest.mark.parametrize(
    ("shares", "process"),
    [
        (oci_runtime.STEP_SHARES, {"capabilities": {"bounding": ["CAP_CHOWN"]}, "noNewPrivileges": True}),
        (1024, {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_NET_RAW"]}}),
        (None, {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_NET_RAW"]}}),
    ],
)
def test_rewrite_bundle_of_build_step_drops_net_raw_and_forbids_new_privileges(tmp_path: Path, shares: int | None, process: object) -> None:
    bundle = tmp_path / "config.json"
    wanted = {"capabilities": {"bounding": ["CAP_CHOWN", "CAP_NET_RAW"]}}
    bundle.write_text(json.dumps({"process": wanted, "linux": {"resources": {"cpu": {"shares": shares} if shares else {}}}}))
    oci_runtime.rewrite_bundle(bundle, set())
    assert json.loads(bundle.read_text())["process"] == process


def test_step_limits_of_engine_match_shares_of_runtime() -> None:
    assert docker.STEP_LIMITS == {"cpushares": oci_runtime.STEP_SHARES}


def test_rewrite_process_without_capabilities_changes_nothing(tmp_path: Path) -> None:
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["true"]}))
    oci_runtime.rewrite_process(process, {"CAP_SYS_RESOURCE"})
    assert json.loads(process.read_text()) == {"args": ["true"]}


def test_option_value_is_found_in_both_spellings() -> None:
    assert oci_runtime.option(["create", "--bundle", "/b", "id"], "--bundle", "-b") == "/b"
    assert oci_runtime.option(["exec", "--process=/p", "id"], "--process", "-p") == "/p"
    assert oci_runtime.option(["create", "id"], "--bundle") is None

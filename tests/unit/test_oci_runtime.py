"""The runtime for machines that lack capabilities: what is taken out of a container's request."""

from __future__ import annotations

import json
from pathlib import Path

from harness.assets import oci_runtime

ALL = "CapBnd:\t000001ffffffffff"
WITHOUT_RESOURCE = "Name:\tx\nCapBnd:\t000001fffeffffff\n"


def test_what_is_missing_is_read_from_the_bounding_set() -> None:
    assert oci_runtime.missing(ALL) == set()
    assert oci_runtime.missing(WITHOUT_RESOURCE) == {"CAP_SYS_RESOURCE"}


def test_missing_capabilities_leave_every_set_of_a_bundle(tmp_path: Path) -> None:
    bundle = tmp_path / "config.json"
    wanted = ["CAP_SYS_ADMIN", "CAP_SYS_RESOURCE"]
    bundle.write_text(json.dumps({"process": {"args": ["sh"], "capabilities": {"bounding": wanted, "effective": wanted}}}))
    oci_runtime.rewrite(bundle, {"CAP_SYS_RESOURCE"}, nested=True)
    process = json.loads(bundle.read_text())["process"]
    assert process == {"args": ["sh"], "capabilities": {"bounding": ["CAP_SYS_ADMIN"], "effective": ["CAP_SYS_ADMIN"]}}


def test_an_exec_without_capabilities_stays_as_it_is(tmp_path: Path) -> None:
    process = tmp_path / "process.json"
    process.write_text(json.dumps({"args": ["true"]}))
    oci_runtime.rewrite(process, {"CAP_SYS_RESOURCE"}, nested=False)
    assert json.loads(process.read_text()) == {"args": ["true"]}


def test_options_are_found_in_both_spellings() -> None:
    assert oci_runtime.option(["create", "--bundle", "/b", "id"], "--bundle", "-b") == "/b"
    assert oci_runtime.option(["exec", "--process=/p", "id"], "--process", "-p") == "/p"
    assert oci_runtime.option(["create", "id"], "--bundle") is None

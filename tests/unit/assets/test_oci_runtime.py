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


def lent(folder: Path) -> Path:
    for name in oci_runtime.LENT:
        (folder / name).write_text("lent")
    return folder


def configured(folder: Path, shares: int, env: list[str]) -> Path:
    path = folder / "config.json"
    process = {"env": env, "capabilities": {"bounding": ["CAP_CHOWN"]}}
    path.write_text(json.dumps({"process": process, "mounts": [], "linux": {"resources": {"cpu": {"shares": shares}}}}))
    return path


def test_rewrite_bundle_of_build_step_mounts_lent_authorities_in_memory_and_keeps_its_own_variables(tmp_path: Path) -> None:
    path = configured(tmp_path, oci_runtime.STEP_SHARES, ["PATH=/bin", "SSL_CERT_FILE=/own"])
    oci_runtime.rewrite_bundle(path, set(), lent(tmp_path))
    configuration = json.loads(path.read_text())
    assert {(one["source"], one["destination"]) for one in configuration["mounts"]} == {
        (str(tmp_path / name), place) for name, place in oci_runtime.LENT.items()
    }
    assert all(one["type"] == "bind" and "ro" in one["options"] for one in configuration["mounts"])
    assert all(one["destination"].startswith("/dev/") for one in configuration["mounts"])
    env = configuration["process"]["env"]
    assert env[:2] == ["PATH=/bin", "SSL_CERT_FILE=/own"]
    assert {"APT_CONFIG=/dev/slipway-authorities.conf", "CURL_CA_BUNDLE=/dev/slipway-authorities.crt"} <= set(env)
    assert len([word for word in env if word.startswith("SSL_CERT_FILE=")]) == 1


@pytest.mark.parametrize(("shares", "files"), [(1024, tuple(oci_runtime.LENT)), (oci_runtime.STEP_SHARES, (oci_runtime.AUTHORITIES,))])
def test_rewrite_bundle_without_step_or_without_all_files_lends_nothing(tmp_path: Path, shares: int, files: tuple[str, ...]) -> None:
    path = configured(tmp_path, shares, ["PATH=/bin"])
    for name in files:
        (tmp_path / name).write_text("lent")
    oci_runtime.rewrite_bundle(path, set(), tmp_path)
    configuration = json.loads(path.read_text())
    assert (configuration["mounts"], configuration["process"]["env"]) == ([], ["PATH=/bin"])


def test_lend_authorities_writes_bundle_and_setting_of_apt_and_takes_them_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle, state = tmp_path / "company.pem", tmp_path / "engine"
    bundle.write_text("of the company")
    monkeypatch.setattr(docker, "STATE", state)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    docker.lend_authorities(bundle)
    assert not state.exists()  # another engine
    state.mkdir()
    (state / "oci-runtime").touch()
    docker.lend_authorities(bundle)
    assert (state / oci_runtime.AUTHORITIES).read_text() == "of the company"
    assert (state / oci_runtime.APT).read_text() == 'Acquire::https::CAInfo "/dev/slipway-authorities.crt";\n'
    assert (state / oci_runtime.APT).stat().st_mode & 0o777 == 0o644
    docker.lend_authorities(None)
    assert [path.name for path in state.iterdir()] == ["oci-runtime"]


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

"""What containers of a build are lent of this machine's network."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import log
from harness.host import site_network


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*site_network.PROXIES, "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_proxies_are_read_from_environment_in_either_case(monkeypatch: pytest.MonkeyPatch) -> None:
    assert site_network.proxies() == {}
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    monkeypatch.setenv("http_proxy", "")
    assert site_network.proxies() == {"HTTPS_PROXY": "http://proxy.example:3128", "no_proxy": "10.0.0.0/8"}


def test_proxies_password_is_hidden_in_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://alice:open%20sesame@proxy.example:3128")
    site_network.proxies()
    assert log.hidden("CONNECT as alice:open%20sesame, that is 'open sesame'") == f"CONNECT as alice:{log.GONE}, that is '{log.GONE}'"


def test_proxies_invalid_address_is_kept_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://[::1")
    assert site_network.proxies() == {"HTTPS_PROXY": "http://[::1"}


def test_authorities_ssl_cert_file_overrides_system_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_machine, of_the_user = tmp_path / "machine.pem", tmp_path / "user.pem"
    monkeypatch.setattr(site_network, "_BUNDLES", (str(tmp_path / "none.pem"), str(of_the_machine)))
    assert site_network.authorities() is None
    of_the_machine.touch()
    assert site_network.authorities() == of_the_machine
    monkeypatch.setenv("SSL_CERT_FILE", str(of_the_user))
    assert site_network.authorities() == of_the_machine
    of_the_user.touch()
    assert site_network.authorities() == of_the_user


PEM = "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n"


@pytest.mark.parametrize(("bundle", "own"), [("AA BB", False), ("BB", False), ("", False), ("AA BB CC", True), ("CC", True)])
def test_own_authorities_are_those_that_no_package_brings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: str, own: bool) -> None:
    package, machine = tmp_path / "package/mozilla", tmp_path / "machine.pem"
    package.mkdir(parents=True)
    for name in ("AA", "BB"):
        (package / f"{name}.crt").write_text(PEM.format(name))
    machine.write_text("".join(PEM.format(name) for name in bundle.split()).replace("A\n-", "A\r\n-"))
    monkeypatch.setattr(site_network, "_DISTRIBUTED", tmp_path / "package")
    monkeypatch.setattr(site_network, "_BUNDLES", (str(machine),))
    assert site_network.own_authorities() == (machine if own else None)


def test_own_authorities_without_single_files_are_those_of_administrator_or_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, stated, anchors = tmp_path / "machine.pem", tmp_path / "stated.pem", tmp_path / "anchors"
    monkeypatch.setattr(site_network, "_DISTRIBUTED", tmp_path / "none")
    monkeypatch.setattr(site_network, "_ADDED", (anchors,))
    monkeypatch.setattr(site_network, "_BUNDLES", (str(machine),))
    assert site_network.own_authorities() is None
    machine.touch()
    assert site_network.own_authorities() is None
    anchors.mkdir()
    (anchors / "company.crt").touch()
    assert site_network.own_authorities() == machine
    (anchors / "company.crt").unlink()
    stated.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(stated))
    assert site_network.own_authorities() == stated

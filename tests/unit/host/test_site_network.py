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

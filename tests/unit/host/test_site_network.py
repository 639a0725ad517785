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


def test_proxies_are_those_of_the_environment_in_either_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    assert site_network.proxies() == {}
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "10.0.0.0/8")
    monkeypatch.setenv("http_proxy", "")
    assert site_network.proxies() == {"HTTPS_PROXY": "http://proxy.example:3128", "no_proxy": "10.0.0.0/8"}


def test_the_password_of_a_proxy_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://alice:open%20sesame@proxy.example:3128")
    site_network.proxies()
    assert log.hidden("CONNECT as alice:open%20sesame, that is 'open sesame'") == f"CONNECT as alice:{log.GONE}, that is '{log.GONE}'"


def test_a_proxy_that_is_no_address_is_handed_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://[::1")
    assert site_network.proxies() == {"HTTPS_PROXY": "http://[::1"}


def test_authorities_are_those_that_the_user_or_else_the_machine_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_the_machine, of_the_user = tmp_path / "machine.pem", tmp_path / "user.pem"
    monkeypatch.setattr(site_network, "_BUNDLES", (str(tmp_path / "none.pem"), str(of_the_machine)))
    assert site_network.authorities() is None
    of_the_machine.touch()
    assert site_network.authorities() == of_the_machine
    monkeypatch.setenv("SSL_CERT_FILE", str(of_the_user))
    assert site_network.authorities() == of_the_machine
    of_the_user.touch()
    assert site_network.authorities() == of_the_user

"""How the command line's words reach the client of registries."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.oci.reference import Reference
from harness.transfer import access
from harness.transfer.access import RegistryAccess

CONF = """
[[registry]]
prefix = "registry.test"
location = "real.test"
[[registry.mirror]]
location = "mirror.test"
"""


@pytest.fixture(autouse=True)
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "registries.conf").write_text(CONF)
    monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(tmp_path / "registries.conf"))


def hosts(*, mirrors: bool = True) -> list[str]:
    with access.client(mirrors=mirrors) as client:
        return [endpoint.host for endpoint in client.registries.endpoints(Reference.parse("registry.test/a/b:1"))]


def test_client_without_mirrors_uses_registry_location_only() -> None:
    assert hosts() == ["mirror.test", "real.test"]
    assert hosts(mirrors=False) == ["real.test"]


def test_client_uses_plain_http_only_on_request() -> None:
    reference = Reference.parse("other.test/a:1")
    with access.client() as client:
        assert [endpoint.base_urls for endpoint in client.registries.endpoints(reference)] == [("https://other.test",)]
    with access.client(RegistryAccess(plain_http=True)) as client:
        assert [endpoint.base_urls for endpoint in client.registries.endpoints(reference)] == [("http://other.test",)]


def test_client_certificate_without_key_or_file_raises_usage_error(tmp_path: Path) -> None:
    (tmp_path / "a.pem").touch()
    with pytest.raises(UsageError, match=r"belong together"):
        access.client(RegistryAccess(cert=tmp_path / "a.pem"))
    with pytest.raises(UsageError, match=r"b\.pem: no such file"):
        access.client(RegistryAccess(cert=tmp_path / "a.pem", key=tmp_path / "b.pem"))
    with pytest.raises(UsageError, match=r"b\.pem: no such file"):
        access.client(RegistryAccess(ca=tmp_path / "b.pem"))

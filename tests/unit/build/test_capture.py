"""Where the capture proxy says that it is."""

from __future__ import annotations

import pytest

from harness.build.capture import Proxy
from harness.oci.store import Store


@pytest.mark.parametrize(
    ("bound", "host", "expected"),
    [
        ("127.0.0.1", None, "http://127.0.0.1:5000/word"),
        ("0.0.0.0", None, "http://127.0.0.1:5000/word"),
        ("::", None, "http://[::1]:5000/word"),
        ("127.0.0.1", "10.0.0.1", "http://10.0.0.1:5000/word"),
    ],
)
def test_hosts_toml_sends_all_pulls_to_proxy_url(
    store: Store, bound: str, host: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Proxy, "port", 5000)
    proxy = Proxy([], store, host=bound, secret="word")
    assert proxy.url(host) == expected
    lines = proxy.hosts_toml(host).splitlines()
    assert lines[:3] == [f'server = "{expected}"', "", f'[host."{expected}"]']

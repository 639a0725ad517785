"""Proxies and CAs of this machine, for containers of a build to reach the site's network as it does.

Both are lent for as long as a step runs: they are in no layer, in no key of a cache and in no argument list.
"""

from __future__ import annotations

import os
import urllib.parse
from pathlib import Path

from harness import log

PROXIES = tuple(form for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for form in (word, word.upper()))
"""Environment variables that programs read, in both spellings."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
BUNDLE = _BUNDLES[0]
"""Path of the CAs in containers of a build, which are Debian."""


def proxies() -> dict[str, str]:
    """The proxies that this process was told in its environment. Their passwords are never shown."""
    urls = {name: value for name in PROXIES if (value := os.environ.get(name))}
    for value in urls.values():
        try:
            password = urllib.parse.urlsplit(value).password
        except ValueError:
            continue
        log.hide(password, urllib.parse.unquote(password) if password else None)
    return urls


def authorities() -> Path | None:
    """The file of the certificate authorities that this machine trusts, a company's own among them; None when there is none."""
    stated = os.environ.get("SSL_CERT_FILE")
    candidates = (stated, *_BUNDLES) if stated else _BUNDLES
    return next((path for name in candidates if (path := Path(name)).is_file()), None)

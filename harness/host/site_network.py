"""Proxies and CAs of this machine, for containers of a build to reach the site's network as it does.

Both are lent for as long as a step runs: they are in no layer, in no key of a cache and in no argument list.
"""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Iterable
from pathlib import Path

from harness import log

PROXIES = tuple(form for word in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy") for form in (word, word.upper()))
"""Environment variables that programs read, in both spellings."""

_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Alpine, Arch
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  # Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",  # SUSE
)
_DISTRIBUTED = Path("/usr/share/ca-certificates")
"""Folder of the certificates that a package of the distribution brings, on Debian and its like."""
_ADDED = (
    Path("/etc/pki/ca-trust/source/anchors"),  # Fedora, RHEL
    Path("/etc/pki/trust/anchors"),  # SUSE
)
"""Folders for certificates that an administrator adds, where the package brings no single files."""
_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)
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


def own_authorities() -> Path | None:
    """``authorities()`` where some of them are not the distribution's, as those of a company; None where a container needs none of them."""
    bundle = authorities()
    if bundle is None:
        return None
    distributed = _certificates(_DISTRIBUTED.rglob("*.crt"))
    if distributed:
        return bundle if _certificates([bundle]) - distributed else None
    added = any(path.is_file() for folder in _ADDED for path in folder.glob("*"))
    return bundle if added or str(bundle) not in _BUNDLES else None


def _certificates(files: Iterable[Path]) -> set[bytes]:
    """The certificates of some files, however their lines are broken."""
    return {b"".join(found.split()) for path in files if path.is_file() for found in _CERTIFICATE.findall(path.read_bytes())}

"""A web site for the hosts that texts fetch files from: HTTPS under their names, by a certificate authority of the test."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import http.server
import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.integration.registry import serving

File = bytes | str
"""What an address serves: a file, or the address that it redirects to."""


@dataclasses.dataclass(frozen=True)
class WebSite:
    """A running site at ``address``, port 443; ``asked`` are the addresses that it answered, in order."""

    address: str
    hosts: tuple[str, ...]
    authority: Path
    """The certificate of the authority that vouches for it."""
    asked: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def web_site(address: str, files: Mapping[str, File], folder: Path) -> Iterator[WebSite]:
    """Serve ``files`` by their whole addresses (``https://HOST/PATH``), with keys and certificates in ``folder``."""
    hosts = tuple(sorted({url.split("/")[2] for url in files}))
    site = WebSite(address, hosts, folder / "authority.crt")
    folder.mkdir(parents=True, exist_ok=True)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = f"https://{self.headers['Host']}{self.path}"
            site.asked.append(url)
            found = files.get(url)
            body = found if isinstance(found, bytes) else b""
            self.send_response(404 if found is None else 302 if isinstance(found, str) else 200)
            if isinstance(found, str):
                self.send_header("Location", found)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer((address, 443), Handler)
    server.socket = _context(hosts, folder).wrap_socket(server.socket, server_side=True)
    with serving(server):
        yield site


def _context(hosts: tuple[str, ...], folder: Path) -> ssl.SSLContext:
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = _certificate("tests: authority", authority_key, None, authority_key, ())
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _certificate("tests: web site", key, authority, authority_key, hosts)
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "authority.crt").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (folder / "site.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "site.key").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "site.crt", folder / "site.key")
    return context


def _certificate(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
    hosts: tuple[str, ...],
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer.subject if issuer else subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def bundle(authority: Path, target: Path, system: Path | None) -> Path:
    """Write the authorities that this machine trusts, and one more."""
    target.write_bytes((system.read_bytes() if system else b"") + authority.read_bytes())
    return target

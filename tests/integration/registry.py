"""Real registries for tests: processes of Debian's docker-registry on loopback, plain, with passwords, with tokens, or as caches."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import urllib3
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

from harness.oci.model import (
    DOCKER_CONFIG,
    DOCKER_INDEX,
    DOCKER_LAYER_GZIP,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
    Platform,
    canonical_json,
    digest_of,
)
from tests.waiting import HANG, until

PROGRAM = "docker-registry"
USER = "alice"
PASSWORD = "open sesame"
# bcrypt with the lowest cost: a registry checks it at every request.
HTPASSWD = "alice:$2b$04$8ogybSuTgyLFTFl.RO0he.GmDsvIv0GgR6L1ol8d3/SvCRnFaHhTW\n"


@dataclasses.dataclass(frozen=True)
class Registry:
    """A running registry: ``host`` is ``127.0.0.1:port``, ``log`` the file it writes its requests to, ``pid`` its process."""

    host: str
    log: Path
    pid: int
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}"

    def requests(self, method: str, pattern: str) -> list[str]:
        """The paths of the requests it has answered that match, in order."""
        found = re.findall(rf'"{method} (\S+) HTTP/1\.1" \d+', self.log.read_text())
        return [path for path in found if re.search(pattern, path)]


@contextlib.contextmanager
def registry(
    folder: Path,
    *,
    auth: Mapping[str, Any] | None = None,
    proxy: str | None = None,
    tls: Mapping[str, Any] | None = None,
    address: str = "127.0.0.1",
    program: str | Path | None = None,
) -> Iterator[Registry]:
    """Run a registry with its data below ``folder``: with an ``auth`` or ``tls`` section, or as cache of the registry ``proxy`` (a URL).

    ``program`` is another one than Debian's that takes the same configuration.
    """
    program = program or shutil.which(PROGRAM)
    if program is None:
        raise RuntimeError(f"{PROGRAM} is not installed: these tests need the real one, install the package {PROGRAM}")
    folder.mkdir(parents=True, exist_ok=True)
    # The registry says which port it got.
    settings: dict[str, Any] = {
        "version": "0.1",
        "log": {"level": "info", "accesslog": {"disabled": False}},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": f"{address}:0"},
    }
    if auth:
        settings["auth"] = auth
    if tls:
        settings["http"]["tls"] = tls
    if proxy:
        settings["proxy"] = {"remoteurl": proxy}
    (folder / "config.yml").write_text(yaml.safe_dump(settings))
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", str(folder / "config.yml")], stdout=output, stderr=output, env={**os.environ, "OTEL_TRACES_EXPORTER": "none"}
        )
    try:
        yield Registry(_address(process, log), log, process.pid, "https" if tls else "http")
    finally:
        process.terminate()
        process.wait(HANG)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    def address() -> str:
        found = re.search(r"listening on (\d+\.\d+\.\d+\.\d+:\d+)", log.read_text())
        return found[1] if found else ""

    until(lambda: address() or process.poll() is not None, log.read_text)
    if not address():
        raise RuntimeError(f"{PROGRAM} does not start:\n{log.read_text()}")
    return address()


# Images


@dataclasses.dataclass(frozen=True)
class Image:
    """A generated image or index: what to push, in order. ``blobs`` and ``manifests`` are digest -> bytes (and media type)."""

    digest: str
    media_type: str
    manifests: Mapping[str, tuple[str, bytes]]
    blobs: Mapping[str, bytes]

    @property
    def data(self) -> bytes:
        return self.manifests[self.digest][1]

    @property
    def digests(self) -> set[str]:
        return {*self.manifests, *self.blobs}


def image(seed: str, *, layers: int = 2, size: int = 10_000, platform: str = "linux/amd64", docker: bool = False) -> Image:
    """An image of random layers that are the same for the same seed."""
    source = random.Random(seed)
    contents = [source.randbytes(size) for _ in range(layers)]
    there = Platform.parse(platform)
    config = canonical_json(
        {**there.to_json(), "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in contents]}, "config": {}}
    )
    types = (DOCKER_MANIFEST, DOCKER_CONFIG, DOCKER_LAYER_GZIP) if docker else (OCI_MANIFEST, OCI_CONFIG, OCI_LAYER_GZIP)
    value = {
        "schemaVersion": 2,
        "mediaType": types[0],
        "config": _describe(types[1], config),
        "layers": [_describe(types[2], data) for data in contents],
    }
    manifest = canonical_json(value)
    blobs = {digest_of(data): data for data in (config, *contents)}
    return Image(digest_of(manifest), types[0], {digest_of(manifest): (types[0], manifest)}, blobs)


def index(children: Mapping[str, Image], *, docker: bool = False) -> Image:
    """An index of images by platform."""
    media_type = DOCKER_INDEX if docker else OCI_INDEX
    entries = [
        {**_describe(child.media_type, child.data), "platform": Platform.parse(platform).to_json()} for platform, child in children.items()
    ]
    data = canonical_json({"schemaVersion": 2, "mediaType": media_type, "manifests": entries})
    manifests = {digest: manifest for child in children.values() for digest, manifest in child.manifests.items()}
    blobs = {digest: blob for child in children.values() for digest, blob in child.blobs.items()}
    return Image(digest_of(data), media_type, {**manifests, digest_of(data): (media_type, data)}, blobs)


def _describe(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def push(where: Registry, repository: str, tag: str, what: Image, *, headers: Mapping[str, str] | None = None) -> None:
    """Push an image the plain way, each blob in one request."""
    with urllib3.PoolManager() as http:

        def ask(method: str, url: str, body: bytes, content_type: str) -> urllib3.BaseHTTPResponse:
            answer = http.request(method, url, body=body, headers={"Content-Type": content_type, **(headers or {})})
            assert answer.status in (201, 202), (method, url, answer.status, answer.data)
            return answer

        for digest, data in what.blobs.items():
            started = ask("POST", f"{where.url}/v2/{repository}/blobs/uploads/", b"", "application/octet-stream")
            location = urllib.parse.urljoin(where.url, started.headers["Location"])
            ask("PUT", f"{location}&digest={digest}", data, "application/octet-stream")
        for digest, (media_type, data) in what.manifests.items():
            target = tag if digest == what.digest else digest
            ask("PUT", f"{where.url}/v2/{repository}/manifests/{target}", data, media_type)


def basic(user: str = USER, password: str = PASSWORD) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


# Passwords and tokens


@contextlib.contextmanager
def password_registry(folder: Path, *, address: str = "127.0.0.1") -> Iterator[Registry]:
    """A registry that lets only USER with PASSWORD in."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "htpasswd").write_text(HTPASSWD)
    with registry(folder, auth={"htpasswd": {"realm": "test", "path": str(folder / "htpasswd")}}, address=address) as running:
        yield running


@dataclasses.dataclass
class TokenServer:
    """Gives tokens to USER; ``granted`` are the scopes it gave, in order."""

    url: str
    granted: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def token_registry(folder: Path) -> Iterator[tuple[Registry, TokenServer]]:
    """A registry that takes only tokens, and the server that gives them for USER and PASSWORD."""
    folder.mkdir(parents=True, exist_ok=True)
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    certificate = _certificate(key)
    (folder / "tokens.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    with _token_server(key, certificate) as tokens:
        section = {"realm": f"{tokens.url}/token", "service": "test", "issuer": "tests", "rootcertbundle": str(folder / "tokens.crt")}
        with registry(folder, auth={"token": section}) as running:
            yield running, tokens


@contextlib.contextmanager
def _token_server(key: rsa.RSAPrivateKey, certificate: x509.Certificate) -> Iterator[TokenServer]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
            if self.headers.get("Authorization") != basic()["Authorization"]:
                self._answer(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect username or password"}]})
                return
            scopes = asked.get("scope", [])  # none: who only wants to show that he may come in
            tokens.granted += scopes
            self._answer(200, {"token": _token(key, certificate, asked["service"][0], scopes), "expires_in": 300})

        def _answer(self, status: int, value: Mapping[str, Any]) -> None:
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        tokens = TokenServer(f"http://127.0.0.1:{port}")
        yield tokens


@contextlib.contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[int]:
    """Run a server in a thread; its port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _token(key: rsa.RSAPrivateKey, certificate: x509.Certificate, service: str, scopes: Sequence[str]) -> str:
    now = int(time.time())
    access = [
        dict(zip(("type", "name", "actions"), [*scope.split(":")[:2], scope.split(":")[2].split(",")], strict=True)) for scope in scopes
    ]
    der = base64.b64encode(certificate.public_bytes(serialization.Encoding.DER)).decode()
    header = {"typ": "JWT", "alg": "RS256", "x5c": [der]}
    claims = {
        "iss": "tests",
        "sub": USER,
        "aud": service,
        "exp": now + 300,
        "nbf": now - 60,
        "iat": now,
        "jti": os.urandom(8).hex(),
        "access": access,
    }
    signed = b".".join(_base64url(json.dumps(part).encode()) for part in (header, claims))
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + _base64url(signature)).decode()


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    return builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(key, hashes.SHA256())


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def mirrored_by(found: Registry, *domains: str) -> str:
    """A registries.conf in which a registry on loopback holds the repositories of ``domains``, each below its name."""
    return "".join(
        f'[[registry]]\nprefix = "{domain}"\nlocation = "{domain}"\nblocked = false\n'
        f'[[registry.mirror]]\nlocation = "{found.host}/{domain}"\ninsecure = true\n'
        for domain in domains
    )

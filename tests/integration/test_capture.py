"""The capture proxy between real clients (skopeo, containerd) and real registries, and before one that misbehaves."""

from __future__ import annotations

import contextlib
import datetime
import http.client
import ipaddress
import json
import os
import shutil
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from harness import process
from harness.build.capture import Proxy
from harness.build.image_set import collect
from harness.build.pull_record import PulledImage
from harness.errors import BuildError
from harness.oci.model import DOCKER_INDEX, OCI_INDEX, OCI_MANIFEST, Platform
from harness.oci.reference import Reference
from harness.oci.registry import config as registry_config
from harness.oci.registry.client import Client
from harness.oci.registry.credentials import CredentialStore
from harness.oci.registry.errors import RetryPolicy
from harness.oci.registry.guarded import GuardedSource, NoLogins, Permits
from harness.oci.registry.sources import LayoutSource
from harness.oci.store import Store
from harness.trust.policy import Gate
from tests.integration import faulty as bad
from tests.integration.faulty import Faulty, faulty
from tests.integration.registry import (
    PASSWORD,
    USER,
    Image,
    Registry,
    TokenServer,
    basic,
    image,
    index,
    password_registry,
    push,
    registry,
    sha256,
)
from tests.waiting import HANG, until

QUICK = RetryPolicy(connect=1.0, read=1.0, attempts=3, timeouts=2, backoff=0.01, longest_wait=2.0)
WEB = index({"linux/amd64": image("web"), "linux/arm64": image("web arm", platform="linux/arm64")})
TOOL = image("tool", docker=True)
LARGE = image("large", layers=1, size=6 << 20)
SECRET = image("secret")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Holds ``docker.io`` below hub/ and ``quay.io`` below quay/."""
    with registry(tmp_path_factory.mktemp("upstream")) as running:
        push(running, "hub/library/web", "1.0", WEB)
        push(running, "quay/team/tool", "v2", TOOL)
        push(running, "quay/team/large", "1", LARGE)
        yield running


@pytest.fixture
def server() -> Iterator[Faulty]:
    with faulty() as running:
        yield running


def remote(client: Client) -> GuardedSource:
    """All registries, with logins for every repository."""
    return GuardedSource(client, client, Permits(["*"]), Gate().admit_remote)


class Setup:
    """A proxy before the registries of one registries.conf, with the Docker configuration of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "store")
        self.docker = folder / "docker"
        self.docker.mkdir()
        self.rules = registry_config.Registries()

    def registries(self, *tables: str) -> None:
        path = self.folder / "registries.conf"
        path.write_text("\n".join(tables))
        self.rules = registry_config.load(path)

    def login(self, config: Mapping[str, object]) -> None:
        (self.docker / "config.json").write_text(json.dumps(config))

    def source(self, stack: contextlib.ExitStack) -> GuardedSource:
        return remote(stack.enter_context(Client(self.rules, CredentialStore(self.docker), retry=QUICK)))

    @contextlib.contextmanager
    def proxy(self, *, secret: str | None = None) -> Iterator[Proxy]:
        with contextlib.ExitStack() as stack:
            yield stack.enter_context(Proxy([self.source(stack)], self.store, secret=secret))

    @contextlib.contextmanager
    def guarded(self, permits: Permits) -> Iterator[Proxy]:
        """As a build has it: with logins for what is permitted only."""
        with contextlib.ExitStack() as stack:
            client = stack.enter_context(Client(self.rules, CredentialStore(self.docker), retry=QUICK))
            anonymous = stack.enter_context(Client(self.rules, NoLogins(), retry=QUICK))
            yield stack.enter_context(Proxy([GuardedSource(client, anonymous, permits, Gate().admit_remote)], self.store))


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def at(prefix: str, location: str, *, insecure: bool = True, extra: str = "") -> str:
    return f'[[registry]]\nprefix = "{prefix}"\nlocation = "{location}"\ninsecure = {str(insecure).lower()}\n{extra}'


class Answer:
    """What the proxy answered; ``body`` may be shorter than promised, which ``complete`` tells."""

    def __init__(self, response: http.client.HTTPResponse, proxy: Proxy) -> None:
        self.status = response.status
        self.reason = response.reason
        self.headers = response.headers
        self.complete = True
        try:
            self.body = response.read()
        except http.client.IncompleteRead as short:
            self.body, self.complete = short.partial, False
        except ConnectionError:
            self.body, self.complete = b"", False
        self.message = "; ".join(proxy.failures.values())
        """The reasons that the build is told; the client is not."""


def ask(proxy: Proxy, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=HANG)
    with contextlib.closing(connection):
        connection.request(
            method, f"/{proxy.secret}{path}", headers=dict(headers or {"Accept": f"{OCI_INDEX}, {DOCKER_INDEX}, {OCI_MANIFEST}, */*"})
        )
        return Answer(connection.getresponse(), proxy)


def blob_of(what: Image) -> tuple[str, bytes]:
    """The largest blob of an image."""
    return max(what.blobs.items(), key=lambda item: len(item[1]))


# Real registries, real clients


def test_proxy_images_of_two_registries_are_copied_unchanged_by_skopeo(upstream: Registry, setup: Setup, tmp_path: Path) -> None:
    setup.registries(at("docker.io", f"{upstream.host}/hub"), at("quay.io", f"{upstream.host}/quay"))
    # skopeo cannot be told of a path before a registry's own.
    with setup.proxy(secret="") as proxy:
        for name, what in (("docker.io/library/web:1.0", WEB), ("quay.io/team/tool:v2", TOOL)):
            target = tmp_path / what.digest[7:]
            source = f"docker://127.0.0.1:{proxy.port}/{name}"
            process.run(["skopeo", "copy", "--all", "--src-tls-verify=false", source, f"dir:{target}"])
            assert sha256((target / "manifest.json").read_bytes()) == what.digest
        # Both platforms of the index, and no child of it as an image of its own.
        assert [(found.reference, found.digest) for found in proxy.pulled] == [
            ("docker.io/library/web:1.0", WEB.digest),
            ("quay.io/team/tool:v2", TOOL.digest),
        ]
        assert not proxy.failures
        assert proxy.served_bytes >= sum(len(data) for data in [*WEB.blobs.values(), *TOOL.blobs.values()])
    for digest in WEB.digests | TOOL.digests:
        setup.store.verify(digest)


@pytest.fixture
def containerd(tmp_path: Path) -> Iterator[str]:
    """A containerd of our own; the path of its socket."""
    if shutil.which("containerd") is None or os.geteuid():
        raise RuntimeError("these tests run the real containerd: install the package containerd, and be root")
    socket = tmp_path / "containerd.sock"
    (tmp_path / "containerd.toml").write_text(
        f'version = 2\nroot = "{tmp_path}/ctd"\nstate = "{tmp_path}/run"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
        f'[grpc]\naddress = "{socket}"\n[ttrpc]\naddress = "{socket}.ttrpc"\n'
    )
    with (tmp_path / "containerd.log").open("wb") as log:
        running = subprocess.Popen(["containerd", "-c", str(tmp_path / "containerd.toml")], stdout=log, stderr=log)
    try:
        until(lambda: process.run(["ctr", "-a", socket, "version"], check=False).ok, (tmp_path / "containerd.log").read_text)
        yield str(socket)
    finally:
        running.terminate()
        running.wait(HANG)


def test_proxy_as_default_host_serves_all_registries_to_containerd(upstream: Registry, setup: Setup, containerd: str) -> None:
    setup.registries(at("docker.io", f"{upstream.host}/hub"), at("quay.io:5000", f"{upstream.host}/quay"))
    with setup.proxy() as proxy:
        folder = setup.folder / "hosts/_default"
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(proxy.hosts_toml())

        def pull(name: str) -> process.ProcessResult:
            return process.run(["ctr", "-a", containerd, "content", "fetch", "--hosts-dir", folder.parent, name], check=False)

        by_digest = f"quay.io:5000/team/large@{LARGE.digest}"
        for name in ("docker.io/library/web:1.0", "quay.io:5000/team/tool:v2", by_digest):
            assert pull(name).ok, pull(name).output
        missing = pull("registry.test/none:1")
        # Refused here, it must not be looked for elsewhere: nothing may come past the record.
        assert not missing.ok
        assert "https://registry.test" not in missing.output
        assert [found.reference for found in proxy.pulled] == ["docker.io/library/web:1.0", by_digest, "quay.io:5000/team/tool:v2"]
        assert list(proxy.failures) == ["registry.test/none:1"]


def test_proxy_tag_fetched_by_digest_is_recorded_as_one_image(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("docker.io", f"{upstream.host}/hub"))
    with setup.proxy() as proxy:
        resolved = ask(proxy, "/v2/library/web/manifests/1.0?ns=docker.io", method="HEAD")
        assert (resolved.status, resolved.body) == (200, b"")
        assert resolved.headers["Docker-Content-Digest"] == WEB.digest
        assert resolved.headers["Content-Length"] == str(len(WEB.data))
        fetched = ask(proxy, f"/v2/library/web/manifests/{WEB.digest}?ns=docker.io")
        assert (fetched.body, fetched.headers["Content-Type"]) == (WEB.data, OCI_INDEX)
        child = next(digest for digest in WEB.manifests if digest != WEB.digest)
        assert ask(proxy, f"/v2/library/web/manifests/{child}?ns=docker.io").body == WEB.manifests[child][1]
        assert [(found.reference, found.times, found.clients) for found in proxy.pulled] == [
            ("docker.io/library/web:1.0", 1, ("127.0.0.1",))
        ]


def test_proxy_digest_without_tag_is_recorded_as_own_image(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("quay.io", f"{upstream.host}/quay"))
    with setup.proxy() as proxy:
        assert ask(proxy, f"/v2/quay.io/team/tool/manifests/{TOOL.digest}").body == TOOL.data
        assert [found.reference for found in proxy.pulled] == [f"quay.io/team/tool@{TOOL.digest}"]


def test_proxy_blob_for_eight_clients_is_requested_once_from_registry(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("quay.io", f"{upstream.host}/quay"))
    digest, data = blob_of(LARGE)
    before = len(upstream.requests("GET", digest))
    with setup.proxy() as proxy, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(proxy, f"/v2/team/large/blobs/{digest}?ns=quay.io"), range(8)))
        assert all(answer.body == data for answer in answers)
    assert len(upstream.requests("GET", digest)) == before + 1


def test_proxy_range_requests_of_blob_return_exact_bytes(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("quay.io", f"{upstream.host}/quay"))
    digest, data = blob_of(LARGE)
    path = f"/v2/quay.io/team/large/blobs/{digest}"
    with setup.proxy() as proxy:
        assert ask(proxy, path).body == data
        for asked, expected in (("bytes=100-199", data[100:200]), ("bytes=6000000-", data[6000000:]), ("bytes=-7", data[-7:])):
            part = ask(proxy, path, headers={"Range": asked})
            assert (part.status, part.body) == (206, expected)
        assert ask(proxy, path, headers={"Range": "bytes=100-199"}).headers["Content-Range"] == f"bytes 100-199/{len(data)}"
        assert ask(proxy, path, headers={"Range": f"bytes={len(data)}-"}).status == 416
        assert int(ask(proxy, path, method="HEAD").headers["Content-Length"]) == len(data)


def test_proxy_connection_serves_several_requests(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("docker.io", f"{upstream.host}/hub"))
    with setup.proxy() as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=HANG)
        with contextlib.closing(connection):
            for path, status in (("/v2/", 200), ("/v2/library/none/manifests/1", 404), ("/v2/library/web/manifests/1.0", 200)):
                connection.request("GET", f"/{proxy.secret}{path}")
                answer = connection.getresponse()
                answer.read()
                assert answer.status == status
                assert not answer.will_close


def test_proxy_large_blob_is_streamed_in_little_memory(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("quay.io", f"{upstream.host}/quay"))
    huge = image("huge", layers=1, size=48 << 20)
    push(upstream, "quay/team/huge", "1", huge)
    digest, data = blob_of(huge)
    with setup.proxy() as proxy:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=HANG)
        with contextlib.closing(connection):
            tracemalloc.start()
            connection.request("GET", f"/{proxy.secret}/v2/quay.io/team/huge/blobs/{digest}")
            answer = connection.getresponse()
            buffer = bytearray(1 << 16)
            got = 0
            while count := answer.readinto(buffer):
                got += count
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
    assert got == len(data)
    assert peak < 8 << 20


# Who we are


def test_proxy_password_registry_is_served_with_login_of_docker_configuration(setup: Setup, tmp_path: Path) -> None:
    with password_registry(tmp_path / "closed") as closed:
        push(closed, "team/secret", "1", SECRET, headers=basic())
        setup.registries(at("closed.test", closed.host))
        with setup.proxy() as proxy:
            refused = ask(proxy, "/v2/closed.test/team/secret/manifests/1")
            assert refused.status == 401
            assert f"{closed.host}: 401 UNAUTHORIZED authentication required" in refused.message
            assert list(proxy.failures) == ["closed.test/team/secret:1"]
        setup.login({"auths": {closed.host: {"auth": basic()["Authorization"].removeprefix("Basic ")}}})
        with setup.proxy() as proxy:
            assert ask(proxy, "/v2/closed.test/team/secret/manifests/1").body == SECRET.data
            digest, data = blob_of(SECRET)
            assert ask(proxy, f"/v2/closed.test/team/secret/blobs/{digest}").body == data
            assert not proxy.failures


def test_proxy_token_is_requested_once_per_repository(
    setup: Setup, tokens: tuple[Registry, TokenServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, server = tokens
    helper = tmp_path / "bin/docker-credential-vault"
    helper.parent.mkdir()
    helper.write_text(f"""#!/bin/sh
[ "$1" = get ] && [ "$(cat)" = "{closed.host}" ] || {{ echo "credentials not found in native keychain"; exit 1; }}
echo '{{"ServerURL": "{closed.host}", "Username": "{USER}", "Secret": "{PASSWORD}"}}'
""")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    setup.login({"credHelpers": {closed.host: "vault"}})
    setup.registries(at("tokens.test", closed.host))
    with setup.proxy() as proxy:
        # Nobody can push without a token that allows it, so the registry is empty: that it says so is the proof of being let in.
        for tag in ("1", "2", "3"):
            answer = ask(proxy, f"/v2/tokens.test/team/secret/manifests/{tag}")
            assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (404, "MANIFEST_UNKNOWN")
        assert server.granted == ["repository:team/secret:pull"]


def test_proxy_refusing_token_server_is_named_with_reason(setup: Setup, tokens: tuple[Registry, TokenServer]) -> None:
    closed, server = tokens
    setup.login({"auths": {closed.host: {"username": USER, "password": "wrong"}}})
    setup.registries(at("tokens.test", closed.host))
    with setup.proxy() as proxy:
        refused = ask(proxy, "/v2/tokens.test/team/secret/manifests/1")
        assert refused.status == 401
        assert server.url.removeprefix("http://") in refused.message
        assert "incorrect username or password" in refused.message
        assert "wrong" not in refused.message.replace("wrong username", "")


def test_proxy_redirect_to_other_host_does_not_carry_password(setup: Setup, server: Faulty) -> None:
    digest, data = blob_of(SECRET)
    with faulty() as storage:
        path = f"/v2/team/secret/blobs/{digest}"
        challenge = bad.status(401, "UNAUTHORIZED", "who are you", www_authenticate='Basic realm="test"')
        server.on(path, challenge, bad.redirect("/moved"))
        server.on("/moved", bad.redirect(f"{storage.url}/bucket?signature=abc"))
        storage.on("/bucket?signature=abc", bad.ranged(data))
        setup.login({"auths": {server.host: {"username": USER, "password": PASSWORD}}})
        setup.registries(at("cdn.test", server.host))
        with setup.proxy() as proxy:
            assert ask(proxy, f"/v2/cdn.test/team/secret/blobs/{digest}").body == data
        assert server.asked("/moved")[0].headers["authorization"] == basic()["Authorization"]
        assert "authorization" not in storage.requests[0].headers


# Mirrors, TLS


def test_proxy_mirror_without_image_falls_back_to_next_mirror(upstream: Registry, setup: Setup, server: Faulty) -> None:
    mirrors = f'[[registry.mirror]]\nlocation = "{server.host}"\ninsecure = true\n'
    mirrors += f'[[registry.mirror]]\nlocation = "{upstream.host}/hub"\ninsecure = true\n'
    setup.registries(at("docker.io", "127.0.0.1:1", extra=mirrors))
    with setup.proxy() as proxy:
        assert ask(proxy, "/v2/library/web/manifests/1.0").body == WEB.data
        assert proxy.pulled[0].source == upstream.host
        nowhere = ask(proxy, "/v2/library/none/manifests/1.0")
        for reason in (f"mirror {server.host}: 404", f"mirror {upstream.host}: 404", "127.0.0.1:1: no connection: Connection refused"):
            assert reason in nowhere.message
        assert nowhere.status == 502  # its own registry did not say that there is none
    assert len(server.asked("/v2/library/web/manifests/1.0")) == 1


def test_proxy_plain_http_is_not_used_without_insecure_setting(setup: Setup, server: Faulty) -> None:
    server.on("/v2/team/tool/manifests/v2", bad.body(TOOL.data, TOOL.media_type))
    setup.registries(at("plain.test", server.host, insecure=False))
    with setup.proxy() as proxy:
        answer = ask(proxy, "/v2/plain.test/team/tool/manifests/v2")
        assert answer.status == 502
    assert not server.requests


def test_proxy_uses_http_proxy_of_environment(setup: Setup, server: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    server.on("http://far.test/v2/team/tool/manifests/v2", bad.body(TOOL.data, TOOL.media_type))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, f"http://{USER}:{PASSWORD.replace(' ', '%20')}@{server.host}")
    monkeypatch.delenv("no_proxy", raising=False)
    setup.registries(at("far.test", "far.test"))
    with setup.proxy() as proxy:
        # HTTPS first, which this proxy refuses to tunnel; then HTTP, as the file allows.
        assert ask(proxy, "/v2/far.test/team/tool/manifests/v2").body == TOOL.data
    assert server.requests[0].headers["proxy-authorization"] == basic()["Authorization"]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context for 127.0.0.1, and the file of its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    (tmp_path / "server.crt").write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (tmp_path / "server.key").write_bytes(private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.crt", tmp_path / "server.key")
    return context, tmp_path / "server.crt"


def test_proxy_untrusted_certificate_is_refused_unless_ca_or_insecure_is_set(
    setup: Setup, certificate: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, authority = certificate
    monkeypatch.setenv("XDG_CONFIG_HOME", str(setup.folder / "config"))
    with faulty(context) as server:
        server.on("/v2/team/tool/manifests/v2", bad.body(TOOL.data, TOOL.media_type))
        setup.registries(at("tls.test", server.host, insecure=False))
        with setup.proxy() as proxy:
            answer = ask(proxy, "/v2/tls.test/team/tool/manifests/v2")
            assert (answer.status, "no trusted TLS: self-signed certificate" in answer.message) == (502, True)
            assert not server.requests
        folder = setup.folder / "config/containers/certs.d" / server.host
        folder.mkdir(parents=True)
        shutil.copy(authority, folder / "ca.crt")
        setup.registries(at("tls.test", server.host, insecure=False))
        with setup.proxy() as proxy:
            assert ask(proxy, "/v2/tls.test/team/tool/manifests/v2").body == TOOL.data
        (folder / "ca.crt").unlink()
        setup.registries(at("tls.test", server.host, insecure=True))
        with setup.proxy() as proxy:  # insecure: TLS as well, but unchecked
            assert ask(proxy, "/v2/tls.test/team/tool/manifests/v2").body == TOOL.data


# Misbehaving registries


def pull_blob(setup: Setup, server: Faulty, data: bytes, *answers: bad.Answer) -> tuple[Answer, Proxy]:
    """Ask the proxy for a blob that the faulty server answers so."""
    digest = sha256(data)
    server.on(f"/v2/team/app/blobs/{digest}", *answers)
    setup.registries(at("bad.test", server.host))
    with setup.proxy() as proxy:
        return ask(proxy, f"/v2/bad.test/team/app/blobs/{digest}"), proxy


def pull_manifest(setup: Setup, server: Faulty, *answers: bad.Answer, target: str = "1") -> tuple[Answer, Proxy]:
    server.on(f"/v2/team/app/manifests/{target}", *answers)
    setup.registries(at("bad.test", server.host))
    with setup.proxy() as proxy:
        return ask(proxy, f"/v2/bad.test/team/app/manifests/{target}"), proxy


def nothing_stored(setup: Setup) -> bool:
    return not list((setup.store.root / "blobs/sha256").iterdir()) and not list((setup.store.root / "tmp").iterdir())


def test_proxy_accept_header_of_client_reaches_registry(setup: Setup, server: Faulty) -> None:
    pull_manifest(setup, server, bad.body(TOOL.data, TOOL.media_type))
    assert server.requests[0].headers["accept"] == f"{OCI_INDEX}, {DOCKER_INDEX}, {OCI_MANIFEST}, */*"


def test_proxy_refusal_passes_status_and_code_but_hides_message_from_client(setup: Setup, server: Faulty) -> None:
    answer, proxy = pull_manifest(setup, server, bad.status(403, "DENIED", "your plan has ended"))
    assert (answer.status, json.loads(answer.body)["errors"][0]["code"]) == (403, "DENIED")
    assert answer.message == f"bad.test/team/app:1: {server.host}: 403 DENIED your plan has ended"
    assert proxy.failures == {"bad.test/team/app:1": answer.message}
    # A client could read with them what only this machine reaches.
    assert b"your plan" not in answer.body
    assert server.host.encode() not in answer.body
    assert "bad.test/team/app:1 cannot be fetched (403)" in answer.reason  # all that a client sees of an answer to HEAD
    answer, _ = pull_manifest(setup, server, bad.status(500, "ROOT PASSWORD IS", "hunter2"), target="2")
    assert json.loads(answer.body)["errors"][0]["code"] == "UNKNOWN"
    assert "hunter2" not in f"{answer.body!r}{answer.reason}"


def test_proxy_request_without_secret_is_refused(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("docker.io", f"{upstream.host}/hub"))
    path = "/v2/library/web/manifests/1.0?ns=docker.io"
    with setup.proxy() as proxy:
        assert ask(proxy, path).status == 200
        served = proxy.pulled
        for wrong in (path, f"/{proxy.secret[:-1]}{path}", f"/{proxy.secret}x{path}", f"/{'x' * len(proxy.secret)}{path}", "/v2/"):
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=HANG)) as connection:
                connection.request("GET", wrong)
                refused = connection.getresponse()
                body = refused.read()
            assert refused.status == 404, wrong
            assert b"web" not in body
        assert proxy.pulled == served
        assert proxy.secret in proxy.hosts_toml()
    with setup.proxy() as other:
        assert other.secret != proxy.secret


def test_proxy_login_is_used_for_permitted_repositories_only(setup: Setup, tmp_path: Path) -> None:
    with password_registry(tmp_path / "closed") as closed:
        for name in ("team/secret", "team/other", "free/one"):
            push(closed, name, "1", SECRET, headers=basic())
        setup.registries(at("closed.test", closed.host))
        setup.login({"auths": {closed.host: {"auth": basic()["Authorization"].removeprefix("Basic ")}}})
        permits = Permits(["closed.test/free/*"])
        permits.declare(["closed.test/team/secret:9"])
        with setup.guarded(permits) as proxy:
            for name in ("team/secret", "free/one"):
                assert ask(proxy, f"/v2/closed.test/{name}/manifests/1").status == 200, name
            assert not proxy.failures
            refused = ask(proxy, "/v2/closed.test/team/other/manifests/1")
            assert refused.status == 401
            assert "no login is used for it, since no file of the image names the repository" in refused.message


def test_proxy_undeclared_host_is_refused_without_request(setup: Setup, server: Faulty) -> None:
    with setup.guarded(Permits()) as proxy:
        for domain in (server.host, "localhost:5000", "169.254.169.254", "metadata.google.internal", "[::1]:80"):
            refused = ask(proxy, f"/v2/x/y/manifests/1?ns={domain}")
            assert refused.status == 403, domain
    assert server.requests == []
    permits = Permits()
    permits.declare([f"{server.host}/x/y:1"])
    with setup.guarded(permits) as proxy:
        assert ask(proxy, f"/v2/x/y/manifests/1?ns={server.host}").status != 403


def test_proxy_failure_is_forgotten_after_success(setup: Setup, server: Faulty) -> None:
    server.on("/v2/team/app/manifests/1", bad.status(404, "MANIFEST_UNKNOWN", "unknown"), bad.body(TOOL.data, TOOL.media_type))
    setup.registries(at("bad.test", server.host))
    with setup.proxy() as proxy:
        assert ask(proxy, "/v2/bad.test/team/app/manifests/1").status == 404
        assert list(proxy.failures) == ["bad.test/team/app:1"]
        assert ask(proxy, "/v2/bad.test/team/app/manifests/1").status == 200
        assert not proxy.failures


def test_proxy_busy_registry_is_retried(setup: Setup, server: Faulty) -> None:
    answer, _ = pull_manifest(setup, server, bad.status(503), bad.status(429, retry_after="0"), bad.body(TOOL.data, TOOL.media_type))
    assert answer.body == TOOL.data
    assert len(server.requests) == 3


def test_proxy_busy_registry_is_given_up_after_allowed_attempts(setup: Setup, server: Faulty) -> None:
    answer, _ = pull_manifest(setup, server, bad.status(503, "UNAVAILABLE", "in repair"))
    assert (answer.status, "503 UNAVAILABLE in repair" in answer.message) == (503, True)
    assert len(server.requests) == QUICK.attempts


def test_proxy_excessive_retry_after_is_not_waited_for(setup: Setup, server: Faulty) -> None:
    answer, _ = pull_manifest(setup, server, bad.status(429, "TOOMANYREQUESTS", "pull rate limit", retry_after="3600"))
    assert (answer.status, "pull rate limit (come back in 3600 s)" in answer.message) == (429, True)
    assert len(server.requests) == 1


def test_proxy_silent_registry_returns_504_and_is_named(setup: Setup, server: Faulty) -> None:
    answer, _ = pull_manifest(setup, server, bad.hang)
    assert (answer.status, f"{server.host}: silent for 1 s" in answer.message) == (504, True)
    assert len(server.requests) == QUICK.timeouts


@pytest.mark.parametrize("break_off", [bad.broken, bad.broken_without_ranges], ids=["with ranges", "without ranges"])
def test_proxy_blob_over_broken_connection_arrives_whole(setup: Setup, server: Faulty, break_off: type) -> None:
    data = blob_of(LARGE)[1]
    answer, proxy = pull_blob(setup, server, data, break_off(data, 2_500_000), break_off(data, 4_000_000), bad.ranged(data))
    assert answer.body == data
    assert not proxy.failures
    setup.store.verify(sha256(data))
    assert len(server.requests) == 3
    assert server.requests[1].headers["range"].startswith("bytes=")


def test_proxy_stalled_blob_is_completed(setup: Setup, server: Faulty) -> None:
    data = blob_of(LARGE)[1]
    answer, _ = pull_blob(setup, server, data, bad.stalled(data, 3_000_000), bad.ranged(data))
    assert answer.body == data


def test_proxy_blob_that_always_breaks_is_neither_completed_nor_stored(setup: Setup, server: Faulty) -> None:
    data = blob_of(LARGE)[1]
    answer, proxy = pull_blob(setup, server, data, bad.broken_without_ranges(data, 2_500_000))
    assert not answer.complete
    assert data.startswith(answer.body)
    assert nothing_stored(setup)
    assert "broke 3 times" in next(iter(proxy.failures.values()))


@pytest.mark.parametrize("size", [1000, 5 << 20], ids=["small", "large"])
def test_proxy_blob_with_wrong_bytes_is_neither_completed_nor_stored(setup: Setup, server: Faulty, size: int) -> None:
    good = image("wrong", layers=1, size=size)
    data = blob_of(good)[1]
    answer, proxy = pull_blob(setup, server, data, bad.body(data[:-1] + b"?"))
    if size < 1 << 20:  # nothing had been sent yet, so the client is told
        assert answer.status == 502
        assert sha256(data) in answer.message
    else:
        assert not answer.complete
    assert nothing_stored(setup)
    assert sha256(data) in next(iter(proxy.failures.values()))


def test_proxy_blob_of_other_size_than_in_manifest_is_refused(setup: Setup, server: Faulty) -> None:
    digest, data = blob_of(TOOL)
    server.on("/v2/team/app/manifests/1", bad.body(TOOL.data, TOOL.media_type))
    server.on(f"/v2/team/app/blobs/{digest}", bad.body(data + b"more"))
    setup.registries(at("bad.test", server.host))
    with setup.proxy() as proxy:
        ask(proxy, "/v2/bad.test/team/app/manifests/1")
        answer = ask(proxy, f"/v2/bad.test/team/app/blobs/{digest}")
        assert answer.status == 502
        assert f"has {len(data) + 4} bytes there, not {len(data)}" in answer.message
        assert list(proxy.failures) == ["bad.test/team/app:1"]  # of the image, not of a nameless blob


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (
            bad.body(b"<html>welcome to the hotel</html>", "text/html"),
            "(char 0): <html>welcome to the hotel</html>",
        ),
        (bad.body(b'{"hello": 1}'), "neither manifest nor index"),
        (bad.body(b'{"schemaVersion": 1, "fsLayers": []}'), "schema 1"),
        (bad.body(TOOL.data, TOOL.media_type, docker_content_digest=WEB.digest), f"calls it {WEB.digest}"),
        (bad.body(b" " * (4 << 20) + TOOL.data, TOOL.media_type), "more than 4194304 are refused"),
        (bad.endless, "more than 4194304 bytes"),
        (bad.redirect("/v2/team/app/manifests/1?again"), "404"),
        (bad.redirect("ftp://elsewhere/x"), "redirects to nowhere"),
    ],
    ids=["html", "other json", "schema 1", "wrong digest header", "too large", "endless", "to nothing", "to nowhere"],
)
def test_proxy_invalid_manifest_is_refused_and_not_stored(setup: Setup, server: Faulty, answer: bad.Answer, reason: str) -> None:
    got, proxy = pull_manifest(setup, server, answer)
    assert got.status in (502, 404)
    assert reason in got.message
    assert server.host in got.message
    assert nothing_stored(setup)
    assert not proxy.pulled


def test_proxy_manifest_of_other_digest_than_requested_is_refused(setup: Setup, server: Faulty) -> None:
    got, _ = pull_manifest(setup, server, bad.body(TOOL.data, TOOL.media_type), target=WEB.digest)
    assert (got.status, f"digest {TOOL.digest} instead of {WEB.digest}" in got.message) == (502, True)
    assert nothing_stored(setup)


def test_proxy_requests_other_than_pulls_are_refused(setup: Setup) -> None:
    with setup.proxy() as proxy:
        assert ask(proxy, "/v2/library/x/blobs/uploads/", method="POST").status == 405
        assert ask(proxy, "/v2/library/x/tags/list").status == 404
        assert ask(proxy, "/v2/library/X/manifests/1").status == 400
        assert ask(proxy, "/v2/library/x/blobs/sha256:123").status == 400
        assert not proxy.failures


def test_proxy_exit_does_not_wait_for_clients_or_registries(setup: Setup, server: Faulty) -> None:
    data = blob_of(LARGE)[1]
    server.on(f"/v2/team/app/blobs/{sha256(data)}", bad.stalled(data, 3_000_000))
    setup.registries(at("bad.test", server.host))
    before = threading.active_count()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(Client(setup.rules, CredentialStore(setup.docker), retry=RetryPolicy(read=3 * HANG)))
        proxy = stack.enter_context(Proxy([remote(client)], setup.store))
        idle, busy = (http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=HANG) for _ in range(2))
        idle.request("GET", f"/{proxy.secret}/v2/")
        idle.getresponse().read()
        busy.request("GET", f"/{proxy.secret}/v2/bad.test/team/app/blobs/{sha256(data)}")
        answer = busy.getresponse()
        assert answer.read(1_000_000) == data[:1_000_000]
        ending = time.monotonic()
    # The registry says nothing for twice as long, and a client would wait longer still.
    assert time.monotonic() - ending < HANG
    assert nothing_stored(setup)
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    idle.close()
    busy.close()
    server.ended.set()
    until(lambda: threading.active_count() <= before, threading.enumerate)


# Images that are here already, and the set of all


def test_proxy_images_of_base_are_served_without_registry(setup: Setup, tmp_path: Path) -> None:
    base = Store(tmp_path / "base")
    for data in [*WEB.blobs.values(), *(manifest for _, manifest in WEB.manifests.values())]:
        base.put(data)
    with Proxy([LayoutSource(base, {"web:1.0": WEB.digest}, "base image")], setup.store) as proxy:
        assert ask(proxy, "/v2/library/web/manifests/1.0?ns=docker.io").body == WEB.data
        assert ask(proxy, f"/v2/library/web/manifests/{WEB.digest}?ns=docker.io").body == WEB.data
        digest, data = blob_of(WEB)
        assert ask(proxy, f"/v2/library/web/blobs/{digest}?ns=docker.io").body == data
        assert ask(proxy, "/v2/library/web/manifests/2.0?ns=docker.io").status == 404
        assert [(found.reference, found.source) for found in proxy.pulled] == [("docker.io/library/web:1.0", "base image")]


class Found:
    def __init__(self, name: str, where: str) -> None:
        self.name = name
        self.where = where


def test_collect_image_set_holds_whole_index_and_one_platform(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("docker.io", f"{upstream.host}/hub"), at("quay.io", f"{upstream.host}/quay"))
    arm = next(digest for digest, (_, data) in WEB.manifests.items() if digest != WEB.digest and _is_for(WEB, data, "arm64"))
    pulled = [PulledImage("docker.io/library/web:1.0", WEB.digest, WEB.media_type, "")]
    declared = [Found("web:1.0", "manifests/web.yaml:3"), Found(f"web@{WEB.digest}", "manifests/web.yaml:9")]
    with contextlib.ExitStack() as stack:
        found = collect(pulled, declared, store=setup.store, sources=[setup.source(stack)], platform=Platform.parse("linux/arm64"))
    assert [(image.name, image.found_by, image.requested_by) for image in found.images] == [
        ("docker.io/library/web:1.0", ("declared", "pulled"), ("manifests/web.yaml:3",)),
        (f"docker.io/library/web@{WEB.digest}", ("declared",), ("manifests/web.yaml:9",)),
    ]
    child = json.loads(WEB.manifests[arm][1])
    expected = {WEB.digest, arm, child["config"]["digest"], *(layer["digest"] for layer in child["layers"])}
    assert {blob.digest for blob in found.blobs} == expected
    for blob in found.blobs:
        setup.store.verify(blob.digest)
        assert setup.store.size(blob.digest) == blob.size


def _is_for(what: Image, manifest: bytes, architecture: str) -> bool:
    config = what.blobs[json.loads(manifest)["config"]["digest"]]
    return bool(json.loads(config)["architecture"] == architecture)


def test_collect_unavailable_images_are_all_reported_at_once(upstream: Registry, setup: Setup) -> None:
    setup.registries(at("docker.io", f"{upstream.host}/hub"), at("quay.io", f"{upstream.host}/quay"))
    declared = [
        Found("web:1.0", "manifests/web.yaml:3"),
        Found("web:none", "manifests/web.yaml:7"),
        Found("quay.io/team/tool:v2", "charts/tool"),
        Found("Not A Name", "imageList:1"),
    ]
    with contextlib.ExitStack() as stack, pytest.raises(BuildError) as failed:
        collect([], declared, store=setup.store, sources=[setup.source(stack)], platform=Platform.parse("linux/s390x"))
    assert failed.value.message.startswith("4 images cannot be fetched:")
    for line in (
        "docker.io/library/web:1.0 (manifests/web.yaml:3): does not exist for linux/s390x, only for linux/amd64, linux/arm64",
        f"docker.io/library/web:none (manifests/web.yaml:7): {upstream.host}: 404 MANIFEST_UNKNOWN manifest unknown",
        "quay.io/team/tool:v2 (charts/tool): does not exist for linux/s390x, only for linux/amd64",
        "Not A Name (imageList:1): 'Not A Name' is not an image name",
    ):
        assert line in failed.value.message


def test_proxy_moved_tag_keeps_image_of_first_request(setup: Setup, server: Faulty) -> None:
    other = image("moved")
    server.on("/v2/team/app/manifests/1", bad.body(TOOL.data, TOOL.media_type), bad.body(other.data, other.media_type))
    setup.registries(at("bad.test", server.host))
    with setup.proxy() as proxy:
        assert ask(proxy, "/v2/bad.test/team/app/manifests/1").body == TOOL.data
        assert ask(proxy, "/v2/bad.test/team/app/manifests/1", headers={"Accept": "*/*"}).body == TOOL.data
        assert proxy.fetcher.manifest(Reference.parse("bad.test/team/app:1")).digest == TOOL.digest

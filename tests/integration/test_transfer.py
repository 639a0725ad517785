"""CloudImages to and from real registries: whole or not at all, only what is missing, over lines and registries that fail."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import datetime
import ipaddress
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import oras.client
import oras.schemas
import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from harness import cloudimage, process
from harness.cloudimage import Blob, EmbeddedImage, ImageSet, Info, PlatformImage
from harness.errors import StoreError
from harness.host import docker
from harness.oci.graph import closure, is_manifest
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.model import OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry import upload
from harness.oci.registry.client import Client
from harness.oci.registry.config import Registries
from harness.oci.registry.credentials import CredentialStore
from harness.oci.registry.errors import RemoteError, RetryPolicy
from harness.oci.registry.manifest import MANIFEST_LIMIT
from harness.oci.store import Store
from harness.transfer import access, pull, push
from harness.transfer.pull import PullResult
from harness.transfer.push import Pushed
from tests.conftest import Slipway
from tests.integration import dying, gotool
from tests.integration import faulty as bad
from tests.integration.faulty import Faulty, faulty
from tests.integration.registry import PASSWORD, USER, Registry, TokenServer, password_registry, registry
from tests.integration.test_build import heed_ctrl_c
from tests.integration.wire import Wire, wire
from tests.waiting import HANG, until

QUICK = RetryPolicy(connect=HANG, read=HANG, attempts=6, backoff=0.005, longest_wait=3.0)
AMD64 = Platform.parse("linux/amd64")
PATIENT = f"""
import dataclasses, sys
from harness.transfer import access
options, login, patience = access.client.__defaults__
access.client.__defaults__ = options, login, dataclasses.replace(patience, read={3 * HANG})
from harness.cli import app
sys.exit(app.execute(sys.argv[1:]))
"""
"""The command line, which waits longer for a silent registry than any test waits for it."""
OVERHEAD = 64 << 10
"""Bytes of requests, answers and manifests that may come on top of the blobs that changed."""


# Images, stores, registries


def make(
    store: Store, name: str, seed: str = "1", *, blobs: int = 4, size: int = 40_000, rootfs: int = 60_000, changed: str = ""
) -> Descriptor:
    """A CloudImage in the store: two layers of rootfs (a program of ``rootfs`` random bytes; a small file) and ``blobs`` embedded ones."""
    source = random.Random(seed)
    with store.shared_lease():
        layers = [
            write_layer([LayerEntry("bin/program", "file", 0o755, source.randbytes(rootfs))], store),
            write_layer([LayerEntry("etc/version", "file", 0o644, f"{seed} {changed}\n".encode())], store),
        ]
        found = sorted(Blob(keep(store, source.randbytes(size)), OCI_LAYER_GZIP, size) for _ in range(blobs))
        images = (EmbeddedImage("docker.io/library/app:1", found[0].digest, OCI_MANIFEST, size),) if found else ()
        descriptors, ids = tuple(layer.descriptor for layer in layers), tuple(layer.diff_id for layer in layers)
        info = Info(kubernetes="v1.36.3")
        image = cloudimage.write(store, [PlatformImage(AMD64, descriptors, ids, (), info, ImageSet(images, tuple(found)))])
        store.tag(name, image)
    return image


def keep(store: Store, data: bytes) -> str:
    """Put a blob without waiting for the disk."""
    digest = digest_of(data)
    with store.partial(digest, len(data)) as part:
        if part:
            part.write(data)
    return digest


class Site:
    """One user's machine: a store, a Docker configuration, the command line and a client for both."""

    def __init__(self, folder: Path, slipway: Slipway) -> None:
        self.folder = folder
        self.store = Store(folder / "home/store")
        self.docker = folder / "docker"
        self.env = {"SLIPWAY_HOME": str(folder / "home"), "DOCKER_CONFIG": str(self.docker), "HOME": str(folder)}
        # The engine of this machine is not theirs to prune.
        self.env["DOCKER_HOST"] = f"unix://{folder}/none"
        self.env["SLIPWAY_CACHE"] = str(folder / "cache")
        self._slipway = slipway

    def run(
        self, *words: str | Path, check: bool = True, input: str | None = None, env: Mapping[str, str] | None = None
    ) -> process.ProcessResult:
        return self._slipway(*words, check=check, input=input, env={**self.env, **(env or {})}, timeout=HANG)

    def start(self, *words: str | Path) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-c", PATIENT, *map(str, words)]
        return subprocess.Popen(
            argv, env={**os.environ, **self.env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=heed_ctrl_c
        )

    @contextlib.contextmanager
    def client(self, patience: RetryPolicy = QUICK) -> Iterator[Client]:
        with Client(Registries(plain=True), CredentialStore(self.docker), retry=patience) as found:
            yield found

    def push(self, name: str, target: str) -> Pushed:
        with self.client() as client:
            return push.push(self.store, name, Reference.parse(target), client)

    def pull(self, name: str) -> PullResult:
        with self.client() as client:
            return pull.pull(self.store, Reference.parse(name), client)

    def verified(self) -> set[str]:
        return {f"sha256:{path.name}" for path in (self.store.root / "blobs/sha256").iterdir()}

    def partial(self) -> dict[str, int]:
        """What is there of blobs that are not whole: digest -> bytes."""
        return {f"sha256:{path.name}": path.stat().st_size for path in (self.store.root / "partial").iterdir()}

    def holds(self, image: Descriptor) -> bool:
        """Whether an image is here, whole and undamaged."""
        for blob in closure(self.store, image):
            self.store.verify(blob.digest)
        return True


@pytest.fixture
def here(tmp_path: Path, slipway: Slipway) -> Site:
    return Site(tmp_path / "here", slipway)


@pytest.fixture
def there(tmp_path: Path, slipway: Slipway) -> Site:
    return Site(tmp_path / "there", slipway)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry for all tests of this file; each has repositories of its own."""
    with registry(tmp_path_factory.mktemp("plain")) as running:
        yield running


@pytest.fixture
def line(plain: Registry) -> Iterator[Wire]:
    with wire(plain.host) as running:
        yield running


@pytest.fixture
def server(plain: Registry) -> Iterator[Faulty]:
    """The registry ``plain``, with faults."""
    with faulty(upstream=plain.host) as running:
        yield running


def blobs_of(store: Store, image: Descriptor) -> list[Descriptor]:
    return [blob for blob in closure(store, image) if not is_manifest(blob)]


# There and back


def test_push_and_pull_round_trip_keeps_image_and_repetition_transfers_nothing(here: Site, there: Site, line: Wire) -> None:
    image = make(here.store, "web")
    name = f"{line.host}/team/deep/web:1.0"
    first = json.loads(here.run("push", "web", name, "--plain-http", "--output", "json").stdout)
    assert (first["digest"], first["uploaded"], first["present"]) == (image.digest, len(blobs_of(here.store, image)), 0)
    line.clear()
    again = json.loads(here.run("push", "web", name, "--plain-http", "--output", "json").stdout)
    assert (again["sent"], again["uploaded"]) == (0, 0)
    assert line.up < 8 << 10
    shown = there.run("pull", name, "--plain-http")
    assert image.digest in shown.stdout
    assert there.store.resolve(name).digest == image.digest
    assert there.holds(image)
    assert name in there.run("images").stdout
    line.clear()
    pulled = json.loads(there.run("pull", name, "--plain-http", "--output", "json").stdout)
    assert (pulled["fetched"], pulled["digest"]) == (0, image.digest)
    assert line.down < 8 << 10


def test_pull_copy_made_by_skopeo_or_oras_has_same_digest(here: Site, there: Site, plain: Registry, tmp_path: Path) -> None:
    image = make(here.store, "web", "copies")
    here.push("web", f"{plain.host}/copies/web:1")
    with registry(tmp_path / "other") as other:
        plainly = ["--src-tls-verify=false", "--dest-tls-verify=false"]
        source = f"docker://{plain.host}/copies/web:1"
        process.run(
            ["skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", *plainly, source, f"docker://{other.host}/by/skopeo:1"]
        )
        http = ["--from-plain-http", "--to-plain-http"]
        process.run([gotool.oras(), "cp", "-r", *http, f"{plain.host}/copies/web:1", f"{other.host}/by/oras:1"])
        for repository in ("by/skopeo", "by/oras"):
            assert there.pull(f"{other.host}/{repository}:1").digest == image.digest
            assert there.holds(image)


def test_push_rootfs_layers_are_pulled_by_docker(here: Site, plain: Registry) -> None:
    image = make(here.store, "web", "docker")
    here.push("web", f"{plain.host}/docker/web:1")
    with contextlib.closing(docker.connect()) as client:
        found = client.images.pull(f"{plain.host}/docker/web", tag="1", platform="linux/amd64")
        try:
            expected = cloudimage.read(here.store, image.digest).platforms[0].diff_ids
            assert found.attrs["RootFS"]["Layers"] == list(expected)
        finally:
            client.images.remove(f"{plain.host}/docker/web:1")


def test_push_and_pull_small_change_transfer_only_changed_blobs(here: Site, there: Site, line: Wire) -> None:
    one = make(here.store, "web:1", "delta", blobs=6, size=400_000, rootfs=1_500_000)
    name = f"{line.host}/delta/web:1"
    here.push("web:1", name)
    there.pull(name)
    two = make(here.store, "web:2", "delta", blobs=6, size=400_000, rootfs=1_500_000, changed="a line")
    changed = sum(blob.size for blob in closure(here.store, two) if blob not in closure(here.store, one))
    line.clear()
    pushed = here.push("web:2", name)
    assert pushed.sent == changed
    assert line.up <= changed + OVERHEAD
    line.clear()
    pulled = there.pull(name)
    assert pulled.received == changed
    assert line.down <= changed + OVERHEAD
    assert there.store.resolve(name).digest == two.digest
    assert there.holds(two)


def test_push_to_other_repository_of_registry_mounts_blobs(here: Site, there: Site, line: Wire) -> None:
    image = make(here.store, "web", "mount")
    here.push("web", f"{line.host}/mount/one:1")
    line.clear()
    pushed = here.push("web", f"{line.host}/mount/two:1")
    assert (pushed.uploaded, pushed.mounted) == (0, len(blobs_of(here.store, image)))
    assert line.up < OVERHEAD
    # Who pulled it from one repository may mount from there as well.
    there.pull(f"{line.host}/mount/one:1")
    line.clear()
    assert there.push(f"{line.host}/mount/one:1", f"{line.host}/mount/three:1").mounted == pushed.mounted
    assert there.pull(f"{line.host}/mount/three:1").digest == image.digest


def test_pull_one_platform_skips_others_and_missing_platform_is_refused(here: Site, there: Site, plain: Registry) -> None:
    arm64 = Platform.parse("linux/arm64")
    layers = {one: write_layer([LayerEntry("bin/program", "file", 0o755, str(one).encode() * 900)], here.store) for one in (AMD64, arm64)}
    image = cloudimage.write(here.store, [PlatformImage(one, (layer.descriptor,), (layer.diff_id,)) for one, layer in layers.items()])
    here.store.tag("web", image)
    name = f"{plain.host}/platforms/web:1"
    here.push("web", name)
    there.run("pull", name, "--plain-http", "--platform", "linux/arm64")
    assert there.store.has(layers[arm64].descriptor.digest)
    assert not there.store.has(layers[AMD64].descriptor.digest)
    assert there.store.resolve(name).digest == image.digest
    absent = there.run("pull", name, "--plain-http", "--platform", "linux/s390x", check=False)
    assert absent.returncode == 4
    assert "linux/amd64, linux/arm64" in absent.stderr


# Who may


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with password_registry(tmp_path_factory.mktemp("closed")) as running:
        yield running


def test_login_allows_push_and_pull_without_exposing_password_until_logout(here: Site, closed: Registry) -> None:
    image = make(here.store, "web", "closed")
    name = f"{closed.host}/team/web:1"
    login = ["login", closed.host, "--plain-http", "--username", USER, "--password-stdin"]
    wrong = here.run(*login, input="guessed\n", check=False)
    assert wrong.returncode == 4
    assert "401" in wrong.stderr
    assert "guessed" not in wrong.output
    assert not (here.docker / "config.json").exists()
    said = [here.run("--verbose", *login, input=f"{PASSWORD}\n")]
    said.append(here.run("--verbose", "push", "web", name, "--plain-http"))
    said.append(here.run("--verbose", "pull", name, "--plain-http", "--as", "again"))
    assert here.store.resolve("again").digest == image.digest
    secrets = (PASSWORD, base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode())
    for secret in secrets:
        assert not [result.argv for result in said if secret in result.output]
        kept = [path for path in (here.folder / "home").rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
        assert kept == []
    assert (here.docker / "config.json").stat().st_mode & 0o077 == 0
    assert "logged out" in here.run("logout", closed.host).stdout
    refused = here.run("push", "web", f"{closed.host}/team/web:2", "--plain-http", check=False)
    assert refused.returncode == 4
    assert f"slipway login {closed.host}" in refused.stderr


def test_push_and_pull_with_token_server_request_few_tokens(here: Site, there: Site, tokens: tuple[Registry, TokenServer]) -> None:
    guarded, server = tokens
    image = make(here.store, "web", "tokens", blobs=12)
    name = f"{guarded.host}/team/web:1"
    for site in (here, there):
        site.run("login", guarded.host, "--plain-http", "--username", USER, "--password-stdin", input=f"{PASSWORD}\n")
    before = len(server.granted)
    here.push("web", name)
    # One token opens the repository for all threads, or one more where reading came before writing.
    assert len(server.granted) - before <= 4
    # The registry asks for both in either order.
    assert {"repository:team/web:pull,push", "repository:team/web:push,pull"} & set(server.granted)
    assert there.pull(name).digest == image.digest
    assert here.push("web", f"{guarded.host}/team/copy:1").mounted == len(blobs_of(here.store, image))
    wrong = there.run("login", guarded.host, "--plain-http", "--username", USER, "--password-stdin", input="guessed\n", check=False)
    assert (wrong.returncode, "incorrect username or password" in wrong.stderr) == (4, True)


def test_push_image_is_readable_by_oras_with_stored_login(here: Site, closed: Registry, tmp_path: Path) -> None:
    """The Python client of oras: it shares neither code nor connections with ours."""
    image = make(here.store, "web", "oras")
    name = f"{closed.host}/oras/web:1"
    here.run("login", closed.host, "--plain-http", "--username", USER, "--password-stdin", input=f"{PASSWORD}\n")
    here.run("push", "web", name, "--plain-http")
    client = oras.client.OrasClient(hostname=closed.host, insecure=True, auth_backend="basic")
    client.auth.load_configs(client.get_container(name), configs=[str(here.docker / "config.json")])
    assert client.get_tags(name) == ["1"]
    index = client.get_manifest(name, allowed_media_type=[OCI_INDEX], validation_schema=oras.schemas.index)
    assert digest_of(canonical_json(index)) == image.digest
    for entry in index["manifests"]:
        manifest = client.get_manifest(f"{closed.host}/oras/web@{entry['digest']}", validation_schema=oras.schemas.manifest)
        for blob in (manifest["config"], *manifest["layers"]):
            file = client.download_blob(name, blob["digest"], str(tmp_path / "blob"))
            assert digest_of(Path(file).read_bytes()) == blob["digest"]


def test_pull_artifact_pushed_by_oras_keeps_tag_and_content(here: Site, plain: Registry, tmp_path: Path) -> None:
    name = f"{plain.host}/oras/notes:1"
    (tmp_path / "notes.txt").write_text("some notes")
    client = oras.client.OrasClient(hostname=plain.host, insecure=True)
    client.push(name, files=[f"{tmp_path}/notes.txt:text/plain"], disable_path_validation=True, quiet=True)
    with here.client() as ours:
        assert ours.tags(Reference.parse(name)) == ("1",)
    here.pull(name)
    (layer,) = here.store.json(here.store.resolve(name).digest)["layers"]
    assert (layer["mediaType"], here.store.read(layer["digest"])) == ("text/plain", b"some notes")


def test_login_with_credential_helper_keeps_password_out_of_configuration(here: Site, closed: Registry, tmp_path: Path) -> None:
    make(here.store, "web", "helper")
    vault = tmp_path / "vault"
    helper = tmp_path / "bin/docker-credential-vault"
    helper.parent.mkdir()
    helper.write_text(f"""#!/bin/sh
echo "$0 $*" >> {vault}.argv
case "$1" in
  store) cat > {vault} ;;
  get) cat > /dev/null; [ -f {vault} ] && cat {vault} || {{ echo "credentials not found in native keychain"; exit 1; }} ;;
  erase) cat > /dev/null; rm -f {vault} ;;
esac
""")
    helper.chmod(0o755)
    here.docker.mkdir()
    (here.docker / "config.json").write_text(json.dumps({"credsStore": "vault"}))
    path = {"PATH": f"{helper.parent}:{os.environ['PATH']}"}
    login = ["login", closed.host, "--plain-http", "--username", USER, "--password-stdin"]
    here.run(*login, input=PASSWORD, env=path)
    here.run("push", "web", f"{closed.host}/helper/web:1", "--plain-http", env=path)
    assert PASSWORD not in (here.docker / "config.json").read_text()
    assert PASSWORD not in Path(f"{vault}.argv").read_text()
    here.run("logout", closed.host, env=path)
    assert not vault.exists()


@dataclasses.dataclass(frozen=True)
class Papers:
    """Files of a test authority: its certificate, and a certificate with key for the server and for a client."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


@pytest.fixture(scope="module")
def papers(tmp_path_factory: pytest.TempPathFactory) -> Papers:
    folder = tmp_path_factory.mktemp("papers")
    found = Papers(*(folder / name for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key")))
    now = datetime.datetime.now(datetime.UTC)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])

    def issue(path: Path, key: ec.EllipticCurvePrivateKey, name: str, *, ca: bool = False) -> None:
        subject = ca_name if ca else x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
        builder = builder.not_valid_after(now + datetime.timedelta(days=1))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        path.write_bytes(builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    issue(found.ca, ca_key, "", ca=True)
    for path, key_path in ((found.server, found.server_key), (found.client, found.client_key)):
        key = ec.generate_private_key(ec.SECP256R1())
        issue(path, key, path.stem)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key_path.write_bytes(key.private_bytes(*form))
    return found


def test_push_and_pull_use_given_ca_and_client_certificate(here: Site, papers: Papers, tmp_path: Path) -> None:
    image = make(here.store, "web", "tls")
    section = {"certificate": str(papers.server), "key": str(papers.server_key), "clientcas": [str(papers.ca)]}
    with registry(tmp_path / "tls", tls=section) as running:
        push = ["push", "web", f"{running.host}/team/web:1"]
        unknown = here.run(*push, check=False)
        assert unknown.returncode == 4
        assert "no trusted TLS" in unknown.stderr
        assert "--ca" in unknown.stderr
        nobody = here.run(*push, "--ca", papers.ca, check=False)
        assert nobody.returncode == 4
        assert "CERTIFICATE" in nobody.stderr
        assert "--cert-key" in nobody.stderr
        shown: list[str | Path] = ["--ca", papers.ca, "--cert", papers.client, "--cert-key", papers.client_key]
        here.run(*push, *shown)
        here.run("pull", f"{running.host}/team/web:1", *shown, "--as", "again")
        assert here.store.resolve("again").digest == image.digest
        here.run("pull", f"{running.host}/team/web:1", "--insecure", *shown[2:])
        assert here.run(*push, "--cert", papers.client, check=False).returncode == 2
        assert here.run(*push, "--ca", tmp_path / "nothing", check=False).returncode == 2


def test_push_and_pull_over_http_without_plain_http_option_are_refused(here: Site, plain: Registry) -> None:
    make(here.store, "web", "said")
    for words in (["push", "web", f"{plain.host}/said/web:1"], ["pull", f"{plain.host}/said/web:1"]):
        refused = here.run(*words, check=False)
        assert refused.returncode == 4
        assert "--plain-http" in refused.stderr
    assert plain.requests("PUT", "said/web") == []


# Faults of the registry


PULL_PLACES = {"tag": ("GET", "/manifests/1$"), "manifest": ("GET", "/manifests/sha256:"), "blob": ("GET", "/blobs/sha256:")}
PUSH_PLACES = {
    "tag": ("HEAD", "/manifests/1$"),
    "look": ("HEAD", "/blobs/sha256:"),
    "begin": ("POST", "/blobs/uploads/"),
    "send": ("PATCH", "/blobs/uploads/"),
    "close": ("PUT", "/blobs/uploads/"),
    "manifest": ("PUT", "/manifests/sha256:"),
    "name": ("PUT", "/manifests/1$"),
}
PLACES = [("pull", *place) for place in PULL_PLACES.values()] + [("push", *place) for place in PUSH_PLACES.values()]
LATER = (bad.status(500), bad.status(503, "UNAVAILABLE", "in repair"), bad.status(429, "TOOMANYREQUESTS", "slowly", retry_after="0"))
NEVER = {
    401: bad.status(401, "UNAUTHORIZED", "who are you"),
    403: bad.status(403, "DENIED", "your plan has ended"),
    404: bad.status(404, "NAME_UNKNOWN", "no such thing"),
}


class Trip:
    """One image on its way, out or in, as often as a test likes; ``done`` tells whether it arrived."""

    def __init__(self, verb: str, here: Site, there: Site, plain: Registry, through: str, repository: str) -> None:
        self.verb, self.here, self.there, self.plain = verb, here, there, plain
        self.image = make(here.store, repository, repository, rootfs=200_000)
        self.name = f"{through}/{repository}:1"
        self.repository = repository
        if verb == "pull":
            here.push(repository, f"{plain.host}/{repository}:1")

    def go(self) -> object:
        return self.here.push(self.repository, self.name) if self.verb == "push" else self.there.pull(self.name)

    @property
    def visible(self) -> bool:
        if self.verb == "pull":
            return self.name in self.there.store.names()
        with self.here.client() as client:
            return client.head(Reference.parse(f"{self.plain.host}/{self.repository}:1")) is not None

    def done(self) -> bool:
        if self.verb == "push":  # what came out of it is what the registry has
            self.there.pull(f"{self.plain.host}/{self.repository}:1")
        return self.visible and self.there.holds(self.image)


@pytest.fixture
def small_is_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blobs of 100 kB are sent as larger ones are."""
    monkeypatch.setattr(upload, "SMALL", 100_000)


@pytest.mark.usefixtures("small_is_smaller")
@pytest.mark.parametrize(("verb", "method", "path"), PLACES)
def test_transfer_temporary_registry_errors_are_retried(
    verb: str, method: str, path: str, here: Site, there: Site, plain: Registry, server: Faulty
) -> None:
    trip = Trip(verb, here, there, plain, server.host, f"later/{verb}{method.lower()}{path.strip('/$').replace('/', '').replace(':', '')}")
    server.spoil(method, path, *LATER)
    trip.go()
    assert trip.done()
    assert sum(request.method == method for request in server.requests) > len(LATER)


@pytest.mark.usefixtures("small_is_smaller")
@pytest.mark.parametrize(("verb", "method", "path"), PLACES)
def test_transfer_refusal_raises_remote_error_and_next_attempt_succeeds(
    verb: str, method: str, path: str, here: Site, there: Site, plain: Registry, server: Faulty
) -> None:
    trip = Trip(verb, here, there, plain, server.host, f"no/{verb}{method.lower()}{path.strip('/$').replace('/', '').replace(':', '')}")
    for code, answer in NEVER.items():
        if code == 404 and verb == "push" and (method == "HEAD" or "uploads/" in path):
            continue  # there it says what we want to hear, or that an upload was forgotten
        server.spoil(method, path, *[answer] * 50)
        with pytest.raises(RemoteError, match=f"{server.host}: {code} ") as refused:
            trip.go()
        assert (refused.value.status, refused.value.exit_code) == (code, 4)
        assert not trip.visible
        server.heal()
    trip.go()
    assert trip.done()


@pytest.mark.usefixtures("small_is_smaller")
@pytest.mark.parametrize(("verb", "method", "path"), PLACES)
def test_transfer_permanent_503_raises_remote_error_and_publishes_no_name(
    verb: str, method: str, path: str, here: Site, there: Site, plain: Registry, server: Faulty
) -> None:
    trip = Trip(verb, here, there, plain, server.host, f"ill/{verb}{method.lower()}{path.strip('/$').replace('/', '').replace(':', '')}")
    server.spoil(method, path, *[bad.status(503, "UNAVAILABLE", "in repair")] * 200)
    # An answer to HEAD has no room for the registry's own words.
    with pytest.raises(RemoteError, match="503 Service Unavailable" if method == "HEAD" else "503 UNAVAILABLE in repair"):
        trip.go()
    assert not trip.visible


def test_pull_denied_by_registry_exits_4_with_reason_and_login_hint(here: Site, server: Faulty) -> None:
    server.spoil("GET", "/manifests/", NEVER[403])
    refused = here.run("pull", f"{server.host}/team/web:1", "--plain-http", check=False)
    assert refused.returncode == 4
    assert f"{server.host}: 403 DENIED your plan has ended" in refused.stderr
    assert "slipway login" in refused.stderr


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_transfer_429_waits_for_retry_after(verb: str, here: Site, there: Site, plain: Registry, server: Faulty) -> None:
    trip = Trip(verb, here, there, plain, server.host, f"back/{verb}")
    server.spoil("GET" if verb == "pull" else "POST", "/blobs/", bad.status(429, "TOOMANYREQUESTS", "slowly", retry_after="1"))
    started = time.monotonic()
    trip.go()
    assert time.monotonic() - started >= 1
    assert trip.done()


def test_pull_blob_with_wrong_bytes_is_refused_and_not_stored(here: Site, there: Site, plain: Registry, server: Faulty) -> None:
    trip = Trip("pull", here, there, plain, server.host, "wrong/bytes")
    blob = max(blobs_of(here.store, trip.image), key=lambda one: one.size)
    data = here.store.read(blob.digest)
    for answer, reason in (
        (bad.body(bytes(blob.size)), "that should be"),
        (bad.body(data + b"more"), f"has {blob.size + 4} bytes there, not {blob.size}"),
        (bad.body(data[:-1]), f"has {blob.size - 1} bytes there, not {blob.size}"),
        (bad.endless, f"is longer than the {blob.size} bytes"),
    ):
        server.spoil("GET", blob.digest, *[answer] * 20)
        with pytest.raises(StoreError, match=reason):
            trip.go()
        assert not trip.visible
        assert not there.store.has(blob.digest)
        server.heal()
    trip.go()
    assert trip.done()


def test_pull_blob_over_breaking_connections_resumes_where_it_broke_off(here: Site, there: Site, plain: Registry, server: Faulty) -> None:
    trip = Trip("pull", here, there, plain, server.host, "wrong/end")
    blob = max(blobs_of(here.store, trip.image), key=lambda one: one.size)
    data = here.store.read(blob.digest)
    breaks = (bad.broken(data, 90_000), bad.broken_without_ranges(data, 150_000), bad.stalled(data, 0), bad.broken(data, 1))
    server.spoil("GET", blob.digest, *breaks)
    # A busy registry may be as silent as one that has stalled: it is asked again as well.
    with there.client(dataclasses.replace(QUICK, read=1.0, attempts=100, timeouts=100)) as client:
        pull.pull(there.store, Reference.parse(trip.name), client)
    assert trip.done()
    asked = [request.headers.get("range") for request in server.requests if request.method == "GET" and blob.digest in request.path]
    # Once it has broken, 64 KiB are read at a time: what came of the second answer is not asked for again.
    assert asked == [None, None, *["bytes=131072-"] * 3]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"<html>", "is not usable JSON"),
        (b" " * MANIFEST_LIMIT + b"{}", f"more than {MANIFEST_LIMIT} are refused"),
        ({"schemaVersion": 2, "manifests": [{"mediaType": "text/plain", "digest": digest_of(b"x"), "size": 1}]}, "text/plain"),
        ({"schemaVersion": 2, "manifests": [{"mediaType": OCI_MANIFEST, "digest": "../../x", "size": 1}]}, "neither"),
        ({"schemaVersion": 2, "mediaType": "text/plain", "layers": "x"}, "neither manifest nor index"),
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
    ],
    ids=["html", "too large", "lists what is no image", "lists no digest", "no manifest", "schema 1"],
)
def test_pull_invalid_manifest_is_refused_and_stores_no_name(value: object, reason: str, there: Site, server: Faulty) -> None:
    data = value if isinstance(value, bytes) else canonical_json(value)
    server.on("/v2/no/image/manifests/1", bad.body(data, OCI_INDEX if b'"manifests"' in data else OCI_MANIFEST))
    with pytest.raises(StoreError, match=reason):
        there.pull(f"{server.host}/no/image:1")
    assert there.store.names() == {}


def test_pull_index_with_wrong_size_or_digest_of_manifest_is_refused(here: Site, there: Site, plain: Registry, server: Faulty) -> None:
    trip = Trip("pull", here, there, plain, server.host, "lies/web")
    index = here.store.json(trip.image.digest)
    index["manifests"][0]["size"] += 1
    server.on("/v2/lies/web/manifests/1", bad.body(canonical_json(index), OCI_INDEX))
    with pytest.raises(StoreError, match="and its index says"):
        trip.go()
    # The bytes of another manifest under that digest.
    server.on("/v2/lies/web/manifests/1", bad.passed_on)
    first = index["manifests"][0]["digest"]
    server.on(f"/v2/lies/web/manifests/{first}", bad.body(here.store.read(index["manifests"][1]["digest"])))
    with pytest.raises(RemoteError, match=f"instead of {first}"):
        trip.go()
    assert not trip.visible


def test_push_damaged_local_blob_is_refused_and_publishes_no_tag(here: Site, plain: Registry) -> None:
    image = make(here.store, "web", "damaged")
    blob = max(blobs_of(here.store, image), key=lambda one: one.size)
    data = bytearray(here.store.path(blob.digest).read_bytes())
    data[100] ^= 1
    here.store.path(blob.digest).write_bytes(data)
    with pytest.raises(StoreError, match=f"{blob.digest} in .* is damaged"):
        here.push("web", f"{plain.host}/damaged/web:1")
    with here.client() as client:
        assert client.head(Reference.parse(f"{plain.host}/damaged/web:1")) is None


# Faults of the line


@pytest.mark.usefixtures("small_is_smaller")
@pytest.mark.parametrize("verb", ["push", "pull"])
def test_transfer_connection_cut_at_any_byte_is_completed(
    verb: str, here: Site, there: Site, plain: Registry, line: Wire, tmp_path: Path
) -> None:
    chance = random.Random(f"breaks {verb}")
    trip = Trip(verb, here, there, plain, line.host, f"breaks/{verb}0")
    line.clear()
    trip.go()
    assert trip.done()
    length = {"up": line.up, "down": line.down}
    for number in range(1, 31):
        if verb == "push":
            trip.name = f"{line.host}/breaks/{verb}{number}:1"
            here.store.forget("place")  # else all is mounted, and nothing goes over the line
        trip.there = Site(tmp_path / f"there{number}", here._slipway)
        line.clear()
        cuts = []
        # Fewer than the tries of one blob that gets nowhere: a reset takes with it what a slow reader had not read yet.
        for _ in range(chance.choice((1, 1, 3, access.RETRIES.attempts - 1))):
            direction = chance.choice(("up", "down"))
            # Half of them in what is small: heads of requests and answers, at the beginning.
            most = min(int(0.9 * length[direction]), chance.choice((4000, 10**9)))
            cuts.append((direction, chance.randrange(most), chance.random() < 0.5))
            line.cut(cuts[-1][0], cuts[-1][1], hard=cuts[-1][2])
        try:
            trip.go()
        except StoreError as failed:
            raise AssertionError(f"round {number} with {cuts}: {failed}") from failed
        assert line.broken
        if verb == "push":
            trip.there.pull(f"{plain.host}/breaks/push{number}:1")
        assert trip.there.holds(trip.image), cuts


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_transfer_over_dead_connection_raises_remote_error_and_publishes_no_name(
    verb: str, here: Site, there: Site, plain: Registry, line: Wire
) -> None:
    trip = Trip(verb, here, there, plain, line.host, f"dead/{verb}")
    line.clear()
    for after in range(0, 4000, 20):
        line.cut("down", after)
    with pytest.raises(RemoteError, match=f"{line.host}: "):
        trip.go()
    assert not trip.visible
    line.clear()
    trip.go()
    assert trip.done()


# Many, at once, killed


def test_transfer_of_2000_blobs_takes_constant_requests_per_blob(here: Site, there: Site, plain: Registry) -> None:
    image = make(here.store, "many", "many", blobs=2000, size=300)
    name = f"{plain.host}/many/web:1"
    blobs = len(blobs_of(here.store, image))
    here.push("many", name)
    there.pull(name)
    assert there.holds(image)
    # A blob is looked for, sent in at most three requests and fetched once, however many others there are.
    assert len(plain.requests("(?:HEAD|POST|PATCH|PUT)", "many/web/blobs")) <= 4 * blobs
    before = len(plain.requests("GET", "many/web/blobs"))
    there.pull(name)
    assert len(plain.requests("GET", "many/web/blobs")) == before == blobs


def test_pull_full_disk_is_reported_and_succeeds_after_space_is_added(here: Site, there: Site, plain: Registry, tmp_path: Path) -> None:
    image = make(here.store, "web", "full", blobs=8, size=400_000, rootfs=1_500_000)
    name = f"{plain.host}/full/web:1"
    here.push("web", name)
    home = there.folder / "home"
    process.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", home])
    try:
        full = there.run("pull", name, "--plain-http", check=False)
        assert full.returncode == 4
        assert "no space left" in full.stderr
        assert "SLIPWAY_HOME" in full.stderr
        store = Store(home / "store")
        assert store.names() == {}
        for path in (store.root / "blobs/sha256").iterdir():
            store.verify(f"sha256:{path.name}")
        process.run(["mount", "-o", "remount,size=30m", home])
        there.run("pull", name, "--plain-http")
        assert there.holds(image)
    finally:
        process.run(["umount", home])


def test_pull_two_at_once_fetch_each_blob_once(here: Site, there: Site, plain: Registry, line: Wire) -> None:
    image = make(here.store, "web", "two", blobs=10, size=300_000)
    here.push("web", f"{plain.host}/two/web:1")
    line.clear()
    line.rate = 30e6
    pulls = [there.start("pull", f"{line.host}/two/web:1", "--plain-http") for _ in range(2)]
    for one in pulls:
        output, _ = one.communicate(timeout=HANG)
        assert one.returncode == 0, output.decode()
    assert sorted(line.fetched()) == sorted(blob.digest for blob in blobs_of(here.store, image))
    assert there.holds(image)


def test_pull_moves_tag_only_after_image_is_complete(here: Site, there: Site, plain: Registry, line: Wire) -> None:
    one = make(here.store, "web:1", "whole", blobs=6, size=200_000)
    two = make(here.store, "web:2", "whole anew", blobs=6, size=200_000)
    name = f"{plain.host}/whole/web:1"
    here.push("web:1", name)
    there.pull(name)
    there.store.tag(f"{line.host}/whole/web:1", one)
    here.push("web:2", name)
    line.clear()
    seen: list[str] = []

    def watch() -> None:
        for share in range(1, 6):
            line.wait("down", share * 200_000)
            seen.append(there.store.names()[f"{line.host}/whole/web:1"].digest)
            closure(there.store, there.store.names()[f"{line.host}/whole/web:1"])
            line.release()
            line.hold("down", (share + 1) * 200_000 if share < 5 else 1 << 40)

    line.hold("down", 200_000)
    watcher = threading.Thread(target=watch)
    watcher.start()
    there.pull(f"{line.host}/whole/web:1")
    watcher.join()
    assert seen == [one.digest] * 5
    assert there.store.resolve(f"{line.host}/whole/web:1").digest == two.digest


def wait_for(line: Wire, direction: str, count: int, of: subprocess.Popen[bytes]) -> None:
    """Until a running command has moved so many bytes, and then nothing passes: it is caught in the middle, however fast it is."""
    line.hold(direction, count)
    while not line.wait(direction, count, 0.5):  # looks whether it has ended
        assert of.poll() is None, of.communicate()[0].decode()


def has_blob(where: Registry, repository: str, digest: str) -> bool:
    return urllib3.request("HEAD", f"{where.url}/v2/{repository}/blobs/{digest}").status == 200


def kill(victim: subprocess.Popen[bytes], line: Wire | None = None) -> None:
    """Kill a command; on the line, nothing of it is seen later."""
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    if line is not None:
        line.release()
        line.drain()


def test_pull_killed_ten_times_fetches_no_byte_again_and_completes(here: Site, there: Site, plain: Registry, line: Wire) -> None:
    chance = random.Random("killed pull")
    image = make(here.store, "web", "killed", blobs=10, size=1_000_000, rootfs=3_000_000)
    name = f"{plain.host}/killed/web:1"
    here.push("web", name)
    name = f"{line.host}/killed/web:1"
    total = sum(blob.size for blob in closure(here.store, image))
    for _ in range(10):
        verified, partial = there.verified(), there.partial()
        line.clear()
        pull = there.start("pull", name, "--plain-http")
        wait_for(line, "down", chance.randrange(1, total // 11), pull)
        kill(pull, line)
        assert_nothing_again(line, verified, partial)
        assert there.store.names() == {}
    verified, partial = there.verified(), there.partial()
    assert verified
    line.clear()
    there.run("pull", name, "--plain-http")
    assert_nothing_again(line, verified, partial)
    assert there.store.resolve(name).digest == image.digest
    assert there.holds(image)
    assert there.partial() == {}


def assert_nothing_again(line: Wire, verified: set[str], partial: dict[str, int]) -> None:
    """No blob that was verified is asked for, and none that was begun is asked for from its beginning."""
    for seen in [seen for seen in line.requests if seen.method == "GET" and seen.blob]:
        assert seen.blob not in verified
        assert seen.start >= partial.get(str(seen.blob), 0)
    asked = line.fetched()
    assert len(asked) == len(set(asked))


def test_push_killed_ten_times_sends_no_finished_blob_again_and_completes(here: Site, there: Site, plain: Registry, line: Wire) -> None:
    chance = random.Random("killed push")
    image = make(here.store, "web", "killed push", blobs=10, size=1_000_000, rootfs=6_000_000)
    name = f"{line.host}/killed/push:1"
    blobs = blobs_of(here.store, image)
    total = sum(blob.size for blob in blobs)
    for _ in range(10):
        done = {blob.digest for blob in blobs if has_blob(plain, "killed/push", blob.digest)}
        line.clear()
        push = here.start("push", "web", name, "--plain-http")
        wait_for(line, "up", chance.randrange(1, total // 5), push)
        kill(push, line)
        closed = {seen.path.rpartition("digest=sha256%3A")[2] for seen in line.requests if seen.method == "PUT"}
        assert closed & {digest.removeprefix("sha256:") for digest in done} == set()
        with here.client() as client:
            assert client.head(Reference.parse(f"{plain.host}/killed/push:1")) is None
    here.run("push", "web", name, "--plain-http")
    there.pull(f"{plain.host}/killed/push:1")
    assert there.holds(image)


@pytest.mark.parametrize("verb", ["push", "pull"])
def test_transfer_ctrl_c_exits_130_and_next_command_completes(verb: str, here: Site, there: Site, plain: Registry, line: Wire) -> None:
    image = make(here.store, "web", f"interrupted {verb}", blobs=3, size=6_000_000)
    name = f"{line.host}/interrupted/{verb}:1"
    if verb == "pull":
        here.push("web", f"{plain.host}/interrupted/{verb}:1")
    running = here.start("push", "web", name, "--plain-http") if verb == "push" else there.start("pull", name, "--plain-http")
    # No blob is whole by then.
    wait_for(line, "up" if verb == "push" else "down", 5_000_000, running)
    if verb == "pull":
        # What has passed the line may still be on its way to the disk.
        until(lambda: sum(there.partial().values()) > 1_000_000, there.partial)
    running.send_signal(signal.SIGINT)
    # Nothing passes any more, and its patience is longer than the limit.
    output, _ = running.communicate(timeout=HANG)
    assert running.returncode == 130, output.decode()
    assert b"Traceback" not in output
    line.release()
    if verb == "pull":
        assert sum(there.partial().values()) > 1_000_000
        there.pull(name)
        assert there.holds(image)
    else:
        here.push("web", name)
        there.pull(f"{plain.host}/interrupted/{verb}:1")
        assert there.holds(image)


def test_prune_killed_at_any_moment_leaves_kept_image_intact(here: Site, tmp_path: Path) -> None:
    chance = random.Random("killed prune")
    kept = make(here.store, "kept", "kept", blobs=20, size=1000)
    every, tally, killed = 0, tmp_path / "events", 0
    for number in range(10):
        make(here.store, "gone", f"gone {number}", blobs=150, size=1000)
        here.store.untag("gone")
        # The first one is not killed, and counts.
        moment = chance.randint(every // 4, every) if every else 0
        prune = subprocess.run(
            dying.command(moment, tally, "prune"), env={**os.environ, **here.env}, stdout=subprocess.DEVNULL, check=False
        )
        assert prune.returncode in (0, -signal.SIGKILL)
        killed += prune.returncode != 0
        every = every or dying.counted(tally)
        assert here.holds(kept)
        assert here.store.resolve("kept").digest == kept.digest
    assert killed
    here.run("prune")
    assert here.verified() == {blob.digest for blob in closure(here.store, kept)}


def test_prune_beside_pull_removes_nothing_in_use(here: Site, there: Site, plain: Registry, line: Wire) -> None:
    image = make(here.store, "web", "beside", blobs=6, size=500_000)
    here.push("web", f"{plain.host}/beside/web:1")
    name = f"{line.host}/beside/web:1"
    pull = there.start("pull", name, "--plain-http")
    wait_for(line, "down", 1_500_000, pull)
    before = there.verified()
    assert "in use" in there.run("prune").stdout
    assert there.verified() >= before
    line.release()
    output, _ = pull.communicate(timeout=HANG)
    assert pull.returncode == 0, output.decode()
    assert there.holds(image)
    assert len(line.fetched()) == len(set(line.fetched()))


def test_rmi_keeps_and_prune_removes_blobs_of_killed_pull(here: Site, there: Site, plain: Registry, line: Wire) -> None:
    image = make(here.store, "web", "stays", blobs=40, size=100_000)
    here.push("web", f"{plain.host}/stays/web:1")
    name = f"{line.host}/stays/web:1"
    make(there.store, "other", "other")
    pull = there.start("pull", name, "--plain-http")
    wait_for(line, "down", 2_500_000, pull)
    kill(pull, line)
    verified = there.verified() & {blob.digest for blob in closure(here.store, image)}
    partial = there.partial()
    assert len(verified) > 3  # the manifests, and a blob at least
    there.run("rmi", "other")
    assert there.verified() >= verified
    assert there.partial() == partial
    line.clear()
    there.run("pull", name, "--plain-http")
    assert_nothing_again(line, verified, partial)
    # Once more, and given up this time.
    there.run("rmi", name)
    line.clear()
    pull = there.start("pull", name, "--plain-http")
    wait_for(line, "down", 2_500_000, pull)
    kill(pull, line)
    assert there.verified()
    there.run("prune")
    assert there.verified() == set()
    assert there.partial() == {}

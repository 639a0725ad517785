"""The registry's storage as it is laid out without a push, and what a node is sent of it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import tomllib
from pathlib import Path

import bcrypt
import pytest
import yaml

from harness import log
from harness.cloudimage import Blob, EmbeddedImage, ImageSet
from harness.clusterfile import Clusterfile
from harness.clusterfile.parse import parse
from harness.errors import StoreError
from harness.lifecycle.provision import registry
from harness.oci.model import DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER_GZIP, OCI_MANIFEST
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from tests.unit.lifecycle.standin import StandIn
from tests.unit.runtimes.machines import final_path


class Images:
    """Makes container images in a store."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def blob(self, data: bytes, media_type: str) -> Blob:
        digest, size = self.store.put(data)
        return Blob(digest, media_type, size)

    def manifest(self, text: str, media_type: str = OCI_MANIFEST) -> tuple[Blob, ...]:
        """A manifest with a config and a layer; the manifest first."""
        config, layer = self.blob(f"config {text}".encode(), OCI_CONFIG), self.blob(f"layer {text}".encode(), OCI_LAYER_GZIP)
        parts = [{"mediaType": part.media_type, "digest": part.digest, "size": part.size} for part in (config, layer)]
        found = self.blob(json.dumps({"config": parts[0], "layers": parts[1:]}).encode(), media_type)
        return found, config, layer

    def index(self, *digests: str) -> Blob:
        return self.blob(
            json.dumps({"manifests": [{"mediaType": OCI_MANIFEST, "digest": digest, "size": 1} for digest in digests]}).encode(), OCI_INDEX
        )


@pytest.fixture
def images(tmp_path: Path) -> Images:
    return Images(Store(tmp_path / "store"))


def named(name: str, top: Blob) -> EmbeddedImage:
    return EmbeddedImage(name, top.digest, top.media_type, top.size)


def digits(blob: Blob) -> str:
    return blob.digest.removeprefix("sha256:")


ROOT = "docker/registry/v2"


def test_layout_of_image_keeps_domain_of_its_name(images: Images) -> None:
    manifest, config, layer = images.manifest("a")
    found = registry.layout(images.store, ImageSet((named("docker.io/library/nginx:1.25", manifest),), (manifest, config, layer)))
    repository = f"{ROOT}/repositories/docker.io/library/nginx"
    assert found.links == {
        f"{repository}/_manifests/revisions/sha256/{digits(manifest)}/link": manifest.digest,
        f"{repository}/_manifests/tags/1.25/current/link": manifest.digest,
        f"{repository}/_manifests/tags/1.25/index/sha256/{digits(manifest)}/link": manifest.digest,
        f"{repository}/_layers/sha256/{digits(config)}/link": config.digest,
        f"{repository}/_layers/sha256/{digits(layer)}/link": layer.digest,
    }
    assert f"{ROOT}/blobs/sha256/{digits(layer)[:2]}/{digits(layer)}/data" in found.blobs
    assert found.size == manifest.size + config.size + layer.size


def test_layout_of_equal_paths_of_two_registries_stays_separate(images: Images) -> None:
    one, two = images.manifest("one"), images.manifest("two")
    pair = (named("docker.io/library/web:1", one[0]), named("ghcr.io/library/web:1", two[0]))
    found = registry.layout(images.store, ImageSet(pair, (*one, *two)))
    assert found.links[f"{ROOT}/repositories/docker.io/library/web/_manifests/tags/1/current/link"] == one[0].digest
    assert found.links[f"{ROOT}/repositories/ghcr.io/library/web/_manifests/tags/1/current/link"] == two[0].digest


def test_layout_of_index_with_one_kept_platform_links_only_that_manifest(images: Images) -> None:
    kept, other = images.manifest("amd64"), "sha256:" + hashlib.sha256(b"arm64").hexdigest()
    index = images.index(kept[0].digest, other)
    found = registry.layout(images.store, ImageSet((named("docker.io/library/nginx:1", index),), (index, *kept)))
    revisions = [path for path in found.links if "/revisions/" in path]
    assert sorted(found.links[path] for path in revisions) == sorted([index.digest, kept[0].digest])
    assert other not in found.links.values()


def test_layout_of_image_named_by_digest_has_no_tag(images: Images) -> None:
    manifest, *rest = images.manifest("a", DOCKER_MANIFEST)
    found = registry.layout(images.store, ImageSet((named(f"docker.io/library/nginx@{manifest.digest}", manifest),), (manifest, *rest)))
    assert not any("/tags/" in path for path in found.links)
    assert any("/revisions/" in path for path in found.links)


def test_parcel_contains_blobs_and_name_sends_links(images: Images) -> None:
    manifest, config, layer = images.manifest("a")
    wanted = registry.layout(images.store, ImageSet((named("docker.io/library/nginx:1", manifest),), (manifest, config, layer)))
    parcel = registry.parcel(images.store, wanted)
    assert parcel.files.keys() == wanted.blobs.keys()
    assert parcel.files[registry.blob_path(layer.digest)].size == layer.size
    assert parcel.size == wanted.size
    node = StandIn()
    registry.name(node, images.store, wanted)
    assert node.tars[0][1].keys() == wanted.links.keys()


def test_layout_name_depends_only_on_blobs(images: Images) -> None:
    one, two = images.manifest("one"), images.manifest("two")
    both = registry.layout(images.store, ImageSet((named("docker.io/x:1", one[0]), named("docker.io/x:2", two[0])), (*one, *two)))
    alone = registry.layout(images.store, ImageSet((named("docker.io/x:1", one[0]),), one))
    renamed = registry.layout(images.store, ImageSet((named("docker.io/y:1", one[0]),), one))
    assert alone.name == renamed.name != both.name


def test_parcel_with_damaged_blob_raises_store_error(images: Images) -> None:
    manifest, config, layer = images.manifest("a")
    wanted = registry.layout(images.store, ImageSet((named("docker.io/library/nginx:1", manifest),), (manifest, config, layer)))
    images.store.path(layer.digest).chmod(0o644)
    images.store.path(layer.digest).write_bytes(b"layer b")
    with pytest.raises(StoreError, match=digits(layer)):
        registry.parcel(images.store, wanted)


def test_client_files_point_all_registries_to_loopback() -> None:
    files = registry.client_files(["docker.io", "registry.example.com:8443"])
    assert set(files) == {f"/etc/containerd/certs.d/{name}/hosts.toml" for name in ("docker.io", "registry.example.com:8443", "_default")}
    for name in ("docker.io", "registry.example.com:8443"):
        hosts = tomllib.loads(files[f"/etc/containerd/certs.d/{name}/hosts.toml"].data.decode())
        url = f"https://127.0.0.1:5000/v2/{name}"
        assert hosts["server"] == url
        assert hosts["override_path"] is True
        # containerd 1.6 refuses a file without this table.
        assert hosts["host"][url] == {"capabilities": ["pull", "resolve"], "ca": "/etc/kubernetes/pki/ca.crt", "override_path": True}
    default = tomllib.loads(files["/etc/containerd/certs.d/_default/hosts.toml"].data.decode())
    assert default["server"] == "https://127.0.0.1:5000"


def test_domains_returns_distinct_domains_of_image_names(images: Images) -> None:
    manifest, *rest = images.manifest("a")
    pair = tuple(named(name, manifest) for name in ("docker.io/library/nginx:1", "docker.io/library/redis:1", "ghcr.io/x/y:1"))
    assert registry.domains(ImageSet(pair, (manifest, *rest))) == ("docker.io", "ghcr.io")


def test_client_files_with_virtual_address_point_to_it() -> None:
    files = registry.client_files(["docker.io"], "10.103.97.2")
    hosts = tomllib.loads(files["/etc/containerd/certs.d/docker.io/hosts.toml"].data.decode())
    assert hosts["server"] == "https://10.103.97.2:5000/v2/docker.io"
    assert list(hosts["host"]) == [hosts["server"]]
    assert b"https://[fd00::2]:5000" in registry.client_files([], "fd00::2")["/etc/containerd/certs.d/_default/hosts.toml"].data


# ---- the login --------------------------------------------------------------------------------------------------------

SECRET = "0123456789abcdef" * 4
LOGIN = Credential("slipway", SECRET)


def test_settings_with_login_store_cheap_bcrypt_in_root_only_htpasswd() -> None:
    files = registry.settings(LOGIN)
    section = yaml.safe_load(files["/var/lib/slipway/registry.yaml"].data)["auth"]
    assert section == {"htpasswd": {"realm": "slipway", "path": registry.HTPASSWD}}
    assert files[registry.HTPASSWD].mode == 0o600
    user, _, hashed = files[registry.HTPASSWD].data.decode().strip().partition(":")
    assert user == "slipway"
    assert hashed.startswith("$2b$04$")
    assert bcrypt.checkpw(SECRET.encode(), hashed.encode())
    assert not bcrypt.checkpw(SECRET[:-1].encode() + b"0", hashed.encode())


def test_htpasswd_of_same_login_is_stable_and_of_other_login_has_other_salt() -> None:
    assert registry.htpasswd(LOGIN) == registry.htpasswd(LOGIN)
    salts = {registry.htpasswd(Credential("slipway", f"{number:064x}"))[len("slipway:$2b$04$") :][:22] for number in range(8)}
    assert len(salts) == 8


def test_settings_without_login_have_no_auth_section() -> None:
    (text,) = (file.data.decode() for file in registry.settings(None).values())
    assert "auth" not in yaml.safe_load(text)
    assert not any(line.startswith("auth:") for line in text.splitlines())
    assert any(line.startswith("auth:") for line in registry.config(LOGIN).splitlines())
    assert "^auth:" in registry.REQUIRES_LOGIN


@pytest.mark.parametrize("name", ["docker.io", "_default"])
def test_client_files_with_login_send_authorization_and_are_root_only(name: str) -> None:
    file = registry.client_files(["docker.io"], None, LOGIN)[f"/etc/containerd/certs.d/{name}/hosts.toml"]
    assert file.mode == 0o600
    hosts = tomllib.loads(file.data.decode())
    # What is sent along is sent to these two only, and both are the registry.
    (url,) = hosts["host"]
    assert hosts["server"] == url
    assert url.startswith("https://127.0.0.1:5000")
    assert hosts["header"] == hosts["host"][url]["header"] == {"Authorization": LOGIN.basic}
    assert registry.client_files(["docker.io"])[f"/etc/containerd/certs.d/{name}/hosts.toml"].mode == 0o644


def test_start_places_login_first_and_new_certificate_leaves_it_unchanged() -> None:
    node = StandIn()
    sent: list[bytes] = []
    run = node.run

    def keeping(command: str, **words: object) -> object:
        if isinstance(words.get("input"), bytes):
            sent.append(words["input"])  # type: ignore[arg-type]
        return run(command, **words)  # type: ignore[arg-type]

    node.run = keeping  # type: ignore[assignment, method-assign]
    registry.start(node, b"certificate", b"key", registry.settings(LOGIN))
    registry.start(node, b"newer", b"key")
    first, newer = (contents(data) for data in sent)
    assert set(first) == {registry.CERTIFICATE, registry.KEY, registry.HTPASSWD, "/var/lib/slipway/registry.yaml"}
    assert set(newer) == {registry.CERTIFICATE, registry.KEY}
    assert [command.startswith("umask") for command in node.commands] == [True, False, True, False]
    assert not any(SECRET in command or LOGIN.basic in command for command in node.commands)


def contents(data: bytes) -> dict[str, int]:
    """The modes of what is in a tar, by path."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {final_path(member): member.mode for member in tar}


def test_login_secret_is_hidden_in_repr_and_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "_hidden", {})
    found = registry.login(SECRET)
    assert found == LOGIN
    assert SECRET not in repr(found)
    assert log.hidden(f"{SECRET} {LOGIN.basic} x") == "*** *** x"


ODD = [
    "/root/.ssh/authorized_keys",
    "/etc/containerd/certs.d/../../systemd/x.toml",
    "/etc/containerd/certs.d/../hosts.toml",
    "x/hosts.toml",
]


def test_hosts_paths_ignores_unexpected_paths_of_node_with_warning(capsys: pytest.CaptureFixture[str]) -> None:
    good = [f"/etc/containerd/certs.d/{name}/hosts.toml" for name in ("_default", "docker.io", "hub.example.org:5000", "[fd00::1]:5000")]
    node = StandIn()
    node.answers = {"ls /etc/containerd": "\n".join([*ODD, *good, "/etc/containerd/certs.d/\x1b[2J/hosts.toml"])}
    assert registry.hosts_paths(node) == good
    said = capsys.readouterr().err
    assert all(repr(path) in said for path in ODD)
    assert "\x1b" not in said


def local(text: str) -> Clusterfile:
    head = "apiVersion: sealer.io/v2\nkind: Cluster\nmetadata: {name: a}\nspec:\n  image: web\n"
    return parse(f"{head}  registry: {{localRegistry: {text}}}\n" if text else head, "Clusterfile")


@pytest.mark.parametrize(
    ("text", "alias", "most", "sans"),
    [
        ("", None, 3, ()),
        ("{ha: true}", None, 3, ()),
        ("{domain: sea.hub, port: 5000}", "sea.hub:5000", 3, ("sea.hub",)),
        ("{port: 5001, ha: false}", "sea.hub:5001", 1, ()),
        (
            "{domain: hub.site, cert: {subjectAltName: {dnsNames: [hub.site, a.site], ips: [10.0.0.9]}}}",
            "hub.site:5000", 3, ("hub.site", "a.site", "10.0.0.9"),
        ),
    ],
)  # fmt: skip
def test_local_registry_settings_determine_alias_most_and_sans(text: str, alias: str | None, most: int, sans: tuple[str, ...]) -> None:
    found = local(text)
    assert (registry.alias(found), registry.most(found), registry.sans(found)) == (alias, most, sans)


def test_client_files_with_alias_list_all_registries() -> None:
    files = registry.client_files(["registry.k8s.io", "docker.io", "ghcr.io"], None, LOGIN, "sea.hub:5000")
    file = files["/etc/containerd/certs.d/sea.hub:5000/hosts.toml"]
    hosts = tomllib.loads(file.data.decode())
    url = "https://127.0.0.1:5000/v2"
    assert list(hosts["host"]) == [f"{url}/docker.io", f"{url}/ghcr.io", f"{url}/registry.k8s.io"]
    assert hosts["server"] == f"{url}/registry.k8s.io"
    assert all(host["override_path"] and host["header"] == hosts["header"] for host in hosts["host"].values())
    assert file.mode == 0o600
    own = registry.client_files(["docker.io", "sea.hub:5000"], alias="sea.hub:5000")["/etc/containerd/certs.d/sea.hub:5000/hosts.toml"]
    assert list(tomllib.loads(own.data.decode())["host"]) == [f"{url}/sea.hub:5000", f"{url}/docker.io"]

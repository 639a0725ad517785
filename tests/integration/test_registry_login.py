"""The login of the registry that a cluster brings along, by a real one: what it takes, what it refuses, what it says without."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import pytest
import urllib3
import yaml

from harness.lifecycle.provision import registry
from harness.oci.registry.credentials import Credential
from harness.runtimes.pki import Authority
from tests.integration import registry as real
from tests.integration.registry import Registry

IMAGE = real.image("private", layers=1)
REPOSITORY = "docker.io/team/private"
OTHER = Credential(registry.USER, "0" * 64)


@pytest.fixture(scope="module")
def login() -> Credential:
    """As every control-plane node derives it of the cluster's key."""
    return registry.login(Authority.make("kubernetes").secret(registry.PURPOSE))


@pytest.fixture(scope="module")
def running(login: Credential, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that asks for the login as those of control-plane nodes do, and has an image."""
    folder = tmp_path_factory.mktemp("registry")
    section = yaml.safe_load(registry.config(login))["auth"]
    section["htpasswd"]["path"] = str(folder / "htpasswd")
    (folder / "htpasswd").write_bytes(registry.settings(login)[registry.HTPASSWD].data)
    with real.registry(folder, auth=section) as found:
        real.push(found, REPOSITORY, "1", IMAGE, headers={"Authorization": login.basic})
        yield found


def sent(login: Credential) -> dict[str, str]:
    """What containerd sends along, by the file that nodes have."""
    hosts = tomllib.loads(registry.client_files(["docker.io"], None, login)["/etc/containerd/certs.d/docker.io/hosts.toml"].data.decode())
    (host,) = hosts["host"].values()
    return dict(host["header"])


def ask(running: Registry, path: str, headers: dict[str, str] | None = None) -> int:
    accepted = {"Accept": IMAGE.media_type, **(headers or {})}
    return urllib3.request("GET", f"{running.url}{path}", headers=accepted).status


@pytest.mark.parametrize(
    "path",
    ["/v2/", f"/v2/{REPOSITORY}/manifests/1", f"/v2/{REPOSITORY}/manifests/{IMAGE.digest}", f"/v2/{REPOSITORY}/tags/list", "/v2/_catalog",
     *(f"/v2/{REPOSITORY}/blobs/{digest}" for digest in IMAGE.blobs)],
)  # fmt: skip
def test_registry_serves_images_only_with_cluster_login(running: Registry, login: Credential, path: str) -> None:
    assert [ask(running, path), ask(running, path, sent(OTHER)), ask(running, path, sent(login))] == [401, 401, 200]


def test_registry_root_path_answers_without_login(running: Registry) -> None:
    assert ask(running, "/") == 200

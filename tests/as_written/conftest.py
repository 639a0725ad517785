"""What this ring shares: registries on loopback with today's base under old names, a web site, and the command line as it was typed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import process
from harness.build import container_images
from harness.host import apt, docker, paths, site_network
from tests.as_written import texts
from tests.as_written.web_site import WebSite, bundle, web_site
from tests.cluster.conftest import PROJECT, alone, swept
from tests.conftest import Slipway
from tests.integration.registry import Registry, mirrored_by, registry
from tests.waiting import HANG

__all__ = ["swept"]  # a fixture

ALIYUN, HUB = "registry.cn-qingdao.aliyuncs.com", "docker.io"

OLD_NAMES = (
    f"{ALIYUN}/sealer-io/cloudrootfs:v1.16.9-alpha.7",
    f"{HUB}/library/kubernetes:v1.18.3",
    f"{HUB}/library/kuberentes:v1.19.9",
    f"{HUB}/library/kubernetes:1.16.9",
)
"""Names of base images in texts. Their registry is the test's, and the image is the base of today, which slipway says: the Kubernetes of
these tags is older than any that it knows."""

STAND_IN = """FROM {nginx}
COPY nginx.conf tls.crt tls.key /etc/nginx/
RUN chmod 644 /etc/nginx/tls.key
ENTRYPOINT ["sh", "-c", "exec nginx -e stderr -c /etc/nginx/nginx.conf -g 'daemon off;'", "--"]
CMD []
"""
"""In place of the dashboard and its scraper: it answers where they do, under their limits, and reads none of their arguments."""

STAND_IN_CONF = """worker_processes 1;
pid /tmp/nginx.pid;
events {}
http {
  access_log off;
  client_body_temp_path /tmp/body; proxy_temp_path /tmp/proxy; fastcgi_temp_path /tmp/fastcgi; uwsgi_temp_path /tmp/uwsgi;
  scgi_temp_path /tmp/scgi;
  server {
    listen 8443 ssl;
    ssl_certificate /etc/nginx/tls.crt;
    ssl_certificate_key /etc/nginx/tls.key;
    location / { return 200 "dashboard"; }
  }
  server { listen 8000; location / { return 200 "metrics"; } }
}
"""


@dataclasses.dataclass(frozen=True)
class World:
    """A machine of somebody who has the texts: an empty home, registries and a web site that the texts name."""

    slipway: Slipway
    registry: Registry
    site: WebSite
    folder: Path
    env: dict[str, str]

    @property
    def add_hosts(self) -> tuple[str, ...]:
        """Options of ``build`` by which steps find the site."""
        return tuple(word for host in self.site.hosts for word in ("--add-host", f"{host}:{self.site.address}"))

    @property
    def home(self) -> Path:
        return Path(self.env["SLIPWAY_HOME"])

    def __call__(
        self, *words: str | Path, check: bool = True, cwd: Path | None = None, env: dict[str, str] | None = None
    ) -> process.ProcessResult:
        """Run slipway on this machine."""
        return self.slipway(*words, check=check, cwd=cwd, env={**self.env, **(env or {})}, timeout=2 * HANG)

    def type(self, line: str, cwd: Path | None = None, *, check: bool = True, env: dict[str, str] | None = None) -> process.ProcessResult:
        """Run a line as it was typed, in bash, with ``sealer`` as an alias. A build finds the web site, as the internet in its time."""
        builds = " ".join(self.add_hosts)
        program = f"'{sys.executable}' -m harness.cli"
        script = (
            "shopt -s expand_aliases\nset -o pipefail\n"
            f'run_slipway() {{ if [ "$1" = build ]; then shift; set -- build {builds} "$@"; fi; {program} "$@"; }}\n'
            f"alias sealer=run_slipway\n{line}\n"
        )
        return process.run(["bash", "-c", script], check=check, cwd=cwd or self.folder, env={**self.env, **(env or {})}, timeout=2 * HANG)

    def tags(self, repository: str) -> list[str]:
        """What the registry has of a repository."""
        path = self.registry.log.parent / "data/docker/registry/v2/repositories" / repository / "_manifests/tags"
        return sorted(each.name for each in path.iterdir()) if path.is_dir() else []


@pytest.fixture(scope="session")
def base(slipway: Slipway) -> str:
    """The base image of today, in the tests' own store; building it is quick when nothing has changed."""
    apt.ensure("docker-registry", "docker-registry")
    with alone():
        slipway("build", "-t", "kubernetes", PROJECT / "kubefiles/kubernetes", timeout=6 * HANG)
    return "kubernetes:latest"


@pytest.fixture(scope="session")
def old_registry(slipway: Slipway, base: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that has today's base under the names of the texts: repositories of each named host below its name."""
    with registry(tmp_path_factory.mktemp("registry")) as running:
        for name in OLD_NAMES:
            slipway("push", base, f"{running.host}/{name}", "--plain-http", timeout=HANG)
        yield running


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSite]:
    """The files that texts fetch, on the address of this machine that containers of a build reach."""
    client = docker.connect()
    bridge = client.networks.get("bridge").attrs["Options"]["com.docker.network.bridge.name"]
    (shown,) = json.loads(process.run(["ip", "-4", "-json", "address", "show", bridge]).stdout)
    files: dict[str, bytes | str] = {
        texts.DASHBOARD_URL: texts.DASHBOARD.encode(),
        "https://istio.io/downloadIstio": texts.ISTIO_SCRIPT_URL,
        texts.ISTIO_SCRIPT_URL: texts.ISTIO_SCRIPT.encode(),
        texts.ISTIO_ARCHIVE_URL: istio_archive(),
    }
    with web_site(shown["addr_info"][0]["local"], files, tmp_path_factory.mktemp("site")) as running:
        yield running


def istio_archive() -> bytes:
    """A stand-in for the archive of a release: its folder, a program, a manifest."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for path, mode, content in (
            ("istio-1.10.0/bin/istioctl", 0o755, b"#!/bin/sh\necho 1.10.0\n"),
            ("istio-1.10.0/manifests/profile.yaml", 0o644, b"profile: default\n"),
        ):
            entry = tarfile.TarInfo(path)
            entry.mode, entry.size = mode, len(content)
            archive.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def configuration(found: Registry) -> str:
    """A registries.conf: a mirror of the host that texts pull from, and Docker Hub, which one of them pushes to as well, elsewhere."""
    hub = f'[[registry]]\nprefix = "{HUB}"\nlocation = "{found.host}/{HUB}"\ninsecure = true\n'
    return mirrored_by(found, ALIYUN) + hub


def environment(folder: Path, found: Registry, site: WebSite) -> dict[str, str]:
    """Variables of a process for which the registries and the site are those that texts name. Its home is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "registries.conf").write_text(configuration(found))
    return {
        "SLIPWAY_HOME": str(folder / "home"),
        # What was compiled, and programs that were fetched, are the same for every home.
        "SLIPWAY_CACHE": str(paths.cache()),
        "SLIPWAY_REGISTRIES_CONF": str(folder / "registries.conf"),
        "SSL_CERT_FILE": str(bundle(site.authority, folder / "authorities.crt", site_network.authorities())),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(PROJECT), os.environ.get("PYTHONPATH", "")])),
        "HOME": str(folder),
    }


@pytest.fixture(scope="session")
def world(slipway: Slipway, old_registry: Registry, site: WebSite, tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(slipway, old_registry, site, folder, environment(folder, old_registry, site))


@pytest.fixture(scope="session")
def dashboard_images(world: World, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Stand-ins for the container images of the dashboard, in the registry that is docker.io here."""
    client = docker.connect()
    folder = tmp_path_factory.mktemp("stand-in")
    keys = world.site.authority.parent
    dockerfile = STAND_IN.format(nginx=container_images.package_image(client, "slipway.dev/nginx:1.22"))
    texts.write(
        folder,
        {
            "Dockerfile": dockerfile,
            "nginx.conf": STAND_IN_CONF,
            "tls.crt": (keys / "site.crt").read_text(),
            "tls.key": (keys / "site.key").read_text(),
        },
    )
    image, _ = client.images.build(path=str(folder), rm=True)
    places = [f"{world.registry.host}/{HUB}/{name}".rpartition(":") for name in texts.DASHBOARD_IMAGES]
    for repository, _, tag in places:
        image.tag(repository, tag)
    try:
        for repository, _, tag in places:
            said = client.images.push(repository, tag=tag)
            assert '"error"' not in said, said
    finally:
        # The image itself goes with the last of its names.
        for repository, _, tag in places:
            client.images.remove(f"{repository}:{tag}")

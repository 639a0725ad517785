"""The registry of a cluster: its storage, laid out without a push, its service, and the configuration of containerd for it.

The layout is that of docker-registry's filesystem driver. Repositories keep the domain of the image name
(``docker.io/library/nginx``), so equal paths of different registries never meet.

It requires a login, which only the members of the cluster have: pods and other machines cannot pull. No registry requires it before every
member has it in its hosts.toml: ``run``, ``upgrade`` and ``rollback``, which change nothing unless all members answer, give it to all of
them first. ``join`` gives it to new members where a registry requires it. So a cluster of an earlier slipway, whose registries require
none, works as before until one of the others brings it.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import hmac
import io
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import BinaryIO, Protocol

from harness import log, untrusted
from harness.cloudimage import Blob, ImageSet
from harness.clusterfile import Clusterfile
from harness.errors import StoreError
from harness.lifecycle.provision import distribution
from harness.lifecycle.provision.distribution import Parcel
from harness.lifecycle.provision.node_files import listening
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import STATE, Files, NodeFile, tar_stream, write_files
from harness.oci import graph
from harness.oci.model import INDEXES, MANIFESTS
from harness.oci.reference import DEFAULT_DOMAIN, Reference
from harness.oci.registry.config import Site
from harness.oci.registry.credentials import Credential
from harness.oci.store import Store
from harness.runtimes import REGISTRY_PORT, ROOTFS

STORAGE = f"{STATE}/registry"
CERTIFICATE = f"{STATE}/registry.crt"
KEY = f"{STATE}/registry.key"
HTPASSWD = f"{STATE}/registry.htpasswd"
CA = "/etc/kubernetes/pki/ca.crt"
CA_OF_SITE = f"{STATE}/site-registry.crt"
CERTS_D = "/etc/containerd/certs.d"
_HOSTS_PATH = re.compile(rf"{re.escape(CERTS_D)}/[\w\[][\w.:\[\]-]*/hosts\.toml", re.ASCII)
MOST = 3
"""Control-plane nodes with a registry; more would only cost disk space."""

SEALER = ("sea.hub", 5000)
"""Name and port of the registry in clusters of sealer."""

_V2 = "docker/registry/v2"
LOCAL = f"https://127.0.0.1:{REGISTRY_PORT}"

USER = "slipway"
PURPOSE = "login of the registry"
"""The purpose that the password is derived for; another text gives another password."""
REQUIRES_LOGIN = f"grep -qs '^auth:' {STATE}/registry.yaml"
"""A shell command that succeeds on a machine whose registry requires the login."""

_CONFIG = f"""version: 0.1
log:
  level: warn
  accesslog:
    disabled: true
storage:
  filesystem:
    rootdirectory: {STORAGE}
    maxthreads: 64
  cache:
    blobdescriptor: inmemory
  maintenance:
    uploadpurging:
      enabled: false
    readonly:
      enabled: true
http:
  addr: 0.0.0.0:{REGISTRY_PORT}
  # It would sign the state of uploads, of which there are none.
  secret: read-only
  tls:
    certificate: {CERTIFICATE}
    key: {KEY}
"""

_AUTH = f"""auth:
  htpasswd:
    realm: slipway
    path: {HTPASSWD}
"""

SERVICE = f"""[Unit]
Description=slipway: the container images of this cluster
After=network.target
ConditionPathExists={CERTIFICATE}

[Service]
Environment=OTEL_TRACES_EXPORTER=none
ExecStart={ROOTFS}/bin/registry serve {STATE}/registry.yaml
Restart=always
RestartSec=1
StartLimitInterval=0
NoNewPrivileges=yes
ProtectSystem=full
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Content of a registry's storage: blobs, and the small files that name them. Paths are relative to it."""

    blobs: Mapping[str, Blob]
    links: Mapping[str, str]

    @property
    def size(self) -> int:
        return sum(blob.size for blob in self.blobs.values())

    @property
    def name(self) -> str:
        """Name of the blobs as a parcel."""
        return f"images-{hashlib.sha256(' '.join(self.blobs).encode()).hexdigest()[:16]}"


def blob_path(digest: str) -> str:
    kind, _, value = digest.partition(":")
    return f"{_V2}/blobs/{kind}/{value[:2]}/{value}/data"


def layout(store: Store, images: ImageSet) -> Layout:
    """The layout of these images in a registry's storage. Raises StoreError when a manifest is missing or damaged."""
    blobs = {blob.digest: blob for blob in images.blobs}
    links: dict[str, str] = {}
    for image in images.images:
        name = Reference.parse(image.name)
        repository = f"{_V2}/repositories/{name.repository}"
        for kind, digest in _parts(store, blobs, image.digest):
            links[f"{repository}/{kind}/{digest.replace(':', '/')}/link"] = digest
        if name.tag:
            tag = f"{repository}/_manifests/tags/{name.tag}"
            links[f"{tag}/current/link"] = image.digest
            links[f"{tag}/index/{image.digest.replace(':', '/')}/link"] = image.digest
    return Layout({blob_path(digest): blob for digest, blob in sorted(blobs.items())}, dict(sorted(links.items())))


def _parts(store: Store, blobs: Mapping[str, Blob], digest: str) -> Iterator[tuple[str, str]]:
    """Everything in the set that a manifest or index refers to, with the registry's kind of it."""
    waiting = [digest]
    for each in waiting:
        yield "_manifests/revisions", each
        media_type = blobs[each].media_type
        if media_type in INDEXES:
            # Usually the set has one platform of an index.
            children = [child.digest for child in graph.entries_of(store.json(each), each)]
            waiting += [child for child in children if child in blobs and child not in waiting]
        elif media_type in MANIFESTS:
            yield from (("_layers", part.digest) for part in graph.below_of(store.json(each), each) if part.digest in blobs)


def most(clusterfile: Clusterfile) -> int:
    """The number of control-plane nodes that hold images: MOST, or one where the Clusterfile wants it on the first alone."""
    local = clusterfile.cluster.local_registry if clusterfile.cluster else None
    return MOST if local is None or local.ha else 1


def alias(clusterfile: Clusterfile) -> str | None:
    """``sea.hub:5000``: one more name under which pods may ask for every image; None without a domain or port of localRegistry."""
    local = clusterfile.cluster.local_registry if clusterfile.cluster else None
    if local is None or (local.domain is None and local.port is None):
        return None
    return f"{local.domain or SEALER[0]}:{local.port or SEALER[1]}"


def sans(clusterfile: Clusterfile) -> tuple[str, ...]:
    """Names and addresses that a Clusterfile wants in the certificate of the registry."""
    local = clusterfile.cluster.local_registry if clusterfile.cluster else None
    return tuple(dict.fromkeys((*([local.domain] if local.domain else []), *local.dns_names, *local.ips))) if local else ()


def domains(images: ImageSet) -> tuple[str, ...]:
    """The registries in the names of the images."""
    return tuple(sorted({Reference.parse(image.name).domain for image in images.images}))


def held(node: Node) -> dict[str, int]:
    """The blobs on a node, by path, with their sizes: a truncated one has another."""
    script = f"cd {STORAGE} 2>/dev/null || exit 0; find {_V2}/blobs -type f -name data -exec stat -c '%s %n' {{}} + 2>/dev/null || true"
    pairs = (line.partition(" ") for line in node.run(script, timeout=LONG_TIMEOUT).stdout.splitlines())
    return {path: size for text, _, path in pairs if (size := untrusted.number(text)) is not None}


# Blobs may be read while others are copied: each appears complete, in one move.
_FINISH = f"""mkdir -p {STORAGE}
cp -alf . {STORAGE}/ || cp -af . {STORAGE}/
rm -f {distribution.FOLDER}/images-*.have {distribution.FOLDER}/images-*.list"""


def parcel(store: Store, wanted: Layout) -> Parcel:
    """The blobs as a parcel; the files that name them follow (``name``). Raises StoreError when one is damaged."""
    digests = {path: blob.digest.removeprefix("sha256:") for path, blob in wanted.blobs.items()}
    try:
        files = {path: store.path(blob.digest) for path, blob in wanted.blobs.items()}
        contents = distribution.known_contents(store, wanted.name, files, digests)
    except (ValueError, OSError) as wrong:
        raise StoreError(f"a blob of the images is missing or damaged: {wrong}", hint="pull or build the image again") from wrong
    return Parcel(
        name=wanted.name,
        files=contents,
        place=STORAGE,
        finish=_FINISH,
        earlier=STORAGE,
        whole=lambda node: node.put_tar(_writer(store, wanted.blobs, {}), STORAGE),
    )


def name(node: Node, store: Store, wanted: Layout) -> None:
    """Write the files that name the blobs of a node."""
    node.put_tar(_writer(store, {}, wanted.links), STORAGE)


def _writer(store: Store, blobs: Mapping[str, Blob], links: Mapping[str, str]) -> Callable[[BinaryIO], None]:
    def write(stream: BinaryIO) -> None:
        with tar_stream(stream) as tar:
            for path, blob in blobs.items():
                with store.open(blob.digest) as content:
                    tar.addfile(_entry(path, blob.size), content)
            for path, digest in links.items():
                tar.addfile(_entry(path, len(digest)), io.BytesIO(digest.encode()))

    return write


def _entry(path: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(path)
    entry.size, entry.mode = size, 0o644
    return entry


def units() -> Files:
    """The service of a node with a registry."""
    return {"/etc/systemd/system/slipway-registry.service": NodeFile.text(SERVICE)}


def login(secret: str) -> Credential:
    """The login of the cluster with this secret. It is hidden in output from now on."""
    credential = Credential(USER, secret)
    log.hide(secret, credential.basic)
    return credential


def config(credential: Credential | None) -> str:
    """The registry's configuration; without a login the registry serves every client."""
    return _CONFIG + (_AUTH if credential else "")


def settings(credential: Credential | None) -> Files:
    """The files that the registry reads when it starts. A node that has them runs a registry."""
    files = {f"{STATE}/registry.yaml": NodeFile.text(config(credential))}
    return {**files, HTPASSWD: NodeFile.text(htpasswd(credential), 0o600)} if credential else files


_BCRYPT_LETTERS = bytes.maketrans(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/",
    b"./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
)
"""From base64's order of its letters to bcrypt's."""


def htpasswd(credential: Credential) -> str:
    """The htpasswd file with the hash of the login. The same login gives the same text.

    The registry accepts bcrypt only, and hashes the password at every request, that for each blob included: some 1.5 ms at the lowest cost,
    93 ms at the usual one. The lowest is enough, since a password of 256 random bits cannot be guessed however fast its hash is.
    """
    import bcrypt  # here: few commands start a registry

    password = credential.password.encode()
    salt = base64.b64encode(hmac.new(password, b"salt", hashlib.sha256).digest()[:16]).rstrip(b"=").translate(_BCRYPT_LETTERS)
    return f"{credential.username}:{bcrypt.hashpw(password, b'$2b$04$' + salt).decode()}\n"


def start(node: Node, certificate: bytes, key: bytes, files: Files | None = None) -> None:
    """Install the registry's certificate and ``files``, (re)start it, and wait until it listens."""
    write_files(node, {**(files or {}), CERTIFICATE: NodeFile(certificate, 0o644), KEY: NodeFile(key, 0o600)})
    node.run(
        "systemctl enable --no-reload slipway-registry 2>&1; systemctl restart slipway-registry; "
        f"{listening('slipway-registry', REGISTRY_PORT)}",
        timeout=600,
    )


def client_files(
    names: Iterable[str], virtual_ip: str | None = None, credential: Credential | None = None, alias: str | None = None
) -> Files:
    """Configuration of containerd: every named registry is the local one, under a path of its own; unknown ones are empty.
    It is on the loopback, or at the virtual address. containerd sends the login to this address only: not to the address of a redirect,
    nor to those that a manifest names for its layers.

    ``server`` is set too, so that no request ever leaves for the real registry: in a closed network it would only hang.

    ``alias`` is a name that stands for every registry, as sea.hub:5000 in clusters of sealer, where images lost theirs: each is tried in
    turn, Docker Hub first.
    """
    url = f"https://{f'[{virtual_ip}]' if ':' in virtual_ip else virtual_ip}:{REGISTRY_PORT}" if virtual_ip else LOCAL
    listed = list(names)
    texts = {name: _hosts(f"{url}/v2/{name}", "override_path = true\n", CA, credential) for name in listed}
    if alias is not None and listed:
        # The last one is the server, which containerd asks when no other has the image.
        *first, last = sorted(listed, key=lambda name: (name != alias, name != DEFAULT_DOMAIN, name))
        own = [_host(f"{url}/v2/{name}", "override_path = true\n", CA, credential) for name in first]
        texts[alias] = _hosts(f"{url}/v2/{last}", "override_path = true\n", CA, credential, before="".join(own))
    return _hosts_files(texts | {"_default": _hosts(url, "", CA, credential)})


def hosts_file(data: bytes) -> NodeFile:
    """A hosts.toml; with a login in it, only root can read it."""
    return NodeFile(data, 0o600 if b"header]" in data else 0o644)


def _hosts_files(texts: Mapping[str, str]) -> dict[str, NodeFile]:
    return {f"{CERTS_D}/{name}/hosts.toml": hosts_file(text.encode()) for name, text in texts.items()}


def hosts_paths(node: Node) -> list[str]:
    """Paths of the hosts.toml that a node has. Anything else that it prints is left out: other machines get files under these paths."""
    listed = node.run(f"ls {CERTS_D}/*/hosts.toml 2>/dev/null || true").stdout.split()
    paths = [path for path in listed if _HOSTS_PATH.fullmatch(path)]
    for path in sorted({*listed} - {*paths}):
        log.warning(f"{node.name}: {untrusted.shown(path)[:120]!r} is not the hosts.toml of a registry: it is left out")
    return paths


class Elsewhere(Protocol):
    """An existing registry with every image; the cluster then runs none of its own."""

    def files(self, names: Iterable[str]) -> Files:
        """Configuration of containerd for images of these registries, with its login."""
        ...


@dataclasses.dataclass(frozen=True)
class Anything:
    """A registry for all names, by its hosts.toml."""

    hosts_toml: str

    def files(self, names: Iterable[str]) -> Files:  # noqa: ARG002 -- whatever they are
        return {f"{CERTS_D}/_default/hosts.toml": NodeFile.text(self.hosts_toml)}


@dataclasses.dataclass(frozen=True)
class OfSite:
    """The registry of a site, with each image under its own name below a path, as ``slipway push --expand`` puts them."""

    site: Site
    plain: bool = False
    ca: bytes | None = None
    credential: Credential | None = None

    def files(self, names: Iterable[str]) -> Files:
        url = f"{'http' if self.plain else 'https'}://{self.site.host}"
        ca = CA_OF_SITE if self.ca else None
        texts = {name: _hosts(f"{url}/v2/{self.site.folder(name)}", "override_path = true\n", ca, self.credential) for name in names}
        files = _hosts_files(texts | {"_default": _hosts(url, "", ca, self.credential)})
        return {**files, CA_OF_SITE: NodeFile(self.ca)} if self.ca else files


def _hosts(url: str, path: str, ca: str | None, credential: Credential | None, *, before: str = "") -> str:
    """One hosts.toml. The header signs in; containerd also requests tokens with it. ``before`` are hosts that are asked first."""
    authorization = credential.basic if credential else ""
    own = f'\n[header]\nAuthorization = "{authorization}"\n' if authorization else ""
    # A table each, behind the keys that are in none.
    return f'server = "{url}"\n{_options(path, ca)}{own}{before}{_host(url, path, ca, credential)}'


def _host(url: str, path: str, ca: str | None, credential: Credential | None) -> str:
    authorization = credential.basic if credential else ""
    signed = f'\n[host."{url}".header]\nAuthorization = "{authorization}"\n' if authorization else ""
    return f'\n[host."{url}"]\n{_options(path, ca)}{signed}'


def _options(path: str, ca: str | None) -> str:
    trusted = f'ca = "{ca}"\n' if ca else ""
    return f'capabilities = ["pull", "resolve"]\n{trusted}{path}'

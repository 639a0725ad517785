"""Options of verbs that make or change a cluster, and the request that they and a Clusterfile make."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Protocol

from harness.cli.options import Clusterfile, ClusterFlags, SiteAccess, SkipCheck, Ssh, addresses, existing, hosts, seconds
from harness.cli.output import local_store, pairs
from harness.cli.program import Options
from harness.cli.registry import connect, fetch
from harness.errors import Fault, FaultCollector, InputError, StoreError, UsageError

if TYPE_CHECKING:
    from harness.clusterfile import Clusterfile as Written
    from harness.clusterfile import ExternalRegistry
    from harness.lifecycle.provision.registry import OfSite
    from harness.lifecycle.run import RunOptions
    from harness.oci.registry.config import Site


Timeout = Annotated[float, seconds("--timeout", help="Seconds that workloads may take to become ready.")]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """A cluster that is made or changed, as options and a Clusterfile describe it."""

    spec: ClusterFlags
    file: Clusterfile = None
    ssh: Ssh
    site: SiteAccess
    skip_check: SkipCheck = None
    timeout: Timeout = 600


def skipping(ids: Sequence[str] | None) -> frozenset[str]:
    """The checks of ``--skip-check``. Raises UsageError for one that is none."""
    if not ids:
        return frozenset()
    from harness.lifecycle.checks.preflight import gather

    return gather.skipping(ids)


class Bring(Protocol):
    """Pulls the images of a request; with ``filled`` the registry of the site must have what is within them."""

    def __call__(self, *, filled: bool = True) -> None: ...


def wanted(asked: ClusterOptions, apps: Sequence[str] | None = None) -> tuple[Written, RunOptions, Bring]:
    """The request that a Clusterfile and options make, and a function that pulls its images and looks for what is within them in the
    registry of the site.
    """
    from harness.clusterfile import ClusterDocument
    from harness.lifecycle.cluster import hosts as cluster_hosts
    from harness.lifecycle.cluster import request
    from harness.lifecycle.run import RunOptions

    spec, ssh = asked.spec, asked.ssh
    skipped = skipping(asked.skip_check)
    values = pairs(spec.env or [], "--env")
    flags = ClusterDocument(
        name=spec.cluster or "",
        image=spec.images[0] if spec.images else "",
        images=tuple(spec.images[1:]) if spec.images else (),
        hosts=hosts(addresses(spec.control_plane, "--control-plane"), addresses(spec.workers, "--workers"), ssh.settings()),
        ssh=ssh.settings(),
        env=values,
        commands=tuple(spec.cmds) if spec.cmds else None,
        app_names=tuple(part.strip() for word in apps for part in word.split(",") if part.strip()) if apps else None,
        external_registry=external_registry(spec.registry, asked.site),
        profile=known_profile(spec.profile),
    )
    password = ssh.password()
    clusterfile = request.effective(*cluster_hosts.resolved(request.read(asked.file, values) if asked.file else None, flags, password))
    cluster = clusterfile.cluster
    assert cluster is not None
    access = None if cluster.external_registry is None else site_access(cluster.external_registry)
    site = None if cluster.external_registry is None or access is None else _of_site(cluster.external_registry, access)
    options = RunOptions(password, site, timeout=asked.timeout, skip_checks=skipped)
    # What is wrong with passwords is told before an image is fetched.
    request.machines(clusterfile, options.password)
    if options.password is None:
        request.warn_of_passwords(clusterfile)

    def bring(*, filled: bool = True) -> None:
        collector = FaultCollector()
        for one in dict.fromkeys((cluster.image, *cluster.images, *(other.image or "" for other in clusterfile.apps))):
            with collector.of(one):
                fetch(one, asked.site)
                if site is not None and access is not None and filled:
                    _check_site(site, one, access)
        collector.finish()

    return clusterfile, options, bring


def known_profile(name: str | None) -> str | None:
    """The name of a profile as it was given. Raises UsageError, with those there are, for one that is none."""
    from harness.clusterfile import PROFILES

    if name is not None and name not in PROFILES:
        raise UsageError(f"--profile {name}: there is no such profile", hint=f"there are: {', '.join(PROFILES)}")
    return name


def external_registry(text: str | None, to: SiteAccess) -> ExternalRegistry | None:
    """``--registry`` as a Clusterfile has it."""
    if text is None:
        return None
    from harness.clusterfile import ExternalRegistry
    from harness.oci.registry.config import Site

    site = Site.parse(text)
    domain, _, port = site.host.partition(":") if site.host.count(":") < 2 else (site.host, "", "")
    return ExternalRegistry(domain, int(port) if port else None, site.path, plain_http=to.plain_http, ca=str(to.ca) if to.ca else None)


def site_of(external: ExternalRegistry) -> Site:
    """The place of images in the registry of the site."""
    from harness.oci.registry.config import Site

    return Site(external.host, external.path)


def site_access(external: ExternalRegistry) -> SiteAccess:
    """The way into the registry of the site. Raises UsageError when the file of its CA does not exist."""
    from harness.host import paths

    return SiteAccess(external.plain_http, existing(paths.expanded(external.ca)) if external.ca else None)


def _of_site(external: ExternalRegistry, access: SiteAccess) -> OfSite:
    """The registry of the site, as nodes find it."""
    from harness.lifecycle.cluster.request import secret
    from harness.lifecycle.provision.registry import OfSite
    from harness.oci.registry.credentials import Credential, CredentialStore

    site = site_of(external)
    faults: list[Fault] = []
    password = secret(external.password, "registry.externalRegistry.password", faults)
    if faults:
        raise InputError(faults)
    credential = Credential(external.username or "", password) if password is not None else CredentialStore().find(site.host, site.path)
    return OfSite(site, access.plain_http, access.ca.read_bytes() if access.ca else None, credential)


def _check_site(site: OfSite, image: str, access: SiteAccess) -> None:
    """Raises StoreError when the registry of the site lacks images that are within the image."""
    from harness import cloudimage
    from harness.transfer import mirror

    with connect(access) as client:
        absent = mirror.missing(cloudimage.read(local_store(), image), site.site, client)
    if absent:
        raise StoreError(
            f"{site.site} lacks {len(absent)} of the images within {image}: {', '.join(absent[:3])}{' ...' if len(absent) > 3 else ''}",
            hint=f"slipway push {image} --expand {site.site}",
        )

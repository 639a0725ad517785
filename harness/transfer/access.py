"""Clients of registries, with the options of a command line, the user's configuration and logins."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from harness.errors import UsageError
from harness.oci.registry import config
from harness.oci.registry.client import Client
from harness.oci.registry.config import Certificates, Registries
from harness.oci.registry.credentials import Credential, CredentialStore
from harness.oci.registry.errors import RetryPolicy
from harness.oci.registry.session import CredentialSource

RETRIES = RetryPolicy(attempts=6, longest_wait=300)
"""Patient, unlike a kubelet that waits for a manifest: the user moves gigabytes."""


@dataclasses.dataclass(frozen=True)
class RegistryAccess:
    """Options of a command line to reach registries; they override registries.conf."""

    plain_http: bool = False
    insecure: bool = False
    """Accept an untrusted TLS certificate."""
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def client(
    access: RegistryAccess = RegistryAccess(),
    login: CredentialSource | None = None,
    retry: RetryPolicy = RETRIES,
    *,
    mirrors: bool = True,
) -> Client:
    """Return a client of registries with the user's configuration and logins. Raises InputError or UsageError.

    Without ``mirrors`` it asks every registry itself: what a mirror has says nothing about what a push still has to send.
    """
    rules = registries(access)
    if not mirrors:
        rules = dataclasses.replace(rules, rules=tuple(dataclasses.replace(rule, mirrors=()) for rule in rules.rules))
    return Client(rules, login or CredentialStore(), retry=retry)


def registries(access: RegistryAccess) -> Registries:
    """Return the user's configuration of registries with the options of a command line. Raises InputError or UsageError."""
    if (access.cert is None) != (access.key is None):
        raise UsageError("--cert and --cert-key belong together", hint="name the client's certificate and its key")
    for path in (access.ca, access.cert, access.key):
        if path is not None and not path.is_file():
            raise UsageError(f"{path}: no such file")
    pair = ((access.cert, access.key),) if access.cert and access.key else ()
    return dataclasses.replace(
        config.load(),
        plain=access.plain_http,
        insecure=access.insecure,
        extra=Certificates((access.ca,) if access.ca else (), pair),
    )


def sign_in(host: str, credential: Credential, access: RegistryAccess) -> None:
    """Verify a login at a registry. Raises RemoteError when it is refused; warns when the registry requires no authentication."""
    with client(access, _Only(credential)) as registry:
        registry.sign_in(host)


def require_answer(host: str, access: RegistryAccess) -> None:
    """Ask a registry without a login. Raises RemoteError when it does not answer."""
    with client(access, _Only(None), RetryPolicy(attempts=1)) as registry:
        registry.require_answer(host)


@dataclasses.dataclass(frozen=True)
class _Only:
    credential: Credential | None

    def find(self, domain: str, repository: str = "") -> Credential | None:  # noqa: ARG002 -- the one that is being tried
        return self.credential

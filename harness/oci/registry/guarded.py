"""Registries for a cluster that is not trusted: logins and unusual addresses are for repositories that an image or the user names."""

from __future__ import annotations

import contextlib
import fnmatch
import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from harness.oci.reference import Reference
from harness.oci.registry.client import Client
from harness.oci.registry.credentials import Credential
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.sources import Admit, Stream

_INNER_NAMES = ("localhost", "local", "internal", "localdomain", "home", "lan")
"""Last labels of names that mean something within one machine or network only, the metadata services of clouds among them."""

_METADATA = frozenset({"100.100.100.200", "fd00:ec2::254"})

_T = TypeVar("_T")


class Permits:
    """Permissions of a build: repositories that it may use logins for, and may reach at unusual addresses.

    A cluster under construction may ask for any image. Only repositories are known that a file of the image names, or that the user allows
    by a pattern such as ``registry.example.com/team/*``. Safe in threads: repositories are only added.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._patterns = tuple(allowed)
        self._declared: set[str] = set()

    def declare(self, names: Iterable[str]) -> None:
        """Names of the images in a file; invalid names were reported by the reader of the file."""
        for name in names:
            with contextlib.suppress(ValueError):
                self._declared.add(Reference.parse(name).repository)

    def know(self, reference: Reference) -> bool:
        repository = reference.repository
        return repository in self._declared or any(
            fnmatch.fnmatchcase(repository, pattern) or repository.startswith(f"{pattern.rstrip('/')}/") for pattern in self._patterns
        )


class GuardedSource:
    """The registries, for a cluster that is not trusted: what ``permits`` do not know is asked for without logins, at public addresses.

    ``admit`` is called for each of their images before any of its blobs is fetched.
    """

    def __init__(self, client: Client, anonymous: Client, permits: Permits, admit: Admit) -> None:
        self.client = client
        self.anonymous = anonymous
        self.permits = permits
        self._admit = admit

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        return self._as(reference, lambda client: client.manifest(reference, accept))

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        return self._as(reference, lambda client: client.blob(reference, digest, size))

    def admit(self, pinned: Reference) -> bool:
        self._as(pinned, lambda client: self._admit(client, pinned))
        return True

    def _as(self, reference: Reference, ask: Callable[[Client], _T]) -> _T:
        if self.permits.know(reference):
            return ask(self.client)
        hint = f"name it in a manifest or an image list of the image, or allow it: --allow-login {reference.repository}"
        # A name in the user's registries.conf is vouched for by the user.
        reason = unsafe_address(reference.domain) if self.client.registries.rule(reference) is None else None
        if reason is not None:
            raise RemoteError(
                f"{reference}: {reference.domain} is not asked, since {reason} and no file of the image names the repository",
                status=403, code="DENIED", hint=hint,
            )  # fmt: skip
        try:
            return ask(self.anonymous)
        except RemoteError as refused:
            if refused.status not in (401, 403):
                raise
            message = f"{refused.message}; no login is used for it, since no file of the image names the repository"
            raise RemoteError(message, status=refused.status, code=refused.code, hint=hint) from refused


class NoLogins:
    """A credential source without credentials."""

    def find(self, domain: str, repository: str = "") -> Credential | None:  # noqa: ARG002 -- whatever it is
        return None


def unsafe_address(domain: str) -> str | None:
    """Reason to refuse a registry without a trusted certificate; None when it may be used.

    A cluster that asks for ``169.254.169.254/x`` or ``localhost:2375/x`` wants this machine to talk to its neighbours, not an image.
    """
    host, _, port = domain.rpartition(":") if domain.rpartition(":")[2].isdecimal() else (domain, "", "")
    if port not in ("", "443"):
        return f"it is at port {port}"
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        pass
    else:
        return "it is named by its address"
    if host.lower().rpartition(".")[2] in _INNER_NAMES:
        return "its name is of an inner network"
    with contextlib.suppress(OSError, UnicodeError):  # the client says better why a name is not found
        for info in socket.getaddrinfo(host, 443, proto=socket.IPPROTO_TCP):
            address = ipaddress.ip_address(str(info[4][0]).partition("%")[0])
            mapped = getattr(address, "ipv4_mapped", None) or address
            if mapped.is_loopback or mapped.is_link_local or mapped.is_unspecified or mapped.is_multicast or str(mapped) in _METADATA:
                return f"its name means {mapped}"
    return None

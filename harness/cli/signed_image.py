"""The image that a verb of trust is about, in the store or in a registry, and the keys that sign and verify it."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import typer

from harness.cli.options import RegistryOptions
from harness.cli.output import local_store
from harness.cli.registry import connect, reference
from harness.errors import StoreError, UsageError
from harness.untrusted import json_object

if TYPE_CHECKING:
    from harness.oci.model import Descriptor
    from harness.oci.reference import Reference
    from harness.oci.registry.client import Client
    from harness.oci.registry.referrers import ReferrerStore
    from harness.oci.store import Store
    from harness.trust.keys import PrivateKey
    from harness.trust.signature import Demand

PASSWORDS = ("SLIPWAY_KEY_PASSWORD", "COSIGN_PASSWORD")
"""Environment variables that may hold the password of a key, in this order; else it is asked for."""


class FoundImage:
    """An image in the store or in a registry, and where its attachments are. A ``with`` block ends the connection."""

    def __init__(
        self, store: Store, location: Reference, image: Descriptor, attachments: ReferrerStore, client: Client | None = None
    ) -> None:
        self.store = store
        self.reference = location
        self.image = image
        self.attachments = attachments
        self.client = client

    def manifests(self) -> tuple[Descriptor, ...]:
        """The manifests that its index lists. Raises StoreError."""
        from harness.oci.graph import entries_of

        if self.client is None:
            index = self.store.json(self.image.digest)
        else:
            pinned = dataclasses.replace(self.reference, tag=None, digest=self.image.digest)
            index = json_object(self.client.manifest(pinned).data, what=self.reference.familiar)
        return tuple(entries_of(index, self.image.digest))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.client:
            self.client.close()


def find(name: str, to: RegistryOptions, *, remote: bool = False) -> FoundImage:
    """The image here; in its registry when it is wanted from there, or is not here and the name tells a registry."""
    store = local_store()
    if not remote and (_is_here(store, name) or not _names_a_registry(name)):
        return stored(store, name)
    return _in_registry(store, reference(name, "NAME"), to)


def _is_here(store: Store, name: str) -> bool:
    """Return True when the store has such an image, whole or damaged: a damaged one must not be passed over for a good one elsewhere."""
    store.names()
    try:
        store.resolve(name)
    except StoreError:
        return False
    return True


def _names_a_registry(name: str) -> bool:
    from harness.oci.reference import DEFAULT_DOMAIN, Reference

    try:
        return Reference.parse(name).domain != DEFAULT_DOMAIN or name.startswith(f"{DEFAULT_DOMAIN}/")
    except ValueError:
        return False


def stored(store: Store, name: str) -> FoundImage:
    """The image of the store. Raises StoreError when it does not exist, has no name, or is not a CloudImage."""
    from harness.cloudimage.reader import is_cloudimage
    from harness.oci.graph import attached_to
    from harness.oci.reference import Reference
    from harness.oci.registry.referrers import LocalReferrers

    image = store.resolve(name)
    names = store.names()
    having = [other for other, descriptor in names.items() if descriptor.digest == image.digest]
    try:
        whole_name = Reference.parse(name).familiar
    except ValueError:
        whole_name = ""
    familiar = whole_name if whole_name in names else next((other for other in having if attached_to(other) is None), None)
    if familiar is None:
        raise StoreError(f"{name} has no name here, so there is no repository for its signatures", hint="give it one with `slipway tag`")
    if not is_cloudimage(store.json(image.digest)):
        raise StoreError(f"{familiar} is an image, but not a CloudImage")
    here = Reference.parse(familiar)
    return FoundImage(store, here, image, LocalReferrers(store, here))


def _in_registry(store: Store, location: Reference, to: RegistryOptions) -> FoundImage:
    from harness.cloudimage.reader import is_cloudimage
    from harness.oci.model import Descriptor
    from harness.oci.registry.referrers import RemoteReferrers

    client: Client = connect(to)
    try:
        manifest = client.manifest(location)
        if not is_cloudimage(json_object(manifest.data, what=location.familiar)):
            raise StoreError(f"{location.familiar} is an image, but not a CloudImage")
    except BaseException:
        client.close()
        raise
    image = Descriptor(manifest.media_type, manifest.digest, len(manifest.data))
    return FoundImage(store, location, image, RemoteReferrers(client, location), client)


# Keys and passwords


def demands_of(paths: list[Path], image: Reference) -> tuple[Demand, ...]:
    """The demands on the signatures: one of these keys, or what each policy wants when no key is given."""
    from harness.trust import policy
    from harness.trust.keys import read_public
    from harness.trust.signature import Demand

    if paths:
        return (Demand([read_public(path) for path in paths]),)
    demands = policy.gate().demands(image)
    if not demands:
        raise UsageError(
            f"no key to verify {image.familiar} with", hint="--key FILE.pub; or a policy that names the keys of its repository"
        )
    return demands


def private_key(path: Path) -> PrivateKey:
    """The key in a file; its password is read from the environment or asked for."""
    from harness.trust.keys import read_private

    return read_private(path, _password)


def _password(name: str) -> str:
    password = given_password()
    if password is not None:
        return password
    if not sys.stdin.isatty():
        raise UsageError(f"{name} needs its password and there is no terminal to ask for it", hint=f"set {PASSWORDS[0]}")
    return str(typer.prompt(f"Password of {name}", hide_input=True, default="", show_default=False, err=True))


def given_password() -> str | None:
    """The password in the environment; None when there is none."""
    return next((os.environ[name] for name in PASSWORDS if name in os.environ), None)

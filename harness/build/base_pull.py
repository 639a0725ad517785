"""Images that a build fetches from their registries: those of FROM, and that of ``--on``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness import log
from harness.build.base_image import other_runtime
from harness.build.cluster_base import AUTO, NONE
from harness.build.options import ALWAYS, MISSING, NEVER, BuildOptions
from harness.errors import BuildError, StoreError
from harness.kubefile import Kubefile
from harness.oci.model import Platform
from harness.oci.reference import Reference, is_digest, names_registry
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.store import Store
from harness.transfer import pull
from harness.trust import policy

_HINT = "build or load it first; --pull never leaves registries alone"


def pull_bases(options: BuildOptions, kubefiles: Iterable[Kubefile], store: Store, client: Client) -> None:
    """Fetch the images of FROM and ``--on`` that ``--pull`` wants from registries, after the policies of this machine have admitted them.

    A name without a registry (``kubernetes:v1.36.3``) is one of the local store, unless the user's registries.conf says where it is or the
    user wants it fetched. Raises BuildError with the place in the Kubefile, StoreError for the image of ``--on``.
    """
    _pull_from(options, kubefiles, store, client)
    if options.on in (AUTO, NONE):
        return
    place = f"--on {options.on}"
    try:
        # It runs on this machine, whatever the image is built for.
        _fetch(options, options.on, (Platform.host(),), store, client, place)
    except StoreError as error:
        raise StoreError(f"{place}: {error.message}", hint=error.hint or _HINT, details=error.details) from error


def _pull_from(options: BuildOptions, kubefiles: Iterable[Kubefile], store: Store, client: Client) -> None:
    named = {parsed.base.image: parsed for parsed in kubefiles if parsed.base.image != "scratch"}
    # Container images of other platforms are found by running the image on this machine, which takes its base as well.
    runs_elsewhere = "pulled" in options.discover and Platform.host() not in options.platforms
    platforms = () if runs_elsewhere else options.platforms
    for name, parsed in named.items():
        where = parsed.where(parsed.base)
        try:
            _fetch(options, name, platforms, store, client, where)
        except ValueError as error:
            raise BuildError(f"{where}: FROM: {error}") from error
        except StoreError as error:
            raise BuildError(f"{where}: the base image {error.message}", hint=error.hint or _HINT, details=error.details) from error


def _fetch(options: BuildOptions, name: str, platforms: Sequence[Platform], store: Store, client: Client, where: str) -> None:
    """Fetch an image that ``--pull`` wants; ``where`` names it in messages. Raises StoreError, ValueError for what is not a name."""
    if not _is_wanted(name, options.pull, store, client):
        return
    gate = policy.gate(allow_older=options.allow_older)
    try:
        pull.pull(store, Reference.parse(name), client, platforms=platforms, admit=gate.admit_remote)
    except RemoteError as error:
        if options.pull != MISSING or names_registry(name):
            raise
        # A mirror of Docker Hub need not have what is made here; what reads it from the store says what is missing.
        log.info(f"{where}: {error.message}")


def _is_wanted(name: str, when: str, store: Store, client: Client) -> bool:
    try:
        reference = Reference.parse(name)
    except ValueError:
        return False  # reported with its line when it is looked for
    if is_digest(name):
        return False  # an image of the store: no registry can be asked for a digest alone
    if when in (ALWAYS, NEVER):
        return when == ALWAYS
    has_registry = names_registry(name) or client.registries.rule(reference) is not None
    return has_registry and other_runtime(name) is None and not _is_stored(store, name)


def _is_stored(store: Store, name: str) -> bool:
    try:
        store.resolve(name)
    except StoreError:
        return False
    return True

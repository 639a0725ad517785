"""Base images that a build fetches from their registries."""

from __future__ import annotations

from collections.abc import Iterable

from harness import log
from harness.build.base_image import other_runtime
from harness.build.options import ALWAYS, MISSING, NEVER, BuildOptions
from harness.errors import BuildError, StoreError
from harness.kubefile import Kubefile
from harness.oci.model import Platform
from harness.oci.reference import Reference, names_registry
from harness.oci.registry.client import Client
from harness.oci.registry.errors import RemoteError
from harness.oci.store import Store
from harness.transfer import pull
from harness.trust import policy


def pull_bases(options: BuildOptions, kubefiles: Iterable[Kubefile], store: Store, client: Client) -> None:
    """Fetch the base images that ``--pull`` wants from their registries, after the policies of this machine have admitted them.

    A name without a registry (``kubernetes:v1.36.3``) is one of the local store, unless the user's registries.conf says where it is or the
    user wants it fetched. Raises BuildError with the place in the Kubefile.
    """
    named = {parsed.base.image: parsed for parsed in kubefiles if parsed.base.image != "scratch"}
    # Container images of other platforms are found by running the image on this machine, which takes its base as well.
    runs_elsewhere = "pulled" in options.discover and Platform.host() not in options.platforms
    platforms = () if runs_elsewhere else options.platforms
    for name, parsed in named.items():
        if not _is_wanted(name, options.pull, store, client):
            continue
        where = parsed.where(parsed.base)
        try:
            reference = Reference.parse(name)
            gate = policy.gate(allow_older=options.allow_older)
            pull.pull(store, reference, client, platforms=platforms, admit=gate.admit_remote)
        except ValueError as error:
            raise BuildError(f"{where}: FROM: {error}") from error
        except StoreError as error:
            if isinstance(error, RemoteError) and options.pull == MISSING and not names_registry(name):
                # A mirror of Docker Hub need not have what is made here; ``base_image`` says what is missing.
                log.info(f"{where}: {error.message}")
                continue
            hint = error.hint or "build or load it first; --pull never leaves registries alone"
            raise BuildError(f"{where}: the base image {error.message}", hint=hint, details=error.details) from error


def _is_wanted(name: str, when: str, store: Store, client: Client) -> bool:
    try:
        reference = Reference.parse(name)
    except ValueError:
        return False  # reported with its line when it is looked for
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

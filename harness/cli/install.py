"""``slipway run APPIMAGE...``: application images go into a cluster that runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness import log
from harness.cli.output import local_store, say
from harness.errors import StoreError

if TYPE_CHECKING:
    from harness.cli.options import Output
    from harness.lifecycle.apps.install import InstallResult
    from harness.lifecycle.apps.requests import Request
    from harness.lifecycle.apps.target import Where


def only_applications(images: Sequence[str]) -> bool:
    """Return True when none of the images brings Kubernetes. Of a single one that is not in the store nothing is known.

    Raises all faults of several images at once.
    """
    from harness import cloudimage

    if len(images) > 1:
        from harness.lifecycle.apps import multi_image

        return multi_image.sort(images, local_store()).base is None
    try:
        return cloudimage.read(local_store(), images[0]).platforms[0].info.type == "app"
    except StoreError:
        return False


def put(requests: Sequence[Request], where: Where, *, plan: bool, output: Output) -> None:
    """Put applications into a cluster, or with ``plan`` show what that would be."""
    from harness.lifecycle.apps import multi_image

    store = local_store()
    if plan:
        with multi_image.prepared(requests, where, store) as works:
            output.steps(multi_image.described(works))
        return
    results = multi_image.put(requests, where, store)
    if output.printed(results[0] if len(results) == 1 else results):
        return
    for one in results:
        tell_installed(one)


def tell_installed(result: InstallResult) -> None:
    """Print what was installed in a cluster."""
    say(f"{result.name} ({result.image}) runs in {result.cluster}: {len(result.objects)} objects, in {log.duration(result.seconds)}")
    for one in result.dropped:
        say(f"  removed, since this version does not have it any more: {one}")
    for command in result.unknown:
        say(f"  did more than kubectl and helm, so that removal will not undo it: {command.strip()}")

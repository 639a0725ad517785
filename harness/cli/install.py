"""``slipway run APPIMAGE``: an application image goes into a cluster that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import log
from harness.cli.output import local_store, plain, print_json, say, steps_table
from harness.errors import StoreError

if TYPE_CHECKING:
    from harness.lifecycle.apps.install import InstallResult
    from harness.lifecycle.apps.requests import Request
    from harness.lifecycle.apps.target import Where


def is_application(image: str) -> bool:
    """Whether an image in the store is one of applications, for a cluster that is there. Of one that is not here nothing is known."""
    from harness import cloudimage

    try:
        return cloudimage.read(local_store(), image).platforms[0].info.type == "app"
    except StoreError:
        return False


def put(request: Request, where: Where, *, plan: bool, as_json: bool) -> None:
    """Put an application into a cluster, or with ``plan`` show what that would be."""
    from harness.lifecycle import plan as planning
    from harness.lifecycle.apps import install

    store = local_store()
    if plan:
        with install.prepared(request, where, store) as work:
            described = planning.describe(install.plan(work))
        if as_json:
            print_json(described)
        else:
            steps_table(described)
        return
    done = install.install(request, where, store)
    print_json(plain(done)) if as_json else tell(done)


def tell(done: InstallResult) -> None:
    """What has come into a cluster."""
    say(f"{done.name} ({done.image}) runs in {done.cluster}: {len(done.objects)} objects, in {log.duration(done.seconds)}")
    for one in done.dropped:
        say(f"  removed, since this version does not have it any more: {one}")
    for command in done.unknown:
        say(f"  did more than kubectl and helm, so that removal will not undo it: {command.strip()}")

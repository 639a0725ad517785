"""``slipway run APPIMAGE``: an application image goes into a cluster that runs."""

from __future__ import annotations

from typing import Any

from harness import log
from harness.cli.output import plain, print_json, say, table
from harness.errors import StoreError
from harness.oci.store import Store


def is_application(image: str) -> bool:
    """Whether an image in the store is one of applications, for a cluster that is there. Of one that is not here nothing is known."""
    from harness import cloudimage

    try:
        return cloudimage.read(Store.default(), image).platforms[0].info.type == "app"
    except StoreError:
        return False


def put(request: Any, where: Any, *, plan: bool, as_json: bool) -> None:
    """Put an application into a cluster, or with ``plan`` show what that would be."""
    from harness.lifecycle import plan as planning
    from harness.lifecycle.apps import install

    store = Store.default()
    if plan:
        with install.prepared(request, where, store) as work:
            described = planning.describe(install.plan(work))
        if as_json:
            print_json(described)
        else:
            table(("STEP", "WHERE", "WHAT"), [(step["id"], ",".join(step["nodes"]) or "here", step["title"]) for step in described])
        return
    done = install.install(request, where, store)
    print_json(plain(done)) if as_json else tell(done)


def tell(done: Any) -> None:
    """What has come into a cluster."""
    say(f"{done.name} ({done.image}) runs in {done.cluster}: {len(done.objects)} objects, in {log.duration(done.seconds)}")
    for one in done.dropped:
        say(f"  removed, since this version does not have it any more: {one}")
    for command in done.unknown:
        say(f"  did more than kubectl and helm, so that removal will not undo it: {command.strip()}")

"""One image out of several: a cluster with its applications, or applications alone."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.manifest import Pull, Sources, fetching, show_made
from harness.cli.options import Env, Output, RegistryOptions, option
from harness.cli.output import local_store, pairs
from harness.cli.root import app


@app.command(short_help="Make one image out of several.")
def merge(
    *,
    images: Sources,
    tag: Annotated[str, option("--tag", "-t", help="The name of the new image.", metavar="NAME")],
    env: Env = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="For a value or a container image that differs, take that of the later image.")
    ] = False,
    pull: Pull = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Make one image out of an image with Kubernetes and application images, or out of application images alone.

    \b
      slipway merge kubernetes calico shop:1 -t stack:1
      slipway run stack:1 --control-plane 10.0.0.1

    Nothing is built. Layers lie over each other and launch commands run in the order of the IMAGEs. A later file replaces an earlier one,
    with a warning. A value or a container image that two IMAGEs have differently is an error: --env settles a value, --replace all.
    """
    from harness.lifecycle.cluster import request
    from harness.transfer import merge as transfer_merge

    values = pairs(env or [], "--env")
    request.check_env(values)
    merged = transfer_merge.merge(local_store(), tag, images, env=values, replace=replace, fetch=fetching(to), fresh=pull)
    show_made(merged, output, merged.sources)

"""The catalogue of images as a site."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Output, RegistryOptions, local_images, option, target
from harness.cli.output import local_store, say
from harness.cli.registry import connect
from harness.cli.root import app

if TYPE_CHECKING:
    from harness.oci.reference import Reference
    from harness.trust.signature import Demand
    from harness.website.collect import Demands


@app.command(short_help="Write a web site about CloudImages.")
def catalog(
    *,
    names: Annotated[list[str] | None, local_images("Only these repositories.  [default: all]", "[NAME]...")] = None,
    to: Annotated[Path, target("Write the site to this folder; a former site in it is replaced.", "FOLDER")],
    registry: Annotated[
        list[str] | None,
        option(
            "--registry", help="Show the images of this registry instead of the local store; may be repeated.", metavar="HOST[/NAMESPACE]"
        ),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="The title of the site.", metavar="TEXT")] = "Cluster images",
    key: Annotated[
        list[Path] | None,
        option("--key", help="Verify signatures with this public key; may be repeated.  [default: keys of the policy]", metavar="FILE"),
    ] = None,
    versions: Annotated[int, typer.Option("--versions", help="Number of newest versions of an image to show.", metavar="N", min=1)] = 20,
    readmes: Annotated[
        Path | None,
        option("--readmes", help="A folder with NAME/README.md for repositories whose last part is NAME.", metavar="FOLDER"),
    ] = None,
    reports: Annotated[
        Path | None,
        option(
            "--reports",
            help="A folder with reports and logs of tests; those that an attached test result names by digest are linked.",
            metavar="FOLDER",
        ),
    ] = None,
    access: RegistryOptions,
    output: Output,
) -> None:
    """Write a static web site about the CloudImages of the local store or of registries: versions, contents, values, changes, proof.

    It needs no server: any web server shows it, and so does a browser from the disk. `slipway search --index` reads its index.json.
    Metadata for Artifact Hub is in its folder artifacthub. The same images give the same files.
    """
    from harness.cloudimage.search import RegistryNamespace
    from harness.website import site

    places = tuple(RegistryNamespace.parse(text) for text in registry or ())
    request = site.SiteRequest(to, title, tuple(names or ()), places, versions, readmes, reports)
    demands = _demands(key or [])
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(connect(access, briefly=True)) if places else None
        written = site.make(local_store(), request, demands, client)
    if output.printed(written.to_json()):
        return
    say(f"wrote {to}  (images: {written.images}, versions: {written.versions})")
    say(f"  open {to / 'index.html'}; `slipway search --index {to}` searches it")


def _demands(paths: Sequence[Path]) -> Demands:
    """Requirements for signatures: by one of these keys, or of the policies of this machine."""
    from harness.trust import policy
    from harness.trust.keys import read_public
    from harness.trust.signature import Demand

    if paths:
        demands = (Demand([read_public(path) for path in paths]),)
        return lambda _: demands
    gate = policy.gate()

    def of_policy(image: Reference) -> Sequence[Demand]:
        return gate.demands(image)

    return of_policy

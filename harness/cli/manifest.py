"""One tag for several platforms, from images that were built apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from harness import log
from harness.cli.options import Output, RegistryOptions, argument, local_images
from harness.cli.output import local_store, say, short, table
from harness.cli.program import Group, Program
from harness.cli.registry import connect
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.oci.reference import Reference
    from harness.transfer import multi_platform
    from harness.transfer.merge import MergedImage

manifest_app = Program(cls=Group, help="Combine images of single platforms into one image.", no_args_is_help=True)
app.add_typer(manifest_app, name="manifest")

Name = Annotated[str, argument(help="The image to make or change.", metavar="NAME")]
Sources = Annotated[list[str], local_images("Images of the local store, or REGISTRY/REPOSITORY:TAG, which are pulled.")]
Replace = Annotated[bool, typer.Option("--replace", help="For two images of one platform, take the later one.")]
Pull = Annotated[bool, typer.Option("--pull", help="Ask the registry even if the local store has that name.")]


@manifest_app.command("create", short_help="Make an image of several platforms.")
def create(*, name: Name, images: Sources, replace: Replace = False, pull: Pull = False, to: RegistryOptions, output: Output) -> None:
    """Give NAME to an image with every platform of the IMAGEs; the previous image of that name keeps its digest only."""
    from harness.transfer import multi_platform

    fetch = fetching(to)
    show_made(multi_platform.create(local_store(), name, images, replace=replace, fetch=fetch, fresh=pull), output)


@manifest_app.command("add")
def add(*, name: Name, images: Sources, replace: Replace = False, pull: Pull = False, to: RegistryOptions, output: Output) -> None:
    """Add the platforms of the IMAGEs to NAME."""
    from harness.transfer import multi_platform

    fetch = fetching(to)
    show_made(multi_platform.add(local_store(), name, images, replace=replace, fetch=fetch, fresh=pull), output)


@manifest_app.command("inspect", short_help="Show its platforms.")
def inspect(name: Name, output: Output) -> None:
    """Show the manifests of NAME for each platform, and their differences."""
    from harness.transfer import multi_platform

    description = multi_platform.inspect(local_store(), name)
    if output.printed(description):
        return
    say(f"{description['name'] or name}  {description['digest']}")
    table(
        ("PLATFORM", "ROOTFS", "IMAGE SET", "KUBERNETES", "IMAGES", "SIZE"),
        [
            (
                one["platform"],
                short(one["rootfs"]),
                short(one["imageSet"] or "-"),
                one["kubernetes"] or "-",
                str(one["images"]),
                log.size(one["size"]),
            )
            for one in description["platforms"]
        ],
    )
    for warning in description["warnings"]:
        log.warning(warning)


@manifest_app.command("remove")
def remove(
    *,
    name: Name,
    platform: Annotated[str, argument(help="As linux/arm64.", metavar="PLATFORM")],
    output: Output,
) -> None:
    """Remove a platform from NAME."""
    from harness.oci.model import Platform
    from harness.transfer import multi_platform

    try:
        wanted = Platform.parse(platform)
    except ValueError as error:
        raise UsageError(f"PLATFORM {platform}: {error}") from error
    show_made(multi_platform.remove(local_store(), name, wanted), output)


def fetching(to: RegistryOptions) -> Callable[[Reference], object]:
    """A function that pulls an image of a registry into the local store."""

    def fetch(reference: Reference) -> object:
        from harness.transfer import pull

        with connect(to) as client:
            return pull.pull(local_store(), reference, client)

    return fetch


def show_made(image: multi_platform.Assembled | MergedImage, output: Output, sources: Sequence[str] = ()) -> None:
    """Print an image that was put together, its sources and its platforms."""
    for warning in image.warnings:
        log.warning(warning)
    if output.printed(image):
        return
    say(f"{image.name}  {image.digest}")
    say(f"  {'; '.join(', '.join(names) for names in (sources, image.platforms) if names)}")

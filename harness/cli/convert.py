"""Coming from sealer: its images become CloudImages."""

from __future__ import annotations

from typing import Annotated

import typer

from harness import log
from harness.cli.options import Output, local_images, option
from harness.cli.output import local_store, plain, say, table
from harness.cli.registry import new_name
from harness.cli.root import app
from harness.errors import StoreError, UsageError


@app.command(short_help="Make a CloudImage of an image that sealer made.")
def convert(
    *,
    name: Annotated[str, local_images("An image of sealer 0.9 to 0.11 in the local store.", "IMAGE")],
    tag: Annotated[
        str | None,
        option("--tag", "-t", help="The name of the CloudImage.  [default: NAME with -slipway behind it]", metavar="NAME"),
    ] = None,
    registry: Annotated[
        str | None,
        option("--registry", help="The registry of embedded images for which the image has no complete name.", metavar="DOMAIN"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail, and tag nothing, if a name or file cannot be restored.")] = False,
    output: Output,
) -> None:
    """Make a CloudImage of an image that sealer made: its rootfs, and its embedded images under their original names.

    Content that cannot be restored is left out and reported; nothing is guessed.
    """
    from harness import cloudimage
    from harness.host import scratch
    from harness.sealer import convert as sealer_convert
    from harness.sealer import image as sealer_image

    # Before the conversion, which takes long.
    wanted = None if tag is None else new_name(tag, "--tag")
    store = local_store()
    with store.shared_lease(), scratch.cleaned():
        source = sealer_image.read(store, name)
        target = wanted or _default_name(source.name)
        converted = sealer_convert.convert(store, name, registry=registry)
        for note in converted.notes:
            log.info(note)
        if strict and converted.problems:
            raise StoreError(
                f"{source.name} cannot be converted whole: {_count(converted.problems, 'problem')}",
                hint="without --strict the rest is converted; --registry names a registry for images that have none",
                details="\n".join(map(str, converted.problems)),
            )
        for problem in converted.problems:
            log.warning(str(problem))
        descriptor = cloudimage.write(store, converted.platforms)
        store.tag(target, descriptor)
        image = cloudimage.read(store, target)
    if output.printed(
        {
            "name": image.name,
            "digest": image.digest,
            "source": {"name": source.name, "digest": source.digest},
            "platforms": [
                {"platform": str(part.platform), "images": [one.to_json() for one in part.images.images]} for part in image.platforms
            ],
            "problems": plain(converted.problems),
            "notes": list(converted.notes),
        }
    ):
        return
    say(f"{image.name}  {image.digest}")
    rows = []
    for part in image.platforms:
        embedded = _count(part.images.images, "embedded image")
        size = sum(layer.size for layer in part.layers)
        rows.append((str(part.platform), part.info.type, log.size(size), embedded))
    table(("PLATFORM", "TYPE", "ROOTFS", "IMAGES"), rows)
    if converted.problems:
        say(f"{_count(converted.problems, 'thing')} could not be restored: see the warnings")


def _default_name(name: str) -> str:
    if name.startswith("sha256:"):
        raise UsageError(f"{name} has no name", hint="say how the CloudImage shall be called: -t NAME")
    return f"{name}-slipway"


def _count(things: tuple[object, ...], word: str) -> str:
    return f"{len(things)} {word}{'' if len(things) == 1 else 's'}"

"""CloudImages of the local store."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from harness import log
from harness.cli.terminal import Json, app, existing, print_json, short, table, wants_json
from harness.oci.store import Store


@app.command()
def images(output: Json = "text") -> None:
    """List the CloudImages of the local store."""
    import dataclasses

    from harness import cloudimage

    rows = cloudimage.images(Store.default())
    if wants_json(output):
        print_json([dataclasses.asdict(row) for row in rows])
        return
    table(
        ("NAME", "DIGEST", "PLATFORM", "KUBERNETES", "IMAGES", "SIZE"),
        [
            (
                row.name,
                short(row.digest),
                ",".join(row.platforms),
                row.kubernetes or "-",
                str(row.images),
                row.problem or log.size(row.size),
            )
            for row in rows
        ],
    )


@app.command()
def inspect(
    name: Annotated[str, typer.Argument(help="A name, a digest, or the beginning of one.", show_default=False)], output: Json = "text"
) -> None:
    """Show what is in a CloudImage: how it runs, its layers, and each embedded image under its original name."""
    from harness import cloudimage

    store = Store.default()
    image = cloudimage.read(store, name)
    if wants_json(output):
        print_json(cloudimage.describe(image))
        return
    for part in image.platforms:
        info = part.info
        print(f"{image.name or name}  {image.digest}")
        print(f"platform    {part.platform}")
        print(f"type        {info.type}" + (f", Kubernetes {info.kubernetes} ({info.runtime})" if info.kubernetes else ""))
        if info.base:
            print(f"base        {info.base['reference']}  {short(info.base['digest'])}")
        for key, value in info.env.items():
            print(f"env         {key}={value}")
        for application in info.apps:
            print(f"app         {application.name} ({application.kind})")
        for command in info.launch:
            print(f"launch      {command}")
        rootfs = f"{len(part.layers)} layers of rootfs with {log.size(sum(one.size for one in part.layers))}"
        print(f"size        {log.size(image.size)} in all, {rootfs}\n")
        sizes = cloudimage.content_sizes(store, part.images)
        table(
            ("IMAGE", "DIGEST", "SIZE", "FOUND BY", "ASKED FOR BY"),
            [
                (one.name, short(one.digest), log.size(sizes[one.name]), "+".join(one.found_by), _several(one.requested_by))
                for one in part.images.images
            ],
        )


def _several(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else "-"


@app.command()
def history(name: Annotated[str, typer.Argument(show_default=False)], output: Json = "text") -> None:
    """Show the steps that made a CloudImage, with the size of each layer."""
    import dataclasses

    from harness import cloudimage

    rows = cloudimage.history(cloudimage.read(Store.default(), name))
    if wants_json(output):
        print_json([dataclasses.asdict(row) for row in rows])
        return
    table(
        ("LAYER", "SIZE", "STEP"),
        [(short(row.layer) if row.layer else "-", log.size(row.size) if row.layer else "-", row.created_by) for row in rows],
    )


@app.command()
def tag(
    source: Annotated[str, typer.Argument(show_default=False)], names: Annotated[list[str], typer.Argument(show_default=False)]
) -> None:
    """Give a CloudImage more names."""
    from harness import cloudimage

    for name in names:
        cloudimage.tag(Store.default(), source, name)


@app.command()
def rmi(names: Annotated[list[str], typer.Argument(show_default=False)]) -> None:
    """Remove names, and the blobs that no other name needs."""
    from harness import cloudimage

    removed, freed = cloudimage.remove(Store.default(), names)
    for name in removed:
        print(f"untagged {name}")
    print("blobs stay for now: the store is in use" if freed.busy else f"freed {log.size(freed.bytes)}")


@app.command()
def prune(
    cache: Annotated[bool, typer.Option("--cache", help="Also forget build steps and discoveries.")] = False, output: Json = "text"
) -> None:
    """Remove what no image and no cached build step needs, and what pulls that were cut short have left."""
    store = Store.default()
    if cache:
        store.forget()
    freed = store.collect(unfinished=True)
    if wants_json(output):
        print_json(freed._asdict())
    else:
        print("nothing removed: the store is in use" if freed.busy else f"removed {freed.blobs} blobs, freed {log.size(freed.bytes)}")


@app.command()
def save(
    names: Annotated[list[str], typer.Argument(show_default=False)],
    file: Annotated[Path, typer.Option("--file", "-f", help="The archive to write; - for standard output.", show_default=False)],
) -> None:
    """Write CloudImages into one file: a standard OCI archive, each blob once."""
    from harness.oci import archive

    with log.step(f"save {', '.join(names)}") as shown:
        written = archive.save(Store.default(), names, sys.stdout.buffer if str(file) == "-" else file)
        shown.note = log.size(written)


@app.command()
def load(
    file: Annotated[Path, typer.Option("--file", "-f", help="The archive to read; - for standard input.", show_default=False)],
) -> None:
    """Take the CloudImages of an archive into the store; nothing is visible before all of it is verified."""
    from harness.oci import archive

    with log.step(f"load {file}"):
        found = archive.load(Store.default(), sys.stdin.buffer if str(file) == "-" else existing(file))
    for name, descriptor in sorted(found.items()):
        print(f"{name}  {descriptor.digest}")

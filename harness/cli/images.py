"""CloudImages of the local store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from harness import errors, log
from harness.cli import attestations
from harness.cli.options import AnyImage, OnePlatform, Output, argument, local_images, platform_of
from harness.cli.output import local_store, say, short, table
from harness.cli.registry import new_name
from harness.cli.root import app

if TYPE_CHECKING:
    from harness.oci.store import Store

if TYPE_CHECKING:  # every command would load it
    from harness.cloudimage import EmbeddedImage, Info


@app.command(short_help="List the images of the local store.")
def images(
    *,
    everything: Annotated[bool, typer.Option("--all", "-a", help="Also container images, signatures and other attachments.")] = False,
    output: Output,
) -> None:
    """List the CloudImages of the local store, and images of sealer, which `slipway convert` makes CloudImages of."""
    from harness.cloudimage import listing
    from harness.sealer import listing as sealer_listing

    store = local_store()
    rows = {row.name: row for row in (*(listing.others(store) if everything else ()), *listing.images(store))}
    rows.update((row.name, row) for row in sealer_listing.rows(store))
    listed = [rows[name] for name in sorted(rows)]
    if output.printed(listed):
        return
    table(
        ("NAME", "DIGEST", "KIND", "PLATFORM", "KUBERNETES", "IMAGES", "SIZE"),
        [
            (
                row.name,
                short(row.digest),
                row.kind,
                ",".join(row.platforms) or "-",
                row.kubernetes or "-",
                str(row.images),
                row.problem or log.size(row.size),
            )
            for row in listed
        ],
    )


@app.command(short_help="Show the content of a CloudImage.")
def inspect(name: AnyImage, output: Output) -> None:
    """Show the content of a CloudImage: launch, layers, each embedded image under its original name, and what is attached to it.

    For an image of sealer, show which names can be restored and which cannot.
    """
    from harness import cloudimage
    from harness.cloudimage import enforcers, listing
    from harness.sealer import image as sealer_image

    store = local_store()
    if sealer_image.is_sealer(store, store.resolve(name)):
        _inspect_sealer(store, name, output=output)
        return
    image = cloudimage.read(store, name)
    attached = attestations.of_stored(store, image)
    if output.printed({**listing.describe(image), "attached": [one.to_json() for one in attached]}):
        return
    for part in image.platforms:
        info = part.info
        say(f"{image.name or name}  {image.digest}")
        say(f"platform    {part.platform}")
        brings = f", Kubernetes {info.kubernetes} ({info.runtime})" if info.kubernetes else ""
        wants = f", for Kubernetes {info.kube_version}" if info.kube_version else ""
        say(f"type        {info.type}{brings}{wants}")
        _say_info(info)
        if info.kubernetes:
            say(f"policies    {enforcers.told(enforcers.among(one.name for one in part.images.images))}")
        rootfs = f"{len(part.layers)} layers of rootfs with {log.size(sum(one.size for one in part.layers))}"
        say(f"size        {log.size(image.size)} in all, {rootfs}\n")
        sizes = listing.content_sizes(store, part.images)
        table(
            ("IMAGE", "DIGEST", "SIZE", "FOUND BY", "ASKED FOR BY"),
            [
                (one.name, short(one.digest), log.size(sizes[one.name]), "+".join(one.found_by), _several(one.requested_by))
                for one in part.images.images
            ],
        )
        _say_built(part.images.images)
    attestations.show(attached)


def _say_info(info: Info) -> None:
    """Print the origin of an image, the run that proved it, its values and its launch commands."""
    if info.base:
        say(f"base        {info.base['reference']}  {short(info.base['digest'])}")
    if info.proven and info.proven.on:
        say(f"proven on   {info.proven.on['reference']}  {short(info.proven.on['digest'])}")
    if info.proven and info.proven.exercise:
        say(f"exercised   {short(info.proven.exercise)}")
    for source in info.merged_from:
        say(f"merged      {source.get('reference', '-')}  {short(source.get('digest', '-'))}")
    if info.converted_from:
        origin = info.converted_from
        say(f"made from   an image of {origin['tool']} {origin['version']}  {short(origin['digest'])}")
    described = {expected.name: expected for expected in info.values}
    for key, value in info.env.items():
        # The line of a value shows its default, and never a secret.
        if key not in described or not (described[key].secret or described[key].default == value):
            say(f"env         {key}={value}")
    for expected in info.values:
        say(f"value       {expected}")
    for application in info.apps:
        say(f"app         {application.name} ({application.kind})")
    for command in info.launch:
        say(f"launch      {command}")


def _say_built(images: Sequence[EmbeddedImage]) -> None:
    """Images that have their publisher's name and are not the publisher's."""
    built = [one for one in images if one.built]
    if built:
        say("\nBuilt under these names, since their registries were not asked or did not have them:")
        table(("IMAGE", "BY", "FROM"), [(one.name, one.built.recipe, _several(one.built.origin)) for one in built if one.built])


def _inspect_sealer(store: Store, name: str, *, output: Output) -> None:
    from harness.host import scratch
    from harness.sealer import image as sealer_image
    from harness.sealer import listing

    image = sealer_image.read(store, name)
    with scratch.cleaned():
        inside = listing.look(store, image)
    if output.printed(listing.describe(image, inside)):
        return
    for one in inside:
        part, extension = one.part, one.part.extension
        say(f"{image.name}  {image.digest}")
        say(f"made by     sealer {extension.sealer or '?'}, {extension.schema}" if extension else "made by     sealer")
        say(f"platform    {part.platform}")
        if extension:
            say(f"type        {extension.type}" + (f", Kubernetes {part.kubernetes}" if part.kubernetes else ""))
            for key, value in extension.env.items():
                say(f"env         {key}={value}")
            for application in extension.applications:
                say(f"app         {application.name} ({application.kind or 'mixed'})")
            for line in (*extension.launch_apps, *extension.launch_commands):
                say(f"launch      {line}")
        for key, value in part.labels.items():
            say(f"label       {key}={value}")
        say(f"size        {log.size(part.size)} in {len(part.layers)} layers\n")
        table(
            ("IMAGE", "DIGEST", "SIZE", "ASKED FOR BY"),
            [
                (embedded.name, short(embedded.digest), log.size(one.sizes[embedded.name]), _several(embedded.requested_by))
                for embedded in one.restored.images.images
            ],
        )
        for note in one.restored.notes:
            say(f"note: {note}")
        if one.problems:
            say("\nNot restored:")
            table(("KIND", "NAME", "WHY"), [(problem.kind, problem.name, problem.reason) for problem in one.problems])
    for absent in image.absent:
        say(f"{absent} is in the index, but not in the store")


def _several(names: Sequence[str]) -> str:
    return errors.summary(names)[0] if names else "-"


@app.command(short_help="Show the steps that made a CloudImage.")
def history(
    *,
    name: AnyImage,
    platform: OnePlatform = None,
    output: Output,
) -> None:
    """Show the steps that made a CloudImage, with the size of each layer; those of its base come first."""
    import dataclasses

    from harness import cloudimage
    from harness.cloudimage import listing

    image = cloudimage.read(local_store(), name)
    if platform:
        image = dataclasses.replace(image, platforms=(image.platform(platform_of(platform)),))
    rows = listing.history(image)
    if output.printed(rows):
        return
    for number, part in enumerate(image.platforms):
        if len(image.platforms) > 1:
            say(("\n" if number else "") + f"platform {part.platform}")
        own = [row for row in rows if row.platform == str(part.platform)]
        table(
            ("LAYER", "SIZE", "STEP"),
            [(short(row.layer) if row.layer else "-", log.size(row.size) if row.layer else "-", row.created_by) for row in own],
        )


@app.command()
def tag(
    *,
    source: AnyImage,
    names: Annotated[list[str], argument(help="The new names.", metavar="NAME...")],
    output: Output,
) -> None:
    """Give a CloudImage more names."""
    from harness.cloudimage import tags

    store = local_store()
    familiar = [new_name(name, "NAME") for name in names]
    digest = store.resolve(source).digest
    for name in familiar:
        tags.tag(store, source, name)
    if output.printed({"names": familiar, "digest": digest}):
        return
    for name in familiar:
        say(f"{name}  {digest}")


@app.command()
def rmi(
    *,
    names: Annotated[list[str], local_images("Names; or a digest, or the beginning of one, of what has one name.", "NAME...")],
    output: Output,
) -> None:
    """Remove names, and the blobs that no other name needs. With its last name go an image's signatures and other attachments."""
    from harness.cloudimage import tags

    removed, freed = tags.remove(local_store(), names)
    if output.printed({"names": list(removed), **freed._asdict()}):
        return
    for name in removed:
        say(f"untagged {name}")
    say(
        "unused blobs stay, for the store is in use: `slipway prune` removes them later"
        if freed.busy
        else f"freed {log.size(freed.bytes)} in {freed.blobs} blobs"
    )


@app.command(short_help="Remove unused blobs, caches and temporary files.")
def prune(
    *,
    cache: Annotated[bool, typer.Option("--cache", help="Also remove cached build steps and discoveries.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, and remove nothing.")] = False,
    output: Output,
) -> None:
    """Remove blobs, caches and temporary files that no image, cached build step or running command needs.

    In the store: blobs without a name, what pulls that were cut short have left, attachments of images that are gone. In the cache:
    unpacked trees of such images, and temporary folders of processes that were killed. In the engine: images of Dockerfiles that
    nothing used for a week. While something builds, pulls, pushes or loads, the store is left alone.
    """
    from harness.cloudimage import prune as cloudimage_prune
    from harness.host import docker

    pruned = cloudimage_prune.prune(local_store(), cache=cache, dry_run=dry_run, client=docker.running())
    if output.printed(pruned.to_json()):
        return
    table(("KIND", "COUNT", "SIZE"), [(kind.name, str(kind.count), log.size(kind.bytes)) for kind in pruned.kinds])
    for name in pruned.names:
        say(f"{'would untag' if dry_run else 'untagged'} {name}")
    if pruned.busy:
        say("the store is in use: nothing of it " + ("would be" if dry_run else "was") + " removed; try again later")
    if pruned.trees_busy:
        say("a tree is being unpacked: no tree " + ("would be" if dry_run else "was") + " removed; try again later")
    if pruned.trees_in_use:
        say(f"{pruned.trees_in_use} more trees stay: another process or another home uses them")
    say(f"{'would free' if dry_run else 'freed'} {log.size(pruned.bytes)}")

"""Container images by reading, and the digests that a build keeps to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli import completion
from harness.cli.options import Output, RegistryOptions, argument, existing, option
from harness.cli.output import local_store, plain, print_json, say, table
from harness.cli.registry import connect
from harness.cli.root import app
from harness.errors import StoreError, UsageError

if TYPE_CHECKING:
    from harness.build.image_lock import Resolve
    from harness.oci.registry.client import Client


@app.command("find-images", short_help="Show the container images that files name.")
def find_images(
    *,
    subject: Annotated[
        str,
        argument(
            help="A build context, a chart, a manifest, a folder of them, or a CloudImage of the local store.",
            metavar="PATH|CHART|IMAGE",
            complete=completion.images,
        ),
    ],
    why: Annotated[str | None, option("--why", help="Show only this image, and every place that names it.", metavar="NAME")] = None,
    lock: Annotated[bool, typer.Option("--lock", help="Write the digests of the tags into images.lock beside the Kubefile.")] = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Show the container images that a build would find by reading, and where each is named; nothing is built.

    A possible image is text with the form of an image, such as an argument of an operator; `slipway build --possible` says what happens
    to these. `slipway build` takes the digests in images.lock when the file lies beside the Kubefile.
    """
    from harness.build import find_images as build_find_images
    from harness.build import image_lock

    path = Path(subject)
    kubefile = path / "Kubefile" if path.is_dir() else path
    if lock and not (path.exists() and kubefile.name.endswith("Kubefile") and kubefile.is_file()):
        raise UsageError(f"--lock: {subject} has no Kubefile", hint="slipway find-images FOLDER --lock, with the folder of a Kubefile")
    result = _found(path, kubefile, subject)
    if lock:
        with connect(to) as client:
            digests = build_find_images.lock(result, kubefile.parent, local_store(), _resolve(client))
        image_lock.write(kubefile.parent / image_lock.NAME, digests)
        result = {**result, "locked": digests}
    if why is not None:
        result = build_find_images.why(result, why)
    if output.printed(result):
        return
    _show(result)
    if lock:
        log.info(f"{kubefile.parent / image_lock.NAME}: {len(result['locked'])} tags")


def _found(path: Path, kubefile: Path, subject: str) -> dict[str, Any]:
    from harness.build import find_images as build_find_images
    from harness.build.options import BuildOptions

    if not path.exists():
        return build_find_images.find_in_image(local_store(), subject)
    if kubefile.is_file() and kubefile.name.endswith("Kubefile"):
        return build_find_images.find_in_context(BuildOptions(kubefile.parent, kubefile.parent.resolve().name, file=kubefile))
    return build_find_images.find_in_files(path)


def _show(result: Mapping[str, Any]) -> None:
    rows = [
        (image["name"], kind or ",".join(image["foundBy"]), where)
        for images, kind in ((result["images"], ""), (result["possibleImages"], "possible"))
        for image in images
        for where in image["where"]
    ]
    if rows:
        table(("IMAGE", "FOUND", "WHERE"), rows)
    else:
        say("no file names an image")
    for warning in result["warnings"]:
        log.warning(warning)


def _resolve(client: Client) -> Resolve:
    return lambda reference: client.manifest(reference).digest


@app.command(short_help="Show which tags of images.lock have moved.")
def outdated(
    *,
    path: Annotated[
        Path,
        argument(help="A build context, or an images.lock.  [default: this folder]", metavar="PATH"),
    ] = Path(),
    to: RegistryOptions,
    output: Output,
) -> None:
    """Show which tags of images.lock mean another image by now, or are gone from their registry; nothing is changed.

    `slipway find-images --lock` takes the new digests, also of images that only a run found.
    """
    from harness.build import image_lock

    file = existing(path) / image_lock.NAME if path.is_dir() else existing(path)
    if not file.is_file():
        raise UsageError(f"{file}: no such file", hint="`slipway build --lock FOLDER` or `slipway find-images --lock FOLDER` writes it")
    locked = image_lock.read(file)
    with connect(to, briefly=True) as client:
        tags, errors = image_lock.compare(locked, _resolve(client))
    changed = [tag for tag in tags if tag.status != "same"]
    if output.is_json:
        print_json([{**plain(tag), "status": tag.status} for tag in tags])
    elif changed:
        table(("IMAGE", "STATUS", "LOCKED", "NOW"), [(tag.name, tag.status, tag.locked, tag.now or "-") for tag in changed])
    else:
        say(f"{len(tags)} tags, none has moved")
    if errors:
        lines = [f"{name}: {error.message}" for name, error in sorted(errors.items())]
        raise StoreError(f"{len(lines)} tags are not known: {lines[0]}", details="\n".join(lines) if len(lines) > 1 else None)

"""CloudImages to be had."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from harness import errors, log
from harness.cli.options import Output, RegistryOptions, argument, option
from harness.cli.output import local_store, say, table
from harness.cli.registry import connect, reference
from harness.cli.root import app
from harness.errors import StoreError, UsageError

if TYPE_CHECKING:
    from harness.cloudimage import search as cloudimage_search
    from harness.cloudimage.site_index import SiteIndex
    from harness.oci.reference import Reference
    from harness.oci.registry.client import Client


@app.command(short_help="Find CloudImages.")
def search(
    *,
    term: Annotated[str, argument(help="Part of a name or a description.  [default: everything]", metavar="TERM")] = "",
    registry: Annotated[
        list[str] | None,
        option("--registry", help="Search this registry too; may be repeated.", metavar="HOST[/NAMESPACE]"),
    ] = None,
    index: Annotated[
        list[str] | None,
        option("--index", help="Search this site of `slipway catalog` too; may be repeated.", metavar="FILE|URL"),
    ] = None,
    list_tags: Annotated[bool, typer.Option("--tags", help="List the tags of the repository TERM in its registry.")] = False,
    to: RegistryOptions,
    output: Output,
) -> None:
    """Find CloudImages: in the catalogue that came with slipway, in the local store, in registries and in catalogue sites.

    Of a repository in a registry `latest` is shown, or else its highest tag. Where a registry lists nothing, TERM as the whole
    name of a repository still finds that one.
    """
    from harness.cloudimage import search as cloudimage_search

    with contextlib.ExitStack() as stack:
        places = [cloudimage_search.RegistryNamespace.parse(text) for text in registry or ()]
        if list_tags:
            if registry or index:
                raise UsageError("--tags takes no --registry and no --index", hint="write `slipway search --tags REGISTRY/REPOSITORY`")
            repository = _repository(term)
            _tags(repository, stack.enter_context(connect(to, briefly=True)), output=output)
            return
        client = stack.enter_context(connect(to, briefly=True)) if places else None
        sites = _sites(index or (), to)
        results = cloudimage_search.search(term, local_store(), places, client, sites)
    if not output.printed(results.to_json()):
        _show(results)
    silent = [one for one in results.silent if not one.found]
    if silent:
        message, details = errors.summary([f"{one.name}: {one.reason}" for one in silent])
        hint = "`slipway search --tags REGISTRY/REPOSITORY` lists the tags of a repository whose name is known"
        raise StoreError(message, hint=hint, details=details)


def _sites(places: Sequence[str], to: RegistryOptions) -> dict[str, SiteIndex]:
    from harness.cloudimage import site_index
    from harness.transfer import access

    registries = access.registries(to.access) if places else None
    return {place: site_index.load(place, registries) for place in places if registries}


def _show(results: cloudimage_search.SearchResults) -> None:
    if results.hits:
        table(
            ("NAME", "WHERE", "TAGS", "PLATFORM", "KUBERNETES", "SIZE", "DESCRIPTION"),
            [
                (
                    hit.name,
                    hit.where,
                    str(hit.tags or "-"),
                    ",".join(hit.platforms) or "-",
                    hit.kubernetes or "-",
                    log.size(hit.size) if hit.size is not None else "-",
                    "".join(letter if letter.isprintable() else " " for letter in hit.description),
                )
                for hit in results.hits
            ],
        )
    else:
        say("nothing was found")
    if results.more:
        say(f"{results.more} more repositories match: say more of the name, or --registry HOST/NAMESPACE")
    for one in results.silent:
        if one.found:
            log.info(f"{one.name}: {one.reason}; only the repository of exactly this name was looked for")


def _repository(name: str) -> Reference:
    """Raises UsageError or InputError when it is none."""
    if not name:
        raise UsageError("--tags needs a repository", hint="write `slipway search --tags REGISTRY/REPOSITORY`")
    return reference(name, "TERM")


def _tags(repository: Reference, client: Client, *, output: Output) -> None:
    from harness.cloudimage import search as cloudimage_search

    tags = cloudimage_search.tags(repository, client)
    if not tags:
        raise StoreError(f"{repository.repository}: no such repository in the registry, or it has no tags")
    if output.printed({"repository": repository.repository, "tags": list(tags)}):
        return
    for tag in tags:
        say(tag)

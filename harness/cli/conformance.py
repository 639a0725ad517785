"""Conformance of an image to the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import completion
from harness.cli.options import Output, argument, in_lower_case, option
from harness.cli.output import local_store, say
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.cloudimage.conformance import ConformanceReport

ImageOrFile = Annotated[
    str,
    argument(
        help="A CloudImage of the store; or an archive of `slipway save` or another tool, the first of its volumes, or a folder that is "
        "an OCI image layout.",
        metavar="IMAGE",
        complete=completion.images,
    ),
]
ImageOfFile = Annotated[str | None, option("--image", help="The image to check, of an archive with several.", metavar="NAME")]


@app.command(short_help="Check an image against every clause of the CloudImage format.")
def conformance(*, image: ImageOrFile, name: ImageOfFile = None, output: Output) -> None:
    """Check an image against every clause of the CloudImage format, whichever tool made it. Exits with 1 if a clause fails.

    Every blob is hashed, and every layer of the rootfs is read and unpacked below the folder of temporary files.

    \b
      slipway conformance web
      slipway conformance web.tar --output json
    """
    from harness.cloudimage.conformance import check

    report = check(local_store(), _named(image), name)
    if not output.printed(report.to_json()):
        _show(report)
    if not report.conforms:
        raise typer.Exit(1)


def _named(image: str) -> str:
    """A path, or a name of the store. Raises UsageError for what can be neither."""
    from pathlib import Path

    from harness.cli.options import is_digits
    from harness.cloudimage.conformance.sources import is_file
    from harness.oci.reference import Reference

    if is_file(Path(image)) or is_digits(image):
        return image
    name = in_lower_case(image)
    try:
        Reference.parse(name)
    except ValueError as wrong:
        raise UsageError(f"IMAGE {image}: no such file, and {wrong}") from wrong
    return name


def _show(report: ConformanceReport) -> None:
    from harness.cloudimage.conformance import FORMAT_VERSION, ClauseOutcome

    say(f"{report.name}  {report.digest or '-'}  CloudImage format {FORMAT_VERSION}")
    width = max(len(result.clause.id) for result in report.results)
    indent = " " * (16 + width + 2)
    for result in report.results:
        failed = result.outcome is ClauseOutcome.FAILED
        note = "" if failed else f" ({result.evidence[0]})"
        say(f"{result.outcome.value:<16}{result.clause.id:<{width}}  {result.clause.title}{note}")
        for fault in result.evidence if failed else ():
            say(f"{indent}{fault}")
    counts = ", ".join(f"{count} {outcome.value}" for outcome in ClauseOutcome if (count := report.count(outcome)))
    say(f"{len(report.results)} clauses: {counts}")

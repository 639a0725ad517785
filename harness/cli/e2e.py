"""The end-to-end tests of Kubernetes itself, against a cluster image."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.options import Output, image_option, local_images, option
from harness.cli.output import say
from harness.cli.root import app
from harness.errors import CheckError, UsageError

if TYPE_CHECKING:
    from harness.testkit.e2e.choice import SpecChoice
    from harness.testkit.e2e.verdict import SuiteVerdict

MOST_NODES, MOST_PROCESSES = 9, 64
"""Nodes are containers of this machine; each process runs one spec at a time."""

ClusterImage = Annotated[str, local_images("The cluster image to test.", "IMAGE")]


@app.command(short_help="Run the end-to-end tests of Kubernetes against a cluster image.")
def e2e(
    *,
    image: ClusterImage,
    suite: Annotated[
        str, image_option("--suite", help="The application image with the tests, from kubefiles/conformance.", metavar="IMAGE")
    ],
    focus: Annotated[str | None, option("--focus", help="Run the specs that match, as ginkgo matches.", metavar="RE")] = None,
    specs: Annotated[Path | None, option("--specs", help="Run the specs that a file names, one a line.", metavar="FILE")] = None,
    full: Annotated[bool, typer.Option("--full", help="Run every conformance test.")] = False,
    unavailable: Annotated[
        Path | None,
        option(
            "--unavailable",
            help="A file that lists container images, with the specs that are skipped where one is missing.",
            metavar="FILE",
        ),
    ] = None,
    control_plane: Annotated[
        int, typer.Option("--control-plane", help="Number of control-plane nodes.", metavar="N", min=1, max=MOST_NODES)
    ] = 1,
    workers: Annotated[int, typer.Option("--workers", help="Number of workers.", metavar="N", min=0, max=MOST_NODES)] = 1,
    processes: Annotated[
        int, typer.Option("--processes", help="Number of specs that run at the same time.", metavar="N", min=1, max=MOST_PROCESSES)
    ] = 1,
    reports: Annotated[
        Path, typer.Option("--reports", help="The folder for reports: conformance/IMAGE/ and IMAGE.conformance.json.", metavar="FOLDER")
    ] = Path("reports"),
    keep: Annotated[bool, typer.Option("--keep", help="Leave the cluster running.")] = False,
    output: Output,
) -> None:
    """Boot nodes without a way out, run the image on them, and run the end-to-end tests of its Kubernetes version.

    Exits with 7 if one fails. The results are JUnit, and a statement about the digest that ran; `slipway attest --type test-result`
    attaches it.

    \b
      slipway e2e kubernetes --suite conformance:v1.37.2 --specs kubefiles/conformance/1.37/smoke.txt
      slipway e2e kubernetes --suite conformance:v1.37.2 --full --workers 2
    """
    chosen = _chosen(focus, specs, full)
    from harness.testkit.e2e.suite import SuiteRequest, run

    name = report_name(image)
    folder, record = reports / "conformance" / name, reports / f"{name}.conformance.json"
    words = ["slipway", "e2e", image, "--suite", suite, *_words(focus, specs, full), "--workers", str(workers)]
    verdict = run(
        SuiteRequest(
            image, suite, chosen, folder, record, unavailable,
            control_plane=control_plane, workers=workers, processes=processes, keep=keep, command=shlex.join(words),
        )
    )  # fmt: skip
    if not output.printed({**verdict.to_json(), "image": image, "reports": str(folder), "statement": str(record)}):
        _show(verdict)
        say(f"{image}: {verdict.counts}")
        say(f"  reports: {folder}; statement: {record}")
    if not verdict.good:
        raise typer.Exit(CheckError.exit_code)


def _chosen(focus: str | None, specs: Path | None, full: bool) -> SpecChoice:
    from harness.testkit.e2e.choice import SpecChoice

    if (focus is not None) + (specs is not None) + full != 1:
        raise UsageError("say which specs are to run", hint="one of --focus RE, --specs FILE and --full")
    if full:
        return SpecChoice.full()
    return SpecChoice.of_file(specs) if specs is not None else SpecChoice.matching(focus or "")


def _words(focus: str | None, specs: Path | None, full: bool) -> list[str]:
    return ["--full"] if full else ["--specs", str(specs)] if specs is not None else ["--focus", focus or ""]


def report_name(image: str) -> str:
    """The name of an image in names of files: ``web`` for ``web:latest``, ``kubernetes-1.37`` for ``kubernetes:1.37``."""
    return image.removesuffix(":latest").replace("/", "-").replace(":", "-").replace("@", "-")


def _show(verdict: SuiteVerdict) -> None:
    for title, names in (("failed", verdict.failed), ("skipped", verdict.skipped)):
        for spec, why in names.items():
            say(f"{title:<8}{spec}")
            say(f"        {why}")
    for one in verdict.trouble:
        say(f"failed  {one}")

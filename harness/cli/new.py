"""A new repository of images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from harness import log
from harness.cli.options import Output, argument, option
from harness.cli.output import say
from harness.cli.root import app
from harness.errors import UsageError


@app.command(short_help="Write a repository that builds, tests and publishes images.")
def new(
    *,
    name: Annotated[str | None, argument(help="The name of its first image, and of its folder.", metavar="[NAME]")] = None,
    to: Annotated[Path | None, option("--to", help="The folder, empty or new.  [default: NAME]", metavar="FOLDER")] = None,
    source: Annotated[
        str | None,
        option(
            "--source",
            help="The slipway that it installs: git+https://HOST/OWNER/REPOSITORY@COMMIT, or the folder of a checkout.  "
            "[default: the one that this slipway was installed from]",
            metavar="SOURCE",
        ),
    ] = None,
    workflows: Annotated[
        str | None,
        option(
            "--workflows",
            help="The repository whose workflows it calls on GitHub.  [default: that of SOURCE]",
            metavar="OWNER/REPOSITORY@REF",
        ),
    ] = None,
    update: Annotated[
        Path | None,
        option("--update", help="Make the repository in this folder use SOURCE; its images stay as they are.", metavar="FOLDER"),
    ] = None,
    output: Output,
) -> None:
    """Write a repository that builds, tests and publishes images.

    \b
      slipway new shop
      cd shop && ./nox -s build-image test-image -- shop

    It holds an image with its tests, the sessions of nox that slipway's own images are made with, and a workflow for GitHub that calls
    slipway's. Add images in kubefiles/NAME, and container images of your own in images/NAME.
    """
    from harness.build import new_repository

    if (name is None) == (update is None) or (update is not None and to is not None):
        raise UsageError("name an image, or a repository with --update", hint="slipway new shop; slipway new --update .")
    origin = new_repository.origin(source, workflows)
    if update is not None:
        written = new_repository.update(update, origin)
    else:
        assert name is not None
        written = new_repository.create(to or Path(name), name, origin)
    if origin.is_local:
        log.warning(f"{new_repository.REQUIREMENTS} names a folder of this machine: --source git+https://... is for others")
    if not origin.workflows and update is None:
        log.warning(f"{new_repository.WORKFLOW} is not written: --workflows OWNER/REPOSITORY@REF says whose workflows it calls")
    if output.printed(
        {"folder": str(written.folder), "files": list(written.files), "source": origin.source, "workflows": origin.workflows}
    ):
        return
    say(f"wrote {written.folder}  ({', '.join(written.files) or 'nothing has changed'})")
    if name is not None:
        say(f"next: cd {written.folder} && ./nox -s build-image test-image -- {name}")

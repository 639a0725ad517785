"""CloudImages as files: for places that no network reaches."""

from __future__ import annotations

import functools
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from harness import log
from harness.cli.options import FORMER_FILE, AllowOlder, Output, Platforms, choice, local_images, option, platform_of, target
from harness.cli.output import local_store, one_of, say
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.oci.layer.compression import Compression

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(i?)[bB]?")
_COMPRESSIONS = ("none", "zstd", "gzip")


@app.command(short_help="Write CloudImages into one file.")
def save(
    *,
    names: Annotated[list[str], local_images("Images of the local store, by name or digest.")],
    file: Annotated[Path, target("The archive to write; - for standard output."), FORMER_FILE],
    since: Annotated[
        list[str] | None,
        typer.Option(
            "--since",
            help="Only what OLD lacks: an image of the store, or an archive that was sent before. May be repeated. "
            "To load it, the other side needs OLD.",
            metavar="OLD",
        ),
    ] = None,
    platform: Platforms = None,
    compress: Annotated[
        str,
        choice("--compress", values=_COMPRESSIONS, help="none (the layers are compressed already), zstd or gzip, for the whole file."),
    ] = "none",
    volume_size: Annotated[
        str | None,
        typer.Option(
            "--volume-size",
            help="Cut it into FILE.001, FILE.002 ... of this size (4GB, 700M, 4GiB), with their digests in FILE.sums. "
            "`cat FILE.??? > FILE` gives the archive without slipway.",
            metavar="SIZE",
        ),
    ] = None,
    output: Output,
) -> None:
    """Write CloudImages into one file: a standard OCI archive, each blob once, with their signatures and attestations."""
    from harness.log.progress import Meter
    from harness.oci.archive import save

    stream = str(file) == "-"
    if stream and (volume_size or output.is_json):
        raise UsageError("--to - writes one stream to standard output", hint="name a file for volumes or JSON")
    limit = None if volume_size is None else size_in_bytes(volume_size, "--volume-size")
    how = cast("Compression", one_of(compress, _COMPRESSIONS, "--compress"))
    platforms = [platform_of(one) for one in platform or ()]
    store = local_store()
    with log.step(f"save {', '.join(names)}") as shown:
        meter = Meter(shown, 0)
        saved = save.save(
            store,
            names,
            cast("BinaryIO", sys.stdout.buffer) if stream else file,
            since=[_old(one) for one in since or ()],
            platforms=platforms,
            compress=how,
            volume_size=limit,
            meter=meter,
        )
        meter.finish()
    if output.printed(
        {
            "names": list(saved.names),
            "files": [str(path) for path in saved.files],
            "size": saved.size,
            "blobs": saved.blobs,
            "bytes": saved.content,
            "bytesWithoutSince": saved.whole,
            "since": list(saved.since),
        }
    ):
        return
    for path in saved.files:
        say(f"{path}  {log.size(path.stat().st_size)}")
    if saved.since:
        say(f"  {log.size(saved.content)} instead of {log.size(saved.whole)}, where the site has {' and '.join(saved.since)}")


def _old(text: str) -> str | Path:
    """A file when there is one of that name, or of that name with volumes; else an image of the store."""
    from harness.oci.archive import volumes

    path = Path(text)
    return path if path.is_file() or volumes.volume(path, 1).is_file() or volumes.sums(path).is_file() else text


@app.command(short_help="Load the CloudImages of a file into the store.")
def load(
    *,
    file: Annotated[
        Path,
        option(
            "--from",
            help="The archive to read: a file, the first of its volumes, or their name without the number; - for standard input.",
            metavar="FILE",
        ),
        FORMER_FILE,
    ],
    allow_older: AllowOlder = False,
    output: Output,
) -> None:
    """Load the CloudImages of an archive into the store; nothing is visible before all of it is verified."""
    from harness.log.progress import Meter
    from harness.oci.archive import load
    from harness.oci.graph import attached_to
    from harness.trust import policy

    store = local_store()
    with log.step(f"load {file}") as shown:
        meter = Meter(shown, 0)
        gate = policy.gate(allow_older=allow_older)
        loaded = load.load(
            store,
            cast("BinaryIO", sys.stdin.buffer) if str(file) == "-" else file,
            meter=meter,
            admit=functools.partial(gate.admit, store),
        )
        meter.finish(f"{loaded.present} of {loaded.present + loaded.written} blobs were here already" if loaded.present else "")
    images = {name: descriptor for name, descriptor in sorted(loaded.names.items()) if attached_to(name) is None}
    attached = sorted(set(loaded.names) - set(images))
    if output.printed(
        {
            "images": [{"name": name, "digest": descriptor.digest} for name, descriptor in images.items()],
            "attachments": attached,
            "written": loaded.written,
            "present": loaded.present,
        }
    ):
        return
    for name, descriptor in images.items():
        say(f"{name}  {descriptor.digest}")
    if attached:
        log.info(f"with {len(attached)} attachment{'s' if len(attached) > 1 else ''} (signatures, SBOMs, provenance)")


def size_in_bytes(text: str, option: str) -> int:
    """``4GB``, ``700M``, ``1.5G`` count in thousands, as disks do; ``4GiB`` in 1024. Raises UsageError."""
    matched = _SIZE.fullmatch(text.strip())
    if not matched or (matched[3] and not matched[2]):
        raise UsageError(f"{option} {text}: not a size", hint="write 4GB, 700M or 4GiB")
    size = int(float(matched[1]) * (1024 if matched[3] else 1000) ** " kmgt".index(matched[2].lower() or " "))
    if size < 1:
        raise UsageError(f"{option} {text}: too small")
    return size

"""Images of an archive, taken into the store: verified while they are read, and named when all of them are whole and admitted."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from harness.errors import StoreError
from harness.log.progress import Meter
from harness.oci import attached
from harness.oci.admission import Admitted
from harness.oci.archive.blob_writer import Intake
from harness.oci.archive.index import Image
from harness.oci.archive.plan import LoadPlan
from harness.oci.archive.source import ArchiveSource, blob_of, opened, read_index, safe_name
from harness.oci.archive.volumes import DamagedError
from harness.oci.model import Descriptor
from harness.oci.store import UNFINISHED, Store

_DOCKER = re.compile(r"[0-9a-f]{64}(\.json|\.tar|/(layer\.tar|VERSION|json))?/?")


Admit = Callable[[str, str, Mapping[str, Descriptor]], Admitted]
"""Called with the name and the digest of an image before it is tagged, and with its attachments in the archive, by name.

Raises StoreError for an image that may not be taken in.
"""


@dataclasses.dataclass(frozen=True)
class Loaded:
    """Result of a load. ``written`` and ``present`` count blobs: new ones, and those that were in the store already."""

    names: Mapping[str, Descriptor]
    written: int
    present: int


def load(store: Store, source: Path | BinaryIO, *, admit: Admit, meter: Meter | None = None) -> Loaded:
    """Take all images of an archive into the store. It may be gzip or zstd, or volumes, of which ``source`` is the first or the base name.

    No image is tagged before every blob is present with the right digest. Raises StoreError, and names nothing, when the
    file is damaged or not whole, is a delta whose base is not here, has an image without a name or that is not admitted, or holds
    links, devices or paths that leave it; UsageError when there is no such file. Verified blobs stay for the next try.
    """
    with store.shared_lease():
        images, intake = _take_in(store, source, meter)
        with store.lock(), contextlib.ExitStack() as after:
            # From now on only names keep these blobs: those of a refused image may be collected.
            for image in images:
                after.callback(store.forget, UNFINISHED, image.root.digest.removeprefix("sha256:"))
            names = {image.name: image.root for image in images if not attached.is_attachment(image.name)}
            arriving = {image.name: attached.merged(store, image.name, image.root) for image in images if image.name not in names}
            admitted = [admit(name, root.digest, arriving) for name, root in names.items()]
            # In one change: a refusal leaves nothing behind, and an image appears together with its attachments.
            store.take_in(names, admitted, arriving)
    return Loaded({**names, **arriving}, intake.written, intake.present)


def take_blobs(store: Store, source: Path) -> tuple[Image, ...]:
    """Take the blobs of an OCI archive into the store, and name nothing: hold ``store.shared_lease()`` as long as they are used.

    Raises StoreError as load() does.
    """
    images, _ = _take_in(store, source, None)
    for image in images:
        store.forget(UNFINISHED, image.root.digest.removeprefix("sha256:"))
    return images


def _take_in(store: Store, source: Path | BinaryIO, meter: Meter | None) -> tuple[tuple[Image, ...], Intake]:
    with opened(source) as archive:
        plan = LoadPlan(store)
        if meter:
            meter.total = archive.size
        with Intake(store) as intake:
            _read(archive, plan, intake, meter)
        return plan.finish(), intake


def _read(source: ArchiveSource, plan: LoadPlan, intake: Intake, meter: Meter | None) -> None:
    docker = counted = False
    for entry in source.tar:
        if _DOCKER.fullmatch(entry.name):
            raise _docker_archive(source.where)
        name = safe_name(entry)
        if (digest := blob_of(name)) and entry.kind == "file":
            if plan.wants(digest, entry.size):
                intake.take(digest, entry.size, source.metered(meter))
                if plan.leads_on(digest):
                    intake.wait(digest)
                    plan.arrived(digest)
        elif name == "index.json" and entry.kind == "file":
            plan.begin(read_index(source, entry))
        docker |= name == "manifest.json"
        source.declared = plan.size
        if meter and plan.known and not counted:
            meter.total, counted = plan.carried, True
            meter.add(source.taken - meter.done)
    source.drain()
    if plan.index is None:
        if docker:
            raise _docker_archive(source.where)
        raise DamagedError(f"{source.where} is not an OCI archive: it has no index.json", hint="make it with `slipway save`")


def _docker_archive(where: str) -> StoreError:
    return StoreError(
        f"{where} is a docker-archive, as `docker save` before version 25 and `podman save` write it: a container image, no CloudImage",
        hint=f"`docker load -i {where}` takes it; `skopeo copy docker-archive:{where} oci-archive:NEW.tar:NAME:TAG` converts it",
    )

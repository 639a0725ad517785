"""Images that lie as files below ``images/`` of the context, or that COPY puts there: sources of the build, not files of the rootfs."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from harness import log
from harness.build.declared_images import DeclaredImage, RootfsFile
from harness.errors import Fault, InputError, SlipwayError, StoreError
from harness.oci import attached
from harness.oci.archive import docker_archive
from harness.oci.archive.docker_archive import ImageListing
from harness.oci.graph import child_for
from harness.oci.model import INDEXES, Descriptor, Platform
from harness.oci.reference import Reference
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.sources import FinalSourceError, LayoutSource, Source, Stream
from harness.oci.store import Store

FOLDER = "images"
ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.zst")


@dataclasses.dataclass(frozen=True)
class ImageArchive:
    """An archive of container images in the build context."""

    path: Path
    shown: str
    listing: ImageListing

    @property
    def images(self) -> tuple[DeclaredImage, ...]:
        """Its images: a file that is brought along is wanted as much as a line of an image list."""
        return tuple(DeclaredImage(name, self.shown, "listed") for name in sorted(self.listing.images) if not attached.is_attachment(name))


def find_archives(context: Path, placed: Iterable[RootfsFile]) -> tuple[ImageArchive, ...]:
    """Archives of images below ``images/`` of the context, and among the files that the Kubefile places below ``images/`` of the rootfs.

    Another tar stays an ordinary file, with a warning when the Kubefile places it there. Raises InputError that names each file that
    cannot be read: its images must not come from a registry instead.
    """
    named = [file for file in placed if file.path.startswith(f"{FOLDER}/") and file.path.endswith(ENDINGS)]
    every = {file.source.resolve(): file for file in [*_in_context(context), *named]}
    asked = {file.source.resolve() for file in named}
    archives, faults = [], []
    for path, file in every.items():
        try:
            listed = docker_archive.listing(path)
        except SlipwayError as wrong:
            faults.append(Fault(file.shown, wrong.message.removeprefix(f"{path} ").removeprefix(f"{path}: "), wrong.hint))
            continue
        if listed is not None and listed.images:
            archives.append(ImageArchive(path, file.shown, listed))
        elif listed is not None:
            log.warning(f"{file.shown}: no image in it has a name; save it with its name and tag")
        elif path in asked:
            log.warning(f"{file.shown}: it is not an archive of images, as `docker save` or `skopeo copy` write it; it is copied as a file")
    if faults:
        raise InputError(sorted(faults))
    return tuple(sorted(archives, key=lambda archive: archive.shown))


def _in_context(context: Path) -> Iterator[RootfsFile]:
    """Files of the context's ``images/``; a folder with a Dockerfile is the context of another build."""
    root = context / FOLDER
    if not root.is_dir() or root.is_symlink():
        return
    waiting = [root]
    for folder in waiting:
        if (folder / "Dockerfile").exists():
            continue
        for path in sorted(folder.iterdir()):
            if path.is_symlink():
                continue
            if path.is_dir():
                waiting.append(path)
            elif path.is_file() and path.name.endswith(ENDINGS):
                yield RootfsFile(path.relative_to(context).as_posix(), path, str(path))


class ArchivedImages(Source):
    """Images of archives as a source. An archive is read when one of its images is asked for first; policy is asked about each of them.

    ``allow_older``: as for policy.gate().
    """

    def __init__(self, store: Store, archives: Sequence[ImageArchive], platform: Platform, *, allow_older: bool = False) -> None:
        self.store = store
        self.archives = archives
        self.platform = platform
        self.allow_older = allow_older
        self._lock = threading.Lock()
        self._names: dict[str, Descriptor] = {}
        self._refusals: dict[str, StoreError] = {}
        self._taken: set[Path] = set()
        self._damage: dict[Path, FinalSourceError] = {}
        self._layout = self._admitted = LayoutSource(store, {}, FOLDER)

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        for archive in self.archives if not reference.digest else ():
            if str(reference) in archive.listing.images:
                with self._lock:
                    if archive.path in self._damage:
                        raise self._damage[archive.path]
                    if archive.path not in self._taken:
                        self._take(archive)
        return self._layout.manifest(reference, accept)

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        return self._admitted.blob(reference, digest, size)

    def admit(self, pinned: Reference) -> bool:
        """As Source.admit. A refused image of an archive raises here, not in manifest(): else its registry would be asked for another."""
        name = str(dataclasses.replace(pinned, digest=None)) if pinned.tag else ""
        if name in self._refusals and self._names[name].digest == pinned.digest:
            raise self._refusals[name]
        return self._admitted.admit(pinned)

    def _take(self, archive: ImageArchive) -> None:
        from harness.trust import policy  # here: its cryptography is slow to load
        from harness.trust.signature import RefusedError

        with log.step(f"read {archive.shown}") as step:
            try:
                images = docker_archive.take_images(self.store, archive.path, archive.listing)
                signatures = {name: images.pop(name) for name in tuple(images) if attached.is_attachment(name)}
                names = {name: Reference.parse(name).familiar for name in signatures}
                arriving = {names[name]: attached.merged(self.store, names[name], root) for name, root in signatures.items()}
            except StoreError as wrong:
                damage = FinalSourceError(f"{archive.shown}: {wrong.message}", hint=wrong.hint, details=wrong.details)
                self._damage[archive.path] = damage
                raise damage from wrong
            fitting = {name: root for name, root in images.items() if self._fits(root)}
            for name in sorted(set(images) - set(fitting)):
                log.warning(f"{archive.shown}: {name} is not for {self.platform}, so its registry is asked")
            step.note = f"{len(fitting)} images"
        gate = policy.gate(allow_older=self.allow_older)
        refusals: dict[str, StoreError] = {}
        # Of several archives with an image of one name, the first that was read counts.
        new = {name: root for name, root in fitting.items() if name not in self._names}
        for name, root in new.items():
            try:
                gate.admit(self.store, name, root.digest, arriving)
            except RefusedError as refused:
                refusals[name] = RefusedError(f"{archive.shown}: {refused.message}", hint=refused.hint, details=refused.details)
        # Other threads ask for images meanwhile: each of these is replaced as a whole.
        self._refusals = {**self._refusals, **refusals}
        self._names = {**self._names, **new}
        admitted = {name: root for name, root in self._names.items() if name not in self._refusals}
        self._admitted = LayoutSource(self.store, admitted, FOLDER)
        self._layout = LayoutSource(self.store, self._names, FOLDER)
        self._taken.add(archive.path)

    def _fits(self, root: Descriptor) -> bool:
        try:
            if root.media_type in INDEXES:
                child_for(self.store.read(root.digest), self.platform)
                return True
            config = self.store.json(self.store.json(root.digest)["config"]["digest"])
            return Platform.from_json(config).matches(self.platform)
        except (SlipwayError, KeyError, TypeError, ValueError):
            return False

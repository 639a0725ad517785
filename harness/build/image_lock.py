"""``images.lock``: digests that tags meant when the file was written. A build beside it takes these images, whatever the tags mean today.

One line for each image, ``NAME:TAG sha256:...``, sorted, with the whole name: ``docker.io/library/nginx:1.25 sha256:...``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness import log, process, untrusted
from harness.errors import Fault, InputError, SlipwayError
from harness.host import durable
from harness.oci.reference import Reference, is_digest
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.sources import Source, Stream

NAME = "images.lock"
_HEAD = (
    "# Digests of the tags that this image needs. Written by `slipway build --lock` and `find-images --lock`, kept by `slipway build`.\n"
)
_LIMIT = 4 << 20
_AT_ONCE = 4

Resolve = Callable[[Reference], str]
"""The digest that a tag means in its registry now. Raises SlipwayError."""


def beside(kubefile: Path) -> dict[str, str]:
    """The digests in the ``images.lock`` beside a Kubefile, by canonical name; none without the file. Raises InputError."""
    path = kubefile.parent / NAME
    return read(path) if path.is_file() else {}


def read(path: Path) -> dict[str, str]:
    """Digests by canonical name. Raises InputError with every faulty line."""
    try:
        with path.open("rb") as file:
            data = file.read(_LIMIT + 1)
        lines = data.decode().splitlines()
    except (OSError, UnicodeDecodeError) as wrong:
        raise InputError([Fault(str(path), f"cannot be read: {wrong}")]) from wrong
    if len(data) > _LIMIT:
        raise InputError([Fault(str(path), f"it is larger than {_LIMIT} bytes")])
    faults: list[Fault] = []
    locked: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            name = _entry(words)
        except ValueError as wrong:
            hint = "NAME:TAG sha256:..., as `slipway find-images --lock` writes it"
            faults.append(Fault(where, untrusted.shown(str(wrong)), hint))
            continue
        if locked.setdefault(name, words[1]) != words[1]:
            faults.append(Fault(where, f"{name} has another digest above", "keep one of the lines"))
    if faults:
        raise InputError(faults)
    return locked


def _entry(words: Sequence[str]) -> str:
    """The canonical name of a line. Raises ValueError."""
    if len(words) != 2 or not is_digest(words[1]):
        raise ValueError("not a name and a digest")
    reference = Reference.parse(words[0])
    if reference.digest:
        raise ValueError(f"{words[0]} has a digest already")
    return str(reference)


def write(path: Path, locked: Mapping[str, str]) -> None:
    durable.write(path, _HEAD + "".join(f"{name} {digest}\n" for name, digest in sorted(locked.items())), mode=0o644)


def complete(kubefile: Path, embedded: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Write the names and digests of a finished build into the ``images.lock`` beside its Kubefile; the lines of other images stay.

    A name with a digest needs no line. One that means several images, each for another platform, gets none, with a warning. Returns what
    the file holds then. Raises InputError for a file that is not valid, StoreError when it cannot be written; then the old one stands.
    """
    digests: dict[str, set[str]] = {}
    for name, digest in embedded:
        if not Reference.parse(name).digest:
            digests.setdefault(name, set()).add(digest)
    locked = beside(kubefile)
    for name, found in sorted(digests.items()):
        if len(found) == 1:
            locked[name] = found.pop()
        else:
            log.warning(f"{name} is not in {NAME}: it means another image for each platform ({', '.join(sorted(found))})")
    write(kubefile.parent / NAME, locked)
    return dict(sorted(locked.items()))


def resolve_tags(names: Iterable[str], resolve: Resolve) -> tuple[dict[str, str], dict[str, SlipwayError]]:
    """Digests of tags, and the errors of those that have none; names with a digest are left out."""
    references = [reference for name in dict.fromkeys(names) if not (reference := Reference.parse(name)).digest]

    def one(reference: Reference) -> str | SlipwayError:
        try:
            return resolve(reference)
        except SlipwayError as wrong:
            return wrong

    answers = dict(zip(map(str, references), process.parallel(one, references, _AT_ONCE), strict=True))
    digests = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    return digests, {name: answer for name, answer in answers.items() if isinstance(answer, SlipwayError)}


@dataclasses.dataclass(frozen=True)
class LockedTag:
    """A line of ``images.lock`` beside the registry's answer."""

    name: str
    locked: str
    now: str
    """Digest, or empty when the registry does not have the tag or does not answer."""
    problem: str = ""

    @property
    def status(self) -> str:
        """same, moved, gone or unknown."""
        if self.problem:
            return self.problem
        return "same" if self.now == self.locked else "moved"


def compare(locked: Mapping[str, str], resolve: Resolve) -> tuple[tuple[LockedTag, ...], dict[str, SlipwayError]]:
    """Each locked tag with its digest of now, and the errors of registries that do not answer."""
    digests, errors = resolve_tags(locked, resolve)
    tags = []
    for name, digest in sorted(locked.items()):
        error = errors.get(name)
        problem = "" if error is None else "gone" if isinstance(error, RemoteError) and error.status == 404 else "unknown"
        tags.append(LockedTag(name, digest, digests.get(name, ""), problem))
    gone = {tag.name for tag in tags if tag.problem == "gone"}
    return tuple(tags), {name: error for name, error in errors.items() if name not in gone}


class PinnedTags(Source):
    """A source whose tags mean what ``locked`` says."""

    def __init__(self, source: Source, locked: Mapping[str, str]) -> None:
        self._source = source
        self._locked = locked

    def manifest(self, reference: Reference, accept: Sequence[str]) -> Manifest | None:
        digest = None if reference.digest else self._locked.get(str(reference))
        return self._source.manifest(dataclasses.replace(reference, digest=digest) if digest else reference, accept)

    def blob(self, reference: Reference, digest: str, size: int | None) -> Stream | None:
        return self._source.blob(reference, digest, size)

    def admit(self, pinned: Reference) -> bool:
        return self._source.admit(pinned)

"""Time of signing of the newest image seen under a tag: detects a registry that serves an older signed image.

A signature proves the publisher of an image, not that the image is the current one: an attacker with control of a registry, or of the
medium of an archive, can put an old image, with faults that are known by now, under ``latest``. So what was admitted under a tag is
recorded, and the tag does not name an image that was signed earlier again (rollback protection, as TUF has it for its metadata;
section 1.5.2 of its specification). A registry can still withhold what is new.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
from pathlib import Path

from harness import log, untrusted
from harness.errors import StoreError
from harness.host import durable, liveness
from harness.trust.signature import RefusedError, when

FILE = "admitted.json"


@dataclasses.dataclass(frozen=True)
class Offer:
    """An image under a tag. ``name`` is ``REPOSITORY:TAG`` in the one spelling that all spellings share; ``signed_at`` is in seconds since
    1970, None when its signatures do not say it."""

    name: str
    digest: str
    signed_at: int | None


@dataclasses.dataclass(frozen=True)
class Newest:
    """Records in a folder."""

    folder: Path

    def advance(self, offer: Offer, *, allow_older: bool = False) -> None:
        """Remember an image that is admitted; with ``allow_older`` whatever was there before.

        Raises RefusedError for one that was signed earlier than the one before it, and for one without a known time of signing.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with liveness.locked(self.folder / f"{FILE}.lock", fcntl.LOCK_EX):
            tags = self._read()
            before = tags.get(offer.name)
            if before is not None and before.digest != offer.digest:
                self._check(before, offer, allow_older=allow_older)
            elif before is not None and (offer.signed_at is None or before.signed_at >= offer.signed_at):
                return
            after = {name: one for name, one in tags.items() if name != offer.name}
            if offer.signed_at is not None:
                after[offer.name] = _Admission(offer.digest, offer.signed_at)
            if after != tags:
                self._write(after)

    def _check(self, before: _Admission, offer: Offer, *, allow_older: bool) -> None:
        if offer.signed_at is not None and offer.signed_at >= before.signed_at:
            return
        signing = "does not say when it was signed" if offer.signed_at is None else f"was signed at {when(offer.signed_at)}"
        reason = f"{offer.digest} {signing}; the image that this tag meant before, {before.digest}, was signed at {when(before.signed_at)}"
        if allow_older:
            log.warning(f"--allow-older: {offer.name} GOES BACK: {reason}")
            return
        raise RefusedError(
            f"{offer.name} is refused: it goes back. {reason}",
            hint="the newer one may mend faults of it; where its publisher took that back: --allow-older of pull, load and build",
        )

    @property
    def _file(self) -> Path:
        return self.folder / FILE

    def _read(self) -> dict[str, _Admission]:
        """Raises StoreError: what cannot be read must not mean that anything may come."""
        try:
            document = untrusted.json_object(self._file.read_bytes(), what=str(self._file))
            return {name: _Admission(str(one["digest"]), int(one["signedAt"])) for name, one in document.items()}
        except FileNotFoundError:
            return {}
        except (OSError, StoreError, KeyError, TypeError, ValueError) as wrong:
            raise StoreError(
                f"{self._file}, which says what was admitted under which tag, cannot be read: {wrong}",
                hint="remove it, and what comes next under a tag counts as its newest",
            ) from wrong

    def _write(self, tags: dict[str, _Admission]) -> None:
        values = {name: {"digest": one.digest, "signedAt": one.signed_at} for name, one in sorted(tags.items())}
        durable.write(self._file, json.dumps(values, indent=2) + "\n")


@dataclasses.dataclass(frozen=True)
class _Admission:
    digest: str
    signed_at: int

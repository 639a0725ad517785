"""The exercise of an image: what a build runs on the throw-away cluster after the launch, so that images pulled only in use are found.

``exercise.sh`` beside the Kubefile, then the commands of EXERCISE. None of it is in the image; its digest is recorded there.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

from harness import untrusted
from harness.errors import Fault, InputError, UsageError
from harness.kubefile import Kubefile
from harness.oci.model import canonical_json

FILE = "exercise.sh"
ORIGIN = "exercise"
"""In the image set, where the origin of an image stands that was pulled only after the exercise had begun."""
_LARGEST = 64 << 10
"""Bytes of a script: it is one argument of a command, of which Linux takes 128 KiB."""


@dataclasses.dataclass(frozen=True)
class ExerciseStep:
    """One script for bash, run in the rootfs as launch commands are. ``title`` names it in output and errors."""

    title: str
    script: str


def read(parsed: Kubefile, folder: Path) -> tuple[ExerciseStep, ...]:
    """The steps of the exercise: of the file in ``folder``, where the Kubefile is, and of the Kubefile. Raises InputError."""
    commands = tuple(ExerciseStep(" ".join(command.split()), command) for command in parsed.exercise)
    text = script(folder)
    # In the file the first command that fails ends it: otherwise only the last one would be judged.
    return commands if text is None else (ExerciseStep(FILE, f"set -e\n{text}"), *commands)


def script(folder: Path) -> str | None:
    """The text of the file, None without one. Raises InputError for one that cannot be run."""
    tree = untrusted.UntrustedTree(folder, what="the folder of the Kubefile", error=UsageError)
    try:
        return tree.read_text(FILE, limit=_LARGEST) if tree.is_file(FILE) else None
    except UsageError as refused:
        raise InputError([Fault(str(folder / FILE), refused.message, "the build runs it as one script of at most 64 KiB")]) from refused
    except FileNotFoundError:
        return None
    except OSError as wrong:
        raise InputError([Fault(str(folder / FILE), f"cannot be read: {wrong.strerror}")]) from wrong


def digest(steps: Sequence[ExerciseStep]) -> str | None:
    """Digest over the scripts in their order; None without any."""
    return f"sha256:{hashlib.sha256(canonical_json([step.script for step in steps])).hexdigest()}" if steps else None

"""Objects that the launch commands of an application create, noted before they are created, so that they can be removed.

A launch command is any shell text. While it runs, ``kubectl`` and ``helm`` are scripts of slipway that note the objects they are about to
create, and whether these exist, and then run the real program. Anything else that a command does is not tracked.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Iterable, Sequence

from harness import assets
from harness.errors import CommandError
from harness.nodes.files import Files, NodeFile
from harness.nodes.kubectl import NodeKubectl
from harness.process import LONGEST_ARGUMENT

_HELM_API = "helm"


@dataclasses.dataclass(frozen=True)
class TrackedObject:
    """An object of the API, or a release of helm (``api`` is ``helm``). ``ours``: the application created it."""

    api: str
    kind: str
    namespace: str
    """Empty for cluster-wide objects."""
    name: str
    ours: bool = True

    @classmethod
    def parse(cls, line: str) -> TrackedObject | None:
        """Read a line of the notes: ``+ apps/v1 Deployment default web``; None for one that a kill has cut short."""
        words = line.split()
        if len(words) != 5 or words[0] not in ("+", "="):
            return None
        return cls(words[1], words[2], "" if words[3] == "-" else words[3], words[4], words[0] == "+")

    @property
    def words(self) -> str:
        return f"{self.api} {self.kind} {self.namespace or '-'} {self.name}"

    @property
    def line(self) -> str:
        return f"{'+' if self.ours else '='} {self.words}"

    @property
    def is_release(self) -> bool:
        return self.api == _HELM_API

    def __str__(self) -> str:
        place = f"{self.namespace}/" if self.namespace else ""
        return f"helm release {place}{self.name}" if self.is_release else f"{self.kind} {place}{self.name}"


def parse(text: str) -> tuple[TrackedObject, ...]:
    """Read notes: each object once, in order of creation."""
    noted: dict[str, TrackedObject] = {}
    for each in map(TrackedObject.parse, text.splitlines()):
        if each is not None:
            noted.setdefault(each.words, each)
    return tuple(noted.values())


def text(objects: Iterable[TrackedObject]) -> str:
    return "".join(f"{each.line}\n" for each in objects)


def dropped(objects: Iterable[TrackedObject], touched: str) -> tuple[TrackedObject, ...]:
    """Objects of the application that the commands of a newer version did not touch; ``touched``: their notes, a line for each."""
    lines = set(touched.splitlines())
    return tuple(each for each in objects if each.ours and each.words not in lines)


# ---- untracked commands -----------------------------------------------------------------------------------------------

_KNOWN = frozenset({"kubectl", "helm", "cd", "export", "set", "echo", "printf", "sleep", "true", ":", "test", "["})


def unknown(commands: Iterable[str]) -> tuple[str, ...]:
    """Launch commands that run more than kubectl and helm, which is not tracked."""
    return tuple(command for command in commands if not _is_known(command))


def _is_known(command: str) -> bool:
    if len(command) > LONGEST_ARGUMENT:
        return False
    try:
        words = list(shlex.shlex(command, posix=True, punctuation_chars="();<>|&\n"))
    except ValueError:
        return False
    if re.search(r"[`$]\(|`", command):
        return False
    first = True
    for word in words:
        if set(word) <= set(";|&\n("):
            first = True
        elif first and not re.fullmatch(r"[A-Za-z_]\w*=.*", word, re.DOTALL):
            if word not in _KNOWN:
                return False
            first = False
    return True


# ---- removing ---------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Batch:
    """Objects that one call removes, in this order, or a release."""

    release: TrackedObject | None = None
    objects: tuple[TrackedObject, ...] = ()

    def __str__(self) -> str:
        return str(self.release) if self.release else ", ".join(map(str, self.objects))


def batches(objects: Sequence[TrackedObject]) -> list[Batch]:
    """Split objects into batches: in reverse order of creation, those between two releases together."""
    split: list[Batch] = []
    for each in reversed(objects):
        if each.is_release:
            split.append(Batch(release=each))
        elif split and split[-1].release is None:
            split[-1] = Batch(objects=(*split[-1].objects, each))
        else:
            split.append(Batch(objects=(each,)))
    return split


def manifest(objects: Iterable[TrackedObject]) -> str:
    """The fields by which kubectl identifies each object."""
    documents = []
    for each in objects:
        place = {"namespace": each.namespace} if each.namespace else {}
        documents.append(json.dumps({"apiVersion": each.api, "kind": each.kind, "metadata": {"name": each.name, **place}}))
    return "\n---\n".join(documents)


NO_KIND = re.compile(r"no matches for kind|the server doesn't have a resource type")
"""kubectl's error for a kind that does not exist any more; its objects are gone with it."""


def delete(kubectl: NodeKubectl, objects: Sequence[TrackedObject], timeout: float, *, cascade: str = "background") -> None:
    """Remove objects and wait until they are gone; those that do not exist are skipped. Raises CommandError for one that is not removed."""
    words = ("delete", "--ignore-not-found", "--wait=true", f"--cascade={cascade}", f"--timeout={int(timeout)}s", "--filename=-")
    try:
        kubectl.run(*words, input=manifest(objects), timeout=timeout + 60)
    except CommandError as error:
        lines = [line for line in (error.details or "").splitlines() if "deleted" not in line and line.strip()]
        if not lines or any(not NO_KIND.search(line) for line in lines):
            hint = "kubectl get -o yaml shows its finalizers; remove their cause, then run the same command again"
            raise CommandError(f"{', '.join(map(str, objects))}: could not be removed", hint=hint, details=error.details) from error


# ---- the scripts ------------------------------------------------------------------------------------------------------


def programs(folder: str) -> Files:
    """The scripts, to be first on the PATH of a launch command."""
    return {f"{folder}/{name}": NodeFile.text(f"#!/bin/sh\n{assets.script(f'launch_{name}')}", 0o755) for name in ("kubectl", "helm")}

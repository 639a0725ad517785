"""What the launch commands of an application make in a cluster: noted before it is made, so that it can be taken back.

A launch command is anybody's shell text. While it runs, ``kubectl`` and ``helm`` are small scripts of ours that note what they are
about to make, whether it was there before, and then run the real program. All else that a command does is not known.
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

_HELM_API = "helm"


@dataclasses.dataclass(frozen=True)
class Object:
    """One object of the API, or a release of helm (``api`` is ``helm`` then). ``ours``: it was not there before."""

    api: str
    kind: str
    namespace: str
    """Empty for what has none."""
    name: str
    ours: bool = True

    @classmethod
    def parse(cls, line: str) -> Object | None:
        """A line of the notes: ``+ apps/v1 Deployment default web``; None for one that a kill has cut short."""
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


def parse(text: str) -> tuple[Object, ...]:
    """Notes, each object once, in the order in which they were made."""
    found: dict[str, Object] = {}
    for object_ in (Object.parse(line) for line in text.splitlines()):
        if object_ is not None:
            found.setdefault(object_.words, object_)
    return tuple(found.values())


def text(objects: Iterable[Object]) -> str:
    return "".join(f"{one.line}\n" for one in objects)


def dropped(objects: Iterable[Object], touched: str) -> tuple[Object, ...]:
    """Those of ours that the commands of a newer version did not touch any more; ``touched``: their notes, a line for each."""
    seen = set(touched.splitlines())
    return tuple(one for one in objects if one.ours and one.words not in seen)


# ---- what cannot be known ---------------------------------------------------------------------------------------------

_KNOWN = frozenset({"kubectl", "helm", "cd", "export", "set", "echo", "printf", "sleep", "true", ":", "test", "["})


def unknown(commands: Iterable[str]) -> tuple[str, ...]:
    """The launch commands that run more than kubectl and helm: what that does is not noted."""
    return tuple(command for command in commands if not _is_known(command))


def _is_known(command: str) -> bool:
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


# ---- taking back ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Batch:
    """What is removed by one call: a release, or objects in this order."""

    release: Object | None = None
    objects: tuple[Object, ...] = ()

    def __str__(self) -> str:
        return str(self.release) if self.release else ", ".join(map(str, self.objects))


def batches(objects: Sequence[Object]) -> list[Batch]:
    """How objects are removed: last made, first removed, those between two releases together."""
    found: list[Batch] = []
    for one in reversed(objects):
        if one.is_release:
            found.append(Batch(release=one))
        elif found and found[-1].release is None:
            found[-1] = Batch(objects=(*found[-1].objects, one))
        else:
            found.append(Batch(objects=(one,)))
    return found


def manifest(objects: Iterable[Object]) -> str:
    """As much of each object as kubectl needs to know which one is meant."""
    documents = []
    for one in objects:
        place = {"namespace": one.namespace} if one.namespace else {}
        documents.append(json.dumps({"apiVersion": one.api, "kind": one.kind, "metadata": {"name": one.name, **place}}))
    return "\n---\n".join(documents)


NO_KIND = re.compile(r"no matches for kind|the server doesn't have a resource type")
"""What kubectl says of a kind that is gone, and took its objects with it."""


def delete(kubectl: NodeKubectl, objects: Sequence[Object], timeout: float, *, cascade: str = "background") -> None:
    """Remove objects and wait until they are gone; those that are gone already are no fault. Raises CommandError for what does not go."""
    words = ("delete", "--ignore-not-found", "--wait=true", f"--cascade={cascade}", f"--timeout={int(timeout)}s", "--filename=-")
    try:
        kubectl.run(*words, input=manifest(objects), timeout=timeout + 60)
    except CommandError as error:
        lines = [line for line in (error.details or "").splitlines() if "deleted" not in line and line.strip()]
        if not lines or any(not NO_KIND.search(line) for line in lines):
            hint = "see what holds it up: kubectl get -o yaml shows its finalizers; then run the same command again"
            raise CommandError(f"{', '.join(map(str, objects))}: could not be removed", hint=hint, details=error.details) from error


# ---- the scripts ------------------------------------------------------------------------------------------------------


def programs(folder: str) -> Files:
    """The scripts, to be first on the PATH of a launch command."""
    return {f"{folder}/{name}": NodeFile.text(f"#!/bin/sh\n{assets.script(f'launch_{name}')}", 0o755) for name in ("kubectl", "helm")}

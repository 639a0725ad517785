"""Checks of a Kubefile as a whole: its launch, applications that it does not define, sources that the build context lacks."""

from __future__ import annotations

import dataclasses
import difflib
import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.errors import Fault, InputError
from harness.kubefile import context as kubefile_context
from harness.kubefile import ignore
from harness.kubefile.instructions import (
    AppCmds,
    AppEnv,
    AppInstruction,
    Cmds,
    Copy,
    Exercise,
    Instruction,
    Launch,
    LaunchCommands,
    local_sources,
)

_REGISTRY = "registry"
_PREPARATION = "init.sh"


@dataclasses.dataclass(frozen=True)
class Deferred:
    """An application that an instruction names and this Kubefile does not define: the base image must have it."""

    app: str
    instruction: str
    where: str


def launch_faults(path: str, instructions: Sequence[Instruction]) -> list[Fault]:
    """Faults of LAUNCH and CMDS: each stands once, at the end, and LAUNCH without other commands. EXERCISE may follow."""
    faults = []
    last = next((item for item in reversed(instructions) if not isinstance(item, Exercise)), None)
    for kind in (Launch, Cmds):
        same = [item for item in instructions if isinstance(item, kind)]
        for item in same[1:]:
            message = f"{item.name} is given twice; the first is in line {same[0].line}"
            faults.append(Fault(f"{path}:{item.line}", message, "join them into one"))
        if len(same) == 1 and same[0] is not last:
            faults.append(Fault(f"{path}:{same[0].line}", f"{same[0].name} must be the last instruction", "move it to the end"))
    launch = next((item for item in instructions if isinstance(item, Launch)), None)
    for other in instructions:
        if launch and isinstance(other, LaunchCommands):
            message = f"{other.name} and LAUNCH (line {launch.line}) exclude each other"
            faults.append(Fault(f"{path}:{other.line}", message, "define an APP for the command, or drop LAUNCH"))
    return faults


def undefined_applications(path: str, instructions: Sequence[Instruction]) -> tuple[Deferred, ...]:
    """The applications that LAUNCH, APPCMDS and APPENV name and no instruction defines."""
    defined = _defined(instructions)
    return tuple(
        Deferred(app, item.name, f"{path}:{item.line}")
        for item in instructions
        if isinstance(item, Launch | AppCmds | AppEnv)
        for app in (item.apps if isinstance(item, Launch) else (item.app,))
        if app not in defined
    )


def application_faults(undefined: Iterable[Deferred], instructions: Iterable[Instruction]) -> list[Fault]:
    """Faults of undefined applications in an image without a base image."""
    faults = []
    for missing in undefined:
        near = difflib.get_close_matches(missing.app, _defined(instructions), n=1)
        hint = f"did you mean {near[0]}?" if near else f"define it: APP {missing.app} local://..."
        faults.append(Fault(missing.where, f"{missing.instruction}: application {missing.app} does not exist", hint))
    return faults


def _defined(instructions: Iterable[Instruction]) -> set[str]:
    return {item.app for item in instructions if isinstance(item, AppInstruction)}


def context_faults(path: str, instructions: Iterable[Instruction], context: Path) -> list[Fault]:
    """Faults of sources of COPY, ADD and APP that the context does not have or must not give, in the order of the lines."""
    if not context.is_dir():
        return [Fault(str(context), "the build context is not a folder")]
    try:
        ignore.read(context)
    except InputError as wrong:
        return list(wrong.faults)
    return [
        Fault(f"{path}:{instruction.line}", wrong.message, wrong.hint)
        for instruction in instructions
        for wrong in _missing(instruction, context)
    ]


def without_registry(
    path: str, instructions: Sequence[Instruction], context: Path | None
) -> tuple[tuple[Instruction, ...], tuple[Fault, ...]]:
    """The instructions without the folder ``registry`` where the context has none, and a warning for each that named it.

    Kubefiles for sealos copy that folder, which ``sealos build`` fills with the container images while it builds.
    """
    if context is None or (context / _REGISTRY).exists():
        return tuple(instructions), ()
    kept: list[Instruction] = []
    warnings: list[Fault] = []
    for instruction in instructions:
        if isinstance(instruction, Copy) and not instruction.from_image and any(map(_is_registry, instruction.sources)):
            message = f"{instruction.name} {_REGISTRY}: skipped, for the build context has no such folder"
            hint = "sealos makes it while it builds; slipway finds the container images and embeds them without it"
            warnings.append(Fault(f"{path}:{instruction.line}", message, hint))
            sources = tuple(source for source in instruction.sources if not _is_registry(source))
            if not sources and not instruction.documents:
                continue
            kept.append(dataclasses.replace(instruction, sources=sources))
        else:
            kept.append(instruction)
    return tuple(kept), tuple(warnings)


def _is_registry(source: str) -> bool:
    return posixpath.normpath(source.lstrip("/") or ".") == _REGISTRY


def _missing(instruction: Instruction, context: Path) -> list[kubefile_context.ContextError]:
    """Faults of each source alone or, without such, of all of them together with their destination."""
    extract = instruction.name == "ADD"
    sources = local_sources(instruction)
    alone = [wrong for source in sources if (wrong := _try_place(context, [source], "", extract=extract))]
    together = _try_place(context, sources, instruction.destination) if isinstance(instruction, Copy) and not alone else None
    return [together] if together else alone


def _try_place(context: Path, sources: Sequence[str], destination: str, *, extract: bool = False) -> kubefile_context.ContextError | None:
    try:
        kubefile_context.place(context, sources, destination, extract=extract)
    except kubefile_context.ContextError as wrong:
        if wrong.hint is None and (context / _PREPARATION).is_file():
            hint = f"{_PREPARATION} of the context may make it: catalogues of sealos run it before they build"
            return kubefile_context.ContextError(wrong.message, hint)
        return wrong
    return None

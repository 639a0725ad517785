"""Kubefile text -> Kubefile: every instruction as a frozen value, variables expanded, every fault at once with its line.

The language is the Dockerfile's (https://docs.docker.com/reference/dockerfile/) with sealer's additions: APP, APPCMDS, APPENV, CNI, CSI,
KUBEVERSION, LAUNCH, CMDS, and its older CMD and ARG forms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from harness.errors import Fault, InputError
from harness.host import site_network
from harness.kubefile import checks
from harness.kubefile.instructions import (
    LABEL_KUBE_VERSION,
    Arg,
    Exercise,
    From,
    Instruction,
    KubeVersion,
    Launch,
    LaunchCommands,
)
from harness.kubefile.lines import split_text
from harness.kubefile.reader import KubefileReader

AnyInstruction = TypeVar("AnyInstruction", bound=Instruction)


@dataclasses.dataclass(frozen=True)
class Kubefile:
    """A Kubefile without faults of its own; ``checks.context_faults`` checks the files that it takes from the context."""

    path: str
    platform: str
    """Platform of the image, ``linux/amd64``."""
    base: From
    instructions: tuple[Instruction, ...]
    """All instructions in order, with FROM and those before it."""
    environment: Mapping[str, str]
    """Values of all ENV: the defaults of the running cluster."""
    labels: Mapping[str, str]
    kube_version: str | None
    """The range of KUBEVERSION, or of the label that sealer uses for it."""
    deferred: tuple[checks.Deferred, ...]
    warnings: tuple[Fault, ...]

    def of(self, kind: type[AnyInstruction]) -> tuple[AnyInstruction, ...]:
        """The instructions of a kind; CNI and CSI are kinds of APP."""
        return tuple(instruction for instruction in self.instructions if isinstance(instruction, kind))

    def where(self, instruction: Instruction) -> str:
        return f"{self.path}:{instruction.line}"

    @property
    def launch(self) -> tuple[str, ...]:
        """The applications that LAUNCH names, in order."""
        return tuple(app for instruction in self.of(Launch) for app in instruction.apps)

    @property
    def commands(self) -> tuple[str, ...]:
        """Commands of CMD and CMDS, in order."""
        return tuple(command for item in self.instructions if isinstance(item, LaunchCommands) for command in item.commands)

    @property
    def exercise(self) -> tuple[str, ...]:
        """Commands of EXERCISE, in order."""
        return tuple(command for item in self.of(Exercise) for command in item.commands)

    @property
    def written_commands(self) -> tuple[str, ...]:
        """The same commands before the values of ARG were written into them."""
        return tuple(command for item in self.instructions if isinstance(item, LaunchCommands) for command in item.written)

    @property
    def command_arguments(self) -> dict[str, str]:
        """The values of the ARG that the commands name; the last counts."""
        return {name: value for item in self.instructions if isinstance(item, LaunchCommands) for name, value in item.arguments.items()}


def parse(
    text: str,
    path: str,
    *,
    build_args: Mapping[str, str] | None = None,
    platform: str = "linux/amd64",
    context: Path | None = None,
) -> Kubefile:
    """Read a Kubefile. ``path`` is its name in faults; ``platform`` gives ``${ARCH}``, ``${TARGETARCH}`` and the like their values.

    With ``context``, files that the build context lacks are faults too. Raises InputError with every fault, by line.
    """
    lines = split_text(text, path)
    reader = KubefileReader(path, build_args or {}, platform, lines.escape)
    for line in lines.instructions:
        reader.read(line)
    base = reader.base
    instructions, skipped = checks.without_registry(path, reader.instructions, context)
    faults = [*lines.faults, *reader.faults]
    if context is not None:
        faults += checks.context_faults(path, instructions, context)
    if base is None:
        hint = "begin with FROM kubernetes:v1.36.3, or FROM scratch for an application image"
        faults.insert(0, Fault(f"{path}:1", "FROM is missing", hint))
    elif reader.misplaced is not None:
        faults.append(reader.misplaced)
    faults += checks.launch_faults(path, instructions)
    deferred = checks.undefined_applications(path, instructions)
    if base is not None and base.image == "scratch":
        faults += checks.application_faults(deferred, instructions)
        deferred = ()
    if faults or base is None:
        raise InputError(sorted(faults, key=_line_of))
    declared = {name for item in instructions if isinstance(item, Arg) for name in item.values}
    unused = [name for name in build_args or {} if name not in declared and name not in site_network.PROXIES]
    ranges = [item.range for item in instructions if isinstance(item, KubeVersion)]
    return Kubefile(
        path=path,
        platform=platform,
        base=base,
        instructions=instructions,
        environment=reader.variables.environment,
        labels=reader.labels,
        kube_version=ranges[-1] if ranges else reader.labels.get(LABEL_KUBE_VERSION),
        deferred=deferred,
        warnings=(
            *reader.warnings,
            *skipped,
            *(Fault(path, f"--build-arg {name}: no ARG {name} is there", f"declare it: ARG {name}") for name in unused),
        ),
    )


def _line_of(fault: Fault) -> int:
    line = fault.where.rpartition(":")[2]
    return int(line) if line.isdigit() else 0

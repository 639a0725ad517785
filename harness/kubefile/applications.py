"""Applications of a Kubefile: what kind each is, by its files, and the shell commands that launch it."""

from __future__ import annotations

import dataclasses
import posixpath
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.errors import Fault, InputError
from harness.kubefile import Kubefile
from harness.kubefile import context as kubefile_context
from harness.kubefile.instructions import AppCmds, AppEnv, AppInstruction, Cni, Csi, InstructionError
from harness.templates.job import output_name

HELM, KUBE, SHELL, MIXED = "helm", "kube", "shell", "mixed"


@dataclasses.dataclass(frozen=True)
class KubefileApp:
    """One application of the image. Its files are in ``application/apps/<name>/``."""

    name: str
    kind: str
    """helm, kube, shell or mixed."""
    role: str
    """app, cni or csi."""
    files: tuple[str, ...]
    """All its files as they are after rendering, relative to its folder, in the order of the sources."""
    env: Mapping[str, str]
    commands: tuple[str, ...]
    """Shell commands, run in the rootfs one after the other, with ``env`` set."""

    @property
    def folder(self) -> str:
        return f"application/apps/{self.name}"


def applications(kubefile: Kubefile, context: Path) -> tuple[KubefileApp, ...]:
    """The applications that a Kubefile defines, in its order; the last definition of a name counts.

    Raises InputError when a source is missing, or when a mixed application has no APPCMDS.
    """
    by_name: dict[str, KubefileApp] = {}
    faults: list[Fault] = []
    for instruction in kubefile.of(AppInstruction):
        try:
            by_name[instruction.app] = _application(kubefile, instruction, context)
        except (kubefile_context.ContextError, InstructionError) as wrong:
            faults.append(Fault(kubefile.where(instruction), wrong.message, wrong.hint))
    if faults:
        raise InputError(faults)
    return tuple(by_name.values())


def launch(kubefile: Kubefile, commands: Mapping[str, Sequence[str]], env: Mapping[str, Mapping[str, str]]) -> tuple[str, ...]:
    """Every shell command that starts the image, in order: what CMD and CMDS say, or the applications of LAUNCH.

    ``commands`` and ``env`` are by name of the application, those of the base image included. Raises InputError for an application that
    neither this Kubefile nor its base image has.
    """
    missing = [item for item in kubefile.deferred if item.app not in commands]
    if missing:
        hint = f"it has {', '.join(sorted(commands))}" if commands else f"define it: APP {missing[0].app} local://..."
        raise InputError(
            Fault(item.where, f"{item.instruction}: neither this Kubefile nor {kubefile.base.image} has the application {item.app}", hint)
            for item in missing
        )
    started = [with_environment(command, env.get(app, {})) for app in kubefile.launch for command in commands[app]]
    return (*kubefile.commands, *started)


def with_environment(command: str, env: Mapping[str, str]) -> str:
    """The command with variables set for it alone."""
    if not env:
        return command
    return f"export {' '.join(f'{name}={shlex.quote(value)}' for name, value in env.items())} && {command}"


def overrides(kubefile: Kubefile, app: str) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """Commands of the last APPCMDS and values of all APPENV for an application, which may be one of the base image."""
    commands = [item.command for item in kubefile.of(AppCmds) if item.app == app]
    env = {name: value for item in kubefile.of(AppEnv) if item.app == app for name, value in item.values.items()}
    folder = shlex.quote(f"application/apps/{app}")
    return ((f"cd {folder} && {commands[-1]}",) if commands else None), env


def kind_of(files: Iterable[str]) -> str:
    """The kind of an application by the names of its files, relative to its folder.

    A chart (Chart.yaml and templates, or one packed chart) is helm, nothing but .sh is shell, nothing but YAML and JSON is kube.
    """
    names = list(files)
    if ("Chart.yaml" in names and any(name.startswith("templates/") for name in names)) or _packed_chart(names):
        return HELM
    endings = {posixpath.splitext(name)[1].lower() for name in names}
    if endings == {".sh"}:
        return SHELL
    return KUBE if endings and endings <= {".yaml", ".yml", ".json"} else MIXED


def default_commands(name: str, kind: str, files: Sequence[str]) -> tuple[str, ...]:
    """Default start commands of an application by its kind, without APPCMDS; ``files`` are relative to its folder."""
    folder = f"application/apps/{name}"
    if kind == HELM:
        chart = posixpath.join(folder, files[0]) if _packed_chart(files) else folder
        return (f"helm install {shlex.quote(name)} {shlex.quote(chart)}",)
    program = {KUBE: "kubectl apply -f", SHELL: "bash"}[kind]
    return tuple(f"{program} {shlex.quote(posixpath.join(folder, file))}" for file in files)


def _packed_chart(files: Sequence[str]) -> bool:
    return len(files) == 1 and files[0].endswith(".tgz")


def _application(kubefile: Kubefile, instruction: AppInstruction, context: Path) -> KubefileApp:
    groups = [_files(instruction, source, context) for source in instruction.sources]
    files = tuple(dict.fromkeys(file for group in groups for file in group))
    kind = kind_of(files)
    commands, env = overrides(kubefile, instruction.app)
    if commands is None and kind == MIXED:
        what = "its files are neither a chart, nor all YAML, nor all .sh" if files else "it has no files"
        raise InstructionError(
            f"{instruction.name} {instruction.app}: {what}, so how to start it must be said", f'APPCMDS {instruction.app} ["command"]'
        )
    if commands is None:
        # As in sealer: of a shell application only the first source is started; the others are what it uses.
        commands = default_commands(instruction.app, kind, groups[0] if kind == SHELL else files)
    role = {Cni: "cni", Csi: "csi"}.get(type(instruction), "app")
    return KubefileApp(instruction.app, kind, role, files, env, commands)


def _files(instruction: AppInstruction, source: str, context: Path) -> list[str]:
    if kubefile_context.is_url(source):
        return [output_name(kubefile_context.url_name(source))]
    placed = kubefile_context.place(context, [source], instruction.folder)
    kept = [entry.path for entry in placed if entry.source.is_symlink() or entry.source.is_file()]
    return [output_name(path.removeprefix(instruction.folder)) for path in kept]

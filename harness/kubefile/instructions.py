"""The instructions of a Kubefile as frozen values, with variables expanded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from harness.errors import HintedError
from harness.kubefile import context as kubefile_context

LABEL_KUBE_VERSION = "app.alpha.sealer.io/supported-kube-version"
LABEL_CNI = "cluster.alpha.sealer.io/kube-cni-"
LABEL_CSI = "cluster.alpha.sealer.io/kube-csi-"

USAGE = {
    "ADD": "ADD source... destination",
    "APP": "APP name local://path...",
    "APPCMDS": 'APPCMDS name ["kubectl apply -f app.yaml"]',
    "APPENV": "APPENV name KEY=VALUE...",
    "ARG": "ARG NAME or ARG NAME=VALUE",
    "CMD": "CMD kubectl apply -f manifests/app.yaml",
    "CMDS": 'CMDS ["kubectl apply -f manifests/app.yaml"]',
    "CNI": "CNI name local://path...",
    "COPY": "COPY source... destination",
    "CSI": "CSI name local://path...",
    "ENV": "ENV NAME=VALUE...",
    "EXERCISE": "EXERCISE kubectl create job once --from=cronjob/backup",
    "FROM": "FROM image, or FROM --platform=os/arch image",
    "KUBEVERSION": "KUBEVERSION >=1.34 <1.38",
    "LABEL": "LABEL name=value...",
    "LAUNCH": 'LAUNCH app... or LAUNCH ["app"]',
    "MAINTAINER": "MAINTAINER name",
    "RUN": "RUN command",
}
"""Every instruction of the language, in alphabetical order, and how it is written."""


class InstructionError(HintedError):
    """An instruction that is not valid: ``message`` says why, ``hint`` what to do."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction. ``line`` counts from 1; ``text`` is the instruction on one line, with variables expanded."""

    line: int
    text: str

    @property
    def name(self) -> str:
        """The word it begins with, in capitals."""
        return type(self).__name__.removesuffix("Instruction").upper()


@dataclasses.dataclass(frozen=True)
class From(Instruction):
    image: str
    """``scratch`` for nothing."""
    platform: str | None = None
    alias: str | None = None


@dataclasses.dataclass(frozen=True)
class Copy(Instruction):
    sources: tuple[str, ...]
    """Paths relative to the context, http(s) URLs, or with ``from_image`` paths in that image; none with ``documents`` alone."""
    destination: str
    """Relative to the rootfs: '' its root, ``a/`` a folder, ``a`` a file, unless ``a`` is a folder already."""
    from_image: str | None = None
    add: bool = False
    """ADD: local tars are unpacked."""
    chown: str | None = None
    chmod: int | None = None
    checksum: str | None = None
    """ADD of one URL: the digest that its file must have."""
    parents: bool = False
    """Sources keep their folders."""
    exclude: tuple[str, ...] = ()
    """Patterns of files that are left out."""
    documents: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """Here-documents: file name -> content."""

    @property
    def name(self) -> str:
        return "ADD" if self.add else "COPY"

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(source for source in self.sources if not self.from_image and kubefile_context.is_url(source))


@dataclasses.dataclass(frozen=True)
class Run(Instruction):
    command: str | tuple[str, ...]
    """A script for ``/bin/sh -c``, or the words of a program (JSON form). Not expanded: the shell does that."""
    environment: Mapping[str, str]
    """ARG, ENV and the platform's names as they stand at this line."""


@dataclasses.dataclass(frozen=True)
class Arg(Instruction):
    values: Mapping[str, str | None]
    """The effective values; None when there is neither a default nor a ``--build-arg``."""


@dataclasses.dataclass(frozen=True)
class Env(Instruction):
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Label(Instruction):
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Maintainer(Instruction):
    person: str


@dataclasses.dataclass(frozen=True)
class AppInstruction(Instruction):
    app: str
    sources: tuple[str, ...]
    """Paths relative to the context, and http(s) URLs."""

    @property
    def folder(self) -> str:
        """Destination of its files, relative to the rootfs, with a / at the end."""
        return f"application/apps/{self.app}/"

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(source for source in self.sources if kubefile_context.is_url(source))


class Cni(AppInstruction):
    """An application that provides the cluster's pod network."""


class Csi(AppInstruction):
    """An application that provides the cluster's storage."""


@dataclasses.dataclass(frozen=True)
class AppCmds(Instruction):
    app: str
    command: str
    """One shell command, run in the application's folder."""


@dataclasses.dataclass(frozen=True)
class AppEnv(Instruction):
    app: str
    values: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class KubeVersion(Instruction):
    range: str


@dataclasses.dataclass(frozen=True)
class Launch(Instruction):
    apps: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class LaunchCommands(Instruction):
    commands: tuple[str, ...]
    """Shell commands, run in the rootfs."""
    written: tuple[str, ...] = ()
    """The same commands before the values of ARG were written into them."""
    arguments: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    """The values of the ARG that they name."""


class Cmds(LaunchCommands):
    """CMDS, which stands once."""


class Cmd(LaunchCommands):
    """CMD; several accumulate."""


@dataclasses.dataclass(frozen=True)
class Exercise(Instruction):
    """Commands for the throw-away cluster of a build, after the launch. They are not part of the image."""

    commands: tuple[str, ...]


def local_sources(instruction: Instruction) -> tuple[str, ...]:
    """The sources of an instruction that are in the build context."""
    if isinstance(instruction, AppInstruction) or (isinstance(instruction, Copy) and not instruction.from_image):
        return tuple(source for source in instruction.sources if not kubefile_context.is_url(source))
    return ()

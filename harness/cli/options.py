"""Options that verbs share, each declared once. A verb takes a group of them as one parameter: ``ssh: Ssh``."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness import log
from harness.cli import completion
from harness.cli.output import plain, print_json, say, steps_table
from harness.cli.program import Alias, Old, Options
from harness.errors import Fault, InputError, UsageError

if TYPE_CHECKING:
    from harness.clusterfile import Host, SshSettings
    from harness.nodes import Login, Machine
    from harness.oci.model import Platform
    from harness.transfer.access import RegistryAccess

# Single options


def option(*names: str, help: str, metavar: str, complete: Callable[[str], list[str]] | None = None) -> Any:
    """An option with a value. Where it has a default that a user must know, its help says so."""
    return typer.Option(*names, help=help, metavar=metavar, show_default=False, autocompletion=complete)


def argument(*, help: str, metavar: str, complete: Callable[[str], list[str]] | None = None) -> Any:
    """The same for an argument."""
    return typer.Argument(help=help, metavar=metavar, show_default=False, autocompletion=complete)


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
AllowOlder = Annotated[
    bool, typer.Option("--allow-older", help="Accept an image that was signed earlier than the one that its tag brought before.")
]
Env = Annotated[list[str] | None, option("--env", "-e", help="A value for the image's templates.", metavar="NAME=VALUE")]
Clusterfile = Annotated[str | None, option("--file", "-f", help="A Clusterfile; - reads it from standard input.", metavar="FILE")]
SkipCheck = Annotated[
    list[str] | None,
    option(
        "--skip-check",
        help="Continue even if these checks fail; `slipway check --list` shows all.",
        metavar="ID[,ID...]",
        complete=completion.checks,
    ),
    Old("--skip"),
]
ClusterName = Annotated[
    str | None,
    option("--cluster", "-c", help="The name of the cluster.  [default: default]", metavar="NAME", complete=completion.clusters),
    Old("--name"),
]
ClusterOption = Annotated[
    str | None,
    option("--cluster", "-c", help="The cluster, as NAME.", metavar="NAME", complete=completion.clusters),
]


_DIGITS = re.compile(r"(sha256:)?[0-9a-f]{7,64}")


def is_digits(text: str) -> bool:
    """Return True for a digest, or the beginning of one."""
    return _DIGITS.fullmatch(text) is not None


def _name_of_image(text: str | None) -> str | None:
    """Raises UsageError for what can be neither a name nor a digest."""
    from harness.oci.reference import Reference

    if text is not None and not is_digits(text):
        text = in_lower_case(text)
        try:
            Reference.parse(text)
        except ValueError as wrong:
            raise UsageError(f"IMAGE {text}: {wrong}") from wrong
    return text


def _names_of_images(names: list[str] | None) -> list[str] | None:
    """As ``_name_of_image``, of several."""
    # A Clusterfile is no name of an image: `apply -f sites/*.yaml`.
    return [name if Path(name).is_file() else str(_name_of_image(name)) for name in names] if names else names


def in_lower_case(name: str) -> str:
    """The name of an image without the capitals that a user typed, with a warning."""
    from harness.oci.reference import lowered

    lower = lowered(name)
    if lower != name:
        log.warning(f"{name}: names of images have no capitals; {lower} is taken")
    return lower


def stored_image(help: str) -> Any:
    """An argument for an image of the local store."""
    return typer.Argument(help=help, metavar="IMAGE", show_default=False, autocompletion=completion.images, callback=_name_of_image)


Image = Annotated[str, stored_image("The CloudImage.")]
AnyImage = Annotated[str, stored_image("A name, a digest, or the beginning of one.")]
Plan = Annotated[bool, typer.Option("--plan", help="Show the steps and change nothing.")]
OnePlatform = Annotated[str | None, option("--platform", help="Only this platform of it.  [default: all]", metavar="OS/ARCH")]
Platforms = Annotated[
    list[str] | None,
    option("--platform", help="Only this platform of it; may be repeated.  [default: all]", metavar="OS/ARCH"),
]


def choice(*names: str, values: Sequence[str], help: str) -> Any:
    """An option for one of a few words."""
    return typer.Option(*names, help=help, metavar="|".join(values), autocompletion=completion.values(*values))


def image_option(*names: str, help: str, metavar: str = "IMAGE") -> Any:
    """An option for the name of an image of the local store, or of one to come."""
    return option(*names, help=help, metavar=metavar, complete=completion.images)


def after_cluster(help: str, metavar: str, complete: Callable[[str], list[str]]) -> Any:
    """An argument before which the name of the cluster may stand."""
    return typer.Argument(help=help, metavar=f"[NAME] {metavar}", autocompletion=complete)


def local_images(help: str, metavar: str = "IMAGE...") -> Any:
    """An argument for images that the local store may have."""
    return typer.Argument(help=help, metavar=metavar, show_default=False, autocompletion=completion.images, callback=_in_lower_case)


def _in_lower_case(value: str | list[str] | None) -> str | list[str] | None:
    """As ``in_lower_case``, of one or several; digests stay as they are."""
    if isinstance(value, list):
        return [name if is_digits(name) else in_lower_case(name) for name in value]
    return value if value is None or is_digits(value) else in_lower_case(value)


def seconds(*names: str, help: str) -> Any:
    """An option for a length of time that is not over at once, and ends."""
    return typer.Option(*names, help=help, metavar="SECONDS", min=1, callback=_ends)


def _ends(value: float) -> float:
    """Refuse ``inf`` and ``nan``, which are floats as well, and what a clock or a shell cannot count."""
    if not value <= _LONGEST_WAIT:
        raise typer.BadParameter(f"{value} is not a number of seconds up to {_LONGEST_WAIT}")
    return value


_LONGEST_WAIT = 30 * 86400


def target(help: str = "Write to this file.", metavar: str = "FILE") -> Any:
    """An option for a file that a verb writes."""
    return option("--to", help=help, metavar=metavar)


def machines(*names: str, help: str) -> Any:
    """An option for machines, by address or name."""
    return option(*names, help=help, metavar="HOST[,HOST...]")


CONTROL_PLANE_ALIASES = Alias("--masters", "--master", "-m")
WORKER_ALIASES = Alias("--nodes", "--node", "-n")
"""The words of sealer and sealos."""
FORMER_FILE = Old("--file", "-f")
"""``-f`` is a Clusterfile, or in ``build`` the Kubefile."""


# Groups of options


@dataclasses.dataclass(frozen=True)
class Output(Options):
    """The form of the results of a verb. Raises UsageError for one that does not exist."""

    output: Annotated[
        str,
        option(
            "--output",
            "-o",
            help="Output format: text, or json for programs.",
            metavar="text|json",
            complete=completion.values("text", "json"),
        ),
    ] = "text"

    def __post_init__(self) -> None:
        if self.output not in ("text", "json"):
            raise UsageError(f"--output {self.output}: not a format", hint="text or json")

    @property
    def is_json(self) -> bool:
        return self.output == "json"

    def printed(self, result: Any) -> bool:
        """Print a result for programs and return True; False, and nothing printed, where users read it."""
        if self.is_json:
            print_json(plain(result))
        return self.is_json

    def steps(self, described: Sequence[Mapping[str, Any]]) -> None:
        """Print the steps of a plan."""
        if not self.printed(described):
            steps_table(described)


@dataclasses.dataclass(frozen=True)
class NamedCluster(Options):
    """The cluster that a verb is about."""

    word: Annotated[
        str | None,
        argument(help="The cluster.  [default: default]", metavar="NAME", complete=completion.clusters),
    ] = None
    cluster: ClusterOption = None

    @property
    def name(self) -> str:
        """Its name. Raises UsageError for two."""
        if self.word and self.cluster and self.word != self.cluster:
            raise UsageError(f"{self.word} and --cluster {self.cluster} are two clusters", hint="one of both")
        return self.word or self.cluster or "default"


@dataclasses.dataclass(frozen=True)
class Ssh(Options):
    """The login of slipway to machines."""

    user: Annotated[
        str | None,
        option("--user", "-u", help="The SSH user: root, or a user with sudo without a password.  [default: root]", metavar="USER"),
    ] = None
    key: Annotated[
        Path | None,
        option("--key", "--pk", help="The SSH key.  [default: the agent and ~/.ssh]", metavar="FILE"),
    ] = None
    passwd: Annotated[
        str | None,
        option("--passwd", "-p", help="The SSH password: - asks for it; SLIPWAY_SSH_PASSWORD may hold it.", metavar="-"),
    ] = None
    port: Annotated[
        int | None, typer.Option("--port", help="The SSH port.  [default: 22]", metavar="PORT", min=1, max=65535, show_default=False)
    ] = None

    def settings(self) -> SshSettings:
        """As a Clusterfile has them, without the password: that is never recorded."""
        from harness.clusterfile import SshSettings

        return SshSettings(self.user, self.port, str(existing(self.key)) if self.key else None)

    def login(self) -> Login:
        """The login for the machines that are named, its password also for those of a cluster that is known here. It may ask for that."""
        from harness.lifecycle.cluster import access
        from harness.nodes import Login

        key = existing(self.key) if self.key else None
        password = self.password()
        access.give(access.GivenLogin(password=password))
        return Login(user=self.user, port=self.port, key=key, password=password)

    def password(self) -> str | None:
        """The password of ``--passwd``, asked for or out of the environment. It is never shown from now on."""
        password = self.passwd
        if password == "-":  # noqa: S105 -- ask for it
            password = typer.prompt("SSH password", hide_input=True)
        elif password is None:
            password = os.environ.get("SLIPWAY_SSH_PASSWORD")
        else:
            # Taken all the same, for scripts that were written for sealer.
            log.warning(
                "--passwd VALUE: every user of this machine can read the password while the command runs, and it stays in the history of "
                "your shell; write --passwd - to be asked, set SLIPWAY_SSH_PASSWORD, or use passwdFile or passwdEnv in the Clusterfile"
            )
        log.hide(password)
        return password


@dataclasses.dataclass(frozen=True)
class ClusterAccess(Ssh):
    """Access to a cluster: by what is known on this machine, or by addresses of its control-plane nodes."""

    via: Annotated[
        list[str] | None,
        machines("--via", help="Control-plane nodes of the cluster, if it is not known on this machine."),
        Old("--masters", "--master", "-m"),
        Alias("--control-plane"),
    ] = None

    def members(self, cluster: str | None) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
        """The control-plane nodes and the workers that the command line names. The login counts as well where it names none."""
        return to_machines(self.via, self._own_login(), "--via", cluster), ()

    def _own_login(self) -> Login:
        """The login for all nodes of the cluster, remembered ones included."""
        from harness.lifecycle.cluster import access

        login = self.login()
        access.give(access.GivenLogin(self.user, self.port, login.key, login.password))
        return login


@dataclasses.dataclass(frozen=True)
class NodesAccess(ClusterAccess):
    """The same for a verb that goes to every node."""

    workers: Annotated[list[str] | None, machines("--workers", help="Its workers, together with --via."), WORKER_ALIASES] = None

    def members(self, cluster: str | None) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
        login = self._own_login()
        control_plane, workers = machine_groups(login, cluster, (self.via, "--via"), (self.workers, "--workers"))
        return control_plane, workers


@dataclasses.dataclass(frozen=True)
class SiteAccess(Options):
    """Access to a registry for verbs that make clusters."""

    plain_http: Annotated[bool, typer.Option("--plain-http", help="Use plain HTTP without TLS for the registry.")] = False
    ca: Annotated[
        Path | None,
        option("--ca", help="CA certificates to trust besides the system's, as a file.", metavar="FILE"),
    ] = None

    @property
    def access(self) -> RegistryAccess:
        from harness.transfer.access import RegistryAccess

        return RegistryAccess(self.plain_http, False, self.ca)


@dataclasses.dataclass(frozen=True)
class RegistryOptions(SiteAccess):
    """Access to a registry."""

    insecure: Annotated[bool, typer.Option("--insecure", help="Do not verify the registry's TLS certificate.")] = False
    cert: Annotated[Path | None, option("--cert", help="The client certificate for the registry.", metavar="FILE")] = None
    cert_key: Annotated[Path | None, option("--cert-key", help="The key of the client certificate.", metavar="FILE")] = None

    @property
    def access(self) -> RegistryAccess:
        from harness.transfer.access import RegistryAccess

        return RegistryAccess(self.plain_http, self.insecure, self.ca, self.cert, self.cert_key)


@dataclasses.dataclass(frozen=True)
class ClusterFlags(Options):
    """A cluster as options describe it."""

    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="The CloudImage; application images beside it, in the order of their installation.", metavar="IMAGE...",
            show_default=False, autocompletion=completion.images, callback=_names_of_images,
        ),
    ] = None  # fmt: skip
    control_plane: Annotated[
        list[str] | None,
        machines(
            "--control-plane", help="Control-plane nodes: addresses, ranges as 10.0.0.1-10.0.0.3, names that SSH knows; also --masters, -m."
        ),
        CONTROL_PLANE_ALIASES,
    ] = None
    workers: Annotated[list[str] | None, machines("--workers", help="Workers; also --nodes, -n."), WORKER_ALIASES] = None
    cluster: ClusterName = None
    env: Env = None
    cmds: Annotated[
        list[str] | None,
        option("--cmds", help="A launch command instead of the image's.", metavar="COMMAND"),
    ] = None
    registry: Annotated[
        str | None,
        option(
            "--registry",
            help="Use this registry, filled by `slipway push --expand`, instead of one in the cluster; with --kubeconfig, fill it.",
            metavar="REGISTRY[/PATH]",
        ),
    ] = None
    profile: Annotated[
        str | None,
        option("--profile", help="Harden the cluster: cis.", metavar="NAME", complete=completion.profiles),
    ] = None


# Values


def existing(path: Path) -> Path:
    if not path.exists():
        raise UsageError(f"{path}: no such file or folder")
    return path


def to_machines(texts: Sequence[str] | None, login: Login, option: str, cluster: str | None = None) -> tuple[Machine, ...]:
    """The machines that an option names. See ``machine_groups``."""
    return machine_groups(login, cluster, (texts, option))[0]


def machine_groups(login: Login, cluster: str | None, *groups: tuple[Sequence[str] | None, str]) -> list[tuple[Machine, ...]]:
    """Addresses, names, comma lists and ranges as machines, for each option. ``cluster``: the name of the one that remembers some.

    Raises InputError with every machine that is not valid, and with every name that has no address.
    """
    from harness.lifecycle.cluster import hosts as cluster_hosts
    from harness.nodes import Machine

    faults: list[Fault] = []
    given: list[list[Machine]] = []
    for texts, option in groups:
        try:
            given.append([Machine(text, login) for text in addresses(texts, option)])
        except InputError as wrong:
            faults += wrong.faults
    if faults:
        raise InputError(faults)
    return cluster_hosts.groups(given, cluster)


def hosts(control_plane: Sequence[str], workers: Sequence[str], ssh: SshSettings) -> tuple[Host, ...]:
    """Control-plane nodes and workers as a Clusterfile has them."""
    from harness.clusterfile import CONTROL_PLANE, WORKER, Host

    return tuple(Host(tuple(ips), (role,), ssh) for role, ips in ((CONTROL_PLANE, control_plane), (WORKER, workers)) if ips)


def addresses(texts: Sequence[str] | None, option: str) -> list[str]:
    """Addresses, names, comma lists and ranges one by one. Raises InputError with every machine that is not valid."""
    from harness.clusterfile import validators

    faults: list[Fault] = []
    valid: list[str] = []
    for text in (part.strip() for one in texts or () for part in one.split(",")):
        try:
            valid += validators.machines(text)
        except validators.FieldError as wrong:
            # sealer takes a number of machines for its providers.
            hint = "slipway takes addresses; `slipway nodes up` boots machines and prints their addresses" if text.isdigit() else wrong.hint
            faults.append(Fault(f"{option} {text}", wrong.message.removeprefix(f"{text} is "), hint))
    if faults:
        raise InputError(faults)
    return valid


_PLATFORMS = {"linux": ("386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64le", "riscv64", "s390x")}
"""Nodes run Linux, on the processors that Go compiles for."""


def platform_of(text: str, option: str = "--platform") -> Platform:
    """Raises UsageError for what is not a platform of nodes."""
    from harness.oci.model import Platform

    try:
        platform = Platform.parse(text)
    except ValueError as wrong:
        raise UsageError(f"{option} {text}: {wrong}") from wrong
    if platform.os not in _PLATFORMS:
        raise UsageError(f"{option} {text}: nodes run Linux, not {platform.os}", hint="as linux/amd64")
    if platform.architecture not in _PLATFORMS[platform.os]:
        raise UsageError(f"{option} {text}: no such architecture", hint=f"one of {', '.join(_PLATFORMS[platform.os])}")
    return platform


def confirmed(question: str) -> None:
    """Ask the user. Raises Abort for a no, and UsageError where there is no one to ask."""
    try:
        answer = typer.confirm(question)
    except typer.Abort:
        if sys.stdin.isatty():
            raise
        say()  # the question has no answer to end its line
        raise UsageError("this needs a confirmation, and there is no terminal to ask for it", hint="--yes goes on without one") from None
    if not answer:
        raise typer.Abort

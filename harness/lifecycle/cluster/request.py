"""A Clusterfile and what the command line adds to it, made one: what runs, on which machines, and how to get into them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import os
import posixpath
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from harness import log, untrusted
from harness.cloudimage import ImageApp, Info
from harness.clusterfile import (
    MASTER,
    NODE,
    AppConfig,
    ApplicationDocument,
    ClusterDocument,
    Clusterfile,
    ExternalRegistry,
    Host,
    LocalRegistry,
    Password,
    SshSettings,
)
from harness.clusterfile import environment as environments
from harness.clusterfile.config import apply_configs
from harness.clusterfile.parse import parse
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.host.cluster_cache import DEFAULT_NAME
from harness.kubefile.applications import with_environment
from harness.nodes import JumpHost, Login, Machine
from harness.nodes.files import STATE
from harness.runtimes import REGISTRY_PORT
from harness.runtimes.kubeadm import DECIDED

_DATA_ROOTS = (STATE, "/var/lib/sealer/data")
"""Ours, and what sealer writes when nobody asks for anything."""


@dataclasses.dataclass(frozen=True)
class Given:
    """What a command line says; None and empty: it does not."""

    image: str | None = None
    masters: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    name: str | None = None
    user: str | None = None
    port: int | None = None
    key: Path | None = None
    password: str | None = dataclasses.field(default=None, repr=False)
    env: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    commands: tuple[str, ...] | None = None
    apps: tuple[str, ...] | None = None
    registry: ExternalRegistry | None = None
    profile: str | None = None


def read(path: str, env: Mapping[str, str] | None = None) -> Clusterfile:
    """The Clusterfile at a path, ``-`` for the standard input; its ``{{ Name }}`` are replaced by ``env``.

    Raises UsageError when it cannot be read, InputError with all faults. What may be understood otherwise is warned of.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as wrong:
        reason = wrong.strerror if isinstance(wrong, OSError) else "is no text"
        raise UsageError(f"{path}: {reason}", hint="slipway generate writes a Clusterfile") from wrong
    found = parse(text, path, env=env or {})
    for warning in found.warnings:
        log.warning(str(warning))
    return found


def effective(written: Clusterfile | None, given: Given) -> Clusterfile:
    """One Clusterfile that says all: where the command line says something, that counts.

    Raises UsageError when nothing names the image, InputError for all that is asked for and cannot be had.
    """
    found = written or Clusterfile("")
    own = found.cluster or ClusterDocument(name=given.name or DEFAULT_NAME, image="")
    image = given.image or own.image
    if not image:
        raise UsageError("no image is named", hint="slipway run IMAGE --masters 192.168.0.2, or image: in a document Cluster of -f")
    cluster = dataclasses.replace(
        own,
        name=given.name or own.name,
        image=image,
        hosts=_hosts(own, given),
        ssh=_login(own.ssh, given),
        env={**own.env, **given.env},
        commands=own.commands if given.commands is None else given.commands,
        app_names=own.app_names if given.apps is None else given.apps,
        external_registry=given.registry or own.external_registry,
        profile=given.profile or own.profile,
    )
    faults = [*_unsupported(cluster, found.path or "the Clusterfile"), *_jumps(cluster, found.path)]
    if faults:
        raise InputError(faults)
    _warn(found)
    application = _application(found.application, given.env) if found.application else None
    apps = tuple(dataclasses.replace(_application(app, given.env), env=_over(app.env, given.env)) for app in found.apps)
    return dataclasses.replace(found, cluster=cluster, application=application, apps=apps)


def described(
    name: str,
    image: str,
    masters: Sequence[Machine],
    nodes: Sequence[Machine],
    env: Mapping[str, str],
    host_env: Mapping[str, Mapping[str, str]],
    commands: Sequence[str] | None,
) -> Clusterfile:
    """The Clusterfile of machines that are known already."""
    machines = [*((MASTER, machine) for machine in masters), *((NODE, machine) for machine in nodes)]
    hosts = [Host((machine.address,), (role,), _ssh(machine.login), host_env.get(machine.address, {})) for role, machine in machines]
    logins = [host.ssh for host in hosts]
    common = logins[0] if logins and all(login == logins[0] for login in logins) else SshSettings()
    cluster = ClusterDocument(
        name=name,
        image=image,
        hosts=_grouped(hosts),
        env=dict(env),
        ssh=common,
        commands=None if commands is None else tuple(commands),
    )
    return Clusterfile("", cluster=cluster)


def _ssh(login: Login) -> SshSettings:
    # Where this machine keeps its keys is nobody else's business.
    return SshSettings(user=login.user, port=login.port)


def _application(application: ApplicationDocument, env: Mapping[str, str]) -> ApplicationDocument:
    """A document Application with ``-e`` on top of what it says about single applications."""
    configs = tuple(dataclasses.replace(config, env=_over(config.env, env)) for config in application.configs)
    return dataclasses.replace(application, configs=configs)


def _over(values: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Values with those of ``-e`` in place of theirs."""
    return {name: env.get(name, value) for name, value in values.items()}


# ---- machines ---------------------------------------------------------------------------------------------------------


def _hosts(own: ClusterDocument, given: Given) -> tuple[Host, ...]:
    """The hosts, masters first. Flags replace the masters, or the workers, that the file names; what it says of a machine stays."""
    if given.masters or given.nodes:
        masters, nodes = given.masters or own.masters, given.nodes or own.nodes
        single = [_host(own, address, MASTER) for address in masters] + [_host(own, address, NODE) for address in nodes]
        hosts: Iterable[Host] = _grouped(single)
    else:
        hosts = sorted(own.hosts, key=lambda host: not host.is_master)
    return tuple(dataclasses.replace(host, ssh=_login(host.ssh.over(own.ssh), given)) for host in hosts)


def _host(own: ClusterDocument, address: str, role: str) -> Host:
    known = own.host(address) or Host((address,), (role,), own.ssh)
    return dataclasses.replace(known, ips=(address,), roles=(role, *known.roles[1:]), count=None)


def _grouped(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Neighbours that are alike as one."""
    groups = itertools.groupby(hosts, key=lambda host: repr(dataclasses.replace(host, ips=())))
    found = [list(group) for _, group in groups]
    return tuple(dataclasses.replace(group[0], ips=tuple(address for host in group for address in host.ips)) for group in found)


def _login(ssh: SshSettings, given: Given) -> SshSettings:
    # A password of the command line is in no Clusterfile: machines() is given it.
    return dataclasses.replace(ssh, user=given.user or ssh.user, port=given.port or ssh.port, key=str(given.key) if given.key else ssh.key)


def machines(found: Clusterfile, password: str | None = None) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
    """Masters and workers with the way into each; ``password`` (of the command line) counts before what the file says.

    Raises InputError for passwords that are nowhere.
    """
    cluster = found.cluster
    if cluster is None:
        return (), ()
    faults: list[Fault] = []
    by_role: dict[bool, list[Machine]] = {True: [], False: []}
    for host in cluster.hosts:
        login = _resolved(host.ssh, password, found.path, faults)
        by_role[host.is_master] += [Machine(address, login) for address in host.ips]
    if faults:
        raise InputError(dict.fromkeys(faults))
    if any(host.ssh.password.text for host in cluster.hosts) and password is None:
        log.warning(f"{found.path}: passwords are written down in it; passwdFile: FILE or passwdEnv: NAME says where one is instead")
    return tuple(by_role[True]), tuple(by_role[False])


def login(found: Clusterfile, password: str | None = None) -> Login:
    """The way into machines of which only the cluster knows. Raises InputError as ``machines`` does."""
    faults: list[Fault] = []
    way = _resolved(found.cluster.ssh if found.cluster else SshSettings(), password, found.path, faults)
    if faults:
        raise InputError(dict.fromkeys(faults))
    return way


def _resolved(ssh: SshSettings, password: str | None, where: str, faults: list[Fault]) -> Login:
    jump = ssh.jump
    return Login(
        user=ssh.user or "root",
        port=ssh.port or 22,
        key=Path(ssh.key).expanduser() if ssh.key else None,
        password=password if password is not None else secret(ssh.password, f"{where} .spec.ssh.passwd", faults),
        passphrase=ssh.passphrase,
        jump=JumpHost(jump.host, jump.user, jump.port, Path(jump.key).expanduser() if jump.key else None) if jump else None,
    )


def secret(password: Password, where: str, faults: list[Fault]) -> str | None:
    """What a password is, wherever it was put; what is wrong with that place goes to ``faults``. It is never shown from now on."""
    found = _secret(password, where, faults)
    log.hide(found)
    return found


def _secret(password: Password, where: str, faults: list[Fault]) -> str | None:
    if password.file is not None:
        try:
            return Path(password.file).expanduser().read_text().removesuffix("\n")
        except OSError as wrong:
            faults.append(Fault(f"{where}File", f"{password.file}: {wrong.strerror}"))
    if password.variable is not None:
        if password.variable not in os.environ:
            faults.append(Fault(f"{where}Env", f"{password.variable} is not set", f"export {password.variable}=..."))
        return os.environ.get(password.variable)
    return password.text


# ---- what cannot be had -----------------------------------------------------------------------------------------------


def _unsupported(cluster: ClusterDocument, where: str) -> list[Fault]:
    """Everything that is asked for and that slipway does not do, rather than silence."""
    spec = f"{where} .spec"
    faults = []
    if cluster.data_root and cluster.data_root.rstrip("/") not in _DATA_ROOTS:
        message = f"{cluster.data_root}: everything of slipway is in {STATE}"
        faults.append(Fault(f"{spec}.dataRoot", message, f"leave it out, and make {STATE} a link or a mount of the disk before"))
    if cluster.command_args:
        message = "values for ARG were written into the launch commands when the image was built"
        faults.append(
            Fault(f"{spec}.cmd_args", message, "env: values for what the image names $NAME or {{ NAME }}, or cmd: other commands")
        )
    if any(host.count for host in cluster.hosts):
        message = "containers to try with are made by a command of their own"
        faults.append(Fault(f"{spec}.hosts", message, "slipway nodes up --masters 1 --nodes 1, then write their addresses or give them"))
    if cluster.local_registry:
        faults += _local(cluster.local_registry, f"{spec}.registry.localRegistry")
    return faults


def _local(registry: LocalRegistry, where: str) -> list[Fault]:
    own = "the cluster's own registry keeps the original names of images and is read only, for its nodes"
    faults = []
    if registry.domain not in (None, "sea.hub"):
        faults.append(Fault(f"{where}.domain", f"{registry.domain}: {own}", "leave it out"))
    if registry.port not in (None, REGISTRY_PORT):
        faults.append(Fault(f"{where}.port", f"{registry.port}: it listens on {REGISTRY_PORT}", "leave it out"))
    if registry.username or registry.password:
        faults.append(
            Fault(f"{where}.username", f"{own}: they have a login, which is made with the cluster", "leave username and password out")
        )
    if registry.insecure:
        faults.append(Fault(f"{where}.insecure", f"{own}: it speaks TLS with the cluster's own certificate", "leave it out"))
    if not registry.ha:
        faults.append(Fault(f"{where}.ha", "it is on every master, up to three", "leave it out"))
    if registry.dns_names or registry.ips:
        faults.append(Fault(f"{where}.cert", f"{own}, who know its certificate", "leave it out"))
    return faults


def _jumps(cluster: ClusterDocument, where: str) -> list[Fault]:
    jumps = {host.ssh.jump for host in cluster.hosts if host.ssh.jump}
    message = "a password for the machine in between cannot be handed over"
    return [Fault(f"{where} .spec.ssh.jump", message, "pk: a key, or the agent's") for jump in jumps if jump.password or jump.passphrase]


def _warn(found: Clusterfile) -> None:
    """Tell of keys in kubeadm's documents that have one right value in a cluster of ours."""
    for document in found.kubeadm:
        for path in DECIDED.get(str(document.get("kind")), ()):
            value: object = document
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                log.warning(f"{document.get('kind')} .{'.'.join(path)}: not used; the image and the machines decide it")


# ---- what goes into the cluster ---------------------------------------------------------------------------------------


def env(found: Clusterfile) -> dict[str, str]:
    """The environment for all machines: networks and names for certificates are in it under their names."""
    return environments.environment({}, found, {})


def host_env(found: Clusterfile) -> dict[str, dict[str, str]]:
    """What single machines have on top, by address."""
    hosts = found.cluster.hosts if found.cluster else ()
    return {address: dict(host.env) for host in hosts for address in host.ips if host.env}


def app_env(found: Clusterfile) -> dict[str, dict[str, str]]:
    """What single applications have on top, by name."""
    configs = found.application.configs if found.application else ()
    return {config.name: dict(config.env) for config in configs if config.env}


def edit(found: Clusterfile) -> Callable[[Path], Sequence[str]] | None:
    """Writes the Config documents, and the files of applications, into an unpacked rootfs; None when there are none."""
    files = found.files
    if not files:
        return None

    def change(root: Path) -> Sequence[str]:
        changed = apply_configs(files, lambda path: _content(root, path))
        for path, data in changed.items():
            _write(root, path, data)
        return sorted(changed)

    return change


def _content(root: Path, path: str) -> bytes | None:
    tree = untrusted.UntrustedTree(root, what=f"Config {path}")
    # What is behind a link that leads out is not the image's: the file that is written takes the place of the link.
    with contextlib.suppress(StoreError):
        return tree.read_bytes(path) if tree.is_file(path) else None
    return None


def _write(root: Path, path: str, data: bytes) -> None:
    place = root / path
    tree = untrusted.UntrustedTree(root)
    try:
        tree.is_dir(posixpath.dirname(path))
    except StoreError as wrong:
        raise InputError([Fault(f"Config {path}", "a link on its way leads out of the rootfs", "name the file itself")]) from wrong
    mode = 0o644
    with contextlib.suppress(StoreError):
        mode = tree.stat(path).st_mode & 0o7777 if tree.is_file(path) else mode
    place.parent.mkdir(parents=True, exist_ok=True)
    # What has the old file linked or open keeps it.
    place.unlink(missing_ok=True)
    place.write_bytes(data)
    place.chmod(mode)


# ---- what is launched -------------------------------------------------------------------------------------------------


def launch(found: Clusterfile, info: Info) -> tuple[str, ...] | None:
    """The launch commands, where the Clusterfile says something about them; None leaves it to the image.

    ``cmd`` and ``cmds`` take the place of everything; ``appNames`` and ``launchApps`` choose applications; commands and environment of a
    single application take the place of what the image says of it. Raises InputError for applications that the image does not have.
    """
    apps = {app.name: app for app in info.apps}
    configs = {config.name: config for config in found.application.configs} if found.application else {}
    _check_apps([*(found.launch or ()), *configs], apps, found)
    if found.commands is not None:
        return found.commands
    if found.launch is not None:
        return tuple(command for name in found.launch for command in _commands(apps[name], configs.get(name)))
    if not configs:
        return None
    commands = info.launch
    for name, config in configs.items():
        commands = _replaced(commands, _commands(apps[name], None), _commands(apps[name], config))
    return commands


def _check_apps(names: Iterable[str], apps: Mapping[str, ImageApp], found: Clusterfile) -> None:
    faults = []
    for name in dict.fromkeys(names):
        if name not in apps:
            near = difflib.get_close_matches(name, apps, n=1)
            known = f"it has {', '.join(apps)}" if apps else "it has none; cmd: gives launch commands"
            faults.append(
                Fault(f"{found.path} {name}".strip(), "the image has no such application", f"did you mean {near[0]}?" if near else known)
            )
    if faults:
        raise InputError(faults)


def _commands(app: ImageApp, config: AppConfig | None) -> tuple[str, ...]:
    """The commands of one application; its own run in its folder, as those of APPCMDS do."""
    environment = {**app.env, **(config.env if config else {})}
    own = config.commands if config else None
    commands = app.commands if own is None else tuple(f"cd application/apps/{app.name} && {command}" for command in own)
    return tuple(with_environment(command, environment) for command in commands)


def _replaced(commands: tuple[str, ...], before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    """The commands with one application's in place of what the image has for it; as they are when it is not launched."""
    for start in range(len(commands) - len(before) + 1) if before else ():
        if commands[start : start + len(before)] == before:
            return (*commands[:start], *after, *commands[start + len(before) :])
    return commands

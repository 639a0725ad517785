"""Merges a Clusterfile with the options of the command line, and derives from it what runs, on which nodes, and their logins."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import itertools
import os
import posixpath
import re
import sys
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path

from harness import log, untrusted
from harness.cloudimage import ImageApp, Info, values
from harness.clusterfile import (
    CONTROL_PLANE,
    WORKER,
    AppConfig,
    ApplicationDocument,
    ClusterDocument,
    Clusterfile,
    Host,
    JumpSettings,
    LocalRegistry,
    Password,
    SshSettings,
    is_redacted,
    validators,
)
from harness.clusterfile import environment as clusterfile_environment
from harness.clusterfile.application import for_all
from harness.clusterfile.config import apply_configs, new_files
from harness.clusterfile.parse import parse
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.host import paths
from harness.host.cluster_cache import DEFAULT_NAME
from harness.kubefile.applications import with_environment
from harness.kubefile.words import substitute
from harness.lifecycle.cluster.missing_secrets import PLACEHOLDERS
from harness.nodes import JumpHost, Login, Machine
from harness.nodes.files import STATE
from harness.runtimes import REGISTRY_PORT
from harness.runtimes.configuration import DECIDED
from harness.templates.tree import left_as_text

_DATA_ROOTS = (STATE, "/var/lib/sealer/data")
"""The folder of slipway, and sealer's default."""


NO_FLAGS = ClusterDocument(name="", image="")


def read(path: str, env: Mapping[str, str] | None = None) -> Clusterfile:
    """Read the Clusterfile at a path, ``-`` for the standard input; ``env`` replaces its ``{{ Name }}``. Logs its warnings.

    Raises UsageError when it cannot be read, InputError with all faults.
    """
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except (OSError, UnicodeDecodeError) as wrong:
        reason = wrong.strerror if isinstance(wrong, OSError) else "is no text"
        raise UsageError(f"{path}: {reason}", hint="slipway generate writes a Clusterfile") from wrong
    clusterfile = parse(text, path, env=env or {})
    for warning in clusterfile.warnings:
        log.warning(str(warning))
    return clusterfile


def effective(written: Clusterfile | None, flags: ClusterDocument = NO_FLAGS) -> Clusterfile:
    """Merge the flags of a command line over a Clusterfile. Of ``flags``, an empty name or image, and None, say nothing.

    Raises UsageError when neither names an image, InputError with all settings that slipway does not support.
    """
    clusterfile = written or Clusterfile("")
    own = clusterfile.cluster or ClusterDocument(name=DEFAULT_NAME, image="")
    image = flags.image or own.image
    if not image:
        raise UsageError("no image is named", hint="slipway run IMAGE --control-plane 192.168.0.2, or image: in a document Cluster of -f")
    cluster = dataclasses.replace(
        own,
        name=flags.name or own.name,
        image=image,
        images=flags.images if flags.image else own.images,
        hosts=_hosts(own, flags),
        ssh=flags.ssh.over(own.ssh),
        ssh_hosts={**own.ssh_hosts, **flags.ssh_hosts},
        env={**own.env, **flags.env},
        commands=own.commands if flags.commands is None else flags.commands,
        app_names=own.app_names if flags.app_names is None else flags.app_names,
        external_registry=flags.external_registry or own.external_registry,
        profile=flags.profile or own.profile,
    )
    faults = [*_unsupported(cluster, clusterfile.path or "the Clusterfile"), *_jumps(cluster, clusterfile.path)]
    if faults:
        raise InputError(faults)
    _warn(clusterfile)
    application = _application(clusterfile.application, flags.env) if clusterfile.application else None
    apps = tuple(dataclasses.replace(_application(app, flags.env), env=_over(app.env, flags.env)) for app in clusterfile.apps)
    return dataclasses.replace(clusterfile, cluster=cluster, application=application, apps=apps)


def of_machines(
    name: str, image: str, control_plane: Sequence[Machine], workers: Sequence[Machine] = (), env: Mapping[str, str] | None = None
) -> Clusterfile:
    """Return the Clusterfile of a cluster on given machines, with the login of each."""
    machines = [*((CONTROL_PLANE, machine) for machine in control_plane), *((WORKER, machine) for machine in workers)]
    hosts = [Host((machine.address,), (role,), _ssh(machine.login)) for role, machine in machines]
    logins = [host.ssh for host in hosts]
    common = logins[0] if logins and all(login == logins[0] for login in logins) else SshSettings()
    names = {machine.address: machine.host for _, machine in machines if machine.host}
    document = ClusterDocument(name=name, image=image, hosts=_grouped(hosts), env=dict(env or {}), ssh=common, ssh_hosts=names)
    return Clusterfile("", cluster=document)


def _ssh(login: Login) -> SshSettings:
    jump = login.jump
    return SshSettings(
        user=login.user,
        port=login.port,
        key=str(login.key) if login.key else None,
        passphrase=login.passphrase,
        password=Password(login.password),
        jump=JumpSettings(jump.host, jump.user, jump.port, str(jump.key) if jump.key else None) if jump else None,
    )


def _application(application: ApplicationDocument, env: Mapping[str, str]) -> ApplicationDocument:
    """Return a document Application with the values of ``-e`` in the environments of single applications."""
    configs = tuple(dataclasses.replace(config, env=_over(config.env, env)) for config in application.configs)
    return dataclasses.replace(application, configs=configs)


def _over(values: Mapping[str, str], env: Mapping[str, str]) -> dict[str, str]:
    """Replace the values that ``env`` names."""
    return {name: env.get(name, value) for name, value in values.items()}


# ---- machines ---------------------------------------------------------------------------------------------------------


def _hosts(own: ClusterDocument, flags: ClusterDocument) -> tuple[Host, ...]:
    """Return the hosts, control-plane nodes first. Options replace the addresses in the file; its other settings of a host stay."""
    if flags.hosts:
        control_plane, workers = flags.control_plane or own.control_plane, flags.workers or own.workers
        single = [_host(own, address, CONTROL_PLANE) for address in control_plane] + [_host(own, address, WORKER) for address in workers]
        hosts: Iterable[Host] = _grouped(single)
    else:
        hosts = sorted(own.hosts, key=lambda host: not host.is_control_plane)
    return tuple(dataclasses.replace(host, ssh=flags.ssh.over(host.ssh.over(own.ssh))) for host in hosts)


def _host(own: ClusterDocument, address: str, role: str) -> Host:
    host = own.host(address) or Host((address,), (role,), own.ssh)
    return dataclasses.replace(host, ips=(address,), roles=(role, *host.roles[1:]), count=None)


def _grouped(hosts: Iterable[Host]) -> tuple[Host, ...]:
    """Merge neighbours that differ in their addresses only."""
    groups = [list(group) for _, group in itertools.groupby(hosts, key=lambda host: dataclasses.replace(host, ips=()))]
    return tuple(dataclasses.replace(group[0], ips=tuple(address for host in group for address in host.ips)) for group in groups)


def machines(clusterfile: Clusterfile, password: str | None = None) -> tuple[tuple[Machine, ...], tuple[Machine, ...]]:
    """Return control-plane nodes and workers with the login of each; ``password``, of the command line, wins over the file.

    Raises InputError for passwords that are not where the file says, and for paths that begin with a user that does not exist.
    """
    cluster = clusterfile.cluster
    if cluster is None:
        return (), ()
    faults: list[Fault] = []
    by_role: dict[bool, list[Machine]] = {True: [], False: []}
    for host in cluster.hosts:
        login = login_of(host.ssh, password, clusterfile.path, faults)
        by_role[host.is_control_plane] += [Machine(address, login, cluster.ssh_hosts.get(address)) for address in host.ips]
    if faults:
        raise InputError(dict.fromkeys(faults))
    return tuple(by_role[True]), tuple(by_role[False])


def warn_of_passwords(clusterfile: Clusterfile) -> None:
    """Warn of passwords that a Clusterfile holds itself."""
    if clusterfile.cluster and any(host.ssh.password.text for host in clusterfile.cluster.hosts):
        log.warning(f"{clusterfile.path}: passwords are written down in it; passwdFile: FILE or passwdEnv: NAME says where one is instead")


def login(clusterfile: Clusterfile, password: str | None = None) -> Login:
    """Return the login for machines that only the record of the cluster names. Raises InputError as ``machines`` does."""
    faults: list[Fault] = []
    resolved = login_of(clusterfile.cluster.ssh if clusterfile.cluster else SshSettings(), password, clusterfile.path, faults)
    if faults:
        raise InputError(dict.fromkeys(faults))
    return resolved


def login_of(ssh: SshSettings, password: str | None, where: str, faults: list[Fault]) -> Login:
    """The login that settings of the Clusterfile ``where`` describe; what is wrong with its files is added to ``faults``."""
    jump = ssh.jump
    of_ssh = f"{where} .spec.ssh".strip()
    return Login(
        user=ssh.user,
        port=ssh.port,
        key=_file(ssh.key, f"{of_ssh}.pk", faults),
        password=password if password is not None else secret(ssh.password, f"{of_ssh}.passwd", faults),
        passphrase=ssh.passphrase,
        jump=JumpHost(jump.host, jump.user, jump.port, _file(jump.key, f"{of_ssh}.jump.pk", faults)) if jump else None,
    )


def _file(path: str | None, where: str, faults: list[Fault]) -> Path | None:
    # The Clusterfile that a cluster keeps may name a user of another machine.
    try:
        return paths.expanded(path) if path else None
    except UsageError as wrong:
        faults.append(Fault(where, wrong.message, wrong.hint))
        return None


def secret(password: Password, where: str, faults: list[Fault]) -> str | None:
    """Return a password from the text, the file or the variable that holds it, and hide it from logs. Adds to ``faults``."""
    text = _secret(password, where, faults)
    log.hide(text)
    return text


def _secret(password: Password, where: str, faults: list[Fault]) -> str | None:
    if password.file is not None:
        file = _file(password.file, f"{where}File", faults)
        try:
            return file.read_text().removesuffix("\n") if file else None
        except OSError as wrong:
            faults.append(Fault(f"{where}File", f"{password.file}: {wrong.strerror}"))
        except ValueError as wrong:
            faults.append(Fault(f"{where}File", f"{password.file}: cannot be read as text: {wrong}"))
    if password.variable is not None:
        if password.variable not in os.environ:
            faults.append(Fault(f"{where}Env", f"{password.variable} is not set", f"export {password.variable}=..."))
        return os.environ.get(password.variable)
    return password.text


# ---- unsupported settings ---------------------------------------------------------------------------------------------


def _unsupported(cluster: ClusterDocument, where: str) -> list[Fault]:
    """Return a fault for each setting that slipway does not support."""
    spec = f"{where} .spec"
    faults = []
    if cluster.data_root and cluster.data_root.rstrip("/") not in _DATA_ROOTS:
        message = f"{cluster.data_root}: everything of slipway is in {STATE}"
        faults.append(Fault(f"{spec}.dataRoot", message, f"leave it out, and make {STATE} a link or a mount of the disk before"))
    if cluster.local_registry:
        faults += _local(cluster.local_registry, f"{spec}.registry.localRegistry")
    return faults


def _local(registry: LocalRegistry, where: str) -> list[Fault]:
    """Faults of what the cluster's own registry cannot do, and a word on what it need not do."""
    if registry.insecure:
        log.info(f"{where}.insecure: not needed: the registry speaks TLS, and all nodes trust its certificate")
    if registry.port not in (None, REGISTRY_PORT):
        log.info(f"{where}.port: nodes find images under this port; the registry itself listens on {REGISTRY_PORT}")
    if registry.username or registry.password:
        message = "the registry of the cluster is for its nodes alone, which have a login that is made with the cluster"
        return [Fault(f"{where}.username", message, "leave username and password out")]
    return []


def _jumps(cluster: ClusterDocument, where: str) -> list[Fault]:
    jumps = {host.ssh.jump for host in cluster.hosts if host.ssh.jump}
    message = "a password for the machine in between cannot be handed over"
    return [Fault(f"{where} .spec.ssh.jump", message, "pk: a key, or the agent's") for jump in jumps if jump.password or jump.passphrase]


def _warn(clusterfile: Clusterfile) -> None:
    """Warn of keys in the documents of kubeadm that slipway sets itself."""
    for document in clusterfile.kubeadm:
        for path in DECIDED.get(str(document.get("kind")), ()):
            value: object = document
            for key in path:
                value = value.get(key) if isinstance(value, Mapping) else None
            if value is not None:
                log.warning(f"{document.get('kind')} .{'.'.join(path)}: not used; the image and the machines decide it")


# ---- environment and files --------------------------------------------------------------------------------------------


def env(clusterfile: Clusterfile) -> dict[str, str]:
    """Return the environment of all nodes, with the networks and the SANs."""
    return clusterfile_environment.environment({}, clusterfile, {})


def check_once(machines: Sequence[Machine]) -> None:
    """Raise UsageError for machines that are given more than once."""
    addresses = [machine.address for machine in machines]
    twice = sorted({address for address in addresses if addresses.count(address) > 1})
    if twice:
        raise UsageError(f"{', '.join(twice)} given twice", hint="a machine is a control-plane node or a worker, once")


def check_env(env: Mapping[str, str]) -> None:
    """Raise InputError for names that no environment variable can have."""
    faults = [
        Fault(f"-e {name}", "is not a name for a variable", "use letters, digits and _")
        for name in env
        if not re.fullmatch(validators.ENV_NAME, name)
    ]
    if faults:
        raise InputError(faults)


def host_env(clusterfile: Clusterfile) -> dict[str, dict[str, str]]:
    """Return the environments of single nodes, by address."""
    hosts = clusterfile.cluster.hosts if clusterfile.cluster else ()
    return {address: dict(host.env) for host in hosts for address in host.ips if host.env}


def app_env(clusterfile: Clusterfile) -> dict[str, dict[str, str]]:
    """Return the environments of single applications, by name."""
    configs = clusterfile.application.configs if clusterfile.application else ()
    return {config.name: dict(config.env) for config in configs if config.env}


def require_values(
    info: Info,
    environments: Sequence[Mapping[str, str]],
    clusterfile: Clusterfile,
    apps: Mapping[str, Mapping[str, str]] | None = None,
) -> None:
    """Raise InputError that lists every value which an image expects and that is missing or wrong; no machine is asked for that.

    ``environments`` are those of the nodes, each without the defaults of the image; ``apps`` adds what single applications get, by name
    (as the Clusterfile says it). Secrets among the values are never shown from now on.
    """
    own = app_env(clusterfile) if apps is None else apps
    all_environments = [*environments, *own.values()]
    log.hide(*(env[value.name] for value in info.values if value.secret for env in all_environments if value.name in env))
    written = {file.target for file in clusterfile.files if file.strategy == "overwrite"}
    faults = values.faults(info.values, environments, app_env=own, replaced=written.__contains__, unknown=PLACEHOLDERS)
    if faults:
        raise InputError(faults)


def warn_of_text(info: Info, tree: Path, declared: Container[str], clusterfile: Clusterfile) -> None:
    """Warn of names in an unpacked rootfs that stay as text and may be values. An image with a list of its values was warned of when it was
    built; an older one has none.
    """
    if info.values:
        return
    replaced = {file.target for file in clusterfile.files}
    undeclared = [(path, name) for path, name in left_as_text(tree, declared) if path not in replaced]
    if undeclared:
        (path, name), more = undeclared[0], f" (and {len(undeclared) - 1} more)" if undeclared[1:] else ""
        text = f"{path}: {{{{ {name} }}}} stays as text, since nothing declares {name}{more}; if it is a value: -e {name}=VALUE"
        log.warning(untrusted.shown(text))


def edit(clusterfile: Clusterfile) -> Callable[[Path], Sequence[str]] | None:
    """Return a function that writes Config documents and files of applications into an unpacked rootfs; None when there are none."""
    files = clusterfile.files
    if not files:
        return None
    # A rootfs is edited once for each platform.
    shown: list[Fault] = []

    def change(root: Path) -> Sequence[str]:
        present = [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_symlink() or not path.is_dir()]
        changed = apply_configs(files, lambda path: _content(root, path))
        for new in new_files(files, present):
            if new not in shown:
                shown.append(new)
                (log.warning if new.hint else log.info)(str(new))
        for path, data in changed.items():
            _write(root, path, data)
        return sorted(changed)

    return change


def _content(root: Path, path: str) -> bytes | None:
    tree = untrusted.UntrustedTree(root, what=f"Config {path}")
    # The target of a link that leads out is not of the image: the new file replaces the link.
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
    # Hard links to the old file, and processes that have it open, keep it.
    place.unlink(missing_ok=True)
    place.write_bytes(data)
    place.chmod(mode)


# ---- launch commands --------------------------------------------------------------------------------------------------


def launch(clusterfile: Clusterfile, info: Info) -> tuple[str, ...] | None:
    """Return the launch commands that the Clusterfile asks for; None when it leaves them to the image.

    ``cmd_args`` gives other values to ARG of the image's commands. ``cmd`` and ``cmds`` replace everything; ``appNames`` and
    ``launchApps`` choose applications; commands and environment of a single application replace those of the image. Raises InputError for
    applications that the image does not have.
    """
    apps = {app.name: app for app in info.apps}
    clusterfile = for_all(clusterfile, list(apps))
    configs = {config.name: config for config in clusterfile.application.configs} if clusterfile.application else {}
    _check_apps([*(clusterfile.launch or ()), *configs], apps, clusterfile)
    arguments = clusterfile.cluster.command_args if clusterfile.cluster else {}
    if arguments:
        return _with_arguments(arguments, clusterfile, info)
    if clusterfile.commands is not None:
        return clusterfile.commands
    if clusterfile.launch is not None:
        return tuple(command for name in clusterfile.launch for command in _commands(apps[name], configs.get(name)))
    if not configs:
        return None
    commands = info.launch
    for name, config in configs.items():
        commands = _replaced(commands, _commands(apps[name], None), _commands(apps[name], config))
    return commands


def _with_arguments(arguments: Mapping[str, str], clusterfile: Clusterfile, info: Info) -> tuple[str, ...]:
    """Return the image's launch commands with other values for the ARG that they name. Raises InputError for names that they do not."""
    place = f"{clusterfile.path} .spec.cmd_args"
    if clusterfile.commands is not None or clusterfile.launch is not None:
        key = "cmd" if clusterfile.commands is not None else "appNames"
        raise InputError([Fault(place, f"is for the commands of the image, and {key} replaces them", "leave one of both out")])
    args = info.launch_arguments
    other = "env: gives values to what the image names $NAME or {{ NAME }}"
    faults = []
    for name, value in arguments.items():
        if is_redacted(value):
            faults.append(Fault(f"{place}.{name}", "was not kept, since it is a secret", "give the Clusterfile again: -f"))
        elif name not in args:
            near = difflib.get_close_matches(name, args, n=1)
            hint = f"did you mean {near[0]}?" if near else f"they name {', '.join(args)}; {other}" if args else f"they name none; {other}"
            faults.append(Fault(f"{place}.{name}", "the launch commands of the image name no such ARG", hint))
    if faults:
        raise InputError(faults)
    try:
        return tuple(substitute(command, {**args, **arguments}) for command in info.launch_template)
    except ValueError as wrong:
        raise InputError([Fault(place, str(wrong))]) from wrong


def _check_apps(names: Iterable[str], apps: Mapping[str, ImageApp], clusterfile: Clusterfile) -> None:
    faults = []
    for name in dict.fromkeys(names):
        if name not in apps:
            near = difflib.get_close_matches(name, apps, n=1)
            available = f"it has {', '.join(apps)}" if apps else "it has none; cmd: gives launch commands"
            hint = f"did you mean {near[0]}?" if near else available
            faults.append(Fault(f"{clusterfile.path} {name}".strip(), "the image has no such application", hint))
    if faults:
        raise InputError(faults)


def _commands(app: ImageApp, config: AppConfig | None) -> tuple[str, ...]:
    """Return the commands of one application; those of the Clusterfile run in its folder, as those of APPCMDS do."""
    environment = {**app.env, **(config.env if config else {})}
    own = config.commands if config else None
    commands = app.commands if own is None else tuple(f"cd application/apps/{app.name} && {command}" for command in own)
    return tuple(with_environment(command, environment) for command in commands)


def _replaced(commands: tuple[str, ...], before: tuple[str, ...], after: tuple[str, ...]) -> tuple[str, ...]:
    """Replace the commands ``before`` of one application; unchanged when it is not launched."""
    for start in range(len(commands) - len(before) + 1) if before else ():
        if commands[start : start + len(before)] == before:
            return (*commands[:start], *after, *commands[start + len(before) :])
    return commands

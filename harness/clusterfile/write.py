"""Values -> the text of a Clusterfile (slipway.dev/v1), which ``parse`` reads back to equal values. Passwords are never written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from harness.clusterfile import (
    API_VERSION,
    CONTROL_PLANE,
    THIS_MACHINE,
    WORKER,
    AppConfig,
    ApplicationDocument,
    CloudSettings,
    ClusterDocument,
    Clusterfile,
    Config,
    ExternalRegistry,
    Hook,
    Host,
    JumpSettings,
    LocalRegistry,
    Password,
    SshSettings,
    hooks,
    is_redacted,
    secrets,
    serialize,
    validators,
)

_NO_PASSWORDS = (
    "# Passwords are not written here. passwdFile: FILE or passwdEnv: NAME below ssh says where one is (passwordFile and\n"
    "# passwordEnv below a registry); or give it when asked: slipway run --passwd -\n"
)


def generate(
    *,
    image: str,
    images: Sequence[str] = (),
    control_plane: Sequence[str] = (),
    workers: Sequence[str] = (),
    hosts: Sequence[Host] = (),
    name: str = "default",
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    key: str | None = None,
    port: int | None = None,
    jump: JumpSettings | None = None,
    commands: Sequence[str] | None = None,
    pod_cidr: str | None = None,
    svc_cidr: str | None = None,
    cert_sans: Sequence[str] = (),
    registry: ExternalRegistry | LocalRegistry | None = None,
    load_balancing: str = "auto",
    profile: str | None = None,
    kubeadm: Iterable[Mapping[str, Any]] = (),
    needed: Mapping[str, str] | None = None,
) -> str:
    """A Clusterfile for machines by address; ``hosts`` are those with labels, taints, env or an ssh of their own.

    ``needed`` are values that the images lack, by name, with a line about each: they are written as comments at the place of ``env``,
    since text in their place would be taken for a value.

    Nothing is checked here: ``parse`` does, and reads the same values back.
    """
    ssh = SshSettings(user=user, port=port, key=key, jump=jump)
    groups = [Host(tuple(ips), (role,), ssh) for role, ips in ((CONTROL_PLANE, control_plane), (WORKER, workers)) if ips]
    cluster = ClusterDocument(
        name=name,
        image=image,
        images=tuple(images),
        hosts=(*groups, *(dataclasses.replace(host, ssh=host.ssh.over(ssh)) for host in hosts)),
        env=dict(env or {}),
        commands=tuple(commands) if commands else None,
        ssh=ssh,
        pod_cidr=pod_cidr,
        svc_cidr=svc_cidr,
        cert_sans=tuple(cert_sans),
        local_registry=registry if isinstance(registry, LocalRegistry) else None,
        external_registry=registry if isinstance(registry, ExternalRegistry) else None,
        load_balancing=load_balancing,
        profile=profile,
    )
    text = _text(Clusterfile("", cluster=cluster, kubeadm=tuple(kubeadm)), _Values())
    return _NO_PASSWORDS + (_with_needed(text, needed) if needed else text)


def _with_needed(text: str, needed: Mapping[str, str]) -> str:
    """Text of a Clusterfile with a comment for each value that is still to be written: at the head of ``env``, or at its place."""
    words = {name: " ".join("".join(letter if letter.isprintable() else " " for letter in line).split()) for name, line in needed.items()}
    lines = "".join(f"    # {name}: VALUE  # {line}\n" for name, line in words.items())
    if "\n  env:\n" in text:
        return text.replace("\n  env:\n", f"\n  env:\n    # The image needs these as well:\n{lines}", 1)
    lines = lines.replace("    # ", "  #   ")
    return text.replace("\nspec:\n", f"\nspec:\n  # The image needs these values:\n  # env:\n{lines}", 1)


def write(clusterfile: Clusterfile) -> str:
    """The whole Clusterfile as text, without passwords of machines and registries."""
    text = _text(clusterfile, _Values())
    return (_NO_PASSWORDS if _has_passwords(clusterfile) else "") + text


def redacted(clusterfile: Clusterfile) -> str:
    """The Clusterfile as stored in the cluster: without secrets, also in env, Config documents, hooks and commands.

    A fingerprint replaces each, so that ``diff`` still detects changes. ``apply_configs`` and ``environment`` refuse fingerprints.
    """
    return _text(clusterfile, _Values(redact=True, known=secrets.literals(clusterfile)))


def redacted_env(application: ApplicationDocument) -> dict[str, str]:
    """The environment of an application as it is kept."""
    literals = secrets.literals(Clusterfile("", apps=(application,)))
    return _Values(redact=True, known=literals).env(application.env, env_place(owner_of(application)))


@dataclasses.dataclass(frozen=True)
class _Values:
    """Writes values unchanged, or with fingerprints in place of secrets."""

    redact: bool = False
    known: frozenset[str] = frozenset()
    """Secrets that are written down: wherever else they stand, they are secrets too."""

    def env(self, env: Mapping[str, str], place: str) -> dict[str, str]:
        return {name: self._mark(value, f"{place}.{name}") if self._is_secret(name, value) else value for name, value in env.items()}

    def _is_secret(self, name: str, value: str) -> bool:
        return self.redact and (secrets.is_secret(name, value) or any(secret in value for secret in self.known))

    def data(self, data: str | Mapping[str, Any], place: str, *, secret: bool = False) -> str | Mapping[str, Any]:
        text = data_text(data)
        return self._mark(text, place) if self.redact and (secret or secrets.holds_secret(text, self.known)) else data

    def commands(self, commands: Sequence[str], place: str) -> list[str]:
        return [
            self._mark(text, f"{place}[{index}]") if self.redact and secrets.holds_secret(text, self.known) else text
            for index, text in enumerate(commands)
        ]

    def kubeadm(self, document: Mapping[str, Any]) -> Any:
        return secrets.without_keys(document) if self.redact else document

    def _mark(self, value: str, place: str) -> str:
        return secrets.fingerprint(value, place) if self.redact and value and not is_redacted(value) else value


def data_text(data: str | Mapping[str, Any]) -> str:
    """Data as one text, to look into and to compare."""
    return data if isinstance(data, str) else serialize.write_yaml(data)


# The places that marks belong to; ``diff`` uses the same.


def env_place(owner: str) -> str:
    return f"env of {owner}"


def data_place(kind: str, name: str) -> str:
    return f"data of {kind} {name}"


def commands_place(owner: str) -> str:
    return f"commands of {owner}"


def _has_passwords(clusterfile: Clusterfile) -> bool:
    cluster = clusterfile.cluster
    if cluster is None:
        return False
    logins = [cluster.ssh, *(host.ssh for host in cluster.hosts)]
    passwords = [login.password.text or login.passphrase for login in logins]
    passwords += [login.jump.password.text or login.jump.passphrase for login in logins if login.jump]
    passwords += [registry.password.text for registry in (cluster.local_registry, cluster.external_registry) if registry]
    return any(passwords)


# ---- documents --------------------------------------------------------------------------------------------------------


def _text(clusterfile: Clusterfile, keep: _Values) -> str:
    documents: list[Any] = [_cluster(clusterfile.cluster, keep)] if clusterfile.cluster else []
    documents += [_config(config, keep) for config in clusterfile.configs]
    documents += [_hook(hook, keep) for hook in clusterfile.hooks]
    documents += [_application(clusterfile.application, keep)] if clusterfile.application else []
    documents += [_application(app, keep) for app in clusterfile.apps]
    documents += [keep.kubeadm(document) for document in clusterfile.kubeadm]
    return serialize.write_documents(documents)


def _document(kind: str, name: str, spec: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": name}, "spec": dict(spec)}


def _filled(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without what says nothing."""
    return {key: value for key, value in values.items() if value is not None and value not in ("", [], {}, ())}


def _cluster(cluster: ClusterDocument, keep: _Values) -> dict[str, Any]:
    local, external = cluster.local_registry, cluster.external_registry
    registry = {
        "localRegistry": _local(local) if local else None,
        "externalRegistry": _external(external) if external else None,
    }
    commands = keep.commands(cluster.commands, commands_place("Cluster")) if cluster.commands else None
    spec = _filled(
        {
            "image": [cluster.image, *cluster.images] if cluster.images else cluster.image,
            "provider": cluster.provider,
            "cloud": _cloud(cluster.cloud),
            "env": keep.env(cluster.env, env_place("Cluster")),
            "cmd": commands,
            "cmd_args": keep.env(cluster.command_args, env_place("cmd_args")),
            "appNames": _apps(cluster.app_names),
            "ssh": _ssh(cluster.ssh, SshSettings()),
            # In a cluster, this machine is known by its address alone: others read that, too.
            "sshHosts": {address: name for address, name in cluster.ssh_hosts.items() if not keep.redact or name != THIS_MACHINE},
            "hosts": [_host(host, cluster.ssh, keep) for host in cluster.hosts],
            "network": _filled({"podCIDR": cluster.pod_cidr, "svcCIDR": cluster.svc_cidr}),
            "certSANS": list(cluster.cert_sans),
            "containerRuntime": _filled({"type": cluster.container_runtime}),
            "hostAliases": [{"ip": alias.ip, "hostnames": list(alias.hostnames)} for alias in cluster.host_aliases],
            "dataRoot": cluster.data_root,
            "loadBalancing": cluster.load_balancing if cluster.load_balancing != "auto" else None,
            "profile": cluster.profile,
        }
    )
    if cluster.certificate_validity:
        spec["certificates"] = {"validity": validators.duration_text(cluster.certificate_validity)}
    if local or external:
        spec["registry"] = {key: value for key, value in registry.items() if value is not None}
    return _document("Cluster", cluster.name, spec)


def _cloud(cloud: CloudSettings) -> dict[str, Any]:
    return _filled(
        {
            "size": cloud.size,
            "image": cloud.image,
            "subnet": cloud.subnet,
            "securityGroups": list(cloud.security_groups),
            "public": cloud.public or None,
        }
    )


def _apps(names: tuple[str, ...] | None) -> list[str] | None:
    return None if names is None else list(names) or [""]


def _password(password: Password, prefix: str) -> dict[str, Any]:
    return _filled({f"{prefix}File": password.file, f"{prefix}Env": password.variable})


def _ssh(ssh: SshSettings, default: SshSettings) -> dict[str, Any]:
    """Settings that differ from the cluster's."""
    own = {"user": ssh.user, "port": ssh.port, "pk": ssh.key}
    inherited = {"user": default.user, "port": default.port, "pk": default.key}
    settings = _filled({key: value for key, value in own.items() if value != inherited[key]})
    if ssh.password != default.password:
        settings |= _password(ssh.password, "passwd")
    if ssh.jump and ssh.jump != default.jump:
        settings["jump"] = _jump(ssh.jump)
    return settings


def _jump(jump: JumpSettings) -> dict[str, Any]:
    return _filled({"host": jump.host, "user": jump.user, "port": jump.port, "pk": jump.key, **_password(jump.password, "passwd")})


def _host(host: Host, default: SshSettings, keep: _Values) -> dict[str, Any]:
    document = _filled(
        {
            "ips": list(host.ips),
            "count": host.count,
            "ssh": _ssh(host.ssh, default),
            "env": keep.env(host.env, env_place("hosts")),
            "labels": dict(host.labels),
            "taints": [str(taint) for taint in host.taints],
        }
    )
    return {**{key: document.pop(key) for key in ("ips", "count") if key in document}, "roles": list(host.roles), **document}


def _local(registry: LocalRegistry) -> dict[str, Any]:
    names = _filled({"dnsNames": list(registry.dns_names), "ips": list(registry.ips)})
    return _filled(
        {
            "domain": registry.domain,
            "port": registry.port,
            "username": registry.username,
            **_password(registry.password, "password"),
            "ha": None if registry.ha else False,
            "insecure": registry.insecure or None,
            "cert": {"subjectAltName": names} if names else None,
        }
    )


def _external(registry: ExternalRegistry) -> dict[str, Any]:
    return _filled(
        {
            "domain": registry.domain,
            "port": registry.port,
            "path": registry.path,
            "username": registry.username,
            **_password(registry.password, "password"),
            "plainHttp": registry.plain_http or None,
            "ca": registry.ca,
        }
    )


def _config(config: Config, keep: _Values) -> dict[str, Any]:
    spec = _filled(
        {
            "path": config.path,
            "strategy": config.strategy if config.strategy != "overwrite" else None,
            "process": "|".join(config.process),
            "appName": config.app,
        }
    )
    data = keep.data(config.data, data_place("Config", config.name), secret="toSecret" in config.process)
    return _document("Config", config.name, {**spec, "data": data})


def _hook(hook: Hook, keep: _Values) -> dict[str, Any]:
    on = [hook.output] if hook.output else [hooks.ALL] if hooks.needs_all(hook) else [str(selector) for selector in hook.on]
    data = keep.data(hook.data, data_place("Hook", hook.name)) if hook.data else None
    spec = {"type": hook.type, "phases": [phase.value for phase in hook.phases], "on": on, "data": data}
    return _document("Hook", hook.name, _filled(spec))


def _application(application: ApplicationDocument, keep: _Values) -> dict[str, Any]:
    owner = owner_of(application)
    commands = keep.commands(application.commands, commands_place(owner)) if application.commands else None
    spec = _filled(
        {
            "image": application.image,
            "env": keep.env(application.env, env_place(owner)),
            "cmds": commands,
            "launchApps": _apps(application.launch),
            "configs": [_app_config(config, owner, keep) for config in application.configs],
        }
    )
    return _document("Application", application.name, spec)


def owner_of(application: ApplicationDocument) -> str:
    """Owner of the fingerprints of a document Application; of one application in it: ``<owner> <name>``."""
    return "Application" if application.image is None else f"Application with image {application.name}"


def _app_config(config: AppConfig, owner: str, keep: _Values) -> dict[str, Any]:
    files = [
        {
            "path": file.path,
            **({"strategy": file.strategy} if file.strategy != "overwrite" else {}),
            "data": keep.data(file.data, data_place(f"{owner} {config.name}", file.path)),
        }
        for file in config.files
    ]
    commands = keep.commands(config.commands, commands_place(f"{owner} {config.name}")) if config.commands else None
    env = keep.env(config.env, env_place(f"{owner} {config.name}"))
    launch = {"cmds": commands} if commands else None
    return _filled({"name": config.name, "env": env, "files": files, "launch": launch})

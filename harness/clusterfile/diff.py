"""Differences between two Clusterfiles, one of which may be redacted: readable changes by path."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from harness.clusterfile import AppConfig, ApplicationDocument, Clusterfile, Host, is_redacted, serialize, validators
from harness.clusterfile.kubeadm import merge_kubeadm
from harness.clusterfile.secrets import is_secret, same_secret, without_keys
from harness.clusterfile.write import commands_place, data_place, data_text, env_place, owner_of

ADDED, REMOVED, CHANGED = "added", "removed", "changed"
_SIGNS = {ADDED: "+", REMOVED: "-", CHANGED: "~"}


@dataclasses.dataclass(frozen=True)
class ClusterfileChange:
    """One difference. ``before`` and ``after`` are None for a missing value and for a secret one."""

    subject: str
    """image, env, host, network, registry, launch, certificates, config, hook, application, app, kubeadm, setting or name."""
    name: str
    """The address of the host; the name of the document, of the environment value; the kind of a kubeadm document; else empty."""
    path: str
    action: str
    """added, removed or changed."""
    before: str | None = None
    after: str | None = None

    def __str__(self) -> str:
        if self.action == CHANGED and (self.before is not None or self.after is not None):
            return f"~ {self.path}: {self.before or 'nothing'} -> {self.after or 'nothing'}"
        shown = self.after if self.action == ADDED else self.before
        return f"{_SIGNS[self.action]} {self.path}{f': {shown}' if shown else ''}"


@dataclasses.dataclass(frozen=True)
class _Value:
    """A comparable value. ``place``: salt of its fingerprint; ``hidden``: never shown."""

    text: str
    place: str = ""
    hidden: bool = False


@dataclasses.dataclass(frozen=True)
class _Thing:
    """A unit that is added or removed as a whole (a host, a document), or with an empty title the settings of the cluster, one by one."""

    subject: str
    name: str
    path: str
    title: str
    values: Mapping[str, _Value]


def difference(old: Clusterfile, new: Clusterfile) -> tuple[ClusterfileChange, ...]:
    """The changes from ``old`` to ``new``, in the order of the document; empty when both ask for the same.

    The way into machines (ssh) is not part of it: it changes nothing in the cluster.
    """
    before, after = _by_name(_things(old)), _by_name(_things(new))
    changes: list[ClusterfileChange] = []
    for key in dict.fromkeys([*before, *after]):
        former, current = before.get(key), after.get(key)
        if former is not None and current is not None:
            changes += _changed(former, current)
        elif current is not None:
            changes += (
                [ClusterfileChange(current.subject, current.name, current.path, ADDED, None, current.title or None)]
                if current.title
                else _settings(current, ADDED)
            )
        elif former is not None:
            changes += (
                [ClusterfileChange(former.subject, former.name, former.path, REMOVED, former.title, None)]
                if former.title
                else _settings(former, REMOVED)
            )
    return tuple(changes)


def without_secrets(changes: Iterable[ClusterfileChange], names: Iterable[str]) -> tuple[ClusterfileChange, ...]:
    """The changes, where values of environments with these names are not shown: only an image knows all of its secrets."""
    ends = tuple(f".env.{name}" for name in names)
    return tuple(dataclasses.replace(change, before=None, after=None) if change.path.endswith(ends) else change for change in changes)


def _by_name(things: Iterable[_Thing]) -> dict[tuple[str, str, int], _Thing]:
    """Index by name; things of one name (hooks may share it) are numbered in order."""
    by_key: dict[tuple[str, str, int], _Thing] = {}
    for thing in things:
        count = sum(1 for subject, name, _ in by_key if (subject, name) == (thing.subject, thing.name))
        by_key[thing.subject, thing.name, count] = thing
    return by_key


def _settings(thing: _Thing, action: str) -> list[ClusterfileChange]:
    return [
        _change(thing, key, value if action == REMOVED else None, value if action == ADDED else None) for key, value in thing.values.items()
    ]


def _changed(one: _Thing, two: _Thing) -> list[ClusterfileChange]:
    changes = []
    for key in dict.fromkeys([*one.values, *two.values]):
        before, after = one.values.get(key), two.values.get(key)
        if before is not None and after is not None and same_secret(before.text, after.text, after.place):
            continue
        changes.append(_change(two, key, before, after))
    return changes


def _change(thing: _Thing, key: str, before: _Value | None, after: _Value | None) -> ClusterfileChange:
    action = ADDED if before is None else REMOVED if after is None else CHANGED
    hidden = any(value is not None and (value.hidden or is_redacted(value.text)) for value in (before, after))
    shown = [None if value is None or hidden else value.text for value in (before, after)]
    return ClusterfileChange(thing.subject, thing.name, f"{thing.path}{key}", action, *shown)


# ---- what there is ----------------------------------------------------------------------------------------------------


def _things(clusterfile: Clusterfile) -> Iterator[_Thing]:
    yield from _cluster(clusterfile)
    for config in clusterfile.configs:
        values = {
            ".strategy": _Value(config.strategy),
            ".process": _Value("|".join(config.process)),
            ".data": _Value(data_text(config.data), data_place("Config", config.name), hidden=True),
        }
        name = f"{config.name} {config.target}"
        yield _Thing("config", name, f"Config {config.name}", config.target, {".target": _Value(config.target), **values})
    for hook in clusterfile.hooks:
        phases = ", ".join(phase.value for phase in hook.phases)
        values = {
            ".type": _Value(hook.type),
            ".phases": _Value(phases),
            ".on": _Value(hook.output or " or ".join(map(str, hook.on)) or "all"),
            ".data": _Value(hook.data, data_place("Hook", hook.name), hidden=True),
        }
        yield _Thing("hook", hook.name, f"Hook {hook.name}", phases, values)
    if clusterfile.application is not None:
        yield from _application(clusterfile.application)
    for app in clusterfile.apps:
        yield _app(app)
    for document in merge_kubeadm((), (), clusterfile.kubeadm):
        kind = document["kind"]
        yield _Thing("kubeadm", kind, kind, "", {path: _Value(text) for path, text in _leaves(without_keys(document), "")})


def _cluster(clusterfile: Clusterfile) -> Iterator[_Thing]:
    cluster = clusterfile.cluster
    if cluster is None:
        return
    spec = ".spec"
    yield _setting("name", ".metadata.name", cluster.name)
    yield _setting("image", f"{spec}.image", ", ".join((cluster.image, *cluster.images)))
    for name, value in cluster.env.items():
        yield _env("env", name, f"{spec}.env.{name}", value, "Cluster")
    for name, value in cluster.command_args.items():
        yield _env("launch", f"cmd_args {name}", f"{spec}.cmd_args.{name}", value, "cmd_args", key=name)
    for index, command in enumerate(cluster.commands or ()):
        place = f"{commands_place('Cluster')}[{index}]"
        yield _Thing("launch", f"cmd {index}", f"{spec}.cmd[{index}]", "", {"": _Value(command, place, hidden=True)})
    texts = {
        ("launch", "appNames"): None if cluster.app_names is None else ", ".join(cluster.app_names) or "none",
        ("setting", "provider"): cluster.provider,
        ("network", "network.podCIDR"): cluster.pod_cidr,
        ("network", "network.svcCIDR"): cluster.svc_cidr,
        ("certificates", "certSANS"): ", ".join(cluster.cert_sans),
        ("setting", "containerRuntime.type"): cluster.container_runtime,
        ("setting", "dataRoot"): cluster.data_root,
        ("setting", "loadBalancing"): cluster.load_balancing,
        ("setting", "profile"): cluster.profile,
        ("certificates", "certificates.validity"): cluster.certificate_validity and validators.duration_text(cluster.certificate_validity),
    }
    for (subject, key), text in texts.items():
        if text:
            yield _setting(subject, f"{spec}.{key}", text)
    for alias in cluster.host_aliases:
        yield _setting("setting", f"{spec}.hostAliases[{alias.ip}]", ", ".join(alias.hostnames), alias.ip)
    for kind, registry in (("localRegistry", cluster.local_registry), ("externalRegistry", cluster.external_registry)):
        if registry is not None:
            values = {f".{key}": _Value(str(value)) for key, value in dataclasses.asdict(registry).items() if key != "password" and value}
            yield _Thing("registry", kind, f"{spec}.registry.{kind}", registry.domain or "of the cluster", values)
    for host in cluster.hosts:
        yield from _hosts(host)


def _hosts(host: Host) -> Iterator[_Thing]:
    values = {
        ".roles": _Value(", ".join(host.roles)),
        **{f".labels.{key}": _Value(value) for key, value in host.labels.items()},
        ".taints": _Value(", ".join(map(str, host.taints))),
    }
    env = {f".env.{name}": _env_value(name, value, "hosts") for name, value in host.env.items()}
    for address in host.ips:
        yield _Thing("host", address, f".spec.hosts[{address}]", host.roles[0], {**values, **env})
    if not host.ips:
        yield _setting("host", f".spec.hosts[{host.roles[0]}].count", str(host.count or 0), host.roles[0])


def _application(application: ApplicationDocument) -> Iterator[_Thing]:
    for index, command in enumerate(application.commands or ()):
        value = _Value(command, f"{commands_place('Application')}[{index}]", hidden=True)
        yield _Thing("application", f"cmds {index}", f"Application .spec.cmds[{index}]", "", {"": value})
    if application.launch is not None:
        yield _setting("application", "Application .spec.launchApps", ", ".join(application.launch) or "none", "launchApps")
    for config in application.configs:
        owner = f"Application {config.name}"
        yield _Thing("application", config.name, owner, config.name, _app_config(config, owner))


def _app(app: ApplicationDocument) -> _Thing:
    """An application with an image of its own comes and goes as a whole."""
    owner = owner_of(app)
    values = {".spec.image": _Value(app.image or "")}
    values |= {f".spec.env.{name}": _env_value(name, value, owner) for name, value in app.env.items()}
    for index, command in enumerate(app.commands or ()):
        values[f".spec.cmds[{index}]"] = _Value(command, f"{commands_place(owner)}[{index}]", hidden=True)
    if app.launch is not None:
        values[".spec.launchApps"] = _Value(", ".join(app.launch) or "none")
    for config in app.configs:
        app_values = _app_config(config, f"{owner} {config.name}")
        values |= {f".spec.configs[{config.name}]{path}": value for path, value in app_values.items()}
    return _Thing("app", app.name, f"Application {app.name}", app.image or app.name, values)


def _app_config(config: AppConfig, owner: str) -> dict[str, _Value]:
    values = {f".env.{name}": _env_value(name, value, owner) for name, value in config.env.items()}
    for file in config.files:
        place = data_place(owner, file.path)
        values[f".files[{file.path}]"] = _Value(data_text(file.data), place, hidden=True)
        values[f".files[{file.path}].strategy"] = _Value(file.strategy)
    for index, command in enumerate(config.commands or ()):
        values[f".launch.cmds[{index}]"] = _Value(command, f"{commands_place(owner)}[{index}]", hidden=True)
    return values


def _setting(subject: str, path: str, text: str, name: str = "") -> _Thing:
    return _Thing(subject, name or path.rpartition(".")[2], path, "", {"": _Value(text)})


def _env(subject: str, name: str, path: str, value: str, owner: str, *, key: str | None = None) -> _Thing:
    return _Thing(subject, name, path, "", {"": _env_value(key or name, value, owner)})


def _env_value(name: str, value: str, owner: str) -> _Value:
    return _Value(value, f"{env_place(owner)}.{name}", hidden=is_secret(name, value))


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    else:
        yield path, value if isinstance(value, str) else serialize.compact_json(value)

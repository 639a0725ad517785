"""Secrets that the record of a cluster does not have: an upgrade asks for those that the new image uses."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.clusterfile import Clusterfile, Phase, is_redacted
from harness.clusterfile.write import data_text
from harness.errors import Fault

_GIVE = "-e {name}=VALUE, or the whole Clusterfile: -f"
_FILE = "give the Clusterfile: -f"
_LARGEST = 1 << 20
"""Bytes. A larger file of a rootfs is not text that a person wrote."""
_PROGRAMS = ("bin", "lib")

PLACEHOLDERS = ("slipway-lost-a", "slipway-lost-b")
"""Values in place of one that was not kept: files that differ between both are made with it."""

PHASES = frozenset(
    {
        Phase.PRE_UPGRADE,
        Phase.UPGRADE_HOST,
        Phase.UPGRADE,
        Phase.ROLLBACK,
        Phase.POST_UPGRADE,
        Phase.PRE_LAUNCH,
        Phase.POST_LAUNCH,
    }
)
"""Phases of the hooks that an upgrade or a rollback runs."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """A recorded Clusterfile before an upgrade."""

    whole: Clusterfile
    """With its redacted values: what is recorded again."""
    usable: Clusterfile
    """Without its redacted values."""
    lost: frozenset[str]
    """Names of environment values that are redacted."""
    faults: tuple[Fault, ...]
    """Redacted values that no ``-e`` can replace."""


def kept(recorded: Clusterfile, env: Mapping[str, str]) -> Kept:
    """Replace the values of a recorded Clusterfile that ``env`` names, and add all of ``env`` to the cluster."""
    whole = with_values(recorded, env)
    if whole.cluster is not None:
        whole = dataclasses.replace(whole, cluster=dataclasses.replace(whole.cluster, env={**whole.cluster.env, **env}))
    lost: set[str] = set()

    def note(values: Mapping[str, str]) -> Mapping[str, str]:
        lost.update(name for name, value in values.items() if is_redacted(value))
        return values

    with_environments(whole, note)
    return Kept(whole, without_redacted(whole), frozenset(lost), tuple(_faults(whole)))


def with_environments(clusterfile: Clusterfile, change: Callable[[Mapping[str, str]], Mapping[str, str]]) -> Clusterfile:
    """Change each environment of a Clusterfile: of the cluster, of its hosts, and of single applications."""
    cluster, application = clusterfile.cluster, clusterfile.application
    if cluster is not None:
        hosts = tuple(dataclasses.replace(host, env=change(host.env)) for host in cluster.hosts)
        cluster = dataclasses.replace(cluster, env=change(cluster.env), hosts=hosts)
    if application is not None:
        configs = tuple(dataclasses.replace(config, env=change(config.env)) for config in application.configs)
        application = dataclasses.replace(application, configs=configs)
    return dataclasses.replace(clusterfile, cluster=cluster, application=application)


def with_values(clusterfile: Clusterfile, env: Mapping[str, str]) -> Clusterfile:
    """Replace the environment values that ``env`` names."""
    return with_environments(clusterfile, lambda values: {name: env.get(name, value) for name, value in values.items()})


def without_redacted(clusterfile: Clusterfile, placeholder: str | None = None) -> Clusterfile:
    """Remove what is redacted: environment values, files, hooks and launch commands. ``placeholder`` stands in for environment values."""

    def known(values: Mapping[str, str]) -> dict[str, str]:
        replaced = {name: placeholder if is_redacted(value) else value for name, value in values.items()}
        return {name: value for name, value in replaced.items() if value is not None}

    usable = with_environments(clusterfile, known)
    cluster, application = usable.cluster, usable.application
    if cluster is not None and cluster.commands is not None:
        commands = tuple(command for command in cluster.commands if not is_redacted(command))
        cluster = dataclasses.replace(cluster, commands=commands)
    if application is not None:
        configs = tuple(
            dataclasses.replace(config, files=tuple(file for file in config.files if not is_redacted(file.data)))
            for config in application.configs
        )
        application = dataclasses.replace(application, configs=configs)
    files = tuple(config for config in usable.configs if not config.redacted)
    hooks = tuple(hook for hook in usable.hooks if not hook.redacted)
    return dataclasses.replace(usable, cluster=cluster, application=application, configs=files, hooks=hooks)


def _faults(clusterfile: Clusterfile) -> Iterator[Fault]:
    for file in clusterfile.files:
        if file.redacted:
            yield Fault(f"Config {file.name}", "its data was not kept, since it may hold a secret", _FILE)
    for hook in clusterfile.hooks:
        if hook.redacted and PHASES & set(hook.phases):
            yield Fault(f"Hook {hook.name}", "its data was not kept, since it may hold a secret", _FILE)
    application = clusterfile.application
    texts = [clusterfile.commands, *(config.commands for config in (application.configs if application else ()))]
    if any(is_redacted(command) for commands in texts for command in commands or ()):
        yield Fault("launch commands", "they were not kept, since they may hold a secret", _FILE)


def mentioned(names: Collection[str], tree: Path, clusterfile: Clusterfile, texts: Iterable[str]) -> tuple[Fault, ...]:
    """Return a fault for each of ``names`` that the rootfs ``tree``, the Clusterfile or ``texts`` (launch commands) use."""
    if not names:
        return ()
    pattern = re.compile(rb"\b(?:" + b"|".join(re.escape(name.encode()) for name in sorted(names)) + rb")\b")
    where: dict[str, str] = {}
    for place, data in (*_of_clusterfile(clusterfile, texts), *_of_tree(tree)):
        for name in pattern.findall(data):
            where.setdefault(name.decode(), place)
    message = "the cluster did not keep it, since it is secret, and {place} has to do with it"
    return tuple(Fault(f"-e {name}", message.format(place=place), _GIVE.format(name=name)) for name, place in sorted(where.items()))


def _of_clusterfile(clusterfile: Clusterfile, texts: Iterable[str]) -> list[tuple[str, bytes]]:
    configs = [(f"Config {file.name}", data_text(file.data)) for file in clusterfile.files]
    hooks = [(f"Hook {hook.name}", hook.data) for hook in clusterfile.hooks if PHASES & set(hook.phases)]
    return [(place, text.encode()) for place, text in (*configs, *hooks, *(("a launch command", text) for text in texts))]


def _of_tree(tree: Path) -> Iterator[tuple[str, bytes]]:
    for folder, folders, files in os.walk(tree):
        if Path(folder) == tree:
            folders[:] = [name for name in folders if name not in _PROGRAMS]
        for path in _texts(Path(folder), files):
            yield path.relative_to(tree).as_posix(), path.read_bytes()


def _texts(folder: Path, names: Sequence[str]) -> Iterator[Path]:
    for name in sorted(names):
        path = folder / name
        if not path.is_symlink() and path.is_file() and path.stat().st_size <= _LARGEST:
            yield path

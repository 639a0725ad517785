"""What a cluster kept about itself, for an image that takes the place of another one: secrets were not kept, and must be given again
where the image has to do with them.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.clusterfile import Clusterfile, Phase, is_redacted
from harness.clusterfile.write import data_text
from harness.errors import Fault

_GIVE = "-e {name}=VALUE, or the whole Clusterfile: -f"
_FILE = "give the Clusterfile: -f"
_LARGEST = 1 << 20
"""Bytes of a file from which on it is no text that anybody wrote."""
_PROGRAMS = ("bin", "lib")

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
"""Hooks of these run when a cluster goes to another image."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What was asked for, as far as it is known."""

    whole: Clusterfile
    """With marks in the place of what is not known: what is recorded again."""
    usable: Clusterfile
    """Without what is not known."""
    lost: frozenset[str]
    """Names of environment values that are not known."""
    faults: tuple[Fault, ...]
    """What is not known and no ``-e`` can give."""


def kept(found: Clusterfile, env: Mapping[str, str]) -> Kept:
    """A recorded Clusterfile with the values of ``env``: where it names them already, and for the cluster."""
    cluster, application = found.cluster, found.application

    def given(values: Mapping[str, str]) -> dict[str, str]:
        return {name: env.get(name, value) for name, value in values.items()}

    if cluster is not None:
        hosts = tuple(dataclasses.replace(host, env=given(host.env)) for host in cluster.hosts)
        cluster = dataclasses.replace(cluster, env={**cluster.env, **env}, hosts=hosts)
    if application is not None:
        application = dataclasses.replace(
            application, configs=tuple(dataclasses.replace(config, env=given(config.env)) for config in application.configs)
        )
    whole = dataclasses.replace(found, cluster=cluster, application=application)
    return Kept(whole, _usable(whole), frozenset(_lost(whole)), tuple(_faults(whole)))


def _environments(found: Clusterfile) -> Iterator[Mapping[str, str]]:
    if found.cluster is not None:
        yield found.cluster.env
        yield from (host.env for host in found.cluster.hosts)
    if found.application is not None:
        yield from (config.env for config in found.application.configs)


def _lost(found: Clusterfile) -> set[str]:
    return {name for env in _environments(found) for name, value in env.items() if is_redacted(value)}


def _usable(found: Clusterfile) -> Clusterfile:
    def known(values: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in values.items() if not is_redacted(value)}

    cluster, application = found.cluster, found.application
    if cluster is not None:
        hosts = tuple(dataclasses.replace(host, env=known(host.env)) for host in cluster.hosts)
        cluster = dataclasses.replace(cluster, env=known(cluster.env), hosts=hosts)
    if application is not None:
        application = dataclasses.replace(
            application, configs=tuple(dataclasses.replace(config, env=known(config.env)) for config in application.configs)
        )
    hooks = tuple(hook for hook in found.hooks if not hook.redacted)
    return dataclasses.replace(found, cluster=cluster, application=application, hooks=hooks)


def _faults(found: Clusterfile) -> Iterator[Fault]:
    for file in found.files:
        if file.redacted:
            yield Fault(f"Config {file.name}", "its data was not kept, since it may hold a secret", _FILE)
    for hook in found.hooks:
        if hook.redacted and PHASES & set(hook.phases):
            yield Fault(f"Hook {hook.name}", "its data was not kept, since it may hold a secret", _FILE)
    application = found.application
    texts = [found.commands, *(config.commands for config in (application.configs if application else ()))]
    if any(is_redacted(command) for commands in texts for command in commands or ()):
        yield Fault("launch commands", "they were not kept, since they may hold a secret", _FILE)


def mentioned(names: Collection[str], tree: Path, found: Clusterfile, texts: Iterable[str]) -> tuple[Fault, ...]:
    """Of values that are not known those that the image, the Clusterfile or ``texts`` (launch commands) have to do with."""
    if not names:
        return ()
    pattern = re.compile(rb"\b(?:" + b"|".join(re.escape(name.encode()) for name in sorted(names)) + rb")\b")
    where: dict[str, str] = {}
    for place, data in (*_own(found, texts), *_of_tree(tree)):
        for name in pattern.findall(data):
            where.setdefault(name.decode(), place)
    message = "the cluster did not keep it, since it is secret, and {place} has to do with it"
    return tuple(Fault(f"-e {name}", message.format(place=place), _GIVE.format(name=name)) for name, place in sorted(where.items()))


def _own(found: Clusterfile, texts: Iterable[str]) -> list[tuple[str, bytes]]:
    configs = [(f"Config {file.name}", data_text(file.data)) for file in found.files]
    hooks = [(f"Hook {hook.name}", hook.data) for hook in found.hooks if PHASES & set(hook.phases)]
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

"""Words that the shell offers: images, clusters, checks and values. It never fails: without words the shell offers files."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator


def _matching(words: Callable[[], Iterable[str]], incomplete: str) -> list[str]:
    with contextlib.suppress(Exception):
        return [word for word in words() if word.startswith(incomplete)]
    return []


def images(incomplete: str) -> list[str]:
    """Names of the local store."""
    from harness.oci.graph import attached_to
    from harness.oci.store import Store

    return _matching(lambda: (name for name in Store.default().names() if attached_to(name) is None), incomplete)


def clusters(incomplete: str) -> list[str]:
    """Clusters that are known on this machine."""
    from harness.host import cluster_cache

    return _matching(lambda: (state.name for state in cluster_cache.known()), incomplete)


def nodes(incomplete: str) -> list[str]:
    """Names of nodes, else addresses, of clusters that are known on this machine."""
    return _matching(_nodes, incomplete)


def _nodes() -> Iterator[str]:
    from harness.host import cluster_cache

    for facts in (state.read() for state in cluster_cache.known()):
        yield from (str(entry.get("name") or entry["address"]) for kind in ("controlPlane", "workers") for entry in facts.get(kind) or ())


def clusters_and_images(incomplete: str) -> list[str]:
    return [*clusters(incomplete), *images(incomplete)]


def applications(incomplete: str) -> list[str]:
    """Names of application images, without their tags: the names that they have in clusters by default."""
    return list(dict.fromkeys(name.rpartition("/")[2].partition(":")[0] for name in images(incomplete)))


def checks(incomplete: str) -> list[str]:
    """Ids of preflight and health checks; behind a comma, another one."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{word}" for word in _matching(_checks, last)]


def _checks() -> Iterator[str]:
    from harness.lifecycle.checks import postflight, preflight

    yield from dict.fromkeys((*preflight.CHECKS, *postflight.CHECKS))


def profiles(incomplete: str) -> list[str]:
    """Profiles that harden a cluster."""
    from harness.clusterfile import PROFILES

    return _matching(lambda: PROFILES, incomplete)


def values(*choices: str) -> Callable[[str], list[str]]:
    """A completion by one of some values."""
    return lambda incomplete: _matching(lambda: choices, incomplete)

"""``slipway certs rotate-secrets``: another key for the Secrets in etcd, and every Secret written anew with it.

Every API server must know the new key before any of them uses it, and the old one until nothing is stored with it any more. What a
control-plane node has says how far it is, so the same call after a kill or a failure goes on where that ended.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from harness import assets
from harness.clusterfile import CONTROL_PLANE
from harness.errors import StoreError, UsageError
from harness.host import cluster_cache
from harness.lifecycle.cluster import access, certificates, lease, owner, record
from harness.lifecycle.plan import Step, execute
from harness.nodes import LONG_TIMEOUT, Machine, Node, each
from harness.nodes.files import STATE, NodeFile, read_files, write_files
from harness.nodes.ssh import SshNode
from harness.runtimes import ROOTFS, encryption, static_pods
from harness.runtimes.encryption import SecretsKey
from harness.runtimes.kubeconfig import ADMIN
from harness.runtimes.pki import ENCRYPTION, FOLDER

PATH = f"{FOLDER}/{ENCRYPTION}"
Keys = tuple[SecretsKey, ...]
"""Of one control-plane node: the first encrypts."""

# The list comes first, and whole: were it cut off, the old key would go while Secrets still need it. One that somebody changes meanwhile
# is written by that, and tried again.
_REWRITE = assets.script("rewrite_secrets", admin=ADMIN, rootfs=ROOTFS, state=STATE)


@dataclasses.dataclass(frozen=True)
class Rotated:
    """The outcome of a rotation."""

    name: str
    key: str
    """The name of the key that Secrets are encrypted with now."""
    secrets: int
    """Written anew."""
    control_plane: tuple[str, ...]


def rotate(
    name: str = cluster_cache.DEFAULT_NAME,
    control_plane: Sequence[Machine] = (),
    workers: Sequence[Machine] = (),
    *,
    home: Path | None = None,
) -> Rotated:
    """Encrypt the Secrets of a cluster with a new key. One control-plane node after the other restarts its API server, three times.

    Raises UsageError for a cluster that encrypts none or has control-plane nodes that are not known here, NodeError when one does not
    answer, StoreError for keys that do not fit.
    """
    known_cluster = access.known(name, control_plane, workers, home=home)
    with access.opened(known_cluster, workers=False) as opened:
        cluster = owner.own(opened)
        certificates.require_control_plane(cluster)
        require_known(record.read(cluster.kubectl).addresses(CONTROL_PLANE), [machine.address for machine in known_cluster.control_plane])
        with known_cluster.state.lock(), lease.held(cluster.first, name):
            before = read(cluster.control_plane)
            old, new = pair(before)
            written: list[str] = []
            execute(_plan(cluster.control_plane, old, new, written))
    return Rotated(name, new.name, len(written), tuple(node.name for node in cluster.control_plane))


def require_known(control_plane: Collection[str], addresses: Collection[str]) -> None:
    """Raises UsageError when the cluster has control-plane nodes that are not known here: one that is left out could not read a Secret."""
    unknown = sorted(set(control_plane) - set(addresses))
    if unknown:
        raise UsageError(
            f"{', '.join(unknown)} is a control-plane node of the cluster, and not known here",
            hint=f"name all of its control-plane nodes: --via {','.join(sorted({*addresses, *unknown}))}",
        )


def read(control_plane: Sequence[Node]) -> dict[str, Keys]:
    """The keys of each control-plane node, by address. Raises UsageError when one has none."""
    files = each(control_plane, lambda node: read_files(node, [PATH]).get(PATH))
    without = [node.name for node, data in zip(control_plane, files, strict=True) if data is None]
    if without:
        raise UsageError(f"{', '.join(without)}: no key of Secrets is there", hint="a cluster has one that was made with --profile cis")
    return {node.address: encryption.keys(data or b"", f"{node.name}: {PATH}") for node, data in zip(control_plane, files, strict=True)}


def pair(before: Mapping[str, Keys]) -> tuple[SecretsKey, SecretsKey]:
    """The key that goes and the one that comes: a new one, or that of a rotation which was cut off. Raises StoreError for others."""
    all_keys = {key for keys in before.values() for key in keys}
    numbers = sorted(key.number for key in all_keys)
    if len(set(numbers)) != len(numbers) or not 1 <= len(all_keys) <= 2:
        raise StoreError("the control-plane nodes have keys of Secrets that do not fit together", hint="restore them from a backup")
    oldest, *newer = sorted(all_keys, key=lambda key: key.number)
    return oldest, (newer[0] if newer else SecretsKey.make(oldest.number + 1))


def _plan(control_plane: Sequence[SshNode], old: SecretsKey, new: SecretsKey, written: list[str]) -> list[Step]:
    stages: tuple[tuple[str, str, Callable[[Keys], Keys]], ...] = (
        ("know", "tell {} of the new key", lambda keys: keys if new in keys else (old, new)),
        ("use", "have {} use it", lambda keys: keys if keys[0] == new else (new, old)),
        ("drop", "take the old key from {}", lambda _: (new,)),
    )
    recipe: list[Step] = []

    def after() -> tuple[str, ...]:
        return (recipe[-1].id,) if recipe else ()

    for stage, title, change in stages:
        if stage == "drop":
            recipe.append(Step("write-secrets", "rewrite the Secrets", lambda: rewrite(control_plane[0], written), after_all=after()))
        for number, control_plane_node in enumerate(control_plane, 1):

            def action(node: Node, change: Callable[[Keys], Keys] = change) -> None:
                give(node, change(read([node])[node.address]), others=len(control_plane) > 1)

            recipe.append(
                Step(f"{stage}-{number}", title.format(control_plane_node.name), action, (control_plane_node,), after_all=after())
            )
    return recipe


def give(node: Node, keys: Keys, *, others: bool) -> None:
    """Have the API server of a control-plane node use these keys. Where it has been started with them, nothing happens."""
    write_files(node, {PATH: NodeFile(encryption.configuration(keys), 0o600)})
    static_pods.restart(node, ("kube-apiserver",), reason=f"keys of Secrets: {' '.join(key.name for key in keys)}", others=others)


def rewrite(node: Node, written: list[str]) -> str:
    """Write every Secret anew; their data stays on the machine."""
    written += node.run(_REWRITE, timeout=2 * LONG_TIMEOUT).stdout.split()
    return f"{len(written)} Secrets"

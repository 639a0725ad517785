"""``slipway rollback``: the image that a cluster ran before comes back, also in the middle of an upgrade that went wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import log
from harness.errors import CheckError, StoreError
from harness.lifecycle import upgrade
from harness.lifecycle.cluster import change, membership
from harness.lifecycle.cluster.change import ROLLBACK, RUNNING, Move
from harness.lifecycle.cluster.membership import Gathered
from harness.lifecycle.kube import drain, etcd
from harness.lifecycle.rollout import BACKUP, RolloutWork
from harness.lifecycle.steps import registries
from harness.lifecycle.upgrade import RolloutOptions
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from harness.oci.store import Store
from harness.runtimes import static_pods


@contextmanager
def prepared(
    name: str, options: RolloutOptions | None = None, *, store: Store | None = None, home: Path | None = None, mend: bool = True
) -> Iterator[RolloutWork]:
    """See where the cluster came from, and make up the way back: its Kubernetes, its files, its applications.

    Nothing is touched where an API answers. Where none does, and an upgrade was cut off while a node changed, ``mend`` has that
    node run what it ran before. Raises CheckError when there was no upgrade, or etcd has changed its data since; StoreError when the
    image is not in the store here.
    """
    options = options or RolloutOptions()
    with ExitStack() as stack:
        with log.step("read what the cluster keeps about itself"):
            try:
                cluster = stack.enter_context(membership.gathered(name, via=options.via, password=options.password, home=home))
            except CheckError:
                if not mend or not _mended(name, options, home):
                    raise
                cluster = stack.enter_context(membership.gathered(name, via=options.via, password=options.password, home=home))
            move = _move(cluster)
        store = store or Store.default()
        try:
            # Under the name that it had then, whatever has that name now.
            image = dataclasses.replace(upgrade.readable(store, move.after.digest), name=move.after.image)
        except StoreError as error:
            raise StoreError(
                f"the former image {move.after.image} ({move.after.digest[:19]}) cannot be used from the store here: {error.message}",
                hint=error.hint or f"slipway pull {move.after.image}, or load it from an archive; it must be the very same one",
            ) from error
        work = upgrade.work_of(cluster, image, move, options, store)
        _check_etcd(work)
        if drain.minor(move.after.kubernetes) < drain.minor(move.before.kubernetes):
            log.warning(
                f"objects that were stored in a form that only {move.before.kubernetes} knows cannot be read by {move.after.kubernetes}; "
                f"{BACKUP} on the control-plane nodes is of before the upgrade"
            )
        yield work


def _mended(name: str, options: RolloutOptions, home: Path | None) -> bool:
    """Bring back the control plane of nodes whose change was cut off; whether there were any."""

    def mend(node: SshNode) -> None:
        log.warning(f"{node.name}: its control plane does not answer in the middle of a change; the one before it comes back")
        static_pods.put_back(node)

    return bool(upgrade.each_cut_off(name, options, home, mend))


def _move(cluster: Gathered) -> Move:
    last = change.read(NodeKubectl(cluster.first))
    if last is None or (last.kind == ROLLBACK and last.state != RUNNING):
        why = "has been rolled back already" if last else "has not been upgraded"
        raise CheckError(
            f"the cluster {cluster.state.name} {why}: there is nothing to go back to", hint="slipway upgrade NAME IMAGE goes on"
        )
    if last.kind == ROLLBACK:
        return last
    if last.state != RUNNING and cluster.record.digest != last.after.digest:
        raise CheckError(
            f"the cluster {cluster.state.name} was changed since its upgrade to {last.after}: it runs {cluster.record.image}",
            hint="slipway upgrade NAME IMAGE",
        )
    return Move.new(ROLLBACK, last.after, last.before)


def _check_etcd(work: RolloutWork) -> None:
    """Raises CheckError when etcd would have to read data that a newer minor version of it has written."""
    runs, wanted = etcd.version(etcd.image_of(work.found.first)), etcd.version(registries.etcd_image(work.context.resolved))
    if runs and wanted and wanted[:2] < runs[:2]:
        newer, older = (".".join(map(str, numbers[:2])) for numbers in (runs, wanted))
        raise CheckError(
            f"etcd {newer} has changed its data, which etcd {older} of {work.move.after.image} cannot read",
            hint=f"every control-plane node has a backup of before the upgrade: {BACKUP}; slipway restore takes it onto fresh machines",
        )

"""Providers of machines from clouds: groups by tag, one key a group, few requests."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from harness import log
from harness.errors import SlipwayError, UsageError
from harness.host import cluster_cache, paths
from harness.nodes import Login, NodeGroup, groups
from harness.nodes.cloud import Cloud, CloudError, CloudMachine, CloudRefusalError, MachineOrder, MachineSpec, boot, record, tags
from harness.nodes.cloud.record import GroupRecord


class CloudProvider:
    """Makes groups of machines of a cloud. What exists is read from its tags; this machine keeps a key and the id of each group.

    A group that was made from another home goes by ``NAME.ID``.
    """

    def __init__(self, cloud: Cloud, spec: MachineSpec | None = None, home: Path | None = None) -> None:
        """``spec``: new machines; the image that ``up`` and ``grow`` are given counts for them."""
        self.cloud = cloud
        self.spec = spec
        self.home = home or paths.home()

    def up(self, name: str, control_plane: int, workers: int, *, image: str) -> NodeGroup:
        """Make machines, or finish what an interrupted call with the same machines has begun."""
        groups.check(name, control_plane, workers)
        with record.locked(self._folder(name)):
            kept = self._record(name)
            machines = self._alive(kept) if kept else ()
            if kept and any(machine.id in kept.booted for machine in machines):
                raise groups.exists_already(name, self.cloud.name)
            return self._grow(name, kept, machines, (control_plane, workers), image)

    def grow(self, name: str, control_plane: int, workers: int, *, image: str) -> NodeGroup:
        groups.check(name, control_plane, workers)
        with record.locked(self._folder(name)):
            kept = self._record(name)
            return self._grow(name, kept, self._alive(kept) if kept else (), (control_plane, workers), image)

    def shrink(self, name: str, members: Collection[str]) -> None:
        kept = self._record(name)
        leaving = [machine for machine in self._alive(kept) if tags.member(machine).name in members] if kept else []
        self._destroy(leaving)

    def down(self, name: str) -> bool:
        """Remove the machines of a group and its key. ``NAME.ID`` is a group that was made from another home."""
        own, _, identity = name.partition(".")
        groups.check_name(own)
        if identity:
            # A value may be a pattern for the cloud.
            machines = tuple(machine for machine in self._listed(tags.GROUP, own) if tags.group(machine)[0] == own)
            machines = tuple(machine for machine in machines if tags.group(machine)[1].startswith(identity))
            if len({tags.group(machine)[1] for machine in machines}) > 1:
                raise UsageError(f"{name} is more than one group", hint="write more of its id")
            self._destroy(machines)
            return bool(machines)
        folder = self._folder(name)
        if not folder.exists():
            return False
        with record.locked(folder):
            kept = self._record(name)
            if kept:
                self._remove(kept)
            shutil.rmtree(folder, ignore_errors=True)
        return bool(kept)

    def list(self) -> tuple[NodeGroup, ...]:
        by_group: dict[tuple[str, str], list[CloudMachine]] = {}
        for machine in self._listed(tags.GROUP):
            by_group.setdefault(tags.group(machine), []).append(machine)
        return tuple(self._group(name, identity, machines) for (name, identity), machines in sorted(by_group.items()))

    # ---- what exists ----

    def _folder(self, name: str) -> Path:
        # Names of groups have no dot: it is the folder of no group of containers.
        return self.home / "nodes" / f"{self.cloud.name}.{name}"

    def _record(self, name: str) -> GroupRecord | None:
        kept = GroupRecord.read(self._folder(name))
        if kept and kept.region != self.cloud.region:
            raise UsageError(
                f"the nodes {name} are in {kept.region}, and the region is {self.cloud.region}", hint=f"choose the region {kept.region}"
            )
        return kept

    def _listed(self, tag: str, value: str | None = None) -> tuple[CloudMachine, ...]:
        return tuple(machine for machine in self.cloud.list(tag, value) if machine.alive)

    def _alive(self, kept: GroupRecord) -> tuple[CloudMachine, ...]:
        return self._listed(tags.ID, kept.id)

    def _group(self, name: str, identity: str, machines: Sequence[CloudMachine]) -> NodeGroup:
        kept = None
        # One that is damaged must not hide the machines.
        with contextlib.suppress(UsageError):
            kept = GroupRecord.read(self._folder(name)) if name and identity else None
        own = kept is not None and kept.id == identity
        shown = name if own else f"{name}.{identity[:8]}" if name and identity else "?"
        key = self._folder(name) / groups.KEY if own else None
        # Of a group of another home nothing is known.
        members = (
            dataclasses.replace(tags.member(machine), booted=machine.id in kept.booted if kept and own else True) for machine in machines
        )
        numbers = kept.numbers if kept and own else {}
        return NodeGroup(shown, self.cloud.name, groups.in_order(members), Login(boot.USER, key=key), numbers)

    # ---- making ----

    def _grow(
        self, name: str, kept: GroupRecord | None, machines: tuple[CloudMachine, ...], wanted: tuple[int, int], image: str
    ) -> NodeGroup:
        spec = self._spec(image)
        folder = self._folder(name)
        if kept is None or not (machines or kept.repeatable):
            kept = GroupRecord.new(self.cloud.region, kept.numbers if kept else None).write(folder)
        # An earlier command may have ended before it wrote down that they have booted: some may be nodes of a cluster.
        before = frozenset((*kept.booted, *(machine.id for machine in machines)))
        pending = kept.repeatable
        if pending and pending.spec != spec:
            size, kind = pending.spec.size, pending.spec.image
            raise UsageError(
                f"an interrupted command has ordered other machines for {name}: {size}, {kind}",
                hint=f"the same options again, or slipway nodes down {name} --provider {self.cloud.name}",
            )
        try:
            if pending:
                kept, machines = self._order(name, kept, pending, machines)
            lacking = groups.missing(name, [tags.member(machine) for machine in machines], *wanted, kept.numbers)
            if lacking:
                own = tags.of(name, kept.id, lacking, public=spec.public)
                user_data = boot.user_data(groups.public_key(folder))
                order = MachineOrder(spec, len(lacking), secrets.token_hex(16), own, user_data)
                kept, machines = self._order(name, kept, order, machines)
            machines = self._booted(name, kept, machines)
        except BaseException as failure:
            self._take_back(name, before, failure)
            raise
        kept.with_booted((machine.id for machine in machines), groups.numbers(map(tags.member, machines), kept.numbers)).write(folder)
        return self._group(name, kept.id, machines)

    def _spec(self, image: str) -> MachineSpec:
        if self.spec is None:
            raise ValueError("machines cannot be made without a spec")
        return dataclasses.replace(self.spec, image=image)

    def _order(
        self, name: str, kept: GroupRecord, order: MachineOrder, machines: tuple[CloudMachine, ...]
    ) -> tuple[GroupRecord, tuple[CloudMachine, ...]]:
        """Order machines, or repeat an order; return the record and all machines of the group."""
        folder = self._folder(name)
        if kept.pending != order:
            kept = kept.ordering(order).write(folder)
        with log.step(f"order {order.count} machines of {self.cloud.name} in {self.cloud.region}") as step:
            step.note = order.spec.size
            try:
                made = self.cloud.create(order)
            except CloudRefusalError:
                kept.answered().write(folder)
                raise
        if len(made) < order.count:
            raise CloudError(f"the cloud made {len(made)} of {order.count} machines", hint="see the quota of the account, or ask for fewer")
        known = {machine.id for machine in machines}
        machines = (*machines, *(machine for machine in made if machine.alive and machine.id not in known))
        return kept, machines

    def _booted(self, name: str, kept: GroupRecord, machines: tuple[CloudMachine, ...]) -> tuple[CloudMachine, ...]:
        """Wait for the machines that no command has seen boot. Return all, with their addresses."""

        def ask() -> tuple[CloudMachine, ...]:
            return self.cloud.list(tags.ID, kept.id)

        machines = boot.addresses(machines, ask)
        new = {machine.address: tags.member(machine).name for machine in machines if machine.id not in kept.booted}
        folder = self._folder(name)
        if new:
            # An address may have been that of a machine that is gone.
            (folder / "known_hosts").unlink(missing_ok=True)
            with log.step(f"wait for {len(new)} machines"):
                login = Login(boot.USER, key=folder / groups.KEY)
                boot.wait(new, login, folder, lambda: boot.present(machines, ask()))
        return machines

    # ---- removing ----

    def _remove(self, kept: GroupRecord, but: Collection[str] = ()) -> None:
        """Remove the machines of a group; those of the ids ``but`` stay.

        An order is repeated first, which says what it made, or makes it: a cloud may carry it out, or list its machines, only after this
        command has ended. Raises CloudError when that is not known, after all that are listed are removed.
        """
        answered: tuple[CloudMachine, ...] = ()
        unknown: CloudError | None = None
        if order := kept.repeatable:
            try:
                answered = self.cloud.create(order)
            except CloudRefusalError as refused:
                log.debug(f"nothing was made: {refused.message}")
            except CloudError as failure:
                unknown = failure
        listed = self._alive(kept)
        machines = (*listed, *(machine for machine in answered if machine.alive and machine.id not in {one.id for one in listed}))
        self._destroy([machine for machine in machines if machine.id not in but])
        if unknown:
            raise unknown

    def _take_back(self, name: str, before: frozenset[str], failure: BaseException) -> None:
        """Remove what a failed command has made; machines that were there ``before`` it stay. What cannot be removed is reported, and stays
        in the record.
        """
        kept = None
        try:
            kept = self._record(name)
            if kept is None:
                return
            self._remove(kept, before)
            # The numbers of machines that are gone are not used again.
            if before or kept.numbers:
                kept.answered().write(self._folder(name))
            else:
                shutil.rmtree(self._folder(name), ignore_errors=True)
            left = len(before.difference(kept.booted))
            if left:
                log.warning(f"{left} machines of {name} that an earlier command ordered are left: {self._ways_out(name, kept)}")
        except SlipwayError as problem:
            log.warning(
                f"machines of {name} may be left: {problem.message}; slipway nodes list --provider {self.cloud.name} shows them, "
                f"{self._ways_out(name, kept)}"
            )
            log.debug(f"after {failure!r}")

    def _ways_out(self, name: str, kept: GroupRecord | None) -> str:
        """Text about machines that have not booted. Where others have, they may be a cluster: then no command that removes all is named."""
        removal = "a lower count in the Clusterfile" if kept and kept.booted else f"slipway nodes down {name} --provider {self.cloud.name}"
        return f"{removal} removes them, and the same command again waits for them"

    def _destroy(self, machines: Collection[CloudMachine]) -> None:
        if machines:
            self.cloud.destroy([machine.id for machine in machines])
            cluster_cache.unpin((machine.address for machine in machines), self.home)

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
            machines = self._settled(kept) if kept else ()
            self._destroy(machines)
            shutil.rmtree(folder, ignore_errors=True)
        return bool(kept or machines)

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
        return NodeGroup(shown, self.cloud.name, groups.in_order(map(tags.member, machines)), Login(boot.USER, key=key))

    # ---- making ----

    def _grow(
        self, name: str, kept: GroupRecord | None, machines: tuple[CloudMachine, ...], wanted: tuple[int, int], image: str
    ) -> NodeGroup:
        spec = self._spec(image)
        folder = self._folder(name)
        if kept is None or not (machines or kept.repeatable):
            kept = GroupRecord.new(self.cloud.region).write(folder)
        pending = kept.repeatable
        if pending and pending.spec != spec:
            size, kind = pending.spec.size, pending.spec.image
            raise UsageError(
                f"an interrupted command has ordered other machines for {name}: {size}, {kind}",
                hint=f"the same options again, or slipway nodes down {name} --provider {self.cloud.name}",
            )
        before = frozenset(kept.booted)
        try:
            if pending:
                kept, machines = self._order(name, kept, pending, machines)
            lacking = groups.missing(name, [tags.member(machine) for machine in machines], *wanted)
            if lacking:
                own = tags.of(name, kept.id, lacking, public=spec.public)
                user_data = boot.user_data(groups.public_key(folder))
                order = MachineOrder(spec, len(lacking), secrets.token_hex(16), own, user_data)
                kept, machines = self._order(name, kept, order, machines)
            machines = self._booted(name, kept, machines, before)
        except BaseException as failure:
            self._take_back(name, before, failure)
            raise
        kept.with_booted(machine.id for machine in machines).write(folder)
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

    def _booted(
        self, name: str, kept: GroupRecord, machines: tuple[CloudMachine, ...], before: Collection[str]
    ) -> tuple[CloudMachine, ...]:
        def ask() -> tuple[CloudMachine, ...]:
            return self.cloud.list(tags.ID, kept.id)

        machines = boot.addresses(machines, ask)
        new = {machine.address: tags.member(machine).name for machine in machines if machine.id not in before}
        folder = self._folder(name)
        if new:
            # An address may have been that of a machine that is gone.
            (folder / "known_hosts").unlink(missing_ok=True)
            with log.step(f"wait for {len(new)} machines"):
                login = Login(boot.USER, key=folder / groups.KEY)
                boot.wait(new, login, folder, lambda: boot.present(machines, ask()))
        return machines

    # ---- removing ----

    def _settled(self, kept: GroupRecord) -> tuple[CloudMachine, ...]:
        """All machines of a group. An order is repeated first, which says what it made, or makes it: a cloud may carry it out, or list
        its machines, only after this command has ended.
        """
        answered: tuple[CloudMachine, ...] = ()
        if order := kept.repeatable:
            try:
                answered = self.cloud.create(order)
            except CloudRefusalError as refused:
                log.debug(f"nothing was made: {refused.message}")
        listed = self._alive(kept)
        return (*listed, *(machine for machine in answered if machine.alive and machine.id not in {one.id for one in listed}))

    def _take_back(self, name: str, before: Collection[str], failure: BaseException) -> None:
        """Remove what a failed command has made. What cannot be removed is reported, and stays in the record."""
        try:
            kept = self._record(name)
            if kept is None:
                return
            machines = self._settled(kept)
            self._destroy([machine for machine in machines if machine.id not in before])
            if before:
                kept.answered().write(self._folder(name))
            else:
                shutil.rmtree(self._folder(name), ignore_errors=True)
        except SlipwayError as problem:
            log.warning(
                f"machines of {name} may be left: {problem.message}; slipway nodes list --provider {self.cloud.name} shows them, "
                f"slipway nodes down {name} --provider {self.cloud.name} removes them, and the same command again finishes them"
            )
            log.debug(f"after {failure!r}")

    def _destroy(self, machines: Collection[CloudMachine]) -> None:
        if machines:
            self.cloud.destroy([machine.id for machine in machines])
            cluster_cache.unpin((machine.address for machine in machines), self.home)

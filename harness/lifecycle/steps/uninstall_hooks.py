"""The hooks of a cluster that goes, read while it is there: from what it keeps and from its rootfs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from harness import log
from harness.clusterfile import Clusterfile, Hook, HookTarget, Phase, is_redacted
from harness.clusterfile import environment as clusterfile_environment
from harness.clusterfile import hooks as clusterfile_hooks
from harness.clusterfile.parse import image_hooks
from harness.errors import CheckError, CommandError, InputError, NodeError
from harness.lifecycle.cluster.record import GET, ClusterRecord
from harness.lifecycle.kube import objects
from harness.lifecycle.steps import hooks
from harness.nodes import Node
from harness.nodes.files import read_files
from harness.runtimes import ROOTFS
from harness.runtimes.kubeadm import KUBECTL

PHASES = (Phase.PRE_UNINSTALL, Phase.PRE_CLEAN_HOST, Phase.POST_CLEAN_HOST, Phase.POST_UNINSTALL)


@dataclasses.dataclass(frozen=True)
class Parting:
    """The hooks for the end of a cluster, and where they run."""

    hooks: tuple[Hook, ...] = ()
    nodes: tuple[Node, ...] = ()
    """The machines that are cleaned, control-plane nodes first."""
    places: tuple[HookTarget, ...] = ()
    clusterfile: Clusterfile = dataclasses.field(default_factory=lambda: Clusterfile(""))
    labels: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)
    """The labels of the nodes in the cluster, by address."""

    @classmethod
    def read(cls, control_plane: Sequence[Node], nodes: Sequence[Node]) -> Parting:
        """The record of the cluster, from a control-plane node that answers, and the hooks of its image. Warns of what cannot be read."""
        return cls.of(_kept(control_plane), control_plane, nodes)

    @classmethod
    def of(
        cls, kept: Clusterfile | None, control_plane: Sequence[Node], nodes: Sequence[Node], leaving: Sequence[Node] | None = None
    ) -> Parting:
        """As ``read``, of what the cluster keeps; None when it does not tell. ``leaving`` are those of ``nodes`` that are cleaned."""
        if not control_plane:
            return cls()
        of_image = _of_image(control_plane[0])
        if kept is None and of_image:
            log.warning("the API does not answer: hooks of the Clusterfile are not run, those of the image are")
        all_hooks = clusterfile_hooks.merged(of_image, kept.hooks if kept else ())
        wanted = [hook for hook in all_hooks if hook.type == "SHELL" and any(phase in PHASES for phase in hook.phases)]
        for hook in wanted:
            if hook.redacted:
                log.warning(f"hook {hook.name} was kept without its script, since that may hold a secret; it is not run")
        by_address = {place.address: place for place in (kept.cluster.places if kept and kept.cluster else ())}
        places = [
            by_address.get(node.address, HookTarget(node.address, ("control-plane" if node in control_plane else "worker",)))
            for node in nodes
        ]
        usable = tuple(hook for hook in wanted if not hook.redacted)
        asks = any(selector.labels for hook in usable for selector in hook.on)
        going = tuple(nodes if leaving is None else leaving)
        return cls(usable, going, tuple(places), kept or Clusterfile(""), _labels(control_plane) if asks else {})

    def chosen(self, phase: Phase, node: Node) -> tuple[Hook, ...]:
        """The hooks of a phase that are for one machine."""
        return tuple(
            hook
            for hook in clusterfile_hooks.at(self.hooks, phase)
            if node.address in clusterfile_hooks.targets(hook, phase, self.places, labels=self.labels if phase.has_node else None)
        )

    def run(self, phase: Phase, node: Node | None = None) -> None:
        """The hooks of a phase: on one machine, or without it on all that they are for. Raises CommandError for one that fails."""
        for hook in clusterfile_hooks.at(self.hooks, phase):
            for one in self.nodes:
                if hook in self.chosen(phase, one) and (node is None or one.address == node.address):
                    log.info(f"{one.name}: hook {hook.name} at {phase.value}")
                    hooks.shell(one, hook, phase, self.environment(one))

    def environment(self, node: Node) -> Mapping[str, str]:
        """The environment as it was kept, without secrets."""
        cluster = self.clusterfile.cluster
        host = cluster.host(node.address) if cluster else None
        env = {**(cluster.env if cluster else {}), **(host.env if host else {})}
        plain = {name: value for name, value in env.items() if not is_redacted(value)}
        return {**clusterfile_environment.environment({}, None, plain), "HostIP": node.address}


def _kept(control_plane: Sequence[Node]) -> Clusterfile | None:
    command = f"{KUBECTL} --request-timeout=3s {' '.join(GET)}"
    for node in control_plane:
        try:
            asked = node.run(command, check=False, timeout=10)
            if asked.ok and asked.stdout:
                return ClusterRecord.of(asked.stdout, node.name).clusterfile
            if "NotFound" in asked.stderr:
                return Clusterfile("")
        except (CheckError, CommandError, NodeError, InputError) as error:
            log.debug(f"{node.name}: {error}")
    return None


def _labels(control_plane: Sequence[Node]) -> dict[str, dict[str, str]]:
    """By address; nothing when the API does not answer."""
    for node in control_plane:
        asked = node.run(f"{KUBECTL} --request-timeout=3s get nodes --output=json", check=False, timeout=10)
        if asked.ok and asked.stdout:
            try:
                return {
                    address: dict(item["metadata"].get("labels") or {})
                    for item in objects.objects(asked.stdout, where=node.name)
                    for address in objects.internal_addresses(item)
                }
            except NodeError as error:
                log.debug(f"{node.name}: {error}")
    return {}


def _of_image(node: Node) -> tuple[Hook, ...]:
    listed = node.run(f"cd {ROOTFS}/{hooks.FOLDER} 2>/dev/null && ls -A || true").stdout.splitlines()
    names = [f"{ROOTFS}/{hooks.FOLDER}/{name}" for name in listed if name.endswith((".yaml", ".yml"))]
    if not names:
        return ()
    try:
        return image_hooks({path.removeprefix(f"{ROOTFS}/"): data for path, data in read_files(node, names).items()})
    except InputError as error:
        log.warning(f"the hooks of the image are not run: {error.message}")
        return ()

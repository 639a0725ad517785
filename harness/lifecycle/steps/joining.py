"""The rootfs of machines that join: files made with secrets that the cluster has not kept are taken from a node that has them."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

from harness import log
from harness.clusterfile import Clusterfile
from harness.lifecycle.cluster import missing_secrets
from harness.lifecycle.cluster.missing_secrets import PLACEHOLDERS
from harness.lifecycle.provision import rootfs
from harness.lifecycle.steps import hooks
from harness.lifecycle.steps.context import ClusterSpec, ResolvedCluster
from harness.nodes import Node
from harness.nodes.files import Files, NodeFile, read_files
from harness.runtimes import ROOTFS


@dataclasses.dataclass(frozen=True, eq=False)
class JoiningCluster(ResolvedCluster):
    """A cluster and machines that join it. Its first control-plane node has all files, also those made with values that were not kept."""

    joining: frozenset[str]
    """Addresses."""
    lost: frozenset[str]
    """Paths of files whose whole content was not kept."""
    inherited: set[str] = dataclasses.field(default_factory=set, init=False)
    """Paths of files that machines get as the first control-plane node has them, of all machines that have been rendered for."""

    @functools.cached_property
    def files_of_first(self) -> Files:
        """The rendered files of the first control-plane node, as it has them."""
        first = self.spec.first
        paths = rootfs.rendered_before(first)
        tree = rootfs.beneath(self.tree(first))
        data = read_files(first, [f"{ROOTFS}/{path}" for path in paths]) if paths else {}
        modes = {path: rootfs.owner_only(tree.stat(path).st_mode) if tree.is_file(path) else 0o600 for path in paths}
        return {path: NodeFile(data[f"{ROOTFS}/{path}"], modes[path]) for path in paths if f"{ROOTFS}/{path}" in data}

    def render(self, node: Node) -> Files:
        """As ``run`` renders for machines that join; members have what the first control-plane node has."""
        if node.address not in self.joining:
            return self.files_of_first
        files = super().render(node)
        other = ResolvedCluster(_with_other_values(self.spec), self.facts).render(node) if _has_placeholder(self.spec) else files
        unknown = {path for path, file in files.items() if file != other.get(path)}
        unknown |= set(self.needed(node, dict.fromkeys(self.lost, NodeFile())))
        self.inherited.update(unknown)
        return self.needed(node, {**files, **{path: file for path, file in self.files_of_first.items() if path in unknown}})


def _has_placeholder(spec: ClusterSpec) -> bool:
    environments = [spec.env, *spec.host_env.values(), *spec.app_env.values()]
    return any(value == PLACEHOLDERS[0] for env in environments for value in env.values())


def _with_other_values(spec: ClusterSpec) -> ClusterSpec:
    def other(env: Mapping[str, str]) -> dict[str, str]:
        return {name: PLACEHOLDERS[1] if value == PLACEHOLDERS[0] else value for name, value in env.items()}

    return dataclasses.replace(
        spec,
        env=other(spec.env),
        host_env={address: other(env) for address, env in spec.host_env.items()},
        app_env={name: other(env) for name, env in spec.app_env.items()},
    )


def without_secrets(recorded: Clusterfile, env: Mapping[str, str]) -> tuple[Clusterfile, frozenset[str]]:
    """Return a recorded Clusterfile with placeholders for values that are redacted and not in ``env``, and the files that are left out."""
    for hook in recorded.hooks:
        if hook.redacted and {*hooks.BEFORE_JOINING, *hooks.AFTER_JOINING} & set(hook.phases):
            log.warning(f"hook {hook.name} is not run: the cluster did not keep its data, since it may hold a secret")
    usable = missing_secrets.with_values(recorded, env)
    return missing_secrets.without_redacted(usable, PLACEHOLDERS[0]), frozenset(file.target for file in recorded.files if file.redacted)

"""kubectl on a node of the cluster, for the checks."""

from __future__ import annotations

import dataclasses
import shlex

from harness.nodes import Node
from harness.nodes.placing import STATE


@dataclasses.dataclass(frozen=True)
class NodeKubectl:
    """Runs the cluster's own kubectl on a master, as its administrator."""

    node: Node
    kubeconfig: str = "/etc/kubernetes/admin.conf"
    program: str = f"{STATE}/rootfs/bin/kubectl"

    def run(self, *argv: str) -> str:
        return self.node.run(f"HOME={STATE} KUBECONFIG={self.kubeconfig} {self.program} {shlex.join(argv)}", timeout=120).stdout

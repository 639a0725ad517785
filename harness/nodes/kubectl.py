"""kubectl on a node of the cluster, for the checks."""

from __future__ import annotations

import dataclasses
import re
import shlex

from harness.errors import CommandError
from harness.nodes import Node
from harness.nodes.placing import STATE


@dataclasses.dataclass(frozen=True)
class NodeKubectl:
    """Runs the cluster's own kubectl on a master, as its administrator."""

    node: Node
    others: tuple[Node, ...] = ()
    """Masters to ask when the API of the first one does not answer."""
    kubeconfig: str = "/etc/kubernetes/admin.conf"
    program: str = f"{STATE}/rootfs/bin/kubectl"

    def run(self, *argv: str) -> str:
        command = f"HOME={STATE} KUBECONFIG={self.kubeconfig} {self.program} {shlex.join(argv)}"
        *before, last = (self.node, *self.others)
        for node in before:
            try:
                return node.run(command, timeout=120).stdout
            except CommandError as error:
                if not _SILENT.search(error.details or ""):
                    raise
        return last.run(command, timeout=120).stdout


_SILENT = re.compile(r"connection to the server .* was refused|Unable to connect to the server|no such file or directory|context deadline")
"""What kubectl says when there is no API, or no way to it, where it was run."""

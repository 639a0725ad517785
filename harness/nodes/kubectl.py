"""kubectl on a node of the cluster, for the checks."""

from __future__ import annotations

import dataclasses
import re
import shlex

from harness import log
from harness.errors import CommandError, NodeError
from harness.nodes import Node
from harness.nodes.files import STATE


@dataclasses.dataclass(frozen=True)
class NodeKubectl:
    """Runs the cluster's own kubectl on a control-plane node, as administrator."""

    node: Node
    others: tuple[Node, ...] = ()
    """Control-plane nodes to ask when the first one or its API does not answer."""
    kubeconfig: str = "/etc/kubernetes/admin.conf"
    program: str = f"{STATE}/rootfs/bin/kubectl"
    home: str = STATE
    """Path of kubectl's cache."""

    @property
    def where(self) -> str:
        """The machine, as a message names it."""
        return self.node.name

    @property
    def words(self) -> str:
        """kubectl as shell text, to which arguments are added."""
        return f"HOME={shlex.quote(self.home)} KUBECONFIG={shlex.quote(self.kubeconfig)} {self.program}"

    def run(self, *argv: str, input: str | None = None, timeout: float = 120) -> str:
        """``input`` is what it reads from standard input; ``timeout`` in seconds."""
        command = f"{self.words} {shlex.join(argv)}"
        *before, last = (self.node, *self.others)
        for node in before:
            try:
                return node.run(command, input=input, timeout=timeout).stdout
            except CommandError as error:
                if not _SILENT.search(error.details or ""):
                    raise
            except NodeError as lost:
                log.debug(lost.message)
        return last.run(command, input=input, timeout=timeout).stdout


_SILENT = re.compile(
    r"connection to the server .{0,300}? was refused|Unable to connect to the server|no such file or directory|context deadline"
)
"""Messages of kubectl when the API is down or unreachable."""

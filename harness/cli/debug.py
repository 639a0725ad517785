"""A shell with tools on a node, or beside a pod."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import completion
from harness.cli.options import ClusterAccess, ClusterName, Output, argument, option
from harness.cli.program import CommandEnded, Group, Program, WithOptionalCommand, command_words
from harness.cli.root import app
from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.lifecycle.debug import DebugContainer

_HELP = """Run a shell with tools on a node or beside a pod.

\b
  slipway debug node node-1                                   a shell on a node
  slipway debug node node-1 -- chroot /host journalctl -n 20  a program of the node itself
  slipway debug pod web-0 -n shop                             a shell beside a pod
"""
debug_app = Program(cls=Group, help=_HELP, no_args_is_help=True)
app.add_typer(debug_app, name="debug")

DebugImage = Annotated[
    str | None,
    option("--image", help="An image with a shell.  [default: one that the cluster runs]", metavar="IMAGE"),
]


@debug_app.command(cls=WithOptionalCommand, short_help="Run a shell or a command on a node.")
def node(
    *,
    context: typer.Context,
    name: Annotated[
        str,
        argument(help="The name or the address of the node.", metavar="NODE", complete=completion.nodes),
    ],
    cluster: ClusterName = None,
    image: DebugImage = None,
    access: ClusterAccess,
    output: Output,
) -> None:
    """Run a shell, or a command, in a pod on a node. The pod is removed at the end, also after an interruption.

    The pod is privileged: it has the processes and the network of the node, and the root of the node in /host. `chroot /host` uses the
    node's own programs. Nothing is pulled from outside: the default image is one that the cluster runs. One word after -- is shell text,
    several are a program and its arguments; the exit code is that of the command. The output is unchanged, as with ssh.
    """
    from harness.lifecycle import debug

    _run(context, output, lambda: debug.on_node(name, cluster or "default", access.members(cluster or "default")[0], image=image))


@debug_app.command(cls=WithOptionalCommand, short_help="Run a shell or a command beside a pod.")
def pod(
    *,
    context: typer.Context,
    name: Annotated[str, argument(help="The name of the pod.", metavar="POD")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="The namespace of the pod.", metavar="NAMESPACE")] = "default",
    container: Annotated[
        str | None,
        option("--container", help="The container to look into.  [default: the main one of the pod]", metavar="NAME"),
    ] = None,
    cluster: ClusterName = None,
    image: DebugImage = None,
    access: ClusterAccess,
    output: Output,
) -> None:
    """Run a shell, or a command, in an ephemeral container of a pod. It has the network of the pod and sees the processes of a container.

    It is stopped at the end. Kubernetes cannot take it out of the pod: it stays listed until the pod is deleted. Nothing is pulled from
    outside: the default image is one that the cluster runs. One word after -- is shell text, several are a program and its arguments; the
    exit code is that of the command. The output is unchanged, as with ssh.
    """
    from harness.lifecycle import debug

    _run(
        context,
        output,
        lambda: debug.beside_pod(name, namespace, container, cluster or "default", access.members(cluster or "default")[0], image=image),
    )


def _run(context: typer.Context, output: Output, start: Callable[[], AbstractContextManager[DebugContainer]]) -> None:
    """Run the command, or a shell, in a debug container. Raises CommandEnded with its exit code."""
    from harness.lifecycle import debug
    from harness.lifecycle import exec as lifecycle_exec

    words = command_words(context)
    command = lifecycle_exec.shell_text(words) if words else None
    if output.is_json:
        if command is None:
            raise UsageError("--output json needs a command", hint="slipway debug node NODE -o json -- COMMAND")
        with start() as container:
            ran = debug.capture(container, command)
        output.printed(ran)
        raise CommandEnded(ran.exit_code)
    with start() as container:
        code = debug.attach(container, command, terminal=sys.stdin.isatty() and sys.stdout.isatty())
    raise CommandEnded(code)

"""Launch commands as steps, and how a command runs in the rootfs of a control-plane node."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence

from harness import assets
from harness.cloudimage import Info
from harness.errors import CommandError
from harness.lifecycle.plan import Step, digest
from harness.lifecycle.provision import rootfs
from harness.lifecycle.steps.context import ClusterContext, command_reads
from harness.nodes import Node
from harness.nodes.files import STATE
from harness.runtimes import ROOTFS
from harness.runtimes.kubeconfig import ADMIN

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def launch_commands(context: ClusterContext, commands: Sequence[str], kind: str, after: str, change: str = "") -> list[Step]:
    """A step for each command, one after the other: a run that was killed does not launch again what it has launched.

    ``change``: the id of a change in which every command is launched once, whatever was launched before it.
    """
    steps: list[Step] = []
    for number, command in enumerate(commands, 1):

        def action(node: Node, command: str = command) -> None:
            run_in_rootfs(node, command, context.resolved.environment(node))

        def inputs(node: Node, command: str = command) -> str:
            resolved = context.resolved
            used = rootfs.fingerprint({path: file for path, file in resolved.files(node).items() if command_reads(command, path)})
            launched = digest(resolved.runtime.identity, context.spec.image.digest, command, resolved.environment(node), used)
            return digest(launched, change) if change else launched

        steps.append(Step(f"{kind}-{number}", launch_title(command), action, (context.spec.first,), after_all=(after,), inputs=inputs))
        after = steps[-1].id
    return steps


def network_commands(info: Info) -> tuple[str, ...]:
    """The launch commands of the applications that bring the pod network."""
    return tuple(command for app in info.apps if app.name in info.cluster_apps for command in app.commands)


def launch_title(command: str) -> str:
    """The title of a launch command."""
    text = " ".join(command.split())
    return f"launch: {text if len(text) < 70 else f'{text[:67]}...'}"


# A launch command may run again, with other values or after a kill: what is installed already is then brought up to date.
HELM = assets.script("helm_upgrades")


def run_in_rootfs(node: Node, command: str, env: Mapping[str, str], *, what: str = "launch command", folder: str = ROOTFS) -> str:
    """Run a shell command in the rootfs of a control-plane node as the cluster's administrator; return its output.

    The environment goes by a file that only root can read: it may hold secrets. ``what`` the command is, for errors; ``folder``: where it
    starts.
    """
    script = f"cd {folder} || exit 1\n{exports(env)}export KUBECONFIG={ADMIN} PATH={ROOTFS}/bin:$PATH\n{HELM}{command}\n"
    # Before and after a cluster nothing of ours is to be on the machine.
    prefix = f"{STATE}/" if folder == ROOTFS else "/run/slipway-"
    # One at a time: what an earlier run began goes on when that was killed, and two of the same would be in each other's way.
    return run_script(node, script, command, prefix, what, alone="$(command -v flock > /dev/null && echo 'flock -o /run/lock') ")


def exports(env: Mapping[str, str]) -> str:
    """Shell text that sets an environment, without what is not a name of a variable."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in sorted(env.items()) if _ENV_NAME.fullmatch(name))


def run_script(node: Node, script: str, command: str, prefix: str, what: str, *, alone: str = "") -> str:
    """Run shell text around a launch command, from a file ``PREFIXlaunch-DIGEST.sh`` that only its owner can read; return its output.

    ``alone``: shell text of a program that starts it. Raises CommandError that names ``what`` and the command.
    """
    path = f"{prefix}launch-{digest(command)}.sh"
    node.put(script.encode(), path, 0o600)
    try:
        return node.run(f"exec {alone}$(command -v bash || command -v sh) {shlex.quote(path)} < /dev/null", timeout=3600).stdout
    except CommandError as error:
        raise CommandError(f"{node.name}: {what} failed: {command.strip()}", hint=error.hint, details=error.details) from error
    finally:
        node.run(f"rm -f {shlex.quote(path)}", check=False)

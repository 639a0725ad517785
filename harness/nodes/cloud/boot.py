"""The first boot of a cloud's machines: what cloud-init does, and the wait until they answer."""

from __future__ import annotations

import random
import shlex
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from harness import log
from harness.errors import NodeError
from harness.nodes import Login, Machine, each
from harness.nodes.cloud import CloudError, CloudMachine
from harness.nodes.ssh import SshConnections, SshNode

USER = "slipway"
"""The user of slipway, with sudo: images of clouds allow root no login, each in a way of its own."""
BOOT_TIMEOUT = 600.0
"""Seconds until a machine answers over SSH."""
ASK_AGAIN = 60.0
"""Seconds after which the cloud is asked what became of machines that do not answer."""
_PAUSE = 5.0
"""Seconds between two attempts, at most."""


def user_data(public_key: bytes) -> str:
    """Configuration of cloud-init that lets slipway in. It holds no secret: everything on a machine can read its user data."""
    return (
        "#cloud-config\n"
        "preserve_hostname: true\n"
        "users:\n"
        "  - default\n"
        f"  - name: {USER}\n"
        "    shell: /bin/sh\n"
        "    lock_passwd: true\n"
        '    sudo: "ALL=(ALL) NOPASSWD:ALL"\n'
        "    ssh_authorized_keys:\n"
        f"      - {public_key.decode().strip()}\n"
    )


def addresses(machines: tuple[CloudMachine, ...], ask: Callable[[], tuple[CloudMachine, ...]]) -> tuple[CloudMachine, ...]:
    """Wait until each machine has an address. ``ask`` lists those of the group. Raises CloudError for one that ends, or gets none."""
    deadline, pause = time.monotonic() + BOOT_TIMEOUT, 1.0
    while any(not machine.address for machine in machines):
        if time.monotonic() > deadline:
            raise CloudError("machines have no address: " + ", ".join(machine.id for machine in machines if not machine.address))
        time.sleep(random.uniform(0, pause))  # noqa: S311 - spreads requests
        pause = min(_PAUSE, pause * 2)
        machines = present(machines, ask())
    return machines


def present(machines: tuple[CloudMachine, ...], listed: tuple[CloudMachine, ...]) -> tuple[CloudMachine, ...]:
    """The machines as a cloud lists them now. Raises CloudError for those that have ended; one that is not listed yet stays as it was."""
    by_id = {machine.id: machine for machine in listed}
    now = tuple(by_id.get(machine.id, machine) for machine in machines)
    ended = [f"{machine.id}: {machine.state}" for machine in now if not machine.alive]
    if ended:
        raise CloudError("the cloud has ended machines while they booted", hint="its console says more", details="\n".join(ended))
    return now


def wait(names: Mapping[str, str], login: Login, folder: Path, ask: Callable[[], object]) -> None:
    """Wait until machines take the login and cloud-init has ended, and set their host names. ``names``: address -> host name.

    ``ask`` is called now and then, and raises when the cloud has ended one. Raises CloudError for machines that do not answer.
    """
    deadline = time.monotonic() + BOOT_TIMEOUT
    asked, pause = time.monotonic(), 0.5
    with SshConnections(folder, [Machine(address, login) for address in names]) as ssh:
        waiting = ssh.nodes
        while waiting:
            ready, errors = ssh.reachable(waiting)
            lost = each(ready, lambda node: _settle(node, names[node.address]))
            errors |= {node: error for node, error in zip(ready, lost, strict=True) if error}
            waiting = tuple(errors)
            if not waiting:
                return
            if time.monotonic() > deadline:
                raise _silent(names, errors)
            if time.monotonic() > asked + ASK_AGAIN:
                ask()
                asked = time.monotonic()
            time.sleep(pause)
            pause = min(_PAUSE, pause * 1.5)


def _settle(node: SshNode, name: str) -> NodeError | None:
    """Wait for the end of cloud-init. Return the error of a connection that was lost: cloud-init may restart a machine, or its network."""
    # Until its end cloud-init holds the lock of the package manager, and may set the host name.
    waiting = "if command -v cloud-init > /dev/null; then cloud-init status --wait > /dev/null || true; fi"
    # In place: in a container the file is a mount.
    naming = f"printf '%s\\n' {shlex.quote(name)} > /etc/hostname && hostname {shlex.quote(name)}"
    try:
        node.run(f"{waiting}; {naming}", timeout=BOOT_TIMEOUT)
    except NodeError as lost:
        log.debug(f"{name}: {lost.message}")
        return lost
    log.debug(f"{name}: ready")
    return None


def _silent(names: Mapping[str, str], errors: Mapping[SshNode, NodeError]) -> CloudError:
    reasons = [f"{names[node.address]}: {error.message}" for node, error in errors.items()]
    return CloudError(
        f"{len(reasons)} of {len(names)} machines did not boot",
        hint="security groups must let this machine reach port 22; the image needs cloud-init and sshd; the console shows the output",
        details="\n".join(reasons),
    )

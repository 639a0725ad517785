"""One virtual machine with a kernel of its own: Debian, on a processor that qemu imitates, since that works on every machine."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from harness import process
from harness.errors import NodeError
from harness.host import apt, paths
from harness.nodes import Login, Machine
from harness.nodes.ssh import SshConnections

HOST, ADDRESS = "198.18.77.1", "198.18.77.2"
"""Ours and the machine's, of a network that is meant for trials."""
_PACKAGES = ("linux-image-cloud-amd64", "systemd-sysv", "dbus", "openssh-server", "iproute2", "iptables", "kmod", "procps")
_NETWORK = f"[Match]\nName=e*\n[Network]\nAddress={ADDRESS}/24\nLinkLocalAddressing=no\n"
_MEMORY = 1024
_PATIENCE = 900
"""Seconds for it to boot: fifty are usual on a machine that does nothing else."""


def disk() -> Path:
    """A folder with a disk, its kernel and a key for it, made once; what runs on it is not written back."""
    made_of = hashlib.sha256(repr((_PACKAGES, _NETWORK)).encode()).hexdigest()[:12]
    folder = paths.cache() / "vm" / made_of
    if not folder.exists():
        apt.ensure("mmdebstrap", "mmdebstrap")
        apt.ensure("mkfs.ext4", "e2fsprogs")
        work = folder.with_name(f"{folder.name}.{os.getpid()}")
        try:
            _make(work)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def _make(work: Path) -> None:
    work.mkdir(parents=True)
    tree, key, network = work / "tree", work / "key", work / "lan.network"
    process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", key])
    network.write_text(_NETWORK)
    hooks = [
        "mkdir -p $1/root/.ssh",
        f"copy-in {work}/key.pub /root/.ssh",
        'mv "$1/root/.ssh/key.pub" "$1/root/.ssh/authorized_keys"',
        f"copy-in {network} /etc/systemd/network",
        'systemctl --root="$1" enable systemd-networkd ssh',
        'echo worker > "$1/etc/hostname"',
        'echo "127.0.1.1 worker" >> "$1/etc/hosts"',
        f"copy-out /vmlinuz /initrd.img {work}",
    ]
    words = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(_PACKAGES)}",
        *(f"--customize-hook={hook}" for hook in hooks),
    ]
    process.run([*words, "bookworm", tree], env={"SOURCE_DATE_EPOCH": "0"})
    for name in ("vmlinuz", "initrd.img"):
        # What was copied is what the link leads to, under the name that it has.
        next(work.glob(f"{name}-*")).rename(work / name)
    process.run(["mkfs.ext4", "-q", "-d", tree, work / "disk", "3G"])
    shutil.rmtree(tree)


@contextlib.contextmanager
def _link(name: str) -> Iterator[None]:
    """A wire between the machine and us."""
    process.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"])
    try:
        process.run(["ip", "addr", "add", f"{HOST}/24", "dev", name])
        process.run(["ip", "link", "set", name, "up"])
        yield
    finally:
        process.run(["ip", "link", "del", name], check=False)


@contextlib.contextmanager
def booted(folder: Path) -> Iterator[tuple[SshConnections, str]]:
    """The way into the machine once it has booted, and the name of our end of its wire. ``folder`` takes its console. Raises NodeError."""
    qemu = apt.ensure("qemu-system-x86_64", "qemu-system-x86")
    made, link = disk(), f"slipway{os.getpid()}"[:15]
    words: list[str | Path] = [
        *(qemu, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(_MEMORY)),
        *("-kernel", made / "vmlinuz", "-initrd", made / "initrd.img", "-append", "root=/dev/vda rw console=ttyS0 quiet"),
        *("-drive", f"file={made}/disk,format=raw,if=virtio", "-snapshot"),
        *("-netdev", f"tap,id=lan,ifname={link},script=no,downscript=no", "-device", "virtio-net-pci,netdev=lan"),
        *("-display", "none", "-monitor", "none", "-serial", f"file:{folder}/console"),
    ]
    with _link(link):
        machine = subprocess.Popen(words)
        try:
            ssh = SshConnections(folder / "ssh", [Machine(ADDRESS, Login(key=made / "key"))])
            with ssh:
                answering(ssh, machine)
                yield ssh, link
        finally:
            machine.kill()
            machine.wait()


def answering(ssh: SshConnections, machine: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until the machine lets us in."""
    end = time.monotonic() + _PATIENCE
    while True:
        good, errors = ssh.reachable()
        if good:
            return
        if time.monotonic() > end or (machine is not None and machine.poll() is not None):
            said = "" if machine is None or machine.poll() is None else "; qemu ended, see above"
            raise NodeError(f"the virtual machine does not answer: {next(iter(errors.values())).message}{said}")
        time.sleep(1)

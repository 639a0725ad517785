"""Preflight checks of processor, system, memory and disks."""

from __future__ import annotations

import re
from collections.abc import Mapping

from harness.lifecycle.checks.facts import NEEDED, WANTED, MachineFacts, Place
from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.preflight.core import Target, Wanted, check, words
from harness.nodes.files import STATE

MEMORY = 1 << 30
"""Bytes below which a machine is too small for Kubernetes."""
ENOUGH_MEMORY = 1700 << 20
"""kubeadm's own limit for a control-plane node."""
SLOW_SYNC = 0.010
"""Seconds of a write to etcd's disk (99th percentile), after etcd's guide."""
EVICTION = {"/var/lib/containerd": 0.15, "/var/lib/kubelet": 0.10}
"""Free parts of file systems below which kubelets evict pods, by default."""

_MIB, _GIB = 1 << 20, 1 << 30
_OLDEST = {"debian": 10, "ubuntu": 18, "rhel": 8, "centos": 8, "rocky": 8, "almalinux": 8, "ol": 8, "fedora": 35, "sles": 15,
           "opensuse-leap": 15, "amzn": 2, "openEuler": 20, "anolis": 8, "kylin": 10, "uos": 20, "raspbian": 10}  # fmt: skip
"""Oldest releases of distributions that meet Kubernetes' requirements."""
_LIKE = frozenset({"debian", "ubuntu", "rhel", "fedora", "centos", "suse", "opensuse"})
_POOR_FOR_IMAGES = frozenset({"overlay", "aufs", "nfs", "nfs4", "cifs", "ecryptfs", "zfs", "fuseblk", "9p", "vfat"})
_POOR_FOR_ETCD = frozenset({"nfs", "nfs4", "cifs", "fuseblk", "9p", "vfat", "overlay"})


def _size(size: float) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{size / _MIB:.0f} MiB"


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"[0-9]{1,9}", text)[:3])


@check("cluster", "free", "no other cluster of slipway has the machine: it would be destroyed", needed=True)
def _cluster(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    if target.address in wanted.ours:
        return ok(f"belongs to {wanted.cluster}")
    if machine.cluster is not None:
        name = machine.cluster.split(" ", maxsplit=1)[0]
        return failed(f"belongs to a cluster {name}", f"slipway delete {name}, or leave this machine out")
    return ok("belongs to no cluster")


@check("architecture", "architecture", "the image was built for the machine's processor", needed=True)
def _architecture(target: Target, wanted: Wanted) -> Verdict:
    platform = target.machine.platform
    if wanted.platforms and not any(platform.matches(each) for each in wanted.platforms):
        return failed(f"is {platform}, the image is for {words(wanted.platforms)}", f"build it with --platform {platform}")
    return ok(str(platform))


@check("os", "operating system", "a release of a distribution that is known to work")
def _os(target: Target, _: Wanted) -> Verdict:
    facts = target.machine.os
    name, release = facts.get("ID", ""), _release(facts.get("VERSION_ID", ""))
    text = facts.get("PRETTY_NAME") or f"{name} {facts.get('VERSION_ID', '')}".strip()
    if not name:
        return unknown("has no /etc/os-release")
    oldest = _OLDEST.get(name)
    if oldest is not None and release and release[0] < oldest:
        return warning(f"{text} is old", f"{name} {oldest} or newer meets the requirements of Kubernetes")
    if oldest is None and not _LIKE & set(facts.get("ID_LIKE", "").split()):
        return warning(f"{text}: slipway was not tried on it", "try it with machines that do not matter first")
    return ok(text)


@check("kernel", "kernel", "a kernel that Kubernetes and overlays of containers support")
def _kernel(target: Target, _: Wanted) -> Verdict:
    text, release = target.machine.kernel, _release(target.machine.kernel)
    if not release:
        return unknown("does not report its release")
    if release < (3, 10):
        return failed(f"kernel {text} is too old", "update the distribution: 4.19 or newer")
    if release < (4, 19):
        return warning(f"kernel {text} is old", "4.19 or newer is what Kubernetes is tested on")
    if target.machine.cgroup == 2 and release < (5, 2):
        return warning(f"kernel {text} with cgroup v2", "5.8 or newer has all of it")
    return ok(text)


@check("cpu", "processors", "two processors: on one the components of a control-plane node starve each other")
def _cpu(target: Target, _: Wanted) -> Verdict:
    if target.machine.cpus < 2:
        return warning("has one processor", "two make a cluster usable")
    return ok(f"{target.machine.cpus} processors")


@check("memory", "memory", "1 GiB to start, 2 GiB to be useful")
def _memory(target: Target, _: Wanted) -> Verdict:
    machine = target.machine
    text = f"{_size(machine.memory)} of memory"
    if machine.memory < MEMORY:
        return failed(f"has {machine.memory >> 20} MiB of memory: too small", "give it 2 GiB or more")
    if machine.memory < ENOUGH_MEMORY:
        return warning(f"has {text}", "2 GiB make it usable")
    if machine.available is not None and machine.available < 512 * _MIB:
        return warning(f"has {text}, and only {_size(machine.available)} free", "see what uses it: ps aux --sort -rss")
    return ok(text)


@check("swap", "swap", "without swap, memory limits of pods are exact")
def _swap(target: Target, _: Wanted) -> Verdict:
    if target.machine.swap:
        remedy = "swapoff -a, and remove it from /etc/fstab; memory limits of pods are not exact with it"
        return warning(f"swaps to {words(target.machine.swap)}", remedy)
    return ok("none")


@check("systemd", "systemd", "services are started by systemd")
def _systemd(target: Target, _: Wanted) -> Verdict:
    if not target.machine.systemd:
        return failed("does not run systemd", "use a distribution with systemd")
    return ok("runs")


@check("programs", "programs", "the programs of the distribution that slipway and Kubernetes call")
def _programs(target: Target, _: Wanted) -> Verdict:
    machine = target.machine
    missing = [tool for tool in NEEDED if tool not in machine.tools and not (tool == "systemctl" and not machine.systemd)]
    if missing:
        return failed(f"has no {words(missing)}", "install it from the distribution")
    less = [tool for tool in WANTED if tool not in machine.tools]
    if less:
        return warning(f"has no {words(less)}", "some features of Kubernetes use it")
    return ok("all found")


# ---- disks ------------------------------------------------------------------------------------------------------------


def _needs(target: Target, wanted: Wanted) -> dict[str, int]:
    """Bytes that will be written below each folder."""
    half = wanted.size * 5 // 4
    needs = {STATE: half, "/var/lib/containerd": half, "/var/lib/kubelet": 64 * _MIB, "/var/log": 64 * _MIB}
    return {**needs, "/var/lib/etcd": 256 * _MIB} if target.is_control_plane else needs


@check("disk-space", "disk space", "space for the image and for what the cluster writes, and enough beyond it that no pod is evicted")
def _disk_space(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    if not machine.places:
        return unknown("does not report its free space")
    if target.address in wanted.ours:
        return ok("the cluster is on it already")
    needs: dict[str, int] = {}
    for path, need in _needs(target, wanted).items():
        if path in machine.places:
            device = machine.places[path].device
            needs[device] = needs.get(device, 0) + need
    if not needs:
        return unknown("does not report the free space of the needed folders")
    devices = {place.device: place for place in reversed(list(machine.places.values()))}
    short = [(devices[device], need) for device, need in needs.items() if devices[device].free < need]
    if short:
        texts = words(
            (f"has {_size(place.free)} free in {_folders(machine, place)}, {_size(need)} are needed" for place, need in short), "; "
        )
        return failed(texts, "free some, or mount a larger disk there")
    return _crowded(machine, needs, wanted) or ok(f"{_size(min(devices[device].free for device in needs))} free")


def _crowded(machine: MachineFacts, needs: Mapping[str, int], wanted: Wanted) -> Verdict | None:
    """The verdict on a disk with space, on which kubelets would evict pods nevertheless."""
    if machine.evicts_otherwise:
        return None
    for path, least in EVICTION.items():
        place = machine.places.get(path)
        if place is None or not place.total:
            continue
        where, remedy = _folders(machine, place), f"free some, or mount a larger disk there: kubelets evict pods below {least:.0%}"
        now, then = place.free / place.total, (place.free - needs.get(place.device, 0)) / place.total
        if now < least and not wanted.evicts_later:
            return failed(f"{now:.0%} of {where} is free: no pod would be admitted", remedy)
        if then < least:
            return warning(f"{then:.0%} of {where} will be free", remedy)
    return None


def _folders(machine: MachineFacts, place: Place) -> str:
    """The shortest of the folders on the same disk."""
    return min((other.path for other in machine.places.values() if other.device == place.device), key=len)


@check("inodes", "inodes", "images are many small files: a disk can run out of inodes while it has space")
def _inodes(target: Target, wanted: Wanted) -> Verdict:
    counted = [place for place in target.machine.places.values() if place.inodes]
    if not counted:
        return ok("made as needed") if target.machine.places else unknown("does not report its free inodes")
    worst = min(counted, key=lambda place: place.free_inodes)
    text = f"{worst.free_inodes} inodes free on {worst.mount}"
    if worst.free_inodes < 20_000 and target.address not in wanted.ours:
        return failed(f"has {text}", "remove small files there, or recreate the file system with more: mkfs -N")
    if worst.free_inodes < 100_000 or worst.free_inodes / worst.inodes < 0.05:
        return warning(f"has {text}", "kubelets evict pods below 5 %")
    return ok(text)


@check("filesystem", "file systems", "etcd and the layers of containers need a local file system")
def _filesystem(target: Target, _: Wanted) -> Verdict:
    places = target.machine.places
    if not places:
        return unknown("does not report its file systems")
    etcd, images = places.get("/var/lib/etcd"), places.get("/var/lib/containerd")
    if target.is_control_plane and etcd and etcd.kind in _POOR_FOR_ETCD:
        return warning(f"/var/lib/etcd is on {etcd.kind}", "etcd loses data on a remote disk; mount a local one there")
    if target.is_control_plane and etcd and etcd.kind in ("tmpfs", "ramfs"):
        return warning(f"/var/lib/etcd is in memory ({etcd.kind})", "the cluster is lost when the machine restarts; mount a disk there")
    if images and images.kind in _POOR_FOR_IMAGES:
        return warning(f"/var/lib/containerd is on {images.kind}", "overlays do not work there, copies are slow; mount ext4 or xfs")
    return ok(words(dict.fromkeys(place.kind for place in places.values())))


@check("mount-options", "mount options", "programs run from /var/lib/slipway, and those of volumes from /var/lib/kubelet")
def _mount_options(target: Target, _: Wanted) -> Verdict:
    places = target.machine.places
    if not places:
        return unknown("does not report its mounts")
    own, volumes = places.get(STATE), places.get("/var/lib/kubelet")
    if own and "noexec" in own.flags:
        return failed(
            f"{own.mount} is mounted noexec, and programs run from {STATE}", f"mount -o remount,exec {own.mount}, also in /etc/fstab"
        )
    bad = sorted((volumes.flags if volumes else frozenset()) & {"noexec", "nodev"})
    if volumes and bad:
        remedy = f"mount -o remount,exec,dev {volumes.mount}, if pods need it"
        return warning(f"{volumes.mount} is mounted {words(bad)}: volumes of pods will be, too", remedy)
    return ok("programs can run")


@check("read-only", "writable", "files are written to /etc, /opt, /usr/local/bin and /var/lib")
def _read_only(target: Target, _: Wanted) -> Verdict:
    paths = [path for path in target.machine.readonly if not path.startswith("/proc/")]
    if paths:
        return failed(f"{words(paths)} cannot be written to", "mount -o remount,rw, or mount something writable there")
    return ok("all of them")


@check("etcd-disk", "etcd's disk", "etcd confirms a write once its disk has it: its guide allows 10 ms")
def _etcd_disk(target: Target, wanted: Wanted) -> Verdict:
    if not target.is_control_plane:
        return ok("etcd will not run on it")
    if target.address in wanted.ours:
        return ok("etcd runs on it already")
    syncs = sorted(target.probe.syncs) if target.probe else []
    if not syncs:
        return unknown("its speed could not be measured (dd)")
    # Among few measurements the slowest may be chance.
    slowest = syncs[-1 if len(syncs) >= 100 else max(0, len(syncs) - 2)]
    text = f"{slowest * 1000:.1f} ms for a synchronous write (99 %)"
    if slowest > SLOW_SYNC:
        return warning(f"etcd's disk takes {text}", "give /var/lib/etcd an SSD of its own; leaders change when it is slower than 10 ms")
    return ok(text)

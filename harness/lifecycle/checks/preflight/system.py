"""Preflight checks of the kernel, and of other software on a machine."""

from __future__ import annotations

from harness.cloudimage import enforcers
from harness.lifecycle.checks.facts import CLUSTER_SERVICES, FIREWALLS, NODE_PORTS, OLDEST_NFT, RUNTIME_SERVICES
from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.preflight.core import VXLAN_PORT, Target, Wanted, check, occupied, ports_of, words
from harness.lifecycle.provision import distribution
from harness.lifecycle.provision.node_files import FLANNEL, FORWARDING6
from harness.runtimes import API_PORT, NFTABLES_KERNEL, REGISTRY_PORT, profiles

_CONTROLLERS = {1: ("cpu", "cpuacct", "cpuset", "memory", "pids", "devices"), 2: ("cpu", "cpuset", "memory", "pids")}
_CAPABILITIES = {12: "CAP_NET_ADMIN", 21: "CAP_SYS_ADMIN", 19: "CAP_SYS_PTRACE", 7: "CAP_SETUID", 18: "CAP_SYS_CHROOT"}


@check("cgroup", "cgroups", "the controllers that kubelets need")
def _cgroup(target: Target, _: Wanted) -> Verdict:
    machine = target.machine
    if not machine.controllers:
        return unknown(f"cgroup v{machine.cgroup}, with unknown controllers")
    missing = [name for name in _CONTROLLERS[machine.cgroup] if name not in machine.controllers]
    if missing:
        memory = "; boot with cgroup_enable=memory" if "memory" in missing else ""
        return failed(f"cgroup v{machine.cgroup} without {words(missing)}", f"enable it in the kernel's options{memory}")
    if machine.cgroup == 1:
        # KEP-5573 names 1.38 as the earliest version and no date; the source of 1.37 says "in a future release".
        text = (
            "has cgroup v1, on which a kubelet refuses to start by itself since Kubernetes 1.35: slipway sets failCgroupV1: false; "
            "Kubernetes removes its support, in 1.38 at the earliest (KEP-5573)"
        )
        return warning(text, "boot with systemd.unified_cgroup_hierarchy=1")
    return ok(f"v{machine.cgroup}")


@check("kernel-features", "kernel features", "overlay for images, bridge filters and connection tracking for Services, vxlan for pods")
def _kernel_features(target: Target, wanted: Wanted) -> Verdict:
    has = target.machine.features
    if not has:
        return unknown("does not report its features")
    if wanted.proxy_mode == "ipvs" and "ip_vs" not in has:
        return failed("has no ip_vs, which kube-proxy in mode ipvs needs", "install the kernel's modules, or do not set the mode")
    if wanted.proxy_mode == "nftables" and not target.machine.nftables:
        oldest, nft = ".".join(map(str, NFTABLES_KERNEL)), ".".join(map(str, OLDEST_NFT))
        return failed(
            "its kernel does not support nftables, the mode of kube-proxy in this cluster",
            f"kernel {oldest} or newer with nf_tables, and nft {nft} or newer where it has one",
        )
    reasons = {
        "overlay": "images are copied instead, which is slow",
        "br_netfilter": "pods on one machine may not reach each other through Services",
        "nf_conntrack": "Services cannot be translated",
        **({"vxlan": "pods of different machines may not reach each other"} if wanted.vxlan else {}),
    }
    missing = {name: why for name, why in reasons.items() if name not in has}
    if missing:
        modules = words(missing)
        text = words((f"{name}: {why}" for name, why in missing.items()), "; ")
        return warning(f"no module {text}", f"install the kernel's modules (modprobe {modules})")
    return ok(words(name for name in reasons))


@check("nat", "address translation", "Services are rules of the kernel: of nftables, or of iptables in its table nat")
def _nat(target: Target, wanted: Wanted) -> Verdict:
    nat = target.machine.nat
    if target.machine.nftables and wanted.proxy_mode in (None, "nftables"):
        return ok("by nftables")
    if nat is None:
        return unknown("has no iptables")
    if not nat.startswith("yes"):
        return failed(
            f"iptables cannot read the table nat: {nat.removeprefix('no').strip()}", "install the kernel's modules: ip_tables, iptable_nat"
        )
    return ok("works")


@check("network-policies", "network policies", "the kernel supports the image's enforcer of NetworkPolicies")
def _network_policies(target: Target, wanted: Wanted) -> Verdict:
    has = target.machine.has
    if why := enforcers.unserved(wanted.enforcers, has):
        return failed(f"NetworkPolicies would protect nothing: {why}", "use another kernel, or a base image with POLICY=none")
    missing = [each.needs.name for each in wanted.enforcers if each.needs is not None and each.needs.name not in has]
    if missing:
        return unknown(f"does not report whether its kernel has {words(missing)}")
    return ok(enforcers.told(wanted.enforcers))


@check("sysctl", "kernel settings", "forwarding can be enabled, and stays enabled after a restart")
def _sysctl(target: Target, wanted: Wanted) -> Verdict:
    # IPv6 forwarding is needed for dual stack only: see ipv6. Others are needed with a profile only.
    needed = {"net/ipv4/ip_forward", *(name.replace(".", "/") for name in wanted.sysctls)}
    others = {FORWARDING6, *(name.replace(".", "/") for name in profiles.SYSCTLS)} - needed
    refused = [path for name in target.machine.readonly if (path := name.removeprefix("/proc/sys/")) not in (name, *others)]
    if needed & set(refused):
        return failed(f"{words(refused)} cannot be set", "a container must be privileged; else see who mounted /proc/sys read-only")
    if refused:
        return warning(f"{words(refused)} cannot be set", "pods that watch many files may fail")
    if target.machine.unforward:
        return warning(
            f"{words(target.machine.unforward)} switches net.ipv4.ip_forward off",
            "remove the line: after a restart pods would be cut off",
        )
    return ok("can be set")


@check("capabilities", "capabilities", "root has the capabilities that containers need: mounts, networks, devices")
def _capabilities(target: Target, _: Wanted) -> Verdict:
    machine = target.machine
    missing = [name for bit, name in _CAPABILITIES.items() if not machine.capabilities >> bit & 1]
    if missing:
        return failed(f"root has no {words(missing)}", "a container must be privileged")
    if not machine.kmsg:
        return failed("/dev/kmsg cannot be read: no kubelet starts", "give the container the device /dev/kmsg")
    return ok("all" if not machine.restrict_oom else "all but CAP_SYS_RESOURCE, which slipway does not need")


@check("limits", "limits", "a node has many open files and processes")
def _limits(target: Target, _: Wanted) -> Verdict:
    machine = target.machine
    few = [f"{what} at most {count}" for what, count, least in (("open files", machine.files, 16384), ("processes", machine.tasks, 4096))
           if count is not None and count < least]  # fmt: skip
    if few:
        return warning(words(few), "raise it: DefaultLimitNOFILE= in /etc/systemd/system.conf, --pids-limit of a container")
    return ok("enough")


@check("selinux", "SELinux", "systemd may start programs from /var/lib/slipway only where SELinux does not enforce")
def _selinux(target: Target, _: Wanted) -> Verdict:
    if target.machine.selinux:
        return failed("SELinux enforces, and refuses programs from /var/lib", "setenforce 0, and SELINUX=permissive in /etc/selinux/config")
    return ok("does not enforce")


@check("apparmor", "AppArmor", "containers get a profile when the kernel has AppArmor")
def _apparmor(target: Target, _: Wanted) -> Verdict:
    if target.machine.apparmor and "apparmor_parser" not in target.machine.tools:
        return warning("AppArmor is on, but there is no apparmor_parser", "install the package apparmor, or containers run without profile")
    return ok("on" if target.machine.apparmor else "off")


# ---- other software ---------------------------------------------------------------------------------------------------


@check("ports", "ports", "no other program listens on the ports of Kubernetes")
def _ports(target: Target, wanted: Wanted) -> Verdict:
    if target.address in wanted.ours:
        return ok("the cluster's own")
    needed, machine = ports_of(target, wanted), target.machine
    used_ports = sorted(machine.ports & set(needed))
    if used_ports and not occupied(target):
        texts = [f"port {port} is in use{f' by {machine.owners[port]}' if port in machine.owners else ''}, {needed[port]} needs it"
                 for port in used_ports]  # fmt: skip
        return failed(words(texts, "; "), f"stop it; who it is: ss -ltnp 'sport = :{used_ports[0]}'")
    owner = machine.owners.get(distribution.PORT, "")
    # A socket of systemd is slipway's own, of a command that was killed.
    if distribution.PORT in machine.ports and not owner.startswith("systemd "):
        text = f"port {distribution.PORT} is in use{f' by {owner}' if owner else ''}: it does not serve other machines"
        return warning(text, "stop it to speed up large clusters; the other machines still copy from each other")
    return ok("free" if not used_ports else "those of the existing cluster")


@check("node-ports", "ports of Services", "no program listens between 30000 and 32767, where NodePorts are")
def _node_ports(target: Target, wanted: Wanted) -> Verdict:
    used_ports = sorted(port for port in target.machine.ports if port in NODE_PORTS)
    if used_ports and target.address not in wanted.ours and not occupied(target):
        return warning(f"listens on {words(used_ports[:3])}, where NodePorts are", "a Service with that port answers in its place")
    return ok("free")


@check("leftovers", "leftovers", "the machine has no files or services of another Kubernetes")
def _leftovers(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    if target.address in wanted.ours or machine.cluster is not None:
        return ok("the cluster's own" if target.address in wanted.ours else "see: cluster")
    running = sorted(machine.services & set(CLUSTER_SERVICES))
    if machine.left:
        more = f" and {len(machine.left) - 1} more" if len(machine.left) > 1 else ""
        text = f"has {machine.left[0]}{more} of another Kubernetes{f' ({words(running)} runs)' if running else ''}"
        return failed(text, _reset(machine.left[0]))
    if running:
        return failed(f"runs {words(running)} of another cluster", f"systemctl disable --now {words(running, ' ')}, if it is not needed")
    return ok("none")


def _reset(path: str) -> str:
    if "/k3s" in path:
        return "reset that first: k3s-uninstall.sh, or k3s-agent-uninstall.sh"
    if "/rke2" in path:
        return "reset that first: rke2-uninstall.sh"
    if "/k0s" in path:
        return "reset that first: k0s stop; k0s reset"
    if "/microk8s" in path:
        return "reset that first: snap remove --purge microk8s"
    return "reset that first: kubeadm reset --force; rm -rf /etc/cni/net.d /var/lib/etcd"


@check("cni", "pod networks", "no configuration of another pod network precedes the cluster's")
def _cni(target: Target, wanted: Wanted) -> Verdict:
    if target.address in wanted.ours:
        return ok("the cluster's own")
    others = sorted(name for name in target.machine.networks if name.endswith((".conf", ".conflist", ".json")))
    before = [name for name in others if name < FLANNEL]
    if before and wanted.vxlan:
        return failed(f"/etc/cni/net.d/{before[0]} would be the network of pods", f"rm /etc/cni/net.d/{before[0]}")
    if others:
        return warning(f"has /etc/cni/net.d/{others[0]}", "the first one by name is used for pods: remove those that are not needed")
    return ok("none")


@check("runtimes", "container runtimes", "no other container engine runs, whose containers would conflict or be stopped")
def _runtimes(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    running = sorted(machine.services & set(RUNTIME_SERVICES))
    if target.address in wanted.ours:
        return ok("the cluster's own")
    if "docker" in running:
        return warning("runs Docker, whose containerd will be replaced", "stop Docker if its containers matter")
    if running:
        return warning(f"runs {words(running)}", "stop it if it is not needed: two engines conflict on one machine")
    if machine.containers and not occupied(target):
        texts = (f"{count} in {name}" for name, count in machine.containers.items())
        return warning(f"containerd has containers ({words(texts)}), and will be restarted", "list them: ctr namespaces ls")
    return ok("none")


@check("firewall", "firewall", "no firewall drops packets between nodes and pods")
def _firewall(target: Target, wanted: Wanted) -> Verdict:
    machine = target.machine
    running = [name for name in (*FIREWALLS, "ufw") if name in machine.services and name != "nftables"]
    chains = [chain for chain in machine.drops if chain in ("INPUT", "FORWARD")]
    if target.address in wanted.ours:
        chains = []
    ports = words((API_PORT, "2379-2380", REGISTRY_PORT, distribution.PORT, 10250, "30000-32767"))
    needed = f"allow TCP {ports}, UDP {VXLAN_PORT}, and all of {wanted.network.pods}"
    if running:
        return warning(f"{words(running)} is on", f"systemctl disable --now {running[0]}, or {needed}")
    if chains:
        return warning(f"the firewall drops by default ({words(chains)})", needed)
    return ok("none that drops")

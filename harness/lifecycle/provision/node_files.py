"""Files and services of a node beside the rootfs: sysctls, host names, containerd, and the balancer of workers."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from harness import assets
from harness.cloudimage.enforcers import ENFORCERS
from harness.lifecycle.provision import distribution, ipvs
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import STATE, Files, NodeFile
from harness.runtimes import API_NAME, API_PORT, REGISTRY_PORT, ROOTFS, Member, RuntimeCluster, listens, profiles
from harness.untrusted import UntrustedTree

FORWARDING6 = "net/ipv6/conf/all/forwarding"
"""Needed for dual stack only; a kernel without IPv6 does not have it."""

CONTAINERD_SERVICE = f"""[Unit]
Description=containerd container runtime
After=network.target local-fs.target

[Service]
Environment=PATH={ROOTFS}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ExecStartPre=-/bin/sh {STATE}/hosts.sh
ExecStartPre=-/sbin/modprobe overlay
ExecStart={ROOTFS}/bin/containerd --config /etc/containerd/config.toml
Type=notify
Delegate=yes
KillMode=process
Restart=always
RestartSec=1
LimitNPROC=infinity
LimitCORE=infinity
LimitNOFILE=1048576
TasksMax=infinity
OOMScoreAdjust=-999

[Install]
WantedBy=multi-user.target
"""

BALANCER_SERVICE = f"""[Unit]
Description=slipway: balancer to the control-plane nodes
After=network.target

[Service]
ExecStart=/bin/sh {STATE}/balancer.sh
ExecReload=/bin/kill -HUP $MAINPID
Restart=always
RestartSec=1
StartLimitInterval=0
LimitNOFILE=65536

[Install]
WantedBy=multi-user.target
"""

BALANCER_SCRIPT = assets.script("balancer", rootfs=ROOTFS, state=STATE)

SYSCTL = """net.ipv4.ip_forward = 1
net.ipv6.conf.all.forwarding = 1
net.bridge.bridge-nf-call-iptables = 1
net.bridge.bridge-nf-call-ip6tables = 1
fs.inotify.max_user_instances = 8192
fs.inotify.max_user_watches = 524288
"""

HOSTS_MARK = "# slipway"

# At every boot: clouds and container engines rewrite the file then.
_HOSTS = "/etc/hosts"
_KEEP_HOSTS = assets.script("keep_hosts", hosts=_HOSTS, mark=HOSTS_MARK, state=STATE)
CNI_CONFIGS, CNI_PLUGINS = "etc/cni", "bin/cni"
"""Folders of the rootfs: configurations of pod networks, in place before a kubelet starts, and the plugins that they name."""
FLANNEL = "10-flannel.conflist"
_CNI_CONFIG = re.compile(r"\w[\w.-]*\.(conf|conflist|json)", re.ASCII)
_CNI_PLUGIN = re.compile(r"\w[\w.-]*", re.ASCII)


def cni_configs(tree: UntrustedTree) -> tuple[str, ...]:
    """The names of the configurations of pod networks in a rootfs."""
    return tuple(name for name in tree.list(CNI_CONFIGS) if _CNI_CONFIG.fullmatch(name))


def cni_plugins(tree: UntrustedTree) -> tuple[str, ...]:
    """The names of the CNI plugins in a rootfs."""
    return tuple(name for name in tree.list(CNI_PLUGINS) if _CNI_PLUGIN.fullmatch(name))


PULLS: Mapping[str, bool | int] = {
    # Unpacked layers are discarded only by a pull that does not use the transfer service.
    "discard_unpacked_layers": True,
    "max_concurrent_downloads": 8,
    "use_local_image_pull": True,
}
"""containerd's settings for pulls, the same on every machine."""


def containerd_config(pause: str | None, member: Member) -> str:
    """containerd's configuration, version 3, as 2.0 and newer read it. ``pause`` is the sandbox image of every pod."""
    sandbox = f"""
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{pause}"
"""
    pulls = "".join(f"  {name} = {json.dumps(value)}\n" for name, value in PULLS.items())
    return f"""version = 3

[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
{pulls}{sandbox if pause else ""}
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "/etc/containerd/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = {_toml(member.restrict_oom)}

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
  SystemdCgroup = {_toml(member.systemd_cgroups)}

[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["/opt/cni/bin"]
  conf_dir = "/etc/cni/net.d"
"""


def _toml(value: bool) -> str:
    return "true" if value else "false"


def files(
    cluster: RuntimeCluster,
    member: Member,
    *,
    config: str | None = None,
    networks: Mapping[str, str] | None = None,
    plugins: Iterable[str] = (),
) -> Files:
    """The files of a node that do not depend on keys. ``config`` replaces slipway's configuration of containerd, ``networks`` are
    configurations of pod networks by file name, ``plugins`` the programs that they may name.
    """
    config = containerd_config(cluster.facts.pause_image, member) if config is None else config
    files = {
        "/etc/systemd/system/containerd.service": NodeFile.text(CONTAINERD_SERVICE),
        "/etc/containerd/config.toml": NodeFile.text(config),
        "/etc/sysctl.d/90-slipway.conf": NodeFile.text(SYSCTL + _lines(cluster.profile.sysctls)),
        "/etc/modules-load.d/slipway.conf": NodeFile.text("overlay\nbr_netfilter\n"),
        f"{STATE}/hosts.sh": NodeFile.text(_KEEP_HOSTS),
        "/usr/local/bin/ctr": NodeFile(link=f"{ROOTFS}/bin/ctr"),
        **{f"/opt/cni/bin/{name}": NodeFile(link=f"{ROOTFS}/{CNI_PLUGINS}/{name}") for name in plugins},
        **{f"/etc/cni/net.d/{name}": NodeFile.text(text, cluster.profile.mode) for name, text in (networks or {}).items()},
    }
    if cluster.virtual_ip:
        files[ipvs.MARK] = NodeFile.text(f"{cluster.virtual_ip}\n")
    if needs_balancer(member):
        files |= balancer_files(balancer_config(cluster, member))
    return files


def _lines(sysctls: Mapping[str, str]) -> str:
    return "".join(f"{name} = {value}\n" for name, value in sysctls.items())


def balancer_files(text: str) -> Files:
    """The balancer with its configuration, which tells haproxy's and the keeper's apart."""
    if ipvs.is_config(text):
        return ipvs.files(text)
    return {
        "/etc/systemd/system/slipway-balancer.service": NodeFile.text(BALANCER_SERVICE),
        f"{STATE}/balancer.sh": NodeFile.text(BALANCER_SCRIPT),
        f"{STATE}/balancer.cfg": NodeFile.text(text),
    }


def needs_balancer(member: Member) -> bool:
    """Return whether a node needs a balancer: a control-plane node with a registry asks itself only."""
    return not member.is_control_plane or not member.registry


def balancer_config(cluster: RuntimeCluster, member: Member) -> str:
    """Configuration of a node's balancer: haproxy on its loopback, or rules of its kernel."""
    if member.virtual_ip:
        return ipvs.member_config(cluster, member)
    control_plane = [(node.name, node.address) for node in cluster.control_plane]
    holders = [(node.name, node.address) for node in cluster.registries]
    return balancing([] if member.is_control_plane else control_plane, [] if member.registry else holders)


def balancing(control_plane: Sequence[tuple[str, str]], holders: Sequence[tuple[str, str]]) -> str:
    """haproxy's configuration: the loopback leads to ``control_plane`` for the API, and to ``holders`` for images.

    Both are names and addresses; a part without servers is left out.
    """
    parts = [
        f"""global
  maxconn 4096
  stats socket {STATE}/balancer.sock mode 600 level admin expose-fd listeners
  # One that has been replaced serves its connections to their end, but not for ever.
  hard-stop-after 10m
  # Where the machine allows fewer open files than that needs, fewer connections are better than none.
  no strict-limits

defaults
  mode tcp
  timeout connect 2s
  timeout client 24h
  timeout server 24h
  timeout check 2s
  retries 3
  option redispatch 1
  default-server inter 3s fastinter 500ms downinter 500ms fall 2 rise 1 on-marked-down shutdown-sessions
"""
    ]
    if control_plane:
        parts.append(_balanced_api(control_plane))
    if holders:
        lines = _servers(holders, REGISTRY_PORT, "check")
        parts.append(f"listen registry\n  bind 127.0.0.1:{REGISTRY_PORT}\n  balance source\n{lines}")
    return "\n".join(parts)


UNSURE = "api-unsure"
"""haproxy's backend of the API servers when their readiness cannot be determined."""


def _balanced_api(control_plane: Sequence[tuple[str, str]]) -> str:
    """haproxy's part for the API.

    A server that shuts down reports it, and serves on for a moment: it gets no new connections, and open ones are not cut. A server that
    has just started answers 403 before its authorizer is ready: it does not count as ready. In a cluster without anonymous requests every
    server answers 401 or 403, always; then that has to suffice.
    """
    # A single server must take every connection.
    leaving = '  http-check expect error-status L7OKC ! string "[-]shutdown failed"\n' if len(control_plane) > 1 else ""
    check = "check check-ssl verify none"
    return f"""frontend api
  bind 127.0.0.1:{API_PORT}
  use_backend {UNSURE} if {{ nbsrv(api) eq 0 }} {{ nbsrv({UNSURE}) gt 0 }}
  default_backend api

backend api
  balance leastconn
  option httpchk GET /readyz
{leaving}  http-check expect status 200,401
{_servers(control_plane, API_PORT, check)}
backend {UNSURE}
  balance leastconn
  option httpchk GET /readyz
  http-check expect status 200,401,403
  # No server is long in starting.
  default-server inter 10s rise 20
{_servers(control_plane, API_PORT, check)}"""


def _servers(servers: Iterable[tuple[str, str]], port: int, check: str) -> str:
    return "".join(f"  server {host} {f'[{address}]' if ':' in address else address}:{port} {check}\n" for host, address in servers)


def hosts_lines(member: Member) -> tuple[str, ...]:
    """slipway's lines in the node's /etc/hosts."""
    return (f"{member.address if member.is_control_plane else member.virtual_ip or '127.0.0.1'} {API_NAME} {HOSTS_MARK}",)


def set_hosts(node: Node, lines: Iterable[str]) -> None:
    """Replace slipway's lines in /etc/hosts; every other line stays. Written in place: in a container the file is a mount."""
    node.run(f"set -e; mkdir -p {STATE}; cat > {STATE}/hosts\n{_KEEP_HOSTS}", input="".join(f"{line}\n" for line in lines))


_FOLDERS = (
    "/etc/kubernetes", "/etc/containerd", "/etc/cni/net.d", "/etc/cni", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/containerd",
    "/var/lib/cni", "/opt/cni/bin", "/opt/cni", "/opt/containerd/bin", "/opt/containerd/lib", "/opt/containerd", "/run/containerd",
    "/run/flannel", "/var/run/kubernetes", "/var/log/pods", "/var/log/containers", profiles.AUDIT, "/usr/libexec/kubernetes", "/root/.kube",
    "/root/.cache/helm", "/root/.config/helm", "/root/.local/share/helm",
)  # fmt: skip
"""Folders that a cluster uses, children before their parents: new ones are removed with the cluster."""


def note_state(sysctls: Mapping[str, str]) -> str:
    """Shell text that saves the previous state of a machine: services, folders, interfaces, sysctls.

    Saved once, before the first change. ``sysctls`` are settings beyond those of every cluster.
    """
    return assets.script(
        "note_state", folders=" ".join(_FOLDERS), settings=SYSCTL, state=STATE, sysctls=" ".join((*ipvs.SYSCTLS, *sysctls))
    )


def apply(cluster: RuntimeCluster) -> str:
    """Shell text that applies the files of ``files``."""
    # Forwarding and the settings of the profile are required; the others depend on the kernel.
    needed = dict.fromkeys(("net/ipv4/ip_forward", *([FORWARDING6] if cluster.network.dual else [])), "1")
    needed |= {name.replace(".", "/"): value for name, value in cluster.profile.sysctls.items()}
    checks = ""
    for name, value in needed.items():
        complain = f"echo '{name.replace('/', '.')} cannot be set to {value}' >&2; exit 1"
        checks += f'[ "$(cat /proc/sys/{name})" = {value} ] || {{ {complain}; }}\n'
    return f"""systemctl daemon-reload
for module in overlay br_netfilter; do modprobe $module 2>/dev/null || true; done
sysctl -e -q -p /etc/sysctl.d/90-slipway.conf 2>/dev/null || true
{checks}"""


OVERLAY_WORKS = assets.script("probe_overlay")

_CONTAINERD_ANSWERS = f"""end=$(($(date +%s) + 30))
until {ROOTFS}/bin/ctr version > /dev/null 2>&1; do
  if [ "$(date +%s)" -gt "$end" ]; then journalctl -u containerd -n 20 --no-pager -o cat >&2; exit 1; fi
  sleep 0.1
done"""


def start_containerd(node: Node) -> None:
    """(Re)start containerd and wait until it answers."""
    node.run(
        f"{OVERLAY_WORKS}systemctl enable --no-reload containerd 2>&1; systemctl restart containerd && {_CONTAINERD_ANSWERS}",
        timeout=LONG_TIMEOUT,
    )


def fetch(node: Node, images: Iterable[str]) -> None:
    """Pull missing images, two at a time. An image that cannot be pulled is left to the step that needs it."""
    ctr = f"{ROOTFS}/bin/ctr -n k8s.io"
    names = " ".join(shlex.quote(name) for name in images)
    pull = f"xargs -P 2 -I NAME {ctr} images pull --hosts-dir /etc/containerd/certs.d NAME"
    # Unpacked layers are not kept twice, as for every other image of the cluster.
    node.run(f"{{ printf '%s\\n' {names} | {pull}; {ctr} content prune references --async; }} > /dev/null 2>&1 || true", timeout=1800)


def start_balancer(node: Node, text: str) -> None:
    """Start or reload a balancer, and wait until it works. No connection is cut."""
    if ipvs.is_config(text):
        ipvs.start(node)
        return
    wait = listening("slipway-balancer", REGISTRY_PORT)
    node.run(
        f"systemctl enable --no-reload slipway-balancer 2>&1; systemctl reload-or-restart slipway-balancer; {wait}", timeout=LONG_TIMEOUT
    )


def listening(unit: str, port: int) -> str:
    """Shell text that waits until a unit listens on a TCP port, and prints the unit's log when it does not."""
    return f"""end=$(($(date +%s) + 20))
until {listens(port)}; do
  if [ "$(date +%s)" -gt "$end" ]; then journalctl -u {unit} -n 20 --no-pager -o cat >&2; exit 1; fi
  sleep 0.1
done"""


_LINKS = ("flannel.1", "flannel-v6.1", "cni0")
_TABLES = (
    "ip kube-proxy", "ip6 kube-proxy", "ip flannel-ipv4", "ip6 flannel-ipv6", "ip slipway-services", "ip6 slipway-services",
    "ip cni_hostport", "ip6 cni_hostport", "inet cni_plugins_masquerade", *(table for enforcer in ENFORCERS for table in enforcer.tables),
)  # fmt: skip


def drop_tables(node: Node, tables: Iterable[str]) -> None:
    """Remove tables of nf_tables from a machine, if they exist."""
    node.run(assets.script("drop_tables", *tables, rootfs=ROOTFS))


CLEAN = assets.script("clean", *_TABLES, **distribution.PLACES, links=" ".join(_LINKS), rootfs=ROOTFS, state=STATE)

RESTORE = assets.script("restore", folders=" ".join(_FOLDERS), hosts=_HOSTS, mark=HOSTS_MARK, state=STATE)

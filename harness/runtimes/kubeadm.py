"""Runtime ``kubeadm``: control-plane nodes start in parallel, and the result is an ordinary kubeadm cluster.

kubeadm's own phases write certificates, manifests and configuration; slipway decides their order. The keys that control-plane nodes
share exist before any of them starts, etcd's members know each other from the beginning, and workers start with certificates that are
already issued, so no node waits for another.
"""

from __future__ import annotations

import base64
import datetime
import shlex
from collections.abc import Iterable, Mapping, Sequence

from harness import assets, log
from harness.errors import CheckError, CommandError, StoreError
from harness.nodes import LONG_TIMEOUT, Node, each
from harness.nodes.files import STATE, Files, NodeFile, read_files, write_files
from harness.runtimes import API_PORT, DNS_DOMAIN, ROOTFS, Member, RuntimeCluster, addons, configuration, documents
from harness.runtimes.configuration import CRI_SOCKET, SERVING_CRT, SERVING_KEY
from harness.runtimes.kubeconfig import ADMIN, SUPER_ADMIN, administrator, kubeconfig
from harness.runtimes.pki import ADMINISTRATORS, ENCRYPTION, FOLDER, LEAF_DAYS, SHARED, Pair, Pki, control_plane_certificates

RUNTIME = "kubeadm"
"""The name of this runtime in a CloudImage."""
CONFIG = f"{STATE}/kubeadm.yaml"
KUBEADM = f"{ROOTFS}/bin/kubeadm"
# With a home of its own, so that its cache is not left in root's.
KUBECTL = f"HOME={STATE} KUBECONFIG={ADMIN} {ROOTFS}/bin/kubectl"
CLIENT_PEM = "/var/lib/kubelet/pki/kubelet-client-current.pem"
_KUBELET_CONFIG = "/var/lib/kubelet/config.yaml"
INSTANCE = "/var/lib/kubelet/instance-config.yaml"
"""Node-specific part of a kubelet's configuration: ``kubeadm upgrade node`` merges it over the cluster's."""
CRI_ANNOTATION = "kubeadm.alpha.kubernetes.io/cri-socket"

KUBELET_SERVICE = """[Unit]
Description=kubelet: The Kubernetes Node Agent
Documentation=https://kubernetes.io/docs/home/
Wants=network-online.target containerd.service
After=network-online.target containerd.service

[Service]
ExecStart=/usr/local/bin/kubelet
Restart=always
StartLimitInterval=0
RestartSec=1

[Install]
WantedBy=multi-user.target
"""

# The drop-in of kubeadm's own packages: kubeadm writes the files that it names.
KUBELET_DROP_IN = """[Service]
Environment="KUBELET_KUBECONFIG_ARGS=--bootstrap-kubeconfig=/etc/kubernetes/bootstrap-kubelet.conf \\
--kubeconfig=/etc/kubernetes/kubelet.conf"
Environment="KUBELET_CONFIG_ARGS=--config=/var/lib/kubelet/config.yaml"
EnvironmentFile=-/var/lib/kubelet/kubeadm-flags.env
EnvironmentFile=-/etc/default/kubelet
ExecStart=
ExecStart=/usr/local/bin/kubelet $KUBELET_KUBECONFIG_ARGS $KUBELET_CONFIG_ARGS $KUBELET_KUBEADM_ARGS $KUBELET_EXTRA_ARGS
"""

_KUBECONFIGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "admin": ("kubernetes-admin", (ADMINISTRATORS,)),
    "super-admin": ("kubernetes-super-admin", ("system:masters",)),
    "controller-manager": ("system:kube-controller-manager", ()),
    "scheduler": ("system:kube-scheduler", ()),
}
"""Kubeconfigs of a control-plane node, besides its kubelet's: user and groups."""

_INSTANCES = 34
"""From this minor version on kubeadm reads ``INSTANCE``; before that it wants an annotation of the node."""
_NOT_YET = r"node\.kubernetes\.io/(not-ready|unreachable|network-unavailable)|node\.cloudprovider\.kubernetes\.io/uninitialized"
"""Taints of a node that is still on its way."""

_STATES = (
    '{{range .items}}{{range .status.conditions}}{{if eq .type "Ready"}}{{.status}}{{end}}{{end}}'
    " {{range .spec.taints}}{{.key}} {{end}}{{println}}{{end}}"
)
"""A line for each node: whether it is Ready, and its taints."""

_PROGRAMS = ("kubeadm", "kubelet", "kubectl")


class Kubeadm:
    """Makes a cluster of machines on which rootfs, containerd and images are ready.

    Every method may be called again after a failure or a kill.
    """

    def __init__(self, cluster: RuntimeCluster) -> None:
        self.cluster = cluster
        self._pki: Pki | None = None

    @property
    def pki(self) -> Pki:
        if self._pki is None:
            raise RuntimeError("prepare() comes first")
        return self._pki

    @property
    def identity(self) -> str:
        """Unique identity of the cluster, also among clusters of one name."""
        return self.pki.identity

    @property
    def _days(self) -> int:
        return self.cluster.certificate_days or LEAF_DAYS

    @property
    def first(self) -> Member:
        """The first control-plane node that answers."""
        return next((member for member in self.cluster.control_plane if not member.away), self.cluster.control_plane[0])

    def prepare(self) -> None:
        """Read the cluster's keys from a control-plane node that has them (an earlier run was killed), or make new ones.

        They are written to the first control-plane node before they are used, so no later run can make others. Raises StoreError when
        control-plane nodes have keys of different clusters, or when the cluster encrypts Secrets and no profile is requested.
        """
        paths = [f"{FOLDER}/{name}" for name in SHARED]
        existing: list[tuple[str, Pki]] = []
        answering = [member for member in self.cluster.control_plane if not member.away]
        for member, files in zip(answering, each(answering, lambda member: read_files(member.node, paths)), strict=True):
            pki = Pki.of({name: files.get(f"{FOLDER}/{name}", b"") for name in SHARED})
            if pki is not None:
                existing.append((member.name, pki))
        pki = _one(existing) or Pki.make(days=self._days)
        if pki.encrypts and not self.cluster.profile.encrypts:
            raise StoreError(
                f"the cluster {self.cluster.name} was begun with a profile: Secrets may be encrypted already",
                hint="give the same one: --profile cis, or profile: cis in the Clusterfile; or slipway delete",
            )
        self._pki = pki.encrypting() if self.cluster.profile.encrypts else pki
        write_files(self.first.node, self._pki.placed)

    def authority(self) -> bytes:
        """CA certificate, PEM, by which nodes verify the cluster's servers."""
        return self.pki.files["ca.crt"]

    def serving(self, hosts: tuple[str, ...], name: str) -> tuple[bytes, bytes]:
        """Certificate and key, PEM, for a server that slipway runs."""
        pair = self.pki.authority.issue(name, hosts=hosts, server=True, days=3650)
        return pair.certificate, pair.key

    def secret(self, purpose: str) -> str:
        """Secret of the cluster for one purpose: the same in every later command, different in every cluster."""
        return self.pki.authority.secret(purpose)

    @property
    def units(self) -> Files:
        """Services and links that every node needs; undone by delete."""
        links = {f"/usr/local/bin/{name}": NodeFile(link=f"{ROOTFS}/bin/{name}") for name in _PROGRAMS}
        profile = self.cluster.profile
        return {
            "/etc/systemd/system/kubelet.service": NodeFile.text(KUBELET_SERVICE, profile.mode),
            "/etc/systemd/system/kubelet.service.d/10-kubeadm.conf": NodeFile.text(KUBELET_DROP_IN, profile.mode),
            **profile.units,
            **links,
        }

    def start_kubelet(self, member: Member) -> None:
        """Start the kubelet with its certificate. It takes seconds to get ready, which others use: nothing else need be there yet."""
        mode = self.cluster.profile.mode
        if member.is_control_plane:
            files = {**self._configuration(member), **self.pki.placed}
            folders = "".join(f"mkdir -p {folder} && chmod 700 {folder} && " for folder in self.cluster.profile.folders)
            # kubeadm keeps the mode of what it writes over, and chooses one itself where there is nothing.
            start = f"{folders}{KUBEADM} init phase kubelet-start --config {CONFIG} && chmod {mode:o} {_KUBELET_CONFIG}"
        else:
            files = {
                f"{FOLDER}/ca.crt": NodeFile(self.authority(), 0o644),
                _KUBELET_CONFIG: NodeFile.text(documents(configuration.worker_kubelet(self.cluster, member)), mode),
                INSTANCE: NodeFile.text(f'containerRuntimeEndpoint: "{CRI_SOCKET}"\n'),
                "/var/lib/kubelet/kubeadm-flags.env": NodeFile.text(configuration.kubelet_flags(self.cluster, member)),
            }
            start = "systemctl restart kubelet"
        write_files(member.node, {**files, **self._client(member), **self._serving(member)})
        member.node.run(f"mkdir -p /etc/kubernetes/manifests && {start} && systemctl enable --no-reload kubelet 2>&1", timeout=LONG_TIMEOUT)

    def _configuration(self, member: Member) -> dict[str, NodeFile]:
        return {
            CONFIG: NodeFile.text(configuration.control_plane_config(self.cluster, member, initial=True), 0o600),
            f"{CONFIG}.upload": NodeFile.text(configuration.control_plane_config(self.cluster, member, initial=False), 0o600),
            **self.cluster.profile.files,
        }

    def configure(self, member: Member) -> None:
        """Write kubeadm's configuration on a running control-plane node; it has no effect before a phase runs."""
        write_files(member.node, self._configuration(member))

    def store_image(self, member: Member) -> str:
        """etcd image that ``configure`` has determined; empty when kubeadm names none."""
        listed = member.node.run(f"{KUBEADM} config images list --config {CONFIG} 2>/dev/null", timeout=60).stdout.split()
        return next((image for image in listed if "/etcd:" in image), "")

    def certify(self, member: Member) -> None:
        """Write all certificates and kubeconfigs of a control-plane node: kubeadm checks them, and adds those of newer versions."""
        write_files(member.node, self._certificates(member))
        # Not its phase for kubeconfigs: it makes an RSA key for each before it compares.
        self._phases(member, "certs all")

    def start_control_plane(self, member: Member) -> None:
        """etcd and the API server; the kubelet sees their manifests at once."""
        self._phases(member, "etcd local", "control-plane apiserver")

    def join_store(self, member: Member, peers: str) -> None:
        """Start etcd of a joining control-plane node: ``peers`` must be exactly the current members."""
        write_files(
            member.node, {CONFIG: NodeFile.text(configuration.control_plane_config(self.cluster, member, initial=True, peers=peers), 0o600)}
        )
        self._phases(member, "etcd local")

    def join_control_plane(self, member: Member) -> None:
        """The API server; what would be there of an earlier attempt started without its database."""
        self._phases(member, "control-plane apiserver")

    def start_controllers(self, member: Member) -> None:
        """Start controller manager and scheduler of a control-plane node whose API answers."""
        self._phases(member, "control-plane controller-manager", "control-plane scheduler")

    def wait_api(self, member: Member, timeout: float) -> None:
        """Wait until the API of a control-plane node is ready, its controllers were started and ``ADMIN`` works.

        Raises CheckError with the reason.
        """
        script = assets.script(
            "wait_api",
            admin=ADMIN,
            config=CONFIG,
            group=ADMINISTRATORS,
            port=f"{API_PORT:04X}",
            rootfs=ROOTFS,
            state=STATE,
            super_admin=SUPER_ADMIN,
            timeout=int(timeout),
        )
        result = member.node.run(script, check=False, timeout=timeout + 30)
        if not result.ok:
            raise CheckError(
                f"the API of {member.name} does not answer after {timeout:.0f} s: {(result.output.splitlines() or ['no reason'])[-1]}",
                hint="the logs below are of its parts; the full ones are in /var/log/pods and `journalctl -u kubelet` there",
                details=self._control_plane_logs(member),
            )

    def hasten(self, member: Member) -> None:
        """Have the kubelet of a node, which was started before the API, register at once."""
        member.node.run(assets.script("hasten_kubelet", name=member.name, rootfs=ROOTFS, state=STATE), timeout=LONG_TIMEOUT)

    def _phases(self, member: Member, *phases: str) -> None:
        member.node.run(" && ".join(f"{KUBEADM} init phase {phase} --config {CONFIG}" for phase in phases), timeout=LONG_TIMEOUT)

    def finish(self, manifests: Mapping[str, str]) -> None:
        """Run the cluster-wide phases once, on the first control-plane node. ``welcome`` marks each node.

        ``manifests``, by file name, are addons that nodes need to become ready.
        """
        upload = f"{KUBEADM} init phase %s --config {CONFIG}.upload"
        commands = [upload % "upload-config all", upload % "bootstrap-token"]
        commands.append(upload % ("addon kube-proxy" if self.cluster.own_dns else "addon all"))
        commands += self._applying(manifests)
        self.first.node.run(_at_once(commands), timeout=300)

    def update(self, manifests: Mapping[str, str]) -> None:
        """As ``finish``, for a cluster whose control-plane nodes have another version: their labels and taints are kept."""
        self.finish(manifests)
        # Rules stay while a kube-proxy is replaced; kubeadm would have it done on one node after the other.
        faster = '{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":"20%"}}}}'
        command = f"{KUBECTL} --namespace=kube-system patch daemonset kube-proxy --type=merge -p {shlex.quote(faster)}"
        self.first.node.run(command, check=False, timeout=60)

    def apply(self, manifests: Mapping[str, str], timeout: float) -> None:
        """Apply manifests as soon as a node takes pods. Earlier the scheduler would try in vain, and then again at growing intervals.

        A node that is short of something (disk-pressure) does not take any for long: the caller that waits for the pods explains it.
        """
        script = f"""end=$(($(date +%s) + {int(timeout)}))
until {KUBECTL} get nodes -o go-template={shlex.quote(_STATES)} 2>/dev/null | grep '^True' | grep -qvE {shlex.quote(_NOT_YET)}; do
  [ "$(date +%s)" -lt "$end" ] || break
  sleep 0.5
done"""
        self.first.node.run(script, timeout=timeout + 30)
        if manifests:
            self.first.node.run(_at_once(self._applying(manifests)), timeout=300)

    def _applying(self, manifests: Mapping[str, str]) -> list[str]:
        """Commands that apply manifests, which are written to the first control-plane node, and label their objects."""
        if not manifests:
            return []
        write_files(self.first.node, {f"{STATE}/addons/{name}": NodeFile.text(text) for name, text in manifests.items()})
        return [_apply(name, text) for name, text in sorted(manifests.items())]

    def welcome(self, member: Member) -> None:
        """Label and taint a control-plane node, and register it in the cluster."""
        commands = [f"{KUBEADM} init phase mark-control-plane --config {CONFIG}.upload"]
        if member is not self.first:
            # Adds the member's own address to what the first one has uploaded.
            commands.append(f"{KUBEADM} init phase upload-config kubeadm --config {CONFIG}.upload")
        member.node.run(_at_once(commands), timeout=300)

    def registered(self) -> None:
        """Tell kubeadm, for ``kubeadm upgrade`` and ``reset``, which container runtime every node uses."""
        if self.cluster.facts.minor < _INSTANCES:
            self.first.node.run(f"{KUBECTL} annotate node --all --overwrite {CRI_ANNOTATION}={CRI_SOCKET}", timeout=60)

    def kubeconfig(self, server: str) -> bytes:
        """Administrator's kubeconfig for other machines: ``server`` is the address of a control-plane node."""
        return administrator(self.first.node, server, self.cluster.name, self.authority())

    def _client(self, member: Member) -> dict[str, NodeFile]:
        """The kubelet's own certificate, laid out as TLS bootstrap leaves it, so that its rotation works."""
        user = f"system:node:{member.name}"
        pair = self.pki.authority.issue(user, organizations=["system:nodes"], days=self._days)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d-%H-%M-%S")
        dated = CLIENT_PEM.replace("current", stamp)
        config = kubeconfig(self.cluster.name, self.authority(), user, {"client-certificate": CLIENT_PEM, "client-key": CLIENT_PEM})
        return {
            dated: NodeFile(pair.certificate + pair.key, 0o600),
            CLIENT_PEM: NodeFile(link=dated),
            "/etc/kubernetes/kubelet.conf": NodeFile.text(config, 0o600),
        }

    def _serving(self, member: Member) -> dict[str, NodeFile]:
        """The certificate by which API servers know the kubelet, where the profile has them ask for one."""
        if not self.cluster.profile.serving:
            return {}
        pair = serving_pair(self.pki, member.name, [member.address, *([member.address6] if member.address6 else [])], self._days)
        return {SERVING_CRT: NodeFile(pair.certificate, 0o644), SERVING_KEY: NodeFile(pair.key, 0o600)}

    def _certificates(self, member: Member) -> dict[str, NodeFile]:
        names = [member.name, "kubernetes", "kubernetes.default", "kubernetes.default.svc", f"kubernetes.default.svc.{DNS_DOMAIN}"]
        api_hosts = [*names, self.cluster.network.api, member.address, *configuration.api_names(self.cluster)]
        asked = [
            name
            for kind in ("serverCertSANs", "peerCertSANs")
            for name in configuration.requested_names(self.cluster, "etcd", "local", kind)
        ]
        etcd_hosts = [member.name, "localhost", "127.0.0.1", "::1", member.address, *asked]
        files: dict[str, NodeFile] = {}
        for name, pair in control_plane_certificates(self.pki, member.name, api_hosts, etcd_hosts, self._days).items():
            files[f"{FOLDER}/{name}.crt"] = NodeFile(pair.certificate, 0o644)
            files[f"{FOLDER}/{name}.key"] = NodeFile(pair.key, 0o600)
        for name, (user, organizations) in _KUBECONFIGS.items():
            pair = self.pki.authority.issue(user, organizations=organizations, days=self._days)
            credentials = {
                "client-certificate-data": base64.b64encode(pair.certificate).decode(),
                "client-key-data": base64.b64encode(pair.key).decode(),
            }
            files[f"/etc/kubernetes/{name}.conf"] = NodeFile.text(kubeconfig(self.cluster.name, self.authority(), user, credentials), 0o600)
        return files

    def _control_plane_logs(self, member: Member) -> str:
        script = """for part in etcd kube-apiserver; do
  for file in $(ls -t /var/log/pods/kube-system_${part}-*/*/*.log 2>/dev/null | head -1); do echo "$part:"; tail -n 8 "$file"; done
done; journalctl -u kubelet -n 8 --no-pager -o cat 2>/dev/null"""
        try:
            return member.node.run(script, check=False, timeout=30).output
        except CommandError as error:
            log.debug(error.message)
            return ""


def _one(existing: Sequence[tuple[str, Pki]]) -> Pki | None:
    """Keys that control-plane nodes (by name) have, if any. Raises StoreError when they differ."""
    clusters = {pki.identity: name for name, pki in reversed(existing)}
    if len(clusters) > 1:
        names = " and ".join(name for name, pki in existing if clusters[pki.identity] == name)
        raise StoreError(f"{names} have the keys of different clusters", hint="delete the old cluster first: slipway delete")
    encrypting = [(name, pki) for name, pki in existing if pki.encrypts]
    if len({pki.files[ENCRYPTION] for _, pki in encrypting}) > 1:
        names = " and ".join(name for name, _ in encrypting)
        raise StoreError(f"{names} have different keys for Secrets", hint="slipway certs rotate-secrets ends a rotation that was cut off")
    return next((pki for _, pki in (*encrypting, *existing)), None)


def serving_pair(pki: Pki, name: str, addresses: Iterable[str], days: int) -> Pair:
    """A kubelet's certificate as a server: for its node's name and addresses only."""
    return pki.authority.issue(f"system:node:{name}", organizations=["system:nodes"], hosts=[name, *addresses], server=True, days=days)


def reset(node: Node) -> None:
    """Undo on one machine what kubeadm and the kubelet did there, also what half worked; needs nothing but the machine."""
    node.run(_RESET, timeout=LONG_TIMEOUT)


def _apply(name: str, text: str) -> str:
    file = f"-f {STATE}/addons/{shlex.quote(name)}"
    # Without validation: the schema alone takes a second to read.
    command = f"{KUBECTL} apply --validate=false {file}"
    return command if addons.labelled(text) else f"{command} && {KUBECTL} label --overwrite {file} {addons.LABEL}={addons.value(name)}"


def _at_once(commands: list[str]) -> str:
    """Shell text that runs commands at the same time and fails, with all that was said, when one of them does.

    Each has three tries: an API server that has just started, or has no time, turns away what it takes a moment later.
    """
    script = ["pids="]
    script += [f'( for try in 1 2 3; do ( {command} ) && exit 0; sleep $try; done; exit 1 ) & pids="$pids $!"' for command in commands]
    return "\n".join([*script, "failed=0", 'for pid in $pids; do wait "$pid" || failed=1; done', "exit $failed"])


# Only what is on the machine: its place in etcd and among the nodes is the cluster's, which may be gone.
_RESET = """set -u
systemctl stop kubelet 2>/dev/null
grep -o ' /var/lib/kubelet/[^ ]*' /proc/mounts | sort -r | while read -r place; do umount -l "$place" 2>/dev/null; done
rm -rf /etc/kubernetes/pki /etc/kubernetes/slipway /etc/kubernetes/*.conf /etc/kubernetes/manifests/* /etc/kubernetes/tmp
exit 0
"""

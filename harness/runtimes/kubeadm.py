"""Runtime ``kubeadm``: control-plane nodes start in parallel, and the result is an ordinary kubeadm cluster.

kubeadm's own phases write certificates, manifests and configuration; slipway decides their order. The keys that control-plane nodes
share exist before any of them starts, etcd's members know each other from the beginning, and workers start with certificates that are
already issued, so no node waits for another.
"""

from __future__ import annotations

import base64
import datetime
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from harness import log, untrusted
from harness.clusterfile.kubeadm import VERSION, merge_kubeadm
from harness.errors import CheckError, CommandError, NodeError, StoreError
from harness.nodes import LONG_TIMEOUT, Node, each
from harness.nodes.files import STATE, Files, NodeFile, read_files, write_files
from harness.runtimes import API_NAME, API_PORT, DEFAULT_PREFIX6, DNS_DOMAIN, ROOTFS, Member, RuntimeCluster, addons, documents, listens
from harness.runtimes.pki import ADMINISTRATORS, ENCRYPTION, FOLDER, LEAF_DAYS, SHARED, Pair, Pki, master_certificates
from harness.untrusted import KubeIdentity

CRI_SOCKET = "unix:///run/containerd/containerd.sock"
CONFIG = f"{STATE}/kubeadm.yaml"
ADMIN = "/etc/kubernetes/admin.conf"
SUPER_ADMIN = "/etc/kubernetes/super-admin.conf"
"""Its user may do everything whatever the cluster says; ``ADMIN`` is of use once the cluster says that its group may."""
KUBEADM = f"{ROOTFS}/bin/kubeadm"
# With a home of its own, so that its cache is not left in root's.
KUBECTL = f"HOME={STATE} KUBECONFIG={ADMIN} {ROOTFS}/bin/kubectl"
CLIENT_PEM = "/var/lib/kubelet/pki/kubelet-client-current.pem"
SERVING_CRT, SERVING_KEY = "/var/lib/kubelet/pki/kubelet.crt", "/var/lib/kubelet/pki/kubelet.key"
"""Default path at which a kubelet creates a self-signed certificate, unless the file exists."""
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
_LATE_PHASES = ("control-plane controller-manager", "control-plane scheduler")
_LEAVING = 10
"""Seconds that an API server serves on once it says that it ends: balancers look every 3 s, and kube-proxies follow the API. With the time
for its last requests that is less than the 30 s after which a kubelet kills it."""
_WATCHES = 10
"""Seconds, at most, in which it ends its watches; it would wait for them to end, and be killed."""
_SMALL = 20
"""Nodes up to which their kubelets may ask the API often."""

_NOT_YET = r"node\.kubernetes\.io/(not-ready|unreachable|network-unavailable)|node\.cloudprovider\.kubernetes\.io/uninitialized"
"""Taints of a node that is still on its way."""

_STATES = (
    '{{range .items}}{{range .status.conditions}}{{if eq .type "Ready"}}{{.status}}{{end}}{{end}}'
    " {{range .spec.taints}}{{.key}} {{end}}{{println}}{{end}}"
)
"""A line for each node: whether it is Ready, and its taints."""

_PROGRAMS = ("kubeadm", "kubelet", "kubectl")

DECIDED: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "InitConfiguration": (("localAPIEndpoint",), ("nodeRegistration", "name"), ("nodeRegistration", "criSocket"), ("certificateKey",)),
    "ClusterConfiguration": (
        ("kubernetesVersion",),
        ("clusterName",),
        ("controlPlaneEndpoint",),
        ("imageRepository",),
        ("certificatesDir",),
        ("networking", "podSubnet"),
        ("networking", "serviceSubnet"),
        ("networking", "dnsDomain"),
        ("etcd", "external"),
        ("etcd", "local", "dataDir"),
    ),
    "KubeletConfiguration": (("staticPodPath",), ("clusterDNS",), ("clusterDomain",), ("containerRuntimeEndpoint",)),
}
"""Keys that slipway decides, by kind: merged documents cannot change them."""


class Kubeadm:
    """Implements ``Runtime``."""

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
        return self.pki.identity

    @property
    def _days(self) -> int:
        return self.cluster.certificate_days or LEAF_DAYS

    @property
    def first(self) -> Member:
        """The first control-plane node that answers."""
        return next((master for master in self.cluster.masters if not master.away), self.cluster.masters[0])

    def prepare(self) -> None:
        """Read the cluster's keys from a control-plane node that has them (an earlier run was killed), or make new ones.

        They are written to the first control-plane node before they are used, so no later run can make others. Raises StoreError when
        control-plane nodes have keys of different clusters, or when the cluster encrypts Secrets and no profile is requested.
        """
        paths = [f"{FOLDER}/{name}" for name in SHARED]
        existing: list[tuple[str, Pki]] = []
        masters = [master for master in self.cluster.masters if not master.away]
        for member, files in zip(masters, each(masters, lambda master: read_files(master.node, paths)), strict=True):
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
        return self.pki.files["ca.crt"]

    def serving(self, hosts: tuple[str, ...], name: str) -> tuple[bytes, bytes]:
        pair = self.pki.authority.issue(name, hosts=hosts, server=True, days=3650)
        return pair.certificate, pair.key

    def secret(self, purpose: str) -> str:
        return self.pki.authority.secret(purpose)

    def units(self, member: Member) -> Files:  # noqa: ARG002 -- all have the same
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
        if member.is_master:
            configuration = {**self._configuration(member), **self.pki.placed}
            folders = "".join(f"mkdir -p {folder} && chmod 700 {folder} && " for folder in self.cluster.profile.folders)
            # kubeadm keeps the mode of what it writes over, and chooses one itself where there is nothing.
            start = f"{folders}{KUBEADM} init phase kubelet-start --config {CONFIG} && chmod {mode:o} {_KUBELET_CONFIG}"
        else:
            configuration = {
                f"{FOLDER}/ca.crt": NodeFile(self.authority(), 0o644),
                _KUBELET_CONFIG: NodeFile.text(documents(worker_kubelet(self.cluster, member)), mode),
                INSTANCE: NodeFile.text(f'containerRuntimeEndpoint: "{CRI_SOCKET}"\n'),
                "/var/lib/kubelet/kubeadm-flags.env": NodeFile.text(kubelet_flags(self.cluster, member)),
            }
            start = "systemctl restart kubelet"
        write_files(member.node, {**configuration, **self._client(member), **self._serving(member)})
        member.node.run(f"mkdir -p /etc/kubernetes/manifests && {start} && systemctl enable --no-reload kubelet 2>&1", timeout=LONG_TIMEOUT)

    def _configuration(self, member: Member) -> dict[str, NodeFile]:
        return {
            CONFIG: NodeFile.text(master_config(self.cluster, member, initial=True), 0o600),
            f"{CONFIG}.upload": NodeFile.text(master_config(self.cluster, member, initial=False), 0o600),
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

    def start_master(self, member: Member) -> None:
        """etcd and the API server; the kubelet sees their manifests at once."""
        self._phases(member, "etcd local", "control-plane apiserver")

    def join_store(self, member: Member, peers: str) -> None:
        """Start etcd of a joining control-plane node: ``peers`` must be exactly the current members."""
        write_files(member.node, {CONFIG: NodeFile.text(master_config(self.cluster, member, initial=True, peers=peers), 0o600)})
        self._phases(member, "etcd local")

    def join_master(self, member: Member) -> None:
        """The API server; what would be there of an earlier attempt started without its database."""
        self._phases(member, "control-plane apiserver")

    def start_controllers(self, member: Member) -> None:
        """Start controller manager and scheduler of a control-plane node whose API answers."""
        self._phases(member, *_LATE_PHASES)

    def wait_api(self, member: Member, timeout: float) -> None:
        """Wait until the API of a control-plane node is ready and ``ADMIN`` works. Raises CheckError with the reason.

        Controllers and scheduler are started once it responds at all: earlier they would compete for the processor and retry at growing
        intervals, later their start would delay the cluster.
        """
        # A repeated wait, after an interrupted run or a reboot, finds them started.
        late = f"""[ "$(cksum < {CONFIG})" = "$(cat {STATE}/controllers 2>/dev/null)" ] || {{
  {_init(_LATE_PHASES)} && cksum < {CONFIG} > {STATE}/controllers; }}"""
        # Before it is ready the API answers with a list of what is missing; kubectl fails then, but not for lack of a connection.
        # Who may see that list the cluster knows only later: whom it need not know asks. A cautious owner may have put its file away.
        kubectl = KUBECTL.replace(ADMIN, "$admin")
        binding = f"create clusterrolebinding {ADMINISTRATORS} --clusterrole=cluster-admin --group={ADMINISTRATORS}"
        script = f"""admin={SUPER_ADMIN}; [ -f $admin ] || admin={ADMIN}
end=$(($(date +%s) + {int(timeout)}))
begun=
echo 'nothing listens on port {API_PORT} yet' > {STATE}/readyz
# kubectl, several times a second, would be work of which a machine that starts everything at once has enough.
until {listens(API_PORT)} && {kubectl} --request-timeout=2s get --raw /readyz > {STATE}/readyz 2>&1; do
  if [ "$(date +%s)" -gt "$end" ]; then cat {STATE}/readyz; exit 1; fi
  if [ -z "$begun" ] && grep -q 'poststarthook' {STATE}/readyz; then {{ {late}; }} > /dev/null; begun=yes; fi
  sleep 0.3
done
{late} || exit 1
bound() {{ said=$({kubectl} --request-timeout=5s {binding} 2>&1) || case $said in *'already exists'*) ;; *) return 1 ;; esac; }}
until bound; do
  if [ "$(date +%s)" -gt "$end" ]; then echo "$said"; exit 1; fi
  sleep 0.3
done"""
        result = member.node.run(script, check=False, timeout=timeout + 30)
        if not result.ok:
            raise CheckError(
                f"the API of {member.name} does not answer after {timeout:.0f} s: {(result.output.splitlines() or ['no reason'])[-1]}",
                hint="the logs below are of its parts; the full ones are in /var/log/pods and `journalctl -u kubelet` there",
                details=self._control_plane_logs(member),
            )

    def _phases(self, member: Member, *phases: str) -> None:
        member.node.run(_init(phases), timeout=LONG_TIMEOUT)

    def finish(self, manifests: Mapping[str, str]) -> None:
        """Run the cluster-wide phases once, on the first control-plane node. ``welcome`` marks each node."""
        self._upload(manifests)

    def update(self, manifests: Mapping[str, str]) -> None:
        """As ``finish``, for a cluster whose control-plane nodes have another version: their labels and taints are kept."""
        self._upload(manifests)
        # Rules stay while a kube-proxy is replaced; kubeadm would have it done on one node after the other.
        faster = '{"spec":{"updateStrategy":{"rollingUpdate":{"maxUnavailable":"20%"}}}}'
        command = f"{KUBECTL} --namespace=kube-system patch daemonset kube-proxy --type=merge -p {shlex.quote(faster)}"
        self.first.node.run(command, check=False, timeout=60)

    def _upload(self, manifests: Mapping[str, str]) -> None:
        upload = f"{KUBEADM} init phase %s --config {CONFIG}.upload"
        commands = [upload % "upload-config all", upload % "bootstrap-token"]
        commands.append(upload % ("addon kube-proxy" if self.cluster.own_dns else "addon all"))
        commands += self._applying(manifests)
        self.first.node.run(_at_once(commands), timeout=300)

    def apply(self, manifests: Mapping[str, str], timeout: float) -> None:
        """Apply manifests as soon as a node takes pods. Earlier the scheduler would try in vain, and then again at growing intervals.

        A node that is short of something (disk-pressure) does not take any for long: that is left to who waits for the pods, and explains.
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

    def reset(self, node: Node) -> None:
        reset(node)

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
        api_hosts = [*names, self.cluster.network.api, member.address, *api_names(self.cluster)]
        asked = [name for kind in ("serverCertSANs", "peerCertSANs") for name in _asked_names(self.cluster, "etcd", "local", kind)]
        etcd_hosts = [member.name, "localhost", "127.0.0.1", "::1", member.address, *asked]
        files: dict[str, NodeFile] = {}
        for name, pair in master_certificates(self.pki, member.name, api_hosts, etcd_hosts, self._days).items():
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


def administrator(master: Node, server: str, cluster: str, authority: bytes | None = None) -> bytes:
    """Administrator's kubeconfig for other machines, with ``server``, the address of a control-plane node. See ``admin_identity``."""
    url = f"https://{bracketed(server)}:{API_PORT}"
    return admin_identity(master, cluster, authority).kubeconfig(server=url, cluster=cluster).encode()


def admin_identity(master: Node, cluster: str, authority: bytes | None = None) -> KubeIdentity:
    """Administrator's certificates and key from a control-plane node. The rest of its kubeconfig is not used: it may name programs.

    ``authority`` is the cluster's CA certificate, where it is known: the node must have the same.
    Raises NodeError when it has another, or when its file cannot be read.
    """
    identity = untrusted.kube_identity(master.get(ADMIN), what=f"{master.name}: {ADMIN}")
    if authority is not None and _fingerprints(identity.authority, master) != _fingerprints(authority, master):
        raise NodeError(
            f"{master.name}: the CA in its {ADMIN} is not the CA of cluster {cluster} that this machine knows",
            hint=f"replaced on purpose? then remove clusters/{cluster}/kubeconfig below SLIPWAY_HOME; if not, do not trust this machine",
        )
    return identity


def _fingerprints(authority: bytes, master: Node) -> frozenset[bytes]:
    try:
        return frozenset(certificate.fingerprint(hashes.SHA256()) for certificate in x509.load_pem_x509_certificates(authority))
    except ValueError as wrong:
        raise NodeError(f"{master.name}: the CA in its {ADMIN} cannot be read: {wrong}") from wrong


def reset(node: Node) -> None:
    """Undo on one machine what kubeadm and the kubelet did there, also what half worked; needs nothing but the machine."""
    node.run(_RESET, timeout=LONG_TIMEOUT)


# ---- what kubeadm and the kubelet read --------------------------------------------------------------------------------


def bracketed(address: str) -> str:
    """An address as a URL has it."""
    return f"[{address}]" if ":" in address else address


def peer_url(address: str) -> str:
    """Peer URL of a control-plane node's etcd."""
    return f"https://{bracketed(address)}:2380"


def master_config(cluster: RuntimeCluster, member: Member, *, initial: bool, peers: str | None = None) -> str:
    """kubeadm's configuration for one control-plane node. With ``initial``, etcd knows all members from the start:
    those of the cluster or, for a joining node, ``peers``.

    The configuration stored in the cluster must not have that: a later node gets its list from the running members.
    """
    registration: dict[str, Any] = {
        "name": member.name,
        "criSocket": CRI_SOCKET,
        "kubeletExtraArgs": _arguments({"node-ip": member.node_ip}),
    }
    if not cluster.workers:
        # Nobody else would run the workloads.
        registration["taints"] = []
    init = {
        "apiVersion": VERSION,
        "kind": "InitConfiguration",
        "localAPIEndpoint": {"advertiseAddress": member.address, "bindPort": API_PORT},
        "nodeRegistration": registration,
        # kubeadm makes a token whenever it writes the rules for certificates. Nodes join without one, so it ends at once.
        "bootstrapTokens": [{"ttl": "1s"}],
    }
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": cluster.chosen_proxy_mode,
        # Containers may not write the host's limit; a machine's own default stays.
        "conntrack": {"maxPerCore": 0},
    }
    # What the cluster keeps is for nodes that join by hand, too: they have no such files.
    kubelet = {**kubelet_configuration(cluster, member), **(_serving_files(cluster) if initial else {})}
    ours = (init, _cluster_configuration(cluster, initial=initial, peers=peers), kubelet, proxy)
    return documents(*(_sharing(cluster, merged(cluster, document)) for document in ours))


def _sharing(cluster: RuntimeCluster, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """kube-proxy in mode ipvs removes every IPVS rule that it does not know: exclude slipway's."""
    if document["kind"] != "KubeProxyConfiguration" or document.get("mode") != "ipvs" or not cluster.virtual_ip:
        return document
    ours = f"{cluster.virtual_ip}/{128 if ':' in cluster.virtual_ip else 32}"
    mode = document.get("ipvs") or {}
    return {**document, "ipvs": {**mode, "excludeCIDRs": list(dict.fromkeys([*(mode.get("excludeCIDRs") or ()), ours]))}}


def merged(cluster: RuntimeCluster, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Merge the profile, the image and the Clusterfile over one of slipway's documents, except for keys in ``DECIDED``."""
    profile, others = (
        [other for other in layer if other.get("kind") == document["kind"]] for layer in (cluster.profile.documents, cluster.documents)
    )
    if not profile and not others:
        return document
    (result,) = merge_kubeadm([document, *profile], (), others)
    for path in DECIDED.get(document["kind"], ()):
        _restore(result, document, path)
    return result


def _restore(document: dict[str, Any], ours: Mapping[str, Any], path: tuple[str, ...]) -> None:
    """Restore the value at a path from ``ours``, or remove it when ``ours`` has none."""
    key, *rest = path
    if not rest:
        document.pop(key, None)
        document |= {key: ours[key]} if key in ours else {}
    elif isinstance(document.get(key), dict):
        below = ours.get(key)
        _restore(document[key], below if isinstance(below, Mapping) else {}, tuple(rest))


def api_names(cluster: RuntimeCluster) -> list[str]:
    """SANs of the API server: names and addresses of all control-plane nodes, and the requested ones."""
    asked = (*cluster.cert_sans, *cluster.added_names, *_asked_names(cluster, "apiServer", "certSANs"))
    virtual = [cluster.virtual_ip] if cluster.virtual_ip else []
    return list(dict.fromkeys(["127.0.0.1", API_NAME, *virtual, *(master.address for master in cluster.masters), *asked]))


def _asked_names(cluster: RuntimeCluster, *path: str) -> list[str]:
    """Names for certificates that documents ClusterConfiguration have at a path."""
    names: list[str] = []
    for document in cluster.documents:
        value: Any = document if document.get("kind") == "ClusterConfiguration" else None
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        names += [str(name) for name in value or ()]
    return names


def _cluster_configuration(cluster: RuntimeCluster, *, initial: bool, peers: str | None) -> dict[str, Any]:
    facts = cluster.facts
    etcd: dict[str, Any] = {"dataDir": "/var/lib/etcd"}
    if facts.etcd_image_tag:
        etcd["imageTag"] = facts.etcd_image_tag
    if initial:
        all_new = ",".join(f"{master.name}={peer_url(master.address)}" for master in cluster.masters)
        state = "existing" if peers else "new"
        etcd["extraArgs"] = _arguments({"initial-cluster": peers or all_new, "initial-cluster-state": state})
    configuration: dict[str, Any] = {
        "apiVersion": VERSION,
        "kind": "ClusterConfiguration",
        "kubernetesVersion": facts.kubernetes,
        "clusterName": cluster.name,
        "controlPlaneEndpoint": f"{API_NAME}:{API_PORT}",
        "networking": {"podSubnet": cluster.network.pods, "serviceSubnet": cluster.network.services, "dnsDomain": DNS_DOMAIN},
        "apiServer": {"certSANs": api_names(cluster), **_server_arguments(cluster)},
        "controllerManager": {"extraArgs": _arguments(_controller_arguments(cluster))},
        "etcd": {"local": etcd},
    }
    if facts.image_repository:
        configuration["imageRepository"] = facts.image_repository
    if cluster.own_dns:
        # Or `kubeadm upgrade` would bring CoreDNS, beside the one that is there.
        configuration["dns"] = {"disabled": True}
    return configuration


def _server_arguments(cluster: RuntimeCluster) -> dict[str, Any]:
    """Graceful shutdown of an API server while others serve. A single one would only be down for longer."""
    if len(cluster.masters) < 2:
        return {}
    return {"extraArgs": _arguments({"shutdown-delay-duration": f"{_LEAVING}s", "shutdown-watch-termination-grace-period": f"{_WATCHES}s"})}


def _controller_arguments(cluster: RuntimeCluster) -> dict[str, str]:
    # The controllers start one after the other, each with requests of its own; the default rate makes them queue for seconds.
    arguments = {"kube-api-qps": "100", "kube-api-burst": "100"}
    if cluster.certificate_days is not None:
        # Those that kubelets renew by themselves.
        arguments["cluster-signing-duration"] = f"{cluster.certificate_days * 24}h"
    if cluster.network.node_prefix6 not in (None, DEFAULT_PREFIX6):
        arguments["node-cidr-mask-size-ipv6"] = str(cluster.network.node_prefix6)
    if len(cluster.members) <= _SMALL:
        # How soon the taint of a node goes that has become Ready; pods are placed only then.
        arguments["node-monitor-period"] = "2s"
    return arguments


def kubelet_configuration(cluster: RuntimeCluster, member: Member) -> dict[str, Any]:
    """slipway's settings for kubelets beyond kubeadm's defaults."""
    configuration: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": CRI_SOCKET,
        "cgroupDriver": "systemd" if member.systemd_cgroups else "cgroupfs",
        "failSwapOn": False,
        # Images come from the machine itself or its neighbour.
        "serializeImagePulls": False,
        "registryPullQPS": 0,
    }
    if len(cluster.members) <= _SMALL:
        # Seen Ready some seconds earlier; reports without news stay as rare as they are.
        configuration |= {"nodeStatusUpdateFrequency": "2s", "nodeStatusReportFrequency": "5m0s"}
    if member.resolv_conf:
        configuration["resolvConf"] = member.resolv_conf
    if not member.systemd_cgroups:
        # Since 1.35 a kubelet would not start there by itself.
        configuration["failCgroupV1"] = False
    return configuration


def _serving_files(cluster: RuntimeCluster) -> dict[str, str]:
    return {"tlsCertFile": SERVING_CRT, "tlsPrivateKeyFile": SERVING_KEY} if cluster.profile.serving else {}


def worker_kubelet(cluster: RuntimeCluster, member: Member) -> dict[str, Any]:
    """The whole configuration of a worker's kubelet, as ``kubeadm join`` would have written it."""
    ours = {
        **kubelet_configuration(cluster, member),
        **_serving_files(cluster),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True, "cacheTTL": "0s"},
            "x509": {"clientCAFile": f"{FOLDER}/ca.crt"},
        },
        "authorization": {"mode": "Webhook", "webhook": {"cacheAuthorizedTTL": "0s", "cacheUnauthorizedTTL": "0s"}},
        "clusterDNS": [cluster.network.dns],
        "clusterDomain": DNS_DOMAIN,
        "healthzBindAddress": "127.0.0.1",
        "healthzPort": 10248,
        "rotateCertificates": True,
        "staticPodPath": "/etc/kubernetes/manifests",
    }
    return dict(merged(cluster, ours))


def kubelet_flags(cluster: RuntimeCluster, member: Member) -> str:
    """``kubeadm-flags.env`` of a worker."""
    arguments = {"node-ip": member.node_ip, **_join_arguments(cluster)}
    text = " ".join(f"--{name}={value}" for name, value in sorted(arguments.items()))
    return f'KUBELET_KUBEADM_ARGS="{text}"\n'


def _join_arguments(cluster: RuntimeCluster) -> dict[str, str]:
    """Kubelet arguments from JoinConfiguration, for workers, which start without ``kubeadm join``."""
    arguments: dict[str, str] = {}
    for document in cluster.documents:
        registration = document.get("nodeRegistration")
        if document.get("kind") == "JoinConfiguration" and isinstance(registration, Mapping):
            arguments |= {str(entry["name"]): str(entry.get("value", "")) for entry in registration.get("kubeletExtraArgs") or ()}
            taints = [f"{taint['key']}={taint.get('value') or ''}:{taint['effect']}" for taint in registration.get("taints") or ()]
            arguments |= {"register-with-taints": ",".join(taints)} if taints else {}
    return arguments


def _arguments(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Extra arguments as v1beta4 has them."""
    return [{"name": name, "value": value} for name, value in values.items()]


def kubeconfig(cluster: str, authority: bytes, user: str, credentials: Mapping[str, str]) -> str:
    """A kubeconfig with one context; ``credentials`` are the keys of its user."""
    context = f"{user}@{cluster}"
    return documents(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {
                        "certificate-authority-data": base64.b64encode(authority).decode(),
                        "server": f"https://{API_NAME}:{API_PORT}",
                    },
                }
            ],
            "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
            "current-context": context,
            "users": [{"name": user, "user": dict(credentials)}],
        }
    )


def _apply(name: str, text: str) -> str:
    file = f"-f {STATE}/addons/{shlex.quote(name)}"
    # Without validation: the schema alone takes a second to read.
    command = f"{KUBECTL} apply --validate=false {file}"
    return command if addons.labelled(text) else f"{command} && {KUBECTL} label --overwrite {file} {addons.LABEL}={addons.value(name)}"


def _init(phases: Iterable[str]) -> str:
    return " && ".join(f"{KUBEADM} init phase {phase} --config {CONFIG}" for phase in phases)


def _at_once(commands: list[str]) -> str:
    """Shell text that runs commands at the same time and fails, with all that was said, when one of them does.

    Each has three tries: an API server that has just started, or has no time, turns away what it takes a moment later.
    """
    script = ["pids="]
    script += [f'( for try in 1 2 3; do ( {command} ) && exit 0; sleep $try; done; exit 1 ) & pids="$pids $!"' for command in commands]
    return "\n".join([*script, "failed=0", 'for pid in $pids; do wait "$pid" || failed=1; done', "exit $failed"])


def api_errors(text: str) -> str:
    """The message in a Status object of the API, or the text itself."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text.strip()


# Only what is on the machine: its place in etcd and among the nodes is the cluster's, which may be gone.
_RESET = """set -u
systemctl stop kubelet 2>/dev/null
grep -o ' /var/lib/kubelet/[^ ]*' /proc/mounts | sort -r | while read -r place; do umount -l "$place" 2>/dev/null; done
rm -rf /etc/kubernetes/pki /etc/kubernetes/slipway /etc/kubernetes/*.conf /etc/kubernetes/manifests/* /etc/kubernetes/tmp
exit 0
"""

"""Configuration that kubeadm, the kubelet and kube-proxy read: what slipway, a profile, the image and the Clusterfile say, merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.clusterfile.kubeadm import VERSION, merge_kubeadm
from harness.runtimes import API_NAME, API_PORT, DEFAULT_PREFIX6, DNS_DOMAIN, Member, RuntimeCluster, bracketed, documents
from harness.runtimes.pki import FOLDER

CRI_SOCKET = "unix:///run/containerd/containerd.sock"
SERVING_CRT, SERVING_KEY = "/var/lib/kubelet/pki/kubelet.crt", "/var/lib/kubelet/pki/kubelet.key"
"""Default path at which a kubelet creates a self-signed certificate, unless the file exists."""

_LEAVING = 10
"""Seconds that an API server serves on once it says that it ends: balancers look every 3 s, and kube-proxies follow the API. With the time
for its last requests that is less than the 30 s after which a kubelet kills it."""
_WATCHES = 10
"""Seconds, at most, in which it ends its watches; it would wait for them to end, and be killed."""
_SMALL = 20
"""Nodes up to which their kubelets may ask the API often."""

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


def peer_url(address: str) -> str:
    """Peer URL of a control-plane node's etcd."""
    return f"https://{bracketed(address)}:2380"


def control_plane_config(cluster: RuntimeCluster, member: Member, *, initial: bool, peers: str | None = None) -> str:
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
        # No other node would run the workloads.
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
    # The configuration that the cluster stores is for nodes that join by hand, too: they have no such files.
    kubelet = {**kubelet_configuration(cluster, member), **(_serving_files(cluster) if initial else {})}
    defaults = (init, _cluster_configuration(cluster, initial=initial, peers=peers), kubelet, proxy)
    return documents(*(_sharing(cluster, merged(cluster, document)) for document in defaults))


def _sharing(cluster: RuntimeCluster, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """kube-proxy in mode ipvs removes every IPVS rule that it does not know: exclude slipway's."""
    if document["kind"] != "KubeProxyConfiguration" or document.get("mode") != "ipvs" or not cluster.virtual_ip:
        return document
    excluded = f"{cluster.virtual_ip}/{128 if ':' in cluster.virtual_ip else 32}"
    mode = document.get("ipvs") or {}
    return {**document, "ipvs": {**mode, "excludeCIDRs": list(dict.fromkeys([*(mode.get("excludeCIDRs") or ()), excluded]))}}


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


def _restore(document: dict[str, Any], default: Mapping[str, Any], path: tuple[str, ...]) -> None:
    """Restore the value at a path from ``default``, or remove it when ``default`` has none."""
    key, *rest = path
    if not rest:
        document.pop(key, None)
        document |= {key: default[key]} if key in default else {}
    elif isinstance(document.get(key), dict):
        below = default.get(key)
        _restore(document[key], below if isinstance(below, Mapping) else {}, tuple(rest))


def api_names(cluster: RuntimeCluster) -> list[str]:
    """SANs of the API server: names and addresses of all control-plane nodes, and the requested ones."""
    asked = (*cluster.cert_sans, *cluster.added_names, *requested_names(cluster, "apiServer", "certSANs"))
    virtual = [cluster.virtual_ip] if cluster.virtual_ip else []
    return list(dict.fromkeys(["127.0.0.1", API_NAME, *virtual, *(node.address for node in cluster.control_plane), *asked]))


def requested_names(cluster: RuntimeCluster, *path: str) -> list[str]:
    """Names for certificates at a path of the requested documents ClusterConfiguration."""
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
        all_new = ",".join(f"{node.name}={peer_url(node.address)}" for node in cluster.control_plane)
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
    if len(cluster.control_plane) < 2:
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
    settings = kubelet_settings(small=len(cluster.members) <= _SMALL, systemd_cgroups=member.systemd_cgroups)
    return {**settings, **({"resolvConf": member.resolv_conf} if member.resolv_conf else {})}


def kubelet_settings(*, small: bool, systemd_cgroups: bool) -> dict[str, Any]:
    """The settings that do not depend on a machine beyond its cgroups; ``small``: the cluster has few nodes."""
    configuration: dict[str, Any] = {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": CRI_SOCKET,
        "cgroupDriver": "systemd" if systemd_cgroups else "cgroupfs",
        "failSwapOn": False,
        # Images come from the machine itself or its neighbour.
        "serializeImagePulls": False,
        "registryPullQPS": 0,
    }
    if small:
        # Seen Ready some seconds earlier; reports without news stay as rare as they are.
        configuration |= {"nodeStatusUpdateFrequency": "2s", "nodeStatusReportFrequency": "5m0s"}
    if not systemd_cgroups:
        # Since 1.35 a kubelet would not start there by itself.
        configuration["failCgroupV1"] = False
    return configuration


def _serving_files(cluster: RuntimeCluster) -> dict[str, str]:
    return {"tlsCertFile": SERVING_CRT, "tlsPrivateKeyFile": SERVING_KEY} if cluster.profile.serving else {}


def worker_kubelet(cluster: RuntimeCluster, member: Member) -> dict[str, Any]:
    """The whole configuration of a worker's kubelet, as ``kubeadm join`` would have written it."""
    defaults = {
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
    return dict(merged(cluster, defaults))


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

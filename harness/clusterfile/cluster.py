"""A document Cluster -> its value, with the rules that need more than one key: addresses, control-plane nodes, networks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from harness.clusterfile import (
    CONTROL_PLANE,
    THIS_MACHINE,
    WORKER,
    ClusterDocument,
    ExternalRegistry,
    Host,
    HostAlias,
    JumpSettings,
    LocalRegistry,
    Password,
    SshSettings,
    machines,
    validators,
)
from harness.clusterfile.machines import MAKERS
from harness.clusterfile.schema import password
from harness.clusterfile.shapes import LocatedValue, ParsedMapping
from harness.clusterfile.yaml_nodes import FaultReport, YamlNode

DUAL_STACK = "IPv6DualStack"
"""sealer's: networks of both families say so themselves, and must be there when this is true."""


def build(document: ParsedMapping, report: FaultReport) -> ClusterDocument | None:
    """None when something that a Cluster cannot be without is missing or wrong; ``report`` knows of it already."""
    metadata, spec = document.get("metadata"), document.get("spec")
    if metadata is None or spec is None:
        return None
    warn_of_capitals(spec, report)
    own = ssh(spec.get("ssh"), report)
    env = spec.get("env", {})
    hosts = _hosts(spec, own, report)
    _check_hosts(spec, hosts, report)
    ssh_hosts = _ssh_hosts(spec, hosts, report)
    _check_dual_stack(env, spec, report)
    pods, services = _networks(spec, env, report)
    runtime, certificates = spec.get("containerRuntime"), spec.get("certificates")
    local, external = _registries(spec.get("registry"), report)
    first, *others = spec.get("image") or ("",)
    return ClusterDocument(
        name=metadata.get("name", ""),
        image=first,
        images=tuple(others),
        # A group without machines says nothing, and a Clusterfile that holds one could not be written and read back.
        hosts=tuple(host for _, host in hosts if host.ips or host.count),
        env=env,
        commands=spec.get("cmd") or None,
        command_args=spec.get("cmd_args", {}),
        app_names=apps(spec.get("appNames")),
        ssh=own,
        ssh_hosts=ssh_hosts,
        provider=spec.get("provider"),
        cloud=machines.cloud(spec, report),
        pod_cidr=pods,
        svc_cidr=services,
        cert_sans=tuple(dict.fromkeys(spec.get("certSANS", ()))),
        container_runtime=runtime.get("type") if runtime else None,
        host_aliases=tuple(_alias(alias) for alias in spec.get("hostAliases", ())),
        local_registry=local,
        external_registry=external,
        data_root=spec.get("dataRoot"),
        load_balancing=spec.get("loadBalancing", "auto"),
        certificate_validity=certificates.get("validity") if certificates else None,
        profile=spec.get("profile") or None,
    )


def warn_of_capitals(spec: ParsedMapping, report: FaultReport) -> None:
    """Warn when an image of a document was read without its capitals."""
    if "image" not in spec:
        return
    node, value = spec.at("image"), spec.get("image")
    written = node.content if isinstance(node.content, tuple) else (node,)
    for each, lowered in zip(written, (value,) if isinstance(value, str) else value, strict=False):
        if isinstance(each, YamlNode) and isinstance(each.content, str) and each.content != lowered:
            report.warn(each, f"{each.content}: names of images have no capitals; {lowered} is taken")


def apps(names: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Applications to launch: unset leaves it to the image, an empty name means none."""
    return None if not names else tuple(name for name in names if name)


def ssh(mapping: ParsedMapping | None, report: FaultReport) -> SshSettings:
    if mapping is None:
        return SshSettings()
    jump = mapping.get("jump")
    if isinstance(jump, ParsedMapping):
        jump = _jump(jump, report)
    return SshSettings(
        user=mapping.get("user"),
        port=mapping.get("port"),
        key=mapping.get("pk"),
        passphrase=mapping.get("pkPasswd"),
        password=password(mapping, report),
        jump=jump,
    )


def _jump(mapping: ParsedMapping, report: FaultReport) -> JumpSettings | None:
    if "host" not in mapping:
        return None
    return JumpSettings(
        mapping.get("host"), mapping.get("user"), mapping.get("port"), mapping.get("pk"), mapping.get("pkPasswd"), password(mapping, report)
    )


def _hosts(spec: ParsedMapping, own: SshSettings, report: FaultReport) -> list[tuple[ParsedMapping, Host]]:
    """The hosts with their YAML, in the order of the text; control-plane nodes first in sealer's older form."""
    old = [key for key in ("masters", "nodes") if key in spec]
    if old and "hosts" in spec:
        report.fault(spec.at(old[0]), "hosts is given too", "write all of it as hosts: [{ips: [...], roles: [control-plane]}, ...]")
    hosts = [(host, _host(host, own, report)) for host in spec.get("hosts", ())]
    for key, role in (("masters", CONTROL_PLANE), ("nodes", WORKER)):
        group = spec.get(key)
        if group is not None and ("ipList" in group or group.get("count")):
            hosts.append((group, Host(_ips(group, "ipList"), (role,), own, count=group.get("count"))))
    return [(group, _counted(group, host, spec, report)) for group, host in hosts]


def _host(mapping: ParsedMapping, own: SshSettings, report: FaultReport) -> Host:
    # A cluster's own Clusterfile may have lost the last machine of a group.
    if "ips" not in mapping and "count" not in mapping and _is_absent(mapping, "ips") and not report.stored:
        report.fault(dataclasses.replace(mapping.node, path=f"{mapping.node.path}.ips"), "is missing", "the addresses of the machines")
    return Host(
        ips=_ips(mapping, "ips"),
        roles=_roles(mapping, report),
        ssh=ssh(mapping.get("ssh"), report).over(own),
        env=mapping.get("env", {}),
        labels=mapping.get("labels", {}),
        taints=mapping.get("taints", ()),
        count=mapping.get("count"),
    )


def _is_absent(mapping: ParsedMapping, key: str) -> bool:
    node = mapping.at(key)
    return node is mapping.node or node.is_null or node.content == ""


def _ips(mapping: ParsedMapping, key: str) -> tuple[str, ...]:
    return tuple(address for placed in mapping.get(key, ()) for address in placed.value)


def _roles(mapping: ParsedMapping, report: FaultReport) -> tuple[str, ...]:
    """``control-plane`` or ``worker`` first. Machines with custom roles only are workers."""
    placed: tuple[LocatedValue, ...] = mapping.get("roles", ())
    names = list(dict.fromkeys(entry.value for entry in placed))
    if CONTROL_PLANE in names and WORKER in names:
        second = next(entry for entry in placed if entry.value in (CONTROL_PLANE, WORKER) and entry.value != placed[0].value)
        report.fault(
            second.node, "a machine is a control-plane node or a worker, not both", "a control-plane node without its taint runs pods too"
        )
    if "roles" in mapping and not placed and not isinstance(mapping.at("roles").content, str) and not mapping.at("roles").content:
        report.fault(mapping.at("roles"), "is empty", "[control-plane] or [worker]")
    main = CONTROL_PLANE if CONTROL_PLANE in names else WORKER
    return (main, *(name for name in names if name not in (CONTROL_PLANE, WORKER)))


def _counted(mapping: ParsedMapping, host: Host, spec: ParsedMapping, report: FaultReport) -> Host:
    """With addresses a count says nothing new; without, a provider makes the machines."""
    if host.count is None:
        return host
    if host.ips:
        if host.count == 0:
            # What older tools of sealer's wrote beside addresses.
            report.warn(mapping.at("count"), f"0 machines, and {len(host.ips)} addresses are given: the addresses count", "leave count out")
        elif host.count != len(host.ips):
            report.fault(mapping.at("count"), f"{host.count} machines, and {len(host.ips)} addresses are given", "leave count out")
        return dataclasses.replace(host, count=None)
    # A fault of the provider is reported at its own key.
    if spec.get("provider") not in MAKERS and ("provider" in spec or _is_absent(spec, "provider")):
        message = f"{host.count} machines are requested, and no provider makes them"
        report.fault(mapping.at("count"), message, "write their addresses; or provider: AWS or ALI_CLOUD, or CONTAINER to try with")
    return host


def _check_hosts(spec: ParsedMapping, hosts: list[tuple[ParsedMapping, Host]], report: FaultReport) -> None:
    seen: dict[str, YamlNode] = {}
    for group, _ in hosts:
        for placed in (*group.get("ips", ()), *group.get("ipList", ())):
            for address in placed.value:
                _check_address(address, placed.node, seen, report)
    if not hosts:
        return
    control_plane = sum(len(host.ips) or host.count or 0 for _, host in hosts if host.is_control_plane)
    keys = [key for key in ("hosts", "masters", "nodes") if key in spec]
    place = spec.at(keys[0])
    unsure = any(_has_wrong(group) for group, _ in hosts) or ("hosts" in keys and len(keys) > 1)
    if control_plane == 0 and not unsure:
        report.fault(place, "there is no control-plane node", "hosts: [{ips: [192.168.0.2], roles: [control-plane]}, ...]")
    elif control_plane % 2 == 0 and not unsure and not report.stored:
        report.fault(place, f"{control_plane} control-plane nodes", "etcd needs an odd number: 1, 3 or 5")


def _ssh_hosts(spec: ParsedMapping, hosts: list[tuple[ParsedMapping, Host]], report: FaultReport) -> dict[str, str]:
    """The names by address. Each is of a machine that is listed, when machines are, and of one only."""
    names: dict[str, str] = {}
    listed = {address for _, host in hosts for address in host.ips}
    for written, name in spec.get("sshHosts", {}).items():
        address = validators.address(written)
        if listed and address not in listed and not report.stored:
            report.fault(spec.at("sshHosts"), f"{address} is not among the hosts", "list the address there; a name alone is resolved")
        elif report.stored and name == THIS_MACHINE:
            continue  # of the machine that wrote the record, not of the one that reads it
        elif name in names.values():
            report.fault(spec.at("sshHosts"), f"{name} is the name of two machines")
        else:
            names[address] = name
    return names


def _has_wrong(group: ParsedMapping) -> bool:
    """Return True when a relevant value is faulty, so that counts of machines are meaningless."""
    if "roles" not in group and not group.node.path.endswith((".masters", ".nodes")):
        return True
    if not any(key in group for key in ("ips", "ipList", "count")):
        return True
    for key in ("ips", "ipList", "roles", "count"):
        node = group.at(key)
        if node is group.node or node.is_null:
            continue
        if key not in group or (isinstance(node.content, tuple) and len(node.content) != len(group.get(key))):
            return True
    return False


def _check_address(address: str, node: YamlNode, seen: dict[str, YamlNode], report: FaultReport) -> None:
    if address in seen:
        first = seen[address]
        report.fault(node, f"{address} is listed twice; the first is {first.path} in line {first.line}", "a machine is listed once")
        return
    other = next((machine for machine in seen if not validators.is_name(machine)), None)
    seen[address] = node
    if validators.is_name(address):
        return
    if other is not None and not report.stored and validators.family(other) != validators.family(address):
        message = f"{address} is IPv{validators.family(address)}, and {other} is IPv{validators.family(other)}"
        report.fault(node, message, "give the IPv4 address of each; with networks of both families the other one is found beside it")


def _check_dual_stack(env: Mapping[str, str], spec: ParsedMapping, report: FaultReport) -> None:
    value = env.get(DUAL_STACK)
    if value is not None and value.lower() not in ("true", "false"):
        report.fault(spec.at("env"), f"{DUAL_STACK}={value}", "true or false")


def _networks(spec: ParsedMapping, env: Mapping[str, str], report: FaultReport) -> tuple[str | None, str | None]:
    """The networks of pods and services, and what is wrong with them or with what env says of them."""
    network = spec.get("network")
    written: dict[str, LocatedValue] = {}
    for key, name in (("podCIDR", "PodCIDR"), ("svcCIDR", "SvcCIDR")):
        placed = network.get(key) if network else None
        in_env = _network_of_env(env, name, spec, report)
        if placed is not None and in_env is not None and placed.value != in_env.value:
            report.fault(placed.node, f"{placed.value} is not what env says: {name}={in_env.value}", "say it once")
        if placed or in_env:
            written[key] = placed or in_env  # type: ignore[assignment]
    pods, services = written.get("podCIDR"), written.get("svcCIDR")
    if pods and services and validators.overlap(pods.value, services.value):
        report.fault(pods.node, f"{pods.value} and {services.value} overlap", "pods and services need networks of their own")
    # One fault for both, which have one remedy.
    wrong = [(placed.node, reason) for placed in written.values() if (reason := validators.impossible(placed.value))]
    if wrong and not report.stored:
        report.fault(wrong[0][0], " and ".join(dict.fromkeys(reason for _, reason in wrong)), validators.POSSIBLE)
    networks = [network.get(key) if network else None for key in ("podCIDR", "svcCIDR")]
    return tuple(placed.value if placed else None for placed in networks)  # type: ignore[return-value]


def _network_of_env(env: Mapping[str, str], name: str, spec: ParsedMapping, report: FaultReport) -> LocatedValue | None:
    if name not in env or "{{" in env[name]:
        return None
    node = spec.at("env")
    try:
        return LocatedValue(validators.networks(env[name]), node)
    except validators.FieldError as wrong:
        report.fault(node, f"{name}: {wrong.message}", wrong.hint)
        return None


def _alias(mapping: ParsedMapping) -> HostAlias:
    return HostAlias(mapping.get("ip", ""), mapping.get("hostnames", ()))


def _registries(mapping: ParsedMapping | None, report: FaultReport) -> tuple[LocalRegistry | None, ExternalRegistry | None]:
    if mapping is None:
        return None, None
    local, external = mapping.get("localRegistry"), mapping.get("externalRegistry")
    return (_local(local, report) if local else None), (_external(external, report) if external and "domain" in external else None)


def _login(mapping: ParsedMapping, report: FaultReport) -> tuple[str | None, Password]:
    secret = password(mapping, report, "password")
    if secret and "username" not in mapping:
        node = next(mapping.at(key) for key in ("password", "passwordFile", "passwordEnv") if key in mapping)
        report.fault(node, "a password without a user", "username: NAME")
    return mapping.get("username"), secret


def _local(mapping: ParsedMapping, report: FaultReport) -> LocalRegistry:
    username, secret = _login(mapping, report)
    cert = mapping.get("cert")
    names: Any = cert.get("subjectAltName") if cert else None
    return LocalRegistry(
        domain=mapping.get("domain"),
        port=mapping.get("port"),
        username=username,
        password=secret,
        ha=mapping.get("ha", True),
        insecure=mapping.get("insecure", False),
        dns_names=names.get("dnsNames", ()) if names else (),
        ips=names.get("ips", ()) if names else (),
    )


def _external(mapping: ParsedMapping, report: FaultReport) -> ExternalRegistry:
    username, secret = _login(mapping, report)
    if mapping.get("plainHttp") and "ca" in mapping:
        report.fault(mapping.at("ca"), "a certificate means nothing over plain HTTP", "leave ca or plainHttp out")
    return ExternalRegistry(
        domain=mapping.get("domain"),
        port=mapping.get("port"),
        path=mapping.get("path", ""),
        username=username,
        password=secret,
        plain_http=mapping.get("plainHttp", False),
        ca=mapping.get("ca"),
    )


def network_fault(cluster: ClusterDocument | None, documents: Iterable[tuple[YamlNode, Mapping[str, Any]]], report: FaultReport) -> None:
    """Tell when kubeadm's ClusterConfiguration says another network than the Cluster does."""
    if cluster is None:
        return
    networks = {
        "podSubnet": cluster.pod_cidr or cluster.env.get("PodCIDR"),
        "serviceSubnet": cluster.svc_cidr or cluster.env.get("SvcCIDR"),
    }
    for node, document in documents:
        networking = document.get("networking")
        for key, value in networks.items():
            written = networking.get(key) if isinstance(networking, dict) else None
            if value and written and str(written) != value:
                place = dataclasses.replace(node, path=f".networking.{key}")
                report.fault(place, f"{written} is not what the Cluster says: {value}", "say it once")

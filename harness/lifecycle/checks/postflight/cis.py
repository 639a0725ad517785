"""``slipway check --post cis``: a cluster against the CIS Kubernetes Benchmark 1.12, item by item. Nothing is asked and done here.

What the benchmark wants looked at by a person is a warning where it does not hold, everything else a failure. Items that only a person
can judge (who should have which rights, how users sign in) are not among them.
"""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from harness import untrusted
from harness.cloudimage import enforcers
from harness.lifecycle.checks.findings import Check, Finding, Seen, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight import rules as health
from harness.lifecycle.checks.postflight.cis_facts import KUBELET_CONFIG, FileState, MachineState, Secured, serving
from harness.lifecycle.kube import readiness
from harness.runtimes.pki import ADMINISTRATORS, FOLDER
from harness.runtimes.profiles import CIPHERS
from harness.runtimes.static_pods import MANIFESTS

Judge = Callable[[Secured], Iterable[tuple[str, Seen]]]
"""What was seen, each with its place: the address of a machine, or the cluster."""
Bad = Callable[[str, str], Seen]
"""``failed`` or ``warning``."""

CHECKS: dict[str, Check] = {"access": Check("access", "way in", "slipway gets into every machine of the cluster")}
"""By number in the benchmark, in its order."""
_JUDGES: dict[str, Judge] = {}

API, CONTROLLERS, SCHEDULER, ETCD = "kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd"
_FIELDS = {
    API: "apiServer.extraArgs",
    CONTROLLERS: "controllerManager.extraArgs",
    SCHEDULER: "scheduler.extraArgs",
    ETCD: "etcd.local.extraArgs",
}
_STRONG = frozenset(
    {f"TLS_ECDHE_{key}_WITH_CHACHA20_POLY1305{more}" for key in ("ECDSA", "RSA") for more in ("", "_SHA256")}
    | {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256", *CIPHERS}
)


def judge(found: Secured) -> tuple[Finding, ...]:
    """Everything about the cluster, good and bad."""
    told = []
    for address in found.roles:
        reason = found.unreachable.get(address)
        seen = ok("answers") if reason is None else failed(reason.removeprefix(f"{address}: "), "it could not be asked")
        told.append(Finding.of("access", address, seen))
    return (*told, *(Finding.of(number, where, seen) for number, one in _JUDGES.items() for where, seen in one(found)))


def _item(number: str, title: str, why: str, one: Judge) -> None:
    CHECKS[number] = Check(number, title, why)
    _JUDGES[number] = one


# ---- files ------------------------------------------------------------------------------------------------------------


def _files(state: MachineState, patterns: Sequence[str]) -> dict[str, FileState]:
    # A pattern means one folder: its * does not go down.
    return {
        path: file
        for path, file in state.files.items()
        if any(fnmatch.fnmatchcase(path, pattern) and path.count("/") == pattern.count("/") for pattern in patterns)
    }


def _both(mode_at: str, owner_at: str, what: str, patterns: Sequence[str], most: int, *, nodes: bool = False, bad: Bad = failed) -> None:
    """The two items of one kind of file: who may do what with it, and whose it is."""

    def of(found: Secured, see: Callable[[dict[str, FileState]], Seen]) -> Iterable[tuple[str, Seen]]:
        for address in found.machines if nodes else found.masters:
            files = _files(found.machines[address], patterns)
            yield address, see(files) if files else unknown(f"has no {patterns[0]}")

    def modes(files: dict[str, FileState]) -> Seen:
        wide = {path: file for path, file in files.items() if file.mode & ~most}
        if not wide:
            return ok(f"{max(file.mode for file in files.values()):o}")
        return bad(_listed(wide, lambda file: f"{file.mode:o}"), f"chmod {most:o} {' '.join(wide)}")

    def owners(files: dict[str, FileState]) -> Seen:
        others = {path: file for path, file in files.items() if file.owner != "root:root"}
        if not others:
            return ok("root:root")
        return bad(_listed(others, lambda file: file.owner), f"chown root:root {' '.join(others)}")

    if mode_at:
        _item(mode_at, f"{what}: mode", f"{what}: {most:o} or less", lambda found: of(found, modes))
    if owner_at:
        _item(owner_at, f"{what}: owner", f"{what}: root:root", lambda found: of(found, owners))


def _listed(files: Mapping[str, FileState], tell: Callable[[FileState], str]) -> str:
    path, file = next(iter(files.items()))
    more = f" and {len(files) - 1} more" if len(files) > 1 else ""
    return f"{path} is {tell(file)}{more}"


_both("1.1.1", "1.1.2", "API server's manifest", (f"{MANIFESTS}/{API}.yaml",), 0o600)
_both("1.1.3", "1.1.4", "controller manager's manifest", (f"{MANIFESTS}/{CONTROLLERS}.yaml",), 0o600)
_both("1.1.5", "1.1.6", "scheduler's manifest", (f"{MANIFESTS}/{SCHEDULER}.yaml",), 0o600)
_both("1.1.7", "1.1.8", "etcd's manifest", (f"{MANIFESTS}/{ETCD}.yaml",), 0o600)
_both("1.1.9", "1.1.10", "pod network's configuration", ("/etc/cni/net.d/*",), 0o600, bad=warning)


def _etcd_mode(found: Secured) -> Iterable[tuple[str, Seen]]:
    for address in found.masters:
        file = found.machines[address].files.get("/var/lib/etcd")
        if file is None:
            yield address, unknown("has no /var/lib/etcd")
        else:
            yield address, failed(f"/var/lib/etcd is {file.mode:o}", "chmod 700 /var/lib/etcd") if file.mode & ~0o700 else ok("700")


def _etcd_owner(found: Secured) -> Iterable[tuple[str, Seen]]:
    for address in found.masters:
        file = found.machines[address].files.get("/var/lib/etcd")
        if file is None:
            yield address, unknown("has no /var/lib/etcd")
        elif file.owner == "etcd:etcd":
            yield address, ok(file.owner)
        else:
            # A folder of another user's would protect nothing from etcd, which is root's in kubeadm's manifest.
            text = f"/var/lib/etcd is {file.owner}'s, as whom kubeadm has etcd run"
            yield address, warning(text, "none as long as etcd runs as root: nobody else may look into it")


_item("1.1.11", "etcd's data: mode", "etcd's data: 700 or less", _etcd_mode)
_item("1.1.12", "etcd's data: owner", "etcd's data: etcd:etcd", _etcd_owner)
_both("1.1.13", "1.1.14", "administrators' kubeconfigs", ("/etc/kubernetes/*admin.conf",), 0o600)
_both("1.1.15", "1.1.16", "scheduler's kubeconfig", ("/etc/kubernetes/scheduler.conf",), 0o600)
_both("1.1.17", "1.1.18", "controller manager's kubeconfig", ("/etc/kubernetes/controller-manager.conf",), 0o600)
_both("", "1.1.19", "keys and certificates", (FOLDER, f"{FOLDER}/*", f"{FOLDER}/etcd/*"), 0o777)
_both("1.1.20", "", "certificates", (f"{FOLDER}/*.crt", f"{FOLDER}/etcd/*.crt"), 0o644, bad=warning)
_both("1.1.21", "", "keys", (f"{FOLDER}/*.key", f"{FOLDER}/etcd/*.key"), 0o600, bad=warning)


# ---- arguments of the control plane -----------------------------------------------------------------------------------

Given = str | None
"""The value of an argument; None: it is not given."""


def _argument(number: str, part: str, name: str, title: str, holds: Callable[[Given], bool], wanted: str, *, bad: Bad = failed) -> None:
    """An item about one argument of a static pod; ``wanted`` is what would be right, for people and as a value."""

    def one(found: Secured) -> Iterable[tuple[str, Seen]]:
        for address in found.masters:
            there = found.machines[address].parts.get(part)
            if there is None:
                yield address, unknown(f"has no {MANIFESTS}/{part}.yaml")
                continue
            given = there.arguments.get(name)
            value = None if given is None else ",".join(given)
            text = f"--{name} is not given" if value is None else f"--{name}={value}"
            yield address, ok(_short(text)) if holds(value) else bad(_short(text), _set(part, name, wanted))

    _item(number, title, f"{part} --{name}: {wanted}", one)


def _short(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:97]}..."


def _set(part: str, name: str, wanted: str) -> str:
    return f"ClusterConfiguration .{_FIELDS[part]}.{name}: {wanted}; in {MANIFESTS}/{part}.yaml on each master"


def _is(value: str) -> Callable[[Given], bool]:
    return lambda given: given == value


def _given(given: Given) -> bool:
    return bool(given)


def _absent(given: Given) -> bool:
    return given is None


def _has(word: str) -> Callable[[Given], bool]:
    return lambda given: word in (given or "").split(",")


def _lacks(word: str) -> Callable[[Given], bool]:
    return lambda given: word not in (given or "").split(",")


def _at_least(least: int) -> Callable[[Given], bool]:
    return lambda given: (untrusted.number(given) or 0) >= least


def _not(value: str) -> Callable[[Given], bool]:
    return lambda given: given != value


def _strong(given: Given) -> bool:
    return bool(given) and set((given or "").split(",")) <= _STRONG


def _anonymous(found: Secured) -> Iterable[tuple[str, Seen]]:
    for address in found.masters:
        state = found.machines[address]
        there = state.parts.get(API)
        if there is None:
            yield address, unknown(f"has no {MANIFESTS}/{API}.yaml")
            continue
        conditions = (state.anonymous or {}).get("conditions")
        paths = [str(one.get("path")) for one in conditions if isinstance(one, Mapping)] if isinstance(conditions, list) else []
        if there.arguments.get("anonymous-auth") == ("false",) or (state.anonymous or {}).get("enabled") is False:
            yield address, ok("no request without a name")
        elif paths:
            yield address, ok(f"requests without a name to {', '.join(paths)} only")
        else:
            remedy = "an AuthenticationConfiguration with anonymous.conditions for /livez, /readyz, /healthz (Kubernetes 1.32 and newer)"
            yield address, warning("requests without a name go to the authorizer", remedy)


def _providers(found: Secured) -> Iterable[tuple[str, Seen]]:
    for address in found.masters:
        state = found.machines[address]
        if API not in state.parts:
            yield address, unknown(f"has no {MANIFESTS}/{API}.yaml")
        elif state.provider in ("aescbc", "kms", "secretbox"):
            yield address, ok(state.provider)
        else:
            text = f"the first provider is {state.provider}" if state.provider else "Secrets are not encrypted in etcd"
            yield address, warning(text, _set(API, "encryption-provider-config", "a file whose first provider is secretbox, kms or aescbc"))


_item("1.2.1", "anonymous requests", "the API server answers requests without a name where it must, and nowhere else", _anonymous)
_argument("1.2.2", API, "token-auth-file", "static tokens", _absent, "not given")
_argument(
    "1.2.3",
    API,
    "enable-admission-plugins",
    "external addresses of Services",
    _has("DenyServiceExternalIPs"),
    "DenyServiceExternalIPs, too",
    bad=warning,
)
_argument("1.2.4", API, "kubelet-client-certificate", "certificate for kubelets", _given, "the certificate by which kubelets know it")
_argument("1.2.5", API, "kubelet-certificate-authority", "authority of kubelets", _given, "the authority that signs for kubelets")
_argument(
    "1.2.6",
    API,
    "authorization-mode",
    "authorization: not everything",
    lambda given: _given(given) and _lacks("AlwaysAllow")(given),
    "Node,RBAC",
)
_argument("1.2.7", API, "authorization-mode", "authorization: nodes", _has("Node"), "Node,RBAC")
_argument("1.2.8", API, "authorization-mode", "authorization: roles", _has("RBAC"), "Node,RBAC")
_argument("1.2.9", API, "enable-admission-plugins", "rate of events", _has("EventRateLimit"), "EventRateLimit, too", bad=warning)
_argument("1.2.10", API, "enable-admission-plugins", "admission: not everything", _lacks("AlwaysAdmit"), "without AlwaysAdmit")
_argument("1.2.11", API, "enable-admission-plugins", "images pulled always", _has("AlwaysPullImages"), "AlwaysPullImages, too", bad=warning)
_argument("1.2.12", API, "disable-admission-plugins", "admission: service accounts", _lacks("ServiceAccount"), "without ServiceAccount")
_argument("1.2.13", API, "disable-admission-plugins", "admission: namespaces", _lacks("NamespaceLifecycle"), "without NamespaceLifecycle")
_argument("1.2.14", API, "enable-admission-plugins", "admission: nodes", _has("NodeRestriction"), "NodeRestriction, too")
_argument("1.2.15", API, "profiling", "API server: profiling", _is("false"), "false")
_argument("1.2.16", API, "audit-log-path", "audit log", _given, "a file")
_argument("1.2.17", API, "audit-log-maxage", "audit log: age", _at_least(30), "30 or more days")
_argument("1.2.18", API, "audit-log-maxbackup", "audit log: files", _at_least(10), "10 or more")
_argument("1.2.19", API, "audit-log-maxsize", "audit log: size", _at_least(100), "100 or more MB")
_argument(
    "1.2.20", API, "request-timeout", "time for a request", _not("0"), "as long as its clients need; 1m0s when it is not given", bad=warning
)
_argument("1.2.21", API, "service-account-lookup", "tokens of accounts that are gone", _not("false"), "true")
_argument("1.2.22", API, "service-account-key-file", "key of service accounts", _given, "the public key of service accounts")
_argument("1.2.23", API, "etcd-certfile", "certificate for etcd", _given, "the certificate by which etcd knows it")
_argument("1.2.24", API, "tls-cert-file", "API server's certificate", _given, "its certificate")
_argument("1.2.25", API, "client-ca-file", "authority of clients", _given, "the authority that signs for clients")
_argument("1.2.26", API, "etcd-cafile", "authority of etcd", _given, "the authority that signs for etcd")
_argument("1.2.27", API, "encryption-provider-config", "Secrets encrypted", _given, "a file that says how", bad=warning)
_item("1.2.28", "how Secrets are encrypted", "by secretbox, kms or aescbc", _providers)
_argument("1.2.29", API, "tls-cipher-suites", "API server: ciphers", _strong, ",".join(CIPHERS[:2]), bad=warning)
_argument("1.2.30", API, "service-account-extend-token-expiration", "tokens that end when they say", _is("false"), "false")

_argument("1.3.1", CONTROLLERS, "terminated-pod-gc-threshold", "pods that have ended", _given, "1000", bad=warning)
_argument("1.3.2", CONTROLLERS, "profiling", "controller manager: profiling", _is("false"), "false")
_argument("1.3.3", CONTROLLERS, "use-service-account-credentials", "an account for each controller", _is("true"), "true")
_argument("1.3.4", CONTROLLERS, "service-account-private-key-file", "key that signs tokens", _given, "the key of service accounts")
_argument("1.3.5", CONTROLLERS, "root-ca-file", "authority that pods are given", _given, "the authority of the API server")
_argument(
    "1.3.6",
    CONTROLLERS,
    "feature-gates",
    "kubelets' certificates as servers",
    _lacks("RotateKubeletServerCertificate=false"),
    "without RotateKubeletServerCertificate=false",
)
_argument("1.3.7", CONTROLLERS, "bind-address", "controller manager: address", lambda given: given in (None, "127.0.0.1"), "127.0.0.1")
_argument("1.4.1", SCHEDULER, "profiling", "scheduler: profiling", _is("false"), "false")
_argument("1.4.2", SCHEDULER, "bind-address", "scheduler: address", lambda given: given in (None, "127.0.0.1"), "127.0.0.1")

_argument("2.1", ETCD, "cert-file", "etcd's certificate", _given, "its certificate")
_argument("2.2", ETCD, "client-cert-auth", "etcd knows its clients", _is("true"), "true")
_argument("2.3", ETCD, "auto-tls", "etcd signs nothing itself", _not("true"), "false")
_argument("2.4", ETCD, "peer-cert-file", "etcd's certificate for its peers", _given, "its certificate for peers")
_argument("2.5", ETCD, "peer-client-cert-auth", "etcd knows its peers", _is("true"), "true")
_argument("2.6", ETCD, "peer-auto-tls", "etcd signs nothing itself for peers", _not("true"), "false")


def _own_authority(found: Secured) -> Iterable[tuple[str, Seen]]:
    for address in found.masters:
        parts = found.machines[address].parts
        trusted = parts[ETCD].arguments.get("trusted-ca-file") if ETCD in parts else None
        clients = parts[API].arguments.get("client-ca-file") if API in parts else None
        if not trusted or not clients:
            yield address, unknown("its manifests of etcd and API server name no authorities")
        elif trusted == clients:
            yield address, warning(f"etcd trusts {trusted[-1]}, which signs for everybody", "give etcd an authority of its own")
        else:
            yield address, ok(trusted[-1])


_item("2.7", "an authority of etcd's own", "who is let into the API is not thereby let into etcd", _own_authority)


# ---- audit ------------------------------------------------------------------------------------------------------------

_PRIVATE = ("secrets", "configmaps", "tokenreviews")


def _audited(found: Secured) -> Iterable[tuple[str, Seen]]:
    for address in found.masters:
        state = found.machines[address]
        if API not in state.parts:
            yield address, unknown(f"has no {MANIFESTS}/{API}.yaml")
        elif "audit-policy-file" not in state.parts[API].arguments:
            yield address, warning("there is no audit policy", _set(API, "audit-policy-file", "a file that says what is logged"))
        elif state.audit is None:
            yield address, unknown("its audit policy cannot be read")
        else:
            yield address, _policy(state.audit)


def _policy(policy: Mapping[str, Any]) -> Seen:
    remedy = (
        "rules of the level Metadata for secrets, configmaps and tokenreviews, before all that are about them; and one for everything else"
    )
    rules = [rule for rule in policy.get("rules") or () if isinstance(rule, Mapping)]
    for what in _PRIVATE:
        level = next((str(rule.get("level")) for rule in rules if _is_about(rule, what)), "None")
        if level != "Metadata":
            text = "are not logged" if level == "None" else f"are logged with their content ({level})"
            return warning(f"requests for {what} {text}", remedy)
    last = rules[-1] if rules else {}
    if last.get("level") in (None, "None") or set(last) - {"level", "omitStages", "omitManagedFields"}:
        return warning("requests that no rule is about are not logged", remedy)
    return ok(f"{len(rules)} rules; of {', '.join(_PRIVATE)} who asked, and no content")


def _is_about(rule: Mapping[str, Any], what: str) -> bool:
    """Whether a rule holds for some resource, whoever asks."""
    if rule.get("users") or rule.get("userGroups") or rule.get("namespaces") or rule.get("verbs") or rule.get("nonResourceURLs"):
        return False
    groups = rule.get("resources")
    if not groups:
        return True
    named = [group.get("resources") or [what] for group in groups if isinstance(group, Mapping) and _in_group(group, what)]
    return any(name in (what, "*", f"{what}/*") for names in named if isinstance(names, list) for name in names)


def _in_group(group: Mapping[str, Any], what: str) -> bool:
    return (group.get("group") or "") == ("authentication.k8s.io" if what == "tokenreviews" else "")


_argument("3.2.1", API, "audit-policy-file", "audit policy", _given, "a file that says what is logged", bad=warning)
_item("3.2.2", "what is audited", "who did what, and of Secrets and the like no content", _audited)


# ---- nodes ------------------------------------------------------------------------------------------------------------

_UNITS = tuple(f"{folder}/systemd/system/kubelet.service{more}" for folder in ("/etc", "/usr/lib") for more in ("", ".d/*"))
_both("4.1.1", "4.1.2", "kubelet's units", _UNITS, 0o600, nodes=True)


def _proxy_file(
    found: Secured, good: Callable[[FileState], bool], told: Callable[[FileState], str], remedy: str
) -> Iterable[tuple[str, Seen]]:
    for address, state in found.machines.items():
        file = state.files.get("/etc/kubernetes/kube-proxy.conf") or state.files.get("/etc/kubernetes/proxy.conf")
        if file is None:
            yield address, ok("there is none: kube-proxy has it from the cluster")
        else:
            yield address, ok(told(file)) if good(file) else warning(told(file), remedy)


_item("4.1.3", "kube-proxy's kubeconfig: mode", "kube-proxy's kubeconfig, where it is a file: 600 or less",
      lambda found: _proxy_file(found, lambda file: not file.mode & ~0o600, lambda file: f"{file.mode:o}", "chmod 600 it"))  # fmt: skip
_item("4.1.4", "kube-proxy's kubeconfig: owner", "kube-proxy's kubeconfig, where it is a file: root:root",
      lambda found: _proxy_file(found, lambda file: file.owner == "root:root", lambda file: file.owner, "chown root:root it"))  # fmt: skip
_both("4.1.5", "4.1.6", "kubelet's kubeconfig", ("/etc/kubernetes/kubelet.conf",), 0o600, nodes=True)
_both("4.1.7", "4.1.8", "authority that kubelets trust", (f"{FOLDER}/ca.crt",), 0o644, nodes=True, bad=warning)
_both("4.1.9", "4.1.10", "kubelet's configuration", (KUBELET_CONFIG,), 0o600, nodes=True)


def _kubelet(number: str, title: str, field: str, holds: Callable[[Any], bool], wanted: str, *, bad: Bad = failed) -> None:
    """An item about one field of a kubelet's configuration, a path with dots."""

    def one(found: Secured) -> Iterable[tuple[str, Seen]]:
        for address, state in found.machines.items():
            if state.kubelet is None:
                yield address, unknown("its kubelet does not tell its configuration")
                continue
            value: Any = state.kubelet
            for key in field.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            text = f"{field} is not given" if value is None else _short(f"{field}: {_plain(value)}")
            yield address, ok(text) if holds(value) else bad(text, f"KubeletConfiguration .{field}: {wanted}")

    _item(number, title, f"kubelet {field}: {wanted}", one)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)


def _serving(found: Secured) -> Iterable[tuple[str, Seen]]:
    signers = {one.subject for address in found.masters for one in found.machines[address].certificates if one.path == f"{FOLDER}/ca.crt"}
    remedy = "certificates of the cluster's authority: tlsCertFile, or serverTLSBootstrap with somebody who approves what kubelets ask for"
    for address, state in found.machines.items():
        certificate = serving(state)
        if certificate is None:
            yield address, unknown("its certificate was not found")
        elif certificate.issuer in signers:
            yield address, ok(f"{posixpath.basename(certificate.path)}, signed by {certificate.issuer}, {certificate.days()} days left")
        else:
            yield address, warning(f"it serves with a certificate that {certificate.issuer} signed", remedy)


def _named(found: Secured) -> Iterable[tuple[str, Seen]]:
    for address, state in found.machines.items():
        name = state.options.get("hostname-override")
        if not state.options:
            yield address, unknown("its kubelet's command could not be read")
        elif name is None or name == found.names.get(address):
            # Another spelling of its own name.
            yield address, ok("goes by its host name" if name is None else f"goes by {name}")
        else:
            yield address, warning(f"--hostname-override={name}", "leave it out")


_kubelet("4.2.1", "kubelet: anonymous requests", "authentication.anonymous.enabled", lambda value: value is False, "false")
_kubelet("4.2.2", "kubelet: authorization", "authorization.mode", lambda value: value not in (None, "AlwaysAllow"), "Webhook")
_kubelet("4.2.3", "kubelet: authority of clients", "authentication.x509.clientCAFile", bool, "the authority that signs for clients")
_kubelet("4.2.4", "kubelet: port without TLS", "readOnlyPort", lambda value: value in (None, 0), "0", bad=warning)
_kubelet("4.2.5", "kubelet: idle connections", "streamingConnectionIdleTimeout",
         lambda value: re.fullmatch(r"(0[hms]?)+", str(value)) is None, "not 0", bad=warning)  # fmt: skip
_kubelet("4.2.6", "kubelet: rules of the firewall", "makeIPTablesUtilChains", lambda value: value in (None, True), "true")
_item("4.2.7", "kubelet: its name", "a kubelet goes by the name that its certificate was made for", _named)
_kubelet("4.2.8", "kubelet: events", "eventRecordQPS", lambda value: value is None or _whole(value) >= 0, "0 or more", bad=warning)
_item("4.2.9", "kubelet: certificate", "API servers know kubelets by certificates of the cluster's authority", _serving)
_kubelet("4.2.10", "kubelet: certificates renewed", "rotateCertificates", lambda value: value is not False, "true")
_kubelet("4.2.11", "kubelet: certificates as a server", "featureGates.RotateKubeletServerCertificate",
         lambda value: value is not False, "true", bad=warning)  # fmt: skip
_kubelet("4.2.12", "kubelet: ciphers", "tlsCipherSuites", lambda value: isinstance(value, list) and _strong(",".join(map(str, value))),
         ",".join(CIPHERS[:2]), bad=warning)  # fmt: skip
_kubelet("4.2.13", "kubelet: processes of a pod", "podPidsLimit", lambda value: _whole(value) > 0, "4096", bad=warning)
_kubelet("4.2.14", "kubelet: system calls of pods", "seccompDefault", lambda value: value is True, "true", bad=warning)


def _whole(value: Any) -> int:
    return value if type(value) is int else -1


def _metrics(found: Secured) -> Iterable[tuple[str, Seen]]:
    address = None if found.proxy is None else str(found.proxy.get("metricsBindAddress") or "")
    if address is None:
        yield found.name, unknown("kube-proxy's configuration is not in the cluster")
    elif not address or address.startswith(("127.", "localhost", "[::1]")):
        yield found.name, ok(address or "127.0.0.1:10249, as it is by default")
    else:
        yield found.name, failed(f"metricsBindAddress: {address}", "KubeProxyConfiguration .metricsBindAddress: 127.0.0.1:10249")


_item("4.3.1", "kube-proxy: metrics", "on the loopback only", _metrics)


# ---- policies ---------------------------------------------------------------------------------------------------------


def _administrators(found: Secured) -> Iterable[tuple[str, Seen]]:
    if found.silent is not None:
        yield found.name, unknown("the API does not answer")
        return
    bindings = readiness.of_kind(found.items, "ClusterRoleBinding")
    names = sorted(
        one["metadata"]["name"]
        for one in bindings
        if isinstance(one.get("roleRef"), Mapping) and one["roleRef"].get("name") == "cluster-admin"
    )
    others = [name for name in names if name not in ("cluster-admin", ADMINISTRATORS)]
    if others:
        text = f"{', '.join(others[:5])}{' ...' if len(others) > 5 else ''} may do everything"
        yield found.name, warning(text, "bind a role with less, where that will do: kubectl get clusterrolebindings")
    else:
        yield found.name, ok(", ".join(names))


def _pods(found: Secured) -> Iterable[tuple[str, Seen]]:
    if found.privileged is None:
        yield found.name, unknown("could not be tried")
    elif found.privileged:
        yield found.name, ok(_short(found.privileged.rpartition("forbidden: ")[2]))
    else:
        remedy = "an AdmissionConfiguration with defaults for PodSecurity, or pod-security.kubernetes.io/enforce=baseline on namespaces"
        yield found.name, warning("a privileged pod may run in the namespace default", remedy)


def _policies(found: Secured) -> Iterable[tuple[str, Seen]]:
    if found.silent is not None:
        yield found.name, unknown("the API does not answer")
    elif used := health.in_use(found.items):
        yield found.name, ok(enforcers.told(used))
    else:
        yield found.name, warning("the pod network enforces no NetworkPolicies", "take one that does (CNI)")


_item("5.1.1", "administrators", "cluster-admin is for those who need it", _administrators)
_item("5.2.1", "what pods may do", "a privileged pod needs a namespace that allows it", _pods)
_item("5.3.1", "network policies", "NetworkPolicies are enforced", _policies)

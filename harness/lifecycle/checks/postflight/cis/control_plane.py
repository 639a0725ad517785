"""Items 1.2 to 3.2: arguments of the control plane and of etcd, and the audit policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness import untrusted
from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight.cis.core import API, CONTROLLERS, ETCD, SCHEDULER, Bad, item, short, strong
from harness.lifecycle.checks.postflight.cis.facts import Secured
from harness.runtimes.profiles import CIPHERS
from harness.runtimes.static_pods import MANIFESTS

_FIELDS = {
    API: "apiServer.extraArgs",
    CONTROLLERS: "controllerManager.extraArgs",
    SCHEDULER: "scheduler.extraArgs",
    ETCD: "etcd.local.extraArgs",
}


_Test = Callable[[str | None], bool]
"""Of the value of an argument; None: not given."""


def _argument(number: str, part: str, name: str, title: str, holds: _Test, wanted: str, *, bad: Bad = failed) -> None:
    """Register an item about one argument of a static pod; ``wanted`` is the right value, as text."""

    def rule(facts: Secured) -> Iterable[tuple[str, Verdict]]:
        for address in facts.control_plane:
            static_pod = facts.machines[address].parts.get(part)
            if static_pod is None:
                yield address, unknown(f"has no {MANIFESTS}/{part}.yaml")
                continue
            values = static_pod.arguments.get(name)
            value = None if values is None else ",".join(values)
            text = f"--{name} is not given" if value is None else f"--{name}={value}"
            yield address, ok(short(text)) if holds(value) else bad(short(text), _set(part, name, wanted))

    item(number, title, f"{part} --{name}: {wanted}", rule)


def _set(part: str, name: str, wanted: str) -> str:
    return f"ClusterConfiguration .{_FIELDS[part]}.{name}: {wanted}; in {MANIFESTS}/{part}.yaml on each control-plane node"


def _is(value: str) -> _Test:
    return lambda text: text == value


def _given(text: str | None) -> bool:
    return bool(text)


def _absent(text: str | None) -> bool:
    return text is None


def _has(word: str) -> _Test:
    return lambda text: word in (text or "").split(",")


def _lacks(word: str) -> _Test:
    return lambda text: word not in (text or "").split(",")


def _at_least(least: int) -> _Test:
    return lambda text: (untrusted.number(text) or 0) >= least


def _not(value: str) -> _Test:
    return lambda text: text != value


def _anonymous(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    for address in facts.control_plane:
        state = facts.machines[address]
        server = state.parts.get(API)
        if server is None:
            yield address, unknown(f"has no {MANIFESTS}/{API}.yaml")
            continue
        conditions = (state.anonymous or {}).get("conditions")
        paths = [str(each.get("path")) for each in conditions if isinstance(each, Mapping)] if isinstance(conditions, list) else []
        if server.arguments.get("anonymous-auth") == ("false",) or (state.anonymous or {}).get("enabled") is False:
            yield address, ok("no anonymous requests")
        elif paths:
            yield address, ok(f"anonymous requests to {', '.join(paths)} only")
        else:
            remedy = "an AuthenticationConfiguration with anonymous.conditions for /livez, /readyz, /healthz (Kubernetes 1.32 and newer)"
            yield address, warning("anonymous requests reach the authorizer", remedy)


def _providers(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    for address in facts.control_plane:
        state = facts.machines[address]
        if API not in state.parts:
            yield address, unknown(f"has no {MANIFESTS}/{API}.yaml")
        elif state.provider in ("aescbc", "kms", "secretbox"):
            yield address, ok(state.provider)
        else:
            text = f"the first provider is {state.provider}" if state.provider else "Secrets are not encrypted in etcd"
            yield address, warning(text, _set(API, "encryption-provider-config", "a file whose first provider is secretbox, kms or aescbc"))


item("1.2.1", "anonymous requests", "the API server answers anonymous requests for its health only", _anonymous)
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
_argument("1.2.4", API, "kubelet-client-certificate", "certificate for kubelets", _given, "its client certificate for kubelets")
_argument("1.2.5", API, "kubelet-certificate-authority", "CA of kubelets", _given, "the CA of the kubelets")
_argument(
    "1.2.6",
    API,
    "authorization-mode",
    "authorization: not AlwaysAllow",
    lambda text: _given(text) and _lacks("AlwaysAllow")(text),
    "Node,RBAC",
)
_argument("1.2.7", API, "authorization-mode", "authorization: nodes", _has("Node"), "Node,RBAC")
_argument("1.2.8", API, "authorization-mode", "authorization: roles", _has("RBAC"), "Node,RBAC")
_argument("1.2.9", API, "enable-admission-plugins", "rate of events", _has("EventRateLimit"), "EventRateLimit, too", bad=warning)
_argument("1.2.10", API, "enable-admission-plugins", "admission: not AlwaysAdmit", _lacks("AlwaysAdmit"), "without AlwaysAdmit")
_argument("1.2.11", API, "enable-admission-plugins", "images pulled always", _has("AlwaysPullImages"), "AlwaysPullImages, too", bad=warning)
_argument("1.2.12", API, "disable-admission-plugins", "admission: service accounts", _lacks("ServiceAccount"), "without ServiceAccount")
_argument("1.2.13", API, "disable-admission-plugins", "admission: namespaces", _lacks("NamespaceLifecycle"), "without NamespaceLifecycle")
_argument("1.2.14", API, "enable-admission-plugins", "admission: nodes", _has("NodeRestriction"), "NodeRestriction, too")
_argument("1.2.15", API, "profiling", "API server: profiling", _is("false"), "false")
_argument("1.2.16", API, "audit-log-path", "audit log", _given, "a file")
_argument("1.2.17", API, "audit-log-maxage", "audit log: age", _at_least(30), "30 or more days")
_argument("1.2.18", API, "audit-log-maxbackup", "audit log: files", _at_least(10), "10 or more")
_argument("1.2.19", API, "audit-log-maxsize", "audit log: size", _at_least(100), "100 or more MB")
_argument("1.2.20", API, "request-timeout", "time for a request", _not("0"), "as long as its clients need; 1m0s by default", bad=warning)
_argument("1.2.21", API, "service-account-lookup", "tokens of deleted accounts", _not("false"), "true")
_argument("1.2.22", API, "service-account-key-file", "key of service accounts", _given, "the public key of service accounts")
_argument("1.2.23", API, "etcd-certfile", "certificate for etcd", _given, "its client certificate for etcd")
_argument("1.2.24", API, "tls-cert-file", "API server's certificate", _given, "its certificate")
_argument("1.2.25", API, "client-ca-file", "CA of clients", _given, "the CA of clients")
_argument("1.2.26", API, "etcd-cafile", "CA of etcd", _given, "the CA of etcd")
_argument("1.2.27", API, "encryption-provider-config", "Secrets encrypted", _given, "a file that says how", bad=warning)
item("1.2.28", "how Secrets are encrypted", "by secretbox, kms or aescbc", _providers)
_argument("1.2.29", API, "tls-cipher-suites", "API server: ciphers", strong, ",".join(CIPHERS[:2]), bad=warning)
_argument("1.2.30", API, "service-account-extend-token-expiration", "tokens that expire on time", _is("false"), "false")

_argument("1.3.1", CONTROLLERS, "terminated-pod-gc-threshold", "terminated pods", _given, "1000", bad=warning)
_argument("1.3.2", CONTROLLERS, "profiling", "controller manager: profiling", _is("false"), "false")
_argument("1.3.3", CONTROLLERS, "use-service-account-credentials", "an account for each controller", _is("true"), "true")
_argument("1.3.4", CONTROLLERS, "service-account-private-key-file", "key that signs tokens", _given, "the key of service accounts")
_argument("1.3.5", CONTROLLERS, "root-ca-file", "CA that pods are given", _given, "the CA of the API server")
_argument(
    "1.3.6",
    CONTROLLERS,
    "feature-gates",
    "serving certificates of kubelets",
    _lacks("RotateKubeletServerCertificate=false"),
    "without RotateKubeletServerCertificate=false",
)
_argument("1.3.7", CONTROLLERS, "bind-address", "controller manager: address", lambda text: text in (None, "127.0.0.1"), "127.0.0.1")
_argument("1.4.1", SCHEDULER, "profiling", "scheduler: profiling", _is("false"), "false")
_argument("1.4.2", SCHEDULER, "bind-address", "scheduler: address", lambda text: text in (None, "127.0.0.1"), "127.0.0.1")

_argument("2.1", ETCD, "cert-file", "etcd's certificate", _given, "its certificate")
_argument("2.2", ETCD, "client-cert-auth", "etcd authenticates clients", _is("true"), "true")
_argument("2.3", ETCD, "auto-tls", "etcd does not sign certificates", _not("true"), "false")
_argument("2.4", ETCD, "peer-cert-file", "etcd's certificate for peers", _given, "its certificate for peers")
_argument("2.5", ETCD, "peer-client-cert-auth", "etcd authenticates peers", _is("true"), "true")
_argument("2.6", ETCD, "peer-auto-tls", "etcd does not sign certificates for peers", _not("true"), "false")


def _own_ca(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    for address in facts.control_plane:
        parts = facts.machines[address].parts
        trusted = parts[ETCD].arguments.get("trusted-ca-file") if ETCD in parts else None
        clients = parts[API].arguments.get("client-ca-file") if API in parts else None
        if not trusted or not clients:
            yield address, unknown("its manifests of etcd and API server name no CA")
        elif trusted == clients:
            yield address, warning(f"etcd trusts {trusted[-1]}, the CA of all clients", "give etcd a CA of its own")
        else:
            yield address, ok(trusted[-1])


item("2.7", "a CA of etcd's own", "a client of the API is not a client of etcd", _own_ca)


# ---- audit ------------------------------------------------------------------------------------------------------------

_PRIVATE = ("secrets", "configmaps", "tokenreviews")


def _audited(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    for address in facts.control_plane:
        state = facts.machines[address]
        if API not in state.parts:
            yield address, unknown(f"has no {MANIFESTS}/{API}.yaml")
        elif "audit-policy-file" not in state.parts[API].arguments:
            yield address, warning("there is no audit policy", _set(API, "audit-policy-file", "a file that says what is logged"))
        elif state.audit is None:
            yield address, unknown("its audit policy cannot be read")
        else:
            yield address, _policy(state.audit)


def _policy(policy: Mapping[str, Any]) -> Verdict:
    remedy = "rules of the level Metadata for secrets, configmaps and tokenreviews, before others for these; and one for everything else"
    rules = [rule for rule in policy.get("rules") or () if isinstance(rule, Mapping)]
    for what in _PRIVATE:
        level = next((str(rule.get("level")) for rule in rules if _matches(rule, what)), "None")
        if level != "Metadata":
            text = "are not logged" if level == "None" else f"are logged with their content ({level})"
            return warning(f"requests for {what} {text}", remedy)
    last = rules[-1] if rules else {}
    if last.get("level") in (None, "None") or set(last) - {"level", "omitStages", "omitManagedFields"}:
        return warning("requests that match no rule are not logged", remedy)
    return ok(f"{len(rules)} rules; of {', '.join(_PRIVATE)} only metadata")


def _matches(rule: Mapping[str, Any], what: str) -> bool:
    """Return whether a rule matches a resource, for every user."""
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
item("3.2.2", "what is audited", "requests are logged, without the content of Secrets and the like", _audited)

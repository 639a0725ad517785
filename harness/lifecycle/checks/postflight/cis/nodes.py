"""Items 4: kubelets and kube-proxy."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight.cis.core import Bad, file_items, item, short, strong
from harness.lifecycle.checks.postflight.cis.facts import KUBELET_CONFIG, FileState, Secured, serving
from harness.runtimes.pki import FOLDER
from harness.runtimes.profiles import CIPHERS

_UNITS = tuple(f"{folder}/systemd/system/kubelet.service{more}" for folder in ("/etc", "/usr/lib") for more in ("", ".d/*"))
file_items("4.1.1", "4.1.2", "kubelet's units", _UNITS, 0o600, nodes=True)


def _proxy_file(
    facts: Secured, good: Callable[[FileState], bool], show: Callable[[FileState], str], remedy: str
) -> Iterable[tuple[str, Verdict]]:
    for address, state in facts.machines.items():
        file = state.files.get("/etc/kubernetes/kube-proxy.conf") or state.files.get("/etc/kubernetes/proxy.conf")
        if file is None:
            yield address, ok("none: kube-proxy reads it from the cluster")
        else:
            yield address, ok(show(file)) if good(file) else warning(show(file), remedy)


item("4.1.3", "kube-proxy's kubeconfig: mode", "kube-proxy's kubeconfig, where it is a file: 600 or less",
      lambda facts: _proxy_file(facts, lambda file: not file.mode & ~0o600, lambda file: f"{file.mode:o}", "chmod 600 it"))  # fmt: skip
item("4.1.4", "kube-proxy's kubeconfig: owner", "kube-proxy's kubeconfig, where it is a file: root:root",
      lambda facts: _proxy_file(facts, lambda file: file.owner == "root:root", lambda file: file.owner, "chown root:root it"))  # fmt: skip
file_items("4.1.5", "4.1.6", "kubelet's kubeconfig", ("/etc/kubernetes/kubelet.conf",), 0o600, nodes=True)
file_items("4.1.7", "4.1.8", "CA that kubelets trust", (f"{FOLDER}/ca.crt",), 0o644, nodes=True, bad=warning)
file_items("4.1.9", "4.1.10", "kubelet's configuration", (KUBELET_CONFIG,), 0o600, nodes=True)


def _kubelet(number: str, title: str, field: str, holds: Callable[[Any], bool], wanted: str, *, bad: Bad = failed) -> None:
    """Register an item about one field of a kubelet's configuration, a path with dots."""

    def rule(facts: Secured) -> Iterable[tuple[str, Verdict]]:
        for address, state in facts.machines.items():
            if state.kubelet is None:
                yield address, unknown("the configuration of its kubelet could not be read")
                continue
            value: Any = state.kubelet
            for key in field.split("."):
                value = value.get(key) if isinstance(value, Mapping) else None
            text = f"{field} is not given" if value is None else short(f"{field}: {_plain(value)}")
            yield address, ok(text) if holds(value) else bad(text, f"KubeletConfiguration .{field}: {wanted}")

    item(number, title, f"kubelet {field}: {wanted}", rule)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower() if isinstance(value, bool) else str(value)


def _serving(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    listed = [certificate for address in facts.control_plane for certificate in facts.machines[address].certificates]
    signers = {certificate.subject for certificate in listed if certificate.path == f"{FOLDER}/ca.crt"}
    remedy = "certificates of the cluster's CA: tlsCertFile, or serverTLSBootstrap with a controller that approves the requests of kubelets"
    for address, state in facts.machines.items():
        certificate = serving(state)
        if certificate is None:
            yield address, unknown("its certificate was not facts")
        elif certificate.issuer in signers:
            yield address, ok(f"{posixpath.basename(certificate.path)}, signed by {certificate.issuer}, {certificate.days()} days left")
        else:
            yield address, warning(f"its serving certificate is signed by {certificate.issuer}", remedy)


def _named(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    for address, state in facts.machines.items():
        name = state.options.get("hostname-override")
        if not state.options:
            yield address, unknown("its kubelet's command could not be read")
        elif name is None or name == facts.names.get(address):
            # Another spelling of its own name.
            yield address, ok("its host name" if name is None else name)
        else:
            yield address, warning(f"--hostname-override={name}", "leave it out")


_kubelet("4.2.1", "kubelet: anonymous requests", "authentication.anonymous.enabled", lambda value: value is False, "false")
_kubelet("4.2.2", "kubelet: authorization", "authorization.mode", lambda value: value not in (None, "AlwaysAllow"), "Webhook")
_kubelet("4.2.3", "kubelet: CA of clients", "authentication.x509.clientCAFile", bool, "the CA of clients")
_kubelet("4.2.4", "kubelet: port without TLS", "readOnlyPort", lambda value: value in (None, 0), "0", bad=warning)
_kubelet("4.2.5", "kubelet: idle connections", "streamingConnectionIdleTimeout",
         lambda value: re.fullmatch(r"(0[hms]?)+", str(value)) is None, "not 0", bad=warning)  # fmt: skip
_kubelet("4.2.6", "kubelet: rules of the firewall", "makeIPTablesUtilChains", lambda value: value in (None, True), "true")
item("4.2.7", "kubelet: its name", "a kubelet has the name that its certificate was made for", _named)
_kubelet("4.2.8", "kubelet: events", "eventRecordQPS", lambda value: value is None or _whole(value) >= 0, "0 or more", bad=warning)
item("4.2.9", "kubelet: certificate", "kubelets serve with certificates of the cluster's CA", _serving)
_kubelet("4.2.10", "kubelet: client certificates rotated", "rotateCertificates", lambda value: value is not False, "true")
_kubelet("4.2.11", "kubelet: serving certificates", "featureGates.RotateKubeletServerCertificate",
         lambda value: value is not False, "true", bad=warning)  # fmt: skip
_kubelet("4.2.12", "kubelet: ciphers", "tlsCipherSuites", lambda value: isinstance(value, list) and strong(",".join(map(str, value))),
         ",".join(CIPHERS[:2]), bad=warning)  # fmt: skip
_kubelet("4.2.13", "kubelet: processes of a pod", "podPidsLimit", lambda value: _whole(value) > 0, "4096", bad=warning)
_kubelet("4.2.14", "kubelet: system calls of pods", "seccompDefault", lambda value: value is True, "true", bad=warning)


def _whole(value: Any) -> int:
    return value if type(value) is int else -1


def _metrics(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    address = None if facts.proxy is None else str(facts.proxy.get("metricsBindAddress") or "")
    if address is None:
        yield facts.name, unknown("kube-proxy's configuration was not found")
    elif not address or address.startswith(("127.", "localhost", "[::1]")):
        yield facts.name, ok(address or "127.0.0.1:10249, the default")
    else:
        yield facts.name, failed(f"metricsBindAddress: {address}", "KubeProxyConfiguration .metricsBindAddress: 127.0.0.1:10249")


item("4.3.1", "kube-proxy: metrics", "on the loopback only", _metrics)

"""Items 5: rights of users and pods, and NetworkPolicies."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from harness.cloudimage import enforcers
from harness.lifecycle.checks.findings import Verdict, ok, unknown, warning
from harness.lifecycle.checks.postflight.cis.core import item, short
from harness.lifecycle.checks.postflight.cis.facts import Secured
from harness.lifecycle.kube import objects, readiness
from harness.runtimes.pki import ADMINISTRATORS


def _administrators(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    if facts.silent is not None:
        yield facts.name, unknown("the API does not answer")
        return
    bindings = readiness.of_kind(facts.items, "ClusterRoleBinding")
    names = sorted(
        binding["metadata"]["name"]
        for binding in bindings
        if isinstance(binding.get("roleRef"), Mapping) and binding["roleRef"].get("name") == "cluster-admin"
    )
    others = [name for name in names if name not in ("cluster-admin", ADMINISTRATORS)]
    if others:
        text = f"{', '.join(others[:5])}{' ...' if len(others) > 5 else ''} may do everything"
        yield facts.name, warning(text, "bind a role with fewer rights where that is enough: kubectl get clusterrolebindings")
    else:
        yield facts.name, ok(", ".join(names))


def _pods(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    if facts.privileged is None:
        yield facts.name, unknown("could not be tried")
    elif facts.privileged:
        yield facts.name, ok(short(facts.privileged.rpartition("forbidden: ")[2]))
    else:
        remedy = "an AdmissionConfiguration with defaults for PodSecurity, or pod-security.kubernetes.io/enforce=baseline on namespaces"
        yield facts.name, warning("a privileged pod may run in the namespace default", remedy)


def _policies(facts: Secured) -> Iterable[tuple[str, Verdict]]:
    if facts.silent is not None:
        yield facts.name, unknown("the API does not answer")
    elif used := enforcers.among(objects.daemonset_images(facts.items)):
        yield facts.name, ok(enforcers.told(used))
    else:
        yield facts.name, warning("the pod network enforces no NetworkPolicies", "use one that does (CNI)")


item("5.1.1", "administrators", "cluster-admin is for those who need it", _administrators)
item("5.2.1", "what pods may do", "privileged pods need a namespace that allows them", _pods)
item("5.3.1", "network policies", "NetworkPolicies are enforced", _policies)

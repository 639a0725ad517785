"""Connections in a running cluster: to the API, the registry, Services and DNS, from nodes and from pods."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from harness.lifecycle.checks.findings import Verdict, failed, ok, unknown, warning
from harness.lifecycle.checks.postflight.core import Health, PodAnswer, check


@check("api-way", "way to the API", "every node reaches an API server on its own path: itself, or its balancer")
def _api_way(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, answer in health.answers.items():
        if answer.api is None:
            yield address, unknown("could not be tried")
        elif answer.api == "ok":
            yield address, ok("answers")
        else:
            remedy = (
                "systemctl status slipway-balancer on it" if health.roles[address] == "worker" else "kubectl logs of its kube-apiserver"
            )
            yield address, failed(f"the API does not answer it: {answer.api}", remedy)


@check("balancer", "balancers", "the balancer of every worker finds every control-plane node alive")
def _balancer(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, answer in health.answers.items():
        if not answer.servers:
            if "slipway-balancer" in answer.units:
                yield address, unknown("its balancer could not be asked (socat, perl or python3)")
            continue
        down = sorted(f"{name} ({what})" for (what, name), state in answer.servers.items() if not state.startswith(("UP", "no check")))
        up = {what for (what, _), state in answer.servers.items() if state.startswith(("UP", "no check"))}
        gone = sorted({what for what, _ in answer.servers} - up)
        if gone:
            remedy = "see the API servers and registries of the control plane"
            yield address, failed(f"its balancer finds no server for {', '.join(gone)}", remedy)
        elif down:
            yield address, warning(f"its balancer does not find {', '.join(down)}", "see that node, and the network to it")
        else:
            yield address, ok(f"{len(answer.servers)} servers")


_ADDS_LOGIN = "slipway upgrade, or the slipway run that made the cluster, adds the login"


@check("registry", "registry", "every registry answers, requires a login, and has every image complete")
def _registry(health: Health) -> Iterable[tuple[str, Verdict]]:
    if not health.own_registry:
        yield health.name, ok("the site's")
        return
    holders = [address for address, answer in health.answers.items() if answer.holds]
    if not holders:
        yield health.name, failed("no node that answers has the images", "run slipway run again: it starts the registries")
    for address in holders:
        answer = health.answers[address]
        wrong = {name: reason for name, reason in answer.images.items() if reason != "ok"}
        if wrong:
            name, reason = next(iter(wrong.items()))
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            remedy = "systemctl status slipway-registry on it; slipway run again fills it"
            yield address, failed(f"does not serve {name}{more}: {reason}", remedy)
        elif answer.lost:
            yield address, failed(f"lacks {len(answer.lost)} blobs of the image, or has them truncated", "slipway run again fills it")
        elif answer.public:
            yield address, warning("serves images to every client that reaches it: it requires no login", _ADDS_LOGIN)
        elif answer.images:
            yield address, ok(f"{len(answer.images)} images")
        else:
            yield address, unknown("could not be asked (ctr)")


@check("registry-way", "way to the images", "every node can pull an image on its own path")
def _registry_way(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, answer in health.answers.items():
        if answer.holds and health.own_registry:
            continue
        wrong = [reason for reason in answer.images.values() if reason != "ok"]
        if wrong:
            remedy = "systemctl status slipway-balancer on it, and the registries of the control plane"
            yield address, failed(f"gets no images: {wrong[0]}", remedy)
        elif answer.images:
            yield address, ok("answers")
        else:
            yield address, unknown("could not be tried (ctr)")


_OUTCOMES = {"refused": "is refused", "silent": "does not answer", "unroutable": "has no route", "unknown": "cannot be tried"}


def _connected(how: str | None, what: str, remedy: str) -> Verdict:
    """The verdict on the outcome of a connection."""
    if how in (None, "unknown"):
        return unknown(f"{what} could not be tried")
    return ok("answers") if how == "ok" else failed(f"{what} {_OUTCOMES.get(how or '', how)}", remedy)


_PROXY = "see kube-proxy on it: kubectl --namespace kube-system logs -l k8s-app=kube-proxy"


@check("node-services", "Services from nodes", "every node reaches the Service of the API")
def _node_services(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, answer in health.answers.items():
        yield address, _connected(answer.service, "the Service of the API", _PROXY)


@check("node-port-way", "NodePorts", "a NodePort answers on every node, wherever its pod runs")
def _node_ports(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, answer in health.answers.items():
        bad = {to: how for to, how in answer.node_ports.items() if how not in ("ok", "unknown")}
        if bad:
            to, how = next(iter(bad.items()))
            remedy = f"{_PROXY}; see firewalls between it and {to}"
            yield address, failed(f"a NodePort on {', '.join(bad)} {_OUTCOMES.get(how, how)}", remedy)
        elif answer.node_ports and "unknown" not in answer.node_ports.values():
            yield address, ok("answers")
        else:
            yield address, unknown("could not be tried")


@check("node-dns", "DNS from nodes", "the cluster's DNS answers every node")
def _node_dns(health: Health) -> Iterable[tuple[str, Verdict]]:
    for address, answer in health.answers.items():
        yield address, _dns(answer.dns)


def _dns(answer: str | None) -> Verdict:
    if answer is None:
        return unknown("could not be tried")
    remedy = "see the pods of DNS: kubectl --namespace kube-system get pods -l k8s-app=kube-dns"
    return ok("answers") if answer == "ok" else failed(f"DNS: {answer}", remedy)


def _of_pods(health: Health, rule: Callable[[PodAnswer], Verdict]) -> Iterable[tuple[str, Verdict]]:
    if health.pods is None:
        yield health.name, unknown("no pods could be created to try it")
        return
    for name, answer in health.pods.items():
        yield name, unknown(f"its pod could not be used: {answer.trouble}") if answer.trouble else rule(answer)


@check("pod-start", "starting pods", "a pod starts on every node")
def _pod_start(health: Health) -> Iterable[tuple[str, Verdict]]:
    if health.pods is None:
        yield health.name, unknown("no pods could be created to try it")
        return
    for name, answer in health.pods.items():
        yield name, ok("starts") if answer.trouble is None else failed(answer.trouble, "journalctl -u kubelet -u containerd on it")


@check("pod-network", "pods between nodes", "pods reach pods on all other nodes")
def _pod_network(health: Health) -> Iterable[tuple[str, Verdict]]:
    def rule(answer: PodAnswer) -> Verdict:
        unreached = sorted(name for name, how in answer.pods.items() if how not in ("ok", "unknown"))
        if unreached:
            remedy = "see the pod network's pods, and UDP 8472 between the nodes"
            return failed(f"its pods do not reach those on {', '.join(unreached)}", remedy)
        if not answer.pods and len(health.pods or ()) == 1:
            return ok("there is no other node")
        if not answer.pods or "unknown" in answer.pods.values():
            return unknown("could not be tried (bash)")
        return ok(f"{len(answer.pods)} other{'s' if len(answer.pods) > 1 else ''}")

    return _of_pods(health, rule)


@check("pod-services", "Services from pods", "pods on every node reach the Service of the API")
def _pod_services(health: Health) -> Iterable[tuple[str, Verdict]]:
    return _of_pods(health, lambda answer: _connected(answer.service, "the Service of the API", _PROXY))


@check("pod-dns", "DNS from pods", "the cluster's DNS answers pods on every node")
def _pod_dns(health: Health) -> Iterable[tuple[str, Verdict]]:
    return _of_pods(health, lambda answer: _dns(answer.dns))

"""The parts of a master that its kubelet runs from files: how they are made to start anew, and how they are stopped."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from harness import untrusted
from harness.errors import CheckError, NodeError
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.placing import STATE, read_all
from harness.runtimes import API_PORT, ROOTFS
from harness.runtimes.kubeadm import KUBECTL

MANIFESTS = "/etc/kubernetes/manifests"
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ANNOTATION = "slipway.dev/restarted"
_ASIDE = "/etc/kubernetes/.slipway-manifests"
KEPT = f"{STATE}/manifests"
"""The manifests of a master as they were before a change that has not come to its end."""

# The identifiers of the containers of a part that run now; a container of somebody else's may have the same name elsewhere.
RUNNING = f"""PATH=$PATH:{ROOTFS}/bin
running() {{
  live=$(ctr -n k8s.io tasks ls 2>/dev/null | awk '$3 == "RUNNING" {{ print $1 }}')
  of='labels."io.kubernetes.container.name"=='$1',labels."io.kubernetes.pod.namespace"==kube-system'
  ctr -n k8s.io containers ls -q "$of" 2>/dev/null | grep -xF -e "${{live:-none}}"
}}
"""


# An API server answers some seconds before it knows who may do what, sooner than a balancer has found out that it was away. So that nobody
# is sent to it meanwhile, new connections from outside are refused, and balancers choose another master. Should we be killed, the rule goes
# by itself; delete takes it away too.
_RULE = f"INPUT ! -i lo -p tcp --dport {API_PORT} --syn -m comment --comment slipway-restart -j REJECT --reject-with tcp-reset"
_OPEN = f"for tool in iptables ip6tables; do while $tool -D {_RULE} 2>/dev/null; do :; done; done"
_SHUT = f"""{_OPEN}
for tool in iptables ip6tables; do $tool -I {_RULE} 2>/dev/null || true; done
setsid sh -c 'sleep %d; {_OPEN}' > /dev/null 2>&1 < /dev/null &"""


def restart(node: Node, parts: Sequence[str] = PARTS, *, reason: str, timeout: float = 180, others: bool = False) -> None:
    """Start parts of a master anew, by a mark in their manifests as an upgrade would change them, and wait until its API is ready.

    ``reason`` is the mark: with the same one nothing happens. Parts that the master does not run are left out. ``timeout`` is in seconds.
    With ``others`` there are more masters, which serve meanwhile. Raises CheckError when they do not come up again.
    """
    manifests = read_all(node, [f"{MANIFESTS}/{part}.yaml" for part in parts])
    changed = {path: text for path, data in manifests.items() if (text := marked(data.decode(), reason)) is not None}
    names = [path.rpartition("/")[2].removesuffix(".yaml") for path in changed]
    before = {name: node.run(f"{RUNNING}running {name} || true").stdout.split() for name in names}
    if others and names:
        node.run(_SHUT % (timeout + 90), timeout=60)
    for path, text in changed.items():
        # Not beside it: the kubelet takes every file in that folder for a pod.
        part = f"{_ASIDE}-new.yaml"
        node.put(text.encode(), part, 0o600)
        node.run(f"mv -f {part} {path}")
    try:
        wait(node, before, timeout)
    finally:
        if others and names:
            node.run(_OPEN, check=False, timeout=60)


def replace(
    node: Node, parts: Sequence[str], write: Callable[[], object], *, timeout: float = 180, others: bool = False
) -> tuple[str, ...]:
    """Have ``write`` put other manifests of parts onto a master, and wait until those that are different run and its API is ready.

    Returns the parts that are different. With ``others`` there are more masters, which serve meanwhile. ``timeout`` is in seconds.
    Raises CheckError when they do not come up.
    """
    paths = {part: f"{MANIFESTS}/{part}.yaml" for part in parts}
    old = read_all(node, list(paths.values()))
    running = {part: node.run(f"{RUNNING}running {part} || true").stdout.split() for part in parts}
    if others:
        node.run(_SHUT % (timeout + 90), timeout=60)
    try:
        write()
        new = read_all(node, list(paths.values()))
        changed = tuple(part for part, path in paths.items() if new.get(path) != old.get(path))
        wait(node, {part: running[part] for part in changed}, timeout)
    finally:
        if others:
            node.run(_OPEN, check=False, timeout=60)
    return changed


def keep(node: Node) -> None:
    """Keep the manifests of a master as they are, until ``forget``; those that are kept already are of before the change."""
    node.run(f"umask 077; [ -d {KEPT} ] || {{ rm -rf {KEPT}.part; cp -a {MANIFESTS} {KEPT}.part; mv {KEPT}.part {KEPT}; }}")


def is_kept(node: Node) -> bool:
    """Whether manifests of before a change are on the machine."""
    return node.run(f"[ -d {KEPT} ]", check=False).ok


def forget(node: Node) -> None:
    """The change has come to its end."""
    node.run(f"rm -rf {KEPT}")


def put_back(node: Node, *, timeout: float = 180) -> None:
    """Bring the kept manifests of a master back, and wait for its API. Raises CheckError when that does not come up again."""
    script = f"""set -e
for path in {KEPT}/*.yaml; do
  name=${{path##*/}}
  if ! cmp -s "$path" {MANIFESTS}/"$name"; then
    cp -p "$path" {_ASIDE}-new.yaml; mv -f {_ASIDE}-new.yaml {MANIFESTS}/"$name"; echo "${{name%.yaml}}"
  fi
done"""
    running = {part: node.run(f"{RUNNING}running {part} || true").stdout.split() for part in PARTS}
    changed = node.run(script).stdout.split()
    wait(node, {part: running[part] for part in changed if part in running}, timeout)


def wait(node: Node, before: dict[str, list[str]], timeout: float) -> None:
    """Until the parts run in other containers than ``before``, by part, and the API of the node is ready. Raises CheckError."""
    checks = "".join(f"fresh {name} {shlex.quote(' '.join(ids))} || return 1\n" for name, ids in before.items())
    script = f"""{RUNNING}fresh() {{
  found=$(running "$1")
  [ -n "$found" ] || {{ missing="$1 does not run"; return 1; }}
  # One of the old ones may take its time to end: what counts is that a new one runs, and that it is ready.
  for id in $found; do case " $2 " in *" $id "*) ;; *) return 0;; esac; done
  missing="$1 has not been started anew"; return 1
}}
ready() {{
{checks}  {KUBECTL} --request-timeout=2s get --raw /readyz > {STATE}/readyz 2>&1 || {{ missing=$(tail -n 1 {STATE}/readyz); return 1; }}
}}
end=$(($(date +%s) + {int(timeout)}))
until ready; do
  if [ "$(date +%s)" -gt "$end" ]; then echo "$missing"; exit 1; fi
  sleep 0.3
done"""
    result = node.run(script, check=False, timeout=timeout + 60)
    if not result.ok:
        raise CheckError(
            f"{node.name}: the control plane is not up again after {timeout:.0f} s: {result.output or 'no reason'}",
            hint="journalctl -u kubelet there, and /var/log/pods, say why; the same command may be run again",
        )


def marked(text: str, reason: str) -> str | None:
    """A manifest with a mark, or None when it has that mark already."""
    manifest: Any = untrusted.yaml_document(text, what="the manifest of a static pod", error=NodeError)
    annotations = manifest["metadata"].get("annotations") or {}
    if annotations.get(ANNOTATION) == reason:
        return None
    manifest["metadata"]["annotations"] = {**annotations, ANNOTATION: reason}
    return yaml.safe_dump(manifest, sort_keys=False)


def stop(node: Node) -> None:
    """Stop the kubelet of a master and all of its parts; they come back with ``start``. May be repeated."""
    kills = "\n".join(f"running {part}" for part in PARTS)
    script = f"""{RUNNING}systemctl stop kubelet
end=$(($(date +%s) + 60))
while ids=$({kills}); [ -n "$ids" ]; do
  for id in $ids; do ctr -n k8s.io tasks kill -s TERM "$id"; done > /dev/null 2>&1
  [ "$(date +%s)" -lt "$end" ] || {{ echo "still running: $ids" >&2; exit 1; }}
  sleep 0.5
done
true"""
    node.run(script, timeout=600)


def start(node: Node) -> None:
    """Start the kubelet again, and with it the parts of the master; what runs need not be up when this returns."""
    node.run("systemctl start kubelet", timeout=LONG_TIMEOUT)

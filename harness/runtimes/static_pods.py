"""Static pods of a control-plane node: restart and stop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml

from harness import assets, log, untrusted
from harness.errors import CheckError, NodeError
from harness.nodes import LONG_TIMEOUT, Node
from harness.nodes.files import STATE, read_files
from harness.runtimes import ROOTFS
from harness.runtimes.kubeconfig import ADMIN

MANIFESTS = "/etc/kubernetes/manifests"
PARTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
ANNOTATION = "slipway.dev/restarted"
_ASIDE = "/etc/kubernetes/.slipway-manifests"
KEPT = f"{STATE}/manifests"
"""Manifests of a control-plane node from before an unfinished change."""
AWAY = f"{STATE}/away"
"""Manifests that are hidden from the kubelet for a while, so that it stops their pods."""
_CLIENTS = ("kube-controller-manager", "kube-scheduler")
_SERVER = "kube-apiserver"

_FOLDERS = {"aside": f"{_ASIDE}-new.yaml", "away": AWAY, "manifests": MANIFESTS}
_KUBECTL = {"admin": ADMIN, "rootfs": ROOTFS, "state": STATE}
"""Arguments of scripts."""

_BACK = assets.script("bring_back", **_FOLDERS)


def _running(node: Node, part: str) -> list[str]:
    """The identifiers of the containers of a part that run now."""
    return node.run(f"{assets.script('running', rootfs=ROOTFS)}running {part} || true").stdout.split()


def _arm(seconds: float) -> str:
    """Shell text that has everything come back by itself after a time."""
    return assets.script("arm_return", after=int(seconds), state=STATE, **{"return": f"{_BACK}systemctl start kubelet\n"})


def _leave(timeout: float) -> str:
    """Shell text of ``leave``.

    The controllers end first: while the API server still answers, those of other nodes take over their leader leases at once.
    Then the API server: it is not ready any more, takes its address out of the service ``kubernetes``, serves until no client is sent to it
    (``--shutdown-delay-duration``), ends its watches and finishes other requests.
    """
    return assets.script(
        "leave",
        **_KUBECTL,
        after=int(timeout) + 300,
        away=AWAY,
        clients=" ".join(_CLIENTS),
        manifests=MANIFESTS,
        server=_SERVER,
        timeout=int(timeout),
        **{"return": f"{_BACK}systemctl start kubelet\n"},
    )


def restart(node: Node, parts: Sequence[str] = PARTS, *, reason: str, timeout: float = 180, others: bool = False) -> None:
    """Restart static pods of a control-plane node by a mark in their manifests, and wait until its API is ready.

    ``reason`` is the mark: with the same one nothing happens. Pods that the node does not run are skipped. ``timeout`` is in seconds.
    With ``others`` more control-plane nodes serve meanwhile, and no request is lost. Raises CheckError when the parts do not come up.
    """
    come_back(node)
    manifests = read_files(node, [f"{MANIFESTS}/{part}.yaml" for part in parts])
    changed = {path: text for path, data in manifests.items() if (text := marked(data, f"{node.name}: {path}", reason)) is not None}
    names = {path.rpartition("/")[2].removesuffix(".yaml"): path for path in changed}
    before = {name: _running(node, name) for name in names}

    def write(*those: str) -> None:
        for name in those:
            _put(node, changed[names[name]], names[name])

    if others and _SERVER in names:
        leave(node, timeout)
        if "etcd" in names:
            write("etcd")
            wait(node, {"etcd": before["etcd"]}, timeout, serves=False)
        write(_SERVER)
        wait(node, {_SERVER: before[_SERVER]}, timeout)
        write(*(name for name in names if name in _CLIENTS))
        come_back(node)
        manifests_on_node = read_files(node, [f"{MANIFESTS}/{name}.yaml" for name in _CLIENTS])
        before = {**{name: [] for name in _CLIENTS if f"{MANIFESTS}/{name}.yaml" in manifests_on_node}, **before}
    else:
        write(*names)
    wait(node, before, timeout)


def _put(node: Node, text: str, path: str) -> None:
    # Not beside it: the kubelet takes every file in that folder for a pod.
    part = f"{_ASIDE}-new.yaml"
    node.put(text.encode(), part, 0o600)
    node.run(f"mv -f {part} {path}")


def replace(node: Node, parts: Sequence[str], write: Callable[[], object], *, timeout: float = 180, serves: bool = True) -> tuple[str, ...]:
    """Let ``write`` write manifests to a control-plane node, and wait until the changed ones run.

    With ``serves``, also until its API is ready. Returns the changed pods. ``timeout`` is in seconds.
    Raises CheckError when they do not come up.
    """
    paths = {part: f"{MANIFESTS}/{part}.yaml" for part in parts}
    old = read_files(node, list(paths.values()))
    running = {part: _running(node, part) for part in parts}
    write()
    new = read_files(node, list(paths.values()))
    changed = tuple(part for part, path in paths.items() if new.get(path) != old.get(path))
    wait(node, {part: running[part] for part in changed}, timeout, serves=serves)
    return changed


def leave(node: Node, timeout: float = 180) -> None:
    """Stop the API server and controllers of a control-plane node without losing requests, where other nodes serve.

    Their manifests are hidden until ``come_back``, or until others replace them; after some minutes they return by themselves. May be
    repeated. Raises CheckError when a part does not end.
    """
    result = node.run(_leave(timeout), check=False, timeout=timeout + 60)
    if not result.ok:
        come_back(node)
        raise CheckError(f"{node.name}: {result.output or 'its API server does not end'}", hint="journalctl -u kubelet there says why")


def come_back(node: Node) -> None:
    """Bring back what ``leave`` has taken away and nothing has replaced, also of an attempt that was cut off."""
    node.run(assets.script("come_back", **_FOLDERS), timeout=60)


def halt(node: Node, timeout: float = 180, *, others: bool) -> None:
    """Stop the kubelet and all static pods of a control-plane node; the kubelet restarts by itself a minute later, and with it the pods.

    With ``others`` more control-plane nodes serve: the API server ends as in ``leave``.
    """
    if others:
        leave(node, timeout)
    node.run(_arm(timeout), timeout=60)
    stop(node)
    node.run(f"{_BACK}{_arm(60)}", timeout=60)


def resume(node: Node) -> bool:
    """Finish an interrupted change on a control-plane node; True when its manifests run. Does nothing without such a change."""
    if not is_kept(node):
        return True
    come_back(node)
    start(node)
    try:
        wait(node, dict.fromkeys(PARTS, ()), 120)
    except CheckError as error:
        log.debug(error.message)
        return False
    return True


def keep(node: Node) -> None:
    """Save the manifests of a control-plane node until ``forget``; already saved ones are from before the change."""
    node.run(f"umask 077; [ -d {KEPT} ] || {{ rm -rf {KEPT}.part; cp -a {MANIFESTS} {KEPT}.part; mv {KEPT}.part {KEPT}; }}")


def is_kept(node: Node) -> bool:
    """Return True when manifests from before a change are saved on the machine."""
    return node.run(f"[ -d {KEPT} ]", check=False).ok


def forget(node: Node) -> None:
    """Remove the saved manifests: the change is complete."""
    node.run(f"rm -rf {KEPT}")


def put_back(node: Node, *, others: bool = False) -> None:
    """Restore the saved manifests of a control-plane node, and wait for its API. Raises CheckError when it does not come up.

    With ``others`` more control-plane nodes serve: the running API server shuts down gracefully.
    """
    running = {part: _running(node, part) for part in PARTS}
    if others:
        try:
            leave(node)
        except CheckError as error:
            log.debug(error.message)
    changed = node.run(assets.script("put_back", **_FOLDERS, kept=KEPT)).stdout.split()
    come_back(node)
    wait(node, {part: running[part] for part in changed if part in running}, 180)


def wait(node: Node, before: Mapping[str, Sequence[str]], timeout: float, *, serves: bool = True) -> None:
    """Wait until the parts run in other containers than ``before``, by part, and (``serves``) the API of the node is ready.

    Its administrator is one by a rule of the cluster: the API is not ready for it before it knows the rules. Raises CheckError.
    """
    words = [word for name, ids in before.items() for word in (name, " ".join(ids))]
    script = assets.script("wait_parts", *words, **_KUBECTL, serves="yes" if serves else "", timeout=int(timeout))
    result = node.run(script, check=False, timeout=timeout + 60)
    if not result.ok:
        raise CheckError(
            f"{node.name}: the control plane is not up again after {timeout:.0f} s: {result.output or 'no reason'}",
            hint="journalctl -u kubelet there, and /var/log/pods, say why; the same command may be run again",
        )


def marked(data: bytes, what: str, reason: str) -> str | None:
    """A manifest with a mark, or None when it has that mark already. Raises NodeError, with the name ``what``, for one that is damaged."""
    manifest: Any = untrusted.yaml_document(data, what=what, error=NodeError)
    metadata = manifest.get("metadata") if isinstance(manifest, dict) else None
    annotations = (metadata.get("annotations") or {}) if isinstance(metadata, dict) else None
    if not isinstance(annotations, dict):
        raise NodeError(f"{what} is not the manifest of a static pod", hint="bring it back from another control-plane node or a backup")
    if annotations.get(ANNOTATION) == reason:
        return None
    manifest["metadata"]["annotations"] = {**annotations, ANNOTATION: reason}
    return yaml.safe_dump(manifest, sort_keys=False)


def stop(node: Node) -> None:
    """Stop the kubelet of a control-plane node and all static pods; ``start`` restarts them. May be repeated."""
    node.run(assets.script("stop_parts", parts=" ".join(PARTS), rootfs=ROOTFS), timeout=600)


def start(node: Node) -> None:
    """Start the kubelet, and with it the static pods; they need not be up when this returns."""
    node.run("systemctl start kubelet", timeout=LONG_TIMEOUT)

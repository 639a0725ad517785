"""Objects of the API, as kubectl prints them."""

from __future__ import annotations

from typing import Any


def made(kind: str, name: str, *, namespace: str | None = "web", generation: int = 1, **parts: Any) -> dict[str, Any]:
    meta = {"name": name, "uid": f"{kind}-{name}", "generation": generation, **parts.pop("metadata", {})}
    if namespace:
        meta["namespace"] = namespace
    return {"kind": kind, "metadata": meta, "spec": parts.pop("spec", {}), "status": parts.pop("status", {})}


def node(ready: str = "True", message: str = "", **extra: str) -> dict[str, Any]:
    conditions = [{"type": "Ready", "status": ready, "message": message}]
    conditions += [{"type": kind, "status": status} for kind, status in extra.items()]
    return made("Node", "one", namespace=None, status={"conditions": conditions})


def deployment(**status: int) -> dict[str, Any]:
    return made("Deployment", "nginx", spec={"replicas": 2}, status={"observedGeneration": 1, **status})


def pod(name: str = "nginx-0", phase: str = "Running", *, ready: bool = False, owned: bool = True, **container: Any) -> dict[str, Any]:
    owner = [{"kind": "ReplicaSet", "name": "nginx", "uid": "ReplicaSet-nginx", "controller": True}] if owned else []
    status = {
        "phase": phase,
        "conditions": [{"type": "Ready", "status": "True" if ready else "False", "message": "containers with unready status: [main]"}],
        "containerStatuses": [{"name": "main", "image": "nginx:1.25", "ready": ready, "restartCount": 0, **container}],
    }
    return made("Pod", name, metadata={"ownerReferences": owner}, status=status)


def replicas(owner: str = "nginx") -> dict[str, Any]:
    return made("ReplicaSet", "nginx", metadata={"ownerReferences": [{"kind": "Deployment", "name": owner, "controller": True}]})


def static_pod(**container: Any) -> dict[str, Any]:
    static = pod("etcd-one", **container)
    static["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "hash"}
    return static

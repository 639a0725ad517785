"""What an honest machine answers, as far as a test needs it before its machine begins to lie."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import yaml

from tests.hostile.sshd import Machine, Session, says

STATE = "/var/lib/slipway"
_TOOLS = (
    *("systemctl", "tar", "iptables", "mount", "umount", "base64", "cksum", "find", "sed", "grep", "awk"),
    *("conntrack", "socat", "bash", "timeout"),
)
_FEATURES = ("overlay", "br_netfilter", "nf_conntrack", "vxlan", "ip_vs", "nf_tables")
_PLACES = ("/var/lib", STATE, "/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/log")


def facts(host: str, address: str, more: str = "") -> str:
    """What the script of facts prints on a machine that is fit for a cluster; ``more`` stands last and wins."""
    now = time.time()
    lines = [
        f"begun {now:.9f}",
        f"host {host}",
        "arch x86_64",
        "kernel 6.1.0-18-amd64",
        "user root",
        "virtual kvm",
        "os ID=debian",
        "os VERSION_ID=13",
        "cpus 8",
        "memory 16777216",
        "available 16000000",
        *(f"place {place} 42 / 900000000 800000000 60000000 59000000 ext4" for place in _PLACES),
        "capabilities 000001ffffffffff",
        "files 1048576",
        "tasks max",
        "kmsg yes",
        "cgroup 2",
        *(f"controller {name}" for name in ("cpu", "cpuset", "memory", "pids", "io", "hugetlb")),
        "systemd yes",
        *(f"feature {name}" for name in _FEATURES),
        *(f"tool {name}" for name in _TOOLS),
        "nat yes",
        "nft nftables v1.0.9 (Old Doc Yak #3)",
        f"machine-id {host.encode().hex():0<32.32}",
        f"link eth0 02:00:00:00:00:{sum(address.encode()) % 256:02x} 1500",
        "route eth0 00000000 0100007F 00000000",
        "service chronyd active",
        "resolv nameserver 192.0.2.53",
        f"address {address} eth0",
        f"time {now:.9f}",
    ]
    return "\n".join(lines) + f"\n{more}\n"


def healthy(machine: Machine, host: str = "", *, more: str = "") -> None:
    """A machine that is fit to become a node; what it is told to do it says it has done."""
    host = host or f"node-{machine.address.rpartition('.')[2]}"

    async def own_facts(session: Session) -> int:
        return await says(facts(host, machine.address, more))(session)

    machine.on("uname -n", says(f"{host}\n"))
    machine.on("MemTotal", own_facts)
    # What is asked of an API that has nothing: no node of it ever gets ready.
    machine.on("--output=json", says('{"apiVersion": "v1", "kind": "List", "items": []}'))
    # There is no cluster yet.
    machine.on("get configmap slipway-clusterfile", says(code=1))
    # Of the files that are asked for none is there.
    machine.on("; echo end", says("end\n"))
    # Of a machine without these tools nothing is asked but to unpack what it is sent.
    machine.on("without $tool", says("without b2sum\n"))


def stored(hosts: str = "", *, image: str = "bad:latest", digest: str = "", **data: str) -> dict[str, Any]:
    """The object that a cluster keeps about itself, as JSON has it."""
    document = {
        "apiVersion": "sealer.cloud/v2",
        "kind": "Cluster",
        "metadata": {"name": "default"},
        "spec": {"image": image, "hosts": [{"ips": ["127.0.0.1"], "roles": ["control-plane"]}]},
    }
    text = hosts or yaml.safe_dump(document)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "slipway-clusterfile", "namespace": "kube-system"},
        "data": {"Clusterfile": text, "image": image, "digest": digest, "registry": "own", **data},
    }


def cluster(machine: Machine, record: Mapping[str, Any] | str, nodes: Mapping[str, Any] | str | None = None) -> None:
    """A control-plane node of a running cluster whose API gives these answers (text as it is)."""
    objects = {"apiVersion": "v1", "kind": "List", "items": []} if nodes is None else nodes
    machine.on("date +%s.%N", says(f"{time.time():.9f}\n"))
    machine.on("get", says(objects if isinstance(objects, str) else json.dumps(objects)))
    machine.on("MemTotal", says(facts(f"node-{machine.address.rpartition('.')[2]}", machine.address, "cluster default 0123456789abcdef")))
    machine.on("slipway-clusterfile", says(record if isinstance(record, str) else json.dumps(record)))
    machine.on("/readyz", says("ok"))
    machine.on("--raw /version", says('{"gitVersion": "v1.31.4"}'))
    # No upgrade has begun.
    machine.on("configmap slipway-upgrade", says())
    # Each command that changes the cluster gets its lease.
    lease = {"metadata": {"resourceVersion": "1"}, "spec": {"leaseDurationSeconds": 60, "leaseTransitions": 1}}
    machine.on("--output=json -f -", says(json.dumps(lease)))


def snapshot(machine: Machine, data: bytes) -> None:
    """A control-plane node whose snapshot of etcd is ``data``, as its tool vouches for."""
    account = json.dumps({"hash": 1, "revision": 1, "totalKey": 1, "totalSize": len(data)})
    machine.on("cat /var/lib/etcd/slipway-snapshot.db", says(data))
    machine.on("snapshot save", says(f"{hashlib.sha256(data).hexdigest()}  x\n{account}\n"))

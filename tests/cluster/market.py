"""A shop that is served all the time, in several images: what a cluster is moved between, and how it is asked."""

from __future__ import annotations

from pathlib import Path

from tests.cluster.conftest import SECRET
from tests.cluster.lab import Lab
from tests.conftest import Slipway
from tests.waiting import HANG

PORT = 30090

_KUBEFILE = """FROM {base}
ENV Greeting=unset DbPassword=none
COPY manifests manifests
COPY etc etc
{more}CMD kubectl create configmap settings --from-file=etc/shop.conf --dry-run=client --output=yaml | kubectl apply -f -
CMD kubectl apply -f manifests
"""

# As an application has to be that wants to be served all the time: two of it, that say when they are ready, and go on for a moment when
# they are asked to end, until nobody sends them anything any more.
_SHOP = """apiVersion: v1
kind: Service
metadata: {{name: shop}}
spec:
  type: NodePort
  selector: {{app: shop}}
  ports: [{{port: 80, nodePort: {port}}}]
---
apiVersion: v1
kind: Secret
metadata: {{name: shop}}
stringData: {{password: "{{{{ DbPassword }}}}"}}
---
apiVersion: v1
kind: ConfigMap
metadata: {{name: shop-{version}}}
data: {{index.html: "{{{{ Greeting }}}} from version {version}"}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: shop}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: shop}}}}
  strategy: {{rollingUpdate: {{maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: shop}}}}
    spec:
      terminationGracePeriodSeconds: 20
      affinity:
        podAntiAffinity:
          preferredDuringSchedulingIgnoredDuringExecution:
          - {{weight: 100, podAffinityTerm: {{topologyKey: kubernetes.io/hostname, labelSelector: {{matchLabels: {{app: shop}}}}}}}}
      containers:
      - name: nginx
        image: slipway.dev/nginx:1.22
        lifecycle: {{preStop: {{exec: {{command: [sleep, "8"]}}}}}}
        readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
        volumeMounts: [{{name: page, mountPath: /usr/share/nginx/html}}]
      volumes: [{{name: page, configMap: {{name: shop-{version}}}}}]
"""

_CLUSTERFILE = """apiVersion: slipway.dev/v1
kind: Cluster
metadata: {{name: {name}}}
spec:
  image: {image}
  ssh: {{pk: {key}}}
  env: {{Greeting: kept, DbPassword: {secret}}}
  hosts:
  - {{ips: {control_plane}, roles: [control-plane]}}
  - {{ips: {workers}, roles: [worker], labels: {{disk: ssd}}}}
---
apiVersion: slipway.dev/v1
kind: Config
metadata: {{name: settings}}
spec: {{path: etc/shop.conf, data: "from = the Clusterfile"}}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {{name: once}}
spec: {{phases: [PreUpgrade], type: SHELL, on: [master0], data: "echo before >> /root/hooks"}}
---
apiVersion: slipway.dev/v1
kind: Hook
metadata: {{name: each}}
spec: {{phases: [upgrade-host], type: SHELL, on: [all], data: "echo here with $Greeting >> /root/hooks"}}
"""


def build(slipway: Slipway, folder: Path, image: str, base: str, more: str = "", files: dict[str, str] | None = None) -> None:
    """An image NAME:NUMBER whose page tells the number. ``more`` are lines of its Kubefile, ``files`` more of its files."""
    texts = {
        "Kubefile": _KUBEFILE.format(base=base, more=more),
        "manifests/shop.yaml": _SHOP.format(port=PORT, version=image.rpartition(":")[2]),
        "etc/shop.conf": "from = the image\n",
        **(files or {}),
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(text)
    slipway("build", "-t", image, "--discover", "declared", folder)


def start(lab: Lab, image: str, folder: Path) -> None:
    """Make a cluster of a lab's machines that runs an image, with values, labels and hooks of its own."""
    file = folder / "Clusterfile"
    file.write_text(
        _CLUSTERFILE.format(name=lab.name, image=image, key=lab.key, secret=SECRET, control_plane=lab.control_plane, workers=lab.workers)
    )
    lab.slipway("run", "-f", file, timeout=HANG)


def upgrade(lab: Lab, image: str, *more: str) -> list[str]:
    """The words of the command that brings an image, with what the cluster did not keep."""
    return ["upgrade", lab.name, image, "--yes", "-e", f"DbPassword={SECRET}", *more]


def rollback(lab: Lab) -> list[str]:
    return ["rollback", lab.name, "--yes", "-e", f"DbPassword={SECRET}"]


def page(lab: Lab) -> str:
    return lab.worker.run(f"curl -s --max-time 60 http://{lab.worker.address}:{PORT}/").stdout


def settings(lab: Lab) -> str:
    return str(lab.json("get", "configmap", "settings")["data"]["shop.conf"])


def short(lab: Lab, node: str) -> str:
    """The name of a node without that of the lab: ``control-plane-1``."""
    return node.removeprefix(f"{lab.name}-")


def was_kept(lab: Lab, image: str) -> None:
    """Fails unless what was asked for when the cluster was made holds after its one upgrade."""
    assert page(lab) == f"kept from version {image.rpartition(':')[2]}"
    assert settings(lab) == "from = the Clusterfile"
    assert lab.json("get", "node", f"{lab.name}-worker-2")["metadata"]["labels"]["disk"] == "ssd"
    record = lab.json("get", "configmap", "slipway-clusterfile", "--namespace=kube-system")["data"]
    assert record["image"] == image
    assert "Greeting: kept" in record["Clusterfile"]
    assert "from = the Clusterfile" in record["Clusterfile"]
    assert SECRET not in record["Clusterfile"]
    hooks = [machine.run("cat /root/hooks").stdout for machine in lab.machines]
    assert hooks == ["before\nhere with kept\n"] + ["here with kept\n"] * (len(hooks) - 1)

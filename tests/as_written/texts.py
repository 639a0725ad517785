"""Texts of tests/cases/as-written, byte for byte, and what their authors left out as ``...``."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import HERE

CASES = HERE / "cases/as-written"

DASHBOARD_URL = "https://raw.githubusercontent.com/kubernetes/dashboard/v2.2.0/aio/deploy/recommended.yaml"
DASHBOARD_IMAGES = ("kubernetesui/dashboard:v2.2.0", "kubernetesui/metrics-scraper:v1.0.6")

_POD = """apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: kubernetes-dashboard, labels: {{k8s-app: {name}}}}}
spec:
  selector: {{matchLabels: {{k8s-app: {name}}}}}
  template:
    metadata: {{labels: {{k8s-app: {name}}}}}
    spec:
      serviceAccountName: kubernetes-dashboard
      nodeSelector: {{kubernetes.io/os: linux}}
      tolerations: [{{key: node-role.kubernetes.io/master, effect: NoSchedule}}]
      containers:
      - name: {name}
        image: {image}
        imagePullPolicy: {policy}
        args: {arguments}
        ports: [{{containerPort: {port}}}]
        livenessProbe: {{httpGet: {{scheme: {scheme}, path: /, port: {port}}}, initialDelaySeconds: 30, timeoutSeconds: 30}}
        securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, runAsUser: 1001, runAsGroup: 2001}}
        volumeMounts: [{{name: tmp-volume, mountPath: /tmp}}]
      volumes: [{{name: tmp-volume, emptyDir: {{}}}}]
"""

# In the shape of the dashboard's own, and shorter: its names, images, arguments, probes and limits.
DASHBOARD = """apiVersion: v1
kind: Namespace
metadata: {name: kubernetes-dashboard}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: kubernetes-dashboard, namespace: kubernetes-dashboard}
---
apiVersion: v1
kind: Service
metadata: {name: kubernetes-dashboard, namespace: kubernetes-dashboard}
spec: {ports: [{port: 443, targetPort: 8443}], selector: {k8s-app: kubernetes-dashboard}}
---
""" + "---\n".join(
    _POD.format(name=name, image=image, policy=policy, arguments=arguments, port=port, scheme=scheme)
    for name, image, policy, arguments, port, scheme in (
        (
            "kubernetes-dashboard", DASHBOARD_IMAGES[0], "Always", "[--auto-generate-certificates, --namespace=kubernetes-dashboard]",
            8443, "HTTPS",
        ),
        ("dashboard-metrics-scraper", DASHBOARD_IMAGES[1], "IfNotPresent", "[]", 8000, "HTTP"),
    )
)  # fmt: skip

# In front of and behind the Service of the environment case.
BEFORE_SERVICE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: kubernetes-dashboard}\n---\n"
AFTER_SERVICE = """---
apiVersion: apps/v1
kind: Deployment
metadata: {name: kubernetes-dashboard, namespace: kubernetes-dashboard}
spec:
  selector: {matchLabels: {k8s-app: kubernetes-dashboard}}
  template:
    metadata: {labels: {k8s-app: kubernetes-dashboard}}
    spec: {containers: [{name: web, image: "slipway.dev/nginx:1.22"}]}
"""

CHART = "apiVersion: v2\nname: mysql\nversion: 0.1.0\n"
CHART_WORKLOAD = """apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}"}
spec:
  selector: {matchLabels: {app: "{{ .Release.Name }}"}}
  template:
    metadata: {labels: {app: "{{ .Release.Name }}"}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: store
        image: slipway.dev/redis:7.0
        args: [redis-server, --dbfilename, "{{ .Values.user }}"]
"""
CHART_VALUES = "user: nobody\n"

ISTIO_SCRIPT_URL = "https://raw.githubusercontent.com/istio/istio/master/release/downloadIstioCandidate.sh"
ISTIO_ARCHIVE_URL = "https://github.com/istio/istio/releases/download/1.10.0/istio-1.10.0-linux-amd64.tar.gz"
ISTIO_SCRIPT = f"""#!/bin/sh
set -e
echo "Downloading istio-1.10.0 ..."
curl -fsL {ISTIO_ARCHIVE_URL} | tar -xz
echo "Istio 1.10.0 has been downloaded into $(pwd)/istio-1.10.0"
"""


def text(name: str) -> str:
    """A text as it was published."""
    return (CASES / name).read_text()


def kubefile(case: str, *lines: str) -> str:
    """The Kubefile of a case; ``lines`` stand where its author has ``...``, behind FROM."""
    first, _, rest = text(f"{case}/Kubefile").partition("\n")
    return "\n".join([first, *lines, rest]) if lines else text(f"{case}/Kubefile")


def commands(case: str) -> list[str]:
    """The command lines of a case, each with its continuations."""
    return [line.replace("\0", "\n") for line in text(f"{case}/commands").replace("\\\n", "\\\0").splitlines()]


def command(case: str, start: str) -> str:
    """The command line of a case that begins with ``start``."""
    (found,) = [line for line in commands(case) if line.startswith(start)]
    return found


def write(folder: Path, files: dict[str, str]) -> Path:
    """A folder with files."""
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(content)
    return folder

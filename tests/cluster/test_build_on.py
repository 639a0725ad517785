"""An application image that is built on a base: it has what only its run and its use ask for, and runs where nothing can be fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.lab import Lab
from tests.conftest import Slipway
from tests.waiting import HANG

APP = "asking:1"
WANTED = "slipway.dev/redis:7.0"
USED = "registry.example.com/asking/once:1"

KUBEFILE = """FROM scratch
KUBEVERSION >=1.31
ENV Wanted=slipway.dev/redis:7.0
COPY manifests manifests
CMDS ["kubectl apply -f manifests/operator.yaml", "kubectl create configmap wanted --namespace=asking --from-literal=runs=$Wanted"]
EXERCISE test "$Wanted" = slipway.dev/redis:7.0
"""

# Of a registry that cannot be reached: it is built where it is pulled.
DOCKERFILE = """# image: registry.example.com/asking/once:1
FROM slipway.dev/nginx:1.22
LABEL what=once
"""

EXERCISE = """kubectl run once --namespace=asking --image=registry.example.com/asking/once:1 --restart=Never --command -- sh -c true
kubectl wait --namespace=asking --for=jsonpath={.status.phase}=Succeeded --timeout=300s pod/once
kubectl delete --namespace=asking pod/once
"""

OPERATOR = """apiVersion: v1
kind: Namespace
metadata: {name: asking}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator, namespace: asking}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator, namespace: asking}
rules:
- {apiGroups: [""], resources: [pods], verbs: [get, create]}
- {apiGroups: [""], resources: [configmaps], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator, namespace: asking}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator, namespace: asking}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: operator, namespace: asking}
spec:
  selector: {matchLabels: {app: operator}}
  template:
    metadata: {labels: {app: operator}}
    spec:
      serviceAccountName: operator
      terminationGracePeriodSeconds: 0
      containers:
      - name: operator
        image: slipway.dev/nginx:1.22
        command:
        - sh
        - -c
        - |
          while :; do
            image=$(kubectl get configmap wanted -o go-template='{{ .data.runs }}' 2>/dev/null) &&
              { kubectl get pod made >/dev/null 2>&1 || kubectl run made --image="$image"; }
            sleep 1
          done
        volumeMounts: [{name: kubectl, mountPath: /bin/kubectl, readOnly: true}]
      volumes: [{name: kubectl, hostPath: {path: /var/lib/slipway/rootfs/bin/kubectl, type: File}}]
"""


def written(folder: Path) -> Path:
    files = {"Kubefile": KUBEFILE, "exercise.sh": EXERCISE, "manifests/operator.yaml": OPERATOR, "images/once/Dockerfile": DOCKERFILE}
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("asking"))


@pytest.fixture(scope="module")
def built(slipway: Slipway, kubernetes: str, context: Path) -> dict[str, Any]:
    """The answer of the build."""
    words = ("build", "--no-cache", "-t", APP, "--on", kubernetes, "-o", "json", context)
    return dict(json.loads(slipway(*words, timeout=2 * HANG).stdout))


@pytest.mark.usefixtures("clean")
def test_build_on_base_embeds_pulled_images_and_none_of_base(built: dict[str, Any], slipway: Slipway) -> None:
    (part,) = built["platforms"]
    images = {one["name"]: one for one in part["images"]}
    assert set(images) == {"slipway.dev/nginx:1.22", WANTED, USED}
    assert set(built["undeclared"]) == {WANTED, USED}
    assert (images[WANTED]["foundBy"], images[WANTED]["requestedBy"]) == (["pulled"], ["Pod asking/made"])
    # Its pod is gone by the time the build looks.
    assert (images[USED]["foundBy"], images[USED]["requestedBy"]) == (["pulled"], ["exercise"])
    assert built["booted"]
    shown = slipway("inspect", APP).stdout
    assert "proven on   kubernetes:latest" in shown
    assert "exercised   " in shown
    statement = json.loads(slipway("provenance", APP).stdout)
    names = {one["name"] for one in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert "CloudImage of the throw-away cluster" in names


@pytest.mark.long
@pytest.mark.usefixtures("clean")
def test_build_on_base_unchanged_boots_no_cluster_and_changed_exercise_runs(
    built: dict[str, Any], kubernetes: str, context: Path, slipway: Slipway, tmp_path: Path
) -> None:
    again = json.loads(slipway("build", "-t", APP, "--on", kubernetes, "-o", "json", context).stdout)
    assert (again["digest"], again["booted"]) == (built["digest"], False)
    failing = written(tmp_path / "failing")
    (failing / "exercise.sh").write_text("echo the reason >&2; false; echo not this\n")
    said = slipway("build", "-t", "asking:bad", "--on", kubernetes, failing, check=False, timeout=2 * HANG)
    assert said.returncode == 3, said.output
    assert "the exercise failed with exit code 1: exercise.sh" in said.stderr
    assert "    the reason" in said.stderr
    assert "not this" not in said.stderr


def test_build_on_none_proves_nothing_and_embeds_declared_images_only(context: Path, kubernetes: str, slipway: Slipway) -> None:
    said = slipway("build", "-t", "asking:read", "--on", "none", "-o", "json", context)
    assert kubernetes
    assert "NOTHING IS PROVEN" in said.stderr
    (part,) = json.loads(said.stdout)["platforms"]
    assert [one["name"] for one in part["images"]] == ["slipway.dev/nginx:1.22"]


@pytest.fixture
def lab(slipway: Slipway) -> Iterator[Lab]:
    lab = Lab(slipway, "test-on", 1, 0)
    try:
        yield lab
    finally:
        lab.down()


@pytest.mark.long
def test_run_image_built_on_base_starts_its_pods_offline(lab: Lab, built: dict[str, Any], kubernetes: str, slipway: Slipway) -> None:
    assert built["digest"]
    lab.run(kubernetes)
    slipway("run", APP, "--cluster", lab.name, timeout=2 * HANG)
    lab.kubectl("wait", "--namespace=asking", "--for=create", "pod/made", "--timeout=300s")
    lab.kubectl("wait", "--namespace=asking", "--for=condition=Ready", "pod/made", "--timeout=300s")
    (container,) = lab.json("get", "pod", "made", "--namespace=asking")["spec"]["containers"]
    assert container["image"] == WANTED
    # As in use: what only the exercise found is there as well.
    lab.kubectl("run", "once", "--namespace=asking", f"--image={USED}", "--restart=Never", "--command", "--", "sh", "-c", "true")
    lab.kubectl("wait", "--namespace=asking", "--for=jsonpath={.status.phase}=Succeeded", "pod/once", "--timeout=300s")

"""Applications in a cluster that runs: they come, also by a command that is killed, change, and go; and in one that is not ours."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import cloudimage, process
from harness.cloudimage import unpacked
from harness.oci.store import Store
from tests.cluster.conftest import GREETING
from tests.cluster.conftest import SECRET as CLUSTER_SECRET
from tests.cluster.lab import Lab, kill_at, until
from tests.conftest import KUBERNETES, Slipway
from tests.waiting import HANG

SECRET = "hunter2-of-the-shop"

KUBEFILE = """FROM scratch
KUBEVERSION {versions}
ENV Greeting=hello Port=30090 DbPassword=none
APP front local://front
APP store local://store
LAUNCH {launch}
"""

# Of a registry that the cluster has never heard of, and that cannot be reached.
DOCKERFILE = """# image: registry.example.com/shop/{name}:1
FROM slipway.dev/redis:7.0
LABEL what={name}
"""

NAMESPACE = """apiVersion: v1
kind: Namespace
metadata:
  name: {name}
---
"""

DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  namespace: {namespace}
spec:
  replicas: {replicas}
  selector:
    matchLabels: {{app: {name}}}
  template:
    metadata:
      labels: {{app: {name}}}
    spec:
      terminationGracePeriodSeconds: 0
      tolerations: [{{operator: Exists}}]
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {{matchLabels: {{app: {name}}}}}
      containers:
      - name: {name}
        image: {image}
        imagePullPolicy: {pull}
"""

FRONT = (
    """apiVersion: v1
kind: ConfigMap
metadata:
  name: front
  namespace: shop
data:
  index.html: "<h1>{{ .Greeting }}</h1>"
  password: "{{ .DbPassword }}"
---
apiVersion: v1
kind: Service
metadata:
  name: front
  namespace: shop
spec:
  type: NodePort
  selector: {app: front}
  ports: [{port: 80, nodePort: {{ .Port }}}]
---
"""
    + DEPLOYMENT.format(name="front", namespace="shop", replicas=1, image="slipway.dev/nginx:1.22", pull="Always").replace(
        "      labels: {app: front}\n",
        # A kubelet looks at a ConfigMap once a minute; a pod that differs is replaced at once.
        "      labels: {app: front}\n      annotations: {page: '{{ .Greeting }}'}\n",
    )
    + """
        volumeMounts: [{name: page, mountPath: /usr/share/nginx/html}]
      volumes: [{name: page, configMap: {name: front}}]
"""
)

SCRIPT = """set -e
kubectl create configmap tool --from-literal=a="$Word"
kubectl apply -f manifests/shared.yaml
touch /root/of-the-tool
"""

SHARED = """apiVersion: v1
kind: ConfigMap
metadata: {name: site, namespace: default}
data: {a: b}
"""

HOOK = """apiVersion: slipway.dev/v1
kind: Hook
metadata: {name: undo}
spec:
  phases: [pre-uninstall]
  data: rm /root/of-the-tool
"""


def written(folder: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def store_of(image: str, pull: str = "Always", name: str = "shop", replicas: int = 2) -> str:
    text = DEPLOYMENT.format(name="store", namespace=name, replicas=replicas, image=image, pull=pull)
    return NAMESPACE.format(name=name) + text


@dataclasses.dataclass(frozen=True)
class Images:
    """Application images."""

    shop: str = "shop:1"
    newer: str = "shop:2"
    """Without its store, and with a front that is called otherwise by nothing."""
    future: str = "shop:3"
    """For a Kubernetes that this is not."""
    tool: str = "tool:1"
    abroad: str = "abroad:1"


@pytest.fixture(scope="module")
def images(slipway: Slipway, tmp_path_factory: pytest.TempPathFactory) -> Images:
    folder, found = tmp_path_factory.mktemp("apps"), Images()
    front, cache = {"front/front.yaml.tmpl": FRONT}, {"images/cache/Dockerfile": DOCKERFILE.format(name="cache")}
    shop = {**front, **cache, "store/store.yaml": store_of("registry.example.com/shop/cache:1")}
    everything, launch = ">=1.18 <1.40", '["store", "front"]'
    newer = {**front, "store/store.yaml": NAMESPACE.format(name="shop").removesuffix("---\n")}
    tool = {
        "Kubefile": 'FROM scratch\nCOPY manifests manifests\nCOPY scripts scripts\nCOPY plugins plugins\nCMDS ["bash scripts/go.sh"]\n',
        "scripts/go.sh": SCRIPT, "manifests/shared.yaml": SHARED, "plugins/undo.yaml": HOOK,
    }  # fmt: skip
    abroad = {
        "Kubefile": "FROM scratch\nAPP store local://store\n" + 'LAUNCH ["store"]\n',
        "images/abroad/Dockerfile": DOCKERFILE.format(name="abroad"),
        "store/store.yaml": store_of("registry.example.com/shop/abroad:1", "IfNotPresent", "abroad"),
    }  # fmt: skip
    for name, files in (
        (found.shop, {"Kubefile": KUBEFILE.format(versions=everything, launch=launch), **shop}),
        (found.newer, {"Kubefile": KUBEFILE.format(versions=everything, launch=launch), **newer}),
        (found.future, {"Kubefile": KUBEFILE.format(versions=">=1.40", launch=launch), **shop}),
        (found.tool, tool),
        (found.abroad, abroad),
    ):
        slipway("build", "-t", name, "--on", "none", written(folder / name.replace(":", "-"), files))
    return found


def page(lab: Lab, index: int) -> str:
    machine = lab.machines[index]
    return machine.run(f"curl -s --max-time 60 http://{machine.address}:30090/", check=False).stdout.strip()


def listed(lab: Lab, *where: str | Path) -> dict[str, Any]:
    found = json.loads(lab.slipway("apps", *(where or ("--cluster", lab.name)), "--output", "json").stdout)
    return {one["name"]: one for one in found}


def there(lab: Lab, *what: str) -> bool:
    return bool(lab.kubectl("get", *what, "--ignore-not-found", "--output=name").strip())


def words(lab: Lab, image: str, *more: str) -> list[str]:
    return ["run", image, "--cluster", lab.name, "-e", f"DbPassword={SECRET}", *more]


@pytest.fixture(scope="module")
def shop(lab: Lab, images: Images) -> process.ProcessResult:
    """What the command said that ended what two others had begun, which were killed."""
    kill_at(words(lab, images.shop), "- send its container images to the registries")
    kill_at(words(lab, images.shop), "- launch: kubectl apply -f application/apps/front/front.yaml")
    return lab.slipway(*words(lab, images.shop), timeout=HANG)


def test_run_application_killed_twice_is_completed_without_second_launch(lab: Lab, shop: process.ProcessResult) -> None:
    assert "launch: kubectl apply -f application/apps/store/store.yaml (done before)" in shop.stderr
    assert "shop (shop:1) runs in" in shop.stdout
    # On every node, each time pulled anew: from the cluster's registry, by the name of one that nobody can reach.
    pods = lab.json("get", "pods", "--namespace=shop", "--selector=app=store")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {lab.host(address) for address in lab.addresses}
    assert all(pod["status"]["phase"] == "Running" for pod in pods)
    assert [page(lab, index) for index in (0, 1)] == ["<h1>hello</h1>"] * 2


def test_run_application_is_recorded_with_objects_and_without_secret(lab: Lab, shop: process.ProcessResult) -> None:
    assert shop.ok
    found = listed(lab)["shop"]
    assert (found["state"], found["image"]) == ("installed", "shop:1")
    objects = [one["object"] for one in found["objects"]]
    assert objects == ["Namespace shop", "Deployment shop/store", "ConfigMap shop/front", "Service shop/front", "Deployment shop/front"]
    assert found["domains"] == ["registry.example.com", "slipway.dev"]
    # Machines sign in for the images of a registry that they have just been told of, too.
    for machine in lab.machines:
        assert lab.login(machine) in machine.run("cat /etc/containerd/certs.d/registry.example.com/hosts.toml").stdout
    assert found["env"]["DbPassword"].startswith("<redacted")
    assert SECRET not in lab.kubectl("get", "configmaps", "--namespace=kube-system", "--output=yaml")
    # The cluster's own files are as they were, and the application's in a folder of theirs.
    assert lab.first.run("ls /var/lib/slipway/rootfs/application 2>/dev/null", check=False).stdout == ""
    assert "front.yaml" in lab.first.run("ls /var/lib/slipway/apps/shop/rootfs/application/apps/front").stdout


def test_run_application_for_other_kubernetes_version_is_refused_and_changes_nothing(lab: Lab, images: Images) -> None:
    before = lab.objects()
    said = lab.slipway(*words(lab, images.future, "--as", "future"), check=False)
    assert said.returncode == 7
    assert f"made for Kubernetes >=1.40, and the cluster has {KUBERNETES}" in said.stderr
    assert "future" not in listed(lab)
    assert lab.objects() == before


def clusterfile(lab: Lab, folder: Path, *applications: dict[str, Any]) -> Path:
    """What the cluster was made of, and applications."""
    hosts = [{"ips": lab.control_plane, "roles": ["control-plane"]}, {"ips": lab.workers, "roles": ["worker"]}]
    env = {"Greeting": GREETING, "DbPassword": CLUSTER_SECRET}
    spec = {"image": lab.status()["image"], "hosts": hosts, "env": env, "ssh": {"pk": str(lab.key)}}
    cluster = {"apiVersion": "slipway.dev/v1", "kind": "Cluster", "metadata": {"name": lab.name}, "spec": spec}
    path = folder / "Clusterfile"
    path.write_text(yaml.safe_dump_all([cluster, *applications], sort_keys=False))
    return path


def test_apply_application_document_is_installed_and_removed_with_clusterfile(
    lab: Lab, images: Images, shop: process.ProcessResult, tmp_path: Path
) -> None:
    assert shop.ok
    lab.kubectl("create", "configmap", "site", "--from-literal=a=theirs")
    spec: dict[str, Any] = {"image": images.tool, "env": {"Word": "own"}}
    document = {"apiVersion": "slipway.dev/v1", "kind": "Application", "metadata": {"name": "tool"}, "spec": spec}
    file = clusterfile(lab, tmp_path, document)
    said = lab.slipway("apply", "-f", file)
    assert said.stdout.splitlines()[0] == "+ Application tool: tool:1"
    assert lab.json("get", "configmap", "tool")["data"] == {"a": "own"}
    assert sorted(listed(lab)) == ["shop", "tool"]
    assert "nothing to do" in lab.slipway("apply", "-f", file).stdout
    # Taken out: also what it did with other programs, since its image says how; what was there before stays.
    said = lab.slipway("apply", "-f", clusterfile(lab, tmp_path), "--yes")
    assert said.stdout.splitlines()[0] == "- Application tool: tool:1"
    assert sorted(listed(lab)) == ["shop"]
    assert not there(lab, "configmap", "tool")
    assert there(lab, "configmap", "site")
    assert lab.first.run("ls /root/of-the-tool", check=False).stdout == ""
    lab.kubectl("delete", "configmap", "site")


REPOSITORIES = "/var/lib/slipway/registry/docker/registry/v2/repositories"


@pytest.mark.long
def test_apply_listed_application_is_installed_and_removed_after_confirmation(
    lab: Lab, images: Images, shop: process.ProcessResult, tmp_path: Path
) -> None:
    assert shop.ok
    own = clusterfile(lab, tmp_path)
    more = tmp_path / "more"
    (document,) = yaml.safe_load_all(own.read_text())
    document["spec"]["image"] = [images.abroad, document["spec"]["image"]]
    more.write_text(yaml.safe_dump(document))
    lab.slipway("apply", "-f", more, timeout=HANG)
    assert (listed(lab)["abroad"]["state"], listed(lab)["abroad"]["byFile"]) == ("installed", True)
    held = f"{REPOSITORIES}/registry.example.com/shop"
    assert lab.first.run(f"ls {held}").stdout.split() == ["abroad", "cache"]
    assert "nothing to do" in lab.slipway("apply", "-f", more).stdout
    planned = json.loads(lab.slipway("apply", "-f", own, "--plan", "--output", "json").stdout)
    assert planned["removed"] == {"abroad": ["Namespace abroad", "Deployment abroad/store"]}
    refused = lab.slipway("apply", "-f", own, check=False)
    assert (refused.returncode, "needs a confirmation" in refused.stderr) == (2, True)
    assert there(lab, "namespace", "abroad")
    lab.slipway("apply", "-f", own, "--yes", timeout=HANG)
    assert not there(lab, "namespace", "abroad")
    # The images of the other application, which nobody has listed, stay, and so do those of the cluster.
    assert lab.first.run(f"ls {held}").stdout.split() == ["cache"]
    lab.kubectl("delete", "pods", "--namespace=shop", "--selector=app=store")
    until(lambda: all(pod["status"]["phase"] == "Running" for pod in lab.json("get", "pods", "--namespace=shop")["items"]))
    assert lab.status()["healthy"]


def test_run_application_with_cmds_replaces_launch_and_reports_untracked_effects(lab: Lab, images: Images) -> None:
    said = lab.slipway(
        "run", images.shop, "--cluster", lab.name, "--as", "other", "--cmds", "kubectl create configmap other && touch /root/other"
    )
    assert there(lab, "configmap", "other")
    assert "did more than kubectl and helm" in said.stdout
    assert listed(lab)["other"]["unknown"] == ["kubectl create configmap other && touch /root/other"]
    lab.first.run("rm /root/other")


def test_run_newer_application_image_updates_workload_and_removes_dropped_objects(
    lab: Lab, images: Images, shop: process.ProcessResult
) -> None:
    assert shop.ok
    said = json.loads(lab.slipway(*words(lab, images.newer, "-e", "Greeting=more", "--output", "json"), timeout=HANG).stdout)
    assert said["dropped"] == ["Deployment shop/store"]
    assert not there(lab, "deployment", "store", "--namespace=shop")
    until(lambda: [page(lab, index) for index in (0, 1)] == ["<h1>more</h1>"] * 2)
    assert listed(lab)["shop"]["image"] == "shop:2"


def test_apps_remove_deletes_objects_and_files_and_unknown_name_is_refused(lab: Lab, shop: process.ProcessResult) -> None:
    assert shop.ok
    plan = json.loads(lab.slipway("apps", "remove", "other", "--cluster", lab.name, "--plan", "--output", "json").stdout)
    assert (plan["removed"], plan["kept"]) == (["ConfigMap default/other"], [])
    for name in ("other", "shop"):
        lab.slipway("apps", "remove", name, "--cluster", lab.name, "--yes", timeout=HANG)
    assert listed(lab) == {}
    assert not there(lab, "namespace", "shop")
    assert not there(lab, "configmap", "other")
    assert lab.first.run("ls /var/lib/slipway/apps 2>/dev/null", check=False).stdout == ""
    said = lab.slipway("apps", "remove", "shop", "--cluster", lab.name, "--yes", check=False)
    assert said.returncode == 2
    assert "has no application shop" in said.stderr
    assert lab.status()["healthy"]


# ---- a cluster that is not ours ---------------------------------------------------------------------------------------


@pytest.fixture
def programs(kubernetes: str) -> dict[str, str]:
    """An environment with kubectl in it: that of the image."""
    store = Store.default()
    tree = unpacked.unpacked_rootfs(store, cloudimage.read(store, kubernetes).platforms[0].layers)
    return {"PATH": f"{tree}/bin:{process.run(['sh', '-c', 'echo $PATH']).stdout.strip()}"}


def has(lab: Lab, image: str) -> list[bool]:
    """Whether the containerd of each machine has an image."""
    return [image in machine.run("ctr -n k8s.io images ls -q").stdout for machine in lab.machines]


def test_run_application_with_kubeconfig_only_imports_images_on_all_nodes(
    lab: Lab, images: Images, programs: dict[str, str], tmp_path: Path
) -> None:
    config = tmp_path / "kubeconfig"
    lab.slipway("kubeconfig", lab.name, "--file", config)
    name = "registry.example.com/shop/abroad:1"
    for machine in lab.machines:
        # From when it was an application of the Clusterfile.
        machine.run(f"ctr -n k8s.io images rm {name}", check=False)
    assert has(lab, name) == [False, False]
    where = ["--kubeconfig", str(config), "--key", str(lab.key)]
    said = lab.slipway("run", images.abroad, *where, env=programs, timeout=HANG)
    assert "launch: kubectl apply" in said.stderr
    assert has(lab, name) == [True, True]
    assert "abroad" in listed(lab, *where)
    # Launched here: nothing of it is on the machines, not even its files, nor in their registry.
    held = "/var/lib/slipway/registry/docker/registry/v2/repositories/registry.example.com/shop/abroad"
    assert lab.first.run(f"ls -d /var/lib/slipway/apps {held}", check=False).stdout == ""
    again = lab.slipway("run", images.abroad, *where, env=programs, timeout=HANG)
    assert "(0 of 1 images)" in again.stderr
    lab.slipway("apps", "remove", "abroad", *where, "--yes", env=programs, timeout=HANG)
    assert not there(lab, "namespace", "abroad")


def test_run_application_in_cluster_of_other_tool_uses_control_plane_node(lab: Lab, images: Images) -> None:
    mark = lab.first.run("cat /var/lib/slipway/cluster").stdout
    # As kubeadm leaves it: its machines know nothing of slipway, and kubectl is where programs are.
    lab.first.run("mv /var/lib/slipway/cluster /var/lib/slipway/cluster.kept")
    try:
        key = ("--key", lab.key)
        said = lab.slipway("run", images.abroad, "--control-plane", lab.control_plane[0], *key, timeout=HANG)
        assert "import its container images on the nodes" in said.stderr
        pods = lab.json("get", "pods", "--namespace=abroad")["items"]
        assert [pod["status"]["phase"] for pod in pods] == ["Running", "Running"]
        lab.slipway("apps", "remove", "abroad", "--via", lab.control_plane[0], *key, "--yes", timeout=HANG)
        assert not there(lab, "namespace", "abroad")
    finally:
        lab.first.put(mark.encode(), "/var/lib/slipway/cluster")
        lab.first.run("rm -f /var/lib/slipway/cluster.kept")

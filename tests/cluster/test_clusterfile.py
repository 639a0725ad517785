"""A Clusterfile on real machines: what it overwrites and sets reaches the workloads, `apply` does what differs, hooks run once each."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography import x509

from harness import process
from harness.errors import UsageError
from harness.host.cluster_cache import ClusterState
from harness.lifecycle.cluster import lease
from tests.cluster.lab import Lab, begun, ended, reached, until
from tests.cluster.workload import pods_of
from tests.conftest import HERE, KUBERNETES, Slipway
from tests.waiting import HANG

CASES = HERE / "cases"
IMAGE = "saas:latest"

CHART = """apiVersion: v2
name: {name}
version: 0.1.0
"""

WORKLOAD = """apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
spec:
  {pods}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: {name}
          image: slipway.dev/redis:7.0
          args: [redis-server, --dbfilename, '{{{{ index .Values "{name}-user" }}}}:{{{{ index .Values "{name}-passwd" }}}}']
"""

VALUES = """{name}-user: nobody
{name}-passwd: none
"""

KUBEFILE = """FROM kubernetes
ENV DashBoardPort=443
COPY etc etc
COPY charts charts
COPY plugins plugins
COPY dashboard.yaml manifests/
CMD kubectl create namespace kubernetes-dashboard --dry-run=client --output=yaml | kubectl apply -f -
CMD kubectl apply -f manifests/dashboard.yaml
CMD helm install mysql charts/mysql -f etc/mysql-values.yaml
CMD helm install redis charts/redis -f etc/redis-values.yaml
"""

KUBEADM = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
maxPods: 77
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
apiServer:
  extraArgs:
  - {name: max-requests-inflight, value: "401"}
  certSANs: [saas.example.com]
"""

PLUGIN = """apiVersion: slipway.dev/v1
kind: Hook
metadata: {{name: {name}}}
spec:
  phases: [{phase}]
  on: [{on}]
  data: |
    echo "{phase} $(pwd) $DashBoardPort $HostIP" >> /root/hooks
"""

MORE = """
---
apiVersion: sealer.aliyun.com/v1alpha1
kind: Plugin
metadata: {{name: names}}
spec:
  type: HOSTNAME
  action: PreInit
  data: |
    {worker} {name}-renamed
---
apiVersion: sealer.aliyun.com/v1alpha1
kind: Plugin
metadata: {{name: early}}
spec:
  type: SHELL
  action: Originally
  on: node
  data: echo "Originally $(pwd)" >> /root/hooks
"""


@pytest.fixture(scope="module")
def saas(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image of both cases: two charts with values files, and a dashboard with a port; with hooks and documents of kubeadm."""
    assert kubernetes
    context = tmp_path_factory.mktemp("saas")
    files = {"Kubefile": KUBEFILE, "etc/kubeadm.yml": KUBEADM}
    for name in ("mysql", "redis"):
        files |= {
            f"charts/{name}/Chart.yaml": CHART.format(name=name),
            f"charts/{name}/templates/workload.yaml": WORKLOAD.format(name=name, pods=pods_of(name)),
            f"etc/{name}-values.yaml": VALUES.format(name=name),
        }
    for phase, on in (("pre-init-host", "all"), ("post-install", "master0"), ("pre-clean-host", "all"), ("post-clean-host", "worker")):
        files[f"plugins/{phase}.yaml"] = PLUGIN.format(name=phase, phase=phase, on=on)
    for path, text in files.items():
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_text(text)
    shutil.copy(CASES / "dashboard-port/dashboard.yaml", context)
    # It may compile helm first, and wait for what another process compiles.
    slipway("build", "-t", IMAGE, context)
    return IMAGE


class Site:
    """A lab whose cluster is made and changed by Clusterfiles."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab, self.folder = lab, folder
        self.made = ""

    def words(self, verb: str, file: Path, *more: str) -> list[str | Path]:
        machines = ["--control-plane", ",".join(self.lab.control_plane), "--workers", ",".join(self.lab.workers)]
        return [verb, "-f", file, IMAGE, *machines, "--cluster", self.lab.name, "--key", self.lab.key, *more]

    def __call__(self, verb: str, file: Path, *more: str, check: bool = True) -> process.ProcessResult:
        return self.lab.slipway(*self.words(verb, file, *more), check=check, timeout=HANG)

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text)
        return path

    def hooks(self, index: int) -> list[str]:
        return self.lab.machines[index].run("cat /root/hooks 2>/dev/null", check=False).stdout.splitlines()

    def login(self, app: str) -> str:
        """What a running workload was told."""
        return self.lab.kubectl("exec", f"deployment/{app}", "--", "redis-cli", "config", "get", "dbfilename").splitlines()[-1]

    def port(self) -> int:
        service = self.lab.json("get", "service", "kubernetes-dashboard", "--namespace=kubernetes-dashboard")
        return int(service["spec"]["ports"][0]["targetPort"])

    @functools.cached_property
    def first(self) -> Path:
        """The case as it is written, with more of our own behind it."""
        more = MORE.format(worker=self.lab.workers[0], name=self.lab.name)
        return self.write("first", (CASES / "config-overwrite/Clusterfile").read_text().rstrip() + more)

    @property
    def own(self) -> dict[str, Any]:
        """A document Cluster that names everything itself."""
        ssh = {"user": "root", "pk": str(self.lab.key)}
        hosts = [
            {"ips": self.lab.control_plane, "roles": ["control-plane"], "labels": {"zone": "a"}},
            {
                "ips": self.lab.workers,
                "roles": ["worker", "storage"],
                "labels": {"disk": "ssd"},
                "taints": ["dedicated=db:PreferNoSchedule"],
            },
        ]
        aliases = [{"ip": "10.9.9.9", "hostnames": ["harbor.site", "harbor"]}]
        env = {"DashBoardPort": 9443}
        spec = {"image": IMAGE, "ssh": ssh, "hosts": hosts, "env": env, "hostAliases": aliases}
        return {"apiVersion": "slipway.dev/v1", "kind": "Cluster", "metadata": {"name": self.lab.name}, "spec": spec}

    def document(self, name: str, *documents: dict[str, Any]) -> Path:
        return self.write(name, yaml.safe_dump_all(documents, sort_keys=False))

    def apply(self, file: Path, *more: str, check: bool = True) -> process.ProcessResult:
        return self.lab.slipway("apply", "-f", file, *more, check=check, timeout=HANG)


@pytest.fixture(scope="module")
def site(slipway: Slipway, saas: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    assert saas
    lab = Lab(slipway, "test-file", 1, 1)
    try:
        made = Site(lab, tmp_path_factory.mktemp("site"))
        made.made = made("apply", made.first, "-e", "DashBoardPort=8443").stderr
        yield made
    finally:
        lab.down()


# ---- a cluster that apply has made ------------------------------------------------------------------------------------


def test_apply_config_documents_overwrite_values_of_workloads(site: Site) -> None:
    assert site.login("mysql") == "root:xxx"
    assert site.login("redis") == "root:xxx"


def test_apply_env_option_reaches_manifest(site: Site) -> None:
    assert site.port() == 8443


def test_apply_kubeadm_documents_are_merged_into_cluster_configuration(site: Site) -> None:
    nodes = site.lab.json("get", "nodes")["items"]
    assert [node["status"]["capacity"]["pods"] for node in nodes] == ["77", "77"]
    server = site.lab.first.run("cat /etc/kubernetes/manifests/kube-apiserver.yaml").stdout
    assert "--max-requests-inflight=401" in server
    certificate = x509.load_pem_x509_certificate(site.lab.first.run("cat /etc/kubernetes/pki/apiserver.crt").stdout.encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    assert "saas.example.com" in names
    kept = site.lab.kubectl("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=yaml")
    assert "saas.example.com" in kept


def test_apply_hooks_run_once_each_in_order_with_environment(site: Site) -> None:
    node, worker = site.lab.control_plane[0], site.lab.workers[0]
    rootfs = "/var/lib/slipway/rootfs"
    assert site.hooks(0) == [f"pre-init-host {rootfs} 8443 {node}", f"post-install {rootfs} 8443 {node}"]
    assert site.hooks(1) == ["Originally /", f"pre-init-host {rootfs} 8443 {worker}"]


def test_apply_hostname_plugin_renames_node(site: Site) -> None:
    names = [node["metadata"]["name"] for node in site.lab.json("get", "nodes")["items"]]
    assert f"{site.lab.name}-renamed" in names
    assert site.lab.worker.run("uname -n").stdout.strip() == f"{site.lab.name}-renamed"


def test_apply_stores_clusterfile_without_secrets(site: Site) -> None:
    text = site.lab.json("get", "configmap", "slipway-clusterfile", "--namespace=kube-system")["data"]["Clusterfile"]
    documents = list(yaml.safe_load_all(text))
    assert [document["kind"] for document in documents] == ["Cluster", "Config", "Config", "Hook", "Hook"]
    assert documents[0]["spec"]["hosts"][1]["ips"] == site.lab.workers
    assert "xxx" not in text
    assert site.lab.status()["healthy"]


# ---- apply ------------------------------------------------------------------------------------------------------------


def test_apply_unchanged_file_takes_few_connections_and_changes_nothing(site: Site) -> None:
    before = site.lab.first.run("cksum < /var/lib/slipway/journal").stdout
    said = site.lab.slipway("--verbose", *site.words("apply", site.first, "-e", "DashBoardPort=8443"))
    assert "nothing to do" in said.stdout
    # One connection to one node, one question, and the end of the connection. What commands that were killed left behind is ended
    # without a configuration.
    assert len([line for line in said.stderr.splitlines() if "ssh -F" in line and "ssh -F none" not in line]) <= 3, said.stderr
    assert site.lab.first.run("cksum < /var/lib/slipway/journal").stdout == before


def test_apply_plan_shows_differences_and_changes_nothing(site: Site) -> None:
    before = site.lab.first.run("cksum < /var/lib/slipway/journal").stdout
    said = json.loads(site("apply", CASES / "dashboard-port/Clusterfile", "--plan", "--output", "json").stdout)
    texts = [change["text"] for change in said["changes"]]
    assert "~ .spec.env.DashBoardPort: 8443 -> 6443" in texts
    assert any(text.startswith("- Config mysql-config") for text in texts)
    assert "launch-2" in [step["id"] for step in said["steps"]]
    assert not said["done"]
    assert site.lab.first.run("cksum < /var/lib/slipway/journal").stdout == before


def test_apply_immutable_field_is_refused(site: Site) -> None:
    document = site.own
    document["spec"] |= {"network": {"podCIDR": "10.200.0.0/16"}}
    said = site.apply(site.document("wrong", document), check=False)
    assert said.returncode == 2
    assert ".spec.network.podCIDR" in said.stderr
    assert site.port() == 8443


def test_apply_dashboard_case_changes_port_and_restores_default_values(site: Site) -> None:
    said = site("apply", CASES / "dashboard-port/Clusterfile")
    assert "~ .spec.env.DashBoardPort: 8443 -> 6443" in said.stdout
    assert site.port() == 6443
    until(lambda: site.login("mysql") == "nobody:none")
    assert len(site.hooks(1)) == 2


def test_apply_labels_taints_aliases_hooks_and_values_reach_running_nodes(site: Site) -> None:
    config = {"path": "etc/mysql-values.yaml", "strategy": "merge", "data": "mysql-user: admin\n"}
    documents = [
        site.own,
        {"apiVersion": "slipway.dev/v1", "kind": "Config", "metadata": {"name": "mysql"}, "spec": config},
        {
            "apiVersion": "slipway.dev/v1",
            "kind": "Hook",
            "metadata": {"name": "labelled"},
            "spec": {"phases": ["pre-launch"], "on": ["disk=ssd"], "data": "echo labelled >> /root/hooks"},
        },
        {
            "apiVersion": "slipway.dev/v1",
            "kind": "Hook",
            "metadata": {"name": "snapshot"},
            "spec": {"type": "ETCD", "phases": ["post-launch"], "on": [str(site.folder / "etcd.db")]},
        },
    ]
    foreign = ("taint", "node", f"{site.lab.name}-renamed", "theirs=1:PreferNoSchedule")
    site.lab.kubectl(*foreign)
    site.apply(site.document("full", *documents))
    worker = site.lab.json("get", "node", f"{site.lab.name}-renamed")
    labels = worker["metadata"]["labels"]
    assert (labels["disk"], labels["node-role.kubernetes.io/storage"]) == ("ssd", "")
    assert {taint["key"] for taint in worker["spec"]["taints"]} == {"dedicated", "theirs"}
    for machine in site.lab.machines:
        assert "10.9.9.9 harbor.site harbor # slipway" in machine.run("cat /etc/hosts").stdout
    until(lambda: site.login("mysql") == "admin:none")
    assert site.port() == 9443
    assert site.hooks(1)[2:] == ["labelled"]
    assert "labelled" not in site.hooks(0)
    assert (site.folder / "etcd.db").stat().st_size > 100_000
    # Taken back, and nothing of others with it.
    plain = site.own
    plain["spec"]["hosts"][1] = {"ips": site.lab.workers, "roles": ["worker"]}
    site.apply(site.document("plain", plain, *documents[1:]))
    worker = site.lab.json("get", "node", f"{site.lab.name}-renamed")
    assert not {"disk", "node-role.kubernetes.io/storage"} & set(worker["metadata"]["labels"])
    assert {taint["key"] for taint in worker["spec"]["taints"]} == {"theirs"}
    assert site.hooks(1)[2:] == ["labelled"]


FAILING = """apiVersion: batch/v1
kind: Job
metadata: {name: failing}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers: [{name: main, image: "slipway.dev/redis:7.0", command: [sh, -c, "exit 1"]}]
"""


def test_apply_workload_unready_before_does_not_block_change(site: Site) -> None:
    site.lab.first.run("KUBECONFIG=/etc/kubernetes/admin.conf kubectl apply -f -", input=FAILING)
    until(lambda: site.lab.json("get", "job", "failing")["status"].get("failed"))
    document = site.own
    document["spec"]["hosts"][1] = {"ips": site.lab.workers, "roles": ["worker"], "labels": {"disk": "nvme"}}
    file = site.document("beside", document)
    assert "Job default/failing: was not ready before" in site.apply(file).stderr
    assert site.lab.json("get", "node", f"{site.lab.name}-renamed")["metadata"]["labels"]["disk"] == "nvme"
    # It has come to its end: nothing is left to be done.
    assert "failing" not in site.apply(file).stderr
    site.lab.kubectl("delete", "job", "failing")


def test_apply_second_at_once_is_refused(site: Site) -> None:
    document = site.own
    document["spec"]["env"] = {"DashBoardPort": 7443}
    document["spec"]["cmd"] = ["until [ -e /run/go-on ]; do sleep 0.2; done", "kubectl apply -f manifests/dashboard.yaml"]
    file = site.document("slow", document)
    with begun(["apply", "-f", str(file)]) as running:
        reached(running, "launch: until")
        here = site.apply(file, check=False)
        # As from another machine, which shares nothing with this one but the cluster.
        with pytest.raises(UsageError, match="is changing the cluster"), lease.held(site.lab.first, site.lab.name):
            pass
        site.lab.first.run("touch /run/go-on")
        code, said = ended(running)
    assert code == 0, said
    assert here.returncode == 2
    assert "is changing the cluster" in here.stderr
    assert site.port() == 7443


# ---- taken over, and gone ---------------------------------------------------------------------------------------------


def test_generate_adopt_takes_over_cluster_without_record(site: Site) -> None:
    lab = site.lab
    lab.kubectl("delete", "configmap", "slipway-clusterfile", "--namespace=kube-system")
    for machine in lab.machines:
        machine.run("rm /var/lib/slipway/cluster")
    ClusterState.of(lab.name).forget()
    words = ("generate", "--from-cluster", "--control-plane", lab.control_plane[0], "--key", lab.key, "--cluster", lab.name)
    document = yaml.safe_load(lab.slipway(*words).stdout)
    assert document["spec"]["hosts"][1]["ips"] == lab.workers
    assert document["spec"]["network"]["podCIDR"] == "100.64.0.0/10"
    assert "saas.example.com" in document["spec"]["certSANS"]
    lab.slipway(*words, "--adopt")
    found = lab.status()
    assert found["healthy"], found["notReady"]
    assert found["image"] == f"kubernetes:{KUBERNETES}"
    pins = ClusterState.of(lab.name).known_hosts
    kept = pins.read_text()
    (key,) = [line.split()[2] for line in kept.splitlines() if line.split()[0] == lab.workers[0]]
    # Its beginning says which sort of key it is, and how long; ssh takes no notice of a line that is not a key.
    changed = kept.replace(key, f"{key[:26]}{'B' * (len(key) - 26)}")
    pins.write_text(changed)
    refused = lab.slipway(*words, "--adopt", check=False)
    assert (refused.returncode, "its host key is not the pinned one" in refused.stderr) == (5, True), refused.stderr
    assert pins.read_text() == changed
    pins.write_text(kept)


def test_delete_runs_clean_hooks_and_restores_host_names(site: Site) -> None:
    done = site.lab.slipway("delete", site.lab.name, "--yes")
    assert "2 machines cleaned" in done.stdout
    assert site.hooks(0)[-1].startswith("pre-clean-host /var/lib/slipway/rootfs")
    assert [line.split()[:2] for line in site.hooks(1)[-2:]] == [["pre-clean-host", "/var/lib/slipway/rootfs"], ["post-clean-host", "/"]]
    assert site.lab.worker.run("uname -n").stdout.strip() == f"{site.lab.name}-worker-1"
    assert not site.lab.worker.run("ls -A /var/lib/slipway", check=False).stdout
    assert "harbor" not in site.lab.worker.run("cat /etc/hosts").stdout

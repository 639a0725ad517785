"""A cluster that is made with ``--profile cis``: what the benchmark finds, what is encrypted, logged and refused, and that all of it
stays when the cluster changes. Each test goes on where the one before has left it.
"""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.errors import CommandError
from harness.nodes.kubectl import NodeKubectl
from harness.runtimes import encryption, profiles
from harness.runtimes.configuration import SERVING_CRT
from harness.runtimes.pki import ENCRYPTION, FOLDER
from tests.cluster.lab import MEMBERS, Lab, found, succeeded, until
from tests.conftest import Slipway
from tests.waiting import HANG

pytestmark = pytest.mark.long

REMAINS = {"1.1.12", "1.2.11", "5.3.1"}
"""By design: etcd runs as root, images are anybody's in the cluster, and flannel enforces no NetworkPolicies."""
HIDDEN = "hunter2-in-a-secret"
KEY = f"{FOLDER}/{ENCRYPTION}"
WORD = {"BACKUP_PASSWORD": "correct horse"}
MORE = "hardened:2"

CLAIM = """apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: keeps}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: Pod
metadata: {name: keeps}
spec:
  restartPolicy: Never
  volumes: [{name: data, persistentVolumeClaim: {claimName: keeps}}]
  containers:
  - name: write
    image: slipway.dev/redis:7.0
    command: [sh, -c, echo kept > /data/file]
    volumeMounts: [{name: data, mountPath: /data}]
"""

# An addon whose pods no namespace without a label would take, and which an image that comes later brings.
ADDON = """apiVersion: v1
kind: Namespace
metadata: {name: later}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: later, namespace: later}
spec:
  selector: {matchLabels: {app: later}}
  template:
    metadata: {labels: {app: later}}
    spec:
      hostPID: true
      tolerations: [{operator: Exists}]
      containers:
      - name: later
        image: slipway.dev/redis:7.0
        command: [redis-server, --save, ""]
"""


@pytest.fixture(scope="module")
def untouched() -> dict[str, str]:
    """What each machine was like before, by address; filled by ``lab``."""
    return {}


@pytest.fixture(scope="module")
def lab(slipway: Slipway, web: str, untouched: dict[str, str]) -> Iterator[Lab]:
    made = Lab(slipway, "test-profile", 1, 1, spares=1)
    try:
        untouched |= {address: found(made.at(address)) for address in made.addresses}
        made.run(web, "--profile", "cis")
        yield made
    finally:
        made.down()


def way(lab: Lab) -> list[str]:
    return ["--control-plane", ",".join(lab.control_plane), "--workers", ",".join(lab.workers), "--key", str(lab.key)]


def secured(lab: Lab) -> dict[str, dict[str, str]]:
    """What the benchmark finds that is not as it should be: by number, what was seen at each place."""
    said = lab.slipway("check", lab.name, "--post", "cis", "--output", "json", check=False)
    report = json.loads(said.stdout)
    bad = {
        one["id"]: {place["where"]: place["seen"] for place in one["findings"] if place["result"] != "ok"}
        for one in report["checks"]
        if one["result"] != "ok"
    }
    assert said.returncode == 0, bad
    assert report["counts"]["failed"] == report["counts"]["unknown"] == 0, bad
    assert report["counts"]["ok"] > 80
    return bad


def server(lab: Lab) -> dict[str, str]:
    """The arguments of the API server of the first control-plane node."""
    manifest = yaml.safe_load(lab.first.run("cat /etc/kubernetes/manifests/kube-apiserver.yaml").stdout)
    words = manifest["spec"]["containers"][0]["command"][1:]
    return {name: value for name, _, value in (word.removeprefix("--").partition("=") for word in words)}


def stored(lab: Lab, secret: str = "hidden") -> bytes:
    """A Secret as it lies in etcd."""
    command = f"{MEMBERS.removesuffix('member list')}get /registry/secrets/default/{secret} --write-out=json"
    said = until(lambda: json.loads(lab.first.run(command).stdout).get("kvs"))
    return base64.b64decode(said[0]["value"])


def read_back(lab: Lab, address: str | None = None) -> str:
    """The Secret as an API server gives it."""
    node = lab.at(address or lab.control_plane[0])
    return base64.b64decode(NodeKubectl(node).run("get", "secret", "hidden", "--output=jsonpath={.data.key}")).decode()


def audited(lab: Lab, word: str) -> list[dict[str, Any]]:
    """The events of the audit log that have to do with a word."""
    text = lab.first.run(f"grep -hF '{word}' {profiles.AUDIT}/*.log", check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


# ---- as it was made ---------------------------------------------------------------------------------------------------


def test_check_cis_of_profile_cluster_reports_only_accepted_findings(lab: Lab) -> None:
    bad = secured(lab)
    assert {"1.1.12", "1.2.11"} <= set(bad) <= REMAINS, bad
    text = lab.slipway("check", lab.name, "--post", "cis").stdout
    assert "warning  1.2.11" in text
    assert "hint: " in text


def test_profile_cis_keeps_cluster_and_addons_working(lab: Lab) -> None:
    assert lab.slipway("check", lab.name, "--output", "json", check=False).returncode == 0
    assert lab.status()["healthy"]
    for machine in lab.machines:
        assert "<h1>" in machine.run(f"curl -s --max-time 60 http://{machine.address}:30080/").stdout
    # metrics-server asks kubelets, and local-path-provisioner makes folders by pods that the baseline forbids.
    until(lambda: f"{lab.name}-worker-1" in lab.kubectl("top", "nodes"))
    lab.first.run("KUBECONFIG=/etc/kubernetes/admin.conf kubectl apply -f -", input=CLAIM)
    until(lambda: succeeded(lab.first, "keeps"))
    lab.kubectl("delete", "pod,persistentvolumeclaim", "keeps")


def test_profile_cis_secret_is_encrypted_by_key_kept_on_control_plane_only(lab: Lab) -> None:
    lab.kubectl("create", "secret", "generic", "hidden", f"--from-literal=key={HIDDEN}")
    value = stored(lab)
    assert value.startswith(b"k8s:enc:secretbox:v1:slipway-1:")
    assert HIDDEN.encode() not in value
    assert read_back(lab) == HIDDEN
    assert lab.first.run(f"stat -c '%a %U' {KEY}").stdout.split() == ["600", "root"]
    assert not lab.worker.run(f"[ -e {KEY} ]", check=False).ok
    (key,) = encryption.keys(lab.first.get(KEY), KEY)
    secret = base64.b64encode(key.secret).decode()
    for machine in lab.machines:
        assert not machine.run(f"grep -rlF '{secret}' /var/lib/slipway /var/log /tmp /root 2>/dev/null", check=False).stdout
    assert secret not in lab.kubectl("get", "configmaps", "--all-namespaces", "--output=yaml")


def test_profile_cis_audit_log_records_requests_without_secrets(lab: Lab) -> None:
    lab.kubectl("create", "role", "audited", "--verb=get", "--resource=pods")
    lab.kubectl("exec", "deploy/redis", "--", "redis-cli", "ping")
    until(lambda: any(event["verb"] == "get" for event in audited(lab, '"name":"hidden"')))
    events = [event for event in audited(lab, '"name":"hidden"') if event["objectRef"]["resource"] == "secrets"]
    assert ("create", "kubernetes-admin") in {(event["verb"], event["user"]["username"]) for event in events}
    assert {event["level"] for event in events} == {"Metadata"}
    assert not any("requestObject" in event or "responseObject" in event for event in events)
    role = until(lambda: [event for event in audited(lab, '"name":"audited"') if event["verb"] == "create" and "requestObject" in event])
    assert role[0]["requestObject"]["rules"][0]["resources"] == ["pods"]
    assert until(lambda: [event for event in audited(lab, '"subresource":"exec"') if event["objectRef"]["resource"] == "pods"])
    for text in (HIDDEN, base64.b64encode(HIDDEN.encode()).decode()):
        assert not lab.first.run(f"grep -lF '{text}' {profiles.AUDIT}/*", check=False).stdout
    modes = lab.first.run(f"stat -c %a {profiles.AUDIT} {profiles.AUDIT}/audit.log").stdout.split()
    assert modes == ["700", "600"]


def test_profile_cis_logs_and_exec_work_over_kubelet_certificates_of_cluster(lab: Lab) -> None:
    pods = lab.json("get", "pods", "--namespace=kube-system", "--selector=k8s-app=kube-proxy")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {f"{lab.name}-control-plane-1", f"{lab.name}-worker-1"}
    for pod in pods:
        lab.kubectl("logs", "--namespace=kube-system", pod["metadata"]["name"], "--tail=1")
    assert lab.kubectl("exec", "deploy/redis", "--", "redis-cli", "ping").strip() == "PONG"
    assert server(lab)["kubelet-certificate-authority"] == f"{FOLDER}/ca.crt"
    for address in lab.addresses:
        assert serves_as_itself(lab, address)


def serves_as_itself(lab: Lab, address: str) -> bool:
    """Whether the kubelet of a machine shows the first node a certificate that the cluster's authority signed for its address."""
    proof = f"-CAfile {FOLDER}/ca.crt -verify_return_error -verify_ip {address}"
    return lab.first.run(f"openssl s_client -connect {address}:10250 {proof} < /dev/null > /dev/null 2>&1", check=False).ok


def test_profile_cis_anonymous_request_reaches_health_endpoints_only(lab: Lab) -> None:
    def answers(path: str) -> str:
        return lab.first.run(f"curl -sk -o /dev/null -w '%{{http_code}}' https://127.0.0.1:6443{path}").stdout

    assert {path: answers(path) for path in profiles.HEALTH} == dict.fromkeys(profiles.HEALTH, "200")
    closed = ("/version", "/api", "/api/v1/namespaces/kube-public/configmaps/cluster-info")
    assert {path: answers(path) for path in closed} == dict.fromkeys(closed, "401")


def test_profile_cis_privileged_pod_is_refused_unless_namespace_allows_it(lab: Lab) -> None:
    privileged = ("run", "root", "--image=slipway.dev/redis:7.0", "--privileged")
    with pytest.raises(CommandError) as refused:
        lab.kubectl(*privileged)
    assert 'violates PodSecurity "baseline:latest"' in str(refused.value.details)
    lab.kubectl("create", "namespace", "open")
    lab.kubectl("label", "namespace", "open", "pod-security.kubernetes.io/enforce=privileged")
    lab.kubectl(*privileged, "--namespace=open", "--dry-run=server")
    lab.kubectl("delete", "namespace", "open")


# ---- as it changes ----------------------------------------------------------------------------------------------------


def test_run_without_profile_is_refused_and_changes_nothing(lab: Lab, web: str) -> None:
    before = lab.journals()
    said = lab.run(web, check=False)
    assert (said.returncode, "was made with the profile cis" in said.stderr) == (2, True)
    again = lab.run(web, "--profile", "cis")
    assert "+ start the kubelets (done before)" in again.stderr
    assert lab.journals() == before


def test_apply_clusterfile_without_profile_is_refused(lab: Lab, web: str, tmp_path: Path) -> None:
    file = tmp_path / "Clusterfile"
    for more, code in (((), 2), (("--profile", "cis"), 0)):
        file.write_text(lab.slipway("generate", web, *way(lab), "--cluster", lab.name, *more).stdout)
        said = lab.slipway("apply", "-f", file, "--plan", check=False)
        assert said.returncode == code, said.stderr
        assert (".spec.profile" in said.stderr) is (code == 2)


def serial(lab: Lab, address: str) -> str:
    return lab.at(address).run(f"openssl x509 -noout -serial -in {SERVING_CRT}").stdout


def test_certs_renew_replaces_serving_certificates_of_kubelets(lab: Lab) -> None:
    before = {address: serial(lab, address) for address in lab.addresses}
    done = json.loads(lab.slipway("certs", "renew", lab.name, "--output", "json").stdout)
    assert done["kubelets"] == sorted([f"{lab.name}-control-plane-1", f"{lab.name}-worker-1"])
    for address in lab.addresses:
        assert serial(lab, address) != before[address]
        until(functools.partial(serves_as_itself, lab, address))
    assert until(lambda: lab.kubectl("exec", "deploy/redis", "--", "redis-cli", "ping")).strip() == "PONG"


def test_certs_rotate_secrets_replaces_key_and_restore_brings_former_key_back(lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "before.backup"
    lab.slipway("backup", lab.name, "-f", file, "--password-env", "BACKUP_PASSWORD", env=WORD)
    done = json.loads(lab.slipway("certs", "rotate-secrets", lab.name, "--output", "json", timeout=HANG).stdout)
    assert (done["key"], done["secrets"] >= 1) == ("slipway-2", True)
    assert stored(lab).startswith(b"k8s:enc:secretbox:v1:slipway-2:")
    assert [key.name for key in encryption.keys(lab.first.get(KEY), KEY)] == ["slipway-2"]
    assert read_back(lab) == HIDDEN
    said = lab.slipway("restore", "-f", file, "--yes", "--password-env", "BACKUP_PASSWORD", "-o", "json", env=WORD, timeout=HANG)
    assert json.loads(said.stdout)["inPlace"] is True
    assert stored(lab).startswith(b"k8s:enc:secretbox:v1:slipway-1:")
    assert until(lambda: read_back(lab)) == HIDDEN
    until(lambda: lab.status()["healthy"])


def test_upgrade_and_rollback_keep_profile_and_admit_namespace_of_new_addon(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "etc/addons").mkdir(parents=True)
    (tmp_path / "etc/addons/later.yaml").write_text(ADDON)
    (tmp_path / "Kubefile").write_text("FROM web\nCOPY etc etc\n")
    lab.slipway("build", "-t", MORE, "--discover", "declared", tmp_path)
    first = server(lab)
    lab.slipway("upgrade", lab.name, MORE, "--yes", timeout=2 * HANG)
    second = server(lab)
    changed = {name for name in first if first[name] != second.get(name)}
    assert changed == {"admission-control-config-file", "audit-policy-file", "authentication-config"}
    admission = lab.first.run(f"cat {second['admission-control-config-file']}").stdout
    assert "- later" in admission
    assert lab.json("get", "daemonset", "later", "--namespace=later")["status"]["numberReady"] == 2
    assert set(secured(lab)) <= REMAINS
    assert read_back(lab) == HIDDEN
    lab.kubectl("delete", "namespace", "later")
    lab.slipway("rollback", lab.name, "--yes", timeout=2 * HANG)
    assert server(lab) == first
    assert set(secured(lab)) <= REMAINS
    assert read_back(lab) == HIDDEN


def test_restore_after_delete_brings_profile_and_encryption_key_back(lab: Lab, untouched: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "cluster.backup"
    lab.slipway("backup", lab.name, "-f", file, "--password-env", "BACKUP_PASSWORD", env=WORD)
    before = lab.first.get(KEY)
    lab.slipway("delete", lab.name, "--yes")
    assert {address: found(lab.at(address)) for address in lab.addresses} == untouched
    said = lab.slipway(
        "restore", "-f", file, "--yes", "--password-env", "BACKUP_PASSWORD", "-o", "json", *way(lab), env=WORD, timeout=2 * HANG
    )
    assert json.loads(said.stdout)["inPlace"] is False
    assert lab.first.get(KEY) == before
    assert read_back(lab) == HIDDEN
    assert set(secured(lab)) <= REMAINS


def test_join_control_plane_node_gets_profile_and_reads_secrets(lab: Lab) -> None:
    newcomer = lab.spares[0]
    lab.slipway(*lab.join_words(newcomer, role="control-plane"), timeout=2 * HANG)
    assert lab.at(newcomer).get(KEY) == lab.first.get(KEY)
    assert until(lambda: read_back(lab, newcomer)) == HIDDEN
    lab.kubectl("logs", "--namespace=kube-system", f"kube-apiserver-{lab.host(newcomer)}", "--tail=1")
    assert serves_as_itself(lab, newcomer)
    bad = secured(lab)
    assert set(bad) <= REMAINS
    # It was asked, too.
    assert set(bad["1.1.12"]) == {*lab.control_plane, newcomer}

"""A cluster that runs, managed: commands on all machines, access, bundles, certificates, backup, restore, and its end."""

from __future__ import annotations

import base64
import json
import re
import signal
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.host.cluster_cache import ClusterState
from harness.lifecycle.checks.postflight import CHECKS
from harness.lifecycle.checks.postflight.cis import CHECKS as CIS_CHECKS
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import SshNode
from harness.runtimes.kubeadm import CONFIG
from tests import waiting
from tests.cluster.conftest import SECRET, Made
from tests.cluster.lab import Lab, begun, ended, found, until
from tests.waiting import HANG

NOBODY = "127.0.0.77"
"""An address where no sshd listens."""


def way(lab: Lab, *workers: str) -> list[str]:
    """Options for a machine that knows nothing of the cluster."""
    return ["--via", ",".join(lab.control_plane), *(["--workers", ",".join(workers)] if workers else []), "--key", str(lab.key)]


# ---- exec -------------------------------------------------------------------------------------------------------------


def test_exec_prefixes_each_line_with_its_machine(lab: Lab) -> None:
    said = lab.slipway("exec", lab.name, "--", "for i in 1 2 3; do echo line $i of $(uname -n); done; echo worse >&2")
    for machine in ("control-plane-1", "worker-1"):
        name = f"{lab.name}-{machine}"
        assert [line for line in said.stdout.splitlines() if line.startswith(f"{name}: ")] == [
            f"{name}: line {number} of {name}" for number in (1, 2, 3)
        ]
        assert f"{name}: worse" in said.stderr.splitlines()
    assert len(said.stdout.splitlines()) == 6


def test_exec_role_and_on_options_select_machines(lab: Lab) -> None:
    name = f"{lab.name}-worker-1"
    for choice in (
        ["--role", "worker"],
        ["--on", lab.workers[0]],
        ["--on", name],
        ["--role", "worker", "--on", f"{name},{lab.control_plane[0]}"],
    ):
        assert lab.slipway("exec", lab.name, *choice, "--", "uname", "-n").stdout == f"{name}: {name}\n"
    lab.kubectl("label", "node", name, "node-role.kubernetes.io/storage=")
    assert lab.slipway("exec", lab.name, "--role", "storage", "--", "echo", "a  b").stdout == f"{name}: a  b\n"
    assert lab.slipway("exec", lab.name, "--role", "nosuch", "--", "true", check=False).returncode == 2
    absent = lab.slipway("exec", lab.name, "--on", "10.255.255.1", "--", "true", check=False)
    assert (absent.returncode, "no machine of this cluster" in absent.stderr) == (2, True)


def test_exec_failing_command_is_reported_with_exit_codes(lab: Lab) -> None:
    said = lab.slipway(
        "exec", lab.name, "-o", "json", "--", "case $(uname -n) in *control-plane*) echo fine;; *) exit 255;; esac", check=False
    )
    assert said.returncode == 6
    found = {one["role"]: one for one in json.loads(said.stdout)["nodes"]}
    assert (found["control-plane"]["exitCode"], found["control-plane"]["stdout"]) == (0, "fine")
    # The code that ssh keeps for its own failures is no lost connection when it is the command's.
    assert (found["worker"]["exitCode"], found["worker"]["error"]) == (255, None)
    assert f"{lab.name}-worker-1: exit code 255" in said.stderr


def test_exec_unreachable_machine_does_not_block_others(lab: Lab) -> None:
    said = lab.slipway("exec", f"{lab.name}-else", *way(lab, *lab.workers, NOBODY), "--", "echo here", check=False)
    assert said.returncode == 5
    assert sorted(said.stdout.split()) == sorted(word for address in lab.addresses for word in (f"{address}:", "here"))
    assert f"{NOBODY}: nothing listens on port 22" in said.stderr
    ClusterState.of(f"{lab.name}-else").forget()


# ---- debug ------------------------------------------------------------------------------------------------------------


def test_debug_node_command_sees_whole_node_and_leaves_no_pod(lab: Lab) -> None:
    name = f"{lab.name}-worker-1"
    script = "cat /host/etc/hostname; ps | grep -q '[/]kubelet ' && echo kubelet; chroot /host uname -n; exit 3"
    said = lab.slipway("debug", "node", lab.workers[0], "-c", lab.name, "--", script, check=False)
    assert (said.returncode, said.stdout.split()) == (3, [name, "kubelet", name]), said.stderr
    other = ("-c", f"{lab.name}-else", "--via", lab.control_plane[0], "--key", lab.key)
    as_json = lab.slipway("debug", "node", name, *other, "-o", "json", "--", "echo", "a  b")
    ClusterState.of(f"{lab.name}-else").forget()
    assert (json.loads(as_json.stdout)["stdout"], json.loads(as_json.stdout)["exitCode"]) == ("a  b\n", 0)
    absent = lab.slipway("debug", "node", name, "-c", lab.name, "--image", "slipway.dev/absent:1", "--", "true", check=False)
    assert (absent.returncode, "does not start" in absent.stderr) == (6, True)
    assert lab.kubectl("get", "pods", "--all-namespaces", "--selector=slipway.dev/debug", "--output=name") == ""


def test_debug_node_interrupted_removes_its_pod(lab: Lab) -> None:
    pods = ("get", "pods", "--namespace=kube-system", "--selector=slipway.dev/debug", "--output=jsonpath={.items[*].status.phase}")
    with begun(["debug", "node", f"{lab.name}-worker-1", "-c", lab.name, "--", "sleep", "600"]) as running:
        until(lambda: lab.kubectl(*pods) == "Running")
        running.send_signal(signal.SIGHUP)
        assert ended(running)[0] == 130
    assert lab.kubectl(*pods) == ""


def test_debug_pod_container_shares_processes_and_network_and_ends(lab: Lab) -> None:
    lab.kubectl("run", "quiet", "--image=slipway.dev/redis:7.0")
    lab.kubectl("wait", "--for=condition=Ready", "pod/quiet", "--timeout=60s")
    script = "ps | grep -q '[r]edis-server' && echo redis; printf 'PING\\r\\nQUIT\\r\\n' | nc 127.0.0.1 6379; exit 4"
    said = lab.slipway("debug", "pod", "quiet", "-c", lab.name, "--", script, check=False)
    assert (said.returncode, said.stdout.split()) == (4, ["redis", "+PONG", "+OK"]), said.stderr
    assert "until that pod is deleted" in said.stderr
    (status,) = lab.json("get", "pod", "quiet")["status"]["ephemeralContainerStatuses"]
    assert "terminated" in status["state"]
    lab.kubectl("delete", "pod", "quiet", "--grace-period=1")


# ---- access -----------------------------------------------------------------------------------------------------------


def test_kubeconfig_merge_keeps_other_entries(lab: Lab, tmp_path: Path) -> None:
    config = tmp_path / "config"
    other = {"name": "elsewhere", "cluster": {"server": "https://10.0.0.1:6443"}}
    config.write_text(yaml.safe_dump({"clusters": [other], "current-context": "elsewhere", "preferences": {"colors": True}}))
    for _ in range(2):
        lab.slipway("kubeconfig", lab.name, "--merge", "-f", config)
    found = yaml.safe_load(config.read_text())
    assert [entry["name"] for entry in found["clusters"]] == ["elsewhere", lab.name]
    assert (found["clusters"][0], found["preferences"]) == (other, {"colors": True})
    assert config.stat().st_mode & 0o077 == 0
    lab.first.put(config.read_bytes(), "/run/merged", 0o600)
    assert f"{lab.name}-worker-1" in NodeKubectl(lab.first, kubeconfig="/run/merged").run("get", "nodes")


def test_kubeconfig_via_control_plane_node_needs_no_local_state(lab: Lab) -> None:
    said = lab.slipway("kubeconfig", f"{lab.name}-lost", *way(lab), "--server", "203.0.113.9")
    assert yaml.safe_load(said.stdout)["clusters"][0]["cluster"]["server"] == "https://203.0.113.9:6443"
    assert "does not hold for 203.0.113.9" in said.stderr
    ClusterState.of(f"{lab.name}-lost").forget()


# ---- logs -------------------------------------------------------------------------------------------------------------


def test_logs_bundle_has_expected_files_and_no_secret(lab: Lab, tmp_path: Path) -> None:
    token = lab.first.run("kubeadm token create").stdout.strip()
    lab.kubectl("create", "secret", "generic", "hidden", f"--from-literal=key={SECRET}")
    lab.kubectl("run", "broken", "--image=slipway.dev/redis:7.0", f"--env=DB_PASSWORD={SECRET}", "--restart=Never", "--command", "--",
                "sh", "-c", f"echo token={token}; exit 3")  # fmt: skip
    phase = ("get", "pod", "broken", "--output=jsonpath={.status.phase}")
    until(lambda: lab.kubectl(*phase) == "Failed")
    file = tmp_path / "bundle.tar.gz"
    header = lab.login(lab.first).removeprefix("Basic ").encode()
    login = (header, base64.b64decode(header).partition(b":")[2])
    said = lab.slipway("logs", f"{lab.name}-else", *way(lab, *lab.workers, NOBODY), "--since", "1h", "-f", file, "-o", "json")
    ClusterState.of(f"{lab.name}-else").forget()
    assert list(json.loads(said.stdout)["unreachable"]) == [NOBODY]
    with tarfile.open(file) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    index = json.loads(files["index.json"])
    assert {entry["path"] for entry in index["files"]} == files.keys() - {"index.json"}
    assert list(files) == ["index.json", *sorted(files.keys() - {"index.json"})]
    assert index["unreachable"][NOBODY]
    addresses = {name: address for address, name in index["nodes"].items()}
    for machine in ("control-plane-1", "worker-1"):
        place = f"nodes/{addresses[f'{lab.name}-{machine}']}"
        for name in ("journal-kubelet.log", "journal-containerd.log", "steps.txt", "disk.txt", "facts.json", "addresses.txt"):
            assert files[f"{place}/{name}"].strip(), name
    assert any("kube-apiserver" in path and path.endswith(".log") for path in files)
    broken = next(path for path in files if "default_broken_" in path)
    assert b"token=***" in files[broken]
    assert b"broken" in files["cluster/events.txt"]
    for path, data in files.items():
        assert SECRET.encode() not in data, path
        assert token.encode() not in data, path
        assert not any(word in data for word in login), path
        assert b"PRIVATE KEY-----\nM" not in data, path
    lab.kubectl("delete", "pod,secret", "broken", "hidden", "--ignore-not-found")


# ---- checks -----------------------------------------------------------------------------------------------------------


def checked(lab: Lab, *words: str) -> tuple[int, dict[str, dict[str, dict[str, Any]]]]:
    """The exit code of a check, and what was found by check and place."""
    said = lab.slipway("check", lab.name, *words, "--output", "json", check=False)
    return said.returncode, {one["id"]: {place["where"]: place for place in one["findings"]} for one in json.loads(said.stdout)["checks"]}


def test_check_tests_all_connections_and_leaves_no_objects(lab: Lab) -> None:
    ours = ("get", "pods,services", "--all-namespaces", "--selector=slipway.dev/check", "--output=name")
    code, found = checked(lab)
    bad = {(check, where): one["seen"] for check, places in found.items() for where, one in places.items()
           if one["result"] in ("failed", "unknown")}  # fmt: skip
    assert (code, bad) == (0, {})
    assert found.keys() == CHECKS.keys()
    names = {f"{lab.name}-control-plane-1", f"{lab.name}-worker-1"}
    for check in ("pod-start", "pod-network", "pod-services", "pod-dns", "nodes"):
        assert found[check].keys() == names, check
    for check in ("services", "api-way", "node-dns", "node-services", "node-port-way", "certificates"):
        assert found[check].keys() == set(lab.addresses), check
    assert re.fullmatch(r"\d+ images", found["registry"][lab.control_plane[0]]["seen"])
    assert found["balancer"][lab.workers[0]]["seen"] == "2 servers"

    # The images are gone, and so are the pods' packets; one place each is to blame, and where it hurts is told as well.
    drop = "INPUT -p udp --dport 8472 -j DROP"
    lab.first.run("systemctl stop slipway-registry")
    lab.worker.run(f"iptables -I {drop}")
    try:
        code, found = checked(lab)
    finally:
        lab.worker.run(f"iptables -D {drop}")
        lab.first.run("systemctl start slipway-registry")
    failed = {(check, where) for check, places in found.items() for where, one in places.items() if one["result"] == "failed"}
    assert code == 7
    assert failed >= {
        ("services", lab.control_plane[0]),
        ("registry", lab.control_plane[0]),
        ("registry-way", lab.workers[0]),
        ("balancer", lab.workers[0]),
        *(("pod-network", name) for name in names),
    }
    assert not failed & {("api-way", address) for address in lab.addresses}
    assert all(one["remedy"] for places in found.values() for one in places.values() if one["result"] == "failed")
    until(lambda: lab.kubectl(*ours) == "")


def test_check_cis_of_ordinary_cluster_reports_findings_with_remedies(lab: Lab) -> None:
    code, found = checked(lab, "--post", "cis")
    results = {number: {where: one["result"] for where, one in places.items()} for number, places in found.items()}
    assert code == 7
    assert found.keys() == CIS_CHECKS.keys()
    assert not [number for number, places in results.items() if "unknown" in places.values()]
    (node,), (worker,) = lab.control_plane, lab.workers
    for number, result in (("1.1.1", "ok"), ("1.2.7", "ok"), ("1.2.16", "failed"), ("1.2.28", "warning"), ("2.2", "ok")):
        assert results[number] == {node: result}, found[number]
    for number, result in (("4.1.5", "ok"), ("4.1.9", "failed"), ("4.2.1", "ok"), ("4.2.9", "warning"), ("4.2.14", "warning")):
        assert results[number] == {node: result, worker: result}, found[number]
    assert results["5.2.1"] == {lab.name: "warning"}
    assert all(one["remedy"] for places in found.values() for one in places.values() if one["result"] != "ok")


# ---- certificates -----------------------------------------------------------------------------------------------------


def expiry(lab: Lab) -> dict[tuple[str, str], dict[str, Any]]:
    found = json.loads(lab.slipway("certs", lab.name, "-o", "json").stdout)["certificates"]
    return {(one["node"].removeprefix(f"{lab.name}-"), one["path"].rpartition("/etc/kubernetes/")[2]): one for one in found}


@pytest.mark.long
def test_certs_are_listed_renewed_and_extended_by_names(lab: Lab) -> None:
    before = expiry(lab)
    for key in (
        ("control-plane-1", "pki/apiserver.crt"),
        ("control-plane-1", "admin.conf"),
        ("worker-1", "/var/lib/kubelet/pki/kubelet-client-current.pem"),
    ):
        assert 360 <= before[key]["daysLeft"] <= 365
    assert before["control-plane-1", "pki/ca.crt"]["authority"]

    lab.slipway("certs", "renew", lab.name, "--days", "20")
    listed = lab.slipway("certs", lab.name)
    assert re.search(r"warning: \d+ certificates end within 30 days", listed.stderr)
    after = expiry(lab)
    renewed = {path for (_, path), one in after.items() if one["state"] == "soon"}
    assert renewed == {
        *(f"pki/{name}.crt" for name in ("apiserver", "apiserver-etcd-client", "apiserver-kubelet-client", "front-proxy-client")),
        *(f"pki/etcd/{name}.crt" for name in ("server", "peer", "healthcheck-client")),
        *(f"{name}.conf" for name in ("admin", "super-admin", "controller-manager", "scheduler")),
    }
    # A registry with a new certificate asks for the same login as before.
    assert [lab.registry(), lab.registry(Authorization=lab.login(lab.worker))] == [401, 200]
    # The parts use them: what is served is what lies there.
    served = lab.first.run("openssl s_client -connect 127.0.0.1:6443 < /dev/null 2>/dev/null | openssl x509 -noout -serial").stdout
    assert served == lab.first.run("openssl x509 -noout -serial -in /etc/kubernetes/pki/apiserver.crt").stdout

    lab.slipway("certs", "add-names", "api.example.com", "203.0.113.9", "--cluster", lab.name)
    names = expiry(lab)["control-plane-1", "pki/apiserver.crt"]["names"]
    assert {"api.example.com", "203.0.113.9", lab.control_plane[0], "kubernetes"} <= set(names)
    ask = f"--server=https://{lab.control_plane[0]}:6443 --tls-server-name=api.example.com get --raw /readyz"
    assert lab.kubectl(*ask.split()) == "ok"
    checked = lab.first.run(f"kubeadm certs check-expiration --config {CONFIG}; kubeadm certs check-expiration").stdout
    assert checked.count("front-proxy-client") == 2
    assert "invalid" not in checked
    kept = lab.kubectl("get", "configmap", "kubeadm-config", "--namespace=kube-system", "--output=yaml")
    assert "- api.example.com" in kept
    # A renewal by kubeadm itself keeps the names.
    lab.first.run(f"kubeadm certs renew apiserver --config {CONFIG}")
    assert "api.example.com" in lab.first.run("openssl x509 -noout -ext subjectAltName -in /etc/kubernetes/pki/apiserver.crt").stdout
    assert lab.status()["healthy"]


def test_certs_add_names_invalid_names_are_all_refused_at_once(lab: Lab) -> None:
    said = lab.slipway("certs", "add-names", "a b", "10.0.0.300", "fine.example.com", "--cluster", lab.name, check=False)
    assert said.returncode == 2
    assert "2 faults" in said.stderr


# ---- backup and restore -----------------------------------------------------------------------------------------------


def test_restore_recovers_cluster_after_loss_of_etcd_and_after_delete(lab: Lab, made: Made, tmp_path: Path) -> None:
    file = tmp_path / "cluster.backup"
    word = {"BACKUP_PASSWORD": "correct horse"}
    lab.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    done = json.loads(lab.slipway("backup", lab.name, "-f", file, "--password-env", "BACKUP_PASSWORD", "-o", "json", env=word).stdout)
    assert (done["encrypted"], done["keys"] > 100, file.stat().st_mode & 0o077) == (True, True, 0)
    before = lab.objects()
    assert any("ConfigMap default/kept" in one for one in before)
    again = lab.slipway("backup", lab.name, "-f", file, check=False)
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert "PRIVATE KEY" not in file.read_text(errors="replace")

    # Nothing is touched for a wrong password, or a file that was cut.
    cut = tmp_path / "cut.backup"
    cut.write_bytes(file.read_bytes()[:-1])
    for path, env in ((file, {"BACKUP_PASSWORD": "another-one-5"}), (cut, word)):
        said = lab.slipway("restore", "-f", path, "--yes", "--password-env", "BACKUP_PASSWORD", env=env, check=False)
        assert (said.returncode, "password is wrong" in said.stderr or "not whole" in said.stderr) == (2, True)
    assert lab.status()["healthy"]

    lab.kubectl("create", "configmap", "later", "--from-literal=a=b")
    lab.first.run("rm -rf /var/lib/etcd/member")
    said = lab.slipway("restore", "-f", file, "--yes", "--password-env", "BACKUP_PASSWORD", "-o", "json", env=word, timeout=HANG)
    assert json.loads(said.stdout)["inPlace"] is True
    assert lab.objects() == before
    until(lambda: lab.status()["healthy"])
    answers(lab)

    # The machines as new: nothing of the cluster is left anywhere but in the file.
    assert "2 machines cleaned" in lab.slipway("delete", lab.name, "--yes").stdout
    assert {address: found(lab.at(address)) for address in lab.addresses} == {address: made.untouched[address] for address in lab.addresses}
    assert not ClusterState.of(lab.name).exists
    lab.first.run("hostnamectl set-hostname renamed-first 2>/dev/null || { echo renamed-first > /etc/hostname; hostname renamed-first; }")
    machines = ("--control-plane", ",".join(lab.control_plane), "--workers", ",".join(lab.workers), "--key", lab.key)
    said = lab.slipway("restore", "-f", file, "--yes", "--password-env", "BACKUP_PASSWORD", "-o", "json", *machines, env=word, timeout=900)
    assert json.loads(said.stdout)["inPlace"] is False
    assert lab.objects() >= {one for one in before if not one.startswith("ConfigMap kube-system/slipway-clusterfile")}
    names = sorted(node["metadata"]["name"] for node in lab.json("get", "nodes")["items"])
    assert names == sorted(["renamed-first", f"{lab.name}-worker-1"])
    assert lab.status()["healthy"]
    answers(lab)
    assert "front-proxy-client" in lab.first.run("kubeadm certs check-expiration").stdout


def answers(lab: Lab) -> None:
    """The application serves, through services whose addresses are the old ones."""

    def page(machine: SshNode) -> str:
        done = machine.run(f"curl -sS --max-time 60 http://{machine.address}:30080/", check=False)
        return done.stdout if "<h1>" in done.stdout else f"no page from {machine.name}: {done.output}"

    def state() -> str:
        shown = lab.kubectl("get", "pods,endpointslices", "--all-namespaces", "--output=wide")
        rules = "".join(
            machine.run("nft list chain ip kube-proxy services 2>&1 | head -n 40", check=False).stdout for machine in lab.machines
        )
        return "\n".join([*map(page, lab.machines), shown, rules])

    waiting.until(lambda: all("<h1>" in page(machine) for machine in lab.machines), state, pause=0.3)

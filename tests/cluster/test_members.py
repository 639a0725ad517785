"""A worker joins a cluster that runs, leaves it, comes back, and dies. What becomes of control-plane nodes is in test_faults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from harness.host.cluster_cache import ClusterState
from tests.cluster.conftest import GREETING, Made
from tests.cluster.lab import Lab, begun, ended, found, kill_at, reached, runs_on, until
from tests.waiting import HANG

RECORD = ("get", "configmap", "slipway-clusterfile", "--namespace=kube-system")
MANIFEST = "/var/lib/slipway/rootfs/manifests/web.yaml"
PAGE = f"<h1>{GREETING}</h1>"


@pytest.fixture(scope="module")
def later(lab: Lab) -> str:
    """The address of the machine that comes and goes."""
    return lab.spares[0]


@pytest.fixture(scope="module")
def joined(lab: Lab, later: str) -> Lab:
    """The newcomer in the cluster, after its joining was killed once."""
    assert json.loads(lab.slipway(*lab.join_words(later, "--plan", "--output", "json")).stdout)
    assert lab.at(later).run("ls -A /var/lib/slipway", check=False).stdout == ""
    assert "+ send the rootfs (copied between machines)" in kill_at(lab.join_words(later), "- start the kubelets")
    said = lab.slipway(*lab.join_words(later, "--output", "json"), timeout=HANG)
    assert json.loads(said.stdout)["workers"] == [f"{lab.name}-worker-2"]
    assert "+ send the rootfs (done before)" in said.stderr
    return lab


def test_join_killed_worker_is_completed_and_runs_pods_and_services(joined: Lab, later: str) -> None:
    assert joined.status()["healthy"]
    assert joined.nodes() == {f"{joined.name}-{name}": True for name in ("control-plane-1", "worker-1", "worker-2")}
    runs_on(joined.first, f"{joined.name}-worker-2", "there", "slipway.dev/redis:7.0", "redis-server", "--version")
    newcomer = joined.at(later)
    assert joined.login(newcomer) == joined.login(joined.first)
    # What only the first node launches a worker has as the image has it, without the values that were given; root alone reads either.
    assert GREETING in joined.first.run(f"cat {MANIFEST}").stdout
    assert joined.first.run(f"stat -c %a {MANIFEST}").stdout.strip() == "600"
    assert GREETING not in newcomer.run(f"cat {MANIFEST}").stdout
    for machine in (joined.first, newcomer):
        assert machine.run("stat -c %a /var/lib/slipway").stdout.strip() == "700"
    # And the same services.
    assert until(lambda: PAGE in newcomer.run(f"curl -s --max-time 60 http://{later}:30080/", check=False).stdout)


def test_join_worker_is_recorded_in_cluster_and_local_state(joined: Lab, later: str) -> None:
    record = joined.json(*RECORD)["data"]["Clusterfile"]
    assert later in record
    assert [entry["address"] for entry in ClusterState.of(joined.name).read()["workers"]] == [*joined.workers, later]
    again = joined.slipway(*joined.join_words(later))
    assert f"{later} belonged to {joined.name} before" in again.stdout


def test_join_member_with_other_role_is_refused(joined: Lab, later: str) -> None:
    said = joined.slipway(*joined.join_words(later, role="control-plane"), check=False)
    assert said.returncode == 2
    assert "is a worker of" in said.stderr


def test_run_without_naming_joined_member_is_refused(joined: Lab, later: str) -> None:
    said = joined.run("web:latest", check=False)
    assert said.returncode == 2, said.stderr
    assert f"{later} is, and is not named" in said.stderr
    assert "slipway join" in said.stderr


def test_remove_blocked_by_disruption_budget_fails_and_names_it(joined: Lab) -> None:
    # All of web's pods must stay, and one of them cannot be anywhere else.
    joined.kubectl("create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2")
    name = f"{joined.name}-worker-1"
    said = joined.slipway("remove", joined.name, joined.workers[0], "--yes", "--timeout", "4", check=False)
    joined.kubectl("delete", "poddisruptionbudget", "web")
    assert said.returncode == 7, said.stderr
    assert "PodDisruptionBudget web" in said.stderr
    assert "it stays cordoned" in said.stderr
    assert joined.nodes()[name]
    joined.kubectl("uncordon", name)


def test_remove_last_control_plane_node_is_refused(joined: Lab) -> None:
    said = joined.slipway("remove", joined.name, joined.control_plane[0], "--yes", check=False)
    assert said.returncode == 7
    assert "no control-plane node would be left" in said.stderr
    assert joined.slipway("remove", joined.name, "10.99.99.99", "--yes", check=False).returncode == 2


def test_remove_worker_cleans_its_machine(joined: Lab, later: str, made: Made) -> None:
    done = json.loads(joined.slipway("remove", joined.name, f"{joined.name}-worker-2", "--yes", "--output", "json").stdout)
    assert done["cleaned"] == [f"{joined.name}-worker-2"]
    assert found(joined.at(later)) == made.untouched[later]
    assert f"{joined.name}-worker-2" not in joined.nodes()
    assert later not in joined.json(*RECORD)["data"]["Clusterfile"]
    assert joined.first.run(f"curl -s --max-time 60 http://{joined.first.address}:30080/").stdout.strip() == PAGE
    # Its pods are gone with it: nobody waits for them.
    until(lambda: joined.status()["healthy"])


def test_join_by_name_of_ssh_config_is_recorded_and_other_verbs_take_the_name(
    joined: Lab, later: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine is reached on another port, behind another node, by settings that are in ssh_config alone."""
    config, other = tmp_path / "config", joined.workers[0]
    right = f"Host newcomer\n  HostName {later}\n  Port 2222\n  ProxyJump hop\nHost hop\n  HostName {other}\nHost *\n  User root\n"
    right += f"  IdentityFile {joined.key}\n"
    config.write_text(right)
    monkeypatch.setenv("SLIPWAY_SSH_CONFIG", str(config))
    newcomer = joined.at(later)
    for machine in (newcomer, joined.at(other)):
        machine.run("/usr/sbin/sshd -p 2222 -o PidFile=/run/sshd-other.pid")
    wrong = joined.slipway("join", joined.name, "--workers", "nosuch.invalid,newcomer", "--control-plane", "other.invalid", check=False)
    assert wrong.returncode == 2
    assert "nosuch.invalid: has no address here" in wrong.stderr
    assert "other.invalid: has no address here" in wrong.stderr
    assert newcomer.run("ls -A /var/lib/slipway", check=False).stdout == ""

    joined.slipway("join", joined.name, "--workers", "newcomer", timeout=HANG)
    (node,) = (node for node in joined.status()["nodes"] if node["name"] == f"{joined.name}-worker-2")
    assert (node["address"], node["ready"]) == (later, True)
    document = next(iter(yaml.safe_load_all(joined.json(*RECORD)["data"]["Clusterfile"])))
    assert document["spec"]["sshHosts"] == {later: "newcomer"}
    assert ClusterState.of(joined.name).read()["workers"][-1]["host"] == "newcomer"
    for word in ("newcomer", later):
        said = joined.slipway("exec", joined.name, "--on", word, "--", "echo $SSH_CONNECTION")
        assert said.stdout.split()[1::3] == [other, "2222"]
    assert f"{later} belonged to" in joined.slipway("join", joined.name, "--workers", "newcomer").stdout

    config.write_text(f"Host newcomer\n  HostName {other}\n{right}")
    for verb in (("join", joined.name, "--workers", "newcomer"), ("status", joined.name, "--via", "newcomer")):
        moved = joined.slipway(*verb, check=False)
        assert moved.returncode == 2
        assert f"newcomer: is {other} now, and was {later} when it became a node" in moved.stderr
    # The name leads to a machine with another host key: that one is left alone, and so is the node.
    states = joined.slipway("exec", joined.name, "--on", "newcomer", "--", "true", check=False)
    assert states.returncode == 5
    assert "its host key is not the pinned one" in states.stderr

    config.write_text(right)
    done = json.loads(joined.slipway("remove", joined.name, "newcomer", "--yes", "--output", "json").stdout)
    assert done["cleaned"] == [f"{joined.name}-worker-2"]
    assert "newcomer" not in joined.json(*RECORD)["data"]["Clusterfile"]
    for machine in (newcomer, joined.at(other)):
        machine.run("kill $(cat /run/sshd-other.pid)")


def test_join_worker_that_left_is_a_node_again(joined: Lab, later: str) -> None:
    joined.slipway(*joined.join_words(later), timeout=HANG)
    assert joined.nodes()[f"{joined.name}-worker-2"]


def test_remove_worker_dying_during_drain_is_reported_and_then_removed_without_it(joined: Lab, later: str) -> None:
    name = f"{joined.name}-worker-2"
    # Its process does not heed the signal to end, so the drain waits for it.
    joined.kubectl("create", "deployment", "stubborn", "--image=slipway.dev/nginx:1.22", "--replicas=0", "--", "sleep", "1000000")
    spec = {"nodeSelector": {"kubernetes.io/hostname": name}, "terminationGracePeriodSeconds": 100000}
    joined.kubectl("patch", "deployment", "stubborn", "--patch", json.dumps({"spec": {"template": {"spec": spec}}}))
    joined.kubectl("scale", "deployment", "stubborn", "--replicas=1")
    joined.kubectl("rollout", "status", "deployment", "stubborn", "--timeout=600s")

    def ending() -> bool:
        pods = joined.json("get", "pods", "--selector=app=stubborn")["items"]
        return any(pod["metadata"].get("deletionTimestamp") for pod in pods)

    with begun(["remove", joined.name, later, "--yes", "--timeout", str(10 * HANG)]) as running:
        reached(running, "- drain the nodes")
        until(ending)
        joined.kill(later)
        code, said = ended(running)
    assert code == 5, said
    assert f"{name} was lost while its pods were moved: {later}: " in said
    joined.kubectl("delete", "deployment", "stubborn")
    done = json.loads(joined.slipway("remove", joined.name, later, "--yes", "--output", "json").stdout)
    assert list(done["unreachable"]) == [later]
    assert f"{joined.name}-worker-2" not in joined.nodes()
    until(lambda: joined.status()["healthy"])

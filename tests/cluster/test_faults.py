"""What goes wrong while a cluster is made, while it serves and while it changes; each test goes on where the one before has left it.

One lab for all: three control-plane nodes, two workers, two machines to spare.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from harness.errors import UsageError
from harness.host import paths
from harness.lifecycle.cluster import lease
from tests.cluster.lab import MEMBERS, Client, Lab, begun, ended, kubeadm_resets, lines, reached, repeated, runs_on, until
from tests.conftest import KUBERNETES, Slipway
from tests.waiting import HANG

LOST = re.compile("^(slipway: )?it: (the connection was lost|no answer within|nothing listens|no route leads)", re.MULTILINE)
"""What is said about a machine that is gone, or was for a moment."""
MOMENTS = 20
"""How often a run is killed before it may end."""
PORT = 31080

# Serves on while it is moved: what nobody must notice is a matter of the cluster and not of the application.
STEADY = f"""apiVersion: apps/v1
kind: Deployment
metadata: {{name: steady}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: steady}}}}
  template:
    metadata: {{labels: {{app: steady}}}}
    spec:
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
          - topologyKey: kubernetes.io/hostname
            labelSelector: {{matchLabels: {{app: steady}}}}
      containers:
      - name: nginx
        image: slipway.dev/nginx:1.22
        readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1, timeoutSeconds: 5, failureThreshold: 10}}
        lifecycle: {{preStop: {{exec: {{command: [sleep, "10"]}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: steady}}
spec:
  type: NodePort
  selector: {{app: steady}}
  ports: [{{port: 80, nodePort: {PORT}}}]
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: steady}}
spec:
  minAvailable: 1
  selector: {{matchLabels: {{app: steady}}}}
"""


@pytest.fixture(scope="module")
def lab(slipway: Slipway) -> Iterator[Lab]:
    made = Lab(slipway, "test-faults", 3, 2, spares=2)
    try:
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def somebody(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a person who has the same images, and knows nothing of our clusters."""
    home = tmp_path_factory.mktemp("somebody")
    (home / "store").symlink_to(paths.home() / "store")
    return {"SLIPWAY_HOME": str(home)}


# ---- while it is made -------------------------------------------------------------------------------------------------


def test_run_refused_login_is_reported_before_any_change(lab: Lab, web: str) -> None:
    address = lab.workers[0]
    lab.at(address).run("mv /root/.ssh/authorized_keys /root/.ssh/away")
    said = lab.run(web, check=False)
    assert said.returncode == 5
    assert f"{address}: it does not accept root" in said.stderr
    lab.at(address).run("mv /root/.ssh/away /root/.ssh/authorized_keys")
    for machine in lab.machines:
        assert machine.run("ls -A /var/lib/slipway").stdout == ""


def test_run_machines_failing_meanwhile_are_reported_and_others_continue(lab: Lab, web: str) -> None:
    cut, full, rebooting = lab.workers[0], lab.workers[1], lab.control_plane[2]
    lab.at(full).run("mount -t tmpfs -o size=2g none /var/lib/slipway")
    with begun(lab.words(web)) as running:
        reached(running, "- send the rootfs")
        lab.cut(cut)
        lab.at(full).run("mount -o remount,size=60m /var/lib/slipway")
        lab.reboot(rebooting)
        code, said = ended(running)
    assert code == 5, said
    for address in (cut, rebooting):
        assert LOST.search(said.replace(address, "it")), said
    assert f"{lab.host(full)}: " in said
    assert "No space left on device" in said
    journals = lab.journals(*lab.control_plane[:2])
    for address in lab.control_plane[:2]:
        assert {line.split()[0] for line in journals[address]} >= {"send-rootfs", "send-images"}
    lab.mend(cut)
    lab.at(full).run("mount -o remount,size=2g /var/lib/slipway")


def test_run_second_user_is_refused_and_first_ends_at_ctrl_c(lab: Lab, web: str, somebody: dict[str, str]) -> None:
    with begun(lab.words(web)) as running:
        reached(running, "- start containerd")
        # It holds its breath, so that it cannot come to its end meanwhile.
        running.send_signal(signal.SIGSTOP)
        second = lab.slipway(*lab.words(web), check=False, env=somebody)
        assert second.returncode == 2, second.stderr
        assert f":{running.pid} is changing the cluster {lab.name}" in second.stderr
        here = lab.run(web, check=False)
        assert (here.returncode, "another command is changing" in here.stderr) == (2, True)
        running.send_signal(signal.SIGCONT)
        interrupt(running)
    # What was done before is said as well.
    for line in ("connect to the nodes", "start the kubelets", "wait for the API"):
        with begun(lab.words(web)) as running:
            reached(running, line)
            interrupt(running)


def interrupt(running: subprocess.Popen[str]) -> None:
    """Ctrl-C, after which it ends and says so."""
    running.send_signal(signal.SIGINT)
    code, said = ended(running)
    assert code == 130, said
    assert "the same command can be run again" in said


@pytest.mark.long
def test_run_killed_at_random_moments_is_completed_without_repeating_steps(lab: Lab, web: str, record_property: Any) -> None:
    moments = random.Random(20)
    limit, before = 4.0, lab.journals()
    for _ in range(MOMENTS):
        with begun(lab.words(web)) as running:
            try:
                assert running.wait(moments.uniform(0.3, limit)) == 0, lines(running)
            except subprocess.TimeoutExpired:
                running.kill()
            else:
                break
        # A step that takes longer than that must be given the time.
        after = lab.journals()
        limit = 4.0 if after != before else limit * 1.5
        before = after
    with begun(lab.words(web)) as running:
        reached(running, "- wait for the nodes")
        lab.reboot(lab.workers[0])
        code, said = ended(running)
        if code:
            assert (code, lab.workers[0] in said) == (5, True), said
    last = lab.run(web)
    assert "+ send the rootfs (done before)" in last.stderr
    for address, journal in lab.journals().items():
        assert repeated(journal) == [], address
    until(lambda: lab.status()["healthy"])
    assert until(lambda: lab.first.run(MEMBERS, check=False).stdout).count("started") == 3


# ---- while it serves --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(lab: Lab, web: str) -> Lab:
    """With an application that is asked all the time from every machine that is a worker at first."""
    # What the tests above left half-made comes to its end; where nothing is left to do, it is over at once.
    lab.run(web)
    lab.first.run("KUBECONFIG=/etc/kubernetes/admin.conf kubectl apply -f -", input=STEADY)
    until(lambda: lab.json("get", "deployment", "steady")["status"].get("readyReplicas") == 2)
    return lab


@pytest.fixture(scope="module")
def clients(cluster: Lab) -> dict[str, Client]:
    return {address: Client(cluster.at(address), PORT) for address in cluster.workers}


def failures(clients: dict[str, Client], since: dict[str, float], *but: str) -> dict[str, tuple[int, int, int]]:
    """Of each client: how many requests it made, how many failed at the API, and at the application."""
    found = {}
    for address, client in clients.items():
        if address not in but:
            answers = client.answers(since[address])
            assert answers, "it has asked nothing"
            found[address] = (len(answers), sum(not one.api for one in answers), sum(not one.app for one in answers))
    return found


def steady(client: Client, since: float, count: int = 30) -> bool:
    """Whether the last requests of a client did not fail, all of them."""
    last = client.answers(since)[-count:]
    return len(last) == count and all(one.api and one.app for one in last)


def now(clients: dict[str, Client]) -> dict[str, float]:
    return {address: float(client.machine.run("date +%s.%N").stdout) for address, client in clients.items()}


def test_pods_reach_pods_and_services_and_node_port_answers_on_all_nodes(cluster: Lab, clients: dict[str, Client]) -> None:
    assert clients
    pods = cluster.json("get", "pods", "--selector=app=steady")["items"]
    assert {pod["spec"]["nodeName"] for pod in pods} == {cluster.host(address) for address in cluster.workers}
    places = [*(pod["status"]["podIP"] for pod in pods), "steady", "steady.default.svc.cluster.local"]
    script = " && ".join(f"busybox timeout 5 wget -q -O /dev/null http://{place}/" for place in places)

    def reach_all() -> bool:
        return all(cluster.kubectl("exec", pod["metadata"]["name"], "--", "sh", "-c", script) == "" for pod in pods)

    # They are ready; that kube-proxy and the name servers learn of it takes no more than moments.
    until(reach_all)
    for machine in cluster.machines:
        for address in cluster.addresses:
            machine.run(f"curl -sf --max-time 60 -o /dev/null http://{address}:{PORT}/")


def test_run_leaves_cluster_manageable_by_kubeadm(cluster: Lab) -> None:
    for node in cluster.control_plane:
        checked = cluster.at(node).run("kubeadm certs check-expiration").stdout
        assert "front-proxy-client" in checked
        assert "invalid" not in checked
    planned = cluster.first.run(f"kubeadm upgrade plan {KUBERNETES}", timeout=HANG).stdout
    assert KUBERNETES in planned


def test_kubeadm_join_of_machine_unknown_to_slipway_succeeds(cluster: Lab) -> None:
    """Of a worker; test_kubeadm has control-plane nodes."""
    address = cluster.spares[1]
    plain, host = cluster.equip(address, cluster.control_plane[1]), cluster.host(address)
    cluster.kubeadm_join(address)
    runs_on(cluster.first, host, "plain", "slipway.dev/redis:7.0", "redis-server", "--version")
    cluster.kubectl("delete", "node", host)
    kubeadm_resets(plain)


# ---- while it changes -------------------------------------------------------------------------------------------------


def test_join_held_up_past_its_lease_stops_and_leaves_next_holder_alone(cluster: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_LEASE_SECONDS", "8")
    before, second = cluster.journals(), cluster.at(cluster.control_plane[1])
    with begun(cluster.join_words(cluster.spares[0])) as running, contextlib.ExitStack() as stack:
        reached(running, "- send the rootfs")
        running.send_signal(signal.SIGSTOP)

        def taken() -> bool:
            with contextlib.suppress(UsageError):
                stack.enter_context(lease.held(second, cluster.name))
                return True
            return False

        # This process is the next command; it knows the way to another control-plane node.
        until(taken)
        running.send_signal(signal.SIGCONT)
        code, said = ended(running)
        assert code == 6, said
        assert "has taken over the cluster while this command was held up" in said
        assert "Traceback" not in said
        spec = cluster.json("get", "lease", "slipway-lock", "--namespace=kube-system")["spec"]
        assert spec["holderIdentity"] == lease.holder()
    assert cluster.journals() == before
    spec = cluster.json("get", "lease", "slipway-lock", "--namespace=kube-system")["spec"]
    assert "holderIdentity" not in spec


@pytest.mark.long
def test_join_lost_machine_is_reported_and_joins_after_its_return(
    cluster: Lab, clients: dict[str, Client], somebody: dict[str, str]
) -> None:
    address = cluster.spares[0]
    since, before = now(clients), cluster.journals()
    with begun(cluster.join_words(address)) as running:
        reached(running, "- send the rootfs")
        running.send_signal(signal.SIGSTOP)
        via = ("--via", cluster.control_plane[1], *cluster.join_words(address)[2:])
        second = cluster.slipway("join", cluster.name, *via, check=False, env=somebody)
        assert second.returncode == 2, second.stderr
        assert f":{running.pid} is changing the cluster {cluster.name}" in second.stderr
        running.send_signal(signal.SIGCONT)
        reached(running, "- start the kubelets")
        cluster.cut(address)
        code, said = ended(running)
    assert code == 5, said
    assert LOST.search(said.replace(address, "it")), said
    assert cluster.journals() == before
    # Gone for longer, and back as after a loss of power.
    cluster.kill(address)
    said = cluster.slipway(*cluster.join_words(address), check=False).stderr
    assert LOST.search(said.replace(address, "it")), said
    cluster.reboot(address)
    cluster.slipway(*cluster.join_words(address), timeout=HANG)
    assert cluster.nodes()[cluster.host(address)]
    assert all(failed[1:] == (0, 0) for failed in failures(clients, since).values()), failures(clients, since)


def test_remove_worker_after_join_of_replacement_loses_no_request(cluster: Lab, clients: dict[str, Client], record_property: Any) -> None:
    going, new = cluster.workers[0], cluster.spares[0]
    if cluster.host(new) not in cluster.nodes():
        cluster.slipway(*cluster.join_words(new), timeout=HANG)
    clients[new] = Client(cluster.at(new), PORT)
    since = now(clients)
    clients[going].stop()
    cluster.slipway("remove", cluster.name, going, "--yes", timeout=HANG)
    clients.pop(going)
    cluster.workers.remove(going)
    cluster.workers.append(new)
    cluster.spares = [going, cluster.spares[1]]
    until(lambda: cluster.json("get", "deployment", "steady")["status"].get("readyReplicas") == 2)
    found = failures(clients, since)
    record_property("failed", str(found))
    assert all(failed[1:] == (0, 0) for failed in found.values()), found


@pytest.mark.long
def test_remove_lost_control_plane_node_and_join_another_restore_health(
    slipway: Slipway, cluster: Lab, clients: dict[str, Client], record_property: Any
) -> None:
    lost, new = cluster.control_plane[0], cluster.spares[0]
    since = now(clients)
    cluster.kill(lost)
    # Its loss is over for the clients when none of many requests on end fails any more.
    until(lambda: all(steady(client, since[address]) for address, client in clients.items()))
    calm = now(clients)
    # Through every worker the API answers, and an image comes that the worker never had.
    second = cluster.at(cluster.control_plane[1])
    cluster.control_plane.remove(lost)
    for number, address in enumerate(cluster.workers):
        image = f"registry.k8s.io/kube-scheduler:{KUBERNETES}"
        runs_on(second, cluster.host(address), f"pulls-{number}", image, "kube-scheduler", "--version")
    said = slipway("remove", cluster.name, lost, "--yes", "--output", "json", timeout=HANG)
    assert list(json.loads(said.stdout)["unreachable"]) == [lost]
    slipway(*cluster.join_words(new, role="control-plane"), timeout=HANG)
    cluster.control_plane.append(new)
    members = until(lambda: second.run(MEMBERS, check=False).stdout)
    assert members.count("started") == 3
    assert new in members
    until(lambda: cluster.status()["healthy"])
    for address in cluster.workers:
        assert f"{new}:6443" in cluster.at(address).run("cat /var/lib/slipway/balancer.cfg").stdout
    found = failures(clients, since)
    record_property("failed", str(found))
    assert all(failed[2] == 0 for failed in found.values()), found
    after = failures(clients, calm)
    assert all(failed[1:] == (0, 0) for failed in after.values()), after


def test_remove_below_etcd_quorum_is_refused_and_delete_skips_dead_node(slipway: Slipway, cluster: Lab) -> None:
    lost = cluster.control_plane[0]
    cluster.kill(lost)
    refused = slipway("remove", cluster.name, cluster.control_plane[1], "--yes", check=False)
    assert refused.returncode == 7, refused.stderr
    assert "quorum" in refused.stderr
    status = cluster.status()
    assert not status["healthy"]
    assert [one["address"] for one in status["unreachable"]] == [lost]
    deleted = json.loads(slipway("delete", cluster.name, "--yes", "--output", "json").stdout)
    assert sorted(deleted["cleaned"]) == sorted(cluster.host(address) for address in cluster.addresses if address != lost)
    assert list(deleted["unreachable"]) == [lost]

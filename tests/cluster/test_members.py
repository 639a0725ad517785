"""Nodes join and leave clusters that run: workers, masters, and masters that die."""

from __future__ import annotations

import functools
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.clusterstate import ClusterState
from harness.nodes import Login, Machine
from harness.nodes.kubectl import NodeKubectl
from harness.nodes.ssh import Ssh, SshNode
from tests.cluster.test_run import MEMBERS, RUN, Lab, found, kill_at, succeeded, until, web
from tests.conftest import Slipway

__all__ = ["web"]  # a fixture

GREETING = "Greeting=before and after"
RECORD = ("get", "configmap", "slipway-clusterfile", "--namespace=kube-system")
RENDERED = "cksum < /var/lib/slipway/rootfs/manifests/web.yaml"


@pytest.fixture(scope="module", autouse=True)
def swept_too(slipway: Slipway) -> None:
    """Removes the machines of runs of these tests that were killed."""
    for group in json.loads(slipway("nodes", "list", "--output", "json").stdout):
        owner = re.fullmatch(r"test-(?:join|masters)-(\d+)", group["name"])
        if owner and not Path("/proc", owner[1]).exists():
            slipway("nodes", "down", group["name"])


class Growing(Lab):
    """A lab of which one worker is kept out at first."""

    def __init__(self, slipway: Slipway) -> None:
        super().__init__(slipway, "test-join", 1, 2)
        self.later = self.workers.pop()

    @property
    def addresses(self) -> list[str]:
        return [*self.masters, *self.workers, *([self.later] if hasattr(self, "later") else [])]

    @property
    def newcomer(self) -> SshNode:
        return self.machines[2]

    def join(self, *more: str, check: bool = True) -> process.Result:
        return self.slipway(*self.join_words(*more), check=check, timeout=300)

    def join_words(self, *more: str) -> list[str]:
        return ["join", self.name, "--nodes", self.later, "--key", str(self.key), *more]

    def nodes(self) -> dict[str, bool]:
        return {node["name"]: node["ready"] for node in self.status()["nodes"]}


@pytest.fixture(scope="module")
def growing(slipway: Slipway, web: str) -> Iterator[Growing]:
    made = Growing(slipway)
    try:
        made.run(web, "-e", GREETING)
        yield made
    finally:
        made.down()


# ---- a worker ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def untouched(growing: Growing) -> str:
    """What the newcomer was like before it had anything to do with the cluster."""
    return found(growing.newcomer)


@pytest.fixture(scope="module")
def joined(growing: Growing, untouched: str) -> Growing:
    """The newcomer in the cluster, after its joining was killed once."""
    assert untouched
    assert json.loads(growing.join("--plan", "--output", "json").stdout)
    assert growing.newcomer.run("ls -A /var/lib/slipway", check=False).stdout == ""
    kill_at(growing.join_words(), "- start the kubelets")
    said = growing.join("--output", "json")
    assert json.loads(said.stdout)["nodes"] == [f"{growing.name}-node-2"]
    assert "+ send the rootfs (done before)" in said.stderr
    return growing


def test_a_worker_joins_and_runs_what_the_others_run(joined: Growing) -> None:
    assert joined.status()["healthy"]
    assert joined.nodes() == {f"{joined.name}-{name}": True for name in ("master-1", "node-1", "node-2")}
    placed = f"--overrides={json.dumps({'spec': {'nodeName': f'{joined.name}-node-2'}})}"
    joined.kubectl(*RUN, "there", "--image=slipway.dev/redis:7.0", placed, "--command", "--", "redis-server", "--version")
    until(functools.partial(succeeded, joined.first, "there"))
    joined.kubectl("delete", "pod", "there", "--wait=false")
    # The same files as on the others, with the values that were given when the cluster was made; and the same services.
    assert joined.newcomer.run(RENDERED).stdout == joined.first.run(RENDERED).stdout
    assert "before and after" in until(lambda: joined.newcomer.run("curl -s --max-time 5 http://127.0.0.1:30080/", check=False).stdout)


def test_everybody_knows_a_worker_that_has_joined(joined: Growing) -> None:
    record = joined.json(*RECORD)["data"]["Clusterfile"]
    assert joined.later in record
    assert [entry["address"] for entry in ClusterState.of(joined.name).read()["nodes"]] == [*joined.workers, joined.later]
    again = joined.join()
    assert f"{joined.later} belonged to {joined.name} before" in again.stdout


def test_a_member_does_not_change_sides_by_joining(joined: Growing) -> None:
    said = joined.slipway("join", joined.name, "--masters", joined.later, "--key", str(joined.key), check=False)
    assert said.returncode == 2
    assert "is a node of" in said.stderr


def test_a_budget_holds_up_the_removal_and_is_named(joined: Growing) -> None:
    # All of web's pods must stay, and one of them cannot be anywhere else.
    joined.kubectl("create", "poddisruptionbudget", "web", "--selector=app=web", "--min-available=2")
    name = f"{joined.name}-node-1"
    said = joined.slipway("remove", joined.name, joined.workers[0], "--yes", "--timeout", "4", check=False)
    joined.kubectl("delete", "poddisruptionbudget", "web")
    assert said.returncode == 7, said.stderr
    assert "PodDisruptionBudget web" in said.stderr
    assert "it stays cordoned" in said.stderr
    assert joined.nodes()[name]
    joined.kubectl("uncordon", name)


def test_the_last_master_is_not_removed(joined: Growing) -> None:
    said = joined.slipway("remove", joined.name, joined.masters[0], "--yes", check=False)
    assert said.returncode == 7
    assert "no master would be left" in said.stderr
    assert joined.slipway("remove", joined.name, "10.99.99.99", "--yes", check=False).returncode == 2


def test_a_worker_leaves_its_machine_as_it_was_and_may_come_back(joined: Growing, untouched: str) -> None:
    done = json.loads(joined.slipway("remove", joined.name, f"{joined.name}-node-2", "--yes", "--output", "json").stdout)
    assert done["cleaned"] == [f"{joined.name}-node-2"]
    assert found(joined.newcomer) == untouched
    assert f"{joined.name}-node-2" not in joined.nodes()
    assert joined.later not in joined.json(*RECORD)["data"]["Clusterfile"]
    assert joined.first.run("curl -s --max-time 10 http://127.0.0.1:30080/").stdout.strip() == "<h1>before and after</h1>"
    # Its pods are gone with it: nobody waits for them.
    until(lambda: joined.status()["healthy"], seconds=30)
    joined.join()
    assert joined.nodes()[f"{joined.name}-node-2"]


def test_a_worker_that_is_dead_is_removed_without_it(joined: Growing) -> None:
    process.run(["docker", "kill", f"slipway-{joined.name}-node-2"])
    done = json.loads(joined.slipway("remove", joined.name, joined.later, "--yes", "--output", "json").stdout)
    assert list(done["unreachable"]) == [joined.later]
    assert f"{joined.name}-node-2" not in joined.nodes()
    until(lambda: joined.status()["healthy"], seconds=60)


# ---- masters ----------------------------------------------------------------------------------------------------------

# Asks again and again what a user of the cluster would, through the worker's own balancer and through its services.
CLIENT = """while :; do
  api=$(curl -sk -m 3 -o /dev/null -w '%{http_code}' https://apiserver.cluster.local:6443/readyz)
  web=$(curl -s -m 3 -o /dev/null -w '%{http_code}' http://127.0.0.1:30080/)
  echo "$(date +%s.%N) $api $web"
  sleep 0.2
done > /run/client.log 2>&1
"""


class Client:
    """Counts, on a machine, the requests that fail."""

    def __init__(self, machine: SshNode) -> None:
        self.machine = machine
        machine.put(CLIENT.encode(), "/run/client.sh")
        machine.run("systemd-run --unit=client sh /run/client.sh 2>&1")

    def answers(self) -> list[tuple[float, bool, bool]]:
        """When, and whether the API and the application answered."""
        lines = (line.split() for line in self.machine.run("cat /run/client.log").stdout.splitlines())
        return [(float(words[0]), words[1] == "200", words[2] == "200") for words in lines if len(words) == 3]

    def failed(self, since: float) -> tuple[int, int]:
        later = [answer for answer in self.answers() if answer[0] >= since]
        assert later, "the client has asked nothing"
        return sum(not api for _, api, _ in later), sum(not app for _, _, app in later)

    def now(self) -> float:
        return float(self.machine.run("date +%s.%N").stdout)


def restarted(lab: Lab, name: str) -> str:
    """Start a machine again that was killed, with all that is on it; its address."""
    container = f"slipway-{name}"
    gateway = lab.worker.run("ip -4 route show default").stdout.split()[2]
    process.run(["docker", "start", container])
    process.run(["docker", "exec", container, "ip", "route", "replace", "default", "via", gateway])
    state: Any = json.loads(process.run(["docker", "inspect", container]).stdout)[0]
    address = str(state["NetworkSettings"]["Networks"][f"slipway-{lab.name}"]["IPAddress"])
    ssh = Ssh(ClusterState.of(f"{lab.name}-tests").folder, [Machine(address, Login(key=lab.key))])
    until(lambda: ssh.reachable()[0])
    return address


def test_the_first_master_dies_and_is_replaced_while_the_cluster_serves(slipway: Slipway, web: str) -> None:
    lab = Lab(slipway, "test-masters", 3, 1)
    try:
        lab.run(web)
        client = Client(lab.worker)
        second = NodeKubectl(lab.machines[1])
        before = client.now()
        process.run(["docker", "kill", f"slipway-{lab.name}-master-1"])
        # The balancer takes seconds to see it, then nothing fails any more.
        time.sleep(10)
        calm = client.now()
        said = slipway("remove", lab.name, lab.masters[0], "--yes", "--output", "json")
        assert list(json.loads(said.stdout)["unreachable"]) == [lab.masters[0]]
        assert client.failed(calm) == (0, 0), client.answers()
        status = lab.status()
        assert len([node for node in status["nodes"] if "master" in node["roles"]]) == 2
        assert status["unreachable"] == []
        placed = f"--overrides={json.dumps({'spec': {'nodeName': f'{lab.name}-node-1'}})}"
        second.run(*RUN, "pulls", "--image=slipway.dev/redis:7.0", placed, "--command", "--", "redis-server", "--version")
        until(functools.partial(succeeded, lab.machines[1], "pulls"), seconds=60)
        # The machine comes back with all that it held, takes itself for a master, and is made a new one.
        address = restarted(lab, f"{lab.name}-master-1")
        calm = client.now()
        slipway("join", lab.name, "--masters", address, "--key", str(lab.key), timeout=300)
        assert client.failed(calm) == (0, 0), client.answers()
        members = until(lambda: lab.machines[1].run(MEMBERS, check=False).stdout)
        assert members.count("started") == 3
        assert address in members
        until(lambda: lab.status()["healthy"], seconds=60)
        assert f"server {lab.name}-master-1 {address}:6443" in lab.worker.run("cat /var/lib/slipway/balancer.cfg").stdout
        # From here on any one of them may be lost again, and none more than that is taken out on purpose.
        process.run(["docker", "kill", f"slipway-{lab.name}-master-2"])
        refused = slipway("remove", lab.name, lab.masters[2], "--yes", check=False)
        assert refused.returncode == 7, refused.stderr
        assert "quorum" in refused.stderr
        down = [when for when, api, _ in client.answers() if not api and when >= before]
        assert all(when - before < 10 or when > calm for when in down)
    finally:
        lab.down()

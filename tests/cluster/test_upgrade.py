"""A cluster goes to the next minor version of Kubernetes, killed again and again on the way, and who uses it notices nothing.

The newer Kubernetes is another one: it is compiled from its own modules first. What has nothing to do with versions is in test_change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.lifecycle import staging, transition
from harness.runtimes.kubeadm import CONFIG
from tests.cluster import market
from tests.cluster.conftest import PROJECT
from tests.cluster.lab import MEMBERS, Client, Lab, kill_at, until
from tests.conftest import Slipway
from tests.waiting import HANG

OLD, NEW, LATER = "v1.36.3", "v1.37.2", "v1.37.3"
NODES = ("master-1", "master-2", "master-3", "node-1", "node-2")
REQUESTS = 10_000
MOMENTS = (
    "note that the upgrade begins",
    "keep a backup on the masters",
    "bring the new files",
    "change master NAME-master-1",
    "change master NAME-master-2",
    "change master NAME-master-3",
    "update the cluster's configuration",
    "change node NAME-node-1",
    "change node NAME-node-2",
    "launch: ",
)
"""The steps at whose beginning the command is killed, in order."""

# Asks the API by way of the machine's own balancer, each time on a new connection, so that nothing is tried twice unseen; and changes an
# object all the time, which a watch beside it must see change after change. A watch that the server ends goes on from where it was.
_READS = """cd /run/traffic
curl -s -K api --http1.1 --rate 25/s -H 'Connection: close' -m 60 -o /dev/null -w '%{http_code} %{errormsg}\\n' \
  'https://apiserver.cluster.local:6443/api/v1/namespaces/default/configmaps/traffic?[1-1000000]' > reads
"""
_WRITES = """cd /run/traffic
n=0
until [ -e stop ]; do
  n=$((n + 1))
  code=$(curl -s -K api -m 60 -o /dev/null -w '%{http_code} %{errormsg}' -X PATCH -H 'Content-Type: application/merge-patch+json' \
    -d '{"data":{"n":"'$n'"}}' https://apiserver.cluster.local:6443/api/v1/namespaces/default/configmaps/traffic)
  echo "$n $code" >> writes
  sleep 0.3
done
"""
_WATCH = """cd /run/traffic
touch watched
while :; do
  version=$(sed -n 's/.*"resourceVersion":"\\([0-9]*\\)".*/\\1/p' watched | tail -n 1)
  curl -sN -K api "https://apiserver.cluster.local:6443/api/v1/namespaces/default/configmaps?watch=1&fieldSelector=metadata.name=traffic&\
resourceVersion=${version:-$(cat begin)}" >> watched
  sleep 0.2
done
"""


@pytest.fixture(scope="module")
def images(slipway: Slipway, kubernetes: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Two versions of an application, each with a Kubernetes of its own."""
    newer = f"kubernetes:{NEW}"
    slipway("build", "-t", newer, "--build-arg", f"VERSION={NEW}", PROJECT / "kubefiles/kubernetes")
    for number, base in (("1", kubernetes), ("2", newer)):
        market.build(slipway, tmp_path_factory.mktemp("shop"), f"market:{number}", base)


@pytest.fixture(scope="module")
def lab(slipway: Slipway, images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    lab = Lab(slipway, "test-upgrade", 3, 2, spares=3)
    try:
        market.start(lab, "market:1", tmp_path_factory.mktemp("cluster"))
        yield lab
    finally:
        lab.down()


def words(lab: Lab, *more: str) -> list[str]:
    return market.upgrade(lab, "market:2", *more)


def versions(lab: Lab) -> dict[str, str]:
    return {market.short(lab, node["name"]): node["version"] for node in lab.status()["nodes"]}


def test_what_cannot_be_done_is_told_and_nothing_is_changed(lab: Lab) -> None:
    before = lab.journals()
    plan = json.loads(lab.slipway(*words(lab, "--plan", "--output", "json")).stdout)
    assert [(market.short(lab, node["node"]), node["from"], node["to"], node["turn"]) for node in plan["nodes"]] == [
        (name, OLD, NEW, turn) for turn, name in enumerate(NODES, 1)
    ]
    lab.kubectl("run", "alone", "--image=slipway.dev/nginx:1.22")
    until(lambda: lab.json("get", "pod", "alone")["spec"].get("nodeName"))
    alone = lab.slipway(*words(lab), check=False)
    lab.kubectl("delete", "pod", "alone", "--grace-period=0", "--force")
    assert (alone.returncode, "default/alone" in alone.stderr) == (7, True)
    assert lab.journals() == before


class Traffic:
    """What a worker asks of the API all the time, and what it was told."""

    def __init__(self, lab: Lab) -> None:
        self.machine = lab.worker
        lab.kubectl("create", "configmap", "traffic", "--from-literal=n=0")
        lab.kubectl("create", "serviceaccount", "traffic")
        lab.kubectl("create", "role", "traffic", "--verb=get,list,watch,patch", "--resource=configmaps")
        lab.kubectl("create", "rolebinding", "traffic", "--role=traffic", "--serviceaccount=default:traffic")
        token = lab.kubectl("create", "token", "traffic", "--duration=4h").strip()
        begin = lab.json("get", "configmap", "traffic")["metadata"]["resourceVersion"]
        files = {
            "api": f'cacert = "/etc/kubernetes/pki/ca.crt"\nheader = "Authorization: Bearer {token}"\n',
            "begin": begin,
            "reads.sh": _READS,
            "writes.sh": _WRITES,
            "watch.sh": _WATCH,
        }
        self.machine.run("mkdir -p -m 0700 /run/traffic")
        for name, text in files.items():
            self.machine.put(text.encode(), f"/run/traffic/{name}", 0o600)
        for name in ("watch", "reads", "writes"):
            self.machine.run(f"systemd-run --unit=traffic-{name} sh /run/traffic/{name}.sh 2>&1")

    def _lines(self, name: str) -> list[str]:
        return self.machine.run(f"cat /run/traffic/{name} 2> /dev/null", check=False).stdout.splitlines()

    def reads(self) -> list[str]:
        """What each read was answered: a status, and what curl says of a failure."""
        return self._lines("reads")

    def writes(self) -> dict[str, str]:
        """What each write was answered, by the number that it wrote."""
        return dict(line.split(" ", 1) for line in self._lines("writes"))

    def watched(self) -> list[str]:
        """The numbers that the watch has seen, in order; it sees the object that there was at first as well."""
        return [json.loads(line)["object"]["data"]["n"] for line in self._lines("watched") if line.endswith("}")]

    def stop(self) -> None:
        # Not in the middle of a write: nobody would know whether the server took it.
        self.machine.run("touch /run/traffic/stop")
        until(lambda: not self.machine.run("systemctl is-active traffic-writes", check=False).ok)
        self.machine.run("systemctl stop traffic-reads")
        last = list(self.writes())[-1]
        until(lambda: self.watched()[-1] == last)
        self.machine.run("systemctl stop traffic-watch")


def test_an_upgrade_killed_ten_times_is_finished_by_the_same_command_and_nobody_who_uses_the_cluster_notices(
    lab: Lab, record_property: Any
) -> None:
    client, traffic = Client(lab.worker, market.PORT), Traffic(lab)
    until(client.answers)
    until(traffic.reads)
    for moment in MOMENTS:
        kill_at(words(lab), f"- {moment.replace('NAME', lab.name)}")
    done = lab.slipway(*words(lab, "--output", "json"), timeout=2 * HANG)
    until(lambda: len(traffic.reads()) >= REQUESTS)
    traffic.stop()
    client.stop()
    assert f"+ change master {lab.name}-master-1 (done before)" in done.stderr
    assert json.loads(done.stdout)["resumed"]
    reads, writes, watched = traffic.reads(), traffic.writes(), traffic.watched()
    record_property("requests", f"{len(reads)} reads, {len(writes)} writes, {len(watched)} events; killed {len(MOMENTS)} times")
    assert [answer for answer in reads if answer.strip() != "200"] == []
    assert {number: answer for number, answer in writes.items() if answer.strip() != "200"} == {}
    assert [number for number in watched if number != "0"] == list(writes)
    answers = client.answers()
    assert [answer for answer in answers if not answer.app] == []
    assert len(answers) > 100
    assert versions(lab) == dict.fromkeys(NODES, NEW)
    found = until(lambda: (now := lab.status())["healthy"] and now)
    assert (found["kubernetes"], found["image"]) == (NEW, "market:2")
    assert all(node["schedulable"] for node in found["nodes"])


def test_what_was_asked_for_is_kept(lab: Lab) -> None:
    market.was_kept(lab, "market:2")


def test_it_is_still_an_ordinary_kubeadm_cluster(lab: Lab) -> None:
    plan = lab.first.run(f"kubeadm upgrade plan {LATER}", timeout=HANG).stdout
    assert re.search(rf"Cluster version: v?{re.escape(NEW[1:])}", plan), plan
    assert "kubelet" in plan
    assert "invalid" not in lab.first.run(f"kubeadm certs check-expiration --config {CONFIG}").stdout
    images = {
        container["image"]
        for pod in lab.json("get", "pods", "--namespace=kube-system")["items"]
        for container in pod["spec"]["containers"]
        if "/kube-" in container["image"]
    }
    assert {image.rpartition(":")[2] for image in images} == {NEW}
    for machine in (lab.machines[1], lab.worker):
        said = machine.run("kubeadm upgrade node --certificate-renewal=false", timeout=HANG).output
        assert "kubelet configuration for this node was successfully upgraded" in said
    until(lambda: lab.status()["healthy"])


def test_what_was_before_is_on_the_machines(lab: Lab) -> None:
    assert lab.first.run(f"stat -c %a {transition.BACKUP}").stdout.strip() == "600"
    for machine in lab.machines:
        assert OLD in machine.run(f"{staging.FORMER}/bin/kubelet --version").stdout


def test_a_way_back_on_which_etcd_could_not_read_its_data_is_refused(lab: Lab) -> None:
    before = lab.journals()
    said = lab.slipway(*market.rollback(lab), check=False)
    assert said.returncode == 7, said.output
    assert "etcd 3.7 has changed its data, which etcd 3.6 of market:1 cannot read" in said.stderr
    assert transition.BACKUP in said.stderr
    assert lab.journals() == before
    assert versions(lab) == dict.fromkeys(NODES, NEW)


def test_no_object_is_missing_after_all_masters_were_lost_for_good_and_others_took_their_place(lab: Lab, tmp_path: Path) -> None:
    file, word = tmp_path / "cluster.backup", {"BACKUP_PASSWORD": "correct horse"}
    lab.slipway("backup", lab.name, "-f", file, "--password-env", "BACKUP_PASSWORD", env=word)
    before = lab.objects()
    assert any("ConfigMap default/traffic" in one for one in before)
    for address in lab.masters:
        lab.kill(address)
    deleted = json.loads(lab.slipway("delete", lab.name, "--yes", "--output", "json", timeout=HANG).stdout)
    assert sorted(deleted["unreachable"]) == sorted(lab.masters)
    lab.masters, lab.spares = lab.spares, []
    machines = ("--masters", ",".join(lab.masters), "--nodes", ",".join(lab.workers), "--key", lab.key)
    lab.slipway("restore", "-f", file, "--yes", "--password-env", "BACKUP_PASSWORD", *machines, env=word, timeout=2 * HANG)
    # What is written anew: which machines the cluster has.
    assert lab.objects() >= {one for one in before if not one.startswith("ConfigMap kube-system/slipway-clusterfile")}
    found = until(lambda: (now := lab.status())["healthy"] and now)
    assert (found["kubernetes"], len(found["nodes"])) == (NEW, 5)
    until(lambda: market.page(lab) == "kept from version 2")
    until(lambda: lab.first.run(MEMBERS, check=False).stdout.count("started") == 3)

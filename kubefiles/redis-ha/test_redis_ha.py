"""Redis with Sentinels on three machines: what was acknowledged is there after crashes, power loss and replacement of pods."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import json
import random
import time

import pytest

from harness.errors import CommandError

pytestmark = pytest.mark.topology(control_plane=1, workers=3)

HERE = ("--namespace", "redis")
CRICTL = "/var/lib/slipway/rootfs/bin/crictl --runtime-endpoint unix:///run/containerd/containerd.sock"
REDIS = ("redis-0", "redis-1", "redis-2")
SENTINELS = ("redis-sentinel-0", "redis-sentinel-1", "redis-sentinel-2")
SPECIAL = " a\"b'$x`id` \\ #%é{{ Storage }}<&>!* "
"""A password with what shells, YAML and Redis's files treat specially, spaces at both ends."""

CLIENT = r"""
. /scripts/common.sh
while :; do
  count=$((count + 1))
  secret=$(cat /secret/password; echo x)
  export REDISCLI_AUTH=${secret%x}
  at=$(timeout 3 redis-cli -h redis-sentinel -p 26379 SENTINEL get-master-addr-by-name primary 2>&1 | head -n 1)
  answer=$(printf 'SET key:%s %s\nWAIT 1 1000\n' $count $count | timeout 3 redis-cli -h "$at" 2>&1 | tr '\r\n' '  ')
  case $answer in 'OK 1 ' | 'OK 2 ') echo $count >> /run/client/acknowledged ;; esac
  sleep 0.05
done
"""
"""Asks a Sentinel for the primary before each write. A write counts when a replica has it as well."""

READ = r"""
. /scripts/common.sh
secret=$(cat /secret/password; echo x)
export REDISCLI_AUTH=${secret%x}
cat /run/client/acknowledged > /run/client/wanted
cat /run/client/wanted
echo found:
sed 's/.*/GET key:&/' /run/client/wanted | redis-cli -h "$(primary)" 2>&1
"""


def until(holds, what):
    """Wait for a condition. The limit is only for what hangs, on however busy a machine."""
    deadline = time.monotonic() + 600
    while not holds():
        assert time.monotonic() < deadline, f"it hangs: {what}"
        time.sleep(0.2)


class RedisCluster:
    """The Redis of a cluster, and a client that writes to it all the time from the control-plane node."""

    def __init__(self, cluster):
        self.cluster, self.kubectl = cluster, cluster.kubectl
        services = self.kubectl.json("get", "services", *HERE)["items"]
        self.names = {one["spec"]["clusterIP"]: one["metadata"]["name"] for one in services}

    def start_client(self):
        container = self.kubectl.json("get", "statefulset", "redis", *HERE)["spec"]["template"]["spec"]["containers"][0]
        mounts = {"client": "/run/client", "scripts": "/scripts", "password": "/secret"}
        pod = {
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "client-0", **_in_namespace},
            "spec": {
                # Not a machine that loses power.
                "nodeName": self.cluster.machines[0].name,
                "terminationGracePeriodSeconds": 0,
                "securityContext": {"runAsNonRoot": True, "runAsUser": 999, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [{
                    "name": "client", "image": container["image"], "command": ["sh", "-c", CLIENT],
                    "securityContext": container["securityContext"],
                    "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
                }],
                "volumes": [
                    {"name": "client", "emptyDir": {}},
                    {"name": "scripts", "configMap": {"name": "redis-scripts"}},
                    {"name": "password", "secret": {"secretName": "redis-password"}},
                ],
            },
        }  # fmt: skip
        self.kubectl("apply", "--filename", "-", input=json.dumps(pod))
        self.kubectl.wait(*HERE, "--for=condition=Ready", "pod/client-0")

    def in_client(self, script):
        return self.kubectl("exec", *HERE, "client-0", "--", "sh", "-c", script).strip()

    def ask(self, pod, *words, port=6379):
        script = '. /scripts/common.sh; ask 127.0.0.1 "$@"'
        return self.kubectl("exec", *HERE, pod, "--", "sh", "-c", script, "ask", str(port), *words).strip()

    def primary(self):
        """The pod of the primary by the answers of two Sentinels; nothing while they do not agree."""
        return self.names.get(self.in_client(". /scripts/common.sh; primary || true"), "")

    def acknowledged(self):
        return int(self.in_client("cat /run/client/acknowledged 2>/dev/null | grep -c . || true"))

    def goes_on(self):
        """Wait until the client has written more."""
        before = self.acknowledged()
        until(lambda: self.acknowledged() >= before + 10, "the client writes")

    def all_there(self):
        """Every write that was acknowledged so far is there."""
        wanted, found = self.in_client(READ).split("found:")
        return bool(wanted.split()) and wanted.split() == found.split()

    def in_step(self):
        """Wait until every pod is ready and both replicas follow the primary."""
        until(self._is_in_step, "three of Redis and three Sentinels are in step")

    def _is_in_step(self):
        pods = self.kubectl.json("get", "pods", *HERE)["items"]
        ready = {
            pod["metadata"]["name"]
            for pod in pods
            for condition in pod["status"].get("conditions", ())
            if condition["type"] == "Ready" and condition["status"] == "True" and "deletionTimestamp" not in pod["metadata"]
        }
        primary = self.primary() if {*REDIS, *SENTINELS, "client-0"} <= ready else ""
        try:
            return bool(primary) and "min_slaves_good_slaves:2" in self.ask(primary, "INFO", "replication")
        except CommandError:  # it has just ended
            return False

    def node_of(self, pod):
        return self.kubectl.json("get", "pod", pod, *HERE)["spec"]["nodeName"]

    def host_of(self, pod):
        where = self.node_of(pod)
        (host,) = [host for host, machine in zip(self.cluster.hosts, self.cluster.machines, strict=True) if machine.name == where]
        return host

    def crash(self, pod):
        """End the process of a pod without any notice."""
        host = self.host_of(pod)
        container = host.check_output(f"{CRICTL} ps --quiet --label io.kubernetes.pod.name={pod}").split()[0]
        process = host.check_output(f"{CRICTL} inspect --output go-template --template '{{{{.info.pid}}}}' {container}")
        host.check_output(f"kill -9 {process}")


_in_namespace = {"namespace": "redis"}


@pytest.fixture
def redis(cluster):
    """Redis in step before a test, with a client that writes."""
    one = RedisCluster(cluster)
    if "client-0" not in cluster.kubectl("get", "pods", *HERE, "--output=name"):
        one.start_client()
    one.in_step()
    return one


@contextlib.contextmanager
def cordoned(kubectl, node):
    """Pods that are replaced wait as long as the block runs: their claims are on this node."""
    kubectl("cordon", node)
    try:
        yield
    finally:
        kubectl("uncordon", node)


def test_redis_pods_run_on_three_machines(kubectl):
    for component in ("redis", "sentinel"):
        pods = kubectl.json("get", "pods", *HERE, "--selector", f"app.kubernetes.io/component={component}")["items"]
        assert len({pod["spec"]["nodeName"] for pod in pods}) == len(pods) == 3


def test_redis_process_is_ordinary_user_on_read_only_root(kubectl):
    for pod in (*REDIS, *SENTINELS):
        script = "grep ^Uid: /proc/1/status; grep ^CapEff: /proc/1/status; touch /there 2>&1 || true"
        uid, capabilities, refusal = kubectl("exec", *HERE, pod, "--", "sh", "-c", script).splitlines()
        assert set(uid.split()[1:]) == {"999"}
        assert int(capabilities.split()[1], 16) == 0
        assert "Read-only file system" in refusal


def test_redis_objects_have_labels_of_kubernetes(kubectl):
    kinds = "statefulsets,services,poddisruptionbudgets,networkpolicies,persistentvolumeclaims"
    objects = kubectl.json("get", kinds, *HERE)["items"]
    wanted = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "app.kubernetes.io/part-of"}
    assert len(objects) == 2 + 8 + 2 + 2 + 6
    assert [one["metadata"]["name"] for one in objects if not wanted <= {*one["metadata"].get("labels", ())}] == []


def test_generated_password_is_needed_and_is_in_no_argument_and_no_log(redis, kubectl, nodes):
    password = kubectl("get", "secret", "redis-password", *HERE, "--output=go-template={{.data.password | base64decode}}")
    assert len(password) == 48
    for service, port in (("redis", "6379"), ("redis-sentinel", "26379")):
        assert "NOAUTH" in redis.in_client(f"redis-cli -h {service} -p {port} INFO 2>&1 || true")
    assert "PONG" in redis.ask("redis-0", "PING")
    assert [pod for pod in (*REDIS, *SENTINELS) if password in kubectl("logs", *HERE, pod)] == []
    assert [node for node in nodes if password in node.check_output("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")] == []


def test_deleted_pod_of_primary_hands_over_before_it_ends(redis, kubectl):
    former = redis.primary()
    kubectl("delete", "pod", former, *HERE)
    assert redis.primary() not in ("", former)
    redis.goes_on()
    redis.in_step()
    assert redis.all_there()


def test_killed_primary_that_stays_away_is_replaced_and_client_goes_on(redis, kubectl):
    former = redis.primary()
    with cordoned(kubectl, redis.node_of(former)):
        kubectl("delete", "pod", former, *HERE, "--grace-period=1")
        until(lambda: redis.primary() not in ("", former), "another one is the primary")
        redis.goes_on()
        # With one away, a drain may not take a second one.
        other = next(pod for pod in REDIS if pod not in (former, redis.primary()))
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": other, **_in_namespace}}
        with pytest.raises(CommandError, match="disruption budget"):
            kubectl("create", "--raw", f"/api/v1/namespaces/redis/pods/{other}/eviction", "--filename", "-", input=json.dumps(eviction))
    redis.in_step()
    assert redis.all_there()


def test_primary_is_replaced_while_its_machine_has_no_power(redis, cluster):
    former = redis.primary()
    host = redis.host_of(former)
    # The machine comes back at once; its pods do not, until the kubelet is started.
    host.check_output("systemctl disable kubelet 2>&1")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        restarted = pool.submit(cluster.reboot, host)
        try:
            until(lambda: redis.primary() not in ("", former), "another one is the primary")
            redis.goes_on()
        finally:
            until(lambda: _started(host), "the machine answers")
        restarted.result()
    redis.in_step()
    assert redis.all_there()


def _started(host):
    try:
        return host.run("systemctl enable --now kubelet").rc == 0
    except RuntimeError:  # no connection yet
        return False


def test_addresses_of_redis_stay_when_pods_get_others(redis, kubectl):
    def addresses():
        return {pod: kubectl.json("get", "pod", pod, *HERE)["status"]["podIP"] for pod in REDIS}

    before, services = addresses(), dict(redis.names)
    for pod in REDIS:
        kubectl("delete", "pod", pod, *HERE)
        redis.in_step()
    assert not {*before.values()} & {*addresses().values()}
    assert RedisCluster(redis.cluster).names == services
    known = redis.ask("redis-sentinel-0", "SENTINEL", "REPLICAS", "primary", port=26379).splitlines()
    followers = {known[index + 1] for index, word in enumerate(known) if word == "ip"}
    assert {services[address] for address in followers} == {*REDIS} - {redis.primary()}
    assert redis.all_there()


def test_primary_that_lost_its_data_does_not_empty_the_replicas(redis):
    former = redis.primary()
    host = redis.host_of(former)
    (folder,) = host.check_output(f"ls -d /opt/local-path-provisioner/*_redis_data-{former}").split()
    host.check_output(f"rm -r {folder}/appendonlydir")
    redis.crash(former)
    until(lambda: redis.primary() not in ("", former), "one with data is the primary")
    redis.in_step()
    assert redis.all_there()


def test_all_acknowledged_writes_are_there_after_ten_seeded_kills(redis, kubectl):
    choose = random.Random(20)  # noqa: S311 - the same kills each time
    for number in range(10):
        pod = choose.choice([redis.primary(), redis.primary(), *REDIS, *SENTINELS])
        how = choose.choice(["crash", "delete", "delete at once"])
        print(f"{number}: {how} {pod}")
        if how == "crash":
            redis.crash(pod)
        else:
            kubectl("delete", "pod", pod, *HERE, *(["--grace-period=1"] if how == "delete at once" else []))
        redis.goes_on()
        # What is promised holds for one at a time.
        redis.in_step()
        assert redis.all_there(), f"after {number}: {how} {pod}"


def test_all_acknowledged_writes_are_there_after_restart_of_everything(redis, kubectl):
    for pod in (*REDIS, *SENTINELS):
        redis.crash(pod)
    redis.goes_on()
    redis.in_step()
    assert redis.all_there()
    kubectl("delete", "pods", *HERE, *REDIS, *SENTINELS, "--grace-period=1")
    redis.goes_on()
    redis.in_step()
    assert redis.all_there()


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")


@pytest.mark.topology(control_plane=1, workers=0)
@pytest.mark.values(RedisPassword=SPECIAL)
class TestGivenPassword:
    """Of one machine: everything is on it."""

    def test_given_password_is_that_of_redis_and_sentinels(self, redis, kubectl):
        stored = kubectl.json("get", "secret", "redis-password", *HERE)
        assert base64.b64decode(stored["data"]["password"]).decode() == SPECIAL
        assert "last-applied" not in json.dumps(stored["metadata"].get("annotations", {}))
        assert redis.ask("redis-0", "PING") == "PONG"
        assert redis.ask("redis-sentinel-0", "PING", port=26379) == "PONG"
        redis.goes_on()

    def test_given_password_is_read_again_after_restart_of_everything(self, redis, kubectl):
        kubectl("delete", "pods", *HERE, *REDIS, *SENTINELS)
        redis.goes_on()
        redis.in_step()
        assert redis.all_there()

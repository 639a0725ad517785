"""Three members of PostgreSQL with Patroni: what was acknowledged is there, whichever members are killed, stopped or lose power."""

from __future__ import annotations

import base64
import concurrent.futures
import json
import random
import shlex
import time

import pytest

from harness.errors import CommandError

pytestmark = pytest.mark.topology(control_plane=1, workers=3)

HERE = ("--namespace", "postgres")
MEMBERS = (0, 1, 2)
SEED = 1517
KILLS = 10
CRICTL = "/var/lib/slipway/rootfs/bin/crictl --runtime-endpoint unix:///run/containerd/containerd.sock"
SERVER = "kill -9 $(head -n 1 /var/lib/postgresql/data/postmaster.pid)"
STREAMING = """\
SELECT pg_is_in_recovery(), count(*) FILTER (WHERE state = 'streaming'), count(*) FILTER (WHERE sync_state = 'sync')
FROM pg_stat_replication"""
IDLE = "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"
CONFIRMED = "failsafe mode is enabled and all members are accessible"
SPECIAL = "p'a\"s\\s w`o$r%d;#&|<>*?[]{}()~!^-/_=+,.:@\u00e9\u20ac--{{ Storage }}"
WRITERS = "of the test"
LONG = 900
"""Seconds after which what is waited for hangs."""

# Writes one row after another through PgBouncer, each by a new connection, and notes those that were acknowledged. A row without an answer
# may be there or not: it is written again. That changes the row, since only a change waits for a replica.
WRITER = """\
trap 'exit 0' TERM
number=0
while :; do
  number=$((number + 1))
  statement="INSERT INTO numbers VALUES ($number) ON CONFLICT (number) DO UPDATE SET tries = numbers.tries + 1"
  until timeout 20 psql -Xqc "$statement" 2> /dev/null; do sleep 0.2; done
  echo "$number"
done
"""


def until(condition, what):
    """Wait for a condition; what it gives."""
    deadline = time.monotonic() + LONG
    while not (result := condition()):
        assert time.monotonic() < deadline, f"it hangs: {what}"
        time.sleep(0.5)
    return result


def without_error(ask):
    """The result of a function; an empty text while its server does not answer."""
    try:
        return ask()
    except CommandError:
        return ""


class Postgres:
    """The members of a cluster."""

    def __init__(self, cluster):
        self.cluster, self.kubectl = cluster, cluster.kubectl
        self.image = self.kubectl("get", "statefulset", "postgres", *HERE, "--output=jsonpath={.spec.template.spec.containers[0].image}")

    def sql(self, member, statement, database="postgres"):
        """Ask a member on its own machine."""
        words = ("psql", "--no-psqlrc", "-Atq", f"--dbname={database}", f"--command={statement}")
        return self.kubectl("exec", *HERE, f"postgres-{member}", "--", *words).strip()

    def annotations(self, name):
        return self.kubectl.json("get", "endpoints", name, *HERE)["metadata"].get("annotations", {})

    def leader(self):
        """The number of the member that has the lease."""
        return int(self.annotations("postgres")["leader"].removeprefix("postgres-"))

    def in_step(self):
        """Wait until all members serve, both replicas follow, and one of them must have what is acknowledged."""
        self.kubectl("rollout", "status", "statefulset/postgres", *HERE, f"--timeout={LONG}s")
        until(self._is_in_step, "both replicas follow the leader")

    def _is_in_step(self):
        leader, sync = self.leader(), self.annotations("postgres-sync")
        if sync.get("leader") != f"postgres-{leader}" or not sync.get("sync_standby"):
            return False
        return without_error(lambda: self.sql(leader, STREAMING)) == "f|2|1"

    def host_of(self, member):
        where = self.kubectl.json("get", "pod", f"postgres-{member}", *HERE)["spec"]["nodeName"]
        (host,) = [host for host, machine in zip(self.cluster.hosts, self.cluster.machines, strict=True) if machine.name == where]
        return host

    def container(self, member):
        """The host and the id of the container of a member."""
        host = self.host_of(member)
        return host, host.check_output(f"{CRICTL} ps --quiet --label io.kubernetes.pod.name=postgres-{member}").split()[0]

    def kill(self, member, way):
        """End a member without notice; the function that waits until its server was started again.

        ``server``: PostgreSQL; ``container``: everything in it; ``pod``: it is deleted, and has a second; ``forced``: its name is free at
        once, while its processes may still run.
        """
        pod = f"postgres-{member}"
        before = self.started(member)
        if way == "server":
            self.kubectl("exec", *HERE, pod, "--", "bash", "-c", SERVER)
        elif way == "container":
            host, container = self.container(member)
            process = host.check_output(f"{CRICTL} inspect --output go-template --template '{{{{.info.pid}}}}' {container}")
            host.check_output(f"kill -9 {process}")
        elif way == "pod":
            self.kubectl("delete", "pod", pod, *HERE, "--grace-period=1", "--wait=false")
        else:
            self.kubectl("delete", "pod", pod, *HERE, "--grace-period=0", "--force", "--wait=false")
        return lambda: until(lambda: without_error(lambda: self.started(member)) not in ("", before), f"{pod} is started again")

    def started(self, member):
        return self.sql(member, "SELECT pg_postmaster_start_time()")


@pytest.fixture
def postgres(cluster):
    members = Postgres(cluster)
    members.in_step()
    return members


def pod_of_client(postgres, name, script, **environment):
    """A pod that connects to PgBouncer: not on a machine that tests restart, where what it has noted would be gone."""
    values = {"PGHOST": "pgbouncer", "PGCONNECT_TIMEOUT": "3", **environment}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "postgres"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
            "tolerations": [{"operator": "Exists"}],
            "securityContext": {"runAsNonRoot": True, "runAsUser": 101, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": name,
                "image": postgres.image,
                "command": ["bash", "-c", script],
                "env": [{"name": key, "value": value} for key, value in values.items()],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }  # fmt: skip


@pytest.fixture
def client(postgres, kubectl):
    """A pod for clients; ``client("psql", ..., PGUSER=...)`` runs a program in it, and gives what it prints, errors as well."""
    kubectl("apply", "--filename=-", input=json.dumps(pod_of_client(postgres, "client", IDLE)))
    kubectl.wait(*HERE, "--for=condition=Ready", "pod/client", timeout=LONG)

    def run(*words, **environment):
        settings = [f"{key}={value}" for key, value in environment.items()]
        return kubectl("exec", *HERE, "client", "--", "env", *settings, "bash", "-c", f"{shlex.join(words)} 2>&1 || true").strip()

    yield run
    kubectl("delete", "pod", "client", *HERE)


@pytest.fixture
def writer(postgres, kubectl):
    """A client that writes rows for as long as the test runs; ``writer()`` gives the numbers that were acknowledged so far."""
    leader = postgres.leader()
    for statement in (
        "DROP DATABASE IF EXISTS written WITH (FORCE)",
        "DROP ROLE IF EXISTS writer",
        f"CREATE ROLE writer LOGIN PASSWORD '{WRITERS}'",
        "CREATE DATABASE written OWNER writer",
    ):
        postgres.sql(leader, statement)
    postgres.sql(leader, "SET ROLE writer; CREATE TABLE numbers (number bigint PRIMARY KEY, tries int DEFAULT 1)", "written")
    pod = pod_of_client(postgres, "writer", WRITER, PGUSER="writer", PGDATABASE="written", PGPASSWORD=WRITERS)
    kubectl("apply", "--filename=-", input=json.dumps(pod))
    kubectl.wait(*HERE, "--for=condition=Ready", "pod/writer", timeout=LONG)

    def acknowledged():
        return [int(line) for line in kubectl("logs", "writer", *HERE).split()]

    until(acknowledged, "the first row")
    yield acknowledged
    kubectl("delete", "pod", "writer", *HERE, "--ignore-not-found")


def more_rows(writer):
    """Wait for three more rows; the seconds until the first of them."""
    before, began = len(writer()), time.monotonic()
    until(lambda: len(writer()) > before, "a row is written")
    first = time.monotonic() - began
    until(lambda: len(writer()) > before + 2, "rows are written")
    return first


def require_rows(postgres, acknowledged):
    """End the writer, and find all that was acknowledged on every member."""
    postgres.kubectl("delete", "pod", "writer", *HERE)
    leader = postgres.leader()
    written = postgres.sql(leader, "SELECT pg_current_wal_lsn()")
    for member in MEMBERS:
        query = f"SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() >= '{written}' ELSE true END"
        until(lambda member=member, query=query: postgres.sql(member, query) == "t", f"postgres-{member} has all that the leader has")
        rows = {int(row) for row in postgres.sql(member, "SELECT number FROM numbers", "written").split()}
        assert {*acknowledged} - rows == set(), f"postgres-{member} lacks rows"
    assert acknowledged == list(range(1, len(acknowledged) + 1))


def test_members_run_on_different_nodes(postgres, kubectl):
    pods = kubectl.json("get", "pods", *HERE, "--selector=app.kubernetes.io/component=member")["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == len(MEMBERS)
    assert [pod["metadata"]["name"] for pod in pods if pod["metadata"]["labels"]["role"] == "primary"] == [f"postgres-{postgres.leader()}"]


def test_containers_run_without_root_on_a_read_only_file_system(kubectl):
    for pod in kubectl.json("get", "pods", *HERE)["items"]:
        for container in pod["spec"]["containers"]:
            name, context = f"{pod['metadata']['name']}/{container['name']}", container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
        assert pod["spec"]["securityContext"]["runAsNonRoot"], pod["metadata"]["name"]
    script = "id -u; touch /there 2>&1 || true"
    uid, refusal = kubectl("exec", *HERE, "postgres-0", "--", "bash", "-c", script).splitlines()
    assert uid == "101"
    assert "Read-only file system" in refusal


def test_row_written_on_leader_is_read_on_replicas(postgres):
    leader = postgres.leader()
    postgres.sql(leader, "DROP TABLE IF EXISTS shared; CREATE TABLE shared AS SELECT generate_series(1, 100) AS number")
    for member in MEMBERS:
        until(lambda member=member: _sum(postgres, member) == "5050", f"postgres-{member} has the rows")
    replica = next(member for member in MEMBERS if member != leader)
    with pytest.raises(CommandError, match="read-only transaction"):
        postgres.sql(replica, "INSERT INTO shared VALUES (0)")


def _sum(postgres, member):
    return without_error(lambda: postgres.sql(member, "SELECT sum(number) FROM shared"))


def test_pgbouncer_admits_account_with_its_password_to_leader_and_superuser_not(postgres, kubectl, client):
    password = kubectl("get", "secret", "postgres", *HERE, "--output=go-template={{.data.superuser | base64decode}}")
    assert len(password) == 48
    postgres.sql(postgres.leader(), "CREATE ROLE shop LOGIN PASSWORD 'of the shop'")
    ask = ("psql", "-XAtqc", "SELECT current_user, pg_is_in_recovery()")
    assert client(*ask, PGUSER="shop", PGDATABASE="postgres", PGPASSWORD="of the shop") == "shop|f"
    assert "authentication failed" in client(*ask, PGUSER="shop", PGDATABASE="postgres", PGPASSWORD="another")
    assert "no such user" in client(*ask, PGUSER="postgres", PGDATABASE="postgres", PGPASSWORD=password)
    # The Service of the leader itself takes superusers.
    assert client(*ask, PGHOST="postgres", PGUSER="postgres", PGDATABASE="postgres", PGPASSWORD=password) == "postgres|f"
    assert client(*ask, PGHOST="postgres-replica", PGUSER="shop", PGDATABASE="postgres", PGPASSWORD="of the shop") == "shop|t"


@pytest.mark.usefixtures("postgres")
def test_passwords_are_in_no_argument_and_no_log(kubectl, nodes):
    stored = kubectl.json("get", "secret", "postgres", *HERE)["data"]
    secrets = [base64.b64decode(value).decode() for name, value in stored.items() if name != "userlist.txt"]
    logs = "".join(kubectl("logs", *HERE, f"postgres-{member}") for member in MEMBERS)
    assert [secret for secret in secrets if secret in logs] == []
    for node in nodes:
        arguments = node.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '")
        assert [secret for secret in secrets if secret in arguments] == []


def test_deleted_leader_hands_over_before_it_ends(postgres, kubectl, writer):
    former = postgres.leader()
    kubectl("delete", "pod", f"postgres-{former}", *HERE, "--wait=false")
    began = time.monotonic()
    until(lambda: postgres.leader() != former, "another one leads")
    print(f"postgres-{postgres.leader()} leads {time.monotonic() - began:.1f} s after postgres-{former} was deleted")
    more_rows(writer)
    postgres.in_step()
    require_rows(postgres, writer())


def test_new_leader_is_elected_while_machine_of_leader_has_no_power(postgres, writer):
    former = postgres.leader()
    host = postgres.host_of(former)
    # The machine comes back at once; its pods do not, until the kubelet is started.
    host.check_output("systemctl disable kubelet 2>&1")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        restarted = pool.submit(postgres.cluster.reboot, host)
        try:
            until(lambda: postgres.leader() != former, "another one leads")
            print(f"postgres-{postgres.leader()} leads {time.monotonic() - began:.1f} s after the machine of postgres-{former} lost power")
            more_rows(writer)
            print(f"rows are written {time.monotonic() - began:.1f} s after it lost power")
        finally:
            until(lambda: _started(host), "the machine answers")
        restarted.result()
    postgres.in_step()
    require_rows(postgres, writer())


def _started(host):
    try:
        return host.run("systemctl enable --now kubelet").rc == 0
    except RuntimeError:  # no connection yet
        return False


def test_no_acknowledged_row_is_lost_in_ten_kills(postgres, writer):
    chance = random.Random(SEED)  # noqa: S311 - the same order each time
    for number in range(KILLS):
        leader = postgres.leader()
        member = chance.choice((leader, leader, *MEMBERS))
        way = chance.choice(("server", "container", "pod", "forced"))
        began = time.monotonic()
        wait_for_start = postgres.kill(member, way)
        written = more_rows(writer)
        wait_for_start()
        postgres.in_step()
        whole = time.monotonic() - began
        role = "leader" if member == leader else "replica"
        print(f"kill {number + 1}: {way} of {role} postgres-{member}, a row after {written:.1f} s, all in step after {whole:.1f} s")
        print(f"        postgres-{postgres.leader()} leads")
    require_rows(postgres, writer())


def test_all_acknowledged_rows_are_there_when_all_members_are_killed_at_once(postgres, writer):
    for wait_for_start in [postgres.kill(member, "container") for member in MEMBERS]:
        wait_for_start()
    more_rows(writer)
    postgres.in_step()
    require_rows(postgres, writer())


def test_leader_leads_while_api_server_does_not_answer(cluster, postgres, writer):
    host, leader = cluster.control_plane[0], postgres.leader()
    node, container = postgres.container(leader)
    client = host.check_output(f"{CRICTL} ps --quiet --label io.kubernetes.pod.name=writer").split()[0]

    def confirmed():
        return int(node.check_output(f"{CRICTL} logs {container} 2>&1 | grep -c '{CONFIRMED}' || true"))

    def rows():
        return int(host.check_output(f"{CRICTL} logs {client} | wc -l"))

    before = confirmed()
    host.check_output("mv /etc/kubernetes/manifests/kube-apiserver.yaml /etc/kubernetes/")
    try:
        # Each of these is a round of Patroni; its lease is for three of them.
        until(lambda: confirmed() >= before + 5, "members confirm the leader without the API server")
        written = rows()
        until(lambda: rows() > written, "rows are written")
    finally:
        host.check_output("mv /etc/kubernetes/kube-apiserver.yaml /etc/kubernetes/manifests/")
    until(lambda: without_error(lambda: postgres.kubectl("get", "--raw", "/readyz")), "the API server answers")
    postgres.in_step()
    assert postgres.leader() == leader
    require_rows(postgres, writer())


def test_data_survives_stop_of_all_members(postgres, kubectl, writer):
    kubectl("scale", "statefulset/postgres", *HERE, "--replicas=0")
    for member in MEMBERS:
        kubectl("wait", "--for=delete", f"pod/postgres-{member}", *HERE, f"--timeout={LONG}s")
    kubectl("scale", "statefulset/postgres", *HERE, "--replicas=3")
    more_rows(writer)
    postgres.in_step()
    claims = kubectl.json("get", "persistentvolumeclaims", *HERE)["items"]
    bound = {claim["metadata"]["name"] for claim in claims if claim["status"]["phase"] == "Bound"}
    assert {f"data-postgres-{member}" for member in MEMBERS} <= bound
    require_rows(postgres, writer())


def test_lost_data_of_replica_is_copied_from_leader(postgres, kubectl):
    member = next(member for member in MEMBERS if member != postgres.leader())
    claim = f"data-postgres-{member}"
    before = kubectl.json("get", "pvc", claim, *HERE)["metadata"]["uid"]
    kubectl("delete", "pvc", claim, *HERE, "--wait=false")
    kubectl("delete", "pod", f"postgres-{member}", *HERE)
    postgres.in_step()
    assert kubectl.json("get", "pvc", claim, *HERE)["metadata"]["uid"] != before


def test_backup_restores_databases_and_accounts(postgres, kubectl, client):
    def ask(statement, database="postgres"):
        return postgres.sql(postgres.leader(), statement, database)

    name = "saved'data \\ of all"
    ask("CREATE ROLE keeper LOGIN PASSWORD 'of the backup'")
    ask(f'CREATE DATABASE "{name}" OWNER keeper')
    quoted = "dbname='" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"
    ask("SET ROLE keeper; CREATE TABLE texts AS SELECT 'before' AS text", quoted)
    job(kubectl, "save", "postgres-backup")
    ask("UPDATE texts SET text = 'after'; CREATE TABLE later (number int)", quoted)
    ask("ALTER ROLE keeper PASSWORD 'another'")
    job(kubectl, "bring-back", "postgres-restore")
    assert ask("SELECT text, to_regclass('later') IS NULL FROM texts", quoted) == "before|t"
    assert client("psql", "-XAtqc", "SELECT text FROM texts", quoted, PGUSER="keeper", PGPASSWORD="of the backup") == "before"
    assert ask("SELECT count(*) FROM pg_database WHERE datname LIKE 'before restore%'") == "0"
    postgres.in_step()


def job(kubectl, name, of):
    """Run the job of a CronJob to its end."""
    kubectl("create", "job", name, *HERE, f"--from=cronjob/{of}")
    until(lambda: finished(kubectl, name), f"job {name}")
    assert finished(kubectl, name) == "Complete", kubectl("logs", f"job/{name}", *HERE)


def finished(kubectl, name):
    conditions = kubectl.json("get", "job", name, *HERE)["status"].get("conditions", [])
    return next((each["type"] for each in conditions if each["type"] in ("Complete", "Failed") and each["status"] == "True"), "")


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")


@pytest.mark.topology(control_plane=1, workers=0)
@pytest.mark.values(SuperuserPassword=SPECIAL)
class TestGivenPassword:
    """Of one machine: all members are on it."""

    def test_given_password_is_in_secret_and_opens_leader(self, postgres, kubectl, client):
        stored = kubectl.json("get", "secret", "postgres", *HERE)
        assert base64.b64decode(stored["data"]["superuser"]).decode() == SPECIAL
        assert "last-applied" not in json.dumps(stored["metadata"].get("annotations", {}))
        words = ("psql", "-XAtqc", "SELECT current_user")
        assert client(*words, PGHOST="postgres", PGUSER="postgres", PGDATABASE="postgres", PGPASSWORD=SPECIAL) == "postgres"
        assert postgres.sql(postgres.leader(), "SELECT count(*) FROM pg_stat_replication") == "2"

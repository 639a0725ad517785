"""Three members of MariaDB with Galera: what was acknowledged is there, whichever members are killed, stopped or lose power."""

from __future__ import annotations

import json
import random
import shlex
import time

import pytest

from harness.errors import CommandError

pytestmark = pytest.mark.topology(control_plane=1, workers=3)

MEMBERS = (0, 1, 2)
SEED = 4567
KILLS = 10
PASSWORD = "p'a\"s\\s w`o$r%d;#&|<>*?[]{}()~!^-/_=+,.:@\t\u00e9\u20ac--"  # noqa: S105 - it is a test
LONG = 900
"""Seconds after which what is waited for hangs."""

# Writes one row after another, each through a new connection to whichever member the Service gives, and notes those that were acknowledged.
# A row without an answer may be there or not: it is written again until there is an answer.
WRITER = """\
trap 'exit 0' TERM
number=0
while :; do
  number=$((number + 1))
  until timeout 20 mariadb --no-defaults --connect-timeout=3 --host=mysql --user=root \
    -e "INSERT IGNORE INTO written.numbers VALUES ($number)" 2> /dev/null; do :; done
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


@pytest.fixture
def sql(kubectl):
    """Asks a member on its own machine: ``sql(0, "SELECT 1")`` gives its answer."""

    def ask(member, statement):
        return kubectl(
            "exec", f"mysql-{member}", "--container=mariadb", "--", "mariadb", "--no-defaults", "--batch", "--skip-column-names",
            f"--execute=SET SESSION wsrep_sync_wait = 1; {statement}",
        ).strip()  # fmt: skip

    return ask


@pytest.fixture
def ready(kubectl, sql):
    """Waits until all members serve, and are one cluster."""

    def wait():
        kubectl("rollout", "status", "statefulset/mysql", f"--timeout={LONG}s")
        for member in MEMBERS:
            until(lambda member=member: sees_all(member), f"mysql-{member} sees all members")

    def sees_all(member):
        try:
            return sql(member, "SHOW STATUS LIKE 'wsrep_cluster_size'").endswith("\t3")
        except CommandError:  # it has just ended, and its pod does not show that yet
            return False

    return wait


@pytest.fixture
def client(kubectl):
    """A client pod that knows the root password; ``client("mariadb", ...)`` runs a program in it."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client"},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "client",
                "image": image_of(kubectl),
                "command": ["bash", "-c", "trap 'exit 0' TERM; while :; do sleep 3600 & wait; done"],
                "env": [{"name": "MYSQL_PWD", "valueFrom": {"secretKeyRef": {"name": "mysql-root", "key": "password"}}}],
                "securityContext": {"runAsUser": 999},
            }],
        },
    }  # fmt: skip
    kubectl("apply", "--filename=-", input=json.dumps(pod))
    kubectl.wait("--for=condition=Ready", "pod/client", timeout=LONG)
    yield lambda *words: kubectl("exec", "client", "--", *words).strip()
    kubectl("delete", "pod", "client")


@pytest.fixture
def writer(kubectl, sql):
    """A client that writes rows for as long as the test runs; ``writer()`` gives the numbers that were acknowledged so far."""
    sql(0, "CREATE OR REPLACE DATABASE written; CREATE TABLE written.numbers (number BIGINT PRIMARY KEY)")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "writer"},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "restartPolicy": "Never",
            # Not on a machine that tests restart: what it has noted would be gone.
            "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "writer",
                "image": image_of(kubectl),
                "command": ["bash", "-c", WRITER],
                "env": [{"name": "MYSQL_PWD", "valueFrom": {"secretKeyRef": {"name": "mysql-root", "key": "password"}}}],
                "securityContext": {"runAsUser": 999},
            }],
        },
    }  # fmt: skip
    kubectl("apply", "--filename=-", input=json.dumps(pod))
    kubectl.wait("--for=condition=Ready", "pod/writer", timeout=LONG)

    def acknowledged():
        return [int(line) for line in kubectl("logs", "writer").split()]

    until(acknowledged, "the first row")
    yield acknowledged
    kubectl("delete", "pod", "writer", "--ignore-not-found")


def image_of(kubectl):
    return kubectl("get", "statefulset", "mysql", "--output=jsonpath={.spec.template.spec.containers[0].image}")


def kill(kubectl, member, way):
    """Kill a member hard: its pod without grace, or its server. Neither can do anything about it. Returns when it is started again."""
    before = started(kubectl, member)
    if way == "pod":
        kubectl("delete", "pod", f"mysql-{member}", "--grace-period=0", "--force")
    else:
        kubectl("exec", f"mysql-{member}", "--container=mariadb", "--", "bash", "-c", "kill -9 $(cat /run/mysqld/mysqld.pid)")
    until(lambda: started(kubectl, member) not in ("", before), f"mysql-{member} is started again")


def started(kubectl, member):
    """Identity of the running container of a member; empty without one."""
    pods = kubectl.json("get", "pods", f"--selector=apps.kubernetes.io/pod-index={member},app.kubernetes.io/component=member")["items"]
    statuses = [status for pod in pods for status in pod["status"].get("containerStatuses", [])]
    return "".join(status["containerID"] for status in statuses if "running" in status["state"])


def require_rows(kubectl, sql, acknowledged):
    """End the writer, and find all that was acknowledged on every member."""
    kubectl("delete", "pod", "writer")
    rows = [set(sql(member, "SELECT number FROM written.numbers").split()) for member in MEMBERS]
    expected = {str(number) for number in acknowledged}
    assert [expected - found for found in rows] == [set(), set(), set()]
    assert rows[0] == rows[1] == rows[2]


def test_members_run_on_different_nodes(kubectl, ready):
    ready()
    pods = kubectl.json("get", "pods", "--selector=app.kubernetes.io/instance=mysql,app.kubernetes.io/component=member")["items"]
    assert len({pod["spec"]["nodeName"] for pod in pods}) == len(MEMBERS)


def test_row_written_on_one_member_is_read_on_all(sql):
    for member in MEMBERS:
        sql(member, "CREATE OR REPLACE DATABASE shared; CREATE TABLE shared.numbers (number INT PRIMARY KEY)")
        sql(member, "INSERT INTO shared.numbers VALUES (1), (2)")
        assert [sql(other, "SELECT SUM(number) FROM shared.numbers") for other in MEMBERS] == ["3", "3", "3"]


def test_root_password_is_shown_by_command_of_readme_and_opens_service(kubectl, client):
    password = kubectl("get", "secret", "mysql-root", "--output=go-template={{.data.password | base64decode}}")
    assert len(password) == 48
    assert client("mariadb", "--no-defaults", "--host=mysql", "--user=root", "-NBe", "SELECT CURRENT_USER()") == "root@%"
    wrong = shlex.join(["mariadb", "--no-defaults", "--host=mysql", "--user=root", "-NBe", "SELECT 1"])
    assert "Access denied" in client("bash", "-c", f"MYSQL_PWD=wrong {wrong} 2>&1 || true")


@pytest.mark.parametrize("way", ["pod", "server"])
def test_killed_member_rejoins_with_rows_of_others(kubectl, sql, ready, way):
    sql(0, "CREATE OR REPLACE DATABASE killed; CREATE TABLE killed.numbers (number INT PRIMARY KEY)")
    kill(kubectl, 1, way)
    sql(0, "INSERT INTO killed.numbers VALUES (1)")
    ready()
    assert sql(1, "SELECT number FROM killed.numbers") == "1"


def test_member_rejoins_after_power_loss_of_its_machine_and_no_row_is_lost(cluster, kubectl, sql, ready, writer):
    node = kubectl.json("get", "pod", "mysql-2")["spec"]["nodeName"]
    (host,) = [host for host, machine in zip(cluster.hosts, cluster.machines, strict=True) if machine.name == node]
    before = len(writer())
    cluster.reboot(host)
    ready()
    until(lambda: len(writer()) > before, "rows are written")
    require_rows(kubectl, sql, writer())


def test_no_acknowledged_row_is_lost_in_ten_kills(kubectl, sql, ready, writer):
    chance = random.Random(SEED)  # noqa: S311 - the same order each time
    ready()
    for number in range(KILLS):
        member, way = chance.choice(MEMBERS), chance.choice(("pod", "server"))
        before = len(writer())
        began = time.monotonic()
        kill(kubectl, member, way)
        until(lambda before=before: len(writer()) > before, "rows are written")
        written = time.monotonic() - began
        ready()
        whole = time.monotonic() - began
        print(f"kill {number + 1}: {way} of mysql-{member}; the next row after {written:.1f} s, all members serve after {whole:.1f} s")
    require_rows(kubectl, sql, writer())


def test_cluster_comes_back_when_all_members_are_killed_at_once(kubectl, sql, ready, writer):
    before = len(writer())
    for member in MEMBERS:
        kubectl("delete", "pod", f"mysql-{member}", "--grace-period=0", "--force", "--wait=false")
    until(lambda: len(writer()) > before + 3, "rows are written")
    ready()
    require_rows(kubectl, sql, writer())


def test_cluster_comes_back_after_majority_is_killed(kubectl, sql, ready, writer):
    before = len(writer())
    for member in (0, 2):
        kubectl("delete", "pod", f"mysql-{member}", "--grace-period=0", "--force", "--wait=false")
    until(lambda: len(writer()) > before + 3, "rows are written")
    ready()
    require_rows(kubectl, sql, writer())


def test_stopped_cluster_begins_with_its_newest_member(kubectl, sql, ready):
    ready()
    sql(0, "CREATE OR REPLACE DATABASE stopped; CREATE TABLE stopped.numbers (number INT PRIMARY KEY)")
    # mysql-0 and mysql-1 stop before the last row, which mysql-2 alone has.
    scale(kubectl, {"replicas": 1, "ordinals": {"start": 2}}, gone=(0, 1))
    sql(2, "INSERT INTO stopped.numbers VALUES (7)")
    scale(kubectl, {"replicas": 0}, gone=(2,))
    scale(kubectl, {"replicas": 3, "ordinals": None})
    ready()
    assert [sql(member, "SELECT number FROM stopped.numbers") for member in MEMBERS] == ["7", "7", "7"]
    assert "begin the cluster" in kubectl("logs", "mysql-2")


def scale(kubectl, spec, gone=()):
    """Change the spec of the StatefulSet, and wait until members are gone."""
    kubectl("patch", "statefulset", "mysql", "--type=merge", f"--patch={json.dumps({'spec': spec})}")
    for member in gone:
        kubectl("wait", "--for=delete", f"pod/mysql-{member}", f"--timeout={LONG}s")


def test_backup_restores_rows_and_accounts(kubectl, sql, ready, client):
    ready()
    sql(0, "CREATE OR REPLACE DATABASE `saved data`; CREATE TABLE `saved data`.texts (text TEXT)")
    sql(0, "INSERT INTO `saved data`.texts VALUES ('before'); CREATE OR REPLACE USER keeper IDENTIFIED BY 'of the backup'")
    sql(0, "GRANT SELECT ON `saved data`.* TO keeper")
    job(kubectl, "save", "mysql-backup")
    sql(1, "UPDATE `saved data`.texts SET text = 'after'; DROP USER keeper")
    job(kubectl, "bring-back", "mysql-restore")
    assert [sql(member, "SELECT text FROM `saved data`.texts") for member in MEMBERS] == ["before"] * 3
    read = shlex.join(["mariadb", "--no-defaults", "--host=mysql", "--user=keeper", "-NBe", "SELECT text FROM `saved data`.texts"])
    assert client("bash", "-c", f"MYSQL_PWD='of the backup' {read}") == "before"
    # The Secret still has the password of root.
    assert client("mariadb", "--no-defaults", "--host=mysql", "--user=root", "-NBe", "SELECT 1") == "1"


def job(kubectl, name, of):
    """Run the job of a CronJob to its end."""
    kubectl("create", "job", name, f"--from=cronjob/{of}")
    until(lambda: finished(kubectl, name), f"job {name}")
    assert finished(kubectl, name) == "Complete", kubectl("logs", f"job/{name}")


def finished(kubectl, name):
    conditions = kubectl.json("get", "job", name)["status"].get("conditions", [])
    return next((each["type"] for each in conditions if each["type"] in ("Complete", "Failed") and each["status"] == "True"), "")


@pytest.mark.usefixtures("offline")
def test_nodes_send_no_packets_outside(kubectl):
    kubectl("get", "pods", "--all-namespaces")


@pytest.mark.topology(control_plane=1, workers=0)
@pytest.mark.values(RootPassword=PASSWORD)
def test_given_password_with_special_characters_works_and_is_in_no_argument_log_or_object(cluster, kubectl, client):
    kubectl("rollout", "status", "statefulset/mysql", f"--timeout={LONG}s")
    assert client("mariadb", "--no-defaults", "--host=mysql", "--user=root", "-NBe", "SELECT CURRENT_USER()") == "root@%"
    assert client("bash", "-c", 'printf %s "$MYSQL_PWD"') == PASSWORD
    places = [kubectl("get", "pods,statefulsets,configmaps,cronjobs", "--all-namespaces", "--output=yaml")]
    places += [kubectl("logs", f"mysql-{member}") for member in MEMBERS]
    for host in cluster.hosts:
        places.append(host.check_output("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '; journalctl --no-pager"))
    piece = PASSWORD[:12]
    assert [place.count(piece) + place.count(piece.encode().hex()) for place in places] == [0] * len(places)

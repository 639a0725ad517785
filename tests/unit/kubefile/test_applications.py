"""Kinds of applications and how they start."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kubefile
from harness.errors import InputError
from harness.kubefile import applications
from harness.kubefile.applications import KubefileApp


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["a.yaml"], "kube"),
        (["a.yaml", "sub/b.YML", "c.json"], "kube"),
        (["a.sh", "b.SH"], "shell"),
        (["a.sh", "a.yaml"], "mixed"),
        (["a.yaml", "README.md"], "mixed"),
        (["run"], "mixed"),
        ([], "mixed"),
        (["Chart.yaml", "templates/a.yaml"], "helm"),
        (["Chart.yaml", "values.yaml", "templates/a.yaml", "README.md", "hack.sh"], "helm"),
        (["Chart.yaml", "values.yaml"], "kube"),
        (["sub/Chart.yaml", "sub/templates/a.tpl"], "mixed"),
        (["mysql-1.2.tgz"], "helm"),
        (["mysql-1.2.tgz", "a.yaml"], "mixed"),
    ],
)
def test_kind_of_application_follows_file_names(files: list[str], kind: str) -> None:
    assert applications.kind_of(files) == kind


@pytest.mark.parametrize(
    ("kind", "files", "commands"),
    [
        (
            "kube",
            ["a.yaml", "b/c.yaml"],
            ("kubectl apply -f application/apps/web/a.yaml", "kubectl apply -f application/apps/web/b/c.yaml"),
        ),
        ("kube", ["a b;c.yaml"], ("kubectl apply -f 'application/apps/web/a b;c.yaml'",)),
        ("shell", ["a.sh"], ("bash application/apps/web/a.sh",)),
        ("helm", ["Chart.yaml", "templates/a.yaml"], ("helm install web application/apps/web",)),
        ("helm", ["web-1.tgz"], ("helm install web application/apps/web/web-1.tgz",)),
    ],
)
def test_default_commands_follow_kind_and_files(kind: str, files: list[str], commands: tuple[str, ...]) -> None:
    assert applications.default_commands("web", kind, files) == commands


def build(context: Path, text: str) -> tuple[kubefile.Kubefile, tuple[KubefileApp, ...]]:
    parsed = kubefile.parse(text, "K")
    return parsed, applications.applications(parsed, context)


@pytest.fixture
def context(tmp_path: Path) -> Path:
    for name in (
        "first.sh",
        "lib/more.sh",
        "kube/b.yaml",
        "kube/a.yaml.tmpl",
        "kube/sub/c.yaml.j2",
        "chart/Chart.yaml",
        "chart/templates/x.yaml",
        "mixed/app.yaml",
        "mixed/run",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "nothing").mkdir()
    return tmp_path


def test_applications_of_kubefile_have_kind_files_env_and_commands(context: Path) -> None:
    _, found = build(
        context,
        """FROM scratch
APP sh local://first.sh local://lib
CNI net local://kube
APP chart local://chart
APP remote https://x.io/charts/redis-1.2.tgz
APP mixed local://mixed https://x.io/more.yaml
APPENV mixed A=1
APPENV mixed B=2 A=3
APPCMDS mixed ["ls"]
APPCMDS mixed ["bash", "run"]
""",
    )
    assert found == (
        KubefileApp("sh", "shell", "app", ("first.sh", "more.sh"), {}, ("bash application/apps/sh/first.sh",)),
        KubefileApp(
            "net",
            "kube",
            "cni",
            ("a.yaml", "b.yaml", "sub/c.yaml"),
            {},
            tuple(f"kubectl apply -f application/apps/net/{name}" for name in ("a.yaml", "b.yaml", "sub/c.yaml")),
        ),
        KubefileApp("chart", "helm", "app", ("Chart.yaml", "templates/x.yaml"), {}, ("helm install chart application/apps/chart",)),
        KubefileApp("remote", "helm", "app", ("redis-1.2.tgz",), {}, ("helm install remote application/apps/remote/redis-1.2.tgz",)),
        KubefileApp(
            "mixed", "mixed", "app", ("app.yaml", "run", "more.yaml"), {"A": "3", "B": "2"}, ("cd application/apps/mixed && bash run",)
        ),
    )


def test_appcmds_replace_default_commands(context: Path) -> None:
    _, found = build(context, 'FROM scratch\nAPP net local://kube\nAPPCMDS net ["kubectl create -f b.yaml"]')
    assert found[0].commands == ("cd application/apps/net && kubectl create -f b.yaml",)


def test_applications_mixed_empty_or_missing_are_all_reported(context: Path) -> None:
    with pytest.raises(InputError) as caught:
        build(context, "FROM scratch\nAPP a local://mixed\nAPP b local://nothing\nAPP c local://none")
    assert [(fault.where, fault.message.partition(",")[0], fault.hint) for fault in caught.value.faults] == [
        ("K:2", "APP a: its files are neither a chart", 'APPCMDS a ["command"]'),
        ("K:3", "APP b: it has no files", 'APPCMDS b ["command"]'),
        ("K:4", f"none: no such file or folder in {context}", None),
    ]


def test_launch_runs_applications_in_given_order(context: Path) -> None:
    parsed, found = build(context, "FROM base\nAPP net local://kube\nAPP sh local://first.sh\nLAUNCH sh db net")
    commands = {app.name: app.commands for app in found} | {"db": ("helm install db application/apps/db",)}
    assert applications.launch(parsed, commands, {"db": {"SIZE": "1 G"}}) == (
        "bash application/apps/sh/first.sh",
        "export SIZE='1 G' && helm install db application/apps/db",
        *found[0].commands,
    )


def test_launch_of_unknown_applications_raises_input_error_with_lines(context: Path) -> None:
    parsed, found = build(context, "FROM base:1\nAPP sh local://first.sh\nAPPENV dba A=1\nLAUNCH sh db")
    with pytest.raises(InputError) as caught:
        applications.launch(parsed, {app.name: app.commands for app in found}, {})
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("K:3", "APPENV: neither this Kubefile nor base:1 has the application dba"),
        ("K:4", "LAUNCH: neither this Kubefile nor base:1 has the application db"),
    ]


def test_launch_keeps_cmd_and_cmds_verbatim(context: Path) -> None:
    parsed, _ = build(context, 'FROM base\nCMD kubectl apply -f $X\nCMDS ["ls"]')
    assert applications.launch(parsed, {}, {}) == ("kubectl apply -f $X", "ls")

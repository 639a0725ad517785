"""Images in charts."""

from __future__ import annotations

import dataclasses
import io
import tarfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.build import discover
from harness.build.charts import is_chart
from harness.build.declared_images import RootfsFile
from harness.build.launch_commands import LaunchCommand
from harness.errors import CommandError, InputError
from tests.unit.build.rootfs_files import write


@pytest.fixture
def helm(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str | CommandError]], list[list[str]]]:
    """Stands for helm: what it says for a chart, by the chart's name; returns the list of calls."""

    def answer(said: dict[str, str | CommandError]) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(argv: Sequence[str | Path], **_: object) -> process.ProcessResult:
            words = [str(word) for word in argv]
            calls.append(words)
            text = said[Path(words[3]).name]
            if isinstance(text, CommandError):
                raise text
            return process.ProcessResult(tuple(words), 0, textwrap.dedent(text), "")

        monkeypatch.setattr(process, "run", run)
        return calls

    return answer


CHARTS = {
    "charts/mysql/Chart.yaml": "name: my\nannotations:\n  helm.sh/images: |\n    - image: extra:1\n",
    "charts/mysql/templates/a.yaml": "{{ nonsense",
    "charts/mysql/values.yaml": "image: no:1",
    "charts/mysql/charts/sub/Chart.yaml": "name: sub",
    "application/apps/web/Chart.yaml": "name: web",
    "application/apps/web/templates/b.yaml": "{{ .Values.x }}",
    "wordpress/Chart.yaml": "name: wordpress",
}


def test_charts_are_rendered_by_helm(tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]) -> None:
    write(tmp_path, CHARTS)
    calls = helm(
        {
            "mysql": """
                ---
                # Source: my/templates/a.yaml
                spec: {containers: [{image: "mysql:8"}]}
                ---
                # Source: my/charts/sub/templates/c.yaml
                spec:
                  containers: [{image: "sub:1"}]
            """,
            "web": "# Source: web/templates/b.yaml\nspec: {containers: [{image: 'web:1'}]}\n",
            "wordpress": "",
        }
    )
    found = discover.declared(tmp_path, discover.ScanSettings(helm=Path("/bin/helm"), kube_version="v1.36.3"))
    assert [(image.name, image.where) for image in found.images] == [
        ("docker.io/library/web:1", "application/apps/web/templates/b.yaml"),
        ("docker.io/library/extra:1", "charts/mysql/Chart.yaml:4"),
        ("docker.io/library/mysql:8", "charts/mysql/templates/a.yaml"),
        ("docker.io/library/sub:1", "charts/mysql/charts/sub/templates/c.yaml"),
    ]
    assert calls[1] == ["/bin/helm", "template", "slipway", str(tmp_path / "charts/mysql"), "--include-crds", "--kube-version", "v1.36.3"]
    assert len(calls) == 3


def test_packed_chart_is_rendered_and_other_archives_are_skipped(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]
) -> None:
    (tmp_path / "charts").mkdir()
    for name, member in (("redis-1.tgz", "redis/Chart.yaml"), ("data.tgz", "data/x")):
        with tarfile.open(tmp_path / "charts" / name, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    (tmp_path / "charts/broken.tgz").write_text("no tar")
    calls = helm({"redis-1.tgz": "# Source: redis/templates/a.yaml\nspec: {containers: [{image: 'redis:7'}]}\n"})
    found = discover.declared(tmp_path, discover.ScanSettings(helm=Path("helm")))
    assert [(image.name, image.where) for image in found.images] == [("docker.io/library/redis:7", "charts/redis-1.tgz/templates/a.yaml")]
    assert len(calls) == 1


def test_charts_without_helm_warn_for_each_unread_chart(tmp_path: Path) -> None:
    found = discover.declared(write(tmp_path, CHARTS))
    assert found.names == ("docker.io/library/extra:1",)
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        (f"{folder}/Chart.yaml", "this chart was not read: helm is not installed")
        for folder in ("application/apps/web", "charts/mysql", "wordpress")
    ]


def test_chart_with_failed_or_invalid_rendering_warns(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]
) -> None:
    write(tmp_path, {"charts/a/Chart.yaml": "name: a", "charts/b/Chart.yaml": "name: b"})
    helm({"a": CommandError("helm: exit code 1", details="walk\nError: password is required\n\nUse --debug"), "b": "a: [\n"})
    found = discover.declared(tmp_path, discover.ScanSettings(helm=Path("helm")))
    assert [warning.where for warning in found.warnings] == ["charts/a/Chart.yaml", "charts/b/Chart.yaml"]
    assert found.warnings[0].message == "helm cannot render this chart with its own values: Error: password is required"


def test_chart_yaml_not_parsable_raises_input_error_with_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"charts/a/Chart\.yaml:2: not YAML"):
        discover.declared(write(tmp_path, {"charts/a/Chart.yaml": "name: [\n"}))


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../outside", "loop"])
def test_chart_with_link_out_of_rootfs_is_not_given_to_helm(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]], target: str
) -> None:
    (tmp_path / "outside").write_text("secret")
    root = write(tmp_path / "rootfs", {"charts/a/Chart.yaml": "name: a\n", "charts/a/templates/x.yaml": "a: 1\n"})
    (root / "charts/a/templates/loop").symlink_to(target)
    calls = helm({"a": ""})
    found = discover.declared(root, discover.ScanSettings(helm=Path("helm")))
    assert calls == []
    assert "templates/loop is a link that leads out" in found.warnings[0].message


def test_chart_with_link_inside_rootfs_is_rendered_without_warning(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]
) -> None:
    root = write(tmp_path, {"charts/a/Chart.yaml": "name: a\n", "etc/x.yaml": "a: 1\n"})
    (root / "charts/a/x.yaml").symlink_to("../../etc/x.yaml")
    calls = helm({"a": ""})
    assert discover.declared(root, discover.ScanSettings(helm=Path("helm"))).warnings == ()
    assert len(calls) == 1


Helm = Callable[[dict[str, str | CommandError]], list[list[str]]]
POD = "spec: {containers: [{image: 'web:1'}]}\n"


def launched(*commands: str, **settings: Any) -> discover.ScanSettings:
    return discover.ScanSettings(
        helm=Path("helm"), launch=[LaunchCommand(text, f"Kubefile:{number}") for number, text in enumerate(commands, 2)], **settings
    )


def test_chart_is_rendered_with_values_of_each_launch_command(tmp_path: Path, helm: Helm, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        {"charts/shop/Chart.yaml": "name: shop", "etc/prod.yaml": "image: web:{{ Tag }}\nother: {{ Other }}\n", "etc/key.txt": "k"},
    )
    calls = helm({"shop": POD})
    given: list[dict[str, str]] = []
    run = process.run

    def keep(argv: Sequence[str], **options: Any) -> process.ProcessResult:
        given.append({word.partition("=")[0]: Path(word.rpartition("=")[2]).read_text() for word in argv if "/chart-" in str(word)})
        return run(argv, **options)

    monkeypatch.setattr(process, "run", keep)
    discover.declared(
        tmp_path,
        launched(
            "helm upgrade --install shop charts/shop -n web -f etc/prod.yaml --set a.b=1,c=2 --set-file key=etc/key.txt --set-string d=e=f",
            "helm install -- charts/shop",
            "helm install Bad_Name charts/shop --namespace=-x",
            env={"Tag": "3"},
        ),
    )
    chart = str(tmp_path / "charts/shop")
    assert calls[0][1:6] == ["template", "shop", chart, "--include-crds", "--namespace=web"]
    assert [word.partition("=")[0] for word in calls[0][6:]] == ["--values", "--set", "--set-file", "--set-string"]
    assert [calls[0][7], calls[0][9]] == ["--set=a.b=1,c=2", "--set-string=d=e=f"]
    assert given[0] == {"--values": "image: web:3\nother: slipway-undefined-Other\n", "--set-file": "k"}
    assert calls[1:] == [["helm", "template", "slipway", chart, "--include-crds"]] * 2


def test_packed_chart_in_any_folder_is_read_for_launch_command(tmp_path: Path, helm: Helm) -> None:
    (tmp_path / "opt").mkdir()
    with tarfile.open(tmp_path / "opt/redis-1.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("redis/Chart.yaml"), io.BytesIO())
    helm({"redis-1.tgz": POD})
    assert discover.declared(tmp_path, launched("helm install redis opt/redis-1.tgz")).names == ("docker.io/library/web:1",)


def test_chart_from_several_folders_is_assembled_for_helm(tmp_path: Path, helm: Helm) -> None:
    write(tmp_path, {"a/Chart.yaml": "name: shop", "a/values.yaml": "x: 1", "b/values.yaml": "x: 2"})
    calls = helm({"shop": POD})
    files = [
        RootfsFile("charts/shop/Chart.yaml", tmp_path / "a/Chart.yaml", "a"),
        RootfsFile("charts/shop/values.yaml", tmp_path / "b/values.yaml", "b"),
    ]
    assert discover.discover(files, launched("helm install shop charts/shop")).names == ("docker.io/library/web:1",)
    assert calls[0][3] != str(tmp_path / "a")


DEPENDENT = {
    "charts/shop/Chart.yaml": "name: shop\ndependencies:\n- {name: redis, version: 17.x.x}\n- {name: db, version: 1}\n- {name: mq}\n",
    "charts/shop/charts/other/Chart.yaml": "name: db",
    "charts/shop/charts/mq-1.2.tgz": "",
}


def test_chart_dependency_not_vendored_raises_input_error_with_hint(tmp_path: Path, helm: Helm) -> None:
    write(tmp_path, DEPENDENT)
    calls = helm({})
    with pytest.raises(InputError) as caught:
        discover.declared(tmp_path, launched("helm install shop charts/shop"))
    (fault,) = caught.value.faults
    assert fault.where == "charts/shop/Chart.yaml"
    assert fault.message.startswith("the dependency redis of this chart is not in its charts folder")
    assert fault.hint == "helm dependency update charts/shop"
    assert calls == []


@pytest.mark.parametrize("settings", [{"launch": []}, {"vendored_later": True}])
def test_chart_dependency_vendored_later_or_never_launched_warns(tmp_path: Path, helm: Helm, settings: dict[str, Any]) -> None:
    write(tmp_path, DEPENDENT)
    helm({})
    scan = discover.declared(tmp_path, dataclasses.replace(launched("helm install shop charts/shop"), **settings))
    assert [warning.hint for warning in scan.warnings] == ["helm dependency update charts/shop"]


def test_packed_chart_dependency_missing_for_helm_raises_input_error(tmp_path: Path, helm: Helm) -> None:
    (tmp_path / "charts").mkdir()
    with tarfile.open(tmp_path / "charts/shop-1.tgz", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("shop/Chart.yaml"), io.BytesIO())
    said = (
        "Error: An error occurred while checking for chart dependencies: found in Chart.yaml, but missing in charts/ directory: redis, db"
    )
    helm({"shop-1.tgz": CommandError("helm: exit code 1", details=said)})
    with pytest.raises(InputError, match="the dependency redis, db of this chart"):
        discover.declared(tmp_path, launched("helm install shop charts/shop-1.tgz"))


@pytest.mark.parametrize(
    ("path", "chart"),
    [
        ("charts/web/Chart.yaml", True),
        ("deploy/web/Chart.yaml", True),
        ("charts/web-1.2.3.tgz", True),
        ("application/apps/web/web.tgz", True),
        ("images/web.tgz", False),
        ("charts/web/values.yaml", False),
        ("charts/web/MyChart.yaml", False),
    ],
)
def test_is_chart_recognizes_chart_by_path(path: str, chart: bool) -> None:
    assert is_chart(path) is chart

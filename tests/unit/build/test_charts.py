"""Images in charts."""

from __future__ import annotations

import io
import tarfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness import process
from harness.errors import CommandError, InputError
from tests.unit.build.rootfs_files import declared, write


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
    found = declared(tmp_path, helm=Path("/bin/helm"), kube_version="v1.36.3")
    assert [(image.name, image.where) for image in found.images] == [
        ("docker.io/library/web:1", "application/apps/web/templates/b.yaml"),
        ("docker.io/library/extra:1", "charts/mysql/Chart.yaml:4"),
        ("docker.io/library/mysql:8", "charts/mysql/templates/a.yaml"),
        ("docker.io/library/sub:1", "charts/mysql/charts/sub/templates/c.yaml"),
    ]
    assert calls[1] == ["/bin/helm", "template", "slipway", str(tmp_path / "charts/mysql"), "--include-crds", "--kube-version", "v1.36.3"]
    assert len(calls) == 3


def test_packed_charts(tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]) -> None:
    (tmp_path / "charts").mkdir()
    for name, member in (("redis-1.tgz", "redis/Chart.yaml"), ("data.tgz", "data/x")):
        with tarfile.open(tmp_path / "charts" / name, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    (tmp_path / "charts/broken.tgz").write_text("no tar")
    calls = helm({"redis-1.tgz": "# Source: redis/templates/a.yaml\nspec: {containers: [{image: 'redis:7'}]}\n"})
    found = declared(tmp_path, helm=Path("helm"))
    assert [(image.name, image.where) for image in found.images] == [("docker.io/library/redis:7", "charts/redis-1.tgz/templates/a.yaml")]
    assert len(calls) == 1


def test_without_helm_it_is_said_which_charts_were_not_read(tmp_path: Path) -> None:
    found = declared(write(tmp_path, CHARTS))
    assert found.names == ("docker.io/library/extra:1",)
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        (f"{folder}/Chart.yaml", "this chart was not read: helm is not installed")
        for folder in ("application/apps/web", "charts/mysql", "wordpress")
    ]


def test_a_chart_that_needs_values_is_a_warning(tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]) -> None:
    write(tmp_path, {"charts/a/Chart.yaml": "name: a", "charts/b/Chart.yaml": "name: b"})
    helm({"a": CommandError("helm: exit code 1", details="walk\nError: password is required\n\nUse --debug"), "b": "a: [\n"})
    found = declared(tmp_path, helm=Path("helm"))
    assert [warning.where for warning in found.warnings] == ["charts/a/Chart.yaml", "charts/b/Chart.yaml"]
    assert found.warnings[0].message == "helm cannot render this chart with its own values: Error: password is required"


def test_a_broken_chart_yaml_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"charts/a/Chart\.yaml:2: not YAML"):
        declared(write(tmp_path, {"charts/a/Chart.yaml": "name: [\n"}))


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../outside", "loop"])
def test_charts_with_a_link_out_of_the_tree_are_not_given_to_helm(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]], target: str
) -> None:
    (tmp_path / "outside").write_text("secret")
    root = write(tmp_path / "rootfs", {"charts/a/Chart.yaml": "name: a\n", "charts/a/templates/x.yaml": "a: 1\n"})
    (root / "charts/a/templates/loop").symlink_to(target)
    calls = helm({"a": ""})
    found = declared(root, helm=Path("helm"))
    assert calls == []
    assert "templates/loop is a link that leads out" in found.warnings[0].message


def test_charts_with_a_link_inside_of_the_tree_are_read(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]
) -> None:
    root = write(tmp_path, {"charts/a/Chart.yaml": "name: a\n", "etc/x.yaml": "a: 1\n"})
    (root / "charts/a/x.yaml").symlink_to("../../etc/x.yaml")
    calls = helm({"a": ""})
    assert declared(root, helm=Path("helm")).warnings == ()
    assert len(calls) == 1

"""Launch commands that are read, not run."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import launch_commands
from harness.build.declared_images import RootfsFile
from harness.build.launch_commands import ChartRelease, LaunchCommand, LaunchReading, read_launch_commands
from tests.unit.build.rootfs_files import write

FILES = (
    "charts/shop/Chart.yaml",
    "charts/shop/templates/a.yaml",
    "charts/redis-1.tgz",
    "etc/prod.yaml",
    "etc/site.yaml.tmpl",
    "etc/cert.pem",
    "deploy/a.yaml",
    "deploy/b.json",
    "deploy/notes.txt",
    "deploy/more/c.yaml",
    "overlay/kustomization.yaml",
    "app.yaml",
    "application/apps/web/x.yaml",
    "application/apps/web/Chart.yaml",
)


def read(command: str, tmp_path: Path | None = None, env: dict[str, str] | None = None, **scripts: str) -> LaunchReading:
    files = {path: RootfsFile(path, Path("/none"), path) for path in FILES}
    for name, text in scripts.items():
        assert tmp_path is not None
        write(tmp_path, {f"{name}.sh": text})
        files[f"scripts/{name}.sh"] = RootfsFile(f"scripts/{name}.sh", tmp_path / f"{name}.sh", f"{name}.sh")
    return read_launch_commands([LaunchCommand(command, "Kubefile:3")], files, env or {})


def test_helm_command_options_are_read_into_chart_release() -> None:
    found = read(
        "helm upgrade --install shop charts/shop -n shop --create-namespace -f etc/prod.yaml,etc/site.yaml --values=etc/prod.yaml "
        "--set a=1,b=2 --set-string=c=3 --set-file cert=etc/cert.pem --version 1.2.3 --wait --timeout 5m && echo ready"
    )
    values = (
        ("values", "etc/prod.yaml"),
        ("values", "etc/site.yaml"),
        ("values", "etc/prod.yaml"),
        ("set", "a=1,b=2"),
        ("set-string", "c=3"),
        ("set-file", "cert=etc/cert.pem"),
    )
    assert found.releases == [ChartRelease("charts/shop", "Kubefile:3", "shop", "shop", values)]
    assert found.warnings == []


@pytest.mark.parametrize(
    ("command", "chart", "release"),
    [
        ("helm install shop ./charts/shop", "charts/shop", "shop"),
        ("helm -n x install shop charts/shop/", "charts/shop", "shop"),
        ("cd charts && helm install shop shop", "charts/shop", "shop"),
        ("helm install charts/shop --generate-name", "charts/shop", ""),
        ("/usr/local/bin/helm template shop charts/shop | kubectl apply -f -", "charts/shop", "shop"),
        ("A=1 sudo helm install shop charts/redis-*.tgz", "charts/redis-1.tgz", "shop"),
        ("if true; then helm install shop charts/shop; fi", "charts/shop", "shop"),
        ('bash -c "helm install shop charts/shop"', "charts/shop", "shop"),
        ("export CHART=charts/shop && helm install shop $CHART", "charts/shop", "shop"),
        ("helm install ${NAME:-shop} charts/shop", "charts/shop", "shop"),
        ("helm install \\\n  shop charts/shop # the shop's chart", "charts/shop", "shop"),
    ],
)
def test_helm_command_yields_chart_and_release(command: str, chart: str, release: str) -> None:
    found = read(command)
    assert [(item.chart, item.release) for item in found.releases] == [(chart, release)]
    assert found.warnings == []


@pytest.mark.parametrize(
    ("command", "manifests"),
    [
        ("kubectl apply -f app.yaml -f deploy", ["app.yaml", "deploy/a.yaml", "deploy/b.json"]),
        ("kubectl apply -R -f deploy/", ["deploy/a.yaml", "deploy/b.json", "deploy/more/c.yaml"]),
        ("kubectl apply --filename=app.yaml,deploy/a.yaml", ["app.yaml", "deploy/a.yaml"]),
        ("kubectl -n x create -f deploy/*.yaml --recursive=true", ["deploy/a.yaml"]),
        ("cd application/apps/web && kubectl apply -f x.yaml", ["application/apps/web/x.yaml"]),
        ("kubectl apply -f etc/site.yaml", ["etc/site.yaml.tmpl"]),
        ("kubectl apply -f deploy/notes.txt", ["deploy/notes.txt"]),
        ("envsubst < app.yaml | kubectl apply -f -", ["app.yaml"]),
        ("cat app.yaml deploy/a.yaml | kubectl apply -f- 2> /dev/null", ["app.yaml", "deploy/a.yaml"]),
        ("kubectl apply -f - < app.yaml", ["app.yaml"]),
        ("kubectl get -f app.yaml; kubectl delete -f deploy", []),
    ],
)
def test_kubectl_command_yields_manifests(command: str, manifests: list[str]) -> None:
    found = read(command)
    assert list(found.manifests) == manifests
    assert found.warnings == []


@pytest.mark.parametrize(
    "command", ["kubectl apply -k overlay", "kubectl kustomize overlay | kubectl apply -f -", "cd overlay; kustomize build"]
)
def test_kustomize_command_yields_kustomization(command: str) -> None:
    assert read(command).kustomizations == {"overlay": "Kubefile:3"}


def test_kubectl_run_create_and_set_yield_images() -> None:
    found = read("kubectl run x --image=a:1 && kubectl create deployment y --image b:2; kubectl set image deploy/y y=c:3")
    assert [image for image, _ in found.images] == ["a:1", "b:2", "c:3"]


@pytest.mark.parametrize(
    ("command", "warning"),
    [
        ("kubectl apply -f https://example.com/x.yaml", "the manifest https://example.com/x.yaml is fetched when the image is launched"),
        ("kubectl apply -f none.yaml", "the manifest none.yaml was not read"),
        ("kubectl apply -f $DIR/x.yaml", "the manifest $DIR/x.yaml was not read"),
        ("kubectl apply -f ../x.yaml", "the manifest ../x.yaml was not read"),
        ("kubectl apply -f /etc/passwd", "the manifest /etc/passwd was not read"),
        ("kubectl apply -k github.com/x/y", "the kustomization github.com/x/y was not read"),
        ("helm install x oci://example.com/x", "the chart oci://example.com/x is fetched"),
        ("helm install x x --repo https://example.com", "the chart https://example.com/x is fetched"),
        ("helm install x charts/none", "the chart charts/none was not read"),
        ("helm install x charts/shop -f /root/values.yaml", "the values file /root/values.yaml was not read"),
        ("helm install x charts/shop --set-file a=/etc/shadow", "the file /etc/shadow was not read"),
        ('helm install x charts/shop --set "a=$(cat /etc/shadow)"', "--set a: its value is known only when the image is launched"),
    ],
)
def test_launch_command_with_unreadable_source_warns_with_hint(command: str, warning: str) -> None:
    found = read(command)
    assert [fault.where for fault in found.warnings] == ["Kubefile:3"]
    assert found.warnings[0].message.startswith(warning)
    assert found.warnings[0].hint


def test_launch_command_variable_without_value_becomes_stand_in() -> None:
    found = read("helm install x charts/shop --set tag=$TAG --set port=$PORT", env={"PORT": "80"})
    assert found.releases[0].values == (("set", "tag=slipway-undefined-TAG"), ("set", "port=80"))


def test_scripts_are_read_line_by_line(tmp_path: Path) -> None:
    script = """
        #!/bin/sh
        # it's a comment
        cd "$(dirname "$0")/.."
        if ! kubectl get ns; then
          helm install shop \\
            ../charts/shop
        fi
        echo "unclosed
        sh again.sh
    """
    found = read("bash scripts/install.sh", tmp_path, install=script, again="kubectl apply -f ../app.yaml\nsh again.sh\n")
    assert [(item.chart, item.where) for item in found.releases] == [("charts/shop", "install.sh:5")]
    assert found.manifests == {"app.yaml": "again.sh:1"}


@pytest.mark.parametrize(
    "command", ["", "'", "helm", "helm install", "kubectl", "kubectl apply -f", "kubectl apply -k", "cd", "|", "a <", "sh -c"]
)
def test_incomplete_command_yields_neither_release_nor_manifest(command: str) -> None:
    found = read(command)
    assert (found.releases, found.manifests) == ([], {})


def test_launch_command_doubling_variable_is_cut_off_with_warning() -> None:
    found = read("A=charts/shop; B=$A$A; helm install shop $A; " + "A=$A$A; " * 60 + "helm install shop $A")
    assert [item.chart for item in found.releases] == ["charts/shop"]
    (warning,) = found.warnings
    assert warning.message.startswith("the chart $long")
    assert len(warning.message) < 300


def test_script_line_longer_than_argument_is_left_out_with_warning(tmp_path: Path) -> None:
    found = read("sh scripts/long.sh", tmp_path, long="kubectl apply -f app.yaml # " + "a" * 140_000 + "\nkubectl apply -f app.yaml\n")
    assert found.manifests == {"app.yaml": "long.sh:2"}
    (warning,) = found.warnings
    assert (warning.where, warning.message) == ("long.sh:1", "a line of 140028 characters was not read")


def test_scripts_calling_themselves_are_read_up_to_command_limit(tmp_path: Path) -> None:
    script = "kubectl apply -f app.yaml\n" + "sh scripts/many.sh\n" * 300
    found = read("sh scripts/many.sh", tmp_path, many=script)
    assert found.manifests == {"app.yaml": "many.sh:1"}
    (warning,) = found.warnings
    assert (warning.where, warning.message) == (
        "Kubefile:3",
        "the launch commands have more than 10000 commands with their scripts; the rest was not read",
    )


def test_variable_pattern_ignores_braces_over_1000_characters() -> None:
    """Each looks no further than 1000 characters for its end."""
    assert launch_commands._VARIABLE.match("${A:-" + "x" * 1000 + "}")
    assert not launch_commands._VARIABLE.match("${A:-" + "x" * 1001 + "}")

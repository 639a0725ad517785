"""Images of kustomizations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.build import discover
from harness.build.declared_images import ScanResult
from harness.build.launch_commands import LaunchCommand
from harness.errors import CommandError, InputError
from tests.unit.build.rootfs_files import DIGEST, write

API = """
    kind: Deployment
    spec:
      template:
        spec:
          containers:
          - {name: api, image: registry.example.com/team/api:1.0}
          - {name: side, image: "side:1"}
"""
OVERLAY = """
    resources: [../base, other.yaml]
    images:
    - name: registry.example.com/team/api
      newName: mirror.example.com/api
      newTag: "2.4"
"""
FILES = {
    "manifests/base/kustomization.yaml": "resources: [api.yaml]\n",
    "manifests/base/api.yaml": API,
    "manifests/overlay/kustomization.yaml": OVERLAY,
    "manifests/overlay/other.yaml": "spec: {containers: [{image: 'other:1'}]}\n",
    "manifests/beside.yaml": "spec: {containers: [{image: 'beside:1'}]}\n",
}


def scan(root: Path, kubectl: str | None = None, command: str = "kubectl apply -k manifests/overlay") -> ScanResult:
    launch = [LaunchCommand(command, "Kubefile:3")]
    return discover.declared(root, discover.ScanSettings(launch=launch, kubectl=Path(kubectl) if kubectl else None))


def test_kustomization_applied_by_command_replaces_images(tmp_path: Path) -> None:
    found = scan(write(tmp_path, FILES))
    assert sorted((image.name.removeprefix("docker.io/library/"), image.where) for image in found.images) == [
        ("beside:1", "manifests/beside.yaml:1"),
        ("mirror.example.com/api:2.4", "manifests/overlay/kustomization.yaml:3"),
        ("other:1", "manifests/overlay/other.yaml:1"),
        ("side:1", "manifests/base/api.yaml:7"),
    ]
    assert (found.possible, found.warnings) == ((), ())


def test_kustomization_without_apply_command_is_read_as_files(tmp_path: Path) -> None:
    found = scan(write(tmp_path, FILES), command="ls")
    assert "registry.example.com/team/api:1.0" in found.names
    assert [image.name for image in found.possible] == ["mirror.example.com/api:2.4"]


@pytest.mark.parametrize(
    ("entry", "image"),
    [
        ("newTag: v2", "registry.example.com/team/api:v2"),
        (f"digest: {DIGEST}", f"registry.example.com/team/api@{DIGEST}"),
        ("newName: api", "docker.io/library/api:1.0"),
        ("{}", "registry.example.com/team/api:1.0"),
    ],
)
def test_kustomization_images_entry_sets_name_tag_or_digest(tmp_path: Path, entry: str, image: str) -> None:
    entry = f"  {entry}\n" if entry != "{}" else ""
    write(
        tmp_path,
        {**FILES, "manifests/overlay/kustomization.yaml": f"resources: [../base]\nimages:\n- name: registry.example.com/team/api\n{entry}"},
    )
    assert image in scan(tmp_path).names


def test_kustomize_kubectl_renders_copy_of_referenced_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Sequence[Any]] = []

    def run(argv: Sequence[Any], **_: object) -> process.ProcessResult:
        calls.append(argv)
        root = Path(argv[2]).parents[1]
        assert sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) == sorted(
            path for path in FILES if path != "manifests/beside.yaml"
        )
        assert not root.is_relative_to(tmp_path)
        text = "spec: {containers: [{image: 'mirror.example.com/api:2.4'}, {image: 'patched:1'}]}\n"
        return process.ProcessResult((), 0, text, "")

    monkeypatch.setattr(process, "run", run)
    found = scan(write(tmp_path, FILES), "/bin/kubectl")
    assert [str(word) for word in calls[0][:2]] == ["/bin/kubectl", "kustomize"]
    places = {image.name.removeprefix("docker.io/library/"): image.where for image in found.images}
    assert places == {
        "mirror.example.com/api:2.4": "manifests/overlay/kustomization.yaml:3",
        "patched:1": "manifests/overlay/kustomization.yaml",
        "beside:1": "manifests/beside.yaml:1",
    }


@pytest.mark.parametrize("name", ["kustomization.yaml", "kustomization.yaml.tmpl"])
def test_kustomize_kubectl_is_given_rendered_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    value, other = ("{{ .Tag }}", "{{ .Space }}") if name.endswith(".tmpl") else ("{{ Tag }}", "{{ Space }}")
    files = {
        f"manifests/k/{name}": f"namespace: {other}\nresources: [a.yaml]\nimages:\n- name: a\n  newTag: {value}\n",
        "manifests/k/a.yaml": "spec: {replicas: {{ Replicas }}, containers: [{image: 'a:1'}]}\n",
    }
    seen: dict[str, str] = {}

    def run(argv: Sequence[Any], **_: object) -> process.ProcessResult:
        seen.update({path.name: path.read_text() for path in Path(argv[2]).iterdir()})
        return process.ProcessResult((), 0, "spec: {containers: [{image: 'a:2'}]}\n", "")

    monkeypatch.setattr(process, "run", run)
    write(tmp_path, files)
    launch = [LaunchCommand("kubectl apply -k manifests/k", "Kubefile:3")]
    settings = discover.ScanSettings(env={"Tag": "2", "Replicas": "3"}, launch=launch, kubectl=Path("/bin/kubectl"))
    found = discover.declared(tmp_path, settings)
    missing = "<no value>" if name.endswith(".tmpl") else "slipway-undefined-Space"
    assert "newTag: 2\n" in seen["kustomization.yaml"]
    assert seen["kustomization.yaml"].splitlines()[0] in (f"namespace: {missing}", "namespace: slipway-undefined-Space")
    assert seen["a.yaml"] == "spec: {replicas: 3, containers: [{image: 'a:1'}]}\n"
    assert [(image.name, image.where) for image in found.images] == [("docker.io/library/a:2", f"manifests/k/{name}:4")]
    assert found.warnings == ()


def test_kustomize_template_that_cannot_be_rendered_is_a_fault_of_its_line(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        scan(write(tmp_path, {"manifests/k/kustomization.yaml.tmpl": "resources: []\n{{ if }}\n"}), None, "kubectl apply -k manifests/k")
    assert {fault.where for fault in caught.value.faults} == {"manifests/k/kustomization.yaml.tmpl:2"}


def test_kustomize_kubectl_failure_warns_and_reads_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: Sequence[Any], **_: object) -> process.ProcessResult:
        raise CommandError("kubectl: exit code 1", details=f"error: {argv[2]}/x is wrong")

    monkeypatch.setattr(process, "run", run)
    found = scan(write(tmp_path, FILES), "/bin/kubectl")
    assert "mirror.example.com/api:2.4" in found.names
    assert found.warnings[0].message == "kubectl cannot render this kustomization: error: manifests/overlay/x is wrong"


@pytest.mark.parametrize("resource", ["https://example.com/x.yaml", "github.com/x/y?ref=1", "/etc/passwd", "../../../outside", "."])
def test_kustomize_resource_outside_image_warns_without_running_kubectl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resource: str
) -> None:
    monkeypatch.setattr(process, "run", lambda *_, **__: pytest.fail("kubectl is run"))
    write(tmp_path, {"k/kustomization.yml": f"resources: ['{resource}', a.yaml]\n", "k/a.yaml": "spec: {containers: [{image: 'a:1'}]}\n"})
    found = scan(tmp_path, "/bin/kubectl", "kubectl apply -k k")
    assert found.names == ("docker.io/library/a:1",)
    assert [warning.message for warning in found.warnings] == [f"{resource} is not a file of the image, so it is not read"]


def test_kustomize_without_kubectl_reads_patches_as_written(tmp_path: Path) -> None:
    kustomization = """
        resources: [a.yaml]
        patches:
        - path: patch.yaml
        - patch: |
            spec: {containers: [{image: "inline:1"}]}
        configMapGenerator:
        - {name: x, files: [key=data.txt]}
    """
    pod = "spec: {containers: [{image: '%s:1'}]}\n"
    write(tmp_path, {"k/kustomization.yaml": kustomization, "k/a.yaml": pod % "a", "k/patch.yaml": pod % "patch", "k/data.txt": "x"})
    found = scan(tmp_path, None, "kubectl apply -k k")
    assert [name.removeprefix("docker.io/library/") for name in found.names] == ["a:1", "inline:1", "patch:1"]
    assert [warning.hint for warning in found.warnings] == ["put kubectl on PATH"]


@pytest.mark.parametrize(
    ("files", "where"),
    [
        ({"k/kustomization.yaml": "a: [\n"}, "k/kustomization.yaml:2"),
        ({"k/kustomization.yaml": "images:\n- {name: Bad}\n"}, "k/kustomization.yaml:2"),
        ({"k/kustomization.yaml": "resources: [a.yaml]\n", "k/a.yaml": "a: [\n"}, "k/a.yaml:2"),
        ({"k/a.yaml": "a: 1\n"}, "k"),
    ],
)
def test_kustomize_broken_kustomization_raises_input_error_with_location(tmp_path: Path, files: dict[str, str], where: str) -> None:
    with pytest.raises(InputError) as caught:
        scan(write(tmp_path, files), None, "kubectl apply -k k")
    assert [fault.where for fault in caught.value.faults] == [where]


def test_kustomize_more_than_500_kustomizations_raise_input_error(tmp_path: Path) -> None:
    def folder(number: int) -> str:
        return ", ".join(f"{dots}../f{number}" for dots in ("", "./", "././", "../overlay/"))

    files = {f"manifests/f{number}/kustomization.yaml": f"resources: [{folder(number + 1)}]\n" for number in range(12)}
    files |= {"manifests/overlay/kustomization.yaml": "resources: [../f0]\n", "manifests/f12/kustomization.yaml": "{}\n"}
    with pytest.raises(InputError) as caught:
        scan(write(tmp_path, files))
    assert [fault.message for fault in caught.value.faults] == ["it is one of more than 500 kustomizations"]

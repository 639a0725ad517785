"""The templates of an unpacked rootfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError
from harness.templates import tree
from harness.templates.tree import left_as_text, render_tree
from tests.unit.templates.environment import ENV

CASES = Path(__file__).parents[2] / "cases"


def test_render_tree_output_over_total_limit_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_LARGEST_TREE", 10)
    with pytest.raises(InputError, match="more than 10 characters together"):
        render_tree(root, ENV)
    assert (root / "manifests/app.yaml").read_text() == "port: {{ Port }}\n"


def test_render_tree_large_file_is_kept_and_large_template_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_LARGEST", 40)
    (root / "etc/large").write_text("{{ .Port }}" * 5)
    (root / "etc/large.j2").write_text("{{ Port }}" * 5)
    with pytest.raises(InputError) as refused:
        render_tree(root, ENV)
    assert [(fault.where, fault.message) for fault in refused.value.faults] == [
        ("etc/large.j2", "a template of more than 40 bytes is not rendered")
    ]
    (root / "etc/large.j2").unlink()
    written = render_tree(root, ENV)
    assert "etc/conf" in written
    assert "etc/large" not in written
    assert (root / "etc/large").read_text() == "{{ .Port }}" * 5


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {
        "manifests/app.yaml": "port: {{ Port }}\n",
        "manifests/plain.yaml": "port: 1\n",
        "manifests/sub/b.yaml.tmpl": "cidr: {{ .PodCIDR | b64enc }}\n",
        "etc/conf": "{{ .Port }}",
        "scripts/run.sh": "docker inspect --format '{{ Port }}'",
        "scripts/made.sh.j2": "echo {{ Port }}",
        "charts/web/templates/a.yaml": "{{ .Port }} {{ .Values.x }}",
        "charts/web/x.tmpl": "{{ .Port }}",
        "application/apps/web/a.yaml": "{{ Port }}",
        "application/apps/web/b.yaml.tmpl": "{{ .Port }} {{ .PodCIDR }}",
        "application/apps/helm/Chart.yaml": "name: x",
        "application/apps/helm/templates/x.tmpl": "{{ nonsense }}",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "etc/binary").write_bytes(b"\0{{ Port }}\xff")
    (tmp_path / "etc/latin").write_bytes(b"\xe9 {{ Port }}")
    (tmp_path / "scripts/made.sh.j2").chmod(0o755)
    return tmp_path


def test_render_tree_renders_templates_and_keeps_other_files(root: Path) -> None:
    changed = render_tree(root, ENV, {"web": {"Port": "1"}})
    assert changed == ["application/apps/web/b.yaml", "etc/conf", "manifests/app.yaml", "manifests/sub/b.yaml", "scripts/made.sh"]
    assert (root / "manifests/app.yaml").read_text() == "port: 8443\n"
    assert (root / "manifests/sub/b.yaml").read_text() == "cidr: MTAwLjY0LjAuMC8xMA==\n"
    assert (root / "application/apps/web/b.yaml").read_text() == "1 100.64.0.0/10"
    assert (root / "application/apps/web/a.yaml").read_text() == "{{ Port }}"
    assert (root / "scripts/run.sh").read_text() == "docker inspect --format '{{ Port }}'"
    assert (root / "scripts/made.sh").stat().st_mode & 0o777 == 0o755
    assert (root / "etc/binary").read_bytes() == b"\0{{ Port }}\xff"
    assert (root / "charts/web/x.tmpl").exists()
    assert not (root / "charts/web/x").exists()
    assert not list(root.rglob(".*"))


def test_render_tree_again_with_other_values_starts_from_templates(root: Path) -> None:
    render_tree(root, ENV)
    assert render_tree(root, {**ENV, "Port": "2", "PodCIDR": "x"}) == [
        "application/apps/web/b.yaml",
        "manifests/sub/b.yaml",
        "scripts/made.sh",
    ]
    assert (root / "scripts/made.sh").read_text() == "echo 2"


def test_render_tree_undefined_name_writes_nothing(root: Path) -> None:
    (root / "manifests/z.yaml").write_text("\na: {{ Other }}")
    (root / "etc/z.tmpl").write_text("{{ .More }}")
    with pytest.raises(InputError) as caught:
        render_tree(root, ENV)
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        ("etc/z.tmpl:1", "More is not defined"),
        ("manifests/z.yaml:2", "Other is not defined"),
    ]
    assert (root / "manifests/app.yaml").read_text() == "port: {{ Port }}\n"


def test_render_tree_links_are_not_written_through(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "file.yaml"
    outside.write_text("{{ Port }}")
    (root / "manifests/link.yaml").symlink_to(outside)
    (root / "etc/hard").hardlink_to(outside)
    (root / "manifests/dir").symlink_to(outside.parent)
    assert "manifests/link.yaml" not in render_tree(root, ENV)
    assert outside.read_text() == "{{ Port }}"
    assert (root / "etc/hard").read_text() == "8443"


def test_render_tree_sealer_cases_are_rendered(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "manifests").mkdir()
    kubeadm = (CASES / "sealer/pkg/env/test/template/kubeadm.yaml.tmpl").read_text()
    (tmp_path / "etc/kubeadm.yaml.tmpl").write_text(kubeadm)
    dashboard = (CASES / "dashboard-port/dashboard.yaml").read_text()
    (tmp_path / "manifests/dashboard.yaml").write_text(dashboard)
    render_tree(tmp_path, {"DashBoardPort": "8443", "PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/22"})
    assert "targetPort: 8443\n" in (tmp_path / "manifests/dashboard.yaml").read_text()
    assert (tmp_path / "etc/kubeadm.yaml").read_text().endswith("podSubnet: 100.64.0.0/10\n  serviceSubnet: 10.96.0.0/22")


def test_templates_yields_rendered_files_without_values_schema(root: Path) -> None:
    (root / "etc/values.schema.json").write_text('{"description": "{{ Port }}"}')
    found = dict(tree.templates(root))
    assert sorted(found) == [
        "application/apps/web/b.yaml.tmpl",
        "etc/conf",
        "manifests/app.yaml",
        "manifests/sub/b.yaml.tmpl",
        "scripts/made.sh.j2",
    ]
    assert found["manifests/app.yaml"] == "port: {{ Port }}\n"
    assert "etc/values.schema.json" not in render_tree(root, ENV)


def test_left_as_text_lists_unknown_capitalized_names_outside_yaml(root: Path) -> None:
    (root / "etc/other.conf").write_text("{{ Site }} {{ Site }} {{ .Status }} {{ lower }} {{ Known }} {{ Zone }}")
    (root / "etc/b.yaml").write_text("a: '{{ Quoted }}'")
    assert list(left_as_text(root, {"Known", "Port"})) == [("etc/other.conf", "Site"), ("etc/other.conf", "Zone")]

"""Values that are known only when an image runs, in the run that finds its images."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import kubefile
from harness.build import image_discovery
from harness.build.cluster_run import RootfsRun, RunRecord
from harness.build.expected_values import TemplateFile, find
from harness.build.options import BuildOptions
from harness.cloudimage import Info
from harness.errors import BuildError, InputError


def discovery_of(tree: Path, text: str, given: dict[str, str] | None = None, boot: Any = None, **info: Any) -> Any:
    """The discovery of an image with one manifest, whose cluster is ``boot``."""
    (tree / "manifests").mkdir()
    (tree / "manifests/a.yaml").write_text(text)
    (tree / "etc").mkdir()
    (tree / "etc/slipway.yaml").write_text("kubernetes: v1.36.3\n")
    values = find([TemplateFile("manifests/a.yaml", text, "manifests/a.yaml")], info.get("env", {}))
    discovery = image_discovery.ImageDiscovery(
        BuildOptions(tree, "shop", discover=("pulled",), env=given or {}),
        SimpleNamespace(  # type: ignore[arg-type]
            work=SimpleNamespace(tree=lambda: tree, files=lambda: ["etc/slipway.yaml", "manifests/a.yaml"], store=None, layers=()),
            info=Info(kubernetes="v1.36.3", values=values.values, **info),
            values=values,
            parsed=kubefile.parse("FROM scratch\n", "Kubefile"),
            foreign=False,
            base=None,
            platform=None,
            sources=(),
            archives=(),
            locked={},
            own=SimpleNamespace(builder=None, choice=None, marked=lambda image: image),
            permits=SimpleNamespace(declare=list),
        ),
    )
    discovery._boot = boot or (lambda *_: RunRecord((), {}, frozenset()))  # type: ignore[method-assign]
    return discovery


def test_discovery_missing_value_gets_reported_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, Any] = {}

    def boot(rootfs: RootfsRun, env: dict[str, str]) -> RunRecord:
        seen.update(text=(rootfs.tree / "manifests/a.yaml").read_text(), env=env)
        return RunRecord((), {}, frozenset())

    discovery_of(tmp_path, "kind: Service\ntargetPort: {{ Web }}\n", boot=boot)._run()
    assert seen["text"] == "kind: Service\ntargetPort: 18080\n"
    assert seen["env"]["Web"] == "18080"
    assert "Web: 18080 stands in for it (manifests/a.yaml:2); -e Web=VALUE gives another" in capsys.readouterr().err


def test_discovery_given_value_replaces_stand_in(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    discovery_of(tmp_path, "targetPort: {{ Web }}\n", {"Web": "8443"})._run()
    assert (tmp_path / "manifests/a.yaml").read_text() == "targetPort: 8443\n"
    assert "stands in" not in capsys.readouterr().err


def test_discovery_missing_image_value_raises_input_error_before_boot(tmp_path: Path) -> None:
    def boot(*_: Any) -> Any:
        raise AssertionError("a cluster boots")

    with pytest.raises(InputError, match="Image has no value, and nothing can stand in for it"):
        discovery_of(tmp_path, "containers:\n- image: {{ Image }}\n", boot=boot)._run()


@pytest.mark.parametrize(
    ("said", "named"),
    [("Service web: targetPort 18080 is refused", "Web=18080"), ("something else", "Size=x0-size, Web=18081")],
)
def test_discovery_failed_run_hints_at_stand_ins_and_value_options(tmp_path: Path, said: str, named: str) -> None:
    def boot(*_: Any) -> Any:
        raise BuildError("the launch command failed", hint="look", details=said)

    text = "targetPort: {{ Web }}\n" + ("" if "18080" in said else "name: {{ Size }}\n")
    with pytest.raises(BuildError) as caught:
        discovery_of(tmp_path, text, boot=boot)._run()
    options = " ".join(f"-e {part.partition('=')[0]}=VALUE" for part in named.split(", "))
    assert caught.value.hint == (
        f"look; it ran with what stands in for values that are not known yet ({named}); give real ones: slipway build {options}"
    )


def test_discovery_key_values_hold_stand_ins_and_hide_secrets(tmp_path: Path) -> None:
    discovery = discovery_of(tmp_path, "targetPort: {{ Web }}\na: {{ DbPassword }}\n", {"DbPassword": "hunter2"})
    values = discovery._values_of_key()
    assert values["Web"].isdigit()
    assert "hunter2" not in values["DbPassword"]
    (tmp_path / "other").mkdir()
    assert discovery_of(tmp_path / "other", "a: 1\n")._values_of_key() == {}

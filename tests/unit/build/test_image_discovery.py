"""The run on a throw-away cluster that finds container images."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.build import image_discovery, sandbox
from harness.cloudimage import ImageApp, Info
from harness.errors import InputError
from harness.kubefile import instructions
from harness.runtimes import Facts


class Box:
    """A throw-away cluster that remembers what was done in it."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.proxy = SimpleNamespace(pulled=[], served_bytes=0)

    def run(self, *argv: str) -> str:
        self.done.append(argv[0])
        return json.dumps({"items": []})

    def launch(self, command: str) -> None:
        self.done.append(command)


def test_a_network_that_an_application_brings_is_launched_before_a_node_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    box = Box()
    plans: list[sandbox.SandboxPlan] = []

    @contextlib.contextmanager
    def make(plan: sandbox.SandboxPlan, *_: Any) -> Iterator[Box]:
        plans.append(plan)
        yield box

    monkeypatch.setitem(image_discovery.CLUSTERS, "kind", make)
    app = ImageApp("calico", "kube", commands=("apply calico",), labels={f"{instructions.LABEL_CNI}calico": "true"})
    discovery: Any = SimpleNamespace(
        info=Info(apps=(app,), cluster_apps=("calico",), launch=("apply calico", "apply web")),
        options=SimpleNamespace(keep=False, cluster="kind"),
        part=SimpleNamespace(sources=(), own=SimpleNamespace(builder=None)),
        work=SimpleNamespace(store=None),
        _image=lambda: None,
        _settle=lambda *_: None,
    )
    image_discovery.ImageDiscovery._boot(discovery, tmp_path, Facts("v1.36.3"), {})
    assert plans[0].own_network
    assert box.done[:3] == ["apply calico", "wait", "apply web"]


def test_missing_value_is_one_fault_without_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "manifests/a.yaml").write_text("kind: ConfigMap\nport: {{ Undefined }}\n")
    discovery: Any = image_discovery.ImageDiscovery(
        SimpleNamespace(image_list=None, discover=("declared",), context=tmp_path),  # type: ignore[arg-type]
        SimpleNamespace(  # type: ignore[arg-type]
            work=SimpleNamespace(tree=lambda: tmp_path, files=lambda: ["manifests/a.yaml"]),
            info=Info(),
            permits=SimpleNamespace(declare=list),
        ),
    )
    with pytest.raises(InputError) as caught:
        discovery._run()
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [("manifests/a.yaml:2", "Undefined is not defined")]
    assert "to be given when the image runs" not in capsys.readouterr().err

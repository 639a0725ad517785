"""The rootfs of a CloudImage for one platform."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import kubefile
from harness.build import image_info, platform_build
from harness.build.options import BuildOptions
from harness.build.platform_build import PlatformBuild, PlatformBuilder
from harness.cloudimage import ImageSet, ProvingRun, rootfs
from harness.errors import BuildError, InputError
from harness.oci.model import Platform
from harness.oci.registry.guarded import Permits
from harness.oci.store import Store

KUBEFILE = "FROM scratch\nARG TOKEN=confidential\nCOPY app.yaml manifests/\nCMD kubectl apply -f manifests/app.yaml\n"


@pytest.fixture
def builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PlatformBuilder:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "app.yaml").write_text("kind: List\n")
    (tmp_path / "Kubefile").write_text(KUBEFILE)
    remote: Any = SimpleNamespace(permits=Permits(()))
    choice: Any = None
    return PlatformBuilder(BuildOptions(tmp_path, "web"), Store(tmp_path / "store"), remote, choice, contextlib.ExitStack())


def built(builder: PlatformBuilder, platform: Platform) -> PlatformBuild:
    with builder.stack:
        return builder.build(platform, kubefile.parse(KUBEFILE, "K", platform=str(platform)))


def test_build_makes_one_layer_per_instruction_with_files(builder: PlatformBuilder) -> None:
    text = f"{KUBEFILE}ENV Port=80\nCOPY app.yaml etc/\nLABEL team=web\n"
    with builder.stack:
        part = builder.build(Platform.host(), kubefile.parse(text, "K"))
    image = part.image(ImageSet())
    trees = [rootfs.merged(builder.store, [layer]) for layer in image.layers]
    assert [[path for path, entry in tree.items() if entry.kind == "file"] for tree in trees] == [["manifests/app.yaml"], ["etc/app.yaml"]]
    assert len(set(image.diff_ids)) == 2
    assert [item.created_by.partition(" ")[0] for item in image.history if not item.empty] == ["COPY", "COPY"]
    assert image.info.launch == ("kubectl apply -f manifests/app.yaml",)
    assert not part.foreign


def test_build_lists_names_of_arguments_and_not_their_values(builder: PlatformBuilder) -> None:
    history = built(builder, Platform.host()).image(ImageSet()).history
    assert [item.created_by for item in history if item.empty][:2] == ["FROM scratch", "ARG TOKEN"]


def test_build_exercise_is_not_in_image_and_changes_no_layer(builder: PlatformBuilder) -> None:
    with builder.stack:
        host = Platform.host()
        plain, exercised = (builder.build(host, kubefile.parse(text, "K")) for text in (KUBEFILE, f"{KUBEFILE}EXERCISE kubectl get pods\n"))
    assert exercised.image(ImageSet()) == plain.image(ImageSet())
    proven = ProvingRun(exercise=f"sha256:{'a' * 64}")
    assert exercised.image(ImageSet(), proven).info.proven == proven


def test_build_records_values_expected_by_files(builder: PlatformBuilder) -> None:
    (builder.options.context / "app.yaml").write_text("kind: Service\ntargetPort: {{ Port }}\n")
    part = built(builder, Platform.host())
    (value,) = part.image(ImageSet()).info.values
    assert (value.name, value.where, value.required) == ("Port", ("manifests/app.yaml:2",), True)
    assert part.values.stand_ins == {"Port": "18080"}


def test_build_of_same_files_does_not_read_tree_again(builder: PlatformBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    (builder.options.context / "app.yaml").write_text("targetPort: {{ Port }}\n")
    before = built(builder, Platform.host()).values
    monkeypatch.setattr(image_info, "templates", None)
    assert built(builder, Platform.host()).values == before


def test_build_schema_defaults_become_environment(builder: PlatformBuilder) -> None:
    schema = '{"properties": {"Port": {"type": "integer", "default": 80}, "Phrase": {"writeOnly": true}}}'
    (builder.options.context / "values.schema.json").write_text(schema)
    text = f"{KUBEFILE}COPY values.schema.json etc/\n"
    with builder.stack:
        info = builder.build(Platform.host(), kubefile.parse(text, "K")).info
    assert info.env == {"Port": "80"}
    assert [(value.name, value.required, value.secret) for value in info.values] == [("Phrase", False, True), ("Port", False, False)]
    with pytest.raises(InputError, match="Phrase is writeOnly"), contextlib.ExitStack() as stack:
        PlatformBuilder(builder.options, builder.store, builder.remote, builder.choice, stack).build(
            Platform.host(), kubefile.parse(f"{text}ENV Phrase=x\n", "K")
        )


def test_build_for_host_failure_hint_explains_native_run(builder: PlatformBuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise BuildError("no base", hint="pull it")

    monkeypatch.setattr(platform_build, "base_image", fail)
    with pytest.raises(BuildError, match="no base") as caught:
        builder.build_for_host()
    assert str(caught.value.hint).startswith("pull it; container images for ")

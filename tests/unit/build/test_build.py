"""What a build says about what it was given."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness import build, kubefile
from harness.build import BuildOptions, exposed, image_choice, read_all, releases, sandbox, settled
from harness.build.layers import BuildStep
from harness.cloudimage import ImageApp, Info
from harness.errors import BuildError, InputError
from harness.kubefile import instructions
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.runtimes import Facts

KUBEFILE = """FROM scratch
ARG DB_PASSWORD=changeit1
ARG PORT=8443
ARG API_TOKEN=fromfile1
CMD app --login ${DB_PASSWORD} --port ${PORT}
"""


def test_a_secret_that_is_given_as_build_argument_and_ends_in_the_image_is_told() -> None:
    parsed = kubefile.parse(KUBEFILE, "K", build_args={"DB_PASSWORD": 'hunter"2 é'})
    (warning,) = exposed(parsed, Info(type="app", launch=parsed.launch or ('app --login hunter"2 é --port 8443',)), [])
    assert warning.startswith("K:2: the value of ARG DB_PASSWORD looks like a secret")
    assert "run -e" in warning
    assert "hunter" not in warning
    (warning,) = exposed(parsed, Info(type="app"), [BuildStep("1", "RUN curl -H fromfile1", None)])
    assert warning.startswith("K:4:")


def test_what_is_no_secret_or_stays_out_of_the_image_is_not_told() -> None:
    parsed = kubefile.parse(KUBEFILE, "K")
    assert exposed(parsed, Info(type="app", launch=("app --port 8443",)), [BuildStep("1", "COPY a b", None)]) == []


SEVERAL = """FROM scratch
ARG SOURCE=auto
ARG MIRROR=https://site.invalid
ARG VERSION=stable
COPY --from=example.test/kubernetes-${SOURCE}:${VERSION} /rootfs/ .
"""
BOTH = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))


def copied(options: BuildOptions) -> list[str | None]:
    """The image that the Kubefile copies from, for each platform."""
    return [copy.from_image for parsed in read_all(options).values() for copy in parsed.of(instructions.Copy)]


def test_source_and_version_mean_the_same_for_every_platform_and_to_the_end_of_a_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "Kubefile").write_text(SEVERAL)
    answers, versions = iter((True, False)), iter(("v1.36.3", "v1.36.4"))
    monkeypatch.setattr(image_choice, "site_answers", lambda _: next(answers))
    monkeypatch.setattr(releases, "_published", lambda *_: next(versions))
    options = settled(BuildOptions(tmp_path, "x", platforms=BOTH))
    assert copied(options) == ["example.test/kubernetes-release:v1.36.3"] * 2
    # As the rootfs that only finds images is read, later.
    assert copied(settled(options)) == ["example.test/kubernetes-release:v1.36.3"] * 2
    assert (next(answers), next(versions)) == (False, "v1.36.4")


def test_a_build_settles_before_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kubefile").write_text(SEVERAL)
    monkeypatch.setattr(image_choice, "site_answers", lambda _: True)
    monkeypatch.setattr(releases, "_published", lambda *_: "v1.36.3")
    seen: list[BuildOptions] = []

    def stop(options: BuildOptions) -> None:
        seen.append(options)
        raise BuildError("far enough")

    monkeypatch.setattr(build, "read_all", stop)
    with pytest.raises(BuildError, match="far enough"):
        build.build(BuildOptions(tmp_path, "x", platforms=BOTH), Store(tmp_path / "store"))
    with pytest.raises(BuildError, match="far enough"):
        build.check(BuildOptions(tmp_path, "x", platforms=BOTH))
    assert [dict(options.build_args) for options in seen] == [
        {"SOURCE": "release", "VERSION": "v1.36.3"},
        {"SOURCE": "modules", "VERSION": "v1.36.3"},
    ]


def test_a_kubefile_with_faults_is_told_of_by_its_reader_and_nothing_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "Kubefile").write_text(f"{SEVERAL}COYP a b\n")
    monkeypatch.setattr(image_choice, "site_answers", lambda _: pytest.fail("it is asked"))
    with pytest.raises(InputError, match="unknown instruction COYP"):
        build.build(BuildOptions(tmp_path, "x", platforms=BOTH), Store(tmp_path / "store"))


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

    monkeypatch.setitem(build.CLUSTERS, "kind", make)
    app = ImageApp("calico", "kube", commands=("apply calico",), labels={f"{instructions.LABEL_CNI}calico": "true"})
    discovery: Any = SimpleNamespace(
        info=Info(apps=(app,), cluster_apps=("calico",), launch=("apply calico", "apply web")),
        options=SimpleNamespace(keep=False, cluster="kind"),
        part=SimpleNamespace(sources=(), own=SimpleNamespace(builder=None)),
        work=SimpleNamespace(store=None),
        _image=lambda: None,
        _settle=lambda *_: None,
    )
    build.ImageDiscovery._boot(discovery, tmp_path, Facts("v1.36.3"), {})
    assert plans[0].own_network
    assert box.done[:3] == ["apply calico", "wait", "apply web"]

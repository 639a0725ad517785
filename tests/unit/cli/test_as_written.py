"""The command lines and files that the idea was first explained with, typing errors included, as their users have them."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from harness import build, cloudimage, kubefile
from harness.cli import app, registry, run
from harness.cli.cluster_options import ClusterOptions
from harness.cli.options import addresses
from harness.cloudimage import ImageSet, Info, PlatformImage
from harness.clusterfile import Clusterfile
from harness.clusterfile.parse import parse
from harness.oci.model import Platform
from harness.oci.store import Store
from harness.transfer import push
from tests.as_written import texts

LINES = {
    "build -t kubernetes-with-dashobard:latest .": "build kubernetes-with-dashobard:latest",
    "run kubernetes-with-dashobard:latest --master 192.168.0.2,192.168.0.3,192.168.0.4 --node 192.168.0.5,192.168.0.6 --passwd xxx":
        "run kubernetes-with-dashobard:latest on 192.168.0.2 192.168.0.3 192.168.0.4 and 192.168.0.5 192.168.0.6 with xxx",
    "tag kubernetes-with-dashobard:latest docker.io/fanux/dashobard:latest": "fanux/dashobard:latest",
    "push docker.io/fanux/dashobard:latest": "push docker.io/fanux/dashobard:latest",
    "build -t your-saas-application-with-mysql-redis-es:latest .": "build your-saas-application-with-mysql-redis-es:latest",
    "run your-saas-application-with-mysql-redis-es:latest": "run your-saas-application-with-mysql-redis-es:latest",
    "run prometheus:latest": "run prometheus:latest",
    "run -e DashBoardPort=8443 mydashboard:latest": "run mydashboard:latest DashBoardPort=8443",
    "run xxxSaaS": "run xxxsaas",
    "run mysql-cluster": "run mysql-cluster",
    "run kubernetes": "run kubernetes",
}  # fmt: skip
CLUSTERFILE = texts.text("configuration/Clusterfile")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path))
    monkeypatch.delenv("SLIPWAY_SSH_PASSWORD", raising=False)
    return Store(tmp_path / "store")


@pytest.mark.parametrize("line", LINES)
def test_command_line_as_written_is_understood(
    line: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    """Each line reaches the work that it asks for, which is not done here."""
    asked: list[str] = []

    def building(options: Any, _: Store) -> None:
        asked.append(f"build {options.tag}")
        raise KeyboardInterrupt

    def pushing(_: Store, name: str, there: Any, __: Any, *, replace: bool) -> None:
        assert replace
        asked.append(f"push {there}" if name else "")
        raise KeyboardInterrupt

    def wanted(options: ClusterOptions, *_: object) -> None:
        spec, ssh = options.spec, options.ssh
        words = [f"run {' '.join(spec.images or [])}", *(spec.env or [])]
        if spec.control_plane:
            control_plane, workers = (" ".join(addresses(each, "")) for each in (spec.control_plane, spec.workers))
            words.append(f"on {control_plane} and {workers} with {ssh.password()}")
        asked.append(" ".join(words))
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build", building)
    monkeypatch.setattr(push, "push", pushing)
    monkeypatch.setattr(run, "wanted", wanted)
    monkeypatch.chdir(tmp_path)
    if line.startswith("tag"):
        image = cloudimage.write(store, [PlatformImage(Platform.parse("linux/amd64"), (), (), (), Info(), ImageSet())])
        store.tag("kubernetes-with-dashobard:latest", image)
    code = app.execute(shlex.split(line))
    shown = capsys.readouterr()
    assert code == (0 if line.startswith("tag") else 130), shown.err
    assert (asked or shown.out.split())[0] == LINES[line]
    assert ("every user of this machine can read the password" in shown.err) is ("--passwd" in line)
    assert ("names of images have no capitals; xxxsaas is taken" in shown.err) is ("SaaS" in line)


def test_clusterfile_image_with_capitals_is_lowercased_with_warning() -> None:
    found: Clusterfile = parse(CLUSTERFILE, "Clusterfile")
    assert found.cluster is not None
    assert found.cluster.image == "registry.cn-qingdao.aliyuncs.com/sealer-app/my-saas-all-inone:latest"
    assert [warning.where for warning in found.warnings] == ["Clusterfile:6 .spec.image"]
    assert found.warnings[0].message.endswith("my-saas-all-inone:latest is taken")


@pytest.mark.parametrize("case", ["quick-start", "runtime", "configuration", "environment"])
def test_kubefile_as_written_has_neither_faults_nor_warnings(case: str) -> None:
    assert kubefile.parse(texts.text(f"{case}/Kubefile"), "Kubefile").warnings == ()


def test_command_lines_of_texts_are_all_covered() -> None:
    lines = [line for case in ("quick-start", "saas", "environment") for line in texts.commands(case) if line.startswith("sealer ")]
    assert len(lines) == 8
    assert {shlex.join(shlex.split(line.replace("\\\n", ""), comments=True)[1:]) for line in lines} <= set(LINES)


@pytest.mark.parametrize("case", ["configuration", "environment"])
def test_clusterfile_as_written_has_no_faults(case: str) -> None:
    found = parse(texts.text(f"{case}/Clusterfile"), "Clusterfile")
    assert found.cluster is not None
    assert found.cluster.hosts == ()


def test_kubefile_from_with_capitals_is_lowercased_with_warning() -> None:
    parsed = kubefile.parse("FROM registry.example.com/My-SaaS:V1\n", "Kubefile")
    assert parsed.base.image == "registry.example.com/my-saas:V1"
    assert len(parsed.warnings) == 1


def test_stored_image_name_with_capitals_is_lowercased_with_warning(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    """A build has taken the name in lower case, and every verb finds the image by what its user types."""
    name = "registry.example.com/my-SAAS:latest"
    store.tag(
        name.lower(), cloudimage.write(store, [PlatformImage(Platform.parse("linux/amd64"), (), (), (), Info(type="app"), ImageSet())])
    )
    for verb in (["inspect"], ["tag"], ["save", "--to", str(store.root.parent / "saved.tar")], ["rmi"]):
        words = [*verb, name, *(["other:1"] if verb == ["tag"] else [])]
        assert app.execute(words) == 0, words
        assert "registry.example.com/my-saas:latest is taken" in capsys.readouterr().err, words
    assert list(store.names()) == ["other:1"]
    assert app.execute(["push", name]) == 4
    assert "registry.example.com/my-saas:latest: no such image" in capsys.readouterr().err


def test_run_image_name_invalid_beyond_capitals_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["run", "My//SaaS"]) == 2
    assert "My//SaaS" in capsys.readouterr().err
    assert registry.reference("Registry.example.com/a", "NAME").domain == "Registry.example.com"

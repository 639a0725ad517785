"""One request of several images, and the summary of a cluster that was made."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from harness.cli import app, clusterfile, install, run
from harness.errors import UsageError
from harness.lifecycle.apps.install import InstallResult
from harness.lifecycle.run import Summary
from harness.oci.store import Store
from tests.unit.lifecycle.test_run import build


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Has web, which brings Kubernetes, and the applications shop:1 and more:1."""
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    store = Store.default()
    build(store)
    for name in ("shop:1", "more:1"):
        build(store, name, {"a.yaml": "kind: A"}, network=False, type="app", launch=("kubectl apply -f a.yaml",))
    return store


def steps(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert app.execute(["run", *words, "--plan", "--output", "json"]) == 0
    return [step["id"] for step in json.loads(capsys.readouterr().out)]


def test_run_plan_of_several_images_lists_cluster_and_application_steps(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert store.names()
    found = steps(capsys, "more:1", "web", "shop:1", "--control-plane", "10.0.0.1", "-e", "Port=80")
    assert found[0] == "connect"
    assert found[-3:] == ["record", "app-more", "app-shop"]
    Path("Clusterfile").write_text(
        "apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {name: a}\n"
        "spec: {image: [more:1, web, shop:1], hosts: [{ips: [10.0.0.1], roles: [master]}]}\n"
    )
    assert steps(capsys, "-f", "Clusterfile") == found
    assert steps(capsys, "web", "-f", "Clusterfile") == [name for name in found if "app" not in name]


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("web", "web2", "nosuch:1"), 2, ("web2: brings Kubernetes, as web does", "nosuch:1", "2 faults")),
        (("shop:1", "more:1"), 2, ("nothing is known of a cluster default",)),
        (
            ("shop:1", "more:1", "--as", "a", "--cmds", "true", "--workers", "10.0.0.2", "--profile", "cis"),
            2,
            (
                "--as: is for one application, and there are 2",
                "--cmds: is for",
                "--workers: shop:1, more:1 are",
                "--profile: is for",
                "4 faults",
            ),
        ),
        (("web", "shop:1", "--control-plane", "10.0.0.1", "--as", "x"), 2, ("--as is for application images alone",)),
    ],
)
def test_run_incompatible_images_or_options_reports_all_faults(
    store: Store, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], code: int, says: tuple[str, ...]
) -> None:
    build(store, "web2")
    assert app.execute(["run", *words]) == code
    err = capsys.readouterr().err
    assert [text for text in says if text not in err] == []


def test_run_summary_lists_applications(capsys: pytest.CaptureFixture[str]) -> None:
    done = InstallResult("shop", "shop:1", "sha256:1", "lab", ("Pod a",), (), (), 2.0)
    run.tell(Summary("lab", "web", "sha256:2", "v1.36.3", ("a",), (), Path("kubeconfig"), 60.0, 1, (done,)))
    assert "shop (shop:1) runs in lab: 1 objects" in capsys.readouterr().out


def test_only_applications_with_kubernetes_or_unknown_image_is_false(store: Store) -> None:
    assert store.names()
    assert install.only_applications(["shop:1", "more:1"])
    assert not install.only_applications(["shop:1", "web"])
    assert not install.only_applications(["elsewhere"])


def test_confirm_removal_lists_objects_and_requires_confirmation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    with pytest.raises(UsageError, match="needs a confirmation"):
        clusterfile._confirm_removal({"shop": ("Namespace shop", "Pod shop/a")})
    assert capsys.readouterr().out.splitlines()[:3] == ["shop leaves the cluster:", "  - Pod shop/a", "  - Namespace shop"]
    clusterfile._assume_yes({})

"""kubefiles/kubernetes with SOURCE=upstream: official binaries from a mirror that lays files out as the official site does."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness import cloudimage, images, process
from harness.oci import layer
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.sources import descriptors
from tests.conftest import Slipway
from tests.integration.registry import Registry, image, push, registry, serving
from tests.integration.test_platforms import THERE, program

PROJECT = Path(__file__).parents[2]
VERSION = "v1.20.2"


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real programs of that version: those that we compile."""
    store = Store.default()
    found = images.Builder(store, (PROJECT / "images",)).ensure(Reference.parse(f"slipway.dev/kubernetes-debian:{VERSION}"))
    assert found is not None
    root = tmp_path_factory.mktemp("binaries")
    layer.unpack(store, descriptors(store.read(found.digest))[1:], root)
    return root / "rootfs/bin"


@pytest.fixture
def site(tmp_path: Path, binaries: Path) -> Path:
    """release/VERSION/bin/linux/ARCH/NAME and NAME.sha256, as on the official site."""
    folder = tmp_path / f"site/release/{VERSION}/bin/linux/{Platform.host().architecture}"
    folder.mkdir(parents=True)
    for name in ("kubeadm", "kubelet", "kubectl"):
        (folder / name).symlink_to(binaries / name)
        with (binaries / name).open("rb") as file:
            (folder / f"{name}.sha256").write_text(hashlib.file_digest(file, "sha256").hexdigest())
    return folder


@pytest.fixture
def mirror(site: Path, tmp_path: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "site"))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """k8s.gcr.io and slipway.dev's network add-on come from a loopback registry and from images/."""
    conf = tmp_path / "registries.conf"
    with registry(tmp_path / "upstream") as found:
        conf.write_text(
            '[[registry]]\nprefix = "k8s.gcr.io"\nlocation = "k8s.gcr.io"\n'
            f'[[registry.mirror]]\nlocation = "{found.host}/k8s.gcr.io"\ninsecure = true\n'
        )
        monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(conf))
        yield found


def checksums(site: Path) -> dict[str, str]:
    """What the user knows of the files of a site: architecture/name -> SHA-256."""
    files = [path for path in site.parent.glob("*/*") if not path.suffix]
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def build(
    slipway: Slipway, mirror: str, name: str, platform: Platform | None = None, *, known: Mapping[str, str] | None = None
) -> tuple[int, str]:
    stated = {"CHECKSUMS": ",".join(f"{key}={value}" for key, value in known.items())} if known else {}
    wanted = {"SOURCE": "upstream", "VERSION": VERSION, "MIRROR": mirror, **stated}
    arguments = [f"--build-arg={key}={value}" for key, value in wanted.items()]
    options = ["--discover", "declared", "--platform", str(platform or Platform.host())]
    said = slipway("build", "-t", name, "--network", "host", *options, *arguments, PROJECT / "kubefiles/kubernetes", check=False)
    return said.returncode, said.output


def test_official_binaries_and_the_images_that_kubeadm_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, registries: Registry, binaries: Path, slipway: Slipway
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    wanted = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
    names = {f"{name}:{VERSION}" for name in wanted} | {"pause:3.2", "etcd:3.4.13-0", "coredns:1.7.0"}
    for name in names:
        push(registries, f"k8s.gcr.io/{name.split(':')[0]}", name.split(":")[1], image(name))
    code, output = build(slipway, mirror, "kubernetes:upstream", known=checksums(site))
    assert code == 0, output
    described = json.loads(slipway("inspect", "kubernetes:upstream", "-o", "json").stdout)["platforms"][0]
    assert described["info"]["kubernetes"] == VERSION
    found = {one["name"]: one["foundBy"] for one in described["images"]}
    assert {name for name, how in found.items() if how == ["listed"]} == {f"k8s.gcr.io/{name}" for name in names}
    assert found["slipway.dev/network:1"] == ["declared"]
    store = Store(tmp_path / "home/store")
    layer.unpack(store, cloudimage.read(store, "kubernetes:upstream").platforms[0].layers, tmp_path / "root")
    assert (tmp_path / "root/bin/kubelet").read_bytes() == (binaries / "kubelet").read_bytes()
    assert not (tmp_path / "root/etc/addons/dns.yaml").exists()


def test_binaries_of_another_platform_are_fetched_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, registries: Registry, slipway: Slipway
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    theirs = program(THERE.architecture)
    (site.parent / THERE.architecture).mkdir()
    for name in ("kubeadm", "kubelet", "kubectl"):
        (site.parent / THERE.architecture / name).write_bytes(theirs)
        (site.parent / THERE.architecture / f"{name}.sha256").write_text(hashlib.sha256(theirs).hexdigest())
    # Which images kubeadm names, only this machine's own can tell.
    wanted = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
    names = {f"{name}:{VERSION}" for name in wanted} | {"pause:3.2", "etcd:3.4.13-0", "coredns:1.7.0"}
    for name in names:
        push(registries, f"k8s.gcr.io/{name.split(':')[0]}", name.split(":")[1], image(name, platform=str(THERE)))
    code, output = build(slipway, mirror, "kubernetes:theirs", THERE, known=checksums(site))
    assert code == 0, output
    store = Store(tmp_path / "home/store")
    part = cloudimage.read(store, "kubernetes:theirs").platform(THERE)
    assert {f"k8s.gcr.io/{name}" for name in names} <= {one.name for one in part.images.images}
    layer.unpack(store, part.layers, tmp_path / "root")
    assert (tmp_path / "root/bin/kubelet").read_bytes() == theirs


def test_a_binary_with_another_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, slipway: Slipway
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    stated = {**checksums(site), f"{Platform.host().architecture}/kubelet": "0" * 64}
    code, output = build(slipway, mirror, "kubernetes:forged", known=stated)
    assert code == 3
    assert "kubelet has checksum" in output
    assert f"not the stated {'0' * 64}" in output


def test_checksums_of_a_plain_mirror_are_worth_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, slipway: Slipway
) -> None:
    """Who can change the binary on its way can change the checksum beside it as well."""
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    some = {key: value for key, value in checksums(site).items() if not key.endswith("/kubectl")}
    for known in (None, some):
        code, output = build(slipway, mirror, "kubernetes:plain", known=known)
        assert code == 3
        assert "it is not https" in output


CURL = """#!/bin/sh
# Serves the folder $SITE as whatever site is asked for, and notes how it was called.
echo "$*" >> "$CALLS"
while [ "$#" -gt 1 ]; do [ "$1" != --output ] || file=$2; shift; done
cp "$SITE/${1#*://*/}" "$file"
"""


@pytest.mark.parametrize("published", ["right", "wrong"])
def test_what_an_https_mirror_publishes_is_compared(site: Path, tmp_path: Path, published: str) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "curl").write_text(CURL)
    (programs / "dpkg").write_text(f"#!/bin/sh\necho {Platform.host().architecture}\n")
    for path in programs.iterdir():
        path.chmod(0o755)
    if published == "wrong":
        (site / "kubelet.sha256").write_text("0" * 64)
    calls = tmp_path / "calls"
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "SITE": str(tmp_path / "site"), "CALLS": str(calls)}
    script = PROJECT / "images/kubernetes-upstream/fetch.sh"
    said = process.run(["sh", script, "https://mirror.invalid", VERSION, tmp_path / "out"], env=environment, check=False)
    assert said.ok == (published == "right"), said.output
    assert (f"not the published {'0' * 64}" in said.stderr) == (published == "wrong")
    assert calls.read_text().count("--proto-redir =https") == len(calls.read_text().splitlines())


def test_a_version_that_the_site_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, slipway: Slipway
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    code, output = build(slipway, f"{mirror}/elsewhere", "kubernetes:none", known=checksums(site))
    assert code == 3
    assert "404" in output

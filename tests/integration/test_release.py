"""Official binaries (SOURCE=release of kubefiles/kubernetes) from a mirror that lays files out as the official site does."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness import cloudimage, process
from harness.build import container_images
from harness.oci import layer
from harness.oci.graph import descriptors
from harness.oci.model import Platform
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.conftest import KUBERNETES, Slipway
from tests.integration.registry import Registry, image, mirrored_by, push, registry, serving
from tests.integration.test_build import context
from tests.integration.test_platforms import THERE, program

PROJECT = Path(__file__).parents[2]
NAMED = frozenset(
    f"registry.k8s.io/{name}"
    for name in (
        f"kube-apiserver:{KUBERNETES}", f"kube-controller-manager:{KUBERNETES}", f"kube-scheduler:{KUBERNETES}", f"kube-proxy:{KUBERNETES}",
        "coredns/coredns:v1.14.6", "pause:3.10.2", "etcd:3.7.0-0",
    )
)  # fmt: skip
"""The images that kubeadm of that version names."""
ADDONS = frozenset(
    (
        "docker.io/flannel/flannel:v0.28.10",
        "docker.io/rancher/local-path-provisioner:v0.0.30",
        "registry.k8s.io/metrics-server/metrics-server:v0.9.0",
    )
)
ALONE = """FROM scratch
ARG SOURCE
ARG VERSION
ARG MIRROR
ARG CHECKSUMS
COPY --from=slipway.dev/kubernetes-release:${VERSION} /rootfs/ .
"""


@pytest.fixture(scope="module")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real programs of that version: those that we compile."""
    store = Store.default()
    found = container_images.Builder(store, (PROJECT / "images",)).ensure(Reference.parse(f"slipway.dev/kubernetes-modules:{KUBERNETES}"))
    assert found is not None
    root = tmp_path_factory.mktemp("binaries")
    layer.unpack(store, descriptors(store.read(found.digest))[1:], root)
    return root / "rootfs/bin"


@pytest.fixture
def site(tmp_path: Path, binaries: Path) -> Path:
    """release/VERSION/bin/linux/ARCH/NAME and NAME.sha256, as on the official site."""
    folder = tmp_path / f"site/release/{KUBERNETES}/bin/linux/{Platform.host().architecture}"
    folder.mkdir(parents=True)
    for name in ("kubeadm", "kubelet", "kubectl"):
        (folder / name).symlink_to(binaries / name)
        with (binaries / name).open("rb") as file:
            (folder / f"{name}.sha256").write_text(hashlib.file_digest(file, "sha256").hexdigest())
    return folder


@pytest.fixture
def fetched() -> list[str]:
    """Paths that the mirror was asked for."""
    return []


@pytest.fixture
def mirror(site: Path, tmp_path: Path, fetched: list[str]) -> Iterator[str]:
    class Noting(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            fetched.append(self.path)
            super().do_GET()

    handler = functools.partial(Noting, directory=str(tmp_path / "site"))
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def registries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """The registries of Kubernetes and its addons are one on loopback."""
    conf = tmp_path / "registries.conf"
    with registry(tmp_path / "upstream") as found:
        conf.write_text(mirrored_by(found, "registry.k8s.io", "docker.io"))
        monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(conf))
        yield found


@pytest.fixture
def alone(tmp_path: Path) -> Path:
    """A context of the binaries and nothing else: it is made in seconds, for any processor."""
    return context(tmp_path / "alone", ALONE)


def checksums(site: Path) -> dict[str, str]:
    """What the user knows of the files of a site: architecture/name -> SHA-256."""
    files = [path for path in site.parent.glob("*/*") if not path.suffix]
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def push_all(where: Registry, names: frozenset[str], platform: Platform) -> None:
    for name in names:
        repository, _, tag = name.rpartition(":")
        push(where, repository, tag, image(name, platform=str(platform)))


def build(
    slipway: Slipway,
    mirror: str,
    name: str,
    platform: Platform | None = None,
    *,
    folder: Path,
    known: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    stated = {"CHECKSUMS": ",".join(f"{key}={value}" for key, value in known.items())} if known else {}
    wanted = {"SOURCE": "release", "VERSION": KUBERNETES, "MIRROR": mirror, **stated}
    arguments = [f"--build-arg={key}={value}" for key, value in wanted.items()]
    options = ["--discover", "declared", "--platform", str(platform or Platform.host())]
    said = slipway("build", "-t", name, "--network", "host", *options, *arguments, folder, check=False)
    return said.returncode, said.output


@pytest.mark.long
def test_build_release_source_embeds_official_binaries_and_images_of_kubeadm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, registries: Registry, binaries: Path, slipway: Slipway
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    push_all(registries, NAMED | ADDONS, Platform.host())
    code, output = build(slipway, mirror, "kubernetes:release", folder=PROJECT / "kubefiles/kubernetes", known=checksums(site))
    assert code == 0, output
    described = json.loads(slipway("inspect", "kubernetes:release", "-o", "json").stdout)["platforms"][0]
    assert described["info"]["kubernetes"] == KUBERNETES
    found = {one["name"]: set(one["foundBy"]) for one in described["images"]}
    assert found == {**{name: {"listed"} for name in NAMED}, **{name: {"declared", "listed"} for name in ADDONS}}
    store = Store(tmp_path / "home/store")
    layer.unpack(store, cloudimage.read(store, "kubernetes:release").platforms[0].layers, tmp_path / "root")
    assert (tmp_path / "root/bin/kubelet").read_bytes() == (binaries / "kubelet").read_bytes()
    facts = (tmp_path / "root/etc/slipway.yaml").read_text()
    assert f"kubernetes: {KUBERNETES}\npauseImage: registry.k8s.io/pause:3.10.2\n" in facts
    assert not (tmp_path / "root/finish.sh").exists()


def test_build_release_source_for_foreign_platform_fetches_its_binaries_and_runs_own_kubeadm(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    site: Path,
    mirror: str,
    fetched: list[str],
    alone: Path,
    registries: Registry,
    slipway: Slipway,
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    theirs = program(THERE.architecture)
    (site.parent / THERE.architecture).mkdir()
    for name in ("kubeadm", "kubelet", "kubectl"):
        (site.parent / THERE.architecture / name).write_bytes(theirs)
        (site.parent / THERE.architecture / f"{name}.sha256").write_text(hashlib.sha256(theirs).hexdigest())
    # Which images kubeadm names, only this machine's own can tell.
    push_all(registries, NAMED, THERE)
    code, output = build(slipway, mirror, "kubernetes:theirs", THERE, folder=alone, known=checksums(site))
    assert code == 0, output
    store = Store(tmp_path / "home/store")
    part = cloudimage.read(store, "kubernetes:theirs").platform(THERE)
    assert {one.name for one in part.images.images} == NAMED
    layer.unpack(store, part.layers, tmp_path / "root")
    for name in ("kubeadm", "kubelet", "kubectl"):
        assert (tmp_path / f"root/bin/{name}").read_bytes() == theirs, name
    # Its programs cannot run here: the images are those that this machine's own kubeadm names.
    assert "exec format error" not in output.lower()
    programs = {path.removeprefix(f"/release/{KUBERNETES}/bin/linux/") for path in fetched if not path.endswith(".sha256")}
    own = Platform.host().architecture
    assert programs == {f"{own}/kubeadm", *(f"{THERE.architecture}/{name}" for name in ("kubeadm", "kubelet", "kubectl"))}


def test_build_release_source_binary_with_wrong_stated_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, alone: Path, slipway: Slipway
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    stated = {**checksums(site), f"{Platform.host().architecture}/kubelet": "0" * 64}
    code, output = build(slipway, mirror, "kubernetes:forged", folder=alone, known=stated)
    assert code == 3
    assert "kubelet has checksum" in output
    assert f"not the stated {'0' * 64}" in output


def test_build_release_source_http_mirror_without_all_stated_checksums_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, alone: Path, slipway: Slipway
) -> None:
    """Who can change the binary on its way can change the checksum beside it as well."""
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    some = {key: value for key, value in checksums(site).items() if not key.endswith("/kubectl")}
    for known in (None, some):
        code, output = build(slipway, mirror, "kubernetes:plain", folder=alone, known=known)
        assert code == 3
        assert "it is not https" in output


CURL = """#!/bin/sh
# Serves the folder $SITE as whatever site is asked for, and notes how it was called.
echo "$*" >> "$CALLS"
while [ "$#" -gt 1 ]; do [ "$1" != --output ] || file=$2; shift; done
cp "$SITE/${1#*://*/}" "$file"
"""


@pytest.mark.parametrize("published", ["right", "wrong"])
def test_fetch_script_https_mirror_compares_published_checksum(site: Path, tmp_path: Path, published: str) -> None:
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
    script = PROJECT / "images/kubernetes-release/fetch.sh"
    said = process.run(["sh", script, "https://mirror.invalid", KUBERNETES, tmp_path / "out"], env=environment, check=False)
    assert said.ok == (published == "right"), said.output
    assert (f"not the published {'0' * 64}" in said.stderr) == (published == "wrong")
    assert calls.read_text().count("--proto-redir =https") == len(calls.read_text().splitlines())


def test_build_release_source_version_missing_on_mirror_lists_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, site: Path, mirror: str, fetched: list[str], alone: Path, slipway: Slipway
) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    (tmp_path / "site/release/stable.txt").write_text(f"{KUBERNETES}\n")
    (site / "kubeadm").unlink()
    code, output = build(slipway, mirror, "kubernetes:none", folder=alone, known=checksums(site))
    assert code == 3
    assert f"{mirror} has no Kubernetes {KUBERNETES}\n" in output
    assert f"the newest version there is {KUBERNETES}" in output
    assert "404" not in output
    assert fetched == ["/release/stable.txt"]

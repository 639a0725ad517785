"""images/<name>/Dockerfile: which names a folder serves, and when an image counts as another one."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.build import run_steps
from harness.build.container_images import Builder
from harness.build.definitions import BaseImage, definitions
from harness.build.image_choice import AUTO, ImageChoice
from harness.cloudimage import prune
from harness.errors import BuildError
from harness.host import docker as host_docker
from harness.host import site_network
from harness.oci.model import Platform
from harness.oci.reference import OWN_DOMAIN, Reference
from harness.oci.store import Store
from tests.unit.build.dockerfiles import PROXY, builder, write

AMD64, ARM64 = Platform("linux", "amd64"), Platform("linux", "arm64")


COMPANY = Path("/etc/company.pem")


@pytest.fixture(autouse=True)
def lent(monkeypatch: pytest.MonkeyPatch) -> list[Path | None]:
    """The authorities that the steps of each build were lent; the engine of this machine is left alone."""
    files: list[Path | None] = []
    monkeypatch.setattr(site_network, "own_authorities", lambda: COMPANY)
    monkeypatch.setattr(host_docker, "lend_authorities", files.append)
    return files


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is an amd64."""
    monkeypatch.setattr(Platform, "host", classmethod(lambda cls: cls("linux", "amd64")))


def test_builder_builds_only_defined_images_as_choice_decides(tmp_path: Path) -> None:
    write(tmp_path / "images", "proxy", PROXY)
    make = builder(tmp_path)
    names = [Reference.parse(name) for name in ("example.org/pause:3.2", "example.org/other:1")]
    for answers, built in ((False, [True, False]), (True, [False, False])):
        choice = ImageChoice(AUTO, lambda _, answers=answers: answers)
        assert [make.builds(name, choice) for name in names] == built


def test_key_changes_with_files_arguments_and_base_images(tmp_path: Path) -> None:
    base = write(tmp_path / "images", "base", "# image: example.org/base:1\nFROM scratch\nCOPY data /\n")
    (base / "data").write_text("one")
    write(tmp_path / "images", "top", "ARG VERSION=1\n# image: example.org/top:${VERSION}\nFROM example.org/base:1\n")
    make = builder(tmp_path)
    top = Reference.parse("example.org/top:1")
    first = make.key(top)
    assert first == make.key(top)
    assert make.key(Reference.parse("example.org/top:2")) != first
    (base / "data").write_text("two")
    assert make.key(top) != first


def test_key_of_undefined_image_is_none(tmp_path: Path) -> None:
    assert builder(tmp_path).key(Reference.parse("example.org/none:1")) is None


TOOLS = """\
FROM --platform=${BUILDPLATFORM:-linux} example.org/tools:1 AS files
ARG TARGETARCH
RUN fetch

# image: example.org/top:1
FROM example.org/base:1
COPY --from=files /out /
"""


def write_both(tmp_path: Path) -> tuple[Path, Path]:
    """Two images below example.org/top:1: its base, and the tools of the stage that runs here."""
    tools = write(tmp_path / "images", "tools", "# image: example.org/tools:1\nFROM scratch\nCOPY data /\n")
    base = write(tmp_path / "images", "base", "# image: example.org/base:1\nFROM scratch\nCOPY data /\n")
    write(tmp_path / "images", "top", TOOLS)
    return tools, base


@pytest.mark.usefixtures("here")
def test_key_differs_for_each_platform(tmp_path: Path) -> None:
    write_both(tmp_path)
    top = Reference.parse("example.org/top:1")
    make = builder(tmp_path)
    assert make.platform == AMD64
    assert make.on(ARM64).key(top) not in (None, make.key(top))
    assert make.on(ARM64).here.key(top) == make.key(top)


@pytest.mark.usefixtures("here")
def test_key_changes_with_tools_or_base_image_on_all_platforms(tmp_path: Path) -> None:
    top = Reference.parse("example.org/top:1")
    for folder in write_both(tmp_path):
        before = {platform: builder(tmp_path).on(platform).key(top) for platform in (AMD64, ARM64)}
        (folder / "data").write_text("changed")
        assert all(builder(tmp_path).on(platform).key(top) != key for platform, key in before.items())


@pytest.mark.usefixtures("here")
def test_engine_name_of_other_platform_differs_from_native_name(tmp_path: Path) -> None:
    write_both(tmp_path)
    make = builder(tmp_path)
    names = {platform: make.on(platform).engine_name("example.org/top:1") for platform in (AMD64, ARM64)}
    keys = {platform: make.on(platform).key(Reference.parse("example.org/top:1")) for platform in (AMD64, ARM64)}
    assert names == {platform: f"example.org/top:1-{str(key)[:12]}" for platform, key in keys.items()}
    assert names[AMD64] != names[ARM64]
    assert make.engine_name("debian") == "debian"
    assert make.on(Platform("linux", "arm", "v7")).engine_name("debian") == "debian:latest-linux-arm-v7"


def fitted(make: Builder, name: str) -> str:
    found = make.find(Reference.parse(name))
    assert found is not None
    context = found[0].context(found[1])
    assert context is not None
    with make._dockerfile(found[0], context) as path:
        return (found[0].folder / path).read_text()


@pytest.mark.usefixtures("here")
def test_dockerfile_uses_target_platform_for_image_and_native_for_tools(tmp_path: Path) -> None:
    write_both(tmp_path)
    make = builder(tmp_path)
    for platform in (AMD64, ARM64):
        there = make.on(platform)
        found = fitted(there, "example.org/top:1")
        assert [line for line in found.splitlines() if line.startswith("FROM")] == [
            f"FROM --platform=${{BUILDPLATFORM:-linux}} {make.engine_name('example.org/tools:1')} AS files",
            f"FROM {there.engine_name('example.org/base:1')}",
        ]
        assert [line for line in found.splitlines() if not line.startswith("FROM")] == [
            line for line in TOOLS.splitlines() if not line.startswith("FROM")
        ]  # fmt: skip


def test_dockerfile_of_two_checkouts_names_different_base_images(tmp_path: Path) -> None:
    """One engine, one name, two contents."""
    names = []
    for checkout in ("one", "two"):
        tools, _ = write_both(tmp_path / checkout)
        (tools / "data").write_text(checkout)
        names.append(fitted(builder(tmp_path / checkout), "example.org/top:1").splitlines()[0])
    assert names[0] != names[1]
    assert all(" example.org/tools:1-" in name for name in names)


def test_dockerfile_for_classic_builder_drops_buildplatform_flag(tmp_path: Path) -> None:
    text = "FROM --platform=$BUILDPLATFORM golang AS made\nRUN make\n# image: example.org/x:1\nFROM scratch\nCOPY --from=made / /\n"
    write(tmp_path / "images", "x", text)
    assert fitted(builder(tmp_path), "example.org/x:1") == text.replace("--platform=$BUILDPLATFORM ", "")


@pytest.mark.usefixtures("here")
def test_platform_arguments_hold_only_declared_arguments(tmp_path: Path) -> None:
    write_both(tmp_path)
    make = builder(tmp_path).on(ARM64)
    found = make.find(Reference.parse("example.org/top:1"))
    assert found is not None
    assert make._platform_arguments(found[0]) == {"TARGETARCH": "arm64"}


def test_made_from_changes_with_package_version(tmp_path: Path) -> None:
    write(tmp_path / "images", "tools", "# image: example.org/tools:1\nFROM scratch\n")
    make, reference = builder(tmp_path), Reference.parse("example.org/tools:1")
    key = make.key(reference)
    assert key is not None
    make.store.keep("packages", key, {"packages": {"jq": "1.6-2", "curl": "7.88.1-10"}})
    first = make.made_from(reference)
    assert first == [key, [("curl", "7.88.1-10"), ("jq", "1.6-2")]]
    make.store.keep("packages", key, {"packages": {"jq": "1.7-1", "curl": "7.88.1-10"}})
    assert make.made_from(reference) != first


class Engine:
    """Stands for the engine: keeps the options of a build, which then says ``said`` and fails."""

    def __init__(self, said: str = "") -> None:
        self.api = self
        self.images = self
        self.said = said
        self.options: dict[str, Any] = {}

    def get(self, name: str) -> str:
        return name

    def build(self, **options: Any) -> Iterator[dict[str, str]]:
        self.options = options
        yield {"stream": self.said}
        yield {"error": "exit code 1"}


@pytest.mark.parametrize("network", run_steps.NETWORKS)
def test_ensure_builds_on_requested_network_with_hosts_and_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lent: list[Path | None], network: str
) -> None:
    engine = Engine("curl: (7) Failed to connect to 127.0.0.1 port 3142")
    monkeypatch.setattr(host_docker, "connect", lambda **_: engine)
    monkeypatch.setattr(host_docker, "network_apart", lambda _: contextlib.nullcontext("apart"))
    write(tmp_path / "images", "proxy", PROXY)
    made = dataclasses.replace(builder(tmp_path), network=network, hosts=("files:10.0.0.1", "files:fd00::1"))
    assert made.engine_name("example.org/pause:3.2") == builder(tmp_path).engine_name("example.org/pause:3.2")
    with pytest.raises(BuildError) as failed:
        made.ensure(Reference.parse("example.org/pause:3.2"))
    # Not on the bridge that other containers share: the engine lets steps have raw sockets.
    assert engine.options["network_mode"] == ("apart" if network == run_steps.BRIDGE else run_steps.HOST)
    assert engine.options["extra_hosts"] == ["files:10.0.0.1", "files:fd00::1"]
    assert engine.options["container_limits"] == host_docker.STEP_LIMITS
    assert lent == [COMPANY]
    # Who needs this machine's loopback is told how to get it.
    assert ("--network host" in str(failed.value.hint)) is (network == run_steps.BRIDGE)


def test_builder_network_defaults_to_bridge_and_is_kept_per_platform(tmp_path: Path) -> None:
    made = builder(tmp_path)
    assert (made.network, made.here.network, made.on(ARM64).network) == ("bridge", "bridge", "bridge")
    assert dataclasses.replace(made, network="host").on(ARM64).here.network == "host"


class Kept(Engine):
    """An engine that has the images of ``there``, each with what its API says of it, and makes containers of none."""

    def __init__(self, *there: dict[str, Any], busy: Sequence[str] = ()) -> None:
        super().__init__()
        self.there = {name: image for image in there for name in image["RepoTags"]}
        self.named: list[str] = []
        self.removed: list[str] = []
        self.busy = busy

    def get(self, name: str) -> Kept:  # type: ignore[override]
        self.attrs = {image["Id"]: image for image in self.there.values()}.get(name) or self.there.get(name, {})
        if not self.attrs:
            raise host_docker.NotFound(name)
        return self

    def tag(self, repository: str, tag: str) -> None:
        self.named.append(f"{repository}:{tag}")

    def containers(self, **_: Any) -> list[dict[str, str]]:
        return [{"ImageID": identity} for identity in self.busy]

    def __call__(self, **_: Any) -> list[dict[str, Any]]:
        return list({image["Id"]: image for image in self.there.values()}.values())

    def remove(self, name: str) -> None:
        if name.startswith("slipway.dev/asked"):
            raise host_docker.APIError("conflict", explanation="a container was made of it")
        self.removed.append(name)


def test_ensure_existing_image_is_tagged_again_and_not_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_both(tmp_path)
    make = builder(tmp_path)
    name = make.engine_name("example.org/tools:1")
    client: Any = Kept({"Id": "a", "RepoTags": [name]})
    monkeypatch.setattr(host_docker, "connect", lambda **_: client)
    monkeypatch.setattr(host_docker, "network_apart", lambda _: contextlib.nullcontext("apart"))
    assert make.engine_image(client, Reference.parse("example.org/tools:1")) == name
    make._ensure(client, definitions(tmp_path / "images")[0], BaseImage("example.org/tools:1"))
    assert (client.named, client.options) == ([name, name], {})
    with pytest.raises(BuildError, match="exit code 1"):
        make._ensure(client, definitions(tmp_path / "images")[0], BaseImage("example.org/base:1"))
    assert client.options["tag"] == make.engine_name("example.org/base:1")


NOW = 1767225600.0
DAY = 86400


def in_engine(name: str, *, named: str = "2025-12-01T00:00:00.123456789Z", identity: str = "", **more: Any) -> dict[str, Any]:
    labels = {host_docker.LABEL_KEY: "ab" * 32}
    size = {"Size": 5, "Created": NOW - 60 * DAY}
    return {"Id": identity or name, "RepoTags": [name], "Labels": labels, "Metadata": {"LastTagTime": named}, **size, **more}


def test_prune_removes_engine_images_idle_for_week_and_keeps_used_images(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    short = "ab" * 6
    there = [
        in_engine(f"slipway.dev/node:13-{short}"),
        in_engine("slipway.dev/node:13", identity="of before there were keys"),
        in_engine(f"docker.io/flannel/flannel:v1-{short}", named="2025-12-24T23:59:59Z"),
        in_engine(f"slipway.dev/new:1-{short}", named="2025-12-25T00:00:01Z"),
        in_engine(f"slipway.dev/busy:1-{short}", identity="busy"),
        in_engine(f"slipway.dev/asked:1-{short}"),
        in_engine("mine/derived:1"),
        in_engine(f"slipway.dev/fresh:1-{short}", named="0001-01-01T00:00:00Z", Created=NOW - DAY),
        in_engine(f"slipway.dev/odd:1-{short}", named="yesterday", Created=NOW - 8 * DAY),
    ]
    client: Any = Kept(*there, busy=["busy"])
    client.api.images = client
    idle = [one.name for one in host_docker.idle(client, OWN_DOMAIN, NOW)]
    assert idle == [
        f"docker.io/flannel/flannel:v1-{short}",
        f"slipway.dev/asked:1-{short}",
        "slipway.dev/node:13",
        f"slipway.dev/node:13-{short}",
        f"slipway.dev/odd:1-{short}",
    ]
    monkeypatch.setattr("time.time", lambda: NOW)
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    store = Store(tmp_path / "store")
    counted = {kind.name: (kind.count, kind.bytes) for kind in prune.prune(store, dry_run=True, client=client).kinds}
    assert (counted["engine images"], client.removed) == ((5, 25), [])
    counted = {kind.name: (kind.count, kind.bytes) for kind in prune.prune(store, client=client).kinds}
    # Of one a container was made in between.
    assert counted["engine images"] == (4, 20)
    assert client.removed == [name for name in idle if "asked" not in name]

"""`slipway build` without a cluster: layers, lists, reproducibility, and what goes wrong."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness import process
from harness.assets import oci_runtime
from harness.cloudimage import read
from harness.host import docker
from harness.oci import layer
from harness.oci.store import Store
from tests.conftest import Slipway
from tests.integration.registry import Registry, image, push, registry
from tests.waiting import HANG, until

POD = """\
apiVersion: v1
kind: Pod
metadata: {{name: a}}
spec:
  containers:
  - name: a
    image: {image}
"""


def context(folder: Path, kubefile: str, **files: str) -> Path:
    """A build context; ``manifests__app_yaml`` is manifests/app.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Kubefile").write_text(kubefile)
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def unpacked(home: Path, name: str, folder: Path) -> Path:
    store = Store(home / "store")
    layer.unpack(store, read(store, name).platforms[0].layers, folder)
    return folder


def test_build_copy_and_run_steps_make_rootfs(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(
        tmp_path / "c",
        "FROM scratch\nARG WHO=nobody\nENV Greeting=hi\nCOPY etc etc\nCOPY scripts/*.sh scripts/\n"
        'RUN echo "$WHO $Greeting" > etc/who && rm etc/gone && ln -s who etc/link && test "$PWD" = /rootfs\n'
        "COPY --from=registry.k8s.io/pause:3.10.2 /pause bin/\n",
        etc__gone="x", etc__kept="y", scripts__a_sh="#!/bin/sh\n", scripts__b_txt="no",
    )  # fmt: skip
    slipway("build", "-t", "one", "--build-arg", "WHO=somebody", made)
    root = unpacked(home, "one", tmp_path / "root")
    assert (root / "etc/who").read_text() == "somebody hi\n"
    assert os.readlink(root / "etc/link") == "who"  # noqa: PTH115 -- as it is written
    assert sorted(path.name for path in (root / "etc").iterdir()) == ["kept", "link", "who"]
    assert sorted(path.name for path in (root / "scripts").iterdir()) == ["a.sh"]
    assert os.access(root / "bin/pause", os.X_OK)


def test_build_run_step_gets_host_proxy_and_ca_but_layer_keeps_neither(
    tmp_path: Path, home: Path, slipway: Slipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "company.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\nof the company\n-----END CERTIFICATE-----\n")
    made = context(
        tmp_path / "c",
        'FROM scratch\nRUN mkdir etc && echo "$HTTPS_PROXY" | cut -d@ -f2 > etc/proxy\n'
        "RUN grep -c company /etc/ssl/certs/ca-certificates.crt > etc/count\n",
    )
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("HTTPS_PROXY", "http://alice:open-sesame@proxy.example:3128")
    said = slipway("--verbose", "build", "-t", "lent", made)
    assert "open-sesame" not in said.output
    root = unpacked(home, "lent", tmp_path / "root")
    assert ((root / "etc/proxy").read_text(), (root / "etc/count").read_text()) == ("proxy.example:3128\n", "1\n")
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()) == ["etc/count", "etc/proxy"]
    # Another proxy is not another image.
    monkeypatch.setenv("HTTPS_PROXY", "http://other.example:3128")
    again = json.loads(slipway("build", "-t", "lent", "-o", "json", made).stdout)
    assert again["digest"] == read(Store(home / "store"), "lent").digest
    assert (unpacked(home, "lent", tmp_path / "again") / "etc/proxy").read_text() == "proxy.example:3128\n"


PROBE = """\
FROM slipway.dev/builder:12 AS asked
RUN : once; grep -E '^(CapBnd|NoNewPrivs):' /proc/self/status > /said; cp /proc/net/route /said-routes
# image: slipway.dev/probe:1
FROM scratch
COPY --from=asked /said /said-routes /
"""


def test_build_dockerfile_step_avoids_default_bridge_and_lacks_net_raw_in_slipway_engine(
    tmp_path: Path, home: Path, slipway: Slipway
) -> None:
    made = context(tmp_path / "c", "FROM scratch\nCOPY --from=slipway.dev/probe:1 /said /said-routes etc/\n")
    (made / "images/probe").mkdir(parents=True)
    # Another text each time: neither we nor the engine may have kept the step.
    (made / "images/probe/Dockerfile").write_text(PROBE.replace("once", secrets.token_hex(8)))
    slipway("build", "-t", "probe", "--discover", "declared", made)
    root = unpacked(home, "probe", tmp_path / "root")
    client = docker.connect()
    routes = [line.split() for line in (root / "etc/said-routes").read_text().splitlines()]
    gateway = next(socket.inet_ntoa(bytes.fromhex(words[2])[::-1]) for words in routes if words[1] == "00000000")
    assert gateway not in [entry.get("Gateway") for entry in client.networks.get("bridge").attrs["IPAM"]["Config"]]
    if client.info()["DefaultRuntime"] == "slipway":
        said = dict(line.split() for line in (root / "etc/said").read_text().splitlines())
        assert (int(said["CapBnd:"], 16) >> oci_runtime.NAMES.index("NET_RAW") & 1, said["NoNewPrivs:"]) == (0, "1")


HOSTS_PROBE = """\
FROM slipway.dev/builder:12 AS asked
RUN getent ahosts files.example.com > /said
# image: slipway.dev/probe:1
FROM scratch
COPY --from=asked /said /
"""


def test_build_add_host_is_resolved_in_steps_and_does_not_change_digest(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(
        tmp_path / "c",
        "FROM scratch\nRUN mkdir etc && getent hosts files.example.com here > etc/hosts\nCOPY --from=slipway.dev/probe:1 /said etc/\n",
        images__probe__Dockerfile=f"# probe of {secrets.token_hex(8)}\n{HOSTS_PROBE}",
    )
    hosts = ("--add-host", "files.example.com:192.0.2.7", "--add-host", "here:host-gateway")
    slipway("build", "-t", "one", *hosts, made)
    root = unpacked(home, "one", tmp_path / "root")
    first, second = (root / "etc/hosts").read_text().splitlines()
    assert first.split() == ["192.0.2.7", "files.example.com"]
    assert second.split()[1] == "here"
    assert (root / "etc/said").read_text().startswith("192.0.2.7 ")
    digest = json.loads(slipway("inspect", "one", "--output", "json").stdout)["digest"]
    again = json.loads(slipway("build", "-t", "two", "--add-host", "files.example.com:192.0.2.8", "-o", "json", made).stdout)
    assert again["digest"] == digest


def test_build_same_inputs_in_other_folder_and_store_give_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slipway: Slipway
) -> None:
    digests = []
    for name in ("first", "second"):
        monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / f"home-{name}"))
        made = context(tmp_path / name / "c", "FROM scratch\nCOPY etc etc\nRUN date > etc/../../dev/null; echo x > etc/y\n", etc__a="x")
        os.utime(made / "etc/a", (1, len(name)))
        digests.append(json.loads(slipway("build", "-t", "same", "-o", "json", made).stdout)["digest"])
    assert digests[0] == digests[1]


def test_build_unchanged_context_runs_no_step_and_gives_same_digest(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    # A step that runs again yields another file.
    made = context(tmp_path / "c", "FROM scratch\nCOPY etc etc\nRUN cat /proc/sys/kernel/random/uuid > etc/id\n", etc__a="x")
    first = slipway("build", "-t", "one", made)
    assert "nothing had changed" not in first.stdout
    blobs = set((home / "store/blobs/sha256").iterdir())
    digest = read(Store(home / "store"), "one").digest
    second = slipway("build", "-t", "one", made)
    assert "nothing had changed" in second.stdout
    assert second.stdout.splitlines()[0] == first.stdout.splitlines()[0]
    assert read(Store(home / "store"), "one").digest == digest
    assert set((home / "store/blobs/sha256").iterdir()) == blobs
    (made / "etc/a").write_text("y")
    third = slipway("build", "-t", "one", made)
    assert "nothing had changed" not in third.stdout
    assert read(Store(home / "store"), "one").digest != digest


def test_build_secret_argument_is_neither_stored_nor_printed(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", 'FROM scratch\nARG TOKEN\nRUN mkdir etc && test -n "$TOKEN" && touch etc/done\n')
    said = slipway("--verbose", "build", "-t", "one", "--build-arg", "TOKEN=hunter2hunter2", made)
    assert "hunter2" not in said.output
    for path in (home / "store").rglob("*"):
        assert not path.is_file() or b"hunter2" not in path.read_bytes(), path


@pytest.fixture
def defining(tmp_path: Path) -> Path:
    """A context whose manifest names an image of quay.io, which its images/ can build."""
    made = context(
        tmp_path / "c", "FROM scratch\nCOPY manifests manifests\n", manifests__a_yaml=POD.format(image="quay.io/team/app:2"),
        images__app__file="ours",
    )  # fmt: skip
    (made / "images/app/Dockerfile").write_text("ARG VERSION=1\n# image: quay.io/team/app:${VERSION}\nFROM scratch\nCOPY file /file\n")
    return made


def quay_is(host: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = folder / "registries.conf"
    conf.write_text(f'[[registry]]\nprefix = "quay.io"\nlocation = "{host}"\ninsecure = true\n')
    monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(conf))
    monkeypatch.setenv("SLIPWAY_CACHE", str(folder / "cache"))  # where it is remembered which registries answer


def test_build_images_option_selects_registry_or_local_build_and_marks_built_images(
    tmp_path: Path, home: Path, defining: Path, slipway: Slipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    def built(*words: str) -> dict[str, Any]:
        said = slipway("build", "-t", "app", "--discover", "declared", "-o", "json", *words, defining)
        (found,) = json.loads(said.stdout)["platforms"][0]["images"]
        return {**found, "said": said.stderr}

    made_here = {"from": [], "by": "images/app"}
    with registry(tmp_path / "registry") as running:
        quay_is(running.host, tmp_path, monkeypatch)
        # It answers, and does not have it.
        absent = built()
        assert absent["built"] == made_here
        assert built("--images", "built")["digest"] == absent["digest"]
        refused = slipway("build", "-t", "never", "--discover", "declared", "--images", "upstream", defining, check=False)
        assert refused.returncode == 3
        assert "quay.io/team/app:2" in refused.stderr
        push(running, "team/app", "2", image("theirs"))
        theirs = image("theirs").digest
        fetched = built("--no-cache")
        assert (fetched["digest"], fetched.get("built")) == (theirs, None)
        assert built("--images", "upstream")["digest"] == theirs
        assert built("--images", "built")["built"] == made_here
    # Now nothing answers there, and what was found before is not asked for again but built.
    (tmp_path / "cache/registries-asked.json").unlink()
    silent = built("--no-cache")
    assert (silent["digest"], silent["built"]) == (absent["digest"], made_here)
    assert "quay.io does not answer: images of it that images/ defines are built on this machine" in silent["said"]
    shown = slipway("inspect", "app").stdout
    assert ["quay.io/team/app:2", "images/app"] in [line.split()[:2] for line in shown.splitlines()]


def test_build_declared_and_listed_images_are_embedded_under_their_names(
    tmp_path: Path, home: Path, mirrored: Registry, slipway: Slipway
) -> None:
    push(mirrored, "docker.io/library/web", "1", image("web"))
    push(mirrored, "quay.io/some/app", "2", image("app"))
    made = context(
        tmp_path / "c", "FROM scratch\nCOPY manifests manifests\n",
        manifests__pod_yaml=POD.format(image="web:1"), manifests__imageList="# more\nquay.io/some/app:2\n",
    )  # fmt: skip
    slipway("build", "-t", "one", made)
    found = {one["name"]: one for one in json.loads(slipway("inspect", "one", "-o", "json").stdout)["platforms"][0]["images"]}
    assert {name: one["foundBy"] for name, one in found.items()} == {
        "docker.io/library/web:1": ["declared"],
        "quay.io/some/app:2": ["listed"],
    }
    assert found["docker.io/library/web:1"]["requestedBy"] == ["manifests/pod.yaml:7"]


def test_build_lock_keeps_digests_of_tags_that_move(tmp_path: Path, home: Path, mirrored: Registry, slipway: Slipway) -> None:
    name = "quay.io/moving/app:1"
    before, after = image("before"), image("after")
    push(mirrored, name.rpartition(":")[0], "1", before)
    made = context(tmp_path / "c", "FROM scratch\nCOPY manifests manifests\n", manifests__pod_yaml=POD.format(image=name))
    lock = made / "images.lock"

    def built(*words: str) -> str:
        said = slipway("build", "-t", "app", "--on", "none", "-o", "json", *words, made)
        (found,) = json.loads(said.stdout)["platforms"][0]["images"]
        return str(found["digest"])

    assert (built(), lock.exists()) == (before.digest, False)
    assert (built("--lock"), lock.read_text().splitlines()[1:]) == (before.digest, [f"{name} {before.digest}"])
    push(mirrored, name.rpartition(":")[0], "1", after)
    (moved,) = json.loads(slipway("outdated", made, "-o", "json").stdout)
    assert (moved["name"], moved["status"], moved["now"]) == (name, "moved", after.digest)
    assert built("--no-cache", "--lock") == before.digest
    lock.unlink()
    assert built("--no-cache", "--lock") == after.digest
    assert lock.read_text().splitlines()[1:] == [f"{name} {after.digest}"]


def test_build_images_missing_in_registries_are_all_reported_with_place(
    tmp_path: Path, home: Path, mirrored: Registry, slipway: Slipway
) -> None:
    made = context(
        tmp_path / "c", "FROM scratch\nCOPY manifests manifests\n",
        manifests__a_yaml=POD.format(image="docker.io/library/none:1"), manifests__b_yaml=POD.format(image="quay.io/none/at:all"),
    )  # fmt: skip
    said = slipway("build", "-t", "one", made, check=False)
    assert said.returncode == 3
    assert "2 images cannot be fetched" in said.stderr
    assert "docker.io/library/none:1 (manifests/a.yaml:7)" in said.stderr
    assert "quay.io/none/at:all (manifests/b.yaml:7)" in said.stderr
    assert slipway("images", "-o", "json").stdout.strip() == "[]"


FAULTS: Mapping[str, tuple[str, dict[str, str], int, str]] = {
    "unknown instruction": ("FROM scratch\nCOYP a b\n", {}, 2, "Kubefile:2: "),
    "missing FROM": ("COPY a b\n", {"a": "x"}, 2, "FROM"),
    "missing source": ("FROM scratch\nCOPY nothere etc/\n", {}, 2, "Kubefile:2: "),
    "outside": ("FROM scratch\nCOPY ../x etc/\n", {}, 2, "outside the build context"),
    "no base": ("FROM nowhere:1\n", {}, 3, "Kubefile:1: the base image nowhere:1 is not in the local store"),
    "not YAML": ("FROM scratch\nCOPY manifests manifests\n", {"manifests__a_yaml": "a: [\n"}, 2, "manifests/a.yaml:"),
    "RUN fails": ("FROM scratch\nRUN echo the reason >&2; exit 7\n", {}, 3, "Kubefile:2: RUN failed with exit code 7"),
    "no such image": ("FROM scratch\nCOPY --from=localhost:1/none:1 /a b\n", {}, 4, "localhost:1/none:1"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_build_bad_input_exits_with_code_and_place_and_stores_no_image(case: str, tmp_path: Path, home: Path, slipway: Slipway) -> None:
    kubefile, files, code, message = FAULTS[case]
    said = slipway("build", "-t", "one", context(tmp_path / "c", kubefile, **files), check=False)
    assert said.returncode == code, said.output
    assert message in said.stderr
    assert "Traceback" not in said.stderr
    assert Store(home / "store").names() == {}


def test_build_failing_run_step_prints_its_output_once(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", "FROM scratch\nRUN echo the reason >&2; exit 7\n")
    said = slipway("build", "-t", "one", made, check=False)
    assert said.stderr.count("    the reason") == 1


def test_build_copy_of_symlink_out_of_context_is_refused(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", "FROM scratch\nCOPY secret etc/\n")
    (made / "secret").symlink_to("/etc/shadow")
    said = slipway("build", "-t", "one", made, check=False)
    assert said.returncode == 2
    assert "symbolic link" in said.stderr


def test_build_kubefile_faults_are_all_reported_at_once(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", "FROM scratch\nCOYP a b\nCOPY nothere etc/\nLAUNCH none\n")
    said = slipway("build", "-t", "one", made, check=False)
    assert [f"Kubefile:{line}:" in said.stderr for line in (2, 3, 4)] == [True, True, True]


def test_build_check_prints_plan_without_base_image_or_engine(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(
        tmp_path / "c",
        "FROM nowhere:1\nCOPY manifests manifests\nCMD kubectl apply -f manifests\n",
        manifests__a_yaml=POD.format(image="web:1"),
    )
    plan: dict[str, Any] = json.loads(slipway("build", "--check", "-o", "json", made, env={"DOCKER_HOST": "tcp://127.0.0.1:1"}).stdout)
    assert plan["base"] == "nowhere:1"
    assert plan["launch"] == ["kubectl apply -f manifests"]
    assert [image["name"] for image in plan["images"]] == ["docker.io/library/web:1"]


def test_build_full_disk_is_reported_and_leaves_store_intact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slipway: Slipway) -> None:
    home = tmp_path / "small"
    home.mkdir()
    process.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", home])
    try:
        monkeypatch.setenv("SLIPWAY_HOME", str(home))
        made = context(tmp_path / "c", "FROM scratch\nCOPY data etc/\n")
        small = context(tmp_path / "s", "FROM scratch\nCOPY a etc/\n", a="x")
        slipway("build", "-t", "small", small)
        (made / "data").write_bytes(os.urandom(8 << 20))
        said = slipway("build", "-t", "large", made, check=False)
        assert said.returncode == 4, said.output
        assert f"no space left in {home}" in said.stderr
        names = Store(home / "store").names()
        assert list(names) == ["small:latest"]
        slipway("inspect", "small")
    finally:
        process.run(["umount", home])


def test_build_four_at_once_into_one_store_give_same_digest(tmp_path: Path, home: Path, slipway: Slipway) -> None:
    made = context(tmp_path / "c", "FROM scratch\nCOPY etc etc\nRUN head -c 3000000 /dev/zero > etc/zeros\n", etc__a="x")
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda number: slipway("build", "-t", f"image-{number}", made), range(4)))
    assert len({one.stdout.split()[1] for one in said}) == 1
    assert list(Store(home / "store").names()) == [f"image-{number}:latest" for number in range(4)]


def heed_ctrl_c() -> None:
    """For a child: whoever runs these tests in the background has SIGINT and SIGHUP ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def containers() -> set[str]:
    listed = process.run(["docker", "ps", "--all", "--quiet", "--filter", "label=dev.slipway.build"])
    return set(listed.stdout.split())


def test_build_ctrl_c_in_run_step_leaves_no_container_or_tree(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    made = context(tmp_path / "c", "FROM scratch\nRUN sleep 300\n")
    before = containers()
    building = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "build", "-t", "one", str(made)],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    until(lambda: containers() != before or building.poll() is not None, "it makes no container", pause=0.1)
    assert building.poll() is None
    os.killpg(building.pid, signal.SIGINT)
    _, errors = building.communicate(timeout=HANG)
    assert building.returncode == 130
    assert "interrupted" in errors
    assert containers() == before
    assert list((tmp_path / "cache/tmp").iterdir()) == []
    assert Store(home / "store").names() == {}


def test_build_pull_option_decides_fetch_of_base_image_from_registry(
    tmp_path: Path, home: Path, slipway: Slipway, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    base = context(tmp_path / "base", "FROM scratch\nCOPY a etc/\n", a="of the base\n")
    app = context(tmp_path / "app", "ARG BASE\nFROM $BASE\nCOPY b etc/\n", b="of the app\n")
    with registry(tmp_path / "registry") as found:
        name = f"{found.host}/team/base:1"
        slipway("build", "-t", name, base)
        slipway("push", name, "--plain-http")
        configuration = tmp_path / "registries.conf"
        configuration.write_text(f'[[registry]]\nlocation = "{found.host}"\ninsecure = true\n')
        monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(configuration))
        monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "elsewhere"))
        refused = slipway("build", "--pull", "never", "-t", "app", "--build-arg", f"BASE={name}", app, check=False)
        assert (refused.returncode, "is not in the local store" in refused.stderr) == (3, True)
        slipway("build", "-t", "app", "--build-arg", f"BASE={name}", app)
    # The registry is gone: the second build takes what the first has pulled.
    slipway("build", "-t", "app", "--build-arg", f"BASE={name}", app)
    refused = slipway("build", "--pull", "always", "-t", "app", "--build-arg", f"BASE={name}", app, check=False)
    assert refused.returncode == 3
    root = unpacked(tmp_path / "elsewhere", "app", tmp_path / "root")
    assert [(root / "etc" / file).read_text() for file in "ab"] == ["of the base\n", "of the app\n"]


def test_build_pull_option_decides_fetch_of_image_of_on_from_registry(
    tmp_path: Path, home: Path, slipway: Slipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = context(tmp_path / "base", "FROM scratch\nCOPY etc etc\n", etc__slipway_yaml="kubernetes: v1.36.3\n")
    # What it pulls is refused once it is read, so that no cluster is started.
    app = context(tmp_path / "app", "FROM scratch\nKUBEVERSION >=1.40\nCMD kubectl get nodes\n")

    def built(name: str, when: str) -> tuple[int, str]:
        said = slipway("build", "-t", "app", "--on", name, "--pull", when, app, check=False)
        return said.returncode, said.stderr

    with registry(tmp_path / "registry") as found:
        name = f"{found.host}/team/kubernetes:1"
        slipway("build", "--discover", "declared", "-t", name, base)
        slipway("push", name, "--plain-http")
        configuration = tmp_path / "registries.conf"
        configuration.write_text(f'[[registry]]\nlocation = "{found.host}"\ninsecure = true\n')
        monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(configuration))
        monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "elsewhere"))
        code, said = built(name, "never")
        assert (code, f"--on {name}: " in said, "no such image" in said) == (4, True, True)
        code, said = built(name, "missing")
        assert (code, "KUBEVERSION >=1.40 does not admit its Kubernetes v1.36.3" in said) == (2, True)
        assert list(Store(tmp_path / "elsewhere/store").names()) == [name]
    # The registry is gone: what was pulled is there.
    assert built(name, "missing")[0] == 2
    assert built(name, "always")[0] == 4

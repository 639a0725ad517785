"""A CloudImage goes through registries of others and runs as it was built; a cluster takes its images from the registry of its site; an
image that was merged of others runs as they do.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import process
from tests.cluster.lab import Lab
from tests.conftest import Slipway
from tests.integration.registry import PASSWORD, USER, Registry, basic, password_registry, registry
from tests.waiting import HANG

pytestmark = pytest.mark.long

DEPLOYMENT = """apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, annotations: {{word: "{{{{ .{value} }}}}"}}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      containers: [{{name: {name}, image: "{image}", imagePullPolicy: Always}}]
"""

COPY = ("skopeo", "--insecure-policy", "copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false")


@pytest.fixture(scope="module")
def lab(slipway: Slipway) -> Iterator[Lab]:
    made = Lab(slipway, "test-share", 1, 1)
    try:
        yield made
    finally:
        made.down()


@dataclasses.dataclass(frozen=True)
class Elsewhere:
    """A user of another machine: a store of his own, his own Docker configuration."""

    slipway: Slipway
    env: dict[str, str]

    def __call__(self, *words: str | Path) -> process.ProcessResult:
        return self.slipway(*words, env=self.env, timeout=HANG)


@pytest.fixture
def elsewhere(slipway: Slipway, tmp_path: Path) -> Elsewhere:
    return Elsewhere(slipway, {"SLIPWAY_HOME": str(tmp_path / "home"), "DOCKER_CONFIG": str(tmp_path / "docker")})


def gateway(lab: Lab) -> str:
    """The address of this machine on the network of the nodes."""
    return lab.addresses[0].rpartition(".")[0] + ".1"


def test_run_image_copied_by_skopeo_pulls_container_images_from_site_registry(
    slipway: Slipway, elsewhere: Elsewhere, lab: Lab, web: str, tmp_path: Path
) -> None:
    """Pushed by one user, copied by skopeo, pulled by another into a store of their own; their cluster has its images from the site."""
    built = json.loads(slipway("inspect", web, "-o", "json").stdout)
    with registry(tmp_path / "vendor") as vendor, password_registry(tmp_path / "site", address=gateway(lab)) as site:
        elsewhere_login(elsewhere, site)
        slipway("push", web, f"{vendor.host}/team/web:1", "--plain-http")
        target = f"docker://{site.host}/apps/deep/web:1"
        process.run([*COPY, f"--dest-creds={USER}:{PASSWORD}", f"docker://{vendor.host}/team/web:1", target])
        arrived = json.loads(elsewhere("pull", f"{site.host}/apps/deep/web:1", "--as", "web", "--plain-http", "-o", "json").stdout)
        assert arrived["digest"] == built["digest"]
        found = json.loads(elsewhere("inspect", "web", "-o", "json").stdout)
        assert found["platforms"] == built["platforms"]
        # Nothing of it comes from the store in which it was built.
        assert {row["digest"] for row in json.loads(elsewhere("images", "-o", "json").stdout)} == {built["digest"]}

        refused = slipway(*lab.words("web", "--registry", f"{site.host}/cluster", "--plain-http"), env=elsewhere.env, check=False)
        assert refused.returncode == 4
        assert "--expand" in refused.stderr
        expanded = json.loads(elsewhere("push", "web", "--expand", f"{site.host}/cluster", "--plain-http", "-o", "json").stdout)
        assert f"{site.host}/cluster/slipway.dev/nginx:1.22" in expanded["images"]
        again = json.loads(elsewhere("push", "web", "--expand", f"{site.host}/cluster", "--plain-http", "-o", "json").stdout)
        assert again["uploaded"] == 0
        with cluster(elsewhere, lab, "web", "--registry", f"{site.host}/cluster", "--plain-http"):
            ready = lab.json("get", "deployment", "web")["status"]
            assert ready["readyReplicas"] == ready["replicas"]
            pods = lab.json("get", "pods", "--all-namespaces")["items"]
            names = {status["image"] for pod in pods for status in pod["status"]["containerStatuses"]}
            assert "slipway.dev/nginx:1.22" in names
            # The cluster has no registry of its own, and who may not see the password does not see it.
            assert lab.first.run("systemctl is-active slipway-registry", check=False).returncode != 0
            assert set(lab.first.run("stat -c %a /etc/containerd/certs.d/*/hosts.toml").stdout.split()) == {"600"}
            kept = lab.kubectl("get", "configmaps", "--all-namespaces", "-o", "yaml")
            assert not [secret for secret in (PASSWORD, basic()["Authorization"].partition(" ")[2]) if secret in kept]
        assert site.requests("GET", r"/v2/cluster/slipway\.dev/nginx/")


def test_run_merged_image_starts_kubernetes_and_every_application(slipway: Slipway, lab: Lab, kubernetes: str, tmp_path: Path) -> None:
    """Applications of both kinds, one with a value of its own, one with a value that the merge settles."""
    front, cache = tmp_path / "front", tmp_path / "cache"
    for folder, name, image, text in (
        (front, "front", "slipway.dev/nginx:1.22", "ENV Word=front Site=one\nAPP front local://front\nLAUNCH front\n"),
        (cache, "cache", "slipway.dev/redis:7.0", 'ENV Site=two\nCOPY cache manifests\nCMDS ["kubectl apply -f manifests/cache.yaml"]\n'),
    ):
        (folder / name).mkdir(parents=True)
        (folder / "Kubefile").write_text(f"FROM scratch\n{text}")
        value = "Word" if name == "front" else "Site"
        (folder / name / f"{name}.yaml.tmpl").write_text(DEPLOYMENT.format(name=name, value=value, image=image))
        slipway("build", "-t", f"merge-{name}:1", "--on", "none", folder)
    refused = slipway("merge", kubernetes, "merge-front:1", "merge-cache:1", "-t", "merge-stack:1", check=False)
    assert (refused.returncode, "ENV Site differs from that of merge-front:1" in refused.stderr) == (2, True), refused.stderr
    slipway("merge", kubernetes, "merge-front:1", "merge-cache:1", "-t", "merge-stack:1", "-e", "Site=three")
    slipway("conformance", "merge-stack:1")
    own = Elsewhere(slipway, {})
    with cluster(own, lab, "merge-stack:1", "-e", "Word=given"):
        state = lab.status()
        assert (state["healthy"], state["image"], len(state["nodes"])) == (True, "merge-stack:1", 2), state["notReady"]
        found = {name: lab.json("get", "deployment", name) for name in ("front", "cache")}
        assert {name: one["status"]["readyReplicas"] for name, one in found.items()} == {"front": 1, "cache": 1}
        assert {name: one["metadata"]["annotations"]["word"] for name, one in found.items()} == {"front": "given", "cache": "three"}
        slipway("check", lab.name)


def elsewhere_login(user: Elsewhere, site: Registry) -> None:
    user.slipway("login", site.host, "--username", USER, "--password-stdin", "--plain-http", input=PASSWORD + "\n", env=user.env)


@contextlib.contextmanager
def cluster(user: Elsewhere, lab: Lab, image: str, *more: str) -> Iterator[None]:
    """A cluster on the lab's machines while the block runs."""
    try:
        user(*lab.words(image, *more))
        yield
    finally:
        members = ["--via", ",".join(lab.control_plane), "--workers", ",".join(lab.workers)]
        user("delete", lab.name, *members, "--key", lab.key, "--yes")

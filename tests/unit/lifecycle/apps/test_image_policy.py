"""Names of images in pods, changed to those in a registry of the site, and the policy that changes them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from harness.cloudimage import EmbeddedImage
from harness.errors import CheckError, CommandError
from harness.lifecycle.apps import image_policy
from harness.oci.model import OCI_MANIFEST
from harness.oci.registry.config import Site

SITE = Site("registry.corp:5000", "team")
DIGEST, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def image(name: str, digest: str = DIGEST) -> EmbeddedImage:
    return EmbeddedImage(name, digest, OCI_MANIFEST, 100)


def test_names_official_image_of_hub_has_each_spelling() -> None:
    place = "registry.corp:5000/team/docker.io/library/redis"
    changed = image_policy.names([image("docker.io/library/redis:8")], SITE)
    repositories = ("redis", "library/redis", "docker.io/redis", "docker.io/library/redis")
    wanted = {f"{name}:8": f"{place}:8" for name in repositories}
    wanted |= {f"{name}@{DIGEST}": f"{place}@{DIGEST}" for name in repositories}
    wanted |= {f"{name}:8@{DIGEST}": f"{place}:8@{DIGEST}" for name in repositories}
    assert changed == wanted


def test_names_latest_image_is_changed_without_its_tag_too() -> None:
    changed = image_policy.names([image("quay.io/team/app:latest")], SITE)
    assert changed["quay.io/team/app"] == "registry.corp:5000/team/quay.io/team/app:latest"
    assert "app" not in changed


def test_names_image_by_digest_has_no_tag() -> None:
    name = f"quay.io/team/app@{OTHER}"
    assert image_policy.names([image(name, OTHER)], SITE) == {name: f"registry.corp:5000/team/quay.io/team/app@{OTHER}"}


def test_names_image_with_one_platform_keeps_tag_and_loses_digest_of_index() -> None:
    name = "quay.io/team/app:1"
    changed = image_policy.names([image(name)], SITE, [name])
    assert set(changed.values()) == {"registry.corp:5000/team/quay.io/team/app:1"}
    assert len(changed) == 3


def test_names_changed_name_is_not_changed_again() -> None:
    changed = image_policy.names([image("docker.io/library/redis:8"), image("quay.io/team/app:latest", OTHER)], SITE)
    assert not set(changed) & set(changed.values())


def test_manifests_policy_lists_names_and_touches_created_pods_only() -> None:
    changed = image_policy.names([image("quay.io/team/app:1")], SITE)
    policy, binding = yaml.safe_load_all(image_policy.manifests("shop", changed, "v1"))
    assert (policy["apiVersion"], policy["kind"], policy["metadata"]["name"]) == (
        "admissionregistration.k8s.io/v1",
        "MutatingAdmissionPolicy",
        "slipway-app-shop",
    )
    assert (binding["kind"], binding["spec"]["policyName"]) == ("MutatingAdmissionPolicyBinding", "slipway-app-shop")
    assert json.loads(policy["spec"]["variables"][0]["expression"]) == changed
    rules = policy["spec"]["matchConstraints"]["resourceRules"]
    # An update of a pod that runs would restart its containers.
    assert [(rule["resources"], rule["operations"]) for rule in rules] == [
        (["pods"], ["CREATE"]),
        (["pods/ephemeralcontainers"], ["UPDATE"]),
    ]
    assert policy["spec"]["failurePolicy"] == "Ignore"
    # A request for the pod itself has no such key.
    assert policy["spec"]["mutations"][0]["applyConfiguration"]["expression"].startswith("has(request.subResource) && ")


class Kubectl:
    """Answers in their order; an exception is raised."""

    where = "here"

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[tuple[str, ...]] = []

    def run(self, *argv: str, input: str | None = None, timeout: float = 120) -> str:
        self.calls.append(argv)
        self.input = input
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return json.dumps(answer)


SERVED = {"resources": [{"kind": "MutatingAdmissionPolicy"}]}


def test_version_of_policies_is_the_newest_that_is_served() -> None:
    assert image_policy.version(Kubectl(SERVED)) == "v1"  # type: ignore[arg-type]
    assert image_policy.version(Kubectl({"resources": [{"kind": "Other"}, 7]}, SERVED)) == "v1beta1"  # type: ignore[arg-type]


@pytest.mark.parametrize("answers", [({}, []), ({"resources": 3}, CommandError("404")), (CommandError("403"), CommandError("404"))])
def test_version_without_policies_names_kubernetes_that_has_them(answers: tuple[Any, ...]) -> None:
    with pytest.raises(CheckError, match="serves no MutatingAdmissionPolicy") as refused:
        image_policy.version(Kubectl(*answers))  # type: ignore[arg-type]
    assert "1.36" in (refused.value.hint or "")


def pod(*images: str) -> dict[str, Any]:
    return {"spec": {"containers": [{"image": one} for one in images]}}


def test_await_force_ends_when_every_name_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.lifecycle.apps.image_policy.time.sleep", lambda _: None)
    kubectl = Kubectl(pod("a:1", "b:1"), pod("r/a:1", "b:1"), pod("r/a:1", "r/b:1"))
    image_policy.await_force(kubectl, {"a:1": "r/a:1", "b:1": "r/b:1"})  # type: ignore[arg-type]
    assert [call[:2] for call in kubectl.calls] == [("create", "--dry-run=server")] * 3
    trial = json.loads(kubectl.input or "")
    assert [one["image"] for one in trial["spec"]["containers"]] == ["a:1", "b:1"]


def test_await_force_without_effect_names_image_that_stays() -> None:
    with pytest.raises(CheckError, match=r"b:1 stays b:1"):
        image_policy.await_force(Kubectl(pod("r/a:1", "b:1")), {"a:1": "r/a:1", "b:1": "r/b:1"}, timeout=-1)  # type: ignore[arg-type]

"""What is noted of an application's launch, what cannot be known of it, and in which order it is taken back."""

from __future__ import annotations

import pytest
import yaml

from harness.lifecycle.apps import tracking
from harness.lifecycle.apps.tracking import TrackedObject, batches, dropped, manifest, parse, text, unknown

NAMESPACE = TrackedObject("v1", "Namespace", "", "shop")
DEPLOYMENT = TrackedObject("apps/v1", "Deployment", "shop", "web")
RELEASE = TrackedObject("helm", "Release", "shop", "db")
FOREIGN = TrackedObject("v1", "ConfigMap", "default", "site", ours=False)


def test_parse_repeated_notes_returns_each_object_once() -> None:
    notes = text([NAMESPACE, DEPLOYMENT, RELEASE, FOREIGN])
    assert notes.splitlines()[0] == "+ v1 Namespace - shop"
    assert parse(notes + notes + "+ v1 Config") == (NAMESPACE, DEPLOYMENT, RELEASE, FOREIGN)
    assert [str(one) for one in (NAMESPACE, DEPLOYMENT, RELEASE)] == ["Namespace shop", "Deployment shop/web", "helm release shop/db"]


def test_parse_conflicting_notes_of_object_keeps_first_owner() -> None:
    # A kill between the note and what it is about: the object is there the next time, and was made by us.
    assert parse("+ v1 Namespace - shop\n= v1 Namespace - shop\n") == (NAMESPACE,)


def test_dropped_returns_only_own_objects_not_touched_again() -> None:
    touched = f"{DEPLOYMENT.words}\n"
    assert dropped([NAMESPACE, DEPLOYMENT, FOREIGN], touched) == (NAMESPACE,)


def test_batches_orders_objects_in_reverse_with_releases_alone() -> None:
    found = batches([NAMESPACE, DEPLOYMENT, RELEASE, FOREIGN])
    assert [(batch.release, batch.objects) for batch in found] == [(None, (FOREIGN,)), (RELEASE, ()), (None, (DEPLOYMENT, NAMESPACE))]
    documents = list(yaml.safe_load_all(manifest(found[2].objects)))
    assert documents[0] == {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"}}
    assert documents[1] == {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}


@pytest.mark.parametrize(
    "command",
    [
        "kubectl apply -f manifests/web.yaml",
        "export A='b c' && cd application/apps/web && helm install web . --set a=1",
        "A=1 kubectl create namespace shop; kubectl apply -k .",
        "kubectl create ns a --dry-run=client -o yaml | kubectl apply -f -",
        "echo 'it; rm -rf is text' && sleep 1",
    ],
)
def test_unknown_kubectl_and_helm_commands_are_not_reported(command: str) -> None:
    assert unknown([command]) == ()


@pytest.mark.parametrize(
    "command",
    ["bash install.sh", "kubectl apply -f a.yaml && rm -rf /data", "kubectl apply -f $(make)", "a; (curl x)", "echo `id`", "kubectl 'open"],
)
def test_unknown_other_commands_are_reported(command: str) -> None:
    assert unknown([command, "kubectl get nodes"]) == (command,)


def test_programs_are_executable_wrappers_of_kubectl_and_helm() -> None:
    files = tracking.programs("/somewhere")
    assert {path: oct(file.mode) for path, file in files.items()} == {"/somewhere/kubectl": "0o755", "/somewhere/helm": "0o755"}

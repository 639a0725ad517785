"""Run settings of sealer's extension."""

from __future__ import annotations

from harness.oci.store import Store
from tests.integration import sealer
from tests.unit.sealer.examples import converted, problems, simple


def test_convert_info_keeps_applications_env_and_launch_commands(store: Store) -> None:
    labels = {
        "cluster.alpha.sealer.io/cluster-runtime-type": "kubernetes",
        "cluster.alpha.sealer.io/cluster-runtime-version": "v1.22.15",
        "cluster.alpha.sealer.io/kube-cni-calico": "true",
        "app.alpha.sealer.io/supported-kube-version": ">=1.20",
    }
    apps = [
        {"name": "web", "type": "kube", "files": ["a.yaml", "b c.yaml"], "env": {"Port": "8 0"}},
        {"name": "calico", "type": "kube", "files": ["tigera.yaml"]},
        {"name": "db", "type": "helm", "files": ["Chart.yaml", "values.yaml", "templates/x.yaml"]},
        {"name": "own", "type": "", "cmds": ["kubectl apply", "-f x.yaml"]},
        {"name": "early", "type": "shell", "launchfiles": ["go.sh"]},
    ]
    launch = {"app_names": ["calico", "web", "db", "own", "early"], "cmds": ["never"]}
    info = converted(store, simple(says=sealer.extension(applications=apps, launch=launch), labels=labels)).platforms[0].info
    assert (info.type, info.kubernetes, info.runtime, info.kube_version) == ("kube", "v1.22.15", "kubeadm", ">=1.20")
    assert info.env == {"Mode": "fast"}
    assert {**labels, "io.sealer.version": "0.11.0"}.items() <= info.labels.items()
    assert [(app.name, app.kind) for app in info.apps] == [
        ("web", "kube"), ("calico", "kube"), ("db", "helm"), ("own", "mixed"), ("early", "shell"),
    ]  # fmt: skip
    assert info.cluster_apps == ("calico",)
    assert info.launch == (
        "kubectl apply -f application/apps/calico/tigera.yaml",
        "export Port='8 0' && kubectl apply -f application/apps/web/a.yaml",
        "export Port='8 0' && kubectl apply -f 'application/apps/web/b c.yaml'",
        "helm install db application/apps/db",
        "cd application/apps/own && kubectl apply -f x.yaml",
        "bash application/apps/early/go.sh",
    )
    assert info.converted_from == {"tool": "sealer", "version": "0.11.0", "digest": simple(
        says=sealer.extension(applications=apps, launch=launch), labels=labels).digest}  # fmt: skip


def test_convert_raw_commands_are_launched_without_applications(store: Store) -> None:
    says = sealer.extension(launch={"cmds": ["kubectl apply -f manifests/", "", "sh x.sh"]})
    assert converted(store, simple(says=says)).platforms[0].info.launch == ("kubectl apply -f manifests/", "sh x.sh")


def test_convert_app_installer_becomes_application_image(store: Store) -> None:
    says = sealer.extension(type="app-installer")
    labels = {"cluster.alpha.sealer.io/cluster-runtime-version": "v1.22.15"}
    info = converted(store, simple(says=says, labels=labels)).platforms[0].info
    assert (info.type, info.kubernetes) == ("app", None)


def test_convert_unlaunchable_applications_are_reported(store: Store) -> None:
    says = sealer.extension(applications=[{"name": "own", "files": ["x"]}], launch={"app_names": ["own", "gone"]})
    found = converted(store, simple(says=says))
    assert problems(found) == [("launch", "own"), ("launch", "gone")]
    assert found.platforms[0].info.launch == ()

"""What is asked of machines, and the files that they get."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import pytest
import yaml

from harness import log
from harness.cloudimage import EmbeddedImage, ImageApp, ImageSet
from harness.clusterfile.write import redacted
from harness.errors import StoreError
from harness.lifecycle import run
from harness.lifecycle.steps import preparation
from harness.lifecycle.steps.context import NETWORK_MANIFEST
from harness.oci.store import Store
from tests.unit.lifecycle.test_run import FACTS, asked, build, changed, prepared, store, with_profile

__all__ = ["store"]  # a fixture


def test_machine_files_include_cni_configuration_unless_application_is_network(store: Store) -> None:
    files = {"etc/slipway.yaml": FACTS, "etc/cni/10-flannel.conflist": '{"name": "cbr0"}'}
    build(store, files=files)
    context = prepared(store)
    found = preparation.machine_files(context.resolved, context.spec.first)
    assert found["/etc/cni/net.d/10-flannel.conflist"].data == b'{"name": "cbr0"}'
    app = ImageApp("calico", "shell", labels={"app.alpha.sealer.io/cni": "calico"})
    build(store, "own", files, apps=(app,), cluster_apps=("calico",))
    other = prepared(store, image="own")
    assert other.resolved.cluster.own_network
    assert not any(path.startswith("/etc/cni/") for path in preparation.machine_files(other.resolved, other.spec.first))


NETWORKS: dict[str, Mapping[str, str]] = {
    "an addon": {NETWORK_MANIFEST: "kind: DaemonSet"},
    "a configuration": {"etc/cni/10-own.conflist": "{}"},
    "hooks": {"plugins/network.yaml": "kind: Plugin"},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_prepare_image_with_pod_network_of_any_kind_is_accepted(store: Store, network: str) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **NETWORKS[network]}, network=False)
    assert run.prepare(asked(), store)


@pytest.mark.parametrize("files", [{}, {"etc/cni/README": "none"}, {"etc/addons/storage.yaml": "kind: Deployment"}])
def test_prepare_image_without_pod_network_is_refused(store: Store, files: Mapping[str, str]) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **files}, network=False)
    with pytest.raises(StoreError, match="web brings no pod network: its nodes would never be Ready") as caught:
        run.prepare(asked(), store)
    assert "etc/addons/network.yaml or CNI" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("files", "vxlan"),
    [
        ({NETWORK_MANIFEST: "image: docker.io/flannel/flannel:v0.28.10"}, True),
        ({NETWORK_MANIFEST: "image: docker.io/cloudnativelabs/kube-router:v2.1.0"}, False),
        ({}, False),
    ],
)
def test_wanted_of_machines_requires_vxlan_only_with_flannel(store: Store, files: Mapping[str, str], *, vxlan: bool) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **files})
    assert preparation.wanted_of_machines(prepared(store).resolved, []).vxlan is vxlan


def test_wanted_of_machines_includes_policy_enforcers_of_image(store: Store) -> None:
    build(store)
    context = prepared(store)
    assert preparation.wanted_of_machines(context.resolved, []).enforcers == ()
    (part,) = context.spec.image.platforms
    embedded = EmbeddedImage("registry.k8s.io/networking/kube-network-policies:v0.8.0", "sha256:1", "m", 1)
    image = dataclasses.replace(context.spec.image, platforms=(dataclasses.replace(part, images=ImageSet((embedded,))),))
    wanted = preparation.wanted_of_machines(changed(context, image=image).resolved, [])
    assert [one.name for one in wanted.enforcers] == ["kube-network-policies"]


def test_machine_files_place_cni_plugins_and_configurations_of_image(store: Store) -> None:
    files = {"bin/cni/bridge": "", "bin/cni/mine": "", "bin/cni/.part": "", "etc/cni/10-mine.conf": "{}", "etc/cni/notes.txt": ""}
    build(store, files={"etc/slipway.yaml": FACTS, **files}, network=False)
    context = prepared(store)
    found = preparation.machine_files(context.resolved, context.spec.first)
    assert sorted(path for path in found if path.startswith(("/opt/cni/", "/etc/cni/"))) == [
        "/etc/cni/net.d/10-mine.conf",
        "/opt/cni/bin/bridge",
        "/opt/cni/bin/mine",
    ]
    assert found["/opt/cni/bin/mine"].link == "/var/lib/slipway/rootfs/bin/cni/mine"


def test_warn_of_documents_reports_removed_field_and_deprecated_mode(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    old = "apiVersion: kubeadm.k8s.io/v1beta2\nkind: ClusterConfiguration\nuseHyperKubeImage: true\n"
    proxy = "---\napiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n"
    build(store, files={"etc/slipway.yaml": FACTS, "etc/kubeadm.yml": old + proxy})
    context = prepared(store)
    preparation.warn_of_documents(context.resolved)
    said = capsys.readouterr().err
    assert "ClusterConfiguration .useHyperKubeImage: kubeadm has no such field any more" in said
    assert "ipvs is deprecated since Kubernetes 1.35" in said
    assert "useHyperKubeImage" not in str(context.resolved.cluster.documents)


NETWORK = """apiVersion: v1
kind: Namespace
metadata: {name: kube-flannel}
---
apiVersion: v1
kind: List
items:
- {apiVersion: apps/v1, kind: DaemonSet, metadata: {name: a, namespace: other}}
"""


DNS = """apiVersion: v1
kind: Service
metadata: {name: b, namespace: default}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: c}
---
"""


ADDONS = {"etc/addons/network.yaml": NETWORK, "etc/addons/dns.yaml": DNS}


def test_profile_is_recorded_required_of_machines_and_exempts_addon_namespaces(store: Store) -> None:
    build(store, files={"etc/slipway.yaml": FACTS, **ADDONS})
    context = with_profile(prepared(store), "cis")
    assert yaml.safe_load(redacted(context.spec.clusterfile))["spec"]["profile"] == "cis"
    assert preparation.wanted_of_machines(context.resolved, []).sysctls == context.resolved.cluster.profile.sysctls != {}
    admission = next(file.data for path, file in context.resolved.cluster.profile.files.items() if path.endswith("/admission.yaml"))
    security = yaml.safe_load(admission)["plugins"][0]["configuration"]
    assert security["exemptions"]["namespaces"] == ["kube-flannel", "kube-system", "other"]
    assert not prepared(store).resolved.cluster.profile.name


def test_warn_of_documents_reports_user_setting_that_overrides_profile(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    build(
        store,
        files={
            "etc/slipway.yaml": FACTS,
            "etc/kubeadm.yml": "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\npodPidsLimit: 7\n",
        },
    )
    context = with_profile(prepared(store), "cis")
    preparation.warn_of_documents(context.resolved)
    assert "KubeletConfiguration .podPidsLimit: what the document says counts, not the profile cis" in capsys.readouterr().err
    preparation.warn_of_documents(prepared(store).resolved)
    assert "podPidsLimit" not in capsys.readouterr().err


def test_warn_of_documents_reports_profile_parts_unsupported_by_kubernetes(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    build(store, files={"etc/slipway.yaml": "kubernetes: v1.31.4\n"})
    preparation.warn_of_documents(with_profile(prepared(store), "cis").resolved)
    assert "Kubernetes 1.31 cannot keep requests without a name to some paths" in capsys.readouterr().err

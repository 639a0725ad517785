"""Applications in a cluster that runs: what is done in which order, what is refused before that, what is kept, and what goes again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from harness import cloudimage, log
from harness.cloudimage import Blob, EmbeddedImage, ExpectedValue, ImageApp, ImageSet, Info, PlatformImage
from harness.clusterfile import AppConfig, ApplicationDocument, is_redacted
from harness.clusterfile.parse import parse
from harness.errors import CheckError, CommandError, InputError, StoreError, UsageError
from harness.lifecycle import plan as lifecycle_plan
from harness.lifecycle.apps import images, install, installation, launch, records, uninstall
from harness.lifecycle.apps import target as apps_target
from harness.lifecycle.apps.image_policy import SiteRegistry
from harness.lifecycle.apps.records import Installed
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.apps.target import AppTarget
from harness.lifecycle.apps.tracking import TrackedObject
from harness.oci.layer import scan, write_layer
from harness.oci.model import OCI_MANIFEST, Platform, canonical_json
from harness.oci.registry.config import Site
from harness.oci.store import Store
from tests.unit.lifecycle.standin import StandIn
from tests.unit.lifecycle.test_run import store

__all__ = ["store"]  # a fixture

AMD64 = Platform.parse("linux/amd64")
FILES = {"application/apps/web/web.yaml": "kind: A\n", "etc/page": "{{ Greeting }} {{ DbPassword }} {{ SvcCIDR }}\n"}
WEB = ImageApp("web", "kube", ("web.yaml",), commands=("kubectl apply -f application/apps/web/web.yaml",))
DB = ImageApp("db", "helm", ("db.tgz",), env={"Size": "1"}, commands=("helm install db application/apps/db/db.tgz",))
INFO: dict[str, Any] = {
    "apps": (WEB, DB), "launch": (*DB.commands, *WEB.commands), "env": {"Greeting": "hello"}, "kube_version": ">=1.31 <1.38",
}  # fmt: skip


def embedded(store: Store, *names: str) -> ImageSet:
    """Container images, each of one small layer."""
    images, blobs = [], []
    for name in names:
        layer, size = store.put(f"layer of {name}".encode())
        config, length = store.put(f'{{"of": "{name}"}}'.encode())
        parts = [
            {"mediaType": "application/octet-stream", "digest": digest, "size": long} for digest, long in ((config, length), (layer, size))
        ]
        described = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": parts[0], "layers": parts[1:]}
        manifest, total = store.put(canonical_json(described))
        images.append(EmbeddedImage(name, manifest, OCI_MANIFEST, total))
        blobs += [Blob(manifest, OCI_MANIFEST, total), Blob(config, "c", length), Blob(layer, "l", size)]
    return ImageSet(tuple(images), tuple(blobs)).sorted()


def build(
    store: Store, name: str = "shop", files: dict[str, str] | None = None, images: tuple[str, ...] = ("docker.io/library/a:1",), **info: Any
) -> str:
    """A small application image in the store; its digest."""
    root = store.root.parent / f"root-{name.replace('/', '-')}-{len(list(store.root.parent.iterdir()))}"
    root.mkdir()
    for path, text in (FILES if files is None else files).items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    layer = write_layer(scan(root), store)
    given = {**INFO, **info}
    part = PlatformImage(AMD64, (layer.descriptor,), (layer.diff_id,), info=Info(type="app", **given), images=embedded(store, *images))
    made = cloudimage.write(store, [part])
    store.tag(name, made)
    return made.digest


class Kube:
    """Keeps ConfigMaps, and notes what else it is told."""

    kubeconfig, home, where = "/etc/kubernetes/admin.conf", "/var/lib/slipway", "m1"

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Any]] = {}
        self.said: list[tuple[tuple[str, ...], str | None]] = []
        self.made = 0
        self.refuse = ""

    def run(self, *argv: str, input: str | None = None, timeout: float = 0) -> str:
        assert timeout >= 0
        self.said.append((argv, input))
        if argv[:2] == ("get", "configmaps"):
            return json.dumps({"items": list(self.kept.values())})
        if argv[:2] == ("get", "configmap"):
            return json.dumps(self.kept[argv[2]]) if argv[2] in self.kept else ""
        if argv[0] in ("create", "replace"):
            return self._keep(argv[0], json.loads(input or ""))
        if argv[:2] == ("delete", "configmap"):
            self.kept.pop(argv[2], None)
        elif argv[0] == "delete" and self.refuse:
            raise CommandError("kubectl: exit code 1", details=self.refuse)
        return ""

    def _keep(self, verb: str, document: dict[str, Any]) -> str:
        name = document["metadata"]["name"]
        assert (name in self.kept) == (verb == "replace")
        if verb == "create":
            self.made += 1
            document["metadata"]["uid"] = f"uid-{self.made}"
        else:
            document["metadata"]["uid"] = self.kept[name]["metadata"]["uid"]
        self.kept[name] = document
        return json.dumps(document)

    def record(self, name: str = "shop") -> Installed:
        return Installed.of(self.kept[f"slipway-app-{name}"])

    def deleted(self) -> list[str]:
        """The names of what was deleted, in order."""
        texts = [text for argv, text in self.said if argv[0] == "delete" and text]
        return [document["metadata"]["name"] for text in texts for document in yaml.safe_load_all(text)]


@contextlib.contextmanager
def alone() -> Iterator[None]:
    yield


def target(kube: Any, way: str = apps_target.REGISTRY, kubernetes: str = "v1.36.3", registry: SiteRegistry | None = None) -> AppTarget:
    first: Any = StandIn("10.0.0.1", "host-1")
    worker: Any = StandIn("10.0.0.4", "host-4")
    return AppTarget(
        name="lab",
        kubectl=kube,
        first=first,
        nodes=(first, worker),
        way=way,
        root="/var/lib/slipway/apps",
        kubernetes=kubernetes,
        platforms={"10.0.0.1": AMD64, "10.0.0.4": AMD64},
        exclusive=alone,
        holders=(first,) if way == apps_target.REGISTRY else (),
        control_plane=(first,),
        facts={"PodCIDR": "100.64.0.0/10", "SvcCIDR": "10.96.0.0/22"},
        registry=registry,
    )


def work(store: Store, request: Request | None = None, kube: Any = None, **options: Any) -> installation.AppInstall:
    request = request or Request.of("shop", env={"DbPassword": "hunter2"})
    return installation.make(target(kube or Kube(), **options), request, installation.read(request, store), store)


def test_installation_make_passes_cluster_networks_to_env_even_if_invalid(store: Store) -> None:
    build(store)
    facts = {"PodCIDR": "fd00::/48,10.0.0.0/16", "SvcCIDR": "fd00:1::/112,10.1.0.0/16"}
    request = Request.of("shop", env={"DbPassword": "x"})
    made = installation.make(dataclasses.replace(target(Kube()), facts=facts), request, installation.read(request, store), store)
    assert (made.env["PodCIDRv4"], made.env["SvcCIDRv6"], made.env["KubeSvcIP"]) == ("10.0.0.0/16", "fd00:1::/112", "fd00:1::1")
    strange = dataclasses.replace(target(Kube()), facts={"PodCIDR": "all", "SvcCIDR": "of them"})
    assert installation.make(strange, request, installation.read(request, store), store).env["PodCIDR"] == "all"


def ids(found: installation.AppInstall) -> list[str]:
    recipe = install.plan(found)
    lifecycle_plan.check(recipe)
    return [step.id for step in recipe]


# ---- what is done -----------------------------------------------------------------------------------------------------


def test_install_plan_distributes_images_before_launch_in_declared_order(store: Store) -> None:
    build(store)
    found = work(store)
    assert ids(found) == [
        "begin", "send-images", "tell-nodes", "app-shop-files", "app-shop-launch-1", "app-shop-launch-2", "drop", "wait", "record",
    ]  # fmt: skip
    assert [step.title for step in install.plan(found) if "launch" in step.id] == [f"launch: {command}" for command in INFO["launch"]]
    by_id = {step.id: step for step in install.plan(found)}
    assert [node.address for node in by_id["send-images"].nodes] == ["10.0.0.1"]
    assert [node.address for node in by_id["tell-nodes"].nodes] == ["10.0.0.1", "10.0.0.4"]
    assert {"send-images", "tell-nodes", "app-shop-files"} <= set(by_id["app-shop-launch-1"].needs)


@pytest.mark.parametrize(
    ("way", "steps"),
    [
        (apps_target.IMPORT, ["begin", "import-images"]),
        (apps_target.SITE, ["begin", "tell-nodes"]),
        (apps_target.NOTHING, ["begin", "app-shop-files"]),
    ],
)
def test_install_plan_image_steps_follow_distribution_way(store: Store, way: str, steps: list[str]) -> None:
    build(store)
    assert ids(work(store, way=way))[:2] == steps


def test_install_plan_pointed_cluster_fills_registry_and_points_pods_before_launch(store: Store) -> None:
    build(store)
    registry = SiteRegistry(Site("registry.corp", "team"), contextlib.nullcontext)  # type: ignore[arg-type]
    found = work(store, way=apps_target.POINTED, registry=registry)
    assert ids(found)[:4] == ["begin", "fill-registry", "app-shop-files", "app-shop-pods"]
    by_id = {step.id: step for step in install.plan(found)}
    assert "app-shop-pods" in by_id["app-shop-launch-1"].needs
    # Pods that were pointed at another registry are launched again.
    elsewhere = work(store, way=apps_target.POINTED, registry=SiteRegistry(Site("registry.corp", "other"), contextlib.nullcontext))  # type: ignore[arg-type]
    assert found.generation != elsewhere.generation


def test_install_values_are_rendered_and_secrets_are_redacted_in_record(store: Store) -> None:
    build(store)
    kube = Kube()
    found = work(store, Request.of("shop", env={"DbPassword": "hunter2", "Greeting": "moin"}), kube)
    assert found.files["etc/page"].data == b"moin hunter2 10.96.0.0/22\n"
    install.plan(found)[0].action()
    assert "hunter2" not in json.dumps(kube.kept)
    kept = kube.record()
    assert kept.application is not None
    assert kept.application.env["Greeting"] == "moin"
    assert is_redacted(kept.application.env["DbPassword"])
    assert (kept.state, kept.image, kept.domains, kept.kube_version) == ("installing", "shop:latest", ("docker.io",), ">=1.31 <1.38")


def test_installation_make_missing_required_value_is_reported_with_file(store: Store) -> None:
    build(store, values=(ExpectedValue("DbPassword", ("etc/page:1",), required=True, secret=True),))
    with pytest.raises(InputError, match="DbPassword: has no value, and etc/page:1 needs one"):
        work(store, Request.of("shop"))


def test_installation_make_undeclared_placeholder_gives_warning(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    build(store, files={"etc/page": "{{ Site }} {{ HostIP }} {{ Greeting }}"})
    work(store, Request.of("shop", env={"Greeting": "moin"}))
    assert "etc/page: {{ Site }} stays as text, since nothing declares Site; if" in " ".join(capsys.readouterr().err.split())
    work(store, Request.of("shop", env={"Greeting": "moin", "Site": "a"}))
    assert "stays as text" not in capsys.readouterr().err


def test_installation_make_launches_requested_parts_commands_or_clusterfile_apps(store: Store) -> None:
    build(store, files={})
    assert work(store, Request.of("shop", parts=["web"])).commands == WEB.commands
    assert work(store, Request.of("shop", parts=["web", "db"])).commands == (*WEB.commands, f"export Size=1 && {DB.commands[0]}")
    assert work(store, Request.of("shop", commands=["kubectl get nodes"])).commands == ("kubectl get nodes",)
    text = """apiVersion: slipway.dev/v1
kind: Application
metadata: {name: shop}
spec: {launchApps: [db], configs: [{name: db, env: {Size: "7"}}]}
"""
    found = parse(text, "Clusterfile")
    assert work(store, Request.of("shop", found=found)).commands == (f"export Size=7 && {DB.commands[0]}",)
    assert work(store, Request.of("shop", parts=["web"], found=found)).commands == WEB.commands


def test_installation_make_commands_replace_all_commands_of_image_and_clusterfile(store: Store) -> None:
    build(store, files={})
    text = """apiVersion: slipway.dev/v1
kind: Application
metadata: {name: shop}
spec: {launchApps: [db], configs: [{name: db, env: {Size: "7"}}, {name: web, launch: {cmds: ["echo web"]}}]}
"""
    found = parse(text, "Clusterfile")
    made = work(store, Request.of("shop", commands=["kubectl get nodes", "true"], found=found))
    assert made.commands == ("kubectl get nodes", "true")
    steps = [step.title for step in install.plan(made) if "launch" in step.id]
    assert steps == ["launch: kubectl get nodes", "launch: true"]
    # An empty list replaces them as well: nothing is launched.
    assert work(store, Request.of("shop", commands=[], found=found)).commands == ()


def test_install_unknown_part_or_parts_with_commands_is_refused(store: Store) -> None:
    build(store, files={})
    for parts, unknown in ((["nosuch"], ["nosuch"]), (["web", "nosuch", "other"], ["nosuch", "other"])):
        with pytest.raises(InputError, match="no such application") as caught:
            work(store, Request.of("shop", parts=parts))
        assert len(caught.value.faults) == len(unknown)
        assert all(name in str(fault) for name, fault in zip(unknown, caught.value.faults, strict=True))
    with pytest.raises(UsageError, match="both given"):
        Request.of("shop", parts=["web"], commands=["true"])


def test_installation_make_unadmitted_kubernetes_version_is_refused_before_any_change(store: Store) -> None:
    build(store)
    kube = Kube()
    with pytest.raises(CheckError, match=r"made for Kubernetes >=1.31 <1.38, and the cluster has v1.39.1"):
        work(store, kube=kube, kubernetes="v1.39.1")
    assert {argv[0] for argv, _ in kube.said} == {"get"}
    work(store, kubernetes="v1.37.9-gke.300")


def test_installation_read_cluster_image_is_refused(store: Store) -> None:
    from tests.unit.lifecycle.test_run import build as build_cluster

    build_cluster(store, "web")
    with pytest.raises(StoreError, match="brings Kubernetes"):
        installation.read(Request.of("web"), store)


def test_install_generation_changes_with_values_and_after_removal(store: Store) -> None:
    build(store)

    def generation(kube: Kube, **env: str) -> str:
        found = work(store, Request.of("shop", env={"DbPassword": "hunter2", **env}), kube)
        install.plan(found)[0].action()
        return found.generation

    kube = Kube()
    first = generation(kube)
    assert generation(kube) == first
    assert generation(kube, DbPassword="hunter3") != first
    kube.kept.clear()
    assert generation(kube) != first


def test_install_begin_again_keeps_recorded_objects(store: Store) -> None:
    build(store)
    kube = Kube()
    made = (TrackedObject("v1", "Service", "default", "web"),)
    found = work(store, kube=kube)
    install.plan(found)[0].action()
    records.write(kube, dataclasses.replace(found.record, objects=made, state="installed"))  # type: ignore[arg-type]
    again = work(store, kube=kube)
    install.plan(again)[0].action()
    assert (kube.record().objects, kube.record().state) == (made, "installing")


def test_install_repeated_request_keeps_former_choices_except_secrets(store: Store) -> None:
    build(store)
    kube = Kube()
    first = work(store, Request.of("shop", env={"DbPassword": "x", "Greeting": "moin"}, parts=["web"]), kube)
    install.plan(first)[0].action()
    again = work(store, Request.of("shop", env={"DbPassword": "x"}), kube)
    assert (again.env["Greeting"], again.commands) == ("moin", WEB.commands)
    assert work(store, Request.of("shop", env={"DbPassword": "x"}, commands=["true"]), kube).commands == ("true",)
    with pytest.raises(InputError, match="-e DbPassword: was not kept") as caught:
        work(store, Request.of("shop"), kube)
    assert caught.value.faults[0].hint == "-e DbPassword=VALUE"
    # A document says everything there is to say.
    whole = ApplicationDocument("shop", env={"DbPassword": "x"}, image="shop")
    assert work(store, Request(whole, by_file=True), kube).env["Greeting"] == "hello"


def test_installation_make_image_name_with_other_digest_in_cluster_gives_warning(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup()
    build(store, "other", images=("docker.io/library/a:1",))
    theirs = build(store, "cluster", files={"x": "y"}, images=("docker.io/library/a:1",))
    moved = embedded(store, "docker.io/library/b:2")
    image = dataclasses.replace(
        cloudimage.read(store, theirs).platforms[0],
        images=ImageSet((dataclasses.replace(moved.images[0], name="docker.io/library/a:1"),), moved.blobs),
    )
    cluster = cloudimage.write(store, [image]).digest
    build(store)
    request = Request.of("shop", env={"DbPassword": "x"})
    made: Any = Kube()
    installation.make(dataclasses.replace(target(made), image=cluster), request, installation.read(request, store), store)
    assert "docker.io/library/a:1 is another image in the cluster's own image" in capsys.readouterr().err


def test_hosts_files_unknown_registry_copies_node_settings_and_login(store: Store) -> None:
    build(store, images=("docker.io/library/a:1", "registry.example.com:5000/b:1"))
    found = work(store)
    node: Any = found.target.first
    url = 'server = "https://10.103.97.12:5000/v2/docker.io"\n\n[host."https://10.103.97.12:5000/v2/docker.io"]\n'
    import base64

    encoded = base64.b64encode(url.encode()).decode()
    node.answers = {"base64": f"/etc/containerd/certs.d/docker.io/hosts.toml {encoded}\nend", "ls /etc/containerd": "docker.io\n_default\n"}
    files = images.hosts_files(found.target, found.request.elsewhere, node, found.record.domains)
    (path,) = files
    assert path == "/etc/containerd/certs.d/registry.example.com:5000/hosts.toml"
    assert files[path].data.decode() == url.replace("/v2/docker.io", "/v2/registry.example.com:5000")
    assert files[path].mode == 0o644
    with_login = url.replace(
        'docker.io"]\n', 'docker.io"]\n[host."https://10.103.97.12:5000/v2/docker.io".header]\nAuthorization = "Basic x"\n'
    )
    node.answers["base64"] = f"/etc/containerd/certs.d/docker.io/hosts.toml {base64.b64encode(with_login.encode()).decode()}\nend"
    (signed_in,) = images.hosts_files(found.target, found.request.elsewhere, node, found.record.domains).values()
    assert signed_in.mode == 0o600
    hosts = tomllib.loads(signed_in.data.decode())["host"]
    assert hosts == {"https://10.103.97.12:5000/v2/registry.example.com:5000": {"header": {"Authorization": "Basic x"}}}
    node.answers["ls /etc/containerd"] = "docker.io\nregistry.example.com:5000\n"
    assert images.hosts_files(found.target, found.request.elsewhere, node, found.record.domains) == {}


def test_import_images_sends_only_images_and_blobs_that_node_lacks(store: Store) -> None:
    wanted = embedded(store, "docker.io/library/a:1", "docker.io/library/b:1")
    has = wanted.images[0]
    node: Any = StandIn()
    node.answers = {
        "images ls": f"REF DIGEST\n{has.name} {has.digest}\n",
        "content ls": "\n".join(blob.digest for blob in wanted.blobs[:2]),
    }
    assert images.import_images(node, store, wanted) == 1
    (command, files) = node.tars[0]
    assert "images import --no-unpack" in command
    entries = json.loads(files["index.json"])["manifests"]
    assert [entry["annotations"]["io.containerd.image.name"] for entry in entries] == ["docker.io/library/b:1"]
    assert len([name for name in files if name.startswith("blobs/")]) == len(wanted.blobs) - 2
    node.answers["images ls"] = "".join(f"{image.name} {image.digest}\n" for image in wanted.images)
    assert images.import_images(node, store, wanted) == 0
    assert len(node.tars) == 1


def test_install_plan_runs_launch_hooks_and_refuses_cluster_hooks(store: Store) -> None:
    hook = "apiVersion: slipway.dev/v1\nkind: Hook\nmetadata: {{name: {}}}\nspec: {{phases: [{}], data: 'true'}}\n"
    build(store, files={"plugins/a.yaml": hook.format("a", "pre-launch"), "plugins/b.yaml": hook.format("b", "pre-uninstall")})
    recipe = ids(work(store))
    assert recipe.index("app-shop-pre-launch-1") < recipe.index("app-shop-launch-1")
    assert "app-shop-pre-uninstall-1" not in recipe
    build(store, files={"plugins/a.yaml": hook.format("a", "pre-init-host")})
    with pytest.raises(InputError, match="is for images of clusters"):
        work(store)


def test_owned_objects_among_selects_only_objects_of_application() -> None:
    def item(kind: str, name: str, uid: str, owner: str = "", **notes: str) -> dict[str, Any]:
        owners = [{"uid": owner, "controller": True}] if owner else []
        return {"kind": kind, "metadata": {"name": name, "namespace": "shop", "uid": uid, "ownerReferences": owners, "annotations": notes}}

    release = {"meta.helm.sh/release-name": "db", "meta.helm.sh/release-namespace": "shop"}
    items = [
        item("Pod", "web-1-x", "3", "2"), item("ReplicaSet", "web-1", "2", "1"),
        item("Deployment", "web", "1"),
        item("StatefulSet", "db", "4", **release), item("Pod", "db-0", "5", "4"), item("Pod", "other", "6"),
        item("Deployment", "other", "7"),
    ]  # fmt: skip
    ours = launch.OwnedObjects(
        None, [TrackedObject("apps/v1", "Deployment", "shop", "web"), TrackedObject("helm", "Release", "shop", "db")]
    )
    assert [one["metadata"]["name"] for one in ours.among(items)] == ["web-1-x", "web-1", "web", "db", "db-0"]


# ---- what others must know --------------------------------------------------------------------------------------------


def test_records_union_has_images_of_all_applications(store: Store) -> None:
    first = build(store, images=("docker.io/library/a:1",))
    second = build(store, "more", images=("docker.io/library/a:1", "quay.io/b:1"))
    apps = [Installed(name, f"{name}:latest", digest) for name, digest in (("shop", first), ("more", second))]
    assert [image.name for image in records.union(apps, store).images] == ["docker.io/library/a:1", "quay.io/b:1"]
    assert records.union(apps, store, [Platform.parse("arm64")]).images == ()
    with pytest.raises(StoreError, match="the image of the application lost") as caught:
        records.union([Installed("lost", "lost:1", "sha256:" + "0" * 64)], store)
    assert "slipway pull lost:1" in str(caught.value.hint)


def test_records_unfit_names_applications_that_reject_kubernetes_version() -> None:
    found = [Installed("shop", "shop:1", "", kube_version="<1.37"), Installed("free", "free:1", "")]
    assert records.unfit(found, "v1.36.3") == ()
    assert records.unfit(found, "v1.37.0") == ("shop (shop:1) admits Kubernetes <1.37, and not v1.37.0",)


@pytest.mark.parametrize(
    ("image", "name"), [("registry.example.com/team/shop:1.2", "shop"), ("My_Shop", "my-shop"), ("a/b@sha256:" + "0" * 64, "b")]
)
def test_name_of_image_reference_returns_valid_object_name(image: str, name: str) -> None:
    assert records.name_of(image) == name


def test_request_of_invalid_application_name_is_refused() -> None:
    with pytest.raises(UsageError, match="--as"):
        Request.of("shop", "Shop!")


# ---- removal ----------------------------------------------------------------------------------------------------------

MADE = (
    TrackedObject("v1", "Namespace", "", "shop"),
    TrackedObject("v1", "ConfigMap", "kube-system", "theirs", ours=False),
    TrackedObject("helm", "Release", "shop", "db"),
    TrackedObject("apps/v1", "Deployment", "shop", "web"),
)


def removal(store: Store, kube: Any) -> uninstall.AppRemoval:
    return uninstall.make(target(kube), "shop", store)


def installed(kube: Any, store: Store, **options: Any) -> None:
    records.begin(kube, Installed("shop", "shop:latest", build(store, files={}), state="installed", objects=MADE, **options))


def test_uninstall_removes_own_objects_in_reverse_and_keeps_preexisting_ones(store: Store) -> None:
    kube = Kube()
    installed(kube, store, unknown=("bash x.sh",))
    found = removal(store, kube)
    first: Any = found.target.first
    done = uninstall.carry_out(found, 0)
    assert kube.deleted() == ["web", "shop"]
    assert any("helm uninstall db --namespace shop" in command for command in first.commands)
    assert done.kept == ("ConfigMap kube-system/theirs",)
    assert done.removed == ("Namespace shop", "helm release shop/db", "Deployment shop/web")
    assert done.unknown == ("bash x.sh",)
    assert kube.kept == {}
    assert any("rm -rf /var/lib/slipway/apps/shop" in command for command in first.commands)


def test_uninstall_keeps_objects_that_another_application_uses(store: Store) -> None:
    kube = Kube()
    installed(kube, store)
    records.begin(kube, Installed("more", "more:1", "", objects=(dataclasses.replace(MADE[0], ours=False),)))  # type: ignore[arg-type]
    done = uninstall.carry_out(removal(store, kube), 0)
    assert kube.deleted() == ["web"]
    assert "Namespace shop" in done.kept


def test_uninstall_failed_deletion_keeps_record_and_missing_kind_is_ignored(store: Store) -> None:
    kube = Kube()
    installed(kube, store)
    kube.refuse = "error: timed out waiting for the condition on namespaces/shop"
    with pytest.raises(CommandError, match="could not be removed"):
        uninstall.carry_out(removal(store, kube), 0)
    assert kube.record().state == "removing"
    kube.refuse = 'error: unable to recognize "STDIN": no matches for kind "Shop" in version "example.com/v1"'
    uninstall.carry_out(removal(store, kube), 0)
    assert kube.kept == {}


def test_uninstall_unknown_application_is_refused_with_installed_names(store: Store) -> None:
    kube = Kube()
    records.begin(kube, Installed("more", "more:1", ""))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="has no application shop") as caught:
        removal(store, kube)
    assert "it has more" in str(caught.value.hint)


def test_uninstall_with_pre_uninstall_hook_runs_it_and_reports_no_unknown_commands(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    log.setup()
    hook = "apiVersion: slipway.dev/v1\nkind: Hook\nmetadata: {name: bye}\nspec: {phases: [pre-uninstall], data: 'sh undo.sh'}\n"
    kube = Kube()
    installed(kube, store, unknown=("bash x.sh",))
    digest = build(store, files={"plugins/bye.yaml": hook})
    kube.kept["slipway-app-shop"]["data"]["digest"] = digest
    gone: Any = target(kube)
    # Its files went with the machine that had launched it; the store has them still.
    gone.first.run = lambda command, _run=gone.first.run, **given: (
        dataclasses.replace(_run(command, **given), returncode=1) if command.startswith("[ -d") else _run(command, **given)
    )
    found = uninstall.make(gone, "shop", store)
    assert [step.id for step in uninstall.plan(found)] == ["begin", "app-shop-pre-uninstall-1", "take-back", "clean", "forget"]
    done = uninstall.carry_out(found, 0)
    assert done.unknown == ()
    assert any("launch-" in command for command in gone.first.commands)


def test_installed_config_map_round_trip_keeps_application_document() -> None:
    document = ApplicationDocument(
        "shop", image="shop:1", env={"A": "b", "Password": "x"}, launch=("web",),
        configs=(AppConfig("web", {"C": "d"}, commands=("kubectl apply -f .",)),),
    )  # fmt: skip
    kept = Installed.of(Installed("shop", "shop:1", "sha256:1", clusterfile=Request(document).clusterfile).config_map())
    assert kept.application is not None
    assert dataclasses.replace(kept.application, env={}, where="") == dataclasses.replace(
        document, env={}, configs=tuple(dataclasses.replace(one, where=kept.application.configs[0].where) for one in document.configs)
    )

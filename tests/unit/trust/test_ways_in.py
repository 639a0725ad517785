"""Every way by which an image comes into use asks policy: found in the source, so that a new one is found as well, and tried one by one."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from harness import cloudimage, kubefile
from harness.build import container_images, definitions, image_set, layers
from harness.build.base_image import base_image
from harness.build.image_archives import ArchivedImages, find_archives
from harness.build.pull_record import PulledImage
from harness.cloudimage import CloudImage
from harness.clusterfile import ApplicationDocument
from harness.errors import BuildError, SlipwayError, StoreError
from harness.lifecycle import join, run, upgrade
from harness.lifecycle.apps import installation, multi_image, records
from harness.lifecycle.apps.requests import Request
from harness.lifecycle.cluster.request import of_machines
from harness.nodes import Login, Machine
from harness.oci.archive.save import save
from harness.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, Platform, canonical_json, digest_of
from harness.oci.reference import Reference
from harness.oci.registry.config import Site
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.fetcher import Fetcher
from harness.oci.registry.guarded import GuardedSource, Permits
from harness.oci.registry.manifest import Manifest
from harness.oci.registry.sources import LayoutSource
from harness.oci.store import Store
from harness.sealer import convert as sealer_convert
from harness.testkit import cluster as testkit_cluster
from harness.testkit.cluster import ClusterRequest
from harness.transfer import merge, mirror, multi_platform, pull
from harness.trust import policy
from tests.integration import sealer
from tests.unit import sources
from tests.unit.oci.archive.test_docker_archive import LAYERS, docker
from tests.unit.test_house import SOURCES

# In the source

MAKE_USABLE = {
    ("cloudimage", "read"),
    ("sealer_image", "read"),
    ("sealer_convert", "convert"),
    ("docker_archive", "take_images"),
    ("load", "load"),
    ("load", "take_blobs"),
    ("multi_platform", "pieces"),
    ("store", "tag"),
    ("store", "take_in"),
}
"""Calls that have an image afterwards, by the name before the dot and after it. ``pull`` and sources of registries count everywhere."""

WAYS_IN = {
    "harness.build.base_image:base_image": "FROM",
    "harness.build.base_pull:_fetch": "FROM and build --on of an image that the store lacks",
    "harness.build.cluster_base:named": "build --on",
    "harness.build.cluster_base:newest": "the image that an application image runs on, without --on",
    "harness.build:build": "COPY --from, images that a cluster pulls, images that files declare",
    "harness.cli.archive:load": "slipway load",
    "harness.transfer.mirror:expand": "slipway push --expand",
    "harness.build.image_archives:ArchivedImages._take": "archives below images/ of a context",
    "harness.build.container_images:_admit_base": "FROM in a Dockerfile of images/",
    "harness.lifecycle.apps.records:union": "applications of a cluster, for nodes that join it",
    "harness.lifecycle.apps.installation:read": "slipway install, applications of a Clusterfile",
    "harness.lifecycle.apps.multi_image:sort": "slipway run and apply with several images",
    "harness.lifecycle.join:_image": "slipway join",
    "harness.lifecycle.run:prepare": "slipway run, apply, restore",
    "harness.lifecycle.upgrade:readable": "slipway upgrade, rollback",
    "harness.transfer.multi_platform:pieces": "slipway manifest create, add",
    "harness.oci.archive.load:load": "asks whom it is given",
    "harness.sealer.convert:convert": "slipway convert, FROM an image of sealer",
    "harness.testkit.cluster:boot": "pytest --image",
    "harness.transfer.pull:pull": "slipway pull, run, apply and FROM of an image elsewhere, manifest create --pull",
}
"""Functions that make an image usable, and ask policy themselves."""

EXCUSED = {
    "harness.build.base_image:_bases": "names those that there are, in a hint",
    "harness.build.base_image:_converted": "base_image has asked",
    "harness.build.base_image:base_digest": "of a base that base_image has asked about",
    "harness.build.find_images:find_in_image": "shows",
    "harness.cli.cluster_options:_check_site": "run.prepare asks; this looks which of its images the registry of the site lacks",
    "harness.cli.clusterfile:_needed": "shows",
    "harness.cli.convert:convert": "sealer_convert.convert asks before; names what was made of it",
    "harness.cli.images:_inspect_sealer": "shows",
    "harness.cli.images:history": "shows",
    "harness.cli.images:inspect": "shows",
    "harness.cli.install:only_applications": "only decides which verb was meant",
    "harness.cli.manifest:fetching": "pull.pull asks",
    "harness.cli.registry:_expand": "mirror.expand asks",
    "harness.cli.registry:fetch": "pull.pull asks",
    "harness.cli.registry:pull": "pull.pull asks",
    "harness.cli.trust:_publish": "describes an image that is here",
    "harness.cloudimage.tags:tag": "one more name for what has one",
    "harness.cloudimage.diff_side:find": "shows",
    "harness.build.engine_images:_pull_foreign": "Builder._ensure asks",
    "harness.build.engine_images:ensure_base": "Builder._ensure asks",
    "harness.lifecycle.apps.images:warn_of_others": "compares names",
    "harness.lifecycle.apply:secret_values": "reads which values are secrets; run.prepare and upgrade.readable ask",
    "harness.lifecycle.checks.postflight.gather:_images": "compares names and digests with what runs",
    "harness.lifecycle.rollout.plan:_former_addons": "finds what may be removed",
    "harness.lifecycle.apps.unused:remove_others": "finds what may be removed",
    "harness.lifecycle.run:known_networks": "looks for a pod network; run.prepare and records.union ask",
    "harness.lifecycle.run:plan": "of applications that run.prepare has asked about",
    "harness.lifecycle.apps.uninstall:_bring_files": "removes what was admitted when it was installed",
    "harness.lifecycle.apps.uninstall:_hooks_of": "removes what was admitted when it was installed",
    "harness.testkit.e2e.suite:run": "testkit.boot and install ask about both images",
    "harness.testkit.e2e.suite:version_of": "shows; testkit.boot asks",
    "harness.testkit.snapshot:_origins": "compares digests with what runs",
    "harness.transfer.merge:merge": "names what it made of pieces, which were asked about",
    "harness.transfer.merge:_source": "pieces asks",
    "harness.transfer.multi_platform:_tag": "names what it made of pieces, which were asked about",
    "harness.transfer.multi_platform:add": "pieces asks",
    "harness.transfer.multi_platform:create": "pieces asks",
    "harness.transfer.multi_platform:inspect": "shows",
    "harness.transfer.multi_platform:remove": "pieces asks",
    "harness.cloudimage.prune:_trees": "finds what may be removed",
    "harness.build.layers:LayerBuilder.manifest": "through a Fetcher, whose sources were asked",
    "harness.sealer.listing:rows": "shows",
    "harness.cloudimage.search:stored": "shows",
    "harness.oci.archive.docker_archive:take_images": "ArchivedImages._take asks; nothing gets a name",
    "harness.oci.registry.referrers:LocalReferrers.name": "names attachments",
}
"""Functions with such a call that need not ask, and why."""


class _Function:
    """A function of the package, or what of a module stands outside of any, with its nested functions."""

    def __init__(self, name: str, body: Sequence[ast.AST]) -> None:
        self.name = name
        self.nodes = [node for one in body for node in ast.walk(one)]

    @property
    def makes_usable(self) -> bool:
        return any(_makes_usable(node, self.name.partition(":")[0]) for node in self.nodes)

    @property
    def asks(self) -> bool:
        """Whether it names the gate: ``policy.admit``, ``policy.gate()``, or an ``admit`` that it was given."""
        attributes = {(_last(node.value), node.attr) for node in self.nodes if isinstance(node, ast.Attribute)}
        called = {node.func.id for node in self.nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
        return bool(attributes & {("policy", "admit"), ("policy", "gate")}) or "admit" in called


def _makes_usable(node: ast.AST, module: str) -> bool:
    if not isinstance(node, ast.Call):
        return False
    if isinstance(node.func, ast.Name):
        own = node.func.id == "read" and module in ("harness.cloudimage.tags", "harness.sealer.listing", "harness.sealer.convert")
        own = own or (node.func.id == "convert" and module == "harness.build.base_image")  # sealer's, imported by its name
        return own or node.func.id in ("GuardedSource", "pull", "pieces")
    if not isinstance(node.func, ast.Attribute):
        return False
    return node.func.attr == "pull" or (_last(node.func.value), node.func.attr) in MAKE_USABLE


def _last(node: ast.expr) -> str:
    """The last name before a dot: ``store`` of ``self.store``, ``Store.default()`` and ``work.store``."""
    if isinstance(node, ast.Call):
        return _last(node.func.value).lower() if isinstance(node.func, ast.Attribute) else _last(node.func)
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


@functools.cache
def functions() -> dict[str, _Function]:
    return {each.name: each for name, path in SOURCES.items() for each in _functions(name, sources.tree(path))}


def _functions(module: str, tree: ast.Module) -> Iterator[_Function]:
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    members = [(f"{each.name}.{node.name}", node) for each in classes for node in each.body if isinstance(node, kinds)]
    for name, node in (*((node.name, node) for node in tree.body if isinstance(node, kinds)), *members):
        yield _Function(f"{module}:{name}", [node])
    rest = [node for node in tree.body if not isinstance(node, (*kinds, ast.ClassDef))]
    yield _Function(f"{module}:<module>", rest)


def test_functions_using_images_ask_policy_or_are_excused() -> None:
    found = {name for name, each in functions().items() if each.makes_usable}
    assert set(functions()) >= set(WAYS_IN)
    assert found - set(EXCUSED) - set(WAYS_IN) == set(), "a new way in: let it ask policy.admit, and add it to WAYS_IN"
    assert [name for name in sorted(WAYS_IN) if not functions()[name].asks] == []


def test_excused_functions_still_make_images_usable() -> None:
    needed = {name for name, each in functions().items() if each.makes_usable}
    assert set(EXCUSED) - needed == set()
    assert set(EXCUSED) & set(WAYS_IN) == set()


def test_admitted_is_constructed_in_policy_module_only() -> None:
    made = {
        name.partition(":")[0]
        for name, each in functions().items()
        for node in each.nodes
        if isinstance(node, ast.Call) and _last(node.func) == "Admitted"
    }
    assert made == {"harness.trust.policy"}


def test_source_check_finds_function_that_skips_policy() -> None:
    (bad, *_) = _functions("harness.new", ast.parse("def sneak(store):\n    return cloudimage.read(store, 'web')\n"))
    assert (bad.name, bad.makes_usable, bad.asks) == ("harness.new:sneak", True, False)
    text = "def good(store):\n    image = cloudimage.read(store, 'web')\n    policy.admit(store, 'web', image.digest)\n"
    (good, *_) = _functions("harness.new", ast.parse(text))
    assert (good.makes_usable, good.asks) == (True, True)


def test_take_in_without_admission_of_same_digest_is_refused(store: Store, image: CloudImage) -> None:
    other = Descriptor(OCI_INDEX, image.digest, store.size(image.digest))
    with pytest.raises(StoreError, match="policy was not asked about it"):
        store.take_in({"free": other}, [], {})
    with pytest.raises(StoreError, match="policy was not asked about it"):
        store.take_in({"free": other}, [policy.Gate().admit(store, "free", digest_of(b"another"))], {})
    assert "free:latest" not in store.names()


# Each of them


class Registry:
    """A client of a registry that has one image, and none of its blobs: nothing of a refused image is asked for."""

    def __init__(self, data: bytes, media_type: str) -> None:
        self.found = Manifest(data, media_type, digest_of(data), "registry.example.com")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def manifest(self, reference: Reference, _accept: Sequence[str] = ()) -> Manifest:
        if reference.digest in (None, self.found.digest) and not (reference.tag or "").startswith("sha256-"):
            return self.found
        raise RemoteError(f"{reference}: unknown", status=404)

    def blob(self, reference: Reference, digest: str, *_: Any) -> Any:
        raise AssertionError(f"{reference}: {digest} was asked for")


CONTAINER = canonical_json(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(b"config"), "size": 6},
        "layers": [],
    }
)
NAME = Reference.parse("registry.example.com/shop/web:1")


def fetcher(store: Store) -> Fetcher:
    client: Any = Registry(CONTAINER, OCI_MANIFEST)
    return Fetcher([GuardedSource(client, client, Permits(["*"]), policy.gate().admit_remote)], store)


def guarded(store: Store) -> object:
    """As the throw-away cluster of a build asks."""
    client: Any = Registry(CONTAINER, OCI_MANIFEST)
    source = GuardedSource(client, client, Permits([NAME.domain]), policy.gate().admit_remote)
    return Fetcher([source], store).manifest(NAME)


def pulled(store: Store) -> object:
    client: Any = Registry(CONTAINER, OCI_MANIFEST)
    return pull.pull(store, NAME, client)


def load(store: Store) -> object:
    save(store, ["web"], store.root.parent / "web.tar")
    from harness.cli.archive import load as command  # as the command line does it
    from harness.cli.options import Output

    return command(file=store.root.parent / "web.tar", output=Output())


def base(store: Store, name: str) -> object:
    return base_image(kubefile.parse(f"FROM {name}\n", "Kubefile"), store, Platform.parse("linux/amd64"))


def collect(store: Store) -> object:
    client: Any = Registry(CONTAINER, OCI_MANIFEST)
    source = GuardedSource(client, client, Permits(["*"]), policy.gate().admit_remote)
    pulled = [PulledImage(str(NAME), "", "", "registry.example.com")]
    return image_set.collect(pulled, store=store, sources=[source], platform=Platform.parse("linux/amd64"))


def known_by_digest(store: Store) -> object:
    """A manifest that the store has for another reason is not to be had under any name."""
    digest, _ = store.put(CONTAINER)
    return fetcher(store).manifest(Reference(NAME.domain, NAME.path, None, digest))


def archived(store: Store) -> object:
    """An archive that a context has below images/."""
    context = store.root.parent / "context"
    (context / "images").mkdir(parents=True)
    docker(context / "images/db.tar", *LAYERS, names=("db:1",))
    source = ArchivedImages(store, find_archives(context, ()), Platform.parse("linux/amd64"))
    with store.shared_lease():
        return Fetcher([source], store).manifest(Reference.parse("db:1"))


class Engine:
    """A Docker engine that has one image; it pulls nothing."""

    def __init__(self, digest: str) -> None:
        self.images = self
        self.attrs = {"RepoDigests": [f"{NAME.repository}@{digest}"]}

    def get(self, _name: str) -> Engine:
        return self


def dockerfile(store: Store, digest: str = digest_of(CONTAINER)) -> None:
    engine: Any = Engine(digest)
    builder = container_images.Builder(store, ())
    builder._ensure(engine, definitions.Definition(store.root, "x", None, (), ()), definitions.BaseImage(str(NAME)))


def boot(store: Store) -> object:
    with testkit_cluster.boot(ClusterRequest("web", 1, 0)) as cluster:
        return cluster


def digest_in(store: Store, name: str) -> str:
    return store.resolve(name).digest


TRIED: dict[str, Callable[[Store], object]] = {
    "pull": pulled,
    "load": load,
    "run": lambda store: run.prepare(of_machines("default", "web", [Machine("10.0.0.1", Login())]), store),
    "install": lambda store: installation.read(Request(ApplicationDocument(name="web", image="web")), store),
    "run several": lambda store: multi_image.sort(["web"], store),
    "merge": lambda store: merge.merge(store, "new", ["web", "web"]),
    "upgrade": lambda store: upgrade.readable(store, "web"),
    "rollback": lambda store: upgrade.readable(store, digest_in(store, "web")),
    "join": lambda store: join._image(store, "web", digest_in(store, "web")),
    "applications": lambda store: records.union([records.Installed("web", "web", digest_in(store, "web"))], store),
    "FROM": lambda store: base(store, "web"),
    "FROM sealer": lambda store: base(store, "sealed"),
    "convert": lambda store: sealer_convert.convert(store, "sealed"),
    "COPY --from": lambda store: layers.pull(fetcher(store), store, NAME, "linux/amd64"),
    "capture": guarded,
    "capture by digest": known_by_digest,
    "collect": collect,
    "archive in images/": archived,
    "FROM in a Dockerfile": dockerfile,
    "test kit": boot,
    "manifest create": lambda store: multi_platform.create(store, "new", ["web"]),
    "expand": lambda store: mirror.expand(store, cloudimage.read(store, "web"), Site("registry.example.com"), None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("way", TRIED)
def test_ways_in_refuse_denied_image_and_keep_names(
    way: str, store: Store, image: CloudImage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image.name == "web:latest"
    sealer.put(store, "sealed", sealer.image([sealer.ROOTFS]))
    rules = tmp_path / "policy.yaml"
    rules.write_text("default: deny\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(rules))
    monkeypatch.setattr(container_images, "Client", lambda *_: Registry(CONTAINER, OCI_MANIFEST))
    before = store.names()
    with pytest.raises(SlipwayError, match=r"refused by policy: .*the default is deny"):
        TRIED[way](store)
    assert store.names() == before


def test_fetcher_child_of_admitted_index_or_base_is_not_asked_about(store: Store) -> None:
    """Only the index is signed; and a CloudImage is admitted as a whole."""
    child = Descriptor(OCI_MANIFEST, digest_of(CONTAINER), len(CONTAINER), platform=Platform.parse("linux/amd64"))
    index = canonical_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [child.to_json()]})
    asked: list[Reference] = []
    client: Any = Registry(index, OCI_INDEX)
    registries = GuardedSource(client, client, Permits(["*"]), lambda _, pinned: asked.append(pinned))
    with_index = Fetcher([registries], store)
    with_index.manifest(NAME)
    store.put(CONTAINER)
    with_index.manifest(Reference(NAME.domain, NAME.path, None, child.digest))
    assert [str(pinned) for pinned in asked] == [f"{NAME}@{digest_of(index)}"]
    brought = LayoutSource(store, {str(NAME): child}, "base image")
    with_base = Fetcher([brought, registries], store)
    with_base.manifest(NAME)
    with_base.manifest(Reference(NAME.domain, NAME.path, None, child.digest))
    assert len(asked) == 1


def test_dockerfile_base_differing_from_admitted_digest_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine may have another image under the name for long."""
    gate = policy.Gate((policy.parse("default: none\n", tmp_path / "policy.yaml"),))
    monkeypatch.setattr(policy, "gate", lambda **_: gate)
    monkeypatch.setattr(policy.Gate, "asks", lambda *_: True)
    monkeypatch.setattr(container_images, "Client", lambda *_: Registry(CONTAINER, OCI_MANIFEST))
    dockerfile(store)
    with pytest.raises(BuildError, match="the engine has another registry"):
        dockerfile(store, digest_of(b"another"))

"""Conformance: good images pass every clause, and images that are broken in one place fail at that clause alone."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import os
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.cloudimage import ImageSet, Info, PlatformImage, conformance
from harness.cloudimage.conformance import CLAUSES, Clause, ClauseOutcome, imageset, info, reproducible, rootfs, structure
from harness.errors import StoreError
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.layer.compression import ZstdWriter
from harness.oci.model import (
    DOCKER_MANIFEST,
    LARGEST_MANIFEST,
    OCI_CONFIG,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    OCI_MANIFEST,
    Descriptor,
    canonical_json,
    digest_of,
)
from harness.oci.store import Store
from tests.unit.cloudimage import examples
from tests.unit.cloudimage.conformance.drafts import FILES, Draft, evidence, examined, failed, outcome, part, write
from tests.unit.cloudimage.examples import AMD64, ARM64

PAGE = Path(__file__).parents[4] / "docs/format.md"


# Images that conform


def test_conformance_of_written_image_passes_all_clauses(store: Store) -> None:
    image = write(store)
    report = examined(store)
    assert failed(report) == []
    assert (report.name, report.digest, report.conforms) == ("web", image.digest, True)
    not_applicable = [result.clause.id for result in report.results if result.outcome is ClauseOutcome.NOT_APPLICABLE]
    assert not_applicable == ["CI-ARCHIVE-1", "CI-ARCHIVE-2"]


@pytest.mark.parametrize("kind", ["several platforms", "nothing in it", "no history", "an application", "plain examples"])
def test_conformance_of_written_image_variants_has_no_failures(store: Store, kind: str) -> None:
    if kind == "several platforms":
        write(store, part(store), part(store, ARM64, Info()), name="web")
    elif kind == "nothing in it":
        write(store, PlatformImage(AMD64, (), (), info=Info(type="app")))
    elif kind == "no history":
        write(store, dataclasses.replace(part(store), history=(), images=ImageSet()))
    elif kind == "an application":
        write(store, part(store, info=Info(type="app", launch=("kubectl apply -f manifests/",))))
    else:
        examples.put(store, "web", [examples.file("a", "1")], [examples.file("b/c", "2")], embedded={"docker.io/library/redis:7": b"x"})
    # Layers of embedded images in these examples are not for a platform, and need not be.
    assert failed(examined(store)) == []


def test_conformance_of_zstd_layer_has_no_failures(store: Store) -> None:
    draft = Draft(store, write(store))
    content = layer_tar()
    pieces: list[bytes] = []
    with ZstdWriter(pieces.append) as writer:
        writer.write(content)
    draft.layer(b"".join(pieces), digest_of(content), OCI_LAYER_ZSTD)
    draft.save()
    assert failed(examined(store)) == []


def test_conformance_ignores_platform_that_was_not_pulled(store: Store) -> None:
    image = write(store, part(store), part(store, ARM64, Info()))
    for entry in store.json(image.digest)["manifests"][2:]:
        store.path(entry["digest"]).unlink()
    assert failed(examined(store)) == []


def test_conformance_ignores_index_entries_of_unknown_kind(store: Store) -> None:
    draft = Draft(store, write(store))
    draft.index["manifests"].append({**draft.add(b"later", "text/plain"), "annotations": {"dev.slipway.kind": "signature"}})
    draft.save()
    assert failed(examined(store)) == []


# Layers made by hand


Change = Callable[[tarfile.TarInfo], None]


def layer_tar(*more: tuple[str, Change], change: Change | None = None, before: bool = False) -> bytes:
    """The files of the second layer as a tar; ``more`` are added at the end, or ``before`` them."""
    files = [(entry.path, entry.source) for entry in FILES[1]]
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in [*(files if not before else []), *((name, b"") for name, _ in more), *(files if before else [])]:
            info = tarfile.TarInfo(name)
            data = content if isinstance(content, bytes) else b""
            info.size = len(data)
            if change:
                change(info)
            for other, own in more:
                if other == name:
                    own(info)
            tar.addfile(info, io.BytesIO(data[: info.size]))
    return target.getvalue()


def plainly(info: tarfile.TarInfo) -> None:
    info.mode = 0o644


def dated(info: tarfile.TarInfo) -> None:
    info.mtime = 1700000000


def owned(info: tarfile.TarInfo) -> None:
    info.gid = 7


def to_link(target: str) -> Change:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = tarfile.SYMTYPE, target

    return change


def to_device(info: tarfile.TarInfo) -> None:
    info.type = tarfile.CHRTYPE


def packed(content: bytes, time: int = 0) -> bytes:
    return gzip.compress(content, mtime=time)


def with_layer(content: bytes, time: int = 0) -> Callable[[Draft], None]:
    return lambda draft: draft.layer(packed(content, time), digest_of(content))


# Images broken by hand


def spaced(name: str) -> Callable[[Draft], None]:
    """A document with blanks between its words."""

    def change(draft: Draft) -> None:
        draft.save()
        draft.bytes[name] = json.dumps(getattr(draft, name), sort_keys=True).encode()

    return change


def repeated_key(draft: Draft) -> None:
    draft.bytes["config"] = canonical_json(draft.config)[:-1] + b',"os":"linux"}'


def truncated(draft: Draft) -> None:
    draft.bytes["images"] = canonical_json(draft.images)[:-1]


def in_another_case(draft: Draft) -> None:
    draft.rootfs["Layers"] = []


def without_set(draft: Draft) -> None:
    del draft.index["manifests"][1]


def exchanged(draft: Draft) -> None:
    draft.save()
    draft.index["manifests"].reverse()
    draft.bytes["index"] = canonical_json(draft.index)
    draft.index["manifests"].reverse()


def platform_twice(draft: Draft) -> None:
    draft.save()
    again = [{**entry, "platform": {"os": "linux", "architecture": "amd64", "variant": "v1"}} for entry in draft.index["manifests"]]
    draft.index["manifests"] += again


def platforms_unsorted(draft: Draft) -> None:
    draft.save()
    config = {**draft.config, "architecture": "386"}
    rootfs = {**draft.rootfs, "config": draft.add(canonical_json(config), OCI_CONFIG)}
    platform = {"os": "linux", "architecture": "386"}
    empty = draft.add(canonical_json({"schemaVersion": 1, "images": [], "blobs": []}), draft.set["config"]["mediaType"])
    images = draft.add(canonical_json({**draft.set, "config": empty, "layers": []}), OCI_MANIFEST)
    draft.index["manifests"] += [
        {**draft.add(canonical_json(rootfs), OCI_MANIFEST), "platform": platform},
        {**images, "platform": platform, "annotations": {"dev.slipway.kind": "imageset"}},
    ]


def missing_layer(draft: Draft) -> None:
    draft.store.path(draft.rootfs["layers"][0]["digest"]).unlink()


def missing_config(draft: Draft) -> None:
    draft.rootfs["config"] |= {"digest": digest_of(b"nowhere"), "as it is": True}


def missing_embedded_blob(draft: Draft) -> None:
    draft.store.path(draft.embedded(0)["layers"][0]["digest"]).unlink()


def wrong_size(draft: Draft) -> None:
    draft.rootfs["layers"][0]["size"] += 1


def changed_bytes(draft: Draft) -> None:
    path = draft.store.path(draft.embedded(0)["layers"][0]["digest"])
    path.write_bytes(bytes(path.stat().st_size))


def changed_layer(draft: Draft) -> None:
    path = draft.store.path(draft.rootfs["layers"][0]["digest"])
    path.write_bytes(bytes(path.stat().st_size))


def changed_manifest(draft: Draft) -> None:
    draft.save()
    path = draft.store.path(draft.set_entry["digest"])
    path.write_bytes(path.read_bytes().replace(b"imageset", b"imageseT"))
    draft.bytes["set"] = canonical_json({**draft.set, "layers": []})  # saved again under another digest
    draft.set_entry["as it is"] = True


def without_annotation(draft: Draft) -> None:
    draft.keep_info = False
    del draft.rootfs["annotations"]["dev.slipway.cloudimage"]


def annotation_of_a_list(draft: Draft) -> None:
    draft.keep_info = False
    draft.rootfs["annotations"]["dev.slipway.cloudimage"] = "[]"


def annotation_with_blanks(draft: Draft) -> None:
    draft.keep_info = False
    draft.rootfs["annotations"]["dev.slipway.cloudimage"] = json.dumps(draft.info, sort_keys=True)


def layer_not_listed(draft: Draft) -> None:
    extra = draft.embed(b"extra", "text/plain")
    draft.images["blobs"].remove(next(blob for blob in draft.images["blobs"] if blob["digest"] == extra["digest"]))


def layer_twice(draft: Draft) -> None:
    draft.set["layers"].insert(0, draft.set["layers"][0])


def top_not_listed(draft: Draft) -> None:
    draft.drop(draft.images["images"][2]["digest"])


def top_of_another_size(draft: Draft) -> None:
    draft.images["images"][0]["size"] += 1


def blob_of_another_type(draft: Draft) -> None:
    layer = draft.embedded(0)["layers"][0]["digest"]
    next(blob for blob in draft.images["blobs"] if blob["digest"] == layer)["mediaType"] = OCI_CONFIG


def embedded_manifest_that_is_not_what_it_says(draft: Draft) -> None:
    """An image without index whose manifest calls itself Docker's."""
    manifest = {**draft.embedded(0), "mediaType": DOCKER_MANIFEST}
    blob = draft.embed(canonical_json(manifest), OCI_MANIFEST)
    draft.images["images"].append({**draft.images["images"][0], "name": "z.example.com/x:1", **blob})


def embedded_layer_left_out(draft: Draft) -> None:
    draft.drop(draft.embedded(0)["layers"][0]["digest"])


def embedded_config_left_out(draft: Draft) -> None:
    draft.drop(draft.embedded(1)["config"]["digest"])


def embedded_type(draft: Draft) -> None:
    """Neither an index nor a manifest, consistently."""
    top = draft.images["images"][0]
    for value in (top, *(blob for blob in draft.images["blobs"] if blob["digest"] == top["digest"])):
        value["mediaType"] = "application/x"


def replaced(draft: Draft, value: Any, media_type: str) -> None:
    """Another index or manifest for the first embedded image."""
    blob = draft.embed(canonical_json(value), media_type)
    draft.drop(draft.images["images"][0]["digest"])
    draft.images["images"][0] |= blob


def embedded_manifest_without_config(draft: Draft) -> None:
    replaced(draft, {"schemaVersion": 2, "layers": []}, OCI_MANIFEST)


def embedded_index_of_plain_blobs(draft: Draft) -> None:
    index = draft.store.json(draft.images["images"][0]["digest"])
    index["manifests"][0]["mediaType"] = "application/x"
    next(blob for blob in draft.images["blobs"] if blob["digest"] == index["manifests"][0]["digest"])["mediaType"] = "application/x"
    replaced(draft, index, index["mediaType"])


def embedded_indexes_that_nest(draft: Draft) -> None:
    index = draft.store.json(draft.images["images"][0]["digest"])
    for _ in range(6):
        blob = draft.embed(canonical_json(index), index["mediaType"])
        index = {**index, "manifests": [{**blob, "platform": {"os": "linux", "architecture": "amd64"}}]}
    replaced(draft, index, index["mediaType"])


def for_another_platform(draft: Draft) -> None:
    """The index of an embedded image lists arm64 alone."""
    index = draft.store.json(draft.images["images"][0]["digest"])
    index["manifests"] = index["manifests"][1:]
    blob = draft.embed(canonical_json(index), index["mediaType"])
    draft.drop(draft.images["images"][0]["digest"])
    draft.images["images"][0] |= blob


def image(key: str, value: str, number: int = 0) -> Callable[[Draft], None]:
    def change(draft: Draft) -> None:
        draft.images["images"][number][key] = value

    return change


def annotated(**changes: Any) -> Callable[[Draft], None]:
    return lambda draft: draft.info.update(changes)


def assign(path: str, value: Any) -> Callable[[Draft], None]:
    """Set a value deep in a document: ``rootfs.config.mediaType``; numbers are places of lists, None removes a key."""

    def change(draft: Draft) -> None:
        first, *between, last = path.split(".")
        target = getattr(draft, first)
        for word in between:
            target = target[int(word) if isinstance(target, list) else word]
        if value is None:
            del target[last]
        else:
            target[int(last) if isinstance(target, list) else last] = value

    return change


def attribute(name: str, value: Any) -> Callable[[Draft], None]:
    return lambda draft: setattr(draft, name, value)


def annotation(name: str, value: Any) -> Callable[[Draft], None]:
    return lambda draft: getattr(draft, name)["annotations"].update({"dev.slipway.kind": value})


CLEAN = layer_tar()
BROKEN: list[tuple[str, str, Callable[[Draft], None]]] = [
    ("CI-LAYOUT-1", "named as Docker's list", attribute("root_type", "application/vnd.docker.distribution.manifest.list.v2+json")),
    ("CI-LAYOUT-1", "schema 1", assign("index.schemaVersion", 1)),
    ("CI-LAYOUT-1", "no media type of its own", assign("index.mediaType", None)),
    ("CI-LAYOUT-1", "manifests is not a list", assign("index.manifests", {})),
    ("CI-LAYOUT-2", "no kind", assign("index.annotations", {})),
    ("CI-LAYOUT-2", "another kind", annotation("index", "imageset")),
    ("CI-LAYOUT-3", "no image set", without_set),
    ("CI-LAYOUT-3", "image set first", exchanged),
    ("CI-LAYOUT-3", "empty", assign("index.manifests", [])),
    ("CI-LAYOUT-4", "a manifest of schema 1", assign("rootfs.schemaVersion", 1)),
    ("CI-LAYOUT-4", "layers missing", assign("set.layers", {})),
    ("CI-LAYOUT-5", "an image set that does not say so", assign("set.annotations", {})),
    ("CI-LAYOUT-5", "a rootfs that says it is an image set", annotation("rootfs", "imageset")),
    ("CI-LAYOUT-6", "a size that is text", assign("rootfs.layers.0.size", "12")),
    ("CI-LAYOUT-6", "a size below zero", assign("rootfs.layers.0.size", -1)),
    ("CI-LAYOUT-6", "an annotation that is a number", assign("set.annotations.more", 1)),
    ("CI-JSON-1", "a key twice", repeated_key),
    ("CI-JSON-1", "cut", truncated),
    ("CI-JSON-1", "a key in another case", in_another_case),
    ("CI-MEDIA-1", "artifactType in the index", assign("index.artifactType", "application/x")),
    ("CI-MEDIA-1", "artifactType in a manifest", assign("set.artifactType", "application/x")),
    ("CI-MEDIA-2", "a manifest of another type", assign("rootfs.mediaType", DOCKER_MANIFEST)),
    ("CI-MEDIA-2", "an embedded manifest of another type", embedded_manifest_that_is_not_what_it_says),
    ("CI-MEDIA-3", "Docker's config", assign("rootfs.config.mediaType", "application/vnd.docker.container.image.v1+json")),
    ("CI-MEDIA-4", "a plain layer", lambda draft: draft.layer(CLEAN, digest_of(CLEAN), OCI_LAYER)),
    ("CI-MEDIA-5", "a config of an image", assign("set.config.mediaType", OCI_CONFIG)),
    ("CI-MEDIA-6", "a blob under its own type", assign("set.layers.0.mediaType", OCI_LAYER_GZIP)),
    ("CI-DIGEST-1", "sha512", assign("rootfs.layers.0.digest", f"sha512:{'0' * 128}")),
    ("CI-DIGEST-1", "a path", assign("rootfs.layers.0.digest", "../../etc/passwd")),
    ("CI-DIGEST-2", "a layer missing", missing_layer),
    ("CI-DIGEST-2", "a config missing", missing_config),
    ("CI-DIGEST-2", "a blob of an embedded image missing", missing_embedded_blob),
    ("CI-DIGEST-3", "a layer of another size", wrong_size),
    ("CI-DIGEST-4", "a blob with other bytes", changed_bytes),
    ("CI-DIGEST-4", "a layer with other bytes", changed_layer),
    ("CI-DIGEST-4", "a manifest with other bytes", changed_manifest),
    ("CI-PLATFORM-1", "no platform", assign("entry.platform", None)),
    ("CI-PLATFORM-1", "no architecture", assign("set_entry.platform", {"os": "linux"})),
    ("CI-PLATFORM-2", "a platform twice", platform_twice),
    ("CI-PLATFORM-3", "a config of another platform", assign("config.architecture", "arm64")),
    ("CI-ROOTFS-1", "a diff id too few", lambda draft: draft.config["rootfs"]["diff_ids"].pop()),
    ("CI-ROOTFS-1", "a diff id that is not one", assign("config.rootfs.diff_ids.0", "abc")),
    ("CI-ROOTFS-2", "another diff id", assign("config.rootfs.diff_ids.0", digest_of(b"other"))),
    ("CI-ROOTFS-3", "a step too many", lambda draft: draft.config["history"].append({"created_by": "RUN x"})),
    ("CI-ROOTFS-4", "not a tar", lambda draft: draft.layer(packed(b"x" * 2000), digest_of(b"x" * 2000))),
    ("CI-ROOTFS-4", "not gzip", lambda draft: draft.layer(CLEAN, digest_of(CLEAN))),
    ("CI-ROOTFS-4", "a cut stream", lambda draft: draft.layer(packed(CLEAN)[:-9], digest_of(CLEAN))),
    ("CI-ROOTFS-5", "a path that leaves", with_layer(layer_tar(("../x", plainly), before=True))),
    ("CI-ROOTFS-5", "an absolute path", with_layer(layer_tar(("/a", plainly), before=True))),
    ("CI-ROOTFS-5", "a link that leaves", with_layer(layer_tar(("x", to_link("../../etc/passwd"))))),
    ("CI-ROOTFS-5", "a device", with_layer(layer_tar(("null", to_device)))),
    ("CI-INFO-1", "no annotation", without_annotation),
    ("CI-INFO-1", "an annotation of a list", annotation_of_a_list),
    ("CI-INFO-2", "of the future", annotated(schemaVersion=2)),
    ("CI-INFO-2", "no version", lambda draft: draft.info.pop("schemaVersion")),
    ("CI-INFO-3", "no type", lambda draft: draft.info.pop("type")),
    ("CI-INFO-3", "launch is text", annotated(launch="kubectl apply -f manifests/a.yaml")),
    ("CI-INFO-3", "a value of env is a number", annotated(env={"A": 1})),
    ("CI-INFO-3", "an origin is null", annotated(mergedFrom=[None])),
    ("CI-INFO-3", "an origin is an empty list", annotated(mergedFrom=[[]])),
    ("CI-INFO-4", "another type", annotated(type="cluster")),
    ("CI-INFO-5", "a base without digest", annotated(base={"reference": "kubernetes"})),
    ("CI-INFO-5", "a reference that is not one", annotated(mergedFrom=[{"reference": "A b", "digest": digest_of(b"x")}])),
    ("CI-INFO-5", "an empty origin", annotated(mergedFrom=[{}])),
    ("CI-INFO-5", "an exercise without digest", annotated(proven={"exercise": "x"})),
    ("CI-INFO-6", "a template without arguments", annotated(launchArguments={})),
    ("CI-INFO-7", "labels of the config alone", assign("config.config.Labels", {"a": "b"})),
    ("CI-APP-1", "another kind", assign("info.apps.0.kind", "yaml")),
    ("CI-APP-1", "an application of the cluster that is not there", annotated(clusterApps=["calico"])),
    ("CI-VALUE-1", "another type", assign("info.values.0.type", "port")),
    ("CI-VALUE-1", "twice", assign("info.values.0.name", "Password")),
    ("CI-VALUE-2", "a secret in the clear", assign("info.values.1.default", "hunter2")),
    ("CI-SET-1", "no version", assign("images.schemaVersion", None)),
    ("CI-SET-1", "a field that is text", assign("images.images.0.foundBy", "pulled")),
    ("CI-SET-2", "a layer that is not listed", layer_not_listed),
    ("CI-SET-2", "a layer twice", layer_twice),
    ("CI-SET-3", "an image that is not carried", top_not_listed),
    ("CI-SET-3", "an image of another size", top_of_another_size),
    ("CI-SET-3", "neither an index nor a manifest", embedded_type),
    ("CI-SET-4", "a blob of another type", blob_of_another_type),
    ("CI-NAME-1", "a short name", image("name", "docker.io/library/Nginx")),
    ("CI-NAME-1", "a name that is not canonical", image("name", "docker.io/nginx:1.25")),
    ("CI-NAME-2", "a name twice", image("name", "registry.k8s.io/pause:3.2", 1)),
    ("CI-NAME-3", "a digest of another image", image("name", f"quay.io/team/pinned@{digest_of(b'other')}", 1)),
    ("CI-OFFLINE-1", "a layer of an image left out", embedded_layer_left_out),
    ("CI-OFFLINE-1", "a config of an image left out", embedded_config_left_out),
    ("CI-OFFLINE-1", "a manifest without config", embedded_manifest_without_config),
    ("CI-OFFLINE-1", "indexes that nest", embedded_indexes_that_nest),
    ("CI-OFFLINE-1", "an index of no manifest", embedded_index_of_plain_blobs),
    ("CI-OFFLINE-1", "an image of another platform", for_another_platform),
    ("CI-OFFLINE-2", "a manifest from the web", annotated(launch=["kubectl apply -f https://example.com/a.yaml"])),
    ("CI-OFFLINE-2", "a chart from a registry", annotated(launch=["helm upgrade --install a oci://example.com/charts/a"])),
    ("CI-OFFLINE-3", "a manifest that is not there", annotated(launch=["kubectl apply -f manifests/b.yaml"])),
    (
        "CI-OFFLINE-3",
        "a file of an application that is not there",
        assign("info.apps.0.commands", ["cd application && kubectl apply -f b.yaml"]),
    ),
    ("CI-REPRO-1", "an index with blanks", spaced("index")),
    ("CI-REPRO-1", "a config with blanks", spaced("config")),
    ("CI-REPRO-1", "an annotation with blanks", annotation_with_blanks),
    ("CI-REPRO-2", "platforms in another order", platforms_unsorted),
    ("CI-REPRO-2", "images in another order", lambda draft: draft.images["images"].reverse()),
    ("CI-REPRO-2", "blobs in another order", lambda draft: draft.images["blobs"].reverse()),
    ("CI-REPRO-2", "layers in another order", lambda draft: draft.set["layers"].reverse()),
    ("CI-REPRO-3", "a time in the config", assign("config.created", "2026-01-01T00:00:00Z")),
    ("CI-REPRO-3", "a time in the history", assign("config.history.0.created", "2026-01-01T00:00:00Z")),
    ("CI-REPRO-4", "a time in a layer", with_layer(layer_tar(change=dated))),
    ("CI-REPRO-4", "a time of gzip", with_layer(CLEAN, time=1)),
    ("CI-REPRO-5", "an owner in a layer", with_layer(layer_tar(change=owned))),
    ("CI-REPRO-6", "entries in another order", with_layer(layer_tar(("aaa", plainly)))),
    ("CI-REPRO-6", "an entry twice", with_layer(layer_tar(("manifests/a.yaml", plainly)))),
]


@pytest.mark.parametrize(("clause", "damage", "change"), BROKEN, ids=[f"{clause} {damage}" for clause, damage, _ in BROKEN])
def test_conformance_of_damaged_image_fails_only_its_clause(
    store: Store, clause: str, damage: str, change: Callable[[Draft], None]
) -> None:
    draft = Draft(store, write(store))
    assert failed(examined(store)) == []
    change(draft)
    draft.save()
    report = examined(store)
    assert failed(report) == [clause], damage
    lines = evidence(report, clause).split("\n")
    assert all(line and line.isprintable() for line in lines), lines


def test_damaged_images_cover_all_clauses() -> None:
    assert {clause for clause, _, _ in BROKEN} | {"CI-ARCHIVE-1", "CI-ARCHIVE-2"} == set(CLAUSES)


# The document


def test_format_document_and_checks_have_same_clauses() -> None:
    written = re.findall(r"^\*\*(CI-[A-Z]+-\d+)\*\*", PAGE.read_text(), re.MULTILINE)
    assert len(written) == len(set(written))
    assert set(written) == set(CLAUSES)


def test_format_document_lines_with_must_have_clause_id() -> None:
    text = PAGE.read_text().partition("\n## ")[2]
    without = [line for line in text.split("\n") if "MUST" in line and not re.match(r"\*\*(CI|CR)-[A-Z]+-\d+\*\*", line)]
    assert without == []


def test_format_document_version_equals_report_version(store: Store) -> None:
    write(store)
    assert f"Version {conformance.FORMAT_VERSION} of" in PAGE.read_text()
    assert examined(store).to_json()["formatVersion"] == conformance.FORMAT_VERSION


@pytest.mark.parametrize(
    ("clauses", "words"),
    [
        (structure.CLAUSES, {"ARCHIVE", "LAYOUT", "JSON", "MEDIA", "DIGEST", "PLATFORM"}),
        (rootfs.CLAUSES, {"ROOTFS"}),
        (info.CLAUSES, {"INFO", "APP", "VALUE"}),
        (imageset.CLAUSES, {"SET", "NAME"}),
        ((*imageset.OFFLINE, *info.OFFLINE), {"OFFLINE"}),
        (reproducible.CLAUSES, {"REPRO"}),
    ],
)
def test_clauses_of_group_are_numbered_from_1(clauses: tuple[Clause, ...], words: set[str]) -> None:
    numbers: dict[str, list[int]] = {}
    for clause in clauses:
        _, word, number = clause.id.split("-")
        numbers.setdefault(word, []).append(int(number))
    assert set(numbers) == words
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())


# Whatever an image says


JUNK: tuple[Any, ...] = (None, [], {}, [[]], -1, 1.5, True, "", "\x1b[31m\n", [None, {"digest": 5}], {"a": {"b": []}}, 2**62)


HARMLESS = {
    "config": {"history.0.comment", "history.0.created_by", "history.1.created_by", "history.2", "history.2.created_by", "rootfs.type"},
    "images": {"images.0.foundBy", "images.1.requestedBy", "images.2.foundBy.0"},
    "info": {
        *("apps.0.files.0", "base", "convertedFrom.tool", "convertedFrom.version", "kubeVersion"),
        *("launchArguments.FILE", "values"),
    },
}
"""Places of each document where the junk is text of any kind, or means that the field is not there, or no clause speaks of it."""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        found += places(child, (*path, key))
    return found


@pytest.mark.parametrize("name", ["index", "rootfs", "set", "config", "images", "info"])
def test_conformance_of_document_with_junk_fails_clauses_in_printable_report(store: Store, name: str) -> None:
    image = write(store)
    harmless = set()
    original = json.dumps(getattr(Draft(store, image), name))
    for number, path in enumerate(places(json.loads(original))):
        draft = Draft(store, image)
        value = target = json.loads(original)
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = JUNK[number % len(JUNK)]
        if name == "info":
            draft.info = value
        else:
            draft.bytes[name] = canonical_json(value)
        draft.save()
        report = examined(store)
        lines = [line for result in report.results for line in result.evidence]
        assert all(line.isprintable() for line in lines), path
        json.dumps(report.to_json())
        if report.conforms:
            harmless.add(".".join(str(key) for key in path))
    assert harmless == HARMLESS.get(name, set())


@pytest.mark.parametrize("junk", [b"", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 1000, b"null", b'{"schemaVersion":1e999}', b"\x1b[2J" * 100])
@pytest.mark.parametrize("name", ["index", "rootfs", "set", "config", "images"])
def test_conformance_of_invalid_json_fails_only_json_clause(store: Store, name: str, junk: bytes) -> None:
    draft = Draft(store, write(store))
    draft.bytes[name] = junk
    draft.save()
    report = examined(store)
    assert failed(report) == ["CI-JSON-1"]
    assert all(line.isprintable() for line in evidence(report, "CI-JSON-1").split("\n"))


def test_conformance_of_oversized_document_fails_only_json_clause(store: Store) -> None:
    draft = Draft(store, write(store))
    index = canonical_json(draft.index)
    draft.bytes["index"] = index + b" " * (LARGEST_MANIFEST + 1 - len(index))
    draft.save()
    report = examined(store)
    assert failed(report) == ["CI-JSON-1"]
    assert evidence(report, "CI-JSON-1") == f"index: has {LARGEST_MANIFEST + 1} bytes, more than {LARGEST_MANIFEST}"
    draft.bytes["index"] = draft.bytes["index"][:-1]
    draft.save()
    assert failed(examined(store)) == ["CI-REPRO-1"], "the largest that is read has blanks that do not belong there"


def test_conformance_faults_are_all_reported_and_counted(store: Store) -> None:
    draft = Draft(store, write(store))
    draft.info["values"] = [{"name": "x"}] * 500
    draft.index["artifactType"] = "a\x1b[31m"
    draft.save()
    report = examined(store)
    assert failed(report) == ["CI-MEDIA-1", "CI-VALUE-1"]
    assert evidence(report, "CI-VALUE-1").split("\n")[-1] == "and 400 more"


def test_conformance_of_plain_image_fails_layout_clause(store: Store) -> None:
    store.tag("web", Descriptor(OCI_MANIFEST, *store.put(b"{}")))
    assert "CI-LAYOUT-1" in failed(examined(store))


def test_conformance_of_unknown_name_raises_store_error(store: Store) -> None:
    with pytest.raises(StoreError, match="no such image"):
        examined(store, "nothing")


def test_conformance_on_full_disk_raises_store_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write(store)
    monkeypatch.setattr("harness.cloudimage.conformance.trees.shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(StoreError, match="no space left to unpack"):
        examined(store)


def test_conformance_check_leaves_store_unchanged_and_cache_empty(store: Store, tmp_path: Path) -> None:
    write(store)
    before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in store.root.rglob("*") if path.is_file()}
    examined(store)
    assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in store.root.rglob("*") if path.is_file()} == before
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []


def test_conformance_clause_without_subject_is_not_applicable(store: Store) -> None:
    write(store, PlatformImage(AMD64, (), (), info=Info(type="app")))
    report = examined(store)
    assert outcome(report, "CI-VALUE-1") is ClauseOutcome.NOT_APPLICABLE
    assert evidence(report, "CI-VALUE-1") == "no values to check"
    assert evidence(report, "CI-LAYOUT-1") == "indexes: 1"


def test_write_layer_has_no_time_or_owner_and_sorts_entries(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"of a file")
    os.utime(source, (1700000000, 1700000000))
    entries = [*FILES[0], *FILES[1], LayerEntry("a/file", "file", 0o644, source)]
    layer = write_layer(entries, store)
    assert write_layer(reversed(entries), store) == layer
    data = store.read(layer.descriptor.digest)
    assert data[4:8] == bytes(4), "gzip has a field for a time"
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        infos = tar.getmembers()
    assert {(info.mtime, info.uid, info.gid, info.uname, info.gname) for info in infos} == {(0, 0, 0, "", "")}
    assert not any(info.pax_headers for info in infos)
    names = [info.name for info in infos]
    assert names == sorted(names, key=lambda name: name.split("/"))
    assert set(names) == {entry.path for entry in entries}

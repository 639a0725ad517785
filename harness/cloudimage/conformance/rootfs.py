"""Clauses about the layers of a rootfs and the config that describes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.cloudimage.conformance.clauses import Checked, Clause
from harness.cloudimage.conformance.documents import is_sha256
from harness.cloudimage.conformance.examined import ExaminedImage, ExaminedManifest


def _diff_ids(root: ExaminedManifest) -> list[Any] | None:
    rootfs = root.config_document.get("rootfs")
    listed = rootfs.get("diff_ids") if isinstance(rootfs, Mapping) else None
    return listed if isinstance(listed, list) else None


def _counted(image: ExaminedImage) -> Checked:
    for root in image.roots:
        if not root.read or root.config_document.value is None:
            continue
        ids = _diff_ids(root)
        if ids is None or len(ids) != len(root.layers):
            count = "no list of" if ids is None else len(ids)
            yield f"{root.config_document.where}: {count} diff ids for {len(root.layers)} layers"
        else:
            wrong = next((each for each in ids if not isinstance(each, str) or not is_sha256(each)), None)
            yield None if wrong is None else f"{root.config_document.where}: the diff id {str(wrong)[:80]!r} is not a sha256 digest"


def _true(image: ExaminedImage) -> Checked:
    for root in image.roots:
        ids = _diff_ids(root) or []
        for layer, diff_id in zip(root.layers, ids, strict=False):
            scan = image.scans.get(layer.descriptor.digest) if layer.descriptor else None
            if scan is None or scan.problem or len(ids) != len(root.layers) or not isinstance(diff_id, str) or not is_sha256(diff_id):
                continue
            yield None if scan.diff_id == diff_id else f"{layer.where}: its tar has the digest {scan.diff_id}, its diff id is {diff_id}"


def _history(image: ExaminedImage) -> Checked:
    for root in image.roots:
        history = root.config_document.get("history")
        if not root.read or history is None or history == []:
            continue
        if not isinstance(history, list) or not all(isinstance(step, Mapping) for step in history):
            yield f"{root.config_document.where}: history is not a list of objects"
            continue
        count = sum(not step.get("empty_layer") for step in history)
        good = count == len(root.layers)
        yield None if good else f"{root.config_document.where}: {count} steps of its history made a layer, it has {len(root.layers)}"


def _readable(image: ExaminedImage) -> Checked:
    for root in image.roots:
        for layer in root.layers:
            scan = image.scans.get(layer.descriptor.digest) if layer.descriptor else None
            if scan is not None:
                yield f"{layer.where}: {scan.problem}" if scan.problem else None


def _contained(image: ExaminedImage) -> Checked:
    for root in image.roots:
        tree = image.tree(root)
        if tree is not None and root.layers:
            yield f"{root.where}: {tree.problem}" if tree.problem else None


def _sorted(image: ExaminedImage) -> Checked:
    for digest, scan in image.scans.items():
        if not scan.problem:
            yield f"layer {digest}: {scan.unsorted!r} is not behind the entry before it" if scan.unsorted is not None else None


def _dated(image: ExaminedImage) -> Checked:
    for digest, scan in image.scans.items():
        if not scan.problem:
            yield f"layer {digest}: {scan.dated!r} has a time" if scan.dated is not None else None


def _owned(image: ExaminedImage) -> Checked:
    for digest, scan in image.scans.items():
        if not scan.problem:
            yield f"layer {digest}: {scan.owned!r} has an owner or group other than 0" if scan.owned is not None else None


CLAUSES = (
    Clause("CI-ROOTFS-1", "the config has one diff id for each layer", "configs", _counted),
    Clause("CI-ROOTFS-2", "each diff id is the digest of its layer's tar", "layers", _true),
    Clause("CI-ROOTFS-3", "the history has one step with a layer for each layer", "configs", _history),
    Clause("CI-ROOTFS-4", "layers are readable tars", "layers", _readable),
    Clause("CI-ROOTFS-5", "layers unpack to files, folders and links inside the rootfs", "rootfs trees", _contained),
)
REPRODUCIBILITY = (
    Clause("CI-REPRO-4", "entries of layers have the time 0", "layers", _dated),
    Clause("CI-REPRO-5", "entries of layers belong to owner and group 0", "layers", _owned),
    Clause("CI-REPRO-6", "entries of layers are sorted, each once", "layers", _sorted),
)

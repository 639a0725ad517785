"""Images of sealer as people see them."""

from __future__ import annotations

import json

import pytest

from harness.oci.store import Store
from tests.integration.registry import Image
from tests.unit.sealer.examples import said


def test_images_lists_sealer_image_with_kind(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    header, line = said(capsys, "images")[0].splitlines()
    assert header.split() == ["NAME", "DIGEST", "KIND", "PLATFORM", "KUBERNETES", "IMAGES", "SIZE"]
    assert line.split()[:6] == ["sealerio/app:v1", app.digest[7:19], "sealer", "linux/amd64", "v1.22.15", "2"]
    (row,) = json.loads(said(capsys, "images", "-o", "json")[0])
    assert (row["kind"], row["size"]) == ("sealer", sum(map(len, app.blobs.values())) + len(app.data))


def test_inspect_sealer_image_shows_settings_and_lost_images(store: Store, app: Image, capsys: pytest.CaptureFixture[str]) -> None:
    out = said(capsys, "inspect", "sealerio/app:v1")[0]
    for line in ("made by     sealer 0.11.0, v1alpha1", "type        kube-installer, Kubernetes v1.22.15", "env         Mode=fast",
                 "app         web (kube)", "launch      web", "label       io.sealer.version=0.11.0"):  # fmt: skip
        assert line in out.splitlines()
    assert "docker.io/library/nginx:1.25  " in out
    assert "unnamed  acme/app:v2  no name for it" in out
    value = json.loads(said(capsys, "inspect", app.digest, "-o", "json")[0])
    (platform,) = value["platforms"]
    assert (value["kind"], platform["extension"]["type"], platform["kubernetes"]) == ("sealer", "kube-installer", "v1.22.15")
    assert [image["name"] for image in platform["images"]] == ["docker.io/library/nginx:1.25", "registry.k8s.io/pause:3.5"]
    assert [(problem["kind"], problem["name"]) for problem in platform["problems"]] == [("unnamed", "acme/app:v2")]

"""Steps of a Dockerfile trust whom the machine trusts, and nothing of that is in the image."""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from harness.build.container_images import Builder
from harness.build.definitions import bundled
from harness.host import docker
from harness.oci.graph import descriptors
from harness.oci.layer.extract import open_layer
from harness.oci.reference import Reference
from harness.oci.store import Store
from tests.conftest import Slipway
from tests.integration.test_build import context, unpacked

LENT_PROBE = """\
FROM registry.k8s.io/e2e-test-images/busybox:1.37.0-1 AS asked
RUN : once; cat "$SSL_CERT_FILE" "$APT_CONFIG" > /said 2>&1 || :
# image: slipway.dev/probe:1
FROM asked
"""


def test_build_dockerfile_step_is_lent_ca_in_slipway_engine_but_image_keeps_nothing(
    tmp_path: Path, home: Path, slipway: Slipway, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "company.pem"
    bundle.write_text("-----BEGIN CERTIFICATE-----\nof the company\n-----END CERTIFICATE-----\n")
    made = context(tmp_path / "c", "FROM scratch\nCOPY --from=slipway.dev/probe:1 /said etc/\n")
    (made / "images/probe").mkdir(parents=True)
    (made / "images/probe/Dockerfile").write_text(LENT_PROBE.replace("once", secrets.token_hex(8)))
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    slipway("build", "-t", "lent", "--discover", "declared", made)
    said = (unpacked(home, "lent", tmp_path / "root") / "etc/said").read_text()
    if docker.connect().info()["DefaultRuntime"] == "slipway":
        assert "of the company" in said
        assert 'Acquire::https::CAInfo "/dev/slipway-authorities.crt";' in said
    # The image as it was kept, to the last layer.
    store = Store(home / "store")
    manifest = Builder(store, (made / "images", *bundled())).ensure(Reference.parse("slipway.dev/probe:1"))
    assert manifest is not None
    config, *layers = descriptors(store.read(manifest.digest))
    assert b"slipway-authorities" not in store.read(config.digest)
    names: list[str] = []
    for one in layers:
        with open_layer(store, one) as tar:
            names += [entry.name for entry in tar]
    assert "said" in names
    assert [name for name in names if "slipway-authorities" in name] == []

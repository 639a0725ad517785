"""An image of the engine as an OCI image in the store."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

from harness.build.engine_export import convert
from harness.host import docker
from harness.oci.model import Platform
from harness.oci.store import Store

AMD64 = Platform("linux", "amd64")


def layer(mtime: int, *names: str) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.mtime, member.uid, member.uname, member.size = mtime, 33, "www-data", 4
            tar.addfile(member, io.BytesIO(b"data"))
    return data.getvalue()


def archive(mtime: int) -> io.BytesIO:
    """As ``docker save`` writes it: two layers, the second a link to the first, and one that changes nothing."""
    config = {
        "architecture": "arm64",
        "created": str(mtime),
        "config": {"Cmd": ["run"], "Image": "x", "Labels": {docker.LABEL_KEY: "key", "a": "b"}},
    }
    manifest = [{"Config": "config.json", "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar"]}]
    files = {"a/layer.tar": layer(mtime, "etc/x"), "c/layer.tar": layer(mtime), "config.json": json.dumps(config).encode()}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        member = tarfile.TarInfo("b/layer.tar")
        member.type, member.linkname = tarfile.SYMTYPE, "../a/layer.tar"
        tar.addfile(member)
    data.seek(0)
    return data


def test_convert_digest_does_not_depend_on_build_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert convert(archive(1), store, AMD64) == convert(archive(2), store, AMD64)


def test_convert_keeps_settings_and_leaves_out_layers_that_change_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    manifest = store.json(convert(archive(1), store, AMD64).digest)
    config = store.json(manifest["config"]["digest"])
    assert [item["digest"] for item in manifest["layers"]] == [manifest["layers"][0]["digest"]] * 2
    assert len(config["rootfs"]["diff_ids"]) == 2
    assert config["config"] == {"Cmd": ["run"], "Labels": {"a": "b"}}
    assert config["architecture"] == "amd64"

"""The Debian packages of a built image."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build.definitions import definitions
from harness.build.image_packages import asked_for, packages_in
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.store import Store
from tests.unit.build.dockerfiles import write

RECORD = b"Package: redis-server\nVersion: 5:7.0.1-1\nArchitecture: amd64\nStatus: install ok installed\n"


@pytest.mark.parametrize("folder", ["var/lib/dpkg/status.d", "rootfs/var/lib/dpkg/status.d"])
def test_packages_in_reads_dpkg_status_of_layers(tmp_path: Path, folder: str) -> None:
    store = Store(tmp_path / "store")
    layer = write_layer([LayerEntry(f"{folder}/redis-server", "file", 0o644, RECORD), LayerEntry("bin/redis", "file", 0o755, b"x")], store)
    assert packages_in(store, [layer]) == {"redis-server": "5:7.0.1-1"}


def test_asked_for_shows_packages_named_in_dockerfile(tmp_path: Path) -> None:
    write(tmp_path / "images", "redis", '# image: example.org/redis:7\nFROM debian\nRUN obtain "redis-server>=5:7.0" busybox-static\n')
    (definition,) = definitions(tmp_path / "images")
    assert asked_for(definition, {"redis-server": "5:7.0.1-1", "libc6": "2.36-9"}) == "redis-server 5:7.0.1-1"


def test_asked_for_many_packages_shows_six_and_count_of_rest(tmp_path: Path) -> None:
    names = [f"package-{letter}" for letter in "abcdefgh"]
    write(tmp_path / "images", "many", f"# image: example.org/many:1\nFROM debian\nRUN obtain {' '.join(names)}\n")
    (definition,) = definitions(tmp_path / "images")
    shown = asked_for(definition, dict.fromkeys(names, "1"))
    assert shown.endswith("package-e 1, package-f 1, 2 more")

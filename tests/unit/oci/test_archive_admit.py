"""Who loads an archive may refuse an image in it: it is asked before anything has a name, with the signatures that came along."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.oci.archive import load, save
from harness.oci.store import Store
from tests.unit.oci.layouts import put_manifest


def test_an_image_that_is_refused_gets_no_name_and_neither_do_its_companions(tmp_path: Path) -> None:
    here, there = Store(tmp_path / "here"), Store(tmp_path / "there")
    good, bad = put_manifest(here, b"good"), put_manifest(here, b"bad")
    signature = put_manifest(here, b"signature")
    signed = f"good:{good.digest.replace(':', '-')}.sig"
    for name, image in (("good:1", good), ("bad:1", bad), (signed, signature)):
        here.tag(name, image)
    save(here, ["good:1", "bad:1"], tmp_path / "both.tar")
    asked: list[str] = []

    def admit(name: str, digest: str) -> None:
        asked.append(name)
        assert signed in there.names()
        if digest == bad.digest:
            raise StoreError(f"{name} is refused")

    with pytest.raises(StoreError, match=r"bad:1 is refused"):
        load(there, tmp_path / "both.tar", admit=admit)
    assert set(there.names()) == {signed}
    assert set(asked) <= {"good:1", "bad:1"}
    assert "bad:1" in asked
    load(there, tmp_path / "both.tar", admit=lambda name, _: asked.append(name))
    assert set(there.names()) == {"good:1", "bad:1", signed}

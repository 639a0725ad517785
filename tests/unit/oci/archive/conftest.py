from __future__ import annotations

from pathlib import Path

import pytest

from harness.oci.store import Store


@pytest.fixture
def other(tmp_path: Path) -> Store:
    """An empty store beside that of the test."""
    return Store(tmp_path / "other store")

"""Fixtures of the tests of this folder."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests write thousands of blobs, none of which has to survive a power cut."""
    monkeypatch.setattr(os, "fsync", lambda _: None)

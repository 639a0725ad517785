"""``slipway save`` and ``slipway load`` as a user types them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from harness.cli import app
from harness.cli.archive import size_in_bytes
from harness.errors import UsageError
from harness.oci.store import Store
from tests.unit.oci.layouts import attach, put_index, put_manifest


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of one who has ``web:1`` and ``web:2``; the working directory is beside it."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SLIPWAY_HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    store = Store.default()
    store.tag("web:1", put_index(store, put_manifest(store, b"common" * 50_000, b"one")))
    store.tag("web:2", put_index(store, put_manifest(store, b"common" * 50_000, b"two")))
    return folder


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    assert app.execute(list(words)) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    return captured.out, captured.err


def test_load_delta_is_refused_until_volumes_of_base_are_loaded(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = said(capsys, "save", "web:1", "-f", "web-1.tar", "--volume-size", "100k", "--compress", "none")
    assert out.split() == ["web-1.tar.001", "100", "kB", "web-1.tar.002", "100", "kB", "web-1.tar.003", "100", "kB", *out.split()[-3:]]
    out, _ = said(capsys, "save", "web:2", "-f", "delta.tar", "--since", "web-1.tar")
    assert out.startswith("delta.tar  ")
    assert out.endswith("797 B instead of 301 kB, where the site has web:1\n")
    digest = Store.default().resolve("web:2").digest
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "site"))
    assert app.execute(["load", "-f", "delta.tar"]) == 4
    err = capsys.readouterr().err
    assert "what it is based on is missing: web:1 (sha256:" in err
    assert "hint: load or pull web:1 first" in err
    said(capsys, "load", "-f", "web-1.tar.001")
    out, _ = said(capsys, "load", "-f", "delta.tar")
    assert out == f"web:2  {digest}\n"


def test_save_and_load_output_json_reports_names_digests_and_blobs(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = said(capsys, "-q", "save", "web:1", "web:2", "-f", "both.tar", "-o", "json")
    saved = json.loads(out)
    assert (saved["names"], saved["files"], saved["blobs"], saved["since"]) == (["web:1", "web:2"], ["both.tar"], 8, [])
    assert saved["bytes"] == saved["bytesWithoutSince"] < saved["size"] == Path("both.tar").stat().st_size
    digests = {name: image.digest for name, image in Store.default().names().items()}
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "site"))
    for written, present in ((8, 0), (0, 8)):
        out, _ = said(capsys, "-q", "load", "-f", "both.tar", "--output", "json")
        loaded = json.loads(out)
        assert {image["name"]: image["digest"] for image in loaded["images"]} == digests
        assert (loaded["written"], loaded["present"], loaded["attachments"]) == (written, present, [])


def test_load_attachments_are_counted_and_not_listed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store.default()
    signature = attach(store, "web", store.resolve("web:1"), ".sig", b"signature")
    said(capsys, "save", "web:1", "-f", "web.tar")
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "site"))
    out, err = said(capsys, "load", "-f", "web.tar")
    assert signature not in out
    assert "with 1 attachment" in err
    assert signature in Store.default().names()


def test_save_to_stdout_writes_archive_bytes_only(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "stream").open("w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert app.execute(["save", "web:1", "-f", "-"]) == 0
        monkeypatch.undo()
    monkeypatch.setenv("SLIPWAY_HOME", str(home))
    said(capsys, "save", "web:1", "-f", str(tmp_path / "file"))
    assert (tmp_path / "stream").read_bytes() == (tmp_path / "file").read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["save", "web:1", "-f", "x", "--compress", "xz"], 2, "--compress xz: not known"),
        (["save", "web:1", "-f", "x", "--volume-size", "big"], 2, "--volume-size big: not a size"),
        (["save", "web:1", "-f", "x", "--volume-size", "0"], 2, "--volume-size 0: too small"),
        (["save", "web:1", "-f", "x", "--volume-size", "300"], 2, "more than 999 volumes"),
        (["save", "web:1", "-f", "x", "--platform", "linux/"], 2, "--platform"),
        (["save", "web:1", "-f", "-", "--volume-size", "4GB"], 2, "one stream to standard output"),
        (["save", "web:1", "-f", "-", "-o", "json"], 2, "one stream to standard output"),
        (["save", "web:1", "-f", "x", "-o", "yaml"], 2, "--output yaml"),
        (["save", "-f", "x"], 2, "Missing argument"),
        (["save", "web:3", "-f", "x"], 4, "did you mean web:"),
        (["save", "web:1", "-f", "x", "--since", "web:0"], 4, "web:0: no such image"),
        (["save", "web:1", "-f", "no/x"], 4, "no/x: No such file or directory"),
        (["load", "-f", "nothere"], 2, "nothere: no such file"),
        (["load", "-f", "."], 2, "is a folder"),
        (["load", "-f", "nothere", "-o", "yaml"], 2, "--output yaml"),
    ],
)
def test_save_and_load_invalid_command_line_exits_with_code_and_leaves_no_file(
    words: list[str], code: int, message: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.execute(words) == code
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4GB", 4_000_000_000),
        ("4G", 4_000_000_000),
        ("4 GB", 4_000_000_000),
        ("1.5m", 1_500_000),
        ("700k", 700_000),
        ("4GiB", 4 << 30),
        ("4Gi", 4 << 30),
        ("64KiB", 64 << 10),
        ("1TB", 10**12),
        ("1000", 1000),
        ("512B", 512),
    ],
)
def test_size_in_bytes_units_are_converted(text: str, size: int) -> None:
    assert size_in_bytes(text, "--volume-size") == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "4X", "4iB", "1e9", "4GBs", "4,7GB"])
def test_size_in_bytes_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        size_in_bytes(text, "--volume-size")

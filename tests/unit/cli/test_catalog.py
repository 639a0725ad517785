"""``slipway catalog``: words in, exit code and text out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import app
from harness.oci.reference import Reference
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust import keys, signature
from tests.unit.cloudimage.examples import file, put
from tests.unit.website.examples import page


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("SLIPWAY_POLICY", raising=False)
    store = Store.default()
    put(store, "web:1", [file("a")])
    return store


def test_catalog_writes_site_of_local_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "site"
    assert app.execute(["catalog", "--to", str(target), "--title", "Ours"]) == 0
    assert f"wrote {target}  (images: 1, versions: 1)" in capsys.readouterr().out
    assert "<h1>Ours</h1>" in (target / "index.html").read_text()
    assert app.execute(["catalog", "web", "--to", str(target), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(target), "images": 1, "versions": 1, "leftOut": []}


def test_catalog_verifies_signatures_by_given_or_policy_keys(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    private, public = keys.create(tmp_path / "release", "")
    pair = keys.read_private(private, lambda _: "")
    signature.sign(LocalReferrers(store, Reference.parse("web:1")), store.resolve("web:1").digest, pair, {})
    for words, says in (([], "signed, not verified here"), (["--key", str(public)], "signature verified")):
        assert app.execute(["catalog", "--to", str(tmp_path / "site"), *words]) == 0
        assert says in page(tmp_path / "site", "web-1")
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"default: none\nrules:\n  - repository: docker.io/library/web\n    require: signed\n    keys: [{public}]\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(policy))
    assert app.execute(["catalog", "--to", str(tmp_path / "site")]) == 0
    assert "signature verified" in page(tmp_path / "site", "web-1")
    assert str(tmp_path) not in page(tmp_path / "site", "web-1")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "--to"),
        (("--to", "{tmp}"), "holds other files"),
        (("--to", "{tmp}/site", "--registry", "no registry"), "--registry no registry"),
        (("--to", "{tmp}/site", "--versions", "0"), "--versions"),
        (("--to", "{tmp}/site", "none"), "none: no CloudImage"),
        (("--to", "{tmp}/site", "--key", "{tmp}/none.pub"), "none.pub"),
        (("--to", "{tmp}/site", "--readmes", "{tmp}/none"), "no such folder"),
    ],
)
def test_catalog_invalid_command_line_writes_no_site(
    tmp_path: Path, words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").write_text("")
    assert app.execute(["catalog", *(word.replace("{tmp}", str(tmp_path)) for word in words)]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "site").exists()

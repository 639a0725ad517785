"""``slipway generate``, and what ``run -f`` and ``apply`` refuse before anything is asked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import app
from harness.cloudimage import ExpectedValue, Info
from harness.clusterfile.parse import parse
from harness.oci.store import Store
from tests.unit.cloudimage.examples import put

CLUSTER = "apiVersion: slipway.dev/v1\nkind: Cluster\nmetadata: {name: shop}\nspec: {image: shop, hosts: [{ips: [%s], roles: [master]}]}\n"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def test_generate_writes_clusterfile_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "web", "-m", "10.0.0.1", "-n", "10.0.0.2-10.0.0.3", "-e", "Port=8080", "-u", "ops", "--port", "2222"]
    assert app.execute([*words, "--name", "shop", "--registry", "harbor.site:8443/apps", "--profile", "cis"]) == 0
    cluster = parse(capsys.readouterr().out, "Clusterfile").cluster
    assert cluster is not None
    assert (cluster.name, cluster.control_plane, cluster.workers) == ("shop", ("10.0.0.1",), ("10.0.0.2", "10.0.0.3"))
    assert (cluster.env, cluster.ssh.user, cluster.ssh.port) == ({"Port": "8080"}, "ops", 2222)
    assert cluster.profile == "cis"
    assert cluster.external_registry is not None
    assert (cluster.external_registry.host, cluster.external_registry.path) == ("harbor.site:8443", "apps")


def test_generate_several_images_are_written_as_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["generate", "kubernetes", "calico", "shop:1", "-m", "10.0.0.1"]) == 0
    cluster = parse(capsys.readouterr().out, "Clusterfile").cluster
    assert cluster is not None
    assert (cluster.image, cluster.images) == ("kubernetes", ("calico", "shop:1"))


def test_generate_required_values_of_images_are_written_as_comments(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.default()
    port = ExpectedValue("Port", ("manifests/web.yaml:7",), required=True, description="where\nit: listens\ufffe # here")
    values = (port, ExpectedValue("DbPassword", required=True, secret=True), ExpectedValue("Colour", default="red"))
    put(store, "web:1", info=Info(values=values))
    put(store, "shop:1", info=Info(type="app", values=(port, ExpectedValue("Site", required=True))))
    assert app.execute(["generate", "web:1", "shop:1", "nosuch", "-m", "10.0.0.1"]) == 0
    text, log = capsys.readouterr()
    lines = text.splitlines()
    begin = lines.index("spec:")
    assert lines[begin + 1 : begin + 7] == [
        "  # The image needs these values:",
        "  # env:",
        "  #   Port: VALUE  # required; manifests/web.yaml:7: where\\nit: listens # here",
        "  #   DbPassword: VALUE  # required, secret",
        "  #   Site: VALUE  # required",
        "  image:",
    ]
    assert "nosuch: no such image" in log
    written = text.replace("  # env:", "  env:").replace("  #   ", "    ")
    assert set(parse(written, "Clusterfile").cluster.env) == {"Port", "DbPassword", "Site"}  # type: ignore[union-attr]


def test_generate_missing_values_are_written_as_comments_in_given_env(capsys: pytest.CaptureFixture[str]) -> None:
    values = (ExpectedValue("Port", required=True), ExpectedValue("Site", required=True))
    put(Store.default(), "web:1", info=Info(values=values))
    assert app.execute(["generate", "web:1", "-m", "10.0.0.1", "-e", "Port=80"]) == 0
    text = capsys.readouterr().out
    assert "  env:\n    # The image needs these as well:\n    # Site: VALUE  # required\n    Port: '80'\n" in text
    written = parse(text.replace("    # Site", "    Site"), "Clusterfile").cluster
    assert written is not None
    assert written.env == {"Site": "VALUE", "Port": "80"}


@pytest.mark.parametrize(("images", "says"), [("[]", "is an empty list"), ("[a, b, a]", "a is listed twice"), ("[a, 'B:x:y']", "is not")])
def test_apply_image_list_empty_duplicate_or_invalid_is_refused(images: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("Clusterfile").write_text((CLUSTER % "10.0.0.1").replace("image: shop", f"image: {images}"))
    assert app.execute(["apply", "-f", "Clusterfile"]) == 2
    assert says in capsys.readouterr().err


def test_generate_schema_prints_json_schema_with_all_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.execute(["generate", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"Cluster", "Config", "Hook", "Plugin"} <= set(schema["properties"]["kind"]["enum"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("generate",), "no image is named"),
        (("generate", "web", "-m", "10.0.0.1,10.0.0.2"), "2 control-plane nodes"),
        (("generate", "--adopt"), "--adopt is for a cluster that runs"),
        (("generate", "--from-cluster"), "no control-plane node is named"),
        (("apply",), "no Clusterfile is given"),
        (("apply", "-f", "nosuch"), "nosuch: No such file"),
        (("run",), "no image is named"),
        (("run", "-f", "wrong"), "10.0.0.300 is not an address"),
        (("run", "-f", "right", "--control-plane", "10.0.0.999"), "--control-plane 10.0.0.999"),
        (("run", "-f", "right", "-e", "Port"), "not NAME=VALUE"),
        (("run", "-f", "right", "--profile", "sic"), "--profile sic: there is no such profile\n  hint: there are: cis"),
        (("apply", "-f", "right", "--profile", ""), "there are: cis"),
        (("generate", "web", "--profile", "CIS"), "there are: cis"),
        (("run", "-f", "odd"), "stig is not known here\n  hint: known: cis"),
    ],
)
def test_generate_run_and_apply_invalid_command_line_is_refused(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("wrong").write_text(CLUSTER % "10.0.0.300")
    Path("right").write_text(CLUSTER % "10.0.0.1")
    Path("odd").write_text((CLUSTER % "10.0.0.1").replace("image: shop", "image: shop, profile: stig"))
    assert app.execute(list(words)) == 2
    assert says in capsys.readouterr().err


def test_run_file_with_missing_image_exits_4_and_names_image(capsys: pytest.CaptureFixture[str]) -> None:
    Path("Clusterfile").write_text(CLUSTER % "10.0.0.1")
    assert app.execute(["run", "-f", "Clusterfile", "--plan"]) == 4
    assert "shop" in capsys.readouterr().err

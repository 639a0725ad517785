"""Layers as a merged tree, and what of it could change the outcome of a discovery."""

from __future__ import annotations

import hashlib
import io
import itertools
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import urllib3

from harness import kubefile
from harness.build import container_images, image_choice, run_steps
from harness.build.image_choice import ImageChoice
from harness.build.layers import LayerBuilder, cache_key_files, download, entry_of, index, merged, semantic_digest, with_folders
from harness.errors import BuildError
from harness.host import docker
from harness.kubefile.instructions import Copy
from harness.oci.layer import LayerEntry, write_layer
from harness.oci.registry.fetcher import Fetcher
from harness.oci.store import Store

MANIFEST = b"""\
kind: Service
spec:
  ports:
  - nodePort: {{ WebPort }}
"""


def test_semantic_digest_of_manifest_ignores_comments() -> None:
    assert semantic_digest(MANIFEST) == semantic_digest(b"# a new comment\n" + MANIFEST.replace(b"spec:", b"spec:   # ports"))


def test_semantic_digest_of_manifest_changes_with_value_or_variable() -> None:
    assert semantic_digest(MANIFEST) != semantic_digest(MANIFEST.replace(b"Service", b"ConfigMap"))
    assert semantic_digest(MANIFEST) != semantic_digest(MANIFEST.replace(b"WebPort", b"OtherPort"))


def test_semantic_digest_counts_hash_in_block_scalar_as_content() -> None:
    script = b"data:\n  run.sh: |\n    # first\n    true\n"
    assert semantic_digest(script) != semantic_digest(script.replace(b"# first", b"# second"))


def test_semantic_digest_of_non_yaml_depends_on_bytes() -> None:
    template = b"{{ if .Values.on }}\nkind: A\n{{ end }}\n"
    assert semantic_digest(template) == semantic_digest(template)
    assert semantic_digest(template) != semantic_digest(template + b"# x\n")


def facts(kind: str, digest: str = "d") -> list[str]:
    return [kind, "755", digest, digest]


def test_merging_applies_removals() -> None:
    lower = {"a": facts("dir"), "a/x": facts("file"), "a/y": facts("file"), "b": facts("dir"), "b/z": facts("file")}
    upper = {"a/.wh.x": facts("file"), "b": facts("dir"), "b/.wh..wh..opq": facts("file"), "b/new": facts("file")}
    assert sorted(merged([lower, upper])) == ["a", "a/y", "b", "b/new"]


def test_merged_file_replacing_folder_removes_its_content() -> None:
    assert sorted(merged([{"a": facts("dir"), "a/x": facts("file")}, {"a": facts("file")}])) == ["a"]


def test_cache_key_files_documentation_is_left_out() -> None:
    files = {"README.md": facts("file"), "manifests/app.yaml": facts("file"), "charts/x/README": facts("file"), "LICENSE": facts("file")}
    assert [entry[0] for entry in cache_key_files(files)] == ["manifests/app.yaml"]


def test_entry_of_mode_does_not_depend_on_umask(tmp_path: Path) -> None:
    plain, program = tmp_path / "plain", tmp_path / "program"
    plain.write_text("x")
    program.write_text("x")
    plain.chmod(0o664)
    program.chmod(0o775)
    assert entry_of(plain, "plain", None).mode == 0o644
    assert entry_of(program, "program", None).mode == 0o755
    assert entry_of(plain, "plain", 0o600).mode == 0o600


def test_with_folders_adds_missing_parent_folders_with_mode() -> None:
    entries = list(with_folders([LayerEntry("a/b/c", "file", 0o644, b"x"), LayerEntry("a", "dir", 0o700)]))
    assert {entry.path: entry.mode for entry in entries} == {"a": 0o700, "a/b": 0o755, "a/b/c": 0o644}


def test_index_of_layer_is_cached(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = write_layer(
        [LayerEntry("etc", "dir"), LayerEntry("etc/a.yaml", "file", 0o644, b"a: 1 # x\n"), LayerEntry("l", "symlink", target="etc")], store
    )
    found = index(store, made)
    assert found["etc/a.yaml"][0] == "file"
    assert found["etc/a.yaml"][2] != found["etc/a.yaml"][3]
    assert found["l"][2] == "etc"
    store.path(made.descriptor.digest).unlink()
    assert index(store, made) == found


def test_semantic_digest_of_yaml_bomb_is_digest_of_bytes() -> None:
    bomb = "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]).encode()
    assert semantic_digest(bomb) == hashlib.sha256(bomb).hexdigest()


# ADD of a URL


class Web:
    """What a PoolManager is asked for, and answers: URL -> a body, or where it redirects to."""

    def __init__(self, pages: Mapping[str, bytes | str], length: str | None = None) -> None:
        self.pages = pages
        self.length = length
        self.asked: list[str] = []

    def request(self, _method: str, url: str, **options: object) -> urllib3.HTTPResponse:
        assert options["redirect"] is False
        self.asked.append(url)
        page = self.pages.get(url)
        if isinstance(page, str):
            return urllib3.HTTPResponse(b"", headers={"Location": page}, status=302, preload_content=False)
        headers = {"Content-Length": self.length} if self.length else {}
        return urllib3.HTTPResponse(
            io.BytesIO(page or b""), headers=headers, status=404 if page is None else 200, reason="Not Found", preload_content=False
        )


CONTENT = b"content"
DIGEST = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Web]:
    def serve(pages: Mapping[str, bytes | str], length: str | None = None) -> Web:
        made = Web(pages, length)
        monkeypatch.setattr("urllib3.PoolManager.request", made.request)
        return made

    return serve


def test_download_with_matching_checksum_is_accepted_without_warning(
    web: Callable[..., Web], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    web({"https://a.invalid/f": CONTENT})
    assert download("https://a.invalid/f", tmp_path / "f", DIGEST).read_bytes() == CONTENT
    assert "warning" not in capsys.readouterr().err


def test_download_with_wrong_checksum_raises_build_error(web: Callable[..., Web], tmp_path: Path) -> None:
    web({"https://a.invalid/f": b"forged"})
    with pytest.raises(BuildError, match=rf"https://a.invalid/f has digest sha256:\w+, not {DIGEST}"):
        download("https://a.invalid/f", tmp_path / "f", DIGEST)


def test_download_without_checksum_warns_with_digest(web: Callable[..., Web], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    web({"https://a.invalid/f": CONTENT})
    download("https://a.invalid/f", tmp_path / "f")
    assert f"no checksum is given; the server decides what goes into the image. Today: ADD --checksum={DIGEST}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("chain", "ends"),
    [
        (["http://a.invalid/f", "https://b.invalid/f"], True),
        (["http://a.invalid/f", "http://b.invalid/f"], True),
        (["https://a.invalid/f", "https://b.invalid/f"], True),
        (["https://a.invalid/f", "/g"], True),
        (["https://a.invalid/f", "http://b.invalid/f"], False),
        (["http://a.invalid/f", "https://b.invalid/f", "http://c.invalid/f"], False),
        (["https://a.invalid/f", "file:///etc/shadow"], False),
        (["http://a.invalid/f", "ftp://b.invalid/f"], False),
    ],
)
def test_download_redirect_from_https_or_to_other_scheme_is_refused(
    web: Callable[..., Web], tmp_path: Path, chain: list[str], ends: bool
) -> None:
    last = {urllib.parse.urljoin(chain[-2], chain[-1]): CONTENT}
    served = web({**dict(itertools.pairwise(chain)), **last})
    if ends:
        assert download(chain[0], tmp_path / "f", DIGEST).read_bytes() == CONTENT
    else:
        with pytest.raises(BuildError, match="the server redirects to"):
            download(chain[0], tmp_path / "f", DIGEST)
        assert served.asked == chain[:-1]


def test_download_redirect_loop_raises_build_error(web: Callable[..., Web], tmp_path: Path) -> None:
    web({"https://a.invalid/f": "https://a.invalid/f"})
    with pytest.raises(BuildError, match="more than ten times"):
        download("https://a.invalid/f", tmp_path / "f")


@pytest.mark.parametrize("length", [None, str(1 << 40)])
def test_download_over_size_limit_raises_build_error(
    web: Callable[..., Web], tmp_path: Path, length: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.build.layers.DOWNLOAD_LIMIT", 1000)
    web({"https://a.invalid/f": b"0" * 1001}, length)
    with pytest.raises(BuildError, match="the file is larger than"):
        download("https://a.invalid/f", tmp_path / "f")
    assert (tmp_path / "f").stat().st_size == 0


def test_download_http_404_raises_build_error(web: Callable[..., Web], tmp_path: Path) -> None:
    web({})
    with pytest.raises(BuildError, match="the server answers 404 Not Found"):
        download("https://a.invalid/f", tmp_path / "f")


@pytest.mark.parametrize("network", run_steps.NETWORKS)
def test_run_step_has_requested_network_and_no_privileges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: str) -> None:
    given: dict[str, Any] = {}

    def run_container(_: Any, image: str, command: list[str], **options: Any) -> tuple[int, str]:
        if options.get("network_disabled"):
            return 0, ""  # which packages the image has
        given.update(options)
        return 7, "curl: could not resolve host"

    monkeypatch.setattr(docker, "connect", lambda **_: None)
    monkeypatch.setattr(docker, "run_container", run_container)
    monkeypatch.setattr(container_images.Builder, "engine_image", lambda *_: "builder")
    monkeypatch.setattr(container_images.Builder, "key", lambda *_: "key")
    store = Store(tmp_path / "store")
    builder = container_images.Builder(store, (), network=network, hosts=("x:10.0.0.1",))
    parsed = kubefile.parse("FROM scratch\nRUN curl http://x/\n", "K")
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    with (
        LayerBuilder(
            store, builder, Fetcher([], store), tmp_path, base=[], parent="", choice=ImageChoice(image_choice.BUILT, lambda _: True)
        ) as work,
        pytest.raises(BuildError, match="RUN failed with exit code 7") as failed,
    ):
        work.perform(parsed, parsed.instructions[-1])
    assert given["network_mode"] == network
    assert given["extra_hosts"] == ["x:10.0.0.1"]
    assert given["cap_drop"] == ["NET_RAW"]
    assert given["security_opt"] == ["no-new-privileges"]
    assert not given.get("privileged")
    assert ("--network host" in str(failed.value.hint)) is (network == run_steps.BRIDGE)


def test_copy_layer_leaves_out_image_archives(tmp_path: Path) -> None:
    for name in ("web.tar", "notes.txt"):
        (tmp_path / name).write_text("x")
    parsed = kubefile.parse("FROM scratch\nCOPY web.tar notes.txt images/\n", "Kubefile")
    unused: Any = None
    store = Store(tmp_path / "store")
    with store.shared_lease(), LayerBuilder(store, unused, unused, tmp_path, base=[], parent="", choice=unused) as work:
        work.left_out = frozenset([(tmp_path / "web.tar").resolve()])
        work.perform(parsed, parsed.of(Copy)[0])
        assert sorted(work.files()) == ["images", "images/notes.txt"]


def built(tmp_path: Path, text: str) -> LayerBuilder:
    """The layers of a Kubefile whose context is ``tmp_path / "context"``, and that runs nothing."""
    store = Store(tmp_path / "store")
    parsed = kubefile.parse(text, "K", context=tmp_path / "context")
    work = LayerBuilder(
        store, container_images.Builder(store, ()), Fetcher([], store), tmp_path / "context", base=[], parent="",
        choice=ImageChoice(image_choice.BUILT, lambda _: True),
    )  # fmt: skip
    for instruction in parsed.instructions:
        work.perform(parsed, instruction)
    return work


@pytest.mark.parametrize("name", [".dockerignore", ".slipwayignore"])
def test_layers_leave_out_ignored_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    context = tmp_path / "context"
    for path in ("secret/id", "manifests/id.key", "manifests/a.yaml", "app/id.key", "app/run.sh", "public"):
        (context / path).parent.mkdir(parents=True, exist_ok=True)
        (context / path).write_text("geheim" if "id" in path else "open")
    (context / "alias").symlink_to("secret")
    (context / name).write_text("secret\n**/*.key\n.*ignore\nalias\n")
    work = built(tmp_path, "FROM scratch\nCOPY . .\nCOPY manifests other\nADD m*/* x/\nAPP app local://app\n")
    with work:
        files = work.files()
        assert {"manifests/a.yaml", "other/a.yaml", "x/a.yaml", "application/apps/app/run.sh", "public"} <= files.keys()
        assert not [path for path in files if path.endswith(("id", ".key", "ignore", "alias")) or "secret" in path]
        tree = work.tree()
        assert not [path for path in tree.rglob("*") if path.is_file() and "geheim" in path.read_text()]


def test_copy_here_documents_become_files_of_layer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "context").mkdir()
    text = "FROM scratch\nENV V=1\nCOPY <<A <<'B' etc/\nv: $V\nA\nv: $V\nB\nCOPY --chmod=755 <<EOF bin/start\necho\nEOF\n"
    with built(tmp_path, text) as work:
        tree = work.tree()
        assert [(tree / path).read_text() for path in ("etc/A", "etc/B", "bin/start")] == ["v: 1\n", "v: $V\n", "echo\n"]
        assert work.files()["bin/start"][1] == "755"


def test_copy_layer_keeps_parents_and_leaves_out_excluded_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_CACHE", str(tmp_path / "cache"))
    for path in ("a/b/x.yaml", "a/b/x.md", "c/y.yaml"):
        (tmp_path / "context" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "context" / path).write_text("x")
    with built(tmp_path, "FROM scratch\nCOPY --parents --exclude=*.md a/b c/*.yaml etc/\n") as work:
        assert [path for path, facts in work.files().items() if facts[0] == "file"] == ["etc/a/b/x.yaml", "etc/c/y.yaml"]

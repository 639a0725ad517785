"""``slipway diff``: words in, exit code and text out."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import log
from harness.cli import app
from harness.cloudimage import ExpectedValue, ImageApp, Info, tags
from harness.oci.layer import LayerEntry
from harness.oci.model import OCI_MANIFEST, Descriptor, canonical_json, digest_of
from harness.oci.store import Store
from tests.unit.cloudimage.examples import AMD64, ARM64, file, put
from tests.unit.cloudimage.registries import StoreAsRegistry

pytestmark = pytest.mark.usefixtures("home")

REMOTE = "reg.test/web:1"


@pytest.fixture(autouse=True)
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Registries that answer, one a connection; without one nothing is asked."""
    waiting: list[Any] = []
    monkeypatch.setattr("harness.cli.diff.connect", lambda *_, **__: waiting.pop(0) if waiting else pytest.fail("a registry is asked"))
    return waiting


def lines(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What a comparison of ``old`` and ``new`` prints between the images and the bytes to send."""
    assert app.execute(["diff", "old", "new", *words]) == 0
    return capsys.readouterr().out.splitlines()[2:-1]


# Text


def test_diff_prints_stable_lines(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    old = put(
        store, "old", [file("etc/a", "1"), file("bin/tool", b"x" * 2000, 0o755)], info=Info(env={"A": "1"}), embedded={"x.io/i:1": b"1"}
    )
    new = put(
        store,
        "new",
        [file("etc/a", "22"), LayerEntry("bin/tool", "symlink", target="a")],
        info=Info(env={"A": "2"}),
        embedded={"x.io/i:2": b"2"},
    )
    assert app.execute(["diff", "old", "new"]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found[:2] == [
        f"old  old:latest  {old.digest}  {log.size(old.size)}",
        f"new  new:latest  {new.digest}  {log.size(new.size)}",
    ]
    assert found[2:-1] == [
        "platform linux/amd64",
        "~ env         A=1 -> 2",
        "~ image       x.io/i  1 224 B -> 2 224 B".replace("224", found[4].split()[4]),
        "~ file        bin/tool  0755 2.0 kB -> link to a",
        "~ file        etc/a  1 B -> 2 B",
    ]
    missing = {blob.digest: blob.size for blob in new.blobs if blob.digest not in {one.digest for one in old.blobs}}
    shared = new.size - sum(missing.values())
    sent = f"to send  {log.size(sum(missing.values()))} in {len(missing)} blobs; "
    assert found[-1] == f"{sent}{log.size(shared)} in {len({blob.digest for blob in new.blobs}) - len(missing)} are shared"


def test_diff_prints_settings_of_a_run_each_in_its_words(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    base = {"reference": "k", "digest": digest_of(b"k")}
    application = ImageApp("db", "helm", ("a",), {"P": "1"})
    put(
        store,
        "old",
        info=Info(values=(ExpectedValue("P", required=True), ExpectedValue("Q")), labels={"x": "1"}, apps=(application,), launch=("one",)),
        history=("RUN a",),
    )
    put(
        store,
        "new",
        info=Info(
            values=(ExpectedValue("Q", default="7"), ExpectedValue("R")),
            apps=(ImageApp("db", "helm", ("a",), {"P": "2"}), ImageApp("mq", "kube")),
            launch=("two",),
            base=base,
        ),
        history=("RUN b",),
    )
    assert lines(capsys)[1:] == [
        f"+ base        k@{digest_of(b'k')[7:19]}",
        "- value       P  required",
        "~ value       Q  default",
        "+ value       R  not required",
        "- label       x=1",
        "~ app         db  env",
        "+ app         mq  kube",
        "- launch      one",
        "+ launch      two",
        "- step        RUN a",
        "+ step        RUN b",
    ]


def test_diff_prints_changes_of_files_each_in_its_words(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a", "1"), file("gone", "x"), LayerEntry("l", "symlink", target="a"), LayerEntry("same", "dir")])
    changed = [file("a", "22", 0o755), LayerEntry("d", "dir", 0o700), LayerEntry("l", "symlink", target="b"), LayerEntry("same", "dir")]
    put(store, "new", changed)
    assert lines(capsys)[1:] == [
        "~ file        a  0644 -> 0755, 1 B -> 2 B",
        "+ file        d  dir 0700",
        "- file        gone  0644 1 B",
        "~ file        l  a -> b",
    ]


def test_diff_prints_images_added_removed_and_moved(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", embedded={"x.io/gone:1": b"g", "x.io/moved:1": b"m1"})
    put(store, "new", embedded={"x.io/come:1": b"c", "x.io/moved:1": b"m2"})
    words = [line.split() for line in lines(capsys)[1:]]
    assert [(word[0], word[1], word[2]) for word in words] == [
        ("+", "image", "x.io/come:1"),
        ("-", "image", "x.io/gone:1"),
        ("~", "image", "x.io/moved:1"),
    ]
    # The same version with other bytes: only its digest says so.
    assert words[2][6] == "->"
    assert len(words[2][3]) == len(words[2][7]) == 12
    assert words[2][3] != words[2][7]


def test_diff_content_prints_changed_lines_indented(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a", "1\n")])
    put(store, "new", [file("a", "2\n")])
    assert lines(capsys)[1:] == ["~ file        a  2 B -> 2 B"]
    assert lines(capsys, "--content")[2:] == ["    --- a/a", "    +++ b/a", "    @@ -1 +1 @@", "    -1", "    +2"]


def test_diff_of_other_layers_with_equal_files_prints_nothing_changed(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a", "1"), file("b", "2")])
    put(store, "new", [file("a", "1")], [file("b", "2")])
    assert lines(capsys) == ["platform linux/amd64", "  nothing changed"]


def test_diff_platform_of_one_side_is_named_and_can_be_left_out(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a")], platforms=(AMD64,))
    put(store, "new", [file("b")], platforms=(AMD64, ARM64))
    assert lines(capsys)[-2:] == ["platform linux/arm64", "  only the new one is made for it"]
    assert [line for line in lines(capsys, "--platform", "amd64") if line.startswith("platform")] == ["platform linux/amd64"]


def test_diff_platform_that_was_not_pulled_is_said(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    image = put(store, "old", [file("a")], platforms=(AMD64, ARM64))
    put(store, "new", [file("b")], platforms=(AMD64, ARM64))
    absent = next(entry["digest"] for entry in store.json(image.digest)["manifests"] if entry["platform"]["architecture"] == "arm64")
    store.path(absent).unlink()
    assert lines(capsys)[-2:] == ["platform linux/arm64", "  only the new one was pulled with it"]


def test_diff_output_escapes_control_characters(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a", "1\n")])
    put(store, "new", [file("a", "\x1b[2J\n"), file("e\nvil\x1b]0;x\x07")], info=Info(env={"\x1b[1m": "v"}))
    assert app.execute(["diff", "old", "new", "--content"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "e\\nvil\\x1b]0;x\\x07" in shown


# JSON and exit codes


def test_diff_output_json_holds_all_changes_with_values_and_content(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    old = put(store, "old", [file("a", "1\n"), file("gone", "x"), file("same", "s")], info=Info(env={"A": "1"}, labels={"team": "web"}))
    put(store, "new", [file("a", "2\n"), file("came", "y"), file("same", "s")], info=Info(env={"A": "2"}, launch=("echo 1",)))
    assert app.execute(["diff", "old", "new", "--content", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == {"old", "new", "equal", "platforms", "transfer"}
    assert found["old"] == {"name": "old:latest", "where": "store", "digest": old.digest, "size": old.size}
    (part,) = found["platforms"]
    assert (part["platform"], part["only"], part["absent"], part["filesCompared"]) == ("linux/amd64", None, False, True)
    assert [(change["kind"], change["name"], change["change"]) for change in part["changes"]] == [
        ("env", "A", "changed"),
        ("label", "team", "removed"),
        ("launch", "echo 1", "added"),
        ("file", "a", "changed"),
        ("file", "came", "added"),
        ("file", "gone", "removed"),
    ]
    values = {(change["kind"], change["name"]): (change["old"], change["new"]) for change in part["changes"]}
    assert values["env", "A"] == ("1", "2")
    assert values["label", "team"] == ("web", None)
    assert values["file", "gone"] == ({"kind": "file", "mode": "0644", "size": 1, "digest": digest_of(b"x")}, None)
    changed = next(change for change in part["changes"] if change["name"] == "a")
    assert changed["diff"].endswith("-1\n+2\n")


def test_diff_of_two_names_of_same_image_is_equal(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a")])
    tags.tag(store, "old", "new")
    assert app.execute(["diff", "old", "new", "--exit-code"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == ["they are the same"]
    assert app.execute(["diff", "old", "new", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["equal"], found["transfer"]["send"], found["platforms"][0]["changes"]) == (True, {"blobs": 0, "bytes": 0}, [])


def test_diff_exit_code_considers_only_selected_platform(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put(store, "old", [file("a")], platforms=(AMD64,))
    put(store, "new", [file("a")], platforms=(AMD64, ARM64))
    assert app.execute(["diff", "old", "new", "--platform", "amd64", "--exit-code"]) == 0
    assert app.execute(["diff", "old", "new"]) == 0
    capsys.readouterr()
    assert app.execute(["diff", "old", "new", "--exit-code", "-o", "json"]) == 1
    shown = capsys.readouterr()
    assert (json.loads(shown.out)["equal"], shown.err) == (False, "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["old", "odl"], 4, "did you mean old:latest?"),
        (["old", "plain"], 4, "not a CloudImage"),
        (["old", "UPPER"], 4, "upper: no such image"),
        (["old", "old", "--platform", "x/"], 2, "--platform x/: "),
        (["old", REMOTE, "--platform", "linux/sparc"], 2, "--platform linux/sparc: no such architecture"),
        (["old", "old", "--platform", "arm64"], 4, "linux/arm64"),
        (["old", "old", "-o", "yaml"], 2, "--output yaml"),
        (["old"], 2, "Missing argument 'NEW'"),
    ],
)
def test_diff_invalid_command_line_prints_error_and_asks_no_registry(
    words: list[str],
    code: int,
    message: str,
    store: Store,
    contents: Callable[[], dict[str, bytes]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(store, "old", [file("a")])
    store.tag("plain", Descriptor(OCI_MANIFEST, *store.put(canonical_json({"schemaVersion": 2, "mediaType": OCI_MANIFEST}))))
    before = contents()
    assert app.execute(["diff", *words]) == code
    shown = capsys.readouterr()
    assert (shown.out, message in shown.err) == ("", True), shown.err
    assert contents() == before


# Registries


class ClosingRegistry(StoreAsRegistry):
    """Remembers that its connection was ended."""

    closed = False

    def __exit__(self, *_: object) -> None:
        self.closed = True


def test_diff_sides_in_registries_share_one_connection_which_is_ended(
    store: Store, connections: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = put(store, "one", [file("a", "1")]), put(store, "two", [file("a", "2")])
    there = ClosingRegistry(store, {REMOTE: one.digest, "reg.test/web:2": two.digest})
    connections.append(there)
    assert app.execute(["diff", REMOTE, "reg.test/web:2", "-o", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[side]["where"] for side in ("old", "new")] == ["reg.test", "reg.test"]
    assert there.closed


def test_diff_with_image_of_registry_compares_layers_and_hints_at_pull(
    store: Store, connections: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    far = Store(store.root.parent / "far")
    put(store, "old", [file("a", "1")])
    image = put(far, "web", [file("a", "2")])
    connections.append(StoreAsRegistry(far, {REMOTE: image.digest}))
    assert app.execute(["diff", "old", REMOTE]) == 0
    found = capsys.readouterr().out.splitlines()
    assert found[1] == f"new  {REMOTE} (in the registry)  {image.digest}  {log.size(image.size)}"
    assert sorted(line.split()[:2] for line in found[3:5]) == [["+", "layer"], ["-", "layer"]]
    assert found[5] == "  files were not compared: pull both images to see which changed"


def test_diff_docker_prefix_asks_registry_for_a_stored_name(
    store: Store, connections: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, REMOTE, [file("a", "1")])
    other = put(store, "other", [file("a", "2")])
    assert app.execute(["diff", REMOTE, REMOTE, "--exit-code"]) == 0
    connections.append(StoreAsRegistry(store, {REMOTE: other.digest}))
    assert app.execute(["diff", REMOTE, f"docker://{REMOTE}", "--exit-code"]) == 1
    assert "~ file        a  1 B -> 1 B" in capsys.readouterr().out


def test_diff_name_that_registry_lacks_exits_with_its_error(
    store: Store, connections: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    put(store, "old", [file("a")])
    there = ClosingRegistry(store, {})
    connections.append(there)
    assert app.execute(["diff", "old", REMOTE]) == 4
    shown = capsys.readouterr()
    assert (shown.out, f"{REMOTE}: 404" in shown.err, there.closed) == ("", True, True)

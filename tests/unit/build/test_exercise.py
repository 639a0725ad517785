"""The exercise of an image: where it is written, and what it is recorded by."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import build, kubefile
from harness.build import exercise
from harness.build.options import BuildOptions, read_all
from harness.errors import InputError
from harness.kubefile import Kubefile


def parsed(more: str = "") -> Kubefile:
    return kubefile.parse(f"FROM scratch\n{more}", "K")


def test_exercise_absent_gives_neither_steps_nor_digest(tmp_path: Path) -> None:
    assert exercise.read(parsed(), tmp_path) == ()
    assert exercise.digest(()) is None


def test_exercise_file_runs_with_errexit_before_kubefile_commands(tmp_path: Path) -> None:
    (tmp_path / "exercise.sh").write_text("false\ntrue\n")
    steps = exercise.read(parsed('EXERCISE kubectl get pods\nEXERCISE ["a   b", "c"]\n'), tmp_path)
    assert [(step.title, step.script) for step in steps] == [
        ("exercise.sh", "set -e\nfalse\ntrue\n"), ("kubectl get pods", "kubectl get pods"), ("a b", "a   b"), ("c", "c"),
    ]  # fmt: skip


def test_exercise_digest_changes_with_scripts_and_their_order(tmp_path: Path) -> None:
    digests = {
        exercise.digest(exercise.read(parsed(text), tmp_path))
        for text in ("EXERCISE a\n", "EXERCISE b\n", 'EXERCISE ["a", "b"]\n', 'EXERCISE ["b", "a"]\n')
    }
    assert len(digests) == 4
    assert all(str(digest).startswith("sha256:") for digest in digests)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x" * (64 << 10) + "y", "is larger than 65536 bytes"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (Path("/etc/hostname"), "leads out of the folder"),
    ],
    ids=["large", "binary", "link"],
)
def test_exercise_file_large_binary_or_linked_out_is_fault_beside_those_of_kubefile(
    tmp_path: Path, content: str | bytes | Path, message: str
) -> None:
    (tmp_path / "Kubefile").write_text("FROM scratch\nAPP web local://none\n")
    file = tmp_path / "exercise.sh"
    if isinstance(content, Path):
        file.symlink_to(content)
    else:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(InputError) as caught:
        read_all(BuildOptions(tmp_path, "x"))
    of_kubefile, of_file = caught.value.faults
    assert (of_kubefile.where, of_file.where) == (f"{tmp_path / 'Kubefile'}:2", str(file))
    assert of_kubefile.message.startswith("none: no such file or folder")
    assert message in of_file.message


def test_check_lists_exercise_steps(tmp_path: Path) -> None:
    (tmp_path / "Kubefile").write_text("FROM scratch\nCMD a\nEXERCISE kubectl get pods\n")
    (tmp_path / "exercise.sh").write_text("true\n")
    assert build.check(BuildOptions(tmp_path, "x"))["exercise"] == ["exercise.sh", "kubectl get pods"]

"""What is put into a bundle of logs, how much of it, and what is said of the rest."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from harness.errors import InputError, NodeError
from harness.lifecycle.logs import BundleFiles, _ask_node, not_ready, recent, since_of
from tests.unit.lifecycle.standin import StandIn

NOW = datetime.datetime(2026, 1, 2, 12, 0, tzinfo=datetime.UTC)


def test_since_of_parses_durations_and_refuses_others() -> None:
    assert [since_of(text).total_seconds() for text in ("90s", "30m", "1h", "2d")] == [90, 1800, 3600, 172800]
    for wrong in ("", "1", "h", "-1h", "0m", "1 week", "1h30m", "9999d", "99999999999999d", "٣d"):
        with pytest.raises(InputError, match="no length of time"):
            since_of(wrong)


def test_recent_keeps_only_log_lines_within_duration() -> None:
    lines = "".join(
        f"{line}\n"
        for line in (
            "2026-01-02T10:00:00.123456789Z stdout F old",
            "2026-01-02T12:30:00.1+01:00 stdout F young",
            "no time",
            "2026-01-02T11:59:00Z stderr F last",
        )
    )
    assert recent(lines, datetime.timedelta(hours=1), NOW) == "".join(lines.splitlines(keepends=True)[1:])
    assert recent(lines, None, NOW) == lines
    assert recent(lines, datetime.timedelta(seconds=10), NOW) == ""


def test_bundle_files_long_file_keeps_end_and_index_reports_cut(tmp_path: Path) -> None:
    bundle_files = BundleFiles(tmp_path, most=100)
    bundle_files.put("nodes/one/a.log", "".join(f"line {number}\n" for number in range(100)))
    bundle_files.put("nodes/one/b.log", "short\n")
    kept = (tmp_path / "nodes/one/a.log").read_text()
    assert kept.startswith("line ")
    assert kept.endswith("line 99\n")
    assert len(kept) <= 100
    index = bundle_files.index("lab", None, {})
    assert [entry["path"] for entry in index["files"]] == ["nodes/one/a.log", "nodes/one/b.log"]
    assert index["files"][0]["cutAtTheBeginning"] + len(kept) == 790
    assert "cutAtTheBeginning" not in index["files"][1]


def test_bundle_files_secrets_are_redacted_when_written(tmp_path: Path) -> None:
    bundle_files = BundleFiles(tmp_path)
    bundle_files.put("a.log", "password=hunter2\n")
    bundle_files.put_json("b.json", {"env": [{"name": "TOKEN", "value": "hunter2"}]})
    assert "hunter2" not in "".join(path.read_text() for path in tmp_path.iterdir())


def test_bundle_files_failed_attempt_is_listed_as_missing_and_others_are_kept(tmp_path: Path) -> None:
    bundle_files = BundleFiles(tmp_path)

    def fails() -> None:
        raise NodeError("10.0.0.1: the connection\nwas lost, password=hunter2")

    bundle_files.attempt("cluster/pods.json", fails)
    bundle_files.attempt("cluster/nodes.txt", lambda: bundle_files.put("cluster/nodes.txt", "one"))
    index = bundle_files.index("lab", datetime.timedelta(hours=1), {"10.0.0.9": "no answer"})
    assert index["missing"] == {"cluster/pods.json": "10.0.0.1: the connection was lost, password=***"}
    assert [entry["path"] for entry in index["files"]] == ["cluster/nodes.txt"]
    assert (index["sinceSeconds"], index["unreachable"]) == (3600, {"10.0.0.9": "no answer"})


def test_not_ready_lists_only_pods_that_are_not_ready() -> None:
    def pod(name: str, phase: str, ready: str) -> dict[str, object]:
        status = {"phase": phase, "conditions": [{"type": "Ready", "status": ready}], "containerStatuses": []}
        return {"kind": "Pod", "metadata": {"name": name, "namespace": "web", "uid": name}, "spec": {"containers": []}, "status": status}

    assert not_ready([pod("good", "Running", "True"), pod("bad", "Pending", "False")]) == ("web_bad",)


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize(
    "listed",
    [
        "/var/log/pods/../../../../outside/key",
        "/var/log/pods//../../../../outside/key",
        "/var/log/pods/kube-system_x/../../../../../outside/key",
        "/outside/key",
        "../outside/key",
        "-n",
        "/var/log/pods/",
        "/var/log/pods/\x1b]0;x\x07/\0",
    ],
)
def test_ask_node_hostile_log_path_is_never_written_outside_node_folder(tmp_path: Path, listed: str) -> None:
    folder, outside = tmp_path / "a/b/c/bundle_files", tmp_path / "outside"
    folder.mkdir(parents=True)
    outside.mkdir()
    node = StandIn("10.0.0.1", "../../../../outside")
    good = "/var/log/pods/kube-system_etcd-a_1/etcd/0.log"
    node.answers = {"find /var/log/pods": f"{listed}\n{good}\n", "tail -c": "what the machine says\n"}
    bundle_files = BundleFiles(folder)
    _ask_node(node, bundle_files, None, ())
    found = everything(tmp_path)
    assert all(path.startswith("a/b/c/bundle_files/nodes/10.0.0.1/") for path in found), found
    assert "a/b/c/bundle_files/nodes/10.0.0.1/pods/kube-system_etcd-a_1/etcd/0.log" in found
    assert any("/pods" in path for path in bundle_files.missing)
    assert not any("\x1b" in path for path in bundle_files.missing)


def test_bundle_files_path_through_symlink_or_outside_folder_is_refused(tmp_path: Path) -> None:
    bundle_files = BundleFiles(tmp_path / "bundle_files")
    (tmp_path / "bundle_files/nodes").mkdir(parents=True)
    (tmp_path / "bundle_files/nodes/x").symlink_to(tmp_path)
    (tmp_path / "bundle_files/nodes/file").symlink_to(tmp_path / "file")
    for path in ("nodes/x/file", "nodes/file", "../file", f"{tmp_path}/file", "nodes/a/../../../file"):
        with pytest.raises(NodeError):
            bundle_files.put(path, "text")
        with pytest.raises(NodeError):
            bundle_files.put_json(path, {})
    assert not (tmp_path / "file").exists()


def test_ask_node_pod_logs_beyond_limit_are_left_out_and_reported(tmp_path: Path) -> None:
    node = StandIn("10.0.0.1")
    node.answers = {
        "find /var/log/pods": "".join(f"/var/log/pods/kube-system_x_{number}/a/0.log\n" for number in range(1005)),
        "tail -c": "text\n",
    }
    bundle_files = BundleFiles(tmp_path)
    _ask_node(node, bundle_files, None, ())
    assert len([path for path in everything(tmp_path) if "/pods/" in path]) == 1000
    assert "of 1005 logs" in bundle_files.missing["nodes/10.0.0.1/pods"]

"""Another key for Secrets: in which order control-plane nodes get it, also after a kill."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import StoreError, UsageError
from harness.lifecycle import rotation
from harness.lifecycle.plan import execute
from harness.lifecycle.rotation import PATH, Keys, _plan, give, pair, read, require_known, rotate
from harness.process import ProcessResult
from harness.runtimes import static_pods
from harness.runtimes.encryption import SecretsKey, configuration, keys
from tests.unit.runtimes.machines import final_path

OLD, NEW = SecretsKey.make(1), SecretsKey.make(2)


class ControlPlaneNode:
    """Keeps its file of keys, and counts how often its API server was started anew."""

    def __init__(self, number: int, *keys: SecretsKey) -> None:
        self.address, self.name = f"10.0.0.{number}", f"control-plane-{number}"
        self.keys: Keys = keys
        self.commands: list[str] = []
        self.used: list[str] = []
        """What its API server has been started with."""
        self.before: Callable[[], None] = lambda: None

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        self.commands.append(command)
        if isinstance(input, bytes):
            with tarfile.open(fileobj=io.BytesIO(input)) as tar:
                (member,) = tar
                assert (final_path(member), member.mode) == (PATH, 0o600)
                self.keys = keys(tar.extractfile(member).read(), "the file")  # type: ignore[union-attr]
        if "get secrets" in command:
            self.before()
            return ProcessResult((), 0, "default/one\nkube-system/two\n", "")
        return ProcessResult((), 0, "", "")


@pytest.fixture
def control_plane(monkeypatch: pytest.MonkeyPatch) -> list[ControlPlaneNode]:
    made = [ControlPlaneNode(1, OLD), ControlPlaneNode(2, OLD), ControlPlaneNode(3, OLD)]

    def read_all(node: ControlPlaneNode, paths: list[str]) -> dict[str, bytes]:
        return {PATH: configuration(node.keys)} if node.keys else {}

    def restart(node: ControlPlaneNode, parts: tuple[str, ...], *, reason: str, others: bool) -> None:
        assert (parts, others) == (("kube-apiserver",), True)
        if node.used[-1:] != [reason]:
            node.used.append(reason)
        # Nobody encrypts with what another one cannot read.
        assert all(node.keys[0] in other.keys for other in made)

    monkeypatch.setattr(rotation, "read_files", read_all)
    monkeypatch.setattr(static_pods, "restart", restart)
    return made


def turn(control_plane: list[ControlPlaneNode]) -> list[str]:
    written: list[str] = []
    execute(_plan(control_plane, *pair(read(control_plane)), written))  # type: ignore[arg-type]
    return written


def test_rotation_new_key_is_known_before_use_and_old_key_kept_until_rewrite(control_plane: list[ControlPlaneNode]) -> None:
    def see() -> None:
        assert all([key.number for key in node.keys] == [2, 1] for node in control_plane)

    control_plane[0].before = see
    assert turn(control_plane) == ["default/one", "kube-system/two"]
    assert len({node.keys for node in control_plane}) == 1
    assert [key.number for key in control_plane[0].keys] == [2]
    assert control_plane[0].keys[0].secret != OLD.secret
    assert control_plane[1].used == [f"keys of Secrets: {names}" for names in ("slipway-1 slipway-2", "slipway-2 slipway-1", "slipway-2")]
    assert not any("get secrets" in command for node in control_plane[1:] for command in node.commands)


@pytest.mark.parametrize(
    "cut",
    [
        ((OLD, NEW), (OLD,), (OLD,)),
        ((NEW, OLD), (OLD, NEW), (OLD, NEW)),
        ((NEW, OLD), (NEW, OLD), (NEW, OLD)),
        ((NEW,), (NEW, OLD), (NEW, OLD)),
    ],
)
def test_rotation_interrupted_is_completed_with_same_key(control_plane: list[ControlPlaneNode], cut: tuple[Keys, Keys, Keys]) -> None:
    for node, had in zip(control_plane, cut, strict=True):
        node.keys = had
    turn(control_plane)
    assert {node.keys for node in control_plane} == {(NEW,)}


def test_rotation_repeated_increments_key_number(control_plane: list[ControlPlaneNode]) -> None:
    turn(control_plane)
    turn(control_plane)
    assert [key.name for key in control_plane[2].keys] == ["slipway-3"]


def test_rotation_of_inconsistent_or_missing_keys_is_refused(control_plane: list[ControlPlaneNode]) -> None:
    control_plane[1].keys = (SecretsKey.make(1),)
    with pytest.raises(StoreError, match="do not fit together"):
        pair(read(control_plane))  # type: ignore[arg-type]
    control_plane[1].keys = ()
    with pytest.raises(UsageError, match="control-plane-2: no key of Secrets is there") as wrong:
        read(control_plane)  # type: ignore[arg-type]
    assert "--profile cis" in str(wrong.value.hint)


def test_require_known_with_unknown_control_plane_node_raises_usage_error() -> None:
    control_plane = {"10.0.0.1", "10.0.0.2"}
    require_known(control_plane, ["10.0.0.1", "10.0.0.2"])
    with pytest.raises(UsageError, match=r"10\.0\.0\.2 is a control-plane node of the cluster, and not known here") as wrong:
        require_known(control_plane, ["10.0.0.1"])
    assert "--via 10.0.0.1,10.0.0.2" in str(wrong.value.hint)


def test_rewrite_script_sets_errexit_before_listing_secrets() -> None:
    # A pipe would hide that its first command failed.
    assert rotation._REWRITE.index("set -eu\n") < rotation._REWRITE.index("listed=$(")


def test_rotation_key_material_is_in_no_command(control_plane: list[ControlPlaneNode]) -> None:
    give(control_plane[0], (OLD,), others=True)  # type: ignore[arg-type]
    turn(control_plane)
    secrets = [line for line in configuration((OLD,)).decode().splitlines() if "secret: " in line]
    said = "".join(command for node in control_plane for command in node.commands)
    assert secrets
    assert not any(line.split()[-1] in said for line in secrets)


def test_rotate_unknown_cluster_raises_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nothing is known of a cluster lab"):
        rotate("lab", home=tmp_path)

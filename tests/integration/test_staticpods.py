"""How the API server of a control-plane node leaves and comes back, by the shell that does it, also when that is killed in the middle.

The kubelet is a stand-in: what runs is what has a manifest.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.errors import CheckError, CommandError
from harness.process import ProcessResult
from harness.runtimes import static_pods
from harness.runtimes.static_pods import PARTS
from tests.unit.lifecycle.standin import StandIn
from tests.waiting import HANG

# Any of them may be the last one that the shell starts: then it is killed.
COUNT = """n=$(($(cat "$STUB/count" 2>/dev/null || echo 0) + 1)); echo $n > "$STUB/count"
if [ $n -eq "${KILL_AT:-0}" ]; then kill -9 0; fi
"""
PROGRAMS = {
    # A part is seen to run once more than it has a manifest: it takes its time to end.
    "ctr": """case "$*" in
  *'tasks ls'*)
    echo 'TASK PID STATUS'
    for part in etcd kube-apiserver kube-controller-manager kube-scheduler; do
      if [ -e "$STUB/etc/manifests/$part.yaml" ]; then touch "$STUB/runs.$part"; fi
      if [ -e "$STUB/runs.$part" ]; then echo "id-$part 1 RUNNING"; fi
      if [ -e "$STUB/runs.$part" ] && [ ! -e "$STUB/etc/manifests/$part.yaml" ] && [ ! -e "$STUB/stuck" ]; then
        rm "$STUB/runs.$part"; echo "$part ended" >> "$STUB/happened"
      fi
    done ;;
  *'containers ls'*) part=${6#*==}; echo "id-${part%%,*}" ;;
esac""",
    "kubectl": """case "$*" in
  *' get lease kube-scheduler '*) echo "elsewhere_1" ;;
  *' get lease '*) echo "$(uname -n)_1-a" ;;
  *' patch lease '*) for word; do :; done; echo "released $5 $word" >> "$STUB/happened" ;;
esac""",
    "systemctl": 'echo "systemctl $*" >> "$STUB/happened"',
    "systemd-run": 'for word; do :; done; echo "armed $word" >> "$STUB/happened"',
    "sleep": ":",
    **{name: f'exec /bin/{name} "$@"' for name in ("cp", "mv", "rm", "mkdir", "cat")},
}


class KilledError(Exception):
    """The shell did not come to its end."""


class ControlPlaneNode(StandIn):
    """A folder for a machine, on which commands are run. ``kill_at``: the shell is killed at so manieth program."""

    def __init__(self, folder: Path) -> None:
        super().__init__("10.0.0.1", "one")
        self.folder, self.kill_at = folder, 0
        self.manifests, self.state = folder / "etc/manifests", folder / "state"
        programs = folder / "state/rootfs/bin"
        for place in (self.manifests, programs):
            place.mkdir(parents=True)
        for part in PARTS:
            (self.manifests / f"{part}.yaml").write_text(f"# {part}\n")
            (folder / f"runs.{part}").touch()
        for name, text in PROGRAMS.items():
            (programs / name).write_text(f"#!/bin/sh\nPATH=/bin:/usr/bin\n{COUNT if name != 'cat' else ''}{text}\n")
            (programs / name).chmod(0o755)

    def run(self, command: str, *, input: Any = None, check: bool = True, timeout: float = 120) -> ProcessResult:
        here = command.replace("/etc/kubernetes", str(self.folder / "etc")).replace("/var/lib/slipway", str(self.state))
        env = {"PATH": f"{self.state}/rootfs/bin:{os.environ['PATH']}", "STUB": str(self.folder), "KILL_AT": str(self.kill_at)}
        done = subprocess.run(
            ["sh", "-c", here], env=env, capture_output=True, text=True, timeout=HANG, check=False, start_new_session=True
        )
        if done.returncode == -signal.SIGKILL:
            raise KilledError
        if check and done.returncode:
            raise CommandError(f"exit code {done.returncode}", details=done.stdout + done.stderr)
        return ProcessResult((), done.returncode, done.stdout, done.stderr)

    @property
    def there(self) -> Mapping[str, str]:
        """Manifests that the kubelet sees."""
        return {path.name.removesuffix(".yaml"): path.read_text() for path in self.manifests.iterdir()}

    @property
    def happened(self) -> list[str]:
        return (self.folder / "happened").read_text().splitlines()


WHOLE = {part: f"# {part}\n" for part in PARTS}


@pytest.fixture
def node(tmp_path: Path) -> ControlPlaneNode:
    return ControlPlaneNode(tmp_path)


def test_leave_releases_lease_and_ends_controllers_before_api_server(node: ControlPlaneNode) -> None:
    static_pods.leave(node)
    assert node.there == {"etcd": "# etcd\n"}
    ends = [line for line in node.happened if line.endswith(" ended") or line.startswith("released")]
    assert ends[-1] == "kube-apiserver ended"
    assert {line for line in ends if line.endswith("ended")} == {f"{part} ended" for part in PARTS if part != "etcd"}
    (released,) = (line for line in ends if line.startswith("released"))
    holder = f"{os.uname().nodename}_1-a"
    at = '"path":"/spec/holderIdentity"'
    patch = f'[{{"op":"test",{at},"value":"{holder}"}},{{"op":"replace",{at},"value":""}}]'
    assert released == f"released kube-controller-manager {patch}"
    static_pods.come_back(node)
    assert node.there == WHOLE
    assert not (node.state / "away").exists()


def test_come_back_keeps_manifest_replaced_meanwhile(node: ControlPlaneNode) -> None:
    static_pods.leave(node)
    (node.manifests / "kube-apiserver.yaml").write_text("# newer\n")
    static_pods.come_back(node)
    assert node.there == {**WHOLE, "kube-apiserver": "# newer\n"}
    static_pods.leave(node)
    static_pods.come_back(node)
    assert node.there == {**WHOLE, "kube-apiserver": "# newer\n"}


def test_leave_part_that_does_not_end_raises_check_error_and_restores_manifests(node: ControlPlaneNode) -> None:
    (node.folder / "stuck").touch()
    with pytest.raises(CheckError, match="kube-controller-manager does not end"):
        static_pods.leave(node, timeout=1)
    assert node.there == WHOLE


@pytest.mark.parametrize("returns", ["by the same again", "by itself"])
def test_leave_killed_at_any_program_lets_all_manifests_return(tmp_path: Path, returns: str) -> None:
    kills = 0
    while True:
        made = ControlPlaneNode(tmp_path / str(kills))
        made.kill_at = kills + 1
        try:
            static_pods.leave(made)
        except KilledError:
            kills += 1
        else:
            break
        made.kill_at = 0
        if returns == "by itself":
            # The timer has been set before anything was taken away.
            assert made.there == WHOLE or f"armed {made.state}/return.sh" in made.happened
            made.run("if [ -e /var/lib/slipway/return.sh ]; then sh /var/lib/slipway/return.sh; fi")
        else:
            static_pods.leave(made)
            assert made.there == {"etcd": "# etcd\n"}
            static_pods.come_back(made)
        assert made.there == WHOLE, f"killed at program {kills}"
        assert {path.name for path in (made.folder / "etc").iterdir()} <= {"manifests", ".slipway-manifests-new.yaml"}
    assert kills > 20

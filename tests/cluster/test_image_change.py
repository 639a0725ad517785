"""A small cluster goes to another image and back. What a client of a large one notices of it, kills included, is in test_change."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cluster.conftest import GREETING, SECRET
from tests.cluster.lab import Lab
from tests.waiting import HANG

OTHER = "web-other:latest"
# What stands behind a program's end is not read.
KUBEFILE = "FROM web\nRUN printf other >> bin/runc\n"
VALUES = ("--yes", "-e", f"DbPassword={SECRET}", "--output", "json")


def runcs(lab: Lab) -> list[bool]:
    """Of each machine, whether its runc is that of the other image."""
    return [machine.run("tail -c 5 /var/lib/slipway/rootfs/bin/runc").stdout == "other" for machine in lab.machines]


def pages(lab: Lab) -> set[str]:
    return {machine.run(f"curl -s --max-time 60 http://{machine.address}:30080/").stdout.strip() for machine in lab.machines}


def test_upgrade_to_other_image_reaches_all_nodes_and_rollback_reverts_it(lab: Lab, web: str, tmp_path: Path) -> None:
    (tmp_path / "Kubefile").write_text(KUBEFILE)
    lab.slipway("build", "-t", OTHER, "--discover", "declared", tmp_path)
    changed = json.loads(lab.slipway("upgrade", lab.name, OTHER, *VALUES, timeout=HANG).stdout)
    assert not changed["resumed"]
    found = lab.status()
    assert (found["healthy"], found["image"], runcs(lab)) == (True, OTHER, [True, True]), found["notReady"]
    assert pages(lab) == {f"<h1>{GREETING}</h1>"}
    said = lab.slipway("rollback", lab.name, *VALUES, timeout=HANG).stderr
    assert "0 MB of images and 0 MB of files are new" in said
    found = lab.status()
    assert (found["healthy"], found["image"], runcs(lab)) == (True, web, [False, False]), found["notReady"]
    assert pages(lab) == {f"<h1>{GREETING}</h1>"}

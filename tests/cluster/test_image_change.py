"""A small cluster goes to another image by its Clusterfile and back. What a client of a large one notices of it, kills included, is in
test_change.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.cluster.conftest import GREETING, SECRET
from tests.cluster.lab import Lab
from tests.waiting import HANG

OTHER = "web-other:latest"
# What stands behind a program's end is not read.
KUBEFILE = "FROM web\nRUN printf other >> bin/runc\n"
VALUES = ("--yes", "-e", f"DbPassword={SECRET}", "--output", "json")


def clusterfile(lab: Lab, folder: Path) -> Path:
    """The cluster as it is, but for its image."""
    spec = {
        "image": OTHER,
        "ssh": {"user": "root", "pk": str(lab.key)},
        "hosts": [{"ips": lab.control_plane, "roles": ["control-plane"]}, {"ips": lab.workers, "roles": ["worker"]}],
        "env": {"Greeting": GREETING, "DbPassword": SECRET},
    }
    path = folder / "Clusterfile"
    path.write_text(yaml.safe_dump({"apiVersion": "slipway.dev/v1", "kind": "Cluster", "metadata": {"name": lab.name}, "spec": spec}))
    return path


def runcs(lab: Lab) -> list[bool]:
    """Of each machine, whether its runc is that of the other image."""
    return [machine.run("tail -c 5 /var/lib/slipway/rootfs/bin/runc").stdout == "other" for machine in lab.machines]


def pages(lab: Lab) -> set[str]:
    return {machine.run(f"curl -s --max-time 60 http://{machine.address}:30080/").stdout.strip() for machine in lab.machines}


def test_apply_other_image_upgrades_all_nodes_and_rollback_reverts_it(lab: Lab, web: str, tmp_path: Path) -> None:
    (tmp_path / "Kubefile").write_text(KUBEFILE)
    lab.slipway("build", "-t", OTHER, "--discover", "declared", tmp_path)
    file = clusterfile(lab, tmp_path)
    journals = lab.journals()
    plan = json.loads(lab.slipway("apply", "-f", file, "--plan", "--output", "json").stdout)
    assert [change["text"] for change in plan["changes"]] == [f"~ .spec.image: {web} -> {OTHER}"]
    assert (plan["steps"][0]["id"], plan["done"], lab.journals()) == ("upgrade", False, journals)
    applied = json.loads(lab.slipway("apply", "-f", file, "--output", "json", timeout=2 * HANG).stdout)
    assert (applied["done"], applied["made"], applied["changes"]) == (True, None, plan["changes"])
    found = lab.status()
    assert (found["healthy"], found["image"], runcs(lab)) == (True, OTHER, [True, True]), found["notReady"]
    assert found["change"] is None
    assert pages(lab) == {f"<h1>{GREETING}</h1>"}
    # For upgrade as for apply, that was all.
    assert json.loads(lab.slipway("upgrade", lab.name, OTHER, *VALUES).stdout)["nothing"]
    assert "nothing to do" in lab.slipway("apply", "-f", file).stdout
    said = lab.slipway("rollback", lab.name, *VALUES, timeout=HANG).stderr
    assert "0 MB of images and 0 MB of files are new" in said
    found = lab.status()
    assert (found["healthy"], found["image"], runcs(lab)) == (True, web, [False, False]), found["notReady"]
    assert pages(lab) == {f"<h1>{GREETING}</h1>"}

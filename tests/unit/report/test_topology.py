"""The drawing of a cluster: where boxes and lines stand, and what boxes say."""

from __future__ import annotations

import pytest

from harness.report import topology
from harness.report.model import CaseOutcome, ReportedCluster, ReportedMachine
from harness.report.topology import BOX_HEIGHT, BOX_WIDTH, TopologyDrawing
from tests.unit.report.examples import CASES, CLUSTER, FAILED, MACHINES, NAMES, audit


def machines(control_plane: int, workers: int) -> tuple[ReportedMachine, ...]:
    roles = ["control-plane"] * control_plane + ["worker"] * workers
    return tuple(ReportedMachine(f"node-{number}", f"10.0.0.{number}", role) for number, role in enumerate(roles))


def drawn(control_plane: int, workers: int, columns: int = 4) -> TopologyDrawing:
    cluster = ReportedCluster("shop", machines=machines(control_plane, workers))
    return topology.draw(cluster, {}, {}, columns)


@pytest.mark.parametrize("columns", [1, 2, 4])
@pytest.mark.parametrize(("control_plane", "workers"), [(1, 0), (1, 1), (3, 2), (3, 9), (0, 2), (5, 30)])
def test_draw_boxes_stand_inside_and_apart(control_plane: int, workers: int, columns: int) -> None:
    drawing = drawn(control_plane, workers, columns)
    boxes = drawing.boxes
    assert all(0 <= box.x <= drawing.width - BOX_WIDTH and 0 <= box.y <= drawing.height - BOX_HEIGHT for box in boxes)
    for index, box in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert abs(box.x - other.x) >= BOX_WIDTH or abs(box.y - other.y) >= BOX_HEIGHT
    assert len(boxes) + drawing.more == control_plane + workers


def test_draw_line_of_api_stands_between_roles_and_is_joined_to_every_box() -> None:
    drawing = drawn(3, 2)
    assert drawing.bus is not None
    assert len(drawing.links) == 5
    assert [box.y < drawing.bus for box in drawing.boxes] == [True, True, True, False, False]
    assert all(drawing.bus in (link.begin, link.end) for link in drawing.links)
    assert (drawing.members, drawing.etcd > drawing.links[0].x) == (3, True)


def test_draw_cluster_of_one_role_has_no_line() -> None:
    assert (drawn(1, 0).bus, drawn(1, 0).links, drawn(0, 2).bus, drawn(1, 0).etcd) == (None, (), None, 0.0)


def test_draw_cluster_without_machines_is_empty() -> None:
    assert drawn(0, 0).boxes == ()


def test_draw_long_name_is_cut_in_box_and_whole_in_title() -> None:
    cluster = ReportedCluster("shop", machines=(ReportedMachine("n" * 60, "10.0.0.1", "worker"),))
    (box,) = topology.draw(cluster, {}, {}, 4).boxes
    assert len(box.lines[0]) == 26
    assert box.lines[0].endswith("…")
    assert "n" * 60 in box.title


def test_uses_count_each_check_once_at_each_machine_that_it_touched() -> None:
    used = topology.uses((*CASES, CASES[0], FAILED), MACHINES)
    assert [used[name].words for name in NAMES] == ["1 check", "2 checks", "1 check, 1 failed"]
    drawing = topology.draw(CLUSTER, {NAMES[2]: "worker-2"}, used, 4)
    assert [box.kind for box in drawing.boxes] == ["control-plane", "worker", "worker bad"]
    assert drawing.boxes[2].lines == ("worker-2", "worker, amd64", "1 check, 1 failed")


def test_uses_of_findings_go_by_address_and_outcome_at_place() -> None:
    report = audit()
    used = topology.uses(report.cases, report.clusters[0].machines)
    assert used["node-1"].words == "3 checks"
    assert used["node-4"].words == "1 check, 1 failed"
    assert used["node-6"].words == "not touched by a check"
    assert report.cases[-1].outcome is CaseOutcome.FAILED

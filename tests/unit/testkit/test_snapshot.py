"""What is read of a cluster for the page: from its API and its machines, whatever they answer."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from harness.errors import CommandError, NodeError, StoreError
from harness.log.timings import COMMAND, SHOWN, STEP, KeptSpan
from harness.nodes import Machine
from harness.process import ProcessResult
from harness.report.model import BootStep, ReportedMachine
from harness.testkit import snapshot

DIGEST = f"sha256:{'1' * 64}"
NODE = {
    "metadata": {"name": "m0"},
    "status": {
        "addresses": [{"type": "InternalIP", "address": "10.0.0.1"}],
        "nodeInfo": {
            "architecture": "amd64",
            "osImage": "Debian GNU/Linux 12",
            "kernelVersion": "6.18.0",
            "kubeletVersion": "v1.36.3",
            "containerRuntimeVersion": "containerd://2.4.2",
        },
    },
}
POD = {
    "metadata": {"name": "web-1", "namespace": "default"},
    "spec": {"containers": [{"name": "main", "image": "slipway.dev/nginx:1.22"}]},
    "status": {
        "containerStatuses": [
            {"name": "main", "image": "sha256:other", "imageID": f"slipway.dev/nginx@{DIGEST}"},
            {"name": "waits", "image": "x", "imageID": ""},
        ]
    },
}
EVENT = {
    "metadata": {},
    "lastTimestamp": "2026-12-01T04:09:00Z",
    "reason": "Pulled",
    "message": "token: abcdef.0123456789abcdef",
    "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web-1"},
}


class Kubectl:
    """An API that answers with lists of objects, or as it is told."""

    def __init__(self, **answers: Any) -> None:
        self.answers = {"nodes": [NODE], "pods": [POD], "events": [EVENT], **answers}

    def run(self, *argv: str) -> str:
        answer = self.answers[argv[1]]
        if isinstance(answer, Exception):
            raise answer
        return json.dumps({"kind": "List", "items": answer})


class Machines:
    """A machine with a journal."""

    def __init__(self, name: str, address: str, journal: str = "", failure: Exception | None = None) -> None:
        self.name, self.address, self.journal, self.failure = name, address, journal, failure
        self.commands: list[str] = []

    def run(self, command: str, **_: Any) -> ProcessResult:
        self.commands.append(command)
        if self.failure is not None:
            raise self.failure
        return ProcessResult((), 0, self.journal, "")


@pytest.fixture(autouse=True)
def origins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "_origins", lambda _: {DIGEST: "built"})


def cluster(kubectl: Kubectl | None = None, **changes: Any) -> Any:
    machines = (Machines("m0", "10.0.0.1", "kubelet: started\n" * 50), Machines("n0", "10.0.0.2", "\x1b[31mred\x1b[0m\n"))
    facts = {
        "name": "test-1", "image": "web:latest", "digest": DIGEST, "embedded": 3, "group": "test-1", "boot_seconds": 61.44,
        "kubectl": kubectl or Kubectl(), "machines": machines, "control_plane": ("m0",),
    }  # fmt: skip
    return SimpleNamespace(**{**facts, **changes})


def test_take_reads_machines_images_events_and_journals() -> None:
    read = snapshot.take(cluster(), (), failed=False)
    assert read.missing == ()
    facts = ("amd64", "Debian GNU/Linux 12", "6.18.0", "v1.36.3", "containerd://2.4.2")
    assert read.machines == (ReportedMachine("m0", "10.0.0.1", "control-plane", *facts), ReportedMachine("n0", "10.0.0.2", "worker"))
    assert (read.kubernetes, read.boot_seconds, read.given) == ("v1.36.3", 61.4, False)
    (image,) = read.images
    assert (image.name, image.digest, image.pods, image.origin) == ("slipway.dev/nginx:1.22", DIGEST, ("default/web-1",), "built")
    assert [log.title for log in read.logs] == [
        "events of the cluster", "kubelet on m0", "containerd on m0", "kubelet on n0", "containerd on n0",
    ]  # fmt: skip
    assert read.logs[0].text == "2026-12-01T04:09:00Z Pulled Pod default/web-1: token: ***"
    assert (len(read.logs[1].text.splitlines()), read.logs[1].left_out) == (snapshot.PASSED_LINES, 50 - snapshot.PASSED_LINES)
    assert read.logs[3].text == "red"


def test_take_after_failure_keeps_longer_logs() -> None:
    running = cluster()
    read = snapshot.take(running, (), failed=True)
    assert len(read.logs[1].text.splitlines()) == 50
    assert f"--lines={snapshot.FAILED_LINES} " in running.machines[0].commands[0]


def test_take_names_what_cannot_be_read_and_keeps_rest() -> None:
    silent = CommandError("m0: kubectl: exit code 1")
    lost = Machines("n0", "10.0.0.2", failure=NodeError("10.0.0.2: the connection was lost"))
    machines = (Machines("m0", "10.0.0.1", "line\n"), lost)
    read = snapshot.take(cluster(Kubectl(nodes=silent, events=silent), machines=machines), (), failed=True)
    assert read.missing == (
        "nodes: m0: kubectl: exit code 1",
        "events: m0: kubectl: exit code 1",
        "logs of n0: 10.0.0.2: the connection was lost",
    )
    assert read.machines[0] == ReportedMachine("m0", "10.0.0.1", "control-plane")
    assert [log.title for log in read.logs] == ["kubelet on m0", "containerd on m0"]
    assert len(read.images) == 1


@pytest.mark.parametrize("pods", [[{}], [{"metadata": {"name": "a"}, "status": {"containerStatuses": 7}}], ["text"], "text"])
def test_take_answers_of_wrong_shape_are_named(pods: Any) -> None:
    read = snapshot.take(cluster(Kubectl(pods=pods)), (), failed=False)
    assert len(read.missing) == 1
    assert read.missing[0].startswith("pods: ")


def test_take_image_that_left_the_store_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(_: str) -> dict[str, str]:
        raise StoreError("no image web:latest")

    monkeypatch.setattr(snapshot, "_origins", gone)
    read = snapshot.take(cluster(), (), failed=False)
    assert read.missing == ("the image in the store: no image web:latest",)
    assert [image.origin for image in read.images] == [""]


def test_steps_are_those_of_plan_from_first_one_on_with_names_of_machines() -> None:
    spans = (
        KeptSpan("outer", "steps 1", SHOWN, 0.5, 9.0),
        KeptSpan("make 2 machines", "steps", STEP, 1.0, 2.0),
        KeptSpan("systemctl start kubelet", "m0", COMMAND, 3.0, 1.0),
        KeptSpan("start kubelets", "10.0.0.1 steps", STEP, 3.0, 1.5, failed=True),
    )
    assert tuple(snapshot.steps(spans, {"10.0.0.1": "m0"})) == (
        BootStep("make 2 machines", "", 0.0, 2.0),
        BootStep("start kubelets", "m0", 2.0, 1.5, failed=True),
    )


def test_failed_boot_keeps_journals_of_machines_that_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ssh:
        """Connections of which one fails."""

        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...
        def reachable(self) -> Any:
            return (Machines("m0", "10.0.0.1", "kubelet: failed\n"),), {"n0": NodeError("10.0.0.2: no answer")}

    monkeypatch.setattr(snapshot, "SshConnections", Ssh)
    read = snapshot.of_failed_boot("test-1", "web:latest", (Machine("10.0.0.1"),), (Machine("10.0.0.2"),), ())
    assert read.machines == (ReportedMachine("m0", "10.0.0.1", "control-plane"),)
    assert read.missing == ("10.0.0.2: no answer",)
    assert read.logs[0].text == "kubelet: failed"

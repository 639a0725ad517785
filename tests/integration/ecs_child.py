"""A command on machines of Aliyun ECS in a process of its own, killed at a moment that a test chooses.

Loaded before it is needed, once: the SDK takes most of the time of a short command.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path

import alibabacloud_ecs20140526.client  # noqa: F401 - loaded before processes are forked

from harness.nodes.cloud import MachineSpec, boot
from harness.nodes.cloud.aliyun import AliyunEcs
from harness.nodes.cloud.provider import CloudProvider
from tests.integration import dying, ecs

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def up(environment: Mapping[str, str], home: Path, name: str, spec: MachineSpec, moment: int, tally: Path) -> None:
    """Make two machines. Moments are what happens to files of the group."""
    os.environ.update(environment)
    ecs.reload_environment()
    nodes = CloudProvider(AliyunEcs(), spec, home)
    boot.wait = lambda *_: None
    dying.arm(moment, tally, "/aliyun.")
    nodes.up(name, 1, 1, image=spec.image)

"""A command on machines of a cloud in a process of its own, killed at a moment that a test chooses.

Loaded before it is needed, once: boto3 takes most of the time of a short command.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping
from pathlib import Path

import boto3  # noqa: F401 - loaded before processes are forked

from harness.nodes.cloud import MachineSpec
from harness.nodes.cloud.aws import Ec2
from harness.nodes.cloud.provider import CloudProvider
from tests.integration import dying

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([__name__])


def up(environment: Mapping[str, str], home: Path, name: str, spec: MachineSpec, moment: int, tally: Path) -> None:
    """Make two machines. Moments are what happens to files of the group."""
    os.environ.update(environment)
    nodes = CloudProvider(Ec2(), spec, home)
    dying.arm(moment, tally, "/aws.")
    nodes.up(name, 1, 1, image=spec.image)

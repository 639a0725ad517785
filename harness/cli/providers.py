"""Providers of machines, as options, environment and Clusterfiles name them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import completion
from harness.cli.options import option
from harness.cli.output import one_of
from harness.cli.program import Options
from harness.errors import Fault, InputError

if TYPE_CHECKING:
    from harness.clusterfile import CloudSettings, Clusterfile
    from harness.lifecycle.counted import MachineSource
    from harness.nodes import Provider
    from harness.nodes.cloud import MachineSpec

CONTAINER, AWS, ALIYUN = "container", "aws", "aliyun"
NAMES = (CONTAINER, AWS, ALIYUN)
_OF_CLUSTERFILES = {"AWS": AWS, "ALI_CLOUD": ALIYUN}
"""Providers that are clouds, as a Clusterfile names them."""

ProviderName = Annotated[
    str,
    typer.Option(
        "--provider",
        help="The provider that makes the machines: container, aws (Amazon EC2) or aliyun (Aliyun ECS).",
        metavar="NAME",
        autocompletion=completion.values(*NAMES),
    ),
]


@dataclasses.dataclass(frozen=True)
class CloudOptions(Options):
    """Machines of a cloud, in its own words."""

    size: Annotated[str | None, option("--size", help="Cloud: the type of the machines, as t3.large or ecs.g7.large.", metavar="TYPE")] = (
        None
    )
    image: Annotated[
        str | None,
        option("--image", help="Cloud: the image that the machines boot, as ami-0123456789abcdef0.", metavar="ID"),
    ] = None
    security_groups: Annotated[
        list[str] | None,
        option("--security-group", help="Cloud: a security group; may be repeated.  [default: the network's]", metavar="ID"),
    ] = None
    public: Annotated[bool, typer.Option("--public", help="Cloud: give the machines public addresses, and use these.")] = False

    def spec(self, provider: str, subnet: str | None) -> MachineSpec:
        """Machines in the words of the provider. Raises InputError with all that is missing or not valid."""
        from harness.clusterfile import CloudSettings

        options = {"size": "--size", "image": "--image", "subnet": "--subnet", "security_groups": "--security-group"}
        settings = CloudSettings(self.size, self.image, subnet, tuple(self.security_groups or ()), self.public)
        return _spec(provider, settings, options)

    def refuse(self) -> None:
        """Raises InputError for options that containers cannot have."""
        given = {"--size": self.size, "--image": self.image, "--security-group": self.security_groups, "--public": self.public}
        faults = [Fault(option, "is for machines of a cloud", "--provider aws or aliyun") for option, value in given.items() if value]
        if faults:
            raise InputError(faults)


def of(name: str) -> Provider:
    """The provider of a name, for what takes no machines. Raises UsageError for an unknown one, or for one that lacks its library."""
    if one_of(name, NAMES, "--provider") == CONTAINER:
        from harness.nodes.container import ContainerProvider

        return ContainerProvider()
    return cloud(name, None)


def cloud(name: str, spec: MachineSpec | None) -> Provider:
    """The provider of machines of a cloud. Raises UsageError when its library is missing, or no region is chosen."""
    from harness.nodes.cloud.provider import CloudProvider

    if name == ALIYUN:
        from harness.nodes.cloud.aliyun import AliyunEcs

        return CloudProvider(AliyunEcs(), spec)
    from harness.nodes.cloud.aws import Ec2

    return CloudProvider(Ec2(), spec)


def source(clusterfile: Clusterfile) -> MachineSource:
    """The source of machines for a Clusterfile with ``count``. Raises InputError for what a cloud needs and nothing says."""
    from harness.lifecycle.counted import MachineSource

    cluster = clusterfile.cluster
    assert cluster is not None
    name = _OF_CLUSTERFILES.get(cluster.provider or "")
    if name:
        at = f"{clusterfile.path or 'the Clusterfile'} .spec.cloud"
        places = {"size": f"{at}.size", "image": f"{at}.image", "subnet": f"{at}.subnet", "security_groups": f"{at}.securityGroups"}
        spec = _spec(name, cluster.cloud, places)
        return MachineSource(cloud(name, spec), lambda: spec.image)
    from harness.build import container_images
    from harness.nodes.container import IMAGE as NODE_IMAGE
    from harness.nodes.container import ContainerProvider

    provider = ContainerProvider()
    return MachineSource(provider, lambda: container_images.package_image(provider.client, NODE_IMAGE))


def _spec(provider: str, settings: CloudSettings, places: Mapping[str, str]) -> MachineSpec:
    """Machines of a cloud, with what only the environment says."""
    from harness.nodes.cloud import MachineSpec, ec2_words, ecs_words

    of_environment = tuple(word for word in os.environ.get("SLIPWAY_NODE_SECURITY_GROUPS", "").replace(",", " ").split() if word)
    spec = MachineSpec(
        settings.size or os.environ.get("SLIPWAY_NODE_SIZE", ""),
        settings.image or os.environ.get("SLIPWAY_NODE_IMAGE", ""),
        settings.subnet or os.environ.get("SLIPWAY_NODE_SUBNET") or None,
        settings.security_groups or of_environment,
        settings.public,
    )
    words = ecs_words if provider == ALIYUN else ec2_words
    faults = [Fault(places[key], message, hint) for key, message, hint in words.faults(spec)]
    if faults:
        raise InputError(faults)
    return spec

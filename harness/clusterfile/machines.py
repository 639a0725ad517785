"""Machines that a provider makes, as a Clusterfile describes them."""

from __future__ import annotations

from harness.clusterfile import CloudSettings
from harness.clusterfile.shapes import Field, FlagShape, ListShape, ParsedMapping, RecordShape, TextShape
from harness.clusterfile.yaml_nodes import FaultReport

MAKERS = ("CONTAINER", "AWS", "ALI_CLOUD")
"""Providers that make machines."""

_WORD = TextShape(pattern=r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", expected="letters, digits, '.', '_' and '-'")
CLOUD = RecordShape(
    {
        "size": Field(_WORD, help="The type of the machines, as t3.large or ecs.g7.large"),
        "image": Field(_WORD, help="The image that the machines boot, as ami-0123456789abcdef0"),
        "subnet": Field(_WORD, help="Their subnet; with AWS the account's default if it is left out"),
        "securityGroups": Field(
            ListShape(_WORD, one=True), help="Their security groups; with AWS those of the network if they are left out"
        ),
        "public": Field(FlagShape(), help="They get public addresses, by which they are reached"),
    }
)


def cloud(spec: ParsedMapping, report: FaultReport) -> CloudSettings:
    """The key ``cloud`` of a document Cluster. Containers and given machines have none of it."""
    mapping = spec.get("cloud")
    if mapping is None:
        return CloudSettings()
    provider = spec.at("provider")
    # Without one that is valid: a fault of the provider is reported at its own key.
    if spec.get("provider") in ("BAREMETAL", "CONTAINER") or provider is spec.node or provider.is_null or provider.content == "":
        report.fault(spec.at("cloud"), "is for machines of a cloud", "provider: AWS or ALI_CLOUD")
    return CloudSettings(
        mapping.get("size"),
        mapping.get("image"),
        mapping.get("subnet"),
        mapping.get("securityGroups", ()),
        mapping.get("public", False),
    )

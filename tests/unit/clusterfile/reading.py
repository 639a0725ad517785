"""How the tests of this folder read documents."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from harness.clusterfile import ClusterDocument, Clusterfile, Hook
from harness.clusterfile.parse import parse
from harness.errors import InputError

CASES = Path(__file__).parents[2] / "cases"

CLUSTERFILES = (
    "as-written/configuration/Clusterfile",
    "as-written/environment/Clusterfile",
    "config-overwrite/Clusterfile",
    "dashboard-port/Clusterfile",
    "sealer/apply/fixtures/cluster_file_for_test.yaml",
    "sealer/apply/fixtures/config_plugin_for_test.yaml",
    "sealer/utils/test/file/Clusterfile",
    "sealer/utils/test/file/v1Clusterfile",
)


def read(text: str) -> Clusterfile:
    return parse(textwrap.dedent(text), "Clusterfile")


def faults(text: str) -> list[tuple[str, str]]:
    """Where and what, of each fault."""
    with pytest.raises(InputError) as caught:
        read(text)
    return [(fault.where.removeprefix("Clusterfile:"), fault.message) for fault in caught.value.faults]


def hints(text: str) -> list[str | None]:
    with pytest.raises(InputError) as caught:
        read(text)
    return [fault.hint for fault in caught.value.faults]


def spec_text(spec: str, *, version: str = "slipway.dev/v1") -> str:
    """A Cluster with this spec, whose first line is line 6; an image is given."""
    head = f"apiVersion: {version}\nkind: Cluster\nmetadata: {{name: c}}\nspec:\n  image: shop:1.0\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def cluster(spec: str, *, version: str = "slipway.dev/v1") -> ClusterDocument:
    found = read(spec_text(spec, version=version)).cluster
    assert found is not None
    return found


def document(kind: str, spec: str, *, name: str = "n", version: str = "slipway.dev/v1") -> str:
    """A document whose spec begins at line 5."""
    head = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n"
    return head + textwrap.indent(textwrap.dedent(spec).strip("\n"), "  ") + "\n"


def hook(spec: str, *, kind: str = "Plugin", name: str = "n") -> Hook:
    (found,) = read(document(kind, spec, name=name)).hooks
    return found

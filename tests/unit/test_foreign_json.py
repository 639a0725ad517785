"""JSON of images, registries, archives and machines is read in one place, which bounds its depth, its numbers and its keys."""

from __future__ import annotations

import ast

from tests.unit import sources
from tests.unit.test_house import SOURCES

ALLOWED = {
    "harness.untrusted.json_reader": "the one place",
    "harness.sessions.reports": "output of its own commands, where only the standard library is",
    "harness.oci.store": "names and records that this program wrote, read at every command",
    "harness.oci.registry.credentials": "the user's own config.json",
    "harness.kubefile.words": "a line of a Kubefile, which ends at its line",
    "harness.clusterfile.serialize": "the user's own file, checked by the reader of Clusterfiles",
    "harness.assets.oci_runtime": "runs on nodes, without this package",
    "harness.templates.jinja_process": "lines of its own child process",
    "harness.templates.jinja": "that child process: what its parent asks",
    "harness.host.gotools": "what the installed Go says of itself",
    "harness.host.cluster_cache": "what this program remembers of a cluster",
    "harness.lifecycle.sites": "errors of its own commands; each that is none is caught",
    "harness.report.model": "pages that this program has written",
    "harness.lifecycle.logs": "its own values, which json.dumps has just made plain",
    "harness.lifecycle.kube.etcd": "ids of etcd have 64 bits without a sign, which the one place refuses; each error is caught",
}


def _uses_json(path_name: str) -> bool:
    tree = sources.tree(SOURCES[path_name])
    attributes = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))
    imported = any(
        isinstance(node, ast.ImportFrom)
        and node.module == "json"
        and {alias.name for alias in node.names} & {"loads", "load", "JSONDecoder"}
        for node in ast.walk(tree)
    )
    return imported or any(
        node.attr in ("loads", "load", "JSONDecoder") and isinstance(node.value, ast.Name) and node.value.id == "json"
        for node in attributes
    )


def test_json_parsing_is_limited_to_allowed_modules() -> None:
    found = {name for name in SOURCES if _uses_json(name)}
    assert found == set(ALLOWED), "read it with harness.untrusted.json_object"

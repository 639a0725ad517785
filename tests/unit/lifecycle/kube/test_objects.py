"""What a machine says that its API has said."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.errors import CommandError, NodeError, SlipwayError
from harness.lifecycle.kube import objects, readiness

NODE = {
    "kind": "Node",
    "metadata": {"name": "w1", "uid": "1", "labels": {"a": "b"}},
    "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}], "conditions": [{"type": "Ready", "status": "True"}]},
}


@pytest.mark.parametrize(
    ("addresses", "known"),
    [
        (["10.0.0.1"], ("10.0.0.1",)),
        (["10.0.0.1", "fd00::1"], ("10.0.0.1",)),
        (["fd00::1", "10.0.0.1", "fd00::2"], ("fd00::1", "fd00::2")),
        ([], ()),
    ],
)
def test_internal_addresses_are_of_first_family_only(addresses: list[str], known: tuple[str, ...]) -> None:
    entries = [{"type": "Hostname", "address": "w1"}, *({"type": "InternalIP", "address": address} for address in addresses)]
    assert objects.internal_addresses({"status": {"addresses": entries}}) == known


def listed(*items: Any) -> str:
    return json.dumps({"kind": "List", "items": list(items)})


def test_objects_are_returned_as_printed() -> None:
    assert objects.objects(listed(NODE), where="m1") == [NODE]
    assert objects.objects('{"items": null}', where="m1") == []
    assert objects.an_object(json.dumps(NODE), where="m1") == NODE


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "no",
        "5",
        "[]",
        "null",
        '{"items": 5}',
        '{"items": {"a": 1}}',
        '{"items": [5]}',
        '{"items": [null]}',
        "[" * 100_000,
        '{"a": 1e999}',
    ],
)
def test_objects_invalid_list_raises_node_error_with_machine(text: str) -> None:
    with pytest.raises(NodeError, match="the API of m1 gave an answer that is not understood") as told:
        objects.objects(text, where="m1")
    assert told.value.hint


@pytest.mark.parametrize(
    "change",
    [
        {"metadata": 3},
        {"metadata": {"name": 5}},
        {"metadata": {"name": "a", "namespace": []}},
        {"metadata": {"name": "a", "labels": []}},
        {"metadata": {"name": "a", "annotations": {"a": 1}}},
        {"metadata": {"name": "a", "generation": True}},
        {"metadata": {"name": "a", "ownerReferences": [5]}},
        {"spec": "x"},
        {"status": []},
        {"status": {"conditions": {"type": "Ready"}}},
        {"status": {"conditions": [{"type": "Ready", "status": {}}]}},
        {"status": {"addresses": [7]}},
        {"status": {"containerStatuses": [{"state": {"waiting": "x"}}]}},
        {"status": {"readyReplicas": "many"}},
    ],
)
def test_objects_field_of_wrong_type_raises_given_error(change: dict[str, Any]) -> None:
    with pytest.raises(CommandError, match="m1"):
        objects.objects(listed({**NODE, **change}), where="m1", error=CommandError)


def test_objects_missing_field_raises_node_error_when_read() -> None:
    (found,) = objects.objects(listed({"kind": "Node"}), where="m1")
    assert found.get("spec") is None
    with pytest.raises(NodeError, match=r"the API of m1 .*: it has no metadata"):
        readiness.title(found)


def test_config_map_data_keeps_case_of_keys_and_must_be_text() -> None:
    data = {"Config": "a", "config": "b", "name": "c", "items": "d"}
    assert objects.config_map(json.dumps({"data": data}), where="m1")["data"] == data
    assert objects.config_map("{}", where="m1")["data"] == {}
    others: tuple[Any, ...] = ([], 5, {"a": 5}, {"a": None})
    for wrong in others:
        with pytest.raises(NodeError, match="data does not hold text only"):
            objects.config_map(json.dumps({"data": wrong}), where="m1")
        with pytest.raises(NodeError, match="data does not hold text only"):
            objects.config_maps(listed({"data": wrong}), where="m1")


@pytest.mark.parametrize("text", ["[]", "5", "networking: 5", "apiServer: [a]", "{1: 2}", "a: &a [*a]"])
def test_configuration_invalid_text_raises_node_error(text: str) -> None:
    found = objects.config_map(json.dumps({"data": {"ClusterConfiguration": text}}), where="m1")
    with pytest.raises(NodeError):
        objects.configuration(found, "m1")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"gitVersion": 5}', '{"serverVersion": []}', '{"serverVersion": {}}'])
def test_version_unreadable_answer_raises_node_error(text: str) -> None:
    with pytest.raises(NodeError, match="m1"):
        objects.version(text, where="m1")


def test_version_is_read_from_both_answer_forms() -> None:
    assert objects.version('{"gitVersion": "v1.2.3"}', where="m1") == "v1.2.3"
    assert objects.version('{"serverVersion": {"gitVersion": "v1.2.3"}}', where="m1") == "v1.2.3"


@pytest.mark.parametrize("said", [{"items": [5]}, {"items": [{"metadata": {"name": []}}]}])
def test_readiness_get_invalid_objects_raise_error_of_api(said: dict[str, Any]) -> None:
    class Kubectl:
        where = "m1"

        def run(self, *_: str) -> str:
            return json.dumps(said)

    with pytest.raises(SlipwayError, match="the API of m1"):
        readiness.get(Kubectl(), "pods")


def test_maker_of_cyclic_owners_is_object_itself() -> None:
    def owned(name: str, by: str) -> dict[str, Any]:
        return {"kind": "Pod", "metadata": {"name": name, "uid": name, "ownerReferences": [{"uid": by, "controller": True}]}}

    items = (owned("a", "b"), owned("b", "a"), owned("c", "c"))
    assert readiness.maker(items[0], readiness.by_uid(items)) == "Pod a"
    assert readiness.maker(items[2], readiness.by_uid(items)) == "Pod c"

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from harness.oci.model import OCI_LAYER_GZIP, Descriptor, Platform, canonical_json, digest_of


def test_canonical_json_equal_values_give_equal_bytes() -> None:
    assert canonical_json({"b": 1, "a": ["ü", None]}) == canonical_json({"a": ["ü", None], "b": 1}) == b'{"a":["\\u00fc",null],"b":1}'


def test_canonical_json_non_utf8_file_name_survives_round_trip() -> None:
    name = os.fsdecode(b"\xff\xfe")
    assert json.loads(canonical_json([name])) == [name]


def test_digest_of_empty_bytes_is_known_sha256() -> None:
    assert digest_of(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("linux/amd64", "linux/amd64"),
        ("amd64", "linux/amd64"),
        ("x86_64", "linux/amd64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64"),
        ("arm", "linux/arm/v7"),
        ("Linux/ARM/v6", "linux/arm/v6"),
    ],
)
def test_platform_parse_normalizes_spelling(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "linux/", "/amd64", "a/b/c/d"])
def test_platform_parse_invalid_text_raises_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="is not a platform"):
        Platform.parse(text)


def test_platform_matches_other_spelling_but_not_other_variant() -> None:
    assert Platform("linux", "arm64", "v8").matches(Platform.parse("arm64"))
    assert not Platform("linux", "arm", "v6").matches(Platform("linux", "arm", "v7"))


def test_descriptor_json_round_trip_keeps_all_fields() -> None:
    whole = Descriptor(OCI_LAYER_GZIP, digest_of(b"x"), 1, {"a": "b"}, Platform("linux", "arm64", "v8"))
    assert Descriptor.from_json(whole.to_json()) == whole
    assert whole.to_json()["platform"] == {"os": "linux", "architecture": "arm64", "variant": "v8"}
    bare = Descriptor(OCI_LAYER_GZIP, digest_of(b"x"), 1)
    assert Descriptor.from_json(bare.to_json()) == bare
    assert set(bare.to_json()) == {"mediaType", "digest", "size"}


PLAIN = {"mediaType": "x", "digest": digest_of(b"x"), "size": 1}


@pytest.mark.parametrize(
    "value",
    [
        {},
        [],
        "text",
        None,
        {"mediaType": "x", "digest": "y"},
        *({**PLAIN, "size": size} for size in ("big", "1", -5, 1.5, True, None, 1 << 63, float("inf"), [1])),
        *({**PLAIN, "digest": digest} for digest in ("y", 7, None, "sha256:../../etc/passwd", digest_of(b"x") + "\n", "md5:" + "0" * 32)),
        *({**PLAIN, "mediaType": kind} for kind in (None, 7, ["x"])),
        *({**PLAIN, "annotations": annotations} for annotations in ("text", ["a"], 7, {"a": 1}, {"a": None}, {"a": {"b": "c"}})),
        *({**PLAIN, "platform": platform} for platform in ("linux", ["linux"], {"os": 7}, {"os": ["a"]}, {"os": "linux\x1b[2J"})),
        {**PLAIN, "artifactType": 7},
    ],
)
def test_descriptor_from_json_invalid_value_raises_value_error(value: Any) -> None:
    with pytest.raises(ValueError, match="not a descriptor"):
        Descriptor.from_json(value)

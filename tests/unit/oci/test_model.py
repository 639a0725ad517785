from __future__ import annotations

import json
import os
from typing import Any

import pytest

from harness.oci.model import OCI_LAYER_GZIP, Descriptor, Platform, canonical_json, digest_of


def test_equal_values_have_equal_bytes() -> None:
    assert canonical_json({"b": 1, "a": ["ü", None]}) == canonical_json({"a": ["ü", None], "b": 1}) == b'{"a":["\\u00fc",null],"b":1}'


def test_a_file_name_that_is_not_utf8_survives_json() -> None:
    name = os.fsdecode(b"\xff\xfe")
    assert json.loads(canonical_json([name])) == [name]


def test_the_digest_of_nothing_is_the_known_one() -> None:
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
def test_a_platform_has_one_spelling(text: str, normal: str) -> None:
    assert str(Platform.parse(text)) == normal


@pytest.mark.parametrize("text", ["", "linux/", "/amd64", "a/b/c/d"])
def test_what_is_no_platform_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a platform"):
        Platform.parse(text)


def test_platforms_match_in_every_spelling() -> None:
    assert Platform("linux", "arm64", "v8").matches(Platform.parse("arm64"))
    assert not Platform("linux", "arm", "v6").matches(Platform("linux", "arm", "v7"))


def test_a_descriptor_survives_json() -> None:
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
def test_what_is_no_descriptor_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a descriptor"):
        Descriptor.from_json(value)

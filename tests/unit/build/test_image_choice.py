"""Whether images that images/ defines come from their registry or are built."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pytest
import urllib3

from harness.build import image_choice
from harness.build.image_choice import AUTO, BUILT, MODES, UPSTREAM, ImageChoice
from harness.cloudimage import BuiltHere, EmbeddedImage
from harness.errors import StoreError
from harness.oci.model import OCI_MANIFEST
from harness.oci.reference import Reference
from harness.oci.registry.config import Registries
from harness.oci.registry.errors import RemoteError
from harness.oci.registry.guarded import NoLogins

UPSTREAMS = Reference.parse("registry.k8s.io/kube-proxy:v1.36.3")
OURS = Reference.parse("slipway.dev/runtime:13")


@pytest.mark.parametrize(
    ("mode", "answers", "builds", "may_build"),
    [
        (AUTO, True, False, True),
        (AUTO, False, True, True),
        (UPSTREAM, True, False, False),
        (UPSTREAM, False, False, False),
        (BUILT, True, True, True),
        (BUILT, False, True, True),
    ],
)
def test_image_choice_builds_by_mode_and_registry_answer(mode: str, answers: bool, builds: bool, may_build: bool) -> None:
    choice = ImageChoice(mode, lambda _: answers)
    assert (choice.builds(UPSTREAMS), choice.may_build(UPSTREAMS)) == (builds, may_build)


@pytest.mark.parametrize("mode", MODES)
def test_image_choice_slipway_image_is_built_without_asking_registry(mode: str) -> None:
    def ask(reference: Reference) -> bool:
        raise AssertionError(f"{reference} is asked for")

    choice = ImageChoice(mode, ask)
    assert choice.builds(OURS)
    assert choice.may_build(OURS)


@pytest.mark.parametrize("mode", [UPSTREAM, BUILT])
def test_image_choice_modes_upstream_and_built_ask_no_registry(mode: str) -> None:
    def ask(reference: Reference) -> bool:
        raise AssertionError(f"{reference} is asked for")

    ImageChoice(mode, ask).builds(UPSTREAMS)


def test_image_choice_auto_asks_each_registry_once() -> None:
    asked: list[str] = []

    def ask(reference: Reference) -> bool:
        asked.append(reference.domain)
        return False

    choice = ImageChoice(AUTO, ask)
    assert [choice.builds(Reference.parse(name)) for name in ("registry.k8s.io/a:1", "registry.k8s.io/b:1", "redis:8")] == [True] * 3
    assert asked == ["registry.k8s.io", "docker.io"]


class Answering:
    """Stands for a client of registries that fails in one way, or not at all."""

    def __init__(self, failure: Exception | None) -> None:
        self.failure = failure
        self.asked = 0

    def __call__(self, *_: Any, **__: Any) -> Answering:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def manifest(self, _: Reference) -> None:
        self.asked += 1
        if self.failure:
            raise self.failure


@pytest.mark.parametrize(
    ("failure", "answers"),
    [
        (None, True),
        (RemoteError("not found", status=404), True),
        (RemoteError("log in", status=401), True),
        (RemoteError("no route"), False),
        (RemoteError("overloaded", status=503), False),
        (StoreError("blocked by registries.conf"), False),
    ],
)
def test_probe_counts_refusal_as_answer_and_outage_as_none(
    failure: Exception | None, answers: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_choice, "Client", Answering(failure))
    assert image_choice.probe(Registries(), NoLogins(), memory=tmp_path / "asked.json")(UPSTREAMS) is answers


def test_probe_answer_is_cached_for_ten_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, now = Answering(RemoteError("no route")), [1000.0]
    monkeypatch.setattr(image_choice, "Client", client)

    def asked(minutes: float) -> int:
        """How often the registry was asked until so many minutes had passed."""
        now[0] = 1000 + minutes * 60
        assert not image_choice.probe(Registries(), NoLogins(), memory=tmp_path / "asked.json", clock=lambda: now[0])(UPSTREAMS)
        return client.asked

    assert [asked(0), asked(9), asked(11), asked(12), asked(-5)] == [1, 1, 2, 2, 3], "of a clock that was set back nothing is known"


@pytest.mark.parametrize("text", ["", "[]", "{", '{"registry.k8s.io": 7}', '{"registry.k8s.io": {"at": "x", "answers": true}}'])
def test_probe_invalid_memory_file_is_replaced(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_choice, "Client", Answering(None))
    (tmp_path / "asked.json").write_text(text)
    assert image_choice.probe(Registries(), NoLogins(), memory=tmp_path / "asked.json")(UPSTREAMS)
    assert json.loads((tmp_path / "asked.json").read_text())["registry.k8s.io"]["answers"] is True


def test_embedded_image_built_mark_round_trips_and_is_omitted_when_absent() -> None:
    plain = EmbeddedImage("registry.k8s.io/pause:3.10.2", "sha256:" + "a" * 64, OCI_MANIFEST, 100)
    marked = EmbeddedImage(plain.name, plain.digest, OCI_MANIFEST, 100, built=BuiltHere(("gcc 12.2",), "images/pause"))
    assert "built" not in plain.to_json()
    assert marked.to_json()["built"] == {"from": ["gcc 12.2"], "by": "images/pause"}
    assert EmbeddedImage.from_json(marked.to_json()) == marked
    assert plain.merged(marked).built == marked.built


@pytest.mark.parametrize("value", [7, [], {"from": "x", "by": "images/x"}, {"from": ["x"], "by": 7}, {"from": [7], "by": "x"}, {"by": "x"}])
def test_embedded_image_invalid_built_mark_is_refused(value: object) -> None:
    plain = EmbeddedImage("registry.k8s.io/pause:3.10.2", "sha256:" + "a" * 64, OCI_MANIFEST, 100)
    with pytest.raises((KeyError, TypeError, ValueError)):
        EmbeddedImage.from_json({**plain.to_json(), "built": value})


@pytest.mark.parametrize(
    ("answer", "lacks"), [(200, False), (403, False), (404, True), (410, True), (503, False), (urllib3.exceptions.HTTPError("x"), False)]
)
def test_site_lacks_file_only_when_site_says_so(monkeypatch: pytest.MonkeyPatch, answer: int | Exception, lacks: bool) -> None:
    asked: list[tuple[str, str]] = []

    def request(_: urllib3.PoolManager, method: str, url: str, **__: object) -> urllib3.HTTPResponse:
        asked.append((method, url))
        if isinstance(answer, Exception):
            raise answer
        return urllib3.HTTPResponse(status=answer)

    monkeypatch.setattr(urllib3.PoolManager, "request", request)
    assert image_choice.site_lacks("https://site.invalid/kubeadm") is lacks
    assert asked == [("HEAD", "https://site.invalid/kubeadm")]

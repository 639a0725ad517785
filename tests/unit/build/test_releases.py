"""What VERSION means where it is not written whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kubefile
from harness.build import image_choice, releases
from harness.errors import BuildError

IMAGES = Path(__file__).parents[3] / "images"
KUBEFILE = "FROM scratch\nARG VERSION=v1.36.3\nCOPY --from=slipway.dev/kubernetes-modules:${VERSION} /rootfs/ .\n"


def meant(version: str) -> str | None:
    return releases.whole(kubefile.parse(KUBEFILE, "Kubefile", build_args={"VERSION": version}), [IMAGES])


@pytest.mark.parametrize(
    ("asked", "found"), [("1.36", "v1.36.3"), ("v1.36", "v1.36.3"), ("1.36.3", "v1.36.3"), ("v1.36.3", None), ("anything", None)]
)
def test_whole_short_version_is_completed_from_module_folders(asked: str, found: str | None) -> None:
    assert meant(asked) == found


@pytest.mark.parametrize("asked", ["stable", "latest", ""])
def test_choose_stable_latest_or_major_takes_newest_version(asked: str) -> None:
    assert releases.choose(asked or "1", ["v1.36.3", "v1.37.2", "v1.4.9"]) == "v1.37.2"


def test_whole_unknown_version_raises_build_error_with_known_versions() -> None:
    with pytest.raises(BuildError, match=r"version 1\.35 does not exist") as caught:
        meant("1.35")
    assert "v1.36.3" in str(caught.value.hint)


def test_whole_version_of_other_image_is_left_unchanged() -> None:
    text = "FROM scratch\nARG VERSION=1.2\nCOPY --from=example.org/x:1.0 / .\n"
    assert releases.whole(kubefile.parse(text, "Kubefile"), [IMAGES]) is None


AUTO = """\
FROM scratch
ARG SOURCE=auto
ARG MIRROR=https://site.invalid
ARG VERSION=v1.36.3
COPY --from=slipway.dev/kubernetes-${SOURCE}:${VERSION} /rootfs/ .
"""


@pytest.mark.parametrize(
    ("mode", "answers", "found"),
    [("auto", True, "release"), ("auto", False, "modules"), ("upstream", None, "release"), ("built", None, "modules")],
)
def test_source_follows_mode_and_answer_of_release_site(
    monkeypatch: pytest.MonkeyPatch, mode: str, answers: bool | None, found: str
) -> None:
    asked: list[str] = []

    def ask(url: str) -> bool:
        asked.append(url)
        assert answers is not None
        return answers

    monkeypatch.setattr(image_choice, "site_answers", ask)
    assert releases.source(kubefile.parse(AUTO, "Kubefile"), mode) == found
    assert asked == ([] if answers is None else ["https://site.invalid/release/stable.txt"])


def test_source_given_as_build_argument_is_kept() -> None:
    assert releases.source(kubefile.parse(AUTO, "Kubefile", build_args={"SOURCE": "modules"}), "auto") is None

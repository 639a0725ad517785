"""What VERSION means where it is not written whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kubefile, log
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


SITE = "https://site.invalid"


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> str:
    """A download site that has the binaries of v1.37.2 and no other version."""
    served = {f"{SITE}/release/{name}.txt": "v1.37.2" for name in ("stable", "stable-1.37")}
    monkeypatch.setattr(image_choice, "site_answers", lambda _: True)
    monkeypatch.setattr(image_choice, "site_lacks", lambda url: url != f"{SITE}/release/v1.37.2/bin/linux/amd64/kubeadm")
    monkeypatch.setattr(releases, "_named", lambda url: (served.get(url), "200 OK" if url in served else "404 Not Found"))
    return SITE


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(log, "info", lines.append)
    return lines


def resolved(source: str, version: str, mode: str = "auto") -> dict[str, str]:
    text = AUTO.replace("SOURCE=auto", f"SOURCE={source}").replace("VERSION=v1.36.3", f"VERSION={version}")
    return releases.resolved(
        lambda arguments: kubefile.parse(text, "Kubefile", build_args=arguments, platform="linux/amd64"), [IMAGES], mode
    )


@pytest.mark.parametrize("version", ["v1.37.2", "1.37.2", "1.37", "stable"])
@pytest.mark.usefixtures("site")
def test_resolved_version_that_site_has_comes_from_site(said: list[str], version: str) -> None:
    assert {"VERSION": "v1.37.2", **resolved("auto", version)} == {"SOURCE": "release", "VERSION": "v1.37.2"}
    assert said == []


@pytest.mark.parametrize("version", ["v1.36.3", "1.36.3", "1.36"])
def test_resolved_auto_version_that_site_lacks_is_compiled_and_reported(site: str, said: list[str], version: str) -> None:
    assert resolved("auto", version) == {"SOURCE": "modules", "VERSION": "v1.36.3"}
    asked = "v1.36.3" if version.count(".") == 2 else version
    assert said == [f"{site} has no Kubernetes {asked}: it is compiled from its module (--build-arg SOURCE)"]


@pytest.mark.parametrize("version", ["v1.29.1", "1.29"])
@pytest.mark.parametrize(("source", "mode"), [("auto", "auto"), ("auto", "upstream"), ("release", "auto")])
def test_resolved_version_that_neither_has_lists_those_of_both(site: str, version: str, source: str, mode: str) -> None:
    with pytest.raises(BuildError) as caught:
        resolved(source, version, mode)
    both = (source, mode) == ("auto", "auto")
    way = "module folders have" if both else "--build-arg SOURCE=modules compiles"
    assert caught.value.message == f"{site} has no Kubernetes {version}{', and no module folder compiles it' if both else ''}"
    assert caught.value.hint == f"the newest version there is v1.37.2; {way} v1.36.3, v1.37.2"


@pytest.mark.usefixtures("site")
def test_resolved_release_version_that_site_lacks_is_not_compiled() -> None:
    with pytest.raises(BuildError, match=r"has no Kubernetes v1\.36\.3\n.*SOURCE=modules compiles v1\.36\.3, v1\.37\.2"):
        resolved("release", "v1.36.3")


@pytest.mark.parametrize("version", ["v1.29.1", "1.29.1", "1.29"])
@pytest.mark.usefixtures("site")
def test_resolved_modules_version_without_folder_lists_compiled_ones(version: str) -> None:
    with pytest.raises(BuildError, match=r"version v?1\.29\S* does not exist") as caught:
        resolved("modules", version)
    assert caught.value.hint == "available versions: v1.36.3, v1.37.2"


def test_resolved_site_that_does_not_answer_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_choice, "site_lacks", lambda _: False)
    assert resolved("release", "v1.29.1") == {}

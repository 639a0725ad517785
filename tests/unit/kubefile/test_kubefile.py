"""The Kubefile language: what each instruction means, and what is said of one that means nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kubefile
from harness.kubefile.checks import context_faults
from harness.kubefile.instructions import Copy, From, Run
from tests.unit.kubefile.reading import faults, parse

CASES = Path(__file__).parents[2] / "cases"


def test_parse_whole_kubefile_yields_instructions_with_lines() -> None:
    found = parse(
        """
        # a comment
        FROM kubernetes:v1.36.3

        copy imageList manifests
        Run tar xf app.tgz \\
            # a comment between

            && rm app.tgz
        CMD kubectl apply -f app.yaml
        """
    )
    assert found.path == "web/Kubefile"
    assert found.base == From(2, "FROM kubernetes:v1.36.3", "kubernetes:v1.36.3")
    assert [(item.line, item.name) for item in found.instructions] == [(2, "FROM"), (4, "COPY"), (5, "RUN"), (9, "CMD")]
    assert found.of(Copy)[0] == Copy(4, "COPY imageList manifests", ("imageList",), "manifests")
    assert found.of(Run)[0].command == "tar xf app.tgz     && rm app.tgz"
    assert found.commands == ("kubectl apply -f app.yaml",)
    assert found.warnings == ()


def test_parse_invalid_platform_is_refused() -> None:
    assert faults("FROM scratch", platform="amd64") == ["web/Kubefile: 'amd64' is not a platform"]


def test_parse_faults_are_all_reported_with_lines() -> None:
    text = """
        FORM scratch
        FROM scratch
        COYP a b
        COPY a
        RUN
        APP web web.yaml
        APPCMDS web kubectl apply
        LAUNCH wbe
        CMD ls
        FROM other
    """
    assert faults(text) == [
        "1: unknown instruction FORM",
        "3: unknown instruction COYP",
        "4: COPY a: a source and a destination are wanted",
        "5: RUN says nothing",
        "6: web.yaml: where an application's files are must be said",
        "7: APPCMDS web: a JSON list with a command is wanted",
        "8: LAUNCH must be the last instruction",
        "8: LAUNCH: application wbe does not exist",
        "9: CMD and LAUNCH (line 8) exclude each other",
        "10: a second FROM",
    ]


@pytest.mark.parametrize("path", sorted(CASES.rglob("Kubefile")), ids=lambda path: path.parent.name)
def test_parse_kubefile_of_case_gives_no_warnings(path: Path) -> None:
    assert kubefile.parse(path.read_text(), str(path)).warnings == ()


@pytest.mark.parametrize(("platform", "source"), [("linux/amd64", "amd64/bin"), ("linux/arm64", "arm64/bin")])
def test_parse_build_with_multi_arch_copies_folder_of_platform(platform: str, source: str) -> None:
    path = CASES / "sealer/build/fixtures/build_with_multi_arch/Kubefile"
    found = kubefile.parse(path.read_text(), str(path), platform=platform)
    assert found.of(Copy)[0] == Copy(2, f"COPY {source} bin", (source,), "bin")
    assert context_faults(found.path, found.instructions, path.parent) == []


def test_config_overwrite_launches_both_charts() -> None:
    path = CASES / "config-overwrite/Kubefile"
    assert kubefile.parse(path.read_text(), str(path)).commands == (
        "helm install mysql charts/mysql -f etc/mysql-values.yaml",
        "helm install redis charts/redis -f etc/redis-values.yaml",
    )


def test_parse_cmd_keeps_written_commands_and_arg_values_apart() -> None:
    text = """FROM scratch
    ARG V=1
    ARG Unset
    ARG Unused=2
    ENV E=3
    CMD helm install web web-$(V)-$ARCH.tgz --set e=$E
    CMD echo ${V} $Unset '$V'
    """
    found = parse(text)
    assert found.commands == ("helm install web web-1-amd64.tgz --set e=$E", "echo 1 $Unset '$V'")
    assert found.written_commands == ("helm install web web-${V}-amd64.tgz --set e=$E", "echo ${V} $Unset '$V'")
    assert found.command_arguments == {"V": "1", "Unset": ""}

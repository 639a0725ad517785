"""ARG, ENV and the platform's names: what a variable stands for at each instruction."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import kubefile
from harness.errors import Fault, InputError
from harness.kubefile.instructions import Arg, Copy, Run
from tests.unit.kubefile.reading import fault, parse

CHOICE = "FROM scratch\n# one of: flannel none\nARG NETWORK=flannel\nARG OTHER=x\nCOPY parts/${NETWORK} etc/"


def test_arg_value_among_commented_choices_is_accepted() -> None:
    assert parse(CHOICE).of(Copy)[0].sources == ("parts/flannel",)
    assert parse(CHOICE, build_args={"NETWORK": "none", "OTHER": "anything"}).of(Copy)[0].sources == ("parts/none",)


@pytest.mark.parametrize("value", ["calico", "", "Flannel"])
def test_arg_value_outside_commented_choices_is_refused_with_choices(value: str, tmp_path: Path) -> None:
    (tmp_path / "parts/flannel").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        kubefile.parse(CHOICE, "Kubefile", build_args={"NETWORK": value}, context=tmp_path)
    assert caught.value.faults == (Fault("Kubefile:3", f"NETWORK={value}: not an allowed value", "one of flannel, none"),)


def test_arg_choices_apply_only_to_next_line() -> None:
    assert parse("FROM scratch\n# one of: a b\n\nARG X=c").of(Arg)[0].values == {"X": "c"}
    assert parse("FROM scratch\n# one of: a b\nRUN x\nARG X=c").of(Arg)[0].values == {"X": "c"}
    # Without a default it may have none of them.
    assert parse("FROM scratch\n# one of: a b\nARG X").of(Arg)[0].values == {"X": None}


@pytest.mark.parametrize(
    ("text", "args", "expected"),
    [
        ("ARG V=1\nFROM k:$V", {}, "k:1"),
        ("ARG V=1\nFROM k:$V", {"V": "2"}, "k:2"),
        ("ARG V\nFROM k:${V:-3}", {}, "k:3"),
        ("ARG N=k,V=4\nFROM $N:$V", {}, "k:4"),
        ("ARG N=k, V=4\nFROM $N:$V", {}, "k:4"),
        ("ARG N=k V=5\nFROM $N:$V", {}, "k:5"),
        ("ARG L='a,b=c'\nFROM k:5", {}, "k:5"),
        ("ARG A=1\nARG B=${A}x\nFROM k:$B", {}, "k:1x"),
    ],
)
def test_arg_before_from_is_expanded_in_from(text: str, args: dict[str, str], expected: str) -> None:
    assert parse(text, build_args=args).base.image == expected


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("ARG A=1,B=2", {"A": "1", "B": "2"}),
        ("ARG A=1,2", {"A": "1,2"}),
        ("ARG A=x=1,y=2", {"A": "x=1,y=2"}),
        ("ARG A='1,B=2'", {"A": "1,B=2"}),
        ('ARG A="b c" D', {"A": "b c", "D": None}),
        ("ARG Version=4.0.0", {"Version": "4.0.0"}),
        ("ARG D=x", {"D": "given"}),
    ],
)
def test_arg_values_are_split_and_overridden_by_build_args(text: str, values: dict[str, str | None]) -> None:
    assert parse(f"FROM scratch\n{text}", build_args={"D": "given"} if "D=" in text else {}).of(Arg)[0].values == values


def test_arg_before_from_is_empty_until_repeated() -> None:
    found = parse("ARG V=1\nFROM scratch\nLABEL a=$V\nARG V\nLABEL b=$V\nARG V=2\nLABEL c=$V")
    assert found.labels == {"a": "", "b": "1", "c": "2"}
    assert [str(warning) for warning in found.warnings] == [
        "web/Kubefile:3: $V is not defined and expands to nothing\n  hint: declare it: ARG V"
    ]


def test_build_arg_value_is_not_in_instruction_text() -> None:
    found = parse("FROM scratch\nARG TOKEN=none\nRUN curl -H $TOKEN", build_args={"TOKEN": "secret"})
    assert found.of(Run)[0].environment["TOKEN"] == "secret"
    assert [item.text for item in found.instructions] == ["FROM scratch", "ARG TOKEN=none", "RUN curl -H $TOKEN"]


def test_env_takes_precedence_over_arg() -> None:
    assert parse("FROM scratch\nENV V=env\nARG V=arg\nLABEL a=$V").labels == {"a": "env"}


def test_undeclared_build_arg_warns() -> None:
    found = parse("FROM scratch\nARG A", build_args={"A": "1", "VERSOIN": "2", "HTTP_PROXY": "p"})
    assert [warning.message for warning in found.warnings] == ["--build-arg VERSOIN: no ARG VERSOIN is there"]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux/amd64", {"a": "amd64", "b": "amd64", "c": "linux", "d": "linux/amd64", "e": ""}),
        ("linux/arm/v7", {"a": "arm", "b": "arm", "c": "linux", "d": "linux/arm/v7", "e": "v7"}),
    ],
)
def test_platform_variables_are_expanded(platform: str, expected: dict[str, str]) -> None:
    text = "FROM scratch\nLABEL a=$ARCH b=${TARGETARCH} c=$TARGETOS d=$TARGETPLATFORM e=$TARGETVARIANT"
    assert parse(text, platform=platform).labels == expected


def test_arg_default_does_not_override_platform_variable() -> None:
    assert parse("FROM scratch\nARG TARGETARCH=x\nLABEL a=$TARGETARCH", platform="linux/arm64").labels == {"a": "arm64"}
    assert parse("FROM scratch\nARG ARCH\nLABEL a=$ARCH", build_args={"ARCH": "riscv64"}).labels == {"a": "riscv64"}


def test_undefined_variable_is_empty_and_reported() -> None:
    found = parse("FROM scratch\nARG VERSION=1\nCOPY a$VERSOIN b\nENV X=${NONE}")
    assert found.of(Copy)[0].sources == ("a",)
    assert [(warning.where, warning.message, warning.hint) for warning in found.warnings] == [
        ("web/Kubefile:3", "$VERSOIN is not defined and expands to nothing", "did you mean $VERSION?"),
        ("web/Kubefile:4", "$NONE is not defined and expands to nothing", "declare it: ARG NONE"),
    ]


def test_cmd_shell_expansion_of_arg_is_refused_and_of_env_is_kept() -> None:
    assert fault("FROM scratch\nARG V=1.2\nCMD echo ${V%.*}").where == "web/Kubefile:3"
    assert parse("FROM scratch\nENV V=1.2\nCMD echo ${V%.*}").commands == ("echo ${V%.*}",)


def test_unset_required_variable_is_refused_with_its_message() -> None:
    assert fault('FROM scratch\nCOPY "a${V:?say which}" b').message == "V is not set: say which"


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch\nENV A=xx\n" + "ENV A=$A$A\n" * 60,
        "ARG A=xx\n" + "ARG A=$A$A\n" * 60 + "FROM scratch\n",
        "FROM scratch\nENV A=" + "x" * 100_000 + "\n" + "".join(f"ENV A{number}=$A\n" for number in range(300)),
        "FROM scratch\nCMD " + "[" * 100_000 + "\n",
        "FROM scratch\nENV A=" + "${B:-" * 3000 + "}" * 3000 + "\n",
    ],
    ids=["env-doubles", "arg-doubles", "many-values", "lists", "nested"],
)
def test_parse_exploding_variables_or_nested_lists_raise_input_error(text: str) -> None:
    with pytest.raises(InputError):
        kubefile.parse(text, "Kubefile")

"""The Kubefile language: what each instruction means, and what is said of one that means nothing."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from harness import kubefile
from harness.errors import Fault, InputError
from harness.kubefile import (
    AppCmds,
    AppEnv,
    AppInstruction,
    Arg,
    Cmd,
    Cmds,
    Cni,
    Copy,
    Csi,
    Env,
    From,
    Kubefile,
    KubeVersion,
    Label,
    Launch,
    Maintainer,
    Run,
)

CASES = Path(__file__).parents[2] / "cases"


def parse(text: str, *, build_args: dict[str, str] | None = None, platform: str = "linux/amd64") -> Kubefile:
    return kubefile.parse(textwrap.dedent(text).lstrip("\n"), "web/Kubefile", build_args=build_args, platform=platform)


def faults(text: str, **options: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(text, **options)  # type: ignore[arg-type]
    return [f"{fault.where.removeprefix('web/Kubefile:')}: {fault.message}" for fault in caught.value.faults]


def fault(text: str) -> Fault:
    with pytest.raises(InputError) as caught:
        parse(text)
    assert len(caught.value.faults) == 1, caught.value
    return caught.value.faults[0]


def copy(rest: str) -> Copy:
    return parse(f"FROM scratch\nENV V=1.2 EMPTY=\nCOPY {rest}").of(Copy)[0]


# Lines


def test_a_whole_kubefile_reads_as_written() -> None:
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


@pytest.mark.parametrize(
    "text",
    [
        "FROM scratch\nRUN a \\\n b",
        "FROM scratch\r\nRUN a \\\r\n b\r\n",
        "\ufeffFROM scratch\nRUN a \\\n b",
        "FROM scratch\nRUN a \\  \n b",
        "from scratch\n  run\ta \\\n b",
        "# escape=`\nFROM scratch\nRUN a `\n b",
        "# syntax=docker/dockerfile:1\n# Escape = `\nFROM scratch\nRUN a `\n b",
        "FROM scratch\nRUN a \\\n\n# no\n b",
        "FROM scratch\nRUN a \\\n b \\",
        "FROM scratch\n\\\n\nRUN a \\\n b",
    ],
)
def test_the_same_instruction_in_every_dress(text: str) -> None:
    assert [item.command for item in kubefile.parse(text, "K").of(Run)] == ["a  b"]


def test_an_escaped_escape_continues_nothing() -> None:
    assert parse("FROM scratch\nRUN echo a\\\\\nRUN b").of(Run)[0].command == "echo a\\\\"


def test_the_escape_directive_counts_only_at_the_top() -> None:
    assert parse("# a comment\n# escape=`\nFROM scratch\nRUN a \\\n b").of(Run)[0].command == "a  b"
    assert fault("# escape=x\nFROM scratch").message == "'x' cannot be the escape character"
    assert fault("# escape=`\n# escape=`\nFROM scratch").message == "the directive escape is given twice"


def test_here_documents_of_run() -> None:
    found = parse("FROM scratch\nRUN <<EOF\n  a\n# kept\nEOF\nRUN cat <<'END' > f\nx $Y\nEND\nRUN <<-EOF\n\ta\n\tEOF\nRUN b")
    assert [item.command for item in found.of(Run)] == ["  a\n# kept\n", "cat <<'END' > f\nx $Y\nEND\n", "a\n", "b"]
    assert [item.line for item in found.of(Run)] == [2, 6, 9, 12]


def test_a_here_document_must_end() -> None:
    assert fault("FROM scratch\nRUN <<EOF\na\nb").message == "the here-document is not closed: no line EOF"
    assert fault("FROM scratch\nCOPY <<EOF file\na\nEOF").message == "COPY cannot read a here-document"


# FROM and ARG


CHOICE = "FROM scratch\n# one of: flannel none\nARG NETWORK=flannel\nARG OTHER=x\nCOPY parts/${NETWORK} etc/"


def test_an_argument_may_be_one_of_the_values_of_the_comment_above_it() -> None:
    assert parse(CHOICE).of(Copy)[0].sources == ("parts/flannel",)
    assert parse(CHOICE, build_args={"NETWORK": "none", "OTHER": "anything"}).of(Copy)[0].sources == ("parts/none",)


@pytest.mark.parametrize("value", ["calico", "", "Flannel"])
def test_another_value_is_one_fault_that_tells_those_there_are(value: str, tmp_path: Path) -> None:
    (tmp_path / "parts/flannel").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        kubefile.parse(CHOICE, "Kubefile", build_args={"NETWORK": value}, context=tmp_path)
    assert caught.value.faults == (Fault("Kubefile:3", f"NETWORK={value}: not an allowed value", "one of flannel, none"),)


def test_choices_are_of_the_line_below_them_only() -> None:
    assert parse("FROM scratch\n# one of: a b\n\nARG X=c").of(Arg)[0].values == {"X": "c"}
    assert parse("FROM scratch\n# one of: a b\nRUN x\nARG X=c").of(Arg)[0].values == {"X": "c"}
    # Without a default it may have none of them.
    assert parse("FROM scratch\n# one of: a b\nARG X").of(Arg)[0].values == {"X": None}


def test_from() -> None:
    found = parse("ARG V=1\nFROM --platform=linux/arm64 reg.io/kube:v$V AS base")
    assert found.base == From(2, "FROM --platform=linux/arm64 reg.io/kube:v1 AS base", "reg.io/kube:v1", "linux/arm64", "base")


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
def test_args_before_from(text: str, args: dict[str, str], expected: str) -> None:
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
def test_arg_values(text: str, values: dict[str, str | None]) -> None:
    assert parse(f"FROM scratch\n{text}", build_args={"D": "given"} if "D=" in text else {}).of(Arg)[0].values == values


def test_an_arg_before_from_must_be_repeated_behind_it() -> None:
    found = parse("ARG V=1\nFROM scratch\nLABEL a=$V\nARG V\nLABEL b=$V\nARG V=2\nLABEL c=$V")
    assert found.labels == {"a": "", "b": "1", "c": "2"}
    assert [str(warning) for warning in found.warnings] == [
        "web/Kubefile:3: $V is not defined and expands to nothing\n  hint: declare it: ARG V"
    ]


def test_the_value_of_a_build_arg_is_not_shown() -> None:
    found = parse("FROM scratch\nARG TOKEN=none\nRUN curl -H $TOKEN", build_args={"TOKEN": "secret"})
    assert found.of(Run)[0].environment["TOKEN"] == "secret"
    assert [item.text for item in found.instructions] == ["FROM scratch", "ARG TOKEN=none", "RUN curl -H $TOKEN"]


def test_env_comes_before_arg() -> None:
    assert parse("FROM scratch\nENV V=env\nARG V=arg\nLABEL a=$V").labels == {"a": "env"}


def test_a_build_arg_that_nothing_declares_is_told() -> None:
    found = parse("FROM scratch\nARG A", build_args={"A": "1", "VERSOIN": "2", "HTTP_PROXY": "p"})
    assert [warning.message for warning in found.warnings] == ["--build-arg VERSOIN: no ARG VERSOIN is there"]


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux/amd64", {"a": "amd64", "b": "amd64", "c": "linux", "d": "linux/amd64", "e": ""}),
        ("linux/arm/v7", {"a": "arm", "b": "arm", "c": "linux", "d": "linux/arm/v7", "e": "v7"}),
    ],
)
def test_the_platform_has_names(platform: str, expected: dict[str, str]) -> None:
    text = "FROM scratch\nLABEL a=$ARCH b=${TARGETARCH} c=$TARGETOS d=$TARGETPLATFORM e=$TARGETVARIANT"
    assert parse(text, platform=platform).labels == expected


def test_a_default_does_not_hide_the_platform() -> None:
    assert parse("FROM scratch\nARG TARGETARCH=x\nLABEL a=$TARGETARCH", platform="linux/arm64").labels == {"a": "arm64"}
    assert parse("FROM scratch\nARG ARCH\nLABEL a=$ARCH", build_args={"ARCH": "riscv64"}).labels == {"a": "riscv64"}


def test_what_is_no_platform() -> None:
    assert faults("FROM scratch", platform="amd64") == ["web/Kubefile: 'amd64' is not a platform"]


# COPY and ADD


@pytest.mark.parametrize(
    ("rest", "sources", "destination"),
    [
        ("a b", ("a",), "b"),
        ("a b/", ("a",), "b/"),
        ("a .", ("a",), ""),
        ("a ./", ("a",), ""),
        ("a /", ("a",), ""),
        ("a ./b", ("a",), "b"),
        ("a /usr/bin/", ("a",), "usr/bin/"),
        ("a b/./c//d/", ("a",), "b/c/d/"),
        ("a b c/", ("a", "b"), "c/"),
        ("a b manifests", ("a", "b"), "manifests"),
        ("a/* .", ("a/*",), ""),
        ('["a b", "c d/"]', ("a b",), "c d/"),
        ('"a b" c', ("a b",), "c"),
        ("app-$V.tgz charts/app-${V}.tgz", ("app-1.2.tgz",), "charts/app-1.2.tgz"),
        ("${ARCH}/bin bin", ("amd64/bin",), "bin"),
        ("https://x.io/a.yaml manifests/", ("https://x.io/a.yaml",), "manifests/"),
    ],
)
def test_copy(rest: str, sources: tuple[str, ...], destination: str) -> None:
    found = copy(rest)
    assert (found.sources, found.destination) == (sources, destination)


def test_copy_flags() -> None:
    assert copy("--chown=1:2 --chmod=755 --link a b") == Copy(3, "COPY --chown=1:2 --chmod=755 a b", ("a",), "b", None, False, "1:2", 0o755)
    assert copy("--from=reg.io/tools:$V /bin/x /bin/y bin/") == Copy(
        3, "COPY --from=reg.io/tools:1.2 /bin/x /bin/y bin/", ("/bin/x", "/bin/y"), "bin/", "reg.io/tools:1.2"
    )


def test_add_says_so() -> None:
    found = parse("FROM scratch\nADD https://x.io/a.tgz b.tgz charts/").of(Copy)[0]
    assert (found.name, found.add, found.urls) == ("ADD", True, ("https://x.io/a.tgz",))


def test_a_url_may_have_a_checksum() -> None:
    digest = f"sha256:{'0' * 64}"
    found = parse(f"FROM scratch\nADD --checksum={digest} https://x.io/a.tgz charts/").of(Copy)[0]
    assert (found.checksum, found.text) == (digest, f"ADD --checksum={digest} https://x.io/a.tgz charts/")


@pytest.mark.parametrize(
    ("rest", "message", "hint"),
    [
        ("a", "COPY a: a source and a destination are wanted", "COPY source... destination"),
        ("--from=img", "COPY : a source and a destination are wanted", "COPY source... destination"),
        ("a b c", "several sources for the destination c, which is not a folder", "end it with a slash: c/"),
        ("a ../b", "the destination ../b is outside the rootfs", "it is always relative to the rootfs"),
        ("a b/../../c", "the destination b/../../c is outside the rootfs", "it is always relative to the rootfs"),
        ("$EMPTY b", "COPY $EMPTY b: a source is empty", "give its variable a value: ARG NAME=VALUE, or --build-arg"),
        ("--form=x a b", "unknown flag --form", "did you mean --from?"),
        ("--checksum=sha256:0 https://a/b c", "--checksum=sha256:0 is not a SHA-256 digest", "--checksum=sha256: and 64 digits 0-9, a-f"),
        (f"--checksum=sha256:{'0' * 64} a b", "--checksum goes with exactly one URL", "one ADD for each file"),
        (f"--checksum=sha256:{'0' * 64} https://a/b https://a/c d/", "--checksum goes with exactly one URL", "one ADD for each file"),
        ("--chmod=u+x a b", "--chmod=u+x: octal digits are wanted", "--chmod=755"),
        ("--chmod a b", "--chmod needs a value", "--chmod=VALUE"),
        ("--from= a b", "--from names no image", "COPY --from=IMAGE source... destination"),
        ("--from=0 a b", "--from=0 names a build stage; a Kubefile has none", "name a container image"),
        (
            "git@github.com:a/b.git c",
            "git@github.com:a/b.git: git sources are not supported",
            "clone it into the build context, or ADD the URL of an archive",
        ),
        (
            "https://github.com/a/b.git#main c",
            "https://github.com/a/b.git#main: git sources are not supported",
            "clone it into the build context, or ADD the URL of an archive",
        ),
        (
            "https://x.io/ manifests/",
            "https://x.io/: no file name at the end of the URL",
            "name the destination file, without a / at its end",
        ),
        ('["a", "b"', "not a JSON list: Expecting ',' delimiter at character 10", None),
        ("${A b", "${A: '}' is missing", None),
    ],
)
def test_copy_faults(rest: str, message: str, hint: str | None) -> None:
    found = fault(f"FROM scratch\nENV EMPTY=\nCOPY {rest}")
    assert (found.where, found.message, found.hint) == ("web/Kubefile:3", message, hint)


def test_a_stage_is_no_image() -> None:
    assert fault("FROM scratch AS base\nCOPY --from=base a b").message == "--from=base names a build stage; a Kubefile has none"
    assert fault("FROM scratch\nADD --from=x a b").message == "ADD cannot take files of an image"


# RUN, ENV, LABEL


def test_run_keeps_its_text_and_knows_its_environment() -> None:
    found = parse(
        """
        FROM scratch
        RUN echo $A ${B:-x}
        ARG A=1 NOT
        ENV B="b c"
        RUN ["echo", "$A"]
        ENV A=env
        RUN [ -f x ] || touch x
        """,
        build_args={"http_proxy": "http://p"},
        platform="linux/arm64",
    ).of(Run)
    platform = {"ARCH": "arm64", "TARGETARCH": "arm64", "TARGETOS": "linux", "TARGETPLATFORM": "linux/arm64", "TARGETVARIANT": ""}
    assert [item.command for item in found] == ["echo $A ${B:-x}", ("echo", "$A"), "[ -f x ] || touch x"]
    assert [item.environment for item in found] == [
        {"http_proxy": "http://p", **platform},
        {"http_proxy": "http://p", **platform, "A": "1", "B": "b c"},
        {"http_proxy": "http://p", **platform, "A": "env", "B": "b c"},
    ]


@pytest.mark.parametrize(
    ("rest", "values"),
    [
        ("A=1", {"A": "1"}),
        ("A=1 B=2", {"A": "1", "B": "2"}),
        ("A 1 2  3", {"A": "1 2  3"}),
        ("DOMAIN aliyun.com", {"DOMAIN": "aliyun.com"}),
        ("A='1 2' B=\"3 4\"", {"A": "1 2", "B": "3 4"}),
        (r"A=1\ 2", {"A": "1 2"}),
        ("A=", {"A": ""}),
        ("URL=http://x?a=b", {"URL": "http://x?a=b"}),
        ("OLD=new B=$OLD", {"OLD": "new", "B": "old"}),
        ("A=$NONE", {"A": ""}),
        ("A='$OLD' B=\\$OLD", {"A": "$OLD", "B": "$OLD"}),
        ("etc-dir=/data", {"etc-dir": "/data"}),
    ],
)
def test_env(rest: str, values: dict[str, str]) -> None:
    found = parse(f"FROM scratch\nENV OLD=old\nENV {rest}")
    assert found.of(Env)[1].values == values
    assert found.environment == {"OLD": "old", **values}


def test_labels_and_what_sealer_means_by_them() -> None:
    found = parse(
        """
        FROM scratch
        MAINTAINER Some One <one@example.org>
        LABEL "a.b"="c d" e=f
        LABEL app.alpha.sealer.io/supported-kube-version=">=1.18 <1.23"
        CNI calico local://calico
        CSI nfs local://nfs
        """
    )
    assert found.of(Maintainer)[0].person == "Some One <one@example.org>"
    assert found.of(Label)[0].values == {"a.b": "c d", "e": "f"}
    assert found.kube_version == ">=1.18 <1.23"
    assert found.labels["cluster.alpha.sealer.io/kube-cni-calico"] == "true"
    assert found.labels["cluster.alpha.sealer.io/kube-csi-nfs"] == "true"
    assert [(type(item), item.name, item.app) for item in found.of(AppInstruction)] == [(Cni, "CNI", "calico"), (Csi, "CSI", "nfs")]


def test_kubeversion() -> None:
    found = parse("FROM scratch\nKUBEVERSION 1.22 - 1.24")
    assert found.of(KubeVersion)[0].range == found.kube_version == "1.22 - 1.24"
    assert "'new' is not a range of versions" in fault("FROM scratch\nKUBEVERSION new").message
    assert "is not a range" in fault("FROM scratch\nLABEL app.alpha.sealer.io/supported-kube-version=new").message


# Applications and launch


def test_applications() -> None:
    found = parse(
        """
        FROM kubernetes:v1.36.3
        ARG V=3
        APP web local://${ARCH}/web https://x.io/${V}/extra.yaml
        APP ["db", "local://my db"]
        APPENV web A=1 B="2 3"
        APPENV db V=$V
        APPCMDS web ["kubectl", "apply", "-f", "web-$V.yaml"]
        LAUNCH web db base-app
        """
    )
    assert found.of(AppInstruction)[0] == AppInstruction(
        3, "APP web local://amd64/web https://x.io/3/extra.yaml", "web", ("amd64/web", "https://x.io/3/extra.yaml")
    )
    assert found.of(AppInstruction)[0].folder == "application/apps/web/"
    assert found.of(AppInstruction)[0].urls == ("https://x.io/3/extra.yaml",)
    assert found.of(AppInstruction)[1].sources == ("my db",)
    assert [(item.app, item.values) for item in found.of(AppEnv)] == [("web", {"A": "1", "B": "2 3"}), ("db", {"V": "3"})]
    assert found.of(AppCmds)[0].command == "kubectl apply -f web-3.yaml"
    assert found.of(Launch)[0].apps == found.launch == ("web", "db", "base-app")
    assert [(item.app, item.instruction, item.where) for item in found.deferred] == [("base-app", "LAUNCH", "web/Kubefile:8")]


@pytest.mark.parametrize(
    ("rest", "commands"),
    [
        ("kubectl apply -f x", ("kubectl apply -f x",)),
        ("kubectl apply -f a, kubectl apply -f b", ("kubectl apply -f a", "kubectl apply -f b")),
        ("kubectl apply -f a,kubectl apply -f b", ("kubectl apply -f a", "kubectl apply -f b")),
        ("kubectl get nodes, ls -l,", ("kubectl get nodes", "ls -l")),
        ("helm install x charts/x --set a=1,b=2", ("helm install x charts/x --set a=1,b=2",)),
        ("kubectl get pods,nodes -A", ("kubectl get pods,nodes -A",)),
        ("echo 'a, b' \"c, d\" e\\, f", ("echo 'a, b' \"c, d\" e\\, f",)),
        ('["kubectl apply -f a, b", "ls"]', ("kubectl apply -f a, b", "ls")),
        ("[ -f x ] && ls", ("[ -f x ] && ls",)),
        ("helm install x-${V}.tgz --set d=$DOMAIN -n $NS", ("helm install x-3.tgz --set d=$DOMAIN -n $NS",)),
        ("ls bin-$ARCH", ("ls bin-amd64",)),
    ],
)
def test_cmd(rest: str, commands: tuple[str, ...]) -> None:
    assert parse(f"FROM scratch\nARG V=3\nENV DOMAIN=x.io\nCMD {rest}").of(Cmd)[0].commands == commands


def test_several_cmd_accumulate() -> None:
    found = parse('FROM scratch\nCMD a\nRUN x\nCMD b, c\nCMDS ["d $E"]')
    assert found.commands == ("a", "b", "c", "d $E")
    assert found.of(Cmds)[0].commands == ("d $E",)


@pytest.mark.parametrize("rest", ["web db", '["web", "db"]', '["web","db"]', "  web   db  "])
def test_launch_in_both_forms(rest: str) -> None:
    assert parse(f"FROM scratch\nAPP web local://w\nAPP db local://d\nLAUNCH {rest}").launch == ("web", "db")


def test_a_second_definition_is_told() -> None:
    found = parse("FROM scratch\nCNI net local://a\nCNI net local://b")
    assert [warning.where for warning in found.warnings] == ["web/Kubefile:3"]


def test_appcmds_of_several_commands_is_told() -> None:
    found = parse('FROM scratch\nAPP a local://a\nAPPCMDS a ["kubectl apply -f a", "kubectl apply -f b"]')
    assert [warning.hint for warning in found.warnings] == ['write one element: ["kubectl apply -f a && kubectl apply -f b"]']


# Faults


def test_every_fault_at_once_with_its_line() -> None:
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


@pytest.mark.parametrize(
    ("text", "where", "message", "hint"),
    [
        ("", "1", "FROM is missing", "begin with FROM kubernetes:v1.36.3, or FROM scratch for an application image"),
        ("# only\n\nCOPY a b", "1", "FROM is missing", "begin with FROM kubernetes:v1.36.3, or FROM scratch for an application image"),
        ("COPY a b\nRUN x\nFROM scratch", "1", "COPY is before FROM", "only ARG may"),
        ("FROM", "1", "FROM says nothing", "FROM image, or FROM --platform=os/arch image"),
        ("FROM a b", "1", "FROM a b: one image is wanted", "FROM image, or FROM --platform=os/arch image"),
        ("FROM a as", "1", "FROM a as: one image is wanted", "FROM image, or FROM --platform=os/arch image"),
        ("FROM --platform=arm64 a", "1", "'arm64' is not a platform", "write os/architecture, as in linux/amd64"),
        (
            "FROM $BASE",
            "1",
            "FROM $BASE: the image's name is empty",
            "give the variable a value: ARG NAME=VALUE before FROM, or --build-arg",
        ),
        ("FROM scratch\nCOYP a b", "2", "unknown instruction COYP", "did you mean COPY?"),
        ("FROM scratch\nLUNCH a", "2", "unknown instruction LUNCH", "did you mean LAUNCH?"),
        ("FROM scratch\n&& ls", "2", "unknown instruction &&", f"known: {' '.join(kubefile.KNOWN)}"),
        (
            "FROM scratch\nWORKDIR /x",
            "2",
            "WORKDIR is a Dockerfile's instruction, not a Kubefile's",
            "RUN starts in the rootfs; write RUN cd folder && ...",
        ),
        (
            "FROM scratch\nRUN --mount=type=cache x",
            "2",
            "RUN --mount is not supported",
            "RUN takes a command only; secrets and mounts are BuildKit's",
        ),
        ("FROM scratch\nRUN []", "2", "RUN [] runs nothing", "RUN command"),
        ('FROM scratch\nRUN ["a", 1]', "2", "a JSON list must hold strings only", None),
        ("FROM scratch\nENV A", "2", "A has no value", "A=VALUE"),
        ("FROM scratch\nENV A=1 B", "2", "B is not NAME=VALUE", "quote a value that has blanks in it"),
        ("FROM scratch\nENV =1", "2", "=1 is not NAME=VALUE", "quote a value that has blanks in it"),
        ("FROM scratch\nARG 1=2", "2", "1 is not a name for an ARG", "letters, digits and _; ARG NAME or ARG NAME=VALUE"),
        ("FROM scratch\nAPP web", "2", "APP web: no source", "APP name local://path..."),
        (
            "FROM scratch\nAPP ../x local://a",
            "2",
            "'../x' is not a name for an application",
            "letters, digits, '.', '_' and '-'; it becomes a folder",
        ),
        (
            "FROM scratch\nAPP web x.yaml",
            "2",
            "x.yaml: where an application's files are must be said",
            "local://x.yaml, http://... or https://...",
        ),
        (
            "FROM scratch\nAPP web ftp://x",
            "2",
            "ftp://x: where an application's files are must be said",
            "local://x, http://... or https://...",
        ),
        (
            "FROM scratch\nAPP web local://",
            "2",
            "local://: where an application's files are must be said",
            "local://path, http://... or https://...",
        ),
        ("FROM scratch\nAPPENV web", "2", "APPENV web: no NAME=VALUE", "APPENV name KEY=VALUE..."),
        ("FROM scratch\nCMDS kubectl apply", "2", "CMDS wants a JSON list of commands", 'CMDS ["kubectl apply -f manifests/app.yaml"]'),
        ("FROM scratch\nCMDS []", "2", "CMDS wants a JSON list of commands", 'CMDS ["kubectl apply -f manifests/app.yaml"]'),
        ('FROM scratch\nCMDS ["a"', "2", "not a JSON list: Expecting ',' delimiter at character 5", None),
        ('FROM scratch\nCMDS ["a"]\nRUN x', "2", "CMDS must be the last instruction", "move it to the end"),
        ('FROM scratch\nCMDS ["a"]\nCMDS ["b"]', "3", "CMDS is given twice; the first is in line 2", "join them into one"),
        ("FROM scratch\nAPP web local://a\nLAUNCH webb", "3", "LAUNCH: application webb does not exist", "did you mean web?"),
        ("FROM scratch\nAPPENV web A=1", "2", "APPENV: application web does not exist", "define it: APP web local://..."),
        ('FROM scratch\nAPPCMDS web ["ls"]', "2", "APPCMDS: application web does not exist", "define it: APP web local://..."),
    ],
)
def test_faults(text: str, where: str, message: str, hint: str | None) -> None:
    found = fault(text)
    assert (found.where, found.message, found.hint) == (f"web/Kubefile:{where}", message, hint)


def test_launch_stands_once_and_alone() -> None:
    text = "FROM scratch\nAPP a local://a\nLAUNCH a\nLAUNCH a"
    assert faults(text) == ["4: LAUNCH is given twice; the first is in line 3"]
    assert faults('FROM scratch\nAPP a local://a\nCMDS ["ls"]\nLAUNCH a') == [
        "3: CMDS must be the last instruction",
        "3: CMDS and LAUNCH (line 4) exclude each other",
    ]


def test_names_of_the_base_are_for_the_builder_to_check() -> None:
    found = parse('FROM base:1\nAPPENV db A=1\nAPPCMDS db ["x"]\nLAUNCH db')
    assert [(item.app, item.instruction) for item in found.deferred] == [("db", "APPENV"), ("db", "APPCMDS"), ("db", "LAUNCH")]


def test_an_undefined_variable_is_empty_and_told() -> None:
    found = parse("FROM scratch\nARG VERSION=1\nCOPY a$VERSOIN b\nENV X=${NONE}")
    assert found.of(Copy)[0].sources == ("a",)
    assert [(warning.where, warning.message, warning.hint) for warning in found.warnings] == [
        ("web/Kubefile:3", "$VERSOIN is not defined and expands to nothing", "did you mean $VERSION?"),
        ("web/Kubefile:4", "$NONE is not defined and expands to nothing", "declare it: ARG NONE"),
    ]


def test_what_only_a_shell_can_do_to_an_arg_is_said() -> None:
    assert fault("FROM scratch\nARG V=1.2\nCMD echo ${V%.*}").where == "web/Kubefile:3"
    assert parse("FROM scratch\nENV V=1.2\nCMD echo ${V%.*}").commands == ("echo ${V%.*}",)


def test_a_required_variable() -> None:
    assert fault('FROM scratch\nCOPY "a${V:?say which}" b').message == "V is not set: say which"


# The context


def test_what_the_context_lacks_is_told_with_the_rest(tmp_path: Path) -> None:
    (tmp_path / "app.yaml").write_text("")
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_text("")
    text = "FROM base\nCOYP x y\nCOPY ap.yaml manifests/\nAPP web local://none\nCOPY *.txt file\n"
    text += "COPY --from=img none x\nADD https://x.io/y z\n"
    with pytest.raises(InputError) as caught:
        kubefile.parse(text, "K", context=tmp_path)
    assert [(fault.where, fault.message, fault.hint) for fault in caught.value.faults] == [
        ("K:2", "unknown instruction COYP", "did you mean COPY?"),
        ("K:3", f"ap.yaml: no such file or folder in {tmp_path}", "did you mean app.yaml?"),
        ("K:4", f"none: no such file or folder in {tmp_path}", None),
        ("K:5", "2 sources for the destination file, which is not a folder", "end it with a slash: file/"),
    ]


def test_check_context(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    found = kubefile.parse("FROM base\nCOPY a b c/\nAPP web local://a local://d\n", "K")
    assert [(fault.where, fault.message) for fault in kubefile.check_context(found, tmp_path)] == [
        ("K:2", f"b: no such file or folder in {tmp_path}"),
        ("K:3", f"d: no such file or folder in {tmp_path}"),
    ]
    assert [fault.message for fault in kubefile.check_context(found, tmp_path / "none")] == ["the build context is not a folder"]


# Kubefiles that sealer accepts


@pytest.mark.parametrize("path", sorted(CASES.rglob("Kubefile")), ids=lambda path: path.parent.name)
def test_every_case_is_read_without_a_word(path: Path) -> None:
    assert kubefile.parse(path.read_text(), str(path)).warnings == ()


@pytest.mark.parametrize(("platform", "source"), [("linux/amd64", "amd64/bin"), ("linux/arm64", "arm64/bin")])
def test_build_with_multi_arch(platform: str, source: str) -> None:
    path = CASES / "sealer/build/fixtures/build_with_multi_arch/Kubefile"
    found = kubefile.parse(path.read_text(), str(path), platform=platform)
    assert found.of(Copy)[0] == Copy(2, f"COPY {source} bin", (source,), "bin")
    assert kubefile.check_context(found, path.parent) == []


def test_config_overwrite_launches_both_charts() -> None:
    path = CASES / "config-overwrite/Kubefile"
    assert kubefile.parse(path.read_text(), str(path)).commands == (
        "helm install mysql charts/mysql -f etc/mysql-values.yaml",
        "helm install redis charts/redis -f etc/redis-values.yaml",
    )


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
def test_what_grows_without_end_is_a_fault(text: str) -> None:
    with pytest.raises(InputError):
        kubefile.parse(text, "Kubefile")

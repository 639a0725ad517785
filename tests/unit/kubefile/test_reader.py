"""Each instruction as a frozen value, and the fault of each that is not valid."""

from __future__ import annotations

import pytest

from harness.errors import InputError
from harness.kubefile import instructions
from harness.kubefile.instructions import (
    AppCmds,
    AppEnv,
    AppInstruction,
    Cmd,
    Cmds,
    Cni,
    Copy,
    Csi,
    Env,
    From,
    KubeVersion,
    Label,
    Launch,
    Maintainer,
    Run,
)
from tests.unit.kubefile.reading import fault, parse


def copy(rest: str) -> Copy:
    return parse(f"FROM scratch\nENV V=1.2 EMPTY=\nCOPY {rest}").of(Copy)[0]


def test_from_yields_image_platform_and_stage_name() -> None:
    found = parse("ARG V=1\nFROM --platform=linux/arm64 reg.io/kube:v$V AS base")
    assert found.base == From(2, "FROM --platform=linux/arm64 reg.io/kube:v1 AS base", "reg.io/kube:v1", "linux/arm64", "base")


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
def test_copy_yields_sources_and_destination(rest: str, sources: tuple[str, ...], destination: str) -> None:
    found = copy(rest)
    assert (found.sources, found.destination) == (sources, destination)


def test_copy_flags_are_read() -> None:
    assert copy("--chown=0:0 --chmod=755 --link a b") == Copy(3, "COPY --chown=0:0 --chmod=755 a b", ("a",), "b", None, False, "0:0", 0o755)
    assert copy("--from=reg.io/tools:$V /bin/x /bin/y bin/") == Copy(
        3, "COPY --from=reg.io/tools:1.2 /bin/x /bin/y bin/", ("/bin/x", "/bin/y"), "bin/", "reg.io/tools:1.2"
    )


def test_add_yields_copy_with_urls() -> None:
    found = parse("FROM scratch\nADD https://x.io/a.tgz b.tgz charts/").of(Copy)[0]
    assert (found.name, found.add, found.urls) == ("ADD", True, ("https://x.io/a.tgz",))


def test_add_url_with_checksum_is_accepted() -> None:
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
def test_copy_invalid_arguments_are_refused_with_hint(rest: str, message: str, hint: str | None) -> None:
    found = fault(f"FROM scratch\nENV EMPTY=\nCOPY {rest}")
    assert (found.where, found.message, found.hint) == ("web/Kubefile:3", message, hint)


def test_copy_from_stage_and_add_from_image_are_refused() -> None:
    assert fault("FROM scratch AS base\nCOPY --from=base a b").message == "--from=base names a build stage; a Kubefile has none"
    assert fault("FROM scratch\nADD --from=x a b").message == "ADD cannot take files of an image"


def test_run_keeps_command_text_and_environment() -> None:
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
def test_env_values_are_unquoted_and_expanded(rest: str, values: dict[str, str]) -> None:
    found = parse(f"FROM scratch\nENV OLD=old\nENV {rest}")
    assert found.of(Env)[1].values == values
    assert found.environment == {"OLD": "old", **values}


def test_label_cni_and_csi_set_sealer_labels_and_kube_version() -> None:
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


def test_kubeversion_and_its_label_accept_only_version_range() -> None:
    found = parse("FROM scratch\nKUBEVERSION 1.22 - 1.24")
    assert found.of(KubeVersion)[0].range == found.kube_version == "1.22 - 1.24"
    assert "'new' is not a range of versions" in fault("FROM scratch\nKUBEVERSION new").message
    assert "is not a range" in fault("FROM scratch\nLABEL app.alpha.sealer.io/supported-kube-version=new").message


def test_app_appenv_appcmds_and_launch_are_read() -> None:
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
def test_cmd_is_split_into_commands_and_args_are_expanded(rest: str, commands: tuple[str, ...]) -> None:
    assert parse(f"FROM scratch\nARG V=3\nENV DOMAIN=x.io\nCMD {rest}").of(Cmd)[0].commands == commands


def test_several_cmd_accumulate() -> None:
    found = parse('FROM scratch\nCMD a\nRUN x\nCMD b, c\nCMDS ["d $E"]')
    assert found.commands == ("a", "b", "c", "d $E")
    assert found.of(Cmds)[0].commands == ("d $E",)


@pytest.mark.parametrize(
    ("rest", "commands"),
    [
        ("kubectl run a --image=x, y", ("kubectl run a --image=x, y",)),
        ("helm test x-${V} -n $NS", ("helm test x-3 -n $NS",)),
        ('["a", "b c"]', ("a", "b c")),
    ],
)
def test_exercise_keeps_commas_and_expands_args(rest: str, commands: tuple[str, ...]) -> None:
    assert parse(f"FROM scratch\nARG V=3\nEXERCISE {rest}").exercise == commands


def test_several_exercises_accumulate_and_launch_nothing() -> None:
    found = parse("FROM scratch\nEXERCISE a\nCMD b\nEXERCISE c")
    assert (found.exercise, found.commands) == (("a", "c"), ("b",))
    assert fault("FROM scratch\nEXERCISE []").message == "EXERCISE [] runs nothing"


@pytest.mark.parametrize("rest", ["web db", '["web", "db"]', '["web","db"]', "  web   db  "])
def test_launch_shell_and_json_forms_are_equal(rest: str) -> None:
    assert parse(f"FROM scratch\nAPP web local://w\nAPP db local://d\nLAUNCH {rest}").launch == ("web", "db")


def test_second_application_of_same_name_warns() -> None:
    found = parse("FROM scratch\nCNI net local://a\nCNI net local://b")
    assert [warning.where for warning in found.warnings] == ["web/Kubefile:3"]


def test_appcmds_with_several_commands_warns() -> None:
    found = parse('FROM scratch\nAPP a local://a\nAPPCMDS a ["kubectl apply -f a", "kubectl apply -f b"]')
    assert [warning.hint for warning in found.warnings] == ['write one element: ["kubectl apply -f a && kubectl apply -f b"]']


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
        ("FROM scratch\n&& ls", "2", "unknown instruction &&", f"known: {' '.join(instructions.USAGE)}"),
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
def test_parse_invalid_instruction_is_reported_with_line_and_hint(text: str, where: str, message: str, hint: str | None) -> None:
    found = fault(text)
    assert (found.where, found.message, found.hint) == (f"web/Kubefile:{where}", message, hint)


@pytest.mark.parametrize(
    ("rest", "commands"),
    [
        ('"helm upgrade -i web charts/web"', ("helm upgrade -i web charts/web",)),
        ("'kubectl apply -f a, b'", ("kubectl apply -f a, b",)),
        ("helm upgrade -i $(NAME) charts/$(NAME) -n $(NS)", ("helm upgrade -i ${NAME} charts/${NAME} -n ${NS}",)),
        ('["helm upgrade -i $(NAME) $(TAG)"]', ("helm upgrade -i ${NAME} 1",)),
        ("echo $(date)", ("echo $(date)",)),
    ],
)
def test_cmd_in_sealos_syntax_is_translated_without_warnings(rest: str, commands: tuple[str, ...]) -> None:
    found = parse(f"FROM scratch\nARG TAG=1\nENV NAME=web NS=web\nCMD {rest}")
    assert (found.commands, found.warnings) == (commands, ())


def test_cmd_reference_without_env_warns() -> None:
    found = parse("FROM scratch\nCMD helm install $(NAME) charts/web")
    assert found.commands == ("helm install ${NAME} charts/web",)
    assert [(warning.message, warning.hint) for warning in found.warnings] == [
        ("$(NAME) is taken for the value NAME, which no ENV here has", "ENV NAME=VALUE; $( NAME ) runs a program")
    ]


@pytest.mark.parametrize("word", ["CMD", "CMDS"])
def test_cmd_exec_form_is_joined_with_warning(word: str) -> None:
    found = parse(f'FROM scratch\n{word} ["kubectl", "apply", "-f", "manifests/a b.yaml"]')
    assert found.commands == ("kubectl apply -f 'manifests/a b.yaml'",)
    assert [warning.hint for warning in found.warnings] == ["write one element: [\"kubectl apply -f 'manifests/a b.yaml'\"]"]


def test_cmd_list_of_single_words_is_kept_with_warning() -> None:
    found = parse('FROM scratch\nCMD ["./a.sh", "./b.sh"]')
    assert found.commands == ("./a.sh", "./b.sh")
    assert [warning.message for warning in found.warnings] == ["CMD: each element is a command of its own"]


def test_copy_parents_and_exclude_are_read_and_checked() -> None:
    found = copy("--parents --exclude=*.md --exclude=**/test a/b x")
    assert (found.parents, found.exclude, found.destination) == (True, ("*.md", "**/test"), "x/")
    assert found.text == "COPY --parents=true --exclude=*.md --exclude=**/test a/b x/"
    assert not copy("--parents=false a b").parents
    assert fault("FROM scratch\nCOPY --parents=maybe a b").message == "--parents=maybe: true or false is wanted"
    assert fault("FROM scratch\nCOPY --exclude=a[b a b").message == "--exclude: a[b is not a pattern: a [ is not closed"


@pytest.mark.parametrize("owner", ["0", "0:0", "root", "root:root", "0:root", "$NOTHING"])
def test_copy_chown_of_root_or_nothing_is_read(owner: str) -> None:
    assert parse(f"FROM scratch\nARG NOTHING=\nCOPY --chown={owner} a b").warnings == ()


@pytest.mark.parametrize("owner", ["1000:1000", "1000", "0:1000", "app:app", "$OWNER"])
@pytest.mark.parametrize("start", ["COPY", "ADD", "COPY --from=example.com/a:1"])
def test_copy_chown_of_other_than_root_is_refused(start: str, owner: str) -> None:
    found = fault(f"FROM scratch\nARG OWNER=app\n{start} --chown={owner} a b")
    written = owner.replace("$OWNER", "app")
    assert (found.message, found.where) == (
        f"--chown={written}: another owner than root does not reach a node: everything in a rootfs belongs to root",
        "web/Kubefile:3",
    )
    assert found.hint == "leave it out; a hook of the image (plugins/) at pre-init-host can run chown on each node"


def test_buildplatform_and_buildarch_name_build_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert parse("FROM --platform=$BUILDPLATFORM kubernetes").base.platform == "linux/amd64"
    run = parse("FROM scratch\nARG BUILDARCH\nRUN x").of(Run)[0]
    assert (run.environment["BUILDARCH"], "BUILDOS" in run.environment) == ("amd64", False)


def test_from_platform_other_than_target_warns() -> None:
    (warning,) = parse("FROM --platform=linux/arm64 kubernetes").warnings
    assert warning.message == "FROM --platform=linux/arm64: the base is taken for linux/amd64, which the nodes run"


def test_parse_too_long_names_are_refused() -> None:
    for text in (f"COPY {'a' * 300} x", f"COPY a {'a' * 300}", f"COPY a {'a/' * 3000}b"):
        assert fault(f"FROM scratch\n{text}").message.endswith("the name is too long")
    assert fault(f"FROM scratch\nAPP {'a' * 300} local://x").message.endswith("is not a name for an application")


@pytest.mark.parametrize(
    "text", [f"CMD echo {'a' * 131072}", f"ARG A={'b' * 70000}\nCMD echo {'a' * 70000} $A", f'CMDS ["{"a" * 131072}"]']
)
def test_parse_launch_command_longer_than_argument_of_linux_is_refused(text: str) -> None:
    found = fault(f"FROM scratch\n{text}")
    assert "a launch command of " in found.message
    assert found.where == f"web/Kubefile:{text.count(chr(10)) + 2}"


def test_parse_deeply_nested_variables_raise_input_error() -> None:
    nested = "${A:-" * 400 + "x" + "}" * 400
    for text in (f"COPY {nested} x", f"ARG A=1\nCMD echo {nested}", f"ENV A={nested}", f"FROM {nested}"):
        with pytest.raises(InputError):
            parse(f"FROM scratch\n{text}" if not text.startswith("FROM") else text)

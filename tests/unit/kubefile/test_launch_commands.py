import pytest

from harness.kubefile.launch_commands import maybe_one_command, one_command, unquoted, with_references, with_releases


@pytest.mark.parametrize(
    ("text", "command"),
    [
        ('"echo x"', "echo x"),
        ("'echo x'", "echo x"),
        (r'"echo \"x\" y"', 'echo "x" y'),
        ('"program"', '"program"'),
        ('"my program" -x', '"my program" -x'),
        ('"a b" "c d"', '"a b" "c d"'),
        ("echo 'x y'", "echo 'x y'"),
        ('"open', '"open'),
    ],
)
def test_unquoted_text_loses_quotes_around_all_of_it(text: str, command: str) -> None:
    assert unquoted(text) == command


@pytest.mark.parametrize(
    ("elements", "command"),
    [
        (["kubectl", "apply", "-f", "manifests/a.yaml"], "kubectl apply -f manifests/a.yaml"),
        (["sh", "-c", "kubectl apply -f a && echo ok"], "sh -c 'kubectl apply -f a && echo ok'"),
        (["/usr/bin/helm", "install", "x", "charts/x"], "/usr/bin/helm install x charts/x"),
        (["helm", "install", "$(NAME)", "charts/x y"], "helm install \"$(NAME)\" 'charts/x y'"),
        (["./install.sh", "--fast"], "./install.sh --fast"),
        (["kubectl apply -f a", "kubectl apply -f b"], None),
        (["bash a.sh", "-x"], None),
        (["a.sh", "b.sh"], None),
        (["helm"], None),
    ],
)
def test_one_command_joins_words_of_program(elements: list[str], command: str | None) -> None:
    assert one_command(elements) == command


def test_maybe_one_command_single_words_are_doubtful() -> None:
    assert maybe_one_command(["a.sh", "b.sh"])
    assert not maybe_one_command(["a.sh"])
    assert not maybe_one_command(["a.sh x", "b.sh"])


@pytest.mark.parametrize(
    ("command", "text", "unknown"),
    [
        ("helm install $(NAME) charts/x", "helm install ${NAME} charts/x", ()),
        ("echo $(lower)", "echo ${lower}", ()),
        ("echo $(date) $(other)", "echo $(date) $(other)", ()),
        ("echo $(REGION)", "echo ${REGION}", ("REGION",)),
        ("""echo '--set=a=$(NAME)' "$(NAME)" """, """echo '--set=a='"${NAME}"'' "${NAME}" """, ()),
        (r"echo \$(NAME)", r"echo \$(NAME)", ()),
        ("""echo "it's $(NAME)" """, """echo "it's ${NAME}" """, ()),
    ],
)
def test_with_references_names_become_variables(command: str, text: str, unknown: tuple[str, ...]) -> None:
    assert with_references(command, {"NAME", "lower"}) == (text, unknown)


def test_with_releases_lone_chart_gets_release_named_after_chart() -> None:
    commands, lone = with_releases(
        ["helm install mysql -f etc/mysql-config.yaml", "helm install mysql -f etc/redis-config.yaml"], {"charts/mysql/Chart.yaml"}
    )
    assert commands == (
        "helm upgrade --install mysql charts/mysql -f etc/mysql-config.yaml",
        "helm upgrade --install mysql-2 charts/mysql -f etc/redis-config.yaml",
    )
    assert [str(each) for each in lone] == [
        "helm installs mysql, and no release is named: it is called mysql",
        "helm installs mysql, and no release is named: it is called mysql-2",
    ]
    assert with_releases(commands, {"charts/mysql/Chart.yaml"}) == (commands, ())


@pytest.mark.parametrize(
    ("command", "files", "text"),
    [
        ("helm install --wait charts/shop -n web", {"charts/shop/Chart.yaml"}, "helm upgrade --install --wait shop charts/shop -n web"),
        ("helm install shop", {"charts/shop-1.2.3.tgz"}, "helm upgrade --install shop charts/shop-1.2.3.tgz"),
        ("cd x && helm install ./shop", set(), "cd x && helm upgrade --install shop ./shop"),
        ("helm upgrade -i charts/shop; true", set(), "helm upgrade --install -i shop charts/shop; true"),
        ("helm install a charts/a && helm install charts/a", set(), "helm install a charts/a && helm upgrade --install a-2 charts/a"),
        ("helm install \\\n  charts/a", set(), "helm upgrade --install \\\n  a charts/a"),
    ],
)
def test_with_releases_finds_chart_among_options(command: str, files: set[str], text: str) -> None:
    assert with_releases([command], files)[0] == (text,)


@pytest.mark.parametrize(
    "command",
    [
        "helm install shop charts/shop",
        "helm install charts/shop --generate-name",
        "helm install -g charts/shop",
        "helm upgrade --install -n web shop charts/shop",
        "echo helm install shop",
        "helm install $CHART",
        "kubectl apply -f helm/install.yaml",
    ],
)
def test_with_releases_leaves_other_commands_alone(command: str) -> None:
    assert with_releases([command], {"charts/shop/Chart.yaml"}) == ((command,), ())


def test_with_releases_helm_in_continued_line_of_other_command_is_left_alone() -> None:
    command = "echo \\\nhelm install charts/shop"
    assert with_releases([command], {"charts/shop/Chart.yaml"}) == ((command,), ())


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        (";" * 200_000, ";" * 200_000),
        ("helm install '" * 20_000, "helm install '" * 20_000),
        ("/" * 200_000, "/" * 200_000),
        ("$(A)" * 50_000, "${A}" * 50_000),
    ],
    ids=["separators", "open quotes", "slashes", "references"],
)
def test_with_releases_and_references_of_very_long_command_change_references_only(text: str, expanded: str) -> None:
    assert with_releases([text], ()) == ((text,), ())
    assert with_references(text, {"A"}) == (expanded, ())

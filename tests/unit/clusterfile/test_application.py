"""Documents Application."""

from __future__ import annotations

import pytest

from harness.clusterfile import AppConfig, AppFile, ApplicationDocument, Clusterfile
from harness.clusterfile.config import apply_configs
from harness.clusterfile.diff import difference
from harness.clusterfile.parse import parse
from harness.clusterfile.write import redacted

from .reading import document, faults, read, spec_text

SPEC = """
launchApps: [shop, mysql]
configs:
- name: mysql
  env: [Port=3306]
  files:
  - {path: values.yaml, strategy: merge, data: "a: {b: 2}"}
  - {path: values.yaml, data: "a: {c: 1}"}
  launch: {cmds: [helm install mysql .]}
- name: shop
"""


def test_application_with_all_fields_is_parsed() -> None:
    found = read(document("Application", SPEC, name="apps", version="sealer.io/v2")).application
    assert found == ApplicationDocument(
        "apps",
        None,
        ("shop", "mysql"),
        (
            AppConfig(
                "mysql",
                {"Port": "3306"},
                (AppFile("values.yaml", "a: {b: 2}", "merge"), AppFile("values.yaml", "a: {c: 1}")),
                ("helm install mysql .",),
            ),
            AppConfig("shop"),
        ),
    )


def test_application_files_overwrite_applies_before_merge() -> None:
    found = read(document("Application", SPEC))
    assert apply_configs(found.files, {}) == {"application/apps/mysql/values.yaml": b"a:\n  c: 1\n  b: 2\n"}


@pytest.mark.parametrize(
    ("spec", "launch", "commands"),
    [
        ("{}", None, None),
        ("launchApps: ~\ncmds: ~", None, None),
        ("launchApps: []\ncmds: []", None, None),
        ("launchApps: ['']", (), None),
        ("cmds: [a, b]", None, ("a", "b")),
    ],
)
def test_application_launch_empty_list_is_unset_and_blank_name_is_empty(
    spec: str, launch: tuple[str, ...] | None, commands: tuple[str, ...] | None
) -> None:
    found = read(document("Application", spec))
    assert (found.launch, found.commands) == (launch, commands)


def test_clusterfile_launch_of_cluster_overrides_application() -> None:
    application = document("Application", "launchApps: [a]")
    assert read(spec_text("appNames: [b]") + "---\n" + application).launch == ("b",)
    assert read(spec_text("appNames: ['']") + "---\n" + application).launch == ()
    assert read(spec_text("cmd: [x]") + "---\n" + document("Application", "cmds: [y]")).commands == ("x",)
    assert read(spec_text("env: [a=b]") + "---\n" + document("Application", "cmds: [y]")).commands == ("y",)


@pytest.mark.parametrize(
    ("spec", "where", "message"),
    [
        ("cmds: [a]\nlaunchApps: [b]", "6 .spec.launchApps", "cmds is given too"),
        ("launchApp: [b]", "5 .spec.launchApp", "launchApp is not known here"),
        ("configs: [{env: []}]", "5 .spec.configs[0].name", "is missing"),
        ("configs: [{name: a}, {name: a}]", "5 .spec.configs[1].name", "a is listed twice"),
        ("configs: [{name: a/b}]", "5 .spec.configs[0].name", "'a/b' is not a name of an application"),
        ("configs: [{name: a, files: [{path: ../b, data: x}]}]", "5 .spec.configs[0].files[0].path", "../b leaves the rootfs"),
        ("configs: [{name: a, files: [{path: b, strategy: render}]}]", "5 .spec.configs[0].files[0].strategy", "render is not known here"),
        (
            "configs: [{name: a, files: [{path: b.txt, strategy: merge, data: x}]}]",
            "5 .spec.configs[0].files[0].strategy",
            "b.txt is a text of which slipway knows no structure: nothing can be merged into it",
        ),
        ("configs: [{name: a, launch: {cmd: [x]}}]", "5 .spec.configs[0].launch.cmd", "cmd is not known here"),
    ],
)
def test_application_invalid_spec_reports_path_and_message(spec: str, where: str, message: str) -> None:
    assert faults(document("Application", spec)) == [(where, message)]


OWN = "image: shop:1\nenv: {Port: 80, DbPassword: hunter2}\nlaunchApps: [web]\ncmds: null\n"


def test_applications_with_own_image_are_parsed_and_duplicate_names_are_refused() -> None:
    text = "---\n".join(
        [document("Application", "launchApps: [a]"), *(document("Application", OWN, name=name) for name in ("shop", "more"))]
    )
    found = read(text)
    assert found.application is not None
    assert found.application.launch == ("a",)
    assert [(app.name, app.image, app.env["Port"], app.launch) for app in found.apps] == [
        ("shop", "shop:1", "80", ("web",)),
        ("more", "shop:1", "80", ("web",)),
    ]
    assert faults("---\n".join([text, document("Application", OWN, name="more")]))[0][1].startswith("a second application more")
    assert "an image of its own" in faults(document("Application", "env: {A: b}"))[0][1]
    assert "is not a name for an application" in faults(document("Application", OWN, name="Shop_1"))[0][1]


def test_application_with_image_redacted_keeps_no_secret_and_difference_finds_changes() -> None:
    before = read(document("Application", OWN, name="shop"))
    kept = parse(redacted(before), "kept", stored=True)
    assert "hunter2" not in redacted(before)
    assert difference(kept, before) == ()
    changed = read(document("Application", OWN.replace("shop:1", "shop:2").replace("hunter2", "hunter3"), name="shop"))
    found = difference(kept, changed)
    assert {change.subject for change in found} == {"app"}
    assert [str(change) for change in found] == [
        "~ Application shop.spec.image: shop:1 -> shop:2",
        "~ Application shop.spec.env.DbPassword",
    ]
    assert [str(change) for change in difference(kept, Clusterfile(""))] == ["- Application shop: shop:1"]


def test_application_config_named_all_accepts_env_only() -> None:
    text = document("Application", "configs: [{name: ALL, env: [A=1], launch: {cmds: [ls]}}]", version="sealer.io/v2")
    assert [message for _, message in faults(text)] == ["ALL takes env only"]
    read(document("Application", "configs: [{name: ALL, env: [A=1]}]", version="sealer.io/v2"))

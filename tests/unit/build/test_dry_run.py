"""What ``slipway build --check`` says of a Kubefile and its context."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from harness import kubefile, process
from harness.build import dry_run
from harness.errors import InputError

CASES = Path(__file__).parents[2] / "cases"
FIXTURES = CASES / "sealer/build/fixtures"
NGINX = "docker.io/library/nginx:alpine"
BUSYBOX = "docker.io/library/busybox:latest"


def plan(context: Path, **options: Any) -> dict[str, Any]:
    path = context / "Kubefile"
    found = dry_run.plan(kubefile.parse(path.read_text(), str(path)), context, **options)
    assert json.loads(json.dumps(found)) == found
    return found


def images(found: dict[str, Any]) -> dict[str, list[str]]:
    return {image["name"]: image["foundBy"] for image in found["images"]}


@pytest.fixture
def context(tmp_path: Path) -> Path:
    return tmp_path / "context"


def write(context: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(text)
    return context


def test_plan_outlines_steps_applications_images_and_values(context: Path) -> None:
    write(
        context,
        {
            "Kubefile": "FROM scratch\nENV Port=80\nCOPY app.yaml manifests\nAPP db local://db\nAPPENV db A=1\n"
            "KUBEVERSION >=1.18\nLAUNCH db\n",
            "app.yaml": "port: {{ Port }}\nspec: {containers: [{image: 'a:1'}, {image: 'b:{{ .Tag }}'}]}\n",
            "db/x.yaml": "spec:\n  image: maybe:1\n  containers:\n  - image: a:1\n",
        },
    )
    found = plan(context)
    hint = "ENV Tag=... in the Kubefile, or slipway build -e Tag=VALUE"
    assert found == {
        "base": "scratch",
        "platform": "linux/amd64",
        "kubeVersion": ">=1.18",
        "env": {"Port": "80"},
        "labels": {},
        "steps": [
            {"line": 1, "instruction": "FROM", "text": "FROM scratch"},
            {"line": 2, "instruction": "ENV", "text": "ENV Port=80"},
            {"line": 3, "instruction": "COPY", "text": "COPY app.yaml manifests"},
            {"line": 4, "instruction": "APP", "text": "APP db local://db"},
            {"line": 5, "instruction": "APPENV", "text": "APPENV db A=1"},
            {"line": 6, "instruction": "KUBEVERSION", "text": "KUBEVERSION >=1.18"},
            {"line": 7, "instruction": "LAUNCH", "text": "LAUNCH db"},
        ],
        "apps": [
            {
                "name": "db",
                "kind": "kube",
                "role": "app",
                "files": ["x.yaml"],
                "env": {"A": "1"},
                "commands": ["kubectl apply -f application/apps/db/x.yaml"],
            }
        ],
        "launch": ["export A=1 && kubectl apply -f application/apps/db/x.yaml"],
        "images": [
            {"name": "docker.io/library/a:1", "foundBy": ["declared"], "where": [f"{context}/db/x.yaml:4", f"{context}/app.yaml:2"]}
        ],
        "possibleImages": [{"name": "docker.io/library/maybe:1", "foundBy": ["declared"], "where": [f"{context}/db/x.yaml:2"]}],
        "values": [
            {
                "name": "Port",
                "where": ["manifests/app.yaml:1"],
                "default": "80",
                "required": False,
                "secret": False,
                "description": "",
                "type": "string",
            }
        ],
        "fromBase": [],
        "warnings": [f"{context}/app.yaml:2: the image depends on Tag, which has no value yet\n  hint: {hint}"],
    }


def test_plan_later_copy_overwrites_earlier_file(context: Path) -> None:
    write(
        context,
        {
            "Kubefile": "FROM scratch\nCOPY one.yaml manifests/a.yaml\nCOPY two.yaml manifests/a.yaml\n"
            "COPY three.yaml sub/\nCOPY three.yaml sub\n",
            "one.yaml": "spec: {containers: [{image: one}]}",
            "two.yaml": "spec: {containers: [{image: two}]}",
            "three.yaml": "",
        },
    )
    assert list(images(plan(context))) == ["docker.io/library/two:latest"]
    parsed = kubefile.parse((context / "Kubefile").read_text(), "K")
    assert [file.path for file in dry_run.rootfs_files(parsed, context)] == ["manifests/a.yaml", "sub/three.yaml"]


def test_plan_reports_all_faults_of_context_and_manifests(context: Path) -> None:
    write(
        context,
        {
            "Kubefile": "FROM a//b\nCOPY bad.yaml manifests/\nCOPY none manifests/\nAPP web local://mixed\nCOPY --from=a/B x y\nAPP db local://none\n",
            "bad.yaml": "a: [\n",
            "mixed/a.sh": "",
            "mixed/b.yaml": "spec: {containers: [{image: Bad}]}",
            "imageListWithAuth.yaml": "- images: [x]\n",
        },
    )
    with pytest.raises(InputError) as caught:
        plan(context)
    where = [fault.where.removeprefix(f"{context}/") for fault in caught.value.faults]
    assert sorted(where) == [
        "Kubefile:1",
        "Kubefile:3",
        "Kubefile:4",
        "Kubefile:5",
        "Kubefile:6",
        "bad.yaml:2",
        "imageListWithAuth.yaml:1",
        "mixed/b.yaml:1",
    ]


def test_plan_lists_applications_of_base(context: Path) -> None:
    write(context, {"Kubefile": 'FROM base:1\nAPPCMDS db ["ls"]\nAPPENV web A=1\nLAUNCH web db\n'})
    found = plan(context)
    assert found["fromBase"] == ["db", "web"]
    assert found["launch"] == ["cd application/apps/db && ls"]


def test_plan_lists_images_of_user_list_and_list_with_auth(context: Path) -> None:
    write(
        context,
        {
            "Kubefile": "FROM scratch\nCOPY . .\n",
            "list": "b:1\n",
            "imageListWithAuth.yaml": "- registry: r.io\n  username: u\n  password: p\n  images: [c:1]\n",
        },
    )
    assert images(plan(context, image_list=context / "list")) == {"docker.io/library/b:1": ["listed"], "r.io/c:1": ["listed"]}


def test_plan_chart_copied_without_its_folder_warns(context: Path) -> None:
    write(context, {"Kubefile": "FROM base\nCOPY apollo charts\nCOPY apollo charts/apollo\n", "apollo/Chart.yaml": "name: apollo"})
    assert plan(context)["warnings"][0] == (
        f"{context}/Kubefile:2: apollo is a chart: its content is copied, not the folder\n  hint: COPY apollo charts/apollo keeps it apart"
    )
    assert [line for line in plan(context)["warnings"] if "Kubefile:3" in line] == []


# Cases that sealer's tests build


def test_plan_build_with_cmds_launches_cmds_and_finds_images() -> None:
    found = plan(FIXTURES / "build_with_cmds")
    assert found["launch"] == ["kubectl apply -f manifests/app.yaml"]
    assert images(found) == {BUSYBOX: ["listed"], NGINX: ["declared"]}


def test_plan_build_with_launch_launches_application_and_finds_images() -> None:
    found = plan(FIXTURES / "build_with_launch")
    assert found["launch"] == ["kubectl apply -f application/apps/myapp/app.yaml"]
    assert images(found) == {BUSYBOX: ["listed"], NGINX: ["declared"]}


def test_plan_build_with_multi_arch_copies_folder_of_platform() -> None:
    path = FIXTURES / "build_with_multi_arch/Kubefile"
    for arch in ("amd64", "arm64"):
        parsed = kubefile.parse(path.read_text(), str(path), platform=f"linux/{arch}")
        assert dry_run.plan(parsed, path.parent)["steps"][1]["text"] == f"COPY {arch}/bin bin"


def test_plan_build_with_imagelist_flag_finds_listed_image() -> None:
    context = FIXTURES / "build_with_imagelist_flag"
    assert images(plan(context, image_list=context / "imagelist")) == {BUSYBOX: ["listed"]}


def test_plan_build_with_appcmds_reports_missing_files_then_launches_apps(context: Path) -> None:
    shutil.copytree(FIXTURES / "build_with_appcmds", context)
    with pytest.raises(InputError) as caught:
        plan(context)
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        (f"{context}/Kubefile:3", f"shellcontext: no such file or folder in {context}"),
        (f"{context}/Kubefile:4", f"install.sh: no such file or folder in {context}"),
    ]
    # The scripts that sealer has there and the cases have not.
    write(
        context,
        {
            "install.sh": "kubectl get ns\n",
            "mixedcontext/install.sh": "kubectl get ns\n",
            "shellcontext/a.sh": "kubectl get nodes\n",
            "shellcontext/b.sh": "kubectl get nodes\n",
        },
    )
    found = plan(context)
    assert {app["name"]: app["kind"] for app in found["apps"]} == {"yamlapp": "kube", "shellapp": "shell", "mixedapp": "mixed"}
    assert found["launch"] == [
        "cd application/apps/mixedapp && kubectl apply -f app.yaml",
        "bash application/apps/shellapp/a.sh",
        "bash application/apps/shellapp/b.sh",
    ]
    assert images(found) == {NGINX: ["declared"]}


def test_plan_kube_nginx_deployment_applies_manifest_and_finds_image(context: Path) -> None:
    shutil.copytree(CASES / "sealer/build/kubefile/parser/test", context)
    write(context, {"Kubefile": 'FROM busybox as base\nAPP nginx local://./kube-nginx-deployment/deployment.yaml\nLAUNCH ["nginx"]\n'})
    found = plan(context)
    assert found["launch"] == ["kubectl apply -f application/apps/nginx/deployment.yaml"]
    assert images(found) == {"docker.io/library/nginx:1.14.2": ["declared"]}


def test_rootfs_files_of_config_overwrite_keep_etc_folder(context: Path) -> None:
    shutil.copytree(CASES / "config-overwrite", context)
    write(context, {"etc/mysql-values.yaml": "a: b", "charts/mysql/Chart.yaml": "name: mysql", "charts/mysql/templates/x.yaml": ""})
    parsed = kubefile.parse((context / "Kubefile").read_text(), "K")
    # `COPY etc .` means the folder: that is where the launch command looks for its file.
    assert [file.path for file in dry_run.rootfs_files(parsed, context)] == [
        "charts/mysql/Chart.yaml",
        "charts/mysql/templates/x.yaml",
        "etc/mysql-values.yaml",
    ]


def test_plan_renders_chart_for_lowest_version_of_kubeversion(context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []

    def run(argv: list[Any], **_: object) -> process.ProcessResult:
        calls.append([str(word) for word in argv])
        return process.ProcessResult((), 0, "spec: {containers: [{image: 'web:1'}]}\n", "")

    monkeypatch.setattr(process, "run", run)
    text = "FROM scratch\nKUBEVERSION >=1.25 <1.30\nCOPY charts charts\nCMD helm install shop charts/shop --set a=1\n"
    write(context, {"Kubefile": text, "charts/shop/Chart.yaml": "name: shop"})
    assert list(images(plan(context, helm=Path("helm")))) == ["docker.io/library/web:1"]
    assert calls[0][-3:] == ["--kube-version", "v1.25.0", "--set=a=1"]


def test_plan_copies_into_folders_made_by_run(context: Path) -> None:
    text = "FROM scratch\nRUN set -e; mkdir -p zoo ./opt/x && ls\nCOPY a.yaml zoo\nCOPY a.yaml opt/x\nCMD kubectl apply -f zoo/a.yaml\n"
    write(context, {"Kubefile": text, "a.yaml": "spec: {containers: [{image: 'a:1'}]}"})
    assert list(images(plan(context))) == ["docker.io/library/a:1"]
    parsed = kubefile.parse((context / "Kubefile").read_text(), "K")
    assert [file.path for file in dry_run.rootfs_files(parsed, context)] == ["opt/x/a.yaml", "zoo/a.yaml"]


def test_plan_application_without_launch_is_read_by_its_appcmds(context: Path) -> None:
    text = 'FROM scratch\nAPP web local://web\nAPPCMDS web ["kubectl apply -f plain"]\n'
    write(context, {"Kubefile": text, "web/plain": "spec: {containers: [{image: 'a:1'}]}", "web/x.sh": ""})
    assert list(images(plan(context))) == ["docker.io/library/a:1"]


def test_plan_warnings_of_commands_carry_kubefile_line(context: Path) -> None:
    text = 'FROM scratch\nAPP web local://web\nAPPCMDS web ["kubectl apply -f a"]\nCMD kubectl apply -f b\n'
    write(context, {"Kubefile": text, "web/x.sh": ""})
    warnings = [line for line in plan(context)["warnings"] if "was not read" in line]
    assert [line.partition(": the manifest")[0] for line in warnings] == [f"{context}/Kubefile:4", f"{context}/Kubefile:3"]


@pytest.mark.parametrize(("mode", "declared", "possible"), [("take", 2, 0), ("report", 1, 1)])
def test_plan_possible_images_are_taken_or_reported_by_mode(context: Path, mode: str, declared: int, possible: int) -> None:
    write(context, POSSIBLE)
    found = plan(context, possible=mode)
    assert (len(found["images"]), len(found["possibleImages"])) == (declared, possible)


POSSIBLE = {
    "Kubefile": "FROM scratch\nCOPY a.yaml manifests/\n",
    "a.yaml": "spec:\n  containers:\n  - image: a:1\n    args: [--side-image, side:2]\n",
}


def test_plan_possible_images_in_refuse_mode_raise_input_error(context: Path) -> None:
    with pytest.raises(InputError) as caught:
        plan(write(context, POSSIBLE), possible="refuse")
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [
        (f"{context}/a.yaml:4", "docker.io/library/side:2 may be an image, but no pod names it")
    ]


def test_plan_dashboard_port_is_required_value_with_warning() -> None:
    context = CASES / "dashboard-port"
    found = plan(context)
    assert found["launch"] == ["kubectl apply -f manifests/dashboard.yaml"]
    assert found["warnings"] == [
        f"{context}/dashboard.yaml:11: DashBoardPort has no default: it is to be given when the image runs\n  hint: -e DashBoardPort=VALUE"
    ]
    (value,) = found["values"]
    assert (value["name"], value["where"], value["required"]) == ("DashBoardPort", ["manifests/dashboard.yaml:11"], True)


def test_plan_schema_faults_are_reported_with_manifest_faults(context: Path) -> None:
    write(
        context,
        {
            "Kubefile": "FROM scratch\nCOPY etc etc\nCOPY a.yaml manifests\n",
            "etc/values.schema.json": '{"properties": {\n"Port": {"type": "port"}}}',
            "a.yaml": "spec:\n  containers:\n  - image: a:1:2\n",
        },
    )
    with pytest.raises(InputError) as caught:
        plan(context)
    assert [fault.where for fault in caught.value.faults] == [f"{context}/a.yaml:3", f"{context}/etc/values.schema.json:2"]


def test_plan_sealos_kubefile_finds_listed_images_and_names_release(context: Path) -> None:
    write(
        context,
        {
            "Kubefile": "FROM scratch\nCOPY charts charts\nCMD helm install shop -f etc/shop.yaml\n",
            "charts/shop/Chart.yaml": "name: shop\nversion: 1.0.0\n",
            "images/shim/shopImages": "nginx:alpine\n",
        },
    )
    found = plan(context)
    assert images(found) == {NGINX: ["listed"]}
    assert found["launch"] == ["helm upgrade --install shop charts/shop -f etc/shop.yaml"]
    assert f"{context}/Kubefile: helm installs shop, and no release is named: it is called shop" in found["warnings"]


def test_plan_ignored_manifest_yields_no_image(context: Path) -> None:
    write(
        context,
        {
            "Kubefile": "FROM scratch\nCOPY . .\n",
            ".dockerignore": "manifests/secret*\n",
            "manifests/a.yaml": "spec: {containers: [{image: nginx:alpine}]}\n",
            "manifests/secret.yaml": "spec: {containers: [{image: busybox}]}\n",
        },
    )
    assert images(plan(context)) == {NGINX: ["declared"]}

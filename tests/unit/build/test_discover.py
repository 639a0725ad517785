"""Images that files declare, and what only looks like one."""

from __future__ import annotations

import io
import tarfile
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from harness import process
from harness.build import discover
from harness.build.discover import DeclaredImage
from harness.errors import CommandError, InputError

NGINX = "docker.io/library/nginx:1"
DIGEST = "sha256:" + "a" * 64


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text).removeprefix("\n") if text.startswith("\n ") else text)
    return root


def found_in(tmp_path: Path, manifest: str, name: str = "manifests/a.yaml") -> list[tuple[str, str]]:
    found = discover.declared(write(tmp_path, {name: manifest.replace("DIGEST", DIGEST)}))
    return [(image.name, image.where.removeprefix(f"{name}:")) for image in found.images]


@pytest.mark.parametrize(
    ("manifest", "expected"),
    [
        ("kind: Pod\nspec:\n  containers:\n  - name: a\n    image: nginx:1\n", [(NGINX, "5")]),
        (
            """
            kind: Deployment
            spec:
              template:
                spec:
                  initContainers: [{name: i, image: "busybox"}]
                  containers:
                  - image: 'nginx:1'
                    name: a
                  - image: reg.io:5000/a/b@DIGEST
                  ephemeralContainers:
                  - {image: quay.io/x:2}
            """,
            [
                ("docker.io/library/busybox:latest", "5"),
                (NGINX, "7"),
                (f"reg.io:5000/a/b@{DIGEST}", "9"),
                ("quay.io/x:2", "11"),
            ],
        ),
        (
            "kind: CronJob\nspec:\n jobTemplate:\n  spec:\n   template:\n    spec:\n     containers:\n     - image: nginx:1\n",
            [(NGINX, "8")],
        ),
        (
            "kind: List\nitems:\n- spec:\n    containers:\n    - image: nginx:1\n- spec:\n    containers:\n    - image: a:2\n",
            [(NGINX, "5"), ("docker.io/library/a:2", "8")],
        ),
        (
            "apiVersion: x.io/v1\nkind: Database\nspec:\n podTemplate:\n  template:\n   spec:\n    containers:\n    - image: nginx:1\n",
            [(NGINX, "8")],
        ),
        (
            "spec:\n  volumes:\n  - name: v\n    image:\n      reference: a/data:1\n  containers:\n  - image: nginx:1\n",
            [(NGINX, "7"), ("docker.io/a/data:1", "5")],
        ),
        ("a: 1\n---\n# only a comment\n---\nspec:\n  containers:\n  - image: nginx:1\n---\n", [(NGINX, "7")]),
        ("x: &c\n- image: nginx:1\na: {containers: *c}\nb: {containers: *c}\n", [(NGINX, "2")]),
        ("x: &d {image: nginx:1}\nspec:\n  containers:\n  - <<: *d\n    name: a\n", [(NGINX, "1")]),
        ('{"spec": {\n\t"containers": [\n\t\t{"image": "nginx:1"}]}}', [(NGINX, "3")]),
        ("spec:\n  containers:\n  - name: a\n    image: ''\n  - name: b\n  - image: null\n", []),
        (
            """
            metadata:
              annotations:
                helm.sh/images: |
                  - name: a
                    image: nginx:1
                  - image: a/b:2
                artifacthub.io/images: "- c:3"
            """,
            [(NGINX, "5"), ("docker.io/a/b:2", "6"), ("docker.io/library/c:3", "7")],
        ),
    ],
)
def test_where_kubernetes_reads_an_image(tmp_path: Path, manifest: str, expected: list[tuple[str, str]]) -> None:
    assert sorted(found_in(tmp_path, manifest)) == sorted(expected)


@pytest.mark.parametrize(
    "manifest",
    [
        "kind: ConfigMap\ndata:\n  foo.parameter.image: a/b:1\n",
        "kind: ConfigMap\ndata:\n  app.yaml: |\n    spec:\n      containers:\n      - image: a/b:1\n",
        "kind: CustomResourceDefinition\nspec:\n  properties:\n    containers:\n      items: {properties: {image: {type: string}}}\n",
        "# image: a/b:1\nkind: Pod\nspec:\n  containers:\n  - name: a # image: c:1\n    command: ['image: d:1']\n",
        "kind: Thing\nspec:\n  backgroundimage: a/b:1\n  image: logo.png\n  containers: many\n  volumes: [{image: {reference: a:1}}]\n",
        "repository: a\ntag: b\n",
    ],
)
def test_what_only_looks_like_an_image_is_not_declared(tmp_path: Path, manifest: str) -> None:
    assert found_in(tmp_path, manifest) == []


def test_what_may_be_an_image_is_told_apart(tmp_path: Path) -> None:
    manifest = """
        kind: Deployment
        spec:
          containers:
          - image: operator:1
            args: ["--sidecar-image=side:2", "--image-pull=always", "--url=http://x:80"]
            env:
            - {name: RELATED_IMAGE_DB, value: "quay.io/db:3"}
            - {name: IMAGE_COUNT, value: "3"}
            - {name: AGAIN_IMAGE, value: "operator:1"}
        ---
        kind: Prometheus
        spec:
          image: quay.io/prometheus:v2
        ---
        kind: ConfigMap
        data:
          image: nginx
    """
    found = discover.declared(write(tmp_path, {"manifests/a.yaml": manifest}))
    assert found.names == ("docker.io/library/operator:1",)
    assert [(image.name, image.where) for image in found.possible] == [
        ("docker.io/library/side:2", "manifests/a.yaml:5"),
        ("quay.io/db:3", "manifests/a.yaml:7"),
        ("quay.io/prometheus:v2", "manifests/a.yaml:13"),
    ]


def test_which_files_are_read(tmp_path: Path) -> None:
    pod = "spec: {containers: [{image: '%s'}]}\n"
    names = {
        "manifests/a.yaml": "a",
        "manifests/sub/b.yml": "b",
        "manifests/c.json": "c",
        "manifests/d.tmpl": "d",
        "application/apps/x/e.yaml": "e",
        "etc/addons/f.yaml": "f",
        "g.yaml": "g",
        "manifests/no.txt": "no1",
        "bin/no.yaml": "no2",
        "registry/no.yaml": "no3",
        "charts/x/templates/no.yaml": "no4",
        "charts/values.yaml": "no5",
        "application/other.yaml": "no6",
    }
    write(tmp_path, {path: pod % image for path, image in names.items()})
    (tmp_path / "manifests/link.yaml").symlink_to("no.txt")
    found = discover.declared(tmp_path)
    assert [name.removeprefix("docker.io/library/") for name in found.names] == [f"{letter}:latest" for letter in "abcdefg"]


def test_a_manifest_that_is_not_yaml_is_a_fault(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "manifests/a.yaml": "a: 1\nb: [1\nc: 2\n",
            "manifests/b.yaml": "a: 'x\n",
            "application/apps/x/c.yaml": "\tx: 1\n",
            "manifests/d.yaml": "spec:\n  containers:\n  - image: Nginx:1\n  - image: a b\n",
            "manifests/imageList": "ok:1\nBad:1\n",
            "etc/not-for-kubernetes.yaml": "a: [\n",
            "other.yaml": "a: [\n",
        },
    )
    (tmp_path / "manifests/e.yaml").write_bytes(b"a: \xff\n")
    with pytest.raises(InputError) as caught:
        discover.declared(tmp_path)
    faults = {fault.where: fault.message for fault in caught.value.faults}
    assert sorted(faults) == [
        "application/apps/x/c.yaml:1",
        "manifests/a.yaml:3",
        "manifests/b.yaml:2",
        "manifests/d.yaml:3",
        "manifests/d.yaml:4",
        "manifests/e.yaml",
        "manifests/imageList:2",
    ]
    assert faults["manifests/a.yaml:3"].startswith("not YAML: ")
    assert faults["manifests/d.yaml:3"] == "'Nginx:1' is not an image name: 'Nginx' must be lower case"


def test_templates_are_rendered_first(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "manifests/a.yaml": "port: {{ Port }}\nspec:\n  containers:\n  - image: nginx:{{ .Tag }}\n",
            "manifests/b.yaml.tmpl": '{{ if .Port }}\nspec:\n  containers:\n  - image: {{ or .None "b" }}:1\n{{ end }}',
            "manifests/c.yaml.j2": "spec:\n  containers:\n{% for n in ['c', 'd'] %}  - image: {{ n }}:{{ Tag }}\n{% endfor %}",
            "application/apps/x/e.yaml.tmpl": "spec: {containers: [{image: 'e:{{ .Tag }}'}]}",
        },
    )
    found = discover.declared(tmp_path, env={"Tag": "1", "Port": "80"}, app_env={"x": {"Tag": "2"}})
    assert found.names == (
        "docker.io/library/b:1",
        "docker.io/library/c:1",
        "docker.io/library/d:1",
        "docker.io/library/e:2",
        NGINX,
    )
    assert [image.where for image in found.images if "nginx" in image.name] == ["manifests/a.yaml:4"]
    assert found.warnings == ()


def test_a_value_that_comes_later_is_no_fault(tmp_path: Path) -> None:
    write(tmp_path, {"manifests/a.yaml": "port: {{ Port }}\nspec:\n  containers:\n  - image: nginx:{{ .Tag }}\n  - image: a:1\n"})
    found = discover.declared(tmp_path)
    assert found.names == ("docker.io/library/a:1",)
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        ("manifests/a.yaml:4", "the image depends on Tag, which has no value yet"),
        ("manifests/a.yaml", "no default for Port, Tag: to be given when the image runs"),
    ]


def test_a_template_that_is_not_understood_is_a_fault(tmp_path: Path) -> None:
    write(tmp_path, {"manifests/a.yaml.tmpl": "\n{{ range .X }}{{ end }}", "manifests/b.yaml.j2": "{% if %}"})
    with pytest.raises(InputError) as caught:
        discover.declared(tmp_path)
    assert {fault.where for fault in caught.value.faults} == {"manifests/a.yaml.tmpl:2", "manifests/b.yaml.j2:1"}


# Lists


def test_image_lists(tmp_path: Path) -> None:
    write(tmp_path, {"manifests/imageList": "\ufeff# ours\n\nnginx:1  # why\r\n  a/b:2\n", "mine": f"c@{DIGEST}\nnginx:1\n"})
    found = discover.declared(tmp_path, image_list=tmp_path / "mine")
    assert found.images == (
        DeclaredImage(NGINX, "manifests/imageList:3", "listed"),
        DeclaredImage("docker.io/a/b:2", "manifests/imageList:4", "listed"),
        DeclaredImage(f"docker.io/library/c@{DIGEST}", f"{tmp_path}/mine:1", "listed"),
        DeclaredImage(NGINX, f"{tmp_path}/mine:2", "listed"),
    )
    assert discover.read_image_list(tmp_path / "mine") == found.images[2:]


def test_an_image_list_that_is_not_there(tmp_path: Path) -> None:
    for read in (lambda path: discover.declared(tmp_path, image_list=path), discover.read_image_list):
        with pytest.raises(InputError, match="none: no such image list"):
            read(tmp_path / "none")


def test_image_list_with_auth(tmp_path: Path) -> None:
    text = """
        - registry: reg.io:5000
          username: u
          password: "p"
          images:
          - reg.io:5000/ns/a:1
          - ns/b:2
        - username: v
          password: q
          images: [c]
        - username: nobody
          images: []
    """
    found = discover.read_image_list_with_auth(write(tmp_path, {"list.yaml": text}) / "list.yaml")
    assert [(section.registry, section.username, section.password) for section in found] == [
        ("reg.io:5000", "u", "p"),
        ("docker.io", "v", "q"),
    ]
    assert [image.name for section in found for image in section.images] == [
        "reg.io:5000/ns/a:1",
        "reg.io:5000/ns/b:2",
        "docker.io/library/c:latest",
    ]
    assert "'p'" not in repr(found)


@pytest.mark.parametrize(
    ("text", "where", "message"),
    [
        ("a: 1\n", "1", "a list of sections is wanted"),
        ("- registry: x.io\n  images: [a]\n", "1", "a section needs both username and password"),
        ("- username: u\n  password: p\n  images:\n  - A\n", "4", "'docker.io/A' is not an image name"),
        ("- [\n", "2", "not YAML"),
    ],
)
def test_image_list_with_auth_faults(tmp_path: Path, text: str, where: str, message: str) -> None:
    path = write(tmp_path, {"list.yaml": text}) / "list.yaml"
    with pytest.raises(InputError) as caught:
        discover.read_image_list_with_auth(path)
    assert [fault.where for fault in caught.value.faults] == [f"{path}:{where}"]
    assert caught.value.faults[0].message.startswith(message)


# Charts


@pytest.fixture
def helm(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str | CommandError]], list[list[str]]]:
    """Stands for helm: what it says for a chart, by the chart's name; returns the list of calls."""

    def answer(said: dict[str, str | CommandError]) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(argv: Sequence[str | Path], **_: object) -> process.ProcessResult:
            words = [str(word) for word in argv]
            calls.append(words)
            text = said[Path(words[3]).name]
            if isinstance(text, CommandError):
                raise text
            return process.ProcessResult(tuple(words), 0, textwrap.dedent(text), "")

        monkeypatch.setattr(process, "run", run)
        return calls

    return answer


CHARTS = {
    "charts/mysql/Chart.yaml": "name: my\nannotations:\n  helm.sh/images: |\n    - image: extra:1\n",
    "charts/mysql/templates/a.yaml": "{{ nonsense",
    "charts/mysql/values.yaml": "image: no:1",
    "charts/mysql/charts/sub/Chart.yaml": "name: sub",
    "application/apps/web/Chart.yaml": "name: web",
    "application/apps/web/templates/b.yaml": "{{ .Values.x }}",
    "wordpress/Chart.yaml": "name: wordpress",
}


def test_charts_are_rendered_by_helm(tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]) -> None:
    write(tmp_path, CHARTS)
    calls = helm(
        {
            "mysql": """
                ---
                # Source: my/templates/a.yaml
                spec: {containers: [{image: "mysql:8"}]}
                ---
                # Source: my/charts/sub/templates/c.yaml
                spec:
                  containers: [{image: "sub:1"}]
            """,
            "web": "# Source: web/templates/b.yaml\nspec: {containers: [{image: 'web:1'}]}\n",
            "wordpress": "",
        }
    )
    found = discover.declared(tmp_path, helm=Path("/bin/helm"), kube_version="v1.36.3")
    assert [(image.name, image.where) for image in found.images] == [
        ("docker.io/library/web:1", "application/apps/web/templates/b.yaml"),
        ("docker.io/library/extra:1", "charts/mysql/Chart.yaml:4"),
        ("docker.io/library/mysql:8", "charts/mysql/templates/a.yaml"),
        ("docker.io/library/sub:1", "charts/mysql/charts/sub/templates/c.yaml"),
    ]
    assert calls[1] == ["/bin/helm", "template", "slipway", str(tmp_path / "charts/mysql"), "--include-crds", "--kube-version", "v1.36.3"]
    assert len(calls) == 3


def test_packed_charts(tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]) -> None:
    (tmp_path / "charts").mkdir()
    for name, member in (("redis-1.tgz", "redis/Chart.yaml"), ("data.tgz", "data/x")):
        with tarfile.open(tmp_path / "charts" / name, "w:gz") as archive:
            archive.addfile(tarfile.TarInfo(member), io.BytesIO())
    (tmp_path / "charts/broken.tgz").write_text("no tar")
    calls = helm({"redis-1.tgz": "# Source: redis/templates/a.yaml\nspec: {containers: [{image: 'redis:7'}]}\n"})
    found = discover.declared(tmp_path, helm=Path("helm"))
    assert [(image.name, image.where) for image in found.images] == [("docker.io/library/redis:7", "charts/redis-1.tgz/templates/a.yaml")]
    assert len(calls) == 1


def test_without_helm_it_is_said_which_charts_were_not_read(tmp_path: Path) -> None:
    found = discover.declared(write(tmp_path, CHARTS))
    assert found.names == ("docker.io/library/extra:1",)
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        (f"{folder}/Chart.yaml", "this chart was not read: helm is not installed")
        for folder in ("application/apps/web", "charts/mysql", "wordpress")
    ]


def test_a_chart_that_needs_values_is_a_warning(tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]) -> None:
    write(tmp_path, {"charts/a/Chart.yaml": "name: a", "charts/b/Chart.yaml": "name: b"})
    helm({"a": CommandError("helm: exit code 1", details="walk\nError: password is required\n\nUse --debug"), "b": "a: [\n"})
    found = discover.declared(tmp_path, helm=Path("helm"))
    assert [warning.where for warning in found.warnings] == ["charts/a/Chart.yaml", "charts/b/Chart.yaml"]
    assert found.warnings[0].message == "helm cannot render this chart with its own values: Error: password is required"


def test_a_broken_chart_yaml_is_a_fault(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"charts/a/Chart\.yaml:2: not YAML"):
        discover.declared(write(tmp_path, {"charts/a/Chart.yaml": "name: [\n"}))


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../outside", "loop"])
def test_charts_with_a_link_out_of_the_tree_are_not_given_to_helm(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]], target: str
) -> None:
    (tmp_path / "outside").write_text("secret")
    root = write(tmp_path / "rootfs", {"charts/a/Chart.yaml": "name: a\n", "charts/a/templates/x.yaml": "a: 1\n"})
    (root / "charts/a/templates/loop").symlink_to(target)
    calls = helm({"a": ""})
    found = discover.declared(root, helm=Path("helm"))
    assert calls == []
    assert "templates/loop is a link that leads out" in found.warnings[0].message


def test_charts_with_a_link_inside_of_the_tree_are_read(
    tmp_path: Path, helm: Callable[[dict[str, str | CommandError]], list[list[str]]]
) -> None:
    root = write(tmp_path, {"charts/a/Chart.yaml": "name: a\n", "etc/x.yaml": "a: 1\n"})
    (root / "charts/a/x.yaml").symlink_to("../../etc/x.yaml")
    calls = helm({"a": ""})
    assert discover.declared(root, helm=Path("helm")).warnings == ()
    assert len(calls) == 1


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(["m0: &m0 {a: x}", *(f"m{n}: &m{n} {{<<: [*m{n - 1}, *m{n - 1}]}}" for n in range(1, 64))]),
        "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]),
        "[" * 500,
        "a: &a {b: *a}",
    ],
    ids=["merge keys", "aliases", "depth", "circle"],
)
def test_a_manifest_that_spells_out_to_more_than_memory_holds_is_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"manifests/a\.yaml:\d+: not YAML: it (holds|is nested)"):
        discover.declared(write(tmp_path, {"manifests/a.yaml": text}))

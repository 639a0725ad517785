"""Images in manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import discover
from harness.errors import InputError
from tests.unit.build.rootfs_files import DIGEST, NGINX, write


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
def test_declared_image_fields_of_kubernetes_are_found_with_lines(tmp_path: Path, manifest: str, expected: list[tuple[str, str]]) -> None:
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
def test_declared_text_resembling_image_is_ignored(tmp_path: Path, manifest: str) -> None:
    assert found_in(tmp_path, manifest) == []


def test_declared_and_possible_images_are_kept_apart(tmp_path: Path) -> None:
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
    assert found.names == ("docker.io/library/operator:1", "quay.io/db:3")
    assert [(image.name, image.where) for image in found.possible] == [
        ("docker.io/library/side:2", "manifests/a.yaml:5"),
        ("quay.io/prometheus:v2", "manifests/a.yaml:13"),
        ("docker.io/library/nginx:latest", "manifests/a.yaml:17"),
    ]


def test_declared_invalid_manifests_and_lists_are_all_reported(tmp_path: Path) -> None:
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


def test_declared_templates_are_rendered_before_images_are_read(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "manifests/a.yaml": "port: {{ Port }}\nspec:\n  containers:\n  - image: nginx:{{ .Tag }}\n",
            "manifests/b.yaml.tmpl": '{{ if .Port }}\nspec:\n  containers:\n  - image: {{ or .None "b" }}:1\n{{ end }}',
            "manifests/c.yaml.j2": "spec:\n  containers:\n{% for n in ['c', 'd'] %}  - image: {{ n }}:{{ Tag }}\n{% endfor %}",
            "application/apps/x/e.yaml.tmpl": "spec: {containers: [{image: 'e:{{ .Tag }}'}]}",
        },
    )
    found = discover.declared(tmp_path, discover.ScanSettings(env={"Tag": "1", "Port": "80"}, app_env={"x": {"Tag": "2"}}))
    assert found.names == (
        "docker.io/library/b:1",
        "docker.io/library/c:1",
        "docker.io/library/d:1",
        "docker.io/library/e:2",
        NGINX,
    )
    assert [image.where for image in found.images if "nginx" in image.name] == ["manifests/a.yaml:4"]
    assert found.warnings == ()


def test_declared_image_with_missing_value_warns(tmp_path: Path) -> None:
    write(tmp_path, {"manifests/a.yaml": "port: {{ Port }}\nspec:\n  containers:\n  - image: nginx:{{ .Tag }}\n  - image: a:1\n"})
    found = discover.declared(tmp_path)
    assert found.names == ("docker.io/library/a:1",)
    assert [(warning.where, warning.message) for warning in found.warnings] == [
        ("manifests/a.yaml:4", "the image depends on Tag, which has no value yet"),
    ]


@pytest.mark.parametrize(
    ("image", "hint"),
    [
        ("${REGISTRY}/app:${TAG}", "write {{ REGISTRY }} for the value of ENV REGISTRY"),
        ("$(REGISTRY)/app:1", "write {{ REGISTRY }} for the value of ENV REGISTRY"),
        ("nginx:$TAG", "write {{ TAG }} for the value of ENV TAG"),
        ("${TAG:-nginx:1}", "write {{ TAG }} for the value of ENV TAG"),
        ("$(params.image)", "write {{ params }}"),
        ("{{inputs.parameters.image}}", "it is found when the build runs the image"),
        ("{{ .Values.image }}:{{ .Values.tag }}", "it is found when the build runs the image"),
    ],
)
def test_declared_image_filled_in_by_other_program_warns_with_hint(tmp_path: Path, image: str, hint: str) -> None:
    write(tmp_path, {"manifests/a.yaml": f"spec:\n  containers:\n  - image: '{image}'\n  - image: a:1\n"})
    found = discover.declared(tmp_path)
    assert found.names == ("docker.io/library/a:1",)
    (warning,) = found.warnings
    assert warning.where == "manifests/a.yaml:3"
    assert warning.message == f"{image} is filled in by another program, so the file does not say which image it is"
    assert hint in str(warning.hint)


def test_declared_invalid_image_name_raises_input_error(tmp_path: Path) -> None:
    write(tmp_path, {"manifests/a.yaml": "spec:\n  containers:\n  - image: 'a:1:2'\n"})
    with pytest.raises(InputError):
        discover.declared(tmp_path)


def test_declared_unsupported_templates_raise_input_error_with_lines(tmp_path: Path) -> None:
    write(tmp_path, {"manifests/a.yaml.tmpl": "\n{{ range .X }}{{ end }}", "manifests/b.yaml.j2": "{% if %}"})
    with pytest.raises(InputError) as caught:
        discover.declared(tmp_path)
    assert {fault.where for fault in caught.value.faults} == {"manifests/a.yaml.tmpl:2", "manifests/b.yaml.j2:1"}


def test_declared_own_image_overrides_merged_image(tmp_path: Path) -> None:
    manifest = "spec:\n  containers:\n  - &one {name: one, image: 'one:1'}\n  - <<: *one\n    name: two\n    image: two:2\n"
    assert found_in(tmp_path, manifest) == [("docker.io/library/one:1", "3"), ("docker.io/library/two:2", "6")]


def test_declared_reads_json_stream_and_uppercase_suffixes(tmp_path: Path) -> None:
    stream = '{"spec": {"containers": [{"image": "a:1"}]}}\n{"spec": {"containers": [{"image": "b:2"}]}}\n'
    assert found_in(tmp_path, stream, "manifests/a.json") == [("docker.io/library/a:1", "1"), ("docker.io/library/b:2", "2")]
    for name in ("manifests/b.YAML", "manifests/c.Yml"):
        assert (NGINX, "1") in found_in(tmp_path, "spec: {containers: [{image: 'nginx:1'}]}\n---\nspec: {}\n", name)


def test_declared_duplicate_key_raises_input_error_with_line(tmp_path: Path) -> None:
    text = "spec:\n  containers:\n  - image: a:1\n    name: a\n    image: b:1\n"
    with pytest.raises(InputError) as caught:
        discover.declared(write(tmp_path, {"manifests/a.yaml": text}))
    assert [(fault.where, fault.message) for fault in caught.value.faults] == [("manifests/a.yaml:5", "image is in this mapping already")]
    (tmp_path / "manifests/a.yaml").rename(tmp_path / "etc.yaml")
    assert discover.declared(tmp_path).faults == ()


def test_declared_invalid_image_annotation_warns(tmp_path: Path) -> None:
    annotations = (
        "metadata:\n  annotations:\n    helm.sh/images: 'x: ['\n    artifacthub.io/images: |\n      - image: Bad:1\n      - image: a:1\n"
    )
    found = discover.declared(write(tmp_path, {"manifests/a.yaml": annotations}))
    assert found.names == ("docker.io/library/a:1",)
    assert [warning.where for warning in found.warnings] == ["manifests/a.yaml:3", "manifests/a.yaml:5"]
    assert found.warnings[0].message.startswith("the annotation helm.sh/images is not YAML")

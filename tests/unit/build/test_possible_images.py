"""Text that is probably the name of an image."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.build import discover
from harness.build.possible_images import image_in, images_in
from tests.unit.build.rootfs_files import DIGEST, write


@pytest.mark.parametrize(
    "word",
    [
        "registry.example.com/kafka:3.0",
        "registry.example.com:5000/a/b-c/d__e:v1",
        "localhost/x:1",
        "registry:5000/x:1",
        f"a/b@{DIGEST}",
        f"quay.io/a/b:1@{DIGEST}",
        "grafana/grafana:9.1.0",
        "library/redis:latest",
        "10.0.0.1:5000/x:1",
    ],
)
def test_image_in_word_without_hint_recognizes_reference(word: str) -> None:
    assert image_in(word) == word
    assert image_in(f"docker://{word}") == word


@pytest.mark.parametrize(
    "word",
    [
        "registry.example.com:5000",
        "redis:6379",
        "nginx:1.25",
        "http://registry.example.com/x:1",
        "12:30",
        "2024/01/02:10",
        "10.0.0.0/24:53",
        "1/2:3.4",
        "registry.example.com/path",
        "grafana/grafana",
        "data/volume:ro",
        "registry.example.com/src/main.go:12",
        "src/main.go:1.2",
        "rbac.authorization.k8s.io/v1:ClusterRole",
        "system:serviceaccount:kube-system/x",
        "apps/deployments:get",
        "app.kubernetes.io/name:",
        "a/b:c/d:1.0",
        "-a/b:1.0",
        "a//b:1.0",
        f"sha256:{'a' * 64}",
        "k8s.io/api@v0.30.0",
        "-----BEGIN",
    ],
)
def test_image_in_other_word_is_none(word: str) -> None:
    assert image_in(word) is None


@pytest.mark.parametrize(
    ("word", "image"),
    [
        ("nginx:1.25", True),
        ("redis:7", True),
        ("team/app:blue", True),
        ("nginx", False),
        ("registry.example.com:5000", False),
        ("always", False),
    ],
)
def test_image_in_hinted_word_recognizes_name_with_tag(word: str, image: bool) -> None:
    assert (image_in(word, hinted=True) == word) is image


@pytest.mark.parametrize(
    "word", ["busybox", "library/busybox", "quay.io/x/untagged", "registry:5000/x", "1password/op", "registry.example.com/x"]
)
def test_image_in_lone_hinted_word_needs_no_tag(word: str) -> None:
    assert image_in(word, hinted=True, lone=True) == word
    assert image_in(word, hinted=True) is None


@pytest.mark.parametrize(
    "word",
    ["true", "always", "1.0", "v2", "v1.2.3", "85", "2m", "10.0.0.0/24", "quay.io", "logo.png", "example.com/logo.svg", "1/2", "a//b", "A"],
)
def test_image_in_lone_hinted_value_of_setting_is_none(word: str) -> None:
    assert image_in(word, hinted=True, lone=True) is None


@pytest.mark.parametrize(
    ("word", "image"),
    [
        ("quay.io/x/untagged", True),
        ("registry.k8s.io/pause", True),
        ("us-docker.pkg.dev/p/r/x", True),
        ("registry.example.com/team/app", True),
        ("ghcr.io/organization", False),
        ("oci://ghcr.io/x/charts/y", False),
        ("topology.kubernetes.io/zone", False),
        ("kubernetes.io/service-account-token", False),
        ("example.com/a/b", False),
        ("github.com/a/b", False),
        ("host:8080/a/metrics", False),
        ("library/busybox", False),
    ],
)
def test_image_in_lone_word_without_hint_is_one_of_public_registry(word: str, image: bool) -> None:
    assert (image_in(word, lone=True) is not None) is image


@pytest.mark.parametrize(
    ("text", "images"),
    [
        ("--sidecar-image=busybox", ["busybox"]),
        ("run --sidecar-image busybox --port 80", ["busybox"]),
        ("run --sidecar-image busybox", ["busybox"]),
        ("image: busybox", ["busybox"]),
        ("HELPER_IMG=library/busybox", ["library/busybox"]),
        ("run --base quay.io/x/y", ["quay.io/x/y"]),
        ("use --image to set another", []),
        ("image: no such thing", []),
        ("failed to pull image: timeout", []),
        ("--image-features=layering --image-pull-policy=always", []),
        ("--image-repository=quay.io/x/y --registry=ghcr.io/x/y", []),
        ("see quay.io/x/y for more", []),
    ],
)
def test_images_in_text_without_tag_are_whole_values(text: str, images: list[str]) -> None:
    assert [image for _, image in images_in(text)] == images


def test_images_in_text_carry_line_numbers() -> None:
    text = '3.0=registry.example.com/kafka:3.0\nrun --image side:2 --port web:8080\nimage: "nginx:1", x: y:2\nregistry.example.com/a:1.'
    assert list(images_in(text)) == [(0, "registry.example.com/kafka:3.0"), (1, "side:2"), (2, "nginx:1"), (3, "registry.example.com/a:1")]


def possible_in(tmp_path: Path, manifest: str) -> list[tuple[str, int]]:
    found = discover.declared(write(tmp_path, {"manifests/a.yaml": manifest}))
    return sorted(((image.name, int(image.where.rpartition(":")[2])) for image in found.possible), key=lambda pair: pair[1])


OPERATOR = """
    kind: Deployment
    spec:
      template:
        spec:
          containers:
          - image: registry.example.com/storage/manager:1.2
            command: [manager, -d, daemon, --engine-image, "registry.example.com/storage/engine:1.2", --share-image, "share:7"]
            args: ["--config-reloader=registry.example.com/prom/reloader:0.53", "-backup-image=backup:1.2", "--listen=host:8080"]
            env:
            - {name: RELATED_IMAGE_POSTGRES_15, value: "registry.example.com/db/postgres:15"}
            - {name: HELPER_IMG, value: "helper:3"}
            - {name: IMAGE_PULL_POLICY, value: "a:b"}
            - name: KAFKA_IMAGES
              value: |
                3.0=registry.example.com/kafka:3.0
                3.1=registry.example.com/kafka:3.1
"""


def test_declared_operator_arguments_and_env_yield_possible_images(tmp_path: Path) -> None:
    assert possible_in(tmp_path, OPERATOR) == [
        ("registry.example.com/storage/engine:1.2", 7),
        ("docker.io/library/share:7", 7),
        ("registry.example.com/prom/reloader:0.53", 8),
        ("docker.io/library/backup:1.2", 8),
        ("docker.io/library/helper:3", 11),
        ("registry.example.com/kafka:3.0", 15),
        ("registry.example.com/kafka:3.1", 16),
    ]
    assert "registry.example.com/db/postgres:15" in discover.declared(tmp_path).names


def test_declared_custom_resource_fields_yield_possible_images(tmp_path: Path) -> None:
    manifest = """
        kind: Broker
        spec:
          brokerImage: team/broker:5
          imageName: postgres:16
          imagePullPolicy: Always
          proxy: {repository: registry.example.com/proxy, tag: 2, pullPolicy: Never}
          image:
            registry: quay.io
            repository: team/app
            tag: "1.0"
          images:
          - web:1
          - {name: team/api, newName: mirror.example.com/api, newTag: "2.4"}
          serviceName: db:5432
    """
    assert possible_in(tmp_path, manifest) == [
        ("docker.io/team/broker:5", 3),
        ("docker.io/library/postgres:16", 4),
        ("registry.example.com/proxy:2", 6),
        ("quay.io/team/app:1.0", 9),
        ("docker.io/library/web:1", 12),
        ("mirror.example.com/api:2.4", 13),
    ]


def test_declared_related_images_of_cluster_service_version_are_found(tmp_path: Path) -> None:
    manifest = "kind: ClusterServiceVersion\nspec:\n  relatedImages:\n  - {name: db, image: quay.io/db@DIGEST}\n".replace("DIGEST", DIGEST)
    found = discover.declared(write(tmp_path, {"manifests/a.yaml": manifest}))
    assert found.names == (f"quay.io/db@{DIGEST}",)


def test_declared_config_map_yields_possible_images_with_lines(tmp_path: Path) -> None:
    manifest = """
        kind: ConfigMap
        data:
          pod.yaml: |
            spec:
              containers:
              - name: helper
                image: busybox:1
          config: |
            helper = registry.example.com/helper:2
            time = 12:30
          template: |
            {{- range }}
            image: nginx:1.25
    """
    assert possible_in(tmp_path, manifest) == [
        ("docker.io/library/busybox:1", 7),
        ("registry.example.com/helper:2", 9),
        ("docker.io/library/nginx:1.25", 13),
    ]


def test_declared_descriptions_crds_and_last_applied_yield_no_images(tmp_path: Path) -> None:
    manifest = """
        kind: CustomResourceDefinition
        spec: {x: "registry.example.com/a:1"}
        ---
        kind: Thing
        metadata:
          annotations:
            kubectl.kubernetes.io/last-applied-configuration: '{"image": "registry.example.com/b:1"}'
        spec:
          description: such as registry.example.com/c:1
    """
    assert possible_in(tmp_path, manifest) == []


def test_declared_names_without_tag_are_possible_where_key_names_image(tmp_path: Path) -> None:
    manifest = """
        kind: Deployment
        spec:
          template:
            spec:
              containers:
              - image: registry.example.com/manager:1.2
                args: ["--sidecar-image=busybox", --share-image, alpine, quay.io/x/args]
                env:
                - {name: B_IMAGE, value: library/busybox}
                - {name: C_IMAGE, value: quay.io/x/untagged}
                - {name: D_SOURCE, value: quay.io/x/env}
                - {name: RELATED_IMAGE_DB, value: quay.io/x/db}
                - {name: IMAGE_PULL_POLICY, value: always}
    """
    assert possible_in(tmp_path, manifest) == [
        ("docker.io/library/busybox:latest", 7),
        ("docker.io/library/alpine:latest", 7),
        ("quay.io/x/args:latest", 7),
        ("docker.io/library/busybox:latest", 9),
        ("quay.io/x/untagged:latest", 10),
    ]
    assert "quay.io/x/db:latest" in discover.declared(tmp_path).names


def test_declared_names_without_tag_below_other_keys_are_not_possible(tmp_path: Path) -> None:
    manifest = """
        kind: StorageClass
        parameters: {imageFeatures: layering, imageFormat: raw}
        spec:
          imageRegistry: quay.io/x/y
          url: oci://ghcr.io/x/charts/y
          repoURL: ghcr.io/x/charts/y
          registries: [{mirrors: [quay.io/x/y]}]
          image: {repository: quay.io/x/y, name: web, pullPolicy: always, enabled: true}
          imageMinimumGCAge: 2m
          backgroundImage: night.png
          topologyKey: topology.kubernetes.io/zone
          roleRef: rbac.authorization.k8s.io/v1
    """
    assert possible_in(tmp_path, manifest) == []

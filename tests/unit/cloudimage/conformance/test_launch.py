"""Files that launch commands name, and those that cannot be known."""

from __future__ import annotations

import pytest

from harness.cloudimage.conformance.launch import named_files


def paths(*commands: str) -> list[str | None]:
    return [file.path for file in named_files(commands)]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("kubectl apply -f manifests/a.yaml", ["manifests/a.yaml"]),
        ("kubectl apply -f a.yaml,b.yaml -fc.yaml --filename=d.yaml", ["a.yaml", "b.yaml", "c.yaml", "d.yaml"]),
        ("kubectl create -k ./overlays/", ["overlays"]),
        ("cd application/apps/x && kubectl apply -f ../y/a.yaml", ["application/apps/y/a.yaml"]),
        ("export A='1 2' && kubectl apply -f 'a b.yaml'; echo done", ["a b.yaml"]),
        ("helm upgrade --install web charts/web -f etc/v.yaml --set a=b/c", ["etc/v.yaml"]),
        ("kubectl apply -f a.yaml > /dev/null 2>&1 && kubectl apply -f b.yaml", ["a.yaml", "b.yaml"]),
        ("kubectl get pods -f x", []),
        ("kubectl apply -f -", []),
    ],
)
def test_named_files_of_rootfs_paths_are_listed(command: str, expected: list[str]) -> None:
    assert paths(command) == expected


@pytest.mark.parametrize(
    "command",
    [
        "kubectl apply -f $FILE",
        "kubectl apply -f ${DIR}/a.yaml",
        "kubectl apply -f 'manifests/*.yaml'",
        "kubectl apply -f /etc/kubernetes/a.yaml",
        "kubectl apply -f ../a.yaml",
        "cd /tmp && kubectl apply -f a.yaml",
        "cd $DIR && kubectl apply -f a.yaml",
        "helm template web charts/web > a.yaml && kubectl apply -f a.yaml",
        "bash scripts/make.sh; kubectl apply -f a.yaml",
        "if true; then kubectl apply -f a.yaml; fi; kubectl apply -f b.yaml",
    ],
)
def test_named_files_of_paths_decided_at_run_time_are_unknown(command: str) -> None:
    assert paths(command) == [None]


def test_named_files_after_program_that_makes_files_are_unknown() -> None:
    assert paths("kubectl apply -f a.yaml", "sed -n 1p a > b.yaml", "kubectl apply -f b.yaml") == ["a.yaml", None]


def test_named_files_of_each_command_start_at_root() -> None:
    assert paths("cd etc && kubectl apply -f a.yaml", "kubectl apply -f a.yaml") == ["etc/a.yaml", "a.yaml"]


@pytest.mark.parametrize(
    ("command", "remote"),
    [
        ("kubectl apply -f https://example.com/a.yaml", True),
        ("kubectl create -k git@example.com:a/b", False),
        ("helm install a oci://example.com/a", True),
        ("helm install -g HTTPS://example.com/a.tgz", True),
        ("helm install a b --repo https://example.com", True),
        ("helm install a b -f https://example.com/v.yaml", True),
        ("helm upgrade a charts/a --set-string https://example.com", False),
        ("helm install a charts/a --set url=https://example.com", False),
        ("curl https://example.com", False),
        ("kubectl apply -f 'unclosed", False),
    ],
)
def test_named_files_of_manifest_and_chart_urls_are_remote(command: str, remote: bool) -> None:
    assert any(file.is_remote for file in named_files([command])) == remote

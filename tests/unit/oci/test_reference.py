from __future__ import annotations

import itertools

import pytest

from harness.oci.reference import Reference, is_digest, lowered

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
        ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("index.docker.io/bitnami/redis", "docker.io/bitnami/redis:latest", "bitnami/redis:latest"),
        ("docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
        ("ghcr.io/x/y:1", "ghcr.io/x/y:1", "ghcr.io/x/y:1"),
        ("localhost/x", "localhost/x:latest", "localhost/x:latest"),
        ("registry:5000/x", "registry:5000/x:latest", "registry:5000/x:latest"),
        ("[::1]:5000/x/y", "[::1]:5000/x/y:latest", "[::1]:5000/x/y:latest"),
        ("a/b/c__d-e.f_g:T.1", "docker.io/a/b/c__d-e.f_g:T.1", "a/b/c__d-e.f_g:T.1"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}", f"nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx:1@{DIGEST}", f"nginx:1@{DIGEST}"),
        # The short form would be read as a registry of that name, so it stays long.
        ("docker.io/localhost/x", "docker.io/localhost/x:latest", "docker.io/localhost/x:latest"),
        ("docker.io/a.b/x", "docker.io/a.b/x:latest", "docker.io/a.b/x:latest"),
    ],
)
def test_reference_parse_gives_full_and_familiar_name(text: str, full: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == full
    assert reference.familiar == familiar
    assert Reference.parse(full) == Reference.parse(familiar) == reference


def test_reference_parse_tag_defaults_to_latest_without_digest() -> None:
    assert Reference.parse("nginx").tag == "latest"
    assert Reference.parse(f"nginx@{DIGEST}").tag is None
    assert Reference.parse(f"nginx:1@{DIGEST}").tag == "1"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no repository"),
        (":1", "no repository"),
        ("docker.io/", "slashes"),
        ("a//b", "slashes"),
        ("a/b/", "slashes"),
        ("Nginx", "lower case"),
        ("a b", "may hold"),
        ("-a", "may hold"),
        ("a..b", "may hold"),
        ("../etc", "not a registry address"),
        ("a/../b", "may hold"),
        ("nginx:", "not a tag"),
        ("nginx:-1", "not a tag"),
        ("nginx:a b", "not a tag"),
        ("nginx:" + "x" * 129, "not a tag"),
        ("nginx@sha256:12", "not a digest"),
        ("nginx@", "not a digest"),
        ("nginx@md5:" + "0" * 32, "not a digest"),
        ("-bad-.io/x", "not a registry address"),
        ("a/" * 150 + "b", "longer than"),
        ("nginx\n", "may hold"),
    ],
)
def test_reference_parse_invalid_name_raises_value_error_with_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Reference.parse(text)


def test_reference_sort_with_missing_parts_follows_text_order() -> None:
    some = [Reference.parse(text) for text in ("b", "a:2", f"a@{DIGEST}", "ghcr.io/a", "a")]
    for order in itertools.permutations(some):
        assert sorted(order) == sorted(some, key=str)


def test_is_digest_accepts_whole_lowercase_digest_only() -> None:
    assert is_digest(DIGEST)
    assert not is_digest(DIGEST[:-1])
    assert not is_digest(DIGEST.upper())


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("xxxSaaS", "xxxsaas"),
        ("Team/Web:V1", "team/web:V1"),
        ("Registry.example.com:5000/Team/Web", "Registry.example.com:5000/team/web"),
        ("localhost/A", "localhost/a"),
        (f"A@sha256:{'0' * 64}", f"a@sha256:{'0' * 64}"),
        ("web:1", "web:1"),
        ("A//b", "A//b"),
        ("A:", "A:"),
        ("", ""),
    ],
)
def test_lowered_changes_repository_only_and_keeps_registry_and_tag(text: str, name: str) -> None:
    assert lowered(text) == name

"""registries.conf: which endpoints an image is asked of, and what the file can have wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError, StoreError, UsageError
from harness.oci.reference import Reference
from harness.oci.registry import config

DIGEST = "sha256:" + "a" * 64


def rules(tmp_path: Path, text: str) -> config.Registries:
    path = tmp_path / "registries.conf"
    path.write_text(text)
    return config.load(path)


def asked(found: config.Registries, name: str) -> list[str]:
    return [str(endpoint.reference) for endpoint in found.endpoints(Reference.parse(name))]


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as raised:
        rules(tmp_path, text)
    return [str(fault).replace(f"{tmp_path}/registries.conf", "FILE") for fault in raised.value.faults]


def test_endpoints_without_rules_use_https() -> None:
    (endpoint,) = config.Registries().endpoints(Reference.parse("quay.io:8443/team/tool:v2"))
    assert endpoint.base_urls == ("https://quay.io:8443",)
    assert (endpoint.repository, endpoint.domain, endpoint.mirror) == ("team/tool", "quay.io:8443", False)


def test_endpoints_docker_io_uses_registry_1_host() -> None:
    (endpoint,) = config.Registries().endpoints(Reference.parse("nginx"))
    assert endpoint.base_urls == ("https://registry-1.docker.io",)
    assert (endpoint.repository, endpoint.domain) == ("library/nginx", "docker.io")


def test_endpoints_mirrors_precede_location_and_may_use_http(tmp_path: Path) -> None:
    found = rules(
        tmp_path,
        """
        [[registry]]
        prefix = "docker.io"
        location = "inner.test:5000/hub"
        [[registry.mirror]]
        location = "127.0.0.1:5001"
        insecure = true
        [[registry.mirror]]
        location = "mirror/team"
        """,
    )
    first, second, own = found.endpoints(Reference.parse("nginx:1.25"))
    assert first.base_urls == ("https://127.0.0.1:5001", "http://127.0.0.1:5001")
    assert (first.repository, first.reference.tag) == ("library/nginx", "1.25")
    assert (second.host, second.repository) == ("mirror", "team/library/nginx")
    assert str(own.reference) == "inner.test:5000/hub/library/nginx:1.25"
    assert [endpoint.mirror for endpoint in (first, second, own)] == [True, True, False]


def test_endpoints_longest_prefix_wins(tmp_path: Path) -> None:
    found = rules(
        tmp_path,
        """
        [[registry]]
        location = "example.com"
        [[registry]]
        prefix = "example.com/team"
        location = "team.test"
        [[registry]]
        prefix = "example.com/team/app:1"
        location = "pinned.test/app:1.0.7"
        """,
    )
    assert asked(found, "example.com/other/app:1") == ["example.com/other/app:1"]
    assert asked(found, "example.com/team/tool:1") == ["team.test/tool:1"]
    assert asked(found, "example.com/team/app:1") == ["pinned.test/app:1.0.7"]
    assert asked(found, f"example.com/team/app@{DIGEST}") == [f"team.test/app@{DIGEST}"]


@pytest.mark.parametrize("name", ["example.com:5000/x/y:1", "example.community/x/y:1", "example.com/teams/y:1"])
def test_endpoints_prefix_matches_whole_name_components_only(tmp_path: Path, name: str) -> None:
    found = rules(
        tmp_path, '[[registry]]\nprefix = "example.com/team"\nlocation = "a.test"\n[[registry]]\nprefix = "x.com"\nlocation = "b.test"'
    )
    assert asked(found, name) == [name]
    assert asked(found, "x.com:5000/y:1") == ["x.com:5000/y:1"]


def test_endpoints_wildcard_prefix_matches_subdomains_only(tmp_path: Path) -> None:
    found = rules(
        tmp_path,
        """
        [[registry]]
        prefix = "*.example.com"
        location = "cache.test/all"
        [[registry]]
        prefix = "*.kept.com"
        insecure = true
        [[registry]]
        prefix = "b.example.com"
        location = "b.test"
        """,
    )
    assert asked(found, "a.example.com/x:1") == ["cache.test/all/x:1"]
    assert asked(found, "a.b.example.com:5000/x:1") == ["cache.test/all/x:1"]
    assert asked(found, "example.com/x:1") == ["example.com/x:1"]
    assert asked(found, "b.example.com/x:1") == ["b.test/x:1"]
    (kept,) = found.endpoints(Reference.parse("a.kept.com:5000/x:1"))
    assert (str(kept.reference), kept.insecure) == ("a.kept.com:5000/x:1", True)


@pytest.mark.parametrize(
    ("setting", "by_tag", "by_digest"),
    [
        ('pull-from-mirror = "digest-only"', False, True),
        ('pull-from-mirror = "tag-only"', True, False),
        ('pull-from-mirror = "all"', True, True),
        ("", True, True),
    ],
)
def test_endpoints_pull_from_mirror_limits_mirror_to_tags_or_digests(tmp_path: Path, setting: str, by_tag: bool, by_digest: bool) -> None:
    found = rules(tmp_path, f'[[registry]]\nlocation = "a.test"\n[[registry.mirror]]\nlocation = "m.test"\n{setting}')
    assert (len(asked(found, "a.test/x:1")) == 2) is by_tag
    assert (len(asked(found, f"a.test/x@{DIGEST}")) == 2) is by_digest


def test_endpoints_mirror_by_digest_only_skips_mirror_for_tags(tmp_path: Path) -> None:
    found = rules(tmp_path, '[[registry]]\nlocation = "a.test"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "m.test"')
    assert asked(found, "a.test/x:1") == ["a.test/x:1"]
    assert asked(found, f"a.test/x@{DIGEST}") == [f"m.test/x@{DIGEST}", f"a.test/x@{DIGEST}"]


def test_endpoints_blocked_prefix_is_refused_with_file(tmp_path: Path) -> None:
    found = rules(tmp_path, '[[registry]]\nprefix = "docker.io/library"\nlocation = "docker.io/library"\nblocked = true')
    with pytest.raises(StoreError, match=r"docker\.io/library/nginx:latest is blocked by .*registries\.conf"):
        found.endpoints(Reference.parse("nginx"))
    assert asked(found, "team/nginx") == ["docker.io/team/nginx:latest"]


def test_load_reports_all_faults_with_places(tmp_path: Path) -> None:
    text = """
    short-name-mod = "enforcing"
    [[registry]]
    prefx = "a.test"
    [[registry]]
    location = "https://b.test"
    insecure = "yes"
    [[registry.mirror]]
    insecure = true
    [[registry.mirror]]
    location = "m.test"
    pull-from-mirror = "digest"
    [[registry]]
    prefix = "a.*.test"
    [[registry]]
    location = "c.test"
    [[registry]]
    location = "c.test"
    """
    assert faults(tmp_path, text) == [
        "FILE .short-name-mod: unknown key 'short-name-mod'\n  hint: did you mean short-name-mode?",
        "FILE .registry[0].prefx: unknown key 'prefx'\n  hint: did you mean prefix?",
        "FILE .registry[1].insecure: must be true or false",
        "FILE .registry[1].location: 'https://b.test' has a scheme\n  hint: drop it",
        'FILE .registry[1].mirror[0]: has no location\n  hint: write location = "host[:port][/namespace]"',
        (
            "FILE .registry[1].mirror[1].pull-from-mirror: 'digest' is not one of all, digest-only, tag-only\n"
            "  hint: did you mean digest-only?"
        ),
        "FILE .registry[2].prefix: 'a.*.test' is not a place\n  hint: write host[:port][/namespace]",
        "FILE .registry[4]: prefix 'c.test' stands in an earlier table too\n  hint: merge the two",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[[registry]]\nlocation = \n", "FILE:2: not TOML: Invalid value"),
        ("[[registry]]\nlocation = ", "FILE:2: not TOML: Invalid value"),
        ("[registries.search]\nregistries = []", "FILE .registries: is version 1 of the format, which has no mirrors"),
        ("[[registry]]\ninsecure = true", "FILE .registry[0]: has neither prefix nor location"),
        ('[[registry]]\nprefix = "*.test.com/x"', "FILE .registry[0].prefix: '*.test.com/x' is not a pattern"),
        ('registry = ["a.test"]', "FILE .registry: must be tables"),
        ('[registry]\nlocation = "a.test"', "FILE .registry: must be a list"),
        (
            '[[registry]]\nlocation = "a"\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = "m"\npull-from-mirror = "all"',
            "FILE .registry[0].mirror[0].pull-from-mirror: cannot stand beside mirror-by-digest-only = true of its registry",
        ),
    ],
)
def test_load_single_fault_is_reported_with_place(tmp_path: Path, text: str, fault: str) -> None:
    (found,) = faults(tmp_path, text)
    assert found.partition("\n")[0] == fault


def test_parse_search_registries_are_ignored_with_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[config.Registry] = []
    with pytest.MonkeyPatch.context() as patch:
        told: list[str] = []
        patch.setattr("harness.log.warning", told.append)
        found += config.parse('unqualified-search-registries = ["quay.io"]', "FILE", [])
    assert not found
    assert len(told) == 1
    assert "unqualified-search-registries is ignored" in told[0]


def test_load_missing_named_file_raises_usage_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"none\.conf: cannot be read"):
        config.load(tmp_path / "none.conf")
    monkeypatch.setenv("SLIPWAY_REGISTRIES_CONF", str(tmp_path / "named.conf"))
    with pytest.raises(UsageError, match=r"named\.conf"):
        config.load()


def test_load_drop_in_overrides_table_of_user_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLIPWAY_REGISTRIES_CONF", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "containers"
    (folder / "registries.conf.d").mkdir(parents=True)
    (folder / "registries.conf").write_text(
        '[[registry]]\nprefix = "a.test"\nlocation = "one.test"\n[[registry]]\nprefix = "b.test"\nlocation = "b1.test"'
    )
    (folder / "registries.conf.d/10-a.conf").write_text('[[registry]]\nprefix = "a.test"\nlocation = "two.test"')
    found = config.load()
    assert asked(found, "a.test/x:1") == ["two.test/x:1"]
    assert asked(found, "b.test/x:1") == ["b1.test/x:1"]


def test_certificates_of_host_are_read_from_certs_d(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "registries.conf").write_text("")
    folder = tmp_path / "containers/certs.d/inner.test:5000"
    folder.mkdir(parents=True)
    for name in ("ca.crt", "client.cert", "client.key"):
        (folder / name).touch()
    found = config.load(tmp_path / "registries.conf")
    assert found.certificates("inner.test:5000") == config.Certificates(
        (folder / "ca.crt",), ((folder / "client.cert", folder / "client.key"),)
    )
    assert found.certificates("inner.test") == config.Certificates()

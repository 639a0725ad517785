"""A cluster as options describe it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import cluster_options
from harness.cli.options import ClusterFlags, SiteAccess, Ssh
from harness.clusterfile import ExternalRegistry, Password
from harness.errors import UsageError
from harness.lifecycle.cluster import request


def test_wanted_flags_become_cluster_with_machines_and_logins() -> None:
    spec = ClusterFlags(images=["web"], control_plane=["10.0.0.1-10.0.0.3"], workers=["10.0.0.9"], cluster="shop", env=["A=b"])
    found, options, _ = cluster_options.wanted(
        cluster_options.ClusterOptions(spec=spec, ssh=Ssh(user="ops", port=2222), site=SiteAccess(), timeout=30)
    )
    control_plane, workers = request.machines(found)
    assert [machine.address for machine in control_plane] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert {(machine.login.user, machine.login.port) for machine in (*control_plane, *workers)} == {("ops", 2222)}
    assert found.cluster is not None
    assert (found.cluster.name, found.cluster.image, found.cluster.env, options.timeout) == ("shop", "web", {"A": "b"}, 30)


def test_external_registry_address_is_split_and_site_options_are_kept() -> None:
    registry = cluster_options.external_registry("harbor.site:8443/apps", SiteAccess(plain_http=True, ca=Path("ca.crt")))
    assert registry is not None
    assert (registry.domain, registry.port, registry.path, registry.plain_http, registry.ca) == (
        "harbor.site",
        8443,
        "apps",
        True,
        "ca.crt",
    )


def test_of_site_certificate_below_home_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "ca.crt").write_bytes(b"certificate")
    registry = ExternalRegistry("harbor.site", username="a", password=Password("b"), ca="~/ca.crt", plain_http=True)
    access = cluster_options.site_access(registry)
    assert access == SiteAccess(plain_http=True, ca=tmp_path / "ca.crt")
    site = cluster_options._of_site(registry, access)
    assert (site.ca, site.plain, site.site) == (b"certificate", True, cluster_options.site_of(registry))
    for ca, reason in (("~nosuchuser/ca.crt", "no user nosuchuser"), ("~/absent.crt", "absent.crt: no such file")):
        with pytest.raises(UsageError, match=reason):
            cluster_options.site_access(ExternalRegistry("harbor.site", ca=ca))


def test_known_profile_unknown_name_is_refused_with_names_of_profiles() -> None:
    assert [cluster_options.known_profile(name) for name in ("cis", None)] == ["cis", None]
    with pytest.raises(UsageError, match="--profile stig: there is no such profile") as refused:
        cluster_options.known_profile("stig")
    assert refused.value.hint == "there are: cis"

"""A runtime that others build on: a program that a script of the web brings into the rootfs."""

from __future__ import annotations

from pathlib import Path

from tests.as_written import texts
from tests.as_written.conftest import World


def test_build_script_of_web_runs_in_rootfs_and_its_program_is_usable(world: World, tmp_path: Path) -> None:
    folder = texts.write(tmp_path / "istio", {"Kubefile": texts.kubefile("runtime")})
    # A step that the store has is not run again.
    before = len(world.site.asked)
    world.type("sealer build -t istio:latest .", folder)
    assert world.site.asked[before:] == ["https://istio.io/downloadIstio", texts.ISTIO_SCRIPT_URL, texts.ISTIO_ARCHIVE_URL]
    # Others build on it, and its program runs.
    others = texts.write(tmp_path / "others", {"Kubefile": "FROM istio:latest\nRUN istio-1.10.0/bin/istioctl version > etc/version\n"})
    world("build", "-t", "others", "--discover", "declared", others)
    proof = texts.write(tmp_path / "proof", {"Kubefile": "FROM others:latest\nRUN grep -qx 1.10.0 etc/version\n"})
    world("build", "-t", "proof", "--discover", "declared", proof)


def test_build_unresolvable_host_fails_with_add_host_hint(world: World, tmp_path: Path) -> None:
    text = "FROM scratch\nRUN curl -fsSL https://files.invalid/a -o a\n"
    said = world("build", "-t", "none", "--on", "none", texts.write(tmp_path / "none", {"Kubefile": text}), check=False)
    assert said.returncode == 3
    assert "--add-host NAME:ADDRESS" in said.stderr


def test_build_untrusted_certificate_fails_step(world: World, tmp_path: Path) -> None:
    for program in ("curl -fsSL -o a", "wget -nv -O a"):  # -q would hide the reason
        text = f"FROM scratch\nRUN {program} {texts.DASHBOARD_URL}\n"
        folder = texts.write(tmp_path / program.split()[0], {"Kubefile": text})
        words: tuple[str | Path, ...] = ("build", "-t", "none", "--on", "none", *world.add_hosts, folder)
        refused = world(*words, check=False, env={"SSL_CERT_FILE": "/etc/ssl/certs/ca-certificates.crt"})
        assert refused.returncode == 3, program
        assert "certificate" in refused.stderr
        world(*words)

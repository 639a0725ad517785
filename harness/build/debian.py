"""A minimal Debian, made from the package archive where it cannot be pulled."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from harness import process
from harness.build.run_steps import emulation_hint
from harness.errors import BuildError, CommandError, EngineError
from harness.host import apt, docker, scratch
from harness.oci.model import Platform


def make_debian(client: docker.Client, name: str, suite: str, platform: Platform) -> None:
    """Make a minimal Debian from the archives that apt uses here and give it to the engine as ``name``.

    Its packages are set up by programs of their own, so for another processor the kernel must emulate it. Raises EngineError, BuildError.
    """
    try:
        program = apt.ensure("mmdebstrap", "mmdebstrap")
    except CommandError as error:
        raise EngineError(f"{name} cannot be pulled, and making it needs mmdebstrap", hint=error.hint) from error
    foreign = [] if platform.matches(Platform.host()) else [f"--architectures={platform.architecture}"]
    with tempfile.TemporaryDirectory(prefix="slipway-base-", dir=scratch.folder()) as work:
        tree = Path(work, "base.tar")
        sources = [str(path) for path in _apt_sources(suite)] or [f"deb {_archive()} {suite} main"]
        # apt's own settings (mirrors without a valid-until date, proxies) hold for the base as they hold for this machine.
        dump = process.run(["apt-config", "dump"]).stdout
        settings = [line for line in dump.splitlines() if re.match(r'Acquire::(Check-|Retries|https?::Proxy )[^"]*"[^@"]*";', line)]
        Path(work, "50host").write_text("\n".join(settings) + "\n")
        left_out = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("man", "locale", "doc")]
        hook = f"--customize-hook=copy-in {work}/50host /etc/apt/apt.conf.d"
        words: list[str | Path] = [
            program,
            "--quiet",
            "--variant=minbase",
            "--include=ca-certificates",
            *foreign,
            hook,
            *left_out,
            suite,
            tree,
            *sources,
        ]
        try:
            process.run(words, env={"SOURCE_DATE_EPOCH": "0"})
        except CommandError as error:
            if not foreign:
                raise
            hint = emulation_hint(platform)
            raise BuildError(
                f"no Debian {suite} for {platform} can be made here: {error.message}", hint=hint, details=error.details
            ) from error
        repository, tag = name.split(":")
        client.api.import_image(src=str(tree), repository=repository, tag=tag, changes=['CMD ["bash"]'])


def _archive() -> str:
    """The address of the Debian archive that apt uses here."""
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(ORIGIN)", "Created-By: Packages", "Origin: Debian"]
    archives = [word for word in process.run(words).stdout.split() if "security" not in word]
    if not archives:
        raise BuildError("apt has no index of a Debian archive", hint="apt-get update")
    return archives[0]


def _apt_sources(suite: str) -> list[Path]:
    places = [
        *Path("/etc/apt/sources.list.d").glob("*.sources"),
        Path("/etc/apt/sources.list"),
        *Path("/etc/apt/sources.list.d").glob("*.list"),
    ]
    return sorted(path for path in places if path.exists() and re.search(rf"\b{suite}\b", path.read_text()))

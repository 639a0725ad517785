"""The real cosign for tests. Nothing of ours is in it."""

from __future__ import annotations

from pathlib import Path

from harness import process
from tests.integration import gotool
from tests.waiting import HANG

PASSWORD = "a password of tests"


class Cosign:
    """Runs cosign against registries that speak plain HTTP, without any service of the Internet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = gotool.cosign()

    def __call__(self, *words: str | Path, check: bool = True) -> process.ProcessResult:
        # `cosign copy` has as many pushes under way as Go has processors: with several, an index may be put while what it lists is still
        # being written, which a registry refuses.
        environment = {"COSIGN_PASSWORD": PASSWORD, "HOME": str(self.folder), "DOCKER_CONFIG": str(self.folder), "GOMAXPROCS": "1"}
        return process.run([self._program, *words], env=environment, cwd=self.folder, check=check, timeout=HANG)

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """A key pair that cosign made: the private and the public file."""
        self("generate-key-pair", "--output-key-prefix", name)
        return self.folder / f"{name}.key", self.folder / f"{name}.pub"

    def sign(self, image: str, key: Path, *words: str) -> None:
        self("sign", "--yes", "--key", key, "--tlog-upload=false", "--allow-http-registry", *words, image)

    def verify(self, image: str, key: Path, *words: str) -> process.ProcessResult:
        return self("verify", "--key", key, "--insecure-ignore-tlog=true", "--allow-http-registry", *words, image, check=False)

    def verify_attestation(self, image: str, key: Path, kind: str) -> process.ProcessResult:
        options = ["--insecure-ignore-tlog=true", "--allow-http-registry", "--type", kind]
        return self("verify-attestation", "--key", key, *options, image, check=False)

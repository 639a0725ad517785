"""The real cosign for tests: Debian's, fetched once into the cache, pinned by digest. Nothing of ours is in it."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from harness import packages, paths, process
from tests.waiting import HANG

VERSION = "2.5.0-2+b4"
SUITE = "trixie"
SHA256 = {
    "amd64": "aef4fb6635710fd369ef73c07dde35540f45c877984e20f37aa11e181bb597c3",
    "arm64": "0e917a7ed906dd756001133bc67090b2e45decba139916c84237b0900bdc3628",
}
PASSWORD = "a password of tests"


def program() -> Path:
    """The path of cosign. Raises CommandError when it cannot be had."""
    found = paths.cache() / "tools" / f"cosign-{VERSION}"
    if not found.exists():
        with tempfile.TemporaryDirectory(prefix="slipway-cosign-") as scratch:
            packages.unpack("cosign", VERSION, SUITE, SHA256[paths.architecture()], Path(scratch))
            found.parent.mkdir(parents=True, exist_ok=True)
            part = found.with_name(f"{found.name}.{os.getpid()}")
            shutil.copyfile(Path(scratch, "usr/bin/cosign"), part)
            part.chmod(0o755)
            part.rename(found)
    return found


class Cosign:
    """Runs cosign against registries that speak plain HTTP, without any service of the Internet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = program()

    def __call__(self, *words: str | Path, check: bool = True) -> process.Result:
        environment = {"COSIGN_PASSWORD": PASSWORD, "HOME": str(self.folder), "DOCKER_CONFIG": str(self.folder)}
        return process.run([self._program, *words], env=environment, cwd=self.folder, check=check, timeout=HANG)

    def key_pair(self, name: str) -> tuple[Path, Path]:
        """A key pair that cosign made: the private and the public file."""
        self("generate-key-pair", "--output-key-prefix", name)
        return self.folder / f"{name}.key", self.folder / f"{name}.pub"

    def sign(self, image: str, key: Path) -> None:
        self("sign", "--yes", "--key", key, "--tlog-upload=false", "--allow-http-registry", image)

    def verify(self, image: str, key: Path, *words: str) -> process.Result:
        return self("verify", "--key", key, "--insecure-ignore-tlog=true", "--allow-http-registry", *words, image, check=False)

    def verify_attestation(self, image: str, key: Path, kind: str) -> process.Result:
        options = ["--insecure-ignore-tlog=true", "--allow-http-registry", "--type", kind]
        return self("verify-attestation", "--key", key, *options, image, check=False)

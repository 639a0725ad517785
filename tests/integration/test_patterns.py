"""Text from elsewhere takes time in proportion to its length, whatever it holds.

Each case runs in a process of its own (this module, called with the case's name). Its limit is CPU time, not time on a clock, and many
times what the case needs: what is not linear needs hours for these inputs.
"""

from __future__ import annotations

import contextlib
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.build import possible_images
from harness.clusterfile import secrets, serialize
from harness.kubefile import context, launch_commands, version_range
from harness.lifecycle.cluster import redaction
from harness.lifecycle.steps import registries
from harness.nodes import kubectl
from harness.trust import keys
from harness.trust.sbom import go_binary
from harness.trust.sbom import packages as sbom_packages

SIZE = 512 << 10
SECONDS = 300
"""Of CPU time, for all texts of one case."""

TEXTS: dict[str, tuple[str, str]] = {
    "one word": ("", "a"),
    "hexadecimal": ("", "0123456789abcdef"),
    "short words with dots": ("", "a."),
    "dashes": ("", "-"),
    "options": ("", "--a "),
    "secret options": ("", "--token "),
    "short options": ("", "-u,"),
    "names in one line": ("", "token=a "),
    "colons in one line": ("", "token: "),
    "unclosed quotes": ("", 'token="'),
    "quotes of both kinds": ("", "token='a token=\""),
    "quotes over lines": ("", 'token="a\n'),
    "escaped quotes": ('token="', '\\"'),
    "backslashes": ("token=", "\\"),
    "lists": ("", "token=["),
    "names without an end": ("", "token="),
    "paths of keys": ("", "ssl_key=/"),
    "placeholders as values": ("", "token={{"),
    "variables as values": ("", "token=$a"),
    "quotes after names": ("", "token=\\'"),
    "block scalars": ("", "token: |\n"),
    "a block without end": ("token: |\n", " x\n"),
    "items": ("", "token:\n- a\n"),
    "headers": ("", "authorization: "),
    "URLs": ("", "a://b:"),
    "schemes": ("", "a://"),
    "web tokens": ("", "eyJaaaaaaaaa."),
    "keys that begin": ("", "-----BEGIN PRIVATE KEY-----"),
    "keys that end": ("", "-----END PRIVATE KEY-----"),
    "commands": ("", "mysql "),
    "bearer": ("", "bearer "),
    "names of manifests": ("", "name: a, "),
    "empty lines": ("", "\n"),
    "blanks": ("", " "),
    "directives": ("", "%a\n"),
    "braces": ("", "{"),
    "placeholders": ("", "{{a}}"),
    "open placeholders": ("", "{{ a "),
}
"""Inputs by what they repeat, behind a beginning."""


def each(call: Callable[[str], object]) -> None:
    for name, (front, unit) in TEXTS.items():
        print(name, file=sys.stderr, flush=True)
        call(front + unit * (SIZE // len(unit)))


def go_programs() -> None:
    for unit in (b"\xff Go buildinf:", b"\xff Go buildinf:" + b"\x08\x02" + bytes(16) + b"\xff\xff\x7fno"):
        finder = go_binary.Finder()
        # Code that copies its buffer at each magic copies terabytes for 32 MiB. For 2 MiB it would end within the limit.
        for _ in range(64):
            finder.feed(unit * (SIZE // len(unit)))
        assert finder.end() is None


def packages() -> None:
    text = "Package: a\nVersion: 1\nStatus: install ok installed\nSource: b" + " (" * (SIZE // 2)
    assert len(list(sbom_packages._debian(text, sbom_packages.System("debian", "12")))) == 1


def versions() -> None:
    with contextlib.suppress(ValueError):
        version_range.check("1-" * (SIZE // 2))


def commands() -> None:
    for unit in (";", "helm install '", "helm install a \\\n", "helm install -g ;", "/", "$(A)", "\\"):
        text = unit * (SIZE // len(unit))
        launch_commands.with_releases([text], ())
        launch_commands.with_references(text, {"A"})


CASES: dict[str, Callable[[], object]] = {
    "a log": lambda: each(redaction.text),
    "a stored text": lambda: each(secrets.holds_secret),
    "a stored value": lambda: each(lambda text: (secrets.is_secret("A", text), secrets.is_secret_name(text))),
    "a file that is merged into": lambda: each(serialize.protect),
    "Go programs": go_programs,
    "packages": packages,
    "images of a manifest": lambda: registries._IMAGE.findall("\n" * SIZE),
    "names of flags": lambda: possible_images._FLAG.fullmatch("--" + "image" * (SIZE // 5)),
    "words that may be an image": lambda: possible_images._WORD.findall("a" * SIZE),
    "names that speak of images": lambda: each(possible_images.speaks_of_image),
    "what kubectl says": lambda: kubectl._SILENT.search("connection to the server " * (SIZE // 25)),
    "keys": lambda: keys._PEM.search(b"-----BEGIN A-----" + b" " * (64 << 10)),
    "launch commands": commands,
    "patterns of COPY": lambda: context._pattern("*a" * 30 + "*b").fullmatch("a" * 255),
    "ranges of versions": versions,
    "documents": lambda: serialize.read_documents("---\n" * (SIZE // 32)),
}


@pytest.mark.parametrize("case", CASES)
def test_parser_repetitive_text_ends_within_cpu_time_limit(case: str) -> None:
    root = Path(__file__).parents[2]
    argv = [sys.executable, "-m", "tests.integration.test_patterns", case]

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))

    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, preexec_fn=limited, check=False)
    assert done.returncode == 0, f"{SECONDS} s of CPU time were not enough, or it failed:\n{done.stderr}"


if __name__ == "__main__":
    CASES[sys.argv[1]]()

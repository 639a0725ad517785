"""Launch commands as authors write them: one quoted text, the words of one program, ``$(NAME)``, a chart without a release name."""

from __future__ import annotations

import dataclasses
import posixpath
import re
import shlex
from collections.abc import Collection, Iterable, Sequence

_PROGRAMS = frozenset("bash crictl ctr helm helmfile istioctl kubectl kustomize nerdctl sh".split())  # noqa: SIM905
"""Programs that do nothing useful without arguments: alone in an element of a list, one begins the words of a command."""
_REFERENCE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_CONSTANT = re.compile(r"[A-Z_][A-Z0-9_]*")
_RELEASE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST_RELEASE = 53
_FLAGS = frozenset(
    "--atomic --create-namespace --debug --dependency-update --devel --disable-openapi-validation --dry-run --enable-dns --force "  # noqa: SIM905
    "--cleanup-on-fail --hide-notes --hide-secret --insecure-skip-tls-verify --kube-insecure-skip-tls-verify --no-hooks --pass-credentials "
    "--plain-http --render-subchart-notes --replace --reset-then-reuse-values --reset-values --reuse-values --skip-crds "
    "--skip-schema-validation --take-ownership --verify --wait --wait-for-jobs -i --install".split()
)
"""Options of ``helm install`` and ``helm upgrade`` that take no value."""
_NAMELESS = frozenset(("-g", "--generate-name", "--name-template"))
_WORD = re.compile(r"""(?:\\.|'[^']*'|"(?:\\.|[^"\\])*"|[^\s'"\\;&|<>()])+""", re.DOTALL)
_HELM = re.compile(r"(?:^|(?<=[;&|({\n])(?<!\\\n))[ \t]*((?:[^\s;&|(){}]*/)?helm)[ \t]+(?=install\b|upgrade\b)")


def unquoted(text: str, escape: str = "\\") -> str:
    """A command that is one quoted text (``"echo x"``), without its quotes: a shell would look for a program of that name."""
    match = re.fullmatch(r"""'([^']*)'|"((?:[^"\\]|\\.)*)\"""", text, re.DOTALL)
    if match is None:
        return text
    inner = match[1] if match[1] is not None else re.sub(rf'{re.escape(escape)}(["\\])', r"\1", match[2])
    return inner if len(inner.split()) > 1 else text


def one_command(elements: Sequence[str]) -> str | None:
    """The command that a JSON list spells word by word, as ``["kubectl", "apply", "-f", "x"]`` does; None for a list of commands."""
    first, *rest = elements
    if not rest or len(first.split()) != 1:
        return None
    begins = posixpath.basename(first) in _PROGRAMS
    if not begins and not any(word.startswith("-") for word in rest):
        return None
    return " ".join([_shell_word(first), *map(_shell_word, rest)])


def maybe_one_command(elements: Sequence[str]) -> bool:
    """Return True for a list of several single words that ``one_command`` leaves alone, though a Dockerfile would make it one command."""
    return len(elements) > 1 and all(len(element.split()) == 1 for element in elements)


def with_references(command: str, known: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """The command with ``$(NAME)`` as the shell's ``${NAME}``, where NAME is ``known`` or in capitals; and the names that are not known.

    sealos and Kubernetes replace ``$(NAME)`` wherever it stands; a shell would run NAME as a program. So it is taken out of single quotes.
    """
    unknown: list[str] = []
    parts: list[str] = []
    position, quote = 0, ""
    while position < len(command):
        char = command[position]
        if char == "\\" and quote != "'":
            parts.append(command[position : position + 2])
            position += 2
            continue
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        reference = _REFERENCE.match(command, position) if char == "$" else None
        if reference and (reference[1] in known or _CONSTANT.fullmatch(reference[1])):
            if reference[1] not in known:
                unknown.append(reference[1])
            value = f"${{{reference[1]}}}"
            parts.append(f"""'"{value}"'""" if quote == "'" else value)
            position = reference.end()
            continue
        parts.append(char)
        position += 1
    return "".join(parts), tuple(dict.fromkeys(unknown))


@dataclasses.dataclass(frozen=True)
class LoneChart:
    """A chart that a launch command installs without naming its release, and the name that the release gets."""

    command: str
    chart: str
    release: str

    def __str__(self) -> str:
        return f"helm installs {self.chart}, and no release is named: it is called {self.release}"


def with_releases(commands: Iterable[str], files: Collection[str]) -> tuple[tuple[str, ...], tuple[LoneChart, ...]]:
    """Launch commands in which each ``helm install CHART`` names its release, and the charts that were named so.

    The release has the chart's name (``mysql``, then ``mysql-2``), so that a second launch upgrades it. ``files`` are the paths of the
    rootfs: a chart called ``mysql`` may be in ``charts/mysql``, or packed as ``charts/mysql-1.2.3.tgz``.
    """
    listed = tuple(commands)
    releases = {release for command in listed for release in _named_releases(command)}
    lone: list[LoneChart] = []
    return tuple(_with_releases(command, files, releases, lone) for command in listed), tuple(lone)


def _shell_word(word: str) -> str:
    """A word for a shell that still expands the variables in it: they are values of the cluster."""
    if "$" not in word:
        return shlex.quote(word)
    return '"' + re.sub(r'([\\"`])', r"\\\1", word) + '"'


def _named_releases(command: str) -> Iterable[str]:
    for start in _HELM.finditer(command):
        positions = _operands(command, start.end())
        if positions and len(positions) > 1:
            yield command[slice(*positions[0])]


def _with_releases(command: str, files: Collection[str], releases: set[str], lone: list[LoneChart]) -> str:
    text, position = "", 0
    for start in _HELM.finditer(command):
        positions = _operands(command, start.end())
        if positions is None or len(positions) != 1:
            continue
        begin, end = positions[0]
        word = command[begin:end]
        chart = _chart(word, files)
        release = _release(chart, releases)
        if release is None:
            continue
        releases.add(release)
        lone.append(LoneChart(command, word, release))
        verb = re.compile(r"(install|upgrade)\b").match(command, start.end())
        assert verb is not None
        # `upgrade --install` whatever was written: the second launch must not fail on a release that exists.
        text += command[position : start.end()] + "upgrade --install" + command[verb.end() : begin] + f"{release} {chart}"
        position = end
    return text + command[position:]


def _operands(command: str, position: int) -> list[tuple[int, int]] | None:
    """Begin and end of the operands of a helm command behind its verb; None when helm is to make up the name itself."""
    words = [match.span() for match in _words(command, position)]
    operands: list[tuple[int, int]] = []
    value = False
    for begin, end in words[1:]:
        word = command[begin:end]
        if value:
            value = False
        elif word.startswith("-") and word != "-":
            if word.partition("=")[0] in _NAMELESS:
                return None
            value = "=" not in word and word not in _FLAGS
        else:
            operands.append((begin, end))
    return operands


def _words(command: str, position: int) -> Iterable[re.Match[str]]:
    while True:
        while position < len(command) and command[position] in " \t":
            position += 1
        if command.startswith("\\\n", position):
            position += 2
            continue
        match = _WORD.match(command, position)
        if match is None:
            return
        yield match
        position = match.end()


def _chart(word: str, files: Collection[str]) -> str:
    """Path of a chart as the command finds it in the rootfs; the word itself when no chart of that name is there."""
    clean = posixpath.normpath(word)
    if f"{clean}/Chart.yaml" in files or clean in files or "://" in word or "$" in word:
        return word
    for folder in ("charts", "application/apps"):
        if f"{folder}/{clean}/Chart.yaml" in files:
            return f"{folder}/{clean}"
    packed = re.compile(rf"(?:charts/)?{re.escape(clean)}-v?\d[^/]*\.tgz")
    return next((path for path in sorted(files) if packed.fullmatch(path)), word)


def _release(chart: str, releases: Collection[str]) -> str | None:
    """A name for the release of a chart that no other has; None when the chart's name gives none."""
    base = posixpath.basename(posixpath.normpath(chart)).removesuffix(".tgz")
    base = re.sub(r"-v?\d+(\.\d+)+.*$", "", base) if chart.endswith(".tgz") else base
    base = base.lower().replace("_", "-").replace(".", "-")[:_LONGEST_RELEASE]
    if not _RELEASE.fullmatch(base):
        return None
    number = 1
    while (release := base if number == 1 else f"{base}-{number}") in releases:
        number += 1
    return release

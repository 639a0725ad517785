"""Endpoints that images are pulled from: containers' ``registries.conf`` version 2, with mirrors, and the certificates of registries.

Short names follow Docker (``nginx`` is ``docker.io/library/nginx``), whatever ``unqualified-search-registries`` says.
Format: containers-registries.conf(5), containers-registries.conf.d(5), containers-certs.d(5).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness import log
from harness.errors import Fault, InputError, StoreError, UsageError
from harness.host import paths
from harness.oci.reference import DEFAULT_DOMAIN, Reference

DOCKER_HUB = "registry-1.docker.io"
"""The host that serves what is called docker.io."""

_LOCATION = re.compile(
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::\d+)?|\[[0-9a-fA-F:]+\](?::\d+)?)(?P<path>(?:/[a-z0-9._-]+)*)"
)
_TAIL = re.compile(r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]*)?(?:@[a-z0-9]+:[0-9a-f]+)?")
_WILDCARD = re.compile(r"\*(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)+")

_TOP_KEYS = {
    "unqualified-search-registries": list,
    "credential-helpers": list,
    "short-name-mode": str,
    "additional-layer-store-auth-helper": str,
    "aliases": dict,
    "registry": list,
}
_REGISTRY_KEYS = {"prefix": str, "location": str, "insecure": bool, "blocked": bool, "mirror-by-digest-only": bool, "mirror": list}
_MIRROR_KEYS = {"location": str, "insecure": bool, "pull-from-mirror": str}
_KINDS = {list: "a list", str: "a string", bool: "true or false", dict: "a table"}
_PULL_FROM = ("all", "digest-only", "tag-only")


@dataclasses.dataclass(frozen=True)
class Endpoint:
    """One place to ask for an image: ``reference`` is its name there, which a mirror may have changed."""

    reference: Reference
    insecure: bool = False
    mirror: bool = False
    plain: bool = False
    """Only over plain HTTP."""

    @property
    def host(self) -> str:
        """``host[:port]`` that answers, e.g. ``registry-1.docker.io``."""
        return DOCKER_HUB if self.reference.domain == DEFAULT_DOMAIN else self.reference.domain

    @property
    def domain(self) -> str:
        """The name under which credentials are kept, e.g. ``docker.io``."""
        return self.reference.domain

    @property
    def repository(self) -> str:
        """The repository there, without the host."""
        return self.reference.path

    @property
    def base_urls(self) -> tuple[str, ...]:
        """In the order of trying. Plain HTTP only where the file says ``insecure = true``, and there after HTTPS, or where asked for."""
        if self.plain:
            return (f"http://{self.host}",)
        return (f"https://{self.host}", f"http://{self.host}") if self.insecure else (f"https://{self.host}",)


@dataclasses.dataclass(frozen=True)
class Mirror:
    location: str
    insecure: bool = False
    pulls: str = "all"
    """Pulls that the mirror serves: ``all``, ``digest-only`` or ``tag-only``."""

    def serves(self, reference: Reference) -> bool:
        return self.pulls == "all" or (self.pulls == "digest-only") == (reference.digest is not None)


@dataclasses.dataclass(frozen=True)
class Registry:
    """One ``[[registry]]`` table. ``location`` is empty only for a wildcard prefix that renames nothing."""

    prefix: str
    location: str = ""
    insecure: bool = False
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()
    source: str = ""
    """The file that says so, for messages."""

    def match(self, name: str) -> int | None:
        """Number of characters of ``name`` (a full reference) that the prefix covers; None when it does not apply."""
        if self.prefix.startswith("*."):
            host = name.partition("/")[0]
            bare = re.sub(r":\d+$", "", host)
            # A location takes the place of host and port; without one nothing is replaced.
            return len(host) if bare.endswith(self.prefix[1:]) else None
        if not name.startswith(self.prefix):
            return None
        after = name[len(self.prefix) :][:1]
        # A prefix that is only a host ends where the host ends: example.com is not example.com:5000.
        separators = ("", "/", ":", "@") if "/" in self.prefix else ("", "/")
        return len(self.prefix) if after in separators else None


@dataclasses.dataclass(frozen=True)
class Certificates:
    """Certificates for one registry host: CAs to trust in addition, and pairs (client certificate, key)."""

    authorities: tuple[Path, ...] = ()
    clients: tuple[tuple[Path, Path], ...] = ()


@dataclasses.dataclass(frozen=True)
class Registries:
    """All rules of registries.conf. Without rules every registry is asked under its own name, over HTTPS."""

    rules: tuple[Registry, ...] = ()
    certificate_folders: tuple[Path, ...] = ()
    plain: bool = False
    """Every registry is asked over plain HTTP, because the command line says so."""
    insecure: bool = False
    """As ``insecure = true`` for every registry, because the command line says so."""
    extra: Certificates = Certificates()
    """Certificates that the command line names, for every registry."""

    def rule(self, reference: Reference) -> Registry | None:
        """The table with the longest prefix that matches."""
        name = str(reference)
        # Of a plain and a wildcard prefix the plain one says more about a name, however short.
        matches = [(not rule.prefix.startswith("*."), len(rule.prefix), rule) for rule in self.rules if rule.match(name) is not None]
        return max(matches, key=lambda item: item[:2])[2] if matches else None

    def endpoints(self, reference: Reference) -> tuple[Endpoint, ...]:
        """Endpoints for ``reference``, in order: its mirrors, then its own location.

        Raises StoreError when the file blocks it, or when a location makes no valid name of it.
        """
        rule = self.rule(reference)
        if rule is None:
            return (Endpoint(reference, self.insecure, plain=self.plain),)
        if rule.blocked:
            raise StoreError(f"{reference} is blocked by {rule.source}", hint=f"the table with prefix {rule.prefix!r} has blocked = true")
        covered = rule.match(str(reference)) or 0
        mirrors = [
            Endpoint(_rewrite(reference, covered, mirror.location), mirror.insecure, mirror=True)
            for mirror in rule.mirrors
            if mirror.serves(reference)
        ]
        own = _rewrite(reference, covered, rule.location) if rule.location else reference
        return (*mirrors, Endpoint(own, rule.insecure or self.insecure, plain=self.plain))

    def certificates(self, host: str) -> Certificates:
        """The files for ``host[:port]`` from every certs.d folder, by the rules of containers-certs.d(5)."""
        folders = [folder / host for folder in self.certificate_folders if (folder / host).is_dir()]
        authorities = [path for folder in folders for path in sorted(folder.glob("*.crt"))]
        certificates = [path for folder in folders for path in sorted(folder.glob("*.cert"))]
        pairs = tuple((path, path.with_suffix(".key")) for path in certificates)
        return Certificates((*authorities, *self.extra.authorities), (*pairs, *self.extra.clients))


@dataclasses.dataclass(frozen=True)
class Site:
    """Registry of a site: ``host[:port]`` and a path below it (a project of Harbor), which may be empty."""

    host: str
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Site:
        """``harbor.example.com/slipway``. Raises InputError."""
        host, _, path = text.strip().removesuffix("/").partition("/")
        try:
            if "://" in text or ("." not in host and ":" not in host and host != "localhost"):
                raise ValueError("not a registry: write HOST[:PORT][/PATH]")
            parsed = Reference.parse(f"{host}/{path + '/' if path else ''}x")
        except ValueError as wrong:
            raise InputError([Fault(text, str(wrong))]) from wrong
        return cls(parsed.domain, path)

    def folder(self, domain: str) -> str:
        """The path that holds the images of a registry: ``slipway/docker.io``. A port cannot stand within a path."""
        return "/".join(part for part in (self.path, domain.replace(":", "-").lower()) if part)

    def place(self, image: Reference) -> Reference:
        """Reference of an image in the site's registry."""
        return Reference(self.host, f"{self.folder(image.domain)}/{image.path}", image.tag, image.digest)

    def __str__(self) -> str:
        return f"{self.host}/{self.path}".rstrip("/")


def load(path: Path | None = None) -> Registries:
    """Read the rules from ``path``, else ``$SLIPWAY_REGISTRIES_CONF``, else the user's or the system's own files.

    Only the last of these has drop-ins (``registries.conf.d``). Raises InputError with every fault of every file, and
    UsageError when a file that was named cannot be read.
    """
    chosen = path or (Path(os.environ["SLIPWAY_REGISTRIES_CONF"]) if os.environ.get("SLIPWAY_REGISTRIES_CONF") else None)
    files = [chosen] if chosen else _standard_files()
    faults: list[Fault] = []
    rules: dict[str, Registry] = {}
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as unreadable:
            raise UsageError(f"{file}: cannot be read: {unreadable}", hint="see containers-registries.conf(5)") from unreadable
        # A drop-in replaces the whole table of the same prefix, as it does for podman.
        rules.update((rule.prefix, rule) for rule in parse(text, str(file), faults))
    if faults:
        raise InputError(faults)
    return Registries(tuple(rules.values()), _certificate_folders())


def parse(text: str, path: str, faults: list[Fault]) -> list[Registry]:
    """The tables of one file; what is wrong with it is added to ``faults``."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        reason, line = _toml_line(str(wrong), text)
        faults.append(Fault(f"{path}:{line}", f"not TOML: {reason}"))
        return []
    if "registries" in content:
        hint = "write [[registry]] tables, see containers-registries.conf(5)"
        faults.append(Fault(f"{path} .registries", "is version 1 of the format, which has no mirrors", hint))
        return []
    _check_keys(content, _TOP_KEYS, path, "", faults)
    if content.get("unqualified-search-registries"):
        log.warning(f"{path}: unqualified-search-registries is ignored: a short name is an image of docker.io, as Docker has it")
    rules: list[Registry] = []
    for number, table in enumerate(_tables(content, "registry", path, "", faults)):
        rule = _registry(table, path, f".registry[{number}]", faults)
        if rule and any(rule.prefix == other.prefix for other in rules):
            faults.append(Fault(f"{path} .registry[{number}]", f"prefix {rule.prefix!r} stands in an earlier table too", "merge the two"))
        elif rule:
            rules.append(rule)
    return rules


def _registry(table: Mapping[str, Any], path: str, at: str, faults: list[Fault]) -> Registry | None:
    before = len(faults)
    _check_keys(table, _REGISTRY_KEYS, path, at, faults)
    prefix, location = _text(table, "prefix"), _text(table, "location")
    if not prefix and not location and len(faults) == before:
        faults.append(Fault(f"{path} {at}", "has neither prefix nor location", 'write location = "host[:port][/namespace]"'))
    if prefix.startswith("*"):
        if not _WILDCARD.fullmatch(prefix):
            faults.append(
                Fault(f"{path} {at}.prefix", f"{prefix!r} is not a pattern", "a wildcard stands for subdomains only: *.example.com")
            )
    elif prefix:
        _check_location(prefix, f"{path} {at}.prefix", faults)
    if location:
        _check_location(location, f"{path} {at}.location", faults)
    digest_only = table.get("mirror-by-digest-only") is True
    mirrors = [
        _mirror(mirror, digest_only, path, f"{at}.mirror[{number}]", faults)
        for number, mirror in enumerate(_tables(table, "mirror", path, at, faults))
    ]
    if len(faults) > before:
        return None
    own = location or ("" if prefix.startswith("*") else prefix)
    insecure, blocked = table.get("insecure") is True, table.get("blocked") is True
    return Registry(prefix or location, own, insecure, blocked, tuple(mirrors), path)


def _mirror(table: Mapping[str, Any], digest_only: bool, path: str, at: str, faults: list[Fault]) -> Mirror:
    _check_keys(table, _MIRROR_KEYS, path, at, faults)
    location, pulls = _text(table, "location"), _text(table, "pull-from-mirror")
    if table.get("location", "") == "":
        faults.append(Fault(f"{path} {at}", "has no location", 'write location = "host[:port][/namespace]"'))
    elif location:
        _check_location(location, f"{path} {at}.location", faults)
    if pulls and pulls not in _PULL_FROM:
        faults.append(
            Fault(f"{path} {at}.pull-from-mirror", f"{pulls!r} is not one of {', '.join(_PULL_FROM)}", _nearest(pulls, _PULL_FROM))
        )
    if pulls and digest_only:
        faults.append(
            Fault(f"{path} {at}.pull-from-mirror", "cannot stand beside mirror-by-digest-only = true of its registry", "drop one")
        )
    return Mirror(location.rstrip("/"), table.get("insecure") is True, "digest-only" if digest_only else pulls or "all")


def _check_keys(table: Mapping[str, Any], supported: Mapping[str, type], path: str, at: str, faults: list[Fault]) -> None:
    for key, value in table.items():
        where = f"{path} {at}.{key}"
        if key not in supported:
            faults.append(Fault(where, f"unknown key {key!r}", _nearest(key, supported)))
        elif not isinstance(value, supported[key]):
            faults.append(Fault(where, f"must be {_KINDS[supported[key]]}"))


def _check_location(text: str, where: str, faults: list[Fault]) -> None:
    scheme = re.match(r"https?://", text)
    if scheme:
        hint = "drop it; insecure = true allows plain HTTP" if scheme[0] == "http://" else "drop it"
        faults.append(Fault(where, f"{text!r} has a scheme", hint))
        return
    match = _LOCATION.match(text.rstrip("/"))
    if not match or not _TAIL.fullmatch(text.rstrip("/")[match.end() :]):
        faults.append(Fault(where, f"{text!r} is not a place", "write host[:port][/namespace]"))


def _tables(table: Mapping[str, Any], key: str, path: str, at: str, faults: list[Fault]) -> list[Mapping[str, Any]]:
    value = table.get(key, [])
    if not isinstance(value, list):
        return []  # _check_keys reports it
    tables: list[Mapping[str, Any]] = [item for item in value if isinstance(item, dict)]
    if len(tables) < len(value):
        faults.append(Fault(f"{path} {at}.{key}", "must be tables", f"write [[{'registry.mirror' if key == 'mirror' else key}]]"))
    return tables


def _text(table: Mapping[str, Any], key: str) -> str:
    value = table.get(key, "")
    return value.rstrip("/") if isinstance(value, str) else ""


def _nearest(word: str, supported: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, list(supported), n=1)
    return f"did you mean {close[0]}?" if close else f"known: {', '.join(supported)}"


def _toml_line(message: str, text: str) -> tuple[str, int]:
    """Message of tomllib without the position, and the line."""
    match = re.search(r"\s*\(at (?:line (\d+), column \d+|end of document)\)", message)
    line = int(match[1]) if match and match[1] else len(text.splitlines())
    return (message.replace(match[0], "") if match else message), line


def _rewrite(reference: Reference, covered: int, location: str) -> Reference:
    """The name at ``location`` of what follows the covered part of the reference."""
    text = location + str(reference)[covered:]
    host, _, rest = text.partition("/")
    try:
        # The host of a location needs no dot: `mirror/team` is a machine called mirror here, not a user of docker.io.
        parsed = Reference.parse(f"host.invalid/{rest}")
    except ValueError as wrong:
        raise StoreError(
            f"{reference} becomes {text} at {location}: {wrong}", hint="check location and prefix in registries.conf"
        ) from wrong
    tag = None if reference.tag is None and reference.digest is None else parsed.tag
    return Reference(host, parsed.path, tag, parsed.digest)


def _standard_files() -> list[Path]:
    user, system = _config_home() / "containers", Path("/etc/containers")
    main = [folder / "registries.conf" for folder in (user, system) if (folder / "registries.conf").exists()][:1]
    drop_ins = [path for folder in (system, user) for path in sorted((folder / "registries.conf.d").glob("*.conf"))]
    return [*main, *drop_ins]


def _certificate_folders() -> tuple[Path, ...]:
    return (_config_home() / "containers/certs.d", Path("/etc/containers/certs.d"), Path("/etc/docker/certs.d"))


def _config_home() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or paths.user_home() / ".config")

"""Names of images, as Docker reads them: ``nginx`` is ``docker.io/library/nginx:latest``."""

from __future__ import annotations

import dataclasses
import functools
import re

_DOMAIN_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN = re.compile(rf"(?:{_DOMAIN_PART}(?:\.{_DOMAIN_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_LONGEST_NAME = 255

DEFAULT_DOMAIN = "docker.io"
_HUB_DOMAINS = ("index.docker.io", "registry-1.docker.io")
_HTTPS_PORT = "443"
DEFAULT_TAG = "latest"
OWN_DOMAIN = "slipway.dev"
"""Names of images that exist only where images/ of this project builds them."""


@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Reference:
    """A parsed image name. ``tag`` is None only when there is a digest."""

    domain: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read a name by Docker's rules; ``latest`` is added only when there is neither tag nor digest.

        Raises ValueError that says what is wrong with it.
        """
        name, digest = _split_digest(text)
        name, tag = _split_tag(name, text)
        if not name:
            raise ValueError(f"{text!r} is not an image name: it has no repository")
        domain, path = _split_domain(name)
        _check_path(path, text)
        if len(f"{domain}/{path}") > _LONGEST_NAME:
            raise ValueError(f"{text!r} is not an image name: longer than {_LONGEST_NAME} characters")
        return cls(domain, path, tag or (None if digest else DEFAULT_TAG), digest)

    @property
    def repository(self) -> str:
        """``docker.io/library/nginx``: the name without tag and digest."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """``nginx:1.25``: the shortest form that parses to the same reference."""
        return self._familiar_repository() + self._suffix()

    @property
    def place(self) -> str:
        """The repository in the one spelling that all its spellings share, to be compared: ``Registry.example.com:443/x`` is
        ``registry.example.com/x``. Not a name to parse again.
        """
        domain = normal_domain(self.domain)
        path = f"library/{self.path}" if domain == DEFAULT_DOMAIN and "/" not in self.path else self.path
        return f"{domain}/{path}"

    def _familiar_repository(self) -> str:
        if self.domain != DEFAULT_DOMAIN:
            return self.repository
        if self.path.startswith("library/") and self.path.count("/") == 1:
            return self.path.removeprefix("library/")
        # docker.io/localhost/x would be read as a registry called localhost.
        return self.repository if "/" not in self.path or _is_domain(self.path.split("/")[0]) else self.path

    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def __str__(self) -> str:
        return self.repository + self._suffix()

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, Reference):
            return NotImplemented
        return str(self) < str(other)


def familiar(name: str) -> str:
    """An image's name as the store has it: ``web`` is ``web:latest``. A digest, and what is not a name, stays as it is."""
    try:
        return Reference.parse(name).familiar
    except ValueError:
        return name


def lowered(text: str) -> str:
    """The name with its repository in lower case, where nothing but capitals is wrong with it; else the text as it is.

    For names that people type. No registry and no kubelet takes capitals, so a manifest that has them is faulty.
    """
    try:
        name, digest = _split_digest(text)
        repository, tag = _split_tag(name, text)
        first, slash, rest = repository.partition("/")
        # The first part of a name is a registry when it looks like one. Capitals alone do not make it one.
        small = f"{first}/{rest.lower()}" if slash and _is_address(first) else repository.lower()
        changed = small + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
        Reference.parse(changed)
    except ValueError:
        return text
    return changed


def names_registry(text: str) -> bool:
    """Return True for a name whose first part is the address of a registry: it has a dot or a port, or is localhost."""
    first, slash, _ = text.partition("/")
    return bool(slash) and _is_address(first)


def normal_domain(domain: str) -> str:
    """The spelling of a registry's address that all its spellings share: lower case, no port of HTTPS, Docker Hub under one name."""
    host, colon, port = domain.lower().rpartition(":")
    normal = domain.lower()
    if colon and port.isdigit():
        port = port.lstrip("0")
        normal = host if port == _HTTPS_PORT else f"{host}:{port}"
    return DEFAULT_DOMAIN if normal in _HUB_DOMAINS else normal


def is_digest(text: str) -> bool:
    """Return True for a full digest with its algorithm."""
    return _DIGEST.fullmatch(text) is not None


def _split_digest(text: str) -> tuple[str, str | None]:
    name, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise ValueError(f"{text!r} is not an image name: {digest!r} is not a digest (sha256: and 64 hexadecimal digits)")
    return name, digest or None


def _split_tag(name: str, text: str) -> tuple[str, str | None]:
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, None
    if not _TAG.fullmatch(tag):
        raise ValueError(f"{text!r} is not an image name: {tag!r} is not a tag (letters, digits, '_', '.', '-', at most 128)")
    return head, tag


def _is_address(text: str) -> bool:
    return text == "localhost" or "." in text or ":" in text


def _is_domain(text: str) -> bool:
    return _is_address(text) or text.lower() != text


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and _is_domain(first):
        if not _DOMAIN.fullmatch(first):
            raise ValueError(f"{name!r} is not an image name: {first!r} is not a registry address")
        domain, path = first, rest
    else:
        domain, path = DEFAULT_DOMAIN, name
    if domain == "index.docker.io":
        domain = DEFAULT_DOMAIN
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = f"library/{path}"
    return domain, path


def _check_path(path: str, text: str) -> None:
    for component in path.split("/"):
        if not component:
            raise ValueError(f"{text!r} is not an image name: two slashes with nothing between, or one at an end")
        if component.lower() != component:
            raise ValueError(f"{text!r} is not an image name: {component!r} must be lower case")
        if not _COMPONENT.fullmatch(component):
            raise ValueError(f"{text!r} is not an image name: {component!r} may hold a-z, 0-9 and single separators '.', '_', '-' inside")


def as_asked(reference: Reference) -> Reference:
    """The name under which a node asks for an image: of tag and digest together it uses the digest only."""
    return dataclasses.replace(reference, tag=None) if reference.digest else reference

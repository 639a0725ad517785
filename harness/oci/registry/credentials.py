"""Credentials for registries: Docker's ``config.json`` and its helpers, read at every use so that a login takes effect at once.

Files of podman, skopeo and buildah are read after it: ``$REGISTRY_AUTH_FILE``, or else ``containers/auth.json`` of the user. As there, a
key may hold a path (``host/team/web``): of those that a repository lies in, the longest counts.

``docker.auth`` and ``docker.credentials`` read the same file, but they know no ``registrytoken``, give a helper no time limit, take a
broken file for one without logins, and cannot write it.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import log, process, untrusted
from harness.errors import CommandError, StoreError, UsageError
from harness.host import durable, paths

DOCKER_HUB_KEY = "https://index.docker.io/v1/"
"""The name under which Docker keeps the credentials of docker.io."""

_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_TOKEN_USER = "<token>"  # noqa: S105 - the marker by which a helper says that the secret is an identity token
_NOT_FOUND = "credentials not found"
_HELPER_TIMEOUT = 60.0
"""Seconds. A helper may ask a cloud for a token, or a person for a password."""


@dataclasses.dataclass(frozen=True)
class Credential:
    """Name and password, or a token in place of the password. Secrets stay out of the repr, and so out of logs and tracebacks."""

    username: str = ""
    password: str = dataclasses.field(default="", repr=False)
    identity_token: str = dataclasses.field(default="", repr=False)
    """Exchanged for access tokens at the registry's token server (OAuth 2 refresh token)."""
    registry_token: str = dataclasses.field(default="", repr=False)
    """Sent to the registry as it is (a bearer token)."""

    @property
    def basic(self) -> str:
        """Value of an Authorization header; empty without a password."""
        if not self.username and not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class CredentialStore:
    """The user's Docker configuration in ``folder``, by default ``$DOCKER_CONFIG`` or ``~/.docker``, which logins are written to.

    ``others`` are files that are only read, after it: by default those of podman. With a ``folder`` there are none.
    """

    def __init__(self, folder: Path | None = None, others: Sequence[Path] | None = None) -> None:
        default = Path(os.environ.get("DOCKER_CONFIG") or paths.user_home() / ".docker")
        self.path = (folder or default) / "config.json"
        self.others = tuple(others if others is not None else () if folder else podman_files())

    def find(self, domain: str, repository: str = "") -> Credential | None:
        """Credential for ``domain`` (``host[:port]`` or ``docker.io``): from its own helper, the default helper, or the file.

        With a ``repository`` (``team/web``), a login for it or for a path above it wins over the login for the domain. The first file that
        has one counts. Raises UsageError for a broken file and StoreError for a helper that fails.
        """
        for path in (self.path, *self.others):
            config = _read(path)
            credential = self._from_file(config, path, domain, repository, paths=True)
            if credential is None:
                helper = _helper(config, path, domain)
                credential = _ask(helper, _key(domain)) if helper else None
            if credential is None:
                credential = self._from_file(config, path, domain, repository, paths=False)
            if credential is not None:
                log.hide(credential.password, credential.identity_token, credential.registry_token)
                return credential
        return None

    def store(self, domain: str, username: str, password: str) -> str:
        """Keep a login, in the helper when one is configured. Returns where it went, for a message."""
        config = _read(self.path)
        helper = _helper(config, self.path, domain)
        if helper:
            secret = json.dumps({"ServerURL": _key(domain), "Username": username, "Secret": password})
            _run(helper, "store", secret)
            return f"docker-credential-{helper}"
        auths = dict(_mapping(config, "auths", self.path))
        auths[_key(domain)] = {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}
        self._write({**config, "auths": auths})
        return str(self.path)

    def erase(self, domain: str) -> bool:
        """Forget a login; False when there was none."""
        config = _read(self.path)
        helper = _helper(config, self.path, domain)
        erased = False
        if helper and _ask(helper, _key(domain)) is not None:
            _run(helper, "erase", _key(domain))
            erased = True
        auths = _mapping(config, "auths", self.path)
        kept = {key: value for key, value in auths.items() if _host(key) != _host(_key(domain)) or _place(key)}
        if len(kept) < len(auths):
            self._write({**config, "auths": kept})
            erased = True
        return erased

    def _write(self, config: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        durable.write(self.path, json.dumps(config, indent="\t") + "\n")

    def _from_file(self, config: Mapping[str, Any], path: Path, domain: str, repository: str, *, paths: bool) -> Credential | None:
        """A login of a file: of a path that the repository lies in, the longest first, or (``paths`` is False) of the domain."""
        auths = _mapping(config, "auths", path)
        if paths:
            keys = [key for key in auths if (place := _place(key)) and _host(key) == _host(_key(domain)) and _lies_in(repository, place)]
            keys.sort(key=lambda key: -len(_place(key)))
        else:
            # The plain name first; then keys of old clients, which are URLs.
            plain = [key for key in auths if key == _key(domain)]
            keys = plain or [key for key in auths if _host(key) == _host(_key(domain)) and not _place(key)]
        for key in keys:
            entry = auths[key]
            if isinstance(entry, dict):
                credential = _entry(entry, f"{path} .auths[{key!r}]")
                if credential is not None:
                    return credential
        return None


def podman_files() -> tuple[Path, ...]:
    """Files in which podman, skopeo and buildah keep logins, the first first: the one that the environment names, or their defaults."""
    named = os.environ.get("REGISTRY_AUTH_FILE")
    if named:
        return (Path(named),)
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    config = Path(os.environ.get("XDG_CONFIG_HOME") or paths.user_home() / ".config")
    return (*([Path(runtime) / "containers/auth.json"] if runtime else []), config / "containers/auth.json")


def _read(path: Path) -> dict[str, Any]:
    hint = f"repair it, or name another {'folder in DOCKER_CONFIG' if path.name == 'config.json' else 'file in REGISTRY_AUTH_FILE'}"
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as broken:
        raise UsageError(f"{path}: cannot be read: {broken}", hint=hint) from broken
    if not isinstance(value, dict):
        raise UsageError(f"{path}: must hold a JSON object", hint=hint)
    return value


def _helper(config: Mapping[str, Any], path: Path, domain: str) -> str | None:
    helpers = _mapping(config, "credHelpers", path)
    chosen = next((name for key, name in helpers.items() if _host(key) == _host(_key(domain))), config.get("credsStore"))
    return chosen if isinstance(chosen, str) and chosen else None


def _entry(entry: Mapping[str, Any], where: str) -> Credential | None:
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(str(entry["auth"]), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as broken:
            raise UsageError(f"{where}.auth: is not base64 of name:password", hint="log in again") from broken
    identity, token = str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or "")
    if not (username or identity or token):
        return None  # with a helper Docker leaves empty entries as markers
    return Credential(username, password.rstrip("\0"), identity, token)


def _ask(helper: str, key: str) -> Credential | None:
    output = _run(helper, "get", key, missing_ok=True)
    if output is None:
        return None
    try:
        answer = untrusted.json_object(output, what="its answer", limit=1 << 20)
        username, secret = str(answer["Username"]), str(answer["Secret"])
    except (StoreError, KeyError) as broken:
        # Without the answer itself, which may hold the secret.
        raise StoreError(
            f"docker-credential-{helper} get: gives no JSON with Username and Secret", hint="see docker-credential-helpers"
        ) from broken
    return Credential(identity_token=secret) if username == _TOKEN_USER else Credential(username, secret)


def _run(helper: str, verb: str, text: str, *, missing_ok: bool = False) -> str | None:
    program = f"docker-credential-{helper}"
    try:
        result = process.run([program, verb], input=text, check=False, timeout=_HELPER_TIMEOUT)
    except CommandError as failed:
        raise StoreError(f"{program}: {failed.message}", hint="Docker's config.json names it as credential helper") from failed
    if result.ok:
        return result.stdout
    if missing_ok and _NOT_FOUND in result.output.lower():
        return None
    raise StoreError(f"{program} {verb} failed: {result.output or f'exit code {result.returncode}'}", hint="Docker's config.json names it")


def _key(domain: str) -> str:
    return DOCKER_HUB_KEY if domain in _HUB_NAMES else domain


def _host(key: str) -> str:
    """``https://host:5000/v2/`` and ``host:5000`` are the same registry."""
    host = key.split("://", 1)[-1].split("/", 1)[0]
    return "docker.io" if host in _HUB_NAMES else host


def _place(key: str) -> str:
    """The path of podman's ``host/team/web``. URLs of old clients have one that means nothing (``https://host/v1/``)."""
    return "" if "://" in key or key == DOCKER_HUB_KEY else key.partition("/")[2].strip("/")


def _lies_in(repository: str, place: str) -> bool:
    return repository == place or repository.startswith(f"{place}/")


def _mapping(config: Mapping[str, Any], key: str, path: Path) -> Mapping[str, Any]:
    value = config.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f"{path} .{key}: must be an object", hint="repair it, or name another folder in DOCKER_CONFIG")
    return value

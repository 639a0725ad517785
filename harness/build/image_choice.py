"""Choice of the origin of a container image that images/ defines: its registry, or a build on this machine.

Kubefiles and manifests name images as upstream does. ``auto`` pulls them from their registry; an image that the registry does not
have, or whose registry does not answer, is built on this machine. An image of this project's own domain is always built.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import urllib3

from harness import log, untrusted
from harness.errors import SlipwayError
from harness.host import durable, paths
from harness.oci.reference import OWN_DOMAIN, Reference
from harness.oci.registry.client import Client
from harness.oci.registry.config import Registries
from harness.oci.registry.errors import RemoteError, RetryPolicy
from harness.oci.registry.session import CredentialSource

AUTO, UPSTREAM, BUILT = "auto", "upstream", "built"
MODES = (AUTO, UPSTREAM, BUILT)

PROBE = RetryPolicy(connect=3, read=5, rate_window=5, attempts=1, timeouts=1)
"""Retry policy of one request to a registry that may be unreachable."""

_REMEMBERED = 600
"""Seconds for which the result of a probe is cached."""


class Probe(Protocol):
    """Return True when the registry of an image answers. Raises nothing."""

    def __call__(self, reference: Reference, /) -> bool: ...


class ImageChoice:
    """One build's choice. ``probe`` is called once per registry. Thread-safe."""

    def __init__(self, mode: str, probe: Probe) -> None:
        self.mode = mode
        self._probe = probe
        self._answers: dict[str, bool] = {}
        self._lock = threading.Lock()

    def builds(self, reference: Reference) -> bool:
        """Return True for an image that is built without a request to its registry."""
        if reference.domain == OWN_DOMAIN or self.mode == BUILT:
            return True
        return self.mode == AUTO and not self._asked(reference)

    def may_build(self, reference: Reference) -> bool:
        """Return True for an image that is built after its registry answered that it does not have it."""
        return self.mode != UPSTREAM or reference.domain == OWN_DOMAIN

    def _asked(self, reference: Reference) -> bool:
        with self._lock:
            answers = self._answers.get(reference.domain)
            if answers is None:
                answers = self._answers[reference.domain] = self._probe(reference)
                if not answers:
                    log.info(f"{reference.domain} does not answer: images of it that images/ defines are built on this machine (--images)")
            return answers


def probe(registries: Registries, login: CredentialSource, *, memory: Path | None = None, clock: Callable[[], float] = time.time) -> Probe:
    """Return a probe of registries that caches for some minutes which of them answered, in the file ``memory``."""

    def ask(reference: Reference) -> bool:
        def now() -> bool:
            with Client(registries, login, retry=PROBE) as client:
                return _answers(client, reference)

        return _once(_place(registries, reference), reference.domain, now, memory, clock)

    return ask


def site_answers(url: str) -> bool:
    """Return True when the site of ``url`` answers, also when it lacks the file. Cached for minutes. Raises nothing."""

    def now() -> bool:
        patience = urllib3.Timeout(connect=PROBE.connect, read=PROBE.read)
        try:
            return urllib3.PoolManager(retries=False).request("GET", url, timeout=patience).status < 500
        except urllib3.exceptions.HTTPError:
            return False

    return _once(url, str(urllib.parse.urlsplit(url).hostname), now)


def site_lacks(url: str) -> bool:
    """Return True when the site of ``url`` answers that it does not have the file; no other answer says so. Raises nothing."""
    follow = urllib3.Retry(connect=0, read=0, status=0, other=0, redirect=5)
    try:
        answer = urllib3.PoolManager(retries=follow).request("HEAD", url, timeout=urllib3.Timeout(connect=PROBE.connect, read=PROBE.read))
    except urllib3.exceptions.HTTPError:
        return False
    return answer.status in (404, 410)


def _once(place: str, host: str, ask: Callable[[], bool], memory: Path | None = None, clock: Callable[[], float] = time.time) -> bool:
    """Cached answer in ``memory`` for a place, or the result of ``ask``, which is then cached."""
    file = memory or paths.cache() / "registries-asked.json"
    cached = _remembered(file, place, clock())
    if cached is not None:
        return cached
    with log.step(f"ask {host}") as step:
        answers = ask()
        step.note = "it answers" if answers else "no answer"
    _remember(file, place, answers, clock())
    return answers


def _answers(client: Client, reference: Reference) -> bool:
    try:
        client.manifest(reference)
    except RemoteError as refused:
        # A missing image, or a refused login, is an answer too.
        return refused.status < 500
    except SlipwayError:
        return False
    return True


def _place(registries: Registries, reference: Reference) -> str:
    """Hosts that are asked for the image: another mirror is another registry."""
    with contextlib.suppress(SlipwayError):
        return " ".join(endpoint.host for endpoint in registries.endpoints(reference))
    return reference.domain


def _read(file: Path) -> Mapping[str, Any]:
    try:
        return untrusted.json_object(file.read_bytes(), what=str(file))
    except (OSError, SlipwayError):
        return {}


def _remembered(file: Path, place: str, now: float) -> bool | None:
    entry = _read(file).get(place)
    if not isinstance(entry, dict) or not isinstance(entry.get("at"), int | float) or not isinstance(entry.get("answers"), bool):
        return None
    return bool(entry["answers"]) if 0 <= now - entry["at"] < _REMEMBERED else None


def _remember(file: Path, place: str, answers: bool, now: float) -> None:
    """Add to the cache. A concurrent write of another process only costs one more probe."""
    kept = {name: entry for name, entry in _read(file).items() if _remembered(file, name, now) is not None}
    with contextlib.suppress(OSError, SlipwayError):
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.write(file, json.dumps({**kept, place: {"at": now, "answers": answers}}) + "\n")

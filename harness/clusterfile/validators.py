"""Validators of single values in a Clusterfile: addresses, ports, labels, taints, names, durations. Text in, value or FieldError out."""

from __future__ import annotations

import datetime
import difflib
import ipaddress
import posixpath
import re
from collections.abc import Iterable

from harness.clusterfile import ROLES, JumpSettings, Taint
from harness.errors import HintedError, UsageError
from harness.host import paths
from harness.oci.reference import Reference, lowered

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
_MOST = 1024
"""Addresses of one range."""

_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?")
_DNS_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS_NAME = re.compile(rf"{_DNS_LABEL}(?:\.{_DNS_LABEL})*")
_SSH_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}")
_DURATION = re.compile(r"(?:(\d{1,12})y)?(?:(\d{1,12})d)?(?:(\d{1,12})h)?(?:(\d{1,12})m)?(?:(\d{1,12})s)?")
_APP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

CLUSTER_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOCUMENT_NAME = r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?"
ENV_NAME = r"[A-Za-z_][A-Za-z0-9_.-]*"
VARIABLE = r"[A-Za-z_][A-Za-z0-9_]*"


class FieldError(HintedError, ValueError):
    """Fault of a value, with a hint what to write."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The known name that was probably meant."""
    names = {name.lower(): name for name in choices}
    near = difflib.get_close_matches(word.lower(), list(names), n=1)
    return names[near[0]] if near else None


def suggest(word: str, choices: Iterable[str]) -> str:
    """A hint: the nearest known name, or all of them."""
    names = list(choices)
    near = nearest(word, names)
    return f"did you mean {near}?" if near else f"known: {', '.join(names)}"


def address(text: str) -> str:
    """An address of a machine, in its usual spelling."""
    try:
        parsed = ipaddress.ip_address(text.strip())
    except ValueError as wrong:
        raise FieldError(f"{text} is not an address", "write it as 192.168.0.2") from wrong
    if parsed.is_unspecified or parsed.is_multicast:
        raise FieldError(f"{text} is not an address of a machine")
    return str(parsed)


def addresses(text: str) -> tuple[str, ...]:
    """One address, a range ``10.0.0.1-10.0.0.5`` with both its ends, or several of them with commas between."""
    return tuple(address_text for part in _parts(text) for address_text in _range(part))


def machines(text: str) -> tuple[str, ...]:
    """As ``addresses``, with host names and entries of ssh_config among them."""
    return tuple(machine for part in _parts(text) for machine in ([part] if is_name(part) else _range(part)))


def is_name(text: str) -> bool:
    """True for what names a machine and is neither an address nor a range, not even a faulty one."""
    return bool(_SSH_HOST.fullmatch(text) and re.search("[A-Za-z]", text) and not re.match(r"\d+(\.\d+){3}(-|$)", text))


def ssh_host(text: str) -> str:
    """A host name, or an entry of ssh_config."""
    if not is_name(text):
        raise FieldError(f"{text} is not a host name", "a host name, or an entry of ssh_config; an address needs none")
    return text


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise FieldError(f"{text}: there is nothing between two commas, or at an end")
    return parts


def _range(text: str) -> list[str]:
    first, dash, last = text.partition("-")
    if not dash:
        return [address(first)]
    begin = ipaddress.ip_address(address(first))
    if re.fullmatch(r"\s*\d+\s*", last):
        raise FieldError(f"{text} is not a range", f"write its last address in full: {first.strip()}-{_ending(first, last)}")
    end = ipaddress.ip_address(address(last))
    if begin.version != end.version:
        raise FieldError(f"{text} begins and ends in different families")
    count = int(end) - int(begin) + 1
    if count < 1:
        raise FieldError(f"{text} ends before it begins", f"{last.strip()}-{first.strip()}")
    if count > _MOST:
        raise FieldError(f"{text} are {count} addresses", f"a range may have {_MOST}")
    return [str(begin + step) for step in range(count)]


def _ending(first: str, last: str) -> str:
    return f"{first.strip().rpartition('.')[0]}.{last.strip()}"


def family(text: str) -> int:
    """4 or 6."""
    return ipaddress.ip_address(text).version


POSSIBLE = "an IPv4 network, or one of each family, IPv4 first: 10.96.0.0/22,fd00:10:96::/112"
"""The networks that a cluster can have, for pods and for Services."""


def networks(text: str) -> str:
    """A network, or two of both families with a comma between, in their usual spelling."""
    parsed = []
    for part in text.split(","):
        try:
            parsed.append(ipaddress.ip_network(part.strip()))
        except ValueError as wrong:
            raise FieldError(f"{part.strip()} is not a network: {wrong}", "write it as 10.96.0.0/22") from wrong
    if len(parsed) > 2 or len({network.version for network in parsed}) < len(parsed):
        raise FieldError(f"{text}: at most one network of each family", "10.96.0.0/22,fd00:10:96::/112")
    return ",".join(str(network) for network in parsed)


def impossible(networks: str) -> str | None:
    """Why no cluster can be made with networks, as ``networks`` returns them; None when one can."""
    versions = [ipaddress.ip_network(part).version for part in networks.split(",")]
    if versions == [6]:
        return f"{networks} is IPv6 alone"
    return f"{networks} begins with IPv6" if versions[0] == 6 else None


def overlap(first: str, second: str) -> bool:
    """Return True when networks, as returned by ``networks``, share addresses."""
    first_networks = [ipaddress.ip_network(part) for part in first.split(",")]
    two = [ipaddress.ip_network(part) for part in second.split(",")]
    return any(a.version == b.version and a.overlaps(b) for a in first_networks for b in two)


def image(text: str) -> str:
    """The name of an image, as it is written but for capitals, which no registry takes."""
    name = lowered(text)
    try:
        Reference.parse(name)
    except ValueError as wrong:
        raise FieldError(str(wrong)) from wrong
    return name


def host_name(text: str) -> str:
    """A DNS name, lower case."""
    if len(text) > 253 or not _DNS_NAME.fullmatch(text.lower()) or re.fullmatch(r"[\d.]+", text):
        raise FieldError(f"{text} is not a host name", "letters, digits, '-' and '.'")
    return text.lower()


def host(text: str) -> str:
    """A DNS name or an address."""
    if re.fullmatch(r"[\d.]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*", text):
        return address(text)
    return host_name(text)


def registry(text: str) -> str:
    """The name or address of a registry; its port is a key of its own."""
    name, colon, number = text.rpartition(":")
    if colon and ":" not in name and number.isdecimal():
        raise FieldError(f"{text} holds a port", f"domain: {name} and port: {number}")
    return host(text)


def san(text: str) -> str:
    """A SAN of a certificate: an address or a name, which may begin with ``*.``."""
    return f"*.{host_name(text[2:])}" if text.startswith("*.") else host(text)


def path(text: str) -> str:
    """A path on this machine, as it is written. ``~`` and ``~USER`` at its beginning must mean a folder."""
    try:
        paths.expanded(text)
    except UsageError as wrong:
        raise FieldError(wrong.message, wrong.hint) from wrong
    return text


def jump(text: str) -> JumpSettings:
    """``user@host:port``; user and port may be left out."""
    user, at, rest = text.rpartition("@")
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\s]+))(?::(\d+))?", rest)
    if match is None or (at and not user):
        raise FieldError(f"{text} is not a machine to jump over", "write it as user@host:port")
    return JumpSettings(host(match[1] or match[2]), user or None, port(match[3]) if match[3] else None)


def port(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= 65535:
        raise FieldError(f"{text} is not a port", "1 to 65535")
    return int(text)


def label_key(text: str) -> str:
    """``ssd`` or ``example.com/ssd``."""
    prefix, slash, name = text.rpartition("/")
    if slash and (len(prefix) > 253 or not _DNS_NAME.fullmatch(prefix)):
        raise FieldError(f"{text} is not a key: {prefix!r} is not a DNS name", "example.com/name, or name alone")
    if not _LABEL_NAME.fullmatch(name):
        raise FieldError(
            f"{text} is not a key", "letters, digits, '-', '_' and '.', at most 63; it begins and ends with one of the first two"
        )
    return text


def label_value(text: str) -> str:
    if text and not _LABEL_NAME.fullmatch(text):
        hint = "letters, digits, '-', '_' and '.', at most 63; it begins and ends with one of the first two"
        raise FieldError(f"{text} is not a value of a label", hint)
    return text


def labels(text: str) -> tuple[tuple[str, str], ...]:
    """``k=v,k2=v2``."""
    pairs = []
    for part in text.split(","):
        key, equals, value = part.strip().partition("=")
        if not equals:
            raise FieldError(f"{part.strip()} is not a label", "write it as key=value")
        pairs.append((label_key(key), label_value(value)))
    return tuple(pairs)


def taint(text: str) -> Taint:
    """``key=value:Effect``, ``key:Effect``; with a ``-`` at the end it is taken off, and then the effect may be left out."""
    rest = text.strip()
    remove = rest.endswith("-")
    head, colon, effect = rest.removesuffix("-").rpartition(":")
    if not colon:
        if not remove:
            raise FieldError(f"{text} has no effect", f"{text}:NoSchedule; {text.partition('=')[0]}- takes it off")
        head, effect = effect, ""
    elif effect not in EFFECTS:
        raise FieldError(f"{effect or 'nothing'} is not an effect", suggest(effect, EFFECTS))
    key, _, value = head.partition("=")
    return Taint(label_key(key), label_value(value), effect or None, remove)


def role(text: str) -> str:
    """``control-plane`` or ``worker``, sealer's ``master`` or ``node``, or a custom role. A near miss of these names is a fault."""
    if text in ROLES:
        return ROLES[text]
    near = difflib.get_close_matches(text.lower(), ROLES, n=1, cutoff=0.8)
    if near:
        raise FieldError(f"{text} is not a role", f"did you mean {ROLES[near[0]]}?")
    if not _LABEL_NAME.fullmatch(text):
        raise FieldError(f"{text} is not a role", "control-plane, worker, or a name of your own: letters, digits, '-', '_' and '.'")
    return text


def application(text: str) -> str:
    if not _APP.fullmatch(text):
        raise FieldError(f"{text!r} is not a name of an application", "letters, digits, '.', '_' and '-'; it is a folder")
    return text


def inside(text: str) -> str:
    """A path within the rootfs, or within an application's folder."""
    path = posixpath.normpath(text.strip().lstrip("/") or ".")
    if path == ".." or path.startswith("../"):
        raise FieldError(f"{text} leaves the rootfs", "paths are relative to it: etc/mysql.yaml")
    if path == "." or text.rstrip().endswith("/"):
        raise FieldError(f"{text} is a folder", "name a file: etc/mysql.yaml")
    if "\0" in path or "\n" in path:
        raise FieldError("a path is one line of text")
    return text.strip()


def folder(text: str) -> str:
    """An absolute path that is not the root."""
    path = posixpath.normpath(text)
    if not path.startswith("/") or path.strip("/") == "":
        raise FieldError(f"{text} is not a folder of its own", "an absolute path: /var/lib/slipway")
    return path


def registry_path(text: str) -> str:
    path = text.strip("/")
    try:
        Reference.parse(f"registry.example/{path}/x")
    except ValueError as wrong:
        raise FieldError(f"{text} is not a path within a registry", "lower case: project/images") from wrong
    return path


def duration(text: str) -> datetime.timedelta:
    """``8760h``, ``365d``, ``10y``, and several of them together as ``8760h0m0s``. A year has 365 days."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or not any(match.groups()):
        raise FieldError(f"{text} is not a duration", "8760h, 365d or 10y")
    years, days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    if years > 100 or days > 36500 or hours > 876_000:
        raise FieldError(f"{text} is longer than a hundred years")
    delta = datetime.timedelta(days=years * 365 + days, hours=hours, minutes=minutes, seconds=seconds)
    if delta < datetime.timedelta(hours=1):
        raise FieldError(f"{text} is too short", "an hour at least")
    return delta


def duration_text(value: datetime.timedelta) -> str:
    """Text that ``duration`` reads as ``value``."""
    seconds = int(value.total_seconds())
    for unit, size in (("y", 365 * 86400), ("d", 86400), ("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"

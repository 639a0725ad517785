"""Recognition of secrets in Clusterfiles and logs, and the fingerprints that replace them.

One recognizer serves the record in the cluster, the bundle of ``slipway logs`` and the lines that are shown: names that stand for
secrets, forms that secrets have, and the literal values that were passed to ``log.hide``. In doubt a value is a secret. Every pattern takes
time in proportion to the text: none begins in the middle of what it repeats, and what it repeats it does not give back.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.clusterfile import REDACTED, Clusterfile, Password, is_redacted

_KEYS = frozenset({"bootstrapTokens", "certificateKey", "token", "tlsBootstrapToken"})

# ---- names ------------------------------------------------------------------------------------------------------------

_LONGEST_NAME = 200
"""Letters of a name that are looked at, from its end."""
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_PARTS = re.compile(
    r"passw|pwd|passphrase|secret|token|credential|privatekey|accesskey|apikey|dockerconfigjson|dockercfg|clientkeydata|authorization"
)
_REFERENCE = re.compile(
    r"(?:name|ref|file|path|dir|env|ttl|timeout|expiry|lifetime|seconds|length|size|type|kind|mode|policy|enabled|required|url|uri"
    r"|endpoint|issuer|method|format|algorithm|header)s?$",
    re.IGNORECASE,
)
"""``secretName`` and ``passwordFile`` say where a secret is, not what it is."""
_NOT_PASS = ("bypass", "compass", "proxy_pass", "fastcgi_pass", "uwsgi_pass", "grpc_pass", "scgi_pass")
_SECRET_KEYS = frozenset(
    {
        "account",
        "aes",
        "app",
        "cert",
        "certificate",
        "client",
        "crypt",
        "deploy",
        "encryption",
        "hmac",
        "host",
        "jwt",
        "key",
        "license",
        "master",
        "root",
    }
    | {"rsa", "server", "service", "session", "shared", "signing", "ssh", "ssl", "storage", "tls"}
)
"""``encryptionKey`` is a secret, ``topologyKey`` is not."""
_OTHER_KEYS = frozenset(
    {"cache", "foreign", "group", "index", "label", "map", "object", "partition", "primary", "public", "routing", "row", "sort", "topology"}
)
_HARMLESS = frozenset(
    {"", "true", "false", "yes", "no", "on", "off", "none", "null", "~", "basic", "bearer", "ldap", "oidc", "required", "optional"}
    | {"enabled", "disabled", "anonymous", "***", "<nil>", "<none>"}
)
_VARIABLE = re.compile(r"\$(?:\w++|\{[^{}]*+\}|\([^()]*+\))")
_PATH = re.compile(r"(?:/|\./|\.\./|~/)[^\s]*\.?[\w-]+|[\w./-]+\.(?:key|pem|crt)")


_declared: set[str] = set()
"""Names that authors of images call secret. They hold for this process, as the values of ``log.hide`` do."""


def declare(names: Iterable[str]) -> None:
    """Have these names mark secrets from now on: an image says so of the values that it expects."""
    _declared.update(names)


def is_secret_name(name: str) -> bool:
    """Return True when a name marks its value as secret: ``MysqlPassword``, ``DB_PASS``, ``requirepass``, ``ENCRYPTION_KEY``."""
    if name in _declared:
        return True
    name = name[-_LONGEST_NAME:]
    if _REFERENCE.search(name):
        return False
    lower = name.lower()
    plain = re.sub(r"[^a-z0-9]", "", lower)
    if _PARTS.search(plain):
        return True
    if lower.lstrip("-").endswith(_NOT_PASS):
        return False
    words = [word.lower() for word in _WORD.findall(name)]
    return plain.endswith(("pass", "masterauth")) or (bool(words) and (words[-1] == "auth" or _is_key(name, words)))


def _is_key(name: str, words: Sequence[str]) -> bool:
    if words[-1] != "key" or len(words) < 2:
        return False
    return words[-2] in _SECRET_KEYS or (name == name.upper() and words[-2] not in _OTHER_KEYS)


def is_secret(name: str, value: str) -> bool:
    """Return True for a secret value: by its name, or by its form, as a URL with a password."""
    return (is_secret_name(name) and not _is_harmless(name, value)) or any(True for _ in _spans(value, "="))


def _is_harmless(name: str, value: str) -> bool:
    """Return True for a value that is no secret despite its name: a setting's keyword, a variable, the path of a key."""
    text = value.strip()
    if name in _declared:
        return not value or is_redacted(value)
    if text.lower() in _HARMLESS or text.startswith("{{") or _VARIABLE.fullmatch(text) or is_redacted(text):
        return True
    if len(text) > _LONGEST_NAME or not name.lower().endswith("key"):
        return False
    return _PATH.fullmatch(text) is not None and not _PARTS.search(name.lower())


# ---- texts ------------------------------------------------------------------------------------------------------------

_KIND = re.compile(r"""(?:^|[{,])[ \t]*+["']?kind["']?[ \t]*+:[ \t]*+["']?Secret\b""", re.MULTILINE)
_KEY_BLOCK = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----(.*?)(?=-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)", re.DOTALL
)
_KEY_TAIL = re.compile(r"\A([A-Za-z0-9+/=\s\\]*+)-----END [A-Z0-9 ]{0,40}PRIVATE KEY")
"""The end of a key whose beginning was cut off."""
_FORMS = (
    re.compile(r"(?<![A-Za-z0-9_-])(eyJ[A-Za-z0-9_-]{8,}+\.[A-Za-z0-9_-]{8,}+(?:\.[A-Za-z0-9_-]*+)?)"),  # JSON web tokens
    re.compile(r"(?<![A-Za-z0-9_.-])([a-z0-9]{6}\.[a-z0-9]{16})(?![A-Za-z0-9_.-])"),  # kubeadm's bootstrap
    re.compile(
        r"(?<![A-Za-z0-9_-])((?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30,}+|github_pat_[A-Za-z0-9_]{22,}+|glpat-[\w-]{20,}+"
        r"|xox[abeoprs]-[A-Za-z0-9-]{10,}+|AIza[\w-]{35}|npm_[A-Za-z0-9]{36}|dckr_pat_[\w-]{20,}+|hvs\.[\w-]{24,}+|sk_live_[A-Za-z0-9]{16,}+)"
    ),
    re.compile(r"(?<![a-zA-Z0-9+.-])[a-zA-Z][a-zA-Z0-9+.-]*+://[^\s/:@\"'<>]*+:(?!\$)([^\s/\"'<>]+)@"),
    re.compile(r"(?i)(?<![\w-])bearer[ \t]++([A-Za-z0-9._~+/=-]{8,}+)"),
    # curl -u name:password; two numbers are ids.
    re.compile(
        r"(?<![\w-])(?:-u|-U|--user|--proxy-user)(?:[ \t]++|=)?(?:\\*[\"'])?[^\s:\"'\\/=-][^\s:\"'\\/]{0,64}+:(?![\s$\d])([^\s\"'\\]++)"
    ),
)
_COMMANDS = re.compile(r"(?<![\w.-])(mysql\w*|mariadb[\w-]*|sshpass|mongo\w*|redis-cli|valkey-cli|login)(?![\w.-])")
_SHORT_OPTIONS = {
    "mysql": re.compile(r"(?<!\S)-p([^\s\"'$-][^\s\"']*+)"),
    "sshpass": re.compile(r"(?<!\S)-p[ \t]*+[\"']?([^\s\"'$]++)"),
    "redis": re.compile(r"(?<!\S)-a[ \t]++[\"']?([^\s\"'$]++)"),
}
# A name, its quotes, and a sign. A name begins where no other can continue, so each letter is scanned once.
_ASSIGNED = re.compile(r"(?<![\w.-])([\w.-]++)(?:\\*[\"'])?[ \t]*+([:=])(?![:=])[ \t]*+")
_OPTION = re.compile(
    r"(?<![\w.-])(--?[A-Za-z][\w-]*+)(?:(?:\\*+[\"'])?[ \t]*+,\s*+|[ \t]++|(?:\\*+[\"'])?[ \t]*+\n[ \t]*+-[ \t]++)(?=[^\s$-])"
)
"""An option whose value is the next word, the next item of a list, or the next line of one."""
_NAMED = re.compile(
    r"(?<![\w.-])name(?:\\*+[\"'])?[ \t]*+:[ \t]*+(?:\\*+[\"'])?([\w.-]++)(?:\\*+[\"'])?[ \t]*+,?\s*+"
    r"(?:\\*+[\"'])?value(?:\\*+[\"'])?[ \t]*+:[ \t]*+"
)
"""An entry of ``env`` in a manifest."""
_QUOTE = re.compile(r"(\\*+)([\"'])")
_WORD_VALUE = re.compile(r"(?:\\.|[^\s,;&\"'\\})\]]|[,;&})\]](?=[^\s,;&\"'})\]])(?![\w.-]{1,64}[=:]))++")
"""A separator ends it, unless something follows that does not look like the next name."""
_LINE_VALUE = re.compile(r"[^\n\"']*+")
_SHORT_LINE_VALUE = re.compile(r"[^\n\"']{0,4096}+")
_REST = {"": re.compile(r"[^\n]{1,4096}+"), "'": re.compile(r"[^\n']{1,4096}+"), '"': re.compile(r'[^\n"]{1,4096}+')}
_BLOCK = re.compile(r"[|>][+-]?[0-9]?[+-]?[ \t]*+(?:#[^\n]*+)?\n")
_LIST = re.compile(r"\[([^\[\]{}\n]*+)\]")
_ITEMS = re.compile(r"[ \t]*+(?:#[^\n]*+)?\n((?:[ \t]*+-[ \t]++(?![^\n]*:(?:\s|$))[^\n]*+(?:\n|\Z))++)")
_LINE_START = re.compile(r"[ \t]*+(?:-[ \t]++)*+(?:export[ \t]++)?[\"']?\Z")
_LONGEST_QUOTE = 1 << 16
"""Letters of a value in quotes; of one with several lines, the next."""
_LONGEST_LINES = 2048


def holds_secret(text: str, known: Iterable[str] = ()) -> bool:
    """Return True when a text has a secret: a ``known`` value, a secret name with a value, a private key, a Kubernetes Secret."""
    from harness.clusterfile import serialize  # here: names are recognized where only the standard library is, too

    if any(value in text for value in known) or _KIND.search(text) or "PRIVATE KEY-----" in text:
        return True
    try:
        documents = serialize.read_documents(text) if len(text) <= _MOST_STRUCTURED else []
    except (ValueError, RecursionError):
        documents = []
    structured = any(isinstance(document, Mapping | list) for document in documents)
    return any(_gives_secret(document, "") for document in documents) or any(True for _ in _spans(text, "=" if structured else ":="))


_MOST_STRUCTURED = 256 << 10
"""Letters of a text that is read as YAML; a longer one is looked through as text only."""


def hidden(text: str, instead: str) -> str:
    """The text with ``instead`` in place of every secret in it."""
    parts, position = [], 0
    for begin, end in sorted(_spans(text, ":=")):
        if end <= position:
            continue
        if begin >= position:
            parts += [text[position:begin], instead]
        position = end
    return "".join([*parts, text[position:]])


def is_secret_option(word: str) -> bool:
    """Return True when the argument after this one is a secret: ``--password``."""
    return word.startswith("-") and "=" not in word and len(word) > 2 and is_secret_name(word)


def literals(clusterfile: Clusterfile) -> frozenset[str]:
    """The values of a Clusterfile that are secrets as a whole."""
    values: set[str | None] = set()
    cluster = clusterfile.cluster
    environments: list[Mapping[str, str]] = [app.env for app in clusterfile.apps]
    for application in (clusterfile.application, *clusterfile.apps):
        environments += [config.env for config in application.configs] if application else []
    if cluster is not None:
        for login in (cluster.ssh, *(host.ssh for host in cluster.hosts)):
            values |= {login.passphrase, _written(login.password)}
            values |= {login.jump.passphrase, _written(login.jump.password)} if login.jump else set()
        values |= {_written(registry.password) for registry in (cluster.local_registry, cluster.external_registry) if registry}
        environments += [cluster.env, cluster.command_args, *(host.env for host in cluster.hosts)]
    values |= {value for env in environments for name, value in env.items() if is_secret_name(name) and not _is_harmless(name, value)}
    return frozenset(value for value in values if value and len(value) >= SHORTEST and not is_redacted(value))


SHORTEST = 5
"""Minimum length of a secret that is searched literally: a shorter one may be part of other words."""


def _written(password: Password) -> str | None:
    return password.text


def _gives_secret(value: Any, name: str) -> bool:
    if isinstance(value, Mapping):
        named = value.get("name")
        if isinstance(named, str) and is_secret_name(named) and _gives_secret(value.get("value"), named):
            return True
        return any(_gives_secret(item, key) for key, item in value.items())
    if isinstance(value, list):
        pairs = zip(["", *value], value, strict=False)
        return any(_gives_secret(item, before if isinstance(before, str) and is_secret_option(before) else name) for before, item in pairs)
    if isinstance(value, str) and "\n" in value and any(True for _ in _spans(value, ":=")):
        return True
    if value is None or isinstance(value, bool):
        return False
    return is_secret_name(name) and not _is_harmless(name, str(value))


def _spans(text: str, signs: str) -> Iterator[tuple[int, int]]:
    """Begin and end of every secret in a text. ``signs``: what may stand between a name and its value."""
    if tail := _KEY_TAIL.match(text):
        yield tail.span(1)
    for pattern in (_KEY_BLOCK, *_FORMS):
        for match in pattern.finditer(text):
            if match[1]:
                yield match.span(1)
    for match in _OPTION.finditer(text):
        if is_secret_option(match[1]):
            yield from _value(text, match.end(), match[1], line=False)
    for match in _NAMED.finditer(text):
        if is_secret_name(match[1]):
            yield from _value(text, match.end(), match[1], line=True)
    covered = 0
    for match in _ASSIGNED.finditer(text):
        # Names within a secret are hidden with it: searching its end again for each of them would take quadratic time.
        if match.end() >= covered and match[2] in signs and is_secret_name(match[1]):
            for begin, end in _assigned(text, match):
                covered = max(covered, end)
                yield begin, end
    yield from _short_options(text)


def _short_options(text: str) -> Iterator[tuple[int, int]]:
    """Passwords of programs that take them as ``-p``: the same letter means a port or a folder to others."""
    end = 0
    for match in _COMMANDS.finditer(text):
        if match.start() < end:
            continue  # this line was searched because of an earlier word
        end = text.find("\n", match.end())
        end = len(text) if end < 0 else end
        kind = "mysql" if match[1].startswith(("mysql", "maria")) else "redis" if match[1].endswith("-cli") else "sshpass"
        for option in _SHORT_OPTIONS[kind].finditer(text, match.end(), end):
            yield option.span(1)


def _assigned(text: str, match: re.Match[str]) -> Iterator[tuple[int, int]]:
    name, at = match[1], match.end()
    # An indentation is short: a long line is not searched again for each name in it.
    nearest = max(0, match.start() - _LONGEST_NAME)
    start = text.rfind("\n", nearest, match.start()) + 1 or nearest
    at_margin = _LINE_START.match(text, start, match.start()) is not None
    if match[2] == ":":
        if block := _BLOCK.match(text, at):
            yield block.end(), _block_end(text, block.end(), at, start)
            return
        if items := _ITEMS.match(text, at):
            yield items.span(1)
            return
    if re.sub(r"[^a-z]", "", name[-_LONGEST_NAME:].lower()).endswith("authorization") and not _QUOTE.match(text, at):
        # Credentials have blanks, commas and quotes in them. Only a quote before the header ends it before the line does.
        outer = _REST.get(text[match.start() - 1 : match.start()], _REST[""])
        if assignment := outer.match(text, at):
            yield assignment.span()
        return
    if several := _LIST.match(text, at):
        if several[1].strip():
            yield several.span(1)
        return
    yield from _value(text, at, name, line=match[2] == ":" and at_margin, margin=at_margin)


def _block_end(text: str, begin: int, key: int, start: int) -> int:
    """The end of a block scalar: the lines that are indented more than the line of its key, which begins at ``start``."""
    line = text[start : min(key, start + _LONGEST_NAME)]
    margin = len(line) - len(line.lstrip(" "))
    end = begin
    while end < len(text):
        after = text.find("\n", end) + 1 or len(text)
        row = text[end : min(after, end + margin + 1)]
        if row.strip() and len(row) - len(row.lstrip(" ")) <= margin:
            break
        end = after
    return end


def _value(text: str, at: int, name: str, *, line: bool, margin: bool = False) -> Iterator[tuple[int, int]]:
    """The value that begins at ``at``: in quotes, to the end of the line, or one word."""
    if text.startswith(("{", "["), at):
        return
    quote = _QUOTE.match(text, at)
    if quote:
        begin, end = quote.end(), _closing(text, quote)
    else:
        value = (_WORD_VALUE if not line else _LINE_VALUE if margin else _SHORT_LINE_VALUE).match(text, at)
        begin, end = value.span() if value else (at, at)
        if line and (comment := text.find(" #", begin, end)) >= 0:
            end = comment
        end = begin + len(text[begin:end].rstrip())
    # A long value is never harmless.
    if begin < end and (end - begin > _LONGEST_NAME or not _is_harmless(name, text[begin:end])):
        yield begin, end


def _closing(text: str, opening: re.Match[str]) -> int:
    """End of a quoted value. Inside other quotes a quote has backslashes before it, and an escaped one has more."""
    depth, quote = len(opening[1]), opening[2]
    at = opening.end()
    limit = min(len(text), at + _LONGEST_QUOTE)
    line = text.find("\n", at, limit)
    if line >= 0:
        limit = max(line, min(limit, at + _LONGEST_LINES))
    while (at := text.find(quote, at, limit)) >= 0:
        before = at
        while before > opening.end() and text[before - 1] == "\\":
            before -= 1
        if (quote == "'" and depth == 0) or (at - before) % (2 * (depth + 1)) == depth:
            return before if depth else at
        at += 1
    return line if line >= 0 else limit


# ---- fingerprints ------------------------------------------------------------------------------------------------------------


def without_keys(document: Any) -> Any:
    """A document of kubeadm without the credentials that admit nodes."""
    if isinstance(document, Mapping):
        return {
            key: without_keys(value)
            for key, value in document.items()
            if key not in _KEYS and not (isinstance(value, str) and is_secret(key, value))
        }
    return [without_keys(item) for item in document] if isinstance(document, list) else document


@functools.lru_cache(maxsize=1024)
def fingerprint(value: str, place: str) -> str:
    """Replacement for a secret, made with scrypt so that guessing passwords is slow. The same value at the same place gives the same."""
    derived = hashlib.scrypt(value.encode(), salt=f"slipway {place}".encode(), n=2**14, r=8, p=1, dklen=18)
    return f"{REDACTED}{base64.b64encode(derived).decode()}>"


def same_secret(before: str, after: str, place: str) -> bool:
    """Return True when two values are equal, where either may be a fingerprint."""
    if is_redacted(before) == is_redacted(after):
        return before == after
    secret, marked = (after, before) if is_redacted(before) else (before, after)
    return fingerprint(secret, place) == marked

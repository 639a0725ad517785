"""Policy of this machine: a file that states, for each repository, the signature that an image must have.

::

    default: none                       # for all that no rule names: signed, none or deny
    rules:
      - repository: registry.example.com/product/**
        require: signed
        keys: [release.pub]             # files beside this one, or PEM as text; one of them must have signed
        annotations: {stage: released}  # and this must stand in what it signed
        identity: matchRepository       # of which repository it must speak: the image's own, any, or a pattern of repositories
        minimum: 2.3.0                  # the least version (annotation ``version``), or a day since which it must be signed
      - repository: registry.example.com/product/scratch
        require: none
      - repository: docker.io/**
        require: deny

``*`` stands for any characters but a slash, ``**`` for any. Of the rules that match, the most specific holds: the one with the
most characters that are no wildcard. Spellings of one repository are one repository: ``Registry.example.com:443/x`` is
``registry.example.com/x``, and ``nginx`` is ``docker.io/library/nginx``.

Where signatures are required, a tag never goes back to an image that was signed earlier than the one that it brought before: see newest.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import yaml

from harness import untrusted
from harness.errors import Fault, InputError, UsageError
from harness.host import paths
from harness.oci.admission import Admitted
from harness.oci.model import Descriptor
from harness.oci.reference import Reference, normal_domain
from harness.oci.registry.client import Client
from harness.oci.registry.referrers import LocalReferrers, ReferrerStore, RemoteReferrers
from harness.oci.store import Store
from harness.trust import signature
from harness.trust.newest import Newest, Offer
from harness.trust.signature import Demand, Minimum, RefusedError, Signed

if TYPE_CHECKING:
    from harness.trust.keys import PublicKey

Require = Literal["signed", "none", "deny"]
REQUIRE = ("signed", "none", "deny")
_FIELDS = ("require", "keys", "annotations", "identity", "minimum")


Identity = str
"""``matchRepository``, ``any``, or a pattern of repositories."""
SAME = "matchRepository"
ANY = "any"


@dataclasses.dataclass(frozen=True)
class PolicyRule:
    """Requirements for the images of some repositories. ``where`` is the position in the file."""

    pattern: str
    require: Require
    keys: tuple[PublicKey, ...] = ()
    annotations: Mapping[str, str] = dataclasses.field(default_factory=dict, hash=False)
    identity: Identity = SAME
    minimum: Minimum | None = None
    where: str = ""

    def matches(self, repository: str) -> bool:
        return _expression(self.pattern).fullmatch(repository) is not None

    @property
    def weight(self) -> tuple[int, int, int]:
        """Sort key: the more specific rule wins; of two equally specific ones, the stricter."""
        literal = len(self.pattern.replace("*", ""))
        return literal, -self.pattern.count("*"), ("none", "signed", "deny").index(self.require)

    def demand(self, reference: Reference | None) -> Demand:
        """Requirements for a signature of an image; without ``reference`` its repository is not known."""
        demand = Demand(self.keys, self.annotations, minimum=self.minimum)
        if self.identity == ANY or (self.identity == SAME and reference is None):
            return demand
        if self.identity == SAME and reference is not None:
            return dataclasses.replace(demand, identity=reference.place.__eq__, identities=reference.repository)
        pattern = _expression(self.identity)
        return dataclasses.replace(demand, identity=lambda place: pattern.fullmatch(place) is not None, identities=self.identity)


@dataclasses.dataclass(frozen=True)
class Policy:
    """All rules of a file."""

    path: Path
    default: PolicyRule
    rules: tuple[PolicyRule, ...] = ()

    def rule(self, reference: Reference) -> PolicyRule:
        """The rule for the repository of a reference, however that is spelled."""
        matching = [rule for rule in self.rules if rule.matches(reference.place)]
        return max(matching, key=lambda rule: rule.weight, default=self.default)


SYSTEM = Path("/etc/slipway/policy.yaml")
"""The administrator's policy: it holds for every user of this machine, whatever else there is."""


def load(path: Path) -> Policy:
    """The policy in a file. Raises InputError with every fault of it; one that cannot be read must not mean "take everything"."""
    return parse(_read(path), path)


def gate(*, allow_older: bool = False) -> Gate:
    """The gate of this machine, as its policies are now. ``allow_older``: the user wants what a tag means, though it was signed earlier.

    ``/etc/slipway/policy.yaml``, and beside it ``$SLIPWAY_POLICY`` or else ``~/.config/slipway/policy.yaml``: each that exists must
    admit an image. Raises InputError for a file that cannot be read or understood, and for one that is named and does not exist.
    """
    home = os.environ.get("XDG_CONFIG_HOME")
    own = (Path(home) if home else paths.user_home() / ".config") / "slipway/policy.yaml"
    named = os.environ.get("SLIPWAY_POLICY")
    policies = [policy for path in (SYSTEM, *(() if named else (own,))) if (policy := _load_if_there(path)) is not None]
    return Gate((*policies, *((load(Path(named)),) if named else ())), allow_older)


def admit(store: Store, name: str, digest: str) -> Admitted:
    """As Gate.admit, by the policies of this machine."""
    return gate().admit(store, name, digest)


@dataclasses.dataclass(frozen=True)
class Gate:
    """The one way by which an image comes into use: every policy must admit it. Without policies everything is admitted."""

    policies: tuple[Policy, ...] = ()
    allow_older: bool = False

    def admit(self, store: Store, name: str, digest: str, arriving: Mapping[str, Descriptor] | None = None) -> Admitted:
        """Admit an image of the store under ``name``. Raises RefusedError.

        An image that is named by digest must be allowed under each name it has here. ``arriving`` are attachments, by name, that are in
        the store and have no name yet: with them the image comes from elsewhere under ``name`` alone, and its tag must not go back.
        Signatures only: that the image is whole is looked at by who reads it.
        """
        if not self.policies:
            return Admitted(name, digest)
        attachments_of = functools.partial(LocalReferrers, store, arriving=arriving or {})
        references = _references(store, name, digest) if arriving is None else [Reference.parse(name)]
        all_signatures: list[Signed] = []
        for reference in references:
            signatures = self._each(attachments_of(reference), reference, digest)
            if arriving is not None:
                self._advance(reference, digest, signatures)
            all_signatures += signatures
        if not references:
            # Its origin is not known: only the defaults apply.
            attachments = attachments_of(Reference("localhost", "unnamed"))
            all_signatures = [one for policy in self.policies for one in _apply(policy, policy.default, attachments, None, name, digest)]
        return Admitted(name, digest, tuple(dict.fromkeys(all_signatures)))

    def admit_remote(self, client: Client, pinned: Reference) -> Admitted:
        """Admit an image of a registry, by digest: before any of its blobs is fetched, and before it gets a name here.

        With a tag it is what that tag means there now, which must not go back. Raises RefusedError, or RemoteError when the registry cannot
        give the signatures.
        """
        digest = str(pinned.digest)
        signatures = self._each(RemoteReferrers(client, pinned), pinned, digest)
        self._advance(pinned, digest, signatures)
        return Admitted(pinned.familiar, digest, tuple(dict.fromkeys(signatures)))

    def asks(self, reference: Reference) -> bool:
        """Return True when a policy refuses images of a repository, or requires a signature."""
        return any(policy.rule(reference).require != "none" for policy in self.policies)

    def demands(self, reference: Reference) -> tuple[Demand, ...]:
        """Requirements of all policies that require a signature for a repository."""
        rules = (policy.rule(reference) for policy in self.policies)
        return tuple(rule.demand(reference) for rule in rules if rule.keys)

    def _each(self, attachments: ReferrerStore, reference: Reference, digest: str) -> list[Signed]:
        # Without its digest, which the reason contains.
        name = dataclasses.replace(reference, digest=None).familiar if reference.tag else reference.repository
        return [
            signed for policy in self.policies for signed in _apply(policy, policy.rule(reference), attachments, reference, name, digest)
        ]  # fmt: skip

    def _advance(self, reference: Reference, digest: str, signatures: Sequence[Signed]) -> None:
        """Refuse an image that was signed before the one that the tag meant last.

        Of several signatures the latest counts: to leave one out makes the image look older, never newer.
        """
        if reference.tag is None or not signatures:
            return
        signed_at = max((one.claim.signed_at for one in signatures if one.claim.signed_at is not None), default=None)
        Newest(paths.home()).advance(Offer(f"{reference.place}:{reference.tag}", digest, signed_at), allow_older=self.allow_older)


def _apply(
    policy: Policy, rule: PolicyRule, attachments: ReferrerStore, reference: Reference | None, name: str, digest: str
) -> tuple[Signed, ...]:
    if rule.require == "none":
        return ()
    hint = f"{rule.where} says so"
    if rule.require == "deny":
        why = "no rule names it, and the default is deny" if rule is policy.default else f"nothing of {rule.pattern} may be used"
        raise RefusedError(f"{name} is refused by policy: {why}", hint=hint)
    try:
        return signature.check(attachments, digest, rule.demand(reference), name=name)
    except RefusedError as refused:
        raise RefusedError(f"refused by policy: {refused.message}", hint=hint, details=refused.details) from refused


def _references(store: Store, name: str, digest: str) -> list[Reference]:
    """The name, which the store need not have yet; for a digest or the beginning of one, the names that mean it here."""
    names = store.names()
    with contextlib.suppress(ValueError):
        reference = Reference.parse(name)
        is_digest = digest.startswith(f"sha256:{name.removeprefix('sha256:')}") or not reference.tag
        if reference.familiar in names or not is_digest:
            return [reference]
    return [Reference.parse(other) for other, descriptor in names.items() if descriptor.digest == digest]


@functools.lru_cache(maxsize=256)
def _expression(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\*\*|\*)", pattern)
    return re.compile("".join({"**": ".*", "*": "[^/]*"}.get(part, re.escape(part)) for part in parts))


# Reading the file


def _load_if_there(path: Path) -> Policy | None:
    # Not exists(), which says no as well where it may not look.
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # reading it says why
    return load(path)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise InputError(
            [Fault(str(path), f"the policy cannot be read: {why}", "without it nothing is taken; SLIPWAY_POLICY names it")]
        ) from problem


def parse(text: str, path: Path) -> Policy:
    """Read a policy. Raises InputError with every fault and its line; keys are read too, from beside the file."""
    reader = _Reader(path)
    excess = untrusted.yaml_excess(text)
    if excess is not None:
        raise InputError([Fault(f"{path}:{excess[0]}", f"not usable YAML: {excess[1]}")])
    try:
        root = yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.MarkedYAMLError as wrong:
        mark = wrong.problem_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise InputError([Fault(where, f"not YAML: {wrong.problem}")]) from wrong
    except yaml.YAMLError as wrong:
        raise InputError([Fault(str(path), f"not YAML: {wrong}")]) from wrong
    policy = reader.policy(root)
    if reader.faults:
        raise InputError(reader.faults)
    return policy


@dataclasses.dataclass
class _Reader:
    """Makes rules of YAML nodes, which know their lines. Goes on after a fault, to find the others too."""

    path: Path
    faults: list[Fault] = dataclasses.field(default_factory=list)

    def policy(self, root: yaml.Node | None) -> Policy:
        if root is None:
            self.faults.append(Fault(str(self.path), "the policy is empty", "write at least `default: none`, `signed` or `deny`"))
            return Policy(self.path, PolicyRule("**", "deny"))
        fields = self._mapping(root, ("default", "rules"), "the policy")
        default = self._default(fields.get("default"), root)
        rules: list[PolicyRule] = []
        for node in self._list(fields.get("rules"), "rules"):
            rule = self._rule(node)
            if rule is None:
                continue
            twin = next((other for other in rules if other.pattern == rule.pattern), None)
            if twin:
                self._fault(node, f"a second rule for {rule.pattern}", f"the first is at {twin.where}")
            rules.append(rule)
        return Policy(self.path, default, tuple(rules))

    def _default(self, node: yaml.Node | None, root: yaml.Node) -> PolicyRule:
        if node is None:
            self._fault(
                root, "there is no default", "write `default: none`, `signed` or `deny`: it applies to all images that no rule names"
            )
            return PolicyRule("**", "deny")
        if isinstance(node, yaml.MappingNode):
            fields = self._mapping(node, _FIELDS, "default")
            return self._made("**", node, fields)
        return PolicyRule("**", self._require(node, keys=False), where=self._where(node))

    def _rule(self, node: yaml.Node) -> PolicyRule | None:
        fields = self._mapping(node, ("repository", *_FIELDS), "a rule")
        if not isinstance(node, yaml.MappingNode):
            return None
        if "repository" not in fields:
            self._fault(node, "a rule without a repository", "repository: registry.example.com/product/**")
            return None
        return self._made(self._pattern(fields["repository"]), node, fields)

    def _made(self, pattern: str, node: yaml.Node, fields: Mapping[str, yaml.Node]) -> PolicyRule:
        require: Require = "deny"
        if "require" in fields:
            require = self._require(fields["require"], keys="keys" in fields)
        else:
            self._fault(node, "it does not say what is required", "require: signed, none or deny")
        keys = tuple(key for entry in self._list(fields.get("keys"), "keys") if (key := self._key(entry)))
        if require != "signed":
            for name in ("keys", "annotations", "identity", "minimum"):
                if name in fields and "require" in fields:
                    self._fault(
                        fields[name],
                        f"{name} mean{'' if name.endswith('s') else 's'} nothing with require: {require}",
                        "require: signed is what looks at them",
                    )
        annotations, identity = self._annotations(fields.get("annotations")), self._identity(fields.get("identity"))
        return PolicyRule(pattern, require, keys, annotations, identity, self._minimum(fields.get("minimum")), self._where(node))

    def _minimum(self, node: yaml.Node | None) -> Minimum | None:
        text = self._text(node) if node is not None else None
        if node is None or text is None:
            return None
        try:
            return Minimum.parse(text)
        except ValueError as wrong:
            self._fault(node, f"minimum: {wrong}", "the least version, as 2.3.0, or the day since which it must be signed, as 2026-01-31")
            return None

    def _identity(self, node: yaml.Node | None) -> Identity:
        text = self._text(node) if node is not None else None
        return text or SAME if node is None or text in (SAME, ANY, None) else self._pattern(node)

    def _require(self, node: yaml.Node, *, keys: bool) -> Require:
        text = self._text(node)
        if text is not None and text not in REQUIRE:
            self._fault(node, f"{text!r} is nothing that can be required", "signed, none or deny")
        elif text == "signed" and not keys:
            self._fault(node, "requires a signature, but has no keys", "keys: [release.pub]")
        return cast("Require", text) if text in REQUIRE else "deny"

    def _pattern(self, node: yaml.Node) -> str:
        text = self._text(node) or ""
        if not text:
            self._fault(node, "the repository is empty")
        elif "***" in text or not re.fullmatch(r"[A-Za-z0-9.:\[\]_/*-]+", text) or "//" in text or text.endswith("/"):
            self._fault(node, f"{text!r} is not a pattern of repositories", "as registry.example.com/product/**, without a tag")
        elif "*" not in text:
            return self._repository(node, text)
        elif "*" not in text.split("/")[0] and not re.search(r"[.:]|^localhost$", text.split("/")[0]):
            self._fault(
                node, f"{text!r} does not begin with a registry", f"write docker.io/{text} for Docker Hub and names without a registry"
            )
        domain, slash, path = text.partition("/")
        return f"{normal_domain(domain)}{slash}{path}"

    def _repository(self, node: yaml.Node, text: str) -> str:
        """A pattern without wildcards is a name of a repository, and may be as short as names may."""
        try:
            reference = Reference.parse(text)
        except ValueError as wrong:
            self._fault(node, str(wrong))
            return text
        if text not in (reference.repository, Reference(reference.domain, reference.path, "x").familiar.removesuffix(":x")):
            self._fault(node, f"{text!r} has a tag or a digest; rules are for repositories", f"repository: {reference.repository}")
        return reference.place

    def _key(self, node: yaml.Node) -> PublicKey | None:
        text = self._text(node)
        if not text:
            if text is not None:
                self._fault(node, "a key without a name")
            return None
        from harness.trust.keys import public_key, read_public  # here: its cryptography is slow to load, and most machines name no key

        try:
            if "-----BEGIN" in text:
                return public_key(text.encode(), f"the key at {self._where(node)}")
            return read_public(self.path.parent / paths.expanded(text))
        except UsageError as wrong:
            self._fault(node, wrong.message, wrong.hint)
            return None

    def _annotations(self, node: yaml.Node | None) -> dict[str, str]:
        if node is None:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self._fault(node, "annotations are NAME: VALUE")
            return {}
        return {str(key.value): self._text(value) or "" for key, value in node.value}

    def _mapping(self, node: yaml.Node, supported: tuple[str, ...], what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            self._fault(node, f"{what} must be a mapping with {', '.join(supported)}")
            return {}
        fields: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in supported:
                self._fault(key, f"{what} has no field {name!r}", f"it has {', '.join(supported)}")
            elif name in fields:
                self._fault(key, f"{name} occurs twice")
            else:
                fields[name] = value
        return fields

    def _list(self, node: yaml.Node | None, what: str) -> list[yaml.Node]:
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            self._fault(node, f"{what} must be a list")
            return []
        if not node.value:
            self._fault(node, f"{what} is an empty list")
        return list(node.value)

    def _text(self, node: yaml.Node) -> str | None:
        if not isinstance(node, yaml.ScalarNode):
            self._fault(node, "this must be text")
            return None
        return str(node.value)

    def _fault(self, node: yaml.Node, message: str, hint: str | None = None) -> None:
        self.faults.append(Fault(self._where(node), message, hint))

    def _where(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

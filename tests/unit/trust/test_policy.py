from __future__ import annotations

from pathlib import Path

import pytest

from harness.cloudimage import CloudImage, tags
from harness.errors import InputError, StoreError
from harness.lifecycle import run
from harness.lifecycle.cluster.request import of_machines
from harness.nodes import Login, Machine
from harness.oci.reference import Reference
from harness.oci.registry.referrers import LocalReferrers
from harness.oci.store import Store
from harness.trust import policy, signature
from harness.trust.keys import PrivateKey
from harness.trust.policy import Gate, Policy
from harness.trust.signature import RefusedError
from tests.unit.cloudimage.examples import platform_image, write
from tests.unit.trust.damage import flip


@pytest.fixture
def file(tmp_path: Path, key: PrivateKey, other: PrivateKey) -> Path:
    """Where a policy may be written, with two keys beside it."""
    (tmp_path / "release.pub").write_bytes(key.public.pem)
    (tmp_path / "other.pub").write_bytes(other.public.pem)
    return tmp_path / "policy.yaml"


def parse(file: Path, text: str) -> Policy:
    file.write_text(text)
    return policy.load(file)


def faults(file: Path, text: str) -> list[str]:
    with pytest.raises(InputError) as caught:
        parse(file, text)
    return [f"{fault.where.rpartition('/')[2]}: {fault.message}" for fault in caught.value.faults]


def requires(found: Policy, name: str) -> str:
    return found.rule(Reference.parse(name)).require


# Which rule


RULES = """
default: deny
rules:
  - {repository: "registry.example.com/**", require: signed, keys: [release.pub]}
  - {repository: "registry.example.com/team/**", require: none}
  - {repository: registry.example.com/team/vault, require: deny}
  - {repository: "registry.example.com/*/cache", require: none}
  - {repository: "*.internal:5000/**", require: none}
  - {repository: web, require: none}
"""


@pytest.mark.parametrize(
    ("name", "require"),
    [
        ("registry.example.com/a:1", "signed"),
        ("registry.example.com/a/b/c", "signed"),
        ("registry.example.com/team/a", "none"),
        ("registry.example.com/team/a/b", "none"),
        ("registry.example.com/team", "signed"),
        ("registry.example.com/team/vault:2", "deny"),
        ("registry.example.com/x/cache", "none"),
        ("registry.example.com/x/y/cache", "signed"),
        ("hub.internal:5000/a", "none"),
        ("hub.internal/a", "deny"),
        ("web", "none"),
        ("docker.io/library/web:2", "none"),
        ("web/web", "deny"),
        ("registry.example.community/a", "deny"),
        ("registry-example.com/a", "deny"),
    ],
)
def test_rule_most_specific_pattern_wins(name: str, require: str, file: Path) -> None:
    assert requires(parse(file, RULES), name) == require


def test_rule_stricter_of_equally_specific_patterns_wins(file: Path) -> None:
    rules = ["- {repository: a.io/*/b, require: none}", "- {repository: a.io/b/*, require: deny}"]
    for order in (rules, rules[::-1]):
        assert requires(parse(file, "default: none\nrules:\n" + "\n".join(order)), "a.io/b/b") == "deny"


def test_load_inline_pem_key_is_read(file: Path, key: PrivateKey) -> None:
    pem = key.public.pem.decode().replace("\n", "\n          ")
    found = parse(file, f"default: none\nrules:\n  - repository: web\n    require: signed\n    keys:\n      - |\n          {pem}\n")
    (one,) = found.rules[0].keys
    assert one.fingerprint == key.public.fingerprint
    assert one.name == f"the key at {file}:6"


def test_load_default_may_require_signatures(file: Path) -> None:
    found = parse(file, "default:\n  require: signed\n  keys: [release.pub, other.pub]\n  annotations: {stage: released}\n")
    assert (found.default.require, len(found.default.keys), dict(found.default.annotations)) == ("signed", 2, {"stage": "released"})


# Which file


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the administrator's policy may be written."""
    path = tmp_path / "etc/policy.yaml"
    path.parent.mkdir()
    monkeypatch.setattr(policy, "SYSTEM", path)
    return path


def test_gate_without_policy_file_admits_everything(store: Store, image: CloudImage, system: Path) -> None:
    assert not system.exists()
    assert policy.gate() == Gate()
    assert policy.admit(store, "web", image.digest).signatures == ()


def test_gate_finds_policies_in_config_environment_and_system_path(
    store: Store, tmp_path: Path, file: Path, system: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = tmp_path / "config/slipway/policy.yaml"
    usual.parent.mkdir(parents=True)
    usual.write_text("default: deny\n")
    assert [one.path for one in policy.gate().policies] == [usual]
    file.write_text("default: none\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(file))
    assert [(one.path, one.default.require) for one in policy.gate().policies] == [(file, "none")]
    system.write_text("default: none\n")
    assert [one.path for one in policy.gate().policies] == [system, file]


@pytest.mark.parametrize("own", ["environment", "config"])
def test_admit_image_denied_by_system_or_user_policy_is_refused(
    store: Store, image: CloudImage, tmp_path: Path, file: Path, system: Path, own: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.write_text("default: none\nrules: [{repository: web, require: deny}]\n")
    if own == "environment":
        monkeypatch.setenv("SLIPWAY_POLICY", str(file))
    else:
        file = tmp_path / "config/slipway/policy.yaml"
        file.parent.mkdir(parents=True)
    file.write_text("default: none\nrules: [{repository: web, require: none}]\n")
    with pytest.raises(RefusedError, match=r"nothing of docker\.io/library/web may be used"):
        policy.admit(store, "web", image.digest)
    tags.tag(store, "web", "free")
    assert policy.admit(store, "free", image.digest)
    file.write_text("default: deny\n")
    with pytest.raises(RefusedError, match="the default is deny"):
        policy.admit(store, "free", image.digest)


def test_gate_unreadable_system_policy_raises_input_error(store: Store, system: Path) -> None:
    system.symlink_to(system.parent / "nowhere")
    with pytest.raises(InputError, match="cannot be read"):
        policy.gate()
    system.unlink()
    system.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        policy.gate()


def test_gate_missing_or_unreadable_named_policy_raises_input_error(file: Path, system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_POLICY", str(file))
    with pytest.raises(InputError, match="the policy cannot be read: No such file"):
        policy.gate()
    file.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        policy.gate()


# Spellings


@pytest.mark.parametrize(
    "name",
    [
        "Registry.Example.COM/team/vault:1",
        "registry.example.com:443/team/vault",
        "registry.example.com:0443/team/vault",
        "REGISTRY.example.com:443/team/vault@sha256:" + "0" * 64,
    ],
)
def test_rule_matches_image_name_in_any_registry_spelling(name: str, file: Path) -> None:
    assert requires(parse(file, RULES), name) == "deny"


@pytest.mark.parametrize(
    "name", ["web", "index.docker.io/web", "registry-1.docker.io/library/web", "Docker.io/web", "docker.io:443/library/web"]
)
def test_rule_matches_image_under_any_docker_hub_name(name: str, file: Path) -> None:
    assert requires(parse(file, "default: none\nrules: [{repository: docker.io/library/web, require: deny}]\n"), name) == "deny"


@pytest.mark.parametrize(
    "pattern",
    ["Registry.Example.com/team/**", "registry.example.com:443/team/**", "REGISTRY.example.com:443/team/vault", "*.EXAMPLE.com:443/**"],
)
def test_rule_pattern_in_any_registry_spelling_matches(pattern: str, file: Path) -> None:
    found = parse(file, f"default: none\nrules: [{{repository: '{pattern}', require: deny}}]\n")
    assert requires(found, "registry.example.com/team/vault") == "deny"
    assert requires(found, "registry.example.com:5000/team/vault") == "none"


def test_load_two_spellings_of_same_repository_is_reported(file: Path) -> None:
    rules = "[{repository: a.io/x, require: deny}, {repository: 'A.io:443/x', require: none}]"
    assert any("a second rule for a.io/x" in fault for fault in faults(file, f"default: none\nrules: {rules}\n"))


# Which repository was signed


def signed_as(store: Store, image: CloudImage, repository: str, key: PrivateKey) -> None:
    signature.sign(LocalReferrers(store, Reference.parse(repository)), image.digest, key)


def test_admit_signature_for_another_repository_is_refused(store: Store, image: CloudImage, file: Path, key: PrivateKey) -> None:
    found = parse(file, SIGNED)
    signed_as(store, image, "registry.example.com/test/web", key)
    with pytest.raises(RefusedError, match=r"signed it as registry\.example\.com/test/web, and what counts here is docker\.io/library/web"):
        Gate((found,)).admit(store, "web", image.digest)
    signed_as(store, image, "web", key)
    assert Gate((found,)).admit(store, "web", image.digest).signatures


@pytest.mark.parametrize(
    ("identity", "admitted"),
    [
        ("any", True),
        ("registry.example.com/test/web", True),
        ("registry.example.com/**", True),
        ("Registry.Example.com:443/test/*", True),
        ("registry.example.com/web", False),
        ("registry.example.com/*", False),
        ("matchRepository", False),
    ],
)
def test_admit_identity_of_rule_decides_accepted_repositories(
    identity: str, admitted: bool, store: Store, image: CloudImage, file: Path, key: PrivateKey
) -> None:
    signed_as(store, image, "registry.example.com:443/test/web", key)
    gate = Gate((parse(file, SIGNED.replace("]}]", f"], identity: '{identity}'}}]")),))
    if admitted:
        assert gate.admit(store, "web", image.digest).signatures
    else:
        with pytest.raises(RefusedError, match="and what counts here is"):
            gate.admit(store, "web", image.digest)


# Faults


def test_load_reports_all_faults_with_lines(file: Path) -> None:
    (file.parent / "bad.pub").write_text("hello")
    text = """default: maybe
colour: red
rules:
  - repository: web:1.0
    require: signed
    keys: [missing.pub, bad.pub]
  - require: none
  - repository: a.io/x
  - repository: a.io/y
    require: none
    keys: [release.pub]
  - repository: a.io/y
    require: signed
  - repository: "**/x"
    requires: deny
    require: deny
  - just text
  - repository: team/*
    require: deny
    require: none
"""
    found = faults(file, text)
    for expected in (
        "policy.yaml:1: 'maybe' is nothing that can be required",
        "policy.yaml:2: the policy has no field 'colour'",
        "policy.yaml:4: 'web:1.0' has a tag or a digest; rules are for repositories",
        f"policy.yaml:6: {file.parent}/missing.pub: No such file or directory",
        f"policy.yaml:6: {file.parent}/bad.pub is not a public key in PEM",
        "policy.yaml:7: a rule without a repository",
        "policy.yaml:8: it does not say what is required",
        "policy.yaml:11: keys mean nothing with require: none",
        "policy.yaml:12: a second rule for a.io/y",
        "policy.yaml:13: requires a signature, but has no keys",
        "policy.yaml:15: a rule has no field 'requires'",
        "policy.yaml:17: a rule must be a mapping with repository, require, keys, annotations, identity, minimum",
        "policy.yaml:18: 'team/*' does not begin with a registry",
        "policy.yaml:20: require occurs twice",
    ):
        assert any(
            expected.rpartition("/")[2] in one if "/missing" in expected or "/bad" in expected else expected == one for one in found
        ), (
            expected,
            found,
        )
    assert len(found) == 14


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the policy is empty"),
        ("rules: []\n", "there is no default"),
        ("default: none\nrules: []\n", "rules is an empty list"),
        ("default: none\nrules: {}\n", "rules must be a list"),
        ("default: signed\n", "requires a signature, but has no keys"),
        ("default: [none]\n", "this must be text"),
        ("default: {keys: [release.pub]}\n", "it does not say what is required"),
        ("- a\n", "the policy must be a mapping"),
        ("default: none\n  x: 1\n", "not YAML"),
        ("default: none\n---\ndefault: deny\n", "not YAML"),
        ("default: none\nrules: [{repository: '', require: deny}]\n", "the repository is empty"),
        ("default: none\nrules: [{repository: 'a b', require: deny}]\n", "not a pattern of repositories"),
        ("default: none\nrules: [{repository: 'a.io/x y/*', require: deny}]\n", "not a pattern of repositories"),
        ("default: none\nrules: [{repository: 'a.io/***', require: deny}]\n", "not a pattern of repositories"),
        ("default: none\nrules: [{repository: a.io/X, require: deny}]\n", "must be lower case"),
        ("default: {require: signed, keys: [release.pub], identity: team/*}\n", "does not begin with a registry"),
        ("default: {require: none, identity: any}\n", "identity means nothing with require: none"),
        ("default: {require: deny, minimum: 1.0}\n", "minimum means nothing with require: deny"),
        ("default: {require: signed, keys: [release.pub], minimum: newest}\n", "minimum: 'newest' is not a version"),
        ("default: {require: signed, keys: [release.pub], minimum: 2026-02-30}\n", "minimum: day is out of range"),
        ("default: {require: signed, keys: [release.pub], minimum: [1.0]}\n", "this must be text"),
        ("default: none\nrules: [{repository: a.io/x, require: signed, keys: ['']}]\n", "a key without a name"),
        ("default: none\nrules: [{repository: a.io/x, require: signed, keys: [release.pub], annotations: [a]}]\n", "annotations are NAME"),
    ],
)
def test_load_single_fault_is_named(text: str, message: str, file: Path) -> None:
    assert any(message in fault for fault in faults(file, text))


def test_load_keys_without_usable_path_are_reported_with_other_faults(file: Path) -> None:
    text = """default: maybe
rules:
  - repository: a.io/x
    require: signed
    keys: ["~nosuchuser/x.pub", release.pub, "a\\0b"]
  - repository: a.io/x
    require: none
"""
    assert [fault.replace(str(file.parent), "") for fault in faults(file, text)] == [
        "policy.yaml:1: 'maybe' is nothing that can be required",
        "policy.yaml:5: ~nosuchuser/x.pub: this machine has no user nosuchuser, or the user has no home folder",
        "policy.yaml:5: '/a\\x00b' is not a path: embedded null byte",
        "policy.yaml:6: a second rule for a.io/x",
    ]


def test_load_private_key_in_policy_is_reported(file: Path) -> None:
    (file.parent / "k.key").write_text(
        "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"
    )
    assert any("k.key is a private key" in one for one in faults(file, "default: {require: signed, keys: [k.key]}"))


# What is refused


SIGNED = "default: none\nrules: [{repository: web, require: signed, keys: [release.pub]}]\n"


def test_admit_unsigned_local_image_is_refused_with_rule(store: Store, image: CloudImage, file: Path) -> None:
    found = parse(file, SIGNED)
    with pytest.raises(RefusedError) as caught:
        Gate((found,)).admit(store, "web", image.digest)
    assert f"refused by policy: web:latest: {image.digest} is not signed" in caught.value.message
    assert f"{file}:2" in (caught.value.hint or "")


def test_admit_accepts_signature_of_listed_key_only(
    store: Store, attachments: LocalReferrers, image: CloudImage, file: Path, key: PrivateKey, other: PrivateKey
) -> None:
    found = parse(file, SIGNED)
    signature.sign(attachments, image.digest, other)
    with pytest.raises(RefusedError, match="not by any of the keys"):
        Gate((found,)).admit(store, "web", image.digest)
    signature.sign(attachments, image.digest, key)
    (signed,) = Gate((found,)).admit(store, "web", image.digest).signatures
    assert signed.key.name == str(file.parent / "release.pub")


def test_admit_damaged_signature_is_refused(
    store: Store, attachments: LocalReferrers, image: CloudImage, file: Path, key: PrivateKey
) -> None:
    descriptor = signature.sign(attachments, image.digest, key)
    flip(store, descriptor.digest, 40)
    with pytest.raises(RefusedError, match="its signatures cannot be read"):
        Gate((parse(file, SIGNED),)).admit(store, "web", image.digest)


def test_admit_requires_signed_annotations_of_policy(
    store: Store, attachments: LocalReferrers, image: CloudImage, file: Path, key: PrivateKey
) -> None:
    found = parse(file, SIGNED.replace("]}]", "], annotations: {stage: released}}]"))
    signature.sign(attachments, image.digest, key, {"stage": "test"})
    with pytest.raises(RefusedError, match="without the annotation stage=released"):
        Gate((found,)).admit(store, "web", image.digest)
    signature.sign(attachments, image.digest, key, {"stage": "released"})
    assert Gate((found,)).admit(store, "web", image.digest)


def test_admit_version_below_minimum_is_refused_by_name_and_digest(
    store: Store, attachments: LocalReferrers, image: CloudImage, file: Path, key: PrivateKey
) -> None:
    gate = Gate((parse(file, SIGNED.replace("]}]", "], minimum: 2.3.0}]")),))
    signature.sign(attachments, image.digest, key, {"version": "2.2.9"})
    for name in ("web", image.digest):
        with pytest.raises(RefusedError, match=r"release.pub signed it as version=2\.2\.9, and it must be 2\.3\.0 or newer"):
            gate.admit(store, name, image.digest)
    assert [demand.minimum.text for demand in gate.demands(Reference.parse("web")) if demand.minimum] == ["2.3.0"]
    signature.sign(attachments, image.digest, key, {"version": "2.3.0"})
    assert gate.admit(store, "web", image.digest).signatures


def test_admit_arriving_image_named_by_digest_is_under_rule_of_its_repository(store: Store, image: CloudImage, file: Path) -> None:
    """The names that the digest has in the store say nothing about an archive's."""
    gate = Gate((parse(file, "default: none\nrules: [{repository: a.io/x, require: deny}]\n"),))
    with pytest.raises(RefusedError, match=r"a\.io/x is refused by policy: nothing of a\.io/x may be used"):
        gate.admit(store, f"a.io/x@{image.digest}", image.digest, {})
    assert gate.admit(store, f"a.io/y@{image.digest}", image.digest, {})


def test_admit_denied_repository_is_refused_although_signed(
    store: Store, attachments: LocalReferrers, image: CloudImage, file: Path, key: PrivateKey
) -> None:
    signature.sign(attachments, image.digest, key)
    with pytest.raises(RefusedError, match=r"nothing of docker\.io/library/web may be used"):
        Gate((parse(file, "default: none\nrules: [{repository: web, require: deny}]\n"),)).admit(store, "web", image.digest)


def test_admit_by_digest_requires_rules_of_all_names(store: Store, image: CloudImage, file: Path) -> None:
    found = parse(file, SIGNED)
    tags.tag(store, "web", "free")
    assert Gate((found,)).admit(store, "free", image.digest).signatures == ()
    for name in (image.digest, image.digest[7:20], f"free@{image.digest}"):
        with pytest.raises(RefusedError, match="web:latest: "):
            Gate((found,)).admit(store, name, image.digest)


def test_admit_unnamed_image_follows_default(store: Store, image: CloudImage, file: Path) -> None:
    store.untag("web")
    assert Gate((parse(file, "default: none\n"),)).admit(store, image.digest, image.digest).signatures == ()
    with pytest.raises(RefusedError, match="refused by policy"):
        Gate((parse(file, "default: deny\n"),)).admit(store, image.digest, image.digest)


def test_admit_name_unknown_to_store_is_judged_by_own_rule(store: Store, image: CloudImage, file: Path) -> None:
    """As load and pull do: the store does not know the name yet."""
    found = parse(file, "default: deny\nrules: [{repository: web, require: none}]\n")
    with pytest.raises(RefusedError, match="no rule names it, and the default is deny"):
        Gate((found,)).admit(store, "ghcr.io/acme/new:1", image.digest)


def test_run_unsigned_image_is_refused_before_any_change(
    store: Store, file: Path, key: PrivateKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = write(store, platform_image(store), name="web")
    file.write_text(SIGNED)
    monkeypatch.setenv("SLIPWAY_POLICY", str(file))
    wanted = of_machines("default", "web", [Machine("10.0.0.1", Login())])
    with pytest.raises(RefusedError, match="refused by policy"):
        run.prepare(wanted, store, home=tmp_path / "clusters")
    assert not (tmp_path / "clusters").exists()
    signature.sign(LocalReferrers(store, Reference.parse("web")), image.digest, key)
    with pytest.raises(StoreError, match="brings no Kubernetes"):  # policy lets it pass
        run.prepare(wanted, store, home=tmp_path / "clusters")

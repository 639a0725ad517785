from __future__ import annotations

from pathlib import Path

import pytest

from harness import cloudimage
from harness.cloudimage import CloudImage
from harness.errors import InputError
from harness.lifecycle import run
from harness.nodes import Login, Machine
from harness.oci.reference import Reference
from harness.oci.store import Store
from harness.trust import policy, signature
from harness.trust.attachments import LocalShelf
from harness.trust.keys import PrivateKey
from harness.trust.policy import Policy
from harness.trust.signature import RefusedError
from tests.unit.test_cloudimage import platform_image, write
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
    return found.rule(Reference.parse(name).repository).require


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
def test_the_most_specific_rule_holds(name: str, require: str, file: Path) -> None:
    assert requires(parse(file, RULES), name) == require


def test_of_two_rules_that_are_equally_specific_the_stricter_holds(file: Path) -> None:
    rules = ["- {repository: a.io/*/b, require: none}", "- {repository: a.io/b/*, require: deny}"]
    for order in (rules, rules[::-1]):
        assert requires(parse(file, "default: none\nrules:\n" + "\n".join(order)), "a.io/b/b") == "deny"


def test_a_key_may_stand_in_the_file(file: Path, key: PrivateKey) -> None:
    pem = key.public.pem.decode().replace("\n", "\n          ")
    found = parse(file, f"default: none\nrules:\n  - repository: web\n    require: signed\n    keys:\n      - |\n          {pem}\n")
    (one,) = found.rules[0].keys
    assert one.fingerprint == key.public.fingerprint
    assert one.name == f"the key at {file}:6"


def test_the_default_may_want_signatures(file: Path) -> None:
    found = parse(file, "default:\n  require: signed\n  keys: [release.pub, other.pub]\n  annotations: {stage: released}\n")
    assert (found.default.require, len(found.default.keys), dict(found.default.annotations)) == ("signed", 2, {"stage": "released"})


# Which file


def test_without_a_file_everything_is_taken(store: Store, image: CloudImage) -> None:
    found = policy.load()
    assert found == Policy() or found.path == Path("/etc/slipway/policy.yaml")
    assert policy.check(store, "web", image.digest, Policy()) == ()


def test_the_file_is_found_where_it_belongs(store: Store, tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = tmp_path / "config/slipway/policy.yaml"
    usual.parent.mkdir(parents=True)
    usual.write_text("default: deny\n")
    assert policy.load().path == usual
    file.write_text("default: none\n")
    monkeypatch.setenv("SLIPWAY_POLICY", str(file))
    assert (policy.load().path, policy.load().default.require) == (file, "none")


def test_a_file_that_is_named_and_not_there_does_not_mean_take_everything(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPWAY_POLICY", str(file))
    with pytest.raises(InputError, match="the policy cannot be read: No such file"):
        policy.load()
    file.mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        policy.load()


# Faults


def test_every_fault_is_told_with_its_line(file: Path) -> None:
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
        "policy.yaml:13: signed, but by whom? there are no keys",
        "policy.yaml:15: a rule has no field 'requires'",
        "policy.yaml:17: a rule must be a mapping with repository, require, keys, annotations",
        "policy.yaml:18: 'team/*' does not begin with a registry",
        "policy.yaml:20: require is there twice",
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
        ("default: signed\n", "signed, but by whom?"),
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
        ("default: none\nrules: [{repository: a.io/x, require: signed, keys: ['']}]\n", "a key without a name"),
        ("default: none\nrules: [{repository: a.io/x, require: signed, keys: [release.pub], annotations: [a]}]\n", "annotations are NAME"),
    ],
)
def test_each_fault_is_named(text: str, message: str, file: Path) -> None:
    assert any(message in fault for fault in faults(file, text))


def test_a_private_key_in_a_policy_is_a_fault(file: Path) -> None:
    (file.parent / "k.key").write_text(
        "-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED SIGSTORE PRIVATE KEY-----\n"
    )
    assert any("k.key is a private key" in one for one in faults(file, "default: {require: signed, keys: [k.key]}"))


# What is refused


SIGNED = "default: none\nrules: [{repository: web, require: signed, keys: [release.pub]}]\n"


def test_a_local_image_that_nobody_signed_is_refused(store: Store, image: CloudImage, file: Path) -> None:
    found = parse(file, SIGNED)
    with pytest.raises(RefusedError) as caught:
        policy.check(store, "web", image.digest, found)
    assert f"refused by policy: web:latest: {image.digest} is not signed" in caught.value.message
    assert f"{file}:2" in (caught.value.hint or "")


def test_a_listed_key_opens_and_another_does_not(
    store: Store, shelf: LocalShelf, image: CloudImage, file: Path, key: PrivateKey, other: PrivateKey
) -> None:
    found = parse(file, SIGNED)
    signature.sign(shelf, image.digest, other)
    with pytest.raises(RefusedError, match="not by any of the keys"):
        policy.check(store, "web", image.digest, found)
    signature.sign(shelf, image.digest, key)
    (signed,) = policy.check(store, "web", image.digest, found)
    assert signed.key.name == str(file.parent / "release.pub")


def test_a_damaged_signature_does_not_open(store: Store, shelf: LocalShelf, image: CloudImage, file: Path, key: PrivateKey) -> None:
    descriptor = signature.sign(shelf, image.digest, key)
    flip(store, descriptor.digest, 40)
    with pytest.raises(RefusedError, match="its signatures cannot be read"):
        policy.check(store, "web", image.digest, parse(file, SIGNED))


def test_the_annotations_of_the_policy_must_be_signed(
    store: Store, shelf: LocalShelf, image: CloudImage, file: Path, key: PrivateKey
) -> None:
    found = parse(file, SIGNED.replace("]}]", "], annotations: {stage: released}}]"))
    signature.sign(shelf, image.digest, key, {"stage": "test"})
    with pytest.raises(RefusedError, match="without the annotation stage=released"):
        policy.check(store, "web", image.digest, found)
    signature.sign(shelf, image.digest, key, {"stage": "released"})
    assert policy.check(store, "web", image.digest, found)


def test_denied_is_denied_though_it_is_signed(store: Store, shelf: LocalShelf, image: CloudImage, file: Path, key: PrivateKey) -> None:
    signature.sign(shelf, image.digest, key)
    with pytest.raises(RefusedError, match=r"nothing of docker\.io/library/web may be used"):
        policy.check(store, "web", image.digest, parse(file, "default: none\nrules: [{repository: web, require: deny}]\n"))


def test_an_image_by_digest_must_be_allowed_under_each_of_its_names(store: Store, image: CloudImage, file: Path) -> None:
    found = parse(file, SIGNED)
    cloudimage.tag(store, "web", "free")
    assert policy.check(store, "free", image.digest, found) == ()
    for name in (image.digest, image.digest[7:20], f"free@{image.digest}"):
        with pytest.raises(RefusedError, match="web:latest: "):
            policy.check(store, name, image.digest, found)


def test_an_image_without_a_name_is_what_the_default_says(store: Store, image: CloudImage, file: Path) -> None:
    store.untag("web")
    assert policy.check(store, image.digest, image.digest, parse(file, "default: none\n")) == ()
    with pytest.raises(RefusedError, match="refused by policy"):
        policy.check(store, image.digest, image.digest, parse(file, "default: deny\n"))


def test_a_name_that_is_about_to_be_given_is_judged_by_itself(store: Store, image: CloudImage, file: Path) -> None:
    """As load and pull do: the store does not know the name yet."""
    found = parse(file, "default: deny\nrules: [{repository: web, require: none}]\n")
    with pytest.raises(RefusedError, match="no rule names it, and the default is deny"):
        policy.check(store, "ghcr.io/acme/new:1", image.digest, found)


def test_run_refuses_before_it_touches_anything(
    store: Store, file: Path, key: PrivateKey, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = write(store, platform_image(store), name="web")
    file.write_text(SIGNED)
    monkeypatch.setenv("SLIPWAY_POLICY", str(file))
    options = run.Options(image="web", masters=(Machine("10.0.0.1", Login()),))
    with pytest.raises(RefusedError, match="refused by policy"):
        run.prepare(options, store, home=tmp_path / "clusters")
    assert not (tmp_path / "clusters").exists()
    signature.sign(LocalShelf(store, Reference.parse("web")), image.digest, key)
    assert run.prepare(options, store, home=tmp_path / "clusters").image.digest == image.digest

"""Docker's config.json: whose credentials are found for which registry. Helpers are run by the integration tests."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from harness import process
from harness.errors import StoreError, UsageError
from harness.oci.registry.credentials import Credential, CredentialStore


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def configured(folder: Path, value: object) -> CredentialStore:
    (folder / "config.json").write_text(json.dumps(value))
    return CredentialStore(folder)


@pytest.mark.parametrize("key", ["inner.test:5000", "https://inner.test:5000", "http://inner.test:5000/v2/"])
def test_find_auth_entry_in_any_key_spelling_gives_login(tmp_path: Path, key: str) -> None:
    found = configured(tmp_path, {"auths": {key: {"auth": encoded("alice:open:sesame")}}}).find("inner.test:5000")
    assert found == Credential("alice", "open:sesame")
    assert found
    assert found.basic == "Basic " + encoded("alice:open:sesame")


def test_find_other_port_gives_no_login(tmp_path: Path) -> None:
    assert configured(tmp_path, {"auths": {"inner.test:5000": {"auth": encoded("a:b")}}}).find("inner.test") is None


@pytest.mark.parametrize("domain", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_find_docker_hub_uses_legacy_index_key(tmp_path: Path, domain: str) -> None:
    assert configured(tmp_path, {"auths": {"https://index.docker.io/v1/": {"auth": encoded("a:b")}}}).find(domain) == Credential("a", "b")


def test_find_token_entries_give_identity_or_registry_token(tmp_path: Path) -> None:
    entries = {"i.test": {"auth": encoded("<token>:"), "identitytoken": "ID"}, "r.test": {"registrytoken": "RT"}, "empty.test": {}}
    found = configured(tmp_path, {"auths": entries})
    identity, registry = found.find("i.test"), found.find("r.test")
    assert identity
    assert identity.identity_token == "ID"
    assert registry
    assert registry.registry_token == "RT"
    assert found.find("empty.test") is None


def test_credential_repr_hides_secrets() -> None:
    assert "SECRET" not in repr(Credential("alice", "SECRET", "SECRET", "SECRET"))


def test_find_without_file_returns_none(tmp_path: Path) -> None:
    assert CredentialStore(tmp_path / "none").find("inner.test") is None


@pytest.mark.parametrize("text", ["{", "[]", '{"auths": []}', '{"auths": {"inner.test": {"auth": "%%%"}}}'])
def test_find_malformed_file_is_named_without_secrets(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UsageError, match=r"config\.json") as raised:
        CredentialStore(tmp_path).find("inner.test")
    assert "%%%" not in str(raised.value)


def test_store_and_erase_keep_other_entries_and_private_file_mode(tmp_path: Path) -> None:
    credentials = configured(tmp_path, {"psFormat": "x", "auths": {"other.test": {"auth": encoded("a:b")}}})
    assert credentials.store("docker.io", "alice", "pw") == str(tmp_path / "config.json")
    assert credentials.find("docker.io") == Credential("alice", "pw")
    assert credentials.find("other.test") == Credential("a", "b")
    assert json.loads((tmp_path / "config.json").read_text())["psFormat"] == "x"
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [tmp_path / "config.json"]
    assert credentials.erase("docker.io")
    assert not credentials.erase("docker.io")
    assert credentials.find("docker.io") is None
    assert credentials.find("other.test") == Credential("a", "b")


class Helper:
    """What a credential helper answers, and how it was called."""

    def __init__(self, returncode: int, stdout: str) -> None:
        self.answer = process.ProcessResult((), returncode, stdout, "")
        self.calls: list[tuple[list[str], object]] = []

    def run(self, argv: list[str], *, input: object, check: bool, timeout: float) -> process.ProcessResult:
        self.calls.append((argv, input))
        return self.answer


def test_find_uses_registry_helper_and_default_helper_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper(0, json.dumps({"Username": "alice", "Secret": "pw"}))
    monkeypatch.setattr(process, "run", helper.run)
    credentials = configured(tmp_path, {"credsStore": "desktop", "credHelpers": {"ecr.test": "ecr"}})
    assert credentials.find("ecr.test") == Credential("alice", "pw")
    assert credentials.find("docker.io") == Credential("alice", "pw")
    assert helper.calls == [
        (["docker-credential-ecr", "get"], "ecr.test"),
        (["docker-credential-desktop", "get"], "https://index.docker.io/v1/"),
    ]


def test_find_helper_token_answer_gives_identity_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", Helper(0, json.dumps({"Username": "<token>", "Secret": "ID"})).run)
    assert configured(tmp_path, {"credsStore": "x"}).find("a.test") == Credential(identity_token="ID")


def test_find_login_unknown_to_helper_falls_back_to_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", Helper(1, "credentials not found in native keychain\n").run)
    credentials = configured(tmp_path, {"credsStore": "x", "auths": {"a.test": {"auth": encoded("a:b")}, "b.test": {}}})
    assert credentials.find("a.test") == Credential("a", "b")
    assert credentials.find("b.test") is None


@pytest.mark.parametrize(("returncode", "stdout"), [(1, "the vault is sealed"), (0, "SECRET in no JSON")])
def test_find_failing_helper_is_named_without_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returncode: int, stdout: str
) -> None:
    monkeypatch.setattr(process, "run", Helper(returncode, stdout).run)
    with pytest.raises(StoreError, match="docker-credential-x") as raised:
        configured(tmp_path, {"credsStore": "x"}).find("a.test")
    assert ("the vault is sealed" in str(raised.value)) == (returncode == 1)
    assert "SECRET" not in str(raised.value)


def test_store_with_helper_passes_login_on_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = Helper(0, "")
    monkeypatch.setattr(process, "run", helper.run)
    assert configured(tmp_path, {"credsStore": "x"}).store("a.test", "alice", "pw") == "docker-credential-x"
    ((argv, text),) = helper.calls
    assert argv == ["docker-credential-x", "store"]
    assert json.loads(str(text)) == {"ServerURL": "a.test", "Username": "alice", "Secret": "pw"}


def test_find_longest_matching_repository_path_wins(tmp_path: Path) -> None:
    keys = (
        "r.test",
        "r.test/team",
        "r.test/team/web",
        "r.test/team/we",
        "r.test/other",
        "docker.io/library",
        "https://index.docker.io/v1/",
    )
    found = configured(tmp_path, {"auths": {key: {"auth": encoded(f"{key}:x")} for key in keys}})
    for repository, key in {
        "team/web": "r.test/team/web",
        "team/web/sub": "r.test/team/web",
        "team/webb": "r.test/team",
        "else/web": "r.test",
        "": "r.test",
    }.items():
        login = found.find("r.test", repository)
        assert login
        assert login.username == key
    hub = [login.username.partition(":")[0] for path in ("library/nginx", "team/web") if (login := found.find("docker.io", path))]
    assert hub == ["docker.io/library", "https"]


def test_find_path_login_is_not_used_for_registry(tmp_path: Path) -> None:
    found = configured(tmp_path, {"auths": {"r.test/team": {"auth": encoded("a:b")}}})
    assert found.find("r.test") is None
    assert found.find("r.test", "other/web") is None
    assert not found.erase("r.test")


def test_find_path_login_wins_over_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "run", Helper(0, json.dumps({"Username": "helper", "Secret": "pw"})).run)
    found = configured(tmp_path, {"credsStore": "x", "auths": {"r.test/team": {"auth": encoded("a:b")}}})
    assert found.find("r.test", "team/web") == Credential("a", "b")
    assert found.find("r.test", "web") == Credential("helper", "pw")


def test_find_username_and_password_fields_give_login(tmp_path: Path) -> None:
    found = configured(tmp_path, {"auths": {"r.test": {"username": "alice", "password": "pw"}}}).find("r.test")
    assert found == Credential("alice", "pw")


def test_find_podman_files_are_read_after_docker_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(path: Path, **logins: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"auths": {f"{host}.test": {"auth": encoded(login)} for host, login in logins.items()}}))

    monkeypatch.delenv("REGISTRY_AUTH_FILE", raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write(tmp_path / "docker/config.json", a="docker:x")
    write(tmp_path / "run/containers/auth.json", a="run:x", b="run:x")
    write(tmp_path / "config/containers/auth.json", a="config:x", b="config:x", c="config:x")
    write(tmp_path / "named.json", a="named:x", c="named:x")
    assert [CredentialStore().find(f"{host}.test") for host in "abcd"] == [
        Credential("docker", "x"), Credential("run", "x"), Credential("config", "x"), None,
    ]  # fmt: skip
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "named.json"))
    assert [CredentialStore().find(f"{host}.test") for host in "abc"] == [Credential("docker", "x"), None, Credential("named", "x")]
    assert CredentialStore().erase("a.test")
    assert json.loads((tmp_path / "named.json").read_text())["auths"].keys() == {"a.test", "c.test"}


def test_find_malformed_podman_file_is_named_with_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    (tmp_path / "auth.json").write_text("[" * 100_000)
    with pytest.raises(UsageError, match=r"auth\.json: cannot be read") as raised:
        CredentialStore().find("r.test")
    assert raised.value.hint == "repair it, or name another file in REGISTRY_AUTH_FILE"

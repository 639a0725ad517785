"""Paths on this machine, and home folders in them."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.host import paths

STRANGERS = ("~nosuchuser", "~nosuchuser/id", "~no\0body/id", "~\ud800/id")
"""Paths below home folders of users that no machine has."""


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container whose user is in no /etc/passwd."""

    def unknown(number: int) -> None:
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_expanded_home_folder_is_replaced_at_beginning_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.expanded("~/a") == tmp_path / "a"
    assert paths.expanded("~root/a") == Path(pwd.getpwnam("root").pw_dir, "a")
    assert [paths.expanded(path) for path in ("a/~b", "/~", Path())] == [Path("a/~b"), Path("/~"), Path()]


@pytest.mark.parametrize("path", STRANGERS)
def test_expanded_unknown_user_raises_usage_error_with_hint(path: str) -> None:
    with pytest.raises(UsageError) as caught:
        paths.expanded(path)
    assert caught.value.message == f"{path}: this machine has no user {path[1:].partition('/')[0]}, or the user has no home folder"
    assert caught.value.hint == "write the whole path"


@pytest.mark.usefixtures("homeless")
def test_user_home_without_home_folder_raises_usage_error_with_hint() -> None:
    with pytest.raises(UsageError, match="the home folder of this user is not known") as caught:
        paths.user_home()
    assert "set HOME" in str(caught.value.hint)


@pytest.mark.parametrize(("variable", "folder"), [("SLIPWAY_HOME", paths.home), ("SLIPWAY_CACHE", paths.cache)])
def test_folders_of_variables_have_home_folder_replaced(
    variable: str, folder: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(folder)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(variable, "~/here")
    assert folder() == tmp_path / "here"
    monkeypatch.setenv(variable, "~nosuchuser/here")
    with pytest.raises(UsageError, match="no user nosuchuser"):
        folder()


@pytest.mark.usefixtures("homeless")
def test_home_and_cache_without_home_folder_raise_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SLIPWAY_HOME", "SLIPWAY_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    for folder in (paths.home, paths.cache):
        with pytest.raises(UsageError, match="set HOME"):
            folder()

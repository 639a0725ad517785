"""What is said of an engine before it is used."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EngineError
from harness.host import docker, liveness


class Client:
    """An engine that says of itself what it was given."""

    def __init__(self, **information: Any) -> None:
        self.information = information

    def info(self) -> dict[str, Any]:
        return self.information


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "missing_capabilities", lambda: {"CAP_SYS_RESOURCE"})


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        ("Connection aborted, FileNotFoundError(2)", "no Docker engine answers at unix:///absent.sock"),
        ("Connection aborted, PermissionError(13, 'Permission denied')", "no permission to use the Docker engine"),
    ],
)
def test_describe_unreachable_engine_hides_python_exception(reason: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///absent.sock")
    monkeypatch.setattr(docker, "_reach", lambda _: (None, reason))
    with pytest.raises(EngineError) as caught:
        docker.describe()
    assert caught.value.message == message


@pytest.mark.usefixtures("lacking")
def test_check_privileges_old_engine_without_capability_is_refused_with_hint() -> None:
    with pytest.raises(EngineError) as caught:
        docker._check_privileges(Client(ServerVersion="20.10.24+dfsg1", DefaultRuntime="runc"))  # type: ignore[arg-type]
    assert "CAP_SYS_RESOURCE" in caught.value.message
    assert caught.value.hint is not None
    assert "slipway engine repair" in caught.value.hint


@pytest.mark.usefixtures("lacking")
@pytest.mark.parametrize(("version", "runtime"), [("20.10.24", "slipway"), ("23.0.1", "runc"), ("28.2.2", "runc")])
def test_check_privileges_capable_engine_is_accepted(version: str, runtime: str) -> None:
    docker._check_privileges(Client(ServerVersion=version, DefaultRuntime=runtime))  # type: ignore[arg-type]


def test_check_privileges_old_engine_with_all_capabilities_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "missing_capabilities", set)
    docker._check_privileges(Client(ServerVersion="20.10.24", DefaultRuntime="runc"))  # type: ignore[arg-type]


def test_configure_installs_runtime_and_keeps_daemon_json_of_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker, "STATE", tmp_path / "state")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    docker._configure(tmp_path / "docker/daemon.json")
    settings = json.loads((tmp_path / "docker/daemon.json").read_text())
    runtime = Path(settings["runtimes"][settings["default-runtime"]]["path"])
    assert runtime.read_text().startswith("#!/")
    assert runtime.stat().st_mode & 0o111
    runtime.write_text("of an older release")
    docker._renew_runtime()
    assert runtime.read_text().startswith("#!/")
    assert runtime.stat().st_mode & 0o111
    (tmp_path / "docker/daemon.json").write_text("{}")
    runtime.unlink()
    docker._configure(tmp_path / "docker/daemon.json")
    docker._renew_runtime()
    assert ((tmp_path / "docker/daemon.json").read_text(), runtime.exists()) == ("{}", False)


@pytest.mark.parametrize(
    ("environment", "reason", "message"),
    [({"DOCKER_HOST": "tcp://x:1"}, "refused", "DOCKER_HOST=tcp://x:1"), ({}, "Permission denied", "no permission to use")],
)
def test_start_remote_or_forbidden_engine_is_refused_with_hint(
    environment: dict[str, str], reason: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EngineError) as caught:
        docker._start(reason)
    assert message in caught.value.message
    assert caught.value.hint


def test_start_without_root_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DOCKER_HOST", raising=False)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(EngineError, match="no Docker engine is running"):
        docker._start("connection refused")


class Networks:
    """The networks of an engine, whose default one has ``options``; it refuses to make and to remove any where it is told so."""

    def __init__(self, options: dict[str, str] | None, *, refuses: bool = False) -> None:
        self.networks, self.options, self.refuses = self, options, refuses
        self.made: dict[str, Any] = {}
        self.removed = 0

    def get(self, name: str) -> Networks:
        assert name == "bridge"
        if self.options is None:
            raise docker.NotFound("no such network")
        return self

    @property
    def attrs(self) -> dict[str, Any]:
        return {"Options": self.options}

    def create(self, name: str, **options: Any) -> Networks:
        if self.refuses:
            raise docker.APIError("refused", explanation="no address is left")
        self.made = {"name": name, **options}
        return self

    def remove(self) -> None:
        self.removed += 1


@pytest.mark.parametrize("options", [None, {}, {"com.docker.network.driver.mtu": "1400", "com.docker.network.bridge.name": "docker0"}])
def test_network_apart_is_labelled_and_removed_on_interrupt(options: dict[str, str] | None) -> None:
    made = Networks(options)
    with contextlib.suppress(KeyboardInterrupt), docker.network_apart(made) as name:  # type: ignore[arg-type]
        assert (name, made.removed) == (made.made["name"], 0)
        raise KeyboardInterrupt
    assert made.removed == 1
    # A build that is killed leaves it, and the next one finds it by its label.
    assert made.made["labels"][docker.LABEL_BUILD] == liveness.process_label()
    assert made.made["options"] == {name: value for name, value in (options or {}).items() if name.endswith("mtu")}


def test_network_apart_refused_by_engine_reports_reason() -> None:
    with (
        pytest.raises(EngineError, match="no address is left") as refused,
        docker.network_apart(Networks({}, refuses=True)),  # type: ignore[arg-type]
    ):
        pass
    assert "docker network prune" in str(refused.value.hint)

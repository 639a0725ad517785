"""The Docker engine: find it, or install and start it. The only importer of the docker library."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.errors

from harness import assets, log, process
from harness.assets import oci_runtime
from harness.errors import CommandError, EngineError
from harness.host import apt, durable, liveness

Client = docker.DockerClient
NotFound = docker.errors.NotFound
APIError = docker.errors.APIError

LABEL_BUILD = "dev.slipway.build"
"""On containers and networks that a build made: the id of its process."""
LABEL_KEY = "dev.slipway.key"
"""On images that a build made: the digest of what they were made of."""
SHORT_KEY = 12
"""Digits of that key in the tag of such an image."""
_IDLE = 7 * 86400

STATE = Path("/var/lib/slipway/engine")
_START = 60
"""Seconds that the engine may take to start."""
SYSTEM_CONFIG = Path("/etc/docker/daemon.json")
STEP_LIMITS: Any = {"cpushares": oci_runtime.STEP_SHARES}
"""Limits of the steps of a Dockerfile, which mark them for the runtime of an engine that slipway started; it drops NET_RAW for them."""
_MTU = "com.docker.network.driver.mtu"
PRIVILEGED_SINCE = (23, 0)
"""From this version on Docker itself leaves out capabilities that the host lacks."""

_BRIEF = 10
"""Seconds that an engine has to answer."""
_TRIES, _PAUSE = 30, 0.1
"""Attempts, and seconds between them, to find a container after its creation was interrupted."""


def is_local() -> bool:
    """Return True when the engine runs on the kernel of this process."""
    return os.environ.get("DOCKER_HOST", "unix://").startswith("unix://")


def connect(*, timeout: float = 600) -> Client:
    """A client of a running engine; one is installed and started where there is none, if this process may.

    Raises EngineError with one sentence that says what to do. An engine that is already running is not changed, but for the runtime
    that we gave it.
    """
    client, reason = _reach(timeout)
    if client is None:
        _start(reason)
        client, reason = _reach(timeout)
    if client is None:
        raise EngineError(f"the Docker engine does not answer: {reason}", hint=f"its log is {STATE}/dockerd.log or `journalctl -u docker`")
    _check_privileges(client)
    _renew_runtime()
    return client


def running() -> Client | None:
    """A client of the engine where one answers; none is started."""
    return _reach(_BRIEF)[0]


def describe() -> dict[str, str]:
    """Address, version and runtime of the engine that answers. Raises EngineError when none does."""
    client, reason = _reach(_BRIEF)
    if client is None:
        _require_permission(reason)
        log.debug(reason)
        raise EngineError(f"no Docker engine answers at {_address()}", hint="a build starts one, where it may")
    version, info = client.version(), client.info()
    return {
        "address": _address(),
        "version": str(version.get("Version", "")),
        "platform": f"{version.get('Os', '')}/{version.get('Arch', '')}",
        "runtime": str(info.get("DefaultRuntime", "")),
        "storage": str(info.get("Driver", "")),
        "root": str(info.get("DockerRootDir", "")),
    }


def _address() -> str:
    return os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")


def _reach(timeout: float) -> tuple[Client | None, str]:
    try:
        client = docker.from_env(timeout=int(timeout))
        client.ping()
    except docker.errors.DockerException as error:
        return None, " ".join(str(error).split())
    return client, ""


def _require_permission(reason: str) -> None:
    """Raises EngineError when that is why no engine was reached."""
    if "Permission denied" in reason:
        raise EngineError("no permission to use the Docker engine", hint="run as root, or as a member of the group docker")


def _start(reason: str) -> None:
    """Install and start an engine, or raise EngineError saying why not."""
    if os.environ.get("DOCKER_HOST"):
        raise EngineError(f"no Docker engine answers at DOCKER_HOST={os.environ['DOCKER_HOST']}", hint="start it, or unset DOCKER_HOST")
    _require_permission(reason)
    if os.geteuid() != 0:
        raise EngineError("no Docker engine is running", hint="start Docker, or run as root on Debian or Ubuntu and it is installed")
    if shutil.which("dockerd") is None:
        if not apt.available():
            raise EngineError(
                "no Docker engine is installed", hint="install Docker 20.10 or newer; on Debian and Ubuntu this is done for you"
            )
        _configure(SYSTEM_CONFIG)
        apt.install("docker.io", "iptables", "ca-certificates")
        if shutil.which("docker") is None:
            # Newer releases keep the command apart; kind needs it.
            apt.install("docker-cli")
    with log.step("start the Docker engine"):
        if Path("/run/systemd/system").is_dir():
            process.run(["systemctl", "start", "docker"])
        elif _reach(_BRIEF)[0] is None:
            _spawn()
        _await()


def _spawn() -> None:
    """Start dockerd as a detached process: there is no service manager to do it."""
    STATE.mkdir(parents=True, exist_ok=True)
    _forget_killed_engine()
    config = SYSTEM_CONFIG if SYSTEM_CONFIG.exists() else STATE / "daemon.json"
    _configure(config)
    options = [] if config == SYSTEM_CONFIG else ["--config-file", str(config)]
    with (STATE / "dockerd.log").open("ab") as output:
        subprocess.Popen(["dockerd", *options], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True)


def _forget_killed_engine() -> None:
    """Remove the pid file of an engine that was killed: another process may have its number by now, and dockerd would not start."""
    for path in (Path("/var/run/docker.pid"), Path("/var/run/docker/containerd/containerd.pid")):
        if path.exists():
            command = Path("/proc", path.read_text().strip() or "0", "comm")
            if not command.exists() or command.read_text().strip() not in ("dockerd", "containerd"):
                path.unlink()


def _await() -> None:
    deadline = time.monotonic() + _START
    while _reach(_BRIEF)[0] is None:
        if time.monotonic() > deadline:
            lines = (STATE / "dockerd.log").read_text(errors="replace").splitlines()[-8:] if (STATE / "dockerd.log").exists() else []
            raise EngineError(f"the Docker engine did not start within {_START} s", details="\n".join(lines))
        time.sleep(0.2)


def missing_capabilities() -> set[str]:
    """Capabilities that this machine's bounding set lacks."""
    return oci_runtime.missing(Path("/proc/self/status").read_text())


def _configure(config: Path) -> None:
    """Configure the runtime ``assets/oci_runtime.py`` before slipway starts an engine. A configuration by the user is not changed."""
    if config.exists():
        return
    STATE.mkdir(parents=True, exist_ok=True)
    _runtime().touch()
    _renew_runtime()
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({"runtimes": {"slipway": {"path": str(_runtime())}}, "default-runtime": "slipway"}, indent=2) + "\n")


def _runtime() -> Path:
    return STATE / "oci-runtime"


def _renew_runtime() -> None:
    """Update the runtime of an engine that slipway started: the engine runs the file for each container."""
    interpreter = Path("/usr/bin/python3")
    program = (assets.FOLDER / "oci_runtime.py").read_text()
    text = f"#!{interpreter if interpreter.exists() else shutil.which('python3')} -IS\n{program}"
    if os.geteuid() == 0 and _runtime().exists() and _runtime().read_text() != text:
        durable.write(_runtime(), text, mode=0o755)


def lend_authorities(bundle: Path | None) -> None:
    """Have the steps of Dockerfiles trust the certificate authorities of ``bundle``, a file; with None those of their image alone.

    Only an engine that slipway started can do that, for all builds of the machine. Raises StoreError when a file cannot be written.
    """
    if os.geteuid() != 0 or not is_local() or not _runtime().exists():
        return
    certificates, setting = STATE / oci_runtime.AUTHORITIES, STATE / oci_runtime.APT
    if bundle is None:
        setting.unlink(missing_ok=True)
        certificates.unlink(missing_ok=True)
        return
    texts = {
        certificates: bundle.read_bytes(),
        setting: f'Acquire::https::CAInfo "{oci_runtime.LENT[oci_runtime.AUTHORITIES]}";\n'.encode(),
    }
    for path, data in texts.items():
        # apt and others read them as a user of their own.
        if not path.exists() or path.read_bytes() != data:
            durable.write(path, data, mode=0o644)


def _check_privileges(client: Client) -> None:
    """Say now, in one sentence, what would otherwise fail in the middle with "unable to apply caps"."""
    gone = missing_capabilities()
    information = client.info()
    version = tuple(int(part) for part in str(information.get("ServerVersion", "0")).split("+")[0].split(".")[:2] if part.isdigit())
    if gone and version < PRIVILEGED_SINCE and information.get("DefaultRuntime") == "runc":
        raise EngineError(
            f"this machine lacks {', '.join(sorted(gone))}, and Docker {information['ServerVersion']} cannot start privileged containers "
            "without",
            hint="upgrade to Docker 23 or newer, or restart the engine with a suitable runtime: slipway engine repair",
        )


def repair() -> None:
    """Restart the running engine with a runtime that suits this machine: only when the user asked for it (`slipway engine repair`)."""
    if os.geteuid() != 0:
        raise EngineError("only root can change the engine", hint="run it as root")
    if SYSTEM_CONFIG.exists():
        raise EngineError(
            f"{SYSTEM_CONFIG} exists and is left alone", hint="upgrade Docker to 23 or newer, or take the file away for a moment"
        )
    _configure(SYSTEM_CONFIG)
    if not Path("/run/systemd/system").is_dir():
        raise EngineError("the runtime is configured; the engine was started by hand", hint="restart dockerd, then try again")
    process.run(["systemctl", "restart", "docker"])
    _await()


@contextlib.contextmanager
def network_apart(client: Client) -> Iterator[str]:
    """The name of a bridge network for the steps of one build, where no other container is. Raises EngineError.

    What it could not be removed from (a step that is only just being ended) is swept by a later build.
    """
    name, labels = f"slipway-steps-{secrets.token_hex(6)}", {LABEL_BUILD: liveness.process_label()}
    try:
        network = client.networks.create(name, driver="bridge", options=_packet_size(client), labels=labels)
    except APIError as refused:
        raise EngineError(
            f"the engine makes no network for the steps of a Dockerfile: {refused.explanation}",
            hint="`docker network prune` removes networks that nothing uses; or build with --network host",
        ) from refused
    try:
        yield name
    finally:
        try:
            network.remove()
        except APIError as refused:
            log.debug(f"network {name} is not removed: {refused.explanation}")


def _packet_size(client: Client) -> dict[str, str]:
    """The option of the engine's default network that gives its own size of packets, where it has one: other networks do not inherit it."""
    try:
        options = client.networks.get("bridge").attrs.get("Options") or {}
    except NotFound:
        return {}
    return {name: str(value) for name, value in options.items() if name == _MTU}


def all_containers(client: Client, **filters: str) -> list[Any]:
    """Containers of any state that match the engine's filters, but for those that another command removes meanwhile."""
    return list(client.containers.list(all=True, ignore_removed=True, filters={**filters}))


def run_container(client: Client, image: str, command: list[str], **options: Any) -> tuple[int, str]:
    """Run a container to its end and remove it; returns its exit code and output. Extra options are docker's own."""
    # With a name that is known before the engine answers, the container can be removed after an interrupt in between.
    name = f"slipway-step-{secrets.token_hex(6)}"
    container = None
    try:
        container = client.containers.create(image, command, name=name, **options)
        container.start()
        code = int(container.wait()["StatusCode"])
        return code, container.logs().decode(errors="replace")
    except KeyboardInterrupt:
        if container is None:
            _remove_begun(client, name)
        raise
    finally:
        if container is not None:
            container.remove(force=True, v=True)


def _remove_begun(client: Client, name: str) -> None:
    """Remove a container that the engine may be about to make."""
    for _ in range(_TRIES):
        try:
            client.containers.get(name).remove(force=True, v=True)
        except NotFound:
            time.sleep(_PAUSE)
        else:
            return


def command_output(container: Any, argv: list[str], **options: Any) -> str:
    """Standard output of a command in a running container. Raises CommandError with both streams when it fails."""
    code, (out, err) = container.exec_run(argv, demux=True, **options)
    if code != 0:
        text = ((out or b"") + (err or b"")).decode(errors="replace").strip()
        raise CommandError(f"{' '.join(argv)}: exit code {code}", details=text)
    return (out or b"").decode(errors="replace")


@dataclasses.dataclass(frozen=True)
class Idle:
    """A tag in the engine for an unused image of slipway. ``bytes`` are those of its layers, shared ones among them."""

    name: str
    bytes: int


def idle(client: Client, domain: str, now: float) -> tuple[Idle, ...]:
    """The images of ours in the engine that no container is made of, and no build used within ``_IDLE`` seconds.

    ``domain`` is that of images which only this project has.
    What is in a build of another checkout at this moment was used just now.
    """
    busy = {container["ImageID"] for container in client.api.containers(all=True)}
    images: list[Idle] = []
    for image in client.api.images(filters={"label": LABEL_KEY}):
        names = [name for name in image.get("RepoTags") or () if _is_ours(name, str(image["Labels"][LABEL_KEY]), domain)]
        if names and image["Id"] not in busy and now - _last_named(client, image) > _IDLE:
            images += [Idle(name, int(image["Size"]) if name == names[-1] else 0) for name in names]
    return tuple(sorted(images, key=lambda one: one.name))


def _is_ours(name: str, key: str, domain: str) -> bool:
    """Return True when slipway gave an image this name: an image built FROM it inherits the label. Older names had no key."""
    return name.endswith(f"-{key[:SHORT_KEY]}") or name.startswith(f"{domain}/")


def _last_named(client: Client, image: Mapping[str, Any]) -> float:
    """Time of the last tag of an image, in seconds since 1970; its creation where the engine does not record tags."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        named = datetime.datetime.fromisoformat(client.images.get(image["Id"]).attrs["Metadata"]["LastTagTime"])
        return max(named.timestamp(), float(image["Created"]))
    return float(image["Created"])

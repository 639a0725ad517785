"""Provider ``container``: machines that are privileged containers running systemd and sshd, on a network without a way out."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import http
import io
import ipaddress
import json
import secrets
import shutil
import socket
import tarfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import log
from harness.clusterfile import ROLES
from harness.errors import EngineError, UsageError
from harness.host import cluster_cache, docker, paths
from harness.nodes import GroupMember, Login, NodeGroup, groups
from harness.process import wait_for

IMAGE = "slipway.dev/node:13"
LABEL = "dev.slipway.nodes"
ROLE = "dev.slipway.role"

VOLUMES = ("/var/lib/containerd", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/slipway")
"""Places that must not lie on the container's own overlay: overlays do not stack, and a database wants a plain file system."""

BOOT_TIMEOUT = 120
"""Seconds until systemd has started everything and sshd answers."""

Container = Any  # the library's own class; only harness.host.docker imports it


@dataclasses.dataclass(frozen=True)
class _Plan:
    """Settings that all machines of a group share."""

    group: str
    image: str
    gateway: str
    ipv6: bool
    public: bytes
    labels: Mapping[str, str]


class ContainerProvider:
    """Makes groups of container machines. What exists is read from the engine's labels; only keys are kept on disk."""

    def __init__(self, client: docker.Client | None = None, home: Path | None = None) -> None:
        self._client = client
        self.home = home or paths.home()

    @property
    def client(self) -> docker.Client:
        if self._client is None:
            self._client = docker.connect()
        return self._client

    def up(
        self,
        name: str,
        control_plane: int,
        workers: int,
        *,
        image: str,
        labels: Mapping[str, str] | None = None,
        subnet: str | None = None,
    ) -> NodeGroup:
        """Make ``control_plane + workers`` machines and wait until they have booted and answer over SSH.

        ``image`` is the name of the node image (``IMAGE``) in the engine, ``labels`` are labels of the engine. ``subnet``, as
        192.168.0.0/24, is the network of the machines: its first address is the gateway, the next ones are those of the machines in
        their order. Without it, the engine chooses the addresses.
        Raises UsageError for a bad name or one in use and for a bad subnet, EngineError when the engine refuses or a machine does not boot.
        """
        groups.check(name, control_plane, workers)
        addresses = member_addresses(subnet, control_plane + workers) if subnet else []
        if self._containers(name):
            raise groups.exists_already(name, "container")
        lacking = groups.missing(name, (), control_plane, workers)
        try:
            with _refusals():
                # Of an earlier group, whose machines are gone.
                (self._folder(name) / groups.KEY).unlink(missing_ok=True)
                groups.keep_numbers(self._folder(name), {})
                network = self._network(_prefixed(name), {**(labels or {}), LABEL: name}, subnet)
                self._boot_all(self._plan(name, image, network, labels or {}), lacking, addresses)
        except BaseException:
            # Also on an interruption: half a group is of no use.
            self.down(name)
            raise
        return self._booted_group(name)

    def grow(self, name: str, control_plane: int, workers: int, *, image: str) -> NodeGroup:
        containers = self._containers(name)
        if not containers:
            return self.up(name, control_plane, workers, image=image)
        group = self._group(name, containers)
        lacking = groups.missing(name, group.members, control_plane, workers, group.numbers)
        waiting = {member.name for member in group.members if not member.booted}
        groups.keep_numbers(self._folder(name), group.numbers)
        try:
            with _refusals():
                plan = self._plan(name, image, self.client.networks.get(_prefixed(name)), {})
                _parallel(
                    lambda container: _start(container, plan, _hostname(container)),
                    [container for container in containers if _hostname(container) in waiting],
                )
                self._boot_all(plan, lacking, [])
        except BaseException:
            self.shrink(name, [hostname for hostname, _ in lacking])
            raise
        return self._booted_group(name)

    def shrink(self, name: str, members: Collection[str]) -> None:
        leaving = [container for container in self._containers(name) if _hostname(container) in members]
        addresses = [_address(container, name) for container in leaving]
        with _refusals():
            _parallel(_remove, leaving)
        cluster_cache.unpin(addresses, self.home)

    def _plan(self, name: str, image: str, network: Any, labels: Mapping[str, str]) -> _Plan:
        public = groups.public_key(self._folder(name))
        return _Plan(name, image, gateway(network), bool(network.attrs.get("EnableIPv6")), public, labels)

    def _boot_all(self, plan: _Plan, lacking: Sequence[tuple[str, str]], addresses: Sequence[str]) -> None:
        given: Sequence[str | None] = addresses or [None] * len(lacking)
        _parallel(lambda each: self._boot(plan, *each), [(*machine, address) for machine, address in zip(lacking, given, strict=True)])

    def _network(self, name: str, labels: Mapping[str, str], subnet: str | None) -> Any:
        """A network without a way out, with addresses of both families where the engine and its kernel can."""
        options: dict[str, Any] = {"driver": "bridge", "internal": True, "labels": labels}
        # Of a network with a given subnet the engine reports no gateway but a given one.
        own = [{"Subnet": subnet, "Gateway": str(ipaddress.IPv4Network(subnet)[1])}] if subnet else []
        dual = ipv6()
        dual["ipam"]["Config"] += own
        try:
            return self.client.networks.create(name, **options, **dual)
        except docker.APIError as refused:
            log.debug(f"{name} has no IPv6: {refused.explanation}")
            if own:
                options["ipam"] = {"Driver": "default", "Config": own}
            return self.client.networks.create(name, **options)

    def down(self, name: str) -> bool:
        groups.check_name(name)
        containers = self._containers(name)
        group = self._group(name, containers)
        with _refusals():
            _parallel(_remove, containers)
            networks = self.client.networks.list(filters={"label": f"{LABEL}={name}"})
            for network in networks:
                # As with the machines: another command may be removing it at the same time.
                with contextlib.suppress(docker.NotFound):
                    network.remove()
        folder = self._folder(name)
        exists = bool(containers or networks or folder.exists())
        shutil.rmtree(folder, ignore_errors=True)
        cluster_cache.unpin((member.address for member in group.members), self.home)
        return exists

    def list(self) -> tuple[NodeGroup, ...]:
        by_name: dict[str, Any] = {}
        with _refusals():
            for container in docker.all_containers(self.client, label=LABEL):
                by_name.setdefault(container.labels[LABEL], []).append(container)
        return tuple(self._group(name, containers) for name, containers in sorted(by_name.items()))

    def _folder(self, name: str) -> Path:
        return self.home / "nodes" / name

    def _containers(self, name: str) -> Sequence[Container]:
        with _refusals():
            return tuple(docker.all_containers(self.client, label=f"{LABEL}={name}"))

    def _group(self, name: str, containers: Sequence[Container]) -> NodeGroup:
        members = [GroupMember(_hostname(container), _address(container, name), _role(container)) for container in containers]
        kept = groups.kept_numbers(self._folder(name))
        numbers = groups.numbers(members) if kept is None else kept
        # Numbers are not used twice, so those above are of a command that was killed.
        members = [dataclasses.replace(one, booted=groups.number(one.name) <= numbers.get(one.role, 0)) for one in members]
        return NodeGroup(name, "container", groups.in_order(members), Login("root", key=self._folder(name) / groups.KEY), numbers)

    def _booted_group(self, name: str) -> NodeGroup:
        """The group, once all its machines have booted."""
        containers = self._containers(name)
        group = self._group(name, containers)
        groups.keep_numbers(self._folder(name), groups.numbers(group.members, group.numbers))
        return self._group(name, containers)

    def _boot(self, plan: _Plan, hostname: str, role: str, address: str | None) -> None:
        volumes: Any = [{"Type": "volume", "Target": place} for place in VOLUMES]
        container = self.client.containers.create(
            plan.image,
            name=_prefixed(hostname),
            hostname=hostname,
            labels={**plan.labels, LABEL: plan.group, ROLE: role},
            network=_prefixed(plan.group),
            networking_config={_prefixed(plan.group): self.client.api.create_endpoint_config(ipv4_address=address)} if address else None,
            privileged=True,
            cgroupns="private",
            # The engine's resolver asks other name servers on behalf of its containers, from wherever it can reach them: not for these.
            dns=["127.0.0.1"],
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            tmpfs={"/run": "exec,mode=755", "/tmp": "exec,mode=1777"},
            mounts=volumes,
            stop_signal="SIGRTMIN+3",
            # The engine switches IPv6 off for all interfaces but those that it makes.
            sysctls={"net.ipv6.conf.all.disable_ipv6": "0"} if plan.ipv6 else {},
            environment={"container": "docker"},
        )
        _start(container, plan, hostname)

    def restart(self, name: str) -> None:
        """Restart a machine as after a loss of power, with its disks, and wait until it answers over SSH.

        Raises EngineError when there is none of that name, or it does not boot.
        """
        with _refusals():
            container = self.client.containers.get(_prefixed(name))
            group = container.labels[LABEL]
            network = self.client.networks.get(_prefixed(group))
            container.restart(timeout=0)
            _settle(container, name, group, routes(gateway(network), ipv6=bool(network.attrs.get("EnableIPv6"))))


def _start(container: Container, plan: _Plan, hostname: str) -> None:
    """Start a machine and wait until it has booted. One that runs already, or has the key already, is left as it is."""
    container.put_archive("/", _authorized_keys(plan.public))
    container.start()
    _settle(container, hostname, plan.group, routes(plan.gateway, ipv6=plan.ipv6))


def _settle(container: Container, hostname: str, group: str, ways: Sequence[list[str]]) -> None:
    """Wait until a machine that was started has booted and answers over SSH; ``ways`` are the commands that give it its routes."""
    deadline = time.monotonic() + BOOT_TIMEOUT
    _until(lambda: _booted(container), deadline, hostname, "systemd has not started everything", container)
    # The engine drops what leaves this network. Without a route the kernel would not even try to send to the
    # addresses of services, which are rewritten on their way out.
    for argv in ways:
        docker.command_output(container, argv)
    container.reload()
    _until(lambda: _answers(_address(container, group)), deadline, hostname, "sshd does not answer", container)


def _hostname(container: Container) -> str:
    return str(container.attrs["Config"]["Hostname"])


def _role(container: Container) -> str:
    """The role in a machine's label, which an earlier slipway wrote in other words."""
    label: str = container.labels[ROLE]
    return ROLES.get(label, label)


def _prefixed(name: str) -> str:
    return f"slipway-{name}"


def _parallel(action: Callable[[Any], None], items: Sequence[Any]) -> None:
    """All at once; the first failure is raised after all have ended, so that what cleans up finds them still."""
    if not items:
        return
    with concurrent.futures.ThreadPoolExecutor(max_workers=min(8, len(items))) as pool:
        futures = [pool.submit(action, item) for item in items]
        wait_for(futures)
    for future in futures:
        future.result()


class _refusals(contextlib.AbstractContextManager[None]):  # noqa: N801 - used as a statement
    """Translate errors of the engine."""

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, docker.NotFound):
            raise EngineError(
                f"the engine does not have it: {error.explanation}", hint="make the node image: slipway nodes up does"
            ) from error
        if isinstance(error, docker.APIError):
            raise EngineError(f"the engine refuses: {error.explanation}", hint="its log says more") from error


def _remove(container: Container) -> None:
    # Another command may be removing it at the same time: then this one waits until it is gone.
    with contextlib.suppress(docker.NotFound):
        try:
            container.remove(force=True, v=True)
        except docker.APIError as refused:
            if refused.status_code != http.HTTPStatus.CONFLICT:
                raise
            container.wait(condition="removed")


def member_addresses(subnet: str, count: int) -> list[str]:
    """Addresses of ``count`` machines in a subnet, behind that of its gateway. Raises UsageError for one that is not valid or too small."""
    try:
        network = ipaddress.IPv4Network(subnet)
    except ValueError as wrong:
        hint = "write a network of IPv4 by its first address, as 192.168.0.0/24"
        raise UsageError(f"--subnet {subnet}: {subnet} is not a network", hint=hint) from wrong
    # The first address names the network, the second is the gateway, the last one is for all.
    if network.num_addresses < count + 3:
        raise UsageError(f"--subnet {subnet}: has no room for {count} machines and a gateway", hint="a shorter prefix has more addresses")
    return [str(network[2 + number]) for number in range(count)]


def gateway(network: Any) -> str:
    """The IPv4 address of the engine's machine on a network of it."""
    network.reload()
    ranges = (str(entry.get("Gateway") or "") for entry in network.attrs["IPAM"]["Config"])
    return next(address for address in ranges if address and ":" not in address).split("/", maxsplit=1)[0]


def ipv6() -> dict[str, Any]:
    """Options for a network that has IPv6 as well: unique local addresses that nothing else has (RFC 4193)."""
    prefix = ipaddress.IPv6Network((b"\xfd" + secrets.token_bytes(7) + bytes(8), 64))
    return {"enable_ipv6": True, "ipam": {"Driver": "default", "Config": [{"Subnet": str(prefix)}]}}


def routes(gateway: str, *, ipv6: bool) -> list[list[str]]:
    """Commands that give a machine routes. Of IPv6 the engine drops nothing that leaves, so there no route leads to a gateway."""
    commands = [["ip", "route", "replace", "default", "via", gateway]]
    if ipv6:
        commands += [["sh", "-c", "ip -6 route del default 2>/dev/null; ip -6 route add default dev eth0"]]
    return commands


def _address(container: Container, group: str) -> str:
    networks = container.attrs["NetworkSettings"]["Networks"]
    return str(networks.get(_prefixed(group), {}).get("IPAddress") or "")


def _authorized_keys(public: bytes) -> bytes:
    """A tar with /root/.ssh as sshd wants it."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, mode, data in (("root/.ssh", 0o700, None), ("root/.ssh/authorized_keys", 0o600, public)):
            entry = tarfile.TarInfo(path)
            entry.mode, entry.mtime = mode, int(time.time())
            entry.type, entry.size = (tarfile.DIRTYPE, 0) if data is None else (tarfile.REGTYPE, len(data))
            archive.addfile(entry, io.BytesIO(data or b""))
    return stream.getvalue()


def _booted(container: Container) -> bool:
    # Any end of it counts: a unit that failed makes it "degraded", which is a machine's daily life.
    _, output = container.exec_run(["systemctl", "is-system-running", "--wait"])
    return output.decode(errors="replace").strip() in {"running", "degraded"}


def _answers(address: str) -> bool:
    try:
        with socket.create_connection((address, 22), timeout=5) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def _until(condition: Callable[[], bool], deadline: float, hostname: str, complaint: str, container: Container) -> None:
    pause = 0.05
    while not condition():
        container.reload()
        if container.status != "running" or time.monotonic() > deadline:
            output = container.logs(tail=30).decode(errors="replace")
            state = json.dumps(container.attrs["State"].get("Error") or container.status)
            raise EngineError(f"node {hostname} did not boot: {complaint} ({state})", hint="see the log below", details=output)
        time.sleep(pause)
        pause = min(0.5, pause * 1.5)
    log.debug(f"{hostname}: ready")

"""Amazon EC2 as far as slipway uses it: moto behind a middleware that adds what moto leaves out, and what goes wrong in a cloud.

moto ignores a ClientToken, and makes MinCount machines. The middleware carries an order out once for each token, keeps a quota, throttles,
loses and spoils answers, and kills the client. Its machines are addresses that ``Machines`` gives: those of real container nodes.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import io
import os
import re
import shlex
import signal
import socket
import threading
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import yaml

from harness.nodes import NodeGroup
from harness.nodes.container import ContainerProvider
from harness.nodes.ssh import SshConnections

IMAGE, SIZE = "ami-12345678", "t3.large"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIASIMULATED",
    "AWS_SECRET_ACCESS_KEY": "simulated/secret/key",
    "AWS_DEFAULT_REGION": "eu-west-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}

Respond = Callable[[str, list[tuple[str, str]]], object]


@dataclasses.dataclass
class Answer:
    """An answer of EC2."""

    status: str
    body: bytes

    @classmethod
    def error(cls, status: str, code: str, message: str = "simulated") -> Answer:
        body = (
            f"<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>0</RequestID></Response>"
        )
        return cls(status, body.encode())


THROTTLED = Answer.error("503 Service Unavailable", "RequestLimitExceeded")
EXPIRED = Answer.error("400 Bad Request", "ExpiredToken", "the security token is expired")
LOST, UNREADABLE, EMPTY = "lost", "unreadable", "empty"
"""The request is carried out, and the connection ends; or its answer is half an answer; or one of another shape."""
KILL_BEFORE, KILL_AFTER = "kill before", "kill after"
"""The client is killed when its request has come; or once it has been carried out."""


class Machines(Protocol):
    """The machines behind instances."""

    def start(self, instances: Sequence[str], user_data: str) -> list[str]:
        """Begin to boot machines; return their addresses."""
        ...

    def stop(self, instances: Sequence[str]) -> None: ...


class Ec2Simulation:
    """A WSGI application before moto's. ``next`` has an entry for each coming request of an action: an answer, a fault, or None."""

    def __init__(self, app: Any, machines: Machines) -> None:
        self.app = app
        self.machines = machines
        self.calls: list[str] = []
        """Actions, each attempt once."""
        self.next: dict[str, list[Answer | str | None]] = {}
        self.always: Answer | None = None
        """The answer to every request."""
        self.quota = 1000
        self.client = 0
        """Process to kill."""
        self._answers: dict[str, Answer] = {}
        self._addresses: dict[bytes, bytes] = {}
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], respond: Respond) -> Iterable[bytes]:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        parameters = dict(urllib.parse.parse_qsl(body.decode()))
        with self._lock:
            action = parameters.get("Action", "")
            self.calls.append(action)
            waiting = self.next.get(action)
            fault = self.always or (waiting.pop(0) if waiting else None)
            if fault == KILL_BEFORE:
                os.kill(self.client, signal.SIGKILL)
            answer = fault if isinstance(fault, Answer) else self._carried_out(environ, parameters)
        if fault == KILL_AFTER:
            os.kill(self.client, signal.SIGKILL)
        if fault in (LOST, KILL_BEFORE, KILL_AFTER):
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionAbortedError("lost on purpose")
        body = {UNREADABLE: answer.body[: len(answer.body) // 2], EMPTY: b"<a/>"}.get(str(fault), answer.body)
        respond(answer.status, [("Content-Type", "text/xml"), ("Content-Length", str(len(body)))])
        return [body]

    def alive(self) -> set[str]:
        """Ids of instances that are not terminated."""
        from moto.ec2.models import ec2_backends

        return {
            instance.id
            for account in ec2_backends.values()
            for backend in account.values()
            for reservation in backend.reservations.values()
            for instance in reservation.instances
            if instance.state not in ("terminated", "shutting-down")
        }

    def vanish(self, identity: str) -> None:
        """Forget an instance, as EC2 does some time after its end."""
        from moto.ec2.models import ec2_backends

        for account in ec2_backends.values():
            for backend in account.values():
                for reservation in backend.reservations.values():
                    reservation.instances = [instance for instance in reservation.instances if instance.id != identity]

    def _carried_out(self, environ: dict[str, Any], parameters: dict[str, str]) -> Answer:
        action, token = parameters.get("Action"), parameters.get("ClientToken", "")
        if action == "RunInstances":
            if token in self._answers:
                return self._answers[token]
            room = self.quota - len(self.alive())
            if int(parameters["MinCount"]) > room:
                return Answer.error("400 Bad Request", "InstanceLimitExceeded", "your quota allows no more running instances")
            parameters = {**parameters, "MinCount": str(min(int(parameters["MaxCount"]), room))}
        answer = self._passed_on(environ, parameters)
        if answer.status.startswith("200"):
            if action == "RunInstances":
                self._start(answer, parameters)
            if action == "TerminateInstances":
                self.machines.stop([value for key, value in parameters.items() if key.startswith("InstanceId.")])
        for simulated, address in self._addresses.items():
            answer.body = answer.body.replace(b">" + simulated + b"<", b">" + address + b"<")
        if action == "RunInstances" and answer.status.startswith("200"):
            self._answers[token] = answer
        return answer

    def _passed_on(self, environ: dict[str, Any], parameters: dict[str, str]) -> Answer:
        body = urllib.parse.urlencode(parameters).encode()
        status: list[str] = []
        request = {**environ, "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)), "wsgi.input_terminated": True}
        parts = self.app(request, lambda line, headers, exc_info=None: status.append(line))
        return Answer(status[0], b"".join(parts))

    def _start(self, answer: Answer, parameters: dict[str, str]) -> None:
        instances = re.findall(rb"<instanceId>([^<]+)</instanceId>", answer.body)
        simulated = list(dict.fromkeys(re.findall(rb"<privateIpAddress>([^<]+)</privateIpAddress>", answer.body)))
        user_data = base64.b64decode(parameters.get("UserData", "")).decode()
        addresses = self.machines.start([each.decode() for each in instances], user_data)
        self._addresses |= dict(zip(simulated, (address.encode() for address in addresses), strict=True))


@contextlib.contextmanager
def simulated(machines: Machines) -> Iterator[tuple[Ec2Simulation, dict[str, str]]]:
    """EC2 on loopback, and the environment that leads to it."""
    # What is not used here takes most of the time of a start.
    os.environ["MOTO_EC2_LOAD_DEFAULT_AMIS"] = "false"
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log(self, *_: Any) -> None: ...

    simulation = Ec2Simulation(DomainDispatcherApplication(create_backend_app), machines)
    server = make_server("127.0.0.1", 0, simulation, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield simulation, {**ENVIRONMENT, "AWS_ENDPOINT_URL_EC2": f"http://127.0.0.1:{server.server_port}"}
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# ---- machines ----


def initialize(group: NodeGroup, folder: Path, user_data: str) -> None:
    """Do on the machines of a group what cloud-init does with user data: users, with sudo and keys."""
    if not user_data:
        return
    document = yaml.safe_load(user_data)
    with SshConnections(folder, [*group.control_plane, *group.workers]) as ssh:
        for node in ssh.connect():
            for user in (user for user in document["users"] if isinstance(user, dict)):
                name, keys = shlex.quote(user["name"]), "\n".join(user["ssh_authorized_keys"])
                node.run(
                    f"id {name} 2>/dev/null || useradd -m -s {shlex.quote(user['shell'])} {name}; mkdir -p ~{name}/.ssh;"
                    f"cat >> ~{name}/.ssh/authorized_keys; chown -R {name} ~{name};"
                    f"echo {name} {shlex.quote(user['sudo'])} > /etc/sudoers.d/{name}",
                    input=f"{keys}\n",
                )


class SharedNode:
    """One container node that answers under as many addresses as instances need: what counts is what goes to the cloud."""

    def __init__(self, provider: ContainerProvider, image: str, name: str, folder: Path) -> None:
        self.group = provider.up(name, 1, 0, image=image)
        self.folder = folder
        with SshConnections(folder / "addresses", self.group.control_plane) as ssh:
            (node,) = ssh.connect()
            subnet = self.group.members[0].address.rpartition(".")[0]
            self._free = [f"{subnet}.{number}" for number in range(20, 250)]
            node.run(f"for number in $(seq 20 249); do ip address add {subnet}.$number/32 dev eth0; done")

    def start(self, instances: Sequence[str], user_data: str) -> list[str]:
        initialize(self.group, self.folder / "ssh", user_data)
        # The oldest come last again.
        addresses, self._free = self._free[: len(instances)], [*self._free[len(instances) :], *self._free[: len(instances)]]
        return addresses

    def stop(self, instances: Sequence[str]) -> None: ...


class ContainerNodes:
    """A container node for each instance."""

    def __init__(self, provider: ContainerProvider, image: str, name: str, folder: Path) -> None:
        self.provider = provider
        self.image = image
        self.name = name
        self.folder = folder
        self.members: dict[str, str] = {}
        """Instance -> machine."""

    def start(self, instances: Sequence[str], user_data: str) -> list[str]:
        present = {member.name for group in self.provider.list() for member in group.members if group.name == self.name}
        group = self.provider.grow(self.name, 0, len(present) + len(instances), image=self.image)
        fresh = [member for member in group.members if member.name not in present]
        initialize(dataclasses.replace(group, members=tuple(fresh)), self.folder, user_data)
        self.members |= {instance: member.name for instance, member in zip(instances, fresh, strict=True)}
        return [member.address for member in fresh]

    def stop(self, instances: Sequence[str]) -> None:
        self.provider.shrink(self.name, [self.members[instance] for instance in instances if instance in self.members])
